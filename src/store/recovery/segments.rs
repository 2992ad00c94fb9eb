//! One segment after the other: its index or a scan, and what of it waits.

use std::collections::{BTreeMap, HashMap};

use super::super::bits::Bits;
use super::super::dead_letter::DeadLetter;
use super::super::disk::Disk;
use super::super::feed::Lane;
use super::super::file::{StoreFile, make_durable, segment_name};
use super::super::keys::KeyRecord;
use super::super::marks::Place;
use super::super::record::FileKind;
use super::super::schedule::Scheduled;
use super::super::segment_index::SegmentIndex;
use super::super::state::{Entries, Part, Segment, State, no_name};
use super::super::{ConnectionId, DeliveryId, FIRST_HOT, OpenError, spare_name};
use super::Recovered;
use super::files::{note_damage, open, reopen};
use super::marked::Marked;
use super::shelves::note;
use crate::clock::Age;

/// Names that may be lost before an id is not believed: each takes memory.
pub(super) const LOST_NAMES: usize = 4096;

pub(super) fn register_names(state: &mut State, names: &BTreeMap<ConnectionId, String>) {
    let known = state.streams.iter().filter(|stream| !stream.name.starts_with('\u{0}')).count();
    let end = known + names.len() + LOST_NAMES;
    for (id, name) in names {
        if id.0 as usize >= end {
            tracing::error!(id = id.0, "A connection's number is not possible; it was ignored.");
            continue;
        }
        // Ids are dense; a gap is a name whose mark was lost. Nothing that is kept refers to it, but its number stays taken.
        while state.streams.len() < id.0 as usize {
            let next = ConnectionId(u32::try_from(state.streams.len()).unwrap_or(u32::MAX));
            state.register(&no_name(next));
        }
        // A segment may still have the name that was given to another one.
        let taken = state.names.contains_key(name);
        let known = state.streams.get(id.0 as usize);
        match known.map(|stream| stream.name.starts_with('\u{0}')) {
            None if taken => drop(state.register(&no_name(*id))),
            None => drop(state.register(name)),
            Some(true) if !taken => state.rename(*id, name),
            Some(_) => {}
        }
    }
}

pub(super) fn recover_segment(
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

pub(super) fn make_spare(disk: &dyn Disk, name: &str, number: u32, recovered: &mut Recovered) {
    if disk.rename(name, &spare_name(number)).is_ok() {
        recovered.spares.push(number);
    }
}

/// Scans a segment that has no index, and writes one.
pub(super) fn rebuild(
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
pub(super) fn recover_part(
    connection: ConnectionId,
    number: u32,
    index: &SegmentIndex,
    marked: &mut Marked,
    state: &mut State,
) -> Part {
    let mut over = marked.over.remove(&(number, connection)).unwrap_or_default();
    let shelved = marked.shelved.remove(&(number, connection)).unwrap_or_default();
    let slots = index.slots(connection);
    if state.stream(connection).is_none() {
        // Its name stands in the same segment, before it. Where not even that was synced, nothing was acknowledged; and the
        // number will be another connection's.
        over.insert_range(0, slots);
    }
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
    let delayed =
        if defect!(DelayForgotten) { BTreeMap::new() } else { index.delayed_of(connection) };
    let (mut waiting, mut bytes) = (0u64, 0u64);
    for (slot, entry) in (0..slots).zip(index.all_entries(connection)) {
        if shelved.contains(slot) {
            left.insert(slot);
        } else if entry.size == 0 {
            // Its record did not validate; the damage was counted where it was found.
            left.insert(slot);
            over.insert(slot);
        } else if left.contains(slot) {
            // It is over.
        } else if let Some(due) = delayed.get(&slot) {
            // No mark speaks of it: it still waits for its first attempt, or was with the egress.
            left.insert(slot);
            let id = DeliveryId { connection, segment: number, slot, offset: entry.offset };
            state.schedule.insert(Scheduled {
                due: *due,
                id,
                size: entry.size,
                attempts: 0,
                first_attempt: Age(0),
                lane: Lane::New,
            });
        } else {
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
pub(super) fn note_born_dead(
    number: u32,
    index: &SegmentIndex,
    marked: &mut Marked,
    state: &mut State,
) {
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
