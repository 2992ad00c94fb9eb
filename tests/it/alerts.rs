//! Alerts that are events: what happens to one connection arrives at another, once in its interval, and never in a loop.

use std::fs;

use rustix::process::Signal;

use crate::harness::{Behaviour, Daemon, Receiver, SOON, Site, eventually};

/// What arrived: type, count, message.
type Told = (String, u64, String);

/// The connection that delivers alerts; what they say is put into headers.
fn pager(site: &Site, receiver: &Receiver, rest: &str) {
    let headers = "headers = { x-type = \"{{ event.type }}\", x-count = \"{{ body.count }}\", x-message = \"{{ body.message }}\" }";
    // Nobody else posts to its source.
    let rest = format!("source = \"alerts\"\n{headers}\n{rest}");
    site.connection("pager", &receiver.url("pager"), &rest);
}

fn told(receiver: &Receiver) -> Vec<Told> {
    let one = |arrival: &crate::harness::receiver::Arrival| {
        let header = |name: &str| arrival.header(name).unwrap_or_default().to_owned();
        assert_eq!(header("content-type"), "application/json");
        (header("x-type"), header("x-count").parse().unwrap(), header("x-message"))
    };
    receiver.arrivals().iter().map(one).collect()
}

/// How many alerts of a type arrived, and what they count together.
fn sum(receiver: &Receiver, kind: &str) -> (usize, u64) {
    let told = told(receiver);
    let counts: Vec<u64> =
        told.iter().filter(|(is, ..)| is == kind).map(|(_, count, _)| *count).collect();
    (counts.len(), counts.iter().sum())
}

fn alert(name: &str, on: &str, rest: &str) -> String {
    format!("[[alert]]\nname = \"{name}\"\non = {on}\nto = \"pager\"\n{rest}\n")
}

fn post(site: &Site, path: &str, count: usize) {
    let mut producer = site.producer();
    for _ in 0..count {
        assert_eq!(producer.post(path, &[], b"{}").unwrap().status, 202);
    }
}

/// Replaces the daemon's file in one step: it is watched.
fn put(site: &Site, text: &str) {
    let temporary = site.path().join("posthaste.tmp");
    fs::write(&temporary, text).unwrap();
    fs::rename(temporary, site.config()).unwrap();
}

fn counter(daemon: &Daemon<'_>, name: &str, alert: &str) -> f64 {
    daemon.metrics().sum(name, &[("alert", alert)])
}

/// An endpoint fails: the first failure, the dead letters and the opened breaker are told, repeats only with their number.
#[test]
fn what_fails_is_told_once_and_its_repeats_are_counted() {
    let (target, receiver) =
        (Receiver::start(Behaviour::status(500)), Receiver::start(Behaviour::ok()));
    let failures =
        alert("failures", "[\"delivery_failed\"]", "which = \"both\"\nmin_interval = \"1s\"");
    let breaker =
        alert("breaker", "[\"breaker_open\"]", "connections = [\"c*\"]\nmin_interval = \"1h\"");
    let site = Site::with("", &format!("{failures}{breaker}"));
    let retry = "retry = { strategy = \"linear\", interval = \"20ms\", count = 2 }";
    site.connection("crm", &target.url("crm"), retry);
    pager(&site, &receiver, "");
    let check = crate::harness::daemon::posthaste(&site, &["check"]);
    let summary = String::from_utf8(check.stdout).unwrap();
    assert!(summary.contains("alert breaker tells pager of breaker_open"), "{summary}");
    let mut daemon = Daemon::start(&site);
    post(&site, "/v1/events", 8);
    eventually("every dead letter is told", SOON, || {
        sum(&receiver, "posthaste.delivery.dead").1 == 8
    });
    eventually("and every first failure", SOON, || {
        sum(&receiver, "posthaste.delivery.failed").1 == 8
    });
    let (dead, failed) = (
        sum(&receiver, "posthaste.delivery.dead").0,
        sum(&receiver, "posthaste.delivery.failed").0,
    );
    assert!(dead < 8 && failed < 8, "{dead} and {failed} alerts for 8 of each");
    // The breaker opens again and again within the hour.
    eventually("openings", SOON, || {
        let opened =
            daemon.metrics().sum("posthaste_breaker_opened_total", &[("connection", "crm")]);
        let suppressed = counter(&daemon, "posthaste_alerts_suppressed_total", "breaker");
        opened >= 3.0 && suppressed >= 2.0
    });
    assert_eq!(sum(&receiver, "posthaste.breaker.opened"), (1, 1));
    assert_eq!(counter(&daemon, "posthaste_alerts_total", "breaker"), 1.0);
    let told = told(&receiver);
    let about = |kind: &str| told.iter().find(|(is, ..)| is == kind).unwrap().2.clone();
    assert_eq!(
        about("posthaste.delivery.dead"),
        "A delivery became a dead letter at crm: http_status, status 500"
    );
    assert!(about("posthaste.breaker.opened").contains("crm"));
    let status = daemon.cli_json(&["status", "--json"]);
    let shown = &status["alerts"][1];
    assert_eq!((&shown["name"], &shown["raised"]), (&"breaker".into(), &1.into()), "{status}");
    assert_eq!(shown["last"]["connection"], "crm");
    assert_eq!(daemon.metrics().sum("posthaste_alerts_lost_total", &[]), 0.0);
    daemon.drained(&["crm", "pager"]);
    daemon.stop();
}

/// Alerts come and go with reloads; a 410, a broken file and an old backlog are told.
#[test]
fn what_the_daemon_does_by_itself_is_told() {
    let (target, receiver) =
        (Receiver::start(Behaviour::status(410)), Receiver::start(Behaviour::ok()));
    let site = Site::new();
    site.connection("gone", &target.url("gone"), "source = \"gone\"");
    site.connection("held", &target.url("held"), "source = \"held\"\nstate = \"paused\"");
    pager(&site, &receiver, "");
    let mut daemon = Daemon::start(&site);
    let generation = || daemon.metrics().sum("posthaste_config_generation", &[]);
    let configure = |tables: &str| {
        let before = generation();
        site.configure("", tables);
        daemon.signal(Signal::HUP);
        eventually("the edit is taken", SOON, || generation() > before);
    };
    configure(&alert(
        "ops",
        "[\"disabled\", \"config_rejected\", \"backlog_age\"]",
        "threshold = \"1s\"",
    ));
    post(&site, "/v1/sources/gone/events", 1);
    post(&site, "/v1/sources/held/events", 1);
    let kinds = |kind: &str| told(&receiver).iter().filter(|(is, ..)| is == kind).count();
    eventually("the 410 is told", SOON, || kinds("posthaste.connection.disabled") == 1);
    eventually("the backlog is told", SOON, || kinds("posthaste.backlog.old") == 1);
    let good = fs::read_to_string(site.config()).unwrap();
    put(&site, &format!("nonsense = 1\n{good}"));
    daemon.signal(Signal::HUP);
    eventually("the broken file is told", SOON, || kinds("posthaste.config.rejected") == 1);
    let told = told(&receiver);
    let about = |kind: &str| told.iter().find(|(is, ..)| is == kind).unwrap().2.clone();
    assert!(about("posthaste.connection.disabled").contains("gone answered 410"), "{told:?}");
    assert!(about("posthaste.backlog.old").contains("held"), "{told:?}");
    let rejected = about("posthaste.config.rejected");
    assert!(rejected.contains("posthaste.toml:1:1") && rejected.contains("nonsense"), "{rejected}");
    // Without the alert nothing is told any more.
    let before = receiver.count();
    configure("");
    assert_eq!(daemon.cli_json(&["status", "--json"])["alerts"], serde_json::json!([]));
    put(&site, &format!("nonsense = 1\n{good}"));
    daemon.signal(Signal::HUP);
    eventually("it is refused", SOON, || {
        daemon.metrics().sum("posthaste_config_last_reload_successful", &[]) == 0.0
    });
    daemon.drained(&["pager"]);
    assert_eq!(receiver.count(), before);
    daemon.stop();
}

/// Whatever becomes of the connection that delivers alerts, it makes no alert.
#[test]
fn an_alert_that_cannot_be_delivered_makes_no_other() {
    let (target, receiver) =
        (Receiver::start(Behaviour::status(410)), Receiver::start(Behaviour::status(500)));
    let on = "[\"delivery_failed\", \"breaker_open\", \"disabled\", \"backlog_age\"]";
    let all = alert("all", on, "which = \"both\"\nthreshold = \"1s\"\nmin_interval = \"1s\"");
    let site = Site::with("", &all);
    site.connection("first", &target.url("first"), "source = \"first\"");
    site.connection("second", &target.url("second"), "source = \"second\"");
    let retry = "retry = { strategy = \"linear\", interval = \"10ms\", count = 2 }";
    pager(&site, &receiver, &format!("{retry}\nbreaker = {{ consecutive_failures = 1 }}"));
    let mut daemon = Daemon::start(&site);
    post(&site, "/v1/sources/first/events", 1);
    let of_pager = |name, label: &[(&str, &str)]| {
        daemon.metrics().sum(name, &[&[("connection", "pager")], label].concat())
    };
    eventually("the pager's breaker opens, and alerts are dead", SOON, || {
        of_pager("posthaste_breaker_opened_total", &[]) >= 2.0
            && of_pager("posthaste_deliveries_total", &[("outcome", "dead")]) >= 2.0
    });
    // The one after all that could have been told of the pager.
    post(&site, "/v1/sources/second/events", 1);
    let of_second = || {
        told(&receiver).iter().any(|(kind, _, message)| {
            kind == "posthaste.connection.disabled" && message.contains("second")
        })
    };
    eventually("the second one is told", SOON, of_second);
    let told = told(&receiver);
    assert!(told.iter().all(|(.., message)| !message.contains("pager")), "{told:?}");
    // A delivery and a connection each, of both.
    let raised = daemon.cli_json(&["status", "--json"])["alerts"][0]["raised"].clone();
    assert_eq!(raised, 4, "{told:?}");
    daemon.stop();
}
