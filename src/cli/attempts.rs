//! `posthaste attempts`: list the attempts that were recorded.

use clap::Args;

use super::admin::Asked;
use super::listing::{List, PageArguments};
use super::output::Table;
use super::{Failure, TEMPLATE};
use crate::admin::api::Attempt;
use crate::event::EventId;

/// Characters of a response that a row of the table shows.
const RESPONSE_CHARS: usize = 60;

/// List attempts that failed, and those that succeeded after failures, the newest first
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste attempts crm
  posthaste attempts crm --code connect_refused --since 1h
  posthaste attempts --status 5xx --since 1d --until 1h
  posthaste attempts --event evt_019ab3c4-5d6e-7f80-9123-456789abcdef
  posthaste attempts --json | jq -r '.models[].response'
")]
pub(super) struct Arguments {
    /// Only those of this connection
    #[arg(value_name = "NAME")]
    connection: Option<String>,
    /// Only those of this event
    #[arg(long, value_name = "ID")]
    event: Option<EventId>,
    /// Only those that ended so: an error code, or \"ok\"
    #[arg(long, value_name = "CODE")]
    code: Option<String>,
    /// Only those whose response had one of these statuses, as in 503, 5xx, 400-499,!404
    #[arg(long, value_name = "STATUS")]
    status: Option<String>,
    /// Only those that ended since: a duration, as in 1h, or a time in UTC
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only those that ended before: a duration, as in 1h, or a time in UTC
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    #[command(flatten)]
    page: PageArguments,
    #[command(flatten)]
    asked: Asked,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let event = arguments.event.map(|id| id.to_string());
    let query = vec![
        ("connection", arguments.connection.as_deref()),
        ("event", event.as_deref()),
        ("code", arguments.code.as_deref()),
        ("status", arguments.status.as_deref()),
        ("since", arguments.since.as_deref()),
        ("until", arguments.until.as_deref()),
    ];
    let list =
        List { path: &["attempts"], query, cursor: "next", none: "no attempts are recorded" };
    list.print(&arguments.page, arguments.asked, table)
}

fn table(attempts: &[Attempt]) -> String {
    let headings = [
        "TIME",
        "CONNECTION",
        "EVENT",
        "ATTEMPT",
        "CODE",
        "STATUS",
        "PHASE",
        "TOOK",
        "DNS",
        "CONNECT",
        "TLS",
        "FIRST BYTE",
        "RESPONSE",
    ];
    let mut table = Table::new(&headings);
    for attempt in attempts {
        let replay = if attempt.replay { " (replay)" } else { "" };
        table.row([
            attempt.at.clone(),
            attempt.connection.clone(),
            attempt.event.clone(),
            format!("{}{replay}", attempt.attempt),
            attempt.code.clone().unwrap_or_else(|| "ok".to_owned()),
            attempt.status.map_or("-".to_owned(), |status| status.to_string()),
            attempt.phase.clone(),
            format!("{:.3}s", attempt.seconds),
            part(attempt.dns_seconds),
            part(attempt.connect_seconds),
            part(attempt.tls_seconds),
            part(attempt.first_byte_seconds),
            response(attempt.response.as_deref()),
        ]);
    }
    table.render()
}

/// How long a part took.
fn part(seconds: Option<f64>) -> String {
    seconds.map_or("-".to_owned(), |seconds| format!("{seconds:.3}s"))
}

/// The start of a response, on one line.
fn response(text: Option<&str>) -> String {
    let text = text.unwrap_or("-");
    let start: String = text.chars().take(RESPONSE_CHARS).collect();
    if start.len() < text.len() { format!("{start}…") } else { start }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_stays_on_its_line_and_drives_no_terminal() {
        let attempt = Attempt {
            event: "evt_1".to_owned(),
            connection: "crm".to_owned(),
            attempt: 2,
            replay: true,
            at: "2025-11-21T00:00:00.000Z".to_owned(),
            code: Some("http_status".to_owned()),
            status: Some(500),
            phase: "response".to_owned(),
            dns_seconds: Some(0.001),
            connect_seconds: Some(0.002),
            tls_seconds: None,
            first_byte_seconds: Some(0.0035),
            seconds: 0.0125,
            remote: None,
            generation: Some(1),
            response: Some(format!("\u{1b}[31mno\r\n{}", "x".repeat(100))),
        };
        let shown = table(&[attempt]);
        let row = shown.lines().nth(1).unwrap();
        assert_eq!(shown.lines().count(), 2);
        let start = "2025-11-21T00:00:00.000Z  crm         evt_1  2 (replay)  http_status  500";
        assert!(row.starts_with(start), "{row}");
        let parts = "response  0.013s  0.001s  0.002s   -    0.004s";
        assert!(row.contains(parts), "{row}");
        assert!(row.contains("\\u{1b}[31mno\\r\\nxxx") && row.ends_with("x…"), "{row}");
    }
}
