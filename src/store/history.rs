//! History: the attempts that failed, and those that ended a delivery after failures.
//!
//! Nothing of it is on the way of a delivery. An egress runtime puts an attempt into a bounded queue and goes on; what does
//! not fit is dropped and counted. A thread of its own takes it from there: into memory ([`memory`]), and into files
//! ([`files`]). A first attempt that succeeds leaves no history at all.
//!
//! It is not a promise: files are not synced, so a crash may lose the last seconds, and when the disk fails or is full,
//! history stops with one log line and is tried again while deliveries go on.
//!
//! Files `at-N.log` are files of [`super::record`]'s format with records of one kind. A record's commit number is the
//! attempt's number, which only grows, also over restarts; lists are in its order.
//!
//! ```text
//! kind 97, attempt
//!    0  u64 number            8  u64 store time, ms      16  u64 wall clock, ms
//!   24  16 bytes event id    40  u64 configuration generation; 0 is unknown
//!   48  u32 number of the attempt in its run, from 1
//!   52  u32 name lookup, us; all ones when there was none
//!   56  u32 connecting, us; all ones when the connection was open
//!   60  u32 TLS, us; all ones when there was no handshake
//!   64  u32 from the request to the response's head, us; all ones when there was none
//!   68  u64 the whole attempt, us
//!   76  u16 status; 0 is none
//!   78  u8  cause; 0 is success
//!   79  u8  phase reached: 1 lookup, 2 connect, 3 tls, 4 request, 5 response, 6 body
//!   80  u8  1 for a replay
//!   81  u8  remote address: 0 none, 4 or 6; then 16 bytes address (4 of them used) and u16 port
//!  100  u8  length of the connection's name, the name
//!   ..  the start of the response's body to the end, at most 4 KiB, as it came
//! ```
//!
//! Kind 96 is the same with one time at 52 instead of four, for dialling as a whole. It is read, and no longer written.

mod files;
mod memory;
mod record;
mod recorder;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use crossbeam::channel::{Receiver, Sender};
use metrics::Counter;
use tokio::sync::oneshot;

pub(super) use files::AttemptLog;
pub use memory::{RING_BYTES, SUMMARIES};
pub(super) use recorder::run;

use super::{Closed, Limit};
use crate::clock::Age;
use crate::event::{Cause, EventId};
use crate::metrics::Metrics;
use files::Readable;

/// Bytes of a response's body that are kept.
pub const EXCERPT_BYTES: usize = 4096;
/// Attempts that may wait for the history's thread.
pub const QUEUE_ATTEMPTS: usize = 256;
/// Places in the queue that are left for questions.
const QUEUE_QUESTIONS: usize = 16;

/// One attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The connection's name.
    pub connection: Arc<str>,
    /// The event.
    pub event: EventId,
    /// Its number in this run, from 1.
    pub number: u32,
    /// Whether the run is a replay.
    pub replay: bool,
    /// Wall clock when it ended, in milliseconds.
    pub at_ms: u64,
    /// Store time when it ended.
    pub age: Age,
    /// How far it came.
    pub phase: Phase,
    /// How long its parts took.
    pub timings: Timings,
    /// How long it took to the response's head, or to the failure.
    pub took: Duration,
    /// Where to, as far as that was known.
    pub remote: Option<SocketAddr>,
    /// The response's status; 0 when there was none.
    pub status: u16,
    /// Why it failed; `None` when it succeeded.
    pub code: Option<Cause>,
    /// Which configuration brought the settings that it used; 0 when that is not known.
    pub generation: u64,
    /// The start of the response's body, as it came.
    pub excerpt: Bytes,
}

/// How long the parts of an attempt took; a part that was not come to, or not needed, has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Until the name's addresses were known.
    pub lookup: Option<Duration>,
    /// Until the socket was open, and a proxy had agreed.
    pub connect: Option<Duration>,
    /// Until TLS was agreed on.
    pub tls: Option<Duration>,
    /// From the request to the response's head.
    pub first_byte: Option<Duration>,
}

/// How far an attempt came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// The name was being looked up.
    Lookup = 1,
    /// The socket was being opened.
    Connect = 2,
    /// TLS was being negotiated.
    Tls = 3,
    /// The request was sent, or the response's head waited for.
    Request = 4,
    /// The response's head came.
    Response = 5,
    /// The response's body was being read.
    Body = 6,
}

impl Phase {
    /// All of them, in order.
    pub const ALL: [Phase; 6] =
        [Phase::Lookup, Phase::Connect, Phase::Tls, Phase::Request, Phase::Response, Phase::Body];

    /// Its name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Lookup => "lookup",
            Phase::Connect => "connect",
            Phase::Tls => "tls",
            Phase::Request => "request",
            Phase::Response => "response",
            Phase::Body => "body",
        }
    }

    fn from_number(number: u8) -> Option<Phase> {
        Phase::ALL.into_iter().find(|phase| *phase as u8 == number)
    }
}

/// An attempt with its place in the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Only grows.
    pub number: u64,
    /// The attempt.
    pub attempt: Attempt,
}

/// Which attempts are asked for.
#[derive(Clone, Debug, Default)]
pub struct AttemptQuery {
    /// Only of this connection.
    pub connection: Option<String>,
    /// Or of this one: the name that the connection had before.
    pub former: Option<String>,
    /// Only of this event.
    pub event: Option<EventId>,
    /// Only with this result: a cause, or success.
    pub code: Option<Option<Cause>>,
    /// Only those that ended at this wall clock or later, in milliseconds.
    pub since_ms: u64,
    /// Only those that ended before this one, if it is said.
    pub until_ms: Option<u64>,
    /// Only those whose response had one of these statuses, in order.
    pub statuses: Option<Vec<u16>>,
    /// Only those before this one.
    pub before: Option<u64>,
    /// At most so many.
    pub limit: usize,
}

impl AttemptQuery {
    fn wants(&self, recorded: &Recorded) -> bool {
        let Recorded { number, attempt } = recorded;
        self.before.is_none_or(|before| *number < before)
            && self.wants_name(&attempt.connection)
            && self.event.is_none_or(|event| event == attempt.event)
            && self.code.is_none_or(|code| code == attempt.code)
            && attempt.at_ms >= self.since_ms
            && self.until_ms.is_none_or(|until| attempt.at_ms < until)
            && self
                .statuses
                .as_ref()
                .is_none_or(|wanted| wanted.binary_search(&attempt.status).is_ok())
    }

    fn wants_name(&self, name: &str) -> bool {
        let is = |wanted: &Option<String>| wanted.as_deref() == Some(name);
        self.connection.is_none() || is(&self.connection) || is(&self.former)
    }
}

/// Some attempts, the newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttemptPage {
    /// The attempts.
    pub attempts: Vec<Recorded>,
    /// Whether there are more after them.
    pub more: bool,
}

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Message {
    Attempt(Attempt),
    List(AttemptQuery, oneshot::Sender<FromMemory>),
    SetLimit(Limit),
    Stop,
}

/// What memory has for a query, and where to look for the rest.
#[derive(Debug)]
pub(super) struct FromMemory {
    found: BTreeMap<u64, Recorded>,
    /// Memory has all attempts from this number on.
    complete_from: u64,
    /// The newest first.
    files: Vec<Readable>,
}

/// The end that attempts are given to. All clones lead to the same thread.
#[derive(Clone, Debug)]
pub struct History {
    queue: Sender<Message>,
    lost: Counter,
    generation: Arc<AtomicU64>,
}

impl History {
    /// A history and the thread's end of it.
    pub(super) fn new(metrics: &Metrics) -> (History, Receiver<Message>) {
        let (queue, messages) = crossbeam::channel::bounded(QUEUE_ATTEMPTS + QUEUE_QUESTIONS);
        let lost = metrics.counter("posthaste_attempts_unrecorded_total", &[]);
        (History { queue, lost, generation: Arc::default() }, messages)
    }

    /// Records an attempt, some time. Never waits.
    pub fn note(&self, attempt: Attempt) {
        let room = self.queue.len() < QUEUE_ATTEMPTS;
        if !room || self.queue.try_send(Message::Attempt(attempt)).is_err() {
            self.lost.increment(1);
        }
    }

    /// The generation of the configuration in force; 0 when nobody said it.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Counts attempts that are not recorded.
    pub(super) fn lost(&self) -> Counter {
        self.lost.clone()
    }

    pub(super) fn set_generation(&self, generation: u64) {
        self.generation.store(generation, Ordering::Relaxed);
    }

    pub(super) fn set_limit(&self, limit: Limit) {
        // There is always room: the control loop alone says such things. A thread that is gone keeps nothing.
        let _ = self.queue.try_send(Message::SetLimit(limit));
    }

    pub(super) fn stop(&self) {
        // A thread that is gone has stopped.
        let _ = self.queue.send(Message::Stop);
    }

    /// The attempts that a query wants. The files are read on a thread for such work.
    ///
    /// # Errors
    /// [`Closed`], also when too many ask at once.
    pub(super) async fn list(&self, query: AttemptQuery) -> Result<AttemptPage, Closed> {
        let (reply, answer) = oneshot::channel();
        self.queue.try_send(Message::List(query.clone(), reply)).map_err(|_| Closed)?;
        let found = answer.await.map_err(|_| Closed)?;
        let page = tokio::task::spawn_blocking(move || found.complete(&query));
        page.await.map_err(|_| Closed)
    }
}

impl FromMemory {
    /// Reads what is missing from the files, the newest first, until there is enough.
    pub(super) fn complete(self, query: &AttemptQuery) -> AttemptPage {
        let FromMemory { mut found, complete_from, files } = self;
        let mut complete_from = complete_from;
        for file in files {
            if found.range(complete_from..).count() > query.limit {
                break;
            }
            // A file that cannot be read hides its own attempts alone.
            let first = file.search(query, &mut found);
            complete_from = complete_from.min(first.unwrap_or(complete_from));
        }
        let mut newest = found.into_values().rev();
        let attempts: Vec<_> = newest.by_ref().take(query.limit).collect();
        AttemptPage { more: newest.next().is_some(), attempts }
    }
}

#[cfg(test)]
mod tests;
