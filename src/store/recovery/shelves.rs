//! Scheduled deliveries and dead letters, back on their shelves.

use std::collections::{BTreeMap, HashMap};
use std::io;

use super::super::bits::Bits;
use super::super::dead_letter::DeadLetter;
use super::super::disk::Disk;
use super::super::file::{FileError, run_name};
use super::super::marks::Place;
use super::super::record::HeaderError;
use super::super::schedule::{self, LANES, Scheduled};
use super::super::shelf::{Found, Item, Shelf};
use super::super::state::Segment;
use super::super::{ConnectionId, OpenError};
use super::Recovered;
use super::files::quarantine;
use super::listed::Listed;
use super::marked::{Latest, Marked};

/// Notes that a delivery is on a shelf. A slot that its segment cannot have takes no memory.
pub(super) fn note(shelved: &mut HashMap<(u32, ConnectionId), Bits>, place: Place, room: u32) {
    if place.slot < room {
        shelved.entry((place.segment, place.connection)).or_default().insert(place.slot);
    }
}

/// Puts what is scheduled or dead on its shelf.
pub(super) fn fill_shelves(
    disk: &dyn Disk,
    marked: &mut Marked,
    recovered: &mut Recovered,
) -> Result<(), OpenError> {
    let (mut shelved, mut ended) = (HashMap::new(), HashMap::new());
    let state = &mut recovered.state;
    let mut damaged = 0;
    for run in &marked.runs {
        let mut keep = |place: Place, cancelled: bool| {
            let current = marked.is_current(place);
            if current {
                let places = if cancelled { &mut ended } else { &mut shelved };
                note(places, place, marked.room(place.segment));
            }
            current && !cancelled
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
    for (key, slots) in ended {
        marked.over.entry(key).or_default().insert_all(&slots);
    }
    recovered.corrupt += damaged;
    Ok(())
}

/// Damaged places of a run; what cannot be used is set aside. Its deliveries wait for a first attempt again.
pub(super) fn damage_of(
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
pub(super) fn remove_other_runs(disk: &dyn Disk, listed: &Listed, marked: &Marked) {
    if marked.uncertain {
        return;
    }
    for number in &listed.runs {
        if !marked.runs.iter().any(|run| run.number == *number) {
            let _ = disk.remove(&run_name(*number));
        }
    }
}

/// Counts what stands on the shelves, and drops what is of segments that are gone.
pub(super) fn count_shelves(recovered: &mut Recovered) -> Result<(), OpenError> {
    let state = &mut recovered.state;
    let io = |error| OpenError::Io("read a run", error);
    let mut lost = 0;
    lost += drop_lost(&mut state.schedule, &state.segments).map_err(io)?;
    lost += drop_lost(&mut state.dead, &state.segments).map_err(io)?;
    for stream in &state.streams {
        for lane in LANES {
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

pub(super) fn drop_lost<T: Item>(
    shelf: &mut Shelf<T>,
    segments: &BTreeMap<u32, Segment>,
) -> io::Result<u64> {
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
