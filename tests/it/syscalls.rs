//! The disk's system calls, each broken in turn: killed at the Nth, failed at the Nth, once and for good. Short writes are
//! left to the model disk (`src/store/tests`): strace can only lie about what was written.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::harness::receiver::Arrival;
use crate::harness::site::copy;
use crate::harness::strace::{self, Strace, believed_after_a_failure};
use crate::harness::{
    Behaviour, Daemon, Ledger, Oracle, Receiver, SOON, Site, Verdict, eventually, long, now,
};

const QUICK: &str = "max_body = \"256KiB\"\nbreaker = { enabled = false }\n\
    retry = { interval = \"50ms\", max_interval = \"200ms\", jitter = \"none\", count = 10000 }";
/// Five of them fill a segment.
const BODY: usize = 190 * 1024;
/// Events of one run: two rotations.
const EVENTS: usize = 12;
/// How soon after the last fault events are taken again.
const RESUME: Duration = Duration::from_secs(5);

/// A site with a connection that works, one that fails at first, and one whose events all become dead letters.
struct Scene {
    site: Site,
    receivers: [Receiver; 3],
    /// What goes to `good` and `flaky`.
    ledger: Ledger,
    /// What goes to `bad`.
    refused: Ledger,
    posted: AtomicUsize,
    /// What arrived before the receivers were there.
    before: Vec<Arrival>,
}

impl Scene {
    fn new() -> Scene {
        let mut scene = Scene {
            site: Site::small(""),
            receivers: std::array::from_fn(|_| Receiver::refusing()),
            ledger: Ledger::default(),
            refused: Ledger::default(),
            posted: AtomicUsize::new(0),
            before: Vec::new(),
        };
        scene.receive();
        scene
    }

    /// Fresh receivers, that know of nothing yet.
    fn receive(&mut self) {
        let behaviours = [Behaviour::ok(), Behaviour::status(503), Behaviour::status(400)];
        self.receivers = behaviours.map(Receiver::start);
        let sources = ["", "", "source = \"bad\"\n"];
        let all = ["good", "flaky", "bad"].into_iter().zip(&self.receivers).zip(sources);
        for ((name, receiver), source) in all {
            self.site.connection(name, &receiver.url(name), &format!("{source}{QUICK}"));
        }
    }

    /// Posts one event to `good` and `flaky`. Its status; 0 where there was no answer.
    fn post(&self) -> u16 {
        let number = self.posted.fetch_add(1, Ordering::Relaxed);
        let mut body = format!("event {number} {:x}", fastrand::u128(..)).into_bytes();
        body.resize(BODY, b'.');
        self.site.producer().event(&self.ledger, &body).map_or(0, |answer| answer.status)
    }

    fn post_bad(&self) -> u16 {
        let number = self.posted.fetch_add(1, Ordering::Relaxed);
        let body = format!("to be refused {number}");
        let answer = self.site.producer().event_to(
            "/v1/connections/bad/events",
            &self.refused,
            body.as_bytes(),
        );
        answer.map_or(0, |answer| answer.status)
    }

    /// Two rotations, a dead letter, retries; segments are given back. Goes on while the daemon lives. The statuses.
    fn run(&self, daemon: &mut Daemon<'_>) -> Vec<u16> {
        self.receivers[1].behave(Behaviour::status(503));
        let mut statuses = vec![self.post(), self.post_bad(), self.post()];
        eventually("retries, or its end", SOON, || {
            self.receivers[1].count() >= 3 || self.ledger.len() == 0 || daemon.poll().is_some()
        });
        self.receivers[1].behave(Behaviour::ok());
        while statuses.len() < EVENTS && daemon.poll().is_none() {
            statuses.push(self.post());
        }
        statuses
    }

    /// Waits until all that was acknowledged has arrived, if the daemon lives so long.
    fn arrive(&self, daemon: &mut Daemon<'_>) {
        eventually("all arrive, or its end", SOON, || {
            let of_all = self.judge(&self.ledger, &["good", "flaky"], &BTreeSet::new());
            of_all.lost.is_empty() || daemon.poll().is_some()
        });
    }

    /// The oracle, after everything has come to rest.
    fn verdict(&self, daemon: &Daemon<'_>) -> [Verdict; 2] {
        let listed = daemon.cli_json(&["dead", "list", "--connection", "bad", "--json"]);
        let models = listed["models"].as_array().expect("a page of dead letters");
        let id = |model: &serde_json::Value| model["id"].as_str().unwrap_or_default().to_owned();
        let dead: BTreeSet<_> = models.iter().map(|m| ("bad".to_owned(), id(m))).collect();
        [
            self.judge(&self.ledger, &["good", "flaky"], &dead),
            self.judge(&self.refused, &["bad"], &dead),
        ]
    }

    fn judge(
        &self,
        ledger: &Ledger,
        connections: &[&str],
        dead: &BTreeSet<(String, String)>,
    ) -> Verdict {
        let mut arrivals = self.before.clone();
        arrivals.extend(self.receivers.iter().flat_map(Receiver::arrivals));
        arrivals.retain(|arrival| connections.contains(&arrival.connection()));
        Oracle { ledger, connections, dead }.judge(&arrivals)
    }

    /// A daemon without faults on what is there: all that was acknowledged arrives, and so does a fresh event.
    #[track_caller]
    fn comes_back(&self, context: &str) {
        let mut daemon = Daemon::start(&self.site);
        self.receivers[1].behave(Behaviour::ok());
        self.goes_on(&mut daemon, context);
        daemon.drained(&["good", "flaky", "bad"]);
        for verdict in self.verdict(&daemon) {
            let clean = Verdict { duplicates: verdict.duplicates, ..Verdict::default() };
            assert_eq!(verdict, clean, "{context}");
        }
        daemon.stop();
    }

    /// A fresh event is taken within a few seconds, and arrives with all others.
    #[track_caller]
    fn goes_on(&self, daemon: &mut Daemon<'_>, context: &str) {
        eventually(&format!("{context}: a fresh event is taken"), RESUME, || self.post() == 202);
        let begun = now();
        self.arrive(daemon);
        assert!(begun.elapsed() < RESUME, "{context}: {:?}", begun.elapsed());
    }

    /// What a process refused, it does not deliver.
    #[track_caller]
    fn delivered_nothing_refused(&self, context: &str) {
        let acknowledged = self.ledger.acknowledged();
        let arrivals = self.receivers[..2].iter().flat_map(Receiver::arrivals);
        let refused: Vec<_> = arrivals.filter(|one| !acknowledged.contains_key(&one.id)).collect();
        assert!(refused.is_empty(), "{context}: {} were refused and delivered", refused.len());
    }

    /// What is on the disk after a stop, to be put back.
    fn keep(&self) -> TempDir {
        let kept = tempfile::tempdir().expect("a directory");
        copy(&self.site.store(), kept.path());
        kept
    }

    fn put_back(&self, kept: &TempDir) {
        fs::remove_dir_all(self.site.store()).expect("remove the store");
        copy(kept.path(), &self.site.store());
    }
}

/// Every call and number of a run, or a spread of `few` of them.
fn spread(counts: &[(&'static str, usize)], few: usize) -> Vec<(&'static str, usize)> {
    let all: Vec<_> =
        counts.iter().flat_map(|(call, made)| (1..=*made).map(move |n| (*call, n))).collect();
    let step = if long() { 1 } else { all.len().div_ceil(few) };
    // Not the first of each step: the calls of one kind would always be hit at the same numbers.
    all.into_iter().skip(fastrand::usize(..step)).step_by(step).collect()
}

/// Counts the calls that the writer makes in a run without faults, the clean stop included.
fn calls_of_a_run() -> Vec<(&'static str, usize)> {
    let scene = Scene::new();
    let mut strace = Strace::new(None);
    let mut daemon = Daemon::start(&scene.site);
    strace.attach(&daemon);
    assert!(scene.run(&mut daemon).iter().all(|status| *status == 202));
    scene.arrive(&mut daemon);
    let segments = daemon.metrics().sum("posthaste_store_written_bytes_total", &[]);
    assert!(segments > 2.0 * f64::from(1 << 20), "two rotations");
    daemon.stop();
    strace.detach();
    strace.counts()
}

/// Promises 1, 2 and 12 of spec 2, with a kill at each call that the writer makes to the disk: in commits, rotations,
/// marks, segments given back, and the log and snapshot of the stop.
#[test]
fn sigkill_at_each_call_of_the_writer_loses_nothing() {
    if !strace::available() {
        return;
    }
    let counts = calls_of_a_run();
    let places = spread(&counts, 12);
    let mut hit = 0;
    for (call, number) in &places {
        let scene = Scene::new();
        let rule = format!("{call}:signal=SIGKILL:when={number}");
        let mut strace = Strace::new(Some(rule.clone()));
        {
            let mut daemon = Daemon::start(&scene.site);
            strace.attach(&daemon);
            scene.run(&mut daemon);
            scene.arrive(&mut daemon);
            if daemon.poll().is_none() {
                daemon.signal(Signal::TERM);
            }
            hit += usize::from(daemon.wait(SOON).is_none());
        }
        scene.comes_back(&rule);
    }
    println!("calls of a run: {counts:?}; {} places tried, {hit} kills, lost 0", places.len());
    // A run does not make exactly the same calls each time: the last few may not come.
    assert!(hit * 10 >= places.len() * 8, "{hit} of {}", places.len());
}

/// A store as a SIGKILL leaves it, with queues, retries and a dead letter; and which of the start's calls are about it.
fn stopped_store() -> (Scene, TempDir, Vec<PathBuf>) {
    let mut scene = Scene::new();
    let mut daemon = Daemon::start(&scene.site);
    scene.run(&mut daemon);
    scene.receivers[1].refuse();
    assert_eq!([scene.post(), scene.post()], [202; 2]);
    eventually("a dead letter", SOON, || scene.receivers[2].count() > 0);
    daemon.kill();
    drop(daemon);
    scene.before = scene.receivers.iter().flat_map(Receiver::arrivals).collect();
    let kept = scene.keep();
    let strace = Strace::new(None);
    let mut daemon = Daemon::start_with(&scene.site, |command| strace.wrap(command));
    daemon.kill();
    let store = scene.site.store();
    let inside = |path: &&str| Path::new(path).starts_with(&store);
    let log = strace.log();
    let names: BTreeSet<PathBuf> =
        log.lines().filter_map(strace::path).filter(inside).map(PathBuf::from).collect();
    drop(daemon);
    (scene, kept, names.into_iter().collect())
}

/// The calls that a start makes to the store.
fn calls_of_a_start(scene: &Scene, paths: &[PathBuf]) -> Vec<(&'static str, usize)> {
    let strace = Strace::new(None).only(paths);
    let mut daemon = Daemon::start_with(&scene.site, |command| strace.wrap(command));
    daemon.kill();
    strace.counts()
}

/// What was acknowledged before, in a ledger of its own.
fn fork(ledger: &Ledger) -> Ledger {
    let fork = Ledger::default();
    ledger.posted().into_iter().for_each(|hash| fork.note_posted(hash));
    ledger.acknowledged().iter().for_each(|(id, hash)| fork.note_acknowledged(id, *hash));
    fork
}

/// Starts on a store as a kill left it, again and again, with one call broken by each of these rules. `look` gets each
/// daemon that is ready or has ended. Then all comes back without faults.
fn break_starts(
    few: usize,
    rule_of: impl Fn(&str, usize) -> Vec<String>,
    mut look: impl FnMut(&mut Daemon<'_>, &Strace, &str),
) -> usize {
    let (mut scene, kept, paths) = stopped_store();
    let [ledger, refused] = [fork(&scene.ledger), fork(&scene.refused)];
    scene.put_back(&kept);
    let counts = calls_of_a_start(&scene, &paths);
    let places = spread(&counts, few);
    for (call, number) in &places {
        for rule in rule_of(call, *number) {
            scene.put_back(&kept);
            (scene.ledger, scene.refused) = (fork(&ledger), fork(&refused));
            scene.receive();
            let strace = Strace::new(Some(rule.clone())).only(&paths);
            {
                let mut daemon = Daemon::spawn_with(&scene.site, |command| strace.wrap(command));
                eventually("ready, or its end", SOON, || {
                    daemon.poll().is_some() || daemon.notify.count("READY=1") > 0
                });
                look(&mut daemon, &strace, &rule);
            }
            scene.comes_back(&rule);
        }
    }
    println!("calls of a start: {counts:?}; {} places tried", places.len());
    places.len()
}

/// The same at each call of a start: on recovery, the first log, snapshot, reserve and segment.
#[test]
fn sigkill_at_each_call_of_a_start_loses_nothing() {
    if !strace::available() {
        return;
    }
    let mut hit = 0;
    let rule = |call: &str, number| vec![format!("{call}:signal=SIGKILL:when={number}")];
    let places = break_starts(10, rule, |daemon, _, _| {
        hit += usize::from(daemon.poll().is_some_and(|status| status.code().is_none()));
    });
    println!("{hit} kills, lost 0");
    assert!(hit * 10 >= places * 8, "{hit} of {places}");
}

/// What the disk may say. `EINTR` is tried once only: that it is asked again is right.
const ERRORS: [&str; 4] = ["EIO", "ENOSPC", "EDQUOT", "EROFS"];

/// The rules for one call: each time another error, once and for good, and now and then an interruption.
fn faults(call: &str, number: usize) -> Vec<String> {
    let error = ERRORS[number % ERRORS.len()];
    let mut rules = vec![
        format!("{call}:error={error}:when={number}"),
        format!("{call}:error={error}:when={number}+"),
    ];
    // Opening, renaming and unlinking are never interrupted.
    if ["fdatasync", "pwrite64", "fallocate"].contains(&call) && number.is_multiple_of(3) {
        rules.push(format!("{call}:error=EINTR:when={number}"));
    }
    rules
}

/// Promises 7 and 8 of spec 2: a disk that fails the writer, once or for good. Nothing that was not synced is acknowledged,
/// no sync is repeated and believed, and when the disk is well again events are taken, without a restart.
#[test]
fn a_call_of_the_writer_that_fails_loses_nothing() {
    if !strace::available() {
        return;
    }
    let counts = calls_of_a_run();
    let (mut tried, mut hit, mut refused) = (0, 0, 0);
    for (call, number) in spread(&counts, 7) {
        for rule in faults(call, number) {
            let scene = Scene::new();
            let mut strace = Strace::new(Some(rule.clone()));
            let mut daemon = Daemon::start(&scene.site);
            strace.attach(&daemon);
            let statuses = scene.run(&mut daemon);
            let known = |status: &u16| matches!(status, 202 | 503 | 507);
            assert!(statuses.iter().all(known), "{rule}: {statuses:?}");
            let for_good = rule.ends_with('+');
            if for_good && ["fdatasync", "pwrite64"].contains(&call) {
                let mut later = statuses.iter().skip_while(|status| **status == 202);
                assert!(later.all(|status| *status != 202), "{rule}: {statuses:?}");
            }
            if strace.log().contains("(INJECTED)") {
                if for_good {
                    strace.detach();
                }
                scene.goes_on(&mut daemon, &rule);
                assert!(daemon.poll().is_none(), "{rule}: it ended");
                scene.delivered_nothing_refused(&rule);
                daemon.signal(Signal::KILL);
            } else {
                // Then it is a call of the stop, or of the marks before it.
                scene.arrive(&mut daemon);
                daemon.signal(Signal::TERM);
            }
            let code = daemon.wait(SOON);
            assert!(matches!(code, None | Some(0)), "{rule}: {code:?} {}", daemon.stderr());
            strace.detach();
            let log = strace.log();
            assert_eq!(believed_after_a_failure(&log), [""; 0], "{rule}");
            let a_batch_failed = log.lines().any(|line| {
                line.starts_with("fdatasync") && line.contains("/ev-") && line.contains("= -1 EIO")
            });
            assert!(!a_batch_failed || statuses.iter().any(|status| *status != 202), "{rule}");
            (tried, hit) = (tried + 1, hit + usize::from(log.contains("(INJECTED)")));
            refused += statuses.iter().filter(|status| **status != 202).count();
            drop(daemon);
            scene.comes_back(&rule);
        }
    }
    println!("{tried} faults, {hit} hit, {refused} posts refused, lost 0");
    assert!(hit * 10 >= tried * 8, "{hit} of {tried}");
}

/// A disk that fails a start, once or for good: it starts nevertheless, or ends with 74 and a message; a later start on a
/// disk that is well has everything.
#[test]
fn a_call_of_a_start_that_fails_loses_nothing() {
    if !strace::available() {
        return;
    }
    let (mut started, mut ended) = (0, 0);
    break_starts(5, faults, |daemon, strace, rule| {
        let Some(status) = daemon.poll() else {
            started += 1;
            let believed = believed_after_a_failure(&strace.log());
            assert_eq!(believed, [""; 0], "{rule}");
            return;
        };
        ended += 1;
        assert_eq!(status.code(), Some(74), "{rule}: {}", daemon.stderr());
        let said = daemon.stderr();
        assert!(said.contains("could not") || said.contains("Could not"), "{rule}: {said}");
    });
    println!("{started} started, {ended} ended with 74, lost 0");
    assert!(started > 0 && ended > 0, "{started} and {ended}");
}
