//! Marks: the newest snapshot and the logs after it, put together.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;

use super::super::bits::Bits;
use super::super::dead_letter::DeadLetter;
use super::super::disk::Disk;
use super::super::file::{log_name, scan, snapshot_name};
use super::super::log::{KIND_END, KIND_OVER, KIND_RUN};
use super::super::marks::{KIND_MARKS, Mark, Marks, Place, Run, TimeStamp, decode_stamp};
use super::super::record::{FileKind, Reader, Record};
use super::super::schedule::Scheduled;
use super::super::shelf::RunState;
use super::super::state::no_name;
use super::super::suspension::Suspension;
use super::super::{ConnectionId, FIRST_HOT, OpenError};
use super::files::{note_damage, open, quarantine};
use super::listed::Listed;
use super::{Recovered, remove_older};

/// Marks and bits as they were read, before the segments are looked at.
#[derive(Debug, Default)]
pub(super) struct Marked {
    pub(super) names: BTreeMap<ConnectionId, String>,
    /// Which connections the daemon holds.
    pub(super) suspended: BTreeMap<ConnectionId, Suspension>,
    /// What is over.
    pub(super) over: HashMap<(u32, ConnectionId), Bits>,
    /// What is over in segments that are gone: from the first to before the last slot. A run may still speak of it.
    pub(super) over_and_gone: HashMap<(u32, ConnectionId), Vec<(u32, u32)>>,
    /// What waits for a time or is dead, by marks.
    pub(super) latest: HashMap<Place, Latest>,
    /// The runs that the snapshot speaks of.
    pub(super) runs: Vec<RunState>,
    /// A power cut may take the snapshot back: runs that an older one speaks of must stay.
    pub(super) uncertain: bool,
    /// Connections whose scheduled deliveries in runs were cancelled.
    pub(super) cancelled: HashSet<ConnectionId>,
    /// What is on a shelf, by marks or in runs.
    pub(super) shelved: HashMap<(u32, ConnectionId), Bits>,
    /// Slots that the snapshot's bits speak of.
    pub(super) covered: HashMap<(u32, ConnectionId), u32>,
    /// Deliveries in cold segments that wait for their first attempt, by marks after the snapshot.
    pub(super) moved: HashSet<Place>,
    pub(super) sealed: BTreeMap<u32, u64>,
    /// How many slots each segment that is there can have.
    pub(super) room: BTreeMap<u32, u32>,
    /// Per connection, the place before which all is cancelled.
    pub(super) discarded: HashMap<ConnectionId, (u32, u32)>,
    /// The same for cold segments: their slots before which all is cancelled.
    pub(super) discarded_cold: HashMap<(u32, ConnectionId), u32>,
    pub(super) stamp: TimeStamp,
}

/// The last that a mark said of a delivery that is not over.
#[derive(Clone, Copy, Debug)]
pub(super) enum Latest {
    Scheduled(Scheduled),
    Dead(DeadLetter),
}

/// The newest snapshot that validates, and all logs from its number on.
pub(super) fn read_marks(
    disk: &dyn Disk,
    listed: &Listed,
    recovered: &mut Recovered,
) -> Result<Marked, OpenError> {
    let mut marked = Marked { room: listed.room.clone(), ..Marked::default() };
    let mut from = 0;
    for number in listed.snapshots.iter().rev() {
        if let Some(snapshot) = read_snapshot(disk, *number, listed, recovered)? {
            (marked, from) = (snapshot, *number);
            break;
        }
    }
    // A power cut can bring older files back; on a full disk their space is needed. First it must be certain that the
    // snapshot stays.
    marked.uncertain = from > 0 && disk.sync_dir().is_err();
    if from > 0 && !marked.uncertain {
        remove_older(disk, from);
    }
    for number in listed.logs.iter().filter(|number| **number >= from) {
        let name = log_name(*number);
        let Some(file) = open(disk, &name, FileKind::StateLog, recovered)? else {
            continue;
        };
        let report = scan(&file, |_, record| marked.apply_record(record));
        let report = report.map_err(|error| OpenError::Io("read a state log", error))?;
        note_damage(disk, &file, &name, &report.damaged, recovered);
    }
    Ok(marked)
}

pub(super) fn read_snapshot(
    disk: &dyn Disk,
    number: u32,
    listed: &Listed,
    recovered: &mut Recovered,
) -> Result<Option<Marked>, OpenError> {
    let name = snapshot_name(number);
    let Some(file) = open(disk, &name, FileKind::Snapshot, recovered)? else {
        return Ok(None);
    };
    let mut marked = Marked { room: listed.room.clone(), ..Marked::default() };
    let (mut records, mut complete) = (0u64, false);
    let scanned = scan(&file, |_, record| {
        complete = record.kind == KIND_END && Reader::new(record.body).u64() == Some(records);
        records += 1;
        marked.apply_record(record);
    });
    // A disk that cannot be read just now says nothing about the snapshot: without it, all marks would be lost.
    let report = scanned.map_err(|error| OpenError::Io("read a snapshot", error))?;
    if report.unreadable > 0 {
        let error = io::Error::other("a part of it cannot be read");
        return Err(OpenError::Io("read a snapshot", error));
    }
    if complete {
        return Ok(Some(marked));
    }
    recovered.corrupt += 1;
    tracing::error!(
        file = name,
        "A snapshot is damaged; the state is put together from older files: duplicates are possible."
    );
    quarantine(disk, &name);
    Ok(None)
}

impl Marked {
    /// Whether a mark or the snapshot speaks of a segment.
    pub(super) fn knows(&self, segment: u32) -> bool {
        let bits = self.over.keys().chain(self.over_and_gone.keys());
        self.sealed.contains_key(&segment) || bits.into_iter().any(|(number, _)| *number == segment)
    }

    /// Segments are there that were not known by their names.
    pub(super) fn make_room(&mut self, room: &BTreeMap<u32, u32>) {
        for (segment, room) in room {
            let known = self.room.entry(*segment).or_default();
            *known = (*known).max(*room);
        }
        for (key, ended) in std::mem::take(&mut self.over_and_gone) {
            let Some(room) = self.room.get(&key.0) else {
                self.over_and_gone.insert(key, ended);
                continue;
            };
            let over = self.over.entry(key).or_default();
            for (first, end) in ended {
                over.insert_range(first, end.min(*room));
            }
        }
    }

    pub(super) fn apply_record(&mut self, record: &Record<'_>) {
        let mut reader = Reader::new(record.body);
        match record.kind {
            KIND_MARKS => {
                if let Some(stamp) = decode_stamp(&mut reader) {
                    self.stamp = stamp;
                }
                Marks::new(reader).for_each(|mark| self.apply(mark));
            }
            KIND_OVER => self.apply_over(&mut reader),
            KIND_RUN => self.runs.extend(RunState::decode(&mut reader)),
            _ => {}
        }
    }

    pub(super) fn apply_over(&mut self, reader: &mut Reader<'_>) {
        let (Some(segment), Some(connection)) = (reader.u32(), reader.u32()) else {
            return;
        };
        let (Some(slots), Some(_)) = (reader.u32(), reader.u32()) else {
            return;
        };
        self.covered.insert((segment, ConnectionId(connection)), slots);
        let words = std::iter::from_fn(|| reader.u64()).collect();
        self.over.insert((segment, ConnectionId(connection)), Bits::from_words(words));
    }

    pub(super) fn apply(&mut self, mark: Mark) {
        match mark {
            Mark::Name(id, name) => {
                self.names.insert(id, name);
            }
            Mark::Renamed(id, name) => self.rename(id, name),
            Mark::Sealed { segment, end } => {
                self.sealed.insert(segment, end);
            }
            Mark::Suspended(id, Some(suspension)) => drop(self.suspended.insert(id, suspension)),
            Mark::Suspended(id, None) => drop(self.suspended.remove(&id)),
            Mark::Delivered(run) => self.end_run(run),
            Mark::Scheduled(scheduled) => {
                self.shelve(scheduled.id.into(), Latest::Scheduled(scheduled));
            }
            Mark::Dead(dead) => self.shelve(dead.id.into(), Latest::Dead(dead)),
            Mark::Discarded(end) => self.discard(end),
            Mark::Moved { from, to } => {
                self.end(from);
                self.moved.insert(Place::from(to));
            }
        }
    }

    fn rename(&mut self, id: ConnectionId, name: String) {
        let others = self.names.iter_mut().filter(|(other, _)| **other != id);
        others.filter(|(_, known)| **known == name).for_each(|(other, known)| {
            *known = no_name(*other);
        });
        self.names.insert(id, name);
    }

    /// The last mark of a delivery is all that counts: forget the earlier ones.
    pub(super) fn end(&mut self, place: Place) {
        self.end_run(Run { first: place, count: 1 });
    }

    pub(super) fn end_run(&mut self, run: Run) {
        let Place { segment, connection, slot } = run.first;
        let end = slot.saturating_add(run.count);
        match self.room.get(&segment) {
            // A slot that its segment cannot have takes no memory.
            Some(room) => {
                let over = self.over.entry((segment, connection)).or_default();
                over.insert_range(slot, end.min(*room));
            }
            None => self.over_and_gone.entry((segment, connection)).or_default().push((slot, end)),
        }
        if self.latest.is_empty() && self.moved.is_empty() {
            return;
        }
        let within = |place: &Place| {
            (place.segment, place.connection) == (segment, connection)
                && (slot..end).contains(&place.slot)
        };
        if run.count == 1 {
            self.latest.remove(&run.first);
            self.moved.remove(&run.first);
        } else if (end.saturating_sub(slot) as usize) < self.latest.len() + self.moved.len() {
            for slot in slot..end {
                self.latest.remove(&Place { segment, connection, slot });
                self.moved.remove(&Place { segment, connection, slot });
            }
        } else {
            self.latest.retain(|place, _| !within(place));
            self.moved.retain(|place| !within(place));
        }
    }

    pub(super) fn shelve(&mut self, place: Place, latest: Latest) {
        self.moved.remove(&place);
        if let Some(over) = self.over.get_mut(&(place.segment, place.connection)) {
            over.remove(place.slot);
        }
        self.latest.insert(place, latest);
    }

    pub(super) fn room(&self, segment: u32) -> u32 {
        self.room.get(&segment).copied().unwrap_or(0)
    }

    /// What is in cold segments at this point of the log is cancelled at once: later ones may be moved there.
    pub(super) fn discard(&mut self, end: Place) {
        self.discarded.insert(end.connection, (end.segment, end.slot));
        self.cancelled.insert(end.connection);
        let mut ended = Vec::new();
        self.latest.retain(|place, latest| {
            let cancelled = place.connection == end.connection
                && matches!(latest, Latest::Scheduled(_))
                && (place.segment, place.slot) < (end.segment, end.slot);
            if cancelled {
                ended.push(*place);
            }
            !cancelled
        });
        ended.into_iter().for_each(|place| self.end(place));
        self.moved.retain(|place| place.connection != end.connection);
        let cold = self.covered.iter().filter(|((segment, connection), _)| {
            *connection == end.connection && *segment < FIRST_HOT
        });
        self.discarded_cold.extend(cold);
    }

    /// Whether a run's entry is what counts: no mark after the snapshot speaks of its delivery.
    pub(super) fn is_current(&self, place: Place) -> bool {
        let key = (place.segment, place.connection);
        let over = self.over.get(&key).is_some_and(|over| over.contains(place.slot));
        let mut gone = self.over_and_gone.get(&key).into_iter().flatten();
        let gone = gone.any(|(first, end)| (*first..*end).contains(&place.slot));
        !over && !gone && !self.latest.contains_key(&place)
    }
}
