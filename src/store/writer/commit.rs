//! Group commit: take all that waits, encode it, one write, one fdatasync, and only then answer and deliver.

use std::collections::HashSet;
use std::io;
use std::ops::Range;
use std::time::Duration;

use super::super::dead_letter::DeadLetter;
use super::super::feed::{Delivery, FeedItem, Lane};
use super::super::intake::{Append, AppendError, Durability, Fate};
use super::super::marks::Place;
use super::super::outcomes::Ended;
use super::super::record::{
    KIND_NAME, RECORD_HEADER, RecordedRoute, Stamp, encode_event, encode_name, encode_record,
};
use super::super::schedule::Scheduled;
use super::super::segment_index::Entry;
use super::super::state::Entries;
use super::super::{ConnectionId, DeliveryId};
use super::{Active, Writer};
use crate::clock::{Age, millis};
use crate::event::Event;

/// Events in one commit, at the most, and those of one frame more: bounds how long the first of them waits.
const COMMIT_EVENTS: usize = 1024;
/// Bytes in one commit, at the most, unless one event alone is larger.
const COMMIT_BYTES: usize = 4 << 20;

/// One commit in the making.
#[derive(Debug, Default)]
pub struct Batch {
    appends: Vec<Append>,
    /// Encoded records.
    bytes: Vec<u8>,
    /// All routes of all events, one after the other.
    routes: Vec<RecordedRoute>,
    /// Per event: its record's place in the file and its routes.
    placed: Vec<(Entry, Range<usize>)>,
    /// Connections whose name this batch writes into the segment.
    names: Vec<ConnectionId>,
    /// Appends that are answered before the sync.
    relaxed: usize,
}

impl Batch {
    fn clear(&mut self) {
        self.appends.clear();
        self.bytes.clear();
        self.routes.clear();
        self.placed.clear();
        self.names.clear();
        self.relaxed = 0;
    }
}

impl Writer {
    /// Commits what waits.
    pub(super) fn commit(&mut self, now: Duration) {
        let mut batch = std::mem::take(&mut self.buffers.commit);
        let bytes = self.gather(&mut batch);
        self.times.commit_began = now;
        self.times.commit_events = batch.appends.len();
        match self.make_room(bytes, now).and_then(|()| self.write_batch(&mut batch, now)) {
            Ok(()) => self.confirm(&mut batch),
            Err(error) => self.refuse(&mut batch, error),
        }
        batch.clear();
        self.buffers.commit = batch;
    }

    /// Takes appends off the queue. Returns the bytes that they take at the most.
    fn gather(&mut self, batch: &mut Batch) -> usize {
        // A batch must fit a segment, however small, so that only an event that is too large alone is refused for its size.
        let most = COMMIT_BYTES
            .min(usize::try_from(self.options.segment_bytes / 2).unwrap_or(COMMIT_BYTES));
        let mut bytes = 0;
        while batch.appends.len() < COMMIT_EVENTS && bytes < most {
            let Some(append) = self.buffers.put_off.take().or_else(|| self.intake.queue.pop())
            else {
                break;
            };
            if append.is_delayed() && self.state.schedule.is_overfull() {
                // What is scheduled cannot be written out just now: memory stays bounded.
                self.refuse_one(append, AppendError::Full);
                continue;
            }
            let more = bytes_at_most(&append);
            if bytes > 0 && bytes + more > most {
                self.buffers.put_off = Some(append);
                break;
            }
            bytes += more;
            let mut append = append;
            let rest = std::mem::take(&mut append.rest);
            let relaxed = usize::from(append.durability == Durability::Relaxed);
            batch.relaxed += relaxed * (1 + rest.len());
            batch.appends.push(append);
            batch.appends.extend(rest);
        }
        bytes
    }

    /// Answers an append that is in no batch.
    fn refuse_one(&self, append: Append, error: AppendError) {
        append.give_back_room();
        if let Some(lane) = self.intake.lanes.get(append.lane) {
            lane.send(&mut append.reply.into_iter().map(|reply| (reply, Err(error))).collect());
        }
    }

    /// The batch is written: answers those who do not wait for its sync.
    fn answer_relaxed(&self, batch: &mut Batch) {
        for (number, lane) in self.intake.lanes.iter().enumerate() {
            let relaxed = batch
                .appends
                .iter_mut()
                .filter(|append| append.durability == Durability::Relaxed && append.lane == number);
            let mut answers = relaxed.filter_map(|append| Some((append.reply.take()?, Ok(()))));
            lane.send(&mut answers.by_ref().collect());
        }
    }

    fn write_batch(&mut self, batch: &mut Batch, now: Duration) -> Result<(), AppendError> {
        let Some(mut active) = self.active.take() else {
            return Err(AppendError::Failed);
        };
        self.encode(batch, &mut active);
        let began = self.clock.monotonic();
        let written = active.file.file.write_all_at(&batch.bytes, active.end);
        if batch.relaxed > 0 && written.is_ok() {
            self.answer_relaxed(batch);
        }
        let synced = written.and_then(|()| match defect!(AcknowledgeBeforeSync) {
            true => Ok(()),
            false => active.file.file.sync_data(),
        });
        let synced = synced.or_else(|error| match defect!(SyncErrorIgnored) {
            true => Ok(()),
            false => Err(error),
        });
        let synced = synced.or_else(|error| match defect!(RelaxedBelieved) {
            true if batch.relaxed > 0 => Ok(()),
            _ => Err(error),
        });
        match synced {
            Ok(()) => {
                let seconds = self.clock.monotonic().saturating_sub(began).as_secs_f64();
                self.shared.metrics.sync_seconds.record(seconds);
                self.shared.metrics.batch_events.record(batch.appends.len() as f64);
                self.shared.metrics.written_bytes.increment(batch.bytes.len() as u64);
                active.end += batch.bytes.len() as u64;
                self.active = Some(active);
                Ok(())
            }
            Err(error) => {
                // The file is never synced again: what a second, successful fdatasync would say is not true.
                self.seal(active);
                self.shared.metrics.errors.increment(1);
                tracing::error!(%error, "Could not write or sync a segment; its last batch is refused and a fresh one is begun");
                match self.begin_segment() {
                    Ok(()) => {
                        Err(if is_full(&error) { AppendError::Full } else { AppendError::Failed })
                    }
                    Err(error) => Err(self.in_trouble("begin a segment", &error, now)),
                }
            }
        }
    }

    /// Encodes the batch for the active segment, and takes its slots.
    fn encode(&mut self, batch: &mut Batch, active: &mut Active) {
        active.commit += 1;
        let stamp = Stamp { durable_upto: active.end, commit: active.commit };
        let seed = active.file.seed();
        let known = match self.state.segments.get(&active.number).map(|segment| &segment.entries) {
            Some(Entries::Memory(index)) => Some(&index.names),
            _ => None,
        };
        for append in &batch.appends {
            let first = batch.routes.len();
            for route in &append.routes {
                let Some(stream) = self.state.streams.get_mut(route.connection.0 as usize) else {
                    continue;
                };
                let named = known.is_some_and(|names| names.contains_key(&stream.id))
                    || batch.names.contains(&stream.id);
                if !named {
                    batch.names.push(stream.id);
                    encode_record(&mut batch.bytes, seed, KIND_NAME, stamp, |out| {
                        encode_name(out, stream.id, &stream.name)
                    });
                }
                let dead = match route.fate {
                    Fate::Queued => None,
                    Fate::Dead(cause) => Some(cause),
                };
                let slot = stream.take_slot(active.number);
                let delay_ms = if dead.is_none() { millis(route.delay) } else { 0 };
                batch.routes.push(RecordedRoute { connection: stream.id, slot, dead, delay_ms });
            }
            let offset = active.end + batch.bytes.len() as u64;
            let routes = batch.routes.get(first..).unwrap_or_default().iter().copied();
            let frame = append.frame;
            let size = encode_record(&mut batch.bytes, seed, frame.kind(), stamp, |out| {
                encode_event(out, &append.event, frame, routes);
            });
            let entry = Entry {
                offset: u32::try_from(offset / 8).unwrap_or(u32::MAX),
                size: u32::try_from(size).unwrap_or(u32::MAX),
            };
            batch.placed.push((entry, first..batch.routes.len()));
        }
    }

    /// The batch is on the disk: answer, count, hand out.
    fn confirm(&mut self, batch: &mut Batch) {
        let Some(number) = self.active.as_ref().map(|active| active.number) else {
            return;
        };
        self.note_names(number, batch);
        let mut answers: Vec<Vec<_>> = self.intake.lanes.iter().map(|_| Vec::new()).collect();
        for (append, (entry, routes)) in batch.appends.drain(..).zip(batch.placed.drain(..)) {
            let routes = batch.routes.get(routes).unwrap_or_default();
            self.note_event(number, &append.event, entry, routes);
            if let Some(key) = append.key.as_deref() {
                self.note_key(number, *key);
            }
            self.hot.insert(number, entry.offset, append.event.clone());
            for route in routes {
                if let Some(board) = &append.board {
                    let RecordedRoute { connection, slot, .. } = *route;
                    self.watched.watch(Place { segment: number, connection, slot }, board);
                }
                self.admit(number, *route, entry, &append);
            }
            if let Some(lane) = answers.get_mut(append.lane) {
                lane.extend(append.reply.map(|reply| (reply, Ok(()))));
            }
        }
        for (lane, answers) in self.intake.lanes.iter().zip(&mut answers) {
            lane.send(answers);
        }
    }

    fn note_names(&mut self, number: u32, batch: &Batch) {
        let Some(segment) = self.state.segments.get_mut(&number) else {
            return;
        };
        let Entries::Memory(index) = &mut segment.entries else {
            return;
        };
        for id in &batch.names {
            if let Some(stream) = self.state.streams.get(id.0 as usize) {
                index.names.insert(*id, stream.name.clone());
            }
        }
    }

    fn note_event(&mut self, number: u32, event: &Event, entry: Entry, routes: &[RecordedRoute]) {
        let Some(segment) = self.state.segments.get_mut(&number) else {
            return;
        };
        if let Some(active) = &self.active {
            segment.end = active.end;
        }
        let Entries::Memory(index) = &mut segment.entries else {
            return;
        };
        index.note_times(event.id.unix_ms(), event.accepted_age);
        index.note_record(entry);
        segment.newest = Age(index.last_age);
        (segment.times, segment.events) = (index.times, index.events);
        for route in routes {
            index.note_slot(route.connection, route.slot);
            if let Some(cause) = route.dead {
                index.born_dead.push((route.connection, route.slot, cause));
            }
            index.note_delay(route, event.accepted_age);
            let part = segment.parts.entry(route.connection).or_default();
            part.slots = part.slots.max(route.slot + 1);
            segment.live += 1;
        }
    }

    /// A new delivery: hand it out while its event is in memory, let it wait behind others, or keep it as dead.
    fn admit(&mut self, segment: u32, route: RecordedRoute, entry: Entry, append: &Append) {
        let id = DeliveryId {
            connection: route.connection,
            segment,
            slot: route.slot,
            offset: entry.offset,
        };
        if let Some(cause) = route.dead {
            let died_ms = self.clock.wall_ms();
            let dead = DeadLetter {
                id,
                size: entry.size,
                cause,
                status: 0,
                attempts: 0,
                died_ms,
                died: self.clock.age(),
            };
            self.state.leave(Place::from(id));
            self.watched.end(Place::from(id), Ended::Dead { cause, status: 0, attempts: 0 });
            self.keep_dead(dead);
            self.state.publish(route.connection);
            return;
        }
        let Some(stream) = self.state.stream(route.connection) else {
            return;
        };
        // Ingress reserved the content; the queue's cap counts records.
        let extra =
            u64::from(entry.size).saturating_sub(append.event.content.as_bytes().len() as u64);
        stream.counters.grow(extra);
        if route.delay_ms > 0 {
            self.delay(id, entry.size, append.event.accepted_age, route.delay_ms);
            return;
        }
        let next = stream.waiting == 0 && stream.returned.is_empty() && stream.room(Lane::New) > 0;
        let Some(feed) = stream.feed.filter(|_| next) else {
            stream.waiting += 1;
            self.meter_later(route.connection);
            return;
        };
        stream.cursor = (segment, route.slot + 1);
        stream.hand_out(Lane::New);
        self.handed_out += 1;
        stream.publish();
        let hot = std::sync::Arc::downgrade(&append.event);
        let delivery = Delivery {
            id,
            lane: Lane::New,
            attempts: 0,
            first_attempt: None,
            size: entry.size,
            delayed: false,
            hot,
        };
        if let Some(outbox) = self.outbox.get_mut(feed) {
            outbox.push(FeedItem::Due(delivery));
        }
    }

    /// A new delivery that waits for its time. No mark says so: its record does.
    fn delay(&mut self, id: DeliveryId, size: u32, accepted: Age, delay_ms: u64) {
        self.state.leave(Place::from(id));
        self.state.schedule.insert(Scheduled {
            due: accepted.after(Duration::from_millis(delay_ms)),
            id,
            size,
            attempts: 0,
            first_attempt: Age(0),
            lane: Lane::New,
        });
        self.touch(id.connection);
    }

    /// The batch is not on the disk: nobody gets a 202, nothing of it is delivered by this process.
    fn refuse(&mut self, batch: &mut Batch, error: AppendError) {
        let mut answers: Vec<Vec<_>> = self.intake.lanes.iter().map(|_| Vec::new()).collect();
        let mut lost = 0;
        for append in batch.appends.drain(..) {
            append.give_back_room();
            lost += u64::from(append.reply.is_none());
            if let Some(lane) = answers.get_mut(append.lane) {
                lane.extend(append.reply.map(|reply| (reply, Err(error))));
            }
        }
        if lost > 0 {
            self.relaxed_lost += lost;
            self.shared.metrics.relaxed_lost.increment(lost);
            tracing::error!(
                events = lost,
                "Lost events that were answered before their sync, because their source's durability is relaxed"
            );
        }
        for (lane, answers) in self.intake.lanes.iter().zip(&mut answers) {
            lane.send(answers);
        }
    }
}

/// The longest record of a name, which stands once in a segment.
const NAME_RECORD: usize = RECORD_HEADER + 4 + 155 + 8;

fn bytes_at_most(append: &Append) -> usize {
    let own = bytes_of_one(append) + append.routes.len() * NAME_RECORD;
    if append.rest.is_empty() {
        return own;
    }
    // Most events of a frame go to the same connections: a name is counted once.
    let rest = || append.rest.iter();
    let others: HashSet<_> = rest().flat_map(|one| &one.routes).map(|one| one.connection).collect();
    own + others.len() * NAME_RECORD + rest().map(bytes_of_one).sum::<usize>()
}

/// Without names.
fn bytes_of_one(append: &Append) -> usize {
    // Fixed part, padding, the place in a frame, and per route the longest varints.
    RECORD_HEADER
        + 24
        + 10
        + 8
        + 14
        + append.routes.len() * 21
        + append.event.content.as_bytes().len()
}

/// Whether the disk says that it is full.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
