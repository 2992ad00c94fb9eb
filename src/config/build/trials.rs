//! `[[connection.test]]`: sample events and what must come of them. A test that fails is an error of the configuration, at the
//! place of what was expected: so `check` shows it, a start refuses it, and a reload leaves the old configuration in force.

use http::HeaderName;

use super::*;
use crate::config::layers::Draft;
use crate::config::tree::{Tree, What};
use crate::config::value::Table;
use crate::connection::Connection;
use crate::connection::json::Json;
use crate::connection::parts::Parts;
use crate::connection::sample::{Sample, Sent};

/// Characters of a value that a message shows.
const SHOWN_MAX: usize = 200;

/// One test, for its errors.
struct Trial<'t> {
    table: &'t Table,
    place: &'t Place,
    /// `connection "crm" test[0]`
    path: String,
}

impl Build<'_> {
    /// Runs the tests of a connection that has no errors of its own.
    pub(super) fn trials(&mut self, draft: &Draft, connection: &Connection) {
        for (at, item) in draft.table.list("test").iter().enumerate() {
            let Value::Table(table) = &item.value else {
                continue;
            };
            let trial =
                Trial { table, place: &item.place, path: format!("{}test[{at}]", draft.path) };
            let before = self.report.errors.len();
            let Some(sample) = self.sample(&trial, connection) else {
                continue;
            };
            self.judge(&trial, connection, &sample);
            if let Some(name) = table.text("name") {
                for error in self.report.errors.iter_mut().skip(before) {
                    error.message = format!("test {name:?}: {}", error.message);
                }
            }
        }
    }

    fn sample(&mut self, trial: &Trial<'_>, connection: &Connection) -> Option<Sample> {
        for key in ["event", "expect"] {
            if trial.table.get(key).is_none() && !trial.table.refused(&[key]) {
                let message = format!("{key} is missing, write one as in {key} = {{ … }}");
                self.report.error(trial.place, &Reveal::Value, &trial.path, message);
            }
        }
        trial.table.get("expect")?;
        trial.table.get("event")?;
        let event = trial.table.table("event");
        let body = event.tree("body").map_or(Vec::new(), bytes_of);
        let source = connection.sources.first().map_or("default", String::as_str);
        let mut sample = Sample::json(source, body);
        event.text("type").unwrap_or_default().clone_into(&mut sample.kind);
        event.text("path").unwrap_or_default().clone_into(&mut sample.path);
        event.text("query").unwrap_or_default().clone_into(&mut sample.query);
        if let Some(method) = event.text("method") {
            method.clone_into(&mut sample.method);
        }
        for (name, place, value) in entries(event.tree("headers")) {
            match (&value.what, name.parse::<HeaderName>()) {
                (What::Text(text), Ok(_)) => sample.set_header(name, text),
                _ => {
                    let path = format!("{}.event.headers.{name}", trial.path);
                    let message = "is not a header with a string".to_owned();
                    self.report.error(place, &Reveal::Value, &path, message);
                    return None;
                }
            }
        }
        Some(sample)
    }

    fn judge(&mut self, trial: &Trial<'_>, connection: &Connection, sample: &Sample) {
        let expect = trial.table.table("expect");
        let event = sample.event();
        let filter = connection.payload.as_ref().and_then(|payload| payload.filter.as_ref());
        let (passes, reasons) = filter.map_or((true, Vec::new()), |filter| {
            let (judgement, reasons) = filter.explain(&Parts::new(&event));
            (judgement.matches, reasons)
        });
        if let Some(wanted) = expect.flag("pass")
            && wanted != passes
        {
            let message = match wanted {
                true => format!("the filter does not let it through: {}", reasons.join("; ")),
                false => "the filter lets it through".to_owned(),
            };
            self.differs(trial, &expect, "pass", message);
        }
        let asks_for_request = ["cause", "method", "url", "headers", "body"]
            .iter()
            .any(|key| expect.get(key).is_some());
        if !asks_for_request {
            return;
        }
        let cause = expect.text("cause");
        match (connection.would_send(&event), cause) {
            (Ok(_), Some(cause)) => {
                let message = format!("it can be sent, wanted a dead letter of the cause {cause}");
                self.differs(trial, &expect, "cause", message);
            }
            (Ok(sent), None) => self.compare(trial, &expect, &sent),
            (Err(unsendable), Some(cause)) if unsendable.cause.as_str() == cause => {}
            (Err(unsendable), _) => {
                let message = format!(
                    "it would be a dead letter, cause {}: {}",
                    unsendable.cause.as_str(),
                    unsendable.detail
                );
                self.differs(trial, &expect, "cause", message);
            }
        }
    }

    fn compare(&mut self, trial: &Trial<'_>, expect: &Table, sent: &Sent) {
        for (key, is) in [("method", sent.method.as_str()), ("url", sent.url.as_str())] {
            if let Some(wanted) = expect.text(key)
                && wanted != is
            {
                let message = format!("is {is:?}, wanted {wanted:?}");
                self.differs(trial, expect, key, message);
            }
        }
        for (name, place, wanted) in entries(expect.tree("headers")) {
            let path = format!("{}.expect.headers.{name}", trial.path);
            if let Some(message) = self.header_differs(name, wanted, sent) {
                self.report.error(place, &Reveal::Value, &path, message);
            }
        }
        if let Some(wanted) = expect.tree("body")
            && !same_body(wanted, &sent.body)
        {
            let is = String::from_utf8_lossy(&sent.body);
            let wanted = String::from_utf8_lossy(&bytes_of(wanted)).into_owned();
            let message = format!("is {}, wanted {}", cut(&is), cut(&wanted));
            self.differs(trial, expect, "body", message);
        }
    }

    /// How a header differs from what is wanted. Secrets are compared and never shown; unread ones are not compared.
    fn header_differs(&self, name: &str, wanted: &Tree, sent: &Sent) -> Option<String> {
        let lower = name.to_ascii_lowercase();
        let values: Vec<_> = sent
            .headers
            .iter()
            .filter(|(known, _)| known.as_str() == lower)
            .map(|(_, v)| v)
            .collect();
        let secret = values.iter().any(|value| value.is_sensitive());
        match &wanted.what {
            What::Bool(false) if values.is_empty() => None,
            What::Bool(false) => Some("is there, wanted none".to_owned()),
            _ if values.is_empty() => Some("is not there".to_owned()),
            What::Bool(true) => None,
            _ if secret && self.options.secrets == Secrets::Skip => None,
            What::Text(text) if values.iter().any(|value| value.as_bytes() == text.as_bytes()) => {
                None
            }
            What::Text(_) if secret => Some("has another value".to_owned()),
            What::Text(text) => {
                let is: Vec<_> =
                    values.iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
                Some(format!("is {:?}, wanted {text:?}", is.join(", ")))
            }
            _ => Some("write a string, true or false".to_owned()),
        }
    }

    /// An error at what was expected, or at the test where nothing was written.
    fn differs(&mut self, trial: &Trial<'_>, expect: &Table, key: &str, message: String) {
        let item = expect.get(key);
        let path = format!("{}.expect.{key}", trial.path);
        self.error_at(item, trial.place, &path, message);
    }
}

fn entries(tree: Option<&Tree>) -> &[(String, Place, Tree)] {
    match tree.map(|tree| &tree.what) {
        Some(What::Map(entries)) => entries,
        _ => &[],
    }
}

/// A string as it is, anything else as JSON.
fn bytes_of(tree: &Tree) -> Vec<u8> {
    match &tree.what {
        What::Text(text) => text.clone().into_bytes(),
        _ => tree.to_json().to_string().into_bytes(),
    }
}

fn same_body(wanted: &Tree, body: &[u8]) -> bool {
    match &wanted.what {
        What::Text(text) => text.as_bytes() == body,
        _ => Json::parse(body).is_ok_and(|body| body.equals(&wanted.to_json())),
    }
}

fn cut(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN_MAX).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}
