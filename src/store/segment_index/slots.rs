//! Which records of a segment are one connection's, in the order of its slots.
//!
//! A connection gets every event, or long runs of them, or each third: so its slots are kept as **tokens**, varints whose
//! two low bits say what the rest `n` means. Slot and record count up from 0:
//!
//! ```text
//! 0  n records are not this connection's; the next one is, and is one slot
//! 1  the next n + 1 records are a slot each
//! 2  n + 1 slots have no record: it did not validate when the segment was scanned
//! ```
//!
//! A connection that gets all events costs one token, one that gets any other choice of them a byte per slot. So that a
//! few slots can be read without all that stands before them there is an **anchor** each [`ANCHOR_BYTES`]; anchors are
//! only in memory, and less than a tenth of the one bit per slot that is there anyway.

use super::super::record::{Reader, put_varint};

/// Bytes of tokens between two anchors.
const ANCHOR_BYTES: usize = 1024;
/// Slots that one connection can have in the largest segment: a record is at least 32 bytes.
pub const MAX_SLOTS: u32 = (1 << 30) / 32;

const SKIP: u64 = 0;
const RUN: u64 = 1;
const LOST: u64 = 2;

/// Where the tokens can be read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Anchor {
    /// The slot that comes next there.
    slot: u32,
    /// The record that comes next there.
    record: u32,
    /// The token's place, in bytes.
    at: u32,
}

/// Some slots in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The first of them.
    pub slot: u32,
    /// How many; at least 1.
    pub count: u32,
    /// The record of the first, by its number; the others follow it. `None`: they have none.
    pub record: Option<u32>,
}

/// The slots of one connection, while its segment grows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slots {
    tokens: Vec<u8>,
    anchors: Vec<Anchor>,
    /// The next slot.
    len: u32,
    /// The record after that of the last slot.
    next: u32,
    /// Slots of the run at the end, whose token is not written yet.
    run: u32,
}

impl Slots {
    /// How many slots there are.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Bytes of tokens and anchors in memory.
    pub fn bytes(&self) -> usize {
        self.tokens.len() + self.anchors.len() * size_of::<Anchor>()
    }

    /// Adds slots. Slots and records only ever count up, and those of a valid record stay below [`MAX_SLOTS`]: what does
    /// not was not written by a store, and is left out.
    pub fn push(&mut self, piece: Piece) {
        let (Some(record), Some(end)) = (piece.record, piece.slot.checked_add(piece.count)) else {
            return;
        };
        if piece.slot < self.len || record < self.next || end > MAX_SLOTS || piece.count == 0 {
            return;
        }
        let (lost, skipped) = (piece.slot - self.len, record - self.next);
        if lost > 0 || skipped > 0 {
            self.end_run();
        }
        if lost > 0 {
            self.token(self.len, self.next, LOST | u64::from(lost - 1) << 2);
        }
        if skipped > 0 {
            self.token(piece.slot, self.next, SKIP | u64::from(skipped) << 2);
        }
        self.run += piece.count - u32::from(skipped > 0);
        self.len = end;
        self.next = record.saturating_add(piece.count);
    }

    /// Appends the tokens.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.tokens);
        if self.run > 0 {
            put_varint(out, run_token(self.run));
        }
    }

    /// Reads tokens. `None`: they are not those of a segment with `records` records.
    pub fn decode(tokens: &[u8], records: usize) -> Option<Slots> {
        let mut slots = Slots::default();
        Pieces::new(tokens, Anchor::default()).for_each(|piece| slots.push(piece));
        // Anchors count on the tokens being just as they would be written.
        let mut again = Vec::with_capacity(tokens.len());
        slots.encode(&mut again);
        (again == tokens && slots.next as usize <= records).then_some(slots)
    }

    /// All pieces.
    pub fn pieces(&self) -> impl Iterator<Item = Piece> {
        self.pieces_from(Anchor::default())
    }

    /// The pieces of `count` slots from `first` on.
    pub fn window(&self, first: u32, count: u32) -> impl Iterator<Item = Piece> {
        clipped(self.pieces_from(anchor_before(&self.anchors, first)), first, count)
    }

    fn pieces_from(&self, anchor: Anchor) -> impl Iterator<Item = Piece> {
        let tokens = self.tokens.get(anchor.at as usize..).unwrap_or_default();
        let run = (self.run > 0).then(|| Piece {
            slot: self.len - self.run,
            count: self.run,
            record: Some(self.next - self.run),
        });
        Pieces::new(tokens, anchor).chain(run)
    }

    fn end_run(&mut self) {
        let run = std::mem::take(&mut self.run);
        if run > 0 {
            self.token(self.len - run, self.next - run, run_token(run));
        }
    }

    /// Writes a token for what comes from this slot and record on.
    fn token(&mut self, slot: u32, record: u32, token: u64) {
        let last = self.anchors.last().map_or(0, |anchor| anchor.at as usize);
        if self.tokens.len() - last >= ANCHOR_BYTES {
            let at = u32::try_from(self.tokens.len()).unwrap_or(u32::MAX);
            self.anchors.push(Anchor { slot, record, at });
        }
        put_varint(&mut self.tokens, token);
    }
}

fn run_token(count: u32) -> u64 {
    RUN | u64::from(count - 1) << 2
}

/// The last anchor from which slot `first` can be found.
fn anchor_before(anchors: &[Anchor], first: u32) -> Anchor {
    let after = anchors.partition_point(|anchor| anchor.slot <= first);
    after.checked_sub(1).and_then(|at| anchors.get(at)).copied().unwrap_or_default()
}

/// The part of `pieces` that is within `count` slots from `first` on.
fn clipped(
    pieces: impl Iterator<Item = Piece>,
    first: u32,
    count: u32,
) -> impl Iterator<Item = Piece> {
    let end = first.saturating_add(count);
    let near = pieces.skip_while(move |piece| piece.slot + piece.count <= first);
    near.take_while(move |piece| piece.slot < end).map(move |piece| {
        let slot = piece.slot.max(first);
        let count = (piece.slot + piece.count).min(end) - slot;
        Piece { slot, count, record: piece.record.map(|record| record + (slot - piece.slot)) }
    })
}

/// Reads tokens, to the first that is none.
struct Pieces<'a> {
    reader: Reader<'a>,
    slot: u32,
    record: u32,
}

impl<'a> Pieces<'a> {
    fn new(tokens: &'a [u8], anchor: Anchor) -> Pieces<'a> {
        Pieces { reader: Reader::new(tokens), slot: anchor.slot, record: anchor.record }
    }
}

impl Iterator for Pieces<'_> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        let token = self.reader.varint()?;
        let n = u32::try_from(token >> 2).ok()?;
        let (skipped, count, lost) = match token & 3 {
            SKIP => (n, 1, false),
            RUN => (0, n.checked_add(1)?, false),
            LOST => (0, n.checked_add(1)?, true),
            _ => return None,
        };
        let slot = self.slot;
        self.slot = slot.checked_add(count).filter(|end| *end <= MAX_SLOTS)?;
        if lost {
            return Some(Piece { slot, count, record: None });
        }
        let record = self.record.checked_add(skipped)?;
        self.record = record.checked_add(count)?;
        Some(Piece { slot, count, record: Some(record) })
    }
}

/// Tokens so few that they are kept in memory: most connections get all events, or none.
const HELD: usize = 15;

/// The slots of one connection in an index file.
#[derive(Clone, Debug)]
pub enum SealedSlots {
    /// Their tokens, and how many bytes these are.
    Held([u8; HELD], u8),
    /// Where they are.
    InFile {
        /// The tokens' place in the file.
        at: u64,
        /// Their bytes.
        bytes: u32,
        /// Where they can be read from.
        anchors: Box<[Anchor]>,
    },
}

impl SealedSlots {
    /// The slots whose tokens, `tokens`, stand in the file at `at`.
    pub fn new(tokens: &[u8], at: u64, slots: &Slots) -> SealedSlots {
        let mut held = [0; HELD];
        match (held.get_mut(..tokens.len()), u8::try_from(tokens.len())) {
            (Some(place), Ok(bytes)) => {
                place.copy_from_slice(tokens);
                SealedSlots::Held(held, bytes)
            }
            _ => SealedSlots::InFile {
                at,
                bytes: u32::try_from(tokens.len()).unwrap_or(u32::MAX),
                anchors: slots.anchors.as_slice().into(),
            },
        }
    }

    /// The pieces of `count` slots from `first` on; `read` reads so many bytes of the file from a place.
    ///
    /// # Errors
    /// As `read` says.
    pub fn window<E>(
        &self,
        (first, count): (u32, u32),
        read: impl FnOnce(u64, usize) -> Result<Vec<u8>, E>,
    ) -> Result<Vec<Piece>, E> {
        match self {
            SealedSlots::Held(tokens, bytes) => {
                let tokens = tokens.get(..usize::from(*bytes)).unwrap_or_default();
                Ok(clipped(Pieces::new(tokens, Anchor::default()), first, count).collect())
            }
            SealedSlots::InFile { at, bytes, anchors } => {
                let from = anchor_before(anchors, first);
                let last = first.saturating_add(count);
                let after = anchors.partition_point(|anchor| anchor.slot < last);
                let end = anchors.get(after).map_or(*bytes, |anchor| anchor.at);
                let tokens = read(at + u64::from(from.at), end.saturating_sub(from.at) as usize)?;
                Ok(clipped(Pieces::new(&tokens, from), first, count).collect())
            }
        }
    }
}
