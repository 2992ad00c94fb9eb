//! The head of a request, as arbitrary bytes: what ingress decides before it reads a body.

use http::{HeaderName, HeaderValue, Request, Uri};

use super::guard::{self, Below, Door};
use super::idempotency::key_of;
use super::receive::event_type;
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
    let admitted = guard::check(&head, door, &["relay.internal".to_owned()]).is_ok();
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
