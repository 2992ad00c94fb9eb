//! States that the daemon sets itself outlive a crash from the answer on.

use super::super::suspension::{Suspension, SuspensionKind};
use super::*;

fn suspension(kind: SuspensionKind, settings: u64) -> Suspension {
    Suspension { kind, at_ms: 1_700_000_000_123, settings }
}

fn suspend(rig: &mut Rig, connection: ConnectionId, suspension: Option<Suspension>) {
    rig.ask(|reply| Command::Suspend { connection, suspension, reply }).unwrap();
}

fn suspensions(rig: &mut Rig) -> Vec<(ConnectionId, Suspension)> {
    rig.ask(|reply| Command::Suspensions { reply })
}

#[test]
fn suspensions_outlive_crashes_and_snapshots_until_they_are_cleared() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    let ids = ["crm", "erp", "shop"].map(|name| rig.connection(name).0);
    let gone = suspension(SuspensionKind::Gone, u64::MAX);
    let halted = suspension(SuspensionKind::Halted, 7);
    suspend(&mut rig, ids[0], Some(suspension(SuspensionKind::FailingTooLong, 1)));
    suspend(&mut rig, ids[0], Some(gone));
    suspend(&mut rig, ids[1], Some(halted));
    suspend(&mut rig, ids[2], Some(halted));
    suspend(&mut rig, ids[2], None);
    let expected = [(ids[0], gone), (ids[1], halted)];
    assert_eq!(suspensions(&mut rig), expected);
    // From the log, then from the snapshot that each start writes, then from that of a clean stop.
    for _ in 0..2 {
        drop(rig);
        rig = Rig::open(directory.path(), &clock);
        assert_eq!(suspensions(&mut rig), expected);
    }
    suspend(&mut rig, ids[1], None);
    rig.stop();
    let mut rig = Rig::open(directory.path(), &clock);
    assert_eq!(suspensions(&mut rig), [(ids[0], gone)]);
}

#[test]
fn a_pause_until_restart_ends_with_it() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    let (crm, _) = rig.connection("crm");
    let paused = suspension(SuspensionKind::PausedUntilRestart, 3);
    suspend(&mut rig, crm, Some(paused));
    assert_eq!(suspensions(&mut rig), [(crm, paused)]);
    rig.stop();
    let mut rig = Rig::open(directory.path(), &clock);
    assert_eq!(suspensions(&mut rig), []);
}

/// Nobody is told that something is kept which is not.
#[test]
fn a_suspension_of_a_connection_that_is_not_there_is_nothing() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    suspend(&mut rig, ConnectionId(9), Some(suspension(SuspensionKind::Gone, 1)));
    assert_eq!(suspensions(&mut rig), []);
}
