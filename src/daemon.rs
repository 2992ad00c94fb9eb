//! The daemon: everything is put together here, and a control loop holds it.
//!
//! Start order: configuration, store (its lock keeps a second daemon out), clients, listeners, egress, ingress, READY. Stop
//! order: ingress (every open request is answered), egress (attempts end), store (marks and a snapshot), exit. The loop
//! in between waits for one [`Event`] at a time and has no other state than [`Daemon`].

mod alerting;
mod alerts;
mod audit;
mod cancel;
mod commands;
mod connections;
mod dead;
mod deliveries;
mod edit;
mod explain;
mod gauges;
mod history;
mod jobs;
mod options;
mod plan;
mod recall;
mod reload;
mod rename;
mod signals;
mod suspensions;
mod transfer;
mod trial;
mod watchdog;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Command, Readiness};
use crate::client::ClientError;
use crate::clock::Clock;
use crate::config::watch::Watch;
use crate::config::{self, Config, ContentHash, Loaded, Places, ReloadMode, RootFile};
use crate::connection::{Connection, State};
use crate::delivery::{Dispatcher, Notice, Prepared};
use crate::ingress::{
    Idempotency, Ingress, IngressParts, OwnEvents, RoutingTable, RunningIngress, Sources,
};
use crate::listener::{BindError, Inherited};
use crate::metrics::{ConnectionMetrics, Metrics};
use crate::process;
use crate::store::queue::QueueCounters;
use crate::store::suspension::Suspension;
use crate::store::{self, ConnectionId, OpenError, Opened, Store};
use crate::systemd::Notifier;
use audit::Audit;
use gauges::Gauges;
use jobs::Jobs;
use options::{
    apply_logging, bind, key_limits, open_store, prepare_all, say_warnings, start_dispatcher,
    store_advice, tokens,
};
use signals::Signals;
use watchdog::Watchdog;

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
    #[error("cannot open the store in {path}: {error}; {advice}", path = path.display(), advice = store_advice(path, error))]
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
    Job,
    Watchdog,
    Shutdown,
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
    jobs: Jobs,
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
    /// What is told to connections as events.
    alerts: alerts::Alerts,
    /// Stores alerts; once the doors are open.
    alarm: Option<alerting::Alarm>,
    gauges: Arc<Gauges>,
    watch: Watch,
    readiness: watch::Sender<Readiness>,
    commands: mpsc::Receiver<admin::Command>,
    admin: JoinHandle<()>,
    admin_stop: CancellationToken,
    watchdog: Option<Watchdog>,
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
            schemas: config::schema::for_openapi,
        };
        let admin = tokio::spawn(admin.serve(context, admin_stop.clone()));
        let watchdog = notifier.watchdog_interval().map(Watchdog::new);
        let mut daemon = Daemon {
            started: clock.monotonic(),
            audit: Audit::open(&config.daemon.store.path, clock.clone()),
            jobs: Jobs::open(&config.daemon.store.path),
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
            alerts: alerts::Alerts::new(&config.daemon.alerts, fastrand::u64(..)),
            alarm: None,
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
        self.dispatcher.attach(id, prepared, Arc::clone(&queue.waits)).await;
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
            live.queue.waits.set_held(live.held_for());
            self.store.detach(live.id);
        }
    }

    fn open_doors(
        &mut self,
        ingress: Ingress,
        mut intakes: Vec<(store::intake::Intake, Arc<store::intake::AckLane>)>,
        found: store::keys::Keys,
    ) -> Result<(), RunError> {
        // One more than ingress has threads.
        if let Some(own) = intakes.pop() {
            self.alarm =
                Some(alerting::Alarm::start(OwnEvents::new(own, Arc::clone(&self.routing)), self));
        }
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
        self.want_troubles();
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
                Event::Job => self.turn_jobs().await,
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
            // Last: everything else goes before.
            () = self.jobs.wait() => Event::Job,
        }
    }

    async fn upkeep(&mut self) -> Result<(), RunError> {
        self.metrics.run_upkeep();
        crate::logging::say_repeats();
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
            self.raise_for_ages(&ages);
        }
        if let Ok(status) = self.store.status().await {
            let held = self.orphaned(&status).iter().map(|queue| queue.held).sum();
            self.gauges.set_orphaned(held);
        }
        self.tend_alerts();
        self.notifier.status(&self.status_line());
        Ok(())
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
            alarm,
            admin,
            admin_stop,
            store,
            live,
            jobs,
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
        if let Some(alarm) = alarm {
            alarm.stop().await;
        }
        // What the egress gives back is not to be handed out again.
        for live in &live {
            store.detach(live.id);
        }
        dispatcher.drain(within).await;
        admin_stop.cancel();
        // A panic in it was reported where it happened.
        let _ = admin.await;
        jobs.close().await;
        store.close().await;
        tracing::info!("Stopped");
    }
}
