//! What every test uses: a daemon to break, a receiver that notes what arrives, a producer that notes what was
//! acknowledged, and the oracle that compares the two.

use std::ffi::OsString;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

pub(crate) mod daemon;
pub(crate) mod message;
pub(crate) mod notify;
pub(crate) mod oracle;
pub(crate) mod producer;
pub(crate) mod receiver;
pub(crate) mod scrape;
pub(crate) mod site;
pub(crate) mod strace;

pub(crate) use daemon::Daemon;
pub(crate) use oracle::{Oracle, Verdict};
pub(crate) use producer::{Answer, Ledger, Producer};
pub(crate) use receiver::{Behaviour, Receiver};
pub(crate) use site::Site;

/// The daemon under test: the one that cargo built beside this, or what `POSTHASTE_BINARY` names.
pub(crate) fn binary() -> OsString {
    let given = std::env::var_os("POSTHASTE_BINARY");
    given.unwrap_or_else(|| env!("CARGO_BIN_EXE_posthaste").into())
}

/// How long a condition may take that should hold in milliseconds: the machine may be busy with something else.
pub(crate) const SOON: Duration = Duration::from_secs(30);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// Monotonic time; the one place that asks for it.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Waits until `condition` holds and fails the test, naming `what`, when it does not within `limit`.
#[track_caller]
pub(crate) fn eventually(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let start = now();
    while !condition() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        thread::sleep(LOOK);
    }
}

/// Whether the full figures were asked for.
pub(crate) fn long() -> bool {
    std::env::var_os("POSTHASTE_LONG").is_some_and(|value| value == "1")
}

/// Whether a program that a test needs is there: it is asked for its version. Where it is not, the test says so on standard
/// error and is left out; with `POSTHASTE_NO_SKIP=1`, as in `.ci/run`, it fails.
#[track_caller]
pub(crate) fn has_program(program: &str, version: &str) -> bool {
    let mut command = Command::new(program);
    command.arg(version).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let found = command.status().is_ok_and(|status| status.success());
    found || !must(&format!("{program} is missing, see .ci/setup"))
}

/// Says `skipped` for what the machine lacks, past the test runner's capture; with `POSTHASTE_NO_SKIP=1` it fails the test.
#[track_caller]
pub(crate) fn must(lacking: &str) -> bool {
    let must = std::env::var_os("POSTHASTE_NO_SKIP").is_some_and(|value| value == "1");
    assert!(!must, "{lacking}");
    // What `eprintln!` writes is shown for tests that fail alone.
    let _ = std::io::Write::write_all(
        &mut std::io::stderr(),
        format!("skipped: {lacking}\n").as_bytes(),
    );
    true
}

/// The seed of a random run, printed so that it can be repeated.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("POSTHASTE_SEED").ok();
    let seed = given.map_or_else(
        || fastrand::u64(..),
        |text| text.parse().expect("POSTHASTE_SEED is a number"),
    );
    println!("POSTHASTE_SEED={seed}");
    seed
}

/// A loopback address that is free just now and that nobody gets by chance: the port is below those that the kernel gives
/// to clients, and never given out twice by this process.
pub(crate) fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 10_000;
    const PORTS: u16 = 20_000;
    NEXT.compare_exchange(0, fastrand::u16(1..PORTS), Ordering::Relaxed, Ordering::Relaxed).ok();
    loop {
        let port = FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % PORTS;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// The newest event segment of a store.
pub(crate) fn newest_segment(site: &Site) -> PathBuf {
    let mut segments: Vec<PathBuf> = std::fs::read_dir(site.store())
        .expect("the store's directory")
        .map(|entry| entry.expect("a directory entry").path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("ev-") && name.ends_with(".seg")
        })
        .collect();
    segments.sort();
    segments.pop().expect("a store has at least one segment")
}
