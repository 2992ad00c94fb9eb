//! What delivery finds out that the control loop must know: that a connection is to be held until somebody looks at it, and
//! what alerts want to be told of.

use std::sync::Arc;
use std::time::Duration;

use crate::connection::Connection;
use crate::event::{Cause, EventId};
use crate::store::ConnectionId;
use crate::store::suspension::SuspensionKind;

/// Notices that may wait for the control loop. A connection whose hold finds no room holds itself and asks again.
pub(super) const NOTICES: usize = 256;

/// One in so many places is left to holds: what only alerts want to know is dropped, and counted, when no others are free.
pub(super) const SHARE_OF_HOLDS: usize = 4;

/// What happened to a connection.
#[derive(Clone, Debug)]
pub struct Notice {
    /// Which one.
    pub id: ConnectionId,
    /// The settings under which it happened: when they are not in force any more, the notice means nothing.
    pub connection: Arc<Connection>,
    /// What it was.
    pub what: What,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It holds itself, and asks the control loop to make that last.
    Hold(SuspensionKind),
    /// A delivery failed for the first time, or became a dead letter, or both. Only where that is [`Wanted`].
    Failed(Failure),
    /// The breaker opened. Only where that is [`Wanted`].
    BreakerOpened {
        /// Until it lets a probe through.
        open_for: Duration,
        /// How the last attempt failed.
        code: Cause,
    },
}

/// How a delivery failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which event it is of; `None` where it could not be read.
    pub event: Option<EventId>,
    /// It was the first attempt.
    pub first: bool,
    /// It became a dead letter.
    pub last: bool,
    /// Attempts made.
    pub attempts: u32,
    /// Why.
    pub cause: Cause,
    /// The response's status; 0 when there was none.
    pub status: u16,
}

/// What the control loop wants to be told of a connection beside holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Deliveries whose first attempt failed.
    pub first_failures: bool,
    /// Deliveries that became dead letters.
    pub dead: bool,
    /// Breakers that opened.
    pub breaker: bool,
}

impl Wanted {
    /// As one number.
    pub(super) fn to_bits(self) -> u8 {
        u8::from(self.first_failures) | u8::from(self.dead) << 1 | u8::from(self.breaker) << 2
    }

    pub(super) fn from_bits(bits: u8) -> Wanted {
        let has = |bit: u8| bits & (1 << bit) != 0;
        Wanted { first_failures: has(0), dead: has(1), breaker: has(2) }
    }
}
