//! A store without threads: the simulation turns its writer and its reader itself.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

pub(crate) use super::tests::model_disk;

use super::disk::Disk;
use super::doorbell::Doorbell;
use super::reader::{self, Files, ReadRequest};
use super::writer::Writer;
use super::{Ends, OpenError, Opened, Options, Shared, Store};
use crate::clock::Clock;
use crate::metrics::Metrics;

/// What would be the store's threads.
#[derive(Clone)]
pub(crate) struct Engine {
    writer: Rc<RefCell<Writer>>,
    doorbell: Arc<Doorbell>,
    requests: crossbeam::channel::Receiver<ReadRequest>,
    files: Files,
    shared: Arc<Shared>,
}

/// Opens a store whose threads are the caller's to turn.
pub(crate) fn open(
    disk: Arc<dyn Disk>,
    options: Options,
    clock: Clock,
    metrics: &Metrics,
) -> Result<(Opened, Engine), OpenError> {
    let ends = Ends::new(disk, options, clock, metrics)?;
    let engine = Engine {
        files: ends.writer.files.clone(),
        writer: Rc::new(RefCell::new(ends.writer)),
        doorbell: Arc::clone(&ends.doorbell),
        requests: ends.requests,
        shared: Arc::clone(&ends.shared),
    };
    let store = Store {
        commands: ends.commands,
        reads: ends.reads,
        doorbell: ends.doorbell,
        shared: ends.shared,
        history: ends.history,
        writer: None,
        reader: None,
        recorder: None,
        _lock: None,
    };
    let (intakes, feeds) = (ends.intakes, ends.feeds);
    Ok((Opened { store, intakes, feeds, keys: ends.keys, corrupt: ends.corrupt }, engine))
}

impl Engine {
    /// The writer's thread, as a task; `before_turn` may take its time, as a slow disk does.
    pub(crate) async fn run_writer<F: Future<Output = ()>>(self, before_turn: impl Fn() -> F) {
        loop {
            before_turn().await;
            let wake = self.writer.borrow_mut().turn();
            if self.writer.borrow().stopping {
                return;
            }
            let nothing_waits = || self.writer.borrow().nothing_waits(wake.what);
            self.doorbell.sleep_as_task(wake.what, wake.after, nothing_waits).await;
        }
    }

    /// One turn of the writer between two of its own.
    pub(crate) fn turn(&self) {
        let mut writer = self.writer.borrow_mut();
        if !writer.stopping {
            writer.turn();
        }
        // It may want to wake earlier now than its task knows.
        drop(writer);
        self.doorbell.ring();
    }

    /// Whether the reader has something to do.
    pub(crate) fn has_reads(&self) -> bool {
        !self.requests.is_empty()
    }

    /// Serves one request of the reader; false when there is none.
    pub(crate) fn read_one(&self) -> bool {
        let Ok(request) = self.requests.try_recv() else {
            return false;
        };
        reader::serve(request, &self.files, &self.shared);
        true
    }

    /// Whether every mark that was made is on the disk.
    pub(crate) fn marks_are_durable(&self) -> bool {
        let writer = self.writer.borrow();
        !writer.log.has_pending() && !writer.log.has_unsynced()
    }

    /// Whether events are taken.
    pub(crate) fn takes_events(&self) -> bool {
        self.writer.borrow().trouble.is_none()
    }
}
