//! Runs over a restart: what a snapshot says of them, and opening them again.

use std::io;

use super::super::bits::Bits;
use super::super::disk::Disk;
use super::super::file::FileError;
use super::super::record::Reader;
use super::run::{Item, Run};
use super::{Shelf, ripen_slice};

/// What a snapshot says of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunState {
    /// Which run.
    pub number: u32,
    /// Which shelf it is of.
    pub shelf: u32,
    /// How far each queue was read.
    pub cursors: Vec<(u32, u32)>,
    /// Items behind that do not count.
    pub gone: Bits,
}

/// What became of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Blocks that do not validate.
    pub damaged: u64,
    /// The whole of it cannot be used.
    pub unusable: bool,
}

impl RunState {
    /// Appends it:
    /// `u32 run, u32 shelf, u32 queues, u32 words; per queue u32 queue, u32 cursor; then u64 words of what is gone`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes();
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.shelf.to_le_bytes());
        out.extend_from_slice(&count(self.cursors.len()));
        out.extend_from_slice(&count(self.gone.words().len()));
        for (queue, cursor) in &self.cursors {
            out.extend_from_slice(&queue.to_le_bytes());
            out.extend_from_slice(&cursor.to_le_bytes());
        }
        for word in self.gone.words() {
            out.extend_from_slice(&word.to_le_bytes());
        }
    }

    /// Reads it back.
    pub fn decode(reader: &mut Reader<'_>) -> Option<RunState> {
        let (number, shelf) = (reader.u32()?, reader.u32()?);
        let (queues, words) = (reader.u32()?, reader.u32()?);
        let cursors: Option<Vec<_>> =
            (0..queues).map(|_| Some((reader.u32()?, reader.u32()?))).collect();
        let words: Option<Vec<_>> = (0..words).map(|_| reader.u64()).collect();
        Some(RunState { number, shelf, cursors: cursors?, gone: Bits::from_words(words?) })
    }
}

impl<T: Item> Shelf<T> {
    /// Takes a run that a snapshot speaks of, without the items that `keep` does not want.
    ///
    /// # Errors
    /// A disk that cannot be read, or an unknown version.
    pub fn reopen(
        &mut self,
        disk: &dyn Disk,
        state: &RunState,
        mut keep: impl FnMut(&T) -> bool,
    ) -> Result<Found, FileError> {
        let Some(mut run) = Run::<T>::open(disk, state.number)? else {
            return Ok(Found { unusable: true, ..Found::default() });
        };
        run.gone = state.gone.clone();
        let mut found = Found::default();
        let queues: Vec<u32> = run.slices.keys().copied().collect();
        for queue in queues {
            let cursor = state.cursors.iter().find(|(known, _)| *known == queue);
            let cursor = cursor.map_or(0, |(_, cursor)| *cursor);
            self.reopen_slice(&mut run, queue, cursor, &mut keep, &mut found)?;
        }
        run.left = run
            .slices
            .values()
            .flat_map(|slice| slice.first + slice.cursor..slice.first + slice.count)
            .filter(|index| !run.gone.contains(*index))
            .count() as u64;
        self.runs.insert(state.number, run);
        self.retire();
        let queues: Vec<u32> = self.queues.keys().copied().collect();
        queues.into_iter().for_each(|queue| self.set_head(queue));
        Ok(found)
    }

    fn reopen_slice(
        &mut self,
        run: &mut Run<T>,
        number: u32,
        cursor: u32,
        keep: &mut impl FnMut(&T) -> bool,
        found: &mut Found,
    ) -> io::Result<()> {
        let Some(slice) = run.slices.get_mut(&number) else {
            return Ok(());
        };
        slice.cursor = cursor.min(slice.count);
        (slice.ripe, slice.next) = (slice.cursor, None);
        let (first, count) = (slice.first, slice.count);
        let queue = self.queues.entry(number).or_default();
        let mut index = slice.cursor;
        let (mut next, mut last) = (None, None);
        while index < count {
            let block = run.block(number, index)?;
            found.damaged += u64::from(block.damaged);
            if block.damaged {
                for at in index..block.end.min(count) {
                    run.gone.insert(first + at);
                }
            }
            last = block.items.last().map(Item::key).or(last);
            for (index, item) in (index..).zip(&block.items) {
                if run.gone.contains(first + index) {
                    continue;
                }
                if !keep(item) {
                    run.gone.insert(first + index);
                    continue;
                }
                next = next.or(Some((index, item.key())));
                queue.count += 1;
                queue.bytes += u64::from(item.size());
                self.total_bytes += u64::from(item.size());
            }
            index = block.end;
        }
        if let Some(slice) = run.slices.get_mut(&number) {
            slice.cursor = next.map_or(count, |(index, _)| index);
            slice.ripe = slice.cursor;
            slice.next = next.map(|(_, key)| key);
            slice.next_ripe = slice.next;
            slice.last = last;
        }
        ripen_slice(run, number, 0, &mut queue.ripe)?;
        let next = run.slices.get(&number).and_then(|slice| slice.next_ripe);
        let ripens = queue.ripens.into_iter().chain(next.map(|key| key.time)).min();
        queue.set_ripens(ripens, number, &mut self.ripening);
        Ok(())
    }
}
