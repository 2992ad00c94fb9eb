//! A connection with an order: what comes from the store passes [`Order`] before it comes to the lanes.

use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use super::{Inner, Outbox};
use crate::connection::Connection;
use crate::connection::ordering::OnDead;
use crate::delivery::order::{End, Order};
use crate::delivery::runtime::Shared;
use crate::event::{Disposition, Event, EventId};
use crate::metrics::ConnectionMetrics;
use crate::store::ConnectionId;
use crate::store::feed::{Delivery, Lane, Settlement};
use crate::store::suspension::SuspensionKind;

/// The order of a connection that begins, asked of the store.
pub(super) fn order(
    shared: &Rc<Shared>,
    id: ConnectionId,
    (connection, metrics): (&Connection, &ConnectionMetrics),
) -> Option<Box<Order>> {
    let ordering = connection.ordering.as_ref()?;
    let number = shared.next_order();
    // Counters are there from the start.
    metrics.unordered().increment(0);
    shared.feed.order(id, Some(number));
    Some(Box::new(Order::new(ordering.by.clone(), number)))
}

impl Outbox {
    /// New settings are in force. Whether what goes one after the other has changed: then everything that waits is to be
    /// given back.
    pub(super) fn reorder(&self, inner: &mut Inner, old: &Connection) -> bool {
        let settings = self.settings();
        let by = |connection: &Connection| connection.ordering.as_ref().map(|o| o.by.clone());
        let new = by(&settings.connection);
        if by(old) == new {
            return false;
        }
        // Whatever it knows belongs to the old order; what it holds is given back with the rest.
        match (&mut inner.order, new) {
            (Some(order), Some(by)) => order.set_by(by),
            (none, Some(by)) => *none = Some(Box::new(Order::new(by, 0))),
            (Some(order), None) => {
                self.give_back(order.restart(0));
                inner.order = None;
                self.shared.feed.order(self.id, None);
            }
            (None, None) => {}
        }
        true
    }

    /// Gives back what has not started, and asks for everything anew.
    pub(super) fn release_order(&self, inner: &mut Inner) {
        let Some(order) = &mut inner.order else {
            return;
        };
        let number = self.shared.next_order();
        self.give_back(order.restart(number));
        self.shared.feed.order(self.id, (!inner.closed).then_some(number));
    }

    /// The store hands out in order from here on.
    pub(in crate::delivery) fn in_order(&self, number: u64) {
        if let Some(order) = &mut self.inner.borrow_mut().order {
            order.answered(number);
        }
    }

    /// The store shows one that waits for a retry.
    pub(in crate::delivery) fn push_shown(&self, delivery: Delivery, now: Instant) {
        let inner = &mut *self.inner.borrow_mut();
        match &mut inner.order {
            Some(order) => self.give_back(order.push(delivery, true)),
            None => self.shared.feed.release(delivery),
        }
        self.advance(inner, now);
    }

    pub(super) fn push_ordered(&self, inner: &mut Inner, delivery: Delivery, now: Instant) {
        let first_of_delayed = delivery.delayed && delivery.lane == Lane::New;
        let fresh = inner.order.as_ref().is_some_and(|order| order.is_fresh());
        if delivery.lane == Lane::Replay || (first_of_delayed && fresh) {
            inner.lanes.push(delivery, now);
        } else if let Some(order) = &mut inner.order {
            self.give_back(order.push(delivery, false));
            self.advance(inner, now);
        }
    }

    pub(super) fn push_loaded_ordered(
        &self,
        inner: &mut Inner,
        delivery: Delivery,
        event: Arc<Event>,
        now: Instant,
    ) {
        let size = u64::from(delivery.size);
        let mut back = Vec::new();
        let order = inner.order.as_mut();
        let kept = order
            .is_some_and(|order| order.loaded(delivery, event, &mut inner.lanes, (now, &mut back)));
        if !kept {
            self.give_bytes(size);
        }
        self.give_back(back);
    }

    /// Brings forward what may start by now.
    pub(super) fn keep_order(&self, inner: &mut Inner, now: Instant) {
        if inner.order.as_ref().is_some_and(|order| order.is_lost()) {
            self.release_waiting(inner);
        }
        self.advance(inner, now);
    }

    /// Tells the store what came of a delivery, and lets the next of its line go.
    pub(in crate::delivery) fn settle(
        &self,
        delivery: Delivery,
        settlement: Settlement,
        event: EventId,
    ) {
        let end = match settlement.disposition {
            Disposition::RetryAfter(_) => End::Retry(event),
            Disposition::Delivered | Disposition::Dead { .. } => End::Over,
        };
        #[cfg(test)]
        let end = crate::delivery::testing::with_line_defect(end);
        // A worker that panicked inside of this module holds the borrow; then the counts are lost with it.
        match self.inner.try_borrow_mut() {
            Ok(mut inner) if delivery.delayed => {
                if let Some(order) = &mut inner.order {
                    order.note_delayed(event, end != End::Over);
                }
                self.settle_in(&mut inner, delivery, settlement, end);
            }
            Ok(mut inner) => self.settle_in(&mut inner, delivery, settlement, end),
            Err(_) => self.shared.feed.settle(settlement),
        }
    }

    pub(super) fn settle_in(
        &self,
        inner: &mut Inner,
        delivery: Delivery,
        settlement: Settlement,
        end: End,
    ) {
        let dead = matches!(settlement.disposition, Disposition::Dead { .. });
        if let Some(order) = &mut inner.order {
            if dead && order.stands_first(delivery.id) && self.halts() {
                inner.halting.push((delivery, settlement));
                let connection = Arc::clone(&self.settings().connection);
                return self.suspend(inner, &connection, SuspensionKind::Halted);
            }
            order.ended(delivery.id, end, &mut inner.lanes, Instant::now());
        }
        if dead {
            self.metrics.deliveries.dead.increment(1);
        }
        self.shared.feed.settle(settlement);
    }

    fn halts(&self) -> bool {
        let settings = self.settings();
        let ordering = settings.connection.ordering.as_ref();
        ordering.is_some_and(|ordering| ordering.on_dead == OnDead::Halt)
    }

    /// The connection is held for certain, or goes on: those that halted it are dead.
    pub(super) fn settle_halting(&self, inner: &mut Inner) {
        for (delivery, settlement) in std::mem::take(&mut inner.halting) {
            if let Some(order) = &mut inner.order {
                order.ended(delivery.id, End::Over, &mut inner.lanes, Instant::now());
            }
            self.metrics.deliveries.dead.increment(1);
            self.shared.feed.settle(settlement);
        }
    }

    /// Gives back a delivery that was let go and not tried to an end.
    pub(in crate::delivery) fn give_up(&self, delivery: Delivery) {
        if let Ok(mut inner) = self.inner.try_borrow_mut() {
            let inner = &mut *inner;
            if let Some(order) = &mut inner.order {
                order.ended(delivery.id, End::Released, &mut inner.lanes, Instant::now());
            }
        }
        self.shared.feed.release(delivery);
    }

    fn advance(&self, inner: &mut Inner, now: Instant) {
        let Some(order) = &mut inner.order else {
            return;
        };
        let mut back = Vec::new();
        order.advance(&mut inner.lanes, now, &mut back);
        let unkeyed = order.take_unkeyed();
        if let Some(parked) = order.report() {
            self.shared.feed.parked(self.id, parked);
        }
        if unkeyed > 0 {
            self.metrics.unordered().increment(unkeyed);
        }
        self.give_back(back);
    }

    fn give_back(&self, deliveries: impl IntoIterator<Item = Delivery>) {
        deliveries.into_iter().for_each(|delivery| self.shared.feed.release(delivery));
    }
}
