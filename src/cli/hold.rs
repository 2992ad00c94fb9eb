//! `posthaste enable`, `resume` and `pause`: a connection goes on, or is held.

use clap::Args;

use super::admin::{Admin, Asked, target};
use super::{Failure, TEMPLATE, block_on, output};
use crate::admin::api::Connection;

/// Let a connection go on that is disabled
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste enable crm

The daemon disables a connection whose target answered 410 (disable_on_gone), or that did nothing but
fail for disable_after. A state that stands in the connection's file is changed there, too.

")]
pub(super) struct EnableArguments {
    #[command(flatten)]
    common: Common,
}

/// Let a connection go on that is paused, or whose order was halted
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste resume crm

")]
pub(super) struct ResumeArguments {
    #[command(flatten)]
    common: Common,
}

/// Hold a connection: it goes on accepting, and delivers nothing
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste pause crm --until-restart

To hold it for longer, write state = \"paused\" into its file.

")]
pub(super) struct PauseArguments {
    /// Only until the daemon is started again; no file is changed
    #[arg(long)]
    until_restart: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct Common {
    /// The connection
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    asked: Asked,
}

pub(super) fn enable(arguments: EnableArguments) -> Result<(), Failure> {
    ask(arguments.common, "enable", &[])
}

pub(super) fn resume(arguments: ResumeArguments) -> Result<(), Failure> {
    ask(arguments.common, "resume", &[])
}

pub(super) fn pause(arguments: PauseArguments) -> Result<(), Failure> {
    let query = [("until_restart", "true")];
    let query = if arguments.until_restart { &query[..] } else { &[] };
    ask(arguments.common, "pause", query)
}

fn ask(common: Common, what: &str, query: &[(&str, &str)]) -> Result<(), Failure> {
    let Common { name, asked: Asked { json, which } } = common;
    let target = target(&["connections", &name, what], query)?;
    let status = self::target(&["connections", &name, "status"], &[])?;
    let admin = Admin::new(which);
    block_on(admin.post::<serde::de::IgnoredAny>(&target))?;
    let connection: Connection = block_on(admin.get(&status))?;
    if json { output::json(&connection) } else { output::line(&render(&connection)) }
}

fn render(connection: &Connection) -> String {
    let name = crate::logging::escape(&connection.name);
    let waiting = output::plural(connection.queue.total(), "event");
    let waiting = if connection.queue.total() == 1 {
        format!("{waiting} waits")
    } else {
        format!("{waiting} wait")
    };
    format!("{name} is {}; {waiting}", super::status::state(connection))
}
