use std::time::Duration;

use super::*;
use crate::connection::json::Json;
use crate::connection::parts::testing::{event, event_with};
use crate::connection::transform::{Script, path};
use crate::delivery::testing::connection;

fn shaped(connection: &Connection, event: &Event) -> Shaped {
    assert!(connection.is_shaped());
    connection.shape(event, 1).unwrap()
}

fn with(url: &str, payload: Payload) -> Connection {
    let mut connection = connection("crm", url);
    connection.payload = Some(Box::new(payload));
    connection
}

fn names(list: &[&'static str]) -> Vec<HeaderName> {
    list.iter().map(|name| HeaderName::from_static(name)).collect()
}

fn shown(headers: &[(HeaderName, HeaderValue)]) -> Vec<String> {
    headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
}

#[test]
fn a_plain_connection_shapes_nothing() {
    assert!(!connection("crm", "http://h/x").is_shaped());
    assert!(connection("crm", "http://h/{{ event.type }}").is_shaped());
    let filtered = Payload {
        dedupe: Some(Dedupe { window: Duration::from_secs(1), fields: Fields::Body }),
        ..Payload::default()
    };
    assert!(!with("http://h/x", filtered).is_shaped());
}

#[test]
fn the_method_may_be_the_producers() {
    let inherit = Payload { inherit_method: true, ..Payload::default() };
    let connection = with("http://h/", inherit);
    assert_eq!(shaped(&connection, &event("{}")).method, Method::POST);
    assert_eq!(shaped(&connection, &event("{}")).body, None);
    let get = event_with(&[(":method", "GET")], "{}");
    let made = shaped(&connection, &get);
    assert_eq!((made.method, made.body), (Method::GET, Some(Bytes::new())));
    let put = event_with(&[(":method", "PUT")], "{}");
    assert_eq!(shaped(&connection, &put).method, Method::PUT);
}

#[test]
fn headers_are_forwarded_by_name_and_own_ones_win() {
    let payload = Payload {
        forward_headers: names(&["x-tag", "x-tenant", "x-own", "x-none"]),
        header_templates: vec![(
            HeaderName::from_static("x-tenant"),
            Template::parse("t-{{ header.x-tenant }}").unwrap(),
        )],
        ..Payload::default()
    };
    let mut connection = with("http://h/", payload);
    let own = (HeaderName::from_static("x-own"), HeaderValue::from_static("mine"));
    connection.headers.push(own);
    let made = shaped(&connection, &event("{}"));
    assert_eq!(shown(&made.headers), ["x-tenant: t-acme", "x-tag: a", "x-tag: b"]);
    let theirs = event_with(&[("x-own", "theirs"), ("x-tenant", "b")], "{}");
    assert_eq!(shown(&shaped(&connection, &theirs).headers), ["x-tenant: t-b"]);
}

#[test]
fn path_and_query_are_joined_only_where_they_are_forwarded() {
    let forward = |path: bool, query: bool| Payload {
        forward_path: path,
        forward_query: query,
        forward_headers: names(&["x-tag"]),
        ..Payload::default()
    };
    for (path, query, expected) in [
        (false, false, "/hooks?k=v"),
        (true, false, "/hooks/orders/7?k=v"),
        (false, true, "/hooks?k=v&page=2&tag=a&tag=b%20c&empty="),
        (true, true, "/hooks/orders/7?k=v&page=2&tag=a&tag=b%20c&empty="),
    ] {
        let connection = with("http://h/hooks?k=v", forward(path, query));
        assert_eq!(shaped(&connection, &event("{}")).path_and_query, expected);
    }
    let connection = with("http://h/{{ event.type }}/", forward(true, false));
    assert_eq!(shaped(&connection, &event("{}")).path_and_query, "/order.created/orders/7");
    let climbing = event_with(&[(":path", "/../admin")], "{}");
    let error = connection.shape(&climbing, 1).unwrap_err();
    assert_eq!(error.cause, Cause::Template);
    let escaped = event_with(&[(":path", "/a%2f..%2fb")], "{}");
    assert_eq!(connection.shape(&escaped, 1).unwrap_err().cause, Cause::Template);
}

#[test]
fn what_cannot_be_made_has_a_cause() {
    let connection = connection("crm", "http://h/{{ body.id }}");
    let error = connection.shape(&event("{}"), 1).unwrap_err();
    assert_eq!(error.cause, Cause::Template);
    assert_eq!(error.detail, "url: {{ body.id }} has no value");
    let header = Payload {
        header_templates: vec![(
            HeaderName::from_static("x-a"),
            Template::parse("{{ body.a }}").unwrap(),
        )],
        ..Payload::default()
    };
    let error = with("http://h/", header).shape(&event(r#"{"a":"\n"}"#), 1).unwrap_err();
    assert_eq!(error.cause, Cause::Template);
    assert!(error.detail.starts_with("header x-a: the value would hold"), "{error}");
}

fn transformed(template: Option<&str>) -> Connection {
    let transform = Transform {
        remove: vec![path("body.secret").unwrap()],
        template: template.map(|text| Script::parse(text).unwrap()),
        ..Transform::default()
    };
    with("http://h/", Payload { transform: Some(transform), ..Payload::default() })
}

#[test]
fn a_transformed_body_says_what_it_is() {
    let kinds = [
        ("application/json", None),
        ("application/cloudevents+json; charset=utf-8", None),
        ("text/plain", Some("application/json")),
        ("application/x-www-form-urlencoded", Some("application/json")),
    ];
    for (sent, expected) in kinds {
        let event = event_with(&[("content-type", sent)], r#"{"a":1.10,"secret":2}"#);
        let made = shaped(&transformed(None), &event);
        assert_eq!(made.body.unwrap(), r#"{"a":1.10}"#);
        assert_eq!(made.content_type, expected.map(HeaderValue::from_static), "{sent}");
        // Only the template's author knows what it writes.
        let made = shaped(&transformed(Some("a={{ body.a }}")), &event);
        assert_eq!((made.body.unwrap().as_ref(), made.content_type), (&b"a=1.10"[..], None));
    }
    let bare = event_with(&[], "{}");
    assert!(shaped(&transformed(None), &bare).content_type.is_some());
}

#[test]
fn what_is_no_json_or_too_large_is_not_transformed() {
    for event in [event("text"), event_with(&[("content-encoding", "gzip")], "{}")] {
        let error = transformed(None).shape(&event, 1).unwrap_err();
        assert_eq!(error.cause, Cause::Transform);
    }
    let mut small = transformed(None);
    small.max_body = 6;
    assert!(small.shape(&event("[1,22]"), 1).is_ok());
    assert_eq!(small.shape(&event("[1,222]"), 1).unwrap_err().cause, Cause::Transform);
    small.method = Method::GET;
    assert_eq!(shaped(&small, &event("text")).body, Some(Bytes::new()));
}

#[test]
fn events_keep_what_is_needed_later() {
    let filter = Json::parse(br#"{"headers":{"X-F":"1"},"path":"/x"}"#).unwrap();
    let payload = Payload {
        filter: Some(Filter::compile(&filter).unwrap()),
        dedupe: Some(Dedupe {
            window: Duration::from_secs(1),
            fields: Fields::Include(vec![Path::parse("headers.x-d").unwrap()]),
        }),
        transform: Some(Transform {
            template: Some(Script::parse("{{ header['x-s'] }}").unwrap()),
            ..Transform::default()
        }),
        header_templates: vec![(
            HeaderName::from_static("x-t"),
            Template::parse("{{ header.x-h }}").unwrap(),
        )],
        forward_headers: names(&["x-w", "x-h"]),
        ..Payload::default()
    };
    let target = Target::parse("http://h/{{ header.x-u }}?{{ query.q }}").unwrap();
    let mut keeps = payload.keeps(&target);
    keeps.headers.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    assert_eq!(keeps.headers, names(&["x-d", "x-f", "x-h", "x-s", "x-u", "x-w"]));
    assert!(keeps.path && keeps.query);
    let plain = Target::parse("http://h/").unwrap();
    assert_eq!(Payload::default().keeps(&plain), Keeps::default());
}
