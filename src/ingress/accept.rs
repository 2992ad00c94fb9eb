//! Storing one event: once for each key, decided by the configuration in force at that moment.

use std::sync::Arc;

use super::answers::Accepted;
use super::idempotency::Answer;
use super::post::Post;
use super::receive::Peer;
use super::refusal::{Refusal, Refused};
use super::routing::Group;
use crate::event::Event;
use crate::store::keys::{Fingerprint, KeyRecord};

impl Peer {
    /// Stores an event unless its key says that it is there already.
    pub(super) async fn store_one(
        &self,
        post: &Post<'_>,
        group: &Group,
        event: Event,
    ) -> Result<Accepted, Refused> {
        let Some(print) = Fingerprint::of(&event.content) else {
            return Ok(self.store(post, event, None).await?.0);
        };
        let claim = match self.shared.keys.claim(print) {
            Answer::Claimed(claim) => claim,
            Answer::Known(key) => return Ok(Accepted::before(group, &key)),
            Answer::Conflict => return Err(Refusal::IdempotencyConflict.into()),
            Answer::Pending(waiter) => {
                drop(event);
                return waiter.outcome().await;
            }
        };
        let result = self.store(post, event, Some(print)).await;
        match &result {
            Ok((accepted, key)) => claim.settle(*key, Ok(accepted.clone())),
            Err(refused) => claim.settle(None, Err(refused.clone())),
        }
        result.map(|(accepted, _)| accepted)
    }

    /// Decides, appends, counts; returns the key to remember too, if the event has one and was stored.
    async fn store(
        &self,
        post: &Post<'_>,
        event: Event,
        print: Option<Fingerprint>,
    ) -> Result<(Accepted, Option<KeyRecord>), Refused> {
        // Looked up again: what counts is the configuration in force now, not when the head came in.
        let group = Arc::clone(self.shared.routing.load().find(post.target())?);
        let body = event.content.body_len() as u64;
        let mut plan = group.decide(body, event.content.as_bytes().len() as u64)?;
        let (id, accepted) = (event.id, Accepted::new(&group, &plan, event.id));
        let key = print.map(|print| KeyRecord::new(print, id, event.accepted_age, plan.queued()));
        let key = key.filter(|_| !plan.is_empty());
        let routes = std::mem::take(&mut plan.routes);
        if !routes.is_empty() {
            let (intake, event) = (&self.shared.intake, Arc::new(event));
            intake.append_with(event, routes, key.map(Box::new)).await?;
            tracing::debug!(event_id = %id, source = group.source, bytes = body, "Accepted an event");
        }
        group.count(&plan.dead);
        self.shared.counts.body_bytes.increment(body);
        Ok((accepted, key))
    }
}
