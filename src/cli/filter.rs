//! `posthaste filter`: tries a filter on a sample event, without a daemon.

use std::path::PathBuf;

use anyhow::anyhow;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::sample::{EventArguments, connection, read};
use super::{Failure, TEMPLATE, output};
use crate::connection::filter::{Filter, FilterError};
use crate::connection::json::Json;
use crate::connection::part::Step;
use crate::connection::parts::Parts;

/// Try filters on sample events
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste filter test --connection crm order.json
  posthaste filter test --filter filter.json --data '{\"total\": 5}'
")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Test(TestArguments),
}

/// Say whether a filter lets a sample event pass, and if not, why
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste filter test --connection crm order.json --header x-tenant:acme
  echo '{\"total\": 5}' | posthaste filter test --filter filter.json -

Prints pass, or no and the conditions that failed; then the exit code is 1. A filter file is JSON, with
body, headers, path and query, as the field filter may be.

")]
struct TestArguments {
    /// A file with the filter as JSON
    #[arg(long, value_name = "FILE", required_unless_present = "connection")]
    filter: Option<PathBuf>,
    /// The filter of this connection
    #[arg(long, value_name = "NAME", conflicts_with = "filter")]
    connection: Option<String>,
    /// The daemon's configuration file, to find the connection
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    event: EventArguments,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Verdict {
    pass: bool,
    type_error: bool,
    reasons: Vec<String>,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let Command::Test(arguments) = arguments.command;
    let (filter, source) = match &arguments.connection {
        Some(name) => {
            let connection = connection(name, arguments.config.as_deref())?;
            let filter = connection.payload.as_ref().and_then(|payload| payload.filter.clone());
            (filter, connection.sources.first().cloned().unwrap_or_default())
        }
        None => {
            let file = arguments.filter.clone().unwrap_or_default();
            (Some(compiled(&read(&file)?)?), "default".to_owned())
        }
    };
    let event = arguments.event.sample(&source)?.event();
    let verdict = judge(filter.as_ref(), &event);
    if arguments.json {
        output::json(&verdict)?;
    } else {
        output::line(&crate::logging::escape(if verdict.pass { "pass" } else { "no" }))?;
        for reason in &verdict.reasons {
            output::line(&format!("  {}", crate::logging::escape(reason)))?;
        }
    }
    match verdict.pass {
        true => Ok(()),
        false => Err(Failure::Failed(anyhow!("the filter does not let the event pass"))),
    }
}

fn judge(filter: Option<&Filter>, event: &crate::event::Event) -> Verdict {
    let Some(filter) = filter else {
        return Verdict { pass: true, type_error: false, reasons: Vec::new() };
    };
    let (judgement, reasons) = filter.explain(&Parts::new(event));
    Verdict { pass: judgement.matches, type_error: judgement.type_error, reasons }
}

fn compiled(text: &[u8]) -> Result<Filter, Failure> {
    let json =
        Json::parse(text).map_err(|error| Failure::Config(anyhow!("the filter: {error}")))?;
    Filter::compile(&json).map_err(|errors| {
        for error in &errors {
            output::complain(&shown(error));
        }
        Failure::Config(anyhow!("the filter has errors"))
    })
}

/// `filter.body.total: what is wrong`
fn shown(error: &FilterError) -> String {
    let steps = error.steps.iter().map(|step| match step {
        Step::Key(key) => format!(".{key}"),
        Step::Index(at) => format!("[{at}]"),
    });
    format!("filter{}: {}", steps.collect::<String>(), error.message)
}
