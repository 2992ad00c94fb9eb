//! JSON as it was written: numbers keep their digits, objects the order of their members. `serde_json` would turn
//! `12345678901234567890123` and `1.10` into other numbers; who relays somebody's bytes must not.
//!
//! A value borrows from its text where it can. One value takes 32 bytes (a member of an object 56), and a text has at most
//! [`VALUES_MAX`] of them, so a body of whatever kind takes a bounded amount of memory while it is looked at.

use std::borrow::Cow;
use std::fmt;

mod parse;

/// Values of one text: objects, arrays, their members and items.
pub const VALUES_MAX: usize = 250_000;

/// How deep objects and arrays may be nested.
pub const DEPTH_MAX: usize = 100;

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub enum Json<'a> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number, as it was written.
    Number(Cow<'a, str>),
    /// A string, its escapes resolved.
    Text(Cow<'a, str>),
    /// An array.
    Array(Vec<Json<'a>>),
    /// An object in the order of its text. Of two members with the same name the last one counts.
    Object(Vec<(Cow<'a, str>, Json<'a>)>),
}

/// Why a text is no JSON, or more of it than is looked at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {at}")]
pub struct Malformed {
    /// Where, in bytes.
    pub at: usize,
    /// What is wrong there.
    pub what: &'static str,
}

/// What sort of value it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the values")]
pub enum Sort {
    Null,
    Bool,
    Number,
    Text,
    Array,
    Object,
}

impl Sort {
    /// The word for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Sort::Null => "null",
            Sort::Bool => "true or false",
            Sort::Number => "a number",
            Sort::Text => "a string",
            Sort::Array => "an array",
            Sort::Object => "an object",
        }
    }
}

impl<'a> Json<'a> {
    /// Reads a whole text (RFC 8259).
    ///
    /// # Errors
    /// [`Malformed`]; also for a text with too many values, or nested too deeply.
    pub fn parse(text: &'a [u8]) -> Result<Json<'a>, Malformed> {
        parse::parse(text)
    }

    /// A string.
    pub fn text(text: impl Into<Cow<'a, str>>) -> Json<'a> {
        Json::Text(text.into())
    }

    /// What sort of value it is.
    pub fn sort(&self) -> Sort {
        match self {
            Json::Null => Sort::Null,
            Json::Bool(_) => Sort::Bool,
            Json::Number(_) => Sort::Number,
            Json::Text(_) => Sort::Text,
            Json::Array(_) => Sort::Array,
            Json::Object(_) => Sort::Object,
        }
    }

    /// The member of an object: the last one of that name.
    pub fn member(&self, name: &str) -> Option<&Json<'a>> {
        match self {
            Json::Object(members) => {
                members.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value)
            }
            _ => None,
        }
    }

    /// A string as it is, a number as it was written, `true` or `false`. Null, objects and arrays have no such text.
    pub fn scalar(&self) -> Option<&str> {
        match self {
            Json::Number(text) | Json::Text(text) => Some(text),
            Json::Bool(true) => Some("true"),
            Json::Bool(false) => Some("false"),
            Json::Null | Json::Array(_) | Json::Object(_) => None,
        }
    }

    /// Whether both mean the same: numbers by their value, objects whatever the order of their members. For values of our own:
    /// of two large objects it is slow.
    pub fn equals(&self, other: &Json<'_>) -> bool {
        match (self, other) {
            (Json::Number(a), Json::Number(b)) => {
                compare_numbers(a, b) == Some(std::cmp::Ordering::Equal)
            }
            (Json::Array(a), Json::Array(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.equals(b))
            }
            (Json::Object(members), Json::Object(others)) => {
                let same = |(name, value): &(Cow<'_, str>, Json<'_>)| {
                    other.member(name).is_some_and(|other| value.equals(other))
                };
                members.len() == others.len() && members.iter().all(same)
            }
            (Json::Null, Json::Null) => true,
            (Json::Bool(a), Json::Bool(b)) => a == b,
            (Json::Text(a), Json::Text(b)) => a == b,
            _ => false,
        }
    }

    /// The same, with nothing borrowed.
    pub fn into_owned(self) -> Json<'static> {
        match self {
            Json::Null => Json::Null,
            Json::Bool(flag) => Json::Bool(flag),
            Json::Number(text) => Json::Number(Cow::Owned(text.into_owned())),
            Json::Text(text) => Json::Text(Cow::Owned(text.into_owned())),
            Json::Array(items) => Json::Array(items.into_iter().map(Json::into_owned).collect()),
            Json::Object(members) => {
                let owned = |(name, value): (Cow<'_, str>, Json<'_>)| {
                    (Cow::Owned(name.into_owned()), value.into_owned())
                };
                Json::Object(members.into_iter().map(owned).collect())
            }
        }
    }

    /// Writes it without blanks. What was read and is written means the same, with the same digits and order.
    pub fn write(&self, out: &mut impl fmt::Write) -> fmt::Result {
        match self {
            Json::Null => out.write_str("null"),
            Json::Bool(true) => out.write_str("true"),
            Json::Bool(false) => out.write_str("false"),
            Json::Number(text) => out.write_str(text),
            Json::Text(text) => write_text(text, out),
            Json::Array(items) => {
                out.write_char('[')?;
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        out.write_char(',')?;
                    }
                    item.write(out)?;
                }
                out.write_char(']')
            }
            Json::Object(members) => {
                out.write_char('{')?;
                for (at, (name, value)) in members.iter().enumerate() {
                    if at > 0 {
                        out.write_char(',')?;
                    }
                    write_text(name, out)?;
                    out.write_char(':')?;
                    value.write(out)?;
                }
                out.write_char('}')
            }
        }
    }
}

impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f)
    }
}

/// A string in quotes, with the escapes that JSON needs and no others.
pub fn write_text(text: &str, out: &mut impl fmt::Write) -> fmt::Result {
    out.write_char('"')?;
    let mut plain = 0;
    for (at, byte) in text.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0..0x20 => "",
            _ => continue,
        };
        out.write_str(text.get(plain..at).unwrap_or_default())?;
        if escape.is_empty() {
            write!(out, "\\u{byte:04x}")?;
        } else {
            out.write_str(escape)?;
        }
        plain = at + 1;
    }
    out.write_str(text.get(plain..).unwrap_or_default())?;
    out.write_char('"')
}

/// How two numbers compare: exactly where both are whole numbers of at most 38 digits, else as doubles. `None` where one
/// is beyond what a double can be.
pub fn compare_numbers(a: &str, b: &str) -> Option<std::cmp::Ordering> {
    if a == b {
        return Some(std::cmp::Ordering::Equal);
    }
    if let (Ok(a), Ok(b)) = (a.parse::<i128>(), b.parse::<i128>()) {
        return Some(a.cmp(&b));
    }
    let double = |text: &str| text.parse::<f64>().ok().filter(|number| number.is_finite());
    double(a)?.partial_cmp(&double(b)?)
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use super::*;
    use proptest::prelude::*;

    fn again(text: &str) -> String {
        Json::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}")).to_string()
    }

    #[test]
    fn digits_and_order_survive() {
        for text in [
            r#"{"z":12345678901234567890123,"a":1.10,"m":[1e400,-0,-0.0,1E+2]}"#,
            r#"{"a":1,"a":2}"#,
            r#"["",null,true,false,{},[]]"#,
            r#""ü 😀 \\ \" \n \u0001 \u001f /""#,
        ] {
            assert_eq!(again(text), text);
        }
        assert_eq!(again(" { \"a\" : [ 1 , 2 ] } \r\n\t"), r#"{"a":[1,2]}"#);
        assert_eq!(again(r#""\u00fc\ud83d\ude00\/\b\f""#), "\"ü😀/\\u0008\\u000c\"");
    }

    #[test]
    fn what_is_no_json_says_where() {
        for (text, at) in [
            ("", 0),
            ("{", 1),
            ("[1,]", 3),
            ("{\"a\":1,}", 7),
            ("01", 1),
            ("1.", 2),
            ("-", 1),
            ("1e", 2),
            ("+1", 0),
            ("NaN", 0),
            ("nul", 0),
            ("\"\\x\"", 2),
            ("\"\\ud800\"", 1),
            ("\"\\udc00\"", 1),
            ("\"a\nb\"", 2),
            ("\"a", 2),
            ("1 2", 2),
            ("{a:1}", 1),
            ("{\"a\" 1}", 5),
            ("\u{feff}1", 0),
        ] {
            let error = Json::parse(text.as_bytes()).expect_err(text);
            assert_eq!(error.at, at, "{text}: {error}");
        }
        assert!(Json::parse(b"\"\xff\"").is_err());
    }

    #[test]
    fn depth_and_number_of_values_are_bounded() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(Json::parse(nested(DEPTH_MAX).as_bytes()).is_ok());
        assert!(Json::parse(nested(DEPTH_MAX + 1).as_bytes()).is_err());
        assert!(Json::parse(nested(1_000_000).as_bytes()).is_err());
        let many = |count: usize| format!("[{}0]", "0,".repeat(count - 2));
        assert!(Json::parse(many(VALUES_MAX).as_bytes()).is_ok());
        let error = Json::parse(many(VALUES_MAX + 1).as_bytes()).unwrap_err();
        assert_eq!(error.what, "there are too many values");
        assert!(size_of::<Json<'_>>() <= 32);
    }

    #[test]
    fn of_two_members_the_last_one_counts() {
        let json = Json::parse(br#"{"a":1,"b":2,"a":3}"#).unwrap();
        assert_eq!(json.member("a").and_then(Json::scalar), Some("3"));
        assert_eq!(json.member("c"), None);
        assert_eq!(Json::Null.member("a"), None);
    }

    #[test]
    fn equal_values_may_be_written_differently() {
        let equal = |a: &str, b: &str| {
            Json::parse(a.as_bytes()).unwrap().equals(&Json::parse(b.as_bytes()).unwrap())
        };
        assert!(equal(r#"{"a":1.0,"b":[null,true,"x"]}"#, r#"{ "b": [null, true, "x"], "a": 1 }"#));
        for (a, b) in [
            ("[1,2]", "[2,1]"),
            ("{\"a\":1}", "{\"a\":1,\"b\":2}"),
            ("1", "\"1\""),
            ("true", "false"),
            ("null", "0"),
        ] {
            assert!(!equal(a, b), "{a} {b}");
        }
    }

    #[test]
    fn numbers_compare_by_their_value() {
        for (a, b, expected) in [
            ("1", "1.0", Some(Ordering::Equal)),
            ("10", "9", Some(Ordering::Greater)),
            ("12345678901234567890", "12345678901234567891", Some(Ordering::Less)),
            ("1e3", "1000", Some(Ordering::Equal)),
            ("-1", "0.5", Some(Ordering::Less)),
            ("1e400", "1", None),
            ("1e400", "1e400", Some(Ordering::Equal)),
        ] {
            assert_eq!(compare_numbers(a, b), expected, "{a} {b}");
        }
    }

    proptest! {
        /// We take exactly what `serde_json` takes, apart from depth and numbers beyond a double.
        #[test]
        fn we_agree_with_serde_json(text in r#"[\[\]{}:,"\\a1 .eE+-]{0,14}|(\[|\{"a":|1|"x"|\]|\}|,|null|true){0,9}"#) {
            let theirs = serde_json::from_str::<serde_json::Value>(&text);
            let ours = Json::parse(text.as_bytes());
            let out_of_range = theirs.as_ref().is_err_and(|error| error.to_string().contains("out of range"));
            prop_assert!(theirs.is_ok() == ours.is_ok() || out_of_range, "{text}: {theirs:?} {ours:?}");
            if let (Ok(theirs), Ok(ours)) = (theirs, ours) {
                let again: serde_json::Value = serde_json::from_str(&ours.to_string()).unwrap();
                prop_assert_eq!(again, theirs);
            }
        }
    }
}
