//! Where jobs are kept over restarts: `jobs.json` in the store's directory, none of the store's files. It is written anew as a
//! whole: temporary file, sync, rename, sync of the directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Kept;

/// The file.
const FILE: &str = "jobs.json";
const TEMPORARY: &str = "jobs.json.tmp";
/// What could not be read is moved here.
const DAMAGED: &str = "jobs.damaged.json";
/// Of this form.
const VERSION: u32 = 1;
/// What is kept is bounded ([`super::ENDED_MAX`], [`super::RUNNING_MAX`]); a file past this is none of ours.
const FILE_BYTES_MAX: u64 = 64 << 20;

#[derive(Serialize, Deserialize)]
struct Content<J> {
    version: u32,
    jobs: J,
}

/// The jobs that were kept. What cannot be read is put aside, and said.
pub(super) fn read(directory: &Path) -> Vec<Kept> {
    let path = directory.join(FILE);
    match parse(&path) {
        Ok(jobs) => jobs,
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            tracing::error!(%error, path = %path.display(), "Could not read the jobs; they are forgotten, and the file is put aside");
            let _ = fs::rename(&path, directory.join(DAMAGED));
            Vec::new()
        }
    }
}

fn parse(path: &Path) -> io::Result<Vec<Kept>> {
    if fs::metadata(path)?.len() > FILE_BYTES_MAX {
        return Err(io::Error::new(ErrorKind::InvalidData, "it is too large"));
    }
    let content: Content<Vec<Kept>> = serde_json::from_slice(&fs::read(path)?)?;
    if content.version != VERSION {
        let message = format!("it has version {}", content.version);
        return Err(io::Error::new(ErrorKind::InvalidData, message));
    }
    Ok(content.jobs)
}

/// What the file has to say.
pub(super) fn encode(jobs: &[Kept]) -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec(&Content { version: VERSION, jobs })?)
}

/// Replaces the file.
pub(super) fn write(directory: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = directory.join(TEMPORARY);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&temporary)?;
    file.write_all(content)?;
    file.sync_data()?;
    fs::rename(&temporary, directory.join(FILE))?;
    File::open(directory)?.sync_all()
}
