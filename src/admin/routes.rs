//! The routes: a small function each. They read the request, ask the daemon, and write the answer.

mod history;
mod hold;

use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, Uri, header};
use serde::Deserialize;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;

use super::api::{DeadDetail, DeadLetter, Header, Page, Reloaded, Replayed, Status};
use super::command::{Command, DeadEvent, Reply};
use super::problem::Problem;
use super::{Context, Readiness};
use crate::event::EventId;

/// How long the control loop may take for one command. A reload dials nothing; it reads files and builds clients.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Dead letters of one page of a bulk replay: the control loop is busy with one page at a time.
const REPLAY_PAGE: u32 = 256;
/// Dead letters on a page of a list, unless asked otherwise.
const LIMIT_DEFAULT: u32 = 100;
/// The most that can be asked for.
const LIMIT_MAX: u32 = 255;
/// Bytes of a body shown with a dead letter; all of it is at `…/body`.
const EXCERPT_BYTES: usize = 4096;

type Answer<T> = Result<Json<T>, Problem>;

/// What everyone may see.
pub(super) fn open(context: Context) -> Router {
    let elsewhere = async |uri: Uri| {
        if uri.path().starts_with("/v1/") {
            not_found("the admin API is on the admin Unix socket, not here")
        } else {
            not_found("here are /metrics, /healthz and /readyz")
        }
    };
    watching().fallback(elsewhere).with_state(context)
}

/// Everything.
pub(super) fn all(context: Context) -> Router {
    watching()
        .route("/v1/status", get(status))
        .route("/v1/dead", get(dead_list))
        .route("/v1/dead/replay", post(replay_many))
        .route("/v1/connections/{name}/dead/{event}", get(dead_show))
        .route("/v1/connections/{name}/dead/{event}/body", get(dead_body))
        .route("/v1/connections/{name}/dead/{event}/replay", post(replay_one))
        .route("/v1/events/{event}", get(history::event_show))
        .route("/v1/events/{event}/body", get(history::event_body))
        .route("/v1/events/{event}/replay", post(history::event_replay))
        .route("/v1/attempts", get(history::attempts))
        .route("/v1/connections/{name}/enable", post(hold::lift).put(hold::lift))
        .route("/v1/connections/{name}/resume", post(hold::lift).put(hold::lift))
        .route("/v1/connections/{name}/unpause", post(hold::lift).put(hold::lift))
        .route("/v1/connections/{name}/pause", post(hold::pause).put(hold::pause))
        .route("/v1/reload", post(reload))
        .fallback(async || not_found("there is no such route"))
        .with_state(context)
}

fn watching() -> Router<Context> {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .method_not_allowed_fallback(async || {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "Method not allowed",
                "the Allow header says what this route takes",
            )
        })
}

fn not_found(detail: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not_found", "Not found", detail)
}

async fn metrics(State(context): State<Context>) -> Response {
    (context.refresh)();
    let text = context.metrics.render() + &crate::process::render_metrics(&context.clock);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn readyz(State(context): State<Context>) -> Result<&'static str, Problem> {
    match &*context.readiness.borrow() {
        Readiness::Ready => Ok("ready\n"),
        Readiness::NotReady(reason) => Err(Problem::unavailable("not_ready", reason.as_str())),
    }
}

async fn status(State(context): State<Context>) -> Answer<Status> {
    ask(&context, Command::Status).await.map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    connection: Option<String>,
    after: Option<String>,
    limit: Option<u32>,
}

async fn dead_list(
    State(context): State<Context>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Answer<Page<DeadLetter>> {
    let Query(query) = query.map_err(bad_query)?;
    let limit = checked_limit(query.limit)?;
    let page = ask(&context, |reply| Command::DeadList {
        connection: query.connection,
        after: query.after,
        limit,
        reply,
    });
    Ok(Json(page.await??))
}

async fn dead_show(
    State(context): State<Context>,
    Path((connection, event)): Path<(String, String)>,
) -> Answer<DeadDetail> {
    find_dead(&context, connection, &event).await.map(|dead| Json(detail(dead)))
}

async fn dead_body(
    State(context): State<Context>,
    Path((connection, event)): Path<(String, String)>,
) -> Result<(HeaderMap, Bytes), Problem> {
    let dead = find_dead(&context, connection, &event).await?;
    Ok((body_headers(), dead.event.content.body()))
}

/// How many a page of a list has.
fn checked_limit(limit: Option<u32>) -> Result<u32, Problem> {
    let limit = limit.unwrap_or(LIMIT_DEFAULT);
    if (1..=LIMIT_MAX).contains(&limit) {
        return Ok(limit);
    }
    Err(Problem::malformed(format!("limit is 1 to {LIMIT_MAX}")))
}

fn body_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    // What a producer posted is not ours to vouch for, so nothing may be guessed from it.
    for (name, value) in [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        headers.insert(name, http::HeaderValue::from_static(value));
    }
    headers
}

async fn replay_one(
    State(context): State<Context>,
    Path((connection, event)): Path<(String, String)>,
) -> Answer<Replayed> {
    let event = parse_id(&event)?;
    ask(&context, |reply| Command::Replay { connection, event, reply }).await??;
    Ok(Json(Replayed { replayed: 1 }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplayQuery {
    connection: String,
}

/// Page by page, so that the control loop turns in between; at most as many as were dead when it began.
async fn replay_many(
    State(context): State<Context>,
    query: Result<Query<ReplayQuery>, QueryRejection>,
) -> Answer<Replayed> {
    let Query(query) = query.map_err(bad_query)?;
    let (mut replayed, mut dead_at_start, mut after) = (0, None, None);
    loop {
        let left =
            dead_at_start.map_or(REPLAY_PAGE.into(), |dead: u64| dead.saturating_sub(replayed));
        let page = ask(&context, |reply| Command::ReplayPage {
            connection: query.connection.clone(),
            after: after.take(),
            limit: u32::try_from(left).unwrap_or(REPLAY_PAGE).min(REPLAY_PAGE),
            reply,
        });
        let page = page.await??;
        replayed += page.replayed;
        let dead = *dead_at_start.get_or_insert(page.dead_before);
        after = page.next;
        if after.is_none() || replayed >= dead {
            return Ok(Json(Replayed { replayed }));
        }
    }
}

async fn reload(State(context): State<Context>) -> Answer<Reloaded> {
    Ok(Json(ask(&context, Command::Reload).await??))
}

async fn find_dead(
    context: &Context,
    connection: String,
    event: &str,
) -> Result<DeadEvent, Problem> {
    let event = parse_id(event)?;
    let found = ask(context, |reply| Command::DeadShow { connection, event, reply });
    Ok(found.await??)
}

fn detail(dead: DeadEvent) -> DeadDetail {
    let content = &dead.event.content;
    let body = content.body();
    DeadDetail {
        dead_letter: dead.dead_letter,
        source: content.source().to_owned(),
        kind: content.kind().to_owned(),
        headers: content.headers().map(header_of).collect(),
        body_bytes: body.len() as u64,
        body_excerpt: excerpt(&body),
    }
}

fn header_of((name, value): (&str, &[u8])) -> Header {
    Header { name: name.to_owned(), value: String::from_utf8_lossy(value).into_owned() }
}

/// The start of a body that is text, cut between characters.
fn excerpt(body: &[u8]) -> Option<String> {
    let start = body.get(..EXCERPT_BYTES).unwrap_or(body);
    match std::str::from_utf8(start) {
        Ok(text) => Some(text.to_owned()),
        // Only the cut made it illegal.
        Err(error) if error.error_len().is_none() && start.len() < body.len() => {
            let legal = start.get(..error.valid_up_to())?;
            std::str::from_utf8(legal).ok().map(str::to_owned)
        }
        Err(_) => None,
    }
}

fn parse_id(text: &str) -> Result<EventId, Problem> {
    text.parse()
        .map_err(|error: crate::event::InvalidEventId| Problem::malformed(error.to_string()))
}

#[expect(clippy::needless_pass_by_value, reason = "what map_err hands over")]
fn bad_query(rejection: QueryRejection) -> Problem {
    Problem::malformed(rejection.body_text())
}

/// Sends a command to the control loop and waits for its answer.
async fn ask<T>(
    context: &Context,
    command: impl FnOnce(Reply<T>) -> Command,
) -> Result<T, Problem> {
    let (reply, answer) = oneshot::channel();
    let shutting_down = || Problem::unavailable("shutting_down", "the daemon is shutting down");
    context.commands.try_send(command(reply)).map_err(|error| match error {
        TrySendError::Full(_) => {
            Problem::unavailable("busy", "too many commands wait for the daemon; try again")
        }
        TrySendError::Closed(_) => shutting_down(),
    })?;
    match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
        Ok(answer) => answer.map_err(|_| shutting_down()),
        Err(_) => Err(Problem::unavailable(
            "no_answer",
            format!(
                "the daemon did not answer in {} s; it may still do it",
                ANSWER_TIMEOUT.as_secs()
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpts_are_text_or_nothing() {
        assert_eq!(excerpt(b"{\"a\":1}").as_deref(), Some("{\"a\":1}"));
        assert_eq!(excerpt(b"\xff\x00"), None);
        assert_eq!(excerpt("é".as_bytes().get(..1).unwrap()), None, "cut by the producer");
        let long = "é".repeat(EXCERPT_BYTES);
        assert_eq!(excerpt(long.as_bytes()).unwrap().len(), EXCERPT_BYTES);
        let odd = format!("a{long}");
        assert_eq!(excerpt(odd.as_bytes()).unwrap().len(), EXCERPT_BYTES - 1);
    }

    #[test]
    fn the_page_types_are_those_of_the_api() {
        let page: Page<DeadLetter> = Page {
            pagination: crate::admin::api::Pagination { limit: 1, next: None },
            count: 0,
            models: Vec::new(),
        };
        let json = serde_json::to_string(&page).unwrap();
        assert_eq!(json, r#"{"pagination":{"limit":1,"next":null},"count":0,"models":[]}"#);
    }
}
