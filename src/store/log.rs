//! The state log: marks are gathered, written, and synced; now and then a snapshot makes an end of old logs.
//!
//! Files are numbered. Snapshot `n` holds the state as it was when log `n` was begun, so the newest snapshot that
//! validates and the logs from its number on are the whole state. Each start writes a snapshot and begins a log: a log is
//! only ever appended to by the process that began it.
//!
//! After a failed write or sync nothing is known about the log's unsynced part, and it is not synced again: a new log is
//! begun and a snapshot taken, from memory, which has all of it.
//!
//! A snapshot is a file of these records:
//!
//! ```text
//! kind 16, marks:  names, sealed segments, scheduled deliveries, dead letters (see `marks`)
//! kind 32, left:   u32 segment, u32 connection, u32 slots, u32 zero, then u64 words: which slots no longer wait for a
//!                  first attempt
//! kind 33, end:    u64 number of records before it
//! ```

use std::io;

use super::disk::Disk;
use super::file::{Appender, StoreFile, log_name, new_header, snapshot_name};
use super::marks::{KIND_MARKS, Mark, Place, TimeStamp, encode_mark, encode_stamp};
use super::record::{FILE_HEADER, FileKind, Seed, Stamp, encode_record};
use super::schedule::Scheduled;
use super::state::{Entries, State};

/// Kind of a record that says which slots have left.
pub const KIND_LEFT: u8 = 32;
/// Kind of the last record of a snapshot.
pub const KIND_END: u8 = 33;

/// Marks in one record of a snapshot, at the most: keeps the records small.
const MARKS_BYTES: usize = 1 << 20;

/// The log that is written to.
#[derive(Debug)]
pub struct StateLog {
    appender: Appender,
    commit: u64,
    /// Bytes that may be written before a snapshot is due.
    capacity: u64,
    pending: Vec<u8>,
    /// Marks were written since the last sync.
    unsynced: bool,
    broken: bool,
}

impl StateLog {
    /// Begins log `number`, with space for `capacity` bytes reserved.
    ///
    /// # Errors
    /// As the disk says.
    pub fn begin(
        disk: &dyn Disk,
        number: u32,
        nonce: u64,
        wall_ms: u64,
        capacity: u64,
    ) -> io::Result<StateLog> {
        let name = log_name(number);
        // Left by a stop between this and the next step; no snapshot or mark refers to it yet.
        let _ = disk.remove(&name);
        let file = disk.create(&name)?;
        let header = new_header(FileKind::StateLog, number, nonce, wall_ms);
        let started = file.allocate(capacity).and_then(|()| StoreFile::start(file, header));
        let started = started.and_then(|file| disk.sync_dir().map(|()| file));
        // Else each try would leave a file of this size, and the next start would set it aside as damaged, for ever.
        let file = started.inspect_err(|_| drop(disk.remove(&name)))?;
        let appender = Appender { file, end: FILE_HEADER };
        Ok(StateLog {
            appender,
            commit: 0,
            capacity,
            pending: Vec::new(),
            unsynced: false,
            broken: false,
        })
    }

    /// Notes a mark; [`StateLog::write`] writes it. A broken log forgets it: the snapshot before the next log has it.
    pub fn note(&mut self, mark: &Mark) {
        if !self.broken {
            encode_mark(&mut self.pending, mark);
        }
    }

    /// Writes no further marks: a successor is about to take its place.
    pub fn give_up(&mut self) {
        self.broken = true;
        self.pending.clear();
    }

    /// Whether marks wait to be written.
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether marks were written and not synced.
    pub fn has_unsynced(&self) -> bool {
        self.unsynced
    }

    /// Whether a new log and a snapshot are needed: this one is full, or a write or sync failed.
    pub fn needs_successor(&self) -> bool {
        self.broken
            || self.appender.end + self.pending.len() as u64 + (self.capacity / 8) > self.capacity
    }

    /// Writes the pending marks. Returns the bytes written.
    ///
    /// # Errors
    /// As the disk says; the log is then broken, and the marks are only in memory until a snapshot.
    pub fn write(&mut self, stamp: TimeStamp) -> io::Result<u64> {
        if self.pending.is_empty() || self.broken {
            return Ok(0);
        }
        let mut record = Vec::with_capacity(self.pending.len() + 64);
        self.commit += 1;
        let head = Stamp { durable_upto: 0, commit: self.commit };
        encode_record(&mut record, self.appender.file.seed(), KIND_MARKS, head, |out| {
            encode_stamp(out, stamp);
            out.extend_from_slice(&self.pending);
        });
        self.pending.clear();
        self.unsynced = true;
        let written = self.appender.append(&record);
        self.broken |= written.is_err() && !defect!(BrokenLogKept);
        written.map(|()| record.len() as u64)
    }

    /// Writes the pending marks and waits until all are on the disk. Returns the bytes written.
    ///
    /// # Errors
    /// As the disk says; the log is then broken.
    pub fn sync(&mut self, stamp: TimeStamp) -> io::Result<u64> {
        if self.broken {
            return Err(io::Error::other("an earlier write to the state log failed"));
        }
        let written = self.write(stamp)?;
        if self.unsynced {
            let synced = self.appender.file.file.sync_data();
            self.broken |= synced.is_err();
            synced?;
            self.unsynced = false;
        }
        Ok(written)
    }
}

/// Writes a snapshot of `state` with this number, durable when it returns. Returns the bytes written.
///
/// # Errors
/// As the disk says; the older snapshot and logs are then still what counts.
pub fn write_snapshot(
    disk: &dyn Disk,
    state: &State,
    number: u32,
    nonce: u64,
    stamp: TimeStamp,
) -> io::Result<u64> {
    let temporary = format!("{}.tmp", snapshot_name(number));
    let _ = disk.remove(&temporary);
    let file = disk.create(&temporary)?;
    let file =
        StoreFile::start(file, new_header(FileKind::Snapshot, number, nonce, stamp.wall_ms))?;
    let mut out =
        Out { appender: Appender { file, end: FILE_HEADER }, records: 0, marks: Vec::new(), stamp };
    out.all(state)?;
    let Out { appender, .. } = out;
    if !defect!(SnapshotNotSynced) {
        appender.file.file.sync_data()?;
    }
    disk.rename(&temporary, &snapshot_name(number))?;
    disk.sync_dir()?;
    Ok(appender.end)
}

/// Writes a snapshot piece by piece, so that it takes no more memory than a piece.
struct Out {
    appender: Appender,
    records: u64,
    marks: Vec<u8>,
    stamp: TimeStamp,
}

impl Out {
    fn all(&mut self, state: &State) -> io::Result<()> {
        for (name, id) in &state.names {
            self.mark(&Mark::Name(*id, name.clone()))?;
        }
        for (number, segment) in &state.segments {
            if let Entries::File(..) = segment.entries {
                self.mark(&Mark::Sealed { segment: *number, end: segment.end })?;
            }
            for (connection, part) in &segment.parts {
                self.record(KIND_LEFT, |out| {
                    out.extend_from_slice(&number.to_le_bytes());
                    out.extend_from_slice(&connection.0.to_le_bytes());
                    out.extend_from_slice(&part.slots.to_le_bytes());
                    out.extend_from_slice(&[0; 4]);
                    for word in part.left.words() {
                        out.extend_from_slice(&word.to_le_bytes());
                    }
                })?;
            }
        }
        for scheduled in state.schedule.iter() {
            self.mark(&Mark::Scheduled(*scheduled))?;
        }
        for stream in &state.streams {
            let cancelled =
                |scheduled: &&Scheduled| stream.cancelled.contains(&Place::from(scheduled.id));
            let waiting = stream
                .due
                .iter()
                .chain(&stream.replays)
                .chain(stream.handed.values().filter(|_| !defect!(HandedOutIsDone)));
            for scheduled in waiting.filter(|scheduled| !cancelled(scheduled)) {
                self.mark(&Mark::Scheduled(*scheduled))?;
            }
            for dead in stream.dead.values() {
                self.mark(&Mark::Dead(*dead))?;
            }
        }
        self.end_marks()?;
        let records = self.records;
        self.record(KIND_END, |out| out.extend_from_slice(&records.to_le_bytes()))
    }

    fn mark(&mut self, mark: &Mark) -> io::Result<()> {
        encode_mark(&mut self.marks, mark);
        if self.marks.len() >= MARKS_BYTES { self.end_marks() } else { Ok(()) }
    }

    /// Writes the marks gathered; the first record of marks is there even when empty, for its time stamp.
    fn end_marks(&mut self) -> io::Result<()> {
        let marks = std::mem::take(&mut self.marks);
        let stamp = self.stamp;
        self.record(KIND_MARKS, |out| {
            encode_stamp(out, stamp);
            out.extend_from_slice(&marks);
        })
    }

    fn record(&mut self, kind: u8, body: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let seed: Seed = self.appender.file.seed();
        let mut bytes = Vec::new();
        encode_record(&mut bytes, seed, kind, Stamp { durable_upto: 0, commit: 0 }, body);
        self.records += 1;
        self.appender.append(&bytes)
    }
}
