//! Placeholders: `{{ body.order.id }}` in a URL's path or query, in a header's value, in a string that a transform sets.
//!
//! Between the braces stands a path ([`Path`]), `attempt`, or a string in quotes (`{{ "{{" }}` writes two braces). They are
//! parsed at load. What a path leads to must be a string, a number or a flag; anything else, and nothing, is an
//! error, never an empty text.

use std::borrow::Cow;
use std::fmt;

use http::HeaderValue;
use http::uri::PathAndQuery;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::json::Json;
use super::parts::Parts;
use super::path::Path;

/// Placeholders of one text.
pub const PLACEHOLDERS_MAX: usize = 64;
/// Bytes of a path and query, or of a header's value, once it is filled in.
pub const FILLED_BYTES_MAX: usize = 8 * 1024;

/// All but the unreserved characters (RFC 3986, 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A text with placeholders. Two are equal when they mean the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Text(String),
    Value(Expression),
}

/// What stands between the braces.
#[derive(Clone, Debug, PartialEq)]
pub enum Expression {
    /// A value of the event.
    Path(Path),
    /// The number of this attempt, from 1.
    Attempt,
    /// A text, as it is.
    Text(String),
}

/// Why a template was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TemplateError {
    /// Where in the text, in bytes.
    pub at: usize,
    /// What is wrong there, and what to write instead.
    pub message: String,
}

/// Why a placeholder has no text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unfilled(pub String);

/// What placeholders are filled from.
#[derive(Clone, Copy, Debug)]
pub struct Context<'c, 'e> {
    /// The event.
    pub parts: &'c Parts<'e>,
    /// The number of this attempt, from 1.
    pub attempt: u32,
}

/// Whether a text has placeholders at all.
pub fn has_placeholders(text: &str) -> bool {
    text.contains("{{")
}

impl Template {
    /// Parses a text.
    ///
    /// # Errors
    /// [`TemplateError`]
    pub fn parse(text: &str) -> Result<Template, TemplateError> {
        let mut pieces = Vec::new();
        let mut at = 0;
        while let Some((before, expression, end)) = next_placeholder(text, at)? {
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            if pieces.len() >= 2 * PLACEHOLDERS_MAX {
                let message = format!("has more than {PLACEHOLDERS_MAX} placeholders");
                return Err(TemplateError { at, message });
            }
            pieces.push(Piece::Value(expression));
            at = end;
        }
        let rest = text.get(at..).unwrap_or_default();
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(Template { pieces })
    }

    /// The expression, if the text is one placeholder and nothing else.
    pub fn sole(&self) -> Option<&Expression> {
        match self.pieces.as_slice() {
            [Piece::Value(expression)] => Some(expression),
            _ => None,
        }
    }

    /// The paths that it reads.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Value(Expression::Path(path)) => Some(path),
            _ => None,
        })
    }

    /// The text with its placeholders filled.
    ///
    /// # Errors
    /// [`Unfilled`]
    pub fn fill(&self, context: Context<'_, '_>) -> Result<String, Unfilled> {
        self.fill_with(context, |out, value| out.push_str(value))
    }

    fn fill_with(
        &self,
        context: Context<'_, '_>,
        write: impl Fn(&mut String, &str),
    ) -> Result<String, Unfilled> {
        let mut filled = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => filled.push_str(text),
                Piece::Value(expression) => write(&mut filled, &expression.text(context)?),
            }
        }
        Ok(filled)
    }

    /// The value of a header. One with a line break or another control character is no value: nothing that an event holds can
    /// make two headers of one.
    ///
    /// # Errors
    /// [`Unfilled`]
    pub fn header(&self, context: Context<'_, '_>) -> Result<HeaderValue, Unfilled> {
        let filled = self.fill(context)?;
        if filled.len() > FILLED_BYTES_MAX {
            return Err(Unfilled(format!(
                "the value takes {} bytes, at most {FILLED_BYTES_MAX} are sent",
                filled.len()
            )));
        }
        HeaderValue::from_bytes(filled.as_bytes()).map_err(|_| {
            Unfilled("the value would hold a line break or another control character".to_owned())
        })
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pieces.iter().try_for_each(|piece| match piece {
            Piece::Text(text) => f.write_str(text),
            Piece::Value(expression) => write!(f, "{expression}"),
        })
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expression::Path(path) => write!(f, "{{{{ {path} }}}}"),
            Expression::Attempt => f.write_str("{{ attempt }}"),
            Expression::Text(text) => write!(f, "{{{{ {} }}}}", Json::text(text.as_str())),
        }
    }
}

impl Expression {
    /// The value, of whatever sort.
    ///
    /// # Errors
    /// [`Unfilled`] where there is none.
    pub fn value<'c>(&'c self, context: Context<'c, '_>) -> Result<Cow<'c, Json<'c>>, Unfilled> {
        match self {
            Expression::Path(path) => path.read(context.parts).ok_or_else(|| {
                let why = match (path.steps(), context.parts.body()) {
                    (Some(_), Err(why)) => format!(": {why}"),
                    _ => String::new(),
                };
                Unfilled(format!("{self} has no value{why}"))
            }),
            Expression::Attempt => {
                Ok(Cow::Owned(Json::Number(Cow::Owned(context.attempt.to_string()))))
            }
            Expression::Text(text) => Ok(Cow::Owned(Json::Text(Cow::Borrowed(text)))),
        }
    }

    /// The value as text.
    fn text(&self, context: Context<'_, '_>) -> Result<String, Unfilled> {
        let value = self.value(context)?;
        let text = value.scalar().ok_or_else(|| {
            Unfilled(format!("{self} is {}, and has no text", value.sort().as_str()))
        })?;
        Ok(text.to_owned())
    }
}

/// The next placeholder from a place on: the text before it, what it says, and where it ends.
fn next_placeholder(
    text: &str,
    from: usize,
) -> Result<Option<(&str, Expression, usize)>, TemplateError> {
    let rest = text.get(from..).unwrap_or_default();
    let Some(open) = rest.find("{{") else {
        return Ok(None);
    };
    let at = from + open;
    let inner_at = at + 2;
    let inner = text.get(inner_at..).unwrap_or_default();
    let length = closing(inner).ok_or_else(|| TemplateError {
        at,
        message: "the placeholder is not closed; write }} after it".to_owned(),
    })?;
    let written = inner.get(..length).unwrap_or_default();
    let expression = expression(written.trim()).map_err(|message| TemplateError { at, message })?;
    let before = rest.get(..open).unwrap_or_default();
    Ok(Some((before, expression, inner_at + length + 2)))
}

/// Where `}}` stands outside of quotes.
fn closing(inner: &str) -> Option<usize> {
    let bytes = inner.as_bytes();
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'}' if !quoted && bytes.get(at + 1) == Some(&b'}') => return Some(at),
            _ => {}
        }
    }
    None
}

fn expression(text: &str) -> Result<Expression, String> {
    if text == "attempt" {
        return Ok(Expression::Attempt);
    }
    if text.starts_with('"') {
        return match Json::parse(text.as_bytes()) {
            Ok(Json::Text(literal)) => Ok(Expression::Text(literal.into_owned())),
            _ => Err(format!("{text} is not a string in quotes")),
        };
    }
    if text.is_empty() {
        return Err(
            "the placeholder is empty; write what it stands for, as in {{ body.id }}".to_owned()
        );
    }
    match Path::parse(text) {
        Ok(path) => Ok(Expression::Path(path)),
        // Its own errors are about the rest of a path.
        Err(message)
            if ["body", "header", "query", "event"].iter().any(|root| text.starts_with(root)) =>
        {
            Err(message)
        }
        Err(_) => Err(format!(
            "{text:?} is not known; known are event.type, event.id, event.source, header.NAME, query.NAME, body.PATH, attempt and, in any string, var.NAME"
        )),
    }
}

/// A path and query with placeholders. What fills them is percent-encoded, each by itself, so that it stays inside of its part.
#[derive(Clone, Debug, PartialEq)]
pub struct UrlTemplate(Template);

impl UrlTemplate {
    /// The path and query of one request.
    ///
    /// # Errors
    /// [`Unfilled`]; also where a part of the path would be `.` or `..`, which climb.
    pub fn fill(&self, context: Context<'_, '_>) -> Result<String, Unfilled> {
        let filled = self.0.fill_with(context, |out, value| {
            out.extend(utf8_percent_encode(value, RESERVED));
        })?;
        let path = filled.split(['?', '#']).next().unwrap_or_default();
        if path.split('/').any(climbs) {
            return Err(Unfilled("a part of the path would be . or ..".to_owned()));
        }
        if filled.len() > FILLED_BYTES_MAX {
            return Err(Unfilled(format!(
                "path and query take {} bytes, at most {FILLED_BYTES_MAX} are sent",
                filled.len()
            )));
        }
        Ok(filled)
    }

    /// The paths that it reads.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.paths()
    }
}

/// Whether a part of a path is `.` or `..`, in whatever disguise.
fn climbs(part: &str) -> bool {
    part.len() <= 6 && matches!(part.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..")
}

/// A URL's text with marks in the place of its placeholders, so that it can be parsed as any other.
#[derive(Debug)]
pub struct Marked {
    /// The URL with marks.
    pub text: String,
    mark: String,
    expressions: Vec<Expression>,
}

impl Marked {
    /// Marks the placeholders of a URL; they may stand in its path and query alone.
    ///
    /// # Errors
    /// What is wrong.
    pub fn new(url: &str) -> Result<Marked, TemplateError> {
        let template = Template::parse(url)?;
        let mut mark = "xzq".to_owned();
        while url.to_ascii_lowercase().contains(&mark) {
            mark.push('q');
        }
        let mut marked = Marked { text: String::new(), mark, expressions: Vec::new() };
        for piece in template.pieces {
            match piece {
                Piece::Text(text) => marked.text.push_str(&text),
                Piece::Value(expression) => {
                    marked.text += &marked.mark_of(marked.expressions.len());
                    marked.expressions.push(expression);
                }
            }
        }
        let scheme = marked.text.find("://").map_or(0, |at| at + 3);
        let after = marked.text.get(scheme..).unwrap_or_default();
        let path = after.find(['/', '?', '#']).map_or(marked.text.len(), |at| scheme + at);
        if marked.text.find(&marked.mark).is_some_and(|at| at < path) {
            let message = "placeholders may stand in the path and in the query, not in scheme, host or port; {{ var.NAME }} may".to_owned();
            return Err(TemplateError { at: url.find("{{").unwrap_or(0), message });
        }
        Ok(marked)
    }

    /// A number of fixed width ends in a letter, so that no mark is the start of another.
    fn mark_of(&self, number: usize) -> String {
        format!("{}{number:03}z", self.mark)
    }

    /// The template in the parsed URL's path and query.
    ///
    /// # Errors
    /// A sentence, where a placeholder got lost.
    pub fn template(&self, path_and_query: &str) -> Result<UrlTemplate, String> {
        let mut pieces = Vec::new();
        let mut rest = path_and_query;
        for (number, expression) in self.expressions.iter().enumerate() {
            let (before, after) = rest
                .split_once(&self.mark_of(number))
                .ok_or_else(|| format!("{expression} is lost where the path is normalised"))?;
            pieces.push(Piece::Text(before.to_owned()));
            pieces.push(Piece::Value(expression.clone()));
            rest = after;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        pieces.retain(|piece| *piece != Piece::Text(String::new()));
        Ok(UrlTemplate(Template { pieces }))
    }

    /// A text of the parsed URL as it was written: with its placeholders.
    pub fn unmarked(&self, text: &str) -> String {
        let expressions = self.expressions.iter().enumerate();
        expressions.fold(text.to_owned(), |text, (number, expression)| {
            text.replace(&self.mark_of(number), &expression.to_string())
        })
    }
}

/// The producer's path and query joined to the target's own: the path below it, the query after it.
///
/// # Errors
/// [`Unfilled`] where the path climbs, hides a slash or a dot, or cannot stand in a URL.
pub fn join(own: &str, path: Option<&str>, query: Option<&str>) -> Result<PathAndQuery, Unfilled> {
    let (own_path, own_query) = match own.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (own, None),
    };
    let mut joined = own_path.to_owned();
    if let Some(path) = path.filter(|path| !path.is_empty()) {
        let lower = path.to_ascii_lowercase();
        let hidden = ["%2f", "%5c", "%2e", "\\", "%00"].iter().any(|code| lower.contains(code));
        if hidden || path.split('/').any(climbs) {
            return Err(Unfilled(
                "the event's path has . or .., or an encoded slash or dot".to_owned(),
            ));
        }
        joined.truncate(joined.trim_end_matches('/').len());
        if !path.starts_with('/') {
            joined.push('/');
        }
        joined += path;
    }
    let queries = [own_query, query].into_iter().flatten().filter(|query| !query.is_empty());
    for (number, query) in queries.enumerate() {
        joined.push(if number == 0 { '?' } else { '&' });
        joined += query;
    }
    if joined.len() > FILLED_BYTES_MAX {
        return Err(Unfilled(format!(
            "path and query take {} bytes, at most {FILLED_BYTES_MAX} are sent",
            joined.len()
        )));
    }
    PathAndQuery::try_from(joined)
        .map_err(|error| Unfilled(format!("path and query cannot be sent ({error})")))
}

#[cfg(test)]
mod tests;
