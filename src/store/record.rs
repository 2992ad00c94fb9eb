//! The format of the store's files. This page is its specification; [`FORMAT_VERSION`] names it.
//!
//! All integers are little endian. A file is a **file header** and then **records**, each aligned to 8 bytes. Bytes after
//! the last record are zeros (preallocated) or records of the file's former life (recycled), which never validate,
//! because the checksum is seeded with the file's random nonce.
//!
//! ```text
//! file header, 64 bytes
//!    0  magic "posthast"
//!    8  u32 format version
//!   12  u32 kind of file: 1 segment, 2 state log, 3 snapshot, 4 index, 5 key log, 8 attempts
//!   16  u32 number (of the segment, log or snapshot)
//!   20  u32 zero
//!   24  u64 nonce
//!   32  u64 wall clock at creation, ms since 1970
//!   40  zeros
//!   60  u32 crc32c of bytes 0..60
//!
//! record, 24 bytes + body, padded with zeros to a multiple of 8
//!    0  u32 length of the body
//!    4  u32 crc32c, seeded with the nonce, of bytes 0..4 and 8..24 and the body
//!    8  u8  kind
//!    9  u8  version of the kind
//!   10  u16 marker: the low bits of the file's seed, so that a scan can skip fast, and so that nobody who posts a body full
//!       of record headers can make it slow: the nonce is not known outside of the file
//!   12  u32 durable_upto: all bytes of this file before 8 * this were synced when the record was written
//!   16  u64 commit number; never falls within a file
//! ```
//!
//! Kinds in a **segment**: `1` event, `3` event of a frame, `2` name (`u32 connection id`, name in UTF-8; stands before the first event of the
//! segment that uses the id).
//!
//! ```text
//! event
//!    0  16 bytes UUIDv7: its first 48 bits are the wall clock at acceptance
//!   16  u64 store time at acceptance, ms
//!   24  varint number of routes, then for each
//!         varint connection id
//!         varint slot: its place among that connection's deliveries in this segment, from 0
//!         u8     0 queued, 255 queued with a delay, else the number of the cause it is dead of from the start
//!         varint only after 255: the delay from acceptance, ms
//!    .. content to the end (see `event::Content`)
//! ```
//!
//! `3`, an event of a frame: as `1`, with this before the content: `u32` the frame's mark, a varint with the event's number in the
//! frame, from 0, and a varint with how many events the frame has. The events of a frame follow each other in one commit. Of a frame that is not whole, its
//! events count only if a later record says that they had been synced: else it is what a crash left of a write that nobody
//! was told about.
//!
//! Slots are written, not counted, so that a damaged record never shifts the ones after it.
//!
//! Kinds in a **state log**: `16` marks (see `marks`). Kinds in a **snapshot**: `16`, `32`..`34` (see `log`). Kinds
//! in an **index**: `48`.., rebuilt from the segment whenever it does not validate (see `segment_index`). Kinds in a **key
//! log**: `64` keys (see `key_log`). Kinds in a **run**: `80`, `81` (see `shelf`). Kinds in a file of **attempts**: `96` attempt (see `history`).

use bytes::Bytes;
use uuid::Uuid;

pub use header::{FileHeader, FileKind, HeaderError};

use super::ConnectionId;
use crate::clock::Age;
use crate::event::{Cause, Content, Event, EventId};

mod header;

/// The version of this page. A store with another one is refused (exit 78), never guessed at.
pub const FORMAT_VERSION: u32 = 3;
/// Bytes of a file header.
pub const FILE_HEADER: u64 = 64;
/// Bytes of a record's header.
pub const RECORD_HEADER: usize = 24;
/// The largest body of a record: the largest segment, 1 GiB.
pub const MAX_BODY: u32 = 1 << 30;

/// The start value of a file's checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(u32);

impl Seed {
    fn marker(self) -> [u8; 2] {
        let [low, high, ..] = self.0.to_le_bytes();
        [low, high]
    }
}

/// The part of a record's header that the writer chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Bytes of the file known to be synced; a multiple of 8.
    pub durable_upto: u64,
    /// Number of the commit that writes the record.
    pub commit: u64,
}

/// Appends one record to `out`; `body` writes the body. Returns the record's padded length.
pub fn encode_record(
    out: &mut Vec<u8>,
    seed: Seed,
    kind: u8,
    stamp: Stamp,
    body: impl FnOnce(&mut Vec<u8>),
) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; RECORD_HEADER]);
    body(out);
    let length = out.len() - start - RECORD_HEADER;
    debug_assert!(length <= MAX_BODY as usize, "a record fits its length field");
    let mut head = [0; RECORD_HEADER];
    put(&mut head, 0, &u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    put(&mut head, 8, &[kind, 0]);
    put(&mut head, 10, &seed.marker());
    put(&mut head, 12, &u32::try_from(stamp.durable_upto / 8).unwrap_or(0).to_le_bytes());
    put(&mut head, 16, &stamp.commit.to_le_bytes());
    let crc = checksum(seed, &head, out.get(start + RECORD_HEADER..).unwrap_or_default());
    put(&mut head, 4, &crc.to_le_bytes());
    put(out.get_mut(start..).unwrap_or_default(), 0, &head);
    out.resize(start + padded(RECORD_HEADER + length), 0);
    out.len() - start
}

/// A record that validated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What it is.
    pub kind: u8,
    /// What the writer knew.
    pub stamp: Stamp,
    /// Its body.
    pub body: &'a [u8],
    /// Bytes that it takes in the file, padding included.
    pub length: usize,
}

/// Reads the record at the start of `bytes`. `None`: there is no valid record there.
pub fn decode_record(bytes: &[u8], seed: Seed) -> Option<Record<'_>> {
    let head: &[u8; RECORD_HEADER] = bytes.first_chunk()?;
    let length = u32_at(head, 0)?;
    if head.get(10..12)? != seed.marker() || length > MAX_BODY {
        return None;
    }
    let body = bytes.get(RECORD_HEADER..RECORD_HEADER + length as usize)?;
    if u32_at(head, 4)? != checksum(seed, head, body) {
        return None;
    }
    let stamp = Stamp { durable_upto: u64::from(u32_at(head, 12)?) * 8, commit: u64_at(head, 16)? };
    // Version 0 is the only one of each kind; a later one is another kind to this code, and skipped.
    let kind = if *head.get(9)? == 0 { *head.get(8)? } else { 0 };
    Some(Record { kind, stamp, body, length: padded(RECORD_HEADER + length as usize) })
}

/// Bytes a record with this header would take, if the header looks like one. For reads that do not know the length.
pub fn peek_length(head: &[u8], seed: Seed) -> Option<usize> {
    let length = u32_at(head, 0)?;
    (head.get(10..12)? == seed.marker() && length <= MAX_BODY)
        .then(|| padded(RECORD_HEADER + length as usize))
}

/// Makes marker and checksum of the record in `bytes` right, whatever its header and body say. `bytes` is header and body.
#[cfg(any(test, fuzzing))]
pub(super) fn reseal(bytes: &mut [u8], seed: Seed) {
    let Some((head, body)) = bytes.split_first_chunk_mut::<RECORD_HEADER>() else {
        return;
    };
    put(head, 0, &u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    put(head, 10, &seed.marker());
    let crc = checksum(seed, head, body);
    put(head, 4, &crc.to_le_bytes());
}

fn checksum(seed: Seed, head: &[u8; RECORD_HEADER], body: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(seed.0, head.get(..4).unwrap_or_default());
    let crc = crc32c::crc32c_append(crc, head.get(8..).unwrap_or_default());
    let body = if defect!(BodyNotChecked) { &[] } else { body };
    crc32c::crc32c_append(crc, body)
}

/// Rounds up to the alignment of records.
pub fn padded(length: usize) -> usize {
    length.next_multiple_of(8)
}

/// Kind of an event's record.
pub const KIND_EVENT: u8 = 1;
/// Kind of the record of an event that belongs to a frame with others.
pub const KIND_FRAMED: u8 = 3;
/// Kind of a name's record.
pub const KIND_NAME: u8 = 2;

/// One delivery as an event's record lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordedRoute {
    /// Where to.
    pub connection: ConnectionId,
    /// Its place among the connection's deliveries in the segment.
    pub slot: u32,
    /// Dead from the start, of this.
    pub dead: Option<Cause>,
    /// Milliseconds from acceptance to its first attempt; 0 is no delay. Not kept of what is dead.
    pub delay_ms: u64,
}

/// The byte of a route that is queued with a delay.
const DELAYED: u8 = 255;

/// Appends an event's body. The record's kind is that of `frame`.
pub fn encode_event(
    out: &mut Vec<u8>,
    event: &Event,
    frame: Frame,
    routes: impl ExactSizeIterator<Item = RecordedRoute>,
) {
    out.extend_from_slice(event.id.0.as_bytes());
    out.extend_from_slice(&event.accepted_age.0.to_le_bytes());
    put_varint(out, routes.len() as u64);
    for route in routes {
        put_varint(out, u64::from(route.connection.0));
        put_varint(out, u64::from(route.slot));
        match route.dead {
            None if route.delay_ms > 0 => {
                out.push(DELAYED);
                put_varint(out, route.delay_ms);
            }
            dead => out.push(dead.map_or(0, |cause| cause as u8)),
        }
    }
    if frame.count > 1 {
        out.extend_from_slice(&frame.mark.to_le_bytes());
        put_varint(out, u64::from(frame.number));
        put_varint(out, u64::from(frame.count));
    }
    out.extend_from_slice(event.content.as_bytes());
}

/// Which event of its frame an event is. Events of one frame were accepted together: all of them count, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The same for all events of the frame, and another for the next frame.
    pub mark: u32,
    /// From 0.
    pub number: u32,
    /// Events in the frame.
    pub count: u32,
}

impl Frame {
    /// That of an event that was accepted alone.
    pub const ALONE: Frame = Frame { mark: 0, number: 0, count: 1 };

    /// The kind of an event's record.
    pub fn kind(self) -> u8 {
        if self.count > 1 { KIND_FRAMED } else { KIND_EVENT }
    }
}

/// An event's body up to its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventHead {
    /// Its id.
    pub id: EventId,
    /// Store time at acceptance.
    pub accepted_age: Age,
    /// Its deliveries.
    pub routes: Vec<RecordedRoute>,
    /// Which event of its frame it is.
    pub frame: Frame,
    /// Where the content starts in the body.
    pub content_at: usize,
}

/// Reads an event's body up to its content. `kind` is its record's; `None` also where that is no event's.
pub fn decode_event_head(kind: u8, body: &[u8]) -> Option<EventHead> {
    if kind != KIND_EVENT && kind != KIND_FRAMED {
        return None;
    }
    let id = EventId(Uuid::from_slice(body.get(..16)?).ok()?);
    let accepted_age = Age(u64_at(body, 16)?);
    let mut reader = Reader { bytes: body, at: 24 };
    let count = reader.varint()?;
    let mut routes = Vec::with_capacity(usize::try_from(count).ok()?.min(body.len() / 3));
    for _ in 0..count {
        let connection = ConnectionId(u32::try_from(reader.varint()?).ok()?);
        let slot = u32::try_from(reader.varint()?).ok()?;
        let (dead, delay_ms) = match reader.u8()? {
            0 => (None, 0),
            DELAYED => (None, reader.varint()?),
            number => (Some(Cause::from_number(number).unwrap_or(Cause::Internal)), 0),
        };
        routes.push(RecordedRoute { connection, slot, dead, delay_ms });
    }
    let frame = match kind {
        KIND_FRAMED => {
            Frame { mark: reader.u32()?, number: reader.varint32()?, count: reader.varint32()? }
        }
        _ => Frame::ALONE,
    };
    Some(EventHead { id, accepted_age, routes, frame, content_at: reader.at })
}

/// Reads a whole event from the bytes of its record. The content shares `record`'s memory.
pub fn decode_event(record: Bytes, seed: Seed) -> Option<(Event, Vec<RecordedRoute>)> {
    let valid = decode_record(&record, seed)?;
    let head = decode_event_head(valid.kind, valid.body)?;
    let end = RECORD_HEADER + valid.body.len();
    let content = Content::decode(record.slice(RECORD_HEADER + head.content_at..end)).ok()?;
    let event = Event {
        id: head.id,
        accepted_ms: head.id.unix_ms(),
        accepted_age: head.accepted_age,
        content,
    };
    Some((event, head.routes))
}

/// Appends a name's body.
pub fn encode_name(out: &mut Vec<u8>, connection: ConnectionId, name: &str) {
    out.extend_from_slice(&connection.0.to_le_bytes());
    out.extend_from_slice(name.as_bytes());
}

/// Reads a name's body.
pub fn decode_name(body: &[u8]) -> Option<(ConnectionId, &str)> {
    Some((ConnectionId(u32_at(body, 0)?), std::str::from_utf8(body.get(4..)?).ok()?))
}

/// Appends an unsigned integer in 7-bit groups, low ones first (LEB128).
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// Reads integers one after the other; every read says whether there was one.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    /// What is read.
    pub bytes: &'a [u8],
    /// How far it was read.
    pub at: usize,
}

impl<'a> Reader<'a> {
    /// From the start.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0 }
    }

    /// Whether all was read.
    pub fn is_empty(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// One byte.
    pub fn u8(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        let value = u32_at(self.bytes, self.at)?;
        self.at += 4;
        Some(value)
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Option<u64> {
        let value = u64_at(self.bytes, self.at)?;
        self.at += 8;
        Some(value)
    }

    /// A LEB128 integer of at most 64 bits.
    pub fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// A LEB128 integer of at most 32 bits.
    pub fn varint32(&mut self) -> Option<u32> {
        u32::try_from(self.varint()?).ok()
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        self.at = self.bytes.len();
        rest
    }

    /// `length` bytes.
    pub fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let bytes = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(bytes)
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

/// The little-endian integer at `at`, if the bytes reach that far.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The little-endian integer at `at`, if the bytes reach that far.
pub fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests;
