//! The directions of `use crate::` between the top modules, as `docs/architecture.md` has them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Who may use whom. What is not listed uses leaves alone.
const MAY_USE: &[(&str, &[&str])] = &[
    // What is asked for by status is written as a connection writes it.
    ("admin", &["connection", "problem"]),
    (
        "cli",
        &[
            "admin",
            "client",
            "config",
            "connection",
            "daemon",
            "import",
            "logging",
            "problem",
            "store",
        ],
    ),
    ("client", &["connection"]),
    ("config", &["connection", "secret", "source"]),
    ("connection", &[]),
    (
        "daemon",
        &[
            "admin",
            "client",
            "config",
            "connection",
            "delivery",
            "ingress",
            "logging",
            "process",
            "store",
            "systemd",
        ],
    ),
    ("delivery", &["client", "connection", "store"]),
    ("fuzzing", &["config", "connection", "ingress", "store"]),
    ("import", &["connection"]),
    ("ingress", &["connection", "problem", "source", "store"]),
    // Tests only: the whole relay in one thread.
    ("sim", &["client", "connection", "delivery", "ingress", "store"]),
    ("source", &["connection"]),
    ("store", &[]),
];
const LEAVES: &[&str] = &["clock", "event", "listener", "metrics", "process", "secret", "units"];

#[test]
fn modules_use_each_other_in_one_direction() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&source, &mut files);
    assert!(files.len() > 60, "only {} files were found", files.len());
    let mut wrong = BTreeSet::new();
    for file in files {
        let relative = file.strip_prefix(&source).unwrap();
        let module =
            relative.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned();
        if ["main", "lib"].contains(&module.as_str()) {
            continue;
        }
        let allowed =
            MAY_USE.iter().find(|(name, _)| *name == module).map_or(&[][..], |(_, used)| used);
        let text = std::fs::read_to_string(&file).unwrap();
        // Tests may build what they test with.
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        if relative.iter().any(|part| part == "tests" || part == "tests.rs" || part == "testing.rs")
        {
            continue;
        }
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for used in code.flat_map(|line| line.split("crate::").skip(1)) {
            let used: String = used.chars().take_while(|c| c.is_ascii_lowercase()).collect();
            let fine = used == module
                || LEAVES.contains(&used.as_str())
                || allowed.contains(&used.as_str());
            if !fine && !used.is_empty() {
                wrong.insert(format!("{} uses {used}", relative.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten() {
        let Ok(entry) = entry else { continue };
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
