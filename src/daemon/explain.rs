//! `explain`: how an event stands with each connection, why, what would change that, and when it goes on.
//!
//! What is asked: the store (where the delivery is), the egress runtime that has it (which gate said no), the routing table
//! (who ignored it lately), history (its attempts). Then [`reason`] puts it into words.

mod reason;

use std::collections::BTreeMap;

use super::commands::closed;
use super::history::describe as describe_attempt;
use super::{Daemon, Live};
use crate::admin::Refusal;
use crate::admin::api::explain::{Explained, Explanation};
use crate::admin::api::{Attempt, rfc3339};
use crate::clock::millis;
use crate::connection::State;
use crate::delivery::{Gate, Place};
use crate::event::{EventId, Wait};
use crate::store::history::AttemptQuery;
use crate::store::{DeliveryId, FoundEvent, Whereabouts};
use reason::{Held, Reason};

/// Attempts of an event that are looked at, of all its connections.
const ATTEMPTS_MAX: usize = 255;
/// Attempts that are shown of each connection.
const ATTEMPTS_SHOWN: usize = 5;

impl Daemon {
    /// Everything that is known of an event.
    pub(super) async fn explain(&self, event: EventId) -> Result<Explanation, Refusal> {
        let found = self.store.find_event(event).await.map_err(closed)?;
        let mut attempts = self.attempts_of(event).await?;
        let mut deliveries = BTreeMap::new();
        for (name, delivery) in found.iter().flat_map(|found| &found.deliveries) {
            let tried = attempts.remove(name).unwrap_or_default();
            let reason = self.reason(name, delivery.id, &tried).await?;
            deliveries.insert(name.clone(), explained(name, reason, tried));
        }
        // What was delivered and given back has left its failures behind.
        for (name, tried) in attempts {
            let reason = reason::left_store(&tried);
            deliveries.insert(name.clone(), explained(&name, reason, tried));
        }
        for (name, reason) in self.ignored(event, found.as_ref()) {
            let one = explained(&name, reason, Vec::new());
            deliveries.entry(name).or_insert(one);
        }
        if found.is_none() && deliveries.is_empty() {
            let kept = self.config.daemon.store.keep.delivered.age;
            let what = reason::unknown(event, self.clock.wall_ms(), kept);
            return Err(Refusal::NothingKnown { event, what });
        }
        let accepted_ms = found.as_ref().map_or(event.unix_ms(), |found| found.event.accepted_ms);
        let content = found.as_ref().map(|found| &found.event.content);
        Ok(Explanation {
            id: event.to_string(),
            accepted_at: rfc3339(accepted_ms),
            stored: found.is_some(),
            source: content.map(|content| content.source().to_owned()),
            kind: content.map(|content| content.kind().to_owned()).filter(|kind| !kind.is_empty()),
            deliveries: deliveries.into_values().collect(),
        })
    }

    /// The recorded attempts of an event by connection, the newest first.
    async fn attempts_of(&self, event: EventId) -> Result<BTreeMap<String, Vec<Attempt>>, Refusal> {
        let query = AttemptQuery {
            former: None,
            connection: None,
            event: Some(event),
            code: None,
            since_ms: 0,
            until_ms: None,
            statuses: None,
            before: None,
            limit: ATTEMPTS_MAX,
        };
        let page = self.store.attempts(query).await.map_err(closed)?;
        let mut attempts: BTreeMap<String, Vec<Attempt>> = BTreeMap::new();
        for recorded in &page.attempts {
            let of_connection = attempts.entry(recorded.attempt.connection.to_string());
            of_connection.or_default().push(describe_attempt(recorded));
        }
        Ok(attempts)
    }

    /// Why a delivery of the store is where it is.
    async fn reason(
        &self,
        name: &str,
        id: DeliveryId,
        tried: &[Attempt],
    ) -> Result<Reason, Refusal> {
        let whereabouts = self.store.whereabouts(id).await.map_err(closed)?;
        let live = self.live.iter().find(|live| live.id == id.connection);
        Ok(match whereabouts {
            Whereabouts::Over => reason::over(tried),
            Whereabouts::Dead(letter) => reason::dead(name, &letter),
            Whereabouts::Waiting => self.in_store(live, id, 0).await,
            Whereabouts::Scheduled { due, attempts, lane } => {
                let left = due.since(self.clock.age());
                let held = self.in_store(live, id, attempts).await;
                if left.is_zero() {
                    return Ok(held);
                }
                let next_ms = self.clock.wall_ms().saturating_add(millis(left));
                reason::scheduled(lane, attempts, next_ms, held)
            }
            Whereabouts::HandedOut { attempts } => self.in_egress(live, id, attempts).await,
        })
    }

    /// Why one that the store has, and that is due, is not handed out.
    async fn in_store(&self, live: Option<&Live>, id: DeliveryId, attempts: u32) -> Reason {
        let Some(live) = live else {
            return reason::orphaned(attempts);
        };
        let wait = match live.state() {
            State::Paused => Wait::Paused,
            State::Disabled => Wait::Disabled,
            State::Active => {
                let look = self.dispatcher.look(id).await;
                let (gate, in_flight) =
                    look.map_or((shut(Wait::Turn), 0), |look| (look.gate, look.in_flight));
                return reason::gated(&self.held(live, gate, in_flight), attempts);
            }
        };
        reason::gated(&self.held(live, shut(wait), 0), attempts)
    }

    /// Why one that was handed out is not over.
    async fn in_egress(&self, live: Option<&Live>, id: DeliveryId, attempts: u32) -> Reason {
        let Some(live) = live else {
            // An attempt that was under way when its connection was removed.
            return reason::in_flight(attempts);
        };
        let Some(look) = self.dispatcher.look(id).await else {
            return reason::gated(&self.held(live, shut(Wait::Turn), 0), attempts);
        };
        let gate = match look.place {
            Place::Gone if look.in_flight > 0 => return reason::in_flight(attempts),
            // On its way between the store and there.
            Place::Gone => shut(Wait::Turn),
            Place::Halting => shut(Wait::Paused),
            _ if look.gate.wait.holds() => look.gate,
            Place::Behind(first) => return reason::behind(first, attempts),
            Place::Loading => shut(Wait::Memory),
            Place::Waiting => look.gate,
        };
        reason::gated(&self.held(live, gate, look.in_flight), attempts)
    }

    fn held<'a>(&self, live: &'a Live, gate: Gate, in_flight: u32) -> Held<'a> {
        let wall_ms = self.clock.wall_ms();
        Held {
            connection: &live.connection,
            suspended: live.suspension.map(|suspension| suspension.kind),
            wait: gate.wait,
            next_ms: gate.left.map(|left| wall_ms.saturating_add(millis(left))),
            in_flight,
            failure: self.dispatcher.status(live.id).and_then(|status| status.last_failure()),
        }
    }

    /// The connections that did not take an event, as far as they remember it; and, of one in the store, those of its source
    /// that it was not for.
    fn ignored(&self, event: EventId, found: Option<&FoundEvent>) -> Vec<(String, Reason)> {
        let table = self.routing.load();
        let mut ignored = Vec::new();
        for live in &self.live {
            let name = &live.connection.name;
            let known = table.ignored(name).into_iter().rev().find(|ignored| ignored.id == event);
            let source = found.map(|found| found.event.content.source());
            let of_source = source
                .is_some_and(|source| live.connection.sources.iter().any(|one| one == source));
            if let Some(known) = known {
                ignored.push((name.clone(), reason::ignored(name, known.why)));
            } else if of_source {
                ignored.push((name.clone(), reason::not_routed()));
            }
        }
        ignored
    }
}

/// A gate of which it is not known when it opens.
fn shut(wait: Wait) -> Gate {
    Gate { wait, left: None }
}

fn explained(connection: &str, reason: Reason, mut tried: Vec<Attempt>) -> Explained {
    tried.truncate(ATTEMPTS_SHOWN);
    Explained {
        connection: connection.to_owned(),
        state: reason.state.to_owned(),
        cause: reason.cause.map(str::to_owned),
        why: reason.why,
        unblock: reason.unblock,
        next_at: reason.next_ms.map(rfc3339),
        attempts: reason.attempts,
        last_attempts: tried,
    }
}
