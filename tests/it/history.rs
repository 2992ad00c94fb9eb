//! What is kept of what is over: attempts that failed, and delivered events.

use std::fs;

use crate::harness::{Behaviour, Daemon, Receiver, SOON, Site, eventually};

const BODY: usize = 256 * 1024;

/// A site whose store keeps delivered events by these keys.
fn keeping(keys: &str) -> Site {
    let site = Site::new();
    let text = fs::read_to_string(site.config()).unwrap();
    let kept = text.replace("[store]\n", &format!("[store]\n{keys}\n"));
    assert_ne!(text, kept);
    fs::write(site.config(), kept).unwrap();
    site
}

/// Posts so many large events and waits until all arrived. Their ids.
fn send(site: &Site, receiver: &Receiver, events: usize) -> Vec<String> {
    let mut producer = site.producer();
    let before = receiver.delivered("crm");
    let mut ids = Vec::new();
    while ids.len() < events {
        let body = vec![u8::try_from(ids.len() % 256).unwrap(); BODY];
        let answer = producer.post("/v1/events", &[], &body).unwrap();
        // 503 says that memory is full until the disk has caught up.
        if answer.status == 202 {
            ids.push(answer.id().to_owned());
        }
    }
    eventually("all arrive", SOON, || receiver.delivered("crm") == before + events);
    ids
}

/// Spec 7 and 11: what failed is listed with its status, its phase and the start of the response, also after a crash; a
/// success at once leaves nothing.
#[test]
fn failed_attempts_are_listed_with_what_the_endpoint_said() {
    let receiver = Receiver::start(Behaviour::status(500).saying(b"no \x1b[31mspace\n"));
    let site = Site::new();
    let quick = "retry = { strategy = \"linear\", interval = \"100ms\" }";
    site.connection("crm", &receiver.url("crm"), quick);
    let refusing = Receiver::refusing();
    site.connection("erp", &refusing.url("erp"), "source = \"other\"");
    let mut daemon = Daemon::start(&site);
    let mut producer = site.producer();
    let id = producer.post("/v1/events", &[], b"x").unwrap().id().to_owned();
    let failed = |times| eventually("it failed", SOON, || receiver.count() >= times);
    failed(2);
    receiver.behave(Behaviour::ok());
    eventually("it is delivered", SOON, || receiver.delivered("crm") == 1);
    producer.post("/v1/events", &[], b"at once").unwrap();
    producer.post("/v1/sources/other/events", &[], b"refused").unwrap();
    eventually("both are over", SOON, || {
        let code = [("connection", "erp"), ("code", "connect_refused")];
        receiver.delivered("crm") == 2
            && daemon.metrics().sum("posthaste_delivery_attempts_total", &code) >= 1.0
    });
    let count = receiver.count();
    for restart in [false, true] {
        if restart {
            daemon.kill();
            daemon = Daemon::start(&site);
        }
        // The history is written some time after the attempt.
        let mut listed = serde_json::Value::Null;
        eventually("all are recorded", SOON, || {
            listed = daemon.cli_json(&["attempts", "crm", "--json"]);
            listed["count"] == count - 1
        });
        let models = listed["models"].as_array().unwrap();
        let (last, first) = (&models[0], &models[count - 2]);
        assert!(last["code"].is_null() && last["status"] == 200, "the newest first: {last}");
        assert!(models.iter().all(|model| model["event"] == id.as_str()), "{listed}");
        assert_eq!((&first["attempt"], &first["status"]), (&1.into(), &500.into()));
        assert_eq!((&first["code"], &first["phase"]), (&"http_status".into(), &"response".into()));
        assert_eq!(first["response"], "no \u{1b}[31mspace\n");
        assert_eq!((&first["generation"], &first["replay"]), (&1.into(), &false.into()));
        assert!(receiver.url("").contains(first["remote"].as_str().unwrap()), "{first}");
    }
    let table = daemon.cli(&["attempts", "--event", &id, "--code", "http_status"]);
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("no \\u{1b}[31mspace\\n") && !table.contains("\u{1b}"), "{table}");
    let refused = daemon.cli_json(&["attempts", "--code", "connect_refused", "--json"]);
    assert_eq!(refused["models"][0]["connection"], "erp", "{refused}");
    assert_eq!(refused["models"][0]["phase"], "connect", "{refused}");
    let page = daemon.cli_json(&["attempts", "crm", "--limit", "1", "--json"]);
    let next = page["pagination"]["next"].as_str().unwrap().to_owned();
    let second = daemon.cli_json(&["attempts", "crm", "--limit", "1", "--next", &next, "--json"]);
    assert_eq!(second["models"][0]["code"], "http_status", "{second}");
    daemon.kill();
}

/// Spec 11, "Delivered events" and "A replay": with `keep_delivered` a delivered event is looked up with its exact body, after
/// a crash as well, and sent again on a new run.
#[test]
fn a_kept_event_is_looked_up_and_replayed_after_a_restart() {
    let receiver = Receiver::start(Behaviour::ok());
    let site = keeping("keep_delivered = \"1h\"");
    site.connection("crm", &receiver.url("crm"), "");
    let mut daemon = Daemon::start(&site);
    let ids = send(&site, &receiver, 60);
    let id = ids[3].as_str();
    daemon.drained(&["crm"]);
    eventually("some is kept", SOON, || {
        daemon.metrics().sum("posthaste_store_kept_bytes", &[]) > 0.0
    });
    daemon.kill();
    let mut daemon = Daemon::start(&site);
    let body = daemon.cli(&["events", "show", id, "--body"]);
    assert!(body.status.success() && body.stdout == [3; BODY], "{} bytes", body.stdout.len());
    let shown = daemon.cli_json(&["events", "show", id, "--json"]);
    assert_eq!(shown["deliveries"][0]["connection"], "crm", "{shown}");
    assert_eq!(shown["deliveries"][0]["state"], "over", "{shown}");
    // What the kill had not marked yet goes out again, without being asked for.
    daemon.drained(&["crm"]);
    let before = receiver.count();
    let replayed = daemon.cli(&["replay", id, "--connection", "crm"]);
    assert!(replayed.status.success(), "{replayed:?}");
    eventually("it arrives again", SOON, || receiver.count() == before + 1);
    let arrivals = receiver.arrivals();
    let (first, last) = (arrivals.iter().find(|one| one.id == id).unwrap(), &arrivals[before]);
    assert_eq!((last.id.as_str(), last.attempt, last.sha256), (id, 1, first.sha256));
    assert!(last.header("posthaste-replay").is_some(), "{:?}", last.headers);
    let metrics = daemon.drained(&["crm"]);
    assert_eq!(metrics.sum("posthaste_deliveries_replayed_total", &[("connection", "crm")]), 1.0);
    for (arguments, said) in [
        (["replay", id, "--connection", "erp"].as_slice(), "no delivery to connection"),
        (&["events", "show", "evt_019ab3c4-5d6e-7f80-9123-456789abcdef"], "is not in the store"),
    ] {
        let refused = daemon.cli(arguments);
        let stderr = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(1) && stderr.contains(said), "{stderr}");
    }
    daemon.stop();
}

/// The cap gives kept segments back, the oldest first; without keeping, all go at once.
#[test]
fn what_is_kept_has_a_cap_and_without_keeping_all_goes() {
    let receiver = Receiver::start(Behaviour::ok());
    for (keys, most, least) in [
        ("keep_delivered = \"1h\"\nkeep_delivered_bytes = \"13MiB\"", 13 << 20, 1 << 20),
        ("keep_delivered = \"0s\"", 0, 0),
    ] {
        let site = keeping(keys);
        site.connection("crm", &receiver.url("crm"), "");
        let mut daemon = Daemon::start(&site);
        let ids = send(&site, &receiver, 100);
        daemon.drained(&["crm"]);
        let gone = || daemon.cli(&["events", "show", &ids[0]]).status.code() == Some(1);
        eventually("the oldest is given back", SOON, gone);
        let kept = daemon.metrics().sum("posthaste_store_kept_bytes", &[]);
        assert!(kept <= f64::from(most) && kept >= f64::from(least), "{keys}: {kept}");
        let later = || daemon.cli(&["events", "show", &ids[75]]).status.success();
        eventually("what fits the cap is kept, and that alone", SOON, || later() == (most > 0));
        daemon.stop();
    }
}
