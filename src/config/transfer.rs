//! Connections that come from elsewhere, or go there, as whole files.
//!
//! It promises: all or nothing. [`plan`] makes every file in memory and says what it would be; the caller loads the
//! configuration with these files in their places ([`super::load_with`]); [`Planned::write`] writes them, and when one cannot
//! be written those before it are put back. What is there is not changed but on request ([`OnConflict`]); a source that is
//! there stays as it is in any case.

pub mod archive;
pub mod export;
mod needs;
#[cfg(test)]
mod tests;
pub mod unpacked;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use toml_edit::{DocumentMut, Item};

use super::edit::{self, EditError};
use super::files::{FILE_BYTES_MAX, Pending, connection_files};

/// What is to be there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Package {
    /// `[[connection]]` tables, each a whole text with one of them.
    pub connections: Vec<Piece>,
    /// `[[source]]` tables.
    pub sources: Vec<Piece>,
    /// Secrets and certificates.
    pub files: Vec<Extra>,
}

/// One table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its name.
    pub name: String,
    /// Its text, comments included.
    pub text: String,
}

/// A file beside the configuration.
#[derive(Clone, PartialEq, Eq)]
pub struct Extra {
    /// Where it goes; absolute.
    pub path: PathBuf,
    /// What it holds.
    pub content: String,
    /// Its mode when it is new.
    pub mode: u32,
}

impl std::fmt::Debug for Extra {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Extra").field("path", &self.path).finish_non_exhaustive()
    }
}

/// What becomes of a name that is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnConflict {
    /// Nothing is done.
    #[default]
    Fail,
    /// The new one takes the place of the old one.
    Overwrite,
    /// The new one gets another name: `crm-2`.
    Rename,
}

/// What is done with one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What it is: `connection crm`, `source shop`, `file /etc/posthaste/secrets/crm.token`.
    pub what: String,
    /// What is done: `create`, `overwrite`, `keep`, or `rename`.
    pub action: &'static str,
    /// The file.
    pub file: PathBuf,
    /// More about it; empty if there is nothing to say.
    pub note: String,
}

/// Files as they will be.
#[derive(Clone, Debug, Default)]
pub struct Planned {
    /// What is done, in order.
    pub steps: Vec<Step>,
    /// Names of the connections as they will be.
    pub names: Vec<String>,
    writes: Vec<Write>,
}

#[derive(Clone)]
struct Write {
    file: PathBuf,
    before: Option<String>,
    after: Option<String>,
    mode: u32,
}

impl std::fmt::Debug for Write {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Write").field("file", &self.file).finish_non_exhaustive()
    }
}

/// Connection files hold no secret that came this way.
const MODE: u32 = 0o644;
/// A secret is for its owner.
pub const SECRET_MODE: u32 = 0o600;
/// The most other names that are tried.
const NAMES_MAX: usize = 10_000;

/// Makes every file in memory.
///
/// # Errors
/// A name that is taken, a file that is a link or cannot be read, a text that is no such table.
pub fn plan(
    root: &Path,
    connections: &Path,
    package: &Package,
    on_conflict: OnConflict,
) -> Result<Planned, EditError> {
    let mut work = Work {
        connections,
        on_conflict,
        texts: BTreeMap::new(),
        taken: taken(connections)?,
        steps: Vec::new(),
        names: Vec::new(),
    };
    for extra in &package.files {
        work.extra(extra)?;
    }
    work.sources(root, &package.sources)?;
    for piece in &package.connections {
        work.connection(piece)?;
    }
    let Work { texts, steps, names, .. } = work;
    let changed = texts.into_iter().filter(|(_, text)| text.before != text.after);
    let mut writes: Vec<Write> = changed
        .map(|(file, Text { before, after, mode })| Write { file, before, after, mode })
        .collect();
    // What others refer to comes first, so that a reload in between finds it.
    let rank = |write: &Write| match () {
        () if write.file.parent() == Some(connections) => 2,
        () if write.file == root => 1,
        () => 0,
    };
    writes.sort_by_key(rank);
    Ok(Planned { steps, names, writes })
}

impl Planned {
    /// The files as they will be, for a look at the configuration.
    pub fn pending(&self) -> Vec<Pending> {
        let pending =
            |write: &Write| Pending { file: write.file.clone(), content: write.after.clone() };
        self.writes.iter().map(pending).collect()
    }

    /// Whether no file changes.
    pub fn is_nothing(&self) -> bool {
        self.writes.is_empty()
    }

    /// Writes all files, or none.
    ///
    /// # Errors
    /// What the first file that could not be written says; those before it are as they were.
    pub fn write(&self) -> Result<(), EditError> {
        for (at, write) in self.writes.iter().enumerate() {
            if let Err(error) = put(write) {
                self.undo_first(at);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Puts everything back as it was.
    pub fn undo(&self) {
        self.undo_first(self.writes.len());
    }

    /// Best effort: what somebody else has written meanwhile stays.
    fn undo_first(&self, count: usize) {
        for write in self.writes.iter().take(count).rev() {
            let back = (write.after.as_deref(), write.before.as_deref());
            let _ = edit::put(&write.file, back.0, back.1, write.mode);
        }
    }
}

fn put(write: &Write) -> Result<(), EditError> {
    edit::refuse_link(&write.file)?;
    let new = write.before.is_none();
    if let (true, Some(directory)) = (new, write.file.parent()) {
        make_directory(directory, write.mode)?;
    }
    edit::put(&write.file, write.before.as_deref(), write.after.as_deref(), write.mode)?;
    if new {
        adopt(&write.file);
    }
    Ok(())
}

/// A directory that is made for secrets is as closed as they are.
fn make_directory(directory: &Path, mode: u32) -> Result<(), EditError> {
    use std::os::unix::fs::DirBuilderExt;
    if directory.is_dir() {
        return Ok(());
    }
    let mode = if mode == SECRET_MODE { 0o700 } else { 0o755 };
    let made = fs::DirBuilder::new().recursive(true).mode(mode).create(directory);
    made.map_err(|error| EditError::Failed {
        path: directory.display().to_string(),
        reason: error.to_string(),
    })?;
    adopt(directory);
    Ok(())
}

/// What root makes belongs to whom the directory belongs to, as far as that can be done.
fn adopt(path: &Path) {
    if let Some(Ok(directory)) = path.parent().map(fs::metadata) {
        let _ = std::os::unix::fs::chown(path, Some(directory.uid()), Some(directory.gid()));
    }
}

struct Text {
    before: Option<String>,
    after: Option<String>,
    mode: u32,
}

struct Work<'w> {
    connections: &'w Path,
    on_conflict: OnConflict,
    /// The files that are looked at, as they were and as they become.
    texts: BTreeMap<PathBuf, Text>,
    /// Names that are taken, in lower case, as they are written and where.
    taken: BTreeMap<String, (String, Option<PathBuf>)>,
    steps: Vec<Step>,
    names: Vec<String>,
}

/// The names of all connections.
fn taken(directory: &Path) -> Result<BTreeMap<String, (String, Option<PathBuf>)>, EditError> {
    let files = connection_files(directory)
        .map_err(|reason| EditError::Failed { path: directory.display().to_string(), reason })?;
    let mut taken = BTreeMap::new();
    for file in files {
        let text = edit::read_text(&file)?;
        let tree = edit::parse(&text, &file)?;
        for name in edit::names(&tree) {
            taken.insert(name.to_ascii_lowercase(), (name, Some(file.clone())));
        }
    }
    Ok(taken)
}

impl Work<'_> {
    fn text(&mut self, file: &Path, mode: u32) -> Result<&mut Text, EditError> {
        if !self.texts.contains_key(file) {
            edit::refuse_link(file)?;
            let before = if file.exists() { Some(edit::read_text(file)?) } else { None };
            let after = before.clone();
            self.texts.insert(file.to_owned(), Text { before, after, mode });
        }
        let missing = || EditError::Broken(file.display().to_string());
        self.texts.get_mut(file).ok_or_else(missing)
    }

    fn step(&mut self, what: String, action: &'static str, file: &Path, note: &str) {
        let (file, note) = (file.to_owned(), note.to_owned());
        self.steps.push(Step { what, action, file, note });
    }

    fn extra(&mut self, extra: &Extra) -> Result<(), EditError> {
        let what = format!("file {}", extra.path.display());
        let overwrite = self.on_conflict == OnConflict::Overwrite;
        let text = self.text(&extra.path, extra.mode)?;
        let action = match &text.after {
            None => "create",
            Some(there) if *there == extra.content => "keep",
            Some(_) if overwrite => "overwrite",
            Some(_) => {
                return Err(EditError::Document(format!(
                    "{} is there already, with another content; move it away, or import with --on-conflict overwrite",
                    extra.path.display()
                )));
            }
        };
        text.after = Some(extra.content.clone());
        self.step(what, action, &extra.path, "");
        Ok(())
    }

    /// Sources go behind what the daemon's file has.
    fn sources(&mut self, root: &Path, sources: &[Piece]) -> Result<(), EditError> {
        if sources.is_empty() {
            return Ok(());
        }
        let broken = || EditError::Broken(root.display().to_string());
        let before = self.text(root, MODE)?.after.clone().unwrap_or_default();
        let tree: DocumentMut = before.parse().map_err(|_| broken())?;
        let known = source_names(&tree);
        let mut after = before;
        for source in sources {
            let what = format!("source {}", source.name);
            if known.contains(&source.name) {
                let note = "it is there already, and stays as it is";
                self.step(what, "keep", root, note);
                continue;
            }
            append(&mut after, &source.text);
            self.step(what, "create", root, "");
        }
        self.text(root, MODE)?.after = Some(after);
        Ok(())
    }

    fn connection(&mut self, piece: &Piece) -> Result<(), EditError> {
        let conflict = self.taken.get(&piece.name.to_ascii_lowercase()).cloned();
        let Some((there, file)) = conflict else {
            return self.add(&piece.name, &piece.text, "create", "");
        };
        let shown = file
            .as_deref()
            .map_or_else(|| "the same import".to_owned(), |file| file.display().to_string());
        match (self.on_conflict, file) {
            (OnConflict::Overwrite, Some(file)) => {
                self.remove(&there, &file)?;
                self.add(&piece.name, &piece.text, "overwrite", "")
            }
            (OnConflict::Rename, _) => {
                let name = self.free_name(&piece.name)?;
                let text = renamed(&piece.text, &name)?;
                let note = format!("{} is taken, in {shown}", piece.name);
                self.add(&name, &text, "rename", &note)
            }
            (OnConflict::Fail, _) | (OnConflict::Overwrite, None) => {
                Err(EditError::Taken { name: there, file: shown })
            }
        }
    }

    fn free_name(&self, name: &str) -> Result<String, EditError> {
        let numbered = (2..NAMES_MAX).map(|number| {
            let end = format!("-{number}");
            let head: String = name.chars().take(155 - end.len()).collect();
            head + &end
        });
        let mut free = numbered.filter(|name| !self.taken.contains_key(&name.to_ascii_lowercase()));
        free.next().ok_or_else(|| EditError::Document(format!("no other name for {name} is free")))
    }

    /// Takes a connection out of its file; the file stays if there is more in it.
    fn remove(&mut self, name: &str, file: &Path) -> Result<(), EditError> {
        let text = self.text(file, MODE)?;
        let Some(before) = text.after.clone() else { return Ok(()) };
        let alone = edit::names(&edit::parse(&before, file)?).len() == 1;
        text.after = if alone { None } else { edit::without(file, &before, name)? };
        Ok(())
    }

    /// Puts a connection into its file, behind what is there.
    fn add(
        &mut self,
        name: &str,
        piece: &str,
        action: &'static str,
        note: &str,
    ) -> Result<(), EditError> {
        edit::legal_name(name)?;
        let file = self.connections.join(format!("{name}.toml"));
        let text = self.text(&file, MODE)?;
        match &mut text.after {
            Some(there) if !there.trim().is_empty() => append(there, piece),
            after => *after = Some(piece.to_owned()),
        }
        if text.after.as_ref().is_some_and(|text| text.len() as u64 > FILE_BYTES_MAX) {
            return Err(EditError::Document(format!(
                "{} would be larger than 16MiB",
                file.display()
            )));
        }
        self.taken.insert(name.to_ascii_lowercase(), (name.to_owned(), None));
        self.names.push(name.to_owned());
        self.step(format!("connection {name}"), action, &file, note);
        Ok(())
    }
}

fn append(text: &mut String, piece: &str) {
    let kept = text.trim_end().len();
    text.truncate(kept);
    if !text.is_empty() {
        text.push_str("\n\n");
    }
    text.push_str(piece);
}

/// The sources that have a table.
pub(super) fn source_names(tree: &DocumentMut) -> BTreeSet<String> {
    let name = |table: &dyn toml_edit::TableLike| Some(table.get("name")?.as_str()?.to_owned());
    match tree.get("source") {
        Some(Item::ArrayOfTables(tables)) => {
            tables.iter().filter_map(|table| name(table)).collect()
        }
        Some(Item::Value(toml_edit::Value::Array(tables))) => {
            let tables = tables.iter().filter_map(toml_edit::Value::as_inline_table);
            tables.filter_map(|table| name(table)).collect()
        }
        _ => BTreeSet::new(),
    }
}

/// The text with another name; all else stays.
fn renamed(text: &str, name: &str) -> Result<String, EditError> {
    let broken = || EditError::Document("is no [[connection]] table".to_owned());
    let mut tree: DocumentMut = text.parse().map_err(|_| broken())?;
    let tables = tree.get_mut("connection").and_then(Item::as_array_of_tables_mut);
    let table = tables.and_then(|tables| tables.get_mut(0)).ok_or_else(broken)?;
    let Some(Item::Value(value)) = table.get_mut("name") else { return Err(broken()) };
    let decor = value.decor().clone();
    *value = name.into();
    *value.decor_mut() = decor;
    Ok(tree.to_string())
}
