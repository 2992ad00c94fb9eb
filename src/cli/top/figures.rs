//! What is shown: rates are differences of counters between two looks at the daemon.

use std::collections::HashMap;

use tokio::time::Instant;

use super::super::output;
use super::super::status::{last_error, state};
use crate::admin::api::{Connection, Status};
use crate::logging::escape;

/// Counters of one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) accepted: u64,
    pub(super) delivered: u64,
    /// Attempts that failed.
    pub(super) failed: u64,
}

/// One look at the daemon.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) at: Instant,
    pub(super) status: Status,
    pub(super) counters: HashMap<String, Counters>,
}

/// One connection, as it is shown.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) state: String,
    /// Whether someone should look at it: it is held, or its breaker is not closed.
    pub(super) troubled: bool,
    /// Per second; `None` as long as there is nothing to compare with.
    pub(super) rates: Option<Rates>,
    pub(super) queue: u64,
    pub(super) in_flight: u64,
    pub(super) dead: u64,
    pub(super) oldest: Option<u64>,
    pub(super) last_error: String,
}

/// Per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rates {
    pub(super) accepted: f64,
    pub(super) delivered: f64,
    pub(super) failed: f64,
}

/// Takes the counters out of the text of `/metrics`. Lines of others are passed over.
pub(super) fn counters(text: &str) -> HashMap<String, Counters> {
    let mut all: HashMap<String, Counters> = HashMap::new();
    for line in text.lines() {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let Some((name, labels)) = series.split_once('{') else { continue };
        let (Some(connection), Ok(value)) = (label(labels, "connection"), value.parse::<u64>())
        else {
            continue;
        };
        let add = |counters: &mut Counters| match name {
            "posthaste_deliveries_accepted_total" => counters.accepted += value,
            "posthaste_deliveries_total" if label(labels, "outcome") == Some("delivered") => {
                counters.delivered += value;
            }
            "posthaste_delivery_attempts_total" if label(labels, "code") != Some("ok") => {
                counters.failed += value;
            }
            _ => {}
        };
        match all.get_mut(connection) {
            Some(counters) => add(counters),
            None => add(all.entry(connection.to_owned()).or_default()),
        }
    }
    all
}

/// The value of a label. Names of connections need no escapes, and no value of ours has any.
fn label<'l>(labels: &'l str, name: &str) -> Option<&'l str> {
    let mut rest = labels;
    loop {
        let (key, after) = rest.split_once("=\"")?;
        let (value, after) = after.split_once('"')?;
        if key.trim_start_matches(',') == name {
            return Some(value);
        }
        rest = after;
    }
}

/// All connections. `before`: an earlier look.
pub(super) fn rows(before: Option<&Look>, now: &Look) -> Vec<Row> {
    let before = before.filter(|before| before.status.daemon.pid == now.status.daemon.pid);
    let row = |connection: &Connection| {
        let name = connection.name.as_str();
        let rates = before.and_then(|before| {
            rates(before.counters.get(name)?, now.counters.get(name)?, now.at - before.at)
        });
        let breaker = connection.breaker.as_deref().unwrap_or("closed");
        Row {
            name: escape(name),
            state: escape(&state(connection)),
            troubled: breaker != "closed" || connection.suspended.is_some(),
            rates,
            queue: connection.queue.total() - connection.queue.in_flight,
            in_flight: connection.queue.in_flight,
            dead: connection.dead,
            oldest: connection.oldest_age_seconds,
            last_error: escape(&last_error(connection)),
        }
    };
    now.status.connections.iter().map(row).collect()
}

/// `None` when a counter went back, or no time has passed: there is nothing to say.
fn rates(before: &Counters, now: &Counters, took: std::time::Duration) -> Option<Rates> {
    let seconds = took.as_secs_f64();
    let rate = |before: u64, now: u64| {
        let more = u32::try_from(now.checked_sub(before)?).unwrap_or(u32::MAX);
        (seconds > 0.0).then(|| f64::from(more) / seconds)
    };
    Some(Rates {
        accepted: rate(before.accepted, now.accepted)?,
        delivered: rate(before.delivered, now.delivered)?,
        failed: rate(before.failed, now.failed)?,
    })
}

/// One line for the whole daemon.
pub(super) fn headline(status: &Status) -> String {
    let (daemon, store) = (&status.daemon, &status.store);
    format!(
        "posthaste {} {}, up {}, configuration {}; store {} of {}",
        escape(&daemon.version),
        escape(&daemon.state),
        output::seconds(daemon.uptime_seconds),
        daemon.generation,
        output::bytes(store.bytes),
        output::bytes(store.max_bytes),
    )
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::admin::api::{Daemon, Queue, Store};
    use crate::metrics::Metrics;

    /// A daemon with these connections: name, breaker, queued.
    pub(in super::super) fn status(connections: &[(&str, &str, u64)]) -> Status {
        let connection = |(name, breaker, queued): &(&str, &str, u64)| Connection {
            name: (*name).to_owned(),
            state: "active".to_owned(),
            suspended: None,
            breaker: Some((*breaker).to_owned()),
            queue: Queue { queued: *queued, in_flight: 2, ..Queue::default() },
            dead: 1,
            oldest_age_seconds: (*queued > 0).then_some(61),
            last_error: None,
        };
        Status {
            daemon: Daemon {
                version: "0.1.0".to_owned(),
                pid: 1,
                state: "ready".to_owned(),
                uptime_seconds: 3_700,
                generation: 3,
                last_reload: None,
                config_file: None,
            },
            connections: connections.iter().map(connection).collect(),
            orphaned: Vec::new(),
            store: Store {
                path: "/store".to_owned(),
                bytes: 1 << 20,
                max_bytes: 1 << 30,
                segments: 1,
                kept_bytes: 0,
                attempts_bytes: 0,
            },
            alerts: Vec::new(),
        }
    }

    pub(in super::super) fn look(
        after_ms: u64,
        status: Status,
        counters: &[(&str, u64, u64, u64)],
    ) -> Look {
        let counters = counters.iter().map(|(name, accepted, delivered, failed)| {
            let counters = Counters { accepted: *accepted, delivered: *delivered, failed: *failed };
            ((*name).to_owned(), counters)
        });
        let at = Instant::now() + Duration::from_secs(3600) + Duration::from_millis(after_ms);
        Look { at, status, counters: counters.collect() }
    }

    /// What the daemon's own metrics say can be read.
    #[test]
    fn counters_are_read_from_what_the_daemon_renders() {
        let metrics = Metrics::new();
        let (crm, erp) = (metrics.connection("crm"), metrics.connection("erp-2"));
        crm.accepted.increment(7);
        erp.accepted.increment(1);
        let labels = [("connection", "crm"), ("outcome", "delivered")];
        metrics.counter("posthaste_deliveries_total", &labels).increment(5);
        let labels = [("connection", "crm"), ("outcome", "dead")];
        metrics.counter("posthaste_deliveries_total", &labels).increment(9);
        for (code, count) in [("ok", 5), ("http_status", 2), ("connect_refused", 1)] {
            let labels = [("connection", "crm"), ("code", code)];
            metrics.counter("posthaste_delivery_attempts_total", &labels).increment(count);
        }
        let read = counters(&metrics.render());
        assert_eq!(read["crm"], Counters { accepted: 7, delivered: 5, failed: 3 });
        assert_eq!(read["erp-2"], Counters { accepted: 1, delivered: 0, failed: 0 });
        assert_eq!(counters("nonsense{\nx{connection=\"a} 1\n\n"), HashMap::new());
    }

    #[test]
    fn rates_are_differences_over_time() {
        let (start, later) = (look(0, status(&[("crm", "closed", 0)]), &[("crm", 10, 8, 1)]), 2000);
        let now = look(later, status(&[("crm", "closed", 0)]), &[("crm", 30, 9, 1)]);
        let shown = rows(Some(&start), &now);
        let rates = shown[0].rates.unwrap();
        assert!((rates.accepted - 10.0).abs() < 0.1 && (rates.delivered - 0.5).abs() < 0.01);
        assert_eq!(rates.failed, 0.0);
        assert_eq!(rows(None, &now)[0].rates, None, "nothing to compare with");
        assert_eq!(rows(Some(&now), &start)[0].rates, None, "counters went back");
        let mut other = now.clone();
        other.status.daemon.pid = 2;
        assert_eq!(rows(Some(&start), &other)[0].rates, None, "another process");
    }
}
