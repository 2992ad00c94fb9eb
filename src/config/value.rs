//! Values as they were read and checked, each with the place where it was written, and how layers of them merge.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::source::Place;
use super::tree::Tree;
use crate::connection::Target;
use crate::connection::status::StatusSet;
use crate::secret::SecretRef;

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) value: Value,
    pub(super) place: Place,
}

/// A checked value of some [`super::fields::Kind`].
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    Bool(bool),
    Integer(u64),
    Number(f64),
    Span(Duration),
    Size(u64),
    Url(Box<Target>),
    Path(PathBuf),
    Address(SocketAddr),
    /// `"off"`
    Off,
    Statuses(StatusSet),
    Secret(SecretRef),
    /// A secret, and when it ends, in milliseconds since 1970.
    DatedSecret(SecretRef, Option<u64>),
    /// Milliseconds since 1970.
    Stamp(u64),
    Cidr(ipnet::IpNet),
    Tree(Tree),
    /// The chosen sub-table's key and its keys over their defaults.
    OneOf(&'static str, Table),
    List(Vec<Item>),
    Table(Table),
    Map(Vec<Entry>),
    Overlays(Vec<Overlay>),
}

/// One key of a table whose keys are the user's, in the file's order.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) item: Item,
}

/// One `[connection.env.NAME]`.
#[derive(Clone, Debug)]
pub(super) struct Overlay {
    pub(super) environment: String,
    pub(super) table: Table,
}

/// One layer of one object, or several merged.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    items: BTreeMap<&'static str, Item>,
    /// Keys that were written and refused; rules that span several keys leave these alone.
    refused: BTreeSet<&'static str>,
}

impl Table {
    pub(super) fn get(&self, key: &str) -> Option<&Item> {
        self.items.get(key)
    }

    pub(super) fn insert(&mut self, key: &'static str, item: Item) {
        self.items.insert(key, item);
    }

    pub(super) fn refuse(&mut self, key: &'static str) {
        self.refused.insert(key);
    }

    /// Whether one of these keys was written and refused.
    pub(super) fn refused(&self, keys: &[&str]) -> bool {
        keys.iter().any(|key| self.refused.contains(key))
    }

    /// Whether nothing that was written was refused.
    pub(super) fn is_whole(&self) -> bool {
        self.refused.is_empty()
    }

    pub(super) fn remove(&mut self, key: &str) -> Option<Item> {
        self.items.remove(key)
    }

    /// Lays `over` on top: tables merge key by key, everything else is replaced.
    pub(super) fn merge(&mut self, over: &Table) {
        self.refused.extend(&over.refused);
        for (key, item) in &over.items {
            match self.items.get_mut(key) {
                Some(below) => below.merge(item),
                None => self.insert(key, item.clone()),
            }
        }
    }

    /// The item, unless it is a built-in default.
    pub(super) fn written(&self, key: &str) -> Option<&Item> {
        self.get(key).filter(|item| !item.place.is_builtin())
    }

    pub(super) fn table(&self, key: &str) -> Table {
        match self.get(key).map(|item| &item.value) {
            Some(Value::Table(table)) => table.clone(),
            _ => Table::default(),
        }
    }

    /// The sub-table that was chosen of a [`super::fields::Kind::OneOf`], and its keys over their defaults.
    pub(super) fn one_of(&self, key: &str) -> Option<(&'static str, &Table)> {
        match &self.get(key)?.value {
            Value::OneOf(chosen, table) => Some((chosen, table)),
            _ => None,
        }
    }

    pub(super) fn tree(&self, key: &str) -> Option<&Tree> {
        match &self.get(key)?.value {
            Value::Tree(tree) => Some(tree),
            _ => None,
        }
    }

    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        match self.get(key)?.value {
            Value::Bool(flag) => Some(flag),
            _ => None,
        }
    }

    pub(super) fn text(&self, key: &str) -> Option<&str> {
        match &self.get(key)?.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn path(&self, key: &str) -> Option<&Path> {
        match &self.get(key)?.value {
            Value::Path(path) => Some(path),
            _ => None,
        }
    }

    pub(super) fn integer(&self, key: &str) -> Option<u64> {
        match self.get(key)?.value {
            Value::Integer(number) | Value::Size(number) => Some(number),
            _ => None,
        }
    }

    pub(super) fn list(&self, key: &str) -> &[Item] {
        match self.get(key).map(|item| &item.value) {
            Some(Value::List(items)) => items,
            _ => &[],
        }
    }

    pub(super) fn map(&self, key: &str) -> &[Entry] {
        match self.get(key).map(|item| &item.value) {
            Some(Value::Map(entries)) => entries,
            _ => &[],
        }
    }

    // The following are for keys with a built-in default: it stands in the lowest layer, so that they always find one.

    pub(super) fn number(&self, key: &str) -> f64 {
        match self.get(key).map(|item| &item.value) {
            Some(Value::Number(number)) => *number,
            _ => missing(key),
        }
    }

    pub(super) fn span(&self, key: &str) -> Duration {
        match self.get(key).map(|item| &item.value) {
            Some(Value::Span(span)) => *span,
            _ => missing(key),
        }
    }

    pub(super) fn whole(&self, key: &str) -> u64 {
        self.integer(key).unwrap_or_else(|| missing(key))
    }

    /// A whole number whose bounds fit 32 bits.
    pub(super) fn whole32(&self, key: &str) -> u32 {
        u32::try_from(self.whole(key)).unwrap_or(u32::MAX)
    }

    pub(super) fn word(&self, key: &str) -> &str {
        self.text(key).unwrap_or_else(|| missing(key))
    }
}

impl Item {
    fn merge(&mut self, over: &Item) {
        match (&mut self.value, &over.value) {
            (Value::Table(below), Value::Table(above)) => {
                below.merge(above);
                self.place = over.place.clone();
            }
            (Value::Tree(below), Value::Tree(above)) => {
                below.merge(above);
                self.place = over.place.clone();
            }
            (Value::Map(below), Value::Map(above)) => {
                for entry in above {
                    match below.iter_mut().find(|old| old.key == entry.key) {
                        Some(old) => old.clone_from(entry),
                        None => below.push(entry.clone()),
                    }
                }
                self.place = over.place.clone();
            }
            _ => self.clone_from(over),
        }
    }

    pub(super) fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// A key without a default was asked for as if it had one: a mistake of ours that the tests of the defaults show.
fn missing<T: Default>(key: &str) -> T {
    debug_assert!(false, "{key} has no built-in default");
    T::default()
}
