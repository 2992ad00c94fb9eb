//! What a receiver meets: the bytes, the headers, the retries, the limits.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::harness::producer::sha256;
use crate::harness::{
    Behaviour, Daemon, Ledger, Oracle, Receiver, SOON, Site, eventually, now, seed,
};

const QUICK: &str = "retry = { interval = \"50ms\", max_interval = \"50ms\", jitter = \"none\" }";

/// Promise 5 of spec 2: every body goes out as it came, from nothing to `max_body`.
#[test]
fn body_goes_out_byte_for_byte() {
    let mut rng = fastrand::Rng::with_seed(seed());
    let receiver = Receiver::start(Behaviour::ok());
    let site = Site::new();
    site.connection("crm", &receiver.url("crm"), "");
    let mut daemon = Daemon::start(&site);
    let ledger = Ledger::default();
    let mut producer = site.producer();
    for length in [0, 1, 7, 8, 4095, 4096, 65_535, 65_536, 1_000_000, 1 << 20] {
        let body: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(length).collect();
        let kind = format!("application/x-{length}");
        ledger.note_posted(sha256(&body));
        let answer = producer.post("/v1/events", &[("content-type", &kind)], &body).unwrap();
        assert_eq!(answer.status, 202, "{length}: {}", answer.json);
        ledger.note_acknowledged(answer.id(), sha256(&body));
    }
    eventually("all arrive", SOON, || receiver.delivered("crm") == 10);
    let dead = BTreeSet::new();
    let oracle = Oracle { ledger: &ledger, connections: &["crm"], dead: &dead };
    let arrivals = receiver.arrivals();
    let verdict = oracle.judge(&arrivals);
    verdict.assert_clean();
    assert_eq!(verdict.duplicates, 0);
    for arrival in arrivals {
        let kind = format!("application/x-{}", arrival.length);
        assert_eq!(arrival.header("content-type"), Some(kind.as_str()));
        assert_eq!(arrival.method, "POST");
        assert!(arrival.header("user-agent").unwrap().starts_with("posthaste/"));
        assert!(arrival.header("webhook-timestamp").unwrap().parse::<u64>().is_ok());
        assert_eq!(arrival.attempt, 1);
    }
    daemon.drained(&["crm"]);
    daemon.stop();
}

/// Promise 3 of spec 2: the same id and bytes at each attempt, and attempts are numbered from 1.
#[test]
fn webhook_id_is_the_same_at_each_attempt() {
    let receiver = Receiver::start(Behaviour::status(503));
    let site = Site::new();
    site.connection("crm", &receiver.url("crm"), QUICK);
    let mut daemon = Daemon::start(&site);
    let answer = site.producer().post("/v1/events", &[], b"same").unwrap();
    eventually("three attempts", SOON, || receiver.count() >= 3);
    receiver.behave(Behaviour::ok());
    eventually("delivered", SOON, || receiver.delivered("crm") == 1);
    for (number, arrival) in (1..).zip(receiver.arrivals()) {
        assert_eq!((arrival.id.as_str(), arrival.attempt), (answer.id(), number));
        assert_eq!(arrival.sha256, sha256(b"same"));
    }
    daemon.drained(&["crm"]);
    daemon.stop();
}

/// Promise 13 of spec 2: a redirect is a failure like others, and nobody goes where it points.
#[test]
fn redirects_are_never_followed() {
    let target = Receiver::start(Behaviour::ok());
    let site = Site::new();
    let location = target.url("stolen");
    let receivers: Vec<Receiver> = [301, 302, 303, 307, 308]
        .map(|status| Receiver::start(Behaviour::with(status, &[("location", &location)])))
        .into();
    for (number, receiver) in receivers.iter().enumerate() {
        let name = format!("c{number}");
        site.connection(&name, &receiver.url(&name), "retry = { strategy = \"none\" }");
    }
    let mut daemon = Daemon::start(&site);
    assert_eq!(site.producer().post("/v1/events", &[], b"x").unwrap().status, 202);
    let names = ["c0", "c1", "c2", "c3", "c4"];
    let metrics = daemon.drained(&names);
    for name in names {
        let dead = [("connection", name), ("outcome", "dead")];
        assert_eq!(metrics.sum("posthaste_deliveries_total", &dead), 1.0, "{name}");
        let redirects = [("connection", name), ("code", "redirect")];
        assert_eq!(metrics.sum("posthaste_delivery_attempts_total", &redirects), 1.0, "{name}");
    }
    assert!(receivers.iter().all(|receiver| receiver.count() == 1));
    assert_eq!((target.count(), target.opened()), (0, 0));
    daemon.stop();
}

/// Spec 5: Retry-After on 429 and 503 holds the whole connection, not only the delivery that was told.
#[test]
fn retry_after_holds_the_connection() {
    for status in [429, 503] {
        let receiver = Receiver::start(Behaviour::with(status, &[("retry-after", "2")]));
        let site = Site::new();
        let one = format!("{QUICK}\npool = {{ max_per_host = 1, max_total = 1 }}");
        site.connection("crm", &receiver.url("crm"), &one);
        let mut daemon = Daemon::start(&site);
        let mut producer = site.producer();
        producer.post("/v1/events", &[], b"first").unwrap();
        eventually("the first attempt", SOON, || receiver.count() == 1);
        receiver.behave(Behaviour::ok());
        for _ in 0..5 {
            producer.post("/v1/events", &[], b"behind").unwrap();
        }
        eventually("all", SOON, || receiver.delivered("crm") == 6);
        let arrivals = receiver.arrivals();
        let pause = arrivals[1].at - arrivals[0].at;
        let held = Duration::from_millis(1_900)..Duration::from_secs(10);
        assert!(held.contains(&pause), "{status}: {pause:?}");
        daemon.drained(&["crm"]);
        daemon.stop();
    }
}

/// Spec 3: in any interval T at most `burst + limit x T / per` sends, and no fewer than it may.
#[test]
fn rate_limit_is_never_exceeded() {
    let receiver = Receiver::start(Behaviour::ok());
    let site = Site::new();
    let limit = "rate_limit = { limit = 100, per = \"second\", burst = 10 }";
    site.connection("crm", &receiver.url("crm"), limit);
    let mut daemon = Daemon::start(&site);
    let mut producer = site.producer();
    for _ in 0..210 {
        producer.post("/v1/events", &[], b"x").unwrap();
    }
    eventually("all", SOON, || receiver.delivered("crm") == 210);
    let at: Vec<_> = receiver.arrivals().iter().map(|arrival| arrival.at).collect();
    for (first, start) in at.iter().enumerate() {
        for (last, end) in at.iter().enumerate().skip(first) {
            let sends = (last - first + 1) as f64;
            // 25 ms for the way from the daemon's clock to the receiver's.
            let allowed = 10.0 + 100.0 * ((*end - *start).as_secs_f64() + 0.025);
            assert!(sends <= allowed.ceil(), "{sends} sends where {allowed} were allowed");
        }
    }
    let took = at[at.len() - 1] - at[0];
    assert!(took < Duration::from_secs(6), "210 sends took {took:?}");
    daemon.drained(&["crm"]);
    daemon.stop();
}

/// Spec 5: a kept connection that the peer closed is replaced at once, and that is no attempt.
#[test]
fn a_closed_kept_connection_is_no_attempt() {
    let receiver = Receiver::start(Behaviour::ok().closing());
    let site = Site::new();
    site.connection("crm", &receiver.url("crm"), "retry = { strategy = \"none\" }");
    let mut daemon = Daemon::start(&site);
    let mut producer = site.producer();
    for number in 1..=50 {
        assert_eq!(producer.post("/v1/events", &[], b"x").unwrap().status, 202);
        eventually("it arrives", SOON, || receiver.delivered("crm") == number);
    }
    let metrics = daemon.drained(&["crm"]);
    let dead = [("connection", "crm"), ("outcome", "dead")];
    assert_eq!(metrics.sum("posthaste_deliveries_total", &dead), 0.0);
    assert_eq!(receiver.count(), 50);
    daemon.stop();
}

/// Spec 5: which statuses are tried again and which are the end.
#[test]
fn statuses_are_retried_or_dead_as_the_table_says() {
    let site = Site::new();
    let table: [(u16, bool); 10] = [
        (400, false),
        (401, false),
        (404, false),
        (408, true),
        (410, false),
        (425, true),
        (429, true),
        (500, true),
        (501, false),
        (505, false),
    ];
    let receivers: Vec<(String, Receiver)> = table
        .iter()
        .map(|(status, _)| (format!("s{status}"), Receiver::start(Behaviour::status(*status))))
        .collect();
    for (name, receiver) in &receivers {
        site.connection(name, &receiver.url(name), QUICK);
    }
    let mut daemon = Daemon::start(&site);
    assert_eq!(site.producer().post("/v1/events", &[], b"x").unwrap().status, 202);
    for ((_, retried), (name, receiver)) in table.iter().zip(&receivers) {
        let label = ("connection", name.as_str());
        if *retried {
            eventually(name, SOON, || receiver.count() >= 3);
            receiver.behave(Behaviour::ok());
            eventually(name, SOON, || receiver.delivered(name) == 1);
        } else {
            let dead = [label, ("outcome", "dead")];
            eventually(name, SOON, || {
                daemon.metrics().sum("posthaste_deliveries_total", &dead) == 1.0
            });
            assert_eq!(receiver.count(), 1, "{name}");
        }
    }
    daemon.stop();
}

/// Spec 3: `request_timeout` ends an attempt that hangs or trickles, and the connection goes on.
#[test]
fn a_hung_or_trickling_answer_ends_at_its_timeout() {
    for behaviour in [Behaviour::Hang, Behaviour::Trickle(Duration::from_millis(50))] {
        let receiver = Receiver::start(behaviour);
        let site = Site::new();
        let rest = format!("request_timeout = \"1s\"\n{QUICK}");
        site.connection("crm", &receiver.url("crm"), &rest);
        let mut daemon = Daemon::start(&site);
        let begun = now();
        site.producer().post("/v1/events", &[], b"x").unwrap();
        eventually("a second attempt", SOON, || receiver.count() == 2);
        assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
        receiver.behave(Behaviour::ok());
        eventually("delivered", SOON, || receiver.delivered("crm") == 1);
        let metrics = daemon.drained(&["crm"]);
        let timeouts = [("connection", "crm"), ("code", "request_timeout")];
        assert!(metrics.sum("posthaste_delivery_attempts_total", &timeouts) >= 1.0);
        daemon.stop();
    }
}
