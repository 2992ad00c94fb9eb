//! What comes back from the egress, and what operators ask for.

use std::sync::atomic::Ordering;

use super::super::command::{Command, Renamed, StoreStatus};
use super::super::dead_letter::DeadLetter;
use super::super::feed::{Delivery, Lane, Settlement};
use super::super::marks::{Mark, Place};
use super::super::outcomes::Ended;
use super::super::schedule::{self, LANES, Scheduled};
use super::super::state::{NotOver, Segment};
use super::super::suspension::Suspension;
use super::super::{ConnectionId, DeliveryId, DiskTrouble};
use super::Writer;
use super::expire::LOOK_AGAIN;
use crate::event::Disposition;

impl Writer {
    /// An attempt has ended: note what became of the delivery.
    pub(super) fn settled(&mut self, settlement: &Settlement) {
        let place = Place::from(settlement.id);
        let Some(stream) = self.state.stream(settlement.id.connection) else {
            return;
        };
        let scheduled = stream.take_handed(place);
        let lane = scheduled.map_or(Lane::New, |scheduled| scheduled.lane);
        stream.take_back(lane);
        self.handed_out = self.handed_out.saturating_sub(1);
        let cancelled = stream.cancelled.remove(&place);
        self.touch(settlement.id.connection);
        if cancelled {
            return;
        }
        if scheduled.is_none() && !self.state.leave(place) {
            // It was cancelled while it was in flight.
            return;
        }
        match settlement.disposition {
            Disposition::Delivered => {
                self.log.note_delivered(place);
                self.watched.end(place, Ended::Delivered { attempts: settlement.attempts });
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
                    died: self.clock.age(),
                };
                self.log.note(&Mark::Dead(dead));
                let attempts = settlement.attempts;
                self.watched.end(place, Ended::Dead { cause, status, attempts });
                self.give_back(settlement.id.connection, settlement.size);
                self.keep_dead(dead);
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
        match stream.take_handed(place) {
            Some(_) if stream.cancelled.remove(&place) => {}
            // Its time is the earliest: it is the next again.
            Some(scheduled) => drop(self.state.schedule.insert(scheduled)),
            None if delivery.lane == Lane::New && !cancelled => stream.returned.push_back(delivery),
            None => {}
        }
        self.touch(connection);
    }

    pub(super) fn schedule(&mut self, scheduled: Scheduled) {
        self.log.note(&Mark::Scheduled(scheduled));
        self.state.schedule.insert(scheduled);
    }

    /// Keeps a dead letter, for a while.
    pub(super) fn keep_dead(&mut self, dead: DeadLetter) {
        self.state.dead.insert(dead);
        let look_at = self.clock.monotonic() + self.options.keep.dead.age.min(LOOK_AGAIN);
        self.times.next_expiry.get_or_insert(look_at);
    }

    pub(super) fn give_back(&mut self, connection: ConnectionId, size: u32) {
        if let Some(stream) = self.state.stream(connection) {
            stream.counters.give_back(u64::from(size));
        }
    }

    /// Nothing of a delivery needs its record any more.
    pub(super) fn end(&mut self, place: Place) {
        self.state.end(place);
        self.look_at_ended(place.segment);
    }

    /// Something in a segment has ended: it may be drained, or sparse.
    fn look_at_ended(&mut self, number: u32) {
        let open =
            [&self.active, &self.cold].into_iter().flatten().any(|open| open.number == number);
        let drained = self.state.segments.get(&number).is_some_and(|segment| segment.live == 0);
        if open {
            return;
        }
        if drained {
            self.drained.push(number);
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
            Command::Rename { old, new, reply } => {
                let renamed = self.rename_connection(&old, &new);
                let _ = reply.send((renamed, self.synced()));
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
                    stream.held = stream.counters.waits.held();
                }
                self.meter_later(connection);
            }
            Command::Discard { connection, reply } => {
                let answer = match self.discard(connection) {
                    Some(cancelled) => (cancelled, self.synced()),
                    None => (0, Err(DiskTrouble)),
                };
                let _ = reply.send(answer);
            }
            Command::Suspend { connection, suspension, reply } => {
                let _ = reply.send(self.suspend(connection, suspension));
            }
            Command::Suspensions { reply } => {
                let _ = reply.send(self.suspensions());
            }
            Command::Dead { connection, after, limit, reply } => {
                let _ = reply.send(self.dead_page(connection, after, limit));
            }
            Command::Replay { letters, reply } => {
                let replayed = self.replay(&letters);
                let synced = if defect!(ReplayNotSynced) { Ok(()) } else { self.synced() };
                let _ = reply.send((replayed, synced));
            }
            Command::Purge { letters, reply } => {
                let purged = self.purge(&letters);
                let _ = reply.send((purged, self.synced()));
            }
            Command::Status { reply } => {
                self.meter_all();
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
            Command::Recent { connection, reply } => {
                let _ = reply.send(self.recent(connection));
            }
            Command::Standings { ids, reply } => {
                let _ = reply.send(ids.into_iter().map(|id| self.standing(id)).collect());
            }
            Command::Whereabouts { id, reply } => {
                let _ = reply.send(self.whereabouts(id));
            }
            Command::Deliveries { connection, before, over, reply } => {
                let _ = reply.send(self.list(connection, before, over));
            }
            Command::ReplayOver { delivery, reply } => {
                let replayed = self.replay_over(delivery);
                let _ = reply.send((replayed, self.synced()));
            }
            Command::Cancel { delivery, reply } => {
                let acted = self.cancel(delivery);
                let _ = reply.send((acted, self.synced()));
            }
            Command::RetryNow { delivery, reply } => {
                let acted = self.retry_now(delivery);
                let _ = reply.send((acted, self.synced()));
            }
            Command::SetMaxBytes(bytes) => {
                self.options.max_bytes = bytes;
                self.publish_sizes();
            }
            Command::SetKeep(keep) => {
                self.options.keep = keep;
                self.times.next_expiry = Some(std::time::Duration::ZERO);
            }
            Command::Stop { reply } => {
                self.stop();
                let _ = reply.send(());
            }
        }
    }

    fn synced(&mut self) -> Result<(), DiskTrouble> {
        if self.sync_marks() { Ok(()) } else { Err(DiskTrouble) }
    }

    fn rename_connection(&mut self, old: &str, new: &str) -> Renamed {
        let Some(id) = self.state.names.get(old).copied().filter(|_| old != new) else {
            return Renamed::Nothing;
        };
        let other = self.state.names.get(new).and_then(|id| self.state.streams.get(id.0 as usize));
        let occupied = other.is_some_and(|stream| {
            stream.counters.live.load(Ordering::Relaxed) > 0
                || self.state.dead.count(stream.id.0) > 0
        });
        if occupied {
            return Renamed::Occupied;
        }
        self.state.rename(id, new);
        if !defect!(RenameNotMarked) {
            self.log.note(&Mark::Renamed(id, new.to_owned()));
        }
        Renamed::Done
    }

    /// Keeps that a connection is suspended, or not any more. What changes nothing is durable already, or as durable as it
    /// will be with the next sync.
    fn suspend(
        &mut self,
        connection: ConnectionId,
        suspension: Option<Suspension>,
    ) -> Result<(), DiskTrouble> {
        if let Some(stream) = self.state.stream(connection)
            && stream.suspension != suspension
        {
            stream.suspension = suspension;
            self.log.note(&Mark::Suspended(connection, suspension));
        }
        if defect!(SuspensionNotSynced) { Ok(()) } else { self.synced() }
    }

    fn suspensions(&self) -> Vec<(ConnectionId, Suspension)> {
        let streams = self.state.streams.iter();
        streams.filter_map(|stream| Some((stream.id, stream.suspension?))).collect()
    }

    /// What a shelf gave; says so when the disk does not give it.
    pub(super) fn readable<T>(&self, read: std::io::Result<T>) -> Option<T> {
        if let Err(error) = &read {
            self.shared.metrics.errors.increment(1);
            tracing::error!(%error, "Could not read scheduled or dead deliveries; it is tried again.");
        }
        read.ok()
    }

    /// Cancels all deliveries of a connection that are not over. Those in flight end as they may; what becomes of them is
    /// not noted any more. Returns how many; `None` when an index cannot be read, and then nothing is cancelled.
    fn discard(&mut self, connection: ConnectionId) -> Option<u64> {
        let last = self.state.segments.keys().next_back().copied().unwrap_or(0);
        // All indexes are read before anything is cancelled: after this, nothing can fail.
        let not_over = match self.state.not_over(connection) {
            Ok(not_over) => not_over,
            Err(error) => {
                self.shared.metrics.errors.increment(1);
                tracing::error!(%error, "Could not read a segment's index; nothing was discarded.");
                return None;
            }
        };
        let mut cancelled = 0;
        for part in not_over {
            cancelled += self.end_all(connection, &part);
        }
        for lane in LANES {
            self.state.schedule.clear(schedule::queue(connection, lane));
        }
        self.watched.cancel(connection);
        self.meter_later(connection);
        let stream = self.state.stream(connection)?;
        stream.waiting = 0;
        stream.returned.clear();
        stream.cancelled.extend(stream.handed.keys().copied());
        let slots = self
            .state
            .part(Place { segment: last, connection, slot: 0 })
            .map_or(0, |(part, _)| part.slots);
        if !defect!(DiscardNotMarked) {
            self.log.note(&Mark::Discarded(Place { segment: last, connection, slot: slots }));
        }
        self.touch(connection);
        Some(cancelled)
    }

    /// Ends these deliveries of a connection; how many.
    fn end_all(&mut self, connection: ConnectionId, ended: &NotOver) -> u64 {
        let NotOver { segment: number, slots, bytes } = ended;
        let mut count = 0;
        if let Some(segment) = self.state.segments.get_mut(number)
            && let Some(part) = segment.parts.get_mut(&connection)
        {
            for slot in (0..part.slots).filter(|slot| slots.contains(*slot)) {
                part.left.insert(slot);
                part.over.insert(slot);
                count += 1;
            }
            segment.live = segment.live.saturating_sub(count);
        }
        if let Some(stream) = self.state.stream(connection) {
            stream.counters.give_back_many(count, *bytes);
        }
        if count > 0 {
            self.look_at_ended(*number);
        }
        count
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

    /// Segments that may hold events accepted at this time.
    pub(super) fn segments_of(&self, unix_ms: u64) -> Vec<u32> {
        let holds = |segment: &Segment| {
            segment.times.is_some_and(|(first, last)| (first..=last).contains(&unix_ms))
        };
        let segments = self.state.segments.iter().filter(|(_, segment)| holds(segment));
        segments.map(|(number, _)| *number).collect()
    }

    /// Deliveries of a connection that are not over and whose event may have been accepted at this time.
    fn live_at(&self, connection: ConnectionId, unix_ms: u64) -> Vec<(DeliveryId, u32)> {
        let Some(stream) = self.state.streams.get(connection.0 as usize) else {
            return Vec::new();
        };
        let mut live = Vec::new();
        for number in self.segments_of(unix_ms) {
            let handed = stream.handed.values().filter(|later| later.id.segment == number);
            live.extend(handed.map(|scheduled| (scheduled.id, scheduled.size)));
            for lane in LANES {
                let queue = Some(schedule::queue(connection, lane));
                let looked = self.state.schedule.look(queue, Some(number), |scheduled, _| {
                    live.push((scheduled.id, scheduled.size));
                });
                self.readable(looked);
            }
            let segment = self.state.segments.get(&number);
            let Some((segment, part)) =
                segment.and_then(|segment| Some((segment, segment.parts.get(&connection)?)))
            else {
                continue;
            };
            let entries = segment.entries(connection, 0, part.slots).unwrap_or_default();
            let waiting = (0..)
                .zip(entries)
                .filter(|(slot, entry)| entry.size > 0 && !part.left.contains(*slot));
            live.extend(waiting.map(|(slot, entry)| {
                let id = DeliveryId { connection, segment: number, slot, offset: entry.offset };
                (id, entry.size)
            }));
        }
        live
    }

    /// Of each connection, the delivery whose event was accepted first, of those that are not over, and its record's bytes.
    fn oldest(&mut self) -> Vec<(DeliveryId, u32)> {
        let mut all = Vec::new();
        for number in 0..self.state.streams.len() {
            let id = ConnectionId(u32::try_from(number).unwrap_or(u32::MAX));
            let mut later = Vec::new();
            for lane in LANES {
                let segments = &self.state.segments;
                let exists = |segment| segments.contains_key(&segment);
                let oldest = self.state.schedule.oldest(schedule::queue(id, lane), exists);
                later.extend(self.readable(oldest).flatten());
            }
            let handed = self.state.streams.get(number).into_iter().flat_map(|s| s.handed.values());
            let later = later.iter().chain(handed).map(|scheduled| (scheduled.id, scheduled.size));
            all.extend(self.first_waiting(id).into_iter().chain(later).min_by_key(age_order));
        }
        all
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
