//! The oracle: what producers posted and were told, what targets saw and said, and when processes ended. It looks at each
//! attempt as it comes ([`Ledger::received`]) and at everything at the end ([`Ledger::settle_up`]).
//!
//! All times are milliseconds that have really passed since the run began.

use std::collections::{BTreeMap, BTreeSet};

use super::endpoint::Act;
use super::plan::{Plan, RETRY_AFTER_MAX, least_wait};
use crate::clock::millis;
use crate::connection::Connection;
use crate::connection::ordering::Ordering;
use crate::event::EventId;

mod posts;
mod rules;
#[cfg(test)]
mod tests;

pub(super) use posts::{Answer, Post, Try, body};

/// One delivery as targets see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) event: EventId,
    pub(super) connection: usize,
}

/// A request as a target sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    pub(super) key: Key,
    pub(super) number: u32,
    pub(super) replay: bool,
    /// The process that sent it.
    pub(super) life: u32,
}

/// A request, and what the target did.
#[derive(Clone, Copy, Debug)]
struct Receipt {
    attempt: Attempt,
    act: Act,
    at: u64,
    /// When a yes was said in time, to a process that lived.
    clear_at: Option<u64>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// By itself, when it was told to.
    Stop,
    /// From one moment to the next; what it wrote is still there.
    Kill,
    /// With the machine.
    Crash,
}

impl Ending {
    /// Marks made so long before it may be lost (architecture, "The store"), and the time that a turn of the writer may take
    /// in the simulation. After a stop: an answer that arrives as the drain ends.
    fn loses_ms(self) -> u64 {
        match self {
            // Attempts that outlive the drain are cut; then the store is closed, on a disk that may be slow.
            Ending::Stop => 100,
            Ending::Kill => 20 + 100,
            Ending::Crash => 1000 + 200,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct LifeEnd {
    at: u64,
    how: Ending,
    /// The disk failed meanwhile: then marks may be older and not durable.
    trouble: bool,
    /// The disk was full at some time before: then files may be cut short.
    full: bool,
}

/// A queue that was cancelled.
#[derive(Clone, Copy, Debug)]
struct Discard {
    connection: usize,
    at: u64,
    life: u32,
    durable: bool,
}

/// The order of a connection, as the files have it.
#[derive(Clone, Debug)]
struct InForce {
    ordering: Option<Ordering>,
    /// Attempts that begin from here on keep it: none that began before is under way any more.
    from: u64,
}

/// What was seen of a line.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// When the latest event that was tried was posted.
    posted: u64,
    /// Until when the last attempt is under way for certain, and of which event.
    busy: Option<(u64, EventId)>,
}

/// See the module.
pub(super) struct Ledger {
    connections: Vec<Connection>,
    pub(super) posts: BTreeMap<u64, Post>,
    /// Whose id is whose.
    numbers: BTreeMap<EventId, u64>,
    receipts: BTreeMap<Key, Vec<Receipt>>,
    ends: BTreeMap<u32, LifeEnd>,
    reboots: Vec<u64>,
    discards: Vec<Discard>,
    /// Nothing is evicted: first attempts are made in order.
    all_hot: bool,
    /// Per connection and process: the latest post whose first attempt was seen.
    frontier: BTreeMap<(usize, u32), u64>,
    orders: BTreeMap<usize, InForce>,
    /// Connections that had an order by key: there a key's line may overtake another's.
    keyed: BTreeSet<usize>,
    lines: BTreeMap<(usize, u32, Option<u64>), Seen>,
    /// Attempts that stood in a line and were looked at.
    pub(super) in_lines: u64,
    /// The first promise that was found broken.
    pub(super) broken: Option<String>,
}

impl Ledger {
    pub(super) fn new(plan: &Plan) -> Ledger {
        Ledger {
            connections: plan.connections.clone(),
            posts: BTreeMap::new(),
            numbers: BTreeMap::new(),
            receipts: BTreeMap::new(),
            ends: BTreeMap::new(),
            reboots: Vec::new(),
            discards: Vec::new(),
            all_hot: plan.is_all_hot(),
            frontier: BTreeMap::new(),
            orders: BTreeMap::new(),
            keyed: BTreeSet::new(),
            lines: BTreeMap::new(),
            in_lines: 0,
            broken: None,
        }
    }

    /// A promise is broken. The first one counts.
    pub(super) fn fail(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }

    fn ensure(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.fail(what());
        }
    }

    pub(super) fn life_ended(
        &mut self,
        life: u32,
        at: u64,
        how: Ending,
        (trouble, full): (bool, bool),
    ) {
        self.ends.insert(life, LifeEnd { at, how, trouble, full });
    }

    /// The machine started anew. A process that had ended before with its marks unsynced loses them now.
    pub(super) fn rebooted(&mut self, at: u64) {
        self.reboots.push(at);
        if let Some(mut last) = self.ends.last_entry() {
            last.get_mut().how = Ending::Crash;
        }
    }

    /// The disk failed as the next process started: what the last one wrote may be worth less than it seemed.
    pub(super) fn excuse_last_end(&mut self) {
        if let Some(mut last) = self.ends.last_entry() {
            last.get_mut().trouble = true;
        }
    }

    /// A start found damage. What was cut by the power, by a write that failed or by a full disk may look like it (a file's header that was
    /// being written); else there is none.
    pub(super) fn damage_found(&mut self, places: u64) {
        let last = self.ends.last_key_value().map(|(_, end)| *end);
        let excused = last.is_some_and(|end| end.how == Ending::Crash || end.trouble || end.full);
        self.ensure(excused, || format!("{places} places are damaged after {last:?}"));
    }

    /// A connection's queue was cancelled.
    pub(super) fn discarded(&mut self, connection: usize, at: u64, life: u32, durable: bool) {
        self.discards.push(Discard { connection, at, life, durable });
    }

    /// A target has read a request. Returns its place, for [`Ledger::answered`].
    pub(super) fn received(&mut self, attempt: Attempt, act: Act, body: &[u8], at: u64) -> usize {
        self.check_content(&attempt, body);
        self.check_due(&attempt, at);
        self.check_delay(&attempt, at);
        self.check_duplicate(&attempt, at);
        self.check_cancelled(&attempt, at);
        self.check_order(&attempt);
        self.check_line(&attempt, act, at);
        let receipts = self.receipts.entry(attempt.key).or_default();
        receipts.push(Receipt { attempt, act, at, clear_at: None });
        receipts.len() - 1
    }

    /// A target has said yes, in time.
    pub(super) fn answered(&mut self, key: Key, place: usize, at: u64) {
        if let Some(receipt) = self.receipts.get_mut(&key).and_then(|all| all.get_mut(place)) {
            receipt.clear_at = Some(at);
        }
    }

    /// Whether a target said yes to this event.
    fn is_done(&self, key: Key) -> bool {
        let receipts = self.receipts.get(&key).into_iter().flatten();
        receipts.into_iter().any(|receipt| receipt.act.says_yes())
    }

    /// Nothing is to be delivered any more: every acknowledged event has reached each of its connections.
    pub(super) fn settle_up(&mut self) {
        let accepted = self.posts.iter().filter_map(|(number, post)| {
            let (event, _) = post.accepted()?;
            Some(post.must().into_iter().map(move |connection| (*number, post, event, connection)))
        });
        let missing: Vec<_> = accepted
            .flatten()
            .filter(|(_, post, event, connection)| {
                let cancelled = self.discards.iter().any(|discard| {
                    discard.connection == *connection && post.first_posted() <= discard.at
                });
                !cancelled && !self.is_done(Key { event: *event, connection: *connection })
            })
            .map(|(number, _, _, connection)| (number, connection))
            .collect();
        self.ensure(missing.is_empty(), || {
            format!("acknowledged, and never delivered: {missing:?}")
        });
    }

    /// Deliveries that targets said yes to.
    pub(super) fn delivered(&self) -> usize {
        self.receipts.keys().filter(|key| self.is_done(**key)).count()
    }
}
