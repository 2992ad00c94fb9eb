//! The state machine alone, with a store that is a list: what it lets go, and when.

use std::collections::{BTreeSet, VecDeque};

use proptest::prelude::*;
use tokio::time::Instant;

use super::*;
use crate::connection::path::Path;
use crate::delivery::testing::{delivery, event};
use crate::event::Event;

/// How a delivery stands in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stands {
    /// For its first attempt.
    Waits,
    Scheduled,
    Over,
}

/// What the egress tells the store.
#[derive(Clone, Debug)]
enum Told {
    Settled(usize, Stands),
    Released(usize),
    Order(u64),
    Parked(Parked),
}

#[derive(Clone, Debug)]
enum Item {
    Fresh(u64),
    Shown(usize, Lane),
    Due(usize, Lane),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Settling(u64),
    Yes(Parked),
}

/// First attempts, and retries, that the store hands out.
const WINDOW: (usize, usize) = (4, 3);

/// A store, the order, and a target that takes any number at a time.
struct World {
    keys: Vec<Option<u8>>,
    events: Vec<Arc<Event>>,
    // The store:
    stands: Vec<Stands>,
    due: BTreeSet<usize>,
    out: BTreeSet<(usize, bool)>,
    next: usize,
    phase: Phase,
    feed: VecDeque<Item>,
    told: VecDeque<Told>,
    /// What each mark changed, for those that a crash loses.
    marks: Vec<(usize, Stands)>,
    // The egress:
    order: Order,
    lanes: Lanes,
    /// Which events are in memory.
    hot: BTreeSet<usize>,
    loads: VecDeque<Delivery>,
    flying: Vec<usize>,
    asked: u64,
    /// Deliveries in the order in which they started.
    started: Vec<usize>,
    unkeyed: u64,
}

fn by(strict: bool) -> By {
    if strict { By::Connection } else { By::Key(Path::parse("body.k").unwrap()) }
}

fn events(keys: &[Option<u8>]) -> Vec<Arc<Event>> {
    let mut rng = fastrand::Rng::with_seed(3);
    let body = |key: &Option<u8>| match key {
        Some(key) => format!("{{\"k\":{key}}}"),
        None => "{}".to_owned(),
    };
    let event = |key| {
        let plain = (*event(body(key).as_bytes())).clone();
        Arc::new(Event { id: EventId::new(1, &mut rng), ..plain })
    };
    keys.iter().map(event).collect()
}

impl World {
    fn new(keys: &[Option<u8>], strict: bool, limits: Limits) -> World {
        let mut world = World {
            keys: keys.to_vec(),
            events: events(keys),
            stands: vec![Stands::Waits; keys.len()],
            due: BTreeSet::new(),
            out: BTreeSet::new(),
            next: 0,
            phase: Phase::Settling(1),
            feed: VecDeque::new(),
            told: VecDeque::new(),
            marks: Vec::new(),
            order: Order::new(by(strict), 1),
            lanes: Lanes::default(),
            hot: (0..keys.len()).collect(),
            loads: VecDeque::new(),
            flying: Vec::new(),
            asked: 1,
            started: Vec::new(),
            unkeyed: 0,
        };
        world.order.limits = limits;
        world.serve();
        world
    }

    fn delivery(&self, number: usize, lane: Lane) -> Delivery {
        let mut delivery = delivery(1, u32::try_from(number).unwrap(), lane, &self.events[number]);
        if !self.hot.contains(&number) {
            delivery.hot = std::sync::Weak::new();
        }
        delivery
    }

    fn number(delivery: &Delivery) -> usize {
        delivery.id.slot as usize
    }

    /// The store takes one thing that it was told.
    fn hear(&mut self) {
        match self.told.pop_front() {
            None => return,
            Some(Told::Settled(number, stands)) => {
                self.marks.push((number, self.stands[number]));
                self.stands[number] = stands;
                self.take_back(number);
            }
            Some(Told::Released(number)) => {
                self.take_back(number);
                if self.stands[number] == Stands::Waits {
                    // What comes back on its own is asked for anew before it matters.
                    self.next = self.next.min(number);
                }
            }
            Some(Told::Order(asked)) => self.phase = Phase::Settling(asked),
            Some(Told::Parked(now)) => {
                if let Phase::Yes(parked) = &mut self.phase {
                    *parked = now;
                }
            }
        }
        self.serve();
    }

    fn take_back(&mut self, number: usize) {
        let had = self.out.remove(&(number, true)) | self.out.remove(&(number, false));
        assert!(had, "{number} came back and was not out");
    }

    /// The store's steps.
    fn serve(&mut self) {
        if let Phase::Settling(asked) = self.phase {
            if !self.out.is_empty() {
                return;
            }
            self.next = 0;
            self.feed.push_back(Item::Fresh(asked));
            let scheduled = (0..self.stands.len()).filter(|n| self.stands[*n] == Stands::Scheduled);
            // By their due times, which is any order.
            for number in scheduled.rev().collect::<Vec<_>>() {
                self.out.insert((number, true));
                self.feed.push_back(Item::Shown(number, Lane::Retry));
            }
            self.phase = Phase::Yes(Parked::default());
        }
        let Phase::Yes(parked) = self.phase else { return };
        let retries = |world: &World| world.out.iter().filter(|(_, retry)| *retry).count();
        while retries(self) < WINDOW.1 + parked.retry {
            let out = |number: &usize| self.out.contains(&(*number, true));
            let Some(number) = self.due.iter().find(|number| !out(number)).copied() else { break };
            self.due.remove(&number);
            if self.stands[number] == Stands::Scheduled {
                self.out.insert((number, true));
                self.feed.push_back(Item::Due(number, Lane::Retry));
            }
        }
        while self.out.len() - retries(self) < WINDOW.0 + parked.new && self.next < self.keys.len()
        {
            let number = self.next;
            self.next += 1;
            if self.stands[number] == Stands::Waits && !self.out.contains(&(number, false)) {
                self.out.insert((number, false));
                self.feed.push_back(Item::Due(number, Lane::New));
            }
        }
    }

    /// The egress takes one thing that the store sent.
    fn take_in(&mut self) {
        match self.feed.pop_front() {
            None => {}
            Some(Item::Fresh(number)) => self.order.answered(number),
            Some(Item::Shown(number, lane)) => {
                let back = self.order.push(self.delivery(number, lane), true);
                self.release(back);
            }
            Some(Item::Due(number, lane)) => {
                let back = self.order.push(self.delivery(number, lane), false);
                self.release(back);
            }
        }
        self.advance();
    }

    fn advance(&mut self) {
        if self.order.is_lost() {
            self.restart();
        }
        let mut back = Vec::new();
        self.order.advance(&mut self.lanes, Instant::now(), &mut back);
        self.release(back);
        self.unkeyed += self.order.take_unkeyed();
        if let Some(parked) = self.order.report() {
            self.told.push_back(Told::Parked(parked));
        }
    }

    fn release(&mut self, deliveries: impl IntoIterator<Item = Delivery>) {
        for delivery in deliveries {
            self.told.push_back(Told::Released(World::number(&delivery)));
        }
    }

    /// Everything is given back and asked for anew, as by a pause.
    fn restart(&mut self) {
        self.asked += 1;
        self.lanes.unload();
        let waiting: Vec<_> = self.lanes.drain().collect();
        let more = self.order.restart(self.asked);
        self.release(waiting.into_iter().chain(more));
        self.told.push_back(Told::Order(self.asked));
    }

    fn ask_for_payloads(&mut self) {
        if self.loads.is_empty() {
            let cold = self.lanes.pop_cold(|_| true).map(|entry| entry.delivery);
            self.loads.extend(cold.or_else(|| self.order.next_cold(|_| true)));
        }
    }

    fn load(&mut self) {
        self.ask_for_payloads();
        let Some(loaded) = self.loads.pop_front() else { return };
        let event = Arc::clone(&self.events[World::number(&loaded)]);
        let mut back = Vec::new();
        self.order.loaded(loaded, event, &mut self.lanes, (Instant::now(), &mut back));
        self.release(back);
        self.advance();
    }

    /// Starts one that may start, and looks whether it may.
    fn start(&mut self) {
        let Some(candidate) = self.lanes.peek() else { return };
        let entry = self.lanes.pop(&candidate).unwrap();
        let number = World::number(&entry.delivery);
        let alike = |other: &usize| self.in_one_line(*other, number);
        let flying: Vec<_> = self.flying.iter().copied().filter(alike).collect();
        assert!(flying.is_empty(), "{number} started beside {flying:?}");
        // What the store has not heard yet counts.
        let mut stands = self.stands.clone();
        for told in &self.told {
            if let Told::Settled(number, new) = told {
                stands[*number] = *new;
            }
        }
        let before: Vec<_> =
            (0..number).filter(|n| stands[*n] != Stands::Over).filter(alike).collect();
        assert!(before.is_empty(), "{number} started before {before:?}");
        self.flying.push(number);
        self.started.push(number);
    }

    fn in_one_line(&self, one: usize, other: usize) -> bool {
        let line = |number: usize| self.order.by.line(&self.events[number]);
        line(one).is_some() && line(one) == line(other)
    }

    fn finish(&mut self, which: usize, stands: Stands) {
        if self.flying.is_empty() {
            return;
        }
        let number = self.flying.remove(which % self.flying.len());
        self.told.push_back(Told::Settled(number, stands));
        let end = match stands {
            Stands::Scheduled => End::Retry(self.events[number].id),
            _ => End::Over,
        };
        let id = self.delivery(number, Lane::New).id;
        self.order.ended(id, end, &mut self.lanes, Instant::now());
        self.advance();
    }

    /// An attempt is given up untried.
    fn abandon(&mut self) {
        if let Some(number) = self.flying.pop() {
            let id = self.delivery(number, Lane::New).id;
            self.order.ended(id, End::Released, &mut self.lanes, Instant::now());
            self.told.push_back(Told::Released(number));
            self.advance();
        }
    }

    fn let_time_pass(&mut self) {
        let scheduled = (0..self.stands.len()).filter(|n| self.stands[*n] == Stands::Scheduled);
        self.due.extend(scheduled.filter(|number| !self.out.contains(&(*number, true))));
        self.serve();
    }

    /// The process dies and a new one begins; the last `lost` marks were not on the disk.
    fn kill(&mut self, lost: usize) {
        for (number, stands) in
            self.marks.split_off(self.marks.len().saturating_sub(lost)).into_iter().rev()
        {
            self.stands[number] = stands;
        }
        self.asked += 1;
        self.order =
            Order { limits: self.order.limits, ..Order::new(self.order.by.clone(), self.asked) };
        self.lanes = Lanes::default();
        for gone in
            [&mut self.feed as &mut dyn Forget, &mut self.told, &mut self.loads, &mut self.flying]
        {
            gone.forget();
        }
        self.out.clear();
        self.due.clear();
        self.phase = Phase::Settling(self.asked);
        self.serve();
    }

    /// Goes on until everything is over. Every attempt succeeds.
    fn run_dry(&mut self) {
        for _ in 0..100_000 {
            if self.stands.iter().all(|stands| *stands == Stands::Over) {
                return;
            }
            self.take_in();
            self.load();
            self.start();
            self.finish(0, Stands::Over);
            self.hear();
            self.let_time_pass();
        }
        panic!("stuck: {:?}\n{:#?}", self.stands, self.order);
    }
}

trait Forget {
    fn forget(&mut self);
}

impl<T> Forget for VecDeque<T> {
    fn forget(&mut self) {
        self.clear();
    }
}

impl<T> Forget for Vec<T> {
    fn forget(&mut self) {
        self.clear();
    }
}

const WIDE: Limits = Limits { lines: 1000, parked: 1000 };

#[derive(Clone, Debug)]
enum Step {
    TakeIn,
    Load,
    Start,
    Finish(usize, bool),
    Hear,
    TimePasses,
    Evict(usize),
    Restart,
    Abandon,
    Kill(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => Just(Step::TakeIn),
        6 => Just(Step::Load),
        6 => Just(Step::Start),
        6 => (any::<usize>(), any::<bool>()).prop_map(|(which, ok)| Step::Finish(which, ok)),
        8 => Just(Step::Hear),
        3 => Just(Step::TimePasses),
        3 => any::<usize>().prop_map(Step::Evict),
        1 => Just(Step::Restart),
        1 => Just(Step::Abandon),
        1 => (0..4_usize).prop_map(Step::Kill),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Whatever happens: of one key at most one is in flight, and none before those that were accepted before it are
    /// over. Afterwards everything gets through.
    #[test]
    fn a_line_is_never_overtaken_and_never_stuck(
        keys in prop::collection::vec(prop::option::weighted(0.9, 0..4_u8), 1..40),
        strict in prop::bool::weighted(0.2),
        lines in 1..6_usize,
        parked in 0..6_usize,
        steps in prop::collection::vec(step(), 0..300),
    ) {
        let mut world = World::new(&keys, strict, Limits { lines, parked });
        for step in steps {
            match step {
                Step::TakeIn => world.take_in(),
                Step::Load => world.load(),
                Step::Start => world.start(),
                Step::Finish(which, ok) => {
                    world.finish(which, if ok { Stands::Over } else { Stands::Scheduled });
                }
                Step::Hear => world.hear(),
                Step::TimePasses => world.let_time_pass(),
                Step::Evict(which) => drop(world.hot.remove(&(which % keys.len()))),
                Step::Restart => world.restart(),
                Step::Abandon => world.abandon(),
                Step::Kill(lost) => world.kill(lost),
            }
            prop_assert!(world.order.parked.total() <= parked + WINDOW.1 + 4);
        }
        world.run_dry();
    }
}

/// Runs all steps but time: what is due is tried, and `fails` says of what.
fn run(world: &mut World, fails: impl Fn(usize) -> bool) {
    for _ in 0..2000 {
        world.take_in();
        world.load();
        world.start();
        while let Some(number) = world.flying.first().copied() {
            world.finish(0, if fails(number) { Stands::Scheduled } else { Stands::Over });
        }
        world.hear();
    }
}

#[test]
fn a_blocked_key_blocks_itself_alone() {
    let keys: Vec<_> = (0..200).map(|number| Some(u8::try_from(number % 4).unwrap())).collect();
    let mut world = World::new(&keys, false, WIDE);
    run(&mut world, |number| number % 4 == 0);
    let over =
        |key: usize| (0..200).filter(|n| n % 4 == key && world.stands[*n] == Stands::Over).count();
    assert_eq!([0, 1, 2, 3].map(over), [0, 50, 50, 50]);
    assert_eq!(world.started.iter().filter(|number| *number % 4 == 0).count(), 1, "only its first");
    assert_eq!(world.order.parked, Parked { new: 49, retry: 0 });
    world.let_time_pass();
    run(&mut world, |_| false);
    assert!(world.stands.iter().all(|stands| *stands == Stands::Over));
    assert_eq!(world.order.parked, Parked { new: 0, retry: 0 });
}

#[test]
fn what_stands_behind_others_is_bounded_and_then_all_are_taken_in_order() {
    let keys: Vec<_> = (0..40).map(|number| Some(u8::from(number % 2 == 1))).collect();
    let mut world = World::new(&keys, false, Limits { lines: 100, parked: 5 });
    run(&mut world, |number| number % 2 == 0);
    assert_eq!(world.order.parked, Parked { new: 5, retry: 0 });
    let over = world.stands.iter().filter(|stands| **stands == Stands::Over).count();
    assert_eq!(over, 6, "1, 3, 5, 7, 9 and 11 went; 12 waits, and what is behind it");
    world.run_dry();
}

#[test]
fn lines_are_bounded_too() {
    let keys: Vec<_> = (0..40).map(Some).collect();
    let mut world = World::new(&keys, false, Limits { lines: 3, parked: 100 });
    run(&mut world, |_| true);
    assert_eq!((world.started.len(), world.order.lines.len()), (3, 3));
    world.run_dry();
}

#[test]
fn events_without_a_key_wait_for_nobody_and_are_counted() {
    let keys = [Some(1), None, Some(1), None, None];
    let mut world = World::new(&keys, false, WIDE);
    run(&mut world, |number| number == 0);
    assert_eq!(world.started, [0, 1, 3, 4]);
    assert_eq!(world.unkeyed, 3);
}

#[test]
fn strict_is_one_line_for_all_with_or_without_a_payload_at_hand() {
    for hot in [true, false] {
        let mut world = World::new(&[Some(1), None, Some(2)], true, WIDE);
        if !hot {
            world.hot.clear();
        }
        run(&mut world, |number| number == 0);
        assert_eq!(world.started, [0]);
        world.let_time_pass();
        run(&mut world, |_| false);
        assert_eq!(world.started, [0, 0, 1, 2]);
    }
}

/// What was tried before there was an order stands by the log, not by the clock.
#[test]
fn several_retries_of_one_key_keep_their_order_whatever_their_times() {
    let keys = [Some(1); 4];
    let mut world = World::new(&keys, false, WIDE);
    (world.stands[0], world.stands[2]) = (Stands::Scheduled, Stands::Scheduled);
    world.kill(0);
    run(&mut world, |_| false);
    assert_eq!(world.started, [0; 0], "all wait for the first retry");
    world.due.insert(2);
    world.serve();
    run(&mut world, |_| false);
    assert_eq!(
        (world.started.len(), world.order.parked),
        (0, Parked { new: 2, retry: 1 }),
        "its time alone is not enough"
    );
    world.due.insert(0);
    world.serve();
    run(&mut world, |_| false);
    assert_eq!(world.started, [0, 1, 2, 3]);
}

#[test]
fn a_retry_that_cannot_be_read_any_more_makes_way() {
    let mut world = World::new(&[Some(1), Some(1)], false, WIDE);
    run(&mut world, |_| true);
    world.hot.clear();
    world.let_time_pass();
    world.take_in();
    world.ask_for_payloads();
    let lost = world.loads.pop_front().unwrap();
    world.order.unreadable(lost.id);
    world.told.push_back(Told::Settled(0, Stands::Over));
    world.advance();
    run(&mut world, |_| false);
    assert_eq!(world.started, [0, 1]);
}

#[test]
fn the_store_is_told_of_each_growth_and_of_large_shrinking() {
    let mut order = Order::new(by(true), 1);
    for (parked, told) in [
        ([0, 0], None),
        ([1, 0], Some([1, 0])),
        ([1, 0], None),
        ([100, 1], Some([100, 1])),
        ([60, 1], None),
        ([37, 0], Some([37, 0])),
        ([1, 0], None),
        ([0, 0], Some([0, 0])),
        ([0, 0], None),
    ] {
        let both = |[new, retry]: [usize; 2]| Parked { new, retry };
        let [new, retry] = parked;
        order.parked = Parked { new, retry };
        assert_eq!(order.report(), told.map(both), "{parked:?}");
    }
}
