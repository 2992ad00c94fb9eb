use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::clock::Age;
use crate::store::DeliveryId;
use crate::store::record::Reader;
use crate::store::schedule::{self, LANES, Scheduled};
use crate::store::tests::model_disk::ModelDisk;

const LIMITS: ShelfLimits = ShelfLimits { items: 8, block_items: 3 };

fn item(queue: u32, time: u64, slot: u32) -> Scheduled {
    let id = DeliveryId {
        connection: schedule::connection(queue),
        segment: slot % 4,
        slot,
        offset: slot + 7,
    };
    Scheduled {
        due: Age(time),
        id,
        size: slot + 1,
        attempts: slot,
        first_attempt: Age(time / 2),
        lane: LANES[queue as usize % 4],
    }
}

#[derive(Clone, Debug)]
enum Op {
    Insert(u32, u64),
    Advance(u64),
    Pop(u32),
    Remove(usize),
    Clear(u32),
    Page(u32, usize),
    Reopen,
    Save,
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        20 => (0u32..3, 0u64..200).prop_map(|(queue, time)| Op::Insert(queue, time)),
        3 => (1u64..30).prop_map(Op::Advance),
        8 => (0u32..3).prop_map(Op::Pop),
        3 => any::<prop::sample::Index>().prop_map(|index| Op::Remove(index.index(1000))),
        1 => (0u32..3).prop_map(Op::Clear),
        2 => (0u32..3, 1usize..20).prop_map(|(queue, limit)| Op::Page(queue, limit)),
        1 => Just(Op::Reopen),
        1 => Just(Op::Save),
    ]
}

/// The shelf beside a sorted map.
struct Pair {
    disk: ModelDisk,
    shelf: Shelf<Scheduled>,
    model: BTreeMap<(u32, Key), Scheduled>,
    now: u64,
    runs: u32,
    slots: u32,
}

impl Pair {
    fn new() -> Pair {
        Pair {
            disk: ModelDisk::new(1),
            shelf: Shelf::new(LIMITS),
            model: BTreeMap::new(),
            now: 0,
            runs: 0,
            slots: 0,
        }
    }

    fn of(&self, queue: u32) -> Vec<Scheduled> {
        self.model.iter().filter(|((q, _), _)| *q == queue).map(|(_, item)| *item).collect()
    }

    fn ripen(&mut self) {
        while self.shelf.ripen(self.now).unwrap().is_some() {}
        let next = self.model.keys().map(|(_, key)| key.time).filter(|time| *time > self.now);
        let (said, next) = (self.shelf.next_ripening(), next.min());
        // It may look too early, for something that was removed, but never too late.
        assert!(next.is_none_or(|next| said.is_some_and(|said| said <= next)), "{said:?} {next:?}");
    }

    fn run(&mut self, op: &Op) {
        match *op {
            Op::Insert(queue, time) => {
                self.slots += 1;
                let item = item(queue, time, self.slots);
                self.shelf.insert(item);
                self.model.insert((queue, item.key()), item);
            }
            Op::Advance(by) => self.now += by,
            Op::Pop(queue) => {
                self.ripen();
                let expected = self.of(queue).first().copied();
                let expected = expected.filter(|item| item.due.0 <= self.now);
                assert_eq!(self.shelf.pop_ripe(queue).unwrap(), expected);
                self.model.retain(|_, item| Some(*item) != expected);
            }
            Op::Remove(index) => {
                let Some(&(queue, key)) = self.model.keys().nth(index % self.model.len().max(1))
                else {
                    return;
                };
                let expected = self.model.remove(&(queue, key));
                assert_eq!(self.shelf.remove(queue, key).unwrap(), expected);
                assert_eq!(self.shelf.remove(queue, key).unwrap(), None);
            }
            Op::Clear(queue) => {
                self.shelf.clear(queue);
                self.model.retain(|(q, _), _| *q != queue);
            }
            Op::Page(queue, limit) => {
                let (mut after, mut all) = (None, Vec::new());
                loop {
                    let page = self.shelf.page(queue, after, limit).unwrap();
                    all.extend(page.iter().copied());
                    let Some(last) = page.last() else { break };
                    after = Some(last.key());
                }
                assert_eq!(all, self.of(queue));
            }
            Op::Reopen => self.reopen(),
            Op::Save => {
                for run in self.shelf.saved() {
                    self.disk.remove(&super::super::file::run_name(run)).unwrap();
                }
            }
        }
        while self.shelf.is_full() {
            self.runs += 1;
            self.shelf.spill(&self.disk, self.runs, self.runs.into()).unwrap();
        }
    }

    /// A snapshot and a start from it.
    fn reopen(&mut self) {
        let states: Vec<RunState> = self.shelf.run_states().collect();
        let near: Vec<Scheduled> = self.shelf.in_memory().copied().collect();
        self.shelf = Shelf::new(LIMITS);
        for state in states {
            let mut bytes = Vec::new();
            state.encode(&mut bytes);
            let read = RunState::decode(&mut Reader::new(&bytes)).unwrap();
            assert_eq!(read, state);
            let found = self.shelf.reopen(&self.disk, &read, |_| true).unwrap();
            assert_eq!(found, Found::default());
        }
        for item in near {
            self.shelf.insert(item);
        }
        while self.shelf.is_full() {
            self.runs += 1;
            self.shelf.spill(&self.disk, self.runs, self.runs.into()).unwrap();
        }
    }

    fn check(&mut self) {
        self.ripen();
        let mut seen = Vec::new();
        self.shelf
            .look(None, None, |item, spot| {
                assert!(self.shelf.is_at(item, spot));
                seen.push(*item);
            })
            .unwrap();
        seen.sort_unstable_by_key(|item| (item.queue(), item.key()));
        assert_eq!(seen, self.model.values().copied().collect::<Vec<_>>());
        let total: u64 = self.model.values().map(|item| u64::from(item.size)).sum();
        assert_eq!(self.shelf.total_bytes(), total);
        let first = self.model.keys().map(|(_, key)| key.time).min();
        let said = self.shelf.first_time();
        assert!(said.is_some() == first.is_some() && said <= first, "{said:?} {first:?}");
        for queue in 0..3 {
            let items = self.of(queue);
            assert_eq!(self.shelf.count(queue), items.len() as u64);
            let bytes: u64 = items.iter().map(|item| u64::from(item.size)).sum();
            assert_eq!(self.shelf.bytes(queue), bytes);
            let ripe = items.iter().filter(|item| item.due.0 <= self.now).count();
            assert_eq!(self.shelf.ripe(queue), ripe as u64, "queue {queue} at {}", self.now);
            let oldest = items.iter().map(Item::log_order).min();
            let said = self.shelf.oldest(queue, |_| true).unwrap();
            let said = said.map(|item| item.log_order());
            assert!(said.is_some() == oldest.is_some() && said <= oldest);
            let exact = self.shelf.oldest(queue, |_| false).unwrap();
            assert_eq!(exact.map(|item| item.log_order()), oldest);
        }
        let mut in_segment = 0;
        self.shelf.look(None, Some(2), |_, _| in_segment += 1).unwrap();
        assert_eq!(in_segment, self.model.values().filter(|item| item.id.segment == 2).count());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn a_shelf_is_a_sorted_map_of_which_little_is_in_memory(ops in proptest::collection::vec(any_op(), 1..300)) {
        let mut pair = Pair::new();
        for op in &ops {
            pair.run(op);
            prop_assert!(!pair.shelf.is_full());
            pair.check();
        }
    }
}

#[test]
fn many_runs_with_little_left_become_few() {
    let mut pair = Pair::new();
    pair.shelf = Shelf::new(ShelfLimits { items: 64, block_items: 8 });
    for round in 0..400 {
        pair.now += 10;
        pair.run(&Op::Insert(0, 1_000_000 + round));
        for _ in 0..60 {
            pair.run(&Op::Insert(0, pair.now + 40));
            pair.run(&Op::Pop(0));
        }
    }
    assert!(pair.runs > 60 && pair.shelf.runs.len() <= 2 * MANY_RUNS, "{}", pair.shelf.runs.len());
    pair.check();
}

#[test]
fn a_run_that_cannot_be_written_changes_nothing() {
    let mut pair = Pair::new();
    for time in 0..20 {
        pair.shelf.insert(item(0, time, u32::try_from(time).unwrap()));
    }
    pair.disk.set_free(0);
    assert!(pair.shelf.spill(&pair.disk, 1, 1).is_err());
    assert!(pair.shelf.is_overfull() && pair.shelf.in_memory().count() == 20);
    pair.disk.set_free(u64::MAX);
    pair.shelf.spill(&pair.disk, 1, 1).unwrap();
    assert!(!pair.shelf.is_overfull() && pair.shelf.count(0) == 20);
}

#[test]
fn a_damaged_block_costs_what_it_held_and_is_said() {
    let mut pair = Pair::new();
    for time in 0..14 {
        pair.shelf.insert(item(0, time, u32::try_from(time).unwrap()));
    }
    pair.shelf.spill(&pair.disk, 1, 1).unwrap();
    let states: Vec<RunState> = pair.shelf.run_states().collect();
    let name = super::super::file::run_name(1);
    let file = pair.disk.open(&name).unwrap();
    let end = file.length().unwrap();
    file.write_all_at(&[0xaa], end - 10).unwrap();
    let mut shelf = Shelf::<Scheduled>::new(LIMITS);
    let found = shelf.reopen(&pair.disk, &states[0], |_| true).unwrap();
    assert_eq!(found, Found { damaged: 1, unusable: false });
    assert_eq!(shelf.count(0), 6, "the last block has one item");
    file.set_len(end - 8).unwrap();
    let mut shelf = Shelf::<Scheduled>::new(LIMITS);
    let found = shelf.reopen(&pair.disk, &states[0], |_| true).unwrap();
    assert!(found.unusable && shelf.count(0) == 0);
}
