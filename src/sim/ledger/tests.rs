//! The oracle tested: what it must notice, one by one.

use super::*;

const NOON: u64 = 1000;

/// A ledger in which event 1 was accepted for connection 0.
fn ledger() -> (Ledger, Key) {
    let plan = Plan::draw(&mut fastrand::Rng::with_seed(1));
    let mut ledger = Ledger::new(&plan);
    let event = EventId::new(1_700_000_000_000, &mut fastrand::Rng::with_seed(1));
    ledger.posts.insert(1, Post { size: 64, ..Post::default() });
    let routes = std::collections::BTreeSet::from([0]);
    let answer = Answer::Pending;
    let one = Try { life: 1, at: 0, may: routes.clone(), must: routes, answer };
    let place = ledger.posted(1, one);
    ledger.told(1, place, Answer::Accepted { id: event, at: 1 });
    (ledger, Key { event, connection: 0 })
}

fn attempt(key: Key, number: u32, life: u32) -> Attempt {
    Attempt { key, number, replay: false, life }
}

/// Delivers event 1 in life 1, with a clear yes.
fn deliver(ledger: &mut Ledger, key: Key) {
    let place = ledger.received(attempt(key, 1, 1), Act::NoContent, &body(1, 64), NOON);
    ledger.answered(key, place, NOON);
}

/// What the ledger has to say after `change`.
fn after(change: impl FnOnce(&mut Ledger, Key)) -> String {
    let (mut ledger, key) = ledger();
    change(&mut ledger, key);
    ledger.settle_up();
    ledger.broken.unwrap_or_default()
}

fn check(expected: &str, change: impl FnOnce(&mut Ledger, Key)) {
    let said = after(change);
    assert!(said.contains(expected), "{said:?} does not say {expected:?}");
}

#[test]
fn what_is_right_is_not_complained_of() {
    assert_eq!(after(deliver), "");
}

#[test]
fn a_lost_event_is_noticed() {
    check("never delivered", |_, _| {});
    check("never delivered", |ledger, key| {
        ledger.received(attempt(key, 1, 1), Act::Status(500), &body(1, 64), NOON);
    });
}

#[test]
fn altered_and_spurious_events_are_noticed() {
    check("altered", |ledger, key| {
        let mut flipped = body(1, 64);
        flipped[40] ^= 1;
        ledger.received(attempt(key, 1, 1), Act::NoContent, &flipped, NOON);
    });
    check("never posted", |ledger, key| {
        ledger.received(attempt(key, 1, 1), Act::NoContent, &body(2, 64), NOON);
    });
    check("was not for c1", |ledger, key| {
        let elsewhere = Key { connection: 1, ..key };
        ledger.received(attempt(elsewhere, 1, 1), Act::NoContent, &body(1, 64), NOON);
    });
}

#[test]
fn duplicates_are_noticed_unless_the_marks_may_be_lost() {
    check("came again", |ledger, key| {
        deliver(ledger, key);
        deliver(ledger, key);
    });
    let again = |how: Ending, ended: u64| {
        after(move |ledger, key| {
            deliver(ledger, key);
            ledger.life_ended(1, NOON + ended, how, (false, false));
            ledger.received(attempt(key, 1, 2), Act::NoContent, &body(1, 64), NOON + 5000);
        })
    };
    for (how, within, too_late) in
        [(Ending::Crash, 900, 1500), (Ending::Kill, 15, 900), (Ending::Stop, 50, 150)]
    {
        assert_eq!(again(how, within), "", "{how:?}");
        assert!(again(how, too_late).contains("came again"), "{how:?}");
    }
}

#[test]
fn an_early_retry_and_one_that_ignores_the_target_are_noticed() {
    check("attempt 2 came 1 ms after", |ledger, key| {
        ledger.received(attempt(key, 1, 1), Act::Status(500), &body(1, 64), NOON);
        ledger.received(attempt(key, 2, 1), Act::NoContent, &body(1, 64), NOON + 1);
    });
    check("and not 20000", |ledger, key| {
        ledger.received(attempt(key, 1, 1), Act::Throttle(429, 60), &body(1, 64), NOON);
        ledger.received(attempt(key, 2, 1), Act::NoContent, &body(1, 64), NOON + 19_000);
    });
}

#[test]
fn what_was_cancelled_and_comes_back_is_noticed() {
    check("was cancelled", |ledger, key| {
        ledger.discarded(0, NOON - 1, 1, true);
        ledger.received(attempt(key, 1, 2), Act::NoContent, &body(1, 64), NOON);
    });
}

#[test]
fn two_events_of_one_key_and_refused_ones_are_noticed() {
    check("several ids", |ledger, key| {
        deliver(ledger, key);
        let again = ledger.posts[&1].tries[0].clone();
        let place = ledger.posted(1, again);
        let id = EventId::new(0, &mut fastrand::Rng::with_seed(2));
        ledger.told(1, place, Answer::Accepted { id, at: 2 });
    });
    check("refused by the process", |ledger, key| {
        ledger.told(1, 0, Answer::Refused(503));
        ledger.received(attempt(key, 1, 1), Act::NoContent, &body(1, 64), NOON);
    });
}
