//! `docs/fields.md` says which test holds what: no key may be left out of it.

use super::*;
use crate::config::fields::{self, CONNECTION, Field};

/// Keys that stand in no code of the page.
fn missing(page: &str, fields: &'static [Field]) -> Vec<&'static str> {
    let code: Vec<&str> = page.split('`').skip(1).step_by(2).collect();
    let words = |code: &&str| -> Vec<String> {
        let parts = code.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        parts.map(str::to_owned).collect()
    };
    let known: std::collections::BTreeSet<String> = code.iter().flat_map(words).collect();
    fields.iter().map(|field| field.key).filter(|key| !known.contains(*key)).collect()
}

#[test]
fn every_key_has_a_test_that_holds_it() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/fields.md");
    let page = fs::read_to_string(path).unwrap();
    let tables = [CONNECTION, fields::SOURCE, fields::POOL, fields::RATE_LIMIT, fields::RETRY];
    let tables = tables.into_iter().chain([fields::QUEUE, fields::TLS, fields::BREAKER]);
    let tables = tables.chain([fields::ALERT]);
    let missing: Vec<_> = tables.flat_map(|table| missing(&page, table)).collect();
    assert_eq!(missing, [""; 0]);
}

#[test]
fn a_key_that_is_left_out_is_found() {
    assert_eq!(missing("`limit` and `per, x`", fields::RATE_LIMIT), ["burst"]);
}
