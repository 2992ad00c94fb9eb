//! Signatures of real deliveries, verified by the reference library of Standard Webhooks from PyPI.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::harness::daemon::posthaste;
use crate::harness::receiver::Arrival;
use crate::harness::{Behaviour, Daemon, Receiver, SOON, Site, eventually, must};

/// A venv with the library; `.ci/setup` makes it.
const PYTHON: &str = "/opt/posthaste-test/venv/bin/python";
const FIRST: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const SECOND: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const ASYMMETRIC: &str =
    "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
const PUBLIC: &str = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";

fn case(arrival: &Arrival, body: &str, secret: &str, accepted: bool) -> serde_json::Value {
    let headers: serde_json::Map<String, serde_json::Value> =
        arrival.headers.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    json!({ "secret": secret, "headers": headers, "body": body, "now": null, "accepted": accepted })
}

/// Whether the library says of each case what it should; it has the machine's clock.
fn reference_agrees(cases: &[serde_json::Value]) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/verify_webhooks.py");
    let mut command = Command::new(PYTHON);
    command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut python = command.spawn().expect("start python");
    let mut stdin = python.stdin.take().unwrap();
    for case in cases {
        writeln!(stdin, "{case}").unwrap();
    }
    drop(stdin);
    let output = python.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert_eq!(said.trim(), format!("{} cases", cases.len()));
}

/// First attempts, retries and a replay, with two secrets and a key, are accepted by the library; a stranger's secret and
/// another body are not. A secret that is changed on disk signs without a restart.
#[test]
fn the_reference_library_accepts_what_is_delivered() {
    if !Path::new(PYTHON).exists() {
        must(&format!("{PYTHON} is missing, see .ci/setup"));
        return;
    }
    let receiver = Receiver::start(Behaviour::status(503));
    let site = Site::new();
    let secret = site.path().join("secret");
    fs::write(&secret, format!("{FIRST}\n")).unwrap();
    let key = site.path().join("key");
    fs::write(&key, ASYMMETRIC).unwrap();
    let sign = format!(
        "retry = {{ interval = \"50ms\", max_interval = \"50ms\", jitter = \"none\" }}\n\
        [connection.sign.standard_webhooks]\nsecrets = [{{ file = {:?} }}, {{ file = {:?} }}]\n",
        secret.display(),
        key.display()
    );
    site.connection("crm", &receiver.url("crm"), &sign);
    let mut daemon = Daemon::start(&site);
    let body = "{\"name\":\"Grüße, 世界\",\"n\":1e-7,\"s\":\"\\u0000\"}";
    let answer = site.producer().post("/v1/events", &[], body.as_bytes()).unwrap();
    eventually("two attempts", SOON, || receiver.count() >= 2);
    receiver.behave(Behaviour::status(404));
    let dead = [("connection", "crm"), ("outcome", "dead")];
    eventually("it is dead", SOON, || {
        daemon.metrics().sum("posthaste_deliveries_total", &dead) == 1.0
    });
    receiver.behave(Behaviour::ok());
    let before = receiver.count();
    let replayed = daemon.cli(&["dead", "replay", "crm", answer.id()]);
    assert!(replayed.status.success(), "{replayed:?}");
    eventually("the replay", SOON, || receiver.count() == before + 1);
    let mut cases = Vec::new();
    for arrival in receiver.arrivals() {
        for accepted in [FIRST, PUBLIC] {
            cases.push(case(&arrival, body, accepted, true));
            cases.push(case(&arrival, "{}", accepted, false));
        }
        cases.push(case(&arrival, body, SECOND, false));
    }

    let rotated = site.path().join("secret.new");
    fs::write(&rotated, SECOND).unwrap();
    fs::rename(rotated, &secret).unwrap();
    eventually("the new secret signs", SOON, || {
        daemon.metrics().sum("posthaste_config_generation", &[]) >= 2.0
    });
    let before = receiver.count();
    site.producer().post("/v1/events", &[], b"").unwrap();
    eventually("one more", SOON, || receiver.count() == before + 1);
    let last = receiver.arrivals().pop().unwrap();
    cases.push(case(&last, "", SECOND, true));
    cases.push(case(&last, "", FIRST, false));
    reference_agrees(&cases);

    let shows_expiry = |seconds: u64| {
        let name = "posthaste_signing_secret_expiry_timestamp_seconds";
        let line = format!("{name}{{connection=\"crm\"}} {seconds}");
        daemon.metrics().text.lines().any(|shown| shown == line)
    };
    assert!(shows_expiry(0), "one secret never ends");
    let checked = posthaste(&site, &["check"]);
    let checked = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.contains(&format!("crm is verified with {PUBLIC}\n")), "{checked}");
    let until = ", until = 2099-01-01T00:00:00Z }";
    let ends = sign.replace(" }, {", &format!("{until}, {{")).replace(" }]", &format!("{until}]"));
    site.connection("crm", &receiver.url("crm"), &ends);
    eventually("when the last secret ends", SOON, || shows_expiry(4_070_908_800));
    site.connection("crm", &receiver.url("crm"), "");
    eventually("nothing is signed", SOON, || shows_expiry(0));
    daemon.stop();
}

/// `posthaste listen` verifies with the same code, with the secret or with the public half.
#[test]
fn listen_verifies_what_the_daemon_signs() {
    let site = Site::new();
    let secret = site.path().join("key");
    fs::write(&secret, ASYMMETRIC).unwrap();
    let address = crate::harness::free_address();
    let sign = format!(
        "retry = {{ strategy = \"none\" }}\n[connection.sign.standard_webhooks]\nsecrets = [{{ file = {:?} }}]\n",
        secret.display()
    );
    site.connection("crm", &format!("http://{address}/"), &sign);
    let mut daemon = Daemon::start(&site);
    for (number, (arguments, verdict, status)) in [
        (["--public-key", PUBLIC], "ok", 200),
        (["--secret-file", secret.to_str().unwrap()], "ok", 200),
        (["--secret-env", "OTHER"], "no signature fits", 401),
    ]
    .into_iter()
    .enumerate()
    {
        let mut command = Command::new(crate::harness::binary());
        command.args(["listen", &address.to_string(), "--json", "--count", "1"]).args(arguments);
        command.env("OTHER", SECOND).stdout(Stdio::piped()).stderr(Stdio::null());
        let listen = command.spawn().unwrap();
        eventually("it listens", SOON, || std::net::TcpStream::connect(address).is_ok());
        site.producer().post("/v1/events", &[], b"{}").unwrap();
        let output = listen.wait_with_output().unwrap();
        let line: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&line["signature"], &line["status"]), (&verdict.into(), &status.into()));
        assert_eq!(line["body"], "{}", "number {number}");
    }
    daemon.stop();
}
