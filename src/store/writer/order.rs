//! The steps of [`order`](super::super::order).

use std::sync::Arc;

use super::super::feed::{FeedItem, Lane};
use super::super::order::{Ordered, Parked};
use super::super::schedule;
use super::super::shelf::{Item, Key};
use super::super::{ConnectionId, PARKED_EVENTS, WINDOW_RETRY};
use super::Writer;
use super::hand_out::later_attempt;

impl Writer {
    /// The egress wants a connection's deliveries in order from now on, or no longer.
    pub(super) fn order(&mut self, id: ConnectionId, number: Option<u64>) {
        if let Some(stream) = self.state.stream(id) {
            stream.order = number.map_or(Ordered::No, Ordered::Settling);
        }
        self.touch(id);
    }

    /// The egress says how many first attempts and retries stand behind others.
    pub(super) fn parked(&mut self, id: ConnectionId, told: Parked) {
        if let Some(stream) = self.state.stream(id)
            && let Ordered::Yes(parked) = &mut stream.order
        {
            let new = told.new.min(PARKED_EVENTS);
            *parked = Parked { new, retry: told.retry.min(PARKED_EVENTS - new) };
        }
        self.touch(id);
    }

    /// Goes through the first three steps as far as it can.
    pub(super) fn begin_order(&mut self, id: ConnectionId) {
        let Some(stream) = self.state.streams.get_mut(id.0 as usize) else {
            return;
        };
        if let Ordered::Settling(number) = stream.order {
            let [new, retry, _] = stream.out;
            let Some(outbox) = stream.feed.and_then(|feed| self.outbox.get_mut(feed)) else {
                return;
            };
            if new + retry > 0 {
                return;
            }
            // All between the first of them and the cursor has left or is here.
            let returned = std::mem::take(&mut stream.returned);
            stream.waiting += returned.len() as u64;
            let first = returned.iter().map(|delivery| (delivery.id.segment, delivery.id.slot));
            stream.cursor = first.chain([stream.cursor]).min().unwrap_or(stream.cursor);
            stream.order = Ordered::Showing(None);
            outbox.push(FeedItem::Fresh(id, number));
        }
        if let Ordered::Showing(after) = stream.order {
            let shown = self.show(id, after);
            if self.readable(shown).is_none() {
                self.touch(id);
            }
        }
    }

    /// Shows what waits for a retry from a key of the queue on, as much as there is room for.
    fn show(&mut self, id: ConnectionId, mut after: Option<Key>) -> std::io::Result<()> {
        let queue = schedule::queue(id, Lane::Retry);
        while let Some(stream) = self.state.streams.get_mut(id.0 as usize)
            && let Some(outbox) = stream.feed.and_then(|feed| self.outbox.get_mut(feed))
        {
            let [_, out, _] = stream.out;
            let room = WINDOW_RETRY.saturating_sub(out);
            if room == 0 {
                return Ok(());
            }
            let page = self.state.schedule.page(queue, after, room)?;
            if page.is_empty() || defect!(RetriesNotShown) {
                stream.order = Ordered::Yes(Parked::default());
                return Ok(());
            }
            for scheduled in page {
                after = Some(scheduled.key());
                self.state.schedule.remove(queue, scheduled.key())?;
                stream.order = Ordered::Showing(after);
                stream.note_handed(scheduled);
                self.handed_out += 1;
                let hot = self.hot.get(scheduled.id.segment, scheduled.id.offset);
                let hot = hot.map(Arc::downgrade).unwrap_or_default();
                outbox.push(FeedItem::Shown(later_attempt(scheduled, hot)));
            }
        }
        Ok(())
    }
}
