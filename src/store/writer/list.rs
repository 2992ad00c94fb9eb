//! A connection's deliveries in the order of their places, for those who list them.

use std::collections::HashMap;
use std::ops::Range;

use super::super::dead_letter::DeadLetter;
use super::super::lookup::{DeliveryPage, ListedDelivery, Whereabouts};
use super::super::schedule::{self, LANES, Scheduled};
use super::super::{ConnectionId, DeliveryId};
use super::Writer;

/// Places that are looked at in one go.
const SLOTS_MAX: u32 = 256;
/// Segments that are looked at in one go: the shelves are gone through for each.
const SEGMENTS_MAX: usize = 4;

/// What the shelves have of some slots of a connection in a segment, by slot.
struct OnShelves {
    dead: HashMap<u32, DeadLetter>,
    scheduled: HashMap<u32, Scheduled>,
}

impl Writer {
    /// See [`Store::deliveries`](super::super::Store::deliveries).
    pub(super) fn list(
        &self,
        connection: ConnectionId,
        before: Option<(u32, u32)>,
        over: bool,
    ) -> DeliveryPage {
        let mut page = DeliveryPage::default();
        let (mut slots_left, mut segments_left) = (SLOTS_MAX, SEGMENTS_MAX);
        let last = before.map_or(u32::MAX, |(segment, _)| segment);
        for (number, segment) in self.state.segments.range(..=last).rev() {
            let Some(part) = segment.parts.get(&connection) else {
                continue;
            };
            let end = match before {
                Some((at, slot)) if at == *number => slot.min(part.slots),
                _ => part.slots,
            };
            if end == 0 {
                continue;
            }
            if slots_left == 0 || segments_left == 0 {
                page.next = Some((*number, end));
                break;
            }
            let start = end.saturating_sub(slots_left);
            slots_left -= end - start;
            segments_left -= 1;
            // An index that cannot be read gives nothing, as for those who look for one event.
            let entries = segment.entries(connection, start, end - start).unwrap_or_default();
            let shelves = self.on_shelves(connection, *number, start..end);
            let listed = (start..end).zip(entries).filter(|(_, entry)| entry.size > 0);
            let listed = listed.map(|(slot, entry)| {
                let id = DeliveryId { connection, segment: *number, slot, offset: entry.offset };
                let whereabouts = if part.over.contains(slot) {
                    Whereabouts::Over
                } else if let Some(letter) = shelves.dead.get(&slot) {
                    Whereabouts::Dead(*letter)
                } else {
                    self.whereabouts_of_live(id, |_| shelves.scheduled.get(&slot).copied())
                };
                ListedDelivery { id, size: entry.size, whereabouts }
            });
            let listed: Vec<_> =
                listed.filter(|one| over || one.whereabouts != Whereabouts::Over).collect();
            page.deliveries.extend(listed.into_iter().rev());
            if start > 0 {
                page.next = Some((*number, start));
                break;
            }
        }
        page
    }

    fn on_shelves(&self, connection: ConnectionId, segment: u32, slots: Range<u32>) -> OnShelves {
        let (mut dead, mut scheduled) = (HashMap::new(), HashMap::new());
        let looked = self.state.dead.look(Some(connection.0), Some(segment), |letter, _| {
            if slots.contains(&letter.id.slot) {
                dead.insert(letter.id.slot, *letter);
            }
        });
        self.readable(looked);
        for lane in LANES {
            let queue = schedule::queue(connection, lane);
            let looked = self.state.schedule.look(Some(queue), Some(segment), |one, _| {
                if slots.contains(&one.id.slot) {
                    scheduled.insert(one.id.slot, *one);
                }
            });
            self.readable(looked);
        }
        OnShelves { dead, scheduled }
    }
}
