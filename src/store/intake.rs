//! Where ingress and the store meet: events go in, acknowledgements come back.
//!
//! The queue to the writer is bounded; when it is full, [`Intake::append`] says so at once and ingress answers 503.
//! Acknowledgements of one commit come back as one batch with one wake per ingress runtime: each runtime has a lane of
//! its own, and a task of that runtime ([`AckLane::run`]) hands the answers out locally.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam::queue::ArrayQueue;
use tokio::sync::{Notify, oneshot};

use super::doorbell::Doorbell;
use super::keys::KeyRecord;
use super::outcomes::{Board, Outcomes, Seats};
use super::queue::QueueCounters;
use super::{BATCH_EVENTS, ConnectionId};
use crate::event::Event;

/// Appends that may wait for the writer.
pub const INTAKE_EVENTS: usize = 4096;

/// One delivery of an event that is appended.
#[derive(Clone, Debug)]
pub struct Route {
    /// Where to.
    pub connection: ConnectionId,
    /// The connection's counters, on which ingress has reserved room. The store gives it back if the append fails, and
    /// when the delivery is over.
    pub queue: Arc<QueueCounters>,
    /// Whether it waits for delivery or is dead from the start.
    pub fate: Fate,
    /// How long it waits from acceptance, in whole milliseconds; zero: it is due at once.
    pub delay: Duration,
}

/// What becomes of a new delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It waits for its turn.
    Queued,
    /// It is a dead letter from the start, with this cause (`queue_full` or `too_large`).
    Dead(crate::event::Cause),
}

/// When an append is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Durability {
    /// When the event is on the disk.
    #[default]
    Disk,
    /// When the writer has written it, before its sync. It goes the same way, and is delivered only after the sync; a power
    /// cut may lose it. Should the sync fail, the event is lost to this process, which counts and logs that.
    Relaxed,
}

/// Why an event was not stored. Nothing of it will be delivered by this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Too many appends wait for the disk: 503.
    #[error("too many events wait for the disk")]
    Busy,
    /// The store's byte cap is reached, or the disk is full: 507.
    #[error("the store is full")]
    Full,
    /// Writing or syncing failed: 503. After a restart the event may be delivered all the same.
    #[error("the disk failed")]
    Failed,
    /// The store is shutting down: 503.
    #[error("the store is shutting down")]
    Closed,
}

/// One event on its way to the disk.
#[derive(Debug)]
pub(super) struct Append {
    pub(super) event: Arc<Event>,
    pub(super) routes: Vec<Route>,
    /// The event's idempotency key, if it has one. Boxed: most have none.
    pub(super) key: Option<Box<KeyRecord>>,
    pub(super) durability: Durability,
    /// Where its deliveries' ends are noted, if somebody waits for them.
    pub(super) board: Option<Arc<Board>>,
    pub(super) lane: usize,
    /// Who waits for the answer; none once it was given.
    pub(super) reply: Option<oneshot::Sender<Result<(), AppendError>>>,
}

/// The way in. Cheap to clone; each ingress runtime has one with its own lane.
#[derive(Clone, Debug)]
pub struct Intake {
    queue: Arc<ArrayQueue<Append>>,
    doorbell: Arc<Doorbell>,
    seats: Arc<Seats>,
    lane: usize,
}

impl Intake {
    /// Makes the event durable. When this returns `Ok`, the event and the list of its connections are covered by a
    /// completed fdatasync. Room must have been reserved on each route's counters; on an error it is given back here.
    ///
    /// Dropping the future does not take the event back.
    ///
    /// # Errors
    /// See [`AppendError`].
    pub async fn append(&self, event: Arc<Event>, routes: Vec<Route>) -> Result<(), AppendError> {
        self.append_with(event, routes, None, Durability::Disk).await
    }

    /// As [`Intake::append`], for an event that may have an idempotency key: `key` is its fingerprint. With
    /// [`Durability::Relaxed`], `Ok` says no more than that it is written.
    ///
    /// # Errors
    /// See [`AppendError`].
    pub async fn append_with(
        &self,
        event: Arc<Event>,
        routes: Vec<Route>,
        key: Option<Box<KeyRecord>>,
        durability: Durability,
    ) -> Result<(), AppendError> {
        self.push(event, routes, key, durability, None).await
    }

    /// As [`Intake::append_with`]; also gives what tells how the event's deliveries end. `None`: too many are waited for
    /// already ([`super::outcomes::WATCHERS`]).
    ///
    /// # Errors
    /// See [`AppendError`].
    pub async fn append_watched(
        &self,
        event: Arc<Event>,
        routes: Vec<Route>,
        key: Option<Box<KeyRecord>>,
        durability: Durability,
    ) -> Result<Option<Outcomes>, AppendError> {
        let to = routes.iter().map(|route| route.connection);
        let (outcomes, board) = Outcomes::new(&self.seats, to).unzip();
        self.push(event, routes, key, durability, board).await.map(|()| outcomes)
    }

    async fn push(
        &self,
        event: Arc<Event>,
        routes: Vec<Route>,
        key: Option<Box<KeyRecord>>,
        durability: Durability,
        board: Option<Arc<Board>>,
    ) -> Result<(), AppendError> {
        let (reply, answer) = oneshot::channel();
        let (lane, reply) = (self.lane, Some(reply));
        let append = Append { event, routes, key, durability, board, lane, reply };
        if let Err(refused) = self.queue.push(append) {
            refused.give_back_room();
            return Err(AppendError::Busy);
        }
        self.doorbell.ring_append(self.queue.len() >= BATCH_EVENTS);
        answer.await.unwrap_or(Err(AppendError::Closed))
    }
}

impl Append {
    /// Whether one of its deliveries waits for a time.
    pub(super) fn is_delayed(&self) -> bool {
        self.routes.iter().any(|route| !route.delay.is_zero())
    }

    /// Undoes the reservations of ingress.
    pub(super) fn give_back_room(&self) {
        for route in &self.routes {
            if route.fate == Fate::Queued {
                route.queue.give_back(self.event.content.as_bytes().len() as u64);
            }
        }
    }
}

/// An append's answer and who waits for it.
pub(super) type Answer = (oneshot::Sender<Result<(), AppendError>>, Result<(), AppendError>);

/// Answers on their way back to one ingress runtime.
#[derive(Debug, Default)]
pub struct AckLane {
    answers: Mutex<Vec<Answer>>,
    arrived: Notify,
}

impl AckLane {
    /// Hands answers out, for ever. One task of the lane's runtime runs it, so that each wake stays inside the runtime.
    pub async fn run(&self) {
        let mut batch = Vec::new();
        loop {
            self.arrived.notified().await;
            std::mem::swap(
                &mut batch,
                &mut *self.answers.lock().unwrap_or_else(PoisonError::into_inner),
            );
            for (reply, answer) in batch.drain(..) {
                // A producer that went away does not want its answer; the event is stored all the same.
                let _ = reply.send(answer);
            }
        }
    }

    pub(super) fn send(&self, answers: &mut Vec<Answer>) {
        if answers.is_empty() {
            return;
        }
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).append(answers);
        self.arrived.notify_one();
    }
}

/// The writer's end.
#[derive(Debug)]
pub(super) struct IntakePort {
    pub(super) queue: Arc<ArrayQueue<Append>>,
    pub(super) lanes: Vec<Arc<AckLane>>,
    pub(super) seats: Arc<Seats>,
}

/// Makes one way in for each of `lanes` runtimes, the lanes that their tasks must run, and the writer's end.
pub(super) fn intake(
    lanes: usize,
    doorbell: &Arc<Doorbell>,
) -> (Vec<(Intake, Arc<AckLane>)>, IntakePort) {
    let queue = Arc::new(ArrayQueue::new(INTAKE_EVENTS));
    let seats = Arc::new(Seats::default());
    let ways: Vec<_> = (0..lanes)
        .map(|lane| {
            let (queue, doorbell) = (Arc::clone(&queue), Arc::clone(doorbell));
            let intake = Intake { queue, doorbell, seats: Arc::clone(&seats), lane };
            (intake, Arc::new(AckLane::default()))
        })
        .collect();
    let lanes = ways.iter().map(|(_, lane)| Arc::clone(lane)).collect();
    (ways, IntakePort { queue, lanes, seats })
}

/// A store without a disk, for tests of ingress: it answers every append with what `answer` says, and keeps the events.
#[cfg(test)]
pub struct FakeStore {
    port: IntakePort,
    boards: std::cell::RefCell<Vec<Arc<Board>>>,
}

#[cfg(test)]
impl FakeStore {
    /// One lane, and the store behind it.
    pub fn new() -> (Intake, Arc<AckLane>, FakeStore) {
        let (doorbell, _parker) = Doorbell::new();
        let (mut ways, port) = intake(1, &doorbell);
        let (intake, lane) = ways.remove(0);
        (intake, lane, FakeStore { port, boards: std::cell::RefCell::default() })
    }

    /// Answers all that waits; returns the events and their routes.
    pub fn turn(
        &self,
        answer: impl Fn(&Event) -> Result<(), AppendError>,
    ) -> Vec<(Arc<Event>, Vec<Route>)> {
        let mut taken = Vec::new();
        let mut answers = Vec::new();
        while let Some(mut append) = self.port.queue.pop() {
            let result = answer(&append.event);
            self.boards.borrow_mut().extend(append.board.take());
            if result.is_err() {
                append.give_back_room();
            }
            answers.extend(append.reply.map(|reply| (reply, result)));
            taken.push((append.event, append.routes));
        }
        for lane in &self.port.lanes {
            lane.send(&mut answers);
        }
        taken
    }

    /// Ends all deliveries to a connection that somebody waits for.
    pub fn end(&self, connection: ConnectionId, how: super::outcomes::Ended) {
        self.boards.borrow().iter().for_each(|board| board.fill(connection, how));
    }
}
