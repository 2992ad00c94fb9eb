//! `posthaste events` and `posthaste replay`: look up single events, send them again, try them at once, cancel them.

use clap::{Args, Subcommand};

use super::admin::{Asked, target};
use super::listing::{List, PageArguments};
use super::output::{self, Fields, Table};
use super::{Failure, TEMPLATE};
use crate::admin::api::deliveries::Delivery;
use crate::admin::api::{EventActed, EventAction, EventDetail, Replayed};
use crate::event::EventId;

/// Look at single events, and change what waits
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste events list crm --state scheduled
  posthaste events show evt_019ab3c4-5d6e-7f80-9123-456789abcdef
")]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    List(ListArguments),
    Show(ShowArguments),
    /// Try at once the deliveries of an event that wait for a time
    ///
    /// A retry's, or a delay's. What holds the connection (a breaker, a pause) goes on holding it.
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste events retry evt_019ab3c4-5d6e-7f80-9123-456789abcdef
  posthaste events retry evt_019ab3c4-5d6e-7f80-9123-456789abcdef --connection crm
")]
    Retry(ActArguments),
    /// Cancel the deliveries of an event that wait; they become dead letters with the cause \"cancelled\"
    ///
    /// An attempt under way cannot be cancelled.
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste events cancel evt_019ab3c4-5d6e-7f80-9123-456789abcdef
  posthaste events cancel evt_019ab3c4-5d6e-7f80-9123-456789abcdef --connection crm
")]
    Cancel(ActArguments),
}

/// List the deliveries of a connection, the newest first
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste events list crm
  posthaste events list crm --state scheduled
  posthaste events list crm --type order.created --since 1h
  posthaste events list crm --state dead --code http_status --json | jq -r '.models[].event'
")]
struct ListArguments {
    /// The connection
    #[arg(value_name = "NAME")]
    connection: String,
    /// Only those that stand so: queued, scheduled, out (being sent, or next), dead, or over (and kept)
    #[arg(long, value_name = "STATE")]
    state: Option<String>,
    /// Only dead ones with this cause, as in http_status
    #[arg(long, value_name = "CODE")]
    code: Option<String>,
    /// Only dead ones whose last response had one of these statuses: 503, 5xx, 400-499,!404
    #[arg(long, value_name = "STATUSES")]
    status: Option<String>,
    /// Only events of this type
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Only events accepted since: a duration, as in 1h, or a time in UTC
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only events accepted before: a duration, as in 1h, or a time in UTC
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    #[command(flatten)]
    page: PageArguments,
    #[command(flatten)]
    asked: Asked,
}

#[derive(Debug, Args)]
struct ActArguments {
    /// The event's id
    event: EventId,
    /// Only the delivery to this connection
    #[arg(long, value_name = "NAME")]
    connection: Option<String>,
    #[command(flatten)]
    asked: Asked,
}

/// Show one event that is still in the store: it is on its way, dead, or kept by keep_delivered
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste events show evt_019ab3c4-5d6e-7f80-9123-456789abcdef
  posthaste events show evt_019ab3c4-5d6e-7f80-9123-456789abcdef --body > body.json
")]
struct ShowArguments {
    /// The event's id
    event: EventId,
    /// Print the body alone, byte for byte
    #[arg(long, conflicts_with = "json")]
    body: bool,
    #[command(flatten)]
    asked: Asked,
}

/// Send one event to a connection again, on a new run
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste replay evt_019ab3c4-5d6e-7f80-9123-456789abcdef --connection crm

It must be in the store still: kept by keep_delivered, or a dead letter.
")]
pub(super) struct ReplayArguments {
    /// The event's id
    event: EventId,
    /// The connection, one of those that it was for
    #[arg(long, value_name = "NAME")]
    connection: String,
    #[command(flatten)]
    asked: Asked,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    match arguments.action {
        Action::List(arguments) => list(arguments),
        Action::Show(arguments) => show(arguments),
        Action::Retry(arguments) => act(EventAction::Retry, arguments),
        Action::Cancel(arguments) => act(EventAction::Cancel, arguments),
    }
}

fn list(arguments: ListArguments) -> Result<(), Failure> {
    let query = vec![
        ("state", arguments.state.as_deref()),
        ("code", arguments.code.as_deref()),
        ("status", arguments.status.as_deref()),
        ("type", arguments.kind.as_deref()),
        ("since", arguments.since.as_deref()),
        ("until", arguments.until.as_deref()),
    ];
    let path = ["connections", arguments.connection.as_str(), "deliveries"];
    let list = List { path: &path, query, cursor: "next", none: "no deliveries" };
    list.print(&arguments.page, arguments.asked, table)
}

fn table(deliveries: &[Delivery]) -> String {
    let mut table =
        Table::new(&["EVENT", "STATE", "TYPE", "ACCEPTED", "ATTEMPTS", "DUE", "CODE", "STATUS"]);
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    for delivery in deliveries {
        table.row([
            delivery.event.clone(),
            delivery.state.as_str().to_owned(),
            delivery.kind.clone(),
            delivery.accepted_at.clone(),
            delivery.attempts.to_string(),
            or_dash(&delivery.due_at),
            or_dash(&delivery.code),
            delivery.status.map_or("-".to_owned(), |status| status.to_string()),
        ]);
    }
    table.render()
}

fn show(arguments: ShowArguments) -> Result<(), Failure> {
    let event = arguments.event.to_string();
    if arguments.body {
        return arguments.asked.show_bytes(&target(&["events", &event, "body"], &[])?);
    }
    arguments.asked.show(&target(&["events", &event], &[])?, describe)
}

fn act(action: EventAction, arguments: ActArguments) -> Result<(), Failure> {
    let event = arguments.event.to_string();
    let connection = arguments.connection.as_deref().map(|name| ("connection", name));
    let target = target(&["events", &event, action.as_str()], connection.as_slice())?;
    let json = arguments.asked.json;
    let acted: EventActed = arguments.asked.post(&target)?;
    if json {
        return output::json(&acted);
    }
    let mut table = Table::new(&["CONNECTION", "RESULT"]);
    for delivery in acted.deliveries {
        table.row([delivery.connection, delivery.result.as_str().to_owned()]);
    }
    output::write(table.render().as_bytes())
}

pub(super) fn replay(arguments: ReplayArguments) -> Result<(), Failure> {
    let (event, name) = (arguments.event.to_string(), arguments.connection.as_str());
    let json = arguments.asked.json;
    let target = target(&["events", &event, "replay"], &[("connection", name)])?;
    let replayed: Replayed = arguments.asked.post(&target)?;
    if json {
        return output::json(&replayed);
    }
    output::line(&format!("{event} queued again for {name}"))
}

fn describe(detail: &EventDetail) -> String {
    let mut fields = Fields::default();
    fields.line("event", &detail.id);
    fields.line("accepted", &detail.accepted_at);
    fields.line("source", &detail.source);
    fields.line("type", &detail.kind);
    for delivery in &detail.deliveries {
        fields.line("delivery", &format!("{} {}", delivery.connection, delivery.state));
    }
    for header in &detail.headers {
        fields.line("header", &format!("{}: {}", header.name, header.value));
    }
    fields.line("body", &output::bytes(detail.body_bytes));
    fields.text() + &output::excerpt(detail.body_excerpt.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::api::DeliveryState;

    #[test]
    fn an_event_is_described_without_driving_the_terminal() {
        let detail = EventDetail {
            id: "evt_1".to_owned(),
            accepted_at: "2025-11-21T00:00:00.000Z".to_owned(),
            source: "default".to_owned(),
            kind: "order\u{7}".to_owned(),
            headers: Vec::new(),
            body_bytes: 3,
            body_excerpt: Some("a\n\u{1b}".to_owned()),
            deliveries: vec![DeliveryState {
                connection: "crm".to_owned(),
                state: "over".to_owned(),
            }],
        };
        let expected = "\
event       evt_1
accepted    2025-11-21T00:00:00.000Z
source      default
type        order\\u{7}
delivery    crm over
body        3 B

a
\\u{1b}
";
        assert_eq!(describe(&detail), expected);
    }
}
