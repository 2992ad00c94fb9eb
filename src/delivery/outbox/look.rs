//! How one delivery stands, for those who ask why it waits; and which gate said no last.

use std::time::Duration;

use tokio::time::Instant;

use super::{Inner, Outbox};
use crate::connection::{Connection, State};
use crate::event::{EventId, Wait};
use crate::store::DeliveryId;

/// What the gates said to the next delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// Which gate said no; [`Wait::Turn`]: none of them.
    pub wait: Wait,
    /// How long until it opens, if that is known.
    pub left: Option<Duration>,
}

/// How one delivery stands with its egress runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Where it is.
    pub place: Place,
    /// What its connection waits for.
    pub gate: Gate,
    /// Attempts of the connection that are under way.
    pub in_flight: u32,
}

/// Where a delivery is in its egress runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It waits for the gates.
    Waiting,
    /// Its payload is being read.
    Loading,
    /// It stands behind others of its ordering key; the first of them, if it is known.
    Behind(Option<EventId>),
    /// It is dead, and the connection is about to be halted for it.
    Halting,
    /// It is not here: it is being sent, or on its way here or back to the store.
    Gone,
}

/// Which gate said no last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocked {
    pub(super) wait: Wait,
    /// When it opens, if that is known.
    pub(super) until: Option<Instant>,
}

impl Blocked {
    /// No gate said no.
    pub(super) const NOT: Blocked = Blocked { wait: Wait::Turn, until: None };

    pub(super) fn by(wait: Wait) -> Blocked {
        Blocked { wait, until: None }
    }

    pub(super) fn until(wait: Wait, until: Instant) -> Blocked {
        Blocked { wait, until: Some(until) }
    }

    /// A connection that is not active, or that the daemon holds.
    pub(super) fn by_state(connection: &Connection) -> Blocked {
        Blocked::by(if connection.state == State::Disabled { Wait::Disabled } else { Wait::Paused })
    }

    /// All workers that there may be are busy: `most` of them.
    pub(super) fn by_workers(connection: &Connection, most: u32) -> Blocked {
        let whole_pool = most >= connection.effective_pool();
        Blocked::by(if whole_pool { Wait::Pool } else { Wait::Concurrency })
    }
}

impl Outbox {
    /// How a delivery that was handed out stands.
    pub(in crate::delivery) fn look(&self, id: DeliveryId) -> Look {
        let inner = self.inner.borrow();
        let now = Instant::now();
        let Blocked { wait, until } = inner.blocked;
        let left = until.map(|until| until.saturating_duration_since(now));
        Look { place: inner.place_of(id), gate: Gate { wait, left }, in_flight: inner.busy }
    }
}

impl Inner {
    fn place_of(&self, id: DeliveryId) -> Place {
        if self.halting.iter().any(|(delivery, _)| delivery.id == id) {
            return Place::Halting;
        }
        if self.lanes.holds(id) {
            return Place::Waiting;
        }
        if self.loading.iter().any(|(loading, _)| *loading == id) {
            return Place::Loading;
        }
        let behind = self.order.as_ref().and_then(|order| order.behind(id));
        behind.map_or(Place::Gone, Place::Behind)
    }
}
