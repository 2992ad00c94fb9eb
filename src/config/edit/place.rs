//! Puts a file in the place of another, whole or not at all.
//!
//! The new content goes into a temporary file beside the old one, which is synced before it gets the name. Where the kernel
//! can exchange two names (Linux), the old file is looked at after the exchange: if it is not what the edit began with,
//! somebody wrote it in between, and the exchange is undone. Where it cannot, the look is before the rename.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::{EditError, shown};

/// A new file may hold secrets.
const MODE: u32 = 0o600;

/// Brings the file from `before` to `after`; `None` means that there is none.
pub(super) fn put(
    path: &Path,
    before: Option<&[u8]>,
    after: Option<&[u8]>,
) -> Result<(), EditError> {
    put_with_mode(path, before, after, MODE)
}

/// The same; a file that was not there gets this mode.
pub(super) fn put_with_mode(
    path: &Path,
    before: Option<&[u8]>,
    after: Option<&[u8]>,
    mode: u32,
) -> Result<(), EditError> {
    let place = Place { path, temporary: temporary(path), mode };
    let done = match (before, after) {
        (None, Some(after)) => place.create(after),
        (Some(before), Some(after)) => place.replace(before, after),
        (Some(before), None) => place.remove(before),
        (None, None) => Ok(()),
    };
    // What is left of it; but a failure may have left somebody else's version there.
    if !matches!(done, Err(EditError::Failed { .. })) {
        let _ = fs::remove_file(&place.temporary);
    }
    done?;
    let directory = path.parent().unwrap_or(Path::new("."));
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed(directory))
}

/// A name that is no connection file's: it begins with a dot.
fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.posthaste-tmp"))
}

struct Place<'p> {
    path: &'p Path,
    temporary: PathBuf,
    /// Of a new file.
    mode: u32,
}

impl Place<'_> {
    fn create(&self, after: &[u8]) -> Result<(), EditError> {
        if let Some(directory) = self.path.parent().filter(|directory| !directory.exists()) {
            fs::create_dir_all(directory).map_err(failed(directory))?;
        }
        self.write(after, None)?;
        match self.rename(RenameFlags::NOREPLACE) {
            Err(Errno::INVAL | Errno::NOSYS) if !self.path.exists() => {
                fs::rename(&self.temporary, self.path).map_err(failed(self.path))
            }
            Err(Errno::EXIST | Errno::INVAL | Errno::NOSYS) => Err(self.busy()),
            done => done.map_err(|error| failed(self.path)(error.into())),
        }
    }

    fn replace(&self, before: &[u8], after: &[u8]) -> Result<(), EditError> {
        let metadata = self.path.metadata().map_err(failed(self.path))?;
        self.write(after, Some(&metadata))?;
        match self.rename(RenameFlags::EXCHANGE) {
            Ok(()) if self.holds(&self.temporary, before) => Ok(()),
            Ok(()) => {
                // Theirs goes back to its place.
                let back = self.rename(RenameFlags::EXCHANGE);
                back.map_err(|error| failed(&self.temporary)(error.into()))?;
                Err(self.busy())
            }
            Err(Errno::INVAL | Errno::NOSYS) if self.holds(self.path, before) => {
                fs::rename(&self.temporary, self.path).map_err(failed(self.path))
            }
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOENT) => Err(self.busy()),
            Err(error) => Err(failed(self.path)(error.into())),
        }
    }

    /// The file is moved aside first, so that what is removed is what was looked at.
    fn remove(&self, before: &[u8]) -> Result<(), EditError> {
        let _ = fs::remove_file(&self.temporary);
        fs::rename(self.path, &self.temporary).map_err(failed(self.path))?;
        if self.holds(&self.temporary, before) {
            return fs::remove_file(&self.temporary).map_err(failed(&self.temporary));
        }
        let _ = self.rename(RenameFlags::NOREPLACE);
        Err(self.busy())
    }

    /// Writes and syncs the temporary file, with the owner and mode of the one that it replaces.
    fn write(&self, content: &[u8], like: Option<&fs::Metadata>) -> Result<(), EditError> {
        let write = || -> io::Result<()> {
            // One that was left by a crash.
            match fs::remove_file(&self.temporary) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut options = OpenOptions::new();
            let mut file =
                options.write(true).create_new(true).mode(self.mode).open(&self.temporary)?;
            if let Some(like) = like {
                // Only root can give a file away; else it becomes the daemon's.
                let _ = std::os::unix::fs::fchown(&file, Some(like.uid()), Some(like.gid()));
                file.set_permissions(fs::Permissions::from_mode(like.mode() & 0o7777))?;
            }
            file.write_all(content)?;
            file.sync_all()
        };
        write().map_err(failed(&self.temporary))
    }

    fn holds(&self, path: &Path, content: &[u8]) -> bool {
        fs::read(path).is_ok_and(|found| found == content)
    }

    fn rename(&self, flags: RenameFlags) -> Result<(), Errno> {
        renameat_with(CWD, &self.temporary, CWD, self.path, flags)
    }

    fn busy(&self) -> EditError {
        EditError::Busy(shown(self.path))
    }
}

/// What the system's refusal means.
fn failed(path: &Path) -> impl Fn(io::Error) -> EditError {
    let path = shown(path);
    move |error| {
        let (path, reason) = (path.clone(), error.to_string());
        match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                EditError::ReadOnly { path, reason }
            }
            _ => EditError::Failed { path, reason },
        }
    }
}
