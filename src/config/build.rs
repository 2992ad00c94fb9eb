//! From drafts to values: the rules that span several keys, the files and secrets that settings name.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use super::files::Files;
use super::layers::Drafts;
use super::source::{Place, Reveal};
use super::value::{Item, Value};
use super::{Config, LoadOptions, Report, Secrets};
use crate::secret::{Secret, SecretRef};

mod alerts;
mod auth;
mod breaker;
mod connection;
mod daemon;
mod headers;
mod ordering;
mod payload;
mod retry;
mod sources;
mod transport;
mod trials;

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
            connections.extend(self.connection(draft, &daemon).map(Arc::new));
        }
        self.look_at_sources(&drafts, &daemon, &connections);
        self.look_at_alerts(&drafts, &daemon, &connections);
        Config { daemon, connections }
    }

    /// An error at the place where a value was written; for a built-in default, at `otherwise`.
    fn error_at(&mut self, item: Option<&Item>, otherwise: &Place, path: &str, message: String) {
        let written = item.map(|item| &item.place).filter(|place| !place.is_builtin());
        self.report.error(written.unwrap_or(otherwise), &Reveal::Value, path, message);
    }

    /// Resolves a secret, and has its file watched. Where secrets are not read, a stand-in.
    fn secret(&mut self, reference: &SecretRef) -> Result<Secret, String> {
        if self.options.secrets == Secrets::Skip && !matches!(reference, SecretRef::Plain(_)) {
            return Ok(Secret::new("unresolved"));
        }
        let env = &self.options.env;
        let (files, watched) = (&mut *self.files, &mut *self.watched);
        let secret = reference.resolve(env, |path| {
            watched.insert(path.to_owned());
            files.read(path)
        });
        secret.map_err(|error| error.to_string())
    }

    /// The secret that an item holds, with when it ends in milliseconds since 1970; reports why there is none. An item that is no
    /// secret was refused before.
    pub(super) fn secret_of(&mut self, item: &Item, path: &str) -> Option<(Secret, Option<u64>)> {
        let (reference, until) = match &item.value {
            Value::Secret(reference) => (reference, None),
            Value::DatedSecret(reference, until) => (reference, *until),
            _ => return None,
        };
        match self.secret(reference) {
            Ok(secret) => Some((secret, until)),
            Err(message) => {
                // A reference may be shown, its strings are masked all the same.
                let plain = matches!(reference, SecretRef::Plain(_));
                let reveal = if plain { Reveal::Nothing } else { Reveal::Value };
                self.report.error(&item.place, &reveal, path, message);
                None
            }
        }
    }

    /// Reads a file that a setting names, and has it watched.
    fn named_file(&mut self, path: &Path) -> Result<Vec<u8>, String> {
        self.watched.insert(path.to_owned());
        self.files.read(path)
    }
}
