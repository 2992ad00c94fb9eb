//! What connections say of an event before it gets a place in their queues: their filters, and whether it came before.
//!
//! A [`Rules`] is what one connection remembers from event to event: the keys of its dedupe window, and its latest ignored
//! events. It outlives a reload that leaves the dedupe as it was. A connection without filter and dedupe takes no lock here.
//!
//! A key is claimed before its event is stored. A post with the same key waits until that is known: when it fails, the
//! next one takes its place, so that a post that was not stored leaves no trace. Ages are store time.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::Counter;
use tokio::sync::watch;

use crate::clock::Age;
use crate::connection::dedupe::{Dedupe, KEYS_MAX, Key, Window};
use crate::connection::parts::Parts;
use crate::connection::{Connection, State};
use crate::event::EventId;
use crate::metrics::ConnectionMetrics;

/// Ignored events that are remembered for each connection.
pub const IGNORED_MAX: usize = 32;

/// Why a connection did not take an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// Its filter said no.
    Filtered,
    /// It is the same as this event, which came first.
    Duplicate(EventId),
    /// It is disabled.
    Disabled,
}

impl Ignored {
    /// The cause, as a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Ignored::Filtered => "filtered",
            Ignored::Duplicate(_) => "duplicate",
            Ignored::Disabled => "disabled",
        }
    }
}

/// An event that a connection did not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IgnoredEvent {
    /// The event. It is stored only if another connection took it.
    pub id: EventId,
    /// Wall clock, for people.
    pub at_ms: u64,
    /// Why.
    pub why: Ignored,
}

/// What one connection remembers from event to event.
#[derive(Debug)]
pub(super) struct Rules {
    dedupe: Option<Deduper>,
    recent: Mutex<VecDeque<IgnoredEvent>>,
    filtered: Counter,
    duplicates: Counter,
    disabled: Counter,
    type_errors: Counter,
}

#[derive(Debug)]
struct Deduper {
    dedupe: Dedupe,
    keys: Mutex<Keys>,
}

#[derive(Debug)]
struct Keys {
    window: Window,
    /// Whose events are on their way to the disk, and what closes when the claim ends: who waits for one key hears nothing of the
    /// others, its own among them.
    claimed: HashMap<Key, watch::Receiver<()>>,
}

/// What a connection says of an event.
#[derive(Debug)]
pub(super) enum Answer {
    Taken,
    /// Taken, if it can be stored.
    Claimed(Claim),
    Ignored(Ignored),
    /// The same event is on its way to the disk; ask again when that has ended.
    Wait(Waiter),
}

/// Waits until one claim has ended.
#[derive(Debug)]
pub(super) struct Waiter {
    ended: watch::Receiver<()>,
    rules: Arc<Rules>,
    key: Key,
}

impl Waiter {
    pub(super) async fn wait(mut self) {
        // Nothing is ever sent: the other end is dropped with the claim.
        let _ = self.ended.changed().await;
    }
}

/// The right to be the first event with a key. Dropped without [`Claim::settle`], it leaves no trace.
#[derive(Debug)]
pub(super) struct Claim {
    rules: Arc<Rules>,
    key: Key,
    stored: Option<(EventId, Age)>,
    /// Dropped after the key was released.
    _ended: watch::Sender<()>,
}

impl Claim {
    /// The event is stored.
    pub(super) fn settle(mut self, id: EventId, age: Age) {
        self.stored = Some((id, age));
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(deduper) = &self.rules.dedupe {
            let mut keys = deduper.lock();
            keys.claimed.remove(&self.key);
            if let Some((id, age)) = self.stored {
                keys.window.note(self.key, id, age);
            }
        }
    }
}

impl Rules {
    /// Those of a connection, with what `before` remembers where the dedupe is the same.
    pub(super) fn new(
        connection: &Connection,
        metrics: &ConnectionMetrics,
        before: Option<&Arc<Rules>>,
    ) -> Arc<Rules> {
        let dedupe = connection.payload.as_ref().and_then(|payload| payload.dedupe.as_ref());
        if let Some(before) = before
            && before.dedupe.as_ref().map(|deduper| &deduper.dedupe) == dedupe
        {
            return Arc::clone(before);
        }
        let counter =
            |cause| metrics.counter("posthaste_deliveries_ignored_total", Some(("cause", cause)));
        Arc::new(Rules {
            dedupe: dedupe.map(Deduper::new),
            recent: Mutex::default(),
            filtered: counter("filtered"),
            duplicates: counter("duplicate"),
            disabled: counter("disabled"),
            type_errors: metrics.counter("posthaste_filter_type_errors_total", None),
        })
    }

    /// Whether events must be asked about one by one.
    pub(super) fn examines(connection: &Connection) -> bool {
        connection.state != State::Disabled
            && connection
                .payload
                .as_ref()
                .is_some_and(|payload| payload.filter.is_some() || payload.dedupe.is_some())
    }

    /// What the connection says of an event.
    pub(super) fn ask(self: &Arc<Rules>, connection: &Connection, parts: &Parts<'_>) -> Answer {
        let filter = connection.payload.as_ref().and_then(|payload| payload.filter.as_ref());
        if let Some(filter) = filter {
            let judgement = filter.judge(parts);
            self.type_errors.increment(u64::from(judgement.type_error));
            if !judgement.matches {
                return Answer::Ignored(Ignored::Filtered);
            }
        }
        let Some(deduper) = &self.dedupe else {
            return Answer::Taken;
        };
        let Some(key) = deduper.dedupe.key(parts) else {
            return Answer::Taken;
        };
        let mut keys = deduper.lock();
        if let Some(first) = keys.window.first(key, parts.event().accepted_age) {
            return Answer::Ignored(Ignored::Duplicate(first));
        }
        let rules = Arc::clone(self);
        if let Some(ended) = keys.claimed.get(&key) {
            return Answer::Wait(Waiter { ended: ended.clone(), rules, key });
        }
        let (_ended, ended) = watch::channel(());
        keys.claimed.insert(key, ended);
        Answer::Claimed(Claim { rules, key, stored: None, _ended })
    }

    /// Counts and remembers an event that was not taken.
    pub(super) fn note_ignored(&self, event: EventId, why: Ignored) {
        match why {
            Ignored::Filtered => self.filtered.increment(1),
            Ignored::Duplicate(_) => self.duplicates.increment(1),
            Ignored::Disabled => self.disabled.increment(1),
        }
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() >= IGNORED_MAX {
            recent.pop_front();
        }
        recent.push_back(IgnoredEvent { id: event, at_ms: event.unix_ms(), why });
    }

    /// The latest ignored events, oldest first.
    pub(super) fn recent(&self) -> Vec<IgnoredEvent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    /// The dedupe, if it has one.
    pub(super) fn dedupe(&self) -> Option<&Dedupe> {
        self.dedupe.as_ref().map(|deduper| &deduper.dedupe)
    }

    /// Remembers events that the store still holds, from the oldest to the newest.
    pub(super) fn recall(&self, events: impl Iterator<Item = (Key, EventId, Age)>) {
        if let Some(deduper) = &self.dedupe {
            let mut keys = deduper.lock();
            events.for_each(|(key, id, age)| keys.window.note(key, id, age));
        }
    }
}

impl Deduper {
    fn new(dedupe: &Dedupe) -> Deduper {
        let window = Window::new(dedupe.window, KEYS_MAX);
        Deduper {
            dedupe: dedupe.clone(),
            keys: Mutex::new(Keys { window, claimed: HashMap::new() }),
        }
    }

    /// Nothing panics while it holds the lock; if it did, the keys are still whole.
    fn lock(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the connections of a group say of one event: those that are named here do not get it.
#[derive(Debug, Default)]
pub(super) struct Choice {
    /// By their place in the group, in its order.
    pub(super) ignored: Vec<(usize, Ignored)>,
    claims: Vec<Claim>,
}

impl Choice {
    /// Whether this connection of the group gets the event.
    pub(super) fn takes(&self, at: usize) -> bool {
        !self.ignored.iter().any(|(ignored, _)| *ignored == at)
    }

    /// The event is stored.
    pub(super) fn settle(&mut self, id: EventId, age: Age) {
        self.claims.drain(..).for_each(|claim| claim.settle(id, age));
    }

    /// Whether what `waiter` waits for is this event.
    fn holds(&self, waiter: &Waiter) -> bool {
        let same =
            |claim: &Claim| claim.key == waiter.key && Arc::ptr_eq(&claim.rules, &waiter.rules);
        self.claims.iter().any(same)
    }

    /// Takes in the answer of one connection. `before` are the events that are stored together with this one.
    ///
    /// # Errors
    /// When it must be waited for: then all that was claimed is released.
    pub(super) fn add(
        &mut self,
        at: usize,
        answer: Answer,
        before: &[(EventId, Choice)],
    ) -> Result<(), Waiter> {
        match answer {
            Answer::Taken => {}
            Answer::Claimed(claim) => self.claims.push(claim),
            Answer::Ignored(why) => self.ignored.push((at, why)),
            Answer::Wait(waiter) => match before.iter().find(|(_, one)| one.holds(&waiter)) {
                Some((first, _)) => self.ignored.push((at, Ignored::Duplicate(*first))),
                None => {
                    self.claims.clear();
                    return Err(waiter);
                }
            },
        }
        Ok(())
    }
}
