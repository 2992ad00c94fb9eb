//! The files that are shipped in `config/`. `posthaste.toml` is made of the tables of fields; `UPDATE=1` rewrites it.

use super::*;
use crate::config::fields::{CONNECTION, Field, Kind, ROOT, Standard};

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config")
}

const HEAD: &str = "\
# posthaste's own settings. Every key is here: the commented lines show its default, or an example where it has none.
# Durations have a unit (\"1500ms\", \"2s\", \"4h\", \"7d\"), sizes too (\"500KB\", \"1MiB\").
# `posthaste check` says what is wrong with a file before the daemon sees it.
";

/// All of `posthaste.toml`.
fn sample() -> String {
    let mut text = HEAD.to_owned();
    table(&mut text, "", ROOT);
    text
}

fn table(text: &mut String, header: &str, fields: &'static [Field]) {
    if !header.is_empty() {
        text.push_str(&format!("\n[{header}]\n"));
    }
    let inside = |field: &&Field| {
        matches!((&field.kind, field.default), (Kind::Table(_) | Kind::Defaults, Standard::Toml(_)))
    };
    let separator = if header.is_empty() { "" } else { "." };
    for field in fields.iter().filter(|field| !inside(field)) {
        let (words, value) = match field.default {
            Standard::Toml(value) => ("", value),
            Standard::Computed(value) => ("", value),
            Standard::None(value) => (" No default; for example:", value),
            Standard::Required(_) => continue,
        };
        if !matches!(field.kind, Kind::Overlays) && field.key != "renamed_from" {
            text.push_str(&format!("\n# {}{words}\n#{} = {value}\n", field.doc, field.key));
        }
    }
    for field in fields.iter().filter(inside) {
        let header = format!("{header}{separator}{}", field.key);
        match field.kind {
            Kind::Table(inner) => table(text, &header, inner),
            _ => {
                text.push_str(&format!("\n# {}", field.doc));
                table(text, &header, CONNECTION);
            }
        }
    }
}

#[test]
fn the_sample_has_every_key_at_its_default() {
    let path = shipped().join(FILE_NAME);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, sample()).unwrap();
    }
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text, sample(), "run the tests with UPDATE=1");
    let keys = text.lines().filter(|line| line.starts_with('#') && !line.starts_with("# "));
    assert!(keys.count() >= 68);
}

/// With the defaults written out, the configuration is the same as without any file.
#[test]
fn the_sample_uncommented_changes_nothing() {
    let mut example = false;
    let mut text = String::new();
    for line in sample().lines() {
        let key = line.strip_prefix('#').filter(|rest| !rest.starts_with(' '));
        text.push_str(key.filter(|_| !example).unwrap_or(line));
        text.push('\n');
        example = line.ends_with("for example:");
    }
    let connection = "[[connection]]\nname = \"one\"\nurl = \"http://x/\"\n";
    let with = loaded(&[(FILE_NAME, &text), ("connections.d/a.toml", connection)], &[]);
    let without = loaded(&[("connections.d/a.toml", connection)], &[]);
    assert_eq!(with.config, without.config);
    assert_eq!(warnings(&with), [""; 0]);
    assert!(text.contains("\nmax_in_flight = 24\n"), "{text}");
}

#[test]
fn the_shipped_files_load_without_a_warning() {
    let loaded = load_in(&shipped(), &[]).unwrap_or_else(|refused| panic!("{}", refused.render()));
    assert_eq!(warnings(&loaded), [""; 0]);
    let names: Vec<_> = loaded.config.connections.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["local", "orders-crm"]);
}
