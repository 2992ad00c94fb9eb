//! The target's health: the breaker, and what makes a connection hold itself until somebody looks at it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::time::Instant;

use super::{Ended, Inner, Outbox, WARN_EVERY};
use crate::connection::Connection;
use crate::connection::breaker::{Breaker, Change, Gate, Phase, Ticket, Verdict};
use crate::delivery::lanes::Candidate;
use crate::delivery::notice::{Failure, Notice, SHARE_OF_HOLDS, What};
use crate::delivery::order::End;
use crate::delivery::worker::Job;
use crate::event::{Cause, Disposition};
use crate::store::feed::{Delivery, Settlement};
use crate::store::suspension::SuspensionKind;

/// How soon a notice that found no room is sent again.
const NOTICE_AGAIN: Duration = Duration::from_secs(1);

/// What is known of the target's health.
#[derive(Debug)]
pub(super) struct Health {
    breaker: Option<Breaker>,
    /// It holds itself, or the control loop holds it, whatever its settings say.
    suspended: bool,
    /// A notice that the control loop had no room for.
    untold: Option<Notice>,
    /// When the first failure ended since the last success; kept only with `disable_after`.
    failing_since: Option<Instant>,
    /// When an opening was last logged.
    said_at: Option<Instant>,
    /// It was logged that it is open, so the end of that is, too.
    said: bool,
}

/// Whether an attempt may start, as far as the target's health goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// As many as the other gates let through.
    All,
    /// One, to see how the target is.
    Probe,
    /// None, until then if that is known.
    No(Option<Instant>),
}

impl Health {
    pub(super) fn new(connection: &Connection, now: Instant) -> Health {
        let breaker = connection.breaker.clone().map(|policy| Breaker::new(policy, now));
        Health {
            breaker,
            suspended: false,
            untold: None,
            failing_since: None,
            said_at: None,
            said: false,
        }
    }

    /// New settings are in force. An edit ends what the daemon holds by itself; the breaker stays as it is while it is about
    /// the same target.
    pub(super) fn replace(&mut self, old: &Connection, new: &Connection, now: Instant) {
        (self.suspended, self.untold) = (false, None);
        if !new.shares_health_with(old) {
            *self = Health::new(new, now);
            return;
        }
        match (&mut self.breaker, &new.breaker) {
            (Some(breaker), Some(policy)) => breaker.set_policy(policy.clone(), now),
            (breaker, policy) => {
                *breaker = policy.clone().map(|policy| Breaker::new(policy, now));
            }
        }
    }

    pub(super) fn is_suspended(&self) -> bool {
        self.suspended
    }

    /// An attempt starts.
    pub(super) fn start(&mut self) -> Ticket {
        self.breaker.as_mut().map(Breaker::start).unwrap_or_default()
    }

    pub(super) fn phase(&self) -> Phase {
        self.breaker.as_ref().map(Breaker::phase).unwrap_or_default()
    }
}

impl Outbox {
    /// Asks the breaker. When it is open, the alarm is armed for its end.
    pub(super) fn pass(&self, inner: &mut Inner, now: Instant) -> Pass {
        let Some(breaker) = &mut inner.health.breaker else {
            return Pass::All;
        };
        match breaker.gate(now) {
            Gate::All => Pass::All,
            Gate::Probe => {
                self.status.set_breaker(Phase::HalfOpen);
                Pass::Probe
            }
            Gate::Probing => Pass::No(None),
            Gate::Until(until) => {
                self.alarm.arm(until);
                Pass::No(Some(until))
            }
        }
    }

    /// Moves on what time moves on, also while nothing is queued.
    pub(super) fn tend(&self, inner: &mut Inner, now: Instant) {
        if inner.health.phase() == Phase::Open {
            self.pass(inner, now);
        }
        if let Some(notice) = inner.health.untold.take() {
            self.tell(inner, notice);
        }
    }

    /// An attempt has ended: what that says about the target.
    pub(super) fn judge(
        &self,
        connection: &Arc<Connection>,
        job: &Job,
        ended: &Ended,
        disposition: Disposition,
    ) {
        let mut inner = self.inner.borrow_mut();
        let verdict = Verdict::of(&ended.outcome, &connection.success_status);
        let delivered = disposition == Disposition::Delivered;
        self.note_breaker(&mut inner, connection, job, ended, verdict);
        if delivered {
            inner.ramp_up(connection);
        }
        // What began under other settings says nothing about these.
        let current = ended.generation == self.settings().generation;
        if let Some(limit) = connection.disable_after {
            if delivered {
                inner.health.failing_since = None;
            } else if current && verdict != Verdict::Silent {
                let since = *inner.health.failing_since.get_or_insert(ended.at);
                if ended.at.saturating_duration_since(since) >= limit {
                    self.suspend(&mut inner, connection, SuspensionKind::FailingTooLong);
                }
            }
        }
        let gone = matches!(disposition, Disposition::Dead { cause: Cause::Gone, .. });
        if gone && connection.disable_on_gone && current {
            self.suspend(&mut inner, connection, SuspensionKind::Gone);
        }
    }

    fn note_breaker(
        &self,
        inner: &mut Inner,
        connection: &Arc<Connection>,
        job: &Job,
        ended: &Ended,
        verdict: Verdict,
    ) {
        let health = &mut inner.health;
        let Some(breaker) = &mut health.breaker else {
            return;
        };
        let change = breaker.ended(job.ticket(), verdict, job.event().id, ended.at);
        let phase = breaker.phase();
        match change {
            None => return,
            Some(Change::Opened(open_for)) => {
                self.metrics.breaker_opened.increment(1);
                self.alarm.arm(ended.at + open_for);
                if self.status.wanted().breaker {
                    self.report(connection, What::BreakerOpened { open_for, code: ended.code });
                }
                if health.said_at.is_none_or(|at| ended.at >= at + WARN_EVERY) {
                    (health.said, health.said_at) = (true, Some(ended.at));
                    tracing::warn!(
                        connection = connection.name,
                        code = %ended.code,
                        open_for = ?open_for,
                        "The target fails; the breaker is open and its deliveries are held"
                    );
                }
            }
            Some(Change::Closed) if std::mem::take(&mut health.said) => {
                tracing::info!(
                    connection = connection.name,
                    "The target answers again; the breaker is closed"
                );
            }
            Some(Change::Closed) => {}
        }
        // It comes back slowly.
        inner.ramp = 1;
        self.status.set_breaker(phase);
    }

    /// A delivery that was started came to no end; if it was a probe, another may go.
    pub(in crate::delivery) fn abandon(self: &std::rc::Rc<Outbox>, ticket: Ticket) {
        // Whoever panicked inside of this module holds the borrow.
        let Ok(mut inner) = self.inner.try_borrow_mut() else {
            return;
        };
        let breaker = inner.health.breaker.as_mut();
        if breaker.is_some_and(|breaker| breaker.abandoned(ticket)) {
            drop(inner);
            self.shared.revisits.soon(self);
        }
    }

    /// Holds the connection from now on, and asks the control loop to make that last.
    pub(super) fn suspend(
        &self,
        inner: &mut Inner,
        connection: &Arc<Connection>,
        why: SuspensionKind,
    ) {
        if !std::mem::replace(&mut inner.health.suspended, true) {
            let (connection, what) = (Arc::clone(connection), What::Hold(why));
            let notice = Notice { id: self.id, connection, what };
            self.tell(inner, notice);
        }
    }

    fn tell(&self, inner: &mut Inner, notice: Notice) {
        match self.shared.notices.try_send(notice) {
            // Nobody listens any more: the daemon stops.
            Ok(()) | Err(TrySendError::Closed(_)) => {}
            Err(TrySendError::Full(notice)) => {
                inner.health.untold = Some(notice);
                self.alarm.arm(Instant::now() + NOTICE_AGAIN);
            }
        }
    }

    /// Tells the control loop what an alert wants to know. When there is no room that is counted, and not told.
    pub(super) fn report(&self, connection: &Arc<Connection>, what: What) {
        let notices = &self.shared.notices;
        let notice = Notice { id: self.id, connection: Arc::clone(connection), what };
        let full = notices.capacity() <= notices.max_capacity() / SHARE_OF_HOLDS;
        if full || notices.try_send(notice).is_err() {
            self.status.note_untold();
        }
    }

    /// The control loop holds the connection, or lets it go on: then nothing that was held against it counts any more.
    pub(in crate::delivery) fn set_suspended(self: &std::rc::Rc<Outbox>, suspended: bool) {
        let settings = self.settings();
        let mut inner = self.inner.borrow_mut();
        if suspended {
            (inner.health.suspended, inner.health.untold) = (true, None);
            self.settle_halting(&mut inner);
            self.release_waiting(&mut inner);
        } else {
            inner.health = Health::new(&settings.connection, Instant::now());
            inner.ramp = 1;
            self.settle_halting(&mut inner);
            self.status.set_breaker(Phase::Closed);
        }
        drop(inner);
        self.pump();
    }

    /// Whether a delivery's event was accepted too long ago to be sent.
    pub(super) fn is_expired(&self, candidate: &Candidate, connection: &Connection) -> bool {
        connection.expire_after.is_some_and(|limit| {
            self.shared.clock.age().since(candidate.event.accepted_age) > limit
        })
    }

    /// Takes a delivery whose event is too old out of its lane. It costs neither an attempt nor a token.
    pub(super) fn bury(&self, inner: &mut Inner, candidate: &Candidate, connection: &Connection) {
        let Some(entry) = inner.lanes.pop(candidate) else {
            return;
        };
        if candidate.paid {
            self.give_bytes(candidate.size);
        }
        if inner.may_warn(Instant::now()) {
            Outbox::say_dead(connection, Cause::Expired, 0);
        }
        self.settle_untried(inner, &entry.delivery, Cause::Expired);
    }

    /// Ends a delivery without an attempt.
    pub(super) fn settle_untried(&self, inner: &mut Inner, delivery: &Delivery, cause: Cause) {
        if self.status.wanted().dead {
            let failure = Failure {
                event: delivery.hot.upgrade().map(|event| event.id),
                first: false,
                last: true,
                attempts: delivery.attempts,
                cause,
                status: 0,
            };
            self.report(&self.settings().connection, What::Failed(failure));
        }
        let settlement = Settlement {
            id: delivery.id,
            size: delivery.size,
            disposition: Disposition::Dead { cause, status: 0 },
            attempts: delivery.attempts,
            first_attempt: delivery.first_attempt.unwrap_or_else(|| self.shared.clock.age()),
        };
        self.settle_in(inner, delivery.clone(), settlement, End::Over);
    }
}
