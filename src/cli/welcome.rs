//! First contact: `posthaste run` where nothing is configured. Listening on the defaults without anywhere to deliver to would
//! look like success, so it says which files it looked for, what to write into them, and what to do then.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::anyhow;

use super::Failure;
use crate::config::{Places, connection_files};

/// Where connection files are when no daemon's file says otherwise.
const CONNECTIONS: &str = "connections.d";

/// Lets the daemon start when there is its own file, or a connection's.
pub(super) fn look_for_files(config_file: Option<&Path>) -> Result<(), Failure> {
    let places = Places::of_process();
    let root = places.root_file(config_file).path;
    let connections = root.with_file_name(CONNECTIONS);
    if root.exists() || connection_files(&connections).is_ok_and(|files| !files.is_empty()) {
        return Ok(());
    }
    let text = explain(&places.looked_at(config_file), &root, &connections);
    Err(Failure::Config(anyhow!("{}", text.trim_end())))
}

fn explain(looks: &[(&str, Option<PathBuf>)], root: &Path, connections: &Path) -> String {
    let mut text = "nothing is configured, so there is nothing to run. Looked for:\n\n".to_owned();
    let mut look = |from: &str, what: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {from:<25} {what}");
    };
    for (from, path) in looks {
        match path {
            Some(path) => look(from, &format!("{}: {}", path.display(), why_not(path))),
            None => look(from, "not set"),
        }
    }
    look("connections", &format!("{}/*.toml: none", connections.display()));
    let (root, connections) = (root.display(), connections.display());
    text + &format!(
        "
Write where events come in to {root}:

  [ingress]
  http = [\"127.0.0.1:8377\"]

and where they go to {connections}/orders.toml:

  [[connection]]
  name = \"orders\"
  url = \"https://example.com/hooks/orders\"

then:

  posthaste check
  posthaste run
  posthaste send --data '{{\"order\": 42}}'

`posthaste demo` shows it work without any file; `posthaste schema` and docs/configuration.md have every key.
"
    )
}

/// Why a file does not count.
fn why_not(path: &Path) -> String {
    match path.metadata() {
        Ok(_) => "there".to_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => "no such file".to_owned(),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => "permission denied".to_owned(),
        Err(error) => error.to_string(),
    }
}
