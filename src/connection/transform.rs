//! Transforms: what a connection makes of a JSON body before it is signed and sent.
//!
//! The parts apply in one order, whatever the order in the file: `pick`, `remove`, `rename`, `set`, `template`. All but the
//! last work on the body as a tree: numbers keep their digits, members their order, and what is not touched is written
//! as it was read (without blanks). Placeholders in `set` see the event as it was accepted.
//!
//! Everything is bounded: the tree by [`super::json`], the template by [`FUEL`] steps and by the size of the result, which is
//! at most the connection's `max_body`. What does not work out is an error, never half a body.

mod edit;
mod render;
#[cfg(test)]
mod tests;

use std::fmt;

use super::json::Json;
use super::part;
use super::path::{Path, Step};
use super::template::{self, Context, Expression};

pub use render::{Script, ScriptError};

/// Steps that a template may take for one event.
pub const FUEL: u64 = 200_000;
/// Paths, members and items of one transform.
pub const PARTS_MAX: usize = 1_000;
/// Bytes of a template's text.
pub const SCRIPT_BYTES_MAX: usize = 64 * 1024;

/// `[connection.transform]`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Transform {
    /// What is kept of the body; empty: all.
    pub pick: Vec<Path>,
    /// What is taken away.
    pub remove: Vec<Path>,
    /// From where to where values move.
    pub rename: Vec<(Path, Path)>,
    /// What is put where.
    pub set: Vec<(Path, Made)>,
    /// The text that the body becomes.
    pub template: Option<Script>,
}

/// A value that a transform makes.
#[derive(Clone, Debug, PartialEq)]
pub enum Made {
    /// Always the same.
    Value(Json<'static>),
    /// A value of the event, of whatever sort.
    Copy(Expression),
    /// A text with placeholders.
    Text(template::Template),
    /// An array of such.
    Array(Vec<Made>),
    /// An object of such.
    Object(Vec<(String, Made)>),
}

/// Why a value of `set` was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeError {
    /// The part that is wrong.
    pub steps: Vec<part::Step>,
    /// What is wrong with it.
    pub message: String,
}

/// Why an event could not be transformed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failed(pub String);

impl Transform {
    /// The body that is sent, at most `max_bytes` long.
    ///
    /// # Errors
    /// [`Failed`], also for a body that is not JSON.
    pub fn apply(&self, context: Context<'_, '_>, max_bytes: usize) -> Result<Vec<u8>, Failed> {
        let body = context.parts.body().map_err(|why| Failed(why.to_string()))?;
        let mut tree = body.clone();
        if !self.pick.is_empty() {
            let paths: Vec<&[Step]> = self.pick.iter().filter_map(Path::steps).collect();
            tree = edit::pick(tree, &paths).unwrap_or(Json::Object(Vec::new()));
        }
        for path in &self.remove {
            edit::remove(&mut tree, path.steps().unwrap_or_default());
        }
        for (from, to) in &self.rename {
            if let Some(value) = edit::take(&mut tree, from.steps().unwrap_or_default()) {
                edit::put(&mut tree, to, value)?;
            }
        }
        for (path, made) in &self.set {
            edit::put(&mut tree, path, made.make(context)?)?;
        }
        match &self.template {
            Some(script) => script.render(&tree, context, max_bytes),
            None => written(&tree, max_bytes),
        }
    }

    /// The paths that its placeholders read.
    pub fn paths(&self) -> Vec<&Path> {
        let mut paths = Vec::new();
        self.set.iter().for_each(|(_, made)| made.paths(&mut paths));
        paths
    }

    /// The headers that its template names: their events must keep them.
    pub fn script_headers(&self) -> &[String] {
        self.template.as_ref().map_or(&[], Script::headers)
    }
}

/// A path that `set`, `rename`, `remove` and `pick` may have: into the body, and not the body itself.
///
/// # Errors
/// A sentence that says what is wrong and what to write instead.
pub fn path(text: &str) -> Result<Path, String> {
    let path = Path::parse_many(text).map_err(|message| match text.starts_with("body") {
        true => message,
        false => outside(text),
    })?;
    match path.steps() {
        None => Err(outside(text)),
        Some([]) => Err("the body itself is meant; name a field of it, as in \"body.order.id\" (in quotes, with its dots)".to_owned()),
        Some(_) => Ok(path),
    }
}

fn outside(text: &str) -> String {
    format!("{text:?} does not lead into the body; begin with body, as in \"body.order.id\"")
}

impl Made {
    /// Reads a value of `set`: its strings may have placeholders.
    ///
    /// # Errors
    /// [`MadeError`]
    pub fn parse(value: &Json<'_>) -> Result<Made, MadeError> {
        Made::parse_at(value, &mut Vec::new())
    }

    fn parse_at(value: &Json<'_>, steps: &mut Vec<part::Step>) -> Result<Made, MadeError> {
        let mut inside = |step: part::Step, value: &Json<'_>| {
            steps.push(step);
            let made = Made::parse_at(value, steps);
            steps.pop();
            made
        };
        match value {
            Json::Text(text) if template::has_placeholders(text) => {
                let template = template::Template::parse(text)
                    .map_err(|error| MadeError { steps: steps.clone(), message: error.message })?;
                Ok(match template.sole() {
                    Some(expression) => Made::Copy(expression.clone()),
                    None => Made::Text(template),
                })
            }
            Json::Array(items) => {
                let items = items.iter().enumerate();
                let made = items.map(|(at, item)| inside(part::Step::Index(at), item));
                made.collect::<Result<_, _>>().map(Made::Array)
            }
            Json::Object(members) => {
                let made = members.iter().map(|(name, value)| {
                    let made = inside(part::Step::Key(name.to_string()), value)?;
                    Ok((name.to_string(), made))
                });
                made.collect::<Result<_, _>>().map(Made::Object)
            }
            other => Ok(Made::Value(other.clone().into_owned())),
        }
    }

    fn make<'c>(&'c self, context: Context<'c, '_>) -> Result<Json<'c>, Failed> {
        let failed = |unfilled: template::Unfilled| Failed(unfilled.0);
        Ok(match self {
            Made::Value(value) => value.clone(),
            Made::Copy(expression) => expression.value(context).map_err(failed)?.into_owned(),
            Made::Text(template) => Json::text(template.fill(context).map_err(failed)?),
            Made::Array(items) => {
                let made = items.iter().map(|item| item.make(context));
                Json::Array(made.collect::<Result<_, _>>()?)
            }
            Made::Object(members) => {
                let made = members
                    .iter()
                    .map(|(name, made)| Ok((name.as_str().into(), made.make(context)?)));
                Json::Object(made.collect::<Result<_, Failed>>()?)
            }
        })
    }

    fn paths<'m>(&'m self, paths: &mut Vec<&'m Path>) {
        match self {
            Made::Copy(Expression::Path(path)) => paths.push(path),
            Made::Text(template) => paths.extend(template.paths()),
            Made::Array(items) => items.iter().for_each(|made| made.paths(paths)),
            Made::Object(members) => members.iter().for_each(|(_, made)| made.paths(paths)),
            Made::Value(_) | Made::Copy(_) => {}
        }
    }
}

fn written(tree: &Json<'_>, max_bytes: usize) -> Result<Vec<u8>, Failed> {
    let mut out = Bounded { text: String::new(), max_bytes };
    tree.write(&mut out).map_err(|_| too_large(max_bytes))?;
    Ok(out.text.into_bytes())
}

fn too_large(max_bytes: usize) -> Failed {
    Failed(format!("the result has more than {max_bytes} bytes, the connection's max_body"))
}

/// A text that takes so many bytes and no more.
struct Bounded {
    text: String,
    max_bytes: usize,
}

impl fmt::Write for Bounded {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        if self.text.len() + piece.len() > self.max_bytes {
            return Err(fmt::Error);
        }
        self.text.push_str(piece);
        Ok(())
    }
}
