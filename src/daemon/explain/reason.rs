//! The words of `explain`. Pure: facts in, sentences out.

use std::time::Duration;

use crate::admin::api::{Attempt, rfc3339};
use crate::connection::{Connection, State};
use crate::delivery::LastFailure;
use crate::event::{EventId, Wait};
use crate::ingress::Ignored;
use crate::store::DeadLetter;
use crate::store::feed::Lane;
use crate::store::suspension::SuspensionKind;
use crate::units::HumanDuration;

/// Clocks of two machines may differ by so much before an id counts as one of the future.
const SKEW_MS: u64 = 60_000;

/// Why a delivery is where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reason {
    pub(super) state: &'static str,
    pub(super) cause: Option<&'static str>,
    pub(super) why: String,
    pub(super) unblock: Option<String>,
    /// Wall clock in milliseconds.
    pub(super) next_ms: Option<u64>,
    pub(super) attempts: Option<u32>,
}

/// What is known of a connection that does not take its next delivery just now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held<'a> {
    pub(super) connection: &'a Connection,
    /// Why the daemon holds it, if it does.
    pub(super) suspended: Option<SuspensionKind>,
    /// Which gate said no.
    pub(super) wait: Wait,
    /// When the gate opens, if that is known; wall clock in milliseconds.
    pub(super) next_ms: Option<u64>,
    /// Attempts under way.
    pub(super) in_flight: u32,
    /// The last attempt of the connection that failed.
    pub(super) failure: Option<LastFailure>,
}

impl Reason {
    fn new(state: &'static str, cause: Option<&'static str>, why: impl Into<String>) -> Reason {
        let why = why.into();
        Reason { state, cause, why, unblock: None, next_ms: None, attempts: None }
    }

    fn unblock(mut self, unblock: impl Into<String>) -> Reason {
        self.unblock = Some(unblock.into());
        self
    }

    fn attempts(mut self, attempts: u32) -> Reason {
        self.attempts = Some(attempts);
        self
    }
}

/// A delivery that is due waits for a gate of its connection.
pub(super) fn gated(held: &Held<'_>, attempts: u32) -> Reason {
    let Held { connection, wait, next_ms, .. } = *held;
    let state = if wait.holds() { "held" } else { "queued" };
    let (why, unblock) = match wait {
        Wait::Paused => paused(held),
        Wait::Disabled => disabled(held),
        Wait::Breaker => breaker(held),
        Wait::RetryAfter => (
            "the target asked to be left alone (Retry-After), so the whole connection waits"
                .to_owned(),
            "time alone".to_owned(),
        ),
        Wait::Pool => (
            format!("all {} HTTP connections of its pool are in use", connection.effective_pool()),
            "an attempt that ends; if that takes long, the target is slow or `pool` is too small"
                .to_owned(),
        ),
        Wait::Concurrency => concurrency(held),
        Wait::Memory => (
            "its payload is being read from the disk, or there is no room for it in memory"
                .to_owned(),
            "an attempt that ends and gives memory back; more room is [limits] memory".to_owned(),
        ),
        Wait::RateLimit => (rate_limit(connection), "time, or a higher rate_limit".to_owned()),
        Wait::Turn | Wait::Delay | Wait::Backoff | Wait::Ordering | Wait::Orphaned => {
            ("others are before it".to_owned(), "its turn: nothing holds the connection".to_owned())
        }
    };
    let reason = Reason::new(state, Some(wait.as_str()), why).unblock(unblock).attempts(attempts);
    Reason { next_ms, ..reason }
}

fn paused(held: &Held<'_>) -> (String, String) {
    let name = &held.connection.name;
    match held.suspended {
        Some(SuspensionKind::PausedUntilRestart) => (
            "the connection is paused until a restart".to_owned(),
            format!("`posthaste resume {name}`, or a restart"),
        ),
        _ if held.connection.state == State::Paused => (
            "the connection's file says that it is paused".to_owned(),
            format!("`posthaste connections resume {name}`, or state = \"active\" in its file"),
        ),
        _ => (
            "the first of its order is dead, and on_dead = \"halt\" stops the connection"
                .to_owned(),
            format!("`posthaste resume {name}`: then the next one goes"),
        ),
    }
}

fn disabled(held: &Held<'_>) -> (String, String) {
    let name = &held.connection.name;
    let enable = format!("`posthaste enable {name}`, or an edit of the connection");
    match held.suspended {
        Some(SuspensionKind::Gone) => {
            ("the target answered 410 (gone), so the connection is disabled".to_owned(), enable)
        }
        Some(SuspensionKind::FailingTooLong) => (
            "nothing but failure for disable_after, so the connection is disabled".to_owned(),
            enable,
        ),
        _ => (
            "the connection's file says that it is disabled".to_owned(),
            format!("`posthaste connections enable {name}`, or state = \"active\" in its file"),
        ),
    }
}

fn breaker(held: &Held<'_>) -> (String, String) {
    let last = held.failure.map(|failure| match failure.status {
        0 => format!(" (last: {})", failure.cause),
        status => format!(" (last: {}, status {status})", failure.cause),
    });
    let why = format!("the target fails{}, so the breaker is open", last.unwrap_or_default());
    let unblock = match held.next_ms {
        Some(_) => "the success of one attempt, which is made when the breaker's time is over",
        None => "the success of the attempt that is under way",
    };
    (why, unblock.to_owned())
}

fn concurrency(held: &Held<'_>) -> (String, String) {
    let (most, now) = (held.connection.max_in_flight, held.in_flight);
    if now < most {
        return (
            format!(
                "the connection comes back slowly: {now} of {most} attempts are under way at one time"
            ),
            "successes: each allows one more at one time".to_owned(),
        );
    }
    (
        format!("as many attempts are under way as max_in_flight allows ({most})"),
        "an attempt that ends, or a higher max_in_flight".to_owned(),
    )
}

fn rate_limit(connection: &Connection) -> String {
    match connection.rate_limit {
        Some(rate) => format!(
            "the rate limit of {} in {} is used up for now",
            rate.limit,
            HumanDuration(rate.per)
        ),
        None => "the rate limit is used up for now".to_owned(),
    }
}

/// Nothing delivers it.
pub(super) fn orphaned(attempts: u32) -> Reason {
    let why = "no connection has this name any more";
    Reason::new("held", Some(Wait::Orphaned.as_str()), why)
        .unblock("a connection with this name, or one with renamed_from")
        .attempts(attempts)
}

/// It is being sent.
pub(super) fn in_flight(attempts: u32) -> Reason {
    let number = attempts.saturating_add(1);
    Reason::new("in_flight", None, format!("attempt {number} is under way")).attempts(attempts)
}

/// It stands behind others of its ordering key.
pub(super) fn behind(first: Option<EventId>, attempts: u32) -> Reason {
    let (why, unblock) = match first {
        Some(first) => (
            format!("{first} comes before it in the order, and is not over"),
            format!("the end of that one: `posthaste explain {first}`"),
        ),
        None => (
            "its place in the order is not known yet, or others are before it".to_owned(),
            "the end of those before it".to_owned(),
        ),
    };
    let cause = Some(Wait::Ordering.as_str());
    Reason::new("queued", cause, why).unblock(unblock).attempts(attempts)
}

/// It waits for a time. `held`: what it would wait for if it were due now.
pub(super) fn scheduled(lane: Lane, attempts: u32, next_ms: u64, held: Reason) -> Reason {
    let (wait, why) = match lane {
        Lane::Retry => (Wait::Backoff, format!("attempt {attempts} failed; it is tried again")),
        Lane::New | Lane::Replay => (Wait::Delay, "it came with a delay".to_owned()),
    };
    let mut reason = Reason::new("scheduled", Some(wait.as_str()), why).attempts(attempts);
    reason.next_ms = Some(next_ms);
    if held.state == "held" {
        reason.why += &format!("; and {}", held.why);
        reason.unblock = held.unblock;
    } else {
        reason.unblock = Some("time alone".to_owned());
    }
    reason
}

/// It is a dead letter.
pub(super) fn dead(name: &str, letter: &DeadLetter) -> Reason {
    let status = match letter.status {
        0 => String::new(),
        status => format!(", status {status}"),
    };
    let tried = match letter.attempts {
        0 => "without an attempt".to_owned(),
        1 => "after 1 attempt".to_owned(),
        attempts => format!("after {attempts} attempts"),
    };
    let why = format!(
        "a dead letter since {}, {tried} ({}{status})",
        rfc3339(letter.died_ms),
        letter.cause
    );
    Reason::new("dead", Some(letter.cause.as_str()), why)
        .unblock(format!("`posthaste dead replay {name}` with this id, once the cause is mended"))
        .attempts(letter.attempts)
}

/// It is over, and its record is still there.
pub(super) fn over(tried: &[Attempt]) -> Reason {
    match tried.first() {
        Some(last) if last.code.is_none() => delivered(last),
        Some(last) => Reason::new(
            "over",
            None,
            format!(
                "it is over and no dead letter; the last failure on record is attempt {} at {}: cancelled or purged since, or its success was not recorded",
                last.attempt, last.at
            ),
        ),
        None => Reason::new(
            "over",
            None,
            "delivered at the first attempt, which leaves no record; or cancelled untried",
        ),
    }
}

/// Its event is not in the store any more.
pub(super) fn left_store(tried: &[Attempt]) -> Reason {
    match tried.first() {
        Some(last) if last.code.is_none() => delivered(last),
        _ => Reason::new(
            "over",
            None,
            "it is not in the store any more: cancelled, purged, a dead letter past keep_dead, or its success was not recorded",
        ),
    }
}

fn delivered(last: &Attempt) -> Reason {
    let why = format!("attempt {} succeeded at {}", last.attempt, last.at);
    Reason::new("delivered", None, why).attempts(last.attempt)
}

/// The connection did not take it.
pub(super) fn ignored(name: &str, why: Ignored) -> Reason {
    let (text, unblock) = match why {
        Ignored::Filtered => (
            "the connection's filter said no".to_owned(),
            format!(
                "another filter and a new post; `posthaste filter test --connection {name}` tries one"
            ),
        ),
        Ignored::Duplicate(first) => (
            format!("the same as {first}, which came first within the dedupe window"),
            "a post after the window, or another dedupe".to_owned(),
        ),
        Ignored::Disabled => (
            "the connection was disabled when the event came".to_owned(),
            "a new post after `posthaste enable`; a paused connection would have kept it"
                .to_owned(),
        ),
    };
    Reason::new("ignored", Some(why.as_str()), text).unblock(unblock)
}

/// The event is in the store, and not for this connection of its source.
pub(super) fn not_routed() -> Reason {
    let why = "the event was not for it when it was accepted: posted to one connection alone, ignored longer ago than is remembered, or the connection is newer";
    Reason::new("ignored", Some("not_routed"), why).unblock("a new post")
}

/// What an event may be of which nothing is known. `kept`: how long delivered ones are.
pub(super) fn unknown(event: EventId, wall_ms: u64, kept: Duration) -> String {
    let made_ms = event.unix_ms();
    if event.0.get_version_num() != 7 || made_ms > wall_ms.saturating_add(SKEW_MS) {
        return "no posthaste has made this id up to now; is it complete?".to_owned();
    }
    let kept = match kept {
        Duration::ZERO => {
            "delivered at once and not kept ([store] keep_delivered = \"0s\")".to_owned()
        }
        kept => format!(
            "delivered and past its keep time ([store] keep_delivered = \"{}\")",
            HumanDuration(kept)
        ),
    };
    format!(
        "its id was made at {}; since then it was {kept}, or cancelled or purged, or no connection wanted it, or it was never accepted here",
        rfc3339(made_ms)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::testing::connection;
    use crate::event::Cause;

    fn held(connection: &Connection, wait: Wait) -> Held<'_> {
        Held { connection, suspended: None, wait, next_ms: Some(1000), in_flight: 0, failure: None }
    }

    #[test]
    fn every_gate_says_what_would_open_it() {
        let crm = connection("crm", "http://example.com/");
        let mut said = std::collections::BTreeSet::new();
        for wait in Wait::ALL {
            let reason = gated(&held(&crm, wait), 2);
            assert_eq!(reason.state == "held", wait.holds(), "{wait}");
            assert_eq!((reason.attempts, reason.next_ms), (Some(2), Some(1000)));
            assert!(reason.unblock.as_ref().is_some_and(|text| !text.is_empty()), "{wait}");
            said.insert(reason.why);
        }
        // Those that are no gate of a connection share one answer.
        assert_eq!(said.len(), Wait::ALL.len() - 4, "{said:#?}");
    }

    #[test]
    fn states_name_who_holds_the_connection() {
        let crm = connection("crm", "http://example.com/");
        let by_file = Connection { state: State::Paused, ..crm.clone() };
        let check = |connection: &Connection, wait, suspended, expected: &str| {
            let held = Held { suspended, ..held(connection, wait) };
            let unblock = gated(&held, 0).unblock.unwrap();
            assert!(unblock.contains(expected), "{wait} {suspended:?}: {unblock}");
        };
        check(&by_file, Wait::Paused, None, "`posthaste connections resume crm`");
        check(&crm, Wait::Paused, Some(SuspensionKind::Halted), "`posthaste resume crm`");
        check(&crm, Wait::Paused, Some(SuspensionKind::PausedUntilRestart), "or a restart");
        check(&crm, Wait::Disabled, Some(SuspensionKind::Gone), "`posthaste enable crm`");
        check(&crm, Wait::Disabled, None, "`posthaste connections enable crm`");
    }

    #[test]
    fn a_breaker_names_the_last_failure_and_a_ramp_its_step() {
        let crm = connection("crm", "http://example.com/");
        let failure = LastFailure { at_ms: 1, cause: Cause::HttpStatus, status: 500 };
        let open = Held { failure: Some(failure), ..held(&crm, Wait::Breaker) };
        assert_eq!(
            gated(&open, 0).why,
            "the target fails (last: http_status, status 500), so the breaker is open"
        );
        let ramp = Held { in_flight: 2, ..held(&crm, Wait::Concurrency) };
        assert!(gated(&ramp, 0).why.contains("2 of 4"), "{:?}", gated(&ramp, 0));
        let full = Held { in_flight: 4, ..held(&crm, Wait::Concurrency) };
        assert!(gated(&full, 0).why.contains("max_in_flight"), "{:?}", gated(&full, 0));
    }

    #[test]
    fn a_retry_of_a_held_connection_says_both() {
        let crm = connection("crm", "http://example.com/");
        let retry = |wait| scheduled(Lane::Retry, 3, 7, gated(&held(&crm, wait), 3));
        let free = retry(Wait::Turn);
        assert_eq!((free.state, free.cause, free.next_ms), ("scheduled", Some("backoff"), Some(7)));
        assert_eq!(free.unblock.as_deref(), Some("time alone"));
        let both = retry(Wait::Breaker);
        assert!(both.why.contains("attempt 3 failed") && both.why.contains("breaker"), "{both:?}");
        let delayed = scheduled(Lane::New, 0, 7, gated(&held(&crm, Wait::Turn), 0));
        assert_eq!(delayed.cause, Some("delay"));
    }

    #[test]
    fn what_is_unknown_is_told_apart_by_its_id() {
        let id = EventId::new(1_000_000, &mut fastrand::Rng::with_seed(1));
        let past = unknown(id, 2_000_000, Duration::ZERO);
        assert!(past.contains("1970-01-01T00:16:40.000Z") && past.contains("\"0s\""), "{past}");
        let kept = unknown(id, 2_000_000, Duration::from_secs(3600));
        assert!(kept.contains("keep_delivered = \"1h\""), "{kept}");
        assert!(unknown(id, 1_000, Duration::ZERO).contains("up to now"));
        let strange = EventId(uuid::Uuid::from_u128(7));
        assert!(unknown(strange, u64::MAX, Duration::ZERO).contains("up to now"));
    }
}
