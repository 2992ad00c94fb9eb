//! The vocabulary: what is accepted, where it goes, what came of it. Plain values without behaviour of their own;
//! every other module speaks in them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

pub use wait::Wait;

use crate::clock::Age;

mod wait;

/// An event's id: a UUIDv7, written `evt_<uuid>`. It is also the `webhook-id` that receivers see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(pub Uuid);

impl EventId {
    /// A new id from the wall clock and 80 random bits (RFC 9562, 5.7).
    pub fn new(wall_ms: u64, rng: &mut fastrand::Rng) -> EventId {
        let random = rng.u128(..).to_be_bytes();
        let mut bytes = [0; 10];
        bytes.copy_from_slice(random.first_chunk::<10>().unwrap_or(&[0; 10]));
        EventId(uuid::Builder::from_unix_timestamp_millis(wall_ms, &bytes).into_uuid())
    }

    /// Milliseconds since 1970 when the id was made.
    pub fn unix_ms(self) -> u64 {
        let bytes = self.0.as_bytes();
        bytes.iter().take(6).fold(0, |ms, byte| (ms << 8) | u64::from(*byte))
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "evt_{}", self.0.as_hyphenated())
    }
}

impl FromStr for EventId {
    type Err = InvalidEventId;

    fn from_str(text: &str) -> Result<EventId, InvalidEventId> {
        let uuid = text.strip_prefix("evt_").ok_or(InvalidEventId)?;
        Uuid::try_parse(uuid).map(EventId).map_err(|_| InvalidEventId)
    }
}

/// The text is not an event's id.
#[derive(Debug, thiserror::Error)]
#[error("not an event id: it looks like evt_019ab3c4-5d6e-7f80-9123-456789abcdef")]
pub struct InvalidEventId;

/// What an app posted, as it was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Given at acceptance; the same at each attempt and replay.
    pub id: EventId,
    /// Wall clock at acceptance, for people.
    pub accepted_ms: u64,
    /// Store time at acceptance, for decisions.
    pub accepted_age: Age,
    /// The rest: source, type, headers, body, in one piece of memory.
    pub content: Content,
}

/// Source, type, kept headers and body of an event, encoded once into one buffer, which is also what the store writes.
///
/// Layout: `source_len u16, type_len u16, key_len u16, header_count u16`, then source, type and idempotency key, then per
/// header `name_len u16, value_len u16, name, value`, then the body to the end. All integers are little endian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    buffer: Bytes,
    /// Where the body starts.
    body_at: u32,
}

/// The encoded content contradicts itself.
#[derive(Debug, thiserror::Error)]
#[error("event content is malformed")]
pub struct MalformedContent;

/// Collects an event's content; the body is appended last, piece by piece.
#[derive(Debug)]
pub struct ContentBuilder {
    buffer: Vec<u8>,
    header_count: u16,
    body_at: u32,
}

const FIXED: usize = 8;

impl ContentBuilder {
    /// Starts with names that are at most 65,535 bytes each (longer ones are cut; ingress refuses them before).
    /// `capacity` is the expected length of headers and body together.
    pub fn new(source: &str, kind: &str, key: &str, capacity: usize) -> ContentBuilder {
        let mut buffer =
            Vec::with_capacity(FIXED + source.len() + kind.len() + key.len() + capacity);
        for part in [source, kind, key] {
            buffer.extend_from_slice(&length16(part.as_bytes()).to_le_bytes());
        }
        buffer.extend_from_slice(&0u16.to_le_bytes());
        for part in [source, kind, key] {
            buffer.extend(part.as_bytes().iter().take(usize::from(u16::MAX)));
        }
        ContentBuilder { buffer, header_count: 0, body_at: 0 }
    }

    /// Keeps one header. Call it before the first [`ContentBuilder::body`].
    pub fn header(&mut self, name: &str, value: &[u8]) {
        debug_assert!(self.body_at == 0, "headers come before the body");
        self.buffer.extend_from_slice(&length16(name.as_bytes()).to_le_bytes());
        self.buffer.extend_from_slice(&length16(value).to_le_bytes());
        self.buffer.extend(name.as_bytes().iter().take(usize::from(u16::MAX)));
        self.buffer.extend(value.iter().take(usize::from(u16::MAX)));
        self.header_count += 1;
    }

    /// Appends a piece of the body.
    pub fn body(&mut self, piece: &[u8]) {
        self.start_body();
        self.buffer.extend_from_slice(piece);
    }

    /// Bytes of body so far.
    pub fn body_len(&self) -> usize {
        if self.body_at == 0 { 0 } else { self.buffer.len() - self.body_at as usize }
    }

    /// The finished content.
    pub fn finish(mut self) -> Content {
        self.start_body();
        if let Some(count) = self.buffer.get_mut(6..FIXED) {
            count.copy_from_slice(&self.header_count.to_le_bytes());
        }
        Content { buffer: Bytes::from(self.buffer), body_at: self.body_at }
    }

    fn start_body(&mut self) {
        if self.body_at == 0 {
            self.body_at = u32::try_from(self.buffer.len()).unwrap_or(u32::MAX);
        }
    }
}

fn length16(part: &[u8]) -> u16 {
    u16::try_from(part.len()).unwrap_or(u16::MAX)
}

impl Content {
    /// Reads content back from what [`Content::as_bytes`] gave.
    ///
    /// # Errors
    /// When a length points outside of the buffer or a name is not UTF-8.
    pub fn decode(buffer: Bytes) -> Result<Content, MalformedContent> {
        let mut at = FIXED;
        for field in 0..3 {
            let end = at + usize::from(u16_at(&buffer, field * 2).ok_or(MalformedContent)?);
            std::str::from_utf8(buffer.get(at..end).ok_or(MalformedContent)?)
                .map_err(|_| MalformedContent)?;
            at = end;
        }
        for _ in 0..u16_at(&buffer, 6).ok_or(MalformedContent)? {
            let name = usize::from(u16_at(&buffer, at).ok_or(MalformedContent)?);
            let value = usize::from(u16_at(&buffer, at + 2).ok_or(MalformedContent)?);
            let name_bytes = buffer.get(at + 4..at + 4 + name).ok_or(MalformedContent)?;
            std::str::from_utf8(name_bytes).map_err(|_| MalformedContent)?;
            at += 4 + name + value;
        }
        if at > buffer.len() {
            return Err(MalformedContent);
        }
        let body_at = u32::try_from(at).map_err(|_| MalformedContent)?;
        Ok(Content { buffer, body_at })
    }

    /// Whether content encoded in `bytes` has an idempotency key, without reading the rest.
    pub fn has_key(bytes: &[u8]) -> bool {
        u16_at(bytes, 4).is_some_and(|length| length > 0)
    }

    /// The encoded form, which [`Content::decode`] reads.
    pub fn as_bytes(&self) -> &Bytes {
        &self.buffer
    }

    /// The source it came from.
    pub fn source(&self) -> &str {
        self.name(0)
    }

    /// The event's type; empty when it has none.
    pub fn kind(&self) -> &str {
        self.name(1)
    }

    /// The idempotency key; empty when it has none. That of an event posted to one connection has the connection's name and
    /// a space before it.
    pub fn key(&self) -> &str {
        self.name(2)
    }

    /// The kept headers, in order, names in lower case.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let mut at = FIXED + (0..3).map(|field| self.length(field * 2)).sum::<usize>();
        (0..self.length(6)).map_while(move |_| {
            let (name, value) = (self.length(at), self.length(at + 2));
            let start = at + 4;
            at = start + name + value;
            let name_text = std::str::from_utf8(self.buffer.get(start..start + name)?).ok()?;
            Some((name_text, self.buffer.get(start + name..at)?))
        })
    }

    /// The body, byte for byte. Shares the buffer.
    pub fn body(&self) -> Bytes {
        self.buffer.slice(self.body_at as usize..)
    }

    /// Bytes of the body.
    pub fn body_len(&self) -> usize {
        self.buffer.len().saturating_sub(self.body_at as usize)
    }

    /// The body without a share of the buffer.
    pub fn body_bytes(&self) -> &[u8] {
        self.buffer.get(self.body_at as usize..).unwrap_or_default()
    }

    fn name(&self, field: usize) -> &str {
        let start = FIXED + (0..field).map(|before| self.length(before * 2)).sum::<usize>();
        let bytes = self.buffer.get(start..start + self.length(field * 2)).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    fn length(&self, at: usize) -> usize {
        u16_at(&self.buffer, at).map_or(0, usize::from)
    }
}

fn u16_at(buffer: &[u8], at: usize) -> Option<u16> {
    let bytes = buffer.get(at..at + 2)?;
    Some(u16::from_le_bytes(bytes.try_into().ok()?))
}

/// What happened in one attempt. What to do about it is a [`Disposition`]: two types, so that deciding stays pure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A response's head came. Whether its status is a success is the connection's to say.
    Response {
        /// The status code.
        status: u16,
        /// `Retry-After`, as a wait from now; garbage is `None`.
        retry_after: Option<Duration>,
    },
    /// No response came.
    Failed(Cause),
}

/// Why an attempt failed or a delivery is dead: the closed list of spec 8, also the metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are the documentation: spec 8 lists them")]
pub enum Cause {
    DnsFailed = 1,
    ConnectRefused = 2,
    ConnectTimeout = 3,
    ConnectReset = 4,
    Unreachable = 5,
    TlsExpired = 6,
    TlsName = 7,
    TlsUntrusted = 8,
    TlsProtocol = 9,
    TlsClientCert = 10,
    ProxyFailed = 11,
    RequestTimeout = 12,
    BodyTimeout = 13,
    ResponseTooLarge = 14,
    Protocol = 15,
    HttpStatus = 16,
    Redirect = 17,
    Gone = 18,
    AuthToken = 19,
    EgressBlocked = 20,
    Template = 21,
    Transform = 22,
    TooLarge = 23,
    QueueFull = 24,
    Expired = 25,
    Cancelled = 26,
    Internal = 27,
}

impl Cause {
    /// All of them, in the order of their numbers.
    pub const ALL: [Cause; 27] = [
        Cause::DnsFailed,
        Cause::ConnectRefused,
        Cause::ConnectTimeout,
        Cause::ConnectReset,
        Cause::Unreachable,
        Cause::TlsExpired,
        Cause::TlsName,
        Cause::TlsUntrusted,
        Cause::TlsProtocol,
        Cause::TlsClientCert,
        Cause::ProxyFailed,
        Cause::RequestTimeout,
        Cause::BodyTimeout,
        Cause::ResponseTooLarge,
        Cause::Protocol,
        Cause::HttpStatus,
        Cause::Redirect,
        Cause::Gone,
        Cause::AuthToken,
        Cause::EgressBlocked,
        Cause::Template,
        Cause::Transform,
        Cause::TooLarge,
        Cause::QueueFull,
        Cause::Expired,
        Cause::Cancelled,
        Cause::Internal,
    ];

    /// The name in metrics, logs and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::DnsFailed => "dns_failed",
            Cause::ConnectRefused => "connect_refused",
            Cause::ConnectTimeout => "connect_timeout",
            Cause::ConnectReset => "connect_reset",
            Cause::Unreachable => "unreachable",
            Cause::TlsExpired => "tls_expired",
            Cause::TlsName => "tls_name",
            Cause::TlsUntrusted => "tls_untrusted",
            Cause::TlsProtocol => "tls_protocol",
            Cause::TlsClientCert => "tls_client_cert",
            Cause::ProxyFailed => "proxy_failed",
            Cause::RequestTimeout => "request_timeout",
            Cause::BodyTimeout => "body_timeout",
            Cause::ResponseTooLarge => "response_too_large",
            Cause::Protocol => "protocol",
            Cause::HttpStatus => "http_status",
            Cause::Redirect => "redirect",
            Cause::Gone => "gone",
            Cause::AuthToken => "auth_token",
            Cause::EgressBlocked => "egress_blocked",
            Cause::Template => "template",
            Cause::Transform => "transform",
            Cause::TooLarge => "too_large",
            Cause::QueueFull => "queue_full",
            Cause::Expired => "expired",
            Cause::Cancelled => "cancelled",
            Cause::Internal => "internal",
        }
    }

    /// The cause with this number, as the store keeps it.
    pub fn from_number(number: u8) -> Option<Cause> {
        Cause::ALL.into_iter().find(|cause| *cause as u8 == number)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What to do with a delivery after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// It is done.
    Delivered,
    /// Try again after this wait.
    RetryAfter(Duration),
    /// It is over without success: it becomes a dead letter.
    Dead {
        /// Why.
        cause: Cause,
        /// The last response's status; 0 when there was none.
        status: u16,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_and_carry_their_time() {
        let id = EventId::new(1_700_000_000_123, &mut fastrand::Rng::with_seed(1));
        assert_eq!(id.to_string().parse::<EventId>().unwrap(), id);
        assert_eq!(id.unix_ms(), 1_700_000_000_123);
        assert_eq!(id.0.get_version_num(), 7);
        assert!("evt_nonsense".parse::<EventId>().is_err());
    }

    #[test]
    fn content_reads_back() {
        let mut builder = ContentBuilder::new("default", "order.created", "k1", 64);
        builder.header("content-type", b"application/json");
        builder.header("x-raw", b"\xff\x00");
        builder.body(b"{\"a\":");
        builder.body(b"1}");
        assert_eq!(builder.body_len(), 7);
        let content = builder.finish();
        let back = Content::decode(content.as_bytes().clone()).unwrap();
        assert_eq!(back, content);
        assert_eq!((back.source(), back.kind(), back.key()), ("default", "order.created", "k1"));
        let headers: Vec<_> = back.headers().collect();
        assert_eq!(headers, [("content-type", &b"application/json"[..]), ("x-raw", b"\xff\x00")]);
        assert_eq!(back.body(), Bytes::from_static(b"{\"a\":1}"));
    }

    #[test]
    fn any_cut_of_content_is_refused_or_legal_but_never_a_panic() {
        let mut builder = ContentBuilder::new("default", "t", "", 8);
        builder.header("a", b"b");
        let whole = builder.finish().as_bytes().clone();
        for length in 0..whole.len() {
            assert!(Content::decode(whole.slice(..length)).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn causes_read_back_by_number() {
        for cause in Cause::ALL {
            assert_eq!(Cause::from_number(cause as u8), Some(cause));
        }
        assert_eq!(Cause::from_number(0), None);
    }
}
