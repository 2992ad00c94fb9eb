//! Rate limits: how many sends may start, by our clock.
//!
//! In any interval `T` at most `burst + limit * T / per` checks say yes, and in the long run the rate is exact: time is
//! counted in units that make the distance of two tokens a whole number, so nothing is rounded. It does not wait; the
//! queue that asks arms one timer.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::Clock as _;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use super::RateLimit;
use crate::clock::Clock;

/// Scaled time past which a limiter is rebuilt, long before its 64 bits overflow.
const REBASE_AT: u64 = 1 << 62;

/// One connection's rate limit. Lives on one thread; waits are told, never slept.
#[derive(Debug)]
pub struct Limiter {
    rate: RateLimit,
    clock: Clock,
    scaled: ScaledClock,
    inner: RateLimiter<NotKeyed, InMemoryState, ScaledClock, NoOpMiddleware<Nanos>>,
}

impl Limiter {
    /// A limiter that starts with one token, as after a restart.
    pub fn new(rate: RateLimit, clock: &Clock) -> Limiter {
        Limiter::with_tokens(rate, clock, 1)
    }

    /// A limiter that starts with its whole burst.
    pub fn full(rate: RateLimit, clock: &Clock) -> Limiter {
        Limiter::with_tokens(rate, clock, rate.burst)
    }

    /// The limiter for `rate` that takes over from this one: it starts with what is left here, at most its own burst.
    pub fn changed_to(self, rate: RateLimit) -> Limiter {
        let left = self.drain();
        Limiter::with_tokens(rate, &self.clock, left)
    }

    /// The limit it keeps.
    pub fn rate(&self) -> RateLimit {
        self.rate
    }

    /// Takes one token.
    ///
    /// # Errors
    /// Says how long to wait for the next token when there is none.
    pub fn check(&mut self) -> Result<(), Duration> {
        if self.scaled.now().as_u64() > REBASE_AT {
            let left = self.drain();
            *self = Limiter::with_tokens(self.rate, &self.clock, left);
        }
        self.inner.check().map_err(|not_until| {
            let wait: Nanos = not_until.wait_time_from(self.scaled.now()).into();
            Duration::from_nanos(wait.as_u64().div_ceil(self.scaled.per_nano))
        })
    }

    fn with_tokens(rate: RateLimit, clock: &Clock, tokens: u32) -> Limiter {
        let limit = u64::from(rate.limit.max(1));
        let per = u64::try_from(rate.per.as_nanos()).unwrap_or(u64::MAX).max(1);
        let shared = gcd(limit, per);
        let scaled = ScaledClock {
            clock: clock.clone(),
            start: clock.monotonic(),
            per_nano: limit / shared,
        };
        let burst = NonZeroU32::new(rate.burst).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::with_period(Duration::from_nanos(per / shared))
            .unwrap_or(Quota::per_second(NonZeroU32::MIN))
            .allow_burst(burst);
        let inner = RateLimiter::direct_with_clock(quota, scaled.clone());
        if let Some(spent) = NonZeroU32::new(burst.get().saturating_sub(tokens)) {
            // A new limiter is full, so this many can always be taken from it.
            let _ = inner.check_n(spent);
        }
        Limiter { rate, clock: clock.clone(), scaled, inner }
    }

    /// Takes every token that is left and counts them, from large pieces to small ones.
    fn drain(&self) -> u32 {
        // More than the burst is never left, and asking for it would overflow governor's time.
        (0..u32::BITS)
            .rev()
            .filter_map(|bit| NonZeroU32::new(1 << bit))
            .filter(|piece| piece.get() <= self.rate.burst)
            .filter(|piece| matches!(self.inner.check_n(*piece), Ok(Ok(()))))
            .fold(0u32, |left, piece| left.saturating_add(piece.get()))
    }
}

/// Time since the limiter began, in units of `1 / per_nano` nanoseconds.
#[derive(Clone, Debug)]
struct ScaledClock {
    clock: Clock,
    start: Duration,
    per_nano: u64,
}

impl governor::clock::Clock for ScaledClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        let elapsed = self.clock.monotonic().saturating_sub(self.start).as_nanos();
        let scaled = elapsed.saturating_mul(u128::from(self.per_nano));
        u64::try_from(scaled).unwrap_or(u64::MAX).into()
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rate(limit: u32, per_ms: u64, burst: u32) -> RateLimit {
        RateLimit { limit, per: Duration::from_millis(per_ms), burst }
    }

    fn take_all(limiter: &mut Limiter) -> u32 {
        let mut taken = 0;
        while limiter.check().is_ok() {
            taken += 1;
        }
        taken
    }

    #[test]
    fn starts_with_one_and_fills_to_its_burst() {
        let clock = Clock::manual(0);
        let mut limiter = Limiter::new(rate(100, 1000, 10), &clock);
        assert_eq!(take_all(&mut limiter), 1);
        assert_eq!(limiter.check(), Err(Duration::from_millis(10)));
        clock.advance(Duration::from_millis(35));
        assert_eq!(take_all(&mut limiter), 3);
        assert_eq!(limiter.check(), Err(Duration::from_millis(5)));
        clock.advance(Duration::from_secs(3600));
        assert_eq!(take_all(&mut limiter), 10);
    }

    #[test]
    fn a_change_keeps_what_was_left_up_to_the_new_burst() {
        for (left, burst, expected) in [(0, 50, 0), (7, 50, 7), (40, 5, 5)] {
            let clock = Clock::manual(0);
            let mut old = Limiter::new(rate(100, 1000, 40), &clock);
            clock.advance(Duration::from_secs(60));
            for _ in left..40 {
                old.check().unwrap();
            }
            let mut new = old.changed_to(rate(1, 1000, burst));
            assert_eq!(take_all(&mut new), expected, "left {left}, burst {burst}");
        }
    }

    #[test]
    fn a_slow_limit_can_change_and_a_full_one_begins_with_its_burst() {
        let clock = Clock::manual(0);
        let mut full = Limiter::full(rate(1, 3_600_000, 1_000_000), &clock);
        assert!(full.check().is_ok());
        let mut new = full.changed_to(rate(1, 3_600_000, 3));
        assert_eq!(take_all(&mut new), 3);
        assert_eq!(take_all(&mut new.changed_to(rate(1, 3_600_000, 3))), 0);
    }

    #[test]
    fn the_rate_is_exact_in_the_long_run() {
        // 7 per minute and 333,333 per second have no whole distance in nanoseconds.
        for (limit, per_ms, run_s) in [(7, 60_000, 86_400), (333_333, 1000, 30)] {
            let clock = Clock::manual(0);
            let mut limiter = Limiter::new(rate(limit, per_ms, limit), &clock);
            let mut sent = take_all(&mut limiter);
            for _ in 0..run_s {
                clock.advance(Duration::from_secs(1));
                sent += take_all(&mut limiter);
            }
            let expected = u64::from(limit) * run_s * 1000 / per_ms;
            assert!(u64::from(sent).abs_diff(expected) <= 1, "{sent} of {expected}");
        }
    }

    #[test]
    fn it_survives_the_end_of_its_scaled_time() {
        let clock = Clock::manual(0);
        let mut limiter = Limiter::new(rate(999_983, 1000, 10), &clock);
        for _ in 0..100 {
            clock.advance(Duration::from_secs(3600));
            assert_eq!(take_all(&mut limiter), 10);
        }
    }

    proptest! {
        #[test]
        fn no_interval_has_more_than_its_share(
            limit in 1u32..2000,
            per_ms in prop_oneof![Just(1000u64), Just(60_000), Just(3_600_000)],
            burst in 1u32..50,
            steps in proptest::collection::vec(0u64..400, 1..120),
        ) {
            let clock = Clock::manual(0);
            let mut limiter = Limiter::new(rate(limit, per_ms, burst), &clock);
            let mut grants: Vec<u64> = Vec::new();
            let mut now = 0;
            for step in steps {
                clock.advance(Duration::from_millis(step));
                now += step;
                while limiter.check().is_ok() {
                    grants.push(now);
                }
            }
            for (first, from) in grants.iter().enumerate() {
                for (count, to) in grants[first..].iter().enumerate() {
                    let sends = count as u64 + 1;
                    prop_assert!(sends <= u64::from(burst) + u64::from(limit) * (to - from) / per_ms);
                }
            }
        }

        #[test]
        fn the_wait_it_tells_is_enough_and_not_longer(limit in 1u32..1000, burst in 1u32..20, gap in 0u64..100) {
            let clock = Clock::manual(0);
            let mut limiter = Limiter::new(rate(limit, 60_000, burst), &clock);
            clock.advance(Duration::from_millis(gap));
            take_all(&mut limiter);
            let wait = limiter.check().unwrap_err();
            let ms = u64::try_from(wait.as_millis()).unwrap();
            if ms > 0 {
                clock.advance(Duration::from_millis(ms - 1));
                prop_assert!(limiter.check().is_err());
                clock.advance(Duration::from_millis(2));
            } else {
                clock.advance(Duration::from_millis(1));
            }
            prop_assert!(limiter.check().is_ok());
        }
    }
}
