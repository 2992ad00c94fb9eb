//! What the API says of connections as configuration, of plans and of the audit log.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder, Ref, Schema, SchemaType, Type};

/// A JSON object.
pub type Object = serde_json::Map<String, serde_json::Value>;

/// A connection: the keys of its table in the file, and what is known beside them. It may be sent back whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// The keys that its file has, with their names there. A secret in plain text is shown as `{ "fingerprint": … }`.
    #[serde(flatten)]
    pub keys: Object,
    /// What is not in the table. Ignored in requests.
    pub meta: Meta,
}

impl utoipa::PartialSchema for Document {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .description(Some("The keys of the connection's table in its file, and `meta`. A secret in plain text is shown as an object with its fingerprint."))
            .property("name", ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)))
            .required("name")
            .property("meta", Ref::from_schema_name("Meta"))
            .required("meta")
            .additional_properties(Some(AdditionalProperties::FreeForm(true)))
            .into()
    }
}

impl ToSchema for Document {
    fn name() -> std::borrow::Cow<'static, str> {
        "ConnectionDocument".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push(("Meta".to_owned(), <Meta as utoipa::PartialSchema>::schema()));
        <Meta as ToSchema>::schemas(schemas);
    }
}

/// What is known of a connection beside the keys of its table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Meta {
    /// The file that has it.
    pub file: String,
    /// Which version of it: what `If-Match` takes, without the quotes.
    pub etag: String,
    /// `active`, `paused` or `disabled`: after defaults and overlays, or stricter what the daemon made of it. `None` while it
    /// is not in force.
    pub state: Option<String>,
    /// Why the daemon holds it although its file does not, if it does.
    pub suspended: Option<super::Suspended>,
    /// Whether it is hidden from lists.
    pub archived: bool,
    /// Whether the daemon has loaded it. What else the file says may still wait for a reload.
    pub in_force: bool,
    /// The host that it delivers to; `None` while it is not in force.
    pub host: Option<String>,
    /// Since when it is paused, as far as that is known.
    pub paused_at: Option<String>,
    /// Since when it is disabled, as far as that is known.
    pub disabled_at: Option<String>,
}

/// A page of connections.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConnectionsPage {
    /// Where this page lies.
    pub pagination: Cursors,
    /// How many are on it.
    pub count: usize,
    /// What is on it.
    pub models: Vec<Document>,
}

/// Where a page lies in its list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Cursors {
    /// What it is ordered by.
    pub order_by: String,
    /// `asc` or `desc`.
    pub dir: String,
    /// How many were asked for.
    pub limit: u32,
    /// What `next` must be for the next page; `None` on the last one.
    pub next: Option<String>,
    /// What `prev` must be for the page before; `None` on the first one.
    pub prev: Option<String>,
}

/// How many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Count {
    /// So many.
    pub count: u64,
}

/// What a reload would do now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    /// What would happen to each connection that is not as it was, by name.
    pub connections: Vec<Planned>,
    /// Keys of the daemon's own file that would change.
    pub daemon: Vec<String>,
    /// Keys of the daemon's own file that have changed and need a restart. A reload is refused until then.
    pub needs_restart: Vec<String>,
    /// One line for each thing that is legal and unwise.
    pub warnings: Vec<String>,
}

/// What would happen to a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Planned {
    /// Its name.
    pub name: String,
    /// `added`, `changed` or `removed`.
    pub change: String,
    /// The settings that are different.
    pub settings: Vec<String>,
    /// Deliveries that wait for it now.
    pub waiting: u64,
    /// What happens to them.
    pub effect: String,
}

/// A page of the audit log, the newest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AuditPage {
    /// Where this page lies.
    pub pagination: super::Pagination,
    /// How many are on it.
    pub count: usize,
    /// What is on it.
    pub models: Vec<AuditRecord>,
}

/// One accepted change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditRecord {
    /// Counts up, over restarts.
    pub seq: u64,
    /// When.
    pub at: String,
    /// Who: `unix uid N`, `token NAME`, `files` or `signal`.
    pub by: String,
    /// What: `create`, `replace`, `patch`, `delete`, `pause`, `pause_until_restart`, `resume`, `enable`, `disable`, `archive`, `unarchive`, `import`, `reload`,
    /// `state` for a state that a reload changed; `test`, `dead_replay` and `dead_purge` change no configuration.
    pub action: String,
    /// Which connection; `None` for a reload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<String>,
    /// The job that was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// The state that the connection has since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Hash of what was before: the connection's etag, for a reload all files'. `None`: there was nothing.
    pub old: Option<String>,
    /// Hash of what is since. `None`: there is nothing.
    pub new: Option<String>,
    /// The generation of the configuration in force since.
    pub generation: u64,
    /// Connections that a reload added; at most 32 are named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub added: Vec<String>,
    /// Connections that a reload changed; at most 32 are named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<String>,
    /// Connections that a reload removed; at most 32 are named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<String>,
}
