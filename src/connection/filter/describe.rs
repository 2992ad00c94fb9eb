//! Conditions in a few words, for those who ask why an event did not match.

use std::fmt::Write as _;

use super::{Condition, Operand, Order};

/// Characters of a value that a reason shows.
const SHOWN_MAX: usize = 60;

/// A text, cut.
pub(super) fn shown(text: &str) -> String {
    let mut cut: String = text.chars().take(SHOWN_MAX).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    cut
}

/// A condition in a few words.
pub(super) fn describe(condition: &Condition) -> String {
    match condition {
        Condition::Literal(literal) => shown(&literal.to_string()),
        Condition::Holds(items) => format!("an array that holds these {}", items.len()),
        Condition::Exists(true) => "$exist".to_owned(),
        Condition::Exists(false) => "no such field".to_owned(),
        Condition::Equal(operand) => format!("$eq {}", operand_text(operand)),
        Condition::Unequal(operand) => format!("$neq {}", operand_text(operand)),
        Condition::Order(order, operand) => {
            let name = match order {
                Order::Greater => "$gt",
                Order::GreaterOrEqual => "$gte",
                Order::Less => "$lt",
                Order::LessOrEqual => "$lte",
            };
            format!("{name} {}", operand_text(operand))
        }
        Condition::In(operand) => format!("$in {}", operand_text(operand)),
        Condition::NotIn(operand) => format!("$nin {}", operand_text(operand)),
        Condition::StartsWith(operand) => format!("$startsWith {}", operand_text(operand)),
        Condition::EndsWith(operand) => format!("$endsWith {}", operand_text(operand)),
        Condition::Contains(operand) => format!("$contains {}", operand_text(operand)),
        Condition::Regex(regex) => format!("$regex {:?}", shown(regex.as_str())),
        Condition::Cidr(ranges) => {
            let mut text = "$cidr".to_owned();
            for range in ranges.iter().take(3) {
                // Writing to a String cannot fail.
                let _ = write!(text, " {range}");
            }
            text
        }
        Condition::Not(inner) => format!("$not {}", describe(inner)),
        Condition::All(_) | Condition::Any(_) => "several conditions".to_owned(),
        Condition::Members(_) => "an object".to_owned(),
    }
}

fn operand_text(operand: &Operand) -> String {
    match operand {
        Operand::Value(value) => shown(&value.to_string()),
        Operand::Ref(_) => "another field".to_owned(),
        Operand::List(items) => format!("one of {}", items.len()),
    }
}
