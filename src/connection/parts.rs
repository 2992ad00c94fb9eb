//! An event as rules look at it: body, headers, path and query as JSON values, each read at most once, and only when a rule
//! asks for it.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::fmt;

use super::json::{Json, Malformed};
use super::path::is_encoded;
use crate::event::Event;

/// What is read of one event so far.
#[derive(Debug)]
pub struct Parts<'e> {
    event: &'e Event,
    body: OnceCell<Result<Json<'e>, NotJson>>,
    headers: OnceCell<Json<'e>>,
    path: OnceCell<Json<'e>>,
    query: OnceCell<Json<'e>>,
}

/// Why a body is not looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotJson {
    /// It has a `content-encoding`: encoded bytes are never decoded here.
    Encoded,
    /// It does not parse.
    Malformed(Malformed),
}

impl fmt::Display for NotJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotJson::Encoded => f.write_str("the body has a content-encoding"),
            NotJson::Malformed(error) => write!(f, "the body is not JSON: {error}"),
        }
    }
}

impl<'e> Parts<'e> {
    /// Of this event. Reads nothing yet.
    pub fn new(event: &'e Event) -> Parts<'e> {
        Parts {
            event,
            body: OnceCell::new(),
            headers: OnceCell::new(),
            path: OnceCell::new(),
            query: OnceCell::new(),
        }
    }

    /// The event itself.
    pub fn event(&self) -> &'e Event {
        self.event
    }

    /// The body, if it is JSON, whatever its `content-type` says.
    ///
    /// # Errors
    /// Why it is not.
    pub fn body(&self) -> Result<&Json<'e>, &NotJson> {
        let read = || {
            if is_encoded(self.event) {
                return Err(NotJson::Encoded);
            }
            Json::parse(self.event.content.body_bytes()).map_err(NotJson::Malformed)
        };
        self.body.get_or_init(read).as_ref()
    }

    /// The first value of a header that was kept; its name in lower case.
    pub fn header(&self, name: &str) -> Option<&'e [u8]> {
        self.event.content.headers().find(|(kept, _)| *kept == name).map(|(_, value)| value)
    }

    /// The headers that were kept: names in lower case with strings, or with an array where a header repeats. Bytes that are not
    /// UTF-8 are replaced.
    pub fn headers(&self) -> &Json<'e> {
        self.headers.get_or_init(|| {
            let kept = self.event.content.headers().filter(|(name, _)| !name.starts_with(':'));
            object(kept.map(|(name, value)| (Cow::Borrowed(name), String::from_utf8_lossy(value))))
        })
    }

    /// The path below the source's own; empty where there was none.
    pub fn path(&self) -> &Json<'e> {
        self.path.get_or_init(|| {
            Json::Text(String::from_utf8_lossy(self.header(":path").unwrap_or_default()))
        })
    }

    /// The query's parameters: strings, or an array where one repeats.
    pub fn query(&self) -> &Json<'e> {
        self.query.get_or_init(|| {
            let query = self.header(":query").unwrap_or_default();
            object(url::form_urlencoded::parse(query))
        })
    }
}

/// At most so many headers or parameters of an event are looked at: more than a request's head can hold.
const MEMBERS_MAX: usize = 1_000;

/// An object of strings; what repeats becomes an array.
fn object<'a>(pairs: impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)>) -> Json<'a> {
    let mut members: Vec<(Cow<'a, str>, Json<'a>)> = Vec::new();
    for (name, value) in pairs.take(MEMBERS_MAX) {
        let value = Json::Text(value);
        match members.iter_mut().find(|(known, _)| *known == name) {
            None => members.push((name, value)),
            Some((_, Json::Array(values))) => values.push(value),
            Some((_, one)) => {
                let first = std::mem::replace(one, Json::Null);
                *one = Json::Array(vec![first, value]);
            }
        }
    }
    Json::Object(members)
}

#[cfg(test)]
pub(crate) mod testing {
    use crate::clock::Age;
    use crate::event::{ContentBuilder, Event, EventId};

    /// An event of the source `shop` with a body, its usual headers and these.
    pub(crate) fn event_with(headers: &[(&str, &str)], body: &str) -> Event {
        let mut builder = ContentBuilder::new("shop", "order.created", "", body.len());
        for (name, value) in headers {
            builder.header(name, value.as_bytes());
        }
        builder.body(body.as_bytes());
        Event {
            id: EventId::new(1_700_000_000_000, &mut fastrand::Rng::with_seed(1)),
            accepted_ms: 1_700_000_000_000,
            accepted_age: Age(0),
            content: builder.finish(),
        }
    }

    /// The same with headers, a path and a query that tests ask for.
    pub(crate) fn event(body: &str) -> Event {
        let headers = [
            ("content-type", "application/json"),
            ("x-tenant", "acme"),
            ("x-tag", "a"),
            ("x-tag", "b"),
            (":path", "/orders/7"),
            (":query", "page=2&tag=a&tag=b%20c&empty="),
        ];
        event_with(&headers, body)
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{event, event_with};
    use super::*;

    #[test]
    fn headers_path_and_query_are_values() {
        let event = event("{}");
        let parts = Parts::new(&event);
        assert_eq!(
            parts.headers().to_string(),
            r#"{"content-type":"application/json","x-tenant":"acme","x-tag":["a","b"]}"#
        );
        assert_eq!(parts.path().to_string(), "\"/orders/7\"");
        assert_eq!(parts.query().to_string(), r#"{"page":"2","tag":["a","b c"],"empty":""}"#);
        let bare = event_with(&[], "{}");
        let parts = Parts::new(&bare);
        assert_eq!(parts.path().to_string(), "\"\"");
        assert_eq!(parts.query().to_string(), "{}");
    }

    #[test]
    fn an_encoded_body_is_not_looked_at() {
        let gzip = event_with(&[("content-encoding", "gzip")], "{}");
        assert_eq!(Parts::new(&gzip).body(), Err(&NotJson::Encoded));
        let identity = event_with(&[("content-encoding", "identity")], "{}");
        assert!(Parts::new(&identity).body().is_ok());
        let text = event_with(&[("content-type", "text/plain")], "[1]");
        assert!(Parts::new(&text).body().is_ok());
        let odd = event_with(&[], "{");
        let shown = Parts::new(&odd).body().unwrap_err().to_string();
        assert_eq!(shown, "the body is not JSON: a name in quotes was expected at byte 1");
    }
}
