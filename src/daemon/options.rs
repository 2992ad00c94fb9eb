//! What the configuration means to each part of the daemon: its values become the parts' options, and the parts are opened
//! with them. The parts know no [`Config`]; what is decided here is only how the memory and the store's bytes are shared.

use std::sync::Arc;

use super::RunError;
use crate::admin::manage::Scope;
use crate::admin::{self, Admin};
use crate::clock::Clock;
use crate::config::{self, Config, Loaded, LogFormat};
use crate::connection::Connection;
use crate::delivery::{self, Dispatcher, DispatcherOptions, Prepared};
use crate::ingress::{Ingress, IngressLimits, IngressOptions, UnixOptions};
use crate::listener::{BindError, Inherited};
use crate::logging;
use crate::metrics::Metrics;
use crate::store::{self, OpenError, Opened, Store};

/// Egress may hold this many eighths of the memory for payloads that are being sent; ingress has four, the cache one.
const EGRESS_EIGHTHS: u64 = 3;

/// The clients of all connections, or the first that cannot be.
pub(super) fn prepare_all(config: &Config) -> Result<Vec<Prepared>, RunError> {
    let prepare = |connection: &Arc<Connection>| {
        let name = connection.name.clone();
        delivery::prepare(connection).map_err(|error| RunError::Client { name, error })
    };
    config.connections.iter().map(prepare).collect()
}

/// Opens the store off the loop, so that a signal ends a long recovery.
pub(super) async fn open_store(
    config: &Config,
    clock: &Clock,
    metrics: &Metrics,
) -> Result<Opened, RunError> {
    let daemon = &config.daemon;
    let options = store::Options {
        shelf: store::ShelfLimits::default(),
        segment_bytes: daemon.store.segment_bytes,
        max_bytes: daemon.store.max_bytes,
        hot_bytes: daemon.limits.memory / 8,
        // One for the daemon's own events.
        lanes: daemon.runtime.ingress_threads + 1,
        feeds: daemon.runtime.egress_threads,
        keys: key_limits(config),
        keep: keep(config),
        seed: fastrand::u64(..),
    };
    let path = daemon.store.path.clone();
    let (place, clock, metrics) = (path.clone(), clock.clone(), metrics.clone());
    let opened =
        tokio::task::spawn_blocking(move || Store::open(&place, options, clock, &metrics)).await;
    let opened = opened.map_err(|_| RunError::Failed("the store's recovery"))?;
    opened.map_err(|error| match error {
        error @ OpenError::UnknownVersion { .. } => RunError::StoreVersion { path, error },
        error => RunError::Store { path, error },
    })
}

/// The limits of idempotency keys, which take a sixteenth of the store's bytes at the most: a small store must not fill up
/// with keys alone.
pub(super) fn key_limits(config: &Config) -> store::keys::KeyLimits {
    let store = &config.daemon.store;
    let most = store.max_bytes / 16 / store::keys::KEY_BYTES as u64;
    let limits = store.idempotency;
    store::keys::KeyLimits {
        window: limits.window,
        max_keys: limits.max_keys.min(usize::try_from(most).unwrap_or(usize::MAX)),
    }
}

/// What the store keeps of what is over.
pub(super) fn keep(config: &Config) -> store::Keep {
    let keep = config.daemon.store.keep;
    let limit = |limit: config::KeepLimit| store::Limit { age: limit.age, bytes: limit.bytes };
    store::Keep {
        delivered: limit(keep.delivered),
        dead: limit(keep.dead),
        attempts: limit(keep.attempts),
    }
}

/// Starts the egress with its share of the memory.
pub(super) fn start_dispatcher(
    config: &Config,
    feeds: Vec<store::feed::Feed>,
    clock: &Clock,
    metrics: &Metrics,
) -> Result<Dispatcher, RunError> {
    let share = config.daemon.limits.memory / 8 * EGRESS_EIGHTHS;
    let runtimes = config.daemon.runtime.egress_threads.max(1) as u64;
    let options = DispatcherOptions {
        payload_bytes: share / runtimes,
        seed: fastrand::u64(..),
        resolvers: config.daemon.network.resolvers.clone(),
    };
    Dispatcher::start(options, feeds, clock, metrics)
        .map_err(|error| RunError::System("start delivery", error))
}

/// Opens what is listened on, or takes it from the service manager.
pub(super) fn bind(
    config: &Config,
    mut inherited: Inherited,
) -> Result<(Ingress, Admin), RunError> {
    let (ingress, admin) = (ingress_options(config), admin_options(config));
    let path = ingress.unix.as_ref().map(|unix| unix.path.as_path());
    let of_ingress = inherited.take("ingress", &ingress.http, path);
    let of_ingress = of_ingress.map_err(|error| RunError::Ingress(BindError::Inherited(error)))?;
    let of_admin = inherited.take("admin", admin.http.as_slice(), admin.unix.as_deref());
    let of_admin = of_admin.map_err(|error| RunError::Admin(BindError::Inherited(error)))?;
    inherited.close_rest();
    let ingress = Ingress::bind(ingress, of_ingress).map_err(RunError::Ingress)?;
    Ok((ingress, Admin::bind(&admin, of_admin).map_err(RunError::Admin)?))
}

/// Where ingress listens, and within what.
fn ingress_options(config: &Config) -> IngressOptions {
    let ingress = &config.daemon.ingress;
    IngressOptions {
        http: ingress.http.clone(),
        unix: ingress.unix.as_ref().map(|unix| UnixOptions {
            path: unix.path.clone(),
            mode: unix.mode,
            allow_uids: unix.allow_uids.clone(),
        }),
        memory_bytes: config.daemon.limits.memory / 2,
        limits: ingress_limits(config),
    }
}

/// The limits of ingress, which a reload may change.
pub(super) fn ingress_limits(config: &Config) -> IngressLimits {
    let ingress = &config.daemon.ingress;
    IngressLimits {
        max_connections: ingress.max_connections,
        header_timeout: ingress.header_timeout,
        body_timeout: ingress.body_timeout,
        idle_timeout: ingress.idle_timeout,
        hosts: ingress.hosts.clone(),
        // With the copies of its items, a batch takes as much memory as the largest event may.
        max_batch_bytes: config.daemon.limits.max_body / 2,
    }
}

/// Where the admin API listens.
fn admin_options(config: &Config) -> admin::Options {
    let admin = &config.daemon.admin;
    admin::Options { http: admin.http, unix: admin.unix.clone() }
}

/// Who may use the API over TCP, and for what.
pub(super) fn tokens(config: &Config) -> Vec<admin::Token> {
    let token = |token: &config::Token| admin::Token {
        name: token.name.clone(),
        scope: match token.scope {
            config::Scope::Read => Scope::Read,
            config::Scope::Operate => Scope::Operate,
            config::Scope::Admin => Scope::Admin,
        },
        token: token.token.clone(),
    };
    config.daemon.admin.tokens.iter().map(token).collect()
}

/// Logs from now on as the configuration says.
pub(super) fn apply_logging(config: &Config) {
    use tracing::level_filters::LevelFilter;
    let log = config.daemon.log;
    logging::apply(logging::Settings {
        level: logging::parse_level(log.level.as_str()).unwrap_or(LevelFilter::INFO),
        format: match log.format {
            LogFormat::Auto => logging::Format::Auto,
            LogFormat::Text => logging::Format::Text,
            LogFormat::Json => logging::Format::Json,
        },
    });
}

/// Logs what the configuration was warned of.
pub(super) fn say_warnings(loaded: &Loaded) {
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
}
