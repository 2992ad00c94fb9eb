//! One HTTP/1.1 connection, owned and driven by one worker: no task of its own, no pool between.
//!
//! Whoever waits for a response polls the connection itself, and an idle worker does too, so that a close by the peer is
//! seen at once. All waits end at a [`Deadline`]. What a target may send is bounded: a head of [`HEAD_MAX`] bytes and 100
//! headers, [`BEFORE_HEAD_MAX`] bytes of interim answers before it, and of a body what [`Http::drain`] reads.

use std::error::Error as _;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use http::{Request, Response};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1 as conn;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::request::Body;
use super::timer::Deadline;
use crate::client::{Client, Heard, Stream, cause_of_io};
use crate::event::Cause;
use crate::store::history::Phase;

/// The longest head of a response.
const HEAD_MAX: usize = 32 * 1024;

/// What a target may send before its response's head is whole, interim (1xx) answers included.
const BEFORE_HEAD_MAX: u64 = 256 * 1024;

/// The largest buffer of one connection.
const BUFFER_MAX: usize = 64 * 1024;

/// Bytes of a response's body that are read before the connection is closed instead.
pub(super) const BODY_MAX: u64 = 64 * 1024;

/// What reads and writes when it is polled.
type Driver = Pin<Box<conn::Connection<TokioIo<Stream>, Body>>>;

/// An open HTTP connection.
pub(super) struct Http {
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

/// Why no response came.
#[derive(Debug)]
pub(super) struct SendError {
    pub(super) cause: Cause,
    pub(super) detail: String,
    /// The peer had closed the connection before it said anything: on a used connection, it did not see the request.
    pub(super) unanswered: bool,
    /// How far it came.
    pub(super) phase: Phase,
    /// Where to, as far as that was known.
    pub(super) remote: Option<SocketAddr>,
}

/// What became of a response's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drained {
    /// Read to its end.
    Whole,
    /// Longer than [`BODY_MAX`].
    TooLarge,
    /// Not there when the time was over.
    Late,
    /// Cut off or malformed.
    Broken,
}

impl Http {
    pub(super) async fn open(stream: Stream, client: Rc<Client>) -> hyper::Result<Http> {
        let (heard, remote) = (stream.heard(), stream.remote());
        let (sender, connection) = conn::Builder::new()
            .max_header_size(HEAD_MAX)
            .max_buf_size(BUFFER_MAX)
            .handshake(TokioIo::new(stream))
            .await?;
        Ok(Http {
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
        self.heard.forget();
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
            Some(Err(error)) => Err(self.failed(&error.into_error())),
            None => Err(SendError {
                cause: Cause::RequestTimeout,
                detail: "no response within request_timeout".to_owned(),
                unanswered: false,
                phase: Phase::Request,
                remote: Some(self.remote),
            }),
        }
    }

    /// Reads a body to its end, so that the connection can be used again, but not for ever. Its start goes to `excerpt`, up
    /// to its capacity. Of one that says itself that it is too long, only what is there already is looked at.
    pub(super) async fn drain(
        &mut self,
        body: Incoming,
        deadline: &mut Deadline,
        excerpt: &mut Vec<u8>,
    ) -> Drained {
        if body.is_end_stream() {
            return Drained::Whole;
        }
        let too_large = body.size_hint().lower() > BODY_MAX;
        if too_large && excerpt.capacity() == 0 {
            return Drained::TooLarge;
        }
        let mut body = pin!(body);
        let mut read = 0;
        poll_fn(|cx| {
            loop {
                let _ended = self.poll_ended(cx);
                match body.as_mut().poll_frame(cx) {
                    Poll::Ready(None) => return Poll::Ready(Drained::Whole),
                    Poll::Ready(Some(Err(_))) => return Poll::Ready(Drained::Broken),
                    Poll::Ready(Some(Ok(frame))) => {
                        let data = frame.data_ref().map_or(&[][..], |data| data);
                        read += data.len() as u64;
                        let room = excerpt.capacity() - excerpt.len();
                        excerpt.extend_from_slice(data.get(..room).unwrap_or(data));
                        if read > BODY_MAX || (too_large && excerpt.len() == excerpt.capacity()) {
                            return Poll::Ready(Drained::TooLarge);
                        }
                    }
                    Poll::Pending if too_large => return Poll::Ready(Drained::TooLarge),
                    Poll::Pending => return deadline.poll(cx).map(|()| Drained::Late),
                }
            }
        })
        .await
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

    fn failed(&self, error: &hyper::Error) -> SendError {
        let heard = self.heard.anything();
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
            unanswered: !heard && cause != Cause::Internal,
            phase: Phase::Request,
            remote: Some(self.remote),
        }
    }
}

impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Http(open: {})", self.connection.is_some())
    }
}
