//! The sources in force, each with its limiter. A limiter belongs to the source's name, not to a configuration: it goes on
//! over reloads, and requests that came before one share it with those after.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::refusal::{Refusal, Refused};
use crate::clock::Clock;
use crate::connection::rate_limit::Limiter;
use crate::source::Source;
use crate::source::auth::Denied;

/// Every source that has a table of its own.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    by_name: HashMap<String, Arc<Way>>,
}

/// One source and what changes while it is in force.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) settings: Source,
    limiter: Option<Arc<Mutex<Limiter>>>,
}

impl Sources {
    /// The configured sources. Limiters start with their burst.
    pub fn new(sources: &[Source], clock: &Clock) -> Sources {
        Sources::default().changed_to(sources, clock)
    }

    /// These sources instead: limiters whose `rate_limit` is the same are kept, changed ones start with what was left.
    #[must_use]
    pub fn changed_to(&self, sources: &[Source], clock: &Clock) -> Sources {
        let way = |source: &Source| {
            let before = self.by_name.get(&source.name).and_then(|way| way.limiter.clone());
            let limiter = source.rate_limit.map(|rate| match before {
                Some(limiter) => {
                    change(
                        &limiter,
                        |old| if old.rate() == rate { old } else { old.changed_to(rate) },
                        clock,
                    );
                    limiter
                }
                None => Arc::new(Mutex::new(Limiter::full(rate, clock))),
            });
            (source.name.clone(), Arc::new(Way { settings: source.clone(), limiter }))
        };
        Sources { by_name: sources.iter().map(way).collect() }
    }

    /// The sources that have a table.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// A source by its name, as it is without a table where it has none.
    pub(super) fn get(&self, name: &str) -> Arc<Way> {
        let found = self.by_name.get(name).cloned();
        found.unwrap_or_else(|| Arc::new(Way { settings: Source::named(name), limiter: None }))
    }
}

/// Puts another limiter in the place of one that others hold too.
fn change(limiter: &Mutex<Limiter>, to: impl FnOnce(Limiter) -> Limiter, clock: &Clock) {
    let mut held = limiter.lock().unwrap_or_else(PoisonError::into_inner);
    let stand_in = Limiter::new(held.rate(), clock);
    let old = std::mem::replace(&mut *held, stand_in);
    *held = to(old);
}

impl Way {
    /// Takes a token for one post, where posts are limited.
    pub(super) fn admit(&self) -> Result<(), Refused> {
        let Some(limiter) = &self.limiter else {
            return Ok(());
        };
        let checked = limiter.lock().unwrap_or_else(PoisonError::into_inner).check();
        checked.map_err(|wait| Refused {
            retry_after: Some(whole_seconds(wait)),
            ..Refused::from(Refusal::RateLimited)
        })
    }

    /// What a producer is told that may not post.
    pub(super) fn refuse(&self, denied: Denied) -> Refused {
        match denied {
            Denied::Missing | Denied::Wrong => Refused {
                challenge: Some(self.settings.auth.challenge()),
                ..Refused::from(Refusal::Unauthorized)
            },
            Denied::Signature => Refusal::SignatureInvalid.into(),
            Denied::Timestamp => Refusal::TimestampInvalid.into(),
        }
    }

    /// What a producer is told that used another method.
    pub(super) fn wrong_method(&self) -> Refused {
        let allow = Some(self.methods());
        Refused { allow, ..Refused::from(Refusal::MethodNotAllowed) }
    }

    /// The methods, as headers list them.
    pub(super) fn methods(&self) -> String {
        let methods: Vec<_> = self.settings.methods.iter().map(http::Method::as_str).collect();
        methods.join(", ")
    }
}

/// Rounded up, and at least 1.
fn whole_seconds(wait: Duration) -> u32 {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    u32::try_from(seconds.max(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::RateLimit;

    fn limited(limit: u32, per_s: u64, burst: u32) -> Source {
        let per = Duration::from_secs(per_s);
        Source { rate_limit: Some(RateLimit { limit, per, burst }), ..Source::named("shop") }
    }

    fn taken(way: &Way) -> u32 {
        (0..1000).take_while(|_| way.admit().is_ok()).count().try_into().unwrap()
    }

    #[test]
    fn a_limit_begins_with_its_burst_and_says_how_long_to_wait() {
        let clock = Clock::manual(0);
        let sources = Sources::new(&[limited(1, 90, 3)], &clock);
        let shop = sources.get("shop");
        assert_eq!(taken(&shop), 3);
        let refused = shop.admit().unwrap_err();
        assert_eq!((refused.why, refused.retry_after), (Refusal::RateLimited, Some(90)));
        clock.advance(Duration::from_millis(89_500));
        assert_eq!(shop.admit().unwrap_err().retry_after, Some(1));
        clock.advance(Duration::from_millis(500));
        assert_eq!(taken(&shop), 1);
        assert_eq!(taken(&sources.get("other")), 1000, "not limited");
    }

    #[test]
    fn a_limiter_is_kept_over_reloads() {
        let clock = Clock::manual(0);
        let first = Sources::new(&[limited(1, 60, 5)], &clock);
        assert!(first.get("shop").admit().is_ok());
        let same = first.changed_to(&[limited(1, 60, 5)], &clock);
        assert_eq!(taken(&same.get("shop")), 4, "kept where it is the same");
        clock.advance(Duration::from_secs(120));
        let smaller = same.changed_to(&[limited(1, 60, 1)], &clock);
        assert_eq!(taken(&smaller.get("shop")), 1, "what was left, at most the new burst");
        assert_eq!(taken(&first.get("shop")), 0, "shared with requests that came before");
        let without = smaller.changed_to(&[Source::named("shop")], &clock);
        assert_eq!(taken(&without.get("shop")), 1000);
    }

    #[test]
    fn waits_are_whole_seconds() {
        for (ms, seconds) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (59_999, 60)] {
            assert_eq!(whole_seconds(Duration::from_millis(ms)), seconds, "{ms}");
        }
    }
}
