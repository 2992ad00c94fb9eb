//! When a failed attempt is tried again.
//!
//! [`RetryPolicy::decide`] is pure: what happened and how often go in, what to do comes out. Nothing here reads a clock;
//! the store keeps the wait that is decided.

use std::time::{Duration, SystemTime};

use super::status::StatusSet;
use crate::event::{Cause, Disposition, Outcome};

/// The `retry` table of a connection (spec 5).
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// How waits grow.
    pub strategy: Strategy,
    /// How waits are spread.
    pub jitter: Jitter,
    /// Attempts at most; does not apply to a schedule.
    pub count: u32,
    /// Time from the first attempt after which no retry is made.
    pub max_age: Duration,
    /// Statuses that are retried.
    pub on_status: StatusSet,
    /// The longest `Retry-After` that is believed.
    pub retry_after_max: Duration,
}

/// How waits grow.
#[derive(Clone, Debug, PartialEq)]
pub enum Strategy {
    /// `interval * factor^n`, at most `max_interval`.
    Exponential {
        /// The first wait.
        interval: Duration,
        /// What each wait is multiplied by for the next.
        factor: f64,
        /// The longest wait.
        max_interval: Duration,
    },
    /// The same wait each time.
    Linear {
        /// The wait.
        interval: Duration,
    },
    /// These waits, then a dead letter.
    Schedule(Vec<Duration>),
    /// A failure is a dead letter at once.
    None,
}

/// How a wait is spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Jitter {
    /// Not at all.
    None,
    /// Half fixed, half random.
    Equal,
    /// From zero to the whole wait.
    Full,
}

/// What is known of a delivery when one of its attempts has ended.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Attempts made in this run, the one that just ended included.
    pub attempts: u32,
    /// How long ago the first attempt of this run was made.
    pub since_first_attempt: Duration,
    /// The statuses that mean "delivered".
    pub success: &'a StatusSet,
}

impl RetryPolicy {
    /// What becomes of a delivery after an attempt.
    pub fn decide(
        &self,
        facts: Facts<'_>,
        outcome: &Outcome,
        rng: &mut fastrand::Rng,
    ) -> Disposition {
        let (dead, retried, retry_after) = match *outcome {
            Outcome::Response { status, .. } if facts.success.contains(status) => {
                return Disposition::Delivered;
            }
            Outcome::Response { status, retry_after } => {
                let cause = cause_of_status(status);
                let retried = self.on_status.contains(status);
                (Disposition::Dead { cause, status }, retried, retry_after)
            }
            Outcome::Failed(cause) => {
                let dead = Disposition::Dead { cause, status: 0 };
                (dead, is_passing(cause), None)
            }
        };
        if !retried {
            return dead;
        }
        let Some(wait) = self.wait_after(facts.attempts) else {
            return dead;
        };
        let asked = retry_after.unwrap_or_default().min(self.retry_after_max);
        let wait = self.jitter.spread(wait, rng).max(asked);
        if facts.since_first_attempt.saturating_add(wait) > self.max_age {
            return dead;
        }
        Disposition::RetryAfter(wait)
    }

    /// The wait after `attempts` attempts, before jitter; `None` when no retry is left.
    fn wait_after(&self, attempts: u32) -> Option<Duration> {
        let retry = attempts.saturating_sub(1);
        let in_count = attempts < self.count;
        match &self.strategy {
            Strategy::Exponential { interval, factor, max_interval } => in_count.then(|| {
                let factor = factor.powi(i32::try_from(retry).unwrap_or(i32::MAX));
                Duration::try_from_secs_f64(interval.as_secs_f64() * factor)
                    .unwrap_or(*max_interval)
                    .min(*max_interval)
            }),
            Strategy::Linear { interval } => in_count.then_some(*interval),
            Strategy::Schedule(waits) => waits.get(usize::try_from(retry).ok()?).copied(),
            Strategy::None => None,
        }
    }
}

impl Jitter {
    fn spread(self, wait: Duration, rng: &mut fastrand::Rng) -> Duration {
        match self {
            Jitter::None => wait,
            Jitter::Equal => wait / 2 + (wait / 2).mul_f64(rng.f64()),
            Jitter::Full => wait.mul_f64(rng.f64()),
        }
    }
}

/// The cause under which a refusal with this status is known.
pub fn cause_of_status(status: u16) -> Cause {
    match status {
        300..=399 => Cause::Redirect,
        410 => Cause::Gone,
        _ => Cause::HttpStatus,
    }
}

/// Whether a failure without a response may pass by itself: everything the network or the peer's side of it did.
fn is_passing(cause: Cause) -> bool {
    match cause {
        Cause::DnsFailed
        | Cause::ConnectRefused
        | Cause::ConnectTimeout
        | Cause::ConnectReset
        | Cause::Unreachable
        | Cause::TlsExpired
        | Cause::TlsName
        | Cause::TlsUntrusted
        | Cause::TlsProtocol
        | Cause::TlsClientCert
        | Cause::ProxyFailed
        | Cause::RequestTimeout
        | Cause::BodyTimeout
        | Cause::ResponseTooLarge
        | Cause::Protocol
        | Cause::AuthToken => true,
        Cause::HttpStatus
        | Cause::Redirect
        | Cause::Gone
        | Cause::EgressBlocked
        | Cause::Template
        | Cause::Transform
        | Cause::TooLarge
        | Cause::QueueFull
        | Cause::Expired
        | Cause::Cancelled
        | Cause::Internal => false,
    }
}

/// Reads a `Retry-After` header: whole seconds, or an HTTP date, which counts from `wall_ms`. Garbage is `None`; a date
/// that has passed is zero.
pub fn parse_retry_after(value: &[u8], wall_ms: u64) -> Option<Duration> {
    let text = std::str::from_utf8(value).ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit are as good as for ever; the policy caps it.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let until = httpdate::parse_http_date(text).ok()?;
    let now = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(wall_ms))?;
    Some(until.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::Strategy;
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn set(entries: &[&str]) -> StatusSet {
        StatusSet::parse(entries, super::super::status::Purpose::Retry).unwrap()
    }

    fn policy(strategy: Strategy, jitter: Jitter) -> RetryPolicy {
        RetryPolicy {
            strategy,
            jitter,
            count: 50,
            max_age: Duration::from_secs(72 * 3600),
            on_status: set(&["408", "425", "429", "5xx", "!501", "!505"]),
            retry_after_max: Duration::from_secs(3600),
        }
    }

    fn exponential() -> Strategy {
        Strategy::Exponential {
            interval: 5 * SECOND,
            factor: 2.0,
            max_interval: Duration::from_secs(4 * 3600),
        }
    }

    fn response(status: u16, retry_after: Option<u64>) -> Outcome {
        Outcome::Response { status, retry_after: retry_after.map(Duration::from_secs) }
    }

    fn decide(policy: &RetryPolicy, attempts: u32, age: u64, outcome: &Outcome) -> Disposition {
        let success = StatusSet::success();
        let facts =
            Facts { attempts, since_first_attempt: Duration::from_secs(age), success: &success };
        policy.decide(facts, outcome, &mut fastrand::Rng::with_seed(7))
    }

    fn retry(seconds: u64) -> Disposition {
        Disposition::RetryAfter(Duration::from_secs(seconds))
    }

    fn dead(cause: Cause, status: u16) -> Disposition {
        Disposition::Dead { cause, status }
    }

    #[test]
    fn statuses_and_errors_are_sorted() {
        let policy = policy(exponential(), Jitter::None);
        for (outcome, expected) in [
            (response(204, None), Disposition::Delivered),
            (response(503, None), retry(5)),
            (response(429, None), retry(5)),
            (response(501, None), dead(Cause::HttpStatus, 501)),
            (response(404, None), dead(Cause::HttpStatus, 404)),
            (response(410, None), dead(Cause::Gone, 410)),
            (response(302, None), dead(Cause::Redirect, 302)),
            (response(101, None), dead(Cause::HttpStatus, 101)),
            (Outcome::Failed(Cause::DnsFailed), retry(5)),
            (Outcome::Failed(Cause::RequestTimeout), retry(5)),
            (Outcome::Failed(Cause::TlsExpired), retry(5)),
            (Outcome::Failed(Cause::Internal), dead(Cause::Internal, 0)),
        ] {
            assert_eq!(decide(&policy, 1, 0, &outcome), expected, "{outcome:?}");
        }
    }

    #[test]
    fn waits_grow_as_the_strategy_says() {
        let schedule = Strategy::Schedule(vec![SECOND, 60 * SECOND]);
        let linear = Strategy::Linear { interval: 9 * SECOND };
        let failed = response(500, None);
        for (strategy, attempts, expected) in [
            (exponential(), 1, retry(5)),
            (exponential(), 4, retry(40)),
            (exponential(), 49, retry(4 * 3600)),
            (exponential(), 50, dead(Cause::HttpStatus, 500)),
            (linear.clone(), 1, retry(9)),
            (linear.clone(), 49, retry(9)),
            (linear, 50, dead(Cause::HttpStatus, 500)),
            (schedule.clone(), 1, retry(1)),
            (schedule.clone(), 2, retry(60)),
            (schedule, 3, dead(Cause::HttpStatus, 500)),
            (Strategy::None, 1, dead(Cause::HttpStatus, 500)),
        ] {
            let policy = policy(strategy, Jitter::None);
            assert_eq!(
                decide(&policy, attempts, 0, &failed),
                expected,
                "{:?} {attempts}",
                policy.strategy
            );
        }
    }

    #[test]
    fn retry_after_only_lengthens_and_is_capped() {
        let policy = policy(exponential(), Jitter::None);
        assert_eq!(decide(&policy, 1, 0, &response(503, Some(2))), retry(5));
        assert_eq!(decide(&policy, 1, 0, &response(503, Some(60))), retry(60));
        assert_eq!(decide(&policy, 1, 0, &response(429, Some(u64::MAX))), retry(3600));
    }

    #[test]
    fn no_retry_is_made_past_max_age() {
        let policy = policy(exponential(), Jitter::None);
        let failed = response(500, None);
        let limit = 72 * 3600;
        assert_eq!(decide(&policy, 1, limit - 5, &failed), retry(5));
        assert_eq!(decide(&policy, 1, limit - 4, &failed), dead(Cause::HttpStatus, 500));
    }

    #[test]
    fn retry_after_reads_seconds_and_dates() {
        // Sun, 06 Nov 1994 08:49:37 GMT
        let now = 784_111_777_000;
        for (text, expected) in [
            ("120", Some(120)),
            (" 5 ", Some(5)),
            ("0", Some(0)),
            ("99999999999999999999999", Some(u64::MAX)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ] {
            let read = parse_retry_after(text.as_bytes(), now);
            assert_eq!(read, expected.map(Duration::from_secs), "{text:?}");
        }
        assert_eq!(parse_retry_after(b"\xff1", now), None);
    }

    fn any_jitter() -> impl proptest::strategy::Strategy<Value = Jitter> {
        prop_oneof![Just(Jitter::None), Just(Jitter::Equal), Just(Jitter::Full)]
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_ignored(bytes in proptest::collection::vec(any::<u8>(), 0..40), now: u64) {
            let _ = parse_retry_after(&bytes, now);
        }

        #[test]
        fn a_wait_stays_within_its_bounds(
            interval_ms in 1u64..10_000_000,
            factor in 1.0f64..100.0,
            max_ms in 1u64..20_000_000,
            jitter in any_jitter(),
            attempts in 1u32..200,
            count in 1u32..100,
            age_s in 0u64..400_000,
            asked_s in proptest::option::of(any::<u64>()),
            seed: u64,
        ) {
            let max_interval = Duration::from_millis(max_ms);
            let mut policy = policy(exponential(), jitter);
            policy.strategy = Strategy::Exponential { interval: Duration::from_millis(interval_ms), factor, max_interval };
            policy.count = count;
            let success = StatusSet::success();
            let age = Duration::from_secs(age_s);
            let facts = Facts { attempts, since_first_attempt: age, success: &success };
            let asked = asked_s.map_or(Duration::ZERO, Duration::from_secs).min(policy.retry_after_max);
            match policy.decide(facts, &response(503, asked_s), &mut fastrand::Rng::with_seed(seed)) {
                Disposition::RetryAfter(wait) => {
                    prop_assert!(attempts < count);
                    prop_assert!(wait >= asked && wait <= max_interval.max(asked));
                    prop_assert!(age + wait <= policy.max_age);
                }
                Disposition::Dead { cause, status } => {
                    prop_assert_eq!((cause, status), (Cause::HttpStatus, 503));
                    prop_assert!(attempts >= count || age + max_interval.max(asked) > policy.max_age);
                }
                Disposition::Delivered => prop_assert!(false),
            }
        }
    }
}
