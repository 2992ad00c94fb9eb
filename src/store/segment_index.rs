//! Where each connection's deliveries are in a segment: in memory while the segment grows, in a file once it is sealed.
//!
//! The file (`ev-N.idx`) has the segment's nonce in its header, so that it never goes with another life of the segment.
//! It is written without a sync and never trusted further than its checksums: what does not validate is rebuilt by a scan
//! of the segment. Records, in this order:
//!
//! ```text
//! kind 48, names:   u32 connection id, u32 length, UTF-8, ...
//! kind 49, entries: u32 connection id, then per slot u32 offset / 8, u32 size; size 0 is a slot without a record
//! kind 51, keys:    the segment's idempotency keys (see `keys`), oldest first; any number of such records
//! kind 50, end:     u64 end of the segment's records, u64 events, u64 first and u64 last id's time (ms since 1970);
//!                   then u32 connection id, u32 slot, u8 cause of each delivery that was dead from the start
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::io;

use super::ConnectionId;
use super::disk::Disk;
use super::file::{StoreFile, index_name, new_header, scan};
use super::key_log::{decode_keys, encode_keys};
use super::keys::KeyRecord;
use super::record::{
    EventHead, FILE_HEADER, FileKind, KIND_EVENT, KIND_NAME, RECORD_HEADER, Reader, Stamp,
    decode_event_head, decode_name, encode_record,
};
use crate::event::Cause;

const KIND_NAMES: u8 = 48;
const KIND_ENTRIES: u8 = 49;
const KIND_END: u8 = 50;
const KIND_KEYS: u8 = 51;
/// Bytes of an entry in the file.
pub const ENTRY: u64 = 8;

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
    /// Entries by slot.
    pub entries: BTreeMap<ConnectionId, Vec<Entry>>,
    /// Deliveries that were dead from the start.
    pub born_dead: Vec<(ConnectionId, u32, Cause)>,
    /// Idempotency keys of its events, oldest first.
    pub keys: VecDeque<KeyRecord>,
    /// Where the records end.
    pub end: u64,
    /// Events.
    pub events: u64,
    /// Times of the first and last id, in ms since 1970.
    pub times: Option<(u64, u64)>,
    /// The latest store time of an event; only known after a scan.
    pub last_age: u64,
}

impl SegmentIndex {
    /// Notes a record of the segment.
    pub fn note_event(&mut self, offset: u64, size: usize, head: &EventHead) {
        let entry = Entry {
            offset: u32::try_from(offset / 8).unwrap_or(u32::MAX),
            size: u32::try_from(size).unwrap_or(u32::MAX),
        };
        for route in &head.routes {
            let mut slot = route.slot;
            if defect!(SlotsCounted) {
                let counted = self.entries.get(&route.connection).map_or(0, Vec::len);
                slot = u32::try_from(counted).unwrap_or(slot);
            }
            self.note_slot(route.connection, slot, entry);
            if let Some(cause) = route.dead {
                self.born_dead.push((route.connection, route.slot, cause));
            }
        }
        self.note_times(head.id.unix_ms());
        self.last_age = self.last_age.max(head.accepted_age.0);
    }

    /// Notes one delivery.
    pub fn note_slot(&mut self, connection: ConnectionId, slot: u32, entry: Entry) {
        let entries = self.entries.entry(connection).or_default();
        let at = slot as usize;
        if at >= entries.len() {
            entries.resize(at + 1, Entry::default());
        }
        if let Some(place) = entries.get_mut(at) {
            *place = entry;
        }
    }

    /// Notes an event's time.
    pub fn note_times(&mut self, unix_ms: u64) {
        self.events += 1;
        let (first, last) = self.times.unwrap_or((unix_ms, unix_ms));
        self.times = Some((first.min(unix_ms), last.max(unix_ms)));
    }

    /// Writes the index beside its segment.
    ///
    /// # Errors
    /// As the disk says; the index is then rebuilt at the next start.
    pub fn write(&self, disk: &dyn Disk, segment: &StoreFile) -> io::Result<()> {
        let name = index_name(segment.header.number);
        let temporary = format!("{name}.tmp");
        let _ = disk.remove(&temporary);
        let file = disk.create(&temporary)?;
        file.write_all_at(&self.encode(segment), 0)?;
        disk.rename(&temporary, &name)
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
        for (connection, entries) in &self.entries {
            encode_record(&mut out, seed, KIND_ENTRIES, stamp, |out| {
                out.extend_from_slice(&connection.0.to_le_bytes());
                for entry in entries {
                    out.extend_from_slice(&entry.offset.to_le_bytes());
                    out.extend_from_slice(&entry.size.to_le_bytes());
                }
            });
        }
        let (older, newer) = self.keys.as_slices();
        for keys in [older, newer] {
            encode_keys(&mut out, &header, stamp, KIND_KEYS, keys);
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

    /// Reads the index of a segment, with where each connection's entries start in the file.
    /// `None`: there is none that validates.
    pub fn read(
        disk: &dyn Disk,
        segment: &StoreFile,
    ) -> Option<(StoreFile, SegmentIndex, BTreeMap<ConnectionId, u64>)> {
        let file =
            StoreFile::open(disk, &index_name(segment.header.number), FileKind::Index).ok()?;
        if file.header.nonce != segment.header.nonce {
            return None;
        }
        let mut index = SegmentIndex::default();
        let mut starts = BTreeMap::new();
        let mut complete = false;
        let report = scan(&file, |offset, record| match record.kind {
            KIND_NAMES => index.decode_names(record.body),
            KIND_ENTRIES => {
                if let Some(connection) = index.decode_entries(record.body) {
                    starts.insert(connection, offset + RECORD_HEADER as u64 + 4);
                }
            }
            KIND_KEYS => index.keys.extend(decode_keys(record.body)),
            KIND_END => complete = index.decode_end(record.body).is_some(),
            _ => {}
        })
        .ok()?;
        let whole = complete && report.gaps == 0 && report.end == file.file.length().ok()?;
        (whole && report.end > FILE_HEADER).then_some((file, index, starts))
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

    fn decode_entries(&mut self, body: &[u8]) -> Option<ConnectionId> {
        let connection = ConnectionId(super::record::u32_at(body, 0)?);
        self.entries.insert(connection, decode_entries(body.get(4..)?));
        Some(connection)
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
    pub fn rebuild(segment: &StoreFile) -> io::Result<(SegmentIndex, Vec<(u64, u64)>)> {
        let mut index = SegmentIndex::default();
        let slots = slots_at_most(segment.file.length()?);
        let report = scan(segment, |offset, record| match record.kind {
            KIND_EVENT => {
                if let Some(mut head) = decode_event_head(record.body) {
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
        Ok((index, report.damaged))
    }
}

/// Slots that one connection can have in a segment of so many bytes: each has a record of at least 64 bytes. A slot beyond
/// cannot come from a record of this segment, and must not take memory.
pub fn slots_at_most(bytes: u64) -> u32 {
    u32::try_from(bytes / 64).unwrap_or(u32::MAX)
}

/// Reads entries as they stand in the file.
pub fn decode_entries(bytes: &[u8]) -> Vec<Entry> {
    let mut reader = Reader::new(bytes);
    let mut entries = Vec::with_capacity(bytes.len() / 8);
    while let (Some(offset), Some(size)) = (reader.u32(), reader.u32()) {
        entries.push(Entry { offset, size });
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::disk::OsDisk;
    use crate::store::file::segment_name;

    #[test]
    fn an_index_reads_back_and_any_damage_makes_it_void() {
        let directory = tempfile::tempdir().unwrap();
        let disk = OsDisk::open(directory.path()).unwrap();
        let file = disk.create(&segment_name(3)).unwrap();
        let segment = StoreFile::start(file, new_header(FileKind::Segment, 3, 77, 0)).unwrap();
        let mut index =
            SegmentIndex { end: 4096, events: 2, times: Some((5, 9)), ..SegmentIndex::default() };
        index.names.insert(ConnectionId(4), "crm".to_owned());
        index.note_slot(ConnectionId(4), 2, Entry { offset: 8, size: 64 });
        index.born_dead.push((ConnectionId(4), 1, Cause::QueueFull));
        let key = crate::store::keys::key_for_tests;
        index.keys = (0..3).map(|number| key(number, number)).collect();
        index.write(&disk, &segment).unwrap();
        let (file, back, starts) = SegmentIndex::read(&disk, &segment).unwrap();
        assert_eq!(back, index);
        assert_eq!(SegmentIndex::read_keys(&file), Some(index.keys.clone()));
        let mut entry = [0; 8];
        file.file.read_exact_at(&mut entry, starts[&ConnectionId(4)] + 2 * ENTRY).unwrap();
        assert_eq!(decode_entries(&entry), [Entry { offset: 8, size: 64 }]);

        let path = directory.path().join(index_name(3));
        let whole = std::fs::read(&path).unwrap();
        // Padding and the unused part of the header are not covered: flipping them changes nothing.
        let mut void = 0;
        for at in 0..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            match SegmentIndex::read(&disk, &segment) {
                None => void += 1,
                Some((_, read, _)) => assert_eq!(read, index, "byte {at}"),
            }
        }
        assert!(void > whole.len() / 2);
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(SegmentIndex::read(&disk, &segment).is_none(), "cut at {length}");
        }
    }
}
