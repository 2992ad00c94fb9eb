//! What a seed draws before it begins: the connections and the size of everything.

use std::time::Duration;

use crate::connection::breaker::BreakerPolicy;
use crate::connection::ordering::{By, OnDead, Ordering};
use crate::connection::path::Path;
use crate::connection::retry::{Jitter, RetryPolicy, Strategy};
use crate::connection::{Connection, OnRemove, QueueLimits, RateLimit, Target, WhenFull};
use crate::delivery::testing::connection;
use crate::ingress::{IngressLimits, IngressOptions};
use crate::store::keys::KeyLimits;
use crate::store::{Keep, Limit, Options, ShelfLimits};

/// Longest `Retry-After` that is believed, in the simulation.
pub(super) const RETRY_AFTER_MAX: Duration = Duration::from_secs(20);

/// The port of the first target.
pub(super) const FIRST_PORT: u16 = 9000;

const KIB: u64 = 1 << 10;

/// What does not change in a run.
pub(super) struct Plan {
    /// As they are configured at first; reloads change some of it, but not the retry policies and the limits.
    pub(super) connections: Vec<Connection>,
    pub(super) store: Options,
    pub(super) ingress: IngressOptions,
    pub(super) payload_bytes: u64,
    /// Steps of the fault phase.
    pub(super) steps: u32,
}

impl Plan {
    pub(super) fn draw(rng: &mut fastrand::Rng) -> Plan {
        let count = rng.usize(2..=4);
        let ingress = IngressOptions {
            memory_bytes: 256 * KIB,
            limits: IngressLimits { max_connections: 64, ..IngressLimits::default() },
            ..IngressOptions::default()
        };
        Plan {
            connections: (0..count).map(|number| draw_connection(number, rng)).collect(),
            store: Options {
                segment_bytes: 64 * KIB,
                max_bytes: rng.choice([384 * KIB, 768 * KIB, 4096 * KIB]).unwrap(),
                hot_bytes: rng.choice([0, 16 * KIB, 1024 * KIB]).unwrap(),
                lanes: 1,
                feeds: 1,
                keys: KeyLimits { window: Duration::from_secs(60 * 86_400), max_keys: 10_000 },
                shelf: ShelfLimits { items: rng.choice([4, 32, 65_536]).unwrap(), block_items: 3 },
                keep: keep(rng),
                seed: 0,
            },
            ingress,
            payload_bytes: rng.choice([24 * KIB, 1024 * KIB]).unwrap(),
            steps: rng.u32(10..40),
        }
    }

    /// Whether every event of a process stays in its memory, and no connection has to wait for bytes.
    pub(super) fn is_all_hot(&self) -> bool {
        self.store.hot_bytes >= 1024 * KIB && self.payload_bytes >= 1024 * KIB
    }

    /// Targets: one for each connection, and one more that a reload may lead to.
    pub(super) fn targets(&self) -> usize {
        self.connections.len() + 1
    }
}

/// What was delivered is kept for a while in a third of all plans; dead letters for longer than any of them takes.
fn keep(rng: &mut fastrand::Rng) -> Keep {
    let for_seconds = |seconds, bytes| Limit { age: Duration::from_secs(seconds), bytes };
    Keep {
        delivered: for_seconds(rng.choice([0, 0, 600]).unwrap(), 256 * KIB),
        dead: for_seconds(1 << 40, u64::MAX),
        attempts: for_seconds(86_400, 64 * KIB),
    }
}

/// A connection's address: each target serves any of them, the path says which it is.
pub(super) fn url(connection: usize, target: usize) -> String {
    format!("http://127.0.0.1:{}/c{connection}", usize::from(FIRST_PORT) + target)
}

/// Leads a connection to a target.
pub(super) fn lead(connection: &mut Connection, number: usize, target: usize) {
    connection.target = Target::parse(&url(number, target)).unwrap();
}

fn draw_connection(number: usize, rng: &mut fastrand::Rng) -> Connection {
    let mut drawn = connection(&format!("c{number}"), &url(number, number));
    drawn.max_in_flight = rng.u32(1..=4);
    drawn.request_timeout = Duration::from_secs(rng.u64(1..=3));
    drawn.pool.idle_timeout = Duration::from_secs(rng.u64(1..=20));
    drawn.pool.max_lifetime = Duration::from_secs(rng.u64(5..=60));
    drawn.max_body = if rng.u8(..4) == 0 { 2 * KIB } else { 16 * KIB };
    drawn.retry = RetryPolicy {
        strategy: match rng.u8(..3) {
            0 => Strategy::Schedule([1, 3, 9, 27].map(Duration::from_secs).to_vec()),
            1 => Strategy::Linear { interval: Duration::from_millis(rng.u64(200..2000)) },
            _ => Strategy::Linear { interval: Duration::from_secs(rng.u64(2..30)) },
        },
        jitter: if rng.bool() { Jitter::None } else { Jitter::Equal },
        count: rng.choice([2, 5, 50]).unwrap(),
        retry_after_max: RETRY_AFTER_MAX,
        ..drawn.retry
    };
    let few = rng.u8(..3) == 0;
    drawn.queue = QueueLimits {
        max_events: if few { rng.u64(3..12) } else { 10_000 },
        max_bytes: if rng.u8(..4) == 0 { 24 * KIB } else { 16 << 20 },
        when_full: if rng.bool() { WhenFull::DeadLetter } else { WhenFull::Reject },
    };
    drawn.on_remove = if rng.bool() { OnRemove::Discard } else { OnRemove::Hold };
    // Drawn aside, so that the seeds that are kept go on meaning what they meant.
    let mut aside = rng.clone();
    if aside.u8(..4) == 0 {
        drawn.delay = Duration::from_millis(aside.u64(100..1500));
    }
    drawn.rate_limit = (rng.u8(..4) == 0).then(|| draw_rate(rng));
    // From copies, so that the seeds of before go on meaning what they did.
    drawn.breaker = draw_breaker(&mut rng.clone());
    drawn.ordering = draw_ordering(rng);
    drawn
}

/// Short enough that one which is left open closes within the time in which a fresh event must pass.
fn draw_breaker(rng: &mut fastrand::Rng) -> Option<BreakerPolicy> {
    rng.bool().then(|| BreakerPolicy {
        consecutive_failures: rng.u32(1..=5),
        failure_ratio: 0.5,
        min_attempts: rng.u32(2..20),
        window: Duration::from_secs(rng.u64(1..=60)),
        open_for: Duration::from_millis(rng.u64(100..=2000)),
        open_for_max: Duration::from_secs(4),
    })
}

/// A third has an order by the event's type, a sixth a strict one.
pub(super) fn draw_ordering(rng: &fastrand::Rng) -> Option<Ordering> {
    // Not what is drawn next from the copied one.
    match rng.clone().u64(..) >> 32 & 7 {
        0 | 1 => Some(by_type()),
        2 => Some(strict()),
        _ => None,
    }
}

fn by_type() -> Ordering {
    Ordering { by: By::Key(Path::parse("event.type").unwrap()), on_dead: OnDead::Skip }
}

fn strict() -> Ordering {
    Ordering { by: By::Connection, on_dead: OnDead::Skip }
}

/// The type of the event with this number; some have none.
pub(super) fn kind(number: u64) -> Option<u64> {
    (!number.is_multiple_of(11)).then_some(number % 3)
}

/// A rate limit that is felt.
pub(super) fn draw_rate(rng: &mut fastrand::Rng) -> RateLimit {
    RateLimit { limit: rng.u32(2..20), per: Duration::from_secs(1), burst: rng.u32(1..4) }
}

/// The least wait after attempt `attempt`, of which nothing more is known than that it failed.
pub(super) fn least_wait(connection: &Connection, attempt: u32) -> Duration {
    let wait = match &connection.retry.strategy {
        Strategy::Linear { interval } => *interval,
        Strategy::Schedule(waits) => waits.get(attempt as usize - 1).copied().unwrap_or_default(),
        Strategy::Exponential { .. } | Strategy::None => Duration::ZERO,
    };
    match connection.retry.jitter {
        Jitter::None => wait,
        Jitter::Equal => wait / 2,
        Jitter::Full => Duration::ZERO,
    }
}
