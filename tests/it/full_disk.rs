//! Promise 7 of spec 2 on a disk that is full indeed: refused, nothing dropped, and events are taken again soon after there
//! is space.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::harness::{
    Behaviour, Daemon, Ledger, Oracle, Receiver, SOON, Site, eventually, must, now,
};

const QUICK: &str = "max_body = \"256KiB\"\nbreaker = { enabled = false }\n\
    retry = { interval = \"100ms\", max_interval = \"500ms\", jitter = \"none\", count = 10000 }";
const BODY: usize = 100 * 1024;
/// How soon after there is space events are taken.
const RESUME: Duration = Duration::from_secs(5);

/// A file system of its own for a store.
struct Mount {
    at: PathBuf,
}

impl Mount {
    /// `None` where this user may not mount.
    fn tmpfs(at: &Path, size: &str) -> Option<Mount> {
        fs::create_dir_all(at).unwrap();
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(at);
        match command.output() {
            Ok(output) if output.status.success() => Some(Mount { at: at.to_owned() }),
            other => {
                must(&format!("a tmpfs cannot be mounted: {other:?}"));
                None
            }
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a daemon that outlived a failed test may still be there.
        let unmounted = Command::new("umount").arg("-l").arg(&self.at).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "umount {}", self.at.display());
    }
}

/// Posts until the store has refused many times in a row; how many were refused.
fn fill(site: &Site, ledger: &Ledger) -> usize {
    let mut producer = site.producer();
    let (mut refused, mut in_a_row) = (0, 0);
    while in_a_row < 20 {
        let body: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(BODY).collect();
        let answer = producer.event(ledger, &body).unwrap();
        // Memory may be full for a moment, while what was posted is on its way to the disk.
        assert!(matches!(answer.status, 202 | 503 | 507), "{}: {}", answer.status, answer.json);
        let full = answer.status == 507;
        assert!(!full || answer.message.header("retry-after").is_some(), "{answer:?}");
        (refused, in_a_row) = if full { (refused + 1, in_a_row + 1) } else { (refused, 0) };
    }
    refused
}

/// Until a post is taken.
fn resumed(site: &Site, ledger: &Ledger) -> Duration {
    let begun = now();
    let mut producer = site.producer();
    eventually("events are taken again", RESUME, || {
        producer.event(ledger, b"after").unwrap().status == 202
    });
    begun.elapsed()
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Space {
    /// Another file on the same disk is removed.
    Removed,
    /// The endpoint comes back.
    Drained,
    /// The same, after a kill and a start while the disk is full.
    DrainedAfterAKill,
}

/// A dead endpoint until the store is full; then space is made, and everything is delivered.
fn full(site: &Site, space: Space, ballast: Option<&Path>) {
    let receiver = Receiver::refusing();
    receiver.behave(Behaviour::ok());
    site.connection("crm", &receiver.url("crm"), QUICK);
    if let Some(ballast) = ballast {
        fs::write(ballast, vec![1; 8 << 20]).unwrap();
    }
    let ledger = Ledger::default();
    let mut daemon = Daemon::start(site);
    let refused = fill(site, &ledger);
    let accepted = ledger.len();
    if space == Space::DrainedAfterAKill {
        daemon.kill();
        daemon = Daemon::start(site);
        let waiting = daemon.metrics().waiting("crm");
        assert!(waiting >= accepted as f64, "{waiting} of {accepted}");
    }
    let resumed = match (space, ballast) {
        (Space::Removed, Some(ballast)) => {
            fs::remove_file(ballast).unwrap();
            let resumed = resumed(site, &ledger);
            receiver.listen();
            resumed
        }
        _ => {
            receiver.listen();
            eventually("all arrive", SOON, || receiver.delivered("crm") >= accepted);
            resumed(site, &ledger)
        }
    };
    eventually("all arrive", SOON, || receiver.delivered("crm") >= ledger.len());
    let dead = BTreeSet::new();
    let oracle = Oracle { ledger: &ledger, connections: &["crm"], dead: &dead };
    let verdict = oracle.judge(&receiver.arrivals());
    println!(
        "full, {space:?}: {accepted} accepted, {refused} refused, {} lost, 202 again after {resumed:?}",
        verdict.lost.len()
    );
    verdict.assert_clean();
    assert!(accepted > 30, "{accepted}");
    daemon.drained(&["crm"]);
    daemon.stop();
}

#[test]
fn a_full_disk_refuses_and_loses_nothing() {
    for space in [Space::Removed, Space::Drained, Space::DrainedAfterAKill] {
        let site = Site::small("");
        let Some(_mount) = Mount::tmpfs(&site.store(), "16m") else { return };
        let ballast = site.store().join("ballast");
        full(&site, space, (space == Space::Removed).then_some(&*ballast));
    }
}

/// The same with the store's own cap, on a disk that has space.
#[test]
fn a_store_at_its_cap_refuses_and_loses_nothing() {
    for space in [Space::Drained, Space::DrainedAfterAKill] {
        let site = Site::small("max_bytes = \"8MiB\"");
        full(&site, space, None);
    }
}
