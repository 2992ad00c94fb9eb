//! HTTP/2 connections, shared by the workers of one connection: a stream for each attempt.
//!
//! A [`Session`] is one HTTP/2 connection. The workers that use it hold it, and it closes when the last one leaves. How many
//! attempts there are at one time is the outbox's matter, as with HTTP/1.1; a session takes as many as the peer allows, and
//! for more another one is dialled. [`Sessions`] are those of one connection.
//!
//! What a peer says it has not processed (REFUSED_STREAM, or a stream above GOAWAY's last one, RFC 9113, 8.7) is no attempt:
//! the worker sends it again. A peer gets no server push, a bounded head, a bounded body, windows that fit them, and bounds on
//! what it can make us queue by resetting streams.

use std::cell::{Cell, RefCell};
use std::error::Error as _;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

use http::header::HOST;
use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2 as conn;
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::http::{BODY_MAX, HEAD_MAX, SendError};
use super::request::Body;
use super::timer::Deadline;
use crate::client::{Client, Heard, Mark, Stream, cause_of_io};
use crate::event::Cause;
use crate::store::history::Phase;

mod sessions;

pub(super) use sessions::{Sessions, Way};

/// Bytes of responses' bodies that all streams together may have under way.
const WINDOW: u32 = 128 * 1024;
/// Bytes of a request's body that one stream may have queued.
const SEND_BUFFER: usize = 256 * 1024;
/// Streams that the peer has reset and that are still remembered; more of them end the connection.
const RESET_STREAMS_MAX: usize = 128;

/// An HTTP/2 connection.
pub(super) struct Session {
    sender: conn::SendRequest<Body>,
    heard: Heard,
    opened: Instant,
    remote: SocketAddr,
    client: Rc<Client>,
    scheme: Scheme,
    /// Attempts on it.
    streams: Cell<u32>,
    /// What the peer allows.
    streams_max: Rc<Cell<usize>>,
    /// It takes no further stream: the peer says that it goes, or is not heard any more.
    leaving: Cell<bool>,
    /// Cancelled when the connection has ended.
    ended: CancellationToken,
    /// What reads and writes; ends with this.
    _tasks: Rc<RefCell<JoinSet<()>>>,
}

impl Session {
    /// Begins HTTP/2 on a socket that agreed to it.
    pub(super) async fn open(stream: Stream, client: Rc<Client>) -> hyper::Result<Rc<Session>> {
        let (heard, remote) = (stream.heard(), stream.remote());
        let scheme = if stream.secured().is_some() { Scheme::HTTPS } else { Scheme::HTTP };
        let tasks: Rc<RefCell<JoinSet<()>>> = Rc::default();
        let executor = Executor(Rc::downgrade(&tasks));
        let (sender, connection) = conn::Builder::new(executor.clone())
            .initial_stream_window_size(u32::try_from(BODY_MAX).unwrap_or(WINDOW))
            .initial_connection_window_size(WINDOW)
            .max_header_list_size(u32::try_from(HEAD_MAX).unwrap_or(WINDOW))
            .max_send_buf_size(SEND_BUFFER)
            .max_concurrent_reset_streams(RESET_STREAMS_MAX)
            .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
            .max_local_error_reset_streams(RESET_STREAMS_MAX)
            .handshake(TokioIo::new(stream))
            .await?;
        let streams_max = Rc::new(Cell::new(connection.current_max_send_streams()));
        let ended = CancellationToken::new();
        let (allowed, end) = (Rc::clone(&streams_max), ended.clone().drop_guard());
        hyper::rt::Executor::execute(&executor, async move {
            let _end = end;
            let mut connection = pin!(connection);
            // How it ended, the requests on it hear themselves.
            let _ = poll_fn(|cx| {
                let polled = connection.as_mut().poll(cx);
                allowed.set(connection.current_max_send_streams());
                polled
            })
            .await;
        });
        Ok(Rc::new(Session {
            sender,
            heard,
            opened: Instant::now(),
            remote,
            client,
            scheme,
            streams: Cell::new(0),
            streams_max,
            leaving: Cell::new(false),
            ended,
            _tasks: tasks,
        }))
    }

    /// Whether it takes another stream.
    fn has_room(&self) -> bool {
        let streams = usize::try_from(self.streams.get()).unwrap_or(usize::MAX);
        self.is_open() && streams < self.streams_max.get()
    }

    fn is_open(&self) -> bool {
        !self.leaving.get() && !self.sender.is_closed() && !self.ended.is_cancelled()
    }

    /// The request with the target where HTTP/2 has it: in the pseudo-headers (RFC 9113, 8.3.1).
    fn addressed(&self, mut request: Request<Body>) -> Request<Body> {
        let host = request.headers_mut().remove(HOST);
        let authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = authority;
        // Without an authority it is not a URI; hyper says so then.
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        request
    }

    fn failed(&self, error: &hyper::Error, mark: Mark) -> SendError {
        let heard = self.heard.anything_since(mark);
        let source = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
        // hyper takes the socket's errors out of HTTP/2's.
        let socket = error.source().and_then(|source| source.downcast_ref::<io::Error>());
        let detail = match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        let mut failed = SendError {
            cause: Cause::Protocol,
            detail,
            unanswered: false,
            refused: false,
            phase: Phase::Request,
            remote: Some(self.remote),
        };
        let ends_connection = match source {
            Some(error) if error.is_remote() && error.is_reset() => {
                failed.refused = error.reason() == Some(h2::Reason::REFUSED_STREAM);
                false
            }
            Some(error) if error.is_remote() && error.is_go_away() => {
                // Streams that it has processed end with the connection, not with this.
                failed.refused = error.reason() == Some(h2::Reason::NO_ERROR);
                true
            }
            Some(_) => true,
            None if socket.is_some() => {
                failed.cause = socket.map_or(Cause::ConnectReset, cause_of_io);
                failed.unanswered = !heard;
                true
            }
            // It was never sent.
            None if error.is_canceled() || error.is_closed() => {
                failed.refused = true;
                true
            }
            None if error.is_user() => {
                failed.cause = Cause::Internal;
                false
            }
            None => true,
        };
        if let Some(cause) = self.heard.tls_fault() {
            failed =
                SendError { cause, phase: Phase::Tls, refused: false, unanswered: false, ..failed };
        }
        if ends_connection {
            self.leaving.set(true);
        }
        failed
    }
}

/// A worker's place on a session.
pub(super) struct Http2 {
    session: Rc<Session>,
    /// Its attempt is on a stream.
    on_stream: bool,
    /// Waits for the session's end while the worker is idle.
    end: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl Http2 {
    pub(super) fn new(session: &Rc<Session>) -> Http2 {
        Http2 { session: Rc::clone(session), on_stream: false, end: None }
    }

    pub(super) fn opened(&self) -> Instant {
        self.session.opened
    }

    pub(super) fn remote(&self) -> SocketAddr {
        self.session.remote
    }

    /// Whether it was dialled by `client` and takes another stream.
    pub(super) fn is_usable(&self, client: &Rc<Client>) -> bool {
        Rc::ptr_eq(&self.session.client, client) && self.session.has_room()
    }

    /// Whether the session has ended; wakes the caller when it does.
    pub(super) fn poll_ended(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.session.is_open() {
            return true;
        }
        let ended = &self.session.ended;
        let end = self.end.get_or_insert_with(|| Box::pin(ended.clone().cancelled_owned()));
        end.as_mut().poll(cx).is_ready()
    }

    /// Sends a request on a stream of its own and waits for the response's head.
    pub(super) async fn send(
        &mut self,
        request: Request<Body>,
        deadline: &mut Deadline,
    ) -> Result<Response<Incoming>, SendError> {
        self.end = None;
        self.enter_stream();
        let session = &self.session;
        let mark = session.heard.mark();
        let mut sender = session.sender.clone();
        let mut response = pin!(sender.try_send_request(session.addressed(request)));
        let answer = poll_fn(|cx| match response.as_mut().poll(cx) {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            Poll::Pending => deadline.poll(cx).map(|()| None),
        })
        .await;
        match answer {
            Some(Ok(response)) => Ok(response),
            Some(Err(error)) => Err(session.failed(error.error(), mark)),
            None => {
                // Not a byte, for no stream: nobody is there any more. Who is on it already may still wait.
                if !session.heard.anything_since(mark) {
                    session.leaving.set(true);
                }
                Err(SendError {
                    cause: Cause::RequestTimeout,
                    detail: "no response within request_timeout".to_owned(),
                    unanswered: false,
                    refused: false,
                    phase: Phase::Request,
                    remote: Some(session.remote),
                })
            }
        }
    }

    fn enter_stream(&mut self) {
        if !std::mem::replace(&mut self.on_stream, true) {
            self.session.streams.set(self.session.streams.get() + 1);
        }
    }

    /// The attempt is over; whether the session can be kept.
    pub(super) fn leave_stream(&mut self) -> bool {
        if std::mem::replace(&mut self.on_stream, false) {
            self.session.streams.set(self.session.streams.get().saturating_sub(1));
        }
        self.session.is_open()
    }
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.leave_stream();
    }
}

impl std::fmt::Debug for Http2 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Http2({} streams)", self.session.streams.get())
    }
}

/// Runs hyper's tasks of one session on this thread.
#[derive(Clone)]
struct Executor(Weak<RefCell<JoinSet<()>>>);

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Executor {
    fn execute(&self, task: F) {
        // Without its session a task has nothing to do.
        if let Some(tasks) = self.0.upgrade() {
            let mut tasks = tasks.borrow_mut();
            // Those that have ended: one for each request.
            while tasks.try_join_next().is_some() {}
            tasks.spawn_local(task);
        }
    }
}
