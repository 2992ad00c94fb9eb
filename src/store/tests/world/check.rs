//! What the store says, holds and hands out, compared with the model.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use super::super::super::feed::{Delivery, FeedItem, Lane};
use super::super::super::intake::Fate;
use super::super::super::writer::Writer;
use super::super::super::{DeliveryId, LoadError};
use super::renaming::connection_of;
use super::{
    CONNECTIONS, Out, Status, Tracked, Verdict, World, body, ensure, poll_once, settlement,
};
use crate::clock::Age;
use crate::event::{Cause, Disposition, Event};

impl World {
    /// Conservation: the counters say what the model has.
    pub(super) fn check_counters(&self) -> Verdict {
        let Some(process) = self.process.as_ref().filter(|_| !self.damaged && !self.blind.get())
        else {
            return Ok(());
        };
        let mut expected = [(0, 0); CONNECTIONS];
        for ((_, to), tracked) in &self.tracked {
            let (live, dead) = &mut expected[*to];
            *live += u64::from(tracked.now.is_live());
            *dead += u64::from(matches!(tracked.now, Status::Dead(_)));
        }
        for (number, _) in &process.waiting {
            for (to, fate) in &self.posted[*number].routes {
                expected[*to].0 += u64::from(*fate == Fate::Queued);
            }
        }
        for (connection, counters) in process.counters.iter().enumerate() {
            let (live, dead) = expected[connection];
            let (has_live, has_dead) =
                (counters.live.load(Ordering::Relaxed), counters.dead.load(Ordering::Relaxed));
            ensure((has_live, has_dead) == (live, dead), || {
                format!(
                    "c{connection} has live {has_live} and dead {has_dead}, not {live} and {dead}"
                )
            })?;
            let bytes = counters.live_bytes.load(Ordering::Relaxed);
            ensure((live == 0) == (bytes == 0), || {
                format!("c{connection} has {bytes} bytes of {live} deliveries")
            })?;
        }
        Ok(())
    }

    pub(super) fn take_handed_out(&mut self) -> Verdict {
        let Some(process) = &mut self.process else {
            return Ok(());
        };
        let mut items = Vec::new();
        poll_once(process.feed.next(&mut items));
        for item in items {
            let FeedItem::Due(delivery) = item else {
                return Err("a payload that was not asked for".to_owned());
            };
            self.handed_out(delivery)?;
        }
        Ok(())
    }

    fn handed_out(&mut self, delivery: Delivery) -> Verdict {
        let (lives, time) = (self.lives, self.time);
        let Some(key) = self.identify(delivery.id, delivery.size)? else {
            // Damage that was found late: it becomes a dead letter.
            let process = self.process.as_mut().ok_or("no process")?;
            process.feed.settle(settlement(
                &delivery,
                Disposition::Dead { cause: Cause::Internal, status: 0 },
                self.clock.age(),
            ));
            return Ok(());
        };
        let posted = &self.posted[key.0];
        ensure(posted.refused_by != Some(lives), || {
            format!("{key:?} was refused by the process that hands it out")
        })?;
        let process = self.process.as_mut().ok_or("no process")?;
        let tracked = self.tracked.get_mut(&key);
        let tracked =
            tracked.ok_or_else(|| format!("{key:?} is handed out, but was not accepted"))?;
        let fits = match tracked.now {
            Status::Waiting => delivery.lane == Lane::New && delivery.attempts == 0,
            Status::Later { due, attempts, lane } => {
                due <= time && lane == delivery.lane && attempts == delivery.attempts
            }
            Status::Dead(_) | Status::Over => false,
        };
        ensure(fits && !tracked.out, || {
            format!("{key:?} is handed out as {delivery:?} at {time}, but is {tracked:?}")
        })?;
        let last = &mut process.last_first[key.1];
        if tracked.now == Status::Waiting && !tracked.released {
            ensure(key.0 >= *last, || format!("{key:?} comes after event {last}"))?;
            *last = key.0;
        }
        tracked.out = true;
        process.out.push(Out { key, delivery });
        Ok(())
    }

    /// Which event a delivery of the store is, with its bytes compared. `None`: it is damaged, and that is allowed.
    pub(super) fn identify(
        &mut self,
        id: DeliveryId,
        size: u32,
    ) -> Result<Option<(usize, usize)>, String> {
        let process = self.process.as_ref().ok_or("no process")?;
        let loaded = self.disk.quietly(|| process.writer.files.load(id, size));
        let connection = process.ids.iter().position(|known| *known == id.connection);
        self.check_event(loaded, connection.unwrap_or(id.connection.0 as usize))
    }

    fn check_event(
        &self,
        loaded: Result<Event, LoadError>,
        connection: usize,
    ) -> Result<Option<(usize, usize)>, String> {
        let event = match loaded {
            Ok(event) => event,
            Err(_) if self.damaged => return Ok(None),
            // A start may have read, and indexed, what a failed sync had left in the page cache alone. It was never
            // acknowledged; if it had been, it would be missed.
            Err(_) if self.disk.failures() > 0 => {
                self.blind.set(true);
                return Ok(None);
            }
            Err(error) => return Err(format!("an event cannot be read: {error}")),
        };
        let number = self.by_id.get(&event.id).ok_or("an event that nobody sent")?;
        let sent = body(*number, self.posted[*number].size);
        ensure(event.content.body() == *sent, || format!("event {number} is altered"))?;
        Ok(Some((*number, connection)))
    }

    /// Compares what a start found with what a crash may leave, and goes on from there.
    pub(super) fn recovered(&mut self, writer: &mut Writer) -> Verdict {
        let disk = self.disk.clone();
        self.check_names(writer)?;
        self.check_suspensions(writer)?;
        let found = disk.quietly(|| self.look(writer))?;
        self.check_batches(&found)?;
        for (key, tracked) in &mut self.tracked {
            let now = found.get(key).copied().unwrap_or(Status::Over);
            let posted = &self.posted[key.0];
            if posted.acknowledged && !tracked.possible.contains(&now) {
                ensure(self.damaged, || {
                    format!("{key:?} is {now:?} after a start, but was {tracked:?}")
                })?;
                self.missing += usize::from(now == Status::Over);
            }
            *tracked = Tracked::new(now);
        }
        for (key, now) in found {
            self.tracked.entry(key).or_insert_with(|| Tracked::new(now));
        }
        Ok(())
    }

    /// A batch that was cut off is there as a whole or not at all.
    fn check_batches(&mut self, found: &BTreeMap<(usize, usize), Status>) -> Verdict {
        for batch in std::mem::take(&mut self.batches) {
            let told = self.posted[batch.start].acknowledged;
            if told || self.damaged || self.blind.get() {
                continue;
            }
            let is_there =
                |number: &usize| found.range((*number, 0)..(*number + 1, 0)).next().is_some();
            let there = batch.clone().filter(is_there).count();
            ensure(there == 0 || there == batch.len(), || {
                format!("{there} events of batch {batch:?} are there, and nobody was told")
            })?;
            *(if there == 0 { &mut self.batches_lost } else { &mut self.batches_found }) += 1;
        }
        Ok(())
    }

    /// What the writer holds of every delivery.
    fn look(&self, writer: &Writer) -> Result<BTreeMap<(usize, usize), Status>, String> {
        let mut all: Vec<(DeliveryId, u32, Status)> = Vec::new();
        for (number, segment) in &writer.state.segments {
            for (connection, part) in &segment.parts {
                let entries = segment
                    .entries(*connection, 0, part.slots)
                    .map_err(|error| error.to_string())?;
                for (slot, entry) in (0..).zip(entries) {
                    if !part.left.contains(slot) && entry.size > 0 {
                        let id = DeliveryId {
                            connection: *connection,
                            segment: *number,
                            slot,
                            offset: entry.offset,
                        };
                        all.push((id, entry.size, Status::Waiting));
                    }
                }
            }
        }
        let mut later = Vec::new();
        let looked = writer.state.schedule.look(None, None, |scheduled, _| later.push(*scheduled));
        looked.map_err(|error| error.to_string())?;
        for scheduled in later {
            let wait = scheduled.due.0.saturating_sub(self.clock.age().0);
            let passed = self.clock.age().0.saturating_sub(scheduled.due.0);
            let lane = scheduled.lane;
            let status = Status::Later {
                due: if lane == Lane::Replay && scheduled.due == Age(0) {
                    0
                } else {
                    (self.time + wait).saturating_sub(passed)
                },
                attempts: scheduled.attempts,
                lane,
            };
            all.push((scheduled.id, scheduled.size, status));
        }
        let looked = writer.state.dead.look(None, None, |dead, _| {
            all.push((dead.id, dead.size, Status::Dead(dead.cause)));
        });
        looked.map_err(|error| error.to_string())?;
        let mut found = BTreeMap::new();
        for (id, size, status) in all {
            let stream = writer.state.streams.get(id.connection.0 as usize);
            let name = &stream.ok_or("a delivery to no connection")?.name;
            let connection = connection_of(name).unwrap_or(usize::MAX);
            let Some(key) = self.check_event(writer.files.load(id, size), connection)? else {
                continue;
            };
            let before = found.insert(key, status);
            ensure(before.is_none(), || format!("{key:?} is there twice"))?;
        }
        Ok(found)
    }
}
