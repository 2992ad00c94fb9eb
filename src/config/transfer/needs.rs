//! What a connection needs besides its table: secrets, certificates, sources.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml_edit::{InlineTable, Item, Table, TableLike, Value};

use crate::config::edit::document::Shape;
use crate::config::fields::{CONNECTION, Kind};

/// Keys that name certificates.
const CERTIFICATES: [&str; 2] = ["ca_file", "client_cert"];
/// Keys that name keys.
const KEYS: [&str; 1] = ["client_key"];

/// What a connection needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Secrets: where they stand, and where they are kept.
    pub secrets: Vec<Supply>,
    /// Files with certificates: where they stand, and the path as it is written.
    pub certificates: Vec<(String, String)>,
    /// Files with keys.
    pub keys: Vec<(String, String)>,
    /// The sources that feed it.
    pub sources: Vec<String>,
}

/// A secret that somebody has to supply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Supply {
    /// Where it stands: `auth.bearer.token`.
    pub key: String,
    /// How it is kept: `env`, `file` or `credential`.
    pub kind: String,
    /// Under which name.
    pub name: String,
}

/// Looks through a connection's table.
pub(super) fn needs(table: &Table) -> Needs {
    let mut needs = Needs::default();
    tables(Shape::Fields(CONNECTION), table, "", &mut needs);
    let source = table.get("source").and_then(Item::as_str).map(str::to_owned);
    let sources = table.get("sources").and_then(Item::as_array);
    let sources = sources.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
    needs.sources = source.into_iter().chain(sources).collect();
    needs
}

fn tables(shape: Shape, table: &dyn TableLike, path: &str, needs: &mut Needs) {
    if let Some((kind, name)) = reference(shape, table) {
        let key = path.trim_end_matches('.').to_owned();
        needs.secrets.push(Supply { key, kind: kind.to_owned(), name: name.to_owned() });
        return;
    }
    for (key, item) in table.iter() {
        let path = format!("{path}{key}");
        let child = shape.child(key);
        if let (Shape::Of(Kind::Path), Some(file)) = (child, item.as_str()) {
            let found = (path.clone(), file.to_owned());
            if CERTIFICATES.contains(&key) {
                needs.certificates.push(found);
            } else if KEYS.contains(&key) {
                needs.keys.push(found);
            }
            continue;
        }
        // Any header may be a secret.
        let child = if matches!(shape, Shape::Of(Kind::Headers)) { Shape::Secret } else { child };
        items(child, item, &path, needs);
    }
}

fn items(shape: Shape, item: &Item, path: &str, needs: &mut Needs) {
    match item {
        Item::Table(table) => tables(shape, table, &format!("{path}."), needs),
        Item::ArrayOfTables(list) => {
            for table in list {
                tables(shape.element(), table, &format!("{path}."), needs);
            }
        }
        Item::Value(value) => values(shape, value, path, needs),
        Item::None => {}
    }
}

fn values(shape: Shape, value: &Value, path: &str, needs: &mut Needs) {
    match value {
        Value::InlineTable(table) => tables(shape, table, &format!("{path}."), needs),
        Value::Array(list) => {
            for value in list {
                values(shape.element(), value, path, needs);
            }
        }
        _ => {}
    }
}

fn is_secret(shape: Shape) -> bool {
    matches!(shape, Shape::Secret | Shape::Of(Kind::Secret | Kind::DatedSecret))
}

/// A table that refers to a secret.
fn reference(shape: Shape, table: &dyn TableLike) -> Option<(&'static str, &str)> {
    if !is_secret(shape) {
        return None;
    }
    let kinds = ["env", "file", "credential"];
    kinds.into_iter().find_map(|kind| Some((kind, table.get(kind)?.as_str()?)))
}

/// Takes secrets in plain text out; in their places stand references to the environment. The names of these.
pub(super) fn without_plain_secrets(table: &mut Table, connection: &str) -> Vec<Supply> {
    let mut taken = Vec::new();
    let mut walk = Walk { prefix: connection, taken: &mut taken };
    walk.tables(Shape::Fields(CONNECTION), table, "");
    taken
}

struct Walk<'w> {
    prefix: &'w str,
    taken: &'w mut Vec<Supply>,
}

impl Walk<'_> {
    fn tables(&mut self, shape: Shape, table: &mut dyn TableLike, path: &str) {
        if reference(shape, table).is_some() {
            return;
        }
        for (key, item) in table.iter_mut() {
            let path = format!("{path}{}", key.get());
            let child = shape.child(key.get());
            match item {
                Item::Table(table) => self.tables(child, table, &format!("{path}.")),
                Item::ArrayOfTables(list) => {
                    for (at, table) in list.iter_mut().enumerate() {
                        self.tables(child.element(), table, &format!("{path}[{at}]."));
                    }
                }
                Item::Value(value) => self.value(child, value, &path),
                Item::None => {}
            }
        }
    }

    fn value(&mut self, shape: Shape, value: &mut Value, path: &str) {
        match value {
            Value::InlineTable(table) => self.tables(shape, table, &format!("{path}.")),
            Value::Array(list) => {
                for (at, value) in list.iter_mut().enumerate() {
                    self.value(shape.element(), value, &format!("{path}[{at}]"));
                }
            }
            plain => {
                let text = plain.as_str().map(str::to_owned);
                let templated =
                    text.as_deref().is_some_and(crate::connection::template::has_placeholders);
                if is_secret(shape) && !templated {
                    let name = variable(self.prefix, path);
                    let mut reference = InlineTable::new();
                    reference.insert("env", name.as_str().into());
                    let decor = plain.decor().clone();
                    *plain = Value::InlineTable(reference);
                    *plain.decor_mut() = decor;
                    self.taken.push(Supply { key: path.to_owned(), kind: "env".to_owned(), name });
                }
            }
        }
    }
}

/// `CRM_AUTH_BEARER_TOKEN`
fn variable(connection: &str, path: &str) -> String {
    let mut name = String::new();
    for letter in format!("{connection}_{path}").chars() {
        if letter.is_ascii_alphanumeric() {
            name.push(letter.to_ascii_uppercase());
        } else if !name.ends_with('_') {
            name.push('_');
        }
    }
    name.trim_end_matches('_').to_owned()
}

/// Where a path that is written in a file leads.
pub(super) fn resolve(file: &Path, written: &str) -> PathBuf {
    let base = file.parent().unwrap_or(Path::new("/"));
    let mut resolved = PathBuf::new();
    for part in base.join(written).components() {
        match part {
            std::path::Component::ParentDir => drop(resolved.pop()),
            std::path::Component::CurDir => {}
            part => resolved.push(part),
        }
    }
    resolved
}
