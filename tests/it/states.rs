//! Paused, disabled, removed: what waits stays in the books, and goes on when the files say so.

use std::fs;

use crate::harness::{Behaviour, Daemon, Receiver, SOON, Site, eventually};

/// Spec 11: paused accepts and holds; disabled refuses and holds what was queued; active again delivers all of it.
#[test]
fn paused_and_disabled_connections_hold_their_queue() {
    let receiver = Receiver::start(Behaviour::ok());
    let site = Site::new();
    site.connection("crm", &receiver.url("crm"), "state = \"paused\"");
    let mut daemon = Daemon::start(&site);
    let mut producer = site.producer();
    for _ in 0..20 {
        assert_eq!(producer.post("/v1/events", &[], b"x").unwrap().status, 202);
    }
    assert_held(&daemon, 20.0);
    edit(&daemon, || site.connection("crm", &receiver.url("crm"), "state = \"disabled\""));
    let direct = producer.post("/v1/connections/crm/events", &[], b"x").unwrap();
    assert_eq!(direct.status, 409, "{}", direct.json);
    let ignored = producer.post("/v1/events", &[], b"x").unwrap();
    assert_eq!((ignored.status, &ignored.json["connections"]), (202, &0.into()));
    assert_eq!(ignored.json["ignored"], 1, "{}", ignored.json);
    daemon.kill();
    let mut daemon = Daemon::start(&site);
    assert_held(&daemon, 20.0);
    assert_eq!(receiver.count(), 0);
    edit(&daemon, || site.connection("crm", &receiver.url("crm"), "state = \"active\""));
    eventually("all arrive", SOON, || receiver.delivered("crm") == 20);
    daemon.drained(&["crm"]);
    daemon.stop();
    assert_eq!(receiver.count(), 20);
}

/// Spec 11: a removed connection's queue is held over restarts and goes on when the name is back; with
/// `on_remove = "discard"` it is cancelled, and counted.
#[test]
fn a_removed_connection_is_held_or_discarded_as_it_said() {
    let receiver = Receiver::refusing();
    receiver.behave(Behaviour::ok());
    let site = Site::new();
    site.connection("kept", &receiver.url("kept"), "");
    site.connection("gone", &receiver.url("gone"), "on_remove = \"discard\"");
    site.connection("other", &receiver.url("other"), "source = \"other\"");
    let mut daemon = Daemon::start(&site);
    let mut producer = site.producer();
    for _ in 0..10 {
        assert_eq!(producer.post("/v1/events", &[], b"x").unwrap().status, 202);
    }
    let remove = |name: &str| fs::remove_file(site.connections().join(name)).unwrap();
    edit(&daemon, || {
        remove("gone.toml");
        remove("kept.toml");
    });
    assert_eq!(producer.post("/v1/events", &[], b"x").unwrap().code(), "no_connection");
    eventually("the orphans are shown", SOON, || {
        daemon.metrics().sum("posthaste_orphaned_events", &[]) == 10.0
    });
    assert!(!daemon.metrics().text.contains("connection=\"kept\""), "no series without a name");
    let status = daemon.cli_json(&["status", "--json"]).to_string();
    assert!(status.contains("\"kept\"") && !status.contains("\"gone\""), "{status}");
    daemon.kill();
    receiver.listen();
    let mut daemon = Daemon::start(&site);
    assert_eq!(receiver.count(), 0);
    edit(&daemon, || {
        site.connection("kept", &receiver.url("kept"), "");
        site.connection("gone", &receiver.url("gone"), "");
    });
    eventually("what was held arrives", SOON, || receiver.delivered("kept") == 10);
    daemon.drained(&["kept", "gone"]);
    assert_eq!(receiver.delivered("gone"), 0);
    daemon.stop();
}

/// Changes files and waits until the daemon has taken them.
fn edit(daemon: &Daemon<'_>, change: impl FnOnce()) {
    let generation = || daemon.metrics().sum("posthaste_config_generation", &[]);
    let before = generation();
    change();
    daemon.signal(rustix::process::Signal::HUP);
    eventually("the edit is taken", SOON, || generation() > before);
}

#[track_caller]
fn assert_held(daemon: &Daemon<'_>, events: f64) {
    let held = [("connection", "crm"), ("state", "held")];
    eventually("all are held", SOON, || {
        daemon.metrics().sum("posthaste_queue_events", &held) == events
    });
    daemon.metrics().assert_conserved(&["crm"]);
}
