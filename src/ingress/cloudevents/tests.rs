//! Attributes that are taken, and what is said about those that are not.

use http::HeaderValue;

use super::*;

const GOOD: [(&str, &str); 4] =
    [("specversion", "1.0"), ("id", "A-1"), ("source", "/shop"), ("type", "order.created")];

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let name = http::HeaderName::try_from(format!("ce-{name}")).unwrap();
        headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

fn object(pairs: &[(&str, &str)]) -> String {
    let members = pairs.iter().map(|(name, value)| format!("\"{name}\":{value}"));
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

/// The good attributes, some of them replaced or added.
fn with<'a>(changes: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let kept = GOOD.iter().filter(|(name, _)| changes.iter().all(|(other, _)| other != name));
    kept.chain(changes).copied().collect()
}

#[test]
fn both_forms_mean_the_same() {
    let binary = binary(&headers(&GOOD)).unwrap();
    let quoted = GOOD.map(|(name, value)| (name, format!("{value:?}")));
    let quoted: Vec<_> = quoted.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(parse(&object(&quoted)).unwrap(), binary);
    assert_eq!(binary.kind, "order.created");
    assert!(binary.key.starts_with(":ce ") && binary.key.len() == 36, "{}", binary.key);
}

#[test]
fn a_key_is_source_and_id_apart() {
    let key = |source: &str, id: &str| {
        binary(&headers(&with(&[("source", source), ("id", id)]))).unwrap().key
    };
    assert_eq!(key("/a", "b"), key("/a", "b"));
    let keys = [key("/a", "b"), key("/ab", "b"), key("/a", "bb"), key("/", "ab"), key("/A", "b")];
    let different: std::collections::BTreeSet<_> = keys.iter().collect();
    assert_eq!(different.len(), keys.len());
}

#[test]
fn headers_are_unquoted_and_percent_decoded_once() {
    for (value, expected) in [
        ("order.created", "order.created"),
        ("Euro%20%E2%82%AC", "Euro €"),
        ("%2525", "%25"),
        ("\"a\\\"b\\\\c\"", "a\"b\\c"),
        ("\"Euro%20%E2%82%AC\"", "Euro €"),
        ("50%", "50%"),
    ] {
        let found = binary(&headers(&with(&[("type", value)])));
        assert_eq!(found.unwrap().kind, expected, "{value}");
    }
}

/// What is said in binary mode; the attribute must be named.
fn wrong_header(name: &str, value: &str) -> String {
    let wrong = binary(&headers(&with(&[(name, value)]))).unwrap_err();
    assert!(!wrong.no_object && wrong.why.contains(&format!("{name:?}")), "{wrong:?}");
    wrong.why
}

#[test]
fn wrong_headers_are_named() {
    let long = "x".repeat(256);
    for (name, value, words) in [
        ("specversion", "0.3", "1.0"),
        ("specversion", "", "1.0"),
        ("id", "", "empty"),
        ("source", "", "empty"),
        ("source", "a b", "URI"),
        ("source", "/%2", "URI"),
        ("type", "", "empty"),
        ("type", &long, "255"),
        ("type", "%00", "control"),
        ("type", "%ff", "UTF-8"),
        ("time", "yesterday", "RFC 3339"),
        ("time", "2026-11-21T10:00:00", "RFC 3339"),
        ("time", "2026-11-21T10:00:00Z[UTC]", "RFC 3339"),
        ("subject", "", "empty"),
        ("dataschema", "/relative", "absolute"),
        ("datacontenttype", "json", "media type"),
        ("my-extension", "x", "lower-case"),
    ] {
        let said = wrong_header(name, value);
        assert!(said.contains(words), "{name} {value:?}: {said}");
    }
    for (missing, _) in GOOD {
        let mut headers = headers(&GOOD);
        headers.remove(format!("ce-{missing}"));
        let wrong = binary(&headers).unwrap_err();
        assert_eq!(wrong.why, format!("the attribute {missing:?} is missing"));
    }
    let mut twice = headers(&GOOD);
    twice.append("ce-id", HeaderValue::from_static("2"));
    assert!(binary(&twice).unwrap_err().why.contains("stands twice"));
}

#[test]
fn optional_attributes_and_extensions_are_taken() {
    let more = with(&[
        ("time", "2026-11-21T10:00:00.5+01:00"),
        ("subject", "7"),
        ("dataschema", "https://example.com/schema.json"),
        ("datacontenttype", "application/json; charset=utf-8"),
        ("traceparent", "00-x"),
        ("empty", ""),
        ("source", "urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66"),
    ]);
    assert!(binary(&headers(&more)).is_ok());
    let json = r#"{"specversion":"1.0","id":"1","source":"//host/p%20q?x#y","type":"t","partition":-7,"sampled":true,
        "subject":null,"time":"2026-11-21T10:00:00Z","data":{"type":["any",{"id":null}]},"other":"x"}"#;
    assert!(parse(json).is_ok());
}

#[test]
fn wrong_members_are_named() {
    let text = |name: &'static str, value: &'static str| {
        let mut members = vec![];
        for (good, value) in GOOD.iter().filter(|(good, _)| *good != name) {
            members.push((*good, format!("{value:?}")));
        }
        members.push((name, value.to_owned()));
        let members: Vec<_> = members.iter().map(|(name, value)| (*name, value.as_str())).collect();
        object(&members)
    };
    for (name, value, words) in [
        ("id", "7", "not a string"),
        ("id", "\"\"", "empty"),
        ("id", "null", "missing"),
        ("type", "[]", "not a string"),
        ("source", "\"a b\"", "URI"),
        ("specversion", "1.0", "not a string"),
        ("specversion", "\"1.1\"", "1.0"),
        ("time", "\"now\"", "RFC 3339"),
        ("time", "true", "not a string"),
        ("traceParent", "\"x\"", "lower-case"),
        ("traceParent", "1", "lower-case"),
        ("fraction", "1.5", "whole number"),
        ("big", "2147483648", "whole number"),
        ("deep", "{\"a\":[1]}", "whole number"),
        ("data_base64", "7", "not a string"),
    ] {
        let wrong = parse(&text(name, value)).unwrap_err();
        assert!(!wrong.no_object && wrong.why.contains(&format!("{name:?}")), "{wrong:?}");
        assert!(wrong.why.contains(words), "{name} {value}: {wrong:?}");
    }
    let quoted = GOOD.map(|(name, value)| format!("\"{name}\":{value:?}")).join(",");
    for (more, words) in [
        ("\"id\":\"2\"", "\"id\" stands twice"),
        ("\"data\":1,\"data_base64\":\"\"", "\"data_base64\" stands beside"),
        (
            "\"time\":\"2026-11-21T10:00:00Z\",\"time\":\"2026-11-21T10:00:00Z\"",
            "\"time\" stands twice",
        ),
    ] {
        let wrong = parse(&format!("{{{quoted},{more}}}")).unwrap_err();
        assert!(wrong.why.contains(words), "{more}: {wrong:?}");
    }
}

#[test]
fn what_is_no_object_says_so() {
    let deep = "[".repeat(100_000);
    let open = r#"{"specversion":"1.0","id":"1","source":"/","type":"t""#;
    for text in [
        "",
        "7",
        "[]",
        "null",
        "{",
        "{}x",
        open,
        &format!("{open},}}"),
        &format!("{open}}} {{"),
        &deep,
    ] {
        let wrong = parse(text).unwrap_err();
        let missing = text == "{}x" && wrong.why.contains("trailing");
        assert!(wrong.no_object || missing, "{text:.40}: {wrong:?}");
    }
}

#[test]
fn the_mode_is_told_by_the_head() {
    let of = |pairs: &[(&'static str, &'static str)]| {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        mode(&headers).map_err(|refused| refused.why)
    };
    let unsupported = Err(Refusal::UnsupportedMediaType);
    assert_eq!(of(&[]), Ok(Mode::Plain));
    assert_eq!(of(&[("content-type", "application/json")]), Ok(Mode::Plain));
    assert_eq!(of(&[("ce-id", "1")]), Ok(Mode::Plain), "no version, no CloudEvent");
    assert_eq!(of(&[("ce-specversion", "1.0"), ("content-type", "text/plain")]), Ok(Mode::Binary));
    assert_eq!(
        of(&[("content-type", "Application/CloudEvents+JSON; charset=utf-8")]),
        Ok(Mode::Structured)
    );
    assert_eq!(of(&[("content-type", BATCH)]), Ok(Mode::Batch));
    for other in [
        "application/cloudevents",
        "application/cloudevents+xml",
        "application/cloudevents-batch+avro",
    ] {
        assert_eq!(of(&[("content-type", other)]), unsupported, "{other}");
    }
    assert_eq!(of(&[("content-type", STRUCTURED), ("content-encoding", "gzip")]), unsupported);
    assert_eq!(
        of(&[("content-type", STRUCTURED), ("content-encoding", "identity")]),
        Ok(Mode::Structured)
    );
}
