//! `posthaste events` and `posthaste replay`: look up single events, send them again, try them at once, cancel them.

use clap::{Args, Subcommand};

use super::admin::{Asked, target};
use super::output::{self, Fields, Table};
use super::{Failure, TEMPLATE};
use crate::admin::api::{EventActed, EventAction, EventDetail, Replayed};
use crate::event::EventId;

/// Look at single events, and change what waits
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste events show evt_019ab3c4-5d6e-7f80-9123-456789abcdef
")]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
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
        Action::Show(arguments) => show(arguments),
        Action::Retry(arguments) => act(EventAction::Retry, arguments),
        Action::Cancel(arguments) => act(EventAction::Cancel, arguments),
    }
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
