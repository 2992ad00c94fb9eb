//! Secrets: references to where they are kept, or strings. No message and no shown line holds a value.

use super::*;
use crate::secret::{Secret, SecretRef};

/// A key and its value as they stand in a table.
type KeyValue<'t, 'i> = (&'t Spanned<std::borrow::Cow<'i, str>>, &'t Node<'i>);

impl Reader<'_> {
    /// A secret that may end.
    pub(super) fn dated_secret(&mut self, node: &Node<'_>, path: &str) -> Option<Value> {
        let Some(table) = node.get_ref().as_table() else {
            let Value::Secret(secret) = self.secret(node, path)? else {
                return None;
            };
            return Some(Value::DatedSecret(secret, None));
        };
        let (until, rest): (Vec<_>, Vec<_>) =
            in_order(table).into_iter().partition(|(key, _)| key.get_ref() == "until");
        let secret = self.secret_ref(&rest, node, path);
        let Some((_, node)) = until.first() else {
            return Some(Value::DatedSecret(secret?, None));
        };
        match self.value(&Kind::Stamp, node, &format!("{path}.until"))? {
            Value::Stamp(until) => Some(Value::DatedSecret(secret?, Some(until))),
            _ => None,
        }
    }

    /// A secret: a reference, or a string, which is warned about.
    pub(super) fn secret(&mut self, node: &Node<'_>, path: &str) -> Option<Value> {
        let message = match node.get_ref() {
            DeValue::Table(table) => {
                return self.secret_ref(&in_order(table), node, path).map(Value::Secret);
            }
            DeValue::String(text) if !text.is_empty() => {
                return Some(Value::Secret(self.plain_secret(text, "is", node, path)));
            }
            DeValue::String(_) => "the secret is empty".to_owned(),
            other => format!("{}, write a string or {{ env = \"X\" }}", scalar::is_a(other)),
        };
        self.error(node.span(), &Reveal::Nothing, path, message);
        None
    }

    /// A secret that is written into the file works, and is warned about.
    pub(super) fn plain_secret(
        &mut self,
        text: &str,
        how: &str,
        node: &Node<'_>,
        path: &str,
    ) -> SecretRef {
        let message = format!(
            "{how} a secret in plain text; better keep it elsewhere and refer to it: {{ env = \"NAME\" }}, {{ file = \"/path\" }} or {{ credential = \"name\" }}"
        );
        let place = self.place(node.span());
        self.report.warn(&place, &Reveal::Nothing, path, message);
        SecretRef::Plain(Secret::new(text))
    }

    /// `{ env = ".." }`, `{ file = ".." }` or `{ credential = ".." }`
    pub(super) fn secret_ref(
        &mut self,
        entries: &[KeyValue<'_, '_>],
        node: &Node<'_>,
        path: &str,
    ) -> Option<SecretRef> {
        let [(key, value)] = entries else {
            let message = "a secret has exactly one of env, file and credential".to_owned();
            self.error(node.span(), &Reveal::Nothing, path, message);
            return None;
        };
        let Some(text) = value.get_ref().as_str().filter(|text| !text.is_empty()) else {
            let message = "write a string that is not empty".to_owned();
            let path = format!("{path}.{}", key.get_ref());
            self.error(value.span(), &Reveal::Nothing, &path, message);
            return None;
        };
        match key.get_ref().as_ref() {
            "env" => Some(SecretRef::Env(text.to_owned())),
            "file" => {
                let base = self.file.path.parent().unwrap_or(Path::new(""));
                Some(SecretRef::File(base.join(text)))
            }
            "credential" if !text.contains('/') && text != ".." => {
                Some(SecretRef::Credential(text.to_owned()))
            }
            "credential" => {
                let message = "a credential is the name of a file, without a path".to_owned();
                self.error(value.span(), &Reveal::Value, &format!("{path}.credential"), message);
                None
            }
            other => {
                let message = format!(
                    "unknown key {}; a secret has one of env, file and credential",
                    quoted(other)
                );
                self.error(key.span(), &Reveal::Key(value.span()), path, message);
                None
            }
        }
    }
}
