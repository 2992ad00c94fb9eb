//! The deliveries of a connection.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use serde::Deserialize;
use utoipa::IntoParams;

use super::jobs::in_times;
use super::{Answer, Refused, ask, bad_query, checked_limit};
use crate::admin::Context;
use crate::admin::api::Page;
use crate::admin::api::deliveries::{Delivery, DeliveryState};
use crate::admin::api::jobs::Selection;
use crate::admin::command::{Command, DeliveriesQuery};
use crate::admin::problem::Problem;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Only those that stand so. What is `over` (delivered or cancelled, and kept) is listed only if it is asked for.
    #[param(inline)]
    state: Option<DeliveryState>,
    /// Only dead ones with this cause, as in `http_status`.
    code: Option<String>,
    /// Only dead ones whose last response had one of these statuses: `503`, `5xx`, `400-499,!404`.
    status: Option<String>,
    /// Only events of this type.
    #[serde(rename = "type")]
    kind: Option<String>,
    /// Only events accepted at this time (RFC 3339) or later; a duration is as long ago.
    since: Option<String>,
    /// Only events accepted before this time; a duration is as long ago.
    until: Option<String>,
    /// Deliveries on the page; 100 if it is not said. With a filter there may be fewer although there are more: a page looks at a
    /// bounded number.
    #[param(minimum = 1, maximum = 255)]
    limit: Option<u32>,
    /// The page after the one whose `pagination.next` this is.
    next: Option<String>,
}

/// List the deliveries of a connection, the newest first
#[utoipa::path(get, path = "/v1/connections/{name}/deliveries", tag = "events",
    params(("name" = String, Path, description = "the connection's name"), ListQuery),
    responses((status = 200, description = "a page", body = Page<Delivery>), Refused))]
pub(super) async fn deliveries(
    State(context): State<Context>,
    Path(connection): Path<String>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Answer<Page<Delivery>> {
    let Query(query) = query.map_err(bad_query)?;
    let limit = checked_limit(query.limit)?;
    let ListQuery { state, code, status, kind, since, until, next, .. } = query;
    let selection = Selection { connection: None, code, status, kind, since, until };
    let query = DeliveriesQuery {
        connection,
        selection: in_times(selection, &context)?,
        state,
        before: next.as_deref().map(parse_place).transpose()?,
        limit,
    };
    Ok(Json(ask(&context, |reply| Command::Deliveries { query, reply }).await??))
}

fn parse_place(text: &str) -> Result<(u32, u32), Problem> {
    let place = text.split_once('-');
    place
        .and_then(|(segment, slot)| Some((segment.parse().ok()?, slot.parse().ok()?)))
        .ok_or_else(|| Problem::malformed("`next` is not a cursor; take it from `pagination.next`"))
}
