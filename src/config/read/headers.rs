//! The `headers` table: names that may be set, and values that are strings, secrets or lists of these. No message and no
//! shown line holds a value.

use http::HeaderName;

use super::*;
use crate::connection::template::has_placeholders;

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
