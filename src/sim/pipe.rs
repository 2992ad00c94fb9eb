//! A socket in memory: two ways of bytes, each with a latency and a bounded buffer, that end or are reset as TCP's do.
//!
//! What is written to a peer that has closed is accepted and lost until the news of it arrives, as it is on a network: so a
//! request can be written into a connection that the peer is just closing.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// One end of a socket. Dropping it closes both ways: with a reset if something was left unread.
#[derive(Debug)]
pub(crate) struct Pipe {
    outgoing: Arc<Way>,
    incoming: Arc<Way>,
    /// Until the next bytes or the end arrive.
    arrival: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
struct Way(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    latency: Duration,
    /// Bytes on their way and unread, at the most.
    capacity: usize,
    /// With the time at which each piece arrives.
    pieces: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    end: Option<(Instant, End)>,
    /// When the writer hears that nobody reads any more.
    deserted: Option<Instant>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Closed,
    Reset,
}

impl Pipe {
    /// The two ends of a new socket.
    pub(crate) fn pair(latency: Duration, capacity: usize) -> (Pipe, Pipe) {
        let way = || {
            Arc::new(Way(Mutex::new(Inner {
                latency,
                capacity,
                pieces: VecDeque::new(),
                bytes: 0,
                end: None,
                deserted: None,
                reader: None,
                writer: None,
            })))
        };
        let (there, back) = (way(), way());
        let one = Pipe { outgoing: Arc::clone(&there), incoming: Arc::clone(&back), arrival: None };
        (one, Pipe { outgoing: back, incoming: there, arrival: None })
    }

    /// Ends it as a peer does that crashes or does not want to hear more.
    pub(crate) fn reset(self) {
        self.outgoing.inner().finish(End::Reset);
    }
}

impl Way {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }
}

impl Inner {
    /// The first end counts.
    fn finish(&mut self, end: End) {
        if self.end.is_none() {
            self.end = Some((Instant::now() + self.latency, end));
        }
        wake(&mut self.reader);
    }

    fn desert(&mut self) {
        self.deserted = Some(Instant::now() + self.latency);
        self.pieces.clear();
        self.bytes = 0;
        wake(&mut self.writer);
    }

    /// Moves what has arrived. `Err`: nothing has; the time at which the next thing does, if anything is on its way.
    fn take(&mut self, buf: &mut ReadBuf<'_>) -> Result<io::Result<()>, Option<Instant>> {
        let now = Instant::now();
        if let Some((at, End::Reset)) = self.end
            && at <= now
        {
            return Ok(Err(io::ErrorKind::ConnectionReset.into()));
        }
        match self.pieces.front_mut() {
            Some((at, piece)) if *at <= now => {
                let count = piece.len().min(buf.remaining());
                buf.put_slice(&piece[..count]);
                piece.drain(..count);
                self.bytes -= count;
                if piece.is_empty() {
                    self.pieces.pop_front();
                }
                wake(&mut self.writer);
                Ok(Ok(()))
            }
            Some((at, _)) => Err(Some(*at)),
            None => match self.end {
                Some((at, End::Closed)) if at <= now => Ok(Ok(())),
                end => Err(end.map(|(at, _)| at)),
            },
        }
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let pipe = self.get_mut();
        loop {
            let mut inner = pipe.incoming.inner();
            match inner.take(buf) {
                Ok(read) => return Poll::Ready(read),
                Err(arrival) => {
                    inner.reader = Some(cx.waker().clone());
                    drop(inner);
                    let Some(at) = arrival else {
                        return Poll::Pending;
                    };
                    let sleep = pipe.arrival.get_or_insert_with(|| Box::pin(sleep_until(at)));
                    if sleep.deadline() != at {
                        sleep.as_mut().reset(at);
                    }
                    if sleep.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.outgoing.inner();
        if inner.end.is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if let Some(at) = inner.deserted {
            let heard = at <= Instant::now();
            return Poll::Ready(match heard {
                true => Err(io::ErrorKind::BrokenPipe.into()),
                false => Ok(bytes.len()),
            });
        }
        let room = inner.capacity - inner.bytes;
        if room == 0 {
            inner.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let count = bytes.len().min(room);
        let at = Instant::now() + inner.latency;
        inner.pieces.push_back((at, bytes[..count].to_vec()));
        inner.bytes += count;
        wake(&mut inner.reader);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.inner().finish(End::Closed);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let unread = self.incoming.inner().bytes > 0;
        self.outgoing.inner().finish(if unread { End::Reset } else { End::Closed });
        self.incoming.inner().desert();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const LATENCY: Duration = Duration::from_millis(5);

    #[tokio::test(start_paused = true)]
    async fn bytes_arrive_in_order_after_the_latency_and_the_end_after_them() {
        let start = Instant::now();
        let (mut one, mut other) = Pipe::pair(LATENCY, 4);
        let sender = async {
            one.write_all(b"abcdefgh").await.unwrap();
            drop(one);
        };
        let receiver = async {
            let mut all = Vec::new();
            other.read_to_end(&mut all).await.unwrap();
            all
        };
        let ((), all) = tokio::join!(sender, receiver);
        assert_eq!(all, b"abcdefgh");
        assert_eq!(start.elapsed(), 2 * LATENCY, "the buffer holds half of it");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_written_to_a_peer_that_closes_is_lost_and_a_reset_is_heard() {
        let (mut one, other) = Pipe::pair(LATENCY, 4);
        drop(other);
        one.write_all(b"lost for all its length").await.unwrap();
        assert_eq!(one.read(&mut [0; 4]).await.unwrap(), 0);
        assert_eq!(one.write(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        let (mut one, other) = Pipe::pair(LATENCY, 4);
        other.reset();
        let error = one.read(&mut [0; 4]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
