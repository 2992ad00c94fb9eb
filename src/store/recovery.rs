//! Opening a store: read the newest snapshot and the logs after it, look at every segment, and put the state together.
//!
//! What does not validate is skipped, counted and set aside in `quarantine/`; nothing but an unknown format version, a
//! lock or a disk that cannot be read makes an open fail. Every record that validates is kept: delivering an event that
//! was never acknowledged is allowed, losing one that was is not.

mod files;
mod headers;
mod listed;
mod marked;
mod segments;
mod shelves;
mod strays;

use super::disk::Disk;
use super::file::{Named, classify, key_log_name, scan};
use super::key_log::KeyFile;
use super::keys::Newest;
use super::marks::TimeStamp;
use super::reader::Files;
use super::record::FileKind;
use super::shelf::{Shelf, ShelfLimits};
use super::state::State;
use super::suspension::SuspensionKind;
use super::{ConnectionId, FIRST_HOT, OpenError};
use crate::clock::Age;
use files::{note_damage, open};
use listed::Listed;
use marked::{Marked, read_marks};
use segments::{recover_segment, register_names};
use shelves::{count_shelves, fill_shelves, remove_other_runs};

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

/// Reads the store.
///
/// # Errors
/// [`OpenError`]: an unknown version, or a disk that cannot be read.
pub(super) fn recover(
    disk: &dyn Disk,
    max_keys: usize,
    shelf: ShelfLimits,
    seed: u64,
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
    // Beyond the spares' numbers too: a spare that was begun as a new segment, and whose header did not reach the disk, is
    // told by its old number, which is lower.
    let numbers = hot.last().into_iter().chain(listed.spares.last());
    recovered.next_segment = numbers.max().map_or(FIRST_HOT, |last| last.saturating_add(1));
    recovered.next_cold = cold.last().map_or(1, |last| last.saturating_add(1));
    recovered.next_run = listed.runs.last().map_or(1, |last| last.saturating_add(1));
    register_names(&mut recovered.state, &marked.names);
    read_key_logs(disk, &listed, &mut recovered)?;
    fill_shelves(disk, &mut marked, &mut recovered)?;
    remove_other_runs(disk, &listed, &marked);
    let mut nonces = fastrand::Rng::with_seed(seed);
    for number in &listed.segments {
        recover_segment(disk, *number, &mut marked, &mut recovered)?;
        spill_delayed(disk, &mut recovered, &mut nonces);
    }
    suspend_again(&mut recovered.state, &marked);
    recovered.last_age = recovered.last_age.max(recovered.keys.latest().unwrap_or_default());
    count_shelves(&mut recovered)?;
    count_live(&mut recovered);
    Ok(recovered)
}

/// Deliveries with a delay come from records, however many there are: those that are too many for memory go to runs. What
/// cannot be written stays in memory. Until a snapshot speaks of these runs, the next start makes them anew.
fn spill_delayed(disk: &dyn Disk, recovered: &mut Recovered, nonces: &mut fastrand::Rng) {
    while recovered.state.schedule.is_full() {
        let number = recovered.next_run;
        recovered.next_run = number.saturating_add(1);
        match recovered.state.schedule.spill(disk, number, nonces.u64(..)) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// Suspends what was suspended, but for what ends with a restart.
fn suspend_again(state: &mut State, marked: &Marked) {
    for (id, suspension) in &marked.suspended {
        if let Some(stream) = state.stream(*id) {
            let stays = suspension.kind != SuspensionKind::PausedUntilRestart;
            stream.suspension = stays.then_some(*suspension);
        }
    }
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
