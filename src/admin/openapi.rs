//! The OpenAPI 3.1 document. Each route's part stands at its function (`utoipa::path`), so what is served is what is
//! described; the schema of a connection is made of the tables of configuration fields, by the daemon.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::Value as Json;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{Object, ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    Content, InfoBuilder, OpenApi, PathItem, Ref, Response, ResponseBuilder, ResponsesBuilder,
};
use utoipa::{IntoResponses, PartialSchema, ToSchema};

use super::api::{ConfigProblem, ProblemDocument};
use super::manage::Scope;

/// The name of the security scheme.
const TOKEN: &str = "token";

/// A document without routes.
pub(super) fn empty() -> OpenApi {
    let info = InfoBuilder::new()
        .title("posthaste")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("The admin API. On the Unix socket everything is allowed; over TCP it takes a bearer token of a scope: read, operate or admin. Refusals are problem documents (RFC 9457) with a stable `code`."));
    let mut document = OpenApi::new(info.build(), utoipa::openapi::Paths::new());
    let token = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    let mut components = utoipa::openapi::Components::new();
    components.add_security_scheme(TOKEN, SecurityScheme::Http(token));
    document.components = Some(components);
    document
}

/// Says of each route that it takes a token of this scope.
pub(super) fn secure(document: &mut OpenApi, scope: Scope) {
    for item in document.paths.paths.values_mut() {
        for operation in operations(item) {
            operation.security =
                Some(vec![SecurityRequirement::new(TOKEN, [scope.as_str().to_owned()])]);
        }
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut utoipa::openapi::path::Operation> {
    [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.patch]
        .into_iter()
        .flatten()
}

/// The whole document, with the schemas of a connection in it.
pub(super) fn render(document: &OpenApi, connection: &Json) -> String {
    let mut json = serde_json::to_value(document).unwrap_or_default();
    let schemas = json.pointer_mut("/components/schemas").and_then(Json::as_object_mut);
    if let (Some(schemas), Json::Object(connection)) = (schemas, connection) {
        for (name, schema) in connection {
            schemas.insert(name.clone(), schema.clone());
        }
    }
    json.to_string()
}

/// Stands for the schema of a connection in a request.
pub(super) struct ConnectionInput;
/// Stands for the schema of a patch of a connection.
pub(super) struct ConnectionPatch;

macro_rules! placeholder {
    ($type:ty, $name:literal) => {
        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                Object::new().into()
            }
        }
        impl ToSchema for $type {
            fn name() -> Cow<'static, str> {
                $name.into()
            }
        }
    };
}
placeholder!(ConnectionInput, "ConnectionInput");
placeholder!(ConnectionPatch, "ConnectionPatch");

/// The refusals that any route may answer with.
pub(super) struct Refused;

impl IntoResponses for Refused {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let content = Content::new(Some(Ref::from_schema_name("ProblemDocument")));
        let response = ResponseBuilder::new()
            .description("a refusal; `code` says which")
            .content(crate::problem::MEDIA_TYPE, content)
            .build();
        let responses = ResponsesBuilder::new().response("default", response).build();
        responses.responses
    }
}

/// What [`Refused`] refers to.
pub(super) fn problem_schemas() -> Vec<(String, RefOr<Schema>)> {
    vec![
        ("ProblemDocument".to_owned(), <ProblemDocument as PartialSchema>::schema()),
        ("ConfigProblem".to_owned(), <ConfigProblem as PartialSchema>::schema()),
    ]
}

fn one_of(words: &[&'static str]) -> Object {
    ObjectBuilder::new()
        .schema_type(SchemaType::Type(Type::String))
        .enum_values(Some(words.iter().copied()))
        .build()
}

/// Of the parameter `state`.
pub(super) fn states() -> Object {
    one_of(&["active", "paused", "disabled", "archived"])
}

/// Stands for a ZIP file.
pub(super) struct ZipFile;

impl PartialSchema for ZipFile {
    fn schema() -> RefOr<Schema> {
        let binary = utoipa::openapi::SchemaFormat::Custom("binary".to_owned());
        ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).format(Some(binary)).into()
    }
}

impl ToSchema for ZipFile {
    fn name() -> Cow<'static, str> {
        "ZipFile".into()
    }
}

/// Of the parameter `on_conflict`.
pub(super) fn conflicts() -> Object {
    one_of(&["fail", "overwrite", "rename"])
}

/// Of the parameter `missing`.
pub(super) fn missings() -> Object {
    one_of(&["fail", "skip"])
}

/// Of the parameter `order_by`.
pub(super) fn orders() -> Object {
    one_of(&["name", "state", "host"])
}

/// Of the parameter `dir`.
pub(super) fn directions() -> Object {
    one_of(&["asc", "desc"])
}
