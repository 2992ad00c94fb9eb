//! Kinds of values that a part of the configuration may use, read by a table of their own.

use toml::de::{DeTable, DeValue};

use crate::config::Report;
use crate::config::fields::{Field, Kind, Standard};
use crate::config::read::Reader;
use crate::config::source::SourceFile;
use crate::config::value::{Table, Value};
use crate::connection::part::Step;
use crate::secret::SecretRef;

static BASIC: &[Field] = &[
    Field { key: "user", kind: Kind::Text(9), default: Standard::Required("\"u\""), doc: "" },
    Field { key: "realm", kind: Kind::Text(9), default: Standard::Toml("\"all\""), doc: "" },
];
static EITHER: &[Field] = &[
    Field { key: "basic", kind: Kind::Table(BASIC), default: Standard::None("{}"), doc: "" },
    Field { key: "bearer", kind: Kind::Table(&[]), default: Standard::None("{}"), doc: "" },
];
static FIELDS: &[Field] = &[
    Field { key: "auth", kind: Kind::OneOf(EITHER), default: Standard::None("{}"), doc: "" },
    Field { key: "secret", kind: Kind::Secret, default: Standard::None("{}"), doc: "" },
    Field { key: "dated", kind: Kind::DatedSecret, default: Standard::None("{}"), doc: "" },
    Field { key: "at", kind: Kind::Stamp, default: Standard::None("{}"), doc: "" },
    Field { key: "net", kind: Kind::Cidr, default: Standard::None("{}"), doc: "" },
    Field { key: "tree", kind: Kind::Tree, default: Standard::None("{}"), doc: "" },
];

/// What was read, and the messages: `path: message`.
fn read(text: &str) -> (Table, Vec<String>, Vec<String>) {
    let file = SourceFile::new("/x/a.toml".into(), "a.toml".into(), text.to_owned());
    let mut report = Report::default();
    let tree = DeTable::parse(&file.text).unwrap();
    let table = Reader { file: &file, report: &mut report }.table(FIELDS, tree.get_ref(), "");
    let lines = |errors: &[crate::config::ConfigError]| {
        errors.iter().map(|error| format!("{}: {}", error.key_path, error.message)).collect()
    };
    (table, lines(&report.errors), lines(&report.warnings))
}

fn error(text: &str) -> String {
    let (_, errors, _) = read(text);
    assert_eq!(errors.len(), 1, "{text}: {errors:?}");
    errors.into_iter().next().unwrap()
}

#[test]
fn one_sub_table_is_chosen_and_replaced_whole() {
    let (mut below, errors, _) = read("[auth.basic]\nuser = \"me\"");
    assert!(errors.is_empty(), "{errors:?}");
    let (chosen, keys) = below.one_of("auth").unwrap();
    assert_eq!((chosen, keys.text("user"), keys.text("realm")), ("basic", Some("me"), Some("all")));
    below.merge(&read("[auth.bearer]").0);
    assert_eq!(below.one_of("auth").unwrap().0, "bearer");
    let both = "auth: has 2 of these tables, exactly one is allowed: basic, bearer";
    assert_eq!(error("[auth.basic]\n[auth.bearer]"), both);
    assert_eq!(error("auth = {}"), both.replace('2', "0"));
}

#[test]
fn secrets_are_references_and_may_end() {
    let (table, errors, warnings) = read(
        "secret = \"hunter2\"\ndated = { env = \"X\", until = 2027-01-31T12:00:00+02:00 }\nat = \"2027-01-31T10:00:00Z\"",
    );
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].starts_with("secret: is a secret in plain text"), "{warnings:?}");
    let at = match table.get("at").unwrap().value {
        Value::Stamp(at) => at,
        _ => panic!("no instant"),
    };
    assert_eq!(at, 1_801_389_600_000);
    match &table.get("dated").unwrap().value {
        Value::DatedSecret(SecretRef::Env(name), Some(until)) => {
            assert_eq!((name.as_str(), *until), ("X", at));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(error("secret = 5"), "secret: is an integer, write a string or { env = \"X\" }");
    assert!(error("dated = { env = \"X\", until = 2027-01-31 }").contains("is not an instant"));
    assert!(error("dated = { until = \"2027-01-31T12:00:00Z\" }").contains("exactly one of"));
}

#[test]
fn ranges_of_addresses() {
    for (text, shown) in [("10.0.0.0/8", "10.0.0.0/8"), ("::1", "::1/128")] {
        match read(&format!("net = {text:?}")).0.get("net").unwrap().value {
            Value::Cidr(range) => assert_eq!(range.to_string(), shown),
            _ => panic!("no range"),
        }
    }
    assert!(error("net = \"10.0.0.0/33\"").contains("is not a range"));
}

#[test]
fn trees_become_json_and_know_their_places() {
    let text = "[tree]\nz = [1, 2.5, { \"$in\" = \"x\" }]\na = true";
    let (table, errors, _) = read(text);
    assert!(errors.is_empty(), "{errors:?}");
    let tree = table.tree("tree").unwrap();
    let json = tree.to_json();
    let wanted =
        crate::connection::json::Json::parse(br#"{"z": [1, 2.5, {"$in": "x"}], "a": true}"#);
    assert_eq!(json, wanted.unwrap());
    let key = |key: &str| Step::Key(key.to_owned());
    let place = tree.place(&[key("z"), Step::Index(2), key("$in")]);
    assert_eq!(text.get(place.span.clone()), Some("\"$in\""));
    assert_eq!(text.get(tree.place(&[key("a")]).span.clone()), Some("a"));
    assert_eq!(tree.place(&[key("missing")]).span, tree.place.span);
    assert!(error("tree = inf").contains("not a number that JSON has"));
    assert!(DeValue::parse("1").is_ok());
}
