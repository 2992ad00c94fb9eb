//! What the admin API asks of the daemon's control loop. Each command carries the way back for its answer; a dropped one
//! means that the daemon is shutting down.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use super::api::connections::{AuditPage, ConnectionsPage, Document, Object, Plan};
use super::api::deliveries::{Delivery, DeliveryState};
use super::api::explain::Explanation;
use super::api::jobs::{DeadPlan, Job, JobAction, Selection};
use super::api::transfer::Imported;
use super::api::trial::TestReport;
use super::api::{
    Attempt, ConfigProblem, Connection, DeadLetter, EventActed, EventAction, Page, Reloaded, Status,
};
use super::manage::{Edit, EditRefused, Edited, Filter, Import, Listing};
use crate::event::{Cause, Event, EventId};

/// The way back for an answer. Whoever asked may be gone: a failed send is no error.
pub type Reply<T> = oneshot::Sender<T>;

/// One request to the control loop.
#[derive(Debug)]
pub enum Command {
    /// How the daemon is.
    Status(Reply<Status>),
    /// One page of dead letters, in an order that stays the same while pages are read.
    DeadList {
        /// Which ones.
        selection: Selection,
        /// Where the last page ended, as its `next` said; the daemon alone reads it.
        after: Option<String>,
        /// At most so many; 1 to 255.
        limit: u32,
        /// The page.
        reply: Reply<Result<Page<DeadLetter>, Refusal>>,
    },
    /// One dead letter and its event.
    DeadShow {
        /// The connection.
        connection: String,
        /// The event.
        event: EventId,
        /// Both.
        reply: Reply<Result<DeadEvent, Refusal>>,
    },
    /// Queues one dead letter again. The mark is synced before the answer.
    Replay {
        /// The connection.
        connection: String,
        /// The event.
        event: EventId,
        /// Nothing, when it is queued.
        reply: Reply<Result<(), Refusal>>,
    },
    /// Cancels all deliveries of a connection, or of an orphaned queue, that are not over. Durable before the answer.
    Purge {
        /// Its name.
        connection: String,
        /// Who wants it.
        by: String,
        /// How many.
        reply: Reply<Result<u64, Refusal>>,
    },
    /// Dead letters in bulk, and jobs.
    Job(JobCommand),
    /// One event that is still in the store.
    EventShow {
        /// The event.
        event: EventId,
        /// It and its deliveries.
        reply: Reply<Result<FoundEvent, Refusal>>,
    },
    /// Everything that is known of one event: how it stands with each connection, and why.
    Explain {
        /// The event.
        event: EventId,
        /// What is known.
        reply: Reply<Result<Explanation, Refusal>>,
    },
    /// Sends one event to one of its connections on a new run. The mark is synced before the answer.
    EventReplay {
        /// The event.
        event: EventId,
        /// The connection.
        connection: String,
        /// Nothing, when it is queued.
        reply: Reply<Result<(), Refusal>>,
    },
    /// Tries at once, or cancels, the deliveries of an event that wait. Durable before the answer.
    EventAct {
        /// What to do.
        action: EventAction,
        /// The event.
        event: EventId,
        /// To this connection only.
        connection: Option<String>,
        /// Who wants it.
        by: String,
        /// What came of it.
        reply: Reply<Result<EventActed, Refusal>>,
    },
    /// One page of a connection's deliveries, the newest first.
    Deliveries {
        /// Which ones.
        query: DeliveriesQuery,
        /// The page.
        reply: Reply<Result<Page<Delivery>, Refusal>>,
    },
    /// One page of recorded attempts, the newest first.
    Attempts {
        /// Which ones.
        query: AttemptsQuery,
        /// The page.
        reply: Reply<Result<Page<Attempt>, Refusal>>,
    },
    /// Reads the configuration again.
    Reload {
        /// Who wants it.
        by: String,
        /// What changed.
        reply: Reply<Result<Reloaded, ReloadRefused>>,
    },
    /// Says what a reload would do.
    Plan(Reply<Result<Plan, ReloadRefused>>),
    /// One page of connections.
    Connections {
        /// Which.
        listing: Listing,
        /// The page.
        reply: Reply<Result<ConnectionsPage, EditRefused>>,
    },
    /// How many connections there are.
    ConnectionsCount {
        /// Which.
        filter: Filter,
        /// So many.
        reply: Reply<u64>,
    },
    /// One connection as its file has it.
    ConnectionShow {
        /// Which.
        name: String,
        /// The connection.
        reply: Reply<Result<Document, EditRefused>>,
    },
    /// How one connection does.
    ConnectionStatus {
        /// Which.
        name: String,
        /// Its queue and its last error.
        reply: Reply<Result<Connection, Refusal>>,
    },
    /// Edits one connection in its file, and puts that in force.
    Edit {
        /// What to do.
        edit: Edit,
        /// The connection since.
        reply: Reply<Result<Edited, EditRefused>>,
    },
    /// One connection as a ZIP file.
    Export {
        /// Which.
        name: String,
        /// The file's name and the file.
        reply: Reply<Result<(String, bytes::Bytes), EditRefused>>,
    },
    /// Puts connections of a ZIP file into the files, and that in force.
    Import {
        /// What to do.
        import: Import,
        /// What was done.
        reply: Reply<Result<Imported, EditRefused>>,
    },
    /// Begins a test of a connection.
    Test {
        /// Of which, and how.
        test: Test,
        /// The test under way.
        reply: Reply<Result<Testing, EditRefused>>,
    },
    /// One page of the audit log, the newest first.
    Audit {
        /// Which.
        query: AuditQuery,
        /// The page.
        reply: Reply<Result<AuditPage, Refusal>>,
    },
}

/// A test of a connection.
#[derive(Clone, Debug, PartialEq)]
pub struct Test {
    /// Which connection.
    pub subject: Subject,
    /// Whether an event is sent.
    pub send: bool,
    /// Who wants it.
    pub by: String,
    /// The event's body; one that says that it is a test when `None`.
    pub body: Option<Vec<u8>>,
    /// The type of its content.
    pub content_type: Option<String>,
}

/// What is tested.
#[derive(Clone, Debug, PartialEq)]
pub enum Subject {
    /// A connection in force.
    Saved(String),
    /// A connection as it would be.
    Document(Object),
}

/// A test under way; dropped, it ends. `None`: the daemon is shutting down.
pub struct Testing(Pin<Box<dyn Future<Output = Option<TestReport>> + Send>>);

impl Testing {
    /// What is waited for.
    pub fn new(report: impl Future<Output = Option<TestReport>> + Send + 'static) -> Testing {
        Testing(Box::pin(report))
    }
}

impl Future for Testing {
    type Output = Option<TestReport>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<TestReport>> {
        self.0.as_mut().poll(cx)
    }
}

impl std::fmt::Debug for Testing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Testing")
    }
}

/// Which records of the audit log are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditQuery {
    /// Only of this connection.
    pub connection: Option<String>,
    /// Where the last page ended, as its `next` said.
    pub before: Option<u64>,
    /// At most so many; 1 to 255.
    pub limit: u32,
}

/// A dead letter and its event.
#[derive(Clone, Debug)]
pub struct DeadEvent {
    /// The dead letter.
    pub dead_letter: DeadLetter,
    /// The event, as it was accepted.
    pub event: Arc<Event>,
}

/// An event, and how it stands with its connections.
#[derive(Clone, Debug)]
pub struct FoundEvent {
    /// The event, as it was accepted.
    pub event: Arc<Event>,
    /// Connections and states, by name.
    pub deliveries: Vec<(String, &'static str)>,
}

/// Which deliveries of a connection are asked for.
#[derive(Clone, Debug)]
pub struct DeliveriesQuery {
    /// Its name.
    pub connection: String,
    /// Its connection is not looked at; its times are those of acceptance.
    pub selection: Selection,
    /// Only those that stand so; `None` is all but what is over.
    pub state: Option<DeliveryState>,
    /// Only those before this segment and slot: where the last page ended.
    pub before: Option<(u32, u32)>,
    /// At most so many; 1 to 255.
    pub limit: u32,
}

/// Which attempts are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptsQuery {
    /// Only of this connection.
    pub connection: Option<String>,
    /// Only of this event.
    pub event: Option<EventId>,
    /// Only with this result: a cause, or success.
    pub code: Option<Option<Cause>>,
    /// Only those that ended at this wall clock or later, in milliseconds.
    pub since_ms: u64,
    /// Only those that ended before this wall clock, if it is said.
    pub until_ms: Option<u64>,
    /// Only those whose response had one of these statuses, in order.
    pub statuses: Option<Vec<u16>>,
    /// Where the last page ended, as its `next` said.
    pub before: Option<u64>,
    /// At most so many; 1 to 255.
    pub limit: u32,
}

/// Dead letters in bulk, and the jobs that work through them.
#[derive(Debug)]
pub enum JobCommand {
    /// Counts a part of the dead letters that a selection matches, and adds them to a plan.
    Plan {
        /// Which ones.
        selection: Selection,
        /// What was counted before.
        plan: DeadPlan,
        /// Where the last part ended.
        after: Option<String>,
        /// The plan, and where to go on; `None` at the end.
        reply: Reply<Result<(DeadPlan, Option<String>), Refusal>>,
    },
    /// Begins a job. It is on the disk before the answer.
    Start {
        /// What to do.
        action: JobAction,
        /// With which ones.
        selection: Selection,
        /// Who wants it.
        by: String,
        /// The job.
        reply: Reply<Result<Job, Refusal>>,
    },
    /// All jobs, the newest first.
    List(Reply<Vec<Job>>),
    /// One job.
    Show {
        /// Its id.
        id: String,
        /// The job.
        reply: Reply<Result<Job, Refusal>>,
    },
    /// Stops a job. What it has done stays.
    Cancel {
        /// Its id.
        id: String,
        /// Who wants it.
        by: String,
        /// The job.
        reply: Reply<Result<Job, Refusal>>,
    },
}

/// Why a command was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No connection and no orphaned queue has this name.
    #[error("there is no connection {0:?}; `posthaste status` lists them")]
    UnknownConnection(String),
    /// The event is unknown to this connection, or was purged.
    #[error("connection {connection:?} has no dead letter {event}")]
    NoSuchDeadLetter {
        /// The connection.
        connection: String,
        /// The event.
        event: EventId,
    },
    /// The event was never accepted, or was given back since.
    #[error("{0} is not in the store; delivered events stay there for [store] keep_delivered")]
    NoSuchEvent(EventId),
    /// Neither the store nor what is remembered beside it knows the event.
    #[error("nothing is known of {event}: {what}")]
    NothingKnown {
        /// The event.
        event: EventId,
        /// What it may be.
        what: String,
    },
    /// The event was not for this connection.
    #[error("{event} has no delivery to connection {connection:?}")]
    NoSuchDelivery {
        /// The connection.
        connection: String,
        /// The event.
        event: EventId,
    },
    /// The delivery is not over.
    #[error("{0} is on its way already; only what is over can be replayed")]
    StillLive(EventId),
    /// It is neither waiting nor with the egress.
    #[error("no delivery of {0} waits any more; `posthaste events show {0}` says how they stand")]
    NotWaiting(EventId),
    /// An attempt is under way.
    #[error(
        "an attempt of {0} is under way and ends as it ends; see what came of it, and ask again"
    )]
    InFlight(EventId),
    /// It waits for no time.
    #[error("the time of {0} has come already; `posthaste explain {0}` says what it waits for")]
    DueAlready(EventId),
    /// The selection cannot be understood.
    #[error("{0}")]
    BadSelection(String),
    /// No job has this id, or it is forgotten.
    #[error("there is no job {0:?}; `posthaste jobs list` lists those that are remembered")]
    NoSuchJob(String),
    /// Too many jobs run.
    #[error("{0} jobs run already; wait until one has ended, or cancel one")]
    TooManyJobs(usize),
    /// The job has ended.
    #[error("job {id} is {state} already")]
    JobEnded {
        /// The job.
        id: String,
        /// How it ended.
        state: &'static str,
    },
    /// `after` is not what a page's `next` said.
    #[error("`after` is not a cursor of this list; take it from `pagination.next`")]
    BadCursor,
    /// The connection's queue has no room.
    #[error("the queue of connection {0:?} is full; try again when it has drained")]
    QueueFull(String),
    /// The connection's own file holds it.
    #[error(
        "connection {connection:?} is {state} because its file says so; change it there and reload"
    )]
    HeldByFile {
        /// The connection.
        connection: String,
        /// Its state.
        state: &'static str,
    },
    /// The connection is held already.
    #[error("connection {connection:?} is {state} already ({cause})")]
    HeldAlready {
        /// The connection.
        connection: String,
        /// Its state.
        state: &'static str,
        /// Why the daemon holds it.
        cause: &'static str,
    },
    /// The store could not do it.
    #[error("the store could not do it: {0}")]
    Store(String),
}

/// A reload that changed nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReloadRefused {
    /// Every error of every file; never empty.
    pub errors: Vec<ConfigProblem>,
}
