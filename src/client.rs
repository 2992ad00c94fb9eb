//! The only door for outbound sockets: name lookup, TCP, TLS, and what went wrong in one word of the closed list.
//!
//! [`Client::new`] does everything that can fail at a reload. [`Client::dial`] opens one socket within one deadline for
//! lookup, TCP and TLS together. It holds no pool: whoever dials owns the socket. It follows nothing and sends nothing.

mod lookup;
mod stream;
#[cfg(test)]
pub(crate) mod testing;
mod tls;

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

pub use stream::{Heard, Stream};
pub use tls::{ClientError, HandshakePace};

use crate::connection::Connection;
use crate::event::Cause;
use lookup::Lookup;
use tls::TlsClient;

/// Dials one connection's target.
#[derive(Debug)]
pub struct Client {
    lookup: Lookup,
    tls: Option<TlsClient>,
}

/// Why no socket could be opened.
#[derive(Debug, thiserror::Error)]
#[error("{cause}: {detail}")]
pub struct DialError {
    /// Where it belongs in the closed list.
    pub cause: Cause,
    /// The error of the system or of TLS, for logs.
    pub detail: String,
    /// The address that was tried last; `None` when none was known.
    pub remote: Option<SocketAddr>,
}

impl Client {
    /// Reads the trusted certificates and prepares TLS.
    ///
    /// # Errors
    /// When the CA file or the server name cannot be used, or the system trusts nobody.
    pub fn new(connection: &Connection) -> Result<Client, ClientError> {
        let target = &connection.target;
        let tls = match target.tls {
            true => Some(TlsClient::new(&connection.tls, &target.host)?),
            false => None,
        };
        Ok(Client { lookup: Lookup::new(&target.host, target.port), tls })
    }

    /// Opens a socket within `timeout`, handshake included.
    ///
    /// # Errors
    /// With a cause of the connect or TLS family.
    pub async fn dial(
        &self,
        timeout: Duration,
        pace: &Rc<HandshakePace>,
    ) -> Result<Stream, DialError> {
        let deadline = Instant::now() + timeout;
        let addresses = match timeout_at(deadline, self.lookup.addresses()).await {
            Ok(found) => found.map_err(|error| DialError::new(Cause::DnsFailed, &error))?,
            Err(_) => return Err(DialError::late(Cause::DnsFailed, "lookup", timeout)),
        };
        #[cfg(test)]
        if let Some(network) = testing::network() {
            let dialled = connect(&addresses, deadline, |address| network(address)).await;
            return dialled.map(|(pipe, remote)| Stream::memory(pipe, remote));
        }
        let (tcp, remote) = connect(&addresses, deadline, open).await?;
        let Some(tls) = &self.tls else {
            return Ok(Stream::plain(tcp, remote));
        };
        let secured = match timeout_at(deadline, tls.handshake(tcp, pace)).await {
            Ok(done) => done,
            Err(_) => Err(DialError::late(Cause::ConnectTimeout, "TLS handshake", timeout)),
        };
        secured.map(|tls| Stream::tls(tls, remote)).map_err(|error| error.at(remote))
    }
}

impl DialError {
    fn new(cause: Cause, detail: &impl std::fmt::Display) -> DialError {
        DialError { cause, detail: detail.to_string(), remote: None }
    }

    fn late(cause: Cause, what: &str, timeout: Duration) -> DialError {
        DialError {
            cause,
            detail: format!("{what} was not done within connect_timeout = {timeout:?}"),
            remote: None,
        }
    }

    fn at(self, remote: SocketAddr) -> DialError {
        DialError { remote: Some(remote), ..self }
    }
}

/// Tries the addresses in turn. Each gets an equal share of what is left, so that one that swallows packets does not
/// hide the next.
async fn connect<S, F: Future<Output = io::Result<S>>>(
    addresses: &[SocketAddr],
    deadline: Instant,
    open: impl Fn(SocketAddr) -> F,
) -> Result<(S, SocketAddr), DialError> {
    let mut last = DialError::new(Cause::DnsFailed, &"the name has no address");
    for (tried, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = u32::try_from(addresses.len() - tried).unwrap_or(1);
        match tokio::time::timeout(left / share, open(*address)).await {
            Ok(Ok(socket)) => return Ok((socket, *address)),
            Ok(Err(error)) => last = DialError::new(cause_of_io(&error), &error).at(*address),
            Err(_) => {
                let late = DialError::late(Cause::ConnectTimeout, "connecting", left / share);
                last = late.at(*address);
            }
        }
    }
    Err(last)
}

async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect(address).await?;
    // Requests are written whole, so waiting for more to send only costs time. A failure costs the same.
    let _ = tcp.set_nodelay(true);
    Ok(tcp)
}

/// Where a failed system call on a socket belongs.
pub fn cause_of_io(error: &io::Error) -> Cause {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Cause::ConnectRefused,
        io::ErrorKind::TimedOut => Cause::ConnectTimeout,
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::NotConnected
        | io::ErrorKind::UnexpectedEof => Cause::ConnectReset,
        kind => tls::cause_inside(error).unwrap_or(match kind {
            io::ErrorKind::InvalidData => Cause::Protocol,
            _ => Cause::Unreachable,
        }),
    }
}

#[cfg(test)]
mod tests;
