//! Wakes the store's thread, and only when it sleeps.
//!
//! While the writer gathers a batch it wants to sleep through single arrivals and wake for a full batch: so it says what
//! it sleeps for, and a ringer that has less than that does nothing. A ring that comes while the writer is awake is
//! remembered by the parker, so nothing is missed.

use std::sync::atomic::{AtomicU8, Ordering, fence};
use std::time::Duration;

use crossbeam::sync::{Parker, Unparker};

const AWAKE: u8 = 0;
const ASLEEP: u8 = 1;
const GATHERING: u8 = 2;

/// The ringer's side; shared by all who may wake the writer.
#[derive(Debug)]
pub struct Doorbell {
    state: AtomicU8,
    unparker: Unparker,
    /// Wakes a sleeper that is a task, in the simulation.
    #[cfg(test)]
    rung: tokio::sync::Notify,
}

/// What the sleeper wants to be woken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SleepFor {
    /// Anything.
    Anything,
    /// A full batch or something urgent; single appends are left to gather.
    FullBatch,
}

impl Doorbell {
    /// A bell and the parker that its sleeper waits on.
    pub fn new() -> (std::sync::Arc<Doorbell>, Parker) {
        let parker = Parker::new();
        let unparker = parker.unparker().clone();
        let bell = Doorbell {
            state: AtomicU8::new(AWAKE),
            unparker,
            #[cfg(test)]
            rung: tokio::sync::Notify::new(),
        };
        (std::sync::Arc::new(bell), parker)
    }

    /// Something has arrived.
    pub fn ring(&self) {
        // What was put into a queue before must be visible to a sleeper that arms the bell after this look at it.
        fence(Ordering::SeqCst);
        if self.state.load(Ordering::SeqCst) != AWAKE
            && self.state.swap(AWAKE, Ordering::SeqCst) != AWAKE
        {
            self.unparker.unpark();
            #[cfg(test)]
            self.rung.notify_one();
        }
    }

    /// An append has arrived; `full` says that it fills a batch.
    pub fn ring_append(&self, full: bool) {
        fence(Ordering::SeqCst);
        let state = self.state.load(Ordering::SeqCst);
        if state == ASLEEP || (full && state == GATHERING) {
            self.ring();
        }
    }

    /// Sleeps until rung, or for `timeout`. `nothing_waits` is asked after the bell is armed: what arrived before is
    /// seen by it, what arrives later rings.
    pub fn sleep(
        &self,
        parker: &Parker,
        what: SleepFor,
        timeout: Option<Duration>,
        nothing_waits: impl FnOnce() -> bool,
    ) {
        let state = if what == SleepFor::Anything { ASLEEP } else { GATHERING };
        self.state.store(state, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if nothing_waits() {
            match timeout {
                Some(timeout) => parker.park_timeout(timeout),
                None => parker.park(),
            }
        }
        self.state.store(AWAKE, Ordering::SeqCst);
    }

    /// As [`Doorbell::sleep`], for a task.
    #[cfg(test)]
    pub async fn sleep_as_task(
        &self,
        what: SleepFor,
        timeout: Option<Duration>,
        nothing_waits: impl FnOnce() -> bool,
    ) {
        let state = if what == SleepFor::Anything { ASLEEP } else { GATHERING };
        self.state.store(state, Ordering::SeqCst);
        if nothing_waits() {
            let timeout = timeout.unwrap_or(Duration::from_secs(365 * 24 * 3600));
            let _ = tokio::time::timeout(timeout, self.rung.notified()).await;
        }
        self.state.store(AWAKE, Ordering::SeqCst);
    }
}
