//! A clock that follows the runtime's paused time, for the simulation: one machine that boots now and then.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::{Clock, Source, millis};

/// The machine's clocks. All milliseconds; the offsets are added to the time since `origin`, wrapping.
#[derive(Debug)]
pub(crate) struct Time {
    origin: Instant,
    /// When the machine booted, since `origin`.
    booted_ms: AtomicU64,
    boots: AtomicU64,
    wall_offset_ms: AtomicU64,
}

impl Clock {
    /// A clock that shows `wall_ms` now and runs as the runtime's time does. Needs a runtime.
    pub(crate) fn paused(wall_ms: u64) -> Clock {
        let time = Time {
            origin: Instant::now(),
            booted_ms: AtomicU64::new(0),
            boots: AtomicU64::new(1),
            wall_offset_ms: AtomicU64::new(wall_ms),
        };
        Clock { age_base_ms: Arc::default(), source: Source::Paused(Arc::new(time)) }
    }

    /// The machine starts anew: another boot, whose clock begins at zero. The wall clock goes on.
    pub(crate) fn boot_again(&self) {
        if let Source::Paused(time) = &self.source {
            time.boots.fetch_add(1, Ordering::Relaxed);
            time.booted_ms.store(time.elapsed_ms(), Ordering::Relaxed);
        }
    }

    /// Sets the wall clock of a paused clock.
    pub(crate) fn set_wall(&self, to_ms: u64) {
        if let Source::Paused(time) = &self.source {
            let offset = to_ms.wrapping_sub(time.elapsed_ms());
            time.wall_offset_ms.store(offset, Ordering::Relaxed);
        }
    }
}

impl Time {
    fn elapsed_ms(&self) -> u64 {
        millis(self.origin.elapsed())
    }

    /// Time since the last boot. A machine is a second old before anything of ours runs.
    pub(super) fn boot(&self) -> Duration {
        let booted = Duration::from_millis(self.booted_ms.load(Ordering::Relaxed));
        self.origin.elapsed().saturating_sub(booted) + Duration::from_secs(1)
    }

    pub(super) fn boots(&self) -> u64 {
        self.boots.load(Ordering::Relaxed)
    }

    pub(super) fn wall_ms(&self) -> u64 {
        self.wall_offset_ms.load(Ordering::Relaxed).wrapping_add(self.elapsed_ms())
    }
}
