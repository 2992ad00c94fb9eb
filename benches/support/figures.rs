//! Clocks, and figures from samples.

use std::io::Write;
use std::path::Path;

use rustix::time::{ClockId, clock_gettime};

/// Monotonic nanoseconds.
pub(crate) fn now_ns() -> u64 {
    nanoseconds(ClockId::Monotonic)
}

pub(crate) fn nanoseconds(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// What the disk takes: p50 and p99 of so many small writes with fdatasync.
pub(crate) fn fdatasync_ms(place: &Path, writes: usize) -> anyhow::Result<(f64, f64)> {
    let mut file = tempfile::tempfile_in(place)?;
    let mut took = Vec::new();
    for _ in 0..writes {
        file.write_all(&[7; 4096])?;
        let begun = now_ns();
        file.sync_data()?;
        took.push(now_ns() - begun);
    }
    took.sort_unstable();
    let ms = |share| quantile(&took, share) as f64 / 1e6;
    Ok((ms(0.5), ms(0.99)))
}

/// The value that `share` of the sorted values do not exceed.
pub(crate) fn quantile(sorted: &[u64], share: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index below the length"
    )]
    let index = (sorted.len() as f64 * share) as usize;
    let last = sorted.len().saturating_sub(1);
    sorted.get(index.min(last)).copied().unwrap_or(0)
}
