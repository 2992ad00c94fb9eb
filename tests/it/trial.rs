//! `posthaste test` and the API's test: the way to a target, tried part by part.

use std::fs;

use serde_json::{Value as Json, json};

use crate::harness::site::connection;
use crate::harness::{Answer, Behaviour, Daemon, Producer, Receiver, SOON, Site, eventually};

fn verdict<'r>(report: &'r Json, name: &str) -> (&'r str, &'r str) {
    let parts = report["parts"].as_array().expect("parts");
    let part = parts.iter().find(|part| part["name"] == name).expect("a part");
    (part["verdict"].as_str().unwrap_or_default(), part["code"].as_str().unwrap_or_default())
}

fn ask(site: &Site, method: &str, path: &str, body: &Json) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    Producer::unix(&site.admin_unix()).exchange(head.as_bytes()).expect("an answer")
}

/// A connection in force is tried, without and with an event; nothing is counted, and what was sent is in the audit log.
#[test]
fn a_connection_is_tried_part_by_part() {
    let receiver = Receiver::start(Behaviour::ok());
    let site = Site::new();
    let secret = "[connection.auth.bearer]\ntoken = { file = \"token\" }\n";
    fs::write(site.connections().join("token"), "hunter2hunter2").unwrap();
    let token = site.connections().join("token").display().to_string();
    let secret = secret.replace("\"token\"", &format!("{token:?}"));
    site.connection("crm", &receiver.url("crm"), &secret);
    let mut daemon = Daemon::start(&site);

    let report = daemon.cli_json(&["test", "crm", "--json"]);
    assert_eq!((&report["ok"], verdict(&report, "connect")), (&json!(true), ("ok", "")));
    assert_eq!(verdict(&report, "send").0, "skipped");
    assert_eq!(receiver.count(), 0, "no event was asked for");

    let output = daemon.cli(&["test", "crm", "--send", "--data", "{\"n\":7}"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("the answer: 200"), "{text}");
    assert!(!text.contains("hunter2") && text.contains("authorization: ***"), "{text}");
    assert!(!text.contains('\u{1b}'), "no colours but on a terminal: {text}");
    let arrival = receiver.arrivals().remove(0);
    assert_eq!(arrival.header("posthaste-test"), Some("true"));
    assert_eq!(arrival.header("authorization"), Some("Bearer hunter2hunter2"));
    let metrics = daemon.metrics();
    let labels = [("connection", "crm")];
    for name in ["posthaste_delivery_attempts_total", "posthaste_deliveries_total"] {
        assert_eq!(metrics.sum(name, &labels), 0.0, "{name}");
    }
    let audit = daemon.cli_json(&["audit", "--json"]);
    let records = audit["models"].as_array().unwrap();
    let tests = records.iter().filter(|record| record["action"] == "test").count();
    assert_eq!(tests, 1, "the test that sent, and that alone: {audit}");

    receiver.behave(Behaviour::status(503).saying(b"no hunter2hunter2"));
    let output = daemon.cli(&["test", "crm", "--send"]);
    let [out, err] = [&output.stdout, &output.stderr].map(|s| String::from_utf8_lossy(s));
    assert_eq!(output.status.code(), Some(1), "{out}{err}");
    assert!(out.contains("http_status") && out.contains("no ***"), "{out}");
    assert!(err.contains("crm failed its test: send (http_status)"), "{err}");

    receiver.refuse();
    let output = daemon.cli(&["test", "crm", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let report: Json = serde_json::from_slice(&output.stdout).expect("a report");
    assert_eq!(verdict(&report, "connect"), ("failed", "connect_refused"));
    assert!(report["parts"][1]["advice"].is_string(), "{report}");

    // It was never deleted, although its tests left lines in the audit log.
    receiver.listen();
    daemon.stop();
    let daemon = Daemon::start(&site);
    assert_eq!(ask(&site, "GET", "/v1/connections/crm", &Json::Null).status, 200);
    let unknown = daemon.cli(&["test", "erp"]);
    assert_eq!(unknown.status.code(), Some(1), "{unknown:?}");
}

/// A connection is tried before it is saved: as the files would make it, and nothing is written.
#[test]
fn a_connection_is_tried_before_it_is_saved() {
    let receiver = Receiver::start(Behaviour::ok());
    let site = Site::new();
    let daemon = Daemon::start(&site);
    let file = site.path().join("new.toml");
    fs::write(&file, connection("new", &receiver.url("new"), "")).unwrap();
    let path = file.to_str().unwrap();
    let report = daemon.cli_json(&["test", "--file", path, "--send", "--json"]);
    assert_eq!((&report["ok"], verdict(&report, "send")), (&json!(true), ("ok", "")));
    assert_eq!(receiver.count(), 1);
    assert_eq!(fs::read_dir(site.connections()).unwrap().count(), 0, "nothing was written");

    fs::write(&file, connection("new", &receiver.url("new"), "tymeout = \"1s\"")).unwrap();
    let refused = daemon.cli(&["test", "--file", path]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(78), "{said}");
    assert!(said.contains("timeout"), "it names the nearest key: {said}");

    // A connection may have the name that is in the path of these tests.
    let named = json!({ "name": "test", "url": receiver.url("test") });
    assert_eq!(ask(&site, "PUT", "/v1/connections/test", &named).status, 201);
    assert_eq!(ask(&site, "GET", "/v1/connections/test", &Json::Null).status, 200);
    let report = daemon.cli_json(&["test", "test", "--json"]);
    assert_eq!(report["connection"], "test");
    let other = ask(&site, "POST", "/v1/connections/crm", &named);
    assert_eq!((other.status, other.code()), (405, "method_not_allowed"));
    assert!(other.message.header("allow").is_some_and(|allow| allow.contains("PUT")));
    let nameless = ask(&site, "POST", "/v1/connections/test", &json!({ "url": "http://x/" }));
    assert_eq!((nameless.status, nameless.code()), (422, "document_invalid"));
    assert_eq!(ask(&site, "DELETE", "/v1/connections/test", &Json::Null).status, 204);
    eventually("it is gone", SOON, || {
        ask(&site, "GET", "/v1/connections/test", &Json::Null).status == 410
    });
}
