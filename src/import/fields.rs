//! An object of the input, read field by field: what nobody asked for is left, and is reported.

use serde_json::{Map, Value as Json};

use super::CONNECTIONS_MAX;
use super::out::Out;

/// An object whose fields are taken one by one.
pub(super) struct Fields {
    /// Where it is, as in `destination.config.`; empty at the top.
    prefix: String,
    members: Map<String, Json>,
}

impl Fields {
    pub(super) fn new(members: Map<String, Json>) -> Fields {
        Fields { prefix: String::new(), members }
    }

    /// The full path of a field.
    pub(super) fn path(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// The field as it is, to be taken later.
    pub(super) fn peek(&self, key: &str) -> Option<&Json> {
        self.members.get(key)
    }

    /// An object below this one that is not there.
    pub(super) fn empty(&self, key: &str) -> Fields {
        Fields { prefix: format!("{}.", self.path(key)), members: Map::new() }
    }

    /// Takes a field. One that is null is reported as not set.
    pub(super) fn take(&mut self, out: &mut Out, key: &str) -> Option<Json> {
        match self.members.remove(key)? {
            Json::Null => {
                out.noted(&self.path(key), "", "not set");
                None
            }
            value => Some(value),
        }
    }

    pub(super) fn text(&mut self, out: &mut Out, key: &str) -> Option<String> {
        match self.take(out, key)? {
            Json::String(text) => Some(text),
            Json::Number(number) => Some(number.to_string()),
            other => self.wrong(out, key, &other, "a string"),
        }
    }

    /// Without a row if it is null.
    pub(super) fn quiet_text(&mut self, key: &str) -> Option<String> {
        match self.members.get(key)? {
            Json::String(text) => Some(text.clone()),
            _ => None,
        }
    }

    pub(super) fn flag(&mut self, out: &mut Out, key: &str) -> Option<bool> {
        match self.take(out, key)? {
            Json::Bool(flag) => Some(flag),
            other => self.wrong(out, key, &other, "true or false"),
        }
    }

    /// A number that is not negative; a string that is one is one.
    pub(super) fn number(&mut self, out: &mut Out, key: &str) -> Option<f64> {
        let value = self.take(out, key)?;
        let number = match &value {
            Json::Number(number) => number.as_f64(),
            Json::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        match number.filter(|number: &f64| number.is_finite() && *number >= 0.0) {
            Some(number) => Some(number),
            None => self.wrong(out, key, &value, "a number that is not negative"),
        }
    }

    pub(super) fn list(&mut self, out: &mut Out, key: &str) -> Option<Vec<Json>> {
        match self.take(out, key)? {
            Json::Array(items) => Some(items),
            other => self.wrong(out, key, &other, "a list"),
        }
    }

    pub(super) fn object(&mut self, out: &mut Out, key: &str) -> Option<Fields> {
        match self.take(out, key)? {
            Json::Object(members) => {
                Some(Fields { prefix: format!("{}.", self.path(key)), members })
            }
            other => self.wrong(out, key, &other, "an object"),
        }
    }

    /// An item of a list in this object, as an object.
    pub(super) fn item(&self, out: &mut Out, key: &str, at: usize, item: Json) -> Option<Fields> {
        let path = format!("{}[{at}]", self.path(key));
        match item {
            Json::Object(members) => Some(Fields { prefix: format!("{path}."), members }),
            _ => {
                out.dropped(&path, "is no object");
                None
            }
        }
    }

    fn wrong<T>(&self, out: &mut Out, key: &str, value: &Json, wanted: &str) -> Option<T> {
        let found = match value {
            Json::Null => "null",
            Json::Bool(_) => "true or false",
            Json::Number(_) => "a number",
            Json::String(_) => "a string",
            Json::Array(_) => "a list",
            Json::Object(_) => "an object",
        };
        out.dropped(&self.path(key), &format!("is {found}, not {wanted}"));
        None
    }

    /// Reports each of these that is there as one that has no place here.
    pub(super) fn leave(&mut self, out: &mut Out, keys: &[&str], why: &str) {
        for key in keys {
            if self.take(out, key).is_some() {
                out.dropped(&self.path(key), why);
            }
        }
    }

    /// Reports everything that is left as having no place here.
    pub(super) fn leave_all(&mut self, out: &mut Out, why: &str) {
        for (key, value) in std::mem::take(&mut self.members) {
            let path = format!("{}{key}", self.prefix);
            if value.is_null() {
                out.noted(&path, "", "not set");
            } else {
                out.dropped(&path, why);
            }
        }
    }

    /// Reports what is left.
    pub(super) fn finish(self, out: &mut Out) {
        let Fields { prefix, members } = self;
        for (key, value) in members {
            let path = format!("{prefix}{key}");
            match value {
                Json::Null => out.noted(&path, "", "not set"),
                _ => out.dropped(&path, "a field that this version does not know"),
            }
        }
    }
}

/// Keys under which systems put a list, or the one object that was asked for.
const LISTS: [&str; 12] = [
    "models",
    "data",
    "items",
    "results",
    "resultList",
    "connections",
    "endpoints",
    "webhooks",
    "content",
    "connection",
    "result",
    "resultObject",
];

/// The objects of a document: of a list, of a page of a list, or the one that it is. `is_one` says of an object whether it
/// is one of them.
pub(super) fn objects(
    document: Json,
    is_one: &dyn Fn(&Map<String, Json>) -> bool,
    looked_for: &str,
    out: &mut Out,
) -> Result<Vec<Map<String, Json>>, String> {
    let mut found = Vec::new();
    collect(document, is_one, "", 0, &mut found, out);
    if found.len() > CONNECTIONS_MAX {
        return Err(format!(
            "the file has {} of them, at most {CONNECTIONS_MAX} are taken at once",
            found.len()
        ));
    }
    if found.is_empty() {
        return Err(format!(
            "the file has no {looked_for}: it must be one, a list of them, or a page of a list as the API answers"
        ));
    }
    Ok(found)
}

/// How deep a list may stand in its envelope.
const ENVELOPES_MAX: usize = 3;

fn collect(
    value: Json,
    is_one: &dyn Fn(&Map<String, Json>) -> bool,
    path: &str,
    depth: usize,
    found: &mut Vec<Map<String, Json>>,
    out: &mut Out,
) {
    match value {
        Json::Array(items) => {
            for (at, item) in items.into_iter().enumerate() {
                collect(item, is_one, &format!("{path}[{at}]"), depth, found, out);
            }
        }
        Json::Object(members) if is_one(&members) => found.push(members),
        Json::Object(members) if depth < ENVELOPES_MAX => {
            for (key, value) in members {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                let inside = value.is_array() || value.is_object();
                if inside && LISTS.contains(&key.as_str()) {
                    collect(value, is_one, &path, depth + 1, found, out);
                } else {
                    envelope(&key, &path, &value, out);
                }
            }
        }
        _ => {
            out.about("file");
            let path = if path.is_empty() { "(whole)" } else { path };
            out.dropped(path, "is not what was looked for");
        }
    }
}

/// A field of a page, not of what is on it.
fn envelope(key: &str, path: &str, value: &Json, out: &mut Out) {
    out.about("file");
    let next = value.get("next").is_some_and(|next| !next.is_null());
    if key == "pagination" && next {
        out.dropped(path, "there are more pages: fetch and import each of them");
    } else {
        out.dropped(path, "belongs to the answer of the API, not to a connection");
    }
}
