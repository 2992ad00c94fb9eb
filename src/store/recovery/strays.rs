//! Segments under another's name: somebody copied a store by hand, or a file system was repaired. A segment's header says
//! which one it is, so each is put back under its own name before anything is read.
//!
//! One such file is normal and stays what it is: a spare that was renamed to become the newest segment, and whose new
//! header did not reach the disk. It still has the header of a segment that was given back. It is told by its place,
//! after all others, and by its number, which no mark knows; nothing in it is wanted.

use std::collections::{BTreeMap, BTreeSet};

use super::super::disk::Disk;
use super::super::file::{StoreFile, segment_name};
use super::super::record::FileKind;
use super::super::{FIRST_HOT, OpenError};

/// Renames strays to what their headers say. Where the right name is held by the right file, or claimed twice, the stray is
/// left where it is: a copy. `segments` are the numbers by name, in order, and are kept up; `known` tells whether a mark
/// or a snapshot speaks of a segment. Returns how many were renamed.
///
/// A stop in the middle loses nothing: each step leaves every file under a name that the next start understands.
///
/// # Errors
/// When a file could not be renamed: going on would give up what is in it.
pub(super) fn put_right(
    disk: &dyn Disk,
    segments: &mut Vec<u32>,
    known: impl Fn(u32) -> bool,
) -> Result<u64, OpenError> {
    let mut names: BTreeSet<u32> = segments.iter().copied().collect();
    let mut strays = strays(disk, &names, known);
    let found = strays.len() as u64;
    while let Some((at, belongs)) = next(&strays, &names) {
        // Each waits for another's name: one of them steps aside. No spare ever has the name of a cold segment, so a
        // file that is found there is known for a stray.
        let to = if names.contains(&belongs) { free_place(&names) } else { belongs };
        let [from, into] = [at, to].map(segment_name);
        let failed = |error| OpenError::Io("put a segment under its own name", error);
        disk.rename(&from, &into).map_err(failed)?;
        tracing::error!(from, into, "A segment had the name of another one; it was renamed");
        names.remove(&at);
        names.insert(to);
        strays.remove(&at);
        if to != belongs {
            strays.insert(to, belongs);
        }
    }
    if found > 0 {
        disk.sync_dir().map_err(|error| OpenError::Io("sync the store's directory", error))?;
        *segments = names.into_iter().collect();
    }
    Ok(found)
}

/// The next to move: one whose place is free, else the last, so that what is then the newest one has a lower number than
/// it should, which no spare ever has.
fn next(strays: &BTreeMap<u32, u32>, names: &BTreeSet<u32>) -> Option<(u32, u32)> {
    let free = strays.iter().find(|(_, belongs)| !names.contains(belongs));
    free.or_else(|| strays.last_key_value()).map(|(at, belongs)| (*at, *belongs))
}

/// The highest cold number that no file has.
fn free_place(names: &BTreeSet<u32>) -> u32 {
    (1..FIRST_HOT).rev().find(|number| !names.contains(number)).unwrap_or(0)
}

/// By name, the number in the header of each segment that is to be renamed.
fn strays(
    disk: &dyn Disk,
    names: &BTreeSet<u32>,
    known: impl Fn(u32) -> bool,
) -> BTreeMap<u32, u32> {
    let header = |number: &u32| {
        let file = StoreFile::open(disk, &segment_name(*number), FileKind::Segment).ok()?;
        Some((*number, file.header.number))
    };
    let mut strays: BTreeMap<u32, u32> =
        names.iter().filter_map(header).filter(|(at, belongs)| at != belongs).collect();
    let newest = names.last().copied();
    let all = strays.clone();
    let mut claimed = BTreeSet::new();
    strays.retain(|at, belongs| {
        let place_is_free = !names.contains(belongs);
        let spare = *belongs < *at && newest == Some(*at) && *at >= FIRST_HOT;
        let begun = place_is_free && spare && !known(*belongs);
        (place_is_free || all.contains_key(belongs)) && !begun && claimed.insert(*belongs)
    });
    // A place is only free to be taken if whoever is there leaves it.
    loop {
        let before = strays.len();
        let leaving: BTreeSet<u32> = strays.keys().copied().collect();
        strays.retain(|_, belongs| !names.contains(belongs) || leaving.contains(belongs));
        if strays.len() == before {
            return strays;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::disk::OsDisk;
    use crate::store::file::new_header;

    /// Files by name and the number in their header.
    fn disk(directory: &std::path::Path, files: &[(u32, u32)]) -> OsDisk {
        let disk = OsDisk::open(directory).unwrap();
        for (name, number) in files {
            let file = disk.create(&segment_name(*name)).unwrap();
            StoreFile::start(file, new_header(FileKind::Segment, *number, 1, 0)).unwrap();
        }
        disk
    }

    /// Puts right, and shows the files as (name, number in the header).
    fn check(files: &[(u32, u32)], known: &[u32], expected: &[(u32, u32)]) {
        let directory = tempfile::tempdir().unwrap();
        let disk = disk(directory.path(), files);
        let mut segments: Vec<u32> = files.iter().map(|(name, _)| *name).collect();
        put_right(&disk, &mut segments, |number| known.contains(&number)).unwrap();
        let found: Vec<_> = segments
            .iter()
            .map(|name| {
                let file = StoreFile::open(&disk, &segment_name(*name), FileKind::Segment);
                (*name, file.unwrap().header.number)
            })
            .collect();
        assert_eq!(found, expected, "of {files:?}");
        assert_eq!(disk.list().unwrap().len(), files.len());
    }

    const A: u32 = FIRST_HOT;
    const B: u32 = FIRST_HOT + 1;
    const C: u32 = FIRST_HOT + 2;
    const D: u32 = FIRST_HOT + 3;

    #[test]
    fn swapped_and_moved_segments_get_their_names_back() {
        check(&[(A, A), (B, B)], &[], &[(A, A), (B, B)]);
        check(&[(A, B), (B, A), (C, C)], &[], &[(A, A), (B, B), (C, C)]);
        check(&[(A, B), (B, C), (C, A)], &[], &[(A, A), (B, B), (C, C)]);
        check(&[(3, A), (A, 3)], &[], &[(3, 3), (A, A)]);
        check(&[(B, A), (C, C)], &[], &[(A, A), (C, C)]);
        check(&[(A, A), (D, B)], &[B], &[(A, A), (B, B)]);
    }

    #[test]
    fn a_stop_in_the_middle_of_a_swap_is_mended() {
        check(&[(FIRST_HOT - 1, A), (A, B)], &[], &[(A, A), (B, B)]);
        check(&[(FIRST_HOT - 1, A), (B, B)], &[], &[(A, A), (B, B)]);
    }

    #[test]
    fn copies_and_a_spare_that_was_about_to_become_a_segment_stay() {
        check(&[(A, A), (B, A)], &[A], &[(A, A), (B, A)]);
        check(&[(B, B), (C, A)], &[], &[(B, B), (C, A)]);
        check(&[(A, B), (C, B), (D, D)], &[], &[(B, B), (C, B), (D, D)]);
        check(&[(A, A), (B, A), (C, B)], &[], &[(A, A), (B, A), (C, B)]);
    }
}
