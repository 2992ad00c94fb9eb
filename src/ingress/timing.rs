//! When an event is to go out, and how long its producer waits to hear of it.

use std::time::Duration;

use http::{HeaderMap, HeaderName};
use jiff::Timestamp;

use super::refusal::{Refusal, Refused};
use crate::units::HumanDuration;

/// The latest that an event may be put off.
pub(super) const DELAY_MAX: Duration = Duration::from_secs(7 * 86_400);
/// The longest that a producer may wait for the outcome.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(60);

const DELIVER_AT: HeaderName = HeaderName::from_static("posthaste-deliver-at");
const DELAY: HeaderName = HeaderName::from_static("posthaste-delay");

/// How long an event waits before its first attempt, if its producer says so: `posthaste-delay`, or `posthaste-deliver-at`
/// against the wall clock. What is past is now. A wait of zero is not none: it wins over a connection's `delay`.
pub(super) fn delay_of(
    headers: &HeaderMap,
    wall_ms: impl FnOnce() -> u64,
) -> Result<Option<Duration>, Refused> {
    let (at, delay) = (once(headers, &DELIVER_AT)?, once(headers, &DELAY)?);
    let delay = match (at, delay) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {
            return Err(wrong(
                "posthaste-deliver-at and posthaste-delay stand both; send one of them",
            ));
        }
        (Some(at), None) => until(at, wall_ms())?,
        (None, Some(delay)) => delay
            .parse::<HumanDuration>()
            .map(|delay| delay.0)
            .map_err(|_| wrong("posthaste-delay is not a duration such as \"90s\" or \"2h\""))?,
    };
    if delay > DELAY_MAX {
        return Err(wrong("an event can be put off by 7 days at the most"));
    }
    Ok(Some(delay))
}

fn once<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, Refused> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => Ok(Some(value.to_str().unwrap_or_default())),
        (Some(_), Some(_)) => Err(wrong("a header about the delivery's time stands twice")),
    }
}

fn until(at: &str, wall_ms: u64) -> Result<Duration, Refused> {
    let at: Timestamp = at.parse().ok().filter(|_| !at.contains('[')).ok_or_else(|| {
        wrong(
            "posthaste-deliver-at is not a time with its offset, such as \"2026-12-24T18:00:00Z\"",
        )
    })?;
    let wait_ms = i128::from(at.as_millisecond()) - i128::from(wall_ms);
    Ok(Duration::from_millis(u64::try_from(wait_ms.max(0)).unwrap_or(u64::MAX)))
}

fn wrong(detail: &'static str) -> Refused {
    Refused::with(Refusal::InvalidDelay, detail)
}

/// How long the producer waits for the outcome: the query's `wait`; `None` where it does not.
pub(super) fn wait_of(query: Option<&str>) -> Result<Option<Duration>, Refused> {
    let Some(query) = query else {
        return Ok(None);
    };
    let mut values = query.split('&').filter_map(|part| match part.split_once('=') {
        Some(("wait", value)) => Some(value),
        None if part == "wait" => Some(""),
        _ => None,
    });
    let (first, second) = (values.next(), values.next());
    let Some(value) = first else {
        return Ok(None);
    };
    let wait = value.parse::<HumanDuration>().ok().map(|wait| wait.0);
    match wait.filter(|wait| *wait <= WAIT_MAX && second.is_none()) {
        Some(wait) => Ok(Some(wait)),
        None => Err(Refusal::InvalidWait.into()),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    /// 2026-11-21T10:00:00Z
    const NOW_MS: u64 = 1_795_255_200_000;

    fn delay(pairs: &[(&'static str, &str)]) -> Result<Option<u64>, Refusal> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let found = delay_of(&headers, || NOW_MS).map_err(|refused| refused.why)?;
        Ok(found.map(|delay| u64::try_from(delay.as_millis()).unwrap()))
    }

    #[test]
    fn an_event_is_put_off_by_its_headers() {
        assert_eq!(delay(&[]), Ok(None));
        for (value, expected) in [("0s", 0), ("1500ms", 1500), ("7d", 7 * 86_400_000)] {
            assert_eq!(delay(&[("posthaste-delay", value)]), Ok(Some(expected)), "{value}");
        }
        for (value, expected) in [
            ("2026-11-21T10:00:00Z", 0),
            ("2026-11-21T10:00:00.250Z", 250),
            ("2026-11-21T12:00:01+02:00", 1000),
            ("2026-11-28T10:00:00Z", 7 * 86_400_000),
            ("2026-11-21T09:59:59Z", 0),
            ("1970-01-01T00:00:00Z", 0),
            ("-000001-01-01T00:00:00Z", 0),
        ] {
            assert_eq!(delay(&[("posthaste-deliver-at", value)]), Ok(Some(expected)), "{value}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        let bad = Err(Refusal::InvalidDelay);
        for value in ["", "5", "-5s", "8d", "169h", "soon", "\u{e4}"] {
            assert_eq!(delay(&[("posthaste-delay", value)]), bad, "{value}");
        }
        for value in [
            "",
            "2026-11-21T10:00:00",
            "2026-11-28T10:00:01Z",
            "9999-12-31T23:59:59Z",
            "1795255200",
            "tomorrow",
            "2026-11-21T11:00:00+01:00[Europe/Berlin]",
        ] {
            assert_eq!(delay(&[("posthaste-deliver-at", value)]), bad, "{value}");
        }
        let both = [("posthaste-delay", "1s"), ("posthaste-deliver-at", "2026-11-21T10:00:00Z")];
        assert_eq!(delay(&both), bad);
        assert_eq!(delay(&[("posthaste-delay", "1s"), ("posthaste-delay", "1s")]), bad);
    }

    #[test]
    fn a_wait_has_a_unit_and_a_bound() {
        let of = |query| wait_of(query).map_err(|refused| refused.why);
        let secs = |secs| Ok(Some(Duration::from_secs(secs)));
        assert_eq!(of(None), Ok(None));
        assert_eq!(of(Some("a=1&await=5s")), Ok(None));
        assert_eq!(of(Some("wait=5s")), secs(5));
        assert_eq!(of(Some("a=1&wait=0s&b")), secs(0));
        assert_eq!(of(Some("wait=1m")), secs(60));
        for query in ["wait", "wait=", "wait=5", "wait=61s", "wait=-1s", "wait=5s&wait=5s"] {
            assert_eq!(of(Some(query)), Err(Refusal::InvalidWait), "{query}");
        }
    }
}
