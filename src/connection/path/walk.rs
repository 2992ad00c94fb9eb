//! Walking down one path of a JSON text, skipping all beside it.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{Absent, Scalar, Step};

/// The scalar at the end of `steps`. The whole text is checked, also what comes after the value.
pub(super) fn find(json: &[u8], steps: &[Step]) -> Result<Scalar, Absent> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let found = Walk(steps).deserialize(&mut reader).map_err(|_| Absent::NotJson)?;
    reader.end().map_err(|_| Absent::NotJson)?;
    found
}

/// Reads one value, and of it what the steps lead to.
#[derive(Clone, Copy)]
struct Walk<'p>(&'p [Step]);

impl Walk<'_> {
    /// A scalar was read.
    fn scalar(self, value: impl FnOnce() -> Scalar) -> Result<Scalar, Absent> {
        if self.0.is_empty() { Ok(value()) } else { Err(Absent::Missing) }
    }

    /// What an object or array is that holds nothing at the next step.
    fn nothing(self) -> Result<Scalar, Absent> {
        Err(if self.0.is_empty() { Absent::NotScalar } else { Absent::Missing })
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = Result<Scalar, Absent>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = Result<Scalar, Absent>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(self.scalar(|| Scalar::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(self.scalar(|| Scalar::Number(value.into())))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(self.scalar(|| Scalar::Number(value.into())))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        // JSON has neither NaN nor infinity.
        let number = serde_json::Number::from_f64(value);
        Ok(self.scalar(|| number.map_or(Scalar::Null, Scalar::Number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(self.scalar(|| Scalar::Text(value.to_owned())))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(self.scalar(|| Scalar::Null))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = self.nothing();
        let Some((Step::Member(name), rest)) = self.0.split_first() else {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(found);
        };
        while let Some(is_it) = map.next_key_seed(Is(name))? {
            if is_it {
                found = map.next_value_seed(Walk(rest))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut found = self.nothing();
        if let Some((Step::Item(number), rest)) = self.0.split_first() {
            for _ in 0..*number {
                if seq.next_element::<IgnoredAny>()?.is_none() {
                    return Ok(found);
                }
            }
            if let Some(item) = seq.next_element_seed(Walk(rest))? {
                found = item;
            }
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(found)
    }
}

/// Whether a member's name is this one; copies nothing.
struct Is<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for Is<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<bool, D::Error> {
        reader.deserialize_str(self)
    }
}

impl Visitor<'_> for Is<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
}
