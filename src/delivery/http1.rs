//! One HTTP/1.1 connection, owned and driven by one worker: no task of its own, no pool between.
//!
//! Whoever waits for a response polls the connection itself, and an idle worker does too, so that a close by the peer is
//! seen at once. All waits end at a [`Deadline`]. What a target may send is bounded: a head of [`HEAD_MAX`] bytes and 100
//! headers, [`BEFORE_HEAD_MAX`] bytes of interim answers before it, and of a body what
//! [`Http::drain`](super::http::Http::drain) reads.

use std::error::Error as _;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1 as conn;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::http::{HEAD_MAX, SendError};
use super::request::Body;
use super::timer::Deadline;
use crate::client::{Client, Heard, Mark, Stream, cause_of_io};
use crate::event::Cause;
use crate::store::history::Phase;

/// What a target may send before its response's head is whole, interim (1xx) answers included.
const BEFORE_HEAD_MAX: u64 = 256 * 1024;

/// The largest buffer of one connection.
const BUFFER_MAX: usize = 64 * 1024;

/// What reads and writes when it is polled.
type Driver = Pin<Box<conn::Connection<TokioIo<Stream>, Body>>>;

/// An open HTTP connection.
pub(super) struct Http1 {
    sender: conn::SendRequest<Body>,
    /// `None` when it has ended.
    connection: Option<Driver>,
    heard: Heard,
    pub(super) opened: Instant,
    /// The address that was dialled.
    pub(super) remote: SocketAddr,
    /// Who dialled it: when the settings name another, it is not used again.
    pub(super) client: Rc<Client>,
}

impl Http1 {
    pub(super) async fn open(stream: Stream, client: Rc<Client>) -> hyper::Result<Http1> {
        let (heard, remote) = (stream.heard(), stream.remote());
        let (sender, connection) = conn::Builder::new()
            .max_header_size(HEAD_MAX)
            .max_buf_size(BUFFER_MAX)
            .handshake(TokioIo::new(stream))
            .await?;
        Ok(Http1 {
            sender,
            connection: Some(Box::pin(connection)),
            heard,
            opened: Instant::now(),
            remote,
            client,
        })
    }

    /// Drives the connection; says whether it has ended.
    pub(super) fn poll_ended(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(connection) = &mut self.connection else {
            return true;
        };
        if connection.as_mut().poll(cx).is_ready() {
            // How it ended, the request in flight hears by itself; an idle one has nobody who wants to know.
            self.connection = None;
        }
        self.connection.is_none()
    }

    /// Sends a request and waits for the response's head.
    pub(super) async fn send(
        &mut self,
        request: Request<Body>,
        deadline: &mut Deadline,
    ) -> Result<Response<Incoming>, SendError> {
        let mark = self.heard.mark();
        self.heard.allow(Some(BEFORE_HEAD_MAX));
        let mut response = pin!(self.sender.try_send_request(request));
        let connection = &mut self.connection;
        let answer = poll_fn(|cx| {
            if let Some(running) = connection
                && running.as_mut().poll(cx).is_ready()
            {
                *connection = None;
            }
            match response.as_mut().poll(cx) {
                Poll::Ready(answer) => Poll::Ready(Some(answer)),
                Poll::Pending => deadline.poll(cx).map(|()| None),
            }
        })
        .await;
        match answer {
            Some(Ok(response)) => {
                self.heard.allow(None);
                Ok(response)
            }
            Some(Err(error)) => Err(self.failed(&error.into_error(), mark)),
            None => Err(SendError {
                cause: Cause::RequestTimeout,
                detail: "no response within request_timeout".to_owned(),
                unanswered: false,
                refused: false,
                phase: Phase::Request,
                remote: Some(self.remote),
            }),
        }
    }

    /// Waits until the next request can be sent; false when there will be none on this connection.
    pub(super) async fn ready(&mut self, deadline: &mut Deadline) -> bool {
        poll_fn(|cx| {
            if self.poll_ended(cx) {
                return Poll::Ready(false);
            }
            match self.sender.poll_ready(cx) {
                Poll::Ready(ready) => Poll::Ready(ready.is_ok()),
                Poll::Pending => deadline.poll(cx).map(|()| false),
            }
        })
        .await
    }

    fn failed(&self, error: &hyper::Error, mark: Mark) -> SendError {
        let heard = self.heard.anything_since(mark);
        let io = error.source().and_then(|inner| inner.downcast_ref::<io::Error>());
        let cause = if let Some(io) = io {
            cause_of_io(io)
        } else if error.is_user() {
            Cause::Internal
        } else if !heard && !error.is_parse() {
            Cause::ConnectReset
        } else {
            Cause::Protocol
        };
        let detail = match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        SendError {
            cause,
            detail,
            unanswered: !heard && !matches!(cause, Cause::Internal | Cause::TlsClientCert),
            refused: false,
            phase: if self.heard.tls_fault().is_some() { Phase::Tls } else { Phase::Request },
            remote: Some(self.remote),
        }
    }
}

impl std::fmt::Debug for Http1 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Http1(open: {})", self.connection.is_some())
    }
}
