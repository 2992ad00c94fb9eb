//! `posthaste export`: connections as a ZIP file, without keys and without values of secrets.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;
use serde::Serialize;

use super::output;
use super::{Failure, TEMPLATE, settings};
use crate::admin::api::rfc3339;
use crate::clock::Clock;
use crate::config::transfer::archive::{Described, pack};
use crate::config::transfer::export::export;
use crate::config::{self, Secrets};

/// Write connections into a ZIP file, for another daemon or for keeping
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste export crm
  posthaste export --all --output connections.zip
  posthaste export crm --output - | ssh relay posthaste import -

The file has the TOML of each connection, with its comments, and the certificates that it names. It has no key and no
value of a secret: what must be supplied where it is imported is printed.

")]
pub(super) struct Arguments {
    /// The connections
    #[arg(value_name = "NAME", required_unless_present = "all", conflicts_with = "all")]
    names: Vec<String>,
    /// All connections
    #[arg(long)]
    all: bool,
    /// The file; - is stdout [default: DATE-connection-NAME-export.zip]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The daemon's configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'r> {
    file: String,
    connections: &'r [Described],
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let (root, mut options) = settings::lookup(arguments.config.as_deref());
    options.secrets = Secrets::Skip;
    let loaded = config::load(&root.path, &options).map_err(|refused| {
        output::say(refused.render().trim_end());
        Failure::Config(anyhow!("{refused} (read from {})", root.path.display()))
    })?;
    let names = if arguments.all {
        loaded.origins.keys().cloned().collect()
    } else {
        arguments.names.clone()
    };
    if names.is_empty() {
        return Err(anyhow!("there is no connection to export").into());
    }
    let now = rfc3339(Clock::system().wall_ms());
    let archive = export(&loaded.watched.root, &loaded.origins, &names, &now);
    let archive = archive.map_err(|error| anyhow!(error))?;
    let bytes = pack(&archive).map_err(|message| anyhow!(message))?;
    let default = PathBuf::from(file_name(&now, &names));
    let file = arguments.output.clone().unwrap_or(default);
    if file.as_os_str() == "-" {
        return output::write(&bytes);
    }
    write(&file, &bytes, arguments.output.is_some())?;
    let connections = archive.metadata.connections.as_slice();
    let shown = file.display().to_string();
    if arguments.json {
        return output::json(&Report { file: shown, connections });
    }
    for connection in connections {
        for secret in &connection.supply {
            let (name, key) = (&connection.name, &secret.key);
            output::say(&format!("not in it: {name} {key} ({} {})", secret.kind, secret.name));
        }
        for lost in connection.certificates.iter().filter(|one| one.file.is_none()) {
            output::say(&format!("not in it: {} {} ({})", connection.name, lost.key, lost.path));
        }
    }
    output::line(&format!("{shown}: {}", output::plural(connections.len() as u64, "connection")))
}

/// `2025-11-13-connection-crm-export.zip`
pub(super) fn file_name(now: &str, names: &[String]) -> String {
    let date = now.get(..10).unwrap_or(now);
    match names {
        [name] => format!("{date}-connection-{name}-export.zip"),
        _ => format!("{date}-connections-export.zip"),
    }
}

/// A file that nobody named is not written over.
fn write(file: &Path, bytes: &[u8], named: bool) -> Result<(), Failure> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true);
    if named {
        options.create(true).truncate(true);
    } else {
        options.create_new(true);
    }
    let written = options.open(file).and_then(|mut file| file.write_all(bytes));
    let hint = if named { "" } else { "; --output names another" };
    written.with_context(|| format!("cannot write {}{hint}", file.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_after_day_and_connection() {
        let names = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            file_name("2025-11-13T08:00:00.000Z", &names)
        };
        assert_eq!(names(&["crm"]), "2025-11-13-connection-crm-export.zip");
        assert_eq!(names(&["crm", "erp"]), "2025-11-13-connections-export.zip");
    }
}
