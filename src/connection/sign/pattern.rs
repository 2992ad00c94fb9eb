//! Texts with placeholders from a closed set, as in `t={{ timestamp }},v1={{ signature }}`. Everything is checked when it is
//! parsed; filling one in cannot fail and copies nothing but what it is asked to.

use super::Message;

/// What may stand between braces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placeholder {
    /// `webhook-id`.
    Id,
    /// `webhook-timestamp`, Unix seconds.
    Timestamp,
    /// `posthaste-attempt`, from 1.
    Attempt,
    /// The method.
    Method,
    /// The whole URL, as it is dialled.
    Url,
    /// The path, without the query.
    Path,
    /// The query, without its question mark; empty when there is none.
    Query,
    /// The body, byte for byte.
    Body,
    /// The signature, encoded.
    Signature,
}

use Placeholder::{Attempt, Body, Id, Method, Path, Query, Signature, Timestamp, Url};

/// What may be signed.
pub const CONTENT: &[(&str, Placeholder)] = &[
    ("body", Body),
    ("id", Id),
    ("timestamp", Timestamp),
    ("attempt", Attempt),
    ("method", Method),
    ("url", Url),
    ("path", Path),
    ("query", Query),
];
/// What a signature's header may hold.
pub const VALUE: &[(&str, Placeholder)] =
    &[("signature", Signature), ("id", Id), ("timestamp", Timestamp), ("attempt", Attempt)];

/// A parsed text.
#[derive(Clone, Debug, PartialEq)]
pub struct Pattern(Vec<Part>);

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Text(String),
    Value(Placeholder),
}

impl Pattern {
    /// Parses a text; `known` are the placeholders that it may have.
    ///
    /// # Errors
    /// Braces without their counterpart, and placeholders that are not known.
    pub fn parse(text: &str, known: &[(&str, Placeholder)]) -> Result<Pattern, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let Some((name, after)) = after.split_once("}}") else {
                return Err("has a {{ without its }}".to_owned());
            };
            push_text(&mut parts, before)?;
            parts.push(Part::Value(placeholder(name.trim(), known)?));
            rest = after;
        }
        push_text(&mut parts, rest)?;
        Ok(Pattern(parts))
    }

    /// Whether it has this placeholder.
    pub fn has(&self, placeholder: Placeholder) -> bool {
        self.0.contains(&Part::Value(placeholder))
    }

    /// The text beside the placeholders.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            Part::Value(_) => None,
        })
    }

    /// Gives `take` all pieces in order. `signature` is what stands for that placeholder.
    pub fn fill(&self, message: &Message<'_>, signature: &[u8], mut take: impl FnMut(&[u8])) {
        for part in &self.0 {
            match part {
                Part::Text(text) => take(text.as_bytes()),
                Part::Value(Id) => take(message.id),
                Part::Value(Timestamp) => take(message.timestamp),
                Part::Value(Attempt) => take(message.attempt),
                Part::Value(Method) => take(message.method.as_str().as_bytes()),
                Part::Value(Path) => take(message.uri.path().as_bytes()),
                Part::Value(Query) => take(query(message)),
                Part::Value(Body) => take(message.body),
                Part::Value(Signature) => take(signature),
                Part::Value(Url) => {
                    take(message.origin.as_bytes());
                    take(message.uri.path().as_bytes());
                    if message.uri.query().is_some() {
                        take(b"?");
                        take(query(message));
                    }
                }
            }
        }
    }
}

fn query<'m>(message: &Message<'m>) -> &'m [u8] {
    message.uri.query().unwrap_or_default().as_bytes()
}

fn push_text(parts: &mut Vec<Part>, text: &str) -> Result<(), String> {
    if text.contains("}}") {
        return Err("has a }} without its {{".to_owned());
    }
    if !text.is_empty() {
        parts.push(Part::Text(text.to_owned()));
    }
    Ok(())
}

fn placeholder(name: &str, known: &[(&str, Placeholder)]) -> Result<Placeholder, String> {
    match known.iter().find(|(known, _)| *known == name) {
        Some((_, placeholder)) => Ok(*placeholder),
        None => {
            let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
            Err(format!(
                "has the placeholder {}; known here: {}",
                crate::units::quoted(name),
                names.join(", ")
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{Method, Uri};

    use super::*;

    fn filled(text: &str, uri: &'static str) -> String {
        let message = Message {
            id: b"evt_1",
            timestamp: b"17",
            attempt: b"2",
            method: &Method::PUT,
            origin: "https://example.com:8443",
            uri: &Uri::from_static(uri),
            body: b"{}",
        };
        let known = [CONTENT, VALUE].concat();
        let mut out = Vec::new();
        let pattern = Pattern::parse(text, &known).unwrap();
        pattern.fill(&message, b"SIG", |piece| out.extend_from_slice(piece));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_placeholder_is_filled_in() {
        let text = "{{id}}.{{ timestamp }}|{{attempt}}|{{method}}|{{url}}|{{path}}|{{query}}|{{body}}|{{signature}}|{x}";
        assert_eq!(
            filled(text, "/a?b=c"),
            "evt_1.17|2|PUT|https://example.com:8443/a?b=c|/a|b=c|{}|SIG|{x}"
        );
        assert_eq!(filled("{{url}} {{query}}", "/"), "https://example.com:8443/ ");
        assert_eq!(filled("plain", "/"), "plain");
    }

    #[test]
    fn what_cannot_be_filled_in_is_refused() {
        for (text, word) in [
            ("{{ body", "without its }}"),
            ("body }}", "without its {{"),
            ("{{ boddy }}", "\"boddy\"; known here: body, id"),
            ("{{ signature }}", "\"signature\""),
            ("{{ }}", "\"\""),
        ] {
            let error = Pattern::parse(text, CONTENT).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    proptest::proptest! {
        /// No text panics, and a text without braces stays as it is.
        #[test]
        fn any_text_is_read_or_refused(text in "[{} a-z]{0,20}") {
            let parsed = Pattern::parse(&text, CONTENT);
            if !text.contains("{{") && !text.contains("}}") {
                assert_eq!(parsed.unwrap().texts().collect::<String>(), text);
            }
        }
    }
}
