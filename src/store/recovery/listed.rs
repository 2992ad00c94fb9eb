//! The directory's files, by kind.

use std::collections::BTreeMap;

use super::super::OpenError;
use super::super::disk::Disk;
use super::super::file::{Named, classify, index_name};
use super::super::segment_index::{slots_at_most, slots_of_index};

/// The directory's files, by kind and in order.
#[derive(Debug, Default)]
pub(super) struct Listed {
    pub(super) segments: Vec<u32>,
    /// How many slots each of them can have.
    pub(super) room: BTreeMap<u32, u32>,
    pub(super) logs: Vec<u32>,
    pub(super) snapshots: Vec<u32>,
    pub(super) spares: Vec<u32>,
    pub(super) key_logs: Vec<u32>,
    pub(super) runs: Vec<u32>,
}

impl Listed {
    pub(super) fn new(disk: &dyn Disk) -> Result<Listed, OpenError> {
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
