//! Builds one [`Connection`].

use std::collections::BTreeMap;
use std::time::Duration;

use http::Method;

use super::transport::{egress, http2};
use super::*;
use crate::config::layers::{Draft, builtin};
use crate::config::value::{Table, Value};
use crate::config::{Daemon, Limits, fields};
use crate::connection::ordering::Ordering;
use crate::connection::{
    Connection, OnRemove, Pool, QueueLimits, RateLimit, State, Target, WhenFull,
};
use crate::units::ByteSize;

impl Build<'_> {
    /// `None` when a required key is missing; that, and all else, is in the report.
    pub(super) fn connection(&mut self, draft: &Draft, daemon: &Daemon) -> Option<Connection> {
        let table = &draft.table;
        let errors = self.report.errors.len();
        self.required(draft, "name", "\"orders-crm\"");
        self.required(draft, "url", "\"https://example.com/hooks\"");
        let pool = self.pool(draft);
        let headers = self.headers(draft);
        let payload = self.payload(draft, headers.len());
        let names = payload::all_names(&headers, payload.as_deref());
        let auth = self.auth(draft, &names);
        let sign = self.sign(draft, auth.as_ref(), &names);
        let ordering = self.ordering(draft);
        let connection = Connection {
            display_name: table.text("display_name").map(str::to_owned),
            description: table.text("description").map(str::to_owned),
            labels: labels(table),
            state: state(table),
            archived: table.flag("archived") == Some(true),
            sources: sources(table),
            method: match table.word("method") {
                "inherit" => Method::POST,
                method => method.parse().unwrap_or(Method::POST),
            },
            headers,
            host_header: self.host_header(draft),
            auth,
            sign,
            connect_timeout: table.span("connect_timeout"),
            request_timeout: table.span("request_timeout"),
            pool_acquire_timeout: table.span("pool_acquire_timeout"),
            max_in_flight: self.max_in_flight(draft, &pool),
            pool,
            rate_limit: {
                let (item, keys) = (table.get("rate_limit"), table.table("rate_limit"));
                self.rate_limit(item, &keys, &draft.place, &draft.path)
            },
            retry: self.retry(draft),
            ordering: ordering.clone(),
            queue: queue(&table.table("queue")),
            max_body: self.max_body(draft, &daemon.limits),
            success_status: statuses(table, "success_status")?,
            tls: self.tls(draft, daemon.security),
            http2: http2(&table.table("http2")),
            proxy: self.proxy(draft),
            egress: egress(&table.table("egress"), daemon.security),
            keeps: ordering.as_ref().map(Ordering::keeps).unwrap_or_default(),
            payload,
            delay: table.span("delay"),
            renamed_from: table.text("renamed_from").map(str::to_owned),
            on_remove: match table.word("on_remove") {
                "discard" => OnRemove::Discard,
                _ => OnRemove::Hold,
            },
            breaker: self.breaker(draft),
            disable_on_gone: breaker::disable_on_gone(table),
            disable_after: breaker::span(table, "disable_after"),
            expire_after: breaker::span(table, "expire_after"),
            target: target(table)?,
            name: table.text("name")?.to_owned(),
        };
        let connection = connection.with_keeps();
        if self.report.errors.len() == errors && table.is_whole() {
            self.trials(draft, &connection);
        }
        Some(connection)
    }

    fn required(&mut self, draft: &Draft, key: &str, example: &str) {
        if draft.table.get(key).is_none() && !draft.table.refused(&[key]) {
            let message = format!("{key} is missing, write one as in {key} = {example}");
            self.report.error(&draft.place, &Reveal::Value, &draft.path, message);
        }
    }

    fn pool(&mut self, draft: &Draft) -> Pool {
        let table = draft.table.table("pool");
        let mut pool = Pool {
            max_per_host: table.whole32("max_per_host"),
            max_total: table.whole32("max_total"),
            idle_timeout: table.span("idle_timeout"),
            max_lifetime: table.span("max_lifetime"),
        };
        if table.written("max_per_host").is_none() {
            pool.max_per_host = pool.max_per_host.min(pool.max_total);
        }
        if table.written("max_total").is_none() {
            pool.max_total = pool.max_total.max(pool.max_per_host);
        }
        if pool.max_per_host > pool.max_total {
            let message = format!(
                "is {}, more than pool.max_total ({}); lower it or raise that",
                pool.max_per_host, pool.max_total
            );
            let path = format!("{}pool.max_per_host", draft.path);
            self.error_at(table.get("max_per_host"), &draft.place, &path, message);
        }
        pool
    }

    fn max_in_flight(&mut self, draft: &Draft, pool: &Pool) -> u32 {
        let effective = pool.max_per_host.min(pool.max_total);
        let strict = draft.table.word("ordering") == "strict";
        let Some(written) = draft.table.get("max_in_flight") else {
            return if strict { 1 } else { effective };
        };
        let max_in_flight = draft.table.whole32("max_in_flight");
        if strict && max_in_flight > 1 {
            let message = format!(
                "is {max_in_flight}, but ordering = \"strict\" sends one at a time; write 1, leave it out, or use ordering = \"key\""
            );
            let path = format!("{}max_in_flight", draft.path);
            self.error_at(Some(written), &draft.place, &path, message);
            return 1;
        }
        let known = !draft.table.table("pool").refused(&["max_per_host", "max_total"]);
        if max_in_flight > effective && known {
            let message = format!(
                "is {max_in_flight}, more than the pool allows ({effective}); lower it or raise pool.max_per_host and pool.max_total"
            );
            let path = format!("{}max_in_flight", draft.path);
            self.error_at(Some(written), &draft.place, &path, message);
        }
        max_in_flight
    }

    /// The limit that an item holds; `keys` are those that were written.
    pub(super) fn rate_limit(
        &mut self,
        item: Option<&Item>,
        keys: &Table,
        place: &Place,
        path: &str,
    ) -> Option<RateLimit> {
        let written = item?;
        let mut table = builtin(fields::RATE_LIMIT);
        table.merge(keys);
        if table.get("limit").is_none() {
            if !table.refused(&["limit"]) {
                let message = "limit is missing, write one as in limit = 100".to_owned();
                self.error_at(Some(written), place, &format!("{path}rate_limit"), message);
            }
            return None;
        }
        let limit = table.whole32("limit");
        let per = match table.word("per") {
            "minute" => 60,
            "hour" => 3_600,
            _ => 1,
        };
        let burst = table.integer("burst").map(|_| table.whole32("burst"));
        Some(RateLimit {
            limit,
            per: Duration::from_secs(per),
            burst: burst.unwrap_or((limit / 10).max(1)),
        })
    }

    /// The default gives way to a smaller `[limits] max_body`; what was written does not.
    fn max_body(&mut self, draft: &Draft, limits: &Limits) -> u64 {
        let max_body = draft.table.whole("max_body");
        let Some(written) = draft.table.written("max_body") else {
            return max_body.min(limits.max_body);
        };
        if max_body > limits.max_body {
            let message = format!(
                "is {}, more than [limits] max_body ({}); lower it or raise that",
                ByteSize(max_body),
                ByteSize(limits.max_body)
            );
            let path = format!("{}max_body", draft.path);
            self.error_at(Some(written), &draft.place, &path, message);
        }
        max_body
    }
}

fn labels(table: &Table) -> BTreeMap<String, String> {
    let text = |entry: &crate::config::value::Entry| {
        let value = entry.item.as_text()?;
        Some((entry.key.clone(), value.to_owned()))
    };
    table.map("labels").iter().filter_map(text).collect()
}

fn state(table: &Table) -> State {
    if table.flag("archived") == Some(true) {
        return State::Disabled;
    }
    match table.word("state") {
        "paused" => State::Paused,
        "disabled" => State::Disabled,
        _ => State::Active,
    }
}

/// Each source once.
fn sources(table: &Table) -> Vec<String> {
    let mut sources: Vec<String> = Vec::new();
    for name in table.list("sources").iter().filter_map(Item::as_text) {
        if !sources.iter().any(|known| known == name) {
            sources.push(name.to_owned());
        }
    }
    sources
}

fn queue(table: &Table) -> QueueLimits {
    QueueLimits {
        max_events: table.whole("max_events"),
        max_bytes: table.whole("max_bytes"),
        when_full: match table.word("when_full") {
            "reject" => WhenFull::Reject,
            _ => WhenFull::DeadLetter,
        },
    }
}

fn target(table: &Table) -> Option<Target> {
    match &table.get("url")?.value {
        Value::Url(target) => Some((**target).clone()),
        _ => None,
    }
}

pub(super) fn statuses(table: &Table, key: &str) -> Option<crate::connection::status::StatusSet> {
    match &table.get(key)?.value {
        Value::Statuses(set) => Some(set.clone()),
        _ => None,
    }
}
