//! The end of dead letters: those kept long enough, and the oldest of those that are too many together.

use std::time::Duration;

use super::super::dead_letter::DeadLetter;
use super::super::marks::Place;
use super::super::{ConnectionId, Limit};
use super::{TROUBLE_RETRY, Writer};

/// The longest time between two looks.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Letters dropped in one turn: the others wait for the next one.
const AT_ONCE: usize = 1024;

impl Writer {
    /// Drops dead letters that are past `keep_dead` or its cap, if it is time.
    pub(super) fn expire_dead(&mut self, now: Duration) {
        let Limit { age, bytes } = self.options.keep.dead;
        let too_many = self.state.dead.total_bytes() > bytes;
        let due = too_many || self.times.next_expiry.is_some_and(|at| now >= at);
        if !due || now < self.times.expiry_retry {
            return;
        }
        let kept_since = self.clock.age().0.saturating_sub(crate::clock::millis(age));
        let mut left = AT_ONCE;
        for number in 0..self.state.streams.len() {
            let id = ConnectionId(u32::try_from(number).unwrap_or(u32::MAX));
            left -= self.drop_dead(id, left, "they were kept for keep_dead", |writer| {
                // What died at this very time is kept for one millisecond longer.
                let popped = writer.state.dead.pop_upto(id.0, kept_since.checked_sub(1)?);
                writer.readable(popped)?
            });
        }
        while left > 0 && self.state.dead.total_bytes() > bytes {
            let Some(id) = self.state.dead.largest().map(ConnectionId) else {
                break;
            };
            let dropped = self.drop_dead(id, left, "keep_dead_bytes is reached", |writer| {
                let largest = writer.state.dead.largest() == Some(id.0);
                if !largest || writer.state.dead.total_bytes() <= bytes {
                    return None;
                }
                let popped = writer.state.dead.pop_upto(id.0, u64::MAX);
                writer.readable(popped)?
            });
            if dropped == 0 {
                // The disk does not give it.
                self.times.expiry_retry = now + TROUBLE_RETRY;
                break;
            }
            left -= dropped;
        }
        self.plan_expiry(now, left == 0);
    }

    /// Ends letters of one connection as long as `next` gives some; how many.
    fn drop_dead(
        &mut self,
        id: ConnectionId,
        most: usize,
        why: &'static str,
        next: impl Fn(&mut Writer) -> Option<DeadLetter>,
    ) -> usize {
        let mut dropped = 0;
        while dropped < most
            && let Some(dead) = next(self)
        {
            let place = Place::from(dead.id);
            self.log.note_delivered(place);
            self.end(place);
            dropped += 1;
        }
        if dropped > 0 {
            self.shared.metrics.dead_dropped.increment(dropped as u64);
            self.touch(id);
            let connection = self.state.streams.get(id.0 as usize).map(|stream| &*stream.name);
            tracing::warn!(connection, dropped, "Dropped the oldest dead letters: {why}.");
        }
        dropped
    }

    fn plan_expiry(&mut self, now: Duration, more: bool) {
        let kept_for = crate::clock::millis(self.options.keep.dead.age);
        let age = self.clock.age().0;
        self.times.next_expiry = self.state.dead.first_time().map(|died| {
            let wait = died.saturating_add(kept_for).saturating_add(1).saturating_sub(age);
            let wait = if more { Duration::ZERO } else { Duration::from_millis(wait) };
            // One that could not be read is tried again, and none waits for a change of the configuration.
            now + wait.clamp(if more { Duration::ZERO } else { TROUBLE_RETRY }, LOOK_AGAIN)
        });
        let Limit { bytes, .. } = self.options.keep.dead;
        self.shared.metrics.dead_bytes.set(self.state.dead.total_bytes() as f64);
        self.shared.metrics.dead_max_bytes.set(bytes as f64);
    }
}
