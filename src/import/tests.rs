//! What becomes of fields: samples, bounds, and what is not known.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;

mod table;

const SAMPLES: [(System, &str); 3] = [
    (System::Apinizer, include_str!("../../tests/import/apinizer.json")),
    (System::Hookdeck, include_str!("../../tests/import/hookdeck.json")),
    (System::Endpoints, include_str!("../../tests/import/endpoints.json")),
];

fn sample(system: System) -> Json {
    let (_, text) = SAMPLES.iter().find(|(one, _)| *one == system).unwrap();
    serde_json::from_str(&text.replace("RECEIVER", "127.0.0.1:9")).unwrap()
}

fn options() -> Options {
    Options {
        secrets: "../secrets".to_owned(),
        secrets_of_root: "secrets".to_owned(),
        have: BTreeSet::new(),
        skip_missing: false,
    }
}

fn converted(system: System, document: Json) -> Converted {
    convert(system, document, options()).unwrap()
}

/// The row of a field, as its outcome and its place here.
#[track_caller]
fn row<'c>(converted: &'c Converted, field: &str) -> (&'c str, &'c str) {
    let found = converted.report.iter().find(|row| row.field == field);
    let found = found.unwrap_or_else(|| panic!("no row for {field}: {:#?}", converted.report));
    (found.outcome.as_str(), &found.here)
}

/// The one connection, as TOML.
#[track_caller]
fn only(converted: &Converted) -> toml::Table {
    assert_eq!(converted.connections.len(), 1, "{:#?}", converted.report);
    let whole: toml::Table = converted.connections[0].text.parse().unwrap();
    whole["connection"][0].as_table().unwrap().clone()
}

fn text(table: &toml::Table, path: &str) -> String {
    let mut value = &toml::Value::Table(table.clone());
    for key in path.split('.') {
        value = value.get(key).unwrap_or_else(|| panic!("no {path} in {table}"));
    }
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The path of each field of an object, and of the objects in it.
fn paths(value: &Json, prefix: &str, found: &mut Vec<String>) {
    let Json::Object(members) = value else { return };
    for (key, value) in members {
        let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            // What is inside is theirs to choose: it is one field.
            _ if ["body", "headers", "headers_json", "env"].contains(&key.as_str()) => {
                found.push(path)
            }
            Json::Object(_) => paths(value, &path, found),
            Json::Array(items) if items.iter().any(Json::is_object) => {
                for (at, item) in items.iter().enumerate() {
                    paths(item, &format!("{path}[{at}]"), found);
                }
            }
            _ => found.push(path),
        }
    }
}

fn items(document: &Json) -> Vec<Json> {
    let list = ["models", "resultList"].iter().find_map(|key| document.get(key));
    list.unwrap_or(document).as_array().unwrap().clone()
}

/// Whether a row speaks of the field: of itself, of what it stands in, or of what is in it.
fn is_reported(converted: &Converted, path: &str) -> bool {
    converted.report.iter().any(|row| {
        let inside = |whole: &str, part: &str| {
            part.strip_prefix(whole).is_some_and(|rest| rest.starts_with(['.', '[']))
        };
        row.field == path || inside(path, &row.field) || inside(&row.field, path)
    })
}

#[test]
fn every_field_of_the_samples_has_a_row() {
    let mut seen = 0;
    for (system, _) in SAMPLES {
        for item in items(&sample(system)) {
            let alone = converted(system, item.clone());
            let mut fields = Vec::new();
            paths(&item, "", &mut fields);
            for field in fields {
                assert!(is_reported(&alone, &field), "{system:?} {field}: {:#?}", alone.report);
                seen += 1;
            }
        }
    }
    assert!(seen > 150, "only {seen} fields were looked at");
}

/// Puts a member into the object that is the `at`-th of all; its path.
fn plant(value: &mut Json, at: &mut usize, path: &str) -> Option<String> {
    match value {
        Json::Object(members) => {
            if *at == 0 {
                members.insert("xNobody".to_owned(), json!("knows"));
                return Some(format!("{path}xNobody"));
            }
            *at -= 1;
            members
                .iter_mut()
                .filter(|(key, _)| {
                    !["body", "headers", "headers_json", "env"].contains(&key.as_str())
                })
                .find_map(|(key, value)| plant(value, at, &format!("{path}{key}.")))
        }
        Json::Array(items) => {
            let whole = path.trim_end_matches('.').to_owned();
            items
                .iter_mut()
                .enumerate()
                .find_map(|(number, value)| plant(value, at, &format!("{whole}[{number}].")))
        }
        _ => None,
    }
}

proptest! {
    #[test]
    fn unknown_fields_are_reported_wherever_they_are(system in 0..3usize, item in 0..4usize, at in 0..12usize) {
        let (system, _) = SAMPLES[system];
        let items = items(&sample(system));
        let mut one = items[item % items.len()].clone();
        let mut place = at;
        let Some(path) = plant(&mut one, &mut place, "") else { return Ok(()) };
        let done = converted(system, one);
        let found = done.report.iter().find(|row| row.field == path);
        // A source that is known already is not described twice, but its row says so.
        prop_assert_eq!(found.map(|row| row.outcome), Some(Outcome::NotCarried), "{} {:#?}", path, done.report);
    }

    /// Whatever the JSON is, it is converted or refused.
    #[test]
    fn any_json_is_converted_or_refused(text in "[\\[\\]{}:,\"a-z0-9 ]{0,60}", system in 0..3usize) {
        if let Ok(document) = serde_json::from_str(&text) {
            let _ = convert(SAMPLES[system].0, document, options());
        }
    }
}

#[test]
fn secrets_are_in_files_alone() {
    let secrets = [
        "s1em-t0ken",
        "test-t0ken",
        "h3alth",
        "crm-s3cret",
        "w4rehouse",
        "aws-s3cret",
        "sh0p-pass",
        "gh-s3cret",
        "oauth-s3cret",
        "whsec_MfKQ",
        "k3y",
    ];
    let mut kept = BTreeSet::new();
    for (system, _) in SAMPLES {
        let done = converted(system, sample(system));
        let shown = format!("{:?}", done.report)
            + &done
                .connections
                .iter()
                .chain(&done.sources)
                .map(|piece| piece.text.clone())
                .collect::<String>();
        for secret in secrets {
            assert!(!shown.contains(secret), "{secret}");
            let files = done.secrets.iter();
            kept.extend(
                files
                    .filter(|file| {
                        file.value
                            .expose()
                            .windows(secret.len())
                            .any(|part| part == secret.as_bytes())
                    })
                    .map(|_| secret),
            );
        }
    }
    // What is not carried over is not kept either.
    assert_eq!(kept.len(), secrets.len() - 1, "{kept:?}");
    assert!(!kept.contains("aws-s3cret"));
}

fn hookdeck(config: Json, rules: Json) -> Json {
    json!({
        "id": "web_1", "name": "one", "rules": rules,
        "source": { "name": "shop" },
        "destination": { "name": "d", "type": "HTTP", "config": config },
    })
}

fn to(more: Json) -> Json {
    let mut config = json!({ "url": "https://crm.example.com/hooks" });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}

#[test]
fn each_auth_type_of_hookdeck() {
    let cases = [
        (
            json!({ "auth_type": "BASIC_AUTH", "auth": { "username": "u", "password": "p" } }),
            "auth.basic.username",
            "u",
        ),
        (
            json!({ "auth_type": "API_KEY", "auth": { "key": "k", "api_key": "v", "to": "query" } }),
            "auth.api_key.in",
            "query",
        ),
        (
            json!({ "auth_type": "BEARER_TOKEN", "auth": { "token": "t" } }),
            "auth.bearer.token.file",
            "../secrets/one.token",
        ),
        (
            json!({ "auth_type": "CUSTOM_SIGNATURE", "auth": { "key": "x-sig", "signing_secret": "s" } }),
            "sign.hmac.header",
            "x-sig",
        ),
        (
            json!({ "auth_type": "OAUTH2_CLIENT_CREDENTIALS", "auth": { "auth_server": "https://id/token", "client_id": "c", "client_secret": "s", "scope": "a b", "authentication_type": "basic" } }),
            "auth.oauth2.auth_style",
            "header",
        ),
    ];
    for (auth, path, value) in cases {
        let done = converted(System::Hookdeck, hookdeck(to(auth.clone()), json!([])));
        let table = only(&done);
        assert_eq!(text(&table, path), value, "{auth}");
        assert!(!table.contains_key("state"), "{auth}");
        assert_eq!(row(&done, "destination.config.auth_type").0, "carried", "{auth}");
        assert_eq!(done.secrets.len(), 1, "{auth}");
    }
    for kind in ["OAUTH2_AUTHORIZATION_CODE", "AWS_SIGNATURE", "GCP_SERVICE_ACCOUNT", "MAGIC"] {
        let auth = json!({ "auth_type": kind, "auth": { "client_secret": "s" } });
        let done = converted(System::Hookdeck, hookdeck(to(auth), json!([])));
        assert_eq!(text(&only(&done), "state"), "paused", "{kind}");
        assert_eq!(row(&done, "destination.config.auth_type").0, "not carried");
        assert_eq!(row(&done, "destination.config.auth.client_secret").0, "not carried");
        assert!(done.secrets.is_empty() && done.connections[0].text.contains(kind));
    }
}

/// Its own signature needs the project's secret: asked for, found, or left out.
#[test]
fn a_secret_that_the_file_lacks_is_asked_for() {
    let document =
        || hookdeck(to(json!({ "auth_type": "HOOKDECK_SIGNATURE", "auth": {} })), json!([]));
    let done = converted(System::Hookdeck, document());
    let wanted: Vec<_> = done.missing.iter().map(|one| (one.name.as_str(), one.left_out)).collect();
    assert_eq!(wanted, [("hookdeck.signing", false)]);
    let skipped =
        convert(System::Hookdeck, document(), Options { skip_missing: true, ..options() }).unwrap();
    assert!(skipped.missing[0].left_out && !only(&skipped).contains_key("sign"));
    assert_eq!(row(&skipped, "destination.config.auth_type").0, "not carried");
    let have = BTreeSet::from(["hookdeck.signing".to_owned()]);
    let found = convert(System::Hookdeck, document(), Options { have, ..options() }).unwrap();
    assert!(found.missing.is_empty());
    assert_eq!(text(&only(&found), "sign.hmac.header"), "x-hookdeck-signature");
    assert_eq!(text(&only(&found), "sign.hmac.encoding"), "base64");
    let masked = json!({ "auth_type": "BEARER_TOKEN", "auth": { "token": "*****" } });
    assert_eq!(converted(System::Hookdeck, hookdeck(to(masked), json!([]))).missing.len(), 1);
}

#[test]
fn each_rule_of_hookdeck() {
    let rule = |rule: Json| converted(System::Hookdeck, hookdeck(to(json!({})), json!([rule])));
    let done = rule(
        json!({ "type": "retry", "strategy": "linear", "interval": 60000, "count": 4, "response_status_codes": [">=500", "!501", 429] }),
    );
    let table = only(&done);
    assert_eq!(text(&table, "retry.strategy"), "linear");
    assert_eq!(text(&table, "retry.interval"), "1m");
    assert_eq!(text(&table, "retry.count"), "5");
    assert_eq!(text(&table, "retry.on_status"), r#"[">=500", "!501", "429"]"#);
    assert_eq!(row(&done, "rules[0].response_status_codes").0, "carried");
    // Ten retries that double need longer bounds than ours.
    let table = only(&rule(
        json!({ "type": "retry", "strategy": "exponential", "interval": 3600000, "count": 10 }),
    ));
    assert_eq!(text(&table, "retry.max_interval"), "1d");
    assert_eq!(text(&table, "retry.on_status"), r#"["3xx", "4xx", "5xx"]"#);
    // A success cannot be tried again.
    let done =
        rule(json!({ "type": "retry", "strategy": "linear", "response_status_codes": [">100"] }));
    assert_eq!(text(&only(&done), "retry.on_status"), r#"[">100", "!2xx"]"#);
    assert_eq!(row(&done, "rules[0].response_status_codes").0, "changed");
    let none = converted(System::Hookdeck, hookdeck(to(json!({})), json!(null)));
    assert_eq!(text(&only(&none), "retry.strategy"), "none");
    assert_eq!(text(&only(&rule(json!({ "type": "delay", "delay": 90000 }))), "delay"), "90s");
    assert_eq!(
        row(&rule(json!({ "type": "delay", "delay": 999_999_999_999u64 })), "rules[0].delay").0,
        "changed"
    );
    let done = rule(
        json!({ "type": "deduplicate", "window": 3600000, "exclude_fields": ["body.at", "headers.date"] }),
    );
    assert_eq!(text(&only(&done), "dedupe.window"), "1h");
    assert_eq!(text(&only(&done), "dedupe.exclude"), r#"["body.at"]"#);
    assert_eq!(row(&done, "rules[0].exclude_fields").0, "changed");
    let done = rule(
        json!({ "type": "filter", "body": { "a": { "$gte": 1 } }, "headers": { "x-a": "1" } }),
    );
    assert_eq!(text(&only(&done), "filter.headers.x-a"), "1");
    assert_eq!(row(&done, "rules[0].body"), ("carried", "filter.body"));
    // TOML has no null.
    let done = rule(json!({ "type": "filter", "body": { "gone": null } }));
    assert_eq!(text(&only(&done), "filter"), r#"{"body":{"gone":null}}"#);
    let done = rule(json!({ "type": "filter", "body": { "a": { "$magic": 1 } } }));
    assert_eq!(
        (row(&done, "rules[0].body").0, text(&only(&done), "state").as_str()),
        ("not carried", "paused")
    );
    let done = rule(
        json!({ "type": "transform", "transformation_id": "t", "transformation": { "name": "n", "code": "c" } }),
    );
    assert_eq!(
        (row(&done, "rules[0].transformation.code").0, text(&only(&done), "state").as_str()),
        ("not carried", "paused")
    );
    let done = rule(json!({ "type": "alert" }));
    assert_eq!(
        (row(&done, "rules[0].type").0, text(&only(&done), "state").as_str()),
        ("not carried", "paused")
    );
}

/// Several filters must all match.
#[test]
fn filters_of_one_connection_are_joined() {
    let rules = json!([
        { "type": "filter", "body": { "a": 1 } },
        { "type": "filter", "body": { "b": 2 }, "query": { "c": "3" } },
    ]);
    let table = only(&converted(System::Hookdeck, hookdeck(to(json!({})), rules)));
    assert_eq!(text(&table, "filter.body.$and"), "[{ a = 1 }, { b = 2 }]");
    assert_eq!(text(&table, "filter.query.c"), "3");
}

#[test]
fn rate_limits_are_exact_or_say_so() {
    let cases = [
        (json!(50), "second", Some((50, "second")), "carried"),
        (json!(0.5), "second", Some((30, "minute")), "changed"),
        (json!(2.5), "minute", Some((150, "hour")), "changed"),
        (json!(0.25), "hour", Some((1, "hour")), "changed"),
    ];
    for (limit, period, expected, outcome) in cases {
        let config = to(json!({ "rate_limit": limit, "rate_limit_period": period }));
        let done = converted(System::Hookdeck, hookdeck(config, json!([])));
        let table = only(&done);
        let found =
            (table["rate_limit"]["limit"].as_integer().unwrap(), text(&table, "rate_limit.per"));
        assert_eq!(Some((found.0, found.1.as_str())), expected, "{limit} {period}");
        assert_eq!(row(&done, "destination.config.rate_limit").0, outcome, "{limit} {period}");
    }
    let config = to(json!({ "rate_limit": 100, "rate_limit_period": "concurrent" }));
    let table = only(&converted(System::Hookdeck, hookdeck(config, json!([]))));
    assert_eq!(text(&table, "max_in_flight"), "100");
    assert_eq!(
        (text(&table, "pool.max_per_host"), text(&table, "pool.max_total")),
        ("100".into(), "100".into())
    );
}

#[test]
fn states_names_and_targets_of_hookdeck() {
    let mut one = hookdeck(
        to(json!({ "http_method": "PATCH", "path_forwarding_disabled": true })),
        json!([]),
    );
    one["paused_at"] = json!("2025-01-01T00:00:00Z");
    one["name"] = json!(null);
    let done = converted(System::Hookdeck, one.clone());
    let table = only(&done);
    assert_eq!(text(&table, "name"), "shop-d");
    assert_eq!((text(&table, "state"), text(&table, "method")), ("paused".into(), "PATCH".into()));
    assert_eq!(
        (text(&table, "forward_path"), text(&table, "source")),
        ("false".into(), "shop".into())
    );
    one["disabled_at"] = json!("2025-01-01T00:00:00Z");
    assert_eq!(text(&only(&converted(System::Hookdeck, one)), "state"), "disabled");
    let table = only(&converted(System::Hookdeck, hookdeck(to(json!({})), json!([]))));
    assert_eq!(
        (text(&table, "method"), text(&table, "forward_path"), text(&table, "forward_query")),
        ("inherit".into(), "true".into(), "true".into())
    );
    for kind in ["CLI", "MOCK_API"] {
        let mut one = hookdeck(json!({ "path": "/hooks" }), json!([]));
        one["destination"]["type"] = json!(kind);
        let done = converted(System::Hookdeck, one);
        assert!(done.connections.is_empty(), "{kind}");
        assert_eq!(row(&done, "destination.type").0, "not carried", "{kind}");
    }
}

#[test]
fn sources_of_hookdeck() {
    let source = |kind: &str, config: Json| {
        let mut one = hookdeck(to(json!({})), json!([]));
        one["source"] = json!({ "name": "shop", "type": kind, "config": config });
        let done = converted(System::Hookdeck, one);
        let whole: toml::Table = done.sources[0].text.parse().unwrap();
        (whole["source"][0].as_table().unwrap().clone(), done)
    };
    let (table, _) = source("WEBHOOK", json!({}));
    assert_eq!(text(&table, "methods"), r#"["POST", "PUT", "PATCH", "DELETE"]"#);
    let hmac = json!({ "auth_type": "HMAC", "auth": { "algorithm": "sha512", "encoding": "base64", "header_key": "x-s", "webhook_secret_key": "k" }, "allowed_http_methods": ["PUT"], "custom_response": { "content_type": "xml", "body": "<ok/>" } });
    let (table, done) = source("HTTP", hmac);
    assert_eq!(
        (text(&table, "auth.hmac.header"), text(&table, "auth.hmac.algorithm")),
        ("x-s".into(), "sha512".into())
    );
    assert_eq!(
        (text(&table, "methods"), text(&table, "response.content_type")),
        (r#"["PUT"]"#.into(), "application/xml".into())
    );
    assert_eq!(row(&done, "source.config.auth.header_key"), ("carried", "auth.hmac.header"));
    let (table, _) = source("GITHUB", json!({ "auth": { "webhook_secret_key": "k" } }));
    assert_eq!(
        (text(&table, "auth.hmac.prefix"), text(&table, "auth.hmac.secrets")),
        ("sha256=".into(), r#"[{ file = "secrets/shop.source-signing" }]"#.into())
    );
    let (table, _) = source(
        "WEBHOOK",
        json!({ "auth_type": "BASIC_AUTH", "auth": { "username": "u", "password": "p" } }),
    );
    assert_eq!(text(&table, "auth.basic.user"), "u");
    for (kind, config) in [
        ("HTTP", json!({ "auth_type": "API_KEY", "auth": { "header_key": "x", "api_key": "k" } })),
        ("HTTP", json!({ "auth_type": "HMAC", "auth": { "algorithm": "md5", "encoding": "hex" } })),
        (
            "HTTP",
            json!({ "auth_type": "HMAC", "auth": { "algorithm": "sha256", "encoding": "base64url" } }),
        ),
        ("STRIPE", json!({ "auth": { "webhook_secret_key": "k" } })),
    ] {
        let (table, done) = source(kind, config.clone());
        assert!(!table.contains_key("auth"), "{config}");
        assert!(done.report.iter().any(|row| row.note.contains("posts of everybody")), "{config}");
        assert!(done.sources[0].text.contains("everybody"), "{config}");
    }
}

#[test]
fn apinizers_defaults_and_bounds() {
    let done = converted(
        System::Apinizer,
        json!({ "name": "a b", "fullUrl": "http://x.example.com/?q=1" }),
    );
    let table = only(&done);
    assert_eq!((text(&table, "method"), text(&table, "timeout")), ("GET".into(), "2s".into()));
    assert_eq!((text(&table, "name"), text(&table, "display_name")), ("a-b".into(), "a b".into()));
    assert_eq!(text(&table, "retry.strategy"), "none");
    let done = converted(
        System::Apinizer,
        json!({
            "name": "a", "fullUrl": "https://u:p%40@x.example.com/{{v}}", "httpMethod": "post", "enabled": false, "timeout": 0,
            "connectionTimeout": 1500, "connectionPoolMaxConnectionPerHost": 2000, "connectionPoolMaxConnectionTotal": 100,
            "headerList": [{ "name": "X-A", "value": "1" }, { "name": "x-a", "value": "2" }, { "name": "X-T", "value": "{{t}}" }, { "name": "Transfer-Encoding", "value": "chunked" }],
            "poolSize": 0, "environments": ["Test", { "name": "Dev", "fullUrl": "http://dev.example.com/" }],
        }),
    );
    let table = only(&done);
    assert_eq!(
        (text(&table, "url"), text(&table, "state")),
        ("https://x.example.com/%7B%7Bv%7D%7D".into(), "disabled".into())
    );
    assert_eq!(text(&table, "auth.basic.username"), "u");
    assert_eq!(
        (text(&table, "connect_timeout"), text(&table, "request_timeout")),
        ("1500ms".into(), "1s".into())
    );
    assert_eq!(
        (text(&table, "pool.max_per_host"), text(&table, "pool.max_total")),
        ("100".into(), "100".into())
    );
    assert_eq!(text(&table, "headers.X-A"), r#"["1", "2"]"#);
    assert_eq!(text(&table, "env.Dev.url"), "http://dev.example.com/");
    assert_eq!(row(&done, "headerList[3]").0, "not carried");
    assert_eq!(row(&done, "environments[0]").0, "not carried");
    assert_eq!(row(&done, "(certificate validation)").0, "changed");
    let passwords: Vec<_> = done.secrets.iter().map(|one| one.value.expose().to_vec()).collect();
    assert!(passwords.contains(&b"p@".to_vec()) && passwords.contains(&b"{{t}}".to_vec()));
    for (field, value) in [("httpMethod", "TRACE"), ("fullUrl", "ftp://x/"), ("fullUrl", "no url")]
    {
        let mut one = json!({ "name": "a", "fullUrl": "http://x/" });
        one[field] = json!(value);
        let done = converted(System::Apinizer, one);
        assert!(done.connections.is_empty() && row(&done, field).0 == "not carried", "{value}");
    }
}

#[test]
fn endpoints_secrets_and_states() {
    let endpoint = |more: Json| {
        let mut one = json!({ "id": "ep_1", "name": "Mine", "url": "https://x.example.com/" });
        one.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        converted(System::Endpoints, one)
    };
    let done = endpoint(
        json!({ "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "status": "PAUSED", "headers_json": "{\"X-A\": 1}" }),
    );
    let table = only(&done);
    assert_eq!(
        text(&table, "sign.standard_webhooks.secrets"),
        r#"[{ file = "../secrets/Mine.signing" }]"#
    );
    assert_eq!((text(&table, "state"), text(&table, "headers.X-A")), ("paused".into(), "1".into()));
    assert_eq!(
        (text(&table, "request_timeout"), text(&table, "labels.endpoint_id")),
        ("10s".into(), "ep_1".into())
    );
    let done = endpoint(json!({ "status": "ACTIVE", "timeout_seconds": 20 }));
    assert!(
        !only(&done).contains_key("sign")
            && done.connections[0].text.contains("# [connection.sign.standard_webhooks]")
    );
    assert_eq!(
        (row(&done, "secret").0, text(&only(&done), "request_timeout").as_str()),
        ("not carried", "20s")
    );
    let done = endpoint(json!({ "secret": "whsec_your_signing_secret" }));
    assert_eq!(
        (row(&done, "secret").0, text(&only(&done), "state").as_str()),
        ("not carried", "paused")
    );
    assert_eq!(text(&only(&endpoint(json!({ "status": "SLEEPY" }))), "state"), "paused");
}

#[test]
fn envelopes_and_single_objects() {
    let one = json!({ "name": "a", "url": "http://x.example.com/" });
    for document in [
        one.clone(),
        json!([one]),
        json!({ "data": [one] }),
        json!({ "data": { "items": [one] } }),
        json!({ "endpoint": [one] }),
    ] {
        match convert(System::Endpoints, document.clone(), options()) {
            Ok(done) => assert_eq!(done.connections.len(), 1, "{document}"),
            Err(message) => assert!(
                document.get("endpoint").is_some() && message.contains("no endpoint"),
                "{message}"
            ),
        }
    }
    let page = json!({ "pagination": { "next": "abc" }, "count": 9, "models": [hookdeck(to(json!({})), json!([]))] });
    let done = converted(System::Hookdeck, page);
    assert!(
        done.report.iter().any(|row| row.field == "pagination" && row.note.contains("more pages"))
    );
    for nothing in [json!(7), json!([]), json!({}), json!([1, 2]), json!({ "models": [] })] {
        assert!(convert(System::Hookdeck, nothing, options()).is_err());
    }
    // Names that differ in case alone are one name here.
    let two = json!([one, { "name": "A", "url": "http://y.example.com/" }]);
    let names: Vec<_> =
        converted(System::Endpoints, two).connections.into_iter().map(|one| one.name).collect();
    assert_eq!(names, ["a", "A-2"]);
}
