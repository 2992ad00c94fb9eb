//! The daemon: everything is put together here, and a control loop holds it.
//!
//! Start order: configuration, store (its lock keeps a second daemon out), clients, listeners, egress, ingress, READY. Stop
//! order: ingress (every open request is answered), egress (attempts end), store (marks and a snapshot), exit. The loop
//! in between waits for one [`Event`] at a time and has no other state than [`Daemon`].

mod audit;
mod commands;
mod connections;
mod edit;
mod gauges;
mod history;
mod plan;
mod recall;
mod reload;
mod rename;
mod suspensions;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::admin::manage::Scope;
use crate::admin::{self, Admin, Command, Readiness};
use crate::client::ClientError;
use crate::clock::Clock;
use crate::config::watch::Watch;
use crate::config::{self, Config, ContentHash, Loaded, LogFormat, Places, ReloadMode, RootFile};
use crate::connection::{Connection, State};
use crate::delivery::{self, Dispatcher, DispatcherOptions, Notice, Prepared};
use crate::ingress::{
    Idempotency, Ingress, IngressLimits, IngressOptions, IngressParts, RoutingTable,
    RunningIngress, Sources, UnixOptions,
};
use crate::listener::{BindError, Inherited};
use crate::logging;
use crate::metrics::{ConnectionMetrics, Metrics};
use crate::process;
use crate::store::queue::QueueCounters;
use crate::store::suspension::Suspension;
use crate::store::{self, ConnectionId, OpenError, Opened, Store};
use crate::systemd::Notifier;
use audit::Audit;
use gauges::Gauges;

/// How the daemon is started.
#[derive(Default)]
pub struct Options {
    /// `--config`.
    pub config_file: Option<PathBuf>,
    /// Called once, when the daemon takes events.
    pub ready: Option<Box<dyn FnOnce(Ready) + Send>>,
    /// Drains and stops when cancelled, as SIGTERM does.
    pub shutdown: Option<CancellationToken>,
    /// Sockets that the service manager opened.
    pub inherited: Inherited,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("config_file", &self.config_file).finish_non_exhaustive()
    }
}

/// What is known once the daemon takes events.
#[derive(Clone, Debug)]
pub struct Ready {
    /// Where it listens, with the real ports.
    pub ingress_http: Vec<SocketAddr>,
}

/// Why the daemon ended, or did not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration has errors.
    #[error("{0}")]
    Config(Box<config::Refused>),
    /// A connection's client cannot be built.
    #[error("connection {name:?}: {error}")]
    Client {
        /// The connection.
        name: String,
        /// What is wrong.
        error: ClientError,
    },
    /// The store is of another version.
    #[error("{path}: {error}")]
    StoreVersion {
        /// The store's directory.
        path: PathBuf,
        /// Which file, which version.
        error: OpenError,
    },
    /// The store cannot be opened or is locked.
    #[error("cannot open the store in {path}: {error}", path = path.display())]
    Store {
        /// Its directory.
        path: PathBuf,
        /// Why.
        error: OpenError,
    },
    /// Ingress cannot listen.
    #[error("[ingress] {0}")]
    Ingress(BindError),
    /// The admin listener cannot listen.
    #[error("[admin] {0}")]
    Admin(BindError),
    /// The operating system refused a thread, a signal handler or the like.
    #[error("could not {0}: {1}")]
    System(&'static str, #[source] std::io::Error),
    /// A part of the daemon ended by a panic.
    #[error("{0} has failed; the log says why")]
    Failed(&'static str),
    /// A second signal asked for an exit at once.
    #[error(
        "stopped at once by a second signal; what was in flight is delivered again at the next start"
    )]
    StoppedAtOnce,
}

/// Egress may hold this many eighths of the memory for payloads that are being sent; ingress has four, the cache one.
const EGRESS_EIGHTHS: u64 = 3;
/// How often metrics are kept up and parts looked at.
const UPKEEP: Duration = Duration::from_secs(5);
/// How long the ages of queues may take to find out.
const OLDEST_MAX: Duration = Duration::from_secs(1);
/// How long a command may take; who asked is told 503.
const COMMAND_MAX: Duration = Duration::from_secs(20);
/// Requests that are open at a stop are answered within this.
const INGRESS_GRACE: Duration = Duration::from_secs(5);

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// [`RunError`].
pub fn run(options: Options) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Configuration is read, and directories are hashed, off the loop.
        .max_blocking_threads(2)
        .build()
        .map_err(|error| RunError::System("start the control loop", error))?;
    process::raise_descriptor_limit();
    let ended = runtime.block_on(async {
        let mut signals =
            Signals::new().map_err(|error| RunError::System("handle signals", error))?;
        let shutdown = options.shutdown.clone().unwrap_or_default();
        let mut daemon = tokio::select! {
            biased;
            // Nothing was accepted yet, so there is nothing to drain.
            () = signals.stop() => return Ok(()),
            daemon = Daemon::start(options) => daemon?,
        };
        let ended = daemon.control(&mut signals, &shutdown).await;
        let stopped = daemon.stop(&mut signals).await;
        ended.and(stopped)
    });
    // A second signal does not wait for threads that hang in the disk or in a drain.
    runtime.shutdown_background();
    ended
}

/// What the loop waits for.
enum Event {
    Reload,
    FilesChanged(ContentHash),
    Command(Box<Command>),
    Notice(Notice),
    Upkeep,
    Watchdog,
    Shutdown,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        process::survive_signals()?;
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// A connection of the configuration in force, with its other ends.
#[derive(Clone, Debug)]
struct Live {
    connection: Arc<Connection>,
    id: ConnectionId,
    queue: Arc<QueueCounters>,
    metrics: Arc<ConnectionMetrics>,
    /// Held by the daemon, whatever its configuration says.
    suspension: Option<Suspension>,
}

struct Daemon {
    clock: Clock,
    started: Duration,
    metrics: Metrics,
    notifier: Notifier,
    root: RootFile,
    config: Config,
    /// Of the files that the configuration in force was made of.
    content_hash: ContentHash,
    /// Where the connection files are.
    connections_dir: PathBuf,
    /// The file of each connection, by name.
    origins: BTreeMap<String, PathBuf>,
    audit: Audit,
    /// Connections whose state the last reload changed, for the audit log.
    states_changed: Vec<(String, State)>,
    /// Who may use the API over TCP.
    tokens: Arc<ArcSwap<Vec<admin::Token>>>,
    generation: u64,
    last_reload: Option<admin::api::LastReload>,
    store: Store,
    dispatcher: Dispatcher,
    ingress: Option<RunningIngress>,
    routing: Arc<ArcSwap<RoutingTable>>,
    /// With the limiters, which go on over reloads.
    sources: Sources,
    live: Vec<Live>,
    /// Whose queue found at start was counted.
    recovered: HashSet<ConnectionId>,
    /// Those that the daemon holds, configured or not.
    suspensions: HashMap<ConnectionId, Suspension>,
    /// From the egress.
    notices: mpsc::Receiver<Notice>,
    gauges: Arc<Gauges>,
    watch: Watch,
    readiness: watch::Sender<Readiness>,
    commands: mpsc::Receiver<admin::Command>,
    admin: JoinHandle<()>,
    admin_stop: CancellationToken,
    watchdog: Option<Watchdog>,
}

/// Feeds systemd's watchdog while every part turns.
struct Watchdog {
    interval: Interval,
    seen: Vec<u64>,
}

impl Daemon {
    async fn start(options: Options) -> Result<Daemon, RunError> {
        let clock = Clock::system();
        let notifier = Notifier::from_env().unwrap_or_else(|error| {
            tracing::warn!(%error, "Could not find the service manager");
            Notifier::default()
        });
        let root = Places::of_process().root_file(options.config_file.as_deref());
        let loaded = config::load(&root.path, &config::LoadOptions::of_process(&root))
            .map_err(RunError::Config)?;
        apply_logging(&loaded.config);
        say_warnings(&loaded);
        let Loaded { config, content_hash, watched, origins, .. } = loaded;
        let prepared = prepare_all(&config)?;
        let metrics = Metrics::new();
        metrics.gauge("posthaste_build_info", &[("version", env!("CARGO_PKG_VERSION"))]).set(1.0);
        let Opened { store, intakes, feeds, keys, corrupt } =
            open_store(&config, &clock, &metrics).await?;
        if corrupt > 0 {
            tracing::error!(
                places = corrupt,
                "The store was damaged; see above and its quarantine directory"
            );
        }
        let (ingress, admin) = bind(&config, options.inherited)?;
        let addresses = ingress.tcp_addresses().unwrap_or_default();
        let dispatcher = start_dispatcher(&config, feeds, &clock, &metrics)?;
        let notices = dispatcher.take_notices().ok_or(RunError::Failed("delivery"))?;
        let suspensions = store.suspensions().await.map_err(|_| RunError::Failed("the store"))?;
        let suspensions = suspensions.into_iter().collect();
        let gauges = Arc::new(Gauges::new(&metrics, &clock));
        let (readiness, ready) = watch::channel(Readiness::NotReady("starting".to_owned()));
        let (command_sender, commands) = admin::commands();
        let tokens = Arc::new(ArcSwap::from_pointee(tokens(&config)));
        let admin_stop = CancellationToken::new();
        let context = admin::Context {
            metrics: metrics.clone(),
            refresh: gauges.refresher(),
            readiness: ready,
            commands: command_sender,
            clock: clock.clone(),
            tokens: Arc::clone(&tokens),
            schemas: Arc::new(config::schema::for_openapi()),
        };
        let admin = tokio::spawn(admin.serve(context, admin_stop.clone()));
        let watchdog = notifier.watchdog_interval().map(Watchdog::new);
        let mut daemon = Daemon {
            started: clock.monotonic(),
            audit: Audit::open(&config.daemon.store.path, clock.clone()),
            states_changed: Vec::new(),
            tokens,
            content_hash,
            connections_dir: watched.connections.clone(),
            origins,
            watch: Watch::new(watched, content_hash),
            notifier,
            root,
            generation: 1,
            last_reload: None,
            store,
            dispatcher,
            ingress: None,
            routing: Arc::default(),
            sources: Sources::new(&config.daemon.sources, &clock),
            live: Vec::new(),
            recovered: HashSet::new(),
            suspensions,
            notices,
            gauges,
            readiness,
            commands,
            admin,
            admin_stop,
            watchdog,
            config,
            metrics,
            clock,
        };
        daemon.store.set_generation(daemon.generation);
        daemon.attach_all(prepared).await?;
        daemon.publish_live();
        daemon.recall().await;
        daemon.open_doors(ingress, intakes, keys)?;
        daemon.note_config_in_force();
        daemon.readiness.send_replace(Readiness::Ready);
        daemon.notifier.ready(&daemon.status_line());
        tracing::info!(connections = daemon.live.len(), "Ready");
        if let Some(ready) = options.ready {
            ready(Ready { ingress_http: addresses });
        }
        Ok(daemon)
    }

    /// Connects every configured connection with its queue.
    async fn attach_all(&mut self, prepared: Vec<Prepared>) -> Result<(), RunError> {
        let connections: Vec<_> = self.config.connections.clone();
        for connection in &connections {
            self.take_over(connection).await.map_err(|_| RunError::Failed("the store"))?;
        }
        for (connection, prepared) in connections.into_iter().zip(prepared) {
            let live = self
                .attach(connection, prepared)
                .await
                .map_err(|_| RunError::Failed("the store"))?;
            self.live.push(live);
        }
        Ok(())
    }

    async fn attach(
        &mut self,
        connection: Arc<Connection>,
        prepared: Prepared,
    ) -> Result<Live, store::Closed> {
        let (id, queue) = self.store.register(&connection.name).await?;
        let metrics = self.metrics.connection(&connection.name);
        // A name that was removed and comes back goes on with its old counters.
        if self.recovered.insert(id) {
            metrics.recovered.increment(queue.live.load(std::sync::atomic::Ordering::Relaxed));
        }
        let suspension = self.kept_suspension(&connection, id).await;
        self.dispatcher.attach(id, prepared).await;
        if suspension.is_some() {
            self.dispatcher.suspend(id, true).await;
        }
        let live = Live { connection, id, queue, metrics, suspension };
        self.feed(&live);
        Ok(live)
    }

    /// Lets the store hand a connection's deliveries out, if it is active. What is held stays in the store, where it takes
    /// no memory and can be moved out of the way.
    fn feed(&self, live: &Live) {
        if live.state() == State::Active {
            let runtimes = self.config.daemon.runtime.egress_threads;
            self.store.attach(live.id, Dispatcher::runtime_of(&live.connection.name, runtimes));
        } else {
            self.store.detach(live.id);
        }
    }

    fn open_doors(
        &mut self,
        ingress: Ingress,
        intakes: Vec<(store::intake::Intake, Arc<store::intake::AckLane>)>,
        found: store::keys::Keys,
    ) -> Result<(), RunError> {
        let limits = key_limits(&self.config);
        let keys = Idempotency::new(limits, found, self.clock.clone(), &self.metrics);
        let keys = Arc::new(keys);
        let parts = IngressParts {
            intakes,
            keys: Arc::clone(&keys),
            routing: Arc::clone(&self.routing),
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
            seed: fastrand::u64(..),
        };
        let running =
            ingress.start(parts).map_err(|error| RunError::System("start ingress", error))?;
        self.gauges.watch_ingress(Arc::clone(running.memory()), keys);
        self.ingress = Some(running);
        Ok(())
    }

    /// Puts the connections in force into the routing table, in one write, and into the gauges.
    fn publish_live(&self) {
        let entries: Vec<_> = self
            .live
            .iter()
            .map(|live| {
                let Live { id, queue, metrics, .. } = live.clone();
                (live.effective(), id, queue, metrics)
            })
            .collect();
        let table = RoutingTable::after(&self.routing.load(), &entries, &self.sources);
        self.routing.store(Arc::new(table));
        self.gauges.watch(&self.live, &self.dispatcher);
    }

    fn status_line(&self) -> String {
        let waiting: u64 = self
            .live
            .iter()
            .map(|live| live.queue.live.load(std::sync::atomic::Ordering::Relaxed))
            .sum();
        format!("{} connections, {waiting} pending", self.live.len())
    }

    /// The loop: one event at a time, until one of them ends it.
    async fn control(
        &mut self,
        signals: &mut Signals,
        shutdown: &CancellationToken,
    ) -> Result<(), RunError> {
        let mut upkeep = interval(UPKEEP);
        upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            match self.next_event(signals, shutdown, &mut upkeep).await {
                Event::Shutdown => return Ok(()),
                Event::Reload => drop(self.reload("signal").await),
                Event::FilesChanged(hash) => {
                    tracing::debug!(%hash, "The configuration's files have changed");
                    drop(self.reload("files").await);
                }
                Event::Command(command) => self.answer(*command).await,
                Event::Notice(notice) => self.heed(notice).await,
                Event::Upkeep => self.upkeep().await?,
                Event::Watchdog => self.feed_watchdog(),
            }
        }
    }

    async fn answer(&mut self, command: Command) {
        // What puts a configuration in force is not left half done.
        let whole = matches!(command, Command::Reload { .. } | Command::Edit { .. });
        let done = self.run_command(command);
        if whole {
            done.await;
        } else if timeout(COMMAND_MAX, done).await.is_err() {
            tracing::warn!("An admin request took too long and was given up; the disk is slow");
        }
    }

    async fn next_event(
        &mut self,
        signals: &mut Signals,
        shutdown: &CancellationToken,
        upkeep: &mut Interval,
    ) -> Event {
        let automatic = self.config.daemon.reload == ReloadMode::Auto;
        tokio::select! {
            biased;
            _ = signals.terminate.recv() => Event::Shutdown,
            _ = signals.interrupt.recv() => Event::Shutdown,
            () = shutdown.cancelled() => Event::Shutdown,
            () = Watchdog::tick(&mut self.watchdog) => Event::Watchdog,
            _ = signals.hang_up.recv() => Event::Reload,
            Some(command) = self.commands.recv() => Event::Command(Box::new(command)),
            Some(notice) = self.notices.recv() => Event::Notice(notice),
            hash = self.watch.changed(), if automatic => Event::FilesChanged(hash),
            _ = upkeep.tick() => Event::Upkeep,
        }
    }

    async fn upkeep(&mut self) -> Result<(), RunError> {
        self.metrics.run_upkeep();
        if self.store.has_failed() {
            return Err(RunError::Failed("a thread of the store"));
        }
        if self.dispatcher.has_failed() {
            return Err(RunError::Failed("a thread of delivery"));
        }
        if self.ingress.as_ref().is_some_and(RunningIngress::has_failed) {
            return Err(RunError::Failed("ingress"));
        }
        // A disk that hangs must not hold the loop.
        if let Ok(Ok(ages)) = timeout(OLDEST_MAX, self.store.oldest()).await {
            self.gauges.set_oldest(&ages, self.clock.age());
        }
        if let Ok(status) = self.store.status().await {
            let held = self.orphaned(&status).iter().map(|queue| queue.held).sum();
            self.gauges.set_orphaned(held);
        }
        self.notifier.status(&self.status_line());
        Ok(())
    }

    /// Feeds systemd's watchdog, unless a part has stood still since the last time.
    fn feed_watchdog(&mut self) {
        let Some(watchdog) = &mut self.watchdog else {
            return;
        };
        let mut ticks = self.dispatcher.ticks();
        ticks.push(self.store.ticks());
        let all_turn = ticks.iter().zip(&watchdog.seen).all(|(now, seen)| now > seen);
        if all_turn || watchdog.seen.is_empty() {
            self.notifier.watchdog();
        } else {
            tracing::error!("A part of the daemon stands still; the watchdog is not fed");
        }
        watchdog.seen = ticks;
        // The writer sleeps when there is nothing to do: this makes it turn once before the next look.
        self.store.nudge();
    }

    /// Drains and stops, in the order in which events flow. A second signal ends it at once.
    async fn stop(self, signals: &mut Signals) -> Result<(), RunError> {
        tokio::select! {
            biased;
            () = signals.stop() => Err(RunError::StoppedAtOnce),
            () = self.drain_and_close() => Ok(()),
        }
    }

    async fn drain_and_close(self) {
        let Daemon {
            config,
            notifier,
            readiness,
            ingress,
            dispatcher,
            admin,
            admin_stop,
            store,
            live,
            ..
        } = self;
        let within = config.daemon.drain_timeout;
        tracing::info!(drain_timeout_seconds = within.as_secs(), "Stopping");
        notifier.stopping("draining");
        notifier.extend_timeout(within + INGRESS_GRACE * 2);
        readiness.send_replace(Readiness::NotReady("draining".to_owned()));
        if let Some(ingress) = ingress {
            ingress.begin_stop(INGRESS_GRACE.min(within));
            // The threads end when the open requests are answered.
            let _ = tokio::task::spawn_blocking(move || ingress.join()).await;
        }
        // What the egress gives back is not to be handed out again.
        for live in &live {
            store.detach(live.id);
        }
        dispatcher.drain(within).await;
        admin_stop.cancel();
        // A panic in it was reported where it happened.
        let _ = admin.await;
        store.close().await;
        tracing::info!("Stopped");
    }
}

impl Watchdog {
    fn new(every: Duration) -> Watchdog {
        let mut interval = interval(every);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Watchdog { interval, seen: Vec::new() }
    }

    async fn tick(watchdog: &mut Option<Watchdog>) {
        match watchdog {
            Some(watchdog) => drop(watchdog.interval.tick().await),
            None => std::future::pending().await,
        }
    }
}

fn prepare_all(config: &Config) -> Result<Vec<Prepared>, RunError> {
    let prepare = |connection: &Arc<Connection>| {
        let name = connection.name.clone();
        delivery::prepare(connection).map_err(|error| RunError::Client { name, error })
    };
    config.connections.iter().map(prepare).collect()
}

/// Off the loop, so that a signal ends a long recovery.
async fn open_store(config: &Config, clock: &Clock, metrics: &Metrics) -> Result<Opened, RunError> {
    let daemon = &config.daemon;
    let options = store::Options {
        shelf: store::ShelfLimits::default(),
        segment_bytes: daemon.store.segment_bytes,
        max_bytes: daemon.store.max_bytes,
        hot_bytes: daemon.limits.memory / 8,
        lanes: daemon.runtime.ingress_threads,
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
fn key_limits(config: &Config) -> store::keys::KeyLimits {
    let store = &config.daemon.store;
    let most = store.max_bytes / 16 / store::keys::KEY_BYTES as u64;
    let limits = store.idempotency;
    store::keys::KeyLimits {
        window: limits.window,
        max_keys: limits.max_keys.min(usize::try_from(most).unwrap_or(usize::MAX)),
    }
}

/// What the store keeps of what is over.
fn keep(config: &Config) -> store::Keep {
    let keep = config.daemon.store.keep;
    let limit = |limit: config::KeepLimit| store::Limit { age: limit.age, bytes: limit.bytes };
    store::Keep {
        delivered: limit(keep.delivered),
        dead: limit(keep.dead),
        attempts: limit(keep.attempts),
    }
}

fn start_dispatcher(
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
fn bind(config: &Config, mut inherited: Inherited) -> Result<(Ingress, Admin), RunError> {
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

fn ingress_limits(config: &Config) -> IngressLimits {
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

fn admin_options(config: &Config) -> admin::Options {
    let admin = &config.daemon.admin;
    admin::Options { http: admin.http, unix: admin.unix.clone() }
}

fn tokens(config: &Config) -> Vec<admin::Token> {
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

fn apply_logging(config: &Config) {
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

fn say_warnings(loaded: &Loaded) {
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
}
