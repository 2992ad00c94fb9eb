//! The key logs: idempotency keys whose segments were given back.
//!
//! A file `ky-N.log` is a file of [`super::record`]'s format with records of one kind:
//!
//! ```text
//! kind 64, keys: keys of 48 bytes (see `keys`), at most 16,384
//! ```
//!
//! Before segments are given back, those of their keys that are still remembered are appended and synced. A file is never
//! rewritten while the store runs: it takes keys up to a quarter of all that may be remembered, then the next one is begun,
//! and a file goes when the newest of its keys is forgotten. So a key is written once, and the files hold little more than
//! what is remembered. A process only appends to files that it began; where many starts left many small files,
//! [`KeyLog::open`] puts them together.
//!
//! After a failed write or sync the file is not appended to again; what it was to take goes to the next one.

use std::io;
use std::sync::Arc;

use super::disk::Disk;
use super::file::{Appender, StoreFile, key_log_name, new_header};
use super::keys::{KEY_BYTES, KeyRecord};
use super::record::{FILE_HEADER, FileKind, Reader, Record, Stamp, encode_record};
use crate::clock::Age;

/// Kind of a record of keys.
pub const KIND_KEYS: u8 = 64;
/// Keys in one record, at the most.
const RECORD_KEYS: usize = 16_384;
/// A file that is larger takes no more keys: at least and at most.
const FILE_BYTES: (u64, u64) = (64 << 10, 2 << 20);
/// Files found at a start above which they are put together.
const MANY_FILES: usize = 8;

/// Appends keys as records of kind `kind`.
pub(super) fn encode_keys(
    out: &mut Vec<u8>,
    file: &super::record::FileHeader,
    stamp: Stamp,
    kind: u8,
    keys: &[KeyRecord],
) {
    for keys in keys.chunks(RECORD_KEYS) {
        encode_record(out, file.seed(), kind, stamp, |out| {
            out.reserve(keys.len() * KEY_BYTES);
            keys.iter().for_each(|key| key.encode(out));
        });
    }
}

/// The keys of a record.
pub(super) fn decode_keys(body: &[u8]) -> impl Iterator<Item = KeyRecord> {
    let mut reader = Reader::new(body);
    std::iter::from_fn(move || KeyRecord::decode(&mut reader))
}

/// One file, as much as must be known of it to remove it in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyFile {
    number: u32,
    /// The age of its newest key.
    newest: Age,
    bytes: u64,
}

impl KeyFile {
    /// A file without keys.
    pub(super) fn new(number: u32) -> KeyFile {
        KeyFile { number, newest: Age(0), bytes: FILE_HEADER }
    }

    /// Notes a record that was read; gives its keys to `take`.
    pub(super) fn note(&mut self, record: &Record<'_>, mut take: impl FnMut(KeyRecord)) {
        self.bytes += record.length as u64;
        if record.kind == KIND_KEYS {
            for key in decode_keys(record.body) {
                self.newest = self.newest.max(key.age());
                take(key);
            }
        }
    }
}

/// The writer's end.
#[derive(Debug)]
pub(super) struct KeyLog {
    /// Files that are complete, and the one that grows.
    files: Vec<KeyFile>,
    growing: Option<Growing>,
    next: u32,
    /// A file that is larger takes no more keys.
    file_bytes: u64,
}

#[derive(Debug)]
struct Growing {
    appender: Appender,
    commit: u64,
}

impl KeyLog {
    /// Over the files found, for `max_keys`. Many small ones are put together into one that holds `keys`, all that is remembered.
    pub(super) fn open(
        disk: &dyn Disk,
        files: Vec<KeyFile>,
        (keys, max_keys): (&[KeyRecord], usize),
        fresh: (u64, u64),
    ) -> KeyLog {
        let next = files.iter().map(|file| file.number).max();
        let many = files.len() > MANY_FILES;
        let quarter = (max_keys as u64).saturating_mul(KEY_BYTES as u64) / 4;
        let mut log = KeyLog {
            file_bytes: quarter.clamp(FILE_BYTES.0, FILE_BYTES.1),
            files,
            growing: None,
            next: next.map_or(1, |last| last.saturating_add(1)),
        };
        if many {
            let old = std::mem::take(&mut log.files);
            match log.keep(disk, keys, fresh) {
                Ok(_) => old.iter().for_each(|file| remove(disk, file.number)),
                Err(error) => {
                    tracing::warn!(%error, "Could not put the key logs together; they stay as they are.");
                    log.files.extend(old);
                }
            }
        }
        log
    }

    /// Bytes that the files take.
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Makes these keys durable. Returns the bytes written.
    ///
    /// # Errors
    /// As the disk says; nothing is known of these keys then, those kept before are not touched.
    pub(super) fn keep(
        &mut self,
        disk: &dyn Disk,
        keys: &[KeyRecord],
        fresh: (u64, u64),
    ) -> io::Result<u64> {
        let Some(newest) = keys.iter().map(KeyRecord::age).max() else {
            return Ok(0);
        };
        let mut growing = match self.growing.take() {
            Some(growing) => growing,
            None => self.begin(disk, fresh)?,
        };
        growing.commit += 1;
        let stamp = Stamp { durable_upto: growing.appender.end, commit: growing.commit };
        let mut bytes = Vec::new();
        encode_keys(&mut bytes, &growing.appender.file.header, stamp, KIND_KEYS, keys);
        growing.appender.append(&bytes)?;
        growing.appender.file.file.sync_data()?;
        if let Some(file) = self.files.last_mut() {
            file.newest = file.newest.max(newest);
            file.bytes = growing.appender.end;
        }
        if growing.appender.end < self.file_bytes {
            self.growing = Some(growing);
        }
        Ok(bytes.len() as u64)
    }

    /// Removes files whose keys are all older than `floor`.
    pub(super) fn forget(&mut self, disk: &dyn Disk, floor: Age) {
        let growing = self.growing.as_ref().and(self.files.last().copied());
        self.files.retain(|file| {
            let stays = file.newest >= floor || Some(*file) == growing;
            if !stays {
                remove(disk, file.number);
            }
            stays
        });
    }

    fn begin(&mut self, disk: &dyn Disk, (nonce, wall_ms): (u64, u64)) -> io::Result<Growing> {
        let number = self.next;
        let name = key_log_name(number);
        // Left by a try that failed; its keys are still in their segments.
        let _ = disk.remove(&name);
        let file: Arc<dyn super::disk::DiskFile> = disk.create(&name)?;
        self.next += 1;
        // It counts from here on, so that it is removed also when its start fails.
        self.files.push(KeyFile::new(number));
        let header = new_header(FileKind::Keys, number, nonce, wall_ms);
        let file = StoreFile::start(file, header)?;
        disk.sync_dir()?;
        Ok(Growing { appender: Appender { file, end: FILE_HEADER }, commit: 0 })
    }
}

/// What stays is read again, and removed by the next start that has no use for it.
fn remove(disk: &dyn Disk, number: u32) {
    if let Err(error) = disk.remove(&key_log_name(number)) {
        tracing::warn!(%error, number, "Could not remove a key log that nothing needs.");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::disk::OsDisk;
    use crate::store::file::scan;
    use crate::store::keys::key_for_tests;

    fn names(disk: &dyn Disk) -> Vec<String> {
        let mut names: Vec<_> = disk.list().unwrap().into_iter().map(|(name, _)| name).collect();
        names.sort();
        names
    }

    fn read(disk: &dyn Disk, number: u32) -> (KeyFile, Vec<KeyRecord>) {
        let file = StoreFile::open(disk, &key_log_name(number), FileKind::Keys).unwrap();
        let (mut found, mut keys) = (KeyFile::new(number), Vec::new());
        let report = scan(&file, |_, record| {
            found.note(record, |key| keys.push(key));
        });
        assert_eq!(report.unwrap().gaps, 0);
        (found, keys)
    }

    #[test]
    fn kept_keys_read_back_and_files_go_when_their_newest_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let disk = OsDisk::open(directory.path()).unwrap();
        let mut log = KeyLog::open(&disk, Vec::new(), (&[], 250_000), (0, 0));
        let keys: Vec<_> = (0..50_000).map(|number| key_for_tests(number, number)).collect();
        // The first file is over its size with the first batch, so the second batch begins another.
        log.keep(&disk, &keys[..45_000], (1, 0)).unwrap();
        log.keep(&disk, &keys[45_000..], (2, 0)).unwrap();
        assert_eq!(log.keep(&disk, &[], (3, 0)).unwrap(), 0);
        assert_eq!(names(&disk), ["ky-0000000001.log", "ky-0000000002.log"]);
        let (first, second) = (read(&disk, 1), read(&disk, 2));
        assert_eq!([first.1, second.1].concat(), keys);
        assert_eq!([first.0, second.0], log.files[..]);
        assert!(log.bytes() > 50_000 * KEY_BYTES as u64);

        log.forget(&disk, Age(44_999));
        assert_eq!(names(&disk).len(), 2, "its newest key is still remembered");
        log.forget(&disk, Age(60_000));
        assert_eq!(names(&disk), ["ky-0000000002.log"], "the one that grows");
        log.keep(&disk, &keys[..1], (4, 0)).unwrap();
        assert_eq!(read(&disk, 2).1.len(), 5001);
    }

    #[test]
    fn the_files_hold_little_more_than_what_is_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let disk = OsDisk::open(directory.path()).unwrap();
        let mut log = KeyLog::open(&disk, Vec::new(), (&[], 5000), (0, 0));
        for round in 0..200 {
            let keys: Vec<_> =
                (0..500).map(|number| key_for_tests(number, round * 500 + number)).collect();
            log.keep(&disk, &keys, (round, 0)).unwrap();
            log.forget(&disk, Age((round * 500).saturating_sub(4500)));
            let most = 5000 * KEY_BYTES as u64 + 2 * (FILE_BYTES.0 + 500 * KEY_BYTES as u64);
            assert!(log.bytes() <= most, "{} bytes, round {round}", log.bytes());
        }
        assert_eq!(names(&disk).len(), log.files.len());
    }

    #[test]
    fn many_small_files_are_put_together_at_a_start() {
        let directory = tempfile::tempdir().unwrap();
        let disk = OsDisk::open(directory.path()).unwrap();
        let keys: Vec<_> = (0..9).map(|number| key_for_tests(number, 5)).collect();
        let mut files = Vec::new();
        for key in &keys {
            let mut log = KeyLog::open(&disk, files.clone(), (&[], 100), (3, 0));
            log.keep(&disk, &[*key], (3, 0)).unwrap();
            files = log.files;
        }
        assert_eq!((files.len(), names(&disk).len()), (9, 9));
        let log = KeyLog::open(&disk, files, (&keys, 100), (3, 0));
        assert_eq!((log.files.len(), names(&disk).len()), (1, 1));
        assert_eq!(read(&disk, 10).1, keys);
    }
}
