//! The counters of one connection's queue, shared by ingress (which reserves room), the store (which gives it back) and
//! the metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::waits::Waits;

/// How much of one connection is in the store. All figures are of deliveries that are not over, unless said otherwise.
#[derive(Debug, Default)]
pub struct QueueCounters {
    /// Deliveries: queued, scheduled, held and in flight together.
    pub live: AtomicU64,
    /// Their bytes.
    pub live_bytes: AtomicU64,
    /// Those that wait for a time.
    pub scheduled: AtomicU64,
    /// Those handed to the egress and not settled.
    pub handed_out: AtomicU64,
    /// Dead letters kept (these are over).
    pub dead: AtomicU64,
    /// What its deliveries have waited for.
    pub waits: Arc<Waits>,
}

impl QueueCounters {
    /// Takes room for one delivery of `bytes` if the queue stays within `max_events` and `max_bytes`.
    pub fn try_reserve(&self, bytes: u64, max_events: u64, max_bytes: u64) -> bool {
        let live = self.live.fetch_add(1, Ordering::Relaxed);
        let live_bytes = self.live_bytes.fetch_add(bytes, Ordering::Relaxed);
        if live < max_events && live_bytes.saturating_add(bytes) <= max_bytes {
            return true;
        }
        self.give_back(bytes);
        false
    }

    /// Takes `bytes` more for a delivery that has room already.
    pub(super) fn grow(&self, bytes: u64) {
        self.live_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A delivery's record has another size now.
    pub(super) fn resize(&self, old: u64, new: u64) {
        self.live_bytes.fetch_add(new, Ordering::Relaxed);
        self.live_bytes.fetch_sub(old, Ordering::Relaxed);
    }

    /// Counts deliveries found at a start.
    pub(super) fn recover(&self, deliveries: u64, bytes: u64) {
        self.live.fetch_add(deliveries, Ordering::Relaxed);
        self.live_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes room for a delivery that was over and lives again, whatever the caps say.
    pub(super) fn put_back(&self, bytes: u64) {
        self.live.fetch_add(1, Ordering::Relaxed);
        self.live_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Gives the room of one delivery of `bytes` back.
    pub fn give_back(&self, bytes: u64) {
        self.give_back_many(1, bytes);
    }

    /// Gives the room of some deliveries back that are `bytes` together.
    pub(super) fn give_back_many(&self, deliveries: u64, bytes: u64) {
        self.live.fetch_sub(deliveries, Ordering::Relaxed);
        self.live_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserving_stops_at_either_cap_and_leaves_no_trace() {
        let queue = QueueCounters::default();
        assert!(queue.try_reserve(10, 2, 100));
        assert!(queue.try_reserve(90, 2, 100));
        assert!(!queue.try_reserve(0, 2, 100), "events");
        queue.give_back(10);
        assert!(!queue.try_reserve(11, 2, 100), "bytes");
        assert!(queue.try_reserve(10, 2, 100));
        assert_eq!(queue.live_bytes.load(Ordering::Relaxed), 100);
    }
}
