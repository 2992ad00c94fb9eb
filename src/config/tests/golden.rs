//! Broken configurations and what is said about them. `UPDATE=1` rewrites the expected texts.

use super::*;

/// The cases on the day this was written; there are only ever more.
const CASES: usize = 42;

/// What none of the texts may hold; the cases have it as secrets in many places.
const SECRET: &str = "hunter2";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config")
}

fn cases() -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join("invalid")).unwrap();
    let mut cases: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    cases
}

/// Compares with a file, or writes it. Says whether it is the same.
fn same(expected: &Path, found: &str) -> bool {
    if std::env::var_os("UPDATE").is_some() {
        fs::write(expected, found).unwrap();
    }
    let expected_text = fs::read_to_string(expected).unwrap_or_default();
    if expected_text != found {
        println!("--- {}\n{expected_text}\n+++ found\n{found}", expected.display());
    }
    expected_text == found
}

fn rendered(refused: &Refused) -> String {
    let home = root().display().to_string();
    refused.render().replace(&home, "$TESTS")
}

#[test]
fn broken_configurations_say_what_and_where() {
    let mut different = Vec::new();
    for case in cases() {
        let refused = load_in(&case, &[]).expect_err(&case.display().to_string());
        let text = rendered(&refused);
        assert!(!text.contains(SECRET), "{} shows a secret:\n{text}", case.display());
        let warnings: String =
            refused.warnings.iter().map(|warning| warning.render("warning")).collect();
        assert!(!warnings.contains(SECRET), "{} shows a secret:\n{warnings}", case.display());
        if !same(&case.join("expected.txt"), &text) {
            different.push(case);
        }
    }
    assert!(different.is_empty(), "not as expected: {different:?}");
    assert!(cases().len() >= CASES);
}

/// All broken connection files in one directory: each error of each is in one run.
#[test]
fn all_errors_of_all_files_in_one_run() {
    let together = directory(&[]);
    let target = together.path().join("connections.d");
    fs::create_dir(&target).unwrap();
    let mut alone = Vec::new();
    for case in cases() {
        let with_root = case.join(FILE_NAME).exists();
        let Ok(files) = fs::read_dir(case.join("connections.d")) else {
            continue;
        };
        if with_root {
            continue; // Its errors depend on the daemon's file.
        }
        let name = case.file_name().unwrap().to_str().unwrap().to_owned();
        for file in files {
            let file = file.unwrap().path();
            let file_name = file.file_name().unwrap().to_str().unwrap();
            fs::copy(&file, target.join(format!("{name}-{file_name}"))).unwrap();
        }
        let refused = load_in(&case, &[]).unwrap_err();
        let renamed = refused.errors.into_iter().map(|error| {
            let file = error.file.replace("connections.d/", &format!("connections.d/{name}-"));
            (file, error.position, error.key_path)
        });
        alone.extend(renamed);
    }
    let refused = load_in(together.path(), &[]).unwrap_err();
    let found: Vec<_> = refused
        .errors
        .iter()
        .map(|error| (error.file.clone(), error.position, error.key_path.clone()))
        .collect();
    assert!(alone.len() > 80, "only {} errors", alone.len());
    assert_eq!(found, alone);
}

#[test]
fn valid_configurations_load_without_a_warning() {
    let mut count = 0;
    for entry in fs::read_dir(root().join("valid")).unwrap() {
        let case = entry.unwrap().path();
        let variables = [("CRM_TOKEN", "t"), ("POSTHASTE_ENV", "production")];
        let full = case.ends_with("full");
        let loaded = load_in(&case, if full { &variables } else { &[] });
        let loaded = loaded.unwrap_or_else(|refused| panic!("{}", refused.render()));
        assert_eq!(warnings(&loaded), [""; 0], "{}", case.display());
        let expected = format!("{:#?}\n", loaded.config);
        let text = expected.replace(&root().display().to_string(), "$TESTS");
        assert!(same(&case.join("expected.txt"), &text), "{}", case.display());
        count += 1;
    }
    assert!(count >= 2);
}
