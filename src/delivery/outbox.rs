//! One connection inside its runtime: what is due, the gates it must pass, and the workers it has.
//!
//! The gates, in order: state, breaker, `Retry-After` hold, a free worker, byte permit, and the rate token last, so that no token
//! is spent on what cannot go. Only then a delivery leaves its lane. A gate that says no holds neither a worker nor an
//! HTTP connection; one timer per connection opens those that open by time.

mod ending;
mod health;
mod look;
mod memory;
mod ordered;
mod waits;

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::Prepared;
use super::budget::Room;
use super::http2::Sessions;
use super::lanes::{Candidate, Lanes};
use super::order::Order;
use super::request::Template;
use super::runtime::Shared;
use super::status::Status;
use super::timer::Alarm;
use super::tokens::Tokens;
use super::worker::{Job, Slot, Worker};
use crate::client::Client;
use crate::connection::auth::redact::Redactor;
use crate::connection::breaker::Phase;
use crate::connection::rate_limit::Limiter;
use crate::connection::{Connection, State};
use crate::event::Wait;
use crate::metrics::ConnectionMetrics;
use crate::store::feed::{Delivery, Settlement};
use crate::store::waits::Meter;
use crate::store::{ConnectionId, DeliveryId};
pub(super) use ending::Ended;
use health::{Health, Pass};
use look::Blocked;
pub use look::{Gate, Look, Place};

/// A warning of one connection is logged at most this often.
const WARN_EVERY: Duration = Duration::from_secs(30);

/// One generation of a connection's settings. An attempt keeps the one it started with.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) connection: Arc<Connection>,
    /// The same object as long as HTTP connections may be kept.
    pub(super) client: Rc<Client>,
    /// The HTTP/2 connections that `client` dialled.
    pub(super) sessions: Rc<Sessions>,
    /// Where the connection has tokens; the same object as long as they may be kept.
    pub(super) tokens: Option<Rc<Tokens>>,
    pub(super) template: Template,
    /// The configuration that brought these settings.
    pub(super) generation: u64,
}

impl Settings {
    /// Those of a connection that has none yet: nothing is open, no token is known.
    pub(super) fn new(prepared: Prepared, generation: u64) -> Settings {
        Settings {
            connection: prepared.connection,
            client: Rc::new(prepared.client),
            sessions: Rc::default(),
            tokens: prepared.token_client.map(Tokens::new),
            template: prepared.template,
            generation,
        }
    }

    /// Masks what must not be kept of responses.
    pub(super) fn redactor(&self) -> Cow<'_, Redactor> {
        let redactor = &self.template.redactor;
        match &self.tokens {
            Some(tokens) => Cow::Owned(redactor.with_token(tokens.header().as_ref())),
            None => Cow::Borrowed(redactor),
        }
    }
}

/// What a worker does next.
#[derive(Debug)]
pub(super) enum Next {
    Job(Job),
    /// Wait in its slot.
    Idle,
    /// End: it is not needed, or has no HTTP connection to keep.
    Exit,
}

/// One connection inside its runtime.
#[derive(Debug)]
pub(super) struct Outbox {
    pub(super) shared: Rc<Shared>,
    pub(super) id: ConnectionId,
    pub(super) metrics: Arc<ConnectionMetrics>,
    pub(super) alarm: Alarm,
    status: Arc<Status>,
    settings: RefCell<Rc<Settings>>,
    inner: RefCell<Inner>,
    /// Bytes of payloads that this connection holds or has asked for.
    held_bytes: Cell<u64>,
}

#[derive(Debug)]
struct Inner {
    lanes: Lanes,
    /// Which deliveries may come to the lanes, if the connection has an order.
    order: Option<Box<Order>>,
    /// Dead ones that halt the connection: the store learns of them when it knows that the connection is held.
    halting: Vec<(Delivery, Settlement)>,
    /// Workers without a delivery, the last one used at the end.
    idle: Vec<Rc<Slot>>,
    workers: u32,
    /// Workers with a delivery.
    busy: u32,
    closed: bool,
    health: Health,
    hold_until: Option<Instant>,
    limiter: Option<Limiter>,
    /// A rate token is waited for; the alarm is armed.
    rate_wait: bool,
    /// It waits for the runtime's bytes.
    hungry: bool,
    /// Attempts at one time while it ramps up; grows by one with each success, and so doubles each round.
    ramp: u32,
    /// Payloads asked for, in order, and their bytes.
    loading: VecDeque<(DeliveryId, u64)>,
    /// When a gate other than the workers last said no.
    gated_at: Instant,
    /// A look at how long deliveries have waited is planned.
    exhaustion_check: bool,
    warned_at: Option<Instant>,
    /// What the gates said to the last delivery that asked.
    blocked: Blocked,
    /// Charges what waits here.
    meter: Meter,
    /// Up to when that was done.
    metered_at: Instant,
    /// What the store was told that the connection waits for.
    gate: Wait,
}

impl Outbox {
    pub(super) fn new(
        shared: &Rc<Shared>,
        id: ConnectionId,
        prepared: Prepared,
        metrics: Arc<ConnectionMetrics>,
        status: Arc<Status>,
    ) -> Rc<Outbox> {
        let rate = prepared.connection.rate_limit;
        let inner = Inner {
            lanes: Lanes::default(),
            halting: Vec::new(),
            order: ordered::order(shared, id, (&prepared.connection, &metrics)),
            idle: Vec::new(),
            workers: 0,
            busy: 0,
            closed: false,
            health: Health::new(&prepared.connection, Instant::now()),
            hold_until: None,
            limiter: rate.map(|rate| Limiter::new(rate, &shared.clock)),
            rate_wait: false,
            hungry: false,
            ramp: 1,
            loading: VecDeque::new(),
            gated_at: Instant::now(),
            exhaustion_check: false,
            warned_at: None,
            blocked: Blocked::NOT,
            meter: Meter::default(),
            metered_at: Instant::now(),
            gate: status.waits.gate(),
        };
        let settings = Settings::new(prepared, shared.feed.history().generation());
        show_verification(&metrics, &settings.connection);
        Rc::new(Outbox {
            shared: Rc::clone(shared),
            id,
            metrics,
            alarm: Alarm::default(),
            status,
            settings: RefCell::new(Rc::new(settings)),
            inner: RefCell::new(inner),
            held_bytes: Cell::new(0),
        })
    }

    /// Sleeps on the connection's timer until it is closed. Its one task beside the workers.
    pub(super) async fn run_alarm(self: Rc<Outbox>) {
        loop {
            self.alarm.wait().await;
            {
                let mut inner = self.inner.borrow_mut();
                if inner.closed {
                    return;
                }
                inner.rate_wait = false;
                if std::mem::take(&mut inner.exhaustion_check) {
                    self.look_for_exhaustion(&mut inner);
                }
            }
            self.pump();
        }
    }

    pub(super) fn settings(&self) -> Rc<Settings> {
        Rc::clone(&self.settings.borrow())
    }

    /// Puts new settings in force.
    pub(super) fn replace(self: &Rc<Outbox>, prepared: Prepared) {
        let old = self.settings();
        let keep_sockets = old.connection.shares_transport_with(&prepared.connection);
        let rate = prepared.connection.rate_limit;
        let resumed = !is_active(&old.connection) && is_active(&prepared.connection);
        let (client, sessions) = match keep_sockets {
            true => (Rc::clone(&old.client), Rc::clone(&old.sessions)),
            false => (Rc::new(prepared.client), Rc::default()),
        };
        let keep_token = keep_sockets && old.connection.auth == prepared.connection.auth;
        let tokens = match keep_token {
            true => old.tokens.clone(),
            false => prepared.token_client.map(Tokens::new),
        };
        *self.settings.borrow_mut() = Rc::new(Settings {
            connection: prepared.connection,
            client,
            sessions,
            tokens,
            template: prepared.template,
            generation: self.shared.feed.history().generation(),
        });
        show_verification(&self.metrics, &self.settings().connection);
        let mut inner = self.inner.borrow_mut();
        if old.connection.rate_limit != rate {
            inner.limiter = rate.map(|rate| match inner.limiter.take() {
                Some(limiter) => limiter.changed_to(rate),
                None => Limiter::new(rate, &self.shared.clock),
            });
        }
        inner.health.replace(&old.connection, &self.settings().connection, Instant::now());
        self.status.set_breaker(inner.health.phase());
        if resumed {
            inner.ramp = 1;
        }
        self.settle_halting(&mut inner);
        let reordered = self.reorder(&mut inner, &old.connection);
        if reordered || !is_active(&self.settings().connection) {
            self.release_waiting(&mut inner);
        }
        if !keep_sockets {
            inner.idle.drain(..).for_each(|slot| slot.dismiss());
        }
        drop(inner);
        self.pump();
    }

    /// Ends it: what was not started goes back to the store, idle workers leave, busy ones end their attempt first.
    pub(super) fn close(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.closed = true;
        // Nobody learns any more that the connection is to be held: they are tried once more, and halt it then.
        let halting = std::mem::take(&mut inner.halting).into_iter();
        halting.for_each(|(delivery, _)| self.shared.feed.release(delivery));
        let loading: u64 = inner.loading.drain(..).map(|(_, size)| size).sum();
        self.give_bytes(loading);
        self.release_waiting(&mut inner);
        inner.idle.drain(..).for_each(|slot| slot.dismiss());
        self.meter_end(&mut inner);
        drop(inner);
        self.alarm.ring();
        self.show();
    }

    /// Gives back to the store what was not started, because some of it may be cancelled; an order is asked for anew.
    pub(super) fn recall(self: &Rc<Outbox>) {
        self.release_waiting(&mut self.inner.borrow_mut());
        self.pump();
    }

    /// Gives back to the store what was not started: it keeps its place there, and takes no memory here.
    fn release_waiting(&self, inner: &mut Inner) {
        let unloaded = inner.lanes.unload();
        self.give_bytes(unloaded);
        inner.lanes.drain().for_each(|delivery| self.shared.feed.release(delivery));
        self.release_order(inner);
    }

    /// A delivery is due. [`Outbox::pump`] starts it.
    pub(super) fn push(&self, delivery: Delivery, now: Instant) {
        let inner = &mut *self.inner.borrow_mut();
        match inner.order {
            None => inner.lanes.push(delivery, now),
            Some(_) => self.push_ordered(inner, delivery, now),
        }
    }

    /// Starts as much as the gates let through.
    pub(super) fn pump(self: &Rc<Outbox>) {
        let settings = self.settings();
        let now = Instant::now();
        let mut inner = self.inner.borrow_mut();
        self.tend(&mut inner, now);
        while let Some(job) = self.take(&mut inner, &settings.connection, now) {
            match inner.idle.pop() {
                Some(slot) => slot.give(job),
                None => {
                    inner.workers += 1;
                    Worker::spawn(self, job);
                }
            }
        }
        self.meter(&mut inner, now);
        drop(inner);
        self.show();
    }

    /// What a worker that has ended its delivery does next. `connected`: it has an HTTP connection to keep.
    pub(super) fn next(self: &Rc<Outbox>, slot: &Rc<Slot>, connected: bool) -> Next {
        let settings = self.settings();
        let mut inner = self.inner.borrow_mut();
        inner.busy = inner.busy.saturating_sub(1);
        let now = Instant::now();
        let next = if inner.closed || inner.workers > settings.connection.max_in_flight {
            Next::Exit
        } else if let Some(job) = self.take(&mut inner, &settings.connection, now) {
            Next::Job(job)
        } else if connected {
            inner.idle.push(Rc::clone(slot));
            Next::Idle
        } else {
            Next::Exit
        };
        // What has just ended may have made room for more than one: the ramp has grown, or its payload was large.
        let most = settings.connection.max_in_flight.min(inner.ramp);
        let waits = matches!(next, Next::Job(_)) && inner.has_work();
        let more = waits && inner.busy < most;
        if waits && !more {
            inner.blocked = match inner.health.phase() {
                Phase::Closed => Blocked::by_workers(&settings.connection, most),
                // It has just taken the probe.
                Phase::HalfOpen | Phase::Open => Blocked::by(Wait::Breaker),
            };
        }
        self.meter(&mut inner, now);
        drop(inner);
        if more {
            self.pump();
        } else {
            self.show();
        }
        next
    }

    /// A worker has ended, in whatever way; `was_busy` when it never came to [`Outbox::next`].
    pub(super) fn worker_left(self: &Rc<Outbox>, slot: &Rc<Slot>, was_busy: bool) {
        // A worker that panicked inside of this module holds the borrow; then the counts are lost with it.
        let Ok(mut inner) = self.inner.try_borrow_mut() else {
            return;
        };
        inner.workers = inner.workers.saturating_sub(1);
        inner.busy = inner.busy.saturating_sub(u32::from(was_busy));
        inner.idle.retain(|idle| !Rc::ptr_eq(idle, slot));
        let more = !inner.closed && inner.has_work();
        drop(inner);
        self.show();
        if more {
            self.shared.revisits.soon(self);
        }
    }

    /// Passes the gates and takes the next delivery.
    fn take(
        self: &Rc<Outbox>,
        inner: &mut Inner,
        connection: &Connection,
        now: Instant,
    ) -> Option<Job> {
        if inner.closed || !inner.has_work() {
            inner.blocked = Blocked::NOT;
            return None;
        }
        let most = match self.most_in_flight(inner, connection, now) {
            Ok(most) => most,
            Err(blocked) => {
                (inner.gated_at, inner.blocked) = (now, blocked);
                self.give_bytes(inner.lanes.unload());
                return None;
            }
        };
        if inner.busy >= most {
            inner.blocked = Blocked::by_workers(connection, most);
            self.note_no_worker(inner, connection, now);
            return None;
        }
        // Whatever said no before does not any more; what says no below says so there.
        inner.blocked = Blocked::NOT;
        if inner.order.is_some() {
            self.keep_order(inner, now);
        }
        self.load_ahead(inner, connection);
        let candidate = loop {
            let candidate = self.candidate(inner, connection, now)?;
            if !self.is_expired(&candidate, connection) {
                break candidate;
            }
            self.bury(inner, &candidate, connection);
        };
        if let Some(Err(wait)) = inner.limiter.as_mut().map(Limiter::check) {
            self.wait_for_token(inner, now, wait);
            return None;
        }
        let entry = inner.lanes.pop(&candidate)?;
        if !candidate.paid {
            self.take_bytes(candidate.size);
        }
        inner.busy += 1;
        let ticket = inner.health.start();
        Some(Job::new(self, entry.delivery, candidate.event, ticket))
    }

    /// How many attempts may be under way now; an error when none may start: state, breaker or hold say no.
    fn most_in_flight(
        &self,
        inner: &mut Inner,
        connection: &Connection,
        now: Instant,
    ) -> Result<u32, Blocked> {
        if !is_active(connection) || inner.health.is_suspended() {
            return Err(Blocked::by_state(connection));
        }
        let pass = self.pass(inner, now);
        if let Pass::No(until) = pass {
            return Err(Blocked { wait: Wait::Breaker, until });
        }
        if let Some(until) = self.is_held(inner, now) {
            return Err(Blocked::until(Wait::RetryAfter, until));
        }
        // A probe does not wait for attempts that hang since before.
        let ramp = if pass == Pass::Probe { u32::MAX } else { inner.ramp };
        Ok(connection.max_in_flight.min(ramp))
    }

    /// The next delivery that has its byte permit or gets one. Where the one in turn gets none, one that was loaded goes
    /// before it: the loaded ones may hold all of the share, and only sending them gives it back.
    fn candidate(
        self: &Rc<Outbox>,
        inner: &mut Inner,
        connection: &Connection,
        now: Instant,
    ) -> Option<Candidate> {
        let Some(candidate) = inner.lanes.peek() else {
            inner.blocked = Blocked::by(Wait::Memory);
            // The store may have let go of a payload since we looked for those to load: then nobody else asks for it.
            self.load_ahead(inner, connection);
            return None;
        };
        if candidate.paid {
            return Some(candidate);
        }
        let held = self.held_bytes.get();
        let room = self.shared.budget.room(held, candidate.size);
        if room == Room::Free {
            return Some(candidate);
        }
        let loaded = inner.lanes.peek_loaded();
        if loaded.is_none() {
            (inner.gated_at, inner.blocked) = (now, Blocked::by(Wait::Memory));
            self.wait_for_bytes(inner, room);
        }
        loaded
    }

    /// Until when a `Retry-After` holds it, if one does.
    fn is_held(&self, inner: &mut Inner, now: Instant) -> Option<Instant> {
        let until = inner.hold_until?;
        if now < until {
            self.alarm.arm(until);
            return Some(until);
        }
        inner.hold_until = None;
        self.status.hold_until_ms.store(0, Ordering::Relaxed);
        None
    }

    fn wait_for_token(&self, inner: &mut Inner, now: Instant, wait: Duration) {
        (inner.gated_at, inner.blocked) = (now, Blocked::until(Wait::RateLimit, now + wait));
        if !std::mem::replace(&mut inner.rate_wait, true) {
            self.metrics.rate_limit_waits.increment(1);
        }
        self.alarm.arm(now + wait);
    }

    /// The runtime looks at it again because of [`Revisits`](super::budget::Revisits).
    pub(super) fn revisit(self: &Rc<Outbox>) {
        self.inner.borrow_mut().hungry = false;
        self.pump();
    }

    fn note_no_worker(&self, inner: &mut Inner, connection: &Connection, now: Instant) {
        if inner.busy < connection.max_in_flight {
            inner.gated_at = now;
        } else if !std::mem::replace(&mut inner.exhaustion_check, true) {
            self.alarm.arm(now + connection.pool_acquire_timeout);
        }
    }

    /// Counts each delivery that has waited too long for a worker, once.
    fn look_for_exhaustion(&self, inner: &mut Inner) {
        let settings = self.settings();
        let connection = &settings.connection;
        let (now, gated_at) = (Instant::now(), inner.gated_at);
        let mut late = 0;
        for entry in inner.lanes.entries_mut().filter(|entry| !entry.counted) {
            if now >= entry.since.max(gated_at) + connection.pool_acquire_timeout {
                entry.counted = true;
                late += 1;
            }
        }
        if late == 0 {
            return;
        }
        self.metrics.pool_exhausted.increment(late);
        if inner.may_warn(now) {
            tracing::warn!(
                connection = connection.name,
                waited = ?connection.pool_acquire_timeout,
                workers = connection.max_in_flight,
                "Deliveries waited too long for a worker; the target is slow, or pool and max_in_flight are too small"
            );
        }
    }

    fn show(&self) {
        let Ok(inner) = self.inner.try_borrow() else {
            return;
        };
        let store = |gauge: &std::sync::atomic::AtomicU32, value: usize| {
            gauge.store(u32::try_from(value).unwrap_or(u32::MAX), Ordering::Relaxed);
        };
        // Workers that share an HTTP/2 connection have one together.
        let shared = self.settings.borrow().sessions.shared();
        let open = usize::try_from(inner.workers).unwrap_or(usize::MAX).saturating_sub(shared);
        store(&self.status.idle, inner.idle.len().min(open));
        let ordered = inner.order.as_ref().map_or(0, |order| order.waiting());
        store(&self.status.waiting, inner.lanes.len() + inner.loading.len() + ordered);
        self.status.in_flight.store(inner.busy, Ordering::Relaxed);
        store(&self.status.open, open);
    }
}

impl Inner {
    /// A success allows one more attempt at one time. What succeeds during a hold or while the breaker is open was sent
    /// before it and says nothing.
    fn ramp_up(&mut self, connection: &Connection) {
        let open = self.health.phase() != Phase::Closed;
        if self.ramp < connection.max_in_flight && self.hold_until.is_none() && !open {
            self.ramp += 1;
        }
    }

    /// Whether there is anything that the gates might let through, or bring forward.
    fn has_work(&self) -> bool {
        self.lanes.len() > 0 || self.order.as_ref().is_some_and(|order| order.has_work())
    }

    /// Whether it is time for a warning again; takes the chance.
    fn may_warn(&mut self, now: Instant) -> bool {
        let may = self.warned_at.is_none_or(|at| now >= at + WARN_EVERY);
        if may {
            self.warned_at = Some(now);
        }
        may
    }
}

/// Whether the target's certificate is verified, for who watches.
fn show_verification(metrics: &ConnectionMetrics, connection: &Connection) {
    if connection.target.tls {
        let verify = f64::from(u8::from(connection.tls.verify));
        metrics.gauge("posthaste_connection_tls_verify", None).set(verify);
    }
}

fn is_active(connection: &Connection) -> bool {
    connection.state == State::Active
}
