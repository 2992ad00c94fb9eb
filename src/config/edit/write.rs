//! JSON into a table: what is the same stays as it was written, with its comments; what is new is written as a person would.

use serde_json::Value as Json;
use toml_edit::{
    Array, ArrayOfTables, Decor, InlineTable, Item, RawString, Table, TableLike, Value,
};

use super::document::{self, Shape};
use super::{Object, is_fingerprint};
use crate::config::fields::{CONNECTION, Field, Kind};

/// The longest table that is written on one line, in characters of its JSON.
const INLINE_MAX: usize = 60;

/// A new `[[connection]]`.
pub(super) fn connection(document: &Object) -> Result<Table, String> {
    table(Shape::Fields(CONNECTION), document, "")
}

/// Gives a `[[connection]]` exactly these keys.
pub(super) fn change(table: &mut Table, document: &Object) -> Result<(), String> {
    apply(table, Shape::Fields(CONNECTION), document, "", Layout::Lines)
}

/// Whether sub-tables may be written here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    Lines,
    Inline,
}

/// Gives a table exactly these keys.
fn apply(
    table: &mut dyn TableLike,
    shape: Shape,
    next: &Object,
    path: &str,
    layout: Layout,
) -> Result<(), String> {
    let gone = table.iter().map(|(key, _)| key.to_owned());
    let gone: Vec<String> = gone.filter(|key| !next.contains_key(key)).collect();
    for key in gone {
        remove(table, &key, layout);
    }
    for (key, value) in ordered(shape, next) {
        let path = format!("{path}{key}");
        let shape = shape.child(key);
        match table.get_mut(key) {
            Some(item) => update(item, shape, value, &path, layout)?,
            None => {
                table.insert(key, fresh(shape, value, &path, layout)?);
            }
        }
    }
    Ok(())
}

/// Brings an item to this value, leaving alone what has it.
fn update(
    item: &mut Item,
    shape: Shape,
    next: &Json,
    path: &str,
    layout: Layout,
) -> Result<(), String> {
    if same(&document::item_json(shape, item), next) {
        return Ok(());
    }
    match (item, next) {
        (Item::Table(table), Json::Object(next))
            if !is_fingerprint(&Json::Object(next.clone())) =>
        {
            apply(table, shape, next, &format!("{path}."), layout)
        }
        (Item::ArrayOfTables(tables), Json::Array(next)) if next.iter().all(Json::is_object) => {
            rows(tables, shape.element(), next, path)
        }
        (Item::Value(value), next) => update_value(value, shape, next, path),
        (item, next) => {
            *item = fresh(shape, next, path, layout)?;
            Ok(())
        }
    }
}

fn update_value(value: &mut Value, shape: Shape, next: &Json, path: &str) -> Result<(), String> {
    if same(&document::value_json(shape, value), next) {
        return Ok(());
    }
    match (&mut *value, next) {
        (Value::InlineTable(table), Json::Object(object)) if !is_fingerprint(next) => {
            apply(table, shape, object, &format!("{path}."), Layout::Inline)
        }
        (Value::Array(array), Json::Array(next)) => list(array, shape.element(), next, path),
        _ => {
            let decor = value.decor().clone();
            *value = plain(shape, next, path)?;
            *value.decor_mut() = decor;
            Ok(())
        }
    }
}

/// Brings a list to these entries; those at the same place keep their comments.
fn list(array: &mut Array, shape: Shape, next: &[Json], path: &str) -> Result<(), String> {
    while array.len() > next.len() {
        array.remove(array.len() - 1);
    }
    // A list of several lines goes on in lines.
    let last = array.len().checked_sub(1).and_then(|last| array.get(last));
    let prefix = last.and_then(|last| last.decor().prefix()).and_then(RawString::as_str);
    let indent = prefix.and_then(|prefix| prefix.get(prefix.rfind('\n')?..)).map(str::to_owned);
    for (at, next) in next.iter().enumerate() {
        let path = format!("{path}[{at}]");
        match array.get_mut(at) {
            Some(value) => update_value(value, shape, next, &path)?,
            None => {
                let value = plain(shape, next, &path)?;
                match &indent {
                    Some(indent) => array.push_formatted(value.decorated(indent.as_str(), "")),
                    None => array.push(value),
                }
            }
        }
    }
    Ok(())
}

fn rows(tables: &mut ArrayOfTables, shape: Shape, next: &[Json], path: &str) -> Result<(), String> {
    while tables.len() > next.len() {
        tables.remove(tables.len() - 1);
    }
    for (at, next) in next.iter().enumerate() {
        let Json::Object(next) = next else { continue };
        let path = format!("{path}[{at}].");
        match tables.get_mut(at) {
            Some(table) => apply(table, shape, next, &path, Layout::Lines)?,
            None => tables.push(self::table(shape, next, &path)?),
        }
    }
    Ok(())
}

/// A new item.
fn fresh(shape: Shape, next: &Json, path: &str, layout: Layout) -> Result<Item, String> {
    match next {
        Json::Object(object) if layout == Layout::Lines && wants_lines(shape, object) => {
            Ok(Item::Table(table(shape, object, &format!("{path}."))?))
        }
        Json::Array(list)
            if layout == Layout::Lines
                && shape.is_rows()
                && !list.is_empty()
                && list.iter().all(Json::is_object) =>
        {
            let mut tables = ArrayOfTables::new();
            rows(&mut tables, shape.element(), list, path)?;
            Ok(Item::ArrayOfTables(tables))
        }
        next => Ok(Item::Value(plain(shape, next, path)?)),
    }
}

/// Whether an object is written as a table of its own: it is no secret, and it is long or has objects in it.
fn wants_lines(shape: Shape, object: &Object) -> bool {
    if matches!(shape, Shape::Secret | Shape::Of(Kind::Secret | Kind::DatedSecret)) {
        return false;
    }
    if matches!(shape, Shape::Fields(_) | Shape::Of(Kind::Overlays | Kind::OneOf(_))) {
        return true;
    }
    let length: usize = object.iter().map(|(key, value)| key.len() + value.to_string().len()).sum();
    length > INLINE_MAX || object.values().any(|value| value.is_object())
}

fn table(shape: Shape, object: &Object, path: &str) -> Result<Table, String> {
    let mut table = Table::new();
    apply(&mut table, shape, object, path, Layout::Lines)?;
    // A header that nothing stands below but other headers is not written.
    let only_tables = !table.is_empty() && table.iter().all(|(_, item)| item.is_table());
    table.set_implicit(only_tables);
    Ok(table)
}

/// A value on one line.
fn plain(shape: Shape, next: &Json, path: &str) -> Result<Value, String> {
    Ok(match next {
        Json::Null => {
            return Err(format!("{path}: TOML has no null; leave the key out"));
        }
        Json::Bool(flag) => (*flag).into(),
        Json::String(text) => text.as_str().into(),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => whole.into(),
            (None, Some(float)) if number.is_f64() => float.into(),
            _ => return Err(format!("{path}: {number} is larger than any number of TOML")),
        },
        Json::Array(list) => {
            let mut array = Array::new();
            self::list(&mut array, shape.element(), list, path)?;
            array.into()
        }
        Json::Object(_) if is_fingerprint(next) => {
            return Err(format!(
                "{path}: a fingerprint stands for the secret that the file has here, and it has another one or none; send a reference, as in {{ \"env\": \"NAME\" }}"
            ));
        }
        Json::Object(object) => {
            let mut inline = InlineTable::new();
            apply(&mut inline, shape, object, &format!("{path}."), Layout::Inline)?;
            inline.into()
        }
    })
}

/// The members in the order of the fields, so that a new file reads like the others.
fn ordered(shape: Shape, object: &Object) -> Vec<(&String, &Json)> {
    let fields: &[Field] = match shape {
        Shape::Fields(fields) => fields,
        Shape::Of(Kind::Table(fields)) => fields,
        _ => &[],
    };
    let rank = |key: &str| fields.iter().position(|field| field.key == key);
    let mut members: Vec<_> = object.iter().collect();
    members.sort_by_key(|(key, _)| rank(key).unwrap_or(usize::MAX));
    members
}

/// Whether two values are the same for TOML's readers: `2` and `2.0` are one number.
fn same(one: &Json, other: &Json) -> bool {
    match (one, other) {
        (Json::Number(one), Json::Number(other)) => one == other || one.as_f64() == other.as_f64(),
        (Json::Array(one), Json::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Json::Object(one), Json::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(key, one)| other.get(key).is_some_and(|other| same(one, other)))
        }
        _ => one == other,
    }
}

/// Removes a key. The comments above and behind it are somebody's words: they stay, below the key before.
fn remove(table: &mut dyn TableLike, key: &str, layout: Layout) {
    let comments = if layout == Layout::Lines { comments_of(table, key) } else { String::new() };
    let before = table.iter().take_while(|(other, _)| *other != key);
    let before = before.filter(|(_, item)| item.is_value()).last();
    let before = before.map(|(key, _)| key.to_owned());
    table.remove(key);
    if comments.is_empty() {
        return;
    }
    let before = before
        .or_else(|| table.iter().find(|(_, item)| item.is_value()).map(|(key, _)| key.to_owned()));
    if let Some(Item::Value(value)) = before.and_then(|before| table.get_mut(&before)) {
        let decor = value.decor_mut();
        let behind = text(decor.suffix()).trim_end().to_owned();
        decor.set_suffix(format!("{behind}\n{comments}"));
    }
}

/// The lines of comments that belong to a key, without the last line break.
fn comments_of(table: &dyn TableLike, key: &str) -> String {
    let Some((written, item)) = table.get_key_value(key) else {
        return String::new();
    };
    let mut lines = Vec::new();
    let mut take = |decor: &Decor| {
        for part in [decor.prefix(), decor.suffix()] {
            lines.extend(
                text(part)
                    .lines()
                    .map(str::trim)
                    .filter(|line| line.starts_with('#'))
                    .map(str::to_owned),
            );
        }
    };
    take(written.leaf_decor());
    match item {
        Item::Value(value) => take(value.decor()),
        Item::Table(table) => take(table.decor()),
        _ => {}
    }
    lines.join("\n")
}

fn text(raw: Option<&RawString>) -> &str {
    raw.and_then(RawString::as_str).unwrap_or_default()
}
