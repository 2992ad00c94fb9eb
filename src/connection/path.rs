//! Paths to one value of an event: `body.order.id`, `body.items[0].sku`, `body["a.b"]`, `headers.x-tenant`,
//! `query.page`, `event.type`.
//!
//! A path is parsed at load. Looking a value up reads the body once, from front to back, and keeps nothing of it but the
//! value: no tree is built, so a large body costs time and no memory. The same event always gives the same answer.
//!
//! A body is JSON when it parses as a whole, whatever its `content-type` says (many producers send none), unless it has a
//! `content-encoding`: encoded bytes are never decoded here. Of two members with the same name the last one counts, as
//! everywhere in `serde_json`. What is beside the path may be nested however deep: skipping takes no stack.

pub(super) mod tree;
mod walk;

use std::borrow::Cow;
use std::fmt;

use crate::event::Event;

/// Bytes that a path's text may have.
pub const PATH_BYTES_MAX: usize = 512;

/// Steps that a path into a body may have.
pub const STEPS_MAX: usize = 32;

/// The pseudo header that an event's query string is kept under, without its `?`.
const QUERY: &str = ":query";

/// A path, as written and parsed. Two are equal when they are written alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    text: String,
    root: Root,
}

/// Where a path begins.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Root {
    /// A value in the JSON body; no steps: the body itself.
    Body(Vec<Step>),
    /// A header that was kept, its name in lower case.
    Header(String),
    /// A parameter of the query.
    Query(String),
    Type,
    Id,
    Source,
}

/// One step into a JSON value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The member of an object.
    Member(String),
    /// The item of an array, from 0.
    Item(usize),
    /// Every item of an array: only in paths that may lead to several values.
    Every,
}

/// A value that is text, a number, true or false, or null.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    /// Text, its escapes resolved.
    Text(String),
    /// A number. What has no place in 64 bits is the nearest double.
    Number(serde_json::Number),
    /// `true` or `false`.
    Bool(bool),
    /// `null`.
    Null,
}

impl Scalar {
    /// The value as text: that of a string is the string, of the others what JSON writes.
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Scalar::Text(text) => Cow::Borrowed(text),
            Scalar::Number(number) => Cow::Owned(number.to_string()),
            Scalar::Bool(true) => Cow::Borrowed("true"),
            Scalar::Bool(false) => Cow::Borrowed("false"),
            Scalar::Null => Cow::Borrowed("null"),
        }
    }
}

/// Why a path leads to no scalar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// There is nothing at that place.
    Missing,
    /// There is an object, an array, or a header that is not text.
    NotScalar,
    /// The body is not JSON, or is encoded.
    NotJson,
}

impl Path {
    /// Parses a path.
    ///
    /// # Errors
    /// A sentence that says what is wrong and what to write instead.
    pub fn parse(text: &str) -> Result<Path, String> {
        let path = Path::parse_many(text)?;
        if path.steps().is_some_and(|steps| steps.contains(&Step::Every)) {
            return Err(format!(
                "{text:?} leads to several values, and one is needed; write a number for [*], as in body.items[0].sku"
            ));
        }
        Ok(path)
    }

    /// Parses a path that may lead to several values: `body.items[*].sku`.
    ///
    /// # Errors
    /// A sentence that says what is wrong and what to write instead.
    pub fn parse_many(text: &str) -> Result<Path, String> {
        if text.len() > PATH_BYTES_MAX {
            return Err(format!("the path has more than {PATH_BYTES_MAX} bytes"));
        }
        let (root, rest) = text.split_at(text.find(['.', '[']).unwrap_or(text.len()));
        let name = rest.strip_prefix('.').unwrap_or_default();
        let root = match root {
            "body" => Root::Body(steps(rest)?),
            "header" | "headers" => Root::Header(header_name(name)?),
            "query" if !name.is_empty() => Root::Query(name.to_owned()),
            "query" => {
                return Err("name the parameter of the query, as in \"query.page\"".to_owned());
            }
            "event" => match name {
                "type" => Root::Type,
                "id" => Root::Id,
                "source" => Root::Source,
                _ => {
                    return Err(
                        "an event has event.type, event.id and event.source; write one of them"
                            .to_owned(),
                    );
                }
            },
            _ => {
                return Err(format!(
                    "{text:?} is not a path; begin with body, headers, query or event, as in \"body.order.id\""
                ));
            }
        };
        Ok(Path { text: text.to_owned(), root })
    }

    /// The path as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The header that the path reads, in lower case, if it reads one: ingress has to keep it.
    pub fn header(&self) -> Option<&str> {
        match &self.root {
            Root::Header(name) => Some(name),
            _ => None,
        }
    }

    /// The steps into the body, if the path leads there.
    pub fn steps(&self) -> Option<&[Step]> {
        match &self.root {
            Root::Body(steps) => Some(steps),
            _ => None,
        }
    }

    /// Whether the path reads the query, which ingress has to keep.
    pub fn reads_query(&self) -> bool {
        matches!(self.root, Root::Query(_))
    }

    /// The value at the path.
    ///
    /// # Errors
    /// Why there is none.
    pub fn find(&self, event: &Event) -> Result<Scalar, Absent> {
        let content = &event.content;
        match &self.root {
            Root::Body(_) if is_encoded(event) => Err(Absent::NotJson),
            Root::Body(steps) => walk::find(&content.body(), steps),
            Root::Header(name) => text_of(header(event, name).ok_or(Absent::Missing)?),
            Root::Query(name) => {
                let query = header(event, QUERY).ok_or(Absent::Missing)?;
                let mut pairs = url::form_urlencoded::parse(query);
                let value = pairs.find(|(key, _)| key == name.as_str()).ok_or(Absent::Missing)?.1;
                Ok(Scalar::Text(value.into_owned()))
            }
            Root::Type if content.kind().is_empty() => Err(Absent::Missing),
            Root::Type => Ok(Scalar::Text(content.kind().to_owned())),
            Root::Id => Ok(Scalar::Text(event.id.to_string())),
            Root::Source => Ok(Scalar::Text(content.source().to_owned())),
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The first value of a header.
fn header<'a>(event: &'a Event, name: &str) -> Option<&'a [u8]> {
    event.content.headers().find(|(kept, _)| *kept == name).map(|(_, value)| value)
}

fn text_of(bytes: &[u8]) -> Result<Scalar, Absent> {
    let text = std::str::from_utf8(bytes).map_err(|_| Absent::NotScalar)?;
    Ok(Scalar::Text(text.to_owned()))
}

/// Whether the body's bytes are compressed or the like.
pub(super) fn is_encoded(event: &Event) -> bool {
    let encoding = header(event, "content-encoding");
    encoding.is_some_and(|value| !value.is_empty() && !value.eq_ignore_ascii_case(b"identity"))
}

fn header_name(name: &str) -> Result<String, String> {
    match http::HeaderName::from_bytes(name.as_bytes()) {
        Ok(name) => Ok(name.as_str().to_owned()),
        Err(_) => {
            Err(format!("{name:?} is not a header's name; write it as in \"headers.x-tenant\""))
        }
    }
}

/// Parses what follows `body`: `.name`, `[0]` and `["any name"]`, in any number.
fn steps(mut rest: &str) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if steps.len() == STEPS_MAX {
            return Err(format!("the path has more than {STEPS_MAX} steps"));
        }
        let (step, left) = match rest.strip_prefix('.') {
            Some(named) => {
                let (name, left) = named.split_at(named.find(['.', '[']).unwrap_or(named.len()));
                (Step::Member(member(name)?), left)
            }
            None => bracketed(rest)?,
        };
        steps.push(step);
        rest = left;
    }
    Ok(steps)
}

fn member(name: &str) -> Result<String, String> {
    let odd = |c: char| c == ']' || c == '"' || c.is_whitespace() || c.is_control();
    if name.is_empty() || name.contains(odd) {
        return Err(format!(
            "{name:?} is not a plain name; quote it in brackets, as in body[\"a name\"]"
        ));
    }
    Ok(name.to_owned())
}

/// A step in brackets, and what is left after it.
fn bracketed(rest: &str) -> Result<(Step, &str), String> {
    let wrong = || {
        format!("{rest:?} is neither .name, [0] nor [\"name\"]; write it as in body.items[0].sku")
    };
    let inner = rest.strip_prefix('[').ok_or_else(wrong)?;
    if inner.starts_with('"') {
        // A JSON string: its escapes are JSON's.
        let mut strings = serde_json::Deserializer::from_str(inner).into_iter::<String>();
        let name = strings.next().and_then(Result::ok).ok_or_else(wrong)?;
        let left = inner.get(strings.byte_offset()..).and_then(|left| left.strip_prefix(']'));
        return Ok((Step::Member(name), left.ok_or_else(wrong)?));
    }
    let (number, left) = inner.split_once(']').ok_or_else(wrong)?;
    if number == "*" {
        return Ok((Step::Every, left));
    }
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let item = number.parse().ok().filter(|_| digits).ok_or_else(wrong)?;
    Ok((Step::Item(item), left))
}

#[cfg(test)]
mod tests;
