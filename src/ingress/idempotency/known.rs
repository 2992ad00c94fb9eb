//! Keys whose events are stored: a ring in order of acceptance, and a hash table of places in it.
//!
//! 48 bytes for the key and 5 to 11 for its place, so at most 60 together; memory is taken as keys come, up to the limit.
//! The oldest go when their window is over, or earlier when there are too many.

use std::collections::VecDeque;
use std::time::Duration;

use super::places::Places;
use crate::clock::Age;
use crate::store::keys::{Floor, KeyLimits, KeyRecord};

/// Expired keys dropped per insertion, at the most: bounds what one post pays for others.
const DROPPED_AT_ONCE: usize = 4;
/// Room for so many keys is taken first.
const FIRST_ROOM: usize = 1024;

/// Places count to here and begin again; there are never so many keys.
const PLACES: u32 = (1 << 31) - 1;

/// See the module.
#[derive(Debug)]
pub(super) struct Known {
    limits: KeyLimits,
    floor: Floor,
    /// Oldest first, but for the order within a few commits. One whose key came again after its window is still here,
    /// but not in the table.
    ring: VecDeque<KeyRecord>,
    /// The place of the ring's front, counted from the first key ever, within [`PLACES`].
    front: u32,
    /// Places by key.
    places: Places,
}

impl Known {
    pub(super) fn new(limits: KeyLimits, floor: Floor) -> Known {
        Known { limits, floor, ring: VecDeque::new(), front: 0, places: Places::default() }
    }

    /// A key, unless its window is over.
    pub(super) fn find(&mut self, key: [u8; 16], now: Age) -> Option<KeyRecord> {
        let Known { ring, front, places, .. } = self;
        let place = places.find(hash(key), |place| {
            at(ring, *front, place).is_some_and(|found| found.print.key == key)
        });
        let found = *at(ring, *front, *place?)?;
        (now.since(found.age()) < self.limits.window).then_some(found)
    }

    /// Remembers a key; an older one of the same name is forgotten. Returns how many others fell out before their time.
    pub(super) fn insert(&mut self, key: KeyRecord, now: Age) -> u64 {
        for _ in 0..DROPPED_AT_ONCE {
            self.drop_expired(now);
        }
        let mut evicted = 0;
        while self.ring.len() >= self.limits.max_keys.max(1) {
            evicted += u64::from(self.evict(now));
        }
        if self.ring.len() == self.ring.capacity() {
            // Never more than the limit: growing by itself would overshoot.
            let most = self.limits.max_keys.max(1) - self.ring.len();
            self.ring.reserve_exact(self.ring.len().max(FIRST_ROOM).min(most));
        }
        let length = u32::try_from(self.ring.len()).unwrap_or(PLACES);
        let place = (self.front + length) & PLACES;
        self.ring.push_back(key);
        let (ring, front, name) = (&self.ring, self.front, key.print.key);
        let same = |place: u32| at(ring, front, place).is_some_and(|found| found.print.key == name);
        match self.places.find(hash(name), same) {
            Some(found) => *found = place,
            None => self.places.insert(place, |place| hash_at(ring, front, place)),
        }
        evicted
    }

    /// How many keys there are.
    pub(super) fn count(&mut self, now: Age) -> usize {
        while self.drop_expired(now) {}
        self.places.len()
    }

    /// How long a key is really remembered: shorter than configured when there are too many.
    pub(super) fn window(&self, now: Age) -> Duration {
        let window = self.limits.window;
        let full = self.ring.len() >= self.limits.max_keys;
        let oldest = self.ring.front().filter(|_| full);
        oldest.map_or(window, |oldest| window.min(now.since(oldest.age())))
    }

    fn drop_expired(&mut self, now: Age) -> bool {
        let expired = |key: &KeyRecord| now.since(key.age()) >= self.limits.window;
        self.ring.front().is_some_and(expired) && self.pop().is_some()
    }

    /// Drops the oldest because of the number. Whether it was still remembered.
    fn evict(&mut self, now: Age) -> bool {
        let Some((oldest, counted)) = self.pop() else {
            return false;
        };
        let next = self.ring.front().unwrap_or(&oldest);
        self.floor.raise(next.age());
        counted && now.since(oldest.age()) < self.limits.window
    }

    /// Takes the oldest out, and whether it was in the table.
    fn pop(&mut self) -> Option<(KeyRecord, bool)> {
        let oldest = *self.ring.front()?;
        let (ring, front) = (&self.ring, self.front);
        let counted = self.places.remove(front, |place| hash_at(ring, front, place));
        self.ring.pop_front();
        self.front = (front + 1) & PLACES;
        Some((oldest, counted))
    }
}

fn at(ring: &VecDeque<KeyRecord>, front: u32, place: u32) -> Option<&KeyRecord> {
    ring.get((place.wrapping_sub(front) & PLACES) as usize)
}

fn hash_at(ring: &VecDeque<KeyRecord>, front: u32, place: u32) -> u64 {
    at(ring, front, place).map_or(0, |key| hash(key.print.key))
}

/// A fingerprint is a hash already: any of its bytes will do.
fn hash(key: [u8; 16]) -> u64 {
    key.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::event::EventId;
    use crate::store::keys::Fingerprint;

    fn key(number: u8, id: u128, age: Age) -> KeyRecord {
        let print = Fingerprint { key: [number; 16], body: [0; 8] };
        KeyRecord::new(print, EventId(Uuid::from_u128(id)), age, 1)
    }

    fn known(window_ms: u64, max_keys: usize) -> (Known, Floor) {
        let floor = Floor::default();
        let limits = KeyLimits { window: Duration::from_millis(window_ms), max_keys };
        (Known::new(limits, floor.clone()), floor)
    }

    #[test]
    fn the_oldest_fall_out_and_the_window_shrinks() {
        let (mut known, floor) = known(1000, 10);
        // Places begin again in the middle of this.
        known.front = PLACES - 7;
        let mut evicted = 0;
        for number in 0..15 {
            evicted += known
                .insert(key(number, u128::from(number), Age(number.into())), Age(number.into()));
        }
        assert_eq!((evicted, known.count(Age(14))), (5, 10));
        assert!(known.find([4; 16], Age(14)).is_none());
        assert!(known.find([5; 16], Age(14)).is_some());
        assert_eq!(known.window(Age(14)), Duration::from_millis(9));
        assert_eq!(floor.at(Age(14), Duration::from_secs(1)), Age(5));
        assert_eq!(known.count(Age(1009)), 5);
        assert_eq!(known.window(Age(1009)), Duration::from_millis(1000));
        assert_eq!(known.count(Age(2000)), 0);
    }

    #[test]
    fn memory_stays_within_the_limit() {
        let (mut known, _) = known(u64::MAX, 30_000);
        for number in 0..100_000u32 {
            let mut key = key(0, 1, Age(number.into()));
            // Spread as a real fingerprint is.
            let hash = u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
            key.print.key = hash.to_be_bytes();
            known.insert(key, Age(number.into()));
        }
        assert_eq!(known.ring.capacity(), 30_000);
        let bytes = known.ring.capacity() * size_of::<KeyRecord>() + known.places.bytes();
        assert!(bytes / 30_000 < 60, "{bytes} bytes");
    }

    proptest! {
        /// Against the obvious: a map by key, and the last `max` insertions.
        #[test]
        fn it_does_what_a_map_would(
            steps in proptest::collection::vec((0u8..20, 0u64..30), 1..400),
            window in 1u64..200,
            max in 1usize..16,
        ) {
            let (mut known, floor) = known(window, max);
            let mut inserted: Vec<KeyRecord> = Vec::new();
            let (mut now, mut evicted, mut hits) = (0, 0, 0);
            for (id, (number, passed)) in (0u128..).zip(steps) {
                now += passed;
                let last = inserted.len().saturating_sub(max);
                let model: HashMap<_, _> = inserted[last..].iter().map(|key| (key.print.key, *key)).collect();
                let expected = model.get(&[number; 16]).filter(|key| now - key.age().0 < window);
                let found = known.find([number; 16], Age(now));
                // Records of keys that came again take a place until they are the oldest, so a key may stay longer where
                // expired ones left early: never shorter, and never with another event.
                prop_assert!(expected.is_none() || found.as_ref() == expected, "{number} at {now}");
                if let Some(found) = found {
                    hits += 1;
                    prop_assert_eq!(&found, inserted.iter().rfind(|key| key.print.key == [number; 16]).unwrap());
                    prop_assert!(now - found.age().0 < window);
                    prop_assert!(found.age() >= floor.at(Age(now), Duration::from_millis(window)));
                } else {
                    let new = key(number, id, Age(now));
                    inserted.push(new);
                    evicted += known.insert(new, Age(now));
                }
                prop_assert!(known.ring.len() <= max);
                prop_assert!(known.count(Age(now)) <= max);
            }
            prop_assert!(hits + inserted.len() > 0 && evicted <= inserted.len() as u64);
        }
    }
}
