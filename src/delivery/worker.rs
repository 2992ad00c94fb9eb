//! A worker owns at most one HTTP connection and makes one attempt after the other on it.
//!
//! It is started with a delivery, takes the next one itself when it has ended, and waits in its slot when there is none.
//! It ends when its HTTP connection does, or when that has been idle for too long: an idle worker always has an open
//! connection. However it ends, its delivery goes back to the store.

mod dial;

pub(super) use dial::begin;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::header::{LOCATION, RETRY_AFTER};
use http::{HeaderMap, Response, StatusCode};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::http::{Drained, Http, SendError};
use super::outbox::{Ended, Next, Outbox, Settings};
use super::request::Particulars;
use super::timer::Deadline;
use super::tokens::{self, Token, Tokens};
use crate::clock::Age;
use crate::connection::breaker::Ticket;
use crate::connection::payload::{Shaped, Unsendable};
use crate::connection::retry::{cause_of_status, parse_retry_after};
use crate::event::{Cause, Disposition, Event, Outcome};
use crate::store::feed::{Delivery, Lane, Settlement};
use crate::store::history::{EXCERPT_BYTES, Phase, Timings};

/// How often a target may refuse a stream of HTTP/2 before that counts as an attempt.
const REFUSALS_MAX: u32 = 3;

/// The pause after the first refusal; it doubles.
const REFUSAL_PAUSE: Duration = Duration::from_millis(20);

/// Characters of a redirect's target that are kept.
const LOCATION_MAX: usize = 1000;

/// A delivery in a worker's hands. Dropped before it is settled, it goes back to the store.
#[derive(Debug)]
pub(super) struct Job {
    outbox: Rc<Outbox>,
    /// `None` once it is settled.
    delivery: Option<Delivery>,
    event: Arc<Event>,
    lane: Lane,
    size: u64,
    attempt: u32,
    first_attempt: Age,
    ticket: Ticket,
}

impl Job {
    /// The bytes of the payload must be taken.
    pub(super) fn new(
        outbox: &Rc<Outbox>,
        delivery: Delivery,
        event: Arc<Event>,
        ticket: Ticket,
    ) -> Job {
        let now = || outbox.shared.clock.age();
        Job {
            outbox: Rc::clone(outbox),
            lane: delivery.lane,
            size: u64::from(delivery.size),
            attempt: delivery.attempts.saturating_add(1),
            first_attempt: delivery.first_attempt.unwrap_or_else(now),
            delivery: Some(delivery),
            event,
            ticket,
        }
    }

    pub(super) fn event(&self) -> &Event {
        &self.event
    }

    /// The number of this attempt, from 1.
    pub(super) fn attempt(&self) -> u32 {
        self.attempt
    }

    /// When it started, as the breaker counts.
    pub(super) fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Whether the run is a replay.
    pub(super) fn is_replay(&self) -> bool {
        self.lane == Lane::Replay
    }

    pub(super) fn first_attempt(&self) -> Age {
        self.first_attempt
    }

    /// Tells the store what came of it.
    pub(super) fn settle(&mut self, disposition: Disposition) {
        if let Some(delivery) = self.delivery.take() {
            let settlement = Settlement {
                id: delivery.id,
                size: delivery.size,
                disposition,
                attempts: self.attempt,
                first_attempt: self.first_attempt,
            };
            self.outbox.settle(delivery, settlement, self.event.id);
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if self.delivery.is_some() {
            self.outbox.abandon(self.ticket);
        }
        if std::thread::panicking() {
            // To hand it out again would panic again, for ever.
            tracing::error!(event_id = %self.event.id, "A delivery worker panicked; its delivery became a dead letter");
            let cause = Cause::Internal;
            self.settle(Disposition::Dead { cause, status: 0 });
        } else if let Some(delivery) = self.delivery.take() {
            self.outbox.give_up(delivery);
        }
        self.outbox.give_bytes(self.size);
    }
}

/// Where an idle worker waits to be given a delivery.
#[derive(Debug, Default)]
pub(super) struct Slot {
    job: RefCell<Option<Job>>,
    dismissed: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Slot {
    /// Wakes the worker with a delivery.
    pub(super) fn give(&self, job: Job) {
        *self.job.borrow_mut() = Some(job);
        self.wake();
    }

    /// Wakes the worker to end.
    pub(super) fn dismiss(&self) {
        self.dismissed.set(true);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<Option<Job>> {
        if let Some(job) = self.job.borrow_mut().take() {
            return Poll::Ready(Some(job));
        }
        if self.dismissed.get() {
            return Poll::Ready(None);
        }
        match &mut *self.waker.borrow_mut() {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

/// One worker.
pub(super) struct Worker {
    seat: Seat,
    http: Option<Http>,
    deadline: Deadline,
    /// How long the parts of this attempt took.
    timings: Timings,
}

/// The worker's place in its connection's counts, given up however the worker ends.
struct Seat {
    outbox: Rc<Outbox>,
    slot: Rc<Slot>,
    busy: bool,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.outbox.worker_left(&self.slot, self.busy);
    }
}

impl Worker {
    /// Starts a worker with its first delivery.
    pub(super) fn spawn(outbox: &Rc<Outbox>, job: Job) {
        let seat = Seat { outbox: Rc::clone(outbox), slot: Rc::default(), busy: true };
        let worker = Worker {
            seat,
            http: None,
            deadline: Deadline::new(Instant::now() + Duration::from_secs(3600)),
            timings: Timings::default(),
        };
        // The runtime waits for its tracker when it ends; a panic is told by the job that it drops.
        drop(outbox.shared.tasks.spawn_local(worker.run(job)));
    }

    async fn run(mut self, first: Job) {
        let outbox = Rc::clone(&self.seat.outbox);
        let mut job = first;
        loop {
            self.deliver(job).await;
            self.seat.busy = false;
            job = match outbox.next(&self.seat.slot, self.http.is_some()) {
                Next::Job(job) => job,
                Next::Exit => return,
                Next::Idle => match self.idle(&outbox.settings()).await {
                    Some(job) => job,
                    None => return,
                },
            };
            self.seat.busy = true;
        }
    }

    /// Waits for a delivery; `None` when the worker is to end.
    async fn idle(&mut self, settings: &Settings) -> Option<Job> {
        let pool = settings.connection.pool;
        let opened = self.http.as_ref().map_or_else(Instant::now, Http::opened);
        let until = (Instant::now() + pool.idle_timeout).min(opened + pool.max_lifetime);
        self.deadline.set(until);
        poll_fn(|cx| {
            if self.http.as_mut().is_none_or(|http| http.poll_ended(cx)) {
                self.http = None;
            }
            match self.seat.slot.poll(cx) {
                Poll::Ready(job) => Poll::Ready(job),
                Poll::Pending if self.http.is_none() => Poll::Ready(None),
                Poll::Pending => self.deadline.poll(cx).map(|()| None),
            }
        })
        .await
    }

    /// Makes one attempt and settles it.
    async fn deliver(&mut self, mut job: Job) {
        let outbox = Rc::clone(&self.seat.outbox);
        let settings = outbox.settings();
        let started = Instant::now();
        self.timings = Timings::default();
        let response = match self.exchange(&settings, &job).await {
            Ok(response) => response,
            Err(error) => {
                let at = Instant::now();
                let ended = Ended {
                    outcome: Outcome::Failed(error.cause),
                    at,
                    code: error.cause,
                    took: at - started,
                    detail: Some(error.detail),
                    phase: error.phase,
                    timings: self.timings,
                    remote: error.remote,
                    generation: settings.generation,
                    excerpt: Bytes::new(),
                };
                return outbox.conclude(&mut job, &ended);
            }
        };
        let status = response.status().as_u16();
        let at = Instant::now();
        let mut ended = Ended {
            outcome: Outcome::Response { status, retry_after: None },
            at,
            code: cause_of_status(status),
            took: at - started,
            detail: None,
            phase: Phase::Response,
            timings: self.timings,
            remote: self.http.as_ref().map(Http::remote),
            generation: settings.generation,
            excerpt: Bytes::new(),
        };
        if settings.connection.success_status.contains(status) {
            // The status is the success; what the body does only decides about the connection.
            outbox.conclude(&mut job, &ended);
            drop(job);
            self.finish_response(response, &mut Vec::new()).await;
            return;
        }
        let retry_after = retry_after(response.headers(), outbox.shared.clock.wall_ms());
        ended.outcome = Outcome::Response { status, retry_after };
        let redactor = settings.redactor();
        ended.detail = location(response.headers()).map(|text| redactor.redact_text(text));
        if let (429 | 503, Some(wait)) = (status, retry_after) {
            outbox.hold(wait, &settings.connection);
        }
        let mut excerpt = Vec::with_capacity(EXCERPT_BYTES);
        if let Some(location) = ended.detail.as_ref().filter(|_| ended.code == Cause::Redirect) {
            excerpt.extend(location.bytes().chain(*b"\n\n").take(EXCERPT_BYTES / 2));
        }
        match self.finish_response(response, &mut excerpt).await {
            Drained::TooLarge => (ended.code, ended.phase) = (Cause::ResponseTooLarge, Phase::Body),
            Drained::Late => (ended.code, ended.phase) = (Cause::BodyTimeout, Phase::Body),
            Drained::Whole | Drained::Broken => {}
        }
        redactor.redact(&mut excerpt);
        excerpt.truncate(EXCERPT_BYTES);
        ended.excerpt = Bytes::copy_from_slice(&excerpt);
        outbox.conclude(&mut job, &ended);
    }

    /// Sends the request and waits for the head of its response.
    async fn exchange(
        &mut self,
        settings: &Rc<Settings>,
        job: &Job,
    ) -> Result<Response<Incoming>, SendError> {
        let shaped = settings.template.shape(&settings.connection, job.event(), job.attempt());
        let shaped = match shaped {
            Ok(shaped) => shaped,
            Err(unsendable) => {
                // What waits for nothing must let others have their turn.
                tokio::task::yield_now().await;
                return Err(not_made(unsendable));
            }
        };
        let shaped = shaped.as_deref();
        match &settings.tokens {
            None => self.send(settings, job, (None, shaped)).await,
            // In a box, so that workers that need no token do not carry it about.
            Some(tokens) => {
                Box::pin(self.exchange_with_token(tokens, settings, (job, shaped))).await
            }
        }
    }

    /// The same with a token. What is refused with 401 is sent once more with a new one; that is the same attempt.
    async fn exchange_with_token(
        &mut self,
        tokens: &Rc<Tokens>,
        settings: &Rc<Settings>,
        (job, shaped): (&Job, Option<&Shaped>),
    ) -> Result<Response<Incoming>, SendError> {
        let outbox = Rc::clone(&self.seat.outbox);
        let token = tokens.get(settings, &outbox.shared).await?;
        let response = self.send(settings, job, (Some(&token), shaped)).await?;
        let refused = response.status() == StatusCode::UNAUTHORIZED
            && !settings.connection.success_status.contains(401);
        if !refused || !tokens.refused(&token) {
            return Ok(response);
        }
        self.finish_response(response, &mut Vec::new()).await;
        let token = tokens.get(settings, &outbox.shared).await?;
        self.send(settings, job, (Some(&token), shaped)).await
    }

    /// Sends the request and waits for the head of its response, dialling if needed.
    async fn send(
        &mut self,
        settings: &Settings,
        job: &Job,
        (token, shaped): (Option<&Token>, Option<&Shaped>),
    ) -> Result<Response<Incoming>, SendError> {
        self.keep_usable(settings);
        let (mut may_repeat, mut refusals) = (true, 0);
        loop {
            let (mut http, reused) = match self.http.take() {
                Some(http) => (http, true),
                None => self.connect(settings).await?,
            };
            let (seconds, timestamp) = self.seat.outbox.shared.timestamp();
            let particulars = Particulars {
                attempt: job.attempt(),
                lane: job.lane,
                seconds,
                timestamp,
                token: token.map(Token::header),
            };
            let request = settings.template.request(job.event(), &particulars, shaped);
            let request = request.map_err(|ended| tokens::missing(&ended))?;
            let began = Instant::now();
            self.deadline.set(began + settings.connection.request_timeout);
            let sent = http.send(request, &mut self.deadline).await;
            if sent.is_ok() || (http.outlives_failures() && http.ready(&mut self.deadline).await) {
                self.http = Some(http);
            }
            match sent {
                Ok(response) => {
                    self.timings.first_byte = Some(began.elapsed());
                    return Ok(response);
                }
                // The peer closed a kept connection as we wrote: once more, on a new one.
                Err(error) if reused && may_repeat && error.unanswered => may_repeat = false,
                Err(error) if error.refused && refusals < REFUSALS_MAX => {
                    tokio::time::sleep(REFUSAL_PAUSE * (1 << refusals)).await;
                    refusals += 1;
                }
                Err(error) => return Err(error),
            }
            self.keep_usable(settings);
        }
    }

    /// Reads the body within what is left of the time, its start into `excerpt`, and keeps the connection if it can be used again.
    async fn finish_response(
        &mut self,
        response: Response<Incoming>,
        excerpt: &mut Vec<u8>,
    ) -> Drained {
        let Some(mut http) = self.http.take() else {
            return Drained::Broken;
        };
        let drained = http.drain(response.into_body(), &mut self.deadline, excerpt).await;
        let whole = drained == Drained::Whole || http.outlives_failures();
        if whole && http.ready(&mut self.deadline).await {
            self.http = Some(http);
        }
        drained
    }
}

/// No request could be made of the event: nothing was sent.
fn not_made(unsendable: Unsendable) -> SendError {
    SendError {
        cause: unsendable.cause,
        detail: unsendable.detail,
        unanswered: false,
        phase: Phase::Request,
        remote: None,
        refused: false,
    }
}

fn retry_after(headers: &HeaderMap, wall_ms: u64) -> Option<Duration> {
    parse_retry_after(headers.get(RETRY_AFTER)?.as_bytes(), wall_ms)
}

/// Where a redirect points, without control characters: it is kept and not followed.
pub(super) fn location(headers: &HeaderMap) -> Option<String> {
    let location = headers.get(LOCATION)?;
    let text = String::from_utf8_lossy(location.as_bytes());
    let clean = |character: char| if character.is_control() { '\u{fffd}' } else { character };
    Some(format!("location: {}", text.chars().take(LOCATION_MAX).map(clean).collect::<String>()))
}
