//! From drafts to values: the rules that span several keys, the files and secrets that settings name.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::Files;
use super::layers::Drafts;
use super::source::{Place, Reveal};
use super::value::Item;
use super::{Config, LoadOptions, Report};

mod connection;
mod daemon;
mod headers;
mod retry;

/// Everything that building needs besides the drafts.
pub(super) struct Build<'b> {
    pub(super) options: &'b LoadOptions,
    pub(super) files: &'b mut Files,
    pub(super) report: &'b mut Report,
    /// Secrets and certificates that were named, for the watcher.
    pub(super) watched: &'b mut BTreeSet<PathBuf>,
}

impl Build<'_> {
    /// Builds all of it. What was refused while reading is replaced by a default, so that later rules are checked too; the
    /// caller throws the result away if there is any error.
    pub(super) fn config(mut self, drafts: Drafts) -> Config {
        let daemon = self.daemon(&drafts);
        let mut connections = Vec::with_capacity(drafts.connections.len());
        for draft in &drafts.connections {
            connections.extend(self.connection(draft, &daemon.limits).map(Arc::new));
        }
        Config { daemon, connections }
    }

    /// An error at the place where a value was written; for a built-in default, at `otherwise`.
    fn error_at(&mut self, item: Option<&Item>, otherwise: &Place, path: &str, message: String) {
        let written = item.map(|item| &item.place).filter(|place| !place.is_builtin());
        self.report.error(written.unwrap_or(otherwise), &Reveal::Value, path, message);
    }

    /// Reads a file that a setting names, and has it watched.
    fn named_file(&mut self, path: &Path) -> Result<Vec<u8>, String> {
        self.watched.insert(path.to_owned());
        self.files.read(path)
    }
}
