//! A request as arbitrary bytes: what ingress decides before it reads a body, and what it looks for in one.

use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};

use super::batch::{self, Format};
use super::cloudevents::{self, Attributes};
use super::guard::{self, Below, Door};
use super::idempotency::key_of;
use super::receive::event_type;
use super::refusal::Refused;
use super::routing::Target;

/// The first byte is the door, the first line the request's target, each further line a header.
pub fn request(data: &[u8]) {
    let Some((choice, rest)) = data.split_first() else {
        return;
    };
    let door = match choice % 4 {
        0 => Door::Loopback,
        1 => Door::Network,
        allowed => Door::Unix { allowed: allowed == 2 },
    };
    let mut lines = rest.split(|byte| *byte == b'\n');
    let Some(uri) = lines.next().and_then(|line| Uri::try_from(line).ok()) else {
        return;
    };
    let (mut head, ()) = Request::new(()).into_parts();
    head.uri = uri;
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let (name, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        let value = HeaderValue::from_bytes(value);
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), value)
            && head.headers.try_append(name, value).is_err()
        {
            return;
        }
    }
    let admitted = guard::check(&head, door, &["relay.internal".to_owned()], false).is_ok();
    let origin = head.headers.contains_key("origin");
    assert!(!admitted || !origin || matches!(door, Door::Unix { .. }), "a web page may post");
    if let Some(address) = guard::address(head.uri.path()) {
        let (Target::Source(name) | Target::Connection(name)) = address.target;
        assert!(!name.is_empty() && !name.contains('/'));
        if let Below::Path(path) = address.below {
            assert!(path.starts_with('/') && head.uri.path().ends_with(path));
        }
    }
    if let Ok(key) = key_of(&head.headers) {
        assert!(key.len() <= 255 && key.bytes().all(|byte| byte.is_ascii_graphic()));
    }
    if let Ok(kind) = event_type(&head.headers) {
        assert!(!kind.contains(char::is_control));
    }
}

/// The first byte is the format, the rest a body: several events, or one CloudEvent, as JSON and as headers. What is taken is made
/// of the body's own bytes.
pub fn batch(data: &[u8]) {
    let Some((choice, body)) = data.split_first() else {
        return;
    };
    let format = match choice % 4 {
        0 => Format::Lines,
        1 => Format::Array,
        2 => Format::CloudEvents,
        _ => return cloud_event(body),
    };
    let Ok(items) = format.split(body) else {
        return;
    };
    assert!(items.len() <= batch::ITEMS_MAX);
    let mut from = 0;
    for item in &items {
        // In order, and none of them twice.
        let rest = body.get(from..).unwrap_or_default();
        let at = rest.windows(item.body.len()).position(|it| it == item.body.as_bytes());
        assert!(!item.body.is_empty() && at.is_some(), "not of the body");
        from += at.unwrap_or_default() + item.body.len();
        let whole = serde_json::from_str::<serde::de::IgnoredAny>(item.body);
        assert!(whole.is_ok(), "an item is not one JSON value");
        if let Some(cloud) = &item.cloud {
            check(cloud);
        }
    }
    // Its items, put together again, are the same items.
    let bodies: Vec<&str> = items.iter().map(|item| item.body).collect();
    let again = match format {
        Format::Lines => bodies.join("\n"),
        Format::Array | Format::CloudEvents => format!("[{}]", bodies.join(",")),
    };
    assert!(format.split(again.as_bytes()).is_ok_and(|other| other == items));
}

fn cloud_event(body: &[u8]) {
    let Ok(text) = std::str::from_utf8(body) else {
        return;
    };
    match cloudevents::parse(text) {
        Ok(cloud) => check(&cloud),
        Err(wrong) => assert!(!Refused::from(wrong).problem().json().is_empty()),
    }
    let mut headers = HeaderMap::new();
    for line in text.lines().take(50) {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        let name = HeaderName::try_from(format!("ce-{name}"));
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    }
    if let Ok(cloud) = cloudevents::binary(&headers) {
        check(&cloud);
    }
}

fn check(cloud: &Attributes) {
    assert!(!cloud.kind.is_empty() && cloud.kind.len() <= 255);
    assert!(!cloud.kind.contains(char::is_control) && cloud.key.starts_with(":ce "));
}
