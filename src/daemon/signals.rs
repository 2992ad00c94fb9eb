//! The signals that the control loop waits for: SIGTERM and SIGINT stop it, SIGHUP reloads.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::process;

/// One stream for each.
pub(super) struct Signals {
    pub(super) terminate: Signal,
    pub(super) interrupt: Signal,
    pub(super) hang_up: Signal,
}

impl Signals {
    /// Takes the signals over from the operating system's defaults.
    pub(super) fn new() -> std::io::Result<Signals> {
        process::survive_signals()?;
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for one that asks for a stop.
    pub(super) async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
