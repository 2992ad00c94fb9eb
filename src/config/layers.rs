//! From files to drafts: reads all files, and lays built-in defaults, `[defaults]`, connection and overlay on each other.
//! Every value keeps the place where it was written.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use toml::de::{DeTable, DeValue};

use super::error::ConfigError;
use super::fields::{self, Field, Kind, Standard};
use super::files::Files;
use super::read::{Reader, in_order, is_a, name_of};
use super::source::{Place, Reveal, SourceFile};
use super::value::{Item, Table, Value};
use super::variables::Variables;
use super::{LoadOptions, Report};

/// All that was written, merged, before the rules that span several keys.
#[derive(Debug)]
pub(super) struct Drafts {
    /// The daemon's settings over their defaults.
    pub(super) daemon: Table,
    pub(super) connections_dir: PathBuf,
    pub(super) environment: Option<String>,
    pub(super) connections: Vec<Draft>,
}

impl Drafts {
    /// The file of each connection, by name.
    pub(super) fn origins(&self) -> BTreeMap<String, PathBuf> {
        let named = self.connections.iter().filter_map(|draft| {
            Some((draft.table.text("name")?.to_owned(), draft.place.file.path.clone()))
        });
        named.collect()
    }
}

/// One connection, merged.
#[derive(Debug)]
pub(super) struct Draft {
    /// `connection "crm" `, for errors.
    pub(super) path: String,
    /// Its `[[connection]]`.
    pub(super) place: Place,
    pub(super) table: Table,
}

/// One connection as its file has it.
struct Written {
    draft: Draft,
    /// Its file parses; otherwise keys may be missing that are there.
    whole: bool,
}

/// Reads the daemon's file and the connection files.
pub(super) fn read_all(
    root: &Path,
    options: &LoadOptions,
    files: &mut Files,
    report: &mut Report,
) -> Drafts {
    let base = root.parent().unwrap_or(Path::new("")).to_owned();
    let mut daemon = builtin(fields::ROOT);
    let mut variables = Variables::default();
    if let Some(file) = read_root(root, &base, options, files, report) {
        let (mut tree, syntax) = parse(&file, report);
        let named = tree.get_ref().get("environment").and_then(|node| node.get_ref().as_str());
        let environment = options.env.get("POSTHASTE_ENV");
        let environment = environment.as_deref().or(named);
        variables = Variables::read(tree.get_ref(), environment, &file, report);
        variables.fill(tree.get_mut(), &file, report);
        let mut reader = Reader { file: &file, report };
        daemon.merge(&reader.table(fields::ROOT, tree.get_ref(), ""));
        syntax.drop_consequences(&file, report);
    }
    let environment = options.env.get("POSTHASTE_ENV");
    let environment = environment.or_else(|| daemon.text("environment").map(str::to_owned));
    let connections_dir = base.join(daemon.path("connections").unwrap_or(Path::new("")));
    let mut written = Vec::new();
    for path in list(&connections_dir, &base, files, report) {
        let shown = shown(&path, &base);
        if let Some(file) = read_source(&path, shown, files, report) {
            read_connections(&file, &variables, report, &mut written);
        }
    }
    unique_names(&written, report);
    renamed_names(&written, report);
    unused_environment(environment.as_deref(), &written, root, &base, report);
    let whole = written.into_iter().filter(|written| written.whole);
    let mut below = builtin(fields::CONNECTION);
    below.merge(&daemon.table("defaults"));
    let layered = whole.map(|written| layered(written.draft, &below, environment.as_deref()));
    Drafts { connections: layered.collect(), environment, connections_dir, daemon }
}

fn read_root(
    root: &Path,
    base: &Path,
    options: &LoadOptions,
    files: &mut Files,
    report: &mut Report,
) -> Option<Rc<SourceFile>> {
    // The file is looked at in any case, so that its appearance counts as a change.
    let missing = files.read(root).is_err() && !root.exists();
    if missing && !options.root_required {
        return None;
    }
    read_source(root, shown(root, base), files, report)
}

/// How errors call a file: relative to the daemon's file where it lies below.
fn shown(path: &Path, base: &Path) -> String {
    path.strip_prefix(base).unwrap_or(path).display().to_string()
}

fn list(directory: &Path, base: &Path, files: &Files, report: &mut Report) -> Vec<PathBuf> {
    let name = || shown(directory, base);
    match files.connection_files(directory) {
        Ok(files) => {
            if files.is_empty() {
                let message =
                    "has no connection files (*.toml), so nothing is delivered".to_owned();
                report.warnings.push(ConfigError::of_file(name(), message));
            }
            files
        }
        Err(reason) => {
            let message = format!("cannot read the directory of connection files: {reason}");
            report.errors.push(ConfigError::of_file(name(), message));
            Vec::new()
        }
    }
}

fn read_source(
    path: &Path,
    shown: String,
    files: &mut Files,
    report: &mut Report,
) -> Option<Rc<SourceFile>> {
    let content = match files.read(path) {
        Ok(content) => content,
        Err(reason) => {
            let message = format!("cannot read the file: {reason}");
            report.errors.push(ConfigError::of_file(shown, message));
            return None;
        }
    };
    match String::from_utf8(content) {
        Ok(text) => Some(SourceFile::new(path.to_owned(), shown, text)),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let file = SourceFile::new(
                path.to_owned(),
                shown,
                String::from_utf8_lossy(error.as_bytes()).into_owned(),
            );
            file.broken.set(true);
            let place = Place { file, span: at..at };
            report.error(&place, &Reveal::Value, "", "the file is not UTF-8 here".to_owned());
            None
        }
    }
}

/// Where a file does not parse.
struct Syntax {
    /// Lines with an error, from 1.
    lines: Vec<usize>,
    /// The first broken header of a table: what follows it landed in another table.
    header: usize,
    /// Errors of the report that were there before this file's values were read.
    before: usize,
}

/// Parses a file; the tree is as good as the syntax allows.
fn parse<'f>(
    file: &'f Rc<SourceFile>,
    report: &mut Report,
) -> (toml::Spanned<DeTable<'f>>, Syntax) {
    let (tree, errors) = DeTable::parse_recoverable(&file.text);
    let mut syntax =
        Syntax { lines: Vec::with_capacity(errors.len()), header: usize::MAX, before: 0 };
    file.broken.set(!errors.is_empty());
    for error in &errors {
        let span = error.span().unwrap_or(0..0);
        let line = file.line_of(span.start) + 1;
        syntax.lines.push(line);
        if file.is_header(span.start) {
            syntax.header = syntax.header.min(line);
        }
        let place = Place { file: Rc::clone(file), span };
        report.error(&place, &Reveal::Value, "", error.message().to_owned());
    }
    syntax.before = report.errors.len();
    (tree, syntax)
}

impl Syntax {
    fn is_whole(&self) -> bool {
        self.lines.is_empty()
    }

    /// Drops errors about values that are only there because the file does not parse.
    fn drop_consequences(&self, file: &SourceFile, report: &mut Report) {
        if self.is_whole() {
            return;
        }
        let mut of_values = report.errors.split_off(self.before);
        of_values.retain(|error| {
            let line = error.position.map_or(0, |position| position.line);
            error.file != file.shown || !(self.lines.contains(&line) || line > self.header)
        });
        report.errors.append(&mut of_values);
    }
}

/// Reads the `[[connection]]` tables of one file; nothing else may stand in it.
fn read_connections(
    file: &Rc<SourceFile>,
    variables: &Variables,
    report: &mut Report,
    written: &mut Vec<Written>,
) {
    let (mut tree, syntax) = parse(file, report);
    variables.fill(tree.get_mut(), file, report);
    let mut reader = Reader { file, report };
    for (key, value) in in_order(tree.get_ref()) {
        if key.get_ref() != "connection" {
            let message = format!(
                "unknown key {}; a connection file holds [[connection]] tables alone",
                crate::units::quoted(key.get_ref())
            );
            reader.error(key.span(), &Reveal::Key(value.span()), "", message);
            continue;
        }
        let Some(array) = value.get_ref().as_array() else {
            let message = format!("{}, write [[connection]] with double brackets", is_a(value));
            reader.error(key.span(), &Reveal::Key(value.span()), "connection", message);
            continue;
        };
        for (index, node) in array.iter().enumerate() {
            let Some(table) = node.get_ref().as_table() else {
                let message = format!("{}, write a [[connection]] table", is_a(node));
                reader.error(node.span(), &Reveal::Nothing, "connection", message);
                continue;
            };
            let path = match name_of(table) {
                Some(name) => format!("connection {name:?} "),
                None => format!("connection #{} ", index + 1),
            };
            let draft = Draft {
                table: reader.connection(table, &path),
                place: reader.place(node.span()),
                path,
            };
            let whole = syntax.is_whole();
            written.push(Written { draft, whole });
        }
    }
    syntax.drop_consequences(file, report);
}

/// Names are unique over all files, whatever their case.
fn unique_names(written: &[Written], report: &mut Report) {
    let mut first: HashMap<String, &Item> = HashMap::new();
    for Written { draft, .. } in written {
        let Some(item) = draft.table.get("name") else {
            continue;
        };
        let name = item.as_text().unwrap_or_default();
        if let Some(other) = first.get(&name.to_ascii_lowercase()) {
            let message = format!(
                "the name {name:?} is taken: {} has {:?}; names are unique whatever their case",
                other.place.name(),
                other.as_text().unwrap_or_default()
            );
            let path = format!("{}name", draft.path);
            report.error(&item.place, &Reveal::Value, &path, message);
        } else {
            first.insert(name.to_ascii_lowercase(), item);
        }
    }
}

/// A name that a connection had must be nobody's now, or it would be one queue for two.
fn renamed_names(written: &[Written], report: &mut Report) {
    let drafts = || written.iter().map(|written| &written.draft);
    let text = |draft: &Draft, key| draft.table.get(key).and_then(Item::as_text).map(str::to_owned);
    for (nth, draft) in drafts().enumerate() {
        let Some(item) = draft.table.get("renamed_from") else {
            continue;
        };
        let old = item.as_text().unwrap_or_default();
        let holder = drafts().find(|other| {
            let same = |name: String| name.eq_ignore_ascii_case(old);
            !std::ptr::eq(*other, draft) && text(other, "name").is_some_and(same)
        });
        let earlier = drafts().take(nth).find(|other| {
            text(other, "renamed_from").is_some_and(|name| name.eq_ignore_ascii_case(old))
        });
        let message = if text(draft, "name").as_deref() == Some(old) {
            "is the connection's own name".to_owned()
        } else if let Some(holder) = holder {
            format!(
                "{old:?} is still a connection ({}); remove that one, or this line",
                holder.place.name()
            )
        } else if let Some(earlier) = earlier {
            format!(
                "{old:?} was renamed already: {} says so; only one can have its queue",
                earlier.place.name()
            )
        } else {
            continue;
        };
        let path = format!("{}renamed_from", draft.path);
        report.error(&item.place, &Reveal::Value, &path, message);
    }
}

/// An environment that no connection names is probably a typing error.
fn unused_environment(
    environment: Option<&str>,
    written: &[Written],
    root: &Path,
    base: &Path,
    report: &mut Report,
) {
    let Some(environment) = environment else {
        return;
    };
    let named: Vec<&str> =
        written.iter().flat_map(|written| environments(&written.draft.table)).collect();
    if written.is_empty() || named.iter().any(|name| name.eq_ignore_ascii_case(environment)) {
        return;
    }
    let nearest = named.iter().min_by_key(|name| strsim::damerau_levenshtein(name, environment));
    let hint = nearest.map_or(String::new(), |name| format!(", the nearest is {name:?}"));
    let message = format!(
        "no connection has an overlay [connection.env.{environment}] for the environment {environment:?}{hint}"
    );
    report.warnings.push(ConfigError::of_file(shown(root, base), message));
}

fn environments(table: &Table) -> Vec<&str> {
    match table.get("env").map(|item| &item.value) {
        Some(Value::Overlays(overlays)) => {
            let names = overlays.iter().map(|overlay| overlay.environment.as_str());
            names.collect()
        }
        _ => Vec::new(),
    }
}

/// Built-in defaults and `[defaults]`, then the connection, then the overlay of the environment.
fn layered(draft: Draft, below: &Table, environment: Option<&str>) -> Draft {
    let mut table = below.clone();
    table.merge(&draft.table);
    if let (Some(environment), Some(Value::Overlays(overlays))) =
        (environment, draft.table.get("env").map(|item| &item.value))
    {
        for overlay in overlays {
            if overlay.environment.eq_ignore_ascii_case(environment) {
                table.merge(&overlay.table);
            }
        }
    }
    Draft { table, ..draft }
}

/// The built-in defaults of one object.
pub(super) fn builtin(fields: &'static [Field]) -> Table {
    let mut table = Table::default();
    for field in fields {
        let Standard::Toml(text) = field.default else {
            continue;
        };
        let file = SourceFile::new(PathBuf::new(), "built-in".to_owned(), text.to_owned());
        let place = Place { span: 0..text.len(), file: Rc::clone(&file) };
        let value = match &field.kind {
            Kind::Table(fields) => Some(Value::Table(builtin(fields))),
            _ => builtin_value(&file, field),
        };
        debug_assert!(value.is_some(), "the default of {} is not legal", field.key);
        if let Some(value) = value {
            table.insert(field.key, Item { value, place });
        }
    }
    table
}

fn builtin_value(file: &Rc<SourceFile>, field: &'static Field) -> Option<Value> {
    let node = DeValue::parse(&file.text).ok()?;
    let mut report = Report::default();
    let mut reader = Reader { file, report: &mut report };
    reader.value(&field.kind, &node, field.key)
}
