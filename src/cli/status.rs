//! `posthaste status`: how the daemon is and what waits.

use clap::Args;

use super::admin::Asked;
use super::output::{self, Paint, Table};
use super::{Failure, TEMPLATE};
use crate::admin::api::{Alert, Connection, Status};

/// Show the daemon, its queues and its store
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste status
  posthaste status --json | jq '.connections[] | select(.dead > 0)'
")]
pub(super) struct Arguments {
    #[command(flatten)]
    asked: Asked,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    arguments.asked.show("/v1/status", |status| render(status, Paint::for_stdout()))
}

fn render(status: &Status, paint: Paint) -> String {
    let daemon = &status.daemon;
    let state = match daemon.state.as_str() {
        "ready" => paint.good("ready"),
        other => paint.bad(&crate::logging::escape(other)),
    };
    let mut text = format!(
        "posthaste {} is {state}: pid {}, up {}, configuration {}\n",
        daemon.version,
        daemon.pid,
        output::seconds(daemon.uptime_seconds),
        daemon.generation,
    );
    if let Some(reload) = daemon.last_reload.as_ref().filter(|reload| !reload.successful) {
        let error = crate::logging::escape(reload.error.as_deref().unwrap_or("no reason given"));
        text += &format!("{} at {}: {error}\n", paint.bad("last reload refused"), reload.at);
    }
    let store = &status.store;
    text += &format!(
        "store {}: {} of {} in {}\n",
        store.path,
        output::bytes(store.bytes),
        output::bytes(store.max_bytes),
        output::plural(store.segments, "segment"),
    );
    if store.kept_bytes > 0 {
        text += &format!("  {} of it keeps delivered events\n", output::bytes(store.kept_bytes));
    }
    if store.attempts_bytes > 0 {
        text += &format!("  and {} of failed attempts\n", output::bytes(store.attempts_bytes));
    }
    for alert in &status.alerts {
        text += &format!("alert {}: {}\n", alert.name, last_alert(alert));
    }
    text + "\n" + &connections(status)
}

fn last_alert(alert: &Alert) -> String {
    let Some(last) = &alert.last else {
        return format!("none for {}", alert.to);
    };
    let about = last.connection.as_ref().map_or(String::new(), |name| format!(" of {name}"));
    format!(
        "{} for {}, and {} folded into them; last {}{about} at {}",
        alert.raised, alert.to, alert.suppressed, last.kind, last.at
    )
}

fn connections(status: &Status) -> String {
    if status.connections.is_empty() && status.orphaned.is_empty() {
        return "no connections are configured\n".to_owned();
    }
    let mut table = Table::new(&[
        "CONNECTION",
        "STATE",
        "QUEUED",
        "SCHEDULED",
        "HELD",
        "IN FLIGHT",
        "DEAD",
        "OLDEST",
        "LAST ERROR",
    ]);
    for connection in &status.connections {
        let queue = connection.queue;
        table.row([
            connection.name.clone(),
            state(connection),
            queue.queued.to_string(),
            queue.scheduled.to_string(),
            queue.held.to_string(),
            queue.in_flight.to_string(),
            connection.dead.to_string(),
            connection.oldest_age_seconds.map_or("-".to_owned(), output::seconds),
            last_error(connection),
        ]);
    }
    for orphan in &status.orphaned {
        let (name, held, dead) =
            (orphan.name.clone(), orphan.held.to_string(), orphan.dead.to_string());
        let none = || "-".to_owned();
        let state = "orphaned".to_owned();
        table.row([name, state, none(), none(), held, none(), dead, none(), none()]);
    }
    table.render()
}

/// Its state, and what makes it so if that is not its file.
pub(super) fn state(connection: &Connection) -> String {
    let breaker = connection.breaker.as_deref().filter(|breaker| *breaker != "closed");
    match (&connection.suspended, breaker) {
        (Some(suspended), _) => {
            format!("{} ({})", connection.state, suspended.cause.replace('_', " "))
        }
        (None, Some(breaker)) => {
            format!("{} (breaker {})", connection.state, breaker.replace('_', "-"))
        }
        (None, None) => connection.state.clone(),
    }
}

pub(super) fn last_error(connection: &Connection) -> String {
    match &connection.last_error {
        None => "-".to_owned(),
        Some(error) => match error.status {
            Some(status) => format!("{} {status} at {}", error.cause, error.at),
            None => format!("{} at {}", error.cause, error.at),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::api::{
        Daemon, LastAlert, LastError, LastReload, Orphaned, Queue, Store, Suspended,
    };

    #[test]
    fn a_state_says_what_made_it_so() {
        let connection = |state: &str, suspended: Option<&str>, breaker: Option<&str>| Connection {
            name: "crm".to_owned(),
            state: state.to_owned(),
            suspended: suspended.map(|cause| Suspended {
                cause: cause.to_owned(),
                since: "2025-11-21T00:00:00.000Z".to_owned(),
            }),
            breaker: breaker.map(str::to_owned),
            queue: Queue::default(),
            dead: 0,
            oldest_age_seconds: None,
            last_error: None,
        };
        for (suspended, breaker, expected) in [
            (None, None, "active"),
            (None, Some("closed"), "active"),
            (None, Some("half_open"), "active (breaker half-open)"),
            (Some("paused_until_restart"), Some("open"), "active (paused until restart)"),
        ] {
            assert_eq!(state(&connection("active", suspended, breaker)), expected);
        }
    }

    #[test]
    fn people_see_what_waits_and_why() {
        let status = Status {
            daemon: Daemon {
                version: "0.1.0".to_owned(),
                pid: 4711,
                state: "ready".to_owned(),
                uptime_seconds: 3_700,
                generation: 3,
                last_reload: Some(LastReload {
                    at: "2025-11-21T00:00:00.000Z".to_owned(),
                    successful: false,
                    error: Some("crm.toml:3:1: unknown key".to_owned()),
                }),
                config_file: None,
            },
            connections: vec![Connection {
                name: "crm".to_owned(),
                state: "active".to_owned(),
                suspended: None,
                breaker: Some("closed".to_owned()),
                queue: Queue { queued: 1, scheduled: 22, held: 0, in_flight: 4, bytes: 9 },
                dead: 5,
                oldest_age_seconds: Some(61),
                last_error: Some(LastError {
                    cause: "http_status".to_owned(),
                    status: Some(503),
                    at: "2025-11-21T00:00:01.000Z".to_owned(),
                }),
            }],
            orphaned: vec![Orphaned { name: "old".to_owned(), held: 7, dead: 0 }],
            store: Store {
                path: "/var/lib/posthaste".to_owned(),
                bytes: 134_217_728,
                max_bytes: 10_737_418_240,
                segments: 2,
                kept_bytes: 1 << 20,
                attempts_bytes: 2048,
            },
            alerts: vec![
                Alert {
                    name: "ops".to_owned(),
                    to: "pager".to_owned(),
                    raised: 2,
                    suppressed: 7,
                    last: Some(LastAlert {
                        event: "evt_1".to_owned(),
                        kind: "posthaste.breaker.opened".to_owned(),
                        connection: Some("crm".to_owned()),
                        at: "2025-11-21T00:00:02.000Z".to_owned(),
                    }),
                },
                Alert {
                    name: "files".to_owned(),
                    to: "pager".to_owned(),
                    raised: 0,
                    suppressed: 0,
                    last: None,
                },
            ],
        };
        let text = render(&status, Paint::plain());
        let expected = "\
posthaste 0.1.0 is ready: pid 4711, up 1h 1m, configuration 3
last reload refused at 2025-11-21T00:00:00.000Z: crm.toml:3:1: unknown key
store /var/lib/posthaste: 128.0 MiB of 10.0 GiB in 2 segments
  1.0 MiB of it keeps delivered events
  and 2.0 KiB of failed attempts
alert ops: 2 for pager, and 7 folded into them; last posthaste.breaker.opened of crm at 2025-11-21T00:00:02.000Z
alert files: none for pager

CONNECTION  STATE     QUEUED  SCHEDULED  HELD  IN FLIGHT  DEAD  OLDEST  LAST ERROR
crm         active    1       22         0     4          5     1m 1s   http_status 503 at 2025-11-21T00:00:01.000Z
old         orphaned  -       -          7     -          0     -       -
";
        assert_eq!(text, expected);
    }
}
