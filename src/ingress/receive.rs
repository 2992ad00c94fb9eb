//! One request: look at its head, read its body within the limits, decide where it goes, make it durable, answer.
//!
//! Body and kept headers are copied out of hyper's buffer into one piece of memory: a slice would pin the whole buffer for
//! as long as the event waits. What has to be looked into first, a batch or a structured CloudEvent, is copied twice.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONNECTION, EXPECT, ORIGIN};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, request};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use tokio_util::sync::CancellationToken;

use super::IngressLimits;
use super::batch::Format;
use super::cloudevents::{self, Attributes, Mode};
use super::cors;
use super::guard::{self, Below, Door};
use super::idempotency;
use super::memory::{EVENT_OVERHEAD_BYTES, Reservation};
use super::post::{Asked, Post};
use super::refusal::{Refusal, Refused};
use super::routing::{Group, too_large};
use super::serve::Shared;
use super::socket::{Phase, Progress};
use super::timing;
use crate::event::{Content, Event, EventId};

/// The header that names an event's type.
const TYPE_HEADER: HeaderName = HeaderName::from_static("posthaste-type");

/// The longest type of an event.
pub(super) const TYPE_BYTES_MAX: usize = 255;

/// What is left of a refused request is read up to this many bytes, so that the connection can be used again; more
/// closes it.
const DRAIN_BYTES_MAX: u64 = 64 * 1024;

/// One producer's connection.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) shared: Rc<Shared>,
    pub(super) progress: Rc<Progress>,
    /// In force when it was accepted.
    pub(super) limits: Arc<IngressLimits>,
    pub(super) door: Door,
    /// Cancelled when the daemon stops.
    pub(super) closing: CancellationToken,
}

impl Peer {
    /// Answers one request.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        self.progress.enter(Phase::Body);
        self.shared.counts.request(self.door);
        let (head, mut body) = request.into_parts();
        let page = head.headers.contains_key(ORIGIN).then(|| self.page(&head)).flatten();
        let mut response = match self.receive(&head, page.is_some(), &mut body).await {
            Ok(response) => response,
            Err(refused) => self.refuse(refused, &head, body).await,
        };
        if let Some(origin) = page {
            cors::tell(response.headers_mut(), origin);
        }
        if self.shared.stopping.get() {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        self.progress.enter(Phase::Answering);
        response
    }

    /// The origin of a web page that may post here.
    fn page(&self, head: &request::Parts) -> Option<HeaderValue> {
        let address = guard::address(head.uri.path())?;
        let routing = self.shared.routing.load();
        let group = routing.find(address.target).ok()?;
        cors::allowed_origin(&head.headers, &group.way).cloned()
    }

    async fn receive(
        &self,
        head: &request::Parts,
        page: bool,
        body: &mut Incoming,
    ) -> Result<Response<Full<Bytes>>, Refused> {
        let begin = self.shared.clock.monotonic();
        guard::check(head, self.door, &self.limits.hosts, page)?;
        let address = guard::address(head.uri.path()).ok_or(Refusal::NotFound)?;
        let group = Arc::clone(self.shared.routing.load().find(address.target)?);
        if page && cors::is_preflight(head) {
            return Ok(cors::preflight(head, &group.way));
        }
        self.admit(head, &group)?;
        let asked = self.asked(head)?;
        let post = Post::new(head, address, asked);
        let response = match (address.below, cloudevents::mode(&head.headers)?) {
            (Below::Path(_), _) if !group.keeps.path => return Err(no_path_below()),
            (Below::Batch, _) => {
                self.receive_batch(&post, &group, Format::of(&head.headers)?, body).await?
            }
            (_, Mode::Batch) => {
                self.receive_batch(&post, &group, Format::CloudEvents, body).await?
            }
            (_, mode) => self.receive_one(&post, &group, mode, body).await?,
        };
        let took = self.shared.clock.monotonic().saturating_sub(begin);
        self.shared.counts.ack_seconds.record(took);
        Ok(response)
    }

    /// What the source's settings and the head decide.
    fn admit(&self, head: &request::Parts, group: &Group) -> Result<(), Refused> {
        let way = &group.way;
        if !way.settings.methods.contains(&head.method) {
            return Err(way.wrong_method());
        }
        if self.shared.stopping.get() {
            return Err(Refusal::ShuttingDown.into());
        }
        let now_ms = self.shared.clock.wall_ms();
        way.settings.auth.check_head(&head.headers, now_ms).map_err(|denied| way.refuse(denied))?;
        if group.is_empty() {
            return Err(Refusal::NoConnection.into());
        }
        // Strangers must not use up what a producer may post: where the body tells them, this comes after it.
        if way.settings.auth.signs_body() { Ok(()) } else { way.admit() }
    }

    /// What headers and query say beside who posts what where.
    fn asked<'h>(&self, head: &'h request::Parts) -> Result<Asked<'h>, Refused> {
        Ok(Asked {
            kind: event_type(&head.headers)?,
            key: idempotency::key_of(&head.headers)?,
            delay: timing::delay_of(&head.headers, || self.shared.clock.wall_ms())?,
            wait: timing::wait_of(head.uri.query())?,
        })
    }

    /// Takes one event.
    async fn receive_one(
        &self,
        post: &Post<'_>,
        group: &Arc<Group>,
        mode: Mode,
        body: &mut Incoming,
    ) -> Result<Response<Full<Bytes>>, Refused> {
        let length = known_length(body, group.max_body)?;
        let copies = if mode == Mode::Structured { 2 } else { 1 };
        let bytes = length.unwrap_or(0) * copies + EVENT_OVERHEAD_BYTES;
        let mut reservation = self.shared.memory.reserve(bytes).ok_or(Refusal::MemoryFull)?;
        let grow = length.is_none().then_some((&mut reservation, copies));
        let content = match mode {
            Mode::Structured => {
                let mut raw = Vec::with_capacity(usize::try_from(length.unwrap_or(0)).unwrap_or(0));
                self.read(body, grow, group.max_body, |piece| raw.extend_from_slice(piece)).await?;
                self.verify(post.head, group, &raw)?;
                structured(post, group, &raw)?
            }
            Mode::Plain | Mode::Binary | Mode::Batch => {
                let cloud = (mode == Mode::Binary).then(|| cloudevents::binary(&post.head.headers));
                let cloud = cloud.transpose()?;
                let (kind, key) = post.names(cloud.as_ref());
                let mut builder = post.start_content(group, (kind, key), length);
                self.read(body, grow, group.max_body, |piece| builder.body(piece)).await?;
                let content = builder.finish();
                if group.way.settings.auth.signs_body() {
                    self.verify(post.head, group, &content.body())?;
                }
                content
            }
        };
        let (accepted, watch) = self.store_one(post, group, self.event(content)).await?;
        // The store has it: what it took here is free for others while its producer waits.
        drop(reservation);
        match (watch, post.asked.wait) {
            (Some(watch), Some(wait)) => {
                self.wait_for(&watch, wait).await;
                Ok(watch.respond(group, &accepted))
            }
            (None, Some(_)) => Ok(accepted.respond(None)),
            _ => Ok(accepted.respond(group.way.settings.reply.as_ref())),
        }
    }

    /// What a body that was read decides: its signature, and then the rate limit.
    pub(super) fn verify(
        &self,
        head: &request::Parts,
        group: &Group,
        body: &[u8],
    ) -> Result<(), Refused> {
        let way = &group.way;
        if !way.settings.auth.signs_body() {
            return Ok(());
        }
        let now_ms = self.shared.clock.wall_ms();
        let checked = way.settings.auth.check_body(&head.headers, body, now_ms);
        checked.map_err(|denied| way.refuse(denied))?;
        way.admit()
    }

    /// An event of now.
    pub(super) fn event(&self, content: Content) -> Event {
        let shared = &self.shared;
        let id = EventId::new(shared.clock.wall_ms(), &mut shared.rng.borrow_mut());
        Event { id, accepted_ms: id.unix_ms(), accepted_age: shared.clock.age(), content }
    }

    /// Reads the body to its end. `grow`: the reservation where the length was not known beforehand, and how often each byte
    /// is held.
    pub(super) async fn read(
        &self,
        body: &mut Incoming,
        mut grow: Option<(&mut Reservation<'_>, u64)>,
        max_body: u64,
        mut take: impl FnMut(&[u8]),
    ) -> Result<(), Refused> {
        let mut read = 0u64;
        while let Some(frame) = body.frame().await {
            let Some(piece) = self.piece(frame)? else {
                continue;
            };
            read += piece.len() as u64;
            if read > max_body {
                return Err(too_large(max_body));
            }
            if let Some((reservation, copies)) = &mut grow
                && !reservation.grow(piece.len() as u64 * *copies)
            {
                return Err(Refusal::MemoryFull.into());
            }
            take(&piece);
        }
        Ok(())
    }

    /// The data of a frame; `None` for trailers, which nobody asked for.
    fn piece(
        &self,
        frame: hyper::Result<hyper::body::Frame<Bytes>>,
    ) -> Result<Option<Bytes>, Refused> {
        match frame {
            Ok(frame) => Ok(frame.into_data().ok()),
            Err(_) => Err(match self.progress.take_gave_up() {
                Some(why) => why.into(),
                None => Refused::with(
                    Refusal::Malformed,
                    "the body ended early or its chunks are malformed; send it whole",
                ),
            }),
        }
    }

    /// Answers with a problem document, and leaves the connection usable where that is cheap.
    async fn refuse(
        &self,
        refused: Refused,
        head: &request::Parts,
        mut body: Incoming,
    ) -> Response<Full<Bytes>> {
        tracing::debug!(code = refused.why.code(), "Refused a request");
        self.shared.counts.refusal(refused.why);
        let mut problem = refused.problem();
        if !body.is_end_stream() {
            let drained = !problem.close && may_drain(head, &body) && drain(&mut body).await;
            // The refusal is the answer, also where the socket gave up on what is thrown away.
            self.progress.take_gave_up();
            problem.close |= !drained;
            self.progress.unread.set(!drained);
        }
        problem.into_response()
    }
}

/// The length of a body, where it is known beforehand.
pub(super) fn known_length(body: &Incoming, max_body: u64) -> Result<Option<u64>, Refused> {
    let length = body.size_hint().exact();
    match length.is_some_and(|length| length > max_body) {
        true => Err(too_large(max_body)),
        false => Ok(length),
    }
}

/// The content of a structured CloudEvent: its bytes as they came.
fn structured(post: &Post<'_>, group: &Group, raw: &[u8]) -> Result<Content, Refused> {
    let text = std::str::from_utf8(raw)
        .map_err(|_| Refused::with(Refusal::InvalidJson, "the body is not UTF-8"))?;
    let cloud: Attributes = cloudevents::parse(text)?;
    let (kind, key) = post.names(Some(&cloud));
    let mut builder = post.start_content(group, (kind, key), Some(raw.len() as u64));
    builder.body(raw);
    Ok(builder.finish())
}

fn no_path_below() -> Refused {
    let detail = "no connection here takes anything below its source's path; leave it out, or set forward_path";
    Refused::with(Refusal::NotFound, detail)
}

/// A producer that waits for `100 Continue` must not be told to send what is thrown away.
fn may_drain(head: &request::Parts, body: &Incoming) -> bool {
    let small = |length| length <= DRAIN_BYTES_MAX;
    body.size_hint().exact().is_some_and(small) && !head.headers.contains_key(EXPECT)
}

async fn drain(body: &mut Incoming) -> bool {
    while let Some(frame) = body.frame().await {
        if frame.is_err() {
            return false;
        }
    }
    true
}

/// The event's type; empty when it has none.
pub(super) fn event_type(headers: &HeaderMap) -> Result<&str, Refused> {
    let mut values = headers.get_all(TYPE_HEADER).iter();
    let Some(value) = values.next() else {
        return Ok("");
    };
    let text = std::str::from_utf8(value.as_bytes()).unwrap_or("\0");
    let legal = text.len() <= TYPE_BYTES_MAX && !text.contains(char::is_control);
    if !legal || values.next().is_some() {
        return Err(Refusal::InvalidType.into());
    }
    Ok(text)
}
