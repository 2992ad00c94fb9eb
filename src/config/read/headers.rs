//! The `headers` table: names that may be set, and values that are strings, secrets or lists of these. No message and no
//! shown line holds a value.

use http::{HeaderName, HeaderValue};

use super::*;
use crate::connection::template::has_placeholders;

/// Names that describe one hop's connection (RFC 9110, 7.6.1), which is the daemon's own.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Words in a header's name that make its value a secret.
const SECRET_WORDS: [&str; 7] =
    ["authorization", "cookie", "key", "password", "secret", "signature", "token"];

impl Reader<'_> {
    pub(super) fn headers(&mut self, node: &Node<'_>, path: &str) -> Option<Value> {
        let table = self.expect_table(node, path)?;
        let mut entries: Vec<Entry> = Vec::with_capacity(table.len());
        let mut places: Vec<Place> = Vec::with_capacity(table.len());
        for (key, node) in in_order(table) {
            let written = key.get_ref().as_ref();
            let path = format!("{path}.{written}");
            let name = match header_name(written) {
                Ok(name) => name,
                Err(message) => {
                    self.error(key.span(), &Reveal::Key(node.span()), &path, message);
                    continue;
                }
            };
            if let Some(first) = entries.iter().position(|entry| entry.key == name.as_str()) {
                let first = places.get(first).map(Place::name).unwrap_or_default();
                let message = format!(
                    "the same header is set at {first}; names do not depend on case, and a list sends several: [\"1\", \"2\"]"
                );
                self.error(key.span(), &Reveal::Key(node.span()), &path, message);
                continue;
            }
            if let Some(value) = self.header_values(&name, node, &path) {
                let item = Item { value, place: self.place(node.span()) };
                places.push(self.place(key.span()));
                entries.push(Entry { key: name.as_str().to_owned(), item });
            }
        }
        Some(Value::Map(entries))
    }

    /// All values of one header, as a list.
    fn header_values(&mut self, name: &HeaderName, node: &Node<'_>, path: &str) -> Option<Value> {
        let nodes: Vec<&Node<'_>> = match node.get_ref() {
            DeValue::Array(array) => array.iter().collect(),
            _ => vec![node],
        };
        if nodes.is_empty() {
            let message = "the list is empty; leave the header out instead".to_owned();
            self.error(node.span(), &Reveal::Nothing, path, message);
            return None;
        }
        let mut items = Vec::with_capacity(nodes.len());
        for node in nodes {
            let value = match node.get_ref() {
                DeValue::Table(table) => {
                    Value::Secret(self.secret_ref(&in_order(table), node, path)?)
                }
                value => match plain_value(value) {
                    Ok(text) => self.plain(name, text, node, path),
                    Err(message) => {
                        self.error(node.span(), &Reveal::Nothing, path, message);
                        return None;
                    }
                },
            };
            let place = self.place(node.span());
            items.push(Item { value, place });
        }
        Some(Value::List(items))
    }

    /// A value written into the file; if its name says that it is a secret, that is warned about.
    fn plain(&mut self, name: &HeaderName, text: &str, node: &Node<'_>, path: &str) -> Value {
        // A value with placeholders is not a secret itself.
        if has_placeholders(text) || !names_secret(name.as_str()) {
            return Value::Text(text.to_owned());
        }
        Value::Secret(self.plain_secret(text, "looks like", node, path))
    }
}

/// Whether a header's value is a secret, by the header's name.
pub(in crate::config) fn names_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_WORDS.iter().any(|word| name.contains(word))
}

fn plain_value<'v>(value: &'v DeValue<'_>) -> Result<&'v str, String> {
    let text = value.as_str().ok_or_else(|| {
        format!(
            "{}, write a string, a secret {{ env = \"X\" }} or a list of these",
            scalar::is_a(value)
        )
    })?;
    header_value(text.as_bytes())?;
    Ok(text)
}

/// The value as it is sent. Messages do not show it.
pub(in crate::config) fn header_value(bytes: &[u8]) -> Result<HeaderValue, String> {
    if bytes.trim_ascii().is_empty() {
        return Err("the value is empty; leave the header out instead".to_owned());
    }
    if bytes.trim_ascii().len() != bytes.len() {
        return Err("the value begins or ends with blanks, which HTTP does not keep; remove them"
            .to_owned());
    }
    HeaderValue::from_bytes(bytes)
        .map_err(|_| "the value holds a line break or another control character".to_owned())
}

/// The name, if a connection may set it.
pub(in crate::config) fn header_name(text: &str) -> Result<HeaderName, String> {
    let name: HeaderName = text
        .parse()
        .map_err(|_| format!("{} is not a header name: letters, digits and -", quoted(text)))?;
    let refused = match name.as_str() {
        "host" => "comes from the URL, or from host_header",
        "content-length" => "is computed from the body that is sent",
        "expect" => "is not supported: the body is sent at once",
        "webhook-id" | "webhook-timestamp" | "webhook-signature" => {
            "is set by the daemon on every request"
        }
        name if name.starts_with("posthaste-") => "is set by the daemon; posthaste-* is reserved",
        name if HOP_BY_HOP.contains(&name) => {
            "belongs to one HTTP connection, which is the daemon's own (hop-by-hop)"
        }
        _ => return Ok(name),
    };
    Err(format!("the header {text} {refused}; remove it"))
}
