//! A socket to a target, with or without TLS, that remembers whether the peer has said anything.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::tls::Secured;

/// An open socket. Dropping it closes it.
#[derive(Debug)]
pub struct Stream {
    kind: Kind,
    heard: Heard,
    remote: SocketAddr,
}

/// Whether bytes came from the peer since [`Heard::forget`]. Shared with the socket it belongs to.
#[derive(Clone, Debug, Default)]
pub struct Heard(Rc<Cell<bool>>, Allowance);

/// How much more the peer may say; `None` is no bound.
type Allowance = Rc<Cell<Option<u64>>>;

impl Heard {
    /// Starts anew, before a request.
    pub fn forget(&self) {
        self.0.set(false);
    }

    /// Bounds what may come from now on: past it, reading fails. A peer that floods us with interim answers must not get
    /// more of the thread's time than others.
    pub fn allow(&self, bytes: Option<u64>) {
        self.1.set(bytes);
    }

    /// Whether a byte has come.
    pub fn anything(&self) -> bool {
        self.0.get()
    }
}

#[derive(Debug)]
enum Kind {
    Plain(TcpStream),
    Tls(Box<Secured>),
    #[cfg(test)]
    Memory(super::testing::Pipe),
}

impl Stream {
    pub(super) fn plain(tcp: TcpStream, remote: SocketAddr) -> Stream {
        Stream { kind: Kind::Plain(tcp), heard: Heard::default(), remote }
    }

    pub(super) fn tls(tls: Secured, remote: SocketAddr) -> Stream {
        Stream { kind: Kind::Tls(Box::new(tls)), heard: Heard::default(), remote }
    }

    /// The address that was dialled.
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }

    #[cfg(test)]
    pub(super) fn memory(pipe: super::testing::Pipe, remote: SocketAddr) -> Stream {
        Stream { kind: Kind::Memory(pipe), heard: Heard::default(), remote }
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
        let allowed = stream.heard.1.get();
        if allowed == Some(0) {
            let error = "more than is allowed before the head of a response";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
        }
        let read = match &mut stream.kind {
            Kind::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Kind::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
            #[cfg(test)]
            Kind::Memory(pipe) => Pin::new(pipe).poll_read(cx, buf),
        };
        if buf.filled().len() > before {
            stream.heard.0.set(true);
            let came = (buf.filled().len() - before) as u64;
            stream.heard.1.set(allowed.map(|allowed| allowed.saturating_sub(came)));
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
        match &mut self.get_mut().kind {
            Kind::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Kind::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
            #[cfg(test)]
            Kind::Memory(pipe) => Pin::new(pipe).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().kind {
            Kind::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Kind::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
            #[cfg(test)]
            Kind::Memory(pipe) => Pin::new(pipe).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.kind {
            Kind::Plain(tcp) => tcp.is_write_vectored(),
            Kind::Tls(tls) => tls.is_write_vectored(),
            #[cfg(test)]
            Kind::Memory(pipe) => pipe.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().kind {
            Kind::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Kind::Tls(tls) => Pin::new(tls).poll_flush(cx),
            #[cfg(test)]
            Kind::Memory(pipe) => Pin::new(pipe).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().kind {
            Kind::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Kind::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
            #[cfg(test)]
            Kind::Memory(pipe) => Pin::new(pipe).poll_shutdown(cx),
        }
    }
}
