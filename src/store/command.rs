//! What the control loop asks of the writer. Answers come by oneshot; the store's public methods wrap each of these.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::dead_letter::{DeadCursor, DeadLetter};
use super::lookup::{DeliveryPage, FoundDelivery, Standing, Whereabouts};
use super::queue::QueueCounters;
use super::segment_index::Entry;
use super::suspension::Suspension;
use super::{ConnectionId, DeliveryId, DiskTrouble, Keep};

/// Commands that may wait for the writer.
pub(super) const COMMANDS: usize = 1024;

#[derive(Debug)]
pub(super) enum Command {
    Register {
        name: String,
        reply: oneshot::Sender<(ConnectionId, Arc<QueueCounters>)>,
    },
    Rename {
        old: String,
        new: String,
        reply: oneshot::Sender<(Renamed, Result<(), DiskTrouble>)>,
    },
    Attach {
        connection: ConnectionId,
        feed: usize,
    },
    Detach {
        connection: ConnectionId,
    },
    Discard {
        connection: ConnectionId,
        reply: oneshot::Sender<(u64, Result<(), DiskTrouble>)>,
    },
    Suspend {
        connection: ConnectionId,
        suspension: Option<Suspension>,
        reply: oneshot::Sender<Result<(), DiskTrouble>>,
    },
    Suspensions {
        reply: oneshot::Sender<Vec<(ConnectionId, Suspension)>>,
    },
    Dead {
        connection: ConnectionId,
        after: Option<DeadCursor>,
        limit: usize,
        reply: oneshot::Sender<DeadPage>,
    },
    Replay {
        letters: Vec<DeadLetter>,
        reply: oneshot::Sender<(Vec<DeliveryId>, Result<(), DiskTrouble>)>,
    },
    Purge {
        letters: Vec<DeadLetter>,
        reply: oneshot::Sender<(u64, Result<(), DiskTrouble>)>,
    },
    Status {
        reply: oneshot::Sender<StoreStatus>,
    },
    Oldest {
        reply: oneshot::Sender<Vec<(DeliveryId, u32)>>,
    },
    LiveAt {
        connection: ConnectionId,
        unix_ms: u64,
        reply: oneshot::Sender<Vec<(DeliveryId, u32)>>,
    },
    DeadAt {
        connection: ConnectionId,
        unix_ms: u64,
        reply: oneshot::Sender<Vec<DeadLetter>>,
    },
    EventsAt {
        unix_ms: u64,
        reply: oneshot::Sender<Vec<(u32, Vec<Entry>)>>,
    },
    /// Where the records of this connection's events are, by segment, newest first.
    Recent {
        connection: ConnectionId,
        reply: oneshot::Sender<Vec<(u32, Vec<Entry>)>>,
    },
    Standings {
        ids: Vec<DeliveryId>,
        reply: oneshot::Sender<Vec<(String, Standing)>>,
    },
    Whereabouts {
        id: DeliveryId,
        reply: oneshot::Sender<Whereabouts>,
    },
    Deliveries {
        connection: ConnectionId,
        before: Option<(u32, u32)>,
        over: bool,
        reply: oneshot::Sender<DeliveryPage>,
    },
    ReplayOver {
        delivery: FoundDelivery,
        reply: oneshot::Sender<(bool, Result<(), DiskTrouble>)>,
    },
    Cancel {
        delivery: FoundDelivery,
        reply: oneshot::Sender<(Acted, Result<(), DiskTrouble>)>,
    },
    RetryNow {
        delivery: FoundDelivery,
        reply: oneshot::Sender<(Acted, Result<(), DiskTrouble>)>,
    },
    SetMaxBytes(u64),
    SetKeep(Keep),
    Stop {
        reply: oneshot::Sender<()>,
    },
}

/// What came of handing one name's deliveries to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renamed {
    /// They are the new name's now.
    Done,
    /// Nothing is known under the old name: it was done before, or there never was anything.
    Nothing,
    /// The new name has deliveries or dead letters of its own; nothing was changed.
    Occupied,
}

/// What came of it when one delivery was to be cancelled, or tried at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acted {
    /// It is done.
    Done,
    /// It was to be tried at once, and its time has come already: it waits for its connection.
    Waits,
    /// The egress has it.
    HandedOut,
    /// It is over, or a dead letter, or its record was moved since it was found.
    NotLive,
    /// The disk does not say where it is.
    Unreadable,
}

/// Some dead letters of a connection, in the order in which they died.
#[derive(Clone, Debug, Default)]
pub struct DeadPage {
    /// The letters.
    pub letters: Vec<DeadLetter>,
    /// Whether there are more after them.
    pub more: bool,
    /// How many the connection has.
    pub total: u64,
    /// How many replays of the connection are not over.
    pub replaying: u64,
}

/// The store as a whole.
#[derive(Clone, Debug)]
pub struct StoreStatus {
    /// Bytes that its files take.
    pub bytes: u64,
    /// Those of them that are only kept because of `keep.delivered`.
    pub kept_bytes: u64,
    /// Bytes of the files of attempts, which are not among them.
    pub attempts_bytes: u64,
    /// Its cap.
    pub max_bytes: u64,
    /// Segment files.
    pub segments: usize,
    /// Whether it takes events.
    pub accepting: bool,
    /// Every connection it knows, configured or not.
    pub queues: Vec<(String, Arc<QueueCounters>)>,
}
