//! Filters, dedupe, templates, transforms and tests of connections, with the built binary.

use std::fs;

use crate::harness::{Behaviour, Daemon, Receiver, SOON, Site, eventually};

#[test]
fn what_a_filter_takes_is_made_into_the_request_it_says() {
    let receiver = Receiver::start(Behaviour::ok());
    let site = Site::with("", "[variables]\nprefix = \"v2\"\n");
    let url = receiver.url("{{ var.prefix }}/{{ body.id }}");
    site.connection(
        "crm",
        &url,
        "forward_headers = [\"x-tenant\"]\nforward_path = true\nforward_query = true\n\
        headers = { x-kind = \"{{ event.type }}\" }\n\
        [connection.filter.body]\ntotal = { \"$gte\" = 100 }\n\
        [connection.transform]\nremove = [\"body.secret\"]\n",
    );
    let mut daemon = Daemon::start(&site);
    let mut producer = site.producer();
    let headers =
        [("content-type", "application/json"), ("posthaste-type", "paid"), ("x-tenant", "acme")];
    let path = "/v1/sources/default/events/a/b?x=1";
    let small = producer.post(path, &headers, br#"{"id":1,"total":99}"#).unwrap();
    assert_eq!((small.status, small.json["ignored"].as_u64()), (202, Some(1)), "{}", small.json);
    let body = br#"{"id":12345678901234567890,"total":100.50,"secret":"s"}"#;
    assert_eq!(producer.post(path, &headers, body).unwrap().json["connections"], 1);
    eventually("the delivery", SOON, || receiver.count() == 1);
    let arrival = receiver.arrivals().remove(0);
    assert_eq!(arrival.path, "/v2/12345678901234567890/a/b?x=1");
    assert_eq!(arrival.header("x-kind"), Some("paid"));
    assert_eq!(arrival.header("x-tenant"), Some("acme"));
    let sent = br#"{"id":12345678901234567890,"total":100.50}"#;
    assert_eq!(arrival.sha256, crate::harness::producer::sha256(sent));
    // Without the field that the URL needs: a dead letter, and nothing is sent.
    producer.post(path, &headers, br#"{"total":100}"#).unwrap();
    let dead = [("connection", "crm"), ("outcome", "dead")];
    eventually("a dead letter", SOON, || {
        daemon.metrics().sum("posthaste_deliveries_total", &dead) == 1.0
    });
    let code = [("connection", "crm"), ("code", "template")];
    assert_eq!(daemon.metrics().sum("posthaste_delivery_attempts_total", &code), 1.0);
    assert_eq!(receiver.count(), 1);
    daemon.drained(&["crm"]);
    daemon.stop();
}

/// The window is filled again from what the store still holds, after a kill as after a clean stop.
#[test]
fn a_duplicate_is_known_over_restarts() {
    let receiver = Receiver::start(Behaviour::ok());
    // What was delivered is still held.
    let site = Site::small("keep_delivered = \"1h\"");
    site.connection(
        "once",
        &receiver.url("once"),
        "dedupe = { window = \"1h\", exclude = [\"body.at\"] }\n",
    );
    site.connection("all", &receiver.url("all"), "");
    let mut daemon = Daemon::start(&site);
    let post = |at: u32, id: u32| {
        let body = format!("{{\"id\":{id},\"at\":{at}}}");
        let answer = site.producer().post("/v1/events", &[], body.as_bytes()).unwrap();
        assert_eq!(answer.status, 202, "{}", answer.json);
        answer.json["ignored"].as_u64().unwrap_or(0)
    };
    assert_eq!([post(1, 1), post(2, 1), post(3, 2)], [0, 1, 0]);
    eventually("deliveries", SOON, || {
        receiver.delivered("once") == 2 && receiver.delivered("all") == 3
    });
    for kill in [true, false] {
        if kill {
            daemon.kill()
        } else {
            daemon.stop()
        }
        daemon = Daemon::start(&site);
        assert_eq!([post(4, 1), post(5, 2)], [1, 1], "killed: {kill}");
    }
    let labels = [("connection", "once"), ("cause", "duplicate")];
    assert_eq!(daemon.metrics().sum("posthaste_deliveries_ignored_total", &labels), 2.0);
    daemon.drained(&["once", "all"]);
    daemon.metrics().assert_conserved(&["once", "all"]);
    assert_eq!(receiver.delivered("once"), 2);
    daemon.stop();
}

const TESTED: &str = "[connection.filter.body]\ntotal = { \"$gte\" = 100 }\n\
    [[connection.test]]\nevent = { body = { total = 100 } }\nexpect = { pass = true }\n";

#[test]
fn a_failing_test_refuses_check_and_reload_and_changes_nothing() {
    let receiver = Receiver::start(Behaviour::ok());
    let site = Site::new();
    site.connection("crm", &receiver.url("crm"), TESTED);
    let mut daemon = Daemon::start(&site);
    site.connection("crm", &receiver.url("other"), &TESTED.replace("100 } }", "99 } }"));
    let checked = daemon.cli(&["check"]);
    assert_eq!(checked.status.code(), Some(78));
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(said.contains("test[0].expect.pass: the filter does not let it through: body.total is 99, wanted: $gte 100"), "{said}");
    eventually("the reload is refused", SOON, || {
        daemon.metrics().sum("posthaste_config_last_reload_successful", &[]) == 0.0
    });
    site.producer().post("/v1/events", &[], br#"{"total":100}"#).unwrap();
    eventually("the old configuration is in force", SOON, || receiver.delivered("crm") == 1);
    daemon.stop();
}

#[test]
fn filters_and_transforms_are_tried_on_the_command_line() {
    let site = Site::new();
    site.connection(
        "crm",
        "http://127.0.0.1:9/{{ event.type }}",
        "headers = { x-key = { env = \"NOT_SET\" } }\n[connection.filter.body]\ntotal = { \"$gte\" = 100 }\n[connection.transform]\nremove = [\"body.secret\"]\n",
    );
    let run = |arguments: &[&str]| {
        let output = crate::harness::daemon::posthaste(&site, arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let test = ["filter", "test", "--connection", "crm", "--data"];
    let with = |body: &'static str| [&test[..], &[body]].concat();
    assert_eq!(run(&with(r#"{"total":100}"#)).1, "pass\n");
    let (code, said, _) = run(&with(r#"{"total":5}"#));
    assert_eq!((code, said.as_str()), (Some(1), "no\n  body.total is 5, wanted: $gte 100\n"));
    let file = site.path().join("filter.json");
    fs::write(&file, r#"{"headers":{"X-A":"1"},"body":{"$gtt":1}}"#).unwrap();
    let of_file =
        ["filter", "test", "--filter", file.to_str().unwrap(), "--header", "x-a:1", "--data", "{}"];
    let (code, _, complaint) = run(&of_file);
    assert_eq!(code, Some(78));
    assert!(complaint.contains("filter.body.$gtt: unknown operator"), "{complaint}");
    fs::write(&file, r#"{"headers":{"X-A":"1"}}"#).unwrap();
    assert_eq!(run(&of_file).0, Some(0));
    let transform = ["transform", "test", "--connection", "crm"];
    let data = r#"{"n":1.10,"secret":1}"#;
    let (code, said, complaint) = run(&[&transform[..], &["--type", "t", "--data", data]].concat());
    assert_eq!(code, Some(0), "{complaint}");
    let expected = "POST http://127.0.0.1:9/t\nx-key: (secret)\ncontent-type: application/json\n\n{\"n\":1.10}\n";
    assert_eq!(said, expected);
    let body = run(&[&transform[..], &["--type", "t", "--body", "--data", data]].concat());
    assert_eq!(body.1, r#"{"n":1.10}"#);
    let (code, _, complaint) = run(&[&transform[..], &["--data", data]].concat());
    assert_eq!(code, Some(1));
    assert!(
        complaint.contains("cause template: url: {{ event.type }} has no value"),
        "{complaint}"
    );
}
