//! The memory that bodies may take between the first byte read and the store's acknowledgement. A request reserves its
//! bytes before it reads them; when the budget is spent, it is refused with 503 `memory_full` instead of read.

use std::sync::atomic::{AtomicU64, Ordering};

/// What one event takes beside its content: the event itself, its routes, its place in the queue to the writer.
pub(super) const EVENT_OVERHEAD_BYTES: u64 = 512;

/// A count of bytes with a limit, shared by all ingress runtimes.
#[derive(Debug)]
pub struct MemoryBudget {
    used: AtomicU64,
    limit: u64,
}

impl MemoryBudget {
    /// A budget of `limit` bytes, none of them used.
    pub fn new(limit: u64) -> MemoryBudget {
        MemoryBudget { used: AtomicU64::new(0), limit }
    }

    /// Bytes reserved now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes `bytes` out of the budget until the reservation is dropped; `None` when they do not fit.
    pub(super) fn reserve(&self, bytes: u64) -> Option<Reservation<'_>> {
        let mut reservation = Reservation { budget: self, bytes: 0 };
        reservation.grow(bytes).then_some(reservation)
    }
}

/// Bytes taken out of a [`MemoryBudget`]; dropping it gives them back.
#[derive(Debug)]
pub(super) struct Reservation<'a> {
    budget: &'a MemoryBudget,
    bytes: u64,
}

impl Reservation<'_> {
    /// Takes `more` bytes. Whoever is alone always may, so that no legal body is larger than the budget for ever.
    pub(super) fn grow(&mut self, more: u64) -> bool {
        let before = self.budget.used.fetch_add(more, Ordering::Relaxed);
        let fits = before.saturating_add(more) <= self.budget.limit || before == self.bytes;
        if fits {
            self.bytes += more;
        } else {
            self.budget.used.fetch_sub(more, Ordering::Relaxed);
        }
        fits
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_holds_and_drops_give_back() {
        let budget = MemoryBudget::new(100);
        let mut first = budget.reserve(60).unwrap();
        assert!(budget.reserve(41).is_none());
        let second = budget.reserve(40).unwrap();
        assert!(!first.grow(1));
        drop(second);
        assert!(first.grow(40));
        assert_eq!(budget.used(), 100);
        drop(first);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn one_alone_may_exceed_it() {
        let budget = MemoryBudget::new(100);
        let mut alone = budget.reserve(101).unwrap();
        assert!(alone.grow(10));
        assert!(budget.reserve(1).is_none());
        drop(alone);
        assert_eq!(budget.used(), 0);
    }
}
