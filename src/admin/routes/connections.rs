//! Connections as configuration: listed, shown, edited.

use axum::Json;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{FromRequest, Path, Query, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{Answer, Refused, ask, bad_query, checked_limit};
use crate::admin::Context;
use crate::admin::api::Connection;
use crate::admin::api::connections::{ConnectionsPage, Count, Document, Object};
use crate::admin::command::Command;
use crate::admin::manage::{
    Action, Between, Caller, Change, Condition, Cursor, Edit, Edited, Filter, Listing, OrderBy,
};
use crate::admin::openapi::{ConnectionInput, ConnectionPatch};
use crate::admin::problem::Problem;

/// The largest document that is taken. A connection has a few hundred bytes.
pub(super) const DOCUMENT_BYTES_MAX: usize = 1 << 20;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// A pattern of the name: `*` is any text, `?` any character; upper and lower case are the same.
    name: Option<String>,
    /// Labels that it must have: `team=sales`, or `team` for any value; several with commas.
    label: Option<String>,
    /// Only of this state. Disabled and archived ones are left out otherwise.
    #[param(schema_with = states)]
    state: Option<String>,
    /// Only those that this source feeds.
    source: Option<String>,
    /// Only those that deliver to this host.
    host: Option<String>,
    /// Disabled ones too.
    #[serde(default)]
    include_disabled: bool,
    /// Archived ones too.
    #[serde(default)]
    include_archived: bool,
    /// Only those that are paused since this time (RFC 3339) or later; a duration is as long ago.
    #[serde(rename = "paused_at[gte]")]
    paused_from: Option<String>,
    /// Only those that are paused since this time or earlier.
    #[serde(rename = "paused_at[lte]")]
    paused_to: Option<String>,
    /// Only those that are disabled since this time or later.
    #[serde(rename = "disabled_at[gte]")]
    disabled_from: Option<String>,
    /// Only those that are disabled since this time or earlier.
    #[serde(rename = "disabled_at[lte]")]
    disabled_to: Option<String>,
    /// What the list is ordered by.
    #[param(schema_with = orders)]
    order_by: Option<String>,
    /// In which direction.
    #[param(schema_with = directions)]
    dir: Option<String>,
    /// Connections on the page; 100 if it is not said.
    #[param(minimum = 1, maximum = 255)]
    limit: Option<u32>,
    /// The page after the one whose `pagination.next` this is.
    next: Option<String>,
    /// The page before the one whose `pagination.prev` this is.
    prev: Option<String>,
}

use crate::admin::openapi::{directions, orders, states};

impl ListQuery {
    fn listing(self, context: &Context) -> Result<Listing, Problem> {
        let order_by = match self.order_by.as_deref() {
            None | Some("name") => OrderBy::Name,
            Some("state") => OrderBy::State,
            Some("host") => OrderBy::Host,
            Some(_) => return Err(Problem::malformed("order_by is name, state or host")),
        };
        let descending = match self.dir.as_deref() {
            None | Some("asc") => false,
            Some("desc") => true,
            Some(_) => return Err(Problem::malformed("dir is asc or desc")),
        };
        if let Some(state) = self.state.as_deref()
            && !["active", "paused", "disabled", "archived"].contains(&state)
        {
            return Err(Problem::malformed("state is active, paused, disabled or archived"));
        }
        let (text, back) = match (&self.next, &self.prev) {
            (Some(_), Some(_)) => {
                return Err(Problem::malformed("next and prev exclude each other"));
            }
            (next, None) => (next, false),
            (None, prev) => (prev, true),
        };
        let cursor = text.as_deref().map(|text| {
            Cursor::from_text(text, order_by, back).ok_or_else(|| {
                let message = "not a cursor of this list; take it from `pagination`";
                Problem::new(StatusCode::BAD_REQUEST, "bad_cursor", "Bad cursor", message)
            })
        });
        let between = |from: &Option<String>, to: &Option<String>| {
            let time = |text: &Option<String>| {
                text.as_deref()
                    .map(|text| super::history::parse_since(text, &context.clock))
                    .transpose()
            };
            Ok::<_, Problem>(Between { from: time(from)?, to: time(to)? })
        };
        Ok(Listing {
            order_by,
            descending,
            limit: checked_limit(self.limit)?,
            cursor: cursor.transpose()?,
            filter: Filter {
                paused: between(&self.paused_from, &self.paused_to)?,
                disabled: between(&self.disabled_from, &self.disabled_to)?,
                labels: self.label.as_deref().map(labels).unwrap_or_default(),
                name: self.name,
                state: self.state,
                source: self.source,
                host: self.host,
                include_disabled: self.include_disabled,
                include_archived: self.include_archived,
            },
        })
    }
}

fn labels(text: &str) -> Vec<(String, Option<String>)> {
    let one = |part: &str| match part.split_once('=') {
        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
        None => (part.to_owned(), None),
    };
    text.split(',').filter(|part| !part.is_empty()).map(one).collect()
}

/// List the connections in force
#[utoipa::path(get, path = "/v1/connections", tag = "connections", params(ListQuery),
    responses((status = 200, description = "a page", body = ConnectionsPage), Refused))]
pub(super) async fn connections_list(
    State(context): State<Context>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Answer<ConnectionsPage> {
    let Query(query) = query.map_err(bad_query)?;
    let listing = query.listing(&context)?;
    Ok(Json(ask(&context, |reply| Command::Connections { listing, reply }).await??))
}

/// Count the connections in force
#[utoipa::path(get, path = "/v1/connections/count", tag = "connections", params(ListQuery),
    responses((status = 200, description = "how many the list would have, over all pages", body = Count), Refused))]
pub(super) async fn connections_count(
    State(context): State<Context>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Answer<Count> {
    let Query(query) = query.map_err(bad_query)?;
    let filter = query.listing(&context)?.filter;
    let count = ask(&context, |reply| Command::ConnectionsCount { filter, reply }).await?;
    Ok(Json(Count { count }))
}

/// Show a connection as its file has it
#[utoipa::path(get, path = "/v1/connections/{name}", tag = "connections",
    params(("name" = String, Path, description = "the connection's name")),
    responses((status = 200, description = "the connection", body = Document,
        headers(("ETag" = String, description = "which version of it"))), Refused))]
pub(super) async fn connection_show(
    State(context): State<Context>,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    let document = ask(&context, |reply| Command::ConnectionShow { name, reply }).await??;
    Ok(shown(StatusCode::OK, document))
}

/// Show how a connection does
#[utoipa::path(get, path = "/v1/connections/{name}/status", tag = "connections",
    params(("name" = String, Path, description = "the connection's name")),
    responses((status = 200, description = "its queue and its last error", body = Connection), Refused))]
pub(super) async fn connection_status(
    State(context): State<Context>,
    Path(name): Path<String>,
) -> Answer<Connection> {
    Ok(Json(ask(&context, |reply| Command::ConnectionStatus { name, reply }).await??))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ActQuery {
    /// Whether it is put in force at once. If it is not said: unless the configuration has `reload = "manual"`.
    reload: Option<bool>,
    /// With `pause`: until the daemon is started again, and without a change to the file.
    until_restart: Option<bool>,
}

/// Who edits, and under which conditions.
pub(super) struct Editor {
    context: Context,
    caller: Caller,
    condition: Condition,
    reload: Option<bool>,
    until_restart: Option<bool>,
}

impl FromRequest<Context> for Editor {
    type Rejection = Problem;

    async fn from_request(request: Request, context: &Context) -> Result<Editor, Problem> {
        let (mut parts, _) = request.into_parts();
        Editor::of_parts(&mut parts, context)
    }
}

impl Editor {
    fn of_parts(parts: &mut http::request::Parts, context: &Context) -> Result<Editor, Problem> {
        let Query(query) = Query::<ActQuery>::try_from_uri(&parts.uri).map_err(bad_query)?;
        let nobody = || Caller { by: "nobody".to_owned(), scope: None };
        Ok(Editor {
            context: context.clone(),
            caller: parts.extensions.remove::<Caller>().unwrap_or_else(nobody),
            condition: condition(&parts.headers)?,
            reload: query.reload,
            until_restart: query.until_restart,
        })
    }

    async fn edit(self, name: String, change: Change) -> Result<Edited, Problem> {
        let Editor { context, caller, condition, reload, until_restart } = self;
        let change = match (change, until_restart) {
            (Change::Act(Action::Pause), Some(true)) => Change::Act(Action::PauseUntilRestart),
            (change @ Change::Act(Action::Pause), _) | (change, None) => change,
            (_, Some(_)) => return Err(Problem::malformed("until_restart goes with pause alone")),
        };
        let edit = Edit { name, change, condition, reload, by: caller.by };
        Ok(ask(&context, |reply| Command::Edit { edit, reply }).await??)
    }
}

/// The editor and the document that it sends.
pub(super) struct Sent {
    editor: Editor,
    document: Object,
}

impl FromRequest<Context> for Sent {
    type Rejection = Problem;

    async fn from_request(request: Request, context: &Context) -> Result<Sent, Problem> {
        let patch = request.method() == http::Method::PATCH;
        let (mut parts, body) = request.into_parts();
        json_type(&parts.headers, patch)?;
        let editor = Editor::of_parts(&mut parts, context)?;
        let body = read_body(Request::from_parts(parts, body), context).await?;
        let document = serde_json::from_slice::<Object>(&body).map_err(|error| {
            Problem::malformed(format!("the body is not a JSON object: {error}"))
        })?;
        Ok(Sent { editor, document })
    }
}

/// Reads a body, within [`DOCUMENT_BYTES_MAX`] and [`super::BODY_TIMEOUT`].
pub(super) async fn read_body(request: Request, context: &Context) -> Result<Bytes, Problem> {
    let limit = |body| http_body_util::Limited::new(body, DOCUMENT_BYTES_MAX);
    let request = request.map(|body| axum::body::Body::new(limit(body)));
    let body = Bytes::from_request(request, context);
    let body = tokio::time::timeout(super::BODY_TIMEOUT, body).await.map_err(|_| {
        let message = "the document took too long to arrive";
        Problem::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", "Too slow", message)
    })?;
    body.map_err(|rejection| bad_body(&rejection))
}

fn bad_body(rejection: &BytesRejection) -> Problem {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        let message = format!("a document has at most {DOCUMENT_BYTES_MAX} bytes");
        return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "Too large", message);
    }
    Problem::malformed("the body broke off")
}

/// Bodies are JSON; another type would be read as something that it is not.
pub(super) fn json_type(headers: &HeaderMap, patch: bool) -> Result<(), Problem> {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = value.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let json = kind.eq_ignore_ascii_case("application/json");
    if json || patch && kind.eq_ignore_ascii_case("application/merge-patch+json") {
        return Ok(());
    }
    let message = "send application/json, or application/merge-patch+json with PATCH";
    Err(Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        "Unsupported media type",
        message,
    ))
}

/// `If-Match` and `If-None-Match` (RFC 9110, 13.1). Etags here are strong and hold no comma.
fn condition(headers: &HeaderMap) -> Result<Condition, Problem> {
    let mut if_match = Vec::new();
    for tag in listed(headers, header::IF_MATCH)? {
        let bare = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
        match bare {
            Some(tag) => if_match.push(tag.to_owned()),
            None if tag == "*" => if_match.push(tag),
            None => {
                return Err(Problem::malformed(
                    "If-Match takes etags in double quotes, as the ETag header has them, or *",
                ));
            }
        }
    }
    let none = listed(headers, header::IF_NONE_MATCH)?;
    match none.as_slice() {
        [] => Ok(Condition { if_match, if_none: false }),
        [star] if star == "*" => Ok(Condition { if_match, if_none: true }),
        _ => Err(Problem::malformed("of If-None-Match, * is supported alone")),
    }
}

fn listed(headers: &HeaderMap, name: HeaderName) -> Result<Vec<String>, Problem> {
    let mut tags = Vec::new();
    for value in headers.get_all(&name) {
        let text = value.to_str().map_err(|_| Problem::malformed(format!("{name} is not text")))?;
        tags.extend(text.split(',').map(|tag| tag.trim().to_owned()));
    }
    Ok(tags)
}

/// Create a connection
#[utoipa::path(post, path = "/v1/connections", tag = "connections", params(("reload" = Option<bool>, Query, description = "whether it is put in force at once; if it is not said, unless the configuration has `reload = \"manual\"`")),
    request_body = ConnectionInput,
    responses((status = 201, description = "it was created", body = Document,
        headers(("ETag" = String), ("Location" = String))), Refused))]
pub(super) async fn connection_create(sent: Sent) -> Result<Response, Problem> {
    let name = match sent.document.get("name") {
        Some(serde_json::Value::String(name)) => name.clone(),
        Some(_) => return Err(Problem::invalid("name is not a string")),
        None => return Err(Problem::invalid("name is missing")),
    };
    let edited = sent.editor.edit(name, Change::Create(sent.document)).await?;
    Ok(answer(edited))
}

/// Replace a connection, or create it
#[utoipa::path(put, path = "/v1/connections/{name}", tag = "connections",
    params(("name" = String, Path, description = "the connection's name"), 
        ("reload" = Option<bool>, Query, description = "whether it is put in force at once; if it is not said, unless the configuration has `reload = \"manual\"`"),
        ("If-Match" = Option<String>, Header, description = "only this version"),
        ("If-None-Match" = Option<String>, Header, description = "`*`: only if there is none")),
    request_body = ConnectionInput,
    responses((status = 200, description = "it was replaced", body = Document, headers(("ETag" = String))),
        (status = 201, description = "it was created", body = Document,
        headers(("ETag" = String), ("Location" = String))), Refused))]
pub(super) async fn connection_replace(
    Path(name): Path<String>,
    sent: Sent,
) -> Result<Response, Problem> {
    Ok(answer(sent.editor.edit(name, Change::Replace(sent.document)).await?))
}

/// Change some keys of a connection (RFC 7396)
#[utoipa::path(patch, path = "/v1/connections/{name}", tag = "connections",
    params(("name" = String, Path, description = "the connection's name"), 
        ("reload" = Option<bool>, Query, description = "whether it is put in force at once; if it is not said, unless the configuration has `reload = \"manual\"`"),
        ("If-Match" = Option<String>, Header, description = "only this version")),
    request_body(content((ConnectionPatch = "application/merge-patch+json"), (ConnectionPatch = "application/json"))),
    responses((status = 200, description = "it was changed", body = Document, headers(("ETag" = String))), Refused))]
pub(super) async fn connection_patch(
    Path(name): Path<String>,
    sent: Sent,
) -> Result<Response, Problem> {
    Ok(answer(sent.editor.edit(name, Change::Patch(sent.document)).await?))
}

/// Delete a connection; what waits for it is held, or cancelled, as its `on_remove` says
#[utoipa::path(delete, path = "/v1/connections/{name}", tag = "connections",
    params(("name" = String, Path, description = "the connection's name"), 
        ("reload" = Option<bool>, Query, description = "whether it is put in force at once; if it is not said, unless the configuration has `reload = \"manual\"`"),
        ("If-Match" = Option<String>, Header, description = "only this version")),
    responses((status = 204, description = "it is gone"), Refused))]
pub(super) async fn connection_delete(
    Path(name): Path<String>,
    editor: Editor,
) -> Result<StatusCode, Problem> {
    editor.edit(name, Change::Delete).await.map(|_| StatusCode::NO_CONTENT)
}

/// Change a connection's state
#[utoipa::path(post, path = "/v1/connections/{name}/{action}", tag = "connections",
    operation_id = "connection_act",
    params(("name" = String, Path, description = "the connection's name"),
        ("action" = String, Path, description = "what to do", pattern = "^(pause|resume|unpause|enable|disable|archive|unarchive)$"),
        ActQuery, ("If-Match" = Option<String>, Header, description = "only this version")),
    responses((status = 200, description = "its state is that", body = Document, headers(("ETag" = String))), Refused))]
pub(super) async fn connection_act(
    Path((name, action)): Path<(String, String)>,
    editor: Editor,
) -> Result<Response, Problem> {
    act(name, &action, editor).await
}

/// Change a connection's state
#[utoipa::path(put, path = "/v1/connections/{name}/{action}", tag = "connections",
    operation_id = "connection_act_put",
    params(("name" = String, Path, description = "the connection's name"),
        ("action" = String, Path, description = "what to do", pattern = "^(pause|resume|unpause|enable|disable|archive|unarchive)$"),
        ActQuery, ("If-Match" = Option<String>, Header, description = "only this version")),
    responses((status = 200, description = "its state is that", body = Document, headers(("ETag" = String))), Refused))]
pub(super) async fn connection_act_put(
    Path((name, action)): Path<(String, String)>,
    editor: Editor,
) -> Result<Response, Problem> {
    act(name, &action, editor).await
}

async fn act(name: String, action: &str, editor: Editor) -> Result<Response, Problem> {
    let action = Action::parse(action).ok_or_else(|| super::not_found("there is no such route"))?;
    Ok(answer(editor.edit(name, Change::Act(action)).await?))
}

fn answer(edited: Edited) -> Response {
    let Edited { document, created } = edited;
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    match document {
        None => StatusCode::NO_CONTENT.into_response(),
        Some(document) => {
            let name = document.keys.get("name").and_then(|name| name.as_str());
            let location = format!("/v1/connections/{}", name.unwrap_or_default());
            let mut response = shown(status, document);
            if let Some(location) = HeaderValue::from_str(&location).ok().filter(|_| created) {
                response.headers_mut().insert(header::LOCATION, location);
            }
            response
        }
    }
}

fn shown(status: StatusCode, document: Document) -> Response {
    let etag = HeaderValue::from_str(&format!("\"{}\"", document.meta.etag));
    let mut response = (status, Json(document)).into_response();
    if let Ok(etag) = etag {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response
}
