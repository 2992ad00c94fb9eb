//! The latest attempts, in memory: one ring for the whole daemon, and of each connection the last few without the
//! response's excerpt, so that a busy connection cannot push out what is known of a quiet one.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::{Attempt, AttemptQuery, Recorded};

/// Bytes of the ring.
pub const RING_BYTES: usize = 4 << 20;
/// Summaries of each connection.
pub const SUMMARIES: usize = 8;
/// Connections that have summaries; beyond, the one that was quiet for longest loses its own.
const CONNECTIONS: usize = 16_384;

/// What an attempt takes in memory beside its excerpt and its connection's name.
const OVERHEAD: usize = 256;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Memory {
    ring: VecDeque<Recorded>,
    bytes: usize,
    summaries: HashMap<Arc<str>, VecDeque<Recorded>>,
}

impl Memory {
    /// Adds the newest attempt.
    pub(super) fn push(&mut self, recorded: Recorded) {
        self.summarise(&recorded);
        self.bytes += weight(&recorded);
        self.ring.push_back(recorded);
        while self.bytes > RING_BYTES {
            let Some(oldest) = self.ring.pop_front() else {
                break;
            };
            self.bytes -= weight(&oldest);
        }
    }

    fn summarise(&mut self, recorded: &Recorded) {
        let attempt = Attempt { excerpt: Bytes::new(), ..recorded.attempt.clone() };
        let summary = Recorded { number: recorded.number, attempt };
        if self.summaries.len() >= CONNECTIONS
            && !self.summaries.contains_key(&recorded.attempt.connection)
        {
            self.forget_quietest();
        }
        let name = Arc::clone(&recorded.attempt.connection);
        let of_connection = self.summaries.entry(name).or_default();
        of_connection.push_back(summary);
        if of_connection.len() > SUMMARIES {
            of_connection.pop_front();
        }
    }

    fn forget_quietest(&mut self) {
        let last = |summaries: &VecDeque<Recorded>| summaries.back().map(|last| last.number);
        let quietest = self.summaries.iter().min_by_key(|(_, summaries)| last(summaries));
        if let Some(name) = quietest.map(|(name, _)| Arc::clone(name)) {
            self.summaries.remove(&name);
        }
    }

    /// The newest attempts that a query wants: one more than its limit from the ring, and what the summaries have.
    pub(super) fn find(&self, query: &AttemptQuery) -> BTreeMap<u64, Recorded> {
        let summaries = self.summaries.values().flatten().filter(|one| query.wants(one));
        let mut found: BTreeMap<u64, Recorded> =
            summaries.map(|one| (one.number, one.clone())).collect();
        let ring = self.ring.iter().rev().filter(|one| query.wants(one));
        // With its excerpt: it replaces the summary.
        found.extend(ring.take(query.limit + 1).map(|one| (one.number, one.clone())));
        found
    }

    /// The number of the oldest attempt in the ring: from there on it has all.
    pub(super) fn complete_from(&self) -> Option<u64> {
        self.ring.front().map(|oldest| oldest.number)
    }

    /// Bytes of the ring.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

fn weight(recorded: &Recorded) -> usize {
    OVERHEAD + recorded.attempt.excerpt.len() + recorded.attempt.connection.len()
}
