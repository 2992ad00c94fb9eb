//! Handing deliveries to the egress: at most a window of each lane, in order.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::super::feed::{Delivery, FeedItem, Lane};
use super::super::schedule::{self, LANES, Scheduled};
use super::super::{ConnectionId, WINDOW_NEW};
use super::Writer;
use crate::clock::Age;

impl Writer {
    /// Looks for scheduled deliveries whose time has come. Returns the time.
    pub(super) fn take_due(&mut self) -> Age {
        let early = if defect!(RetryBeforeDue) { Duration::from_secs(60) } else { Duration::ZERO };
        let now = self.clock.age();
        loop {
            let ripened = self.state.schedule.ripen(now.after(early).0);
            match self.readable(ripened) {
                Some(Some(queue)) => self.touch(schedule::connection(queue)),
                Some(None) => return now,
                None => {}
            }
        }
    }

    /// Hands out what the touched streams have room for.
    pub(super) fn serve_touched(&mut self) {
        for id in std::mem::take(&mut self.touched) {
            if let Some(stream) = self.state.stream(id) {
                stream.touched = false;
            }
            self.serve(id);
            self.meter_later(id);
        }
    }

    fn serve(&mut self, id: ConnectionId) {
        self.begin_order(id);
        let Some(stream) = self.state.streams.get_mut(id.0 as usize) else {
            return;
        };
        let Some(outbox) = stream.feed.and_then(|feed| self.outbox.get_mut(feed)) else {
            self.state.publish(id);
            return;
        };
        while stream.room(Lane::New) > 0
            && let Some(delivery) = stream.returned.pop_front()
        {
            stream.hand_out(Lane::New);
            self.handed_out += 1;
            outbox.push(FeedItem::Due(delivery));
        }
        let mut failed = None;
        for lane in LANES {
            while stream.room_for_scheduled(lane) > 0 {
                let popped = self.state.schedule.pop_ripe(schedule::queue(id, lane));
                let scheduled = match popped {
                    Ok(Some(scheduled)) => scheduled,
                    Ok(None) => break,
                    Err(error) => {
                        failed = Some(error);
                        break;
                    }
                };
                stream.note_handed(scheduled);
                self.handed_out += 1;
                let hot =
                    self.hot.get(scheduled.id.segment, scheduled.id.offset).map(Arc::downgrade);
                outbox.push(FeedItem::Due(later_attempt(scheduled, hot.unwrap_or_default())));
            }
        }
        let room = stream.room(Lane::New);
        let window = WINDOW_NEW - stream.delayed_out.min(WINDOW_NEW);
        // Half a window at a time: reading the index one entry at a time would cost more than the rest.
        let refill = stream.waiting > 0 && (room >= window / 2 || stream.waiting <= room as u64);
        // A first attempt may end on a schedule that cannot be written out just now.
        let hold_back = refill && self.state.schedule.is_overfull();
        self.holding_back |= hold_back;
        self.state.publish(id);
        if let Some(error) = failed {
            self.readable(Err::<(), _>(error));
            self.touch(id);
        }
        if refill && !hold_back {
            self.refill(id, room);
        }
    }

    /// Hands out deliveries that wait for their first attempt.
    fn refill(&mut self, id: ConnectionId, room: usize) {
        let taken = match self.state.take_waiting(id, room) {
            Ok(taken) => taken,
            Err(error) => {
                self.shared.metrics.errors.increment(1);
                tracing::error!(%error, "Could not read a segment's index; the queue waits and it is tried again.");
                self.touch(id);
                return;
            }
        };
        let Some(stream) = self.state.streams.get_mut(id.0 as usize) else {
            return;
        };
        if taken.is_empty() {
            // Nothing there although the count says so: slots were lost to damage.
            stream.waiting = 0;
        }
        let Some(outbox) = stream.feed.and_then(|feed| self.outbox.get_mut(feed)) else {
            return;
        };
        let fewer = taken.len() < room;
        for (id, size) in taken {
            stream.waiting = stream.waiting.saturating_sub(1);
            stream.hand_out(Lane::New);
            self.handed_out += 1;
            let hot = self.hot.get(id.segment, id.offset).map(Arc::downgrade).unwrap_or_default();
            let delivery = Delivery {
                id,
                lane: Lane::New,
                attempts: 0,
                first_attempt: None,
                size,
                delayed: false,
                hot,
            };
            outbox.push(FeedItem::Due(delivery));
        }
        let left = stream.waiting;
        self.state.publish(id);
        if fewer && left > 0 {
            // An index could not be read, or the count is too high: the next turn tells.
            self.touch(id);
        }
    }
}

pub(super) fn later_attempt(scheduled: Scheduled, hot: Weak<crate::event::Event>) -> Delivery {
    Delivery {
        id: scheduled.id,
        lane: scheduled.lane,
        attempts: scheduled.attempts,
        first_attempt: (scheduled.attempts > 0).then_some(scheduled.first_attempt),
        size: scheduled.size,
        delayed: scheduled.lane == Lane::New,
        hot,
    }
}
