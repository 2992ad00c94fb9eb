//! Values that are one word or number. Each function says in its error what to write instead.

use super::*;
use crate::units::InvalidUnit;

/// Reads a value of a kind that is neither list nor table. `base` is the directory that relative paths count from; none
/// for built-in defaults.
pub(super) fn read(kind: &Kind, value: &DeValue<'_>, base: Option<&Path>) -> Result<Value, String> {
    match kind {
        Kind::Bool => match value {
            DeValue::Boolean(value) => Ok(Value::Bool(*value)),
            other => Err(format!("{}, write true or false", is_a(other))),
        },
        Kind::Integer(min, max) => integer(value, *min, *max).map(Value::Integer),
        Kind::Number(min, max) => number(value, *min, *max).map(Value::Number),
        Kind::Span(min, max) => span(value, *min, *max).map(Value::Span),
        Kind::Size(min, max) => size(value, *min, *max).map(Value::Size),
        Kind::Stamp => stamp(value),
        _ => {
            let text = value.as_str().ok_or_else(|| format!("{}, write a string", is_a(value)))?;
            word(kind, text, base)
        }
    }
}

/// "is an integer" and the like.
pub(super) fn is_a(value: &DeValue<'_>) -> String {
    let article = match value {
        DeValue::Integer(_) | DeValue::Array(_) => "an",
        _ => "a",
    };
    format!("is {article} {}", value.type_str())
}

fn word(kind: &Kind, text: &str, base: Option<&Path>) -> Result<Value, String> {
    let path = |text: &str| match text {
        "" => Err("the path is empty".to_owned()),
        text => Ok(Value::Path(match base {
            Some(base) => base.join(text),
            None => text.into(),
        })),
    };
    let owned = |_| Value::Text(text.to_owned());
    match kind {
        Kind::Text(max) => short_text(text, *max).map(owned),
        Kind::Name => name(text).map(owned),
        Kind::Choice(words) => choice(text, words).map(owned),
        Kind::Method => method(text).map(owned),
        Kind::Url => Target::parse(text).map(|target| Value::Url(Box::new(target))),
        Kind::PathOrOff | Kind::AddressOrOff if text == "off" => Ok(Value::Off),
        Kind::Path | Kind::PathOrOff => path(text),
        Kind::Address | Kind::AddressOrOff => address(text),
        Kind::Mode => mode(text),
        Kind::Cidr => cidr(text),
        Kind::ServerName => match rustls::pki_types::ServerName::try_from(text) {
            Ok(_) => Ok(owned(())),
            Err(_) => Err(format!("{} is not a host name or address", quoted(text))),
        },
        _ => Err("cannot be written as a string".to_owned()),
    }
}

fn short_text(text: &str, max: usize) -> Result<(), String> {
    match text.chars().count() {
        0 => Err("is empty; leave the key out instead".to_owned()),
        length if length > max => {
            Err(format!("has {length} characters, at most {max} are allowed"))
        }
        _ => Ok(()),
    }
}

/// `^[A-Za-z0-9][A-Za-z0-9_-]{0,154}$`
pub(in crate::config) fn name(text: &str) -> Result<(), String> {
    const LENGTH_MAX: usize = 155;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if text.len() > LENGTH_MAX {
        return Err(format!(
            "the name has {} characters, at most {LENGTH_MAX} are allowed",
            text.chars().count()
        ));
    }
    if text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(plain) {
        return Ok(());
    }
    let suggestion: String = text.chars().map(|c| if plain(c) { c } else { '-' }).collect();
    let suggestion = suggestion.trim_matches(['-', '_']);
    let write = match suggestion {
        "" => String::new(),
        name => format!(", as in {name:?}"),
    };
    Err(format!(
        "{} is not a name: letters, digits, - and _, starting with a letter or digit{write}",
        quoted(text)
    ))
}

fn choice(text: &str, words: &[&str]) -> Result<(), String> {
    if words.contains(&text) {
        return Ok(());
    }
    let words: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    Err(format!("{} is not one of {}", quoted(text), words.join(", ")))
}

/// What a connection may send with.
pub(in crate::config) const METHODS: [&str; 7] =
    ["POST", "GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"];

fn method(text: &str) -> Result<(), String> {
    let upper = text.to_ascii_uppercase();
    match upper.as_str() {
        "TRACE" => {
            Err("TRACE is refused: it has no body, and it makes the receiver echo credentials"
                .to_owned())
        }
        "CONNECT" => Err("CONNECT is refused: it opens a tunnel and delivers nothing".to_owned()),
        "INHERIT" if text == "inherit" => Ok(()),
        _ if METHODS.contains(&text) => Ok(()),
        _ if METHODS.contains(&upper.as_str()) => {
            Err(format!("{} is not a method, write {upper:?}", quoted(text)))
        }
        _ => choice(text, &METHODS),
    }
}

fn address(text: &str) -> Result<Value, String> {
    match text.parse() {
        Ok(address) => Ok(Value::Address(address)),
        Err(_) => Err(format!(
            "{} is not an address and port, write them as in \"127.0.0.1:8377\" or \"[::1]:8377\"",
            quoted(text)
        )),
    }
}

fn cidr(text: &str) -> Result<Value, String> {
    let alone = text.parse::<std::net::IpAddr>().map(ipnet::IpNet::from);
    match alone.or_else(|_| text.parse::<ipnet::IpNet>()) {
        Ok(range) => Ok(Value::Cidr(range)),
        Err(_) => Err(format!(
            "{} is not a range of addresses, write it as in \"10.0.0.0/8\" or \"fd00::/8\"",
            quoted(text)
        )),
    }
}

/// An instant, as a string or as TOML's own; milliseconds since 1970.
fn stamp(value: &DeValue<'_>) -> Result<Value, String> {
    let text = match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Datetime(stamp) => stamp.to_string(),
        other => return Err(format!("{}, write 2027-01-31T12:00:00Z", is_a(other))),
    };
    let stamp = text.parse::<jiff::Timestamp>().ok();
    match stamp.and_then(|stamp| u64::try_from(stamp.as_millisecond()).ok()) {
        Some(ms) => Ok(Value::Stamp(ms)),
        None => Err(format!(
            "{} is not an instant, write date, time and offset as in 2027-01-31T12:00:00Z",
            quoted(&text)
        )),
    }
}

fn mode(text: &str) -> Result<Value, String> {
    let octal = text.len() <= 4 && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    match u64::from_str_radix(text, 8) {
        Ok(mode) if octal && mode <= 0o777 => Ok(Value::Integer(mode)),
        _ => Err(format!(
            "{} is not a file mode, write three octal digits as in \"0660\"",
            quoted(text)
        )),
    }
}

fn integer(value: &DeValue<'_>, min: u64, max: u64) -> Result<u64, String> {
    let DeValue::Integer(written) = value else {
        return Err(format!("{}, write a whole number without quotes", is_a(value)));
    };
    match i128::from_str_radix(written.as_str(), written.radix()) {
        Ok(0) if min == 1 => Err("0 is not allowed; leave the key out for the default".to_owned()),
        Ok(number) => u64::try_from(number)
            .ok()
            .filter(|number| (min..=max).contains(number))
            .ok_or_else(|| format!("{number} is out of bounds, {min} to {max} are allowed")),
        Err(_) => Err(format!("{written} is out of bounds, {min} to {max} are allowed")),
    }
}

fn number(value: &DeValue<'_>, min: f64, max: f64) -> Result<f64, String> {
    let parsed: Option<f64> = match value {
        DeValue::Float(written) => written.as_str().parse().ok(),
        DeValue::Integer(written) if written.radix() == 10 => written.as_str().parse().ok(),
        other => return Err(format!("{}, write a number", is_a(other))),
    };
    match parsed {
        Some(number) if (min..=max).contains(&number) => Ok(number),
        Some(number) => Err(format!("{number} is out of bounds, {min} to {max} are allowed")),
        None => Err("is not a decimal number".to_owned()),
    }
}

fn span(value: &DeValue<'_>, min: Duration, max: Duration) -> Result<Duration, String> {
    let text = unit_text(value, "a duration", "\"30s\"")?;
    let HumanDuration(span) = text.parse().map_err(|error| without_quotes(value, &text, error))?;
    if span < min || span > max {
        return Err(format!(
            "{} is out of bounds, {} to {} are allowed",
            quoted(&text),
            HumanDuration(min),
            HumanDuration(max)
        ));
    }
    Ok(span)
}

fn size(value: &DeValue<'_>, min: u64, max: u64) -> Result<u64, String> {
    let text = unit_text(value, "a size", "\"1MiB\"")?;
    let ByteSize(size) = text.parse().map_err(|error| without_quotes(value, &text, error))?;
    if size < min || size > max {
        return Err(format!(
            "{} is out of bounds, {} to {} are allowed",
            quoted(&text),
            ByteSize(min),
            ByteSize(max)
        ));
    }
    Ok(size)
}

/// The parser's words; what was written without quotes is shown without.
fn without_quotes(value: &DeValue<'_>, text: &str, error: InvalidUnit) -> String {
    let message = error.to_string();
    match value {
        DeValue::Integer(_) => message.replacen(&format!("{text:?}"), text, 1),
        _ => message,
    }
}

/// The text of a quantity. A bare number passes as its digits, and is refused by the parser with both readings.
fn unit_text(value: &DeValue<'_>, what: &str, example: &str) -> Result<String, String> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number)
            if number.radix() == 10 && !number.as_str().contains(['-', '+']) =>
        {
            Ok(number.as_str().to_owned())
        }
        other => Err(format!("{}, write {what} as in {example}", is_a(other))),
    }
}
