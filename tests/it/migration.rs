//! Connections of other systems: their sample files are imported, `check` accepts what comes of it, and the daemon delivers
//! as the original would.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::Value as Json;

use crate::harness::daemon::posthaste;
use crate::harness::receiver::Arrival;
use crate::harness::{Behaviour, Daemon, Producer, Receiver, SOON, Site, eventually};

/// A sample of a system, with the receiver's address in its URLs.
fn sample(site: &Site, system: &str, receiver: &Receiver) -> PathBuf {
    let path = format!("{}/tests/import/{system}.json", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(path).expect("the sample");
    let file = site.path().join(format!("{system}.json"));
    fs::write(&file, text.replace("RECEIVER", &receiver.address.to_string())).unwrap();
    file
}

/// Imports a sample; the report.
fn import(site: &Site, system: &str, receiver: &Receiver, more: &[&str]) -> Json {
    let file = sample(site, system, receiver);
    let file = file.display().to_string();
    let mut arguments = vec!["import", "--from", system, &file, "--json"];
    arguments.extend(more);
    let output = posthaste(site, &arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("a report")
}

#[track_caller]
fn check(site: &Site) {
    let output = posthaste(site, &["check"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What the report says of a field: its outcome and its place here.
#[track_caller]
fn row<'r>(report: &'r Json, object: &str, field: &str) -> (&'r str, &'r str) {
    let rows = report["report"].as_array().expect("rows");
    let found = rows.iter().find(|row| row["object"] == object && row["field"] == field);
    let found = found.unwrap_or_else(|| panic!("no row for {object} {field}: {report:#}"));
    (found["outcome"].as_str().unwrap(), found["here"].as_str().unwrap())
}

/// How many dead letters a connection has.
fn dead(daemon: &Daemon<'_>, connection: &str) -> usize {
    let listed = daemon.cli_json(&["dead", "list", "--connection", connection, "--json"]);
    listed["models"].as_array().expect("a list").len()
}

fn arrivals(receiver: &Receiver, path: &str) -> Vec<Arrival> {
    receiver.arrivals().into_iter().filter(|arrival| arrival.path.starts_with(path)).collect()
}

#[track_caller]
fn first(receiver: &Receiver, path: &str) -> Arrival {
    eventually(&format!("something arrives at {path}"), SOON, || {
        !arrivals(receiver, path).is_empty()
    });
    arrivals(receiver, path).remove(0)
}

fn secret_is_closed(site: &Site, name: &str, value: &str) {
    let file = site.path().join("secrets").join(name);
    assert_eq!(fs::read_to_string(&file).unwrap(), value);
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{name}");
}

/// Method, URL with its query, headers, the body of a POST and none of a GET; the retry delay; environments; TLS.
#[test]
fn apinizers_connections_deliver_as_they_did() {
    let receiver = Receiver::start(Behaviour::ok());
    let site = Site::new();
    let report = import(&site, "apinizer", &receiver, &[]);
    assert_eq!(
        report["connections"],
        serde_json::json!(["Production_Webhook", "Health-check", "Slack-Notify"])
    );
    check(&site);
    secret_is_closed(&site, "Production_Webhook.header.authorization", "Bearer s1em-t0ken");
    let prod = "connection Production_Webhook";
    assert_eq!(row(&report, prod, "fullUrl"), ("carried", "url"));
    assert_eq!(row(&report, prod, "webhookRetryDelay"), ("changed", "retry.interval"));
    assert_eq!(row(&report, "connection Slack-Notify", "timeout"), ("changed", "timeout"));
    assert_eq!(row(&report, "connection Slack-Notify", "headerList[0]").1, "host_header");
    assert_eq!(row(&report, "connection Slack-Notify", "headerList[1]").0, "not_carried");
    assert_eq!(row(&report, "connection Slack-Notify", "headerList[2]").0, "not_carried");
    let tls = row(&report, "connection Slack-Notify", "(certificate validation)");
    assert_eq!(tls, ("changed", "tls.verify"));

    let mut daemon = Daemon::start(&site);
    let body = br#"{"level":"warn"}"#;
    receiver.behave(Behaviour::status(503));
    site.producer().post("/v1/events", &[], body).unwrap();
    let log = first(&receiver, "/siem/");
    assert_eq!(
        (log.method.as_str(), log.path.as_str()),
        ("POST", "/siem/api/logs?source=apinizer")
    );
    assert_eq!(log.header("authorization"), Some("Bearer s1em-t0ken"));
    assert_eq!(log.header("x-trace-id"), Some("log-forwarding"));
    assert_eq!(log.header("content-type"), Some("application/json"));
    assert_eq!(log.length, body.len());
    let ping = first(&receiver, "/health/");
    assert_eq!((ping.method.as_str(), ping.path.as_str()), ("GET", "/health/ping?from=apinizer"));
    assert_eq!((ping.header("x-api-key"), ping.length), (Some("h3alth"), 0));
    // The one with a retry delay is tried again; the other is a dead letter, as there.
    eventually("a retry", SOON, || arrivals(&receiver, "/siem/").len() > 1);
    eventually("a dead letter", SOON, || dead(&daemon, "Health-check") == 1);
    assert_eq!(arrivals(&receiver, "/health/").len(), 1);
    receiver.behave(Behaviour::ok());
    daemon.stop();

    // The other environment.
    let receiver_test = arrivals(&receiver, "/siem-test/").len();
    let mut daemon = Daemon::start_with(&site, |command| {
        command.env("POSTHASTE_ENV", "Test");
    });
    site.producer().post("/v1/connections/Production_Webhook/events", &[], body).unwrap();
    let test = first(&receiver, "/siem-test/");
    assert_eq!((receiver_test, test.header("authorization")), (0, Some("Bearer test-t0ken")));
    daemon.stop();
}

/// Method, path and query go on, auth, filter, dedupe, retries by status, a custom signature, delay, rate limits, sources.
#[test]
fn hookdecks_connections_deliver_as_they_did() {
    let receiver = Receiver::start(Behaviour::ok());
    let site = Site::new();
    let report = import(&site, "hookdeck", &receiver, &[]);
    assert_eq!(
        report["connections"],
        serde_json::json!(["crm", "shop-warehouse", "reshaped", "reports"])
    );
    check(&site);
    for (name, value) in [
        ("crm.api-key", "crm-s3cret"),
        ("shop-warehouse.signing", "w4rehouse"),
        ("reports.client-secret", "oauth-s3cret"),
        ("shop.source-password", "sh0p-pass"),
        ("github.source-signing", "gh-s3cret"),
    ] {
        secret_is_closed(&site, name, value);
    }
    // No secret is in the report or in the connection files.
    let files = fs::read_dir(site.connections()).unwrap().map(|entry| entry.unwrap().path());
    let texts: String = files.map(|file| fs::read_to_string(file).unwrap()).collect();
    for secret in
        ["crm-s3cret", "w4rehouse", "oauth-s3cret", "sh0p-pass", "gh-s3cret", "aws-s3cret"]
    {
        assert!(!report.to_string().contains(secret) && !texts.contains(secret), "{secret}");
    }
    let reshaped = "connection reshaped";
    assert_eq!(row(&report, reshaped, "destination.config.auth_type").0, "not_carried");
    assert_eq!(row(&report, reshaped, "rules[0].type").0, "not_carried");
    assert_eq!(row(&report, reshaped, "(state)"), ("changed", "state"));
    assert_eq!(row(&report, "connection reports", "paused_at"), ("carried", "state"));
    let limit = row(&report, "connection reports", "destination.config.rate_limit");
    assert_eq!(limit, ("changed", "rate_limit.limit"));

    let mut daemon = Daemon::start(&site);
    let shop = "/v1/sources/shop/events";
    let stranger = site.producer().post(shop, &[], b"{}").unwrap();
    assert_eq!(stranger.status, 401);
    let basic = ("authorization", "Basic c2hvcDpzaDBwLXBhc3M=");
    receiver.behave(Behaviour::status(500));
    let body = br#"{"id":7,"total":250}"#;
    let headers = [basic, ("content-type", "application/json")];
    let put = format!(
        "PUT {shop}/orders/7?page=2 HTTP/1.1\r\nhost: localhost\r\n{}: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{}",
        basic.0,
        basic.1,
        body.len(),
        String::from_utf8_lossy(body)
    );
    let taken = site.producer().exchange(put.as_bytes()).unwrap();
    assert_eq!((taken.status, &taken.json["taken"]), (200, &Json::Bool(true)));
    let order = first(&receiver, "/crm/");
    assert_eq!((order.method.as_str(), order.path.as_str()), ("PUT", "/crm/hooks/orders/7?page=2"));
    assert_eq!((order.header("x-crm-key"), order.length), (Some("crm-s3cret"), body.len()));
    // Three retries are four attempts.
    eventually("all attempts", SOON, || dead(&daemon, "crm") == 1);
    assert_eq!(arrivals(&receiver, "/crm/").len(), 4);
    let put = first(&receiver, "/warehouse/");
    assert_eq!((put.method.as_str(), put.path.as_str()), ("PUT", "/warehouse/in"));
    // base64(HMAC-SHA256("w4rehouse", body)), computed with openssl.
    assert_eq!(
        put.header("x-shop-signature"),
        Some("tPccWrbhUusUaE9duIN6R1mxIIk4jX0+4eRF3v5/6eM=")
    );
    // Nothing was tried again there: it has no retry rule.
    eventually("a dead letter", SOON, || dead(&daemon, "shop-warehouse") == 1);
    assert_eq!(arrivals(&receiver, "/warehouse/").len(), 1);

    // 501 is not tried again, what is the same or too small is not sent.
    receiver.behave(Behaviour::status(501));
    let again = site.producer().post(shop, &headers, body).unwrap();
    let small = site.producer().post(shop, &headers, br#"{"id":8,"total":5}"#).unwrap();
    assert_eq!((again.status, small.status), (200, 200));
    site.producer().post(shop, &headers, br#"{"id":9,"total":500}"#).unwrap();
    eventually("a second dead letter", SOON, || dead(&daemon, "crm") == 2);
    assert_eq!(arrivals(&receiver, "/crm/").len(), 5);
    // What is paused sends nothing.
    assert!(arrivals(&receiver, "/lake/").is_empty());
    let status = daemon.cli_json(&["status", "--json"]);
    let reshaped =
        status["connections"].as_array().unwrap().iter().find(|one| one["name"] == "reshaped");
    assert_eq!(reshaped.expect("reshaped")["state"], "paused");
    daemon.stop();
}

/// POST, headers, a signature of Standard Webhooks, the state.
#[test]
fn endpoints_deliver_as_they_did() {
    let receiver = Receiver::start(Behaviour::ok());
    let site = Site::new();
    let report = import(&site, "endpoints", &receiver, &[]);
    assert_eq!(report["connections"], serde_json::json!(["my-webhook", "Billing-EU"]));
    check(&site);
    secret_is_closed(&site, "my-webhook.signing", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    assert_eq!(row(&report, "connection Billing-EU", "timeout_seconds").0, "changed");
    assert_eq!(row(&report, "connection Billing-EU", "status"), ("carried", "state"));
    let mut daemon = Daemon::start(&site);
    site.producer().post("/v1/events", &[], b"{}").unwrap();
    let one = first(&receiver, "/mine/");
    assert_eq!((one.method.as_str(), one.path.as_str(), one.length), ("POST", "/mine/webhook", 2));
    assert_eq!((one.header("x-tenant"), one.header("x-api-key")), (Some("acme"), Some("k3y")));
    assert!(one.header("webhook-signature").is_some_and(|signature| signature.starts_with("v1,")));
    let status = daemon.cli_json(&["connections", "list", "--state", "paused", "--json"]);
    assert_eq!(status["models"][0]["name"], "Billing-EU", "{status}");
    assert!(arrivals(&receiver, "/billing/").is_empty());
    daemon.stop();
}

/// A dry run changes nothing; names that are taken stop all of it, or get another name, or give way.
#[test]
fn an_import_is_all_or_nothing() {
    let receiver = Receiver::start(Behaviour::ok());
    let site = Site::new();
    import(&site, "endpoints", &receiver, &["--dry-run"]);
    assert_eq!(fs::read_dir(site.connections()).unwrap().count(), 0);
    assert!(!site.path().join("secrets").exists());
    site.connection("billing-eu", &receiver.url("old"), "# kept");
    let file = sample(&site, "endpoints", &receiver).display().to_string();
    let refused = posthaste(&site, &["import", "--from", "endpoints", &file]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("billing-eu.toml"), "{said}");
    assert!(!site.path().join("secrets").exists());
    assert_eq!(fs::read_dir(site.connections()).unwrap().count(), 1);
    let report = import(&site, "endpoints", &receiver, &["--on-conflict", "rename"]);
    assert_eq!(report["connections"], serde_json::json!(["my-webhook", "Billing-EU-2"]));
    let text = fs::read_to_string(site.connections().join("Billing-EU-2.toml")).unwrap();
    assert!(text.contains("name = \"Billing-EU-2\"") && text.starts_with("# Imported"), "{text}");
    check(&site);
    let report = import(&site, "endpoints", &receiver, &["--on-conflict", "overwrite"]);
    assert_eq!(report["connections"], serde_json::json!(["my-webhook", "Billing-EU"]));
    assert!(!site.connections().join("billing-eu.toml").exists());
    check(&site);
    // A daemon that runs takes them at once.
    let mut daemon = Daemon::start(&site);
    let report = import(&site, "apinizer", &receiver, &[]);
    assert_eq!(report["reloaded"], true);
    let listed = daemon.cli_json(&["connections", "count", "--json"]);
    assert_eq!(listed["count"], 6, "{listed}");
    daemon.stop();
}

/// Out through the command line and the API, in through both; the daemon takes it at once, and nothing of what is refused stays.
#[test]
fn an_export_is_imported_elsewhere() {
    let receiver = Receiver::start(Behaviour::ok());
    let site = Site::new();
    site.connection(
        "crm",
        &receiver.url("crm"),
        "# for the sales team\nlabels = { team = \"sales\" } # theirs",
    );
    let file = site.path().join("crm.zip").display().to_string();
    let output = posthaste(&site, &["export", "crm", "--output", &file]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = fs::read_to_string(site.connections().join("crm.toml")).unwrap();
    let zip = fs::read(&file).unwrap();

    // Offline, into an empty place.
    let other = Site::new();
    let output = posthaste(&other, &["import", &file, "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read_to_string(other.connections().join("crm.toml")).unwrap(), text);
    let mut daemon = Daemon::start(&other);
    other.producer().post("/v1/events", &[], b"one").unwrap();
    eventually("the event arrives", SOON, || receiver.delivered("crm") == 1);

    // Over the API: out of one, and into the other beside what is there.
    let exchange = |method: &str, path: &str, kind: &str, body: &[u8]| {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        Producer::unix(&other.admin_unix())
            .exchange(&[head.as_bytes(), body].concat())
            .expect("an answer")
    };
    let exported = exchange("GET", "/v1/connections/crm/export", "", b"");
    assert_eq!(exported.status, 200);
    assert_eq!(exported.message.header("content-type"), Some("application/zip"));
    let disposition = exported.message.header("content-disposition").unwrap();
    assert!(disposition.ends_with("-connection-crm-export.zip\""), "{disposition}");
    let body = exported.message.body.clone();
    let zipped = "application/zip";
    let taken = exchange("POST", "/v1/import", zipped, &body);
    assert_eq!((taken.status, taken.code()), (409, "name_taken"), "{}", taken.json);
    let planned = exchange("POST", "/v1/import?dry_run=true&on_conflict=rename", zipped, &zip);
    assert_eq!(
        (planned.status, &planned.json["connections"]),
        (200, &serde_json::json!(["crm-2"]))
    );
    assert!(!other.connections().join("crm-2.toml").exists());
    let done = exchange("POST", "/v1/import?on_conflict=rename", zipped, &zip);
    assert_eq!((done.status, &done.json["reloaded"]), (200, &Json::Bool(true)), "{}", done.json);
    let renamed = fs::read_to_string(other.connections().join("crm-2.toml")).unwrap();
    assert_eq!(renamed, text.replace("\"crm\"", "\"crm-2\""));
    other.producer().post("/v1/events", &[], b"two").unwrap();
    eventually("it arrives at both", SOON, || receiver.count() == 3);
    let audit = daemon.cli_json(&["audit", "--json"]);
    assert!(audit.to_string().contains("\"import\""), "{audit}");

    for (query, kind, body, status, code) in [
        ("", "text/plain", &zip[..], 415, "unsupported_media_type"),
        ("", zipped, &zip[..zip.len() / 2], 422, "document_invalid"),
        ("?on_conflict=never", zipped, &zip[..], 400, "malformed"),
        ("?nothing=1", zipped, &zip[..], 400, "malformed"),
    ] {
        let refused = exchange("POST", &format!("/v1/import{query}"), kind, body);
        assert_eq!(refused.status, status, "{query} {}", refused.json);
        assert!(refused.code() == code || status == 400, "{}", refused.json);
    }
    assert_eq!(exchange("GET", "/v1/connections/nobody/export", "", b"").status, 404);
    let huge = vec![0; (16 << 20) + 1];
    assert_eq!(exchange("POST", "/v1/import", zipped, &huge).status, 413);
    // What cannot be in force is refused whole: a variable that the daemon does not have.
    let broken = Site::new();
    broken.connection(
        "needy",
        &receiver.url("needy"),
        "[connection.auth.bearer]\ntoken = { env = \"NOBODY_HAS_THIS\" }",
    );
    let file = broken.path().join("needy.zip").display().to_string();
    let output = posthaste(&broken, &["export", "--all", "--output", &file]);
    assert!(output.status.success());
    let refused = exchange("POST", "/v1/import", zipped, &fs::read(&file).unwrap());
    assert_eq!((refused.status, refused.code()), (422, "config_invalid"), "{}", refused.json);
    let output = posthaste(&other, &["import", &file]);
    assert_eq!(output.status.code(), Some(78), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!other.connections().join("needy.toml").exists());
    daemon.stop();
}
