//! Reload: all or nothing. Everything that can fail happens before the routing table is swapped; after it, nothing can.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::options::{apply_logging, ingress_limits, keep, say_warnings, tokens};
use super::{Daemon, Live};
use crate::admin::ReloadRefused;
use crate::admin::api::connections::AuditRecord;
use crate::admin::api::{ConfigProblem, LastReload, Reloaded, rfc3339};
use crate::config::diff::{ConfigDiff, diff};
use crate::config::{self, Config, ContentHash, LoadOptions, Loaded, Pending, Watched};
use crate::connection::{Connection, OnRemove, State};
use crate::delivery::{self, Prepared};
use crate::event::Wait;
use crate::store::ConnectionId;

/// What a reload will do: nothing of it can fail any more.
pub(super) struct Plan {
    config: Config,
    diff: ConfigDiff,
    prepared: HashMap<String, Prepared>,
    warnings: Vec<String>,
    content_hash: ContentHash,
    watched: Watched,
    origins: BTreeMap<String, PathBuf>,
}

/// Files that make no legal configuration.
pub(super) struct NotLoaded {
    pub(super) refused: ReloadRefused,
    /// What to watch, and the content that was read.
    seen: Option<(Watched, ContentHash)>,
}

impl Plan {
    /// Where its connection files are.
    pub(super) fn connections_dir(&self) -> &Path {
        &self.watched.connections
    }

    /// The connection of this name.
    pub(super) fn connection(&self, name: &str) -> Option<&Connection> {
        self.config.connections.iter().find(|one| one.name == name).map(Arc::as_ref)
    }
}

impl Daemon {
    /// Reads the files again and puts them in force, or changes nothing and says why. `by` is who wants it.
    pub(super) async fn reload(&mut self, by: &str) -> Result<Reloaded, ReloadRefused> {
        self.notifier.reloading(&self.clock);
        let result = match self.plan_reload(Vec::new()).await {
            Ok(plan) => {
                let (old, new) = (self.content_hash, plan.content_hash);
                let reloaded = self.put_in_force(plan).await;
                if old != new {
                    self.audit_reload(by, &reloaded, old, new);
                }
                Ok(reloaded)
            }
            Err(refused) => Err(refused),
        };
        self.note_reload(&result);
        if let Err(refused) = &result {
            self.raise_for_refusal(refused);
        }
        result
    }

    /// Puts a plan in force that was made for an edit.
    pub(super) async fn take_plan(&mut self, plan: Plan) {
        self.notifier.reloading(&self.clock);
        let reloaded = self.put_in_force(plan).await;
        self.note_reload(&Ok(reloaded));
    }

    /// Reads the files, some of them perhaps as they are to become. Changes nothing.
    pub(super) async fn load(&self, pending: Vec<Pending>) -> Result<Loaded, NotLoaded> {
        let options = LoadOptions::of_process(&self.root);
        let path = self.root.path.clone();
        let loaded =
            tokio::task::spawn_blocking(move || config::load_with(&path, &options, pending));
        match loaded.await {
            Ok(Ok(loaded)) => Ok(loaded),
            Ok(Err(errors)) => Err(NotLoaded {
                refused: ReloadRefused { errors: errors.errors.iter().map(problem).collect() },
                seen: Some((errors.watched, errors.content_hash)),
            }),
            Err(error) => {
                let refused = refused(format!("could not read the configuration: {error}"));
                Err(NotLoaded { refused, seen: None })
            }
        }
    }

    /// Reads, compares and prepares. Changes nothing but what is watched, and that not with a file that is still to be
    /// written.
    pub(super) async fn plan_reload(
        &mut self,
        pending: Vec<Pending>,
    ) -> Result<Plan, ReloadRefused> {
        let of_disk = pending.is_empty();
        let loaded = match self.load(pending).await {
            Ok(loaded) => loaded,
            Err(NotLoaded { refused, seen }) => {
                // Whoever mends the files wants them to be read again.
                if let Some((watched, content_hash)) = seen.filter(|_| of_disk) {
                    self.watch.set_paths(watched, content_hash);
                }
                return Err(refused);
            }
        };
        say_warnings(&loaded);
        let Loaded { config, warnings, content_hash, watched, origins } = loaded;
        if of_disk {
            self.watch.set_paths(watched.clone(), content_hash);
        }
        let diff = diff(&self.config, &config);
        if !diff.needs_restart.is_empty() {
            let keys = diff.needs_restart.join(", ");
            return Err(refused(format!(
                "{}: {keys} cannot change while the daemon runs; restart it, or put the old value back",
                self.root.path.display()
            )));
        }
        let changed = diff.added.iter().chain(diff.changed.iter().map(|(_, new)| new));
        let prepared = changed.map(prepare).collect::<Result<_, _>>()?;
        let warnings = warnings.iter().map(ToString::to_string).collect();
        Ok(Plan { config, diff, prepared, warnings, content_hash, watched, origins })
    }

    /// Swaps the routing table and moves the egress to the new settings.
    async fn put_in_force(&mut self, plan: Plan) -> Reloaded {
        let Plan { config, diff, mut prepared, warnings, content_hash, watched, origins } = plan;
        self.watch.set_paths(watched.clone(), content_hash);
        self.connections_dir = watched.connections;
        (self.content_hash, self.origins) = (content_hash, origins);
        let states = states_changed(&diff);
        let names =
            |connections: &[Arc<Connection>]| connections.iter().map(|c| c.name.clone()).collect();
        let reloaded = Reloaded {
            generation: self.generation + 1,
            added: names(&diff.added),
            changed: diff.changed.iter().map(|(_, new)| new.name.clone()).collect(),
            removed: names(&diff.removed),
            warnings,
        };
        self.generation += 1;
        // Before any connection takes its new settings.
        self.store.set_generation(self.generation);
        let before = std::mem::take(&mut self.live);
        let mut known: HashMap<String, Live> =
            before.into_iter().map(|live| (live.connection.name.clone(), live)).collect();
        self.config = config;
        self.rename_all(&mut known).await;
        let mut replaced = Vec::new();
        let mut edited = Vec::new();
        for connection in self.config.connections.clone() {
            let ready = prepared.remove(&connection.name);
            match (known.remove(&connection.name), ready) {
                (Some(live), Some(ready)) => {
                    edited.extend(live.suspension.map(|_| live.id));
                    let live = Live { connection, suspension: None, ..live };
                    replaced.push((live.clone(), ready));
                    self.live.push(live);
                }
                (Some(live), None) => self.live.push(Live { connection, ..live }),
                (None, Some(ready)) => match self.attach(connection, ready).await {
                    Ok(live) => self.live.push(live),
                    Err(error) => tracing::error!(%error, "Could not attach a connection"),
                },
                (None, None) => {}
            }
        }
        self.alerts.change_to(&self.config.daemon.alerts);
        self.show_alerts();
        self.sources = self.sources.changed_to(&self.config.daemon.sources, &self.clock);
        self.publish_live();
        for (live, ready) in replaced {
            self.feed(&live);
            self.dispatcher.replace(live.id, ready).await;
        }
        self.lift_edited(edited).await;
        for live in known.into_values() {
            self.retire(live).await;
        }
        self.store.set_max_bytes(self.config.daemon.store.max_bytes);
        self.store.set_keep(keep(&self.config));
        if let Some(ingress) = &self.ingress {
            ingress.set_limits(ingress_limits(&self.config));
        }
        apply_logging(&self.config);
        self.tokens.store(Arc::new(tokens(&self.config)));
        self.note_config_in_force();
        self.states_changed = states;
        reloaded
    }

    /// One line for the reload, and one for each state that it changed.
    fn audit_reload(&mut self, by: &str, reloaded: &Reloaded, old: ContentHash, new: ContentHash) {
        let some = |names: &[String]| names.iter().take(NAMED_MAX).cloned().collect();
        let record = AuditRecord {
            by: by.to_owned(),
            action: "reload".to_owned(),
            old: Some(old.to_string()),
            new: Some(new.to_string()),
            generation: self.generation,
            added: some(&reloaded.added),
            changed: some(&reloaded.changed),
            removed: some(&reloaded.removed),
            ..AuditRecord::default()
        };
        self.audit.add(record);
        for (name, state) in std::mem::take(&mut self.states_changed) {
            self.audit.add(AuditRecord {
                by: by.to_owned(),
                action: "state".to_owned(),
                connection: Some(name),
                state: Some(state.as_str().to_owned()),
                old: Some(old.to_string()),
                new: Some(new.to_string()),
                generation: self.generation,
                ..AuditRecord::default()
            });
        }
    }

    /// Stops delivering for a connection that is gone. Its queue stays, unless it says otherwise.
    async fn retire(&mut self, live: Live) {
        let Live { connection, id, queue, metrics, .. } = live;
        queue.waits.set_held(Wait::Orphaned);
        self.store.detach(id);
        self.dispatcher.detach(id).await;
        if connection.on_remove == OnRemove::Discard {
            self.discard(&connection.name, id, &metrics.deliveries.cancelled).await;
        }
        self.metrics.remove_connection(&connection.name);
    }

    async fn discard(&self, name: &str, id: ConnectionId, cancelled: &metrics::Counter) {
        match self.store.discard(id).await {
            Ok((count, durable)) => {
                cancelled.increment(count);
                tracing::warn!(
                    connection = name,
                    deliveries = count,
                    "Cancelled the queue of a removed connection"
                );
                if let Err(error) = durable {
                    tracing::error!(connection = name, %error, "Could not cancel it durably");
                }
            }
            Err(error) => {
                tracing::error!(connection = name, %error, "Could not cancel a queue");
            }
        }
    }

    /// Says how a reload went, everywhere.
    fn note_reload(&mut self, result: &Result<Reloaded, ReloadRefused>) {
        let label = if result.is_ok() { "taken" } else { "refused" };
        self.metrics.counter("posthaste_config_reloads_total", &[("result", label)]).increment(1);
        let successful = self.metrics.gauge("posthaste_config_last_reload_successful", &[]);
        successful.set(f64::from(u8::from(result.is_ok())));
        let error = result.as_ref().err().and_then(|refused| refused.errors.first());
        let error = error.map(|error| error.message.clone());
        match result {
            Ok(taken) => tracing::info!(
                generation = taken.generation,
                added = ?taken.added,
                changed = ?taken.changed,
                removed = ?taken.removed,
                "Configuration reloaded"
            ),
            Err(refused) => {
                for error in &refused.errors {
                    tracing::error!("{}", error.message);
                }
                tracing::error!(
                    errors = refused.errors.len(),
                    "Configuration refused; the old one stays in force"
                );
            }
        }
        let status = match &error {
            None => self.status_line(),
            Some(error) => {
                format!("{}; the configuration was refused: {error}", self.status_line())
            }
        };
        self.last_reload = Some(LastReload {
            at: rfc3339(self.clock.wall_ms()),
            successful: result.is_ok(),
            error,
        });
        self.notifier.ready(&status);
    }

    /// Gauges of the configuration in force.
    pub(super) fn note_config_in_force(&self) {
        self.metrics.gauge("posthaste_config_generation", &[]).set(self.generation as f64);
        self.metrics.gauge("posthaste_config_last_reload_successful", &[]).set(1.0);
        let at = self.metrics.gauge("posthaste_config_last_reload_success_timestamp_seconds", &[]);
        at.set(self.clock.wall_ms() as f64 / 1000.0);
        for result in ["taken", "refused"] {
            self.metrics
                .counter("posthaste_config_reloads_total", &[("result", result)])
                .increment(0);
        }
    }
}

/// Connections that have another state than before; at most [`NAMED_MAX`].
fn states_changed(diff: &ConfigDiff) -> Vec<(String, State)> {
    let added = diff.added.iter().filter(|new| new.state != State::Active);
    let changed = diff.changed.iter().filter(|(old, new)| old.state != new.state);
    let all = added.chain(changed.map(|(_, new)| new));
    all.take(NAMED_MAX).map(|new| (new.name.clone(), new.state)).collect()
}

/// Connections that the audit log names of one reload, of each kind.
const NAMED_MAX: usize = 32;

fn prepare(connection: &Arc<Connection>) -> Result<(String, Prepared), ReloadRefused> {
    match delivery::prepare(connection) {
        Ok(prepared) => Ok((connection.name.clone(), prepared)),
        Err(error) => Err(refused(format!("connection {:?}: {error}", connection.name))),
    }
}

fn problem(error: &config::ConfigError) -> ConfigProblem {
    ConfigProblem { message: error.to_string(), rendered: error.render("error") }
}

fn refused(message: String) -> ReloadRefused {
    ReloadRefused {
        errors: vec![ConfigProblem { rendered: format!("error: {message}\n"), message }],
    }
}
