//! Changes of a tree, one path at a time.

use std::borrow::Cow;

use super::Failed;
use crate::connection::json::Json;
use crate::connection::path::{Path, Step};

/// What the paths lead to, in the order in which it stood; `None` for nothing.
pub(super) fn pick<'j>(tree: Json<'j>, paths: &[&[Step]]) -> Option<Json<'j>> {
    if paths.iter().any(|steps| steps.is_empty()) {
        return Some(tree);
    }
    if paths.is_empty() {
        return None;
    }
    let below = |takes: &dyn Fn(&Step) -> bool| -> Vec<&[Step]> {
        let rest = paths.iter().filter_map(|steps| {
            let (first, rest) = steps.split_first()?;
            takes(first).then_some(rest)
        });
        rest.collect()
    };
    match tree {
        Json::Object(members) => {
            let picked = members.into_iter().filter_map(|(name, value)| {
                let named = |step: &Step| matches!(step, Step::Member(wanted) if *wanted == name);
                Some((name.clone(), pick(value, &below(&named))?))
            });
            let picked: Vec<_> = picked.collect();
            (!picked.is_empty()).then_some(Json::Object(picked))
        }
        Json::Array(items) => {
            let picked = items.into_iter().enumerate().filter_map(|(at, item)| {
                pick(item, &below(&|step| *step == Step::Every || *step == Step::Item(at)))
            });
            let every = paths.iter().any(|steps| steps.first() == Some(&Step::Every));
            let picked: Vec<_> = picked.collect();
            (every || !picked.is_empty()).then_some(Json::Array(picked))
        }
        _ => None,
    }
}

/// Removes what the steps lead to. What is not there is not missed.
pub(super) fn remove(tree: &mut Json<'_>, steps: &[Step]) {
    let Some((step, rest)) = steps.split_first() else {
        return;
    };
    match (step, tree) {
        (Step::Member(name), Json::Object(members)) if rest.is_empty() => {
            members.retain(|(known, _)| known != name);
        }
        (Step::Member(name), Json::Object(members)) => {
            let named = members.iter_mut().filter(|(known, _)| known == name);
            named.for_each(|(_, value)| remove(value, rest));
        }
        (Step::Item(at), Json::Array(items)) if rest.is_empty() && *at < items.len() => {
            items.remove(*at);
        }
        (Step::Item(at), Json::Array(items)) => {
            items.get_mut(*at).into_iter().for_each(|item| remove(item, rest));
        }
        (Step::Every, Json::Array(items)) if rest.is_empty() => items.clear(),
        (Step::Every, Json::Array(items)) => items.iter_mut().for_each(|item| remove(item, rest)),
        _ => {}
    }
}

/// Takes one value out of the tree.
pub(super) fn take<'j>(tree: &mut Json<'j>, steps: &[Step]) -> Option<Json<'j>> {
    let (step, rest) = steps.split_first()?;
    match (step, tree) {
        (Step::Member(name), Json::Object(members)) => {
            let at = members.iter().rposition(|(known, _)| known == name)?;
            if !rest.is_empty() {
                return take(&mut members.get_mut(at)?.1, rest);
            }
            let (_, taken) = members.remove(at);
            members.retain(|(known, _)| known != name);
            Some(taken)
        }
        (Step::Item(at), Json::Array(items)) if rest.is_empty() => {
            (*at < items.len()).then(|| items.remove(*at))
        }
        (Step::Item(at), Json::Array(items)) => take(items.get_mut(*at)?, rest),
        _ => None,
    }
}

/// Puts a value where the path leads; objects on the way are made where there is nothing.
pub(super) fn put<'j>(tree: &mut Json<'j>, path: &Path, value: Json<'j>) -> Result<(), Failed> {
    put_at(tree, path.steps().unwrap_or_default(), &value)
        .map_err(|why| Failed(format!("cannot set {path}: {why}")))
}

fn put_at<'j>(tree: &mut Json<'j>, steps: &[Step], value: &Json<'j>) -> Result<(), String> {
    let Some((step, rest)) = steps.split_first() else {
        *tree = value.clone();
        return Ok(());
    };
    match (step, tree) {
        (Step::Member(name), Json::Object(members)) => {
            if let Some(at) = members.iter().rposition(|(known, _)| known == name)
                && let Some((_, below)) = members.get_mut(at)
            {
                return put_at(below, rest, value);
            }
            let mut made = Json::Object(Vec::new());
            put_at(&mut made, rest, value)?;
            members.push((Cow::Owned(name.clone()), made));
            Ok(())
        }
        (Step::Item(at), Json::Array(items)) => match items.get_mut(*at) {
            Some(item) => put_at(item, rest, value),
            None => Err(format!("there is no item {at}")),
        },
        (Step::Every, Json::Array(items)) => {
            items.iter_mut().try_for_each(|item| put_at(item, rest, value))
        }
        (Step::Member(name), other) => {
            Err(format!("what should have the member {name:?} is {}", other.sort().as_str()))
        }
        (_, other) => Err(format!("what should have items is {}", other.sort().as_str())),
    }
}
