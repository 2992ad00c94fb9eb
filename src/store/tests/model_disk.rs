//! A disk in memory that is as bad as a real one may be.
//!
//! What a process sees (the page cache) and what is on the platter are kept apart, per file and for the directory.
//! [`ModelDisk::crash`] keeps, loses, tears (by sectors of 512 bytes, or by bytes) and reorders what was not synced; of
//! the directory's unsynced changes any subset lasts, in order. A failed fsync marks its pages clean: a later one that
//! succeeds says nothing about them (fsyncgate). A failed directory sync leaves its changes to the next one.
//!
//! Calls can be made to fail: the Nth of a kind or of any kind, once or for good, or the power goes off in the middle of
//! it. Space is counted against a capacity.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

mod calls;

const SECTOR: usize = 512;

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Open,
    Create,
    Rename,
    Remove,
    SyncDir,
    List,
    Read,
    Write,
    Sync,
    Allocate,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// EIO
    Io,
    /// ENOSPC
    Full,
    /// EDQUOT
    Quota,
    /// EROFS
    ReadOnly,
    /// A write writes a part; other calls: EINTR, as an error.
    Short,
    /// The power goes off in the middle of the call: this call and all later ones fail until [`ModelDisk::crash`].
    PowerOff,
}

impl Failure {
    pub const ERRORS: [Failure; 5] =
        [Failure::Io, Failure::Full, Failure::Quota, Failure::ReadOnly, Failure::Short];

    fn error(self) -> io::Error {
        let kind = match self {
            Failure::Io | Failure::PowerOff => io::ErrorKind::Other,
            Failure::Full => io::ErrorKind::StorageFull,
            Failure::Quota => io::ErrorKind::QuotaExceeded,
            Failure::ReadOnly => io::ErrorKind::ReadOnlyFilesystem,
            Failure::Short => io::ErrorKind::WriteZero,
        };
        io::Error::new(kind, format!("injected: {self:?}"))
    }
}

/// Calls that shall fail.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Only calls of this kind count.
    pub kind: Option<Kind>,
    /// How many calls succeed before.
    pub after: u64,
    pub failure: Failure,
    /// All calls from then on, not only the first.
    pub for_good: bool,
}

/// The disk; clones are the same disk.
#[derive(Clone, Debug)]
pub struct ModelDisk(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    inodes: Vec<Inode>,
    /// The directory as processes see it.
    names: BTreeMap<String, usize>,
    /// The directory on the platter.
    durable_names: BTreeMap<String, usize>,
    pending: Vec<DirChange>,
    capacity: u64,
    fault: Option<Fault>,
    calls: u64,
    failures: u64,
    power_off: bool,
    /// Writes of which a crash kept a part.
    torn: u64,
    /// Over every call and every byte written, in order.
    digest: DefaultHasher,
    rng: fastrand::Rng,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    /// What processes see.
    cache: Vec<u8>,
    /// What is on the platter.
    platter: Vec<u8>,
    /// Written since the last sync.
    dirty: Vec<Range<usize>>,
    /// Its length changed since the last sync.
    resized: bool,
    allocated: usize,
}

#[derive(Clone, Debug)]
enum DirChange {
    /// The file has this name, and no other.
    Named(String, usize),
    Removed(String, usize),
}

#[derive(Debug)]
struct ModelFile {
    disk: ModelDisk,
    inode: usize,
}

/// How much of what is not synced survives a crash.
#[derive(Clone, Copy, Debug)]
enum Luck {
    None,
    All,
    Some,
}

impl Luck {
    fn draw(rng: &mut fastrand::Rng) -> Luck {
        match rng.u8(..4) {
            0 => Luck::None,
            1 => Luck::All,
            _ => Luck::Some,
        }
    }

    fn keeps(self, rng: &mut fastrand::Rng) -> bool {
        match self {
            Luck::None => false,
            Luck::All => true,
            Luck::Some => rng.bool(),
        }
    }
}

impl ModelDisk {
    pub fn new(seed: u64) -> ModelDisk {
        ModelDisk(Arc::new(Mutex::new(Inner {
            inodes: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending: Vec::new(),
            capacity: u64::MAX,
            fault: None,
            calls: 0,
            failures: 0,
            power_off: false,
            torn: 0,
            digest: DefaultHasher::new(),
            rng: fastrand::Rng::with_seed(seed),
        })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// Arms a fault, or disarms it.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.inner().fault = fault;
    }

    /// Calls that failed because a test wanted it.
    pub fn failures(&self) -> u64 {
        self.inner().failures
    }

    /// Writes of which a crash or the kernel's write-back kept a part.
    pub fn torn(&self) -> u64 {
        self.inner().torn
    }

    /// A number over every call so far, in order, and every byte written.
    pub fn digest(&self) -> u64 {
        self.inner().digest.finish()
    }

    /// Whether the power went off, and no crash has followed yet.
    pub fn power_is_off(&self) -> bool {
        self.inner().power_off
    }

    /// Runs `look` without faults, and without counting its calls.
    pub fn quietly<T>(&self, look: impl FnOnce() -> T) -> T {
        let (fault, calls, off) = {
            let mut inner = self.inner();
            (inner.fault.take(), inner.calls, std::mem::take(&mut inner.power_off))
        };
        let seen = look();
        let mut inner = self.inner();
        (inner.fault, inner.calls, inner.power_off) = (fault, calls, off);
        seen
    }

    /// Calls so far.
    pub fn calls(&self) -> u64 {
        self.inner().calls
    }

    /// Sets the capacity to what is used and this much more.
    pub fn set_free(&self, bytes: u64) {
        let mut inner = self.inner();
        inner.capacity = inner.used().saturating_add(bytes);
    }

    /// The power fails and comes back.
    pub fn crash(&self, seed: u64) {
        let mut inner = self.inner();
        let mut rng = fastrand::Rng::with_seed(seed);
        inner.write_back(&mut rng);
        inner.pending.clear();
        inner.names = inner.durable_names.clone();
        for inode in &mut inner.inodes {
            inode.cache.clone_from(&inode.platter);
            inode.dirty.clear();
            inode.resized = false;
            inode.allocated = inode.platter.len();
        }
        inner.forget_unnamed();
        inner.power_off = false;
        inner.fault = None;
    }

    /// The power fails: all names last, and no bytes that were not synced.
    pub fn crash_keeping_names(&self) {
        let mut inner = self.inner();
        for change in std::mem::take(&mut inner.pending) {
            inner.settle_name(&change);
        }
        for inode in &mut inner.inodes {
            inode.dirty.clear();
            inode.resized = false;
        }
        drop(inner);
        self.crash(0);
    }

    /// Whether a fault is armed that has not come yet.
    pub fn is_armed(&self) -> bool {
        self.inner().fault.is_some()
    }

    /// Some of what is not synced reaches the platter, as the kernel does at any time.
    pub fn write_back(&self, seed: u64) {
        let mut rng = fastrand::Rng::with_seed(seed);
        self.inner().write_back(&mut rng);
    }

    /// The regular files and their bytes.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let inner = self.inner();
        let bytes = |inode: &usize| inner.inodes[*inode].cache.clone();
        let names = inner.names.iter();
        names.map(|(name, inode)| (name.clone(), bytes(inode))).collect()
    }

    /// A disk that holds these files, synced.
    pub fn with_files(files: &BTreeMap<String, Vec<u8>>) -> ModelDisk {
        let disk = ModelDisk::new(1);
        let mut inner = disk.inner();
        for (name, bytes) in files {
            let inode = inner.inodes.len();
            inner.inodes.push(Inode {
                cache: bytes.clone(),
                platter: bytes.clone(),
                allocated: bytes.len(),
                ..Inode::default()
            });
            inner.names.insert(name.clone(), inode);
        }
        inner.durable_names = inner.names.clone();
        drop(inner);
        disk
    }
}

impl Inner {
    /// Counts a call; an error if it fails before it does anything.
    fn call(&mut self, kind: Kind) -> Result<(), Failure> {
        if self.power_off {
            self.failures += 1;
            return Err(Failure::PowerOff);
        }
        self.calls += 1;
        self.digest.write_u8(kind as u8);
        let Some(fault) = &mut self.fault else {
            return Ok(());
        };
        if fault.kind.is_some_and(|only| only != kind) {
            return Ok(());
        }
        if fault.after > 0 {
            fault.after -= 1;
            return Ok(());
        }
        let failure = fault.failure;
        self.failures += 1;
        if !fault.for_good {
            self.fault = None;
        }
        Err(failure)
    }

    /// Counts a call that changes names: it happens, fails, or happens just before the power goes off.
    fn change(&mut self, kind: Kind) -> io::Result<()> {
        match self.call(kind) {
            Ok(()) => Ok(()),
            Err(Failure::PowerOff) if !self.power_off => {
                self.power_off = true;
                // What came before may last, this call too: as if it had been made.
                if self.rng.bool() { Ok(()) } else { Err(Failure::PowerOff.error()) }
            }
            Err(failure) => Err(failure.error()),
        }
    }

    /// A removed file's space is free when its removal is on the platter.
    fn used(&self) -> u64 {
        let named: BTreeSet<_> = self.names.values().chain(self.durable_names.values()).collect();
        let sizes = named.into_iter().map(|inode| &self.inodes[*inode]);
        sizes.map(|inode| inode.allocated.max(inode.cache.len()) as u64).sum()
    }

    fn lookup(&self, name: &str) -> io::Result<usize> {
        let found = self.names.get(name).copied();
        found.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    /// Whether a file may grow to `length`.
    fn grow(&mut self, inode: usize, length: usize) -> io::Result<()> {
        let file = &self.inodes[inode];
        let more = length.saturating_sub(file.allocated.max(file.cache.len())) as u64;
        if more > 0 && self.used() + more > self.capacity {
            // As ext4 does: the journal is committed, so that what was removed is free, and it is tried once more.
            for change in std::mem::take(&mut self.pending) {
                self.settle_name(&change);
            }
            if self.used() + more > self.capacity {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        let file = &mut self.inodes[inode];
        file.allocated = file.allocated.max(length);
        Ok(())
    }

    fn write(&mut self, inode: usize, bytes: &[u8], offset: usize) {
        let file = &mut self.inodes[inode];
        let end = offset + bytes.len();
        if file.cache.len() < end {
            file.cache.resize(end, 0);
        }
        file.cache[offset..end].copy_from_slice(bytes);
        file.dirty.push(offset..end);
        (offset, bytes).hash(&mut self.digest);
    }

    /// Any part of what is not synced reaches the platter; what does not stays unsynced.
    fn write_back(&mut self, rng: &mut fastrand::Rng) {
        let luck = Luck::draw(rng);
        for change in std::mem::take(&mut self.pending) {
            if luck.keeps(rng) {
                self.settle_name(&change);
            } else {
                self.pending.push(change);
            }
        }
        let luck = Luck::draw(rng);
        for file in &mut self.inodes {
            self.torn += file.write_back(luck, rng);
        }
    }

    fn settle_name(&mut self, change: &DirChange) {
        match change {
            DirChange::Named(name, inode) => {
                self.durable_names.retain(|_, other| other != inode);
                self.durable_names.insert(name.clone(), *inode);
            }
            DirChange::Removed(name, inode) => {
                if self.durable_names.get(name) == Some(inode) {
                    self.durable_names.remove(name);
                }
            }
        }
    }

    /// Frees the memory of files that have no name any more, neither seen nor on the platter.
    fn forget_unnamed(&mut self) {
        for (number, file) in self.inodes.iter_mut().enumerate() {
            let named = |names: &BTreeMap<String, usize>| names.values().any(|n| *n == number);
            if !file.cache.is_empty() && !named(&self.names) && !named(&self.durable_names) {
                *file = Inode::default();
            }
        }
    }
}

impl Inode {
    fn sync(&mut self) {
        for range in std::mem::take(&mut self.dirty) {
            self.keep(range);
        }
        self.platter.resize(self.cache.len(), 0);
        self.resized = false;
    }

    fn keep(&mut self, range: Range<usize>) {
        let range = range.start..range.end.min(self.cache.len());
        if self.platter.len() < range.end {
            self.platter.resize(range.end, 0);
        }
        if !range.is_empty() {
            self.platter[range.clone()].copy_from_slice(&self.cache[range]);
        }
    }

    /// Returns how many writes were torn.
    fn write_back(&mut self, luck: Luck, rng: &mut fastrand::Rng) -> u64 {
        let mut torn = 0;
        for range in self.dirty.clone() {
            match (luck, rng.u8(..4)) {
                (Luck::None, _) | (Luck::Some, 0) => {}
                (Luck::All, _) | (Luck::Some, 1) => self.keep(range),
                (Luck::Some, 2) => {
                    torn += 1;
                    self.keep(range.start..range.start + rng.usize(..=range.len()));
                }
                (Luck::Some, _) => {
                    torn += 1;
                    let mut at = range.start;
                    while at < range.end {
                        let next = ((at / SECTOR + 1) * SECTOR).min(range.end);
                        if rng.bool() {
                            self.keep(at..next);
                        }
                        at = next;
                    }
                }
            }
        }
        if self.resized && luck.keeps(rng) {
            self.platter.resize(self.cache.len(), 0);
        }
        torn
    }
}
