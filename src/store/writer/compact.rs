//! Moving survivors: a segment in which few events are still needed is not kept for them. They are written again into a
//! **cold** segment, and the old one is given back.
//!
//! Order is kept: cold segments have lower numbers than all others, so what waits in them comes first, and what waits for
//! its first attempt is only moved from the first segment in which its connection has anything waiting.
//!
//! A crash in the middle is harmless: a delivery in a cold segment counts only once a mark says that it was moved there,
//! and the same mark ends it where it was. The old segment is given back after that mark is durable.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use super::super::dead_letter::DeadLetter;
use super::super::feed::Lane;
use super::super::marks::{Mark, Place};
use super::super::record::{
    FILE_HEADER, Frame, KIND_EVENT, KIND_NAME, RecordedRoute, Stamp, decode_event, encode_event,
    encode_name, encode_record,
};
use super::super::schedule::Scheduled;
use super::super::segment_index::Entry;
use super::super::shelf::Spot;
use super::super::state::Entries;
use super::super::{ConnectionId, DeliveryId, FIRST_HOT};
use super::{Active, Writer};
use crate::clock::{Age, millis};
use crate::event::Event;

/// A look for such segments comes this long after something in a sealed segment ended: most are drained whole by then.
pub(super) const LOOK_AFTER: Duration = Duration::from_secs(5);
/// While there is something to move, a piece is moved this often, so that commits go on between.
const MOVE_EVERY: Duration = Duration::from_millis(50);
/// Bytes of records moved at once, unless one alone is larger.
const MOVE_BYTES: u64 = 512 << 10;
/// A segment is sparse when fewer than one in this many of its events are needed.
const SPARSE: u64 = 4;

/// What a survivor waits for, and where it stands on its shelf.
#[derive(Clone, Copy, Debug)]
enum State {
    FirstAttempt,
    /// A later attempt or a replay: its time, or its turn.
    Later(Scheduled, Spot),
    /// It is a dead letter.
    Nothing(DeadLetter, Spot),
}

/// A segment whose survivors are being moved: those that are left to move, in the order of their records.
#[derive(Debug)]
pub(in crate::store) struct Moving {
    number: u32,
    survivors: VecDeque<Survivor>,
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

impl Writer {
    /// Plans a look for sparse segments.
    pub(super) fn look_for_sparse_later(&mut self) {
        if self.times.look_for_sparse.is_none() {
            self.times.look_for_sparse = Some(self.clock.monotonic() + LOOK_AFTER);
        }
    }

    /// Moves a piece of what is left in a sparse segment, if it is time.
    pub(super) fn compact(&mut self, now: Duration) {
        if self.times.look_for_sparse.is_none_or(|at| now < at) {
            return;
        }
        if self.trouble.is_some_and(|trouble| !trouble.full) {
            // Planned anew, or the writer would wake for it without end.
            self.times.look_for_sparse = Some(now + LOOK_AFTER);
            return;
        }
        let moving = self.moving.take().or_else(|| self.sparse_segment());
        let moved = moving.map(|moving| self.move_piece(moving));
        self.times.look_for_sparse = match moved {
            None => self.look_at_withheld(now),
            Some(true) => Some(now + MOVE_EVERY),
            Some(false) => Some(now + LOOK_AFTER),
        };
    }

    /// A segment worth the move, and all that is left in it.
    fn sparse_segment(&mut self) -> Option<Moving> {
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
                Some(survivors) if !survivors.is_empty() => {
                    return Some(Moving { number, survivors: survivors.into() });
                }
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
        }
        for (connection, part) in &segment.parts {
            let stream = self.state.streams.get(connection.0 as usize)?;
            let Some(first) = part.left.first_absent(0, part.slots) else {
                continue;
            };
            if stream.cursor > (number, first) || self.would_overtake(*connection, number) {
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
        let looked = self.state.schedule.look(None, Some(number), |later, spot| {
            let state = State::Later(*later, spot);
            survivors.push(Survivor { id: later.id, size: later.size, state });
        });
        self.readable(looked)?;
        let looked = self.state.dead.look(None, Some(number), |dead, spot| {
            let state = State::Nothing(*dead, spot);
            survivors.push(Survivor { id: dead.id, size: dead.size, state });
        });
        self.readable(looked)?;
        survivors.sort_by_key(|survivor| survivor.id.offset);
        Some(survivors)
    }

    /// Whether something of a connection would come after what it should come before, were this segment's moved to the end
    /// of the cold ones: for a hot segment, what waits in hot ones before it; for a cold one, what waits in cold ones after.
    /// What is with the egress counts too: the cursor goes back to what is moved, and must not come past it again.
    fn would_overtake(&self, connection: ConnectionId, number: u32) -> bool {
        let between = if number < FIRST_HOT { number + 1..FIRST_HOT } else { FIRST_HOT..number };
        self.state.segments.range(between).any(|(_, segment)| {
            let part = segment.parts.get(&connection);
            part.is_some_and(|part| part.left.first_absent(0, part.slots).is_some())
        })
    }

    /// Moves the first survivors of a segment. Whether any could be.
    fn move_piece(&mut self, mut moving: Moving) -> bool {
        let piece = take_piece(&mut moving.survivors);
        if !piece.iter().all(|survivor| self.is_there(survivor)) {
            // Something of it was handed out or ended meanwhile: look again.
            return false;
        }
        let Some(mut events) = self.read_piece(moving.number, piece) else {
            self.refuse_to_move(moving.number);
            return false;
        };
        let bytes = events
            .iter()
            .map(|moved| moved.event.content.as_bytes().len() + 64 + moved.survivors.len() * 220);
        let Some(mut cold) = self.cold_with_room(bytes.sum::<usize>() as u64) else {
            return false;
        };
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
        for moved in events {
            self.note_moved(place, &moved);
        }
        self.sync_marks();
        if !moving.survivors.is_empty() {
            self.moving = Some(moving);
        }
        true
    }

    /// Whether a survivor still waits where it was found.
    fn is_there(&self, survivor: &Survivor) -> bool {
        let id = survivor.id;
        match &survivor.state {
            State::Later(later, spot) => self.state.schedule.is_at(later, *spot),
            State::Nothing(dead, spot) => self.state.dead.is_at(dead, *spot),
            State::FirstAttempt => {
                let part = self.state.segments.get(&id.segment);
                let part = part.and_then(|segment| segment.parts.get(&id.connection));
                let stream = self.state.streams.get(id.connection.0 as usize);
                part.is_some_and(|part| !part.left.contains(id.slot))
                    && stream.is_some_and(|stream| {
                        stream.cursor <= (id.segment, id.slot)
                            && !self.would_overtake(id.connection, id.segment)
                    })
            }
        }
    }

    /// Reads the events of a piece. `None`: one cannot be read; the egress will find out.
    fn read_piece(&self, number: u32, survivors: Vec<Survivor>) -> Option<Vec<Moved>> {
        let file = self.files.get(number)?;
        let mut by_offset: BTreeMap<u32, Vec<Survivor>> = BTreeMap::new();
        for survivor in survivors {
            by_offset.entry(survivor.id.offset).or_default().push(survivor);
        }
        let mut events = Vec::new();
        for (offset, survivors) in by_offset {
            let size = survivors.first().map_or(0, |survivor| survivor.size);
            let record = file.read_record(u64::from(offset) * 8, size).ok()?;
            let (event, _) = decode_event(Bytes::from(record), file.seed())?;
            let survivors = survivors.into_iter().map(|survivor| (survivor, 0)).collect();
            events.push(Moved { event, survivors, entry: Entry::default() });
        }
        Some(events)
    }

    /// The cold segment, or a new one if it has no room for `bytes`.
    fn cold_with_room(&mut self, bytes: u64) -> Option<Active> {
        if let Some(cold) = self.cold.take() {
            if self.has_room(&cold, bytes) {
                return Some(cold);
            }
            self.seal_full(cold);
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
                let delay_ms = delay_of(&survivor.state, moved.event.accepted_age);
                routes.push(RecordedRoute { connection, slot: *slot, dead: None, delay_ms });
            }
            let offset = cold.end + out.len() as u64;
            let size = encode_record(&mut out, seed, KIND_EVENT, stamp, |out| {
                encode_event(out, &moved.event, Frame::ALONE, routes.into_iter());
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
    fn note_moved(&mut self, number: u32, moved: &Moved) {
        if let Some(segment) = self.state.segments.get_mut(&number)
            && let Entries::Memory(index) = &mut segment.entries
        {
            index.note_times(moved.event.id.unix_ms(), moved.event.accepted_age);
            index.note_record(moved.entry);
            segment.newest = Age(index.last_age);
            (segment.times, segment.events) = (index.times, index.events);
            for (survivor, slot) in &moved.survivors {
                let connection = survivor.id.connection;
                index.note_slot(connection, *slot);
                let delay_ms = delay_of(&survivor.state, moved.event.accepted_age);
                let route = RecordedRoute { connection, slot: *slot, dead: None, delay_ms };
                index.note_delay(&route, moved.event.accepted_age);
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
        }
    }

    /// Ends a delivery where it was and puts it where it is.
    fn rename(&mut self, survivor: &Survivor, to: DeliveryId, size: u32) {
        let from = Place::from(survivor.id);
        self.log.note(&Mark::Moved { from, to });
        self.watched.moved(from, Place::from(to));
        self.state.leave(from);
        match survivor.state {
            State::FirstAttempt => {
                if let Some(stream) = self.state.stream(to.connection) {
                    stream.cursor = stream.cursor.min((to.segment, to.slot));
                }
            }
            State::Later(later, spot) => {
                let moved = Scheduled { id: to, size, ..later };
                self.state.leave(Place::from(to));
                self.state.schedule.remove_at(&later, spot);
                self.state.schedule.insert(moved);
                self.log.note(&Mark::Scheduled(moved));
            }
            State::Nothing(dead, spot) => {
                let moved = DeadLetter { id: to, size, ..dead };
                self.state.leave(Place::from(to));
                self.state.dead.remove_at(&dead, spot);
                self.state.dead.insert(moved);
                self.log.note(&Mark::Dead(moved));
            }
        }
        if !matches!(survivor.state, State::Nothing(..))
            && let Some(stream) = self.state.stream(to.connection)
        {
            stream.counters.resize(u64::from(survivor.size), u64::from(size));
        }
        self.end(from);
    }

    fn begin_cold_segment(&mut self, bytes: u64) -> std::io::Result<Active> {
        let number = self.next_cold;
        let file_bytes = self.options.cold_bytes().max(bytes + FILE_HEADER);
        let cold = self.create_and_start(number, file_bytes)?;
        self.next_cold += 1;
        Ok(cold)
    }
}

/// What is left of the delay of a first attempt, from acceptance on; 0 for all else.
fn delay_of(state: &State, accepted: Age) -> u64 {
    match state {
        State::Later(later, _) if later.lane == Lane::New => millis(later.due.since(accepted)),
        _ => 0,
    }
}

/// The first survivors, with all of one event, until there are enough for a piece.
fn take_piece(survivors: &mut VecDeque<Survivor>) -> Vec<Survivor> {
    let mut piece: Vec<Survivor> = Vec::new();
    let mut bytes = 0;
    while let Some(next) = survivors.front().copied() {
        let same = piece.last().is_some_and(|last| last.id.offset == next.id.offset);
        if !same && bytes >= MOVE_BYTES {
            break;
        }
        bytes += if same { 0 } else { u64::from(next.size) };
        piece.push(next);
        survivors.pop_front();
    }
    piece
}
