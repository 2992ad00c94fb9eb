//! What becomes of deliveries: settled, released, discarded, replayed.

use super::super::super::command::Command;
use super::super::super::feed::Lane;
use super::{Status, Tracked, Verdict, World, ensure, settlement};
use crate::event::Disposition;

impl World {
    /// An attempt has ended like this.
    pub fn settle(&mut self, index: usize, disposition: Disposition) -> Verdict {
        self.settle_quietly(index, disposition);
        self.turn()
    }

    fn settle_quietly(&mut self, index: usize, disposition: Disposition) {
        let (time, age) = (self.time, self.clock.age());
        let Some(process) = self.process.as_mut().filter(|p| !p.out.is_empty()) else {
            return;
        };
        let out = process.out.swap_remove(index % process.out.len());
        process.feed.settle(settlement(&out.delivery, disposition, age));
        let Some(tracked) = self.tracked.get_mut(&out.key) else {
            return;
        };
        tracked.out = false;
        if !tracked.now.is_live() {
            return;
        }
        tracked.become_(match disposition {
            Disposition::Delivered => Status::Over,
            Disposition::RetryAfter(wait) => Status::Later {
                due: time + crate::clock::millis(wait),
                attempts: out.delivery.attempts + 1,
                lane: if out.delivery.lane == Lane::Replay { Lane::Replay } else { Lane::Retry },
            },
            Disposition::Dead { cause, .. } => Status::Dead(cause),
        });
        self.delivered += u64::from(disposition == Disposition::Delivered);
    }

    /// All that is handed out ends like this.
    pub fn settle_all(&mut self, disposition: Disposition) -> Verdict {
        while self.process.as_ref().is_some_and(|p| !p.out.is_empty()) {
            self.settle_quietly(0, disposition);
        }
        self.turn()
    }

    pub fn release(&mut self, index: usize) -> Verdict {
        let Some(process) = self.process.as_mut().filter(|p| !p.out.is_empty()) else {
            return Ok(());
        };
        let out = process.out.swap_remove(index % process.out.len());
        process.feed.release(out.delivery);
        if let Some(tracked) = self.tracked.get_mut(&out.key) {
            (tracked.out, tracked.released) = (false, true);
        }
        self.turn()
    }

    pub fn discard(&mut self, connection: usize) -> Verdict {
        let Some(process) = &self.process else {
            return Ok(());
        };
        let id = process.ids[connection];
        let live = |((_, to), tracked): &(&(usize, usize), &Tracked)| {
            *to == connection && tracked.now.is_live()
        };
        let keys: Vec<_> = self.tracked.iter().filter(live).map(|(k, _)| *k).collect();
        let failures = self.disk.failures();
        let (ended, _) = self.ask(|reply| Command::Discard { connection: id, reply })?;
        // A crash may lose the mark of a death, and keep the later one of the discard: then it was cancelled while it waited.
        for ((_, to), tracked) in &mut self.tracked {
            let not_durable = tracked.possible.iter().any(|status| status.is_live());
            if *to == connection && !tracked.now.is_live() && not_durable {
                let now = tracked.possible.len() - 1;
                tracked.possible.insert(now, Status::Over);
            }
        }
        if ended == 0 && self.disk.failures() > failures {
            return self.turn();
        }
        for key in &keys {
            self.tracked.get_mut(key).ok_or("gone")?.become_(Status::Over);
        }
        let count = keys.len() as u64;
        ensure(ended == count || self.blind.get(), || {
            format!("a discard ended {ended} deliveries of {count}")
        })?;
        self.turn()
    }

    /// Replays the first `count` dead letters of a connection.
    pub fn replay(&mut self, connection: usize, count: usize) -> Verdict {
        let Some(process) = &self.process else {
            return Ok(());
        };
        let id = process.ids[connection];
        let page =
            self.ask(|reply| Command::Dead { connection: id, after: None, limit: count, reply })?;
        let mut keys = Vec::new();
        for letter in &page.letters {
            let Some(key) = self.identify(letter.id, letter.size)? else {
                continue;
            };
            let now = self.tracked.get(&key).map(|tracked| tracked.now);
            ensure(now == Some(Status::Dead(letter.cause)), || {
                format!("{key:?} is {now:?}, but a dead letter says {letter:?}")
            })?;
            keys.push((letter.id, key));
        }
        let letters = page.letters;
        let wanted = letters.len();
        let failures = self.disk.failures();
        let answer = self.ask(|reply| Command::Replay { letters, reply })?;
        let unread = self.disk.failures() > failures;
        // The asking took a turn of the writer, in which records may have been moved.
        let moved = answer.0.len() < wanted && {
            let (after, limit) = (None, usize::MAX);
            let page = self.ask(|reply| Command::Dead { connection: id, after, limit, reply })?;
            page.total >= (wanted - answer.0.len()) as u64
        };
        for (_, key) in keys.into_iter().filter(|(letter, _)| answer.0.contains(letter)) {
            let tracked = self.tracked.get_mut(&key).ok_or("gone")?;
            tracked.become_(Status::Later { due: 0, attempts: 0, lane: Lane::Replay });
            if answer.1.is_ok() {
                // An answer is a promise, whatever else the store says.
                tracked.possible = vec![tracked.now];
            }
        }
        ensure(answer.0.len() == wanted || unread || moved, || {
            format!("{answer:?} of {wanted} dead letters were replayed")
        })?;
        self.turn()
    }
}
