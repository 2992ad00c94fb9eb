//! Where the store and one egress runtime meet: deliveries go out, settlements come back.
//!
//! Both directions hand over whole batches under a short lock, with one wake for a batch: at saturation a wake-up per
//! event would cost more than the queue itself. A settlement does not wake the store at all; the store looks at each
//! turn, at most 20 ms later, unless many wait.
//!
//! **Invariant:** what waits here is bounded: per connection the store hands out at most its window
//! ([`super::WINDOW_EVENTS`]) of deliveries that are not settled yet, and as many more as stand parked behind others of
//! their key, at most [`super::PARKED_EVENTS`].

use std::sync::{Arc, Mutex, Weak};

use tokio::sync::Notify;

use super::doorbell::Doorbell;
use super::history::History;
use super::order::Parked;
use super::reader::{ReadQueue, ReadRequest};
use super::{ConnectionId, DeliveryId};
use crate::clock::Age;
use crate::event::{Disposition, Event};

/// One delivery that is due, handed to the egress. It comes back as exactly one [`Settlement`] or by [`Feed::release`].
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Which one it is; only the store reads it.
    pub id: DeliveryId,
    /// Which way it came.
    pub lane: Lane,
    /// Attempts made before, in this run.
    pub attempts: u32,
    /// When the first attempt of this run was made.
    pub first_attempt: Option<Age>,
    /// Bytes of its record: what loading it costs.
    pub size: u32,
    /// It came with a delay, as far as that is known: a retry's payload has to be loaded to tell. Then it stands in no order.
    pub delayed: bool,
    /// The event itself while it is in memory.
    pub hot: Weak<Event>,
}

impl Delivery {
    /// The connection it goes to.
    pub fn connection(&self) -> ConnectionId {
        self.id.connection
    }
}

/// Which way a delivery came to the head of its queue. Lanes share one connection by turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// Never tried before.
    New = 0,
    /// Due again after a failure.
    Retry = 1,
    /// A dead letter that an operator sent again.
    Replay = 2,
}

/// What the store sends.
#[derive(Debug)]
pub enum FeedItem {
    /// A delivery is due.
    Due(Delivery),
    /// The answer to [`Feed::order`] with this number: all that was handed out before has come back, and what follows is
    /// in order.
    Fresh(ConnectionId, u64),
    /// A delivery that waits for a time, shown so that the egress learns which order it stands in. It counts as handed
    /// out, and is to be released.
    Shown(Delivery),
    /// A payload that [`Feed::load`] asked for. `None`: its record cannot be read; the delivery becomes a dead letter
    /// (cause `internal`) by the egress's settlement.
    Loaded(Delivery, Option<Arc<Event>>),
}

impl FeedItem {
    /// The connection that it is for.
    pub fn connection(&self) -> ConnectionId {
        match self {
            FeedItem::Due(delivery) | FeedItem::Shown(delivery) | FeedItem::Loaded(delivery, _) => {
                delivery.connection()
            }
            FeedItem::Fresh(connection, _) => *connection,
        }
    }
}

/// What came of a delivery that was handed out.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// Which one.
    pub id: DeliveryId,
    /// Its record's bytes, as handed out.
    pub size: u32,
    /// What to do with it.
    pub disposition: Disposition,
    /// Attempts made in this run, the last one included.
    pub attempts: u32,
    /// When the first attempt of this run was made.
    pub first_attempt: Age,
}

/// What the egress sends back.
#[derive(Debug)]
pub(super) enum Returned {
    Settled(Settlement),
    Released(Delivery),
    /// Hand out in order from now on, and say so with this number; `None`: no longer.
    Order(ConnectionId, Option<u64>),
    /// So many stand behind others and take no place in their windows.
    Parked(ConnectionId, Parked),
}

/// The egress's end.
#[derive(Debug)]
pub struct Feed {
    shared: Arc<Shared>,
    loads: Loads,
    history: History,
}

/// Where payloads are asked for.
#[derive(Debug)]
enum Loads {
    Reader(ReadQueue),
    /// A test stands in for the store.
    #[cfg(test)]
    Kept(Arc<Mutex<Vec<Delivery>>>),
}

/// What was asked by one call of [`Feed::order`].
#[cfg(test)]
pub type Asked = (ConnectionId, Option<u64>);

/// The store's end.
#[derive(Clone, Debug)]
pub struct FeedPort {
    shared: Arc<Shared>,
    #[cfg(test)]
    loads: Arc<Mutex<Vec<Delivery>>>,
    /// What the egress told the history, for tests.
    #[cfg(test)]
    noted: Option<(History, crossbeam::channel::Receiver<super::history::Message>)>,
    /// What was asked by [`Feed::order`], and said by [`Feed::parked`] last, for tests.
    #[cfg(test)]
    orders: Arc<Mutex<Vec<Asked>>>,
    #[cfg(test)]
    parked: Arc<Mutex<Parked>>,
}

#[derive(Debug)]
struct Shared {
    out: Mutex<Vec<FeedItem>>,
    arrived: Notify,
    back: Mutex<Vec<Returned>>,
    doorbell: Arc<Doorbell>,
}

/// Settlements that may wait before the store is woken for them.
const BACK_WAKE: usize = 128;

/// Makes the two ends. `doorbell` wakes the writer, `reader` loads payloads.
pub(super) fn feed(
    doorbell: Arc<Doorbell>,
    reader: ReadQueue,
    history: History,
) -> (Feed, FeedPort) {
    let port = port(doorbell);
    (Feed { shared: Arc::clone(&port.shared), loads: Loads::Reader(reader), history }, port)
}

/// Makes the two ends for a test that stands in for the store: see [`FeedPort::receive_for_test`].
#[cfg(test)]
pub fn feed_for_test() -> (Feed, FeedPort) {
    let mut port = port(Doorbell::new().0);
    let (history, noted) = History::new(&crate::metrics::Metrics::new());
    port.noted = Some((history.clone(), noted));
    let loads = Loads::Kept(Arc::clone(&port.loads));
    (Feed { shared: Arc::clone(&port.shared), loads, history }, port)
}

fn port(doorbell: Arc<Doorbell>) -> FeedPort {
    let shared =
        Shared { out: Mutex::default(), arrived: Notify::new(), back: Mutex::default(), doorbell };
    FeedPort {
        shared: Arc::new(shared),
        #[cfg(test)]
        loads: Arc::default(),
        #[cfg(test)]
        noted: None,
        #[cfg(test)]
        orders: Arc::default(),
        #[cfg(test)]
        parked: Arc::default(),
    }
}

impl Feed {
    /// Waits until something has arrived, and moves all of it to the end of `items`. Cancel safe.
    pub async fn next(&self, items: &mut Vec<FeedItem>) {
        loop {
            {
                let mut out = lock(&self.shared.out);
                if !out.is_empty() {
                    items.append(&mut out);
                    return;
                }
            }
            self.shared.arrived.notified().await;
        }
    }

    /// Reports what came of a delivery.
    pub fn settle(&self, settlement: Settlement) {
        self.give_back(Returned::Settled(settlement));
    }

    /// Gives a delivery back untouched: it keeps its place and comes again when its connection is attached.
    pub fn release(&self, delivery: Delivery) {
        self.give_back(Returned::Released(delivery));
    }

    /// Asks for a connection's deliveries in an order that can be kept ([`super::order`]), or no longer. Give everything
    /// back that is not in flight before; what arrives before [`FeedItem::Fresh`] with the number of the last call is
    /// not in order, and is to be released.
    pub fn order(&self, connection: ConnectionId, number: Option<u64>) {
        self.give_back(Returned::Order(connection, number));
        self.shared.doorbell.ring();
    }

    /// Says how many of a connection stand behind others, so that the store hands out as
    /// many more; at most [`super::PARKED_EVENTS`] together.
    pub fn parked(&self, connection: ConnectionId, parked: Parked) {
        self.give_back(Returned::Parked(connection, parked));
    }

    /// Asks for payloads from disk. Each comes back as one [`FeedItem::Loaded`]. Ask for one connection at a time, and
    /// only within its share of the memory budget.
    pub fn load(&self, deliveries: Vec<Delivery>) {
        match &self.loads {
            Loads::Reader(reader) => {
                let port = FeedPort {
                    shared: Arc::clone(&self.shared),
                    #[cfg(test)]
                    loads: Arc::default(),
                    #[cfg(test)]
                    noted: None,
                    #[cfg(test)]
                    orders: Arc::default(),
                    #[cfg(test)]
                    parked: Arc::default(),
                };
                // The reader lives as long as any feed.
                let _ = reader.send(ReadRequest::Load(port, deliveries));
            }
            #[cfg(test)]
            Loads::Kept(kept) => lock(kept).extend(deliveries),
        }
    }

    /// Where attempts are recorded.
    pub fn history(&self) -> &History {
        &self.history
    }

    fn give_back(&self, returned: Returned) {
        let waiting = {
            let mut back = lock(&self.shared.back);
            back.push(returned);
            back.len()
        };
        if waiting % BACK_WAKE == 0 {
            self.shared.doorbell.ring();
        }
    }
}

impl FeedPort {
    /// Moves all of `items` to the egress and wakes it once.
    pub fn send(&self, items: &mut Vec<FeedItem>) {
        if items.is_empty() {
            return;
        }
        lock(&self.shared.out).append(items);
        self.shared.arrived.notify_one();
    }

    /// Moves all that came back to the end of `returned`.
    pub(super) fn receive(&self, returned: &mut Vec<Returned>) {
        returned.append(&mut lock(&self.shared.back));
    }

    /// Says which configuration is in force, as the control loop does.
    #[cfg(test)]
    pub fn set_generation_for_test(&self, generation: u64) {
        self.noted.iter().for_each(|(history, _)| history.set_generation(generation));
    }

    /// What was asked by [`Feed::order`] since the last call, and what [`Feed::parked`] said last.
    #[cfg(test)]
    pub fn orders_for_test(&self) -> (Vec<Asked>, Parked) {
        (std::mem::take(&mut lock(&self.orders)), *lock(&self.parked))
    }

    /// Attempts that were noted since the last call.
    #[cfg(test)]
    pub fn noted_for_test(&self) -> Vec<super::history::Attempt> {
        let noted = self.noted.iter().flat_map(|(_, noted)| noted.try_iter());
        let attempts = noted.filter_map(|message| match message {
            super::history::Message::Attempt(attempt) => Some(attempt),
            _ => None,
        });
        attempts.collect()
    }

    /// What came back since the last call: settlements, released deliveries, and deliveries to load. For tests that
    /// stand in for the store.
    #[cfg(test)]
    pub fn receive_for_test(&self) -> (Vec<Settlement>, Vec<Delivery>, Vec<Delivery>) {
        let mut returned = Vec::new();
        self.receive(&mut returned);
        let (mut settled, mut released) = (Vec::new(), Vec::new());
        for item in returned {
            match item {
                Returned::Settled(settlement) => settled.push(settlement),
                Returned::Released(delivery) => released.push(delivery),
                Returned::Order(connection, number) => {
                    lock(&self.orders).push((connection, number))
                }
                Returned::Parked(_, parked) => *lock(&self.parked) = parked,
            }
        }
        (settled, released, std::mem::take(&mut lock(&self.loads)))
    }
}

/// No code panics while it holds one of these locks; if it did, the data is still whole (they are plain lists).
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
