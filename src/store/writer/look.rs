//! What the writer knows of single events, for those who look one up.

use super::super::DeliveryId;
use super::super::feed::Lane;
use super::super::lookup::{FoundDelivery, Standing};
use super::super::marks::{Mark, Place};
use super::super::schedule::Scheduled;
use super::super::segment_index::Entry;
use super::Writer;
use crate::clock::Age;

impl Writer {
    /// Where the records of events are that may have been accepted at this time, by segment, in order.
    pub(super) fn events_at(&self, unix_ms: u64) -> Vec<(u32, Vec<Entry>)> {
        let holds = |times: Option<(u64, u64)>| {
            times.is_some_and(|(first, last)| (first..=last).contains(&unix_ms))
        };
        let mut found = Vec::new();
        for (number, segment) in self.state.segments.iter().filter(|(_, one)| holds(one.times)) {
            let parts = segment.parts.iter();
            // An index that cannot be read gives nothing: the event is not found, and nothing else depends on it.
            let entries = parts.flat_map(|(connection, part)| {
                segment.entries(*connection, 0, part.slots).unwrap_or_default()
            });
            let mut entries: Vec<Entry> = entries.filter(|entry| entry.size > 0).collect();
            entries.sort_unstable_by_key(|entry| entry.offset);
            entries.dedup();
            found.push((*number, entries));
        }
        found
    }

    /// The connection's name, and how its delivery stands.
    pub(super) fn standing(&self, id: DeliveryId) -> (String, Standing) {
        let place = Place::from(id);
        let Some(stream) = self.state.streams.get(id.connection.0 as usize) else {
            return (String::new(), Standing::Over);
        };
        let is_it = |scheduled: &Scheduled| Place::from(scheduled.id) == place;
        let part = self
            .state
            .segments
            .get(&id.segment)
            .and_then(|segment| segment.parts.get(&id.connection));
        let waits = part.is_some_and(|part| !part.left.contains(id.slot));
        let standing = if stream.dead.contains_key(&(id.segment, id.slot)) {
            Standing::Dead
        } else if waits
            || stream.handed.contains_key(&place)
            || stream.due.iter().chain(&stream.replays).any(is_it)
            || self.state.schedule.iter().any(is_it)
        {
            Standing::Live
        } else {
            Standing::Over
        };
        (stream.name.clone(), standing)
    }

    /// Sends a delivery that is over on a new run. Whether it was over and its record is there.
    pub(super) fn replay_over(&mut self, delivery: FoundDelivery) -> bool {
        let FoundDelivery { id, size, .. } = delivery;
        let entry =
            self.state.segments.get(&id.segment).and_then(|segment| {
                segment.entries(id.connection, id.slot, 1).ok()?.first().copied()
            });
        if entry != Some(Entry { offset: id.offset, size }) || self.standing(id).1 != Standing::Over
        {
            return false;
        }
        if let Some(segment) = self.state.segments.get_mut(&id.segment) {
            segment.live += 1;
        }
        self.keep_no_longer(id.segment);
        self.queue_replay(id, size);
        true
    }

    /// Puts a delivery whose record is needed into the replay lane, for its first attempt of a new run.
    pub(super) fn queue_replay(&mut self, id: DeliveryId, size: u32) {
        let scheduled = Scheduled {
            due: Age(0),
            id,
            size,
            attempts: 0,
            first_attempt: Age(0),
            lane: Lane::Replay,
        };
        if let Some(stream) = self.state.stream(id.connection) {
            stream.counters.put_back(u64::from(size));
            stream.replays.push_back(scheduled);
        }
        self.log.note(&Mark::Scheduled(scheduled));
        self.touch(id.connection);
    }
}
