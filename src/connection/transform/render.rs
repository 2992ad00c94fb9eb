//! The template of a transform: minijinja (the syntax of Jinja), without files, includes, macros or escaping, with a bound on
//! its steps and on what it writes.
//!
//! It sees `body` (after the other parts of the transform), `event.id`, `event.type`, `event.source`, `header`, `attempt`.
//! An undefined value is an error. `tojson` writes JSON as [`Json`] does; `null`, `true` and `false` are written as JSON
//! has them, and a number with a fraction as the body had it, as long as it was not computed with.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use minijinja::value::{Object, Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State, UndefinedBehavior};

use super::{FUEL, Failed, SCRIPT_BYTES_MAX, too_large};
use crate::connection::json::{self, Json};
use crate::connection::template::Context;

/// The only template of its environment.
const NAME: &str = "transform";
/// Where the numbers as they were written stand in the context: no name that a template could say.
const NUMBERS: &str = " numbers";
/// Where the bytes that may still be written stand.
const ROOM: &str = " room";
/// How deep `tojson` follows a value.
const DEPTH_MAX: usize = json::DEPTH_MAX + 28;

/// A compiled template. Two are equal when they are written alike.
#[derive(Clone)]
pub struct Script {
    source: String,
    headers: Vec<String>,
    environment: Arc<Environment<'static>>,
}

impl PartialEq for Script {
    fn eq(&self, other: &Script) -> bool {
        self.source == other.source
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Script").field(&self.source).finish()
    }
}

/// Why a template was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ScriptError {
    /// In which line of it, from 1.
    pub line: Option<usize>,
    /// What is wrong there.
    pub message: String,
}

impl Script {
    /// Compiles a template.
    ///
    /// # Errors
    /// [`ScriptError`]
    pub fn parse(source: &str) -> Result<Script, ScriptError> {
        if source.len() > SCRIPT_BYTES_MAX {
            let message = format!("the template has more than {SCRIPT_BYTES_MAX} bytes");
            return Err(ScriptError { line: None, message });
        }
        let mut environment = environment();
        environment
            .add_template_owned(NAME, source.to_owned())
            .map_err(|error| ScriptError { line: error.line(), message: sentence(&error) })?;
        let environment = Arc::new(environment);
        let script = Script { source: source.to_owned(), headers: headers_in(source), environment };
        script.look_for_unknown()?;
        Ok(script)
    }

    /// The headers that it names, as far as they can be told from its text.
    pub fn headers(&self) -> &[String] {
        &self.headers
    }

    /// Names that it uses and nothing defines can be told at load.
    fn look_for_unknown(&self) -> Result<(), ScriptError> {
        const KNOWN: [&str; 4] = ["body", "event", "header", "attempt"];
        let template = self.environment.get_template(NAME);
        let names = template.map(|template| template.undeclared_variables(false));
        let globals: Vec<_> = self.environment.globals().map(|(name, _)| name.to_owned()).collect();
        let unknown = names
            .unwrap_or_default()
            .into_iter()
            .filter(|name| !KNOWN.contains(&name.as_str()) && !globals.contains(name));
        match unknown.min() {
            None => Ok(()),
            Some(name) => {
                let line = self.source.lines().position(|line| line.contains(&name));
                let message = format!(
                    "{name:?} is not known; known are {}, and what the template sets itself",
                    KNOWN.join(", ")
                );
                Err(ScriptError { line: line.map(|line| line + 1), message })
            }
        }
    }

    /// What it writes for a body and its event, at most `max_bytes`.
    pub(super) fn render(
        &self,
        body: &Json<'_>,
        context: Context<'_, '_>,
        max_bytes: usize,
    ) -> Result<Vec<u8>, Failed> {
        let mut numbers = Numbers::default();
        let event = context.parts.event();
        let body = numbers.value(body);
        let pairs = [
            ("body", body),
            ("header", numbers.value(context.parts.headers())),
            (
                "event",
                Value::from_pairs([
                    ("id", Value::from(event.id.to_string())),
                    ("type", Value::from(event.content.kind())),
                    ("source", Value::from(event.content.source())),
                ]),
            ),
            ("attempt", Value::from(context.attempt)),
            (NUMBERS, Value::from_object(numbers)),
            (ROOM, Value::from_object(Room(AtomicUsize::new(max_bytes)))),
        ];
        let mut out = Sink { bytes: Vec::new(), max_bytes, full: false };
        let rendered = self.environment.get_template(NAME).and_then(|template| {
            template.render_captured_to(Value::from_pairs(pairs), &mut out).map(drop)
        });
        match rendered {
            Ok(()) => Ok(out.bytes),
            Err(_) if out.full => Err(too_large(max_bytes)),
            Err(error) => {
                let line = error.line().map_or(String::new(), |line| format!(", line {line}"));
                Err(Failed(format!("the template failed{line}: {}", sentence(&error))))
            }
        }
    }
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(FUEL));
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_recursion_limit(64);
    environment.set_formatter(format);
    environment.add_filter("tojson", to_json);
    // What makes much of little, or shows what is inside.
    for filter in ["batch", "chain", "format", "indent", "pprint", "replace", "slice", "zip"] {
        environment.remove_filter(filter);
    }
    environment.add_filter("replace", replace);
    for function in ["debug", "namespace", "dict", "range"] {
        environment.remove_global(function);
    }
    environment
}

/// One sentence without the data that it is about.
fn sentence(error: &Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

/// `header.x-name` reads as a subtraction in Jinja, so that names stand in brackets: `header["x-name"]`.
fn headers_in(source: &str) -> Vec<String> {
    let mut names = Vec::new();
    for rest in source.split("header").skip(1) {
        let name = match rest.strip_prefix('.') {
            Some(rest) => rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next(),
            None => rest
                .trim_start()
                .strip_prefix('[')
                .and_then(|rest| rest.trim_start().strip_prefix(['"', '\'']))
                .and_then(|rest| rest.split(['"', '\'']).next()),
        };
        names.extend(name.filter(|name| !name.is_empty()).map(str::to_ascii_lowercase));
    }
    names.sort_unstable();
    names.dedup();
    names
}

/// How the fractions of the body were written: those that two texts mean are written in their shortest form.
#[derive(Debug, Default)]
struct Numbers(HashMap<u64, Option<Box<str>>>);

impl Object for Numbers {}

impl Numbers {
    /// The value as the template sees it.
    fn value(&mut self, json: &Json<'_>) -> Value {
        match json {
            Json::Null => Value::from(()),
            Json::Bool(flag) => Value::from(*flag),
            Json::Text(text) => Value::from(&**text),
            Json::Number(digits) => self.number(digits),
            Json::Array(items) => {
                let items: Vec<Value> = items.iter().map(|item| self.value(item)).collect();
                Value::from(items)
            }
            Json::Object(members) => Value::from_pairs(
                members
                    .iter()
                    .map(|(name, value)| (Value::from(&**name), self.value(value)))
                    .collect::<Vec<_>>(),
            ),
        }
    }

    fn number(&mut self, digits: &str) -> Value {
        if digits != "-0"
            && let Ok(whole) = digits.parse::<i128>()
        {
            return Value::from(whole);
        }
        let number: f64 = digits.parse().unwrap_or(f64::NAN);
        let known = self.0.entry(number.to_bits()).or_insert_with(|| Some(digits.into()));
        if known.as_deref() != Some(digits) {
            *known = None;
        }
        Value::from(number)
    }

    fn write(&self, value: &Value, out: &mut String) -> Result<(), Error> {
        let number = f64::try_from(value.clone())?;
        match self.0.get(&number.to_bits()) {
            Some(Some(digits)) => out.push_str(digits),
            _ if number.is_finite() => {
                let _ = write!(out, "{value}");
            }
            _ => return Err(invalid("the result is not a number that JSON has")),
        }
        Ok(())
    }
}

/// Bytes that may still be written, captured text included.
#[derive(Debug)]
struct Room(AtomicUsize);

impl Object for Room {}

impl Room {
    fn take(&self, bytes: usize) -> Result<(), Error> {
        let left = self.0.load(Ordering::Relaxed);
        match left.checked_sub(bytes) {
            Some(left) => self.0.store(left, Ordering::Relaxed),
            None => return Err(invalid("more is written than the connection's max_body")),
        }
        Ok(())
    }
}

fn invalid(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

/// Writes one value of the template.
fn format(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    let mut text = String::new();
    match value.kind() {
        ValueKind::Undefined => return Err(Error::from(ErrorKind::UndefinedError)),
        ValueKind::None => text.push_str("null"),
        ValueKind::Number if !value.is_integer() => numbers(state)?.write(value, &mut text)?,
        ValueKind::String => {
            let written = value.as_str().unwrap_or_default();
            room(state)?.take(written.len())?;
            return out.write_str(written).map_err(Error::from);
        }
        ValueKind::Bool => text.push_str(flag(value)),
        ValueKind::Number => {
            let _ = write!(text, "{value}");
        }
        _ => write_json(&*numbers(state)?, value, &mut text, &*room(state)?, 0)?,
    }
    room(state)?.take(text.len())?;
    out.write_str(&text).map_err(Error::from)
}

fn numbers(state: &State<'_, '_>) -> Result<Arc<Numbers>, Error> {
    let found = state.lookup(NUMBERS).and_then(|value| value.downcast_object::<Numbers>());
    found.ok_or_else(|| invalid("the context was lost"))
}

fn room(state: &State<'_, '_>) -> Result<Arc<Room>, Error> {
    let found = state.lookup(ROOM).and_then(|value| value.downcast_object::<Room>());
    found.ok_or_else(|| invalid("the context was lost"))
}

fn flag(value: &Value) -> &'static str {
    if value.is_true() { "true" } else { "false" }
}

/// The filter `tojson`.
fn to_json(state: &State<'_, '_>, value: &Value) -> Result<String, Error> {
    let mut text = String::new();
    write_json(&*numbers(state)?, value, &mut text, &*room(state)?, 0)?;
    Ok(text)
}

fn write_json(
    numbers: &Numbers,
    value: &Value,
    out: &mut String,
    room: &Room,
    depth: usize,
) -> Result<(), Error> {
    if depth > DEPTH_MAX || out.len() > room.0.load(Ordering::Relaxed) {
        return Err(invalid("a value is too deep or too large"));
    }
    // Writing to a String cannot fail.
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Number if !value.is_integer() => numbers.write(value, out)?,
        ValueKind::Bool => out.push_str(flag(value)),
        ValueKind::Number => drop(write!(out, "{value}")),
        ValueKind::String => drop(json::write_text(value.as_str().unwrap_or_default(), out)),
        ValueKind::Map => {
            out.push('{');
            for (at, key) in value.try_iter()?.enumerate() {
                if at > 0 {
                    out.push(',');
                }
                let name = key.as_str().map_or_else(|| key.to_string(), str::to_owned);
                let _ = json::write_text(&name, out);
                out.push(':');
                write_json(numbers, &value.get_item(&key)?, out, room, depth + 1)?;
            }
            out.push('}');
        }
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            for (at, item) in value.try_iter()?.enumerate() {
                if at > 0 {
                    out.push(',');
                }
                write_json(numbers, &item, out, room, depth + 1)?;
            }
            out.push(']');
        }
        _ => return Err(invalid("a value is not JSON")),
    }
    Ok(())
}

/// The filter `replace`: what it makes has at most the bytes that may be written.
fn replace(state: &State<'_, '_>, text: &str, from: &str, to: &str) -> Result<String, Error> {
    let count = if from.is_empty() { text.len() + 1 } else { text.matches(from).count() };
    let grown = count.saturating_mul(to.len()).saturating_add(text.len());
    if grown > room(state)?.0.load(Ordering::Relaxed).saturating_add(text.len()) {
        return Err(invalid("more is written than the connection's max_body"));
    }
    Ok(text.replace(from, to))
}

/// Where the text goes, up to a size.
struct Sink {
    bytes: Vec<u8>,
    max_bytes: usize,
    full: bool,
}

impl io::Write for &mut Sink {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + piece.len() > self.max_bytes {
            self.full = true;
            return Err(io::Error::other("full"));
        }
        self.bytes.extend_from_slice(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
