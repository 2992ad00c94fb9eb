//! Connections that are held although their configuration does not say so: their target is gone, they did nothing but fail,
//! their order has stopped, or an operator paused them until a restart.
//!
//! Such a state is kept in the store, so that it outlives a restart (a pause does not). It ends by a command, or by an edit of
//! the connection: a hash of the settings is kept with it. No file is ever edited for it.

use std::fmt::Write;
use std::sync::Arc;

use super::alerts::Trouble;
use super::{Daemon, Live};
use crate::admin::{Refusal, api};
use crate::connection::{Connection, State};
use crate::delivery::{Notice, What};
use crate::event::Wait;
use crate::store::ConnectionId;
use crate::store::suspension::{Suspension, SuspensionKind};

impl Live {
    /// How it is treated: as its file says, or stricter.
    pub(super) fn state(&self) -> State {
        let held = match self.suspension.map(|suspension| suspension.kind) {
            None => State::Active,
            Some(SuspensionKind::Gone | SuspensionKind::FailingTooLong) => State::Disabled,
            Some(SuspensionKind::Halted | SuspensionKind::PausedUntilRestart) => State::Paused,
        };
        match (self.connection.state, held) {
            (State::Disabled, _) | (_, State::Disabled) => State::Disabled,
            (State::Paused, _) | (_, State::Paused) => State::Paused,
            (State::Active, State::Active) => State::Active,
        }
    }

    /// What its deliveries wait for while it is not active.
    pub(super) fn held_for(&self) -> Wait {
        if self.state() == State::Disabled { Wait::Disabled } else { Wait::Paused }
    }

    /// The connection with the state that it is treated as.
    pub(super) fn effective(&self) -> Arc<Connection> {
        match self.state() {
            state if state == self.connection.state => Arc::clone(&self.connection),
            state => Arc::new(Connection { state, ..(*self.connection).clone() }),
        }
    }
}

impl Daemon {
    /// Delivery found something out.
    pub(super) async fn heed(&mut self, notice: Notice) {
        let same = |live: &Live| live.id == notice.id && live.connection == notice.connection;
        let Some(at) = self.live.iter().position(same) else {
            // Edited or removed meanwhile: its new settings have ended the hold.
            return;
        };
        let kind = match notice.what {
            What::Hold(kind) => kind,
            What::Failed(failure) => {
                return self.raise(Some(&notice.connection.name), Trouble::Failed(failure));
            }
            What::BreakerOpened { open_for, code } => {
                let trouble = Trouble::BreakerOpened { open_for, code };
                return self.raise(Some(&notice.connection.name), trouble);
            }
        };
        let Some(live) = self.hold(at, kind).await else {
            return;
        };
        let name = &live.connection.name;
        match kind {
            SuspensionKind::Gone => tracing::error!(
                connection = name,
                "The target answered 410 (gone): the connection is disabled and its queue is held; correct its url, or `posthaste enable` it"
            ),
            SuspensionKind::FailingTooLong => tracing::error!(
                connection = name,
                disable_after = ?live.connection.disable_after,
                "Nothing but failure for disable_after: the connection is disabled and its queue is held; `posthaste enable` it when the target is well"
            ),
            SuspensionKind::Halted => tracing::error!(
                connection = name,
                "The head of its order is dead: the connection is halted and its queue is held; `posthaste resume` it"
            ),
            SuspensionKind::PausedUntilRestart => {}
        }
        self.raise(Some(&notice.connection.name), Trouble::Disabled(kind));
    }

    /// Ends what holds a connection, and keeps that before it answers.
    pub(super) async fn lift(&mut self, name: &str) -> Result<api::Connection, Refusal> {
        let at = self.find(name)?;
        let live = self.live.get(at).ok_or_else(|| unknown(name))?;
        let (id, state) = (live.id, live.connection.state);
        if let Some(suspension) = live.suspension {
            self.keep(id, None).await?;
            self.suspensions.remove(&id);
            if let Some(live) = self.live.get_mut(at) {
                live.suspension = None;
            }
            self.dispatcher.suspend(id, false).await;
            if let Some(live) = self.live.get(at) {
                self.feed(live);
            }
            self.publish_live();
            tracing::info!(
                connection = name,
                cause = suspension.kind.as_str(),
                "Connection goes on"
            );
        } else if state != State::Active {
            let state = state.as_str();
            return Err(Refusal::HeldByFile { connection: name.to_owned(), state });
        }
        self.describe(at, name)
    }

    /// Holds a connection until the next restart.
    pub(super) async fn pause_until_restart(
        &mut self,
        name: &str,
    ) -> Result<api::Connection, Refusal> {
        let at = self.find(name)?;
        let live = self.live.get(at).ok_or_else(|| unknown(name))?;
        let (connection, state) = (name.to_owned(), live.state().as_str());
        match live.suspension.map(|suspension| suspension.kind) {
            Some(SuspensionKind::PausedUntilRestart) => return self.describe(at, name),
            Some(kind) => {
                return Err(Refusal::HeldAlready { connection, state, cause: kind.as_str() });
            }
            None if live.state() != State::Active => {
                return Err(Refusal::HeldByFile { connection, state });
            }
            None => {}
        }
        self.hold(at, SuspensionKind::PausedUntilRestart).await;
        tracing::info!(connection = name, "Connection paused until a restart");
        self.describe(at, name)
    }

    /// What the store has of a connection that is configured now; ended when it was edited meanwhile.
    pub(super) async fn kept_suspension(
        &mut self,
        connection: &Connection,
        id: ConnectionId,
    ) -> Option<Suspension> {
        let kept = *self.suspensions.get(&id)?;
        let (name, cause) = (&connection.name, kept.kind.as_str());
        if kept.settings == fingerprint(connection) {
            tracing::warn!(connection = name, cause, "The connection is still held");
            return Some(kept);
        }
        tracing::info!(connection = name, cause, "The connection was edited, so it goes on");
        self.lift_edited(vec![id]).await;
        None
    }

    /// Forgets what held connections that were edited.
    pub(super) async fn lift_edited(&mut self, edited: Vec<ConnectionId>) {
        for id in edited {
            self.suspensions.remove(&id);
            if let Err(error) = self.keep(id, None).await {
                // The settings kept with it are not those of the connection any more: it ends at the next start.
                tracing::warn!(%error, "Could not keep that a connection goes on");
            }
        }
    }

    /// Holds a connection: first in fact, then durably.
    async fn hold(&mut self, at: usize, kind: SuspensionKind) -> Option<&Live> {
        let live = self.live.get_mut(at)?;
        let settings = fingerprint(&live.connection);
        let suspension = Suspension { kind, at_ms: self.clock.wall_ms(), settings };
        live.suspension = Some(suspension);
        let id = live.id;
        self.suspensions.insert(id, suspension);
        live.queue.waits.set_held(live.held_for());
        // What the egress gives back is not to be handed out again.
        self.store.detach(id);
        // Before the egress says which delivery halted it: no crash may leave a dead one and no halt.
        if let Err(error) = self.keep(id, Some(suspension)).await {
            tracing::error!(%error, "Could not keep that a connection is held; a restart ends it");
        }
        self.dispatcher.suspend(id, true).await;
        self.publish_live();
        self.live.get(at)
    }

    async fn keep(&self, id: ConnectionId, suspension: Option<Suspension>) -> Result<(), Refusal> {
        let kept = self.store.suspend(id, suspension).await;
        let kept = kept.map_err(|error| Refusal::Store(error.to_string()))?;
        kept.map_err(|error| Refusal::Store(error.to_string()))
    }

    fn find(&self, name: &str) -> Result<usize, Refusal> {
        let found = self.live.iter().position(|live| live.connection.name == name);
        found.ok_or_else(|| unknown(name))
    }

    fn describe(&self, at: usize, name: &str) -> Result<api::Connection, Refusal> {
        let live = self.live.get(at).ok_or_else(|| unknown(name))?;
        Ok(self.describe_connection(live))
    }
}

fn unknown(name: &str) -> Refusal {
    Refusal::UnknownConnection(name.to_owned())
}

/// A hash of a connection's effective settings: FNV-1a of how they print, which shows secrets by their fingerprints.
fn fingerprint(connection: &Connection) -> u64 {
    let mut hash = Hash(0xcbf2_9ce4_8422_2325);
    // Hashing takes every write.
    let _ = write!(hash, "{connection:?}");
    for (name, value) in &connection.headers {
        // A sensitive value prints as such.
        hash.take(name.as_str().as_bytes());
        hash.take(value.as_bytes());
    }
    hash.0
}

struct Hash(u64);

impl Hash {
    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

impl Write for Hash {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.take(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::testing::connection;
    use http::{HeaderName, HeaderValue};

    #[test]
    fn a_fingerprint_is_of_all_settings() {
        let plain = connection("crm", "http://example.com/");
        let mut seen = std::collections::BTreeSet::from([fingerprint(&plain)]);
        assert_eq!(fingerprint(&plain), fingerprint(&plain.clone()));
        let moved = connection("crm", "http://example.com/2");
        let longer = Connection { max_body: 7, ..plain.clone() };
        for edited in [moved, longer] {
            assert!(seen.insert(fingerprint(&edited)), "{edited:?}");
        }
        for secret in ["one", "two"] {
            let mut value = HeaderValue::from_static(secret);
            value.set_sensitive(true);
            let headers = vec![(HeaderName::from_static("x-token"), value)];
            assert!(seen.insert(fingerprint(&Connection { headers, ..plain.clone() })));
        }
        assert_eq!(seen.len(), 5);
    }
}
