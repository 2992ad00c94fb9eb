//! Layers, rules and warnings, and what comes out of them.

use super::*;
use crate::connection::State;
use crate::connection::retry::{Jitter, Strategy};

const ONE: &str = "[[connection]]\nname = \"one\"\nurl = \"http://127.0.0.1:9/\"\n";

fn one(body: &str) -> String {
    format!("{ONE}{body}")
}

/// The only connection of one file with this body.
fn connection(root: &str, body: &str) -> Arc<Connection> {
    let loaded = loaded(&[(FILE_NAME, root), ("connections.d/a.toml", &one(body))], &[]);
    Arc::clone(&loaded.config.connections[0])
}

/// The lines of the errors of one connection file.
fn errors(root: &str, body: &str) -> Vec<String> {
    let directory = directory(&[(FILE_NAME, root), ("connections.d/a.toml", &one(body))]);
    let refused = load_in(directory.path(), &[]).unwrap_err();
    refused.errors.iter().map(ToString::to_string).collect()
}

#[test]
fn everything_has_a_default() {
    let directory = directory(&[]);
    let loaded = load_in(directory.path(), &[]).unwrap();
    let expected = ["connections.d: has no connection files (*.toml), so nothing is delivered"];
    assert_eq!(warnings(&loaded), expected);
    let daemon = &loaded.config.daemon;
    assert_eq!(daemon.ingress.http, ["127.0.0.1:8377".parse().unwrap()]);
    assert_eq!(daemon.ingress.unix, None);
    assert_eq!(daemon.admin.http, Some("127.0.0.1:8378".parse().unwrap()));
    assert_eq!(daemon.admin.unix, Some("/run/posthaste/admin.sock".into()));
    assert_eq!(daemon.store.path, Path::new("/var/lib/posthaste"));
    assert_eq!((daemon.limits.memory, daemon.limits.max_body), (24 << 20, 8 << 20));
    assert_eq!(daemon.drain_timeout, Duration::from_secs(20));
    assert_eq!((daemon.runtime.ingress_threads, daemon.runtime.egress_threads), (1, 1));
    assert_eq!(loaded.watched.connections, directory.path().join("connections.d"));
}

#[test]
fn a_file_that_is_named_must_exist() {
    let directory = directory(&[]);
    let mut options = options(&[]);
    options.root_required = true;
    let refused = load(&directory.path().join(FILE_NAME), &options).unwrap_err();
    let lines: Vec<_> = refused.errors.iter().map(ToString::to_string).collect();
    assert_eq!(lines, ["posthaste.toml: cannot read the file: no such file"]);
}

#[test]
fn layers_lie_on_each_other_and_aliases_with_them() {
    let root = "[defaults]\ntimeout = \"9s\"\nenabled = false\n[defaults.retry]\ncount = 3\ninterval = \"7s\"\n";
    let body = "connect_timeout = \"3s\"\nstate = \"active\"\nretry = { interval = \"8s\" }\n";
    let connection = connection(root, body);
    assert_eq!(connection.connect_timeout, Duration::from_secs(3));
    assert_eq!(connection.request_timeout, Duration::from_secs(9));
    assert_eq!(connection.state, State::Active);
    assert_eq!(connection.retry.count, 3);
    let expected = Strategy::Exponential {
        interval: Duration::from_secs(8),
        factor: 2.0,
        max_interval: Duration::from_secs(4 * 3600),
    };
    assert_eq!(connection.retry.strategy, expected);
    assert_eq!(connection.retry.jitter, Jitter::Full);
}

#[test]
fn an_error_in_a_layer_points_at_that_layer() {
    let found = errors("[defaults]\nmax_in_flight = 30\n", "pool = { max_per_host = 9 }\n");
    let expected = "posthaste.toml:2:17: connection \"one\" max_in_flight: is 30, more than the pool allows (9)";
    assert!(found.len() == 1 && found[0].starts_with(expected), "{found:?}");
}

#[test]
fn the_environment_selects_an_overlay_whatever_its_case() {
    let body = one("[connection.env.Production]\ntimeout = \"9s\"\n");
    let files = [("connections.d/a.toml", body.as_str())];
    for (environment, seconds, warned) in [("PRODUCTION", 9, 0), ("prodution", 10, 1)] {
        let loaded = loaded(&files, &[("POSTHASTE_ENV", environment)]);
        let connection = &loaded.config.connections[0];
        assert_eq!(connection.request_timeout, Duration::from_secs(seconds));
        assert_eq!(loaded.config.daemon.environment.as_deref(), Some(environment));
        assert_eq!(loaded.warnings.len(), warned, "{:?}", loaded.warnings);
    }
}

#[test]
fn pool_limits_adapt_where_only_one_is_written() {
    let pools = [
        ("pool = { max_total = 10 }", 10, 10),
        ("pool = { max_per_host = 100 }", 100, 100),
        ("", 24, 48),
    ];
    for (body, per_host, total) in pools {
        let connection = connection("", body);
        assert_eq!((connection.pool.max_per_host, connection.pool.max_total), (per_host, total));
        assert_eq!(connection.max_in_flight, connection.effective_pool());
    }
}

#[test]
fn the_default_body_gives_way_to_the_ceiling() {
    let root = "[limits]\nmax_body = \"512KiB\"\n";
    assert_eq!(connection(root, "").max_body, 512 << 10);
    assert_eq!(errors(root, "max_body = \"513KiB\"\n").len(), 1);
}

#[test]
fn an_address_is_listened_on_once() {
    let root = "[ingress]\nhttp = [\"127.0.0.1:7\", \"127.0.0.1:0\", \"127.0.0.1:0\", \"127.0.0.1:7\"]\n[admin]\nhttp = \"127.0.0.1:7\"\n";
    let found = errors(root, "");
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("posthaste.toml:2:54: ingress.http: 127.0.0.1:7 is taken"));
    assert!(found[1].starts_with("posthaste.toml:4:8: admin.http: 127.0.0.1:7 is taken"));
}

#[test]
fn a_secret_that_is_too_long_is_not_shown() {
    let secret = "hunter2".repeat(10_000);
    let body = one(&format!("headers = {{ X-Token = \"{secret}\" }}\n"));
    let directory = directory(&[("connections.d/a.toml", &body)]);
    let text = load_in(directory.path(), &[]).unwrap_err().render();
    assert!(text.contains("longer than 64KiB") && !text.contains("hunter2"), "{text}");
}

#[test]
fn headers_are_counted() {
    let many: String = (0..65).map(|n| format!("X-{n} = \"v\"\n")).collect();
    let found = errors("", &format!("[connection.headers]\n{many}"));
    assert!(found[0].contains("has 65 headers, at most 64"), "{found:?}");
    let found = errors("", &format!("headers = {{ X = \"{}\" }}\n", "v".repeat(16 << 10)));
    assert!(found[0].contains("take 16385 bytes, at most 16384"), "{found:?}");
}

#[test]
fn what_is_legal_and_probably_not_meant_is_warned_about() {
    let root = "[ingress]\nhttp = [\"0.0.0.0:8377\"]\n[admin]\nhttp = \"[::]:8378\"\n";
    let body = one(
        "headers = { Authorization = \"Bearer hunter2\" }\nretry = { strategy = \"linear\", factor = 3 }\n",
    );
    let loaded = loaded(&[(FILE_NAME, root), ("connections.d/a.toml", &body)], &[]);
    let text = warnings(&loaded).join("\n");
    for part in [
        "posthaste.toml:2:9: ingress.http: 0.0.0.0:8377 can be reached",
        "posthaste.toml:4:8: admin.http: [::]:8378 shows metrics",
        "a.toml:4:29: connection \"one\" headers.Authorization: looks like a secret",
        "a.toml:5:41: connection \"one\" retry.factor: has no effect",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(loaded.warnings.len(), 4);
    let value = &loaded.config.connections[0].headers[0].1;
    assert!(value.is_sensitive());
    let shown: String = loaded.warnings.iter().map(|warning| warning.render("warning")).collect();
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn secrets_are_read_watched_and_compared() {
    let body = one("headers = { X-A = { file = \"token\" }, X-B = { credential = \"c\" } }\n");
    let directory = directory(&[
        ("connections.d/a.toml", &body),
        ("connections.d/token", "first\n"),
        ("creds/c", "credential"),
    ]);
    let creds = directory.path().join("creds").display().to_string();
    let load = || load_in(directory.path(), &[("CREDENTIALS_DIRECTORY", &creds)]).unwrap();
    let first = load();
    assert_eq!(first.config.connections[0].headers[0].1, "first");
    let files: Vec<_> = first.watched.files.iter().collect();
    assert_eq!(
        files,
        [&directory.path().join("connections.d/token"), &directory.path().join("creds/c")]
    );
    assert_eq!(first.watched.content_hash(), first.content_hash);
    fs::write(directory.path().join("connections.d/token"), "second\n").unwrap();
    let second = load();
    assert_ne!(second.content_hash, first.content_hash);
    assert_eq!(diff::diff(&first.config, &second.config).changed.len(), 1);
}

#[test]
fn a_refused_configuration_names_what_to_watch() {
    let directory = directory(&[(
        "connections.d/a.toml",
        &one("headers = { X = { file = \"/none/token\" } }\n"),
    )]);
    let refused = load_in(directory.path(), &[]).unwrap_err();
    assert!(refused.watched.files.contains(Path::new("/none/token")));
    assert_eq!(refused.watched.content_hash(), refused.content_hash);
}

#[test]
fn secrets_can_be_skipped() {
    let body = one("headers = { X-A = { env = \"UNSET\" } }\n");
    let directory = directory(&[("connections.d/a.toml", &body)]);
    let mut options = options(&[]);
    options.secrets = Secrets::Skip;
    assert!(load(&directory.path().join(FILE_NAME), &options).is_ok());
}

#[test]
fn a_certificate_file_is_checked_and_kept() {
    let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let pem = key.cert.pem();
    let body = one("tls = { ca_file = \"../ca.pem\" }\n");
    let files = [("ca.pem", pem.as_str()), ("connections.d/a.toml", &body)];
    let found = loaded(&files, &[]);
    let ca = found.config.connections[0].tls.ca.as_ref().unwrap();
    assert_eq!(ca.pem, pem.as_bytes());
    let directory = directory(&[("ca.pem", "nothing"), ("connections.d/a.toml", &body)]);
    let refused = load_in(directory.path(), &[]).unwrap_err();
    assert!(refused.errors[0].message.contains("holds no certificate"), "{refused:?}");
}

#[test]
fn differences_are_of_effective_values() {
    let files = |timeout: &str, names: &str| {
        let two: String = names
            .chars()
            .map(|name| {
                format!("[[connection]]\nname = \"{name}\"\nurl = \"http://x/\"\n{timeout}")
            })
            .collect();
        loaded(&[("connections.d/a.toml", &two)], &[]).config
    };
    let old = files("", "abc");
    let same = diff::diff(&old, &files("connect_timeout = \"2s\"\n", "cba"));
    assert!(same.is_empty(), "{same:?}");
    let diff = diff::diff(&old, &files("", "bcd"));
    let names =
        |list: &[Arc<Connection>]| list.iter().map(|one| one.name.clone()).collect::<String>();
    assert_eq!((names(&diff.added), names(&diff.removed)), ("d".into(), "a".into()));
    assert!(diff.changed.is_empty() && diff.needs_restart.is_empty());
}

#[test]
fn what_is_bound_at_start_needs_a_restart() {
    let config = |root: &str| loaded(&[(FILE_NAME, root)], &[]).config;
    let old = config("");
    let new = config(
        "drain_timeout = \"1s\"\n[ingress]\nhttp = [\"127.0.0.1:1\"]\n[store]\npath = \"/other\"\nmax_bytes = \"1GiB\"\nkeep_delivered = \"1h\"\nkeep_dead_bytes = \"2GiB\"\nkeep_attempts = \"1h\"\n[limits]\nmemory = \"32MiB\"\n[log]\nlevel = \"debug\"\n[runtime]\negress_threads = 4\n",
    );
    let found = diff::diff(&old, &new);
    assert_eq!(
        found.needs_restart,
        ["ingress.http", "store.path", "limits.memory", "runtime.egress_threads"]
    );
    assert_eq!(
        found.daemon_changed,
        [
            "drain_timeout",
            "store.max_bytes",
            "store.keep_delivered",
            "store.keep_dead",
            "store.keep_attempts",
            "log.level"
        ]
    );
    assert!(diff::diff(&new, &new).is_empty());
}

#[test]
fn the_summary_adds_up() {
    let loaded = loaded(&[("connections.d/a.toml", ONE)], &[]);
    let summary = summary::check_report(&loaded);
    let memory = summary.memory;
    assert_eq!(memory.ingress_payloads + memory.egress_payloads + memory.hot_cache, 24 << 20);
    assert_eq!(memory.windows, crate::store::WINDOW_EVENTS as u64 * 80);
    use crate::store::history::{EXCERPT_BYTES, QUEUE_ATTEMPTS, RING_BYTES, SUMMARIES};
    let history = RING_BYTES + QUEUE_ATTEMPTS * (EXCERPT_BYTES + 512) + SUMMARIES * 512;
    assert_eq!(memory.history, history as u64);
    let buffers = 4096 * 16384 + 24 * 32768;
    let others = (24 << 20) + 250_000 * 112 + 512 * 80 + buffers;
    assert_eq!(memory.total(), others + history as u64);
    let text = summary.to_string();
    for line in [
        "connections: 1 (1 active, 0 paused, 0 disabled)\n",
        "sources: default\n",
        "listens for events http 127.0.0.1:8377\n",
        "store: /var/lib/posthaste, at most 10GiB\n",
        "keeps no delivered events on disk\n",
        "keeps dead letters for 14d, at most 1GiB\n",
        "keeps failed attempts for 14d, at most 256MiB\n",
        "memory: at most 120.6 MiB besides the program itself:\n",
        "    12.0 MiB  events being received\n",
    ] {
        assert!(text.contains(line), "{text}");
    }
    assert!(serde_json::to_string(&summary).unwrap().contains("\"hot_cache\":3145728"));
}

#[test]
fn odd_files_do_not_stop_a_load() {
    let text = "\u{feff}# with a byte order mark\r\n".to_owned() + &ONE.replace('\n', "\r\n");
    let files = [
        ("connections.d/a.toml", text.as_str()),
        ("connections.d/empty.toml", ""),
        ("connections.d/.#b.toml", "= ="),
        ("connections.d/c.toml~", "= ="),
        ("connections.d/d.toml/e.toml", "= ="),
    ];
    assert_eq!(loaded(&files, &[]).config.connections.len(), 1);
}

mod no_input_panics {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn in_any_file(text in "[\\[\\]a-z={}\",.# \n0-9é']{0,200}", cut in 0usize..2000) {
            let sample = include_str!("../../../tests/config/valid/full/connections.d/crm.toml");
            let cut: String = sample.chars().take(cut).collect();
            for content in [text.clone(), format!("{ONE}{text}"), format!("{cut}{text}")] {
                let directory = directory(&[(FILE_NAME, &text), ("connections.d/a.toml", &content)]);
                if let Err(refused) = load_in(directory.path(), &[]) {
                    prop_assert!(!refused.errors.is_empty());
                    refused.render();
                }
            }
        }
    }

    const SECRETS: &str = r##"# Token = "hunter2hunter2hunter2"
[[connection]]
name = "one"
url = "https://x:hunter2hunter2hunter2@example.com/"
timeout = 5
headers = { X-Token = "hunter2hunter2hunter2", X-B = ["a", "hunter2hunter2hunter2"] }

[[connection]]
name = "two"
max_body = 'x'
[connection.headers]
Authorization = 'Bearer hunter2hunter2hunter2'
Cookie = """
hunter2hunter2hunter2
hunter2hunter2hunter2"""
X-C = { file = 7, env = "hunter2hunter2hunter2" }
"##;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        /// Whatever is mistyped, no line that is shown holds a secret.
        #[test]
        fn no_secret_is_shown(
            edits in prop::collection::vec((0..SECRETS.len(), prop::sample::select(b"\"'[]{}=#\n\\, x.".to_vec()), any::<bool>()), 0..4),
        ) {
            let mut text = SECRETS.as_bytes().to_vec();
            for (at, byte, insert) in edits {
                if insert { text.insert(at, byte) } else { text[at] = byte }
            }
            let text = String::from_utf8(text).unwrap();
            let directory = directory(&[("connections.d/a.toml", &text)]);
            let (shown, said) = match load_in(directory.path(), &[]) {
                Ok(loaded) => (String::new(), loaded.warnings),
                Err(refused) => (refused.render(), refused.warnings),
            };
            let said: String = said.iter().map(|warning| warning.render("warning")).collect();
            prop_assert!(!shown.contains("hunter2"), "{}", shown);
            prop_assert!(!said.contains("hunter2"), "{}", said);
        }
    }
}
