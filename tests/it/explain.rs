//! `posthaste explain` and `GET /v1/events/{id}/explain`: why an event is where it is.

use serde_json::Value;

use crate::harness::{Behaviour, Daemon, Receiver, SOON, Site, eventually};

/// What `explain` says of an event at one connection.
#[track_caller]
fn at(explanation: &Value, connection: &str) -> Value {
    let deliveries = explanation["deliveries"].as_array().unwrap();
    let found = deliveries.iter().find(|delivery| delivery["connection"] == connection);
    found.unwrap_or_else(|| panic!("{connection}: {explanation}")).clone()
}

fn explain(daemon: &Daemon<'_>, id: &str) -> Value {
    daemon.cli_json(&["explain", id, "--json"])
}

/// One event, and every state that a delivery of it can be in: each with its cause, what would change it, and when.
#[test]
fn every_state_is_explained() {
    let ok = Receiver::start(Behaviour::ok());
    let failing = Receiver::start(Behaviour::status(503));
    let refusing = Receiver::start(Behaviour::status(400));
    let hung = Receiver::start(Behaviour::ok().after(SOON * 4));
    let site = Site::new();
    let hour = "retry = { strategy = \"linear\", interval = \"1h\", jitter = \"none\" }";
    site.connection("retrying", &failing.url("retrying"), hour);
    site.connection("dying", &refusing.url("dying"), "");
    site.connection("hanging", &hung.url("hanging"), "request_timeout = \"60s\"");
    site.connection("resting", &ok.url("resting"), "state = \"paused\"");
    site.connection("closed", &ok.url("closed"), "state = \"disabled\"");
    site.connection("choosy", &ok.url("choosy"), "filter = '{\"body\": {\"kind\": \"other\"}}'");
    let slow = "rate_limit = { limit = 1, per = \"hour\", burst = 1 }";
    site.connection("limited", &ok.url("limited"), slow);
    site.connection("later", &ok.url("later"), "delay = \"1h\"");
    let daemon = Daemon::start(&site);
    let mut producer = site.producer();
    let mut post = || producer.post("/v1/events", &[], b"{\"kind\": \"order\"}").unwrap();
    let first = post().id().to_owned();
    let second = post().id().to_owned();
    let state = |id: &str, name: &str| at(&explain(&daemon, id), name);
    let expected = [
        (&first, "retrying", "scheduled", "backoff"),
        (&first, "dying", "dead", "http_status"),
        (&first, "resting", "held", "paused"),
        (&first, "closed", "ignored", "disabled"),
        (&first, "choosy", "ignored", "filtered"),
        (&second, "limited", "queued", "rate_limit"),
        (&first, "later", "scheduled", "delay"),
    ];
    for (id, name, wanted, cause) in expected {
        eventually(name, SOON, || state(id, name)["state"] == wanted);
        let explained = state(id, name);
        assert_eq!(explained["cause"], cause, "{explained}");
        assert!(explained["unblock"].is_string(), "{explained}");
    }
    eventually("it is being sent", SOON, || state(&first, "hanging")["state"] == "in_flight");
    // The third waits behind it: the connection starts with one at a time.
    assert_eq!(state(&second, "hanging")["cause"], "concurrency");

    let retrying = state(&first, "retrying");
    eventually("its attempt is recorded", SOON, || {
        state(&first, "retrying")["last_attempts"][0]["status"] == 503
    });
    assert_eq!(retrying["attempts"], 1, "{retrying}");
    let accepted = explain(&daemon, &first)["accepted_at"].as_str().unwrap().to_owned();
    assert!(retrying["next_at"].as_str().unwrap() > accepted.as_str(), "{retrying}");
    assert!(state(&second, "limited")["next_at"].is_string());

    let text = daemon.cli(&["explain", &first]);
    let text = String::from_utf8(text.stdout).unwrap();
    for line in
        ["retrying: scheduled (backoff)", "  unblocks  `posthaste connections resume resting`"]
    {
        assert!(text.contains(line), "{text}");
    }
}

/// An id of which nothing is known says what it may be, and exits 1; one that was delivered after a failure says so, also
/// when its event is gone.
#[test]
fn what_is_not_in_the_store_is_explained_as_far_as_it_is_known() {
    let receiver = Receiver::start(Behaviour::status(500));
    let site = Site::new();
    let quick = "retry = { strategy = \"linear\", interval = \"50ms\" }";
    site.connection("crm", &receiver.url("crm"), quick);
    let daemon = Daemon::start(&site);
    let mut producer = site.producer();
    let id = producer.post("/v1/events", &[], b"{}").unwrap().id().to_owned();
    eventually("it failed once", SOON, || receiver.count() >= 1);
    receiver.behave(Behaviour::ok());
    eventually("its success is recorded", SOON, || {
        at(&explain(&daemon, &id), "crm")["state"] == "delivered"
    });

    let unknown = daemon.cli(&["explain", "evt_019ab3c4-5d6e-7f80-9123-456789abcdef"]);
    let said = String::from_utf8(unknown.stderr).unwrap();
    assert_eq!(unknown.status.code(), Some(1), "{said}");
    assert!(said.contains("never accepted here") && said.contains("keep_delivered"), "{said}");
    let nonsense = daemon.cli(&["explain", "evt_ffffffff-5d6e-7f80-9123-456789abcdef"]);
    let said = String::from_utf8(nonsense.stderr).unwrap();
    assert!(said.contains("no posthaste has made this id"), "{said}");
}
