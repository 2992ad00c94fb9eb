//! A producer's socket as hyper sees it, with the time limits that hyper does not have.
//!
//! A limit is looked at only when a read or a write would block: a request that is there at once costs no timer. One timer
//! serves a connection for its life; it is moved only to an earlier time, and a later deadline is noticed when it fires.
//!
//! | phase | limit | when it is over |
//! |---|---|---|
//! | idle: nothing of the next request is here | `idle_timeout` | closed |
//! | head: its first bytes are here | `header_timeout` | 408 `header_timeout` |
//! | body: the service reads it | `body_timeout`, for the whole body | 408 `body_timeout` |
//! | any, a write blocks | `idle_timeout` | closed |
//!
//! While the daemon stops, a read that would block fails at once, so that each open request gets its answer: 503 if it is
//! not wholly here yet.
//!
//! hyper answers what it cannot parse by itself, without a document. Such an answer is swallowed here, and
//! [`Socket::epilogue`] says what is to be sent instead.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::IngressLimits;
use super::refusal::Refusal;
use super::serve::Shared;

/// After a refusal the rest of the request is read and thrown away for so long: closing a socket with unread bytes would
/// reset it, and the producer might lose the answer.
const LINGER: Duration = Duration::from_secs(2);

/// Where a connection stands in its current request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    #[default]
    Idle,
    Head,
    /// The service has the head; it reads the body or waits for the store.
    Body,
    /// The service has answered; the answer is on its way out.
    Answering,
}

/// What the socket and the service of one connection tell each other.
#[derive(Debug, Default)]
pub(super) struct Progress {
    phase: Cell<Phase>,
    /// Grows with each phase; the timer belongs to one of them.
    turn: Cell<u32>,
    /// Why the socket gave up reading.
    gave_up: Cell<Option<Refusal>>,
    /// hyper's own answer, swallowed.
    swallowed: Cell<Option<Refusal>>,
    /// An answer went out while parts of the request were still unread.
    pub(super) unread: Cell<bool>,
}

impl Progress {
    pub(super) fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.turn.set(self.turn.get().wrapping_add(1));
    }

    /// Why the socket gave up reading, if it did. Whoever asks gives the answer.
    pub(super) fn take_gave_up(&self) -> Option<Refusal> {
        self.gave_up.take()
    }
}

/// Either kind of stream.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TokioIo<TcpStream>),
    Unix(TokioIo<UnixStream>),
    #[cfg(test)]
    Memory(TokioIo<super::testing::Pipe>),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Socket {
    stream: Stream,
    progress: Rc<Progress>,
    shared: Rc<Shared>,
    /// In force when it was accepted.
    limits: Arc<IngressLimits>,
    read_limit: Limit,
    write_limit: Limit,
    /// Grows with each write that went through.
    writes: u32,
}

impl Socket {
    pub(super) fn new(
        stream: Stream,
        progress: Rc<Progress>,
        shared: Rc<Shared>,
        limits: Arc<IngressLimits>,
    ) -> Socket {
        Socket {
            stream,
            progress,
            shared,
            limits,
            read_limit: Limit::default(),
            write_limit: Limit::default(),
            writes: 0,
        }
    }

    /// What is still to be answered after hyper ended with `result`.
    pub(super) fn epilogue(&self, result: &hyper::Result<()>) -> Option<Refusal> {
        if self.progress.phase.get() == Phase::Answering {
            return None;
        }
        let unparsed = result.as_ref().is_err_and(hyper::Error::is_parse)
            && self.progress.phase.get() == Phase::Head;
        self.progress
            .swallowed
            .get()
            .or(self.progress.gave_up.get())
            .or(unparsed.then_some(Refusal::Malformed))
    }

    /// Sends `last`, if any, and closes so that the producer gets to read all that was sent.
    pub(super) async fn close(self, last: Option<Vec<u8>>) {
        let linger = last.is_some() || self.progress.unread.get();
        let limit = self.limits.idle_timeout.min(LINGER);
        match self.stream {
            Stream::Tcp(stream) => close(stream.into_inner(), last, linger, limit).await,
            Stream::Unix(stream) => close(stream.into_inner(), last, linger, limit).await,
            #[cfg(test)]
            Stream::Memory(stream) => close(stream.into_inner(), last, linger, limit).await,
        }
    }

    fn read_blocked(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (progress, limits) = (&self.progress, &self.limits);
        let (allowed, late) = match progress.phase.get() {
            Phase::Idle => (limits.idle_timeout, None),
            Phase::Head => (limits.header_timeout, Some(Refusal::HeaderTimeout)),
            Phase::Body => (limits.body_timeout, Some(Refusal::BodyTimeout)),
            Phase::Answering => return Poll::Pending,
        };
        if self.shared.stopping.get() {
            progress.gave_up.set(late.map(|_| Refusal::ShuttingDown));
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        ready!(self.read_limit.poll_over(cx, progress.turn.get(), allowed));
        progress.gave_up.set(late);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Whether hyper is writing an answer of its own. The service has not been called for this request, so only the
    /// parser can have found something to say.
    fn swallows(&self, bytes: &[u8]) -> bool {
        let before_service = matches!(self.progress.phase.get(), Phase::Idle | Phase::Head);
        if !before_service {
            return false;
        }
        let Some(status) =
            bytes.strip_prefix(b"HTTP/1.1 ").or_else(|| bytes.strip_prefix(b"HTTP/1.0 "))
        else {
            return self.progress.swallowed.get().is_some();
        };
        let too_large = status.starts_with(b"431") || status.starts_with(b"414");
        self.progress.swallowed.set(Some(if too_large {
            Refusal::HeaderTooLarge
        } else {
            Refusal::Malformed
        }));
        true
    }
}

async fn close(
    mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    last: Option<Vec<u8>>,
    linger: bool,
    limit: Duration,
) {
    let farewell = async {
        stream.write_all(&last.unwrap_or_default()).await?;
        stream.shutdown().await?;
        let mut rest = [0; 4096];
        while linger && stream.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    };
    // Whether the peer was still there to hear it makes no difference any more.
    let _ = timeout(limit, farewell).await;
}

impl Read for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            #[cfg(test)]
            Stream::Memory(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        match read {
            Poll::Pending => self.read_blocked(cx),
            Poll::Ready(result) => {
                if self.progress.phase.get() == Phase::Idle {
                    self.progress.enter(Phase::Head);
                }
                Poll::Ready(result)
            }
        }
    }
}

impl Write for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.swallows(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            #[cfg(test)]
            Stream::Memory(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        if written.is_ready() {
            self.writes = self.writes.wrapping_add(1);
            return written;
        }
        let (writes, allowed) = (self.writes, self.limits.idle_timeout);
        ready!(self.write_limit.poll_over(cx, writes, allowed));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Also the moment when an answer is wholly handed to the kernel, and the next request may begin.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
            #[cfg(test)]
            Stream::Memory(stream) => Pin::new(stream).poll_flush(cx),
        };
        if flushed.is_ready() && self.progress.phase.get() == Phase::Answering {
            self.progress.enter(Phase::Idle);
        }
        flushed
    }

    /// Nothing: [`Socket::close`] does it, after what may still have to be said.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A limit on waiting, which exists only while something waits.
#[derive(Debug, Default)]
struct Limit {
    sleep: Option<Pin<Box<Sleep>>>,
    /// What the deadline belongs to, and the deadline.
    current: Option<(u32, Instant)>,
}

impl Limit {
    /// Ready when `turn` has been waiting for `allowed`, counted from the first call for this turn.
    fn poll_over(&mut self, cx: &mut Context<'_>, turn: u32, allowed: Duration) -> Poll<()> {
        let deadline = match self.current {
            Some((current, deadline)) if current == turn => deadline,
            _ => Instant::now() + allowed,
        };
        self.current = Some((turn, deadline));
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_limit_counts_from_the_first_wait_of_its_turn() {
        let mut limit = Limit::default();
        let begin = Instant::now();
        let second = Duration::from_secs(1);
        poll_fn(|cx| limit.poll_over(cx, 1, 10 * second)).await;
        assert_eq!(begin.elapsed().as_secs(), 10);
        // Waiting in pieces does not prolong a turn.
        let pieces = timeout(4 * second, poll_fn(|cx| limit.poll_over(cx, 2, 10 * second))).await;
        assert!(pieces.is_err());
        poll_fn(|cx| limit.poll_over(cx, 2, 10 * second)).await;
        assert_eq!(begin.elapsed().as_secs(), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_turn_may_end_earlier_or_later_than_the_timer() {
        let mut limit = Limit::default();
        let begin = Instant::now();
        let second = Duration::from_secs(1);
        let long = timeout(second, poll_fn(|cx| limit.poll_over(cx, 1, 75 * second))).await;
        assert!(long.is_err());
        poll_fn(|cx| limit.poll_over(cx, 2, 5 * second)).await;
        assert_eq!(begin.elapsed().as_secs(), 6, "earlier");
        let short = timeout(second, poll_fn(|cx| limit.poll_over(cx, 3, 2 * second))).await;
        assert!(short.is_err());
        poll_fn(|cx| limit.poll_over(cx, 4, 30 * second)).await;
        assert_eq!(begin.elapsed().as_secs(), 37, "later");
    }
}
