//! What happens when an attempt has ended: decide, settle, count, and slow down if the target asks for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::Outbox;
use crate::clock::millis;
use crate::connection::Connection;
use crate::connection::retry::{Facts, cause_of_status};
use crate::delivery::notice::{Failure, What};
use crate::delivery::status::LastFailure;
#[cfg(test)]
use crate::delivery::testing;
use crate::delivery::worker::Job;
use crate::event::{Cause, Disposition, Outcome};
use crate::store::feed::Delivery;
use crate::store::history::{Attempt, Phase, Timings};

/// One attempt that has ended.
#[derive(Debug)]
pub(in crate::delivery) struct Ended {
    pub(in crate::delivery) outcome: Outcome,
    /// When the response's head was there, or the failure.
    pub(in crate::delivery) at: Instant,
    /// The metric's code when it failed.
    pub(in crate::delivery) code: Cause,
    pub(in crate::delivery) took: Duration,
    /// What went wrong, for the log.
    pub(in crate::delivery) detail: Option<String>,
    /// How far it came.
    pub(in crate::delivery) phase: Phase,
    /// How long its parts took.
    pub(in crate::delivery) timings: Timings,
    /// Where to, as far as that was known.
    pub(in crate::delivery) remote: Option<SocketAddr>,
    /// The configuration that brought the settings it used.
    pub(in crate::delivery) generation: u64,
    /// The start of the body of a response that is no success.
    pub(in crate::delivery) excerpt: Bytes,
}

impl Outbox {
    /// Decides about a delivery after its attempt, and tells store and metrics.
    pub(in crate::delivery) fn conclude(&self, job: &mut Job, ended: &Ended) {
        let settings = self.settings();
        let connection = &settings.connection;
        let now = self.shared.clock.age();
        let attempts = job.attempt();
        let facts = Facts {
            attempts,
            since_first_attempt: now.since(job.first_attempt()),
            success: &connection.success_status,
        };
        let rng = &mut *self.shared.rng.borrow_mut();
        let disposition = connection.retry.decide(facts, &ended.outcome, rng);
        #[cfg(test)]
        let disposition = testing::with_defect(disposition, &ended.outcome);
        let failed = match disposition {
            Disposition::Delivered => None,
            _ => Some(ended.code),
        };
        self.metrics.attempt(failed, ended.took.as_secs_f64());
        self.judge(connection, job, ended, disposition);
        // A first attempt that succeeds leaves no history.
        if failed.is_some() || attempts > 1 {
            self.record(job, ended, failed);
        }
        if failed.is_some() {
            self.report_failure(connection, job, ended, disposition);
        }
        match disposition {
            Disposition::Delivered => {
                let latency = now.since(job.event().accepted_age);
                self.metrics.deliveries.delivered.increment(1);
                self.metrics.latency(latency.as_secs_f64());
            }
            Disposition::RetryAfter(_) => self.note_failure(ended),
            Disposition::Dead { cause, status } => {
                self.note_failure(ended);
                self.warn_of_dead_letter(connection, cause, status);
            }
        }
        tracing::debug!(
            connection = connection.name,
            event_id = %job.event().id,
            attempt = attempts,
            outcome = ?ended.outcome,
            disposition = ?disposition,
            took = ?ended.took,
            detail = ended.detail,
            "Attempt ended"
        );
        job.settle(disposition);
    }

    fn record(&self, job: &Job, ended: &Ended, code: Option<Cause>) {
        let settings = self.settings();
        let status = match ended.outcome {
            Outcome::Response { status, .. } => status,
            Outcome::Failed(_) => 0,
        };
        self.shared.feed.history().note(Attempt {
            connection: settings.connection.name.as_str().into(),
            event: job.event().id,
            number: job.attempt(),
            replay: job.is_replay(),
            at_ms: self.shared.clock.wall_ms(),
            age: self.shared.clock.age(),
            phase: ended.phase,
            timings: ended.timings,
            took: ended.took,
            remote: ended.remote,
            status,
            code,
            generation: ended.generation,
            excerpt: ended.excerpt.clone(),
        });
    }

    /// Tells the control loop of a failure, if an alert is about it.
    fn report_failure(
        &self,
        connection: &Arc<Connection>,
        job: &Job,
        ended: &Ended,
        disposition: Disposition,
    ) {
        let wanted = self.status.wanted();
        let (first, dead) = (job.attempt() == 1, matches!(disposition, Disposition::Dead { .. }));
        if !(wanted.first_failures && first || wanted.dead && dead) {
            return;
        }
        let (cause, status) = cause_and_status(ended);
        let (event, attempts) = (Some(job.event().id), job.attempt());
        let failure = Failure { event, first, last: dead, attempts, cause, status };
        self.report(connection, What::Failed(failure));
    }

    fn warn_of_dead_letter(&self, connection: &Connection, cause: Cause, status: u16) {
        if self.inner.borrow_mut().may_warn(Instant::now()) {
            Outbox::say_dead(connection, cause, status);
        }
    }

    pub(super) fn say_dead(connection: &Connection, cause: Cause, status: u16) {
        tracing::warn!(
            connection = connection.name,
            %cause,
            status,
            "A delivery became a dead letter; see `posthaste dead list`, more of them are not logged for a while"
        );
    }

    fn note_failure(&self, ended: &Ended) {
        let (cause, status) = cause_and_status(ended);
        self.status.note_failure(LastFailure { at_ms: self.shared.clock.wall_ms(), cause, status });
    }

    /// The target asked to be left alone: all of the connection waits, and comes back slowly.
    pub(in crate::delivery) fn hold(&self, wait: Duration, connection: &Connection) {
        let wait = wait.min(connection.retry.retry_after_max);
        let until = Instant::now() + wait;
        let mut inner = self.inner.borrow_mut();
        inner.ramp = 1;
        self.metrics.retry_after_holds.increment(1);
        if inner.hold_until.is_none_or(|held| held < until) {
            inner.hold_until = Some(until);
            let until_ms = millis(self.shared.clock.monotonic() + wait).max(1);
            self.status.hold_until_ms.store(until_ms, Ordering::Relaxed);
            self.alarm.arm(until);
        }
    }

    pub(super) fn settle_unreadable(&self, delivery: &Delivery) {
        tracing::error!(
            connection = self.settings().connection.name,
            "A queued event could not be read back from the store; its delivery became a dead letter"
        );
        self.settle_untried(&mut self.inner.borrow_mut(), delivery, Cause::Internal);
    }
}

/// Why an attempt failed, and the response's status, 0 where there was none.
fn cause_and_status(ended: &Ended) -> (Cause, u16) {
    match ended.outcome {
        Outcome::Response { status, .. } => (cause_of_status(status), status),
        Outcome::Failed(cause) => (cause, 0),
    }
}
