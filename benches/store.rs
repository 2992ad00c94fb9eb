//! The store alone, on a real directory: how fast events become durable, and how fast they go out again and are settled,
//! for each number of producers, size of body and fan-out.
//!
//! `cargo bench --bench store` prints one table. `-- --dir PATH` measures another disk, `-- --quick` a part of the table for
//! a moment each. It fails when an event is lost, altered or out of order, or when nothing went through; never because of
//! a time. CPU is that of the whole process: the store's two threads, and the producers and the consumer here.
//!
//! Appends: every producer waits for its event to be durable before it posts the next one, and nothing is handed out.
//! Drain: then all of it is handed out, loaded and settled as delivered, until the store has noted the last one.
#![expect(clippy::print_stdout, reason = "a table on stdout is what it is for")]

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use posthaste::clock::Clock;
use posthaste::event::{ContentBuilder, Disposition, Event, EventId};
use posthaste::metrics::Metrics;
use posthaste::store::feed::{Delivery, Feed, FeedItem, Settlement};
use posthaste::store::intake::{AckLane, AppendError, Fate, Intake, Route};
use posthaste::store::keys::KeyLimits;
use posthaste::store::queue::QueueCounters;
use posthaste::store::{ConnectionId, Keep, Limit, Opened, Options, ShelfLimits, Store};
use rustix::time::ClockId;
use tokio::task::LocalSet;

#[path = "support/figures.rs"]
mod figures;

use figures::{fdatasync_ms, nanoseconds, now_ns};

/// Each append phase ends after so many bytes of bodies, so that a fast disk is not filled.
const BODIES_BYTES: u64 = 256 << 20;
/// A drain that stands still for so long has lost something.
const STALLED: Duration = Duration::from_secs(10);

/// One line of the table.
#[derive(Clone, Copy)]
struct Case {
    producers: usize,
    fan_out: usize,
    body_bytes: usize,
}

struct Settings {
    place: PathBuf,
    length: Duration,
    cases: Vec<Case>,
}

/// What one case came to.
struct Figures {
    sync_ms: (f64, f64),
    appended_per_s: f64,
    commits_per_s: f64,
    append_cpu_us: f64,
    amplification: f64,
    drained_per_s: f64,
    drain_cpu_us: f64,
}

fn main() -> anyhow::Result<()> {
    let settings = settings()?;
    println!(
        "{}, {:.1} s of appends each",
        settings.place.display(),
        settings.length.as_secs_f64()
    );
    println!(
        "{:>9} {:>7} {:>7} | {:>9} {:>9} {:>8} {:>9} | {:>9} {:>8} | {:>13}",
        "producers",
        "fan-out",
        "body B",
        "appends/s",
        "commits/s",
        "CPU us",
        "B/payload B",
        "drain/s",
        "CPU us",
        "fdatasync ms"
    );
    for case in &settings.cases {
        let figures =
            measure(&settings, *case).with_context(|| format!("{} producers", case.producers))?;
        print_line(case, &figures);
    }
    Ok(())
}

fn print_line(case: &Case, figures: &Figures) {
    println!(
        "{:>9} {:>7} {:>7} | {:>9.0} {:>9.0} {:>8.1} {:>11.3} | {:>9.0} {:>8.1} | {:>6.2} {:>6.2}",
        case.producers,
        case.fan_out,
        case.body_bytes,
        figures.appended_per_s,
        figures.commits_per_s,
        figures.append_cpu_us,
        figures.amplification,
        figures.drained_per_s,
        figures.drain_cpu_us,
        figures.sync_ms.0,
        figures.sync_ms.1,
    );
}

fn settings() -> anyhow::Result<Settings> {
    let mut place = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (mut bench, mut quick) = (false, false);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            // `cargo bench` says so; `cargo test --benches` does not, and gets the quick run.
            "--bench" => bench = true,
            "--quick" => quick = true,
            "--dir" => place = words.next().context("--dir takes a path")?.into(),
            other => bail!("unknown argument {other}; known are --quick and --dir PATH"),
        }
    }
    std::fs::create_dir_all(&place)?;
    if !bench || quick {
        let case = |producers, fan_out, body_bytes| Case { producers, fan_out, body_bytes };
        let cases = vec![case(1, 1, 200), case(64, 8, 1024), case(1024, 1, 16 << 10)];
        return Ok(Settings { place, length: Duration::from_millis(500), cases });
    }
    let mut cases = Vec::new();
    for body_bytes in [200, 1024, 16 << 10] {
        for fan_out in [1, 8] {
            for producers in [1, 64, 1024] {
                cases.push(Case { producers, fan_out, body_bytes });
            }
        }
    }
    Ok(Settings { place, length: Duration::from_secs(2), cases })
}

fn measure(settings: &Settings, case: Case) -> anyhow::Result<Figures> {
    let sync_ms = fdatasync_ms(&settings.place, 100)?;
    let directory = tempfile::Builder::new().prefix("store-").tempdir_in(&settings.place)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    LocalSet::new().block_on(&runtime, async {
        let mut bench = Bench::open(directory.path(), case).await?;
        let appended = bench.append(settings.length).await?;
        let drained = bench.drain(appended.count).await?;
        let payload = (appended.count * case.body_bytes as u64) as f64;
        let written = bench.metric("posthaste_store_written_bytes_total")?;
        let figures = Figures {
            sync_ms,
            appended_per_s: appended.per_second(),
            commits_per_s: appended.commits / appended.seconds,
            append_cpu_us: appended.cpu_us / appended.count as f64,
            amplification: written / payload,
            drained_per_s: drained.per_second(),
            drain_cpu_us: drained.cpu_us / drained.count as f64,
        };
        bench.store.close().await;
        Ok(figures)
    })
}

/// What a phase took.
struct Phase {
    count: u64,
    seconds: f64,
    cpu_us: f64,
    commits: f64,
}

impl Phase {
    fn per_second(&self) -> f64 {
        self.count as f64 / self.seconds
    }
}

/// Wall and CPU clocks at the start of a phase.
struct Watch {
    wall_ns: u64,
    cpu_ns: u64,
}

impl Watch {
    fn start() -> Watch {
        Watch { wall_ns: now_ns(), cpu_ns: nanoseconds(ClockId::ProcessCPUTime) }
    }

    fn stop(&self, count: u64) -> Phase {
        let cpu_ns = nanoseconds(ClockId::ProcessCPUTime) - self.cpu_ns;
        let seconds = (now_ns() - self.wall_ns).max(1) as f64 / 1e9;
        Phase { count, seconds, cpu_us: cpu_ns as f64 / 1e3, commits: 0.0 }
    }
}

type Connection = (ConnectionId, Arc<QueueCounters>);

/// An open store and its ends.
struct Bench {
    case: Case,
    store: Store,
    intake: Intake,
    lane: Arc<AckLane>,
    feed: Feed,
    metrics: Metrics,
    connections: Vec<Connection>,
    clock: Clock,
}

impl Bench {
    async fn open(directory: &Path, case: Case) -> anyhow::Result<Bench> {
        let (clock, metrics) = (Clock::system(), Metrics::new());
        let keys = KeyLimits { window: Duration::from_secs(3600), max_keys: 1000 };
        let nothing = Limit { age: Duration::ZERO, bytes: 1 << 20 };
        let options = Options {
            segment_bytes: 64 << 20,
            max_bytes: 16 << 30,
            hot_bytes: 8 << 20,
            lanes: 1,
            feeds: 1,
            keys,
            shelf: ShelfLimits::default(),
            keep: Keep { delivered: nothing, dead: nothing, attempts: nothing },
            seed: 7,
        };
        let Opened { store, mut intakes, mut feeds, .. } =
            Store::open(directory, options, clock.clone(), &metrics)?;
        let (intake, lane) = intakes.pop().context("a way in")?;
        let feed = feeds.pop().context("a way out")?;
        let mut connections = Vec::new();
        for number in 0..case.fan_out {
            connections.push(store.register(&format!("c{number}")).await?);
        }
        Ok(Bench { case, store, intake, lane, feed, metrics, connections, clock })
    }

    /// A counter of the store's, by its own count.
    fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let text = self.metrics.render();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.with_context(|| format!("no metric {name}"))?.trim().parse()?)
    }

    /// All producers append until the time is over.
    async fn append(&mut self, length: Duration) -> anyhow::Result<Phase> {
        let lane = Arc::clone(&self.lane);
        let answers = tokio::task::spawn_local(async move { lane.run().await });
        let watch = Watch::start();
        let next = Rc::new(Cell::new(0));
        let until = (watch.wall_ns + u64::try_from(length.as_nanos())?, self.events_at_most());
        let producers: Vec<_> = (0..self.case.producers)
            .map(|_| {
                let producer = Producer {
                    intake: self.intake.clone(),
                    connections: self.connections.clone(),
                    body_bytes: self.case.body_bytes,
                    clock: self.clock.clone(),
                    next: Rc::clone(&next),
                };
                tokio::task::spawn_local(producer.run(until))
            })
            .collect();
        let mut count = 0;
        for producer in producers {
            count += producer.await??;
        }
        let mut phase = watch.stop(count);
        answers.abort();
        phase.commits = self.metric("posthaste_store_sync_duration_seconds_count")?;
        ensure!(count > 0 && phase.commits > 0.0, "nothing was appended");
        ensure!(count == next.get(), "{} appends were refused", next.get() - count);
        Ok(phase)
    }

    fn events_at_most(&self) -> u64 {
        BODIES_BYTES / self.case.body_bytes as u64
    }

    /// Delivers all of it, and checks what came.
    async fn drain(&mut self, events: u64) -> anyhow::Result<Phase> {
        let watch = Watch::start();
        for (id, _) in &self.connections {
            self.store.attach(*id, 0);
        }
        let goal = events * self.case.fan_out as u64;
        let mut seen = Seen::new(events, self.case);
        let mut items = Vec::new();
        while seen.count < goal {
            let next = tokio::time::timeout(STALLED, self.feed.next(&mut items)).await;
            ensure!(next.is_ok(), "{} of {goal} deliveries never came", goal - seen.count);
            self.take(&mut items, &mut seen)?;
        }
        self.wait_for_settlements().await?;
        let phase = watch.stop(seen.count);
        Ok(phase)
    }

    /// The store looks for settlements at each of its turns; then nothing is live any more.
    async fn wait_for_settlements(&self) -> anyhow::Result<()> {
        let live = || self.connections.iter().map(|(_, queue)| queue.live.load(Ordering::Relaxed));
        let begun = now_ns();
        while live().sum::<u64>() > 0 {
            let patience = u64::try_from(STALLED.as_nanos())?;
            ensure!(now_ns() - begun < patience, "{} deliveries do not end", live().sum::<u64>());
            self.store.nudge();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// Takes what came, asks for payloads that are not in memory, and delivers in order what is there.
    fn take(&self, items: &mut Vec<FeedItem>, seen: &mut Seen) -> anyhow::Result<()> {
        let mut cold: HashMap<ConnectionId, Vec<Delivery>> = HashMap::new();
        for item in items.drain(..) {
            match item {
                FeedItem::Due(delivery) => {
                    let hot = delivery.hot.upgrade();
                    if hot.is_none() {
                        cold.entry(delivery.connection()).or_default().push(delivery.clone());
                    }
                    seen.queue(delivery.connection()).push_back((delivery, hot));
                }
                FeedItem::Loaded(delivery, event) => {
                    let queue = seen.queue(delivery.connection());
                    let place = queue.iter_mut().find(|(waiting, _)| waiting.id == delivery.id);
                    let (_, place) = place.context("loaded, and was not due")?;
                    *place = Some(event.context("a record cannot be read")?);
                }
                // Nobody asks for an order here.
                FeedItem::Fresh(..) | FeedItem::Shown(_) => {}
            }
        }
        for deliveries in cold.into_values() {
            self.feed.load(deliveries);
        }
        for (connection, _) in &self.connections {
            while let Some((delivery, event)) = seen.queue(*connection).pop_front() {
                let Some(event) = event else {
                    seen.queue(*connection).push_front((delivery, None));
                    break;
                };
                self.deliver(&delivery, &event, seen)?;
            }
        }
        Ok(())
    }

    fn deliver(&self, delivery: &Delivery, event: &Event, seen: &mut Seen) -> anyhow::Result<()> {
        seen.note(delivery.connection(), event)?;
        let age = self.clock.age();
        self.feed.settle(Settlement {
            id: delivery.id,
            size: delivery.size,
            disposition: Disposition::Delivered,
            attempts: 1,
            first_attempt: age,
        });
        Ok(())
    }
}

/// Appends one event after the other.
struct Producer {
    intake: Intake,
    connections: Vec<Connection>,
    body_bytes: usize,
    clock: Clock,
    /// The next event's number, shared by all producers.
    next: Rc<Cell<u64>>,
}

impl Producer {
    /// Returns how many were stored before the time, or the number of events, was reached.
    async fn run(self, (end_ns, events): (u64, u64)) -> anyhow::Result<u64> {
        let mut rng = fastrand::Rng::with_seed(self.next.get());
        let mut stored = 0;
        while now_ns() < end_ns && self.next.get() < events {
            let number = self.next.get();
            self.next.set(number + 1);
            let event = Arc::new(self.event(number, &mut rng)?);
            loop {
                match self.intake.append(Arc::clone(&event), self.routes(&event)).await {
                    Ok(()) => break,
                    // More producers than may wait: the next one has room.
                    Err(AppendError::Busy) => tokio::task::yield_now().await,
                    Err(error) => return Err(error.into()),
                }
            }
            stored += 1;
        }
        Ok(stored)
    }

    fn event(&self, number: u64, rng: &mut fastrand::Rng) -> anyhow::Result<Event> {
        let mut content = ContentBuilder::new("default", "", "", self.body_bytes);
        let number = number.to_le_bytes();
        content.body(&number);
        content.body(&vec![b'x'; self.body_bytes.checked_sub(8).context("a body has a number")?]);
        let id = EventId::new(self.clock.wall_ms(), rng);
        let (accepted_ms, accepted_age) = (id.unix_ms(), self.clock.age());
        Ok(Event { id, accepted_ms, accepted_age, content: content.finish() })
    }

    fn routes(&self, event: &Event) -> Vec<Route> {
        let bytes = event.content.as_bytes().len() as u64;
        let routes = self.connections.iter().map(|(connection, queue)| {
            queue.try_reserve(bytes, u64::MAX, u64::MAX);
            Route {
                connection: *connection,
                queue: Arc::clone(queue),
                fate: Fate::Queued,
                delay: Duration::ZERO,
            }
        });
        routes.collect()
    }
}

/// What was handed out to a connection, with the event once it is in memory.
type Queue = VecDeque<(Delivery, Option<Arc<Event>>)>;

/// What was delivered: each event once to each connection; with one producer, in order.
struct Seen {
    queues: HashMap<ConnectionId, Queue>,
    came: HashMap<ConnectionId, Vec<bool>>,
    last: HashMap<ConnectionId, u64>,
    events: usize,
    case: Case,
    count: u64,
}

impl Seen {
    fn new(events: u64, case: Case) -> Seen {
        let events = usize::try_from(events).unwrap_or(usize::MAX);
        let (queues, came, last) = (HashMap::new(), HashMap::new(), HashMap::new());
        Seen { queues, came, last, events, case, count: 0 }
    }

    fn queue(&mut self, id: ConnectionId) -> &mut Queue {
        self.queues.entry(id).or_default()
    }

    fn note(&mut self, connection: ConnectionId, event: &Event) -> anyhow::Result<()> {
        let body = event.content.body();
        ensure!(body.len() == self.case.body_bytes, "a body is {} bytes", body.len());
        let number = u64::from_le_bytes(*body.first_chunk().context("a body without a number")?);
        let came = self.came.entry(connection).or_insert_with(|| vec![false; self.events]);
        let place =
            came.get_mut(usize::try_from(number)?).context("a number that was not given")?;
        ensure!(!std::mem::replace(place, true), "event {number} came twice");
        let last = self.last.insert(connection, number);
        let in_order = self.case.producers > 1 || last.is_none_or(|last| last < number);
        ensure!(in_order, "event {number} came out of order");
        self.count += 1;
        Ok(())
    }
}
