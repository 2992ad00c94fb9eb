//! The breaker's table, and what makes a connection disable itself.

use super::*;

fn one(body: &str) -> Arc<Connection> {
    let text = format!("[[connection]]\nname = \"one\"\n{body}");
    let text = if body.contains("url =") { text } else { format!("{text}\nurl = \"http://x/\"\n") };
    let loaded = loaded(&[("connections.d/a.toml", &text)], &[]);
    Arc::clone(&loaded.config.connections[0])
}

#[test]
fn the_breaker_is_on_and_can_be_turned_off() {
    let policy = one("").breaker.clone().unwrap();
    assert_eq!((policy.consecutive_failures, policy.min_attempts), (5, 20));
    assert_eq!((policy.open_for.as_secs(), policy.open_for_max.as_secs()), (30, 300));
    assert_eq!(one("breaker = { enabled = false }").breaker, None);
    // A default gives way to what was written.
    let long = one("breaker = { open_for = \"10m\" }").breaker.clone().unwrap();
    assert_eq!(long.open_for_max, long.open_for);
}

#[test]
fn gone_disables_where_the_url_is_the_same_for_every_event() {
    for (body, expected) in [
        ("", true),
        ("method = \"PUT\"", false),
        ("method = \"GET\"", false),
        ("method = \"GET\"\ndisable_on_gone = true", true),
        ("disable_on_gone = false", false),
        ("url = \"http://x/{{ event.type }}\"", false),
        ("url = \"http://x/?to={{ body.to }}\"", false),
    ] {
        assert_eq!(one(body).disable_on_gone, expected, "{body}");
    }
}

#[test]
fn disabling_and_expiry_are_off_until_they_are_asked_for() {
    let plain = one("");
    assert_eq!((plain.disable_after, plain.expire_after), (None, None));
    let set = one("disable_after = \"5d\"\nexpire_after = \"90s\"");
    assert_eq!(set.disable_after, Some(Duration::from_secs(5 * 86_400)));
    assert_eq!(set.expire_after, Some(Duration::from_secs(90)));
}
