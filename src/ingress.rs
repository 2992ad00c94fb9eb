//! The way in: producers post events over HTTP/1.1, on TCP and on a Unix socket, and get a `202` when the event is durable.
//!
//! What it promises: `202` is sent only after the store's acknowledgement; every refusal is a problem document with a stable
//! code ([`Refusal`]) and leaves no trace; memory, connections, heads, bodies and waiting are limited; when it stops, every
//! open request is answered 202 or 503.
//!
//! What it does not do: it never touches a file, and knows nothing about delivery. It asks the routing table where an event
//! goes and hands both to the store.
//!
//! | file | what |
//! |---|---|
//! | `ingress/serve.rs` | one runtime: accept, serve, stop |
//! | `ingress/socket.rs` | time limits, and answers to what hyper cannot parse |
//! | `ingress/guard.rs` | ambiguous heads, web pages, forbidden users, paths |
//! | `ingress/receive.rs` | one request from head to answer |
//! | `ingress/sources.rs` | the sources in force: who may post, how much |
//! | `ingress/cors.rs` | web pages that may post |
//! | `ingress/post.rs` | what of a request an event keeps |
//! | `ingress/timing.rs` | delays of events, waits of producers |
//! | `ingress/cloudevents.rs` | CloudEvents in binary and structured form |
//! | `ingress/batch.rs` | several events in one body |
//! | `ingress/accept.rs`, `ingress/accept_batch.rs` | storing one event, or several together |
//! | `ingress/answers.rs` | what a producer is told |
//! | `ingress/idempotency.rs` | the same key makes one event |
//! | `ingress/own.rs` | events that the daemon makes itself |
//! | `ingress/routing.rs` | where an event goes |
//! | `ingress/rules.rs` | which connections want it: filters, dedupe |
//! | `ingress/memory.rs` | the budget for bodies |
//! | `ingress/slots.rs` | the limit of connections |
//! | `ingress/refusal.rs` | the closed list of refusals |
//! | `ingress/counts.rs` | the metrics' handles |

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::Runtime;
use tokio::task::LocalSet;

use crate::clock::Clock;
use crate::listener::{self, BindError, SocketFile, Sockets};
use crate::metrics::Metrics;
use crate::store::intake::{AckLane, Intake};

mod accept;
mod accept_batch;
mod answers;
mod batch;
mod cloudevents;
mod cors;
mod counts;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod guard;
mod idempotency;
pub mod memory;
mod own;
mod post;
mod receive;
mod refusal;
mod routing;
mod rules;
mod serve;
mod slots;
mod socket;
mod sources;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod timing;

pub use idempotency::Idempotency;
pub use memory::MemoryBudget;
pub use own::OwnEvents;
pub use refusal::Refusal;
pub use routing::{Entry, RoutingTable};
pub use rules::Ignored;
pub use serve::HEAD_BYTES_MAX;
pub use sources::Sources;

use counts::Counts;
use guard::Door;
use serve::{Listener, Shared, Stop};
use slots::Slots;

/// A Unix socket as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixOptions {
    /// Where its file is.
    pub path: PathBuf,
    /// The mode of its file, such as `0o660`.
    pub mode: u32,
    /// The users that may post; empty: all that the mode lets in.
    pub allow_uids: Vec<u32>,
}

/// What is fixed at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressOptions {
    /// TCP addresses; port 0 takes any free one.
    pub http: Vec<SocketAddr>,
    /// The Unix socket, if any.
    pub unix: Option<UnixOptions>,
    /// Bytes of bodies that may wait for the disk at one time: ingress's share of `[limits] memory`.
    pub memory_bytes: u64,
    /// What a reload may change.
    pub limits: IngressLimits,
}

/// What a reload may change, for connections that are accepted afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressLimits {
    /// Connections open at one time, over all listeners; at the limit, accepting pauses.
    pub max_connections: usize,
    /// From the first byte of a request to the end of its head.
    pub header_timeout: Duration,
    /// From the first wait for the body to its end.
    pub body_timeout: Duration,
    /// Between requests, and for a producer to take its answer.
    pub idle_timeout: Duration,
    /// Names that Host may have on loopback listeners beside `localhost` and loopback addresses.
    pub hosts: Vec<String>,
    /// Bytes of the body of a batch.
    pub max_batch_bytes: u64,
}

impl Default for IngressOptions {
    fn default() -> IngressOptions {
        IngressOptions {
            http: vec![SocketAddr::from(([127, 0, 0, 1], 8377))],
            unix: None,
            memory_bytes: 12 * 1024 * 1024,
            limits: IngressLimits::default(),
        }
    }
}

impl Default for IngressLimits {
    fn default() -> IngressLimits {
        IngressLimits {
            max_connections: 4096,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            hosts: Vec::new(),
            max_batch_bytes: 4 * 1024 * 1024,
        }
    }
}

/// Open listeners on which nobody accepts yet. Dropping it closes them.
#[derive(Debug)]
pub struct Ingress {
    options: IngressOptions,
    tcp: Vec<std::net::TcpListener>,
    unix: Option<(UnixListener, Option<SocketFile>)>,
}

/// What ingress works with; the daemon builds it.
#[derive(Debug)]
pub struct IngressParts {
    /// One way into the store for each runtime, with its lane: as many runtimes are started.
    pub intakes: Vec<(Intake, Arc<AckLane>)>,
    /// Where events go; the daemon swaps it at a reload.
    pub routing: Arc<ArcSwap<RoutingTable>>,
    /// Which events were posted before.
    pub keys: Arc<Idempotency>,
    /// Where the time comes from.
    pub clock: Clock,
    /// Where it is counted.
    pub metrics: Metrics,
    /// The seed of the event ids' random bits.
    pub seed: u64,
}

/// Ingress at work: its threads and what stops them.
#[derive(Debug)]
pub struct RunningIngress {
    threads: Vec<JoinHandle<()>>,
    stop: Stop,
    memory: Arc<MemoryBudget>,
    limits: Arc<ArcSwap<IngressLimits>>,
    slots: Arc<Slots>,
    /// Removed when all threads have ended.
    _socket_file: Option<SocketFile>,
}

impl Ingress {
    /// Opens all listeners, or takes those that the service manager opened.
    ///
    /// # Errors
    /// The first listener that cannot be opened; the others are closed again.
    pub fn bind(options: IngressOptions, inherited: Sockets) -> Result<Ingress, BindError> {
        if !inherited.is_empty() {
            let Sockets { tcp, unix } = inherited;
            return Ok(Ingress { tcp, unix: unix.map(|unix| (unix, None)), options });
        }
        let tcp = options.http.iter().map(|address| listener::bind_tcp(*address));
        Ok(Ingress {
            tcp: tcp.collect::<Result<_, _>>()?,
            unix: options
                .unix
                .as_ref()
                .map(|unix| listener::bind_unix(&unix.path, unix.mode))
                .transpose()?
                .map(|(unix, file)| (unix, Some(file))),
            options,
        })
    }

    /// The TCP addresses in the order of the options, with the real port where 0 was asked for.
    ///
    /// # Errors
    /// What the system says.
    pub fn tcp_addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.tcp.iter().map(std::net::TcpListener::local_addr).collect()
    }

    /// Starts one thread with a runtime of its own for each of the intakes.
    ///
    /// # Errors
    /// When the system has no thread or file descriptor left. What was started is stopped.
    pub fn start(mut self, parts: IngressParts) -> io::Result<RunningIngress> {
        let (unix, socket_file) = self.unix.take().unzip();
        let mut running = RunningIngress {
            threads: Vec::new(),
            stop: Stop::default(),
            memory: Arc::new(MemoryBudget::new(self.options.memory_bytes)),
            limits: Arc::new(ArcSwap::from_pointee(self.options.limits.clone())),
            slots: Slots::new(self.options.limits.max_connections),
            _socket_file: socket_file.flatten(),
        };
        let counts = Counts::new(&parts.metrics);
        for (number, (intake, lane)) in (0..).zip(parts.intakes) {
            let shared = Shared {
                intake,
                routing: Arc::clone(&parts.routing),
                keys: Arc::clone(&parts.keys),
                clock: parts.clock.clone(),
                memory: Arc::clone(&running.memory),
                counts: counts.clone(),
                rng: RefCell::new(fastrand::Rng::with_seed(parts.seed.wrapping_add(number))),
                stopping: Cell::new(false),
                limits: Arc::clone(&running.limits),
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let listeners = self.listeners(&runtime, unix.as_ref())?;
            let (slots, stop) = (Arc::clone(&running.slots), running.stop.clone());
            let builder = std::thread::Builder::new().name(format!("ingress-{number}"));
            running.threads.push(builder.spawn(move || {
                LocalSet::new().block_on(&runtime, async move {
                    let acks = tokio::task::spawn_local(async move { lane.run().await });
                    serve::run(Rc::new(shared), listeners, slots, stop).await;
                    acks.abort();
                });
            })?);
        }
        for address in self.tcp_addresses()? {
            tracing::info!(%address, "Listening for events");
        }
        if let Some(path) = unix.as_ref().and_then(|unix| unix.local_addr().ok())
            && let Some(path) = path.as_pathname()
        {
            tracing::info!(path = %path.display(), "Listening for events");
        }
        Ok(running)
    }

    /// Duplicates of all listeners, for one runtime.
    fn listeners(
        &self,
        runtime: &Runtime,
        unix: Option<&UnixListener>,
    ) -> io::Result<Vec<Listener>> {
        let _context = runtime.enter();
        let mut listeners = Vec::with_capacity(self.tcp.len() + 1);
        for listener in &self.tcp {
            let door = if listener.local_addr()?.ip().is_loopback() {
                Door::Loopback
            } else {
                Door::Network
            };
            let listener = tokio::net::TcpListener::from_std(listener.try_clone()?)?;
            listeners.push(Listener::Tcp(listener, door));
        }
        if let Some(listener) = unix {
            let listener = tokio::net::UnixListener::from_std(listener.try_clone()?)?;
            let allow_uids = self.options.unix.as_ref().map(|unix| unix.allow_uids.clone());
            listeners.push(Listener::Unix(listener, allow_uids.unwrap_or_default().into()));
        }
        Ok(listeners)
    }
}

impl RunningIngress {
    /// The budget for bodies, for the metrics.
    pub fn memory(&self) -> &Arc<MemoryBudget> {
        &self.memory
    }

    /// Puts other limits in force: at once for the number of connections, for the rest with each connection accepted from
    /// now on. No connection is dropped.
    pub fn set_limits(&self, limits: IngressLimits) {
        self.slots.set_limit(limits.max_connections);
        self.limits.store(Arc::new(limits));
    }

    /// Whether a thread has ended although nobody asked it to: a panic.
    pub fn has_failed(&self) -> bool {
        !self.stop.token.is_cancelled() && self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Begins to stop, and returns at once: nothing is accepted any more, open requests are answered, connections close.
    /// What is still open after `grace` is cut. The store must go on working until [`RunningIngress::join`] returns.
    pub fn begin_stop(&self, grace: Duration) {
        // The first call decides.
        let _ = self.stop.grace.set(grace);
        self.stop.token.cancel();
    }

    /// Waits until all threads have ended, and removes the Unix socket's file. Blocks the calling thread.
    pub fn join(mut self) {
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("A thread of ingress panicked");
            }
        }
    }

    /// [`RunningIngress::begin_stop`] and [`RunningIngress::join`].
    pub fn stop(self, grace: Duration) {
        self.begin_stop(grace);
        self.join();
    }
}

/// Dropping it without a stop, as a start that failed half way does, still ends the threads.
impl Drop for RunningIngress {
    fn drop(&mut self) {
        self.begin_stop(Duration::ZERO);
    }
}
