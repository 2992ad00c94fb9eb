//! The property test: any operations, faults, crashes and restarts in any order, against the model in `world`.
//!
//! `POSTHASTE_LONG=1 cargo test --release --lib store::tests` runs 100,000 cases, and the sweeps at every call and byte.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence};

use super::super::intake::Fate;
use super::super::suspension::SuspensionKind;
use super::model_disk::{Failure, Fault, Kind};
use super::world::{CONNECTIONS, Verdict, World};
use crate::event::{Cause, Disposition};

/// One step.
#[derive(Clone, Debug)]
pub enum Op {
    Post { sizes: Vec<usize>, to: u8, dead: bool, delay: u64, relaxed: bool },
    Settle(usize, Ending),
    SettleAll(Ending),
    Release(usize),
    Detach(usize),
    Attach(usize),
    Discard(usize),
    Replay(usize, usize),
    Suspend(usize, Option<SuspensionKind>),
    Rename(usize),
    Advance(u64),
    Wall(u64),
    WriteBack(u64),
    Fault(Fault),
    NoFault,
    Free(u64),
    Kill,
    Crash(u64),
    Restart,
}

/// How an attempt ends.
#[derive(Clone, Copy, Debug)]
pub enum Ending {
    Delivered,
    Retry(u64),
    Dead,
}

impl Ending {
    pub fn disposition(self) -> Disposition {
        match self {
            Ending::Delivered => Disposition::Delivered,
            Ending::Retry(ms) => Disposition::RetryAfter(Duration::from_millis(ms)),
            Ending::Dead => Disposition::Dead { cause: Cause::HttpStatus, status: 400 },
        }
    }
}

/// Does one step.
pub fn step(world: &mut World, op: &Op) -> Verdict {
    if !matches!(op, Op::NoFault | Op::Crash(_)) && !world.start()? {
        return Ok(());
    }
    match op {
        Op::Post { sizes, to, dead, delay, relaxed } => {
            let fate = |connection| {
                if *dead && connection == 0 { Fate::Dead(Cause::QueueFull) } else { Fate::Queued }
            };
            let to = (0..CONNECTIONS).filter(|connection| to >> connection & 1 == 1);
            let routes: Vec<_> = to.map(|connection| (connection, fate(connection))).collect();
            sizes.iter().for_each(|size| world.post_with(*size, &routes, *delay, *relaxed));
            world.turn()
        }
        Op::Settle(index, ending) => world.settle(*index, ending.disposition()),
        Op::SettleAll(ending) => world.settle_all(ending.disposition()),
        Op::Release(index) => world.release(*index),
        Op::Detach(connection) => world.set_attached(*connection, false),
        Op::Attach(connection) => world.set_attached(*connection, true),
        Op::Discard(connection) => world.discard(*connection),
        Op::Replay(connection, count) => world.replay(*connection, *count),
        Op::Suspend(connection, kind) => world.suspend(*connection, *kind),
        Op::Rename(connection) => world.rename(*connection),
        Op::Advance(ms) => world.advance(Duration::from_millis(*ms)),
        Op::Wall(ms) => {
            world.step_wall(*ms);
            Ok(())
        }
        Op::WriteBack(seed) => {
            world.disk.write_back(*seed);
            Ok(())
        }
        Op::Fault(fault) => {
            world.disk.set_fault(Some(*fault));
            Ok(())
        }
        Op::NoFault => {
            world.disk.set_fault(None);
            Ok(())
        }
        Op::Free(bytes) => {
            world.set_free(*bytes);
            Ok(())
        }
        Op::Kill => {
            world.kill();
            Ok(())
        }
        Op::Crash(seed) => {
            world.crash(*seed);
            world.start().map(drop)
        }
        Op::Restart => {
            world.stop()?;
            world.start().map(drop)
        }
    }
}

/// Does all steps, then lets the faults stop.
pub fn run(seed: u64, ops: &[Op]) -> Verdict {
    let mut world = World::new(seed);
    for op in ops {
        step(&mut world, op)?;
    }
    world.finish()
}

fn any_ending() -> impl Strategy<Value = Ending> {
    prop_oneof![
        4 => Just(Ending::Delivered),
        2 => (0u64..5000).prop_map(Ending::Retry),
        1 => (0u64..100_000_000).prop_map(Ending::Retry),
        1 => Just(Ending::Dead),
    ]
}

fn any_suspension() -> impl Strategy<Value = Option<SuspensionKind>> {
    prop::option::weighted(
        0.7,
        prop::sample::select(vec![
            SuspensionKind::Gone,
            SuspensionKind::Halted,
            SuspensionKind::PausedUntilRestart,
        ]),
    )
}

fn any_fault() -> impl Strategy<Value = Fault> {
    let kinds = prop::option::weighted(
        0.7,
        prop::sample::select(vec![
            Kind::Create,
            Kind::Rename,
            Kind::Remove,
            Kind::SyncDir,
            Kind::Write,
            Kind::Sync,
            Kind::Allocate,
        ]),
    );
    let mut failures = Failure::ERRORS.to_vec();
    failures.push(Failure::PowerOff);
    let failure = prop::sample::select(failures);
    (kinds, 0u64..20, failure, any::<bool>()).prop_map(|(kind, after, failure, for_good)| Fault {
        kind,
        after,
        failure,
        for_good,
    })
}

fn any_delay() -> impl Strategy<Value = u64> {
    prop_oneof![7 => Just(0), 2 => 1u64..5000, 1 => 0u64..100_000_000]
}

fn any_sizes() -> impl Strategy<Value = Vec<usize>> {
    let size = prop_oneof![6 => 0usize..600, 2 => 0usize..6000, 1 => 0usize..20_000];
    prop::collection::vec(size, 1..5)
}

pub fn any_op() -> impl Strategy<Value = Op> {
    let connection = 0..CONNECTIONS;
    let late = prop_oneof![0u64..30, 900u64..1200, 0u64..100_000_000];
    let wall = prop_oneof![
        Just(0),
        Just(1_600_000_000_000),
        Just(1_700_003_600_000),
        Just(2_500_000_000_000)
    ];
    prop_oneof![
        24 => (any_sizes(), 1u8..8, prop::bool::weighted(0.1), any_delay(), any::<bool>())
            .prop_map(|(sizes, to, dead, delay, relaxed)| Op::Post { sizes, to, dead, delay, relaxed }),
        12 => (any::<usize>(), any_ending()).prop_map(|(index, ending)| Op::Settle(index, ending)),
        8 => any_ending().prop_map(Op::SettleAll),
        2 => any::<usize>().prop_map(Op::Release),
        2 => connection.clone().prop_map(Op::Detach),
        3 => connection.clone().prop_map(Op::Attach),
        1 => connection.clone().prop_map(Op::Discard),
        2 => (connection.clone(), 1usize..5)
            .prop_map(|(connection, count)| Op::Replay(connection, count)),
        1 => connection.clone().prop_map(Op::Rename),
        2 => (connection, any_suspension())
            .prop_map(|(connection, kind)| Op::Suspend(connection, kind)),
        10 => late.prop_map(Op::Advance),
        1 => wall.prop_map(Op::Wall),
        3 => any::<u64>().prop_map(Op::WriteBack),
        4 => any_fault().prop_map(Op::Fault),
        2 => Just(Op::NoFault),
        1 => prop_oneof![Just(u64::MAX), 0u64..200_000].prop_map(Op::Free),
        1 => Just(Op::Kill),
        4 => any::<u64>().prop_map(Op::Crash),
        1 => Just(Op::Restart),
    ]
}

/// How many cases a run has.
pub fn cases() -> u32 {
    if std::env::var_os("POSTHASTE_LONG").is_some() { 100_000 } else { 2000 }
}

#[test]
fn the_store_keeps_its_promises_whatever_happens() {
    let config = Config {
        cases: cases(),
        max_shrink_iters: 20_000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/proptest-regressions/store/tests/model.txt"
        )))),
        ..Config::default()
    };
    proptest!(config, |(seed in any::<u64>(), ops in prop::collection::vec(any_op(), 1..80))| {
        let verdict = run(seed, &ops);
        prop_assert!(verdict.is_ok(), "{}", verdict.unwrap_err());
    });
}

#[test]
fn a_snapshot_that_cannot_be_read_just_now_is_not_given_up() {
    let mut failed = 0;
    for after in 0..12 {
        let mut world = World::new(1);
        let post = Op::Post { sizes: vec![10], to: 1, dead: false, delay: 0, relaxed: false };
        step(&mut world, &post).unwrap();
        step(&mut world, &Op::SettleAll(Ending::Dead)).unwrap();
        step(&mut world, &Op::Restart).unwrap();
        world.kill();
        world.disk.set_fault(Some(Fault {
            kind: Some(Kind::Read),
            after,
            failure: Failure::Io,
            for_good: false,
        }));
        failed += usize::from(!world.start().unwrap());
        world.finish().unwrap();
    }
    assert!(failed > 2, "{failed}");
}
