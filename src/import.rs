//! Conversion of what other systems export into connections and sources of posthaste, with a report of every field.
//!
//! It promises: no field is dropped in silence. Each one of the input has a row in the report that says where it went, what
//! changed, or why it was left; so have fields that are not known. It is pure: JSON and [`Options`] in, [`Converted`] out; who
//! reads and writes files is the command line. No row holds a secret: secrets become files of their own, which
//! connections refer to.
//!
//! What cannot be done here (a JavaScript transformation, a signature of AWS) makes the connection **paused**: it takes events
//! and sends none until somebody has looked. What a converter decides is written above the connection as a comment.

mod apinizer;
mod draft;
mod endpoints;
mod fields;
mod hookdeck;
mod make;
mod out;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value as Json;

use crate::secret::Secret;
use out::Out;

/// Connections of one file.
pub const CONNECTIONS_MAX: usize = 10_000;

/// Where the JSON comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// Webhook connections of Apinizer.
    Apinizer,
    /// Connections of Hookdeck, with their sources, destinations and rules.
    Hookdeck,
    /// The endpoints API (`ep_…`).
    Endpoints,
}

impl System {
    /// What people call it.
    pub fn as_str(self) -> &'static str {
        match self {
            System::Apinizer => "Apinizer",
            System::Hookdeck => "Hookdeck",
            System::Endpoints => "the endpoints API",
        }
    }
}

/// What the conversion depends on besides the JSON.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The directory of secrets, as connection files name it.
    pub secrets: String,
    /// The directory of secrets, as the daemon's file names it.
    pub secrets_of_root: String,
    /// The secrets that are there already, by file name.
    pub have: BTreeSet<String>,
    /// Whether a setting is left out when its secret is neither in the JSON nor there.
    pub skip_missing: bool,
}

/// What became of the JSON.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Converted {
    /// Connections.
    pub connections: Vec<Piece>,
    /// Sources.
    pub sources: Vec<Piece>,
    /// Secrets that the JSON has.
    pub secrets: Vec<SecretFile>,
    /// Secrets that the JSON does not have.
    pub missing: Vec<MissingSecret>,
    /// A row for each field.
    pub report: Vec<Row>,
}

/// One table of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its name.
    pub name: String,
    /// Its text, with its header and with comments.
    pub text: String,
}

/// A secret that becomes a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretFile {
    /// The file's name in the directory of secrets.
    pub name: String,
    /// What it holds.
    pub value: Secret,
}

/// A secret that somebody has to supply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MissingSecret {
    /// The file's name in the directory of secrets.
    pub name: String,
    /// What it is for.
    pub purpose: String,
    /// Whether the setting that needs it was left out.
    pub left_out: bool,
}

/// What became of one field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Which object of the input: `connection shop-crm`, `source shop`.
    pub object: String,
    /// The field's path in it.
    pub field: String,
    /// What became of it.
    pub outcome: Outcome,
    /// The key it went to; empty if it went nowhere.
    pub here: String,
    /// What changed, or why it was left; empty if there is nothing to say.
    pub note: String,
}

/// What became of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It means the same here.
    Carried,
    /// It means something else, or another value.
    Changed,
    /// It is not here.
    NotCarried,
}

impl Outcome {
    /// The word for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Carried => "carried",
            Outcome::Changed => "changed",
            Outcome::NotCarried => "not carried",
        }
    }
}

/// Converts a document of a system: a list, a page of a list, or one object.
///
/// # Errors
/// A document in which nothing of that system is found, or too much; the message says what was looked for.
pub fn convert(system: System, document: Json, options: Options) -> Result<Converted, String> {
    let mut out = Out::new(options);
    match system {
        System::Apinizer => apinizer::convert(document, &mut out)?,
        System::Hookdeck => hookdeck::convert(document, &mut out)?,
        System::Endpoints => endpoints::convert(document, &mut out)?,
    }
    Ok(out.done())
}
