//! In which order a connection's events go out, where that matters: in the order of acceptance, one at a time.

use std::hash::{DefaultHasher, Hash, Hasher};

use http::HeaderName;

use super::keeps::Keeps;
use super::path::{Path, Scalar};
use crate::event::Event;

/// The order of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ordering {
    /// What goes one after the other.
    pub by: By,
    /// What happens when one becomes a dead letter.
    pub on_dead: OnDead,
}

/// What goes one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// All events of the connection.
    Connection,
    /// Those with the same value at this path.
    Key(Path),
}

/// What happens when an event that others stand behind becomes a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnDead {
    /// The next one goes.
    #[default]
    Skip,
    /// The connection is held until somebody resumes it.
    Halt,
}

/// Which line of a connection an event stands in: a hash of its key. Where two keys share one, their events wait for each
/// other, and no more comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LineKey(u64);

impl Ordering {
    /// What of a request the key needs.
    pub fn keeps(&self) -> Keeps {
        let By::Key(path) = &self.by else {
            return Keeps::default();
        };
        let header = path.header().and_then(|name| HeaderName::from_bytes(name.as_bytes()).ok());
        Keeps { headers: header.into_iter().collect(), path: false, query: path.reads_query() }
    }
}

impl By {
    /// The line of all events, where there is only one.
    pub fn only_line(&self) -> Option<LineKey> {
        match self {
            By::Connection => Some(LineKey(0)),
            By::Key(_) => None,
        }
    }

    /// The line that an event stands in. `None`: it has no key, because there is nothing at the path, or null, an object, an
    /// array, or because the body is not JSON. Always the same for the same event.
    pub fn line(&self, event: &Event) -> Option<LineKey> {
        let By::Key(path) = self else {
            return self.only_line();
        };
        let key = path.find(event).ok().filter(|key| *key != Scalar::Null)?;
        let mut hasher = DefaultHasher::new();
        key.text().hash(&mut hasher);
        Some(LineKey(hasher.finish()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::testing::event;

    fn line(path: &str, body: &str) -> Option<LineKey> {
        By::Key(Path::parse(path).unwrap()).line(&event(body.as_bytes()))
    }

    #[test]
    fn the_same_key_is_the_same_line_whatever_is_around_it() {
        let a = line("body.a.b", r#"{"a":{"b":"k1","c":1}}"#);
        assert!(a.is_some());
        assert_eq!(a, line("body.a.b", r#"{"z":[1],"a":{"c":2,"b":"k1"}}"#));
        assert_ne!(a, line("body.a.b", r#"{"a":{"b":"k2"}}"#));
        assert_eq!(line("body.n", r#"{"n":7}"#), line("body.n", r#"{"n":"7"}"#), "by its text");
        assert_ne!(line("body.n", r#"{"n":7}"#), line("body.n", r#"{"n":8}"#));
    }

    #[test]
    fn events_keep_what_the_key_needs() {
        let keeps = |path| {
            let by = By::Key(Path::parse(path).unwrap());
            Ordering { by, on_dead: OnDead::Skip }.keeps()
        };
        assert_eq!(keeps("headers.X-Tenant").headers, ["x-tenant"]);
        assert!(keeps("query.tenant").query);
        assert_eq!(keeps("body.a"), Keeps::default());
    }

    #[test]
    fn an_event_without_a_key_stands_in_no_line() {
        for body in [r#"{"b":1}"#, r#"{"a":null}"#, r#"{"a":{}}"#, r#"{"a":[1]}"#, "text", ""] {
            assert_eq!(line("body.a", body), None, "{body}");
        }
        assert!(By::Connection.line(&event(b"text")).is_some(), "strict asks for no key");
    }
}
