//! The keys of `[[alert]]`.

use super::Kind::{Choice, List, Name, Span, Text};
use super::Standard::{self, Required, Toml};
use super::{DAY, Field, field, secs};

/// Alerts at most.
pub(in crate::config) const ALERTS_MAX: usize = 64;

/// `[[alert]]`
#[rustfmt::skip]
pub(in crate::config) static ALERT: &[Field] = &[
    field("name", Name, Required("\"ops\""), "What metrics and the alert's events call it; unique."),
    field("on", List(&Choice(&["delivery_failed", "backlog_age", "breaker_open", "disabled", "config_rejected"]), 1, 5), Required("[\"disabled\", \"breaker_open\"]"), "What it is about: an attempt or delivery that failed, the age of the oldest delivery, a breaker that opened, a connection that the daemon disabled or halted, a reload that was refused."),
    field("which", Choice(&["first", "final", "both"]), Toml("\"final\""), "With delivery_failed: first is the first attempt of a delivery, final is its end as a dead letter."),
    field("threshold", Span(secs(1), secs(365 * DAY)), Standard::None("\"10m\""), "With backlog_age, and needed there: how old the oldest delivery of a connection may be."),
    field("connections", List(&Text(255), 1, 256), Toml("[\"*\"]"), "Patterns of the names of connections that it looks at: * is any text, ? any character. Those that alerts are sent to are never looked at."),
    field("to", Name, Required("\"pager\""), "The connection that delivers its events."),
    field("min_interval", Span(secs(1), secs(7 * DAY)), Toml("\"5m\""), "The same of the same connection is told at most this often; what comes meanwhile is counted."),
];
