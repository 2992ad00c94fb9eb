//! Evaluating a filter: yes, no, or neither.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::describe::{describe, shown};
use super::{Condition, Judgement, Operand, Order, STEPS_MAX, Section, address};
use crate::connection::json::{Json, compare_numbers};
use crate::connection::parts::Parts;
use crate::connection::path::Step;
use crate::connection::path::tree::each;

/// Reasons that are told.
const REASONS_MAX: usize = 20;

/// What a condition says of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Three {
    Yes,
    No,
    /// The question makes no sense for the value.
    Neither,
}

use Three::{Neither, No, Yes};

/// A value, or nothing where it would be.
type There<'v> = Option<&'v Json<'v>>;

pub(super) fn judge(
    sections: &[(Section, Condition)],
    parts: &Parts<'_>,
    reasons: Option<&mut Vec<String>>,
) -> Judgement {
    let mut tracing = reasons.map(|reasons| Trace { path: Vec::new(), reasons });
    let mut type_error = false;
    let mut matches = true;
    for (section, condition) in sections {
        let value = match section {
            Section::Body => match parts.body() {
                Ok(body) => Some(body),
                Err(why) => {
                    if let Some(trace) = &mut tracing {
                        trace.reasons.push(format!("body: {why}"));
                    }
                    matches = false;
                    continue;
                }
            },
            Section::Headers => Some(parts.headers()),
            Section::Query => Some(parts.query()),
            Section::Path => Some(parts.path()).filter(|path| path.scalar() != Some("")),
        };
        let mut judge = Judge { root: value, left: STEPS_MAX, type_error: false, trace: None };
        if let Some(trace) = &mut tracing {
            trace.path = vec![section.as_str().to_owned()];
        }
        let told = tracing.as_ref().map_or(0, |trace| trace.reasons.len());
        judge.trace = tracing.take();
        let is_for_us = judge.condition(condition, value) == Yes && judge.left > 0;
        matches &= is_for_us;
        type_error |= judge.type_error;
        tracing = judge.trace;
        if let Some(trace) = &mut tracing
            && !is_for_us
            && trace.reasons.len() == told
        {
            trace.reasons.push(format!("{} does not match", section.as_str()));
        }
        if !matches && tracing.is_none() {
            break;
        }
    }
    Judgement { matches, type_error }
}

/// Why something did not match.
struct Trace<'t> {
    path: Vec<String>,
    reasons: &'t mut Vec<String>,
}

struct Judge<'v, 't> {
    /// The section, for `$ref`.
    root: There<'v>,
    left: u32,
    type_error: bool,
    trace: Option<Trace<'t>>,
}

impl<'v> Judge<'v, '_> {
    /// Takes steps; `false` when there are no more.
    fn spend(&mut self, steps: usize) -> bool {
        self.left = self.left.saturating_sub(u32::try_from(steps).unwrap_or(u32::MAX));
        if self.left == 0 {
            self.type_error = true;
        }
        self.left > 0
    }

    fn other_sorts(&mut self) -> Three {
        self.type_error = true;
        Neither
    }

    /// Yes, if it is for all of them.
    fn all<'a, T>(
        &mut self,
        each: &'a [T],
        mut ask: impl FnMut(&mut Self, &'a T) -> Three,
    ) -> Three {
        let mut result = Yes;
        for one in each {
            if !self.spend(1) {
                return Neither;
            }
            match ask(self, one) {
                Yes => {}
                No => return No,
                Neither => result = Neither,
            }
        }
        result
    }

    /// Yes, if it is for one of them; of none: no.
    fn any<'a, T>(
        &mut self,
        each: &'a [T],
        mut ask: impl FnMut(&mut Self, &'a T) -> Three,
    ) -> Three {
        let mut result = No;
        for one in each {
            if !self.spend(1) {
                return Neither;
            }
            match ask(self, one) {
                Yes => return Yes,
                No => {}
                Neither => result = Neither,
            }
        }
        result
    }

    fn condition(&mut self, condition: &Condition, value: There<'v>) -> Three {
        if !self.spend(1) {
            return Neither;
        }
        let before = self.trace.as_ref().map_or(0, |trace| trace.reasons.len());
        let result = match condition {
            Condition::All(all) => self.all(all, |this, one| this.condition(one, value)),
            Condition::Any(any) => self.any(any, |this, one| this.condition(one, value)),
            Condition::Not(inner) => {
                let trace = self.trace.take();
                let result = not(self.condition(inner, value));
                self.trace = trace;
                self.told(result, condition, value)
            }
            Condition::Members(members) => self.members(members, value),
            leaf => {
                let result = self.leaf(leaf, value);
                self.told(result, leaf, value)
            }
        };
        if let (Yes, Some(trace)) = (result, &mut self.trace) {
            trace.reasons.truncate(before);
        }
        result
    }

    /// Notes why a condition without others inside did not match.
    fn told(&mut self, result: Three, condition: &Condition, value: There<'v>) -> Three {
        if let (No | Neither, Some(trace)) = (result, &mut self.trace)
            && trace.reasons.len() < REASONS_MAX
        {
            let found = match value {
                None => "is not there".to_owned(),
                Some(value) => format!("is {}", shown(&value.to_string())),
            };
            let why = match (result, value) {
                (Neither, Some(_)) => " (which is of another sort)",
                _ => "",
            };
            let wanted = describe(condition);
            trace.reasons.push(format!("{} {found}{why}, wanted: {wanted}", trace.path.join(".")));
        }
        result
    }

    fn members(&mut self, members: &[(String, Condition)], value: There<'v>) -> Three {
        match value {
            Some(Json::Array(items)) if !members.is_empty() => {
                self.any(items, |this, item| this.members(members, Some(item)))
            }
            Some(object @ Json::Object(entries)) => self.all(members, |this, (name, condition)| {
                this.spend(entries.len() / 8);
                this.member(name, condition, object.member(name), true)
            }),
            None => self
                .all(members, |this, (name, condition)| this.member(name, condition, None, false)),
            Some(_) if members.is_empty() => Yes,
            Some(other) => {
                let result = self.other_sorts();
                let shown = Condition::Members(Vec::new());
                self.told(result, &shown, Some(other))
            }
        }
    }

    fn member(
        &mut self,
        name: &str,
        condition: &Condition,
        value: There<'v>,
        in_object: bool,
    ) -> Three {
        if let Some(trace) = &mut self.trace {
            trace.path.push(name.to_owned());
        }
        let result = self.condition(condition, value);
        if let Some(trace) = &mut self.trace {
            trace.path.pop();
        }
        // An object that has no such member does not match, for certain.
        if value.is_none() && in_object && result == Neither { No } else { result }
    }

    /// A condition on one value without others inside.
    fn leaf(&mut self, condition: &Condition, value: There<'v>) -> Three {
        if let Condition::Exists(wanted) = condition {
            return yes(value.is_some() == *wanted);
        }
        let Some(value) = value else {
            return Neither;
        };
        match condition {
            Condition::Literal(literal) => {
                self.each_or_self(value, |this, one| this.same(one, literal))
            }
            Condition::Holds(wanted) => self.holds(wanted, value),
            Condition::Equal(operand) => self.with(operand, |this, other| this.same(value, other)),
            Condition::Unequal(operand) => {
                not(self.with(operand, |this, other| this.same(value, other)))
            }
            Condition::Order(order, operand) => {
                self.with(operand, |this, other| this.order(*order, value, other))
            }
            Condition::In(operand) => self.with(operand, |this, other| this.is_in(value, other)),
            Condition::NotIn(operand) => {
                not(self.with(operand, |this, other| this.is_in(value, other)))
            }
            Condition::StartsWith(operand) => self.affix(value, operand, |a, b| a.starts_with(b)),
            Condition::EndsWith(operand) => self.affix(value, operand, |a, b| a.ends_with(b)),
            Condition::Contains(operand) => {
                self.with(operand, |this, other| this.contains(value, other))
            }
            Condition::Regex(regex) => {
                self.text_or_items(value, |_, text| yes(regex.is_match(text)))
            }
            Condition::Cidr(ranges) => {
                self.text_or_items(value, |this, text| match address(text) {
                    Some(address) => yes(ranges.iter().any(|range| range.contains(&address))),
                    None => this.other_sorts(),
                })
            }
            _ => Neither,
        }
    }

    /// With what an operand stands for. A field that is not there compares with nothing.
    fn with(
        &mut self,
        operand: &Operand,
        compare: impl FnOnce(&mut Self, &Json<'_>) -> Three,
    ) -> Three {
        match self.resolve(operand) {
            Some(other) => compare(self, &other),
            None => Neither,
        }
    }

    fn resolve<'o>(&self, operand: &'o Operand) -> Option<Cow<'o, Json<'o>>>
    where
        'v: 'o,
    {
        match operand {
            Operand::Value(value) => Some(Cow::Borrowed(value)),
            Operand::Ref(steps) => self.referred(steps).map(Cow::Borrowed),
            Operand::List(items) => {
                let found = items.iter().filter_map(|item| self.resolve(item));
                Some(Cow::Owned(Json::Array(found.map(Cow::into_owned).collect())))
            }
        }
    }

    fn referred(&self, steps: &[Step]) -> There<'v> {
        let mut found = None;
        each(self.root?, steps, &mut |value| found = Some(value));
        found
    }

    /// Equality of values of one sort. Null is no other sort: it equals nothing else.
    fn same(&mut self, a: &Json<'_>, b: &Json<'_>) -> Three {
        if a.sort() == b.sort() {
            yes(self.equal(a, b))
        } else if matches!(a, Json::Null) || matches!(b, Json::Null) {
            No
        } else {
            self.other_sorts()
        }
    }

    fn equal(&mut self, a: &Json<'_>, b: &Json<'_>) -> bool {
        if !self.spend(1) {
            return false;
        }
        match (a, b) {
            (Json::Null, Json::Null) => true,
            (Json::Bool(a), Json::Bool(b)) => a == b,
            (Json::Text(a), Json::Text(b)) => a == b,
            (Json::Number(a), Json::Number(b)) => compare_numbers(a, b) == Some(Ordering::Equal),
            (Json::Array(a), Json::Array(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| self.equal(a, b))
            }
            (Json::Object(entries), Json::Object(others)) => {
                entries.len() == others.len()
                    && entries.iter().all(|(name, value)| {
                        self.spend(others.len() / 8);
                        b.member(name).is_some_and(|other| self.equal(value, other))
                    })
            }
            _ => false,
        }
    }

    /// A literal against the value, or against the items of the array that the value is.
    fn each_or_self(
        &mut self,
        value: &Json<'_>,
        mut compare: impl FnMut(&mut Self, &Json<'_>) -> Three,
    ) -> Three {
        match value {
            Json::Array(items) => self.any(items, compare),
            one => compare(self, one),
        }
    }

    fn holds(&mut self, wanted: &[Condition], value: &'v Json<'v>) -> Three {
        match value {
            Json::Array(items) => self.all(wanted, |this, condition| {
                let trace = this.trace.take();
                let found = this.any(items, |this, item| this.condition(condition, Some(item)));
                this.trace = trace;
                found
            }),
            Json::Null => No,
            _ => self.other_sorts(),
        }
    }

    fn order(&mut self, order: Order, a: &Json<'_>, b: &Json<'_>) -> Three {
        let ordering = match (a, b) {
            (Json::Number(a), Json::Number(b)) => compare_numbers(a, b),
            (Json::Text(a), Json::Text(b)) => Some(a.cmp(b)),
            _ => None,
        };
        match ordering {
            None => self.other_sorts(),
            Some(ordering) => yes(match order {
                Order::Greater => ordering.is_gt(),
                Order::GreaterOrEqual => ordering.is_ge(),
                Order::Less => ordering.is_lt(),
                Order::LessOrEqual => ordering.is_le(),
            }),
        }
    }

    /// `$in`: a member of an array, a part of a string, or an item of the array that the value is.
    fn is_in(&mut self, value: &Json<'_>, other: &Json<'_>) -> Three {
        match (value, other) {
            (Json::Text(value), Json::Text(other)) => yes(value.contains(&**other)),
            (Json::Array(items), Json::Array(choices)) => {
                self.any(items, |this, item| this.one_of(item, choices))
            }
            (value, Json::Array(choices)) => self.one_of(value, choices),
            (Json::Array(items), other) => self.one_of(other, items),
            (Json::Null, _) => No,
            _ => self.other_sorts(),
        }
    }

    /// Whether a value is one of an array's. Items of other sorts are passed over where one is of the same.
    fn one_of(&mut self, value: &Json<'_>, choices: &[Json<'_>]) -> Three {
        let counted = self.type_error;
        let result = self.any(choices, |this, choice| this.same(value, choice));
        let comparable = choices.iter().any(|choice| choice.sort() == value.sort());
        if comparable && self.left > 0 {
            self.type_error = counted;
            return if result == Yes { Yes } else { No };
        }
        result
    }

    fn affix(
        &mut self,
        value: &Json<'_>,
        operand: &Operand,
        fits: impl Fn(&str, &str) -> bool,
    ) -> Three {
        self.with(operand, |this, other| {
            this.text_or_items(value, |this, text| {
                this.each_or_self(other, |this, one| match one {
                    Json::Text(one) => yes(fits(text, one)),
                    _ => this.other_sorts(),
                })
            })
        })
    }

    fn contains(&mut self, value: &Json<'_>, other: &Json<'_>) -> Three {
        match (value, other) {
            (Json::Array(items), other) => self.one_of(other, items),
            (Json::Text(value), Json::Text(other)) => yes(value.contains(&**other)),
            (Json::Null, _) => No,
            _ => self.other_sorts(),
        }
    }

    /// A question to a string, or to the strings of an array.
    fn text_or_items(
        &mut self,
        value: &Json<'_>,
        mut ask: impl FnMut(&mut Self, &str) -> Three,
    ) -> Three {
        self.each_or_self(value, |this, one| match one {
            Json::Text(text) => {
                this.spend(text.len() / 64);
                ask(this, text)
            }
            _ => this.other_sorts(),
        })
    }
}

fn yes(holds: bool) -> Three {
    if holds { Yes } else { No }
}

fn not(three: Three) -> Three {
    match three {
        Yes => No,
        No => Yes,
        Neither => Neither,
    }
}
