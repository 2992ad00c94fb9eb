//! The document that an edit sends: from arguments, from a file, from stdin.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;
use serde_json::{Map, Value as Json};

use super::super::Failure;

/// Keys of a connection.
#[derive(Debug, Args)]
pub(super) struct Keys {
    /// Where it delivers to
    #[arg(long)]
    url: Option<String>,
    /// A key and its value, as in retry.count=7 or labels.team=sales; a value that is no JSON is a string
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
    settings: Vec<(String, Json)>,
    /// The keys as JSON or TOML, from a file or from stdin (-)
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

impl Keys {
    /// The document: what the file says, then what the arguments say.
    pub(super) fn document(self) -> Result<Map<String, Json>, Failure> {
        let mut document = match &self.file {
            Some(path) => read_document(path)?,
            None => Map::new(),
        };
        if let Some(url) = self.url {
            document.insert("url".to_owned(), url.into());
        }
        for (key, value) in self.settings {
            put(&mut document, &key, value)?;
        }
        Ok(document)
    }
}

/// The longest document; the daemon takes no longer one.
const DOCUMENT_BYTES_MAX: u64 = 1 << 20;

pub(in crate::cli) fn read_document(path: &Path) -> Result<Map<String, Json>, Failure> {
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().lock().take(DOCUMENT_BYTES_MAX).read_to_string(&mut text)
    } else {
        let file = std::fs::File::open(path);
        file.and_then(|file| file.take(DOCUMENT_BYTES_MAX).read_to_string(&mut text))
    };
    read.with_context(|| format!("cannot read {}", path.display()))?;
    Ok(parse_document(&text).with_context(|| format!("{} cannot be used", path.display()))?)
}

/// A JSON object, or TOML with one `[[connection]]` or the keys of one.
fn parse_document(text: &str) -> anyhow::Result<Map<String, Json>> {
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).context("it is no JSON object");
    }
    let table: toml::Table = text.parse().map_err(|_| anyhow!("it is neither JSON nor TOML"))?;
    let document = serde_json::to_value(&table).context("it has no form in JSON")?;
    let document = match document {
        Json::Object(mut document) => match document.remove("connection") {
            Some(Json::Array(mut connections)) if connections.len() == 1 => connections.remove(0),
            Some(_) => return Err(anyhow!("it must have exactly one [[connection]]")),
            None => Json::Object(document),
        },
        other => other,
    };
    match document {
        Json::Object(document) => Ok(document),
        _ => Err(anyhow!("it is no table")),
    }
}

/// `retry.count=7`
fn setting(text: &str) -> Result<(String, Json), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    if key.is_empty() {
        return Err("the key is empty".to_owned());
    }
    let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
    Ok((key.to_owned(), value))
}

/// Puts a value at a path of keys with dots between them.
pub(super) fn put(
    document: &mut Map<String, Json>,
    path: &str,
    value: Json,
) -> Result<(), Failure> {
    let Some((first, rest)) = path.split_once('.') else {
        document.insert(path.to_owned(), value);
        return Ok(());
    };
    let inner = document.entry(first).or_insert_with(|| Map::new().into());
    match inner {
        Json::Object(inner) => put(inner, rest, value),
        _ => Err(anyhow!("{first} is set to a value, so it has no {rest}").into()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Json) -> Map<String, Json> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn settings_become_a_document() {
        let mut document = Map::new();
        for text in [
            "retry.count=7",
            "labels.team=sales",
            "url=http://x/?a=b",
            "on=true",
            "sources=[\"a\"]",
            "retry.interval=5s",
        ] {
            let (key, value) = setting(text).unwrap();
            put(&mut document, &key, value).unwrap();
        }
        let expected = json!({
            "retry": { "count": 7, "interval": "5s" }, "labels": { "team": "sales" }, "url": "http://x/?a=b",
            "on": true, "sources": ["a"],
        });
        assert_eq!(Json::Object(document.clone()), expected);
        assert!(setting("retry").is_err() && setting("=7").is_err());
        assert!(put(&mut document, "url.host", Json::Null).is_err());
    }

    #[test]
    fn documents_are_json_or_toml() {
        let expected = object(json!({ "name": "a", "url": "http://x/", "retry": { "count": 7 } }));
        let json = Json::Object(expected.clone()).to_string();
        let toml = "name = \"a\"\nurl = \"http://x/\"\nretry = { count = 7 }\n";
        let whole = "# c\n[[connection]]\nname = \"a\"\nurl = \"http://x/\"\n[connection.retry]\ncount = 7\n";
        for text in [json.as_str(), toml, whole] {
            assert_eq!(parse_document(text).unwrap(), expected, "{text}");
        }
        for wrong in
            ["{", "17", "a = ", "[[connection]]\nname = \"a\"\n[[connection]]\nname = \"b\"\n"]
        {
            assert!(parse_document(wrong).is_err(), "{wrong}");
        }
    }
}
