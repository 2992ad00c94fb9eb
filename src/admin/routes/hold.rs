//! Letting a connection go on, and holding it.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use serde::Deserialize;

use super::{Answer, ask, bad_query};
use crate::admin::Context;
use crate::admin::api::Connection;
use crate::admin::command::Command;
use crate::admin::problem::Problem;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PauseQuery {
    #[serde(default)]
    until_restart: bool,
}

/// Ends what the daemon, or a pause until a restart, holds a connection for.
pub(super) async fn lift(
    State(context): State<Context>,
    Path(connection): Path<String>,
) -> Answer<Connection> {
    Ok(Json(ask(&context, |reply| Command::Lift { connection, reply }).await??))
}

pub(super) async fn pause(
    State(context): State<Context>,
    Path(connection): Path<String>,
    query: Result<Query<PauseQuery>, QueryRejection>,
) -> Answer<Connection> {
    let Query(query) = query.map_err(bad_query)?;
    if !query.until_restart {
        let detail = "files are not edited; ask with ?until_restart=true, or set state = \"paused\" in the connection's file";
        return Err(Problem::malformed(detail));
    }
    Ok(Json(ask(&context, |reply| Command::Pause { connection, reply }).await??))
}
