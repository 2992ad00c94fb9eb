//! What connections remember of events that came before the start: their dedupe windows, from what the store still holds.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::Daemon;
use crate::clock::{Age, millis};
use crate::connection::parts::Parts;

/// How long a start may look for events that came before it, for all connections together.
const RECALL_MAX: Duration = Duration::from_secs(5);

impl Daemon {
    /// Fills the dedupe windows. What is not found in time is not a duplicate of anything.
    pub(super) async fn recall(&self) {
        let table = self.routing.load_full();
        let until = Instant::now() + RECALL_MAX;
        for (connection, dedupe) in table.dedupes() {
            let since = Age(self.clock.age().0.saturating_sub(millis(dedupe.window)));
            let mut found = Vec::new();
            let looked = self.store.events_since(connection, since, |event| {
                let key = dedupe.key(&Parts::new(event));
                found.extend(key.map(|key| (key, event.id, event.accepted_age)));
            });
            match timeout_at(until, looked).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::error!(%error, "Could not look for events that came before")
                }
                Err(_) => tracing::warn!(
                    "Looking for events that came before the start took too long; duplicates of older ones may be delivered"
                ),
            }
            table.recall(connection, found.into_iter().rev());
        }
    }
}
