//! Filters and dedupe at acceptance.

use super::super::routing::{RoutingTable, Target as Named};
use super::super::rules::{Choice, Ignored, Waiter};
use super::super::sources::Sources;
use super::*;
use crate::clock::Age;
use crate::connection::dedupe::{Dedupe, Fields};
use crate::connection::filter::Filter;
use crate::connection::json::Json;
use crate::connection::parts::testing::event_with;
use crate::connection::payload::Payload;
use crate::event::EventId;

fn with(name: &str, payload: Payload) -> Connection {
    let mut connection = connection(name);
    connection.payload = Some(Box::new(payload));
    connection.with_keeps()
}

fn filtered(name: &str, filter: &str) -> Connection {
    let filter = Filter::compile(&Json::parse(filter.as_bytes()).unwrap()).unwrap();
    with(name, Payload { filter: Some(filter), ..Payload::default() })
}

fn deduped(name: &str, seconds: u64) -> Connection {
    let dedupe = Dedupe { window: Duration::from_secs(seconds), fields: Fields::Body };
    with(name, Payload { dedupe: Some(dedupe), ..Payload::default() })
}

fn ignored(relay: &Relay, name: &str, cause: &str) -> f64 {
    relay.metric(&format!(
        "posthaste_deliveries_ignored_total{{connection=\"{name}\",cause=\"{cause}\"}}"
    ))
}

const PAID: &str = r#"{"body":{"status":"paid","total":{"$gte":100}}}"#;

#[test]
fn an_event_goes_to_the_connections_whose_filter_matches() {
    let relay = Relay::with(vec![filtered("big", PAID), connection("all")], |_| ());
    let mut producer = relay.connect();
    let answer = producer.post("/v1/events", r#"{"status":"paid","total":100}"#);
    assert_eq!(answer.json()["connections"], 2, "{answer:?}");
    let answer = producer.post("/v1/events", r#"{"status":"paid","total":99}"#);
    assert_eq!(
        (answer.json()["connections"].as_u64(), answer.json()["ignored"].as_u64()),
        (Some(1), Some(1))
    );
    let answer = producer.post("/v1/events", "no JSON");
    assert_eq!(answer.json()["ignored"], 1);
    let routes: Vec<usize> = relay.stored().iter().map(|(_, routes)| routes.len()).collect();
    assert_eq!(routes, [2, 1, 1]);
    assert_eq!(ignored(&relay, "big", "filtered"), 2.0);
    assert_eq!(ignored(&relay, "all", "filtered"), 0.0);
    let outcome = "posthaste_deliveries_total{connection=\"big\",outcome=\"ignored\"}";
    assert_eq!(relay.metric(outcome), 2.0);
    assert_eq!(relay.metric("posthaste_deliveries_accepted_total{connection=\"big\"}"), 3.0);
}

/// Spec 11: nothing is stored, and the post is no error.
#[test]
fn an_event_that_nobody_takes_is_not_stored() {
    let mut off = connection("off");
    off.state = State::Disabled;
    let relay = Relay::with(vec![filtered("big", PAID), off], |_| ());
    let mut producer = relay.connect();
    let answer = producer.post("/v1/events", "{}");
    assert_eq!((answer.status, answer.body.as_str()), (202, "{\"connections\":0,\"ignored\":2}"));
    let direct = producer.post("/v1/connections/big/events", "{}");
    assert_eq!((direct.status, direct.body.as_str()), (202, "{\"connections\":0,\"ignored\":1}"));
    assert_eq!(producer.post("/v1/connections/off/events", "{}").status, 409);
    assert!(relay.stored().is_empty());
    assert_eq!(ignored(&relay, "off", "disabled"), 1.0);
    assert_eq!(relay.live(0), 0);
}

#[test]
fn comparing_values_of_different_sorts_is_counted() {
    let relay = Relay::with(vec![filtered("big", PAID)], |_| ());
    let mut producer = relay.connect();
    for body in [r#"{"status":"paid","total":"100"}"#, r#"{"status":"paid"}"#, r#"{"status":5}"#] {
        assert_eq!(producer.post("/v1/events", body).json()["ignored"], 1, "{body}");
    }
    assert_eq!(relay.metric("posthaste_filter_type_errors_total{connection=\"big\"}"), 2.0);
}

#[test]
fn headers_path_and_query_are_filtered_and_kept() {
    let rule = r#"{"headers":{"X-Tenant":"acme"},"query":{"page":"2"}}"#;
    let relay = Relay::with(vec![filtered("acme", rule)], |_| ());
    let mut producer = relay.connect();
    let answer = producer.post_with("/v1/events?page=2", "X-TENANT: acme\r\n", "text");
    assert_eq!(answer.json()["connections"], 1, "{answer:?}");
    let answer = producer.post_with("/v1/events?page=3", "X-TENANT: acme\r\n", "text");
    assert_eq!(answer.json()["ignored"], 1, "{answer:?}");
    let kept: Vec<_> =
        relay.stored()[0].0.content.headers().map(|(name, _)| name.to_owned()).collect();
    assert_eq!(kept, ["x-tenant", ":query"]);
}

#[test]
fn a_duplicate_is_ignored() {
    let relay = Relay::with(vec![deduped("once", 3600), connection("all")], |_| ());
    let mut producer = relay.connect();
    let first = producer.post("/v1/events", "same");
    assert_eq!(first.json()["connections"], 2);
    let again = producer.post("/v1/events", "same");
    assert_eq!(
        (again.json()["connections"].as_u64(), again.json()["ignored"].as_u64()),
        (Some(1), Some(1))
    );
    assert_eq!(producer.post("/v1/events", "other").json()["connections"], 2);
    assert_eq!(ignored(&relay, "once", "duplicate"), 1.0);
    let direct = producer.post("/v1/connections/once/events", "same");
    assert_eq!(direct.json()["ignored"], 1, "the same window");
}

#[test]
fn a_post_that_is_not_stored_leaves_no_trace() {
    let relay = Relay::with(vec![deduped("once", 3600)], |_| ());
    relay.disk(Disk::Says(AppendError::Full));
    let mut producer = relay.connect();
    assert_eq!(producer.post("/v1/events", "same").status, 507);
    relay.disk(Disk::Works);
    assert_eq!(producer.post("/v1/events", "same").json()["connections"], 1);
    assert_eq!(producer.post("/v1/events", "same").json()["ignored"], 1);
}

/// Two posts at once: the second waits for what becomes of the first, and takes its place when that fails.
#[test]
fn the_same_event_posted_twice_at_once_is_stored_once() {
    for (disk, answers) in
        [(Disk::Works, [202, 202]), (Disk::Says(AppendError::Failed), [503, 503])]
    {
        let relay = Relay::with(vec![deduped("once", 3600)], |_| ());
        relay.disk(Disk::Hangs);
        let (mut one, mut two) = (relay.connect(), relay.connect());
        let request =
            "POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nsame";
        one.send(request);
        two.send(request);
        let requests = "posthaste_ingress_requests_total{listener=\"tcp\"}";
        eventually("both are there", || relay.metric(requests) == 2.0);
        relay.disk(disk);
        let found = [one.answer(), two.answer()];
        assert_eq!(found.each_ref().map(|answer| answer.status), answers, "{found:?}");
        let ignored = found.iter().filter(|answer| answer.body.contains("\"ignored\":1")).count();
        assert_eq!(ignored, usize::from(answers[0] == 202));
        // After a failure the second one tried for itself.
        assert_eq!(relay.stored().len(), if answers[0] == 202 { 1 } else { 2 });
    }
}

fn entries_of(connections: Vec<Connection>) -> Vec<Entry> {
    entries(&Metrics::new(), connections)
}

/// What a table says of an event with this body at this age; a choice is settled as stored.
fn choose(table: &RoutingTable, body: &str, age: u64) -> Result<Vec<Ignored>, Waiter> {
    let mut event = event_with(&[], body);
    event.id = EventId::new(age, &mut fastrand::Rng::with_seed(age));
    event.accepted_age = Age(age);
    let group = table.find(Named::Source("default")).unwrap();
    let mut choice: Choice = group.choose(&event, &[])?;
    choice.settle(event.id, event.accepted_age);
    group.count(event.id, &[], &choice);
    Ok(choice.ignored.iter().map(|(_, why)| *why).collect())
}

fn id(age: u64) -> EventId {
    EventId::new(age, &mut fastrand::Rng::with_seed(age))
}

#[test]
fn a_window_is_store_time_and_names_the_first_event() {
    let table = RoutingTable::new(&entries_of(vec![deduped("once", 10)]), &Sources::default());
    assert_eq!(choose(&table, "a", 1_000).unwrap(), []);
    assert_eq!(choose(&table, "a", 5_000).unwrap(), [Ignored::Duplicate(id(1_000))]);
    assert_eq!(choose(&table, "a", 10_999).unwrap(), [Ignored::Duplicate(id(1_000))]);
    assert_eq!(choose(&table, "a", 11_000).unwrap(), []);
    assert_eq!(choose(&table, "a", 11_001).unwrap(), [Ignored::Duplicate(id(11_000))]);
}

#[test]
fn what_is_on_its_way_is_waited_for_and_released_when_it_fails() {
    let table = RoutingTable::new(
        &entries_of(vec![deduped("one", 10), deduped("two", 10)]),
        &Sources::default(),
    );
    let group = table.find(Named::Source("default")).unwrap();
    let event = event_with(&[], "a");
    let claimed = group.choose(&event, &[]).unwrap();
    let waiter = choose(&table, "a", 1).unwrap_err();
    // What waits holds nothing itself.
    assert_eq!(choose(&table, "b", 1).unwrap(), []);
    drop(claimed);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(waiter.wait());
    assert_eq!(choose(&table, "a", 2).unwrap(), []);
}

/// A batch that waits gives up its own claims first, and must not be woken by that: it would ask again for ever.
#[test]
fn who_waits_for_one_event_hears_nothing_of_others() {
    let table = RoutingTable::new(&entries_of(vec![deduped("once", 10)]), &Sources::default());
    let group = table.find(Named::Source("default")).unwrap();
    let other = group.choose(&event_with(&[], "a"), &[]).unwrap();
    let own = vec![(id(1), group.choose(&event_with(&[], "b"), &[]).unwrap())];
    let waiter = group.choose(&event_with(&[], "a"), &own).unwrap_err();
    let mut wait = std::pin::pin!(waiter.wait());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    drop(own);
    assert!(wait.as_mut().poll(&mut context).is_pending());
    drop(other);
    assert!(wait.as_mut().poll(&mut context).is_ready());
}

/// All of a batch, or none: the second of two that are the same is a duplicate of the first, and waits for nothing.
#[test]
fn a_batch_with_the_same_event_twice_has_it_once() {
    let relay = Relay::with(vec![deduped("once", 3600)], |_| ());
    let mut producer = relay.connect();
    let headers = "Content-Type: application/json\r\n";
    relay.disk(Disk::Says(AppendError::Full));
    assert_eq!(producer.post_with("/v1/events/batch", headers, "[1,1,2]").status, 507);
    relay.disk(Disk::Works);
    for (body, expected) in [("[1,1,2]", 2), ("[2,3,1]", 3)] {
        let answer = producer.post_with("/v1/events/batch", headers, body);
        assert_eq!(answer.status, 202, "{answer:?}");
        // The failed batch was seen by the store, too.
        assert_eq!(relay.stored().len() - 2, expected, "{body}: {answer:?}");
    }
    assert_eq!(ignored(&relay, "once", "duplicate"), 3.0);
}

#[test]
fn a_reload_keeps_the_window_of_a_dedupe_that_is_the_same() {
    let entries = entries_of(vec![deduped("once", 10), filtered("big", PAID)]);
    let table = RoutingTable::new(&entries, &Sources::default());
    assert_eq!(choose(&table, "a", 1).unwrap().len(), 1);
    let mut changed = entries.clone();
    let mut other = Connection::clone(&entries[0].0);
    other.description = Some("other".to_owned());
    changed[0].0 = Arc::new(other);
    let same = RoutingTable::after(&table, &changed, &Sources::default());
    assert_eq!(choose(&same, "a", 2).unwrap()[0], Ignored::Duplicate(id(1)));
    let mut longer = entries.clone();
    longer[0].0 = Arc::new(deduped("once", 11));
    let fresh = RoutingTable::after(&table, &longer, &Sources::default());
    assert_eq!(choose(&fresh, "a", 3).unwrap(), [Ignored::Filtered]);
}

#[test]
fn the_latest_ignored_events_are_remembered() {
    let table = RoutingTable::new(
        &entries_of(vec![filtered("big", PAID), connection("all")]),
        &Sources::default(),
    );
    for age in 0..100 {
        assert_eq!(choose(&table, "{}", age).unwrap(), [Ignored::Filtered]);
    }
    let ignored = table.ignored("BIG");
    assert_eq!(ignored.len(), super::super::rules::IGNORED_MAX);
    assert_eq!((ignored.last().unwrap().id, ignored[0].at_ms), (id(99), 68));
    assert!(table.ignored("all").is_empty() && table.ignored("none").is_empty());
}

#[test]
fn what_the_store_still_holds_is_recalled() {
    let table = RoutingTable::new(
        &entries_of(vec![deduped("once", 10), connection("all")]),
        &Sources::default(),
    );
    let dedupes: Vec<_> = table.dedupes().collect();
    let [(connection, dedupe)] = dedupes.as_slice() else {
        panic!("{dedupes:?}");
    };
    let event = event_with(&[], "a");
    let key = dedupe.key(&crate::connection::parts::Parts::new(&event)).unwrap();
    table.recall(*connection, [(key, id(7), Age(7))].into_iter());
    assert_eq!(choose(&table, "a", 8).unwrap(), [Ignored::Duplicate(id(7))]);
}
