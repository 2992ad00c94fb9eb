//! The admin listeners: metrics and health over TCP, and the admin API over a Unix socket that only the daemon's own user
//! (and root) can open, or over TCP for whoever has a token.
//!
//! Promises: a browser cannot reach it (no request with an `Origin`, no strange `Host` on loopback); connections,
//! waiting commands and idle time are bounded; it never changes anything itself. What it wants to know or have done it
//! asks the daemon's control loop through one bounded channel of [`Command`]s, so nothing here locks or blocks what
//! delivers.
//!
//! It runs on the control thread's runtime: [`Admin::bind`], then [`Admin::serve`] until the token is cancelled.

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::listener::{self, BindError, SocketFile, Sockets};
use crate::metrics::Metrics;
use crate::secret::Secret;

mod access;
pub mod api;
pub mod command;
pub mod manage;
mod openapi;
mod problem;
mod routes;
mod serve;

pub use command::{
    AttemptsQuery, Command, DeadEvent, DeliveriesQuery, FoundEvent, JobCommand, Refusal,
    ReloadRefused,
};

/// Commands that may wait for the control loop; past that a request is answered 503.
pub const COMMANDS_MAX: usize = 32;

/// Only the daemon's own user, and root.
const SOCKET_MODE: u32 = 0o600;

/// Where to listen.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `[admin] http`: `/metrics`, `/healthz` and `/readyz`, and everything with a token.
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
    /// Who may use the API over TCP; a reload changes them.
    pub tokens: Arc<ArcSwap<Vec<Token>>>,
    /// Schemas for the OpenAPI document, by name: `ConnectionInput` and what it refers to.
    pub schemas: fn() -> serde_json::Value,
}

/// A bearer token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Who it is.
    pub name: String,
    /// What it may do.
    pub scope: manage::Scope,
    /// What it shows.
    pub token: Secret,
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

/// The bound listeners.
#[derive(Debug)]
pub struct Admin {
    tcp: Option<std::net::TcpListener>,
    unix: Option<(UnixListener, Option<SocketFile>)>,
}

impl Admin {
    /// Opens the listeners, or takes those that the service manager opened. Call it inside the runtime that will serve them.
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn bind(options: &Options, mut inherited: Sockets) -> Result<Admin, BindError> {
        if !inherited.is_empty() {
            let unix = inherited.unix.map(|unix| (unix, None));
            return Ok(Admin { tcp: inherited.tcp.pop(), unix });
        }
        let unix = match &options.unix {
            Some(path) => {
                make_directory(path);
                let (unix, file) = listener::bind_unix(path, SOCKET_MODE)?;
                Some((unix, Some(file)))
            }
            None => None,
        };
        Ok(Admin { tcp: options.http.map(listener::bind_tcp).transpose()?, unix })
    }

    /// The address of the TCP listener, with the port that the system chose if it was asked for one.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref()?.local_addr().ok()
    }

    /// Answers until `stop` is cancelled, then lets open requests end for a moment and removes the Unix socket.
    pub async fn serve(self, context: Context, stop: CancellationToken) {
        let tcp = async {
            if let Some(listener) =
                self.tcp.and_then(|tcp| tokio::net::TcpListener::from_std(tcp).ok())
            {
                let loopback =
                    listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
                let guard = serve::Guard::Tcp { loopback };
                let tokens = Arc::clone(&context.tokens);
                let door = serve::Door { guard, tokens };
                serve::accept_loop(&listener, routes::all(context.clone()), door, &stop).await;
            }
        };
        let unix = async {
            // The file is removed when serving ends.
            let (unix, _file) = self.unix.unzip();
            if let Some(listener) =
                unix.and_then(|unix| tokio::net::UnixListener::from_std(unix).ok())
            {
                let door = serve::Door { guard: serve::Guard::Unix, tokens: Arc::default() };
                let routes = routes::all(context.clone());
                serve::accept_loop(&listener, routes, door, &stop).await;
            }
        };
        tokio::join!(tcp, unix);
    }
}

/// The directory of the socket, where the service manager did not make it. If it cannot be made, binding says what is wrong.
fn make_directory(socket: &Path) {
    if let Some(directory) = socket.parent().filter(|directory| !directory.exists()) {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(directory);
        tracing::debug!(?made, directory = %directory.display(), "Made the admin socket's directory");
    }
}

#[cfg(test)]
mod tests;
