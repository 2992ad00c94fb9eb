//! Conservation (spec 1): per connection, what came in is what went out and what is still here. And the queues' caps.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use super::{Live, Relay};
use crate::connection::breaker::Phase;
use crate::sim::world::World;

/// Counters of one connection by name and outcome, since the process began.
type Figures = BTreeMap<String, u64>;

impl Relay {
    /// Compares the books, if nothing is on its way between ingress and the store, where it is counted on one side only.
    /// Whether it was done.
    pub(in crate::sim) fn check_books(&self, world: &World) -> bool {
        if self.memory.used() > 0 {
            return false;
        }
        // Settlements that wait for the writer are taken in this turn, so that both sides have counted them.
        self.engine.turn();
        let text = self.metrics.render();
        for (number, live) in &*self.live.borrow() {
            self.check_connection(world, *number, live, &figures(&text, &live.connection.name));
        }
        world.reach("books compared");
        true
    }

    fn check_connection(&self, world: &World, number: usize, live: &Live, figures: &Figures) {
        let get = |name: &str| figures.get(name).copied().unwrap_or(0);
        let came = get("accepted") + get("recovered") + get("replayed");
        let over: u64 = ["delivered", "dead", "cancelled", "ignored"].map(get).iter().sum();
        let here = live.queue.live.load(Ordering::Relaxed);
        let twice = self.twice.borrow().get(&number).copied().unwrap_or(0);
        if !(came..=came + twice).contains(&(over + here)) {
            let what = format!("the books of c{number}: {figures:?} with {here} here");
            world.ledger.borrow_mut().fail(what);
        }
    }

    /// No queue is longer than its cap lets it be.
    pub(in crate::sim) fn check_caps(&self, world: &World) {
        for (number, live) in &*self.live.borrow() {
            let here = live.queue.live.load(Ordering::Relaxed);
            let most = self.most.borrow().get(number).copied().unwrap_or(u64::MAX);
            if here > most {
                let what = format!("c{number} holds {here} deliveries, and may hold {most}");
                world.ledger.borrow_mut().fail(what);
            }
        }
    }

    /// Deliveries that are not over, and dead letters.
    pub(in crate::sim) fn left(&self) -> (u64, u64) {
        let live = self.live.borrow();
        let sum = |read: fn(&Live) -> u64| live.values().map(read).sum();
        (
            sum(|live| live.queue.live.load(Ordering::Relaxed)),
            sum(|live| live.queue.dead.load(Ordering::Relaxed)),
        )
    }

    /// Deliveries by state, as the gauges show them, of the whole process: waiting for a time, and handed out.
    pub(in crate::sim) fn note_states(&self, world: &World) {
        for live in self.live.borrow().values() {
            let counters = [
                (&live.queue.scheduled, "scheduled"),
                (&live.queue.dead, "dead letter"),
                (&live.queue.handed_out, "in flight"),
            ];
            for (counter, state) in counters {
                if counter.load(Ordering::Relaxed) > 0 {
                    world.reach(state);
                }
            }
            let held = live.connection.state != crate::connection::State::Active;
            if held && live.queue.live.load(Ordering::Relaxed) > 0 {
                world.reach("held");
            }
            let open = self
                .dispatcher
                .status(live.id)
                .is_some_and(|status| status.breaker() == Phase::Open);
            if open && live.queue.live.load(Ordering::Relaxed) > 0 {
                world.reach("breaker open");
            }
        }
        if !self.engine.takes_events() {
            world.reach("store in trouble");
        }
        if self.engine.marks_are_durable() {
            world.reach("marks durable");
        }
    }
}

fn figures(text: &str, name: &str) -> Figures {
    let label = format!("connection=\"{name}\"");
    let mut figures = Figures::new();
    for line in text.lines().filter(|line| line.contains(&label)) {
        let Some((series, value)) = line.rsplit_once(' ') else {
            continue;
        };
        let metric = series.split('{').next().unwrap_or_default();
        let key = match metric.strip_prefix("posthaste_deliveries_") {
            Some("total") => {
                series.split("outcome=\"").nth(1).and_then(|rest| rest.split('"').next())
            }
            // What is ignored is counted by cause as well.
            Some("ignored_total") => None,
            Some(kind) => kind.strip_suffix("_total"),
            None => None,
        };
        if let (Some(key), Ok(value)) = (key, value.parse()) {
            figures.insert(key.to_owned(), value);
        }
    }
    figures
}
