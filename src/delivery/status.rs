//! What one connection is doing, readable from any thread. Written by its runtime alone; figures that belong together
//! may be one step apart.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use super::notice::Wanted;
use crate::connection::breaker::Phase;
use crate::event::Cause;
use crate::store::waits::Waits;

/// Gauges of one connection.
#[derive(Debug, Default)]
pub struct Status {
    /// Workers with a delivery.
    pub in_flight: AtomicU32,
    /// Workers, and so HTTP connections open or being opened.
    pub open: AtomicU32,
    /// Workers without a delivery.
    pub idle: AtomicU32,
    /// Deliveries that are due and wait here.
    pub waiting: AtomicU32,
    /// Until when a `Retry-After` holds it, in milliseconds of [`crate::clock::Clock::monotonic`]; 0 when none does.
    pub hold_until_ms: AtomicU64,
    /// What its deliveries have waited for; shared with the store.
    pub waits: Arc<Waits>,
    /// The number of the breaker's [`Phase`].
    breaker: AtomicU8,
    /// Wall clock of the last failure in milliseconds; 0 when there was none.
    failed_ms: AtomicU64,
    /// Its cause's number and its status, `cause << 16 | status`.
    failure: AtomicU32,
    /// What the control loop wants to be told of it, as [`Wanted::to_bits`].
    wanted: AtomicU8,
    /// What it was not told, for want of room.
    untold: AtomicU64,
}

/// The last attempt that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastFailure {
    /// Wall clock in milliseconds.
    pub at_ms: u64,
    /// Why.
    pub cause: Cause,
    /// The response's status; 0 when there was none.
    pub status: u16,
}

impl Status {
    pub(super) fn new(waits: Arc<Waits>) -> Status {
        Status { waits, ..Status::default() }
    }

    /// The last attempt that failed, if one has.
    pub fn last_failure(&self) -> Option<LastFailure> {
        let failure = self.failure.load(Ordering::Relaxed);
        Some(LastFailure {
            at_ms: self.failed_ms.load(Ordering::Relaxed),
            cause: Cause::from_number(u8::try_from(failure >> 16).ok()?)?,
            status: u16::try_from(failure & 0xffff).ok()?,
        })
    }

    /// How the breaker stands; closed where there is none.
    pub fn breaker(&self) -> Phase {
        let number = usize::from(self.breaker.load(Ordering::Relaxed));
        Phase::ALL.get(number).copied().unwrap_or_default()
    }

    /// From now on the control loop is told this of the connection.
    pub fn want(&self, wanted: Wanted) {
        self.wanted.store(wanted.to_bits(), Ordering::Relaxed);
    }

    pub(super) fn wanted(&self) -> Wanted {
        Wanted::from_bits(self.wanted.load(Ordering::Relaxed))
    }

    /// How many notices found no room since this was asked last.
    pub fn take_untold(&self) -> u64 {
        self.untold.swap(0, Ordering::Relaxed)
    }

    pub(super) fn note_untold(&self) {
        self.untold.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn set_breaker(&self, phase: Phase) {
        self.breaker.store(phase as u8, Ordering::Relaxed);
    }

    pub(super) fn note_failure(&self, failure: LastFailure) {
        self.failed_ms.store(failure.at_ms, Ordering::Relaxed);
        let packed = u32::from(failure.cause as u8) << 16 | u32::from(failure.status);
        self.failure.store(packed, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_breaker_reads_back() {
        let status = Status::default();
        assert_eq!(status.breaker(), Phase::Closed);
        for phase in Phase::ALL {
            status.set_breaker(phase);
            assert_eq!(status.breaker(), phase);
        }
    }

    #[test]
    fn what_is_wanted_reads_back() {
        let status = Status::default();
        assert_eq!(status.wanted(), Wanted::default());
        for bits in 0..8 {
            let wanted = Wanted::from_bits(bits);
            status.want(wanted);
            assert_eq!((status.wanted(), wanted.to_bits()), (wanted, bits));
        }
    }

    #[test]
    fn the_last_failure_reads_back() {
        let status = Status::default();
        assert_eq!(status.last_failure(), None);
        let failure = LastFailure { at_ms: 7, cause: Cause::Internal, status: 65_535 };
        status.note_failure(failure);
        assert_eq!(status.last_failure(), Some(failure));
    }
}
