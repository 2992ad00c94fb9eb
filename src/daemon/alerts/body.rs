//! What an alert's event says: a JSON object, described in `docs/alerts.md`.

use serde::Serialize;
use serde_json::{Value, json};

use super::Trouble;
use crate::admin::api::rfc3339;
use crate::config::Alert;
use crate::store::suspension::SuspensionKind;

#[derive(Serialize)]
struct Body<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    alert: &'a str,
    at: String,
    connection: Option<&'a str>,
    count: u64,
    message: String,
    details: Value,
}

/// The body: `count` incidents of which the latest, `trouble`, happened at `at_ms`.
pub(super) fn of(
    alert: &Alert,
    kind: &str,
    connection: Option<&str>,
    trouble: &Trouble,
    (count, at_ms): (u64, u64),
) -> Vec<u8> {
    let (message, details) = words(alert, connection.unwrap_or_default(), trouble);
    let at = rfc3339(at_ms);
    let body = Body { kind, alert: &alert.name, at, connection, count, message, details };
    // Strings and numbers always make JSON.
    serde_json::to_vec(&body).unwrap_or_default()
}

/// For people, and for programs.
fn words(alert: &Alert, name: &str, trouble: &Trouble) -> (String, Value) {
    match trouble {
        Trouble::Failed(failure) => {
            let status = (failure.status > 0).then_some(failure.status);
            let why = match status {
                Some(status) => format!("{}, status {status}", failure.cause),
                None => failure.cause.to_string(),
            };
            let dead = failure.last && alert.which.last();
            let what = if dead { "A delivery became a dead letter" } else { "A delivery failed" };
            let details = json!({
                "event": failure.event.map(|event| event.to_string()),
                "attempts": failure.attempts,
                "cause": failure.cause.as_str(),
                "status": status,
                "dead": failure.last,
            });
            (format!("{what} at {name}: {why}"), details)
        }
        Trouble::BacklogAge(age) => {
            let threshold = alert.threshold.map(|threshold| threshold.as_secs());
            let message = format!("The oldest delivery of {name} waits for {} s", age.as_secs());
            (message, json!({ "age_seconds": age.as_secs(), "threshold_seconds": threshold }))
        }
        Trouble::BreakerOpened { open_for, code } => {
            let seconds = open_for.as_secs_f64();
            let message =
                format!("The target of {name} fails ({code}): its breaker is open for {seconds} s");
            (message, json!({ "cause": code.as_str(), "open_for_seconds": seconds }))
        }
        Trouble::Disabled(kind) => {
            let message = match kind {
                SuspensionKind::Gone => {
                    format!("The target of {name} answered 410: the connection is disabled")
                }
                SuspensionKind::FailingTooLong => {
                    format!("{name} did nothing but fail for disable_after: it is disabled")
                }
                SuspensionKind::Halted | SuspensionKind::PausedUntilRestart => {
                    format!("The order of {name} has stopped at a dead letter: it is halted")
                }
            };
            (message, json!({ "cause": kind.as_str() }))
        }
        Trouble::ConfigRejected { errors, messages } => {
            let first = messages.first().map_or("no reason given", String::as_str);
            let message = format!("A reload was refused, the old configuration stays: {first}");
            (message, json!({ "errors": errors, "messages": messages }))
        }
    }
}
