//! Moving survivors: a segment in which few events are still needed is not kept for them. They are written again into a
//! **cold** segment, and the old one is given back.
//!
//! Order is kept: cold segments have lower numbers than all others, so what waits in them comes first, and what waits for
//! its first attempt is only moved from the first segment in which its connection has anything waiting.
//!
//! A crash in the middle is harmless: a delivery in a cold segment counts only once a mark says that it was moved there,
//! and the same mark ends it where it was. The old segment is given back after that mark is durable.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;

use super::super::marks::{DeadLetter, Mark, Place};
use super::super::record::{
    FILE_HEADER, KIND_EVENT, KIND_NAME, RecordedRoute, Stamp, decode_event, encode_event,
    encode_name, encode_record,
};
use super::super::schedule::Scheduled;
use super::super::segment_index::Entry;
use super::super::state::Entries;
use super::super::{ConnectionId, DeliveryId, FIRST_HOT};
use super::{Active, Writer};
use crate::clock::Age;
use crate::event::Event;

/// A look for such segments comes this long after something in a sealed segment ended: most are drained whole by then.
pub(super) const LOOK_AFTER: Duration = Duration::from_secs(5);
/// While there is something to move, a piece is moved this often, so that commits go on between.
const MOVE_EVERY: Duration = Duration::from_millis(50);
/// Bytes of records moved at once, unless one alone is larger.
const MOVE_BYTES: u64 = 512 << 10;
/// A segment is sparse when fewer than one in this many of its events are needed.
const SPARSE: u64 = 4;

/// What a survivor waits for.
#[derive(Clone, Copy, Debug)]
enum State {
    FirstAttempt,
    /// A later attempt or a replay: its time, or its turn.
    Later,
    /// It is a dead letter.
    Nothing(DeadLetter),
}

/// A delivery that needs its record.
#[derive(Clone, Copy, Debug)]
struct Survivor {
    id: DeliveryId,
    size: u32,
    state: State,
}

/// One event that is moved: where it will be, and the deliveries that go with it.
struct Moved {
    event: Event,
    survivors: Vec<(Survivor, u32)>,
    entry: Entry,
}

fn later(scheduled: &Scheduled) -> Survivor {
    Survivor { id: scheduled.id, size: scheduled.size, state: State::Later }
}

impl Writer {
    /// Plans a look for sparse segments.
    pub(super) fn look_for_sparse_later(&mut self) {
        if self.times.look_for_sparse.is_none() {
            self.times.look_for_sparse = Some(self.clock.monotonic() + LOOK_AFTER);
        }
    }

    /// Moves a piece of what is left in a sparse segment, if it is time.
    pub(super) fn compact(&mut self, now: Duration) {
        if self.times.look_for_sparse.is_none_or(|at| now < at)
            || self.trouble.is_some_and(|trouble| !trouble.full)
        {
            return;
        }
        let moved =
            self.sparse_segment().map(|(number, survivors)| self.move_piece(number, survivors));
        self.times.look_for_sparse = match moved {
            None => self.look_at_withheld(now),
            Some(true) => Some(now + MOVE_EVERY),
            Some(false) => Some(now + LOOK_AFTER),
        };
    }

    /// A segment worth the move, and all that is left in it.
    fn sparse_segment(&mut self) -> Option<(u32, Vec<Survivor>)> {
        let open = [&self.active, &self.cold].map(|open| open.as_ref().map(|open| open.number));
        let few = |number: &u32, live: u64, total: u64| {
            live > 0 && live * SPARSE < total && !open.contains(&Some(*number))
        };
        let mut candidates: Vec<u32> = self
            .state
            .segments
            .iter()
            .filter(|(number, segment)| {
                let total = segment.parts.values().map(|part| u64::from(part.slots)).sum();
                few(number, segment.live, total) && segment.live < segment.refused_at
            })
            .map(|(number, _)| *number)
            .collect();
        self.withhold_sparse(&mut candidates);
        for number in candidates {
            let events = self.state.segments.get(&number).map_or(0, |segment| segment.events);
            let survivors = self.survivors(number).filter(|survivors| {
                let mut offsets: Vec<_> =
                    survivors.iter().map(|survivor| survivor.id.offset).collect();
                offsets.dedup();
                (offsets.len() as u64) * SPARSE < events
            });
            match survivors {
                Some(survivors) if !survivors.is_empty() => return Some((number, survivors)),
                _ => self.refuse_to_move(number),
            }
        }
        None
    }

    /// Looks at a segment again only when less is left in it.
    fn refuse_to_move(&mut self, number: u32) {
        if let Some(segment) = self.state.segments.get_mut(&number) {
            segment.refused_at = segment.live;
        }
    }

    /// All that is left in a segment, by offset. `None`: something of it is with the egress, or its order would change.
    fn survivors(&self, number: u32) -> Option<Vec<Survivor>> {
        let mut survivors = Vec::new();
        let segment = self.state.segments.get(&number)?;
        for stream in &self.state.streams {
            if stream.handed.keys().any(|place| place.segment == number) {
                return None;
            }
            let queued = stream.due.iter().chain(&stream.replays);
            survivors.extend(queued.filter(|scheduled| scheduled.id.segment == number).map(later));
            let dead = stream.dead.range((number, 0)..(number + 1, 0)).map(|(_, dead)| *dead);
            survivors.extend(dead.map(|dead| Survivor {
                id: dead.id,
                size: dead.size,
                state: State::Nothing(dead),
            }));
        }
        for (connection, part) in &segment.parts {
            let stream = self.state.streams.get(connection.0 as usize)?;
            let Some(first) = part.left.first_absent(0, part.slots) else {
                continue;
            };
            if stream.cursor > (number, first)
                || self.would_overtake(*connection, stream.cursor, number)
            {
                return None;
            }
            let entries = segment.entries(*connection, first, part.slots - first).ok()?;
            let waiting = (first..)
                .zip(entries)
                .filter(|(slot, entry)| entry.size > 0 && !part.left.contains(*slot));
            survivors.extend(waiting.map(|(slot, entry)| {
                let id = DeliveryId {
                    connection: *connection,
                    segment: number,
                    slot,
                    offset: entry.offset,
                };
                Survivor { id, size: entry.size, state: State::FirstAttempt }
            }));
        }
        let scheduled =
            self.state.schedule.iter().filter(|scheduled| scheduled.id.segment == number);
        survivors.extend(scheduled.map(later));
        survivors.sort_by_key(|survivor| survivor.id.offset);
        Some(survivors)
    }

    /// Whether something of a connection would come after what it should come before, were this segment's moved to the end
    /// of the cold ones: for a hot segment, what waits in hot ones before it; for a cold one, what waits in cold ones after.
    fn would_overtake(&self, connection: ConnectionId, cursor: (u32, u32), number: u32) -> bool {
        let between = if number < FIRST_HOT { number + 1..FIRST_HOT } else { FIRST_HOT..number };
        self.state.segments.range(between).any(|(other, segment)| {
            let from = match other.cmp(&cursor.0) {
                std::cmp::Ordering::Less => return false,
                std::cmp::Ordering::Equal => cursor.1,
                std::cmp::Ordering::Greater => 0,
            };
            let part = segment.parts.get(&connection);
            part.is_some_and(|part| part.left.first_absent(from, part.slots).is_some())
        })
    }

    /// Moves the first survivors of a segment. Whether any could be.
    fn move_piece(&mut self, number: u32, survivors: Vec<Survivor>) -> bool {
        let Some(events) = self.read_piece(number, survivors) else {
            self.refuse_to_move(number);
            return false;
        };
        let bytes = events
            .iter()
            .map(|moved| moved.event.content.as_bytes().len() + 64 + moved.survivors.len() * 220);
        let Some(mut cold) = self.cold_with_room(bytes.sum::<usize>() as u64) else {
            return false;
        };
        let mut events = events;
        let (records, names) = self.encode_piece(&mut cold, &mut events);
        let written = cold
            .file
            .file
            .write_all_at(&records, cold.end)
            .and_then(|()| cold.file.file.sync_data());
        if let Err(error) = written {
            // As with any file whose sync failed: what is in it stays as far as it was synced, and it is not written again.
            self.shared.metrics.errors.increment(1);
            tracing::error!(%error, "Could not move what is left of an old segment; it is tried again");
            self.seal(cold);
            return false;
        }
        self.shared.metrics.written_bytes.increment(records.len() as u64);
        cold.end += records.len() as u64;
        let place = cold.number;
        self.note_cold(place, cold.end, &names);
        self.cold = Some(cold);
        let mut renamed = HashMap::new();
        for moved in events {
            self.note_moved(place, &moved, &mut renamed);
        }
        self.rename_later_attempts(&renamed);
        self.sync_marks();
        true
    }

    /// Reads whole events until there are enough for one piece. `None`: one cannot be read; the egress will find out.
    fn read_piece(&self, number: u32, survivors: Vec<Survivor>) -> Option<Vec<Moved>> {
        let file = self.files.get(number)?;
        let mut by_offset: BTreeMap<u32, Vec<Survivor>> = BTreeMap::new();
        for survivor in survivors {
            by_offset.entry(survivor.id.offset).or_default().push(survivor);
        }
        let mut events = Vec::new();
        let mut bytes = 0;
        for (offset, survivors) in by_offset {
            let size = survivors.first().map_or(0, |survivor| survivor.size);
            let record = file.read_record(u64::from(offset) * 8, size).ok()?;
            let (event, _) = decode_event(Bytes::from(record), file.seed())?;
            let survivors = survivors.into_iter().map(|survivor| (survivor, 0)).collect();
            events.push(Moved { event, survivors, entry: Entry::default() });
            bytes += u64::from(size);
            if bytes >= MOVE_BYTES {
                break;
            }
        }
        Some(events)
    }

    /// The cold segment, or a new one if it has no room for `bytes`.
    fn cold_with_room(&mut self, bytes: u64) -> Option<Active> {
        if let Some(cold) = self.cold.take() {
            if cold.end + bytes <= cold.file_bytes {
                return Some(cold);
            }
            self.seal(cold);
        }
        match self.begin_cold_segment(bytes) {
            Ok(cold) => Some(cold),
            Err(error) => {
                tracing::warn!(%error, "Could not begin a segment for what is left of old ones; it is tried again");
                None
            }
        }
    }

    /// Encodes the events for the cold segment and gives each survivor its slot.
    fn encode_piece(
        &self,
        cold: &mut Active,
        events: &mut [Moved],
    ) -> (Vec<u8>, Vec<ConnectionId>) {
        let mut out = Vec::new();
        let mut names = Vec::new();
        let mut slots: HashMap<ConnectionId, u32> = HashMap::new();
        cold.commit += 1;
        let (seed, stamp) =
            (cold.file.seed(), Stamp { durable_upto: cold.end, commit: cold.commit });
        let segment = self.state.segments.get(&cold.number);
        let part_slots =
            |id: &ConnectionId| segment.and_then(|s| s.parts.get(id)).map_or(0, |part| part.slots);
        for moved in events {
            let mut routes = Vec::with_capacity(moved.survivors.len());
            for (survivor, slot) in &mut moved.survivors {
                let connection = survivor.id.connection;
                let next = slots.entry(connection).or_insert_with(|| part_slots(&connection));
                *slot = *next;
                *next += 1;
                if *slot == 0
                    && let Some(stream) = self.state.streams.get(connection.0 as usize)
                {
                    names.push(connection);
                    encode_record(&mut out, seed, KIND_NAME, stamp, |out| {
                        encode_name(out, connection, &stream.name)
                    });
                }
                routes.push(RecordedRoute { connection, slot: *slot, dead: None });
            }
            let offset = cold.end + out.len() as u64;
            let size = encode_record(&mut out, seed, KIND_EVENT, stamp, |out| {
                encode_event(out, &moved.event, routes.into_iter());
            });
            moved.entry = Entry {
                offset: u32::try_from(offset / 8).unwrap_or(u32::MAX),
                size: u32::try_from(size).unwrap_or(u32::MAX),
            };
        }
        (out, names)
    }

    fn note_cold(&mut self, number: u32, end: u64, names: &[ConnectionId]) {
        let Some(segment) = self.state.segments.get_mut(&number) else {
            return;
        };
        segment.end = end;
        let Entries::Memory(index) = &mut segment.entries else {
            return;
        };
        for id in names {
            if let Some(stream) = self.state.streams.get(id.0 as usize) {
                index.names.insert(*id, stream.name.clone());
            }
        }
    }

    /// The event is durable in its new place: its deliveries are there from now on.
    fn note_moved(
        &mut self,
        number: u32,
        moved: &Moved,
        renamed: &mut HashMap<Place, (DeliveryId, u32)>,
    ) {
        if let Some(segment) = self.state.segments.get_mut(&number)
            && let Entries::Memory(index) = &mut segment.entries
        {
            index.note_times(moved.event.id.unix_ms(), moved.event.accepted_age);
            segment.newest = Age(index.last_age);
            (segment.times, segment.events) = (index.times, index.events);
            for (survivor, slot) in &moved.survivors {
                let connection = survivor.id.connection;
                index.note_slot(connection, *slot, moved.entry);
                let part = segment.parts.entry(connection).or_default();
                part.slots = part.slots.max(slot + 1);
                segment.live += 1;
            }
        }
        for (survivor, slot) in &moved.survivors {
            let connection = survivor.id.connection;
            let to =
                DeliveryId { connection, segment: number, slot: *slot, offset: moved.entry.offset };
            self.rename(survivor, to, moved.entry.size);
            renamed.insert(Place::from(survivor.id), (to, moved.entry.size));
        }
    }

    /// Ends a delivery where it was and puts it where it is. Those that had an attempt follow in
    /// [`Writer::rename_later_attempts`].
    fn rename(&mut self, survivor: &Survivor, to: DeliveryId, size: u32) {
        let from = Place::from(survivor.id);
        self.log.note(&Mark::Moved { from, to });
        self.state.leave(from);
        if !matches!(survivor.state, State::FirstAttempt) {
            self.state.leave(Place::from(to));
        }
        if let Some(stream) = self.state.stream(to.connection) {
            match survivor.state {
                State::FirstAttempt => stream.cursor = stream.cursor.min((to.segment, to.slot)),
                State::Later => {}
                State::Nothing(dead) => {
                    let dead = DeadLetter { id: to, size, ..dead };
                    stream.dead.remove(&(from.segment, from.slot));
                    stream.dead.insert((to.segment, to.slot), dead);
                    self.log.note(&Mark::Dead(dead));
                }
            }
            if !matches!(survivor.state, State::Nothing(_)) {
                stream.counters.resize(u64::from(survivor.size), u64::from(size));
            }
        }
        self.end(from);
    }

    /// Puts the new ids where deliveries wait for a time or for their turn, in one pass over each.
    fn rename_later_attempts(&mut self, renamed: &HashMap<Place, (DeliveryId, u32)>) {
        let new = |scheduled: &Scheduled| {
            let (id, size) = *renamed.get(&Place::from(scheduled.id))?;
            Some(Scheduled { id, size, ..*scheduled })
        };
        let timed = self
            .state
            .schedule
            .remove_where(|scheduled| renamed.contains_key(&Place::from(scheduled.id)));
        for scheduled in timed.iter().filter_map(new) {
            self.state.schedule.insert(scheduled);
            self.log.note(&Mark::Scheduled(scheduled));
        }
        for stream in &mut self.state.streams {
            for scheduled in stream.due.iter_mut().chain(&mut stream.replays) {
                if let Some(renamed) = new(scheduled) {
                    *scheduled = renamed;
                    self.log.note(&Mark::Scheduled(renamed));
                }
            }
        }
    }

    fn begin_cold_segment(&mut self, bytes: u64) -> std::io::Result<Active> {
        let number = self.next_cold;
        let file_bytes = self.options.cold_bytes().max(bytes + FILE_HEADER);
        let cold = self.create_and_start(number, file_bytes)?;
        self.next_cold += 1;
        Ok(cold)
    }
}
