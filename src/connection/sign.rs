//! Signatures of outbound requests (spec 3, `sign`): made for each attempt anew, over exactly the bytes that are sent.
//!
//! A connection signs by [Standard Webhooks](https://www.standardwebhooks.com) ([`standard`]) or by an HMAC of its own shape
//! ([`custom`]). Keys are prepared when the configuration is loaded. Several keys sign beside each other, so that a receiver can
//! change from one to the next; one that has ended does not sign any more. The time that decides that is the attempt's own, the
//! one in `webhook-timestamp`.

use http::header::{HeaderMap, HeaderName};
use http::{Method, Uri};

pub mod custom;
pub mod keys;
pub mod pattern;
pub mod standard;

use custom::CustomHmac;
use standard::StandardWebhooks;

/// How a connection signs.
#[derive(Clone, Debug, PartialEq)]
pub enum Sign {
    /// `webhook-signature`, as Standard Webhooks has it.
    Standard(StandardWebhooks),
    /// An HMAC in a header of the user's.
    Custom(CustomHmac),
}

/// All that a signature can be made of: a request as it is about to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Message<'m> {
    /// `webhook-id`.
    pub id: &'m [u8],
    /// `webhook-timestamp`: Unix seconds of this attempt, in digits.
    pub timestamp: &'m [u8],
    /// `posthaste-attempt`: from 1, in digits.
    pub attempt: &'m [u8],
    /// The method of the request line.
    pub method: &'m Method,
    /// Scheme and authority: `https://example.com`.
    pub origin: &'m str,
    /// Path and query of the request line.
    pub uri: &'m Uri,
    /// The body, byte for byte.
    pub body: &'m [u8],
}

/// Every key has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("every secret of sign has ended (until), so nothing can be signed; add a new one")]
pub struct Ended;

impl Sign {
    /// The header that carries the signature.
    pub fn header(&self) -> HeaderName {
        match self {
            Sign::Standard(_) => standard::SIGNATURE,
            Sign::Custom(custom) => custom.header().clone(),
        }
    }

    /// Puts the signatures of all keys that have not ended at `now` (Unix seconds) into `headers`, the newest first.
    ///
    /// # Errors
    /// When all keys have ended. Then `headers` is as it was.
    pub fn sign(
        &self,
        message: &Message<'_>,
        now: u64,
        headers: &mut HeaderMap,
    ) -> Result<(), Ended> {
        match self {
            Sign::Standard(standard) => {
                let signature = standard.sign(message, now).ok_or(Ended)?;
                headers.insert(standard::SIGNATURE, signature);
            }
            Sign::Custom(custom) => {
                let mut values = custom.sign(message, now);
                headers.insert(custom.header(), values.next().ok_or(Ended)?);
                for value in values {
                    headers.append(custom.header(), value);
                }
            }
        }
        Ok(())
    }

    /// When the last key ends, in Unix seconds; `None` when one of them never does.
    pub fn ends(&self) -> Option<u64> {
        match self {
            Sign::Standard(standard) => standard.keys().ends(),
            Sign::Custom(custom) => custom.keys().ends(),
        }
    }

    /// The public keys (`whpk_…`) that receivers verify with, of the keys that have one.
    pub fn public_keys(&self) -> Vec<String> {
        match self {
            Sign::Standard(standard) => {
                let keys = standard.keys().all();
                keys.filter_map(|key| key.public()).collect()
            }
            Sign::Custom(_) => Vec::new(),
        }
    }
}
