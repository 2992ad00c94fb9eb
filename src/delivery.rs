//! Delivery: from what the store hands out to what the targets answer.
//!
//! A [`Dispatcher`] owns the egress runtimes, threads with one task scheduler each. A connection lives whole on one of
//! them, so its queue, limits and HTTP connections need no lock. Reading order: `runtime` (one thread: commands and the
//! store's feed), `outbox` (one connection: queue and gates), `worker` (one HTTP connection: attempt after attempt),
//! `http` (the exchange itself, in `http1` or `http2`).
//!
//! It promises: each delivery that the store hands out comes back exactly once, settled or released, also when a worker
//! panics or the time to drain is over. No connection can hold more than its share of workers or memory, or block
//! another. It decides nothing itself ([`RetryPolicy::decide`](crate::connection::retry::RetryPolicy::decide)) and times
//! no retries (the store does).

mod budget;
mod http;
mod http1;
mod http2;
mod lanes;
mod notice;
mod order;
mod outbox;
mod request;
mod runtime;
mod status;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod timer;
mod tokens;
pub mod trial;
mod worker;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};

pub use notice::{Failure, Notice, Wanted, What};
pub use outbox::{Gate, Look, Place};
pub use status::{LastFailure, Status};

use crate::client::{Client, ClientError};
use crate::clock::Clock;
use crate::connection::Connection;
use crate::metrics::Metrics;
use crate::store::feed::Feed;
use crate::store::waits::Waits;
use crate::store::{ConnectionId, DeliveryId};
use request::Template;
use runtime::Command;
use trial::{Errand, Report, TRIALS_MAX, Trial};

/// Commands that may wait for one runtime. A reload sends one per changed connection and waits when it is full.
const COMMANDS: usize = 64;

/// How long a runtime may take to say how a delivery stands.
const LOOK_MAX: Duration = Duration::from_secs(2);

/// What the runtimes are made with.
#[derive(Clone, Debug)]
pub struct DispatcherOptions {
    /// Payload bytes that one runtime's workers may hold.
    pub payload_bytes: u64,
    /// Where jitter comes from.
    pub seed: u64,
    /// DNS servers; none: the system's.
    pub resolvers: Vec<SocketAddr>,
}

/// A connection's settings with everything made of them that can fail.
#[derive(Debug)]
pub struct Prepared {
    connection: Arc<Connection>,
    client: Client,
    /// Dials the server that tokens come from, where the connection has tokens.
    token_client: Option<Client>,
    template: Template,
}

/// Makes what a connection needs to deliver, before a reload is decided.
///
/// # Errors
/// When its TLS settings cannot be used.
pub fn prepare(connection: &Arc<Connection>) -> Result<Prepared, ClientError> {
    Ok(Prepared {
        client: Client::new(connection)?,
        token_client: tokens::client(connection)?,
        template: Template::new(connection),
        connection: Arc::clone(connection),
    })
}

/// All egress runtimes.
#[derive(Debug)]
pub struct Dispatcher {
    runtimes: Vec<Runtime>,
    attached: Mutex<HashMap<ConnectionId, Attached>>,
    metrics: Metrics,
    /// Places for tests of connections.
    trials: Arc<Semaphore>,
    /// Until somebody takes it.
    notices: Mutex<Option<mpsc::Receiver<Notice>>>,
}

#[derive(Debug)]
struct Runtime {
    commands: mpsc::Sender<Command>,
    ticks: Arc<AtomicU64>,
    /// `None` once it was waited for.
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Clone, Debug)]
struct Attached {
    runtime: usize,
    status: Arc<Status>,
}

impl Dispatcher {
    /// Starts one runtime for each of `feeds`. Which feed a connection's deliveries belong to says
    /// [`Dispatcher::runtime_of`].
    ///
    /// # Errors
    /// When a thread or its event loop cannot be made.
    pub fn start(
        options: DispatcherOptions,
        feeds: Vec<Feed>,
        clock: &Clock,
        metrics: &Metrics,
    ) -> io::Result<Dispatcher> {
        let mut runtimes = Vec::with_capacity(feeds.len());
        let (notices, heard) = mpsc::channel(notice::NOTICES);
        for (number, feed) in feeds.into_iter().enumerate() {
            let (commands, inbox) = mpsc::channel(COMMANDS);
            let ticks = Arc::new(AtomicU64::new(0));
            let seed = options.seed.wrapping_add(number as u64);
            let parts = runtime::Parts {
                feed,
                clock: clock.clone(),
                payload_bytes: options.payload_bytes,
                seed,
                resolvers: options.resolvers.clone(),
                ticks: Arc::clone(&ticks),
                inbox,
                notices: notices.clone(),
            };
            runtimes.push(Runtime {
                commands,
                ticks,
                thread: Mutex::new(Some(runtime::spawn(number, parts)?)),
            });
        }
        Ok(Dispatcher {
            runtimes,
            attached: Mutex::default(),
            metrics: metrics.clone(),
            trials: Arc::new(Semaphore::new(TRIALS_MAX)),
            notices: Mutex::new(Some(heard)),
        })
    }

    /// The runtime, and so the feed, of a connection, of `runtimes` (at least 1).
    pub fn runtime_of(name: &str, runtimes: usize) -> usize {
        // FNV-1a: the same for ever, and spread enough over a handful of threads.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        usize::try_from(hash % runtimes.max(1) as u64).unwrap_or(0)
    }

    /// Starts delivering for a connection. Its limiter starts with one token and its concurrency with one. `waits`: where
    /// the time is charged that its deliveries wait.
    pub async fn attach(&self, id: ConnectionId, prepared: Prepared, waits: Arc<Waits>) {
        let name = &prepared.connection.name;
        let status = Arc::new(Status::new(waits));
        let attached = Attached {
            runtime: Dispatcher::runtime_of(name, self.runtimes.len()),
            status: Arc::clone(&status),
        };
        let metrics = self.metrics.connection(name);
        lock(&self.attached).insert(id, attached.clone());
        let command = Command::Attach(id, Box::new(prepared), metrics, status);
        self.send(attached.runtime, command).await;
    }

    /// Puts new settings in force. Attempts in flight end on the old ones, new ones start on the new. HTTP connections
    /// stay where they serve both, the limiter where its limit is the same. Does nothing for one that is not attached.
    pub async fn replace(&self, id: ConnectionId, prepared: Prepared) {
        self.send_to(id, Command::Replace(id, Box::new(prepared))).await;
    }

    /// Stops delivering for a connection. What was not started goes back to the store; attempts in flight end and settle.
    pub async fn detach(&self, id: ConnectionId) {
        let attached = lock(&self.attached).remove(&id);
        if let Some(attached) = attached {
            self.send(attached.runtime, Command::Detach(id)).await;
        }
    }

    /// Holds a connection whatever its settings say, or lets it go on. What it has not started goes back to the store, so
    /// that must not hand it out any more. New settings end the hold, too.
    pub async fn suspend(&self, id: ConnectionId, suspended: bool) {
        self.send_to(id, Command::Suspend(id, suspended)).await;
    }

    /// Gives back to the store what a connection has not started, and returns when that is done. The store must not hand it out
    /// any more until then. Attempts in flight, and what is being read from the disk for them, go on.
    pub async fn recall(&self, id: ConnectionId) {
        let (done, given_back) = oneshot::channel();
        self.send_to(id, Command::Recall(id, done)).await;
        // One that is not attached has nothing to give back.
        let _ = given_back.await;
    }

    /// Tests a connection, attached or not. Whoever drops the answer ends the test. `None` when too many run already.
    pub async fn test(&self, trial: Trial) -> Option<oneshot::Receiver<Report>> {
        let place = Arc::clone(&self.trials).try_acquire_owned().ok()?;
        let (reply, report) = oneshot::channel();
        let runtime = Dispatcher::runtime_of(trial.name(), self.runtimes.len());
        let errand = Errand { trial, reply, _place: place };
        self.send(runtime, Command::Test(Box::new(errand))).await;
        Some(report)
    }

    /// What delivery finds out that the control loop must know. For one listener: `None` the second time.
    pub fn take_notices(&self) -> Option<mpsc::Receiver<Notice>> {
        lock(&self.notices).take()
    }

    /// How a delivery stands that the store has handed out, or what keeps its connection; `None` where the connection is
    /// not attached, or its runtime does not answer soon.
    pub async fn look(&self, id: DeliveryId) -> Option<Look> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.send_to(id.connection, Command::Look(id, reply)).await;
            answer.await.ok()
        };
        tokio::time::timeout(LOOK_MAX, asked).await.ok().flatten()
    }

    /// What an attached connection is doing; the value goes on changing.
    pub fn status(&self, id: ConnectionId) -> Option<Arc<Status>> {
        let attached = lock(&self.attached);
        Some(Arc::clone(&attached.get(&id)?.status))
    }

    /// For each runtime, how often its timers have ticked: about once a second while it is alive.
    pub fn ticks(&self) -> Vec<u64> {
        let read = |runtime: &Runtime| runtime.ticks.load(Ordering::Relaxed);
        self.runtimes.iter().map(read).collect()
    }

    /// Whether a thread has ended although nobody asked it to: a panic.
    pub fn has_failed(&self) -> bool {
        let finished = |runtime: &Runtime| {
            let thread = runtime.thread.lock().unwrap_or_else(PoisonError::into_inner);
            thread.as_ref().is_some_and(JoinHandle::is_finished)
        };
        self.runtimes.iter().any(finished)
    }

    /// Starts no further attempt, waits up to `within` for those in flight, gives the rest back to the store and ends
    /// the threads. Afterwards nothing is delivered any more, and commands are refused with a log line.
    pub async fn drain(&self, within: Duration) {
        let mut ends = Vec::new();
        for runtime in &self.runtimes {
            let (done, end) = oneshot::channel();
            // A runtime that is gone already has nothing to drain.
            if runtime.commands.send(Command::Drain(within, done)).await.is_ok() {
                ends.push(end);
            }
        }
        for end in ends {
            let _ = end.await;
        }
        for runtime in &self.runtimes {
            let thread = lock(&runtime.thread).take();
            if thread.is_some_and(|thread| thread.join().is_err()) {
                tracing::error!("An egress thread had panicked");
            }
        }
    }

    async fn send_to(&self, id: ConnectionId, command: Command) {
        let runtime = lock(&self.attached).get(&id).map(|attached| attached.runtime);
        if let Some(runtime) = runtime {
            self.send(runtime, command).await;
        }
    }

    async fn send(&self, runtime: usize, command: Command) {
        if let Some(runtime) = self.runtimes.get(runtime)
            && runtime.commands.send(command).await.is_err()
        {
            tracing::error!("An egress thread is gone; its connections deliver nothing");
        }
    }
}

/// Nothing panics while it holds one of these locks; if it did, the data is still whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
