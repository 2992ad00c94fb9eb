//! Deliveries that operators take back before they are over, or try at once.
//!
//! What the egress holds and has not started is recalled first, so that nothing cancelled goes out any more but what is under way;
//! an ordered connection asks for its order anew by that.

use super::commands::closed;
use super::{Daemon, Live};
use crate::admin::Refusal;
use crate::admin::api::{EventActed, EventAction, EventResult, ResultOf};
use crate::event::EventId;
use crate::store::{Acted, FoundDelivery, Standing};

/// How often a delivery is looked for whose record was moved since it was found.
const TRIES: usize = 3;

impl Daemon {
    /// Cancels all deliveries of a connection, or of an orphaned queue, that are not over. How many; durably.
    pub(super) async fn purge(&self, connection: &str, by: &str) -> Result<u64, Refusal> {
        let id = self.id_of(connection).await?;
        let live = self.live.iter().find(|live| live.id == id);
        self.take_back(live).await;
        let discarded = self.store.discard(id).await.map_err(closed);
        if let Some(live) = live {
            self.feed(live);
        }
        let (cancelled, durable) = discarded?;
        if let Some(live) = live {
            live.metrics.deliveries.cancelled.increment(cancelled);
        }
        tracing::warn!(
            connection,
            by,
            deliveries = cancelled,
            "Cancelled the queue of a connection"
        );
        durable.map_err(|error| Refusal::Store(error.to_string()))?;
        Ok(cancelled)
    }

    /// Cancels the deliveries of an event that wait, or tries at once those that wait for a time: to one connection, or to all.
    /// Durable before it is answered.
    pub(super) async fn act_on_event(
        &self,
        action: EventAction,
        event: EventId,
        connection: Option<&str>,
        by: &str,
    ) -> Result<EventActed, Refusal> {
        let found = self.find_event(event).await?;
        let names: Vec<String> = match connection {
            None => found.deliveries.into_keys().collect(),
            Some(name) if found.deliveries.contains_key(name) => vec![name.to_owned()],
            Some(name) => {
                return Err(Refusal::NoSuchDelivery { connection: name.to_owned(), event });
            }
        };
        let mut deliveries = Vec::new();
        for name in names {
            let result = match self.act_on(action, event, &name).await? {
                Acted::Done if action == EventAction::Cancel => ResultOf::Cancelled,
                Acted::Done => ResultOf::Retried,
                Acted::HandedOut => ResultOf::InFlight,
                Acted::Waits => ResultOf::Due,
                // It is over.
                Acted::NotLive => continue,
                Acted::Unreadable => {
                    return Err(Refusal::Store("the disk does not say where it is".to_owned()));
                }
            };
            deliveries.push(EventResult { connection: name, result });
        }
        let results = || deliveries.iter().map(|one| one.result);
        if results().any(|result| matches!(result, ResultOf::Cancelled | ResultOf::Retried)) {
            let (event, action) = (event.to_string(), action.as_str());
            tracing::info!(event, action, by, ?deliveries, "Acted on an event");
            return Ok(EventActed { event, deliveries });
        }
        Err(match results().next() {
            None => Refusal::NotWaiting(event),
            Some(_) if results().any(|result| result == ResultOf::Due) => {
                Refusal::DueAlready(event)
            }
            Some(_) => Refusal::InFlight(event),
        })
    }

    async fn act_on(
        &self,
        action: EventAction,
        event: EventId,
        connection: &str,
    ) -> Result<Acted, Refusal> {
        for _ in 0..TRIES {
            let found = self.find_event(event).await?;
            let Some(delivery) = found.deliveries.get(connection) else {
                break;
            };
            if delivery.standing != Standing::Live {
                break;
            }
            let acted = self.act_once(action, *delivery).await?;
            if acted != Acted::NotLive {
                return Ok(acted);
            }
        }
        Ok(Acted::NotLive)
    }

    async fn act_once(
        &self,
        action: EventAction,
        delivery: FoundDelivery,
    ) -> Result<Acted, Refusal> {
        let live = self.live.iter().find(|live| live.id == delivery.id.connection);
        let ordered = live.is_some_and(|live| live.connection.ordering.is_some());
        // A retry changes what the egress knows only of an order.
        let recalled = live.filter(|_| ordered || action == EventAction::Cancel);
        self.take_back(recalled).await;
        let acted = match action {
            EventAction::Cancel => self.store.cancel(delivery).await,
            EventAction::Retry => self.store.retry_now(delivery).await,
        };
        if let Some(live) = recalled {
            self.feed(live);
        }
        let (acted, durable) = acted.map_err(closed)?;
        if let Some(live) = live.filter(|_| (action, acted) == (EventAction::Cancel, Acted::Done)) {
            live.metrics.deliveries.cancelled.increment(1);
        }
        if acted == Acted::Done {
            durable.map_err(|error| Refusal::Store(error.to_string()))?;
        }
        Ok(acted)
    }

    /// Takes back from the egress what it has not started. The store hands out no more until [`Daemon::feed`].
    async fn take_back(&self, live: Option<&Live>) {
        if let Some(live) = live {
            self.store.detach(live.id);
            self.dispatcher.recall(live.id).await;
        }
    }
}
