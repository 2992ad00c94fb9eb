//! An archive becomes a package: what of it can be put here, and what is missing for it.

use std::path::{Path, PathBuf};

use serde::Serialize;
use toml_edit::{DocumentMut, Item};

use super::archive::Archive;
use super::needs::{needs, resolve};
use super::{Extra, Package, Piece, source_names};
use crate::config::edit;
use crate::units::quoted;

/// Something that a connection needs and that is not here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lacking {
    /// The connection.
    pub connection: String,
    /// Where it stands.
    pub key: String,
    /// What is missing, and where it belongs.
    pub what: String,
}

/// What an archive is here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// What can be put here.
    pub package: Package,
    /// What is missing.
    pub lacking: Vec<Lacking>,
    /// Secrets that the daemon must find when it runs: variables and credentials.
    pub supply: Vec<Lacking>,
}

/// Certificates are no secrets.
const CERTIFICATE_MODE: u32 = 0o644;

/// Looks at an archive from here. With `skip`, connections that lack something are left out.
///
/// # Errors
/// An entry that is not the one connection that it is said to be.
pub fn unpacked(
    archive: &Archive,
    root: &Path,
    connections: &Path,
    skip: bool,
) -> Result<Unpacked, String> {
    let here = edit::read_text(root).unwrap_or_default();
    let here: DocumentMut = here.parse().unwrap_or_default();
    let sources = source_names(&here);
    let home = root.parent().unwrap_or(Path::new("/"));
    let mut done = Unpacked::default();
    for described in &archive.metadata.connections {
        let name = &described.name;
        let entry = quoted(&described.file);
        let text = archive.entries.get(&described.file).cloned().unwrap_or_default();
        let tree: DocumentMut =
            text.parse().map_err(|error| format!("{entry} is no TOML: {error}"))?;
        if edit::names(&tree) != [name.as_str()] || tree.iter().count() != 1 {
            return Err(format!("{entry} must hold the connection {} alone", quoted(name)));
        }
        let tables = tree.get("connection").and_then(Item::as_array_of_tables);
        let Some(table) = tables.and_then(|tables| tables.get(0)) else {
            return Err(format!("{entry} must hold a [[connection]] table"));
        };
        let needs = needs(table);
        // Paths count from the file that the connection gets.
        let file = connections.join(format!("{name}.toml"));
        let mut lacking = Vec::new();
        let lack = |key: &str, what: String| Lacking {
            connection: name.clone(),
            key: key.to_owned(),
            what,
        };
        let mut files = Vec::new();
        for (key, path) in &needs.certificates {
            let target = resolve(&file, path);
            if target.is_file() {
                continue;
            }
            let carried = described.certificates.iter().find(|one| one.key == *key);
            let content = carried
                .and_then(|one| one.file.as_ref())
                .and_then(|entry| archive.entries.get(entry));
            match content {
                // An archive writes below the directory of the configuration alone.
                Some(content) if target.starts_with(home) => {
                    let content = content.clone();
                    files.push(Extra { path: target, content, mode: CERTIFICATE_MODE });
                }
                _ => lacking.push(lack(key, format!("the certificate {}", target.display()))),
            }
        }
        for (key, path) in &needs.keys {
            let target = resolve(&file, path);
            if !target.is_file() {
                lacking.push(lack(key, format!("the key {}", target.display())));
            }
        }
        for secret in &needs.secrets {
            let what = format!("{} {}", kind(&secret.kind), secret.name);
            match secret.kind.as_str() {
                "file" => {
                    let target: PathBuf = resolve(&file, &secret.name);
                    if !target.is_file() {
                        let what = format!("the secret {}", target.display());
                        lacking.push(lack(&secret.key, what));
                    }
                }
                _ => done.supply.push(lack(&secret.key, what)),
            }
        }
        for source in &described.sources {
            if !sources.contains(source) {
                let what =
                    format!("a [[source]] table named {} in {}", quoted(source), root.display());
                lacking.push(lack("source", what));
            }
        }
        if lacking.is_empty() || !skip {
            let piece = Piece { name: name.clone(), text };
            done.package.connections.push(piece);
            for file in files {
                if !done.package.files.contains(&file) {
                    done.package.files.push(file);
                }
            }
        }
        done.lacking.extend(lacking);
    }
    Ok(done)
}

fn kind(kind: &str) -> &'static str {
    if kind == "env" { "the environment variable" } else { "the credential" }
}
