//! Filters, dedupe, templates, transforms, variables and tests of a connection, as files have them.

use super::*;
use crate::connection::Connection;
use crate::connection::dedupe::Fields;
use crate::connection::payload::Payload;

const ONE: &str = "[[connection]]\nname = \"one\"\nurl = \"http://example.com/a\"\n";

fn one(root: &str, body: &str, variables: &[(&str, &str)]) -> Arc<Connection> {
    let text = format!("{ONE}{body}");
    let loaded = loaded(&[(FILE_NAME, root), ("connections.d/a.toml", &text)], variables);
    assert_eq!(warnings(&loaded), [""; 0], "{body}");
    Arc::clone(&loaded.config.connections[0])
}

fn payload(body: &str) -> Payload {
    *one("", body, &[]).payload.clone().unwrap()
}

fn errors(root: &str, body: &str) -> Vec<String> {
    let text = format!("{ONE}{body}");
    let directory = directory(&[(FILE_NAME, root), ("connections.d/a.toml", &text)]);
    let refused = load_in(directory.path(), &[]).expect_err(body);
    refused.errors.iter().map(ToString::to_string).collect()
}

#[test]
fn a_plain_connection_has_no_payload() {
    assert_eq!(one("", "", &[]).payload, None);
    let plain =
        "method = \"GET\"\nforward_headers = [\"Content-Type\", \"ce-id\"]\nforward_path = false\n";
    assert_eq!(one("", plain, &[]).payload, None);
}

#[test]
fn a_filter_is_tables_or_text() {
    let tables = "[connection.filter.body]\ntotal = { \"$gte\" = 100 }\nstatus = [\"paid\"]\n[connection.filter.headers]\nX-Tenant = \"acme\"\n";
    let text = r#"filter = '''{"body":{"total":{"$gte":100},"status":["paid"]},"headers":{"X-Tenant":"acme"}}'''"#;
    assert_eq!(payload(tables).filter, payload(text).filter);
    assert_eq!(one("", tables, &[]).keeps.headers, ["x-tenant"]);
    // A table in an overlay is merged key by key; a list is replaced.
    let overlay =
        format!("{tables}[connection.env.test.filter.body]\ntotal = {{ \"$lt\" = 500 }}\n");
    let merged = one("", &overlay, &[("POSTHASTE_ENV", "test")]);
    let filter = merged.payload.as_ref().unwrap().filter.as_ref().unwrap().as_str();
    assert_eq!(
        filter,
        r#"{"body":{"total":{"$gte":100,"$lt":500},"status":["paid"]},"headers":{"X-Tenant":"acme"}}"#
    );
}

#[test]
fn a_dedupe_has_defaults() {
    let dedupe = payload("dedupe = {}").dedupe.unwrap();
    assert_eq!((dedupe.window, &dedupe.fields), (Duration::from_secs(300), &Fields::Body));
    let dedupe =
        payload("dedupe = { window = \"24h\", include = [\"body.a[*].b\", \"headers.x\"] }").dedupe;
    let Some(Fields::Include(paths)) = dedupe.map(|dedupe| dedupe.fields) else {
        panic!("no paths");
    };
    assert_eq!(paths.len(), 2);
    assert!(matches!(
        payload("dedupe = { exclude = [\"body.at\"] }").dedupe.unwrap().fields,
        Fields::Exclude(paths) if paths.len() == 1
    ));
}

#[test]
fn headers_with_placeholders_keep_their_order() {
    let connection = one(
        "",
        "headers = { x-a = [\"1\", \"{{ event.type }}\", \"3\"], x-b = \"plain\", authorization = \"Bearer {{ body.token }}\" }",
        &[],
    );
    let plain: Vec<_> = connection.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(plain, ["x-b"]);
    let templates = &connection.payload.as_ref().unwrap().header_templates;
    let shown: Vec<_> = templates.iter().map(|(name, text)| format!("{name}: {text}")).collect();
    assert_eq!(
        shown,
        ["x-a: 1", "x-a: {{ event.type }}", "x-a: 3", "authorization: Bearer {{ body.token }}"]
    );
}

#[test]
fn forwarding_and_inheriting() {
    let body = "method = \"inherit\"\nforward_headers = [\"X-A\", \"x-a\", \"content-type\"]\nforward_path = true\nforward_query = true\n";
    let connection = one("", body, &[]);
    let payload = connection.payload.as_ref().unwrap();
    assert!(payload.inherit_method && payload.forward_path && payload.forward_query);
    assert_eq!(payload.forward_headers, ["x-a"]);
    assert_eq!(connection.method, http::Method::POST);
    assert!(connection.keeps.path && connection.keeps.query);
    assert_eq!(connection.keeps.headers, ["x-a"]);
}

#[test]
fn a_transform_is_read_in_order() {
    let body = "[connection.transform]\npick = [\"body.id\"]\nremove = [\"body.x[*].y\"]\nrename = { \"body.a\" = \"body.b\" }\nset = { \"body.z\" = 1, \"body.a\" = { k = \"{{ event.id }}\" } }\ntemplate = \"{{ body | tojson }}\"\n";
    let transform = payload(body).transform.unwrap();
    assert_eq!((transform.pick.len(), transform.remove.len(), transform.rename.len()), (1, 1, 1));
    let set: Vec<_> = transform.set.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(set, ["body.z", "body.a"]);
    assert!(transform.template.is_some());
    assert_eq!(one("", "transform = {}", &[]).payload, None);
}

const VARIABLES: &str = "environment = \"test\"\n[defaults]\ndescription = \"in {{ var.region }}\"\n[variables]\nregion = \"eu\"\nhost = \"crm\"\nseconds = \"7\"\n[variables.env.Test]\nregion = \"test-1\"\n[variables.env.production]\nregion = \"us\"\n";

#[test]
fn variables_stand_in_any_string() {
    let body = "labels = { r = \"{{var.region}}\" }\nrequest_timeout = \"{{ var.seconds }}s\"\nsources = [\"{{ var.host }}\"]\nheaders = { x-r = \"{{ var.region }}-{{ event.type }}\" }\nfilter = '{\"body\":{\"r\":\"{{ var.region }}\"}}'\n[connection.env.test]\nurl = \"http://{{ var.host }}.{{ var.region }}.example.com/{{ event.id }}\"\n";
    let connection = one(VARIABLES, body, &[]);
    assert_eq!(connection.target.url, "http://crm.test-1.example.com/{{ event.id }}");
    assert_eq!(connection.description.as_deref(), Some("in test-1"));
    assert_eq!(connection.labels["r"], "test-1");
    assert_eq!(connection.request_timeout, Duration::from_secs(7));
    assert_eq!(connection.sources, ["crm"]);
    let payload = connection.payload.as_ref().unwrap();
    assert_eq!(payload.header_templates[0].1.to_string(), "test-1-{{ event.type }}");
    assert_eq!(payload.filter.as_ref().unwrap().as_str(), r#"{"body":{"r":"test-1"}}"#);
    let body = body.replace("[connection.env.test]", "[connection.env.production]");
    let production = one(VARIABLES, &body, &[("POSTHASTE_ENV", "production")]);
    assert_eq!(production.target.host, "crm.us.example.com");
}

#[test]
fn a_variable_that_is_not_there_is_an_error() {
    let found = errors(VARIABLES, "description = \"{{ var.regoin }}\"");
    assert!(found[0].contains("no variable \"regoin\", did you mean \"region\"?"), "{found:?}");
    let found = errors("", "description = \"{{ var.x }}\"");
    assert!(found[0].contains("write it into [variables]"), "{found:?}");
}

const TESTED: &str = "headers = { x-kind = \"{{ event.type }}\", x-key = { env = \"KEY\" } }\nurl_ = 1\n[connection.filter.body]\ntotal = { \"$gte\" = 100 }\n[connection.transform]\nremove = [\"body.secret\"]\n";

#[test]
fn tests_that_hold_are_quiet() {
    let body = TESTED.replace("url_ = 1\n", "")
        + "[[connection.test]]\nevent = { type = \"a\", body = { total = 100, secret = 1 } }\nexpect = { pass = true, method = \"POST\", url = \"http://example.com/a\", headers = { X-Kind = \"a\", x-key = \"k\", x-none = false, content-type = true }, body = { total = 100.0 } }\n[[connection.test]]\nevent = { body = { total = 99 } }\nexpect = { pass = false }\n[[connection.test]]\nevent = { type = \"a\", body = \"text\" }\nexpect = { pass = false, cause = \"transform\" }\n";
    assert!(one("", &body, &[("KEY", "k")]).payload.is_some());
}

/// A secret is compared and never shown; where secrets are not read it is not compared.
#[test]
fn a_test_does_not_tell_a_secret() {
    let body = TESTED.replace("url_ = 1\n", "")
        + "[[connection.test]]\nevent = { type = \"t\", body = { total = 100 } }\nexpect.headers = { x-key = \"guess\" }\n";
    let text = format!("{ONE}{body}");
    let directory = directory(&[("connections.d/a.toml", &text)]);
    let refused = load_in(directory.path(), &[("KEY", "hunter2")]).unwrap_err().render();
    assert!(refused.contains("has another value") && !refused.contains("hunter2"), "{refused}");
    let unread = LoadOptions { secrets: Secrets::Skip, ..options(&[]) };
    assert!(load(&directory.path().join(FILE_NAME), &unread).is_ok());
}
