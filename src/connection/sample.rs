//! Sample events: what a connection would make of them, without a store and without sending anything. For `[[connection.test]]`
//! and for the command line.

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Method};

use super::Connection;
use super::payload::Unsendable;
use super::payload::sends_body;
use crate::clock::Age;
use crate::event::{ContentBuilder, Event, EventId};

/// An event as a producer would post it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The source it is posted to.
    pub source: String,
    /// Its type; empty: none.
    pub kind: String,
    /// The method of the post.
    pub method: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// What stands below the source's path; empty: nothing.
    pub path: String,
    /// The query, without its `?`; empty: none.
    pub query: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Sample {
    /// A post of these bytes as JSON.
    pub fn json(source: &str, body: Vec<u8>) -> Sample {
        Sample {
            source: source.to_owned(),
            kind: String::new(),
            method: "POST".to_owned(),
            headers: vec![(CONTENT_TYPE.as_str().to_owned(), "application/json".to_owned())],
            path: String::new(),
            query: String::new(),
            body,
        }
    }

    /// Sets a header, in the place of another one of the name.
    pub fn set_header(&mut self, name: &str, value: &str) {
        let name = name.to_ascii_lowercase();
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value.to_owned()));
    }

    /// The event that would be accepted, with an id that is always the same. It keeps all headers.
    pub fn event(&self) -> Event {
        let mut builder = ContentBuilder::new(&self.source, &self.kind, "", self.body.len());
        for (name, value) in &self.headers {
            builder.header(name, value.as_bytes());
        }
        if self.method != "POST" {
            builder.header(":method", self.method.as_bytes());
        }
        for (name, value) in [(":path", &self.path), (":query", &self.query)] {
            if !value.is_empty() {
                builder.header(name, value.as_bytes());
            }
        }
        builder.body(&self.body);
        Event {
            id: EventId(uuid::Uuid::from_u128(0x0199_0000_0000_7000_8000_0000_0000_0001)),
            accepted_ms: 0,
            accepted_age: Age(0),
            content: builder.finish(),
        }
    }
}

/// A request as a connection would send it, without what differs from attempt to attempt, credentials and signatures.
#[derive(Clone, Debug, PartialEq)]
pub struct Sent {
    /// Its method.
    pub method: Method,
    /// Its URL.
    pub url: String,
    /// Its headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Its body.
    pub body: Bytes,
}

impl Connection {
    /// The first request for an event.
    ///
    /// # Errors
    /// [`Unsendable`]
    pub fn would_send(&self, event: &Event) -> Result<Sent, Unsendable> {
        let shaped = self.shape(event, 1)?;
        let scheme = if self.target.tls { "https" } else { "http" };
        let authority = self.target.authority.to_str().unwrap_or_default();
        let mut headers = self.headers.clone();
        headers.extend(shaped.headers);
        let is_set = |headers: &[(HeaderName, HeaderValue)], name: &str| {
            headers.iter().any(|(known, _)| known.as_str() == name)
        };
        let body = match shaped.body {
            Some(body) => body,
            None => event.content.body(),
        };
        if sends_body(&shaped.method) {
            if let Some(value) = shaped.content_type
                && !is_set(&headers, CONTENT_TYPE.as_str())
            {
                headers.push((CONTENT_TYPE, value));
            }
            let own = headers.clone();
            for (name, value) in event.content.headers() {
                let goes_on =
                    name == CONTENT_TYPE || name == CONTENT_ENCODING || name.starts_with("ce-");
                if goes_on
                    && !is_set(&own, name)
                    && let (Ok(name), Ok(value)) = (name.parse(), HeaderValue::from_bytes(value))
                {
                    headers.push((name, value));
                }
            }
        }
        Ok(Sent {
            method: shaped.method,
            url: format!("{scheme}://{authority}{}", shaped.path_and_query),
            headers,
            body,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::testing::connection;

    #[test]
    fn a_sample_is_sent_as_an_event_would_be() {
        let mut connection = connection("crm", "http://example.com:81/{{ event.type }}?x=1");
        let own = (HeaderName::from_static("x-own"), HeaderValue::from_static("1"));
        connection.headers.push(own);
        let mut sample = Sample::json("shop", b"{}".to_vec());
        sample.kind = "order.created".to_owned();
        sample.set_header("CE-Id", "7");
        sample.set_header("x-other", "not forwarded");
        let sent = connection.would_send(&sample.event()).unwrap();
        assert_eq!(sent.url, "http://example.com:81/order.created?x=1");
        assert_eq!(sent.method, Method::POST);
        assert_eq!(sent.body, "{}");
        let names: Vec<&str> = sent.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["x-own", "content-type", "ce-id"]);
    }
}
