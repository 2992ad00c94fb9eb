//! Politeness, over the built binary: the breaker, connections that the daemon holds, expiry.

use std::time::Duration;

use crate::harness::scrape::Scrape;
use crate::harness::{Behaviour, Daemon, Receiver, SOON, Site, eventually};

const QUICK: &str = "retry = { interval = \"50ms\", max_interval = \"50ms\", jitter = \"none\" }";

fn post(site: &Site, count: usize) {
    let mut producer = site.producer();
    for _ in 0..count {
        assert_eq!(producer.post("/v1/events", &[], b"x").unwrap().status, 202);
    }
}

fn sum(metrics: &Scrape, name: &str, label: (&str, &str)) -> f64 {
    metrics.sum(name, &[("connection", "crm"), label])
}

/// Changes files and waits until the daemon has taken them.
fn edit(daemon: &Daemon<'_>, change: impl FnOnce()) {
    let generation = || daemon.metrics().sum("posthaste_config_generation", &[]);
    let before = generation();
    change();
    daemon.signal(rustix::process::Signal::HUP);
    eventually("the edit is taken", SOON, || generation() > before);
}

/// What `posthaste status` says of `crm`.
fn status(daemon: &Daemon<'_>) -> String {
    let output = daemon.cli(&["status"]);
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().find(|line| line.starts_with("crm")).unwrap_or_default().to_owned()
}

fn suspended(daemon: &Daemon<'_>, cause: &str) -> bool {
    sum(&daemon.metrics(), "posthaste_connection_suspended", ("cause", cause)) == 1.0
}

/// Spec 3, `breaker`: with an endpoint that refuses, the queue is held and not tried; it is all delivered on first attempts
/// when the endpoint is back.
#[test]
fn an_open_breaker_holds_the_queue_and_spends_no_attempts() {
    let receiver = Receiver::refusing();
    receiver.behave(Behaviour::ok());
    let site = Site::new();
    let breaker = "breaker = { open_for = \"2s\", open_for_max = \"2s\" }";
    site.connection("crm", &receiver.url("crm"), &format!("{QUICK}\n{breaker}"));
    let mut daemon = Daemon::start(&site);
    post(&site, 1_000);
    eventually("it opens and holds", SOON, || {
        let metrics = daemon.metrics();
        sum(&metrics, "posthaste_breaker_state", ("state", "open")) == 1.0
            && sum(&metrics, "posthaste_held_events", ("cause", "breaker")) > 900.0
    });
    let shown = status(&daemon);
    assert!(shown.contains("active (breaker open)"), "{shown}");
    // Three openings later still only probes were made.
    eventually("probes", SOON, || {
        daemon.metrics().sum("posthaste_breaker_opened_total", &[("connection", "crm")]) >= 3.0
    });
    let refused = daemon.metrics();
    let attempts = refused.sum("posthaste_delivery_attempts_total", &[("connection", "crm")]);
    assert!(attempts < 12.0, "{attempts} attempts");
    refused.assert_conserved(&["crm"]);
    receiver.listen();
    eventually("all arrive", SOON, || receiver.delivered("crm") == 1_000);
    let first = receiver.arrivals().iter().filter(|arrival| arrival.attempt == 1).count();
    assert!(first > 985, "{first} on the first attempt");
    let metrics = daemon.drained(&["crm"]);
    assert_eq!(sum(&metrics, "posthaste_breaker_state", ("state", "closed")), 1.0);
    assert_eq!(sum(&metrics, "posthaste_held_events", ("cause", "breaker")), 0.0);
    daemon.stop();
    let log = daemon.stderr();
    assert!(log.contains("breaker is open") && log.contains("breaker is closed"), "{log}");
}

/// Spec 5: 410 is a dead letter, cause `gone`, and the connection is disabled, loudly, until somebody enables it, also over
/// a restart.
#[test]
fn gone_disables_until_it_is_enabled() {
    let receiver = Receiver::start(Behaviour::status(410));
    let site = Site::new();
    site.connection("crm", &receiver.url("crm"), "max_in_flight = 1");
    let mut daemon = Daemon::start(&site);
    post(&site, 1);
    eventually("it is disabled", SOON, || suspended(&daemon, "gone"));
    assert!(daemon.stderr().contains("410"), "{}", daemon.stderr());
    let dead = daemon.cli_json(&["dead", "list", "--json"]);
    assert_eq!(dead["models"][0]["cause"], "gone", "{dead}");
    daemon.kill();
    let mut daemon = Daemon::start(&site);
    assert!(suspended(&daemon, "gone"));
    assert!(status(&daemon).contains("disabled (gone)"), "{}", status(&daemon));
    let mut producer = site.producer();
    let ignored = producer.post("/v1/events", &[], b"x").unwrap();
    assert_eq!((&ignored.json["connections"], &ignored.json["ignored"]), (&0.into(), &1.into()));
    let direct = producer.post("/v1/connections/crm/events", &[], b"x").unwrap();
    assert_eq!(direct.status, 409, "{}", direct.json);
    assert_eq!(receiver.count(), 1);
    receiver.behave(Behaviour::ok());
    let enabled = daemon.cli_json(&["enable", "crm", "--json"]);
    assert_eq!((&enabled["state"], &enabled["suspended"]), (&"active".into(), &().into()));
    assert!(!suspended(&daemon, "gone"));
    post(&site, 3);
    eventually("it delivers again", SOON, || receiver.delivered("crm") == 3);
    daemon.drained(&["crm"]);
    daemon.kill();
    let mut daemon = Daemon::start(&site);
    assert!(!suspended(&daemon, "gone"), "enabled for good");
    daemon.stop();
}

/// Spec 11: what the daemon has disabled is held, and an edit of that connection, and of no other, lets it go on.
#[test]
fn an_edit_lets_a_gone_connection_go_on() {
    let receiver = Receiver::start(Behaviour::status(410).after(Duration::from_millis(300)));
    let other = Receiver::start(Behaviour::ok());
    let site = Site::new();
    site.connection("crm", &receiver.url("crm"), "max_in_flight = 1");
    site.connection("other", &other.url("other"), "");
    let mut daemon = Daemon::start(&site);
    post(&site, 20);
    eventually("it is disabled", SOON, || suspended(&daemon, "gone"));
    eventually("the rest is held", SOON, || {
        sum(&daemon.metrics(), "posthaste_held_events", ("cause", "gone")) == 19.0
    });
    edit(&daemon, || site.connection("other", &other.url("other"), "description = \"new\""));
    assert!(suspended(&daemon, "gone"));
    receiver.behave(Behaviour::ok());
    edit(&daemon, || site.connection("crm", &receiver.url("crm"), "max_in_flight = 2"));
    eventually("what was held arrives", SOON, || receiver.delivered("crm") == 19);
    assert!(!suspended(&daemon, "gone"));
    daemon.drained(&["crm", "other"]);
    // An edit while the daemon is down counts, too.
    receiver.behave(Behaviour::status(410));
    post(&site, 1);
    eventually("it is disabled again", SOON, || suspended(&daemon, "gone"));
    daemon.stop();
    site.connection("crm", &receiver.url("crm"), "max_in_flight = 1");
    let mut daemon = Daemon::start(&site);
    assert!(!suspended(&daemon, "gone"));
    assert!(daemon.stderr().contains("was edited"), "{}", daemon.stderr());
    daemon.stop();
}

/// Spec 3, `disable_after`: nothing but failure for so long disables the connection; its queue is kept.
#[test]
fn nothing_but_failure_disables_the_connection() {
    let receiver = Receiver::start(Behaviour::status(500));
    let site = Site::new();
    let off = "breaker = { enabled = false }\ndisable_after = \"1s\"";
    site.connection("crm", &receiver.url("crm"), &format!("{QUICK}\n{off}"));
    let mut daemon = Daemon::start(&site);
    post(&site, 5);
    eventually("it is disabled", SOON, || suspended(&daemon, "failing_too_long"));
    assert!(status(&daemon).contains("disabled (failing too long)"), "{}", status(&daemon));
    receiver.behave(Behaviour::ok());
    assert!(daemon.cli(&["resume", "crm"]).status.success());
    eventually("all arrive", SOON, || receiver.delivered("crm") == 5);
    daemon.drained(&["crm"]);
    daemon.stop();
}

/// Spec 11: where files cannot be edited, a pause lasts until `resume` or the next start.
#[test]
fn a_pause_until_restart_holds_and_ends_with_the_restart() {
    let receiver = Receiver::start(Behaviour::ok());
    let site = Site::new();
    site.connection("crm", &receiver.url("crm"), "");
    site.connection("held", &receiver.url("held"), "state = \"paused\"\nsource = \"held\"");
    let mut daemon = Daemon::start(&site);
    let pause = ["pause", "crm", "--until-restart", "--json"];
    for _ in 0..2 {
        let paused = daemon.cli_json(&pause);
        assert_eq!(paused["suspended"]["cause"], "paused_until_restart", "{paused}");
    }
    post(&site, 10);
    eventually("all are held", SOON, || {
        sum(&daemon.metrics(), "posthaste_held_events", ("cause", "paused_until_restart")) == 10.0
    });
    assert_eq!(receiver.count(), 0);
    assert!(daemon.cli(&["resume", "crm"]).status.success());
    eventually("all arrive", SOON, || receiver.delivered("crm") == 10);
    daemon.cli_json(&pause);
    post(&site, 10);
    daemon.kill();
    let mut daemon = Daemon::start(&site);
    eventually("all arrive after the restart", SOON, || receiver.delivered("crm") == 20);
    // What stands in a file is changed there.
    let refused = daemon.cli(&["pause", "held", "--until-restart"]);
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && text.contains("file"), "{text}");
    assert!(daemon.cli(&["resume", "held"]).status.success());
    let file = std::fs::read_to_string(site.connections().join("held.toml")).unwrap();
    assert!(file.contains("state = \"active\""), "{file}");
    let unknown = daemon.cli(&["enable", "nobody"]);
    assert!(String::from_utf8(unknown.stderr).unwrap().contains("nobody"));
    daemon.drained(&["crm"]);
    daemon.stop();
}

/// Spec 3, `expire_after`: what was held for too long is a dead letter without an attempt, and can be replayed no more.
#[test]
fn old_events_expire_without_an_attempt() {
    let receiver = Receiver::start(Behaviour::ok());
    let site = Site::new();
    let paused = "state = \"paused\"\nexpire_after = \"2s\"";
    site.connection("crm", &receiver.url("crm"), paused);
    let mut daemon = Daemon::start(&site);
    post(&site, 50);
    eventually("they are old", SOON, || {
        let age = "posthaste_queue_oldest_event_age_seconds";
        daemon.metrics().sum(age, &[("connection", "crm")]) >= 3.0
    });
    edit(&daemon, || site.connection("crm", &receiver.url("crm"), "expire_after = \"2s\""));
    let metrics = daemon.drained(&["crm"]);
    let dead = [("connection", "crm"), ("outcome", "dead")];
    assert_eq!(metrics.sum("posthaste_deliveries_total", &dead), 50.0);
    assert_eq!(receiver.count(), 0);
    let dead = daemon.cli_json(&["dead", "list", "--json"]);
    assert_eq!(
        (&dead["models"][0]["cause"], &dead["models"][0]["attempts"]),
        (&"expired".into(), &0.into())
    );
    post(&site, 1);
    eventually("a young one arrives", SOON, || receiver.delivered("crm") == 1);
    daemon.drained(&["crm"]);
    daemon.stop();
}
