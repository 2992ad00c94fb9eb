//! Names to addresses, with a memory. One for each egress runtime; its connections share it.
//!
//! An answer is used for its TTL, within [`TTL`]. A name is looked up once however many ask, and a name that hangs holds up
//! nobody who asks for another. Who gives up leaves the lookup behind for the next one. When a lookup fails, the last answer
//! goes on being used for up to [`STALE`] (RFC 8767): at once where the failure is known, and after [`PATIENCE`] where the
//! servers are silent. That a name does not exist is an answer, not a failure. A failure is remembered for [`NEGATIVE`].

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// How long an answer is used: its TTL, within these.
pub(super) const TTL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(300);
/// How long an answer is used after that while lookups fail.
pub(super) const STALE: Duration = Duration::from_secs(300);
/// How long a failure is believed without asking again.
pub(super) const NEGATIVE: Duration = Duration::from_secs(5);
/// How long a lookup may take before an old answer is used instead.
const PATIENCE: Duration = Duration::from_millis(300);
/// Names remembered at most. There are as many as hosts in the configuration.
const NAMES_MAX: usize = 4096;

/// What a lookup found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// At least one.
    pub addresses: Vec<IpAddr>,
    /// How long the answer is good.
    pub ttl: Duration,
}

/// Why a lookup found nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotFound {
    /// The servers say that the name does not exist, or has no address.
    Nothing(String),
    /// No server answered with either.
    Failed(String),
}

/// A lookup under way.
pub type Lookup = Pin<Box<dyn Future<Output = Result<Found, NotFound>>>>;
/// What looks a name up.
pub type Ask = Rc<dyn Fn(&str) -> Lookup>;

/// The addresses of names.
pub struct Dns {
    names: Rc<Names>,
    /// The lookups under way; they end with this.
    lookups: RefCell<JoinSet<()>>,
}

struct Names {
    ask: Ask,
    entries: RefCell<HashMap<String, Entry>>,
}

/// What is known of one name.
#[derive(Default)]
struct Entry {
    answer: Option<Answer>,
    failure: Option<Failure>,
    running: Option<Rc<Running>>,
}

#[derive(Clone)]
struct Answer {
    addresses: Rc<[IpAddr]>,
    fresh_until: Instant,
}

#[derive(Clone)]
struct Failure {
    detail: String,
    until: Instant,
}

/// What the memory says of a name.
enum Known {
    /// All that is to be said.
    Enough(Result<Rc<[IpAddr]>, String>),
    /// That it has to be looked up: by whom already, and what was found before.
    Lookup { running: Option<Rc<Running>>, stale: Option<Rc<[IpAddr]>> },
}

/// A lookup that several may wait for.
#[derive(Default)]
struct Running {
    ended: Cell<bool>,
    result: OnceCell<Result<Rc<[IpAddr]>, String>>,
    changed: Notify,
}

impl Dns {
    /// A memory in front of `ask`.
    pub fn new(ask: Ask) -> Dns {
        let names = Names { ask, entries: RefCell::default() };
        Dns { names: Rc::new(names), lookups: RefCell::default() }
    }

    /// The addresses of a name, at least one. Waits as long as the lookup takes: bound it from outside. Cancel safe.
    ///
    /// # Errors
    /// What the resolver says, where no older answer can be used.
    pub(super) async fn addresses(&self, name: &str) -> Result<Rc<[IpAddr]>, String> {
        let known = self.known(name, Instant::now());
        let (running, stale) = match known {
            Known::Enough(result) => return result,
            Known::Lookup { running, stale } => (running, stale),
        };
        let running = running.unwrap_or_else(|| self.start(name));
        let Some(stale) = stale else {
            return running.result().await;
        };
        match timeout(PATIENCE, running.result()).await {
            Ok(result) => result,
            Err(_) => Ok(stale),
        }
    }

    fn known(&self, name: &str, now: Instant) -> Known {
        let entries = self.names.entries.borrow();
        let Some(entry) = entries.get(name) else {
            return Known::Lookup { running: None, stale: None };
        };
        if let Some(answer) = entry.answer.as_ref().filter(|answer| now < answer.fresh_until) {
            return Known::Enough(Ok(Rc::clone(&answer.addresses)));
        }
        let stale = entry.stale(now);
        if let Some(failure) = entry.failure.as_ref().filter(|failure| now < failure.until) {
            return Known::Enough(stale.ok_or_else(|| failure.detail.clone()));
        }
        Known::Lookup { running: entry.running.clone(), stale }
    }

    fn start(&self, name: &str) -> Rc<Running> {
        let running = Rc::new(Running::default());
        let (names, owned, done) = (Rc::clone(&self.names), name.to_owned(), Rc::clone(&running));
        let lookup = (names.ask)(name);
        names.make_room();
        names.entries.borrow_mut().entry(owned.clone()).or_default().running =
            Some(Rc::clone(&running));
        let mut lookups = self.lookups.borrow_mut();
        // Those that have ended.
        while lookups.try_join_next().is_some() {}
        lookups.spawn_local(async move {
            let end = End(&done);
            let found = lookup.await;
            let result = names.note(&owned, found, Instant::now());
            let _ = done.result.set(result);
            drop(end);
        });
        running
    }
}

/// Says that a lookup has ended, also when it panicked.
struct End<'r>(&'r Running);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.ended.set(true);
        self.0.changed.notify_waiters();
    }
}

impl Running {
    async fn result(&self) -> Result<Rc<[IpAddr]>, String> {
        while !self.ended.get() {
            self.changed.notified().await;
        }
        let lost = || Err("the lookup was given up".to_owned());
        self.result.get().cloned().unwrap_or_else(lost)
    }
}

impl Names {
    /// Keeps what a lookup has found; says what its waiters get.
    fn note(
        &self,
        name: &str,
        found: Result<Found, NotFound>,
        now: Instant,
    ) -> Result<Rc<[IpAddr]>, String> {
        let mut entries = self.entries.borrow_mut();
        let entry = entries.entry(name.to_owned()).or_default();
        entry.running = None;
        let (detail, stale) = match found {
            Ok(found) => {
                let addresses: Rc<[IpAddr]> = found.addresses.into();
                let ttl = found.ttl.clamp(*TTL.start(), *TTL.end());
                let fresh_until = now + ttl;
                entry.answer = Some(Answer { addresses: Rc::clone(&addresses), fresh_until });
                entry.failure = None;
                return Ok(addresses);
            }
            Err(NotFound::Nothing(detail)) => {
                entry.answer = None;
                (detail, None)
            }
            Err(NotFound::Failed(detail)) => (detail, entry.stale(now)),
        };
        if stale.is_some() {
            tracing::warn!(
                name,
                error = detail,
                "A lookup failed; its last answer goes on being used"
            );
        }
        entry.failure = Some(Failure { detail: detail.clone(), until: now + NEGATIVE });
        stale.ok_or(detail)
    }

    /// Forgets what is of no use when there are too many names.
    fn make_room(&self) {
        let mut entries = self.entries.borrow_mut();
        if entries.len() >= NAMES_MAX {
            let now = Instant::now();
            entries.retain(|_, entry| entry.running.is_some() || entry.stale(now).is_some());
        }
        if entries.len() >= NAMES_MAX {
            entries.retain(|_, entry| entry.running.is_some());
        }
    }
}

impl Entry {
    /// The last answer, while it may be used for want of a better one.
    fn stale(&self, now: Instant) -> Option<Rc<[IpAddr]>> {
        let answer = self.answer.as_ref().filter(|answer| now < answer.fresh_until + STALE)?;
        Some(Rc::clone(&answer.addresses))
    }
}

impl std::fmt::Debug for Dns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Dns({} names)", self.names.entries.borrow().len())
    }
}

#[cfg(test)]
mod tests;
