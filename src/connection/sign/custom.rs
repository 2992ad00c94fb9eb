//! An HMAC in a header of the user's: which hash, which encoding, what is hashed and what the header says around it.
//!
//! The content's pieces are hashed where they lie. Each key makes a header of its own, the newest first.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use ring::hmac;

use super::Message;
use super::keys::Keys;
use super::pattern::{CONTENT, Pattern, Placeholder, VALUE};
use crate::secret::Secret;

/// The `hmac` table of a connection.
#[derive(Clone, Debug, PartialEq)]
pub struct CustomHmac {
    header: HeaderName,
    encoding: Encoding,
    content: Pattern,
    value: Pattern,
    keys: Keys<HmacKey>,
}

/// Which hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// HMAC-SHA256.
    Sha256,
    /// HMAC-SHA512.
    Sha512,
}

/// How the signature is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Lower case hexadecimal digits.
    Hex,
    /// Base64 with padding (RFC 4648, 4).
    Base64,
}

/// The longest encoded signature: 64 bytes in hex.
const SIGNATURE_BYTES_MAX: usize = 128;

/// A secret, ready to sign.
#[derive(Clone)]
pub struct HmacKey {
    secret: Secret,
    algorithm: Algorithm,
    key: hmac::Key,
}

impl HmacKey {
    /// The secret's bytes are the key.
    pub fn new(secret: &Secret, algorithm: Algorithm) -> HmacKey {
        let hash = match algorithm {
            Algorithm::Sha256 => hmac::HMAC_SHA256,
            Algorithm::Sha512 => hmac::HMAC_SHA512,
        };
        let key = hmac::Key::new(hash, secret.expose());
        HmacKey { secret: secret.clone(), algorithm, key }
    }
}

impl PartialEq for HmacKey {
    fn eq(&self, other: &HmacKey) -> bool {
        self.secret == other.secret && self.algorithm == other.algorithm
    }
}

impl fmt::Debug for HmacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HmacKey({:?}, {})", self.algorithm, self.secret.fingerprint())
    }
}

/// What is hashed.
///
/// # Errors
/// A text with a mistake in it.
pub fn content(text: &str) -> Result<Pattern, String> {
    Pattern::parse(text, CONTENT)
}

/// What the header holds.
///
/// # Errors
/// A text with a mistake in it, without the signature, or that no header can hold.
pub fn value(text: &str) -> Result<Pattern, String> {
    let pattern = Pattern::parse(text, VALUE)?;
    if !pattern.has(Placeholder::Signature) {
        return Err("has no {{ signature }}, so nothing would be signed".to_owned());
    }
    if text.trim() != text {
        return Err("begins or ends with blanks, which HTTP does not keep; remove them".to_owned());
    }
    if !pattern.texts().all(|text| HeaderValue::from_str(text).is_ok()) {
        return Err("holds a line break or another control character".to_owned());
    }
    Ok(pattern)
}

impl CustomHmac {
    /// Puts the parts together; `content` and `value` come from the functions of these names.
    pub fn new(
        header: HeaderName,
        encoding: Encoding,
        content: Pattern,
        value: Pattern,
        keys: Keys<HmacKey>,
    ) -> CustomHmac {
        CustomHmac { header, encoding, content, value, keys }
    }

    /// The header that it sets.
    pub fn header(&self) -> &HeaderName {
        &self.header
    }

    /// The keys.
    pub fn keys(&self) -> &Keys<HmacKey> {
        &self.keys
    }

    /// The header's values, one for each key that has not ended at `now` (Unix seconds), each in one allocation.
    pub fn sign(&self, message: &Message<'_>, now: u64) -> impl Iterator<Item = HeaderValue> {
        self.keys.live(now).filter_map(|key| self.sign_with(key, message))
    }

    fn sign_with(&self, key: &HmacKey, message: &Message<'_>) -> Option<HeaderValue> {
        let mut context = hmac::Context::with_key(&key.key);
        self.content.fill(message, b"", |piece| context.update(piece));
        let mut place = [0; SIGNATURE_BYTES_MAX];
        let signature = self.encoding.encode(context.sign().as_ref(), &mut place);
        let mut length = 0;
        self.value.fill(message, signature, |piece| length += piece.len());
        let mut value = Vec::with_capacity(length);
        self.value.fill(message, signature, |piece| value.extend_from_slice(piece));
        HeaderValue::from_maybe_shared(Bytes::from(value)).ok()
    }
}

impl Encoding {
    fn encode<'p>(self, bytes: &[u8], place: &'p mut [u8; SIGNATURE_BYTES_MAX]) -> &'p [u8] {
        let length = match self {
            Encoding::Base64 => BASE64.encode_slice(bytes, place).unwrap_or(0),
            Encoding::Hex => {
                let digit = |half: u8| match half {
                    0..10 => b'0' + half,
                    _ => b'a' + half - 10,
                };
                for (byte, pair) in bytes.iter().zip(place.chunks_exact_mut(2)) {
                    if let [high, low] = pair {
                        (*high, *low) = (digit(byte >> 4), digit(byte & 15));
                    }
                }
                bytes.len() * 2
            }
        };
        place.get(..length).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use http::{Method, Uri};

    use super::super::keys::Dated;
    use super::*;

    fn signed(
        algorithm: Algorithm,
        encoding: Encoding,
        texts: (&str, &str),
        keys: &[(&str, Option<u64>)],
    ) -> Vec<String> {
        let dated = |(secret, until): &(&str, Option<u64>)| Dated {
            key: HmacKey::new(&Secret::new(*secret), algorithm),
            until: *until,
        };
        let custom = CustomHmac::new(
            HeaderName::from_static("x-signature"),
            encoding,
            content(texts.0).unwrap(),
            value(texts.1).unwrap(),
            Keys::new(keys.iter().map(dated).collect()),
        );
        let message = Message {
            id: b"evt_1",
            timestamp: b"1700000000",
            attempt: b"1",
            method: &Method::POST,
            origin: "http://x",
            uri: &Uri::from_static("/"),
            body: b"what do ya want for nothing?",
        };
        let values = custom.sign(&message, 1_700_000_000);
        values.map(|value| value.to_str().unwrap().to_owned()).collect()
    }

    /// RFC 4231, test case 2.
    #[test]
    fn the_vectors_of_the_rfc() {
        let keys = [("Jefe", None)];
        let plain = ("{{ body }}", "{{ signature }}");
        let sha256 = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(signed(Algorithm::Sha256, Encoding::Hex, plain, &keys), [sha256]);
        let sha512 = "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737";
        assert_eq!(signed(Algorithm::Sha512, Encoding::Hex, plain, &keys), [sha512]);
        let base64 = "W9zBRr9gdU5qBCQmCJV1x1oAPwidJzmDnexYuWTsOEM=";
        assert_eq!(signed(Algorithm::Sha256, Encoding::Base64, plain, &keys), [base64]);
    }

    #[test]
    fn content_and_value_are_templates() {
        let shape = ("{{ timestamp }}.{{ body }}", "t={{ timestamp }},v1={{ signature }}");
        let keys = [("Jefe", None)];
        let of = |texts| signed(Algorithm::Sha256, Encoding::Hex, texts, &keys).remove(0);
        // openssl dgst -sha256 -hmac Jefe, of "1700000000.what do ya want for nothing?".
        let expected =
            "t=1700000000,v1=1cdd0650c8be1cb0974b1788d458b1e781206cfef59b85faafc582d2e182c57e";
        assert_eq!(of(shape), expected);
    }

    #[test]
    fn each_key_that_has_not_ended_makes_a_value() {
        let plain = ("{{ body }}", "{{ signature }}");
        let keys = [("old", Some(1_700_000_001)), ("gone", Some(1_700_000_000)), ("Jefe", None)];
        let values = signed(Algorithm::Sha256, Encoding::Hex, plain, &keys);
        assert_eq!(values.len(), 2);
        assert!(values[0].starts_with("5bdcc146"), "the newest is first: {values:?}");
        assert!(signed(Algorithm::Sha256, Encoding::Hex, plain, &keys[1..2]).is_empty());
    }

    #[test]
    fn values_that_no_header_can_hold_are_refused() {
        for (text, word) in [
            ("v1", "no {{ signature }}"),
            ("{{ signature }} ", "blanks"),
            ("a\n{{ signature }}", "control"),
            ("{{ signature }}{{ body }}", "\"body\""),
        ] {
            let error = value(text).unwrap_err();
            assert!(error.contains(word), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_key_cannot_be_printed() {
        let shown = format!("{:?}", HmacKey::new(&Secret::new("hunter2"), Algorithm::Sha256));
        assert_eq!(shown, "HmacKey(Sha256, f52fbd32)");
    }
}
