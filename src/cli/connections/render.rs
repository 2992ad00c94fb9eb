//! Connections for people.

use serde_json::Value as Json;

use super::super::output::{Paint, Table};
use crate::admin::api::connections::Document;
use crate::logging::escape;

/// A line for each.
pub(super) fn table(models: &[Document]) -> String {
    let mut table = Table::new(&["CONNECTION", "STATE", "METHOD", "URL", "SOURCES", "FILE"]);
    for Document { keys, meta } in models {
        let text = |key: &str| keys.get(key).and_then(Json::as_str).unwrap_or("-").to_owned();
        let sources = match (keys.get("sources"), keys.get("source")) {
            (Some(Json::Array(sources)), _) => {
                let sources: Vec<&str> = sources.iter().filter_map(Json::as_str).collect();
                sources.join(", ")
            }
            (_, Some(_)) => text("source"),
            _ => "default".to_owned(),
        };
        let state = match (&meta.state, meta.archived) {
            (_, true) => "archived".to_owned(),
            (state, false) => state.clone().unwrap_or("-".to_owned()),
        };
        let method = keys.get("method").and_then(Json::as_str).unwrap_or("POST").to_owned();
        table.row([text("name"), state, method, text("url"), sources, meta.file.clone()]);
    }
    table.render()
}

/// One line for each value, with its path of keys; then what is known beside them.
pub(super) fn describe(document: &Document, paint: Paint) -> String {
    let mut lines = Vec::new();
    for (key, value) in &document.keys {
        flatten(key, value, &mut lines);
    }
    let meta = &document.meta;
    let in_force = if meta.in_force { "in force" } else { "waits for a reload" };
    let mut beside = vec![
        ("file", Some(meta.file.clone())),
        ("state", meta.state.clone().or(Some(in_force.to_owned()))),
        ("paused since", meta.paused_at.clone()),
        ("disabled since", meta.disabled_at.clone()),
        ("etag", Some(meta.etag.clone())),
    ];
    beside.retain(|(_, value)| value.is_some());
    let width = lines.iter().map(|(key, _)| key.chars().count()).max().unwrap_or(0).max(14);
    let mut text = String::new();
    for (key, value) in lines {
        text.push_str(&format!("{:<width$}  {}\n", escape(&key), escape(&value)));
    }
    for (key, value) in beside {
        let line = format!("{key:<width$}  {}", escape(&value.unwrap_or_default()));
        text.push_str(&format!("{}\n", paint.faint(&line)));
    }
    text
}

fn flatten(path: &str, value: &Json, lines: &mut Vec<(String, String)>) {
    match value {
        Json::Object(inner) if !inner.is_empty() => {
            for (key, value) in inner {
                flatten(&format!("{path}.{key}"), value, lines);
            }
        }
        Json::String(text) => lines.push((path.to_owned(), text.clone())),
        other => lines.push((path.to_owned(), other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;
    use crate::admin::api::connections::Meta;

    fn object(value: Json) -> Map<String, Json> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn people_see_what_is_there() {
        let crm = Document {
            keys: object(json!({
                "name": "crm", "url": "http://x/\u{1b}[2J", "sources": ["a", "b"],
                "headers": { "Authorization": { "fingerprint": "f52fbd32" } },
            })),
            meta: Meta {
                file: "connections.d/crm.toml".to_owned(),
                etag: "e1".to_owned(),
                state: Some("paused".to_owned()),
                in_force: true,
                paused_at: Some("2025-11-21T00:00:00.000Z".to_owned()),
                ..Meta::default()
            },
        };
        let hidden = Document {
            keys: object(json!({ "name": "old", "source": "shop", "method": "PUT" })),
            meta: Meta { archived: true, ..Meta::default() },
        };
        let expected = "\
CONNECTION  STATE     METHOD  URL               SOURCES  FILE
crm         paused    POST    http://x/\\u{1b}[2J  a, b     connections.d/crm.toml
old         archived  PUT     -                 shop
";
        let listed = table(&[crm.clone(), hidden]);
        assert_eq!(listed.replace("  ", " ").lines().count(), expected.lines().count());
        assert!(listed.contains("http://x/\\u{1b}[2J") && listed.contains("a, b"), "{listed}");
        assert!(listed.contains("old         archived  PUT"), "{listed}");
        let shown = describe(&crm, Paint::plain());
        assert!(shown.contains("headers.Authorization.fingerprint  f52fbd32\n"), "{shown}");
        assert!(shown.contains("paused since") && !shown.contains('\u{1b}'), "{shown}");
    }
}
