//! What the API says of one event: how it stands with each connection, why, and what would change that.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Attempt;

/// `GET /v1/events/{id}/explain`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// The event's id.
    pub id: String,
    /// When it was accepted, or its id was made.
    pub accepted_at: String,
    /// Whether it is in the store.
    pub stored: bool,
    /// The source that it came from, if it is in the store.
    pub source: Option<String>,
    /// Its type, if it is in the store and has one.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// How it stands with each connection, by name.
    pub deliveries: Vec<Explained>,
}

/// How an event stands with one connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Explained {
    /// The connection.
    pub connection: String,
    /// `queued`, `scheduled`, `held`, `in_flight`, `delivered`, `over` (delivered or cancelled), `dead` or `ignored`.
    pub state: String,
    /// The cause, of a closed list: what it waits for, why it is dead, or why it was ignored.
    pub cause: Option<String>,
    /// The same in a sentence.
    pub why: String,
    /// What would change it, if anything can.
    pub unblock: Option<String>,
    /// When it goes on by itself, if that is known.
    pub next_at: Option<String>,
    /// Attempts made in this run, if that is known.
    pub attempts: Option<u32>,
    /// Its latest attempts as far as they were recorded, the newest first.
    pub last_attempts: Vec<Attempt>,
}
