//! Hookdeck's connections: a source, a destination, and rules between them.
//!
//! Its defaults are written out where ours differ: the producer's method, path and query go on, nothing is tried again without
//! a retry rule, a source takes POST, PUT, PATCH and DELETE. `null` in `auth_type` and `HOOKDECK_SIGNATURE` are its own
//! signature, whose secret belongs to the project and is in no export: it is asked for as `hookdeck.signing`.

mod auth;
mod rules;
mod source;

use serde_json::{Map, Value as Json};

use super::draft::Draft;
use super::fields::{Fields, objects};
use super::make;
use super::out::{Out, legal_name};

pub(super) fn convert(document: Json, out: &mut Out) -> Result<(), String> {
    let looked_for = "connection (an object with a destination or with rules)";
    for connection in objects(document, &is_connection, looked_for, out)? {
        one(Fields::new(connection), out);
    }
    Ok(())
}

fn is_connection(members: &Map<String, Json>) -> bool {
    members.contains_key("destination") || members.contains_key("rules")
}

/// What was left out of a connection, and so must be looked at before anything is sent.
#[derive(Default)]
struct Doubts(Vec<String>);

impl Doubts {
    fn add(&mut self, doubt: impl Into<String>) {
        self.0.push(doubt.into());
    }
}

fn one(mut fields: Fields, out: &mut Out) {
    let mut draft = Draft::default();
    let mut doubts = Doubts::default();
    let source_name = name_in(&mut fields, "source");
    let destination_name = name_in(&mut fields, "destination");
    let given = fields.quiet_text("name").filter(|name| !name.trim().is_empty());
    let source_name = source_name.unwrap_or_else(|| "default".to_owned());
    let wanted = match (&given, &destination_name) {
        (Some(name), _) => name.clone(),
        (None, Some(destination)) => format!("{source_name}-{destination}"),
        (None, None) => fields.quiet_text("id").unwrap_or_default(),
    };
    let name = out.name("name", &wanted, "connection");
    let title = fields.quiet_text("full_name").unwrap_or_else(|| wanted.clone());
    draft.comment(format!("Imported from Hookdeck: {title}"));
    draft.set("name", name.as_str());
    if let Some(title) = fields.text(out, "full_name") {
        make::described(&mut draft, out, "full_name", "display_name", &title, 255);
    }
    let _ = fields.take(out, "name").is_some();
    if let Some(text) = fields.text(out, "description") {
        make::described(&mut draft, out, "description", "description", &text, 1000);
    }
    for (key, label) in [("id", "hookdeck_id"), ("team_id", "hookdeck_team_id")] {
        if let Some(id) = fields.text(out, key) {
            draft.set_in("labels", label, make::cut(&id, 255));
            out.carried(key, &format!("labels.{label}"));
        }
    }
    state(&mut fields, &mut draft, out);
    dates(&mut fields, &mut draft, out);
    feed(&mut fields, &mut draft, out, &source_name);
    let made = destination(&mut fields, &mut draft, &mut doubts, out, &name);
    rules::rules(&mut fields, &mut draft, &mut doubts, out);
    fields.leave(
        out,
        &["source_id", "destination_id"],
        "an id alone: what it stands for is not in the file",
    );
    fields.finish(out);
    if !made {
        return;
    }
    if !doubts.0.is_empty() {
        draft.comment(
            "Something could not be carried over, so it is paused until somebody has looked:",
        );
        for doubt in doubts.0 {
            draft.comment(format!("- {doubt}"));
        }
        if !draft.has("state") {
            draft.set("state", "paused");
            out.changed("(state)", "state", "paused: see what was not carried over");
        }
    }
    out.connection(&name, draft);
}

/// The name of an object in this one.
fn name_in(fields: &mut Fields, key: &str) -> Option<String> {
    let name = fields.peek(key)?.get("name")?.as_str()?.to_owned();
    (!name.trim().is_empty()).then_some(name)
}

fn state(fields: &mut Fields, draft: &mut Draft, out: &mut Out) {
    let paused = fields.text(out, "paused_at");
    let disabled = fields.text(out, "disabled_at");
    if let Some(at) = &paused {
        draft.set("state", "paused");
        draft.comment(format!("paused_at: {at}"));
        match disabled {
            Some(_) => out.changed("paused_at", "state", "it is disabled as well, which counts"),
            None => out.carried("paused_at", "state"),
        }
    }
    if let Some(at) = &disabled {
        draft.set("state", "disabled");
        draft.comment(format!("disabled_at: {at}"));
        out.carried("disabled_at", "state");
    }
}

/// What is worth a comment alone.
fn dates(fields: &mut Fields, draft: &mut Draft, out: &mut Out) {
    for key in ["created_at", "updated_at"] {
        if let Some(at) = fields.text(out, key) {
            draft.comment(format!("{}: {at}", fields.path(key)));
            out.noted(&fields.path(key), "", "in the comment above the connection");
        }
    }
}

/// The source.
fn feed(fields: &mut Fields, draft: &mut Draft, out: &mut Out, wanted: &str) {
    let name = legal_name(wanted);
    let Some(mut source) = fields.object(out, "source") else {
        return;
    };
    draft.set("source", name.as_str());
    let _ = source.take(out, "name");
    if name == wanted {
        out.carried("source.name", "source");
    } else {
        out.changed("source.name", "source", "a name has letters, digits, - and _");
    }
    if source.text(out, "disabled_at").is_some() {
        draft.set("state", "disabled");
        out.changed(
            "source.disabled_at",
            "state",
            "a source has no state here: its connections are disabled",
        );
    }
    source::source(source, &name, out);
}

/// The destination. `false`: there is nowhere to deliver to.
fn destination(
    fields: &mut Fields,
    draft: &mut Draft,
    doubts: &mut Doubts,
    out: &mut Out,
    name: &str,
) -> bool {
    let Some(mut destination) = fields.object(out, "destination") else {
        out.dropped("destination", "there is none in the file, so the connection is left out");
        return false;
    };
    let kind = destination.text(out, "type").unwrap_or_else(|| "HTTP".to_owned());
    match kind.as_str() {
        "HTTP" => out.carried("destination.type", "url"),
        "CLI" => out.dropped(
            "destination.type",
            "CLI: run `posthaste listen` and give its URL; the connection is left out",
        ),
        other => {
            let why = format!("{other} has no URL; the connection is left out");
            out.dropped("destination.type", &why);
        }
    }
    if let Some(title) = destination.text(out, "name") {
        draft.set_in("labels", "destination", make::cut(&title, 255));
        out.carried("destination.name", "labels.destination");
    }
    if let Some(text) = destination.text(out, "description") {
        draft.comment(format!("Destination: {text}"));
        out.noted("destination.description", "", "in the comment above the connection");
    }
    for key in ["id", "team_id"] {
        if destination.text(out, key).is_some() {
            out.dropped(&destination.path(key), "a destination is part of its connection here");
        }
    }
    if destination.text(out, "disabled_at").is_some() {
        draft.set("state", "disabled");
        out.carried("destination.disabled_at", "state");
    }
    dates(&mut destination, draft, out);
    let config = destination.object(out, "config");
    let url = destination.text(out, "url");
    destination.finish(out);
    let Some(mut config) = config else {
        if kind == "HTTP" {
            out.dropped(
                "destination.config",
                "missing: there is no URL, so the connection is left out",
            );
        }
        return false;
    };
    let made = kind == "HTTP" && target(&mut config, draft, out, name, url);
    traffic(&mut config, draft, out);
    auth::auth(&mut config, draft, doubts, out, name);
    config.finish(out);
    made
}

fn target(
    config: &mut Fields,
    draft: &mut Draft,
    out: &mut Out,
    name: &str,
    url: Option<String>,
) -> bool {
    let text = config.text(out, "url").or(url);
    let Some(text) = text else {
        out.dropped("destination.config.url", "missing; the connection is left out");
        return false;
    };
    let path = config.path("url");
    if make::url(draft, out, &path, &text, &format!("{name}.password")).is_none() {
        return false;
    }
    let method = config.text(out, "http_method");
    match method {
        Some(method) => {
            let path = config.path("http_method");
            if !make::method(draft, out, &path, &method) {
                return false;
            }
        }
        None => draft.set("method", "inherit"),
    }
    let forwards = !config.flag(out, "path_forwarding_disabled").unwrap_or(false);
    draft.set("forward_path", forwards);
    draft.set("forward_query", forwards);
    let path = config.path("path_forwarding_disabled");
    out.noted(
        &path,
        "forward_path, forward_query",
        "what follows the source's path and query go on unless it is set",
    );
    true
}

/// The rate limit.
fn traffic(config: &mut Fields, draft: &mut Draft, out: &mut Out) {
    let (limit_at, period_at) = (config.path("rate_limit"), config.path("rate_limit_period"));
    let period = config.text(out, "rate_limit_period");
    let Some(limit) = config.number(out, "rate_limit") else {
        if period.is_some() {
            out.noted(&period_at, "", "without a rate_limit it says nothing");
        }
        return;
    };
    let period = period.unwrap_or_else(|| "second".to_owned());
    if period == "concurrent" {
        let most = limit.round().clamp(1.0, 1024.0);
        draft.set("max_in_flight", make::whole(most));
        if most > 24.0 {
            draft.set("pool.max_per_host", make::whole(most));
            draft.set("pool.max_total", make::whole(most.max(48.0)));
        }
        out.carried(&limit_at, "max_in_flight");
        return out.carried(&period_at, "max_in_flight");
    }
    // A limit below one, and parts of one, are exact in a longer period.
    let periods = [("second", 1.0), ("minute", 60.0), ("hour", 3600.0)];
    let Some(first) = periods.iter().position(|(name, _)| *name == period) else {
        out.dropped(&limit_at, "its period is not known");
        return out.dropped(&period_at, &format!("{period:?} is not known"));
    };
    let (_, length) = periods.get(first).copied().unwrap_or(("second", 1.0));
    let exact = periods.iter().skip(first).find(|(_, longer)| {
        let count = limit * longer / length;
        count >= 1.0 && count.fract() < 1e-9 && count <= 1e6
    });
    match exact {
        Some((per, longer)) => {
            draft.set("rate_limit.limit", make::whole(limit * longer / length));
            draft.set("rate_limit.per", *per);
            if *per == period {
                out.carried(&limit_at, "rate_limit.limit");
                out.carried(&period_at, "rate_limit.per");
            } else {
                let note = format!("the same rate, counted per {per}: a limit is a whole number");
                out.changed(&limit_at, "rate_limit.limit", &note);
                out.changed(&period_at, "rate_limit.per", &note);
            }
        }
        None => {
            let whole = limit.ceil().clamp(1.0, 1e6);
            draft.set("rate_limit.limit", make::whole(whole));
            draft.set("rate_limit.per", period.as_str());
            out.changed(
                &limit_at,
                "rate_limit.limit",
                &format!("{limit} is no whole number, {whole} is"),
            );
            out.carried(&period_at, "rate_limit.per");
        }
    }
}
