//! CloudEvents 1.0 as they come over HTTP (its HTTP binding 1.0.2 and JSON format 1.0.2).
//!
//! | mode | how it is told | the event's body |
//! |---|---|---|
//! | binary | a `ce-specversion` header | the request's body; the attributes are headers |
//! | structured | `application/cloudevents+json` | the JSON object, byte for byte |
//! | batch | `application/cloudevents-batch+json` | an element of the array, byte for byte: a structured event |
//!
//! The attributes are checked, and nothing is made of them but the event's type and its key: `type` is the type, `source` and
//! `id` are the idempotency key, where the request names none.

use std::borrow::Cow;

use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use sha2::{Digest, Sha256};

mod json;
mod rules;

pub(super) use json::parse;
use rules::Rule;

use super::refusal::{Refusal, Refused};
use crate::secret::hex;

/// The media type of a structured event.
pub(super) const STRUCTURED: &str = "application/cloudevents+json";
/// The media type of several.
pub(super) const BATCH: &str = "application/cloudevents-batch+json";

/// The version that is understood.
const VERSION: &str = "1.0";
/// The longest text of one attribute.
const TEXT_BYTES_MAX: usize = 16 * 1024;

/// How an event comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// It is no CloudEvent.
    Plain,
    Binary,
    Structured,
    Batch,
}

/// What the attributes say about an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attributes {
    /// Its type.
    pub(super) kind: String,
    /// Its idempotency key, made of `source` and `id`.
    pub(super) key: String,
}

/// An attribute that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    /// Whether the text is no JSON object at all.
    pub(super) no_object: bool,
    /// What is wrong, with the attribute's name.
    pub(super) why: String,
}

impl Wrong {
    fn attribute(name: &str, why: impl std::fmt::Display) -> Wrong {
        let name: String = name.chars().take(64).collect();
        Wrong { no_object: false, why: format!("the attribute {name:?} {why}") }
    }

    fn json(why: impl std::fmt::Display) -> Wrong {
        Wrong { no_object: true, why: format!("it is not a JSON object: {why}") }
    }
}

impl From<Wrong> for Refused {
    fn from(wrong: Wrong) -> Refused {
        let why = if wrong.no_object { Refusal::InvalidJson } else { Refusal::InvalidCloudEvent };
        Refused::with(why, wrong.why)
    }
}

/// How an event comes. What is said to be CloudEvents in another form than JSON is refused.
pub(super) fn mode(headers: &HeaderMap) -> Result<Mode, Refused> {
    const FAMILY: &[u8] = b"application/cloudevents";
    let media_type =
        headers.get(CONTENT_TYPE).map_or(&b""[..], |value| media_type(value.as_bytes()));
    let begins = media_type.get(..FAMILY.len()).is_some_and(|it| it.eq_ignore_ascii_case(FAMILY));
    if !begins {
        let binary = headers.contains_key("ce-specversion");
        return Ok(if binary { Mode::Binary } else { Mode::Plain });
    }
    let mode = if media_type.eq_ignore_ascii_case(STRUCTURED.as_bytes()) {
        Mode::Structured
    } else if media_type.eq_ignore_ascii_case(BATCH.as_bytes()) {
        Mode::Batch
    } else {
        let detail = "CloudEvents are taken as JSON: application/cloudevents+json or application/cloudevents-batch+json";
        return Err(Refused::with(Refusal::UnsupportedMediaType, detail));
    };
    readable(headers)?;
    Ok(mode)
}

/// A body that is looked into must not be encoded.
pub(super) fn readable(headers: &HeaderMap) -> Result<(), Refused> {
    let plain = |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if headers.get_all(CONTENT_ENCODING).iter().all(plain) {
        return Ok(());
    }
    let detail = "the body has a content-encoding, and it must be read here; send it as it is";
    Err(Refused::with(Refusal::UnsupportedMediaType, detail))
}

/// A content type without its parameters.
pub(super) fn media_type(value: &[u8]) -> &[u8] {
    let end = value.iter().position(|byte| *byte == b';').unwrap_or(value.len());
    value.get(..end).unwrap_or_default().trim_ascii()
}

/// The attributes of an event in binary mode.
pub(super) fn binary(headers: &HeaderMap) -> Result<Attributes, Wrong> {
    let mut found = Found::default();
    for name in headers.keys() {
        let Some(attribute) = name.as_str().strip_prefix("ce-") else {
            continue;
        };
        let mut values = headers.get_all(name).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(Wrong::attribute(attribute, "stands twice"));
        };
        let text = header_text(value.as_bytes())
            .ok_or_else(|| Wrong::attribute(attribute, "is not percent-encoded UTF-8"))?;
        found.note(attribute, &text)?;
    }
    found.finish()
}

/// The text of a header's value: quotes are taken off, then percent-encoding once (HTTP binding 3.1.3.2).
fn header_text(value: &[u8]) -> Option<Cow<'_, str>> {
    let unquoted = match value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")) {
        Some(inner) => Cow::Owned(unescaped(inner)),
        None => Cow::Borrowed(value),
    };
    match unquoted {
        Cow::Borrowed(bytes) => percent_encoding::percent_decode(bytes).decode_utf8().ok(),
        Cow::Owned(bytes) => {
            let text = percent_encoding::percent_decode(&bytes).decode_utf8().ok()?;
            Some(Cow::Owned(text.into_owned()))
        }
    }
}

fn unescaped(inner: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(byte) = bytes.next() {
        plain.push(if *byte == b'\\' { *bytes.next().unwrap_or(byte) } else { *byte });
    }
    plain
}

/// Attributes as they are found, each checked.
#[derive(Debug, Default)]
struct Found {
    version: Option<()>,
    id: Option<String>,
    source: Option<String>,
    kind: Option<String>,
    /// Optional attributes that were there, in the order of [`rules::OPTIONAL`].
    optional: [bool; rules::OPTIONAL.len()],
}

impl Found {
    /// Notes an attribute with text.
    fn note(&mut self, name: &str, text: &str) -> Result<(), Wrong> {
        let twice = || Wrong::attribute(name, "stands twice");
        let place = match name {
            "id" => &mut self.id,
            "source" => &mut self.source,
            "type" => &mut self.kind,
            "specversion" => {
                if text != VERSION {
                    return Err(Wrong::attribute(
                        name,
                        "is not \"1.0\", the version understood here",
                    ));
                }
                return self.version.replace(()).map_or(Ok(()), |()| Err(twice()));
            }
            other => return self.note_other(other, text),
        };
        let rule = match name {
            "source" => Rule::UriReference,
            "type" => Rule::Type,
            _ => Rule::Text,
        };
        rule.check(text).map_err(|why| Wrong::attribute(name, why))?;
        place.replace(text.to_owned()).map_or(Ok(()), |_| Err(twice()))
    }

    fn note_other(&mut self, name: &str, text: &str) -> Result<(), Wrong> {
        let known = rules::OPTIONAL.iter().position(|(optional, _)| *optional == name);
        let rule = known.and_then(|at| rules::OPTIONAL.get(at)).map_or(Rule::Extension, |it| it.1);
        if known.is_none() {
            rules::check_name(name).map_err(|why| Wrong::attribute(name, why))?;
        }
        rule.check(text).map_err(|why| Wrong::attribute(name, why))?;
        match known.and_then(|at| self.optional.get_mut(at)) {
            Some(seen) if *seen => Err(Wrong::attribute(name, "stands twice")),
            Some(seen) => {
                *seen = true;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn finish(self) -> Result<Attributes, Wrong> {
        let missing = |name: &str| Wrong::attribute(name, "is missing");
        self.version.ok_or_else(|| missing("specversion"))?;
        let id = self.id.ok_or_else(|| missing("id"))?;
        let source = self.source.ok_or_else(|| missing("source"))?;
        let kind = self.kind.ok_or_else(|| missing("type"))?;
        Ok(Attributes { key: key_of(&source, &id), kind })
    }
}

/// The idempotency key of an event: `source` and `id` are unique together. They may be long and hold any character, so a key
/// has their digest. No other key begins with a colon and has a space.
fn key_of(source: &str, id: &str) -> String {
    let mut hash = Sha256::new();
    hash.update((source.len() as u64).to_le_bytes());
    hash.update(source);
    hash.update(id);
    format!(":ce {}", hex(&hash.finalize(), 16))
}

#[cfg(test)]
mod tests;
