//! What watches the daemon: alert rules and the dashboard in `config/`, against real metrics and a real Prometheus.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::harness::{
    Behaviour, Daemon, Producer, Receiver, SOON, Site, eventually, free_address, has_program,
};
use crate::peers;

fn shipped(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(path)
}

/// A site with one endpoint that takes events, one that is away, and one that is gone for ever; it has seen some of everything.
fn with_traffic(site: &Site) -> (Daemon<'_>, Receiver) {
    let receiver = Receiver::start(Behaviour::ok());
    site.connection("crm", &receiver.url("crm"), "");
    site.connection("away", &format!("http://{}/", free_address()), "");
    let gone = Receiver::start(Behaviour::status(410));
    site.connection("gone", &gone.url("gone"), "");
    let daemon = Daemon::start(site);
    for _ in 0..5 {
        site.producer().post("/v1/events", &[], b"{}").unwrap();
    }
    site.producer().post("/v1/nowhere", &[], b"{}").unwrap();
    eventually("the events arrive", SOON, || receiver.delivered("crm") == 5);
    eventually("one connection is suspended", SOON, || {
        daemon.metrics().sum("posthaste_connection_suspended", &[("connection", "gone")]) == 1.0
    });
    // What fails waits for its next attempt; the first second counts.
    eventually("waits are charged", SOON, || {
        daemon.metrics().sum("posthaste_event_wait_seconds_total", &[("cause", "backoff")]) >= 1.0
    });
    (daemon, receiver)
}

/// What a paused connection holds has waited for the pause alone, once for each delivery.
#[test]
fn waiting_is_charged_to_its_cause() {
    let receiver = Receiver::start(Behaviour::ok());
    let site = Site::new();
    site.connection("crm", &receiver.url("crm"), "state = \"paused\"");
    let mut daemon = Daemon::start(&site);
    for _ in 0..50 {
        assert_eq!(site.producer().post("/v1/events", &[], b"{}").unwrap().status, 202);
    }
    let waited = |daemon: &Daemon<'_>, cause: Option<&str>| {
        let labels: Vec<_> = [("connection", "crm")]
            .into_iter()
            .chain(cause.map(|cause| ("cause", cause)))
            .collect();
        daemon.metrics().sum("posthaste_event_wait_seconds_total", &labels)
    };
    eventually("the pause is charged", SOON, || waited(&daemon, Some("paused")) >= 50.0);
    // Other causes have had no more than the moment before the connection was told to wait.
    let metrics = daemon.metrics();
    let all = metrics.sum("posthaste_event_wait_seconds_total", &[("connection", "crm")]);
    let labels = [("connection", "crm"), ("cause", "paused")];
    assert_eq!(metrics.sum("posthaste_event_wait_seconds_total", &labels), all);
    daemon.stop();
}

fn dashboard() -> Value {
    serde_json::from_str(&fs::read_to_string(shipped("grafana/posthaste.json")).unwrap()).unwrap()
}

/// Each panel's title and one of its queries, as Grafana would send it for all daemons and connections.
fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        for target in panel["targets"].as_array().into_iter().flatten() {
            let mut query = target["expr"].as_str().unwrap().to_owned();
            for (variable, value) in [
                ("$job", ".*"),
                ("$instance", ".*"),
                ("$connection", ".*"),
                ("$__rate_interval", "10s"),
                ("$__range", "1m"),
            ] {
                query = query.replace(variable, value);
            }
            assert!(!query.contains('$'), "{title}: {query}");
            queries.push((title.to_owned(), query));
        }
    }
    queries
}

/// The metrics that a query names, with the labels it asks of each.
fn selectors(query: &str) -> Vec<(String, Vec<String>)> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = query;
    while let Some(at) = rest.find(word) {
        rest = &rest[at..];
        let end = rest.find(|c| !word(c)).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        rest = after;
        if name.starts_with("posthaste_") || name.starts_with("process_") {
            let braces = after.strip_prefix('{').and_then(|inside| inside.split_once('}'));
            let matchers = braces.map_or("", |(matchers, _)| matchers).split(',');
            let labels = matchers.filter_map(|matcher| matcher.split(['=', '!']).next());
            let labels = labels.filter(|label| !matches!(*label, "" | "job" | "instance"));
            found.push((name.to_owned(), labels.map(str::to_owned).collect()));
        }
    }
    found
}

#[test]
fn selectors_are_found() {
    let query = "sum by (le) (rate(posthaste_a_bucket{job=~\".*\",code!=\"ok\"}[5m])) / process_x";
    let expected = [
        ("posthaste_a_bucket".to_owned(), vec!["code".to_owned()]),
        ("process_x".to_owned(), vec![]),
    ];
    assert_eq!(selectors(query), expected);
}

/// The expressions of the rules, joined to one line each.
fn expressions() -> Vec<String> {
    let text = fs::read_to_string(shipped("prometheus/posthaste.rules.yml")).unwrap();
    let mut found: Vec<String> = Vec::new();
    let mut block = false;
    for line in text.lines() {
        if let Some(expression) = line.trim().strip_prefix("expr: ") {
            block = expression == "|";
            found.push(if block { String::new() } else { expression.to_owned() });
        } else if block && line.starts_with("          ") {
            *found.last_mut().unwrap() += line.trim();
        } else {
            block = false;
        }
    }
    found
}

/// A renamed metric or label is noticed here, not on the day when an alert does not fire.
#[test]
fn every_alert_and_every_panel_asks_for_what_is_there() {
    if !has_program("nginx", "-v") {
        return;
    }
    let site = Site::new();
    let (_nginx, url, tls) = peers::tls_target(&site);
    let signed = "[connection.sign.standard_webhooks]\nsecrets = [{ file = \"../secret\", until = 2099-01-01T00:00:00Z }]\n";
    fs::write(site.path().join("secret"), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
    site.connection("certified", &url, &format!("{tls}{signed}"));
    let (mut daemon, _receiver) = with_traffic(&site);
    eventually("a certificate is seen", SOON, || {
        let name = "posthaste_peer_certificate_expiry_timestamp_seconds";
        daemon.metrics().sum(name, &[("connection", "certified")]) > 0.0
    });
    let text = daemon.metrics().text;
    daemon.stop();
    let mut asked = BTreeSet::new();
    let rules = expressions();
    assert!(rules.len() >= 16, "{rules:?}");
    let panels = queries(&dashboard()).into_iter().map(|(_, query)| query);
    for query in rules.into_iter().chain(panels) {
        for (name, labels) in selectors(&query) {
            let mut series = text.lines().filter(|line| {
                line.strip_prefix(&name).is_some_and(|rest| rest.starts_with(['{', ' ']))
            });
            let has = |line: &str| {
                labels.iter().all(|label| {
                    line.contains(&format!("{{{label}=")) || line.contains(&format!(",{label}="))
                })
            };
            assert!(series.any(has), "no series {name} with labels {labels:?}, in: {query}");
            asked.insert(name);
        }
    }
    assert!(asked.len() > 25, "{asked:?}");
}

/// The alerts that issue 6 lists.
#[test]
fn there_is_an_alert_for_each_thing_that_wakes_somebody() {
    let text = fs::read_to_string(shipped("prometheus/posthaste.rules.yml")).unwrap();
    for (name, metric) in [
        ("EndpointFailing", "posthaste_delivery_attempts_total"),
        ("BacklogOld", "posthaste_queue_oldest_event_age_seconds"),
        ("BreakerOpen", "posthaste_breaker_state"),
        ("DeadLetters", "posthaste_deliveries_total{outcome=\"dead\"}"),
        ("ReloadFailed", "posthaste_config_last_reload_successful"),
        ("StoreNearlyFull", "posthaste_store_free_bytes"),
        ("CertificateExpiring", "posthaste_peer_certificate_expiry_timestamp_seconds"),
        ("SigningSecretExpiring", "posthaste_signing_secret_expiry_timestamp_seconds"),
        ("StoreCorrupt", "posthaste_store_corrupt_records_total"),
    ] {
        let rule =
            text.split("- alert: Posthaste").find(|rule| rule.starts_with(&format!("{name}\n")));
        let rule = rule.unwrap_or_else(|| panic!("no alert {name}"));
        assert!(rule.contains(metric), "{name} does not ask for {metric}");
    }
}

fn run(command: &mut Command, input: &str) {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    assert!(output.status.success(), "{said}");
}

/// The cases make each alert fire, and come close without.
#[test]
fn promtool_accepts_rules_cases_and_metrics() {
    if !has_program("promtool", "--version") {
        return;
    }
    let rules = shipped("prometheus/posthaste.rules.yml");
    run(Command::new("promtool").args(["check", "rules"]).arg(rules), "");
    let cases = shipped("prometheus/posthaste.rules.test.yml");
    let text = fs::read_to_string(&cases).unwrap();
    for alert in fs::read_to_string(shipped("prometheus/posthaste.rules.yml"))
        .unwrap()
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
    {
        assert_eq!(text.matches(&format!("alertname: {alert}\n")).count(), 2, "{alert}");
    }
    run(Command::new("promtool").args(["test", "rules"]).arg(cases), "");
    let site = Site::new();
    let (mut daemon, _receiver) = with_traffic(&site);
    let metrics = daemon.metrics().text;
    daemon.stop();
    run(Command::new("promtool").args(["check", "metrics"]), &metrics);
}

/// A Prometheus of our own; it ends with the test.
struct Prometheus {
    child: Child,
    address: SocketAddr,
    _home: tempfile::TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Prometheus {
    /// The shipped scrape configuration, aimed at a daemon of the test and in a hurry.
    fn start(target: SocketAddr) -> Prometheus {
        let home = tempfile::tempdir().unwrap();
        let text = fs::read_to_string(shipped("prometheus/scrape.yml")).unwrap();
        let text = text.replace("127.0.0.1:8378", &target.to_string()).replace("15s", "1s");
        assert!(text.contains(&target.to_string()) && text.contains("1s"), "{text}");
        fs::write(
            home.path().join("prometheus.yml"),
            format!("global: {{evaluation_interval: 1s}}\n{text}"),
        )
        .unwrap();
        let rules = "posthaste.rules.yml";
        fs::copy(shipped("prometheus").join(rules), home.path().join(rules)).unwrap();
        let address = free_address();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", home.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", home.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Prometheus { child, address, _home: home }
    }

    fn get(&self, path: &str) -> Option<Value> {
        let answer = Producer::tcp(self.address).get(path).ok()?;
        (answer.status == 200).then_some(answer.json["data"].clone())
    }

    /// How many series a query has now.
    fn series(&self, query: &str) -> usize {
        let encoded = url::form_urlencoded::byte_serialize(query.as_bytes()).collect::<String>();
        let data = self.get(&format!("/api/v1/query?query={encoded}"));
        data.and_then(|data| data["result"].as_array().map(Vec::len)).unwrap_or(0)
    }
}

/// What Grafana would draw has data in it, and Prometheus evaluates every rule.
#[test]
fn every_panel_has_data_in_a_real_prometheus() {
    if !has_program("prometheus", "--version") {
        return;
    }
    let site = Site::new();
    let (mut daemon, _receiver) = with_traffic(&site);
    let prometheus = Prometheus::start(site.admin);
    eventually("Prometheus has scraped twice", SOON, || {
        // A rate needs two points.
        prometheus.series("rate(process_cpu_seconds_total[10s])") == 1
    });
    for (title, query) in queries(&dashboard()) {
        eventually(&format!("{title}: {query}"), SOON, || prometheus.series(&query) > 0);
    }
    let variables = dashboard()["templating"]["list"].clone();
    for variable in variables.as_array().unwrap() {
        let Some(query) = variable["definition"].as_str() else { continue };
        let inside = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
        let (selector, label) = inside.unwrap().rsplit_once(", ").unwrap();
        let selector = selector.replace("$job", ".*").replace("$instance", ".*");
        assert!(prometheus.series(&format!("count by ({label}) ({selector})")) > 0, "{query}");
    }
    eventually("every rule was evaluated", SOON, || {
        let rules = prometheus.get("/api/v1/rules").unwrap_or_default();
        let rules = rules["groups"][0]["rules"].as_array().cloned().unwrap_or_default();
        rules.len() >= 12 && rules.iter().all(|rule| rule["health"] == "ok")
    });
    daemon.stop();
}
