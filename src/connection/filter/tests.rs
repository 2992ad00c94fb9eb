use super::*;
use crate::connection::parts::testing::{event, event_with};

fn compiled(filter: &str) -> Filter {
    let json = Json::parse(filter.as_bytes()).unwrap_or_else(|error| panic!("{filter}: {error}"));
    Filter::compile(&json).unwrap_or_else(|errors| panic!("{filter}: {errors:?}"))
}

/// What a condition on the body says: `y` yes, `n` no, and `t` where values of different sorts were compared.
fn on_body(condition: &str, body: &str) -> &'static str {
    let filter = compiled(&format!("{{\"body\":{condition}}}"));
    let event = event(body);
    let judgement = filter.judge(&Parts::new(&event));
    // The same, told why.
    let (again, reasons) = filter.explain(&Parts::new(&event));
    assert_eq!(again, judgement, "{condition} {body}");
    assert_eq!(reasons.is_empty(), judgement.matches, "{condition} {body}: {reasons:?}");
    match (judgement.matches, judgement.type_error) {
        (true, false) => "y",
        (false, false) => "n",
        (false, true) => "t",
        (true, true) => "yt",
    }
}

fn check(cases: &[(&str, &str, &str)]) {
    for (condition, body, expected) in cases {
        assert_eq!(on_body(condition, body), *expected, "{condition} on {body}");
    }
}

#[test]
fn literals() {
    check(&[
        (r#"{"a":"x"}"#, r#"{"a":"x","b":1}"#, "y"),
        (r#"{"a":"x"}"#, r#"{"a":"y"}"#, "n"),
        (r#"{"a":1}"#, r#"{"a":1.0}"#, "y"),
        (r#"{"a":true}"#, r#"{"a":true}"#, "y"),
        (r#"{"a":null}"#, r#"{"a":null}"#, "y"),
        (r#"{"a":null}"#, r#"{"a":1}"#, "n"),
        (r#"{"a":"x"}"#, r#"{"a":null}"#, "n"),
        (r#"{"a":1}"#, r#"{"a":"1"}"#, "t"),
        (r#"{"a":"true"}"#, r#"{"a":true}"#, "t"),
        (r#"{"a":12345678901234567890}"#, r#"{"a":12345678901234567891}"#, "n"),
        (r#"5"#, "5", "y"),
        (r#"{}"#, r#"{"a":1}"#, "y"),
    ]);
}

#[test]
fn objects_are_anded_and_a_missing_key_does_not_match() {
    check(&[
        (r#"{"a":1,"b":2}"#, r#"{"a":1,"b":2}"#, "y"),
        // Convoy goes on at a missing key and lets this pass.
        (r#"{"a":1,"b":2}"#, r#"{"a":1}"#, "n"),
        (r#"{"a":{"b":{"c":1}}}"#, r#"{"a":{"b":{"c":1}}}"#, "y"),
        (r#"{"a":{"b":{"c":1}}}"#, r#"{"a":{}}"#, "n"),
        (r#"{"a":{"b":1}}"#, r#"{"a":5}"#, "t"),
        (r#"{"a":{"b":1}}"#, r#"[]"#, "n"),
    ]);
}

#[test]
fn arrays() {
    check(&[
        (r#"{"a":"x"}"#, r#"{"a":["y","x"]}"#, "y"),
        (r#"{"a":"x"}"#, r#"{"a":["y"]}"#, "n"),
        (r#"{"a":"x"}"#, r#"{"a":[]}"#, "n"),
        (r#"{"a":["x","y"]}"#, r#"{"a":["y","z","x"]}"#, "y"),
        (r#"{"a":["x","y"]}"#, r#"{"a":["x"]}"#, "n"),
        (r#"{"a":["x"]}"#, r#"{"a":"x"}"#, "t"),
        (r#"{"a":[]}"#, r#"{"a":[1]}"#, "y"),
        (r#"{"a":{"b":1,"c":2}}"#, r#"{"a":[{"b":1,"c":2},{"b":3}]}"#, "y"),
        // One object must have both.
        (r#"{"a":{"b":1,"c":2}}"#, r#"{"a":[{"b":1,"c":3},{"b":3,"c":2}]}"#, "n"),
        (r#"{"a":[{"b":1},{"b":{"$gt":5}}]}"#, r#"{"a":[{"b":1},{"b":9}]}"#, "y"),
    ]);
}

#[test]
fn equality_of_wholes() {
    check(&[
        (r#"{"a":{"$eq":{"x":1,"y":[2]}}}"#, r#"{"a":{"y":[2.0],"x":1}}"#, "y"),
        (r#"{"a":{"$eq":{"x":1}}}"#, r#"{"a":{"x":1,"y":2}}"#, "n"),
        (r#"{"a":{"$eq":["x"]}}"#, r#"{"a":["x","y"]}"#, "n"),
        (r#"{"a":{"$eq":"x"}}"#, r#"{"a":["x"]}"#, "t"),
        (r#"{"a":{"$neq":"x"}}"#, r#"{"a":"y"}"#, "y"),
        (r#"{"a":{"$neq":"x"}}"#, r#"{"a":"x"}"#, "n"),
        (r#"{"a":{"$neq":null}}"#, r#"{"a":"x"}"#, "y"),
        (r#"{"a":{"$neq":"x"}}"#, r#"{"a":null}"#, "y"),
        (r#"{"a":{"$neq":[]}}"#, r#"{"a":[1]}"#, "y"),
        (r#"{"a":{"$neq":1}}"#, r#"{"a":"x"}"#, "t"),
    ]);
}

/// What reading the other systems showed: each of these goes wrong in one of them.
#[test]
fn the_traps_of_the_others() {
    check(&[
        // $neq and $nin do not match a missing field.
        (r#"{"a":{"$neq":"x"}}"#, r#"{}"#, "n"),
        (r#"{"a":{"$nin":["x"]}}"#, r#"{}"#, "n"),
        // $not works at a field.
        (r#"{"status":{"$not":{"$in":["a","b"]}}}"#, r#"{"status":"c"}"#, "y"),
        (r#"{"status":{"$not":{"$in":["a","b"]}}}"#, r#"{"status":"a"}"#, "n"),
        (r#"{"status":{"$not":"a"}}"#, r#"{"status":"b"}"#, "y"),
        // A field's $or keeps the operators beside it.
        (r#"{"a":{"$or":[1,9],"$gt":5}}"#, r#"{"a":9}"#, "y"),
        (r#"{"a":{"$or":[1,9],"$gt":5}}"#, r#"{"a":1}"#, "n"),
        // Operators keep the plain keys beside them.
        (r#"{"$or":[{"a":1},{"a":2}],"b":3}"#, r#"{"a":1,"b":3}"#, "y"),
        (r#"{"$or":[{"a":1},{"a":2}],"b":3}"#, r#"{"a":1,"b":4}"#, "n"),
        (r#"{"o":{"$exist":true,"b":3}}"#, r#"{"o":{"b":4}}"#, "n"),
        // $lt on text is not the opposite of $gte on text.
        (r#"{"a":{"$lt":5}}"#, r#"{"a":"x"}"#, "t"),
        (r#"{"a":{"$not":{"$gte":5}}}"#, r#"{"a":"x"}"#, "t"),
        // $in looks for a part only in a string.
        (r#"{"a":{"$in":"xyz"}}"#, r#"{"a":"y"}"#, "n"),
        (r#"{"a":{"$in":"y"}}"#, r#"{"a":"xyz"}"#, "y"),
        (r#"{"a":{"$in":["xyz"]}}"#, r#"{"a":"y"}"#, "n"),
    ]);
}

#[test]
fn order() {
    check(&[
        (r#"{"a":{"$gt":9}}"#, r#"{"a":10}"#, "y"),
        (r#"{"a":{"$gt":10}}"#, r#"{"a":10}"#, "n"),
        (r#"{"a":{"$gte":10}}"#, r#"{"a":10.0}"#, "y"),
        (r#"{"a":{"$lt":"b"}}"#, r#"{"a":"a"}"#, "y"),
        (r#"{"a":{"$lte":"2026-01-01"}}"#, r#"{"a":"2026-01-02"}"#, "n"),
        (r#"{"a":{"$gte":1,"$lt":5}}"#, r#"{"a":5}"#, "n"),
        (r#"{"a":{"$gt":"9"}}"#, r#"{"a":10}"#, "t"),
        (r#"{"a":{"$gt":1}}"#, r#"{"a":[2]}"#, "t"),
        (r#"{"a":{"$gt":1}}"#, r#"{}"#, "n"),
    ]);
}

#[test]
fn membership_and_parts_of_text() {
    check(&[
        (r#"{"a":{"$in":["x",1]}}"#, r#"{"a":1}"#, "y"),
        (r#"{"a":{"$in":["x",1]}}"#, r#"{"a":2}"#, "n"),
        (r#"{"a":{"$in":["x"]}}"#, r#"{"a":2}"#, "t"),
        (r#"{"a":{"$in":"x"}}"#, r#"{"a":["x","y"]}"#, "y"),
        (r#"{"a":{"$in":["x"]}}"#, r#"{"a":["x","y"]}"#, "y"),
        (r#"{"a":{"$nin":["x"]}}"#, r#"{"a":"y"}"#, "y"),
        (r#"{"a":{"$nin":["x"]}}"#, r#"{"a":null}"#, "y"),
        (r#"{"a":{"$in":[null]}}"#, r#"{"a":null}"#, "y"),
        (r#"{"a":{"$startsWith":"ord"}}"#, r#"{"a":"order"}"#, "y"),
        (r#"{"a":{"$startsWith":["x","ord"]}}"#, r#"{"a":"order"}"#, "y"),
        (r#"{"a":{"$endsWith":"der"}}"#, r#"{"a":["a","order"]}"#, "y"),
        (r#"{"a":{"$endsWith":"x"}}"#, r#"{"a":"order"}"#, "n"),
        (r#"{"a":{"$endsWith":"x"}}"#, r#"{"a":7}"#, "t"),
        (r#"{"a":{"$contains":"rde"}}"#, r#"{"a":"order"}"#, "y"),
        (r#"{"a":{"$contains":{"b":1}}}"#, r#"{"a":[{"b":1}]}"#, "y"),
        (r#"{"a":{"$contains":{"b":1}}}"#, r#"{"a":[{"b":1,"c":2}]}"#, "n"),
        (r#"{"a":{"$contains":"x"}}"#, r#"{"a":{"x":1}}"#, "t"),
        (r#"{"a":{"$regex":"^ord(er)?$"}}"#, r#"{"a":"order"}"#, "y"),
        (r#"{"a":{"$regex":"^x"}}"#, r#"{"a":"order"}"#, "n"),
        (r#"{"a":{"$regex":"x"}}"#, r#"{"a":5}"#, "t"),
        (r#"{"a":{"$regex":"(a+)+b"}}"#, &format!("{{\"a\":\"{}\"}}", "a".repeat(5_000)), "n"),
    ]);
}

#[test]
fn ranges_of_addresses() {
    check(&[
        (r#"{"ip":{"$cidr":"10.0.0.0/8"}}"#, r#"{"ip":"10.1.2.3"}"#, "y"),
        (r#"{"ip":{"$cidr":"10.0.0.0/8"}}"#, r#"{"ip":"11.1.2.3"}"#, "n"),
        (r#"{"ip":{"$cidr":"10.0.0.0/8"}}"#, r#"{"ip":"::ffff:10.1.2.3"}"#, "y"),
        (r#"{"ip":{"$cidr":["192.0.2.1","2001:db8::/32"]}}"#, r#"{"ip":"2001:db8::5"}"#, "y"),
        (r#"{"ip":{"$cidr":["192.0.2.1"]}}"#, r#"{"ip":["x","192.0.2.1"]}"#, "yt"),
        (r#"{"ip":{"$cidr":"10.0.0.0/8"}}"#, r#"{"ip":"ten"}"#, "t"),
    ]);
}

#[test]
fn existence_and_negation() {
    check(&[
        (r#"{"a":{"$exist":true}}"#, r#"{"a":null}"#, "y"),
        (r#"{"a":{"$exist":true}}"#, r#"{}"#, "n"),
        (r#"{"a":{"$exist":false}}"#, r#"{}"#, "y"),
        (r#"{"a":{"$exist":false}}"#, r#"{"a":0}"#, "n"),
        (r#"{"a":{"b":{"$exist":false}}}"#, r#"{}"#, "y"),
        (r#"{"a":{"$not":{"$exist":true}}}"#, r#"{}"#, "y"),
        (r#"{"a":{"$or":[{"$exist":false},"x"]}}"#, r#"{}"#, "y"),
        (r#"{"a":{"$or":[{"$exist":false},"x"]}}"#, r#"{"a":"x"}"#, "y"),
        (r#"{"a":{"$not":"x"}}"#, r#"{}"#, "n"),
        (r#"{"$not":{"a":"x"}}"#, r#"{}"#, "y"),
        (r#"{"$not":{"a":"x"}}"#, r#"{"a":"x"}"#, "n"),
        (r#"{"$not":{"a":{"$not":"x"}}}"#, r#"{"a":"x"}"#, "y"),
        (r#"{"$and":[{"a":1},{"$or":[{"b":2},{"c":3}]}]}"#, r#"{"a":1,"c":3}"#, "y"),
        (r#"{"$and":[{"a":1},{"b":2}]}"#, r#"{"a":1}"#, "n"),
        (r#"{"$or":[{"a":"x"},{"b":2}]}"#, r#"{"a":1,"b":2}"#, "yt"),
    ]);
}

#[test]
fn references_to_other_fields() {
    check(&[
        (r#"{"a":{"$ref":"b"}}"#, r#"{"a":1,"b":1}"#, "y"),
        (r#"{"a":{"$neq":{"$ref":"b.c[1]"}}}"#, r#"{"a":1,"b":{"c":[1,2]}}"#, "y"),
        (r#"{"a":{"$neq":{"$ref":"b"}}}"#, r#"{"a":1}"#, "n"),
        (r#"{"a":{"$lte":{"$ref":"max"}}}"#, r#"{"a":3,"max":2}"#, "n"),
        (r#"{"a":{"$in":{"$ref":"all"}}}"#, r#"{"a":3,"all":[1,3]}"#, "y"),
        (r#"{"a":{"$in":[{"$ref":"b"},"z"]}}"#, r#"{"a":"y","b":"y"}"#, "y"),
        (r#"{"a":{"$startsWith":{"$ref":"b"}}}"#, r#"{"a":"xyz","b":"xy"}"#, "y"),
        (r#"{"o":{"a":{"$ref":"o.b"}}}"#, r#"{"o":{"a":1,"b":1}}"#, "y"),
    ]);
}

/// A comparison of everything with everything ends, and does not match.
#[test]
fn an_evaluation_takes_a_bounded_number_of_steps() {
    let numbers: Vec<String> = (0..20_000).map(|number| number.to_string()).collect();
    let others: Vec<String> = (30_000..50_000).map(|number| number.to_string()).collect();
    let body = format!("{{\"a\":[{}],\"b\":[{}]}}", numbers.join(","), others.join(","));
    assert_eq!(on_body(r#"{"a":{"$in":{"$ref":"b"}}}"#, &body), "t");
    assert_eq!(on_body(r#"{"a":{"$not":{"$in":{"$ref":"b"}}}}"#, &body), "t");
    assert_eq!(on_body(r#"{"a":{"$in":[19999]}}"#, &body), "y");
}

#[test]
fn headers_path_and_query() {
    let event = event("{}");
    let parts = Parts::new(&event);
    for (filter, expected) in [
        (r#"{"headers":{"X-Tenant":"acme"}}"#, true),
        (r#"{"headers":{"$or":[{"X-TENANT":"acme"}]}}"#, true),
        (r#"{"headers":{"x-tenant":"Acme"}}"#, false),
        (r#"{"headers":{"x-tag":"b"}}"#, true),
        (r#"{"headers":{"x-none":{"$exist":false}}}"#, true),
        (r#"{"headers":{":path":{"$exist":true}}}"#, false),
        (r#"{"headers":{"x-tenant":{"$neq":{"$ref":"X-Tag"}}}}"#, false),
        (r#"{"path":"/orders/7"}"#, true),
        (r#"{"path":{"$startsWith":"/orders/"}}"#, true),
        (r#"{"path":{"$regex":"^/users/"}}"#, false),
        (r#"{"query":{"page":"2"}}"#, true),
        (r#"{"query":{"tag":"b c"}}"#, true),
        (r#"{"query":{"page":{"$gt":"1"}},"headers":{"x-tenant":"acme"},"body":{}}"#, true),
        (r#"{"query":{"page":"2"},"headers":{"x-tenant":"other"}}"#, false),
    ] {
        assert_eq!(compiled(filter).judge(&parts).matches, expected, "{filter}");
    }
    let bare = event_with(&[], "{}");
    let parts = Parts::new(&bare);
    assert!(compiled(r#"{"path":{"$exist":false}}"#).judge(&parts).matches);
    assert!(!compiled(r#"{"path":{"$neq":"/x"}}"#).judge(&parts).matches);
}

#[test]
fn a_body_that_is_not_json_does_not_match() {
    for event in [event("plain text"), event_with(&[("content-encoding", "gzip")], "{}")] {
        let parts = Parts::new(&event);
        for filter in [r#"{"body":{}}"#, r#"{"body":{"$not":{"a":1}}}"#] {
            let judged = compiled(filter).judge(&parts);
            assert_eq!(judged, Judgement { matches: false, type_error: false }, "{filter}");
        }
        assert!(compiled(r#"{"query":{}}"#).judge(&parts).matches);
    }
}

#[test]
fn mistakes_are_errors_with_their_place() {
    for (filter, place, message) in [
        (r#"[]"#, "", "is an array, write an object"),
        (r#"{}"#, "", "is empty"),
        (r#"{"bdy":{}}"#, "bdy", "no part of an event"),
        (r#"{"body":{"a":{"$gtt":1}}}"#, "body.a.$gtt", "did you mean \"$gt\"?"),
        (r#"{"body":{"a":{"$where":1}}}"#, "body.a.$where", "known are $and"),
        (r#"{"body":{"a":{"$gt":true}}}"#, "body.a.$gt", "a number, a string"),
        (r#"{"body":{"a":{"$in":5}}}"#, "body.a.$in", "a list, a string"),
        (r#"{"body":{"a":{"$exist":"yes"}}}"#, "body.a.$exist", "true or false"),
        (r#"{"body":{"$or":[]}}"#, "body.$or", "a list of one condition or more"),
        (r#"{"body":{"$or":{"a":1}}}"#, "body.$or", "a list of one condition or more"),
        (r#"{"body":{"$or":[1,{"$x":1}]}}"#, "body.$or[1].$x", "unknown operator"),
        (r#"{"body":{"a":{"$regex":"("}}}"#, "body.a.$regex", "unclosed group"),
        (r#"{"body":{"a":{"$regex":"(a{1000}){1000}"}}}"#, "body.a.$regex", "when compiled"),
        (r#"{"body":{"a":{"$cidr":"10.0.0.0/33"}}}"#, "body.a.$cidr", "not a range"),
        (r#"{"body":{"a":{"$cidr":["10.0.0.1",5]}}}"#, "body.a.$cidr[1]", "a range of addresses"),
        (r#"{"body":{"a":{"$ref":"b[$index]"}}}"#, "body.a.$ref", "neither .name, [0]"),
        (r#"{"body":{"a":{"$startsWith":[]}}}"#, "body.a.$startsWith", "a string or a list"),
        (r#"{"body":{"a":1,"a":2}}"#, "body.a", "written twice"),
        (r#"{"headers":{"x-n":5}}"#, "headers.x-n", "write \"5\""),
        (r#"{"query":{"n":{"$gt":5}}}"#, "query.n.$gt", "write \"5\""),
        (r#"{"path":{"a":"x"}}"#, "path", "has no members"),
    ] {
        let json = Json::parse(filter.as_bytes()).unwrap();
        let errors = Filter::compile(&json).expect_err(filter);
        assert_eq!(errors.len(), 1, "{filter}: {errors:?}");
        let mut shown = String::new();
        for step in &errors[0].steps {
            match step {
                part::Step::Key(key) if shown.is_empty() => shown += key,
                part::Step::Key(key) => shown += &format!(".{key}"),
                part::Step::Index(at) => shown += &format!("[{at}]"),
            }
        }
        assert_eq!(shown, place, "{filter}");
        assert!(errors[0].message.contains(message), "{filter}: {}", errors[0].message);
    }
}

#[test]
fn depth_and_size_are_bounded() {
    let nested =
        |depth: usize| format!("{{\"body\":{}1{}}}", "{\"$not\":".repeat(depth), "}".repeat(depth));
    let compile = |text: &str| Filter::compile(&Json::parse(text.as_bytes()).unwrap());
    assert!(compile(&nested(DEPTH_MAX - 1)).is_ok());
    assert!(compile(&nested(DEPTH_MAX)).unwrap_err()[0].message.contains("nested more than"));
    let many = |count: usize| format!("{{\"body\":{{\"$in\":[{}]}}}}", vec!["1"; count].join(","));
    assert!(compile(&many(CONDITIONS_MAX - 2)).is_ok());
    assert!(compile(&many(CONDITIONS_MAX)).is_err());
    let wide = format!("{{\"body\":[{}]}}", vec!["1"; CONDITIONS_MAX].join(","));
    assert_eq!(compile(&wide).unwrap_err().len(), 1);
}

#[test]
fn reasons_name_the_paths_that_failed() {
    let filter = compiled(
        r#"{"body":{"a":{"b":1},"c":{"$gt":5},"$or":[{"d":"x"},{"e":"y"}]},"headers":{"x-tenant":"other"}}"#,
    );
    let sample = event(r#"{"a":{"b":1},"c":5,"d":"z"}"#);
    let (judgement, reasons) = filter.explain(&Parts::new(&sample));
    assert!(!judgement.matches);
    let expected =
        ["body.c is 5, wanted: $gt 5", "headers.x-tenant is \"acme\", wanted: \"other\""];
    // Operators come before plain keys, so the alternatives are told first, and the first that fails ends the section.
    assert_eq!(reasons.last().map(String::as_str), Some(expected[1]), "{reasons:?}");
    assert!(reasons.iter().any(|reason| reason == "body.d is \"z\", wanted: \"x\""), "{reasons:?}");
    let sample = event(r#"{"a":{"b":1},"c":5,"d":"x"}"#);
    let (_, reasons) = filter.explain(&Parts::new(&sample));
    assert_eq!(reasons, expected);
}

#[test]
fn a_filter_says_what_events_must_keep() {
    let filter = compiled(
        r#"{"headers":{"$or":[{"X-A":"1"},{"x-b":{"$ref":"X-C"}}],"x-d":{"$not":{"$in":[{"$ref":"x-e"}]}}},"path":"/x"}"#,
    );
    let mut headers = filter.headers();
    headers.sort_unstable();
    assert_eq!(headers, ["x-a", "x-b", "x-c", "x-d", "x-e"]);
    assert!(filter.reads_path() && !filter.reads_query());
    let other = compiled(r#"{"query":{"x":"1"}}"#);
    assert!(other.headers().is_empty() && other.reads_query() && !other.reads_path());
    assert_ne!(filter, other);
    assert_eq!(compiled(other.as_str()), other);
}
