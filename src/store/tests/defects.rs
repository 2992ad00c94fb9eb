//! The tests tested: each deliberate defect of the store is found by the test that this table names.

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::super::defects::{Defect, with};
use super::world::Verdict;
use super::{damage, model};

/// Which test finds a defect.
#[derive(Clone, Copy, Debug)]
enum Finder {
    /// `model`, within 2,000 cases; this one finds it.
    Model(u32),
    /// `damage`: a flipped bit.
    Damage,
}

const TABLE: &[(Defect, Finder)] = &[
    (Defect::NoDataSync, Finder::Model(5)),
    (Defect::NoDirectorySync, Finder::Model(4)),
    (Defect::FsyncRepeated, Finder::Model(5)),
    (Defect::AcknowledgeBeforeSync, Finder::Model(5)),
    (Defect::SyncErrorIgnored, Finder::Model(11)),
    (Defect::LogsRemovedFirst, Finder::Model(89)),
    (Defect::SnapshotNotSynced, Finder::Model(5)),
    (Defect::BrokenLogKept, Finder::Model(82)),
    (Defect::HandedOutIsDone, Finder::Model(11)),
    (Defect::ChecksumNotSeeded, Finder::Model(35)),
    (Defect::BodyNotChecked, Finder::Damage),
    (Defect::SlotsCounted, Finder::Damage),
    (Defect::AgeByWallClock, Finder::Model(59)),
    (Defect::ReplayNotSynced, Finder::Model(30)),
    (Defect::SuspensionNotSynced, Finder::Model(1)),
    (Defect::RenameNotMarked, Finder::Model(1)),
    (Defect::RelaxedBelieved, Finder::Model(1)),
    (Defect::DelayForgotten, Finder::Model(1)),
    (Defect::DiscardNotMarked, Finder::Model(4)),
    (Defect::RunNotSynced, Finder::Model(1)),
    (Defect::RunRemovedFirst, Finder::Model(1)),
];

/// The operations of one case.
fn ops(case: u32) -> Vec<model::Op> {
    let mut seed = [7; 32];
    seed[..4].copy_from_slice(&case.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let ops = proptest::collection::vec(model::any_op(), 1..80);
    ops.new_tree(&mut runner).unwrap().current()
}

fn find(finder: Finder) -> Verdict {
    match finder {
        // The case that is known to find it comes first: that only saves time.
        Finder::Model(known) => std::iter::once(known).chain(1..2000).try_for_each(|case| {
            model::run(case.into(), &ops(case)).map_err(|what| format!("case {case}: {what}"))
        }),
        Finder::Damage => damage::sweep(257),
    }
}

#[test]
fn every_deliberate_defect_is_found() {
    let mut missed = Vec::new();
    for (defect, finder) in TABLE {
        match with(*defect, || find(*finder)) {
            Ok(()) => missed.push(*defect),
            Err(how) => println!("{defect:?}: {finder:?} found it: {how}"),
        }
    }
    assert!(TABLE.len() >= 12 && missed.is_empty(), "not found: {missed:?}");
}
