//! An API key, in a header or in the query.

use std::fmt;

use http::HeaderName;
use http::uri::PathAndQuery;
use url::form_urlencoded::byte_serialize;

use super::Auth;
use crate::secret::Secret;

/// The longest key in a query: beyond, servers refuse the request line.
const QUERY_KEY_MAX: usize = 4096;

/// A key in a header.
///
/// # Errors
/// A key that no header can hold.
pub fn in_header(name: HeaderName, key: &Secret) -> Result<Auth, String> {
    let trimmed = key.expose().trim_ascii();
    if trimmed.is_empty() || trimmed.len() != key.expose().len() {
        return Err("the key begins or ends with blanks, which HTTP does not keep".to_owned());
    }
    Ok(Auth::Header(name, super::header_value(key.expose(), "the key")?))
}

/// A key in the query.
///
/// # Errors
/// A key that is not text, or too long.
pub fn in_query(name: &str, key: &Secret) -> Result<Auth, String> {
    let value = super::text(key, "the key")?;
    if value.len() > QUERY_KEY_MAX {
        return Err(format!("the key is longer than {QUERY_KEY_MAX} bytes"));
    }
    let encode = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
    let encoded = format!("{}={}", encode(name), encode(value));
    Ok(Auth::Query(Pair { name: name.to_owned(), key: key.clone(), encoded }))
}

/// A name and a key, encoded for a query.
#[derive(Clone, PartialEq)]
pub struct Pair {
    name: String,
    key: Secret,
    encoded: String,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pair({}={:?})", self.name, self.key)
    }
}

impl Pair {
    /// The pair behind the query that is there.
    pub fn append_to(&self, plain: &PathAndQuery) -> PathAndQuery {
        let join = match plain.query() {
            None => "?",
            Some("") => "",
            Some(_) => "&",
        };
        let whole = format!("{plain}{join}{}", self.encoded);
        // What is put together of legal parts is legal, unless it is too long: then the plain one goes out, and is refused.
        PathAndQuery::try_from(whole).unwrap_or_else(|_| plain.clone())
    }

    /// The key as it is written, and as it is sent.
    pub(super) fn forms(&self) -> [&[u8]; 2] {
        let sent = self.encoded.split_once('=').map_or("", |(_, sent)| sent);
        [self.key.expose(), sent.as_bytes()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(plain: &'static str, name: &str, key: &str) -> String {
        let auth = in_query(name, &Secret::new(key)).unwrap();
        auth.path_and_query(&PathAndQuery::from_static(plain)).to_string()
    }

    #[test]
    fn a_key_in_the_query_is_appended_and_encoded() {
        assert_eq!(sent("/a", "key", "k"), "/a?key=k");
        assert_eq!(sent("/a?", "key", "k"), "/a?key=k");
        assert_eq!(sent("/a?b=c", "api key", "a&b=c/ä"), "/a?b=c&api+key=a%26b%3Dc%2F%C3%A4");
    }

    #[test]
    fn a_key_in_the_query_cannot_be_printed() {
        let auth = in_query("key", &Secret::new("hunter2")).unwrap();
        assert_eq!(format!("{auth:?}"), "Query(Pair(key=Secret(f52fbd32)))");
        assert!(in_query("key", &Secret::new("a\nb")).is_err());
        assert!(in_query("key", &Secret::new(vec![b'x'; QUERY_KEY_MAX + 1])).is_err());
    }

    #[test]
    fn a_key_in_a_header_is_sensitive() {
        let name = HeaderName::from_static("x-api-key");
        let Auth::Header(sent, value) = in_header(name.clone(), &Secret::new("k 1")).unwrap()
        else {
            panic!("no header");
        };
        assert_eq!(
            (sent, value.as_bytes(), value.is_sensitive()),
            (name.clone(), &b"k 1"[..], true)
        );
        for key in [" k", "k ", "k\n", "  "] {
            assert!(in_header(name.clone(), &Secret::new(key)).is_err(), "{key:?}");
        }
    }
}
