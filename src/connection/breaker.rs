//! The breaker: when a target is left alone, and how it is tried again.
//!
//! It counts what says that the target, or the way to it, is broken: network errors, timeouts and 5xx. One delivery counts
//! once, so that one event that the target cannot digest never holds the others. Two things open it: so many failures in a
//! row, or a share of all that ended within a window. While it is open nothing is attempted. Then one attempt at a time is
//! let through, a probe: its success closes the breaker, its failure opens it again, for twice as long.
//!
//! It is a state machine without a clock: time and what happened are arguments. An attempt carries the [`Ticket`] of the
//! moment when it started, so that what was sent before the breaker opened says nothing about the target afterwards.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::status::StatusSet;
use crate::event::{Cause, EventId, Outcome};

/// Pieces that the window is counted in.
const SLICES: usize = 10;

/// Failed deliveries remembered within the window, so that each counts once.
const REMEMBERED: usize = 256;

/// The `breaker` table of a connection (spec 3).
#[derive(Clone, Debug, PartialEq)]
pub struct BreakerPolicy {
    /// Failures in a row that open it; at least 1.
    pub consecutive_failures: u32,
    /// The share of failures within `window` that opens it; above 0, at most 1.
    pub failure_ratio: f64,
    /// Attempts that must have ended within `window` before the share counts; at least 1.
    pub min_attempts: u32,
    /// What the share is counted over.
    pub window: Duration,
    /// How long it stays open the first time.
    pub open_for: Duration,
    /// The longest; each failed probe doubles the time.
    pub open_for_max: Duration,
}

/// What the end of an attempt says about the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It answered, with whatever but a 5xx.
    Alive,
    /// It, or the way to it, failed.
    Failed,
    /// Nothing: the cause was ours.
    Silent,
}

impl Verdict {
    /// The verdict of what happened. `success`: the statuses that mean "delivered".
    pub fn of(outcome: &Outcome, success: &StatusSet) -> Verdict {
        match *outcome {
            Outcome::Response { status, .. } if success.contains(status) => Verdict::Alive,
            Outcome::Response { status: 500..=599, .. } => Verdict::Failed,
            Outcome::Response { .. } => Verdict::Alive,
            Outcome::Failed(cause) => Verdict::of_cause(cause),
        }
    }

    fn of_cause(cause: Cause) -> Verdict {
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
            | Cause::AuthToken => Verdict::Failed,
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
            | Cause::Internal => Verdict::Silent,
        }
    }
}

/// What the breaker lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Everything.
    All,
    /// One attempt, now.
    Probe,
    /// Nothing until the probe has ended.
    Probing,
    /// Nothing until then.
    Until(Instant),
}

/// How the breaker stands, for people and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Phase {
    /// Everything is let through.
    #[default]
    Closed = 0,
    /// One attempt at a time is let through.
    HalfOpen = 1,
    /// Nothing is let through.
    Open = 2,
}

impl Phase {
    /// All of them, in the order of their numbers.
    pub const ALL: [Phase; 3] = [Phase::Closed, Phase::HalfOpen, Phase::Open];

    /// The word in metrics, lists and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Closed => "closed",
            Phase::HalfOpen => "half_open",
            Phase::Open => "open",
        }
    }
}

/// When an attempt started, in the breaker's own counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Ticket(u32);

/// What the end of an attempt changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It opened, for so long.
    Opened(Duration),
    /// It closed.
    Closed,
}

/// One connection's breaker.
#[derive(Debug)]
pub struct Breaker {
    policy: BreakerPolicy,
    state: State,
    /// Grows with each change, so that tickets of before are told apart.
    epoch: u32,
    /// How often it opened without closing in between.
    openings: u32,
    /// Deliveries that failed since the target last answered; each once.
    streak: Vec<EventId>,
    window: Window,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Open { until: Instant },
    HalfOpen { probing: bool },
}

impl Breaker {
    /// A closed breaker.
    pub fn new(policy: BreakerPolicy, now: Instant) -> Breaker {
        Breaker {
            window: Window::new(policy.window, now),
            policy,
            state: State::Closed,
            epoch: 0,
            openings: 0,
            streak: Vec::new(),
        }
    }

    /// Puts new settings in force; how it stands stays.
    pub fn set_policy(&mut self, policy: BreakerPolicy, now: Instant) {
        if policy.window != self.policy.window {
            self.window = Window::new(policy.window, now);
        }
        self.policy = policy;
    }

    /// What it lets through now. Its time to be open ends here.
    pub fn gate(&mut self, now: Instant) -> Gate {
        match self.state {
            State::Closed => Gate::All,
            State::Open { until } if now < until => Gate::Until(until),
            State::Open { .. } => {
                self.enter(State::HalfOpen { probing: false });
                Gate::Probe
            }
            State::HalfOpen { probing: true } => Gate::Probing,
            State::HalfOpen { probing: false } => Gate::Probe,
        }
    }

    /// An attempt starts, as [`Breaker::gate`] allowed.
    pub fn start(&mut self) -> Ticket {
        if let State::HalfOpen { probing } = &mut self.state {
            *probing = true;
        }
        Ticket(self.epoch)
    }

    /// An attempt of `event` has ended.
    pub fn ended(
        &mut self,
        ticket: Ticket,
        verdict: Verdict,
        event: EventId,
        now: Instant,
    ) -> Option<Change> {
        if ticket.0 != self.epoch {
            return None;
        }
        match (self.state, verdict) {
            // Nothing that started after it opened can end before it is half-open.
            (State::Open { .. }, _) => None,
            (State::Closed, Verdict::Silent) => None,
            (State::Closed, Verdict::Alive) => {
                self.streak.clear();
                self.window.note_alive(now);
                None
            }
            (State::Closed, Verdict::Failed) => self.note_failure(event, now),
            (State::HalfOpen { .. }, Verdict::Silent) => {
                self.state = State::HalfOpen { probing: false };
                None
            }
            (State::HalfOpen { .. }, Verdict::Failed) => Some(self.open(now)),
            (State::HalfOpen { .. }, Verdict::Alive) => {
                self.close(now);
                Some(Change::Closed)
            }
        }
    }

    /// An attempt came to no end: whether another probe may go in its place.
    pub fn abandoned(&mut self, ticket: Ticket) -> bool {
        let probe = ticket.0 == self.epoch && self.state == State::HalfOpen { probing: true };
        if probe {
            self.state = State::HalfOpen { probing: false };
        }
        probe
    }

    /// How it stands.
    pub fn phase(&self) -> Phase {
        match self.state {
            State::Closed => Phase::Closed,
            State::Open { .. } => Phase::Open,
            State::HalfOpen { .. } => Phase::HalfOpen,
        }
    }

    fn note_failure(&mut self, event: EventId, now: Instant) -> Option<Change> {
        if !self.streak.contains(&event) {
            self.streak.push(event);
        }
        self.window.note_failure(event, now);
        let in_a_row = self.streak.len() >= self.policy.consecutive_failures as usize;
        let (ended, failed) = self.window.counts();
        let share = ended >= self.policy.min_attempts
            && f64::from(failed) >= self.policy.failure_ratio * f64::from(ended);
        (in_a_row || share).then(|| self.open(now))
    }

    fn open(&mut self, now: Instant) -> Change {
        let doubled = self.policy.open_for.saturating_mul(1 << self.openings.min(20));
        let open_for = doubled.min(self.policy.open_for_max.max(self.policy.open_for));
        self.openings = self.openings.saturating_add(1);
        self.enter(State::Open { until: now + open_for });
        Change::Opened(open_for)
    }

    fn close(&mut self, now: Instant) {
        self.openings = 0;
        self.streak = Vec::new();
        self.window = Window::new(self.policy.window, now);
        self.enter(State::Closed);
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.epoch = self.epoch.wrapping_add(1);
    }
}

/// What ended within the last while, in slices of time.
#[derive(Debug)]
struct Window {
    slice: Duration,
    slices: [Slice; SLICES],
    at: usize,
    /// When the current slice ends.
    ends: Instant,
    /// Deliveries that failed, and the end of the slice in which they did.
    failed: VecDeque<(EventId, Instant)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slice {
    alive: u32,
    failed: u32,
}

impl Window {
    fn new(window: Duration, now: Instant) -> Window {
        let slice = (window / u32::try_from(SLICES).unwrap_or(1)).max(Duration::from_millis(1));
        Window {
            slice,
            slices: [Slice::default(); SLICES],
            at: 0,
            ends: now + slice,
            failed: VecDeque::new(),
        }
    }

    fn note_alive(&mut self, now: Instant) {
        self.turn(now);
        if let Some(slice) = self.slices.get_mut(self.at) {
            slice.alive = slice.alive.saturating_add(1);
        }
    }

    /// Counts a delivery's failure, unless it was counted before.
    fn note_failure(&mut self, event: EventId, now: Instant) {
        self.turn(now);
        let oldest = self.ends.checked_sub(self.span()).unwrap_or(self.ends);
        while self.failed.front().is_some_and(|(_, ended)| *ended <= oldest) {
            self.failed.pop_front();
        }
        if self.failed.iter().any(|(known, _)| *known == event) {
            return;
        }
        if self.failed.len() >= REMEMBERED {
            self.failed.pop_front();
        }
        self.failed.push_back((event, self.ends));
        if let Some(slice) = self.slices.get_mut(self.at) {
            slice.failed = slice.failed.saturating_add(1);
        }
    }

    /// How many ended, and how many of them failed.
    fn counts(&self) -> (u32, u32) {
        let failed = self.slices.iter().fold(0u32, |sum, slice| sum.saturating_add(slice.failed));
        let alive = self.slices.iter().fold(0u32, |sum, slice| sum.saturating_add(slice.alive));
        (failed.saturating_add(alive), failed)
    }

    fn span(&self) -> Duration {
        self.slice * u32::try_from(SLICES).unwrap_or(1)
    }

    /// Moves on to the slice of `now`.
    fn turn(&mut self, now: Instant) {
        if now < self.ends {
            return;
        }
        if now >= self.ends + self.span() {
            self.slices = [Slice::default(); SLICES];
            self.ends = now + self.slice;
            return;
        }
        while now >= self.ends {
            self.at = (self.at + 1) % SLICES;
            if let Some(slice) = self.slices.get_mut(self.at) {
                *slice = Slice::default();
            }
            self.ends += self.slice;
        }
    }
}

#[cfg(test)]
mod tests;
