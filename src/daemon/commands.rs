//! What the admin API asks for.

use std::sync::atomic::Ordering;

use super::gauges::States;
use super::{Daemon, Live};
use crate::admin::api::{self, Page, Pagination, rfc3339};
use crate::admin::command::ReplayedPage;
use crate::admin::{Command, DeadEvent, Readiness, Refusal};
use crate::event::{Event, EventId};
use crate::store::suspension::Suspension;
use crate::store::{self, ConnectionId, DeadCursor, DeadLetter, StoreStatus};

impl Daemon {
    /// Does what is asked. An asker that went away does not want its answer.
    pub(super) async fn run_command(&mut self, command: Command) {
        match command {
            Command::Status(reply) => {
                if let Ok(status) = self.status().await {
                    let _ = reply.send(status);
                }
            }
            Command::DeadList { connection, after, limit, reply } => {
                let _ = reply.send(self.dead_list(connection, after, limit).await);
            }
            Command::DeadShow { connection, event, reply } => {
                let shown =
                    self.dead_event(&connection, event).await.map(|(dead, event)| DeadEvent {
                        dead_letter: describe(&connection, &dead, &event),
                        event: event.into(),
                    });
                let _ = reply.send(shown);
            }
            Command::Replay { connection, event, reply } => {
                let _ = reply.send(self.replay(&connection, event).await);
            }
            Command::ReplayPage { connection, after, limit, reply } => {
                let _ = reply.send(self.replay_page(&connection, after, limit).await);
            }
            Command::EventShow { event, reply } => {
                let _ = reply.send(self.show_event(event).await);
            }
            Command::Explain { event, reply } => {
                let _ = reply.send(self.explain(event).await);
            }
            Command::EventReplay { event, connection, reply } => {
                let _ = reply.send(self.replay_event(event, &connection).await);
            }
            Command::Attempts { query, reply } => {
                let _ = reply.send(self.attempts(query).await);
            }
            Command::Reload { by, reply } => {
                let _ = reply.send(self.reload(&by).await);
            }
            other => self.run_managing(other).await,
        }
    }

    /// What the API asks of connections as configuration.
    async fn run_managing(&mut self, command: Command) {
        match command {
            Command::Plan(reply) => {
                let _ = reply.send(self.plan().await);
            }
            Command::Connections { listing, reply } => {
                let _ = reply.send(self.list(listing).await);
            }
            Command::ConnectionsCount { filter, reply } => {
                let _ = reply.send(self.count(&filter));
            }
            Command::ConnectionShow { name, reply } => {
                let _ = reply.send(self.show(&name).await);
            }
            Command::ConnectionStatus { name, reply } => {
                let _ = reply.send(self.status_of(&name));
            }
            Command::Edit { edit, reply } => {
                let _ = reply.send(self.edit(edit).await);
            }
            Command::Export { name, reply } => {
                let _ = reply.send(self.export(name).await);
            }
            Command::Import { import, reply } => {
                let _ = reply.send(self.import(import).await);
            }
            Command::Test { test, reply } => {
                let _ = reply.send(self.test(test).await);
            }
            Command::Audit { query, reply } => {
                let directory = self.audit.directory();
                let page =
                    tokio::task::spawn_blocking(move || super::audit::page(&directory, &query));
                let page =
                    page.await.unwrap_or_else(|error| Err(Refusal::Store(error.to_string())));
                let _ = reply.send(page);
            }
            // They were taken above.
            _ => {}
        }
    }

    async fn status(&self) -> Result<api::Status, store::Closed> {
        let status = self.store.status().await?;
        let mut connections: Vec<_> =
            self.live.iter().map(|live| self.describe_connection(live)).collect();
        connections.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(api::Status {
            daemon: self.describe_daemon(),
            connections,
            orphaned: self.orphaned(&status),
            store: api::Store {
                path: self.config.daemon.store.path.display().to_string(),
                bytes: status.bytes,
                max_bytes: status.max_bytes,
                segments: status.segments as u64,
                kept_bytes: status.kept_bytes,
                attempts_bytes: status.attempts_bytes,
            },
            alerts: self.alerts.describe(),
        })
    }

    fn describe_daemon(&self) -> api::Daemon {
        let state = match &*self.readiness.borrow() {
            Readiness::Ready => "ready".to_owned(),
            Readiness::NotReady(why) => why.clone(),
        };
        api::Daemon {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            state,
            uptime_seconds: self.clock.monotonic().saturating_sub(self.started).as_secs(),
            generation: self.generation,
            last_reload: self.last_reload.clone(),
            config_file: self.root.path.exists().then(|| self.root.path.display().to_string()),
        }
    }

    pub(super) fn describe_connection(&self, live: &Live) -> api::Connection {
        let status = self.dispatcher.status(live.id);
        let states = States::of(&live.queue, status.as_deref(), live.state());
        let queue = api::Queue {
            queued: states.queued,
            scheduled: states.scheduled,
            held: states.held,
            in_flight: states.in_flight,
            bytes: live.queue.live_bytes.load(Ordering::Relaxed),
        };
        let breaker = status.as_ref().filter(|_| live.connection.breaker.is_some());
        let breaker = breaker.map(|status| status.breaker().as_str().to_owned());
        let failure = status.and_then(|status| status.last_failure());
        api::Connection {
            name: live.connection.name.clone(),
            state: live.state().as_str().to_owned(),
            suspended: live.suspension.map(suspended),
            breaker,
            oldest_age_seconds: (queue.total() > 0).then(|| self.gauges.oldest_seconds(live.id)),
            queue,
            dead: live.queue.dead.load(Ordering::Relaxed),
            last_error: failure.map(|failure| api::LastError {
                cause: failure.cause.as_str().to_owned(),
                status: (failure.status > 0).then_some(failure.status),
                at: rfc3339(failure.at_ms),
            }),
        }
    }

    /// Queues of connections that are not configured any more.
    pub(super) fn orphaned(&self, status: &StoreStatus) -> Vec<api::Orphaned> {
        let configured = |name: &str| self.live.iter().any(|live| live.connection.name == name);
        let queues = status.queues.iter().filter(|(name, _)| !configured(name));
        let orphaned = queues.map(|(name, queue)| api::Orphaned {
            name: name.clone(),
            held: queue.live.load(Ordering::Relaxed),
            dead: queue.dead.load(Ordering::Relaxed),
        });
        orphaned.filter(|orphaned| orphaned.held + orphaned.dead > 0).collect()
    }

    /// The names whose dead letters can be asked for, with their numbers: configured connections and orphaned queues.
    async fn known(&self) -> Result<Vec<(String, ConnectionId)>, Refusal> {
        let status = self.store.status().await.map_err(closed)?;
        let ids = (0..).map(ConnectionId);
        let mut known: Vec<_> =
            status.queues.into_iter().zip(ids).map(|((name, _), id)| (name, id)).collect();
        let orphaned = |name: &str| self.live.iter().all(|live| live.connection.name != name);
        known.retain(|(name, _)| !name.starts_with('\0') || !orphaned(name));
        known.sort();
        Ok(known)
    }

    async fn id_of(&self, connection: &str) -> Result<ConnectionId, Refusal> {
        let known = self.known().await?;
        let found = known.into_iter().find(|(name, _)| name == connection);
        found.map(|(_, id)| id).ok_or_else(|| Refusal::UnknownConnection(connection.to_owned()))
    }

    async fn dead_list(
        &self,
        connection: Option<String>,
        after: Option<String>,
        limit: u32,
    ) -> Result<Page<api::DeadLetter>, Refusal> {
        let after = after.as_deref().map(cursor).transpose()?;
        let mut names = self.known().await?;
        if let Some(wanted) = connection {
            names.retain(|(name, _)| *name == wanted);
            if names.is_empty() {
                return Err(Refusal::UnknownConnection(wanted));
            }
        }
        let start = after
            .and_then(|after| names.iter().position(|(_, id)| *id == after.connection))
            .unwrap_or(0);
        let mut models = Vec::new();
        let mut last = None;
        let mut more = false;
        for (name, id) in names.into_iter().skip(start) {
            let room = (limit as usize).saturating_sub(models.len());
            let from = after.filter(|after| after.connection == id);
            let page = self.store.dead(id, from, room).await.map_err(closed)?;
            for letter in &page.letters {
                models.push(self.describe_letter(&name, letter).await?);
                last = Some(letter.cursor());
            }
            if page.more {
                more = true;
                break;
            }
        }
        let next = last.filter(|_| more).map(DeadCursor::to_text);
        Ok(Page { pagination: Pagination { limit, next }, count: models.len(), models })
    }

    /// A dead letter with its event's id, for which its record must be read.
    async fn describe_letter(
        &self,
        name: &str,
        letter: &DeadLetter,
    ) -> Result<api::DeadLetter, Refusal> {
        let loaded = self.store.load(letter.id, letter.size).await.map_err(closed)?;
        Ok(match loaded {
            Ok(event) => describe(name, letter, &event),
            Err(error) => {
                let mut damaged = describe_without_event(name, letter);
                damaged.id = format!("unreadable: {error}");
                damaged
            }
        })
    }

    async fn dead_event(
        &self,
        connection: &str,
        event: EventId,
    ) -> Result<(DeadLetter, Event), Refusal> {
        let id = self.id_of(connection).await?;
        let found = self.store.find_dead(id, event).await.map_err(closed)?;
        found.ok_or_else(|| Refusal::NoSuchDeadLetter { connection: connection.to_owned(), event })
    }

    pub(super) async fn replay(&self, connection: &str, event: EventId) -> Result<(), Refusal> {
        // Its record may be moved, or somebody else may replay it, between the two steps.
        for _ in 0..REPLAY_TRIES {
            let (letter, _) = match self.dead_event(connection, event).await {
                Err(Refusal::NoSuchDeadLetter { .. })
                    if self.is_live(connection, event).await? =>
                {
                    return Err(Refusal::StillLive(event));
                }
                found => found?,
            };
            if self.replay_letters(connection, vec![letter]).await? == 1 {
                return Ok(());
            }
        }
        Err(Refusal::StillLive(event))
    }

    async fn is_live(&self, connection: &str, event: EventId) -> Result<bool, Refusal> {
        let id = self.id_of(connection).await?;
        self.store.is_live(id, event).await.map_err(closed)
    }

    async fn replay_page(
        &self,
        connection: &str,
        after: Option<String>,
        limit: u32,
    ) -> Result<ReplayedPage, Refusal> {
        let after = after.as_deref().map(cursor).transpose()?;
        let id = self.id_of(connection).await?;
        let mut page = self.store.dead(id, after, limit as usize).await.map_err(closed)?;
        let dead_before = page.total;
        let next =
            page.letters.last().filter(|_| page.more).map(|letter| letter.cursor().to_text());
        let mut replayed = 0;
        for _ in 0..REPLAY_TRIES {
            let wanted = page.letters.len() as u64;
            let done = self.replay_letters(connection, std::mem::take(&mut page.letters)).await?;
            replayed += done;
            if done == wanted {
                break;
            }
            // Records of the others were moved after they were listed: they are listed anew.
            let left = usize::try_from(wanted - done).unwrap_or(0);
            page = self.store.dead(id, after, left).await.map_err(closed)?;
        }
        Ok(ReplayedPage { replayed, dead_before, next })
    }

    async fn replay_letters(
        &self,
        connection: &str,
        letters: Vec<DeadLetter>,
    ) -> Result<u64, Refusal> {
        let (replayed, durable) = self.store.replay(letters).await.map_err(closed)?;
        let replayed = replayed.len() as u64;
        self.count_replayed(connection, replayed);
        durable.map_err(|error| Refusal::Store(error.to_string()))?;
        Ok(replayed)
    }

    pub(super) fn count_replayed(&self, connection: &str, replayed: u64) {
        if let Some(live) = self.live.iter().find(|live| live.connection.name == connection) {
            live.metrics.replayed.increment(replayed);
        }
    }
}

/// Why the daemon holds a connection.
pub(super) fn suspended(suspension: Suspension) -> api::Suspended {
    api::Suspended { cause: suspension.kind.as_str().to_owned(), since: rfc3339(suspension.at_ms) }
}

/// How often a replay is tried of what was found, and not there any more a moment later.
const REPLAY_TRIES: usize = 3;

fn cursor(text: &str) -> Result<DeadCursor, Refusal> {
    DeadCursor::from_text(text).ok_or(Refusal::BadCursor)
}

pub(super) fn closed(error: store::Closed) -> Refusal {
    Refusal::Store(error.to_string())
}

fn describe(connection: &str, letter: &DeadLetter, event: &Event) -> api::DeadLetter {
    api::DeadLetter {
        id: event.id.to_string(),
        accepted_at: rfc3339(event.accepted_ms),
        ..describe_without_event(connection, letter)
    }
}

fn describe_without_event(connection: &str, letter: &DeadLetter) -> api::DeadLetter {
    api::DeadLetter {
        id: String::new(),
        connection: connection.to_owned(),
        cause: letter.cause.as_str().to_owned(),
        status: (letter.status > 0).then_some(letter.status),
        attempts: letter.attempts,
        accepted_at: String::new(),
        died_at: Some(rfc3339(letter.died_ms)),
        bytes: u64::from(letter.size),
    }
}
