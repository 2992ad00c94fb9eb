//! When a failed attempt is tried again.
use super::status::StatusSet;
use std::time::Duration;

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
