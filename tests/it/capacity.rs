//! Promise 7 of spec 2: what happens at the limits, and that it ends when there is room again.

use std::collections::BTreeSet;
use std::fs;

use crate::harness::{Behaviour, Daemon, Ledger, Oracle, Receiver, SOON, Site, eventually, now};

/// A body that fills a small store quickly.
const BODY: usize = 256 * 1024;

/// When the store's cap is reached, ingress refuses with 507 and drops nothing; when it has drained, ingress goes on and
/// the files are given back.
#[test]
fn a_full_store_refuses_and_goes_on_when_it_has_drained() {
    let receiver = Receiver::refusing();
    receiver.behave(Behaviour::ok());
    let site = Site::new();
    let text = fs::read_to_string(site.config()).unwrap();
    let capped = text.replace("[store]\n", "[store]\nmax_bytes = \"24MiB\"\n");
    assert_ne!(text, capped);
    fs::write(site.config(), capped).unwrap();
    let quick = "retry = { interval = \"200ms\", max_interval = \"500ms\", count = 10000 }\nbreaker = { enabled = false }";
    site.connection("crm", &receiver.url("crm"), quick);
    let mut daemon = Daemon::start(&site);
    let ledger = Ledger::default();
    let mut producer = site.producer();
    let mut rng = fastrand::Rng::with_seed(7);
    let refused = (0..200).find_map(|_| {
        let body: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(BODY).collect();
        let answer = producer.event(&ledger, &body).unwrap();
        // Memory may be full for a moment, while what was posted is on its way to the disk.
        assert!(matches!(answer.status, 202 | 503 | 507), "{}: {}", answer.status, answer.json);
        (answer.status == 507).then_some(answer)
    });
    let refused = refused.expect("a 507 before 50 MiB");
    assert!(refused.message.header("retry-after").is_some(), "{refused:?}");
    let taken = ledger.len();
    assert!(taken * BODY > 8 << 20, "{taken} events of {BODY} bytes in 24 MiB");
    assert!(bytes_in(&site) <= 24 << 20, "{} bytes", bytes_in(&site));
    receiver.listen();
    let what = format!("all {taken} that were taken arrive");
    eventually_or(&what, &daemon, || receiver.delivered("crm") >= taken);
    eventually("ingress goes on", SOON, || producer.event(&ledger, b"new").unwrap().status == 202);
    eventually_or("the new ones arrive", &daemon, || receiver.delivered("crm") >= ledger.len());
    let dead = BTreeSet::new();
    let oracle = Oracle { ledger: &ledger, connections: &["crm"], dead: &dead };
    oracle.judge(&receiver.arrivals()).assert_clean();
    daemon.drained(&["crm"]);
    daemon.stop();
}

/// Payloads of many times a connection's share of the memory, through many rounds of refused attempts: none gets stuck.
#[test]
fn large_events_outlast_a_refusing_endpoint() {
    let receiver = Receiver::refusing();
    receiver.behave(Behaviour::ok());
    let site = Site::new();
    let quick = "retry = { interval = \"100ms\", max_interval = \"200ms\", count = 10000 }\nbreaker = { enabled = false }";
    site.connection("crm", &receiver.url("crm"), quick);
    let mut daemon = Daemon::start(&site);
    let mut producer = site.producer();
    let mut taken = 0;
    while taken < 75 {
        let body = [7; BODY];
        taken += usize::from(producer.post("/v1/events", &[], &body).unwrap().status == 202);
    }
    let refused = [("connection", "crm"), ("code", "connect_refused")];
    eventually_or("five attempts of each", &daemon, || {
        daemon.metrics().sum("posthaste_delivery_attempts_total", &refused) >= 5.0 * 75.0
    });
    receiver.listen();
    eventually_or("all arrive", &daemon, || receiver.delivered("crm") == taken);
    daemon.drained(&["crm"]);
    daemon.stop();
}

/// Segments without a live delivery are given back: a store that has drained is small, however much went through.
#[test]
fn drained_segments_are_given_back() {
    let receiver = Receiver::start(Behaviour::ok());
    let site = Site::new();
    site.connection("crm", &receiver.url("crm"), "");
    let mut daemon = Daemon::start(&site);
    let mut producer = site.producer();
    let mut sent = 0;
    while sent < 160 {
        // 503 says that memory is full until the disk has caught up.
        sent += u64::from(producer.post("/v1/events", &[], &[7; BODY]).unwrap().status == 202);
    }
    daemon.drained(&["crm"]);
    let gone_through = sent * BODY as u64;
    eventually("segments are given back", SOON, || bytes_in(&site) < gone_through / 2);
    daemon.stop();
}

/// Waits, and shows the metrics when it was in vain.
#[track_caller]
fn eventually_or(what: &str, daemon: &Daemon<'_>, mut condition: impl FnMut() -> bool) {
    let begun = now();
    eventually(what, SOON * 2, || {
        let holds = condition();
        if !holds && begun.elapsed() > SOON {
            panic!("not within {SOON:?}: {what}\n{}", daemon.metrics().text);
        }
        holds
    });
}

/// Bytes that the store's files take.
fn bytes_in(site: &Site) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut directories = vec![site.store()];
    let mut sum = 0;
    while let Some(directory) = directories.pop() {
        // Files come and go while we look.
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => directories.push(entry.path()),
                Ok(meta) => sum += meta.blocks() * 512,
                Err(_) => {}
            }
        }
    }
    sum
}
