//! A part of a value, as an error about it names it. Whoever knows where the value was written finds the place.

/// One step on the way to a part of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Into the value of this key.
    Key(String),
    /// Into this item of a list, from 0.
    Index(usize),
}
