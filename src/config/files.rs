//! The files that a configuration consists of: which they are, their content, and one hash over all of it.
//!
//! Loading and watching use the same hash: the watcher looks again and compares, so a touch without a change is nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// The largest file that is read. Ten thousand connections take about 3 MiB.
pub const FILE_BYTES_MAX: u64 = 16 << 20;

/// The most connection files of one directory.
pub const FILES_MAX: usize = 100_000;

/// SHA-256 over paths and contents of all files of a configuration.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentHash([u8; 32]);

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::secret::hex(&self.0, 8))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentHash({self})")
    }
}

/// What must be watched to notice a change of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// The daemon's own file. It need not exist.
    pub root: PathBuf,
    /// The directory of connection files. It need not exist.
    pub connections: PathBuf,
    /// Secrets and certificates.
    pub files: BTreeSet<PathBuf>,
}

impl Watched {
    /// Hashes what is there now. Reads every file.
    pub fn content_hash(&self) -> ContentHash {
        let mut files = Files::default();
        let _ = files.read(&self.root);
        for path in connection_files(&self.connections).unwrap_or_default() {
            let _ = files.read(&path);
        }
        for path in &self.files {
            let _ = files.read(path);
        }
        files.hash()
    }

    /// The directories to watch: those that hold the files, and the connections directory itself.
    pub fn directories(&self) -> BTreeSet<PathBuf> {
        let parents = std::iter::once(&self.root)
            .chain(std::iter::once(&self.connections))
            .chain(&self.files)
            .filter_map(|path| path.parent());
        let mut directories: BTreeSet<PathBuf> = parents.map(Path::to_owned).collect();
        directories.insert(self.connections.clone());
        directories
    }
}

/// A file that is to be written, or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Which.
    pub file: PathBuf,
    /// What it will hold; `None` when it will be removed.
    pub content: Option<String>,
}

/// Files as they were read, each once, so that one load sees one state of each.
#[derive(Debug, Default)]
pub(super) struct Files {
    read: BTreeMap<PathBuf, Result<Vec<u8>, String>>,
    pending: Vec<Pending>,
}

impl Files {
    /// The files as if these were written.
    pub(super) fn with(pending: Vec<Pending>) -> Files {
        let mut files = Files::default();
        for one in &pending {
            if let Some(content) = &one.content {
                files.read.insert(one.file.clone(), Ok(content.clone().into_bytes()));
            }
        }
        Files { pending, ..files }
    }

    /// The connection files of a directory, sorted.
    pub(super) fn connection_files(&self, directory: &Path) -> Result<Vec<PathBuf>, String> {
        let mut files = connection_files(directory)?;
        for pending in self.pending.iter().filter(|one| one.file.parent() == Some(directory)) {
            files.retain(|file| *file != pending.file);
            files.extend(pending.content.as_ref().map(|_| pending.file.clone()));
        }
        if !self.pending.is_empty() {
            files.sort();
        }
        Ok(files)
    }

    /// The content of a file, or why it cannot be read.
    pub(super) fn read(&mut self, path: &Path) -> Result<Vec<u8>, String> {
        if let Some(known) = self.read.get(path) {
            return known.clone();
        }
        let content = read_bounded(path);
        self.read.insert(path.to_owned(), content.clone());
        content
    }

    /// The hash over all that was asked for, found or not.
    pub(super) fn hash(&self) -> ContentHash {
        let mut all = Sha256::new();
        for (path, content) in &self.read {
            let path = path.as_os_str().as_encoded_bytes();
            all.update((path.len() as u64).to_le_bytes());
            all.update(path);
            match content {
                Ok(content) => all.update(Sha256::digest(content)),
                Err(_) => all.update([0; 32]),
            }
        }
        ContentHash(all.finalize().into())
    }
}

pub(super) fn read_bounded(path: &Path) -> Result<Vec<u8>, String> {
    let words = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => "no such file".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    };
    // Opening a named pipe would wait for its writer.
    if !fs::metadata(path).map_err(words)?.is_file() {
        return Err("not a regular file".to_owned());
    }
    let mut content = Vec::new();
    let file = fs::File::open(path).map_err(words)?;
    let mut bounded = file.take(FILE_BYTES_MAX + 1);
    bounded.read_to_end(&mut content).map_err(words)?;
    if content.len() as u64 > FILE_BYTES_MAX {
        return Err("larger than 16MiB".to_owned());
    }
    Ok(content)
}

/// The connection files of a directory, sorted: `*.toml` that are no dot files. A directory that does not exist has none.
pub(super) fn connection_files(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.to_string()),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| error.to_string())?.path();
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        let wanted = name.ends_with(b".toml") && !name.starts_with(b".");
        if wanted && !path.is_dir() {
            files.push(path);
        }
        if files.len() > FILES_MAX {
            return Err(format!("more than {FILES_MAX} connection files"));
        }
    }
    files.sort();
    Ok(files)
}
