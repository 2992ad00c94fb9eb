//! `posthaste doctor` against the built binary: with a daemon and without one, and with things that are wrong.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::harness::daemon::posthaste;
use crate::harness::{Behaviour, Daemon, Receiver, SOON, Site, eventually};

/// What it says of a site, and the exit code.
fn examined(site: &Site) -> (Value, Option<i32>) {
    let output = posthaste(site, &["doctor", "--json"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let report = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (report, output.status.code())
}

/// The checks of a name, each as `verdict detail advice`.
fn of(report: &Value, name: &str) -> Vec<String> {
    let checks = report["checks"].as_array().unwrap().iter();
    let said = checks.filter(|check| check["name"] == name).map(|check| {
        let text = |key: &str| check[key].as_str().unwrap_or_default();
        format!("{} {} {}", text("verdict"), text("detail"), text("advice"))
    });
    said.collect()
}

#[track_caller]
fn says(report: &Value, name: &str, verdict: &str, text: &str) {
    let said = of(report, name);
    let found = said.iter().any(|one| one.starts_with(verdict) && one.contains(text));
    assert!(found, "{name} is not {verdict} with {text:?}: {said:?}");
}

fn files(site: &Site) -> BTreeSet<String> {
    let entries = fs::read_dir(site.store()).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

/// Issue 6: a healthy host, with a daemon and without it; the daemon and its files are not disturbed.
#[test]
fn a_healthy_host_fails_nothing_with_a_daemon_and_without() {
    let receiver = Receiver::start(Behaviour::ok());
    let site = Site::new();
    site.connection("crm", &receiver.url("crm"), "");
    let (report, code) = examined(&site);
    assert_eq!(code, Some(0), "{report:#}");
    says(&report, "daemon", "warning", &site.admin_unix().display().to_string());
    says(&report, "store", "ok", "first start");
    assert_eq!(of(&report, "listener").len(), 4, "{report:#}");
    assert!(of(&report, "listener").iter().all(|one| one.contains("free")), "{report:#}");
    assert!(!site.store().exists() && !site.unix().exists(), "it made something");
    let mut daemon = Daemon::start(&site);
    let before = files(&site);
    let (report, code) = examined(&site);
    assert_eq!(code, Some(0), "{report:#}");
    says(&report, "daemon", "ok", &format!("pid {}", daemon.id()));
    says(&report, "systemd", "ok", "no unit");
    says(&report, "limits", "", "the daemon may open");
    says(&report, "fdatasync", "", " ms in the middle");
    let taken = of(&report, "listener");
    assert!(taken.iter().all(|one| one.contains("the daemon's")), "{taken:?}");
    assert_eq!(files(&site), before);
    for name in
        ["configuration", "permissions", "space", "file system", "dns", "tls roots", "clock"]
    {
        assert_eq!(of(&report, name).len(), 1, "{name}: {report:#}");
    }
    let text = daemon.cli(&["doctor"]);
    assert!(String::from_utf8_lossy(&text.stdout).contains("0 failed"), "{text:?}");
    site.producer().post("/v1/events", &[], b"x").unwrap();
    eventually("it delivers as before", SOON, || receiver.delivered("crm") == 1);
    daemon.stop();
}

/// Each thing that is wrong is a failure of its own, with what to do.
#[test]
fn what_is_wrong_is_named_with_what_to_do() {
    let site = Site::new();
    let secret = site.path().join("token");
    fs::write(&secret, "canary-of-the-doctor").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    let auth = format!("auth.bearer.token = {{ file = \"{}\" }}", secret.display());
    site.connection("crm", "http://no-such-host.invalid/", &auth);
    let _taken = std::net::TcpListener::bind(site.ingress).unwrap();
    fs::write(site.unix(), "in the way").unwrap();
    fs::write(site.store(), "in the way").unwrap();
    let (report, code) = examined(&site);
    assert_eq!(code, Some(1), "{report:#}");
    assert_eq!(report["ok"], false);
    says(&report, "permissions", "failed", "chmod o-r");
    says(&report, "listener", "failed", &site.ingress.to_string());
    says(&report, "listener", "failed", "is not a socket");
    says(&report, "store", "failed", "move it away");
    says(&report, "dns", "failed", "no-such-host.invalid");
    assert!(!report.to_string().contains("canary"), "{report:#}");
    site.replace("crm.toml", "[[connection]]\nname = \"crm\"\nurl = 7\n");
    let (report, code) = examined(&site);
    assert_eq!(code, Some(1), "{report:#}");
    says(&report, "configuration", "failed", "crm.toml:3:7");
}

/// A reload that the daemon refused stays in sight.
#[test]
fn a_refused_reload_is_a_failure() {
    let site = Site::new();
    let mut daemon = Daemon::start(&site);
    site.replace("crm.toml", "nonsense");
    eventually("it is refused", SOON, || {
        daemon.metrics().sum("posthaste_config_last_reload_successful", &[]) == 0.0
    });
    let (report, code) = examined(&site);
    assert_eq!(code, Some(1), "{report:#}");
    says(&report, "daemon", "failed", "the last reload was refused");
    daemon.stop();
}
