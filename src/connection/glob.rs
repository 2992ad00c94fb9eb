//! Patterns of names, as operators write them.

/// Whether a text looks like a pattern: `*` is any text, `?` any character, case does not count. Takes at most the product of
/// both lengths, for a connection's name no more than 155 of them.
pub fn glob(pattern: &str, text: &str) -> bool {
    let lower = |text: &str| text.chars().map(|c| c.to_ascii_lowercase()).collect::<Vec<char>>();
    let (pattern, text) = (lower(pattern), lower(text));
    // Whether what was read of the pattern matches the first n characters.
    let mut reach = vec![false; text.len() + 1];
    if let Some(first) = reach.first_mut() {
        *first = true;
    }
    for one in pattern {
        let mut next = vec![false; reach.len()];
        let mut any = false;
        for (at, place) in next.iter_mut().enumerate() {
            let here = reach.get(at).copied().unwrap_or(false);
            any |= here;
            let before = at.checked_sub(1);
            let step = before.is_some_and(|before| {
                let fits = one == '?' || text.get(before) == Some(&one);
                fits && reach.get(before).copied().unwrap_or(false)
            });
            *place = if one == '*' { any } else { step };
        }
        reach = next;
    }
    reach.last().copied().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names() {
        for (pattern, text, expected) in [
            ("crm", "crm", true),
            ("CRM", "crm", true),
            ("cr", "crm", false),
            ("c*", "crm", true),
            ("*m", "crm", true),
            ("*r*", "crm", true),
            ("?r?", "crm", true),
            ("?", "crm", false),
            ("*", "", true),
            ("", "", true),
            ("", "x", false),
            ("a**b", "ab", true),
            ("*a*b*c*", "xxaxxbxxc", true),
            ("*a*b*c*", "xxaxxcxxb", false),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
        assert!(!glob(&"*a".repeat(200), &"a".repeat(155)), "and it is quick");
    }
}
