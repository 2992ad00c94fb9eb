//! What of a request an event keeps.

use http::HeaderName;

use super::*;
use crate::connection::keeps::Keeps;

fn kept(relay: &Relay, at: usize) -> Vec<(String, String)> {
    let stored = relay.stored();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let headers = stored[at].0.content.headers();
    headers.map(|(name, value)| (name.to_owned(), text(value))).collect()
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn headers_path_and_query_are_kept_where_a_connection_needs_them() {
    let mut wants = connection("wants");
    wants.sources = vec!["shop".to_owned()];
    wants.keeps.headers = vec![HeaderName::from_static("x-tenant")];
    let mut forwards = connection("forwards");
    forwards.sources = vec!["shop".to_owned()];
    forwards.keeps = Keeps { path: true, query: true, ..Keeps::default() };
    let relay = Relay::with(vec![connection("plain"), wants, forwards], |_| ());
    let mut producer = relay.connect();
    let headers = "X-Tenant: a\r\nX-Tenant: b\r\nX-Other: c\r\nContent-Type: text/plain\r\n";
    for path in [
        "/v1/sources/shop/events/orders/7?x=1&wait=0s&y=%20",
        "/v1/sources/shop/events",
        "/v1/events?x=1",
    ] {
        let answer = producer.post_with(path, headers, "body");
        assert_eq!(answer.status, 202, "{path}: {answer:?}");
    }
    let tenants = [("x-tenant", "a"), ("x-tenant", "b"), ("content-type", "text/plain")];
    let mut all = tenants.to_vec();
    all.extend([(":path", "/orders/7"), (":query", "x=1&y=%20")]);
    assert_eq!(kept(&relay, 0), pairs(&all));
    assert_eq!(kept(&relay, 1), pairs(&tenants));
    assert_eq!(kept(&relay, 2), pairs(&[("content-type", "text/plain")]), "nobody needs more");
}

/// A mistyped path must not be taken for one that some connection wants.
#[test]
fn paths_below_are_taken_only_where_a_connection_wants_them() {
    let mut forwards = connection("forwards");
    forwards.sources = vec!["shop".to_owned()];
    forwards.keeps.path = true;
    let mut off = connection("off");
    off.keeps.path = true;
    off.state = State::Disabled;
    let relay = Relay::with(vec![connection("plain"), forwards, off], |_| ());
    let mut producer = relay.connect();
    for (path, status) in [
        ("/v1/sources/shop/events/a", 202),
        ("/v1/connections/forwards/events/a", 202),
        ("/v1/sources/default/events/a", 404),
        ("/v1/connections/plain/events/a", 404),
        ("/v1/events/a", 404),
    ] {
        let answer = producer.post(path, "x");
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        if status == 404 {
            assert_eq!(answer.code(), "not_found", "{path}");
        }
    }
}
