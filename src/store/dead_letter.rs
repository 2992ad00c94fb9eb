//! Deliveries that are over without success: what is kept of one, and its place on the shelf.

use super::record::Reader;
use super::shelf::{Item, Key};
use super::{ConnectionId, DeliveryId};
use crate::clock::Age;
use crate::event::Cause;

/// A delivery that is over without success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Which one.
    pub id: DeliveryId,
    /// Its record's bytes.
    pub size: u32,
    /// Why.
    pub cause: Cause,
    /// The last response's status; 0 when there was none.
    pub status: u16,
    /// Attempts of the last run.
    pub attempts: u32,
    /// Wall clock when it died, for people.
    pub died_ms: u64,
    /// Store time when it died: how long it is kept counts from here.
    pub died: Age,
}

/// Where a page of a connection's dead letters ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadCursor {
    /// The connection.
    pub connection: ConnectionId,
    pub(super) key: Key,
}

impl DeadLetter {
    /// The place behind this one.
    pub fn cursor(&self) -> DeadCursor {
        DeadCursor { connection: self.id.connection, key: self.key() }
    }
}

impl DeadCursor {
    /// A text that [`DeadCursor::from_text`] reads back.
    pub fn to_text(self) -> String {
        let Key { time, segment, slot } = self.key;
        format!("{:x}-{time:x}-{segment:x}-{slot:x}", self.connection.0)
    }

    /// Reads a cursor.
    pub fn from_text(text: &str) -> Option<DeadCursor> {
        let mut parts = text.split('-');
        let mut number = || u64::from_str_radix(parts.next()?, 16).ok();
        let connection = ConnectionId(u32::try_from(number()?).ok()?);
        let time = number()?;
        let mut small = || u32::try_from(number()?).ok();
        let key = Key { time, segment: small()?, slot: small()? };
        parts.next().is_none().then_some(DeadCursor { connection, key })
    }
}

impl Item for DeadLetter {
    const SHELF: u32 = 2;

    fn queue(&self) -> u32 {
        self.id.connection.0
    }

    fn key(&self) -> Key {
        Key { time: self.died.0, segment: self.id.segment, slot: self.id.slot }
    }

    fn log_order(&self) -> (u32, u32) {
        (self.id.segment, self.id.offset)
    }

    fn size(&self) -> u32 {
        self.size
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.died.0.to_le_bytes());
        for value in [self.id.segment, self.id.slot, self.id.offset, self.size, self.attempts] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        out.extend_from_slice(&[self.cause as u8, 0]);
        out.extend_from_slice(&self.status.to_le_bytes());
        out.extend_from_slice(&self.died_ms.to_le_bytes());
    }

    fn decode(queue: u32, reader: &mut Reader<'_>) -> Option<DeadLetter> {
        let died = Age(reader.u64()?);
        let (segment, slot, offset) = (reader.u32()?, reader.u32()?, reader.u32()?);
        let (size, attempts) = (reader.u32()?, reader.u32()?);
        let [cause, _, low, high] = reader.u32()?.to_le_bytes();
        Some(DeadLetter {
            id: DeliveryId { connection: ConnectionId(queue), segment, slot, offset },
            size,
            cause: Cause::from_number(cause).unwrap_or(Cause::Internal),
            status: u16::from_le_bytes([low, high]),
            attempts,
            died_ms: reader.u64()?,
            died,
        })
    }
}
