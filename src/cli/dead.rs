//! `posthaste dead`: list, show, replay and purge dead letters.

mod bulk;
pub(super) use bulk::confirm;

use clap::{Args, Subcommand};

use super::admin::{Asked, target};
use super::listing::{List, PageArguments};
use super::output::{self, Fields, Table};
use super::{Failure, TEMPLATE};
use crate::admin::api::{DeadDetail, DeadLetter};
use crate::event::EventId;

/// Look at deliveries that failed for good, and send them again
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste dead list --connection crm
  posthaste dead show crm evt_019ab3c4-5d6e-7f80-9123-456789abcdef
  posthaste dead replay crm --all --plan
  posthaste dead replay crm --all --wait
")]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    List(ListArguments),
    Show(ShowArguments),
    Replay(bulk::ReplayArguments),
    Purge(bulk::PurgeArguments),
}

/// List dead letters, a page at a time
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste dead list
  posthaste dead list --code http_status --status 5xx --since 1d
  posthaste dead list --connection crm --json | jq -r '.models[].id'
")]
struct ListArguments {
    /// Only those of this connection
    #[arg(long, value_name = "NAME")]
    connection: Option<String>,
    #[command(flatten)]
    filter: bulk::Filter,
    #[command(flatten)]
    page: PageArguments,
    #[command(flatten)]
    asked: Asked,
}

/// Show one dead letter and its event
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste dead show crm evt_019ab3c4-5d6e-7f80-9123-456789abcdef
  posthaste dead show crm evt_019ab3c4-5d6e-7f80-9123-456789abcdef --body > body.json
")]
struct ShowArguments {
    /// The connection that it did not reach
    connection: String,
    /// The event's id
    event: EventId,
    /// Print the body alone, byte for byte
    #[arg(long, conflicts_with = "json")]
    body: bool,
    #[command(flatten)]
    asked: Asked,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    match arguments.action {
        Action::List(arguments) => list(arguments),
        Action::Show(arguments) => show(arguments),
        Action::Replay(arguments) => bulk::replay(arguments),
        Action::Purge(arguments) => bulk::purge(arguments),
    }
}

fn list(arguments: ListArguments) -> Result<(), Failure> {
    let mut query = vec![("connection", arguments.connection.as_deref())];
    query.extend(arguments.filter.query().into_iter().map(|(name, value)| (name, Some(value))));
    let list = List { path: &["dead"], query, cursor: "after", none: "no dead letters" };
    list.print(&arguments.page, arguments.asked, table)
}

fn table(letters: &[DeadLetter]) -> String {
    let mut table =
        Table::new(&["EVENT", "CONNECTION", "CAUSE", "STATUS", "ATTEMPTS", "ACCEPTED", "SIZE"]);
    for letter in letters {
        table.row([
            letter.id.clone(),
            letter.connection.clone(),
            letter.cause.clone(),
            letter.status.map_or("-".to_owned(), |status| status.to_string()),
            letter.attempts.to_string(),
            letter.accepted_at.clone(),
            output::bytes(letter.bytes),
        ]);
    }
    table.render()
}

fn show(arguments: ShowArguments) -> Result<(), Failure> {
    let event = arguments.event.to_string();
    let mut path = vec!["connections", arguments.connection.as_str(), "dead", event.as_str()];
    if arguments.body {
        path.push("body");
        return arguments.asked.show_bytes(&target(&path, &[])?);
    }
    arguments.asked.show(&target(&path, &[])?, describe)
}

fn describe(detail: &DeadDetail) -> String {
    let letter = &detail.dead_letter;
    let status = letter.status.map_or(String::new(), |status| format!(" {status}"));
    let mut fields = Fields::default();
    fields.line("event", &letter.id);
    fields.line("connection", &letter.connection);
    fields.line("cause", &format!("{}{status}", letter.cause));
    fields.line("attempts", &letter.attempts.to_string());
    fields.line("accepted", &letter.accepted_at);
    fields.line("died", letter.died_at.as_deref().unwrap_or_default());
    fields.line("source", &detail.source);
    fields.line("type", &detail.kind);
    for header in &detail.headers {
        fields.line("header", &format!("{}: {}", header.name, header.value));
    }
    fields.line("body", &output::bytes(detail.body_bytes));
    fields.text() + &output::excerpt(detail.body_excerpt.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::api::Header;

    #[test]
    fn a_dead_letter_is_described_without_driving_the_terminal() {
        let detail = DeadDetail {
            dead_letter: DeadLetter {
                id: "evt_1".to_owned(),
                connection: "crm".to_owned(),
                cause: "http_status".to_owned(),
                status: Some(400),
                attempts: 1,
                accepted_at: "2025-11-21T00:00:00.000Z".to_owned(),
                died_at: None,
                bytes: 100,
            },
            source: "default".to_owned(),
            kind: String::new(),
            headers: vec![Header { name: "x-note".to_owned(), value: "\u{1b}[31mred".to_owned() }],
            body_bytes: 20,
            body_excerpt: Some("{\n\"a\": \"\u{7}\"\n}".to_owned()),
        };
        let expected = "\
event       evt_1
connection  crm
cause       http_status 400
attempts    1
accepted    2025-11-21T00:00:00.000Z
source      default
header      x-note: \\u{1b}[31mred
body        20 B

{
\"a\": \"\\u{7}\"
}
";
        assert_eq!(describe(&detail), expected);
        let listed = table(&[detail.dead_letter]);
        assert!(listed.lines().nth(1).unwrap().starts_with("evt_1  crm"), "{listed}");
    }
}
