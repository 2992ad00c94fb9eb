//! Durations and sizes as people write them: `"1500ms"`, `"4h"`, `"1MiB"`.
//!
//! A number without a unit is refused, and the refusal names both readings, because every system that relays webhooks
//! counts in another unit. What is displayed parses back to the same value.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A duration with a unit: `ms`, `s`, `m`, `h` or `d`; several may follow each other, largest first (`"1h30m"`).
/// Whole milliseconds; what is finer is not displayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HumanDuration(pub Duration);

/// A number of bytes with a unit: `B`, `KB`, `KiB`, `MB`, `MiB`, `GB`, `GiB`, `TB` or `TiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// A text that is not a duration or a size; the message says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidUnit(String);

/// Largest first, in milliseconds.
const DURATION_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Binary units before decimal ones, largest first, so that the first exact one is the one that people would write.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

impl FromStr for HumanDuration {
    type Err = InvalidUnit;

    fn from_str(text: &str) -> Result<HumanDuration, InvalidUnit> {
        if is_number(text) {
            return Err(InvalidUnit(format!(
                "{text:?} is not a duration, write \"{text}s\" (seconds) or \"{text}ms\" (milliseconds)"
            )));
        }
        let not_one = || {
            InvalidUnit(format!(
                "{} is not a duration, write one as in \"1500ms\", \"2s\", \"5m\", \"4h\" or \"7d\"",
                quoted(text)
            ))
        };
        let too_long = || InvalidUnit(format!("{} is too long a duration", quoted(text)));
        let (mut rest, mut total_ms, mut smallest) = (text, 0u64, u64::MAX);
        while !rest.is_empty() {
            let (number, unit, after) = split(rest).ok_or_else(not_one)?;
            let scale = scale_of(&DURATION_UNITS, unit).filter(|scale| *scale < smallest);
            smallest = scale.ok_or_else(not_one)?;
            let number: u64 = number.parse().map_err(|_| too_long())?;
            total_ms = number
                .checked_mul(smallest)
                .and_then(|ms| total_ms.checked_add(ms))
                .ok_or_else(too_long)?;
            rest = after;
        }
        if text.is_empty() {
            return Err(not_one());
        }
        Ok(HumanDuration(Duration::from_millis(total_ms)))
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        display(f, crate::clock::millis(self.0), &DURATION_UNITS, "0s")
    }
}

impl FromStr for ByteSize {
    type Err = InvalidUnit;

    fn from_str(text: &str) -> Result<ByteSize, InvalidUnit> {
        if is_number(text) {
            return Err(InvalidUnit(format!(
                "{text:?} is not a size, write \"{text}B\" (bytes) or \"{text}MiB\" (units of 1,048,576 bytes)"
            )));
        }
        let not_one = || {
            InvalidUnit(format!(
                "{} is not a size, write one as in \"512B\", \"500KB\", \"1MiB\" or \"10GiB\"",
                quoted(text)
            ))
        };
        let too_large = || InvalidUnit(format!("{} is too large a size", quoted(text)));
        let (number, unit, after) = split(text).ok_or_else(not_one)?;
        let scale = scale_of(&SIZE_UNITS, unit).filter(|_| after.is_empty());
        let scale = scale.ok_or_else(not_one)?;
        let number: u64 = number.parse().map_err(|_| too_large())?;
        number.checked_mul(scale).map(ByteSize).ok_or_else(too_large)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        display(f, self.0, &SIZE_UNITS, "0B")
    }
}

fn display(
    f: &mut fmt::Formatter<'_>,
    value: u64,
    units: &[(&str, u64)],
    zero: &str,
) -> fmt::Result {
    let exact = units.iter().find(|(_, scale)| value >= *scale && value.is_multiple_of(*scale));
    match exact {
        Some((unit, scale)) => write!(f, "{}{unit}", value / scale),
        None => f.write_str(zero),
    }
}

/// The digits at the start, the letters after them, and the rest.
fn split(text: &str) -> Option<(&str, &str, &str)> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, rest) = text.split_at_checked(unit_at)?;
    let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
    let (unit, after) = rest.split_at_checked(end)?;
    (!number.is_empty() && !unit.is_empty()).then_some((number, unit, after))
}

fn scale_of(units: &[(&str, u64)], unit: &str) -> Option<u64> {
    units.iter().find(|(name, _)| *name == unit).map(|(_, scale)| *scale)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_digit())
}

/// A value as messages show it: escaped, and cut when it is long. Several lines are not shown at all: that is a quote which
/// was not closed and took in what follows, perhaps a secret.
pub(crate) fn quoted(text: &str) -> String {
    const SHOWN: usize = 60;
    if text.contains('\n') {
        return "\"…\"".to_owned();
    }
    if text.chars().count() <= SHOWN {
        return format!("{text:?}");
    }
    let start: String = text.chars().take(SHOWN).collect();
    format!("{:?}", format!("{start}…"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check_duration(text: &str, ms: u64) {
        let parsed: HumanDuration = text.parse().unwrap();
        assert_eq!(parsed.0, Duration::from_millis(ms), "{text}");
    }

    #[test]
    fn durations_are_read() {
        check_duration("1500ms", 1_500);
        check_duration("2s", 2_000);
        check_duration("4h", 14_400_000);
        check_duration("7d", 604_800_000);
        check_duration("1h30m", 5_400_000);
        check_duration("0s", 0);
    }

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [("1MiB", 1 << 20), ("500KB", 500_000), ("0B", 0), ("10GiB", 10 << 30)]
        {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn refusals_say_what_to_write() {
        for (text, word) in [
            ("30", "write \"30s\" (seconds) or \"30ms\""),
            ("", "write one as in"),
            ("2 s", "write one as in"),
            ("2sec", "write one as in"),
            ("1.5s", "write one as in"),
            ("-1s", "write one as in"),
            ("30m1h", "write one as in"),
            ("99999999999999999999s", "too long"),
            ("18446744073709551615d", "too long"),
            ("5s\ntoken", "\"…\" is not a duration"),
        ] {
            let error = text.parse::<HumanDuration>().unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
        for (text, word) in [
            ("30", "write \"30B\" (bytes) or \"30MiB\""),
            ("1Mb", "write one as in"),
            ("1MiB5B", "write one as in"),
            ("18446744073709551615KiB", "too large"),
        ] {
            let error = text.parse::<ByteSize>().unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_displayed_parses_back(ms in any::<u64>(), bytes in any::<u64>()) {
            let duration = HumanDuration(Duration::from_millis(ms));
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
            prop_assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = text.parse::<HumanDuration>();
            let _ = text.parse::<ByteSize>();
        }
    }
}
