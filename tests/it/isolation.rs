//! One bad endpoint touches nobody else.

use std::time::Duration;

use crate::harness::{Behaviour, Daemon, Ledger, Receiver, SOON, Site, eventually};

const POOL: &str = "pool = { max_per_host = 4, max_total = 4 }\nrequest_timeout = \"1s\"\n\
    retry = { interval = \"100ms\", max_interval = \"1s\" }";
const EVENTS: usize = 200;

/// Promise 6 of spec 2, as a smoke test: of 20 connections one hangs, one refuses, one floods with 429 and one trickles.
/// The other 16 get everything promptly, and nobody gets more requests at a time than its pool has places.
#[test]
fn bad_endpoints_touch_only_themselves() {
    let healthy = Receiver::start(Behaviour::ok());
    let bad = [
        Receiver::start(Behaviour::Hang),
        Receiver::refusing(),
        Receiver::start(Behaviour::status(429)),
        Receiver::start(Behaviour::Trickle(Duration::from_millis(20))),
    ];
    let names: Vec<String> = (0..20).map(|number| format!("c{number}")).collect();
    let site = Site::new();
    for (number, name) in names.iter().enumerate() {
        let receiver = bad.get(number).unwrap_or(&healthy);
        site.connection(name, &receiver.url(name), POOL);
    }
    let mut daemon = Daemon::start(&site);
    let ledger = Ledger::default();
    let mut producer = site.producer();
    for number in 0..EVENTS {
        let body = format!("event {number}");
        let answer = producer.event(&ledger, body.as_bytes()).unwrap();
        assert_eq!((answer.status, &answer.json["connections"]), (202, &20.into()));
    }
    eventually("the healthy ones have everything", Duration::from_secs(20), || {
        healthy.count() >= 16 * EVENTS
    });
    for name in &names[4..] {
        assert_eq!(healthy.delivered(name), EVENTS, "{name}");
    }
    assert_eq!(healthy.count(), 16 * EVENTS, "no duplicates");
    for (receiver, places) in bad.iter().zip([4; 4]).chain([(&healthy, 16 * 4)]) {
        let most = receiver.most_in_flight();
        assert!(most <= places, "{most} in flight where {places} are allowed");
    }
    for receiver in &bad {
        receiver.behave(Behaviour::ok());
    }
    bad[1].listen();
    for (name, receiver) in names.iter().zip(&bad) {
        eventually(name, SOON * 2, || receiver.delivered(name) == EVENTS);
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    daemon.drained(&names);
    daemon.stop();
}
