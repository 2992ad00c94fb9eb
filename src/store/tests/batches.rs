//! Events that are stored together: all of them, or none, wherever the power goes off.

use super::super::defects::{Defect, with};
use super::super::intake::Fate;
use super::model_disk::{Failure, Fault, Kind};
use super::world::{Verdict, World};

const TO: [(usize, Fate); 2] = [(0, Fate::Queued), (2, Fate::Queued)];

/// Single events, batches, and a power cut while a batch is written or synced, of which the disk keeps any part. Returns how
/// many batches that nobody was told about were lost and found.
fn power_cuts(seeds: std::ops::Range<u64>) -> Result<(usize, usize), String> {
    let (mut lost, mut found) = (0, 0);
    for seed in seeds {
        let mut world = World::new(seed);
        let mut rng = fastrand::Rng::with_seed(seed);
        world.start()?;
        let verdict = one_cut(&mut world, &mut rng);
        verdict.map_err(|what| format!("seed {seed}: {what}"))?;
        lost += world.batches_lost;
        found += world.batches_found;
    }
    Ok((lost, found))
}

fn one_cut(world: &mut World, rng: &mut fastrand::Rng) -> Verdict {
    for _ in 0..rng.usize(0..3) {
        world.post_batch(&sizes(rng), &TO);
        world.turn()?;
    }
    let kind = if rng.bool() { Kind::Write } else { Kind::Sync };
    let fault = Fault { kind: Some(kind), after: 0, failure: Failure::PowerOff, for_good: false };
    world.disk.set_fault(Some(fault));
    world.post(rng.usize(8..500), &TO);
    world.post_batch(&sizes(rng), &TO);
    if rng.bool() {
        world.post_batch(&sizes(rng), &TO);
    }
    world.post(rng.usize(8..500), &TO);
    // The answers are lost with the process.
    let _ = world.turn();
    world.disk.set_fault(None);
    world.crash(rng.u64(..));
    world.start()?;
    world.finish()
}

fn sizes(rng: &mut fastrand::Rng) -> Vec<usize> {
    (0..rng.usize(2..8)).map(|_| rng.usize(8..2500)).collect()
}

#[test]
fn a_power_cut_leaves_all_of_a_batch_or_nothing() {
    let (lost, found) = power_cuts(0..120).unwrap();
    assert!(lost > 8 && found > 8, "{lost} lost, {found} found");
}

#[test]
fn a_batch_that_is_kept_in_part_would_be_seen() {
    let verdict = with(Defect::TornFrameKept, || power_cuts(0..120));
    assert!(verdict.is_err_and(|what| what.contains("nobody was told")));
}

/// The writer takes a batch for one commit, however many events wait, and its items are delivered one by one.
#[test]
fn a_batch_is_in_one_commit_and_its_events_are_delivered_alone() {
    let mut world = World::new(1);
    world.start().unwrap();
    let before = world.disk.calls();
    world.post_batch(&[100; 40], &TO);
    world.turn().unwrap();
    assert!(world.disk.calls() - before < 10, "{} calls", world.disk.calls() - before);
    world.crash(1);
    world.start().unwrap();
    world.finish().unwrap();
    assert_eq!(world.delivered, 40 * 2 + 1, "and the fresh one");
}

/// Damage in a batch that was acknowledged costs what it hits.
#[test]
fn damage_in_a_batch_that_was_acknowledged_costs_one_event() {
    let mut world = World::new(1);
    world.start().unwrap();
    world.post_batch(&[100, 100, 100], &[(0, Fate::Queued)]);
    world.turn().unwrap();
    // The next commit says that the batch was synced.
    world.post(8, &[(0, Fate::Queued)]);
    world.turn().unwrap();
    world.kill();
    let mut files = world.disk.files();
    let is_segment = |name: &&String| name.starts_with("ev-") && name.ends_with(".seg");
    let name = files.keys().find(is_segment).unwrap().clone();
    files.get_mut(&name).unwrap()[64 + 300] ^= 1;
    let mut fork = world.fork(super::model_disk::ModelDisk::with_files(&files));
    fork.damaged = true;
    fork.start().unwrap();
    fork.finish().unwrap();
    assert_eq!(fork.missing, 1);
}
