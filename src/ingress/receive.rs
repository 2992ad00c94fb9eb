//! One request: look at its head, read its body within the limits, decide where it goes, make it durable, answer.
//!
//! Body and kept headers are copied out of hyper's buffer into one piece of memory: a slice would pin the whole buffer for
//! as long as the event waits.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, EXPECT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, request};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};

use super::IngressLimits;
use super::guard::{self, Below, Door};
use super::idempotency::{self, Answer};
use super::memory::{EVENT_OVERHEAD_BYTES, Reservation};
use super::post::Post;
use super::refusal::{Refusal, Refused};
use super::routing::{Group, Plan, Target, too_large};
use super::rules::Choice;
use super::serve::Shared;
use super::socket::{Phase, Progress};
use crate::event::{ContentBuilder, Event, EventId};

use crate::store::intake::Durability;
use crate::store::keys::{Fingerprint, KeyRecord};

/// The header that names an event's type.
const TYPE_HEADER: HeaderName = HeaderName::from_static("posthaste-type");

/// The longest type of an event.
const TYPE_BYTES_MAX: usize = 255;

/// What is left of a refused request is read up to this many bytes, so that the connection can be used again; more
/// closes it.
const DRAIN_BYTES_MAX: u64 = 64 * 1024;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// One producer's connection.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) shared: Rc<Shared>,
    pub(super) progress: Rc<Progress>,
    /// In force when it was accepted.
    pub(super) limits: Arc<IngressLimits>,
    pub(super) door: Door,
}

impl Peer {
    /// Answers one request.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        self.progress.enter(Phase::Body);
        self.shared.counts.request(self.door);
        let (head, mut body) = request.into_parts();
        let mut response = match self.receive(&head, &mut body).await {
            Ok(json) => accepted(json),
            Err(refused) => self.refuse(refused, &head, body).await,
        };
        if self.shared.stopping.get() {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        self.progress.enter(Phase::Answering);
        response
    }

    async fn receive(&self, head: &request::Parts, body: &mut Incoming) -> Result<String, Refused> {
        let shared = &*self.shared;
        let begin = shared.clock.monotonic();
        let post = self.admit(head)?;
        let kind = event_type(&head.headers)?;
        let key = idempotency::key_of(&head.headers)?;
        let group = Arc::clone(shared.routing.load().find(post.target())?);
        match post.address.below {
            Below::Path(_) if !group.keeps.path => return Err(no_path_below()),
            Below::Batch => return Err(Refusal::NotFound.into()),
            Below::Nothing | Below::Path(_) => {}
        }
        let max_body = group.max_body;
        let length = body.size_hint().exact();
        if length.is_some_and(|length| length > max_body) {
            return Err(too_large(max_body));
        }
        let mut reservation = shared
            .memory
            .reserve(length.unwrap_or(0) + EVENT_OVERHEAD_BYTES)
            .ok_or(Refusal::MemoryFull)?;
        let mut builder = post.start_content(&group, (kind, key), length);
        let grow = length.is_none().then_some(&mut reservation);
        self.read(body, &mut builder, grow, max_body).await?;
        let body_bytes = builder.body_len() as u64;
        let id = EventId::new(shared.clock.wall_ms(), &mut shared.rng.borrow_mut());
        let event = Event {
            id,
            accepted_ms: id.unix_ms(),
            accepted_age: shared.clock.age(),
            content: builder.finish(),
        };
        let json = match Fingerprint::of(&event.content) {
            None => self.store(&post, event, body_bytes, None).await?.0,
            Some(print) => self.store_once(&post, event, body_bytes, print).await?,
        };
        let took = shared.clock.monotonic().saturating_sub(begin);
        shared.counts.ack_seconds.record(took);
        Ok(json)
    }

    /// Everything that the head alone decides.
    fn admit<'a>(&self, head: &'a request::Parts) -> Result<Post<'a>, Refused> {
        guard::check(head, self.door, &self.limits.hosts)?;
        let address = guard::address(head.uri.path()).ok_or(Refusal::NotFound)?;
        if head.method != Method::POST {
            return Err(Refusal::MethodNotAllowed.into());
        }
        if self.shared.stopping.get() {
            return Err(Refusal::ShuttingDown.into());
        }
        Ok(Post::new(head, address))
    }

    /// Reads the body to its end. `grow` is the reservation where the length was not known beforehand.
    async fn read(
        &self,
        body: &mut Incoming,
        builder: &mut ContentBuilder,
        mut grow: Option<&mut Reservation<'_>>,
        max_body: u64,
    ) -> Result<(), Refused> {
        while let Some(frame) = body.frame().await {
            let Some(piece) = self.piece(frame)? else {
                continue;
            };
            if (builder.body_len() + piece.len()) as u64 > max_body {
                return Err(too_large(max_body));
            }
            if let Some(reservation) = &mut grow
                && !reservation.grow(piece.len() as u64)
            {
                return Err(Refusal::MemoryFull.into());
            }
            builder.body(&piece);
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

    /// Stores an event unless its key says that it is there already; returns the answer's text.
    async fn store_once(
        &self,
        post: &Post<'_>,
        event: Event,
        body: u64,
        print: Fingerprint,
    ) -> Result<String, Refused> {
        let claim = match self.shared.keys.claim(print) {
            Answer::Claimed(claim) => claim,
            Answer::Known(key) => return Ok(repeated_json(&key)),
            Answer::Conflict => return Err(Refusal::IdempotencyConflict.into()),
            Answer::Pending(waiter) => {
                drop(event);
                return waiter.outcome().await.map(|json| json.to_string());
            }
        };
        let result = self.store(post, event, body, Some(print)).await;
        match &result {
            Ok((json, key)) => claim.settle(*key, Ok(json.as_str().into())),
            Err(refused) => claim.settle(None, Err(refused.clone())),
        }
        result.map(|(json, _)| json)
    }

    /// Decides, appends, counts; returns the answer's text and the key to remember, if the event has one and was stored.
    async fn store(
        &self,
        post: &Post<'_>,
        event: Event,
        body: u64,
        print: Option<Fingerprint>,
    ) -> Result<(String, Option<KeyRecord>), Refused> {
        let (group, mut choice) = self.choose(post.target(), &event).await?;
        let content = event.content.as_bytes().len() as u64;
        let mut plan = group.decide(body, content, None, &choice)?;
        let (id, age) = (event.id, event.accepted_age);
        let json = answer_json(&group, &plan, id);
        let key = print.map(|print| KeyRecord::new(print, id, age, plan.queued()));
        let key = key.filter(|_| !plan.routes.is_empty());
        let routes = std::mem::take(&mut plan.routes);
        if !routes.is_empty() {
            let (intake, event) = (&self.shared.intake, Arc::new(event));
            intake.append_with(event, routes, key.map(Box::new), Durability::Disk).await?;
            tracing::debug!(event_id = %id, source = group.source, bytes = body, "Accepted an event");
        }
        choice.settle(id, age);
        group.count(id, &plan.dead, &choice);
        self.shared.counts.body_bytes.increment(body);
        Ok((json, key))
    }

    /// Asks the connections whether they want the event. One that is the same as an event on its way to the disk waits for what
    /// becomes of that.
    async fn choose(
        &self,
        target: Target<'_>,
        event: &Event,
    ) -> Result<(Arc<Group>, Choice), Refused> {
        loop {
            // Looked up again: what counts is the configuration in force now, not when the head came in.
            let group = Arc::clone(self.shared.routing.load().find(target)?);
            match group.choose(event) {
                Ok(choice) => return Ok((group, choice)),
                Err(waiter) => waiter.wait().await,
            }
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

fn no_path_below() -> Refused {
    let detail = "no connection here takes anything below its source's path; leave it out, or set forward_path";
    Refused::with(Refusal::NotFound, detail)
}

fn accepted(json: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(json));
    *response.status_mut() = StatusCode::ACCEPTED;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
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

/// The 202's body for an event that was stored before.
fn repeated_json(key: &KeyRecord) -> String {
    let (id, queued) = (key.id, key.queued());
    format!("{{\"id\":\"{id}\",\"durable\":true,\"connections\":{queued}}}")
}

/// The 202's body. Names need no escaping: the configuration allows letters, digits, `-` and `_`.
fn answer_json(group: &Group, plan: &Plan, id: EventId) -> String {
    use crate::event::Cause::{QueueFull, TooLarge};
    use std::fmt::Write as _;

    let mut json = String::with_capacity(128);
    // Writing to a String cannot fail.
    let _ = if plan.routes.is_empty() {
        write!(json, "{{\"connections\":0")
    } else {
        let queued = plan.queued();
        write!(json, "{{\"id\":\"{id}\",\"durable\":true,\"connections\":{queued}")
    };
    for (member, wanted) in [("full", QueueFull), ("too_large", TooLarge)] {
        let mut before = "[";
        for (at, _) in plan.dead.iter().filter(|(_, cause)| *cause == wanted) {
            if before == "[" {
                let _ = write!(json, ",\"{member}\":");
            }
            let _ = write!(json, "{before}\"{}\"", group.name(*at));
            before = ",";
        }
        if before == "," {
            json.push(']');
        }
    }
    if plan.ignored > 0 {
        let _ = write!(json, ",\"ignored\":{}", plan.ignored);
    }
    json.push('}');
    json
}
