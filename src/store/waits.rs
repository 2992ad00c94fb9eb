//! How long a connection's deliveries have waited, by what they waited for.
//!
//! A delivery waits in one of two places: in the store (for a time, behind the window, while its connection is held) or in
//! its egress runtime (for the gates). Each place has a [`Meter`]: how many wait there, for what, and since when that is
//! so. When a number or a cause changes, the time since the last change is charged, once for each that waited: `number x
//! time`. Numbers are constant between two changes, so the sum of all charges is the time that the deliveries have waited,
//! to the millisecond; nothing is done for a single event, and nobody asks a clock for it: the store charges at the end of
//! a turn of its writer, with the turn's time, the egress with the time at which it looked at its gates.
//!
//! What waits in the store because its window is full waits for the gate that keeps the window full; the egress leaves the
//! name of that gate in [`Waits::gate`]. So the sum is exact always, and the share of each cause of what the store holds
//! is as exact as the writer's turns are close: there is one within 20 ms of the end of an attempt, and at least one each
//! time that the daemon looks after itself (5 s).
//!
//! Attempts under way, the way from one thread to the other, and a post that waits for the disk are no waits.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use crate::event::Wait;

/// Nanoseconds in the unit that is charged.
const NANOS: u64 = 1_000_000;

/// What a connection's deliveries have waited together. Shared by the store, the egress and the metrics.
#[derive(Debug)]
pub struct Waits {
    ms: [AtomicU64; Wait::ALL.len()],
    /// What the egress waits for.
    gate: AtomicU8,
    /// Why the store holds it, as soon as it does.
    held: AtomicU8,
}

impl Default for Waits {
    fn default() -> Waits {
        Waits {
            ms: [const { AtomicU64::new(0) }; Wait::ALL.len()],
            gate: AtomicU8::new(Wait::Turn as u8),
            held: AtomicU8::new(Wait::Orphaned as u8),
        }
    }
}

impl Waits {
    /// Milliseconds waited for this, those of all deliveries together.
    pub fn ms(&self, wait: Wait) -> u64 {
        self.ms.get(wait as usize).map_or(0, |ms| ms.load(Ordering::Relaxed))
    }

    /// What the deliveries wait for that were handed out, and so those behind them.
    pub fn gate(&self) -> Wait {
        wait_of(&self.gate)
    }

    /// Only its egress runtime says that.
    pub fn set_gate(&self, wait: Wait) {
        self.gate.store(wait as u8, Ordering::Relaxed);
    }

    /// Why nothing of it is handed out, from the time when the store is told to hold it.
    pub fn set_held(&self, wait: Wait) {
        self.held.store(wait as u8, Ordering::Relaxed);
    }

    pub(super) fn held(&self) -> Wait {
        wait_of(&self.held)
    }

    fn charge(&self, wait: Wait, ms: u64) {
        if let Some(sum) = self.ms.get(wait as usize) {
            sum.fetch_add(ms, Ordering::Relaxed);
        }
    }
}

fn wait_of(number: &AtomicU8) -> Wait {
    let number = usize::from(number.load(Ordering::Relaxed));
    Wait::ALL.get(number).copied().unwrap_or(Wait::Turn)
}

/// What waits in one place, and is to be charged.
#[derive(Debug, Default)]
pub struct Meter {
    /// How many wait for what, since the last change. A cause may stand twice.
    waiting: [(u64, Option<Wait>); 3],
    /// What was waited and is no whole millisecond yet, in nanoseconds.
    rest: [u64; Wait::ALL.len()],
}

impl Meter {
    /// Charges `elapsed`, the time since the last call, for those that waited during it; from now on these wait.
    pub fn turn(&mut self, elapsed: Duration, waiting: [(u64, Wait); 3], waits: &Waits) {
        self.charge(elapsed, waits);
        self.waiting = waiting.map(|(number, wait)| (number, Some(wait)));
    }

    /// Charges `elapsed`, the time since the last call; the same go on waiting.
    pub fn charge(&mut self, elapsed: Duration, waits: &Waits) {
        if elapsed.is_zero() {
            return;
        }
        let nanos = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        for (number, wait) in self.waiting {
            let Some(wait) = wait.filter(|_| number > 0) else {
                continue;
            };
            let Some(rest) = self.rest.get_mut(wait as usize) else {
                continue;
            };
            // A product that does not fit is charged in whole milliseconds at once.
            let Some(sum) = number.checked_mul(nanos).and_then(|sum| sum.checked_add(*rest)) else {
                waits.charge(wait, number.saturating_mul(nanos / NANOS));
                continue;
            };
            *rest = sum % NANOS;
            if sum >= NANOS {
                waits.charge(wait, sum / NANOS);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: [(u64, Wait); 3] = [(0, Wait::Turn); 3];

    fn one(number: u64, wait: Wait) -> [(u64, Wait); 3] {
        [(number, wait), (0, Wait::Turn), (0, Wait::Turn)]
    }

    /// Deliveries that come and go at odd times, each of which adds up its own waits: the meter says the same.
    #[test]
    fn the_sum_is_what_the_deliveries_waited() {
        let mut rng = fastrand::Rng::with_seed(7);
        let (waits, mut meter) = (Waits::default(), Meter::default());
        let (mut number, mut wait) = (0_u64, Wait::Turn);
        let mut own = [0; Wait::ALL.len()];
        for _ in 0..10_000 {
            let elapsed = Duration::from_nanos(rng.u64(0..3_000_000));
            own[wait as usize] += u128::from(number) * elapsed.as_nanos();
            number = rng.u64(0..400);
            wait = Wait::ALL[rng.usize(0..Wait::ALL.len())];
            meter.turn(elapsed, one(number, wait), &waits);
        }
        for wait in Wait::ALL {
            let expected = own[wait as usize] / u128::from(NANOS);
            assert!(expected > 0);
            assert_eq!(u128::from(waits.ms(wait)), expected, "{wait}");
        }
    }

    #[test]
    fn pieces_of_a_millisecond_are_not_lost_and_nothing_overflows() {
        let (waits, mut meter) = (Waits::default(), Meter::default());
        meter.turn(Duration::ZERO, one(1, Wait::Pool), &waits);
        for _ in 0..1000 {
            meter.charge(Duration::from_micros(1), &waits);
        }
        assert_eq!(waits.ms(Wait::Pool), 1);
        meter.turn(Duration::ZERO, one(1_000_000, Wait::Breaker), &waits);
        let week = Duration::from_secs(7 * 86_400);
        meter.turn(week, IDLE, &waits);
        assert_eq!(waits.ms(Wait::Breaker), 7 * 86_400 * 1000 * 1_000_000);
        meter.turn(week, IDLE, &waits);
        assert_eq!(waits.ms(Wait::Turn), 0, "nobody waited");
    }

    #[test]
    fn what_holds_a_connection_reads_back() {
        let waits = Waits::default();
        assert_eq!((waits.gate(), waits.held()), (Wait::Turn, Wait::Orphaned));
        waits.set_gate(Wait::RateLimit);
        waits.set_held(Wait::Disabled);
        assert_eq!((waits.gate(), waits.held()), (Wait::RateLimit, Wait::Disabled));
    }
}
