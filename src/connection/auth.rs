//! How a connection says who it is (spec 3, `auth`): one of four ways, one file each.
//!
//! What is sent is made when the configuration is loaded; only an OAuth 2.0 token comes later, from a server, and `delivery` asks
//! for it. Nothing here can be printed.

use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue};

pub mod api_key;
pub mod basic;
pub mod bearer;
pub mod oauth2;
pub mod redact;

use oauth2::OAuth2;

use crate::secret::Secret;

/// How a connection says who it is.
#[derive(Clone, Debug, PartialEq)]
pub enum Auth {
    /// The same header on each request: basic, bearer, or an API key.
    Header(HeaderName, HeaderValue),
    /// The same pair in each query: an API key.
    Query(api_key::Pair),
    /// A token from a server.
    OAuth2(Box<OAuth2>),
}

impl Auth {
    /// The header that it sets, if it sets one.
    pub fn header(&self) -> Option<&HeaderName> {
        match self {
            Auth::Header(name, _) => Some(name),
            Auth::Query(_) => None,
            Auth::OAuth2(_) => Some(&http::header::AUTHORIZATION),
        }
    }

    /// The settings of its tokens, if it needs any.
    pub fn oauth2(&self) -> Option<&OAuth2> {
        match self {
            Auth::OAuth2(oauth2) => Some(oauth2),
            _ => None,
        }
    }

    /// Path and query as they are sent.
    pub fn path_and_query(&self, plain: &PathAndQuery) -> PathAndQuery {
        match self {
            Auth::Query(pair) => pair.append_to(plain),
            _ => plain.clone(),
        }
    }
}

/// A sensitive header value; `what` names it in the error.
fn header_value(bytes: &[u8], what: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::from_bytes(bytes)
        .map_err(|_| format!("{what} holds a line break or another control character"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// The secret as text without control characters.
fn text<'s>(secret: &'s Secret, what: &str) -> Result<&'s str, String> {
    match std::str::from_utf8(secret.expose()) {
        Ok(text) if !text.chars().any(char::is_control) => Ok(text),
        Ok(_) => Err(format!("{what} holds a line break or another control character")),
        Err(_) => Err(format!("{what} is not text")),
    }
}
