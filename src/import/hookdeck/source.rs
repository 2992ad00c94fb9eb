//! A source: who may post, with which methods, and what is answered.

use serde_json::{Value as Json, json};

use super::super::draft::Draft;
use super::super::fields::Fields;
use super::super::out::Out;

/// What a source takes when nothing is said.
const METHODS: [&str; 4] = ["POST", "PUT", "PATCH", "DELETE"];

pub(super) fn source(mut source: Fields, name: &str, out: &mut Out) {
    if out.has_source(name) {
        // Each connection of a source brings it again.
        out.noted("source", "[[source]]", "described at the first connection that it feeds");
        return;
    }
    let mut draft = Draft::default();
    draft.comment(format!("Imported from Hookdeck: source {name}"));
    draft.set("name", name);
    for key in ["id", "team_id"] {
        if source.text(out, key).is_some() {
            out.dropped(&source.path(key), "a source is known by its name here");
        }
    }
    if let Some(text) = source.text(out, "description") {
        draft.comment(&text);
        out.noted(&source.path("description"), "", "in the comment above the source");
    }
    if source.text(out, "url").is_some() {
        let note = format!("producers post to /v1/sources/{name}/events of the ingress now");
        out.changed(&source.path("url"), "", &note);
    }
    for key in ["created_at", "updated_at"] {
        if let Some(at) = source.text(out, key) {
            draft.comment(format!("{key}: {at}"));
            out.noted(&source.path(key), "", "in the comment above the source");
        }
    }
    if source.flag(out, "authenticated").is_some() {
        out.noted(&source.path("authenticated"), "auth", "follows from its auth");
    }
    let kind = source.text(out, "type").unwrap_or_else(|| "WEBHOOK".to_owned());
    draft.comment(format!("type: {kind}"));
    out.noted(
        &source.path("type"),
        "auth",
        "what its auth is; the word is in the comment above the source",
    );
    let mut config = source.object(out, "config").unwrap_or_else(|| source.empty("config"));
    source.finish(out);
    methods(&mut config, &mut draft, out);
    response(&mut config, &mut draft, out);
    auth(&mut config, &kind, name, &mut draft, out);
    config.finish(out);
    out.source(name, draft);
}

fn methods(config: &mut Fields, draft: &mut Draft, out: &mut Out) {
    let at = config.path("allowed_http_methods");
    match config.list(out, "allowed_http_methods") {
        Some(list) if !list.is_empty() => {
            draft.set("methods", Json::Array(list));
            out.carried(&at, "methods");
        }
        _ => {
            draft.set("methods", json!(METHODS));
            out.noted(&at, "methods", "their default");
        }
    }
}

fn response(config: &mut Fields, draft: &mut Draft, out: &mut Out) {
    let Some(mut response) = config.object(out, "custom_response") else { return };
    let [type_at, body_at] = ["content_type", "body"].map(|key| response.path(key));
    let media = match response.text(out, "content_type").as_deref() {
        Some("json") => "application/json",
        Some("xml") => "application/xml",
        Some("text") => "text/plain; charset=utf-8",
        Some(other) => {
            out.changed(
                &type_at,
                "response.content_type",
                &format!("{other:?} is not known: text"),
            );
            "text/plain; charset=utf-8"
        }
        None => "text/plain; charset=utf-8",
    };
    draft.set("response.status", 200);
    draft.set("response.content_type", media);
    out.carried(&type_at, "response.content_type");
    if let Some(body) = response.text(out, "body") {
        if body.len() > 1000 {
            out.dropped(&body_at, "longer than 1000 bytes");
        } else {
            draft.set("response.body", body);
            out.carried(&body_at, "response.body");
        }
    }
    response.finish(out);
}

/// Which HMAC a source of a known type has: header, encoding and prefix.
fn known_hmac(kind: &str) -> Option<(&'static str, &'static str, &'static str)> {
    Some(match kind {
        "GITHUB" => ("x-hub-signature-256", "hex", "sha256="),
        "SHOPIFY" => ("x-shopify-hmac-sha256", "base64", ""),
        "WOOCOMMERCE" => ("x-wc-webhook-signature", "base64", ""),
        "TYPEFORM" => ("typeform-signature", "base64", "sha256="),
        _ => return None,
    })
}

fn auth(config: &mut Fields, kind: &str, name: &str, draft: &mut Draft, out: &mut Out) {
    let (type_at, auth_at) = (config.path("auth_type"), config.path("auth"));
    let given = config.text(out, "auth_type");
    let Some(mut auth) = config.object(out, "auth") else {
        if let Some(given) = given {
            open(draft, out, &type_at, &format!("{given}, but its secrets are not in the file"));
        }
        return;
    };
    let typed = given.is_some();
    let way = given.unwrap_or_else(|| kind.to_owned());
    match (way.as_str(), known_hmac(&way)) {
        ("HMAC", _) => hmac(&mut auth, name, draft, out),
        ("BASIC_AUTH", _) => {
            let user = auth.text(out, "username").unwrap_or_default();
            let password = auth.text(out, "password");
            let file = format!("{name}.source-password");
            let what = "the password of producers";
            if let Some(reference) = out.source_secret(&file, password.as_deref(), what) {
                draft.set_in("auth.basic", "user", user);
                draft.set_in("auth.basic", "passwords", json!([reference]));
                out.carried(&auth.path("username"), "auth.basic.user");
                out.noted(
                    &auth.path("password"),
                    "auth.basic.passwords",
                    "the value is in a file of its own",
                );
            } else {
                open(draft, out, &auth.path("password"), "its secret is not in the file");
            }
        }
        (_, Some((header, encoding, prefix))) => {
            let secret = auth.text(out, "webhook_secret_key");
            let file = format!("{name}.source-signing");
            let what = "verifies what producers sign";
            if let Some(reference) = out.source_secret(&file, secret.as_deref(), what) {
                draft.set_in("auth.hmac", "header", header);
                draft.set_in("auth.hmac", "encoding", encoding);
                if !prefix.is_empty() {
                    draft.set_in("auth.hmac", "prefix", prefix);
                }
                draft.set_in("auth.hmac", "secrets", json!([reference]));
                out.noted(
                    &auth.path("webhook_secret_key"),
                    "auth.hmac.secrets",
                    "the value is in a file of its own",
                );
            } else {
                open(draft, out, &auth.path("webhook_secret_key"), "its secret is not in the file");
            }
        }
        (other, None) => {
            let why = format!("{other}: this way of verifying producers is not here");
            open(draft, out, if typed { &type_at } else { &auth_at }, &why);
            auth.leave_all(out, "belongs to a verification that is not carried over");
            return;
        }
    }
    if typed {
        out.carried(&type_at, "auth");
    }
    auth.finish(out);
}

fn hmac(auth: &mut Fields, name: &str, draft: &mut Draft, out: &mut Out) {
    let keys = ["algorithm", "encoding", "header_key", "webhook_secret_key"];
    let [algorithm_at, encoding_at, header_at, secret_at] = keys.map(|key| auth.path(key));
    let [algorithm, encoding, header, secret] = keys.map(|key| auth.text(out, key));
    let algorithm = algorithm.unwrap_or_else(|| "sha256".to_owned());
    let encoding = encoding.unwrap_or_else(|| "hex".to_owned());
    if !["sha256", "sha512"].contains(&algorithm.as_str()) {
        return open(
            draft,
            out,
            &algorithm_at,
            &format!("{algorithm} is broken and is not verified"),
        );
    }
    if !["hex", "base64"].contains(&encoding.as_str()) {
        return open(draft, out, &encoding_at, &format!("{encoding} is not read here"));
    }
    let file = format!("{name}.source-signing");
    let what = "verifies what producers sign";
    let Some(reference) = out.source_secret(&file, secret.as_deref(), what) else {
        return open(draft, out, &secret_at, "its secret is not in the file");
    };
    draft.set_in("auth.hmac", "header", header.unwrap_or_else(|| "x-signature".to_owned()));
    draft.set_in("auth.hmac", "algorithm", algorithm);
    draft.set_in("auth.hmac", "encoding", encoding);
    draft.set_in("auth.hmac", "secrets", json!([reference]));
    out.carried(&algorithm_at, "auth.hmac.algorithm");
    out.carried(&encoding_at, "auth.hmac.encoding");
    out.carried(&header_at, "auth.hmac.header");
    out.noted(&secret_at, "auth.hmac.secrets", "the value is in a file of its own");
}

/// Nobody is asked who they are.
fn open(draft: &mut Draft, out: &mut Out, field: &str, why: &str) {
    draft.comment(format!("Takes posts of everybody who reaches it: {why}."));
    out.dropped(field, &format!("{why}; the source takes posts of everybody who reaches it"));
}
