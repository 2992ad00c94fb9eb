//! Builds the headers of a connection; secrets are resolved here.

use http::{HeaderName, HeaderValue};

use super::*;
use crate::config::fields::{HEADER_BYTES_MAX, HEADERS_MAX};
use crate::config::layers::Draft;
use crate::config::read::header_value;
use crate::config::value::Value;
use crate::secret::SecretRef;

impl Build<'_> {
    pub(super) fn headers(&mut self, draft: &Draft) -> Vec<(HeaderName, HeaderValue)> {
        let mut headers = Vec::new();
        for entry in draft.table.map("headers") {
            let Ok(name) = entry.key.parse::<HeaderName>() else {
                continue; // Reading let legal names pass alone.
            };
            let Value::List(items) = &entry.item.value else {
                continue;
            };
            let templated = payload::is_templated(entry);
            for item in items {
                if templated && item.as_text().is_some() {
                    continue; // One of the payload's.
                }
                match self.value_of(item) {
                    Ok(value) => headers.push((name.clone(), value)),
                    Err(message) => {
                        let path = format!("{}headers.{}", draft.path, entry.key);
                        // A reference may be shown, its strings are masked all the same.
                        let reveal = match &item.value {
                            Value::Secret(SecretRef::Plain(_)) | Value::Text(_) => Reveal::Nothing,
                            _ => Reveal::Value,
                        };
                        self.report.error(&item.place, &reveal, &path, message);
                    }
                }
            }
        }
        self.bounded(draft, &headers);
        headers
    }

    fn value_of(&mut self, item: &Item) -> Result<HeaderValue, String> {
        match &item.value {
            Value::Text(text) => header_value(text.as_bytes()),
            Value::Secret(reference) => self.secret_value(reference),
            _ => Err("is not a header's value".to_owned()),
        }
    }

    fn secret_value(&mut self, reference: &SecretRef) -> Result<HeaderValue, String> {
        let secret = self.secret(reference)?;
        let mut value = header_value(secret.expose())?;
        value.set_sensitive(true);
        Ok(value)
    }

    fn bounded(&mut self, draft: &Draft, headers: &[(HeaderName, HeaderValue)]) {
        let bytes: usize =
            headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        let message = if headers.len() > HEADERS_MAX {
            format!("has {} headers, at most {HEADERS_MAX} are allowed", headers.len())
        } else if bytes > HEADER_BYTES_MAX {
            format!("names and values take {bytes} bytes, at most {HEADER_BYTES_MAX} are allowed")
        } else {
            return;
        };
        let path = format!("{}headers", draft.path);
        self.error_at(draft.table.get("headers"), &draft.place, &path, message);
    }
}
