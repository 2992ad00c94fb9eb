//! What the admin API asks about what is over: single events, and the attempts that were recorded.

use std::time::Duration;

use super::Daemon;
use super::commands::closed;
use crate::admin::api::{self, Page, Pagination, rfc3339};
use crate::admin::{AttemptsQuery, FoundEvent, Refusal};
use crate::event::EventId;
use crate::store::history::{AttemptQuery, Recorded};
use crate::store::{self, Standing};

impl Daemon {
    /// An event that is still in the store, and how its deliveries stand.
    pub(super) async fn show_event(&self, event: EventId) -> Result<FoundEvent, Refusal> {
        let found = self.find_event(event).await?;
        let deliveries = found.deliveries.into_iter();
        let deliveries = deliveries.map(|(name, delivery)| {
            let state = match delivery.standing {
                Standing::Live => "live",
                Standing::Dead => "dead",
                Standing::Over => "over",
            };
            (name, state)
        });
        Ok(FoundEvent { event: found.event.into(), deliveries: deliveries.collect() })
    }

    /// Sends an event to one of its connections on a new run.
    pub(super) async fn replay_event(
        &self,
        event: EventId,
        connection: &str,
    ) -> Result<(), Refusal> {
        let found = self.find_event(event).await?;
        let unknown = || Refusal::NoSuchDelivery { connection: connection.to_owned(), event };
        let delivery = *found.deliveries.get(connection).ok_or_else(unknown)?;
        match delivery.standing {
            Standing::Live => Err(Refusal::StillLive(event)),
            Standing::Dead => self.replay(connection, event).await,
            Standing::Over => {
                let (replayed, durable) = self.store.replay_over(delivery).await.map_err(closed)?;
                if !replayed {
                    // Somebody else replayed it in between, or its segment was given back.
                    let gone = self.store.find_event(event).await.map_err(closed)?.is_none();
                    let (gone_now, live) = (Refusal::NoSuchEvent(event), Refusal::StillLive(event));
                    return Err(if gone { gone_now } else { live });
                }
                self.count_replayed(delivery.id.connection, 1);
                durable.map_err(|error| Refusal::Store(error.to_string()))
            }
        }
    }

    async fn find_event(&self, event: EventId) -> Result<store::FoundEvent, Refusal> {
        let found = self.store.find_event(event).await.map_err(closed)?;
        found.ok_or(Refusal::NoSuchEvent(event))
    }

    /// One page of attempts, the newest first.
    pub(super) async fn attempts(
        &self,
        query: AttemptsQuery,
    ) -> Result<Page<api::Attempt>, Refusal> {
        let limit = query.limit;
        let name = query.connection.as_deref();
        let live = self.live.iter().find(|live| Some(live.connection.name.as_str()) == name);
        let query = AttemptQuery {
            former: live.and_then(|live| live.connection.renamed_from.clone()),
            connection: query.connection,
            event: query.event,
            code: query.code,
            since_ms: query.since_ms,
            before: query.before,
            limit: limit as usize,
        };
        let page = self.store.attempts(query).await.map_err(closed)?;
        let next = page.attempts.last().filter(|_| page.more).map(|last| last.number.to_string());
        let models: Vec<_> = page.attempts.iter().map(describe).collect();
        Ok(Page { pagination: Pagination { limit, next }, count: models.len(), models })
    }
}

pub(super) fn describe(recorded: &Recorded) -> api::Attempt {
    let attempt = &recorded.attempt;
    let timings = attempt.timings;
    let seconds = |part: Option<Duration>| part.map(|part| part.as_secs_f64());
    api::Attempt {
        event: attempt.event.to_string(),
        connection: attempt.connection.to_string(),
        attempt: attempt.number,
        replay: attempt.replay,
        at: rfc3339(attempt.at_ms),
        code: attempt.code.map(|cause| cause.as_str().to_owned()),
        status: (attempt.status > 0).then_some(attempt.status),
        phase: attempt.phase.as_str().to_owned(),
        dns_seconds: seconds(timings.lookup),
        connect_seconds: seconds(timings.connect),
        tls_seconds: seconds(timings.tls),
        first_byte_seconds: seconds(timings.first_byte),
        seconds: attempt.took.as_secs_f64(),
        remote: attempt.remote.map(|remote| remote.to_string()),
        generation: (attempt.generation > 0).then_some(attempt.generation),
        response: (!attempt.excerpt.is_empty())
            .then(|| String::from_utf8_lossy(&attempt.excerpt).into_owned()),
    }
}
