//! `posthaste events` and `posthaste replay`: look up single events and send them again.

use clap::{Args, Subcommand};

use super::admin::{Asked, target};
use super::output::{self, Fields};
use super::{Failure, TEMPLATE};
use crate::admin::api::{EventDetail, Replayed};
use crate::event::EventId;

/// Look at single events
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
    let Action::Show(arguments) = arguments.action;
    let event = arguments.event.to_string();
    if arguments.body {
        return arguments.asked.show_bytes(&target(&["events", &event, "body"], &[])?);
    }
    arguments.asked.show(&target(&["events", &event], &[])?, describe)
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
