//! The history's thread: takes attempts off the queue, into memory and into files, and answers questions.

use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError};

use super::memory::Memory;
use super::{Attempt, AttemptLog, AttemptQuery, FromMemory, Message, Recorded};
use metrics::Counter;

/// Files that are too old are looked for this often while nothing happens.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Memory and files. Driven by [`run`], or by a test.
#[derive(Debug)]
pub(in crate::store) struct Recorder {
    memory: Memory,
    log: AttemptLog,
    /// The number of the last attempt.
    last: u64,
    lost: Counter,
    /// Attempts to be written together.
    batch: Vec<Recorded>,
}

impl Recorder {
    /// Reads the newest file for its end.
    pub(in crate::store) fn new(mut log: AttemptLog, lost: Counter) -> Recorder {
        let last = log.resume();
        log.remove_old();
        Recorder { memory: Memory::default(), log, last, lost, batch: Vec::new() }
    }

    /// Does what a message says. Whether to go on.
    pub(super) fn obey(&mut self, message: Message) -> bool {
        match message {
            Message::Attempt(attempt) => self.take(attempt),
            Message::List(query, reply) => {
                self.write();
                // An asker that went away does not want its answer.
                let _ = reply.send(self.find(&query));
            }
            Message::SetLimit(limit) => self.log.set_limit(limit),
            Message::Stop => return false,
        }
        true
    }

    pub(super) fn take(&mut self, attempt: Attempt) {
        self.last += 1;
        let recorded = Recorded { number: self.last, attempt };
        self.batch.push(recorded.clone());
        self.memory.push(recorded);
    }

    /// Writes what was taken.
    pub(super) fn write(&mut self) {
        let lost = self.log.write(&self.batch);
        self.lost.increment(lost);
        self.batch.clear();
    }

    pub(super) fn find(&self, query: &AttemptQuery) -> FromMemory {
        FromMemory {
            found: self.memory.find(query),
            complete_from: self.memory.complete_from().unwrap_or(self.last + 1),
            files: self.log.readable(),
        }
    }

    pub(super) fn remove_old(&mut self) {
        self.log.remove_old();
    }

    pub(super) fn stop(&mut self) {
        self.write();
        self.log.sync();
    }

    #[cfg(test)]
    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    #[cfg(test)]
    pub(super) fn log_bytes(&self) -> u64 {
        self.log.bytes()
    }
}

/// Runs until it is told to stop, or nobody is left to tell.
pub(in crate::store) fn run(log: AttemptLog, lost: Counter, messages: &Receiver<Message>) {
    let mut recorder = Recorder::new(log, lost);
    loop {
        let mut next = match messages.recv_timeout(LOOK_EVERY) {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        let mut go_on = true;
        while let Some(message) = next {
            go_on = recorder.obey(message) && go_on;
            next = if recorder.batch.len() < super::QUEUE_ATTEMPTS && go_on {
                messages.try_recv().ok()
            } else {
                None
            };
        }
        recorder.write();
        if !go_on {
            break;
        }
        recorder.remove_old();
    }
    recorder.stop();
}
