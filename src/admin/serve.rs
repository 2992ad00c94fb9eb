//! Accepts connections and answers their requests, within bounds, until told to stop.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Request, StatusCode, Uri, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service as _;

use super::Token;
use super::access::{self, Peer};
use super::problem::Problem;

/// Connections of one listener at one time. A scraper or two, a health check and some operators need no more.
const CONNECTIONS_MAX: usize = 64;
/// A connection may be silent so long, before its first request and between two. Longer than usual scrape intervals.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// A TCP connection lives so long at most, so that peers that never read an answer cannot hold all places.
const TCP_LIFETIME_MAX: Duration = Duration::from_secs(600);
/// Requests in progress get so long to end when the connection is to be closed.
const CLOSE_GRACE: Duration = Duration::from_secs(2);
/// Head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// A pause after an `accept` that failed, usually for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What must be true of a request before it is looked at.
#[derive(Clone, Copy, Debug)]
pub(super) enum Guard {
    /// Everyone on the machine can come, browsers with them.
    Tcp {
        /// Whether it listens on loopback, where the Host is known.
        loopback: bool,
    },
    /// The file's mode says who can come.
    Unix,
}

/// What is known of a listener.
#[derive(Clone, Debug)]
pub(super) struct Door {
    pub(super) guard: Guard,
    /// Who may come over TCP.
    pub(super) tokens: Arc<ArcSwap<Vec<Token>>>,
}

/// Something that accepts connections.
pub(super) trait Listener {
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Io, Peer)>>;
}

impl Listener for TcpListener {
    type Io = tokio::net::TcpStream;
    async fn accept(&self) -> io::Result<(Self::Io, Peer)> {
        TcpListener::accept(self).await.map(|(stream, _)| (stream, Peer::Tcp))
    }
}

impl Listener for UnixListener {
    type Io = tokio::net::UnixStream;
    async fn accept(&self) -> io::Result<(Self::Io, Peer)> {
        let (stream, _) = UnixListener::accept(self).await?;
        let peer = Peer::Unix(stream.peer_cred().ok().map(|user| user.uid()));
        Ok((stream, peer))
    }
}

/// Serves `routes` on `listener` until `stop`; returns when the last connection is closed.
pub(super) async fn accept_loop<L: Listener>(
    listener: &L,
    routes: Router,
    door: Door,
    stop: &CancellationToken,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let tasks = TaskTracker::new();
    let accept_one = async || {
        // Never closed, so this only fails if it is: then nothing more is accepted.
        let place = Arc::clone(&places).acquire_owned().await.ok()?;
        match listener.accept().await {
            Ok((io, peer)) => Some((io, peer, place)),
            Err(error) => {
                tracing::warn!(%error, "Could not accept an admin connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                None
            }
        }
    };
    while let Some(accepted) = stop.run_until_cancelled(accept_one()).await {
        if let Some((io, peer, place)) = accepted {
            let connection = serve_connection(io, peer, routes.clone(), door.clone(), stop.clone());
            tasks.spawn(async move {
                connection.await;
                drop(place);
            });
        }
    }
    tasks.close();
    tasks.wait().await;
}

async fn serve_connection<I>(io: I, peer: Peer, routes: Router, door: Door, stop: CancellationToken)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let guard = door.guard;
    let service = service_fn(move |mut request: Request<Incoming>| {
        let caller = access::caller(peer, request.headers(), &door.tokens.load());
        request.extensions_mut().insert(caller);
        answer(routes.clone(), guard, request)
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(IDLE_TIMEOUT).max_buf_size(HEAD_BYTES_MAX);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
    let enough = async {
        match guard {
            Guard::Tcp { .. } => {
                let _ = tokio::time::timeout(TCP_LIFETIME_MAX, stop.cancelled()).await;
            }
            Guard::Unix => stop.cancelled().await,
        }
    };
    // Both branches are cancel safe: the connection is polled on below.
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => Some(ended),
        () = enough => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(CLOSE_GRACE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "An admin connection broke");
    }
}

async fn answer(
    mut routes: Router,
    guard: Guard,
    request: Request<Incoming>,
) -> Result<Response, Infallible> {
    match check(guard, request.uri(), request.headers()) {
        Ok(()) => routes.call(request).await,
        Err(problem) => Ok(problem.into_response()),
    }
}

/// Keeps browsers out: a page of any origin can make one send requests to loopback.
fn check(guard: Guard, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
    let Guard::Tcp { loopback } = guard else {
        return Ok(());
    };
    let forbidden =
        |detail: &str| Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", "Forbidden", detail));
    if headers.contains_key(header::ORIGIN) {
        return forbidden("requests with an Origin header come from browsers and are refused");
    }
    let host = match uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => headers.get(header::HOST).and_then(|host| host.to_str().ok()),
    };
    if loopback && !host.is_some_and(is_loopback_host) {
        return forbidden(
            "on a loopback listener the Host must be localhost or a loopback address",
        );
    }
    Ok(())
}

/// Whether a Host names this machine's loopback, with or without a port.
fn is_loopback_host(host: &str) -> bool {
    let Ok(authority) = host.parse::<http::uri::Authority>() else {
        return false;
    };
    let name = authority.host();
    let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    bare.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_hosts_pass() {
        for host in
            ["localhost", "LOCALHOST:8378", "127.0.0.1:1", "127.8.8.8", "[::1]:8378", "[::1]"]
        {
            assert!(is_loopback_host(host), "{host}");
        }
        for host in
            ["", "evil.example", "localhost.evil.example:8378", "10.0.0.1", "0.0.0.0", "a b"]
        {
            assert!(!is_loopback_host(host), "{host}");
        }
    }

    #[test]
    fn browsers_are_kept_out_of_tcp_and_scrapers_let_in() {
        let check = |guard, headers: &[(&'static str, &'static str)], expected: bool| {
            let map = headers
                .iter()
                .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
                .collect();
            let passed = check(guard, &Uri::from_static("/metrics"), &map).is_ok();
            assert_eq!(passed, expected, "{guard:?} {headers:?}");
        };
        let (loopback, wide) = (Guard::Tcp { loopback: true }, Guard::Tcp { loopback: false });
        check(loopback, &[("host", "127.0.0.1:8378")], true);
        check(loopback, &[("host", "rebound.example")], false);
        check(loopback, &[], false);
        check(loopback, &[("host", "localhost"), ("origin", "null")], false);
        check(wide, &[("host", "relay.example:8378")], true);
        check(wide, &[("host", "relay.example"), ("origin", "http://relay.example")], false);
        check(Guard::Unix, &[("host", "posthaste"), ("origin", "null")], true);
    }
}
