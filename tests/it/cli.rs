//! The subcommands against a running daemon.

use std::process::Command;

use crate::harness::{Behaviour, Daemon, Receiver, SOON, Site, binary, eventually};

/// Promise 2 of spec 2: what is over without success is kept, listed, shown, and sent again when asked: the same id and
/// bytes, attempts from 1 again, marked as a replay.
#[test]
fn dead_letter_is_listed_and_replayed() {
    let receiver = Receiver::start(Behaviour::status(404));
    let site = Site::new();
    site.connection("crm", &receiver.url("crm"), "");
    let mut daemon = Daemon::start(&site);
    let answer = site.producer().post("/v1/events", &[], b"dead or alive").unwrap();
    let id = answer.id();
    let dead = [("connection", "crm"), ("outcome", "dead")];
    eventually("it is dead", SOON, || {
        daemon.metrics().sum("posthaste_deliveries_total", &dead) == 1.0
    });
    for restart in [false, true] {
        if restart {
            daemon.kill();
            daemon = Daemon::start(&site);
        }
        let listed = daemon.cli_json(&["dead", "list", "--json"]).to_string();
        assert!(listed.contains(id) && listed.contains("http_status"), "{listed}");
    }
    let body = daemon.cli(&["dead", "show", "crm", id, "--body"]);
    assert_eq!(body.stdout, b"dead or alive", "{body:?}");
    let shown = daemon.cli(&["dead", "show", "crm", id]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains(id), "{shown:?}");
    receiver.behave(Behaviour::ok());
    let replayed = daemon.cli(&["dead", "replay", "crm", id]);
    assert!(replayed.status.success(), "{replayed:?}");
    eventually("it is delivered", SOON, || receiver.delivered("crm") == 1);
    let arrivals = receiver.arrivals();
    let last = arrivals.last().unwrap();
    assert_eq!((last.id.as_str(), last.attempt), (id, 1));
    assert_eq!(last.sha256, arrivals[0].sha256);
    assert!(last.header("posthaste-replay").is_some(), "{:?}", last.headers);
    assert_eq!(arrivals[0].header("posthaste-replay"), None);
    let metrics = daemon.drained(&["crm"]);
    let labels = [("connection", "crm")];
    assert_eq!(metrics.sum("posthaste_deliveries_replayed_total", &labels), 1.0);
    let listed = daemon.cli_json(&["dead", "list", "--json"]).to_string();
    assert!(!listed.contains(id), "{listed}");
    let again = daemon.cli(&["dead", "replay", "crm", id]);
    assert_eq!(again.status.code(), Some(1), "nothing is dead any more: {again:?}");
    daemon.stop();
}

/// Spec 11: replaying what is live is refused, and the refusal says so.
#[test]
fn what_is_on_its_way_is_not_replayed() {
    let receiver = Receiver::start(Behaviour::status(503));
    let site = Site::new();
    site.connection("crm", &receiver.url("crm"), "");
    let mut daemon = Daemon::start(&site);
    let answer = site.producer().post("/v1/events", &[], b"on its way").unwrap();
    eventually("it was tried", SOON, || !receiver.arrivals().is_empty());
    let replayed = daemon.cli(&["dead", "replay", "crm", answer.id()]);
    assert_eq!(replayed.status.code(), Some(1), "{replayed:?}");
    let said = String::from_utf8_lossy(&replayed.stderr);
    assert!(said.contains("on its way already"), "{said}");
    daemon.kill();
}

/// `send` posts what it is given, `status` shows the connection.
#[test]
fn send_and_status_talk_to_the_daemon() {
    let receiver = Receiver::start(Behaviour::ok());
    let site = Site::new();
    site.connection("crm", &receiver.url("crm"), "");
    let mut daemon = Daemon::start(&site);
    let file = site.path().join("event.json");
    std::fs::write(&file, "{\"a\":1}").unwrap();
    let sent = daemon.cli(&["send", &file.display().to_string()]);
    assert!(sent.status.success(), "{sent:?}");
    eventually("it arrives", SOON, || receiver.delivered("crm") == 1);
    assert_eq!(receiver.arrivals()[0].length, 7);
    let status = daemon.cli_json(&["status", "--json"]).to_string();
    assert!(status.contains("\"crm\""), "{status}");
    assert!(String::from_utf8_lossy(&daemon.cli(&["status"]).stdout).contains("crm"));
    daemon.stop();
    let gone = daemon.cli(&["status"]);
    assert_eq!(gone.status.code(), Some(1), "{gone:?}");
    let said = String::from_utf8_lossy(&gone.stderr);
    assert!(said.contains("admin.sock"), "it names where nobody listens: {said}");
}

/// `check` says what the daemon would do, and how much memory it may take.
#[test]
fn check_sums_up_a_good_configuration() {
    let site = Site::new();
    site.connection("crm", "http://127.0.0.1:9/crm", "");
    let output = crate::harness::daemon::posthaste(&site, &["check"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).to_lowercase();
    assert!(text.contains("memory") && text.contains("mib"), "{text}");
}

/// The README's first command, without the staying up.
#[test]
fn demo_once_exits_0() {
    let output = Command::new(binary()).args(["demo", "--once"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

/// Completions and help come from the same table as the parser; a wrong word is 2.
#[test]
fn help_and_completions_print() {
    for shell in ["bash", "zsh", "fish"] {
        let output = Command::new(binary()).args(["completions", shell]).output().unwrap();
        assert!(output.status.success() && output.stdout.len() > 500, "{shell}: {output:?}");
    }
    for command in ["run", "check", "send", "dead", "status", "demo", "listen"] {
        let output = Command::new(binary()).args([command, "--help"]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("xample"), "{command}: {text}");
    }
    let wrong = Command::new(binary()).arg("rnu").output().unwrap();
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
}

/// `listen` is a receiver for development: it answers as told, prints a line of JSON for each request, and ends by itself.
#[test]
fn listen_receives_and_prints_what_arrives() {
    let address = crate::harness::free_address();
    let child = Command::new(binary())
        .args(["listen", &address.to_string(), "--status", "201", "--count", "3", "--json"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    for number in 0..3 {
        let id = format!("evt_{number}");
        let mut answer = None;
        eventually("it answers", SOON, || {
            let mut producer = crate::harness::Producer::tcp(address);
            answer = producer.post("/hook", &[("webhook-id", &id)], b"hello").ok();
            answer.is_some()
        });
        assert_eq!(answer.unwrap().status, 201);
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3, "{text}");
    for (number, line) in lines.iter().enumerate() {
        assert!(line.to_string().contains(&format!("evt_{number}")), "{line}");
    }
}
