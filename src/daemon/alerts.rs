//! Alerts: which of what happens is told, to whom, and how often. Pure: time and randomness come in as arguments.
//!
//! What happens to a connection that any alert is sent to is never told, so an alert that cannot be delivered makes no other
//! one. The same of the same connection is told once in `min_interval`; what comes meanwhile is counted, and told when the
//! interval is over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::admin::api;
use crate::admin::api::rfc3339;
use crate::config::{Alert, On};
use crate::delivery::{Failure, Wanted};
use crate::event::{Cause, EventId};
use crate::store::suspension::SuspensionKind;

mod body;
#[cfg(test)]
mod tests;

/// Intervals that may run at one time. When there are more, what would begin another one is dropped and counted.
const INTERVALS_MAX: usize = 8192;

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Trouble {
    /// A delivery failed for the first time, or became a dead letter, or both.
    Failed(Failure),
    /// The oldest delivery of a connection is this old.
    BacklogAge(Duration),
    /// A breaker opened.
    BreakerOpened { open_for: Duration, code: Cause },
    /// The daemon disabled or halted a connection.
    Disabled(SuspensionKind),
    /// A reload was refused: how many errors, and the first of them.
    ConfigRejected { errors: usize, messages: Vec<String> },
}

/// Now, for decisions and for people.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) monotonic: Duration,
    pub(super) wall_ms: u64,
}

/// An alert that is to be stored.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Raised {
    /// The alert's name.
    pub(super) alert: String,
    /// The connection that delivers it.
    pub(super) to: String,
    /// Its event's id.
    pub(super) event: EventId,
    /// Its event's type.
    pub(super) kind: &'static str,
    /// Its event's body: JSON.
    pub(super) body: Vec<u8>,
}

/// The alerts in force, with what they remember.
#[derive(Debug)]
pub(super) struct Alerts {
    rules: Vec<Rule>,
    /// The connections that alerts are sent to.
    receivers: BTreeSet<String>,
    intervals: BTreeMap<Key, Interval>,
    /// What was dropped since it was asked for last.
    dropped: u64,
    rng: fastrand::Rng,
}

#[derive(Debug)]
struct Rule {
    alert: Alert,
    raised: u64,
    suppressed: u64,
    last: Option<api::LastAlert>,
}

/// What counts as the same: alert, type, connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    alert: String,
    kind: &'static str,
    connection: Option<String>,
}

/// From one alert to the next of its kind.
#[derive(Debug)]
struct Interval {
    /// On the monotonic clock.
    ends: Duration,
    /// What came meanwhile, and the latest of it.
    count: u64,
    latest: Trouble,
    latest_ms: u64,
}

impl Trouble {
    fn on(&self) -> On {
        match self {
            Trouble::Failed(_) => On::DeliveryFailed,
            Trouble::BacklogAge(_) => On::BacklogAge,
            Trouble::BreakerOpened { .. } => On::BreakerOpen,
            Trouble::Disabled(_) => On::Disabled,
            Trouble::ConfigRejected { .. } => On::ConfigRejected,
        }
    }

    /// An age is a state and no incident: seeing it again is nothing to count.
    fn counts(&self) -> bool {
        !matches!(self, Trouble::BacklogAge(_))
    }
}

impl Rule {
    /// The type of the event that it makes of this; `None` where it is not about it.
    fn kind(&self, about: Option<&str>, trouble: &Trouble) -> Option<&'static str> {
        let Rule { alert, .. } = self;
        let looks = about.is_none_or(|connection| alert.looks_at(connection));
        if !looks || !alert.is_on(trouble.on()) {
            return None;
        }
        match trouble {
            Trouble::Failed(failure) if failure.last && alert.which.last() => {
                Some("posthaste.delivery.dead")
            }
            Trouble::Failed(failure) if failure.first && alert.which.first() => {
                Some("posthaste.delivery.failed")
            }
            Trouble::Failed(_) => None,
            Trouble::BacklogAge(age) => {
                let old = alert.threshold.is_some_and(|threshold| *age >= threshold);
                old.then_some("posthaste.backlog.old")
            }
            Trouble::BreakerOpened { .. } => Some("posthaste.breaker.opened"),
            Trouble::Disabled(SuspensionKind::Halted) => Some("posthaste.connection.halted"),
            Trouble::Disabled(_) => Some("posthaste.connection.disabled"),
            Trouble::ConfigRejected { .. } => Some("posthaste.config.rejected"),
        }
    }
}

impl Alerts {
    pub(super) fn new(alerts: &[Alert], seed: u64) -> Alerts {
        let mut all = Alerts {
            rules: Vec::new(),
            receivers: BTreeSet::new(),
            intervals: BTreeMap::new(),
            dropped: 0,
            rng: fastrand::Rng::with_seed(seed),
        };
        all.change_to(alerts);
        all
    }

    /// Other alerts are in force. One whose name was there before goes on with its counts and intervals.
    pub(super) fn change_to(&mut self, alerts: &[Alert]) {
        let mut before = std::mem::take(&mut self.rules);
        for alert in alerts {
            let known = before.iter().position(|rule| rule.alert.name == alert.name);
            let rule = known.map(|at| before.swap_remove(at));
            let (raised, suppressed, last) =
                rule.map_or((0, 0, None), |rule| (rule.raised, rule.suppressed, rule.last));
            self.rules.push(Rule { alert: alert.clone(), raised, suppressed, last });
        }
        self.receivers = alerts.iter().map(|alert| alert.to.clone()).collect();
        let (rules, receivers) = (&self.rules, &self.receivers);
        self.intervals.retain(|key, _| {
            let there = rules.iter().any(|rule| rule.alert.name == key.alert);
            there && key.connection.as_ref().is_none_or(|name| !receivers.contains(name))
        });
    }

    /// What delivery has to tell of a connection.
    pub(super) fn wanted(&self, connection: &str) -> Wanted {
        if self.receivers.contains(connection) {
            return Wanted::default();
        }
        let mut wanted = Wanted::default();
        for Rule { alert, .. } in &self.rules {
            if alert.looks_at(connection) {
                let failed = alert.is_on(On::DeliveryFailed);
                wanted.first_failures |= failed && alert.which.first();
                wanted.dead |= failed && alert.which.last();
                wanted.breaker |= alert.is_on(On::BreakerOpen);
            }
        }
        wanted
    }

    /// Whether one of them is about this.
    pub(super) fn any_on(&self, on: On) -> bool {
        self.rules.iter().any(|rule| rule.alert.is_on(on))
    }

    /// Something happened, to a connection or to none: the alerts that tell it now.
    pub(super) fn raise(
        &mut self,
        about: Option<&str>,
        trouble: &Trouble,
        now: Now,
    ) -> Vec<Raised> {
        let mut raised = Vec::new();
        if about.is_some_and(|connection| self.receivers.contains(connection)) {
            return raised;
        }
        for rule in &mut self.rules {
            let Some(kind) = rule.kind(about, trouble) else {
                continue;
            };
            let (alert, connection) = (rule.alert.name.clone(), about.map(str::to_owned));
            let key = Key { alert, kind, connection };
            let full = self.intervals.len() >= INTERVALS_MAX;
            let before = match self.intervals.get_mut(&key) {
                Some(interval) if now.monotonic < interval.ends => {
                    if trouble.counts() {
                        rule.suppressed += 1;
                        interval.note(trouble, now);
                    }
                    continue;
                }
                Some(interval) => interval.count,
                None if full => {
                    self.dropped += 1;
                    continue;
                }
                None => 0,
            };
            raised.push(rule.raise(&mut self.rng, &key, trouble, (before + 1, now.wall_ms), now));
            self.intervals.insert(key, Interval::begin(&rule.alert, trouble, now));
        }
        raised
    }

    /// Time goes on: what came in intervals that are over is told now.
    pub(super) fn tick(&mut self, now: Now) -> Vec<Raised> {
        let mut raised = Vec::new();
        let (rules, rng) = (&mut self.rules, &mut self.rng);
        self.intervals.retain(|key, interval| {
            if now.monotonic < interval.ends {
                return true;
            }
            let Some(rule) = rules.iter_mut().find(|rule| rule.alert.name == key.alert) else {
                return false;
            };
            if interval.count == 0 {
                return false;
            }
            let Interval { count, latest, latest_ms, .. } = interval;
            raised.push(rule.raise(rng, key, latest, (*count, *latest_ms), now));
            *interval = Interval::begin(&rule.alert, latest, now);
            true
        });
        raised
    }

    /// How many were dropped since this was asked last.
    pub(super) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    /// Each alert's name, and how many were folded.
    pub(super) fn suppressed(&self) -> impl Iterator<Item = (&str, u64)> {
        self.rules.iter().map(|rule| (rule.alert.name.as_str(), rule.suppressed))
    }

    /// For who looks at the daemon.
    pub(super) fn describe(&self) -> Vec<api::Alert> {
        let describe = |rule: &Rule| api::Alert {
            name: rule.alert.name.clone(),
            to: rule.alert.to.clone(),
            raised: rule.raised,
            suppressed: rule.suppressed,
            last: rule.last.clone(),
        };
        self.rules.iter().map(describe).collect()
    }
}

impl Interval {
    fn begin(alert: &Alert, trouble: &Trouble, now: Now) -> Interval {
        let ends = now.monotonic.saturating_add(alert.min_interval);
        Interval { ends, count: 0, latest: trouble.clone(), latest_ms: now.wall_ms }
    }

    fn note(&mut self, trouble: &Trouble, now: Now) {
        self.count += 1;
        self.latest.clone_from(trouble);
        self.latest_ms = now.wall_ms;
    }
}

impl Rule {
    /// Makes the event, `count` incidents of which the latest happened at `at_ms`.
    fn raise(
        &mut self,
        rng: &mut fastrand::Rng,
        key: &Key,
        trouble: &Trouble,
        (count, at_ms): (u64, u64),
        now: Now,
    ) -> Raised {
        let event = EventId::new(now.wall_ms, rng);
        self.raised += 1;
        self.last = Some(api::LastAlert {
            event: event.to_string(),
            kind: key.kind.to_owned(),
            connection: key.connection.clone(),
            at: rfc3339(now.wall_ms),
        });
        let about = key.connection.as_deref();
        let body = body::of(&self.alert, key.kind, about, trouble, (count, at_ms));
        let (alert, to) = (self.alert.name.clone(), self.alert.to.clone());
        Raised { alert, to, event, kind: key.kind, body }
    }
}
