//! What the fuzz targets run: one function per parser, over arbitrary bytes. There for tests and fuzzers alone.
//!
//! The targets in `tests/fuzz` are a line each: they call these functions under `cargo fuzz`, with a limit on memory.
//! The test below runs the same functions over the seeds in `tests/fuzz/corpus`, so that each test run covers them
//! without a fuzzer. A body panics when what it calls breaks a promise: no panic of its own, no loop without end, and
//! what is read and written again reads the same.

mod payload;
mod text;

pub use crate::ingress::fuzzing::{batch, request};
pub use crate::store::fuzzing::{record, recovery};
pub use payload::{filter, template};
pub use text::{config, retry_after, statuses, units, url};

#[cfg(test)]
mod tests;
