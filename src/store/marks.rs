//! Marks: what has become of deliveries, as the state log keeps it.
//!
//! A mark is the whole state of one delivery, not a step, so that the last mark of a delivery is all that counts and a
//! log can be read again from any earlier point.
//!
//! A record of kind [`KIND_MARKS`] is a time stamp and then marks to its end:
//!
//! ```text
//! u64 store time, ms      u64 boot clock, ms      u64 wall clock, ms      u64 boot id (hash)
//! then for each mark: u8 tag, and varints (an age is one)
//!   3 scheduled   place, offset, size, due age, attempts, due age - first attempt's age, u8 lane (0 first attempt, 1 retry, 2 replay)
//!   4 dead        place, offset, size, u8 cause, status, attempts, wall clock and age of death
//!   5 name        connection, length, UTF-8
//!   6 sealed      segment, end of its records in bytes
//!   7 discarded   place: all of this connection's deliveries before it that were not over
//!   8 moved       old place, new place, its offset, size: it is over there and waits here
//!   9 delivered   place of the first, how many from there on, then by turns how many are left out and how many follow; to 0
//!                 left out
//!   10 suspended  connection, u8 kind (0 not any more), and then, if it is: wall clock, hash of the settings
//!   11 renamed    connection, length, UTF-8: its name from here on; who had that name before has none
//! ```
//!
//! A place is segment, connection, slot. A segment's number is its distance from the first hot one, doubled, or of a cold
//! one the number itself, doubled and one more: so that all of them are small.

use super::dead_letter::DeadLetter;
use super::feed::Lane;
use super::record::{Reader, put_varint};
use super::schedule::Scheduled;
use super::segment_index::MAX_SLOTS;
use super::suspension::{self, Suspension};
use super::{ConnectionId, DeliveryId, FIRST_HOT};
use crate::clock::Age;
use crate::event::Cause;

/// Kind of a record of marks.
pub const KIND_MARKS: u8 = 16;

/// What time it was when marks were written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeStamp {
    /// Store time.
    pub age: Age,
    /// Boot clock, in milliseconds.
    pub boot_ms: u64,
    /// Wall clock, in milliseconds.
    pub wall_ms: u64,
    /// Which boot it was.
    pub boot_id: u64,
}

/// A delivery's name inside a mark: no offset, because the slot is enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The segment.
    pub segment: u32,
    /// The connection.
    pub connection: ConnectionId,
    /// The slot.
    pub slot: u32,
}

impl From<DeliveryId> for Place {
    fn from(id: DeliveryId) -> Place {
        Place { segment: id.segment, connection: id.connection, slot: id.slot }
    }
}

/// Deliveries of one connection in one segment, slot after slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first.
    pub first: Place,
    /// How many; their slots are below [`MAX_SLOTS`].
    pub count: u32,
}

impl Run {
    /// Each of them.
    pub fn places(self) -> impl Iterator<Item = Place> {
        (0..self.count).map(move |nth| Place { slot: self.first.slot + nth, ..self.first })
    }
}

/// One mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Acknowledged by their target.
    Delivered(Run),
    /// Waits for a time.
    Scheduled(Scheduled),
    /// Over without success.
    Dead(DeadLetter),
    /// A connection's number.
    Name(ConnectionId, String),
    /// A connection goes on under another name. Who had that name has none any more.
    Renamed(ConnectionId, String),
    /// A segment is complete.
    Sealed {
        /// Which one.
        segment: u32,
        /// Where its records end.
        end: u64,
    },
    /// The daemon holds a connection, or does not any more.
    Suspended(ConnectionId, Option<Suspension>),
    /// All deliveries of a connection before a place are cancelled.
    Discarded(Place),
    /// A delivery's record is in a cold segment now. It waits there, unless a mark that follows says more.
    Moved {
        /// Where it was.
        from: Place,
        /// Where it is.
        to: DeliveryId,
    },
}

/// Appends one mark.
pub fn encode_mark(out: &mut Vec<u8>, mark: &Mark) {
    match mark {
        Mark::Delivered(run) => encode_delivered(out, &mut run.places().collect()),
        Mark::Scheduled(scheduled) => {
            out.push(3);
            put_delivery(out, scheduled.id, scheduled.size);
            put_varint(out, scheduled.due.0);
            put_varint(out, u64::from(scheduled.attempts));
            put_varint(out, scheduled.due.0.wrapping_sub(scheduled.first_attempt.0));
            out.push(scheduled.lane as u8);
        }
        Mark::Dead(dead) => {
            out.push(4);
            put_delivery(out, dead.id, dead.size);
            out.push(dead.cause as u8);
            put_varint(out, u64::from(dead.status));
            put_varint(out, u64::from(dead.attempts));
            put_varint(out, dead.died_ms);
            put_varint(out, dead.died.0);
        }
        Mark::Name(connection, name) => {
            out.push(5);
            put_name(out, *connection, name);
        }
        Mark::Renamed(connection, name) => {
            out.push(11);
            put_name(out, *connection, name);
        }
        Mark::Sealed { segment, end } => {
            out.push(6);
            put_segment(out, *segment);
            put_varint(out, *end);
        }
        Mark::Discarded(place) => {
            out.push(7);
            put_place(out, *place);
        }
        Mark::Moved { from, to } => {
            out.push(8);
            put_place(out, *from);
            put_delivery(out, *to, 0);
        }
        Mark::Suspended(connection, suspended) => {
            out.push(10);
            suspension::encode(out, *connection, *suspended);
        }
    }
}

/// Appends marks that say of these places that they were delivered, in an order of its own, and empties the list.
pub fn encode_delivered(out: &mut Vec<u8>, places: &mut Vec<Place>) {
    places.sort_unstable();
    places.dedup();
    let of_one = |a: &Place, b: &Place| (a.segment, a.connection) == (b.segment, b.connection);
    for places in places.chunk_by(of_one) {
        let runs = places.chunk_by(|a, b| a.slot + 1 == b.slot);
        let mut end = 0;
        for (nth, run) in runs.enumerate() {
            let Some(first) = run.first() else { continue };
            if nth == 0 {
                out.push(9);
                put_place(out, *first);
            } else {
                put_varint(out, u64::from(first.slot - end));
            }
            put_varint(out, run.len() as u64);
            end = first.slot + u32::try_from(run.len()).unwrap_or(u32::MAX);
        }
        out.push(0);
    }
    places.clear();
}

/// Appends the stamp that starts a record of marks.
pub fn encode_stamp(out: &mut Vec<u8>, stamp: TimeStamp) {
    for value in [stamp.age.0, stamp.boot_ms, stamp.wall_ms, stamp.boot_id] {
        out.extend_from_slice(&value.to_le_bytes());
    }
}

/// Reads the stamp that starts a record of marks.
pub fn decode_stamp(reader: &mut Reader<'_>) -> Option<TimeStamp> {
    Some(TimeStamp {
        age: Age(reader.u64()?),
        boot_ms: reader.u64()?,
        wall_ms: reader.u64()?,
        boot_id: reader.u64()?,
    })
}

/// Reads marks one after the other. It ends at the first that was not written by this version, although the record's
/// checksum is right.
#[derive(Debug)]
pub struct Marks<'a> {
    reader: Reader<'a>,
    /// Inside of a mark of delivered ones: the place after the last run.
    after: Option<Place>,
}

impl<'a> Marks<'a> {
    /// What is left of `reader`.
    pub fn new(reader: Reader<'a>) -> Marks<'a> {
        Marks { reader, after: None }
    }

    /// The next run of a mark of delivered ones, if there is one more.
    fn next_run(&mut self) -> Option<Option<Run>> {
        let Some(after) = self.after.take() else {
            return Some(None);
        };
        match self.reader.varint32()? {
            0 => Some(None),
            left_out => {
                let slot = after.slot.checked_add(left_out)?;
                self.run(Place { slot, ..after }).map(Some)
            }
        }
    }

    fn run(&mut self, first: Place) -> Option<Run> {
        let count = self.reader.varint32()?;
        let end = first.slot.checked_add(count).filter(|end| *end <= MAX_SLOTS)?;
        self.after = Some(Place { slot: end, ..first });
        Some(Run { first, count })
    }
}

impl Iterator for Marks<'_> {
    type Item = Mark;

    fn next(&mut self) -> Option<Mark> {
        if let Some(run) = self.next_run()? {
            return Some(Mark::Delivered(run));
        }
        if self.reader.bytes.get(self.reader.at) == Some(&9) {
            self.reader.at += 1;
            let first = take_place(&mut self.reader)?;
            return self.run(first).map(Mark::Delivered);
        }
        decode_mark(&mut self.reader)
    }
}

/// Reads a mark that is not of delivered ones.
fn decode_mark(reader: &mut Reader<'_>) -> Option<Mark> {
    Some(match reader.u8()? {
        3 => {
            let (id, size) = take_delivery(reader)?;
            let due = reader.varint()?;
            Mark::Scheduled(Scheduled {
                id,
                size,
                due: Age(due),
                attempts: reader.varint32()?,
                first_attempt: Age(due.wrapping_sub(reader.varint()?)),
                lane: match reader.u8()? {
                    0 => Lane::New,
                    2 => Lane::Replay,
                    _ => Lane::Retry,
                },
            })
        }
        4 => {
            let (id, size) = take_delivery(reader)?;
            Mark::Dead(DeadLetter {
                id,
                size,
                cause: Cause::from_number(reader.u8()?).unwrap_or(Cause::Internal),
                status: u16::try_from(reader.varint()?).ok()?,
                attempts: reader.varint32()?,
                died_ms: reader.varint()?,
                died: Age(reader.varint()?),
            })
        }
        5 => {
            let (connection, name) = take_name(reader)?;
            Mark::Name(connection, name)
        }
        11 => {
            let (connection, name) = take_name(reader)?;
            Mark::Renamed(connection, name)
        }
        6 => Mark::Sealed { segment: take_segment(reader)?, end: reader.varint()? },
        7 => Mark::Discarded(take_place(reader)?),
        8 => Mark::Moved { from: take_place(reader)?, to: take_delivery(reader)?.0 },
        10 => {
            let (connection, suspended) = suspension::decode(reader)?;
            Mark::Suspended(connection, suspended)
        }
        _ => return None,
    })
}

fn put_name(out: &mut Vec<u8>, connection: ConnectionId, name: &str) {
    put_varint(out, u64::from(connection.0));
    put_varint(out, name.len() as u64);
    out.extend_from_slice(name.as_bytes());
}

fn take_name(reader: &mut Reader<'_>) -> Option<(ConnectionId, String)> {
    let connection = ConnectionId(reader.varint32()?);
    let length = usize::try_from(reader.varint()?).ok()?;
    Some((connection, std::str::from_utf8(reader.take(length)?).ok()?.to_owned()))
}

fn put_segment(out: &mut Vec<u8>, number: u32) {
    put_varint(
        out,
        match number.checked_sub(FIRST_HOT) {
            Some(hot) => u64::from(hot) << 1,
            None => u64::from(number) << 1 | 1,
        },
    );
}

fn take_segment(reader: &mut Reader<'_>) -> Option<u32> {
    let coded = reader.varint()?;
    let number = u32::try_from(coded >> 1).ok()?;
    if coded & 1 == 0 { number.checked_add(FIRST_HOT) } else { Some(number) }
}

fn put_place(out: &mut Vec<u8>, place: Place) {
    put_segment(out, place.segment);
    put_varint(out, u64::from(place.connection.0));
    put_varint(out, u64::from(place.slot));
}

fn take_place(reader: &mut Reader<'_>) -> Option<Place> {
    Some(Place {
        segment: take_segment(reader)?,
        connection: ConnectionId(reader.varint32()?),
        slot: reader.varint32()?,
    })
}

fn put_delivery(out: &mut Vec<u8>, id: DeliveryId, size: u32) {
    put_place(out, id.into());
    put_varint(out, u64::from(id.offset));
    put_varint(out, u64::from(size));
}

fn take_delivery(reader: &mut Reader<'_>) -> Option<(DeliveryId, u32)> {
    let place = take_place(reader)?;
    let id = DeliveryId {
        connection: place.connection,
        segment: place.segment,
        slot: place.slot,
        offset: reader.varint32()?,
    };
    Some((id, reader.varint32()?))
}

#[cfg(test)]
mod tests;
