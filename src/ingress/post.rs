//! What the head of a request says about its event: where it goes, and what of the request the event keeps.

use std::borrow::Cow;

use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderName, Method, request};

use super::guard::{Address, Below};
use super::routing::{Group, Target};
use crate::connection::keeps::Keeps;
use crate::event::ContentBuilder;

/// Parameters of the query that are meant for ingress, and no part of the event.
const OUR_PARAMETERS: [&str; 1] = ["wait"];

/// Room for a body whose length is not known beforehand: that of an event as most are.
const UNKNOWN_LENGTH_BYTES: u64 = 2048;

/// A request as its head describes it.
#[derive(Debug)]
pub(super) struct Post<'a> {
    pub(super) head: &'a request::Parts,
    pub(super) address: Address<'a>,
    /// The query without what is meant for ingress; empty where there is none.
    pub(super) query: Cow<'a, str>,
}

impl<'a> Post<'a> {
    pub(super) fn new(head: &'a request::Parts, address: Address<'a>) -> Post<'a> {
        Post { head, address, query: without_ours(head.uri.query().unwrap_or_default()) }
    }

    pub(super) fn target(&self) -> Target<'a> {
        self.address.target
    }

    /// The path below the target's own, with its first slash; empty where there is none.
    pub(super) fn path(&self) -> &'a str {
        match self.address.below {
            Below::Path(path) => path,
            Below::Nothing | Below::Batch => "",
        }
    }

    /// The content with everything but the body. `length`: the body's, where it is known.
    pub(super) fn start_content(
        &self,
        group: &Group,
        (kind, key): (&str, &str),
        length: Option<u64>,
    ) -> ContentBuilder {
        let mut header_bytes = 0;
        self.each_kept(&group.keeps, |name, value| header_bytes += 4 + name.len() + value.len());
        let body_bytes = usize::try_from(length.unwrap_or(UNKNOWN_LENGTH_BYTES)).unwrap_or(0);
        let key = group.scoped(key);
        let mut builder = ContentBuilder::new(&group.source, kind, &key, header_bytes + body_bytes);
        self.each_kept(&group.keeps, |name, value| builder.header(name, value));
        builder
    }

    /// Every header that the event keeps; parts of the request line come last, as headers that no request can have.
    fn each_kept(&self, keeps: &Keeps, mut visit: impl FnMut(&str, &[u8])) {
        for (name, value) in &self.head.headers {
            if is_kept(name) || keeps.headers.contains(name) {
                visit(name.as_str(), value.as_bytes());
            }
        }
        if self.head.method != Method::POST {
            visit(":method", self.head.method.as_str().as_bytes());
        }
        if keeps.path && !self.path().is_empty() {
            visit(":path", self.path().as_bytes());
        }
        if keeps.query && !self.query.is_empty() {
            visit(":query", self.query.as_bytes());
        }
    }
}

fn is_kept(name: &HeaderName) -> bool {
    name == CONTENT_TYPE || name == CONTENT_ENCODING || name.as_str().starts_with("ce-")
}

/// Whether a part of a query, between `&` and `&`, is meant for ingress.
fn is_ours(part: &str) -> bool {
    OUR_PARAMETERS.contains(&part.split_once('=').map_or(part, |(name, _)| name))
}

fn without_ours(query: &str) -> Cow<'_, str> {
    if !query.split('&').any(is_ours) {
        return Cow::Borrowed(query);
    }
    let left: Vec<&str> = query.split('&').filter(|part| !is_ours(part)).collect();
    Cow::Owned(left.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_meant_for_ingress_is_no_part_of_the_query() {
        let cases = [
            ("", ""),
            ("a=1&b", "a=1&b"),
            ("wait=5s", ""),
            ("a=1&wait=5s&b=2", "a=1&b=2"),
            ("wait", ""),
            ("waiting=1&a=wait=5s", "waiting=1&a=wait=5s"),
            ("&&", "&&"),
        ];
        for (query, expected) in cases {
            assert_eq!(without_ours(query), expected, "{query}");
        }
    }
}
