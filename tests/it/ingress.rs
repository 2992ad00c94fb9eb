//! What a producer meets: the routes, the refusals, the Unix socket's rules.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use crate::harness::{
    Answer, Behaviour, Daemon, Ledger, Producer, Receiver, SOON, Site, eventually, now,
};

/// Spec 4: the three routes, and what each answers.
#[test]
fn the_three_routes_reach_whom_they_name() {
    let receiver = Receiver::start(Behaviour::ok());
    let site = Site::new();
    site.connection("crm", &receiver.url("crm"), "");
    site.connection("mail", &receiver.url("mail"), "sources = [\"default\", \"shop\"]");
    site.connection("off", &receiver.url("off"), "state = \"disabled\"");
    let mut daemon = Daemon::start(&site);
    let ledger = Ledger::default();
    let mut producer = site.producer();
    for (path, connections) in [
        ("/v1/events", 2),
        ("/v1/sources/default/events", 2),
        ("/v1/sources/shop/events", 1),
        ("/v1/connections/crm/events", 1),
    ] {
        let answer = producer.event_to(path, &ledger, path.as_bytes()).unwrap();
        assert_eq!(answer.status, 202, "{path}: {}", answer.json);
        assert_eq!(answer.json["connections"], connections, "{path}: {}", answer.json);
        assert_eq!(answer.json["durable"], true, "{path}");
        assert!(answer.id().starts_with("evt_"), "{path}: {}", answer.json);
    }
    eventually("all arrive", SOON, || receiver.count() == 6);
    assert_eq!((receiver.delivered("crm"), receiver.delivered("mail")), (3, 3));
    daemon.drained(&["crm", "mail", "off"]);
    daemon.stop();
}

/// Spec 4: each refusal is a problem document with a stable code, and leaves no trace.
#[test]
fn refusals_are_problem_documents_and_leave_no_trace() {
    let receiver = Receiver::start(Behaviour::ok());
    let site = Site::new();
    site.connection("crm", &receiver.url("crm"), "");
    site.connection("off", &receiver.url("off"), "state = \"disabled\"");
    let mut daemon = Daemon::start(&site);
    let mut tried = 0;
    let mut refused = |status, request: &str| {
        tried += 1;
        let answer = site.producer().exchange(request.as_bytes()).expect(request);
        assert_eq!(answer.status, status, "{request:?}: {}", answer.json);
        answer
    };
    let post = "POST /v1/events HTTP/1.1\r\nhost: localhost\r\n";
    let origin = "origin: https://evil.example\r\ncontent-length: 0\r\n\r\n";
    for (status, request) in [
        (403, format!("{post}{origin}")),
        (403, format!("{}content-length: 0\r\n\r\n", post.replace("localhost", "evil.example"))),
        (404, request("/v1/sources/nobody/events")),
        (404, request("/v1/connections/nobody/events")),
        (404, request("/nothing/here")),
        (409, request("/v1/connections/off/events")),
        (413, format!("{post}content-length: 99999999\r\n\r\n")),
    ] {
        assert_problem(&refused(status, &request));
    }
    let wrong = refused(405, "GET /v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n");
    assert_eq!(wrong.message.header("allow"), Some("POST"));
    for (status, rest) in [
        (400, "content-length: 1\r\ncontent-length: 2\r\n\r\nxx".to_owned()),
        (431, format!("{}content-length: 0\r\n\r\n", "x: y\r\n".repeat(500))),
    ] {
        assert_problem(&refused(status, &format!("{post}{rest}")));
    }
    assert_eq!(tried, 10);
    let metrics = daemon.metrics();
    assert_eq!(metrics.sum("posthaste_deliveries_accepted_total", &[]), 0.0);
    assert_eq!(receiver.count(), 0);
    daemon.stop();
}

/// Spec 3, `max_body`: refused from the head where it says so, else when the limit is passed, and not read further.
#[test]
fn a_body_past_the_limit_is_413() {
    let receiver = Receiver::start(Behaviour::ok());
    let site = Site::new();
    site.connection("crm", &receiver.url("crm"), "max_body = \"1KiB\"");
    site.connection("big", &receiver.url("big"), "max_body = \"4KiB\"\nsource = \"big\"");
    site.connection("small", &receiver.url("small"), "max_body = \"1KiB\"\nsource = \"big\"");
    let mut daemon = Daemon::start(&site);
    for (path, length, status) in [
        ("/v1/events", 1024, 202),
        ("/v1/events", 1025, 413),
        ("/v1/sources/big/events", 4096, 202),
        ("/v1/sources/big/events", 4097, 413),
    ] {
        let answer = site.producer().post(path, &[], &vec![7; length]).unwrap();
        assert_eq!(answer.status, status, "{path} {length}: {}", answer.json);
        let chunked = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n\
            {length:x}\r\n{}\r\n0\r\n\r\n",
            "7".repeat(length)
        );
        let answer = site.producer().exchange(chunked.as_bytes()).unwrap();
        assert_eq!(answer.status, status, "chunked {path} {length}: {}", answer.json);
    }
    eventually("all arrive", SOON, || receiver.count() == 4);
    assert_eq!((receiver.delivered("crm"), receiver.delivered("big")), (2, 2));
    let dead = daemon.cli_json(&["dead", "list", "--json"]);
    let text = dead.to_string();
    assert_eq!(text.matches("too_large").count(), 2, "small's dead letters: {text}");
    daemon.drained(&["crm", "big", "small"]);
    daemon.stop();
}

/// Spec 11, a full queue: the others get the event, the full one a dead letter, or the post is refused.
#[test]
fn a_full_queue_costs_only_its_own() {
    let receiver = Receiver::start(Behaviour::ok());
    let stuck = Receiver::start(Behaviour::Hang);
    let site = Site::new();
    let full = "queue = { max_events = 5 }\nrequest_timeout = \"1m\"";
    let reject = "source = \"strict\"\nrequest_timeout = \"1m\"\n\
        queue = { max_events = 5, when_full = \"reject\" }";
    site.connection("crm", &receiver.url("crm"), "");
    site.connection("full", &stuck.url("full"), full);
    site.connection("reject", &stuck.url("reject"), reject);
    let mut daemon = Daemon::start(&site);
    let mut producer = site.producer();
    for number in 1..=8 {
        let answer = producer.post("/v1/events", &[], b"fan-out").unwrap();
        assert_eq!(answer.status, 202, "{number}: {}", answer.json);
        let named = answer.json["full"] == serde_json::json!(["full"]);
        assert_eq!(named, number > 5, "{number}: {}", answer.json);
    }
    for number in 1..=7 {
        let answer = producer.post("/v1/sources/strict/events", &[], b"alone").unwrap();
        assert_eq!(answer.status, if number > 5 { 503 } else { 202 }, "{}", answer.json);
        let waits = answer.message.header("retry-after").is_some();
        assert_eq!(waits, number > 5, "Retry-After on each 503");
    }
    let answer = producer.post("/v1/connections/full/events", &[], b"alone").unwrap();
    assert_eq!(answer.status, 503, "every matching connection is full: {}", answer.json);
    eventually("the others are not touched", SOON, || receiver.delivered("crm") == 8);
    // The last settlement is on its way to the store.
    daemon.drained(&["crm"]);
    let metrics = daemon.metrics();
    metrics.assert_conserved(&["crm", "full", "reject"]);
    assert_eq!(metrics.waiting("full"), 5.0);
    let labels = [("connection", "full"), ("outcome", "dead")];
    assert_eq!(metrics.sum("posthaste_deliveries_total", &labels), 3.0);
    let dead = daemon.cli_json(&["dead", "list", "--json"]).to_string();
    assert_eq!(dead.matches("queue_full").count(), 3, "{dead}");
    daemon.kill();
}

/// Issue 2: a stale socket is replaced, anything else at its path is refused, the mode is set.
#[test]
fn unix_socket_rules() {
    let receiver = Receiver::start(Behaviour::ok());
    let site = Site::new();
    site.connection("crm", &receiver.url("crm"), "");
    drop(UnixListener::bind(site.unix()).unwrap());
    assert!(site.unix().exists(), "a stale socket");
    let mut daemon = Daemon::start(&site);
    let mode = fs::metadata(site.unix()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let from_a_browser = [("origin", "http://x"), ("host", "evil.example")];
    let answer = Producer::unix(&site.unix()).post("/v1/events", &from_a_browser[1..], b"x");
    assert_eq!(answer.unwrap().status, 202, "Unix sockets are exempt from the Host rule");
    daemon.stop();
    fs::remove_file(site.unix()).ok();
    fs::write(site.unix(), "precious").unwrap();
    let mut refused = Daemon::spawn(&site);
    assert!(!matches!(refused.wait(SOON), None | Some(0)), "{}", refused.stderr());
    assert_eq!(fs::read(site.unix()).unwrap(), b"precious");
    assert!(refused.stderr().contains("in.sock"), "{}", refused.stderr());
}

/// Spec 3: header, body and idle timeouts are enforced, each from its own start.
#[test]
fn slow_clients_are_closed() {
    let site = Site::new();
    let text = fs::read_to_string(site.config()).unwrap();
    let timeouts =
        "[ingress]\nheader_timeout = \"1s\"\nbody_timeout = \"1s\"\nidle_timeout = \"1s\"";
    fs::write(site.config(), text.replace("[ingress]", timeouts)).unwrap();
    let receiver = Receiver::start(Behaviour::ok());
    site.connection("crm", &receiver.url("crm"), "");
    let mut daemon = Daemon::start(&site);
    let head = "POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n";
    for piece in ["", &head[..30], &format!("{head}\r\nhalf")] {
        let mut producer = site.producer();
        producer.begin(piece.as_bytes()).unwrap();
        let begun = now();
        // It may answer 408 before; then it closes.
        while !producer.closed() {}
        assert!(begun.elapsed() < Duration::from_secs(10), "{piece:?}");
    }
    assert_eq!(receiver.count(), 0);
    daemon.stop();
}

fn request(path: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n")
}

#[track_caller]
fn assert_problem(answer: &Answer) {
    let kind = answer.message.header("content-type");
    assert_eq!(kind, Some("application/problem+json"), "{answer:?}");
    assert!(!answer.code().is_empty(), "a stable code: {}", answer.json);
    assert_eq!(answer.json["status"], answer.status, "{}", answer.json);
}
