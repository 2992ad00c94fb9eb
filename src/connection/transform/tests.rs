use super::*;
use crate::connection::parts::Parts;
use crate::connection::parts::testing::{event, event_with};

/// A transform as a test writes it: `pick`, `remove`, `rename`, `set` as JSON.
fn transform(json: &str) -> Transform {
    let json = Json::parse(json.as_bytes()).unwrap();
    let paths = |name: &str| match json.member(name) {
        Some(Json::Array(items)) => {
            items.iter().map(|item| path(item.scalar().unwrap()).unwrap()).collect()
        }
        _ => Vec::new(),
    };
    let entries = |name: &str| match json.member(name) {
        Some(Json::Object(members)) => members.clone(),
        _ => Vec::new(),
    };
    let renamed = |(from, to): &(std::borrow::Cow<'_, str>, Json<'_>)| {
        (path(from).unwrap(), path(to.scalar().unwrap()).unwrap())
    };
    let set = |(to, made): &(std::borrow::Cow<'_, str>, Json<'_>)| {
        (path(to).unwrap(), Made::parse(made).unwrap())
    };
    Transform {
        pick: paths("pick"),
        remove: paths("remove"),
        rename: entries("rename").iter().map(renamed).collect(),
        set: entries("set").iter().map(set).collect(),
        template: json
            .member("template")
            .map(|text| Script::parse(text.scalar().unwrap()).unwrap()),
    }
}

fn apply_to(transform: &Transform, body: &str, max_bytes: usize) -> Result<String, String> {
    let event = event(body);
    let parts = Parts::new(&event);
    let made = transform.apply(Context { parts: &parts, attempt: 2 }, max_bytes);
    made.map(|bytes| String::from_utf8(bytes).unwrap()).map_err(|failed| failed.0)
}

fn apply(json: &str, body: &str) -> Result<String, String> {
    apply_to(&transform(json), body, 100_000)
}

#[test]
fn what_is_not_touched_stays_as_it_was() {
    let body =
        r#"{"z":12345678901234567890,"a":1.10,"big":123456789012345678901234567890,"e":1E5,"x":1}"#;
    let left =
        r#"{"z":12345678901234567890,"a":1.10,"big":123456789012345678901234567890,"e":1E5}"#;
    assert_eq!(apply(r#"{"remove":["body.x"]}"#, body).as_deref(), Ok(left));
}

#[test]
fn removing() {
    let body = r#"{"a":{"b":1,"c":[{"s":1,"t":2},{"s":3}]},"d":[5,6]}"#;
    for (path, expected) in [
        ("body.a.b", r#"{"a":{"c":[{"s":1,"t":2},{"s":3}]},"d":[5,6]}"#),
        ("body.a.c[*].s", r#"{"a":{"b":1,"c":[{"t":2},{}]},"d":[5,6]}"#),
        ("body.d[0]", r#"{"a":{"b":1,"c":[{"s":1,"t":2},{"s":3}]},"d":[6]}"#),
        ("body.d[*]", r#"{"a":{"b":1,"c":[{"s":1,"t":2},{"s":3}]},"d":[]}"#),
        ("body.none.x", body),
        ("body.d[9]", body),
    ] {
        let made = apply(&format!("{{\"remove\":[{path:?}]}}"), body);
        assert_eq!(made.as_deref(), Ok(expected), "{path}");
    }
    // A secret that a doubled member would hide is gone whole.
    assert_eq!(apply(r#"{"remove":["body.s"]}"#, r#"{"s":1,"s":2}"#).as_deref(), Ok("{}"));
}

#[test]
fn picking() {
    let body = r#"{"z":1,"a":{"b":1,"c":[{"s":1,"t":2},{"s":3}]},"d":[5,6]}"#;
    for (paths, expected) in [
        (r#"["body.d","body.z"]"#, r#"{"z":1,"d":[5,6]}"#),
        (r#"["body.a.c[*].s"]"#, r#"{"a":{"c":[{"s":1},{"s":3}]}}"#),
        (r#"["body.a.c[*].t"]"#, r#"{"a":{"c":[{"t":2}]}}"#),
        (r#"["body.a.b","body.a.c[1]"]"#, r#"{"a":{"b":1,"c":[{"s":3}]}}"#),
        (r#"["body.none"]"#, "{}"),
        (r#"["body.none","body.z"]"#, r#"{"z":1}"#),
    ] {
        let made = apply(&format!("{{\"pick\":{paths}}}"), body);
        assert_eq!(made.as_deref(), Ok(expected), "{paths}");
    }
}

#[test]
fn renaming() {
    let body = r#"{"a":{"b":1.10},"c":[{"d":2}]}"#;
    for (rename, expected) in [
        (r#"{"body.a.b":"body.x"}"#, r#"{"a":{},"c":[{"d":2}],"x":1.10}"#),
        (r#"{"body.a":"body.n.m"}"#, r#"{"c":[{"d":2}],"n":{"m":{"b":1.10}}}"#),
        (r#"{"body.c[0].d":"body.a.b"}"#, r#"{"a":{"b":2},"c":[{}]}"#),
        (r#"{"body.none":"body.x"}"#, body),
    ] {
        let made = apply(&format!("{{\"rename\":{rename}}}"), body);
        assert_eq!(made.as_deref(), Ok(expected), "{rename}");
    }
    let error = apply(r#"{"rename":{"body.a":"body.c.x"}}"#, body).unwrap_err();
    assert_eq!(error, "cannot set body.c.x: what should have the member \"x\" is an array");
}

#[test]
fn setting() {
    let body =
        r#"{"id":12345678901234567890123,"o":{"p":1.10},"list":[{"n":1},{"n":2}],"nul":null}"#;
    for (set, expected) in [
        (r#"{"body.id":1}"#, r#"{"id":1,"o":{"p":1.10},"list":[{"n":1},{"n":2}],"nul":null}"#),
        (
            r#"{"body.meta.by":"posthaste"}"#,
            r#"{"id":12345678901234567890123,"o":{"p":1.10},"list":[{"n":1},{"n":2}],"nul":null,"meta":{"by":"posthaste"}}"#,
        ),
        (
            r#"{"body.list[*].k":"{{ event.type }}"}"#,
            r#"{"id":12345678901234567890123,"o":{"p":1.10},"list":[{"n":1,"k":"order.created"},{"n":2,"k":"order.created"}],"nul":null}"#,
        ),
        (
            r#"{"body.list":"{{ body.o }}","body.o":"{{ body.id }}"}"#,
            r#"{"id":12345678901234567890123,"o":12345678901234567890123,"list":{"p":1.10},"nul":null}"#,
        ),
        (
            r##"{"body.o":{"t":["{{ attempt }}","#{{ attempt }}",true]}}"##,
            r##"{"id":12345678901234567890123,"o":{"t":[2,"#2",true]},"list":[{"n":1},{"n":2}],"nul":null}"##,
        ),
    ] {
        let made = apply(&format!("{{\"set\":{set}}}"), body);
        assert_eq!(made.as_deref(), Ok(expected), "{set}");
    }
    for (set, expected) in [
        (r#"{"body.x":"{{ body.none }}"}"#, "{{ body.none }} has no value"),
        (r#"{"body.x":"a {{ body.nul }}"}"#, "is null, and has no text"),
        (r#"{"body.id.x":1}"#, "what should have the member \"x\" is a number"),
        (r#"{"body.list[2]":1}"#, "there is no item 2"),
        (r#"{"body.o[0]":1}"#, "what should have items is an object"),
    ] {
        let error = apply(&format!("{{\"set\":{set}}}"), body).expect_err(set);
        assert!(error.contains(expected), "{set}: {error}");
    }
}

/// One order, whatever the order in the file: pick, remove, rename, set, template.
#[test]
fn parts_apply_in_one_order() {
    let made = apply(
        r#"{"template":"{{ body | tojson }}!","set":{"body.r":"set {{ body.secret }}"},"rename":{"body.b":"body.r"},"remove":["body.a.x"],"pick":["body.a","body.b"]}"#,
        r#"{"a":{"x":1,"y":2},"b":3,"secret":4}"#,
    );
    assert_eq!(made.as_deref(), Ok(r#"{"a":{"y":2},"r":"set 4"}!"#));
}

fn script(template: &str, body: &str) -> Result<String, String> {
    let template = Script::parse(template).unwrap_or_else(|error| panic!("{template}: {error}"));
    apply_to(&Transform { template: Some(template), ..Transform::default() }, body, 10_000)
}

#[test]
fn templates() {
    let body = r#"{"id":12345678901234567890,"huge":123456789012345678901234567890123456789012,"p":1.10,"ok":true,"nul":null,"s":"<a> & 'b' \"c\"","items":[{"sku":"x","n":2},{"sku":"y","n":1.50}],"z":1,"a":2}"#;
    for (template, expected) in [
        (
            "{{ body.id }} {{ body.p }} {{ body.huge }}",
            "12345678901234567890 1.10 123456789012345678901234567890123456789012",
        ),
        ("{{ body.ok }} {{ body.nul }} {{ body.s }}", "true null <a> & 'b' \"c\""),
        ("{{ body.s | tojson }}", r#""<a> & 'b' \"c\"""#),
        ("{{ body.items | tojson }}", r#"[{"sku":"x","n":2},{"sku":"y","n":1.50}]"#),
        ("{{ body.items }}", r#"[{"sku":"x","n":2},{"sku":"y","n":1.50}]"#),
        ("{% for i in body.items %}{{ i.sku }}={{ i.n * 2 }};{% endfor %}", "x=4;y=3.0;"),
        ("{% if body.p > 1 %}much{% endif %}", "much"),
        (
            "{{ event.type }} {{ event.source }} {{ header[\"x-tenant\"] }} {{ attempt }}",
            "order.created shop acme 2",
        ),
        ("{{ body.none | default(\"-\") }}", "-"),
        ("{{ {\"b\": body.p, \"a\": [body.nul]} | tojson }}", r#"{"b":1.10,"a":[null]}"#),
        ("{% set t = body.items | length %}{{ t }}", "2"),
        ("{{ body.s | replace(\"<\", \"[\") | upper }}", "[A> & 'B' \"C\""),
        ("{{ body.items | map(attribute=\"sku\") | join(\",\") }}", "x,y"),
    ] {
        assert_eq!(script(template, body).as_deref(), Ok(expected), "{template}");
    }
    let whole = script("{{ body | tojson }}", body);
    assert_eq!(whole.as_deref(), Ok(body));
}

/// 1.1 and 1.10 are one double: which of them a computed value was cannot be told.
#[test]
fn fractions_that_were_written_in_two_ways_are_written_in_the_shortest() {
    assert_eq!(script("{{ body | tojson }}", "[1.10,2.50]").as_deref(), Ok("[1.10,2.50]"));
    assert_eq!(script("{{ body | tojson }}", "[1.10,1.1]").as_deref(), Ok("[1.1,1.1]"));
}

#[test]
fn a_template_that_fails_is_a_failure() {
    for (template, word) in [
        ("{{ body.none }}", "undefined"),
        ("{{ body.a.b.c }}", "undefined"),
        ("{{ body.x + 1 }}", "line 1"),
        ("{{ 1 / 0 }}", "unable to calculate"),
        ("{{ body.f * 1e308 }}", "not a number that JSON has"),
    ] {
        let error = script(template, r#"{"x":"text","a":{},"f":1e300}"#).expect_err(template);
        assert!(
            error.starts_with("the template failed") && error.contains(word),
            "{template}: {error}"
        );
    }
}

#[test]
fn mistakes_in_a_template_are_seen_at_load() {
    for (template, line, word) in [
        ("a\n{{ body.x", Some(2), "syntax error"),
        ("{% for x in body %}", Some(1), "syntax error"),
        ("{{ body | nofilter }}", None, ""),
        ("\n{{ boddy.x }}", Some(2), "\"boddy\" is not known"),
        ("{% include \"/etc/passwd\" %}", Some(1), "syntax error"),
        ("{% macro m() %}{% endmacro %}", Some(1), "syntax error"),
        ("{{ range(9) }}", Some(1), "\"range\" is not known"),
        ("{{ namespace() }}", Some(1), "\"namespace\" is not known"),
    ] {
        let parsed = Script::parse(template);
        if word.is_empty() {
            // Filters are looked up when they are used.
            assert!(script(template, "{}").unwrap_err().contains("nofilter"), "{template}");
            continue;
        }
        let error = parsed.expect_err(template);
        assert_eq!(error.line, line, "{template}: {error}");
        assert!(error.message.contains(word), "{template}: {error}");
    }
    assert!(Script::parse(&" ".repeat(SCRIPT_BYTES_MAX + 1)).is_err());
}

/// Neither an event nor a loop makes a template take long, or much memory.
#[test]
fn steps_and_size_are_bounded() {
    let many = format!("[{}1]", "1,".repeat(100_000));
    let error = script("{% for a in body %}{% for b in body %}{% endfor %}{% endfor %}", &many);
    assert!(error.unwrap_err().contains("fuel"));
    let text = format!("{{\"t\":\"{}\",\"l\":[1,2,3]}}", "x".repeat(4_000));
    for template in [
        "{% for a in body.l %}{{ body.t }}{% endfor %}",
        "{% set s %}{% for a in body.l %}{{ body.t }}{% endfor %}{% endset %}{{ s | length }}",
        "{{ [body, body, body] | tojson }}",
        "{{ body.t | replace(\"x\", body.t) }}",
        "{{ body.t | replace(\"\", body.t) }}",
        "{{ body.t * 1000 }}",
        "{{ body.t ~ body.t ~ body.t }}",
    ] {
        assert!(script(template, &text).is_err(), "{template}");
    }
    assert!(script("{{ body.t }}", &text).is_ok());
    let removed = transform(r#"{"remove":["body.none"]}"#);
    assert!(apply_to(&removed, "[1,2,3]", 7).is_ok());
    assert!(apply_to(&removed, "[1,2,3]", 6).unwrap_err().contains("max_body"));
}

#[test]
fn only_json_is_transformed() {
    let removed = transform(r#"{"remove":["body.x"]}"#);
    assert!(apply_to(&removed, "text", 100).unwrap_err().contains("not JSON"));
    let gzip = event_with(&[("content-encoding", "gzip")], "{}");
    let parts = Parts::new(&gzip);
    let error = removed.apply(Context { parts: &parts, attempt: 1 }, 100).unwrap_err();
    assert_eq!(error.0, "the body has a content-encoding");
}

#[test]
fn paths_lead_into_the_body() {
    for (text, word) in [
        ("a.b", "begin with body"),
        ("headers.x", "begin with body"),
        ("body", "the body itself"),
        ("body..a", "not a plain name"),
    ] {
        assert!(path(text).expect_err(text).contains(word), "{text}");
    }
    let bad = Json::parse(br#"{"a":[1,"{{ nope }}"]}"#).unwrap();
    let error = Made::parse(&bad).unwrap_err();
    assert_eq!(error.steps, [part::Step::Key("a".to_owned()), part::Step::Index(1)]);
}

#[test]
fn a_template_says_which_headers_it_reads() {
    let script =
        Script::parse("{{ header['X-A'] }}{{ header.date }}{{ header [ \"x-b\" ] }}").unwrap();
    assert_eq!(script.headers(), ["date", "x-a", "x-b"]);
}
