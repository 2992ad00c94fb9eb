//! JSON Schema (2020-12) of the files and of the API's documents, made of the tables of [`super::fields`], so that editors and
//! clients know what the reader knows. What a schema cannot say (rules that span several keys, bounds of durations) stands in
//! descriptions; the reader has the last word.

use serde_json::{Map, Value as Json, json};

use super::fields::{self, CONNECTION, Field, Kind, ROOT, Standard};
use super::read::IDENTITY;
use crate::units::{ByteSize, HumanDuration};

/// What a schema is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// All of an object: required keys are required.
    Whole,
    /// What lies above or below it in layers: nothing is required.
    Layer,
    /// A merge patch: nothing is required, and null removes.
    Patch,
}

/// Where schemas are referred to.
#[derive(Clone, Copy)]
struct Writer {
    mode: Mode,
    /// `#/$defs/` or `#/components/schemas/`.
    refs: &'static str,
}

/// Of a file with connections.
pub fn of_connection_file() -> Json {
    let writer = Writer { mode: Mode::Whole, refs: "#/$defs/" };
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "posthaste: a file of connections.d",
        "type": "object",
        "properties": { "connection": { "type": "array", "items": writer.object(CONNECTION, &[]) } },
        "additionalProperties": false,
        "$defs": { OVERLAY: writer.overlay() },
    })
}

/// Of the daemon's own file.
pub fn of_daemon_file() -> Json {
    let writer = Writer { mode: Mode::Whole, refs: "#/$defs/" };
    let mut schema = writer.object(ROOT, &[]);
    if let Some(members) = schema.as_object_mut() {
        let head = [
            ("$schema", json!("https://json-schema.org/draft/2020-12/schema")),
            ("title", json!("posthaste: posthaste.toml")),
            ("$defs", json!({ OVERLAY: writer.overlay() })),
        ];
        members.extend(head.map(|(key, value)| (key.to_owned(), value)));
    }
    schema
}

/// The schemas that the OpenAPI document refers to, by name.
pub fn for_openapi() -> Json {
    let refs = "#/components/schemas/";
    let whole = Writer { mode: Mode::Whole, refs };
    let mut input = whole.object(CONNECTION, &[]);
    let mut patch = Writer { mode: Mode::Patch, refs }.object(CONNECTION, &[]);
    for schema in [&mut input, &mut patch] {
        if let Some(properties) = schema.get_mut("properties").and_then(Json::as_object_mut) {
            let meta = json!({ "description": "Ignored, so that what was read can be sent back." });
            properties.insert("meta".to_owned(), meta);
        }
    }
    // The path has the name as well.
    set(&mut input, "required", json!(["url"]));
    json!({ "ConnectionInput": input, "ConnectionPatch": patch, OVERLAY: whole.overlay() })
}

/// The name of the schema of an overlay.
const OVERLAY: &str = "ConnectionOverlay";

impl Writer {
    fn overlay(self) -> Json {
        Writer { mode: Mode::Layer, ..self }.object(CONNECTION, IDENTITY)
    }

    fn object(self, fields: &'static [Field], without: &[&str]) -> Json {
        let fields = fields.iter().filter(|field| !without.contains(&field.key));
        let mut properties = Map::new();
        let mut required = Vec::new();
        for field in fields {
            properties.insert(field.key.to_owned(), self.property(field));
            if matches!(field.default, Standard::Required(_)) {
                required.push(field.key);
            }
        }
        let mut schema = json!({
            "type": "object", "properties": properties, "additionalProperties": false,
        });
        if self.mode == Mode::Whole && !required.is_empty() {
            set(&mut schema, "required", json!(required));
        }
        schema
    }

    fn property(self, field: &'static Field) -> Json {
        let mut schema = self.of(&field.kind);
        if self.mode == Mode::Patch {
            schema = json!({ "anyOf": [schema, { "type": "null" }] });
        }
        let bounds = bounds(&field.kind).map(|bounds| format!(" {bounds}.")).unwrap_or_default();
        set(&mut schema, "description", format!("{}{bounds}", field.doc).into());
        if let Standard::Toml(text) = field.default
            && let Some(default) = value(text)
            && default != json!({})
        {
            set(&mut schema, "default", default);
        }
        schema
    }

    fn of(self, kind: &'static Kind) -> Json {
        match kind {
            Kind::Text(max) => json!({ "type": "string", "minLength": 1, "maxLength": max }),
            Kind::Name => {
                json!({ "type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_-]{0,154}$" })
            }
            Kind::Bool => json!({ "type": "boolean" }),
            Kind::Integer(min, max) => json!({ "type": "integer", "minimum": min, "maximum": max }),
            Kind::Number(min, max) => json!({ "type": "number", "minimum": min, "maximum": max }),
            Kind::Span(..) => json!({ "type": "string", "pattern": "^([0-9]+(d|h|m|s|ms))+$" }),
            Kind::Size(..) => {
                json!({ "type": "string", "pattern": "^[0-9]+(B|KB|KiB|MB|MiB|GB|GiB|TB|TiB)$" })
            }
            Kind::Choice(words) => json!({ "enum": words }),
            Kind::Method => {
                let methods = super::read::METHODS.into_iter().chain(["inherit"]);
                json!({ "enum": methods.collect::<Vec<_>>() })
            }
            Kind::Url => json!({ "type": "string", "pattern": "^[hH][tT][tT][pP][sS]?://" }),
            Kind::Mode => json!({ "type": "string", "pattern": "^[0-7]{1,4}$" }),
            Kind::Stamp => json!({ "type": "string", "format": "date-time" }),
            Kind::Path
            | Kind::PathOrOff
            | Kind::Address
            | Kind::AddressOrOff
            | Kind::ServerName
            | Kind::Cidr => json!({ "type": "string", "minLength": 1 }),
            Kind::Statuses(_) => json!({
                "type": "array", "minItems": 1, "maxItems": 10,
                "items": { "type": "string", "pattern": "^!?([1-5](xx|[0-9]{2}(-[1-5][0-9]{2})?)|(>|<)=?[1-5][0-9]{2})$" },
            }),
            Kind::List(kind, min, max) => {
                // A list is replaced whole, also by a patch.
                let mode = if self.mode == Mode::Patch { Mode::Whole } else { self.mode };
                let items = Writer { mode, ..self }.of(kind);
                json!({ "type": "array", "minItems": min, "maxItems": max, "items": items })
            }
            Kind::Table(fields) => self.object(fields, &[]),
            Kind::OneOf(fields) => {
                let mut schema = self.object(fields, &[]);
                if self.mode != Mode::Patch {
                    set(&mut schema, "minProperties", 1.into());
                    set(&mut schema, "maxProperties", 1.into());
                }
                schema
            }
            Kind::Secret => secret(false),
            Kind::DatedSecret => secret(true),
            Kind::Tree => json!({}),
            // Texts, and `env` with tables of these.
            Kind::Variables => {
                let text = json!({ "type": ["string", "object"] });
                self.map(text, super::variables::VARIABLES_MAX)
            }
            Kind::Labels => {
                let text = json!({ "type": "string", "maxLength": fields::LABEL_CHARS_MAX });
                self.map(text, fields::LABELS_MAX)
            }
            Kind::Headers => {
                let one = secret(false);
                let list = json!({ "type": "array", "minItems": 1, "items": one });
                self.map(json!({ "anyOf": [one, list] }), fields::HEADERS_MAX)
            }
            Kind::Overlays => {
                let overlay = json!({ "$ref": format!("{}{OVERLAY}", self.refs) });
                self.map(overlay, usize::MAX)
            }
            Kind::Defaults => Writer { mode: Mode::Layer, ..self }.object(CONNECTION, IDENTITY),
        }
    }

    /// A table of any keys.
    fn map(self, value: Json, max: usize) -> Json {
        let value = match self.mode {
            Mode::Patch => json!({ "anyOf": [value, { "type": "null" }] }),
            _ => value,
        };
        let mut schema = json!({ "type": "object", "additionalProperties": value });
        if max < usize::MAX {
            set(&mut schema, "maxProperties", max.into());
        }
        schema
    }
}

/// A plain string, a reference, or what stands for a plain string in answers.
fn secret(dated: bool) -> Json {
    let text = || json!({ "type": "string", "minLength": 1 });
    let one = |key: &str| {
        let mut properties = json!({ key: text() });
        if dated {
            set(&mut properties, "until", json!({ "type": "string", "format": "date-time" }));
        }
        json!({
            "type": "object", "properties": properties, "required": [key], "additionalProperties": false,
        })
    };
    let mut all = vec![json!({ "type": "string", "minLength": 1 })];
    all.extend(["env", "file", "credential"].map(one));
    json!({ "anyOf": all })
}

/// The bounds of a value in words, where a schema cannot say them or a reader would not see them.
pub(super) fn bounds(kind: &Kind) -> Option<String> {
    match kind {
        Kind::Span(min, max) => Some(format!("{} to {}", HumanDuration(*min), HumanDuration(*max))),
        Kind::Size(min, max) => Some(format!("{} to {}", ByteSize(*min), ByteSize(*max))),
        _ => None,
    }
}

/// Sets a member of what is an object.
fn set(object: &mut Json, key: &str, value: Json) {
    if let Some(members) = object.as_object_mut() {
        members.insert(key.to_owned(), value);
    }
}

/// A default, as JSON.
fn value(toml: &str) -> Option<Json> {
    let table: toml::Table = format!("value = {toml}").parse().ok()?;
    serde_json::to_value(table.get("value")?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_in_it() {
        let schema = of_connection_file();
        let properties = &schema["properties"]["connection"]["items"]["properties"];
        for field in CONNECTION {
            assert_eq!(
                properties[field.key]["description"].as_str().map(|d| d.starts_with(field.doc)),
                Some(true),
                "{}",
                field.key
            );
        }
        let keys = of_daemon_file()["properties"].as_object().unwrap().len();
        assert_eq!(keys, ROOT.len());
        let overlay = &schema["$defs"][OVERLAY]["properties"];
        assert!(overlay["url"].is_object() && overlay["name"].is_null());
    }

    #[test]
    fn kinds_have_their_schemas() {
        let schema = of_connection_file();
        let connection = &schema["properties"]["connection"]["items"];
        assert_eq!(connection["required"], json!(["name", "url"]));
        let of = |key: &str| &connection["properties"][key];
        assert_eq!(of("connect_timeout")["default"], "2s");
        let described = of("connect_timeout")["description"].as_str().unwrap();
        assert!(described.ends_with(". 1s to 1m."), "{described}");
        assert_eq!(of("max_in_flight")["maximum"], 1024);
        assert_eq!(of("state")["enum"], json!(["active", "paused", "disabled"]));
        assert_eq!(of("rate_limit")["required"], json!(["limit"]));
        assert_eq!(of("env")["additionalProperties"]["$ref"], "#/$defs/ConnectionOverlay");
        let patch = &for_openapi()["ConnectionPatch"];
        assert!(patch["required"].is_null());
        assert_eq!(patch["properties"]["max_body"]["anyOf"][1]["type"], "null");
        let limit = &patch["properties"]["rate_limit"]["anyOf"][0];
        assert!(limit["required"].is_null() && limit["properties"]["limit"].is_object());
    }
}
