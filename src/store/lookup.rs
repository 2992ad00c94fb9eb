//! Looking up one event by its id, and sending it on a new run after it was delivered.
//!
//! Nothing is indexed by id: an id begins with the time of acceptance, a segment knows the times of its first and last
//! event, and of those that fit the heads of the records are read, by the reader thread, a piece at a time between the
//! loads that deliveries wait for. What was given back is not found.

use std::collections::BTreeMap;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::command::{Acted, Command};
use super::dead_letter::DeadLetter;
use super::feed::Lane;
use super::reader::{Files, ReadRequest};
use super::record::{RECORD_HEADER, RecordedRoute, decode_event};
use super::segment_index::Entry;
use super::{Closed, ConnectionId, DeliveryId, DiskTrouble, Store};
use crate::clock::Age;
use crate::event::{Event, EventId};

/// Bytes of events that are read at once for who wants many.
const EVENTS_BYTES: u64 = 1 << 20;

/// Heads of records that the reader looks at before others have their turn.
const HEADS_AT_ONCE: usize = 1024;

/// An event that is still in the store.
#[derive(Clone, Debug)]
pub struct FoundEvent {
    /// The event.
    pub event: Event,
    /// Its deliveries, by connection name.
    pub deliveries: BTreeMap<String, FoundDelivery>,
}

/// One delivery of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundDelivery {
    /// Which one.
    pub id: DeliveryId,
    /// Its record's bytes.
    pub size: u32,
    /// How it stands.
    pub standing: Standing,
}

/// How a delivery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It waits or is with the egress.
    Live,
    /// It is a dead letter.
    Dead,
    /// It was delivered, or cancelled.
    Over,
}

/// Where a delivery is, for those who ask why it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// It waits in the store for its first attempt, behind what was handed out.
    Waiting,
    /// It waits for a time, or its time has come and it waits for its connection.
    Scheduled {
        /// When it is due.
        due: Age,
        /// Attempts made in this run.
        attempts: u32,
        /// Which lane it goes to.
        lane: Lane,
    },
    /// The egress has it.
    HandedOut {
        /// Attempts made in this run.
        attempts: u32,
    },
    /// It is a dead letter.
    Dead(DeadLetter),
    /// It was delivered, or cancelled.
    Over,
}

/// A delivery in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedDelivery {
    /// Which one.
    pub id: DeliveryId,
    /// Its record's bytes.
    pub size: u32,
    /// Where it is.
    pub whereabouts: Whereabouts,
}

/// A part of a list of deliveries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeliveryPage {
    /// The deliveries, the newest place first.
    pub deliveries: Vec<ListedDelivery>,
    /// Where to go on, if there is more: before this segment and slot.
    pub next: Option<(u32, u32)>,
}

/// A record that the reader found.
pub(super) type FoundRecord = (Entry, Event, Vec<RecordedRoute>);

impl Store {
    /// The event with this id, if its record is still there.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn find_event(&self, id: EventId) -> Result<Option<FoundEvent>, Closed> {
        let unix_ms = id.unix_ms();
        let mut found: Option<FoundEvent> = None;
        for (segment, entries) in self.ask(|reply| Command::EventsAt { unix_ms, reply }).await? {
            let Some((entry, event, routes)) = self.find_in(segment, entries, id).await? else {
                continue;
            };
            let ids = routes.iter().map(|route| DeliveryId {
                connection: route.connection,
                segment,
                slot: route.slot,
                offset: entry.offset,
            });
            let ids: Vec<_> = ids.collect();
            let standings =
                self.ask(|reply| Command::Standings { ids: ids.clone(), reply }).await?;
            let found =
                found.get_or_insert_with(|| FoundEvent { event, deliveries: BTreeMap::new() });
            for (id, (name, standing)) in ids.into_iter().zip(standings) {
                let delivery = FoundDelivery { id, size: entry.size, standing };
                note(&mut found.deliveries, name, delivery);
            }
        }
        Ok(found)
    }

    /// Where a delivery is now.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn whereabouts(&self, id: DeliveryId) -> Result<Whereabouts, Closed> {
        self.ask(|reply| Command::Whereabouts { id, reply }).await
    }

    /// A connection's deliveries whose places come before `before`, newest first, a bounded number of them; what is over only
    /// if `over` asks for it.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn deliveries(
        &self,
        connection: ConnectionId,
        before: Option<(u32, u32)>,
        over: bool,
    ) -> Result<DeliveryPage, Closed> {
        self.ask(|reply| Command::Deliveries { connection, before, over, reply }).await
    }

    /// Visits the events of a connection that were accepted at `since` or later and are still in the store, newest first. What
    /// is over is among them as long as its segment is there.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn events_since(
        &self,
        connection: ConnectionId,
        since: Age,
        mut visit: impl FnMut(&Event),
    ) -> Result<(), Closed> {
        for (segment, entries) in self.ask(|reply| Command::Recent { connection, reply }).await? {
            for piece in by_bytes(&entries) {
                let events = self.events(segment, piece.to_vec()).await?;
                let newer = events.iter().filter(|event| event.accepted_age >= since);
                newer.clone().for_each(&mut visit);
                // Within a segment, what comes before is older still.
                if newer.count() < events.len() {
                    break;
                }
            }
        }
        Ok(())
    }

    async fn events(&self, segment: u32, entries: Vec<Entry>) -> Result<Vec<Event>, Closed> {
        let (reply, answer) = oneshot::channel();
        let request = ReadRequest::Events { segment, entries, reply };
        self.reads.send(request).map_err(|_| Closed)?;
        answer.await.map_err(|_| Closed)
    }

    /// Sends a delivery that is over on a new run. Returns whether it could be: its record is there and it was over; and
    /// whether that is durable.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn replay_over(
        &self,
        delivery: FoundDelivery,
    ) -> Result<(bool, Result<(), DiskTrouble>), Closed> {
        self.ask(|reply| Command::ReplayOver { delivery, reply }).await
    }

    /// Cancels a delivery that waits: it becomes a dead letter of that cause. Whoever wants to reach what the egress holds has it
    /// given back before. Returns what came of it, and whether that is durable.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn cancel(
        &self,
        delivery: FoundDelivery,
    ) -> Result<(Acted, Result<(), DiskTrouble>), Closed> {
        self.ask(|reply| Command::Cancel { delivery, reply }).await
    }

    /// Ends the wait of a delivery that waits for a time. Returns what came of it, and whether that is durable.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn retry_now(
        &self,
        delivery: FoundDelivery,
    ) -> Result<(Acted, Result<(), DiskTrouble>), Closed> {
        self.ask(|reply| Command::RetryNow { delivery, reply }).await
    }

    async fn find_in(
        &self,
        segment: u32,
        entries: Vec<Entry>,
        id: EventId,
    ) -> Result<Option<FoundRecord>, Closed> {
        for piece in entries.chunks(HEADS_AT_ONCE) {
            let (reply, answer) = oneshot::channel();
            let request = ReadRequest::Find { segment, entries: piece.to_vec(), id, reply };
            self.reads.send(request).map_err(|_| Closed)?;
            if let Some(found) = answer.await.map_err(|_| Closed)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

/// Pieces that take a bounded amount of memory, or one record.
fn by_bytes(entries: &[Entry]) -> Vec<&[Entry]> {
    let mut pieces = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (at, entry) in entries.iter().enumerate() {
        bytes += u64::from(entry.size);
        if bytes > EVENTS_BYTES && at > start {
            pieces.push(entries.get(start..at).unwrap_or_default());
            (start, bytes) = (at, u64::from(entry.size));
        }
    }
    pieces.push(entries.get(start..).unwrap_or_default());
    pieces
}

/// What was moved to another segment is over in the old one: what is not over is what counts.
fn note(deliveries: &mut BTreeMap<String, FoundDelivery>, name: String, delivery: FoundDelivery) {
    let known = deliveries.get(&name).map(|known| known.standing);
    if known.is_none_or(|known| known == Standing::Over) {
        deliveries.insert(name, delivery);
    }
}

impl Files {
    /// The events of these records, those that can be read, in the same order.
    pub(super) fn events(&self, segment: u32, entries: &[Entry]) -> Vec<Event> {
        let Some(file) = self.get(segment) else {
            return Vec::new();
        };
        let events = entries.iter().filter_map(|entry| {
            let record = file.read_record(u64::from(entry.offset) * 8, entry.size).ok()?;
            decode_event(Bytes::from(record), file.seed()).map(|(event, _)| event)
        });
        events.collect()
    }

    /// The event with this id among records of a segment. A record that does not validate is not it.
    pub(super) fn find(&self, segment: u32, entries: &[Entry], id: EventId) -> Option<FoundRecord> {
        let file = self.get(segment)?;
        let wanted = id.0.as_bytes();
        for entry in entries {
            let mut head = [0; RECORD_HEADER + 16];
            let read = file.file.read_exact_at(&mut head, u64::from(entry.offset) * 8);
            if read.is_err() || head.get(RECORD_HEADER..) != Some(wanted.as_slice()) {
                continue;
            }
            let record = file.read_record(u64::from(entry.offset) * 8, entry.size).ok()?;
            let decoded = decode_event(Bytes::from(record), file.seed());
            if let Some((event, routes)) = decoded.filter(|(event, _)| event.id == id) {
                return Some((*entry, event, routes));
            }
        }
        None
    }
}
