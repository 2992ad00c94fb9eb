//! `posthaste connections`: list, show and change connections. The daemon edits its files and puts the change in force; what
//! is refused is printed with file, line and caret.

use anyhow::Context;
use clap::{Args, Subcommand};
use http::{HeaderValue, Method, header};
use serde_json::{Map, Value as Json};

use super::admin::{Admin, Asked, target};
use super::listing::{List, PageArguments};
use super::output::{self, Paint};
use super::{Failure, TEMPLATE, block_on};
use crate::admin::api::connections::{Count, Document};
use crate::logging::escape;

pub(super) mod document;
mod purge;
mod render;
use document::{Keys, put};
use render::{describe, table};

/// List, show and change connections
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste connections list --label team=sales
  posthaste connections create crm --url https://crm.example.com/hooks
  posthaste connections patch crm --set rate_limit.limit=20 --unset timeout
  posthaste connections pause crm
")]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    List(ListArguments),
    Count(CountArguments),
    Show(ShowArguments),
    Create(DocumentArguments),
    Replace(ReplaceArguments),
    Patch(PatchArguments),
    /// Delete a connection; what waits for it is held, unless its on_remove says otherwise
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste connections delete crm
")]
    Delete(NameArguments),
    /// Stop deliveries of a connection; events are still taken, and wait
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste connections pause crm
")]
    Pause(NameArguments),
    /// Go on with a paused connection
    #[command(visible_alias = "unpause", help_template = TEMPLATE, before_help = "\
Examples:
  posthaste connections resume crm
")]
    Resume(NameArguments),
    /// Go on with a disabled connection
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste connections enable crm
")]
    Enable(NameArguments),
    /// Refuse events for a connection; what waits is held
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste connections disable crm
")]
    Disable(NameArguments),
    /// Disable a connection and leave it out of lists
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste connections archive crm
")]
    Archive(NameArguments),
    /// Bring an archived connection back as it was
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste connections unarchive crm
")]
    Unarchive(NameArguments),
    Purge(purge::PurgeArguments),
}

/// Which connections.
#[derive(Debug, Args)]
struct Filter {
    /// Only names like this: * is any text, ? any character
    #[arg(long, value_name = "PATTERN")]
    name: Option<String>,
    /// Only with these labels: team=sales, or team for any value; several with commas
    #[arg(long, value_name = "LABELS")]
    label: Option<String>,
    /// Only of this state
    #[arg(long, value_parser = ["active", "paused", "disabled", "archived"])]
    state: Option<String>,
    /// Only those that this source feeds
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Only those that deliver to this host
    #[arg(long)]
    host: Option<String>,
    /// Archived ones too
    #[arg(long)]
    all: bool,
}

impl Filter {
    fn query(&self) -> Vec<(&str, Option<&str>)> {
        vec![
            ("name", self.name.as_deref()),
            ("label", self.label.as_deref()),
            ("state", self.state.as_deref()),
            ("source", self.source.as_deref()),
            ("host", self.host.as_deref()),
            ("include_disabled", Some("true")),
            ("include_archived", self.all.then_some("true")),
        ]
    }
}

/// List connections, a page at a time
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste connections list
  posthaste connections list --state paused --json | jq -r '.models[].name'
")]
struct ListArguments {
    #[command(flatten)]
    filter: Filter,
    /// What they are ordered by
    #[arg(long, value_parser = ["name", "state", "host"], default_value = "name")]
    order_by: String,
    /// In which direction
    #[arg(long, value_parser = ["asc", "desc"], default_value = "asc")]
    dir: String,
    #[command(flatten)]
    page: PageArguments,
    /// Go back to the page before
    #[arg(long, value_name = "CURSOR", conflicts_with = "next")]
    prev: Option<String>,
    #[command(flatten)]
    asked: Asked,
}

/// Count connections
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste connections count --state paused
")]
struct CountArguments {
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    asked: Asked,
}

/// Show a connection as its file has it; secrets in plain text are shown by their fingerprint
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste connections show crm
  posthaste connections show crm --json > crm.json
")]
struct ShowArguments {
    /// The connection
    name: String,
    #[command(flatten)]
    asked: Asked,
}

/// Create a connection, in a file of its own
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste connections create crm --url https://crm.example.com/hooks --set timeout=5s
  posthaste connections create crm --file crm.json
")]
struct DocumentArguments {
    /// Its name
    name: String,
    #[command(flatten)]
    keys: Keys,
    #[command(flatten)]
    rest: EditArguments,
}

/// Give a connection exactly these keys, or create it
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste connections show crm --json > crm.json
  posthaste connections replace crm --file crm.json
")]
struct ReplaceArguments {
    /// The connection
    name: String,
    #[command(flatten)]
    keys: Keys,
    #[command(flatten)]
    rest: EditArguments,
}

/// Change or remove some keys of a connection
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste connections patch crm --set rate_limit.limit=20
  posthaste connections patch crm --unset timeout --if-match 3f1c…
")]
struct PatchArguments {
    /// The connection
    name: String,
    #[command(flatten)]
    keys: Keys,
    /// Keys to remove
    #[arg(long, value_name = "KEY")]
    unset: Vec<String>,
    #[command(flatten)]
    rest: EditArguments,
}

#[derive(Debug, Args)]
struct NameArguments {
    /// The connection
    name: String,
    #[command(flatten)]
    rest: EditArguments,
}

/// How an edit is made.
#[derive(Debug, Args)]
struct EditArguments {
    /// Only if this is still the version (`meta.etag`)
    #[arg(long, value_name = "ETAG")]
    if_match: Option<String>,
    /// Write the file and leave the running configuration as it is, until a reload
    #[arg(long)]
    no_reload: bool,
    #[command(flatten)]
    asked: Asked,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    match arguments.action {
        Action::List(arguments) => list(arguments),
        Action::Count(arguments) => count(arguments),
        Action::Show(arguments) => show(arguments),
        Action::Create(DocumentArguments { name, keys, rest }) => {
            let mut document = keys.document()?;
            document.entry("name").or_insert_with(|| name.as_str().into());
            let target = target(&["connections"], &rest.query())?;
            edit(Method::POST, &target, Some(document), &name, "created", rest)
        }
        Action::Replace(ReplaceArguments { name, keys, rest }) => {
            let target = target(&["connections", &name], &rest.query())?;
            edit(Method::PUT, &target, Some(keys.document()?), &name, "replaced", rest)
        }
        Action::Patch(PatchArguments { name, keys, unset, rest }) => {
            let mut document = keys.document()?;
            for key in unset {
                put(&mut document, &key, Json::Null)?;
            }
            let target = target(&["connections", &name], &rest.query())?;
            edit(Method::PATCH, &target, Some(document), &name, "changed", rest)
        }
        Action::Delete(NameArguments { name, rest }) => {
            let target = target(&["connections", &name], &rest.query())?;
            edit(Method::DELETE, &target, None, &name, "deleted", rest)
        }
        Action::Pause(arguments) => act(arguments, "pause", "paused"),
        Action::Resume(arguments) => act(arguments, "resume", "resumed"),
        Action::Enable(arguments) => act(arguments, "enable", "enabled"),
        Action::Disable(arguments) => act(arguments, "disable", "disabled"),
        Action::Archive(arguments) => act(arguments, "archive", "archived"),
        Action::Unarchive(arguments) => act(arguments, "unarchive", "unarchived"),
        Action::Purge(arguments) => purge::run(arguments),
    }
}

fn act(arguments: NameArguments, action: &str, done: &str) -> Result<(), Failure> {
    let NameArguments { name, rest } = arguments;
    let target = target(&["connections", &name, action], &rest.query())?;
    edit(Method::POST, &target, None, &name, done, rest)
}

fn edit(
    method: Method,
    target: &str,
    document: Option<Map<String, Json>>,
    name: &str,
    done: &str,
    rest: EditArguments,
) -> Result<(), Failure> {
    let mut headers = Vec::new();
    if let Some(etag) = &rest.if_match {
        let etag = etag.trim_matches('"');
        let value = HeaderValue::from_str(&format!("\"{etag}\""));
        headers.push((header::IF_MATCH, value.context("the etag cannot be sent")?));
    }
    if document.is_some() {
        headers.push((header::CONTENT_TYPE, HeaderValue::from_static("application/json")));
    }
    let body = document.map(|document| Json::Object(document).to_string()).unwrap_or_default();
    let Asked { json, which } = rest.asked;
    let admin = Admin::new(which);
    let answer = block_on(admin.send(method, target, headers, body.into()))?;
    if answer.is_empty() {
        return if json { Ok(()) } else { output::line(&format!("{name} {done}")) };
    }
    let document: Document =
        serde_json::from_slice(&answer).context("the daemon's answer is not understood")?;
    if json {
        return output::json(&document);
    }
    let waits = if rest.no_reload { ", in the file alone: it waits for a reload" } else { "" };
    output::line(&format!("{name} {done} in {}{waits}", escape(&document.meta.file)))
}

impl EditArguments {
    fn query(&self) -> Vec<(&str, &str)> {
        if self.no_reload { vec![("reload", "false")] } else { Vec::new() }
    }
}

fn list(arguments: ListArguments) -> Result<(), Failure> {
    let mut query = arguments.filter.query();
    query.push(("order_by", Some(&arguments.order_by)));
    query.push(("dir", Some(&arguments.dir)));
    query.push(("prev", arguments.prev.as_deref()));
    let list = List { path: &["connections"], query, cursor: "next", none: "no such connections" };
    list.print(&arguments.page, arguments.asked, table)
}

fn count(arguments: CountArguments) -> Result<(), Failure> {
    let query = arguments.filter.query().into_iter();
    let query: Vec<_> = query.filter_map(|(name, value)| Some((name, value?))).collect();
    let target = target(&["connections", "count"], &query)?;
    arguments.asked.show(&target, |count: &Count| format!("{}\n", count.count))
}

fn show(arguments: ShowArguments) -> Result<(), Failure> {
    let target = target(&["connections", &arguments.name], &[])?;
    arguments.asked.show(&target, |document| describe(document, Paint::for_stdout()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_become_queries() {
        let filter = Filter {
            name: Some("c*".to_owned()),
            label: None,
            state: Some("paused".to_owned()),
            source: None,
            host: None,
            all: true,
        };
        let expected = [
            ("name", Some("c*")),
            ("label", None),
            ("state", Some("paused")),
            ("source", None),
            ("host", None),
            ("include_disabled", Some("true")),
            ("include_archived", Some("true")),
        ];
        assert_eq!(filter.query(), expected);
    }
}
