//! `posthaste check`: reads the configuration as `run` would, and prints every error or a summary.

use std::path::PathBuf;

use anyhow::anyhow;
use clap::Args;
use serde::Serialize;

use super::{Failure, TEMPLATE, output, settings};
use crate::config::summary::{self, Summary};
use crate::config::{self, ConfigError, ConfigWarning, Loaded, Refused, Secrets};

/// Check the configuration without touching anything
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste check
  posthaste check --config ./posthaste.toml --json

Prints every error of every file, or what the daemon would do and the memory it may take.
The exit code is 78 when there are errors.

")]
pub(super) struct Arguments {
    /// The daemon's configuration file [default: $POSTHASTE_CONFIG, /etc/posthaste/posthaste.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Leave secrets unread, to check on a machine that does not have them
    #[arg(long)]
    no_secrets: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// An error or a warning, for programs.
#[derive(Debug, Serialize)]
struct Finding {
    file: String,
    line: Option<usize>,
    column: Option<usize>,
    key: String,
    message: String,
}

impl From<&ConfigError> for Finding {
    fn from(error: &ConfigError) -> Finding {
        Finding {
            file: error.file.clone(),
            line: error.position.map(|position| position.line),
            column: error.position.map(|position| position.column),
            key: error.key_path.clone(),
            message: error.message.clone(),
        }
    }
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    errors: Vec<Finding>,
    warnings: Vec<Finding>,
    summary: Option<Summary>,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let (root, mut options) = settings::lookup(arguments.config.as_deref());
    if arguments.no_secrets {
        options.secrets = Secrets::Skip;
    }
    let loaded = config::load(&root.path, &options);
    if arguments.json {
        output::json(&report(&loaded))?;
    }
    match loaded {
        Ok(_) if arguments.json => Ok(()),
        Ok(loaded) => {
            say_warnings(&loaded.warnings);
            output::write(summary::check_report(&loaded).to_string().as_bytes())
        }
        Err(refused) => {
            say_warnings(&refused.warnings);
            output::say(refused.render().trim_end());
            Err(Failure::Config(anyhow!("{refused} (read from {})", root.path.display())))
        }
    }
}

fn report(loaded: &Result<Loaded, Box<Refused>>) -> Report {
    let findings = |found: &[ConfigError]| found.iter().map(Finding::from).collect();
    match loaded {
        Ok(loaded) => Report {
            ok: true,
            errors: Vec::new(),
            warnings: findings(&loaded.warnings),
            summary: Some(summary::check_report(loaded)),
        },
        Err(refused) => Report {
            ok: false,
            errors: findings(&refused.errors),
            warnings: findings(&refused.warnings),
            summary: None,
        },
    }
}

fn say_warnings(warnings: &[ConfigWarning]) {
    for warning in warnings {
        output::say(&warning.render("warning"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> serde_json::Value {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("posthaste.toml");
        std::fs::write(&file, text).unwrap();
        let (root, options) = settings::lookup(Some(&file));
        serde_json::to_value(report(&config::load(&root.path, &options))).unwrap()
    }

    #[test]
    fn programs_get_every_error_with_its_place() {
        let report = checked("drain_timeout = 20\n[store]\nmax_byte = \"1GiB\"\n");
        assert_eq!(report["ok"], false);
        assert_eq!(report["summary"], serde_json::Value::Null);
        let lines: Vec<_> =
            report["errors"].as_array().unwrap().iter().map(|error| &error["line"]).collect();
        assert_eq!(lines, [1, 3]);
    }

    #[test]
    fn programs_get_a_summary() {
        let report = checked("");
        assert_eq!(report["ok"], true, "{report}");
        assert!(report["summary"].is_object(), "{report}");
    }

    /// What the README shows can be copied: each TOML text in it is legal. Secrets are not there to be read.
    #[test]
    fn what_the_readme_shows_is_legal() {
        let readme = include_str!("../../README.md");
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("posthaste.toml");
        std::fs::create_dir(directory.path().join("connections.d")).unwrap();
        let between = |start: &str, end: &str| {
            let (_, rest) = readme.split_once(start).unwrap();
            rest.split_once(end).unwrap().0
        };
        let texts = [
            ("posthaste.toml", between("relay/posthaste.toml <<'END'\n", "END\n")),
            (
                "connections.d/orders.toml",
                between("relay/connections.d/orders.toml <<'END'\n", "END\n"),
            ),
            ("connections.d/crm.toml", between("```toml\n", "```")),
        ];
        for (name, text) in texts {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        let (root, mut options) = settings::lookup(Some(&file));
        options.secrets = Secrets::Skip;
        let loaded = config::load(&root.path, &options);
        let loaded = loaded.unwrap_or_else(|refused| panic!("{}", refused.render()));
        assert_eq!(loaded.config.connections.len(), 2);
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    }
}
