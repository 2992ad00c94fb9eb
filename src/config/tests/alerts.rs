//! `[[alert]]`.

use super::*;
use crate::config::{Alert, On, Which};

const PAGER: &str = "[[connection]]\nname = \"pager\"\nurl = \"http://x/\"\n\
    [[connection]]\nname = \"crm\"\nurl = \"http://x/\"\n";

fn load(text: &str) -> Loaded {
    loaded(&[("posthaste.toml", text), ("connections.d/a.toml", PAGER)], &[])
}

#[test]
fn every_key_of_an_alert() {
    let short = "[[alert]]\nname = \"ops\"\non = [\"disabled\"]\nto = \"pager\"\n";
    let long = "[[alert]]\nname = \"late\"\n\
        on = [\"backlog_age\", \"delivery_failed\", \"backlog_age\"]\nwhich = \"both\"\nthreshold = \"10m\"\n\
        connections = [\"c*\"]\nto = \"pager\"\nmin_interval = \"1s\"\n";
    let loaded = load(&format!("{short}{long}"));
    assert_eq!(warnings(&loaded), [""; 0]);
    let expected = [
        Alert {
            name: "ops".to_owned(),
            on: vec![On::Disabled],
            which: Which::Final,
            threshold: None,
            connections: vec!["*".to_owned()],
            to: "pager".to_owned(),
            min_interval: Duration::from_secs(300),
        },
        Alert {
            name: "late".to_owned(),
            on: vec![On::BacklogAge, On::DeliveryFailed],
            which: Which::Both,
            threshold: Some(Duration::from_secs(600)),
            connections: vec!["c*".to_owned()],
            to: "pager".to_owned(),
            min_interval: Duration::from_secs(1),
        },
    ];
    assert_eq!(loaded.config.daemon.alerts, expected);
    let summary = crate::config::summary::check_report(&loaded).to_string();
    assert!(
        summary.contains("alert late tells pager of backlog_age, delivery_failed\n"),
        "{summary}"
    );
}

#[test]
fn what_looks_at_nothing_is_warned_about() {
    let alert = |patterns: &str| {
        let text = format!(
            "[[alert]]\nname = \"ops\"\non = [\"disabled\"]\nto = \"pager\"\nconnections = [{patterns}]\n"
        );
        warnings(&load(&text)).join("\n")
    };
    assert_eq!(alert("\"crm\", \"*\""), "");
    let nothing = alert("\"shop-*\"");
    assert!(
        nothing.contains("posthaste.toml:5:16") && nothing.contains("matches no connection"),
        "{nothing}"
    );
    let pager = alert("\"p*\"");
    assert!(pager.contains("matches only what alerts are sent to"), "{pager}");
}
