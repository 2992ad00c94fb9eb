use super::*;
use crate::connection::Target;
use crate::connection::parts::testing::{event, event_with};
use crate::event::Event;

const BODY: &str = r#"{"id":12345678901234567890123,"price":1.10,"ok":true,"nul":null,"o":{"a":"x/y ?&ü"},"dots":"..","dot":".","crlf":"a\r\nx-evil: 1","list":["p"],"empty":""}"#;

fn fill(template: &str, event: &Event) -> Result<String, String> {
    let template = Template::parse(template).unwrap_or_else(|error| panic!("{template}: {error}"));
    let parts = Parts::new(event);
    template.fill(Context { parts: &parts, attempt: 3 }).map_err(|error| error.0)
}

#[test]
fn placeholders_are_filled() {
    let event = event(BODY);
    for (template, expected) in [
        ("plain", "plain"),
        ("{{ event.type }}/{{event.source}}", "order.created/shop"),
        ("{{ event.id }}", &event.id.to_string()),
        ("{{ header.x-tenant }} {{ headers.X-Tenant }}", "acme acme"),
        ("{{ query.page }}", "2"),
        ("{{ attempt }}", "3"),
        ("{{ body.id }} {{ body.price }} {{ body.ok }}", "12345678901234567890123 1.10 true"),
        ("{{ body.o.a }}{{ body.list[0] }}", "x/y ?&üp"),
        ("[{{ body.empty }}]", "[]"),
        ("{{ \"{{\" }} {{ \"}}\" }}", "{{ }}"),
        ("a } b { c }} d", "a } b { c }} d"),
    ] {
        assert_eq!(fill(template, &event).as_deref(), Ok(expected), "{template}");
    }
}

#[test]
fn what_has_no_text_is_an_error() {
    let json = event(BODY);
    for (template, expected) in [
        ("{{ body.none }}", "{{ body.none }} has no value"),
        ("{{ body.nul }}", "{{ body.nul }} is null, and has no text"),
        ("{{ body.o }}", "{{ body.o }} is an object, and has no text"),
        ("{{ body.list }}", "{{ body.list }} is an array, and has no text"),
        ("{{ header.x-none }}", "{{ header.x-none }} has no value"),
    ] {
        assert_eq!(fill(template, &json), Err(expected.to_owned()));
    }
    let text = event_with(&[], "text");
    let error = fill("{{ body.a }}", &text).unwrap_err();
    assert!(error.contains("has no value: the body is not JSON"), "{error}");
    assert_eq!(fill("{{ event.type }}", &text).as_deref(), Ok("order.created"));
}

#[test]
fn mistakes_say_where() {
    for (template, at, word) in [
        ("a {{ body.x", 2, "not closed"),
        ("{{ \"}} }} ", 0, "not closed"),
        ("{{}}", 0, "is empty"),
        ("x{{ bdy.a }}", 1, "known are event.type"),
        ("{{ var.x }}", 0, "known are event.type"),
        ("{{ body.a[*] }}", 0, "several values"),
        ("{{ event.time }}", 0, "event.type, event.id and event.source"),
        ("{{ body.a | upper }}", 0, "not a plain name"),
        ("{{ \"a\" b }}", 0, "not a string in quotes"),
    ] {
        let error = Template::parse(template).expect_err(template);
        assert_eq!(error.at, at, "{template}: {error}");
        assert!(error.message.contains(word), "{template}: {error}");
    }
    let many = "{{ attempt }}".repeat(3 * PLACEHOLDERS_MAX);
    assert!(Template::parse(&many).unwrap_err().message.contains("more than"));
}

#[test]
fn a_template_is_shown_as_it_is_read() {
    for text in ["a {{ body.x }} b", "{{ \"{{\" }}{{ attempt }}", "{{ body[\"a }} b\"] }}"] {
        let template = Template::parse(text).unwrap();
        assert_eq!(template.to_string(), text);
        assert_eq!(Template::parse(&template.to_string()), Ok(template));
    }
}

/// No value of an event makes two headers of one, or ends the head.
#[test]
fn control_characters_never_reach_a_header() {
    let event = event(BODY);
    let parts = Parts::new(&event);
    let context = Context { parts: &parts, attempt: 1 };
    let header = |text: &str| Template::parse(text).unwrap().header(context);
    assert!(header("{{ body.crlf }}").unwrap_err().0.contains("line break"));
    assert_eq!(header("v={{ body.o.a }}").unwrap().as_bytes(), "v=x/y ?&ü".as_bytes());
    for control in (0..0x20_u8).chain([0x7f]).filter(|byte| *byte != b'\t') {
        let body = format!("{{\"c\":\"\\u{control:04x}\"}}");
        let event = crate::connection::parts::testing::event(&body);
        let parts = Parts::new(&event);
        let context = Context { parts: &parts, attempt: 1 };
        assert!(Template::parse("a{{ body.c }}b").unwrap().header(context).is_err(), "{control}");
    }
    let long =
        crate::connection::parts::testing::event(&format!("{{\"c\":\"{}\"}}", "x".repeat(9_000)));
    let parts = Parts::new(&long);
    let context = Context { parts: &parts, attempt: 1 };
    assert!(Template::parse("{{ body.c }}").unwrap().header(context).is_err());
}

fn url(text: &str, event: &Event) -> Result<String, String> {
    let target = Target::parse(text)?;
    let parts = Parts::new(event);
    let template = target.template.as_deref().ok_or("no placeholders")?;
    template.fill(Context { parts: &parts, attempt: 1 }).map_err(|error| error.0)
}

#[test]
fn what_fills_a_url_is_encoded_part_by_part() {
    let event = event(BODY);
    for (text, expected) in [
        ("http://h/o/{{ body.o.a }}?t={{ event.type }}", "/o/x%2Fy%20%3F%26%C3%BC?t=order.created"),
        ("http://h/?q={{ body.o.a }}&r=1", "/?q=x%2Fy%20%3F%26%C3%BC&r=1"),
        ("http://h/a{{ body.dots }}", "/a.."),
        ("http://h/?d={{ body.dots }}", "/?d=.."),
        ("http://h/a b/{{ body.crlf }}", "/a%20b/a%0D%0Ax-evil%3A%201"),
        ("http://h/{{ body.id }}{{ attempt }}", "/123456789012345678901231"),
        ("http://h?{{ query.page }}", "/?2"),
    ] {
        assert_eq!(url(text, &event).as_deref(), Ok(expected), "{text}");
    }
    for text in
        ["http://h/{{ body.dots }}/x", "http://h/{{ body.dot }}", "http://h/a/.{{ body.dot }}"]
    {
        assert!(url(text, &event).unwrap_err().contains(". or .."), "{text}");
    }
    assert!(url("http://h/{{ body.none }}", &event).unwrap_err().contains("no value"));
}

#[test]
fn placeholders_stand_in_path_and_query_alone() {
    for text in [
        "{{ body.x }}",
        "{{ body.scheme }}://h/",
        "http://{{ body.host }}/",
        "http://h:{{ body.port }}/",
        "http://{{ body.host }}.example.com?x",
        "http://u:{{ body.x }}@h/",
    ] {
        let error = Target::parse(text).expect_err(text);
        assert!(error.contains("not in scheme, host or port"), "{text}: {error}");
    }
    assert!(Target::parse("http://h/{{ body.x }}/../y").unwrap_err().contains("is lost"));
    assert!(Target::parse("http://h/#{{ body.x }}").is_err());
    assert!(Target::parse("http://h/{{ body.x").unwrap_err().contains("not closed"));
    let target =
        Target::parse("http://H/xzq/{{event.type}}?xzq000z={{ body[\"a?b/c#d\"] }}").unwrap();
    assert_eq!(target.url, "http://h/xzq/{{ event.type }}?xzq000z={{ body[\"a?b/c#d\"] }}");
    assert_eq!(Target::parse(&target.url).as_ref(), Ok(&target));
    assert_eq!(target.host, "h");
}

#[test]
fn a_forwarded_path_stays_below_the_own_one() {
    let joined = |own: &str, path: &str, query: &str| {
        join(own, Some(path), Some(query)).map(|joined| joined.to_string()).map_err(|error| error.0)
    };
    for (own, path, query, expected) in [
        ("/hooks", "/a/b", "", "/hooks/a/b"),
        ("/hooks/", "/a/b/", "x=1", "/hooks/a/b/?x=1"),
        ("/hooks?k=v", "/a", "x=1", "/hooks/a?k=v&x=1"),
        ("/", "/a", "", "/a"),
        ("/?k", "", "x", "/?k&x"),
        ("/hooks", "", "", "/hooks"),
        ("/h", "/a%20b/...", "", "/h/a%20b/..."),
    ] {
        assert_eq!(joined(own, path, query).as_deref(), Ok(expected));
    }
    for path in
        ["/../x", "/a/..", "/a/./b", "/a%2fb", "/a%2Fb", "/%2e%2E/x", "/a\\b", "/a%5Cb", "/%00"]
    {
        assert!(joined("/hooks", path, "").unwrap_err().contains("encoded slash or dot"), "{path}");
    }
    assert!(joined("/hooks", "/a b", "").unwrap_err().contains("cannot be sent"));
    assert!(joined("/hooks", "/a", "x\ny").is_err());
    assert!(joined("/hooks", &format!("/{}", "a".repeat(9_000)), "").is_err());
}
