//! Sets of HTTP statuses.

/// A set of statuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusSet {
    entries: Vec<String>,
    /// One bit for each status from 100 to 599.
    bits: [u64; 8],
}

#[cfg(test)]
impl StatusSet {
    /// A stand-in until the real grammar is merged: `NNN`, `Nxx` and `!`.
    pub(crate) fn parse(entries: &[&str]) -> Result<StatusSet, String> {
        let mut bits = [0u64; 8];
        for pass in [false, true] {
            for entry in entries {
                let (not, text) = match entry.strip_prefix('!') {
                    Some(rest) => (true, rest),
                    None => (false, *entry),
                };
                if not != pass {
                    continue;
                }
                let range = match text.strip_suffix("xx") {
                    Some(class) => {
                        let class: u16 = class.parse().map_err(|_| entry.to_string())?;
                        class * 100..class * 100 + 100
                    }
                    None => {
                        let one: u16 = text.parse().map_err(|_| entry.to_string())?;
                        one..one + 1
                    }
                };
                for status in range {
                    let at = usize::from(status - 100);
                    if not {
                        bits[at / 64] &= !(1 << (at % 64));
                    } else {
                        bits[at / 64] |= 1 << (at % 64);
                    }
                }
            }
        }
        Ok(StatusSet {
            entries: entries.iter().map(|entry| (*entry).to_owned()).collect(),
            bits,
        })
    }
}

impl StatusSet {
    /// Whether the set has this status.
    pub fn contains(&self, status: u16) -> bool {
        let Some(at) = status.checked_sub(100).map(usize::from) else {
            return false;
        };
        self.bits
            .get(at / 64)
            .is_some_and(|word| word & (1 << (at % 64)) != 0)
    }
}
