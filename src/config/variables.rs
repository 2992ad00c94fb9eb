//! `[variables]`: texts that stand in any string of any file as `{{ var.NAME }}`. They are put in when the files are read, before
//! anything looks at a value, so that they may stand where other placeholders may not: in a URL's host, in a path.
//!
//! `[variables.env.NAME]` says what is different in one environment.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::rc::Rc;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::Report;
use super::read::in_order;
use super::source::{Place, Reveal, SourceFile};
use crate::units::quoted;

/// Variables of one configuration.
pub(super) const VARIABLES_MAX: usize = 1_000;
/// Bytes of one of them, and of a string that they stand in.
const TEXT_BYTES_MAX: usize = 64 * 1024;

/// How the error of a variable begins that is not there.
pub(super) const MISSING: &str = "there is no variable";

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Variables(BTreeMap<String, String>);

impl Variables {
    /// Reads those of the daemon's file, for one environment. What is wrong with them is in the report.
    pub(super) fn read(
        root: &DeTable<'_>,
        environment: Option<&str>,
        file: &Rc<SourceFile>,
        report: &mut Report,
    ) -> Variables {
        let mut variables = Variables::default();
        let Some(node) = root.get("variables") else {
            return variables;
        };
        let mut reader = Read { file, report, variables: &mut variables };
        let Some(table) = reader.table(node, "variables") else {
            return variables;
        };
        reader.values(table, "variables");
        let overlays = table.get("env").map(|node| (node, reader.table(node, "variables.env")));
        if let Some((_, Some(overlays))) = overlays {
            for (name, node) in in_order(overlays) {
                let path = format!("variables.env.{}", name.get_ref());
                let Some(table) = reader.table(node, &path) else {
                    continue;
                };
                let chosen =
                    environment.is_some_and(|one| one.eq_ignore_ascii_case(name.get_ref()));
                if chosen {
                    reader.values(table, &path);
                } else {
                    // What is not chosen must be legal all the same.
                    let mut unused = Variables::default();
                    Read { file, report: reader.report, variables: &mut unused }
                        .values(table, &path);
                }
            }
        }
        variables
    }

    /// Puts them into every string of a table.
    pub(super) fn fill(&self, table: &mut DeTable<'_>, file: &Rc<SourceFile>, report: &mut Report) {
        if !file.text.contains("{{") {
            return;
        }
        for (key, node) in table.iter_mut() {
            if key.get_ref() != "variables" {
                self.fill_value(node, file, report);
            }
        }
    }

    fn fill_value(
        &self,
        node: &mut Spanned<DeValue<'_>>,
        file: &Rc<SourceFile>,
        report: &mut Report,
    ) {
        let span = node.span();
        match node.get_mut() {
            DeValue::String(text) if text.contains("{{") => match self.filled(text) {
                Ok(filled) => *text = Cow::Owned(filled),
                Err(message) => {
                    let place = Place { file: Rc::clone(file), span };
                    report.error(&place, &Reveal::Value, "", message);
                }
            },
            DeValue::Array(items) => {
                let mut all: Vec<_> =
                    std::mem::replace(items, DeArray::new()).into_iter().collect();
                all.iter_mut().for_each(|item| self.fill_value(item, file, report));
                *items = all.into_iter().collect();
            }
            DeValue::Table(table) => {
                table.iter_mut().for_each(|(_, node)| self.fill_value(node, file, report));
            }
            _ => {}
        }
    }

    /// A text with its variables in their places. Other placeholders stay.
    fn filled(&self, text: &str) -> Result<String, String> {
        let mut filled = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            filled.push_str(before);
            let name = after
                .split_once("}}")
                .and_then(|(inside, left)| Some((inside.trim().strip_prefix("var.")?, left)));
            match name {
                None => {
                    filled.push_str("{{");
                    rest = after;
                }
                Some((name, left)) => {
                    filled.push_str(self.0.get(name).ok_or_else(|| self.unknown(name))?);
                    rest = left;
                }
            }
            if filled.len() > TEXT_BYTES_MAX {
                return Err(format!("has more than {TEXT_BYTES_MAX} bytes with its variables"));
            }
        }
        filled.push_str(rest);
        Ok(filled)
    }

    fn unknown(&self, name: &str) -> String {
        let near = self
            .0
            .keys()
            .map(|known| (strsim::damerau_levenshtein(known, name), known))
            .filter(|(distance, known)| *distance <= 1 + known.len() / 3)
            .min();
        match near {
            Some((_, known)) => {
                format!("{MISSING} {}, did you mean {known:?}?", quoted(name))
            }
            None => {
                format!("{MISSING} {}; write it into [variables] of posthaste.toml", quoted(name))
            }
        }
    }
}

struct Read<'r> {
    file: &'r Rc<SourceFile>,
    report: &'r mut Report,
    variables: &'r mut Variables,
}

impl Read<'_> {
    fn error(&mut self, span: std::ops::Range<usize>, path: &str, message: String) {
        let place = Place { file: Rc::clone(self.file), span };
        self.report.error(&place, &Reveal::Value, path, message);
    }

    fn table<'t, 'i>(
        &mut self,
        node: &'t Spanned<DeValue<'i>>,
        path: &str,
    ) -> Option<&'t DeTable<'i>> {
        let table = node.get_ref().as_table();
        if table.is_none() {
            self.error(node.span(), path, "is no table, write { name = \"text\" }".to_owned());
        }
        table
    }

    fn values(&mut self, table: &DeTable<'_>, path: &str) {
        for (key, node) in in_order(table) {
            let name = key.get_ref();
            if name == "env" && path == "variables" {
                continue;
            }
            let path = format!("{path}.{name}");
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            if name.is_empty() || name.len() > 155 || !name.chars().all(plain) {
                let message =
                    format!("{} is no name of a variable: letters, digits, - and _", quoted(name));
                self.error(key.span(), &path, message);
                continue;
            }
            match node.get_ref().as_str() {
                Some(text) if text.len() <= TEXT_BYTES_MAX => {
                    self.variables.0.insert(name.to_string(), text.to_owned());
                }
                Some(_) => self.error(node.span(), &path, "is too long".to_owned()),
                None => self.error(
                    node.span(),
                    &path,
                    "is not a string; a variable is put into strings".to_owned(),
                ),
            }
            if self.variables.0.len() > VARIABLES_MAX {
                let message = format!("there are more than {VARIABLES_MAX} variables");
                return self.error(key.span(), &path, message);
            }
        }
    }
}
