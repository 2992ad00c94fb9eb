//! Apinizer's webhook connections: `{"type": "webhook", "name", "fullUrl", "httpMethod", "headerList", "timeout", …}`.
//!
//! Its defaults are written out where ours differ: GET, two seconds, no retry of its own. It does not verify certificates; we
//! do, and the report says so. One connection may stand in the file several times, once for each environment: the first is the
//! connection, the others are its overlays.

use serde_json::{Map, Value as Json};

use super::draft::Draft;
use super::fields::{Fields, objects};
use super::make;
use super::out::Out;

/// Seconds when nothing is said.
const TIMEOUT: f64 = 2.0;
const METHOD: &str = "GET";
/// The largest pool here.
const POOL_MAX: f64 = 1024.0;

/// Fields that only their own machinery knows.
const THEIRS: [&str; 6] =
    ["id", "projectId", "projectName", "created", "updated", "deploymentResult"];

pub(super) fn convert(document: Json, out: &mut Out) -> Result<(), String> {
    let found = objects(document, &is_connection, "connection (an object with a fullUrl)", out)?;
    let mut drafts: Vec<(String, String, Draft)> = Vec::new();
    for members in found {
        let mut fields = Fields::new(members);
        let title = fields.quiet_text("name").unwrap_or_default();
        let environment = environment(&mut fields);
        let known = drafts.iter_mut().find(|(known, ..)| *known == title && environment.is_some());
        match (known, environment) {
            (Some((_, name, draft)), Some((_, environment))) => {
                overlay(fields, draft, name, &environment, out);
            }
            (_, environment) => {
                if let Some((name, draft)) = one(fields, environment, out) {
                    drafts.push((title, name, draft));
                }
            }
        }
    }
    for (_, name, draft) in drafts {
        out.connection(&name, draft);
    }
    Ok(())
}

fn is_connection(members: &Map<String, Json>) -> bool {
    members.get("fullUrl").is_some_and(Json::is_string)
}

/// The field that names the environment, and its name.
fn environment(fields: &mut Fields) -> Option<(&'static str, String)> {
    ["environment", "environmentName", "environmentId"].into_iter().find_map(|key| {
        let name = fields.quiet_text(key).filter(|name| !name.trim().is_empty())?;
        Some((key, name))
    })
}

fn one(
    mut fields: Fields,
    environment: Option<(&'static str, String)>,
    out: &mut Out,
) -> Option<(String, Draft)> {
    let mut draft = Draft::default();
    let title = fields.quiet_text("name").unwrap_or_default();
    let name = out.name("name", &title, "connection");
    draft.comment(format!("Imported from Apinizer: {title}"));
    draft.set("name", name.as_str());
    if fields.text(out, "name").is_some_and(|title| title != name) {
        draft.set("display_name", make::cut(&title, 255));
        out.carried("name", "display_name");
    }
    match fields.text(out, "type").as_deref() {
        Some(kind) if kind.eq_ignore_ascii_case("webhook") => {
            out.noted("type", "", "every connection here is a webhook");
        }
        Some(kind) => {
            let why = format!("{kind:?} is no webhook; it was converted because it has a fullUrl");
            out.dropped("type", &why);
        }
        None => {}
    }
    if let Some(text) = fields.text(out, "description") {
        make::described(&mut draft, out, "description", "description", &text, 1000);
    }
    if let Some((key, environment)) = environment {
        let _ = fields.take(out, key);
        draft.set_in("labels", "environment", make::cut(&environment, 255));
        out.changed(key, "labels.environment", "the settings of the first environment are the connection's own; [connection.env.NAME] overlays them");
    }
    match fields.flag(out, "enabled") {
        Some(false) => {
            draft.set("state", "disabled");
            out.carried("enabled", "state");
        }
        Some(true) => out.carried("enabled", "state"),
        None => {}
    }
    if let Some(deployed) = fields.flag(out, "deployToWorker") {
        let note = if deployed {
            "a file is in force once it is saved (reload = \"auto\")"
        } else {
            "there is no saving without deploying; use reload = \"manual\" for that"
        };
        out.changed("deployToWorker", "reload", note);
    }
    let made = target(&mut fields, &mut draft, out, &name);
    retry(&mut fields, &mut draft, out);
    fields.leave(out, &THEIRS, "belongs to their project, not to the connection");
    environments(&mut fields, &mut draft, out, &name);
    fields.finish(out);
    made.then_some((name, draft))
}

/// URL, method, headers, times and pool. `false`: the connection cannot be made.
fn target(fields: &mut Fields, draft: &mut Draft, out: &mut Out, name: &str) -> bool {
    let Some(text) = fields.text(out, "fullUrl") else { return false };
    let Some(url) = make::url(draft, out, "fullUrl", &text, &format!("{name}.password")) else {
        return false;
    };
    let method = fields.text(out, "httpMethod");
    let made = match &method {
        Some(method) => make::method(draft, out, "httpMethod", method),
        None => {
            draft.set("method", METHOD);
            out.noted("httpMethod", "method", "their default, GET; it has no body here");
            true
        }
    };
    if !made {
        return false;
    }
    headers(fields, draft, out, name);
    match fields.number(out, "timeout") {
        Some(seconds) => make::timeout(draft, out, "timeout", "timeout", seconds),
        None => draft.set("timeout", make::span(make::whole(TIMEOUT * 1000.0))),
    }
    for (theirs, ours) in
        [("connectionTimeout", "connect_timeout"), ("requestTimeout", "request_timeout")]
    {
        if let Some(ms) = fields.number(out, theirs) {
            make::timeout(draft, out, theirs, ours, ms / 1000.0);
            split_timeout(draft);
        }
    }
    pool(fields, draft, out);
    if url.scheme() == "https" {
        out.changed(
            "(certificate validation)",
            "tls.verify",
            "they trust every certificate; here it is verified: name your own authority in tls.ca_file",
        );
    }
    true
}

/// `timeout` is another way to write the other two, and may not stand beside them.
fn split_timeout(draft: &mut Draft) {
    if let Some(both) = draft.take("timeout") {
        for key in ["connect_timeout", "request_timeout"] {
            if !draft.has(key) {
                draft.set(key, both.clone());
            }
        }
    }
}

fn headers(fields: &mut Fields, draft: &mut Draft, out: &mut Out, name: &str) {
    let Some(list) = fields.list(out, "headerList") else { return };
    if list.is_empty() {
        return out.carried("headerList", "headers");
    }
    let mut made = Vec::new();
    for (at, item) in list.into_iter().enumerate() {
        let Some(mut item) = fields.item(out, "headerList", at, item) else { continue };
        let header = item.text(out, "name").unwrap_or_default();
        let value = item.text(out, "value").unwrap_or_default();
        made.push((format!("headerList[{at}]"), header, value));
        item.finish(out);
    }
    make::headers(draft, out, made, name);
}

fn pool(fields: &mut Fields, draft: &mut Draft, out: &mut Out) {
    let per_host = fields.number(out, "connectionPoolMaxConnectionPerHost");
    let total = fields.number(out, "connectionPoolMaxConnectionTotal");
    let mut set = |field: &str, here: &str, wanted: f64, most: f64| {
        let bounded = wanted.clamp(1.0, most);
        draft.set(here, make::whole(bounded));
        if (bounded - wanted).abs() < f64::EPSILON {
            out.carried(field, here);
        } else {
            out.changed(field, here, &format!("{wanted}; a pool has 1 to {most} here"));
        }
        bounded
    };
    let total = total
        .map(|total| set("connectionPoolMaxConnectionTotal", "pool.max_total", total, POOL_MAX));
    if let Some(per_host) = per_host {
        // Not more than all together.
        let most = total.unwrap_or(48.0_f64.max(per_host)).min(POOL_MAX);
        set("connectionPoolMaxConnectionPerHost", "pool.max_per_host", per_host, most);
        if total.is_none() && per_host > 48.0 {
            draft.set("pool.max_total", make::whole(per_host.min(POOL_MAX)));
        }
    } else if let Some(total) = total.filter(|total| *total < 24.0) {
        draft.set("pool.max_per_host", make::whole(total));
    }
    for key in ["poolSize", "connectionPoolSize"] {
        if fields.number(out, key).is_some() {
            out.dropped(
                key,
                "they fix it at 0 and do not use it; pool has the two limits that count",
            );
        }
    }
}

/// They do not try again by themselves; a retry delay is for flows that do.
fn retry(fields: &mut Fields, draft: &mut Draft, out: &mut Out) {
    for key in ["webhookRetryDelay", "retryDelay"] {
        let Some(seconds) = fields.number(out, key) else { continue };
        if seconds > 0.0 {
            draft.set("retry.strategy", "linear");
            draft.set("retry.interval", make::span(make::whole(seconds * 1000.0)));
            out.changed(
                key,
                "retry.interval",
                "they leave retrying to a flow; here it is done, with this wait",
            );
            return;
        }
        out.noted(key, "retry.strategy", "0: no retry");
    }
    draft.set("retry.strategy", "none");
    draft.comment("They do not retry by themselves. Remove retry.strategy, and failures are tried again for three days.");
    out.noted(
        "(no retry delay)",
        "retry.strategy",
        "none, as there: a failure is a dead letter at once",
    );
}

/// Settings of other environments that stand inside of the connection.
fn environments(fields: &mut Fields, draft: &mut Draft, out: &mut Out, name: &str) {
    for key in ["environments", "environmentList"] {
        let Some(list) = fields.list(out, key) else { continue };
        for (at, item) in list.into_iter().enumerate() {
            if let Json::String(environment) = &item {
                let why = "a connection is in force in every environment here";
                out.dropped(&format!("{key}[{at}]"), &format!("{environment}: {why}"));
                continue;
            }
            let Some(mut item) = fields.item(out, key, at, item) else { continue };
            match environment(&mut item).or_else(|| Some(("name", item.quiet_text("name")?))) {
                Some((_, environment)) => overlay(item, draft, name, &environment, out),
                None => {
                    out.dropped(&item.path("environment"), "missing: whose settings are these?");
                    item.finish(out);
                }
            }
        }
    }
}

/// Settings of another environment: they become an overlay.
fn overlay(mut fields: Fields, draft: &mut Draft, name: &str, environment: &str, out: &mut Out) {
    let legal = super::out::legal_name(environment);
    out.about(format!("connection {name}, environment {legal}"));
    let mut layer = Draft::default();
    for key in ["environment", "environmentName", "environmentId"] {
        if fields.take(out, key).is_some() {
            out.carried(&fields.path(key), &format!("env.{legal}"));
        }
    }
    let _ = fields.take(out, "name");
    if !target(&mut fields, &mut layer, out, &format!("{name}.{legal}")) {
        return fields.finish(out);
    }
    if let Some(false) = fields.flag(out, "enabled") {
        layer.set("state", "disabled");
        out.carried(&fields.path("enabled"), &format!("env.{legal}.state"));
    }
    let same = ["type", "description", "deployToWorker"];
    fields.leave(out, &same, "as the first environment has it");
    fields.leave(out, &THEIRS, "belongs to their project, not to the connection");
    fields.finish(out);
    draft.nest(&format!("env.{legal}"), layer);
}
