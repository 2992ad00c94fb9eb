//! One process: store, ingress and delivery, put together as the daemon does it ([`crate::daemon`]), with its threads as
//! tasks of one [`LocalSet`]. Dropping that is what a kill is.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Notify, oneshot};
use tokio::task::LocalSet;
use tokio::time::sleep;

use super::pipe::Pipe;
use super::producer::routes;
use super::world::{Verdict, World};
use crate::connection::{Connection, OnRemove, State};
use crate::delivery::{self, Dispatcher, DispatcherOptions};
use crate::ingress::testing::{LocalIngress, Stopper};
use crate::ingress::{self, Idempotency, IngressParts, MemoryBudget, RoutingTable};
use crate::metrics::{ConnectionMetrics, Metrics};
use crate::store::intake::AckLane;
use crate::store::queue::QueueCounters;
use crate::store::testing::Engine;
use crate::store::{self, ConnectionId, OpenError, Opened, Options, Store};

mod books;

/// How long a read from the disk or a turn of the writer may be put off, in milliseconds.
const STALL_MS: u64 = 40;

/// Requests open at a stop are answered within this.
const INGRESS_GRACE: Duration = Duration::from_secs(5);

/// A connection in force, with its other ends.
#[derive(Clone)]
struct Live {
    connection: Arc<Connection>,
    id: ConnectionId,
    queue: Arc<QueueCounters>,
    metrics: Arc<ConnectionMetrics>,
}

/// One process.
pub(super) struct Relay {
    store: RefCell<Option<Rc<Store>>>,
    engine: Engine,
    dispatcher: Dispatcher,
    routing: Arc<ArcSwap<RoutingTable>>,
    live: RefCell<BTreeMap<usize, Live>>,
    /// Whose queue found at start was counted.
    recovered: RefCell<BTreeSet<ConnectionId>>,
    /// What each queue may hold: its cap, or more where more was found; and what was sent again.
    most: RefCell<BTreeMap<usize, u64>>,
    /// Attempts that were in flight when their queue was cancelled: they are counted as cancelled, and again as what became
    /// of them.
    twice: RefCell<BTreeMap<usize, u64>>,
    metrics: Metrics,
    memory: Arc<MemoryBudget>,
    producers: UnboundedSender<Pipe>,
    /// Producers get in.
    open: Cell<bool>,
    stopper: Stopper,
    ingress: RefCell<Option<LocalIngress>>,
    /// Told when ingress has ended.
    ingress_end: RefCell<Option<oneshot::Receiver<()>>>,
    /// All tasks. Taken out when the process ends.
    tasks: Rc<RefCell<Option<LocalSet>>>,
}

impl Relay {
    /// Opens the store and starts everything but the connections and ingress.
    pub(super) fn open(world: &Rc<World>) -> Result<Rc<Relay>, OpenError> {
        let metrics = Metrics::new();
        let options = Options { seed: world.draw(|rng| rng.u64(..)), ..world.plan.store.clone() };
        let keys_kept = options.keys;
        let disk = Arc::new(world.disk.clone());
        let clock = world.clock.clone();
        let (opened, engine) = store::testing::open(disk, options, clock.clone(), &metrics)?;
        let Opened { store, intakes, mut feeds, keys, corrupt } = opened;
        if corrupt > 0 {
            world.note(format_args!("{corrupt} places are damaged"));
            world.reach("damage found");
            world.ledger.borrow_mut().damage_found(corrupt);
        }
        let lane = Arc::clone(&intakes[0].1);
        let feed = feeds.remove(0);
        let options = DispatcherOptions {
            payload_bytes: world.plan.payload_bytes,
            seed: world.draw(|rng| rng.u64(..)),
            resolvers: Vec::new(),
        };
        let (dispatcher, egress) = delivery::testing::local(options, feed, &clock, &metrics);
        let routing = Arc::new(ArcSwap::from_pointee(RoutingTable::default()));
        let parts = IngressParts {
            intakes,
            routing: Arc::clone(&routing),
            keys: Arc::new(Idempotency::new(keys_kept, keys, clock.clone(), &metrics)),
            clock,
            metrics: metrics.clone(),
            seed: world.draw(|rng| rng.u64(..)),
        };
        let (ingress, producers, stopper) = ingress::testing::local(&world.plan.ingress, parts);
        let relay = Rc::new(Relay {
            store: RefCell::new(Some(Rc::new(store))),
            engine: engine.clone(),
            dispatcher,
            routing,
            live: RefCell::default(),
            recovered: RefCell::default(),
            most: RefCell::default(),
            twice: RefCell::default(),
            metrics,
            memory: Arc::clone(&ingress.memory),
            producers,
            open: Cell::new(false),
            stopper,
            ingress: RefCell::new(Some(ingress)),
            ingress_end: RefCell::default(),
            tasks: Rc::new(RefCell::new(Some(LocalSet::new()))),
        });
        relay.spawn_threads(world, &engine, lane, egress);
        Ok(relay)
    }

    /// What would be threads: writer, reader, egress, and the task that hands answers out.
    fn spawn_threads(
        &self,
        world: &Rc<World>,
        engine: &Engine,
        lane: Arc<AckLane>,
        egress: impl Future<Output = ()> + 'static,
    ) {
        let tasks = self.tasks.borrow();
        let tasks = tasks.as_ref().unwrap();
        let stalling = Rc::downgrade(world);
        let stall = move || {
            let ms = stalling.upgrade().map_or(0, |world| {
                world.draw(|rng| if rng.u8(..16) == 0 { rng.u64(..STALL_MS) } else { 0 })
            });
            async move {
                if ms > 0 {
                    sleep(Duration::from_millis(ms)).await;
                }
            }
        };
        tasks.spawn_local(engine.clone().run_writer(stall));
        tasks.spawn_local(egress);
        tasks.spawn_local(async move { lane.run().await });
        let wanted = Rc::new(Notify::new());
        let reads = run_reader(engine.clone(), Rc::clone(&wanted), Rc::downgrade(world));
        tasks.spawn_local(reads);
        let (holder, engine) = (Rc::clone(&self.tasks), engine.clone());
        tokio::task::spawn_local(std::future::poll_fn(move |cx| {
            let mut tasks = holder.borrow_mut();
            let Some(tasks) = tasks.as_mut() else {
                return Poll::Ready(());
            };
            let polled = std::pin::Pin::new(tasks).poll(cx);
            if engine.has_reads() {
                wanted.notify_one();
            }
            polled
        }));
    }

    /// Ends everything, from one moment to the next.
    pub(super) fn kill(&self) {
        self.open.set(false);
        let tasks = self.tasks.borrow_mut().take();
        drop(tasks);
    }

    /// A producer connects. Whether anybody is there.
    pub(super) fn accept(&self, pipe: Pipe) -> bool {
        self.open.get() && self.producers.send(pipe).is_ok()
    }

    /// Connects every configured connection with its queue.
    pub(super) async fn attach_all(&self, world: &World) -> Verdict {
        let configured: Vec<_> = world.config.borrow().clone().into_iter().collect();
        for (number, connection) in configured {
            world.ledger.borrow_mut().order_in_force(number, connection.ordering.as_ref(), None);
            self.attach(number, connection).await?;
        }
        Ok(())
    }

    async fn attach(&self, number: usize, connection: Connection) -> Verdict {
        let store = self.store()?;
        let name = connection.name.clone();
        let (id, queue) = store.register(&name).await.map_err(|error| error.to_string())?;
        let metrics = self.metrics.connection(&name);
        let found = queue.live.load(Ordering::Relaxed);
        if self.recovered.borrow_mut().insert(id) {
            metrics.recovered.increment(found);
            let most = connection.queue.max_events.max(found);
            self.most.borrow_mut().insert(number, most);
        }
        let connection = Arc::new(connection);
        let prepared = delivery::prepare(&connection).map_err(|error| error.to_string())?;
        self.dispatcher.attach(id, prepared, Arc::clone(&queue.waits)).await;
        let live = Live { connection, id, queue, metrics };
        feed(&store, &live);
        self.live.borrow_mut().insert(number, live);
        Ok(())
    }

    /// Producers get in from now on.
    pub(super) fn open_doors(&self, world: &World) {
        self.publish(world);
        let (ended, end) = oneshot::channel();
        self.ingress_end.replace(Some(end));
        if let (Some(ingress), Some(tasks)) =
            (self.ingress.borrow_mut().take(), &*self.tasks.borrow())
        {
            tasks.spawn_local(async move {
                ingress.run().await;
                let _ = ended.send(());
            });
        }
        self.open.set(true);
    }

    fn store(&self) -> Result<Rc<Store>, String> {
        self.store.borrow().clone().ok_or_else(|| "the store is closed".to_owned())
    }

    /// Puts the connections in force into the routing table.
    fn publish(&self, world: &World) {
        let entries: Vec<_> = self
            .live
            .borrow()
            .values()
            .cloned()
            .map(|Live { connection, id, queue, metrics }| (connection, id, queue, metrics))
            .collect();
        self.routing.store(Arc::new(RoutingTable::new(&entries, &Default::default())));
        world.ledger.borrow_mut().rerouted(world.life.get(), |direct| routes(world, direct));
    }

    /// Takes the configuration as it is now, as a reload does.
    pub(super) async fn reload(&self, world: &World) -> Verdict {
        let config = world.config.borrow().clone();
        let before = self.live.borrow().clone();
        let mut replaced = Vec::new();
        for (number, connection) in &config {
            match before.get(number) {
                None => self.attach(*number, connection.clone()).await?,
                Some(live) if *live.connection != *connection => {
                    let live = Live { connection: Arc::new(connection.clone()), ..live.clone() };
                    self.live.borrow_mut().insert(*number, live.clone());
                    replaced.push(live);
                }
                Some(_) => {}
            }
        }
        self.live.borrow_mut().retain(|number, _| config.contains_key(number));
        self.publish(world);
        for (number, connection) in &config {
            let now = Some(world.trace.now_ms());
            world.ledger.borrow_mut().order_in_force(*number, connection.ordering.as_ref(), now);
        }
        for live in replaced {
            let prepared = delivery::prepare(&live.connection).map_err(|e| e.to_string())?;
            feed(&*self.store()?, &live);
            self.dispatcher.replace(live.id, prepared).await;
        }
        for (number, live) in before {
            if !config.contains_key(&number) {
                self.retire(world, number, &live).await?;
            }
        }
        Ok(())
    }

    async fn retire(&self, world: &World, number: usize, live: &Live) -> Verdict {
        let store = self.store()?;
        store.detach(live.id);
        self.dispatcher.detach(live.id).await;
        if live.connection.on_remove == OnRemove::Discard {
            let in_flight = live.queue.handed_out.load(Ordering::Relaxed);
            *self.twice.borrow_mut().entry(number).or_default() += in_flight;
            let (count, durable) =
                store.discard(live.id).await.map_err(|error| error.to_string())?;
            live.metrics.deliveries.cancelled.increment(count);
            let (now, life) = (world.trace.now_ms(), world.life.get());
            world.note(format_args!("cancelled {count} of c{number}, {durable:?}"));
            world.ledger.borrow_mut().discarded(number, now, life, durable.is_ok());
            if count > 0 {
                world.reach("cancelled");
            }
        }
        self.metrics.remove_connection(&live.connection.name);
        Ok(())
    }

    /// Sends up to `count` dead letters of a connection again. Returns how many.
    pub(super) async fn replay(
        &self,
        world: &World,
        number: usize,
        count: usize,
    ) -> Result<usize, String> {
        let Some(live) = self.live.borrow().get(&number).cloned() else {
            return Ok(0);
        };
        let store = self.store()?;
        let closed = |error: store::Closed| error.to_string();
        let page = store.dead(live.id, None, count).await.map_err(closed)?;
        let (replayed, durable) = store.replay(page.letters).await.map_err(closed)?;
        let replayed = replayed.len();
        live.metrics.replayed.increment(replayed as u64);
        if let Some(most) = self.most.borrow_mut().get_mut(&number) {
            *most += replayed as u64;
        }
        if replayed > 0 {
            world.note(format_args!("replayed {replayed} of c{number}, {durable:?}"));
            world.reach("replayed");
        }
        Ok(replayed)
    }

    /// Drains and stops, in the order in which events flow.
    pub(super) async fn stop(&self, within: Duration) {
        self.open.set(false);
        self.stopper.begin_stop(INGRESS_GRACE.min(within));
        let end = self.ingress_end.borrow_mut().take();
        if let Some(end) = end {
            let _ = end.await;
        }
        let store = self.store.borrow_mut().take();
        let live = self.live.take();
        if let Some(store) = store.and_then(Rc::into_inner) {
            live.values().for_each(|live| store.detach(live.id));
            self.dispatcher.drain(within).await;
            store.close().await;
        }
    }
}

/// Lets the store hand a connection's deliveries out, if it is active.
fn feed(store: &Store, live: &Live) {
    match live.connection.state {
        State::Active => store.attach(live.id, 0),
        State::Paused | State::Disabled => store.detach(live.id),
    }
}

/// The reader's thread: each read takes its time.
async fn run_reader(engine: Engine, wanted: Rc<Notify>, world: std::rc::Weak<World>) {
    loop {
        wanted.notified().await;
        while engine.has_reads() {
            let ms = world.upgrade().map_or(0, |world| world.draw(|rng| rng.u64(..4)));
            sleep(Duration::from_millis(ms)).await;
            engine.read_one();
        }
    }
}
