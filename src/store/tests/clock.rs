//! Promise 10 of spec 2: no step of a clock floods, stalls or expires anything. Reboots and suspends, which the built
//! binary cannot be put through.

use super::*;

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);
const WALL: u64 = 1_700_000_000_000;
const TEN_YEARS_MS: u64 = 10 * 365 * 24 * 3600 * 1000;

/// A store in which one delivery waits an hour for its second attempt, closed by a kill; and its age then.
fn waiting() -> (tempfile::TempDir, Clock, Age) {
    let (directory, clock) = (tempfile::tempdir().unwrap(), Clock::manual(WALL));
    let mut rig = Rig::open(directory.path(), &clock);
    let crm = rig.connection("crm");
    rig.append(b"a", &[crm]).unwrap();
    let due = rig.due();
    rig.settle(&due[0], Disposition::RetryAfter(60 * MINUTE));
    rig.pass(Duration::from_millis(25));
    (directory, clock.clone(), clock.age())
}

/// Opens after this happened to the clocks. The age then, and whether the delivery is due after these waits in turn.
fn after(happened: impl FnOnce(&Clock), waits: &[Duration]) -> (Duration, Vec<bool>) {
    let (directory, clock, before) = waiting();
    happened(&clock);
    let mut rig = Rig::open(directory.path(), &clock);
    rig.connection("crm");
    assert!(clock.age() >= before, "store time went back");
    let elapsed = clock.age().since(before);
    let due = waits.iter().map(|wait| {
        rig.pass(*wait);
        !rig.due().is_empty()
    });
    (elapsed, due.collect())
}

#[test]
fn a_reboot_goes_by_the_wall_clock_within_a_day() {
    let waits = [10 * MINUTE, 19 * MINUTE, 2 * MINUTE];
    let soon = |clock: &Clock| clock.reboot(WALL + 30 * 60_000);
    let (elapsed, due) = after(soon, &waits);
    assert!(elapsed.abs_diff(30 * MINUTE) < MINUTE, "{elapsed:?}");
    assert_eq!(due, [false, false, true]);
}

#[test]
fn a_reboot_with_the_wall_clock_behind_waits_its_own_time_and_no_more() {
    let waits = [58 * MINUTE, 3 * MINUTE];
    for wall in [0, WALL - TEN_YEARS_MS, WALL - 3_600_000] {
        let (elapsed, due) = after(|clock| clock.reboot(wall), &waits);
        assert_eq!((elapsed, due), (Duration::ZERO, vec![false, true]), "{wall}");
    }
}

#[test]
fn a_reboot_with_the_wall_clock_ahead_is_a_day_at_the_most() {
    for wall in [WALL + TEN_YEARS_MS, u64::MAX / 2] {
        let (elapsed, due) = after(|clock| clock.reboot(wall), &[Duration::ZERO]);
        assert_eq!((elapsed, due), (DAY, vec![true]), "{wall}");
    }
}

#[test]
fn a_suspend_between_two_processes_counts() {
    let (elapsed, due) = after(|clock| clock.suspend(59 * MINUTE), &[Duration::ZERO, 2 * MINUTE]);
    assert_eq!((elapsed, due), (59 * MINUTE, vec![false, true]));
}

/// Within one process: what fell due in a suspend comes once, what waits for longer still waits, and the store goes on.
#[test]
fn a_suspend_or_a_step_within_a_process_neither_stalls_nor_floods() {
    let (directory, clock) = (tempfile::tempdir().unwrap(), Clock::manual(WALL));
    let mut rig = Rig::open(directory.path(), &clock);
    let crm = rig.connection("crm");
    let waits = [10, 20, 30, 50, 70, 90];
    for minutes in waits {
        rig.append(b"a", std::slice::from_ref(&crm)).unwrap();
        let due = rig.due();
        assert_eq!(due.len(), 1);
        rig.settle(&due[0], Disposition::RetryAfter(minutes * MINUTE));
    }
    for wall in [0, WALL + TEN_YEARS_MS, WALL - 3_600_000] {
        clock.step_wall(wall);
        rig.pass(Duration::from_secs(2));
        assert_eq!(rig.due().len(), 0, "wall at {wall}");
    }
    clock.suspend(60 * MINUTE);
    rig.pass(Duration::from_secs(2));
    let due = rig.due();
    assert_eq!(due.len(), 4, "10, 20, 30 and 50 minutes");
    for one in &due {
        rig.settle(one, Disposition::Delivered);
    }
    rig.append(b"b", &[crm]).unwrap();
    assert_eq!(rig.due().len(), 1, "a fresh one passes");
    rig.pass(11 * MINUTE);
    assert_eq!(rig.due().len(), 1, "70 minutes");
    drop(rig);
    // The fresh one and the one of 70 minutes were handed out and not settled; the others stay as they are.
    let mut rig = Rig::open(directory.path(), &clock);
    rig.connection("crm");
    assert_eq!(rig.due().len(), 2);
}
