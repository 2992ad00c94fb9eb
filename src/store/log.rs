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
//! kind 16, marks:  names, suspensions, sealed segments, scheduled deliveries, dead letters (see `marks`)
//! kind 32, over:   u32 segment, u32 connection, u32 slots, u32 zero, then u64 words: which slots are over
//! kind 34, run:    how much of a run of scheduled deliveries or dead letters counts (see `shelf`)
//! kind 33, end:    u64 number of records before it
//! ```

use std::io;

use super::disk::Disk;
use super::feed::Lane;
use super::file::{Appender, StoreFile, log_name, new_header, snapshot_name};
use super::marks::{
    KIND_MARKS, Mark, Place, TimeStamp, encode_delivered, encode_mark, encode_stamp,
};
use super::record::{FILE_HEADER, FileKind, Seed, Stamp, encode_record};
use super::schedule::Scheduled;
use super::state::{Entries, State};

/// Kind of a record that says which slots are over.
pub const KIND_OVER: u8 = 32;
/// Kind of the last record of a snapshot.
pub const KIND_END: u8 = 33;
/// Kind of a record that speaks of a run.
pub const KIND_RUN: u8 = 34;

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
    /// Places whose delivered mark is pending.
    delivered: Vec<Place>,
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
            delivered: Vec::new(),
            unsynced: false,
            broken: false,
        })
    }

    /// Notes a mark; [`StateLog::write`] writes it. A broken log forgets it: the snapshot before the next log has it.
    pub fn note(&mut self, mark: &Mark) {
        if !self.broken {
            if matches!(mark, Mark::Scheduled(Scheduled { lane: Lane::Replay, .. })) {
                // What is over can be replayed: then its delivered mark is not the last of its place.
                encode_delivered(&mut self.pending, &mut self.delivered);
            }
            encode_mark(&mut self.pending, mark);
        }
    }

    /// Notes that a delivery has reached its target; [`StateLog::write`] writes it.
    ///
    /// These marks are gathered and written in an order of their own, after all others that wait. That is right because
    /// it is the last mark of its place: only what is not over can be scheduled, dead or moved, and a discard before or
    /// after it leaves it over. So all other marks of the place were noted before, and are written before.
    pub fn note_delivered(&mut self, place: Place) {
        if !self.broken {
            self.delivered.push(place);
        }
    }

    /// Writes no further marks: a successor is about to take its place.
    pub fn give_up(&mut self) {
        self.broken = true;
        self.pending.clear();
        self.delivered.clear();
    }

    /// Whether marks wait to be written.
    pub fn has_pending(&self) -> bool {
        !(self.pending.is_empty() && self.delivered.is_empty())
    }

    /// Whether there are marks that a power cut would lose: written and not synced, or, when the log is broken, in memory
    /// alone.
    pub fn has_unsynced(&self) -> bool {
        self.unsynced || self.broken
    }

    /// Whether a new log and a snapshot are needed: this one is full, or a write or sync failed.
    pub fn needs_successor(&self) -> bool {
        // A place takes less in the log than here, hardly ever more than a few bytes.
        let pending = self.pending.len() + size_of_val(self.delivered.as_slice());
        self.broken || self.appender.end + pending as u64 + (self.capacity / 8) > self.capacity
    }

    /// Writes the pending marks. Returns the bytes written.
    ///
    /// # Errors
    /// As the disk says; the log is then broken, and the marks are only in memory until a snapshot.
    pub fn write(&mut self, stamp: TimeStamp) -> io::Result<u64> {
        if !self.has_pending() || self.broken {
            return Ok(0);
        }
        let mut record = Vec::with_capacity(self.pending.len() + 64);
        self.commit += 1;
        let head = Stamp { durable_upto: 0, commit: self.commit };
        encode_record(&mut record, self.appender.file.seed(), KIND_MARKS, head, |out| {
            encode_stamp(out, stamp);
            out.extend_from_slice(&self.pending);
            encode_delivered(out, &mut self.delivered);
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
    let written = write_snapshot_as(disk, &temporary, state, number, nonce, stamp);
    let placed = written.and_then(|bytes| {
        disk.rename(&temporary, &snapshot_name(number))?;
        disk.sync_dir()?;
        Ok(bytes)
    });
    if placed.is_err() {
        // The next try has another number: what this one wrote would stay until the next start.
        let _ = disk.remove(&temporary);
    }
    placed
}

fn write_snapshot_as(
    disk: &dyn Disk,
    name: &str,
    state: &State,
    number: u32,
    nonce: u64,
    stamp: TimeStamp,
) -> io::Result<u64> {
    let _ = disk.remove(name);
    let file = disk.create(name)?;
    let file =
        StoreFile::start(file, new_header(FileKind::Snapshot, number, nonce, stamp.wall_ms))?;
    let mut out =
        Out { appender: Appender { file, end: FILE_HEADER }, records: 0, marks: Vec::new(), stamp };
    out.all(state)?;
    let Out { appender, .. } = out;
    if !defect!(SnapshotNotSynced) {
        appender.file.file.sync_data()?;
    }
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
                self.record(KIND_OVER, |out| {
                    out.extend_from_slice(&number.to_le_bytes());
                    out.extend_from_slice(&connection.0.to_le_bytes());
                    out.extend_from_slice(&part.slots.to_le_bytes());
                    out.extend_from_slice(&[0; 4]);
                    let over = if defect!(HandedOutIsDone) { &part.left } else { &part.over };
                    for word in over.words() {
                        out.extend_from_slice(&word.to_le_bytes());
                    }
                })?;
            }
        }
        for scheduled in state.schedule.in_memory() {
            self.mark(&Mark::Scheduled(*scheduled))?;
        }
        for dead in state.dead.in_memory() {
            self.mark(&Mark::Dead(*dead))?;
        }
        for stream in &state.streams {
            if stream.suspension.is_some() {
                self.mark(&Mark::Suspended(stream.id, stream.suspension))?;
            }
            let cancelled =
                |scheduled: &&Scheduled| stream.cancelled.contains(&Place::from(scheduled.id));
            let handed = stream.handed.values().filter(|_| !defect!(HandedOutIsDone));
            for scheduled in handed.filter(|scheduled| !cancelled(scheduled)) {
                self.mark(&Mark::Scheduled(*scheduled))?;
            }
        }
        for run in state.schedule.run_states().chain(state.dead.run_states()) {
            self.record(KIND_RUN, |out| run.encode(out))?;
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
