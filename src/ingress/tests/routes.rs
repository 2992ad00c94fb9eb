//! The decision where an event goes, as a table.

use super::super::routing::{Plan, RoutingTable, Target as Named};
use super::super::rules::Choice;
use super::*;
use crate::event::Cause;
use crate::store::intake::Fate;

/// `name` or `name:word:word…` where a word changes the connection: `full`, `small` (takes 10 bytes), `reject`, `paused`,
/// `disabled`.
fn described(text: &str) -> (Connection, bool) {
    let mut words = text.split(':');
    let mut made = connection(words.next().unwrap());
    let mut full = false;
    for word in words {
        match word {
            "full" => full = true,
            "small" => made.max_body = 10,
            "reject" => made.queue.when_full = WhenFull::Reject,
            "paused" => made.state = State::Paused,
            "disabled" => made.state = State::Disabled,
            other => panic!("unknown word {other}"),
        }
    }
    (made, full)
}

fn summary(plan: &Plan) -> String {
    let fates = plan.routes.iter().map(|route| match route.fate {
        Fate::Queued => format!("{} queued", route.connection.0),
        Fate::Dead(cause) => format!("{} {cause}", route.connection.0),
    });
    let mut words: Vec<String> = fates.collect();
    if plan.ignored > 0 {
        words.push(format!("ignored {}", plan.ignored));
    }
    words.join(", ")
}

/// Decides an event with a body of `body` bytes; also checks that a refusal leaves nothing reserved.
fn check(connections: &[&str], target: Named<'_>, body: u64, expected: Result<&str, Refusal>) {
    let (made, full): (Vec<_>, Vec<_>) = connections.iter().map(|text| described(text)).unzip();
    let entries = entries(&Metrics::new(), made);
    for ((_, _, queue, _), full) in entries.iter().zip(&full) {
        if *full {
            queue.live.store(10, Ordering::Relaxed);
        }
    }
    let before = live(&entries);
    let table = RoutingTable::new(&entries, &Sources::default());
    let decided = table.find(target).and_then(|group| {
        group.decide(body, body + 50, None, &Choice::default()).map_err(|refused| refused.why)
    });
    let found = decided.as_ref().map(summary);
    let expected = expected.map(str::to_owned);
    assert_eq!(
        found.as_ref().map_err(|why| **why),
        expected.as_ref().map_err(|why| *why),
        "{connections:?}"
    );
    let reserved = decided.map_or(0, |plan| plan.queued() as u64);
    assert_eq!(live(&entries), before + reserved, "{connections:?}");
}

fn live(entries: &[Entry]) -> u64 {
    let live = |entry: &Entry| entry.2.live.load(Ordering::Relaxed);
    entries.iter().map(live).sum()
}

#[test]
fn decisions_of_a_fan_out() {
    type Case = (&'static [&'static str], u64, Result<&'static str, Refusal>);
    let cases: &[Case] = &[
        (&["a"], 5, Ok("1 queued")),
        (&["a", "b"], 5, Ok("1 queued, 2 queued")),
        (&["a:paused"], 5, Ok("1 queued")),
        (&["a", "b:disabled"], 5, Ok("1 queued, ignored 1")),
        (&["a:disabled", "b:disabled"], 5, Ok("ignored 2")),
        (&["a:full", "b"], 5, Ok("1 queue_full, 2 queued")),
        (&["a:full", "b:full"], 5, Err(Refusal::QueueFull)),
        (&["a:full", "b:disabled"], 5, Err(Refusal::QueueFull)),
        (&["a", "b:full:reject"], 5, Err(Refusal::QueueFull)),
        (&["a:reject", "b:full"], 5, Ok("1 queued, 2 queue_full")),
        (&["a:small", "b"], 11, Ok("1 too_large, 2 queued")),
        (&["a:small", "b"], 10, Ok("1 queued, 2 queued")),
        (&["a:small:full", "b"], 11, Ok("1 too_large, 2 queued")),
        (&["a:small", "b:full"], 11, Err(Refusal::QueueFull)),
        (&["a:small"], 11, Err(Refusal::BodyTooLarge)),
    ];
    for (connections, body, expected) in cases {
        check(connections, Named::Source("default"), *body, *expected);
    }
    assert_eq!(cases.len(), 15);
    check(&["a"], Named::Source("shop"), 5, Err(Refusal::NoConnection));
    check(&[], Named::Source("default"), 5, Err(Refusal::NoConnection));
}

#[test]
fn decisions_of_a_direct_post() {
    let all = ["Crm", "erp:disabled", "old:full", "tiny:small", "wait:paused"];
    let cases = [
        ("crm", Ok("1 queued")),
        ("CRM", Ok("1 queued")),
        ("erp", Err(Refusal::ConnectionDisabled)),
        ("old", Err(Refusal::QueueFull)),
        ("tiny", Err(Refusal::BodyTooLarge)),
        ("wait", Ok("5 queued")),
        ("cr", Err(Refusal::UnknownConnection)),
        ("crm2", Err(Refusal::UnknownConnection)),
    ];
    for (name, expected) in cases {
        check(&all, Named::Connection(name), 11, expected);
    }
}

#[test]
fn the_cap_on_bodies_is_the_largest_that_is_taken() {
    let largest = |connections: &[&str]| {
        let made = connections.iter().map(|text| described(text).0).collect();
        let table = RoutingTable::new(&entries(&Metrics::new(), made), &Sources::default());
        table.find(Named::Source("default")).unwrap().max_body
    };
    assert_eq!(largest(&["a:small", "b"]), 1024);
    assert_eq!(largest(&["a:small", "b:disabled"]), 10);
    assert_eq!(largest(&["b:disabled"]), 1024);
}

#[test]
fn the_answer_names_what_is_full_too_large_or_ignored() {
    let (connections, full): (Vec<_>, Vec<_>) =
        ["a", "b:full", "c:small", "d:disabled", "e:full"].into_iter().map(described).unzip();
    let relay = Relay::with(connections, |_| ());
    for (entry, full) in relay.entries.iter().zip(full) {
        entry.2.live.store(if full { 10 } else { 0 }, Ordering::Relaxed);
    }
    let answer = relay.connect().post("/v1/events", "eleven bytes");
    assert_eq!(answer.status, 202, "{answer:?}");
    let (_, rest) = answer.body.split_once(",\"durable\"").unwrap();
    let expected =
        ":true,\"connections\":1,\"full\":[\"b\",\"e\"],\"too_large\":[\"c\"],\"ignored\":1}";
    assert_eq!(rest, expected);
    let routes = &relay.stored()[0].1;
    assert_eq!(routes[1].fate, Fate::Dead(Cause::QueueFull));
    for (name, outcome) in [("b", "dead"), ("c", "dead"), ("d", "ignored"), ("e", "dead")] {
        let line =
            format!("posthaste_deliveries_total{{connection=\"{name}\",outcome=\"{outcome}\"}}");
        assert_eq!(relay.metric(&line), 1.0, "{line}");
        let line = format!("posthaste_deliveries_accepted_total{{connection=\"{name}\"}}");
        assert_eq!(relay.metric(&line), 1.0, "{line}");
    }
}

#[test]
fn an_event_that_all_ignore_is_not_stored() {
    let connections = vec![described("a:disabled").0, described("b:disabled").0];
    let relay = Relay::with(connections, |_| ());
    let mut producer = relay.connect();
    let answer = producer.post("/v1/events", "x");
    assert_eq!((answer.status, answer.body.as_str()), (202, "{\"connections\":0,\"ignored\":2}"));
    let answer = producer.post("/v1/connections/A/events", "x");
    assert_eq!((answer.status, answer.code().as_str()), (409, "connection_disabled"));
    assert!(relay.stored().is_empty());
}

#[test]
fn a_direct_post_is_stored_under_the_connections_first_source() {
    let mut shop = connection("shop-crm");
    shop.sources = vec!["shop".to_owned(), "default".to_owned()];
    let relay = Relay::with(vec![connection("other"), shop], |_| ());
    let answer = relay.connect().post("/v1/connections/SHOP-crm/events", "x");
    assert_eq!(answer.json()["connections"], 1, "{answer:?}");
    let (event, routes) = &relay.stored()[0];
    assert_eq!(event.content.source(), "shop");
    assert_eq!(routes[0].connection, ConnectionId(2));
}
