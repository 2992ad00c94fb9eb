//! What is looked at before anything else: is the head unambiguous, and may its sender post at all? Pure functions.

use std::net::{Ipv4Addr, Ipv6Addr};

use http::header::{HOST, ORIGIN, TRANSFER_ENCODING};
use http::{HeaderMap, Uri, Version, request};

use super::refusal::{Refusal, Refused};
use super::routing::Target;

/// What is known about a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    /// TCP on a loopback address: Host is checked, because web pages can reach it through the user's own browser.
    Loopback,
    /// TCP on any other address.
    Network,
    /// A Unix socket: no browser gets there. `allowed`: whether the peer's user is.
    Unix { allowed: bool },
}

/// Refuses heads that two readers could read in two ways, web pages, and users that are not allowed. `page`: it is of a web page
/// that the source lets in.
pub(super) fn check(
    head: &request::Parts,
    door: Door,
    hosts: &[String],
    page: bool,
) -> Result<(), Refused> {
    unambiguous(&head.headers, head.version)?;
    if let Door::Unix { allowed } = door {
        return if allowed { Ok(()) } else { Err(Refusal::UidForbidden.into()) };
    }
    if head.headers.contains_key(ORIGIN) && !page {
        return Err(Refusal::OriginForbidden.into());
    }
    if door == Door::Loopback && !host_allowed(&head.headers, &head.uri, hosts) {
        return Err(Refusal::HostForbidden.into());
    }
    Ok(())
}

/// hyper refuses two lengths and codings that do not end in `chunked`; the rest is looked at here.
fn unambiguous(headers: &HeaderMap, version: Version) -> Result<(), Refused> {
    let malformed = |detail: &'static str| Err(Refused::with(Refusal::Malformed, detail));
    match headers.get_all(HOST).iter().count() {
        1 => {}
        0 if version != Version::HTTP_11 => {}
        0 => return malformed("the request has no Host header; send one"),
        _ => return malformed("the request has several Host headers; send one"),
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let chunked = |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"chunked");
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(value), None) if chunked(value) => Ok(()),
        _ => malformed("chunked is the only transfer coding here; send it alone and once"),
    }
}

fn host_allowed(headers: &HeaderMap, uri: &Uri, hosts: &[String]) -> bool {
    let header = headers.get(HOST).map(|value| value.to_str().ok());
    let allowed =
        |host: &str| is_local(host) || hosts.iter().any(|one| one.eq_ignore_ascii_case(host));
    let header_allowed = match header {
        None => true,
        Some(host) => host.is_some_and(|host| allowed(without_port(host))),
    };
    header_allowed
        && uri.authority().is_none_or(|authority| allowed(without_port(authority.as_str())))
}

fn without_port(host: &str) -> &str {
    if let Some((inner, _)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return inner;
    }
    host.split_once(':').map_or(host, |(name, _)| name)
}

fn is_local(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
        || host.parse::<Ipv6Addr>().is_ok_and(|address| address.is_loopback())
}

/// What a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address<'a> {
    pub(super) target: Target<'a>,
    pub(super) below: Below<'a>,
}

/// What stands below a target's own path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Below<'a> {
    /// Nothing: one event.
    Nothing,
    /// `/batch`: several events.
    Batch,
    /// Something that connections may want to have, with its first slash: one event.
    Path(&'a str),
}

/// What a path names; `None`: nothing. Only whoever names a source or a connection may say something below it.
pub(super) fn address(path: &str) -> Option<Address<'_>> {
    let rest = path.strip_prefix("/v1/")?;
    match rest {
        "events" => return Some(Address { target: DEFAULT, below: Below::Nothing }),
        "events/batch" => return Some(Address { target: DEFAULT, below: Below::Batch }),
        _ => {}
    }
    let (kind, rest) = rest.split_once('/')?;
    let (name, rest) = rest.split_once('/').filter(|(name, _)| !name.is_empty())?;
    let below = match rest.strip_prefix("events")? {
        "" => Below::Nothing,
        "/batch" => Below::Batch,
        path if path.len() > 1 && path.starts_with('/') => Below::Path(path),
        _ => return None,
    };
    let target = match kind {
        "sources" => Target::Source(name),
        "connections" => Target::Connection(name),
        _ => return None,
    };
    Some(Address { target, below })
}

/// What `/v1/events` names.
const DEFAULT: Target<'static> = Target::Source("default");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let (shop, crm) = (Target::Source("shop"), Target::Connection("Crm"));
        let cases = [
            ("/v1/events", Some((DEFAULT, Below::Nothing))),
            ("/v1/events/batch", Some((DEFAULT, Below::Batch))),
            ("/v1/sources/shop/events", Some((shop, Below::Nothing))),
            ("/v1/sources/shop/events/batch", Some((shop, Below::Batch))),
            ("/v1/sources/shop/events/batch/", Some((shop, Below::Path("/batch/")))),
            ("/v1/sources/shop/events/a/..%2f", Some((shop, Below::Path("/a/..%2f")))),
            ("/v1/connections/Crm/events", Some((crm, Below::Nothing))),
            ("/v1/connections/Crm/events/batch", Some((crm, Below::Batch))),
            ("/v1/connections/Crm/events/x", Some((crm, Below::Path("/x")))),
            ("/v1/events/", None),
            ("/v1/events/x", None),
            ("/v1/sources/shop/events/", None),
            ("/v1/sources/shop/eventsx", None),
            ("/v1/sources//events", None),
            ("/v1/sources/a/b/events", None),
            ("/v1/sources/shop", None),
            ("/v1/things/shop/events", None),
            ("/v2/events", None),
            ("/", None),
            ("", None),
        ];
        for (path, expected) in cases {
            let found = address(path).map(|found| (found.target, found.below));
            assert_eq!(found, expected, "{path}");
        }
    }

    #[test]
    fn hosts_of_a_loopback_listener() {
        let hosts = ["relay.internal".to_owned()];
        let cases = [
            ("localhost", true),
            ("LOCALHOST:8377", true),
            ("127.0.0.1:8377", true),
            ("127.8.9.1", true),
            ("[::1]:8377", true),
            ("Relay.Internal:80", true),
            ("example.com", false),
            ("localhost.example.com", false),
            ("127.0.0.1.example.com:8377", false),
            ("10.0.0.1", false),
            ("[fe80::1]", false),
            ("", false),
        ];
        for (host, expected) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, host.parse().unwrap());
            let allowed = host_allowed(&headers, &Uri::from_static("/v1/events"), &hosts);
            assert_eq!(allowed, expected, "{host:?}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(HOST, "localhost".parse().unwrap());
        let absolute = Uri::from_static("http://example.com/v1/events");
        assert!(!host_allowed(&headers, &absolute, &hosts), "absolute form");
    }

    fn check_head(
        door: Door,
        headers: &[(&'static str, &'static str)],
        page: bool,
    ) -> Option<Refusal> {
        let mut request = http::Request::post("/v1/events");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        check(&head, door, &[], page).err().map(|refused| refused.why)
    }

    const LOCAL: (&str, &str) = ("host", "localhost");
    const FAR: (&str, &str) = ("host", "example.com");
    const ORIGIN_SENT: (&str, &str) = ("origin", "https://example.com");
    const CHUNKED: (&str, &str) = ("transfer-encoding", "chunked");

    #[test]
    fn heads() {
        let unix = |allowed| Door::Unix { allowed };
        type Case = (Door, &'static [(&'static str, &'static str)], Option<Refusal>);
        let cases: &[Case] = &[
            (Door::Loopback, &[LOCAL], None),
            (Door::Loopback, &[FAR], Some(Refusal::HostForbidden)),
            (Door::Loopback, &[LOCAL, ORIGIN_SENT], Some(Refusal::OriginForbidden)),
            (Door::Network, &[FAR], None),
            (Door::Network, &[FAR, ORIGIN_SENT], Some(Refusal::OriginForbidden)),
            (unix(true), &[FAR, ORIGIN_SENT], None),
            (unix(false), &[LOCAL], Some(Refusal::UidForbidden)),
            (Door::Loopback, &[], Some(Refusal::Malformed)),
            (Door::Loopback, &[LOCAL, LOCAL], Some(Refusal::Malformed)),
            (unix(true), &[LOCAL, FAR], Some(Refusal::Malformed)),
            (Door::Loopback, &[LOCAL, CHUNKED], None),
            (Door::Loopback, &[LOCAL, CHUNKED, CHUNKED], Some(Refusal::Malformed)),
            (
                Door::Loopback,
                &[LOCAL, ("transfer-encoding", "gzip, chunked")],
                Some(Refusal::Malformed),
            ),
            (Door::Loopback, &[LOCAL, ("transfer-encoding", "identity")], Some(Refusal::Malformed)),
        ];
        for (door, headers, expected) in cases {
            assert_eq!(check_head(*door, headers, false), *expected, "{door:?} {headers:?}");
        }
        // A page that may post still cannot come by another name.
        assert_eq!(check_head(Door::Loopback, &[LOCAL, ORIGIN_SENT], true), None);
        let rebound = check_head(Door::Loopback, &[FAR, ORIGIN_SENT], true);
        assert_eq!(rebound, Some(Refusal::HostForbidden));
    }
}
