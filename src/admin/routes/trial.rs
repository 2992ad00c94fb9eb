//! Tests of connections.

use axum::Json;
use axum::extract::{FromRequest, Path, Query, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;

use super::connections::{json_type, read_body};
use super::{Answer, Refused, ask, bad_query};
use crate::admin::Context;
use crate::admin::api::connections::Object;
use crate::admin::api::trial::TestReport;
use crate::admin::command::{Command, Subject, Test};
use crate::admin::manage::Caller;
use crate::admin::openapi::ConnectionInput;
use crate::admin::problem::Problem;

/// The path of tests of what is not saved. It is served as a name in `/v1/connections/{name}`, because a connection may have
/// that name, and it takes nothing but POST.
const UNSAVED: &str = "/v1/connections/test";
/// The place of [`UNSAVED`].
const NAMED: &str = "/v1/connections/{name}";
/// What else [`NAMED`] takes.
const ALLOW: &str = "GET,HEAD,PUT,PATCH,DELETE";

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TestQuery {
    /// Whether the event is sent. Otherwise the way to the target is tried, and no request made.
    #[serde(default)]
    send: bool,
}

/// A request for a test.
pub(super) struct Sent {
    context: Context,
    send: bool,
    by: String,
    content_type: Option<HeaderValue>,
    body: Bytes,
}

impl FromRequest<Context> for Sent {
    type Rejection = Problem;

    async fn from_request(request: Request, context: &Context) -> Result<Sent, Problem> {
        let Query(query) = Query::<TestQuery>::try_from_uri(request.uri()).map_err(bad_query)?;
        let by = request.extensions().get::<Caller>().map(|caller| caller.by.clone());
        let content_type = request.headers().get(header::CONTENT_TYPE).cloned();
        let body = read_body(request, context).await?;
        let by = by.unwrap_or_else(|| "nobody".to_owned());
        Ok(Sent { context: context.clone(), send: query.send, by, content_type, body })
    }
}

impl Sent {
    async fn test(&self, test: Test) -> Answer<TestReport> {
        let testing = ask(&self.context, |reply| Command::Test { test, reply }).await??;
        let report = testing.await;
        let stopping = || Problem::unavailable("shutting_down", "the daemon is shutting down");
        report.map(Json).ok_or_else(stopping)
    }
}

/// Test a connection
///
/// Its name is looked up, its address dialled, TLS agreed on and a token asked for, as a delivery would; queue, breaker and
/// metrics take no notice. With `send` an event is sent that says that it is a test. The body, if there is one, is the event's.
/// What is wrong with the connection is in the report, whose status is 200.
#[utoipa::path(post, path = "/v1/connections/{name}/test", tag = "connections",
    params(("name" = String, Path, description = "the connection's name"), TestQuery),
    request_body(content = Option<String>, content_type = "application/octet-stream", description = "the event's body; one that says that it is a test, if there is none"),
    responses((status = 200, description = "what was found", body = TestReport), Refused))]
pub(super) async fn connection_test(Path(name): Path<String>, sent: Sent) -> Answer<TestReport> {
    let own = !sent.body.is_empty();
    let kind = sent.content_type.as_ref().and_then(|value| value.to_str().ok());
    let test = Test {
        subject: Subject::Saved(name),
        send: sent.send,
        by: sent.by.clone(),
        body: own.then(|| sent.body.to_vec()),
        content_type: kind.filter(|_| own).map(str::to_owned),
    };
    sent.test(test).await
}

/// Test a connection before it is saved
///
/// The same for the connection in the body; nothing is written. It takes the scope that saving takes, because it may name
/// secrets, and where they go.
#[utoipa::path(post, path = "/v1/connections/test", tag = "connections", params(TestQuery),
    request_body = ConnectionInput,
    responses((status = 200, description = "what was found", body = TestReport), Refused))]
async fn connection_test_unsaved(sent: Sent) -> Answer<TestReport> {
    let mut headers = http::HeaderMap::new();
    headers.extend(sent.content_type.clone().map(|value| (header::CONTENT_TYPE, value)));
    json_type(&headers, false)?;
    let document = serde_json::from_slice::<Object>(&sent.body)
        .map_err(|error| Problem::malformed(format!("the body is not a JSON object: {error}")))?;
    let (subject, by) = (Subject::Document(document), sent.by.clone());
    let test = Test { subject, send: sent.send, by, body: None, content_type: None };
    sent.test(test).await
}

/// Adds the route of tests of what is not saved, and its description.
pub(super) fn with_unsaved(routes: OpenApiRouter<Context>) -> OpenApiRouter<Context> {
    let mut routes = routes.route(NAMED, axum::routing::post(post_named));
    let mut operation = <__path_connection_test_unsaved as utoipa::Path>::operation();
    operation.tags = Some(vec!["connections".to_owned()]);
    let methods = <__path_connection_test_unsaved as utoipa::Path>::methods();
    routes.get_openapi_mut().paths.add_path_operation(UNSAVED, methods, operation);
    routes
}

async fn post_named(
    State(context): State<Context>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    if UNSAVED.rsplit('/').next() == Some(name.as_str()) {
        let sent = Sent::from_request(request, &context).await?;
        return Ok(connection_test_unsaved(sent).await.into_response());
    }
    let detail = "the Allow header says what this route takes";
    let (status, title) = (StatusCode::METHOD_NOT_ALLOWED, "Method not allowed");
    let mut response = Problem::new(status, "method_not_allowed", title, detail).into_response();
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(ALLOW));
    Ok(response)
}
