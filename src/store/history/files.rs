//! The files of the history: written without a sync, an eighth of the cap each, the oldest removed by age and by the cap.
//!
//! They come on top of `max_bytes`: their own cap bounds them. While less than one segment's bytes are free on the disk,
//! nothing is written, so that history never takes the last space from events. A file whose write failed is never written
//! to again. A start cuts the torn tail of the newest file and goes on in it.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::super::disk::Disk;
use super::super::file::{
    Appender, FileError, Named, StoreFile, attempts_name, classify, new_header, scan,
};
use super::super::record::{
    FILE_HEADER, FileKind, HeaderError, RECORD_HEADER, decode_record, peek_length,
};
use super::super::{Limit, OpenError, QUARANTINE, Shared};
use super::record::{decode, encode};
use super::{AttemptQuery, Recorded};
use crate::clock::{Age, Clock};

/// A file holds at least so many bytes, however small the cap.
const FILE_BYTES_MIN: u64 = 16 << 10;
/// After a failure of the disk, history is tried again this much later.
const TROUBLE_RETRY: Duration = Duration::from_secs(30);

/// One file that can be read.
#[derive(Clone, Debug)]
pub(super) struct Readable {
    file: StoreFile,
    /// Damaged places of it that were counted.
    counted: Arc<AtomicU64>,
    shared: Arc<Shared>,
}

impl Readable {
    /// Adds the newest attempts that a query wants, one more than its limit, to `found`. Returns the number of the file's
    /// first attempt.
    pub(super) fn search(
        &self,
        query: &AttemptQuery,
        found: &mut BTreeMap<u64, Recorded>,
    ) -> Option<u64> {
        let mut first = None;
        let mut newest: VecDeque<Recorded> = VecDeque::new();
        let report = scan(&self.file, |_, record| {
            first.get_or_insert(record.stamp.commit);
            if let Some(recorded) = decode(record).filter(|recorded| query.wants(recorded)) {
                newest.push_back(recorded);
                if newest.len() > query.limit + 1 {
                    newest.pop_front();
                }
            }
        });
        let gaps = report.map_or(0, |report| report.gaps as u64);
        let counted = self.counted.fetch_max(gaps, Ordering::Relaxed);
        self.shared.metrics.corrupt_records.increment(gaps.saturating_sub(counted));
        found.extend(newest.into_iter().map(|one| (one.number, one)));
        first
    }
}

/// A file and what must be known to remove it in time.
#[derive(Debug)]
struct LogFile {
    readable: Readable,
    number: u32,
    bytes: u64,
    /// No attempt in it ended later.
    newest: Age,
}

/// All files.
#[derive(Debug)]
pub(in crate::store) struct AttemptLog {
    disk: Arc<dyn Disk>,
    clock: Clock,
    shared: Arc<Shared>,
    rng: fastrand::Rng,
    limit: Limit,
    /// Bytes that must be free on the disk.
    spare_bytes: u64,
    /// The oldest first.
    files: VecDeque<LogFile>,
    /// The last file, when it can be appended to.
    growing: Option<Appender>,
    next: u32,
    /// When to try again after a failure.
    retry_at: Option<Duration>,
}

impl AttemptLog {
    /// Opens the files there are, by their headers alone.
    ///
    /// # Errors
    /// Only an unknown version.
    pub(in crate::store) fn open(
        disk: Arc<dyn Disk>,
        clock: Clock,
        shared: Arc<Shared>,
        (limit, spare_bytes, seed): (Limit, u64, u64),
    ) -> Result<AttemptLog, OpenError> {
        let names = disk.list().unwrap_or_default();
        let mut numbers: Vec<u32> = names
            .iter()
            .filter_map(|(name, _)| match classify(name) {
                Named::Attempts(number) => Some(number),
                _ => None,
            })
            .collect();
        numbers.sort_unstable();
        let mut log = AttemptLog {
            disk,
            clock,
            shared,
            rng: fastrand::Rng::with_seed(seed),
            limit,
            spare_bytes,
            files: VecDeque::new(),
            growing: None,
            next: numbers.last().map_or(1, |last| last.saturating_add(1)),
            retry_at: None,
        };
        for number in numbers {
            log.open_file(number)?;
        }
        log.note_ages();
        log.publish();
        Ok(log)
    }

    fn open_file(&mut self, number: u32) -> Result<(), OpenError> {
        let name = attempts_name(number);
        match StoreFile::open(&*self.disk, &name, FileKind::Attempts) {
            Ok(file) => {
                let bytes = file.file.length().unwrap_or(0);
                self.add(number, file, bytes, self.clock.age());
                Ok(())
            }
            Err(FileError::Header(HeaderError::UnknownVersion(version))) => {
                Err(OpenError::UnknownVersion { file: name, version })
            }
            Err(FileError::Header(HeaderError::Damaged)) => {
                self.shared.metrics.corrupt_records.increment(1);
                tracing::error!(
                    file = name,
                    "A file of attempts has a damaged header; it was moved to quarantine"
                );
                let _ = self.disk.rename(&name, &format!("{QUARANTINE}/{name}"));
                Ok(())
            }
            Err(FileError::Io(error)) => {
                tracing::warn!(%error, file = name, "Could not open a file of attempts; it is not shown.");
                Ok(())
            }
        }
    }

    fn add(&mut self, number: u32, file: StoreFile, bytes: u64, newest: Age) {
        let (counted, shared) = (Arc::default(), Arc::clone(&self.shared));
        let readable = Readable { file, counted, shared };
        self.files.push_back(LogFile { readable, number, bytes, newest });
    }

    /// What is in a file ended before the first attempt of the next one. Where that is not known, it counts as of now.
    fn note_ages(&mut self) {
        let firsts: Vec<_> =
            self.files.iter().skip(1).map(|log| first_age(&log.readable.file)).collect();
        for (log, first) in self.files.iter_mut().zip(firsts) {
            log.newest = first.unwrap_or(log.newest);
        }
    }

    /// Finds the end of the newest file, cuts what is torn, and goes on in it. Returns the number of the last attempt.
    pub(in crate::store) fn resume(&mut self) -> u64 {
        let Some(last) = self.files.back_mut() else {
            return 0;
        };
        let file = last.readable.file.clone();
        let (mut number, mut newest) = (0, None);
        let scanned = scan(&file, |_, record| {
            number = record.stamp.commit;
            newest = decode(record).map(|recorded| recorded.attempt.age).or(newest);
        });
        let Ok(report) = scanned else {
            return self.number_of_earlier();
        };
        last.newest = newest.unwrap_or(last.newest);
        self.shared.metrics.corrupt_records.increment(report.gaps as u64);
        last.readable.counted.store(report.gaps as u64, Ordering::Relaxed);
        if file.file.set_len(report.end).is_ok() {
            last.bytes = report.end;
            self.growing = Some(Appender { file, end: report.end });
        }
        if number == 0 { self.number_of_earlier() } else { number }
    }

    /// The newest file tells nothing: the others are read for the last number given.
    fn number_of_earlier(&self) -> u64 {
        let mut number = 0;
        for log in &self.files {
            // One that cannot be read tells nothing either; then numbers may come twice, and one of two is shown.
            let _ = scan(&log.readable.file, |_, record| number = number.max(record.stamp.commit));
        }
        number
    }

    /// Writes attempts, if there is a file for them. Returns how many were not written although they should be.
    pub(super) fn write(&mut self, attempts: &[Recorded]) -> u64 {
        let lost = attempts.len() as u64;
        if self.limit.age.is_zero() || attempts.is_empty() {
            return 0;
        }
        let now = self.clock.monotonic();
        if self.retry_at.is_some_and(|at| now < at) {
            return lost;
        }
        match self.try_write(attempts) {
            Ok(()) => {
                if self.retry_at.take().is_some() {
                    tracing::info!("Failed attempts are written to the disk again.");
                }
                0
            }
            Err(error) => {
                self.growing = None;
                self.shared.metrics.errors.increment(1);
                if self.retry_at.replace(now + TROUBLE_RETRY).is_none() {
                    tracing::warn!(%error, "Could not write failed attempts to the disk: the latest are kept in memory alone, deliveries go on, and it is tried again.");
                }
                lost
            }
        }
    }

    fn try_write(&mut self, attempts: &[Recorded]) -> io::Result<()> {
        if self.disk.free_bytes()? < self.spare_bytes {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the disk is almost full"));
        }
        for piece in attempts.chunks(16) {
            let mut growing = match self.growing.take() {
                Some(growing) if growing.end < self.file_bytes() => growing,
                _ => self.begin()?,
            };
            let mut bytes = Vec::new();
            let seed = growing.file.seed();
            piece.iter().for_each(|recorded| encode(&mut bytes, seed, recorded));
            growing.append(&bytes)?;
            self.shared.metrics.written_bytes.increment(bytes.len() as u64);
            if let Some(last) = self.files.back_mut() {
                last.bytes = growing.end;
                last.newest = piece.iter().map(|one| one.attempt.age).max().unwrap_or(last.newest);
            }
            self.growing = Some(growing);
            self.remove_old();
        }
        Ok(())
    }

    /// A file that is larger takes no more attempts.
    fn file_bytes(&self) -> u64 {
        (self.limit.bytes / 8).max(FILE_BYTES_MIN)
    }

    fn begin(&mut self) -> io::Result<Appender> {
        let number = self.next;
        let name = attempts_name(number);
        // Left by a try that failed.
        let _ = self.disk.remove(&name);
        let file = self.disk.create(&name)?;
        self.next += 1;
        let (nonce, wall_ms) = (self.rng.u64(..), self.clock.wall_ms());
        let header = new_header(FileKind::Attempts, number, nonce, wall_ms);
        let started = StoreFile::start(file, header).and_then(|file| {
            self.disk.sync_dir()?;
            Ok(file)
        });
        let file = started.inspect_err(|_| drop(self.disk.remove(&name)))?;
        self.add(number, file.clone(), FILE_HEADER, self.clock.age());
        Ok(Appender { file, end: FILE_HEADER })
    }

    /// Removes what is too old and what is too much, the oldest first.
    pub(super) fn remove_old(&mut self) {
        let now = self.clock.age();
        let mut total: u64 = self.bytes();
        while let Some(oldest) = self.files.front() {
            let over = oldest.newest.after(self.limit.age) <= now;
            if !over && total <= self.limit.bytes {
                break;
            }
            if let Err(error) = self.disk.remove(&attempts_name(oldest.number))
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(%error, "Could not remove a file of old attempts; it is tried again.");
                break;
            }
            total -= oldest.bytes;
            if self.files.len() == 1 {
                self.growing = None;
            }
            self.files.pop_front();
        }
        self.publish();
    }

    /// Puts another limit in force.
    pub(super) fn set_limit(&mut self, limit: Limit) {
        self.limit = limit;
        self.remove_old();
    }

    /// The files as they are now, the newest first.
    pub(super) fn readable(&self) -> Vec<Readable> {
        self.files.iter().rev().map(|log| log.readable.clone()).collect()
    }

    /// Bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|log| log.bytes).sum()
    }

    /// Makes the last seconds durable, for a clean stop.
    pub(super) fn sync(&mut self) {
        if let Some(growing) = self.growing.take() {
            // It is no promise, and nothing is done differently when it fails.
            let _ = growing.file.file.sync_data();
        }
    }

    fn publish(&self) {
        let bytes = self.bytes();
        self.shared.attempts_bytes.store(bytes, Ordering::Relaxed);
        self.shared.metrics.attempts_bytes.set(bytes as f64);
    }
}

/// When the first attempt in a file ended, if that can be read without a scan.
fn first_age(file: &StoreFile) -> Option<Age> {
    let mut head = [0; RECORD_HEADER];
    file.file.read_exact_at(&mut head, FILE_HEADER).ok()?;
    let length = u32::try_from(peek_length(&head, file.seed())?).ok()?;
    if u64::from(length) > file.file.length().ok()? {
        return None;
    }
    let bytes = file.read_record(FILE_HEADER, length).ok()?;
    Some(decode(&decode_record(&bytes, file.seed())?)?.attempt.age)
}
