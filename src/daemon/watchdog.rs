//! systemd's watchdog: it is fed only while the loop, every thread of delivery and the store's writer turn.

use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::Daemon;

/// A part that has not turned for so long stands still: delivery shows that it turns once a second.
const STILL: Duration = Duration::from_secs(3);

/// Feeds systemd's watchdog while every part turns.
pub(super) struct Watchdog {
    interval: Interval,
    pulse: Pulse,
}

/// The turns of each part, and when they last grew.
#[derive(Debug, Default)]
struct Pulse(Vec<(u64, Instant)>);

impl Pulse {
    /// Takes what each part shows now. Whether all have turned lately.
    fn all_turn(&mut self, ticks: &[u64], now: Instant) -> bool {
        // The first look, of which nothing can be said.
        self.0.resize(ticks.len(), (u64::MAX, now));
        for (seen, ticks) in self.0.iter_mut().zip(ticks) {
            if seen.0 != *ticks {
                *seen = (*ticks, now);
            }
        }
        self.0.iter().all(|(_, turned)| now < *turned + STILL)
    }
}

impl Watchdog {
    pub(super) fn new(every: Duration) -> Watchdog {
        let mut interval = interval(every);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Watchdog { interval, pulse: Pulse::default() }
    }

    /// Waits until it is to be fed; for ever without one.
    pub(super) async fn tick(watchdog: &mut Option<Watchdog>) {
        match watchdog {
            Some(watchdog) => drop(watchdog.interval.tick().await),
            None => std::future::pending().await,
        }
    }
}

impl Daemon {
    /// Feeds systemd's watchdog, unless a part stands still.
    pub(super) fn feed_watchdog(&mut self) {
        let Some(watchdog) = &mut self.watchdog else {
            return;
        };
        let mut ticks = self.dispatcher.ticks();
        ticks.push(self.store.ticks());
        if watchdog.pulse.all_turn(&ticks, Instant::now()) {
            self.notifier.watchdog();
        } else {
            tracing::error!("A part of the daemon stands still; the watchdog is not fed");
        }
        // The writer sleeps when there is nothing to do: this makes it turn once before the next look.
        self.store.nudge();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks at three parts every `every` for a minute, of which one stands still from the 20th second until another. The seconds
    /// in which it was not fed.
    fn hungry(every: Duration, still: usize, until: u64) -> Vec<u64> {
        let begun = Instant::now();
        let mut pulse = Pulse::default();
        let mut hungry = Vec::new();
        let mut at = Duration::ZERO;
        while at < Duration::from_secs(60) {
            // They turn once a second.
            let seconds = at.as_secs();
            let mut ticks = [seconds; 3];
            ticks[still] = if seconds < until { seconds.min(20) } else { seconds };
            if !pulse.all_turn(&ticks, begun + at) {
                hungry.push(seconds);
            }
            at += every;
        }
        hungry.dedup();
        hungry
    }

    #[test]
    fn it_is_not_fed_while_any_part_stands_still() {
        for still in 0..3 {
            let expected: Vec<u64> = (23..40).collect();
            // Often, as with WatchdogSec=400ms, each second, and as with the unit's WatchdogSec=30s.
            assert_eq!(hungry(Duration::from_millis(200), still, 40), expected, "{still}");
            assert_eq!(hungry(Duration::from_secs(1), still, 40), expected, "{still}");
            // It had turned between the looks at 15 and at 30.
            assert_eq!(hungry(Duration::from_secs(15), still, 60), [45], "{still}");
        }
    }
}
