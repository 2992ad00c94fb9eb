//! Dead letters by selection: listed, counted, and worked through by jobs.

use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::{StatusCode, header};
use serde::Deserialize;
use utoipa::IntoParams;

use super::history::parse_since;
use super::{Answer, Refused, ask, bad_query, checked_limit};
use crate::admin::Context;
use crate::admin::api::jobs::{DeadPlan, Job, JobAction, Jobs, Selection};
use crate::admin::api::{Cancelled, DeadLetter, Page, rfc3339};
use crate::admin::command::{Command, JobCommand};
use crate::admin::manage::Caller;
use crate::admin::problem::Problem;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Only those of this connection.
    connection: Option<String>,
    /// Only those with this cause of death, as in `http_status`.
    code: Option<String>,
    /// Only those whose last response had one of these statuses: `503`, `5xx`, `400-499,!404`.
    status: Option<String>,
    /// Only events of this type.
    #[serde(rename = "type")]
    kind: Option<String>,
    /// Only those that died at this time (RFC 3339) or later; a duration is as long ago.
    since: Option<String>,
    /// Only those that died before this time; a duration is as long ago.
    until: Option<String>,
    /// The page after the one whose `pagination.next` this is.
    after: Option<String>,
    /// Dead letters on the page; 100 if it is not said. With a filter there may be fewer although there are more: a page looks
    /// at a bounded number.
    #[param(minimum = 1, maximum = 255)]
    limit: Option<u32>,
}

/// List dead letters
#[utoipa::path(get, path = "/v1/dead", tag = "dead letters", params(ListQuery),
    responses((status = 200, description = "a page", body = Page<DeadLetter>), Refused))]
pub(super) async fn dead_list(
    State(context): State<Context>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Answer<Page<DeadLetter>> {
    let Query(query) = query.map_err(bad_query)?;
    let limit = checked_limit(query.limit)?;
    let ListQuery { connection, code, status, kind, since, until, after, .. } = query;
    let selection = Selection { connection, code, status, kind, since, until };
    let selection = in_times(selection, &context)?;
    let page = ask(&context, |reply| Command::DeadList { selection, after, limit, reply });
    Ok(Json(page.await??))
}

/// Count the dead letters that a replay or purge would be of
///
/// Nothing is done.
#[utoipa::path(get, path = "/v1/dead/plan", tag = "dead letters", params(Selection),
    responses((status = 200, description = "how many, by connection and cause", body = DeadPlan), Refused))]
pub(super) async fn dead_plan(
    State(context): State<Context>,
    query: Result<Query<Selection>, QueryRejection>,
) -> Answer<DeadPlan> {
    let Query(selection) = query.map_err(bad_query)?;
    let selection = in_times(selection, &context)?;
    let (mut plan, mut after) = (DeadPlan::default(), None);
    // A part at a time, so that the control loop turns in between.
    loop {
        let counted = ask(&context, |reply| {
            let selection = selection.clone();
            Command::Job(JobCommand::Plan { selection, plan, after, reply })
        });
        (plan, after) = counted.await??;
        if after.is_none() {
            return Ok(Json(plan));
        }
    }
}

/// Which dead letters a job is of.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct JobQuery {
    /// Only those of this connection.
    connection: Option<String>,
    /// Only those with this cause of death, as in `http_status`.
    code: Option<String>,
    /// Only those whose last response had one of these statuses: `503`, `5xx`, `400-499,!404`.
    status: Option<String>,
    /// Only events of this type.
    #[serde(rename = "type")]
    kind: Option<String>,
    /// Only those that died at this time (RFC 3339) or later; a duration is as long ago.
    since: Option<String>,
    /// Only those that died before this time; a duration is as long ago.
    until: Option<String>,
    /// Must be `true` when nothing else is said: then it is all dead letters of all connections.
    #[serde(default)]
    all: bool,
}

/// Who asks, and for which dead letters.
pub(super) struct Wanted {
    selection: Selection,
    by: String,
}

impl FromRequestParts<Context> for Wanted {
    type Rejection = Problem;

    async fn from_request_parts(
        parts: &mut http::request::Parts,
        context: &Context,
    ) -> Result<Wanted, Problem> {
        let Query(query) = Query::<JobQuery>::try_from_uri(&parts.uri).map_err(bad_query)?;
        let JobQuery { connection, code, status, kind, since, until, all } = query;
        let selection = Selection { connection, code, status, kind, since, until };
        if selection == Selection::default() && !all {
            return Err(Problem::malformed(
                "say which dead letters: connection, code, status, type, since, until; or all=true",
            ));
        }
        let by = by(parts.extensions.get::<Caller>());
        Ok(Wanted { selection: in_times(selection, context)?, by })
    }
}

pub(super) fn by(caller: Option<&Caller>) -> String {
    caller.map_or_else(|| "nobody".to_owned(), |caller| caller.by.clone())
}

/// Send dead letters again, by a job
///
/// Those that were dead when it began. They go out in a lane of low priority, a bounded number at a time.
#[utoipa::path(post, path = "/v1/dead/replay", tag = "dead letters", params(JobQuery),
    responses((status = 202, description = "it has begun", body = Job, headers(("Location" = String))), Refused))]
pub(super) async fn dead_replay(
    State(context): State<Context>,
    wanted: Wanted,
) -> Result<Response, Problem> {
    start(context, JobAction::Replay, wanted).await
}

/// End dead letters for good, by a job
///
/// Those that were dead when it began.
#[utoipa::path(post, path = "/v1/dead/purge", tag = "dead letters", params(JobQuery),
    responses((status = 202, description = "it has begun", body = Job, headers(("Location" = String))), Refused))]
pub(super) async fn dead_purge(
    State(context): State<Context>,
    wanted: Wanted,
) -> Result<Response, Problem> {
    start(context, JobAction::Purge, wanted).await
}

async fn start(context: Context, action: JobAction, wanted: Wanted) -> Result<Response, Problem> {
    let Wanted { selection, by } = wanted;
    let started =
        ask(&context, |reply| Command::Job(JobCommand::Start { action, selection, by, reply }));
    let job = started.await??;
    let location = [(header::LOCATION, format!("/v1/jobs/{}", job.id))];
    Ok((StatusCode::ACCEPTED, location, Json(job)).into_response())
}

/// Cancel all that waits for a connection
///
/// Also for one that was removed, whose queue is held under its name. Attempts under way end, and count for nothing. Dead
/// letters stay.
#[utoipa::path(post, path = "/v1/connections/{name}/purge", tag = "connections",
    params(("name" = String, Path, description = "the connection's name")),
    responses((status = 200, description = "how many are cancelled", body = Cancelled), Refused))]
pub(super) async fn connection_purge(
    State(context): State<Context>,
    Path(connection): Path<String>,
    caller: Option<Extension<Caller>>,
) -> Answer<Cancelled> {
    let by = by(caller.as_ref().map(|Extension(caller)| caller));
    let purged = ask(&context, |reply| Command::Purge { connection, by, reply });
    Ok(Json(Cancelled { cancelled: purged.await?? }))
}

/// List jobs, the newest first
///
/// Those that run, and the latest of those that ended.
#[utoipa::path(get, path = "/v1/jobs", tag = "jobs",
    responses((status = 200, description = "all that are remembered", body = Jobs), Refused))]
pub(super) async fn jobs_list(State(context): State<Context>) -> Answer<Jobs> {
    let models = ask(&context, |reply| Command::Job(JobCommand::List(reply))).await?;
    Ok(Json(Jobs { count: models.len(), models }))
}

/// Show a job
#[utoipa::path(get, path = "/v1/jobs/{id}", tag = "jobs",
    params(("id" = String, Path, description = "the job's id")),
    responses((status = 200, description = "how far it is", body = Job), Refused))]
pub(super) async fn job_show(
    State(context): State<Context>,
    Path(id): Path<String>,
) -> Answer<Job> {
    Ok(Json(ask(&context, |reply| Command::Job(JobCommand::Show { id, reply })).await??))
}

/// Stop a job
///
/// What it has done stays; what it queued is delivered.
#[utoipa::path(post, path = "/v1/jobs/{id}/cancel", tag = "jobs",
    params(("id" = String, Path, description = "the job's id")),
    responses((status = 200, description = "it has stopped", body = Job), Refused))]
pub(super) async fn job_cancel(
    State(context): State<Context>,
    Path(id): Path<String>,
    caller: Option<Extension<Caller>>,
) -> Answer<Job> {
    let by = by(caller.as_ref().map(|Extension(caller)| caller));
    Ok(Json(ask(&context, |reply| Command::Job(JobCommand::Cancel { id, by, reply })).await??))
}

/// The same selection with points in time: a duration is as long ago as it was asked.
pub(super) fn in_times(mut selection: Selection, context: &Context) -> Result<Selection, Problem> {
    for time in [&mut selection.since, &mut selection.until].into_iter().flatten() {
        *time = rfc3339(parse_since(time, &context.clock)?);
    }
    Ok(selection)
}
