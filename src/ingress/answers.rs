//! What a producer is told about events that were taken.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;

use super::routing::{Group, Plan};
use crate::event::{Cause, EventId};
use crate::source::{Durability, Reply};
use crate::store::keys::KeyRecord;
use crate::store::outcomes::{Ended, Outcomes};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Has the event's id where a source's own reply stands in the place of the document.
const EVENT_ID: HeaderName = HeaderName::from_static("posthaste-event-id");

/// An event that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Accepted {
    /// Its id; none where every connection ignored it, so that it was not stored.
    pub(super) id: Option<EventId>,
    /// The document.
    pub(super) json: Arc<str>,
}

impl Accepted {
    /// An event that was decided, and stored where it has routes.
    pub(super) fn new(group: &Group, plan: &Plan, id: EventId) -> Accepted {
        let id = (!plan.is_empty()).then_some(id);
        Accepted { id, json: document(group, plan, id).into() }
    }

    /// An event that was stored before, under its key.
    pub(super) fn before(group: &Group, key: &KeyRecord) -> Accepted {
        let (id, durable, queued) = (key.id, durable(group), key.queued());
        let json = format!("{{\"id\":\"{id}\",\"durable\":{durable},\"connections\":{queued}}}");
        Accepted { id: Some(id), json: json.into() }
    }

    /// The answer, or the source's own.
    pub(super) fn respond(self, reply: Option<&Reply>) -> Response<Full<Bytes>> {
        match reply {
            None => document_response(Bytes::copy_from_slice(self.json.as_bytes())),
            Some(reply) => own_response(reply, self.id),
        }
    }
}

/// An event whose producer waits for the outcome.
#[derive(Debug)]
pub(super) struct Watch {
    /// The connections, in the order of the event's routes.
    pub(super) names: Vec<String>,
    /// What the store tells; `None` when too many wait already.
    pub(super) outcomes: Option<Outcomes>,
}

impl Watch {
    /// 200 where every delivery is over, else 202: what became of each, as far as it is known.
    pub(super) fn respond(self, group: &Group, accepted: &Accepted) -> Response<Full<Bytes>> {
        let known = self.outcomes.as_ref().map_or_else(Vec::new, Outcomes::known);
        let ends = known.into_iter().map(|(_, ended)| ended).chain(std::iter::repeat(None));
        let mut over = true;
        let connections: Vec<_> = self
            .names
            .iter()
            .zip(ends)
            .map(|(name, ended)| {
                over &= ended.is_some();
                delivery(name, ended)
            })
            .collect();
        let document = serde_json::json!({
            "id": accepted.id.map(|id| id.to_string()),
            "durable": durable(group),
            "connections": connections,
        });
        let mut response = document_response(document.to_string());
        if over {
            *response.status_mut() = StatusCode::OK;
        }
        response
    }
}

/// What became of one delivery.
fn delivery(name: &str, ended: Option<Ended>) -> serde_json::Value {
    use serde_json::json;
    match ended {
        None => json!({ "name": name, "state": "pending" }),
        Some(Ended::Delivered { attempts }) => {
            json!({ "name": name, "state": "delivered", "attempts": attempts })
        }
        Some(Ended::Cancelled) => json!({ "name": name, "state": "cancelled" }),
        Some(Ended::Dead { cause, status, attempts }) => {
            let mut dead = json!({
                "name": name, "state": "dead", "cause": cause.as_str(), "attempts": attempts,
            });
            if let Some(members) = dead.as_object_mut().filter(|_| status > 0) {
                members.insert("status".to_owned(), status.into());
            }
            dead
        }
    }
}

/// A 202 with a document.
pub(super) fn document_response(json: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(json.into()));
    *response.status_mut() = StatusCode::ACCEPTED;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// A source's own reply.
pub(super) fn own_response(reply: &Reply, id: Option<EventId>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(Bytes::from(reply.body.clone())));
    *response.status_mut() = reply.status;
    let headers = response.headers_mut();
    if let Some(kind) = &reply.content_type {
        headers.insert(CONTENT_TYPE, kind.clone());
    }
    if let Some(Ok(id)) = id.map(|id| HeaderValue::try_from(id.to_string())) {
        headers.insert(EVENT_ID, id);
    }
    response
}

/// `"durable":true`, or what is true.
fn durable(group: &Group) -> bool {
    group.way.settings.durability == Durability::Disk
}

/// The 202's body. Names need no escaping: the configuration allows letters, digits, `-` and `_`.
fn document(group: &Group, plan: &Plan, id: Option<EventId>) -> String {
    let mut json = String::with_capacity(128);
    let durable = durable(group);
    // Writing to a String cannot fail.
    let _ = match id {
        None => write!(json, "{{\"connections\":0"),
        Some(id) => {
            let queued = plan.queued();
            write!(json, "{{\"id\":\"{id}\",\"durable\":{durable},\"connections\":{queued}")
        }
    };
    for (member, wanted) in [("full", Cause::QueueFull), ("too_large", Cause::TooLarge)] {
        let dead = plan.dead.iter().filter(|(_, cause)| *cause == wanted);
        names(&mut json, member, dead.map(|(at, _)| group.name(*at)));
    }
    if plan.ignored > 0 {
        let _ = write!(json, ",\"ignored\":{}", plan.ignored);
    }
    json.push('}');
    json
}

/// A member with a list of names; nothing when there are none.
fn names<'n>(json: &mut String, member: &str, names: impl Iterator<Item = &'n str>) {
    let mut before = "[";
    for name in names {
        if before == "[" {
            let _ = write!(json, ",\"{member}\":");
        }
        let _ = write!(json, "{before}\"{name}\"");
        before = ",";
    }
    if before == "," {
        json.push(']');
    }
}

/// What became of the items of a batch, in order.
#[derive(Debug, Default)]
pub(super) struct BatchAnswer {
    ids: Vec<Option<EventId>>,
    connections: u64,
    full: Vec<String>,
    too_large: Vec<String>,
    ignored: u64,
}

impl BatchAnswer {
    /// An item that was stored before, or that is another item's event.
    pub(super) fn repeated(&mut self, id: Option<EventId>) {
        self.ids.push(id);
    }

    /// An item that was decided, and stored where it has routes.
    pub(super) fn stored(&mut self, group: &Group, plan: &Plan, id: EventId) -> Option<EventId> {
        let id = (!plan.is_empty()).then_some(id);
        self.ids.push(id);
        self.connections += plan.queued() as u64;
        self.ignored += u64::from(plan.ignored);
        for (at, cause) in &plan.dead {
            let list = match cause {
                Cause::TooLarge => &mut self.too_large,
                _ => &mut self.full,
            };
            if !list.iter().any(|name| name == group.name(*at)) {
                list.push(group.name(*at).to_owned());
            }
        }
        id
    }

    /// The id of an item that came before.
    pub(super) fn id(&self, at: usize) -> Option<EventId> {
        self.ids.get(at).copied().flatten()
    }

    /// The 202's body: ids in the order of the items, `null` for one that every connection ignored. `connections` counts the
    /// deliveries of the new events.
    pub(super) fn json(&self, group: &Group) -> String {
        let mut json = String::with_capacity(64 + self.ids.len() * 43);
        json.push_str("{\"ids\":[");
        for (at, id) in self.ids.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            let _ = match id {
                Some(id) => write!(json, "{comma}\"{id}\""),
                None => write!(json, "{comma}null"),
            };
        }
        let (durable, connections) = (durable(group), self.connections);
        let _ = write!(json, "],\"durable\":{durable},\"connections\":{connections}");
        names(&mut json, "full", self.full.iter().map(String::as_str));
        names(&mut json, "too_large", self.too_large.iter().map(String::as_str));
        if self.ignored > 0 {
            let _ = write!(json, ",\"ignored\":{}", self.ignored);
        }
        json.push('}');
        json
    }
}
