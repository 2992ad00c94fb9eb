//! Ingress without threads and sockets: one runtime as a task, on streams that a test hands in.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

pub(crate) use crate::sim::pipe::Pipe;

use super::counts::Counts;
use super::memory::MemoryBudget;
use super::serve::{self, Listener, Shared, Stop};
use super::slots::Slots;
use super::{IngressOptions, IngressParts};

/// Streams that wait to be accepted.
#[derive(Debug)]
pub(super) struct Arrivals(Mutex<UnboundedReceiver<Pipe>>);

impl Arrivals {
    pub(super) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Pipe> {
        match self.0.lock().unwrap().poll_recv(cx) {
            Poll::Ready(Some(pipe)) => Poll::Ready(pipe),
            // Nobody is left who could connect.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

/// One runtime of ingress.
pub(crate) struct LocalIngress {
    shared: Shared,
    arrivals: Arrivals,
    slots: Arc<Slots>,
    stop: Stop,
    /// The budget for bodies: nothing is on its way to the disk when none of it is used.
    pub(crate) memory: Arc<MemoryBudget>,
}

/// Tells it to stop.
#[derive(Clone)]
pub(crate) struct Stopper(Stop);

/// Makes one runtime; streams sent to the sender are accepted. Of the parts, the first intake is used, and its lane is the
/// caller's to run.
pub(crate) fn local(
    options: &IngressOptions,
    parts: IngressParts,
) -> (LocalIngress, UnboundedSender<Pipe>, Stopper) {
    let (sender, receiver) = unbounded_channel();
    let (intake, _lane) = parts.intakes.into_iter().next().unwrap();
    let memory = Arc::new(MemoryBudget::new(options.memory_bytes));
    let shared = Shared {
        intake,
        routing: parts.routing,
        keys: parts.keys,
        clock: parts.clock,
        memory: Arc::clone(&memory),
        counts: Counts::new(&parts.metrics),
        rng: RefCell::new(fastrand::Rng::with_seed(parts.seed)),
        stopping: Cell::new(false),
        limits: Arc::new(ArcSwap::from_pointee(options.limits.clone())),
    };
    let stop = Stop::default();
    let ingress = LocalIngress {
        shared,
        arrivals: Arrivals(Mutex::new(receiver)),
        slots: Slots::new(options.limits.max_connections),
        stop: stop.clone(),
        memory,
    };
    (ingress, sender, Stopper(stop))
}

impl LocalIngress {
    /// Accepts and serves until it is stopped.
    pub(crate) async fn run(self) {
        let listeners = vec![Listener::Memory(self.arrivals)];
        serve::run(Rc::new(self.shared), listeners, self.slots, self.stop).await;
    }
}

impl Stopper {
    /// As [`super::RunningIngress::begin_stop`].
    pub(crate) fn begin_stop(&self, grace: Duration) {
        let _ = self.0.grace.set(grace);
        self.0.token.cancel();
    }
}
