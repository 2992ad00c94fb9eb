//! Turns for the handshakes of one runtime.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// Handshake steps in one round of a runtime's ready tasks: each may take 100 us of CPU, and other connections wait.
const STEPS_PER_ROUND: u32 = 4;

/// Keeps handshakes from holding a runtime up: at most [`STEPS_PER_ROUND`] steps of them run in one round of its ready
/// tasks. It counts steps, not handshakes under way: those wait for the network, and a peer that never answers must not
/// keep others from connecting.
#[derive(Debug, Default)]
pub struct HandshakePace {
    steps: Cell<u32>,
    /// Someone put off is going to open the next round.
    round_has_opener: Cell<bool>,
}

pub(super) struct Paced<F> {
    handshake: Pin<Box<F>>,
    pace: Rc<HandshakePace>,
    /// This one was the first to be put off: when it runs again, all that was ready before it has run.
    opens_round: bool,
}

impl<F> Paced<F> {
    /// Runs a handshake at this pace.
    pub(super) fn new(handshake: F, pace: &Rc<HandshakePace>) -> Paced<F> {
        Paced { handshake: Box::pin(handshake), pace: Rc::clone(pace), opens_round: false }
    }
}

impl<F: Future> Future for Paced<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        if std::mem::take(&mut this.opens_round) {
            this.pace.open_round();
        }
        let steps = this.pace.steps.get();
        if steps >= STEPS_PER_ROUND {
            this.opens_round = !this.pace.round_has_opener.replace(true);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        this.pace.steps.set(steps + 1);
        this.handshake.as_mut().poll(cx)
    }
}

impl<F> Drop for Paced<F> {
    fn drop(&mut self) {
        if self.opens_round {
            self.pace.open_round();
        }
    }
}

impl HandshakePace {
    fn open_round(&self) {
        self.steps.set(0);
        self.round_has_opener.set(false);
    }
}
