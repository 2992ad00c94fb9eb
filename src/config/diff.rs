//! What changes between two configurations. Pure; compares effective values, so that a reload that rewrites files without
//! a difference changes nothing.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Config, Daemon};
use crate::connection::Connection;

/// The difference, as the daemon applies it.
#[derive(Clone, Debug, Default)]
pub struct ConfigDiff {
    /// New names.
    pub added: Vec<Arc<Connection>>,
    /// The same name (whatever its case was) with other settings: old and new.
    pub changed: Vec<(Arc<Connection>, Arc<Connection>)>,
    /// Names that are gone.
    pub removed: Vec<Arc<Connection>>,
    /// Keys of the daemon's file that cannot change while it runs. Not empty: the reload must be refused.
    pub needs_restart: Vec<&'static str>,
    /// Keys of the daemon's file that changed and can be applied.
    pub daemon_changed: Vec<&'static str>,
}

impl ConfigDiff {
    /// Whether nothing would be different.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty()
            && self.changed.is_empty()
            && self.removed.is_empty()
            && self.needs_restart.is_empty()
            && self.daemon_changed.is_empty()
    }
}

/// Compares. Connections that are equal are in none of the lists.
pub fn diff(old: &Config, new: &Config) -> ConfigDiff {
    let by_name = |config: &Config| -> HashMap<String, Arc<Connection>> {
        let connections = config.connections.iter();
        connections.map(|connection| (connection.name.clone(), Arc::clone(connection))).collect()
    };
    let mut before = by_name(old);
    let (needs_restart, daemon_changed) = daemon_changes(&old.daemon, &new.daemon);
    let mut diff = ConfigDiff { needs_restart, daemon_changed, ..ConfigDiff::default() };
    for connection in &new.connections {
        let connection = Arc::clone(connection);
        match before.remove(&connection.name) {
            None => diff.added.push(connection),
            Some(same) if same == connection => {}
            Some(other) => diff.changed.push((other, connection)),
        }
    }
    let gone = |connection: &&Arc<Connection>| before.contains_key(&connection.name);
    diff.removed = old.connections.iter().filter(gone).cloned().collect();
    diff
}

/// The settings in which two connections differ, by the names of the fields that hold them. A secret that changed shows as
/// its fingerprint does; a header's value that is marked sensitive does not show, so the headers are named when nothing else is.
pub fn settings(old: &Connection, new: &Connection) -> Vec<String> {
    let (old_fields, new_fields) = (fields_of(old), fields_of(new));
    let differs = |(name, value): &(String, String)| {
        old_fields.iter().any(|(other, old)| other == name && old != value)
    };
    let named =
        |(name, _): (String, String)| if name == "target" { "url".to_owned() } else { name };
    let mut settings: Vec<String> = new_fields.into_iter().filter(differs).map(named).collect();
    if settings.is_empty() && old != new {
        settings.push("headers".to_owned());
    }
    settings
}

/// The fields of a connection and their values as text, by the layout of `{:#?}`: fields stand one level deep.
fn fields_of(connection: &Connection) -> Vec<(String, String)> {
    const INDENT: &str = "    ";
    let text = format!("{connection:#?}");
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        let field =
            line.strip_prefix(INDENT).filter(|rest| !rest.starts_with([' ', ']', '}', ')']));
        match (field.and_then(|field| field.split_once(": ")), fields.last_mut()) {
            (Some((name, value)), _) => fields.push((name.to_owned(), value.to_owned())),
            (None, Some((_, value))) => value.push_str(line),
            (None, None) => {}
        }
    }
    fields
}

/// Keys that changed: those that need a restart, and the others.
///
/// What is bound, opened, spawned or sized at start needs one: listeners, the store's path, segment size and table of keys, the
/// memory budget, thread counts, the log's format. The rest is read when it is used: timeouts, `max_connections` and `hosts` for new
/// HTTP connections, `max_bytes` at the next segment, `keep_...` at once, `max_body` and sources at the next request.
fn daemon_changes(old: &Daemon, new: &Daemon) -> (Vec<&'static str>, Vec<&'static str>) {
    let names = |changes: &[(&'static str, bool)]| {
        let changed = changes.iter().filter(|(_, same)| !same);
        changed.map(|(name, _)| *name).collect()
    };
    let restart = names(&[
        ("ingress.http", old.ingress.http == new.ingress.http),
        ("ingress.unix", old.ingress.unix == new.ingress.unix),
        ("admin.http", old.admin.http == new.admin.http),
        ("admin.unix", old.admin.unix == new.admin.unix),
        ("store.path", old.store.path == new.store.path),
        ("store.segment_bytes", old.store.segment_bytes == new.store.segment_bytes),
        ("store.idempotency", old.store.idempotency == new.store.idempotency),
        ("limits.memory", old.limits.memory == new.limits.memory),
        ("network.resolvers", old.network.resolvers == new.network.resolvers),
        ("log.format", old.log.format == new.log.format),
        ("runtime.ingress_threads", old.runtime.ingress_threads == new.runtime.ingress_threads),
        ("runtime.egress_threads", old.runtime.egress_threads == new.runtime.egress_threads),
    ]);
    let live = names(&[
        ("environment", old.environment == new.environment),
        ("reload", old.reload == new.reload),
        ("drain_timeout", old.drain_timeout == new.drain_timeout),
        ("admin.tokens", old.admin.tokens == new.admin.tokens),
        ("ingress.max_connections", old.ingress.max_connections == new.ingress.max_connections),
        ("ingress.header_timeout", old.ingress.header_timeout == new.ingress.header_timeout),
        ("ingress.body_timeout", old.ingress.body_timeout == new.ingress.body_timeout),
        ("ingress.idle_timeout", old.ingress.idle_timeout == new.ingress.idle_timeout),
        ("ingress.hosts", old.ingress.hosts == new.ingress.hosts),
        ("store.max_bytes", old.store.max_bytes == new.store.max_bytes),
        ("store.keep_delivered", old.store.keep.delivered == new.store.keep.delivered),
        ("store.keep_dead", old.store.keep.dead == new.store.keep.dead),
        ("store.keep_attempts", old.store.keep.attempts == new.store.keep.attempts),
        ("source", old.sources == new.sources),
        ("alert", old.alerts == new.alerts),
        ("limits.max_body", old.limits.max_body == new.limits.max_body),
        ("security", old.security == new.security),
        ("log.level", old.log.level == new.log.level),
    ]);
    (restart, live)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::testing::connection;

    #[test]
    fn settings_that_differ_are_named() {
        let old = connection("a", "http://a/");
        let check = |change: fn(&mut Connection), expected: &[&str]| {
            let mut new = old.clone();
            change(&mut new);
            assert_eq!(settings(&old, &new), expected);
        };
        check(|_| {}, &[]);
        check(|new| new.max_body = 1, &["max_body"]);
        check(|new| new.pool.max_total = 9, &["pool"]);
        check(|new| new.labels = [("a".to_owned(), "b: c".to_owned())].into(), &["labels"]);
        check(
            |new| {
                new.target = crate::connection::Target::parse("http://b/").unwrap();
                new.description = Some("a\n    b: c".to_owned());
            },
            &["description", "url"],
        );
    }

    #[test]
    fn a_secret_header_that_changed_is_named() {
        let with = |value: &str| {
            let mut connection = connection("a", "http://a/");
            let mut value: http::HeaderValue = value.parse().unwrap();
            value.set_sensitive(true);
            connection.headers.push((http::header::AUTHORIZATION, value));
            connection
        };
        assert_eq!(settings(&with("one"), &with("two")), ["headers"]);
        assert!(settings(&with("one"), &with("one")).is_empty());
    }
}
