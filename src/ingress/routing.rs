//! Where an event goes: plain data and one decision. What is decided here is decided at acceptance, by the configuration in
//! force at that moment (spec 11); the store's record keeps it.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::refusal::{Refusal, Refused};
use super::rules::{Choice, Ignored, IgnoredEvent, Rules, Waiter};
use super::sources::{Sources, Way};
use crate::clock::Age;
use crate::connection::dedupe::{Dedupe, Key};
use crate::connection::keeps::Keeps;
use crate::connection::parts::Parts;
use crate::connection::{Connection, State, WhenFull};
use crate::event::{Cause, Event, EventId};
use crate::metrics::ConnectionMetrics;
use crate::store::ConnectionId;
use crate::store::intake::{Durability, Fate, Route};
use crate::store::queue::QueueCounters;

/// One connection as the daemon hands it over: its settings, its number in the store, its counters, its metrics.
pub type Entry = (Arc<Connection>, ConnectionId, Arc<QueueCounters>, Arc<ConnectionMetrics>);

/// All ways in: by source and by connection. The daemon builds a new one for each configuration and swaps it in.
#[derive(Debug, Default)]
pub struct RoutingTable {
    sources: HashMap<String, Arc<Group>>,
    /// One group for each connection, sorted by name without regard to case.
    connections: Vec<Arc<Group>>,
}

/// One connection of a group, with what it remembers from event to event.
type Member = (Entry, Arc<Rules>);

/// What the path of a request names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target<'a> {
    Source(&'a str),
    Connection(&'a str),
}

/// The connections that one target leads to, in the order of the configuration.
#[derive(Debug)]
pub(super) struct Group {
    /// The source that its events are stored under.
    pub(super) source: String,
    /// How posts to it are treated.
    pub(super) way: Arc<Way>,
    /// The largest body that any of them takes: ingress reads no more.
    pub(super) max_body: u64,
    /// What of a request the events keep because one of them needs it.
    pub(super) keeps: Keeps,
    /// Whether a post names the connection itself: then there is no fan-out that could ignore it.
    direct: bool,
    /// Whether one of them asks about each event: a filter, a dedupe.
    examines: bool,
    entries: Vec<Entry>,
    /// Of each entry.
    rules: Vec<Arc<Rules>>,
}

/// What becomes of one event, with room reserved in each queue it goes to. No routes: nothing is stored.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) routes: Vec<Route>,
    /// How many deliveries are queued.
    queued: usize,
    /// Which entries' deliveries are dead from the start.
    pub(super) dead: Vec<(usize, Cause)>,
    /// How many connections did not take it.
    pub(super) ignored: u32,
    /// How many of these are disabled.
    disabled: u32,
}

impl RoutingTable {
    /// A table of these connections, and of the sources that have settings of their own. Names are unique without regard to case;
    /// [`crate::config`] sees to it.
    pub fn new(entries: &[Entry], sources: &Sources) -> RoutingTable {
        RoutingTable::after(&RoutingTable::default(), entries, sources)
    }

    /// The same in the place of another table: what its connections remember stays where their rules are the same.
    pub fn after(before: &RoutingTable, entries: &[Entry], sources: &Sources) -> RoutingTable {
        let known: HashMap<ConnectionId, &Arc<Rules>> = before
            .connections
            .iter()
            .filter_map(|group| Some((group.entries.first()?.1, group.rules.first()?)))
            .collect();
        let entries: Vec<Member> = entries
            .iter()
            .map(|entry| {
                let rules = Rules::new(&entry.0, &entry.3, known.get(&entry.1).copied());
                (entry.clone(), rules)
            })
            .collect();
        // A source that no connection names still asks who posts, before it says so.
        let mut by_source: HashMap<&str, Vec<Member>> =
            sources.names().map(|name| (name, Vec::new())).collect();
        for member in &entries {
            for source in &member.0.0.sources {
                by_source.entry(source).or_default().push(member.clone());
            }
        }
        let groups = by_source
            .into_iter()
            .map(|(source, entries)| {
                (source.to_owned(), Group::new(sources.get(source), false, entries))
            })
            .collect();
        let mut connections: Vec<_> = entries
            .iter()
            .map(|member| {
                let source = member.0.0.sources.first().map_or("default", String::as_str);
                Group::new(sources.get(source), true, vec![member.clone()])
            })
            .collect();
        connections.sort_by(|a, b| ignoring_case(a.first_name(), b.first_name()));
        RoutingTable { sources: groups, connections }
    }

    /// The connections that want to know which events came before, with their dedupe.
    pub fn dedupes(&self) -> impl Iterator<Item = (ConnectionId, &Dedupe)> {
        self.connections
            .iter()
            .filter_map(|group| Some((group.entries.first()?.1, group.rules.first()?.dedupe()?)))
    }

    /// Lets a connection remember events that the store still holds, from the oldest to the newest.
    pub fn recall(
        &self,
        connection: ConnectionId,
        events: impl Iterator<Item = (Key, EventId, Age)>,
    ) {
        let mut members = self
            .connections
            .iter()
            .filter_map(|group| Some((group.entries.first()?, group.rules.first()?)));
        if let Some((_, rules)) = members.find(|(entry, _)| entry.1 == connection) {
            rules.recall(events);
        }
    }

    /// The latest events that a connection did not take, oldest first.
    pub fn ignored(&self, name: &str) -> Vec<IgnoredEvent> {
        let group = self.find(Target::Connection(name)).ok();
        group.and_then(|group| group.rules.first()).map_or(Vec::new(), |rules| rules.recent())
    }

    /// The connections behind a target.
    pub(super) fn find(&self, target: Target<'_>) -> Result<&Arc<Group>, Refusal> {
        match target {
            Target::Source(name) => self.sources.get(name).ok_or(Refusal::NoConnection),
            Target::Connection(name) => self
                .connections
                .binary_search_by(|group| ignoring_case(group.first_name(), name))
                .ok()
                .and_then(|at| self.connections.get(at))
                .ok_or(Refusal::UnknownConnection),
        }
    }
}

fn ignoring_case(a: &str, b: &str) -> Ordering {
    a.bytes()
        .map(|byte| byte.to_ascii_lowercase())
        .cmp(b.bytes().map(|byte| byte.to_ascii_lowercase()))
}

impl Group {
    fn new(way: Arc<Way>, direct: bool, members: Vec<Member>) -> Arc<Group> {
        let (entries, rules): (Vec<Entry>, Vec<_>) = members.into_iter().unzip();
        let largest = |disabled_too: bool| {
            let takes = |entry: &&Entry| disabled_too || entry.0.state != State::Disabled;
            entries.iter().filter(takes).map(|entry| entry.0.max_body).max()
        };
        // A disabled connection must not let bodies in that all the others would have to bury.
        let max_body = largest(false).or_else(|| largest(true)).unwrap_or(0);
        let mut keeps = Keeps::default();
        for entry in entries.iter().filter(|entry| entry.0.state != State::Disabled) {
            keeps.add(&entry.0.keeps);
        }
        let examines = entries.iter().any(|entry| Rules::examines(&entry.0));
        let source = way.settings.name.clone();
        Arc::new(Group { source, way, max_body, keeps, direct, examines, entries, rules })
    }

    /// The idempotency key as it is stored: that of a post to one connection has the connection's name before it, so that
    /// posts to several connections may share a key. A key has no space, so the two kinds are never taken for each other.
    pub(super) fn scoped<'a>(&self, key: &'a str) -> Cow<'a, str> {
        if self.direct && !key.is_empty() {
            Cow::Owned(format!("{} {key}", self.first_name()))
        } else {
            Cow::Borrowed(key)
        }
    }

    /// Whether no connection names the source.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn first_name(&self) -> &str {
        self.entries.first().map_or("", |entry| &entry.0.name)
    }

    /// The name of one of its connections.
    pub(super) fn name(&self, at: usize) -> &str {
        self.entries.get(at).map_or("", |entry| &entry.0.name)
    }

    /// What a 202 of its source means.
    pub(super) fn durability(&self) -> Durability {
        match self.way.settings.durability {
            crate::source::Durability::Disk => Durability::Disk,
            crate::source::Durability::Relaxed => Durability::Relaxed,
        }
    }

    /// The name of the connection with this number.
    pub(super) fn name_of(&self, id: ConnectionId) -> String {
        let found = self.entries.iter().find(|entry| entry.1 == id);
        found.map(|entry| entry.0.name.clone()).unwrap_or_default()
    }

    /// Asks filters and dedupes about an event. Its body is read at most once, and only where one of them asks for it.
    ///
    /// # Errors
    /// When the same event is on its way to the disk: ask again when that has ended. Those of `before` are stored together with
    /// this one: being the same as one of them is being a duplicate.
    pub(super) fn choose(
        &self,
        event: &Event,
        before: &[(EventId, Choice)],
    ) -> Result<Choice, Waiter> {
        let mut choice = Choice::default();
        if !self.examines {
            return Ok(choice);
        }
        let parts = Parts::new(event);
        for (at, (entry, rules)) in self.entries.iter().zip(&self.rules).enumerate() {
            if Rules::examines(&entry.0) {
                choice.add(at, rules.ask(&entry.0, &parts), before)?;
            }
        }
        Ok(choice)
    }

    /// Decides what becomes of an event with a body of `body` bytes, whose content takes `content` bytes in a queue, and
    /// reserves that room. `delay` is the event's own, which wins over the connections'. On a refusal nothing stays reserved.
    pub(super) fn decide(
        &self,
        body: u64,
        content: u64,
        delay: Option<Duration>,
        choice: &Choice,
    ) -> Result<Plan, Refused> {
        if self.entries.is_empty() {
            return Err(Refusal::NoConnection.into());
        }
        let mut plan = Plan {
            routes: Vec::with_capacity(self.entries.len()),
            queued: 0,
            dead: Vec::new(),
            ignored: 0,
            disabled: 0,
        };
        let mut rejected = false;
        for (at, (connection, id, queue, _)) in self.entries.iter().enumerate() {
            let limits = &connection.queue;
            let fate = if connection.state == State::Disabled {
                plan.ignored += 1;
                plan.disabled += 1;
                continue;
            } else if !choice.takes(at) {
                plan.ignored += 1;
                continue;
            } else if body > connection.max_body {
                Fate::Dead(Cause::TooLarge)
            } else if queue.try_reserve(content, limits.max_events, limits.max_bytes) {
                Fate::Queued
            } else {
                rejected |= limits.when_full == WhenFull::Reject;
                Fate::Dead(Cause::QueueFull)
            };
            match fate {
                Fate::Queued => plan.queued += 1,
                Fate::Dead(cause) => plan.dead.push((at, cause)),
            }
            let delay = delay.unwrap_or(connection.delay);
            plan.routes.push(Route { connection: *id, queue: Arc::clone(queue), fate, delay });
        }
        match self.refusal(&plan, rejected) {
            None => Ok(plan),
            Some(refused) => {
                plan.give_back(content);
                Err(refused)
            }
        }
    }

    fn refusal(&self, plan: &Plan, rejected: bool) -> Option<Refused> {
        if self.direct && plan.disabled > 0 {
            return Some(Refusal::ConnectionDisabled.into());
        }
        let full = plan.dead.iter().any(|(_, cause)| *cause == Cause::QueueFull);
        if rejected || (full && plan.queued() == 0) {
            return Some(Refusal::QueueFull.into());
        }
        // Possible only when a reload made every limit smaller while the body came in.
        let all_too_large = !plan.dead.is_empty() && plan.queued() == 0;
        all_too_large.then(|| too_large(self.max_body))
    }

    /// Counts an event that was decided and, where it has routes, stored; `dead` is the plan's. Every delivery counts as accepted,
    /// however it ended, so that the daemon's books balance (spec 1).
    pub(super) fn count(&self, id: EventId, dead: &[(usize, Cause)], choice: &Choice) {
        for ((connection, _, _, metrics), rules) in self.entries.iter().zip(&self.rules) {
            metrics.accepted.increment(1);
            if connection.state == State::Disabled {
                metrics.deliveries.ignored.increment(1);
                rules.note_ignored(id, Ignored::Disabled);
            }
        }
        for (at, why) in &choice.ignored {
            if let (Some(entry), Some(rules)) = (self.entries.get(*at), self.rules.get(*at)) {
                entry.3.deliveries.ignored.increment(1);
                rules.note_ignored(id, *why);
            }
        }
        for (at, _) in dead {
            if let Some((_, _, _, metrics)) = self.entries.get(*at) {
                metrics.deliveries.dead.increment(1);
            }
        }
    }
}

impl Plan {
    /// How many deliveries wait for their turn.
    pub(super) fn queued(&self) -> usize {
        self.queued
    }

    /// Whether there is nothing to store.
    pub(super) fn is_empty(&self) -> bool {
        self.queued == 0 && self.dead.is_empty()
    }

    fn give_back(&self, content: u64) {
        for route in &self.routes {
            if route.fate == Fate::Queued {
                route.queue.give_back(content);
            }
        }
    }
}

/// The refusal of a body over `max` bytes.
pub(super) fn too_large(max: u64) -> Refused {
    let detail = format!(
        "the body is larger than {max} bytes, the most that any connection of this source takes; send less, or raise max_body"
    );
    Refused::with(Refusal::BodyTooLarge, detail)
}
