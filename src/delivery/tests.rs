//! One runtime with real loopback sockets, in paused time: everything runs on one thread, so the loopback is at rest
//! before the clock moves, and a timeout of a second takes none.

mod auth;
mod gates;
mod health;
mod history;
mod http2;
mod lifecycle;
mod look;
mod ordering;
mod payload;
mod peers;
mod politeness;
mod signatures;
mod targets;
mod trial;
mod waits;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep};

use super::notice::Notice;
use super::runtime::{Command, Parts, run};
use super::status::Status;
use super::testing;
use super::{Look, Prepared, prepare};
use crate::clock::Clock;
use crate::connection::Connection;
use crate::event::{Cause, Disposition, Event};
use crate::metrics::Metrics;
use crate::store::feed::{Delivery, FeedItem, FeedPort, Lane, Settlement, feed_for_test};
use crate::store::{ConnectionId, DeliveryId};

const WALL_MS: u64 = 1_700_000_000_000;

/// Runs a test on one thread, in paused time.
fn paused<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, test);
}

/// One runtime, and the store's side of it.
struct Rig {
    port: FeedPort,
    clock: Clock,
    notices: mpsc::Receiver<Notice>,
    commands: mpsc::Sender<Command>,
    metrics: Metrics,
    next_slot: u32,
    /// Slots handed out and not back yet.
    out: BTreeSet<u32>,
    settled: Vec<Settlement>,
    released: Vec<Delivery>,
    loads: Vec<Delivery>,
    /// Keeps what was sent in memory.
    events: Vec<Arc<Event>>,
}

impl Rig {
    fn new(payload_bytes: u64) -> Rig {
        let (feed, port) = feed_for_test();
        let (commands, inbox) = mpsc::channel(16);
        let (notices, heard) = mpsc::channel(2);
        let clock = Clock::manual(WALL_MS);
        let parts = Parts {
            feed,
            clock: clock.clone(),
            payload_bytes,
            resolvers: Vec::new(),
            seed: 1,
            ticks: Arc::default(),
            inbox,
            notices,
        };
        tokio::task::spawn_local(async {
            if let Some(done) = run(parts).await {
                let _ = done.send(());
            }
        });
        let ticking = clock.clone();
        tokio::task::spawn_local(async move {
            loop {
                sleep(Duration::from_millis(1)).await;
                ticking.advance(Duration::from_millis(1));
            }
        });
        Rig {
            port,
            clock,
            notices: heard,
            commands,
            metrics: Metrics::new(),
            next_slot: 0,
            out: BTreeSet::new(),
            settled: Vec::new(),
            released: Vec::new(),
            loads: Vec::new(),
            events: Vec::new(),
        }
    }

    async fn with(connection: Connection) -> Rig {
        let rig = Rig::new(1 << 20);
        rig.attach(1, connection).await;
        rig
    }

    async fn attach(&self, id: u32, connection: Connection) -> Arc<Status> {
        let status = Arc::new(Status::default());
        let metrics = self.metrics.connection(&connection.name);
        let prepared = prepared(connection);
        let command = Command::Attach(ConnectionId(id), prepared, metrics, Arc::clone(&status));
        self.command(command).await;
        status
    }

    async fn replace(&self, id: u32, connection: Connection) {
        let prepared = prepared(connection);
        self.command(Command::Replace(ConnectionId(id), prepared)).await;
    }

    async fn command(&self, command: Command) {
        self.commands.send(command).await.unwrap();
    }

    async fn drain(&self, within: Duration) {
        let (done, end) = oneshot::channel();
        self.command(Command::Drain(within, done)).await;
        end.await.unwrap();
    }

    /// Hands out `count` new deliveries of small events.
    fn send(&mut self, connection: u32, count: u32) {
        self.send_lane(connection, count, Lane::New, b"{\"a\":1}");
    }

    fn send_lane(&mut self, connection: u32, count: u32, lane: Lane, body: &[u8]) {
        self.send_event(connection, count, lane, testing::event(body));
    }

    fn send_event(&mut self, connection: u32, count: u32, lane: Lane, event: Arc<Event>) {
        let mut items = Vec::new();
        for _ in 0..count {
            let slot = self.next_slot;
            self.next_slot += 1;
            assert!(self.out.insert(slot));
            items.push(FeedItem::Due(testing::delivery(connection, slot, lane, &event)));
        }
        self.events.push(event);
        self.port.send(&mut items);
    }

    /// Makes all events cold, as when the store has evicted them.
    fn evict(&mut self) {
        self.events.clear();
    }

    /// Takes what came back. Nothing may come back twice.
    fn receive(&mut self) {
        let (settled, released, loads) = self.port.receive_for_test();
        for id in settled.iter().map(|settled| settled.id).chain(released.iter().map(|d| d.id)) {
            assert!(self.out.remove(&id.slot), "slot {} came back twice", id.slot);
        }
        self.settled.extend(settled);
        self.released.extend(released);
        self.loads.extend(loads);
    }

    /// Waits until `count` more have settled.
    async fn settle(&mut self, count: usize) -> Vec<Settlement> {
        self.wait(|rig| rig.settled.len() >= count).await;
        self.settled.drain(..).collect()
    }

    /// Waits for the disposition of one delivery.
    async fn disposition(&mut self) -> Disposition {
        self.settle(1).await.remove(0).disposition
    }

    async fn wait(&mut self, enough: impl Fn(&Rig) -> bool) {
        let start = Instant::now();
        loop {
            self.receive();
            if enough(self) {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(900), "waited too long");
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// How the delivery in a slot stands.
    async fn look(&self, connection: u32, slot: u32) -> Look {
        let (reply, answer) = oneshot::channel();
        let id =
            DeliveryId { connection: ConnectionId(connection), segment: 1, slot, offset: slot };
        self.command(Command::Look(id, reply)).await;
        answer.await.unwrap()
    }

    /// Whether `/metrics` has this line.
    fn counts(&self, line: &str) -> bool {
        self.metrics.render().lines().any(|shown| shown == line)
    }
}

fn prepared(connection: Connection) -> Box<Prepared> {
    Box::new(prepare(&Arc::new(connection)).unwrap())
}

fn retry(seconds: u64) -> Disposition {
    Disposition::RetryAfter(Duration::from_secs(seconds))
}

fn dead(cause: Cause, status: u16) -> Disposition {
    Disposition::Dead { cause, status }
}
