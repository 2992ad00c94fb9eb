//! The configuration as a whole: read again, planned, and who changed it.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{Answer, Refused, ask, bad_query, checked_limit};
use crate::admin::Context;
use crate::admin::api::Reloaded;
use crate::admin::api::connections::{AuditPage, Plan};
use crate::admin::command::{AuditQuery, Command};
use crate::admin::manage::Caller;

/// Read the files again, all or nothing
#[utoipa::path(post, path = "/v1/reload", tag = "configuration",
    responses((status = 200, description = "the new configuration is in force", body = Reloaded), Refused))]
pub(super) async fn reload(
    State(context): State<Context>,
    Extension(caller): Extension<Caller>,
) -> Answer<Reloaded> {
    Ok(Json(ask(&context, |reply| Command::Reload { by: caller.by, reply }).await??))
}

/// Say what a reload would do now
#[utoipa::path(get, path = "/v1/config/plan", tag = "configuration",
    responses((status = 200, description = "what would change", body = Plan), Refused))]
pub(super) async fn config_plan(State(context): State<Context>) -> Answer<Plan> {
    Ok(Json(ask(&context, Command::Plan).await??))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Only changes of this connection.
    connection: Option<String>,
    /// Records on the page; 100 if it is not said.
    #[param(minimum = 1, maximum = 255)]
    limit: Option<u32>,
    /// The page after the one whose `pagination.next` this is.
    next: Option<String>,
}

/// List the changes that were accepted, the newest first
#[utoipa::path(get, path = "/v1/audit", tag = "configuration", params(ListQuery),
    responses((status = 200, description = "a page", body = AuditPage), Refused))]
pub(super) async fn audit(
    State(context): State<Context>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Answer<AuditPage> {
    let Query(query) = query.map_err(bad_query)?;
    let query = AuditQuery {
        connection: query.connection,
        limit: checked_limit(query.limit)?,
        before: query.next.as_deref().map(super::history::parse_next).transpose()?,
    };
    Ok(Json(ask(&context, |reply| Command::Audit { query, reply }).await??))
}
