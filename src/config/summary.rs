//! What `posthaste check` says of a configuration that is legal: how much there is, and how much memory and disk it can take.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::{Alert, Config, Daemon, Keep, KeepLimit, Loaded, ReloadMode};
use crate::connection::dedupe::KEYS_MAX;
use crate::connection::{Connection, State, json};
use crate::units::{ByteSize, HumanDuration};

/// Deliveries in a connection's window: the store's `WINDOW_EVENTS`, which a test compares.
pub const WINDOW_EVENTS: u64 = 512;
/// Memory of one delivery in a connection's window, measured.
pub const WINDOW_EVENT_BYTES: u64 = 80;
/// Memory of one idempotency key: 64 in the table of ingress, 48 while the segment of its event grows.
pub const IDEMPOTENCY_KEY_BYTES: u64 = 112;
/// Memory of the attempts that failed: the latest, and those on their way to the history.
pub const HISTORY_BYTES: u64 = (4 << 20) + 256 * (4096 + 512);
/// Memory of what is always remembered of one connection's failed attempts.
pub const HISTORY_CONNECTION_BYTES: u64 = 8 * 512;
/// Buffers of one connection of a producer: hyper's for reading and writing.
pub const INGRESS_CONNECTION_BYTES: u64 = 16 * 1024;
/// Memory of one key of a dedupe window.
pub const DEDUPE_KEY_BYTES: u64 = 80;
/// Memory of one value of a body that is read as JSON: a member of an object.
pub const JSON_VALUE_BYTES: u64 = 56;
/// Buffers of one pooled HTTP connection: hyper's for reading and writing, and the state of TLS.
pub const POOLED_CONNECTION_BYTES: u64 = 32 * 1024;

/// The summary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// The hash over all files, shortened.
    pub content_hash: String,
    /// Which overlays apply.
    pub environment: Option<String>,
    /// Whether files are watched.
    pub watched: bool,
    /// Connections by state.
    pub connections: Connections,
    /// All sources, sorted.
    pub sources: Vec<String>,
    /// Where it listens.
    pub listeners: Vec<String>,
    /// The bound of memory.
    pub memory: Memory,
    /// The directory of the store.
    pub store_path: String,
    /// What its files take at most.
    pub store_max_bytes: u64,
    /// What is kept of what is over.
    pub keep: [KeepSummary; 3],
    /// The public halves of the keys that connections sign with.
    pub public_keys: Vec<PublicKeys>,
    /// What is told as events, and to whom.
    pub alerts: Vec<AlertSummary>,
    /// How many warnings there are.
    pub warnings: usize,
}

/// One alert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AlertSummary {
    /// Its name.
    pub name: String,
    /// What it is about.
    pub on: Vec<&'static str>,
    /// The connection that delivers it.
    pub to: String,
}

/// What the receivers of one connection verify with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PublicKeys {
    /// The connection's name.
    pub connection: String,
    /// `whpk_…`, the newest first.
    pub keys: Vec<String>,
}

/// What is kept of one thing that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct KeepSummary {
    /// Of what.
    pub of: &'static str,
    /// For so long.
    pub age_ms: u64,
    /// At most so many bytes.
    pub bytes: u64,
}

/// Connections by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Connections {
    /// All of them.
    pub total: usize,
    /// Accept and deliver.
    pub active: usize,
    /// Accept and hold.
    pub paused: usize,
    /// Refuse.
    pub disabled: usize,
}

/// How much memory the configuration allows, in bytes. The program itself, about 10 MiB, comes on top.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Events being received: half of `[limits] memory`.
    pub ingress_payloads: u64,
    /// Events being delivered: three eighths.
    pub egress_payloads: u64,
    /// Events kept for delivery after their sync: one eighth.
    pub hot_cache: u64,
    /// Idempotency keys: the table, and those of the segment that grows.
    pub idempotency_keys: u64,
    /// Dedupe windows, and one body read as JSON on each thread, where rules ask for it.
    pub rules: u64,
    /// Windows of deliveries handed out.
    pub windows: u64,
    /// Attempts that failed.
    pub history: u64,
    /// Buffers of producers' connections, all open.
    pub ingress_buffers: u64,
    /// Buffers of pooled connections, all open.
    pub egress_buffers: u64,
}

impl Memory {
    /// All of it together.
    pub fn total(&self) -> u64 {
        let parts = [
            self.ingress_payloads,
            self.egress_payloads,
            self.hot_cache,
            self.idempotency_keys,
            self.rules,
            self.windows,
            self.history,
            self.ingress_buffers,
            self.egress_buffers,
        ];
        parts.into_iter().fold(0, u64::saturating_add)
    }
}

/// Sums a configuration up.
pub fn check_report(loaded: &Loaded) -> Summary {
    let config = &loaded.config;
    let mut connections = Connections::default();
    let mut sources = std::collections::BTreeSet::new();
    for connection in &config.connections {
        connections.total += 1;
        match connection.state {
            State::Active => connections.active += 1,
            State::Paused => connections.paused += 1,
            State::Disabled => connections.disabled += 1,
        }
        sources.extend(connection.sources.iter().cloned());
    }
    Summary {
        content_hash: loaded.content_hash.to_string(),
        environment: config.daemon.environment.clone(),
        watched: config.daemon.reload == ReloadMode::Auto,
        connections,
        sources: sources.into_iter().collect(),
        listeners: listeners(&config.daemon),
        memory: memory(loaded),
        store_path: config.daemon.store.path.display().to_string(),
        store_max_bytes: config.daemon.store.max_bytes,
        keep: keep(config.daemon.store.keep),
        public_keys: config.connections.iter().filter_map(|one| public_keys(one)).collect(),
        alerts: config.daemon.alerts.iter().map(alert).collect(),
        warnings: loaded.warnings.len(),
    }
}

fn alert(alert: &Alert) -> AlertSummary {
    let on = alert.on.iter().map(|on| on.as_str()).collect();
    AlertSummary { name: alert.name.clone(), on, to: alert.to.clone() }
}

fn public_keys(connection: &Connection) -> Option<PublicKeys> {
    let keys = connection.sign.as_ref()?.public_keys();
    let connection = connection.name.clone();
    (!keys.is_empty()).then_some(PublicKeys { connection, keys })
}

fn keep(keep: Keep) -> [KeepSummary; 3] {
    let parts = [
        ("delivered events", keep.delivered),
        ("dead letters", keep.dead),
        ("failed attempts", keep.attempts),
    ];
    parts.map(|(of, KeepLimit { age, bytes })| {
        let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        KeepSummary { of, age_ms, bytes }
    })
}

fn listeners(daemon: &Daemon) -> Vec<String> {
    let http = daemon.ingress.http.iter();
    let mut listeners: Vec<String> = http.map(|address| format!("events http {address}")).collect();
    if let Some(unix) = &daemon.ingress.unix {
        listeners.push(format!("events unix {}", unix.path.display()));
    }
    if let Some(address) = daemon.admin.http {
        listeners.push(format!("admin http {address}"));
    }
    if let Some(path) = &daemon.admin.unix {
        listeners.push(format!("admin unix {}", path.display()));
    }
    listeners
}

/// What looking at bodies takes: nothing, where no connection has rules for it.
fn rules(config: &Config) -> u64 {
    let payloads =
        || config.connections.iter().filter_map(|connection| connection.payload.as_ref());
    let windows = payloads().filter(|payload| payload.dedupe.is_some()).count() as u64;
    let tree = json::VALUES_MAX as u64 * JSON_VALUE_BYTES;
    let runtime = config.daemon.runtime;
    let chosen = payloads().any(|payload| payload.filter.is_some() || payload.dedupe.is_some());
    let shaped = config.connections.iter().any(|connection| connection.is_shaped());
    // A transform reads a body and works on a copy.
    let trees = u64::from(chosen) * runtime.ingress_threads as u64
        + u64::from(shaped) * 2 * runtime.egress_threads as u64;
    windows * KEYS_MAX as u64 * DEDUPE_KEY_BYTES + trees * tree
}

fn memory(loaded: &Loaded) -> Memory {
    let Daemon { limits, ingress, store, .. } = &loaded.config.daemon;
    let connections = &loaded.config.connections;
    let pooled = connections.iter().map(|connection| u64::from(connection.effective_pool()));
    let per_connection = WINDOW_EVENTS * WINDOW_EVENT_BYTES;
    Memory {
        ingress_payloads: limits.memory / 2,
        egress_payloads: limits.memory / 8 * 3,
        hot_cache: limits.memory / 8,
        idempotency_keys: store.idempotency.max_keys as u64 * IDEMPOTENCY_KEY_BYTES,
        rules: rules(&loaded.config),
        windows: connections.len() as u64 * per_connection,
        history: HISTORY_BYTES + connections.len() as u64 * HISTORY_CONNECTION_BYTES,
        ingress_buffers: (ingress.max_connections as u64).saturating_mul(INGRESS_CONNECTION_BYTES),
        egress_buffers: pooled.sum::<u64>() * POOLED_CONNECTION_BYTES,
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Connections { total, active, paused, disabled } = self.connections;
        writeln!(f, "configuration {} is fine", self.content_hash)?;
        writeln!(
            f,
            "connections: {total} ({active} active, {paused} paused, {disabled} disabled)"
        )?;
        writeln!(f, "sources: {}", self.sources.join(", "))?;
        if let Some(environment) = &self.environment {
            writeln!(f, "environment: {environment}")?;
        }
        writeln!(f, "reload: {}", if self.watched { "auto" } else { "manual" })?;
        for PublicKeys { connection, keys } in &self.public_keys {
            writeln!(f, "{connection} is verified with {}", keys.join(", "))?;
        }
        for AlertSummary { name, on, to } in &self.alerts {
            writeln!(f, "alert {name} tells {to} of {}", on.join(", "))?;
        }
        for listener in &self.listeners {
            writeln!(f, "listens for {listener}")?;
        }
        writeln!(f, "store: {}, at most {}", self.store_path, ByteSize(self.store_max_bytes))?;
        for KeepSummary { of, age_ms, bytes } in &self.keep {
            let age = HumanDuration(Duration::from_millis(*age_ms));
            match age_ms {
                0 => writeln!(f, "keeps no {of} on disk")?,
                _ => writeln!(f, "keeps {of} for {age}, at most {}", ByteSize(*bytes))?,
            }
        }
        writeln!(f, "memory: at most {} besides the program itself:", mib(self.memory.total()))?;
        for (bytes, what) in [
            (self.memory.ingress_payloads, "events being received"),
            (self.memory.egress_payloads, "events being delivered"),
            (self.memory.hot_cache, "events kept until delivery"),
            (self.memory.idempotency_keys, "idempotency keys, if that many are in use"),
            (self.memory.rules, "filters, dedupe and transforms"),
            (self.memory.windows, "windows of deliveries"),
            (self.memory.history, "attempts that failed"),
            (self.memory.ingress_buffers, "buffers, if all producers' connections are open"),
            (self.memory.egress_buffers, "buffers, if all pools are full"),
        ] {
            writeln!(f, "  {:>10}  {what}", mib(bytes))?;
        }
        Ok(())
    }
}

/// For reading, with one digit after the point.
fn mib(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10) >> 20;
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}
