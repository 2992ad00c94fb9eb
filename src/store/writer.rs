//! The writer: the one thread that changes the store.
//!
//! [`Writer::turn`] is one step of it: take what came back from the egress, run commands, commit what waits, hand out
//! what is due, keep house. It blocks on nothing but the disk, so a simulation can drive it as well as the thread in
//! [`run`] does.
//!
//! Commits are paced (performance.md): a batch is committed when 32 events wait or 1 ms has passed since the last commit
//! began, and at once while hardly any come.

mod commit;
mod compact;
mod dead;
mod expire;
mod hand_out;
mod keep;
mod kept;
mod keys;
mod list;
mod look;
mod order;
mod settle;
mod single;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam::channel::Receiver;
use crossbeam::sync::Parker;

use super::command::Command;
use super::disk::Disk;
use super::doorbell::{Doorbell, SleepFor};
use super::feed::{FeedItem, FeedPort, Returned};
use super::file::{StoreFile, log_name};
use super::intake::{Append, IntakePort};
use super::key_log::KeyLog;
use super::keys::Floor;
use super::log::{StateLog, write_snapshot};
use super::marks::TimeStamp;
use super::outcomes::Watched;
use super::reader::Files;
use super::recovery::Recovered;
use super::segment_index::INDEX_BYTES;
use super::state::State;
use super::{BATCH_EVENTS, ConnectionId, OpenError, Options, RESERVE_FILE, Shared, spare_name};
use kept::Kept;

use crate::clock::{Age, Clock, millis};
use crate::event::Event;

/// The least time between the starts of two commits while events keep coming.
const COMMIT_GAP: Duration = Duration::from_millis(1);
/// Events in one gap below which a commit does not wait for company: the gap would cost more latency than it saves.
const COMPANY: usize = 4;
/// Marks are written at most this much later.
const MARKS_WRITE: Duration = Duration::from_millis(20);
/// Marks are synced at most this much later.
const MARKS_SYNC: Duration = Duration::from_secs(1);
/// After a failure of the disk, the next try comes this much later.
const TROUBLE_RETRY: Duration = Duration::from_secs(1);

/// Owns all state of the store.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) clock: Clock,
    pub(super) boot_id: u64,
    pub(super) options: Options,
    pub(super) shared: Arc<Shared>,
    pub(super) files: Files,
    pub(super) state: State,
    pub(super) log: StateLog,
    /// The highest number that a log was given, or was to be given.
    pub(super) log_number: u32,
    pub(super) intake: IntakePort,
    pub(super) feeds: Vec<FeedPort>,
    pub(super) commands: Receiver<Command>,
    pub(super) rng: fastrand::Rng,
    pub(super) next_segment: u32,
    pub(super) next_cold: u32,
    /// Bytes of a growing segment's index in memory at which it is sealed.
    pub(super) index_bytes: usize,
    /// The segment that grows.
    pub(super) active: Option<Active>,
    /// The segment that survivors of old ones are moved to.
    pub(super) cold: Option<Active>,
    /// The segment whose survivors are being moved.
    pub(super) moving: Option<compact::Moving>,
    /// First attempts are held back, because the schedule takes too much memory.
    pub(super) holding_back: bool,
    /// The number of the next run.
    pub(super) next_run: u32,
    /// Why there is none that can take events.
    pub(super) trouble: Option<Trouble>,
    /// Numbers of files that wait to be written over.
    pub(super) spares: Vec<u32>,
    pub(super) hot: Hot,
    /// Deliveries whose end producers wait for.
    pub(super) watched: Watched,
    /// Events that were answered before their sync, which then failed.
    pub(super) relaxed_lost: u64,
    /// Idempotency keys of segments that were given back, and which ones are still remembered.
    pub(super) key_log: KeyLog,
    pub(super) floor: Floor,
    /// Segments that nothing needs any more.
    pub(super) drained: Vec<u32>,
    /// Those of them that stay for a while all the same.
    pub(super) kept: Kept,
    /// Deliveries handed out and not come back.
    pub(super) handed_out: usize,
    /// Streams to look at before this turn ends.
    pub(super) touched: Vec<ConnectionId>,
    /// Connections of which more or fewer wait than when the turn began, or for something else.
    pub(super) to_meter: Vec<ConnectionId>,
    /// What goes to each egress runtime at the end of this turn.
    pub(super) outbox: Vec<Vec<FeedItem>>,
    pub(super) times: Times,
    pub(super) buffers: Buffers,
    pub(super) stopping: bool,
}

/// The segment that grows.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) number: u32,
    pub(super) file: StoreFile,
    /// Where the next record goes; all before it is synced.
    pub(super) end: u64,
    pub(super) file_bytes: u64,
    pub(super) commit: u64,
}

/// Why events are refused.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trouble {
    pub(super) full: bool,
    pub(super) retry_at: Duration,
}

/// Monotonic times of what was done last.
#[derive(Debug, Default)]
pub(super) struct Times {
    pub(super) commit_began: Duration,
    /// Events in that commit.
    pub(super) commit_events: usize,
    pub(super) marks_written: Duration,
    pub(super) marks_synced: Duration,
    /// When to look for segments that are kept for little.
    pub(super) look_for_sparse: Option<Duration>,
    /// When to try again to keep idempotency keys.
    pub(super) keys_retry: Duration,
    /// When to try again to give segments back.
    pub(super) give_back: Duration,
    /// When to try again to write a run.
    pub(super) spill: Duration,
    /// When to look for dead letters that were kept long enough.
    pub(super) next_expiry: Option<Duration>,
    /// When to try again after some could not be read.
    pub(super) expiry_retry: Duration,
}

/// Memory used again at each turn.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    pub(super) returned: Vec<Returned>,
    pub(super) commit: commit::Batch,
    /// Taken off the queue, and too large for the batch that it would have been in: the first of the next one.
    pub(super) put_off: Option<Append>,
}

/// The latest events, for those who deliver soon: a cache of bounded size, oldest out first, so that no connection can pin
/// memory by being slow.
#[derive(Debug, Default)]
pub(super) struct Hot {
    events: VecDeque<(u32, u32, Arc<Event>)>,
    bytes: u64,
    pub(super) capacity: u64,
}

impl Hot {
    pub(super) fn insert(&mut self, segment: u32, offset: u32, event: Arc<Event>) {
        self.bytes += weight(&event);
        self.events.push_back((segment, offset, event));
        while self.bytes > self.capacity {
            let Some((_, _, event)) = self.events.pop_front() else {
                break;
            };
            self.bytes -= weight(&event);
        }
    }

    pub(super) fn get(&self, segment: u32, offset: u32) -> Option<&Arc<Event>> {
        let at = self
            .events
            .binary_search_by_key(&(segment, offset), |(segment, offset, _)| (*segment, *offset))
            .ok()?;
        self.events.get(at).map(|(_, _, event)| event)
    }
}

/// What an event takes in memory beside its content: its own fields, the allocations' heads, its place in the cache.
const EVENT_OVERHEAD: u64 = 256;

fn weight(event: &Event) -> u64 {
    event.content.as_bytes().len() as u64 + EVENT_OVERHEAD
}

/// What a writer is made of besides what was recovered.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) clock: Clock,
    pub(super) boot_id: u64,
    pub(super) options: Options,
    pub(super) shared: Arc<Shared>,
    pub(super) intake: IntakePort,
    pub(super) key_log: KeyLog,
    pub(super) floor: Floor,
}

/// When the writer wants its next turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wake {
    pub(super) what: SleepFor,
    pub(super) after: Option<Duration>,
}

impl Writer {
    /// A writer over what was recovered: it begins a log, with a snapshot, and a segment. A disk that is full is no error:
    /// the store then opens without taking events.
    pub(super) fn new(
        parts: Parts,
        feeds: Vec<FeedPort>,
        commands: Receiver<Command>,
        recovered: Recovered,
    ) -> Result<Writer, OpenError> {
        let Parts { disk, clock, boot_id, options, shared, intake, key_log, floor } = parts;
        let mut rng = fastrand::Rng::with_seed(options.seed);
        let number = recovered.log_number + 1;
        let nonce = rng.u64(..);
        let begin = || StateLog::begin(&*disk, number, nonce, clock.wall_ms(), options.log_bytes());
        let mut spares = recovered.spares;
        let log = begin()
            .or_else(|error| give_up_spares(&*disk, &mut spares, error).and_then(|()| begin()))
            .or_else(|error| give_up_reserve(&*disk, error).and_then(|()| begin()));
        let log = log.map_err(|error| OpenError::Io("begin a state log", error))?;
        let outbox = feeds.iter().map(|_| Vec::new()).collect();
        let watched = Watched::new(Arc::clone(&intake.seats));
        let hot = Hot { capacity: options.hot_bytes, ..Hot::default() };
        let mut writer = Writer {
            disk,
            clock,
            boot_id,
            options,
            shared,
            files: recovered.files,
            state: recovered.state,
            log,
            log_number: number,
            intake,
            feeds,
            commands,
            rng,
            next_segment: recovered.next_segment,
            next_cold: recovered.next_cold,
            index_bytes: INDEX_BYTES,
            active: None,
            cold: None,
            moving: None,
            holding_back: false,
            next_run: recovered.next_run,
            trouble: None,
            spares,
            hot,
            watched,
            relaxed_lost: 0,
            key_log,
            floor,
            drained: recovered.drained,
            kept: Kept::default(),
            handed_out: 0,
            touched: Vec::new(),
            to_meter: Vec::new(),
            outbox,
            times: Times::default(),
            buffers: Buffers::default(),
            stopping: false,
        };
        writer.start(number)?;
        Ok(writer)
    }

    fn start(&mut self, log_number: u32) -> Result<(), OpenError> {
        self.meter_all();
        self.times.next_expiry = Some(Duration::ZERO);
        // What a full disk keeps in memory is tried again later.
        self.spill(Duration::ZERO);
        let stamp = self.time_stamp();
        let nonce = self.rng.u64(..);
        let write = || write_snapshot(&*self.disk, &self.state, log_number, nonce, stamp);
        let written =
            write().or_else(|error| give_up_reserve(&*self.disk, error).and_then(|()| write()));
        if let Err(error) = written {
            // It holds nothing; the next start would find one more of them.
            let _ = self.disk.remove(&log_name(log_number));
            return Err(OpenError::Io("write a snapshot", error));
        }
        self.forget_older(log_number);
        let now = self.clock.monotonic();
        // Gives back what is drained before a new segment is begun: there may be no space for it otherwise.
        self.keep_house(now);
        // The reserve comes first: without it a full disk could keep the next start from beginning a log.
        self.keep_reserve();
        if let Err(error) = self.begin_segment() {
            self.in_trouble("begin a segment", &error, now);
        }
        Ok(())
    }

    /// One step. Returns when the next one is wanted.
    pub(super) fn turn(&mut self) -> Wake {
        self.shared.ticks.fetch_add(1, Ordering::Relaxed);
        let now = self.clock.monotonic();
        self.watched.clean_up();
        self.take_returned();
        self.run_commands();
        if self.commit_is_due(now) {
            self.commit(now);
        }
        let age = self.take_due();
        self.serve_touched();
        self.meter_changed(age);
        self.keep_house(now);
        for (port, items) in self.feeds.iter().zip(&mut self.outbox) {
            port.send(items);
        }
        self.next_wake()
    }

    /// Whether a sleeper that wants `what` may go to sleep.
    pub(super) fn nothing_waits(&self, what: SleepFor) -> bool {
        let appends = match what {
            SleepFor::Anything => 1,
            SleepFor::FullBatch => BATCH_EVENTS,
        };
        self.waiting_appends() < appends && self.commands.is_empty()
    }

    fn waiting_appends(&self) -> usize {
        self.intake.queue.len() + usize::from(self.buffers.put_off.is_some())
    }

    fn take_returned(&mut self) {
        let mut returned = std::mem::take(&mut self.buffers.returned);
        for port in &self.feeds {
            port.receive(&mut returned);
        }
        for item in returned.drain(..) {
            match item {
                Returned::Settled(settlement) => self.settled(&settlement),
                Returned::Released(delivery) => self.released(delivery),
                Returned::Order(connection, number) => self.order(connection, number),
                Returned::Parked(connection, parked) => self.parked(connection, parked),
            }
        }
        self.buffers.returned = returned;
    }

    fn commit_is_due(&self, now: Duration) -> bool {
        let waiting = self.waiting_appends();
        let few = waiting < COMPANY && self.times.commit_events < COMPANY;
        let rested = now.saturating_sub(self.times.commit_began) >= COMMIT_GAP;
        waiting > 0 && (few || rested || waiting >= BATCH_EVENTS)
    }

    fn next_wake(&self) -> Wake {
        let now = self.clock.monotonic();
        let mut after: Option<Duration> = None;
        let mut at_least =
            |wanted: Duration| after = Some(after.map_or(wanted, |after| after.min(wanted)));
        // Settlements come without a wake: look for them while any may come.
        if self.handed_out > 0 || self.log.has_pending() || !self.touched.is_empty() {
            at_least(MARKS_WRITE);
        }
        if self.log.has_unsynced() {
            at_least((self.times.marks_synced + MARKS_SYNC).saturating_sub(now));
        }
        if let Some(look) = self.times.look_for_sparse {
            at_least(look.saturating_sub(now));
        }
        if !self.drained.is_empty() {
            at_least(TROUBLE_RETRY);
        }
        if let Some(until) = self.kept_until() {
            // One that could not be given back in this turn is tried again.
            let left = until.since(self.clock.age());
            at_least(if left.is_zero() { TROUBLE_RETRY } else { left });
        }
        if let Some(trouble) = self.trouble {
            at_least(trouble.retry_at.saturating_sub(now));
        }
        if let Some(due) = self.state.schedule.next_ripening() {
            at_least(Age(due).since(self.clock.age()));
        }
        if let Some(expiry) = self.times.next_expiry {
            at_least(expiry.max(self.times.expiry_retry).saturating_sub(now));
        }
        if self.holding_back {
            at_least(self.times.spill.saturating_sub(now).max(MARKS_WRITE));
        }
        if self.waiting_appends() == 0 {
            return Wake { what: SleepFor::Anything, after };
        }
        at_least((self.times.commit_began + COMMIT_GAP).saturating_sub(now));
        Wake { what: SleepFor::FullBatch, after }
    }

    pub(super) fn touch(&mut self, id: ConnectionId) {
        if let Some(stream) = self.state.stream(id)
            && !std::mem::replace(&mut stream.touched, true)
        {
            self.touched.push(id);
        }
    }

    /// Has what a connection's deliveries wait for charged at the end of the turn.
    pub(super) fn meter_later(&mut self, id: ConnectionId) {
        if let Some(stream) = self.state.stream(id)
            && !std::mem::replace(&mut stream.to_meter, true)
        {
            self.to_meter.push(id);
        }
    }

    fn meter_changed(&mut self, now: Age) {
        for id in self.to_meter.drain(..) {
            self.state.meter(id, now);
        }
    }

    /// Charges what all deliveries have waited here up to now.
    pub(super) fn meter_all(&mut self) {
        let now = self.clock.age();
        let ids: Vec<_> = self.state.streams.iter().map(|stream| stream.id).collect();
        ids.into_iter().for_each(|id| self.state.meter(id, now));
    }

    pub(super) fn time_stamp(&self) -> TimeStamp {
        TimeStamp {
            age: self.clock.age(),
            boot_ms: millis(self.clock.boot()),
            wall_ms: self.clock.wall_ms(),
            boot_id: self.boot_id,
        }
    }
}

/// Removes the files that wait to be written over if `error` says that the disk is full.
fn give_up_spares(
    disk: &dyn Disk,
    spares: &mut Vec<u32>,
    error: std::io::Error,
) -> std::io::Result<()> {
    if !commit::is_full(&error) {
        return Err(error);
    }
    spares.retain(|number| disk.remove(&spare_name(*number)).is_err());
    Ok(())
}

/// Gives the reserved disk space free if `error` says that the disk is full.
fn give_up_reserve(disk: &dyn Disk, error: std::io::Error) -> std::io::Result<()> {
    if commit::is_full(&error) { disk.remove(RESERVE_FILE).map_err(|_| error) } else { Err(error) }
}

/// Drives the writer until it is told to stop.
pub(super) fn run(mut writer: Writer, doorbell: &Doorbell, parker: &Parker) {
    while !writer.stopping {
        let wake = writer.turn();
        if !writer.stopping {
            doorbell.sleep(parker, wake.what, wake.after, || writer.nothing_waits(wake.what));
        }
    }
}
