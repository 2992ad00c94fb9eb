//! The store as a whole, driven by hand on a real directory: no threads, a clock that is moved.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::disk::OsDisk;
use super::feed::{Delivery, FeedItem, Lane, Settlement};
use super::intake::{AppendError, Fate, Route};
use super::writer::Writer;
use super::*;
use crate::event::{Cause, ContentBuilder, Disposition, Event, EventId};

mod batches;
mod clock;
mod compaction;
mod damage;
mod defects;
mod delay;
mod expiry;
mod index;
mod kept;
mod keys;
mod known;
mod model;
pub(crate) mod model_disk;
mod order;
mod recent;
mod relaxed;
mod renaming;
mod single;
mod suspensions;
mod sweep;
mod waits;
mod whereabouts;
mod world;

/// A store without threads.
struct Rig {
    clock: Clock,
    writer: Writer,
    ends: RigEnds,
    rng: fastrand::Rng,
    runtime: tokio::runtime::Runtime,
}

struct RigEnds {
    commands: Sender<Command>,
    intakes: Vec<(Intake, Arc<AckLane>)>,
    feeds: Vec<Feed>,
    keys: Keys,
    corrupt: u64,
}

const MIB: u64 = 1 << 20;

const KEY_LIMITS: KeyLimits = KeyLimits { window: Duration::from_secs(3600), max_keys: 1000 };

/// Nothing is kept of what was delivered.
const KEEP: Keep = {
    let some = Limit { age: Duration::from_secs(14 * 86_400), bytes: MIB };
    Keep { delivered: Limit { age: Duration::ZERO, bytes: MIB }, dead: some, attempts: some }
};

fn options(seed: u64) -> Options {
    Options {
        segment_bytes: MIB,
        max_bytes: 64 * MIB,
        hot_bytes: 64 << 10,
        lanes: 1,
        feeds: 1,
        keys: KEY_LIMITS,
        shelf: ShelfLimits { items: 4, block_items: 2 },
        keep: KEEP,
        seed,
    }
}

impl Rig {
    fn open(directory: &Path, clock: &Clock) -> Rig {
        Rig::open_with(directory, clock, options(fastrand::u64(..)))
    }

    fn open_with(directory: &Path, clock: &Clock, options: Options) -> Rig {
        let disk = OsDisk::open(directory).unwrap();
        Rig::open_on(Arc::new(disk), clock, options)
    }

    fn open_on(disk: Arc<dyn Disk>, clock: &Clock, options: Options) -> Rig {
        let ends = Ends::new(disk, options, clock.clone(), &Metrics::new()).unwrap();
        let Ends { writer, commands, intakes, feeds, keys, corrupt, .. } = ends;
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let ends = RigEnds { commands, intakes, feeds, keys, corrupt };
        Rig { clock: clock.clone(), writer, ends, rng: fastrand::Rng::with_seed(7), runtime }
    }

    fn ask<T>(&mut self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> T {
        let (reply, mut answer) = oneshot::channel();
        self.ends.commands.send(command(reply)).unwrap();
        self.writer.turn();
        answer.try_recv().unwrap()
    }

    /// Registers a connection and hands its deliveries out.
    fn connection(&mut self, name: &str) -> (ConnectionId, Arc<QueueCounters>) {
        let name = name.to_owned();
        let (id, counters) = self.ask(|reply| Command::Register { name, reply });
        self.ends.commands.send(Command::Attach { connection: id, feed: 0 }).unwrap();
        (id, counters)
    }

    /// Appends an event to all of these, and commits it.
    fn append(
        &mut self,
        body: &[u8],
        to: &[(ConnectionId, Arc<QueueCounters>)],
    ) -> Result<EventId, AppendError> {
        self.append_with(body, to, Fate::Queued)
    }

    fn append_with(
        &mut self,
        body: &[u8],
        to: &[(ConnectionId, Arc<QueueCounters>)],
        fate: Fate,
    ) -> Result<EventId, AppendError> {
        self.append_delayed(body, to, fate, Duration::ZERO)
    }

    fn append_delayed(
        &mut self,
        body: &[u8],
        to: &[(ConnectionId, Arc<QueueCounters>)],
        fate: Fate,
        delay: Duration,
    ) -> Result<EventId, AppendError> {
        let mut content = ContentBuilder::new("default", "", "", body.len());
        content.body(body);
        let id = EventId::new(self.clock.wall_ms(), &mut self.rng);
        let content = content.finish();
        let routes = to.iter().map(|(id, queue)| {
            if fate == Fate::Queued {
                assert!(queue.try_reserve(content.as_bytes().len() as u64, u64::MAX, u64::MAX));
            }
            Route { connection: *id, queue: Arc::clone(queue), fate, delay }
        });
        let routes = routes.collect();
        let event =
            Event { id, accepted_ms: id.unix_ms(), accepted_age: self.clock.age(), content };
        let (intake, lane) = self.ends.intakes[0].clone();
        let writer = &mut self.writer;
        self.runtime.block_on(async {
            let append = intake.append(Arc::new(event), routes);
            tokio::pin!(append);
            // The first poll puts it into the queue, the turn commits it, the lane hands the answer out.
            assert!(futures_poll(append.as_mut()).await.is_none());
            writer.turn();
            tokio::select! {
                biased;
                () = lane.run() => unreachable!("it runs for ever"),
                answer = append => answer.map(|()| id),
            }
        })
    }

    /// Takes all that the store sends.
    fn items(&mut self) -> Vec<FeedItem> {
        self.writer.turn();
        let mut items = Vec::new();
        let feed = &self.ends.feeds[0];
        self.runtime.block_on(async {
            tokio::select! { biased; () = feed.next(&mut items) => {}, () = std::future::ready(()) => {} }
        });
        items
    }

    /// Takes what is handed out.
    fn due(&mut self) -> Vec<Delivery> {
        let items = self.items();
        let due = items.into_iter().map(|item| match item {
            FeedItem::Due(delivery) => delivery,
            other => panic!("nothing was asked for: {other:?}"),
        });
        due.collect()
    }

    fn load(&self, delivery: &Delivery) -> Event {
        self.writer.files.load(delivery.id, delivery.size).unwrap()
    }

    fn settle(&mut self, delivery: &Delivery, disposition: Disposition) {
        self.ends.feeds[0].settle(Settlement {
            id: delivery.id,
            size: delivery.size,
            disposition,
            attempts: delivery.attempts + 1,
            first_attempt: delivery.first_attempt.unwrap_or(self.clock.age()),
        });
    }

    /// Delivers all that is handed out, until nothing comes; the bodies, in order.
    fn deliver_all(&mut self) -> Vec<Vec<u8>> {
        let mut bodies = Vec::new();
        loop {
            let due = self.due();
            if due.is_empty() {
                return bodies;
            }
            for delivery in due {
                bodies.push(self.load(&delivery).content.body().to_vec());
                self.settle(&delivery, Disposition::Delivered);
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        self.clock.advance(time);
        self.writer.turn();
    }

    fn stop(mut self) {
        self.ask(|reply| Command::Stop { reply });
    }

    fn dead(&mut self, connection: ConnectionId) -> DeadPage {
        self.ask(|reply| Command::Dead { connection, after: None, limit: 1000, reply })
    }
}

/// One poll of a future: `None` while it is pending.
async fn futures_poll<T>(mut future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        std::task::Poll::Ready(value) => std::task::Poll::Ready(Some(value)),
        std::task::Poll::Pending => std::task::Poll::Ready(None),
    })
    .await
}

fn bodies(count: usize) -> Vec<Vec<u8>> {
    (0..count)
        .map(|index| format!("event {index} {}", "x".repeat(index % 700)).into_bytes())
        .collect()
}

fn start() -> (tempfile::TempDir, Clock) {
    (tempfile::tempdir().unwrap(), Clock::manual(1_700_000_000_000))
}

#[test]
fn what_was_acknowledged_is_delivered_in_order_after_a_crash() {
    let (directory, clock) = start();
    let bodies = bodies(3000);
    let mut rig = Rig::open(directory.path(), &clock);
    let (id, queue) = rig.connection("crm");
    for body in &bodies {
        rig.append(body, &[(id, queue.clone())]).unwrap();
    }
    drop(rig);
    let mut rig = Rig::open(directory.path(), &clock);
    assert_eq!(rig.ends.corrupt, 0);
    let (_, queue) = rig.connection("crm");
    assert_eq!(queue.live.load(Ordering::Relaxed), 3000);
    assert_eq!(rig.deliver_all(), bodies);
    assert_eq!(
        (queue.live.load(Ordering::Relaxed), queue.live_bytes.load(Ordering::Relaxed)),
        (0, 0)
    );
}

/// After a start the waiting ones have gaps between them, where others were delivered out of order.
#[test]
fn deliveries_settled_out_of_order_hide_none_of_the_others() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    let crm = rig.connection("crm");
    for body in bodies(2 * WINDOW_NEW) {
        rig.append(&body, std::slice::from_ref(&crm)).unwrap();
    }
    for delivery in rig.due() {
        if delivery.id.slot % 3 != 0 {
            rig.settle(&delivery, Disposition::Delivered);
        }
    }
    rig.pass(Duration::from_secs(2));
    drop(rig);
    let mut rig = Rig::open(directory.path(), &clock);
    rig.connection("crm");
    let delivered = |slot: &usize| *slot < WINDOW_NEW && !slot.is_multiple_of(3);
    let all = bodies(2 * WINDOW_NEW).into_iter().enumerate();
    let left: Vec<_> = all.filter(|(slot, _)| !delivered(slot)).map(|(_, body)| body).collect();
    assert_eq!(rig.deliver_all(), left);
}

#[test]
fn a_window_bounds_what_is_handed_out() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    let crm = rig.connection("crm");
    for body in bodies(1000) {
        rig.append(&body, std::slice::from_ref(&crm)).unwrap();
    }
    let first = rig.due();
    assert_eq!(first.len(), WINDOW_NEW);
    assert_eq!(rig.due().len(), 0);
    for delivery in &first {
        rig.settle(delivery, Disposition::Delivered);
    }
    assert_eq!(rig.due().len(), WINDOW_NEW);
}

#[test]
fn drained_segments_are_given_back_and_used_again() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    let crm = rig.connection("crm");
    for round in 0..4 {
        for body in bodies(4000) {
            rig.append(&body, std::slice::from_ref(&crm)).unwrap();
        }
        assert_eq!(rig.deliver_all().len(), 4000, "round {round}");
        rig.pass(Duration::from_secs(2));
        let status = rig.ask(|reply| Command::Status { reply });
        assert!(status.segments <= 2, "round {round}: {status:?}");
    }
    let files = std::fs::read_dir(directory.path()).unwrap().count();
    assert!(files < 12, "{files} files are left");
}

#[test]
fn retries_come_when_due_also_after_a_crash() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    let crm = rig.connection("crm");
    rig.append(b"a", &[crm]).unwrap();
    let due = rig.due();
    rig.settle(&due[0], Disposition::RetryAfter(Duration::from_secs(60)));
    rig.pass(Duration::from_millis(25));
    drop(rig);
    clock.advance(Duration::from_secs(30));
    // A step of the wall clock changes nothing.
    clock.step_wall(0);
    let mut rig = Rig::open(directory.path(), &clock);
    rig.connection("crm");
    assert_eq!(rig.due().len(), 0, "too early");
    rig.pass(Duration::from_secs(29));
    assert_eq!(rig.due().len(), 0, "too early");
    rig.pass(Duration::from_secs(2));
    let due = rig.due();
    assert_eq!(due.len(), 1);
    assert_eq!((due[0].lane, due[0].attempts), (Lane::Retry, 1));
    assert_eq!(rig.load(&due[0]).content.body(), "a");
}

/// A retry and its delivery are marked in one record: it is the delivery that counts.
#[test]
fn what_was_delivered_right_after_a_retry_does_not_come_again() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    let crm = rig.connection("crm");
    rig.append(b"a", std::slice::from_ref(&crm)).unwrap();
    rig.append(b"b", &[crm]).unwrap();
    let first = rig.due();
    // Marks are written now, and so not again for 20 ms.
    rig.settle(&first[1], Disposition::Delivered);
    rig.pass(Duration::from_millis(25));
    assert!(!rig.writer.log.has_pending());
    rig.settle(&first[0], Disposition::RetryAfter(Duration::ZERO));
    let second = rig.due();
    assert_eq!((second.len(), rig.writer.log.has_unsynced()), (1, true));
    assert!(rig.writer.log.has_pending(), "the retry's mark waits to be written");
    rig.settle(&second[0], Disposition::Delivered);
    rig.pass(Duration::from_secs(2));
    assert!(!rig.writer.log.has_pending());
    drop(rig);
    let mut rig = Rig::open(directory.path(), &clock);
    let (_, queue) = rig.connection("crm");
    rig.pass(Duration::from_secs(1));
    assert_eq!((rig.due().len(), queue.live.load(Ordering::Relaxed)), (0, 0));
}

#[test]
fn a_dead_letter_survives_a_crash_and_can_be_replayed() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    let (id, queue) = rig.connection("crm");
    rig.append(b"a", &[(id, queue.clone())]).unwrap();
    let due = rig.due();
    rig.settle(&due[0], Disposition::Dead { cause: Cause::HttpStatus, status: 400 });
    rig.append_with(b"b", &[(id, queue.clone())], Fate::Dead(Cause::QueueFull)).unwrap();
    rig.pass(Duration::from_millis(25));
    assert_eq!(queue.live.load(Ordering::Relaxed), 0);
    drop(rig);

    let mut rig = Rig::open(directory.path(), &clock);
    let (id, queue) = rig.connection("crm");
    assert_eq!(rig.due().len(), 0);
    let page = rig.dead(id);
    let causes: Vec<_> = page.letters.iter().map(|dead| (dead.cause, dead.status)).collect();
    assert_eq!(causes, [(Cause::HttpStatus, 400), (Cause::QueueFull, 0)]);
    let letters = page.letters.clone();
    let answer = rig.ask(|reply| Command::Replay { letters, reply });
    assert_eq!((answer.0.len(), answer.1), (2, Ok(())));
    assert_eq!(rig.dead(id).total, 0);
    assert_eq!(queue.live.load(Ordering::Relaxed), 2);
    drop(rig);

    let mut rig = Rig::open(directory.path(), &clock);
    rig.connection("crm");
    let due = rig.due();
    assert_eq!(due.len(), 2, "a replay is durable when it is answered");
    assert!(due.iter().all(|delivery| delivery.lane == Lane::Replay && delivery.attempts == 0));
    for delivery in &due {
        rig.settle(delivery, Disposition::Delivered);
    }
    rig.writer.turn();
    assert_eq!(queue.live.load(Ordering::Relaxed), 2, "counters of the store before");
    assert_eq!(rig.writer.state.streams[0].counters.live.load(Ordering::Relaxed), 0);
}

#[test]
fn fan_out_is_stored_once_and_each_connection_has_its_own_delivery() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    let all: Vec<_> = (0..8).map(|index| rig.connection(&format!("c{index}"))).collect();
    for body in bodies(100) {
        rig.append(&body, &all).unwrap();
    }
    let mut by_connection: BTreeMap<ConnectionId, usize> = BTreeMap::new();
    for delivery in rig.due() {
        *by_connection.entry(delivery.connection()).or_default() += 1;
        if delivery.connection() != all[3].0 {
            rig.settle(&delivery, Disposition::Delivered);
        }
    }
    assert_eq!(by_connection.values().copied().collect::<Vec<_>>(), [100; 8]);
    rig.stop();
    let mut rig = Rig::open(directory.path(), &clock);
    let all: Vec<_> = (0..8).map(|index| rig.connection(&format!("c{index}"))).collect();
    let due = rig.due();
    assert_eq!(due.len(), 100, "only the one that had not delivered");
    assert!(due.iter().all(|delivery| delivery.connection() == all[3].0));
}

#[test]
fn a_removed_connection_is_held_and_comes_back() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    let (id, queue) = rig.connection("crm");
    let expected = bodies(10);
    for body in &expected {
        rig.append(body, &[(id, queue.clone())]).unwrap();
    }
    let due = rig.due();
    rig.ends.commands.send(Command::Detach { connection: id }).unwrap();
    rig.settle(&due[0], Disposition::RetryAfter(Duration::from_millis(1)));
    for delivery in due.into_iter().skip(1) {
        rig.ends.feeds[0].release(delivery);
    }
    rig.writer.turn();
    rig.pass(Duration::from_secs(1));
    assert_eq!(rig.due().len(), 0);
    rig.ends.commands.send(Command::Attach { connection: id, feed: 0 }).unwrap();
    let due = rig.due();
    assert_eq!(due.len(), 10);
    let lanes = due.iter().filter(|delivery| delivery.lane == Lane::New).count();
    assert_eq!(lanes, 9);
}

#[test]
fn discarding_ends_everything_for_good() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    let (id, queue) = rig.connection("crm");
    for body in bodies(500) {
        rig.append(&body, &[(id, queue.clone())]).unwrap();
    }
    let due = rig.due();
    rig.settle(&due[0], Disposition::RetryAfter(Duration::from_secs(9)));
    rig.settle(&due[1], Disposition::Dead { cause: Cause::Gone, status: 410 });
    rig.writer.turn();
    assert_eq!(rig.ask(|reply| Command::Discard { connection: id, reply }), (499, Ok(())));
    assert_eq!(
        (queue.live.load(Ordering::Relaxed), queue.live_bytes.load(Ordering::Relaxed)),
        (0, 0)
    );
    rig.settle(&due[2], Disposition::RetryAfter(Duration::from_secs(9)));
    rig.append(b"later", &[(id, queue.clone())]).unwrap();
    rig.pass(Duration::from_secs(20));
    drop(rig);
    let mut rig = Rig::open(directory.path(), &clock);
    let (id, _) = rig.connection("crm");
    let due = rig.due();
    assert_eq!(due.len(), 1);
    assert_eq!(rig.load(&due[0]).content.body(), "later");
    assert_eq!(rig.dead(id).total, 1, "dead letters are not cancelled");
}

#[test]
fn a_full_store_refuses_and_takes_events_again_after_a_drain() {
    let (directory, clock) = start();
    let mut rig =
        Rig::open_with(directory.path(), &clock, Options { max_bytes: 4 * MIB, ..options(1) });
    let crm = rig.connection("crm");
    let mut accepted = 0;
    let error = loop {
        match rig.append(&[7; 1000], std::slice::from_ref(&crm)) {
            Ok(_) => accepted += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error, AppendError::Full);
    assert!(accepted > 1000, "{accepted}");
    assert_eq!(crm.1.live.load(Ordering::Relaxed), accepted, "a refusal leaves no trace");
    assert_eq!(rig.deliver_all().len() as u64, accepted);
    rig.pass(Duration::from_secs(2));
    rig.pass(Duration::from_secs(2));
    rig.append(b"again", &[crm]).unwrap();
    assert_eq!(rig.deliver_all(), [b"again"]);
}

/// More waits than a segment holds: it takes several commits, and nothing is refused.
#[test]
fn a_burst_larger_than_a_segment_is_taken() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    let (id, queue) = rig.connection("crm");
    let (intake, lane) = rig.ends.intakes[0].clone();
    let Rig { runtime, writer, rng, .. } = &mut rig;
    let answers = runtime.block_on(async {
        let posts = (0..30).map(|_| {
            let mut content = ContentBuilder::new("default", "", "", 0);
            content.body(&[7; 100_000]);
            let id_of_event = EventId::new(clock.wall_ms(), rng);
            let content = content.finish();
            assert!(queue.try_reserve(content.as_bytes().len() as u64, u64::MAX, u64::MAX));
            let event = Event { id: id_of_event, accepted_ms: 0, accepted_age: Age(0), content };
            let route = Route { connection: id, queue: Arc::clone(&queue), fate: Fate::Queued, delay: Duration::ZERO };
            intake.append(Arc::new(event), vec![route])
        });
        let mut posts: Vec<_> = posts.map(Box::pin).collect();
        for post in &mut posts {
            assert!(futures_poll(post.as_mut()).await.is_none());
        }
        for _ in 0..20 {
            writer.turn();
            clock.advance(Duration::from_millis(2));
        }
        let mut answers = Vec::new();
        for post in posts {
            answers.push(tokio::select! { biased; () = lane.run() => unreachable!(), answer = post => answer });
        }
        answers
    });
    assert_eq!(answers, [Ok(()); 30]);
    assert_eq!(rig.deliver_all().len(), 30);
}

/// Lets the store look for segments that are kept for little, until there is nothing more to move.
fn compact(rig: &mut Rig) {
    for _ in 0..100 {
        rig.pass(Duration::from_secs(1));
    }
}

/// Dead letters, retries and first attempts in old segments, few of each among many that are delivered.
#[test]
fn what_is_left_of_old_segments_is_moved_and_they_are_given_back() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    let (busy, held) = (rig.connection("busy"), rig.connection("held"));
    rig.ends.commands.send(Command::Detach { connection: held.0 }).unwrap();
    let all = bodies(12_000);
    let mut expected_held = Vec::new();
    for (index, body) in all.iter().enumerate() {
        rig.append(body, std::slice::from_ref(&busy)).unwrap();
        if index % 500 == 0 {
            rig.append(body, std::slice::from_ref(&held)).unwrap();
            expected_held.push(body.clone());
        }
        for (nth, delivery) in rig.due().into_iter().enumerate() {
            let disposition = match (index % 1000, nth) {
                (7, 0) => Disposition::Dead { cause: Cause::HttpStatus, status: 400 },
                (8, 0) => Disposition::RetryAfter(Duration::from_secs(3600)),
                _ => Disposition::Delivered,
            };
            rig.settle(&delivery, disposition);
        }
    }
    rig.pass(Duration::from_secs(1));
    let before = rig.ask(|reply| Command::Status { reply }).segments;
    compact(&mut rig);
    let after = rig.ask(|reply| Command::Status { reply }).segments;
    assert!(before >= 4 && after <= 2, "{before} segments became {after}");
    let live = (held.1.live.load(Ordering::Relaxed), busy.1.live.load(Ordering::Relaxed));
    assert_eq!(live, (24, 12));

    for restart in 0..2 {
        let letters = rig.dead(busy.0).letters;
        assert_eq!(letters.len(), 12);
        for (nth, letter) in letters.iter().enumerate() {
            let event = rig.writer.files.load(letter.id, letter.size).unwrap();
            assert_eq!(event.content.body(), all[nth * 1000 + 7], "restart {restart}");
        }
        drop(rig);
        rig = Rig::open(directory.path(), &clock);
        assert_eq!(rig.ends.corrupt, 0);
        let (busy, held) = (rig.connection("busy"), rig.connection("held"));
        assert_eq!(busy.1.live.load(Ordering::Relaxed), 12);
        let due = rig.due();
        let came: Vec<_> =
            due.iter().map(|delivery| rig.load(delivery).content.body().to_vec()).collect();
        assert_eq!(came, expected_held, "in order of acceptance");
        assert!(due.iter().all(|delivery| delivery.connection() == held.0));
        let bytes: u64 = due.iter().map(|delivery| u64::from(delivery.size)).sum();
        assert_eq!(held.1.live_bytes.load(Ordering::Relaxed), bytes);
    }
    rig.pass(Duration::from_secs(3600));
    let mut retries: Vec<_> =
        rig.due().iter().map(|delivery| rig.load(delivery).content.body().to_vec()).collect();
    retries.sort();
    let mut expected: Vec<_> = (0..12).map(|nth| all[nth * 1000 + 8].clone()).collect();
    expected.sort();
    assert_eq!(retries, expected);
}

/// What waits behind others of its connection is not moved before them.
#[test]
fn moving_keeps_the_order_of_what_waits() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    let (busy, held) = (rig.connection("busy"), rig.connection("held"));
    rig.ends.commands.send(Command::Detach { connection: held.0 }).unwrap();
    let mut expected = Vec::new();
    for index in 0..6000u32 {
        let body = format!("{index} {}", "x".repeat(900)).into_bytes();
        // Many in the first segment, few in the later ones.
        if index < 600 || index % 300 == 0 {
            rig.append(&body, &[busy.clone(), held.clone()]).unwrap();
            expected.push(body);
        } else {
            rig.append(&body, std::slice::from_ref(&busy)).unwrap();
        }
        for delivery in rig.due() {
            rig.settle(&delivery, Disposition::Delivered);
        }
    }
    compact(&mut rig);
    rig.ends.commands.send(Command::Attach { connection: held.0, feed: 0 }).unwrap();
    assert_eq!(rig.deliver_all(), expected);
}

#[test]
fn a_torn_tail_is_cut_and_damage_in_the_middle_costs_one_event() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    let (id, queue) = rig.connection("crm");
    let expected = bodies(50);
    for body in &expected {
        rig.append(body, &[(id, queue.clone())]).unwrap();
    }
    let due = rig.due();
    let hit = u64::from(due[20].id.offset) * 8 + 40;
    let tail = u64::from(due[49].id.offset) * 8 + 30;
    drop(rig);
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(directory.path().join(file::segment_name(FIRST_HOT)))
        .unwrap();
    use std::os::unix::fs::FileExt;
    file.write_all_at(&[0xa5; 4], hit).unwrap();
    file.set_len(tail).unwrap();

    let mut rig = Rig::open(directory.path(), &clock);
    assert_eq!(rig.ends.corrupt, 1, "the torn tail is not damage");
    rig.connection("crm");
    let mut left = expected[..49].to_vec();
    left.remove(20);
    assert_eq!(rig.deliver_all(), left);
    drop(rig);
    let kept = std::fs::read_dir(directory.path().join(QUARANTINE)).unwrap().count();
    assert_eq!(kept, 1, "the damaged bytes are kept");
}

/// Without the nonce in its header nothing of a segment could be read; its index has it too.
#[test]
fn a_damaged_segment_header_costs_nothing_while_there_is_an_index() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    let crm = rig.connection("crm");
    for body in bodies(50) {
        rig.append(&body, std::slice::from_ref(&crm)).unwrap();
    }
    rig.stop();
    use std::os::unix::fs::FileExt;
    let path = directory.path().join(file::segment_name(FIRST_HOT));
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&[0xff; 64], 0).unwrap();
    let mut rig = Rig::open(directory.path(), &clock);
    assert_eq!(rig.ends.corrupt, 1);
    rig.connection("crm");
    assert_eq!(rig.deliver_all(), bodies(50));
}

#[test]
fn an_unknown_version_is_refused() {
    let (directory, clock) = start();
    Rig::open(directory.path(), &clock).stop();
    let snapshot = std::fs::read_dir(directory.path()).unwrap().find_map(|entry| {
        let path = entry.unwrap().path();
        path.extension().is_some_and(|extension| extension == "snap").then_some(path)
    });
    let path = snapshot.unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8] = 99;
    let crc = crc32c::crc32c(&bytes[..60]).to_le_bytes();
    bytes[60..64].copy_from_slice(&crc);
    std::fs::write(&path, bytes).unwrap();
    let disk = Arc::new(OsDisk::open(directory.path()).unwrap());
    let refused = Ends::new(disk, options(1), clock, &Metrics::new());
    assert!(matches!(refused.err(), Some(OpenError::UnknownVersion { version: 99, .. })));
}

#[test]
fn a_second_process_is_kept_out() {
    let directory = tempfile::tempdir().unwrap();
    let first =
        Store::open(directory.path(), options(1), Clock::system(), &Metrics::new()).unwrap();
    let second = Store::open(directory.path(), options(2), Clock::system(), &Metrics::new());
    assert!(matches!(second.err(), Some(OpenError::Locked)));
    drop(first);
}

#[test]
fn many_marks_make_a_snapshot_and_old_logs_go() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    let crm = rig.connection("crm");
    rig.append(b"a", &[crm]).unwrap();
    let mut due = rig.due();
    for _ in 0..15_000 {
        rig.settle(&due[0], Disposition::RetryAfter(Duration::ZERO));
        rig.clock.advance(Duration::from_millis(20));
        due = rig.due();
        assert_eq!(due.len(), 1);
    }
    assert!(rig.writer.log_number > 2, "log {}", rig.writer.log_number);
    let logs = std::fs::read_dir(directory.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().ends_with(".log"));
    assert_eq!(logs.count(), 1);
    drop(rig);
    let mut rig = Rig::open(directory.path(), &clock);
    rig.connection("crm");
    rig.pass(Duration::from_secs(1));
    let due = rig.due();
    assert!(due[0].attempts >= 14_999, "{} attempts", due[0].attempts);
}

#[test]
fn threads_run_append_and_stop() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let opened =
            Store::open(directory.path(), options(3), Clock::system(), &Metrics::new()).unwrap();
        let (intake, lane) = opened.intakes[0].clone();
        let (id, queue) = opened.store.register("crm").await.unwrap();
        opened.store.attach(id, 0);
        let answers = tokio::spawn(async move { lane.run().await });
        let mut content = ContentBuilder::new("default", "", "", 0);
        content.body(b"hello");
        let event = Arc::new(Event {
            id: EventId::new(1, &mut fastrand::Rng::new()),
            accepted_ms: 1,
            accepted_age: Age(0),
            content: content.finish(),
        });
        assert!(queue.try_reserve(event.content.as_bytes().len() as u64, 10, 10_000));
        let route = Route {
            connection: id,
            queue: Arc::clone(&queue),
            fate: Fate::Queued,
            delay: Duration::ZERO,
        };
        intake.append(event, vec![route]).await.unwrap();
        let mut items = Vec::new();
        opened.feeds[0].next(&mut items).await;
        let FeedItem::Due(delivery) = items.remove(0) else { panic!("it was not asked for") };
        assert_eq!(opened.store.oldest().await.unwrap(), [(id, Age(0))]);
        opened.feeds[0].load(vec![delivery]);
        opened.feeds[0].next(&mut items).await;
        let FeedItem::Loaded(delivery, event) = items.remove(0) else {
            panic!("it was handed out before")
        };
        assert_eq!(event.unwrap().content.body(), "hello");
        let first_attempt = Age(0);
        let disposition = Disposition::Delivered;
        opened.feeds[0].settle(Settlement {
            id: delivery.id,
            size: delivery.size,
            disposition,
            attempts: 1,
            first_attempt,
        });
        opened.store.close().await;
        assert_eq!(queue.live.load(Ordering::Relaxed), 0);
        answers.abort();
    });
}
