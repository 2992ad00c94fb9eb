//! What a conversion collects: rows, secrets, names that are taken, tables.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};

use super::draft::{Draft, Table};
use super::{Converted, MissingSecret, Options, Outcome, Piece, Row, SecretFile};
use crate::secret::Secret;

/// The longest name of a connection.
const NAME_MAX: usize = 155;

/// What a conversion collects.
pub(super) struct Out {
    options: Options,
    /// What rows are about now.
    object: String,
    done: Converted,
    /// Names that are taken, in lower case.
    names: BTreeSet<String>,
    /// Sources that are made, with their tables.
    sources: BTreeMap<String, String>,
}

impl Out {
    pub(super) fn new(options: Options) -> Out {
        Out {
            options,
            object: String::new(),
            done: Converted::default(),
            names: BTreeSet::new(),
            sources: BTreeMap::new(),
        }
    }

    pub(super) fn done(self) -> Converted {
        self.done
    }

    /// Says what the next rows are about.
    pub(super) fn about(&mut self, object: impl Into<String>) {
        self.object = object.into();
    }

    fn row(&mut self, field: &str, outcome: Outcome, here: &str, note: &str) {
        self.done.report.push(Row {
            object: self.object.clone(),
            field: field.to_owned(),
            outcome,
            here: here.to_owned(),
            note: note.to_owned(),
        });
    }

    pub(super) fn carried(&mut self, field: &str, here: &str) {
        self.row(field, Outcome::Carried, here, "");
    }

    pub(super) fn noted(&mut self, field: &str, here: &str, note: &str) {
        self.row(field, Outcome::Carried, here, note);
    }

    pub(super) fn changed(&mut self, field: &str, here: &str, note: &str) {
        self.row(field, Outcome::Changed, here, note);
    }

    pub(super) fn dropped(&mut self, field: &str, note: &str) {
        self.row(field, Outcome::NotCarried, "", note);
    }

    /// A name for a connection that no other of this conversion has. Rows are about it from now on.
    pub(super) fn name(&mut self, field: &str, wanted: &str, kind: &str) -> String {
        let legal = legal_name(wanted);
        let mut name = legal.clone();
        let mut number = 1;
        while !self.names.insert(name.to_ascii_lowercase()) {
            number += 1;
            let end = format!("-{number}");
            let head: String = legal.chars().take(NAME_MAX - end.len()).collect();
            name = head + &end;
        }
        self.about(format!("{kind} {name}"));
        if name == wanted {
            self.carried(field, "name");
        } else if name == legal {
            self.changed(field, "name", "a name has letters, digits, - and _");
        } else {
            self.changed(field, "name", "the name was taken already, whatever its case");
        }
        name
    }

    /// A reference to a secret for a connection; `None`: nobody has it, and the setting is to be left out.
    pub(super) fn secret(&mut self, name: &str, value: Option<&str>, what: &str) -> Option<Json> {
        let directory = self.options.secrets.clone();
        self.secret_in(&directory, name, value, what)
    }

    /// The same for a source.
    pub(super) fn source_secret(
        &mut self,
        name: &str,
        value: Option<&str>,
        what: &str,
    ) -> Option<Json> {
        let directory = self.options.secrets_of_root.clone();
        self.secret_in(&directory, name, value, what)
    }

    fn secret_in(
        &mut self,
        directory: &str,
        name: &str,
        value: Option<&str>,
        what: &str,
    ) -> Option<Json> {
        let reference = json!({ "file": format!("{directory}/{name}") });
        if let Some(value) = value.filter(|value| !is_masked(value)) {
            let value = Secret::new(value);
            self.done.secrets.push(SecretFile { name: name.to_owned(), value });
            return Some(reference);
        }
        if self.options.have.contains(name) {
            return Some(reference);
        }
        let left_out = self.options.skip_missing;
        let purpose = what.to_owned();
        self.done.missing.push(MissingSecret { name: name.to_owned(), purpose, left_out });
        (!left_out).then_some(reference)
    }

    /// Whether somebody has put this secret there.
    pub(super) fn has(&self, name: &str) -> bool {
        self.options.have.contains(name)
    }

    pub(super) fn connection(&mut self, name: &str, draft: Draft) {
        let text = draft.text(Table::Connection);
        self.done.connections.push(Piece { name: name.to_owned(), text });
    }

    /// A source; one that is there already must be the same.
    pub(super) fn source(&mut self, name: &str, draft: Draft) {
        let text = draft.text(Table::Source);
        match self.sources.get(name) {
            Some(known) if *known == text => {}
            Some(_) => self.dropped(
                "source.config",
                "another connection of the file describes this source otherwise; the first description counts",
            ),
            None => {
                self.sources.insert(name.to_owned(), text.clone());
                self.done.sources.push(Piece { name: name.to_owned(), text });
            }
        }
    }

    pub(super) fn has_source(&self, name: &str) -> bool {
        self.sources.contains_key(name)
    }
}

/// A value that stands for one that is not shown.
fn is_masked(value: &str) -> bool {
    let value = value.trim();
    value.is_empty()
        || value.contains("***")
        || value.contains("•••")
        || value.eq_ignore_ascii_case("<redacted>")
        || value.eq_ignore_ascii_case("[redacted]")
}

/// A legal name as near to this as possible.
pub(super) fn legal_name(text: &str) -> String {
    let mut name = String::new();
    for letter in text.trim().chars() {
        let legal = letter.is_ascii_alphanumeric() || letter == '-' || letter == '_';
        if legal && (!name.is_empty() || letter.is_ascii_alphanumeric()) {
            name.push(letter);
        } else if !legal && !name.is_empty() && !name.ends_with('-') {
            name.push('-');
        }
    }
    name.truncate(NAME_MAX);
    let name = name.trim_end_matches('-');
    if name.is_empty() { "imported".to_owned() } else { name.to_owned() }
}
