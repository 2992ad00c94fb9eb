//! One scripted run, again and again: each of its calls to the disk fails in turn, in every way, once and for good, or the
//! power goes off in the middle of it.
//!
//! The script fills and rotates segments, schedules, kills, replays and discards, begins new logs, drains, gives
//! segments back and writes over them.

use std::time::Duration;

use super::super::suspension::SuspensionKind;
use super::model::{Ending, Op, step};
use super::model_disk::{Failure, Fault};
use super::world::{Verdict, World};

/// The script.
fn script() -> Vec<Op> {
    let post = |sizes: &[usize], to: u8| Op::Post {
        sizes: sizes.to_vec(),
        to,
        dead: false,
        delay: 0,
        relaxed: false,
    };
    let mut ops = vec![
        post(&[100, 200], 3),
        Op::Post { sizes: vec![50], to: 1, dead: true, delay: 0, relaxed: false },
        Op::Settle(0, Ending::Retry(500)),
        Op::Settle(0, Ending::Dead),
        Op::Advance(25),
    ];
    for _ in 0..5 {
        ops.push(post(&[9000, 9000], 1));
        ops.push(Op::Advance(2));
    }
    ops.extend([
        Op::Post { sizes: vec![60; 3], to: 2, dead: false, delay: 3000, relaxed: false },
        Op::Suspend(0, Some(SuspensionKind::Gone)),
        Op::Settle(0, Ending::Delivered),
        Op::Advance(1100),
        Op::Replay(0, 1),
        Op::Discard(1),
        Op::Post { sizes: vec![60; 3], to: 5, dead: false, delay: 2500, relaxed: false },
        Op::Suspend(0, None),
        Op::SettleAll(Ending::Retry(10)),
    ]);
    // Marks that fill a log.
    for _ in 0..60 {
        ops.extend([Op::Advance(25), Op::SettleAll(Ending::Retry(10))]);
    }
    ops.extend([Op::Advance(25), Op::SettleAll(Ending::Delivered), Op::Advance(1100)]);
    for _ in 0..5 {
        ops.push(post(&[9000, 9000], 4));
        ops.push(Op::Advance(2));
        ops.push(Op::SettleAll(Ending::Delivered));
    }
    ops.extend([Op::Restart, post(&[10], 7), Op::Advance(1100)]);
    ops
}

/// Calls of the script without a fault.
fn calls() -> Result<u64, String> {
    let mut world = World::new(1);
    for op in script() {
        step(&mut world, &op)?;
    }
    let calls = world.disk.calls();
    world.finish()?;
    Ok(calls)
}

fn run(fault: Fault, seed: u64) -> Verdict {
    let mut world = World::new(1);
    world.disk.set_fault(Some(fault));
    for op in script() {
        if world.disk.power_is_off() {
            world.crash(seed);
        }
        step(&mut world, &op)?;
    }
    if fault.for_good {
        world.disk.set_fault(None);
        world.start()?;
        world.advance(Duration::from_secs(2))?;
    }
    world.crash(seed);
    world.finish()
}

fn at_each_call(step: u64, failure: Failure, for_good: bool) -> Verdict {
    let calls = calls()?;
    let mut after = 0;
    while after < calls {
        let fault = Fault { kind: None, after, failure, for_good };
        run(fault, after).map_err(|what| format!("{fault:?}: {what}"))?;
        after += step;
    }
    Ok(())
}

/// Calls between two that fail: 1 in the long run.
fn stride(short: u64) -> u64 {
    if std::env::var_os("POSTHASTE_LONG").is_some() { 1 } else { short }
}

#[test]
fn the_script_does_what_it_says() {
    let mut world = World::new(1);
    for op in script() {
        step(&mut world, &op).unwrap();
    }
    let files = world.disk.files();
    let some = |start: &str| files.keys().any(|name| name.starts_with(start));
    assert!(some("spare-"), "no segment was given back: {:?}", files.keys());
    assert!(!some("st-0000000001"), "no log was begun: {:?}", files.keys());
    assert!(calls().unwrap() > 200);
}

#[test]
fn the_power_goes_off_at_each_call() {
    at_each_call(stride(3), Failure::PowerOff, false).unwrap();
}

#[test]
fn each_call_fails_once() {
    for failure in Failure::ERRORS {
        at_each_call(stride(29), failure, false).unwrap();
    }
}

#[test]
fn each_call_and_all_after_it_fail() {
    for failure in Failure::ERRORS {
        at_each_call(stride(13), failure, true).unwrap();
    }
}
