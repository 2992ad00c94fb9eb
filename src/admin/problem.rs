//! Refusals of the admin API, as problem documents (RFC 9457) with a stable `code`.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};

use super::api::{ConfigProblem, ProblemDocument};
use super::command::{Refusal, ReloadRefused};
use super::manage::{EditRefused, Why};

/// Seconds after which a request that came at a bad moment may come again.
const RETRY_AFTER_SECONDS: u32 = 1;

/// A refusal on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) title: &'static str,
    pub(super) detail: String,
    pub(super) errors: Vec<ConfigProblem>,
}

impl Problem {
    pub(super) fn new(
        status: StatusCode,
        code: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Problem {
        Problem { status, code, title, detail: detail.into(), errors: Vec::new() }
    }

    pub(super) fn malformed(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "malformed", "Malformed request", detail)
    }

    /// A document that was understood and cannot be a connection.
    pub(super) fn invalid(detail: impl Into<String>) -> Problem {
        let (status, title) = (StatusCode::UNPROCESSABLE_ENTITY, "Invalid document");
        Problem::new(status, "document_invalid", title, detail)
    }

    pub(super) fn unavailable(code: &'static str, detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, "Not now", detail)
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        let (status, code, title) = match &refusal {
            Refusal::UnknownConnection(_) => {
                (StatusCode::NOT_FOUND, "unknown_connection", "Unknown connection")
            }
            Refusal::NoSuchDeadLetter { .. } => {
                (StatusCode::NOT_FOUND, "no_such_dead_letter", "No such dead letter")
            }
            Refusal::NoSuchEvent(_) | Refusal::NothingKnown { .. } => {
                (StatusCode::NOT_FOUND, "no_such_event", "No such event")
            }
            Refusal::NoSuchDelivery { .. } => {
                (StatusCode::NOT_FOUND, "no_such_delivery", "No such delivery")
            }
            Refusal::StillLive(_) => (StatusCode::CONFLICT, "still_live", "Still on its way"),
            Refusal::HeldByFile { .. } => {
                (StatusCode::CONFLICT, "held_by_file", "Held by its file")
            }
            Refusal::HeldAlready { .. } => (StatusCode::CONFLICT, "held_already", "Held already"),
            Refusal::BadSelection(_) => (StatusCode::BAD_REQUEST, "malformed", "Malformed request"),
            Refusal::NoSuchJob(_) => (StatusCode::NOT_FOUND, "no_such_job", "No such job"),
            Refusal::TooManyJobs(_) => (StatusCode::CONFLICT, "too_many_jobs", "Too many jobs"),
            Refusal::JobEnded { .. } => (StatusCode::CONFLICT, "job_ended", "Job ended"),
            Refusal::BadCursor => (StatusCode::BAD_REQUEST, "bad_cursor", "Bad cursor"),
            Refusal::QueueFull(_) => (StatusCode::SERVICE_UNAVAILABLE, "queue_full", "Queue full"),
            Refusal::Store(_) => (StatusCode::SERVICE_UNAVAILABLE, "store_failed", "Store failed"),
        };
        Problem::new(status, code, title, refusal.to_string())
    }
}

impl From<EditRefused> for Problem {
    fn from(refused: EditRefused) -> Problem {
        let (why, detail) = match refused {
            EditRefused::Cannot(why, detail) => (why, detail),
            EditRefused::Invalid(refused) => return refused.into(),
            EditRefused::Hold(refusal) => return refusal.into(),
        };
        let conflict = StatusCode::CONFLICT;
        let (status, code, title) = match why {
            Why::Unknown => (StatusCode::NOT_FOUND, "unknown_connection", "Unknown connection"),
            Why::Gone => (StatusCode::GONE, "deleted", "Deleted"),
            Why::Taken => (conflict, "name_taken", "Name taken"),
            Why::OtherName => (StatusCode::UNPROCESSABLE_ENTITY, "name_mismatch", "Two names"),
            Why::Document => return Problem::invalid(detail),
            Why::Stale => (StatusCode::PRECONDITION_FAILED, "stale", "Changed meanwhile"),
            Why::State => (conflict, "state_conflict", "Not in this state"),
            Why::Broken => (conflict, "file_broken", "File broken"),
            Why::Link => (conflict, "symlinked", "Symbolic link"),
            Why::ReadOnly => (StatusCode::FORBIDDEN, "read_only", "Read-only"),
            Why::Busy => (conflict, "file_busy", "File changing"),
            Why::TooMany => return Problem::unavailable("busy", detail),
            Why::Failed => (StatusCode::SERVICE_UNAVAILABLE, "write_failed", "Write failed"),
        };
        Problem::new(status, code, title, detail)
    }
}

impl From<ReloadRefused> for Problem {
    fn from(refused: ReloadRefused) -> Problem {
        let count = refused.errors.len();
        let plural = if count == 1 { "" } else { "s" };
        Problem {
            errors: refused.errors,
            ..Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "config_invalid",
                "Configuration refused",
                format!("{count} error{plural}; the configuration in force stays as it was"),
            )
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let document = ProblemDocument {
            kind: format!("urn:posthaste:problem:{}", self.code),
            title: self.title.to_owned(),
            status: self.status.as_u16(),
            detail: self.detail,
            code: self.code.to_owned(),
            errors: self.errors,
        };
        let mut response = (self.status, axum::Json(document)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
        }
        response
    }
}
