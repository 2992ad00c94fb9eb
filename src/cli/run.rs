//! `posthaste run`: the daemon, in the foreground.

use std::path::PathBuf;

use anyhow::anyhow;
use clap::Args;

use super::{Failure, TEMPLATE, welcome};
use crate::daemon::{self, RunError};
use crate::listener::Inherited;
use crate::logging;

/// Run the daemon
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste run
  posthaste run --config ./posthaste.toml

SIGTERM and Ctrl-C drain and exit, a second one exits at once; SIGHUP reloads.

")]
pub(super) struct Arguments {
    /// The daemon's configuration file [default: $POSTHASTE_CONFIG, /etc/posthaste/posthaste.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    welcome::look_for_files(arguments.config.as_deref())?;
    // The daemon applies what the configuration says as soon as it has read it.
    logging::init(logging::Settings::default()).map_err(|error| anyhow!("cannot log: {error}"))?;
    let inherited = Inherited::from_env()
        .map_err(|error| anyhow!("{error}: the unit hands over something else than sockets"))?;
    let options =
        daemon::Options { config_file: arguments.config, inherited, ..daemon::Options::default() };
    daemon::run(options).map_err(failure)
}

/// The exit code that a daemon's end asks for.
pub(super) fn failure(error: RunError) -> Failure {
    match error {
        RunError::Config(refused) => Failure::Config(anyhow!("{}", refused.render().trim_end())),
        error @ RunError::StoreVersion { .. } => Failure::Config(error.into()),
        error @ RunError::Store { .. } => Failure::Store(error.into()),
        error => Failure::Failed(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::OpenError;

    #[test]
    fn ends_have_their_exit_codes() {
        let path = PathBuf::from("/store");
        let unknown = OpenError::UnknownVersion { file: "st".to_owned(), version: 9 };
        let codes = [
            (RunError::StoreVersion { path: path.clone(), error: unknown }, 78),
            (RunError::Store { path, error: OpenError::Locked }, 74),
            (RunError::Failed("ingress"), 1),
        ];
        for (error, code) in codes {
            assert_eq!(failure(error).exit_code(), code);
        }
    }
}
