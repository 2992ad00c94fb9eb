//! CloudEvents in JSON: one object, read once, of which nothing is kept but type and key.

use std::fmt;

use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{Attributes, Found, Wrong};

/// The attributes of a structured event. The whole text must be one JSON object.
pub(in crate::ingress) fn parse(text: &str) -> Result<Attributes, Wrong> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let mut event = Reading::default();
    let read = reader.deserialize_map(&mut event).and_then(|()| reader.end());
    // An attribute is named rather than the place where reading it stopped.
    match (event.wrong, read) {
        (Some(wrong), _) => Err(wrong),
        (None, Err(error)) => Err(Wrong::json(error)),
        (None, Ok(())) => event.found.finish(),
    }
}

#[derive(Debug, Default)]
struct Reading {
    found: Found,
    /// The first attribute that is wrong.
    wrong: Option<Wrong>,
    /// `data` or `data_base64` was there.
    data: bool,
}

impl<'de> Visitor<'de> for &mut Reading {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            let noted = match name.as_str() {
                "data" => {
                    map.next_value::<IgnoredAny>()?;
                    self.note_data(&name)
                }
                "data_base64" => {
                    let value = map.next_value()?;
                    self.note_base64(&name, &value)
                }
                _ => {
                    let value = map.next_value()?;
                    self.note(&name, value)
                }
            };
            if let Err(wrong) = noted {
                self.wrong = Some(wrong);
                return Err(A::Error::custom("an attribute is wrong"));
            }
        }
        Ok(())
    }
}

impl Reading {
    fn note(&mut self, name: &str, value: Scalar) -> Result<(), Wrong> {
        match value {
            // "Encountering null is the same as the attribute being absent" (JSON format 2.2).
            Scalar::Null => Ok(()),
            Scalar::Text(text) => self.found.note(name, &text),
            Scalar::Bool | Scalar::Integer if !is_known(name) => {
                super::rules::check_name(name).map_err(|why| Wrong::attribute(name, why))
            }
            Scalar::Bool | Scalar::Integer => Err(Wrong::attribute(name, "is not a string")),
            Scalar::Other => {
                Err(Wrong::attribute(name, "is not a string, a boolean or a whole number"))
            }
        }
    }

    fn note_base64(&mut self, name: &str, value: &Scalar) -> Result<(), Wrong> {
        match value {
            Scalar::Null => Ok(()),
            Scalar::Text(_) => self.note_data(name),
            _ => Err(Wrong::attribute(name, "is not a string")),
        }
    }

    fn note_data(&mut self, name: &str) -> Result<(), Wrong> {
        if std::mem::replace(&mut self.data, true) {
            return Err(Wrong::attribute(name, "stands beside other data; an event has one"));
        }
        Ok(())
    }
}

fn is_known(name: &str) -> bool {
    ["id", "source", "type", "specversion"].contains(&name)
        || super::rules::OPTIONAL.iter().any(|(optional, _)| *optional == name)
}

/// A member's value.
enum Scalar {
    Null,
    Bool,
    /// Within 32 bits, as the type system has it.
    Integer,
    Text(String),
    /// A fraction, a list, an object.
    Other,
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Scalar, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Scalar, E> {
        Ok(Scalar::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Scalar, E> {
        Ok(Scalar::Bool)
    }

    fn visit_i64<E>(self, value: i64) -> Result<Scalar, E> {
        Ok(i32::try_from(value).map_or(Scalar::Other, |_| Scalar::Integer))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Scalar, E> {
        Ok(i32::try_from(value).map_or(Scalar::Other, |_| Scalar::Integer))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Scalar, E> {
        Ok(Scalar::Other)
    }

    fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Scalar, E> {
        Ok(Scalar::Text(text))
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Scalar, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other)
    }
}
