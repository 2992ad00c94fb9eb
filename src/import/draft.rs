//! A table of the configuration while it is made, and its text.

use std::fmt::Write as _;

use serde_json::Value as Json;
use toml_edit::{Array, InlineTable, Key, Value};

/// Which table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    Connection,
    Source,
}

impl Table {
    fn as_str(self) -> &'static str {
        match self {
            Table::Connection => "connection",
            Table::Source => "source",
        }
    }
}

/// Comments, keys, and sub-tables.
#[derive(Clone, Debug, Default)]
pub(super) struct Draft {
    comments: Vec<String>,
    keys: Vec<(String, Json)>,
    tables: Vec<(String, Vec<(String, Json)>)>,
}

impl Draft {
    /// A line above the table.
    pub(super) fn comment(&mut self, line: impl AsRef<str>) {
        self.comments.extend(line.as_ref().lines().map(|line| line.trim_end().to_owned()));
    }

    /// Sets a key: `url`, or `retry.count` for one in a sub-table.
    pub(super) fn set(&mut self, path: &str, value: impl Into<Json>) {
        let value = value.into();
        let Some((table, key)) = path.rsplit_once('.') else {
            put(&mut self.keys, path, value);
            return;
        };
        match self.tables.iter_mut().find(|(name, _)| name == table) {
            Some((_, keys)) => put(keys, key, value),
            None => self.tables.push((table.to_owned(), vec![(key.to_owned(), value)])),
        }
    }

    /// Sets a key in a sub-table whose name may hold dots.
    pub(super) fn set_in(&mut self, table: &str, key: &str, value: impl Into<Json>) {
        match self.tables.iter_mut().find(|(name, _)| name == table) {
            Some((_, keys)) => put(keys, key, value.into()),
            None => self.tables.push((table.to_owned(), vec![(key.to_owned(), value.into())])),
        }
    }

    /// Whether a key of the table itself is set.
    pub(super) fn has(&self, key: &str) -> bool {
        self.keys.iter().any(|(known, _)| known == key)
    }

    /// Takes a key of the table itself out again.
    pub(super) fn take(&mut self, key: &str) -> Option<Json> {
        let at = self.keys.iter().position(|(known, _)| known == key)?;
        Some(self.keys.remove(at).1)
    }

    /// Puts another draft below a sub-table of this one.
    pub(super) fn nest(&mut self, table: &str, other: Draft) {
        let Draft { comments, keys, tables } = other;
        self.comments.extend(comments);
        self.tables.push((table.to_owned(), keys));
        let below = tables.into_iter().map(|(name, keys)| (format!("{table}.{name}"), keys));
        self.tables.extend(below);
    }

    /// The table as it stands in a file.
    pub(super) fn text(&self, table: Table) -> String {
        let mut text = String::new();
        for line in &self.comments {
            let safe: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{}", format!("# {safe}").trim_end());
        }
        let head = table.as_str();
        let _ = writeln!(text, "[[{head}]]");
        lines(&mut text, &self.keys);
        for (name, keys) in &self.tables {
            let _ = writeln!(text, "\n[{head}.{name}]");
            lines(&mut text, keys);
        }
        text
    }
}

fn put(keys: &mut Vec<(String, Json)>, key: &str, value: Json) {
    match keys.iter_mut().find(|(known, _)| known == key) {
        Some((_, known)) => *known = value,
        None => keys.push((key.to_owned(), value)),
    }
}

fn lines(text: &mut String, keys: &[(String, Json)]) {
    for (key, value) in keys {
        if let Some(value) = toml(value) {
            let _ = writeln!(text, "{} = {value}", Key::new(key.as_str()));
        }
    }
}

/// A value as TOML; `None` for null, which TOML does not have.
fn toml(value: &Json) -> Option<Value> {
    Some(match value {
        Json::Null => return None,
        Json::Bool(flag) => (*flag).into(),
        Json::String(text) => text.as_str().into(),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => whole.into(),
            (None, Some(float)) => float.into(),
            (None, None) => return None,
        },
        Json::Array(items) => {
            let mut array = Array::new();
            items.iter().filter_map(toml).for_each(|item| array.push(item));
            array.into()
        }
        Json::Object(members) => {
            let mut table = InlineTable::new();
            for (key, value) in members {
                if let Some(value) = toml(value) {
                    table.insert(key, value);
                }
            }
            table.into()
        }
    })
}

/// Whether a value can be written as TOML: there is no null, and no number that is too large.
pub(super) fn fits_toml(value: &Json) -> bool {
    match value {
        Json::Null => false,
        Json::Number(number) => number.is_i64() || number.is_f64(),
        Json::Array(items) => items.iter().all(fits_toml),
        Json::Object(members) => members.values().all(fits_toml),
        Json::Bool(_) | Json::String(_) => true,
    }
}
