//! What comes back from the egress, and what operators ask for.

use super::super::command::{Command, DeadPage, StoreStatus};
use super::super::feed::{Delivery, Lane, Settlement};
use super::super::marks::{DeadLetter, Mark, Place};
use super::super::schedule::Scheduled;
use super::super::segment_index::Entry;
use super::super::{ConnectionId, DeliveryId, DiskTrouble};
use super::Writer;
use crate::event::Disposition;

impl Writer {
    /// An attempt has ended: note what became of the delivery.
    pub(super) fn settled(&mut self, settlement: &Settlement) {
        let place = Place::from(settlement.id);
        let Some(stream) = self.state.stream(settlement.id.connection) else {
            return;
        };
        let lane = stream.handed.remove(&place).map_or(Lane::New, |scheduled| scheduled.lane);
        stream.take_back(lane);
        self.handed_out = self.handed_out.saturating_sub(1);
        let cancelled = stream.cancelled.remove(&place);
        self.touch(settlement.id.connection);
        if cancelled {
            return;
        }
        if lane == Lane::New && !self.state.leave(place) {
            // It was cancelled while it was in flight.
            return;
        }
        match settlement.disposition {
            Disposition::Delivered => {
                self.log.note(&Mark::Delivered(place));
                self.give_back(settlement.id.connection, settlement.size);
                self.end(place);
            }
            Disposition::RetryAfter(wait) => self.schedule(Scheduled {
                due: self.clock.age().after(wait),
                id: settlement.id,
                size: settlement.size,
                attempts: settlement.attempts,
                first_attempt: settlement.first_attempt,
                lane: if lane == Lane::Replay { Lane::Replay } else { Lane::Retry },
            }),
            Disposition::Dead { cause, status } => {
                let dead = DeadLetter {
                    id: settlement.id,
                    size: settlement.size,
                    cause,
                    status,
                    attempts: settlement.attempts,
                    died_ms: self.clock.wall_ms(),
                };
                self.log.note(&Mark::Dead(dead));
                self.give_back(settlement.id.connection, settlement.size);
                if let Some(stream) = self.state.stream(settlement.id.connection) {
                    stream.dead.insert((place.segment, place.slot), dead);
                }
            }
        }
    }

    /// A delivery came back untouched: it keeps its place.
    pub(super) fn released(&mut self, delivery: Delivery) {
        let connection = delivery.connection();
        let place = Place::from(delivery.id);
        let cancelled = delivery.lane == Lane::New
            && self.state.part(place).is_none_or(|(part, _)| part.left.contains(place.slot));
        let Some(stream) = self.state.stream(connection) else {
            return;
        };
        stream.take_back(delivery.lane);
        self.handed_out = self.handed_out.saturating_sub(1);
        match stream.handed.remove(&place) {
            Some(_) if stream.cancelled.remove(&place) => {}
            Some(scheduled) if scheduled.lane == Lane::Replay => {
                stream.replays.push_front(scheduled)
            }
            Some(scheduled) => stream.due.push_front(scheduled),
            None if delivery.lane == Lane::New && !cancelled => stream.returned.push_back(delivery),
            None => {}
        }
        self.touch(connection);
    }

    fn schedule(&mut self, scheduled: Scheduled) {
        self.log.note(&Mark::Scheduled(scheduled));
        self.state.schedule.insert(scheduled);
        if let Some(stream) = self.state.stream(scheduled.id.connection) {
            stream.counters.scheduled.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    fn give_back(&mut self, connection: ConnectionId, size: u32) {
        if let Some(stream) = self.state.stream(connection) {
            stream.counters.give_back(u64::from(size));
        }
    }

    /// Nothing of a delivery needs its record any more.
    pub(super) fn end(&mut self, place: Place) {
        self.state.end(place);
        let open = [&self.active, &self.cold]
            .into_iter()
            .flatten()
            .any(|open| open.number == place.segment);
        let drained =
            self.state.segments.get(&place.segment).is_some_and(|segment| segment.live == 0);
        if open {
            return;
        }
        if drained {
            self.drained.push(place.segment);
        } else {
            self.look_for_sparse_later();
        }
    }

    /// Runs what operators and the control loop ask for.
    pub(super) fn run_commands(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            self.run_command(command);
        }
    }

    fn run_command(&mut self, command: Command) {
        // An asker that went away does not want its answer.
        match command {
            Command::Register { name, reply } => {
                let (id, new) = self.state.register(&name);
                if new {
                    self.log.note(&Mark::Name(id, name));
                }
                if let Some(stream) = self.state.stream(id) {
                    let _ = reply.send((id, std::sync::Arc::clone(&stream.counters)));
                }
            }
            Command::Attach { connection, feed } => {
                if let Some(stream) = self.state.stream(connection) {
                    stream.feed = Some(feed);
                }
                self.touch(connection);
            }
            Command::Detach { connection } => {
                if let Some(stream) = self.state.stream(connection) {
                    stream.feed = None;
                }
            }
            Command::Discard { connection, reply } => {
                let answer = match self.discard(connection) {
                    Some(cancelled) => (cancelled, self.synced()),
                    None => (0, Err(DiskTrouble)),
                };
                let _ = reply.send(answer);
            }
            Command::Dead { connection, after, limit, reply } => {
                let _ = reply.send(self.dead_page(connection, after, limit));
            }
            Command::Replay { letters, reply } => {
                let replayed = letters.into_iter().filter(|id| self.replay(*id)).count();
                let synced = if defect!(ReplayNotSynced) { Ok(()) } else { self.synced() };
                let _ = reply.send((replayed, synced));
            }
            Command::Status { reply } => {
                let _ = reply.send(self.status());
            }
            Command::Oldest { reply } => {
                let _ = reply.send(self.oldest());
            }
            Command::DeadAt { connection, unix_ms, reply } => {
                let _ = reply.send(self.dead_at(connection, unix_ms));
            }
            Command::LiveAt { connection, unix_ms, reply } => {
                let _ = reply.send(self.live_at(connection, unix_ms));
            }
            Command::EventsAt { unix_ms, reply } => {
                let _ = reply.send(self.events_at(unix_ms));
            }
            Command::Standings { ids, reply } => {
                let _ = reply.send(ids.into_iter().map(|id| self.standing(id)).collect());
            }
            Command::ReplayOver { delivery, reply } => {
                let replayed = self.replay_over(delivery);
                let _ = reply.send((replayed, self.synced()));
            }
            Command::SetMaxBytes(bytes) => {
                self.options.max_bytes = bytes;
                self.publish_sizes();
            }
            Command::SetKeep(keep) => self.options.keep = keep,
            Command::Stop { reply } => {
                self.stop();
                let _ = reply.send(());
            }
        }
    }

    fn synced(&mut self) -> Result<(), DiskTrouble> {
        if self.sync_marks() { Ok(()) } else { Err(DiskTrouble) }
    }

    fn dead_page(
        &mut self,
        connection: ConnectionId,
        after: Option<DeliveryId>,
        limit: usize,
    ) -> DeadPage {
        let Some(stream) = self.state.stream(connection) else {
            return DeadPage::default();
        };
        let from = match after {
            Some(id) => std::ops::Bound::Excluded((id.segment, id.slot)),
            None => std::ops::Bound::Unbounded,
        };
        let mut page = stream.dead.range((from, std::ops::Bound::Unbounded)).map(|(_, dead)| *dead);
        let letters: Vec<_> = page.by_ref().take(limit).collect();
        DeadPage { more: page.next().is_some(), letters, total: stream.dead.len() }
    }

    /// Sends a dead letter on a new run. Whether it was one.
    fn replay(&mut self, id: DeliveryId) -> bool {
        let Some(stream) = self.state.stream(id.connection) else {
            return false;
        };
        let Some(dead) = stream.dead.remove(&(id.segment, id.slot)) else {
            return false;
        };
        self.queue_replay(dead.id, dead.size);
        true
    }

    /// Cancels all deliveries of a connection that are not over. Those in flight end as they may; what becomes of them is
    /// not noted any more. Returns how many; `None` when an index cannot be read, and then nothing is cancelled.
    fn discard(&mut self, connection: ConnectionId) -> Option<u64> {
        let last = self.state.segments.keys().next_back().copied().unwrap_or(0);
        let entries = match self.entries_of(connection) {
            Ok(entries) => entries,
            Err(error) => {
                self.shared.metrics.errors.increment(1);
                tracing::error!(%error, "Could not read a segment's index; nothing was discarded.");
                return None;
            }
        };
        let mut ended = Vec::new();
        for (number, entries) in entries {
            let Some(segment) = self.state.segments.get_mut(&number) else {
                continue;
            };
            let Some(part) = segment.parts.get_mut(&connection) else {
                continue;
            };
            for (slot, entry) in (0..part.slots).zip(entries) {
                if part.left.insert(slot) {
                    ended.push((Place { segment: number, connection, slot }, entry.size));
                }
            }
        }
        let scheduled =
            self.state.schedule.remove_where(|scheduled| scheduled.id.connection == connection);
        let stream = self.state.stream(connection)?;
        stream.counters.scheduled.store(0, std::sync::atomic::Ordering::Relaxed);
        stream.waiting = 0;
        stream.returned.clear();
        let waiting = stream.due.drain(..).chain(stream.replays.drain(..));
        let in_flight: Vec<_> = stream.handed.values().copied().collect();
        let new_in_flight =
            in_flight.into_iter().filter(|s| stream.cancelled.insert(Place::from(s.id)));
        let all = scheduled.into_iter().chain(waiting).chain(new_in_flight);
        ended.extend(all.map(|scheduled| (Place::from(scheduled.id), scheduled.size)));
        let slots = self
            .state
            .part(Place { segment: last, connection, slot: 0 })
            .map_or(0, |(part, _)| part.slots);
        if !defect!(DiscardNotMarked) {
            self.log.note(&Mark::Discarded(Place { segment: last, connection, slot: slots }));
        }
        for (place, size) in &ended {
            self.give_back(connection, *size);
            self.end(*place);
        }
        self.touch(connection);
        Some(ended.len() as u64)
    }

    /// All entries of a connection, by segment.
    fn entries_of(&self, connection: ConnectionId) -> std::io::Result<Vec<(u32, Vec<Entry>)>> {
        let parts = self.state.segments.iter().filter_map(|(number, segment)| {
            let slots = segment.parts.get(&connection)?.slots;
            Some((number, segment, slots))
        });
        parts
            .map(|(number, segment, slots)| Ok((*number, segment.entries(connection, 0, slots)?)))
            .collect()
    }

    fn status(&self) -> StoreStatus {
        StoreStatus {
            bytes: self.bytes_on_disk(),
            kept_bytes: self.kept.bytes(),
            attempts_bytes: self.shared.attempts_bytes.load(std::sync::atomic::Ordering::Relaxed),
            max_bytes: self.options.max_bytes,
            segments: self.state.segments.len(),
            accepting: self.trouble.is_none(),
            queues: self
                .state
                .streams
                .iter()
                .map(|s| (s.name.clone(), std::sync::Arc::clone(&s.counters)))
                .collect(),
        }
    }

    /// Dead letters of a connection whose event may have been accepted at this time, by their segments' times.
    fn dead_at(&self, connection: ConnectionId, unix_ms: u64) -> Vec<DeadLetter> {
        let Some(stream) = self.state.streams.get(connection.0 as usize) else {
            return Vec::new();
        };
        let holds = |number: &u32| {
            let times = self.state.segments.get(number).and_then(|segment| segment.times);
            times.is_some_and(|(first, last)| (first..=last).contains(&unix_ms))
        };
        stream
            .dead
            .iter()
            .filter(|((segment, _), _)| holds(segment))
            .map(|(_, dead)| *dead)
            .collect()
    }

    /// Deliveries of a connection that are not over and whose event may have been accepted at this time.
    fn live_at(&self, connection: ConnectionId, unix_ms: u64) -> Vec<(DeliveryId, u32)> {
        let Some(stream) = self.state.streams.get(connection.0 as usize) else {
            return Vec::new();
        };
        let mut live = Vec::new();
        for (number, segment) in &self.state.segments {
            if !segment.times.is_some_and(|(first, last)| (first..=last).contains(&unix_ms)) {
                continue;
            }
            let queued = stream.due.iter().chain(&stream.replays).chain(stream.handed.values());
            let later = self
                .state
                .schedule
                .iter()
                .filter(|scheduled| scheduled.id.connection == connection);
            let later = later.chain(queued).filter(|scheduled| scheduled.id.segment == *number);
            live.extend(later.map(|scheduled| (scheduled.id, scheduled.size)));
            let Some(part) = segment.parts.get(&connection) else {
                continue;
            };
            let entries = segment.entries(connection, 0, part.slots).unwrap_or_default();
            let waiting = (0..)
                .zip(entries)
                .filter(|(slot, entry)| entry.size > 0 && !part.left.contains(*slot));
            live.extend(waiting.map(|(slot, entry)| {
                let id = DeliveryId { connection, segment: *number, slot, offset: entry.offset };
                (id, entry.size)
            }));
        }
        live
    }

    /// Of each connection, the delivery whose event was accepted first, of those that are not over, and its record's bytes.
    fn oldest(&mut self) -> Vec<(DeliveryId, u32)> {
        let mut oldest: Vec<Option<(DeliveryId, u32)>> = Vec::new();
        for stream in &self.state.streams {
            let later = stream.due.iter().chain(&stream.replays).chain(stream.handed.values());
            let later = later.map(|scheduled| (scheduled.id, scheduled.size));
            oldest
                .push(self.first_waiting(stream.id).into_iter().chain(later).min_by_key(age_order));
        }
        for scheduled in self.state.schedule.iter() {
            if let Some(place) = oldest.get_mut(scheduled.id.connection.0 as usize) {
                let candidate = (scheduled.id, scheduled.size);
                *place = (*place).into_iter().chain([candidate]).min_by_key(age_order);
            }
        }
        oldest.into_iter().flatten().collect()
    }

    fn first_waiting(&self, connection: ConnectionId) -> Option<(DeliveryId, u32)> {
        self.state.segments.iter().find_map(|(number, segment)| {
            let part = segment.parts.get(&connection)?;
            let slot = part.left.first_absent(0, part.slots)?;
            let entry = *segment.entries(connection, slot, 1).ok()?.first()?;
            Some((
                DeliveryId { connection, segment: *number, slot, offset: entry.offset },
                entry.size,
            ))
        })
    }
}

/// Log order is the order of acceptance.
fn age_order((id, _): &(DeliveryId, u32)) -> (u32, u32) {
    (id.segment, id.offset)
}
