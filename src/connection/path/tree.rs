//! Paths over what was read of an event already.

use std::borrow::Cow;

use super::{Path, Root, Step};
use crate::connection::json::Json;
use crate::connection::parts::Parts;

impl Path {
    /// The value at the path, of whatever sort, with its digits as they were written. A path that may lead to several values
    /// gives the first of them.
    pub fn read<'p>(&self, parts: &'p Parts<'_>) -> Option<Cow<'p, Json<'p>>> {
        let mut found = None;
        self.each(parts, &mut |value| {
            found.get_or_insert(value);
        });
        found
    }

    /// Visits each value that the path leads to, in order.
    pub fn each<'p>(&self, parts: &'p Parts<'_>, visit: &mut dyn FnMut(Cow<'p, Json<'p>>)) {
        let text = |text: &'p str| Cow::Owned(Json::Text(Cow::Borrowed(text)));
        let event = parts.event();
        match &self.root {
            Root::Body(steps) => {
                if let Ok(body) = parts.body() {
                    each(body, steps, &mut |value| visit(Cow::Borrowed(value)));
                }
            }
            Root::Header(name) => {
                let found = parts.header(name).and_then(|value| std::str::from_utf8(value).ok());
                found.into_iter().for_each(|found| visit(text(found)));
            }
            Root::Query(name) => {
                let found = parts.query().member(name);
                let first = match found {
                    Some(Json::Array(values)) => values.first(),
                    other => other,
                };
                first.into_iter().for_each(|value| visit(Cow::Borrowed(value)));
            }
            Root::Type if event.content.kind().is_empty() => {}
            Root::Type => visit(text(event.content.kind())),
            Root::Id => visit(Cow::Owned(Json::text(event.id.to_string()))),
            Root::Source => visit(text(event.content.source())),
        }
    }
}

/// Visits each value that the steps lead to.
pub(in crate::connection) fn each<'j, 't>(
    json: &'j Json<'t>,
    steps: &[Step],
    visit: &mut dyn FnMut(&'j Json<'t>),
) {
    let Some((step, rest)) = steps.split_first() else {
        return visit(json);
    };
    match (step, json) {
        (Step::Member(name), _) => {
            json.member(name).into_iter().for_each(|value| each(value, rest, visit));
        }
        (Step::Item(at), Json::Array(items)) => {
            items.get(*at).into_iter().for_each(|value| each(value, rest, visit));
        }
        (Step::Every, Json::Array(items)) => {
            items.iter().for_each(|value| each(value, rest, visit));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::parts::testing::event;

    fn values(path: &str, body: &str) -> Vec<String> {
        let event = event(body);
        let parts = Parts::new(&event);
        let mut found = Vec::new();
        Path::parse_many(path).unwrap().each(&parts, &mut |value| found.push(value.to_string()));
        found
    }

    #[test]
    fn paths_lead_to_one_value_or_to_several() {
        let body = r#"{"a":[{"b":1.10},{"c":2},{"b":{"x":[3,4]}}],"n":null,"k.l":"m"}"#;
        for (path, expected) in [
            ("body.a[*].b", &["1.10", r#"{"x":[3,4]}"#][..]),
            ("body.a[*].b.x[*]", &["3", "4"]),
            ("body.a[0].b", &["1.10"]),
            ("body.a[7].b", &[]),
            ("body.a.b", &[]),
            ("body.n", &["null"]),
            ("body[\"k.l\"]", &["\"m\""]),
            ("body[*]", &[]),
            ("headers.x-tenant", &["\"acme\""]),
            ("headers.x-none", &[]),
            ("query.page", &["\"2\""]),
            ("query.none", &[]),
            ("event.type", &["\"order.created\""]),
            ("event.source", &["\"shop\""]),
        ] {
            assert_eq!(values(path, body), expected, "{path}");
        }
        assert!(values("body.a", "nonsense").is_empty());
        assert_eq!(values("event.id", "").len(), 1);
    }

    #[test]
    fn only_some_paths_may_lead_to_several_values() {
        assert!(Path::parse("body.a[*]").unwrap_err().contains("several values"));
        assert!(Path::parse_many("body.a[**]").is_err());
    }
}
