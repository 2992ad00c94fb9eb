//! States that the daemon sets itself (spec 11): a connection that its target has done away with, that fails for too long,
//! whose strict order has stopped, or that an operator pauses where the files cannot be edited.
//!
//! The store only keeps them, by connection, until they are cleared; what they mean is decided outside. They go with the
//! connection when it is renamed.

use super::ConnectionId;
use super::record::{Reader, put_varint};

/// Why the daemon holds a connection although its configuration does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum SuspensionKind {
    /// Its target answered 410.
    Gone = 1,
    /// Nothing but failure for `disable_after`.
    FailingTooLong = 2,
    /// The head of its order is dead, and `on_dead` says "halt".
    Halted = 3,
    /// `pause --until-restart`: the next open drops it.
    PausedUntilRestart = 4,
}

/// That a connection is held by the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suspension {
    /// Why.
    pub kind: SuspensionKind,
    /// Since when: the wall clock, in milliseconds since 1970, for people.
    pub at_ms: u64,
    /// A hash of the connection's effective settings at that moment, so that an edit clears it.
    pub settings: u64,
}

impl SuspensionKind {
    /// The name in logs, metrics and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            SuspensionKind::Gone => "gone",
            SuspensionKind::FailingTooLong => "failing_too_long",
            SuspensionKind::Halted => "halted",
            SuspensionKind::PausedUntilRestart => "paused_until_restart",
        }
    }

    /// The kind with this number.
    pub(super) fn from_number(number: u8) -> Option<SuspensionKind> {
        [
            SuspensionKind::Gone,
            SuspensionKind::FailingTooLong,
            SuspensionKind::Halted,
            SuspensionKind::PausedUntilRestart,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == number)
    }
}

/// Appends what a mark says after its tag: connection, kind (0: none), wall clock, settings.
pub(super) fn encode(out: &mut Vec<u8>, connection: ConnectionId, suspension: Option<Suspension>) {
    put_varint(out, u64::from(connection.0));
    out.push(suspension.map_or(0, |suspension| suspension.kind as u8));
    if let Some(Suspension { at_ms, settings, .. }) = suspension {
        put_varint(out, at_ms);
        put_varint(out, settings);
    }
}

/// Reads it back. `None`: it was not written by this version.
pub(super) fn decode(reader: &mut Reader<'_>) -> Option<(ConnectionId, Option<Suspension>)> {
    let connection = ConnectionId(reader.varint32()?);
    let suspension = match reader.u8()? {
        0 => None,
        number => Some(Suspension {
            kind: SuspensionKind::from_number(number)?,
            at_ms: reader.varint()?,
            settings: reader.varint()?,
        }),
    };
    Some((connection, suspension))
}
