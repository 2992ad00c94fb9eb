//! A hash table of places: four bytes each, open addressing, linear probing. A removal shifts back what follows, so there
//! are no tombstones and the table is never larger than its load asks for. It does not know what lies at a place: callers
//! say, with a hash that is uniform already.

/// Marks a free slot; no place has this number.
const FREE: u32 = u32::MAX;
/// Slots to begin with.
const FIRST_SLOTS: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// A power of two of them, at most three quarters taken; none at first.
    slots: Vec<u32>,
    len: usize,
}

impl Places {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes that the table takes.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<u32>()
    }

    /// The first place with this hash that is `wanted`, to be read or changed.
    pub(super) fn find(&mut self, hash: u64, wanted: impl Fn(u32) -> bool) -> Option<&mut u32> {
        let slot = self.slot_of(hash, wanted)?;
        self.slots.get_mut(slot)
    }

    /// Adds a place that is not there. `hash_of` gives the hash of any place.
    pub(super) fn insert(&mut self, place: u32, hash_of: impl Fn(u32) -> u64) {
        if (self.len + 1) * 4 > self.slots.len() * 3 {
            let larger = vec![FREE; (self.slots.len() * 2).max(FIRST_SLOTS)];
            for old in std::mem::replace(&mut self.slots, larger) {
                if old != FREE {
                    self.put(old, hash_of(old));
                }
            }
        }
        self.put(place, hash_of(place));
        self.len += 1;
    }

    /// Removes a place. Whether it was there.
    pub(super) fn remove(&mut self, place: u32, hash_of: impl Fn(u32) -> u64) -> bool {
        let Some(mut hole) = self.slot_of(hash_of(place), |found| found == place) else {
            return false;
        };
        self.len -= 1;
        let mut next = hole;
        loop {
            next = self.step(next);
            let moved = self.get(next);
            if moved == FREE {
                break;
            }
            // It may move back to the hole if it does not get before the slot where its search begins.
            let begin = self.begin(hash_of(moved));
            if self.distance(begin, next) >= self.distance(hole, next) {
                self.set(hole, moved);
                hole = next;
            }
        }
        self.set(hole, FREE);
        true
    }

    fn slot_of(&self, hash: u64, wanted: impl Fn(u32) -> bool) -> Option<usize> {
        if self.slots.is_empty() {
            return None;
        }
        let mut slot = self.begin(hash);
        // Ends: a quarter of the slots is free.
        loop {
            match self.get(slot) {
                FREE => return None,
                place if wanted(place) => return Some(slot),
                _ => slot = self.step(slot),
            }
        }
    }

    fn put(&mut self, place: u32, hash: u64) {
        let mut slot = self.begin(hash);
        while self.get(slot) != FREE {
            slot = self.step(slot);
        }
        self.set(slot, place);
    }

    fn begin(&self, hash: u64) -> usize {
        usize::try_from(hash & self.mask() as u64).unwrap_or(0)
    }

    fn step(&self, slot: usize) -> usize {
        (slot + 1) & self.mask()
    }

    fn distance(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & self.mask()
    }

    fn mask(&self) -> usize {
        self.slots.len().saturating_sub(1)
    }

    fn get(&self, slot: usize) -> u32 {
        self.slots.get(slot).copied().unwrap_or(FREE)
    }

    fn set(&mut self, slot: usize, place: u32) {
        if let Some(found) = self.slots.get_mut(slot) {
            *found = place;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Few hashes, so that they collide and wrap around the end.
        #[test]
        fn it_does_what_a_set_would(steps in proptest::collection::vec((any::<bool>(), 0u32..150), 0..600), hashes in 1u64..200) {
            let hash_of = |place: u32| u64::from(place).wrapping_mul(0x9e37_79b9_7f4a_7c15) % hashes + 60;
            let mut places = Places::default();
            let mut model = BTreeSet::new();
            for (add, place) in steps {
                let there = places.find(hash_of(place), |found| found == place).is_some();
                prop_assert_eq!(there, model.contains(&place));
                if add && model.insert(place) {
                    places.insert(place, hash_of);
                } else if !add {
                    prop_assert_eq!(places.remove(place, hash_of), model.remove(&place));
                }
                prop_assert_eq!(places.len(), model.len());
            }
            let all = (0..150).filter(|place| places.find(hash_of(*place), |found| found == *place).is_some());
            prop_assert_eq!(all.collect::<BTreeSet<_>>(), model);
        }
    }
}
