//! What the API says of an import.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What an import did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Imported {
    /// Whether nothing was done, because only that was asked.
    pub dry_run: bool,
    /// The connections, by the names that they get.
    pub connections: Vec<String>,
    /// What becomes of each file.
    pub steps: Vec<ImportStep>,
    /// What connections need and is not here; these were left out.
    pub lacking: Vec<ImportLack>,
    /// Variables and credentials that the connections need when they run.
    pub supply: Vec<ImportLack>,
    /// Whether it is in force.
    pub reloaded: bool,
}

/// One thing that an import does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImportStep {
    /// What it is about: `connection crm`.
    pub what: String,
    /// `create`, `overwrite`, `rename` or `keep`.
    pub action: String,
    /// The file.
    pub file: String,
    /// More about it.
    pub note: String,
}

/// Something that a connection needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImportLack {
    /// The connection.
    pub connection: String,
    /// Where it stands.
    pub key: String,
    /// What it is.
    pub what: String,
}
