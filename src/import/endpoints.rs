//! The endpoints API: `{"id": "ep_…", "name", "url", "secret", "headers_json", "timeout_seconds", "status", …}`.
//!
//! What it does not say: it posts. Its secrets are shown when an endpoint is made, and never again; whoever has one puts it
//! into the directory of secrets as `NAME.signing`.

use serde_json::{Map, Value as Json, json};

use super::draft::Draft;
use super::fields::{Fields, objects};
use super::make;
use super::out::Out;
use crate::connection::sign::standard::Key;
use crate::secret::Secret;

/// Seconds when nothing is said.
const TIMEOUT: f64 = 10.0;

pub(super) fn convert(document: Json, out: &mut Out) -> Result<(), String> {
    let found = objects(document, &is_endpoint, "endpoint (an object with a url)", out)?;
    for endpoint in found {
        one(Fields::new(endpoint), out);
    }
    Ok(())
}

fn is_endpoint(members: &Map<String, Json>) -> bool {
    members.get("url").is_some_and(Json::is_string)
}

fn one(mut fields: Fields, out: &mut Out) {
    let mut draft = Draft::default();
    let id = fields.quiet_text("id").unwrap_or_default();
    let title = fields.quiet_text("name").unwrap_or_default();
    let wanted = if title.trim().is_empty() { id.clone() } else { title.clone() };
    let name = out.name(if title.trim().is_empty() { "id" } else { "name" }, &wanted, "connection");
    draft.comment(format!(
        "Imported from the endpoints API: {}",
        if id.is_empty() { &title } else { &id }
    ));
    draft.set("name", name.as_str());
    if fields.text(out, "name").is_some_and(|title| title != name) {
        draft.set("display_name", make::cut(&title, 255));
        out.carried("name", "display_name");
    }
    if fields.text(out, "id").is_some() {
        draft.set_in("labels", "endpoint_id", make::cut(&id, 255));
        out.carried("id", "labels.endpoint_id");
    }
    let Some(text) = fields.text(out, "url") else { return fields.finish(out) };
    if make::url(&mut draft, out, "url", &text, &format!("{name}.password")).is_none() {
        return fields.finish(out);
    }
    draft.set("method", "POST");
    headers(&mut fields, &mut draft, out, &name);
    let seconds = fields.number(out, "timeout_seconds");
    match seconds {
        Some(seconds) => {
            make::timeout(&mut draft, out, "timeout_seconds", "request_timeout", seconds);
        }
        None => draft.set("request_timeout", make::span(make::whole(TIMEOUT * 1000.0))),
    }
    status(&mut fields, &mut draft, out);
    secret(&mut fields, &mut draft, out, &name);
    for key in ["created_at", "updated_at"] {
        if let Some(at) = fields.text(out, key) {
            draft.comment(format!("{key}: {at}"));
            out.noted(key, "", "in the comment above the connection");
        }
    }
    fields.finish(out);
    out.connection(&name, draft);
}

/// An object, or the text of one.
fn headers(fields: &mut Fields, draft: &mut Draft, out: &mut Out, name: &str) {
    let members = match fields.take(out, "headers_json") {
        None => return,
        Some(Json::Object(members)) => members,
        Some(Json::String(text)) => match serde_json::from_str(&text) {
            Ok(Json::Object(members)) => members,
            _ if text.trim().is_empty() => return out.noted("headers_json", "", "not set"),
            _ => return out.dropped("headers_json", "is no JSON object"),
        },
        Some(_) => return out.dropped("headers_json", "is no JSON object"),
    };
    if members.is_empty() {
        return out.carried("headers_json", "headers");
    }
    let mut made = Vec::new();
    for (header, value) in members {
        let field = format!("headers_json.{header}");
        match value {
            Json::String(value) => made.push((field, header, value)),
            Json::Number(value) => made.push((field, header, value.to_string())),
            Json::Bool(value) => made.push((field, header, value.to_string())),
            _ => out.dropped(&field, "is no text"),
        }
    }
    make::headers(draft, out, made, name);
}

fn status(fields: &mut Fields, draft: &mut Draft, out: &mut Out) {
    match fields.text(out, "status").as_deref() {
        Some("ACTIVE") => out.carried("status", "state"),
        Some("PAUSED") => {
            draft.set("state", "paused");
            out.carried("status", "state");
        }
        Some(other) => {
            draft.set("state", "paused");
            let why =
                format!("{other:?} is not known; the connection is paused until you have looked");
            out.changed("status", "state", &why);
        }
        None => {}
    }
    if let Some(at) = fields.text(out, "paused_at") {
        draft.comment(format!("paused_at: {at}"));
        out.noted("paused_at", "", "in the comment above the connection");
    }
}

fn secret(fields: &mut Fields, draft: &mut Draft, out: &mut Out, name: &str) {
    let file = format!("{name}.signing");
    let value = fields.text(out, "secret");
    if value.is_none() && !out.has(&file) {
        let note = format!(
            "the API does not show it again: if the endpoint has one, put it into the file {file} of the directory of secrets and import again"
        );
        draft.comment(
            "Not signed: the export has no secret. To sign, write the secret into a file and add:",
        );
        draft.comment("[connection.sign.standard_webhooks]");
        draft.comment("secrets = [{ file = \"…\" }]");
        return out.dropped("secret", &note);
    }
    if let Some(value) = &value
        && let Err(why) = Key::parse(&Secret::new(value.as_str()))
    {
        draft.set("state", "paused");
        let why = format!("no secret of Standard Webhooks ({why}); the connection is paused");
        return out.dropped("secret", &why);
    }
    if let Some(reference) = out.secret(&file, value.as_deref(), "signs what is sent") {
        draft.set_in("sign.standard_webhooks", "secrets", json!([reference]));
        out.noted("secret", "sign.standard_webhooks.secrets", "the value is in a file of its own");
    } else {
        out.dropped("secret", "its value is masked in the file");
    }
}
