//! Why a delivery waits.

use std::fmt;

/// What keeps a delivery that is not over from being sent: a closed list, also the metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Wait {
    /// Nothing but those before it.
    Turn = 0,
    /// The delay that it came with, or its connection's.
    Delay = 1,
    /// The pause after a failed attempt.
    Backoff = 2,
    /// The connection is paused, by its file or by the daemon.
    Paused = 3,
    /// The connection is disabled, by its file or by the daemon.
    Disabled = 4,
    /// There is no such connection any more.
    Orphaned = 5,
    /// The breaker is open, or its probe is under way.
    Breaker = 6,
    /// The target asked to be left alone.
    RetryAfter = 7,
    /// Another delivery of its key comes first.
    Ordering = 8,
    /// Every HTTP connection of the pool is in use.
    Pool = 9,
    /// `max_in_flight` is reached, or the connection comes back slowly after trouble.
    Concurrency = 10,
    /// Its payload is being read, or there is no room for it in memory.
    Memory = 11,
    /// The rate limit.
    RateLimit = 12,
}

impl Wait {
    /// All of them, in the order of their numbers.
    pub const ALL: [Wait; 13] = [
        Wait::Turn,
        Wait::Delay,
        Wait::Backoff,
        Wait::Paused,
        Wait::Disabled,
        Wait::Orphaned,
        Wait::Breaker,
        Wait::RetryAfter,
        Wait::Ordering,
        Wait::Pool,
        Wait::Concurrency,
        Wait::Memory,
        Wait::RateLimit,
    ];

    /// The name in metrics and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Wait::Turn => "turn",
            Wait::Delay => "delay",
            Wait::Backoff => "backoff",
            Wait::Paused => "paused",
            Wait::Disabled => "disabled",
            Wait::Orphaned => "orphaned",
            Wait::Breaker => "breaker",
            Wait::RetryAfter => "retry_after",
            Wait::Ordering => "ordering",
            Wait::Pool => "pool",
            Wait::Concurrency => "concurrency",
            Wait::Memory => "memory",
            Wait::RateLimit => "rate_limit",
        }
    }

    /// Whether the whole connection is held: an operator, or the target, must change something.
    pub fn holds(self) -> bool {
        matches!(self, Wait::Paused | Wait::Disabled | Wait::Orphaned | Wait::Breaker)
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_places_in_the_list() {
        for (number, wait) in Wait::ALL.into_iter().enumerate() {
            assert_eq!(wait as usize, number, "{wait}");
        }
    }
}
