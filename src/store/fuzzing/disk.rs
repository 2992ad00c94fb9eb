//! A disk in memory that never fails and takes no more memory than what was written: reserved space is only counted, so
//! that the memory of a case is that of the store.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::super::disk::{Disk, DiskFile};

/// The files by name; clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(super) struct MemoryDisk(Arc<Mutex<BTreeMap<String, Arc<MemoryFile>>>>);

#[derive(Debug, Default)]
struct MemoryFile(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    bytes: Vec<u8>,
    /// At least that of `bytes`; what is between reads as zeros.
    length: u64,
    /// Bytes of the largest read so far.
    #[cfg(test)]
    largest_read: usize,
}

impl MemoryDisk {
    pub(super) fn with_files(files: impl IntoIterator<Item = (String, Bytes)>) -> MemoryDisk {
        let disk = MemoryDisk::default();
        for (name, bytes) in files {
            let (bytes, length) = (bytes.to_vec(), bytes.len() as u64);
            let file = MemoryFile(Mutex::new(Inner { bytes, length, ..Inner::default() }));
            disk.names().insert(name, Arc::new(file));
        }
        disk
    }

    /// The files and what was written to them.
    pub(super) fn files(&self) -> Vec<(String, Bytes)> {
        let names = self.names();
        names
            .iter()
            .map(|(name, file)| (name.clone(), Bytes::from(file.inner().bytes.clone())))
            .collect()
    }

    /// Bytes of the largest read of any file so far.
    #[cfg(test)]
    pub(super) fn largest_read(&self) -> usize {
        self.names().values().map(|file| file.inner().largest_read).max().unwrap_or(0)
    }

    fn names(&self) -> MutexGuard<'_, BTreeMap<String, Arc<MemoryFile>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for MemoryDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.names().get(name).cloned();
        Ok(file.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut names = self.names();
        if names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = Arc::new(MemoryFile::default());
        names.insert(name.to_owned(), Arc::clone(&file));
        Ok(file)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut names = self.names();
        let file = names.remove(from).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        names.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let removed = self.names().remove(name);
        removed.map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let names = self.names();
        let top = names.iter().filter(|(name, _)| !name.contains('/'));
        Ok(top.map(|(name, file)| (name.clone(), file.inner().length)).collect())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(1 << 40)
    }
}

impl MemoryFile {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DiskFile for MemoryFile {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut inner = self.inner();
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start + bytes.len();
        if inner.bytes.len() < end {
            inner.bytes.resize(end, 0);
        }
        if let Some(place) = inner.bytes.get_mut(start..end) {
            place.copy_from_slice(bytes);
        }
        inner.length = inner.length.max(end as u64);
        Ok(())
    }

    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        #[cfg(test)]
        {
            let mut inner = self.inner();
            inner.largest_read = inner.largest_read.max(bytes.len());
        }
        let inner = self.inner();
        if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > inner.length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let written = inner.bytes.get(start..).unwrap_or_default();
        let held = written.len().min(bytes.len());
        let (front, back) = bytes.split_at_mut(held);
        front.copy_from_slice(written.get(..held).unwrap_or_default());
        back.fill(0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        let mut inner = self.inner();
        inner.length = inner.length.max(length);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut inner = self.inner();
        inner.bytes.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        inner.length = length;
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.inner().length)
    }
}
