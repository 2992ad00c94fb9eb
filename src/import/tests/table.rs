//! docs/migration.md: every field and operation of the three systems has a row, and each row's tests exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::*;

/// What the documents of the three systems name, one a line: `SYSTEM NAME`, where the name is a field or an operation.
const REFERENCE: &str = include_str!("../../../tests/import/reference.txt");
const DOCUMENT: &str = include_str!("../../../docs/migration.md");

/// The cells of the rows of a section's tables.
fn rows(section: &str) -> Vec<Vec<&'static str>> {
    let head = format!("\n## {section}");
    let (_, rest) = DOCUMENT.split_once(head.as_str()).unwrap_or_else(|| panic!("no {head}"));
    let end = rest.find("\n## ").unwrap_or(rest.len());
    let lines =
        rest[..end].lines().filter(|line| line.starts_with("| ") && !line.starts_with("| theirs"));
    lines.map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

fn in_ticks(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

fn files(directory: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
}

/// Whether a test of this name stands in a file that its path could mean.
fn exists(test: &str, files: &[(PathBuf, String)]) -> bool {
    let (modules, name) = test.rsplit_once("::").unwrap_or(("", test));
    let called = [format!("fn {name}("), format!("fn {name} (")];
    files.iter().any(|(path, text)| {
        let parts: Vec<_> = path
            .iter()
            .map(|part| part.to_string_lossy().trim_end_matches(".rs").to_owned())
            .collect();
        let module = modules.split("::").filter(|part| !part.is_empty() && *part != "tests");
        module.into_iter().all(|part| parts.iter().any(|have| have == part))
            && called.iter().any(|called| text.contains(called))
    })
}

#[test]
fn every_field_and_operation_of_the_three_systems_has_a_row() {
    let mut looked_at = 0;
    for line in REFERENCE.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (system, name) = line.split_once(' ').unwrap();
        let named: BTreeSet<&str> =
            rows(system).iter().flat_map(|row| in_ticks(row[0]).collect::<Vec<_>>()).collect();
        assert!(named.contains(name), "docs/migration.md, {system}: no row names `{name}`");
        looked_at += 1;
    }
    assert!(looked_at > 120, "only {looked_at}");
}

#[test]
fn every_field_of_the_samples_stands_in_the_table() {
    for (system, section) in [
        (System::Apinizer, "Apinizer"),
        (System::Hookdeck, "Hookdeck"),
        (System::Endpoints, "Endpoints"),
    ] {
        let named: BTreeSet<String> = rows(section)
            .iter()
            .flat_map(|row| in_ticks(row[0]).map(str::to_owned).collect::<Vec<_>>())
            .collect();
        for item in items(&sample(system)) {
            let mut fields = Vec::new();
            paths(&item, "", &mut fields);
            for field in fields {
                let kind = field.split_once("].").map(|(_, rest)| rest);
                let plain: String = field.split('[').next().unwrap_or_default().to_owned();
                let known = [Some(field.as_str()), kind, Some(plain.as_str())]
                    .into_iter()
                    .flatten()
                    .any(|name| {
                        named.iter().any(|row| row == name || row.ends_with(&format!(".{name}")))
                    });
                assert!(known, "{section}: no row names {field}");
            }
        }
    }
}

#[test]
fn every_row_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    files(&root.join("src"), &mut found);
    files(&root.join("tests/it"), &mut found);
    let mut tests = 0;
    for section in ["Apinizer", "Hookdeck", "Endpoints"] {
        for row in rows(section) {
            assert_eq!(row.len(), 3, "{row:?}");
            let mut named = in_ticks(row[2]).peekable();
            assert!(named.peek().is_some(), "{section}: no test for {}", row[0]);
            for test in named {
                assert!(exists(test, &found), "{section}: there is no test {test}");
                tests += 1;
            }
        }
    }
    assert!(tests > 80, "only {tests}");
    assert!(!exists("import::tests::no_such_test", &found));
}
