//! Keeping what is over: a drained segment stays for `keep.delivered`, so that its events can be looked up and replayed.
//!
//! The age counts from the acceptance of the segment's newest event, in store time, so it goes on over restarts and no step
//! of the wall clock ends it. All kept segments together take at most the limit's bytes: the oldest go first. A segment
//! with little left in it is not compacted while it would be kept; it counts too.
//!
//! **Invariant:** what is only kept never makes the store refuse an event. When the cap or the disk leaves no room, kept
//! segments are given up, oldest first. The marks that end a kept segment are durable before it is kept, so giving it up
//! needs no sync of the state log.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use super::super::spare_name;
use super::super::state::Segment;
use super::Writer;
use super::commit::is_full;
use super::compact::LOOK_AFTER;
use crate::clock::Age;

/// While segments are kept from being compacted, it is looked at them at least this often.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Drained segments that are kept.
#[derive(Debug, Default)]
pub(in crate::store) struct Kept {
    /// Bytes by age of the newest event and number: the oldest first.
    segments: BTreeMap<(Age, u32), u64>,
    bytes: u64,
    /// When the first of those that are not compacted for this reason may be.
    withheld_until: Option<Age>,
}

impl Kept {
    /// Bytes of all of them.
    pub(in crate::store) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn insert(&mut self, newest: Age, number: u32, bytes: u64) {
        self.remove(newest, number);
        self.segments.insert((newest, number), bytes);
        self.bytes += bytes;
    }

    fn remove(&mut self, newest: Age, number: u32) {
        let bytes = self.segments.remove(&(newest, number)).unwrap_or(0);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    fn oldest(&self) -> Option<(Age, u32)> {
        self.segments.keys().next().copied()
    }
}

impl Writer {
    /// When the oldest kept segment has been kept for long enough.
    pub(super) fn kept_until(&self) -> Option<Age> {
        let (newest, _) = self.kept.oldest()?;
        Some(newest.after(self.options.keep.delivered.age))
    }

    /// Lets kept segments go whose time is over, or that are too many.
    pub(super) fn let_kept_go(&mut self, now: Duration) {
        if !self.trouble_is_over(now) || now < self.times.give_back.max(self.times.keys_retry) {
            return;
        }
        let limit = self.options.keep.delivered;
        let age = self.clock.age();
        let mut gone = Vec::new();
        while let Some((newest, number)) = self.kept.oldest() {
            let early = newest.after(limit.age) > age;
            if early && self.kept.bytes <= limit.bytes {
                break;
            }
            self.kept.remove(newest, number);
            self.shared.metrics.kept_given_up.increment(u64::from(early));
            gone.push(number);
        }
        if !gone.is_empty() {
            self.give_up(gone, now);
        }
    }

    /// Keeps drained segments that are young enough instead of giving them back. Their marks are durable.
    pub(super) fn keep_drained(&mut self) {
        let limit = self.options.keep.delivered;
        if limit.age.is_zero() || self.trouble.is_some_and(|trouble| trouble.full) {
            return;
        }
        let now = self.clock.age();
        for number in std::mem::take(&mut self.drained) {
            let Some(segment) = self.state.segments.get(&number).filter(|found| found.live == 0)
            else {
                continue;
            };
            let newest = segment.newest;
            if newest.after(limit.age) <= now {
                self.drained.push(number);
                continue;
            }
            self.cut_to_size(number);
            let bytes = self.state.segments.get(&number).map_or(0, bytes_of);
            self.kept.insert(newest, number, bytes);
        }
        self.publish_sizes();
    }

    /// Gives the unused end of a file free, when it is most of the file: a segment that a stop ended early would be kept
    /// whole for little.
    fn cut_to_size(&mut self, number: u32) {
        let Some(segment) = self.state.segments.get_mut(&number) else {
            return;
        };
        if segment.end > segment.file_bytes / 2 {
            return;
        }
        // If it cannot be cut, it is kept as it is.
        if let Some(file) = self.files.get(number)
            && file.file.set_len(segment.end).and_then(|()| file.file.sync_data()).is_ok()
        {
            segment.file_bytes = segment.end;
        }
    }

    /// Something in a segment is needed again.
    pub(super) fn keep_no_longer(&mut self, number: u32) {
        if let Some(segment) = self.state.segments.get(&number) {
            self.kept.remove(segment.newest, number);
        }
    }

    /// Gives up the oldest kept segment because its space is needed. Whether that gave space.
    pub(super) fn give_up_kept(&mut self, now: Duration) -> bool {
        let Some((newest, number)) = self.kept.oldest() else {
            return false;
        };
        self.kept.remove(newest, number);
        self.shared.metrics.kept_given_up.increment(1);
        self.give_up(vec![number], now);
        !self.state.segments.contains_key(&number)
    }

    /// Gives segments back whose marks are durable. What was drained a moment ago may not have durable marks yet: it waits
    /// for its own turn. What cannot be given back now is tried again with it.
    fn give_up(&mut self, numbers: Vec<u32>, now: Duration) {
        let drained = std::mem::replace(&mut self.drained, numbers);
        if self.keep_keys(now) {
            self.give_segments_back(now);
        }
        self.drained.extend(drained);
    }

    /// Does `work` again, as long as it fails because there is no space and something that is only kept can be given up
    /// for it. `of` is the size of the file that it makes: only a whole segment can be written over a spare one.
    pub(super) fn with_space_of_kept<T>(
        &mut self,
        of: u64,
        mut work: impl FnMut(&mut Writer) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            match work(self) {
                Err(error) if is_full(&error) => {
                    if !self.give_up_kept(self.clock.monotonic()) {
                        return Err(error);
                    }
                    if of != self.options.segment_bytes {
                        self.remove_spares();
                    }
                }
                done => return done,
            }
        }
    }

    fn remove_spares(&mut self) {
        let disk = &self.disk;
        self.spares.retain(|number| disk.remove(&spare_name(*number)).is_err());
    }

    /// Takes away those of these sparse segments, in order of age, that are not to be compacted because they would be kept.
    pub(super) fn withhold_sparse(&mut self, candidates: &mut Vec<u32>) {
        self.kept.withheld_until = None;
        let limit = self.options.keep.delivered;
        if limit.age.is_zero() || !self.has_room_to_keep() {
            return;
        }
        let now = self.clock.age();
        let mut bytes = self.kept.bytes;
        let mut until: Option<Age> = None;
        let segments = &self.state.segments;
        // The newest first: it is the oldest that go.
        let mut compacted: Vec<u32> = Vec::new();
        for number in candidates.iter().rev() {
            let Some(segment) = segments.get(number) else {
                continue;
            };
            let end = segment.newest.after(limit.age);
            bytes = bytes.saturating_add(bytes_of(segment));
            if end <= now || bytes > limit.bytes {
                compacted.push(*number);
            } else {
                until = Some(until.map_or(end, |until| until.min(end)));
            }
        }
        compacted.reverse();
        *candidates = compacted;
        self.kept.withheld_until = until;
    }

    /// When to look again at segments that are not compacted now, if there are any.
    pub(super) fn look_at_withheld(&self, now: Duration) -> Option<Duration> {
        let until = self.kept.withheld_until?.since(self.clock.age());
        Some(now + until.clamp(LOOK_AFTER, LOOK_AGAIN))
    }

    /// Whether a few more segments fit: compaction needs time and space, so it begins before the store is full.
    fn has_room_to_keep(&self) -> bool {
        let wanted = 2 * self.options.segment_bytes;
        let free = self.disk.free_bytes().unwrap_or(u64::MAX);
        self.bytes_on_disk() + wanted <= self.options.max_bytes && free >= wanted
    }
}

/// Bytes that a segment takes with its index.
pub(super) fn bytes_of(segment: &Segment) -> u64 {
    segment.file_bytes + segment.index_bytes
}
