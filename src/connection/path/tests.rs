//! Which value a path leads to, and which paths are none.

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::event::{ContentBuilder, EventId};

fn event(headers: &[(&str, &[u8])], body: &[u8]) -> Event {
    let mut content = ContentBuilder::new("shop", "order.paid", "", body.len() + 64);
    for (name, value) in headers {
        content.header(name, value);
    }
    content.body(body);
    Event {
        id: EventId::new(1_700_000_000_000, &mut fastrand::Rng::with_seed(1)),
        accepted_ms: 1_700_000_000_000,
        accepted_age: crate::clock::Age(0),
        content: content.finish(),
    }
}

fn look(path: &str, headers: &[(&str, &[u8])], body: &str) -> Result<String, Absent> {
    let path = Path::parse(path).unwrap();
    let found = path.find(&event(headers, body.as_bytes()))?;
    Ok(found.text().into_owned())
}

#[test]
fn a_path_leads_to_a_scalar_of_the_body() {
    let body = r#" {"a":{"b":[{"c":"x"},{"c":7}],"n":null,"t":true,"f":-1.5},"a.b":"dot","":"e",
        "big":18446744073709551615,"neg":-9,"u":"\u00e9\n","k\"q":"quoted","dup":1,"dup":2} "#;
    for (path, expected) in [
        ("body.a.b[0].c", "x"),
        ("body.a.b[1].c", "7"),
        ("body[\"a\"].b[1][\"c\"]", "7"),
        ("body.a.n", "null"),
        ("body.a.t", "true"),
        ("body.a.f", "-1.5"),
        ("body[\"a.b\"]", "dot"),
        ("body[\"\"]", "e"),
        ("body[\"k\\\"q\"]", "quoted"),
        ("body.big", "18446744073709551615"),
        ("body.neg", "-9"),
        ("body.u", "é\n"),
        ("body.dup", "2"),
    ] {
        assert_eq!(look(path, &[], body).as_deref(), Ok(expected), "{path}");
    }
    assert_eq!(look("body", &[], "\"alone\"").as_deref(), Ok("alone"));
    assert_eq!(look("body[1]", &[], "[1,2,3]").as_deref(), Ok("2"));
}

#[test]
fn a_path_says_why_it_leads_nowhere() {
    use Absent::{Missing, NotJson, NotScalar};
    let gzip: &[(&str, &[u8])] = &[("content-encoding", b"gzip")];
    for (path, body, expected) in [
        ("body.a", r#"{"b":1}"#, Missing),
        ("body.a.b", r#"{"a":1}"#, Missing),
        ("body.a[0]", r#"{"a":{"0":1}}"#, Missing),
        ("body.a[2]", r#"{"a":[1,2]}"#, Missing),
        ("body.a.b", r#"{"a":[1,2]}"#, Missing),
        ("body.a", r#"{"a":1,"a":{}}"#, NotScalar),
        ("body.a", r#"{"a":[]}"#, NotScalar),
        ("body", "{}", NotScalar),
        ("body.a", "", NotJson),
        ("body.a", "plain text", NotJson),
        ("body.a", r#"{"a":1"#, NotJson),
        ("body.a", r#"{"a":1} x"#, NotJson),
        ("body.a", r#"{"a":1,"b":nul}"#, NotJson),
        ("body.a[1]", r#"{"a":[1,2,x]}"#, NotJson),
        ("headers.x-tenant", "{}", Missing),
        ("query.page", "{}", Missing),
    ] {
        assert_eq!(look(path, &[], body), Err(expected), "{path} in {body}");
    }
    assert_eq!(look("body.a", gzip, r#"{"a":1}"#), Err(NotJson), "encoded bytes are not looked at");
    let identity: &[(&str, &[u8])] = &[("content-encoding", b"Identity")];
    assert_eq!(look("body.a", identity, r#"{"a":1}"#).as_deref(), Ok("1"));
    let deep = format!("{{\"a\":1,\"b\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(look("body.a", &[], &deep).as_deref(), Ok("1"), "depth beside the path");
    assert_eq!(look("body.b", &[], &deep), Err(NotScalar), "depth below the path");
}

#[test]
fn headers_query_and_the_event_itself_have_paths_too() {
    let kept: &[(&str, &[u8])] = &[
        (":query", b"page=2&q=a%20b&page=3&empty"),
        ("x-tenant", b"acme"),
        ("x-tenant", b"second"),
        ("x-raw", b"\xff"),
    ];
    for (path, expected) in [
        ("headers.X-Tenant", Ok("acme")),
        ("header.x-tenant", Ok("acme")),
        ("headers.x-raw", Err(Absent::NotScalar)),
        ("query.page", Ok("2")),
        ("query.q", Ok("a b")),
        ("query.empty", Ok("")),
        ("query.none", Err(Absent::Missing)),
        ("event.type", Ok("order.paid")),
        ("event.source", Ok("shop")),
    ] {
        let found = look(path, kept, "{}");
        assert_eq!(found.as_deref().map_err(|absent| *absent), expected, "{path}");
    }
    assert!(look("event.id", kept, "").unwrap().starts_with("evt_"));
    let mut untyped = event(&[], b"");
    untyped.content = ContentBuilder::new("shop", "", "", 0).finish();
    assert_eq!(Path::parse("event.type").unwrap().find(&untyped), Err(Absent::Missing));
}

#[test]
fn a_path_says_what_ingress_has_to_keep() {
    let path = |text| Path::parse(text).unwrap();
    assert_eq!(path("headers.X-Tenant").header(), Some("x-tenant"));
    assert_eq!(path("body.x-tenant").header(), None);
    assert!(path("query.a").reads_query() && !path("event.type").reads_query());
}

#[test]
fn bad_paths_say_what_to_write() {
    let long = format!("body.{}", "a".repeat(PATH_BYTES_MAX));
    let many = format!("body{}", ".a".repeat(STEPS_MAX + 1));
    for (text, word) in [
        ("", "begin with body"),
        ("order.id", "begin with body"),
        ("bodyx.id", "begin with body"),
        ("body.", "plain name"),
        ("body..a", "plain name"),
        ("body.a b", "plain name"),
        ("body.a]", "plain name"),
        ("body[", "neither"),
        ("body[x]", "neither"),
        ("body[+1]", "neither"),
        ("body[-1]", "neither"),
        ("body[]", "neither"),
        ("body[*]", "several values"),
        ("body[\"a]", "neither"),
        ("body[\"a\"", "neither"),
        ("body[0]a", "neither"),
        ("body[99999999999999999999]", "neither"),
        ("headers", "header's name"),
        ("headers.a b", "header's name"),
        ("query", "parameter"),
        ("query.", "parameter"),
        ("event", "event.type"),
        ("event.body", "event.type"),
        (&long, "512 bytes"),
        (&many, "32 steps"),
    ] {
        let error = Path::parse(text).unwrap_err();
        assert!(error.contains(word), "{text}: {error}");
    }
}

/// Any JSON that is not too large.
fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[ab\"\\\\.]{0,2}", inner, 0..4).prop_map(Value::from_iter),
        ]
    })
}

/// The paths of all values, with the values.
fn paths(value: &Value, path: &str, out: &mut Vec<(String, Value)>) {
    out.push((path.to_owned(), value.clone()));
    match value {
        Value::Array(items) => {
            for (number, item) in items.iter().enumerate() {
                paths(item, &format!("{path}[{number}]"), out);
            }
        }
        Value::Object(members) => {
            for (name, member) in members {
                paths(member, &format!("{path}[{}]", Value::from(name.as_str())), out);
            }
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// What a tree of the whole body holds at a place, the walk finds there.
    #[test]
    fn the_walk_finds_what_the_tree_holds(value in json(), pretty in any::<bool>()) {
        let text =
            if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
        let event = event(&[], text.unwrap().as_bytes());
        let mut all = Vec::new();
        paths(&value, "body", &mut all);
        for (path, expected) in all {
            let found = Path::parse(&path).unwrap().find(&event);
            let expected = match expected {
                Value::Null => Ok(Scalar::Null),
                Value::Bool(value) => Ok(Scalar::Bool(value)),
                Value::String(text) => Ok(Scalar::Text(text)),
                Value::Number(number) => Ok(Scalar::Number(number)),
                Value::Array(_) | Value::Object(_) => Err(Absent::NotScalar),
            };
            // A double may change in its last digit when it is read without `float_roundtrip`.
            match (&found, &expected) {
                (Ok(Scalar::Number(found)), Ok(Scalar::Number(expected))) => {
                    let (found, expected) = (found.as_f64().unwrap(), expected.as_f64().unwrap());
                    prop_assert!((found - expected).abs() <= expected.abs() * 1e-15);
                }
                _ => prop_assert_eq!(&found, &expected, "{}", path),
            }
        }
    }

    /// No text makes the parser or the walk panic.
    #[test]
    fn anything_is_a_path_or_an_error(text in ".{0,40}", tail in ".{0,40}", body in ".{0,60}") {
        for text in [text, format!("body{tail}"), format!("headers.{tail}"), format!("query.{tail}")] {
            if let Ok(path) = Path::parse(&text) {
                prop_assert_eq!(path.as_str(), &text);
                let _ = path.find(&event(&[(":query", body.as_bytes())], body.as_bytes()));
            }
        }
    }
}
