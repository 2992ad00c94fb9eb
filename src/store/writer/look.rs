//! What the writer knows of single events, for those who look one up.

use super::super::dead_letter::DeadLetter;
use super::super::feed::Lane;
use super::super::lookup::{FoundDelivery, Standing, Whereabouts};
use super::super::marks::Place;
use super::super::schedule::{self, LANES, Scheduled};
use super::super::segment_index::Entry;
use super::super::{ConnectionId, DeliveryId};
use super::Writer;
use crate::clock::Age;

/// Events that are looked for at a start, for each connection.
const RECENT_MAX: usize = 200_000;

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

    /// Where the records of a connection's latest events are, by segment, newest first, what is over included: at most
    /// [`RECENT_MAX`] of them.
    pub(super) fn recent(&self, connection: ConnectionId) -> Vec<(u32, Vec<Entry>)> {
        let mut found = Vec::new();
        let mut left = RECENT_MAX;
        for (number, segment) in self.state.segments.iter().rev() {
            let Some(part) = segment.parts.get(&connection).filter(|_| left > 0) else {
                continue;
            };
            // An index that cannot be read gives nothing; nothing depends on it but what is remembered.
            let entries = segment.entries(connection, 0, part.slots).unwrap_or_default();
            let mut entries: Vec<Entry> =
                entries.into_iter().filter(|entry| entry.size > 0).collect();
            entries.sort_unstable_by_key(|entry| std::cmp::Reverse(entry.offset));
            entries.truncate(left);
            left -= entries.len();
            found.push((*number, entries));
        }
        found
    }

    /// The connection's name, and how its delivery stands.
    pub(super) fn standing(&self, id: DeliveryId) -> (String, Standing) {
        let Some(stream) = self.state.streams.get(id.connection.0 as usize) else {
            return (String::new(), Standing::Over);
        };
        let segment = self.state.segments.get(&id.segment);
        let part = segment.and_then(|segment| segment.parts.get(&id.connection));
        let standing = if part.is_none_or(|part| part.over.contains(id.slot)) {
            Standing::Over
        } else if self.is_dead(id) {
            Standing::Dead
        } else {
            Standing::Live
        };
        (stream.name.clone(), standing)
    }

    fn is_dead(&self, id: DeliveryId) -> bool {
        self.dead_letter(id).is_some()
    }

    fn dead_letter(&self, id: DeliveryId) -> Option<DeadLetter> {
        let mut letter = None;
        let looked = self.state.dead.look(Some(id.connection.0), Some(id.segment), |dead, _| {
            if dead.id == id {
                letter = Some(*dead);
            }
        });
        self.readable(looked);
        letter
    }

    /// Where a delivery is.
    pub(super) fn whereabouts(&self, id: DeliveryId) -> Whereabouts {
        if self.standing(id).1 == Standing::Over {
            return Whereabouts::Over;
        }
        match self.dead_letter(id) {
            Some(letter) => Whereabouts::Dead(letter),
            None => self.whereabouts_of_live(id, |writer| writer.scheduled(id)),
        }
    }

    /// Where one is that is neither over nor dead; `scheduled` looks for it on the schedule.
    pub(super) fn whereabouts_of_live(
        &self,
        id: DeliveryId,
        scheduled: impl FnOnce(&Writer) -> Option<Scheduled>,
    ) -> Whereabouts {
        let Some(stream) = self.state.streams.get(id.connection.0 as usize) else {
            return Whereabouts::Over;
        };
        let place = Place::from(id);
        if let Some(Scheduled { attempts, .. }) = stream.handed.get(&place) {
            return Whereabouts::HandedOut { attempts: *attempts };
        }
        if let Some(Scheduled { due, attempts, lane, .. }) = scheduled(self) {
            return Whereabouts::Scheduled { due, attempts, lane };
        }
        let came_back = stream.returned.iter().any(|delivery| Place::from(delivery.id) == place);
        if !came_back && (id.segment, id.slot) < stream.cursor {
            Whereabouts::HandedOut { attempts: 0 }
        } else {
            Whereabouts::Waiting
        }
    }

    /// A delivery as it stands on the schedule, if it does.
    pub(super) fn scheduled(&self, id: DeliveryId) -> Option<Scheduled> {
        let mut found = None;
        for lane in LANES {
            let queue = schedule::queue(id.connection, lane);
            let looked = self.state.schedule.look(Some(queue), Some(id.segment), |one, _| {
                if Place::from(one.id) == Place::from(id) {
                    found = Some(*one);
                }
            });
            self.readable(looked);
        }
        found
    }

    /// Sends a delivery that is over on a new run. Whether it was over and its record is there.
    pub(super) fn replay_over(&mut self, delivery: FoundDelivery) -> bool {
        let FoundDelivery { id, size, .. } = delivery;
        let there = self.is_there_still(&delivery);
        let place = Place::from(id);
        // One that was cancelled may still be out: what becomes of that attempt must not count for the replay.
        let stream = self.state.streams.get(id.connection.0 as usize);
        let out = stream.is_some_and(|stream| stream.handed.contains_key(&place));
        if out || !there || self.standing(id).1 != Standing::Over {
            return false;
        }
        self.state.revive(place);
        self.keep_no_longer(id.segment);
        self.queue_replay(id, size);
        true
    }

    /// Whether a delivery's record is where it was found.
    pub(super) fn is_there_still(&self, delivery: &FoundDelivery) -> bool {
        let FoundDelivery { id, size, .. } = *delivery;
        let entry =
            self.state.segments.get(&id.segment).and_then(|segment| {
                segment.entries(id.connection, id.slot, 1).ok()?.first().copied()
            });
        entry == Some(Entry { offset: id.offset, size })
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
        }
        self.schedule(scheduled);
        self.touch(id.connection);
    }
}
