//! Alerts at work: what the control loop finds out goes to [`Alerts`](super::alerts::Alerts), and what that raises is stored
//! by a task of its own, so that a slow disk holds nobody.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::Daemon;
use super::alerts::{Now, Raised, Trouble};
use crate::admin::ReloadRefused;
use crate::clock::{Age, Clock};
use crate::config::On;
use crate::event::{ContentBuilder, Event};
use crate::ingress::OwnEvents;
use crate::metrics::Metrics;
use crate::store::ConnectionId;

/// Alerts that may wait for the disk. What finds no room is counted and logged.
const ALERTS_WAITING: usize = 64;
/// How long the last of them may take at a stop.
const STOP_MAX: Duration = Duration::from_secs(2);
/// The source that alerts are stored under.
const SOURCE: &str = "posthaste";
/// Errors of a refused configuration that an alert tells, and characters of each.
const MESSAGES_MAX: usize = 10;
const MESSAGE_CHARS_MAX: usize = 500;

/// Stores alerts.
#[derive(Debug)]
pub(super) struct Alarm {
    waiting: mpsc::Sender<Raised>,
    task: JoinHandle<()>,
}

impl Alarm {
    pub(super) fn start(own: OwnEvents, daemon: &Daemon) -> Alarm {
        let (waiting, mut raised) = mpsc::channel(ALERTS_WAITING);
        let (clock, metrics) = (daemon.clock.clone(), daemon.metrics.clone());
        let task = tokio::spawn(async move {
            while let Some(raised) = raised.recv().await {
                store(&own, raised, &clock, &metrics).await;
            }
        });
        Alarm { waiting, task }
    }

    /// Stores what waits, within [`STOP_MAX`].
    pub(super) async fn stop(self) {
        let Alarm { waiting, mut task } = self;
        drop(waiting);
        if timeout(STOP_MAX, &mut task).await.is_err() {
            tracing::warn!("The last alerts could not be stored in time");
            task.abort();
        }
    }
}

async fn store(own: &OwnEvents, raised: Raised, clock: &Clock, metrics: &Metrics) {
    let Raised { alert, to, event: id, kind, body } = raised;
    let mut content = ContentBuilder::new(SOURCE, kind, "", body.len() + 64);
    content.header("content-type", b"application/json");
    content.body(&body);
    let (accepted_ms, accepted_age) = (clock.wall_ms(), clock.age());
    let event = Event { id, accepted_ms, accepted_age, content: content.finish() };
    match own.post(&to, event).await {
        Ok(()) => {
            metrics.counter("posthaste_alerts_total", &[("alert", &alert)]).increment(1);
            tracing::info!(alert, to, kind, event_id = %id, "Raised an alert");
        }
        Err(refusal) => {
            metrics.counter("posthaste_alerts_lost_total", &[]).increment(1);
            tracing::error!(alert, to, kind, code = refusal.code(), "Could not store an alert");
        }
    }
}

impl Daemon {
    /// Something happened, to a connection or to none.
    pub(super) fn raise(&mut self, about: Option<&str>, trouble: Trouble) {
        let raised = self.alerts.raise(about, &trouble, self.now());
        self.send_alerts(raised);
    }

    /// A reload was refused.
    pub(super) fn raise_for_refusal(&mut self, refused: &ReloadRefused) {
        let messages = refused.errors.iter().take(MESSAGES_MAX);
        let messages =
            messages.map(|error| error.message.chars().take(MESSAGE_CHARS_MAX).collect());
        let (errors, messages) = (refused.errors.len(), messages.collect());
        self.raise(None, Trouble::ConfigRejected { errors, messages });
    }

    /// Looks at the ages of the oldest deliveries.
    pub(super) fn raise_for_ages(&mut self, ages: &[(ConnectionId, Age)]) {
        if !self.alerts.any_on(On::BacklogAge) {
            return;
        }
        let now = self.clock.age();
        let named = ages.iter().filter_map(|(id, accepted)| {
            let live = self.live.iter().find(|live| live.id == *id)?;
            Some((live.connection.name.clone(), now.since(*accepted)))
        });
        for (name, age) in named.collect::<Vec<_>>() {
            self.raise(Some(&name), Trouble::BacklogAge(age));
        }
    }

    /// Tells delivery what alerts want to know of each connection.
    pub(super) fn want_troubles(&self) {
        for live in &self.live {
            if let Some(status) = self.dispatcher.status(live.id) {
                status.want(self.alerts.wanted(&live.connection.name));
            }
        }
    }

    /// Raises what waited for the end of its interval, and counts what was lost.
    pub(super) fn tend_alerts(&mut self) {
        let raised = self.alerts.tick(self.now());
        self.send_alerts(raised);
        let statuses = self.live.iter().filter_map(|live| self.dispatcher.status(live.id));
        let untold: u64 = statuses.map(|status| status.take_untold()).sum();
        let dropped = self.alerts.take_dropped();
        self.count_lost(untold + dropped);
        self.show_alerts();
    }

    /// Counters of the alerts in force.
    pub(super) fn show_alerts(&self) {
        self.count_lost(0);
        for (name, suppressed) in self.alerts.suppressed() {
            let labels = [("alert", name)];
            self.metrics.counter("posthaste_alerts_total", &labels).increment(0);
            self.metrics.counter("posthaste_alerts_suppressed_total", &labels).absolute(suppressed);
        }
    }

    fn send_alerts(&self, raised: Vec<Raised>) {
        for raised in raised {
            let sent = self.alarm.as_ref().map(|alarm| alarm.waiting.try_send(raised));
            if !matches!(sent, Some(Ok(()))) {
                self.count_lost(1);
                tracing::error!("An alert was lost: too many wait for the disk");
            }
        }
    }

    fn count_lost(&self, lost: u64) {
        self.metrics.counter("posthaste_alerts_lost_total", &[]).increment(lost);
    }

    fn now(&self) -> Now {
        Now { monotonic: self.clock.monotonic(), wall_ms: self.clock.wall_ms() }
    }
}
