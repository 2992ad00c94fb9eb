//! Posts with a key, over sockets.

use super::*;

fn with_key(key: &str) -> String {
    format!("Idempotency-Key: {key}\r\n")
}

/// Answers of so many producers that post the same at one time, once all of them are inside.
fn at_once(relay: &Relay, count: usize, then: Disk) -> Vec<Answer> {
    relay.disk(Disk::Hangs);
    let mut producers: Vec<_> = (0..count).map(|_| relay.connect()).collect();
    for producer in &mut producers {
        producer.send("POST /v1/events HTTP/1.1\r\nHost: localhost\r\nIdempotency-Key: k\r\nContent-Length: 4\r\n\r\nbody");
    }
    let others = (count - 1) as f64;
    eventually("one is on its way, the others wait for it", || {
        relay.live(0) == 1 && relay.metric("posthaste_idempotency_repeats_total") == others
    });
    relay.disk(then);
    producers.iter_mut().map(Producer::answer).collect()
}

#[test]
fn the_same_key_and_body_make_one_event() {
    let relay = Relay::start(|_| ());
    let mut producer = relay.connect();
    let first = producer.post_with("/v1/events", &with_key("k1"), "body");
    assert_eq!(first.status, 202, "{first:?}");
    assert_eq!(relay.stored()[0].0.content.key(), "k1");
    for _ in 0..3 {
        // Another connection and another header make no difference.
        let again = relay.connect().post_with("/v1/events", "webhook-id: k1\r\n", "body");
        assert_eq!((again.status, &again.body), (202, &first.body));
    }
    assert_eq!((relay.stored().len(), relay.live(0)), (1, 1));
    assert_eq!(relay.metric("posthaste_idempotency_repeats_total"), 3.0);
    assert_eq!(relay.metric("posthaste_ingress_body_bytes_total"), 4.0);
    let other = producer.post_with("/v1/events", &with_key("k2"), "body");
    assert_ne!(other.json()["id"], first.json()["id"]);
    let none = producer.post("/v1/events", "body");
    assert_eq!((none.status, relay.stored().len()), (202, 3));
}

#[test]
fn another_body_or_type_under_the_same_key_is_a_conflict() {
    let relay = Relay::start(|_| ());
    let mut producer = relay.connect();
    let path = "/v1/events";
    assert_eq!(producer.post_with(path, &with_key("k"), "a").status, 202);
    let typed = format!("{}posthaste-type: t\r\n", with_key("k"));
    for (headers, body) in [(with_key("k"), "b"), (typed, "a")] {
        let answer = producer.post_with(path, &headers, body);
        assert_eq!((answer.status, answer.code().as_str()), (409, "idempotency_conflict"));
    }
    assert_eq!((relay.stored().len(), relay.live(0)), (1, 1));
    assert_eq!(relay.rejected("idempotency_conflict"), 2.0);
}

#[test]
fn a_key_that_is_not_one_is_refused_before_the_body() {
    let relay = Relay::start(|_| ());
    let mut producer = relay.connect();
    let long = "k".repeat(256);
    for key in ["", "a b", "\u{e4}", &long] {
        let answer = producer.post_with("/v1/events", &with_key(key), "body");
        let found = (answer.status, answer.code());
        assert_eq!(found, (400, "invalid_idempotency_key".to_owned()), "{key}");
    }
    assert_eq!(relay.stored().len(), 0);
    let longest = with_key(&long[1..]);
    assert_eq!(producer.post_with("/v1/events", &longest, "").status, 202);
}

#[test]
fn a_hundred_at_once_make_one_event() {
    let relay = Relay::start(|_| ());
    let answers = at_once(&relay, 100, Disk::Works);
    assert_eq!((relay.stored().len(), relay.live(0)), (1, 1));
    let id = relay.stored()[0].0.id.to_string();
    for answer in &answers {
        assert_eq!(answer.status, 202, "{answer:?}");
        assert_eq!(
            (answer.json()["id"].as_str(), &answer.body),
            (Some(id.as_str()), &answers[0].body)
        );
    }
    eventually("memory given back", || relay.memory_used() == 0);
}

#[test]
fn a_failure_is_everybodys_and_releases_the_key() {
    for (error, status) in [(AppendError::Failed, 503), (AppendError::Full, 507)] {
        let relay = Relay::start(|_| ());
        let answers = at_once(&relay, 10, Disk::Says(error));
        for answer in &answers {
            assert_eq!(answer.status, status, "{answer:?}");
            assert!(answer.header("retry-after").is_some(), "{answer:?}");
        }
        assert_eq!(relay.live(0), 0);
        relay.disk(Disk::Works);
        // Not even its body is remembered.
        let answer = relay.connect().post_with("/v1/events", &with_key("k"), "other");
        assert_eq!(answer.status, 202);
        let id = answer.json()["id"].clone();
        assert_eq!(relay.stored().last().unwrap().0.id.to_string(), id);
    }
}

/// Nobody is there for the answer, but the event is stored: the next post must hear of it.
#[test]
fn a_producer_that_goes_away_and_posts_again_gets_its_first_event() {
    let relay = Relay::start(|_| ());
    relay.disk(Disk::Hangs);
    let mut producer = relay.connect();
    producer.send("POST /v1/events HTTP/1.1\r\nHost: localhost\r\nIdempotency-Key: k\r\nContent-Length: 4\r\n\r\nbody");
    eventually("the event is on its way", || relay.live(0) == 1);
    drop(producer);
    // By the second answer the runtime has seen that the producer is gone.
    let mut other = relay.connect();
    for _ in 0..2 {
        assert_eq!(other.post("/nowhere", "").status, 404);
    }
    relay.disk(Disk::Works);
    let answer = other.post_with("/v1/events", &with_key("k"), "body");
    assert_eq!((answer.status, relay.stored().len()), (202, 1));
    assert_eq!(answer.json()["id"], relay.stored()[0].0.id.to_string());
}

#[test]
fn what_is_not_stored_is_not_remembered() {
    let mut off = connection("off");
    off.state = State::Disabled;
    let relay = Relay::with(vec![off], |_| ());
    let mut producer = relay.connect();
    for body in ["a", "b"] {
        let answer = producer.post_with("/v1/events", &with_key("k"), body);
        assert_eq!(answer.body, "{\"connections\":0,\"ignored\":1}");
    }
    for body in ["a", "b"] {
        let answer = producer.post_with("/v1/connections/off/events", &with_key("k"), body);
        assert_eq!(answer.code(), "connection_disabled");
    }
    assert_eq!(relay.stored().len(), 0);
}

#[test]
fn keys_are_per_source_and_per_connection_that_is_posted_to() {
    let mut shop = connection("mail");
    shop.sources = vec!["shop".to_owned(), "default".to_owned()];
    let relay = Relay::with(vec![connection("crm"), shop], |_| ());
    let mut producer = relay.connect();
    let mut ids = std::collections::BTreeSet::new();
    let paths = [
        "/v1/events",
        "/v1/sources/shop/events",
        "/v1/connections/crm/events",
        "/v1/connections/mail/events",
    ];
    for path in paths.iter().chain(&paths) {
        let answer = producer.post_with(path, &with_key("k"), "body");
        assert_eq!(answer.status, 202, "{path} {answer:?}");
        ids.insert(answer.json()["id"].to_string());
    }
    // The source by its long path is the same source; a connection's name has no case.
    for path in ["/v1/sources/default/events", "/v1/connections/CRM/events"] {
        let answer = producer.post_with(path, &with_key("k"), "body");
        assert!(ids.contains(&answer.json()["id"].to_string()), "{path}");
    }
    assert_eq!((ids.len(), relay.stored().len()), (4, 4));
    assert_eq!(relay.stored()[2].0.content.key(), "crm k");
}
