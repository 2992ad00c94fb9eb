//! Storing one event: once for each key, decided by the configuration in force at that moment.

use std::sync::Arc;
use std::time::Duration;

use super::answers::{Accepted, Watch};
use super::idempotency::Answer;
use super::post::Post;
use super::receive::Peer;
use super::refusal::{Refusal, Refused};
use super::routing::{Group, Target};
use super::rules::Choice;
use crate::event::Event;
use crate::store::keys::{Fingerprint, KeyRecord};

/// An event that was decided, and stored where it has routes.
struct Stored {
    accepted: Accepted,
    /// The key to remember, if it has one.
    key: Option<KeyRecord>,
    watch: Option<Watch>,
}

impl Peer {
    /// Stores an event unless its key says that it is there already. The second is there where the producer waits for the
    /// outcome of an event that was stored now.
    pub(super) async fn store_one(
        &self,
        post: &Post<'_>,
        group: &Group,
        event: Event,
    ) -> Result<(Accepted, Option<Watch>), Refused> {
        let Some(print) = Fingerprint::of(&event.content) else {
            let stored = self.store(post, event, None).await?;
            return Ok((stored.accepted, stored.watch));
        };
        let claim = match self.shared.keys.claim(print) {
            Answer::Claimed(claim) => claim,
            Answer::Known(key) => return Ok((Accepted::before(group, &key), None)),
            Answer::Conflict => return Err(Refusal::IdempotencyConflict.into()),
            Answer::Pending(waiter) => {
                drop(event);
                return waiter.outcome().await.map(|accepted| (accepted, None));
            }
        };
        match self.store(post, event, Some(print)).await {
            Ok(stored) => {
                claim.settle(stored.key, Ok(stored.accepted.clone()));
                Ok((stored.accepted, stored.watch))
            }
            Err(refused) => {
                claim.settle(None, Err(refused.clone()));
                Err(refused)
            }
        }
    }

    /// Decides, appends, counts.
    async fn store(
        &self,
        post: &Post<'_>,
        event: Event,
        print: Option<Fingerprint>,
    ) -> Result<Stored, Refused> {
        let (group, mut choice) = self.choose(post.target(), &event).await?;
        let body = event.content.body_len() as u64;
        let content = event.content.as_bytes().len() as u64;
        let mut plan = group.decide(body, content, post.asked.delay, &choice)?;
        let (id, age) = (event.id, event.accepted_age);
        let accepted = Accepted::new(&group, &plan, id);
        let key = print.map(|print| KeyRecord::new(print, id, age, plan.queued()));
        let key = key.filter(|_| !plan.is_empty());
        let routes = std::mem::take(&mut plan.routes);
        let mut watch = None;
        if !routes.is_empty() {
            let (intake, event, boxed) = (&self.shared.intake, Arc::new(event), key.map(Box::new));
            let durability = group.durability();
            if post.asked.wait.is_some() {
                let names = routes.iter().map(|route| group.name_of(route.connection)).collect();
                let outcomes = intake.append_watched(event, routes, boxed, durability).await?;
                watch = Some(Watch { names, outcomes });
            } else {
                intake.append_with(event, routes, boxed, durability).await?;
            }
            tracing::debug!(event_id = %id, source = group.source, bytes = body, "Accepted an event");
        }
        choice.settle(id, age);
        group.count(id, &plan.dead, &choice);
        self.shared.counts.body_bytes.increment(body);
        Ok(Stored { accepted, key, watch })
    }

    /// Asks the connections whether they want the event. One that is the same as an event on its way to the disk waits for what
    /// becomes of that.
    async fn choose(
        &self,
        target: Target<'_>,
        event: &Event,
    ) -> Result<(Arc<Group>, Choice), Refused> {
        loop {
            // Looked up again: what counts is the configuration in force now, not when the head came in.
            let group = Arc::clone(self.shared.routing.load().find(target)?);
            match group.choose(event, &[]) {
                Ok(choice) => return Ok((group, choice)),
                Err(waiter) => waiter.wait().await,
            }
        }
    }

    /// Waits until every delivery of an event is over, the producer's time is up, or the daemon stops.
    pub(super) async fn wait_for(&self, watch: &Watch, wait: Duration) {
        let Some(outcomes) = &watch.outcomes else {
            return;
        };
        tokio::select! {
            biased;
            () = outcomes.all() => {}
            () = self.closing.cancelled() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}
