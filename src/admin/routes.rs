//! The routes: a small function each. They read the request, ask the daemon, and write the answer.

mod configuration;
mod connections;
mod deliveries;
mod history;
mod jobs;
mod transfer;
mod trial;

use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::access::require;
use super::api::{DeadDetail, Header, Replayed, Status};
use super::command::{Command, DeadEvent, Reply};
use super::manage::Scope;
use super::openapi::{self, Refused};
use super::problem::Problem;
use super::{Context, Readiness};
use crate::event::EventId;

/// How long the control loop may take for one command. A reload dials nothing; it reads files and builds clients.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a document may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Dead letters on a page of a list, unless asked otherwise.
const LIMIT_DEFAULT: u32 = 100;
/// The most that can be asked for.
const LIMIT_MAX: u32 = 255;
/// Bytes of a body shown with a dead letter; all of it is at `…/body`.
const EXCERPT_BYTES: usize = 4096;

type Answer<T> = Result<Json<T>, Problem>;

/// All routes, each behind the scope that it takes. Their descriptions take more memory than the routes: they are dropped here,
/// and made again for whoever asks for the document.
pub(super) fn all(context: Context) -> Router {
    let schemas = context.schemas;
    let json = [(header::CONTENT_TYPE, "application/json")];
    let served = get(async move || (json, openapi::render(&described(), &schemas())));
    let read = axum::middleware::from_fn(|request, next| require(Scope::Read, request, next));
    let bare = |routes: Router<Context>, group: fn() -> OpenApiRouter<Context>| {
        routes.merge(group().split_for_parts().0)
    };
    GROUPS
        .into_iter()
        .fold(Router::new(), bare)
        .route("/openapi.json", served.route_layer(read))
        .method_not_allowed_fallback(async || {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "Method not allowed",
                "the Allow header says what this route takes",
            )
        })
        .fallback(async || not_found("there is no such route"))
        .with_state(context)
}

/// The routes with their descriptions, by scope; all but the one of the description itself.
const GROUPS: [fn() -> OpenApiRouter<Context>; 4] = [
    open,
    || scoped(reading(), Scope::Read),
    || scoped(operating(), Scope::Operate),
    || scoped(administering(), Scope::Admin),
];

fn described() -> OpenApi {
    let mut document = openapi::empty();
    if let Some(components) = &mut document.components {
        components.schemas.extend(openapi::problem_schemas());
    }
    let whole = |document: OpenApiRouter<Context>, group: fn() -> OpenApiRouter<Context>| {
        document.merge(group())
    };
    GROUPS.into_iter().fold(OpenApiRouter::with_openapi(document), whole).into_openapi()
}

/// For whoever watches; no scope.
fn open() -> OpenApiRouter<Context> {
    OpenApiRouter::new().routes(routes!(metrics)).routes(routes!(healthz)).routes(routes!(readyz))
}

/// Looks; changes nothing.
fn reading() -> OpenApiRouter<Context> {
    OpenApiRouter::new()
        .routes(routes!(status))
        .routes(routes!(jobs::dead_list))
        .routes(routes!(jobs::dead_plan))
        .routes(routes!(dead_show))
        .routes(routes!(dead_body))
        .routes(routes!(history::event_show))
        .routes(routes!(history::event_body))
        .routes(routes!(history::event_explain))
        .routes(routes!(history::attempts))
        .routes(routes!(deliveries::deliveries))
        .routes(routes!(jobs::jobs_list))
        .routes(routes!(jobs::job_show))
        .routes(routes!(connections::connections_list))
        .routes(routes!(connections::connections_count))
        .routes(routes!(connections::connection_show))
        .routes(routes!(connections::connection_status))
        .routes(routes!(transfer::connection_export))
        .routes(routes!(configuration::config_plan))
        .routes(routes!(configuration::audit))
}

/// Changes what happens, not what is configured to happen.
fn operating() -> OpenApiRouter<Context> {
    OpenApiRouter::new()
        .routes(routes!(jobs::dead_replay))
        .routes(routes!(jobs::dead_purge))
        .routes(routes!(jobs::job_cancel))
        .routes(routes!(jobs::connection_purge))
        .routes(routes!(replay_one))
        .routes(routes!(history::event_replay))
        .routes(routes!(history::event_retry))
        .routes(routes!(history::event_cancel))
        .routes(routes!(configuration::reload))
        .routes(routes!(connections::connection_act))
        .routes(routes!(connections::connection_act_put))
        .routes(routes!(trial::connection_test))
}

/// Changes the files.
fn administering() -> OpenApiRouter<Context> {
    trial::with_unsaved(OpenApiRouter::new())
        .routes(routes!(connections::connection_create))
        .routes(routes!(connections::connection_replace))
        .routes(routes!(connections::connection_patch))
        .routes(routes!(connections::connection_delete))
        .routes(routes!(transfer::import))
}

fn scoped(mut routes: OpenApiRouter<Context>, scope: Scope) -> OpenApiRouter<Context> {
    openapi::secure(routes.get_openapi_mut(), scope);
    routes
        .route_layer(axum::middleware::from_fn(move |request, next| require(scope, request, next)))
}

fn not_found(detail: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not_found", "Not found", detail)
}

/// Metrics for Prometheus
#[utoipa::path(get, path = "/metrics", tag = "watching",
    responses((status = 200, description = "the text format", content_type = "text/plain", body = String)))]
async fn metrics(State(context): State<Context>) -> Response {
    (context.refresh)();
    let text = context.metrics.render() + &crate::process::render_metrics(&context.clock);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// Whether the process lives
#[utoipa::path(get, path = "/healthz", tag = "watching",
    responses((status = 200, description = "it does", content_type = "text/plain", body = String)))]
async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether events are taken
#[utoipa::path(get, path = "/readyz", tag = "watching",
    responses((status = 200, description = "they are", content_type = "text/plain", body = String), Refused))]
async fn readyz(State(context): State<Context>) -> Result<&'static str, Problem> {
    match &*context.readiness.borrow() {
        Readiness::Ready => Ok("ready\n"),
        Readiness::NotReady(reason) => Err(Problem::unavailable("not_ready", reason.as_str())),
    }
}

/// Show how the daemon is
#[utoipa::path(get, path = "/v1/status", tag = "watching",
    responses((status = 200, description = "the daemon, its connections and its store", body = Status), Refused))]
async fn status(State(context): State<Context>) -> Answer<Status> {
    ask(&context, Command::Status).await.map(Json)
}

/// Show a dead letter and its event
#[utoipa::path(get, path = "/v1/connections/{name}/dead/{event}", tag = "dead letters",
    params(("name" = String, Path, description = "the connection"), ("event" = String, Path, description = "the event's id")),
    responses((status = 200, description = "both", body = DeadDetail), Refused))]
async fn dead_show(
    State(context): State<Context>,
    Path((connection, event)): Path<(String, String)>,
) -> Answer<DeadDetail> {
    find_dead(&context, connection, &event).await.map(|dead| Json(detail(dead)))
}

/// Show the body of a dead letter's event, byte for byte
#[utoipa::path(get, path = "/v1/connections/{name}/dead/{event}/body", tag = "dead letters",
    params(("name" = String, Path, description = "the connection"), ("event" = String, Path, description = "the event's id")),
    responses((status = 200, description = "the body", content_type = "application/octet-stream", body = String), Refused))]
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

/// Send a dead letter again
#[utoipa::path(post, path = "/v1/connections/{name}/dead/{event}/replay", tag = "dead letters",
    params(("name" = String, Path, description = "the connection"), ("event" = String, Path, description = "the event's id")),
    responses((status = 200, description = "it is queued", body = Replayed), Refused))]
async fn replay_one(
    State(context): State<Context>,
    Path((connection, event)): Path<(String, String)>,
) -> Answer<Replayed> {
    let event = parse_id(&event)?;
    ask(&context, |reply| Command::Replay { connection, event, reply }).await??;
    Ok(Json(Replayed { replayed: 1 }))
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
    use crate::admin::api::{DeadLetter, Page};

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
