//! Opening a store: read the newest snapshot and the logs after it, look at every segment, and put the state together.
//!
//! What does not validate is skipped, counted and set aside in `quarantine/`; nothing but an unknown format version, a
//! lock or a disk that cannot be read makes an open fail. Every record that validates is kept: delivering an event that
//! was never acknowledged is allowed, losing one that was is not.

mod headers;
mod strays;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;

use super::bits::Bits;
use super::disk::Disk;
use super::feed::Lane;
use super::file::{
    FileError, Named, StoreFile, classify, index_name, key_log_name, log_name, make_durable,
    new_header, run_name, scan, segment_name, snapshot_name,
};
use super::key_log::KeyFile;
use super::keys::{KeyRecord, Newest};
use super::log::{KIND_END, KIND_OVER, KIND_RUN};
use super::marks::{DeadLetter, KIND_MARKS, Mark, Marks, Place, Run, TimeStamp, decode_stamp};
use super::reader::Files;
use super::record::{FileKind, HeaderError, Reader, Record};
use super::schedule::{self, Scheduled};
use super::segment_index::{SegmentIndex, slots_at_most, slots_of_index};
use super::shelf::{Found, Item, RunState, Shelf, ShelfLimits};
use super::state::{Entries, Part, Segment, State};
use super::{ConnectionId, DeliveryId, FIRST_HOT, OpenError, QUARANTINE, spare_name};
use crate::clock::Age;

/// What an open found.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    pub(super) state: State,
    pub(super) files: Files,
    /// The highest number of a log or snapshot there is.
    pub(super) log_number: u32,
    pub(super) next_segment: u32,
    pub(super) next_cold: u32,
    pub(super) next_run: u32,
    pub(super) spares: Vec<u32>,
    /// Segments that nothing needs.
    pub(super) drained: Vec<u32>,
    /// Places that were damaged.
    pub(super) corrupt: u64,
    /// When marks were written last.
    pub(super) stamp: TimeStamp,
    /// The latest store time of an event that was scanned.
    pub(super) last_age: Age,
    /// The newest idempotency keys.
    pub(super) keys: Newest,
    /// The key logs there are.
    pub(super) key_files: Vec<KeyFile>,
}

/// Marks and bits as they were read, before the segments are looked at.
#[derive(Debug, Default)]
struct Marked {
    names: BTreeMap<ConnectionId, String>,
    /// What is over.
    over: HashMap<(u32, ConnectionId), Bits>,
    /// What is over in segments that are gone: from the first to before the last slot. A run may still speak of it.
    over_and_gone: HashMap<(u32, ConnectionId), Vec<(u32, u32)>>,
    /// What waits for a time or is dead, by marks.
    latest: HashMap<Place, Latest>,
    /// The runs that the snapshot speaks of.
    runs: Vec<RunState>,
    /// Connections whose scheduled deliveries in runs were cancelled.
    cancelled: HashSet<ConnectionId>,
    /// What is on a shelf, by marks or in runs.
    shelved: HashMap<(u32, ConnectionId), Bits>,
    /// Slots that the snapshot's bits speak of.
    covered: HashMap<(u32, ConnectionId), u32>,
    /// Deliveries in cold segments that wait for their first attempt, by marks after the snapshot.
    moved: HashSet<Place>,
    sealed: BTreeMap<u32, u64>,
    /// How many slots each segment that is there can have.
    room: BTreeMap<u32, u32>,
    /// Per connection, the place before which all is cancelled.
    discarded: HashMap<ConnectionId, (u32, u32)>,
    /// The same for cold segments: their slots before which all is cancelled.
    discarded_cold: HashMap<(u32, ConnectionId), u32>,
    stamp: TimeStamp,
}

/// The last that a mark said of a delivery that is not over.
#[derive(Clone, Copy, Debug)]
enum Latest {
    Scheduled(Scheduled),
    Dead(DeadLetter),
}

/// Reads the store.
///
/// # Errors
/// [`OpenError`]: an unknown version, or a disk that cannot be read.
pub(super) fn recover(
    disk: &dyn Disk,
    max_keys: usize,
    shelf: ShelfLimits,
) -> Result<Recovered, OpenError> {
    let mut listed = Listed::new(disk)?;
    let state = State { schedule: Shelf::new(shelf), dead: Shelf::new(shelf), ..State::default() };
    let mut recovered = Recovered {
        state,
        spares: listed.spares.clone(),
        keys: Newest::new(max_keys),
        ..Recovered::default()
    };
    let mut marked = read_marks(disk, &listed, &mut recovered)?;
    recovered.stamp = marked.stamp;
    let strays = strays::put_right(disk, &mut listed.segments, |number| marked.knows(number))?;
    if strays > 0 {
        recovered.corrupt += strays;
        marked.make_room(&Listed::new(disk)?.room);
    }
    recovered.log_number = listed.logs.iter().chain(&listed.snapshots).copied().max().unwrap_or(0);
    let (cold, hot): (Vec<u32>, Vec<u32>) =
        listed.segments.iter().partition(|number| **number < FIRST_HOT);
    recovered.next_segment = hot.last().map_or(FIRST_HOT, |last| last.saturating_add(1));
    recovered.next_cold = cold.last().map_or(1, |last| last.saturating_add(1));
    recovered.next_run = listed.runs.last().map_or(1, |last| last.saturating_add(1));
    register_names(&mut recovered.state, &marked.names);
    read_key_logs(disk, &listed, &mut recovered)?;
    fill_shelves(disk, &mut marked, &mut recovered)?;
    remove_other_runs(disk, &listed, &marked);
    for number in &listed.segments {
        recover_segment(disk, *number, &mut marked, &mut recovered)?;
    }
    recovered.last_age = recovered.last_age.max(recovered.keys.latest().unwrap_or_default());
    count_shelves(&mut recovered)?;
    count_live(&mut recovered);
    Ok(recovered)
}

/// Removes the logs and snapshots that snapshot `number` replaces.
pub(super) fn remove_older(disk: &dyn Disk, number: u32) {
    for (name, _) in disk.list().unwrap_or_default() {
        if let Named::Log(older) | Named::Snapshot(older) = classify(&name)
            && older < number
        {
            // What stays is read again, and changes nothing.
            let _ = disk.remove(&name);
        }
    }
}

/// The directory's files, by kind and in order.
#[derive(Debug, Default)]
struct Listed {
    segments: Vec<u32>,
    /// How many slots each of them can have.
    room: BTreeMap<u32, u32>,
    logs: Vec<u32>,
    snapshots: Vec<u32>,
    spares: Vec<u32>,
    key_logs: Vec<u32>,
    runs: Vec<u32>,
}

impl Listed {
    fn new(disk: &dyn Disk) -> Result<Listed, OpenError> {
        let mut listed = Listed::default();
        let mut indexes = Vec::new();
        let files = disk.list().map_err(|error| OpenError::Io("list the directory", error))?;
        for (name, bytes) in files {
            match classify(&name) {
                Named::Segment(number) => {
                    listed.segments.push(number);
                    let room = listed.room.entry(number).or_default();
                    *room = slots_at_most(bytes).max(*room);
                }
                Named::Index(number) => {
                    indexes.push((number, bytes));
                }
                Named::Log(number) => listed.logs.push(number),
                Named::Snapshot(number) => listed.snapshots.push(number),
                Named::Spare(number) => listed.spares.push(number),
                Named::KeyLog(number) => listed.key_logs.push(number),
                Named::Run(number) => listed.runs.push(number),
                Named::Temporary => drop(disk.remove(&name)),
                // The history opens its files itself.
                Named::Own | Named::Attempts(_) => {}
                Named::Foreign => tracing::warn!(
                    file = name,
                    "Ignored a file in the store's directory that is not the store's."
                ),
            }
        }
        for list in [
            &mut listed.segments,
            &mut listed.logs,
            &mut listed.snapshots,
            &mut listed.spares,
            &mut listed.key_logs,
            &mut listed.runs,
        ] {
            list.sort_unstable();
        }
        for (number, bytes) in indexes {
            match listed.room.get_mut(&number) {
                // A segment that was cut may have fewer bytes than its index speaks of.
                Some(room) => *room = slots_of_index(bytes).max(*room),
                None => drop(disk.remove(&index_name(number))),
            }
        }
        Ok(listed)
    }
}

/// The newest snapshot that validates, and all logs from its number on.
fn read_marks(
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
    if from > 0 && disk.sync_dir().is_ok() {
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

/// All keys of segments that were given back.
fn read_key_logs(
    disk: &dyn Disk,
    listed: &Listed,
    recovered: &mut Recovered,
) -> Result<(), OpenError> {
    for number in &listed.key_logs {
        let name = key_log_name(*number);
        let Some(file) = open(disk, &name, FileKind::Keys, recovered)? else {
            continue;
        };
        let mut found = KeyFile::new(*number);
        let report = scan(&file, |_, record| {
            found.note(record, |key| recovered.keys.push(key));
        });
        let report = report.map_err(|error| OpenError::Io("read a key log", error))?;
        note_damage(disk, &file, &name, &report.damaged, recovered);
        recovered.key_files.push(found);
    }
    Ok(())
}

fn read_snapshot(
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

/// Opens a file, its header mended where that can be. `None`: it cannot; the file was set aside.
fn open(
    disk: &dyn Disk,
    name: &str,
    kind: FileKind,
    recovered: &mut Recovered,
) -> Result<Option<StoreFile>, OpenError> {
    match StoreFile::open(disk, name, kind) {
        Ok(file) => Ok(Some(file)),
        Err(FileError::Header(HeaderError::UnknownVersion(version))) => {
            Err(OpenError::UnknownVersion { file: name.to_owned(), version })
        }
        Err(FileError::Header(HeaderError::Damaged)) => {
            if is_blank(disk, name) {
                let _ = disk.remove(name);
                return Ok(None);
            }
            recovered.corrupt += 1;
            let mended = headers::mend(disk, name, kind);
            if mended.is_some() {
                tracing::error!(file = name, "A file's header had a wrong byte; it was mended.");
            } else {
                tracing::error!(
                    file = name,
                    "A file of the store has a damaged header; it was moved to quarantine"
                );
                quarantine(disk, name);
            }
            Ok(mended)
        }
        Err(FileError::Io(error)) => Err(OpenError::Io("open a file of the store", error)),
    }
}

/// A segment whose header is damaged, and whose index has the nonce without which nothing in it could be read.
fn reopen(disk: &dyn Disk, name: &str, number: u32) -> Option<StoreFile> {
    match StoreFile::open(disk, name, FileKind::Segment) {
        Err(FileError::Header(HeaderError::Damaged)) => {}
        _ => return None,
    }
    let index = StoreFile::open(disk, &index_name(number), FileKind::Index).ok()?;
    let header = new_header(FileKind::Segment, number, index.header.nonce, index.header.created_ms);
    let file = disk.open(name).ok()?;
    // If it cannot be mended, the next start does this again.
    let _ = file.write_all_at(&header.encode(), 0);
    (index.header.number == number).then_some(StoreFile { file, header })
}

/// Whether a file's header is all zeros: it was being created when the process stopped; nothing in it was acknowledged.
fn is_blank(disk: &dyn Disk, name: &str) -> bool {
    let mut head = [0; 64];
    let Ok(file) = disk.open(name) else {
        return false;
    };
    let length = file.length().unwrap_or(0).min(64);
    let Some(head) = head.get_mut(..usize::try_from(length).unwrap_or(0)) else {
        return false;
    };
    file.read_exact_at(head, 0).is_ok() && head.iter().all(|byte| *byte == 0)
}

fn quarantine(disk: &dyn Disk, name: &str) {
    if let Err(error) = disk.rename(name, &format!("{QUARANTINE}/{name}")) {
        tracing::warn!(%error, file = name, "Could not move a damaged file to quarantine.");
    }
}

/// The largest damaged place that is kept for a look.
const QUARANTINE_BYTES: u64 = 16 << 20;

/// Counts damaged places, says where they are, and keeps their bytes.
fn note_damage(
    disk: &dyn Disk,
    file: &StoreFile,
    name: &str,
    damaged: &[(u64, u64)],
    recovered: &mut Recovered,
) {
    for (start, end) in damaged {
        recovered.corrupt += 1;
        tracing::error!(
            file = name,
            start,
            end,
            "A part of the store is damaged; the bytes were kept in quarantine."
        );
        let length = usize::try_from((end - start).min(QUARANTINE_BYTES)).unwrap_or(0);
        let mut bytes = vec![0; length];
        let copy = format!("{QUARANTINE}/{name}.{start}-{end}");
        let _ = disk.remove(&copy);
        let kept = file
            .file
            .read_exact_at(&mut bytes, *start)
            .and_then(|()| disk.create(&copy)?.write_all_at(&bytes, 0));
        if let Err(error) = kept {
            tracing::warn!(%error, "Could not keep the damaged bytes.");
        }
    }
}

impl Marked {
    /// Whether a mark or the snapshot speaks of a segment.
    fn knows(&self, segment: u32) -> bool {
        let bits = self.over.keys().chain(self.over_and_gone.keys());
        self.sealed.contains_key(&segment) || bits.into_iter().any(|(number, _)| *number == segment)
    }

    /// Segments are there that were not known by their names.
    fn make_room(&mut self, room: &BTreeMap<u32, u32>) {
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

    fn apply_record(&mut self, record: &Record<'_>) {
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

    fn apply_over(&mut self, reader: &mut Reader<'_>) {
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

    fn apply(&mut self, mark: Mark) {
        match mark {
            Mark::Name(id, name) => {
                self.names.insert(id, name);
            }
            Mark::Sealed { segment, end } => {
                self.sealed.insert(segment, end);
            }
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

    /// The last mark of a delivery is all that counts: forget the earlier ones.
    fn end(&mut self, place: Place) {
        self.end_run(Run { first: place, count: 1 });
    }

    fn end_run(&mut self, run: Run) {
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

    fn shelve(&mut self, place: Place, latest: Latest) {
        self.moved.remove(&place);
        if let Some(over) = self.over.get_mut(&(place.segment, place.connection)) {
            over.remove(place.slot);
        }
        self.latest.insert(place, latest);
    }

    fn room(&self, segment: u32) -> u32 {
        self.room.get(&segment).copied().unwrap_or(0)
    }

    /// What is in cold segments at this point of the log is cancelled at once: later ones may be moved there.
    fn discard(&mut self, end: Place) {
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
    fn is_current(&self, place: Place) -> bool {
        let key = (place.segment, place.connection);
        let over = self.over.get(&key).is_some_and(|over| over.contains(place.slot));
        let mut gone = self.over_and_gone.get(&key).into_iter().flatten();
        let gone = gone.any(|(first, end)| (*first..*end).contains(&place.slot));
        !over && !gone && !self.latest.contains_key(&place)
    }
}

/// Notes that a delivery is on a shelf. A slot that its segment cannot have takes no memory.
fn note(shelved: &mut HashMap<(u32, ConnectionId), Bits>, place: Place, room: u32) {
    if place.slot < room {
        shelved.entry((place.segment, place.connection)).or_default().insert(place.slot);
    }
}

/// Puts what is scheduled or dead on its shelf.
fn fill_shelves(
    disk: &dyn Disk,
    marked: &mut Marked,
    recovered: &mut Recovered,
) -> Result<(), OpenError> {
    let mut shelved = HashMap::new();
    let state = &mut recovered.state;
    let mut damaged = 0;
    for run in &marked.runs {
        let mut keep = |place: Place, cancelled: bool| {
            let current = !cancelled && marked.is_current(place);
            if current {
                note(&mut shelved, place, marked.room(place.segment));
            }
            current
        };
        let found = if run.shelf == Scheduled::SHELF {
            let cancelled = |id: ConnectionId| marked.cancelled.contains(&id);
            state.schedule.reopen(disk, run, |scheduled: &Scheduled| {
                keep(scheduled.id.into(), cancelled(scheduled.id.connection))
            })
        } else {
            state.dead.reopen(disk, run, |dead: &DeadLetter| keep(dead.id.into(), false))
        };
        damaged += damage_of(disk, run.number, found)?;
    }
    for (place, latest) in std::mem::take(&mut marked.latest) {
        note(&mut shelved, place, marked.room(place.segment));
        match latest {
            Latest::Scheduled(scheduled) => drop(state.schedule.insert(scheduled)),
            Latest::Dead(dead) => drop(state.dead.insert(dead)),
        }
    }
    marked.shelved = shelved;
    recovered.corrupt += damaged;
    Ok(())
}

/// Damaged places of a run; what cannot be used is set aside. Its deliveries wait for a first attempt again.
fn damage_of(
    disk: &dyn Disk,
    number: u32,
    found: Result<Found, FileError>,
) -> Result<u64, OpenError> {
    let name = run_name(number);
    let unusable = Found { unusable: true, ..Found::default() };
    let found = match found {
        Err(FileError::Header(HeaderError::UnknownVersion(version))) => {
            return Err(OpenError::UnknownVersion { file: name, version });
        }
        Err(FileError::Header(HeaderError::Damaged)) => unusable,
        Err(FileError::Io(error)) if error.kind() == io::ErrorKind::NotFound => unusable,
        Err(FileError::Io(error)) => return Err(OpenError::Io("read a run", error)),
        Ok(found) => found,
    };
    if found == Found::default() {
        return Ok(0);
    }
    tracing::error!(
        file = name,
        "A file of scheduled or dead deliveries is damaged; those it held are tried again at once."
    );
    if found.unusable {
        quarantine(disk, &name);
    }
    Ok(found.damaged.max(1))
}

/// Runs that the snapshot does not speak of: what they held is in the log.
fn remove_other_runs(disk: &dyn Disk, listed: &Listed, marked: &Marked) {
    for number in &listed.runs {
        if !marked.runs.iter().any(|run| run.number == *number) {
            let _ = disk.remove(&run_name(*number));
        }
    }
}

/// Names that may be lost before an id is not believed: each takes memory.
const LOST_NAMES: usize = 4096;

fn register_names(state: &mut State, names: &BTreeMap<ConnectionId, String>) {
    let known = state.streams.iter().filter(|stream| !stream.name.starts_with('\u{0}')).count();
    let end = known + names.len() + LOST_NAMES;
    for (id, name) in names {
        if id.0 as usize >= end {
            tracing::error!(id = id.0, "A connection's number is not possible; it was ignored.");
            continue;
        }
        // Ids are dense; a gap is a name whose mark was lost. Nothing that is kept refers to it, but its number stays taken.
        while state.streams.len() < id.0 as usize {
            state.register(&format!("\u{0}lost-{}", state.streams.len()));
        }
        if state.streams.len() == id.0 as usize {
            state.register(name);
        } else if let Some(stream) = state.streams.get_mut(id.0 as usize)
            && stream.name.starts_with('\u{0}')
        {
            state.names.remove(&stream.name);
            stream.name.clone_from(name);
            state.names.insert(name.clone(), *id);
        }
    }
}

fn recover_segment(
    disk: &dyn Disk,
    number: u32,
    marked: &mut Marked,
    recovered: &mut Recovered,
) -> Result<(), OpenError> {
    let name = segment_name(number);
    let file = match reopen(disk, &name, number) {
        Some(file) => {
            recovered.corrupt += 1;
            tracing::error!(
                file = name,
                "A segment's header was damaged; it was put together from its index's"
            );
            file
        }
        None => match open(disk, &name, FileKind::Segment, recovered)? {
            Some(file) => file,
            None => return Ok(()),
        },
    };
    if file.header.number != number {
        // A recycled file whose rename did not last: nothing in it was acknowledged under this name.
        make_spare(disk, &name, number, recovered);
        return Ok(());
    }
    let file_bytes = file.file.length().map_err(|error| OpenError::Io("read a segment", error))?;
    let (index, entries) = match SegmentIndex::read(disk, &file) {
        Some((index_file, index)) => (index, Entries::File(index_file)),
        None => rebuild(disk, &file, &name, recovered)?,
    };
    if marked.sealed.get(&number).is_some_and(|end| *end > index.end) {
        recovered.corrupt += 1;
        tracing::error!(
            file = name,
            "A segment ends before the place where it was sealed; what stood there is lost."
        );
    }
    register_names(&mut recovered.state, &index.names);
    let mut segment = Segment::new(file_bytes);
    (segment.end, segment.times, segment.events) = (index.end, index.times, index.events);
    segment.newest = Age(index.last_age);
    segment.newest_key = index.keys.iter().map(KeyRecord::age).max();
    index.keys.iter().for_each(|key| recovered.keys.push(*key));
    recovered.last_age = recovered.last_age.max(Age(index.last_age));
    note_born_dead(number, &index, marked, &mut recovered.state);
    for connection in index.connections() {
        let part = recover_part(connection, number, &index, marked, &mut recovered.state);
        segment.parts.insert(connection, part);
    }
    if let Entries::File(index) = &entries {
        segment.index_bytes = index.file.file.length().unwrap_or(0);
    }
    segment.entries = entries;
    recovered.files.insert(number, file);
    recovered.state.segments.insert(number, segment);
    Ok(())
}

fn make_spare(disk: &dyn Disk, name: &str, number: u32, recovered: &mut Recovered) {
    if disk.rename(name, &spare_name(number)).is_ok() {
        recovered.spares.push(number);
    }
}

/// Scans a segment that has no index, and writes one.
fn rebuild(
    disk: &dyn Disk,
    file: &StoreFile,
    name: &str,
    recovered: &mut Recovered,
) -> Result<(SegmentIndex, Entries), OpenError> {
    let (index, report) =
        SegmentIndex::rebuild(file).map_err(|error| OpenError::Io("scan a segment", error))?;
    note_damage(disk, file, name, &report.damaged, recovered);
    // Its keys are answered for, its deliveries are handed out: first they must be certain to stay.
    if !defect!(TailNotSynced) {
        make_durable(file, &report.unproven)
            .map_err(|error| OpenError::Io("sync the end of a segment", error))?;
    }
    let written = index.write(disk, file);
    let read = written.ok().and_then(|_| SegmentIndex::read(disk, file));
    let entries = match read {
        Some((index_file, _)) => Entries::File(index_file),
        None => Entries::Memory(Box::new(index.clone())),
    };
    Ok((index, entries))
}

/// One connection's deliveries in one segment: which wait, and how many bytes they are.
fn recover_part(
    connection: ConnectionId,
    number: u32,
    index: &SegmentIndex,
    marked: &mut Marked,
    state: &mut State,
) -> Part {
    let mut over = marked.over.remove(&(number, connection)).unwrap_or_default();
    let shelved = marked.shelved.remove(&(number, connection)).unwrap_or_default();
    let slots = index.slots(connection);
    let end = |over: &mut Bits, slot| {
        if !shelved.contains(slot) {
            over.insert(slot);
        }
    };
    if number < FIRST_HOT {
        // A delivery is in a cold segment only if a mark, or the snapshot, says so.
        let covered = marked.covered.get(&(number, connection)).copied().unwrap_or(0);
        let moved =
            |slot: &u32| marked.moved.contains(&Place { segment: number, connection, slot: *slot });
        (covered..slots).filter(|slot| !moved(slot)).for_each(|slot| end(&mut over, slot));
        let below = marked.discarded_cold.get(&(number, connection)).copied().unwrap_or(0);
        (0..below.min(slots)).for_each(|slot| end(&mut over, slot));
    } else if let Some((segment, slot)) = marked.discarded.get(&connection) {
        let below = match number.cmp(segment) {
            std::cmp::Ordering::Less => slots,
            std::cmp::Ordering::Equal => slots.min(*slot),
            std::cmp::Ordering::Greater => 0,
        };
        (0..below).for_each(|slot| end(&mut over, slot));
    }
    let mut left = over.clone();
    let (mut waiting, mut bytes) = (0u64, 0u64);
    for (slot, entry) in (0..slots).zip(index.all_entries(connection)) {
        if shelved.contains(slot) {
            left.insert(slot);
        } else if entry.size == 0 {
            // Its record did not validate; the damage was counted where it was found.
            left.insert(slot);
            over.insert(slot);
        } else if !left.contains(slot) {
            waiting += 1;
            bytes += u64::from(entry.size);
        }
    }
    if let Some(stream) = state.stream(connection) {
        stream.waiting += waiting;
        stream.counters.recover(waiting, bytes);
    }
    Part { slots, left, over }
}

/// Deliveries that were dead from the start, unless a mark or the snapshot says what became of them later.
fn note_born_dead(number: u32, index: &SegmentIndex, marked: &mut Marked, state: &mut State) {
    let died_ms = index.times.map_or(0, |(first, _)| first);
    for (connection, slot, cause) in &index.born_dead {
        let place = Place { segment: number, connection: *connection, slot: *slot };
        let has = |bits: &HashMap<_, Bits>| {
            bits.get(&(number, *connection)).is_some_and(|bits| bits.contains(*slot))
        };
        let entry = index.entries(*connection, *slot, 1).next();
        let Some(entry) = entry.filter(|entry| entry.size > 0) else {
            continue;
        };
        if !has(&marked.over) && !has(&marked.shelved) {
            let id = DeliveryId {
                connection: *connection,
                segment: number,
                slot: *slot,
                offset: entry.offset,
            };
            let died = marked.stamp.age;
            let dead = DeadLetter {
                id,
                size: entry.size,
                cause: *cause,
                status: 0,
                attempts: 0,
                died_ms,
                died,
            };
            state.dead.insert(dead);
            note(&mut marked.shelved, place, u32::MAX);
        }
    }
}

/// Counts what stands on the shelves, and drops what is of segments that are gone.
fn count_shelves(recovered: &mut Recovered) -> Result<(), OpenError> {
    let state = &mut recovered.state;
    let io = |error| OpenError::Io("read a run", error);
    let mut lost = 0;
    lost += drop_lost(&mut state.schedule, &state.segments).map_err(io)?;
    lost += drop_lost(&mut state.dead, &state.segments).map_err(io)?;
    for stream in &state.streams {
        for lane in [Lane::Retry, Lane::Replay] {
            let queue = schedule::queue(stream.id, lane);
            stream.counters.recover(state.schedule.count(queue), state.schedule.bytes(queue));
        }
    }
    if lost > 0 {
        recovered.corrupt += 1;
        tracing::error!(
            deliveries = lost,
            "Deliveries were waiting or dead in segments that are gone; they are lost."
        );
    }
    Ok(())
}

fn drop_lost<T: Item>(shelf: &mut Shelf<T>, segments: &BTreeMap<u32, Segment>) -> io::Result<u64> {
    if shelf.segments().all(|segment| segments.contains_key(&segment)) {
        return Ok(0);
    }
    let mut lost = Vec::new();
    shelf.look(None, None, |item, spot| {
        if !segments.contains_key(&item.key().segment) {
            lost.push((*item, spot));
        }
    })?;
    Ok(lost.iter().filter(|(item, spot)| shelf.remove_at(item, *spot)).count() as u64)
}

/// Counts what keeps each segment; segments that nothing needs are given back.
fn count_live(recovered: &mut Recovered) {
    let state = &mut recovered.state;
    for (number, segment) in &mut state.segments {
        segment.live = segment
            .parts
            .values()
            .map(|part| u64::from(part.slots) - part.over.count_below(part.slots))
            .sum();
        if segment.live == 0 {
            recovered.drained.push(*number);
        }
    }
    for number in 0..state.streams.len() {
        state.publish(ConnectionId(u32::try_from(number).unwrap_or(u32::MAX)));
    }
}
