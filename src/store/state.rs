//! What is known of every delivery: the part of the store that lives in memory.
//!
//! Its size follows the configuration and the number of segments, not the payload: two bits per delivery, and a bounded
//! part of those that wait for a time or are dead (see [`shelf`](super::shelf)).
//!
//! A delivery is in exactly one of these places:
//!
//! * **waiting** for its first attempt: its bit in [`Part::left`] is not set; in order, from [`Stream::cursor`] on;
//! * **handed out** to the egress: a first attempt (bit not set, before the cursor), or one that came off the schedule
//!   ([`Stream::handed`]);
//! * **scheduled**, its time come or not: in [`State::schedule`]; also a first attempt that came with a delay;
//! * **dead**: in [`State::dead`];
//! * **over**: its bit in [`Part::over`] is set.
//!
//! A snapshot has the bits of what is over, so that a delivery which is found on no shelf at a start, whatever the reason,
//! is one that waits.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::bits::Bits;
use super::dead_letter::DeadLetter;
use super::feed::{Delivery, Lane};
use super::marks::Place;
use super::order::Ordered;
use super::queue::QueueCounters;
use super::record::FILE_HEADER;
use super::schedule::{self, LANES, Scheduled};
use super::segment_index::{Entry, IndexFile, SegmentIndex};
use super::shelf::Shelf;
use super::suspension::Suspension;
use super::waits::Meter;
use super::{ConnectionId, DeliveryId};
use crate::clock::Age;
use crate::event::Wait;

/// All of it.
#[derive(Debug, Default)]
pub struct State {
    /// By number.
    pub segments: BTreeMap<u32, Segment>,
    /// By connection id; ids are dense.
    pub streams: Vec<Stream>,
    /// Ids by name; in order, so that the same state makes the same snapshot.
    pub names: BTreeMap<String, ConnectionId>,
    /// What waits for a time or, its time come, for its connection.
    pub schedule: Shelf<Scheduled>,
    /// Dead letters.
    pub dead: Shelf<DeadLetter>,
}

/// One segment.
#[derive(Debug)]
pub struct Segment {
    /// Bytes that the file takes.
    pub file_bytes: u64,
    /// Bytes that its index file takes.
    pub index_bytes: u64,
    /// Where each connection's entries are.
    pub entries: Entries,
    /// Deliveries by connection.
    pub parts: BTreeMap<ConnectionId, Part>,
    /// Deliveries that are not over, and dead letters: what keeps the segment.
    pub live: u64,
    /// Events in it.
    pub events: u64,
    /// What was left in it when it was last found not to be worth the move of it.
    pub refused_at: u64,
    /// Where its synced records end.
    pub end: u64,
    /// Times of the first and last event's id.
    pub times: Option<(u64, u64)>,
    /// The store time at which its newest event was accepted.
    pub newest: Age,
    /// The age of its newest idempotency key, if it has any.
    pub newest_key: Option<Age>,
}

/// Where a segment's entries are.
#[derive(Debug)]
pub enum Entries {
    /// In memory: the segment still grows, or its index file could not be written.
    Memory(Box<SegmentIndex>),
    /// In its index file.
    File(IndexFile),
}

/// One connection's deliveries in one segment.
#[derive(Debug, Default)]
pub struct Part {
    /// How many slots there are.
    pub slots: u32,
    /// Which ones no longer wait for their first attempt.
    pub left: Bits,
    /// Which ones of them are over.
    pub over: Bits,
}

/// One connection's deliveries in one segment that are neither over nor dead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotOver {
    /// The segment.
    pub segment: u32,
    /// Which ones.
    pub slots: Bits,
    /// The bytes of their records.
    pub bytes: u64,
}

/// Entries that are read at once where all of a segment's are looked at.
const ENTRIES: u32 = 4096;

/// One connection's deliveries in all segments.
#[derive(Debug)]
pub struct Stream {
    /// Its number.
    pub id: ConnectionId,
    /// Its name.
    pub name: String,
    /// Shared with ingress and metrics.
    pub counters: Arc<QueueCounters>,
    /// Why the daemon holds it, if it does: only kept here.
    pub suspension: Option<Suspension>,
    /// The egress runtime that delivers it; `None` holds it.
    pub feed: Option<usize>,
    /// The next delivery that was never handed out: segment and slot.
    pub cursor: (u32, u32),
    /// The next free slot, and the segment that this counts for.
    pub next_slot: (u32, u32),
    /// Deliveries that wait for their first attempt and were never handed out.
    pub waiting: u64,
    /// Deliveries handed out, by lane.
    pub out: [usize; 3],
    /// Whether the writer looks at it before its turn ends.
    pub touched: bool,
    /// What came off the schedule and is handed out.
    pub handed: BTreeMap<Place, Scheduled>,
    /// Those of them whose delivery was cancelled meanwhile.
    pub cancelled: HashSet<Place>,
    /// First attempts that came with a delay and are handed out; they are in `handed`, and count for the lane of new ones.
    pub delayed_out: usize,
    /// First attempts that the egress gave back.
    pub returned: VecDeque<Delivery>,
    /// Whether its deliveries are handed out so that an order can be kept.
    pub order: Ordered,
    /// Charges what waits here; see [`super::waits`].
    pub meter: Meter,
    /// Up to when that was done.
    pub metered: Age,
    /// Whether it is done before the writer's turn ends.
    pub to_meter: bool,
    /// Why it is held, while it is.
    pub held: Wait,
}

/// What stands for the name of a connection that has none: no configured name begins like this.
pub fn no_name(id: ConnectionId) -> String {
    format!("\u{0}lost-{}", id.0)
}

impl State {
    /// The connection with this name, made if it is new; whether it is new.
    pub fn register(&mut self, name: &str) -> (ConnectionId, bool) {
        if let Some(id) = self.names.get(name) {
            return (*id, false);
        }
        let id = ConnectionId(u32::try_from(self.streams.len()).unwrap_or(u32::MAX));
        self.names.insert(name.to_owned(), id);
        self.streams.push(Stream::new(id, name));
        (id, true)
    }

    /// Gives a connection another name. Who had that name before gets one that no connection can have.
    pub fn rename(&mut self, id: ConnectionId, name: &str) {
        if let Some(other) = self.names.remove(name).filter(|other| *other != id) {
            self.rename(other, &no_name(other));
        }
        let Some(stream) = self.streams.get_mut(id.0 as usize) else {
            return;
        };
        let old = std::mem::replace(&mut stream.name, name.to_owned());
        self.names.remove(&old);
        self.names.insert(name.to_owned(), id);
    }

    /// The stream of a connection.
    pub fn stream(&mut self, id: ConnectionId) -> Option<&mut Stream> {
        self.streams.get_mut(id.0 as usize)
    }

    /// The connection's part of a segment, and the segment's live count.
    pub fn part(&mut self, place: Place) -> Option<(&mut Part, &mut u64)> {
        let segment = self.segments.get_mut(&place.segment)?;
        Some((segment.parts.get_mut(&place.connection)?, &mut segment.live))
    }

    /// Notes that a delivery no longer waits for its first attempt. Whether that is news.
    pub fn leave(&mut self, place: Place) -> bool {
        self.part(place).is_some_and(|(part, _)| part.left.insert(place.slot))
    }

    /// Notes that a delivery is over: nothing of it needs its record any more.
    pub fn end(&mut self, place: Place) {
        if let Some((part, live)) = self.part(place)
            && place.slot < part.slots
            && part.over.insert(place.slot)
        {
            *live = live.saturating_sub(1);
        }
    }

    /// Notes that a delivery which was over needs its record again.
    pub fn revive(&mut self, place: Place) {
        if let Some((part, live)) = self.part(place)
            && part.over.contains(place.slot)
        {
            part.over.remove(place.slot);
            *live += 1;
        }
    }

    /// Charges what a connection's deliveries have waited here up to now.
    pub fn meter(&mut self, id: ConnectionId, now: Age) {
        let split = |lane| {
            let queue = schedule::queue(id, lane);
            let ripe = self.schedule.ripe(queue);
            (self.schedule.count(queue).saturating_sub(ripe), ripe)
        };
        let [new, retry, replay] = LANES.map(split);
        if let Some(stream) = self.streams.get_mut(id.0 as usize) {
            stream.to_meter = false;
            stream.meter(now, (new.0 + replay.0, retry.0, new.1 + retry.1 + replay.1));
        }
    }

    /// Brings a connection's gauges up to date.
    pub fn publish(&self, id: ConnectionId) {
        let Some(stream) = self.streams.get(id.0 as usize) else {
            return;
        };
        let waits = |lane| {
            let queue = schedule::queue(id, lane);
            self.schedule.count(queue).saturating_sub(self.schedule.ripe(queue))
        };
        stream.publish();
        let counters = &stream.counters;
        let scheduled = LANES.into_iter().map(waits).sum();
        counters.scheduled.store(scheduled, Ordering::Relaxed);
        counters.dead.store(self.dead.count(id.0), Ordering::Relaxed);
    }

    /// What of a connection is neither over nor dead, by segment; no more than a piece of an index is in memory at once.
    ///
    /// # Errors
    /// As the disk says.
    pub fn not_over(&self, connection: ConnectionId) -> io::Result<Vec<NotOver>> {
        let mut dead: BTreeMap<u32, Bits> = BTreeMap::new();
        self.dead.look(Some(connection.0), None, |letter, _| {
            dead.entry(letter.id.segment).or_default().insert(letter.id.slot);
        })?;
        let mut found = Vec::new();
        for (number, segment) in &self.segments {
            let Some(part) = segment.parts.get(&connection) else {
                continue;
            };
            let dead = dead.remove(number).unwrap_or_default();
            let mut ended = NotOver { segment: *number, slots: Bits::default(), bytes: 0 };
            let mut from = 0;
            while let Some(first) = part.over.first_absent(from, part.slots) {
                let read = ENTRIES.min(part.slots - first);
                for (slot, entry) in (first..).zip(segment.entries(connection, first, read)?) {
                    if !part.over.contains(slot) && !dead.contains(slot) {
                        ended.slots.insert(slot);
                        ended.bytes += u64::from(entry.size);
                    }
                }
                from = first + read;
            }
            found.push(ended);
        }
        Ok(found)
    }

    /// The next deliveries of a connection that wait for their first attempt, at most `room`, from its cursor on; moves
    /// the cursor past them.
    ///
    /// # Errors
    /// As the disk says; the cursor stays before what could not be read.
    pub fn take_waiting(
        &mut self,
        id: ConnectionId,
        room: usize,
    ) -> io::Result<Vec<(DeliveryId, u32)>> {
        let mut taken = Vec::new();
        let Some(stream) = self.streams.get_mut(id.0 as usize) else {
            return Ok(taken);
        };
        while taken.len() < room {
            let (number, slot) = stream.cursor;
            let Some((&number_found, segment)) = self.segments.range(number..).next() else {
                break;
            };
            let slot = if number_found == number { slot } else { 0 };
            stream.cursor = (number_found, slot);
            let waiting = match segment.waiting(id, slot, room - taken.len()) {
                Ok(waiting) => waiting,
                // What was taken is behind the cursor: it must go out.
                Err(_) if !taken.is_empty() => break,
                Err(error) => return Err(error),
            };
            for (slot, entry) in &waiting {
                let id = DeliveryId {
                    connection: id,
                    segment: number_found,
                    slot: *slot,
                    offset: entry.offset,
                };
                taken.push((id, entry.size));
                stream.cursor = (number_found, slot + 1);
            }
            if waiting.is_empty() {
                // Nothing more in this segment. The newest one still grows: the cursor waits at its end.
                let slots = segment.parts.get(&id).map_or(0, |part| part.slots);
                if self.segments.range(number_found + 1..).next().is_none() {
                    stream.cursor = (number_found, slots);
                    break;
                }
                stream.cursor = (number_found + 1, 0);
            }
        }
        Ok(taken)
    }
}

impl Segment {
    /// A segment that grows.
    pub fn new(file_bytes: u64) -> Segment {
        let entries = Entries::Memory(Box::default());
        Segment {
            file_bytes,
            index_bytes: 0,
            entries,
            parts: BTreeMap::new(),
            live: 0,
            events: 0,
            refused_at: u64::MAX,
            end: FILE_HEADER,
            times: None,
            newest: Age(0),
            newest_key: None,
        }
    }

    /// Deliveries that wait for their first attempt, from `slot` on, at most `room`.
    fn waiting(
        &self,
        connection: ConnectionId,
        mut slot: u32,
        room: usize,
    ) -> io::Result<Vec<(u32, Entry)>> {
        let Some(part) = self.parts.get(&connection) else {
            return Ok(Vec::new());
        };
        // A piece whose deliveries all left out of order gives nothing: look further on.
        while let Some(first) = part.left.first_absent(slot, part.slots) {
            let count = u32::try_from(room).unwrap_or(u32::MAX).min(part.slots - first);
            let entries = self.entries(connection, first, count)?;
            let waits = |slot: u32, entry: &Entry| entry.size > 0 && !part.left.contains(slot);
            let waiting: Vec<_> =
                (first..).zip(entries).filter(|(slot, entry)| waits(*slot, entry)).collect();
            if !waiting.is_empty() {
                return Ok(waiting);
            }
            slot = first + count;
        }
        Ok(Vec::new())
    }

    /// Entries of `count` slots from `first` on.
    ///
    /// # Errors
    /// As the disk says.
    pub fn entries(
        &self,
        connection: ConnectionId,
        first: u32,
        count: u32,
    ) -> io::Result<Vec<Entry>> {
        match &self.entries {
            Entries::Memory(index) => Ok(index.entries(connection, first, count).collect()),
            Entries::File(index) => index.entries(connection, first, count),
        }
    }
}

impl Stream {
    fn new(id: ConnectionId, name: &str) -> Stream {
        Stream {
            id,
            name: name.to_owned(),
            counters: Arc::default(),
            suspension: None,
            feed: None,
            cursor: (0, 0),
            next_slot: (0, 0),
            waiting: 0,
            out: [0; 3],
            touched: false,
            handed: BTreeMap::new(),
            cancelled: HashSet::new(),
            delayed_out: 0,
            returned: VecDeque::new(),
            order: Ordered::No,
            meter: Meter::default(),
            metered: Age(0),
            to_meter: false,
            held: Wait::Orphaned,
        }
    }

    /// Charges what waited here up to now for what it waited for, and notes who waits from now on: for their time, with
    /// `ripe` more whose time has come.
    pub fn meter(&mut self, now: Age, (delayed, tried, ripe): (u64, u64, u64)) {
        let behind = self.waiting + self.returned.len() as u64 + ripe;
        let gate = if self.feed.is_some() { self.counters.waits.gate() } else { self.held };
        let waiting = [(behind, gate), (delayed, Wait::Delay), (tried, Wait::Backoff)];
        let elapsed = now.since(self.metered);
        self.metered = now;
        self.meter.turn(elapsed, waiting, &self.counters.waits);
    }

    /// How many more deliveries of a lane may be handed out: each lane has a window of its own, so that none starves.
    pub fn room(&self, lane: Lane) -> usize {
        let window = match lane {
            Lane::New => super::WINDOW_NEW,
            Lane::Retry => super::WINDOW_RETRY,
            Lane::Replay => super::WINDOW_REPLAY,
        };
        let Some(parked) = self.order.parked(lane) else {
            return 0;
        };
        let window = window + parked;
        let used = self.out.get(lane as usize).copied().unwrap_or(0);
        window.saturating_sub(used)
    }

    /// Counts a delivery of a lane as handed out.
    pub fn hand_out(&mut self, lane: Lane) {
        if let Some(out) = self.out.get_mut(lane as usize) {
            *out += 1;
        }
    }

    /// Counts a delivery of a lane as come back.
    pub fn take_back(&mut self, lane: Lane) {
        if let Some(out) = self.out.get_mut(lane as usize) {
            *out = out.saturating_sub(1);
        }
    }

    /// How many deliveries of a lane may come off the schedule now. Delayed first attempts share the window of new ones:
    /// while others wait, they take at most half of it.
    pub fn room_for_scheduled(&self, lane: Lane) -> usize {
        let room = self.room(lane);
        if lane != Lane::New || self.waiting == 0 {
            return room;
        }
        room.min((super::WINDOW_NEW / 2).saturating_sub(self.delayed_out))
    }

    /// Takes what was handed out off the list of what came off the schedule, if it is there.
    pub fn take_handed(&mut self, place: Place) -> Option<Scheduled> {
        let scheduled = self.handed.remove(&place)?;
        if scheduled.lane == Lane::New {
            self.delayed_out = self.delayed_out.saturating_sub(1);
        }
        Some(scheduled)
    }

    /// Notes that something off the schedule is handed out.
    pub fn note_handed(&mut self, scheduled: Scheduled) {
        if scheduled.lane == Lane::New {
            self.delayed_out += 1;
        }
        self.handed.insert(Place::from(scheduled.id), scheduled);
        self.hand_out(scheduled.lane);
    }

    /// Takes a slot in the segment that grows.
    pub fn take_slot(&mut self, segment: u32) -> u32 {
        if self.next_slot.0 != segment {
            self.next_slot = (segment, 0);
        }
        let slot = self.next_slot.1;
        self.next_slot.1 += 1;
        slot
    }

    /// Brings the gauge of what is handed out up to date.
    pub fn publish(&self) {
        let handed: usize = self.out.iter().sum();
        self.counters.handed_out.store(handed as u64, Ordering::Relaxed);
    }
}
