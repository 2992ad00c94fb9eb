//! Builds the [`Daemon`].

use std::net::SocketAddr;

use super::*;
use crate::config::error::ConfigError;
use crate::config::layers::builtin;
use crate::config::value::{Table, Value};
use crate::config::{
    Admin, Daemon, Idempotency, Ingress, Keep, KeepLimit, Limits, Log, LogFormat, LogLevel,
    Network, ReloadMode, Runtime, Scope, Security, Store, TOKEN_BYTES_MIN, Token, UnixListener,
    fields,
};
use crate::connection::egress::EgressPolicy;
use crate::units::ByteSize;

impl Build<'_> {
    pub(super) fn daemon(&mut self, drafts: &Drafts) -> Daemon {
        let table = &drafts.daemon;
        let store = self.store(&table.table("store"));
        Daemon {
            environment: drafts.environment.clone(),
            reload: match table.word("reload") {
                "manual" => ReloadMode::Manual,
                _ => ReloadMode::Auto,
            },
            drain_timeout: table.span("drain_timeout"),
            ingress: {
                self.listen_once(&table.table("ingress"), &table.table("admin"));
                self.ingress(&table.table("ingress"))
            },
            admin: self.admin(&table.table("admin")),
            limits: self.limits(&table.table("limits"), &table.table("store"), &store),
            store,
            security: security(&table.table("security")),
            network: Network {
                resolvers: table
                    .table("network")
                    .list("resolvers")
                    .iter()
                    .filter_map(address)
                    .collect(),
            },
            log: log(&table.table("log")),
            runtime: self.runtime(&table.table("runtime")),
            sources: self.sources(table.list("source")),
            alerts: self.alerts(table.list("alert")),
        }
    }

    fn ingress(&mut self, table: &Table) -> Ingress {
        let http: Vec<SocketAddr> = table.list("http").iter().filter_map(address).collect();
        let unix = self.unix(table);
        if let Some(item) = table.written("http").filter(|_| http.is_empty() && unix.is_none()) {
            let message =
                "there is no listener left; name an address, or set ingress.unix".to_owned();
            self.report.error(&item.place, &Reveal::Value, "ingress.http", message);
        }
        let hosts = table.list("hosts").iter().filter_map(Item::as_text);
        Ingress {
            http,
            unix,
            max_connections: size(table.whole("max_connections")),
            header_timeout: table.span("header_timeout"),
            body_timeout: table.span("body_timeout"),
            idle_timeout: table.span("idle_timeout"),
            hosts: hosts.map(str::to_ascii_lowercase).collect(),
        }
    }

    /// Two listeners on one address would only fail when they are bound. Port 0 is a new one each time.
    fn listen_once(&mut self, ingress: &Table, admin: &Table) {
        let http = ingress.list("http").iter().map(|item| ("ingress.http", item));
        let all = http.chain(admin.get("http").map(|item| ("admin.http", item)));
        let mut taken = Vec::new();
        for (key, item) in all {
            let Some(address) = address(item).filter(|address| address.port() != 0) else {
                continue;
            };
            if taken.contains(&address) {
                let message =
                    format!("{address} is taken by another listener here; write another port");
                self.report.error(&item.place, &Reveal::Value, key, message);
            }
            taken.push(address);
        }
    }

    fn unix(&mut self, ingress: &Table) -> Option<UnixListener> {
        let written = ingress.get("unix")?;
        let mut table = builtin(fields::UNIX);
        table.merge(&ingress.table("unix"));
        let Some(path) = table.path("path") else {
            if !table.refused(&["path"]) {
                let message =
                    "path is missing, write one as in path = \"/run/posthaste/ingress.sock\"";
                self.report.error(
                    &written.place,
                    &Reveal::Value,
                    "ingress.unix",
                    message.to_owned(),
                );
            }
            return None;
        };
        let uid = |item: &Item| match item.value {
            Value::Integer(uid) => u32::try_from(uid).ok(),
            _ => None,
        };
        self.socket_path(path, table.get("path"), "ingress.unix.path");
        Some(UnixListener {
            path: path.to_owned(),
            mode: table.whole32("mode"),
            allow_uids: table.list("allow_uids").iter().filter_map(uid).collect(),
        })
    }

    fn admin(&mut self, table: &Table) -> Admin {
        let unix = match table.get("unix").map(|item| &item.value) {
            Some(Value::Path(path)) => Some(path.clone()),
            Some(_) => None,
            None => Some(self.options.places.admin_socket()),
        };
        if let Some(path) = &unix {
            self.socket_path(path, table.get("unix"), "admin.unix");
        }
        let http = table.get("http").and_then(address);
        if let (Some(address), Some(item)) = (http, table.written("http"))
            && !address.ip().is_loopback()
        {
            let message = format!(
                "{address} shows metrics to other machines; that is fine where only the monitoring reaches it"
            );
            self.report.warn(&item.place, &Reveal::Value, "admin.http", message);
        }
        Admin { http, unix, tokens: self.tokens(table) }
    }

    fn tokens(&mut self, admin: &Table) -> Vec<Token> {
        let mut tokens: Vec<Token> = Vec::new();
        for (index, item) in admin.list("tokens").iter().enumerate() {
            let Value::Table(written) = &item.value else { continue };
            let path = format!("admin.tokens[{index}]");
            let mut table = builtin(fields::TOKEN);
            table.merge(written);
            for key in ["name", "token"] {
                if table.get(key).is_none() && !table.refused(&[key]) {
                    let message = format!("{key} is missing");
                    self.report.error(&item.place, &Reveal::Nothing, &path, message);
                }
            }
            let (Some(name), Some(secret)) = (table.get("name"), table.get("token")) else {
                continue;
            };
            let taken = tokens.iter().any(|other| Some(other.name.as_str()) == name.as_text());
            if taken {
                let message =
                    "the name is taken by another token; the audit log could not tell them apart";
                let path = format!("{path}.name");
                self.report.error(&name.place, &Reveal::Value, &path, message.to_owned());
            }
            let token_path = format!("{path}.token");
            let Some((token, _)) = self.secret_of(secret, &token_path) else { continue };
            if token.expose().len() < TOKEN_BYTES_MIN && self.options.secrets == Secrets::Resolve {
                let message = format!(
                    "the token has less than {TOKEN_BYTES_MIN} bytes and could be guessed; make one with `openssl rand -hex 24`"
                );
                self.report.error(&secret.place, &Reveal::Nothing, &token_path, message);
            }
            let name = name.as_text().unwrap_or_default().to_owned();
            let scope = match table.word("scope") {
                "admin" => Scope::Admin,
                "operate" => Scope::Operate,
                _ => Scope::Read,
            };
            tokens.push(Token { name, scope, token });
        }
        tokens
    }

    /// The kernel's limit for the path of a Unix socket is 108 bytes with a zero at the end.
    fn socket_path(&mut self, path: &Path, item: Option<&Item>, key_path: &str) {
        const SOCKET_PATH_MAX: usize = 107;
        let length = path.as_os_str().len();
        if length > SOCKET_PATH_MAX {
            let message = format!(
                "the socket's path has {length} bytes, at most {SOCKET_PATH_MAX} are possible; write a shorter one: {}",
                path.display()
            );
            match item {
                Some(item) => self.report.error(&item.place, &Reveal::Value, key_path, message),
                None => self.report.errors.push(ConfigError::of_file(key_path.to_owned(), message)),
            }
        }
    }

    fn store(&mut self, table: &Table) -> Store {
        let mut keys = builtin(fields::IDEMPOTENCY);
        keys.merge(&table.table("idempotency"));
        let store = Store {
            path: match table.path("path") {
                Some(path) => path.to_owned(),
                None => self.options.places.store(),
            },
            max_bytes: table.whole("max_bytes"),
            segment_bytes: table.whole("segment_bytes"),
            keep: Keep {
                delivered: KeepLimit {
                    age: table.span("keep_delivered"),
                    bytes: table.whole("keep_delivered_bytes"),
                },
                dead: KeepLimit {
                    age: table.span("keep_dead"),
                    bytes: table.whole("keep_dead_bytes"),
                },
                attempts: KeepLimit {
                    age: table.span("keep_attempts"),
                    bytes: table.whole("keep_attempts_bytes"),
                },
            },
            idempotency: Idempotency {
                window: keys.span("window"),
                max_keys: usize::try_from(keys.whole("max_keys")).unwrap_or(usize::MAX),
            },
        };
        // One segment is written while a spare one keeps marks and deletes working.
        let least = store.segment_bytes.saturating_mul(2);
        let known = !table.refused(&["max_bytes", "segment_bytes"]);
        let written = table.written("max_bytes").or(table.written("segment_bytes"));
        if let Some(item) = written.filter(|_| store.max_bytes < least && known) {
            let message = format!(
                "{} is less than two segments ({} each); raise it to {} or lower store.segment_bytes",
                ByteSize(store.max_bytes),
                ByteSize(store.segment_bytes),
                ByteSize(least)
            );
            self.report.error(&item.place, &Reveal::Value, "store.max_bytes", message);
        }
        store
    }

    fn limits(&mut self, table: &Table, store_table: &Table, store: &Store) -> Limits {
        let limits = Limits { memory: table.whole("memory"), max_body: table.whole("max_body") };
        let known =
            !table.refused(&["memory", "max_body"]) && !store_table.refused(&["segment_bytes"]);
        let rules = [
            (
                "a quarter of [store] segment_bytes",
                store.segment_bytes,
                4,
                store_table.written("segment_bytes"),
            ),
            ("half of [limits] memory", limits.memory, 2, table.written("memory")),
        ];
        for (what, whole, parts, cause) in rules {
            let written = table.written("max_body").or(cause);
            let Some(item) = written.filter(|_| limits.max_body > whole / parts && known) else {
                continue;
            };
            let message = format!(
                "{} is more than {what} ({} of {}); write at most {:?} or raise that",
                ByteSize(limits.max_body),
                ByteSize(whole / parts),
                ByteSize(whole),
                ByteSize(whole / parts).to_string()
            );
            self.report.error(&item.place, &Reveal::Value, "limits.max_body", message);
        }
        limits
    }

    fn runtime(&self, table: &Table) -> Runtime {
        // Measured: one thread of each keeps up with a thousand producers; a disk that syncs faster needs more cores.
        let default = (self.options.cores / 4).clamp(1, 64);
        let threads = |key| table.integer(key).map_or(default, size);
        Runtime {
            ingress_threads: threads("ingress_threads"),
            egress_threads: threads("egress_threads"),
        }
    }
}

fn address(item: &Item) -> Option<SocketAddr> {
    match item.value {
        Value::Address(address) => Some(address),
        _ => None,
    }
}

/// The bounds of the fields lie far below.
fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn security(table: &Table) -> Security {
    Security {
        egress: match table.word("egress") {
            "public" => EgressPolicy::Public,
            _ => EgressPolicy::Open,
        },
        allow_insecure_tls: table.flag("allow_insecure_tls").unwrap_or_default(),
    }
}

fn log(table: &Table) -> Log {
    Log {
        level: match table.word("level") {
            "error" => LogLevel::Error,
            "warn" => LogLevel::Warn,
            "debug" => LogLevel::Debug,
            "trace" => LogLevel::Trace,
            _ => LogLevel::Info,
        },
        format: match table.word("format") {
            "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            _ => LogFormat::Auto,
        },
    }
}
