//! The only durable thing.
pub mod doorbell;
pub mod feed;
pub mod intake;
pub mod queue;

/// Appends that fill a batch: the writer commits at once when so many wait.
pub const BATCH_EVENTS: usize = 32;

/// Deliveries of one connection that may be handed out and not settled.
pub const WINDOW_EVENTS: usize = 512;

/// A connection's number inside the store: small, the same over restarts, never used again for another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u32);

/// Names one delivery. Opaque outside of the store: nothing may be read from it but its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryId {
    /// The connection it goes to.
    pub connection: ConnectionId,
    /// The segment that holds its event.
    pub(crate) segment: u32,
    /// Its place among this connection's deliveries in that segment.
    pub(crate) slot: u32,
    /// Where the event's record starts, in units of 8 bytes.
    pub(crate) offset: u32,
}
