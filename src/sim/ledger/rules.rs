//! What must hold of every attempt, at the moment when a target sees it.

use super::*;
use crate::connection::ordering::By;
use crate::sim::plan::kind;

/// No attempt takes longer: connect and request timeouts of the plan, the dial's latency and more.
const LONGEST_ATTEMPT_MS: u64 = 10_000;

impl Ledger {
    /// Nothing spurious, nothing altered: it was posted, to this connection, with these bytes, and was not refused.
    pub(super) fn check_content(&mut self, attempt: &Attempt, content: &[u8]) {
        let Key { event, connection } = attempt.key;
        let number = content.first_chunk().map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes));
        let Some(post) = self.posts.get(&number).cloned() else {
            return self.fail(format!("{event} was never posted"));
        };
        self.ensure(content == body(number, post.size), || {
            format!("event {number} was altered: {} bytes of {}", content.len(), post.size)
        });
        let routed = post.tries.iter().any(|one| one.may.contains(&connection));
        self.ensure(routed, || format!("event {number} was not for c{connection}"));
        self.ensure(post.may_be_stored(attempt.life), || {
            format!("event {number} was refused by the process that delivers it: {post:?}")
        });
        self.note_id(number, event);
    }

    /// No attempt before its due time: since the last one that is known, at least the waits between have passed. The store's
    /// time may leap in a reboot, as the wall clock does.
    pub(super) fn check_due(&mut self, attempt: &Attempt, at: u64) {
        let earlier = self.receipts.get(&attempt.key).into_iter().flatten().rev();
        let mut earlier = earlier.filter(|receipt| {
            receipt.attempt.number < attempt.number && receipt.attempt.replay == attempt.replay
        });
        let Some(last) = earlier.next().copied() else {
            return;
        };
        if self.reboots.iter().any(|reboot| (last.at..=at).contains(reboot)) {
            return;
        }
        let connection = &self.connections[attempt.key.connection];
        let waits =
            (last.attempt.number..attempt.number).map(|n| millis(least_wait(connection, n)));
        let mut least: u64 = waits.sum();
        if let Act::Throttle(_, seconds) = last.act {
            least = least.max((seconds * 1000).min(millis(RETRY_AFTER_MAX)));
        }
        self.ensure(at >= last.at + least, || {
            format!(
                "{:?} attempt {} came {} ms after attempt {}, and not {least}",
                attempt.key,
                attempt.number,
                at - last.at,
                last.attempt.number
            )
        });
    }

    /// Nothing of a connection with a delay comes before it is over, from the post on.
    pub(super) fn check_delay(&mut self, attempt: &Attempt, at: u64) {
        let Key { event, connection } = attempt.key;
        let delay = millis(self.connections[connection].delay);
        let post = self.numbers.get(&event).and_then(|number| self.posts.get(number));
        let Some(posted) = post.map(Post::first_posted).filter(|_| delay > 0) else {
            return;
        };
        let leapt = self.reboots.iter().any(|reboot| (posted..=at).contains(reboot));
        self.ensure(leapt || attempt.replay || at >= posted + delay, || {
            format!("{:?} came {} ms after its post, and not {delay}", attempt.key, at - posted)
        });
    }

    /// What a target took is delivered again only if the process ended before the mark was durable, or by a replay.
    pub(super) fn check_duplicate(&mut self, attempt: &Attempt, at: u64) {
        let receipts = self.receipts.get(&attempt.key).into_iter().flatten();
        let mut taken = receipts.filter_map(|receipt| Some((*receipt, receipt.clear_at?)));
        let Some((last, clear_at)) = taken.next_back() else {
            return;
        };
        let excused = self
            .ends
            .range(last.attempt.life..attempt.life)
            .any(|(_, end)| end.trouble || end.at.saturating_sub(clear_at) <= end.how.loses_ms());
        if !excused {
            let (from, to) = (last.attempt.life, attempt.life);
            self.fail(format!(
                "{:?} was taken at {clear_at} in life {from} and came again at {at} in life {to}: {:?}",
                attempt.key, self.ends
            ));
        }
    }

    /// What was cancelled durably does not come back. Dead letters are not cancelled, and come by a replay.
    pub(super) fn check_cancelled(&mut self, attempt: &Attempt, at: u64) {
        let Key { event, connection } = attempt.key;
        let post = self.numbers.get(&event).and_then(|number| self.posts.get(number));
        let accepted_at = post.and_then(|post| Some(post.accepted()?.1));
        let Some(accepted_at) = accepted_at.filter(|_| !attempt.replay) else {
            return;
        };
        let cancelled = self.discards.iter().find(|discard| {
            discard.durable
                && discard.connection == connection
                && accepted_at < discard.at
                && discard.life < attempt.life
        });
        let broken = cancelled.map(|discard| {
            format!("{:?} was cancelled at {} and came at {at}", attempt.key, discard.at)
        });
        broken.into_iter().for_each(|what| self.fail(what));
    }

    /// First attempts are made in order of acceptance, where one is made at a time, by no key, and nothing has to be read from
    /// the disk first: no order is promised, but this is what the store hands out.
    pub(super) fn check_order(&mut self, attempt: &Attempt) {
        let Key { event, connection } = attempt.key;
        let one_by_one = self.connections[connection].max_in_flight == 1
            && self.connections[connection].delay.is_zero();
        let seen = self.receipts.get(&attempt.key).is_some_and(|receipts| {
            receipts.iter().any(|receipt| receipt.attempt.life == attempt.life)
        });
        let keyed = self.keyed.contains(&connection);
        if !self.all_hot || !one_by_one || keyed || seen || attempt.replay || attempt.number > 1 {
            return;
        }
        let post = self.numbers.get(&event).and_then(|number| self.posts.get(number));
        let Some((posted, told)) = post.and_then(|post| {
            post.tries.iter().find_map(|one| match one.answer {
                Answer::Accepted { at, .. } => Some((one.at, (at, one.life))),
                _ => None,
            })
        }) else {
            return;
        };
        let (accepted_at, life) = told;
        if life != attempt.life {
            return;
        }
        let place = (connection, attempt.life);
        let frontier = self.frontier.entry(place).or_default();
        let (before, key) = (*frontier, attempt.key);
        *frontier = before.max(posted);
        self.ensure(accepted_at >= before, || {
            format!(
                "{key:?}, accepted at {accepted_at}, comes after one that was posted at {before}"
            )
        });
    }

    /// An order is in force from now on. What is under way has begun without it; `None`: nothing is.
    pub(in crate::sim) fn order_in_force(
        &mut self,
        connection: usize,
        ordering: Option<&Ordering>,
        now: Option<u64>,
    ) {
        let same = |known: &InForce| known.ordering.as_ref() == ordering;
        if now.is_some() && self.orders.get(&connection).is_some_and(same) {
            return;
        }
        if ordering.is_some_and(|ordering| matches!(ordering.by, By::Key(_))) {
            self.keyed.insert(connection);
        }
        let ordering = ordering.cloned();
        let from = now.map_or(0, |now| now + LONGEST_ATTEMPT_MS);
        self.orders.insert(connection, InForce { ordering, from });
        self.lines.retain(|(of, ..), _| *of != connection);
    }

    /// In order: once an event was tried, none of its line that was accepted before is tried any more; and one at a time.
    pub(super) fn check_line(&mut self, attempt: &Attempt, act: Act, at: u64) {
        let Key { event, connection } = attempt.key;
        let Some(number) = self.numbers.get(&event).copied().filter(|_| !attempt.replay) else {
            return;
        };
        let Some(in_force) = self.orders.get(&connection) else {
            return;
        };
        let line = match in_force.ordering.as_ref().map(|ordering| &ordering.by) {
            Some(By::Connection) => None,
            Some(By::Key(_)) if kind(number).is_some() => kind(number),
            _ => return,
        };
        // What came with a delay stands in no line.
        let delayed = !self.connections[connection].delay.is_zero();
        if at < in_force.from || delayed {
            return;
        }
        self.in_lines += 1;
        let post = self.posts.get(&number);
        let accepted_at = post.and_then(Post::accepted).map_or(u64::MAX, |(_, at)| at);
        let posted = post.map_or(0, Post::first_posted);
        let before = *self.lines.entry((connection, attempt.life, line)).or_default();
        self.ensure(accepted_at >= before.posted, || {
            format!(
                "{:?}, accepted at {accepted_at}, is tried after one of its line that was posted at {}",
                attempt.key, before.posted
            )
        });
        self.ensure(before.busy.is_none_or(|(until, _)| at >= until), || {
            format!("{:?} is tried at {at} beside one of its line: {before:?}", attempt.key)
        });
        let busy = match act {
            Act::Ok(ms) => Some((at + ms, event)),
            _ => None,
        };
        let posted = posted.max(before.posted);
        self.lines.insert((connection, attempt.life, line), Seen { posted, busy });
    }
}
