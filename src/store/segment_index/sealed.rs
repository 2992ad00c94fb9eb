//! A sealed segment's index file, read a window at a time.

use std::collections::BTreeMap;
use std::io;

use super::super::ConnectionId;
use super::super::file::StoreFile;
use super::slots::{Piece, SealedSlots};
use super::{ENTRY, Entry, decode_entries};

/// Records that are read although they are not wanted, where what is wanted stands on both sides of them: a read more
/// would cost more.
const NEAR: u32 = 512;

/// An index file that validated, and where things are in it.
#[derive(Debug)]
pub struct IndexFile {
    /// The file.
    pub file: StoreFile,
    /// Where the table of records starts in it.
    pub(super) records: u64,
    /// Each connection's slots.
    pub(super) slots: BTreeMap<ConnectionId, SealedSlots>,
}

impl IndexFile {
    /// Entries of `count` slots from `first` on: one read of the connection's tokens unless they are in memory, and one of
    /// the table of records for each place where the wanted ones stand close together.
    ///
    /// # Errors
    /// As the disk says.
    pub fn entries(
        &self,
        connection: ConnectionId,
        first: u32,
        count: u32,
    ) -> io::Result<Vec<Entry>> {
        let Some(slots) = self.slots.get(&connection) else {
            return Ok(Vec::new());
        };
        let mut entries = Vec::new();
        let mut near: Vec<Piece> = Vec::new();
        for piece in slots.window((first, count), |at, bytes| self.read(at, bytes))? {
            if let (Some(record), Some(end)) = (piece.record, end_of(&near))
                && record - end > NEAR
            {
                self.take(&mut near, &mut entries)?;
            }
            near.push(piece);
        }
        self.take(&mut near, &mut entries)?;
        Ok(entries)
    }

    /// Reads the entries of pieces that are near to each other.
    fn take(&self, pieces: &mut Vec<Piece>, entries: &mut Vec<Entry>) -> io::Result<()> {
        let start = pieces.iter().find_map(|piece| piece.record).unwrap_or(0);
        let count = end_of(pieces).unwrap_or(start) - start;
        let at = self.records + u64::from(start) * ENTRY as u64;
        let table = decode_entries(&self.read(at, count as usize * ENTRY)?);
        for piece in pieces.drain(..) {
            let wanted = entries.len() + piece.count as usize;
            if let Some(record) = piece.record {
                let from = table.get((record - start) as usize..).unwrap_or_default();
                entries.extend(from.iter().take(piece.count as usize));
            }
            entries.resize(wanted, Entry::default());
        }
        Ok(())
    }

    fn read(&self, at: u64, bytes: usize) -> io::Result<Vec<u8>> {
        let mut read = vec![0; bytes];
        if bytes > 0 {
            self.file.file.read_exact_at(&mut read, at)?;
        }
        Ok(read)
    }
}

/// The record after the last one of these pieces.
fn end_of(pieces: &[Piece]) -> Option<u32> {
    pieces.iter().rev().find_map(|piece| Some(piece.record? + piece.count))
}
