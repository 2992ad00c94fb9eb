//! Ordering, over the built binary: per key, what a receiver takes comes in the order in which it was posted.

use std::collections::BTreeMap;

use rustix::process::Signal;

use crate::harness::message::Message;
use crate::harness::producer::{Hash, sha256};
use crate::harness::{Behaviour, Daemon, Receiver, SOON, Site, eventually};

const QUICK: &str = "retry = { interval = \"50ms\", max_interval = \"100ms\", jitter = \"equal\" }";
const KEYS: usize = 8;

/// Connections that are in order by one key, found in three places.
const KEYED: [(&str, &str); 3] =
    [("body", "body.order.id"), ("header", "headers.x-key"), ("query", "query.key")];

/// The body of event `number`: its key goes round.
fn body(number: usize) -> String {
    format!("{{\"order\":{{\"id\":\"k{}\"}},\"n\":{number}}}", number % KEYS)
}

fn number(request: &Message) -> usize {
    let json: serde_json::Value = serde_json::from_slice(&request.body).expect("JSON");
    usize::try_from(json["n"].as_u64().expect("a number")).expect("a small number")
}

/// Says 503 to the first two attempts of every seventh event, and to the first of every fifth.
fn flaky(request: &Message) -> u16 {
    let attempt: u32 =
        request.header("posthaste-attempt").and_then(|a| a.parse().ok()).unwrap_or(0);
    let fails = match number(request) {
        n if n % 7 == 3 => 2,
        n if n % 5 == 1 => 1,
        _ => 0,
    };
    if attempt <= fails { 503 } else { 200 }
}

/// Says 404 to event 3.
fn picky(request: &Message) -> u16 {
    if number(request) == 3 { 404 } else { 200 }
}

/// The events that a receiver took, in the order in which it took each first.
fn first_successes(receiver: &Receiver, connection: &str, events: usize) -> Vec<usize> {
    let numbers: BTreeMap<Hash, usize> =
        (0..events).map(|number| (sha256(body(number).as_bytes()), number)).collect();
    let mut seen = Vec::new();
    for arrival in receiver.arrivals() {
        if arrival.succeeded() && arrival.connection() == connection {
            let number = numbers[&arrival.sha256];
            if !seen.contains(&number) {
                seen.push(number);
            }
        }
    }
    seen
}

fn post(site: &Site, numbers: std::ops::Range<usize>) {
    let mut producer = site.producer();
    for number in numbers {
        let key = format!("k{}", number % KEYS);
        let headers = [("content-type", "application/json"), ("x-key", key.as_str())];
        let path = format!("/v1/events?key={key}");
        let answer = producer.post(&path, &headers, body(number).as_bytes()).unwrap();
        assert_eq!(answer.status, 202);
    }
}

/// Promise 4 of spec 2: with failures and two SIGKILLs in the middle, each key in its order, and `strict` all of them.
#[test]
fn order_holds_per_key_through_failures_and_kills() {
    const EVENTS: usize = 600;
    let receiver = Receiver::start(Behaviour::Decide(flaky));
    let site = Site::new();
    for (name, path) in KEYED {
        let key = format!("ordering = \"key\"\nordering_key = \"{path}\"");
        site.connection(name, &receiver.url(name), &format!("{QUICK}\n{key}"));
    }
    site.connection("strict", &receiver.url("strict"), &format!("{QUICK}\nordering = \"strict\""));
    site.connection("plain", &receiver.url("plain"), QUICK);
    let mut daemon = Daemon::start(&site);
    for part in 0..3 {
        post(&site, EVENTS / 3 * part..EVENTS / 3 * (part + 1));
        if part < 2 {
            let goal = EVENTS / 3 * part + EVENTS / 8;
            eventually("some of it", SOON, || receiver.delivered("body") >= goal);
            daemon.kill();
            daemon = Daemon::start(&site);
        }
    }
    let all = ["body", "header", "query", "strict", "plain"];
    for name in all {
        eventually(name, SOON, || receiver.delivered(name) == EVENTS);
    }
    for (name, _) in KEYED {
        let seen = first_successes(&receiver, name, EVENTS);
        for key in 0..KEYS {
            let of_key: Vec<_> = seen.iter().copied().filter(|n| n % KEYS == key).collect();
            assert!(of_key.is_sorted(), "{name}, key {key}: {of_key:?}");
            assert_eq!(of_key.len(), EVENTS / KEYS);
        }
        assert!(!seen.is_sorted(), "{name}: a key that fails does not hold the others up");
    }
    let strict = first_successes(&receiver, "strict", EVENTS);
    assert!(strict.is_sorted(), "{strict:?}");
    let plain = first_successes(&receiver, "plain", EVENTS);
    assert!(!plain.is_sorted(), "without an order there is none, or this test shows nothing");
    daemon.drained(&all);
    daemon.stop();
}

/// Spec 3, `on_dead = "halt"`: nothing goes after a dead one, also over a SIGKILL, until somebody resumes. That nothing of the
/// halt is lost is what the store promises of suspensions; the dead letter itself is a mark like others.
#[test]
fn a_dead_head_halts_the_connection_until_it_is_resumed() {
    let receiver = Receiver::start(Behaviour::Decide(picky));
    let site = Site::new();
    let halt = "ordering = \"strict\"\non_dead = \"halt\"";
    site.connection("crm", &receiver.url("crm"), &format!("{QUICK}\n{halt}"));
    let mut daemon = Daemon::start(&site);
    post(&site, 0..10);
    let halted = |daemon: &Daemon<'_>| {
        let labels = [("connection", "crm"), ("cause", "halted")];
        daemon.metrics().sum("posthaste_connection_suspended", &labels) == 1.0
    };
    eventually("it halts", SOON, || halted(&daemon));
    let dead = |daemon: &Daemon<'_>| {
        daemon.metrics().sum("posthaste_dead_letters", &[("connection", "crm")])
    };
    eventually("it is dead", SOON, || dead(&daemon) == 1.0);
    for _ in 0..2 {
        assert_eq!(first_successes(&receiver, "crm", 10), [0, 1, 2]);
        daemon.kill();
        daemon = Daemon::start(&site);
        assert!(halted(&daemon), "a restart does not end it");
    }
    eventually("the rest", SOON, || {
        // A kill may have cost the mark of the dead one, which is written up to 20 ms later: then it halts once more.
        if halted(&daemon) {
            assert!(daemon.cli(&["resume", "crm"]).status.success());
        }
        receiver.delivered("crm") == 9
    });
    assert_eq!(first_successes(&receiver, "crm", 10), [0, 1, 2, 4, 5, 6, 7, 8, 9]);
    daemon.drained(&["crm"]);
    assert_eq!(dead(&daemon), 1.0);
    daemon.stop();
}

/// A reload may begin, change and end an order while events wait: none is lost, and none is sent twice.
#[test]
fn an_order_begins_changes_and_ends_at_reloads() {
    const EVENTS: usize = 300;
    let receiver = Receiver::start(Behaviour::Decide(flaky));
    let site = Site::new();
    let orders = [
        "ordering = \"key\"\nordering_key = \"body.order.id\"",
        "ordering = \"strict\"",
        "ordering = \"none\"",
        "ordering = \"key\"\nordering_key = \"body.n\"",
        "ordering = \"key\"\nordering_key = \"event.type\"",
    ];
    site.connection("crm", &receiver.url("crm"), QUICK);
    let daemon = Daemon::start(&site);
    for round in 0..10 {
        post(&site, EVENTS / 10 * round..EVENTS / 10 * (round + 1));
        let generation = || daemon.metrics().sum("posthaste_config_generation", &[]);
        let before = generation();
        site.connection("crm", &receiver.url("crm"), &format!("{QUICK}\n{}", orders[round % 5]));
        daemon.signal(Signal::HUP);
        eventually("the edit is taken", SOON, || generation() > before);
    }
    eventually("all", SOON, || receiver.delivered("crm") == EVENTS);
    let metrics = daemon.drained(&["crm"]);
    let taken = receiver.arrivals().iter().filter(|arrival| arrival.succeeded()).count();
    assert_eq!(taken, EVENTS, "none twice");
    let unordered = metrics.sum("posthaste_unordered_events_total", &[("connection", "crm")]);
    assert!(unordered > 0.0, "these events have no type");
}
