//! A set of small integers, one bit each: which of a connection's deliveries in a segment are no longer waiting for
//! their first attempt.

/// A growing bit set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bits {
    words: Vec<u64>,
}

impl Bits {
    /// From words, lowest bits first.
    pub fn from_words(words: Vec<u64>) -> Bits {
        Bits { words }
    }

    /// The words, lowest bits first.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Whether `index` is in the set.
    pub fn contains(&self, index: u32) -> bool {
        self.words.get(index as usize / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    /// Adds `index`; whether it is new.
    pub fn insert(&mut self, index: u32) -> bool {
        let at = index as usize / 64;
        if at >= self.words.len() {
            self.words.resize(at + 1, 0);
        }
        let Some(word) = self.words.get_mut(at) else {
            return false;
        };
        let bit = 1 << (index % 64);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// Adds all from `first` on and before `end`.
    pub fn insert_range(&mut self, first: u32, end: u32) {
        let words = (end as usize).div_ceil(64);
        if first < end && words > self.words.len() {
            self.words.resize(words, 0);
        }
        let mut index = first;
        while index < end {
            let next = ((index / 64 + 1) * 64).min(end);
            let bits = u64::MAX >> (64 - (next - index));
            if let Some(word) = self.words.get_mut(index as usize / 64) {
                *word |= bits << (index % 64);
            }
            index = next;
        }
    }

    /// Adds all that `other` has.
    pub fn insert_all(&mut self, other: &Bits) {
        if other.words.len() > self.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
    }

    /// Takes `index` out.
    pub fn remove(&mut self, index: u32) {
        if let Some(word) = self.words.get_mut(index as usize / 64) {
            *word &= !(1 << (index % 64));
        }
    }

    /// How many below `end` are in the set.
    pub fn count_below(&self, end: u32) -> u64 {
        let whole = end as usize / 64;
        let mut count: u64 =
            self.words.iter().take(whole).map(|word| u64::from(word.count_ones())).sum();
        if let Some(word) = self.words.get(whole) {
            let mask = (1u64 << (end % 64)) - 1;
            count += u64::from((word & mask).count_ones());
        }
        count
    }

    /// The first index at or after `from`, and before `end`, that is not in the set.
    pub fn first_absent(&self, from: u32, end: u32) -> Option<u32> {
        let mut index = from;
        while index < end {
            let word = self.words.get(index as usize / 64).copied().unwrap_or(0);
            let absent = !word >> (index % 64);
            if absent != 0 {
                let found = index + absent.trailing_zeros();
                return (found < end).then_some(found);
            }
            index = (index / 64 + 1) * 64;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_a_set(inserted in proptest::collection::btree_set(0u32..300, 0..200), from in 0u32..320, end in 0u32..320) {
            let mut bits = Bits::default();
            for index in &inserted {
                prop_assert!(bits.insert(*index));
                prop_assert!(!bits.insert(*index));
            }
            for index in 0..320 {
                prop_assert_eq!(bits.contains(index), inserted.contains(&index));
            }
            let below = inserted.iter().filter(|index| **index < end).count() as u64;
            prop_assert_eq!(bits.count_below(end), below);
            let expected = (from..end).find(|index| !inserted.contains(index));
            prop_assert_eq!(bits.first_absent(from, end), expected);
            bits.insert_range(from, end);
            for index in 0..330 {
                let there = inserted.contains(&index) || (from..end).contains(&index);
                prop_assert_eq!(bits.contains(index), there);
            }
            for index in from..end {
                bits.remove(index);
                prop_assert!(!bits.contains(index));
            }
        }
    }
}
