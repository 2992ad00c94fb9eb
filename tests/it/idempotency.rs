//! Spec 4: the same key makes one event, whatever happens between two posts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::harness::{Behaviour, Daemon, Producer, Receiver, SOON, Site, eventually, seed};

const PATH: &str = "/v1/events";
/// Large enough that the keys of a run go through several segments, which are given back.
const BODY: usize = 24 * 1024;
const RECOVERY: Duration = Duration::from_secs(120);

/// By key, the id that every 202 for it named.
#[derive(Default)]
struct Answers {
    ids: Mutex<BTreeMap<usize, String>>,
}

impl Answers {
    /// Posts with a key until it is acknowledged.
    fn post(&self, producer: &mut Producer, number: usize) {
        let key = format!("order-{number}");
        let headers = [("idempotency-key", key.as_str())];
        loop {
            match producer.post(PATH, &headers, &body(number)) {
                Ok(answer) if answer.status == 202 => {
                    assert_eq!(answer.json["connections"], 1, "{}", answer.json);
                    let mut ids = self.ids.lock().unwrap();
                    let id = ids.entry(number).or_insert_with(|| answer.id().to_owned());
                    assert_eq!(id, answer.id(), "{key}");
                    return;
                }
                Ok(answer) => assert_eq!(answer.status, 503, "{key}: {}", answer.json),
                // The daemon is down; its port refuses until it is back.
                Err(_) => thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    fn len(&self) -> usize {
        self.ids.lock().unwrap().len()
    }
}

/// A body of its own for each key, the same at each post.
fn body(number: usize) -> Vec<u8> {
    let mut body = format!("order {number} ").into_bytes();
    body.resize(BODY, b'x');
    body
}

/// Pairs of producers post the same keys at one time while the daemon is killed again and again: each key gets one id, and
/// its event arrives under that id alone. Then all are posted once more, over a kill and a clean stop.
#[test]
fn a_key_makes_one_event_over_sigkill() {
    const KEYS: usize = 700;
    const KILLS: usize = 4;
    let mut rng = fastrand::Rng::with_seed(seed());
    let receiver = Receiver::start(Behaviour::ok());
    let site = Site::new();
    site.connection("crm", &receiver.url("crm"), "");
    let mut daemon = Daemon::start(&site);
    let answers = Answers::default();
    let next = [AtomicUsize::new(0), AtomicUsize::new(0)];
    thread::scope(|scope| {
        for client in 0..6 {
            let (answers, next, mut producer) = (&answers, &next[client % 2], site.producer());
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= KEYS {
                        return;
                    }
                    answers.post(&mut producer, number);
                }
            });
        }
        for kill in 1..=KILLS {
            let goal = kill * KEYS / (KILLS + 1);
            eventually("acknowledged", RECOVERY, || answers.len() >= goal);
            thread::sleep(Duration::from_micros(rng.u64(0..20_000)));
            daemon.kill();
            daemon = Daemon::start(&site);
        }
    });
    eventually("all arrive", RECOVERY, || receiver.delivered("crm") >= KEYS);
    let given_back = || {
        let files = std::fs::read_dir(site.store()).unwrap();
        let mut names = files.map(|file| file.unwrap().file_name());
        names.any(|name| name.to_string_lossy().starts_with("ky-"))
    };
    eventually("segments are given back", SOON, given_back);
    let mut producer = site.producer();
    daemon.kill();
    for stop in [false, true] {
        daemon = Daemon::start(&site);
        for number in 0..KEYS {
            answers.post(&mut producer, number);
        }
        assert_eq!(daemon.metrics().sum("posthaste_idempotency_keys", &[]), KEYS as f64);
        if stop {
            daemon.stop();
        } else {
            daemon.kill();
        }
    }
    let acknowledged: BTreeSet<_> = answers.ids.lock().unwrap().values().cloned().collect();
    let arrived: BTreeSet<_> = receiver.arrivals().into_iter().map(|one| one.id).collect();
    assert_eq!((acknowledged.len(), arrived), (KEYS, acknowledged));
}

/// The answers of spec 4 on the built binary: another body, a key that is none, the configured limits.
#[test]
fn keys_that_conflict_or_fall_out() {
    let receiver = Receiver::start(Behaviour::ok());
    let site = Site::with("", "[store.idempotency]\nmax_keys = 3\n");
    site.connection("crm", &receiver.url("crm"), "");
    let mut daemon = Daemon::start(&site);
    let mut producer = site.producer();
    let mut post = |key: &str, body: &str| {
        let answer = producer.post(PATH, &[("webhook-id", key)], body.as_bytes());
        let answer = answer.unwrap();
        (answer.status, answer.id().to_owned() + answer.code())
    };
    let first = post("a", "1");
    assert_eq!(first.0, 202);
    assert_eq!(post("a", "1"), first);
    assert_eq!(post("a", "2"), (409, "idempotency_conflict".to_owned()));
    let refused = (400, "invalid_idempotency_key".to_owned());
    assert_eq!(post(&"k".repeat(256), ""), refused);
    for key in ["b", "c", "d"] {
        assert_eq!(post(key, "1").0, 202);
    }
    let again = post("a", "2");
    assert!(again.0 == 202 && again.1 != first.1, "{again:?}");
    let metrics = daemon.metrics();
    for (name, value) in [
        ("posthaste_idempotency_keys", 3.0),
        ("posthaste_idempotency_keys_evicted_total", 2.0),
        ("posthaste_idempotency_repeats_total", 1.0),
    ] {
        assert_eq!(metrics.sum(name, &[]), value, "{name}");
    }
    let window = metrics.sum("posthaste_idempotency_window_seconds", &[]);
    assert!(window < 3600.0, "{window}");
    daemon.stop();
}
