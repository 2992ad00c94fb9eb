//! Builds what a connection takes of events and makes of them. Filters, templates and transforms say themselves what is wrong
//! with them; here it gets its place.

use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderName, HeaderValue};

use super::*;
use crate::config::fields::{HEADERS_MAX, payload as keys};
use crate::config::layers::{Draft, builtin};
use crate::config::read::header_name;
use crate::config::tree::{Tree, What};
use crate::config::value::{Entry, Table};
use crate::connection::dedupe::{Dedupe, Fields};
use crate::connection::filter::Filter;
use crate::connection::json::Json;
use crate::connection::part::Step;
use crate::connection::path::Path as ValuePath;
use crate::connection::payload::Payload;
use crate::connection::template::{Template, has_placeholders};
use crate::connection::transform::{self, Made, PARTS_MAX, Script, Transform};

impl Build<'_> {
    /// `None` for a connection that takes all events and sends them as they are.
    pub(super) fn payload(&mut self, draft: &Draft, headers: usize) -> Option<Box<Payload>> {
        let table = &draft.table;
        let payload = Payload {
            filter: self.filter(draft),
            dedupe: self.dedupe(draft),
            transform: self.transform(draft),
            header_templates: self.header_templates(draft, headers),
            inherit_method: table.word("method") == "inherit",
            forward_headers: self.forward_headers(draft),
            forward_path: table.flag("forward_path").unwrap_or(false),
            forward_query: table.flag("forward_query").unwrap_or(false),
        };
        (payload != Payload::default()).then(|| Box::new(payload))
    }

    fn filter(&mut self, draft: &Draft) -> Option<Filter> {
        let tree = draft.table.tree("filter")?;
        let path = format!("{}filter", draft.path);
        let compiled = match &tree.what {
            What::Text(text) => match Json::parse(text.as_bytes()) {
                Ok(json) => Filter::compile(&json),
                Err(error) => {
                    let message = format!("is not JSON: {error}");
                    let place = within(&tree.place, text, error.at);
                    self.report.error(&place, &Reveal::Value, &path, message);
                    return None;
                }
            },
            _ => Filter::compile(&tree.to_json()),
        };
        let errors = match compiled {
            Ok(filter) => return Some(filter),
            Err(errors) => errors,
        };
        for error in errors {
            let path = format!("{path}{}", shown(&error.steps));
            self.report.error(tree.place(&error.steps), &Reveal::Value, &path, error.message);
        }
        None
    }

    fn dedupe(&mut self, draft: &Draft) -> Option<Dedupe> {
        let written = draft.table.get("dedupe")?;
        let mut table = builtin(keys::DEDUPE);
        table.merge(&draft.table.table("dedupe"));
        let path = format!("{}dedupe", draft.path);
        let fields = match (table.get("include"), table.get("exclude")) {
            (Some(_), Some(exclude)) => {
                let message = "stands beside include; write one of them".to_owned();
                self.error_at(Some(exclude), &written.place, &format!("{path}.exclude"), message);
                return None;
            }
            (Some(_), None) => {
                let paths = self.paths(&table, "include", &path, ValuePath::parse_many);
                Fields::Include(paths)
            }
            (None, Some(_)) => {
                Fields::Exclude(self.paths(&table, "exclude", &path, transform::path))
            }
            (None, None) => Fields::Body,
        };
        Some(Dedupe { window: table.span("window"), fields })
    }

    /// The paths of a list; those that are wrong are reported and left out.
    fn paths(
        &mut self,
        table: &Table,
        key: &str,
        path: &str,
        parse: impl Fn(&str) -> Result<ValuePath, String>,
    ) -> Vec<ValuePath> {
        let mut paths = Vec::new();
        for (at, item) in table.list(key).iter().enumerate() {
            match parse(item.as_text().unwrap_or_default()) {
                Ok(parsed) => paths.push(parsed),
                Err(message) => {
                    let path = format!("{path}.{key}[{at}]");
                    self.report.error(&item.place, &Reveal::Value, &path, message);
                }
            }
        }
        paths
    }

    fn transform(&mut self, draft: &Draft) -> Option<Transform> {
        draft.table.get("transform")?;
        let table = draft.table.table("transform");
        let path = format!("{}transform", draft.path);
        let transform = Transform {
            pick: self.paths(&table, "pick", &path, transform::path),
            remove: self.paths(&table, "remove", &path, transform::path),
            rename: self.rename(&table, &path),
            set: self.set(&table, &path),
            template: self.script(&table, &path),
        };
        (transform != Transform::default()).then_some(transform)
    }

    /// The entries of a table whose keys are paths.
    fn entries<'t>(
        &mut self,
        table: &'t Table,
        key: &str,
        path: &str,
    ) -> Vec<(String, ValuePath, &'t Place, &'t Tree)> {
        let Some(tree) = table.tree(key) else {
            return Vec::new();
        };
        let What::Map(entries) = &tree.what else {
            let message = "write a table of paths, as in { \"body.a\" = … }".to_owned();
            self.report.error(&tree.place, &Reveal::Value, &format!("{path}.{key}"), message);
            return Vec::new();
        };
        if entries.len() > PARTS_MAX {
            let message = format!("has more than {PARTS_MAX} entries");
            self.report.error(&tree.place, &Reveal::Value, &format!("{path}.{key}"), message);
            return Vec::new();
        }
        let mut read = Vec::new();
        for (name, place, value) in entries {
            let path = format!("{path}.{key}.{name:?}");
            match transform::path(name) {
                Ok(parsed) => read.push((path, parsed, place, value)),
                Err(message) => self.report.error(place, &Reveal::Value, &path, message),
            }
        }
        read
    }

    fn rename(&mut self, table: &Table, path: &str) -> Vec<(ValuePath, ValuePath)> {
        let mut renames = Vec::new();
        for (path, from, place, value) in self.entries(table, "rename", path) {
            let to = match &value.what {
                What::Text(text) => transform::path(text)
                    .and_then(|to| ValuePath::parse(to.as_str()))
                    .map_err(|message| (&value.place, message)),
                _ => Err((&value.place, "is not a path, write a string".to_owned())),
            };
            let from = ValuePath::parse(from.as_str()).map_err(|message| (place, message));
            match from.and_then(|from| Ok((from, to?))) {
                Ok(pair) => renames.push(pair),
                Err((place, message)) => {
                    self.report.error(place, &Reveal::Value, &path, message);
                }
            }
        }
        renames
    }

    fn set(&mut self, table: &Table, path: &str) -> Vec<(ValuePath, Made)> {
        let mut set = Vec::new();
        for (path, to, _, value) in self.entries(table, "set", path) {
            match Made::parse(&value.to_json()) {
                Ok(made) => set.push((to, made)),
                Err(error) => {
                    let path = format!("{path}{}", shown(&error.steps));
                    let place = value.place(&error.steps);
                    self.report.error(place, &Reveal::Value, &path, error.message);
                }
            }
        }
        set
    }

    fn script(&mut self, table: &Table, path: &str) -> Option<Script> {
        let item = table.get("template")?;
        let text = item.as_text()?;
        match Script::parse(text) {
            Ok(script) => Some(script),
            Err(error) => {
                let line = error.line.map_or(0, |line| line.saturating_sub(1));
                let at = text.lines().take(line).map(|line| line.len() + 1).sum();
                let place = within(&item.place, text, at);
                let message = match error.line {
                    Some(line) => format!("line {line} of the template: {}", error.message),
                    None => error.message,
                };
                self.report.error(&place, &Reveal::Value, &format!("{path}.template"), message);
                None
            }
        }
    }

    /// Headers with placeholders; all plain values of such a name are among them, so that they keep their order.
    fn header_templates(&mut self, draft: &Draft, others: usize) -> Vec<(HeaderName, Template)> {
        let mut templates = Vec::new();
        for entry in draft.table.map("headers").iter().filter(|entry| is_templated(entry)) {
            let (Ok(name), Value::List(items)) =
                (entry.key.parse::<HeaderName>(), &entry.item.value)
            else {
                continue;
            };
            for item in items {
                let Some(text) = item.as_text() else {
                    continue; // A secret: it is among the others.
                };
                match Template::parse(text) {
                    Ok(template) => templates.push((name.clone(), template)),
                    Err(error) => {
                        let path = format!("{}headers.{}", draft.path, entry.key);
                        let place = within(&item.place, text, error.at);
                        self.report.error(&place, &Reveal::Nothing, &path, error.message);
                    }
                }
            }
        }
        if templates.len() + others > HEADERS_MAX {
            let count = templates.len() + others;
            let message = format!("has {count} headers, at most {HEADERS_MAX} are allowed");
            let path = format!("{}headers", draft.path);
            self.error_at(draft.table.get("headers"), &draft.place, &path, message);
        }
        templates
    }

    /// The names that are forwarded, beside those that always are.
    fn forward_headers(&mut self, draft: &Draft) -> Vec<HeaderName> {
        let mut names = Vec::new();
        for (at, item) in draft.table.list("forward_headers").iter().enumerate() {
            match header_name(item.as_text().unwrap_or_default()) {
                Ok(name) => {
                    let always = name == CONTENT_TYPE
                        || name == CONTENT_ENCODING
                        || name.as_str().starts_with("ce-");
                    if !always && !names.contains(&name) {
                        names.push(name);
                    }
                }
                Err(message) => {
                    let path = format!("{}forward_headers[{at}]", draft.path);
                    self.report.error(&item.place, &Reveal::Value, &path, message);
                }
            }
        }
        names
    }
}

/// The headers that are the same in each request, and the names of the others: what auth and signatures must leave free.
pub(super) fn all_names(
    headers: &[(HeaderName, HeaderValue)],
    payload: Option<&Payload>,
) -> Vec<(HeaderName, HeaderValue)> {
    let templates = payload.iter().flat_map(|payload| &payload.header_templates);
    let named = templates.map(|(name, _)| (name.clone(), HeaderValue::from_static("template")));
    headers.iter().cloned().chain(named).collect()
}

/// Whether one of a header's values has placeholders.
pub(super) fn is_templated(entry: &Entry) -> bool {
    match &entry.item.value {
        Value::List(items) => items.iter().filter_map(Item::as_text).any(has_placeholders),
        _ => false,
    }
}

/// `.body.items[0]`
fn shown(steps: &[Step]) -> String {
    let each = steps.iter().map(|step| match step {
        Step::Key(key) => format!(".{key}"),
        Step::Index(at) => format!("[{at}]"),
    });
    each.collect()
}

/// A place inside of a string, where the string stands in the file as it is.
fn within(place: &Place, text: &str, at: usize) -> Place {
    let source = place.file.text.get(place.span.clone()).unwrap_or_default();
    match source.find(text) {
        Some(start) => {
            let at = (place.span.start + start + at).min(place.span.end.saturating_sub(1));
            Place { file: Rc::clone(&place.file), span: at..at + 1 }
        }
        None => place.clone(),
    }
}
