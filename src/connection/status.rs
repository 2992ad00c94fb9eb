//! Sets of HTTP statuses, in the grammar of spec 5: `NNN`, `NNN-MMM`, `Nxx`, `>NNN`, `>=NNN`, `<NNN`, `<=NNN`, each with
//! an optional leading `!`. Exclusions win in any order. One to ten entries, of which at least one includes something.

use std::fmt;

/// A set of statuses. Asking it costs one bit test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusSet {
    entries: Vec<String>,
    /// One bit for each status from 100 to 599.
    bits: [u64; 8],
}

/// What a set is for; a retry list must not hold a 2xx.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The statuses that mean "delivered".
    Success,
    /// The statuses that are tried again.
    Retry,
}

/// Why a list is not a set, and which entry is to blame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InvalidStatus {
    /// The entry's place in the list, from 0.
    pub entry: usize,
    /// What is wrong and what to write.
    pub message: String,
}

/// Entries of one set.
pub const ENTRIES_MAX: usize = 10;

/// What `success_status` is when nothing is written.
pub const SUCCESS_DEFAULT: [&str; 1] = ["2xx"];

/// What `retry.on_status` is when nothing is written.
pub const RETRY_DEFAULT: [&str; 6] = ["408", "425", "429", "5xx", "!501", "!505"];

const FIRST: u16 = 100;
const LAST: u16 = 599;

impl StatusSet {
    /// Reads a list.
    ///
    /// # Errors
    /// The first entry that is not in the grammar, or that does not suit the purpose.
    pub fn parse(list: &[&str], purpose: Purpose) -> Result<StatusSet, InvalidStatus> {
        let refuse = |entry, message: String| Err(InvalidStatus { entry, message });
        if list.is_empty() || list.len() > ENTRIES_MAX {
            return refuse(
                ENTRIES_MAX.min(list.len()),
                format!("a list of statuses has 1 to {ENTRIES_MAX} entries"),
            );
        }
        let (mut included, mut excluded) = ([0; 8], [0; 8]);
        for (entry, text) in list.iter().enumerate() {
            let (set, range_text) = match text.strip_prefix('!') {
                Some(rest) => (&mut excluded, rest),
                None => (&mut included, *text),
            };
            match range(range_text) {
                Ok((first, last)) => set_range(set, first, last),
                Err(message) => return refuse(entry, message),
            }
        }
        let mut bits = [0; 8];
        for ((bit, yes), no) in bits.iter_mut().zip(included).zip(excluded) {
            *bit = yes & !no;
        }
        let set =
            StatusSet { entries: list.iter().map(|entry| (*entry).to_owned()).collect(), bits };
        if bits == [0; 8] {
            return refuse(0, "the list includes no status; name some, as in \"5xx\"".to_owned());
        }
        if purpose == Purpose::Retry && (200..300).any(|status| set.contains(status)) {
            return refuse(
                set.entry_with_2xx(),
                "a 2xx status is a success and cannot be retried; leave it out".to_owned(),
            );
        }
        Ok(set)
    }

    /// The default of `success_status`.
    pub fn success() -> StatusSet {
        StatusSet::parse(&SUCCESS_DEFAULT, Purpose::Success).unwrap_or_else(|_| StatusSet::empty())
    }

    /// The default of `retry.on_status`.
    pub fn retry() -> StatusSet {
        StatusSet::parse(&RETRY_DEFAULT, Purpose::Retry).unwrap_or_else(|_| StatusSet::empty())
    }

    /// Whether `status` is in the set. Statuses below 100 and above 599 are in none.
    pub fn contains(&self, status: u16) -> bool {
        let Some(bit) = status.checked_sub(FIRST).filter(|_| status <= LAST) else {
            return false;
        };
        let word = self.bits.get(usize::from(bit / 64)).copied();
        word.unwrap_or(0) & (1 << (bit % 64)) != 0
    }

    /// The entries as they were written.
    pub fn entries(&self) -> &[String] {
        &self.entries
    }

    fn empty() -> StatusSet {
        StatusSet { entries: Vec::new(), bits: [0; 8] }
    }

    /// The first entry that brings a 2xx in.
    fn entry_with_2xx(&self) -> usize {
        let brings = |text: &String| {
            range(text).is_ok_and(|(first, last)| {
                (first..=last).any(|status| (200..300).contains(&status) && self.contains(status))
            })
        };
        self.entries.iter().position(brings).unwrap_or(0)
    }
}

impl fmt::Display for StatusSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.entries.join(","))
    }
}

/// First and last status of one entry without its `!`. The range may be empty, as that of `>599` is.
fn range(text: &str) -> Result<(u16, u16), String> {
    let not_one = || {
        format!(
            "{} is not a status, write one as in \"503\", \"500-504\", \"5xx\", \">=500\" or \"!501\"",
            crate::units::quoted(text)
        )
    };
    let number = |text: &str| status(text).ok_or_else(not_one);
    if let Some(rest) = text.strip_prefix(">=") {
        return Ok((number(rest)?, LAST));
    }
    if let Some(rest) = text.strip_prefix("<=") {
        return Ok((FIRST, number(rest)?));
    }
    if let Some(rest) = text.strip_prefix('>') {
        return Ok((number(rest)? + 1, LAST));
    }
    if let Some(rest) = text.strip_prefix('<') {
        return Ok((FIRST, number(rest)? - 1));
    }
    if let Some(class) = text.strip_suffix("xx") {
        let first = number(&format!("{class}00"))?;
        return Ok((first, first + 99));
    }
    if let Some((first, last)) = text.split_once('-') {
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(format!("the range {text:?} is backwards, write \"{last}-{first}\""));
        }
        return Ok((first, last));
    }
    let one = number(text)?;
    Ok((one, one))
}

/// Three digits, 100 to 599.
fn status(text: &str) -> Option<u16> {
    let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
    let status = digits.then(|| text.parse().ok()).flatten()?;
    (FIRST..=LAST).contains(&status).then_some(status)
}

fn set_range(bits: &mut [u64; 8], first: u16, last: u16) {
    for status in first..=last {
        let bit = status - FIRST;
        if let Some(word) = bits.get_mut(usize::from(bit / 64)) {
            *word |= 1 << (bit % 64);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(list: &[&str], inside: &[u16], outside: &[u16]) {
        let set = StatusSet::parse(list, Purpose::Success).unwrap();
        for status in inside {
            assert!(set.contains(*status), "{list:?} lacks {status}");
        }
        for status in outside {
            assert!(!set.contains(*status), "{list:?} has {status}");
        }
    }

    #[test]
    fn the_grammar() {
        check(&["404"], &[404], &[403, 405]);
        check(&["500-504"], &[500, 504], &[499, 505]);
        check(&["5xx"], &[500, 599], &[499, 600]);
        check(&[">598"], &[599], &[598, 600]);
        check(&[">=500"], &[500], &[499]);
        check(&["<101"], &[100], &[101, 99, 0]);
        check(&["<=101"], &[100, 101], &[102]);
        check(&["!501", "5xx"], &[500, 502], &[501]);
        check(&["5xx", "!>=502"], &[501], &[502]);
    }

    #[test]
    fn the_defaults_are_sets() {
        assert!(StatusSet::success().contains(204));
        let retry = StatusSet::retry();
        assert!(retry.contains(408) && retry.contains(503));
        assert!(!retry.contains(501) && !retry.contains(200) && !retry.contains(404));
        assert_eq!(retry.to_string(), "408,425,429,5xx,!501,!505");
    }

    #[test]
    fn refusals_name_the_entry() {
        let eleven = ["500"; 11];
        for (list, entry, word) in [
            (&["500", "abc"][..], 1, "not a status"),
            (&["5x"], 0, "not a status"),
            (&["=>400"], 0, "not a status"),
            (&["600"], 0, "not a status"),
            (&["!"], 0, "not a status"),
            (&["504-500"], 0, "write \"500-504\""),
            (&["503", ">=200"], 1, "cannot be retried"),
            (&["!501"], 0, "includes no status"),
            (&[], 0, "1 to 10"),
            (&eleven, 10, "1 to 10"),
        ] {
            let error = StatusSet::parse(list, Purpose::Retry).unwrap_err();
            assert!(error.message.contains(word), "{list:?}: {error}");
            assert_eq!(error.entry, entry, "{list:?}");
        }
        assert!(StatusSet::parse(&[">=200", "!2xx"], Purpose::Retry).is_ok());
    }

    fn entry() -> impl Strategy<Value = String> {
        prop_oneof![
            (100u16..600).prop_map(|a| a.to_string()),
            (100u16..600, 0u16..100).prop_map(|(a, n)| format!("{a}-{}", (a + n).min(599))),
            (1u16..6).prop_map(|c| format!("{c}xx")),
            (prop::sample::select(vec![">", ">=", "<", "<="]), 100u16..600)
                .prop_map(|(sign, a)| format!("{sign}{a}")),
        ]
    }

    proptest! {
        #[test]
        fn order_does_not_matter_and_exclusions_win(
            yes in prop::collection::vec(entry(), 1..5),
            no in prop::collection::vec(entry(), 0..5),
        ) {
            let mut list: Vec<String> = yes.clone();
            list.extend(no.iter().map(|entry| format!("!{entry}")));
            let forward: Vec<&str> = list.iter().map(String::as_str).collect();
            let backward: Vec<&str> = forward.iter().rev().copied().collect();
            let (one, two) = (StatusSet::parse(&forward, Purpose::Success), StatusSet::parse(&backward, Purpose::Success));
            prop_assert_eq!(one.is_ok(), two.is_ok());
            let holds = |entries: &[String], status: u16| entries.iter()
                .any(|text| range(text).is_ok_and(|(first, last)| (first..=last).contains(&status)));
            if let (Ok(one), Ok(two)) = (one, two) {
                for status in 0..700 {
                    prop_assert_eq!(one.contains(status), two.contains(status));
                    prop_assert_eq!(one.contains(status), holds(&yes, status) && !holds(&no, status));
                }
            }
        }

        #[test]
        fn no_text_panics(text in ".{0,10}") {
            let _ = StatusSet::parse(&[&text], Purpose::Retry);
        }
    }
}
