//! The deliveries of a connection, newest first, as far as the store has them.
//!
//! Nothing is indexed but the connection and the place, so a selection is looked for: a page looks at a bounded number of
//! deliveries, reads a bounded number of records, and says where to go on.

use super::Daemon;
use super::commands::closed;
use super::dead::Wanted;
use crate::admin::api::deliveries::{Delivery, DeliveryState};
use crate::admin::api::{Page, Pagination, rfc3339};
use crate::admin::{DeliveriesQuery, Refusal};
use crate::clock::millis;
use crate::event::Event;
use crate::store::{ListedDelivery, Whereabouts};

/// Times that the store is asked for one page.
const ASKS_MAX: usize = 16;
/// Records that are read for one page.
const READ_MAX: usize = 512;

impl Daemon {
    /// One page of a connection's deliveries.
    pub(super) async fn deliveries(
        &self,
        query: DeliveriesQuery,
    ) -> Result<Page<Delivery>, Refusal> {
        let DeliveriesQuery { connection, selection, state, mut before, limit } = query;
        let id = self.id_of(&connection).await?;
        let wanted = Wanted::new(&selection)?;
        let over = state == Some(DeliveryState::Over);
        let (mut models, mut read) = (Vec::new(), 0);
        for _ in 0..ASKS_MAX {
            let page = self.store.deliveries(id, before, over).await.map_err(closed)?;
            for one in page.deliveries {
                if models.len() == limit as usize || read == READ_MAX {
                    return Ok(listed(models, limit, before));
                }
                before = Some((one.id.segment, one.id.slot));
                if !fits(&one.whereabouts, state, &wanted) {
                    continue;
                }
                read += 1;
                // What cannot be read becomes a dead letter when its turn comes; until then it has no id to show.
                let Ok(event) = self.store.load(one.id, one.size).await.map_err(closed)? else {
                    continue;
                };
                if wanted.fits_event(event.content.kind(), event.accepted_ms) {
                    models.push(self.describe_delivery(&connection, &one, &event));
                }
            }
            before = page.next;
            if before.is_none() {
                break;
            }
        }
        Ok(listed(models, limit, before))
    }

    fn describe_delivery(&self, name: &str, one: &ListedDelivery, event: &Event) -> Delivery {
        let mut delivery = Delivery {
            event: event.id.to_string(),
            connection: name.to_owned(),
            state: state_of(&one.whereabouts),
            accepted_at: rfc3339(event.accepted_ms),
            source: event.content.source().to_owned(),
            kind: event.content.kind().to_owned(),
            bytes: u64::from(one.size),
            attempts: 0,
            due_at: None,
            code: None,
            status: None,
            died_at: None,
        };
        match one.whereabouts {
            Whereabouts::Waiting | Whereabouts::Over => {}
            Whereabouts::HandedOut { attempts } => delivery.attempts = attempts,
            Whereabouts::Scheduled { due, attempts, .. } => {
                let left = millis(due.since(self.clock.age()));
                delivery.attempts = attempts;
                delivery.due_at = Some(rfc3339(self.clock.wall_ms().saturating_add(left)));
            }
            Whereabouts::Dead(letter) => {
                delivery.attempts = letter.attempts;
                delivery.code = Some(letter.cause.as_str().to_owned());
                delivery.status = (letter.status > 0).then_some(letter.status);
                delivery.died_at = Some(rfc3339(letter.died_ms));
            }
        }
        delivery
    }
}

fn listed(models: Vec<Delivery>, limit: u32, before: Option<(u32, u32)>) -> Page<Delivery> {
    let next = before.map(|(segment, slot)| format!("{segment}-{slot}"));
    Page { pagination: Pagination { limit, next }, count: models.len(), models }
}

/// Whether a delivery may be wanted, before its record is read.
fn fits(whereabouts: &Whereabouts, state: Option<DeliveryState>, wanted: &Wanted) -> bool {
    let end_fits = match whereabouts {
        Whereabouts::Dead(letter) => wanted.fits_end(letter.cause, letter.status),
        _ => !wanted.names_an_end(),
    };
    end_fits && state.is_none_or(|state| state == state_of(whereabouts))
}

fn state_of(whereabouts: &Whereabouts) -> DeliveryState {
    match whereabouts {
        Whereabouts::Waiting => DeliveryState::Queued,
        Whereabouts::Scheduled { .. } => DeliveryState::Scheduled,
        Whereabouts::HandedOut { .. } => DeliveryState::Out,
        Whereabouts::Dead(_) => DeliveryState::Dead,
        Whereabouts::Over => DeliveryState::Over,
    }
}
