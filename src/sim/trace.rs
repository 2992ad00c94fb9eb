//! What happened, in order: one number to compare two runs by, and text to read one run by.

use std::cell::RefCell;
use std::fmt;
use std::hash::{DefaultHasher, Hasher};

use tokio::time::Instant;

/// Prints every line of the trace when it is set.
const SHOW: &str = "POSTHASTE_SIM_TRACE";

/// A trace from now on.
pub(super) struct Trace {
    begin: Instant,
    /// Keys of its own, always the same ones.
    digest: RefCell<DefaultHasher>,
    shown: bool,
}

impl Trace {
    pub(super) fn new() -> Trace {
        let shown = std::env::var_os(SHOW).is_some();
        Trace { begin: Instant::now(), digest: RefCell::default(), shown }
    }

    /// Milliseconds since the run began.
    pub(super) fn now_ms(&self) -> u64 {
        crate::clock::millis(self.begin.elapsed())
    }

    pub(super) fn note(&self, what: fmt::Arguments<'_>) {
        let line = format!("{:>9} {what}", self.now_ms());
        if self.shown {
            println!("{line}");
        }
        self.digest.borrow_mut().write(line.as_bytes());
    }

    pub(super) fn digest(&self) -> u64 {
        self.digest.borrow().finish()
    }
}
