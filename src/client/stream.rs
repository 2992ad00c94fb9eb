//! A socket to a target, with or without TLS, that remembers what the peer has said.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::tls::{Secure, Secured, cause_inside};
use crate::event::Cause;

/// An open socket. Dropping it closes it.
#[derive(Debug)]
pub struct Stream {
    kind: Kind,
    heard: Heard,
    remote: SocketAddr,
    secured: Option<Secured>,
}

/// What came from the peer. Shared with the socket it belongs to.
#[derive(Clone, Debug, Default)]
pub struct Heard(Rc<Note>);

#[derive(Debug, Default)]
struct Note {
    /// Reads that brought bytes; it wraps.
    reads: Cell<u64>,
    fault: Cell<Option<Cause>>,
    /// How much more the peer may say; `None` is no bound.
    allowance: Cell<Option<u64>>,
}

/// A moment on a socket.
#[derive(Clone, Copy, Debug)]
pub struct Mark(u64);

impl Heard {
    /// This moment, such as before a request.
    pub fn mark(&self) -> Mark {
        Mark(self.0.reads.get())
    }

    /// Whether a byte has come since.
    pub fn anything_since(&self, mark: Mark) -> bool {
        self.0.reads.get() != mark.0
    }

    /// What TLS has said after its handshake: with TLS 1.3 a peer refuses our certificate then.
    pub fn tls_fault(&self) -> Option<Cause> {
        self.0.fault.get()
    }

    /// Bounds what may come from now on: past it, reading fails. A peer that floods us with interim answers must not get
    /// more of the thread's time than others.
    pub fn allow(&self, bytes: Option<u64>) {
        self.0.allowance.set(bytes);
    }
}

#[derive(Debug)]
pub(super) enum Kind {
    Plain(TcpStream),
    Tls(Box<Secure<TcpStream>>),
    /// TLS to a target inside of TLS to a proxy.
    Inner(Box<Secure<Secure<TcpStream>>>),
    #[cfg(test)]
    Memory(super::testing::Pipe),
}

/// The same for each kind of socket.
macro_rules! each {
    ($kind:expr, $socket:ident => $call:expr) => {
        match $kind {
            Kind::Plain($socket) => $call,
            Kind::Tls($socket) => $call,
            Kind::Inner($socket) => $call,
            #[cfg(test)]
            Kind::Memory($socket) => $call,
        }
    };
}

impl Stream {
    pub(super) fn new(kind: Kind, remote: SocketAddr, secured: Option<Secured>) -> Stream {
        Stream { kind, heard: Heard::default(), remote, secured }
    }

    /// The address that was dialled: the target's, or its proxy's.
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// What TLS to the target found; `None` without TLS.
    pub fn secured(&self) -> Option<Secured> {
        self.secured
    }

    /// The note of what the peer has said.
    pub fn heard(&self) -> Heard {
        self.heard.clone()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        let before = buf.filled().len();
        let allowed = stream.heard.0.allowance.get();
        if allowed == Some(0) {
            let error = "more than is allowed before the head of a response";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
        }
        let read = each!(&mut stream.kind, socket => Pin::new(socket).poll_read(cx, buf));
        let note = &stream.heard.0;
        if buf.filled().len() > before {
            note.reads.set(note.reads.get().wrapping_add(1));
            let came = (buf.filled().len() - before) as u64;
            note.allowance.set(allowed.map(|allowed| allowed.saturating_sub(came)));
        }
        if let Poll::Ready(Err(error)) = &read {
            note.fault.set(note.fault.get().or_else(|| cause_inside(error)));
        }
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(&mut self.get_mut().kind, socket => Pin::new(socket).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(&mut self.get_mut().kind, socket => Pin::new(socket).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        each!(&self.kind, socket => socket.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut self.get_mut().kind, socket => Pin::new(socket).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut self.get_mut().kind, socket => Pin::new(socket).poll_shutdown(cx))
    }
}
