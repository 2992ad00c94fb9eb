//! Several events in one body: which bytes are whose. Pure.
//!
//! | content type | items | what the events' content type is |
//! |---|---|---|
//! | `application/x-ndjson` (`application/ndjson`, `application/jsonl`) | lines; empty ones are none | `application/json` |
//! | `application/json` | elements of an array | `application/json` |
//! | `application/cloudevents-batch+json` | elements of an array, each a CloudEvent | `application/cloudevents+json` |
//!
//! An item's bytes are those of the body, without white space around them. All items are good, or none is taken.

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde::de::IgnoredAny;

use super::cloudevents::{self, Attributes};
use super::refusal::{Refusal, Refused};

/// Items of one batch.
pub(super) const ITEMS_MAX: usize = 1000;

/// How items stand in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Lines,
    Array,
    CloudEvents,
}

/// One event of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item<'a> {
    /// Its bytes: one JSON value.
    pub(super) body: &'a str,
    /// What it says about itself, if it is a CloudEvent.
    pub(super) cloud: Option<Attributes>,
}

impl Format {
    /// The format of a batch by its head.
    pub(super) fn of(headers: &HeaderMap) -> Result<Format, Refused> {
        let value = headers.get(CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
        let found = cloudevents::media_type(value).to_ascii_lowercase();
        let format = match found.as_slice() {
            b"application/x-ndjson" | b"application/ndjson" | b"application/jsonl" => Format::Lines,
            b"application/json" => Format::Array,
            other if other == cloudevents::BATCH.as_bytes() => Format::CloudEvents,
            _ => return Err(Refusal::UnsupportedMediaType.into()),
        };
        cloudevents::readable(headers)?;
        Ok(format)
    }

    /// The content type of each item's event.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Format::Lines | Format::Array => "application/json",
            Format::CloudEvents => cloudevents::STRUCTURED,
        }
    }

    /// Takes a body apart.
    pub(super) fn split(self, body: &[u8]) -> Result<Vec<Item<'_>>, Refused> {
        let text = std::str::from_utf8(body).map_err(|error| {
            whole(format!("the body is not UTF-8 from byte {} on", error.valid_up_to()))
        })?;
        let bodies = if self == Format::Lines { lines(text)? } else { elements(text)? };
        let item = |(index, body)| match self {
            Format::Lines | Format::Array => Ok(Item { body, cloud: None }),
            Format::CloudEvents => match cloudevents::parse(body) {
                Ok(attributes) => Ok(Item { body, cloud: Some(attributes) }),
                Err(wrong) => Err(bad(index, wrong.why)),
            },
        };
        bodies.into_iter().enumerate().map(item).collect()
    }
}

/// The refusal of an item.
pub(super) fn bad(index: usize, why: impl std::fmt::Display) -> Refused {
    let detail = format!("item {index}: {why}; nothing of the batch was taken");
    Refused { index: Some(index), ..Refused::with(Refusal::InvalidBatch, detail) }
}

/// The refusal of a body that is no batch.
fn whole(why: impl std::fmt::Display) -> Refused {
    Refused::with(Refusal::InvalidBatch, format!("{why}; nothing of the batch was taken"))
}

fn too_many() -> Refused {
    whole(format!("there are more than {ITEMS_MAX} items; send several batches"))
}

fn lines(text: &str) -> Result<Vec<&str>, Refused> {
    let mut items = Vec::new();
    for line in text.split('\n') {
        let line = line.trim_matches(is_json_space);
        if line.is_empty() {
            continue;
        }
        if items.len() == ITEMS_MAX {
            return Err(too_many());
        }
        if let Err(error) = serde_json::from_str::<IgnoredAny>(line) {
            return Err(bad(items.len(), format!("it is not one JSON value: {error}")));
        }
        items.push(line);
    }
    Ok(items)
}

/// The elements of an array. Each is read by the JSON parser; what stands between them is looked at here.
fn elements(text: &str) -> Result<Vec<&str>, Refused> {
    let skip = |text: &'_ str| text.len() - text.trim_start_matches(is_json_space).len();
    let mut items: Vec<&str> = Vec::new();
    let mut at = skip(text);
    let rest = |at: usize| text.get(at..).unwrap_or_default();
    if !rest(at).starts_with('[') {
        return Err(whole("the body is not a JSON array"));
    }
    at += 1;
    at += skip(rest(at));
    if rest(at).starts_with(']') {
        return ended(rest(at + 1), items);
    }
    loop {
        if items.len() == ITEMS_MAX {
            return Err(too_many());
        }
        at += skip(rest(at));
        let mut values = serde_json::Deserializer::from_str(rest(at)).into_iter::<IgnoredAny>();
        match values.next() {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(bad(items.len(), format!("it is not JSON: {error}"))),
            None => return Err(bad(items.len(), "it is missing: the body ends")),
        }
        let end = at + values.byte_offset();
        items.push(text.get(at..end).unwrap_or_default());
        at = end + skip(rest(end));
        match rest(at).as_bytes().first() {
            Some(b',') => at += 1,
            Some(b']') => return ended(rest(at + 1), items),
            _ => {
                return Err(bad(
                    items.len() - 1,
                    "it is followed by neither a comma nor the array's end",
                ));
            }
        }
    }
}

fn ended<'a>(after: &str, items: Vec<&'a str>) -> Result<Vec<&'a str>, Refused> {
    match after.trim_matches(is_json_space) {
        "" => Ok(items),
        _ => Err(whole("something follows the array")),
    }
}

/// RFC 8259, 2.
fn is_json_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn split(format: Format, text: &str) -> Result<Vec<&str>, (Option<usize>, String)> {
        match format.split(text.as_bytes()) {
            Ok(items) => Ok(items.into_iter().map(|item| item.body).collect()),
            Err(refused) => {
                assert_eq!(refused.why, Refusal::InvalidBatch, "{text:?}");
                Err((refused.index, refused.detail.unwrap().into_owned()))
            }
        }
    }

    #[test]
    fn items_are_the_bytes_of_the_body() {
        let array = " [ {\"a\": 1.10} ,\n\"x,]\\\"\",[1 , 2],12345678901234567890,null ] ";
        let expected = ["{\"a\": 1.10}", "\"x,]\\\"\"", "[1 , 2]", "12345678901234567890", "null"];
        assert_eq!(split(Format::Array, array).unwrap(), expected);
        let lines = "{\"a\": 1}\r\n\n  \"x\\ny\" \n[]";
        assert_eq!(split(Format::Lines, lines).unwrap(), ["{\"a\": 1}", "\"x\\ny\"", "[]"]);
        for (format, empty) in
            [(Format::Array, "[ ]"), (Format::Lines, ""), (Format::Lines, "\n\n")]
        {
            assert_eq!(split(format, empty).unwrap(), [""; 0]);
        }
    }

    #[test]
    fn the_bad_item_is_named() {
        for (format, text, index, words) in [
            (Format::Array, "[1,{]", Some(1), "not JSON"),
            (Format::Array, "[1,2", Some(1), "neither a comma"),
            (Format::Array, "[1,", Some(1), "missing"),
            (Format::Array, "[1,]", Some(1), "not JSON"),
            (Format::Array, "[,1]", Some(0), "not JSON"),
            (Format::Array, "[1 2]", Some(0), "neither a comma"),
            (Format::Array, "[1:2]", Some(0), "neither a comma"),
            (Format::Array, "[01]", Some(0), "not JSON"),
            (Format::Array, "[nul]", Some(0), "not JSON"),
            (Format::Array, "[", Some(0), "missing"),
            (Format::Array, "{}", None, "not a JSON array"),
            (Format::Array, "", None, "not a JSON array"),
            (Format::Array, "[1]x", None, "follows"),
            (Format::Array, "[]]", None, "follows"),
            (Format::Lines, "1\n\n{}\n{\n", Some(2), "not one JSON value"),
            (Format::Lines, "1 2", Some(0), "not one JSON value"),
        ] {
            let (found, said) = split(format, text).unwrap_err();
            assert_eq!(found, index, "{text:?}: {said}");
            assert!(said.contains(words), "{text:?}: {said}");
        }
        let refused = Format::Lines.split(b"1\n\xff").unwrap_err();
        assert!(refused.detail.unwrap().contains("byte 2"));
    }

    #[test]
    fn the_number_of_items_is_bounded() {
        let most = vec!["1"; ITEMS_MAX];
        for (format, text) in
            [(Format::Array, format!("[{}]", most.join(","))), (Format::Lines, most.join("\n"))]
        {
            assert_eq!(split(format, &text).unwrap().len(), ITEMS_MAX);
            let more = text.replacen('1', if format == Format::Array { "1,1" } else { "1\n1" }, 1);
            let (index, said) = split(format, &more).unwrap_err();
            assert!(index.is_none() && said.contains("1000"), "{said}");
        }
    }

    #[test]
    fn cloud_events_speak_for_themselves() {
        let event = |id: &str| {
            format!(
                "{{\"specversion\":\"1.0\",\"id\":\"{id}\",\"source\":\"/s\",\"type\":\"t{id}\"}}"
            )
        };
        let text = format!("[{}, {}]", event("1"), event("2"));
        let items = Format::CloudEvents.split(text.as_bytes()).unwrap();
        assert_eq!(items[1].body, event("2"));
        let cloud = items.iter().map(|item| item.cloud.clone().unwrap());
        assert_eq!(cloud.map(|it| it.kind).collect::<Vec<_>>(), ["t1", "t2"]);
        let text = format!("[{}, {{\"id\":7}}]", event("1"));
        let refused = Format::CloudEvents.split(text.as_bytes()).unwrap_err();
        assert_eq!(refused.index, Some(1));
        assert!(refused.detail.unwrap().contains("\"id\""));
        let refused = Format::CloudEvents.split(b"[7]").unwrap_err();
        assert!(refused.detail.unwrap().contains("item 0: it is not a JSON object"));
    }

    #[test]
    fn the_format_is_told_by_the_head() {
        let of = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(text));
            Format::of(&headers).map_err(|refused| refused.why)
        };
        assert_eq!(of("application/x-ndjson; charset=utf-8"), Ok(Format::Lines));
        assert_eq!(of("Application/JSON"), Ok(Format::Array));
        assert_eq!(of("application/cloudevents-batch+json"), Ok(Format::CloudEvents));
        for other in ["", "text/plain", "application/cloudevents+json", "application/jsonx"] {
            assert_eq!(of(other), Err(Refusal::UnsupportedMediaType), "{other}");
        }
    }
}
