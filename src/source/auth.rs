//! Who may post to a source. Every comparison takes the same time whatever differs, and looks at every secret.
//!
//! | method | looked at | missing | wrong |
//! |---|---|---|---|
//! | bearer, basic | `authorization`, before the body is read | 401 | 401 |
//! | hmac | one header, and the body | 401 before the body is read | 403 |
//! | Standard Webhooks | `webhook-id`, `-timestamp`, `-signature`, and the body | 401 before the body is read | 403 |

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::signature::{Hmac, StandardWebhooks};
use crate::secret::Secret;

/// How a producer shows who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// It need not.
    Open,
    /// `authorization: Bearer TOKEN` with one of these.
    Bearer(Vec<Dated<Secret>>),
    /// `authorization: Basic …` with this user and one of these passwords (RFC 7617).
    Basic {
        /// Without a colon.
        user: String,
        /// Any of them is right.
        passwords: Vec<Dated<Secret>>,
    },
    /// A signature over the body.
    Hmac(Hmac),
    /// Signatures of the Standard Webhooks specification.
    StandardWebhooks(StandardWebhooks),
}

/// Something that may end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dated<T> {
    /// What.
    pub value: T,
    /// When it ends, in milliseconds since 1970.
    pub until_ms: Option<u64>,
}

impl<T> Dated<T> {
    /// Whether it still counts.
    pub fn holds_at(&self, wall_ms: u64) -> bool {
        self.until_ms.is_none_or(|until| wall_ms < until)
    }
}

/// Why a producer may not post.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// It did not say who it is: 401.
    Missing,
    /// What it said is wrong: 401.
    Wrong,
    /// The signature is not that of this body: 403.
    Signature,
    /// The signature is too old, or of the future: 403.
    Timestamp,
}

impl Auth {
    /// The challenge of a 401 (RFC 9110, 11.6.1).
    pub fn challenge(&self) -> &'static str {
        match self {
            Auth::Open | Auth::Bearer(_) => "Bearer realm=\"posthaste\"",
            Auth::Basic { .. } => "Basic realm=\"posthaste\", charset=\"UTF-8\"",
            Auth::Hmac(_) => "Signature realm=\"posthaste\"",
            Auth::StandardWebhooks(_) => "Webhook-Signature realm=\"posthaste\"",
        }
    }

    /// Whether the body decides.
    pub fn signs_body(&self) -> bool {
        matches!(self, Auth::Hmac(_) | Auth::StandardWebhooks(_))
    }

    /// What the head alone decides.
    ///
    /// # Errors
    /// See [`Denied`].
    pub fn check_head(&self, headers: &HeaderMap, wall_ms: u64) -> Result<(), Denied> {
        match self {
            Auth::Open => Ok(()),
            Auth::Bearer(tokens) => {
                let shown = credentials(headers, "bearer")?;
                among(shown, tokens, wall_ms, |token| token.expose().to_vec())
            }
            Auth::Basic { user, passwords } => {
                let shown = credentials(headers, "basic")?;
                let shown = STANDARD.decode(shown).map_err(|_| Denied::Wrong)?;
                let whole = |password: &Secret| [user.as_bytes(), b":", password.expose()].concat();
                among(&shown, passwords, wall_ms, whole)
            }
            Auth::Hmac(hmac) => hmac.check_head(headers),
            Auth::StandardWebhooks(webhooks) => webhooks.check_head(headers, wall_ms),
        }
    }

    /// What the body decides, after [`Auth::check_head`].
    ///
    /// # Errors
    /// See [`Denied`].
    pub fn check_body(&self, headers: &HeaderMap, body: &[u8], wall_ms: u64) -> Result<(), Denied> {
        match self {
            Auth::Open | Auth::Bearer(_) | Auth::Basic { .. } => Ok(()),
            Auth::Hmac(hmac) => hmac.check_body(headers, body, wall_ms),
            Auth::StandardWebhooks(webhooks) => webhooks.check_body(headers, body, wall_ms),
        }
    }
}

/// What follows the scheme in the one `authorization` header.
fn credentials<'h>(headers: &'h HeaderMap, scheme: &str) -> Result<&'h [u8], Denied> {
    let value = one(headers, AUTHORIZATION.as_str())?;
    let (found, rest) = value.split_at_checked(scheme.len()).ok_or(Denied::Wrong)?;
    match rest.strip_prefix(b" ") {
        Some(shown) if found.eq_ignore_ascii_case(scheme.as_bytes()) => Ok(shown.trim_ascii()),
        _ => Err(Denied::Wrong),
    }
}

/// The value of a header that must stand once.
pub(super) fn one<'h>(headers: &'h HeaderMap, name: &str) -> Result<&'h [u8], Denied> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Err(Denied::Missing),
        (Some(value), None) => Ok(value.as_bytes()),
        (Some(_), Some(_)) => Err(Denied::Wrong),
    }
}

/// Whether something shown is one of those that still hold. Digests are compared, so that not even a length shows.
fn among(
    shown: &[u8],
    secrets: &[Dated<Secret>],
    wall_ms: u64,
    whole: impl Fn(&Secret) -> Vec<u8>,
) -> Result<(), Denied> {
    let shown = Sha256::digest(shown);
    let mut found = Choice::from(0);
    for secret in secrets {
        let same = shown.ct_eq(&Sha256::digest(whole(&secret.value)));
        found |= same & Choice::from(u8::from(secret.holds_at(wall_ms)));
    }
    if bool::from(found) { Ok(()) } else { Err(Denied::Wrong) }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    pub(crate) fn dated(secret: &str, until_ms: Option<u64>) -> Dated<Secret> {
        Dated { value: Secret::new(secret), until_ms }
    }

    fn check(auth: &Auth, values: &[&str], now_ms: u64, expected: Result<(), Denied>) {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        assert_eq!(auth.check_head(&headers, now_ms), expected, "{values:?} at {now_ms}");
    }

    #[test]
    fn one_of_several_tokens() {
        let auth = Auth::Bearer(vec![dated("old", Some(1000)), dated("new", None)]);
        check(&auth, &["Bearer new"], 0, Ok(()));
        check(&auth, &["bearer  new"], 0, Ok(()));
        check(&auth, &["Bearer old"], 999, Ok(()));
        check(&auth, &["Bearer old"], 1000, Err(Denied::Wrong));
        check(&auth, &[], 0, Err(Denied::Missing));
        for wrong in [
            "Bearer",
            "Bearer ",
            "Bearer ne",
            "Bearer newer",
            "Basic new",
            "new",
            "Bearer, new",
            "",
        ] {
            check(&auth, &[wrong], 0, Err(Denied::Wrong));
        }
        check(&auth, &["Bearer new", "Bearer new"], 0, Err(Denied::Wrong));
        assert!(!auth.signs_body());
    }

    #[test]
    fn a_user_and_one_of_several_passwords() {
        let passwords = vec![dated("p:1", None), dated("p2", Some(5))];
        let auth = Auth::Basic { user: "me".to_owned(), passwords };
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        check(&auth, &[&basic("me:p:1")], 0, Ok(()));
        check(&auth, &[&basic("me:p2")], 4, Ok(()));
        check(&auth, &[&basic("me:p2")], 5, Err(Denied::Wrong));
        for wrong in ["me:", "you:p:1", "me", "mep:1", ":p:1", "me:p:1 "] {
            check(&auth, &[&basic(wrong)], 0, Err(Denied::Wrong));
        }
        check(&auth, &["Basic ?"], 0, Err(Denied::Wrong));
        check(&auth, &[], 0, Err(Denied::Missing));
    }
}
