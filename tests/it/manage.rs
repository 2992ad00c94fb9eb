//! Connections managed through the API and the command line: the files are the truth, and nothing in them is lost.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::{Value as Json, json};

use crate::harness::{Answer, Behaviour, Daemon, Producer, Receiver, SOON, Site, eventually, must};

/// One request on the admin socket.
fn ask(site: &Site, method: &str, path: &str, headers: &[(&str, &str)], body: &Json) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head +=
        &format!("content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    Producer::unix(&site.admin_unix()).exchange(head.as_bytes()).expect("an answer")
}

#[track_caller]
fn expect(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, answer.code()), (status, code), "{}", answer.json);
}

fn text(site: &Site, file: &str) -> String {
    fs::read_to_string(site.connections().join(file)).expect("a connection file")
}

/// A connection's whole life over the API: each step is in its file, in force, and in the audit log.
#[test]
fn a_connection_lives_and_dies_through_the_api() {
    let receiver = Receiver::start(Behaviour::ok());
    let site = Site::new();
    let mut daemon = Daemon::start(&site);
    let created =
        json!({ "name": "crm", "url": receiver.url("crm"), "labels": { "team": "sales" } });
    let answer = ask(&site, "POST", "/v1/connections", &[], &created);
    expect(&answer, 201, "");
    assert_eq!(answer.message.header("location"), Some("/v1/connections/crm"));
    let etag = answer.message.header("etag").expect("an etag").to_owned();
    assert!(text(&site, "crm.toml").starts_with("[[connection]]\nname = \"crm\"\n"));
    site.producer().post("/v1/events", &[], b"one").unwrap();
    eventually("the first event arrives", SOON, || receiver.delivered("crm") == 1);

    expect(&ask(&site, "POST", "/v1/connections", &[], &created), 409, "name_taken");
    let answer =
        ask(&site, "POST", "/v1/connections/crm/pause", &[("if-match", &etag)], &Json::Null);
    expect(&answer, 200, "");
    assert_eq!(answer.json["meta"]["state"], "paused");
    assert!(answer.json["meta"]["paused_at"].is_string(), "{}", answer.json);
    let stale = ask(&site, "DELETE", "/v1/connections/crm", &[("if-match", &etag)], &Json::Null);
    expect(&stale, 412, "stale");
    site.producer().post("/v1/events", &[], b"two").unwrap();
    let status = ask(&site, "GET", "/v1/connections/crm/status", &[], &Json::Null);
    assert_eq!(status.json["queue"]["held"], 1, "{}", status.json);
    let listed = daemon.cli_json(&["connections", "list", "--state", "paused", "--json"]);
    assert_eq!(listed["count"], 1, "{listed}");
    // What is paused in its file can be paused again, until a restart it cannot.
    expect(&ask(&site, "POST", "/v1/connections/crm/pause", &[], &Json::Null), 200, "");
    let held = ask(&site, "POST", "/v1/connections/crm/pause?until_restart=true", &[], &Json::Null);
    expect(&held, 409, "held_by_file");
    expect(&ask(&site, "PUT", "/v1/connections/crm/unpause", &[], &Json::Null), 200, "");
    eventually("the second event arrives", SOON, || receiver.delivered("crm") == 2);

    // What was read can be sent back; nothing changes then.
    let read = ask(&site, "GET", "/v1/connections/crm", &[], &Json::Null);
    let again = ask(&site, "PUT", "/v1/connections/crm", &[], &read.json);
    assert_eq!((again.status, &again.json), (200, &read.json));
    let other = json!({ "name": "erp", "url": "http://127.0.0.1:9/" });
    expect(&ask(&site, "PUT", "/v1/connections/crm", &[], &other), 422, "name_mismatch");
    let patch = json!({ "retry": { "count": 3 }, "labels": null });
    let patched = ask(&site, "PATCH", "/v1/connections/crm", &[], &patch);
    assert_eq!(patched.json["retry"], json!({ "count": 3 }));

    expect(&ask(&site, "DELETE", "/v1/connections/crm", &[], &Json::Null), 204, "");
    assert!(!site.connections().join("crm.toml").exists());
    for restart in [false, true] {
        if restart {
            daemon.stop();
            daemon = Daemon::start(&site);
        }
        expect(&ask(&site, "GET", "/v1/connections/crm", &[], &Json::Null), 410, "deleted");
        expect(
            &ask(&site, "GET", "/v1/connections/erp", &[], &Json::Null),
            404,
            "unknown_connection",
        );
    }
    let audit = daemon.cli_json(&["audit", "--json"]);
    let records = audit["models"].as_array().unwrap();
    let actions: Vec<_> = records.iter().rev().map(|one| one["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["create", "pause", "resume", "patch", "delete"], "{audit}");
    assert!(records.iter().all(|one| one["by"].as_str().unwrap().starts_with("unix uid")));
    assert_eq!(records[4]["old"], Json::Null);
    assert_eq!(records[4]["new"], etag.trim_matches('"'), "{audit}");
    assert_eq!(records[3]["old"], records[4]["new"], "one's end is the other's beginning");
    assert_eq!(records[0]["new"], Json::Null);
    daemon.stop();
}

/// An edit that is not legal changes neither file nor daemon, and says all that is wrong; so does one where another file is
/// broken, or the file is a link, or may not be written.
#[test]
fn what_is_refused_leaves_everything_as_it_was() {
    let receiver = Receiver::start(Behaviour::ok());
    let site = Site::new();
    let commented = format!(
        "# mine\n[[connection]]\nname = \"crm\"\nurl = \"{}\" # here\n",
        receiver.url("crm")
    );
    site.replace("crm.toml", &commented);
    let mut daemon = Daemon::start(&site);
    let generation = |daemon: &Daemon<'_>| {
        daemon.cli_json(&["status", "--json"])["daemon"]["generation"].clone()
    };
    let before = generation(&daemon);
    let wrong = json!({ "timeout": "5", "retry": { "cuont": 3, "interval": "1000d" } });
    let answer = ask(&site, "PATCH", "/v1/connections/crm", &[], &wrong);
    expect(&answer, 422, "config_invalid");
    let errors: Vec<_> = answer.json["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["message"].to_string())
        .collect();
    assert_eq!(errors.len(), 3, "{errors:?}");
    assert!(errors.iter().all(|error| error.contains("crm.toml:")), "{errors:?}");
    let answer =
        ask(&site, "POST", "/v1/connections", &[], &json!({ "name": "new", "url": "ftp://x/" }));
    expect(&answer, 422, "config_invalid");
    assert!(!site.connections().join("new.toml").exists());
    let failed = daemon.cli(&["connections", "patch", "crm", "--set", "timeout=5"]);
    assert_eq!(failed.status.code(), Some(78), "{failed:?}");
    assert!(String::from_utf8_lossy(&failed.stderr).contains("timeout"), "{failed:?}");
    // A link belongs to somebody else.
    let link = site.connections().join("zlink.toml");
    let elsewhere = site.path().join("elsewhere.toml");
    fs::write(&elsewhere, "[[connection]]\nname = \"far\"\nurl = \"http://127.0.0.1:9/\"\n")
        .unwrap();
    std::os::unix::fs::symlink(&elsewhere, &link).unwrap();
    expect(&ask(&site, "POST", "/v1/connections/far/pause", &[], &Json::Null), 409, "symlinked");
    fs::remove_file(&link).unwrap();
    // What is broken elsewhere stops it too: all or nothing.
    site.replace("b.toml", "[[connection]]\nname = \"b\"\n");
    let answer = ask(&site, "POST", "/v1/connections/crm/pause", &[], &Json::Null);
    expect(&answer, 422, "config_invalid");
    fs::remove_file(site.connections().join("b.toml")).unwrap();
    assert_eq!(text(&site, "crm.toml"), commented);
    site.producer().post("/v1/events", &[], b"one").unwrap();
    eventually("it delivers as before", SOON, || receiver.delivered("crm") == 1);
    let audit = daemon.cli_json(&["audit", "--json"]).to_string();
    assert!(!audit.contains("\"patch\""), "what was refused is not in the log: {audit}");
    assert!(generation(&daemon).as_u64() >= before.as_u64());
    daemon.stop();
}

/// A directory that may not be written, as every Kubernetes ConfigMap.
#[test]
fn a_read_only_directory_is_refused() {
    let site = Site::new();
    site.connection("crm", "http://127.0.0.1:9/", "");
    let at = site.connections();
    let mount = |arguments: &[&str]| {
        Command::new("mount").args(arguments).arg(&at).status().is_ok_and(|status| status.success())
    };
    let at_text = at.display().to_string();
    if !mount(&["--bind", &at_text]) || !mount(&["-o", "remount,bind,ro"]) {
        must("a directory cannot be mounted read-only");
        return;
    }
    struct Unmount<'a>(&'a Path);
    impl Drop for Unmount<'_> {
        fn drop(&mut self) {
            drop(Command::new("umount").arg("-l").arg(self.0).status());
        }
    }
    let _unmount = Unmount(&at);
    let mut daemon = Daemon::start(&site);
    expect(&ask(&site, "POST", "/v1/connections/crm/pause", &[], &Json::Null), 403, "read_only");
    expect(&ask(&site, "DELETE", "/v1/connections/crm", &[], &Json::Null), 403, "read_only");
    let new = json!({ "name": "new", "url": "http://127.0.0.1:9/" });
    expect(&ask(&site, "POST", "/v1/connections", &[], &new), 403, "read_only");
    let shown = ask(&site, "GET", "/v1/connections/crm", &[], &Json::Null);
    assert_eq!(shown.json["meta"]["state"], "active");
    daemon.stop();
}

/// With `reload = "manual"` an edit waits in its file; `plan` says what it will do, and the reload does it.
#[test]
fn an_edit_waits_for_a_reload_where_reloads_are_manual() {
    let site = Site::with("reload = \"manual\"", "");
    site.connection("crm", "http://127.0.0.1:9/crm", "state = \"paused\"");
    let mut daemon = Daemon::start(&site);
    site.producer().post("/v1/events", &[], b"one").unwrap();
    let patch = json!({ "url": "http://127.0.0.1:9/new" });
    let answer = ask(&site, "PATCH", "/v1/connections/crm", &[], &patch);
    assert_eq!(answer.json["url"], "http://127.0.0.1:9/new");
    assert_eq!(answer.json["meta"]["host"], "127.0.0.1");
    let new = json!({ "name": "new", "url": "http://127.0.0.1:9/" });
    let answer = ask(&site, "POST", "/v1/connections", &[], &new);
    assert_eq!((answer.status, &answer.json["meta"]["in_force"]), (201, &json!(false)));
    let plan = daemon.cli_json(&["plan", "--json"]);
    let planned: Vec<_> = plan["connections"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            (
                one["name"].as_str().unwrap(),
                one["change"].as_str().unwrap(),
                one["waiting"].as_u64().unwrap(),
                one["settings"].clone(),
            )
        })
        .collect();
    assert_eq!(planned, [("crm", "changed", 1, json!(["url"])), ("new", "added", 0, json!([]))]);
    let reloaded = daemon.cli_json(&["reload", "--json"]);
    assert_eq!((&reloaded["added"], &reloaded["changed"]), (&json!(["new"]), &json!(["crm"])));
    let plan = daemon.cli_json(&["plan", "--json"]);
    assert_eq!(plan["connections"], json!([]));
    // Who asks for it gets it at once.
    let answer = ask(&site, "POST", "/v1/connections/new/disable?reload=true", &[], &Json::Null);
    assert_eq!(answer.json["meta"]["state"], "disabled");
    daemon.stop();
}

/// 100 edits through the API at once, while other files are edited by hand: every edit is there, every comment too.
#[test]
fn concurrent_edits_lose_nothing() {
    const THREADS: usize = 10;
    const EDITS: usize = 10;
    let site = Site::new();
    // One file that all edit, one file each that only its own thread edits by hand.
    let shared: String = (0..THREADS)
        .map(|n| format!("# about s{n}\n[[connection]]\nname = \"s{n}\" # never rename s{n}\nurl = \"http://127.0.0.1:9/\"\n\n"))
        .collect();
    site.replace("shared.toml", &shared);
    let mut daemon = Daemon::start(&site);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let by_hand = scope.spawn(|| {
            let mut written = 0;
            while !done.load(Ordering::Relaxed) {
                let text = format!("# hand {written}\n[[connection]]\nname = \"hand\"\nurl = \"http://127.0.0.1:9/{written}\"\n");
                site.replace("hand.toml", &text);
                written += 1;
            }
            written
        });
        let threads: Vec<_> = (0..THREADS)
            .map(|n| {
                let site = &site;
                scope.spawn(move || {
                    for edit in 0..EDITS {
                        let patch = json!({ "labels": { format!("l{edit}"): "x" } });
                        let answer =
                            ask(site, "PATCH", &format!("/v1/connections/s{n}"), &[], &patch);
                        assert_eq!(answer.status, 200, "{}", answer.json);
                    }
                    let new = json!({ "name": format!("n{n}"), "url": "http://127.0.0.1:9/" });
                    assert_eq!(ask(site, "POST", "/v1/connections", &[], &new).status, 201);
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
        assert!(by_hand.join().unwrap() > 1);
    });
    let text = text(&site, "shared.toml");
    for n in 0..THREADS {
        assert!(
            text.contains(&format!(
                "# about s{n}\n[[connection]]\nname = \"s{n}\" # never rename s{n}\n"
            )),
            "{text}"
        );
        let shown = ask(&site, "GET", &format!("/v1/connections/s{n}"), &[], &Json::Null);
        let labels: BTreeMap<String, String> =
            serde_json::from_value(shown.json["labels"].clone()).unwrap();
        assert_eq!(labels.len(), EDITS, "{labels:?}");
    }
    let names: Vec<_> =
        fs::read_dir(site.connections()).unwrap().map(|one| one.unwrap().file_name()).collect();
    assert_eq!(names.len(), THREADS + 2, "nothing temporary is left: {names:?}");
    let checked = crate::harness::daemon::posthaste(&site, &["check"]);
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
    let count = daemon.cli_json(&["connections", "count", "--all", "--json"]);
    assert_eq!(count["count"], 2 * THREADS + 1);
    daemon.stop();
}

/// Over TCP the API takes a token; a reload changes who has one, and what they did is in the audit log.
#[test]
fn tokens_open_the_api_over_tcp() {
    let token = |name: &str, scope: &str| {
        format!(
            "[[admin.tokens]]\nname = \"{name}\"\nscope = \"{scope}\"\ntoken = {{ env = \"PH_{name}\" }}\n"
        )
    };
    let site = Site::with("", &token("ops", "operate"));
    site.connection("crm", "http://127.0.0.1:9/", "");
    let mut daemon = Daemon::start_with(&site, |command| {
        command.env("PH_ops", "0123456789abcdef-ops").env("PH_root", "0123456789abcdef-root");
    });
    let send = |method: &str, path: &str, token: &str| {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer 0123456789abcdef-{token}\r\ncontent-length: 0\r\n\r\n"
        );
        Producer::tcp(site.admin).exchange(request.as_bytes()).expect("an answer")
    };
    assert_eq!(Producer::tcp(site.admin).get("/v1/status").unwrap().status, 401);
    expect(&send("GET", "/v1/status", "root"), 401, "unauthorized");
    assert_eq!(send("POST", "/v1/connections/crm/pause", "ops").json["meta"]["state"], "paused");
    expect(&send("DELETE", "/v1/connections/crm", "ops"), 403, "scope");
    site.configure("", &token("root", "admin"));
    eventually("the other token is in force", SOON, || {
        send("GET", "/v1/status", "root").status == 200
    });
    expect(&send("GET", "/v1/status", "ops"), 401, "unauthorized");
    expect(&send("DELETE", "/v1/connections/crm", "root"), 204, "");
    let audit = daemon.cli_json(&["audit", "--json"]);
    let who: Vec<_> = audit["models"]
        .as_array()
        .unwrap()
        .iter()
        .rev()
        .map(|one| format!("{} {}", one["by"].as_str().unwrap(), one["action"].as_str().unwrap()))
        .collect();
    assert_eq!(who, ["token ops pause", "files reload", "token root delete"], "{audit}");
    assert!(!daemon.stderr().contains("0123456789abcdef"), "no token is logged");
    daemon.stop();
}

/// The served document is legal OpenAPI 3.1, by a validator that knows nothing of us.
#[test]
fn the_openapi_document_validates() {
    let site = Site::new();
    let mut daemon = Daemon::start(&site);
    let document = ask(&site, "GET", "/openapi.json", &[], &Json::Null).json;
    daemon.stop();
    let properties = &document["components"]["schemas"]["ConnectionInput"]["properties"];
    assert!(
        properties["url"].is_object() && properties["retry"]["properties"]["count"].is_object()
    );
    let file = site.path().join("openapi.json");
    fs::write(&file, document.to_string()).unwrap();
    let validator =
        std::env::var("POSTHASTE_OPENAPI_VALIDATOR").unwrap_or("openapi-spec-validator".to_owned());
    match Command::new(&validator).arg(&file).output() {
        Ok(output) => assert!(output.status.success(), "{output:?}"),
        Err(_) => drop(must("openapi-spec-validator is missing, see .ci/setup")),
    }
}
