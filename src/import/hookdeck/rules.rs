//! The rules of a connection: retry, filter, transform, delay, deduplicate.

use serde_json::{Map, Value as Json, json};

use super::super::draft::{Draft, fits_toml};
use super::super::fields::Fields;
use super::super::make;
use super::super::out::Out;
use super::Doubts;
use crate::connection::filter::Filter;
use crate::connection::json::Json as Tree;
use crate::connection::path::Path;
use crate::connection::status::{Purpose, StatusSet};

const DAY_MS: f64 = 86_400_000.0;
const HOUR_MS: f64 = 3_600_000.0;
/// What is tried again when the rule names no status: whatever is no success.
const ANY_FAILURE: [&str; 3] = ["3xx", "4xx", "5xx"];
/// Milliseconds between retries when the rule does not say.
const INTERVAL: f64 = 60_000.0;
/// The sections of a filter.
const SECTIONS: [&str; 4] = ["body", "headers", "query", "path"];

pub(super) fn rules(fields: &mut Fields, draft: &mut Draft, doubts: &mut Doubts, out: &mut Out) {
    let mut filters: Vec<Map<String, Json>> = Vec::new();
    let mut retried = false;
    let list = fields.list(out, "rules").unwrap_or_default();
    for (at, item) in list.into_iter().enumerate() {
        let Some(mut rule) = fields.item(out, "rules", at, item) else { continue };
        let kind = rule.text(out, "type").unwrap_or_default();
        let type_at = rule.path("type");
        match kind.as_str() {
            "retry" => {
                retried = true;
                out.carried(&type_at, "retry");
                retry(&mut rule, draft, out);
            }
            "filter" => {
                out.carried(&type_at, "filter");
                filters.extend(filter(&mut rule, doubts, out));
            }
            "delay" => {
                out.carried(&type_at, "delay");
                delay(&mut rule, draft, out);
            }
            "deduplicate" => {
                out.carried(&type_at, "dedupe");
                dedupe(&mut rule, draft, out);
            }
            "transform" => transform(&mut rule, draft, doubts, out, &type_at),
            other => {
                out.dropped(
                    &type_at,
                    &format!("a rule of type {other:?} is not known; the connection is paused"),
                );
                doubts.add(format!("a rule of type {other:?} is not known"));
            }
        }
        rule.finish(out);
    }
    if !retried {
        draft.set("retry.strategy", "none");
        draft.comment("There was no retry rule. Remove retry.strategy, and failures are tried again for three days.");
        out.noted(
            "(no retry rule)",
            "retry.strategy",
            "none, as there: a failure is a dead letter at once",
        );
    }
    set_filters(filters, draft, doubts, out);
}

fn retry(rule: &mut Fields, draft: &mut Draft, out: &mut Out) {
    let keys = ["strategy", "interval", "count", "response_status_codes"];
    let [strategy_at, interval_at, count_at, codes_at] = keys.map(|key| rule.path(key));
    let exponential = match rule.text(out, "strategy").as_deref() {
        Some("linear") => false,
        Some("exponential") => true,
        Some(other) => {
            out.changed(
                &strategy_at,
                "retry.strategy",
                &format!("{other:?} is not known: exponential"),
            );
            true
        }
        None => true,
    };
    draft.set("retry.strategy", if exponential { "exponential" } else { "linear" });
    if exponential {
        draft.set("retry.jitter", "none");
    }
    out.carried(&strategy_at, "retry.strategy");
    let wanted = rule.number(out, "interval").unwrap_or(INTERVAL);
    let interval = wanted.clamp(1.0, 30.0 * DAY_MS);
    draft.set("retry.interval", make::span(make::whole(interval)));
    if (interval - wanted).abs() < f64::EPSILON {
        out.carried(&interval_at, "retry.interval");
    } else {
        out.changed(&interval_at, "retry.interval", "1 ms to 30 days here");
    }
    let count = rule.number(out, "count");
    if let Some(count) = count {
        let attempts = (count.round() + 1.0).clamp(1.0, 10_000.0);
        draft.set("retry.count", make::whole(attempts));
        out.changed(
            &count_at,
            "retry.count",
            &format!("{count} retries are {attempts} attempts, which are counted here"),
        );
    }
    room(draft, interval, count.unwrap_or(49.0), exponential);
    codes(rule, draft, out, &codes_at);
}

/// The bounds of time that the retries need.
fn room(draft: &mut Draft, interval: f64, count: f64, exponential: bool) {
    let longest =
        if exponential { interval * 2.0_f64.powf((count - 1.0).max(0.0)) } else { interval };
    if exponential && longest > 4.0 * HOUR_MS {
        draft.set("retry.max_interval", make::span(make::whole(longest.min(DAY_MS).max(interval))));
    }
    let total = if exponential { longest * 2.0 } else { interval * count };
    if total > 72.0 * HOUR_MS {
        draft.set("retry.max_age", make::span(make::whole((total * 1.1).min(90.0 * DAY_MS))));
    }
}

fn codes(rule: &mut Fields, draft: &mut Draft, out: &mut Out, codes_at: &str) {
    let Some(list) = rule.list(out, "response_status_codes") else {
        draft.set("retry.on_status", json!(ANY_FAILURE));
        return out.noted(
            "(no response_status_codes)",
            "retry.on_status",
            "whatever is no success, as there; but a 410 is final",
        );
    };
    let written: Vec<String> = list
        .iter()
        .map(|code| code.as_str().map_or_else(|| code.to_string(), str::to_owned))
        .map(|code| code.trim().trim_start_matches("==").trim_start_matches('=').to_owned())
        .collect();
    let mut kept: Vec<String> = written.clone();
    // What includes a success cannot be tried again; the success is taken out, not the entry.
    let set = |codes: &[String]| {
        let codes: Vec<&str> = codes.iter().map(String::as_str).collect();
        StatusSet::parse(&codes, Purpose::Retry)
    };
    let mut notes = Vec::new();
    if set(&kept).is_err() {
        let mut without = kept.clone();
        without.push("!2xx".to_owned());
        match set(&without) {
            Ok(_) => {
                kept = without;
                notes.push("a success is never tried again".to_owned());
            }
            Err(_) => {
                let known = |code: &String| {
                    set(std::slice::from_ref(code)).is_ok() || code.starts_with('!')
                };
                let refused: Vec<String> =
                    kept.iter().filter(|code| !known(code)).cloned().collect();
                kept.retain(known);
                notes.push(format!("left out: {}", refused.join(", ")));
            }
        }
    }
    if set(&kept).is_err() {
        draft.set("retry.on_status", json!(ANY_FAILURE));
        return out
            .dropped(codes_at, "no set of statuses that can be tried again: every failure is");
    }
    draft.set("retry.on_status", json!(kept));
    let normal = list
        .iter()
        .zip(&written)
        .all(|(theirs, ours)| theirs.as_str() == Some(ours) || theirs.is_number());
    if !normal {
        notes.push("written in our grammar".to_owned());
    }
    if notes.is_empty() {
        out.carried(codes_at, "retry.on_status");
    } else {
        out.changed(codes_at, "retry.on_status", &notes.join("; "));
    }
}

/// The sections of one rule.
fn filter(rule: &mut Fields, doubts: &mut Doubts, out: &mut Out) -> Option<Map<String, Json>> {
    let mut sections = Map::new();
    for section in SECTIONS {
        let path = rule.path(section);
        let Some(condition) = rule.take(out, section) else { continue };
        if condition.as_object().is_some_and(Map::is_empty) {
            out.noted(&path, "filter", "empty: everything passes");
            continue;
        }
        // Theirs may be a text that holds the JSON.
        let condition = match &condition {
            Json::String(text) if text.trim_start().starts_with(['{', '[']) => {
                serde_json::from_str(text).unwrap_or(condition)
            }
            _ => condition,
        };
        let alone = json!({ section: condition });
        match compiled(&alone) {
            Ok(()) => {
                sections.insert(section.to_owned(), condition);
                out.carried(&path, &format!("filter.{section}"));
            }
            Err(why) => {
                out.dropped(&path, &format!("{why}; the connection is paused"));
                doubts.add(format!("the filter of {section} is not understood: {why}"));
            }
        }
    }
    (!sections.is_empty()).then_some(sections)
}

fn compiled(filter: &Json) -> Result<(), String> {
    let text = filter.to_string();
    let tree = Tree::parse(text.as_bytes()).map_err(|error| error.to_string())?;
    Filter::compile(&tree)
        .map(drop)
        .map_err(|errors| errors.first().map_or_else(String::new, |error| error.message.clone()))
}

/// All rules must match.
fn set_filters(
    filters: Vec<Map<String, Json>>,
    draft: &mut Draft,
    doubts: &mut Doubts,
    out: &mut Out,
) {
    let mut whole = Map::new();
    for section in SECTIONS {
        let mut all: Vec<Json> =
            filters.iter().filter_map(|filter| filter.get(section).cloned()).collect();
        match all.len() {
            0 => {}
            1 => drop(whole.insert(section.to_owned(), all.remove(0))),
            _ => drop(whole.insert(section.to_owned(), json!({ "$and": all }))),
        }
    }
    if whole.is_empty() {
        return;
    }
    let whole = Json::Object(whole);
    if let Err(why) = compiled(&whole) {
        out.dropped("(filters together)", &why);
        return doubts.add(format!("the filters together are not understood: {why}"));
    }
    match whole {
        Json::Object(sections) if sections.values().all(fits_toml) => {
            for (section, condition) in sections {
                draft.set_in("filter", &section, condition);
            }
        }
        // TOML has no null; the filter is written as JSON.
        whole => draft.set("filter", whole.to_string()),
    }
}

fn delay(rule: &mut Fields, draft: &mut Draft, out: &mut Out) {
    let path = rule.path("delay");
    let Some(wanted) = rule.number(out, "delay") else { return };
    let ms = wanted.min(7.0 * DAY_MS);
    draft.set("delay", make::span(make::whole(ms)));
    if ms < wanted {
        out.changed(&path, "delay", "at most 7 days here");
    } else {
        out.carried(&path, "delay");
    }
}

fn dedupe(rule: &mut Fields, draft: &mut Draft, out: &mut Out) {
    let path = rule.path("window");
    let wanted = rule.number(out, "window").unwrap_or(HOUR_MS);
    let ms = wanted.clamp(1000.0, DAY_MS);
    draft.set("dedupe.window", make::span(make::whole(ms)));
    if (ms - wanted).abs() < f64::EPSILON {
        out.carried(&path, "dedupe.window");
    } else {
        out.changed(&path, "dedupe.window", "1 s to 24 h here");
    }
    let mut included = false;
    for (theirs, ours) in [("include_fields", "include"), ("exclude_fields", "exclude")] {
        let at = rule.path(theirs);
        let Some(list) = rule.list(out, theirs) else { continue };
        let mut kept = Vec::new();
        let mut refused = Vec::new();
        for field in list.iter().filter_map(Json::as_str) {
            let legal = Path::parse_many(field).is_ok_and(|path| {
                // What is left out is left out of the body; nothing else counts anyway.
                ours == "include" || path.steps().is_some()
            });
            if legal { kept.push(field) } else { refused.push(field) }
        }
        if ours == "exclude" && included {
            out.dropped(&at, "include_fields stands beside it, which says all");
            continue;
        }
        let here = format!("dedupe.{ours}");
        match (kept.is_empty(), refused.is_empty()) {
            (true, true) => out.noted(&at, "", "empty"),
            (true, false) if ours == "include" && refused == ["body"] => {
                out.noted(&at, "dedupe", "the whole body is what counts without a list");
            }
            (true, false) => {
                out.dropped(
                    &at,
                    &format!("no path here: {}; the body counts as a whole", refused.join(", ")),
                );
            }
            (false, true) => out.carried(&at, &here),
            (false, false) => out.changed(&at, &here, &format!("left out: {}", refused.join(", "))),
        }
        if !kept.is_empty() {
            included |= ours == "include";
            draft.set(&here, json!(kept));
        }
    }
    if !included {
        out.changed(
            "(deduplicate)",
            "dedupe",
            "the body counts, not headers, query and path as well",
        );
    }
}

fn transform(
    rule: &mut Fields,
    draft: &mut Draft,
    doubts: &mut Doubts,
    out: &mut Out,
    type_at: &str,
) {
    let why = "JavaScript does not run here: write [connection.transform] instead; the connection is paused";
    out.dropped(type_at, why);
    if let Some(id) = rule.text(out, "transformation_id") {
        out.dropped(
            &rule.path("transformation_id"),
            "of a transformation that is not carried over",
        );
        draft.comment(format!("transformation_id: {id}"));
    }
    let mut name = String::new();
    if let Some(mut transformation) = rule.object(out, "transformation") {
        name = transformation.quiet_text("name").unwrap_or_default();
        transformation.leave(
            out,
            &["name", "code", "env"],
            "of a transformation that is not carried over",
        );
        transformation.finish(out);
    }
    doubts.add(format!(
        "transformation {name:?} is JavaScript: write [connection.transform] instead"
    ));
}
