//! Promise 9 of spec 2: a store that the built binary wrote, damaged in one place. It starts, what was hit is lost and
//! nothing else. Prints a table of events lost by region.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::harness::site::copy;
use crate::harness::{
    Behaviour, Daemon, Ledger, Oracle, Producer, Receiver, SOON, Site, eventually, long,
};

const QUICK: &str = "max_body = \"256KiB\"\nbreaker = { enabled = false }\n\
    retry = { interval = \"50ms\", max_interval = \"200ms\", jitter = \"none\", count = 10000 }";
const HEADER: u64 = 64;
const PAGE: usize = 4096;

/// Events that wait, and the length of each body: some four segments of 1 MiB.
fn size() -> (usize, usize) {
    if long() { (10_000, 400) } else { (400, 10_000) }
}

/// A store of events of which none was delivered; after them some were, to another connection, whose keys are remembered.
struct Store {
    site: Site,
    ledger: Ledger,
    kept: TempDir,
    /// Files in there, in order.
    files: Vec<String>,
}

impl Store {
    fn write() -> Store {
        let (site, ledger) = (Site::small(""), Ledger::default());
        Store::run(&site, &ledger);
        let kept = tempfile::tempdir().unwrap();
        copy(&site.store(), kept.path());
        let files = names(kept.path());
        Store { site, ledger, kept, files }
    }

    fn run(site: &Site, ledger: &Ledger) {
        let [dead, receiver] = [Receiver::refusing(), Receiver::start(Behaviour::ok())];
        site.connection("crm", &dead.url("crm"), QUICK);
        site.connection("other", &receiver.url("other"), &format!("source = \"other\"\n{QUICK}"));
        let mut daemon = Daemon::start(site);
        fill(site, ledger);
        let mut producer = site.producer();
        for number in 0..24 {
            let headers = [("idempotency-key", &*format!("key-{number}"))];
            let answer = producer.post("/v1/connections/other/events", &headers, &[7; 120_000]);
            assert_eq!(answer.unwrap().status, 202);
        }
        eventually("segments are given back", SOON, || {
            let names = names(&site.store());
            ["ky-", "spare-"].iter().all(|kind| names.iter().any(|name| name.starts_with(kind)))
        });
        daemon.drained(&["other"]);
        // A clean stop leaves a snapshot; the next run, marks in its log, and no index of what it wrote last.
        daemon.stop();
        let mut daemon = Daemon::start(site);
        let mut producer = site.producer();
        for number in 0..10 {
            assert_eq!(producer.event(ledger, &body(size().0 + number)).unwrap().status, 202);
        }
        let failed = [("connection", "crm"), ("code", "connect_refused")];
        eventually("marks of retries", SOON, || {
            daemon.metrics().sum("posthaste_delivery_attempts_total", &failed) > 300.0
        });
        daemon.kill();
    }

    /// The files of a kind, in order.
    fn all(&self, prefix: &str, suffix: &str) -> Vec<&str> {
        let fits = |name: &&String| name.starts_with(prefix) && name.ends_with(suffix);
        self.files.iter().filter(fits).map(String::as_str).collect()
    }

    /// The only, or last, of a kind.
    fn last(&self, prefix: &str, suffix: &str) -> &str {
        self.all(prefix, suffix).last().expect("a file of that kind")
    }

    /// Where the body of some event in the middle of a segment starts.
    fn body_in(&self, segment: &str) -> u64 {
        let bytes = fs::read(self.kept.path().join(segment)).unwrap();
        let half = bytes.len() / 3;
        let found = bytes[half..].windows(6).position(|window| window == b"event ");
        (half + found.expect("an event")) as u64
    }

    /// Damages a copy, starts on it and lets everything be delivered. How many events are missing, and the damage counted.
    fn survive(&self, damage: &dyn Fn(&Path)) -> Survived {
        let store = self.site.store();
        fs::remove_dir_all(&store).unwrap();
        copy(self.kept.path(), &store);
        damage(&store);
        let receiver = Receiver::start(Behaviour::ok());
        self.site.connection("crm", &receiver.url("crm"), QUICK);
        let mut daemon = Daemon::start(&self.site);
        let metrics = daemon.drained(&["crm"]);
        let dead = BTreeSet::new();
        let oracle = Oracle { ledger: &self.ledger, connections: &["crm"], dead: &dead };
        let verdict = oracle.judge(&receiver.arrivals());
        assert_eq!([verdict.altered.len(), verdict.spurious.len()], [0; 2], "altered, spurious");
        let fresh = self.site.producer().post("/v1/events", &[], b"fresh").unwrap();
        assert_eq!(fresh.status, 202, "{}", fresh.json);
        eventually("a fresh event passes", SOON, || {
            receiver.arrivals().iter().any(|arrival| arrival.id == fresh.id())
        });
        let ready = daemon.ready_after.as_millis();
        daemon.stop();
        let corrupt = metrics.sum("posthaste_store_corrupt_records_total", &[]);
        Survived { lost: verdict.lost.len(), duplicates: verdict.duplicates, corrupt, ready }
    }
}

struct Survived {
    lost: usize,
    duplicates: usize,
    corrupt: f64,
    /// Milliseconds from the start of the process.
    ready: u128,
}

/// One kind of damage, how many events it may cost, and whether it must be noticed.
struct Case<'a> {
    name: &'static str,
    most: usize,
    damage: Box<dyn Fn(&Path) + 'a>,
}

#[test]
fn damage_costs_only_what_it_hit() {
    let store = Store::write();
    let events = store.ledger.len();
    println!(
        "| damage | lost of {events} | counted | duplicates | ready ms |\n|---|---|---|---|---|"
    );
    let cases = cases(&store);
    assert!(cases.len() >= 25, "{}", cases.len());
    for Case { name, most, damage } in &cases {
        let Survived { lost, duplicates, corrupt, ready } = store.survive(&**damage);
        println!("| {name} | {lost} | {corrupt} | {duplicates} | {ready} |");
        assert!(lost <= *most, "{name}: {lost} lost, {most} allowed");
    }
}

fn cases<'a>(store: &'a Store) -> Vec<Case<'a>> {
    let segments = store.all("ev-1", ".seg");
    // The last was begun by the run that was killed: it has no index yet.
    let [sealed, other, growing] = [segments[0], segments[1], segments[segments.len() - 1]];
    let body = store.body_in(sealed);
    let (_, length) = size();
    let next = (body + length as u64).next_multiple_of(8);
    let per_page = PAGE / length + 2;
    let [log, snapshot] = [store.last("st-", ".log"), store.last("st-", ".snap")];
    let [keys, spare, index] =
        [store.last("ky-", ".log"), store.last("spare-", ".seg"), store.last("ev-1", ".idx")];
    let mut cases = Vec::new();
    let mut case = |name, most, damage: Box<dyn Fn(&Path) + 'a>| {
        cases.push(Case { name, most, damage });
    };
    for (name, file, at, most) in [
        ("segment header: a byte", sealed, 20, 0),
        ("header of a segment without an index: a byte", growing, 25, 0),
        ("record header: a byte", sealed, next + 5, 1),
        ("record body: a byte", sealed, body + 100, 1),
        ("record tail: a byte", sealed, body + length as u64 - 1, 1),
        ("index header: a byte", index, 25, 0),
        ("index body: a byte", index, HEADER + 90, 0),
        ("state log header: a byte", log, 24, 0),
        ("state log body: a byte", log, HEADER + 50, 0),
        ("snapshot header: a byte", snapshot, 24, 0),
        ("snapshot body: a byte", snapshot, HEADER + 60, 0),
        ("key log header: a byte", keys, 30, 0),
        ("key log body: a byte", keys, HEADER + 40, 0),
        ("spare: a byte", spare, 20, 0),
    ] {
        case(name, most, Box::new(move |dir| flip(dir, file, at)));
    }
    case("lock: bytes in it", 0, Box::new(|dir| fs::write(dir.join("lock"), b"junk").unwrap()));
    let zero = move |dir: &Path, file: &str, at: u64| write_at(dir, file, at, &[0; PAGE]);
    let page = body.next_multiple_of(PAGE as u64);
    case("segment: a page of zeros", per_page, Box::new(move |dir| zero(dir, sealed, page)));
    case("segment: its first page of zeros", per_page, Box::new(move |dir| zero(dir, sealed, 0)));
    case("state log: its first page of zeros", 0, Box::new(move |dir| zero(dir, log, 0)));
    let behind = events_from(store, sealed, page);
    case("segment: cut in the middle", behind, Box::new(move |dir| cut(dir, sealed, page)));
    case("index: cut", 0, Box::new(move |dir| cut(dir, index, 100)));
    case("snapshot: cut", 0, Box::new(move |dir| cut(dir, snapshot, 100)));
    let all = events_from(store, sealed, 0);
    for (name, file, most) in [
        ("segment: deleted", sealed, all),
        ("index: deleted", index, 0),
        ("state log: deleted", log, 0),
        ("snapshot: deleted", snapshot, 0),
        ("key log: deleted", keys, 0),
        ("reserve: deleted", "reserve", 0),
        ("lock: deleted", "lock", 0),
    ] {
        case(name, most, Box::new(move |dir| fs::remove_file(dir.join(file)).unwrap()));
    }
    case("segments: two swapped", 0, Box::new(move |dir| swap(dir, sealed, other)));
    case(
        "segments: one under a free number",
        0,
        Box::new(move |dir| {
            fs::rename(dir.join(sealed), dir.join("ev-1000000900.seg")).unwrap();
        }),
    );
    case(
        "segment: copied to another number",
        0,
        Box::new(move |dir| {
            fs::copy(dir.join(sealed), dir.join("ev-1000000900.seg")).map(drop).unwrap();
        }),
    );
    case("a foreign file", 0, Box::new(|dir| fs::write(dir.join("notes.txt"), b"mine").unwrap()));
    case(
        "foreign bytes under a store's name",
        0,
        Box::new(|dir| {
            fs::write(dir.join("ev-1000000900.seg"), [b'x'; 5000]).unwrap();
        }),
    );
    cases
}

/// Files that are none, where the store's own would be: nothing outside of the store is touched, and it goes on.
#[test]
fn symlinks_and_directories_under_the_stores_names_are_set_aside() {
    let site = Site::small("");
    let receiver = Receiver::start(Behaviour::ok());
    site.connection("crm", &receiver.url("crm"), QUICK);
    let outside = tempfile::tempdir().unwrap();
    let mut names = vec!["lock".to_owned(), "reserve".to_owned()];
    for number in 0..4 {
        names.push(format!("ev-{}.seg", 1_000_000_000 + number));
        names.push(format!("ev-{}.idx", 1_000_000_000 + number));
        names.extend(["log", "snap", "snap.tmp"].map(|end| format!("st-000000000{number}.{end}")));
    }
    for directory in [false, true] {
        drop(fs::remove_dir_all(site.store()));
        fs::create_dir(site.store()).unwrap();
        for name in &names {
            let (place, target) = (site.store().join(name), outside.path().join(name));
            if directory {
                fs::create_dir(&place).unwrap();
                fs::write(place.join("mine"), b"precious").unwrap();
            } else {
                fs::write(&target, b"precious").unwrap();
                std::os::unix::fs::symlink(&target, &place).unwrap();
            }
        }
        let mut daemon = Daemon::start(&site);
        let mut producer = site.producer();
        for _ in 0..12 {
            assert_eq!(producer.post("/v1/events", &[], &[7; 190_000]).unwrap().status, 202);
        }
        daemon.drained(&["crm"]);
        daemon.stop();
        assert!(site.store().join("lock").symlink_metadata().unwrap().is_file());
        for name in &names {
            let aside = site.store().join("quarantine").join(name);
            let kept = if directory { aside.join("mine") } else { outside.path().join(name) };
            assert_eq!(fs::read(kept).unwrap(), b"precious", "{name}");
        }
    }
}

/// Promise 9: only an unknown version refuses, with 78 and a message; nothing is changed by that.
#[test]
fn an_unknown_version_is_refused_and_left_alone() {
    let site = Site::small("");
    let receiver = Receiver::refusing();
    site.connection("crm", &receiver.url("crm"), QUICK);
    let mut daemon = Daemon::start(&site);
    assert_eq!(site.producer().post("/v1/events", &[], b"x").unwrap().status, 202);
    daemon.kill();
    let name = "ev-1000000000.seg";
    let path = site.store().join(name);
    let known = fs::read(&path).unwrap();
    let mut bytes = known.clone();
    bytes[8] = 99;
    let crc = crc32c::crc32c(&bytes[..60]).to_le_bytes();
    bytes[60..64].copy_from_slice(&crc);
    fs::write(&path, &bytes).unwrap();
    let mut daemon = Daemon::spawn(&site);
    assert_eq!(daemon.wait(SOON), Some(78));
    let said = daemon.stderr();
    assert!(said.contains(name) && said.contains("99"), "{said}");
    assert_eq!(fs::read(&path).unwrap(), bytes);
    fs::write(&path, &known).unwrap();
    receiver.behave(Behaviour::ok());
    receiver.listen();
    let mut daemon = Daemon::start(&site);
    eventually("it arrives", SOON, || receiver.delivered("crm") == 1);
    daemon.stop();
}

/// Posts all events, by some producers at once.
fn fill(site: &Site, ledger: &Ledger) {
    let (events, _) = size();
    std::thread::scope(|scope| {
        for client in 0..4 {
            let mut producer = Producer::tcp(site.ingress);
            scope.spawn(move || {
                for number in (client..events).step_by(4) {
                    let answer = producer.event(ledger, &body(number)).unwrap();
                    assert_eq!(answer.status, 202, "{}", answer.json);
                }
            });
        }
    });
}

fn body(number: usize) -> Vec<u8> {
    let mut body = format!("event {number} ").into_bytes();
    body.resize(size().1, b'.');
    body
}

/// How many events have their body behind a place of a segment.
fn events_from(store: &Store, segment: &str, at: u64) -> usize {
    let bytes = fs::read(store.kept.path().join(segment)).unwrap();
    // One more: the event in which the place is.
    bytes[usize::try_from(at).unwrap()..].windows(6).filter(|window| *window == b"event ").count()
        + 1
}

fn names(store: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.ok()?.file_name().into_string().ok();
    let mut names: Vec<String> = fs::read_dir(store).unwrap().filter_map(name).collect();
    names.sort();
    names
}

fn open(store: &Path, file: &str) -> fs::File {
    fs::OpenOptions::new().read(true).write(true).open(store.join(file)).unwrap()
}

fn write_at(store: &Path, file: &str, at: u64, bytes: &[u8]) {
    open(store, file).write_all_at(bytes, at).unwrap();
}

fn flip(store: &Path, file: &str, at: u64) {
    let mut byte = [0];
    open(store, file).read_exact_at(&mut byte, at).unwrap();
    write_at(store, file, at, &[byte[0] ^ 0x20]);
}

fn cut(store: &Path, file: &str, length: u64) {
    open(store, file).set_len(length).unwrap();
}

fn swap(store: &Path, one: &str, two: &str) {
    let [one, two, between]: [PathBuf; 3] = [one, two, "between"].map(|name| store.join(name));
    fs::rename(&one, &between).unwrap();
    fs::rename(&two, &one).unwrap();
    fs::rename(&between, &two).unwrap();
}
