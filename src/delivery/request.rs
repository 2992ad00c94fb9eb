//! The outbound request: what can be made once per connection is, the rest is filled in per attempt. The signature is last,
//! so that what is signed is what is sent.

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use http_body_util::Full;

use crate::connection::Connection;
use crate::connection::auth::Auth;
use crate::connection::auth::redact::Redactor;
use crate::connection::payload::{Shaped, Unsendable, sends_body};
use crate::connection::sign::{Ended, Message, Sign};
use crate::event::{Event, EventId};
use crate::store::feed::Lane;

/// The body of every request: the event's bytes, shared, not copied.
pub(super) type Body = Full<Bytes>;

const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const ATTEMPT: HeaderName = HeaderName::from_static("posthaste-attempt");
const REPLAY: HeaderName = HeaderName::from_static("posthaste-replay");
pub(super) const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("posthaste/", env!("CARGO_PKG_VERSION")));
const EMPTY: HeaderValue = HeaderValue::from_static("");

/// What all requests of one connection share.
pub(super) struct Template {
    method: Method,
    /// With the API key, if that goes into the query.
    uri: Uri,
    /// The same key for a URI that differs from request to request.
    auth: Option<Auth>,
    /// Requests differ by more than body and attempt: [`Template::shape`] makes the difference.
    is_shaped: bool,
    /// Scheme and authority, for signatures.
    origin: String,
    sign: Option<Sign>,
    /// Masks what must not be kept of responses.
    pub(super) redactor: Redactor,
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
    pub(super) seconds: u64,
    /// The same, in digits.
    pub(super) timestamp: HeaderValue,
    /// `Bearer …`, where the connection has tokens.
    pub(super) token: Option<HeaderValue>,
}

impl std::fmt::Debug for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Template({} {})", self.method, self.origin)
    }
}

impl Template {
    pub(super) fn new(connection: &Connection) -> Template {
        let sends_body = sends_body(&connection.method);
        let more = usize::from(connection.auth.is_some()) + usize::from(connection.sign.is_some());
        let mut headers = HeaderMap::with_capacity(connection.headers.len() + 8 + more);
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
        let templates = connection.payload.iter().flat_map(|payload| &payload.header_templates);
        for (name, _) in templates {
            own_content_type |= name == CONTENT_TYPE;
            if !named.contains(&name) {
                headers.remove(name);
            }
        }
        for name in [WEBHOOK_ID, WEBHOOK_TIMESTAMP, ATTEMPT] {
            headers.insert(name, EMPTY);
        }
        match &connection.auth {
            Some(Auth::Header(name, value)) => drop(headers.insert(name, value.clone())),
            Some(Auth::OAuth2(_)) => drop(headers.insert(AUTHORIZATION, EMPTY)),
            Some(Auth::Query(_)) | None => {}
        }
        if let Some(sign) = &connection.sign {
            headers.insert(sign.header(), EMPTY);
        }
        if sends_body && !own_content_type {
            headers.insert(CONTENT_TYPE, EMPTY);
        }
        let target = &connection.target;
        let path_and_query = match &connection.auth {
            Some(auth) => auth.path_and_query(&target.path_and_query),
            None => target.path_and_query.clone(),
        };
        let scheme = if target.tls { "https" } else { "http" };
        let authority = target.authority.to_str().unwrap_or_default();
        let values = connection.headers.iter().map(|(_, value)| value);
        Template {
            method: connection.method.clone(),
            uri: Uri::from(path_and_query),
            auth: connection.auth.clone().filter(|_| connection.is_shaped()),
            is_shaped: connection.is_shaped(),
            origin: format!("{scheme}://{authority}"),
            sign: connection.sign.clone(),
            redactor: Redactor::new(connection.auth.as_ref(), values),
            headers,
            sends_body,
            own_content_type,
        }
    }

    /// What differs in this request by the connection's payload rules; nothing for most connections.
    ///
    /// # Errors
    /// When no request can be made of the event: a dead letter.
    pub(super) fn shape(
        &self,
        connection: &Connection,
        event: &Event,
        attempt: u32,
    ) -> Result<Option<Box<Shaped>>, Unsendable> {
        if !self.is_shaped {
            return Ok(None);
        }
        connection.shape(event, attempt).map(|shaped| Some(Box::new(shaped)))
    }

    /// The request of one attempt.
    ///
    /// # Errors
    /// When it cannot be signed any more.
    pub(super) fn request(
        &self,
        event: &Event,
        particulars: &Particulars,
        shaped: Option<&Shaped>,
    ) -> Result<Request<Body>, Ended> {
        let mut headers = self.headers.clone();
        headers.insert(WEBHOOK_ID, id_value(event.id));
        headers.insert(WEBHOOK_TIMESTAMP, particulars.timestamp.clone());
        if let Some(token) = &particulars.token {
            headers.insert(AUTHORIZATION, token.clone());
        }
        headers.insert(ATTEMPT, attempt_value(particulars.attempt));
        if particulars.lane == Lane::Replay {
            headers.insert(REPLAY, HeaderValue::from_static("true"));
        }
        let (method, uri, sends) = match shaped {
            None => (self.method.clone(), self.uri.clone(), self.sends_body),
            Some(shaped) => {
                (shaped.method.clone(), self.uri_of(shaped), sends_body(&shaped.method))
            }
        };
        for (name, value) in shaped.iter().flat_map(|shaped| &shaped.headers) {
            headers.append(name, value.clone());
        }
        let body = if sends {
            let content_type = shaped.and_then(|shaped| shaped.content_type.as_ref());
            self.describe_content(event, content_type, &mut headers);
            let made = shaped.and_then(|shaped| shaped.body.clone());
            made.unwrap_or_else(|| event.content.body())
        } else {
            Bytes::new()
        };
        if let Some(sign) = &self.sign {
            let signed = Signed { method: &method, uri: &uri, body: &body };
            self.sign(sign, particulars, &mut headers, &signed)?;
        }
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        Ok(request)
    }

    fn uri_of(&self, shaped: &Shaped) -> Uri {
        Uri::from(match &self.auth {
            Some(auth) => auth.path_and_query(&shaped.path_and_query),
            None => shaped.path_and_query.clone(),
        })
    }

    fn sign(
        &self,
        sign: &Sign,
        particulars: &Particulars,
        headers: &mut HeaderMap,
        signed: &Signed<'_>,
    ) -> Result<(), Ended> {
        // Cheap copies: they share their bytes with the map.
        let value = |name| headers.get(name).cloned().unwrap_or(EMPTY);
        let (id, attempt) = (value(WEBHOOK_ID), value(ATTEMPT));
        let message = Message {
            id: id.as_bytes(),
            timestamp: particulars.timestamp.as_bytes(),
            attempt: attempt.as_bytes(),
            method: signed.method,
            origin: &self.origin,
            uri: signed.uri,
            body: signed.body,
        };
        sign.sign(&message, particulars.seconds, headers)
    }

    /// `content_type`: what the body is, where the event does not say so.
    fn describe_content(
        &self,
        event: &Event,
        content_type: Option<&HeaderValue>,
        headers: &mut HeaderMap,
    ) {
        let mut typed = self.own_content_type;
        if let Some(value) = content_type.filter(|_| !typed) {
            headers.insert(CONTENT_TYPE, value.clone());
            typed = true;
        }
        for (name, value) in event.content.headers() {
            let Ok(value) = HeaderValue::from_bytes(value) else {
                continue;
            };
            if name == "content-type" && !typed {
                headers.insert(CONTENT_TYPE, value);
                typed = true;
            } else if name == "content-encoding" {
                headers.append(CONTENT_ENCODING, value);
            } else if name.starts_with("ce-") && !self.headers.contains_key(name) {
                headers.extend(HeaderName::from_bytes(name.as_bytes()).ok().zip(Some(value)));
            }
        }
        if !typed {
            headers.remove(CONTENT_TYPE);
        }
    }
}

/// What of a request is signed, beside its headers.
struct Signed<'s> {
    method: &'s Method,
    uri: &'s Uri,
    body: &'s [u8],
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
        let particulars = Particulars {
            attempt,
            lane,
            seconds: 1_700_000_000,
            timestamp: HeaderValue::from_static("1700000000"),
            token: Some(HeaderValue::from_static("Bearer t"))
                .filter(|_| connection.auth.as_ref().is_some_and(|auth| auth.oauth2().is_some())),
        };
        let (template, event) = (Template::new(connection), event(b"{\"a\":1}"));
        let shaped = template.shape(connection, &event, attempt).unwrap();
        template.request(&event, &particulars, shaped.as_deref()).unwrap()
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
