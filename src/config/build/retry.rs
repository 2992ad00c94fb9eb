//! Builds the [`RetryPolicy`].

use std::time::Duration;

use super::connection::statuses;
use super::*;
use crate::config::layers::Draft;
use crate::config::value::{Table, Value};
use crate::connection::retry::{Jitter, RetryPolicy, Strategy};
use crate::connection::status::StatusSet;
use crate::units::HumanDuration;

/// Keys that mean something with some strategies only.
const APPLIES: [(&str, &[&str]); 4] = [
    ("interval", &["exponential", "linear"]),
    ("factor", &["exponential"]),
    ("max_interval", &["exponential"]),
    ("schedule", &["schedule"]),
];

impl Build<'_> {
    pub(super) fn retry(&mut self, draft: &Draft) -> RetryPolicy {
        let table = draft.table.table("retry");
        let strategy = self.strategy(draft, &table);
        self.without_effect(draft, &table);
        let jitter = match (table.text("jitter"), &strategy) {
            (Some("none"), _) => Jitter::None,
            (Some("equal"), _) => Jitter::Equal,
            (Some(_), _) | (None, Strategy::Exponential { .. }) => Jitter::Full,
            (None, _) => Jitter::None,
        };
        RetryPolicy {
            strategy,
            jitter,
            count: table.whole32("count"),
            max_age: table.span("max_age"),
            on_status: statuses(&table, "on_status").unwrap_or_else(StatusSet::retry),
            retry_after_max: table.span("retry_after_max"),
        }
    }

    fn strategy(&mut self, draft: &Draft, table: &Table) -> Strategy {
        let interval = table.span("interval");
        match table.word("strategy") {
            "linear" => Strategy::Linear { interval },
            "schedule" => Strategy::Schedule(self.schedule(draft, table)),
            "none" => Strategy::None,
            _ => {
                self.interval_within(draft, table);
                Strategy::Exponential {
                    interval,
                    factor: table.number("factor"),
                    max_interval: table.span("max_interval"),
                }
            }
        }
    }

    fn schedule(&mut self, draft: &Draft, table: &Table) -> Vec<Duration> {
        if table.get("schedule").is_none() && !table.refused(&["schedule"]) {
            let message =
                "schedule is missing, write one as in schedule = [\"5s\", \"5m\", \"30m\"]";
            let path = format!("{}retry", draft.path);
            self.error_at(table.get("strategy"), &draft.place, &path, message.to_owned());
        }
        let span = |item: &Item| match item.value {
            Value::Span(span) => Some(span),
            _ => None,
        };
        table.list("schedule").iter().filter_map(span).collect()
    }

    fn interval_within(&mut self, draft: &Draft, table: &Table) {
        let (interval, max) = (table.span("interval"), table.span("max_interval"));
        if interval > max && !table.refused(&["interval", "max_interval"]) {
            let message = format!(
                "{} is longer than retry.max_interval ({}); lower it or raise that",
                HumanDuration(interval),
                HumanDuration(max)
            );
            let written = table.written("interval").or(table.written("max_interval"));
            let path = format!("{}retry.interval", draft.path);
            self.error_at(written, &draft.place, &path, message);
        }
    }

    /// Warns about keys that the strategy does not use, where they stand in the connection's own file: `[defaults]` may well
    /// set them for others.
    fn without_effect(&mut self, draft: &Draft, table: &Table) {
        let strategy = table.word("strategy");
        for (key, strategies) in APPLIES {
            let own =
                table.written(key).filter(|item| item.place.file.path == draft.place.file.path);
            if let Some(item) = own.filter(|_| !strategies.contains(&strategy)) {
                let message = format!("has no effect with strategy = {strategy:?}");
                let path = format!("{}retry.{key}", draft.path);
                self.report.warn(&item.place, &Reveal::Value, &path, message);
            }
        }
    }
}
