//! `docs/configuration.md` is made of the tables of fields; `UPDATE=1` rewrites it.

use super::*;
use crate::config::fields::{CONNECTION, Field, Kind, ROOT, Standard};
use crate::config::schema::bounds;

const HEAD: &str = "\
# The configuration, key by key

Made of the tables in `src/config/fields.rs` and held by a test, so it is what this version reads. `posthaste schema` prints
the same as JSON Schema for editors; `config/posthaste.toml` has every key commented out at its default.

The daemon's own file is `posthaste.toml`. Connections stand in `connections.d/*.toml`, each in a `[[connection]]` table. Values
are laid over each other: built-in default, `[defaults]`, connection, overlay of the environment. A duration is a string with a
unit (`\"1500ms\"`, `\"2s\"`, `\"5m\"`, `\"4h\"`, `\"7d\"`), a size too (`\"500KB\"`, `\"1MiB\"`). A secret is `{ env = \"NAME\" }`,
`{ file = \"/path\" }`, `{ credential = \"name\" }` (systemd), or a plain string, which is warned about. In the columns below a
default in *italics* depends on other settings, and one after `e.g.` is an example of a key without default.
";

fn reference() -> String {
    let mut text = HEAD.to_owned();
    text.push_str("\n## posthaste.toml\n");
    tables(&mut text, "", ROOT);
    text.push_str("\n## Connections\n\nOne `[[connection]]` table each, in files of the `connections` directory.\n");
    tables(&mut text, "connection", CONNECTION);
    text
}

/// The table of these keys, then those inside of it.
fn tables(text: &mut String, header: &str, fields: &'static [Field]) {
    text.push_str("\n| key | value | default | |\n|---|---|---|---|\n");
    for field in fields {
        let default = match field.default {
            Standard::Toml("{}") => String::new(),
            Standard::Toml(value) => code(value),
            Standard::Computed(value) => format!("*{}*", code(value)),
            Standard::None(value) => format!("e.g. {}", code(value)),
            Standard::Required(value) => format!("**required**, e.g. {}", code(value)),
        };
        let doc = field.doc.replace('|', "\\|");
        text.push_str(&format!(
            "| `{}` | {} | {default} | {doc} |\n",
            field.key,
            words(&field.kind)
        ));
    }
    let dot = if header.is_empty() { "" } else { "." };
    for field in fields {
        let header = format!("{header}{dot}{}", field.key);
        if let Some((inner, rows)) = inside(&field.kind) {
            let shown = if rows { format!("[[{header}]]") } else { format!("[{header}]") };
            text.push_str(&format!("\n### `{shown}`\n\n{}\n", field.doc));
            tables(text, &header, inner);
        }
    }
}

/// The keys of a table, and whether there may be several such tables.
fn inside(kind: &'static Kind) -> Option<(&'static [Field], bool)> {
    match kind {
        Kind::Table(fields) | Kind::OneOf(fields) => Some((fields, false)),
        Kind::List(kind, ..) => inside(kind).map(|(fields, _)| (fields, true)),
        _ => None,
    }
}

fn code(text: &str) -> String {
    format!("`{}`", text.replace('|', "\\|"))
}

/// What may be written, in words.
fn words(kind: &'static Kind) -> String {
    let bounded = |what: &str| match bounds(kind) {
        Some(bounds) => format!("{what}, {bounds}"),
        None => what.to_owned(),
    };
    match kind {
        Kind::Text(max) => format!("text, at most {max} characters"),
        Kind::Name => "a name: letters, digits, `-` and `_`, at most 155".to_owned(),
        Kind::Bool => "`true` or `false`".to_owned(),
        Kind::Integer(min, max) => format!("whole number, {min} to {max}"),
        Kind::Number(min, max) => format!("number, {min} to {max}"),
        Kind::Span(..) => bounded("duration"),
        Kind::Size(..) => bounded("size"),
        Kind::Choice(words) => {
            let words: Vec<String> = words.iter().map(|word| format!("`\"{word}\"`")).collect();
            words.join(", ")
        }
        Kind::Method => "a method".to_owned(),
        Kind::Url => "an http or https URL".to_owned(),
        Kind::Path => "a path; a relative one counts from its file".to_owned(),
        Kind::PathOrOff => "a path, or `\"off\"`".to_owned(),
        Kind::Address => "address and port".to_owned(),
        Kind::AddressOrOff => "address and port, or `\"off\"`".to_owned(),
        Kind::Mode => "file mode in octal".to_owned(),
        Kind::ServerName => "a host's name or address".to_owned(),
        Kind::Statuses(_) => {
            "1 to 10 statuses: `\"404\"`, `\"500-599\"`, `\"5xx\"`, `\">=500\"`, each with `!` before it for all but".to_owned()
        }
        Kind::List(kind, min, max) => format!("{min} to {max} of: {}", words_inside(kind)),
        Kind::Table(_) => "a table, see below".to_owned(),
        Kind::OneOf(_) => "exactly one of the tables below".to_owned(),
        Kind::Secret => "a secret".to_owned(),
        Kind::DatedSecret => "a secret; `until` says when it ends".to_owned(),
        Kind::Stamp => "an instant, `2027-01-31T12:00:00Z`".to_owned(),
        Kind::Cidr => "a range of addresses, `10.0.0.0/8`".to_owned(),
        Kind::Tree => "a table".to_owned(),
        Kind::Variables => "a table of texts, and `env` with tables of these by environment".to_owned(),
        Kind::Labels => format!("a table of at most {} texts", crate::config::fields::LABELS_MAX),
        Kind::Headers => "a table: strings, secrets, or lists of these".to_owned(),
        Kind::Overlays => "tables by environment, with any of these keys but name and env".to_owned(),
        Kind::Defaults => "any key of a connection but name and env".to_owned(),
    }
}

fn words_inside(kind: &'static Kind) -> String {
    if matches!(kind, Kind::Table(_)) { "tables, see below".to_owned() } else { words(kind) }
}

#[test]
fn the_reference_is_what_the_fields_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, reference()).unwrap();
    }
    let text = fs::read_to_string(&path).unwrap_or_default();
    assert!(text == reference(), "docs/configuration.md is old; run the tests with UPDATE=1");
    for field in ROOT.iter().chain(CONNECTION) {
        assert!(text.contains(&format!("| `{}` |", field.key)), "{}", field.key);
    }
}
