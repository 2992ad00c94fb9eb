//! One connection's deliveries that are due: three lanes that take turns.
//!
//! While new ones wait, retries get every fourth turn and replays every fourth, so a flood of either never starves new
//! events; while none wait, nothing is held back. Per lane, deliveries whose payload was loaded go first. Memory is
//! bounded by the store's window.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::Instant;

use crate::event::Event;
use crate::store::DeliveryId;
use crate::store::feed::{Delivery, Lane};

/// One delivery that waits.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) delivery: Delivery,
    /// When it came.
    pub(super) since: Instant,
    /// It was counted as one that waited too long for a worker.
    pub(super) counted: bool,
}

/// A delivery that could start now.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) event: Arc<Event>,
    pub(super) size: u64,
    /// Its bytes are accounted for already.
    pub(super) paid: bool,
    lane: usize,
}

/// The lanes.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    waiting: [VecDeque<Entry>; 3],
    loaded: [VecDeque<(Entry, Arc<Event>)>; 3],
    turn: usize,
}

const NEW: usize = Lane::New as usize;
const RETRY: usize = Lane::Retry as usize;
const REPLAY: usize = Lane::Replay as usize;

/// Who goes first in each turn, and who if it has nothing.
const TURNS: [[usize; 3]; 4] =
    [[NEW, RETRY, REPLAY], [RETRY, NEW, REPLAY], [NEW, RETRY, REPLAY], [REPLAY, NEW, RETRY]];

impl Lanes {
    pub(super) fn push(&mut self, delivery: Delivery, since: Instant) {
        let lane = delivery.lane as usize;
        let entry = Entry { delivery, since, counted: false };
        if let Some(waiting) = self.waiting.get_mut(lane) {
            waiting.push_back(entry);
        }
    }

    /// A payload has come; its bytes are accounted for.
    pub(super) fn push_loaded(&mut self, delivery: Delivery, event: Arc<Event>, since: Instant) {
        let lane = delivery.lane as usize;
        let entry = Entry { delivery, since, counted: false };
        if let Some(loaded) = self.loaded.get_mut(lane) {
            loaded.push_back((entry, event));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.iter().map(VecDeque::len).sum::<usize>() + self.loaded_len()
    }

    /// Whether a delivery waits here.
    pub(super) fn holds(&self, id: DeliveryId) -> bool {
        let loaded = self.loaded.iter().flatten().map(|(entry, _)| entry);
        self.waiting.iter().flatten().chain(loaded).any(|entry| entry.delivery.id == id)
    }

    pub(super) fn loaded_len(&self) -> usize {
        self.loaded.iter().map(VecDeque::len).sum()
    }

    /// The one whose turn it is among those whose payload is in memory.
    pub(super) fn peek(&self) -> Option<Candidate> {
        self.order().iter().find_map(|lane| self.peek_lane(*lane))
    }

    /// The one whose turn it is among those whose bytes are accounted for: sending it is what gives bytes back.
    pub(super) fn peek_loaded(&self) -> Option<Candidate> {
        self.order().iter().find_map(|lane| self.peek_loaded_lane(*lane))
    }

    fn peek_loaded_lane(&self, lane: usize) -> Option<Candidate> {
        let (entry, event) = self.loaded.get(lane)?.front()?;
        Some(Candidate {
            event: Arc::clone(event),
            size: u64::from(entry.delivery.size),
            paid: true,
            lane,
        })
    }

    fn peek_lane(&self, lane: usize) -> Option<Candidate> {
        if let Some(loaded) = self.peek_loaded_lane(lane) {
            return Some(loaded);
        }
        let entry = self.waiting.get(lane)?.front()?;
        Some(Candidate {
            event: entry.delivery.hot.upgrade()?,
            size: u64::from(entry.delivery.size),
            paid: false,
            lane,
        })
    }

    /// Takes what [`Lanes::peek`] has just shown.
    pub(super) fn pop(&mut self, candidate: &Candidate) -> Option<Entry> {
        self.turn = (self.turn + 1) % TURNS.len();
        if candidate.paid {
            let (entry, _) = self.loaded.get_mut(candidate.lane)?.pop_front()?;
            return Some(entry);
        }
        self.waiting.get_mut(candidate.lane)?.pop_front()
    }

    /// Takes the next delivery whose payload must be loaded, if `fits` says yes to its size.
    pub(super) fn pop_cold(&mut self, fits: impl Fn(u64) -> bool) -> Option<Entry> {
        let is_cold = |lane: &&usize| {
            let front = self.waiting.get(**lane).and_then(VecDeque::front);
            front.is_some_and(|entry| {
                entry.delivery.hot.strong_count() == 0 && fits(u64::from(entry.delivery.size))
            })
        };
        let lane = *self.order().iter().find(is_cold)?;
        self.turn = (self.turn + 1) % TURNS.len();
        self.waiting.get_mut(lane)?.pop_front()
    }

    /// Forgets all loaded payloads; their deliveries wait at the head of their lanes again. Returns the bytes.
    pub(super) fn unload(&mut self) -> u64 {
        let mut bytes = 0;
        for (loaded, waiting) in self.loaded.iter_mut().zip(&mut self.waiting) {
            while let Some((entry, _)) = loaded.pop_back() {
                bytes += u64::from(entry.delivery.size);
                waiting.push_front(entry);
            }
        }
        bytes
    }

    /// Takes everything out.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Delivery> + '_ {
        self.waiting.iter_mut().flat_map(|lane| lane.drain(..)).map(|entry| entry.delivery)
    }

    /// All that wait, to look at how long they have.
    pub(super) fn entries_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        let loaded = self.loaded.iter_mut().flatten().map(|(entry, _)| entry);
        self.waiting.iter_mut().flatten().chain(loaded)
    }

    fn order(&self) -> &'static [usize; 3] {
        TURNS.get(self.turn).unwrap_or(&[NEW, RETRY, REPLAY])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::testing::{delivery, event};

    fn run(new: u32, retry: u32, replay: u32, turns: usize) -> String {
        let event = event(b"{}");
        let mut lanes = Lanes::default();
        let waiting = [(Lane::New, new), (Lane::Retry, retry), (Lane::Replay, replay)];
        for (lane, count) in waiting {
            for slot in 0..count {
                lanes.push(delivery(1, slot, lane, &event), Instant::now());
            }
        }
        let mut order = String::new();
        for _ in 0..turns {
            let Some(candidate) = lanes.peek() else { break };
            order.push(match lanes.pop(&candidate).unwrap().delivery.lane {
                Lane::New => 'n',
                Lane::Retry => 'r',
                Lane::Replay => 'p',
            });
        }
        order
    }

    #[test]
    fn lanes_take_turns_and_leave_none_unused() {
        for (waiting, turns, expected) in [
            ((9, 9, 9), 8, "nrnpnrnp"),
            ((9, 0, 9), 8, "nnnpnnnp"),
            ((2, 9, 0), 6, "nrnrrr"),
            ((0, 1, 3), 9, "rppp"),
        ] {
            let (new, retry, replay) = waiting;
            assert_eq!(run(new, retry, replay, turns), expected, "{waiting:?}");
        }
    }

    #[test]
    fn a_loaded_one_is_found_behind_a_hot_one_of_the_lane_in_turn() {
        let (hot, read) = (event(b"hot"), event(b"read"));
        let mut lanes = Lanes::default();
        lanes.push(delivery(1, 0, Lane::New, &hot), Instant::now());
        assert!(lanes.peek_loaded().is_none());
        let retry = delivery(1, 1, Lane::Retry, &read);
        lanes.push_loaded(retry, Arc::clone(&read), Instant::now());
        assert!(!lanes.peek().unwrap().paid, "the new one's turn");
        let candidate = lanes.peek_loaded().unwrap();
        assert_eq!((candidate.paid, &candidate.event), (true, &read));
        assert_eq!(lanes.pop(&candidate).unwrap().delivery.lane, Lane::Retry);
    }

    #[test]
    fn cold_ones_are_loaded_and_do_not_block_other_lanes() {
        let hot = event(b"hot");
        let cold = event(b"cold");
        let mut lanes = Lanes::default();
        lanes.push(delivery(1, 0, Lane::New, &cold), Instant::now());
        lanes.push(delivery(1, 1, Lane::Retry, &hot), Instant::now());
        let kept = (*cold).clone();
        drop(cold);
        let candidate = lanes.peek().unwrap();
        assert_eq!(candidate.event, hot);
        assert!(lanes.pop_cold(|_| false).is_none());
        let entry = lanes.pop_cold(|_| true).unwrap();
        assert!(lanes.pop_cold(|_| true).is_none(), "the hot one is not cold");
        lanes.push_loaded(entry.delivery, Arc::new(kept), entry.since);
        assert_eq!((lanes.len(), lanes.loaded_len()), (2, 1));
        assert!(lanes.unload() > 0);
        assert_eq!((lanes.len(), lanes.loaded_len()), (2, 0));
        assert!(lanes.pop_cold(|_| true).is_some());
    }
}
