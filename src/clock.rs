//! Time, as an argument.
//!
//! Three clocks, each for one purpose:
//!
//! * **Monotonic** time ([`Clock::monotonic`]) measures intervals within this process.
//! * **Age** ([`Clock::age`]) is the store's own time: milliseconds that never step, carried over restarts
//!   (spec 11, "Age over restarts"). Due times, acceptance and expiry are ages.
//! * **Wall** time ([`Clock::wall_ms`]) is for people and for signature headers, never for a decision.
//!
//! Production uses [`Clock::system`]; tests use [`Clock::manual`] and move it by hand; the simulation uses
//! `Clock::paused`, which follows the runtime's own paused time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A point in the store's own time, in milliseconds. It only grows, also over restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Age(pub u64);

impl Age {
    /// The age `duration` later. Saturates.
    pub fn after(self, duration: Duration) -> Age {
        Age(self.0.saturating_add(millis(duration)))
    }

    /// How long ago `earlier` was; zero when it lies ahead.
    pub fn since(self, earlier: Age) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Whole milliseconds of a duration. Saturates.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Where the time comes from. Cheap to clone; all clones share one base.
#[derive(Clone, Debug)]
pub struct Clock {
    /// Age at the moment when the boot clock showed zero, in milliseconds (wrapping arithmetic). Set once, when the store opens.
    age_base_ms: Arc<AtomicU64>,
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    System,
    Manual(Arc<ManualTime>),
    #[cfg(test)]
    Paused(Arc<paused::Time>),
}

#[derive(Debug)]
struct ManualTime {
    boot_ms: AtomicU64,
    /// How much of it the machine was suspended.
    suspended_ms: AtomicU64,
    wall_ms: AtomicU64,
    boot_id: AtomicU64,
}

impl Clock {
    /// The machine's clocks.
    pub fn system() -> Clock {
        Clock { age_base_ms: Arc::default(), source: Source::System }
    }

    /// A clock that stands still until [`Clock::advance`] or [`Clock::step_wall`] moves it.
    pub fn manual(wall_ms: u64) -> Clock {
        let time = ManualTime {
            boot_ms: AtomicU64::new(1_000_000),
            suspended_ms: AtomicU64::new(0),
            wall_ms: AtomicU64::new(wall_ms),
            boot_id: AtomicU64::new(1),
        };
        Clock { age_base_ms: Arc::default(), source: Source::Manual(Arc::new(time)) }
    }

    /// Moves a manual clock forward: boot time and wall time together.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(time) = &self.source {
            time.boot_ms.fetch_add(millis(by), Ordering::Relaxed);
            time.wall_ms.fetch_add(millis(by), Ordering::Relaxed);
        }
    }

    /// Sets the wall clock of a manual clock, as an operator or NTP would; other clocks do not notice.
    pub fn step_wall(&self, to_ms: u64) {
        if let Source::Manual(time) = &self.source {
            time.wall_ms.store(to_ms, Ordering::Relaxed);
        }
    }

    /// Suspends the machine of a manual clock: monotonic time stands still, the others go on.
    pub fn suspend(&self, by: Duration) {
        self.advance(by);
        if let Source::Manual(time) = &self.source {
            time.suspended_ms.fetch_add(millis(by), Ordering::Relaxed);
        }
    }

    /// Boots the machine of a manual clock again, with this on the wall clock. No process outlives that.
    pub fn reboot(&self, wall_ms: u64) {
        if let Source::Manual(time) = &self.source {
            time.boot_ms.store(10_000, Ordering::Relaxed);
            time.suspended_ms.store(0, Ordering::Relaxed);
            time.wall_ms.store(wall_ms, Ordering::Relaxed);
            time.boot_id.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Which boot of the machine this is, as a number; 0 where the kernel does not say.
    pub fn boot_id(&self) -> u64 {
        match &self.source {
            Source::System => {
                let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
                let id = uuid::Uuid::try_parse(text.unwrap_or_default().trim());
                id.map_or(0, |id| id.as_u64_pair().0)
            }
            Source::Manual(time) => time.boot_id.load(Ordering::Relaxed),
            #[cfg(test)]
            Source::Paused(time) => time.boots(),
        }
    }

    /// Time since some fixed point, for intervals. Does not run while the machine is suspended.
    pub fn monotonic(&self) -> Duration {
        match &self.source {
            Source::System => timespec(clock_gettime(ClockId::Monotonic)),
            Source::Manual(time) => {
                let suspended = time.suspended_ms.load(Ordering::Relaxed);
                let awake = time.boot_ms.load(Ordering::Relaxed).saturating_sub(suspended);
                Duration::from_millis(awake)
            }
            #[cfg(test)]
            Source::Paused(time) => time.boot(),
        }
    }

    /// Time since boot, suspend included.
    pub fn boot(&self) -> Duration {
        match &self.source {
            Source::System => timespec(clock_gettime(ClockId::Boottime)),
            Source::Manual(time) => Duration::from_millis(time.boot_ms.load(Ordering::Relaxed)),
            #[cfg(test)]
            Source::Paused(time) => time.boot(),
        }
    }

    /// Milliseconds since 1970, as the wall clock has it. It may step at any time.
    pub fn wall_ms(&self) -> u64 {
        match &self.source {
            Source::System => millis(timespec(clock_gettime(ClockId::Realtime))),
            Source::Manual(time) => time.wall_ms.load(Ordering::Relaxed),
            #[cfg(test)]
            Source::Paused(time) => time.wall_ms(),
        }
    }

    /// The store's own time.
    pub fn age(&self) -> Age {
        Age(self.age_base_ms.load(Ordering::Relaxed).wrapping_add(millis(self.boot())))
    }

    /// Makes [`Clock::age`] go on from `age`, now. The store calls it once, when it opens.
    pub fn set_age(&self, age: Age) {
        self.age_base_ms.store(age.0.wrapping_sub(millis(self.boot())), Ordering::Relaxed);
    }
}

#[cfg(test)]
pub(crate) mod paused;

fn timespec(time: rustix::time::Timespec) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_follows_boot_time_and_not_the_wall() {
        let clock = Clock::manual(1_700_000_000_000);
        clock.set_age(Age(5_000));
        clock.step_wall(0);
        assert_eq!(clock.age(), Age(5_000));
        clock.advance(Duration::from_secs(2));
        assert_eq!(clock.age(), Age(7_000));
        assert_eq!(clock.wall_ms(), 2_000);
    }

    #[test]
    fn system_age_can_start_anywhere() {
        let clock = Clock::system();
        clock.set_age(Age(42));
        assert!(clock.age() >= Age(42) && clock.age() < Age(60_000));
    }

    #[test]
    fn suspend_and_reboot_are_told_apart() {
        let clock = Clock::manual(1_000_000);
        let (monotonic, boot, id) = (clock.monotonic(), clock.boot(), clock.boot_id());
        clock.suspend(Duration::from_secs(60));
        assert_eq!(clock.monotonic(), monotonic);
        assert_eq!(clock.boot(), boot + Duration::from_secs(60));
        assert_eq!((clock.wall_ms(), clock.boot_id()), (1_060_000, id));
        clock.reboot(0);
        assert!(clock.boot() < boot && clock.boot_id() != id);
        assert_eq!(Clock::system().boot_id(), Clock::system().boot_id());
    }
}
