//! The configuration as its users meet it: files in, values or rendered errors out.

use std::collections::BTreeMap;
use std::fs;

use super::*;
use crate::secret::Env;

mod alerts;
mod auth;
mod docs;
mod golden;
mod health;
mod kinds;
mod payload;
mod proof;
mod reference;
mod samples;
mod sources;
mod transport;
mod values;

/// An environment of nobody, with these variables.
fn options(variables: &[(&str, &str)]) -> LoadOptions {
    let pairs = variables.iter().map(|(k, v)| (k.to_string(), v.to_string()));
    let env = Env::Fixed(pairs.collect::<BTreeMap<_, _>>());
    LoadOptions {
        places: Places::new(env.clone(), true),
        env,
        root_required: false,
        secrets: Secrets::Resolve,
        cores: 2,
        clock: crate::clock::Clock::manual(1_800_000_000_000),
    }
}

/// Makes files in a new directory; `posthaste.toml` is the daemon's.
fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    directory
}

fn load_in(directory: &Path, variables: &[(&str, &str)]) -> Result<Loaded, Box<Refused>> {
    load(&directory.join(FILE_NAME), &options(variables))
}

/// Loads files that are expected to be fine.
fn loaded(files: &[(&str, &str)], variables: &[(&str, &str)]) -> Loaded {
    let directory = directory(files);
    load_in(directory.path(), variables).unwrap_or_else(|refused| panic!("{}", refused.render()))
}

/// The lines of warnings.
fn warnings(loaded: &Loaded) -> Vec<String> {
    loaded.warnings.iter().map(ToString::to_string).collect()
}
