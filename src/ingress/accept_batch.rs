//! Storing several events of one request: all of them, or none.
//!
//! Each item has a key of its own, if it has one: that of its CloudEvent, or the request's with the item's number. An item whose
//! key is known is the event that came before, as with single posts; the others are stored in one commit.
//!
//! Keys are claimed in the order of their fingerprints, and one that another request is storing is waited for. Two batches that
//! share keys so never wait for each other; a single post never waits while it holds a key.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::body::Incoming;

use super::answers::{Accepted, BatchAnswer, document_response, own_response};
use super::batch::{self, Format, Item};
use super::idempotency::{Answer, Claim};
use super::memory::{EVENT_OVERHEAD_BYTES, Reservation};
use super::post::Post;
use super::receive::{Peer, known_length};
use super::refusal::{Refusal, Refused};
use super::routing::{Group, Plan};
use super::rules::Choice;
use crate::clock::Age;
use crate::event::{Event, EventId};
use crate::store::intake::Batched;
use crate::store::keys::{Fingerprint, KeyRecord};

/// What an item is.
enum Place<'k> {
    /// A new event; the claim is that of its key.
    New(Option<Claim<'k>>),
    /// An event that was stored before.
    Known(EventId),
    /// The event of an item before it, which has the same key.
    Same(usize),
}

impl Peer {
    /// Takes the events of a batch.
    pub(super) async fn receive_batch(
        &self,
        post: &Post<'_>,
        group: &Arc<Group>,
        format: Format,
        body: &mut Incoming,
    ) -> Result<Response<Full<Bytes>>, Refused> {
        if post.asked.wait.is_some() {
            let detail = "wait is for one event; a batch is answered when it is stored";
            return Err(Refused::with(Refusal::InvalidWait, detail));
        }
        // The body, and a copy of each item.
        const COPIES: u64 = 2;
        let most = self.limits.max_batch_bytes;
        let length = known_length(body, most)?;
        let bytes = length.unwrap_or(0) * COPIES + EVENT_OVERHEAD_BYTES;
        let mut reservation = self.shared.memory.reserve(bytes).ok_or(Refusal::MemoryFull)?;
        let mut raw = Vec::with_capacity(usize::try_from(length.unwrap_or(0)).unwrap_or(0));
        let grow = length.is_none().then_some((&mut reservation, COPIES));
        self.read(body, grow, most, |piece| raw.extend_from_slice(piece)).await?;
        self.verify(post.head, group, &raw)?;
        let events = self.events(post, group, format, &raw, &mut reservation)?;
        drop(raw);
        let answer = self.store_all(post, events).await?;
        Ok(match &group.way.settings.reply {
            None => document_response(answer),
            Some(reply) => own_response(reply, None),
        })
    }

    /// An event of each item.
    fn events(
        &self,
        post: &Post<'_>,
        group: &Group,
        format: Format,
        raw: &[u8],
        reservation: &mut Reservation<'_>,
    ) -> Result<Vec<Event>, Refused> {
        let items = format.split(raw)?;
        if !reservation.grow(EVENT_OVERHEAD_BYTES * items.len() as u64) {
            return Err(Refusal::MemoryFull.into());
        }
        let mut events = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            if item.body.len() as u64 > group.max_body {
                let why = format!(
                    "it is larger than {} bytes, the most that any connection of this source takes",
                    group.max_body
                );
                return Err(Refused { why: Refusal::BodyTooLarge, ..batch::bad(index, why) });
            }
            let key = item_key(post, group, index, item);
            let kind = post.names(item.cloud.as_ref()).0;
            let body = (format.content_type(), item.body);
            events.push(self.event(post.item_content(group, (kind, &key), body)));
        }
        Ok(events)
    }

    /// Stores what is new of the events, in one commit; returns the answer's text.
    async fn store_all(&self, post: &Post<'_>, events: Vec<Event>) -> Result<String, Refused> {
        let mut places = self.claim_all(&events).await?;
        let (group, choices) = self.choose_all(post, &events, &places).await?;
        let result = self.append_all(post, &group, events.into_iter().zip(choices), &places).await;
        match result {
            Ok(stored) => Ok(settle_all(&group, &mut places, stored)),
            Err(refused) => {
                for place in &mut places {
                    if let Place::New(claim) = place
                        && let Some(claim) = claim.take()
                    {
                        claim.settle(None, Err(refused.for_others()));
                    }
                }
                Err(refused)
            }
        }
    }

    /// Finds out which of the events are new, and holds their keys.
    async fn claim_all(&self, events: &[Event]) -> Result<Vec<Place<'_>>, Refused> {
        let mut places: Vec<_> = events.iter().map(|_| Place::New(None)).collect();
        let prints = events.iter().map(|event| Fingerprint::of(&event.content)).enumerate();
        let mut keyed: Vec<(usize, Fingerprint)> =
            prints.filter_map(|(at, print)| Some((at, print?))).collect();
        keyed.sort_by_key(|(at, print)| (print.key, *at));
        let mut before: Option<(usize, Fingerprint)> = None;
        for (at, print) in keyed {
            let place = match before.filter(|(_, other)| other.key == print.key) {
                Some((_, other)) if other.body != print.body => return Err(conflict(at)),
                Some((first, _)) => Place::Same(first),
                None => {
                    before = Some((at, print));
                    self.claim(at, print).await?
                }
            };
            if let Some(slot) = places.get_mut(at) {
                *slot = place;
            }
        }
        Ok(places)
    }

    async fn claim(&self, at: usize, print: Fingerprint) -> Result<Place<'_>, Refused> {
        loop {
            match self.shared.keys.claim(print) {
                Answer::Claimed(claim) => return Ok(Place::New(Some(claim))),
                Answer::Known(key) => return Ok(Place::Known(key.id)),
                Answer::Conflict => return Err(conflict(at)),
                // Whatever it gets: the key is known then, or free.
                Answer::Pending(waiter) => drop(waiter.outcome().await),
            }
        }
    }

    /// Asks the connections which of the new events they want. One that is the same as an event of another request, which is on its
    /// way to the disk, is waited for with nothing held, so that two batches never wait for each other.
    async fn choose_all(
        &self,
        post: &Post<'_>,
        events: &[Event],
        places: &[Place<'_>],
    ) -> Result<(Arc<Group>, Vec<Choice>), Refused> {
        loop {
            let group = Arc::clone(self.shared.routing.load().find(post.target())?);
            let mut before: Vec<(EventId, Choice)> = Vec::with_capacity(events.len());
            let mut waiter = None;
            for (event, place) in events.iter().zip(places) {
                let choice = match place {
                    Place::New(_) => group.choose(event, &before),
                    Place::Known(_) | Place::Same(_) => Ok(Choice::default()),
                };
                match choice {
                    Ok(choice) => before.push((event.id, choice)),
                    Err(busy) => {
                        waiter = Some(busy);
                        break;
                    }
                }
            }
            match waiter {
                None => return Ok((group, before.into_iter().map(|(_, choice)| choice).collect())),
                Some(waiter) => {
                    drop(before);
                    waiter.wait().await;
                }
            }
        }
    }

    /// Decides and appends; gives what became of each new event, in order.
    async fn append_all(
        &self,
        post: &Post<'_>,
        group: &Group,
        events: impl ExactSizeIterator<Item = (Event, Choice)>,
        places: &[Place<'_>],
    ) -> Result<Vec<Stored>, Refused> {
        let mut stored: Vec<Stored> = Vec::with_capacity(events.len());
        let mut frame = Vec::with_capacity(events.len());
        for (index, (event, choice)) in events.enumerate() {
            let Some(Place::New(claim)) = places.get(index) else {
                continue;
            };
            let (id, age, body) = (event.id, event.accepted_age, event.content.body_len() as u64);
            let content = event.content.as_bytes().len() as u64;
            let mut plan = match group.decide(body, content, post.asked.delay, &choice) {
                Ok(plan) => plan,
                Err(refused) => {
                    frame.iter().for_each(Batched::give_back_room);
                    return Err(of_item(index, refused));
                }
            };
            let key = claim
                .as_ref()
                .filter(|_| !plan.is_empty())
                .map(|claim| KeyRecord::new(claim.print, id, age, plan.queued()));
            let routes = std::mem::take(&mut plan.routes);
            if !routes.is_empty() {
                frame.push(Batched { event: Arc::new(event), routes, key: key.map(Box::new) });
            }
            stored.push(Stored { id, age, body, plan, key, choice });
        }
        if !frame.is_empty() {
            let count = frame.len();
            self.shared.intake.append_batch(frame, group.durability()).await?;
            tracing::debug!(source = group.source, events = count, "Accepted a batch");
        }
        for one in &mut stored {
            one.choice.settle(one.id, one.age);
            group.count(one.id, &one.plan.dead, &one.choice);
            self.shared.counts.body_bytes.increment(one.body);
        }
        Ok(stored)
    }
}

/// A new event that is stored, unless every connection ignored it.
struct Stored {
    id: EventId,
    age: Age,
    body: u64,
    plan: Plan,
    key: Option<KeyRecord>,
    choice: Choice,
}

/// Answers those that wait for a key, and makes the answer's text.
fn settle_all(group: &Group, places: &mut [Place<'_>], stored: Vec<Stored>) -> String {
    let mut answer = BatchAnswer::default();
    let mut stored = stored.into_iter();
    for place in places {
        match place {
            Place::Known(id) => answer.repeated(Some(*id)),
            Place::Same(first) => answer.repeated(answer.id(*first)),
            Place::New(claim) => {
                let Some(one) = stored.next() else {
                    continue;
                };
                answer.stored(group, &one.plan, one.id);
                if let Some(claim) = claim.take() {
                    claim.settle(one.key, Ok(Accepted::new(group, &one.plan, one.id)));
                }
            }
        }
    }
    answer.json(group)
}

/// The key of an item as it is stored; empty where it has none. No other key begins with a space.
fn item_key(post: &Post<'_>, group: &Group, index: usize, item: &Item<'_>) -> String {
    if !post.asked.key.is_empty() {
        return format!(" {} {index}", group.scoped(post.asked.key));
    }
    let own = item.cloud.as_ref().map_or("", |cloud| &cloud.key);
    group.scoped(own).into_owned()
}

fn conflict(index: usize) -> Refused {
    of_item(index, Refusal::IdempotencyConflict.into())
}

/// A refusal that is about one item.
fn of_item(index: usize, refused: Refused) -> Refused {
    let said = refused.clone().problem().detail;
    Refused { why: refused.why, retry_after: refused.retry_after, ..batch::bad(index, said) }
}
