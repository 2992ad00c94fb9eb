//! The admin listeners: metrics and health over TCP, and the whole admin API over a Unix socket that only the daemon's
//! own user (and root) can open.
//!
//! Promises: a browser cannot reach it (no request with an `Origin`, no strange `Host` on loopback); connections,
//! waiting commands and idle time are bounded; it never changes anything itself. What it wants to know or have done it
//! asks the daemon's control loop through one bounded channel of [`Command`]s, so nothing here locks or blocks what
//! delivers.
//!
//! It runs on the control thread's runtime: [`Admin::bind`], then [`Admin::serve`] until the token is cancelled.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::metrics::Metrics;

pub mod api;
pub mod command;
mod problem;
mod routes;
mod serve;
mod socket;

pub use command::{Command, DeadEvent, Refusal, ReloadRefused};
pub use socket::UnixSocket;

/// Commands that may wait for the control loop; past that a request is answered 503.
pub const COMMANDS_MAX: usize = 32;

/// TCP connections that may wait to be accepted.
const BACKLOG: u32 = 128;

/// Where to listen.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `[admin] http`: `/metrics`, `/healthz` and `/readyz`.
    pub http: Option<SocketAddr>,
    /// `[admin] unix`: everything.
    pub unix: Option<PathBuf>,
}

/// What the routes need of the daemon.
#[derive(Clone)]
pub struct Context {
    /// What `/metrics` renders.
    pub metrics: Metrics,
    /// Sets the gauges, just before they are rendered.
    pub refresh: Arc<dyn Fn() + Send + Sync>,
    /// What `/readyz` says.
    pub readiness: watch::Receiver<Readiness>,
    /// To the control loop; see [`commands`].
    pub commands: mpsc::Sender<Command>,
    /// For `process_start_time_seconds`.
    pub clock: Clock,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Context")
    }
}

/// Whether the daemon takes events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It does.
    Ready,
    /// It does not, and why: `starting`, `draining`.
    NotReady(String),
}

/// The channel of commands, with its bound.
pub fn commands() -> (mpsc::Sender<Command>, mpsc::Receiver<Command>) {
    mpsc::channel(COMMANDS_MAX)
}

/// A listener could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address is taken or not of this machine.
    #[error("cannot listen on [admin] http = \"{address}\": {error}")]
    Http {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// The Unix socket cannot be made.
    #[error("cannot listen on [admin] unix = {path:?}: {error}")]
    Unix {
        /// The path.
        path: PathBuf,
        /// What is in the way.
        error: io::Error,
    },
}

/// The bound listeners.
#[derive(Debug)]
pub struct Admin {
    tcp: Option<TcpListener>,
    unix: Option<UnixSocket>,
}

impl Admin {
    /// Opens the listeners. Call it inside the runtime that will serve them.
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn bind(options: &Options) -> Result<Admin, BindError> {
        let tcp = match options.http {
            Some(address) => {
                Some(bind_tcp(address).map_err(|error| BindError::Http { address, error })?)
            }
            None => None,
        };
        let unix = match &options.unix {
            Some(path) => Some(
                UnixSocket::bind(path, 0o600).map_err(|error| BindError::Unix {
                    path: path.clone(),
                    error,
                })?,
            ),
            None => None,
        };
        Ok(Admin { tcp, unix })
    }

    /// The address of the TCP listener, with the port that the system chose if it was asked for one.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref()?.local_addr().ok()
    }

    /// Answers until `stop` is cancelled, then lets open requests end for a moment and removes the Unix socket.
    pub async fn serve(self, context: Context, stop: CancellationToken) {
        let tcp = async {
            if let Some(listener) = self.tcp {
                let loopback = listener
                    .local_addr()
                    .is_ok_and(|address| address.ip().is_loopback());
                let guard = serve::Guard::Tcp { loopback };
                serve::accept_loop(&listener, routes::open(context.clone()), guard, &stop).await;
            }
        };
        let unix = async {
            if let Some(socket) = self.unix {
                let routes = routes::all(context.clone());
                serve::accept_loop(socket.listener(), routes, serve::Guard::Unix, &stop).await;
            }
        };
        tokio::join!(tcp, unix);
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A restart must not wait for the last process's connections to time out.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests;
