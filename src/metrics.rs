//! Every metric: name, help, labels, buckets. Handles are registered once and passed in; nothing asks a global.
//!
//! Names follow the Prometheus conventions (base units, `_total`), labels are bounded by the configuration
//! (`connection`) or by a closed list, never by events. Counters are born at zero. A removed connection's series are
//! left out when rendering.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

use crate::event::Cause;

const METADATA: Metadata<'static> = Metadata::new("posthaste", Level::INFO, None);

/// Attempts and latencies: from a fast neighbour (0.5 ms) to the longest timeout (60 s).
const SECONDS: [f64; 16] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0,
];
/// Disk syncs: from an NVMe with power-loss protection (50 us) to a disk in trouble.
const SYNC_SECONDS: [f64; 14] = [
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0,
];
/// Events in one commit.
const BATCH: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 256.0, 1024.0];

/// All metrics of one daemon.
#[derive(Clone)]
pub struct Metrics {
    recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
    removed: Arc<Mutex<BTreeSet<String>>>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// An empty registry with all help texts.
    #[expect(clippy::expect_used, reason = "the buckets are constants, not empty")]
    pub fn new() -> Metrics {
        let recorder = PrometheusBuilder::new()
            .set_buckets(&SECONDS)
            .expect("buckets are not empty")
            .set_buckets_for_metric(
                Matcher::Full("posthaste_store_sync_duration_seconds".into()),
                &SYNC_SECONDS,
            )
            .expect("buckets are not empty")
            .set_buckets_for_metric(Matcher::Full("posthaste_store_batch_events".into()), &BATCH)
            .expect("buckets are not empty")
            .build_recorder();
        let handle = recorder.handle();
        let metrics = Metrics { recorder: Arc::new(recorder), handle, removed: Arc::default() };
        metrics.describe_all();
        metrics
    }

    /// The text format of Prometheus, without the series of removed connections.
    pub fn render(&self) -> String {
        let text = self.handle.render();
        let removed = self.removed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if removed.is_empty() {
            return text;
        }
        let of_removed = |line: &str| {
            let name = line.split_once("connection=\"").and_then(|(_, rest)| rest.split_once('"'));
            name.is_some_and(|(name, _)| removed.contains(name))
        };
        text.lines().filter(|line| !of_removed(line)).flat_map(|line| [line, "\n"]).collect()
    }

    /// Moves recorded samples into their buckets; call it every few seconds, or they pile up.
    pub fn run_upkeep(&self) {
        self.handle.run_upkeep();
    }

    /// Leaves a removed connection out of [`Metrics::render`] until it comes back.
    pub fn remove_connection(&self, name: &str) {
        self.removed
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .insert(name.to_owned());
    }

    /// A counter, registered and so present at zero.
    pub fn counter(&self, name: &'static str, labels: &[(&'static str, &str)]) -> Counter {
        let counter = self.recorder.register_counter(&key(name, labels), &METADATA);
        counter.increment(0);
        counter
    }

    /// A gauge.
    pub fn gauge(&self, name: &'static str, labels: &[(&'static str, &str)]) -> Gauge {
        self.recorder.register_gauge(&key(name, labels), &METADATA)
    }

    /// A histogram. It takes memory from its first sample on.
    pub fn histogram(&self, name: &'static str, labels: &[(&'static str, &str)]) -> Histogram {
        self.recorder.register_histogram(&key(name, labels), &METADATA)
    }

    /// The handles of one connection. Brings its series back if it had been removed.
    pub fn connection(&self, name: &str) -> Arc<ConnectionMetrics> {
        self.removed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(name);
        Arc::new(ConnectionMetrics::new(self, name))
    }

    fn describe_all(&self) {
        for (kind, name, unit, help) in HELP {
            let (name, help) = (KeyName::from_const_str(name), (*help).into());
            match kind {
                Kind::Counter => self.recorder.describe_counter(name, *unit, help),
                Kind::Gauge => self.recorder.describe_gauge(name, *unit, help),
                Kind::Histogram => self.recorder.describe_histogram(name, *unit, help),
            }
        }
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

fn key(name: &'static str, labels: &[(&'static str, &str)]) -> Key {
    let labels: Vec<Label> =
        labels.iter().map(|(key, value)| Label::new(*key, (*value).to_owned())).collect();
    Key::from_parts(name, labels)
}

/// How a delivery ended, as a label.
#[derive(Debug)]
pub struct Deliveries {
    /// Acknowledged by the target.
    pub delivered: Counter,
    /// Became a dead letter.
    pub dead: Counter,
    /// Cancelled by an operator or by `on_remove`.
    pub cancelled: Counter,
    /// Not taken: the connection is disabled, or a filter said no.
    pub ignored: Counter,
}

/// The handles of one connection.
#[derive(Debug)]
pub struct ConnectionMetrics {
    metrics: Metrics,
    name: String,
    /// Deliveries accepted by ingress.
    pub accepted: Counter,
    /// Deliveries found in the store at start.
    pub recovered: Counter,
    /// Dead letters sent again.
    pub replayed: Counter,
    /// Deliveries that ended, by how.
    pub deliveries: Deliveries,
    /// Attempts that got a success status.
    attempts_ok: Counter,
    /// Attempts that failed, by cause; `None` until the first one of that cause.
    attempts_failed: [OnceLock<Counter>; Cause::ALL.len()],
    attempt_seconds: OnceLock<Histogram>,
    latency_seconds: OnceLock<Histogram>,
    /// HTTP connections opened.
    pub connections_opened: Counter,
    /// Times that a due delivery waited longer than `pool_acquire_timeout` for a worker.
    pub pool_exhausted: Counter,
    /// Times that the queue waited for a rate token.
    pub rate_limit_waits: Counter,
    /// Times that the target asked to be left alone.
    pub retry_after_holds: Counter,
    /// Times that the breaker opened.
    pub breaker_opened: Counter,
    unordered: OnceLock<Counter>,
}

impl ConnectionMetrics {
    fn new(metrics: &Metrics, name: &str) -> ConnectionMetrics {
        let connection = ("connection", name);
        let counter = |metric| metrics.counter(metric, &[connection]);
        let outcome = |outcome| {
            metrics.counter("posthaste_deliveries_total", &[connection, ("outcome", outcome)])
        };
        let registered = ConnectionMetrics {
            accepted: counter("posthaste_deliveries_accepted_total"),
            recovered: counter("posthaste_deliveries_recovered_total"),
            replayed: counter("posthaste_deliveries_replayed_total"),
            deliveries: Deliveries {
                delivered: outcome("delivered"),
                dead: outcome("dead"),
                cancelled: outcome("cancelled"),
                ignored: outcome("ignored"),
            },
            attempts_ok: metrics
                .counter("posthaste_delivery_attempts_total", &[connection, ("code", "ok")]),
            attempts_failed: [const { OnceLock::new() }; Cause::ALL.len()],
            attempt_seconds: OnceLock::new(),
            latency_seconds: OnceLock::new(),
            connections_opened: counter("posthaste_connections_opened_total"),
            pool_exhausted: counter("posthaste_pool_exhausted_total"),
            rate_limit_waits: counter("posthaste_rate_limit_waits_total"),
            retry_after_holds: counter("posthaste_retry_after_holds_total"),
            breaker_opened: counter("posthaste_breaker_opened_total"),
            unordered: OnceLock::new(),
            metrics: metrics.clone(),
            name: name.to_owned(),
        };
        // The causes that alert rules ask for exist from the start; the rare ones appear with their first attempt.
        for cause in
            [Cause::HttpStatus, Cause::RequestTimeout, Cause::ConnectRefused, Cause::ConnectTimeout]
        {
            registered.attempts_failed(cause).increment(0);
        }
        registered
    }

    /// Counts an attempt: `None` for a success status.
    pub fn attempt(&self, failed: Option<Cause>, seconds: f64) {
        match failed {
            None => self.attempts_ok.increment(1),
            Some(cause) => self.attempts_failed(cause).increment(1),
        }
        self.attempt_seconds
            .get_or_init(|| self.histogram("posthaste_delivery_attempt_duration_seconds"))
            .record(seconds);
    }

    /// Notes when the certificate that the target has shown ends, in Unix seconds.
    pub fn peer_certificate(&self, expires: i64) {
        self.gauge("posthaste_peer_certificate_expiry_timestamp_seconds", None).set(expires as f64);
    }

    /// Notes the time from acceptance to success.
    pub fn latency(&self, seconds: f64) {
        self.latency_seconds
            .get_or_init(|| self.histogram("posthaste_delivery_latency_seconds"))
            .record(seconds);
    }

    /// A counter of this connection, with one more label where it has one. It exists from now on.
    pub fn counter(&self, metric: &'static str, label: Option<(&'static str, &str)>) -> Counter {
        let mut labels = vec![("connection", self.name.as_str())];
        labels.extend(label);
        self.metrics.counter(metric, &labels)
    }

    /// Events that went out in no order, because they have no ordering key. Connections that have no order have none.
    pub fn unordered(&self) -> &Counter {
        let labels = [("connection", self.name.as_str())];
        self.unordered
            .get_or_init(|| self.metrics.counter("posthaste_unordered_events_total", &labels))
    }

    /// A gauge of this connection with one more label, such as `state`.
    pub fn gauge(&self, metric: &'static str, label: Option<(&'static str, &str)>) -> Gauge {
        let mut labels = vec![("connection", self.name.as_str())];
        labels.extend(label);
        self.metrics.gauge(metric, &labels)
    }

    fn attempts_failed(&self, cause: Cause) -> &Counter {
        static NONE: OnceLock<Counter> = OnceLock::new();
        let register = || {
            let labels = [("connection", self.name.as_str()), ("code", cause.as_str())];
            self.metrics.counter("posthaste_delivery_attempts_total", &labels)
        };
        match self.attempts_failed.get(cause as usize - 1) {
            Some(cell) => cell.get_or_init(register),
            None => NONE.get_or_init(Counter::noop),
        }
    }

    fn histogram(&self, metric: &'static str) -> Histogram {
        self.metrics.histogram(metric, &[("connection", &self.name)])
    }
}

enum Kind {
    Counter,
    Gauge,
    Histogram,
}
use Kind::{Counter as C, Gauge as G, Histogram as H};

/// Every metric of the daemon but the `process_*` ones, which `process` renders. A test compares it with what `/metrics` shows.
#[rustfmt::skip]
const HELP: &[(Kind, &str, Option<Unit>, &str)] = &[
    (G, "posthaste_build_info", None, "Always 1; the version is a label."),
    (C, "posthaste_ingress_requests_total", None, "Requests that ingress answered, by listener."),
    (C, "posthaste_ingress_rejected_total", None, "Requests that ingress refused, by the code of the problem document."),
    (C, "posthaste_ingress_body_bytes_total", None, "Bytes of event bodies accepted."),
    (G, "posthaste_ingress_connections", None, "Open connections of producers."),
    (H, "posthaste_ingress_ack_duration_seconds", None, "From a request's head to its 202."),
    (C, "posthaste_idempotency_repeats_total", None, "Posts answered with an event that was posted before under the same key."),
    (G, "posthaste_idempotency_keys", None, "Idempotency keys remembered."),
    (G, "posthaste_idempotency_window_seconds", None, "How long a key is remembered: as configured, less when there are more than max_keys."),
    (C, "posthaste_idempotency_keys_evicted_total", None, "Keys forgotten before their window was over, because there were more than max_keys."),
    (C, "posthaste_deliveries_accepted_total", None, "Deliveries accepted by ingress."),
    (C, "posthaste_deliveries_recovered_total", None, "Deliveries found in the store at start."),
    (C, "posthaste_deliveries_replayed_total", None, "Dead letters sent again."),
    (C, "posthaste_deliveries_ignored_total", None, "Deliveries that a connection did not take, by cause: filtered, duplicate or disabled."),
    (C, "posthaste_filter_type_errors_total", None, "Events in which a filter compared values of different sorts."),
    (C, "posthaste_deliveries_total", None, "Deliveries that ended, by outcome."),
    (C, "posthaste_delivery_attempts_total", None, "Attempts, by code: ok, or the cause of the failure."),
    (H, "posthaste_delivery_attempt_duration_seconds", None, "How long attempts took."),
    (H, "posthaste_delivery_latency_seconds", None, "From acceptance to success."),
    (C, "posthaste_connections_opened_total", None, "HTTP connections opened to targets."),
    (G, "posthaste_connection_tls_verify", None, "Whether the target's certificate is verified: 1, or 0 for tls.verify = false. Not there for http targets."),
    (G, "posthaste_peer_certificate_expiry_timestamp_seconds", None, "When the certificate ends that the target has shown last."),
    (C, "posthaste_pool_exhausted_total", None, "Times that a due delivery waited longer than pool_acquire_timeout for a worker."),
    (C, "posthaste_rate_limit_waits_total", None, "Times that a queue waited for its rate limit."),
    (G, "posthaste_signing_secret_expiry_timestamp_seconds", None, "When the last secret that a connection signs with ends; 0 while one of them never does."),
    (C, "posthaste_retry_after_holds_total", None, "Answers of a target that held its whole connection: 429 or 503 with Retry-After."),
    (G, "posthaste_retry_after_hold_seconds", None, "How long a Retry-After goes on holding the connection; 0 when none does."),
    (C, "posthaste_breaker_opened_total", None, "Times that the breaker of a connection opened, failed probes included."),
    (G, "posthaste_breaker_state", None, "1 for the state that the breaker is in: closed, half_open or open."),
    (C, "posthaste_event_wait_seconds_total", None, "Seconds that deliveries have waited, those of all of them together, by what they waited for."),
    (G, "posthaste_held_events", None, "Deliveries that are held, by cause."),
    (G, "posthaste_connection_suspended", None, "1 for a connection that the daemon or an operator holds although its settings do not, by cause."),
    (C, "posthaste_unordered_events_total", None, "Events that went out in no order, because they have no ordering key."),
    (G, "posthaste_queue_events", None, "Deliveries that are not over, by state."),
    (G, "posthaste_queue_bytes", None, "Payload bytes of the deliveries that are not over."),
    (G, "posthaste_queue_oldest_event_age_seconds", None, "Age of the oldest delivery that is not over."),
    (G, "posthaste_dead_letters", None, "Dead letters kept."),
    (G, "posthaste_orphaned_events", None, "Deliveries held for connections that are no longer configured."),
    (G, "posthaste_pool_connections", None, "HTTP connections to targets, by state: open or idle."),
    (G, "posthaste_memory_bytes", None, "Payload bytes in memory, by use."),
    (H, "posthaste_store_sync_duration_seconds", None, "How long fdatasync took."),
    (H, "posthaste_store_batch_events", None, "Events in one commit."),
    (C, "posthaste_store_written_bytes_total", None, "Bytes written to the store's files."),
    (G, "posthaste_store_bytes", None, "Bytes that the store's files take."),
    (G, "posthaste_store_segments", None, "Segment files."),
    (G, "posthaste_store_free_bytes", None, "Bytes left until the store's cap or the disk is full, whichever is less."),
    (G, "posthaste_store_dead_letter_bytes", None, "Bytes of the records of dead letters."),
    (G, "posthaste_store_dead_letter_max_bytes", None, "The cap of that: keep_dead_bytes."),
    (C, "posthaste_store_dead_letters_dropped_total", None, "Dead letters dropped because they were kept for keep_dead, or because of keep_dead_bytes."),
    (G, "posthaste_store_kept_bytes", None, "Bytes of segments that are only kept because of keep_delivered."),
    (C, "posthaste_store_kept_given_up_total", None, "Segments that were kept and given up before their time, for the cap or for new events."),
    (G, "posthaste_store_attempts_bytes", None, "Bytes of the files of failed attempts, beside the store's cap."),
    (C, "posthaste_attempts_unrecorded_total", None, "Failed attempts that the history has no place for, in memory or on the disk."),
    (C, "posthaste_store_corrupt_records_total", None, "Damaged places found in the store."),
    (C, "posthaste_store_relaxed_lost_total", None, "Events answered before their sync, by durability = relaxed, whose sync then failed."),
    (C, "posthaste_store_errors_total", None, "Operations on the store's files that failed."),
    (C, "posthaste_alerts_total", None, "Alerts stored for delivery, by alert."),
    (C, "posthaste_alerts_suppressed_total", None, "Alerts folded into another one because of min_interval, by alert."),
    (C, "posthaste_alerts_lost_total", None, "Alerts, or what they are made of, that found no room or could not be stored."),
    (G, "posthaste_config_generation", None, "Generation of the configuration in force; 1 is the one at start."),
    (G, "posthaste_config_last_reload_successful", None, "Whether the last reload was taken."),
    (G, "posthaste_config_last_reload_success_timestamp_seconds", None, "When the configuration in force was loaded."),
    (C, "posthaste_config_reloads_total", None, "Reloads, by result."),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_born_at_zero_and_removed_connections_are_left_out() {
        let metrics = Metrics::new();
        let crm = metrics.connection("crm");
        crm.attempt(Some(Cause::DnsFailed), 0.1);
        let text = metrics.render();
        assert!(
            text.contains("posthaste_deliveries_total{connection=\"crm\",outcome=\"dead\"} 0"),
            "{text}"
        );
        assert!(
            text.contains(
                "posthaste_delivery_attempts_total{connection=\"crm\",code=\"dns_failed\"} 1"
            ),
            "{text}"
        );
        metrics.remove_connection("crm");
        assert!(!metrics.render().contains("\"crm\""));
        metrics.connection("crm");
        assert!(metrics.render().contains("\"crm\""));
    }

    #[test]
    fn names_follow_the_conventions() {
        let mut seen = BTreeSet::new();
        for (kind, name, _, help) in HELP {
            assert!(seen.insert(name), "{name} stands twice");
            assert!(name.starts_with("posthaste_") || name.starts_with("process_"), "{name}");
            assert_eq!(matches!(kind, Kind::Counter), name.ends_with("_total"), "{name}");
            assert!(help.ends_with('.'), "{name}");
        }
    }
}
