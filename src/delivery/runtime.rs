//! One egress thread: it takes commands and what the store hands out, and gives both to the connections it holds.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use http::HeaderValue;
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::task::TaskTracker;

use super::Prepared;
use super::budget::{Budget, Revisits};
use super::notice::Notice;
use super::outbox::{Look, Outbox};
use super::status::Status;
use super::trial::Errand;
use crate::client::{self, Ask, Dialler};
use crate::clock::Clock;
use crate::metrics::ConnectionMetrics;
use crate::store::feed::{Feed, FeedItem};
use crate::store::{ConnectionId, DeliveryId};

/// How often the timers show that they are alive.
const TICK: Duration = Duration::from_secs(1);

/// What the dispatcher asks of a runtime.
#[derive(Debug)]
pub(super) enum Command {
    Attach(ConnectionId, Box<Prepared>, Arc<ConnectionMetrics>, Arc<Status>),
    Replace(ConnectionId, Box<Prepared>),
    Detach(ConnectionId),
    /// Hold it whatever its settings say, or let it go on.
    Suspend(ConnectionId, bool),
    /// Give back what was not started, then say so.
    Recall(ConnectionId, oneshot::Sender<()>),
    /// Test a connection, attached or not.
    Test(Box<Errand>),
    /// Say how a delivery stands; nothing is said where its connection is not attached.
    Look(DeliveryId, oneshot::Sender<Look>),
    /// End within this time, then say so.
    Drain(Duration, oneshot::Sender<()>),
}

/// What a runtime is made of.
pub(super) struct Parts {
    pub(super) feed: Feed,
    pub(super) clock: Clock,
    pub(super) payload_bytes: u64,
    pub(super) seed: u64,
    pub(super) resolvers: Vec<SocketAddr>,
    pub(super) ticks: Arc<AtomicU64>,
    pub(super) inbox: mpsc::Receiver<Command>,
    pub(super) notices: mpsc::Sender<Notice>,
}

/// What the connections of one runtime share. Nothing in it can be held: each use is one step.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) feed: Feed,
    pub(super) clock: Clock,
    pub(super) budget: Budget,
    pub(super) revisits: Revisits,
    pub(super) rng: RefCell<fastrand::Rng>,
    pub(super) dialler: Dialler,
    /// To the control loop.
    pub(super) notices: mpsc::Sender<Notice>,
    /// Numbers for [`Feed::order`]: none twice, whichever connection asks.
    orders: Cell<u64>,
    /// Owns the workers and the connections' timers.
    pub(super) tasks: TaskTracker,
    /// The last `webhook-timestamp` and its second.
    timestamp: RefCell<(u64, HeaderValue)>,
}

impl Shared {
    pub(super) fn new(
        feed: Feed,
        clock: Clock,
        payload_bytes: u64,
        seed: u64,
        notices: mpsc::Sender<Notice>,
        ask: Ask,
    ) -> Shared {
        Shared {
            feed,
            clock,
            budget: Budget::new(payload_bytes),
            revisits: Revisits::default(),
            rng: RefCell::new(fastrand::Rng::with_seed(seed)),
            dialler: Dialler::new(ask),
            notices,
            orders: Cell::new(0),
            tasks: TaskTracker::new(),
            timestamp: RefCell::new((0, HeaderValue::from_static("0"))),
        }
    }

    /// A number for [`Feed::order`].
    pub(super) fn next_order(&self) -> u64 {
        self.orders.set(self.orders.get() + 1);
        self.orders.get()
    }

    /// Unix seconds now, as a number and as a header.
    pub(super) fn timestamp(&self) -> (u64, HeaderValue) {
        let seconds = self.clock.wall_ms() / 1000;
        let (at, value) = &mut *self.timestamp.borrow_mut();
        if *at != seconds {
            (*at, *value) = (seconds, HeaderValue::from(seconds));
        }
        (seconds, value.clone())
    }
}

/// Starts the thread of a runtime.
pub(super) fn spawn(number: usize, parts: Parts) -> io::Result<JoinHandle<()>> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    std::thread::Builder::new().name(format!("egress-{number}")).spawn(move || {
        let local = LocalSet::new();
        let done = local.block_on(&runtime, run(parts));
        // Attempts that outlived the time to drain end here; their deliveries go back to the store.
        drop(local);
        runtime.shutdown_background();
        if let Some(done) = done {
            let _ = done.send(());
        }
    })
}

/// One runtime's connections.
struct Runtime {
    shared: Rc<Shared>,
    /// In order, so that what a stop gives back comes in the same order each time.
    outboxes: BTreeMap<ConnectionId, Rc<Outbox>>,
}

/// Works until it is told to drain, or the dispatcher is gone. Returns whom to tell.
pub(super) async fn run(parts: Parts) -> Option<oneshot::Sender<()>> {
    let Parts { feed, clock, payload_bytes, seed, resolvers, ticks, mut inbox, notices } = parts;
    let ask = client::ask(resolvers);
    let mut runtime = Runtime {
        shared: Rc::new(Shared::new(feed, clock, payload_bytes, seed, notices, ask)),
        outboxes: BTreeMap::new(),
    };
    let shared = Rc::clone(&runtime.shared);
    let mut heartbeat = heartbeat();
    let mut items = Vec::new();
    loop {
        // Every branch is cancel safe.
        tokio::select! {
            biased;
            command = inbox.recv() => match command {
                Some(Command::Drain(within, done)) => {
                    runtime.drain(within).await;
                    return Some(done);
                }
                Some(command) => runtime.obey(command),
                None => {
                    runtime.drain(Duration::ZERO).await;
                    return None;
                }
            },
            _ = heartbeat.tick() => {
                ticks.fetch_add(1, Ordering::Relaxed);
                let now = Instant::now();
                runtime.outboxes.values().for_each(|outbox| outbox.meter_now(now));
            }
            outboxes = shared.revisits.next() => {
                outboxes.iter().filter_map(std::rc::Weak::upgrade).for_each(|outbox| outbox.revisit());
            }
            () = shared.feed.next(&mut items) => runtime.take_in(&mut items),
        }
    }
}

fn heartbeat() -> Interval {
    let mut heartbeat = tokio::time::interval(TICK);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Skip);
    heartbeat
}

impl Runtime {
    fn obey(&mut self, command: Command) {
        match command {
            Command::Attach(id, prepared, metrics, status) => {
                // First: what it tells the store must not come after what the new one does.
                if let Some(before) = self.outboxes.remove(&id) {
                    before.close();
                }
                let outbox = Outbox::new(&self.shared, id, *prepared, metrics, status);
                drop(self.shared.tasks.spawn_local(Rc::clone(&outbox).run_alarm()));
                self.outboxes.insert(id, outbox);
            }
            Command::Replace(id, prepared) => {
                if let Some(outbox) = self.outboxes.get(&id) {
                    outbox.replace(*prepared);
                }
            }
            Command::Suspend(id, suspended) => {
                if let Some(outbox) = self.outboxes.get(&id) {
                    outbox.set_suspended(suspended);
                }
            }
            Command::Recall(id, done) => {
                if let Some(outbox) = self.outboxes.get(&id) {
                    outbox.recall();
                }
                // Whoever asked may be gone.
                let _ = done.send(());
            }
            Command::Detach(id) => {
                if let Some(outbox) = self.outboxes.remove(&id) {
                    outbox.close();
                }
            }
            Command::Test(errand) => {
                drop(self.shared.tasks.spawn_local(errand.run(Rc::clone(&self.shared))));
            }
            Command::Look(id, reply) => {
                if let Some(outbox) = self.outboxes.get(&id.connection) {
                    let _ = reply.send(outbox.look(id));
                }
            }
            // Taken out before.
            Command::Drain(_, done) => drop(done.send(())),
        }
    }

    /// Gives what the store has sent to the connections, and starts each of them once.
    fn take_in(&mut self, items: &mut Vec<FeedItem>) {
        let now = Instant::now();
        let mut touched: Option<Rc<Outbox>> = None;
        for item in items.drain(..) {
            let id = item.connection();
            if touched.as_ref().is_none_or(|outbox| outbox.id != id) {
                let next = self.outboxes.get(&id).cloned();
                if let Some(before) = std::mem::replace(&mut touched, next) {
                    before.pump();
                }
            }
            match (&touched, item) {
                (Some(outbox), FeedItem::Due(delivery)) => outbox.push(delivery, now),
                (Some(outbox), FeedItem::Loaded(delivery, event)) => {
                    outbox.push_loaded(delivery, event, now);
                }
                (Some(outbox), FeedItem::Shown(delivery)) => outbox.push_shown(delivery, now),
                (Some(outbox), FeedItem::Fresh(_, number)) => outbox.in_order(number),
                (None, item) => self.release(item),
            }
        }
        if let Some(last) = touched {
            last.pump();
        }
    }

    fn release(&self, item: FeedItem) {
        match item {
            FeedItem::Due(delivery) | FeedItem::Loaded(delivery, _) | FeedItem::Shown(delivery) => {
                self.shared.feed.release(delivery)
            }
            FeedItem::Fresh(..) => {}
        }
    }

    /// Ends all connections, and gives their attempts `within` to end by themselves.
    async fn drain(&mut self, within: Duration) {
        for outbox in std::mem::take(&mut self.outboxes).into_values() {
            outbox.close();
        }
        self.shared.tasks.close();
        let give_back = async {
            let mut items = Vec::new();
            loop {
                self.shared.feed.next(&mut items).await;
                items.drain(..).for_each(|item| self.release(item));
            }
        };
        tokio::select! {
            biased;
            () = self.shared.tasks.wait() => {}
            () = tokio::time::sleep(within) => {}
            () = give_back => {}
        }
    }
}
