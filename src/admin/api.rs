//! What the admin API says, as plain values: the daemon fills them in, the routes serialise them, the command line reads
//! them back. Times are RFC 3339 in UTC; durations are seconds.
//!
//! Fields are only ever added, so that an older command line can read a newer daemon's answers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub mod connections;
pub mod deliveries;
pub mod explain;
pub mod jobs;
pub mod transfer;
pub mod trial;

/// `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// The process.
    pub daemon: Daemon,
    /// Every configured connection, by name.
    pub connections: Vec<Connection>,
    /// Queues held for connections that are no longer configured.
    pub orphaned: Vec<Orphaned>,
    /// The store.
    pub store: Store,
    /// Alerts, in the order of the configuration.
    #[serde(default)]
    pub alerts: Vec<Alert>,
}

/// One `[[alert]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Alert {
    /// Its name.
    pub name: String,
    /// The connection that delivers it.
    pub to: String,
    /// How many were raised since the start.
    pub raised: u64,
    /// How many were folded into one of these.
    pub suppressed: u64,
    /// The last one, if there was one since the start.
    pub last: Option<LastAlert>,
}

/// An alert that was raised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LastAlert {
    /// The id of its event.
    pub event: String,
    /// Its event's type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The connection that it is about; `None` where it is about none.
    pub connection: Option<String>,
    /// When.
    pub at: String,
}

/// The process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Daemon {
    /// Of the binary that runs.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// `starting`, `ready` or `draining`.
    pub state: String,
    /// Since the process started.
    pub uptime_seconds: u64,
    /// Of the configuration in force; 1 is the one at start.
    pub generation: u64,
    /// The last reload, taken or refused; `None` before the first one.
    pub last_reload: Option<LastReload>,
    /// The daemon's configuration file, if it has one.
    pub config_file: Option<String>,
}

/// A reload that was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LastReload {
    /// When it ended.
    pub at: String,
    /// Whether the new configuration is in force.
    pub successful: bool,
    /// The first error, when it is not.
    pub error: Option<String>,
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Connection {
    /// Its name.
    pub name: String,
    /// `active`, `paused` or `disabled`: what its file says, or stricter what the daemon made of it.
    pub state: String,
    /// Why the daemon holds it although its file does not, if it does.
    #[serde(default)]
    pub suspended: Option<Suspended>,
    /// `closed`, `half_open` or `open`; `None` when it has no breaker.
    #[serde(default)]
    pub breaker: Option<String>,
    /// Deliveries that are not over.
    pub queue: Queue,
    /// Dead letters kept.
    pub dead: u64,
    /// Time since the acceptance of the oldest delivery that is not over.
    pub oldest_age_seconds: Option<u64>,
    /// The last attempt that failed, if the daemon remembers one.
    pub last_error: Option<LastError>,
}

/// Why the daemon holds a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Suspended {
    /// `gone`, `failing_too_long`, `halted` or `paused_until_restart`.
    pub cause: String,
    /// Since when.
    pub since: String,
}

/// Deliveries that are not over, by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Queue {
    /// Wait for their turn.
    pub queued: u64,
    /// Wait for a time.
    pub scheduled: u64,
    /// Wait for an operator (paused or disabled) or for the target to come back (breaker).
    pub held: u64,
    /// Are being sent.
    pub in_flight: u64,
    /// Payload bytes of all of them.
    pub bytes: u64,
}

impl Queue {
    /// All deliveries that are not over.
    pub fn total(&self) -> u64 {
        self.queued + self.scheduled + self.held + self.in_flight
    }
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LastError {
    /// One of the closed list of causes.
    pub cause: String,
    /// The response's status, if one came.
    pub status: Option<u16>,
    /// When.
    pub at: String,
}

/// A queue without a connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Orphaned {
    /// The name that the connection had.
    pub name: String,
    /// Deliveries held.
    pub held: u64,
    /// Dead letters kept.
    pub dead: u64,
}

/// The store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Store {
    /// Where it is.
    pub path: String,
    /// What its files take.
    pub bytes: u64,
    /// What they may take.
    pub max_bytes: u64,
    /// Segment files.
    pub segments: u64,
    /// Bytes of its files that are only kept because of `keep_delivered`.
    #[serde(default)]
    pub kept_bytes: u64,
    /// Bytes of the files of failed attempts, which come on top.
    #[serde(default)]
    pub attempts_bytes: u64,
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// Where this page lies.
    pub pagination: Pagination,
    /// How many are on it.
    pub count: usize,
    /// What is on it.
    pub models: Vec<T>,
}

/// Where a page lies in its list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Pagination {
    /// How many were asked for.
    pub limit: u32,
    /// What `after` must be for the next page; `None` on the last one.
    pub next: Option<String>,
}

/// A dead letter, as the index knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeadLetter {
    /// The event's id.
    pub id: String,
    /// The connection that it did not reach.
    pub connection: String,
    /// Why, of the closed list of causes.
    pub cause: String,
    /// The last response's status, if one came.
    pub status: Option<u16>,
    /// Attempts made in the last run.
    pub attempts: u32,
    /// When the event was accepted.
    pub accepted_at: String,
    /// When it became a dead letter, if that is known.
    pub died_at: Option<String>,
    /// Bytes of the event's record.
    pub bytes: u64,
}

/// A dead letter with its event: `GET /v1/connections/{name}/dead/{event_id}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeadDetail {
    /// The dead letter.
    pub dead_letter: DeadLetter,
    /// The source that the event came from.
    pub source: String,
    /// The event's type; empty when it has none.
    #[serde(rename = "type")]
    pub kind: String,
    /// The event's kept headers.
    pub headers: Vec<Header>,
    /// Bytes of the body. The body itself is at `…/body`.
    pub body_bytes: u64,
    /// The start of the body, when it is text.
    pub body_excerpt: Option<String>,
}

/// An event that is still in the store: `GET /v1/events/{id}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EventDetail {
    /// Its id.
    pub id: String,
    /// When it was accepted.
    pub accepted_at: String,
    /// The source that it came from.
    pub source: String,
    /// Its type; empty when it has none.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its kept headers.
    pub headers: Vec<Header>,
    /// Bytes of the body. The body itself is at `…/body`.
    pub body_bytes: u64,
    /// The start of the body, when it is text.
    pub body_excerpt: Option<String>,
    /// How it stands with its connections, by name.
    pub deliveries: Vec<DeliveryState>,
}

/// How a delivery stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeliveryState {
    /// The connection.
    pub connection: String,
    /// `live`, `dead`, or `over`: delivered or cancelled.
    pub state: String,
}

/// An attempt that failed, or one that succeeded after failures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Attempt {
    /// The event's id.
    pub event: String,
    /// The connection.
    pub connection: String,
    /// Its number in its run, from 1.
    pub attempt: u32,
    /// Whether the run is a replay.
    pub replay: bool,
    /// When it ended.
    pub at: String,
    /// Why it failed, of the closed list; `None` when it succeeded.
    pub code: Option<String>,
    /// The response's status, if one came.
    pub status: Option<u16>,
    /// How far it came: `lookup`, `connect`, `tls`, `request`, `response` or `body`.
    pub phase: String,
    /// How long the name lookup took; `None` when there was none.
    pub dns_seconds: Option<f64>,
    /// How long it took to open the socket, a proxy's agreement included; `None` when one was open.
    pub connect_seconds: Option<f64>,
    /// How long it took to agree on TLS; `None` when there was no handshake.
    pub tls_seconds: Option<f64>,
    /// From the request to the response's head; `None` when none came.
    pub first_byte_seconds: Option<f64>,
    /// How long it took to the response's head, or to the failure.
    pub seconds: f64,
    /// The address, if that was known.
    pub remote: Option<String>,
    /// The generation of the configuration that it used, if that is known.
    pub generation: Option<u64>,
    /// The start of the response's body, at most 4 KiB, after the Location of a redirect. Bytes that are not UTF-8 show
    /// as U+FFFD.
    pub response: Option<String>,
}

/// A header of an event. Bytes that are not UTF-8 show as U+FFFD.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Header {
    /// In lower case.
    pub name: String,
    /// As it came.
    pub value: String,
}

/// The answer to a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Replayed {
    /// Dead letters that are queued again.
    pub replayed: u64,
}

/// The answer to a cancel or a purge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Cancelled {
    /// Deliveries that are cancelled.
    pub cancelled: u64,
}

/// What can be done with the deliveries of an event that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventAction {
    /// Try at once what waits for a time.
    Retry,
    /// Make dead letters of what waits.
    Cancel,
}

impl EventAction {
    /// Its name in paths and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            EventAction::Retry => "retry",
            EventAction::Cancel => "cancel",
        }
    }
}

/// The answer to a retry or a cancel of an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventActed {
    /// The event's id.
    pub event: String,
    /// Its deliveries that were not over, by connection.
    pub deliveries: Vec<EventResult>,
}

/// What came of it for one delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventResult {
    /// The connection.
    pub connection: String,
    /// What came of it.
    pub result: ResultOf,
}

/// What came of a retry or a cancel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResultOf {
    /// It waits for a time no more.
    Retried,
    /// It is a dead letter with the cause `cancelled`.
    Cancelled,
    /// Nothing: an attempt is under way, and ends as it ends.
    InFlight,
    /// Nothing: its time has come already, and it waits for its connection.
    Due,
}

impl ResultOf {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            ResultOf::Retried => "retried",
            ResultOf::Cancelled => "cancelled",
            ResultOf::InFlight => "in_flight",
            ResultOf::Due => "due",
        }
    }
}

/// The answer to a reload that was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reloaded {
    /// Of the configuration now in force.
    pub generation: u64,
    /// Names of new connections.
    pub added: Vec<String>,
    /// Names of connections with other settings.
    pub changed: Vec<String>,
    /// Names of connections that are gone.
    pub removed: Vec<String>,
    /// One line for each thing that is legal and unwise.
    pub warnings: Vec<String>,
}

/// One error of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfigProblem {
    /// `file:line:column: key: what is wrong`.
    pub message: String,
    /// The same with the line and a caret under the place.
    pub rendered: String,
}

/// A problem document (RFC 9457) as the command line reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProblemDocument {
    /// A URN made of the code; it names the kind of problem and is not meant to be opened.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// What went wrong, for any such problem.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What went wrong this time, and the mend.
    #[serde(default)]
    pub detail: String,
    /// The stable name of the problem.
    #[serde(default)]
    pub code: String,
    /// All errors of a refused configuration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<ConfigProblem>,
}

/// Milliseconds since 1970 as RFC 3339 in UTC, to the millisecond.
pub fn rfc3339(unix_ms: u64) -> String {
    let (days, ms_of_day) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    let (year, month, day) = civil_from_days(days);
    let (hour, minute) = (ms_of_day / 3_600_000, ms_of_day / 60_000 % 60);
    let (second, ms) = (ms_of_day / 1000 % 60, ms_of_day % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// The date of a day since 1970-01-01, by Howard Hinnant's `civil_from_days` (years begin in March).
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

/// Reads what [`rfc3339`] writes, in milliseconds since 1970; the fraction may be left out.
pub fn parse_rfc3339(text: &str) -> Option<u64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(time, ':')?;
    let legal = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (hour < 24 && minute < 60 && second < 60)
        && (1..=3).contains(&fraction.len());
    if !legal {
        return None;
    }
    let [ms, ..] = numbers(&format!("{fraction:0<3}-0-0"), '-')?;
    let days = days_from_civil(year, month, day);
    Some(days * 86_400_000 + hour * 3_600_000 + minute * 60_000 + second * 1000 + ms)
}

fn numbers(text: &str, separator: char) -> Option<[u64; 3]> {
    let parts: Vec<u64> = text
        .split(separator)
        .map(|part| part.parse().ok().filter(|_| part.bytes().all(|byte| byte.is_ascii_digit())))
        .collect::<Option<_>>()?;
    parts.try_into().ok()
}

/// The day since 1970-01-01 of a date: the other way round of [`civil_from_days`].
fn days_from_civil(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year.saturating_sub(1) } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day.saturating_sub(1);
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * 146_097 + day_of_era).saturating_sub(719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for day in 0..90_000 {
            let ms = day * 86_400_000 + 86_399_999;
            assert_eq!(parse_rfc3339(&rfc3339(ms)), Some(ms));
        }
        assert_eq!(parse_rfc3339("1970-01-02T00:00:01Z"), Some(86_401_000));
        for bad in [
            "",
            "Z",
            "2025-11-21",
            "2025-13-21T00:00:00Z",
            "2025-11-21T24:00:00Z",
            "1d",
            "2025-11-21T00:00:00",
            "2025-11-21T+1:00:00Z",
            "99999999999-01-01T00:00:00Z",
            "2025-11-21T00:00:00.Z",
            "1969-01-01T00:00:00Z",
        ] {
            assert_eq!(parse_rfc3339(bad), None, "{bad}");
        }
    }

    #[test]
    fn times_are_rfc_3339() {
        let check = |unix_ms, expected| assert_eq!(rfc3339(unix_ms), expected);
        check(0, "1970-01-01T00:00:00.000Z");
        check(951_782_400_000, "2000-02-29T00:00:00.000Z");
        check(1_709_164_799_999, "2024-02-28T23:59:59.999Z");
        check(1_709_251_200_001, "2024-03-01T00:00:00.001Z");
        check(1_763_683_641_500, "2025-11-21T00:07:21.500Z");
        check(4_102_444_799_000, "2099-12-31T23:59:59.000Z");
    }

    #[test]
    fn a_problem_of_another_version_is_read() {
        let problem: ProblemDocument =
            serde_json::from_str(r#"{"title":"Gone","status":410,"new":1}"#).unwrap();
        assert_eq!((problem.status, problem.code.as_str()), (410, ""));
    }
}
