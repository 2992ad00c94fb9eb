//! `posthaste explain`: why an event is where it is.

use clap::Args;

use super::admin::{Admin, Which, target};
use super::output;
use super::{Failure, TEMPLATE, block_on};
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
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    which: Which,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let event = arguments.event.to_string();
    let admin = Admin::new(arguments.which);
    let target = target(&["events", &event, "explain"], &[])?;
    let explanation: Explanation = block_on(admin.get(&target))?;
    if arguments.json {
        return output::json(&explanation);
    }
    output::write(describe(&explanation).as_bytes())
}

fn describe(explanation: &Explanation) -> String {
    let mut text = String::new();
    put(&mut text, "event", &explanation.id);
    put(&mut text, "accepted", &explanation.accepted_at);
    if let Some(source) = &explanation.source {
        put(&mut text, "source", source);
    }
    if let Some(kind) = &explanation.kind {
        put(&mut text, "type", kind);
    }
    if !explanation.stored {
        put(&mut text, "note", "the event itself is not in the store");
    }
    for delivery in &explanation.deliveries {
        describe_delivery(&mut text, delivery);
    }
    text
}

fn describe_delivery(text: &mut String, delivery: &Explained) {
    text.push_str(&format!("\n{}: {}", escape(&delivery.connection), escape(&delivery.state)));
    if let Some(cause) = &delivery.cause {
        text.push_str(&format!(" ({})", escape(cause)));
    }
    text.push('\n');
    put(text, "  why", &delivery.why);
    if let Some(unblock) = &delivery.unblock {
        put(text, "  unblocks", unblock);
    }
    if let Some(next) = &delivery.next_at {
        put(text, "  next", next);
    }
    if let Some(attempts) = delivery.attempts.filter(|attempts| *attempts > 0) {
        put(text, "  attempts", &attempts.to_string());
    }
    for attempt in &delivery.last_attempts {
        put(text, "  attempt", &line_of(attempt));
    }
}

fn line_of(attempt: &Attempt) -> String {
    let code = attempt.code.as_deref().unwrap_or("ok");
    let status = attempt.status.map_or(String::new(), |status| format!(" {status}"));
    let replay = if attempt.replay { " (replay)" } else { "" };
    format!("{}{replay} at {}: {code}{status}", attempt.attempt, attempt.at)
}

fn put(text: &mut String, name: &str, value: &str) {
    text.push_str(&format!("{name:<12}{}\n", escape(value)));
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
