//! Single events and the attempts that were recorded: looked up, listed, sent again.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::{Extension, Json};
use bytes::Bytes;
use http::HeaderMap;
use serde::Deserialize;
use utoipa::IntoParams;

use super::jobs::by;
use super::{
    Answer, Refused, ask, bad_query, body_headers, checked_limit, excerpt, header_of, parse_id,
};
use crate::admin::Context;
use crate::admin::api::explain::Explanation;
use crate::admin::api::{
    Attempt, DeliveryState, EventActed, EventAction, EventDetail, Page, Replayed, parse_rfc3339,
    rfc3339,
};
use crate::admin::command::{AttemptsQuery, Command, FoundEvent};
use crate::admin::manage::Caller;
use crate::admin::problem::Problem;
use crate::clock::{Clock, millis};
use crate::connection::status::{Purpose, StatusSet};
use crate::event::Cause;
use crate::units::HumanDuration;

/// What `code` is for an attempt that succeeded.
const OK: &str = "ok";
/// The highest status that there is.
const LAST_STATUS: u16 = 599;

/// Show an event that is still in the store
#[utoipa::path(get, path = "/v1/events/{event}", tag = "events",
    params(("event" = String, Path, description = "the event's id")),
    responses((status = 200, description = "the event", body = EventDetail), Refused))]
pub(super) async fn event_show(
    State(context): State<Context>,
    Path(event): Path<String>,
) -> Answer<EventDetail> {
    find(&context, &event).await.map(|found| Json(detail(found)))
}

/// Show an event's body, byte for byte
#[utoipa::path(get, path = "/v1/events/{event}/body", tag = "events",
    params(("event" = String, Path, description = "the event's id")),
    responses((status = 200, description = "the body", content_type = "application/octet-stream", body = String), Refused))]
pub(super) async fn event_body(
    State(context): State<Context>,
    Path(event): Path<String>,
) -> Result<(HeaderMap, Bytes), Problem> {
    let found = find(&context, &event).await?;
    Ok((body_headers(), found.event.content.body()))
}

/// Explain how an event stands with each connection, why, and what would change that
#[utoipa::path(get, path = "/v1/events/{event}/explain", tag = "events",
    params(("event" = String, Path, description = "the event's id")),
    responses((status = 200, description = "what is known of it", body = Explanation), Refused))]
pub(super) async fn event_explain(
    State(context): State<Context>,
    Path(event): Path<String>,
) -> Answer<Explanation> {
    let event = parse_id(&event)?;
    Ok(Json(ask(&context, |reply| Command::Explain { event, reply }).await??))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ReplayQuery {
    /// One of the connections that the event was for.
    connection: String,
}

/// Send an event to one of its connections again
#[utoipa::path(post, path = "/v1/events/{event}/replay", tag = "events",
    params(("event" = String, Path, description = "the event's id"), ReplayQuery),
    responses((status = 200, description = "it is queued", body = Replayed), Refused))]
pub(super) async fn event_replay(
    State(context): State<Context>,
    Path(event): Path<String>,
    query: Result<Query<ReplayQuery>, QueryRejection>,
) -> Answer<Replayed> {
    let event = parse_id(&event)?;
    let Query(ReplayQuery { connection }) = query.map_err(bad_query)?;
    ask(&context, |reply| Command::EventReplay { event, connection, reply }).await??;
    Ok(Json(Replayed { replayed: 1 }))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ActQuery {
    /// Only the delivery to this connection; without it, to all.
    connection: Option<String>,
}

/// Try at once the deliveries of an event that wait for a time
///
/// A retry's, or a delay's. Attempts go on counting; what holds the connection (a breaker, a pause) goes on holding it.
#[utoipa::path(post, path = "/v1/events/{event}/retry", tag = "events",
    params(("event" = String, Path, description = "the event's id"), ActQuery),
    responses((status = 200, description = "what came of it", body = EventActed), Refused))]
pub(super) async fn event_retry(
    State(context): State<Context>,
    Path(event): Path<String>,
    query: Result<Query<ActQuery>, QueryRejection>,
    caller: Option<Extension<Caller>>,
) -> Answer<EventActed> {
    act(context, EventAction::Retry, &event, query, caller).await
}

/// Cancel the deliveries of an event that wait
///
/// Each becomes a dead letter with the cause `cancelled`. An attempt under way cannot be cancelled.
#[utoipa::path(post, path = "/v1/events/{event}/cancel", tag = "events",
    params(("event" = String, Path, description = "the event's id"), ActQuery),
    responses((status = 200, description = "what came of it", body = EventActed), Refused))]
pub(super) async fn event_cancel(
    State(context): State<Context>,
    Path(event): Path<String>,
    query: Result<Query<ActQuery>, QueryRejection>,
    caller: Option<Extension<Caller>>,
) -> Answer<EventActed> {
    act(context, EventAction::Cancel, &event, query, caller).await
}

async fn act(
    context: Context,
    action: EventAction,
    event: &str,
    query: Result<Query<ActQuery>, QueryRejection>,
    caller: Option<Extension<Caller>>,
) -> Answer<EventActed> {
    let event = parse_id(event)?;
    let Query(ActQuery { connection }) = query.map_err(bad_query)?;
    let by = by(caller.as_ref().map(|Extension(caller)| caller));
    let acted = ask(&context, |reply| Command::EventAct { action, event, connection, by, reply });
    Ok(Json(acted.await??))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Only those of this connection.
    connection: Option<String>,
    /// Only those of this event.
    event: Option<String>,
    /// Only those with this error code, or `ok`.
    code: Option<String>,
    /// Only those whose response had one of these statuses: `503`, `5xx`, `400-499,!404`.
    status: Option<String>,
    /// Only those that ended since: a time (RFC 3339), or a duration.
    since: Option<String>,
    /// Only those that ended before: a time (RFC 3339), or a duration.
    until: Option<String>,
    /// Attempts on the page; 100 if it is not said.
    #[param(minimum = 1, maximum = 255)]
    limit: Option<u32>,
    /// The page after the one whose `pagination.next` this is.
    next: Option<String>,
}

/// List attempts that failed, or succeeded after failures; the newest first
#[utoipa::path(get, path = "/v1/attempts", tag = "events", params(ListQuery),
    responses((status = 200, description = "a page", body = Page<Attempt>), Refused))]
pub(super) async fn attempts(
    State(context): State<Context>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Answer<Page<Attempt>> {
    let Query(query) = query.map_err(bad_query)?;
    let limit = checked_limit(query.limit)?;
    let time = |text: Option<&str>| text.map(|text| parse_since(text, &context.clock)).transpose();
    let query = AttemptsQuery {
        connection: query.connection,
        event: query.event.as_deref().map(parse_id).transpose()?,
        code: query.code.as_deref().map(parse_code).transpose()?,
        since_ms: time(query.since.as_deref())?.unwrap_or(0),
        until_ms: time(query.until.as_deref())?,
        statuses: query.status.as_deref().map(parse_statuses).transpose()?,
        before: query.next.as_deref().map(parse_next).transpose()?,
        limit,
    };
    Ok(Json(ask(&context, |reply| Command::Attempts { query, reply }).await??))
}

fn parse_code(text: &str) -> Result<Option<Cause>, Problem> {
    if text == OK {
        return Ok(None);
    }
    let cause = Cause::ALL.into_iter().find(|cause| cause.as_str() == text);
    cause.map(Some).ok_or_else(|| {
        Problem::malformed(format!("code is \"{OK}\" or an error code, such as connect_refused"))
    })
}

/// Each status that is meant.
fn parse_statuses(text: &str) -> Result<Vec<u16>, Problem> {
    let entries: Vec<&str> = text.split(',').map(str::trim).collect();
    // Any status may be looked for, as any may be a success.
    let set = StatusSet::parse(&entries, Purpose::Success)
        .map_err(|error| Problem::malformed(format!("status: {error}")))?;
    Ok((0..=LAST_STATUS).filter(|status| set.contains(*status)).collect())
}

/// A time, or how long ago it was.
pub(super) fn parse_since(text: &str, clock: &Clock) -> Result<u64, Problem> {
    let ago = text.parse::<HumanDuration>().ok();
    ago.map(|ago| clock.wall_ms().saturating_sub(millis(ago.0)))
        .or_else(|| parse_rfc3339(text))
        .ok_or_else(|| {
            Problem::malformed(format!(
                "a time is in UTC, as in {}, or a duration, as in 1h, which means so long ago",
                rfc3339(1_763_683_200_000)
            ))
        })
}

pub(super) fn parse_next(text: &str) -> Result<u64, Problem> {
    let malformed =
        |_| Problem::malformed("`next` is not a cursor; take it from `pagination.next`");
    text.parse().map_err(malformed)
}

async fn find(context: &Context, event: &str) -> Result<FoundEvent, Problem> {
    let event = parse_id(event)?;
    Ok(ask(context, |reply| Command::EventShow { event, reply }).await??)
}

fn detail(found: FoundEvent) -> EventDetail {
    let content = &found.event.content;
    let body = content.body();
    let deliveries = found.deliveries.into_iter();
    EventDetail {
        id: found.event.id.to_string(),
        accepted_at: rfc3339(found.event.accepted_ms),
        source: content.source().to_owned(),
        kind: content.kind().to_owned(),
        headers: content.headers().map(header_of).collect(),
        body_bytes: body.len() as u64,
        body_excerpt: excerpt(&body),
        deliveries: deliveries
            .map(|(connection, state)| DeliveryState { connection, state: state.to_owned() })
            .collect(),
    }
}
