//! The metrics of ingress: handles registered once, so that counting costs one atomic addition.

use metrics::{Counter, Gauge, Histogram};

use super::guard::Door;
use super::refusal::Refusal;
use crate::metrics::Metrics;

/// The code under which failed `accept` calls stand among the rejected: no request was there yet to refuse.
const ACCEPT_FAILED: &str = "accept_failed";

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    tcp: Counter,
    unix: Counter,
    rejected: [Counter; Refusal::ALL.len()],
    /// `accept` calls that failed.
    pub(super) accept_failed: Counter,
    pub(super) body_bytes: Counter,
    /// Open connections.
    pub(super) connections: Gauge,
    pub(super) ack_seconds: Histogram,
}

impl Counts {
    pub(super) fn new(metrics: &Metrics) -> Counts {
        let requests = |listener| {
            metrics.counter("posthaste_ingress_requests_total", &[("listener", listener)])
        };
        let rejected =
            |code| metrics.counter("posthaste_ingress_rejected_total", &[("code", code)]);
        Counts {
            tcp: requests("tcp"),
            unix: requests("unix"),
            rejected: Refusal::ALL.map(|why| rejected(why.code())),
            accept_failed: rejected(ACCEPT_FAILED),
            body_bytes: metrics.counter("posthaste_ingress_body_bytes_total", &[]),
            connections: metrics.gauge("posthaste_ingress_connections", &[]),
            ack_seconds: metrics.histogram("posthaste_ingress_ack_duration_seconds", &[]),
        }
    }

    /// Counts a request that is answered.
    pub(super) fn request(&self, door: Door) {
        match door {
            Door::Loopback | Door::Network => self.tcp.increment(1),
            Door::Unix { .. } => self.unix.increment(1),
        }
    }

    /// Counts a refusal.
    pub(super) fn refusal(&self, why: Refusal) {
        if let Some(counter) = self.rejected.get(why as usize) {
            counter.increment(1);
        }
    }
}
