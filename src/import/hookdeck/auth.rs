//! How a destination is told who it is: `auth_type` and `auth`.

use serde_json::json;

use super::super::draft::Draft;
use super::super::fields::Fields;
use super::super::make;
use super::super::out::Out;
use super::Doubts;

/// The project's signing secret.
const SIGNING: &str = "hookdeck.signing";

pub(super) fn auth(
    config: &mut Fields,
    draft: &mut Draft,
    doubts: &mut Doubts,
    out: &mut Out,
    name: &str,
) {
    let (type_at, auth_at) = (config.path("auth_type"), config.path("auth"));
    let kind = config.text(out, "auth_type");
    let mut auth = config.object(out, "auth").unwrap_or_else(|| config.empty("auth"));
    match kind.as_deref() {
        None if out.has(SIGNING) => signature(draft, out, &type_at),
        None => out.changed(
            &type_at,
            "",
            "not set: they sign with x-hookdeck-signature all the same; here nothing is signed unless the file hookdeck.signing is in the directory of secrets",
        ),
        Some("HOOKDECK_SIGNATURE") => signature(draft, out, &type_at),
        Some("CUSTOM_SIGNATURE") => custom(&mut auth, draft, out, name, &type_at),
        Some("BASIC_AUTH") => basic(&mut auth, draft, out, name, &type_at),
        Some("API_KEY") => api_key(&mut auth, draft, out, name, &type_at),
        Some("BEARER_TOKEN") => {
            let field = auth.path("token");
            let token = auth.text(out, "token");
            if let Some(reference) =
                out.secret(&format!("{name}.token"), token.as_deref(), "the bearer token")
            {
                draft.set_in("auth.bearer", "token", reference);
                out.carried(&type_at, "auth.bearer");
                kept(out, &field, "auth.bearer.token");
            } else {
                left_out(out, &type_at);
            }
        }
        Some("OAUTH2_CLIENT_CREDENTIALS") => oauth2(&mut auth, draft, doubts, out, name, &type_at),
        Some(other) => {
            let why = match other {
                "OAUTH2_AUTHORIZATION_CODE" => "a user's consent and its refresh token",
                "AWS_SIGNATURE" => "signatures of AWS",
                "GCP_SERVICE_ACCOUNT" => "service accounts of Google",
                _ => "this way of authentication",
            };
            out.dropped(&type_at, &format!("{other}: {why} are not supported; the connection is paused"));
            auth.leave_all(out, "belongs to an authentication that is not supported");
            doubts.add(format!("auth_type {other} is not supported: it would send without authentication"));
        }
    }
    let _ = auth_at;
    auth.finish(out);
}

fn kept(out: &mut Out, field: &str, here: &str) {
    out.noted(field, here, "the value is in a file of its own");
}

fn left_out(out: &mut Out, field: &str) {
    out.dropped(field, "its secret is not in the file, and was to be left out");
}

/// An HMAC with SHA-256 over the body, in base64.
fn hmac(draft: &mut Draft, header: &str, reference: serde_json::Value) {
    draft.set_in("sign.hmac", "header", header);
    draft.set_in("sign.hmac", "algorithm", "sha256");
    draft.set_in("sign.hmac", "encoding", "base64");
    draft.set_in("sign.hmac", "secrets", json!([reference]));
}

fn signature(draft: &mut Draft, out: &mut Out, type_at: &str) {
    let purpose = "the project's signing secret (Settings, Secrets), for x-hookdeck-signature";
    match out.secret(SIGNING, None, purpose) {
        Some(reference) => {
            hmac(draft, "x-hookdeck-signature", reference);
            out.noted(
                type_at,
                "sign.hmac",
                "with the project's signing secret, from the file hookdeck.signing",
            );
        }
        None => left_out(out, type_at),
    }
}

fn custom(auth: &mut Fields, draft: &mut Draft, out: &mut Out, name: &str, type_at: &str) {
    let (key_at, secret_at) = (auth.path("key"), auth.path("signing_secret"));
    let header = auth.text(out, "key").unwrap_or_else(|| "x-signature".to_owned());
    let secret = auth.text(out, "signing_secret");
    match out.secret(&format!("{name}.signing"), secret.as_deref(), "signs what is sent") {
        Some(reference) => {
            hmac(draft, &header, reference);
            out.noted(type_at, "sign.hmac", "SHA-256 over the body, in base64");
            out.carried(&key_at, "sign.hmac.header");
            kept(out, &secret_at, "sign.hmac.secrets");
        }
        None => left_out(out, type_at),
    }
}

fn basic(auth: &mut Fields, draft: &mut Draft, out: &mut Out, name: &str, type_at: &str) {
    let (user_at, password_at) = (auth.path("username"), auth.path("password"));
    let user = auth.text(out, "username").unwrap_or_default();
    let password = auth.text(out, "password");
    match out.secret(&format!("{name}.password"), password.as_deref(), "the password") {
        Some(reference) => {
            draft.set_in("auth.basic", "username", user);
            draft.set_in("auth.basic", "password", reference);
            out.carried(type_at, "auth.basic");
            out.carried(&user_at, "auth.basic.username");
            kept(out, &password_at, "auth.basic.password");
        }
        None => left_out(out, type_at),
    }
}

fn api_key(auth: &mut Fields, draft: &mut Draft, out: &mut Out, name: &str, type_at: &str) {
    let [key_at, value_at, to_at] = ["key", "api_key", "to"].map(|key| auth.path(key));
    let key = auth.text(out, "key").unwrap_or_else(|| "x-api-key".to_owned());
    let value = auth.text(out, "api_key");
    let to = auth.text(out, "to");
    match out.secret(&format!("{name}.api-key"), value.as_deref(), "the API key") {
        Some(reference) => {
            draft.set_in("auth.api_key", "name", key);
            draft.set_in("auth.api_key", "key", reference);
            out.carried(type_at, "auth.api_key");
            out.carried(&key_at, "auth.api_key.name");
            kept(out, &value_at, "auth.api_key.key");
            match to.as_deref() {
                Some("query") => {
                    draft.set_in("auth.api_key", "in", "query");
                    out.carried(&to_at, "auth.api_key.in");
                }
                Some("header") => out.carried(&to_at, "auth.api_key.in"),
                Some(other) => {
                    out.changed(
                        &to_at,
                        "auth.api_key.in",
                        &format!("{other:?} is not known: header"),
                    );
                }
                None => {}
            }
        }
        None => left_out(out, type_at),
    }
}

fn oauth2(
    auth: &mut Fields,
    draft: &mut Draft,
    doubts: &mut Doubts,
    out: &mut Out,
    name: &str,
    type_at: &str,
) {
    let keys = ["auth_server", "client_id", "client_secret", "scope", "authentication_type"];
    let [server_at, client_at, secret_at, scope_at, style_at] = keys.map(|key| auth.path(key));
    let [server, client, secret, scope, style] = keys.map(|key| auth.text(out, key));
    let (Some(server), Some(client)) = (server, client) else {
        out.dropped(type_at, "without auth_server and client_id; the connection is paused");
        return doubts.add("OAuth 2.0 without auth_server and client_id");
    };
    let file = format!("{name}.client-secret");
    let Some(reference) = out.secret(&file, secret.as_deref(), "the client's secret") else {
        return left_out(out, type_at);
    };
    draft.set_in("auth.oauth2", "token_url", server);
    draft.set_in("auth.oauth2", "client_id", make::cut(&client, 1000));
    draft.set_in("auth.oauth2", "client_secret", reference);
    out.carried(type_at, "auth.oauth2");
    out.carried(&server_at, "auth.oauth2.token_url");
    out.carried(&client_at, "auth.oauth2.client_id");
    kept(out, &secret_at, "auth.oauth2.client_secret");
    if let Some(scope) = scope {
        let scopes: Vec<&str> = scope.split_whitespace().collect();
        draft.set_in("auth.oauth2", "scopes", json!(scopes));
        out.carried(&scope_at, "auth.oauth2.scopes");
    }
    match style.as_deref() {
        Some("basic") => {
            draft.set_in("auth.oauth2", "auth_style", "header");
            out.carried(&style_at, "auth.oauth2.auth_style");
        }
        Some("x-www-form-urlencoded") => {
            draft.set_in("auth.oauth2", "auth_style", "body");
            out.carried(&style_at, "auth.oauth2.auth_style");
        }
        Some(other) => {
            draft.set_in("auth.oauth2", "auth_style", "body");
            out.changed(
                &style_at,
                "auth.oauth2.auth_style",
                &format!("{other:?} is not there; the form is used"),
            );
        }
        None => {}
    }
}
