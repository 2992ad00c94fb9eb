//! Dead letters by selection, and the jobs that work through them.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Which dead letters. What is not said does not matter; all that is said must be so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Selection {
    /// Only those of this connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(required = false)]
    pub connection: Option<String>,
    /// Only those with this cause of death, as in `http_status`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(required = false)]
    pub code: Option<String>,
    /// Only those whose last response had one of these statuses: `503`, `5xx`, `400-499,!404`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(required = false)]
    pub status: Option<String>,
    /// Only events of this type.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    #[param(required = false)]
    pub kind: Option<String>,
    /// Only those that died at this time (RFC 3339) or later; a duration is as long ago.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(required = false)]
    pub since: Option<String>,
    /// Only those that died before this time; a duration is as long ago.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(required = false)]
    pub until: Option<String>,
}

/// What a selection matches: `GET /v1/dead/plan`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeadPlan {
    /// Dead letters that match.
    pub matched: u64,
    /// Bytes of their events' records.
    pub bytes: u64,
    /// When the first of them died.
    pub oldest: Option<String>,
    /// When the last of them died.
    pub newest: Option<String>,
    /// How many, by connection and cause.
    pub groups: Vec<DeadGroup>,
}

/// Dead letters of one connection with one cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeadGroup {
    /// The connection.
    pub connection: String,
    /// Why they died.
    pub code: String,
    /// How many.
    pub count: u64,
}

/// A bulk replay or purge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// `job_` and a UUIDv7.
    pub id: String,
    /// What it does.
    pub action: JobAction,
    /// How it stands.
    pub state: JobState,
    /// Who started it: `unix uid N` or `token NAME`.
    pub by: String,
    /// Which dead letters; of those that were dead when it began.
    pub selection: Selection,
    /// How far it is.
    pub counts: JobCounts,
    /// When it began.
    pub started_at: String,
    /// When it ended.
    pub ended_at: Option<String>,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobAction {
    /// Send dead letters again.
    Replay,
    /// End dead letters for good.
    Purge,
}

impl JobAction {
    /// The word in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            JobAction::Replay => "replay",
            JobAction::Purge => "purge",
        }
    }
}

/// How a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// It works, or waits for room in a replay lane.
    Running,
    /// It has seen all.
    Done,
    /// Somebody stopped it.
    Cancelled,
    /// It could not go on.
    Failed,
}

impl JobState {
    /// The word in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            JobState::Running => "running",
            JobState::Done => "done",
            JobState::Cancelled => "cancelled",
            JobState::Failed => "failed",
        }
    }
}

/// How far a job is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobCounts {
    /// Dead letters that there were to look at when it began.
    pub total: u64,
    /// Those of them that it has looked at.
    pub examined: u64,
    /// Those that match.
    pub matched: u64,
    /// Those that it has queued again, or purged.
    pub done: u64,
    /// Those that matched and could not be: their record is unreadable, or somebody else was faster.
    pub failed: u64,
}

/// All jobs that are remembered: `GET /v1/jobs`, the newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Jobs {
    /// How many.
    pub count: usize,
    /// The jobs.
    pub models: Vec<Job>,
}
