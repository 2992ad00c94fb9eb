//! Name lookup through the system's resolver.
//!
//! The system's call blocks a thread and cannot be stopped, so one connection has at most one lookup under way: who
//! gives up leaves it behind, and the next one to dial joins it. Answers are kept for a moment, so that a pool that fills
//! asks once. The system tells no TTL; `pool.max_lifetime` is what makes new addresses take over.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

/// How long an answer is used again.
const FRESH: Duration = Duration::from_secs(5);

/// Addresses of one name that are tried at most.
const ADDRESSES_MAX: usize = 8;

type Running = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// The addresses of one host and port.
pub(super) struct Lookup {
    host: String,
    port: u16,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Left by a dialler that gave up, or being waited for right now.
    running: Option<Running>,
    found: Option<(Instant, Vec<SocketAddr>)>,
}

impl Lookup {
    pub(super) fn new(host: &str, port: u16) -> Lookup {
        Lookup { host: host.to_owned(), port, state: Mutex::default() }
    }

    /// Cancel safe: the system's call goes on and its answer is there for the next one.
    pub(super) async fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = self.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, self.port)]);
        }
        let mut state = self.state.lock().await;
        if let Some((at, found)) = &state.found
            && at.elapsed() < FRESH
        {
            return Ok(found.clone());
        }
        let running = state.running.get_or_insert_with(|| resolve(self.host.clone(), self.port));
        let answer = running.as_mut().await;
        state.running = None;
        let found = answer?;
        state.found = Some((Instant::now(), found.clone()));
        Ok(found)
    }
}

fn resolve(host: String, port: u16) -> Running {
    Box::pin(async move {
        let found = tokio::net::lookup_host((host, port)).await?;
        Ok(found.take(ADDRESSES_MAX).collect())
    })
}

impl std::fmt::Debug for Lookup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lookup({}:{})", self.host, self.port)
    }
}
