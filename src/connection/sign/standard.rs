//! Standard Webhooks 1.0: `v1` is HMAC-SHA256 with a `whsec_` secret, `v1a` is ed25519 with a `whsk_` key. What is signed is
//! `id.timestamp.body`; `webhook-signature` holds one signature for each key, with a space between.
//!
//! Signing a `v1` hashes the body where it lies. The `v1a` of our library wants the message in one piece, so it is put together.
//! Verifying is here too, for `posthaste listen`.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use base64::engine::general_purpose::STANDARD_PAD_INDIFFERENT as BASE64_ANY_PAD;
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use ring::hmac;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

use super::Message;
use super::keys::Keys;
use crate::secret::Secret;

/// The header of the signatures.
pub const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
/// How far a timestamp may be from the verifier's clock, in seconds.
pub const TOLERANCE_SECS: u64 = 300;

/// The bytes of a `whsec_` secret. The specification says 24 to 64; some providers hand out 16.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 16..=64;
/// The bytes of the private half of a `whsk_` key.
const SEED_BYTES: usize = 32;
/// `v1,` and 32 bytes in base64.
const V1_BYTES: usize = 3 + 44;
/// `v1a,` and 64 bytes in base64.
const V1A_BYTES: usize = 4 + 88;

/// The `standard_webhooks` table of a connection.
#[derive(Clone, Debug, PartialEq)]
pub struct StandardWebhooks(Keys<Key>);

/// One `whsec_` secret or `whsk_` key, ready to sign.
#[derive(Clone)]
pub struct Key {
    secret: Secret,
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    V1(hmac::Key),
    V1a(Arc<Ed25519KeyPair>),
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        self.secret == other.secret
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.secret.fingerprint())
    }
}

impl Key {
    /// Reads `whsec_…` or `whsk_…`.
    ///
    /// # Errors
    /// A sentence that says what is wrong, without the secret.
    pub fn parse(secret: &Secret) -> Result<Key, String> {
        let text = text(secret)?;
        let kind = if let Some(encoded) = text.strip_prefix("whsec_") {
            Kind::V1(hmac::Key::new(hmac::HMAC_SHA256, &symmetric(encoded)?))
        } else if let Some(encoded) = text.strip_prefix("whsk_") {
            Kind::V1a(Arc::new(key_pair(&decode(encoded, "whsk_")?)?))
        } else {
            return Err(
                "does not begin with whsec_ (a shared secret) or whsk_ (an ed25519 key)".to_owned()
            );
        };
        Ok(Key { secret: secret.clone(), kind })
    }

    /// The public half as `whpk_…`, where there is one.
    pub fn public(&self) -> Option<String> {
        match &self.kind {
            Kind::V1(_) => None,
            Kind::V1a(pair) => Some(format!("whpk_{}", BASE64.encode(pair.public_key()))),
        }
    }

    fn signature_bytes(&self) -> usize {
        match self.kind {
            Kind::V1(_) => V1_BYTES,
            Kind::V1a(_) => V1A_BYTES,
        }
    }

    fn append(&self, message: &Message<'_>, out: &mut Vec<u8>) {
        match &self.kind {
            Kind::V1(key) => {
                let mut context = hmac::Context::with_key(key);
                pieces(message).iter().for_each(|piece| context.update(piece));
                out.extend_from_slice(b"v1,");
                encode(context.sign().as_ref(), out);
            }
            Kind::V1a(pair) => {
                out.extend_from_slice(b"v1a,");
                encode(pair.sign(&pieces(message).concat()).as_ref(), out);
            }
        }
    }
}

impl StandardWebhooks {
    /// Signs with these.
    pub fn new(keys: Keys<Key>) -> StandardWebhooks {
        StandardWebhooks(keys)
    }

    /// The keys.
    pub fn keys(&self) -> &Keys<Key> {
        &self.0
    }

    /// The value of `webhook-signature`, in one allocation; `None` when all keys have ended at `now`, in Unix seconds.
    pub fn sign(&self, message: &Message<'_>, now: u64) -> Option<HeaderValue> {
        let length: usize = self.0.live(now).map(|key| key.signature_bytes() + 1).sum();
        let mut value = Vec::with_capacity(length.checked_sub(1)?);
        for key in self.0.live(now) {
            if !value.is_empty() {
                value.push(b' ');
            }
            key.append(message, &mut value);
        }
        HeaderValue::from_maybe_shared(Bytes::from(value)).ok()
    }
}

/// `id.timestamp.body`.
fn pieces<'m>(message: &Message<'m>) -> [&'m [u8]; 5] {
    [message.id, b".", message.timestamp, b".", message.body]
}

/// Base64 at the end of what is there; `out` has room.
fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, b'=');
    if let Some(place) = out.get_mut(start..) {
        // The place is as long as the encoding.
        let _ = BASE64.encode_slice(bytes, place);
    }
}

fn text(secret: &Secret) -> Result<&str, String> {
    std::str::from_utf8(secret.expose()).map(str::trim).map_err(|_| "is not text".to_owned())
}

fn decode(encoded: &str, prefix: &str) -> Result<Vec<u8>, String> {
    BASE64_ANY_PAD.decode(encoded).map_err(|_| format!("what follows {prefix} is not base64"))
}

fn symmetric(encoded: &str) -> Result<Vec<u8>, String> {
    let bytes = decode(encoded, "whsec_")?;
    match SECRET_BYTES.contains(&bytes.len()) {
        true => Ok(bytes),
        false => Err(format!(
            "what follows whsec_ is {} bytes in base64, {} to {} are allowed",
            bytes.len(),
            SECRET_BYTES.start(),
            SECRET_BYTES.end()
        )),
    }
}

/// Private and public half, or the private one alone.
fn key_pair(bytes: &[u8]) -> Result<Ed25519KeyPair, String> {
    let pair = match bytes.split_at_checked(SEED_BYTES) {
        Some((seed, [])) => Ed25519KeyPair::from_seed_unchecked(seed),
        Some((seed, public)) => Ed25519KeyPair::from_seed_and_public_key(seed, public),
        None => Ed25519KeyPair::from_seed_unchecked(bytes),
    };
    pair.map_err(|_| {
        "what follows whsk_ is no ed25519 key: 32 private bytes and the 32 public ones that belong to them".to_owned()
    })
}

/// Something to verify with: what the sender signs with, or the public half of it.
#[derive(Clone)]
pub enum Verifier {
    /// Of a `whsec_` secret.
    V1(hmac::Key),
    /// Of a `whsk_` or `whpk_` key: the public half.
    V1a(Vec<u8>),
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verifier::V1(_) => "Verifier(v1)",
            Verifier::V1a(_) => "Verifier(v1a)",
        })
    }
}

/// Why a signature is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// One of the three headers is not there.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// `webhook-timestamp` is not a number.
    #[error("webhook-timestamp is not a number of seconds")]
    Timestamp,
    /// The timestamp is more than [`TOLERANCE_SECS`] behind the clock.
    #[error("webhook-timestamp is too old")]
    Old,
    /// The timestamp is more than [`TOLERANCE_SECS`] ahead of the clock.
    #[error("webhook-timestamp is in the future")]
    Early,
    /// No signature fits.
    #[error("no signature fits")]
    Signature,
}

impl Verifier {
    /// Reads `whsec_…`, `whsk_…` or `whpk_…`.
    ///
    /// # Errors
    /// A sentence that says what is wrong, without the secret.
    pub fn parse(secret: &Secret) -> Result<Verifier, String> {
        if let Some(encoded) = text(secret)?.strip_prefix("whpk_") {
            let public = decode(encoded, "whpk_")?;
            return match public.len() {
                SEED_BYTES => Ok(Verifier::V1a(public)),
                length => Err(format!("what follows whpk_ is {length} bytes in base64, not 32")),
            };
        }
        Ok(match Key::parse(secret)?.kind {
            Kind::V1(key) => Verifier::V1(key),
            Kind::V1a(pair) => Verifier::V1a(pair.public_key().as_ref().to_vec()),
        })
    }

    fn accepts(&self, version: &[u8], signature: &[u8], message: &[u8]) -> bool {
        match (self, version) {
            (Verifier::V1(key), b"v1") => hmac::verify(key, message, signature).is_ok(),
            (Verifier::V1a(public), b"v1a") => {
                UnparsedPublicKey::new(&ED25519, public).verify(message, signature).is_ok()
            }
            _ => false,
        }
    }
}

/// What a receiver looks at.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'c> {
    /// `webhook-id`.
    pub id: Option<&'c [u8]>,
    /// `webhook-timestamp`.
    pub timestamp: Option<&'c [u8]>,
    /// `webhook-signature`.
    pub signature: Option<&'c [u8]>,
    /// The body, byte for byte.
    pub body: &'c [u8],
}

/// Whether one of the signatures was made with one of the keys, and lately. `now` is in Unix seconds. Comparing takes the same
/// time whatever differs.
///
/// # Errors
/// Says what does not fit.
pub fn verify(verifiers: &[Verifier], claim: &Claim<'_>, now: u64) -> Result<(), Mismatch> {
    let id = claim.id.ok_or(Mismatch::Missing("webhook-id"))?;
    let timestamp = claim.timestamp.ok_or(Mismatch::Missing("webhook-timestamp"))?;
    let signatures = claim.signature.ok_or(Mismatch::Missing("webhook-signature"))?;
    let digits = std::str::from_utf8(timestamp).map_err(|_| Mismatch::Timestamp)?;
    let at: u64 = digits.parse().map_err(|_| Mismatch::Timestamp)?;
    if at.saturating_add(TOLERANCE_SECS) < now {
        return Err(Mismatch::Old);
    }
    if at > now.saturating_add(TOLERANCE_SECS) {
        return Err(Mismatch::Early);
    }
    let message = [id, b".", timestamp, b".", claim.body].concat();
    for entry in signatures.split(|byte| *byte == b' ') {
        let mut halves = entry.splitn(2, |byte| *byte == b',');
        let (Some(version), Some(encoded)) = (halves.next(), halves.next()) else {
            continue;
        };
        let Ok(signature) = BASE64_ANY_PAD.decode(encoded) else {
            continue;
        };
        if verifiers.iter().any(|verifier| verifier.accepts(version, &signature, &message)) {
            return Ok(());
        }
    }
    Err(Mismatch::Signature)
}

#[cfg(test)]
mod tests;
