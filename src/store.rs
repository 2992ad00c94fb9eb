//! The only durable thing: a segmented log of our own.
//!
//! [`Store::open`] recovers what is on the disk and starts three threads: the writer ([`writer`]), which alone changes
//! anything, the reader ([`reader`]), which loads payloads, and the history's ([`history`]), which records attempts that
//! failed, in files of its own. Three doors lead in and out:
//!
//! * [`intake::Intake::append`] makes an event durable;
//! * [`feed::Feed`] hands deliveries that are due to an egress runtime and takes their settlements back;
//! * [`Store`] itself answers the control loop: registering, attaching, dead letters, replay, single events, attempts.
//!
//! The files are described in [`record`] (format), [`marks`] (state log), [`segment_index`] and [`shelf`] (scheduled
//! deliveries and dead letters that are not in memory); what is in memory in [`state`]. **Invariant:** nothing here knows HTTP or `Connection`; nothing outside sees segments or offsets.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::Sender;
use metrics::{Counter, Gauge, Histogram};
use tokio::sync::oneshot;

pub use command::{Acted, DeadPage, Renamed, StoreStatus};
pub use dead_letter::{DeadCursor, DeadLetter};
pub use lookup::{DeliveryPage, FoundDelivery, FoundEvent, ListedDelivery, Standing, Whereabouts};
pub use reader::LoadError;
pub use shelf::ShelfLimits;

use crate::clock::{Age, Clock};
use crate::event::{Event, EventId};
use crate::metrics::Metrics;
use command::Command;
use disk::{Disk, OsDisk};
use doorbell::Doorbell;
use feed::Feed;
use history::{AttemptLog, AttemptPage, AttemptQuery, History};
use intake::{AckLane, Intake};
use key_log::KeyLog;
use keys::{KeyLimits, Keys};
use marks::TimeStamp;
use queue::QueueCounters;
use reader::ReadRequest;
use recovery::Recovered;
use suspension::Suspension;
use writer::Writer;

/// The lowest number of a segment that new events go to. Lower ones are cold: what is left of old segments is moved there,
/// and so comes first.
const FIRST_HOT: u32 = 1_000_000_000;

/// The subdirectory for what could not be read.
pub const QUARANTINE: &str = "quarantine";

/// Held with a lock by the process that owns the store.
pub const LOCK_FILE: &str = "lock";
/// Disk space kept for marks when the disk is full.
pub const RESERVE_FILE: &str = "reserve";

/// Whether a deliberate defect is switched on: never outside of tests.
macro_rules! defect {
    ($name:ident) => {{
        #[cfg(test)]
        let on = $crate::store::defects::on($crate::store::defects::Defect::$name);
        #[cfg(not(test))]
        let on = false;
        on
    }};
}

mod bits;
mod command;
mod dead_letter;
#[cfg(test)]
pub(crate) mod defects;
pub mod disk;
pub mod doorbell;
pub mod feed;
mod file;
mod frames;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub mod history;
pub mod intake;
mod key_log;
pub mod keys;
mod log;
mod lookup;
mod marks;
pub mod order;
pub mod outcomes;
pub mod queue;
mod reader;
mod record;
mod recovery;
mod schedule;
mod segment_index;
mod shelf;
mod state;
pub mod suspension;
#[cfg(test)]
pub(crate) mod testing;
pub mod waits;
mod writer;

/// Appends that fill a batch: the writer commits at once when so many wait.
pub const BATCH_EVENTS: usize = 32;

/// Deliveries of one connection that may be handed out and not settled, in all lanes together.
pub const WINDOW_EVENTS: usize = WINDOW_NEW + WINDOW_RETRY + WINDOW_REPLAY;
/// First attempts of them.
pub const WINDOW_NEW: usize = 320;
/// Retries of them.
pub const WINDOW_RETRY: usize = 128;
/// Replays of them.
pub const WINDOW_REPLAY: usize = 64;
/// Deliveries of one connection with ordering that may be handed out on top of that, because they stand behind others.
pub const PARKED_EVENTS: usize = 10_000;

/// A connection's number inside the store: small, the same over restarts, never used again for another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u32);

/// Names one delivery. Opaque outside of the store: nothing may be read from it but its connection. Those of one connection
/// compare as they stand in the log: in order of acceptance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryId {
    /// The connection it goes to.
    pub connection: ConnectionId,
    /// The segment that holds its event.
    pub(crate) segment: u32,
    /// Its place among this connection's deliveries in that segment.
    pub(crate) slot: u32,
    /// Where the event's record starts, in units of 8 bytes.
    pub(crate) offset: u32,
}

/// What the store is opened with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of a segment file; 1 MiB to 1 GiB.
    pub segment_bytes: u64,
    /// The files together take at most this much.
    pub max_bytes: u64,
    /// Payloads kept in memory for deliveries that follow soon.
    pub hot_bytes: u64,
    /// Ingress runtimes.
    pub lanes: usize,
    /// Egress runtimes.
    pub feeds: usize,
    /// Which idempotency keys are kept.
    pub keys: KeyLimits,
    /// How many scheduled deliveries, and how many dead letters, are in memory.
    pub shelf: ShelfLimits,
    /// What is kept of what is over.
    pub keep: Keep,
    /// Seeds nonces.
    pub seed: u64,
}

/// What is kept of what is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Segments whose events went everywhere.
    pub delivered: Limit,
    /// Dead letters.
    pub dead: Limit,
    /// Failed attempts, on disk.
    pub attempts: Limit,
}

/// How long and how much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// For so long, in store time,
    pub age: Duration,
    /// and at most so many bytes.
    pub bytes: u64,
}

impl Options {
    /// Size of a cold segment: a quarter of a segment, so that little space must be kept for it.
    fn cold_bytes(&self) -> u64 {
        self.segment_bytes / 4
    }

    /// Size of a state log: a quarter of a segment, 256 KiB to 4 MiB. A start holds what a log says in memory.
    fn log_bytes(&self) -> u64 {
        (self.segment_bytes / 4).min(4 << 20)
    }
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("another posthaste is using this store")]
    Locked,
    /// Written by another version.
    #[error(
        "{file} has store format {version}, which this version of posthaste does not know; use the version that wrote it"
    )]
    UnknownVersion {
        /// The file.
        file: String,
        /// Its version.
        version: u32,
    },
    /// The disk said no.
    #[error("could not {0}: {1}")]
    Io(&'static str, #[source] io::Error),
}

/// Marks could not be made durable; the store tries again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the disk failed, nothing is certain; try again")]
pub struct DiskTrouble;

/// The store's writer thread is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store is closed")]
pub struct Closed;

/// What all threads of the store share.
#[derive(Debug)]
struct Shared {
    /// Turns of the writer, for the watchdog.
    ticks: AtomicU64,
    /// What the files of attempts take.
    attempts_bytes: AtomicU64,
    metrics: StoreMetrics,
}

#[derive(Debug)]
struct StoreMetrics {
    sync_seconds: Histogram,
    batch_events: Histogram,
    written_bytes: Counter,
    bytes: Gauge,
    segments: Gauge,
    free_bytes: Gauge,
    dead_bytes: Gauge,
    dead_max_bytes: Gauge,
    dead_dropped: Counter,
    kept_bytes: Gauge,
    kept_given_up: Counter,
    attempts_bytes: Gauge,
    corrupt_records: Counter,
    relaxed_lost: Counter,
    errors: Counter,
}

impl StoreMetrics {
    fn new(metrics: &Metrics) -> StoreMetrics {
        StoreMetrics {
            sync_seconds: metrics.histogram("posthaste_store_sync_duration_seconds", &[]),
            batch_events: metrics.histogram("posthaste_store_batch_events", &[]),
            written_bytes: metrics.counter("posthaste_store_written_bytes_total", &[]),
            bytes: metrics.gauge("posthaste_store_bytes", &[]),
            segments: metrics.gauge("posthaste_store_segments", &[]),
            free_bytes: metrics.gauge("posthaste_store_free_bytes", &[]),
            dead_bytes: metrics.gauge("posthaste_store_dead_letter_bytes", &[]),
            dead_max_bytes: metrics.gauge("posthaste_store_dead_letter_max_bytes", &[]),
            dead_dropped: metrics.counter("posthaste_store_dead_letters_dropped_total", &[]),
            kept_bytes: metrics.gauge("posthaste_store_kept_bytes", &[]),
            kept_given_up: metrics.counter("posthaste_store_kept_given_up_total", &[]),
            attempts_bytes: metrics.gauge("posthaste_store_attempts_bytes", &[]),
            corrupt_records: metrics.counter("posthaste_store_corrupt_records_total", &[]),
            relaxed_lost: metrics.counter("posthaste_store_relaxed_lost_total", &[]),
            errors: metrics.counter("posthaste_store_errors_total", &[]),
        }
    }
}

/// The control loop's end of the store.
#[derive(Debug)]
pub struct Store {
    commands: Sender<Command>,
    reads: reader::ReadQueue,
    doorbell: Arc<Doorbell>,
    shared: Arc<Shared>,
    history: History,
    /// The threads; none where the simulation turns them.
    writer: Option<JoinHandle<()>>,
    reader: Option<JoinHandle<()>>,
    /// Its end is no failure of the store: deliveries do without it.
    recorder: Option<JoinHandle<()>>,
    /// Held while the store is open.
    _lock: Option<std::fs::File>,
}

/// An open store and its other ends.
#[derive(Debug)]
pub struct Opened {
    /// For the control loop.
    pub store: Store,
    /// One per ingress runtime.
    pub intakes: Vec<(Intake, Arc<AckLane>)>,
    /// One per egress runtime.
    pub feeds: Vec<Feed>,
    /// For who answers producers.
    pub keys: Keys,
    /// Damaged places found.
    pub corrupt: u64,
}

impl Store {
    /// Opens the store in a directory, which is made if it is missing, and takes its lock.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(
        directory: &Path,
        options: Options,
        clock: Clock,
        metrics: &Metrics,
    ) -> Result<Opened, OpenError> {
        let disk = OsDisk::open(directory)
            .map_err(|error| OpenError::Io("make the store's directory", error))?;
        let lock = lock(directory)?;
        let mut opened = Store::open_on(Arc::new(disk), options, clock, metrics)?;
        opened.store._lock = Some(lock);
        Ok(opened)
    }

    /// Opens the store on any disk.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_on(
        disk: Arc<dyn Disk>,
        options: Options,
        clock: Clock,
        metrics: &Metrics,
    ) -> Result<Opened, OpenError> {
        let ends = Ends::new(disk, options, clock, metrics)?;
        let Ends {
            writer,
            parker,
            doorbell,
            shared,
            commands,
            reads,
            requests,
            intakes,
            feeds,
            keys,
            corrupt,
            history,
            attempts,
            messages,
        } = ends;
        let (files, reader_shared) = (writer.files.clone(), Arc::clone(&shared));
        let spawn = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let io = |error| OpenError::Io("start a thread of the store", error);
        let reader = spawn("store-reader")
            .spawn(move || reader::run(&requests, &files, &reader_shared))
            .map_err(io)?;
        let lost = history.lost();
        let recorder = spawn("store-history")
            .spawn(move || history::run(attempts, lost, &messages))
            .map_err(io)?;
        let bell = Arc::clone(&doorbell);
        let writer =
            spawn("store-writer").spawn(move || writer::run(writer, &bell, &parker)).map_err(io)?;
        let store = Store {
            commands,
            reads,
            doorbell,
            shared,
            history,
            writer: Some(writer),
            reader: Some(reader),
            recorder: Some(recorder),
            _lock: None,
        };
        Ok(Opened { store, intakes, feeds, keys, corrupt })
    }

    /// The number of the connection with this name, and its counters. A new name gets a new number.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn register(&self, name: &str) -> Result<(ConnectionId, Arc<QueueCounters>), Closed> {
        let name = name.to_owned();
        self.ask(|reply| Command::Register { name, reply }).await
    }

    /// Hands all that the store has under one name to another: what waits, what is scheduled, dead letters, a suspension. One
    /// step, and the connection's number stays. Nobody may append to the new name meanwhile, or be attached to it. Returns
    /// what came of it, and whether that is durable.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn rename(
        &self,
        old: &str,
        new: &str,
    ) -> Result<(Renamed, Result<(), DiskTrouble>), Closed> {
        let (old, new) = (old.to_owned(), new.to_owned());
        self.ask(|reply| Command::Rename { old, new, reply }).await
    }

    /// Hands this connection's deliveries to an egress runtime from now on.
    pub fn attach(&self, connection: ConnectionId, feed: usize) {
        self.tell(Command::Attach { connection, feed });
    }

    /// Holds this connection's deliveries from now on. Those handed out come back by settlement or release.
    pub fn detach(&self, connection: ConnectionId) {
        self.tell(Command::Detach { connection });
    }

    /// Cancels all deliveries of a connection that are not over. Returns how many, and whether that is durable: if not, they
    /// may be back after a crash, or none could be cancelled.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn discard(
        &self,
        connection: ConnectionId,
    ) -> Result<(u64, Result<(), DiskTrouble>), Closed> {
        self.ask(|reply| Command::Discard { connection, reply }).await
    }

    /// Keeps that the daemon holds a connection, or, with `None`, that it does not any more; durable when this returns `Ok`
    /// inside: if not, it counts for this process, and a crash may forget it. The store itself goes on as before: whoever
    /// suspends a connection detaches it.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn suspend(
        &self,
        connection: ConnectionId,
        suspension: Option<Suspension>,
    ) -> Result<Result<(), DiskTrouble>, Closed> {
        self.ask(|reply| Command::Suspend { connection, suspension, reply }).await
    }

    /// Every connection that is suspended. [`suspension::SuspensionKind::PausedUntilRestart`] does not outlive an open.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn suspensions(&self) -> Result<Vec<(ConnectionId, Suspension)>, Closed> {
        self.ask(|reply| Command::Suspensions { reply }).await
    }

    /// Dead letters of a connection in the order in which they died, after a given one.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn dead(
        &self,
        connection: ConnectionId,
        after: Option<DeadCursor>,
        limit: usize,
    ) -> Result<DeadPage, Closed> {
        self.ask(|reply| Command::Dead { connection, after, limit, reply }).await
    }

    /// Sends dead letters on a new run. Returns which of them, and whether that is durable: if not, they run, but after a
    /// crash they may be dead letters again. Left out are those that are none any more, those whose record was moved since
    /// they were listed, and all from the first on that cannot be read just now.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn replay(
        &self,
        letters: Vec<DeadLetter>,
    ) -> Result<(Vec<DeliveryId>, Result<(), DiskTrouble>), Closed> {
        self.ask(|reply| Command::Replay { letters, reply }).await
    }

    /// Ends dead letters for good. Returns how many, and whether that is durable: if not, they may be dead letters again after
    /// a crash. Left out are the same ones as by [`Store::replay`].
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn purge(
        &self,
        letters: Vec<DeadLetter>,
    ) -> Result<(u64, Result<(), DiskTrouble>), Closed> {
        self.ask(|reply| Command::Purge { letters, reply }).await
    }

    /// The store as a whole.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn status(&self) -> Result<StoreStatus, Closed> {
        self.ask(|reply| Command::Status { reply }).await
    }

    /// Reads one delivery's event from the disk.
    ///
    /// # Errors
    /// [`Closed`], or [`LoadError`].
    pub async fn load(
        &self,
        id: DeliveryId,
        size: u32,
    ) -> Result<Result<Event, LoadError>, Closed> {
        let (reply, answer) = oneshot::channel();
        self.reads.send(ReadRequest::Show(id, size, reply)).map_err(|_| Closed)?;
        answer.await.map_err(|_| Closed)
    }

    /// For each connection with deliveries that are not over, the store time at which the oldest was accepted.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn oldest(&self) -> Result<Vec<(ConnectionId, Age)>, Closed> {
        let mut ages = Vec::new();
        for (id, size) in self.ask(|reply| Command::Oldest { reply }).await? {
            if let Ok(event) = self.load(id, size).await? {
                ages.push((id.connection, event.accepted_age));
            }
        }
        Ok(ages)
    }

    /// The dead letter of an event, and the event.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn find_dead(
        &self,
        connection: ConnectionId,
        event: EventId,
    ) -> Result<Option<(DeadLetter, Event)>, Closed> {
        let unix_ms = event.unix_ms();
        for letter in self.ask(|reply| Command::DeadAt { connection, unix_ms, reply }).await? {
            if let Ok(found) = self.load(letter.id, letter.size).await?
                && found.id == event
            {
                return Ok(Some((letter, found)));
            }
        }
        Ok(None)
    }

    /// Whether an event's delivery to a connection is not over.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn is_live(&self, connection: ConnectionId, event: EventId) -> Result<bool, Closed> {
        let unix_ms = event.unix_ms();
        for (id, size) in self.ask(|reply| Command::LiveAt { connection, unix_ms, reply }).await? {
            if self.load(id, size).await?.is_ok_and(|found| found.id == event) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Changes the store's cap.
    pub fn set_max_bytes(&self, bytes: u64) {
        self.tell(Command::SetMaxBytes(bytes));
    }

    /// Changes what is kept of what is over.
    pub fn set_keep(&self, keep: Keep) {
        self.tell(Command::SetKeep(keep));
        self.history.set_limit(keep.attempts);
    }

    /// Says which configuration is in force, for the attempts recorded from now on.
    pub fn set_generation(&self, generation: u64) {
        self.history.set_generation(generation);
    }

    /// Attempts that failed, and those that ended a delivery after failures; the newest first.
    ///
    /// # Errors
    /// [`Closed`], also when too many ask at once.
    pub async fn attempts(&self, query: AttemptQuery) -> Result<AttemptPage, Closed> {
        self.history.list(query).await
    }

    /// Whether a thread has ended although nobody asked it to: a panic.
    pub fn has_failed(&self) -> bool {
        [&self.reader, &self.writer].into_iter().flatten().any(JoinHandle::is_finished)
    }

    /// Turns of the writer so far: it is alive if this grows after [`Store::nudge`].
    pub fn ticks(&self) -> u64 {
        self.shared.ticks.load(Ordering::Relaxed)
    }

    /// Wakes the writer, which may be asleep because there is nothing to do.
    pub fn nudge(&self) {
        self.doorbell.ring();
    }

    /// Stops the store cleanly: what waits is refused, marks are made durable, a snapshot is left. Ingress and egress must
    /// have stopped before.
    pub async fn close(mut self) {
        let _ = self.ask(|reply| Command::Stop { reply }).await;
        self.history.stop();
        for thread in [self.writer.take(), self.recorder.take()].into_iter().flatten() {
            // A panic was reported where it happened.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Closed> {
        let (reply, answer) = oneshot::channel();
        self.tell(command(reply));
        answer.await.map_err(|_| Closed)
    }

    fn tell(&self, command: Command) {
        // The queue is far longer than what one control loop asks at once; a writer that is gone drops the command, and
        // with it the oneshot that the asker waits for.
        let _ = self.commands.send(command);
        self.doorbell.ring();
    }
}

/// A store before its threads run: tests and the simulation drive it by hand.
struct Ends {
    writer: Writer,
    parker: crossbeam::sync::Parker,
    doorbell: Arc<Doorbell>,
    shared: Arc<Shared>,
    commands: Sender<Command>,
    reads: reader::ReadQueue,
    requests: crossbeam::channel::Receiver<ReadRequest>,
    intakes: Vec<(Intake, Arc<AckLane>)>,
    feeds: Vec<Feed>,
    keys: Keys,
    corrupt: u64,
    history: History,
    attempts: AttemptLog,
    messages: crossbeam::channel::Receiver<history::Message>,
}

impl Ends {
    fn new(
        disk: Arc<dyn Disk>,
        options: Options,
        clock: Clock,
        metrics: &Metrics,
    ) -> Result<Ends, OpenError> {
        let shared = Arc::new(Shared {
            ticks: AtomicU64::new(0),
            attempts_bytes: AtomicU64::new(0),
            metrics: StoreMetrics::new(metrics),
        });
        let mut recovered = recovery::recover(
            &*disk,
            options.keys.max_keys,
            options.shelf,
            options.seed.rotate_left(48),
        )?;
        let corrupt = recovered.corrupt;
        shared.metrics.corrupt_records.increment(corrupt);
        let boot_id = clock.boot_id();
        clock.set_age(age_now(&recovered, &clock, boot_id));
        let keys = Keys::new(std::mem::take(&mut recovered.keys), options.keys, clock.age());
        let key_files = std::mem::take(&mut recovered.key_files);
        let fresh = (options.seed.rotate_left(32), clock.wall_ms());
        let key_log = KeyLog::open(&*disk, key_files, (&keys.found, options.keys.max_keys), fresh);
        let limits = (options.keep.attempts, options.segment_bytes, options.seed.rotate_left(16));
        let attempts =
            AttemptLog::open(Arc::clone(&disk), clock.clone(), Arc::clone(&shared), limits)?;
        let (history, messages) = History::new(metrics);
        let (doorbell, parker) = Doorbell::new();
        let (intakes, intake_port) = intake::intake(options.lanes, &doorbell);
        let (reads, requests) = crossbeam::channel::unbounded();
        let (feeds, ports) = (0..options.feeds)
            .map(|_| feed::feed(Arc::clone(&doorbell), reads.clone(), history.clone()))
            .unzip();
        let (commands, command_queue) = crossbeam::channel::bounded(command::COMMANDS);
        let parts = writer::Parts {
            disk,
            clock,
            boot_id,
            options,
            shared: Arc::clone(&shared),
            intake: intake_port,
            key_log,
            floor: keys.floor.clone(),
        };
        let writer = Writer::new(parts, ports, command_queue, recovered)?;
        Ok(Ends {
            writer,
            parker,
            doorbell,
            shared,
            commands,
            reads,
            requests,
            intakes,
            feeds,
            keys,
            corrupt,
            history,
            attempts,
            messages,
        })
    }
}

/// Store time goes on where it stood: by the boot clock within one boot, else by the wall clock, within a day.
fn age_now(recovered: &Recovered, clock: &Clock, boot_id: u64) -> Age {
    const DAY_MS: u64 = 24 * 60 * 60 * 1000;
    let TimeStamp { age, boot_ms, wall_ms, boot_id: boot_then } = recovered.stamp;
    let elapsed = if defect!(AgeByWallClock) {
        clock.wall_ms().saturating_sub(wall_ms)
    } else if boot_then == boot_id {
        crate::clock::millis(clock.boot()).saturating_sub(boot_ms)
    } else {
        clock.wall_ms().saturating_sub(wall_ms).min(DAY_MS)
    };
    Age(age.0.saturating_add(elapsed)).max(recovered.last_age)
}

/// Takes the store's lock, which lasts until the file is closed.
fn lock(directory: &Path) -> Result<std::fs::File, OpenError> {
    let path = directory.join(LOCK_FILE);
    let mut options = std::fs::OpenOptions::new();
    let file = options.create(true).truncate(false).write(true).open(path);
    let file = file.map_err(|error| OpenError::Io("open the store's lock", error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(OpenError::Locked),
        Err(std::fs::TryLockError::Error(error)) => Err(OpenError::Io("lock the store", error)),
    }
}

/// Name of a file that waits to be written over.
fn spare_name(number: u32) -> String {
    format!("spare-{number:010}.seg")
}

#[cfg(test)]
mod tests;
