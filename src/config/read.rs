//! Walks the syntax tree of one file along the tables of [`super::fields`], checks kinds and bounds, and collects every
//! error. It does not know about other files or layers.

use std::ops::Range;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::Report;
use super::fields::{self, Field, Kind};
use super::layers::builtin;
use super::source::{Place, Reveal, SourceFile};
use super::tree::{self, Tree, What};
use super::value::{Entry, Item, Overlay, Table, Value};
use crate::connection::Target;
use crate::connection::status::{Purpose, StatusSet};
use crate::units::{ByteSize, HumanDuration, quoted};

mod headers;
pub(super) use crate::connection::headers::{header_name, header_value, names_secret};
mod scalar;
pub(super) use scalar::{METHODS, name as legal_name};
mod secrets;

/// Reads one file.
pub(super) struct Reader<'r> {
    pub(super) file: &'r Rc<SourceFile>,
    pub(super) report: &'r mut Report,
}

/// A value of the syntax tree.
type Node<'i> = Spanned<DeValue<'i>>;

/// Keys that neither `[defaults]` nor an overlay may set.
pub(super) const IDENTITY: &[&str] = &["name", "renamed_from", "env", "test"];

impl Reader<'_> {
    /// Reads the keys of one table. `path` is the table's name for errors, with a separator at its end.
    pub(super) fn table(
        &mut self,
        fields: &'static [Field],
        table: &DeTable<'_>,
        path: &str,
    ) -> Table {
        let mut read = Table::default();
        for (key, value) in in_order(table) {
            let Some(field) = fields::find(fields, key.get_ref()) else {
                self.unknown_key(fields, key, value, path);
                continue;
            };
            let place = self.place(value.span());
            match self.value(&field.kind, value, &format!("{path}{}", field.key)) {
                Some(value) => read.insert(field.key, Item { value, place }),
                None => read.refuse(field.key),
            }
        }
        read
    }

    /// Reads a table of connection fields that is no connection: `[defaults]` or an overlay.
    fn layer(&mut self, table: &DeTable<'_>, path: &str) -> Table {
        for (key, _) in in_order(table) {
            if IDENTITY.contains(&key.get_ref().as_ref()) {
                let message = "belongs to the connection itself and cannot be set here".to_owned();
                let key_path = format!("{path}{}", key.get_ref());
                self.error(key.span(), &Reveal::Value, &key_path, message);
            }
        }
        let mut read = self.table(fields::CONNECTION, table, path);
        for key in IDENTITY {
            read.remove(key);
        }
        self.expand_aliases(&mut read, path);
        read
    }

    /// Reads one `[[connection]]`.
    pub(super) fn connection(&mut self, table: &DeTable<'_>, path: &str) -> Table {
        let mut read = self.table(fields::CONNECTION, table, path);
        self.expand_aliases(&mut read, path);
        read
    }

    /// Replaces aliases by what they stand for. An alias beside its long form in the same layer is an error.
    fn expand_aliases(&mut self, table: &mut Table, path: &str) {
        let aliases: [(&str, &[&'static str]); 3] = [
            ("timeout", &["connect_timeout", "request_timeout"]),
            ("enabled", &["state"]),
            ("source", &["sources"]),
        ];
        for (alias, long_forms) in aliases {
            let Some(item) = table.remove(alias) else {
                continue;
            };
            for long in long_forms {
                if let Some(other) = table.get(long) {
                    let message = format!(
                        "stands for {long}, which is set here too ({}); keep one of them",
                        other.place.name()
                    );
                    let key_path = format!("{path}{alias}");
                    self.report.error(&item.place, &Reveal::Value, &key_path, message);
                } else {
                    table.insert(long, long_form(alias, item.clone()));
                }
            }
        }
    }

    /// One value of a known kind; `None` after an error.
    pub(super) fn value(
        &mut self,
        kind: &'static Kind,
        node: &Node<'_>,
        path: &str,
    ) -> Option<Value> {
        match kind {
            Kind::List(kind, min, max) => self.list(kind, (*min, *max), node, path),
            Kind::Table(fields) => {
                let table = self.expect_table(node, path)?;
                Some(Value::Table(self.table(fields, table, &format!("{path}."))))
            }
            Kind::Defaults => {
                let table = self.expect_table(node, path)?;
                Some(Value::Table(self.layer(table, &format!("{path}."))))
            }
            Kind::OneOf(fields) => self.one_of(fields, node, path),
            Kind::Secret => self.secret(node, path),
            Kind::DatedSecret => self.dated_secret(node, path),
            Kind::Tree => self.tree(node, path).map(Value::Tree),
            // What is wrong with them was said before.
            Kind::Variables => Some(Value::Map(Vec::new())),
            Kind::Labels => self.labels(node, path),
            Kind::Headers => self.headers(node, path),
            Kind::Overlays => self.overlays(node, path),
            Kind::Statuses(purpose) => self.statuses(*purpose, node, path),
            _ => match scalar::read(kind, node.get_ref(), self.file.path.parent()) {
                Ok(value) => Some(value),
                Err(message) => {
                    let reveal =
                        if matches!(kind, Kind::Url) { Reveal::Nothing } else { Reveal::Value };
                    self.error(node.span(), &reveal, path, message);
                    None
                }
            },
        }
    }

    fn list(
        &mut self,
        kind: &'static Kind,
        (min, max): (usize, usize),
        node: &Node<'_>,
        path: &str,
    ) -> Option<Value> {
        let array = self.expect_array(node, path)?;
        if array.len() < min || array.len() > max {
            let message = format!("has {} entries; {min} to {max} are allowed", array.len());
            self.error(node.span(), &Reveal::Value, path, message);
            return None;
        }
        let mut items = Vec::with_capacity(array.len());
        for (index, node) in array.iter().enumerate() {
            let place = self.place(node.span());
            if let Some(value) = self.value(kind, node, &format!("{path}[{index}]")) {
                items.push(Item { value, place });
            }
        }
        (items.len() == array.len()).then_some(Value::List(items))
    }

    /// The one sub-table that was chosen, over the defaults of its keys.
    fn one_of(&mut self, fields: &'static [Field], node: &Node<'_>, path: &str) -> Option<Value> {
        let table = self.expect_table(node, path)?;
        let read = self.table(fields, table, &format!("{path}."));
        let keys: Vec<_> = fields.iter().map(|field| field.key).collect();
        if table.len() != 1 {
            let message = format!(
                "has {} of these tables, exactly one is allowed: {}",
                table.len(),
                keys.join(", ")
            );
            self.error(node.span(), &Reveal::Nothing, path, message);
            return None;
        }
        let chosen = fields.iter().find(|field| read.get(field.key).is_some())?;
        let mut keys = match chosen.kind {
            Kind::Table(fields) => builtin(fields),
            _ => Table::default(),
        };
        keys.merge(&read.table(chosen.key));
        Some(Value::OneOf(chosen.key, keys))
    }

    /// A value of any kind, with the places of its parts.
    fn tree(&mut self, node: &Node<'_>, path: &str) -> Option<Tree> {
        let place = self.place(node.span());
        let what = match node.get_ref() {
            DeValue::String(text) => What::Text(text.to_string()),
            DeValue::Boolean(flag) => What::Bool(*flag),
            DeValue::Datetime(stamp) => What::Text(stamp.to_string()),
            DeValue::Integer(_) | DeValue::Float(_) => {
                let number = tree::number(node.get_ref());
                match number {
                    Some(number) => What::Number(number),
                    None => {
                        let message = "is not a number that JSON has".to_owned();
                        self.error(node.span(), &Reveal::Value, path, message);
                        return None;
                    }
                }
            }
            DeValue::Array(array) => {
                let items = array.iter().enumerate();
                let items = items.map(|(at, node)| self.tree(node, &format!("{path}[{at}]")));
                What::List(items.collect::<Option<_>>()?)
            }
            DeValue::Table(table) => {
                let entries = in_order(table).into_iter().map(|(key, node)| {
                    let name = key.get_ref().to_string();
                    let value = self.tree(node, &format!("{path}.{name}"))?;
                    Some((name, self.place(key.span()), value))
                });
                What::Map(entries.collect::<Option<_>>()?)
            }
        };
        Some(Tree { what, place })
    }

    fn statuses(&mut self, purpose: Purpose, node: &Node<'_>, path: &str) -> Option<Value> {
        let array = self.expect_array(node, path)?;
        let mut entries = Vec::with_capacity(array.len());
        for (index, node) in array.iter().enumerate() {
            let Some(text) = node.get_ref().as_str() else {
                let message = format!("{}, write a string as in \"503\" or \"5xx\"", is_a(node));
                let path = format!("{path}[{index}]");
                self.error(node.span(), &Reveal::Value, &path, message);
                return None;
            };
            entries.push(text);
        }
        match StatusSet::parse(&entries, purpose) {
            Ok(set) => Some(Value::Statuses(set)),
            Err(error) => {
                let entry = array.get(error.entry).map_or(node.span(), Spanned::span);
                self.error(entry, &Reveal::Value, path, error.message);
                None
            }
        }
    }

    fn labels(&mut self, node: &Node<'_>, path: &str) -> Option<Value> {
        let table = self.expect_table(node, path)?;
        if table.len() > fields::LABELS_MAX {
            let message =
                format!("has {} labels, at most {} are allowed", table.len(), fields::LABELS_MAX);
            self.error(node.span(), &Reveal::Value, path, message);
        }
        static LABEL: Kind = Kind::Text(fields::LABEL_CHARS_MAX);
        let mut entries = Vec::with_capacity(table.len());
        for (key, node) in in_order(table) {
            let name = key.get_ref();
            let path = format!("{path}.{name}");
            if name.is_empty() || name.chars().count() > fields::LABEL_CHARS_MAX {
                let message =
                    format!("a label's key has 1 to {} characters", fields::LABEL_CHARS_MAX);
                self.error(key.span(), &Reveal::Value, &path, message);
            }
            if let Some(value) = self.value(&LABEL, node, &path) {
                let place = self.place(node.span());
                entries.push(Entry { key: name.to_string(), item: Item { value, place } });
            }
        }
        Some(Value::Map(entries))
    }

    fn overlays(&mut self, node: &Node<'_>, path: &str) -> Option<Value> {
        let table = self.expect_table(node, path)?;
        let mut overlays = Vec::with_capacity(table.len());
        for (key, node) in in_order(table) {
            let path = format!("{path}.{}", key.get_ref());
            if let Err(message) = scalar::name(key.get_ref()) {
                self.error(key.span(), &Reveal::Value, &path, message);
                continue;
            }
            if let Some(table) = self.expect_table(node, &path) {
                overlays.push(Overlay {
                    environment: key.get_ref().to_string(),
                    table: self.layer(table, &format!("{path}.")),
                });
            }
        }
        Some(Value::Overlays(overlays))
    }

    fn expect_table<'n, 'i>(&mut self, node: &'n Node<'i>, path: &str) -> Option<&'n DeTable<'i>> {
        let table = node.get_ref().as_table();
        if table.is_none() {
            let message = format!("{}, write a table: {{ … }}", is_a(node));
            self.error(node.span(), &Reveal::Nothing, path, message);
        }
        table
    }

    fn expect_array<'n, 'i>(&mut self, node: &'n Node<'i>, path: &str) -> Option<&'n DeArray<'i>> {
        let array = node.get_ref().as_array();
        if array.is_none() {
            let message = format!("{}, write a list: [ … ]", is_a(node));
            self.error(node.span(), &Reveal::Value, path, message);
        }
        array
    }

    fn unknown_key(
        &mut self,
        fields: &'static [Field],
        key: &Spanned<std::borrow::Cow<'_, str>>,
        value: &Node<'_>,
        path: &str,
    ) {
        let name = key.get_ref().as_ref();
        let hint = hint(fields, name);
        // In a file that does not parse, a piece of a secret may look like a key; a near miss of a real key is none.
        let message = if self.file.broken.get() && !hint.starts_with(", ") {
            format!("unknown key{hint}")
        } else {
            format!("unknown key {}{hint}", quoted(name))
        };
        let path = path.trim_end_matches('.');
        self.error(key.span(), &Reveal::Key(value.span()), path, message);
    }

    pub(super) fn place(&self, span: Range<usize>) -> Place {
        Place { file: Rc::clone(self.file), span }
    }

    pub(super) fn error(
        &mut self,
        span: Range<usize>,
        reveal: &Reveal,
        path: &str,
        message: String,
    ) {
        let place = self.place(span);
        self.report.error(&place, reveal, path, message);
    }
}

/// What an alias means in the words of its long form.
fn long_form(alias: &str, item: Item) -> Item {
    let Item { value, place } = item;
    let value = match (alias, value) {
        ("enabled", Value::Bool(enabled)) => {
            Value::Text(if enabled { "active" } else { "disabled" }.to_owned())
        }
        ("source", value) => Value::List(vec![Item { value, place: place.clone() }]),
        (_, value) => value,
    };
    Item { value, place }
}

/// The end of the message about an unknown key.
fn hint(fields: &'static [Field], name: &str) -> String {
    if std::ptr::eq(fields, fields::ROOT) && name == "connection" {
        return "; connections are written in files of the connections directory".to_owned();
    }
    let keys = fields.iter().map(|field| field.key);
    let near =
        |key: &&str| strsim::damerau_levenshtein(key, name) <= 1 + key.len().min(name.len()) / 4;
    let nearest =
        keys.clone().filter(near).min_by_key(|key| strsim::damerau_levenshtein(key, name));
    match nearest {
        Some(key) => format!(", did you mean {key:?}?"),
        None if fields.len() <= 12 => {
            format!("; known here: {}", keys.collect::<Vec<_>>().join(", "))
        }
        None => String::new(),
    }
}

/// The entries of a table as they stand in the file.
pub(super) fn in_order<'t, 'i>(
    table: &'t DeTable<'i>,
) -> Vec<(&'t Spanned<std::borrow::Cow<'i, str>>, &'t Node<'i>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

/// The legal name of a connection, for the errors of its other keys.
pub(super) fn name_of<'t>(table: &'t DeTable<'_>) -> Option<&'t str> {
    let name = table.get("name")?.get_ref().as_str()?;
    scalar::name(name).is_ok().then_some(name)
}

/// "is an integer" and the like, for messages that must not show the value.
pub(super) fn is_a(node: &Node<'_>) -> String {
    scalar::is_a(node.get_ref())
}
