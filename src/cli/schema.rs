//! `posthaste schema` and `posthaste man`: what the binary knows of itself, for editors and for manuals.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};

use super::{Failure, TEMPLATE, output};
use crate::config::schema;

/// Print the JSON Schema of a configuration file, for editors
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste schema > connection.schema.json
  posthaste schema daemon > posthaste.schema.json
")]
pub(super) struct Arguments {
    /// Of which file
    #[arg(value_enum, default_value_t = Of::Connections)]
    of: Of,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Of {
    /// A file of connections.d
    Connections,
    /// posthaste.toml
    Daemon,
}

/// Print the manual page, or write one for each command
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste man | man -l -
  posthaste man /usr/local/share/man/man1
")]
pub(super) struct ManArguments {
    /// Where to write posthaste.1, posthaste-run.1 and the others; it must exist
    directory: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let schema = match arguments.of {
        Of::Connections => schema::of_connection_file(),
        Of::Daemon => schema::of_daemon_file(),
    };
    let text = serde_json::to_string_pretty(&schema).context("the schema cannot be written")?;
    output::line(&text)
}

pub(super) fn man(arguments: &ManArguments, command: clap::Command) -> Result<(), Failure> {
    match &arguments.directory {
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(command).render(&mut page).context("cannot make the page")?;
            output::write(&page)
        }
        Some(directory) => {
            let pages = write_pages(command, directory)?;
            output::say(&format!("{} in {}", output::plural(pages, "page"), directory.display()));
            Ok(())
        }
    }
}

/// Writes a page for a command and for each of those below it.
fn write_pages(mut command: clap::Command, directory: &Path) -> Result<u64, Failure> {
    // Gives each command below its whole name: posthaste-connections-list.
    command.build();
    let mut open = vec![command];
    let mut pages = 0;
    while let Some(command) = open.pop() {
        open.extend(command.get_subcommands().cloned());
        let man = clap_mangen::Man::new(command);
        let path = directory.join(man.get_filename());
        let mut page = Vec::new();
        man.render(&mut page).context("cannot make the page")?;
        std::fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
        pages += 1;
    }
    Ok(pages)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let directory = tempfile::tempdir().unwrap();
        let pages = write_pages(super::super::Arguments::command(), directory.path()).unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count() as u64, pages);
        let page = std::fs::read_to_string(directory.path().join("posthaste-connections-patch.1"));
        let page = page.unwrap();
        assert!(page.contains(".TH") && page.contains("unset"), "{page}");
        let missing = directory.path().join("missing");
        assert!(write_pages(super::super::Arguments::command(), &missing).is_err());
    }
}
