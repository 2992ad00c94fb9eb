//! What delivery finds out that the control loop must know: that a connection is to be held until somebody looks at it.

use std::sync::Arc;

use crate::connection::Connection;
use crate::store::ConnectionId;

/// Notices that may wait for the control loop. A connection whose notice finds no room holds itself and asks again.
pub(super) const NOTICES: usize = 64;

/// A connection holds itself, and asks the control loop to make that last.
#[derive(Clone, Debug)]
pub struct Notice {
    /// Which one.
    pub id: ConnectionId,
    /// The settings under which it happened: when they are not in force any more, the notice means nothing.
    pub connection: Arc<Connection>,
    /// Why.
    pub why: Why,
}

/// Why a connection is to be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The target said 410: there is nothing here, and there will be nothing.
    Gone,
    /// Nothing but failure for `disable_after`.
    Failing,
    /// The head of a strict order is dead, and `on_dead` says halt.
    Halted,
}
