//! Requests that are refused: each with its document, counted, and without a trace.

use super::*;

/// Posts and checks everything that all refusals have in common.
fn refused(relay: &Relay, answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    let json = answer.json();
    assert_eq!(json["status"], status);
    assert_eq!(json["code"], code);
    assert_eq!(json["type"], format!("urn:posthaste:problem:{code}"));
    assert!(json["title"].is_string() && json["detail"].is_string());
    let wants_retry = matches!(status, 429 | 503 | 507);
    assert_eq!(answer.header("retry-after").is_some(), wants_retry, "{answer:?}");
    assert_eq!(relay.rejected(code), 1.0, "{code}");
    eventually("memory given back", || relay.memory_used() == 0);
    assert_eq!(relay.live(0), 0, "room given back");
}

#[test]
fn refusals_by_head() {
    let long = format!("posthaste-type: {}\r\n", "x".repeat(256));
    let cases: &[(&str, &str, u16, &str)] = &[
        ("/nowhere", "", 404, "not_found"),
        ("/v1/sources/shop/events", "", 404, "no_connection"),
        ("/v1/connections/nobody/events", "", 404, "unknown_connection"),
        ("/v1/events", "Origin: null\r\n", 403, "origin_forbidden"),
        ("/v1/events", &long, 422, "invalid_type"),
        ("/v1/events", "posthaste-type: \u{85}\r\n", 422, "invalid_type"),
        ("/v1/events", "posthaste-type: a\r\nposthaste-type: b\r\n", 422, "invalid_type"),
        ("/v1/events", "Host: localhost\r\n", 400, "malformed"),
        ("http://example.com/v1/events", "", 403, "host_forbidden"),
    ];
    for (path, headers, status, code) in cases {
        let relay = Relay::start(|_| ());
        let mut producer = relay.connect();
        let answer = producer.post_with(path, headers, "abc");
        refused(&relay, &answer, *status, code);
        let closes = answer.header("connection") == Some("close");
        assert_eq!(closes, matches!(*status, 400 | 403), "{code}");
        if closes {
            assert!(producer.is_closed(), "{code}");
        } else {
            assert_eq!(producer.post("/v1/events", "x").status, 202, "{code}");
        }
    }
    assert_eq!(cases.len(), 9);
}

#[test]
fn a_foreign_host_is_refused_unless_configured() {
    let relay = Relay::start(|options| options.limits.hosts = vec!["relay.test".to_owned()]);
    let with_host = |host: &str| {
        let request =
            format!("POST /v1/events HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n");
        relay.connect().send(request).answer()
    };
    refused(&relay, &with_host("evil.test"), 403, "host_forbidden");
    assert_eq!(with_host("Relay.test:8377").status, 202);
    assert_eq!(with_host("[::1]").status, 202);
}

#[test]
fn other_methods_are_told_to_post() {
    let relay = Relay::start(|_| ());
    let answer =
        relay.connect().send("GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").answer();
    refused(&relay, &answer, 405, "method_not_allowed");
    assert_eq!(answer.header("allow"), Some("post"));
}

#[test]
fn a_body_over_the_cap_is_refused_before_it_is_read() {
    let relay = Relay::start(|_| ());
    let mut producer = relay.connect();
    producer.send("POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n");
    let answer = producer.answer();
    refused(&relay, &answer, 413, "body_too_large");
    assert!(answer.body.contains("1024 bytes"), "{answer:?}");
    assert_eq!(answer.header("connection"), Some("close"));

    // A little too much is thrown away, and the connection stays.
    let mut producer = relay.connect();
    assert_eq!(producer.post("/v1/events", &"x".repeat(1025)).status, 413);
    assert_eq!(producer.post("/v1/events", &"x".repeat(1024)).status, 202);
}

#[test]
fn a_producer_that_sends_all_before_it_reads_gets_its_413() {
    let relay = Relay::start(|_| ());
    let mut producer = relay.connect();
    let body = "x".repeat(3_000_000);
    let answer = producer.post("/v1/events", &body);
    refused(&relay, &answer, 413, "body_too_large");
}

#[test]
fn chunks_over_the_cap_are_refused() {
    let relay = Relay::start(|_| ());
    let mut producer = relay.connect();
    producer
        .send("POST /v1/events HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
    producer.send(format!("400\r\n{}\r\n", "x".repeat(1024))).send("1\r\nx\r\n");
    let answer = producer.answer();
    refused(&relay, &answer, 413, "body_too_large");
}

#[test]
fn a_spent_memory_budget_refuses_and_recovers() {
    let relay = Relay::start(|options| options.memory_bytes = 1500);
    relay.disk(Disk::Hangs);
    let mut first = relay.connect();
    first.send("POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900\r\n\r\n");
    first.send("x".repeat(900));
    eventually("the first waits for the disk", || relay.live(0) == 1);

    let mut second = relay.connect();
    let answer = second.post("/v1/events", "more");
    assert_eq!((answer.status, answer.code().as_str()), (503, "memory_full"));
    assert_eq!(answer.header("retry-after"), Some("1"));
    relay.disk(Disk::Works);
    assert_eq!(first.answer().status, 202);
    eventually("memory given back", || relay.memory_used() == 0);
    assert_eq!(second.post("/v1/events", "more").status, 202);
}

#[test]
fn memory_of_chunks_is_counted_as_they_come() {
    let relay = Relay::start(|options| options.memory_bytes = 1200);
    let mut small = relay.connect();
    small.send("POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8\r\n\r\n");
    eventually("the small one holds its share", || relay.memory_used() == 520);
    let mut large = relay.connect();
    large.send("POST /v1/events HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
    large.send(format!("c8\r\n{}\r\n", "x".repeat(200)));
    let answer = large.answer();
    assert_eq!((answer.status, answer.code().as_str()), (503, "memory_full"));
    assert_eq!(small.send("12345678").answer().status, 202);
}

#[test]
fn what_the_store_says_is_answered() {
    let cases = [
        (AppendError::Busy, 503, "store_busy"),
        (AppendError::Full, 507, "store_full"),
        (AppendError::Failed, 503, "store_failed"),
        (AppendError::Closed, 503, "shutting_down"),
    ];
    for (error, status, code) in cases {
        let relay = Relay::start(|_| ());
        relay.disk(Disk::Says(error));
        let answer = relay.connect().post("/v1/events", "abc");
        refused(&relay, &answer, status, code);
    }
}

#[test]
fn users_that_are_not_allowed_are_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("in.sock");
    let me = rustix::process::getuid().as_raw();
    for (allow_uids, expected) in [(vec![me], 202), (vec![me + 1], 403)] {
        let unix = UnixOptions { path: path.clone(), mode: 0o600, allow_uids };
        let relay = Relay::start(|options| options.unix = Some(unix));
        let answer = Producer::unix(&path).post("/v1/events", "x");
        assert_eq!(answer.status, expected);
        if expected == 403 {
            refused(&relay, &answer, 403, "uid_forbidden");
        }
    }
}
