//! Where each connection's deliveries are in a segment: in memory while the segment grows, in a file once it is sealed.
//!
//! The file (`ev-N.idx`) has the segment's nonce in its header, so that it never goes with another life of the segment.
//! It is written without a sync and never trusted further than its checksums: what does not validate is rebuilt by a scan
//! of the segment. Records, in this order:
//!
//! ```text
//! kind 48, names:    u32 connection id, u32 length, UTF-8, ...
//! kind 52, records:  of each event's record, u32 offset / 8, u32 size: one table for all connections
//! kind 53, slots:    u32 connection id, then which of these records are its slots (see `slots`); one for each connection
//! kind 51, keys:     the segment's idempotency keys (see `keys`), oldest first; any number of such records
//! kind 55, ages:     u64 the latest store time of an event
//! kind 56, delayed:  of each delivery that came with a delay, u32 connection id, u32 slot, u64 store time at which it is due;
//!                    only when there are any
//! kind 54, end:      u64 end of the segment's records, u64 events, u64 first and u64 last id's time (ms since 1970);
//!                    then u32 connection id, u32 slot, u8 cause of each delivery that was dead from the start
//! ```
//!
//! Kinds 49 and 50 stood in an older layout, with an entry per delivery; such an index does not validate.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::time::Duration;

use super::ConnectionId;
use super::disk::Disk;
use super::file::{ScanReport, StoreFile, index_name, new_header, scan};
use super::frames::Frames;
use super::key_log::{decode_keys, encode_keys};
use super::keys::KeyRecord;
use super::record::{
    EventHead, FILE_HEADER, FileKind, KIND_EVENT, KIND_FRAMED, KIND_NAME, RECORD_HEADER, Reader,
    RecordedRoute, Stamp, decode_event_head, decode_name, encode_record,
};
use crate::clock::Age;
use crate::event::Cause;
pub use sealed::IndexFile;
pub use slots::MAX_SLOTS;
use slots::{Piece, SealedSlots, Slots};

mod sealed;
mod slots;

const KIND_NAMES: u8 = 48;
const KIND_KEYS: u8 = 51;
const KIND_RECORDS: u8 = 52;
const KIND_SLOTS: u8 = 53;
const KIND_END: u8 = 54;
const KIND_AGES: u8 = 55;
const KIND_DELAYED: u8 = 56;
/// Bytes of an entry in the file.
const ENTRY: usize = 8;
/// Bytes that the index of a segment that grows takes in memory: a batch more than this, and the segment is sealed,
/// however full its file is.
pub const INDEX_BYTES: usize = 8 << 20;

/// Where one delivery's record is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Start of the record, in units of 8 bytes.
    pub offset: u32,
    /// Its bytes; 0 for a slot without a record.
    pub size: u32,
}

/// The index of one segment, whole in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentIndex {
    /// Names that stand in the segment.
    pub names: BTreeMap<ConnectionId, String>,
    /// Where each event's record is, in order.
    records: Vec<Entry>,
    /// Which of them are each connection's.
    slots: BTreeMap<ConnectionId, Slots>,
    /// Bytes that these take, without a fixed part for each connection.
    slot_bytes: usize,
    /// Deliveries that were dead from the start.
    pub born_dead: Vec<(ConnectionId, u32, Cause)>,
    /// Deliveries whose first attempt waits for a time, and that time.
    pub delayed: Vec<(ConnectionId, u32, Age)>,
    /// Idempotency keys of its events, oldest first.
    pub keys: VecDeque<KeyRecord>,
    /// Where the records end.
    pub end: u64,
    /// Events.
    pub events: u64,
    /// Times of the first and last id, in ms since 1970.
    pub times: Option<(u64, u64)>,
    /// The latest store time of an event.
    pub last_age: u64,
}

impl SegmentIndex {
    /// Notes an event of the segment, as a scan finds it.
    pub fn note_event(&mut self, offset: u64, size: usize, head: &EventHead) {
        self.note_record(Entry {
            offset: u32::try_from(offset / 8).unwrap_or(u32::MAX),
            size: u32::try_from(size).unwrap_or(u32::MAX),
        });
        for route in &head.routes {
            let mut slot = route.slot;
            if defect!(SlotsCounted) {
                slot = self.slots(route.connection);
            }
            self.note_slot(route.connection, slot);
            if let Some(cause) = route.dead {
                self.born_dead.push((route.connection, route.slot, cause));
            }
            self.note_delay(route, head.accepted_age);
        }
        self.note_times(head.id.unix_ms(), head.accepted_age);
    }

    /// Notes an event's record; its slots follow.
    pub fn note_record(&mut self, entry: Entry) {
        self.records.push(entry);
    }

    /// Notes that the last record is this slot of a connection.
    pub fn note_slot(&mut self, connection: ConnectionId, slot: u32) {
        let record = self.records.len().checked_sub(1).and_then(|last| u32::try_from(last).ok());
        let slots = self.slots.entry(connection).or_default();
        let before = slots.bytes();
        slots.push(Piece { slot, count: 1, record });
        self.slot_bytes += slots.bytes() - before;
    }

    /// Notes when a delivery with a delay is due.
    pub fn note_delay(&mut self, route: &RecordedRoute, accepted: Age) {
        if route.delay_ms > 0 {
            let due = accepted.after(Duration::from_millis(route.delay_ms));
            self.delayed.push((route.connection, route.slot, due));
        }
    }

    /// When a connection's deliveries with a delay are due, by slot.
    pub fn delayed_of(&self, connection: ConnectionId) -> BTreeMap<u32, Age> {
        let of_it = self.delayed.iter().filter(|(id, ..)| *id == connection);
        of_it.map(|(_, slot, due)| (*slot, *due)).collect()
    }

    /// Slots of a connection.
    pub fn slots(&self, connection: ConnectionId) -> u32 {
        self.slots.get(&connection).map_or(0, Slots::len)
    }

    /// The connections that have slots.
    pub fn connections(&self) -> impl Iterator<Item = ConnectionId> {
        self.slots.keys().copied()
    }

    /// All entries of a connection, by slot.
    pub fn all_entries(&self, connection: ConnectionId) -> impl Iterator<Item = Entry> {
        let pieces = self.slots.get(&connection).into_iter().flat_map(Slots::pieces);
        pieces.flat_map(|piece| self.entries_of(piece))
    }

    /// Entries of `count` slots from `first` on.
    pub fn entries(
        &self,
        connection: ConnectionId,
        first: u32,
        count: u32,
    ) -> impl Iterator<Item = Entry> {
        let slots = self.slots.get(&connection).into_iter();
        let pieces = slots.flat_map(move |slots| slots.window(first, count));
        pieces.flat_map(|piece| self.entries_of(piece))
    }

    fn entries_of(&self, piece: Piece) -> impl Iterator<Item = Entry> {
        (0..piece.count).map(move |nth| {
            let entry = piece.record.and_then(|record| self.records.get((record + nth) as usize));
            entry.copied().unwrap_or_default()
        })
    }

    /// Bytes that it takes in memory, without a fixed part for each connection and what its vectors keep free.
    pub fn bytes(&self) -> usize {
        self.records.len() * size_of::<Entry>()
            + self.slot_bytes
            + self.born_dead.len() * size_of::<(ConnectionId, u32, Cause)>()
            + self.delayed.len() * size_of::<(ConnectionId, u32, Age)>()
            + self.keys.len() * size_of::<KeyRecord>()
    }

    /// Notes when an event was accepted.
    pub fn note_times(&mut self, unix_ms: u64, age: Age) {
        self.events += 1;
        self.last_age = self.last_age.max(age.0);
        let (first, last) = self.times.unwrap_or((unix_ms, unix_ms));
        self.times = Some((first.min(unix_ms), last.max(unix_ms)));
    }

    /// Writes the index beside its segment. Returns the bytes written.
    ///
    /// # Errors
    /// As the disk says; the index is then rebuilt at the next start.
    pub fn write(&self, disk: &dyn Disk, segment: &StoreFile) -> io::Result<u64> {
        let name = index_name(segment.header.number);
        let temporary = format!("{name}.tmp");
        let _ = disk.remove(&temporary);
        let file = disk.create(&temporary)?;
        let bytes = self.encode(segment);
        let written = file.write_all_at(&bytes, 0).and_then(|()| disk.rename(&temporary, &name));
        if written.is_err() {
            let _ = disk.remove(&temporary);
        }
        written.map(|()| bytes.len() as u64)
    }

    fn encode(&self, segment: &StoreFile) -> Vec<u8> {
        let header = new_header(FileKind::Index, segment.header.number, segment.header.nonce, 0);
        let (seed, stamp) = (header.seed(), Stamp { durable_upto: 0, commit: 0 });
        let mut out = header.encode().to_vec();
        encode_record(&mut out, seed, KIND_NAMES, stamp, |out| {
            for (connection, name) in &self.names {
                out.extend_from_slice(&connection.0.to_le_bytes());
                out.extend_from_slice(&u32::try_from(name.len()).unwrap_or(0).to_le_bytes());
                out.extend_from_slice(name.as_bytes());
            }
        });
        encode_record(&mut out, seed, KIND_RECORDS, stamp, |out| {
            for entry in &self.records {
                out.extend_from_slice(&entry.offset.to_le_bytes());
                out.extend_from_slice(&entry.size.to_le_bytes());
            }
        });
        for (connection, slots) in &self.slots {
            encode_record(&mut out, seed, KIND_SLOTS, stamp, |out| {
                out.extend_from_slice(&connection.0.to_le_bytes());
                slots.encode(out);
            });
        }
        let (older, newer) = self.keys.as_slices();
        for keys in [older, newer] {
            encode_keys(&mut out, &header, stamp, KIND_KEYS, keys);
        }
        encode_record(&mut out, seed, KIND_AGES, stamp, |out| {
            out.extend_from_slice(&self.last_age.to_le_bytes());
        });
        if !self.delayed.is_empty() {
            encode_record(&mut out, seed, KIND_DELAYED, stamp, |out| {
                for (connection, slot, due) in &self.delayed {
                    out.extend_from_slice(&connection.0.to_le_bytes());
                    out.extend_from_slice(&slot.to_le_bytes());
                    out.extend_from_slice(&due.0.to_le_bytes());
                }
            });
        }
        encode_record(&mut out, seed, KIND_END, stamp, |out| {
            let (first, last) = self.times.unwrap_or((0, 0));
            for value in [self.end, self.events, first, last] {
                out.extend_from_slice(&value.to_le_bytes());
            }
            for (connection, slot, cause) in &self.born_dead {
                out.extend_from_slice(&connection.0.to_le_bytes());
                out.extend_from_slice(&slot.to_le_bytes());
                out.push(*cause as u8);
            }
        });
        out
    }

    /// Reads the index of a segment, and where things are in its file. `None`: there is none that validates.
    pub fn read(disk: &dyn Disk, segment: &StoreFile) -> Option<(IndexFile, SegmentIndex)> {
        let file =
            StoreFile::open(disk, &index_name(segment.header.number), FileKind::Index).ok()?;
        if file.header.nonce != segment.header.nonce {
            return None;
        }
        let mut index = SegmentIndex::default();
        let (mut records, mut slots) = (None, BTreeMap::new());
        let (mut valid, mut complete, mut aged) = (true, false, false);
        let report = scan(&file, |offset, record| {
            let body_at = offset + RECORD_HEADER as u64;
            match record.kind {
                KIND_NAMES => index.decode_names(record.body),
                KIND_AGES => {
                    if let Some(age) = Reader::new(record.body).u64() {
                        (index.last_age, aged) = (age, true);
                    }
                }
                KIND_RECORDS => {
                    index.records = decode_entries(record.body);
                    records = Some(body_at);
                }
                KIND_SLOTS => match index.decode_slots(record.body, body_at) {
                    Some((connection, sealed)) => drop(slots.insert(connection, sealed)),
                    None => valid = false,
                },
                KIND_KEYS => index.keys.extend(decode_keys(record.body)),
                KIND_DELAYED => index.decode_delayed(record.body),
                KIND_END => complete = index.decode_end(record.body).is_some(),
                _ => {}
            }
        })
        .ok()?;
        let whole = valid
            && complete
            && aged
            && report.gaps == 0
            && report.end == file.file.length().ok()?;
        (whole && report.end > FILE_HEADER)
            .then_some((IndexFile { file, records: records?, slots }, index))
    }

    /// The keys alone, of an index file that was opened before. `None`: it does not validate any more.
    pub fn read_keys(file: &StoreFile) -> Option<VecDeque<KeyRecord>> {
        let (mut keys, mut complete) = (VecDeque::new(), false);
        let report = scan(file, |_, record| match record.kind {
            KIND_KEYS => keys.extend(decode_keys(record.body)),
            KIND_END => complete = true,
            _ => {}
        });
        (complete && report.ok()?.gaps == 0).then_some(keys)
    }

    fn decode_names(&mut self, body: &[u8]) {
        let mut reader = Reader::new(body);
        while let (Some(connection), Some(length)) = (reader.u32(), reader.u32()) {
            let Some(Ok(name)) = reader.take(length as usize).map(std::str::from_utf8) else {
                return;
            };
            self.names.insert(ConnectionId(connection), name.to_owned());
        }
    }

    /// Reads a connection's slots, whose record's body stands in the file at `at`.
    fn decode_slots(&mut self, body: &[u8], at: u64) -> Option<(ConnectionId, SealedSlots)> {
        let connection = ConnectionId(super::record::u32_at(body, 0)?);
        let tokens = body.get(4..)?;
        let slots = Slots::decode(tokens, self.records.len())?;
        let sealed = SealedSlots::new(tokens, at + 4, &slots);
        self.slot_bytes += slots.bytes();
        self.slots.insert(connection, slots);
        Some((connection, sealed))
    }

    fn decode_delayed(&mut self, body: &[u8]) {
        let mut reader = Reader::new(body);
        while let (Some(connection), Some(slot), Some(due)) =
            (reader.u32(), reader.u32(), reader.u64())
        {
            self.delayed.push((ConnectionId(connection), slot, Age(due)));
        }
    }

    fn decode_end(&mut self, body: &[u8]) -> Option<()> {
        let mut reader = Reader::new(body);
        self.end = reader.u64()?;
        self.events = reader.u64()?;
        self.times = Some((reader.u64()?, reader.u64()?));
        while !reader.is_empty() {
            let (connection, slot) = (ConnectionId(reader.u32()?), reader.u32()?);
            self.born_dead.push((
                connection,
                slot,
                Cause::from_number(reader.u8()?).unwrap_or(Cause::Internal),
            ));
        }
        Some(())
    }

    /// Rebuilds the index from the segment's records. Also gives the damaged places.
    ///
    /// # Errors
    /// As the disk says.
    pub fn rebuild(segment: &StoreFile) -> io::Result<(SegmentIndex, ScanReport)> {
        let mut frames = Frames::default();
        let found = SegmentIndex::rebuild_without(segment, &mut frames, &BTreeSet::new())?;
        match frames.torn() {
            none if none.is_empty() || defect!(TornFrameKept) => Ok(found),
            // Rare: what a crash left of a batch. Its events are known by now, and are left out from the start.
            torn => SegmentIndex::rebuild_without(segment, &mut Frames::default(), &torn),
        }
    }

    /// Reads all records but the events at these offsets.
    fn rebuild_without(
        segment: &StoreFile,
        frames: &mut Frames,
        without: &BTreeSet<u64>,
    ) -> io::Result<(SegmentIndex, ScanReport)> {
        let mut index = SegmentIndex::default();
        let slots = slots_at_most(segment.file.length()?);
        let report = scan(segment, |offset, record| match record.kind {
            KIND_EVENT | KIND_FRAMED => {
                if let Some(mut head) = decode_event_head(record.kind, record.body)
                    && !without.contains(&offset)
                {
                    frames.note(offset, record.stamp, head.frame);
                    index.keys.extend(KeyRecord::of(&head, record.body));
                    head.routes.retain(|route| route.slot < slots);
                    index.note_event(offset, record.length, &head);
                }
            }
            KIND_NAME => {
                if let Some((connection, name)) = decode_name(record.body) {
                    index.names.insert(connection, name.to_owned());
                }
            }
            _ => {}
        })?;
        index.end = report.end;
        Ok((index, report))
    }
}

/// Slots that one connection can have in a segment of so many bytes: each has a record of at least 64 bytes. A slot beyond
/// cannot come from a record of this segment, and must not take memory.
pub fn slots_at_most(bytes: u64) -> u32 {
    u32::try_from(bytes / 64).unwrap_or(u32::MAX)
}

/// Slots that one connection can have by an index file of so many bytes: it has an entry for each record.
pub fn slots_of_index(bytes: u64) -> u32 {
    u32::try_from(bytes / 8).unwrap_or(u32::MAX)
}

/// Reads entries as they stand in the file.
fn decode_entries(bytes: &[u8]) -> Vec<Entry> {
    let mut reader = Reader::new(bytes);
    let mut entries = Vec::with_capacity(bytes.len() / ENTRY);
    while let (Some(offset), Some(size)) = (reader.u32(), reader.u32()) {
        entries.push(Entry { offset, size });
    }
    entries
}

#[cfg(test)]
mod tests;
