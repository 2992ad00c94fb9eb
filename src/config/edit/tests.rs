//! Edits of texts, and of files on a disk.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use serde_json::json;

use super::*;
use crate::secret::Secret;

const SAMPLE: &str = "\
# What the shop sends out.

# The CRM: ask Ada before you change it.
[[connection]]
name = \"crm\" # never rename
# Behind the VPN.
url = \"https://crm.example.com/hooks\"
timeout = \"5s\"      # they are slow
rate_limit = { limit = 20, per = \"second\" } # agreed in May

[connection.headers]
X-Relay = \"posthaste\"
Authorization = \"Bearer hunter2\" # TODO: move to a file

# Waits for three days.
[connection.retry]
strategy = \"exponential\"
max_age = \"72h\"

[connection.env.test]
url = \"http://127.0.0.1:9000/crm\"

# The warehouse.
[[connection]]
name = \"erp\"
url = \"http://erp.internal/\"
success_status = [
  \"200\", # stored
  \"204\",
]
";

fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("shop.toml"), SAMPLE).unwrap();
    directory
}

fn object(value: serde_json::Value) -> Object {
    value.as_object().unwrap().clone()
}

fn edit(directory: &Path, name: &str, change: Change) -> Result<Prepared, EditError> {
    prepare(directory, name, change, &Condition::default(), None)
}

/// The text after a patch of the sample.
fn patched(name: &str, patch: serde_json::Value) -> String {
    let directory = directory();
    let prepared = edit(directory.path(), name, Change::Patch(object(patch))).unwrap();
    prepared.after.unwrap()
}

/// The lines that a patch takes away and adds.
fn check(name: &str, patch: serde_json::Value, gone: &[&str], added: &[&str]) {
    let after = patched(name, patch.clone());
    let (before, after): (Vec<&str>, Vec<&str>) =
        (SAMPLE.lines().collect(), after.lines().collect());
    let without = |lines: &[&str], others: &[&str]| -> Vec<String> {
        let mut others = others.to_vec();
        let mut left = Vec::new();
        for line in lines {
            match others.iter().position(|other| other == line) {
                Some(at) => drop(others.remove(at)),
                None => left.push((*line).to_owned()),
            }
        }
        left
    };
    assert_eq!(without(&before, &after), gone, "gone by {patch}");
    assert_eq!(without(&after, &before), added, "added by {patch}");
}

#[test]
fn a_connection_is_shown_without_its_secrets() {
    let directory = directory();
    let found = find(directory.path(), "crm", None).unwrap().unwrap();
    let expected = json!({
        "name": "crm",
        "url": "https://crm.example.com/hooks",
        "timeout": "5s",
        "rate_limit": { "limit": 20, "per": "second" },
        "headers": { "X-Relay": "posthaste", "Authorization": { "fingerprint": "3ba5bd4e" } },
        "retry": { "strategy": "exponential", "max_age": "72h" },
        "env": { "test": { "url": "http://127.0.0.1:9000/crm" } },
    });
    let mut shown = Json::Object(found.document.clone());
    let fingerprint = shown["headers"]["Authorization"]["fingerprint"].take();
    assert_eq!(fingerprint, Secret::new("Bearer hunter2").fingerprint());
    shown["headers"]["Authorization"]["fingerprint"] = "3ba5bd4e".into();
    assert_eq!(shown, expected);
    assert_eq!(find(directory.path(), "none", None).unwrap(), None);
    let hint = directory.path().join("elsewhere.toml");
    assert_eq!(find(directory.path(), "crm", Some(&hint)).unwrap().as_ref(), Some(&found));
    let at = |name: &str, file: &str| (name.to_owned(), directory.path().join(file));
    let all =
        find_all(&[at("crm", "shop.toml"), at("erp", "elsewhere.toml"), at("x", "shop.toml")]);
    assert_eq!(all.into_iter().collect::<Vec<_>>(), [("crm".to_owned(), found)]);
}

#[test]
fn what_no_field_knows_is_hidden() {
    let text = "[[connection]]\nname = \"a\"\nurl = \"http://u:hunter2@x/\"\npasword = \"hunter2\"\nproxy = { url = \"http://u:hunter2@p/\" }\n\
        retry = { x = [\"hunter2\", { y = 17 }] }\n[connection.headers]\nX-Token = [\"hunter2\", { env = \"X\" }]\n\
        Cookie = { value = \"hunter2\" }\n[connection.env.test]\nheaders = { x-api-key = \"hunter2\" }\n";
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("a.toml"), text).unwrap();
    let found = find(directory.path(), "a", None).unwrap().unwrap();
    let shown = serde_json::to_string(&found.document).unwrap();
    assert!(!shown.contains("hunter2") && !shown.contains("17"), "{shown}");
    assert_eq!(found.document["headers"]["X-Token"][1], json!({ "env": "X" }));
}

#[test]
fn a_patch_touches_what_it_names() {
    check("crm", json!({}), &[], &[]);
    check("crm", json!({ "timeout": "5s" }), &[], &[]);
    check(
        "crm",
        json!({ "timeout": "6s" }),
        &["timeout = \"5s\"      # they are slow"],
        &["timeout = \"6s\"      # they are slow"],
    );
    check("crm", json!({ "state": "paused" }), &[], &["state = \"paused\""]);
    check(
        "crm",
        json!({ "rate_limit": { "limit": 30 } }),
        &["rate_limit = { limit = 20, per = \"second\" } # agreed in May"],
        &["rate_limit = { limit = 30, per = \"second\" } # agreed in May"],
    );
    check("crm", json!({ "retry": { "count": 7 } }), &[], &["count = 7"]);
    check("crm", json!({ "retry": { "max_age": null } }), &["max_age = \"72h\""], &[]);
    check(
        "erp",
        json!({ "success_status": ["200", "202", "207"] }),
        &["  \"204\","],
        &["  \"202\",", "  \"207\","],
    );
    check(
        "erp",
        json!({ "retry": { "strategy": "none" } }),
        &[],
        &["retry = { strategy = \"none\" }"],
    );
    check(
        "erp",
        json!({ "env": { "test": { "url": "http://x/" } }, "labels": { "team": "sales" } }),
        &[],
        &["labels = { team = \"sales\" }", "", "[connection.env.test]", "url = \"http://x/\""],
    );
}

#[test]
fn comments_outlive_the_keys_that_they_stood_at() {
    check(
        "crm",
        json!({ "timeout": null, "rate_limit": null }),
        &[
            "timeout = \"5s\"      # they are slow",
            "rate_limit = { limit = 20, per = \"second\" } # agreed in May",
        ],
        &["# they are slow", "# agreed in May"],
    );
    check(
        "crm",
        json!({ "retry": null }),
        &["[connection.retry]", "strategy = \"exponential\"", "max_age = \"72h\"", ""],
        &[],
    );
}

#[test]
fn a_secret_in_plain_text_is_kept_or_replaced() {
    let line = "Authorization = \"Bearer hunter2\" # TODO: move to a file";
    let directory = directory();
    let found = find(directory.path(), "crm", None).unwrap().unwrap();
    // What was read goes back as it is.
    let same = edit(directory.path(), "crm", Change::Replace(found.document.clone())).unwrap();
    assert!(same.is_nothing(), "{:?}", same.after);
    check(
        "crm",
        json!({ "headers": { "Authorization": { "env": "CRM" } } }),
        &[line],
        &["Authorization = { env = \"CRM\" } # TODO: move to a file"],
    );
    for (name, fingerprint) in [("Authorization", "00000000"), ("X-Key", "3ba5bd4e")] {
        let patch = json!({ "headers": { name: { "fingerprint": fingerprint } } });
        // A patch of a patch: the whole value is replaced by what stands for another secret.
        let error = edit(directory.path(), "crm", Change::Patch(object(patch))).unwrap_err();
        assert!(error.to_string().contains("fingerprint"), "{error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

#[test]
fn what_is_replaced_has_exactly_these_keys() {
    let directory = directory();
    let document = object(json!({ "url": "http://new/", "meta": { "etag": "x" } }));
    let prepared = edit(directory.path(), "crm", Change::Replace(document)).unwrap();
    let new = prepared.new.unwrap();
    assert_eq!(Json::Object(new.document), json!({ "name": "crm", "url": "http://new/" }));
    let text = prepared.after.unwrap();
    assert!(text.contains("# Behind the VPN.\nurl = \"http://new/\""), "{text}");
    assert!(text.contains("# The warehouse.\n[[connection]]\nname = \"erp\""), "{text}");
    assert!(text.starts_with("# What the shop sends out."), "{text}");
}

#[test]
fn a_new_connection_reads_like_one_that_somebody_wrote() {
    let directory = directory();
    let document = object(json!({
        "url": "https://x.example/", "labels": { "team": "sales" }, "display_name": "X \"y\"",
        "headers": { "Authorization": { "env": "X" } },
        "retry": { "strategy": "schedule", "schedule": ["5s", "5m"], "jitter": "none", "on_status": ["5xx", "429"] },
        "env": { "test": { "url": "http://127.0.0.1:9/" } },
    }));
    let prepared = edit(directory.path(), "new-one", Change::Create(document)).unwrap();
    assert!(prepared.file.ends_with("new-one.toml"));
    assert_eq!(
        prepared.after.as_deref().unwrap(),
        "[[connection]]\nname = \"new-one\"\ndisplay_name = 'X \"y\"'\nlabels = { team = \"sales\" }\nurl = \"https://x.example/\"\n\
         \n[connection.headers]\nAuthorization = { env = \"X\" }\n\
         \n[connection.retry]\nstrategy = \"schedule\"\nschedule = [\"5s\", \"5m\"]\njitter = \"none\"\non_status = [\"5xx\", \"429\"]\n\
         \n[connection.env.test]\nurl = \"http://127.0.0.1:9/\"\n"
    );
    prepared.write().unwrap();
    // A file of the name that holds something else is not lost.
    fs::write(
        directory.path().join("other.toml"),
        "# mine\n\n[[connection]]\nname = \"third\"\nurl = \"http://x/\"\n# the end\n",
    )
    .unwrap();
    let document = object(json!({ "url": "http://y/" }));
    let prepared = edit(directory.path(), "other", Change::Create(document)).unwrap();
    assert_eq!(
        prepared.after.as_deref().unwrap(),
        "# mine\n\n[[connection]]\nname = \"third\"\nurl = \"http://x/\"\n# the end\n\n[[connection]]\nname = \"other\"\nurl = \"http://y/\"\n"
    );
}

#[test]
fn what_cannot_be_done_is_said_and_changes_nothing() {
    let directory = directory();
    let at = directory.path();
    let url = || object(json!({ "url": "http://x/" }));
    let error = |name: &str, change: Change| edit(at, name, change).unwrap_err();
    assert!(matches!(error("crm", Change::Create(url())), EditError::Taken { .. }));
    assert!(matches!(error("CRM", Change::Replace(url())), EditError::Taken { .. }));
    assert!(matches!(error("none", Change::Delete), EditError::Unknown(_)));
    assert!(matches!(error("none", Change::Patch(url())), EditError::Unknown(_)));
    let other = object(json!({ "name": "erp" }));
    assert!(matches!(error("crm", Change::Patch(other)), EditError::OtherName { .. }));
    assert!(matches!(error("../x", Change::Create(url())), EditError::Document(_)));
    assert!(matches!(
        error("crm", Change::Patch(object(json!({ "name": 7 })))),
        EditError::OtherName { .. }
    ));
    for (document, word) in [
        (json!({ "url": null }), "null"),
        (json!({ "headers": { "A": [null] } }), "headers.A[0]: TOML has no null"),
        (
            json!({ "pool": { "max_total": u64::MAX } }),
            "pool.max_total: 18446744073709551615 is larger",
        ),
    ] {
        let error = error("new", Change::Create(object(document)));
        assert!(error.to_string().contains(word), "{error}");
    }
    assert_eq!(fs::read_to_string(at.join("shop.toml")).unwrap(), SAMPLE);
    assert_eq!(fs::read_dir(at).unwrap().count(), 1);
}

#[test]
fn a_connection_goes_with_its_comment_and_leaves_the_others() {
    let directory = directory();
    let prepared = edit(directory.path(), "crm", Change::Delete).unwrap();
    let text = prepared.after.as_deref().unwrap();
    assert!(
        text.starts_with(
            "# What the shop sends out.\n\n# The warehouse.\n[[connection]]\nname = \"erp\"\n"
        ),
        "{text}"
    );
    prepared.write().unwrap();
    assert_eq!(find(directory.path(), "crm", None).unwrap(), None);
    let prepared = edit(directory.path(), "erp", Change::Delete).unwrap();
    // A comment on the file is left.
    assert_eq!(prepared.after.as_deref(), Some("# What the shop sends out.\n"));
    prepared.write().unwrap();
    // Without one, the file goes.
    fs::write(
        directory.path().join("b.toml"),
        "# b\n[[connection]]\nname = \"b\"\nurl = \"http://b/\"\n",
    )
    .unwrap();
    let prepared = edit(directory.path(), "b", Change::Delete).unwrap();
    assert_eq!(prepared.after, None);
    prepared.write().unwrap();
    assert!(!directory.path().join("b.toml").exists());
    let second = self::directory();
    let prepared = edit(second.path(), "erp", Change::Delete).unwrap();
    let text = prepared.after.as_deref().unwrap();
    assert!(text.ends_with("url = \"http://127.0.0.1:9000/crm\"\n"), "{text}");
}

#[test]
fn conditions_hold_or_stop_it() {
    let directory = directory();
    let at = directory.path();
    let etag = find(at, "crm", None).unwrap().unwrap().etag;
    assert_ne!(etag, find(at, "erp", None).unwrap().unwrap().etag, "the name is in it");
    let check = |name: &str, if_match: &[&str], if_none: bool, ok: bool| {
        let condition =
            Condition { if_match: if_match.iter().map(|s| (*s).to_owned()).collect(), if_none };
        let change = Change::Replace(object(json!({ "url": "http://x/" })));
        let done = prepare(at, name, change, &condition, None);
        assert_eq!(done.is_ok(), ok, "{name} {if_match:?} {if_none}");
        if let Err(error) = done {
            assert_eq!(error, EditError::Stale(name.to_owned()));
        }
    };
    check("crm", &[&etag], false, true);
    check("crm", &["0", &etag], false, true);
    check("crm", &["*"], false, true);
    check("crm", &["0"], false, false);
    check("crm", &[], true, false);
    check("new", &[], true, true);
    check("new", &["*"], false, false);
    fs::write(at.join("shop.toml"), format!("{SAMPLE}# more\n")).unwrap();
    check("crm", &[&etag], false, false);
}

#[test]
fn somebody_elses_write_is_not_written_over() {
    let directory = directory();
    let path = directory.path().join("shop.toml");
    let prepared =
        edit(directory.path(), "crm", Change::Patch(object(json!({ "state": "paused" })))).unwrap();
    let gone = edit(directory.path(), "crm", Change::Delete).unwrap();
    let theirs = format!("{SAMPLE}# theirs\n");
    fs::write(&path, &theirs).unwrap();
    assert!(matches!(prepared.write(), Err(EditError::Busy(_))));
    assert!(matches!(gone.write(), Err(EditError::Busy(_))));
    let new =
        edit(directory.path(), "n", Change::Create(object(json!({ "url": "http://x/" })))).unwrap();
    fs::write(directory.path().join("n.toml"), "# theirs\n").unwrap();
    assert!(matches!(new.write(), Err(EditError::Busy(_))));
    assert_eq!(fs::read_to_string(&path).unwrap(), theirs);
    assert_eq!(fs::read_to_string(directory.path().join("n.toml")).unwrap(), "# theirs\n");
    let whole = Prepared {
        before: Some("# theirs\n".to_owned()),
        after: None,
        file: directory.path().join("n.toml"),
        ..new
    };
    fs::write(&whole.file, "# other\n").unwrap();
    assert!(matches!(whole.write(), Err(EditError::Busy(_))), "a removal looks too");
    assert_eq!(fs::read_to_string(&whole.file).unwrap(), "# other\n");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "nothing temporary is left");
}

#[test]
fn a_file_keeps_its_mode_and_a_new_one_is_private() {
    let directory = directory();
    let path = directory.path().join("shop.toml");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let change = Change::Patch(object(json!({ "state": "paused" })));
    edit(directory.path(), "crm", change).unwrap().write().unwrap();
    assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o640);
    assert!(fs::read_to_string(&path).unwrap().contains("state = \"paused\""));
    let new =
        edit(directory.path(), "n", Change::Create(object(json!({ "url": "http://x/" })))).unwrap();
    new.write().unwrap();
    assert_eq!(new.file.metadata().unwrap().mode() & 0o777, 0o600);
}

#[test]
fn links_are_left_alone() {
    let directory = directory();
    let at = directory.path();
    fs::rename(at.join("shop.toml"), at.join("..data")).unwrap();
    symlink("..data", at.join("shop.toml")).unwrap();
    symlink("..data", at.join("new.toml")).unwrap();
    for (name, change) in [
        ("crm", Change::Patch(Object::new())),
        ("crm", Change::Delete),
        ("new", Change::Create(object(json!({ "url": "http://x/" })))),
    ] {
        assert!(matches!(edit(at, name, change).unwrap_err(), EditError::Link(_)), "{name}");
    }
    assert_eq!(fs::read_to_string(at.join("..data")).unwrap(), SAMPLE);
}

#[test]
fn a_broken_file_is_not_edited_and_does_not_stop_others() {
    let directory = directory();
    let at = directory.path();
    fs::write(at.join("a.toml"), "[[connection]]\nname = \"a\"\nurl = ").unwrap();
    assert!(edit(at, "crm", Change::Delete).is_ok());
    let hint = at.join("a.toml");
    let error = prepare(at, "a", Change::Delete, &Condition::default(), Some(&hint)).unwrap_err();
    assert!(matches!(error, EditError::Broken(_)), "{error}");
}

#[test]
fn an_inline_array_is_edited_too() {
    let directory = tempfile::tempdir().unwrap();
    let text = "connection = [{ name = \"a\", url = \"http://a/\" }, { name = \"b\", url = \"http://b/\" }]\n";
    fs::write(directory.path().join("a.toml"), text).unwrap();
    let prepared =
        edit(directory.path(), "b", Change::Patch(object(json!({ "state": "paused" })))).unwrap();
    let new = prepared.new.unwrap();
    assert_eq!(new.document["state"], "paused");
    assert!(find(directory.path(), "a", None).unwrap().is_some());
}

/// RFC 7396, appendix A.
#[test]
fn merge_patches_are_those_of_the_rfc() {
    let check = |target: Json, patch: Json, expected: Json| {
        let mut merged = target.clone();
        merge_patch(&mut merged, patch.clone());
        assert_eq!(merged, expected, "{target} {patch}");
    };
    check(json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"}));
    check(json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"}));
    check(json!({"a":"b"}), json!({"a":null}), json!({}));
    check(json!({"a":"b","b":"c"}), json!({"a":null}), json!({"b":"c"}));
    check(json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"}));
    check(json!({"a":"c"}), json!({"a":["b"]}), json!({"a":["b"]}));
    check(json!({"a":{"b":"c"}}), json!({"a":{"b":"d","c":null}}), json!({"a":{"b":"d"}}));
    check(json!({"a":[{"b":"c"}]}), json!({"a":[1]}), json!({"a":[1]}));
    check(json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"]));
    check(json!({"a":"b"}), json!(["c"]), json!(["c"]));
    check(json!({"a":"foo"}), json!(null), json!(null));
    check(json!({"e":null}), json!({"a":1}), json!({"e":null,"a":1}));
    check(json!([1, 2]), json!({"a":"b","c":null}), json!({"a":"b"}));
    check(json!({}), json!({"a":{"bb":{"ccc":null}}}), json!({"a":{"bb":{}}}));
}
