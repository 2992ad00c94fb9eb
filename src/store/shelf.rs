//! A shelf: deliveries that nobody asks for before their time, in queues sorted by it. Those that wait for a time stand on
//! one, dead letters on another.
//!
//! However many there are, a bounded number is in memory: when there are more, the later half of each queue is written to
//! a [`run`], a file that is never changed, and comes back a block at a time when its turn comes. Runs of which little is
//! left are read back and written again with others.
//!
//! Runs hold nothing that the state log and the newest snapshot do not: a run counts from the first snapshot that speaks
//! of it, and is removed after the first one that does not. Should one be lost to damage, its deliveries are found to be
//! neither over nor on a shelf, and wait for a first attempt again: nothing is lost, at the cost of an early attempt.
//!
//! **Ripe** is what has reached its time. Items ripen in one step ([`Shelf::ripen`]), so that they can be counted; they
//! are taken ([`Shelf::pop_ripe`]) when there is room for them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::disk::Disk;

mod look;
mod reopen;
mod run;
#[cfg(test)]
mod tests;

pub use look::Spot;
pub use reopen::{Found, RunState};
use run::Run;
pub use run::{Item, Key};

/// How much of a shelf is in memory.
#[derive(Clone, Copy, Debug)]
pub struct ShelfLimits {
    /// Items in memory. Past it, half of them go to a run.
    pub items: usize,
    /// Items that are read at once.
    pub block_items: u32,
}

impl Default for ShelfLimits {
    fn default() -> ShelfLimits {
        ShelfLimits { items: 1 << 16, block_items: 32 }
    }
}

/// With more runs than this, those with little left are put together.
const MANY_RUNS: usize = 32;
/// How many are put together at once.
const FOLDED: usize = 8;
/// Milliseconds after which a run that could not be read is tried again.
pub const TRY_AGAIN: u64 = 1000;

/// All queues of one kind.
#[derive(Debug)]
pub struct Shelf<T> {
    limits: ShelfLimits,
    queues: BTreeMap<u32, Queue<T>>,
    runs: BTreeMap<u32, Run<T>>,
    in_memory: usize,
    /// Bytes of all items' records.
    total_bytes: u64,
    /// Runs that are used up; their files go when a snapshot without them is durable.
    retired: Vec<(u32, u64)>,
    /// When each queue's next item ripens.
    ripening: BTreeSet<(u64, u32)>,
    /// Runs written since the last snapshot.
    unsaved: usize,
}

#[derive(Debug)]
struct Queue<T> {
    near: BTreeMap<Key, T>,
    /// Of all runs that have items of this queue left, the one whose next item comes first.
    head: Option<(Key, u32)>,
    /// Items that count, in memory and in runs.
    count: u64,
    /// Bytes of their records.
    bytes: u64,
    /// Up to this time all is ripe.
    ripe_upto: u64,
    /// Items that are ripe.
    ripe: u64,
    /// Its entry in [`Shelf::ripening`].
    ripens: Option<u64>,
}

impl<T> Default for Shelf<T> {
    fn default() -> Shelf<T> {
        Shelf::new(ShelfLimits::default())
    }
}

impl<T> Shelf<T> {
    /// An empty one.
    pub fn new(limits: ShelfLimits) -> Shelf<T> {
        Shelf {
            limits,
            queues: BTreeMap::new(),
            runs: BTreeMap::new(),
            in_memory: 0,
            total_bytes: 0,
            retired: Vec::new(),
            ripening: BTreeSet::new(),
            unsaved: 0,
        }
    }
}

impl<T: Item> Shelf<T> {
    /// Items of a queue.
    pub fn count(&self, queue: u32) -> u64 {
        self.queues.get(&queue).map_or(0, |queue| queue.count)
    }

    /// Bytes of their records.
    pub fn bytes(&self, queue: u32) -> u64 {
        self.queues.get(&queue).map_or(0, |queue| queue.bytes)
    }

    /// Bytes of the records of all items.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// The queue whose records take the most bytes.
    pub fn largest(&self) -> Option<u32> {
        let queues = self.queues.iter().filter(|(_, queue)| queue.count > 0);
        queues.max_by_key(|(_, queue)| queue.bytes).map(|(number, _)| *number)
    }

    /// The earliest time of all items.
    pub fn first_time(&self) -> Option<u64> {
        let first = |queue: &Queue<T>| {
            let near = queue.near.first_key_value().map(|(key, _)| *key);
            near.into_iter().chain(queue.head.map(|(key, _)| key)).min()
        };
        self.queues.values().filter_map(first).min().map(|key| key.time)
    }

    /// Items of a queue whose time has come.
    pub fn ripe(&self, queue: u32) -> u64 {
        self.queues.get(&queue).map_or(0, |queue| queue.ripe)
    }

    /// Segments that items are of, some more than once; perhaps also some that items were of.
    pub fn segments(&self) -> impl Iterator<Item = u32> {
        let near = self.queues.values().flat_map(|queue| queue.near.keys());
        let runs = self.runs.values().flat_map(|run| run.segments.iter().copied());
        near.map(|key| key.segment).chain(runs)
    }

    /// Bytes of the run files.
    pub fn file_bytes(&self) -> u64 {
        let used: u64 = self.runs.values().map(|run| run.bytes).sum();
        used + self.retired_bytes()
    }

    /// Bytes of run files that wait for a snapshot to be removed.
    pub fn retired_bytes(&self) -> u64 {
        self.retired.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Puts an item in its queue. Whether its time has come already.
    pub fn insert(&mut self, item: T) -> bool {
        let queue = self.queues.entry(item.queue()).or_default();
        let key = item.key();
        if queue.near.insert(key, item).is_none() {
            self.in_memory += 1;
            queue.count += 1;
            queue.bytes += u64::from(item.size());
            self.total_bytes += u64::from(item.size());
            queue.ripe += u64::from(key.time <= queue.ripe_upto);
        }
        if key.time > queue.ripe_upto && queue.ripens.is_none_or(|next| key.time < next) {
            queue.set_ripens(Some(key.time), item.queue(), &mut self.ripening);
        }
        key.time <= queue.ripe_upto
    }

    /// When the next item ripens.
    pub fn next_ripening(&self) -> Option<u64> {
        self.ripening.first().map(|(time, _)| *time)
    }

    /// Lets ripen what has reached its time in the queue whose turn is next; which one. `None`: nothing is due.
    ///
    /// # Errors
    /// As the disk says; it is tried again when this is called [`TRY_AGAIN`] later.
    pub fn ripen(&mut self, now: u64) -> io::Result<Option<u32>> {
        let first = self.ripening.first().copied().filter(|(time, _)| *time <= now);
        let Some((number, queue)) =
            first.and_then(|(_, number)| Some((number, self.queues.get_mut(&number)?)))
        else {
            return Ok(None);
        };
        let mut next = queue.near.range(after_time(now)..).next().map(|(key, _)| key.time);
        for run in self.runs.values_mut() {
            if let Err(error) = ripen_slice(run, number, now, &mut queue.ripe) {
                queue.set_ripens(Some(now + TRY_AGAIN), number, &mut self.ripening);
                return Err(error);
            }
            let slice = run.slices.get(&number).and_then(|slice| slice.next_ripe);
            next = next.into_iter().chain(slice.map(|key| key.time)).min();
        }
        let ripened = queue.near.range(after_time(queue.ripe_upto)..after_time(now)).count();
        queue.ripe_upto = queue.ripe_upto.max(now);
        queue.ripe += ripened as u64;
        queue.set_ripens(next, number, &mut self.ripening);
        Ok(Some(number))
    }

    /// Takes the first item of a queue that is ripe.
    ///
    /// # Errors
    /// As the disk says; it can be tried again.
    pub fn pop_ripe(&mut self, queue: u32) -> io::Result<Option<T>> {
        let upto = self.queues.get(&queue).map_or(0, |queue| queue.ripe_upto);
        self.pop_upto(queue, upto)
    }

    /// Takes the first item of a queue if its time is not after `upto`.
    ///
    /// # Errors
    /// As the disk says; it can be tried again.
    pub fn pop_upto(&mut self, number: u32, upto: u64) -> io::Result<Option<T>> {
        loop {
            let Some(queue) = self.queues.get_mut(&number) else {
                return Ok(None);
            };
            let near = queue.near.first_key_value().map(|(key, _)| *key);
            match queue.head {
                Some((head, run)) if head.time <= upto && near.is_none_or(|near| head < near) => {
                    self.load(number, run)?;
                }
                _ if near.is_some_and(|near| near.time <= upto) => {
                    let item = queue.near.pop_first().map(|(_, item)| item);
                    self.in_memory -= 1;
                    queue.forget(item.as_ref());
                    self.total_bytes -= item.map_or(0, |item| u64::from(item.size()));
                    return Ok(item);
                }
                _ => return Ok(None),
            }
        }
    }

    /// Empties a queue.
    pub fn clear(&mut self, number: u32) {
        let Some(mut queue) = self.queues.remove(&number) else {
            return;
        };
        self.in_memory -= queue.near.len();
        self.total_bytes -= queue.bytes;
        queue.set_ripens(None, number, &mut self.ripening);
        for run in self.runs.values_mut() {
            let Some(slice) = run.slices.get_mut(&number) else {
                continue;
            };
            let left = slice.first + slice.cursor..slice.first + slice.count;
            let gone = left.filter(|index| run.gone.contains(*index)).count() as u64;
            run.left =
                run.left.saturating_sub(u64::from(slice.count - slice.cursor).saturating_sub(gone));
            (slice.cursor, slice.ripe) = (slice.count, slice.count);
            (slice.next, slice.next_ripe) = (None, None);
        }
        self.retire();
    }

    /// Whether more is in memory than should be.
    pub fn is_full(&self) -> bool {
        self.in_memory > self.limits.items
    }

    /// Whether far more is in memory than should be: runs could not be written.
    pub fn is_overfull(&self) -> bool {
        self.in_memory > self.limits.items * 2
    }

    /// Runs written since the last snapshot.
    pub fn unsaved(&self) -> usize {
        self.unsaved
    }

    /// Writes the later half of each queue to a run. Returns the bytes written.
    ///
    /// # Errors
    /// As the disk says; nothing is lost, and it can be tried again.
    pub fn spill(&mut self, disk: &dyn Disk, run_number: u32, nonce: u64) -> io::Result<u64> {
        let mut queues = BTreeMap::new();
        for (number, queue) in &self.queues {
            let sooner = queue.near.len().div_ceil(2);
            let later: Vec<T> = queue.near.values().skip(sooner).copied().collect();
            if !later.is_empty() {
                queues.insert(*number, later);
            }
        }
        if queues.is_empty() {
            return Ok(0);
        }
        let mut run = Run::write(disk, run_number, nonce, self.limits.block_items, &queues)?;
        for (number, items) in &queues {
            let (Some(queue), Some(slice)) =
                (self.queues.get_mut(number), run.slices.get_mut(number))
            else {
                continue;
            };
            for item in items {
                queue.near.remove(&item.key());
            }
            self.in_memory -= items.len();
            let ripe = items.partition_point(|item| item.key().time <= queue.ripe_upto);
            slice.ripe = u32::try_from(ripe).unwrap_or(u32::MAX);
            slice.next_ripe = items.get(ripe).map(Item::key);
        }
        let bytes = run.bytes;
        self.runs.insert(run_number, run);
        self.unsaved += 1;
        for queue in queues.keys() {
            self.set_head(*queue);
        }
        self.fold()?;
        Ok(bytes)
    }

    /// Reads runs of which little is left back into memory.
    fn fold(&mut self) -> io::Result<()> {
        if self.runs.len() <= MANY_RUNS {
            return Ok(());
        }
        let mut sizes: Vec<(u64, u32)> =
            self.runs.iter().map(|(number, run)| (run.left, *number)).collect();
        sizes.sort_unstable();
        sizes.truncate(FOLDED);
        if sizes.iter().map(|(left, _)| left).sum::<u64>() > self.limits.items as u64 / 4 {
            return Ok(());
        }
        for (_, run) in sizes {
            let queues: Vec<u32> = self
                .runs
                .get(&run)
                .into_iter()
                .flat_map(|run| run.slices.keys().copied())
                .collect();
            for queue in queues {
                while self.runs.get(&run).is_some_and(|run| has_more(run, queue)) {
                    self.load(queue, run)?;
                }
            }
        }
        Ok(())
    }

    /// Brings the next block of a queue from a run to memory.
    fn load(&mut self, number: u32, run_number: u32) -> io::Result<()> {
        let (Some(run), Some(queue)) =
            (self.runs.get_mut(&run_number), self.queues.get_mut(&number))
        else {
            return Ok(());
        };
        let Some(cursor) = run.slices.get(&number).map(|slice| slice.cursor) else {
            return Ok(());
        };
        let block = run.block(number, cursor)?;
        // All that can fail comes first: what was half done would be done again.
        let next = next_item(run, number, block.end)?;
        if block.damaged {
            // They are not over: the next start finds them on no shelf, and lets them wait for an attempt.
            tracing::error!(
                run = run_number,
                "A part of a file of scheduled or dead deliveries is damaged; they go on after a restart"
            );
        }
        for (index, item) in (cursor..).zip(&block.items) {
            if !run.is_gone(number, index) && queue.near.insert(item.key(), *item).is_none() {
                self.in_memory += 1;
            }
        }
        advance(run, number, next);
        self.set_head(number);
        if block.damaged {
            self.forget_damaged(number);
        }
        self.retire();
        Ok(())
    }

    /// A queue of which nothing is left to be read counts nothing, whatever a damaged block held.
    fn forget_damaged(&mut self, number: u32) {
        if let Some(queue) = self.queues.get_mut(&number)
            && queue.near.is_empty()
            && queue.head.is_none()
        {
            self.total_bytes = self.total_bytes.saturating_sub(queue.bytes);
            (queue.count, queue.bytes, queue.ripe) = (0, 0, 0);
        }
    }

    /// Finds the run whose next item of a queue comes first.
    fn set_head(&mut self, number: u32) {
        let heads = self.runs.iter().filter_map(|(run, held)| {
            let next = held.slices.get(&number)?.next?;
            Some((next, *run))
        });
        let head = heads.min();
        if let Some(queue) = self.queues.get_mut(&number) {
            queue.head = head;
        }
    }

    /// Lets go of runs that nothing is left of.
    fn retire(&mut self) {
        let retired = &mut self.retired;
        let before = self.runs.len();
        self.runs.retain(|number, run| {
            if run.left == 0 {
                retired.push((*number, run.bytes));
            }
            run.left > 0
        });
        if self.runs.len() < before {
            let queues: Vec<u32> = self.queues.keys().copied().collect();
            queues.into_iter().for_each(|queue| self.set_head(queue));
        }
    }

    /// What a snapshot has to say: items in memory, and how far each run was read.
    pub fn in_memory(&self) -> impl Iterator<Item = &T> {
        self.queues.values().flat_map(|queue| queue.near.values())
    }

    /// The runs, for a snapshot.
    pub fn run_states(&self) -> impl Iterator<Item = RunState> {
        self.runs.iter().map(|(number, run)| RunState {
            number: *number,
            shelf: T::SHELF,
            cursors: run.slices.iter().map(|(queue, slice)| (*queue, slice.cursor)).collect(),
            gone: run.gone.clone(),
        })
    }

    /// A snapshot of this state is durable: files of runs that are used up can go. Returns their numbers.
    pub fn saved(&mut self) -> Vec<u32> {
        self.unsaved = 0;
        std::mem::take(&mut self.retired).into_iter().map(|(number, _)| number).collect()
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Queue<T> {
        Queue {
            near: BTreeMap::new(),
            head: None,
            count: 0,
            bytes: 0,
            ripe_upto: 0,
            ripe: 0,
            ripens: None,
        }
    }
}

impl<T: Item> Queue<T> {
    fn forget(&mut self, item: Option<&T>) {
        let Some(item) = item else {
            return;
        };
        self.count = self.count.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(u64::from(item.size()));
        if item.key().time <= self.ripe_upto {
            self.ripe = self.ripe.saturating_sub(1);
        }
    }

    fn set_ripens(&mut self, at: Option<u64>, number: u32, ripening: &mut BTreeSet<(u64, u32)>) {
        if let Some(before) = std::mem::replace(&mut self.ripens, at) {
            ripening.remove(&(before, number));
        }
        if let Some(at) = at {
            ripening.insert((at, number));
        }
    }
}

/// The first key that a later time can have.
fn after_time(time: u64) -> Key {
    Key { time: time.saturating_add(1), segment: 0, slot: 0 }
}

fn has_more<T>(run: &Run<T>, queue: u32) -> bool {
    run.slices.get(&queue).is_some_and(|slice| slice.cursor < slice.count)
}

/// Counts the items of a queue in a run that ripen until `now`.
fn ripen_slice<T: Item>(
    run: &mut Run<T>,
    queue: u32,
    now: u64,
    ripened: &mut u64,
) -> io::Result<()> {
    while let Some(slice) = run.slices.get(&queue)
        && slice.next_ripe.is_some_and(|next| next.time <= now)
    {
        let from = slice.ripe;
        let block = run.block(queue, from)?;
        let ripe = block.items.partition_point(|item| item.key().time <= now);
        let next = match block.items.get(ripe) {
            Some(item) => (from + u32::try_from(ripe).unwrap_or(0), Some(item.key())),
            None => next_item(run, queue, block.end)?,
        };
        let counted = (from..).zip(block.items.iter().take(ripe));
        *ripened += counted.filter(|(index, _)| !run.is_gone(queue, *index)).count() as u64;
        if let Some(slice) = run.slices.get_mut(&queue) {
            (slice.ripe, slice.next_ripe) = next;
        }
    }
    Ok(())
}

/// The first item of a queue that can be read, from number `index` on, and its number.
fn next_item<T: Item>(run: &Run<T>, queue: u32, mut index: u32) -> io::Result<(u32, Option<Key>)> {
    let count = run.slices.get(&queue).map_or(0, |slice| slice.count);
    while index < count {
        let block = run.block(queue, index)?;
        if let Some(item) = block.items.first() {
            return Ok((index, Some(item.key())));
        }
        index = block.end;
    }
    Ok((count, None))
}

/// Moves the cursor of a queue in a run.
fn advance<T: Item>(run: &mut Run<T>, queue: u32, next: (u32, Option<Key>)) {
    let Some(slice) = run.slices.get_mut(&queue) else {
        return;
    };
    // What a damaged block held does not count any more.
    let passed = slice.first + slice.cursor..slice.first + next.0;
    let passed = passed.filter(|index| !run.gone.contains(*index)).count() as u64;
    run.left = run.left.saturating_sub(passed);
    (slice.cursor, slice.next) = next;
    if slice.ripe < slice.cursor {
        (slice.ripe, slice.next_ripe) = next;
    }
}
