//! A source: one named way in, as plain data that ingress works by. Its parts are pure; nothing here does I/O.
//!
//! A source needs no `[[source]]` table: without one it is as [`Source::named`] says. A value that exists is legal:
//! [`crate::config`] checks every bound of spec 3 before it makes one.

use http::{HeaderValue, Method, StatusCode};

pub mod auth;
mod signature;

pub use signature::{Algorithm, Encoding, Hmac, StandardWebhooks, VerifyKey};

use crate::connection::RateLimit;
use auth::Auth;

/// The longest body of a [`Reply`].
pub const REPLY_BYTES_MAX: usize = 1000;

/// One `[[source]]`, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// What paths and connections call it.
    pub name: String,
    /// The methods that make an event; never empty.
    pub methods: Vec<Method>,
    /// Who may post.
    pub auth: Auth,
    /// What a producer gets instead of the 202's document.
    pub reply: Option<Reply>,
    /// What a 202 means.
    pub durability: Durability,
    /// Posts per time, if limited.
    pub rate_limit: Option<RateLimit>,
    /// Web pages that may post.
    pub cors: Cors,
}

impl Source {
    /// A source without a table: POST, nobody asked who they are, no limit.
    pub fn named(name: &str) -> Source {
        Source {
            name: name.to_owned(),
            methods: vec![Method::POST],
            auth: Auth::Open,
            reply: None,
            durability: Durability::Disk,
            rate_limit: None,
            cors: Cors::Closed,
        }
    }
}

/// What a producer gets for an event that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// 200 to 299.
    pub status: StatusCode,
    /// Its content type; none without a body.
    pub content_type: Option<HeaderValue>,
    /// At most [`REPLY_BYTES_MAX`] bytes; empty for 204 and 205.
    pub body: String,
}

/// What a 202 means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Durability {
    /// The event is on the disk.
    #[default]
    Disk,
    /// The writer has the event; a crash may lose the last commits.
    Relaxed,
}

/// Web pages that may post to a source, by their origin.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Cors {
    /// None.
    #[default]
    Closed,
    /// These, in lower case: `https://shop.example.com`.
    Origins(Vec<String>),
    /// All.
    Any,
}

impl Cors {
    /// Whether a page of this origin may post.
    pub fn allows(&self, origin: &HeaderValue) -> bool {
        match self {
            Cors::Closed => false,
            Cors::Any => true,
            Cors::Origins(allowed) => {
                allowed.iter().any(|one| origin.as_bytes().eq_ignore_ascii_case(one.as_bytes()))
            }
        }
    }

    /// Reads an origin as it stands in a header: scheme, host, port where it is not the scheme's, and nothing else.
    ///
    /// # Errors
    /// What to write instead.
    pub fn parse_origin(text: &str) -> Result<String, String> {
        let wrong = || {
            format!(
                "{text:?} is not an origin; write scheme and host alone, as in \"https://shop.example.com\""
            )
        };
        let url = url::Url::parse(text).map_err(|_| wrong())?;
        let origin = url.origin().ascii_serialization();
        if origin == text.to_ascii_lowercase() { Ok(origin) } else { Err(wrong()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_compared_whole() {
        let cors = Cors::Origins(vec![Cors::parse_origin("https://Shop.example.com").unwrap()]);
        for (origin, allowed) in [
            ("https://shop.example.com", true),
            ("https://SHOP.example.com", true),
            ("http://shop.example.com", false),
            ("https://shop.example.com:8443", false),
            ("https://evil.example", false),
            ("https://shop.example.com.evil.example", false),
            ("null", false),
        ] {
            let value = HeaderValue::from_static(origin);
            assert_eq!(cors.allows(&value), allowed, "{origin}");
            assert!(Cors::Any.allows(&value) && !Cors::Closed.allows(&value));
        }
    }

    #[test]
    fn origins_have_no_path() {
        for text in [
            "https://a.example/",
            "a.example",
            "https://a.example/x",
            "https://a:443",
            "null",
            "*",
            "",
        ] {
            assert!(Cors::parse_origin(text).is_err(), "{text:?}");
        }
        assert!(Cors::parse_origin("http://localhost:3000").is_ok());
    }
}
