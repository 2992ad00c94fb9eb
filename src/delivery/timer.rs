//! Timers that cost nothing while they do not fire.

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep_until};

/// A deadline that moves with each attempt. Moving it later does not touch the runtime's timer wheel: the sleep fires at
/// the old time, looks, and sleeps on.
#[derive(Debug)]
pub(super) struct Deadline {
    at: Instant,
    sleep: Pin<Box<Sleep>>,
}

impl Deadline {
    pub(super) fn new(at: Instant) -> Deadline {
        Deadline { at, sleep: Box::pin(sleep_until(at)) }
    }

    pub(super) fn set(&mut self, at: Instant) {
        self.at = at;
        if at < self.sleep.deadline() {
            self.sleep.as_mut().reset(at);
        }
    }

    /// Ready when the deadline has passed.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= self.at {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(self.at);
        }
        Poll::Pending
    }
}

/// The one timer of a connection: whoever has to wait arms it, one task sleeps on it.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    at: Cell<Option<Instant>>,
    changed: Notify,
}

impl Alarm {
    /// Makes the alarm go off at `at`, or earlier if it was to.
    pub(super) fn arm(&self, at: Instant) {
        if self.at.get().is_none_or(|armed| at < armed) {
            self.at.set(Some(at));
            self.changed.notify_one();
        }
    }

    /// Makes [`Alarm::wait`] return now.
    pub(super) fn ring(&self) {
        self.arm(Instant::now());
    }

    /// Waits until it goes off, and disarms it.
    pub(super) async fn wait(&self) {
        loop {
            match self.at.get() {
                None => self.changed.notified().await,
                Some(at) => tokio::select! {
                    biased;
                    () = self.changed.notified() => {}
                    () = sleep_until(at) => {
                        self.at.set(None);
                        return;
                    }
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_moves_both_ways() {
        let start = Instant::now();
        let mut deadline = Deadline::new(start + Duration::from_secs(10));
        deadline.set(start + Duration::from_secs(20));
        poll_fn(|cx| deadline.poll(cx)).await;
        assert_eq!(start.elapsed().as_secs(), 20);
        deadline.set(start + Duration::from_secs(90));
        deadline.set(start + Duration::from_secs(30));
        poll_fn(|cx| deadline.poll(cx)).await;
        assert_eq!(start.elapsed().as_secs(), 30);
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_alarm_wins_and_goes_off_once() {
        let start = Instant::now();
        let alarm = Alarm::default();
        alarm.arm(start + Duration::from_secs(5));
        alarm.arm(start + Duration::from_secs(9));
        alarm.arm(start + Duration::from_secs(3));
        alarm.wait().await;
        assert_eq!(start.elapsed().as_secs(), 3);
        let again = tokio::time::timeout(Duration::from_secs(60), alarm.wait()).await;
        assert!(again.is_err());
    }
}
