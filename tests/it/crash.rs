//! What a SIGKILL may cost: nothing that was acknowledged.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::harness::producer::sha256;
use crate::harness::{
    Behaviour, Daemon, Ledger, Oracle, Producer, Receiver, SOON, Site, Verdict, eventually, long,
    newest_segment, now, seed,
};

const CONNECTIONS: [&str; 3] = ["healthy", "slow", "flaky"];
/// A pool that a test machine carries, and retries quick enough to see the end.
const QUICK: &str = "request_timeout = \"1s\"\npool = { max_per_host = 16, max_total = 16 }\n\
    retry = { interval = \"200ms\", max_interval = \"1s\", jitter = \"full\", count = 1000 }";
/// How long the queues of a whole run may take to empty.
const RECOVERY: Duration = Duration::from_secs(240);

/// Promises 1, 2 and 5 of spec 2: what was answered with 202 reaches every connection, byte for byte, however often the
/// daemon is killed; what it costs is duplicates. Half of the producers use idempotency keys and post again what got no
/// answer, and now and then what did: that makes no second event.
#[test]
fn sigkill_loses_nothing_that_was_acknowledged() {
    let (events, kills) = if long() { (25_000, 500) } else { (3_000, 12) };
    let mut rng = fastrand::Rng::with_seed(seed());
    let receivers = [
        Receiver::start(Behaviour::ok()),
        Receiver::start(Behaviour::ok().after(Duration::from_millis(5))),
        Receiver::start(Behaviour::status(503)),
    ];
    let site = Site::new();
    for (name, receiver) in CONNECTIONS.iter().zip(&receivers) {
        site.connection(name, &receiver.url(name), QUICK);
    }
    let ledger = Ledger::default();
    let posting = AtomicBool::new(true);
    let number = AtomicU64::new(0);
    let mut daemon = Daemon::start(&site);
    let mut restarts = Vec::new();
    let cycles = now();
    let again = thread::scope(|scope| {
        let mut clients = Vec::new();
        for client in 0..8 {
            let (ledger, number, posting) = (&ledger, &number, &posting);
            let producer = match client % 2 {
                0 => site.producer(),
                _ => Producer::unix(&site.unix()),
            };
            clients.push(scope.spawn(move || match client / 2 % 2 {
                0 => post_until(posting, producer, ledger, number),
                _ => post_with_keys_until(posting, producer, ledger, number),
            }));
        }
        // The producers end with this guard, also when an assertion fails.
        let stop = Stop(&posting);
        let share = events / kills;
        for kill in 0..kills {
            let goal = kill * share + rng.usize(1..share);
            eventually("acknowledged events", RECOVERY, || ledger.len() >= goal);
            // The moment itself: anywhere within a few commits.
            thread::sleep(Duration::from_micros(rng.u64(0..20_000)));
            daemon.kill();
            let moods = [Behaviour::ok(), Behaviour::Hang, Behaviour::status(503)];
            receivers[2].behave(moods[rng.usize(..3)].clone());
            daemon = Daemon::start(&site);
            restarts.push(daemon.ready_after);
        }
        eventually("all events", RECOVERY, || ledger.len() >= events);
        // What has no answer yet needs a daemon that lives.
        drop(stop);
        clients.into_iter().map(|client| client.join().expect("a producer")).sum::<usize>()
    });
    let cycles = cycles.elapsed();
    for receiver in &receivers {
        receiver.behave(Behaviour::ok());
    }
    let judge = || judge(&ledger, &receivers, &CONNECTIONS);
    let begun = now();
    eventually("everything arrives", RECOVERY, || {
        let goal = ledger.len();
        let mut all = CONNECTIONS.iter().zip(&receivers);
        all.all(|(name, receiver)| receiver.delivered(name) >= goal) && judge().lost.is_empty()
    });
    let recovery = begun.elapsed();
    let verdict = judge();
    restarts.sort();
    println!(
        "{} acknowledged, {} posts tried, {again} of them again with a key (also while nobody listened), {kills} kills in {cycles:?}: lost {}, \
            duplicates {}, restart p50 {:?} max {:?}, recovery {recovery:?}",
        ledger.len(),
        number.load(Ordering::Relaxed),
        verdict.lost.len(),
        verdict.duplicates,
        restarts[restarts.len() / 2],
        restarts[restarts.len() - 1],
    );
    verdict.assert_clean();
    assert!(again > 0, "posts with a key were repeated");
    assert_one_id_each(&receivers);
    let metrics = daemon.drained(&CONNECTIONS);
    for name in CONNECTIONS {
        let labels = [("connection", name), ("outcome", "dead")];
        assert_eq!(metrics.sum("posthaste_deliveries_total", &labels), 0.0, "{name}");
    }
    passes(&site, &ledger, &receivers, &CONNECTIONS);
    daemon.stop();
}

/// Promise 9 of spec 2: a torn tail is cut, whatever was torn; everything acknowledged before is delivered.
#[test]
fn torn_tail_is_cut() {
    for torn in [Tail::Garbage, Tail::Zeroes, Tail::HalfARecord] {
        let receiver = Receiver::refusing();
        receiver.behave(Behaviour::ok());
        let site = Site::new();
        site.connection("crm", &receiver.url("crm"), QUICK);
        let mut daemon = Daemon::start(&site);
        let ledger = Ledger::default();
        let mut producer = site.producer();
        for number in 0..50 {
            let body = format!("event {number} {torn:?}");
            assert_eq!(producer.event(&ledger, body.as_bytes()).unwrap().status, 202);
        }
        daemon.kill();
        tear(&site, torn);
        let mut daemon = Daemon::start(&site);
        receiver.listen();
        eventually("all arrive", SOON, || receiver.delivered("crm") >= ledger.len());
        judge(&ledger, &[receiver], &["crm"]).assert_clean();
        daemon.drained(&["crm"]);
        daemon.stop();
    }
}

/// Promise 12, and the README's tour: Ctrl-C with events still queued loses none of them.
#[test]
fn events_survive_ctrl_c_and_restart() {
    let receiver = Receiver::refusing();
    receiver.behave(Behaviour::ok());
    let site = Site::new();
    site.connection("crm", &receiver.url("crm"), QUICK);
    let ledger = Ledger::default();
    let mut daemon = Daemon::start(&site);
    let mut producer = Producer::unix(&site.unix());
    for number in 0..100 {
        let body = format!("event {number}");
        assert_eq!(producer.event(&ledger, body.as_bytes()).unwrap().status, 202);
    }
    daemon.signal(rustix::process::Signal::INT);
    assert_eq!(daemon.wait(SOON), Some(0), "the exit code after Ctrl-C");
    let mut daemon = Daemon::start(&site);
    let labels = [("connection", "crm")];
    let recovered = daemon.metrics().sum("posthaste_deliveries_recovered_total", &labels);
    assert_eq!(recovered, 100.0);
    receiver.listen();
    eventually("all arrive", SOON, || receiver.delivered("crm") == 100);
    let receivers = [receiver];
    let verdict = judge(&ledger, &receivers, &["crm"]);
    verdict.assert_clean();
    assert_eq!(verdict.duplicates, 0, "a clean stop costs no duplicate");
    daemon.drained(&["crm"]);
    passes(&site, &ledger, &receivers, &["crm"]);
    daemon.stop();
    let mut daemon = Daemon::start(&site);
    let metrics = daemon.drained(&["crm"]);
    assert_eq!(metrics.sum("posthaste_deliveries_recovered_total", &labels), 0.0);
    daemon.stop();
    assert_eq!(receivers[0].count(), receivers[0].delivered("crm"), "nothing came again");
}

#[derive(Clone, Copy, Debug)]
enum Tail {
    Garbage,
    Zeroes,
    /// The bytes that begin the file's first record, where the next one would be.
    HalfARecord,
}

/// Writes what a torn commit could have left behind the last record of the newest segment.
fn tear(site: &Site, torn: Tail) {
    let path = newest_segment(site);
    let bytes = fs::read(&path).expect("read the segment");
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let used = used.next_multiple_of(8);
    let tail = match torn {
        Tail::Garbage => [0xa5; 777].to_vec(),
        Tail::Zeroes => Vec::new(),
        Tail::HalfARecord => bytes[64..104].to_vec(),
    };
    let mut kept = bytes.clone();
    kept.resize(used, 0);
    kept.extend(tail);
    let mut file = OpenOptions::new().write(true).truncate(true).open(&path).expect("open");
    file.write_all(&kept).expect("write the torn segment");
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

/// Posts one event after the other; after an error, on a new connection. An event without an answer stays unknown, and is
/// not posted again.
fn post_until(
    posting: &AtomicBool,
    mut producer: Producer,
    ledger: &Ledger,
    number: &AtomicU64,
) -> usize {
    let mut rng = fastrand::Rng::new();
    while posting.load(Ordering::SeqCst) {
        let number = number.fetch_add(1, Ordering::Relaxed);
        let body = body(number, &mut rng);
        match producer.event(ledger, &body) {
            Ok(answer) => {
                assert!(matches!(answer.status, 202 | 503), "{}: {}", answer.status, answer.json)
            }
            // The daemon is down; its port refuses until it is back.
            Err(_) => thread::sleep(Duration::from_millis(2)),
        }
    }
    0
}

/// The same with a key for each event: without an answer it is posted again until there is one, and a few are posted again
/// later, across kills. How many posts were repetitions.
fn post_with_keys_until(
    posting: &AtomicBool,
    mut producer: Producer,
    ledger: &Ledger,
    number: &AtomicU64,
) -> usize {
    let mut rng = fastrand::Rng::new();
    let mut earlier: VecDeque<(String, Vec<u8>, String)> = VecDeque::new();
    let mut again = 0;
    while posting.load(Ordering::SeqCst) {
        let number = number.fetch_add(1, Ordering::Relaxed);
        let (key, body) = (format!("key-{number}"), body(number, &mut rng));
        ledger.note_posted(sha256(&body));
        let (id, tries) = post_with_key(&mut producer, &key, &body);
        ledger.note_acknowledged(&id, sha256(&body));
        earlier.push_back((key, body, id));
        if earlier.len() > 20
            && let Some((key, body, id)) = earlier.pop_front()
        {
            let (same, tries) = post_with_key(&mut producer, &key, &body);
            assert_eq!(same, id, "{key}");
            again += tries;
        }
        again += tries - 1;
    }
    again
}

/// Posts until there is a 202. The id, and how often it was tried.
fn post_with_key(producer: &mut Producer, key: &str, body: &[u8]) -> (String, usize) {
    for tries in 1.. {
        match producer.post("/v1/events", &[("idempotency-key", key)], body) {
            Ok(answer) if answer.status == 202 => return (answer.id().to_owned(), tries),
            Ok(answer) => assert_eq!(answer.status, 503, "{}", answer.json),
            Err(_) => thread::sleep(Duration::from_millis(2)),
        }
    }
    unreachable!("it is tried for ever")
}

/// Every body is another one: it may arrive under one id only, however often it was posted.
fn assert_one_id_each(receivers: &[Receiver]) {
    let mut ids: HashMap<_, String> = HashMap::new();
    for arrival in receivers.iter().flat_map(Receiver::arrivals).filter(|one| one.length > 0) {
        let id = ids.entry(arrival.sha256).or_insert_with(|| arrival.id.clone());
        assert_eq!(*id, arrival.id, "one body under two ids");
    }
}

/// A body of its own for each event: mostly small, some past the buffers of the way, up to the limit; and some empty.
fn body(number: u64, rng: &mut fastrand::Rng) -> Vec<u8> {
    let length = match number % 500 {
        0 => (1 << 20) - 64,
        1..6 => rng.usize(64 * 1024..512 * 1024),
        6..50 => rng.usize(4 * 1024..16 * 1024),
        50..60 => return Vec::new(),
        _ => rng.usize(0..2048),
    };
    let mut body = format!("event {number} {:x} ", rng.u128(..)).into_bytes();
    body.resize_with(body.len() + length, || rng.u8(..));
    body.truncate(1 << 20);
    body
}

fn judge(ledger: &Ledger, receivers: &[Receiver], connections: &[&str]) -> Verdict {
    let dead = BTreeSet::new();
    let oracle = Oracle { ledger, connections, dead: &dead };
    let arrivals: Vec<_> = receivers.iter().flat_map(Receiver::arrivals).collect();
    oracle.judge(&arrivals)
}

/// After the faults, liveness: a fresh event reaches every connection within five seconds.
fn passes(site: &Site, ledger: &Ledger, receivers: &[Receiver], connections: &[&str]) {
    let answer = site.producer().event(ledger, b"a fresh event").expect("a post");
    assert_eq!(answer.status, 202);
    eventually("a fresh event passes", Duration::from_secs(5), || {
        let arrived = receivers.iter().flat_map(Receiver::arrivals);
        let arrived: Vec<_> = arrived.filter(|a| a.id == answer.id() && a.succeeded()).collect();
        connections.iter().all(|name| arrived.iter().any(|a| a.connection() == *name))
    });
}
