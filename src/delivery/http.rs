//! An open HTTP connection in a worker's hands: HTTP/1.1 as its own ([`super::http1`]), or a place on an HTTP/2 connection that
//! it shares with the connection's other workers ([`super::http2`]). Bounds of what a target may send are the same for both.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use http::{Request, Response};
use hyper::body::{Body as _, Incoming};
use tokio::time::Instant;

use super::http1::Http1;
use super::http2::Http2;
use super::request::Body;
use super::timer::Deadline;
use crate::client::Client;
use crate::event::Cause;
use crate::store::history::Phase;

/// The longest head of a response.
pub(super) const HEAD_MAX: usize = 32 * 1024;

/// Bytes of a response's body that are read before the connection is closed, or the stream reset, instead.
pub(super) const BODY_MAX: u64 = 64 * 1024;

/// An open HTTP connection.
#[derive(Debug)]
pub(super) enum Http {
    /// HTTP/1.1, owned.
    One(Box<Http1>),
    /// HTTP/2, shared.
    Two(Http2),
}

/// Why no response came.
#[derive(Clone, Debug)]
pub(super) struct SendError {
    pub(super) cause: Cause,
    pub(super) detail: String,
    /// The peer had closed the connection before it said anything: on a used connection, it did not see the request.
    pub(super) unanswered: bool,
    /// The peer said that it has not looked at the request (HTTP/2), or it was never sent: it is no attempt.
    pub(super) refused: bool,
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
    pub(super) fn opened(&self) -> Instant {
        match self {
            Http::One(http) => http.opened,
            Http::Two(http) => http.opened(),
        }
    }

    /// The address that was dialled.
    pub(super) fn remote(&self) -> SocketAddr {
        match self {
            Http::One(http) => http.remote,
            Http::Two(http) => http.remote(),
        }
    }

    /// Whether it was dialled by `client` and takes another request.
    pub(super) fn is_usable(&self, client: &Rc<Client>) -> bool {
        match self {
            Http::One(http) => Rc::ptr_eq(&http.client, client),
            Http::Two(http) => http.is_usable(client),
        }
    }

    /// While it is idle: whether it has ended.
    pub(super) fn poll_ended(&mut self, cx: &mut Context<'_>) -> bool {
        match self {
            Http::One(http) => http.poll_ended(cx),
            Http::Two(http) => http.poll_ended(cx),
        }
    }

    /// Sends a request and waits for the response's head.
    pub(super) async fn send(
        &mut self,
        request: Request<Body>,
        deadline: &mut Deadline,
    ) -> Result<Response<Incoming>, SendError> {
        match self {
            Http::One(http) => http.send(request, deadline).await,
            Http::Two(http) => http.send(request, deadline).await,
        }
    }

    /// Whether it goes on when a request or a body on it has failed.
    pub(super) fn outlives_failures(&self) -> bool {
        matches!(self, Http::Two(_))
    }

    /// Reads a body to its end, so that the connection can be used again, but not for ever. Its start goes to `excerpt`, up
    /// to its capacity. Of one that says itself that it is too long, only what is there already is looked at.
    pub(super) async fn drain(
        &mut self,
        body: Incoming,
        deadline: &mut Deadline,
        excerpt: &mut Vec<u8>,
    ) -> Drained {
        match self {
            Http::One(http) => {
                let drive = |cx: &mut Context<'_>| {
                    let _ended = http.poll_ended(cx);
                };
                drain(body, deadline, excerpt, drive).await
            }
            Http::Two(_) => drain(body, deadline, excerpt, |_| ()).await,
        }
    }

    /// Waits until the next request can be sent; false when there will be none on this connection.
    pub(super) async fn ready(&mut self, deadline: &mut Deadline) -> bool {
        match self {
            Http::One(http) => http.ready(deadline).await,
            Http::Two(http) => http.leave_stream(),
        }
    }
}

/// `drive` lets the connection work.
async fn drain(
    body: Incoming,
    deadline: &mut Deadline,
    excerpt: &mut Vec<u8>,
    mut drive: impl FnMut(&mut Context<'_>),
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
            drive(cx);
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
