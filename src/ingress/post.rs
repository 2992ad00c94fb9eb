//! What the head of a request says about its event: where it goes, and what of the request the event keeps.

use std::borrow::Cow;
use std::time::Duration;

use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderName, Method, request};

use super::cloudevents::Attributes;
use super::guard::{Address, Below};
use super::routing::{Group, Target};
use crate::connection::keeps::Keeps;
use crate::event::{Content, ContentBuilder};

/// Parameters of the query that are meant for ingress, and no part of the event.
const OUR_PARAMETERS: [&str; 1] = ["wait"];

/// Room for a body whose length is not known beforehand: that of an event as most are.
const UNKNOWN_LENGTH_BYTES: u64 = 2048;

/// What a producer asks for beside storing the event.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    /// The event's type; empty when it has none.
    pub(super) kind: &'a str,
    /// Its idempotency key; empty when it has none.
    pub(super) key: &'a str,
    /// How long it waits before its first attempt; `None`: as its connections say.
    pub(super) delay: Option<Duration>,
    /// How long the producer waits for the outcome.
    pub(super) wait: Option<Duration>,
}

/// A request as its head describes it.
#[derive(Debug)]
pub(super) struct Post<'a> {
    pub(super) head: &'a request::Parts,
    pub(super) asked: Asked<'a>,
    pub(super) address: Address<'a>,
    /// The query without what is meant for ingress; empty where there is none.
    pub(super) query: Cow<'a, str>,
}

impl<'a> Post<'a> {
    pub(super) fn new(
        head: &'a request::Parts,
        address: Address<'a>,
        asked: Asked<'a>,
    ) -> Post<'a> {
        let query = without_ours(head.uri.query().unwrap_or_default());
        Post { head, asked, address, query }
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

    /// The event's type and key: what the request's own headers say comes before what a CloudEvent says.
    pub(super) fn names<'c>(&self, cloud: Option<&'c Attributes>) -> (&'c str, &'c str)
    where
        'a: 'c,
    {
        let Asked { kind, key, .. } = self.asked;
        match cloud {
            None => (kind, key),
            Some(cloud) => (
                if kind.is_empty() { &cloud.kind } else { kind },
                if key.is_empty() { &cloud.key } else { key },
            ),
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
        self.each_kept(&group.keeps, None, |name, value| {
            header_bytes += 4 + name.len() + value.len()
        });
        let body_bytes = usize::try_from(length.unwrap_or(UNKNOWN_LENGTH_BYTES)).unwrap_or(0);
        let key = group.scoped(key);
        let mut builder = ContentBuilder::new(&group.source, kind, &key, header_bytes + body_bytes);
        self.each_kept(&group.keeps, None, |name, value| builder.header(name, value));
        builder
    }

    /// The content of one item of a batch: its headers are the request's, but it has a content type of its own.
    pub(super) fn item_content(
        &self,
        group: &Group,
        (kind, key): (&str, &str),
        (content_type, body): (&'static str, &str),
    ) -> Content {
        let mut header_bytes = 0;
        let kept = Some(content_type);
        self.each_kept(&group.keeps, kept, |name, value| {
            header_bytes += 4 + name.len() + value.len()
        });
        let mut builder = ContentBuilder::new(&group.source, kind, key, header_bytes + body.len());
        self.each_kept(&group.keeps, kept, |name, value| builder.header(name, value));
        builder.body(body.as_bytes());
        builder.finish()
    }

    /// Every header that the event keeps; parts of the request line come last, as headers that no request can have.
    /// `of_item`: the content type of an item, in the place of all that describes the request's body.
    fn each_kept(
        &self,
        keeps: &Keeps,
        of_item: Option<&'static str>,
        mut visit: impl FnMut(&str, &[u8]),
    ) {
        if let Some(content_type) = of_item {
            visit(CONTENT_TYPE.as_str(), content_type.as_bytes());
        }
        for (name, value) in &self.head.headers {
            let kept = match of_item {
                None => is_kept(name) || keeps.headers.contains(name),
                Some(_) => !is_kept(name) && keeps.headers.contains(name),
            };
            if kept {
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
