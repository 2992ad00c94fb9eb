//! Single deliveries: tried at once, cancelled, listed.

use std::time::Duration;

use crate::harness::message::Message;
use crate::harness::{Behaviour, Daemon, Receiver, SOON, Site, eventually};

/// A retry comes in an hour: nothing but `events retry` brings one.
const LATE: &str =
    "retry = { strategy = \"linear\", interval = \"1h\" }\nbreaker = { enabled = false }";

fn post(site: &Site, connection: &str, body: &str) -> String {
    let path = format!("/v1/connections/{connection}/events");
    let answer = site.producer().post(&path, &[], body.as_bytes()).unwrap();
    assert_eq!(answer.status, 202);
    answer.id().to_owned()
}

fn scheduled(daemon: &Daemon<'_>, name: &str) -> f64 {
    daemon.metrics().sum("posthaste_queue_events", &[("connection", name), ("state", "scheduled")])
}

/// The result for the only delivery.
fn act(daemon: &Daemon<'_>, action: &str, id: &str) -> String {
    let acted = daemon.cli_json(&["events", action, id, "--json"]);
    assert_eq!(acted["deliveries"].as_array().map(Vec::len), Some(1), "{acted}");
    acted["deliveries"][0]["result"].as_str().unwrap().to_owned()
}

fn refused(daemon: &Daemon<'_>, arguments: &[&str], said: &str) {
    let refused = daemon.cli(arguments);
    assert_eq!(refused.status.code(), Some(1), "{arguments:?}: {refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains(said), "{arguments:?}: {refused:?}");
}

#[test]
fn a_retry_comes_when_it_is_asked_for() {
    let receiver = Receiver::start(Behaviour::status(503));
    let site = Site::new();
    site.connection("crm", &receiver.url("crm"), LATE);
    let mut daemon = Daemon::start(&site);
    let id = post(&site, "crm", "one");
    for attempt in 1..=3 {
        eventually("it waits for its retry", SOON, || scheduled(&daemon, "crm") == 1.0);
        assert_eq!(receiver.count(), attempt);
        if attempt < 3 {
            assert_eq!(act(&daemon, "retry", &id), "retried");
            eventually("it is tried", SOON, || receiver.count() == attempt + 1);
        }
    }
    // Durable when it is answered: what was asked for before a crash is done after it.
    let held = daemon.cli(&["pause", "crm", "--until-restart"]);
    assert!(held.status.success(), "{held:?}");
    assert_eq!(act(&daemon, "retry", &id), "retried");
    refused(&daemon, &["events", "retry", &id], "has come already");
    refused(&daemon, &["events", "retry", &id, "--connection", "erp"], "erp");
    receiver.behave(Behaviour::ok());
    daemon.kill();
    let mut daemon = Daemon::start(&site);
    eventually("it is delivered", SOON, || receiver.delivered("crm") == 1);
    let last = receiver.arrivals().pop().unwrap();
    assert_eq!((last.id.as_str(), last.attempt), (id.as_str(), 4));
    daemon.drained(&["crm"]);
    refused(&daemon, &["events", "retry", &id], &id);
    daemon.stop();
}

/// The ids of a list.
fn list(daemon: &Daemon<'_>, arguments: &[&str]) -> Vec<String> {
    let command = [&["events", "list", "crm", "--json"], arguments].concat();
    let page = daemon.cli_json(&command);
    let models = page["models"].as_array().unwrap();
    models.iter().map(|one| one["event"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn deliveries_are_listed_by_state_cause_and_time() {
    let receiver = Receiver::start(Behaviour::status(503));
    let site = Site::new();
    site.connection("crm", &receiver.url("crm"), LATE);
    let mut daemon = Daemon::start(&site);
    let late = post(&site, "crm", "late");
    eventually("it waits for its retry", SOON, || scheduled(&daemon, "crm") == 1.0);
    receiver.behave(Behaviour::status(400));
    let dead = post(&site, "crm", "dead");
    eventually("it is dead", SOON, || {
        daemon.metrics().sum("posthaste_dead_letters", &[("connection", "crm")]) == 1.0
    });
    let held = daemon.cli(&["pause", "crm", "--until-restart"]);
    assert!(held.status.success(), "{held:?}");
    let waiting = post(&site, "crm", "waiting");
    let all = [&waiting, &dead, &late].map(String::clone);
    assert_eq!(list(&daemon, &[]), all, "newest first");
    assert_eq!(list(&daemon, &["--state", "scheduled"]), std::slice::from_ref(&late));
    assert_eq!(list(&daemon, &["--state", "queued"]), std::slice::from_ref(&waiting));
    assert_eq!(list(&daemon, &["--state", "dead", "--status", "4xx"]), std::slice::from_ref(&dead));
    assert_eq!(list(&daemon, &["--code", "http_status"]), std::slice::from_ref(&dead));
    assert!(list(&daemon, &["--code", "expired"]).is_empty());
    assert!(list(&daemon, &["--type", "order.created"]).is_empty());
    assert_eq!(list(&daemon, &["--since", "1h"]), all);
    assert!(list(&daemon, &["--until", "1h"]).is_empty());
    // A page at a time.
    let (mut found, mut next) = (Vec::new(), None);
    loop {
        let mut command = vec!["events", "list", "crm", "--json", "--limit", "1"];
        command.extend(next.as_deref().map(|next| ["--next", next]).into_iter().flatten());
        let page = daemon.cli_json(&command);
        let models = page["models"].as_array().unwrap();
        found.extend(models.iter().map(|one| one["event"].as_str().unwrap().to_owned()));
        match page["pagination"]["next"].as_str() {
            Some(cursor) => next = Some(cursor.to_owned()),
            None => break,
        }
    }
    assert_eq!(found, all);
    refused(&daemon, &["events", "list", "crm", "--next", "x"], "cursor");
    refused(&daemon, &["events", "list", "crm", "--state", "lost"], "state");
    refused(&daemon, &["events", "list", "nobody"], "nobody");
    daemon.stop();
}

/// What is cancelled is a dead letter and never sent, also after a kill, and can be sent again.
#[test]
fn what_waits_is_cancelled_one_by_one() {
    let receiver = Receiver::start(Behaviour::status(503));
    let site = Site::new();
    site.connection("crm", &receiver.url("crm"), LATE);
    let mut daemon = Daemon::start(&site);
    let tried = post(&site, "crm", "tried");
    eventually("it waits for its retry", SOON, || scheduled(&daemon, "crm") == 1.0);
    let held = daemon.cli(&["pause", "crm", "--until-restart"]);
    assert!(held.status.success(), "{held:?}");
    let [first, second, third] = ["first", "second", "third"].map(|body| post(&site, "crm", body));
    assert_eq!(act(&daemon, "cancel", &second), "cancelled");
    assert_eq!(act(&daemon, "cancel", &tried), "cancelled");
    refused(&daemon, &["events", "cancel", &second], "no delivery");
    let labels = [("connection", "crm"), ("outcome", "cancelled")];
    assert_eq!(daemon.metrics().sum("posthaste_deliveries_total", &labels), 2.0);
    daemon.metrics().assert_conserved(&["crm"]);
    daemon.kill();
    receiver.behave(Behaviour::ok());
    let mut daemon = Daemon::start(&site);
    eventually("the others are delivered", SOON, || receiver.delivered("crm") == 2);
    daemon.drained(&["crm"]);
    let came: Vec<_> =
        receiver.arrivals().into_iter().filter(|one| one.succeeded()).map(|one| one.id).collect();
    assert_eq!(came, [first, third]);
    let dead = daemon.cli_json(&["dead", "list", "--code", "cancelled", "--json"]);
    let dead = dead["models"].as_array().unwrap();
    let attempts = |id: &str| {
        let letter = dead.iter().find(|letter| letter["id"] == id).unwrap();
        letter["attempts"].as_u64()
    };
    assert_eq!((dead.len(), attempts(&second), attempts(&tried)), (2, Some(0), Some(1)));
    let again = daemon.cli(&["dead", "replay", "crm", &second]);
    assert!(again.status.success(), "{again:?}");
    eventually("it is delivered after all", SOON, || receiver.delivered("crm") == 3);
    daemon.drained(&["crm"]);
    daemon.stop();
}

/// What has begun ends as it ends, and the answer says so.
#[test]
fn an_attempt_under_way_is_not_cancelled() {
    let receiver = Receiver::start(Behaviour::ok().after(Duration::from_secs(2)));
    let site = Site::new();
    site.connection("crm", &receiver.url("crm"), LATE);
    let mut daemon = Daemon::start(&site);
    let id = post(&site, "crm", "one");
    eventually("it is under way", SOON, || receiver.most_in_flight() == 1);
    refused(&daemon, &["events", "cancel", &id], "under way");
    refused(&daemon, &["events", "retry", &id], "under way");
    eventually("it is delivered", SOON, || receiver.delivered("crm") == 1);
    daemon.drained(&["crm"]);
    assert_eq!(receiver.count(), 1);
    daemon.stop();
}

/// Says 503 to the first event.
fn first_fails(request: &Message) -> u16 {
    if request.body == b"first" { 503 } else { 200 }
}

/// In an order, what stood behind a cancelled one goes on, and a retry comes before what stands behind it.
#[test]
fn an_order_goes_on_without_what_is_cancelled() {
    for (action, result) in [("cancel", "cancelled"), ("retry", "retried")] {
        let receiver = Receiver::start(Behaviour::Decide(first_fails));
        let site = Site::new();
        site.connection("crm", &receiver.url("crm"), &format!("{LATE}\nordering = \"strict\""));
        let mut daemon = Daemon::start(&site);
        let first = post(&site, "crm", "first");
        let [second, third] = ["second", "third"].map(|body| post(&site, "crm", body));
        eventually("the first waits for its retry", SOON, || scheduled(&daemon, "crm") == 1.0);
        let expected = if action == "retry" {
            receiver.behave(Behaviour::ok());
            vec![first.clone(), second, third]
        } else {
            vec![second, third]
        };
        assert_eq!(act(&daemon, action, &first), result);
        eventually("the others are delivered", SOON, || {
            receiver.delivered("crm") == expected.len()
        });
        let came = receiver.arrivals().into_iter().filter(|one| one.succeeded());
        assert_eq!(came.map(|one| one.id).collect::<Vec<_>>(), expected);
        daemon.drained(&["crm"]);
        daemon.stop();
    }
}
