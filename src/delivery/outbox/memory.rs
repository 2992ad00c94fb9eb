//! Payloads of one connection in memory: its bytes, and asking the store for those that are next.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use super::{Inner, Outbox};
use crate::clock::millis;
use crate::connection::Connection;
use crate::delivery::budget::Room;
use crate::event::Event;
use crate::store::feed::Delivery;

/// Payloads asked for at one time.
const LOAD_EVENTS: usize = 64;

/// Loaded payloads below which the next batch is asked for.
const LOAD_LOW: usize = 16;

impl Outbox {
    /// A payload has come, or cannot be read.
    pub(in crate::delivery) fn push_loaded(
        &self,
        delivery: Delivery,
        event: Option<Arc<Event>>,
        now: Instant,
    ) {
        let mut inner = self.inner.borrow_mut();
        let asked = inner.loading.iter().position(|(id, _)| *id == delivery.id);
        match asked {
            Some(place) => drop(inner.loading.remove(place)),
            // The one before this attachment asked for it; its bytes were given back then.
            None => self.take_bytes(u64::from(delivery.size)),
        }
        match event {
            Some(event) if inner.order.is_some() => {
                self.push_loaded_ordered(&mut inner, delivery, event, now);
            }
            Some(event) => inner.lanes.push_loaded(delivery, event, now),
            None => {
                if let Some(order) = &mut inner.order {
                    order.unreadable(delivery.id);
                }
                drop(inner);
                self.give_bytes(u64::from(delivery.size));
                self.settle_unreadable(&delivery);
            }
        }
    }

    /// Asks the store for the payloads that are next and not in memory: one batch at a time, within the byte permits.
    pub(super) fn load_ahead(self: &Rc<Outbox>, inner: &mut Inner, connection: &Connection) {
        if !inner.loading.is_empty() || inner.lanes.loaded_len() >= LOAD_LOW {
            return;
        }
        let most = look_ahead(connection);
        let mut batch = Vec::new();
        let mut refused = Room::Free;
        while batch.len() < most {
            let room = Cell::new(Room::Free);
            let fits = |size| {
                room.set(self.shared.budget.room(self.held_bytes.get(), size));
                room.get() == Room::Free
            };
            let cold = inner.lanes.pop_cold(fits).map(|entry| entry.delivery);
            let unknown = || inner.order.as_mut().and_then(|order| order.next_cold(fits));
            let Some(delivery) = cold.or_else(unknown) else {
                refused = room.get();
                break;
            };
            let size = u64::from(delivery.size);
            self.take_bytes(size);
            inner.loading.push_back((delivery.id, size));
            batch.push(delivery);
        }
        if batch.is_empty() {
            self.wait_for_bytes(inner, refused);
        } else {
            self.shared.feed.load(batch);
        }
    }

    pub(super) fn wait_for_bytes(self: &Rc<Outbox>, inner: &mut Inner, room: Room) {
        if room != Room::Free && !std::mem::replace(&mut inner.hungry, true) {
            self.shared.revisits.when_bytes_return(self);
        }
    }

    pub(super) fn take_bytes(&self, size: u64) {
        self.held_bytes.set(self.held_bytes.get() + size);
        self.shared.budget.take(size);
    }

    /// A payload is no longer held.
    pub(in crate::delivery) fn give_bytes(&self, size: u64) {
        if size > 0 {
            self.held_bytes.set(self.held_bytes.get().saturating_sub(size));
            self.shared.budget.give_back(size);
            self.shared.revisits.bytes_returned();
        }
    }
}

/// Payloads worth asking for at one time. What is loaded and not sent takes room from others, so a connection with a low
/// rate limit looks less far ahead: its burst, or what it sends in a tenth of a second.
fn look_ahead(connection: &Connection) -> usize {
    let most = u64::from(connection.max_in_flight) * 2;
    let most = match connection.rate_limit {
        Some(rate) => {
            let soon = u64::from(rate.limit) * 100 / millis(rate.per).max(1);
            most.min(soon.max(u64::from(rate.burst)))
        }
        None => most,
    };
    usize::try_from(most).map_or(LOAD_EVENTS, |most| most.clamp(1, LOAD_EVENTS))
}
