//! A connection's table as JSON. What may be a secret is not in it: the kinds of `fields` say what is one, and what they do
//! not know is hidden.

use serde_json::Value as Json;
use toml_edit::{Item, Table, TableLike, Value};

use super::{FINGERPRINT, Object};
use crate::config::fields::{self, CONNECTION, Field, Kind};
use crate::config::read;
use crate::secret::Secret;

/// What is known of a value.
#[derive(Clone, Copy, Debug)]
pub(in crate::config) enum Shape {
    /// The table of these keys.
    Fields(&'static [Field]),
    /// A value of this kind.
    Of(&'static Kind),
    /// A secret, or a reference to one.
    Secret,
    /// Nothing in it is a secret.
    Plain,
    /// Nothing is known, so all of it may be one.
    Unknown,
}

impl Shape {
    /// Of the value behind a key of this one.
    pub(in crate::config) fn child(self, key: &str) -> Shape {
        match self {
            Shape::Fields(fields) => {
                fields::find(fields, key).map_or(Shape::Unknown, |field| Shape::Of(&field.kind))
            }
            Shape::Of(Kind::Table(fields) | Kind::OneOf(fields)) => {
                Shape::Fields(fields).child(key)
            }
            Shape::Of(Kind::Overlays) => Shape::Fields(CONNECTION),
            Shape::Of(Kind::Headers) if read::names_secret(key) => Shape::Secret,
            Shape::Of(Kind::Headers | Kind::Labels | Kind::Tree) | Shape::Plain => Shape::Plain,
            Shape::Secret | Shape::Of(Kind::Secret | Kind::DatedSecret) => {
                let reference = ["env", "file", "credential", "until"].contains(&key);
                if reference { Shape::Plain } else { Shape::Unknown }
            }
            _ => Shape::Unknown,
        }
    }

    /// Of an entry of this list.
    pub(in crate::config) fn element(self) -> Shape {
        match self {
            Shape::Of(Kind::List(kind, ..)) => Shape::Of(kind),
            Shape::Of(Kind::Statuses(_) | Kind::Tree) | Shape::Plain => Shape::Plain,
            // A header's values.
            Shape::Secret => Shape::Secret,
            _ => Shape::Unknown,
        }
    }

    /// Whether a plain value here is a secret.
    pub(super) fn hides(self, text: Option<&str>) -> bool {
        match self {
            Shape::Secret | Shape::Unknown | Shape::Of(Kind::Secret | Kind::DatedSecret) => true,
            // A user and a password are refused in a URL, a proxy's too; until then they stand there.
            Shape::Of(Kind::Url | Kind::Text(_)) => {
                text.is_some_and(|text| text.contains("://") && text.contains('@'))
            }
            _ => false,
        }
    }

    /// Whether a list of objects is written as `[[…]]` tables.
    pub(super) fn is_rows(self) -> bool {
        matches!(self, Shape::Of(Kind::List(kind, ..)) if matches!(**kind, Kind::Table(_)))
    }
}

/// All keys of a `[[connection]]`.
pub(super) fn connection(table: &Table) -> Object {
    object(Shape::Fields(CONNECTION), table)
}

fn object(shape: Shape, table: &dyn TableLike) -> Object {
    let entries = table.iter().filter(|(_, item)| !item.is_none());
    entries.map(|(key, item)| (key.to_owned(), item_json(shape.child(key), item))).collect()
}

pub(super) fn item_json(shape: Shape, item: &Item) -> Json {
    match item {
        Item::None => Json::Null,
        Item::Value(value) => value_json(shape, value),
        Item::Table(table) => Json::Object(object(shape, table)),
        Item::ArrayOfTables(tables) => {
            tables.iter().map(|table| Json::Object(object(shape.element(), table))).collect()
        }
    }
}

pub(super) fn value_json(shape: Shape, value: &Value) -> Json {
    match value {
        Value::Array(array) => {
            array.iter().map(|value| value_json(shape.element(), value)).collect()
        }
        Value::InlineTable(table) => Json::Object(object(shape, table)),
        plain => {
            let text = plain.as_str().map(str::to_owned);
            if shape.hides(text.as_deref()) {
                let text = text.unwrap_or_else(|| scalar(plain).to_string());
                return fingerprint(&text);
            }
            scalar(plain)
        }
    }
}

fn scalar(value: &Value) -> Json {
    match value {
        Value::String(text) => text.value().as_str().into(),
        Value::Integer(number) => (*number.value()).into(),
        Value::Boolean(flag) => (*flag.value()).into(),
        Value::Datetime(stamp) => stamp.value().to_string().into(),
        Value::Float(number) => serde_json::Number::from_f64(*number.value())
            .map_or_else(|| number.value().to_string().into(), Json::Number),
        Value::Array(_) | Value::InlineTable(_) => Json::Null,
    }
}

/// What is shown of a secret.
fn fingerprint(secret: &str) -> Json {
    let mut shown = Object::new();
    shown.insert(FINGERPRINT.to_owned(), Secret::new(secret).fingerprint().into());
    Json::Object(shown)
}
