//! Idempotency keys over crashes, segments given back, and time.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::AtomicBool;

use super::super::disk::DiskFile;
use super::super::file::{Named, classify};
use super::super::keys::{Fingerprint, KeyRecord};
use super::*;

type Queue = (ConnectionId, Arc<QueueCounters>);

/// With room for this many keys.
fn keyed_options(max_keys: usize) -> Options {
    Options { keys: KeyLimits { max_keys, ..KEY_LIMITS }, ..options(fastrand::u64(..)) }
}

fn open(directory: &Path, clock: &Clock, max_keys: usize) -> Rig {
    Rig::open_with(directory, clock, keyed_options(max_keys))
}

/// Appends an event with a key, as ingress does.
fn append(rig: &mut Rig, key: &str, body: &[u8], to: &Queue) -> KeyRecord {
    let mut content = ContentBuilder::new("default", "t", key, body.len());
    content.body(body);
    let id = EventId::new(rig.clock.wall_ms(), &mut rig.rng);
    let content = content.finish();
    let bytes = content.as_bytes().len() as u64;
    assert!(to.1.try_reserve(bytes, u64::MAX, u64::MAX));
    let event = Event { id, accepted_ms: id.unix_ms(), accepted_age: rig.clock.age(), content };
    let print = Fingerprint::of(&event.content).unwrap();
    let record = KeyRecord::new(print, id, event.accepted_age, 1);
    let route = Route {
        connection: to.0,
        queue: Arc::clone(&to.1),
        fate: Fate::Queued,
        delay: Duration::ZERO,
    };
    let (intake, lane) = rig.ends.intakes[0].clone();
    let writer = &mut rig.writer;
    let answer = rig.runtime.block_on(async {
        let key = Some(Box::new(record));
        let append =
            intake.append_with(Arc::new(event), vec![route], key, intake::Durability::Disk);
        tokio::pin!(append);
        assert!(futures_poll(append.as_mut()).await.is_none());
        writer.turn();
        tokio::select! {
            biased;
            () = lane.run() => unreachable!("it runs for ever"),
            answer = append => answer,
        }
    });
    answer.unwrap();
    record
}

fn append_many(rig: &mut Rig, numbers: std::ops::Range<usize>, to: &Queue) -> Vec<KeyRecord> {
    let append = |number| {
        rig.clock.advance(Duration::from_millis(1));
        append(rig, &format!("key {number}"), &[7; 1000], to)
    };
    numbers.map(append).collect()
}

/// How many files there are of a kind.
fn count(directory: &Path, kind: impl Fn(Named) -> bool) -> usize {
    let names = std::fs::read_dir(directory).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| kind(classify(name))).count()
}

fn key_logs(directory: &Path) -> usize {
    count(directory, |name| matches!(name, Named::KeyLog(_)))
}

/// Delivers all, so that every segment but the one that grows is given back.
fn drain(rig: &mut Rig) {
    rig.deliver_all();
    rig.pass(Duration::from_millis(1500));
    let status = rig.ask(|reply| Command::Status { reply });
    assert_eq!(status.segments, 1);
}

#[test]
fn keys_survive_a_crash_whatever_became_of_their_events() {
    let (directory, clock) = start();
    let mut rig = open(directory.path(), &clock, 100_000);
    assert_eq!(rig.ends.keys.found, []);
    let crm = rig.connection("crm");
    // Two and a half segments that are given back, half a one that grows.
    let mut keys = append_many(&mut rig, 0..2500, &crm);
    drain(&mut rig);
    assert!(key_logs(directory.path()) > 0);
    // And two that stay, with events without a key among them.
    for number in 2500..4500 {
        keys.extend(append_many(&mut rig, number..number + 1, &crm));
        if number % 3 == 0 {
            rig.append(&[1; 100], std::slice::from_ref(&crm)).unwrap();
        }
    }
    for round in 0..3 {
        drop(rig);
        rig = open(directory.path(), &clock, 100_000);
        assert_eq!(rig.ends.corrupt, 0);
        assert_eq!(rig.ends.keys.found, keys, "round {round}");
    }
    rig.connection("crm");
    rig.deliver_all();
    rig.pass(Duration::from_millis(1500));
    rig.stop();
    let rig = open(directory.path(), &clock, 100_000);
    assert_eq!(rig.ends.keys.found, keys, "after a clean stop");
}

#[test]
fn what_an_index_has_lost_is_read_from_the_records() {
    let (directory, clock) = start();
    let mut rig = open(directory.path(), &clock, 100_000);
    let crm = rig.connection("crm");
    let keys = append_many(&mut rig, 0..2500, &crm);
    let mut damaged = 0;
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "idx") {
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            damaged += 1;
        }
    }
    assert!(damaged >= 2);
    // Once while the store has the files open, once at a start.
    drain(&mut rig);
    drop(rig);
    let rig = open(directory.path(), &clock, 100_000);
    assert_eq!(rig.ends.keys.found, keys);
}

#[test]
fn expired_keys_are_neither_found_nor_kept() {
    let (directory, clock) = start();
    let mut rig = open(directory.path(), &clock, 100_000);
    let crm = rig.connection("crm");
    append_many(&mut rig, 0..2000, &crm);
    drain(&mut rig);
    assert!(key_logs(directory.path()) > 0);
    rig.pass(Duration::from_secs(3000));
    drop(rig);
    // Wall clock steps do not count.
    clock.step_wall(0);
    let mut rig = open(directory.path(), &clock, 100_000);
    assert_eq!(rig.ends.keys.found.len(), 2000);
    let crm = rig.connection("crm");
    rig.pass(Duration::from_secs(700));
    let keys = append_many(&mut rig, 2000..4000, &crm);
    drain(&mut rig);
    assert_eq!(key_logs(directory.path()), 1, "the older ones are removed");
    drop(rig);
    let rig = open(directory.path(), &clock, 100_000);
    assert_eq!(rig.ends.keys.found, keys);
}

#[test]
fn the_oldest_of_too_many_fall_out() {
    let (directory, clock) = start();
    let mut rig = open(directory.path(), &clock, 1000);
    let crm = rig.connection("crm");
    let keys = append_many(&mut rig, 0..3000, &crm);
    drain(&mut rig);
    drop(rig);
    let mut rig = open(directory.path(), &clock, 1000);
    let newest = &keys[2000..];
    assert_eq!(rig.ends.keys.found, newest);
    let floor = rig.ends.keys.floor.clone();
    let at = |clock: &Clock| floor.at(clock.age(), KEY_LIMITS.window);
    assert_eq!(at(&clock), newest[0].age());

    // What ingress has forgotten is not kept either.
    let crm = rig.connection("crm");
    append_many(&mut rig, 3000..4500, &crm);
    floor.raise(clock.age());
    drain(&mut rig);
    drop(rig);
    let rig = open(directory.path(), &clock, 1_000_000);
    let found = rig.ends.keys.found.len();
    assert!(found < 3000, "{found} keys are still on the disk");
}

/// The test after its name: a segment must not go before its keys are safe.
#[test]
fn a_segment_stays_until_its_keys_are_kept() {
    let (directory, clock) = start();
    let disk = Arc::new(NoKeyLogs {
        disk: OsDisk::open(directory.path()).unwrap(),
        fails: AtomicBool::new(true),
    });
    let mut rig = Rig::open_on(disk.clone(), &clock, keyed_options(100_000));
    let crm = rig.connection("crm");
    let keys = append_many(&mut rig, 0..2500, &crm);
    rig.deliver_all();
    for _ in 0..3 {
        rig.pass(Duration::from_millis(1500));
        let status = rig.ask(|reply| Command::Status { reply });
        assert!(status.segments >= 3 && status.accepting, "{status:?}");
    }
    disk.fails.store(false, Ordering::Relaxed);
    rig.pass(Duration::from_millis(1500));
    let status = rig.ask(|reply| Command::Status { reply });
    assert_eq!(status.segments, 1, "{status:?}");
    drop(rig);
    let rig = open(directory.path(), &clock, 100_000);
    assert_eq!(rig.ends.keys.found, keys);
}

#[test]
fn many_starts_leave_few_key_logs() {
    let (directory, clock) = start();
    let mut keys = BTreeMap::new();
    for round in 0..30 {
        let mut rig = open(directory.path(), &clock, 100_000);
        let crm = rig.connection("crm");
        for key in append_many(&mut rig, round..round + 1, &crm) {
            keys.insert(key.print.key, key);
        }
        rig.deliver_all();
        rig.stop();
        let logs = key_logs(directory.path());
        assert!(logs < 11, "{logs} in round {round}");
    }
    let rig = open(directory.path(), &clock, 100_000);
    let found: BTreeMap<_, _> =
        rig.ends.keys.found.iter().map(|key| (key.print.key, *key)).collect();
    assert_eq!(found, keys);
}

/// A disk on which key logs cannot be made for a while.
#[derive(Debug)]
struct NoKeyLogs {
    disk: OsDisk,
    fails: AtomicBool,
}

impl Disk for NoKeyLogs {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(name)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let fails = self.fails.load(Ordering::Relaxed);
        if fails && matches!(classify(name), Named::KeyLog(_)) {
            return Err(io::Error::other("no"));
        }
        self.disk.create(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.disk.list()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }
}
