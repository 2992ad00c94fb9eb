//! Gauges that are read where they live, just before they are rendered: nothing on the way of an event sets them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use metrics::{Counter, Gauge};

use super::Live;
use crate::clock::{Age, Clock, millis};
use crate::connection::State;
use crate::connection::breaker::Phase;
use crate::delivery::{Dispatcher, Status};
use crate::event::Wait;
use crate::ingress::{Idempotency, MemoryBudget};
use crate::metrics::{ConnectionMetrics, Metrics};
use crate::store::ConnectionId;
use crate::store::queue::QueueCounters;

/// All of them.
pub(super) struct Gauges {
    connections: Mutex<Vec<OfConnection>>,
    ingress: Mutex<Option<(Arc<MemoryBudget>, Arc<Idempotency>)>>,
    ingress_memory: Gauge,
    orphaned: Gauge,
    clock: Clock,
}

struct OfConnection {
    id: ConnectionId,
    state: State,
    queue: Arc<QueueCounters>,
    status: Option<Arc<Status>>,
    oldest_seconds: Arc<AtomicU64>,
    queued: Gauge,
    scheduled: Gauge,
    held: Gauge,
    in_flight: Gauge,
    bytes: Gauge,
    oldest: Gauge,
    dead: Gauge,
    open: Gauge,
    idle: Gauge,
    /// Where it signs: when the last of its secrets ends, 0 for never.
    signing_ends: Option<(Gauge, f64)>,
    retry_after: Gauge,
    /// By the number of the phase; none where there is no breaker.
    breaker: Option<[Gauge; 3]>,
    metrics: Arc<ConnectionMetrics>,
    /// Why the daemon holds it, if it does.
    suspended: Option<&'static str>,
    /// By cause, as far as anything was ever held for it.
    held_by: BTreeMap<&'static str, Gauge>,
    /// By cause, as far as anything ever waited for it.
    waited: BTreeMap<Wait, Counter>,
}

/// Deliveries of one connection that are not over, by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct States {
    pub(super) queued: u64,
    pub(super) scheduled: u64,
    pub(super) held: u64,
    pub(super) in_flight: u64,
}

impl States {
    /// Splits what is live: what is neither in flight nor waits for a time is queued, or held while the connection is not
    /// active or its breaker not closed.
    pub(super) fn of(queue: &QueueCounters, status: Option<&Status>, state: State) -> States {
        let live = queue.live.load(Ordering::Relaxed);
        let in_flight = status
            .map_or(0, |status| u64::from(status.in_flight.load(Ordering::Relaxed)))
            .min(live);
        let scheduled = queue.scheduled.load(Ordering::Relaxed).min(live - in_flight);
        let rest = live - in_flight - scheduled;
        let closed = status.is_none_or(|status| status.breaker() == Phase::Closed);
        let goes = state == State::Active && closed;
        let (queued, held) = if goes { (rest, 0) } else { (0, rest) };
        States { queued, scheduled, held, in_flight }
    }
}

impl Gauges {
    pub(super) fn new(metrics: &Metrics, clock: &Clock) -> Gauges {
        Gauges {
            connections: Mutex::default(),
            ingress: Mutex::default(),
            ingress_memory: metrics.gauge("posthaste_memory_bytes", &[("use", "ingress")]),
            orphaned: metrics.gauge("posthaste_orphaned_events", &[]),
            clock: clock.clone(),
        }
    }

    /// Which connections there are from now on.
    pub(super) fn watch(&self, live: &[Live], dispatcher: &Dispatcher) {
        let connections =
            live.iter().map(|live| OfConnection::new(live, dispatcher.status(live.id))).collect();
        let mut watched = lock(&self.connections);
        // What is not true any more must not go on being shown.
        watched.iter().for_each(OfConnection::forget);
        *watched = connections;
    }

    pub(super) fn watch_ingress(&self, memory: Arc<MemoryBudget>, keys: Arc<Idempotency>) {
        *lock(&self.ingress) = Some((memory, keys));
    }

    /// Ages of the oldest deliveries, by connection; the others have none.
    pub(super) fn set_oldest(&self, ages: &[(ConnectionId, Age)], now: Age) {
        for connection in lock(&self.connections).iter() {
            let oldest = ages.iter().find(|(id, _)| *id == connection.id);
            let seconds = oldest.map_or(0, |(_, accepted)| now.since(*accepted).as_secs());
            connection.oldest_seconds.store(seconds, Ordering::Relaxed);
        }
    }

    /// Deliveries held for names that are no longer configured.
    pub(super) fn set_orphaned(&self, held: u64) {
        self.orphaned.set(held as f64);
    }

    /// Seconds since the oldest delivery of a connection was accepted, as last measured.
    pub(super) fn oldest_seconds(&self, id: ConnectionId) -> u64 {
        let connections = lock(&self.connections);
        let connection = connections.iter().find(|connection| connection.id == id);
        connection.map_or(0, |connection| connection.oldest_seconds.load(Ordering::Relaxed))
    }

    /// Sets all gauges when called.
    pub(super) fn refresher(self: &Arc<Gauges>) -> Arc<dyn Fn() + Send + Sync> {
        let gauges = Arc::clone(self);
        Arc::new(move || gauges.refresh())
    }

    fn refresh(&self) {
        let now_ms = millis(self.clock.monotonic());
        for connection in lock(&self.connections).iter_mut() {
            connection.refresh(now_ms);
        }
        if let Some((memory, keys)) = &*lock(&self.ingress) {
            self.ingress_memory.set(memory.used() as f64);
            keys.publish();
        }
    }
}

impl OfConnection {
    fn new(live: &Live, status: Option<Arc<Status>>) -> OfConnection {
        let state = |state| live.metrics.gauge("posthaste_queue_events", Some(("state", state)));
        let pool = |state| live.metrics.gauge("posthaste_pool_connections", Some(("state", state)));
        let breaker = |phase: Phase| {
            live.metrics.gauge("posthaste_breaker_state", Some(("state", phase.as_str())))
        };
        let plain = |metric| live.metrics.gauge(metric, None);
        OfConnection {
            id: live.id,
            state: live.state(),
            queue: Arc::clone(&live.queue),
            status,
            oldest_seconds: Arc::default(),
            queued: state("queued"),
            scheduled: state("scheduled"),
            held: state("held"),
            in_flight: state("in_flight"),
            bytes: plain("posthaste_queue_bytes"),
            oldest: plain("posthaste_queue_oldest_event_age_seconds"),
            dead: plain("posthaste_dead_letters"),
            open: pool("open"),
            idle: pool("idle"),
            signing_ends: live.connection.sign.as_ref().map(|sign| {
                let gauge = plain("posthaste_signing_secret_expiry_timestamp_seconds");
                (gauge, sign.ends().map_or(0.0, |ends| ends as f64))
            }),
            retry_after: plain("posthaste_retry_after_hold_seconds"),
            breaker: live.connection.breaker.is_some().then(|| Phase::ALL.map(breaker)),
            metrics: Arc::clone(&live.metrics),
            suspended: live.suspension.map(|suspension| suspension.kind.as_str()),
            held_by: BTreeMap::new(),
            waited: BTreeMap::new(),
        }
    }

    fn refresh(&mut self, now_ms: u64) {
        let states = States::of(&self.queue, self.status.as_deref(), self.state);
        self.queued.set(states.queued as f64);
        self.scheduled.set(states.scheduled as f64);
        self.held.set(states.held as f64);
        self.in_flight.set(states.in_flight as f64);
        self.bytes.set(self.queue.live_bytes.load(Ordering::Relaxed) as f64);
        self.oldest.set(self.oldest_seconds.load(Ordering::Relaxed) as f64);
        self.dead.set(self.queue.dead.load(Ordering::Relaxed) as f64);
        if let Some((gauge, ends)) = &self.signing_ends {
            gauge.set(*ends);
        }
        self.refresh_held(states.held, now_ms);
        self.refresh_waits();
        if let Some(status) = &self.status {
            self.open.set(f64::from(status.open.load(Ordering::Relaxed)));
            self.idle.set(f64::from(status.idle.load(Ordering::Relaxed)));
        }
    }
}

impl OfConnection {
    fn refresh_held(&mut self, held: u64, now_ms: u64) {
        let status = self.status.as_deref();
        let phase = status.map(Status::breaker).unwrap_or_default();
        for (number, gauge) in self.breaker.iter().flatten().enumerate() {
            gauge.set(if number == phase as usize { 1.0 } else { 0.0 });
        }
        let until = status.map_or(0, |status| status.hold_until_ms.load(Ordering::Relaxed));
        self.retry_after.set(until.saturating_sub(now_ms) as f64 / 1000.0);
        let cause = match (self.suspended, self.state) {
            (Some(cause), _) => Some(cause),
            (None, State::Active) => (phase != Phase::Closed).then_some("breaker"),
            (None, state) => Some(state.as_str()),
        };
        if let Some(cause) = cause.filter(|_| held > 0) {
            self.held_gauge(cause);
        }
        for (of, gauge) in &self.held_by {
            gauge.set(if cause == Some(of) { held as f64 } else { 0.0 });
        }
        if let Some(cause) = self.suspended {
            self.suspended_gauge(cause).set(1.0);
        }
    }

    /// Shows what its deliveries have waited, in whole seconds. A series begins at zero, so that the first seconds count for
    /// who asks for a rate.
    fn refresh_waits(&mut self) {
        for wait in Wait::ALL {
            let seconds = self.queue.waits.ms(wait) / 1000;
            match self.waited.get(&wait) {
                Some(counter) => counter.absolute(seconds),
                None if seconds > 0 => {
                    let label = Some(("cause", wait.as_str()));
                    let counter = self.metrics.counter("posthaste_event_wait_seconds_total", label);
                    self.waited.insert(wait, counter);
                }
                None => {}
            }
        }
    }

    /// Makes the series of a cause when it is there for the first time.
    fn held_gauge(&mut self, cause: &'static str) {
        let metrics = &self.metrics;
        self.held_by
            .entry(cause)
            .or_insert_with(|| metrics.gauge("posthaste_held_events", Some(("cause", cause))));
    }

    fn suspended_gauge(&self, cause: &str) -> Gauge {
        self.metrics.gauge("posthaste_connection_suspended", Some(("cause", cause)))
    }

    /// Takes back what only holds for as long as it is watched.
    fn forget(&self) {
        self.held_by.values().for_each(|gauge| gauge.set(0.0));
        if let Some((gauge, _)) = &self.signing_ends {
            gauge.set(0.0);
        }
        if let Some(cause) = self.suspended {
            self.suspended_gauge(cause).set(0.0);
        }
    }
}

/// Nothing panics while it holds one of these; if it did, the lists are still whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
