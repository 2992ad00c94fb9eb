//! Deliveries that operators take back before they are over.
//!
//! What the egress holds and has not started is recalled first, so that nothing cancelled goes out any more but what is under way;
//! an ordered connection asks for its order anew by that.

use super::commands::closed;
use super::{Daemon, Live};
use crate::admin::Refusal;

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

    /// Takes back from the egress what it has not started. The store hands out no more until [`Daemon::feed`].
    async fn take_back(&self, live: Option<&Live>) {
        if let Some(live) = live {
            self.store.detach(live.id);
            self.dispatcher.recall(live.id).await;
        }
    }
}
