//! `posthaste explain`: why an event is where it is.

use clap::Args;

use super::admin::{Asked, target};
use super::output::Fields;
use super::{Failure, TEMPLATE};
use crate::admin::api::Attempt;
use crate::admin::api::explain::{Explained, Explanation};
use crate::event::EventId;
use crate::logging::escape;

/// Say how an event stands with each connection, why, what would change that, and when
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste explain evt_019ab3c4-5d6e-7f80-9123-456789abcdef
  posthaste explain evt_019ab3c4-5d6e-7f80-9123-456789abcdef --json
")]
pub(super) struct Arguments {
    /// The event's id
    event: EventId,
    #[command(flatten)]
    asked: Asked,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let event = arguments.event.to_string();
    arguments.asked.show(&target(&["events", &event, "explain"], &[])?, describe)
}

fn describe(explanation: &Explanation) -> String {
    let mut fields = Fields::default();
    fields.line("event", &explanation.id);
    fields.line("accepted", &explanation.accepted_at);
    fields.line("source", explanation.source.as_deref().unwrap_or_default());
    fields.line("type", explanation.kind.as_deref().unwrap_or_default());
    if !explanation.stored {
        fields.line("note", "the event itself is not in the store");
    }
    let mut text = fields.text();
    for delivery in &explanation.deliveries {
        text += &describe_delivery(delivery);
    }
    text
}

fn describe_delivery(delivery: &Explained) -> String {
    let cause = delivery.cause.as_ref().map(|cause| format!(" ({})", escape(cause)));
    let mut fields = Fields::default();
    fields.line("  why", &delivery.why);
    fields.line("  unblocks", delivery.unblock.as_deref().unwrap_or_default());
    fields.line("  next", delivery.next_at.as_deref().unwrap_or_default());
    if let Some(attempts) = delivery.attempts.filter(|attempts| *attempts > 0) {
        fields.line("  attempts", &attempts.to_string());
    }
    for attempt in &delivery.last_attempts {
        fields.line("  attempt", &line_of(attempt));
    }
    format!(
        "\n{}: {}{}\n{}",
        escape(&delivery.connection),
        escape(&delivery.state),
        cause.unwrap_or_default(),
        fields.text()
    )
}

fn line_of(attempt: &Attempt) -> String {
    let code = attempt.code.as_deref().unwrap_or("ok");
    let status = attempt.status.map_or(String::new(), |status| format!(" {status}"));
    let replay = if attempt.replay { " (replay)" } else { "" };
    format!("{}{replay} at {}: {code}{status}", attempt.attempt, attempt.at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explanation_reads_from_top_to_bottom_and_drives_no_terminal() {
        let explanation = Explanation {
            id: "evt_1".to_owned(),
            accepted_at: "2025-11-21T00:00:00.000Z".to_owned(),
            stored: true,
            source: Some("default".to_owned()),
            kind: Some("order\u{7}".to_owned()),
            deliveries: vec![Explained {
                connection: "crm".to_owned(),
                state: "scheduled".to_owned(),
                cause: Some("backoff".to_owned()),
                why: "attempt 1 failed; it is tried again".to_owned(),
                unblock: Some("time alone".to_owned()),
                next_at: Some("2025-11-21T00:00:05.000Z".to_owned()),
                attempts: Some(1),
                last_attempts: Vec::new(),
            }],
        };
        let expected = "\
event       evt_1
accepted    2025-11-21T00:00:00.000Z
source      default
type        order\\u{7}

crm: scheduled (backoff)
  why       attempt 1 failed; it is tried again
  unblocks  time alone
  next      2025-11-21T00:00:05.000Z
  attempts  1
";
        assert_eq!(describe(&explanation), expected);
    }
}
