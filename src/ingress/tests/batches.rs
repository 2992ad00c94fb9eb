//! Batches over sockets: all of it, or nothing.

use super::*;
use crate::event::EventId;

const LINES: &str = "Content-Type: application/x-ndjson\r\n";
const ARRAY: &str = "Content-Type: application/json\r\n";
const CLOUD: &str = "Content-Type: application/cloudevents-batch+json\r\n";
const PATH: &str = "/v1/events/batch";

fn cloud(id: &str) -> String {
    format!("{{\"specversion\":\"1.0\",\"id\":\"{id}\",\"source\":\"/s\",\"type\":\"t{id}\"}}")
}

fn ids(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 202, "{answer:?}");
    let json = answer.json();
    let ids = json["ids"].as_array().unwrap().iter();
    ids.map(|id| id.as_str().unwrap_or("none").to_owned()).collect()
}

fn stored_ids(relay: &Relay) -> Vec<String> {
    relay.stored().iter().map(|(event, _)| event.id.to_string()).collect()
}

#[test]
fn each_item_is_an_event_in_order() {
    for (headers, body, kind) in [
        (LINES, "{\"a\": 1.10}\n\n [2]\r\n\"x\"\n".to_owned(), "application/json"),
        (ARRAY, "[ {\"a\": 1.10} , [2],\"x\"]".to_owned(), "application/json"),
    ] {
        let relay = Relay::start(|_| ());
        let more = format!("{headers}posthaste-type: order\r\nce-extra: no\r\n");
        let answer = relay.connect().post_with(PATH, &more, &body);
        assert_eq!(ids(&answer), stored_ids(&relay));
        let json = answer.json();
        assert_eq!((&json["durable"], &json["connections"]), (&true.into(), &3.into()));
        let stored = relay.stored();
        let bodies: Vec<_> = stored.iter().map(|(event, _)| event.content.body()).collect();
        assert_eq!(bodies, ["{\"a\": 1.10}", "[2]", "\"x\""]);
        for (event, routes) in &stored {
            let kept: Vec<_> = event.content.headers().collect();
            assert_eq!(kept, [("content-type", kind.as_bytes())]);
            assert_eq!((event.content.kind(), routes.len()), ("order", 1));
        }
        assert_eq!(relay.live(0), 3);
        assert_eq!(relay.metric("posthaste_ingress_body_bytes_total"), 17.0);
        let accepted = "posthaste_deliveries_accepted_total{connection=\"crm\"}";
        assert_eq!(relay.metric(accepted), 3.0);
        eventually("memory given back", || relay.memory_used() == 0);
    }
}

#[test]
fn every_target_takes_batches() {
    let mut shop = connection("crm");
    shop.sources = vec!["shop".to_owned()];
    let relay = Relay::with(vec![shop, connection("plain")], |_| ());
    let mut producer = relay.connect();
    for (path, source) in [
        (PATH, "default"),
        ("/v1/sources/shop/events/batch", "shop"),
        ("/v1/connections/crm/events/batch", "shop"),
    ] {
        let answer = producer.post_with(path, LINES, "1\n2");
        assert_eq!(ids(&answer).len(), 2, "{path}");
        assert_eq!(relay.stored().last().unwrap().0.content.source(), source);
    }
    assert_eq!(ids(&producer.post_with(PATH, ARRAY, "[]")), [""; 0]);
    assert_eq!(relay.stored().len(), 6);
}

#[test]
fn cloud_events_in_a_batch_have_types_and_keys_of_their_own() {
    let relay = Relay::start(|_| ());
    let mut producer = relay.connect();
    let one = producer.post_with(
        "/v1/events",
        "Content-Type: application/cloudevents+json\r\n",
        &cloud("2"),
    );
    let body = format!("[{}, {}, {}]", cloud("1"), cloud("2"), cloud("1"));
    for path in [PATH, "/v1/events"] {
        let found = ids(&producer.post_with(path, CLOUD, &body));
        let first = found[0].clone();
        assert_eq!(found[1], one.json()["id"], "stored before");
        assert_eq!(found, [first.clone(), found[1].clone(), first], "twice in the batch");
        assert_eq!(relay.stored().len(), 2, "{path}");
    }
    let stored = relay.stored();
    let content = &stored[1].0.content;
    assert_eq!((content.kind(), content.body()), ("t1", cloud("1").into()));
    let kept: Vec<_> = content.headers().collect();
    assert_eq!(kept, [("content-type", &b"application/cloudevents+json"[..])]);
}

#[test]
fn a_key_of_the_request_makes_the_batch_one() {
    let relay = Relay::start(|_| ());
    let mut producer = relay.connect();
    let keyed = format!("{LINES}Idempotency-Key: k\r\n");
    let first = ids(&producer.post_with(PATH, &keyed, "1\n2\n3"));
    assert_eq!(ids(&producer.post_with(PATH, &keyed, "1\n2\n3")), first);
    assert_eq!(relay.stored().len(), 3);
    let longer = ids(&producer.post_with(PATH, &keyed, "1\n2\n3\n4"));
    assert_eq!((&longer[..3], relay.stored().len()), (&first[..], 4), "only the new item");
    let answer = producer.post_with(PATH, &keyed, "1\n9\n3\n4");
    assert_eq!((answer.status, answer.code().as_str()), (409, "idempotency_conflict"));
    assert_eq!(answer.json()["index"], 1);
    // The key alone is another key.
    let single = producer.post_with("/v1/events", "Idempotency-Key: k\r\n", "1");
    assert!(!longer.contains(&single.json()["id"].as_str().unwrap().to_owned()));
    assert_eq!(relay.stored().len(), 5);
}

#[test]
fn a_bad_item_is_named_and_nothing_is_taken() {
    let relay = Relay::start(|_| ());
    let mut producer = relay.connect();
    let large = format!("1\n\"{}\"", "x".repeat(1024));
    let twice = format!("[{},{}]", cloud("1"), cloud("1").replace("t1", "t2"));
    let many = "1\n".repeat(1001);
    type Case<'a> = (&'a str, &'a str, u16, &'a str, Option<u64>);
    let cases: [Case<'_>; 7] = [
        (LINES, "1\n{\n3", 422, "invalid_batch", Some(1)),
        (ARRAY, "[1,2", 422, "invalid_batch", Some(1)),
        (ARRAY, "{}", 422, "invalid_batch", None),
        (CLOUD, "[{\"id\":\"1\"}]", 422, "invalid_batch", Some(0)),
        (LINES, &large, 413, "body_too_large", Some(1)),
        (CLOUD, &twice, 409, "idempotency_conflict", Some(1)),
        (LINES, &many, 422, "invalid_batch", None),
    ];
    for (headers, body, status, code, index) in cases {
        let answer = producer.post_with(PATH, headers, body);
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{answer:?}");
        assert_eq!(answer.json()["index"].as_u64(), index, "{answer:?}");
    }
    for headers in ["", "Content-Type: text/csv\r\n", &format!("{LINES}Content-Encoding: gzip\r\n")]
    {
        let answer = producer.post_with(PATH, headers, "1");
        assert_eq!(answer.code(), "unsupported_media_type");
    }
    let answer = producer.post_with(&format!("{PATH}?wait=5s"), LINES, "1");
    assert_eq!(answer.code(), "invalid_wait");
    assert_eq!((relay.stored().len(), relay.live(0)), (0, 0));
    eventually("memory given back", || relay.memory_used() == 0);
    // Keys of what was refused are free.
    let body = format!("[{}]", cloud("1").replace("t1", "t2"));
    assert_eq!(ids(&producer.post_with(PATH, CLOUD, &body)).len(), 1);
}

#[test]
fn a_queue_that_fills_up_takes_all_of_it_or_none() {
    let mut reject = connection("reject");
    reject.queue.max_events = 3;
    reject.queue.when_full = WhenFull::Reject;
    let relay = Relay::with(vec![connection("crm"), reject], |_| ());
    let mut producer = relay.connect();
    let answer = producer.post_with(PATH, LINES, "1\n2\n3\n4");
    assert_eq!((answer.status, answer.code().as_str()), (503, "queue_full"));
    assert_eq!((&answer.json()["index"], answer.header("retry-after")), (&3.into(), Some("1")));
    assert_eq!((relay.live(0), relay.live(1), relay.stored().len()), (0, 0, 0));
    assert_eq!(ids(&producer.post_with(PATH, LINES, "1\n2\n3")).len(), 3);
    assert_eq!((relay.live(0), relay.live(1)), (3, 3));
}

#[test]
fn a_connection_that_is_full_or_disabled_is_named_once() {
    let mut small = connection("small");
    small.queue.max_events = 1;
    let mut off = connection("off");
    off.state = State::Disabled;
    let relay = Relay::with(vec![connection("crm"), small, off], |_| ());
    let answer = relay.connect().post_with(PATH, LINES, "1\n2\n3");
    let json = answer.json();
    assert_eq!(ids(&answer).len(), 3);
    assert_eq!((&json["connections"], &json["full"]), (&4.into(), &serde_json::json!(["small"])));
    assert_eq!(json["ignored"], 3);
    let relay = {
        let mut off = connection("off");
        off.state = State::Disabled;
        Relay::with(vec![off], |_| ())
    };
    let answer = relay.connect().post_with(PATH, LINES, "1\n2");
    let expected = "{\"ids\":[null,null],\"durable\":true,\"connections\":0,\"ignored\":2}";
    assert_eq!((answer.body.as_str(), relay.stored().len()), (expected, 0));
}

#[test]
fn what_the_store_says_is_said_of_the_whole_batch() {
    let relay = Relay::start(|_| ());
    let mut producer = relay.connect();
    let body = format!("[{},{}]", cloud("1"), cloud("2"));
    for (error, status) in [(AppendError::Failed, 503), (AppendError::Full, 507)] {
        relay.disk(Disk::Says(error));
        let answer = producer.post_with(PATH, CLOUD, &body);
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(relay.live(0), 0, "room given back");
    }
    relay.disk(Disk::Works);
    let found = ids(&producer.post_with(PATH, CLOUD, &body));
    assert_eq!(stored_ids(&relay)[4..], found[..], "the keys were released");
}

#[test]
fn the_body_and_its_copies_are_counted_and_bounded() {
    let relay = Relay::start(|options| {
        options.limits.max_batch_bytes = 4000;
        options.memory_bytes = 10_000;
    });
    let mut producer = relay.connect();
    let line = format!("\"{}\"\n", "x".repeat(97));
    let answer = producer.post_with(PATH, LINES, &line.repeat(41));
    assert_eq!((answer.status, answer.code().as_str()), (413, "body_too_large"));
    relay.disk(Disk::Hangs);
    producer.send(format!(
        "POST {PATH} HTTP/1.1\r\nHost: localhost\r\n{LINES}Content-Length: 1000\r\n\r\n{}",
        line.repeat(10)
    ));
    eventually("it is on its way", || relay.live(0) == 10);
    assert_eq!(relay.memory_used(), 2 * 1000 + 512 + 10 * 512);
    let mut other = relay.connect();
    let answer = other.post_with(PATH, LINES, &line.repeat(10));
    assert_eq!((answer.status, answer.code().as_str()), (503, "memory_full"));
    relay.disk(Disk::Works);
    assert_eq!(ids(&producer.answer()).len(), 10);
    eventually("memory given back", || relay.memory_used() == 0);
}

/// Batches that share keys in any order, and single posts of the same keys, end, and each key makes one event.
#[test]
fn batches_that_share_keys_do_not_wait_for_each_other() {
    let mut roomy = connection("crm");
    roomy.queue.max_events = 1000;
    let relay = Relay::with(vec![roomy], |_| ());
    let mut by_key: std::collections::BTreeMap<String, std::collections::BTreeSet<String>> =
        Default::default();
    for round in 0..5 {
        relay.disk(Disk::Hangs);
        let mut producers = Vec::new();
        for number in 0..8u64 {
            let mut rng = fastrand::Rng::with_seed(round * 100 + number);
            let mut keys: Vec<_> = (0..6).map(|key| format!("{round}-{key}")).collect();
            rng.shuffle(&mut keys);
            keys.truncate(rng.usize(1..=6));
            let items: Vec<_> = keys.iter().map(|key| cloud(key)).collect();
            let body = format!("[{}]", items.join(","));
            let length = body.len();
            let mut producer = relay.connect();
            producer.send(format!("POST {PATH} HTTP/1.1\r\nHost: localhost\r\n{CLOUD}Content-Length: {length}\r\n\r\n{body}"));
            producers.push((producer, keys));
        }
        eventually("one is on its way", || relay.live(0) > 0);
        relay.disk(Disk::Works);
        for (producer, keys) in &mut producers {
            for (key, id) in keys.iter().zip(ids(&producer.answer())) {
                by_key.entry(key.clone()).or_default().insert(id);
            }
        }
    }
    assert!(by_key.len() > 20 && by_key.values().all(|ids| ids.len() == 1), "{by_key:?}");
    assert_eq!(relay.stored().len(), by_key.len());
    assert!(by_key.values().flatten().all(|id| id.parse::<EventId>().is_ok()));
}
