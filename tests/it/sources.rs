//! What producers may ask for, against the whole relay: `docs/ingress.md`.

use std::time::Duration;

use crate::harness::producer::sha256;
use crate::harness::{Behaviour, Daemon, Receiver, SOON, Site, eventually, now};

const LINES: (&str, &str) = ("content-type", "application/x-ndjson");

/// `?wait=`: what became of each delivery, at once when all are over, and what is known at the deadline.
#[test]
fn a_producer_may_wait_for_the_outcome() {
    let receiver = Receiver::start(Behaviour::ok());
    let refuses = Receiver::start(Behaviour::status(400));
    let hangs = Receiver::start(Behaviour::ok().after(Duration::from_secs(600)));
    let site = Site::new();
    site.connection("crm", &receiver.url("crm"), "sources = [\"default\", \"slow\"]");
    site.connection("mail", &refuses.url("mail"), "");
    site.connection("hangs", &hangs.url("hangs"), "source = \"slow\"");
    let mut daemon = Daemon::start(&site);
    let mut producer = site.producer();
    let answer = producer.post("/v1/events?wait=30s", &[], b"x").unwrap();
    assert_eq!(answer.status, 200, "{}", answer.json);
    let expected = serde_json::json!([
        { "name": "crm", "state": "delivered", "attempts": 1 },
        { "name": "mail", "state": "dead", "cause": "http_status", "status": 400, "attempts": 1 },
    ]);
    assert_eq!((&answer.json["connections"], &answer.json["durable"]), (&expected, &true.into()));
    assert!(answer.id().starts_with("evt_"));
    let begin = now();
    let answer = producer.post("/v1/sources/slow/events?wait=300ms", &[], b"x").unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(300));
    assert_eq!(answer.status, 202, "{}", answer.json);
    let expected = serde_json::json!([
        { "name": "crm", "state": "delivered", "attempts": 1 },
        { "name": "hangs", "state": "pending" },
    ]);
    assert_eq!(answer.json["connections"], expected);
    for wrong in ["61s", "5", ""] {
        let answer = producer.post(&format!("/v1/events?wait={wrong}"), &[], b"x").unwrap();
        assert_eq!((answer.status, answer.code()), (400, "invalid_wait"), "{wrong}");
    }
    drop(hangs);
    daemon.kill();
}

/// Who waits when the daemon stops is answered, and does not hold it up.
#[test]
fn a_stop_answers_those_that_wait() {
    let hangs = Receiver::start(Behaviour::ok().after(Duration::from_secs(600)));
    let site = Site::with("drain_timeout = \"1s\"", "");
    site.connection("crm", &hangs.url("crm"), "");
    let mut daemon = Daemon::start(&site);
    let address = site.ingress;
    let waits = std::thread::spawn(move || {
        let mut producer = crate::harness::Producer::tcp(address);
        producer.post("/v1/events?wait=60s", &[], b"x").unwrap()
    });
    eventually("it is on its way", SOON, || hangs.most_in_flight() == 1);
    daemon.stop();
    let answer = waits.join().unwrap();
    assert_eq!(answer.status, 202, "{}", answer.json);
    assert_eq!(answer.json["connections"][0]["state"], "pending");
}

/// `posthaste-delay` and `posthaste-deliver-at` put one event off, over a kill; they win over the connection's own delay.
#[test]
fn one_event_may_be_put_off() {
    let receiver = Receiver::start(Behaviour::ok());
    let site = Site::new();
    site.connection("crm", &receiver.url("crm"), "delay = \"1h\"");
    let mut daemon = Daemon::start(&site);
    let mut producer = site.producer();
    let begin = now();
    let delayed = [("posthaste-delay", "1500ms")];
    assert_eq!(producer.post("/v1/events", &delayed, b"later").unwrap().status, 202);
    let past = [("posthaste-deliver-at", "2020-01-01T00:00:00Z")];
    assert_eq!(producer.post("/v1/events", &past, b"now").unwrap().status, 202);
    assert_eq!(producer.post("/v1/events", &[], b"in an hour").unwrap().status, 202);
    eventually("what is past is now", SOON, || receiver.count() == 1);
    daemon.kill();
    let mut daemon = Daemon::start(&site);
    // What is past may come twice: its mark can be lost with the process.
    let later = sha256(b"later");
    let comes = || receiver.arrivals().iter().any(|one| one.sha256 == later);
    eventually("the delayed one comes", SOON, comes);
    assert!(begin.elapsed() >= Duration::from_millis(1500), "{:?}", begin.elapsed());
    let both = [("posthaste-delay", "1s"), ("posthaste-deliver-at", "2020-01-01T00:00:00Z")];
    for wrong in [&both[..], &[("posthaste-delay", "8d")]] {
        let answer = site.producer().post("/v1/events", wrong, b"x").unwrap();
        assert_eq!((answer.status, answer.code()), (422, "invalid_delay"));
    }
    daemon.kill();
}

/// A batch is answered with its ids, survives a kill, and each item is delivered as it was.
#[test]
fn the_items_of_a_batch_are_delivered_over_a_kill() {
    let receiver = Receiver::start(Behaviour::ok());
    receiver.refuse();
    let site = Site::new();
    site.connection(
        "crm",
        &receiver.url("crm"),
        "retry = { strategy = \"linear\", interval = \"100ms\" }",
    );
    let mut daemon = Daemon::start(&site);
    let items: Vec<String> = (0..200).map(|number| format!("{{\"n\": {number}.0}}")).collect();
    let headers = [LINES, ("idempotency-key", "batch-1")];
    let body = items.join("\n");
    let first = site.producer().post("/v1/events/batch", &headers, body.as_bytes()).unwrap();
    assert_eq!(first.status, 202, "{}", first.json);
    assert_eq!(first.json["ids"].as_array().unwrap().len(), 200);
    daemon.kill();
    let mut daemon = Daemon::start(&site);
    let again = site.producer().post("/v1/events/batch", &headers, body.as_bytes()).unwrap();
    assert_eq!(again.json["ids"], first.json["ids"], "the keys survive");
    receiver.listen();
    eventually("all arrive", SOON * 4, || {
        let arrived = receiver.arrivals();
        let bodies: std::collections::BTreeSet<_> =
            arrived.iter().filter(|one| one.succeeded()).map(|one| one.sha256).collect();
        bodies.len() == 200
    });
    let mut arrived: Vec<_> = receiver.arrivals().iter().map(|one| one.sha256).collect();
    arrived.sort();
    arrived.dedup();
    let mut sent: Vec<_> = items.iter().map(|item| sha256(item.as_bytes())).collect();
    sent.sort();
    assert_eq!(arrived, sent);
    daemon.drained(&["crm"]);
    daemon.stop();
}

/// `[[source]]` is taken by a reload, without a connection dropped; secrets come from where they are kept.
#[test]
fn a_source_is_closed_by_a_reload() {
    let receiver = Receiver::start(Behaviour::ok());
    let site = Site::new();
    site.connection("crm", &receiver.url("crm"), "source = \"shop\"");
    let mut daemon = Daemon::start(&site);
    let mut producer = site.producer();
    let path = "/v1/sources/shop/events";
    assert_eq!(producer.post(path, &[], b"x").unwrap().status, 202);
    let token = site.path().join("token");
    std::fs::write(&token, "t0ken\n").unwrap();
    let source = format!(
        "[[source]]\nname = \"shop\"\nresponse = {{ status = 200, body = \"ok\" }}\nauth.bearer.tokens = [{{ file = {token:?} }}]\n"
    );
    site.configure("", &source);
    eventually("the source is closed", SOON, || {
        producer.post(path, &[], b"x").unwrap().status == 401
    });
    let answer = producer.post(path, &[("authorization", "Bearer t0ken")], b"x").unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.message.header("posthaste-event-id").unwrap().starts_with("evt_"));
    let log = daemon.stderr();
    assert!(!log.contains("t0ken"), "{log}");
    daemon.stop();
}
