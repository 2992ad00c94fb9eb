//! systemd's watchdog: it is fed only while the loop, every thread of delivery and the store's writer turn.

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

use super::Daemon;

/// Feeds systemd's watchdog while every part turns.
pub(super) struct Watchdog {
    interval: Interval,
    seen: Vec<u64>,
}

impl Watchdog {
    pub(super) fn new(every: Duration) -> Watchdog {
        let mut interval = interval(every);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Watchdog { interval, seen: Vec::new() }
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
    /// Feeds systemd's watchdog, unless a part has stood still since the last time.
    pub(super) fn feed_watchdog(&mut self) {
        let Some(watchdog) = &mut self.watchdog else {
            return;
        };
        let mut ticks = self.dispatcher.ticks();
        ticks.push(self.store.ticks());
        let all_turn = ticks.iter().zip(&watchdog.seen).all(|(now, seen)| now > seen);
        if all_turn || watchdog.seen.is_empty() {
            self.notifier.watchdog();
        } else {
            tracing::error!("A part of the daemon stands still; the watchdog is not fed");
        }
        watchdog.seen = ticks;
        // The writer sleeps when there is nothing to do: this makes it turn once before the next look.
        self.store.nudge();
    }
}
