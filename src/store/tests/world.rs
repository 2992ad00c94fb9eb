//! The real store on the model disk, beside a model of what it promised. Each step of a test changes both; whatever the
//! store then says or hands out must agree with the model.
//!
//! A delivery is in one state now, and after a crash in one of those that it has been in since its state was last known
//! to be durable: the store says so by an answer, or by having no unsynced marks. What was never acknowledged may be
//! there after a restart or not; the process that refused it never hands it out.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::super::feed::{Delivery, Lane, Settlement};
use super::super::intake::{Append, AppendError, Durability, Fate, Route};
use super::super::record::Frame;
use super::super::segment_index::INDEX_BYTES;
use super::super::writer::Writer;
use super::super::*;
use super::model_disk::ModelDisk;
use crate::event::{Cause, ContentBuilder, Disposition, Event, EventId};

mod check;
mod ending;
mod renaming;
mod suspending;

/// What went wrong, in words.
pub type Verdict = Result<(), String>;

/// Connections of the model.
pub const CONNECTIONS: usize = 3;

/// What the store holds of a delivery, without what it has handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Waiting,
    /// Waits for a time, in true milliseconds; 0 is at once.
    Later {
        due: u64,
        attempts: u32,
        lane: Lane,
    },
    Dead(Cause),
    Over,
}

impl Status {
    fn is_live(self) -> bool {
        matches!(self, Status::Waiting | Status::Later { .. })
    }
}

/// An event that was posted. Its number is its place in the order of acceptance.
#[derive(Clone, Debug)]
struct Posted {
    size: usize,
    routes: Vec<(usize, Fate)>,
    /// When it is due, if it came with a delay.
    due: Option<u64>,
    acknowledged: bool,
    /// The process that refused it.
    refused_by: Option<u32>,
}

/// A delivery that the store holds or held.
#[derive(Clone, Debug)]
struct Tracked {
    now: Status,
    /// What a crash may make of it; the last one is `now`.
    possible: Vec<Status>,
    out: bool,
    released: bool,
}

/// A delivery handed out: event and connection by number.
#[derive(Clone, Debug)]
pub struct Out {
    pub key: (usize, usize),
    pub delivery: Delivery,
}

/// One life of the store.
pub struct Process {
    pub writer: Writer,
    commands: Sender<Command>,
    lane: Arc<AckLane>,
    feed: Feed,
    pub corrupt: u64,
    ids: Vec<ConnectionId>,
    counters: Vec<Arc<QueueCounters>>,
    waiting: Vec<(usize, oneshot::Receiver<Result<(), AppendError>>)>,
    pub out: Vec<Out>,
    last_first: [usize; CONNECTIONS],
}

pub struct World {
    pub disk: ModelDisk,
    pub options: Options,
    /// How large the index of a segment that grows may be; some worlds have tiny ones, so that segments are sealed by it.
    pub index_bytes: usize,
    clock: Clock,
    /// Milliseconds that have really passed.
    time: u64,
    metrics: Metrics,
    rng: fastrand::Rng,
    lives: u32,
    pub process: Option<Process>,
    posted: Vec<Posted>,
    /// Events that were posted together since the last start.
    batches: Vec<std::ops::Range<usize>>,
    /// Batches that nobody was told about, by what a start found of them: none of it, or all.
    pub batches_lost: usize,
    pub batches_found: usize,
    by_id: HashMap<EventId, usize>,
    /// Per connection, what a crash may make of its name; the last one is what it is.
    names: [Vec<String>; CONNECTIONS],
    /// Per connection, what a crash may make of its suspension; the last one is what it is.
    suspended: [Vec<Option<Suspension>>; CONNECTIONS],
    tracked: BTreeMap<(usize, usize), Tracked>,
    /// Tests that break files: acknowledged events may be missing, and are counted here instead.
    pub damaged: bool,
    pub missing: usize,
    /// Somebody else took the space that the store wants for its reserve, which a full disk had cost it.
    robbed: bool,
    /// The store has deliveries that cannot be told: its counters are not compared any more.
    blind: Cell<bool>,
    pub delivered: u64,
}

pub fn small_options() -> Options {
    Options {
        segment_bytes: 64 << 10,
        max_bytes: 2 << 20,
        hot_bytes: 16 << 10,
        lanes: 1,
        feeds: 1,
        keys: super::KEY_LIMITS,
        shelf: ShelfLimits { items: 4, block_items: 2 },
        keep: keep(1),
        seed: 1,
    }
}

fn keep(seed: u64) -> Keep {
    let age = Duration::from_secs(if seed.is_multiple_of(3) { 3000 } else { 0 });
    let delivered = Limit { age, bytes: 512 << 10 };
    // Dead letters are kept for longer than any test.
    let dead = Limit { age: Duration::from_secs(1 << 40), bytes: u64::MAX };
    Keep { delivered, dead, ..super::KEEP }
}

/// One poll of a future that is ready or never will be.
fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(what()) }
}

/// The body of the event with this number: the number itself and noise that follows from it. Every world has the same, and asks
/// for them at each delivery, so they are made once.
fn body(number: usize, size: usize) -> Rc<[u8]> {
    /// By number and size.
    type Bodies = HashMap<(usize, usize), Rc<[u8]>>;
    thread_local! {
        static BODIES: RefCell<Bodies> = RefCell::default();
    }
    let make = || {
        let mut bytes = number.to_le_bytes().to_vec();
        let mut rng = fastrand::Rng::with_seed(number as u64);
        bytes.resize_with(size.max(8), || rng.u8(..));
        Rc::from(bytes)
    };
    BODIES.with_borrow_mut(|bodies| {
        if bodies.len() > 4096 {
            bodies.clear();
        }
        Rc::clone(bodies.entry((number, size)).or_insert_with(make))
    })
}

impl World {
    pub fn new(seed: u64) -> World {
        World::on(ModelDisk::new(seed), seed)
    }

    pub fn on(disk: ModelDisk, seed: u64) -> World {
        thread_local! {
            // Making the registry costs more than a whole case.
            static METRICS: Metrics = Metrics::new();
        }
        World {
            disk,
            // A third of all worlds keep what was delivered for a while.
            options: Options { seed, keep: keep(seed), ..small_options() },
            index_bytes: if seed.is_multiple_of(4) { 400 } else { INDEX_BYTES },
            clock: Clock::manual(1_700_000_000_000),
            time: 1,
            metrics: METRICS.with(Metrics::clone),
            rng: fastrand::Rng::with_seed(seed),
            lives: 0,
            process: None,
            posted: Vec::new(),
            batches: Vec::new(),
            batches_lost: 0,
            batches_found: 0,
            by_id: HashMap::new(),
            names: std::array::from_fn(|number| vec![format!("c{number}")]),
            suspended: std::array::from_fn(|_| vec![None]),
            tracked: BTreeMap::new(),
            damaged: false,
            missing: 0,
            robbed: false,
            blind: Cell::new(false),
            delivered: 0,
        }
    }

    /// The same events on another disk, whose store may be damaged.
    pub fn fork(&self, disk: ModelDisk) -> World {
        World {
            clock: self.clock.clone(),
            time: self.time,
            posted: self.posted.clone(),
            batches: self.batches.clone(),
            batches_lost: 0,
            batches_found: 0,
            by_id: self.by_id.clone(),
            names: self.names.clone(),
            suspended: self.suspended.clone(),
            tracked: self.tracked.clone(),
            lives: self.lives,
            robbed: self.robbed,
            ..World::on(disk, self.options.seed)
        }
    }

    /// The rest of the disk is taken by somebody else, but for this much.
    pub fn set_free(&mut self, bytes: u64) {
        self.robbed |= !self.disk.files().contains_key(RESERVE_FILE);
        self.disk.set_free(bytes);
    }

    /// Opens the store if it is not open. Whether it is.
    pub fn start(&mut self) -> Result<bool, String> {
        if self.process.is_some() {
            return Ok(true);
        }
        self.lives += 1;
        self.options.seed = self.rng.u64(..);
        let disk = Arc::new(self.disk.clone());
        let failures = disk.failures();
        let ends = Ends::new(disk, self.options.clone(), self.clock.clone(), &self.metrics);
        let mut ends = match ends {
            Ok(ends) => ends,
            Err(error) => {
                // A full disk needs its reserve, which an earlier fault may have cost, or somebody else.
                let full = matches!(&error, OpenError::Io(_, error)
                    if error.kind() == std::io::ErrorKind::StorageFull);
                let excused = match full {
                    true => self.robbed || self.disk.failures() > 0,
                    false => self.disk.failures() > failures,
                };
                ensure(excused, || format!("it does not open: {error:?}"))?;
                return Ok(false);
            }
        };
        ends.writer.index_bytes = self.index_bytes;
        self.recovered(&mut ends.writer)?;
        self.process = Some(Process {
            writer: ends.writer,
            commands: ends.commands,
            lane: Arc::clone(&ends.intakes[0].1),
            feed: ends.feeds.remove(0),
            corrupt: ends.corrupt,
            ids: Vec::new(),
            counters: Vec::new(),
            waiting: Vec::new(),
            out: Vec::new(),
            last_first: [0; CONNECTIONS],
        });
        self.attach_all()?;
        Ok(true)
    }

    /// The process ends without a word. What it wrote is still in the page cache.
    pub fn kill(&mut self) {
        self.process = None;
        for tracked in self.tracked.values_mut() {
            (tracked.out, tracked.released) = (false, false);
        }
    }

    pub fn crash(&mut self, seed: u64) {
        self.kill();
        self.disk.crash(seed);
    }

    /// A crash after which all names last, and no bytes that were not synced.
    pub fn crash_keeping_names(&mut self) {
        self.kill();
        self.disk.crash_keeping_names();
    }

    /// A clean stop.
    pub fn stop(&mut self) -> Verdict {
        if self.process.is_some() {
            self.ask(|reply| Command::Stop { reply })?;
        }
        self.kill();
        Ok(())
    }

    pub fn attach_all(&mut self) -> Verdict {
        for number in 0..CONNECTIONS {
            if self.process.as_ref().is_some_and(|p| p.ids.len() <= number) {
                let name = self.names[number].last().cloned().unwrap_or_default();
                let (id, counters) = self.ask(|reply| Command::Register { name, reply })?;
                let process = self.process.as_mut().unwrap();
                process.ids.push(id);
                process.counters.push(counters);
            }
            self.set_attached(number, true)?;
        }
        Ok(())
    }

    pub fn set_attached(&mut self, connection: usize, attached: bool) -> Verdict {
        let Some(process) = &mut self.process else {
            return Ok(());
        };
        let connection = process.ids[connection];
        let command = if attached {
            Command::Attach { connection, feed: 0 }
        } else {
            Command::Detach { connection }
        };
        process.commands.send(command).unwrap();
        self.turn()
    }

    fn ask<T>(&mut self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, String> {
        let (reply, mut answer) = oneshot::channel();
        let process = self.process.as_mut().ok_or("no process")?;
        process.commands.send(command(reply)).unwrap();
        self.writer_turn();
        answer.try_recv().map_err(|_| "a command was not answered".to_owned())
    }

    fn writer_turn(&mut self) {
        if let Some(process) = &mut self.process {
            let lost = process.writer.relaxed_lost;
            process.writer.turn();
            poll_once(process.lane.run());
            let lost = process.writer.relaxed_lost > lost;
            self.take_answers(lost);
        }
    }

    /// One turn of the writer, and a look at all that it says.
    pub fn turn(&mut self) -> Verdict {
        self.writer_turn();
        self.check_counters()?;
        self.note_durable();
        self.take_handed_out()
    }

    pub fn advance(&mut self, by: Duration) -> Verdict {
        self.clock.advance(by);
        self.time += crate::clock::millis(by);
        self.turn()
    }

    pub fn step_wall(&mut self, to_ms: u64) {
        self.clock.step_wall(to_ms);
    }

    /// Posts an event; it is answered in a later turn.
    pub fn post(&mut self, size: usize, to: &[(usize, Fate)]) {
        self.post_with(size, to, 0, false);
    }

    pub fn post_with(&mut self, size: usize, to: &[(usize, Fate)], delay: u64, relaxed: bool) {
        if let Some(append) = self.append(size, to, delay, relaxed)
            && let Some(process) = &self.process
        {
            process.writer.intake.queue.push(append).unwrap();
        }
    }

    /// Posts events that are stored together or not at all; their mark is the number of the first.
    pub fn post_batch(&mut self, sizes: &[usize], to: &[(usize, Fate)]) {
        let first = self.posted.len();
        let count = u32::try_from(sizes.len()).unwrap();
        let mark = u32::try_from(first).unwrap();
        let appends = sizes.iter().filter_map(|size| self.append(*size, to, 0, false));
        let mut appends: Vec<_> = appends.collect();
        for (number, append) in (0..).zip(&mut appends) {
            append.frame = Frame { mark, number, count };
        }
        if appends.is_empty() {
            return;
        }
        let mut whole = appends.remove(0);
        whole.rest = appends;
        let Some(process) = &self.process else {
            return;
        };
        process.writer.intake.queue.push(whole).unwrap();
        self.batches.push(first..first + sizes.len());
    }

    /// An event as ingress hands it over.
    fn append(
        &mut self,
        size: usize,
        to: &[(usize, Fate)],
        delay: u64,
        relaxed: bool,
    ) -> Option<Append> {
        let number = self.posted.len();
        let mut content = ContentBuilder::new("default", "", "", size);
        content.body(&body(number, size));
        let id = EventId::new(self.clock.wall_ms(), &mut self.rng);
        let content = content.finish();
        let process = self.process.as_mut()?;
        let bytes = content.as_bytes().len() as u64;
        let routes = to.iter().map(|(connection, fate)| {
            let queue = Arc::clone(&process.counters[*connection]);
            assert!(*fate != Fate::Queued || queue.try_reserve(bytes, u64::MAX, u64::MAX));
            let delay = Duration::from_millis(delay);
            Route { connection: process.ids[*connection], queue, fate: *fate, delay }
        });
        let (reply, answer) = oneshot::channel();
        let append = Append {
            routes: routes.collect(),
            event: Arc::new(Event {
                id,
                accepted_ms: id.unix_ms(),
                accepted_age: self.clock.age(),
                content,
            }),
            lane: 0,
            key: None,
            durability: if relaxed { Durability::Relaxed } else { Durability::Disk },
            board: None,
            reply: Some(reply),
            frame: Frame::ALONE,
            rest: Vec::new(),
        };
        process.waiting.push((number, answer));
        self.by_id.insert(id, number);
        self.posted.push(Posted {
            size,
            routes: to.to_vec(),
            due: (delay > 0).then_some(self.time + delay),
            acknowledged: false,
            refused_by: None,
        });
        Some(append)
    }

    /// `lost`: the sync after the answers failed, so what was answered before it counts as refused.
    fn take_answers(&mut self, lost: bool) {
        let Some(process) = &mut self.process else {
            return;
        };
        let lives = self.lives;
        let (posted, tracked) = (&mut self.posted, &mut self.tracked);
        process.waiting.retain_mut(|(number, answer)| match answer.try_recv() {
            Ok(Ok(())) if !lost => {
                posted[*number].acknowledged = true;
                for (connection, fate) in &posted[*number].routes {
                    let now = match fate {
                        Fate::Queued => posted[*number].first_status(),
                        Fate::Dead(cause) => Status::Dead(*cause),
                    };
                    tracked.insert((*number, *connection), Tracked::new(now));
                }
                false
            }
            Ok(_) => {
                posted[*number].refused_by = Some(lives);
                false
            }
            Err(_) => true,
        });
    }

    /// What a crash may make of deliveries: if all marks are durable, nothing.
    fn note_durable(&mut self) {
        let Some(process) = &self.process else {
            return;
        };
        if process.writer.log.has_pending() || process.writer.log.has_unsynced() {
            return;
        }
        for tracked in self.tracked.values_mut() {
            let earlier = tracked.possible.len() - 1;
            tracked.possible.drain(..earlier);
        }
        for possible in &mut self.names {
            possible.drain(..possible.len() - 1);
        }
        for possible in &mut self.suspended {
            possible.drain(..possible.len() - 1);
        }
    }

    /// The faults stop: everything is delivered, also what was dead, the disk is given back, and a fresh event passes.
    pub fn finish(&mut self) -> Verdict {
        self.disk.set_fault(None);
        self.disk.set_free(u64::MAX);
        if self.disk.power_is_off() {
            let seed = self.rng.u64(..);
            self.crash(seed);
        }
        self.start()?;
        self.drain()?;
        let last = self.posted.len();
        self.post(100, &[(0, Fate::Queued)]);
        for _ in 0..4 {
            self.advance(Duration::from_secs(1))?;
        }
        let fresh = |p: &Process| p.out.iter().any(|out| out.key == (last, 0));
        ensure(self.process.as_ref().is_some_and(fresh), || {
            "a fresh event does not pass".to_owned()
        })?;
        self.drain()?;
        self.stop()?;
        self.start()?;
        self.advance(Duration::from_secs(2))?;
        let left = self.tracked.values().filter(|t| t.now != Status::Over);
        ensure(left.count() == 0, || "something is left".to_owned())?;
        // The segment that grows, two spares, logs with a successor and the reserve.
        let most = 4 * self.options.segment_bytes + 5 * self.options.log_bytes();
        let files = self.disk.files();
        let used = files.iter().filter(|(name, _)| !name.contains('/'));
        let used: usize = used.map(|(_, bytes)| bytes.len()).sum();
        ensure(self.damaged || self.blind.get() || used as u64 <= most, || {
            format!("a drained store takes {used} bytes: {:?}", files.keys())
        })
    }

    fn drain(&mut self) -> Verdict {
        self.attach_all()?;
        for round in 0.. {
            for _ in 0..3 {
                self.advance(Duration::from_secs(10_000))?;
                self.settle_all(Disposition::Delivered)?;
            }
            for connection in 0..CONNECTIONS {
                self.replay(connection, usize::MAX)?;
            }
            let left = |t: &Tracked| t.now != Status::Over;
            if !self.tracked.values().any(left) && self.process.as_ref().is_some_and(idle) {
                return Ok(());
            }
            ensure(round < 50, || {
                let left = self.tracked.iter().find(|(_, t)| left(t));
                format!("it does not drain: {left:?}")
            })?;
        }
        Ok(())
    }
}

/// Nothing waits to be answered or synced.
fn idle(process: &Process) -> bool {
    let log = &process.writer.log;
    process.waiting.is_empty() && !log.has_pending() && !log.has_unsynced()
}

impl Posted {
    fn first_status(&self) -> Status {
        match self.due {
            Some(due) => Status::Later { due, attempts: 0, lane: Lane::New },
            None => Status::Waiting,
        }
    }
}

impl Tracked {
    fn new(now: Status) -> Tracked {
        Tracked { now, possible: vec![now], out: false, released: false }
    }

    fn become_(&mut self, status: Status) {
        self.now = status;
        self.possible.push(status);
    }
}

fn settlement(delivery: &Delivery, disposition: Disposition, age: Age) -> Settlement {
    Settlement {
        id: delivery.id,
        size: delivery.size,
        disposition,
        attempts: delivery.attempts + 1,
        first_attempt: delivery.first_attempt.unwrap_or(age),
    }
}
