//! Deliveries in a list.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How a delivery stands, as the store sees it; `explain` says more of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// It waits for its turn.
    Queued,
    /// It waits for a time: a retry's, or a delay's.
    Scheduled,
    /// It is being sent, or next in line.
    Out,
    /// It is a dead letter.
    Dead,
    /// It was delivered, or cancelled, and is kept.
    Over,
}

impl DeliveryState {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            DeliveryState::Queued => "queued",
            DeliveryState::Scheduled => "scheduled",
            DeliveryState::Out => "out",
            DeliveryState::Dead => "dead",
            DeliveryState::Over => "over",
        }
    }
}

/// A delivery of `GET /v1/connections/{name}/deliveries`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Delivery {
    /// The event's id.
    pub event: String,
    /// The connection.
    pub connection: String,
    /// How it stands.
    pub state: DeliveryState,
    /// When the event was accepted.
    pub accepted_at: String,
    /// The source that the event came from.
    pub source: String,
    /// The event's type; empty when it has none.
    #[serde(rename = "type")]
    pub kind: String,
    /// Bytes of the event's record.
    pub bytes: u64,
    /// Attempts made in this run.
    pub attempts: u32,
    /// When it is due, if it is scheduled.
    pub due_at: Option<String>,
    /// Why it died, if it did.
    pub code: Option<String>,
    /// The last response's status, if it died of one.
    pub status: Option<u16>,
    /// When it died, if it did.
    pub died_at: Option<String>,
}
