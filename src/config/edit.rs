//! Edits of one `[[connection]]` in the files, for the admin API. The files stay the truth: an edit is what a careful person
//! would have done with an editor.
//!
//! It promises: comments, order and layout of all that is not changed stay (`toml_edit`); a file is replaced whole or not at
//! all (a temporary one beside it, fsync, rename, fsync of the directory); a file that somebody else changed after it was read
//! is not written over; a file that is a symbolic link (Kubernetes) is left alone. A secret that is written into a file in
//! plain text is never shown: in its place stands `{ "fingerprint": … }`, and whoever sends that back keeps it.
//!
//! The way of an edit: [`prepare`] reads, changes in memory and says what the file would become; the caller loads the whole
//! configuration with that file in its place ([`super::load_with`]); if it is legal, [`Prepared::write`] writes it. So nothing
//! illegal is ever on the disk, and there is nothing to put back.
//!
//! What the JSON of a connection looks like: the keys of its table with the same names; durations, sizes and dates are
//! strings; tables are objects.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json};
use sha2::{Digest, Sha256};
use toml_edit::{ArrayOfTables, DocumentMut, Item, Table};

use super::files::{FILE_BYTES_MAX, connection_files, read_bounded};
use super::read;
use crate::units::quoted;

pub(super) mod document;
mod place;
#[cfg(test)]
mod tests;
mod write;

/// The key of the array of connections.
const CONNECTION: &str = "connection";

/// A JSON object.
pub type Object = Map<String, Json>;

/// One connection as its file has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The file.
    pub file: PathBuf,
    /// Which version of it: a hash over the file's content and the connection's name, in hex.
    pub etag: String,
    /// The connection's keys, without secrets in plain text.
    pub document: Object,
}

/// What to do with a connection.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Make it; there must be none of the name.
    Create(Object),
    /// Make it, or give it exactly these keys.
    Replace(Object),
    /// Change these keys, and remove those that are null (RFC 7396).
    Patch(Object),
    /// Remove it.
    Delete,
}

/// What must be true before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// `If-Match`: one of these, or any for `*`. Empty: nothing is asked.
    pub if_match: Vec<String>,
    /// `If-None-Match: *`: there must be none.
    pub if_none: bool,
}

/// Why an edit was not done. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// No file has it.
    #[error("there is no connection {0:?}; `posthaste connections list` lists them")]
    Unknown(String),
    /// There is one of this name, perhaps in other case.
    #[error(
        "there is a connection {name:?} already, in {file}; names are unique whatever their case"
    )]
    Taken {
        /// Its name.
        name: String,
        /// Where it is.
        file: String,
    },
    /// The `name` in the document is another one.
    #[error(
        "the document's name is {found}, and the path says {expected:?}; a connection is renamed by making a new one with renamed_from = {expected:?}"
    )]
    OtherName {
        /// Of the path.
        expected: String,
        /// Of the document.
        found: String,
    },
    /// The document cannot be written as TOML.
    #[error("{0}")]
    Document(String),
    /// The connection is of another version than the caller read.
    #[error("{0:?} was changed since it was read; read it again")]
    Stale(String),
    /// The file does not parse.
    #[error("{0} does not parse, so it cannot be edited here; `posthaste check` says where")]
    Broken(String),
    /// The file is a symbolic link.
    #[error(
        "{0} is a symbolic link, so the file belongs to somebody else (a Kubernetes ConfigMap?) and is edited there"
    )]
    Link(String),
    /// The directory or file may not be written.
    #[error("{path} may not be written ({reason}); edit the files where they come from")]
    ReadOnly {
        /// Which.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// Somebody else wrote the file in between.
    #[error("{0} is being changed by somebody else; try again")]
    Busy(String),
    /// Anything else that the system said.
    #[error("{path}: {reason}")]
    Failed {
        /// Which.
        path: String,
        /// What the system said.
        reason: String,
    },
}

/// An edit that was done in memory.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The file.
    pub file: PathBuf,
    /// What it holds now; `None`: it does not exist.
    before: Option<String>,
    /// What it will hold; `None`: it will be removed.
    pub after: Option<String>,
    /// The connection as it is now.
    pub old: Option<Found>,
    /// The connection as it will be.
    pub new: Option<Found>,
}

/// Finds a connection. `hint` is the file to look into first.
///
/// # Errors
/// [`EditError::Broken`] when its file is likely the one that does not parse, [`EditError::Failed`].
pub fn find(directory: &Path, name: &str, hint: Option<&Path>) -> Result<Option<Found>, EditError> {
    let opened = open(directory, name, hint)?;
    Ok(opened.map(|opened| opened.found(name)))
}

/// Finds several connections, each in the file that it is said to be in; each file is read once. What is not there, or in a
/// file that does not parse, is left out.
pub fn find_all(wanted: &[(String, PathBuf)]) -> HashMap<String, Found> {
    let mut files: HashMap<&Path, Vec<&str>> = HashMap::new();
    for (name, path) in wanted {
        files.entry(path).or_default().push(name);
    }
    let mut found = HashMap::with_capacity(wanted.len());
    for (path, names) in files {
        let Ok(text) = read_text(path) else { continue };
        let Ok(tree) = parse(&text, path) else { continue };
        let hash = hash_of(&text);
        for table in tables(&tree) {
            if let Some(name) = name_of(table).filter(|name| names.contains(name)) {
                let (file, document) = (path.to_owned(), document::connection(table));
                let one = Found { file, etag: etag(&hash, name), document };
                found.insert(name.to_owned(), one);
            }
        }
    }
    found
}

/// Makes an edit in memory.
///
/// # Errors
/// [`EditError`], but those of writing.
pub fn prepare(
    directory: &Path,
    name: &str,
    change: Change,
    condition: &Condition,
    hint: Option<&Path>,
) -> Result<Prepared, EditError> {
    let opened = open(directory, name, hint)?;
    let old = opened.as_ref().map(|opened| opened.found(name));
    condition.check(name, old.as_ref())?;
    match (opened, change) {
        (None, Change::Create(document) | Change::Replace(document)) => {
            not_taken(directory, name)?;
            create(directory, name, document)
        }
        (None, Change::Patch(_) | Change::Delete) => Err(EditError::Unknown(name.to_owned())),
        (Some(opened), Change::Create(_)) => {
            Err(EditError::Taken { name: name.to_owned(), file: shown(&opened.path) })
        }
        (Some(opened), Change::Delete) => opened.delete(name),
        (Some(opened), Change::Replace(document)) => opened.replace(name, document),
        (Some(opened), Change::Patch(patch)) => {
            let mut document = Json::Object(opened.document().clone());
            merge_patch(&mut document, Json::Object(patch));
            match document {
                Json::Object(document) => opened.replace(name, document),
                _ => Err(EditError::Document("the patch must be an object".to_owned())),
            }
        }
    }
}

/// Whether the file is a symbolic link, which is never replaced.
pub(super) fn refuse_link(path: &Path) -> Result<(), EditError> {
    match path.symlink_metadata() {
        Ok(metadata) if metadata.is_symlink() => Err(EditError::Link(shown(path))),
        _ => Ok(()),
    }
}

impl Condition {
    fn check(&self, name: &str, old: Option<&Found>) -> Result<(), EditError> {
        let stale = || Err(EditError::Stale(name.to_owned()));
        match old {
            Some(_) if self.if_none => stale(),
            Some(found) => {
                let matches = |tag: &String| tag == "*" || *tag == found.etag;
                if self.if_match.is_empty() || self.if_match.iter().any(matches) {
                    return Ok(());
                }
                stale()
            }
            None if self.if_match.is_empty() => Ok(()),
            None => stale(),
        }
    }
}

impl Prepared {
    /// Whether the file stays as it is.
    pub fn is_nothing(&self) -> bool {
        self.before == self.after
    }

    /// Writes it, unless somebody else has written the file meanwhile.
    ///
    /// # Errors
    /// [`EditError::ReadOnly`], [`EditError::Link`], [`EditError::Busy`], [`EditError::Failed`].
    pub fn write(&self) -> Result<(), EditError> {
        refuse_link(&self.file)?;
        let before = self.before.as_deref().map(str::as_bytes);
        place::put(&self.file, before, self.after.as_deref().map(str::as_bytes))
    }
}

/// Brings a file from one text to another, unless somebody else has written it meanwhile. A new one gets this mode.
pub(super) fn put(
    path: &Path,
    before: Option<&str>,
    after: Option<&str>,
    mode: u32,
) -> Result<(), EditError> {
    place::put_with_mode(path, before.map(str::as_bytes), after.map(str::as_bytes), mode)
}

/// The names of a file's connections.
pub(super) fn names(tree: &DocumentMut) -> Vec<String> {
    tables(tree).filter_map(name_of).map(str::to_owned).collect()
}

/// Whether a connection may be called so.
pub(super) fn legal_name(name: &str) -> Result<(), EditError> {
    let legal = read::legal_name(name).map(drop);
    legal.map_err(|message| EditError::Document(format!("name: {message}")))
}

/// A file's text without one connection; `None` when nothing is left.
pub(super) fn without(path: &Path, text: &str, name: &str) -> Result<Option<String>, EditError> {
    let tree = parse(text, path)?;
    let Some(index) = index_of(&tree, name) else { return Ok(Some(text.to_owned())) };
    let opened = Opened { path: path.to_owned(), text: text.to_owned(), tree, index };
    Ok(opened.delete(name)?.after)
}

/// A file that has the connection.
struct Opened {
    path: PathBuf,
    text: String,
    tree: DocumentMut,
    /// Which of its `[[connection]]` tables.
    index: usize,
}

/// How messages call a file.
fn shown(path: &Path) -> String {
    path.display().to_string()
}

pub(super) fn read_text(path: &Path) -> Result<String, EditError> {
    let failed = |reason| EditError::Failed { path: shown(path), reason };
    let content = read_bounded(path).map_err(failed)?;
    String::from_utf8(content).map_err(|_| EditError::Broken(shown(path)))
}

/// Looks into the hinted file first, then into all of them.
fn open(directory: &Path, name: &str, hint: Option<&Path>) -> Result<Option<Opened>, EditError> {
    if let Some(path) = hint
        && let Ok(Some(opened)) = open_file(path, name)
    {
        return Ok(Some(opened));
    }
    let files = connection_files(directory)
        .map_err(|reason| EditError::Failed { path: shown(directory), reason })?;
    let mut broken = None;
    for path in files {
        match open_file(&path, name) {
            Ok(Some(opened)) => return Ok(Some(opened)),
            Ok(None) => {}
            // It may be the one, when it is the one that was hinted at; else another file's faults are not this one's.
            Err(error) if hint == Some(path.as_path()) => broken = Some(error),
            Err(_) => {}
        }
    }
    broken.map_or(Ok(None), Err)
}

fn open_file(path: &Path, name: &str) -> Result<Option<Opened>, EditError> {
    let text = read_text(path)?;
    // Parsing takes a hundred times as long as this look.
    if !text.contains(name) {
        return Ok(None);
    }
    let tree = parse(&text, path)?;
    let index = index_of(&tree, name);
    Ok(index.map(|index| Opened { path: path.to_owned(), text, tree, index }))
}

/// Parses a file. `connection = [{ … }]` becomes `[[connection]]` tables.
pub(super) fn parse(text: &str, path: &Path) -> Result<DocumentMut, EditError> {
    let broken = || EditError::Broken(shown(path));
    let mut tree: DocumentMut = text.parse().map_err(|_| broken())?;
    if let Some(item) = tree.get_mut(CONNECTION)
        && !item.is_array_of_tables()
    {
        let tables = std::mem::take(item).into_array_of_tables().map_err(|_| broken())?;
        *item = Item::ArrayOfTables(tables);
    }
    Ok(tree)
}

fn tables(tree: &DocumentMut) -> impl Iterator<Item = &Table> {
    let tables = tree.get(CONNECTION).and_then(Item::as_array_of_tables);
    tables.into_iter().flat_map(ArrayOfTables::iter)
}

fn index_of(tree: &DocumentMut, name: &str) -> Option<usize> {
    tables(tree).position(|table| name_of(table) == Some(name))
}

fn name_of(table: &Table) -> Option<&str> {
    table.get("name").and_then(Item::as_str)
}

fn hash_of(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

fn etag(hash: &[u8; 32], name: &str) -> String {
    let mut both = Sha256::new();
    both.update(hash);
    both.update(name.as_bytes());
    crate::secret::hex(&both.finalize(), 16)
}

/// Whether the name is free, whatever its case.
fn not_taken(directory: &Path, name: &str) -> Result<(), EditError> {
    let files = connection_files(directory)
        .map_err(|reason| EditError::Failed { path: shown(directory), reason })?;
    for path in files {
        let Ok(text) = read_text(&path) else { continue };
        if !text.to_ascii_lowercase().contains(&name.to_ascii_lowercase()) {
            continue;
        }
        let Ok(tree) = parse(&text, &path) else { continue };
        let taken = tables(&tree)
            .filter_map(name_of)
            .find(|other| other.eq_ignore_ascii_case(name))
            .map(str::to_owned);
        if let Some(name) = taken {
            return Err(EditError::Taken { name, file: shown(&path) });
        }
    }
    Ok(())
}

/// Puts a new connection into `NAME.toml`, behind what is there.
fn create(directory: &Path, name: &str, document: Object) -> Result<Prepared, EditError> {
    read::legal_name(name).map_err(|message| EditError::Document(format!("name: {message}")))?;
    let document = named(name, document)?;
    let path = directory.join(format!("{name}.toml"));
    refuse_link(&path)?;
    let before = if path.exists() { Some(read_text(&path)?) } else { None };
    let text = before.as_deref().unwrap_or_default();
    let mut tree = parse(text, &path)?;
    // What stands behind the last table is a comment on what is before it.
    let trailing = tree.trailing().as_str().unwrap_or_default().to_owned();
    tree.set_trailing("");
    let mut table = write::connection(&document).map_err(EditError::Document)?;
    if !text.trim().is_empty() {
        let gap = if trailing.ends_with("\n\n") { "" } else { "\n" };
        table.decor_mut().set_prefix(format!("{trailing}{gap}"));
    }
    let item = tree.entry(CONNECTION).or_insert(Item::ArrayOfTables(ArrayOfTables::new()));
    if let Item::ArrayOfTables(tables) = item {
        tables.push(table);
    }
    finish(path, before, &tree, name, None)
}

/// The document with its name, which must be the one of the path.
fn named(name: &str, mut document: Object) -> Result<Object, EditError> {
    match document.get("name") {
        Some(Json::String(found)) if found == name => {}
        Some(found) => {
            let found = found.as_str().map_or_else(|| "no string".to_owned(), quoted);
            return Err(EditError::OtherName { expected: name.to_owned(), found });
        }
        None => {
            document.insert("name".to_owned(), name.into());
        }
    }
    // What a reader was told beside the connection's keys; it may come back.
    document.remove(META);
    Ok(document)
}

/// The member of a document that says what is not in the file: where it is, which version, in which state.
pub const META: &str = "meta";

impl Opened {
    fn table(&self) -> Option<&Table> {
        tables(&self.tree).nth(self.index)
    }

    fn tables_mut(&mut self) -> Option<&mut ArrayOfTables> {
        self.tree.get_mut(CONNECTION)?.as_array_of_tables_mut()
    }

    fn document(&self) -> Object {
        self.table().map(document::connection).unwrap_or_default()
    }

    fn found(&self, name: &str) -> Found {
        Found {
            file: self.path.clone(),
            etag: etag(&hash_of(&self.text), name),
            document: self.document(),
        }
    }

    fn replace(mut self, name: &str, document: Object) -> Result<Prepared, EditError> {
        refuse_link(&self.path)?;
        let document = named(name, document)?;
        let old = self.found(name);
        let index = self.index;
        if let Some(table) = self.tables_mut().and_then(|tables| tables.get_mut(index)) {
            write::change(table, &document).map_err(EditError::Document)?;
        }
        finish(self.path, Some(self.text), &self.tree, name, Some(old))
    }

    /// Removes the table, and the file when nothing is left in it. What stands above the table, but not right above it, is no
    /// comment on it and stays.
    fn delete(mut self, name: &str) -> Result<Prepared, EditError> {
        refuse_link(&self.path)?;
        let old = self.found(name);
        let index = self.index;
        let Some(tables) = self.tables_mut() else {
            return Err(EditError::Broken(shown(&self.path)));
        };
        let removed = tables.remove(index);
        let above = removed.decor().prefix().and_then(toml_edit::RawString::as_str);
        let kept = detached(above.unwrap_or_default()).to_owned();
        let next = tables.get_mut(index);
        let nothing_left = next.is_none() && index == 0;
        match next {
            Some(next) => {
                let decor = next.decor_mut();
                let prefix = decor.prefix().and_then(toml_edit::RawString::as_str);
                let prefix = prefix.unwrap_or("\n").trim_start_matches('\n').to_owned();
                let gap = if index == 0 && kept.is_empty() { "" } else { "\n" };
                decor.set_prefix(format!("{kept}{gap}{prefix}"));
            }
            None => {
                let trailing = self.tree.trailing().as_str().unwrap_or_default().to_owned();
                self.tree.set_trailing(format!("{kept}{trailing}"));
            }
        }
        if nothing_left {
            self.tree.remove(CONNECTION);
        }
        if nothing_left && self.tree.to_string().trim().is_empty() {
            let (file, before) = (self.path, Some(self.text));
            return Ok(Prepared { file, before, after: None, old: Some(old), new: None });
        }
        finish(self.path, Some(self.text), &self.tree, name, Some(old))
    }
}

/// The paragraphs of a comment but the last one, which stands right above what follows.
fn detached(prefix: &str) -> &str {
    match prefix.rfind("\n\n") {
        Some(at) => prefix.get(..at + 1).unwrap_or_default(),
        None => "",
    }
}

/// Writes the tree and reads it back: what is said to be there is what will be there.
fn finish(
    file: PathBuf,
    before: Option<String>,
    tree: &DocumentMut,
    name: &str,
    old: Option<Found>,
) -> Result<Prepared, EditError> {
    let text = tree.to_string();
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(EditError::Document(format!("{} would be larger than 16MiB", shown(&file))));
    }
    let again = parse(&text, &file)?;
    let index = index_of(&again, name);
    let found =
        |index| Opened { path: file.clone(), text: text.clone(), tree: again, index }.found(name);
    let new = index.map(found);
    Ok(Prepared { file, before, after: Some(text), old, new })
}

/// RFC 7396.
fn merge_patch(target: &mut Json, patch: Json) {
    let Json::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() || is_fingerprint(target) {
        *target = Json::Object(Object::new());
    }
    let Json::Object(members) = target else { return };
    for (key, value) in patch {
        match value {
            Json::Null => drop(members.remove(&key)),
            value => merge_patch(members.entry(key).or_insert(Json::Null), value),
        }
    }
}

/// Whether this stands for a secret that is written into the file.
fn is_fingerprint(value: &Json) -> bool {
    value.as_object().is_some_and(|object| object.len() == 1 && object.contains_key(FINGERPRINT))
}

/// The only member of what stands for a secret in plain text.
const FINGERPRINT: &str = "fingerprint";
