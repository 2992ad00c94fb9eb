//! A connection that is given another name keeps what it has.

use std::fs;
use std::time::Duration;

use crate::harness::{Behaviour, Daemon, Receiver, SOON, Site, eventually};

const HELD: &str = "state = \"paused\"\nsource = \"orders\"";

/// Posts 10 events and waits until they are held.
fn hold_ten(daemon: &Daemon<'_>, site: &Site) {
    let mut producer = site.producer();
    for _ in 0..10 {
        let answer = producer.post("/v1/sources/orders/events", &[], b"x").unwrap();
        assert_eq!(answer.status, 202, "{}", answer.json);
    }
    held(daemon, "old", 10.0);
}

#[track_caller]
fn held(daemon: &Daemon<'_>, name: &str, events: f64) {
    let labels = [("connection", name), ("state", "held")];
    eventually("all are held", SOON, || {
        daemon.metrics().sum("posthaste_queue_events", &labels) == events
    });
    daemon.metrics().assert_conserved(&[name]);
}

fn reload(daemon: &Daemon<'_>) {
    let generation = || daemon.metrics().sum("posthaste_config_generation", &[]);
    let before = generation();
    daemon.signal(rustix::process::Signal::HUP);
    eventually("the edit is taken", SOON, || generation() > before);
}

/// Spec 11, `renamed_from`: the queue is handed over by a reload, whatever `on_remove` says of the old name; a kill right
/// after it changes nothing, the field may stay, and the old name is nobody's.
#[test]
fn a_renamed_connection_keeps_its_queue_over_reloads_and_kills() {
    let receiver = Receiver::start(Behaviour::ok());
    let site = Site::with("reload = \"manual\"", "");
    site.connection("old", &receiver.url("old"), &format!("{HELD}\non_remove = \"discard\""));
    let mut daemon = Daemon::start(&site);
    hold_ten(&daemon, &site);
    fs::remove_file(site.connections().join("old.toml")).unwrap();
    let renamed = format!("{HELD}\nrenamed_from = \"old\"");
    site.connection("new", &receiver.url("new"), &renamed);
    reload(&daemon);
    held(&daemon, "new", 10.0);
    for _ in 0..2 {
        daemon.kill();
        daemon = Daemon::start(&site);
        held(&daemon, "new", 10.0);
        assert_eq!(daemon.metrics().sum("posthaste_orphaned_events", &[]), 0.0);
    }
    let status = daemon.cli_json(&["status", "--json"]).to_string();
    assert!(status.contains("\"new\"") && !status.contains("\"old\""), "{status}");
    let active = renamed.replace("paused", "active");
    site.connection("new", &receiver.url("new"), &active);
    reload(&daemon);
    eventually("all arrive under the new name", SOON, || receiver.delivered("new") == 10);
    daemon.drained(&["new"]);
    daemon.stop();
    assert_eq!((receiver.count(), receiver.delivered("old")), (10, 0));
}

/// The files were edited while the daemon was down: the start hands over, also what is dead.
#[test]
fn a_start_hands_over_what_a_renamed_connection_had() {
    let receiver = Receiver::start(Behaviour::status(400));
    let site = Site::with("reload = \"manual\"", "");
    site.connection("old", &receiver.url("old"), "");
    let mut daemon = Daemon::start(&site);
    assert_eq!(site.producer().post("/v1/events", &[], b"x").unwrap().status, 202);
    let dead = |daemon: &Daemon<'_>, name: &str| {
        daemon.metrics().sum("posthaste_dead_letters", &[("connection", name)]) == 1.0
    };
    eventually("it is dead", SOON, || dead(&daemon, "old"));
    eventually("its attempt is recorded", SOON, || {
        let attempts = daemon.cli_json(&["attempts", "old", "--json"]);
        attempts.to_string().contains("http_status")
    });
    daemon.stop();
    fs::remove_file(site.connections().join("old.toml")).unwrap();
    site.connection("new", &receiver.url("new"), "renamed_from = \"old\"");
    receiver.behave(Behaviour::ok());
    let mut daemon = Daemon::start(&site);
    eventually("it is the new name's", SOON, || dead(&daemon, "new"));
    let attempts = daemon.cli_json(&["attempts", "new", "--json"]).to_string();
    assert!(attempts.contains("\"old\"") && attempts.contains("http_status"), "{attempts}");
    let replayed = daemon.cli(&["dead", "replay", "new", "--all"]);
    assert!(replayed.status.success(), "{replayed:?}");
    eventually("it arrives", SOON, || receiver.delivered("new") == 1);
    daemon.drained(&["new"]);
    daemon.stop();
}

/// `delay`: nothing before its time, all of it then; a kill in between and an edit of the field change neither.
#[test]
fn delayed_events_arrive_when_they_are_due_also_after_a_kill() {
    const DELAY: Duration = Duration::from_millis(2500);
    let receiver = Receiver::start(Behaviour::ok());
    let site = Site::with("reload = \"manual\"", "");
    site.connection("crm", &receiver.url("crm"), "delay = \"2500ms\"");
    let mut daemon = Daemon::start(&site);
    let mut producer = site.producer();
    let first = crate::harness::now();
    for _ in 0..20 {
        assert_eq!(producer.post("/v1/events", &[], b"x").unwrap().status, 202);
    }
    let posting = first.elapsed();
    let scheduled = [("connection", "crm"), ("state", "scheduled")];
    let waits = |daemon: &Daemon<'_>| daemon.metrics().sum("posthaste_queue_events", &scheduled);
    eventually("all are scheduled", SOON, || waits(&daemon) == 20.0);
    daemon.metrics().assert_conserved(&["crm"]);
    daemon.kill();
    // What was accepted keeps its delay.
    site.connection("crm", &receiver.url("crm"), "delay = \"7d\"");
    let mut daemon = Daemon::start(&site);
    assert!(first.elapsed() > DELAY || waits(&daemon) == 20.0);
    eventually("all arrive", SOON, || receiver.delivered("crm") == 20);
    let early = receiver.arrivals().iter().map(|arrival| arrival.at).min().unwrap();
    let late = receiver.arrivals().iter().map(|arrival| arrival.at).max().unwrap();
    assert!(early.duration_since(first) >= DELAY, "{:?}", early.duration_since(first));
    println!(
        "the last came {:?} after its time",
        late.duration_since(first).saturating_sub(posting + DELAY)
    );
    assert!(receiver.arrivals().iter().all(|arrival| arrival.attempt == 1));
    daemon.drained(&["crm"]);
    daemon.stop();
}
