//! From a filter's JSON to conditions.

use std::borrow::Cow;

use ipnet::IpNet;

use super::{
    CONDITIONS_MAX, Condition, DEPTH_MAX, Filter, FilterError, Operand, Order, REGEX_BYTES_MAX,
    REGEX_SIZE_MAX, Section, address,
};
use crate::connection::json::{Json, Sort};
use crate::connection::part::Step;
use crate::connection::path::Path;

/// Every operator, for "did you mean".
const OPERATORS: [&str; 18] = [
    "$and",
    "$cidr",
    "$contains",
    "$endsWith",
    "$eq",
    "$exist",
    "$gt",
    "$gte",
    "$in",
    "$lt",
    "$lte",
    "$neq",
    "$nin",
    "$not",
    "$or",
    "$ref",
    "$regex",
    "$startsWith",
];

pub(super) fn compile(filter: &Json<'_>) -> Result<Filter, Vec<FilterError>> {
    let mut compiler =
        Compiler { section: Section::Body, steps: Vec::new(), count: 0, errors: Vec::new() };
    let sections = compiler.sections(filter);
    if !compiler.errors.is_empty() {
        return Err(compiler.errors);
    }
    Ok(Filter { text: filter.to_string(), sections })
}

struct Compiler {
    section: Section,
    /// Where in the filter we are.
    steps: Vec<Step>,
    /// Conditions so far.
    count: usize,
    errors: Vec<FilterError>,
}

/// Which object's members the keys of a condition are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    /// The section's own: names of headers know no case.
    Section,
    Below,
}

impl Compiler {
    fn sections(&mut self, filter: &Json<'_>) -> Vec<(Section, Condition)> {
        let Json::Object(members) = filter else {
            self.error(format!(
                "is {}, write an object with body, headers, path or query",
                filter.sort().as_str()
            ));
            return Vec::new();
        };
        let mut sections = Vec::with_capacity(members.len());
        for (name, value) in members {
            let found = Section::ALL.into_iter().find(|section| section.as_str() == name);
            self.inside(Step::Key(name.to_string()), |this| match found {
                Some(section) => {
                    this.section = section;
                    let condition = this.condition(value, Level::Section);
                    sections.extend(condition.map(|condition| (section, condition)));
                }
                None => this.error(format!(
                    "{name:?} is no part of an event; a filter has body, headers, path and query"
                )),
            });
        }
        if members.is_empty() {
            self.error("is empty; write what events must have, or leave it out".to_owned());
        }
        sections
    }

    fn inside<T>(&mut self, step: Step, work: impl FnOnce(&mut Self) -> T) -> T {
        self.steps.push(step);
        let done = work(self);
        self.steps.pop();
        done
    }

    fn error(&mut self, message: String) {
        self.errors.push(FilterError { steps: self.steps.clone(), message });
    }

    /// One condition; `None` after an error.
    fn condition(&mut self, json: &Json<'_>, level: Level) -> Option<Condition> {
        self.count += 1;
        if self.count > CONDITIONS_MAX {
            if self.count == CONDITIONS_MAX + 1 {
                self.error(format!("the filter has more than {CONDITIONS_MAX} conditions"));
            }
            return None;
        }
        if self.steps.len() > DEPTH_MAX {
            self.error(format!("conditions are nested more than {DEPTH_MAX} deep"));
            return None;
        }
        match json {
            Json::Object(members) => self.members(members, level),
            Json::Array(items) => {
                let each = |this: &mut Self, item: &Json<'_>| this.condition(item, Level::Below);
                self.list(items, each).map(Condition::Holds)
            }
            literal => {
                self.fits_section(literal)?;
                Some(Condition::Literal(literal.clone().into_owned()))
            }
        }
    }

    fn list<T>(
        &mut self,
        items: &[Json<'_>],
        mut each: impl FnMut(&mut Self, &Json<'_>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let compiled: Vec<Option<T>> = items
            .iter()
            .enumerate()
            .map(|(at, item)| self.inside(Step::Index(at), |this| each(this, item)))
            .collect();
        compiled.into_iter().collect()
    }

    /// Operators and plain keys side by side: all must match.
    fn members(&mut self, members: &[(Cow<'_, str>, Json<'_>)], level: Level) -> Option<Condition> {
        let mut all = Vec::new();
        let mut plain: Vec<(String, Condition)> = Vec::new();
        let mut whole = true;
        for (at, (name, value)) in members.iter().enumerate() {
            self.inside(Step::Key(name.to_string()), |this| {
                if members.iter().take(at).any(|(before, _)| before == name) {
                    this.error(format!("{name:?} is written twice here"));
                    whole = false;
                } else if name.starts_with('$') {
                    let condition = this.operator(name, value, level);
                    whole &= condition.is_some();
                    all.extend(condition);
                } else {
                    let condition = this.condition(value, Level::Below);
                    whole &= condition.is_some();
                    let key = match (this.section, level) {
                        (Section::Headers, Level::Section) => name.to_ascii_lowercase(),
                        _ => name.to_string(),
                    };
                    plain.extend(condition.map(|condition| (key, condition)));
                }
            });
        }
        if self.section == Section::Path && !plain.is_empty() {
            self.error("the path is a string and has no members".to_owned());
            return None;
        }
        if !plain.is_empty() || all.is_empty() {
            all.push(Condition::Members(plain));
        }
        if !whole {
            return None;
        }
        if all.len() == 1 { all.pop() } else { Some(Condition::All(all)) }
    }

    fn operator(&mut self, name: &str, value: &Json<'_>, level: Level) -> Option<Condition> {
        let condition = match name {
            "$and" => Condition::All(self.conditions(value, level)?),
            "$or" => Condition::Any(self.conditions(value, level)?),
            "$not" => Condition::Not(Box::new(self.condition(value, level)?)),
            "$exist" => match value {
                Json::Bool(flag) => Condition::Exists(*flag),
                other => return self.wrong(other, "true or false"),
            },
            "$ref" => Condition::Equal(self.reference(value)?),
            "$eq" => Condition::Equal(self.operand(value)?),
            "$neq" => Condition::Unequal(self.operand(value)?),
            "$gt" => Condition::Order(Order::Greater, self.ordered(value)?),
            "$gte" => Condition::Order(Order::GreaterOrEqual, self.ordered(value)?),
            "$lt" => Condition::Order(Order::Less, self.ordered(value)?),
            "$lte" => Condition::Order(Order::LessOrEqual, self.ordered(value)?),
            "$in" => Condition::In(self.choices(value, &[Sort::Array, Sort::Text])?),
            "$nin" => Condition::NotIn(self.choices(value, &[Sort::Array, Sort::Text])?),
            "$startsWith" => Condition::StartsWith(self.strings(value)?),
            "$endsWith" => Condition::EndsWith(self.strings(value)?),
            "$contains" => Condition::Contains(self.operand(value)?),
            "$regex" => Condition::Regex(self.regex(value)?),
            "$cidr" => Condition::Cidr(self.ranges(value)?),
            _ => {
                self.unknown(name);
                return None;
            }
        };
        Some(condition)
    }

    fn unknown(&mut self, name: &str) {
        let near = OPERATORS
            .into_iter()
            .map(|known| (strsim::damerau_levenshtein(known, name), known))
            .filter(|(distance, _)| *distance <= 3)
            .min();
        let hint = match near {
            Some((_, known)) => format!(", did you mean {known:?}?"),
            None => format!("; known are {}", OPERATORS.join(", ")),
        };
        self.error(format!("unknown operator {name:?}{hint}"));
    }

    fn wrong<T>(&mut self, value: &Json<'_>, wanted: &str) -> Option<T> {
        self.error(format!("is {}, write {wanted}", value.sort().as_str()));
        None
    }

    /// The list of `$and` and `$or`.
    fn conditions(&mut self, value: &Json<'_>, level: Level) -> Option<Vec<Condition>> {
        match value {
            Json::Array(items) if !items.is_empty() => {
                self.list(items, |this, item| this.condition(item, level))
            }
            Json::Array(_) => {
                self.error("is empty, write a list of one condition or more".to_owned());
                None
            }
            other => self.wrong(other, "a list of one condition or more"),
        }
    }

    /// Headers, path and query hold strings alone: another value could never match.
    fn fits_section(&mut self, value: &Json<'_>) -> Option<()> {
        if self.section != Section::Body && !matches!(value, Json::Text(_) | Json::Null) {
            let what = self.section.as_str();
            let sort = value.sort().as_str();
            self.error(match value.scalar() {
                Some(text) => {
                    format!("is {sort}, but {what} holds strings alone; write {text:?}")
                }
                None => format!("is {sort}, but {what} holds strings alone"),
            });
            return None;
        }
        Some(())
    }

    /// Any value, or `{ "$ref": … }`.
    fn operand(&mut self, value: &Json<'_>) -> Option<Operand> {
        match value {
            Json::Object(members) => match members.as_slice() {
                [(name, path)] if name == "$ref" => {
                    self.inside(Step::Key("$ref".to_owned()), |this| this.reference(path))
                }
                _ => Some(Operand::Value(value.clone().into_owned())),
            },
            Json::Array(items) if items.iter().any(is_reference) => {
                self.list(items, Compiler::operand).map(Operand::List)
            }
            Json::Array(items) => {
                self.count += items.len();
                if self.count > CONDITIONS_MAX {
                    self.error(format!("the filter has more than {CONDITIONS_MAX} conditions"));
                    return None;
                }
                self.list(items, Compiler::fits_section)?;
                Some(Operand::Value(value.clone().into_owned()))
            }
            literal => {
                self.fits_section(literal)?;
                Some(Operand::Value(literal.clone().into_owned()))
            }
        }
    }

    fn reference(&mut self, value: &Json<'_>) -> Option<Operand> {
        let Json::Text(text) = value else {
            return self.wrong(value, "the path of a field, as in \"order.total\" or \"items[0]\"");
        };
        let joint = if text.starts_with('[') { "" } else { "." };
        let mut steps = match Path::parse(&format!("body{joint}{text}")) {
            Ok(path) => path.steps().unwrap_or_default().to_vec(),
            Err(message) => {
                self.error(message);
                return None;
            }
        };
        if let (Section::Headers, Some(crate::connection::path::Step::Member(name))) =
            (self.section, steps.first_mut())
        {
            name.make_ascii_lowercase();
        }
        Some(Operand::Ref(steps))
    }

    /// A value that has an order.
    fn ordered(&mut self, value: &Json<'_>) -> Option<Operand> {
        if matches!(value, Json::Number(_) | Json::Text(_)) || is_reference(value) {
            return self.operand(value);
        }
        self.wrong(value, "a number, a string or { \"$ref\": \"a.b\" }")
    }

    fn choices(&mut self, value: &Json<'_>, sorts: &[Sort]) -> Option<Operand> {
        if sorts.contains(&value.sort()) || is_reference(value) {
            return self.operand(value);
        }
        self.wrong(value, "a list, a string or { \"$ref\": \"a.b\" }")
    }

    /// A string or several.
    fn strings(&mut self, value: &Json<'_>) -> Option<Operand> {
        let fine = |item: &Json<'_>| matches!(item, Json::Text(_)) || is_reference(item);
        let all = match value {
            Json::Array(items) => !items.is_empty() && items.iter().all(fine),
            one => fine(one),
        };
        if all {
            return self.operand(value);
        }
        self.wrong(value, "a string or a list of strings")
    }

    fn regex(&mut self, value: &Json<'_>) -> Option<regex::Regex> {
        let Json::Text(text) = value else {
            return self.wrong(value, "a regular expression as a string");
        };
        if text.len() > REGEX_BYTES_MAX {
            self.error(format!("the expression has more than {REGEX_BYTES_MAX} bytes"));
            return None;
        }
        let built = regex::RegexBuilder::new(text)
            .size_limit(REGEX_SIZE_MAX)
            .dfa_size_limit(REGEX_SIZE_MAX)
            .nest_limit(64)
            .build();
        match built {
            Ok(regex) => Some(regex),
            Err(regex::Error::CompiledTooBig(_)) => {
                self.error(format!(
                    "the expression takes more than {REGEX_SIZE_MAX} bytes when compiled"
                ));
                None
            }
            Err(error) => {
                // The last line says what is wrong, those before it show where.
                let shown = error.to_string();
                let last = shown.lines().last().unwrap_or_default();
                let last = last.strip_prefix("error: ").unwrap_or(last);
                self.error(format!("{text:?} is not a regular expression: {last}"));
                None
            }
        }
    }

    fn ranges(&mut self, value: &Json<'_>) -> Option<Vec<IpNet>> {
        match value {
            Json::Text(text) => self.range(text).map(|range| vec![range]),
            Json::Array(items) if !items.is_empty() => self.list(items, |this, item| match item {
                Json::Text(text) => this.range(text),
                other => this.wrong(other, "a range of addresses, as in \"10.0.0.0/8\""),
            }),
            other => self.wrong(other, "a range of addresses, as in \"10.0.0.0/8\", or a list"),
        }
    }

    fn range(&mut self, text: &str) -> Option<IpNet> {
        let range = text.parse::<IpNet>().ok().or_else(|| address(text).map(IpNet::from));
        if range.is_none() {
            self.error(format!(
                "{text:?} is not a range of addresses, write one as in \"10.0.0.0/8\""
            ));
        }
        range
    }
}

fn is_reference(value: &Json<'_>) -> bool {
    match value {
        Json::Object(members) => members.iter().any(|(name, _)| name == "$ref"),
        _ => false,
    }
}
