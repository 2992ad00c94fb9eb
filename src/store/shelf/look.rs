//! Looking at what stands on a shelf, and taking single items out of the middle.

use std::io;
use std::ops::Bound;

use super::Shelf;
use super::run::{Item, Key, Run, Slice};

/// Where an item was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spot {
    /// In memory.
    Memory,
    /// In this run, under this number of its queue.
    Run {
        /// The run.
        run: u32,
        /// The item's number in its queue's part.
        index: u32,
    },
}

impl<T: Item> Shelf<T> {
    /// Items of a queue in order, after a key; at most `limit`.
    ///
    /// # Errors
    /// As the disk says.
    pub fn page(&self, queue: u32, after: Option<Key>, limit: usize) -> io::Result<Vec<T>> {
        let Some(near) = self.queues.get(&queue).map(|queue| &queue.near) else {
            return Ok(Vec::new());
        };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut items: Vec<T> =
            near.range((from, Bound::Unbounded)).take(limit).map(|(_, item)| *item).collect();
        for run in self.runs.values() {
            let Some(slice) = run.slices.get(&queue) else {
                continue;
            };
            let mut index = match after {
                Some(key) => first_after(run, queue, slice, key)?,
                None => slice.cursor,
            };
            let enough = items.len().saturating_add(limit);
            while index < slice.count && items.len() < enough {
                let block = run.block(queue, index)?;
                let wanted = (index..).zip(block.items).filter(|(index, item)| {
                    !run.is_gone(queue, *index) && after.is_none_or(|after| item.key() > after)
                });
                items.extend(wanted.map(|(_, item)| item));
                index = block.end;
            }
        }
        items.sort_unstable_by_key(Item::key);
        items.truncate(limit);
        Ok(items)
    }

    /// Shows all items to `visit`: of one queue or all, of one segment or all.
    ///
    /// # Errors
    /// As the disk says; some were then not shown.
    pub fn look(
        &self,
        queue: Option<u32>,
        segment: Option<u32>,
        mut visit: impl FnMut(&T, Spot),
    ) -> io::Result<()> {
        let wanted = |item: &&T| segment.is_none_or(|segment| item.key().segment == segment);
        let near = self.queues.iter().filter(|(number, _)| queue.is_none_or(|q| q == **number));
        for item in near.flat_map(|(_, queue)| queue.near.values()).filter(wanted) {
            visit(item, Spot::Memory);
        }
        for (number, run) in &self.runs {
            if segment.is_some_and(|segment| run.segments.binary_search(&segment).is_err()) {
                continue;
            }
            let slices =
                run.slices.iter().filter(|(number, _)| queue.is_none_or(|q| q == **number));
            for (queue, slice) in slices {
                let mut index = slice.cursor;
                while index < slice.count {
                    let block = run.block(*queue, index)?;
                    for (index, item) in (index..).zip(&block.items) {
                        if wanted(&item) && !run.is_gone(*queue, index) {
                            visit(item, Spot::Run { run: *number, index });
                        }
                    }
                    index = block.end;
                }
            }
        }
        Ok(())
    }

    /// Of a queue's items, the one that stands first in the log. Of those in runs it may be one that was taken since, of a
    /// segment that `exists`.
    ///
    /// # Errors
    /// As the disk says.
    pub fn oldest(&mut self, queue: u32, exists: impl Fn(u32) -> bool) -> io::Result<Option<T>> {
        if self.count(queue) == 0 {
            return Ok(None);
        }
        let near = self.queues.get(&queue).into_iter().flat_map(|queue| queue.near.values());
        let mut oldest = near.min_by_key(|item| item.log_order()).copied();
        for run in self.runs.values_mut() {
            let Some(slice) = run.slices.get(&queue).filter(|slice| slice.cursor < slice.count)
            else {
                continue;
            };
            let mut first = Some(slice.oldest);
            if !exists(slice.oldest.key().segment) {
                first = oldest_left(run, queue, slice.cursor)?;
                if let (Some(first), Some(slice)) = (first, run.slices.get_mut(&queue)) {
                    slice.oldest = first;
                }
            }
            oldest = oldest.into_iter().chain(first).min_by_key(|item| item.log_order());
        }
        Ok(oldest)
    }

    /// Whether an item is still where it was found.
    pub fn is_at(&self, item: &T, spot: Spot) -> bool {
        match spot {
            Spot::Memory => {
                self.queues.get(&item.queue()).is_some_and(|q| q.near.contains_key(&item.key()))
            }
            Spot::Run { run, index } => {
                self.runs.get(&run).is_some_and(|run| !run.is_gone(item.queue(), index))
            }
        }
    }

    /// Takes an item from where it was found. Whether it was still there.
    pub fn remove_at(&mut self, item: &T, spot: Spot) -> bool {
        if !self.is_at(item, spot) {
            return false;
        }
        let Some(queue) = self.queues.get_mut(&item.queue()) else {
            return false;
        };
        match spot {
            Spot::Memory => {
                queue.near.remove(&item.key());
                self.in_memory -= 1;
            }
            Spot::Run { run, index } => {
                let Some(run) = self.runs.get_mut(&run) else {
                    return false;
                };
                let first = run.slices.get(&item.queue()).map_or(0, |slice| slice.first);
                run.gone.insert(first + index);
                run.left = run.left.saturating_sub(1);
            }
        }
        queue.forget(Some(item));
        self.total_bytes -= u64::from(item.size());
        self.retire();
        true
    }

    /// Takes the item with this key out of a queue.
    ///
    /// # Errors
    /// As the disk says.
    pub fn remove(&mut self, queue: u32, key: Key) -> io::Result<Option<T>> {
        let found = self.find(queue, key)?;
        Ok(found.filter(|(item, spot)| self.remove_at(item, *spot)).map(|(item, _)| item))
    }

    fn find(&self, queue: u32, key: Key) -> io::Result<Option<(T, Spot)>> {
        if let Some(item) = self.queues.get(&queue).and_then(|queue| queue.near.get(&key)) {
            return Ok(Some((*item, Spot::Memory)));
        }
        for (number, run) in &self.runs {
            let Some(slice) = run.slices.get(&queue) else {
                continue;
            };
            // Dead letters come in the order of time: nearly all runs are told by their ends.
            let within = slice.next.is_some_and(|next| next <= key)
                && slice.last.is_some_and(|last| key <= last);
            if !within {
                continue;
            }
            let first = first_after(run, queue, slice, key)?.saturating_sub(1).max(slice.cursor);
            let block = run.block(queue, first)?;
            let mut found = (first..).zip(block.items);
            let found =
                found.find(|(index, item)| item.key() == key && !run.is_gone(queue, *index));
            if let Some((index, item)) = found {
                return Ok(Some((item, Spot::Run { run: *number, index })));
            }
        }
        Ok(None)
    }
}

/// Of the items of a queue that are left in a run, the one that stands first in the log.
fn oldest_left<T: Item>(run: &Run<T>, queue: u32, mut index: u32) -> io::Result<Option<T>> {
    let count = run.slices.get(&queue).map_or(0, |slice| slice.count);
    let mut oldest: Option<T> = None;
    while index < count {
        let block = run.block(queue, index)?;
        let left = (index..).zip(block.items).filter(|(index, _)| !run.is_gone(queue, *index));
        let left = left.map(|(_, item)| item);
        oldest = oldest.into_iter().chain(left).min_by_key(|item| item.log_order());
        index = block.end;
    }
    Ok(oldest)
}

/// The number of the first item of a queue in a run that comes after `key`, by halving.
fn first_after<T: Item>(run: &Run<T>, queue: u32, slice: &Slice<T>, key: Key) -> io::Result<u32> {
    let (mut low, mut high) = (slice.cursor, slice.count);
    while low < high {
        let middle = low + (high - low) / 2;
        let block = run.block(queue, middle)?;
        match block.items.first() {
            Some(item) if item.key() <= key => {
                let within = block.items.partition_point(|item| item.key() <= key);
                let end = middle + u32::try_from(within).unwrap_or(0);
                if within < block.items.len() {
                    return Ok(end);
                }
                low = block.end;
            }
            Some(_) => high = middle,
            None => low = block.end,
        }
    }
    Ok(low)
}
