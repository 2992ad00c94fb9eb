//! The outbound request: what can be made once per connection is, the rest is filled in per attempt.

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use http_body_util::Full;

use crate::connection::Connection;
use crate::event::{Event, EventId};
use crate::store::feed::Lane;

/// The body of every request: the event's bytes, shared, not copied.
pub(super) type Body = Full<Bytes>;

const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const ATTEMPT: HeaderName = HeaderName::from_static("posthaste-attempt");
const REPLAY: HeaderName = HeaderName::from_static("posthaste-replay");
const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("posthaste/", env!("CARGO_PKG_VERSION")));
const EMPTY: HeaderValue = HeaderValue::from_static("");

/// What all requests of one connection share.
#[derive(Debug)]
pub(super) struct Template {
    method: Method,
    uri: Uri,
    /// With empty places for what differs, so that filling them in neither grows nor rehashes the copy.
    headers: HeaderMap,
    sends_body: bool,
    /// The connection's own headers say what the content is; the event's do not count.
    own_content_type: bool,
}

/// What differs from attempt to attempt.
#[derive(Debug)]
pub(super) struct Particulars {
    /// This attempt's number, from 1.
    pub(super) attempt: u32,
    pub(super) lane: Lane,
    /// Unix seconds of this attempt.
    pub(super) timestamp: HeaderValue,
}

impl Template {
    pub(super) fn new(connection: &Connection) -> Template {
        let sends_body = !matches!(connection.method, Method::GET | Method::HEAD);
        let mut headers = HeaderMap::with_capacity(connection.headers.len() + 8);
        let host = connection.host_header.as_ref().unwrap_or(&connection.target.authority);
        headers.insert(HOST, host.clone());
        headers.insert(USER_AGENT, AGENT);
        let mut own_content_type = false;
        let mut named: Vec<&HeaderName> = Vec::new();
        for (name, value) in &connection.headers {
            own_content_type |= name == CONTENT_TYPE;
            // The first value of a name takes the place of ours; more of the same name are repeated.
            if named.contains(&name) {
                headers.append(name, value.clone());
            } else {
                headers.insert(name, value.clone());
                named.push(name);
            }
        }
        for name in [WEBHOOK_ID, WEBHOOK_TIMESTAMP, ATTEMPT] {
            headers.insert(name, EMPTY);
        }
        if sends_body && !own_content_type {
            headers.insert(CONTENT_TYPE, EMPTY);
        }
        Template {
            method: connection.method.clone(),
            uri: Uri::from(connection.target.path_and_query.clone()),
            headers,
            sends_body,
            own_content_type,
        }
    }

    /// The request of one attempt.
    pub(super) fn request(&self, event: &Event, particulars: &Particulars) -> Request<Body> {
        let mut headers = self.headers.clone();
        headers.insert(WEBHOOK_ID, id_value(event.id));
        headers.insert(WEBHOOK_TIMESTAMP, particulars.timestamp.clone());
        headers.insert(ATTEMPT, attempt_value(particulars.attempt));
        if particulars.lane == Lane::Replay {
            headers.insert(REPLAY, HeaderValue::from_static("true"));
        }
        let body = if self.sends_body {
            self.describe_content(event, &mut headers);
            event.content.body()
        } else {
            Bytes::new()
        };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = headers;
        request
    }

    fn describe_content(&self, event: &Event, headers: &mut HeaderMap) {
        let mut typed = self.own_content_type;
        for (name, value) in event.content.headers() {
            let Ok(value) = HeaderValue::from_bytes(value) else {
                continue;
            };
            if name == "content-type" && !typed {
                headers.insert(CONTENT_TYPE, value);
                typed = true;
            } else if name == "content-encoding" {
                headers.append(CONTENT_ENCODING, value);
            }
        }
        if !typed {
            headers.remove(CONTENT_TYPE);
        }
    }
}

fn id_value(id: EventId) -> HeaderValue {
    let mut text = *b"evt_00000000-0000-0000-0000-000000000000";
    if let Some(uuid) = text.get_mut(4..) {
        id.0.as_hyphenated().encode_lower(uuid);
    }
    HeaderValue::from_bytes(&text).unwrap_or(EMPTY)
}

fn attempt_value(attempt: u32) -> HeaderValue {
    match attempt {
        1 => HeaderValue::from_static("1"),
        more => HeaderValue::from(more),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::testing::{connection, event};

    fn request(connection: &Connection, attempt: u32, lane: Lane) -> Request<Body> {
        let particulars =
            Particulars { attempt, lane, timestamp: HeaderValue::from_static("1700000000") };
        Template::new(connection).request(&event(b"{\"a\":1}"), &particulars)
    }

    #[test]
    fn every_request_says_what_it_carries() {
        let connection = connection("crm", "http://example.com:81/hooks?x=1");
        let made = request(&connection, 1, Lane::New);
        assert_eq!(made.uri(), "/hooks?x=1");
        assert_eq!(made.method(), Method::POST);
        let headers = made.headers();
        let agent = format!("posthaste/{}", env!("CARGO_PKG_VERSION"));
        for (name, expected) in [
            ("host", "example.com:81"),
            ("user-agent", agent.as_str()),
            ("content-type", "application/json"),
            ("webhook-timestamp", "1700000000"),
            ("posthaste-attempt", "1"),
            ("webhook-id", &event(b"").id.to_string()),
        ] {
            assert_eq!(headers.get(name).unwrap(), expected, "{name}");
        }
        assert!(!headers.contains_key("posthaste-replay"));
        let again = request(&connection, 12, Lane::Replay);
        assert_eq!(again.headers()["posthaste-attempt"], "12");
        assert_eq!(again.headers()["posthaste-replay"], "true");
    }

    #[test]
    fn own_headers_replace_ours_and_repeat() {
        let mut connection = connection("crm", "http://example.com/");
        for (name, value) in
            [("user-agent", "me"), ("x-tag", "a"), ("x-tag", "b"), ("content-type", "text/plain")]
        {
            let header = (HeaderName::from_static(name), HeaderValue::from_static(value));
            connection.headers.push(header);
        }
        let made = request(&connection, 1, Lane::New);
        let values = |name| made.headers().get_all(name).iter().collect::<Vec<_>>();
        assert_eq!(values("x-tag"), ["a", "b"]);
        assert_eq!(values("user-agent"), ["me"]);
        assert_eq!(values("content-type"), ["text/plain"]);
    }

    #[test]
    fn host_header_replaces_the_host_of_the_url() {
        let mut connection = connection("crm", "http://10.0.0.7:81/");
        connection.host_header = Some(HeaderValue::from_static("crm.internal"));
        assert_eq!(request(&connection, 1, Lane::New).headers()["host"], "crm.internal");
    }

    #[test]
    fn get_sends_no_body_and_no_type() {
        use hyper::body::Body as _;
        let mut connection = connection("crm", "http://example.com/");
        connection.method = Method::GET;
        let made = request(&connection, 1, Lane::New);
        assert!(made.body().is_end_stream());
        assert!(!made.headers().contains_key("content-type"));
    }
}
