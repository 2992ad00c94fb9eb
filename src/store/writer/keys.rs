//! Idempotency keys, as the writer keeps them: with the segment that grows, and on when a segment is given back.

use std::io;
use std::time::Duration;

use super::super::keys::{KeyRecord, Newest, push_bounded};
use super::super::segment_index::SegmentIndex;
use super::super::state::Entries;
use super::commit::is_full;
use super::{TROUBLE_RETRY, Writer, give_up_reserve};

impl Writer {
    /// Notes the key of an event that is on the disk, for its segment's index.
    pub(super) fn note_key(&mut self, number: u32, key: KeyRecord) {
        let max = self.options.keys.max_keys;
        let Some(segment) = self.state.segments.get_mut(&number) else {
            return;
        };
        segment.newest_key = segment.newest_key.max(Some(key.age()));
        if let Entries::Memory(index) = &mut segment.entries {
            push_bounded(&mut index.keys, key, max);
        }
    }

    /// Makes the keys of drained segments durable elsewhere. Whether the segments may be given back.
    ///
    /// A disk that has no space even with the reserve must not keep the segments from being given back: then the keys are
    /// remembered by this process alone. After any other failure it is tried again.
    pub(super) fn keep_keys(&mut self, now: Duration) -> bool {
        if now < self.times.keys_retry {
            return false;
        }
        let floor = self.floor.at(self.clock.age(), self.options.keys.window);
        let mut newest = Newest::new(self.options.keys.max_keys);
        for number in &self.drained {
            let has_some = |segment: &&super::super::state::Segment| {
                segment.live == 0 && segment.newest_key >= Some(floor)
            };
            if self.state.segments.get(number).filter(has_some).is_some() {
                self.segment_keys(*number, &mut newest);
            }
        }
        let keys = newest.finish(floor);
        let kept = self.write_keys(&keys);
        self.key_log.forget(&*self.disk, floor);
        match kept {
            Ok(written) => self.shared.metrics.written_bytes.increment(written),
            Err(error) => {
                self.shared.metrics.errors.increment(1);
                if is_full(&error) {
                    tracing::warn!(%error, keys = keys.len(), "No space to keep idempotency keys of drained segments; a restart forgets them.");
                    return true;
                }
                tracing::warn!(%error, "Could not keep idempotency keys; their segments stay until it works.");
                self.times.keys_retry = now + TROUBLE_RETRY;
                return false;
            }
        }
        true
    }

    fn write_keys(&mut self, keys: &[KeyRecord]) -> io::Result<u64> {
        let mut keep = || {
            let fresh = (self.rng.u64(..), self.clock.wall_ms());
            self.key_log.keep(&*self.disk, keys, fresh)
        };
        keep().or_else(|error| give_up_reserve(&*self.disk, error).and_then(|()| keep()))
    }

    /// The keys of a segment: from memory, from its index file, or from its records where that does not validate.
    fn segment_keys(&self, number: u32, newest: &mut Newest) {
        let Some(segment) = self.state.segments.get(&number) else {
            return;
        };
        match &segment.entries {
            Entries::Memory(index) => index.keys.iter().for_each(|key| newest.push(*key)),
            Entries::File(index) => {
                let keys = SegmentIndex::read_keys(&index.file).or_else(|| {
                    let (index, _) = SegmentIndex::rebuild(&self.files.get(number)?).ok()?;
                    Some(index.keys)
                });
                keys.into_iter().flatten().for_each(|key| newest.push(key));
            }
        }
    }
}
