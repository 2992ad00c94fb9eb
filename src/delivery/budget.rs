//! Payload bytes of one runtime: how much its connections may hold in memory together, and each of them alone.
//!
//! Nobody waits here: a connection that gets no is looked at again ([`Revisits`]) when bytes come back.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use tokio::sync::Notify;

use super::outbox::Outbox;

/// One connection may hold `1 / SHARE` of its runtime's bytes: with three eighths of all memory for egress, the eighth
/// of spec 11.
const SHARE: u64 = 3;

/// The bytes of one runtime.
#[derive(Debug)]
pub(super) struct Budget {
    limit: u64,
    used: Cell<u64>,
}

/// What asking for bytes came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// They may be taken.
    Free,
    /// The connection holds its share; it gets more when it gives some back.
    ShareHeld,
    /// All of the runtime's bytes are held.
    AllHeld,
}

impl Budget {
    pub(super) fn new(limit: u64) -> Budget {
        Budget { limit, used: Cell::new(0) }
    }

    /// Whether a connection that holds `held` may take `size` more. Whoever holds nothing may always take one payload.
    pub(super) fn room(&self, held: u64, size: u64) -> Room {
        if held == 0 {
            Room::Free
        } else if held.saturating_add(size) > self.limit / SHARE {
            Room::ShareHeld
        } else if self.used.get().saturating_add(size) > self.limit {
            Room::AllHeld
        } else {
            Room::Free
        }
    }

    pub(super) fn take(&self, size: u64) {
        self.used.set(self.used.get().saturating_add(size));
    }

    pub(super) fn give_back(&self, size: u64) {
        self.used.set(self.used.get().saturating_sub(size));
    }
}

/// Connections that the runtime is to look at again, in order of asking.
#[derive(Debug, Default)]
pub(super) struct Revisits {
    /// Wait for bytes.
    hungry: RefCell<Vec<Weak<Outbox>>>,
    /// To be looked at now.
    due: RefCell<Vec<Weak<Outbox>>>,
    wake: Notify,
}

impl Revisits {
    /// Look at it when bytes come back.
    pub(super) fn when_bytes_return(&self, outbox: &Rc<Outbox>) {
        self.hungry.borrow_mut().push(Rc::downgrade(outbox));
    }

    /// Bytes have come back.
    pub(super) fn bytes_returned(&self) {
        let mut hungry = self.hungry.borrow_mut();
        if !hungry.is_empty() {
            self.due.borrow_mut().append(&mut hungry);
            self.wake.notify_one();
        }
    }

    /// Look at it in the runtime's own time: for those who must not start tasks where they are, such as destructors.
    pub(super) fn soon(&self, outbox: &Rc<Outbox>) {
        self.due.borrow_mut().push(Rc::downgrade(outbox));
        self.wake.notify_one();
    }

    /// Waits until there is one to look at. Cancel safe.
    pub(super) async fn next(&self) -> Vec<Weak<Outbox>> {
        loop {
            let due = std::mem::take(&mut *self.due.borrow_mut());
            if !due.is_empty() {
                return due;
            }
            self.wake.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_third_and_one_payload_always_fits() {
        let budget = Budget::new(300);
        assert_eq!(budget.room(0, 1000), Room::Free);
        assert_eq!(budget.room(50, 50), Room::Free);
        assert_eq!(budget.room(50, 51), Room::ShareHeld);
        budget.take(280);
        assert_eq!(budget.room(10, 21), Room::AllHeld);
        assert_eq!(budget.room(10, 20), Room::Free);
        budget.give_back(1);
        assert_eq!(budget.room(10, 21), Room::Free);
    }
}
