//! Builds the [`Source`]s, and looks at who can reach which of them.

use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::*;
use crate::config::layers::builtin;
use crate::config::value::Table;
use crate::config::{Daemon, fields};
use crate::connection::Connection;
use crate::source::auth::{Auth, Dated};
use crate::source::{
    Algorithm, Cors, Durability, Encoding, Hmac, REPLY_BYTES_MAX, Reply, Source, StandardWebhooks,
    VerifyKey,
};

impl Build<'_> {
    pub(super) fn sources(&mut self, items: &[Item]) -> Vec<Source> {
        let mut sources: Vec<Source> = Vec::with_capacity(items.len());
        for (at, item) in items.iter().enumerate() {
            let Value::Table(written) = &item.value else {
                continue;
            };
            let mut table = builtin(fields::SOURCE);
            table.merge(written);
            let Some(name) = table.text("name").map(str::to_owned) else {
                if !table.refused(&["name"]) {
                    let message = "name is missing, write one as in name = \"shop\"".to_owned();
                    let path = format!("source[{at}]");
                    self.report.error(&item.place, &Reveal::Value, &path, message);
                }
                continue;
            };
            let path = format!("source {name:?} ");
            if let Some(other) = sources.iter().find(|one| one.name.eq_ignore_ascii_case(&name)) {
                let message = format!("there is another source {:?}; keep one of them", other.name);
                self.error_at(table.get("name"), &item.place, &format!("{path}name"), message);
                continue;
            }
            let source = self.source(name, &table, &item.place, &path);
            sources.push(source);
        }
        sources
    }

    fn source(&mut self, name: String, table: &Table, place: &Place, path: &str) -> Source {
        let methods = table.list("methods").iter().filter_map(Item::as_text);
        let methods = methods.filter_map(|method| Method::from_bytes(method.as_bytes()).ok());
        let mut all: Vec<Method> = Vec::new();
        for method in methods {
            if !all.contains(&method) {
                all.push(method);
            }
        }
        let limit = (table.get("rate_limit"), table.table("rate_limit"));
        Source {
            name,
            methods: all,
            auth: self.source_auth(table, place, path),
            reply: self.reply(table, place, path),
            durability: match table.word("durability") {
                "relaxed" => Durability::Relaxed,
                _ => Durability::Disk,
            },
            rate_limit: self.rate_limit(limit.0, &limit.1, place, path),
            cors: self.cors(table.list("cors"), path),
        }
    }

    fn cors(&mut self, items: &[Item], path: &str) -> Cors {
        let mut origins = Vec::with_capacity(items.len());
        for item in items {
            let text = item.as_text().unwrap_or_default();
            match Cors::parse_origin(text) {
                _ if text == "*" && items.len() == 1 => return Cors::Any,
                Ok(origin) => origins.push(origin),
                Err(message) => {
                    self.report.error(&item.place, &Reveal::Value, &format!("{path}cors"), message);
                }
            }
        }
        if origins.is_empty() { Cors::Closed } else { Cors::Origins(origins) }
    }

    fn reply(&mut self, table: &Table, place: &Place, path: &str) -> Option<Reply> {
        table.get("response")?;
        let mut keys = builtin(fields::RESPONSE);
        keys.merge(&table.table("response"));
        let path = format!("{path}response.");
        let body = keys.text("body").unwrap_or_default().to_owned();
        let status = u16::try_from(keys.whole("status")).unwrap_or_default();
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::ACCEPTED);
        if body.len() > REPLY_BYTES_MAX {
            let message =
                format!("has {} bytes, at most {REPLY_BYTES_MAX} are allowed", body.len());
            self.error_at(keys.get("body"), place, &format!("{path}body"), message);
        }
        if !body.is_empty() && matches!(status.as_u16(), 204 | 205) {
            let message = format!("an answer with {} has no body; leave it out", status.as_u16());
            self.error_at(keys.get("body"), place, &format!("{path}body"), message);
        }
        let kind = HeaderValue::from_str(keys.word("content_type"));
        if kind.is_err() {
            let message = "cannot be sent in a header".to_owned();
            self.error_at(keys.get("content_type"), place, &format!("{path}content_type"), message);
        }
        let content_type = kind.ok().filter(|_| !body.is_empty());
        Some(Reply { status, content_type, body })
    }

    fn source_auth(&mut self, table: &Table, place: &Place, path: &str) -> Auth {
        let Some((chosen, keys)) = table.one_of("auth") else {
            return Auth::Open;
        };
        let place = table.get("auth").map_or(place, |item| &item.place);
        let path = format!("{path}auth.{chosen}.");
        match chosen {
            "bearer" => Auth::Bearer(self.dated_secrets(keys, "tokens", place, &path)),
            "basic" => Auth::Basic {
                user: self.source_text(keys, "user", place, &path),
                passwords: self.dated_secrets(keys, "passwords", place, &path),
            },
            "hmac" => Auth::Hmac(self.hmac(keys, place, &path)),
            _ => {
                let secrets = self.dated_secrets(keys, "secrets", place, &path);
                let keys_at = keys.list("secrets");
                let mut verify = Vec::with_capacity(secrets.len());
                for (secret, item) in secrets.into_iter().zip(keys_at) {
                    verify.extend(self.verify_key(secret, item, &path));
                }
                let tolerance_s = keys.span("tolerance").as_secs();
                Auth::StandardWebhooks(StandardWebhooks { keys: verify, tolerance_s })
            }
        }
    }

    fn hmac(&mut self, keys: &Table, place: &Place, path: &str) -> Hmac {
        let header = self.source_text(keys, "header", place, path);
        let name = HeaderName::from_bytes(header.as_bytes());
        if name.is_err() && !header.is_empty() {
            let message = format!("{header:?} is not the name of a header");
            self.error_at(keys.get("header"), place, &format!("{path}header"), message);
        }
        Hmac {
            header: name.unwrap_or(HeaderName::from_static("x-signature")),
            algorithm: match keys.word("algorithm") {
                "sha512" => Algorithm::Sha512,
                _ => Algorithm::Sha256,
            },
            encoding: match keys.word("encoding") {
                "base64" => Encoding::Base64,
                _ => Encoding::Hex,
            },
            prefix: keys.text("prefix").unwrap_or_default().to_owned(),
            secrets: self.dated_secrets(keys, "secrets", place, path),
        }
    }

    fn verify_key(
        &mut self,
        secret: Dated<Secret>,
        item: &Item,
        path: &str,
    ) -> Option<Dated<VerifyKey>> {
        let until_ms = secret.until_ms;
        let read = self.options.secrets == Secrets::Resolve
            || matches!(item.value, Value::DatedSecret(SecretRef::Plain(_), _));
        let value = if read { VerifyKey::parse(&secret.value) } else { Ok(VerifyKey::stand_in()) };
        match value {
            Ok(value) => Some(Dated { value, until_ms }),
            Err(message) => {
                let path = format!("{path}secrets");
                self.report.error(&item.place, &Reveal::Nothing, &path, message);
                None
            }
        }
    }

    /// A text that must be there.
    fn source_text(
        &mut self,
        keys: &Table,
        key: &'static str,
        place: &Place,
        path: &str,
    ) -> String {
        if let Some(text) = keys.text(key).filter(|text| !text.is_empty()) {
            return text.to_owned();
        }
        if !keys.refused(&[key]) {
            let message = format!("{key} is missing");
            self.error_at(keys.get(key), place, path.trim_end_matches('.'), message);
        }
        String::new()
    }

    /// A list of secrets that must be there.
    fn dated_secrets(
        &mut self,
        keys: &Table,
        key: &'static str,
        place: &Place,
        path: &str,
    ) -> Vec<Dated<Secret>> {
        if keys.get(key).is_none() && !keys.refused(&[key]) {
            let message =
                format!("{key} is missing, write a list as in {key} = [{{ env = \"X\" }}]");
            self.error_at(None, place, path.trim_end_matches('.'), message);
        }
        let path = format!("{path}{key}");
        let read = keys.list(key).iter().filter_map(|item| self.secret_of(item, &path));
        read.map(|(value, until_ms)| Dated { value, until_ms }).collect()
    }

    /// What others can reach should know who posts; a source that nobody takes from is probably a typing error.
    pub(super) fn look_at_sources(
        &mut self,
        drafts: &Drafts,
        daemon: &Daemon,
        connections: &[Arc<Connection>],
    ) {
        let items = drafts.daemon.list("source");
        for (source, item) in daemon.sources.iter().zip(items) {
            if !connections.iter().any(|one| one.sources.contains(&source.name)) {
                let message = "no connection takes from it, so posts to it are refused".to_owned();
                let path = format!("source {:?}", source.name);
                self.report.warn(&item.place, &Reveal::Value, &path, message);
            }
        }
        let open = open_sources(daemon, connections);
        if open.is_empty() {
            return;
        }
        let ingress = drafts.daemon.table("ingress");
        for (item, address) in ingress.list("http").iter().zip(&daemon.ingress.http) {
            if address.ip().is_loopback() {
                continue;
            }
            let message = format!(
                "{address} can be reached from other machines, and nobody who posts to {} is asked who it is; set [source.auth], or listen on 127.0.0.1",
                open.join(", ")
            );
            self.report.warn(&item.place, &Reveal::Value, "ingress.http", message);
        }
    }
}

/// Sources that ask nobody who posts.
fn open_sources(daemon: &Daemon, connections: &[Arc<Connection>]) -> Vec<String> {
    let mut names: Vec<&String> = connections.iter().flat_map(|one| &one.sources).collect();
    names.extend(daemon.sources.iter().map(|source| &source.name));
    names.sort();
    names.dedup();
    let is_open = |name: &&String| {
        let source = daemon.sources.iter().find(|source| source.name == **name);
        source.is_none_or(|source| source.auth == Auth::Open)
    };
    names.into_iter().filter(is_open).map(|name| format!("{name:?}")).collect()
}
