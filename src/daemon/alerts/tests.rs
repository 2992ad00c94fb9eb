use super::*;
use crate::config::Which;

fn alert(name: &str, on: &[On]) -> Alert {
    Alert {
        name: name.to_owned(),
        on: on.to_vec(),
        which: Which::Final,
        threshold: None,
        connections: vec!["*".to_owned()],
        to: "pager".to_owned(),
        min_interval: Duration::from_secs(60),
    }
}

fn at(seconds: u64) -> Now {
    Now { monotonic: Duration::from_secs(seconds), wall_ms: 1_000 * seconds }
}

fn breaker() -> Trouble {
    Trouble::BreakerOpened { open_for: Duration::from_millis(1500), code: Cause::ConnectTimeout }
}

fn failed(first: bool, last: bool) -> Trouble {
    let (cause, status) = (Cause::HttpStatus, 503);
    Trouble::Failed(Failure { event: None, first, last, attempts: 1, cause, status })
}

/// The type, connection and count of each.
fn told(raised: &[Raised]) -> Vec<(String, Option<String>, u64)> {
    let one = |raised: &Raised| {
        let body: serde_json::Value = serde_json::from_slice(&raised.body).unwrap();
        assert_eq!(
            (body["type"].as_str(), body["alert"].as_str()),
            (Some(raised.kind), Some(&*raised.alert))
        );
        let connection = body["connection"].as_str().map(str::to_owned);
        (raised.kind.to_owned(), connection, body["count"].as_u64().unwrap())
    };
    raised.iter().map(one).collect()
}

fn one(kind: &str, connection: &str, count: u64) -> Vec<(String, Option<String>, u64)> {
    vec![(kind.to_owned(), Some(connection.to_owned()), count)]
}

const OPENED: &str = "posthaste.breaker.opened";

#[test]
fn repeats_are_folded_and_told_at_the_end_of_their_interval() {
    let mut alerts = Alerts::new(&[alert("ops", &[On::BreakerOpen])], 7);
    let first = alerts.raise(Some("crm"), &breaker(), at(0));
    assert_eq!(told(&first), one(OPENED, "crm", 1));
    assert_eq!((first[0].to.as_str(), first[0].kind), ("pager", OPENED));
    // Another connection is another thing.
    assert_eq!(told(&alerts.raise(Some("erp"), &breaker(), at(1))), one(OPENED, "erp", 1));
    for second in 2..5 {
        assert_eq!(alerts.raise(Some("crm"), &breaker(), at(second)), []);
    }
    assert_eq!(alerts.tick(at(59)), []);
    // At the latest of them, 4 s.
    let folded = alerts.tick(at(61));
    assert_eq!(told(&folded), one(OPENED, "crm", 3));
    assert!(String::from_utf8_lossy(&folded[0].body).contains("1970-01-01T00:00:04.000Z"));
    assert_ne!(folded[0].event, first[0].event);
    // That began an interval; when nothing came in it, the next one is new.
    assert_eq!(alerts.raise(Some("crm"), &breaker(), at(120)), []);
    assert_eq!(told(&alerts.raise(Some("crm"), &breaker(), at(121))), one(OPENED, "crm", 2));
    assert_eq!(alerts.tick(at(300)), []);
    assert!(alerts.intervals.is_empty());
    assert_eq!(told(&alerts.raise(Some("crm"), &breaker(), at(301))), one(OPENED, "crm", 1));
    let shown = alerts.describe();
    assert_eq!((shown[0].raised, shown[0].suppressed), (5, 4));
    let last = shown[0].last.as_ref().unwrap();
    assert_eq!((last.kind.as_str(), last.at.as_str()), (OPENED, "1970-01-01T00:05:01.000Z"));
}

#[test]
fn nothing_is_told_of_a_connection_that_alerts_are_sent_to() {
    let other = Alert { to: "mail".to_owned(), ..alert("other", &On::ALL) };
    let all =
        Alert { which: Which::Both, threshold: Some(Duration::ZERO), ..alert("ops", &On::ALL) };
    let mut alerts = Alerts::new(&[all, other], 7);
    for receiver in ["pager", "mail"] {
        assert_eq!(alerts.wanted(receiver), Wanted::default());
        for trouble in [
            breaker(),
            failed(true, true),
            Trouble::BacklogAge(Duration::from_secs(9)),
            Trouble::Disabled(SuspensionKind::Gone),
        ] {
            assert_eq!(alerts.raise(Some(receiver), &trouble, at(0)), []);
            assert!(!alerts.raise(Some("crm"), &trouble, at(0)).is_empty(), "{trouble:?}");
            alerts.intervals.clear();
        }
    }
    let everything = Wanted { first_failures: true, dead: true, breaker: true };
    assert_eq!(alerts.wanted("crm"), everything);
}

#[test]
fn failures_are_told_as_which_says() {
    let (failed_first, dead) = (Some("posthaste.delivery.failed"), Some("posthaste.delivery.dead"));
    for (which, first, last, expected) in [
        (Which::First, true, false, failed_first),
        (Which::First, true, true, failed_first),
        (Which::First, false, true, None),
        (Which::Final, true, false, None),
        (Which::Final, true, true, dead),
        (Which::Final, false, true, dead),
        (Which::Both, true, false, failed_first),
        (Which::Both, true, true, dead),
        (Which::Both, false, true, dead),
    ] {
        let alert = Alert { which, ..alert("ops", &[On::DeliveryFailed]) };
        let mut alerts = Alerts::new(&[alert], 7);
        let raised = alerts.raise(Some("crm"), &failed(first, last), at(0));
        let kinds: Vec<_> = raised.iter().map(|raised| raised.kind).collect();
        assert_eq!(kinds, expected.into_iter().collect::<Vec<_>>(), "{which:?} {first} {last}");
        let wanted = alerts.wanted("crm");
        assert_eq!((wanted.first_failures, wanted.dead), (which.first(), which.last()));
        assert!(!wanted.breaker);
    }
}

#[test]
fn an_age_is_told_over_the_threshold_and_again_after_the_interval() {
    let on = [On::BacklogAge];
    let alert = Alert { threshold: Some(Duration::from_secs(10)), ..alert("ops", &on) };
    let mut alerts = Alerts::new(&[alert], 7);
    assert!(alerts.any_on(On::BacklogAge) && !alerts.any_on(On::Disabled));
    let mut age = |seconds, now| {
        let raised =
            alerts.raise(Some("crm"), &Trouble::BacklogAge(Duration::from_secs(seconds)), at(now));
        let ticked = alerts.tick(at(now));
        assert_eq!(ticked, [], "an age is not folded");
        told(&raised)
    };
    assert_eq!(age(9, 0), []);
    assert_eq!(age(10, 1), one("posthaste.backlog.old", "crm", 1));
    assert_eq!(age(15, 6), []);
    assert_eq!(age(70, 61), one("posthaste.backlog.old", "crm", 1));
}

#[test]
fn only_what_the_patterns_match_is_looked_at() {
    let patterns = vec!["crm-*".to_owned(), "erp".to_owned()];
    let on = [On::Disabled, On::ConfigRejected];
    let mut alerts = Alerts::new(&[Alert { connections: patterns, ..alert("ops", &on) }], 7);
    let mut disabled = |name: &str, kind| {
        let raised = alerts.raise(Some(name), &Trouble::Disabled(kind), at(0));
        raised.first().map(|raised| raised.kind)
    };
    assert_eq!(disabled("crm-eu", SuspensionKind::Gone), Some("posthaste.connection.disabled"));
    assert_eq!(disabled("erp", SuspensionKind::Halted), Some("posthaste.connection.halted"));
    assert_eq!(disabled("shop", SuspensionKind::FailingTooLong), None);
    // What is about no connection is about all alerts that want it.
    let rejected =
        Trouble::ConfigRejected { errors: 3, messages: vec!["a.toml:1:1: no".to_owned()] };
    let raised = alerts.raise(None, &rejected, at(0));
    let body: serde_json::Value = serde_json::from_slice(&raised[0].body).unwrap();
    assert_eq!((&body["connection"], &body["details"]["errors"]), (&().into(), &3.into()));
    assert_eq!(body["details"]["messages"][0], "a.toml:1:1: no");
    assert_eq!(alerts.raise(Some("erp"), &breaker(), at(0)), []);
}

#[test]
fn a_reload_keeps_what_goes_on_and_forgets_the_rest() {
    let ops = || alert("ops", &[On::BreakerOpen]);
    let mut alerts = Alerts::new(&[ops(), alert("old", &[On::BreakerOpen])], 7);
    assert_eq!(alerts.raise(Some("crm"), &breaker(), at(0)).len(), 2);
    assert_eq!(alerts.raise(Some("erp"), &breaker(), at(0)).len(), 2);
    assert_eq!(alerts.raise(Some("crm"), &breaker(), at(1)).len(), 0);
    let to_erp = Alert { to: "erp".to_owned(), ..ops() };
    alerts.change_to(&[alert("new", &[On::BreakerOpen]), to_erp]);
    let shown = alerts.describe();
    let counts: Vec<_> =
        shown.iter().map(|one| (one.name.as_str(), one.raised, one.suppressed)).collect();
    assert_eq!(counts, [("new", 0, 0), ("ops", 2, 1)]);
    // The interval of `ops` goes on; `new` has none; `erp` delivers alerts now.
    let raised = alerts.raise(Some("crm"), &breaker(), at(2));
    assert_eq!(raised.iter().map(|one| one.alert.as_str()).collect::<Vec<_>>(), ["new"]);
    assert_eq!(alerts.raise(Some("erp"), &breaker(), at(100)), []);
    let later = alerts.tick(at(61));
    assert_eq!((told(&later), later[0].to.as_str()), (one(OPENED, "crm", 2), "erp"));
}

#[test]
fn intervals_are_bounded() {
    let mut alerts = Alerts::new(&[alert("ops", &[On::BreakerOpen])], 7);
    for number in 0..INTERVALS_MAX + 3 {
        alerts.raise(Some(&format!("c{number}")), &breaker(), at(0));
    }
    assert_eq!(alerts.intervals.len(), INTERVALS_MAX);
    assert_eq!((alerts.take_dropped(), alerts.take_dropped()), (3, 0));
}
