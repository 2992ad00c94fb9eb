//! Charges the time that deliveries wait here to what they wait for: see [`crate::store::waits`].

use tokio::time::Instant;

use super::{Blocked, Inner, Outbox};
use crate::event::Wait;

impl Outbox {
    /// The gates were asked, or deliveries came or went: charges what waited up to now, and notes what waits from now on.
    pub(super) fn meter(&self, inner: &mut Inner, now: Instant) {
        let elapsed = now.saturating_duration_since(inner.metered_at);
        inner.metered_at = now;
        let gate = inner.blocked.wait;
        // What holds the whole connection holds these first.
        let whole = gate.holds() || gate == Wait::RetryAfter;
        let unless_held = |wait| if whole { gate } else { wait };
        let ordered = inner.order.as_ref().map_or(0, |order| order.waiting());
        let waiting = [
            (inner.lanes.len() as u64, gate),
            (inner.loading.len() as u64, unless_held(Wait::Memory)),
            (ordered as u64, unless_held(Wait::Ordering)),
        ];
        inner.meter.turn(elapsed, waiting, &self.status.waits);
        if inner.gate != gate {
            inner.gate = gate;
            self.status.waits.set_gate(gate);
        }
    }

    /// Nothing may have changed for long: charges what waited up to now.
    pub(in crate::delivery) fn meter_now(&self, now: Instant) {
        let inner = &mut *self.inner.borrow_mut();
        let elapsed = now.saturating_duration_since(inner.metered_at);
        inner.metered_at = now;
        inner.meter.charge(elapsed, &self.status.waits);
    }

    /// Everything was given back: nothing waits here any more.
    pub(super) fn meter_end(&self, inner: &mut Inner) {
        inner.blocked = Blocked::NOT;
        self.meter(inner, Instant::now());
    }
}
