//! What the admin API asks for.

use std::sync::atomic::Ordering;

use super::gauges::States;
use super::{Daemon, Live};
use crate::admin::api::{self, rfc3339};
use crate::admin::{Command, Readiness, Refusal};
use crate::store::suspension::Suspension;
use crate::store::{self, StoreStatus};

impl Daemon {
    /// Does what is asked. An asker that went away does not want its answer.
    pub(super) async fn run_command(&mut self, command: Command) {
        match command {
            Command::Status(reply) => {
                if let Ok(status) = self.status().await {
                    let _ = reply.send(status);
                }
            }
            Command::DeadList { selection, after, limit, reply } => {
                let _ = reply.send(self.dead_list(&selection, after, limit).await);
            }
            Command::DeadShow { connection, event, reply } => {
                let _ = reply.send(self.dead_show(&connection, event).await);
            }
            Command::Replay { connection, event, reply } => {
                let _ = reply.send(self.replay(&connection, event).await);
            }
            Command::Purge { connection, by, reply } => {
                let _ = reply.send(self.purge(&connection, &by).await);
            }
            Command::Job(command) => self.run_job_command(command).await,
            Command::EventShow { event, reply } => {
                let _ = reply.send(self.show_event(event).await);
            }
            Command::Explain { event, reply } => {
                let _ = reply.send(self.explain(event).await);
            }
            Command::EventReplay { event, connection, reply } => {
                let _ = reply.send(self.replay_event(event, &connection).await);
            }
            Command::EventAct { action, event, connection, by, reply } => {
                let acted = self.act_on_event(action, event, connection.as_deref(), &by).await;
                let _ = reply.send(acted);
            }
            Command::Deliveries { query, reply } => {
                let _ = reply.send(self.deliveries(query).await);
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
}

/// Why the daemon holds a connection.
pub(super) fn suspended(suspension: Suspension) -> api::Suspended {
    api::Suspended { cause: suspension.kind.as_str().to_owned(), since: rfc3339(suspension.at_ms) }
}

pub(super) fn closed(error: store::Closed) -> Refusal {
    Refusal::Store(error.to_string())
}
