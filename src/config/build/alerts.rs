//! Builds the [`Alert`]s, and looks at what they name.

use super::*;
use crate::config::fields::ALERT;
use crate::config::layers::{Draft, builtin};
use crate::config::value::Table;
use crate::config::{Alert, Daemon, On, Which};
use crate::connection::glob::glob;
use crate::connection::{Connection, State};

impl Build<'_> {
    pub(super) fn alerts(&mut self, items: &[Item]) -> Vec<Alert> {
        let mut alerts: Vec<Alert> = Vec::with_capacity(items.len());
        for (at, item) in items.iter().enumerate() {
            let Value::Table(written) = &item.value else {
                continue;
            };
            let mut table = builtin(ALERT);
            table.merge(written);
            let shown = match table.text("name") {
                Some(name) => format!("alert {name:?} "),
                None => format!("alert[{at}] "),
            };
            for (key, example) in
                [("name", "\"ops\""), ("on", "[\"disabled\"]"), ("to", "\"pager\"")]
            {
                if table.get(key).is_none() && !table.refused(&[key]) {
                    let message = format!("{key} is missing, write one as in {key} = {example}");
                    self.report.error(&item.place, &Reveal::Value, shown.trim_end(), message);
                }
            }
            let Some(name) = table.text("name") else { continue };
            if let Some(other) = alerts.iter().find(|one| one.name.eq_ignore_ascii_case(name)) {
                let message = format!("there is another alert {:?}; keep one of them", other.name);
                self.error_at(table.get("name"), &item.place, &format!("{shown}name"), message);
            }
            let alert = self.alert(name, &table, &item.place, &shown);
            alerts.push(alert);
        }
        alerts
    }

    fn alert(&mut self, name: &str, table: &Table, place: &Place, shown: &str) -> Alert {
        let mut on: Vec<On> = Vec::new();
        for word in table.list("on").iter().filter_map(Item::as_text) {
            let found = On::ALL.into_iter().find(|one| one.as_str() == word);
            on.extend(found.filter(|found| !on.contains(found)));
        }
        let threshold = match table.get("threshold").map(|item| &item.value) {
            Some(Value::Span(span)) => Some(*span),
            _ => None,
        };
        let known = !table.refused(&["on", "threshold"]);
        for (key, needs) in [("threshold", On::BacklogAge), ("which", On::DeliveryFailed)] {
            let Some(item) = table.written(key).filter(|_| known && !on.contains(&needs)) else {
                continue;
            };
            let message = format!(
                "means nothing without \"{word}\" in on; add that, or remove {key}",
                word = needs.as_str()
            );
            self.report.error(&item.place, &Reveal::Value, &format!("{shown}{key}"), message);
        }
        if known && on.contains(&On::BacklogAge) && threshold.is_none() {
            let message =
                "\"backlog_age\" needs a threshold, write one as in threshold = \"10m\"".to_owned();
            self.error_at(table.get("on"), place, &format!("{shown}on"), message);
        }
        let connections = table.list("connections").iter().filter_map(Item::as_text);
        Alert {
            name: name.to_owned(),
            on,
            which: match table.word("which") {
                "first" => Which::First,
                "both" => Which::Both,
                _ => Which::Final,
            },
            threshold,
            connections: connections.map(str::to_owned).collect(),
            to: table.text("to").unwrap_or_default().to_owned(),
            min_interval: table.span("min_interval"),
        }
    }

    /// The connections that alerts name: one that delivers must be there, a pattern should match something.
    pub(super) fn look_at_alerts(
        &mut self,
        drafts: &Drafts,
        daemon: &Daemon,
        connections: &[Arc<Connection>],
    ) {
        let named = |draft: &Draft| draft.table.text("name").map(str::to_owned);
        let names: Vec<String> = drafts.connections.iter().filter_map(named).collect();
        let to: Vec<&str> = daemon.alerts.iter().map(|alert| alert.to.as_str()).collect();
        for item in drafts.daemon.list("alert") {
            let Value::Table(written) = &item.value else {
                continue;
            };
            let path = format!("alert {:?} ", written.text("name").unwrap_or_default());
            self.look_at_receiver(written, &path, &names, connections);
            for pattern in written.list("connections") {
                let text = pattern.as_text().unwrap_or_default();
                let looks = |name: &String| glob(text, name) && !to.contains(&name.as_str());
                if names.iter().any(looks) {
                    continue;
                }
                let message = if names.iter().any(|name| glob(text, name)) {
                    format!(
                        "{text:?} matches only what alerts are sent to, which is never looked at"
                    )
                } else {
                    format!("{text:?} matches no connection")
                };
                let path = format!("{path}connections");
                self.report.warn(&pattern.place, &Reveal::Value, &path, message);
            }
        }
    }

    fn look_at_receiver(
        &mut self,
        written: &Table,
        path: &str,
        names: &[String],
        connections: &[Arc<Connection>],
    ) {
        let Some(item) = written.get("to") else { return };
        let Some(to) = item.as_text() else { return };
        let path = format!("{path}to");
        if !names.iter().any(|name| name == to) {
            let all: Vec<String> =
                names.iter().take(NAMED_MAX).map(|name| format!("{name:?}")).collect();
            let mend = match all.is_empty() {
                true => "there is none yet".to_owned(),
                false => format!("there are {}", all.join(", ")),
            };
            let message = format!("there is no connection {to:?} that could deliver it; {mend}");
            self.report.error(&item.place, &Reveal::Value, &path, message);
        } else if connections.iter().any(|one| one.name == to && one.state == State::Disabled) {
            let message = format!("the connection {to:?} is disabled, so nobody is told");
            self.report.warn(&item.place, &Reveal::Value, &path, message);
        }
    }
}

/// Connections that an error names at most.
const NAMED_MAX: usize = 8;
