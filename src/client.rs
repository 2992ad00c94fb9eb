//! The only door for outbound sockets: name lookup, egress rules, TCP, proxy, TLS, and what went wrong in one word of the
//! closed list.
//!
//! [`Client::new`] does everything that can fail at a reload. [`Client::dial`] opens one socket within one deadline for all of
//! it, and says how long each part took. It holds no pool: whoever dials owns the socket. It follows nothing and sends nothing.
//! What the clients of one runtime share is a [`Dialler`]: the memory of names and the pace of handshakes.

mod connect;
mod dns;
mod pace;
mod proxy;
mod resolver;
mod stream;
#[cfg(test)]
pub(crate) mod testing;
mod tls;
mod witness;

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

pub use dns::{Ask, Dns, Found, NotFound};
pub use pace::HandshakePace;
pub use resolver::ask;
pub use stream::{Heard, Mark, Stream};
pub use tls::{ClientError, Secured};
pub use witness::{Certificate, Witness};

use crate::connection::egress::Egress;
use crate::connection::{Connection, Http2};
use crate::event::Cause;
use proxy::ProxyClient;
use stream::Kind;
use tls::{Secure, Socket, TlsClient};

/// Dials one connection's target.
#[derive(Debug)]
pub struct Client {
    host: String,
    port: u16,
    tls: Option<TlsClient>,
    http2: Http2,
    proxy: Option<ProxyClient>,
    egress: Egress,
}

/// What the clients of one runtime share.
#[derive(Debug)]
pub struct Dialler {
    dns: Dns,
    pace: Rc<HandshakePace>,
}

/// How long the parts of dialling took; a part that was not come to has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Until the name's addresses were known.
    pub lookup: Option<Duration>,
    /// Until the socket was open, and a proxy had agreed.
    pub connect: Option<Duration>,
    /// What of that a proxy took to agree.
    pub proxy: Option<Duration>,
    /// Until TLS was agreed on.
    pub tls: Option<Duration>,
}

/// A part of dialling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The name is being looked up.
    Lookup,
    /// The socket is being opened.
    Connect,
    /// A proxy is being asked.
    Proxy,
    /// TLS is being negotiated.
    Tls,
}

/// Why no socket could be opened.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{cause}: {detail}")]
pub struct DialError {
    /// Where it belongs in the closed list.
    pub cause: Cause,
    /// The error of the system, of TLS or of a proxy, for logs.
    pub detail: String,
    /// The part that failed.
    pub stage: Stage,
    /// The address that was tried last; `None` when none was known.
    pub remote: Option<SocketAddr>,
}

impl Dialler {
    /// Looks names up with `ask`, behind a memory.
    pub fn new(ask: Ask) -> Dialler {
        Dialler { dns: Dns::new(ask), pace: Rc::default() }
    }
}

/// One dial: what is left of its time, and what it took so far.
struct Dial<'d> {
    dialler: &'d Dialler,
    timeout: Duration,
    deadline: Instant,
    timings: Timings,
}

impl Client {
    /// Reads the trusted certificates and prepares TLS.
    ///
    /// # Errors
    /// When a certificate file or the server name cannot be used, or the system trusts nobody.
    pub fn new(connection: &Connection) -> Result<Client, ClientError> {
        Client::watched(connection, None)
    }

    /// The same, and notes what certificates the target shows.
    ///
    /// # Errors
    /// Those of [`Client::new`].
    pub fn watched(
        connection: &Connection,
        witness: Option<&Witness>,
    ) -> Result<Client, ClientError> {
        let target = &connection.target;
        let tls = match target.tls {
            true => Some(TlsClient::new(connection, witness)?),
            false => None,
        };
        Ok(Client {
            host: target.host.clone(),
            port: target.port,
            tls,
            http2: connection.http2,
            proxy: connection.proxy.as_ref().map(ProxyClient::new).transpose()?,
            egress: connection.egress.clone(),
        })
    }

    /// Whether a socket of it may turn out to speak HTTP/2, or certainly does.
    pub fn may_speak_http2(&self) -> bool {
        self.http2.prior_knowledge || (self.http2.enabled && self.tls.is_some())
    }

    /// Whether HTTP/2 is what `stream` speaks.
    pub fn speaks_http2(&self, stream: &Stream) -> bool {
        match stream.secured() {
            Some(secured) => secured.http2,
            None => self.http2.prior_knowledge,
        }
    }

    /// Opens a socket within `timeout`, handshakes included. Says how long the parts took, also when it failed.
    ///
    /// # Errors
    /// With a cause of the connect, proxy or TLS family, or `egress_blocked`.
    pub async fn dial(
        &self,
        timeout: Duration,
        dialler: &Dialler,
    ) -> (Result<Stream, DialError>, Timings) {
        let deadline = Instant::now() + timeout;
        let mut dial = Dial { dialler, timeout, deadline, timings: Timings::default() };
        let dialled = self.open(&mut dial).await;
        (dialled, dial.timings)
    }

    async fn open(&self, dial: &mut Dial<'_>) -> Result<Stream, DialError> {
        let Some(proxy) = &self.proxy else {
            return self.straight(dial).await;
        };
        if proxy.settings.bypasses_host(&self.host) {
            return self.straight(dial).await;
        }
        if let Ok(address) = self.host.parse::<IpAddr>() {
            self.permit(address)?;
        } else if proxy.settings.asks_for_addresses()
            // Where only the proxy can look names up, it does.
            && let Ok(addresses) = dial.lookup(&self.host).await
        {
            if addresses.iter().any(|address| proxy.settings.bypasses(*address)) {
                return self.straight(dial).await;
            }
            self.permitted(&addresses)?;
        }
        self.through(proxy, dial).await.map_err(|error| match error.stage {
            // The target's own.
            Stage::Tls => error,
            _ => error.of_proxy(&proxy.settings.url()),
        })
    }

    /// Dials the target itself.
    async fn straight(&self, dial: &mut Dial<'_>) -> Result<Stream, DialError> {
        let addresses = self.permitted(&dial.lookup(&self.host).await?)?;
        let addresses = connect::in_turn(&addresses, self.port);
        #[cfg(test)]
        if let Some(network) = testing::network() {
            let (pipe, remote) = dial.connect(&addresses, |address| network(address)).await?;
            return Ok(Stream::new(Kind::Memory(pipe), remote, None));
        }
        let (tcp, remote) = dial.connect(&addresses, connect::open).await?;
        match &self.tls {
            None => Ok(Stream::new(Kind::Plain(tcp), remote, None)),
            Some(tls) => {
                let (tls, secured) = dial.secure(tls, tcp, remote).await?;
                Ok(Stream::new(Kind::Tls(Box::new(tls)), remote, Some(secured)))
            }
        }
    }

    /// Dials the proxy, and has it open a way to the target.
    async fn through(&self, proxy: &ProxyClient, dial: &mut Dial<'_>) -> Result<Stream, DialError> {
        let settings = &proxy.settings;
        let addresses = self.permitted(&dial.lookup(&settings.host).await?)?;
        let addresses = connect::in_turn(&addresses, settings.port);
        let (mut tcp, remote) = dial.connect(&addresses, connect::open).await?;
        let (host, port) = (&self.host, self.port);
        let kind = match &proxy.tls {
            None => {
                dial.tunnel(proxy.tunnel(&mut tcp, host, port), remote).await?;
                match &self.tls {
                    None => Kind::Plain(tcp),
                    Some(tls) => {
                        let (tls, secured) = dial.secure(tls, tcp, remote).await?;
                        let kind = Kind::Tls(Box::new(tls));
                        return Ok(Stream::new(kind, remote, Some(secured)));
                    }
                }
            }
            Some(proxy_tls) => {
                let outer = dial.secure(proxy_tls, tcp, remote).await;
                let (mut outer, _) =
                    outer.map_err(|error| DialError { stage: Stage::Proxy, ..error })?;
                dial.timings.tls = None;
                dial.tunnel(proxy.tunnel(&mut outer, host, port), remote).await?;
                match &self.tls {
                    None => Kind::Tls(Box::new(outer)),
                    Some(tls) => {
                        let (tls, secured) = dial.secure(tls, outer, remote).await?;
                        let kind = Kind::Inner(Box::new(tls));
                        return Ok(Stream::new(kind, remote, Some(secured)));
                    }
                }
            }
        };
        Ok(Stream::new(kind, remote, None))
    }

    /// Those of the addresses that may be dialled.
    ///
    /// # Errors
    /// Why the first may not, when none may.
    fn permitted(&self, addresses: &[IpAddr]) -> Result<Vec<IpAddr>, DialError> {
        let mut permitted = Vec::with_capacity(addresses.len());
        let mut blocked = Ok(());
        for address in addresses {
            match self.permit(*address) {
                Ok(()) => permitted.push(*address),
                Err(error) => blocked = blocked.and(Err(error)),
            }
        }
        match blocked {
            Err(error) if permitted.is_empty() => Err(error),
            _ => Ok(permitted),
        }
    }

    fn permit(&self, address: IpAddr) -> Result<(), DialError> {
        self.egress.check(address).map_err(|blocked| {
            DialError::new(Cause::EgressBlocked, Stage::Connect, blocked.to_string())
        })
    }
}

impl Dial<'_> {
    /// The addresses of a host: a literal's own, or what its name says.
    async fn lookup(&mut self, host: &str) -> Result<Rc<[IpAddr]>, DialError> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(Rc::new([address]));
        }
        let began = Instant::now();
        let found = timeout_at(self.deadline, self.dialler.dns.addresses(host)).await;
        let took = self.timings.lookup.unwrap_or_default() + began.elapsed();
        self.timings.lookup = Some(took);
        match found {
            Ok(found) => {
                found.map_err(|detail| DialError::new(Cause::DnsFailed, Stage::Lookup, detail))
            }
            Err(_) => Err(DialError::late(Stage::Lookup, self.timeout)),
        }
    }

    async fn connect<S, F: Future<Output = io::Result<S>>>(
        &mut self,
        addresses: &[SocketAddr],
        open: impl Fn(SocketAddr) -> F,
    ) -> Result<(S, SocketAddr), DialError> {
        let began = Instant::now();
        let raced = connect::race(addresses, self.timeout, self.deadline, open).await;
        self.timings.connect = Some(began.elapsed());
        raced
    }

    /// Waits for a proxy's agreement; its time counts as connecting.
    async fn tunnel(
        &mut self,
        tunnel: impl Future<Output = Result<(), String>>,
        remote: SocketAddr,
    ) -> Result<(), DialError> {
        let began = Instant::now();
        let agreed = timeout_at(self.deadline, tunnel).await;
        let connect = self.timings.connect.unwrap_or_default();
        self.timings.proxy = Some(began.elapsed());
        self.timings.connect = Some(connect + began.elapsed());
        let error = match agreed {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(detail)) => DialError::new(Cause::ProxyFailed, Stage::Proxy, detail),
            Err(_) => DialError::late(Stage::Proxy, self.timeout),
        };
        Err(error.at(remote))
    }

    async fn secure<S: Socket>(
        &mut self,
        tls: &TlsClient,
        socket: S,
        remote: SocketAddr,
    ) -> Result<(Secure<S>, Secured), DialError> {
        let began = Instant::now();
        let done = timeout_at(self.deadline, tls.handshake(socket, &self.dialler.pace)).await;
        self.timings.tls = Some(began.elapsed());
        let done = done.unwrap_or_else(|_| Err(DialError::late(Stage::Tls, self.timeout)));
        let tls = done.map_err(|error| error.at(remote))?;
        let secured = Secured::of(&tls);
        Ok((tls, secured))
    }
}

impl DialError {
    fn new(cause: Cause, stage: Stage, detail: String) -> DialError {
        DialError { cause, detail, stage, remote: None }
    }

    /// A part that was not done when the time was over.
    fn late(stage: Stage, timeout: Duration) -> DialError {
        let (cause, what) = match stage {
            Stage::Lookup => (Cause::DnsFailed, "name lookup"),
            Stage::Connect => (Cause::ConnectTimeout, "connecting"),
            Stage::Proxy => (Cause::ProxyFailed, "its answer"),
            Stage::Tls => (Cause::ConnectTimeout, "TLS handshake"),
        };
        let detail = format!("{what} was not done within connect_timeout = {timeout:?}");
        DialError::new(cause, stage, detail)
    }

    fn at(self, remote: SocketAddr) -> DialError {
        DialError { remote: Some(remote), ..self }
    }

    /// What went wrong with the proxy is not the target's fault. A refusal of our own stays one.
    fn of_proxy(self, url: &str) -> DialError {
        let cause = match self.cause {
            Cause::EgressBlocked => Cause::EgressBlocked,
            _ => Cause::ProxyFailed,
        };
        DialError { cause, detail: format!("proxy {url}: {}", self.detail), ..self }
    }
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
