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
use super::record::Frame;
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
    /// Which event of its frame it is.
    pub(super) frame: Frame,
    /// The other events of its frame, where it is the first of several: the writer takes them together.
    pub(super) rest: Vec<Append>,
}

/// One event of several that are stored together.
#[derive(Debug)]
pub struct Batched {
    /// The event.
    pub event: Arc<Event>,
    /// Where it goes; room is reserved as for [`Intake::append`].
    pub routes: Vec<Route>,
    /// Its idempotency key, if it has one.
    pub key: Option<Box<KeyRecord>>,
}

impl Batched {
    /// Undoes the reservations of ingress, when the event is not handed over after all.
    pub fn give_back_room(&self) {
        give_back_room(&self.event, &self.routes);
    }
}

/// Random bits of an event's id.
fn mark_of(event: &Event) -> u32 {
    event.id.0.as_bytes().last_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn give_back_room(event: &Event, routes: &[Route]) {
    for route in routes.iter().filter(|route| route.fate == Fate::Queued) {
        route.queue.give_back(event.content.as_bytes().len() as u64);
    }
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
        self.append_one(Batched { event, routes, key }, durability, None).await
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
        let event = Batched { event, routes, key };
        self.append_one(event, durability, board).await.map(|()| outcomes)
    }

    /// Makes several events durable together: all of them, or none, also where a crash cuts them off half written. They stand
    /// in one frame of one commit, so their records must fit into one segment.
    ///
    /// # Errors
    /// See [`AppendError`]; it is that of all of them.
    pub async fn append_batch(
        &self,
        events: Vec<Batched>,
        durability: Durability,
    ) -> Result<(), AppendError> {
        let count = u32::try_from(events.len()).unwrap_or(u32::MAX);
        let mark = events.first().map_or(0, |first| mark_of(&first.event));
        let mut frames = (0..count).map(|number| Frame { mark, number, count });
        let mut appends = events.into_iter().zip(&mut frames);
        let Some((first, frame)) = appends.next() else {
            return Ok(());
        };
        let (mut first, answer) = self.one(first, durability, frame);
        // One commit answers them alike: the first one's answer is enough.
        first.rest = appends.map(|(event, frame)| self.one(event, durability, frame).0).collect();
        self.push(first)?;
        answer.await.unwrap_or(Err(AppendError::Closed))
    }

    /// Hands over one event, whose deliveries somebody may wait for.
    async fn append_one(
        &self,
        event: Batched,
        durability: Durability,
        board: Option<Arc<Board>>,
    ) -> Result<(), AppendError> {
        let (append, answer) = self.one(event, durability, Frame::ALONE);
        self.push(Append { board, ..append })?;
        answer.await.unwrap_or(Err(AppendError::Closed))
    }

    fn one(
        &self,
        event: Batched,
        durability: Durability,
        frame: Frame,
    ) -> (Append, oneshot::Receiver<Result<(), AppendError>>) {
        let Batched { event, routes, key } = event;
        let (reply, answer) = oneshot::channel();
        let append = Append {
            event,
            routes,
            key,
            durability,
            board: None,
            lane: self.lane,
            reply: Some(reply),
            frame,
            rest: Vec::new(),
        };
        (append, answer)
    }

    fn push(&self, append: Append) -> Result<(), AppendError> {
        if let Err(refused) = self.queue.push(append) {
            refused.give_back_room();
            return Err(AppendError::Busy);
        }
        self.doorbell.ring_append(self.queue.len() >= BATCH_EVENTS);
        Ok(())
    }
}

impl Append {
    /// Whether one of its deliveries waits for a time.
    pub(super) fn is_delayed(&self) -> bool {
        let waits = |routes: &[Route]| routes.iter().any(|route| !route.delay.is_zero());
        waits(&self.routes) || self.rest.iter().any(|other| waits(&other.routes))
    }

    /// Undoes the reservations of ingress, for the rest of its frame too.
    pub(super) fn give_back_room(&self) {
        give_back_room(&self.event, &self.routes);
        for other in &self.rest {
            give_back_room(&other.event, &other.routes);
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
            taken.extend(append.rest.into_iter().map(|other| (other.event, other.routes)));
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
