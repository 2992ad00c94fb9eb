//! One delivery that waits, cancelled or tried at once, as operators ask for it.

use super::super::command::Acted;
use super::super::dead_letter::DeadLetter;
use super::super::lookup::{FoundDelivery, Whereabouts};
use super::super::marks::{Mark, Place};
use super::super::outcomes::Ended;
use super::super::schedule::Scheduled;
use super::super::shelf::Item;
use super::Writer;
use crate::event::Cause;

impl Writer {
    /// Makes a delivery that waits a dead letter.
    pub(super) fn cancel(&mut self, delivery: FoundDelivery) -> Acted {
        let FoundDelivery { id, size, .. } = delivery;
        let place = Place::from(id);
        let attempts = match self.place_of(&delivery) {
            Whereabouts::Waiting => {
                self.stop_waiting(place);
                0
            }
            Whereabouts::Scheduled { .. } => match self.take_scheduled(&delivery) {
                Some(scheduled) => scheduled.attempts,
                None => return Acted::Unreadable,
            },
            Whereabouts::HandedOut { .. } => return Acted::HandedOut,
            Whereabouts::Dead(_) | Whereabouts::Over => return Acted::NotLive,
        };
        let dead = DeadLetter {
            id,
            size,
            cause: Cause::Cancelled,
            status: 0,
            attempts,
            died_ms: self.clock.wall_ms(),
            died: self.clock.age(),
        };
        self.log.note(&Mark::Dead(dead));
        self.watched.end(place, Ended::Cancelled);
        self.give_back(id.connection, size);
        self.keep_dead(dead);
        self.changed(&delivery);
        Acted::Done
    }

    /// Makes a delivery due that waits for a time.
    pub(super) fn retry_now(&mut self, delivery: FoundDelivery) -> Acted {
        let now = self.clock.age();
        match self.place_of(&delivery) {
            Whereabouts::Scheduled { due, .. } if due > now => {}
            Whereabouts::Scheduled { .. } | Whereabouts::Waiting => return Acted::Waits,
            Whereabouts::HandedOut { .. } => return Acted::HandedOut,
            Whereabouts::Dead(_) | Whereabouts::Over => return Acted::NotLive,
        }
        let Some(scheduled) = self.take_scheduled(&delivery) else {
            return Acted::Unreadable;
        };
        self.schedule(Scheduled { due: now, ..scheduled });
        self.changed(&delivery);
        Acted::Done
    }

    /// Where a delivery is, with what the egress has given back until now.
    fn place_of(&mut self, delivery: &FoundDelivery) -> Whereabouts {
        self.take_returned();
        if !self.is_there_still(delivery) {
            return Whereabouts::Over;
        }
        self.whereabouts(delivery.id)
    }

    fn take_scheduled(&mut self, delivery: &FoundDelivery) -> Option<Scheduled> {
        let scheduled = self.scheduled(delivery.id)?;
        let removed = self.state.schedule.remove(scheduled.queue(), scheduled.key());
        self.readable(removed).flatten()
    }

    /// Takes a delivery from those that wait for their first attempt.
    fn stop_waiting(&mut self, place: Place) {
        self.state.leave(place);
        let Some(stream) = self.state.stream(place.connection) else {
            return;
        };
        let came_back = stream.returned.iter().position(|one| Place::from(one.id) == place);
        if let Some(at) = came_back {
            stream.returned.remove(at);
        } else {
            stream.waiting = stream.waiting.saturating_sub(1);
        }
    }

    fn changed(&mut self, delivery: &FoundDelivery) {
        self.meter_later(delivery.id.connection);
        self.touch(delivery.id.connection);
    }
}
