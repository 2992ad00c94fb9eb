//! HTTP Basic (RFC 7617).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::HeaderValue;

use super::Auth;
use crate::secret::Secret;

/// Looks at a user's name.
///
/// # Errors
/// A colon, which would end it, and control characters.
pub fn check_username(username: &str) -> Result<(), String> {
    if username.contains(':') {
        return Err("holds a colon, which ends the user's name in HTTP Basic".to_owned());
    }
    match username.chars().any(char::is_control) {
        true => Err("holds a line break or another control character".to_owned()),
        false => Ok(()),
    }
}

/// User and password, in UTF-8.
///
/// # Errors
/// What [`check_username`] says, and a password with control characters.
pub fn basic(username: &str, password: &Secret) -> Result<Auth, String> {
    Ok(Auth::Header(http::header::AUTHORIZATION, value(username, password)?))
}

/// `Basic …`.
pub(super) fn value(username: &str, password: &Secret) -> Result<HeaderValue, String> {
    check_username(username)?;
    let password = super::text(password, "the password")?;
    let pair = BASE64.encode(format!("{username}:{password}"));
    super::header_value(format!("Basic {pair}").as_bytes(), "the password")
}

/// The password in such a header; `None` in another one.
pub(super) fn password(value: &HeaderValue) -> Option<Vec<u8>> {
    let pair = BASE64.decode(value.as_bytes().strip_prefix(b"Basic ")?).ok()?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    pair.get(colon + 1..).map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7617, 2 and 2.1.
    #[test]
    fn the_vectors_of_the_rfc() {
        for (user, password, expected) in [
            ("Aladdin", "open sesame", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
            ("test", "123£", "Basic dGVzdDoxMjPCow=="),
        ] {
            let value = value(user, &Secret::new(password)).unwrap();
            assert_eq!(value, expected);
            assert!(value.is_sensitive());
        }
    }

    #[test]
    fn what_cannot_be_sent_is_refused() {
        assert!(basic("a:b", &Secret::new("x")).unwrap_err().contains("colon"));
        assert!(basic("a\n", &Secret::new("x")).unwrap_err().contains("control"));
        let error = basic("a", &Secret::new("hunter2\n")).unwrap_err();
        assert!(error.contains("line break") && !error.contains("hunter2"), "{error}");
        let shown = format!("{:?}", basic("a", &Secret::new("hunter2")).unwrap());
        assert!(shown.contains("Sensitive"), "{shown}");
    }
}
