//! `posthaste attempts`: list the attempts that were recorded.

use clap::Args;

use super::admin::{Admin, Which, target};
use super::output::{self, Table};
use super::{Failure, TEMPLATE, block_on};
use crate::admin::api::{Attempt, Page};
use crate::event::EventId;
use crate::logging::escape;

/// Characters of a response that a row of the table shows.
const RESPONSE_CHARS: usize = 60;

/// List attempts that failed, and those that succeeded after failures, the newest first
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste attempts crm
  posthaste attempts crm --code connect_refused --since 1h
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
    /// Only those that ended since: a duration, as in 1h, or a time in UTC
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// At most so many, 1 to 255
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=255))]
    limit: u32,
    /// Go on where the last page ended
    #[arg(long, value_name = "CURSOR")]
    next: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    which: Which,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let (limit, event) = (arguments.limit.to_string(), arguments.event.map(|id| id.to_string()));
    let mut query = vec![("limit", limit.as_str())];
    for (name, value) in [
        ("connection", &arguments.connection),
        ("event", &event),
        ("code", &arguments.code),
        ("since", &arguments.since),
        ("next", &arguments.next),
    ] {
        query.extend(value.as_deref().map(|value| (name, value)));
    }
    let admin = Admin::new(arguments.which);
    let page: Page<Attempt> = block_on(admin.get(&target(&["attempts"], &query)?))?;
    if arguments.json {
        return output::json(&page);
    }
    if page.models.is_empty() {
        output::say("no attempts are recorded");
        return Ok(());
    }
    output::write(table(&page.models).as_bytes())?;
    if let Some(next) = &page.pagination.next {
        output::say(&format!("there are more: --next {}", escape(next)));
    }
    Ok(())
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
