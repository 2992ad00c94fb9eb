//! Deliveries that wait for a time. The near ones are in a heap, exact to the millisecond; the far ones in coarse
//! buckets of 8 s, 48 bytes each and never touched until their bucket comes near.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::DeliveryId;
use super::feed::Lane;
use crate::clock::Age;

/// A delivery that waits for a time, or whose time has come and that waits for its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scheduled {
    /// When it is due.
    pub due: Age,
    /// Which one.
    pub id: DeliveryId,
    /// Its record's bytes.
    pub size: u32,
    /// Attempts made in this run.
    pub attempts: u32,
    /// When the first attempt of this run was made; zero before it.
    pub first_attempt: Age,
    /// Which lane it goes to.
    pub lane: Lane,
}

/// Width of a bucket: 2^13 ms.
const BUCKET_SHIFT: u32 = 13;

/// All that waits for a time.
#[derive(Debug, Default)]
pub struct Schedule {
    near: BinaryHeap<Reverse<Scheduled>>,
    far: BTreeMap<u64, Vec<Scheduled>>,
    /// Buckets before this one are in the heap.
    horizon: u64,
}

impl Schedule {
    /// Adds one.
    pub fn insert(&mut self, scheduled: Scheduled) {
        let bucket = scheduled.due.0 >> BUCKET_SHIFT;
        if bucket < self.horizon {
            self.near.push(Reverse(scheduled));
        } else {
            self.far.entry(bucket).or_default().push(scheduled);
        }
    }

    /// Takes the next one that is due.
    pub fn pop_due(&mut self, now: Age) -> Option<Scheduled> {
        self.advance(now);
        if self.near.peek()?.0.due > now {
            return None;
        }
        self.near.pop().map(|Reverse(scheduled)| scheduled)
    }

    /// When to look again.
    pub fn next_due(&self) -> Option<Age> {
        let near = self.near.peek().map(|Reverse(scheduled)| scheduled.due);
        let far = self.far.keys().next().map(|bucket| Age(bucket << BUCKET_SHIFT));
        near.into_iter().chain(far).min()
    }

    /// Takes out all that `matches`.
    pub fn remove_where(&mut self, matches: impl Fn(&Scheduled) -> bool) -> Vec<Scheduled> {
        let mut removed = Vec::new();
        let mut keep = |scheduled: &Scheduled| {
            let matched = matches(scheduled);
            if matched {
                removed.push(*scheduled);
            }
            !matched
        };
        self.near.retain(|Reverse(scheduled)| keep(scheduled));
        for bucket in self.far.values_mut() {
            bucket.retain(&mut keep);
        }
        self.far.retain(|_, bucket| !bucket.is_empty());
        removed
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Scheduled> {
        self.near.iter().map(|Reverse(scheduled)| scheduled).chain(self.far.values().flatten())
    }

    /// Moves the bucket that `now` is in, and the next, to the heap.
    fn advance(&mut self, now: Age) {
        let horizon = (now.0 >> BUCKET_SHIFT) + 2;
        if horizon <= self.horizon {
            return;
        }
        self.horizon = horizon;
        while let Some(entry) = self.far.first_entry() {
            if *entry.key() >= horizon {
                break;
            }
            self.near.extend(entry.remove().into_iter().map(Reverse));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::ConnectionId;

    fn scheduled(due: u64, slot: u32) -> Scheduled {
        let id = DeliveryId { connection: ConnectionId(slot % 3), segment: 1, slot, offset: 8 };
        Scheduled {
            due: Age(due),
            id,
            size: 1,
            attempts: 1,
            first_attempt: Age(0),
            lane: Lane::Retry,
        }
    }

    #[test]
    fn next_due_is_never_late() {
        let mut schedule = Schedule::default();
        schedule.insert(scheduled(100_000, 0));
        assert!(schedule.next_due().unwrap() <= Age(100_000));
        assert_eq!(schedule.pop_due(Age(99_999)), None);
        assert_eq!(schedule.next_due(), Some(Age(100_000)));
        assert!(schedule.pop_due(Age(100_000)).is_some());
        assert_eq!(schedule.next_due(), None);
    }

    proptest! {
        #[test]
        fn all_come_when_due_in_order(dues in proptest::collection::vec(0u64..200_000, 0..100), steps in proptest::collection::vec(1u64..30_000, 1..40)) {
            let mut schedule = Schedule::default();
            for (slot, due) in dues.iter().enumerate() {
                schedule.insert(scheduled(*due, u32::try_from(slot).unwrap()));
            }
            let mut expected = dues.clone();
            expected.sort_unstable();
            let mut came = Vec::new();
            let mut now = 0;
            for step in steps {
                now += step;
                while let Some(next) = schedule.pop_due(Age(now)) {
                    prop_assert!(next.due.0 <= now);
                    came.push(next.due.0);
                }
                prop_assert!(schedule.next_due().is_none_or(|due| schedule.iter().all(|s| s.due >= due)));
                prop_assert_eq!(came.len(), expected.iter().filter(|due| **due <= now).count());
            }
            prop_assert_eq!(&came[..], &expected[..came.len()]);
            let rest = schedule.remove_where(|s| s.id.connection == ConnectionId(1)).len();
            prop_assert_eq!(schedule.iter().count() + rest + came.len(), dues.len());
        }
    }
}
