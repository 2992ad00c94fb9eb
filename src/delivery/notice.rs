//! What delivery finds out that the control loop must know: that a connection is to be held until somebody looks at it.

use std::sync::Arc;

use crate::connection::Connection;
use crate::store::ConnectionId;
use crate::store::suspension::SuspensionKind;

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
    pub why: SuspensionKind,
}
