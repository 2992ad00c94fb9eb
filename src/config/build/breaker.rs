//! Builds the [`BreakerPolicy`], and the rules after which a connection disables itself.

use std::time::Duration;

use super::*;
use crate::config::layers::Draft;
use crate::config::value::{Table, Value};
use crate::connection::breaker::BreakerPolicy;
use crate::units::HumanDuration;

impl Build<'_> {
    /// `None` when it is turned off.
    pub(super) fn breaker(&mut self, draft: &Draft) -> Option<BreakerPolicy> {
        let table = draft.table.table("breaker");
        if !table.flag("enabled").unwrap_or(true) {
            return None;
        }
        let mut policy = BreakerPolicy {
            consecutive_failures: table.whole32("consecutive_failures"),
            failure_ratio: table.number("failure_ratio"),
            min_attempts: table.whole32("min_attempts"),
            window: table.span("window"),
            open_for: table.span("open_for"),
            open_for_max: table.span("open_for_max"),
        };
        if table.written("open_for_max").is_none() {
            policy.open_for_max = policy.open_for_max.max(policy.open_for);
        }
        let refused = table.refused(&["open_for", "open_for_max"]);
        if policy.open_for > policy.open_for_max && !refused {
            let message = format!(
                "{} is longer than breaker.open_for_max ({}); lower it or raise that",
                HumanDuration(policy.open_for),
                HumanDuration(policy.open_for_max)
            );
            let written = table.written("open_for").or(table.written("open_for_max"));
            let path = format!("{}breaker.open_for", draft.path);
            self.error_at(written, &draft.place, &path, message);
        }
        Some(policy)
    }
}

/// A URL that is made per event may be gone for one of them and not for the others.
pub(super) fn disable_on_gone(table: &Table) -> bool {
    let made_per_event = match table.get("url").map(|item| &item.value) {
        Some(Value::Url(target)) => ["{{", "%7B%7B"].iter().any(|open| target.url.contains(open)),
        _ => false,
    };
    let posted = table.word("method").eq_ignore_ascii_case("POST");
    table.flag("disable_on_gone").unwrap_or(posted && !made_per_event)
}

/// A duration that has no default.
pub(super) fn span(table: &Table, key: &str) -> Option<Duration> {
    match table.get(key)?.value {
        Value::Span(span) => Some(span),
        _ => None,
    }
}
