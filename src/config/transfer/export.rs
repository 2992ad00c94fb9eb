//! Connections become an archive: their text as it stands in the files, and the certificates that they name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use toml_edit::{DocumentMut, Item};

use super::archive::{
    Archive, CERTIFICATES, CONNECTIONS, Certificate, Described, FORMAT, Metadata, checksum,
};
use super::needs::{Supply, needs, resolve, without_plain_secrets};
use super::source_names;
use crate::config::edit::{self, EditError};

/// Makes an archive of these connections. `origins`: the file of each connection.
///
/// # Errors
/// A connection that is not there, a file that cannot be read.
pub fn export(
    root: &Path,
    origins: &BTreeMap<String, PathBuf>,
    names: &[String],
    now: &str,
) -> Result<Archive, EditError> {
    let known = edit::read_text(root).unwrap_or_default();
    let known = known.parse().map(|tree| source_names(&tree)).unwrap_or_default();
    let mut archive = Archive {
        metadata: Metadata {
            format: FORMAT,
            posthaste: env!("CARGO_PKG_VERSION").to_owned(),
            created_at: now.to_owned(),
            connections: Vec::new(),
        },
        entries: BTreeMap::new(),
    };
    let mut parsed: BTreeMap<&Path, (String, DocumentMut)> = BTreeMap::new();
    for name in names {
        let file = origins.get(name).ok_or_else(|| EditError::Unknown(name.clone()))?;
        if !parsed.contains_key(file.as_path()) {
            let text = edit::read_text(file)?;
            let tree = edit::parse(&text, file)?;
            parsed.insert(file, (text, tree));
        }
        let Some((text, tree)) = parsed.get(file.as_path()) else { continue };
        let described = one(name, file, text, tree, &known, &mut archive.entries)?;
        archive.metadata.connections.push(described);
    }
    Ok(archive)
}

fn one(
    name: &str,
    file: &Path,
    text: &str,
    tree: &DocumentMut,
    known: &BTreeSet<String>,
    entries: &mut BTreeMap<String, String>,
) -> Result<Described, EditError> {
    let (mut text, mut alone) = alone(name, file, text, tree)?;
    let tables = alone.get_mut("connection").and_then(Item::as_array_of_tables_mut);
    let table = tables.and_then(|tables| tables.get_mut(0));
    let table = table.ok_or_else(|| EditError::Unknown(name.to_owned()))?;
    let plain = without_plain_secrets(table, name);
    let needs = needs(table);
    if !plain.is_empty() {
        text = alone.to_string();
    }
    let mut certificates = Vec::new();
    for (key, path) in needs.certificates {
        certificates.push(certificate(key, path, name, file, entries));
    }
    let keys = needs.keys.into_iter().map(|(key, name)| Supply { key, kind: "file".into(), name });
    let described = Described {
        name: name.to_owned(),
        file: format!("{CONNECTIONS}{name}.toml"),
        sha256: checksum(&text),
        sources: needs.sources.into_iter().filter(|source| known.contains(source)).collect(),
        supply: needs.secrets.into_iter().chain(keys).collect(),
        certificates,
    };
    entries.insert(described.file.clone(), text);
    Ok(described)
}

/// The text of one connection: that of the whole file if there is no other, else the table with what stands above it.
fn alone(
    name: &str,
    file: &Path,
    text: &str,
    tree: &DocumentMut,
) -> Result<(String, DocumentMut), EditError> {
    let names = edit::names(tree);
    let Some(at) = names.iter().position(|other| other == name) else {
        return Err(EditError::Unknown(name.to_owned()));
    };
    if names.len() == 1 {
        return Ok((text.to_owned(), edit::parse(text, file)?));
    }
    let tables = tree.get("connection").and_then(Item::as_array_of_tables);
    let Some(mut table) = tables.and_then(|tables| tables.get(at)).cloned() else {
        return Err(EditError::Unknown(name.to_owned()));
    };
    let decor = table.decor_mut();
    let above = decor.prefix().and_then(toml_edit::RawString::as_str).unwrap_or_default();
    let above = above.trim_start_matches('\n').to_owned();
    decor.set_prefix(above);
    let mut list = toml_edit::ArrayOfTables::new();
    list.push(table);
    let mut alone = DocumentMut::new();
    alone.insert("connection", Item::ArrayOfTables(list));
    let text = alone.to_string();
    let alone = edit::parse(&text, file)?;
    Ok((text, alone))
}

/// A certificate that is there goes along; a file with a key in it does not.
fn certificate(
    key: String,
    path: String,
    connection: &str,
    file: &Path,
    entries: &mut BTreeMap<String, String>,
) -> Certificate {
    let found = edit::read_text(&resolve(file, &path)).ok();
    let found = found.filter(|text| text.contains("CERTIFICATE") && !text.contains("PRIVATE KEY"));
    let Some(text) = found else {
        return Certificate { key, path, file: None, sha256: None };
    };
    let dashed = key.replace(['.', '_'], "-");
    let entry = format!("{CERTIFICATES}{connection}-{dashed}.pem");
    let sha256 = Some(checksum(&text));
    entries.insert(entry.clone(), text);
    Certificate { key, path, file: Some(entry), sha256 }
}
