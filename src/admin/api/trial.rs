//! What a test of a connection found.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Header;

/// `POST /v1/connections/{name}/test`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TestReport {
    /// The connection.
    pub connection: String,
    /// Whether no part failed.
    pub ok: bool,
    /// The parts of the way, in their order: `dns`, `connect`, `proxy`, `tls`, `token`, `request`, `send`.
    pub parts: Vec<TestPart>,
    /// The address that was dialled: the target's, or its proxy's.
    pub remote: Option<String>,
    /// What the target showed in its TLS handshake, its own certificate first.
    pub certificates: Vec<TestCertificate>,
    /// The request as it would go out, or did; secrets are `***`.
    pub request: Option<TestRequest>,
    /// What the target answered, if the event was sent and it did.
    pub response: Option<TestResponse>,
}

/// One part of the way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TestPart {
    /// Which.
    pub name: String,
    /// `ok`, `failed` or `skipped`.
    pub verdict: String,
    /// How long it took, if it was tried.
    pub seconds: Option<f64>,
    /// Why it failed, of the closed list of causes.
    pub code: Option<String>,
    /// What was found, or what went wrong.
    pub detail: String,
    /// What to do about it, when it failed.
    pub advice: Option<String>,
}

/// A certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TestCertificate {
    /// Whose it is.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// The names and addresses that it is for.
    pub names: Vec<String>,
    /// When it begins.
    pub not_before: String,
    /// When it ends.
    pub not_after: String,
    /// Whole days until it ends; negative when it is over.
    pub days_left: i64,
}

/// A request without its secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TestRequest {
    /// The id of the event, which is in no store.
    pub event: String,
    /// Its method.
    pub method: String,
    /// Its URL.
    pub url: String,
    /// Its headers.
    pub headers: Vec<Header>,
    /// The start of its body, at most 4 KiB. Bytes that are not UTF-8 show as U+FFFD.
    pub body: String,
}

/// A response.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TestResponse {
    /// Its status.
    pub status: u16,
    /// The start of its body, at most 4 KiB, without secrets. Bytes that are not UTF-8 show as U+FFFD.
    pub body: String,
}
