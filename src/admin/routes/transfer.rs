//! Connections as ZIP files: out and in.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Path, Query, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{Answer, Refused, ask, bad_query};
use crate::admin::Context;
use crate::admin::api::transfer::Imported;
use crate::admin::command::Command;
use crate::admin::manage::{Caller, Import, OnConflict};
use crate::admin::openapi::{ZipFile, conflicts, missings};
use crate::admin::problem::Problem;

/// The largest ZIP that is taken.
const ZIP_BYTES_MAX: usize = 16 << 20;
const ZIP: &str = "application/zip";

/// Export a connection: its TOML, metadata and certificates, without keys and without values of secrets
#[utoipa::path(get, path = "/v1/connections/{name}/export", tag = "connections",
    params(("name" = String, Path, description = "the connection's name")),
    responses((status = 200, description = "a ZIP file", content_type = "application/zip", body = ZipFile,
        headers(("Content-Disposition" = String, description = "the name for the file"))), Refused))]
pub(super) async fn connection_export(
    State(context): State<Context>,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    let (file, bytes) = ask(&context, |reply| Command::Export { name, reply }).await??;
    let disposition = HeaderValue::from_str(&format!("attachment; filename=\"{file}\""));
    let mut response = ([(header::CONTENT_TYPE, ZIP)], bytes).into_response();
    if let Ok(disposition) = disposition {
        response.headers_mut().insert(header::CONTENT_DISPOSITION, disposition);
    }
    Ok(response)
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ImportQuery {
    /// Say what would be done, and do nothing.
    #[serde(default)]
    dry_run: bool,
    /// What becomes of a name that is taken; `fail` if it is not said.
    #[param(schema_with = conflicts)]
    on_conflict: Option<String>,
    /// What becomes of a connection that lacks secrets, certificates or sources; `fail` if it is not said.
    #[param(schema_with = missings)]
    missing: Option<String>,
    /// Whether it is put in force at once. If it is not said: unless the configuration has `reload = "manual"`.
    reload: Option<bool>,
}

/// Import an export, all or nothing
#[utoipa::path(post, path = "/v1/import", tag = "connections", params(ImportQuery),
    request_body(content = ZipFile, content_type = "application/zip"),
    responses((status = 200, description = "what was done, or would be", body = Imported), Refused))]
pub(super) async fn import(
    State(context): State<Context>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<ImportQuery>, QueryRejection>,
    request: Request,
) -> Answer<Imported> {
    let Query(query) = query.map_err(bad_query)?;
    let on_conflict = match query.on_conflict.as_deref() {
        None | Some("fail") => OnConflict::Fail,
        Some("overwrite") => OnConflict::Overwrite,
        Some("rename") => OnConflict::Rename,
        Some(_) => return Err(Problem::malformed("on_conflict is fail, overwrite or rename")),
    };
    let skip = match query.missing.as_deref() {
        None | Some("fail") => false,
        Some("skip") => true,
        Some(_) => return Err(Problem::malformed("missing is fail or skip")),
    };
    let bytes = body(request).await?;
    let import = Import {
        bytes,
        dry_run: query.dry_run,
        on_conflict,
        skip,
        reload: query.reload,
        by: caller.by,
    };
    Ok(Json(ask(&context, |reply| Command::Import { import, reply }).await??))
}

async fn body(request: Request) -> Result<Bytes, Problem> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case(ZIP) {
        let message = "send application/zip, as an export is";
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "Unsupported media type",
            message,
        ));
    }
    let body = Limited::new(request.into_body(), ZIP_BYTES_MAX).collect();
    let body = tokio::time::timeout(super::BODY_TIMEOUT, body).await.map_err(|_| {
        let message = "the ZIP took too long to arrive";
        Problem::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", "Too slow", message)
    })?;
    let body = body.map_err(|error| {
        if error.is::<LengthLimitError>() {
            let message = format!("a ZIP has at most {ZIP_BYTES_MAX} bytes");
            return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "Too large", message);
        }
        Problem::malformed("the body broke off")
    })?;
    Ok(body.to_bytes())
}
