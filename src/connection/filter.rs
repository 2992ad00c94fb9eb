//! Filters: which events a connection takes, in the published operator set of JSON filters and some of our own.
//!
//! A filter has up to four sections, which all must match: `body`, `headers`, `path`, `query`. It is compiled at load, where
//! every mistake that can be seen is an error with its place, and evaluated with three values: yes, no, and neither.
//!
//! | condition | yes |
//! |---|---|
//! | a string, number, `true`, `false`, `null` | equal; an array with such an item |
//! | an array | an array that holds something for each item |
//! | an object | all members match; an array with an object that does |
//! | `$eq`, `$neq` | equal as a whole, or not |
//! | `$gt`, `$gte`, `$lt`, `$lte` | numbers with numbers, strings with strings (by code points) |
//! | `$in`, `$nin` | one of an array; a part of a string; an item of the array that the value is; or not |
//! | `$startsWith`, `$endsWith` | a string, or one of several; of the string, or of an item of the array |
//! | `$contains` | an array with this item, a string with this part |
//! | `$regex` | a string, or an item of an array, in which the expression is found (linear time) |
//! | `$cidr` | an address in this range, or in one of several |
//! | `$exist` | there (`null` is), or not |
//! | `$and`, `$or`, `$not` | of conditions, for the whole section or for one field |
//! | `{ "$ref": "a.b[1]" }` | in the place of a value: that of another field of the section |
//!
//! Operators beside each other, and beside plain keys, must all match. **Neither** is what comes of comparing values of different
//! sorts, and of asking anything but `$exist` of a field that is not there: it is no match, and `$not` does not make one of
//! it, so `$neq` and `$nin` do not match a missing field, and `{ "$not": { "$gte": 5 } }` does not match text. Values of
//! different sorts are also counted, once for each event. `null` equals nothing else, and is not another sort for `$eq`,
//! `$neq`, `$in` and `$nin`.

mod compile;
mod describe;
mod judge;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use ipnet::IpNet;

use super::json::Json;
use super::part;
use super::parts::Parts;
use super::path;

/// How deep conditions may be nested.
pub const DEPTH_MAX: usize = 32;
/// Conditions of one filter, items of its lists included.
pub const CONDITIONS_MAX: usize = 1_000;
/// Bytes of a regular expression's text.
pub const REGEX_BYTES_MAX: usize = 4_096;
/// Bytes that a compiled regular expression may take.
const REGEX_SIZE_MAX: usize = 1 << 20;
/// Steps of one evaluation; one that takes more does not match. A filter without `$ref` on arrays stays far below it.
const STEPS_MAX: u32 = 2_000_000;

/// A compiled filter. Two are equal when they are written alike.
#[derive(Clone, Debug)]
pub struct Filter {
    /// As JSON, for people and for comparing.
    text: String,
    sections: Vec<(Section, Condition)>,
}

impl PartialEq for Filter {
    fn eq(&self, other: &Filter) -> bool {
        self.text == other.text
    }
}

/// What a section looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Section {
    Body,
    Headers,
    Path,
    Query,
}

/// What is asked of one value.
#[derive(Clone, Debug)]
enum Condition {
    /// All of these.
    All(Vec<Condition>),
    /// One of these.
    Any(Vec<Condition>),
    Not(Box<Condition>),
    /// Members of an object, by name.
    Members(Vec<(String, Condition)>),
    /// A string, number, flag or null.
    Literal(Json<'static>),
    /// An array that holds something for each of these.
    Holds(Vec<Condition>),
    Exists(bool),
    Equal(Operand),
    Unequal(Operand),
    Order(Order, Operand),
    In(Operand),
    NotIn(Operand),
    StartsWith(Operand),
    EndsWith(Operand),
    Contains(Operand),
    Regex(regex::Regex),
    Cidr(Vec<IpNet>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

/// What a value is compared with.
#[derive(Clone, Debug)]
enum Operand {
    Value(Json<'static>),
    /// Another field of the section.
    Ref(Vec<path::Step>),
    /// An array, some items of which are other fields.
    List(Vec<Operand>),
}

/// Why a filter was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterError {
    /// The part that is wrong.
    pub steps: Vec<part::Step>,
    /// What is wrong with it, and what to write instead.
    pub message: String,
}

/// What came of an evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Whether the event is for this connection.
    pub matches: bool,
    /// Whether values of different sorts were compared.
    pub type_error: bool,
}

impl Filter {
    /// Compiles a filter that has been read as JSON.
    ///
    /// # Errors
    /// Everything that is wrong with it; at least one.
    pub fn compile(filter: &Json<'_>) -> Result<Filter, Vec<FilterError>> {
        compile::compile(filter)
    }

    /// Whether an event matches.
    pub fn judge(&self, parts: &Parts<'_>) -> Judgement {
        judge::judge(&self.sections, parts, None)
    }

    /// As [`Filter::judge`], and why not: a line for each condition that failed.
    pub fn explain(&self, parts: &Parts<'_>) -> (Judgement, Vec<String>) {
        let mut reasons = Vec::new();
        let judgement = judge::judge(&self.sections, parts, Some(&mut reasons));
        (judgement, reasons)
    }

    /// The filter as JSON.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The headers that it looks at, in lower case: their events must keep them.
    pub fn headers(&self) -> Vec<&str> {
        let mut names = Vec::new();
        for (_, condition) in
            self.sections.iter().filter(|(section, _)| *section == Section::Headers)
        {
            condition.first_names(&mut names);
        }
        names
    }

    /// Whether it looks at the path.
    pub fn reads_path(&self) -> bool {
        self.reads(Section::Path)
    }

    /// Whether it looks at the query.
    pub fn reads_query(&self) -> bool {
        self.reads(Section::Query)
    }

    fn reads(&self, wanted: Section) -> bool {
        self.sections.iter().any(|(section, _)| *section == wanted)
    }
}

impl Section {
    const ALL: [Section; 4] = [Section::Body, Section::Headers, Section::Path, Section::Query];

    fn as_str(self) -> &'static str {
        match self {
            Section::Body => "body",
            Section::Headers => "headers",
            Section::Path => "path",
            Section::Query => "query",
        }
    }
}

impl Condition {
    /// The members of the section's own object that are looked at.
    fn first_names<'c>(&'c self, names: &mut Vec<&'c str>) {
        let mut of = |operand: &'c Operand| operand.first_names(names);
        match self {
            Condition::All(all) | Condition::Any(all) => {
                all.iter().for_each(|condition| condition.first_names(names));
            }
            Condition::Not(condition) => condition.first_names(names),
            Condition::Members(members) => {
                for (name, condition) in members {
                    names.push(name);
                    // What stands below may refer to others by `$ref`, and never names others.
                    condition.references(names);
                }
            }
            Condition::Equal(operand)
            | Condition::Unequal(operand)
            | Condition::Order(_, operand)
            | Condition::In(operand)
            | Condition::NotIn(operand)
            | Condition::StartsWith(operand)
            | Condition::EndsWith(operand)
            | Condition::Contains(operand) => of(operand),
            Condition::Literal(_)
            | Condition::Holds(_)
            | Condition::Exists(_)
            | Condition::Regex(_)
            | Condition::Cidr(_) => {}
        }
    }

    /// As [`Condition::first_names`], for a condition on a member: its own members are not the section's.
    fn references<'c>(&'c self, names: &mut Vec<&'c str>) {
        match self {
            Condition::All(all) | Condition::Any(all) | Condition::Holds(all) => {
                all.iter().for_each(|condition| condition.references(names));
            }
            Condition::Not(condition) => condition.references(names),
            Condition::Members(members) => {
                members.iter().for_each(|(_, condition)| condition.references(names));
            }
            leaf => leaf.first_names(names),
        }
    }
}

impl Operand {
    fn first_names<'c>(&'c self, names: &mut Vec<&'c str>) {
        match self {
            Operand::Value(_) => {}
            Operand::Ref(steps) => {
                if let Some(path::Step::Member(name)) = steps.first() {
                    names.push(name);
                }
            }
            Operand::List(items) => items.iter().for_each(|item| item.first_names(names)),
        }
    }
}

/// An address as ranges are written: one in IPv6's disguise (`::ffff:10.0.0.1`) is the IPv4 address that it is.
fn address(text: &str) -> Option<IpAddr> {
    Some(text.parse::<IpAddr>().ok()?.to_canonical())
}
