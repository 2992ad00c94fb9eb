//! Several keys of one connection, some of which end.

use std::cmp::Reverse;

/// Keys of one connection; a connection has few.
pub const KEYS_MAX: usize = 16;

/// A key, and when it stops signing.
#[derive(Clone, Debug, PartialEq)]
pub struct Dated<K> {
    /// The key.
    pub key: K,
    /// Unix seconds from which on it does not sign; `None`: it always does.
    pub until: Option<u64>,
}

/// The keys of one connection, the newest first: those that never end, then the one that ends last. Among equals the order of
/// the file counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Keys<K>(Vec<Dated<K>>);

impl<K> Keys<K> {
    /// Puts them in order.
    pub fn new(mut keys: Vec<Dated<K>>) -> Keys<K> {
        keys.sort_by_key(|dated| Reverse(dated.until.unwrap_or(u64::MAX)));
        Keys(keys)
    }

    /// Those that sign at `now`, in Unix seconds.
    pub fn live(&self, now: u64) -> impl Iterator<Item = &K> {
        let live = move |dated: &&Dated<K>| dated.until.is_none_or(|until| now < until);
        self.0.iter().filter(live).map(|dated| &dated.key)
    }

    /// All of them, also those that have ended.
    pub fn all(&self) -> impl Iterator<Item = &K> {
        self.0.iter().map(|dated| &dated.key)
    }

    /// When the last one ends, in Unix seconds; `None` when one of them never does.
    pub fn ends(&self) -> Option<u64> {
        self.0.first()?.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(untils: &[Option<u64>]) -> Keys<usize> {
        let dated = untils.iter().enumerate().map(|(key, until)| Dated { key, until: *until });
        Keys::new(dated.collect())
    }

    #[test]
    fn the_newest_comes_first_and_what_has_ended_is_left_out() {
        let keys = keys(&[Some(100), None, Some(200), None]);
        let live = |now| keys.live(now).copied().collect::<Vec<_>>();
        assert_eq!(live(99), [1, 3, 2, 0]);
        assert_eq!(live(100), [1, 3, 2]);
        assert_eq!(live(200), [1, 3]);
        assert_eq!(keys.ends(), None);
    }

    #[test]
    fn the_end_is_that_of_the_last() {
        let keys = keys(&[Some(100), Some(200)]);
        assert_eq!(keys.ends(), Some(200));
        assert_eq!(keys.live(200).count(), 0);
    }
}
