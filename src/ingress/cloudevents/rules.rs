//! What the text of each attribute must look like (CloudEvents 1.0.2, "Context Attributes").

use jiff::Timestamp;

use super::TEXT_BYTES_MAX;
use crate::ingress::receive::TYPE_BYTES_MAX;

/// What a text must look like. Each function says what is wrong, to stand behind the attribute's name.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rule {
    /// Not empty.
    Text,
    /// As [`Rule::Text`], and short enough for an event's type.
    Type,
    /// RFC 3986, 4.1.
    UriReference,
    /// RFC 3986, 4.3: it has a scheme.
    Uri,
    /// RFC 2046.
    MediaType,
    /// RFC 3339.
    Time,
    /// Anything, also nothing.
    Extension,
}

/// Attributes that need not be there.
pub(super) const OPTIONAL: [(&str, Rule); 4] = [
    ("subject", Rule::Text),
    ("time", Rule::Time),
    ("datacontenttype", Rule::MediaType),
    ("dataschema", Rule::Uri),
];

impl Rule {
    pub(super) fn check(self, text: &str) -> Result<(), &'static str> {
        if text.len() > TEXT_BYTES_MAX {
            return Err("is longer than 16 KiB");
        }
        if text.contains(char::is_control) {
            return Err("has a control character");
        }
        match self {
            Rule::Extension => Ok(()),
            _ if text.is_empty() => Err("is empty"),
            Rule::Text => Ok(()),
            Rule::Type if text.len() > TYPE_BYTES_MAX => Err("is longer than 255 bytes"),
            Rule::Type => Ok(()),
            Rule::UriReference if is_uri_reference(text) => Ok(()),
            Rule::UriReference => Err("is not a URI reference"),
            Rule::Uri if is_uri_reference(text) && has_scheme(text) => Ok(()),
            Rule::Uri => Err("is not an absolute URI"),
            Rule::MediaType if is_media_type(text) => Ok(()),
            Rule::MediaType => Err("is not a media type"),
            Rule::Time if !text.contains('[') && text.parse::<Timestamp>().is_ok() => Ok(()),
            Rule::Time => Err("is not a time as in RFC 3339"),
        }
    }
}

/// Names are made of lower-case letters and digits.
pub(super) fn check_name(name: &str) -> Result<(), &'static str> {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    match name.bytes().all(legal) && !name.is_empty() {
        true => Ok(()),
        false => Err("has a name that is not made of lower-case letters and digits"),
    }
}

/// Characters that stand in no URI, and `%` without its digits. Letters beyond ASCII are let through, as others do.
fn is_uri_reference(text: &str) -> bool {
    let never = |c: char| c.is_whitespace() || "\"<>\\^`{|}".contains(c);
    let mut pieces = text.split('%');
    let first = pieces.next().unwrap_or_default();
    let digits = |piece: &str| {
        piece.as_bytes().get(..2).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit))
    };
    !first.contains(never) && pieces.all(|piece| digits(piece) && !piece.contains(never))
}

fn has_scheme(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else {
        return false;
    };
    let mut bytes = scheme.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
        && !rest.is_empty()
}

fn is_media_type(text: &str) -> bool {
    let token = |text: &str| {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        !text.is_empty() && text.bytes().all(legal)
    };
    let kind = text.split_once(';').map_or(text, |(kind, _)| kind).trim();
    kind.split_once('/').is_some_and(|(kind, subtype)| token(kind) && token(subtype))
}
