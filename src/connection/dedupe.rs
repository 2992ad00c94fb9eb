//! Deduplication: which events are the same, and for how long the first of them is remembered.
//!
//! What makes two events the same is a [`Key`] of 16 bytes: of the body as a whole, of some values, or of the body without
//! some. The window counts in store time from the first event; a duplicate does not prolong it. At most
//! [`KEYS_MAX`] keys are remembered, the oldest go first.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::json::Json;
use super::parts::Parts;
use super::path::{Path, Step};
use crate::clock::Age;
use crate::event::EventId;

/// Keys remembered for one connection. Each takes about 80 bytes.
pub const KEYS_MAX: usize = 100_000;

/// `[connection.dedupe]`
#[derive(Clone, Debug, PartialEq)]
pub struct Dedupe {
    /// How long an event is remembered; 1 s to 24 h.
    pub window: Duration,
    /// What makes two events the same.
    pub fields: Fields,
}

/// What makes two events the same.
#[derive(Clone, Debug, PartialEq)]
pub enum Fields {
    /// The bytes of the body.
    Body,
    /// These values. An event that has none of them is never a duplicate.
    Include(Vec<Path>),
    /// The JSON body without these values; the bytes of a body that is not JSON.
    Exclude(Vec<Path>),
}

/// The start of a SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key([u8; 16]);

impl Dedupe {
    /// The event's key; `None` for an event that is never a duplicate.
    pub fn key(&self, parts: &Parts<'_>) -> Option<Key> {
        let mut hash = Sha256::new();
        match &self.fields {
            Fields::Body => hash.update(parts.event().content.body_bytes()),
            Fields::Include(paths) => {
                let mut found = false;
                for path in paths {
                    path.each(parts, &mut |value| {
                        found = true;
                        hash.update([1]);
                        canonical(&value, &mut hash, &[]);
                    });
                    hash.update([0]);
                }
                if !found {
                    return None;
                }
            }
            Fields::Exclude(paths) => match parts.body() {
                Ok(body) => {
                    let steps: Vec<_> = paths.iter().filter_map(Path::steps).collect();
                    canonical(body, &mut hash, &steps);
                }
                Err(_) => hash.update(parts.event().content.body_bytes()),
            },
        }
        let hash: [u8; 32] = hash.finalize().into();
        hash.first_chunk().map(|first| Key(*first))
    }
}

/// Hashes a value, whatever the order of its members, without what the paths lead to.
fn canonical(value: &Json<'_>, hash: &mut Sha256, without: &[&[Step]]) {
    if without.iter().any(|steps| steps.is_empty()) {
        return;
    }
    match value {
        Json::Object(members) => {
            let mut sorted: Vec<_> = members.iter().map(|(name, value)| (name, value)).collect();
            // Stable: of two members with the same name the last one counts in any order.
            sorted.sort_by_key(|(name, _)| *name);
            hash.update(b"{");
            for (name, value) in sorted {
                let below = below(without, |step| *step == Step::Member(name.to_string()));
                if below.iter().any(|steps| steps.is_empty()) {
                    continue;
                }
                text(b'k', name, hash);
                canonical(value, hash, &below);
            }
            hash.update(b"}");
        }
        Json::Array(items) => {
            hash.update(b"[");
            for (at, item) in items.iter().enumerate() {
                let below = below(without, |step| *step == Step::Every || *step == Step::Item(at));
                canonical(item, hash, &below);
            }
            hash.update(b"]");
        }
        Json::Text(value) => text(b's', value, hash),
        Json::Number(digits) => text(b'n', digits, hash),
        Json::Bool(flag) => hash.update([b'b', u8::from(*flag)]),
        Json::Null => hash.update(b"0"),
    }
}

fn text(sort: u8, text: &str, hash: &mut Sha256) {
    hash.update([sort]);
    hash.update((text.len() as u64).to_le_bytes());
    hash.update(text);
}

/// What is left of the paths that take this step.
fn below<'s>(paths: &[&'s [Step]], takes: impl Fn(&Step) -> bool) -> Vec<&'s [Step]> {
    let rest = paths.iter().filter_map(|steps| {
        let (first, rest) = steps.split_first()?;
        takes(first).then_some(rest)
    });
    rest.collect()
}

/// The keys of one connection's latest events.
#[derive(Debug)]
pub struct Window {
    window: Duration,
    max: usize,
    known: HashMap<Key, (EventId, Age)>,
    /// The same keys in the order in which they came, oldest first.
    order: VecDeque<(Key, Age)>,
}

impl Window {
    /// An empty one.
    pub fn new(window: Duration, max: usize) -> Window {
        Window { window, max, known: HashMap::new(), order: VecDeque::new() }
    }

    /// The first event with this key, if the window still holds it at `now`.
    pub fn first(&mut self, key: Key, now: Age) -> Option<EventId> {
        self.expire(now);
        self.known.get(&key).map(|(id, _)| *id)
    }

    /// Remembers an event. One that is known stays with its first event.
    pub fn note(&mut self, key: Key, id: EventId, age: Age) {
        self.expire(age);
        if self.known.contains_key(&key) {
            return;
        }
        while self.order.len() >= self.max {
            self.drop_oldest();
        }
        self.known.insert(key, (id, age));
        self.order.push_back((key, age));
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    fn expire(&mut self, now: Age) {
        while self.order.front().is_some_and(|(_, age)| now.since(*age) >= self.window) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((key, _)) = self.order.pop_front() {
            self.known.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::parts::testing::{event, event_with};

    fn paths(texts: &[&str]) -> Vec<Path> {
        texts.iter().map(|text| Path::parse_many(text).unwrap()).collect()
    }

    fn key(fields: &Fields, body: &str) -> Option<Key> {
        let dedupe = Dedupe { window: Duration::from_secs(1), fields: fields.clone() };
        let event = event(body);
        dedupe.key(&Parts::new(&event))
    }

    #[test]
    fn by_default_the_bytes_of_the_body_count() {
        assert_eq!(key(&Fields::Body, "{}"), key(&Fields::Body, "{}"));
        assert_ne!(key(&Fields::Body, "{}"), key(&Fields::Body, "{ }"));
        assert!(key(&Fields::Body, "").is_some());
        let sha = Sha256::digest(b"{}");
        assert_eq!(key(&Fields::Body, "{}").unwrap().0, sha[..16]);
    }

    #[test]
    fn included_values_count_alone() {
        let fields = Fields::Include(paths(&["body.id", "body.items[*].sku", "headers.x-tenant"]));
        let first = key(&fields, r#"{"id":1,"items":[{"sku":"a"},{"sku":"b"}],"at":5}"#);
        assert_eq!(
            first,
            key(&fields, r#"{"at":6,"items":[{"sku":"a","n":1},{"sku":"b"}],"id":1}"#)
        );
        assert_ne!(first, key(&fields, r#"{"id":1,"items":[{"sku":"b"},{"sku":"a"}]}"#));
        assert_ne!(first, key(&fields, r#"{"id":"1","items":[{"sku":"a"},{"sku":"b"}]}"#));
        assert_ne!(key(&fields, r#"{"id":1}"#), key(&fields, r#"{"items":[{"sku":1}]}"#));
        let other = event_with(&[("x-tenant", "other")], r#"{"id":1}"#);
        let dedupe = Dedupe { window: Duration::from_secs(1), fields: fields.clone() };
        assert_ne!(dedupe.key(&Parts::new(&other)), key(&fields, r#"{"id":1}"#));
    }

    /// Else all events without the values would be duplicates of each other.
    #[test]
    fn an_event_without_the_values_is_never_a_duplicate() {
        let fields = Fields::Include(paths(&["body.id"]));
        assert_eq!(key(&fields, r#"{"other":1}"#), None);
        assert_eq!(key(&fields, "text"), None);
        assert!(key(&fields, r#"{"id":null}"#).is_some());
    }

    #[test]
    fn excluded_values_do_not_count() {
        let fields = Fields::Exclude(paths(&["body.at", "body.items[*].seen", "body.list[0]"]));
        let first = key(&fields, r#"{"id":1,"items":[{"sku":"a","seen":1}],"at":5,"list":[1,2]}"#);
        let same = r#"{"items":[{"seen":2,"sku":"a"}], "id":1, "list":[7,2]}"#;
        assert_eq!(first, key(&fields, same));
        assert_ne!(first, key(&fields, r#"{"id":2,"items":[{"sku":"a"}],"list":[1,2]}"#));
        assert_ne!(first, key(&fields, r#"{"id":1,"items":[{"sku":"a"}],"list":[1,3]}"#));
        assert_eq!(key(&fields, "text"), key(&Fields::Body, "text"));
        assert_ne!(key(&fields, "[1,[2]]"), key(&fields, "[[1],2]"));
    }

    fn id(seed: u64) -> EventId {
        EventId::new(0, &mut fastrand::Rng::with_seed(seed))
    }

    #[test]
    fn the_window_counts_from_the_first_event() {
        let mut window = Window::new(Duration::from_secs(10), 100);
        let (a, b) = (key(&Fields::Body, "a").unwrap(), key(&Fields::Body, "b").unwrap());
        assert_eq!(window.first(a, Age(0)), None);
        window.note(a, id(1), Age(0));
        window.note(b, id(2), Age(5_000));
        assert_eq!(window.first(a, Age(9_999)), Some(id(1)));
        window.note(a, id(3), Age(9_999));
        assert_eq!(window.first(a, Age(10_000)), None);
        assert_eq!(window.first(b, Age(10_000)), Some(id(2)));
        assert_eq!(window.len(), 1);
        assert_eq!(window.first(b, Age(15_000)), None);
        assert!(window.is_empty());
    }

    #[test]
    fn the_oldest_go_first() {
        let mut window = Window::new(Duration::from_secs(10), 3);
        let keys: Vec<Key> = (0..5).map(|n| key(&Fields::Body, &n.to_string()).unwrap()).collect();
        for (at, key) in keys.iter().enumerate() {
            window.note(*key, id(at as u64), Age(at as u64));
        }
        let known: Vec<bool> = keys.iter().map(|k| window.first(*k, Age(9)).is_some()).collect();
        assert_eq!(known, [false, false, true, true, true]);
        assert_eq!(window.len(), 3);
    }
}
