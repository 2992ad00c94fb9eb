//! Takes a connection's secrets out of what its target said, before that is kept or logged: error pages like to show the URL
//! that was asked for, and test servers echo headers.

use http::HeaderValue;

use super::Auth;

/// What stands in the place of a secret.
const MASK: &[u8] = b"***";
/// A piece of a secret at the end of a text that was cut is taken out when it is at least so long.
const PIECE_BYTES_MIN: usize = 4;

/// The secrets of one connection.
#[derive(Clone, Default, PartialEq)]
pub struct Redactor(Vec<Vec<u8>>);

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Redactor({})", self.0.len())
    }
}

impl Redactor {
    /// Of what `auth` sends, and of the headers that are secret.
    pub fn new<'h>(
        auth: Option<&Auth>,
        headers: impl IntoIterator<Item = &'h HeaderValue>,
    ) -> Redactor {
        let headers = headers.into_iter().filter(|value| value.is_sensitive());
        let mut secrets: Vec<&[u8]> = headers.flat_map(header_forms).collect();
        let mut password = Vec::new();
        match auth {
            Some(Auth::Header(_, value)) => {
                secrets.extend(header_forms(value));
                password = super::basic::password(value).unwrap_or_default();
            }
            Some(Auth::Query(pair)) => secrets.extend(pair.forms()),
            Some(Auth::OAuth2(_)) | None => {}
        }
        secrets.push(&password);
        Redactor::of_secrets(secrets)
    }

    /// Of these.
    pub fn of_secrets<'s>(secrets: impl IntoIterator<Item = &'s [u8]>) -> Redactor {
        let secrets = secrets.into_iter().filter(|secret| !secret.is_empty());
        let mut secrets: Vec<Vec<u8>> = secrets.map(<[u8]>::to_vec).collect();
        // The longer ones first: one may be a part of another.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.dedup();
        Redactor(secrets)
    }

    /// These secrets and the token in this header.
    #[must_use]
    pub fn with_token(&self, token: Option<&HeaderValue>) -> Redactor {
        let all = self.0.iter().map(Vec::as_slice);
        Redactor::of_secrets(all.chain(token.into_iter().flat_map(header_forms)))
    }

    /// Whether there is nothing to take out.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Masks every secret in `text`, and what may be the beginning of one at its end.
    pub fn redact(&self, text: &mut Vec<u8>) {
        for secret in &self.0 {
            while let Some(at) = find(text, secret) {
                text.splice(at..at + secret.len(), MASK.iter().copied());
                if find(MASK, secret).is_some() {
                    break; // A secret of stars: masked as well as it can be.
                }
            }
        }
        let cut = self.0.iter().filter_map(|secret| beginning_at_end(text, secret)).min();
        if let Some(at) = cut {
            text.truncate(at);
            text.extend_from_slice(MASK);
        }
    }

    /// The same for text that was not cut.
    pub fn redact_text(&self, text: String) -> String {
        let mut bytes = text.into_bytes();
        self.redact(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// The whole value, and what follows `Basic` or `Bearer`.
fn header_forms(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    let whole = value.as_bytes();
    let scheme = whole.iter().position(|byte| *byte == b' ');
    let rest = scheme.and_then(|at| whole.get(at + 1..));
    std::iter::once(whole).chain(rest)
}

fn find(text: &[u8], secret: &[u8]) -> Option<usize> {
    text.windows(secret.len()).position(|window| window == secret)
}

/// Where the beginning of a secret starts with which the text ends.
fn beginning_at_end(text: &[u8], secret: &[u8]) -> Option<usize> {
    let longest = secret.len().saturating_sub(1).min(text.len());
    let lengths = (PIECE_BYTES_MIN..=longest).rev();
    let fits = |length: &usize| secret.get(..*length).is_some_and(|piece| text.ends_with(piece));
    lengths.into_iter().find(fits).map(|length| text.len() - length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::auth::api_key::in_query;
    use crate::connection::auth::basic::basic;
    use crate::connection::auth::bearer::bearer;
    use crate::secret::Secret;

    fn masked(redactor: &Redactor, text: &str) -> String {
        redactor.redact_text(text.to_owned())
    }

    #[test]
    fn a_key_is_masked_as_it_is_written_and_as_it_is_sent() {
        let auth = in_query("key", &Secret::new("a/b hunter2")).unwrap();
        let redactor = Redactor::new(Some(&auth), []);
        let said = "GET /x?key=a%2Fb+hunter2 failed, key a/b hunter2 is wrong, a%2Fb+hunter2!";
        assert_eq!(masked(&redactor, said), "GET /x?key=*** failed, key *** is wrong, ***!");
    }

    #[test]
    fn headers_are_masked_whole_and_without_their_scheme() {
        let auth = bearer(&Secret::new("hunter2")).unwrap();
        let mut secret = HeaderValue::from_static("other-1");
        secret.set_sensitive(true);
        let redactor = Redactor::new(Some(&auth), [&secret, &HeaderValue::from_static("plain")]);
        let said = "Bearer hunter2; hunter2; other-1; plain";
        assert_eq!(masked(&redactor, said), "***; ***; ***; plain");
    }

    #[test]
    fn a_password_is_masked_as_it_was_written_too() {
        let auth = basic("me", &Secret::new("open:sesame")).unwrap();
        let redactor = Redactor::new(Some(&auth), []);
        assert_eq!(masked(&redactor, "me/open:sesame bWU6b3BlbjpzZXNhbWU="), "me/*** ***");
    }

    #[test]
    fn a_secret_that_is_cut_at_the_end_is_masked_too() {
        let redactor = Redactor::of_secrets([&b"hunter2"[..]]);
        assert_eq!(masked(&redactor, "x hunt"), "x ***");
        assert_eq!(masked(&redactor, "x hun"), "x hun");
        assert_eq!(masked(&redactor, "hunter"), "***");
        let token = HeaderValue::from_static("Bearer t0ken");
        assert_eq!(masked(&redactor.with_token(Some(&token)), "t0ken hunter2"), "*** ***");
    }

    #[test]
    fn odd_secrets_end() {
        let redactor = Redactor::of_secrets([&b""[..], &b"*"[..], &b"**"[..]]);
        assert!(!redactor.is_empty());
        masked(&redactor, "a*b**c");
        assert!(Redactor::new(None, []).is_empty());
    }
}
