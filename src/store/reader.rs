//! The reader thread: loads payloads that are no longer in memory, so that neither the writer nor the egress waits for a
//! read from the disk.
//!
//! **Invariant:** one request per connection at a time (the egress sees to that), and one per command of an operator, who waits for
//! the answer: so the queue is bounded by the number of connections and those that the admin API lets through, although
//! the channel is not: a bounded one takes the memory of its bound at once. Served in order of arrival: connections take turns.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use crossbeam::channel::{Receiver, Sender};
use tokio::sync::oneshot;

use super::feed::{Delivery, FeedItem, FeedPort};
use super::file::StoreFile;
use super::lookup::FoundRecord;
use super::record::{RecordedRoute, decode_event};
use super::segment_index::Entry;
use super::{DeliveryId, Shared};
use crate::event::{Event, EventId};

/// The segments' files, by number. Shared by writer and reader.
#[derive(Clone, Debug, Default)]
pub(super) struct Files(Arc<RwLock<HashMap<u32, StoreFile>>>);

impl Files {
    pub(super) fn insert(&self, number: u32, file: StoreFile) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(number, file);
    }

    pub(super) fn remove(&self, number: u32) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&number);
    }

    pub(super) fn get(&self, number: u32) -> Option<StoreFile> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
    }

    /// Reads one delivery's event, and checks that the record there is really this delivery's.
    pub(super) fn load(&self, id: DeliveryId, size: u32) -> Result<Event, LoadError> {
        self.load_routed(id, size).map(|(event, _)| event)
    }

    fn load_routed(&self, id: DeliveryId, size: u32) -> Result<(Event, RecordedRoute), LoadError> {
        let file = self.get(id.segment).ok_or(LoadError::Missing)?;
        let bytes = file.read_record(u64::from(id.offset) * 8, size).map_err(LoadError::Io)?;
        let (event, routes) =
            decode_event(Bytes::from(bytes), file.seed()).ok_or(LoadError::Damaged)?;
        let is_it =
            |route: &RecordedRoute| route.connection == id.connection && route.slot == id.slot;
        let route = routes.into_iter().find(is_it).ok_or(LoadError::Damaged)?;
        Ok((event, route))
    }
}

/// Why an event could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Its segment is gone.
    #[error("its segment is not there")]
    Missing,
    /// Its record does not validate, or is another delivery's.
    #[error("its record is damaged")]
    Damaged,
    /// The disk said no.
    #[error("it cannot be read: {0}")]
    Io(std::io::Error),
}

/// What the reader is asked for.
#[derive(Debug)]
pub(super) enum ReadRequest {
    /// For the egress: each comes back through the feed.
    Load(FeedPort, Vec<Delivery>),
    /// For an operator.
    Show(DeliveryId, u32, oneshot::Sender<Result<Event, LoadError>>),
    /// For an operator: which of these records of a segment is this event's.
    Find {
        segment: u32,
        entries: Vec<Entry>,
        id: EventId,
        reply: oneshot::Sender<Option<FoundRecord>>,
    },
    /// For the daemon at its start: the events of these records of a segment, those that can be read.
    Events { segment: u32, entries: Vec<Entry>, reply: oneshot::Sender<Vec<Event>> },
}

/// The asker's end.
pub(super) type ReadQueue = Sender<ReadRequest>;

/// Serves requests until all askers are gone.
pub(super) fn run(requests: &Receiver<ReadRequest>, files: &Files, shared: &Shared) {
    while let Ok(request) = requests.recv() {
        serve(request, files, shared);
    }
}

/// One request: a step that the simulation takes as well as the thread.
pub(super) fn serve(request: ReadRequest, files: &Files, shared: &Shared) {
    match request {
        ReadRequest::Load(port, deliveries) => {
            let loaded = deliveries.into_iter().map(|mut delivery| {
                let event = load(files, shared, &mut delivery);
                FeedItem::Loaded(delivery, event)
            });
            port.send(&mut loaded.collect());
        }
        ReadRequest::Find { segment, entries, id, reply } => {
            let _ = reply.send(files.find(segment, &entries, id));
        }
        ReadRequest::Events { segment, entries, reply } => {
            let _ = reply.send(files.events(segment, &entries));
        }
        ReadRequest::Show(id, size, reply) => {
            let _ = reply.send(files.load(id, size));
        }
    }
}

fn load(files: &Files, shared: &Shared, delivery: &mut Delivery) -> Option<Arc<Event>> {
    match files.load_routed(delivery.id, delivery.size) {
        Ok((event, route)) => {
            delivery.delayed |= route.delay_ms > 0;
            Some(Arc::new(event))
        }
        Err(error) => {
            shared.metrics.corrupt_records.increment(1);
            tracing::error!(%error, segment = delivery.id.segment, offset = u64::from(delivery.id.offset) * 8,
                "Could not read an event that was accepted; its delivery becomes a dead letter.");
            None
        }
    }
}
