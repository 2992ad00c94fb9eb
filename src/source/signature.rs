//! Signatures that producers make over their bodies.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, HeaderName};
use ring::{hmac, signature};

use super::auth::{Dated, Denied, one};
use crate::secret::Secret;

/// Base64 with or without padding, as it comes.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Signatures looked at in one header; more are not read.
const SIGNATURES_MAX: usize = 16;

/// The shortest secret of a Standard Webhook, in bytes (its specification, "Signature scheme").
const SECRET_BYTES_MIN: usize = 24;

/// A signature over the body in a header of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hmac {
    /// Where it stands.
    pub header: HeaderName,
    /// How it is made.
    pub algorithm: Algorithm,
    /// How it is written.
    pub encoding: Encoding,
    /// What stands before it, such as `sha256=`.
    pub prefix: String,
    /// Any of them may have made it.
    pub secrets: Vec<Dated<Secret>>,
}

/// How a signature is made (RFC 2104).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// HMAC with SHA-256.
    Sha256,
    /// HMAC with SHA-512.
    Sha512,
}

/// How a signature is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Two digits a byte, in either case.
    Hex,
    /// RFC 4648, section 4, padded or not.
    Base64,
}

impl Hmac {
    pub(super) fn check_head(&self, headers: &HeaderMap) -> Result<(), Denied> {
        self.shown(headers).map(drop)
    }

    pub(super) fn check_body(
        &self,
        headers: &HeaderMap,
        body: &[u8],
        wall_ms: u64,
    ) -> Result<(), Denied> {
        let shown = self.shown(headers)?;
        let algorithm = match self.algorithm {
            Algorithm::Sha256 => hmac::HMAC_SHA256,
            Algorithm::Sha512 => hmac::HMAC_SHA512,
        };
        let mut found = false;
        for secret in self.secrets.iter().filter(|secret| secret.holds_at(wall_ms)) {
            let key = hmac::Key::new(algorithm, secret.value.expose());
            found |= hmac::verify(&key, body, &shown).is_ok();
        }
        if found { Ok(()) } else { Err(Denied::Signature) }
    }

    fn shown(&self, headers: &HeaderMap) -> Result<Vec<u8>, Denied> {
        let value = one(headers, self.header.as_str())?;
        let text = value.strip_prefix(self.prefix.as_bytes()).ok_or(Denied::Signature)?;
        let decoded = match self.encoding {
            Encoding::Hex => from_hex(text),
            Encoding::Base64 => BASE64.decode(text).ok(),
        };
        decoded.ok_or(Denied::Signature)
    }
}

fn from_hex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, []) = text.as_chunks::<2>() else {
        return None;
    };
    pairs.iter().map(|[high, low]| Some((digit(*high)? << 4) | digit(*low)?)).collect()
}

/// The Standard Webhooks specification: `webhook-signature` over `webhook-id.webhook-timestamp.body`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandardWebhooks {
    /// Any of them may have made one of the signatures.
    pub keys: Vec<Dated<VerifyKey>>,
    /// How far `webhook-timestamp` may be from now, either way, in seconds.
    pub tolerance_s: u64,
}

/// What verifies a signature of a Standard Webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VerifyKey {
    /// `v1`: the bytes of a `whsec_` secret.
    Symmetric(Secret),
    /// `v1a`: an ed25519 public key, `whpk_`.
    Public([u8; 32]),
}

impl VerifyKey {
    /// Reads a secret as it is handed out: `whsec_` or `whpk_` and base64; without a word before it, it is a `whsec_` one.
    ///
    /// # Errors
    /// What is wrong with it, without a part of it.
    pub fn parse(secret: &Secret) -> Result<VerifyKey, String> {
        let text = secret.expose().trim_ascii();
        if text.starts_with(b"whsk_") {
            return Err(
                "is a private key (whsk_), which only the sender has; write the public one, whpk_"
                    .to_owned(),
            );
        }
        let (public, rest) = match text.strip_prefix(b"whpk_") {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix(b"whsec_").unwrap_or(text)),
        };
        let bytes = BASE64.decode(rest).map_err(|_| {
            "is not a secret of a Standard Webhook: whsec_ or whpk_, then base64".to_owned()
        })?;
        if public {
            let key = bytes
                .try_into()
                .map_err(|_| "is not an ed25519 key, which has 32 bytes".to_owned())?;
            return Ok(VerifyKey::Public(key));
        }
        if bytes.len() < SECRET_BYTES_MIN {
            return Err(format!(
                "has {} bytes, a whsec_ secret has at least {SECRET_BYTES_MIN}",
                bytes.len()
            ));
        }
        Ok(VerifyKey::Symmetric(Secret::new(bytes)))
    }

    /// A key that verifies nothing, for where secrets are not read.
    pub fn stand_in() -> VerifyKey {
        VerifyKey::Public([0; 32])
    }

    fn verifies(&self, version: &[u8], signed: &[u8], shown: &[u8]) -> bool {
        match self {
            VerifyKey::Symmetric(secret) if version == b"v1" => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose());
                hmac::verify(&key, signed, shown).is_ok()
            }
            VerifyKey::Public(key) if version == b"v1a" => {
                let key = signature::UnparsedPublicKey::new(&signature::ED25519, key);
                key.verify(signed, shown).is_ok()
            }
            VerifyKey::Symmetric(_) | VerifyKey::Public(_) => false,
        }
    }
}

const ID: &str = "webhook-id";
const TIMESTAMP: &str = "webhook-timestamp";
const SIGNATURE: &str = "webhook-signature";

impl StandardWebhooks {
    pub(super) fn check_head(&self, headers: &HeaderMap, wall_ms: u64) -> Result<(), Denied> {
        one(headers, ID)?;
        one(headers, SIGNATURE)?;
        let timestamp = std::str::from_utf8(one(headers, TIMESTAMP)?).unwrap_or_default();
        let digits = !timestamp.is_empty() && timestamp.bytes().all(|byte| byte.is_ascii_digit());
        let at: u64 = timestamp.parse().ok().filter(|_| digits).ok_or(Denied::Timestamp)?;
        if at.abs_diff(wall_ms / 1000) > self.tolerance_s {
            return Err(Denied::Timestamp);
        }
        Ok(())
    }

    pub(super) fn check_body(
        &self,
        headers: &HeaderMap,
        body: &[u8],
        wall_ms: u64,
    ) -> Result<(), Denied> {
        let signed = [one(headers, ID)?, one(headers, TIMESTAMP)?, body].join(&b'.');
        let shown = one(headers, SIGNATURE)?;
        let mut found = false;
        for signature in shown.split(|byte| *byte == b' ').take(SIGNATURES_MAX) {
            let Some(comma) = signature.iter().position(|byte| *byte == b',') else {
                continue;
            };
            let (version, rest) = signature.split_at(comma);
            let Ok(bytes) = BASE64.decode(rest.get(1..).unwrap_or_default()) else {
                continue;
            };
            for key in self.keys.iter().filter(|key| key.holds_at(wall_ms)) {
                found |= key.value.verifies(version, &signed, &bytes);
            }
        }
        if found { Ok(()) } else { Err(Denied::Signature) }
    }
}

#[cfg(test)]
mod tests;
