//! A value of any shape, as TOML has it, that another part of the crate gives its meaning: filters, samples of events. It goes
//! there as JSON; an error that comes back names the part by its [`Step`]s, and [`Tree::place`] knows where that was written.

use toml::de::DeValue;

use super::source::Place;
use crate::connection::json::Json;
use crate::connection::part::Step;

/// One value and where it was written.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    pub(super) what: What,
    pub(super) place: Place,
}

/// What the value is.
#[derive(Clone, Debug)]
pub(super) enum What {
    Text(String),
    Bool(bool),
    Number(serde_json::Number),
    List(Vec<Tree>),
    /// Keys in the file's order, each with its own place.
    Map(Vec<(String, Place, Tree)>),
}

impl Tree {
    /// Lays `over` on top: tables merge key by key, everything else is replaced.
    pub(super) fn merge(&mut self, over: &Tree) {
        match (&mut self.what, &over.what) {
            (What::Map(below), What::Map(above)) => {
                for (key, place, value) in above {
                    match below.iter_mut().find(|(known, ..)| known == key) {
                        Some((_, old_place, old)) => {
                            old.merge(value);
                            old_place.clone_from(place);
                        }
                        None => below.push((key.clone(), place.clone(), value.clone())),
                    }
                }
                self.place = over.place.clone();
            }
            _ => self.clone_from(over),
        }
    }

    /// The same as JSON, in the file's order. Dates are strings there.
    pub(super) fn to_json(&self) -> Json<'static> {
        match &self.what {
            What::Text(text) => Json::text(text.clone()),
            What::Bool(flag) => Json::Bool(*flag),
            What::Number(number) => Json::Number(number.to_string().into()),
            What::List(items) => Json::Array(items.iter().map(Tree::to_json).collect()),
            What::Map(entries) => {
                let members = entries.iter();
                Json::Object(
                    members.map(|(key, _, value)| (key.clone().into(), value.to_json())).collect(),
                )
            }
        }
    }

    /// Where the part behind `steps` was written, as far as they lead.
    pub(super) fn place(&self, steps: &[Step]) -> &Place {
        let Some((step, rest)) = steps.split_first() else {
            return &self.place;
        };
        match (&self.what, step) {
            (What::List(items), Step::Index(at)) => {
                items.get(*at).map_or(&self.place, |item| item.place(rest))
            }
            (What::Map(entries), Step::Key(key)) => {
                match entries.iter().find(|(name, ..)| name == key) {
                    Some((_, place, _)) if rest.is_empty() => place,
                    Some((.., value)) => value.place(rest),
                    None => &self.place,
                }
            }
            _ => &self.place,
        }
    }
}

/// A number of TOML in JSON; `None` where JSON has none: infinities, or too large an integer.
pub(super) fn number(value: &DeValue<'_>) -> Option<serde_json::Number> {
    match value {
        DeValue::Integer(written) => {
            let number = i128::from_str_radix(written.as_str(), written.radix()).ok()?;
            let small = i64::try_from(number).ok().map(serde_json::Number::from);
            small.or_else(|| u64::try_from(number).ok().map(serde_json::Number::from))
        }
        DeValue::Float(written) => serde_json::Number::from_f64(written.as_str().parse().ok()?),
        _ => None,
    }
}
