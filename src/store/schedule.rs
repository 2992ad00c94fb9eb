//! Deliveries that wait for a time, or whose time has come and that wait for their connection: first attempts that came with
//! a delay, retries, replays.

use super::feed::Lane;
use super::record::Reader;
use super::shelf::{Item, Key};
use super::{ConnectionId, DeliveryId};
use crate::clock::Age;

/// A delivery that waits for a time, or whose time has come and that waits for its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scheduled {
    /// When it is due.
    pub due: Age,
    /// Which one.
    pub id: DeliveryId,
    /// Its record's bytes.
    pub size: u32,
    /// Attempts made in this run.
    pub attempts: u32,
    /// When the first attempt of this run was made; zero before it.
    pub first_attempt: Age,
    /// Which lane it goes to; `New` is a first attempt that came with a delay.
    pub lane: Lane,
}

/// All lanes: each has a queue of its own on the schedule.
pub const LANES: [Lane; 3] = [Lane::New, Lane::Retry, Lane::Replay];

/// The queue of a connection's lane on the schedule: delayed first attempts, retries and replays do not wait for each other.
pub fn queue(connection: ConnectionId, lane: Lane) -> u32 {
    connection.0.wrapping_mul(4) + lane as u32
}

/// The connection that a queue of the schedule is of.
pub fn connection(queue: u32) -> ConnectionId {
    ConnectionId(queue / 4)
}

impl Item for Scheduled {
    const SHELF: u32 = 1;

    fn queue(&self) -> u32 {
        queue(self.id.connection, self.lane)
    }

    fn key(&self) -> Key {
        Key { time: self.due.0, segment: self.id.segment, slot: self.id.slot }
    }

    fn log_order(&self) -> (u32, u32) {
        (self.id.segment, self.id.offset)
    }

    fn size(&self) -> u32 {
        self.size
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.due.0.to_le_bytes());
        for value in [self.id.segment, self.id.slot, self.id.offset, self.size, self.attempts, 0] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        out.extend_from_slice(&self.first_attempt.0.to_le_bytes());
    }

    fn decode(queue: u32, reader: &mut Reader<'_>) -> Option<Scheduled> {
        let due = Age(reader.u64()?);
        let (segment, slot, offset) = (reader.u32()?, reader.u32()?, reader.u32()?);
        let (size, attempts, _) = (reader.u32()?, reader.u32()?, reader.u32()?);
        Some(Scheduled {
            due,
            id: DeliveryId { connection: connection(queue), segment, slot, offset },
            size,
            attempts,
            first_attempt: Age(reader.u64()?),
            lane: match queue % 4 {
                0 => Lane::New,
                2 => Lane::Replay,
                _ => Lane::Retry,
            },
        })
    }
}
