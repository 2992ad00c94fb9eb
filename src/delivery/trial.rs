//! A test of one connection: each part of the way to its target by itself, then an event that says that it is a test.
//!
//! It takes the way of a delivery: the same client with its egress rules, proxy and TLS, the same token request, the same
//! template, on the runtime that owns the connection, with that runtime's memory of names. It takes no part in anything that
//! is counted: not in the queue, the pool, the limiter, the breaker or the metrics. Each part ends by the connection's own
//! timeouts; at most [`TRIALS_MAX`] tests run at once.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Request};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use super::Prepared;
use super::http::Http;
use super::outbox::Settings;
use super::request::{Body, Particulars};
use super::runtime::Shared;
use super::timer::Deadline;
use super::worker;
use crate::client::{self, Certificate, Client, ClientError, DialError, Stage, Stream, Witness};
use crate::connection::Connection;
use crate::connection::auth::Auth;
use crate::connection::auth::redact::Redactor;
use crate::connection::retry::cause_of_status;
use crate::connection::sample::Sample;
use crate::event::{Cause, Event, EventId};
use crate::store::feed::Lane;
use crate::store::history::EXCERPT_BYTES;

/// Tests that run at once, of all connections.
pub const TRIALS_MAX: usize = 8;
/// The type of the event of a test.
pub const TEST_TYPE: &str = "posthaste.test";
/// What says in its request that it is one.
const TEST: HeaderName = HeaderName::from_static("posthaste-test");
/// Stands for a secret.
const MASK: &str = "***";

/// A test that can be run: nothing of the settings can fail any more.
#[derive(Debug)]
pub struct Trial {
    prepared: Prepared,
    witness: Witness,
    order: Order,
}

/// What is to be tested.
#[derive(Clone, Debug)]
pub struct Order {
    /// Whether the event goes out.
    pub send: bool,
    /// The event's body, JSON unless the event has a type of content.
    pub body: Vec<u8>,
    /// The type of the body's content.
    pub content_type: Option<String>,
}

/// A test on its way to a runtime.
#[derive(Debug)]
pub(super) struct Errand {
    pub(super) trial: Trial,
    pub(super) reply: oneshot::Sender<Report>,
    /// Its place among those that run at once.
    pub(super) _place: OwnedSemaphorePermit,
}

/// What a test found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// All parts, in their order.
    pub parts: Vec<Part>,
    /// The address that was dialled.
    pub remote: Option<SocketAddr>,
    /// What the target showed, its own certificate first.
    pub certificates: Vec<Certificate>,
    /// The request as it would go out, without secrets.
    pub request: Option<Shown>,
    /// What the target answered, if it did.
    pub response: Option<Answered>,
}

/// One part of the way.
#[derive(Clone, Debug)]
pub struct Part {
    /// Which.
    pub kind: Kind,
    /// How it ended.
    pub verdict: Verdict,
    /// How long it took.
    pub took: Option<Duration>,
}

/// The parts, in the order in which they are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The name's addresses.
    Dns,
    /// The socket.
    Connect,
    /// A proxy's agreement.
    Proxy,
    /// The handshake.
    Tls,
    /// A token of the token endpoint.
    Token,
    /// What the connection makes of an event.
    Request,
    /// The event, sent.
    Send,
}

/// How a part ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it should; what was found.
    Ok(String),
    /// Why not.
    Failed(Cause, String),
    /// It was not tried, and why.
    Skipped(&'static str),
}

/// A request without its secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The event's id.
    pub event: EventId,
    /// Its method.
    pub method: String,
    /// Its URL.
    pub url: String,
    /// Its headers.
    pub headers: Vec<(String, String)>,
    /// The start of its body.
    pub body: Vec<u8>,
}

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// Its status.
    pub status: u16,
    /// The start of its body, without secrets.
    pub body: Vec<u8>,
}

impl Kind {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Dns => "dns",
            Kind::Connect => "connect",
            Kind::Proxy => "proxy",
            Kind::Tls => "tls",
            Kind::Token => "token",
            Kind::Request => "request",
            Kind::Send => "send",
        }
    }
}

impl Trial {
    /// Makes what can fail.
    ///
    /// # Errors
    /// When the connection's TLS settings cannot be used.
    pub fn new(connection: &Arc<Connection>, order: Order) -> Result<Trial, ClientError> {
        let witness = Witness::default();
        let client = Client::watched(connection, Some(&witness))?;
        let prepared = Prepared { client, ..super::prepare(connection)? };
        Ok(Trial { prepared, witness, order })
    }

    /// The connection's name.
    pub fn name(&self) -> &str {
        &self.prepared.connection.name
    }
}

impl Errand {
    /// Runs the test, unless nobody waits for it any more.
    pub(super) async fn run(self, shared: Rc<Shared>) {
        let Errand { trial, mut reply, _place } = self;
        let report = tokio::select! {
            biased;
            () = reply.closed() => return,
            report = run(trial, &shared) => report,
        };
        // Whoever asked may be gone.
        let _ = reply.send(report);
    }
}

async fn run(trial: Trial, shared: &Shared) -> Report {
    let Trial { prepared, witness, order } = trial;
    let settings = Settings::new(prepared, shared.feed.history().generation());
    let mut report = Report::default();
    // As a delivery does: the token first, so that the socket does not wait for it.
    let token = ask_token(&settings, shared, &mut report).await;
    let redactor = settings.template.redactor.with_token(token.as_ref());
    let request = make(&settings, shared, (&order, token.as_ref()), &mut report);
    if let Some(request) = &request {
        report.request = Some(show(request, &settings.connection, &redactor));
    }
    let stream = dial(&settings, shared, &mut report).await;
    report.certificates = witness.chain();
    let needs_token = settings.tokens.is_some();
    let verdict = match (order.send, request, stream) {
        (false, ..) => Verdict::Skipped("nobody asked for it"),
        (true, None, _) => Verdict::Skipped("no request could be made"),
        (true, _, None) => Verdict::Skipped("the target was not reached"),
        (true, ..) if needs_token && token.is_none() => Verdict::Skipped("there is no token"),
        (true, Some(request), Some(stream)) => {
            let began = Instant::now();
            let verdict = send(&settings, (request.request, stream), &redactor, &mut report).await;
            report.add(Kind::Send, verdict, Some(began.elapsed()));
            return report.sorted();
        }
    };
    report.add(Kind::Send, verdict, None);
    report.sorted()
}

impl Report {
    fn add(&mut self, kind: Kind, verdict: Verdict, took: Option<Duration>) {
        self.parts.push(Part { kind, verdict, took });
    }

    fn sorted(mut self) -> Report {
        self.parts.sort_by_key(|part| part.kind);
        self
    }
}

/// A token of its own, which deliveries do not get.
async fn ask_token(
    settings: &Settings,
    shared: &Shared,
    report: &mut Report,
) -> Option<HeaderValue> {
    let Some(tokens) = &settings.tokens else {
        report.add(Kind::Token, Verdict::Skipped("the connection takes no token"), None);
        return None;
    };
    let began = Instant::now();
    let (verdict, token) = match tokens.ask_aside(settings, shared).await {
        Ok(token) => (Verdict::Ok("the token endpoint gave one".to_owned()), Some(token)),
        Err(detail) => (Verdict::Failed(Cause::AuthToken, detail), None),
    };
    report.add(Kind::Token, verdict, Some(began.elapsed()));
    token
}

/// A request and its event's id.
struct Made {
    event: EventId,
    request: Request<Body>,
    /// What is shown of its body.
    body: Vec<u8>,
}

fn make(
    settings: &Settings,
    shared: &Shared,
    (order, token): (&Order, Option<&HeaderValue>),
    report: &mut Report,
) -> Option<Made> {
    let (verdict, made) = match try_make(settings, shared, (order, token)) {
        Ok(made) => (Verdict::Ok("as shown below".to_owned()), Some(made)),
        Err((cause, detail)) => (Verdict::Failed(cause, detail), None),
    };
    report.add(Kind::Request, verdict, None);
    made
}

fn try_make(
    settings: &Settings,
    shared: &Shared,
    (order, token): (&Order, Option<&HeaderValue>),
) -> Result<Made, (Cause, String)> {
    let connection = &settings.connection;
    let event = event(connection, order, shared);
    let shaped = settings.template.shape(connection, &event, 1);
    let shaped = shaped.map_err(|unsendable| (unsendable.cause, unsendable.detail))?;
    let is_oauth2 = matches!(connection.auth, Some(Auth::OAuth2(_)));
    let (seconds, timestamp) = shared.timestamp();
    let particulars = Particulars {
        attempt: 1,
        lane: Lane::New,
        seconds,
        timestamp,
        token: token.cloned().or(is_oauth2.then_some(HeaderValue::from_static(MASK))),
    };
    let request = settings.template.request(&event, &particulars, shaped.as_deref());
    let mut request = request.map_err(|ended| (Cause::AuthToken, ended.to_string()))?;
    request.headers_mut().insert(TEST, HeaderValue::from_static("true"));
    // The body is in memory whole: it comes at once.
    let whole = at_once(request.body().clone().collect());
    let body = whole.and_then(Result::ok).map(|body| body.to_bytes()).unwrap_or_default();
    let body = body.get(..EXCERPT_BYTES).unwrap_or(&body).to_vec();
    Ok(Made { event: event.id, request, body })
}

/// What a future comes to that waits for nothing.
fn at_once<F: Future>(future: F) -> Option<F::Output> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(value) => Some(value),
        std::task::Poll::Pending => None,
    }
}

/// The event of a test: never in the store, with an id of its own.
fn event(connection: &Connection, order: &Order, shared: &Shared) -> Event {
    let source = connection.sources.first().map_or("default", String::as_str);
    let mut sample = Sample::json(source, order.body.clone());
    sample.kind = TEST_TYPE.to_owned();
    if let Some(kind) = &order.content_type {
        sample.set_header("content-type", kind);
    }
    let now = shared.clock.wall_ms();
    let id = EventId::new(now, &mut shared.rng.borrow_mut());
    Event { id, accepted_ms: now, ..sample.event() }
}

fn show(made: &Made, connection: &Connection, redactor: &Redactor) -> Shown {
    let request = &made.request;
    let scheme = if connection.target.tls { "https" } else { "http" };
    let authority = connection.target.authority.to_str().unwrap_or_default();
    let value = |value: &HeaderValue| match value.is_sensitive() {
        true => MASK.to_owned(),
        false => redactor.redact_text(String::from_utf8_lossy(value.as_bytes()).into_owned()),
    };
    let mut body = made.body.clone();
    redactor.redact(&mut body);
    Shown {
        event: made.event,
        method: request.method().to_string(),
        url: redactor.redact_text(format!("{scheme}://{authority}{}", request.uri())),
        headers: request.headers().iter().map(|(name, v)| (name.to_string(), value(v))).collect(),
        body,
    }
}

async fn dial(settings: &Settings, shared: &Shared, report: &mut Report) -> Option<Stream> {
    let timeout = settings.connection.connect_timeout;
    let (dialled, timings) = settings.client.dial(timeout, &shared.dialler).await;
    report.remote = match &dialled {
        Ok(stream) => Some(stream.remote()),
        Err(error) => error.remote,
    };
    for (kind, stage, took) in [
        (Kind::Dns, Stage::Lookup, timings.lookup),
        (Kind::Connect, Stage::Connect, connect_alone(timings)),
        (Kind::Proxy, Stage::Proxy, timings.proxy),
        (Kind::Tls, Stage::Tls, timings.tls),
    ] {
        let verdict = match &dialled {
            Err(error) if error.stage == stage => failed(error, settings),
            Err(error) if error.stage < stage => Verdict::Skipped("the way ended before"),
            dialled => passed(stage, &settings.connection, took, dialled.as_ref().ok()),
        };
        report.add(kind, verdict, took);
    }
    dialled.ok()
}

/// The socket without the proxy's agreement.
fn connect_alone(timings: client::Timings) -> Option<Duration> {
    Some(timings.connect?.saturating_sub(timings.proxy.unwrap_or_default()))
}

fn failed(error: &DialError, settings: &Settings) -> Verdict {
    let detail = settings.template.redactor.redact_text(error.detail.clone());
    Verdict::Failed(error.cause, detail)
}

/// A part of dialling that did not fail.
fn passed(
    stage: Stage,
    connection: &Connection,
    took: Option<Duration>,
    stream: Option<&Stream>,
) -> Verdict {
    match (stage, took) {
        (Stage::Lookup, None) => Verdict::Skipped("the host is an address"),
        (Stage::Lookup, Some(_)) => Verdict::Ok("the name has addresses".to_owned()),
        (Stage::Proxy, None) if connection.proxy.is_none() => {
            Verdict::Skipped("the connection has no proxy")
        }
        (Stage::Proxy, None) => Verdict::Skipped("no_proxy has the host"),
        (Stage::Proxy, Some(_)) => Verdict::Ok("the proxy agreed".to_owned()),
        (Stage::Tls, _) if !connection.target.tls => Verdict::Skipped("the URL is http"),
        (Stage::Tls, _) => {
            let http2 = stream.and_then(Stream::secured).is_some_and(|secured| secured.http2);
            Verdict::Ok(if http2 { "HTTP/2 agreed on" } else { "HTTP/1.1 agreed on" }.to_owned())
        }
        (Stage::Connect, _) => {
            let remote = stream.map(|stream| stream.remote().to_string());
            Verdict::Ok(remote.unwrap_or_else(|| "it was open".to_owned()))
        }
    }
}

async fn send(
    settings: &Settings,
    (request, stream): (Request<Body>, Stream),
    redactor: &Redactor,
    report: &mut Report,
) -> Verdict {
    let connection = &settings.connection;
    let begun = worker::begin(settings, stream, Instant::now() + connection.connect_timeout).await;
    let failed = |error: super::http::SendError| {
        Verdict::Failed(error.cause, redactor.redact_text(error.detail))
    };
    let mut http: Http = match begun {
        Ok(http) => http,
        Err(error) => return failed(error),
    };
    let mut deadline = Deadline::new(Instant::now() + connection.request_timeout);
    let response = match http.send(request, &mut deadline).await {
        Ok(response) => response,
        Err(error) => return failed(error),
    };
    let (head, body) = response.into_parts();
    let mut excerpt = Vec::with_capacity(EXCERPT_BYTES);
    // The status decides; the body is for whoever reads the report.
    let _ = http.drain(body, &mut deadline, &mut excerpt).await;
    redactor.redact(&mut excerpt);
    let status = head.status.as_u16();
    report.response = Some(Answered { status, body: excerpt });
    match connection.success_status.contains(status) {
        true => Verdict::Ok(format!("the target answered {}", head.status)),
        false => {
            let location = worker::location(&head.headers);
            let location = location.map(|text| format!(", {}", redactor.redact_text(text)));
            let detail =
                format!("the target answered {}{}", head.status, location.unwrap_or_default());
            Verdict::Failed(cause_of_status(status), detail)
        }
    }
}
