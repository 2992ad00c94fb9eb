//! What one ingress runtime does: accept, serve each connection, and stop so that every open request gets its answer.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::IngressLimits;
use super::counts::Counts;
use super::guard::Door;
use super::idempotency::Idempotency;
use super::memory::MemoryBudget;
use super::receive::Peer;
use super::refusal::Refused;
use super::routing::RoutingTable;
use super::slots::{Slot, Slots};
use super::socket::{Progress, Socket, Stream};
use crate::clock::Clock;
use crate::store::intake::Intake;

/// The largest request head, and hyper's read buffer: what a connection can make us hold beside the memory budget.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;

/// How long accepting pauses when the process or the system has no file descriptors or memory for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What all connections of one runtime share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) intake: Intake,
    pub(super) routing: Arc<ArcSwap<RoutingTable>>,
    pub(super) keys: Arc<Idempotency>,
    pub(super) clock: Clock,
    pub(super) memory: Arc<MemoryBudget>,
    pub(super) counts: Counts,
    pub(super) rng: RefCell<fastrand::Rng>,
    /// Set once, when the daemon stops.
    pub(super) stopping: Cell<bool>,
    /// In force for the next connection.
    pub(super) limits: Arc<ArcSwap<IngressLimits>>,
}

/// A listener of this runtime. Other runtimes have duplicates of it; the kernel gives each connection to one of them.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener, Door),
    Unix(UnixListener, Arc<[u32]>),
    /// Streams that a test hands in.
    #[cfg(test)]
    Memory(super::testing::Arrivals),
}

/// When and how fast to stop.
#[derive(Clone, Debug, Default)]
pub(super) struct Stop {
    pub(super) token: CancellationToken,
    /// Set before the token is cancelled: how long connections may take to end.
    pub(super) grace: Arc<OnceLock<Duration>>,
}

/// Accepts until told to stop, then lets the connections end.
pub(super) async fn run(
    shared: Rc<Shared>,
    listeners: Vec<Listener>,
    slots: Arc<Slots>,
    stop: Stop,
) {
    let connections = TaskTracker::new();
    let closing = CancellationToken::new();
    tokio::select! {
        biased;
        () = stop.token.cancelled() => {}
        () = accept_all(&shared, &listeners, &slots, (&connections, &closing)) => {}
    }
    drop(listeners);
    shared.stopping.set(true);
    closing.cancel();
    connections.close();
    let grace = stop.grace.get().copied().unwrap_or_default();
    if tokio::time::timeout(grace, connections.wait()).await.is_err() {
        let open = connections.len();
        tracing::warn!(open, "Closed connections of producers that did not end in time");
    }
}

/// Accepts for ever. At the limit of connections it waits for one to end; the kernel keeps what comes meanwhile.
///
/// Cancel safe: between a connection accepted and its task spawned there is no await.
async fn accept_all(
    shared: &Rc<Shared>,
    listeners: &[Listener],
    slots: &Arc<Slots>,
    (connections, closing): (&TaskTracker, &CancellationToken),
) {
    let mut first = 0;
    let mut failing = false;
    loop {
        let slot = slots.take().await;
        // Each listener is asked first in turn, so that a busy one does not starve the others.
        first = (first + 1) % listeners.len().max(1);
        match poll_fn(|cx| poll_accept(cx, listeners, first)).await {
            Ok((stream, door)) => {
                failing = false;
                let open = OpenConnection::new(slot, &shared.counts);
                let task = connection(Rc::clone(shared), (stream, door), open, closing.clone());
                connections.spawn_local(task);
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                shared.counts.accept_failed.increment(1);
                if !failing {
                    tracing::warn!(%error, "Could not accept connections; trying again");
                }
                failing = true;
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn poll_accept(
    cx: &mut Context<'_>,
    listeners: &[Listener],
    first: usize,
) -> Poll<io::Result<(Stream, Door)>> {
    let (before, from_first) = listeners.split_at(first.min(listeners.len()));
    for listener in from_first.iter().chain(before) {
        if let Poll::Ready(accepted) = listener.poll_accept(cx) {
            return Poll::Ready(accepted);
        }
    }
    Poll::Pending
}

impl Listener {
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, Door)>> {
        match self {
            Listener::Tcp(listener, door) => listener.poll_accept(cx).map_ok(|(stream, _)| {
                // Without it an answer may wait for an acknowledgement; a socket that refuses it still works.
                let _ = stream.set_nodelay(true);
                (Stream::Tcp(TokioIo::new(stream)), *door)
            }),
            Listener::Unix(listener, allow_uids) => {
                listener.poll_accept(cx).map_ok(|(stream, _)| {
                    let allowed = allow_uids.is_empty() || peer_is_in(&stream, allow_uids);
                    (Stream::Unix(TokioIo::new(stream)), Door::Unix { allowed })
                })
            }
            #[cfg(test)]
            Listener::Memory(arrivals) => arrivals
                .poll_next(cx)
                .map(|pipe| Ok((Stream::Memory(TokioIo::new(pipe)), Door::Loopback))),
        }
    }
}

fn peer_is_in(stream: &UnixStream, allow_uids: &[u32]) -> bool {
    stream.peer_cred().is_ok_and(|peer| allow_uids.contains(&peer.uid()))
}

/// Whether only the connection that was to be accepted is lost, and the next may be fine.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

/// Counts an open connection and holds its place in the limit.
#[derive(Debug)]
struct OpenConnection {
    _slot: Slot,
    counts: Counts,
}

impl OpenConnection {
    fn new(slot: Slot, counts: &Counts) -> OpenConnection {
        counts.connections.increment(1.0);
        OpenConnection { _slot: slot, counts: counts.clone() }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.counts.connections.decrement(1.0);
    }
}

/// Serves one connection to its end.
async fn connection(
    shared: Rc<Shared>,
    (stream, door): (Stream, Door),
    _open: OpenConnection,
    closing: CancellationToken,
) {
    let progress = Rc::new(Progress::default());
    let limits = shared.limits.load_full();
    let socket = Socket::new(stream, Rc::clone(&progress), Rc::clone(&shared), Arc::clone(&limits));
    let (peer_shared, until) = (Rc::clone(&shared), closing.clone());
    let peer = Rc::new(Peer { shared: peer_shared, progress, limits, door, closing: until });
    let service = service_fn(move |request: Request<Incoming>| {
        let peer = Rc::clone(&peer);
        async move { Ok::<_, Infallible>(peer.answer(request).await) }
    });
    let mut http = protocol().serve_connection(socket, service);
    let result = tokio::select! {
        biased;
        result = &mut http => result,
        // From now on a read that would block fails: polling on brings every request to its answer.
        () = closing.cancelled() => (&mut http).await,
    };
    let socket = http.into_parts().io;
    let last = socket.epilogue(&result).map(|why| {
        shared.counts.request(door);
        shared.counts.refusal(why);
        Refused::from(why).problem().to_http1()
    });
    socket.close(last).await;
}

/// HTTP/1.1 as ingress speaks it.
fn protocol() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        // A producer that shuts its sending side down still gets its answer. It also keeps hyper from reading, and from
        // dropping the service, while an event waits for the disk: the memory budget counts on that.
        .half_close(true)
        // `Socket` has all time limits; hyper's would arm a timer for each request.
        .header_read_timeout(None)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_header_size(HEAD_BYTES_MAX)
        // Answers are a few hundred bytes: copied into one piece they need one plain write.
        .writev(false);
    builder
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn accepting_pauses_when_the_process_or_the_system_lacks_something() {
        let pauses = |errno: Errno| !is_of_one_connection(&io::Error::from(errno));
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
            assert!(pauses(errno), "{errno:?}");
        }
        for errno in [Errno::CONNABORTED, Errno::CONNRESET, Errno::INTR] {
            assert!(!pauses(errno), "{errno:?}");
        }
    }
}
