//! Events that the daemon makes itself. They take the same way as what is posted to one connection: its filter, dedupe, limits
//! and delay apply, and they are durable like any other.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::refusal::{Refusal, Refused};
use super::routing::{Group, RoutingTable, Target};
use super::rules::Choice;
use crate::event::Event;
use crate::store::intake::{AckLane, Intake};

/// The way in for one task of the daemon, beside those of producers.
#[derive(Debug)]
pub struct OwnEvents {
    intake: Intake,
    lane: Arc<AckLane>,
    routing: Arc<ArcSwap<RoutingTable>>,
}

impl OwnEvents {
    /// With an intake and its lane, which nobody else runs.
    pub fn new(
        (intake, lane): (Intake, Arc<AckLane>),
        routing: Arc<ArcSwap<RoutingTable>>,
    ) -> OwnEvents {
        OwnEvents { intake, lane, routing }
    }

    /// Stores an event for one connection. When this returns `Ok`, it is on the disk, or the connection's rules did not
    /// want it.
    ///
    /// # Errors
    /// As a producer would be refused; then there is no trace of it.
    pub async fn post(&self, connection: &str, event: Event) -> Result<(), Refusal> {
        tokio::select! {
            biased;
            stored = self.store(connection, event) => stored.map_err(|refused| refused.why),
            // It never ends.
            () = self.lane.run() => Err(Refusal::ShuttingDown),
        }
    }

    async fn store(&self, connection: &str, event: Event) -> Result<(), Refused> {
        let (group, mut choice) = self.choose(connection, &event).await?;
        let (id, age) = (event.id, event.accepted_age);
        let content = event.content.as_bytes().len() as u64;
        let mut plan = group.decide(event.content.body_len() as u64, content, None, &choice)?;
        let routes = std::mem::take(&mut plan.routes);
        if !routes.is_empty() {
            self.intake.append(Arc::new(event), routes).await?;
        }
        choice.settle(id, age);
        group.count(id, &plan.dead, &choice);
        Ok(())
    }

    async fn choose(
        &self,
        connection: &str,
        event: &Event,
    ) -> Result<(Arc<Group>, Choice), Refused> {
        loop {
            let group = Arc::clone(self.routing.load().find(Target::Connection(connection))?);
            match group.choose(event, &[]) {
                Ok(choice) => return Ok((group, choice)),
                Err(waiter) => waiter.wait().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::connection::{Connection, State};
    use crate::delivery::testing::connection;
    use crate::event::{ContentBuilder, EventId};
    use crate::ingress::Sources;
    use crate::metrics::Metrics;
    use crate::store::ConnectionId;
    use crate::store::intake::{AppendError, FakeStore};

    fn event() -> Event {
        let mut content = ContentBuilder::new("posthaste", "posthaste.breaker.opened", "", 64);
        content.header("content-type", b"application/json");
        content.body(b"{}");
        let id = EventId::new(7, &mut fastrand::Rng::with_seed(7));
        Event {
            id,
            accepted_ms: 7,
            accepted_age: crate::clock::Age::default(),
            content: content.finish(),
        }
    }

    fn table(connection: Connection) -> Arc<ArcSwap<RoutingTable>> {
        let metrics = Metrics::new();
        let counters = metrics.connection(&connection.name);
        let entry = (Arc::new(connection), ConnectionId(3), Arc::default(), counters);
        let sources = Sources::new(&[], &Clock::manual(7));
        Arc::new(ArcSwap::from_pointee(RoutingTable::new(&[entry], &sources)))
    }

    async fn post(
        to: Connection,
        name: &str,
        answer: Result<(), AppendError>,
    ) -> (Result<(), Refusal>, usize) {
        let (intake, lane, store) = FakeStore::new();
        let own = OwnEvents::new((intake, lane), table(to));
        let mut posted = std::pin::pin!(own.post(name, event()));
        let mut stored = 0;
        let result = std::future::poll_fn(|context| {
            let first = posted.as_mut().poll(context);
            stored += store.turn(|_| answer).len();
            match first {
                std::task::Poll::Pending => posted.as_mut().poll(context),
                ready => ready,
            }
        });
        (result.await, stored)
    }

    #[tokio::test]
    async fn they_go_to_one_connection_or_are_refused_as_others_are() {
        let pager = || connection("pager", "http://pager/");
        assert_eq!(post(pager(), "pager", Ok(())).await, (Ok(()), 1));
        let full = post(pager(), "pager", Err(AppendError::Full)).await;
        assert_eq!(full, (Err(Refusal::StoreFull), 1));
        assert_eq!(post(pager(), "gone", Ok(())).await, (Err(Refusal::UnknownConnection), 0));
        let disabled = Connection { state: State::Disabled, ..pager() };
        assert_eq!(post(disabled, "pager", Ok(())).await, (Err(Refusal::ConnectionDisabled), 0));
    }
}
