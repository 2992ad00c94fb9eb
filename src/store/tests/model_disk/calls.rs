//! The calls of the model disk: each happens, fails as the test wants, or is cut by the power.

use std::io;
use std::sync::Arc;

use super::super::super::defects::{self, Defect};
use super::super::super::disk::{Disk, DiskFile};
use super::{DirChange, Failure, Inode, Kind, Luck, ModelDisk, ModelFile};

impl Disk for ModelDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut inner = self.inner();
        inner.change(Kind::Open)?;
        let inode = inner.lookup(name)?;
        Ok(Arc::new(ModelFile { disk: self.clone(), inode }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut inner = self.inner();
        inner.change(Kind::Create)?;
        if inner.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = inner.inodes.len();
        inner.inodes.push(Inode::default());
        inner.names.insert(name.to_owned(), inode);
        inner.pending.push(DirChange::Named(name.to_owned(), inode));
        Ok(Arc::new(ModelFile { disk: self.clone(), inode }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.inner();
        inner.change(Kind::Rename)?;
        let inode = inner.lookup(from)?;
        inner.names.remove(from);
        inner.names.insert(to.to_owned(), inode);
        inner.pending.push(DirChange::Named(to.to_owned(), inode));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut inner = self.inner();
        inner.change(Kind::Remove)?;
        let inode = inner.lookup(name)?;
        inner.names.remove(name);
        inner.pending.push(DirChange::Removed(name.to_owned(), inode));
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut inner = self.inner();
        inner.change(Kind::SyncDir)?;
        if defects::on(Defect::NoDirectorySync) {
            return Ok(());
        }
        for change in std::mem::take(&mut inner.pending) {
            inner.settle_name(&change);
        }
        inner.forget_unnamed();
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut inner = self.inner();
        inner.change(Kind::List)?;
        let here = inner.names.iter().filter(|(name, _)| !name.contains('/'));
        let length = |inode: &usize| inner.inodes[*inode].cache.len() as u64;
        Ok(here.map(|(name, inode)| (name.clone(), length(inode))).collect())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let inner = self.inner();
        Ok(inner.capacity.saturating_sub(inner.used()))
    }
}

fn size(value: u64) -> usize {
    usize::try_from(value).unwrap()
}

impl DiskFile for ModelFile {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut inner = self.disk.inner();
        let verdict = inner.call(Kind::Write);
        if inner.power_off {
            return Err(Failure::PowerOff.error());
        }
        let offset = size(offset);
        let failed = match verdict {
            Ok(()) => inner.grow(self.inode, offset + bytes.len()).err(),
            Err(failure) => {
                inner.power_off = failure == Failure::PowerOff;
                Some(failure.error())
            }
        };
        match failed {
            None => inner.write(self.inode, bytes, offset),
            Some(_) => {
                let part = inner.rng.usize(..=bytes.len());
                inner.write(self.inode, &bytes[..part], offset);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let mut inner = self.disk.inner();
        inner.change(Kind::Read)?;
        let offset = size(offset);
        let cache = &inner.inodes[self.inode].cache;
        let part = cache.get(offset..offset + bytes.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        bytes.copy_from_slice(part);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut inner = self.disk.inner();
        let mut verdict = inner.call(Kind::Sync);
        if inner.power_off {
            return Err(Failure::PowerOff.error());
        }
        let inner = &mut *inner;
        let file = &mut inner.inodes[self.inode];
        if let Err(failure) = verdict {
            let luck = Luck::draw(&mut inner.rng);
            file.write_back(luck, &mut inner.rng);
            if failure == Failure::PowerOff {
                inner.power_off = true;
            } else {
                // The pages are clean now, whether they were written or not.
                file.dirty.clear();
                file.resized = false;
                if defects::on(Defect::FsyncRepeated) {
                    verdict = Ok(());
                }
            }
        } else if !defects::on(Defect::NoDataSync) {
            file.sync();
        }
        verdict.map_err(Failure::error)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        let mut inner = self.disk.inner();
        inner.change(Kind::Allocate)?;
        inner.grow(self.inode, size(length))?;
        let file = &mut inner.inodes[self.inode];
        if file.cache.len() < size(length) {
            file.cache.resize(size(length), 0);
            file.resized = true;
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut inner = self.disk.inner();
        inner.change(Kind::Allocate)?;
        let file = &mut inner.inodes[self.inode];
        file.cache.resize(size(length), 0);
        file.allocated = file.allocated.min(size(length));
        file.resized = true;
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        let inner = self.disk.inner();
        Ok(inner.inodes[self.inode].cache.len() as u64)
    }
}
