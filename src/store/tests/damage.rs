//! Damage at every place of a small store: it opens, only what was hit is lost, everything else is delivered, and damage
//! in the middle is counted.

use std::collections::BTreeMap;
use std::time::Duration;

use super::model::{Ending, Op, step};
use super::model_disk::ModelDisk;
use super::world::{Verdict, World};

type Files = BTreeMap<String, Vec<u8>>;

/// Events of one connection that wait in two segments, some of them scheduled, dead or delivered; stopped cleanly.
fn small_store() -> Result<World, String> {
    let mut world = World::new(1);
    for round in 0..12 {
        let sizes = vec![100 + round * 37, 9000, 20];
        let post = Op::Post { sizes, to: 1, dead: false, delay: 0, relaxed: false };
        step(&mut world, &post)?;
        step(&mut world, &Op::Advance(2))?;
    }
    step(&mut world, &Op::Settle(3, Ending::Delivered))?;
    step(&mut world, &Op::Settle(5, Ending::Dead))?;
    step(&mut world, &Op::Settle(7, Ending::Retry(5000)))?;
    step(&mut world, &Op::Settle(9, Ending::Delivered))?;
    world.advance(Duration::from_secs(2))?;
    Ok(world)
}

/// Opens a damaged store and delivers what is left. How many deliveries are missing, and the damage counted.
fn survive(world: &World, files: &Files) -> Result<(usize, u64), String> {
    let mut fork = world.fork(ModelDisk::with_files(files));
    fork.damaged = true;
    fork.start()?;
    let corrupt = fork.process.as_ref().map_or(0, |process| process.corrupt);
    fork.finish()?;
    Ok((fork.missing, corrupt))
}

/// Flips a bit, zeroes a sector and cuts at every `stride`th byte of every file.
pub fn sweep(stride: usize) -> Verdict {
    let world = small_store()?;
    let files = world.disk.files();
    for (name, bytes) in &files {
        // The rest of a preallocated file is zeros: a look at its start is enough.
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 9);
        for at in (0..used.min(bytes.len())).step_by(stride) {
            for (how, broken) in breakages(bytes, at) {
                let mut files = files.clone();
                files.insert(name.clone(), broken);
                let context = |what| format!("{name} {how} at {at}: {what}");
                let (missing, _) = survive(&world, &files).map_err(context)?;
                let most = match (name.ends_with(".seg"), how) {
                    (true, "flipped") if at >= 64 => 1,
                    (true, "zeroed") if at >= 64 => 8,
                    (true, _) => 64,
                    (false, _) => 0,
                };
                if missing > most {
                    return Err(context(format!("{missing} deliveries are lost")));
                }
            }
        }
    }
    Ok(())
}

fn breakages(bytes: &[u8], at: usize) -> [(&'static str, Vec<u8>); 3] {
    let mut flipped = bytes.to_vec();
    flipped[at] ^= 0x10;
    let mut zeroed = bytes.to_vec();
    let end = (at + 512).min(bytes.len());
    zeroed[at..end].fill(0);
    [("flipped", flipped), ("zeroed", zeroed), ("cut", bytes[..at].to_vec())]
}

#[test]
fn damage_anywhere_costs_only_what_it_hit() {
    let long = std::env::var_os("POSTHASTE_LONG").is_some();
    sweep(if long { 1 } else { 499 }).unwrap();
}

#[test]
fn damage_in_the_middle_is_counted() {
    let world = small_store().unwrap();
    let mut files = world.disk.files();
    let segment =
        files.get_mut(&crate::store::file::segment_name(crate::store::FIRST_HOT)).unwrap();
    segment[2000] ^= 1;
    files.retain(|name, _| !name.ends_with(".idx"));
    let (missing, corrupt) = survive(&world, &files).unwrap();
    assert_eq!((missing, corrupt), (1, 1));
}

#[test]
fn missing_foreign_and_duplicate_files_do_not_keep_it_from_opening() {
    let world = small_store().unwrap();
    let files = world.disk.files();
    let mut opened = 0;
    for name in files.keys() {
        let mut less = files.clone();
        less.remove(name);
        let (missing, _) = survive(&world, &less).unwrap();
        assert!(missing == 0 || name.ends_with(".seg"), "{name}: {missing}");
        for other in ["ev-0000000077.seg", "st-0000000077.log", "st-0000000077.snap", "notes.txt"] {
            let mut more = files.clone();
            more.insert(other.to_owned(), files[name].clone());
            assert_eq!(survive(&world, &more).unwrap().0, 0, "{name} as {other}");
            more.insert(other.to_owned(), b"not ours".to_vec());
            assert_eq!(survive(&world, &more).unwrap().0, 0, "{other} is foreign");
            opened += 2;
        }
    }
    assert!(opened >= 40, "{opened}");
}

/// Segments whose names were swapped, or one that was given a number of its own, go back under their names.
#[test]
fn segments_under_another_name_lose_nothing() {
    let world = small_store().unwrap();
    let files = world.disk.files();
    let segments: Vec<&String> = files.keys().filter(|name| name.ends_with(".seg")).collect();
    assert!(segments.len() >= 2, "{segments:?}");
    let (one, two) = (segments[0], segments[1]);
    let mut swapped = files.clone();
    swapped.insert(one.clone(), files[two].clone());
    swapped.insert(two.clone(), files[one].clone());
    assert_eq!(survive(&world, &swapped).unwrap(), (0, 2));
    let mut moved = files.clone();
    let bytes = moved.remove(one).unwrap();
    moved.insert("ev-1000000077.seg".to_owned(), bytes);
    assert_eq!(survive(&world, &moved).unwrap(), (0, 1));
}
