//! The closed list of reasons why ingress refuses a request: status, stable code, title, and what to do about it.
//! The code is also the label of `posthaste_ingress_rejected_total`.

use std::borrow::Cow;

use http::StatusCode;

use crate::problem::Problem;
use crate::store::intake::AppendError;

/// Seconds to wait when room may be there at any moment.
const RETRY_SOON: u32 = 1;
/// Seconds to wait for a daemon that restarts.
const RETRY_AFTER_RESTART: u32 = 5;
/// Seconds to wait for disk space, which takes deliveries or an operator.
const RETRY_AFTER_SPACE: u32 = 30;

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "the texts of Refusal::words are the documentation")]
pub enum Refusal {
    Malformed,
    InvalidIdempotencyKey,
    InvalidWait,
    InvalidJson,
    Unauthorized,
    OriginForbidden,
    HostForbidden,
    UidForbidden,
    SignatureInvalid,
    TimestampInvalid,
    NotFound,
    NoConnection,
    UnknownConnection,
    MethodNotAllowed,
    HeaderTimeout,
    BodyTimeout,
    ConnectionDisabled,
    IdempotencyConflict,
    BodyTooLarge,
    UnsupportedMediaType,
    InvalidType,
    InvalidDelay,
    InvalidCloudEvent,
    InvalidBatch,
    RateLimited,
    HeaderTooLarge,
    MemoryFull,
    QueueFull,
    StoreBusy,
    StoreFailed,
    ShuttingDown,
    StoreFull,
}

impl Refusal {
    /// All of them, in the order of the enum.
    pub const ALL: [Refusal; 32] = [
        Refusal::Malformed,
        Refusal::InvalidIdempotencyKey,
        Refusal::InvalidWait,
        Refusal::InvalidJson,
        Refusal::Unauthorized,
        Refusal::OriginForbidden,
        Refusal::HostForbidden,
        Refusal::UidForbidden,
        Refusal::SignatureInvalid,
        Refusal::TimestampInvalid,
        Refusal::NotFound,
        Refusal::NoConnection,
        Refusal::UnknownConnection,
        Refusal::MethodNotAllowed,
        Refusal::HeaderTimeout,
        Refusal::BodyTimeout,
        Refusal::ConnectionDisabled,
        Refusal::IdempotencyConflict,
        Refusal::BodyTooLarge,
        Refusal::UnsupportedMediaType,
        Refusal::InvalidType,
        Refusal::InvalidDelay,
        Refusal::InvalidCloudEvent,
        Refusal::InvalidBatch,
        Refusal::RateLimited,
        Refusal::HeaderTooLarge,
        Refusal::MemoryFull,
        Refusal::QueueFull,
        Refusal::StoreBusy,
        Refusal::StoreFailed,
        Refusal::ShuttingDown,
        Refusal::StoreFull,
    ];

    /// The stable code.
    pub fn code(self) -> &'static str {
        self.words().1
    }

    /// Status, code, title, detail.
    #[rustfmt::skip]
    fn words(self) -> (u16, &'static str, &'static str, &'static str) {
        match self {
            Refusal::Malformed => (400, "malformed", "Malformed request",
                "the request is not valid HTTP/1.1; send one request line, one Host, and either a Content-Length or chunked"),
            Refusal::InvalidIdempotencyKey => (400, "invalid_idempotency_key", "The idempotency key is not valid",
                "Idempotency-Key, or webhook-id where there is none, must be 1 to 255 visible ASCII characters and stand once"),
            Refusal::InvalidWait => (400, "invalid_wait", "The wait is not valid",
                "wait stands once in the query and is a duration up to \"60s\", as in ?wait=5s"),
            Refusal::InvalidJson => (400, "invalid_json", "The body is not JSON",
                "the content type says that the body is JSON; send one JSON object"),
            Refusal::Unauthorized => (401, "unauthorized", "Not authenticated",
                "this source wants to know who posts; the WWW-Authenticate header says how"),
            Refusal::OriginForbidden => (403, "origin_forbidden", "Browsers may not post",
                "the request has an Origin header, so it comes from a web page; post from a server, without Origin"),
            Refusal::HostForbidden => (403, "host_forbidden", "Host not allowed",
                "on a loopback listener Host must be localhost, a loopback address, or one of [ingress] hosts"),
            Refusal::UidForbidden => (403, "uid_forbidden", "User not allowed",
                "this user may not use the socket; add its uid to [ingress] unix.allow_uids"),
            Refusal::SignatureInvalid => (403, "signature_invalid", "The signature is wrong",
                "no secret of this source makes this signature over this body; sign the bytes that are sent, with the right secret"),
            Refusal::TimestampInvalid => (403, "timestamp_invalid", "The signature is too old or of the future",
                "webhook-timestamp is in Unix seconds and must be near the daemon's clock; sign each post anew"),
            Refusal::NotFound => (404, "not_found", "No such path",
                "post to /v1/events, /v1/sources/SOURCE/events or /v1/connections/NAME/events"),
            Refusal::NoConnection => (404, "no_connection", "No connection takes this source",
                "no connection names this source; add it to a connection's sources"),
            Refusal::UnknownConnection => (404, "unknown_connection", "No such connection",
                "no connection has this name; `posthaste check` lists the configured ones"),
            Refusal::MethodNotAllowed => (405, "method_not_allowed", "Method not allowed",
                "this source does not take this method; Allow says which it takes"),
            Refusal::HeaderTimeout => (408, "header_timeout", "The request's head came too slowly",
                "send the head faster, or raise [ingress] header_timeout"),
            Refusal::BodyTimeout => (408, "body_timeout", "The request's body came too slowly",
                "send the body faster, or raise [ingress] body_timeout"),
            Refusal::ConnectionDisabled => (409, "connection_disabled", "The connection is disabled",
                "the connection takes no events; enable it, or pause it instead of disabling it to keep events"),
            Refusal::IdempotencyConflict => (409, "idempotency_conflict", "The idempotency key is taken",
                "this key came with another type or body before; post with a new key"),
            Refusal::BodyTooLarge => (413, "body_too_large", "The body is too large",
                "send less, or raise the connection's max_body"),
            Refusal::UnsupportedMediaType => (415, "unsupported_media_type", "The content type is not supported",
                "a batch is application/x-ndjson, application/json or application/cloudevents-batch+json"),
            Refusal::InvalidType => (422, "invalid_type", "The event's type is not valid",
                "posthaste-type must be UTF-8 without control characters, at most 255 bytes, and stand once"),
            Refusal::InvalidDelay => (422, "invalid_delay", "The delivery's time is not valid",
                "send posthaste-delay (\"90s\") or posthaste-deliver-at (\"2026-12-24T18:00:00Z\"), at most 7 days from now"),
            Refusal::InvalidCloudEvent => (422, "invalid_cloudevent", "The CloudEvent is not valid",
                "an attribute of CloudEvents 1.0 is missing or malformed"),
            Refusal::InvalidBatch => (422, "invalid_batch", "The batch is not valid",
                "one item of the batch cannot be taken, so none was"),
            Refusal::RateLimited => (429, "rate_limited", "Too many posts",
                "this source takes fewer posts per time; wait as long as Retry-After says"),
            Refusal::HeaderTooLarge => (431, "header_too_large", "The request's head is too large",
                "send at most 16 KiB and 100 headers"),
            Refusal::MemoryFull => (503, "memory_full", "Too many bytes wait for the disk",
                "try again; if it goes on, raise [limits] memory"),
            Refusal::QueueFull => (503, "queue_full", "The queue is full",
                "no connection has room for the event; try again when deliveries went out, or raise queue.max_events or queue.max_bytes"),
            Refusal::StoreBusy => (503, "store_busy", "Too many events wait for the disk",
                "try again; the disk is slower than the events come"),
            Refusal::StoreFailed => (503, "store_failed", "The disk failed",
                "the event is not known to be stored; post it again, and see the daemon's log"),
            Refusal::ShuttingDown => (503, "shutting_down", "The daemon is shutting down",
                "post again when it is back"),
            Refusal::StoreFull => (507, "store_full", "The store is full",
                "try again when deliveries made room; raise [store] max_bytes or free the disk"),
        }
    }

    fn retry_after(self) -> Option<u32> {
        match self {
            Refusal::RateLimited
            | Refusal::MemoryFull
            | Refusal::QueueFull
            | Refusal::StoreBusy
            | Refusal::StoreFailed => Some(RETRY_SOON),
            Refusal::ShuttingDown => Some(RETRY_AFTER_RESTART),
            Refusal::StoreFull => Some(RETRY_AFTER_SPACE),
            _ => None,
        }
    }

    /// Whether the rest of the HTTP connection cannot be trusted, or is not wanted, after this.
    fn closes(self) -> bool {
        matches!(
            self,
            Refusal::Malformed
                | Refusal::OriginForbidden
                | Refusal::HostForbidden
                | Refusal::UidForbidden
                | Refusal::HeaderTimeout
                | Refusal::BodyTimeout
                | Refusal::HeaderTooLarge
                | Refusal::ShuttingDown
        )
    }
}

/// A refusal with what is to be said about this request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) why: Refusal,
    /// Instead of the usual detail.
    pub(super) detail: Option<Cow<'static, str>>,
    /// Seconds, instead of the usual wait.
    pub(super) retry_after: Option<u32>,
    /// The methods that the source takes.
    pub(super) allow: Option<String>,
    /// How to authenticate.
    pub(super) challenge: Option<&'static str>,
    /// Which item of a batch it is about.
    pub(super) index: Option<usize>,
}

impl Refused {
    pub(super) fn with(why: Refusal, detail: impl Into<Cow<'static, str>>) -> Refused {
        Refused { detail: Some(detail.into()), ..Refused::from(why) }
    }

    /// Without what is about the request that carried the event: what another one with the same event is told.
    pub(super) fn for_others(&self) -> Refused {
        Refused { index: None, ..self.clone() }
    }

    pub(super) fn problem(self) -> Problem {
        let (status, code, title, detail) = self.why.words();
        Problem {
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            code,
            title,
            detail: self.detail.unwrap_or(Cow::Borrowed(detail)),
            retry_after: self.retry_after.or(self.why.retry_after()),
            allow: self.allow,
            challenge: self.challenge,
            index: self.index,
            close: self.why.closes(),
        }
    }
}

impl From<Refusal> for Refused {
    fn from(why: Refusal) -> Refused {
        Refused { why, detail: None, retry_after: None, allow: None, challenge: None, index: None }
    }
}

impl From<AppendError> for Refused {
    fn from(error: AppendError) -> Refused {
        Refused::from(match error {
            AppendError::Busy => Refusal::StoreBusy,
            AppendError::Full => Refusal::StoreFull,
            AppendError::Failed => Refusal::StoreFailed,
            AppendError::Closed => Refusal::ShuttingDown,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_keeps_the_rules() {
        let mut codes = std::collections::BTreeSet::new();
        for (at, why) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, at, "{why:?} stands in its place");
            let problem = Refused::from(why).problem();
            assert!(codes.insert(problem.code), "{why:?}");
            let wants_retry = matches!(problem.status.as_u16(), 429 | 503 | 507);
            assert_eq!(problem.retry_after.is_some(), wants_retry, "{why:?}");
            assert!(!problem.detail.ends_with('.'), "{why:?}");
        }
        assert_eq!(codes.len(), 32);
    }
}
