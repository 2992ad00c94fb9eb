//! Idempotency keys as the store keeps them: a fingerprint of 48 bytes each.
//!
//! A key is written with its event, in the event's own record (`event::Content::key`), so it is as durable as the event
//! and costs no write of its own. What else there is of it saves reading payloads at a start:
//!
//! * the index of a sealed segment lists the segment's keys ([`super::segment_index`]);
//! * before a segment is given back, those of its keys that are still remembered go to a key log ([`super::key_log`]).
//!
//! So a start reads the key logs, the indexes, and scans the one segment that was not sealed. [`KeyRecord::of`] makes the
//! same fingerprint at each of these places.
//!
//! Whoever answers producers holds the table (`ingress::idempotency`); it gets [`Keys`] when the store opens, hands a
//! [`KeyRecord`] in with each append, and tells the store through [`Floor`] which keys fell out. Ages are store time, so no
//! step of the wall clock forgets a key, or keeps one.
//!
//! ```text
//! key, 48 bytes
//!    0  16 bytes: SHA-256 of (u64 length of the source, source, key), cut
//!   16   8 bytes: SHA-256 of (u64 length of the type, type, body), cut
//!   24  16 bytes: the event's id
//!   40  u64: store time of acceptance in ms, times 65,536, plus the number of deliveries queued, at most 65,535
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::record::{EventHead, Reader};
use crate::clock::Age;
use crate::event::{Content, EventId};

/// Bytes of a key in a file, and in memory.
pub const KEY_BYTES: usize = 48;

/// What tells requests apart: the key within its source, and what was posted with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    /// Of source and key: 128 bits, so that two keys are never taken for one.
    pub key: [u8; 16],
    /// Of type and body: 64 bits are enough, because it is only compared under one key.
    pub body: [u8; 8],
}

impl Fingerprint {
    /// Of a content that has a key.
    pub fn of(content: &Content) -> Option<Fingerprint> {
        let key = content.key();
        (!key.is_empty()).then(|| Fingerprint {
            key: digest(content.source(), key.as_bytes()),
            body: digest(content.kind(), &content.body()),
        })
    }
}

/// The first bytes of SHA-256 over two parts; the length keeps them apart.
fn digest<const N: usize>(first: &str, second: &[u8]) -> [u8; N] {
    let mut hash = Sha256::new();
    hash.update((first.len() as u64).to_le_bytes());
    hash.update(first.as_bytes());
    hash.update(second);
    let mut cut = [0; N];
    for (to, from) in cut.iter_mut().zip(hash.finalize()) {
        *to = from;
    }
    cut
}

/// A key whose event is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// Which key, which body.
    pub print: Fingerprint,
    /// The event.
    pub id: EventId,
    /// Age and number of deliveries, as in the file.
    when: u64,
}

impl KeyRecord {
    /// A key of an event that was accepted at `age` and queued for so many connections.
    pub fn new(print: Fingerprint, id: EventId, age: Age, queued: usize) -> KeyRecord {
        let queued = u64::from(u16::try_from(queued).unwrap_or(u16::MAX));
        let when = (age.0.min(u64::MAX >> 16) << 16) | queued;
        KeyRecord { print, id, when }
    }

    /// Store time at acceptance.
    pub fn age(&self) -> Age {
        Age(self.when >> 16)
    }

    /// For how many connections the event was queued.
    pub fn queued(&self) -> u64 {
        self.when & 0xffff
    }

    /// The key of an event's record, if it has one. `body` is the record's.
    pub(super) fn of(head: &EventHead, body: &[u8]) -> Option<KeyRecord> {
        let content = body.get(head.content_at..)?;
        if !Content::has_key(content) {
            return None;
        }
        let content = Content::decode(Bytes::copy_from_slice(content)).ok()?;
        let queued = head.routes.iter().filter(|route| route.dead.is_none());
        let print = Fingerprint::of(&content)?;
        Some(KeyRecord::new(print, head.id, head.accepted_age, queued.count()))
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.print.key);
        out.extend_from_slice(&self.print.body);
        out.extend_from_slice(self.id.0.as_bytes());
        out.extend_from_slice(&self.when.to_le_bytes());
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Option<KeyRecord> {
        let print = Fingerprint {
            key: *reader.take(16)?.first_chunk()?,
            body: *reader.take(8)?.first_chunk()?,
        };
        let id = EventId(Uuid::from_slice(reader.take(16)?).ok()?);
        let when = reader.u64()?;
        Some(KeyRecord { print, id, when })
    }
}

/// How long and how many keys are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyLimits {
    /// A key is remembered for this long,
    pub window: Duration,
    /// or until there are so many newer ones.
    pub max_keys: usize,
}

/// The age below which keys are forgotten because of their number. Shared between who forgets them and the store, which
/// then does not keep them on disk.
#[derive(Clone, Debug, Default)]
pub struct Floor(Arc<AtomicU64>);

impl Floor {
    /// Forgets what was accepted before this.
    pub fn raise(&self, to: Age) {
        self.0.fetch_max(to.0, Ordering::Relaxed);
    }

    /// Nothing older than this is remembered at `now`.
    pub fn at(&self, now: Age, window: Duration) -> Age {
        let expired = now.0.saturating_sub(crate::clock::millis(window));
        Age(self.0.load(Ordering::Relaxed).max(expired))
    }
}

/// What an open found of idempotency keys.
#[derive(Clone, Debug)]
pub struct Keys {
    /// The newest ones within the limits, oldest first.
    pub found: Vec<KeyRecord>,
    /// To be raised when keys fall out.
    pub floor: Floor,
}

impl Keys {
    /// What is remembered of what was read.
    pub(super) fn new(newest: Newest, limits: KeyLimits, now: Age) -> Keys {
        let floor = Floor::default();
        let found = newest.finish(floor.at(now, limits.window));
        if let Some(oldest) = found.first().filter(|_| found.len() >= limits.max_keys) {
            floor.raise(oldest.age());
        }
        Keys { found, floor }
    }
}

/// Gathers the newest keys in bounded memory: never more than twice the limit.
#[derive(Debug)]
pub(super) struct Newest {
    keys: Vec<KeyRecord>,
    max: usize,
}

impl Default for Newest {
    fn default() -> Newest {
        Newest::new(usize::MAX)
    }
}

impl Newest {
    pub(super) fn new(max: usize) -> Newest {
        Newest { keys: Vec::new(), max }
    }

    pub(super) fn push(&mut self, key: KeyRecord) {
        self.keys.push(key);
        if self.keys.len() >= self.max.saturating_mul(2).max(1024) {
            self.cut();
        }
    }

    /// The greatest age pushed, if any was.
    pub(super) fn latest(&self) -> Option<Age> {
        self.keys.iter().map(KeyRecord::age).max()
    }

    /// The newest, from `floor` on, oldest first.
    pub(super) fn finish(mut self, floor: Age) -> Vec<KeyRecord> {
        self.keys.retain(|key| key.age() >= floor);
        self.cut();
        self.keys.sort_by_key(KeyRecord::age);
        self.keys
    }

    fn cut(&mut self) {
        // The same key can be there twice: in its segment's index and, after a stop at the wrong moment, in a key log.
        self.keys.sort_unstable_by_key(|key| (std::cmp::Reverse(key.age()), key.id));
        self.keys.dedup();
        self.keys.truncate(self.max);
    }
}

/// The keys of one segment, oldest first, at most so many.
pub(super) fn push_bounded(keys: &mut VecDeque<KeyRecord>, key: KeyRecord, max: usize) {
    while keys.len() >= max.max(1) {
        keys.pop_front();
    }
    keys.push_back(key);
}

#[cfg(test)]
pub(super) fn key_for_tests(number: u64, age: u64) -> KeyRecord {
    let mut key = [0; 16];
    for (to, from) in key.iter_mut().zip(number.to_le_bytes()) {
        *to = from;
    }
    let print = Fingerprint { key, body: [7; 8] };
    let id = EventId(Uuid::from_u128(u128::from(number)));
    KeyRecord::new(print, id, Age(age), 2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::ContentBuilder;

    fn content(source: &str, kind: &str, key: &str, body: &[u8]) -> Content {
        let mut builder = ContentBuilder::new(source, kind, key, body.len());
        builder.header("content-type", b"text/plain");
        builder.body(body);
        builder.finish()
    }

    #[test]
    fn a_key_takes_what_it_says() {
        assert_eq!(size_of::<KeyRecord>(), KEY_BYTES);
        let mut out = Vec::new();
        key_for_tests(1, 2).encode(&mut out);
        assert_eq!(out.len(), KEY_BYTES);
    }

    #[test]
    fn fingerprints_tell_source_key_type_and_body_apart() {
        let print = |source, kind, key, body| Fingerprint::of(&content(source, kind, key, body));
        let first = print("default", "t", "k", b"body").unwrap();
        assert_eq!(print("default", "t", "k", b"body"), Some(first));
        assert_eq!(print("default", "t", "", b"body"), None);
        for (source, key) in [("other", "k"), ("default", "l"), ("defaultk", "")] {
            if let Some(other) = print(source, "t", key, b"body") {
                assert_ne!(other.key, first.key, "{source} {key}");
                assert_eq!(other.body, first.body);
            }
        }
        for (kind, body) in [("u", &b"body"[..]), ("t", b"bodY"), ("tb", b"ody"), ("", b"tbody")] {
            let other = print("default", kind, "k", body).unwrap();
            assert_eq!(other.key, first.key);
            assert_ne!(other.body, first.body, "{kind}");
        }
    }

    proptest! {
        #[test]
        fn keys_read_back(number in any::<u64>(), age in 0u64..1 << 48, queued in 0usize..70_000) {
            let key = key_for_tests(number, 0);
            let key = KeyRecord::new(key.print, key.id, Age(age), queued);
            prop_assert_eq!(key.age(), Age(age));
            prop_assert_eq!(key.queued(), queued.min(65_535) as u64);
            let mut out = Vec::new();
            key.encode(&mut out);
            prop_assert_eq!(KeyRecord::decode(&mut Reader::new(&out)), Some(key));
        }

        #[test]
        fn the_newest_are_gathered(ages in proptest::collection::vec(0u64..5000, 0..4000), max in 1usize..800, floor in 0u64..5000) {
            let mut newest = Newest::new(max);
            for (number, age) in (0..).zip(&ages) {
                newest.push(key_for_tests(number, *age));
            }
            let found: Vec<u64> = newest.finish(Age(floor)).iter().map(|key| key.age().0).collect();
            let mut expected: Vec<u64> = ages.iter().copied().filter(|age| *age >= floor).collect();
            expected.sort_unstable();
            let expected = expected.split_off(expected.len().saturating_sub(max));
            prop_assert_eq!(found, expected);
        }
    }
}
