//! The limit of open connections, over all runtimes. It can change while connections are open: a smaller limit takes hold as
//! they end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// See the module.
#[derive(Debug)]
pub(super) struct Slots {
    free: Arc<Semaphore>,
    /// The limit as last set.
    limit: AtomicUsize,
    /// Slots that are still taken and will not become free, because the limit was made smaller.
    surplus: AtomicUsize,
}

/// The place of one connection; dropping it makes it free.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Slots {
    pub(super) fn new(limit: usize) -> Arc<Slots> {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        Arc::new(Slots {
            free: Arc::new(Semaphore::new(limit)),
            limit: AtomicUsize::new(limit),
            surplus: AtomicUsize::new(0),
        })
    }

    /// Waits for a free slot. Cancel safe.
    pub(super) async fn take(self: &Arc<Slots>) -> Slot {
        Slot {
            slots: Arc::clone(self),
            // An error would mean a closed semaphore, and nobody closes it.
            permit: Arc::clone(&self.free).acquire_owned().await.ok(),
        }
    }

    /// Changes the limit. Called by one thread, the one that reloads.
    pub(super) fn set_limit(&self, limit: usize) {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        let before = self.limit.swap(limit, Ordering::Relaxed);
        if limit >= before {
            let more = limit - before;
            let kept = self.take_surplus(more);
            self.free.add_permits(more - kept);
        } else {
            let less = before - limit;
            let taken = less - self.free.forget_permits(less);
            self.surplus.fetch_add(taken, Ordering::Relaxed);
        }
    }

    /// Takes up to `most` out of the surplus; returns how many.
    fn take_surplus(&self, most: usize) -> usize {
        let less = |surplus: usize| Some(surplus - surplus.min(most));
        self.surplus
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .map_or(0, |surplus| surplus.min(most))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take()
            && self.slots.take_surplus(1) == 1
        {
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Free slots after `limits` were set in turn while `open` of the first limit's slots are taken, then after these are free.
    async fn check(limits: &[usize], open: usize, expected: (usize, usize)) {
        let slots = Slots::new(limits[0]);
        let mut taken = Vec::new();
        for _ in 0..open {
            taken.push(slots.take().await);
        }
        for limit in &limits[1..] {
            slots.set_limit(*limit);
        }
        let before = slots.free.available_permits();
        drop(taken);
        let found = (before, slots.free.available_permits());
        assert_eq!(found, expected, "{limits:?}, {open} open");
    }

    #[tokio::test(start_paused = true)]
    async fn the_limit_grows_and_shrinks() {
        check(&[4], 3, (1, 4)).await;
        check(&[4, 6], 3, (3, 6)).await;
        check(&[4, 2], 1, (1, 2)).await;
        check(&[4, 2], 3, (0, 2)).await;
        check(&[4, 1, 3], 4, (0, 3)).await;
        check(&[4, 1, 9], 4, (5, 9)).await;
        check(&[4, 2, 1, 4], 3, (1, 4)).await;
    }
}
