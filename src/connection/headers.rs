//! Which headers a connection may set, and to what. No message holds a value.

use http::{HeaderName, HeaderValue};

use crate::units::quoted;

/// Names that describe one hop's connection (RFC 9110, 7.6.1), which is the daemon's own.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Words in a header's name that make its value a secret.
const SECRET_WORDS: [&str; 7] =
    ["authorization", "cookie", "key", "password", "secret", "signature", "token"];

/// Whether a header's value is a secret, by the header's name.
pub(crate) fn names_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_WORDS.iter().any(|word| name.contains(word))
}

/// The value as it is sent. Messages do not show it.
pub(crate) fn header_value(bytes: &[u8]) -> Result<HeaderValue, String> {
    if bytes.trim_ascii().is_empty() {
        return Err("the value is empty; leave the header out instead".to_owned());
    }
    if bytes.trim_ascii().len() != bytes.len() {
        return Err("the value begins or ends with blanks, which HTTP does not keep; remove them"
            .to_owned());
    }
    HeaderValue::from_bytes(bytes)
        .map_err(|_| "the value holds a line break or another control character".to_owned())
}

/// The name, if a connection may set it.
pub(crate) fn header_name(text: &str) -> Result<HeaderName, String> {
    let name: HeaderName = text
        .parse()
        .map_err(|_| format!("{} is not a header name: letters, digits and -", quoted(text)))?;
    let refused = match name.as_str() {
        "host" => "comes from the URL, or from host_header",
        "content-length" => "is computed from the body that is sent",
        "expect" => "is not supported: the body is sent at once",
        "webhook-id" | "webhook-timestamp" | "webhook-signature" => {
            "is set by the daemon on every request"
        }
        name if name.starts_with("posthaste-") => "is set by the daemon; posthaste-* is reserved",
        name if HOP_BY_HOP.contains(&name) => {
            "belongs to one HTTP connection, which is the daemon's own (hop-by-hop)"
        }
        _ => return Ok(name),
    };
    Err(format!("the header {text} {refused}; remove it"))
}
