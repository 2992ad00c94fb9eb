//! Deliberate defects, switched on in tests only: each must be found by the tests (see `tests/defects.rs`). A test that
//! cannot fail proves nothing.
//!
//! In the store's code they are asked for with the macro `defect!`, which is `false` outside of tests.

use std::cell::Cell;

/// One deliberate bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// The disk's fdatasync does nothing.
    NoDataSync,
    /// The directory's fsync does nothing.
    NoDirectorySync,
    /// A failed fdatasync is repeated, and its success believed.
    FsyncRepeated,
    /// 202 without a sync.
    AcknowledgeBeforeSync,
    /// 202 although the sync failed.
    SyncErrorIgnored,
    /// Segments are given back before the marks are durable.
    UnlinkBeforeMarks,
    /// Old logs are removed before the snapshot that replaces them is written.
    LogsRemovedFirst,
    /// A snapshot is renamed before it is synced.
    SnapshotNotSynced,
    /// After a snapshot that may be there or not, the old log is written to.
    LogKeptAfterSnapshot,
    /// A log whose write failed is written to as if nothing had happened.
    BrokenLogKept,
    /// A snapshot says that retries that are handed out are over.
    HandedOutIsDone,
    /// The file's nonce does not seed its checksums.
    ChecksumNotSeeded,
    /// Bodies are not covered by the checksum.
    BodyNotChecked,
    /// Slots are counted at recovery, not read.
    SlotsCounted,
    /// Store time follows the wall clock over a restart.
    AgeByWallClock,
    /// A replay is answered before it is durable.
    ReplayNotSynced,
    /// A connection is renamed in memory alone.
    RenameNotMarked,
    /// A suspension is answered before it is durable.
    SuspensionNotSynced,
    /// A sync that fails is believed when somebody was answered before it.
    RelaxedBelieved,
    /// A start hands out at once what came with a delay.
    DelayForgotten,
    /// A discard leaves no mark.
    DiscardNotMarked,
    /// A run of scheduled or dead deliveries is not synced before a snapshot relies on it.
    RunNotSynced,
    /// A run that is used up is removed before a snapshot without it is durable.
    RunRemovedFirst,
    /// What a start finds at the end of a segment is believed to be on the disk.
    TailNotSynced,
    /// What a crash left of a batch is taken for events that were accepted.
    TornFrameKept,
    /// Retries are handed out a minute before they are due.
    RetryBeforeDue,
    /// A 500 settles a delivery as delivered (in delivery).
    FailureIsDelivered,
    /// What waits for a retry is not shown when an order begins.
    RetriesNotShown,
    /// A failed delivery frees its line (in delivery).
    LineFreedByFailure,
}

thread_local! {
    static ON: Cell<Option<Defect>> = const { Cell::new(None) };
}

/// Whether this defect is switched on in this thread.
pub fn on(defect: Defect) -> bool {
    ON.get() == Some(defect)
}

/// Runs `test` with a defect.
pub fn with<T>(defect: Defect, test: impl FnOnce() -> T) -> T {
    ON.set(Some(defect));
    let result = test();
    ON.set(None);
    result
}
