//! The only file I/O of the store, behind two traits, so that tests can put a disk there that fails, tears and forgets.
//!
//! Names are relative to the store's directory and at most one level deep (`quarantine/x`).

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file::{Named, classify};

/// A directory of files.
pub trait Disk: Debug + Send + Sync {
    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// As the operating system says; also when the name is not a regular file.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Creates a file that must not exist.
    ///
    /// # Errors
    /// As the operating system says.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Renames a file, replacing what has the new name. Durable after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// As the operating system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. Durable after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// As the operating system says.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes creations, renames and removals durable.
    ///
    /// # Errors
    /// As the operating system says.
    fn sync_dir(&self) -> io::Result<()>;

    /// The regular files of the directory with their lengths, in no order.
    ///
    /// # Errors
    /// As the operating system says.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;

    /// Bytes that this user may still write on the file system.
    ///
    /// # Errors
    /// As the operating system says.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// One file.
pub trait DiskFile: Debug + Send + Sync {
    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// As the operating system says; a part may have been written.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Fills `bytes` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file ends before; else as the operating system says.
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;

    /// Waits until the data, and what is needed to read it back, is on the disk.
    ///
    /// # Errors
    /// As the operating system says. After an error nothing is known about any write since the last success: the file
    /// must not be synced again and believed.
    fn sync_data(&self) -> io::Result<()>;

    /// Reserves disk space for the first `length` bytes and makes the file at least that long.
    ///
    /// # Errors
    /// As the operating system says (`StorageFull`, `QuotaExceeded`).
    fn allocate(&self, length: u64) -> io::Result<()>;

    /// Cuts or extends the file.
    ///
    /// # Errors
    /// As the operating system says.
    fn set_len(&self, length: u64) -> io::Result<()>;

    /// The file's length.
    ///
    /// # Errors
    /// As the operating system says.
    fn length(&self) -> io::Result<u64>;
}

/// How many of one name are set aside.
const STRANGERS: u32 = 100;

/// A real directory.
#[derive(Debug)]
pub struct OsDisk {
    directory: PathBuf,
}

impl OsDisk {
    /// Opens the directory; makes it and `quarantine` in it (mode 0700) where they are missing. A symlink or a directory
    /// that has the name of one of the store's files is moved to `quarantine`: it would be in the way for ever.
    ///
    /// # Errors
    /// As the operating system says.
    pub fn open(directory: &Path) -> io::Result<OsDisk> {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(directory.join(super::QUARANTINE))?;
        // A directory that was just made must be there after a power cut: everything else stands on it.
        for made in [directory, directory.parent().unwrap_or(directory)] {
            File::open(made)?.sync_all()?;
        }
        let disk = OsDisk { directory: directory.to_owned() };
        disk.set_strangers_aside()?;
        Ok(disk)
    }

    fn set_strangers_aside(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.directory)? {
            let entry = entry?;
            let (kind, Ok(name)) = (entry.file_type()?, entry.file_name().into_string()) else {
                continue;
            };
            if kind.is_file() || classify(&name) == Named::Foreign {
                continue;
            }
            let quarantine = self.directory.join(super::QUARANTINE);
            let taken = |path: &PathBuf| path.symlink_metadata().is_ok();
            let aside = std::iter::once(quarantine.join(&name))
                .chain((1..STRANGERS).map(|n| quarantine.join(format!("{name}.{n}"))))
                .find(|path| !taken(path));
            let moved = match aside {
                Some(aside) => std::fs::rename(entry.path(), aside),
                None => Err(io::ErrorKind::AlreadyExists.into()),
            };
            match moved {
                Ok(()) => tracing::error!(
                    file = name,
                    "Something that is not a file had the name of one of the store's; it was moved to quarantine"
                ),
                Err(error) => {
                    tracing::warn!(%error, file = name, "Could not move to quarantine what is not a file.");
                }
            }
        }
        Ok(())
    }

    fn options() -> OpenOptions {
        let mut options = OpenOptions::new();
        // A symlink in the store's directory could point anywhere: it is not followed.
        options.read(true).write(true).mode(0o600).custom_flags(nofollow());
        options
    }
}

fn nofollow() -> i32 {
    i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0)
}

impl Disk for OsDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OsDisk::options().open(self.directory.join(name))?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(Arc::new(OsFile(file)))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OsDisk::options().create_new(true).open(self.directory.join(name))?;
        Ok(Arc::new(OsFile(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.directory.join(from), self.directory.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.directory.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
                files.push((name, metadata.len()));
            }
        }
        Ok(files)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.directory)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

#[derive(Debug)]
struct OsFile(File);

impl DiskFile for OsFile {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        loop {
            match fallocate(&self.0, FallocateFlags::empty(), 0, length) {
                Err(rustix::io::Errno::INTR) => {}
                // File systems without fallocate (old NFS, some FUSE): the length alone, space is found missing later.
                Err(rustix::io::Errno::OPNOTSUPP) => return self.0.set_len(length),
                result => return result.map_err(io::Error::from),
            }
        }
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_file_is_set_aside_and_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let [store, outside] = ["store", "outside"].map(|name| directory.path().join(name));
        std::fs::write(&outside, b"precious").unwrap();
        for round in 0..2 {
            OsDisk::open(&store).unwrap();
            std::fs::create_dir(store.join("ev-1000000000.seg")).unwrap();
            std::os::unix::fs::symlink(&outside, store.join("lock")).unwrap();
            std::fs::create_dir(store.join(format!("mine-{round}"))).unwrap();
        }
        OsDisk::open(&store).unwrap();
        let names = |path: &Path| {
            let entries = std::fs::read_dir(path).unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&store), ["mine-0", "mine-1", "quarantine"]);
        let aside = ["ev-1000000000.seg", "ev-1000000000.seg.1", "lock", "lock.1"];
        assert_eq!(names(&store.join("quarantine")), aside);
        assert_eq!(std::fs::read(outside).unwrap(), b"precious");
    }
}
