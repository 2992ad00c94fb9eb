//! `renamed_from`: what the store holds under a connection's old name becomes its own. The store does it in one step and keeps it,
//! so that the field may stay in the file.

use std::collections::HashMap;

use super::{Daemon, Live};
use crate::connection::Connection;
use crate::store::{self, Renamed};

impl Daemon {
    /// Hands the deliveries of a connection's old name to it, if there are any. It must not be in force yet.
    pub(super) async fn take_over(&self, connection: &Connection) -> Result<(), store::Closed> {
        let (Some(old), new) = (&connection.renamed_from, &connection.name) else {
            return Ok(());
        };
        let (renamed, durable) = self.store.rename(old, new).await?;
        match renamed {
            Renamed::Nothing => {}
            Renamed::Done => {
                tracing::info!(connection = new, renamed_from = old, "Renamed a connection");
                if let Err(error) = durable {
                    tracing::error!(connection = new, %error, "Could not rename it durably");
                }
            }
            Renamed::Occupied => tracing::warn!(
                connection = new,
                renamed_from = old,
                "Could not rename a connection: it has deliveries or dead letters of its own. Those of the old name stay held; once it has none, the next start hands them over"
            ),
        }
        Ok(())
    }

    /// The renames of a reload. `before` is what was in force; a connection that is renamed is taken from it, and its attempts
    /// that are under way end as they began.
    pub(super) async fn rename_all(&mut self, before: &mut HashMap<String, Live>) {
        for connection in self.config.connections.clone() {
            let Some(old) = &connection.renamed_from else {
                continue;
            };
            if before.contains_key(&connection.name) {
                // Its routes are in use: what is posted now would be for a queue that is about to go.
                self.say_if_held(old, &connection.name).await;
                continue;
            }
            if let Some(live) = before.remove(old) {
                self.store.detach(live.id);
                self.dispatcher.detach(live.id).await;
                self.metrics.remove_connection(old);
                // The new name's counters begin with what there is.
                self.recovered.remove(&live.id);
            }
            if let Err(error) = self.take_over(&connection).await {
                tracing::error!(%error, "Could not rename a connection");
            }
        }
    }

    async fn say_if_held(&self, old: &str, new: &str) {
        let Ok(status) = self.store.status().await else {
            return;
        };
        if self.orphaned(&status).iter().any(|orphaned| orphaned.name == old) {
            tracing::warn!(
                connection = new,
                renamed_from = old,
                "A connection that is in force already takes over another one's deliveries at the next start"
            );
        }
    }
}
