//! A bearer token (RFC 6750).

use http::HeaderValue;

use super::Auth;
use crate::secret::Secret;

/// A token that does not change.
///
/// # Errors
/// A token that no header can hold.
pub fn bearer(token: &Secret) -> Result<Auth, String> {
    Ok(Auth::Header(http::header::AUTHORIZATION, value(token.expose())?))
}

/// `Bearer …`. Tokens have no blanks, so that one that was cut from a longer text is found.
pub(super) fn value(token: &[u8]) -> Result<HeaderValue, String> {
    if token.is_empty() || !token.iter().all(u8::is_ascii_graphic) {
        return Err("the token holds a blank or another character that no token has".to_owned());
    }
    super::header_value(&[b"Bearer ", token].concat(), "the token")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_sent_as_it_is() {
        let value = value(b"mF_9.B5f-4.1JqM").unwrap();
        assert_eq!(value, "Bearer mF_9.B5f-4.1JqM");
        assert!(value.is_sensitive());
        for token in ["", "a b", "a\n", "Bearer a", "a\u{e4}"] {
            assert!(bearer(&Secret::new(token)).is_err(), "{token:?}");
        }
    }
}
