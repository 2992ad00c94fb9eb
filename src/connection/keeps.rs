//! What of a request an event keeps for a connection.

use http::HeaderName;

/// What of a producer's request is stored with the event because this connection needs it later, beside the body and what is
/// always kept: `content-type`, `content-encoding`, `ce-*`, and the method where it is not POST.
///
/// Ingress keeps the union over a source's connections. What no connection needs is not stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keeps {
    /// These headers. They are among `event::Content::headers` under their own names.
    pub headers: Vec<HeaderName>,
    /// The path below the source's own (`/a/b` of `/v1/sources/shop/events/a/b`), as the header `:path`. Only where some
    /// connection asks for it is such a path taken at all.
    pub path: bool,
    /// The query without what is meant for ingress (`wait`), as the header `:query`.
    pub query: bool,
}

impl Keeps {
    /// Takes over what another connection needs.
    pub fn add(&mut self, other: &Keeps) {
        for name in &other.headers {
            if !self.headers.contains(name) {
                self.headers.push(name.clone());
            }
        }
        self.path |= other.path;
        self.query |= other.query;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_union_has_each_header_once() {
        let names =
            |list: &[&'static str]| list.iter().map(|n| HeaderName::from_static(n)).collect();
        let mut all = Keeps { headers: names(&["x-a"]), path: false, query: true };
        all.add(&Keeps { headers: names(&["x-b", "x-a"]), path: true, query: false });
        assert_eq!(all, Keeps { headers: names(&["x-a", "x-b"]), path: true, query: true });
    }
}
