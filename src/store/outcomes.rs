//! What becomes of one event's deliveries, for a producer that waits for it (`?wait=`).
//!
//! The producer takes a seat when it appends; there are [`WATCHERS`] of them. The writer fills in how each delivery ended and
//! wakes the producer once, when it has all of them. Nothing of it is on the disk: after a restart nobody waits any more.
//! While no seat is taken, the writer looks at one empty map per settlement, and at nothing else.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Notify;

use super::ConnectionId;
use super::marks::Place;
use crate::event::Cause;

/// Events that producers may wait for at one time. One more is appended all the same, and not waited for.
pub const WATCHERS: usize = 1024;

/// How a delivery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Its target took it.
    Delivered {
        /// Attempts made, the last one included.
        attempts: u32,
    },
    /// It is a dead letter.
    Dead {
        /// Why.
        cause: Cause,
        /// The last response's status; 0 when there was none.
        status: u16,
        /// Attempts made.
        attempts: u32,
    },
    /// An operator or `on_remove` cancelled it.
    Cancelled,
}

/// The producer's end: how the deliveries of its event ended, as far as that is known.
#[derive(Debug)]
pub struct Outcomes {
    // Given back before the seat: the writer cleans up by the seats.
    board: Arc<Board>,
    _seat: Seat,
}

/// What the writer fills in.
#[derive(Debug)]
pub(super) struct Board {
    deliveries: Mutex<Vec<(ConnectionId, Option<Ended>)>>,
    complete: Notify,
}

/// How many wait, and how many went away since the writer looked.
#[derive(Debug, Default)]
pub(super) struct Seats {
    taken: AtomicUsize,
    left: AtomicUsize,
}

#[derive(Debug)]
struct Seat(Arc<Seats>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
        self.0.left.fetch_add(1, Ordering::Release);
    }
}

impl Outcomes {
    /// Takes a seat for an event that goes to these connections. `None`: all are taken.
    pub(super) fn new(
        seats: &Arc<Seats>,
        connections: impl Iterator<Item = ConnectionId>,
    ) -> Option<(Outcomes, Arc<Board>)> {
        if seats.taken.fetch_add(1, Ordering::Relaxed) >= WATCHERS {
            seats.taken.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let seat = Seat(Arc::clone(seats));
        let deliveries = connections.map(|connection| (connection, None)).collect();
        let board = Board { deliveries: Mutex::new(deliveries), complete: Notify::new() };
        let board = Arc::new(board);
        Some((Outcomes { board: Arc::clone(&board), _seat: seat }, board))
    }

    /// Waits until all deliveries have ended. Cancel safe.
    pub async fn all(&self) {
        while !self.board.is_complete() {
            self.board.complete.notified().await;
        }
    }

    /// Each delivery in the order of the routes, and how it ended; `None`: it has not yet.
    pub fn known(&self) -> Vec<(ConnectionId, Option<Ended>)> {
        self.board.lock().clone()
    }
}

impl Board {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(ConnectionId, Option<Ended>)>> {
        // Nothing panics while it holds this; if it did, the list is still whole.
        self.deliveries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_complete(&self) -> bool {
        self.lock().iter().all(|(_, ended)| ended.is_some())
    }

    /// Notes how a delivery ended; the first that is said of it counts.
    pub(super) fn fill(&self, connection: ConnectionId, how: Ended) {
        for (id, ended) in self.lock().iter_mut() {
            if *id == connection && ended.is_none() {
                *ended = Some(how);
            }
        }
        if self.is_complete() {
            self.complete.notify_one();
        }
    }
}

/// The writer's end: which deliveries are waited for.
#[derive(Debug)]
pub(super) struct Watched {
    places: HashMap<Place, Weak<Board>>,
    seats: Arc<Seats>,
}

impl Watched {
    pub(super) fn new(seats: Arc<Seats>) -> Watched {
        Watched { places: HashMap::new(), seats }
    }

    /// How many deliveries are waited for.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// A delivery is waited for from now on, unless its producer went away.
    pub(super) fn watch(&mut self, place: Place, board: &Arc<Board>) {
        if Arc::strong_count(board) > 1 {
            self.places.insert(place, Arc::downgrade(board));
        }
    }

    /// A delivery has ended.
    pub(super) fn end(&mut self, place: Place, how: Ended) {
        if self.places.is_empty() {
            return;
        }
        if let Some(board) = self.places.remove(&place).and_then(|board| board.upgrade()) {
            board.fill(place.connection, how);
        }
    }

    /// A delivery's record is somewhere else.
    pub(super) fn moved(&mut self, from: Place, to: Place) {
        if !self.places.is_empty()
            && let Some(board) = self.places.remove(&from)
        {
            self.places.insert(to, board);
        }
    }

    /// All deliveries of a connection are cancelled.
    pub(super) fn cancel(&mut self, connection: ConnectionId) {
        let of_it = |place: &Place| place.connection == connection;
        let places: Vec<_> = self.places.keys().copied().filter(of_it).collect();
        places.into_iter().for_each(|place| self.end(place, Ended::Cancelled));
    }

    /// Forgets those whose producer went away.
    pub(super) fn clean_up(&mut self) {
        if !self.places.is_empty() && self.seats.left.swap(0, Ordering::Acquire) > 0 {
            self.places.retain(|_, board| board.strong_count() > 0);
        }
    }
}
