//! Opening a store: read the newest snapshot and the logs after it, look at every segment, and put the state together.
//!
//! What does not validate is skipped, counted and set aside in `quarantine/`; nothing but an unknown format version, a
//! lock or a disk that cannot be read makes an open fail. Every record that validates is kept: delivering an event that
//! was never acknowledged is allowed, losing one that was is not.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;

use super::bits::Bits;
use super::disk::Disk;
use super::file::{
    FileError, Named, StoreFile, classify, index_name, key_log_name, log_name, new_header, scan,
    segment_name, snapshot_name,
};
use super::key_log::KeyFile;
use super::keys::{KeyRecord, Newest};
use super::log::{KIND_END, KIND_LEFT};
use super::marks::{DeadLetter, KIND_MARKS, Mark, Place, TimeStamp, decode_mark, decode_stamp};
use super::reader::Files;
use super::record::{FileKind, HeaderError, Reader, Record};
use super::schedule::Scheduled;
use super::segment_index::{ENTRY, SegmentIndex, slots_at_most};
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
    left: HashMap<(u32, ConnectionId), Bits>,
    scheduled: BTreeMap<Place, Scheduled>,
    dead: BTreeMap<Place, DeadLetter>,
    /// Slots that the snapshot's bits speak of.
    covered: HashMap<(u32, ConnectionId), u32>,
    /// Deliveries in cold segments that wait for their first attempt, by marks after the snapshot.
    moved: HashSet<Place>,
    sealed: BTreeMap<u32, u64>,
    /// How many slots each segment that is there can have.
    room: BTreeMap<u32, u32>,
    /// Per connection, the place before which all is cancelled.
    discarded: HashMap<ConnectionId, (u32, u32)>,
    stamp: TimeStamp,
}

/// Reads the store.
///
/// # Errors
/// [`OpenError`]: an unknown version, or a disk that cannot be read.
pub(super) fn recover(disk: &dyn Disk, max_keys: usize) -> Result<Recovered, OpenError> {
    let listed = Listed::new(disk)?;
    let mut recovered = Recovered {
        spares: listed.spares.clone(),
        keys: Newest::new(max_keys),
        ..Recovered::default()
    };
    let mut marked = read_marks(disk, &listed, &mut recovered)?;
    recovered.stamp = marked.stamp;
    recovered.log_number = listed.logs.iter().chain(&listed.snapshots).copied().max().unwrap_or(0);
    let (cold, hot): (Vec<u32>, Vec<u32>) =
        listed.segments.iter().partition(|number| **number < FIRST_HOT);
    recovered.next_segment = hot.last().map_or(FIRST_HOT, |last| last.saturating_add(1));
    recovered.next_cold = cold.last().map_or(1, |last| last.saturating_add(1));
    register_names(&mut recovered.state, &marked.names);
    read_key_logs(disk, &listed, &mut recovered)?;
    for number in &listed.segments {
        recover_segment(disk, *number, &mut marked, &mut recovered)?;
    }
    recovered.last_age = recovered.last_age.max(recovered.keys.latest().unwrap_or_default());
    place_marked(&mut marked, &mut recovered);
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
                    indexes.push(number);
                    // A segment that was cut may have fewer bytes than its index speaks of.
                    let room = listed.room.entry(number).or_default();
                    *room = u32::try_from(bytes / ENTRY).unwrap_or(u32::MAX).max(*room);
                }
                Named::Log(number) => listed.logs.push(number),
                Named::Snapshot(number) => listed.snapshots.push(number),
                Named::Spare(number) => listed.spares.push(number),
                Named::KeyLog(number) => listed.key_logs.push(number),
                Named::Temporary => drop(disk.remove(&name)),
                Named::Own => {}
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
        ] {
            list.sort_unstable();
        }
        for number in indexes.iter().filter(|number| listed.segments.binary_search(number).is_err())
        {
            let _ = disk.remove(&index_name(*number));
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

/// Opens a file. `None`: its header is damaged; the file was set aside.
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
            } else {
                recovered.corrupt += 1;
                tracing::error!(
                    file = name,
                    "A file of the store has a damaged header; it was moved to quarantine"
                );
                quarantine(disk, name);
            }
            Ok(None)
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
    fn apply_record(&mut self, record: &Record<'_>) {
        let mut reader = Reader::new(record.body);
        match record.kind {
            KIND_MARKS => {
                if let Some(stamp) = decode_stamp(&mut reader) {
                    self.stamp = stamp;
                }
                while let Some(mark) = decode_mark(&mut reader) {
                    self.apply(mark);
                }
            }
            KIND_LEFT => self.apply_left(&mut reader),
            _ => {}
        }
    }

    fn apply_left(&mut self, reader: &mut Reader<'_>) {
        let (Some(segment), Some(connection)) = (reader.u32(), reader.u32()) else {
            return;
        };
        let (Some(slots), Some(_)) = (reader.u32(), reader.u32()) else {
            return;
        };
        let slots = slots.min(self.room(segment));
        self.covered.insert((segment, ConnectionId(connection)), slots);
        let words = std::iter::from_fn(|| reader.u64()).collect();
        self.left.insert((segment, ConnectionId(connection)), Bits::from_words(words));
    }

    fn apply(&mut self, mark: Mark) {
        match mark {
            Mark::Name(id, name) => {
                self.names.insert(id, name);
            }
            Mark::Sealed { segment, end } => {
                self.sealed.insert(segment, end);
            }
            Mark::Delivered(place) => {
                self.leave(place);
            }
            Mark::Scheduled(scheduled) => {
                let place = Place::from(scheduled.id);
                self.leave(place);
                self.scheduled.insert(place, scheduled);
            }
            Mark::Dead(dead) => {
                let place = Place::from(dead.id);
                self.leave(place);
                self.dead.insert(place, dead);
            }
            Mark::Discarded(end) => self.discard(end),
            Mark::Moved { from, to } => {
                self.leave(from);
                self.moved.insert(Place::from(to));
            }
        }
    }

    /// The last mark of a delivery is all that counts: forget the earlier ones.
    fn leave(&mut self, place: Place) {
        self.scheduled.remove(&place);
        self.dead.remove(&place);
        self.moved.remove(&place);
        // A slot that its segment cannot have takes no memory. A segment that is gone has none.
        if place.slot < self.room(place.segment) {
            self.left.entry((place.segment, place.connection)).or_default().insert(place.slot);
        }
    }

    fn room(&self, segment: u32) -> u32 {
        self.room.get(&segment).copied().unwrap_or(0)
    }

    /// What is in cold segments at this point of the log is cancelled at once: later ones may be moved there.
    fn discard(&mut self, end: Place) {
        self.discarded.insert(end.connection, (end.segment, end.slot));
        self.scheduled.retain(|place, _| {
            place.connection != end.connection
                || (place.segment, place.slot) >= (end.segment, end.slot)
        });
        self.moved.retain(|place| place.connection != end.connection);
        for ((segment, connection), slots) in &self.covered {
            if *connection == end.connection && *segment < FIRST_HOT {
                self.left.entry((*segment, *connection)).or_default().insert_below(*slots);
            }
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
        Some((index_file, index, starts)) => (index, Entries::File(index_file, starts)),
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
    segment.newest_key = index.keys.iter().map(KeyRecord::age).max();
    index.keys.iter().for_each(|key| recovered.keys.push(*key));
    recovered.last_age = recovered.last_age.max(Age(index.last_age));
    note_born_dead(number, &index, marked);
    for (connection, entries) in &index.entries {
        let left = marked.left.remove(&(number, *connection)).unwrap_or_default();
        let part = recover_part(*connection, number, entries, left, marked, &mut recovered.state);
        segment.parts.insert(*connection, part);
    }
    if let Entries::File(index, _) = &entries {
        segment.index_bytes = index.file.length().unwrap_or(0);
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
    let (index, damaged) =
        SegmentIndex::rebuild(file).map_err(|error| OpenError::Io("scan a segment", error))?;
    note_damage(disk, file, name, &damaged, recovered);
    let written: io::Result<()> = index.write(disk, file);
    let read = written.ok().and_then(|()| SegmentIndex::read(disk, file));
    let entries = match read {
        Some((index_file, _, starts)) => Entries::File(index_file, starts),
        None => Entries::Memory(Box::new(index.clone())),
    };
    Ok((index, entries))
}

/// One connection's deliveries in one segment: which wait, and how many bytes they are.
fn recover_part(
    connection: ConnectionId,
    number: u32,
    entries: &[super::segment_index::Entry],
    mut left: Bits,
    marked: &Marked,
    state: &mut State,
) -> Part {
    let slots = u32::try_from(entries.len()).unwrap_or(u32::MAX);
    if number < FIRST_HOT {
        // A delivery is in a cold segment only if a mark, or the snapshot, says so.
        let covered = marked.covered.get(&(number, connection)).copied().unwrap_or(0);
        let moved =
            |slot: &u32| marked.moved.contains(&Place { segment: number, connection, slot: *slot });
        for slot in (covered..slots).filter(|slot| !moved(slot)) {
            left.insert(slot);
        }
    } else if let Some((segment, slot)) = marked.discarded.get(&connection) {
        let below = match number.cmp(segment) {
            std::cmp::Ordering::Less => slots,
            std::cmp::Ordering::Equal => slots.min(*slot),
            std::cmp::Ordering::Greater => 0,
        };
        left.insert_below(below);
    }
    let (mut waiting, mut bytes) = (0u64, 0u64);
    for (slot, entry) in (0..slots).zip(entries) {
        if entry.size == 0 {
            // Its record did not validate; the damage was counted where it was found.
            left.insert(slot);
        } else if !left.contains(slot) {
            waiting += 1;
            bytes += u64::from(entry.size);
        }
    }
    if let Some(stream) = state.stream(connection) {
        stream.waiting += waiting;
        stream.counters.recover(waiting, bytes);
    }
    Part { slots, left }
}

/// Deliveries that were dead from the start, unless a mark says what became of them later.
fn note_born_dead(number: u32, index: &SegmentIndex, marked: &mut Marked) {
    let died_ms = index.times.map_or(0, |(first, _)| first);
    for (connection, slot, cause) in &index.born_dead {
        let entry = index.entries.get(connection).and_then(|entries| entries.get(*slot as usize));
        let Some(entry) = entry.filter(|entry| entry.size > 0) else {
            continue;
        };
        if marked.left.entry((number, *connection)).or_default().insert(*slot) {
            let id = DeliveryId {
                connection: *connection,
                segment: number,
                slot: *slot,
                offset: entry.offset,
            };
            let dead =
                DeadLetter { id, size: entry.size, cause: *cause, status: 0, attempts: 0, died_ms };
            marked.dead.insert(Place::from(id), dead);
        }
    }
}

/// Puts what is scheduled or dead into its stream, if its segment is there.
fn place_marked(marked: &mut Marked, recovered: &mut Recovered) {
    let state = &mut recovered.state;
    let mut lost = 0u64;
    let mut keep = |state: &mut State, place: Place| {
        let there = state.part(place).is_some_and(|(part, _)| place.slot < part.slots);
        lost += u64::from(!there);
        there
    };
    for (place, scheduled) in std::mem::take(&mut marked.scheduled) {
        if keep(state, place)
            && let Some(stream) = state.stream(place.connection)
        {
            stream.counters.recover(1, u64::from(scheduled.size));
            stream.counters.scheduled.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            state.schedule.insert(scheduled);
        }
    }
    for (place, dead) in std::mem::take(&mut marked.dead) {
        if keep(state, place)
            && let Some(stream) = state.stream(place.connection)
        {
            stream.dead.insert((place.segment, place.slot), dead);
        }
    }
    if lost > 0 {
        recovered.corrupt += 1;
        tracing::error!(
            deliveries = lost,
            "Deliveries were waiting or dead in segments that are gone; they are lost."
        );
    }
}

/// Counts what keeps each segment; segments that nothing needs are given back.
fn count_live(recovered: &mut Recovered) {
    let state = &mut recovered.state;
    let mut live: HashMap<u32, u64> = HashMap::new();
    for scheduled in state.schedule.iter() {
        *live.entry(scheduled.id.segment).or_default() += 1;
    }
    for stream in &state.streams {
        stream.publish();
        for (segment, _) in stream.dead.keys() {
            *live.entry(*segment).or_default() += 1;
        }
    }
    for (number, segment) in &mut state.segments {
        let waiting: u64 = segment
            .parts
            .values()
            .map(|part| u64::from(part.slots) - part.left.count_below(part.slots))
            .sum();
        segment.live = waiting + live.get(number).copied().unwrap_or(0);
        if segment.live == 0 {
            recovered.drained.push(*number);
        }
    }
}
