//! Idempotency: the same key makes one event.
//!
//! A producer that does not know whether its post was taken posts again with the same key, and gets the first event's
//! answer. [`Idempotency`] is asked once per post that has a key, under one lock over all runtimes; posts without a key
//! never come here.
//!
//! | the key is | the answer |
//! |---|---|
//! | new | [`Answer::Claimed`]: the caller stores the event and says how it went |
//! | known, same type and body | [`Answer::Known`]: the first event's id |
//! | being stored, same type and body | [`Answer::Pending`]: whatever the first one gets |
//! | known or being stored, other type or body | [`Answer::Conflict`] |
//!
//! When the first one fails, its key is released and those that wait get the same failure: it is nearly always one that
//! they would get as well, and their producers know how to post again. A key whose event was not stored is not remembered,
//! also where nothing had to be stored.
//!
//! Keys are per source. A post to one connection is no fan-out, so it has a scope of its own: the connection's name.

mod known;
mod places;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{HeaderMap, HeaderName};
use metrics::{Counter, Gauge};
use tokio::sync::watch;

use super::answers::Accepted;
use super::refusal::{Refusal, Refused};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::store::keys::{Fingerprint, KeyLimits, KeyRecord, Keys};
use known::Known;

/// The headers that name a key, the first one found wins.
static KEY_HEADERS: [HeaderName; 2] =
    [HeaderName::from_static("idempotency-key"), HeaderName::from_static("webhook-id")];

/// The longest key.
const KEY_BYTES_MAX: usize = 255;

/// How the first post with a key went.
type Outcome = Result<Accepted, Refused>;

/// All keys that are remembered or on their way to the disk.
#[derive(Debug)]
pub struct Idempotency {
    table: Mutex<Table>,
    clock: Clock,
    evicted: Counter,
    repeats: Counter,
    keys: Gauge,
    window: Gauge,
}

#[derive(Debug)]
struct Table {
    known: Known,
    pending: HashMap<[u8; 16], Pending>,
}

#[derive(Debug)]
struct Pending {
    body: [u8; 8],
    /// `None` until the first one is answered.
    outcome: watch::Receiver<Option<Outcome>>,
}

/// What a key means for a post.
#[derive(Debug)]
pub(super) enum Answer<'a> {
    /// Nobody has it: go on.
    Claimed(Claim<'a>),
    /// Its event is stored.
    Known(KeyRecord),
    /// Its event is on its way.
    Pending(Waiter),
    /// It came with something else.
    Conflict,
}

impl Idempotency {
    /// A table with what the store found.
    pub fn new(limits: KeyLimits, found: Keys, clock: Clock, metrics: &Metrics) -> Idempotency {
        let Keys { found, floor } = found;
        let mut known = Known::new(limits, floor);
        let now = clock.age();
        for key in found {
            known.insert(key, now);
        }
        Idempotency {
            table: Mutex::new(Table { known, pending: HashMap::new() }),
            clock,
            evicted: metrics.counter("posthaste_idempotency_keys_evicted_total", &[]),
            repeats: metrics.counter("posthaste_idempotency_repeats_total", &[]),
            keys: metrics.gauge("posthaste_idempotency_keys", &[]),
            window: metrics.gauge("posthaste_idempotency_window_seconds", &[]),
        }
    }

    /// Brings the gauges up to date: how many keys there are, and for how long one is really remembered.
    pub fn publish(&self) {
        let (keys, window): (usize, Duration) = {
            let mut table = self.lock();
            let now = self.clock.age();
            (table.known.count(now), table.known.window(now))
        };
        self.keys.set(keys as f64);
        self.window.set(window.as_secs_f64());
    }

    /// Looks a key up, and claims it if it is new.
    pub(super) fn claim(&self, print: Fingerprint) -> Answer<'_> {
        let now = self.clock.age();
        let mut table = self.lock();
        let (body, answer) = if let Some(key) = table.known.find(print.key, now) {
            (key.print.body, Answer::Known(key))
        } else if let Some(pending) = table.pending.get(&print.key) {
            (pending.body, Answer::Pending(Waiter(pending.outcome.clone())))
        } else {
            let (done, outcome) = watch::channel(None);
            let body = print.body;
            table.pending.insert(print.key, Pending { body, outcome });
            return Answer::Claimed(Claim { keys: self, print, done, settled: None });
        };
        if body != print.body {
            return Answer::Conflict;
        }
        self.repeats.increment(1);
        answer
    }

    /// Nothing panics while it holds the lock; if it did, the table is still whole.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to store the event of a key. Dropped without [`Claim::settle`], as happens when its connection is cut in a
/// shutdown, it releases the key, and those that wait are told to try again.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    keys: &'a Idempotency,
    pub(super) print: Fingerprint,
    done: watch::Sender<Option<Outcome>>,
    settled: Option<(Option<KeyRecord>, Outcome)>,
}

impl Claim<'_> {
    /// Says how it went. `stored`: the event, if there is one to remember.
    pub(super) fn settle(mut self, stored: Option<KeyRecord>, outcome: Outcome) {
        self.settled = Some((stored.filter(|_| outcome.is_ok()), outcome));
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let (stored, outcome) = self.settled.take().unzip();
        let now = self.keys.clock.age();
        let evicted = {
            let mut table = self.keys.lock();
            table.pending.remove(&self.print.key);
            stored.flatten().map_or(0, |key| table.known.insert(key, now))
        };
        self.keys.evicted.increment(evicted);
        if outcome.is_some() {
            self.done.send_replace(outcome);
        }
    }
}

/// Waits for the first post with the same key.
#[derive(Debug)]
pub(super) struct Waiter(watch::Receiver<Option<Outcome>>);

impl Waiter {
    pub(super) async fn outcome(mut self) -> Outcome {
        match self.0.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(outcome)) => outcome.clone(),
            // The claim was dropped: the daemon stops.
            Ok(None) | Err(_) => Err(Refusal::ShuttingDown.into()),
        }
    }
}

/// The key of a request; empty when it has none.
pub(super) fn key_of(headers: &HeaderMap) -> Result<&str, Refused> {
    let named = KEY_HEADERS.iter().find(|name| headers.contains_key(*name));
    let Some(name) = named else {
        return Ok("");
    };
    let mut values = headers.get_all(name).iter();
    let key = values.next().map_or(&b""[..], |value| value.as_bytes());
    let legal = (1..=KEY_BYTES_MAX).contains(&key.len())
        && key.iter().all(u8::is_ascii_graphic)
        && values.next().is_none();
    let text = std::str::from_utf8(key).ok().filter(|_| legal);
    text.ok_or_else(|| Refusal::InvalidIdempotencyKey.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Age;
    use crate::event::EventId;
    use crate::store::keys::Floor;

    const LIMITS: KeyLimits = KeyLimits { window: Duration::from_secs(60), max_keys: 100 };

    fn table(clock: &Clock) -> Idempotency {
        let keys = Keys { found: Vec::new(), floor: Floor::default() };
        Idempotency::new(LIMITS, keys, clock.clone(), &Metrics::new())
    }

    fn print(key: u8, body: u8) -> Fingerprint {
        Fingerprint { key: [key; 16], body: [body; 8] }
    }

    fn record(print: Fingerprint, clock: &Clock) -> KeyRecord {
        let id = EventId::new(clock.wall_ms(), &mut fastrand::Rng::with_seed(1));
        KeyRecord::new(print, id, clock.age(), 3)
    }

    fn accepted(json: &str) -> Accepted {
        Accepted { id: None, json: json.into() }
    }

    fn claimed<'a>(answer: Answer<'a>) -> Claim<'a> {
        match answer {
            Answer::Claimed(claim) => claim,
            other => panic!("not new: {other:?}"),
        }
    }

    #[test]
    fn a_key_is_new_then_pending_then_known_then_forgotten() {
        let clock = Clock::manual(0);
        clock.set_age(Age(1_000_000));
        let keys = table(&clock);
        let claim = claimed(keys.claim(print(1, 1)));
        assert!(matches!(keys.claim(print(1, 1)), Answer::Pending(_)));
        assert!(matches!(keys.claim(print(1, 2)), Answer::Conflict));
        drop(claimed(keys.claim(print(2, 1))));
        let first = record(print(1, 1), &clock);
        claim.settle(Some(first), Ok(accepted("{}")));
        // Steps of the wall clock change nothing.
        clock.step_wall(u64::MAX / 2);
        for _ in 0..2 {
            assert!(matches!(keys.claim(print(1, 1)), Answer::Known(key) if key == first));
            assert!(matches!(keys.claim(print(1, 2)), Answer::Conflict));
            clock.advance(Duration::from_secs(59));
        }
        drop(claimed(keys.claim(print(1, 2))));
    }

    #[test]
    fn what_failed_is_released_and_those_that_wait_hear_of_it() {
        let clock = Clock::manual(0);
        let keys = table(&clock);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let wait = |answer: Answer<'_>| match answer {
            Answer::Pending(waiter) => runtime.block_on(waiter.outcome()),
            other => panic!("not pending: {other:?}"),
        };
        let claim = claimed(keys.claim(print(1, 1)));
        let waiter = keys.claim(print(1, 1));
        let key = record(print(1, 1), &clock);
        claim.settle(Some(key), Err(Refusal::StoreFull.into()));
        assert_eq!(wait(waiter), Err(Refusal::StoreFull.into()));

        let claim = claimed(keys.claim(print(1, 1)));
        let waiter = keys.claim(print(1, 1));
        drop(claim);
        assert_eq!(wait(waiter), Err(Refusal::ShuttingDown.into()));

        let claim = claimed(keys.claim(print(1, 1)));
        let waiter = keys.claim(print(1, 1));
        claim.settle(None, Ok(accepted("nothing stored")));
        assert_eq!(wait(waiter), Ok(accepted("nothing stored")));
        drop(claimed(keys.claim(print(1, 1))));
    }

    #[test]
    fn keys_are_visible_ascii_from_the_header_that_counts() {
        let of = |headers: &[(&'static str, &[u8])]| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                let value = http::HeaderValue::from_bytes(value).unwrap();
                map.append(*name, value);
            }
            key_of(&map).map(str::to_owned).map_err(|refused| refused.why)
        };
        let bad = Err(Refusal::InvalidIdempotencyKey);
        assert_eq!(of(&[]), Ok(String::new()));
        assert_eq!(of(&[("webhook-id", b"w")]), Ok("w".to_owned()));
        let both = [("webhook-id", &b"w"[..]), ("idempotency-key", b"k~!\"")];
        assert_eq!(of(&both), Ok("k~!\"".to_owned()));
        assert_eq!(of(&[("idempotency-key", &[b'k'; 255])]).unwrap().len(), 255);
        for value in [&b""[..], b"a b", b"a\tb", "ä".as_bytes(), &[b'k'; 256]] {
            assert_eq!(of(&[("idempotency-key", value)]), bad, "{value:?}");
        }
        assert_eq!(of(&[("webhook-id", b"a"), ("webhook-id", b"a")]), bad);
    }
}
