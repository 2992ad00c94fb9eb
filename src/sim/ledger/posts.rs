//! What producers posted, and what they were told.

use std::collections::BTreeSet;

use super::{EventId, Ledger};

/// An event as its producer knows it: posted once, or again under the same key.
#[derive(Clone, Debug, Default)]
pub(in crate::sim) struct Post {
    pub(in crate::sim) size: usize,
    pub(in crate::sim) key: Option<String>,
    /// Posted to this connection alone.
    pub(in crate::sim) direct: Option<usize>,
    pub(in crate::sim) tries: Vec<Try>,
}

/// One post.
#[derive(Clone, Debug)]
pub(in crate::sim) struct Try {
    /// The process that it was sent to.
    pub(in crate::sim) life: u32,
    pub(in crate::sim) at: u64,
    /// Where it may go, by all configurations that were in force until it was answered.
    pub(in crate::sim) may: BTreeSet<usize>,
    /// Where it goes, whichever of them counted.
    pub(in crate::sim) must: BTreeSet<usize>,
    pub(in crate::sim) answer: Answer,
}

/// What a producer was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::sim) enum Answer {
    /// Nothing yet.
    Pending,
    /// 202.
    Accepted {
        id: EventId,
        at: u64,
    },
    /// 202, but nothing was stored: nobody is there who wants it.
    Ignored,
    Refused(u16),
    /// Nothing, ever.
    Unknown,
}

/// The body of the event with this number: the number itself and noise that follows from it.
pub(in crate::sim) fn body(number: u64, size: usize) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    let mut rng = fastrand::Rng::with_seed(number);
    bytes.resize_with(size.max(8), || rng.u8(..));
    bytes
}

impl Post {
    /// Its id and when that was first told, if it was accepted.
    pub(super) fn accepted(&self) -> Option<(EventId, u64)> {
        self.tries.iter().find_map(|one| match one.answer {
            Answer::Accepted { id, at } => Some((id, at)),
            _ => None,
        })
    }

    /// Where it went, whichever of its tries was the one that counted.
    pub(super) fn must(&self) -> BTreeSet<usize> {
        let mut tries = self.tries.iter().map(|one| one.must.clone());
        let first = tries.next().unwrap_or_default();
        tries.fold(first, |all, must| &all & &must)
    }

    pub(super) fn first_posted(&self) -> u64 {
        self.tries.iter().map(|one| one.at).min().unwrap_or(0)
    }

    /// All ids that it was accepted under; more than one is wrong.
    fn ids(&self) -> BTreeSet<EventId> {
        let ids = self.tries.iter().filter_map(|one| match one.answer {
            Answer::Accepted { id, .. } => Some(id),
            _ => None,
        });
        ids.collect()
    }

    /// Whether the process `life` may deliver it: somebody was told that it is there, or nobody was told that it is not.
    pub(super) fn may_be_stored(&self, life: u32) -> bool {
        self.tries.iter().any(|one| match one.answer {
            Answer::Accepted { .. } | Answer::Pending | Answer::Unknown => true,
            Answer::Ignored => false,
            // A refused batch may be found by the next process, but is not delivered by the one that refused it.
            Answer::Refused(status) => status >= 500 && one.life < life,
        })
    }

    /// How many events may have been made of it, at the most.
    fn events_at_most(&self) -> usize {
        let uncertain = self.tries.iter().filter(|one| match one.answer {
            Answer::Pending | Answer::Unknown => true,
            Answer::Refused(status) => status >= 500,
            Answer::Accepted { .. } | Answer::Ignored => false,
        });
        self.ids().len() + uncertain.count()
    }
}

impl Ledger {
    /// A post is on its way. Returns its place among the tries of its number.
    pub(in crate::sim) fn posted(&mut self, number: u64, one: Try) -> usize {
        let tries = &mut self.posts.entry(number).or_default().tries;
        tries.push(one);
        tries.len() - 1
    }

    /// The producer of a post was told something, or gave up.
    pub(in crate::sim) fn told(&mut self, number: u64, place: usize, answer: Answer) {
        let Some(post) = self.posts.get_mut(&number) else {
            return;
        };
        post.tries[place].answer = answer.clone();
        let Answer::Accepted { id, .. } = answer else {
            return;
        };
        let post = post.clone();
        let ids = post.ids();
        self.ensure(ids.len() == 1, || {
            format!("event {number} has the key {:?} and several ids: {ids:?}", post.key)
        });
        self.note_id(number, id);
    }

    /// Another configuration is in force from now on: an event under way may go by it or by the one before.
    /// So may one of this process whose producer did not wait.
    pub(in crate::sim) fn rerouted(
        &mut self,
        life: u32,
        routes: impl Fn(Option<usize>) -> BTreeSet<usize>,
    ) {
        for post in self.posts.values_mut() {
            let now = routes(post.direct);
            for one in post.tries.iter_mut().filter(|one| one.life == life) {
                if !matches!(one.answer, Answer::Pending | Answer::Unknown) {
                    continue;
                }
                one.may.extend(&now);
                one.must.retain(|connection| now.contains(connection));
            }
        }
    }

    /// Posts that wait for their answer.
    pub(in crate::sim) fn pending(&self) -> usize {
        let tries = self.posts.values().flat_map(|post| &post.tries);
        tries.filter(|one| one.answer == Answer::Pending).count()
    }

    pub(super) fn note_id(&mut self, number: u64, id: EventId) {
        let known = *self.numbers.entry(id).or_insert(number);
        self.ensure(known == number, || format!("{id} is the id of events {known} and {number}"));
        let count = self.numbers.values().filter(|other| **other == number).count();
        let most = self.posts.get(&number).map_or(0, Post::events_at_most);
        self.ensure(count <= most, || {
            format!("event {number} was delivered as {count} events, and may be {most}")
        });
    }
}
