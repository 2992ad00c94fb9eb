//! The order of one connection (spec 2.4): which deliveries may start, and which stand behind others.
//!
//! Each key has a **line**: the deliveries of that key that are not over and that we know of, in order of acceptance. Only
//! the first of a line may start. It stays the first until it is delivered or dead, also while the store has it back and
//! waits for its retry; then the next one's turn comes. Deliveries without a key stand in no line.
//!
//! What comes from the store is **incoming** until its key is known, which takes its payload; a payload that is not in
//! memory is loaded for that, and dropped again if its delivery has to stand behind others. First attempts leave incoming
//! strictly in the order in which they came. Retries do not wait for them: one of them may be the first that all others
//! stand behind.
//!
//! The store shows all that waits for a retry before it hands out any first attempt ([`crate::store`]'s `order` says how),
//! so each line begins with what was tried before. When anything is given back untried, all is given back and asked for
//! anew: so nothing here has to outlive a pause, a reload that changes the key, or the process.
//!
//! **Bounds:** at most [`PARKED_EVENTS`] stand behind others and at most [`LINES_MAX`] lines are begun. Past either,
//! first attempts are taken one at a time, in order: each waits until it may start or stand. They wait in the store's
//! window; behind that, in its files.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;

use super::lanes::Lanes;
use crate::connection::ordering::{By, LineKey};
use crate::event::{Event, EventId};
use crate::store::feed::{Delivery, Lane};
use crate::store::order::Parked;
use crate::store::{DeliveryId, PARKED_EVENTS, WINDOW_NEW};

/// Lines at one time; without a retry in it, a line lasts no longer than an attempt.
const LINES_MAX: usize = 10_000;

/// Delayed events that are remembered until they are over; what is past it stands in line with its retry.
const FREE_MAX: usize = 10_000;

/// A smaller number of parked deliveries is told to the store when it has become less by so many, or none.
const REPORT_LESS: usize = 64;

/// The order of one connection.
#[derive(Debug)]
pub(super) struct Order {
    by: By,
    /// The number of the store's answer that is waited for, or came last.
    asked: u64,
    /// The answer has come: what comes is in order.
    fresh: bool,
    /// Retries, and what the store shows.
    later: VecDeque<Incoming>,
    /// First attempts.
    new: VecDeque<Incoming>,
    /// Of `later`, those that the store shows: no first attempt starts before each of them has its place.
    shown: usize,
    lines: BTreeMap<LineKey, Line>,
    /// The lines of the deliveries that were let go: they start as soon as the gates let them, or are under way.
    started: BTreeMap<DeliveryId, LineKey>,
    /// How many stand behind others.
    parked: Parked,
    /// What the store was told of that.
    reported: Parked,
    /// Events that came with a delay and wait for a retry: they stand in no line.
    free: BTreeSet<EventId>,
    /// A delivery was given back on its own: all must be asked for anew.
    lost: bool,
    /// First attempts that had no key, not counted yet.
    unkeyed: u64,
    limits: Limits,
}

/// How much is known at one time.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Lines that are begun.
    lines: usize,
    /// Deliveries that stand behind others.
    parked: usize,
}

/// The deliveries of one key, in order of acceptance. Never empty.
type Line = VecDeque<Member>;

/// One that stands in a line.
#[derive(Debug)]
struct Member {
    /// Where it stood in the log when it came.
    rank: DeliveryId,
    /// Its event; `None` for one that was never seen, in a connection's only line.
    event: Option<EventId>,
    /// The delivery, if it is here and waits. Else it has started, or the store has it.
    waiting: Option<Delivery>,
}

/// One that the store sent.
#[derive(Debug)]
struct Incoming {
    delivery: Delivery,
    shown: bool,
    known: Known,
}

/// Whether it is known which line a delivery stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    No,
    /// Its payload was asked for.
    Asked,
    /// Its line, and its event if it was seen; `None`: it has no key.
    Yes(Option<(LineKey, Option<EventId>)>),
}

/// How a delivery that was let go has come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Delivered or dead.
    Over,
    /// It comes again when it is due.
    Retry(EventId),
    /// Given back untried.
    Released,
}

/// A payload that was loaded, and is kept if its delivery may start.
#[derive(Debug)]
struct Payload {
    id: DeliveryId,
    event: Arc<Event>,
    kept: bool,
}

impl Order {
    /// Waits for the store's answer with this number.
    pub(super) fn new(by: By, asked: u64) -> Order {
        Order {
            by,
            asked,
            fresh: false,
            later: VecDeque::new(),
            new: VecDeque::new(),
            shown: 0,
            lines: BTreeMap::new(),
            started: BTreeMap::new(),
            parked: Parked::default(),
            reported: Parked::default(),
            free: BTreeSet::new(),
            lost: false,
            unkeyed: 0,
            limits: Limits { lines: LINES_MAX, parked: PARKED_EVENTS },
        }
    }

    /// Forgets all of it, and waits for the store's answer with this number. Returns what is to be given back.
    pub(super) fn restart(&mut self, asked: u64) -> Vec<Delivery> {
        let mut waiting = Vec::new();
        for incoming in self.later.drain(..).chain(self.new.drain(..)) {
            // What is being loaded is given back when it comes.
            if incoming.known != Known::Asked {
                waiting.push(incoming.delivery);
            }
        }
        let members = std::mem::take(&mut self.lines).into_values().flatten();
        waiting.extend(members.filter_map(|member| member.waiting));
        let free = std::mem::take(&mut self.free);
        *self = Order { limits: self.limits, free, ..Order::new(self.by.clone(), asked) };
        waiting
    }

    /// Another order is in force; all is to be asked for anew.
    pub(super) fn set_by(&mut self, by: By) {
        self.by = by;
    }

    /// The store has answered.
    pub(super) fn answered(&mut self, number: u64) {
        self.fresh |= number == self.asked;
    }

    /// Whether the store's answer has come.
    pub(super) fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// One has come. Gives it back if it is not wanted now.
    pub(super) fn push(&mut self, delivery: Delivery, shown: bool) -> Option<Delivery> {
        if !self.fresh {
            return Some(delivery);
        }
        let is_new = delivery.lane == Lane::New;
        let known = match (self.by.only_line(), delivery.hot.upgrade()) {
            (Some(line), None) if is_new => Known::Yes(Some((line, None))),
            (_, Some(event)) => self.know(&event, delivery.delayed),
            (_, None) => Known::No,
        };
        self.shown += usize::from(shown);
        let incoming = Incoming { delivery, shown, known };
        if is_new {
            self.new.push_back(incoming)
        } else {
            self.later.push_back(incoming)
        }
        None
    }

    fn know(&self, event: &Event, delayed: bool) -> Known {
        let ordered = !delayed && !self.free.contains(&event.id);
        let line = ordered.then(|| self.by.line(event)).flatten();
        Known::Yes(line.map(|line| (line, Some(event.id))))
    }

    /// An attempt at an event that came with a delay has ended, and it is tried again or not.
    pub(super) fn note_delayed(&mut self, event: EventId, again: bool) {
        if !again {
            self.free.remove(&event);
        } else if self.free.len() < FREE_MAX {
            self.free.insert(event);
        }
    }

    /// The next whose payload must be loaded to know its key, if `fits` says yes to its size.
    pub(super) fn next_cold(&mut self, fits: impl Fn(u64) -> bool) -> Option<Delivery> {
        // Behind one that has to wait, knowing is of no use yet.
        let waits = self.new.front().is_some_and(|first| matches!(first.known, Known::Yes(_)));
        let new = self.new.iter_mut().filter(|_| !waits);
        let mut unknown = self.later.iter_mut().chain(new);
        let next = unknown.find(|incoming| incoming.known == Known::No)?;
        if !fits(u64::from(next.delivery.size)) {
            return None;
        }
        next.known = Known::Asked;
        Some(next.delivery.clone())
    }

    /// A payload has come. Whether it is kept; what is to be given back goes to `back`.
    pub(super) fn loaded(
        &mut self,
        delivery: Delivery,
        event: Arc<Event>,
        lanes: &mut Lanes,
        (now, back): (Instant, &mut Vec<Delivery>),
    ) -> bool {
        if !self.fresh && delivery.lane != Lane::Replay {
            back.push(delivery);
            return false;
        }
        let known = self.know(&event, delivery.delayed);
        let Some(incoming) = self.asked(delivery.id) else {
            lanes.push_loaded(delivery, event, now);
            return true;
        };
        incoming.known = known;
        incoming.delivery.delayed = delivery.delayed;
        let mut payload = Payload { id: delivery.id, event, kept: false };
        self.place(lanes, now, Some(&mut payload), back);
        payload.kept
    }

    /// A payload cannot be read: its delivery is over. Which line a retry was the first of can only be learnt anew.
    pub(super) fn unreadable(&mut self, id: DeliveryId) {
        let Some(incoming) = self.asked(id) else {
            return;
        };
        let (shown, lane) = (incoming.shown, incoming.delivery.lane);
        self.shown -= usize::from(shown);
        self.lost |= lane == Lane::Retry && !shown;
        self.later.retain(|incoming| incoming.delivery.id != id);
        self.new.retain(|incoming| incoming.delivery.id != id);
    }

    fn asked(&mut self, id: DeliveryId) -> Option<&mut Incoming> {
        let mut incoming = self.later.iter_mut().chain(&mut self.new);
        incoming.find(|incoming| incoming.delivery.id == id && incoming.known == Known::Asked)
    }

    /// Lets go what may start, and puts the others in their lines. What is to be given back goes to `back`.
    pub(super) fn advance(&mut self, lanes: &mut Lanes, now: Instant, back: &mut Vec<Delivery>) {
        self.place(lanes, now, None, back);
    }

    fn place(
        &mut self,
        lanes: &mut Lanes,
        now: Instant,
        mut payload: Option<&mut Payload>,
        back: &mut Vec<Delivery>,
    ) {
        while let Some(Incoming { delivery, shown, known: Known::Yes(known) }) =
            pop_known(&mut self.later)
        {
            if shown {
                self.shown -= 1;
                if let Some((line, event)) = known {
                    self.show(line, event, &delivery);
                }
                back.push(delivery);
            } else if let Some(delivery) = self.place_retry(delivery, known) {
                let_go(lanes, delivery, now, payload.as_deref_mut());
            }
        }
        while self.shown == 0
            && let Some(Incoming { delivery, known: Known::Yes(known), .. }) = self.new.front()
            && self.has_place(*known)
        {
            let (delivery, known) = (delivery.clone(), *known);
            self.new.pop_front();
            self.unkeyed += u64::from(known.is_none());
            if let Some(delivery) = self.place_new(delivery, known) {
                let_go(lanes, delivery, now, payload.as_deref_mut());
            }
        }
    }

    /// One that waits for a retry has its place in its line, and starts when it comes again.
    fn show(&mut self, key: LineKey, event: Option<EventId>, delivery: &Delivery) {
        let known = self.lines.contains_key(&key);
        if known || self.lines.len() < self.limits.lines + self.limits.parked {
            let line = self.lines.entry(key).or_default();
            let place = line.partition_point(|member| member.rank < delivery.id);
            line.insert(place, Member { rank: delivery.id, event, waiting: None });
        }
    }

    /// Returns the delivery if it may start.
    fn place_retry(
        &mut self,
        delivery: Delivery,
        known: Option<(LineKey, Option<EventId>)>,
    ) -> Option<Delivery> {
        let Some((key, event)) = known else {
            return Some(delivery);
        };
        let rank = delivery.id;
        let line = self.lines.entry(key).or_default();
        let place = match line.iter().position(|member| member.event == event) {
            Some(place) => place,
            // It was never shown: there were too many. What has started stays the first.
            None => {
                let place = line.partition_point(|member| member.rank < rank);
                let place = place.max(usize::from(!line.is_empty()));
                line.insert(place, Member { rank, event, waiting: None });
                place
            }
        };
        if place == 0 {
            self.started.insert(rank, key);
            return Some(delivery);
        }
        if let Some(member) = line.get_mut(place) {
            member.waiting = Some(delivery);
            self.parked.retry += 1;
        }
        None
    }

    /// Whether a first attempt may start or stand now.
    fn has_place(&self, known: Option<(LineKey, Option<EventId>)>) -> bool {
        match known {
            None => true,
            Some((key, _)) if self.lines.contains_key(&key) => {
                self.parked.total() < self.limits.parked
            }
            Some(_) => self.lines.len() < self.limits.lines,
        }
    }

    /// Returns the delivery if it may start.
    fn place_new(
        &mut self,
        mut delivery: Delivery,
        known: Option<(LineKey, Option<EventId>)>,
    ) -> Option<Delivery> {
        let Some((key, event)) = known else {
            return Some(delivery);
        };
        let line = self.lines.entry(key).or_default();
        let mut member = Member { rank: delivery.id, event, waiting: None };
        if line.is_empty() {
            self.started.insert(delivery.id, key);
            line.push_back(member);
            return Some(delivery);
        }
        self.parked.new += 1;
        if self.parked.new > WINDOW_NEW {
            // Of many, ids alone: even a dead reference takes memory.
            delivery.hot = std::sync::Weak::new();
        }
        // Nearly always the last: only what was tried before there was an order may have been accepted after it.
        let place = line.partition_point(|other| other.rank < member.rank).max(1);
        member.waiting = Some(delivery);
        line.insert(place, member);
        None
    }

    /// Whether one that was let go is the first of a line.
    pub(super) fn stands_first(&self, id: DeliveryId) -> bool {
        self.started.contains_key(&id)
    }

    /// One that was let go has come back. Whether it stood in a line.
    pub(super) fn ended(
        &mut self,
        id: DeliveryId,
        end: End,
        lanes: &mut Lanes,
        now: Instant,
    ) -> bool {
        let Some(key) = self.started.remove(&id) else {
            // It has no key, or was let go before all was asked for anew.
            return false;
        };
        let Some(line) = self.lines.get_mut(&key) else {
            return false;
        };
        match end {
            End::Released => self.lost = true,
            End::Retry(event) => {
                if let Some(first) = line.front_mut() {
                    first.event = Some(event);
                }
            }
            End::Over => {
                line.pop_front();
                match line.front_mut() {
                    None => drop(self.lines.remove(&key)),
                    // `None`: the store brings it when it is due.
                    Some(next) => {
                        if let Some(delivery) = next.waiting.take() {
                            *self.parked.of(delivery.lane) -= 1;
                            self.started.insert(delivery.id, key);
                            lanes.push(delivery, now);
                        }
                    }
                }
            }
        }
        true
    }

    /// Whether there is anything that is not in the lanes and that the gates let pass may bring forward.
    pub(super) fn has_work(&self) -> bool {
        self.lost || !self.later.is_empty() || !self.new.is_empty()
    }

    /// Deliveries that are here and may not start.
    pub(super) fn waiting(&self) -> usize {
        let asked = |incoming: &&Incoming| incoming.known != Known::Asked;
        let incoming = self.later.iter().chain(&self.new).filter(asked).count();
        incoming + self.parked.total()
    }

    /// Whether a delivery is here and may not start; then the event that is first in its line, if that is known.
    pub(super) fn behind(&self, id: DeliveryId) -> Option<Option<EventId>> {
        if self.later.iter().chain(&self.new).any(|incoming| incoming.delivery.id == id) {
            return Some(None);
        }
        let is_it = |member: &Member| member.waiting.as_ref().is_some_and(|one| one.id == id);
        let line = self.lines.values().find(|line| line.iter().any(is_it))?;
        Some(line.front().and_then(|first| first.event))
    }

    /// Whether all must be asked for anew.
    pub(super) fn is_lost(&self) -> bool {
        self.lost
    }

    /// First attempts without a key since the last call.
    pub(super) fn take_unkeyed(&mut self) -> u64 {
        std::mem::take(&mut self.unkeyed)
    }

    /// How many stand behind others, if the store has to know.
    pub(super) fn report(&mut self) -> Option<Parked> {
        let (now, told) = (self.parked, self.reported);
        let more = now.new > told.new || now.retry > told.retry;
        let (all, all_told) = (now.total(), told.total());
        let less = all + REPORT_LESS <= all_told || (all == 0 && all_told > 0);
        if !more && !less {
            return None;
        }
        self.reported = now;
        Some(now)
    }
}

/// The first, if its key is known.
fn pop_known(incoming: &mut VecDeque<Incoming>) -> Option<Incoming> {
    incoming.pop_front_if(|first| matches!(first.known, Known::Yes(_)))
}

/// Where the gates take it from; with its payload, if it has just been loaded.
fn let_go(lanes: &mut Lanes, delivery: Delivery, now: Instant, payload: Option<&mut Payload>) {
    match payload {
        Some(payload) if payload.id == delivery.id => {
            payload.kept = true;
            lanes.push_loaded(delivery, Arc::clone(&payload.event), now);
        }
        _ => lanes.push(delivery, now),
    }
}

#[cfg(test)]
mod tests;
