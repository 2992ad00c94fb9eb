//! Drives a store by hand: what an egress and a control loop would do with it.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::oneshot;

use super::super::command::Command;
use super::super::feed::{Delivery, FeedItem, Settlement};
use super::super::intake::{Durability, Fate, Route};
use super::super::keys::{Fingerprint, KeyLimits, KeyRecord};
use super::super::marks::Place;
use super::super::suspension::{Suspension, SuspensionKind};
use super::super::{ConnectionId, Ends, Keep, Limit, OpenError, Options, ShelfLimits};
use super::disk::MemoryDisk;
use crate::clock::Clock;
use crate::event::{Cause, ContentBuilder, Disposition, Event, EventId};
use crate::metrics::Metrics;

/// What a case came to.
#[derive(Debug, Default)]
pub struct Found {
    /// Deliveries that were acknowledged since the store was opened last.
    pub(super) delivered: HashSet<Place>,
    /// How many there were altogether.
    pub acknowledged: usize,
    /// Deliveries whose record could not be read.
    pub unreadable: usize,
    /// Dead letters that were seen.
    pub dead: usize,
    /// Idempotency keys that were found at the start.
    pub keys: usize,
    /// Damaged places that were found at the start.
    pub corrupt: u64,
}

/// A store without threads.
pub(super) struct Relay {
    pub(super) ends: Ends,
    clock: Clock,
    rng: fastrand::Rng,
}

/// Wall clock of every case.
const WALL_MS: u64 = 1_700_000_000_000;
/// Turns after which deliveries count as endless: far above what the largest case needs.
const ROUNDS: usize = 20_000;

/// Small files, so that a small store has all kinds of them.
fn options() -> Options {
    Options {
        segment_bytes: 16 << 10,
        max_bytes: 64 << 20,
        hot_bytes: 4 << 10,
        lanes: 1,
        feeds: 1,
        keys: KeyLimits { window: Duration::from_secs(3600), max_keys: 1000 },
        shelf: ShelfLimits { items: 8, block_items: 3 },
        keep: Keep { delivered: limit(0), dead: limit(1 << 40), attempts: limit(3600) },
        seed: 7,
    }
}

fn limit(seconds: u64) -> Limit {
    Limit { age: Duration::from_secs(seconds), bytes: 1 << 20 }
}

/// Opens the store. `None`: it is of another version, which is the only thing that may stop a start on this disk.
pub(super) fn open(disk: &MemoryDisk) -> Option<Relay> {
    static METRICS: OnceLock<Metrics> = OnceLock::new();
    let clock = Clock::manual(WALL_MS);
    let metrics = METRICS.get_or_init(Metrics::new);
    match Ends::new(Arc::new(disk.clone()), options(), clock.clone(), metrics) {
        Ok(ends) => {
            let mut relay = Relay { ends, clock, rng: fastrand::Rng::with_seed(3) };
            relay.attach_all();
            Some(relay)
        }
        Err(OpenError::UnknownVersion { .. }) => None,
        Err(error) => panic!("a store is not opened although its disk is fine: {error}"),
    }
}

/// Delivers all that is handed out until nothing comes any more, also after an hour. `mood` says how attempts end: 0 is
/// always well.
pub(super) fn deliver_all(relay: &mut Relay, found: &mut Found, mood: u8) {
    found.keys = found.keys.max(relay.ends.keys.found.len());
    found.corrupt = found.corrupt.max(relay.ends.corrupt);
    let mut pauses = [30, 5_000, 3_600_000].into_iter();
    for _ in 0..ROUNDS {
        let due = relay.due();
        if due.is_empty() {
            match pauses.next() {
                Some(pause) => relay.clock.advance(Duration::from_millis(pause)),
                None => return,
            }
        }
        for delivery in due {
            relay.attempt(&delivery, found, mood);
        }
    }
    panic!("deliveries come without end");
}

impl Relay {
    /// Goes on from the time at which the store was closed.
    pub(super) fn go_on_from(&mut self, closed: Clock) {
        self.clock.advance(closed.boot().saturating_sub(self.clock.boot()));
    }

    fn attach_all(&mut self) {
        for connection in self.connections() {
            // The queue of commands is bounded; each turn empties it.
            drop(self.ends.commands.send(Command::Attach { connection, feed: 0 }));
            self.ends.writer.turn();
        }
    }

    fn connections(&self) -> Vec<ConnectionId> {
        self.ends.writer.state.streams.iter().map(|stream| stream.id).collect()
    }

    fn ask<T>(&mut self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> T {
        let (reply, mut answer) = oneshot::channel();
        drop(self.ends.commands.send(command(reply)));
        self.ends.writer.turn();
        match answer.try_recv() {
            Ok(answer) => answer,
            Err(error) => panic!("a command was not answered: {error}"),
        }
    }

    fn due(&mut self) -> Vec<Delivery> {
        self.ends.writer.turn();
        let mut items = Vec::new();
        for feed in &self.ends.feeds {
            let _ = poll_once(feed.next(&mut items));
        }
        let due = items.into_iter().filter_map(|item| match item {
            FeedItem::Due(delivery) => Some(delivery),
            FeedItem::Loaded(..) | FeedItem::Fresh(..) | FeedItem::Shown(_) => None,
        });
        due.collect()
    }

    fn attempt(&mut self, delivery: &Delivery, found: &mut Found, mood: u8) {
        let loaded = self.ends.writer.files.load(delivery.id, delivery.size);
        let place = Place::from(delivery.id);
        let disposition = match loaded {
            Err(_) => {
                found.unreadable += 1;
                Disposition::Dead { cause: Cause::Internal, status: 0 }
            }
            Ok(_) if delivery.attempts == 0 => ending(place, mood),
            Ok(_) => Disposition::Delivered,
        };
        if disposition == Disposition::Delivered {
            assert!(found.delivered.insert(place), "delivered twice: {place:?}");
            found.acknowledged += 1;
        }
        self.settle(delivery, disposition);
    }

    fn settle(&mut self, delivery: &Delivery, disposition: Disposition) {
        let settlement = Settlement {
            id: delivery.id,
            size: delivery.size,
            disposition,
            attempts: delivery.attempts.saturating_add(1),
            first_attempt: delivery.first_attempt.unwrap_or(self.clock.age()),
        };
        for feed in &self.ends.feeds {
            feed.settle(settlement.clone());
        }
    }

    /// What operators and the daemon ask: the state, the oldest, dead letters page by page, a replay, a discard.
    pub(super) fn ask_everything(&mut self, found: &mut Found) {
        let status = self.ask(|reply| Command::Status { reply });
        assert!(status.segments > 0, "{status:?}");
        for (id, size) in self.ask(|reply| Command::Oldest { reply }) {
            drop(self.ends.writer.files.load(id, size));
        }
        // The deliveries stay where they are, under whatever name.
        let (old, new) = ("crm".to_owned(), "crm-renamed".to_owned());
        let _ = self.ask(|reply| Command::Rename { old, new, reply });
        for (connection, _) in self.ask(|reply| Command::Suspensions { reply }) {
            let cleared =
                self.ask(|reply| Command::Suspend { connection, suspension: None, reply });
            assert!(cleared.is_ok(), "a disk that is fine does not keep a suspension");
        }
        for connection in self.connections() {
            let (mut after, mut letters) = (None, Vec::new());
            loop {
                let page = self.ask(|reply| Command::Dead { connection, after, limit: 64, reply });
                after = page.letters.last().map(|letter| letter.cursor());
                letters.extend(page.letters);
                if !page.more || after.is_none() {
                    break;
                }
            }
            found.dead += letters.len();
            self.look_at(connection, &letters);
            let _ = self.ask(|reply| Command::Replay { letters, reply });
        }
        deliver_all(self, found, 0);
        if let Some(connection) = self.connections().first().copied() {
            let _ = self.ask(|reply| Command::Discard { connection, reply });
        }
    }

    fn look_at(&mut self, connection: ConnectionId, letters: &[super::super::DeadLetter]) {
        let Some(letter) = letters.first() else {
            return;
        };
        let loaded = self.ends.writer.files.load(letter.id, letter.size);
        let unix_ms = loaded.map_or(WALL_MS, |event| event.id.unix_ms());
        for letter in self.ask(|reply| Command::DeadAt { connection, unix_ms, reply }) {
            drop(self.ends.writer.files.load(letter.id, letter.size));
        }
        for (id, size) in self.ask(|reply| Command::LiveAt { connection, unix_ms, reply }) {
            drop(self.ends.writer.files.load(id, size));
        }
    }

    /// Whatever was found: a new event is taken and delivered.
    pub(super) fn append_and_deliver(&mut self, found: &mut Found) {
        let id = (0..5).find_map(|_| {
            let appended = self.append("fresh", "", b"fresh");
            self.clock.advance(Duration::from_secs(1));
            appended
        });
        assert!(id.is_some(), "no event is taken any more");
        let acknowledged = found.acknowledged;
        deliver_all(self, found, 0);
        assert!(found.acknowledged > acknowledged, "what was taken is not delivered");
    }

    /// Suspends a connection.
    pub(super) fn suspend(&mut self, connection: ConnectionId) {
        let suspension =
            Some(Suspension { kind: SuspensionKind::Gone, at_ms: WALL_MS, settings: 1 });
        let _ = self.ask(|reply| Command::Suspend { connection, suspension, reply });
    }

    /// Appends an event for one connection, and commits it. `None`: it was refused.
    pub(super) fn append(&mut self, name: &str, key: &str, body: &[u8]) -> Option<EventId> {
        self.append_delayed(name, key, body, Duration::ZERO)
    }

    /// The same for an event that waits for a time.
    pub(super) fn append_delayed(
        &mut self,
        name: &str,
        key: &str,
        body: &[u8],
        delay: Duration,
    ) -> Option<EventId> {
        let name = name.to_owned();
        let (connection, queue) = self.ask(|reply| Command::Register { name, reply });
        drop(self.ends.commands.send(Command::Attach { connection, feed: 0 }));
        let mut content = ContentBuilder::new("default", "", key, body.len());
        content.body(body);
        let content = content.finish();
        let room = queue.try_reserve(content.as_bytes().len() as u64, u64::MAX, u64::MAX);
        assert!(room, "a queue has no room although it has no cap");
        let id = EventId::new(self.clock.wall_ms(), &mut self.rng);
        let accepted_age = self.clock.age();
        let key = Fingerprint::of(&content)
            .map(|print| Box::new(KeyRecord::new(print, id, accepted_age, 1)));
        let event = Event { id, accepted_ms: id.unix_ms(), accepted_age, content };
        let routes = vec![Route { connection, queue, fate: Fate::Queued, delay }];
        let (intake, lane) = self.ends.intakes.first()?.clone();
        let mut append = pin!(intake.append_with(Arc::new(event), routes, key, Durability::Disk));
        let mut context = Context::from_waker(Waker::noop());
        let asked = append.as_mut().poll(&mut context);
        assert!(asked.is_pending(), "answered before it was written: {asked:?}");
        self.ends.writer.turn();
        let _ = poll_once(lane.run());
        match append.poll(&mut context) {
            Poll::Ready(Ok(())) => Some(id),
            Poll::Ready(Err(_)) => None,
            Poll::Pending => panic!("an append was not answered"),
        }
    }

    /// Lets time pass, with a turn before and after.
    pub(super) fn pass(&mut self, time: Duration) {
        self.ends.writer.turn();
        self.clock.advance(time);
        self.ends.writer.turn();
    }

    /// Stops cleanly.
    pub(super) fn stop(mut self) -> Clock {
        self.ask(|reply| Command::Stop { reply });
        self.clock
    }
}

/// How a first attempt ends.
fn ending(place: Place, mood: u8) -> Disposition {
    match place.slot.wrapping_mul(u32::from(mood)) % 5 {
        1 => Disposition::RetryAfter(Duration::from_millis(u64::from(mood) * 100)),
        2 => Disposition::Dead { cause: Cause::HttpStatus, status: 400 },
        _ => Disposition::Delivered,
    }
}

fn poll_once<T>(future: impl Future<Output = T>) -> Poll<T> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}
