//! `posthaste transform`: shows the request that a connection would make of a sample event, without a daemon.

use std::path::PathBuf;

use anyhow::anyhow;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::sample::{EventArguments, connection};
use super::{Failure, TEMPLATE, output};
use crate::connection::sample::Sent;

/// Show what connections make of sample events
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste transform test --connection crm order.json
")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Test(TestArguments),
}

/// Show the request that a connection would send for a sample event
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste transform test --connection crm order.json --type order.created
  echo '{\"id\": 7}' | posthaste transform test --connection crm - --body

Prints method, URL, headers and body. Credentials, signatures and the headers of each attempt are left out, and
secrets are not read. When it would be a dead letter, it says why, and the exit code is 1.

")]
struct TestArguments {
    /// The connection
    #[arg(long, value_name = "NAME")]
    connection: String,
    /// The daemon's configuration file, to find the connection
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    event: EventArguments,
    /// Print the body alone, byte for byte
    #[arg(long, conflicts_with = "json")]
    body: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Shown {
    method: String,
    url: String,
    headers: Vec<(String, String)>,
    body: String,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let Command::Test(arguments) = arguments.command;
    let connection = connection(&arguments.connection, arguments.config.as_deref())?;
    let source = connection.sources.first().map_or("default", String::as_str);
    let event = arguments.event.sample(source)?.event();
    let sent = connection.would_send(&event).map_err(|unsendable| {
        let cause = unsendable.cause.as_str();
        let detail = crate::logging::escape(&unsendable.detail);
        Failure::Failed(anyhow!("a dead letter, cause {cause}: {detail}"))
    })?;
    if arguments.body {
        return output::write(&sent.body);
    }
    let shown = shown(&sent);
    if arguments.json {
        return output::json(&shown);
    }
    let escape = crate::logging::escape;
    output::line(&escape(&format!("{} {}", shown.method, shown.url)))?;
    for (name, value) in &shown.headers {
        output::line(&escape(&format!("{name}: {value}")))?;
    }
    output::line("")?;
    let lines: Vec<String> = shown.body.lines().map(|line| escape(line).to_string()).collect();
    output::line(&lines.join("\n"))
}

fn shown(sent: &Sent) -> Shown {
    let value = |value: &http::HeaderValue| match value.is_sensitive() {
        true => "(secret)".to_owned(),
        false => String::from_utf8_lossy(value.as_bytes()).into_owned(),
    };
    let headers = sent.headers.iter();
    Shown {
        method: sent.method.to_string(),
        url: sent.url.clone(),
        headers: headers.map(|(name, one)| (name.to_string(), value(one))).collect(),
        body: String::from_utf8_lossy(&sent.body).into_owned(),
    }
}
