//! The ZIP file of an export: `metadata.json`, `connections/NAME.toml`, `certificates/NAME`.
//!
//! It promises: nothing of what a ZIP may say is believed. Entries are counted, and so are the bytes that come out of them;
//! names are those of this format alone, so there is no absolute path, no `..` and no link; a name comes once; each entry has
//! the checksum that the metadata says, and none is there that it does not name.

use std::collections::BTreeMap;
use std::io::{Cursor, Read, Write};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipArchive, ZipWriter};

use super::needs::Supply;
use crate::units::quoted;

/// The version of the format that is written, and read.
pub const FORMAT: u32 = 1;
/// Bytes of an archive.
pub const ARCHIVE_BYTES_MAX: usize = 16 << 20;
/// Entries of an archive.
pub const ENTRIES_MAX: usize = 20_000;
/// Bytes of all entries together, unpacked.
pub const UNPACKED_BYTES_MAX: u64 = 64 << 20;

const METADATA: &str = "metadata.json";
pub(super) const CONNECTIONS: &str = "connections/";
pub(super) const CERTIFICATES: &str = "certificates/";

/// `metadata.json`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// [`FORMAT`].
    pub format: u32,
    /// The version that wrote it.
    pub posthaste: String,
    /// When, as RFC 3339.
    pub created_at: String,
    /// What is in it.
    pub connections: Vec<Described>,
}

/// A connection in an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Described {
    /// Its name.
    pub name: String,
    /// The entry with its TOML.
    pub file: String,
    /// SHA-256 of the entry, in hex.
    pub sha256: String,
    /// Sources that it needs and that have a table of their own.
    pub sources: Vec<String>,
    /// Secrets that must be supplied: no value is in the archive.
    pub supply: Vec<Supply>,
    /// Certificates that it names.
    pub certificates: Vec<Certificate>,
}

/// A file that a connection names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// Where it stands: `tls.ca_file`.
    pub key: String,
    /// The path as it is written there.
    pub path: String,
    /// The entry with it; none: it was not to be had, or holds a key, and must be supplied.
    pub file: Option<String>,
    /// SHA-256 of the entry, in hex.
    pub sha256: Option<String>,
}

/// An archive that was read: every checksum is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// What it says of itself.
    pub metadata: Metadata,
    /// Its entries, but the metadata.
    pub entries: BTreeMap<String, String>,
}

/// SHA-256 in hex.
pub(super) fn checksum(text: &str) -> String {
    crate::secret::hex(&Sha256::digest(text.as_bytes()), 32)
}

/// Writes an archive.
///
/// # Errors
/// One that is too large to be read again.
pub fn pack(archive: &Archive) -> Result<Vec<u8>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("the ZIP cannot be written: {error}");
    let metadata = serde_json::to_string_pretty(&archive.metadata).map_err(|e| failed(&e))? + "\n";
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    // The same content makes the same bytes.
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .last_modified_time(DateTime::default())
        .unix_permissions(0o644);
    let first = std::iter::once((METADATA, metadata.as_str()));
    let rest = archive.entries.iter().map(|(name, text)| (name.as_str(), text.as_str()));
    for (name, text) in first.chain(rest) {
        zip.start_file(name, options).map_err(|e| failed(&e))?;
        zip.write_all(text.as_bytes()).map_err(|e| failed(&e))?;
    }
    let bytes = zip.finish().map_err(|e| failed(&e))?.into_inner();
    let unpacked: usize = archive.entries.values().map(String::len).sum();
    if bytes.len() > ARCHIVE_BYTES_MAX
        || archive.entries.len() >= ENTRIES_MAX
        || unpacked as u64 > UNPACKED_BYTES_MAX
    {
        return Err("too much for one archive; export fewer connections at once".to_owned());
    }
    Ok(bytes)
}

/// Reads an archive.
///
/// # Errors
/// What is wrong with it, and with which entry.
pub fn unpack(bytes: &[u8]) -> Result<Archive, String> {
    if bytes.len() > ARCHIVE_BYTES_MAX {
        return Err("the ZIP is larger than 16MiB".to_owned());
    }
    let listed = listed_entries(bytes)
        .ok_or("no ZIP, or one that was cut off: its directory at the end is missing")?;
    let mut zip = ZipArchive::new(Cursor::new(bytes))
        .map_err(|error| format!("no ZIP, or one that was cut off: {error}"))?;
    if listed > ENTRIES_MAX || zip.len() > ENTRIES_MAX {
        return Err(format!("the ZIP has {listed} entries, at most {ENTRIES_MAX} are read"));
    }
    if zip.len() != listed {
        return Err(format!(
            "the ZIP lists {listed} entries under {} names: a name comes twice",
            zip.len()
        ));
    }
    let mut entries = BTreeMap::new();
    let mut left = UNPACKED_BYTES_MAX;
    for at in 0..zip.len() {
        let mut entry =
            zip.by_index(at).map_err(|error| format!("entry {at} of the ZIP: {error}"))?;
        let name = std::str::from_utf8(entry.name_raw())
            .map_err(|_| format!("entry {at} of the ZIP has a name that is not UTF-8"))?
            .to_owned();
        if entry.is_symlink() {
            return Err(format!("{} is a symbolic link, which is never followed", quoted(&name)));
        }
        if entry.is_dir() {
            check_directory(&name)?;
            continue;
        }
        check_name(&name)?;
        let mut content = Vec::new();
        let read = (&mut entry).take(left + 1).read_to_end(&mut content);
        read.map_err(|error| format!("{} cannot be unpacked: {error}", quoted(&name)))?;
        left = left.checked_sub(content.len() as u64).ok_or_else(|| {
            format!("{} unpacks to more than 64MiB with those before it", quoted(&name))
        })?;
        let text =
            String::from_utf8(content).map_err(|_| format!("{} is no text", quoted(&name)))?;
        if entries.insert(name.clone(), text).is_some() {
            return Err(format!("{} comes twice", quoted(&name)));
        }
    }
    described(entries)
}

/// The metadata, with every checksum looked at.
fn described(mut entries: BTreeMap<String, String>) -> Result<Archive, String> {
    let text = entries.remove(METADATA).ok_or(
        "no metadata.json: this is no export of posthaste; what other systems export takes --from",
    )?;
    let format: FormatAlone = serde_json::from_str(&text)
        .map_err(|error| format!("metadata.json is not understood: {error}"))?;
    if format.format != FORMAT {
        let found = format.format;
        return Err(format!("metadata.json has format {found}; this version reads {FORMAT}"));
    }
    let metadata: Metadata = serde_json::from_str(&text)
        .map_err(|error| format!("metadata.json is not understood: {error}"))?;
    let mut named = std::collections::BTreeSet::new();
    for connection in &metadata.connections {
        if connection.file != format!("{CONNECTIONS}{}.toml", connection.name) {
            let (name, file) = (quoted(&connection.name), quoted(&connection.file));
            return Err(format!("metadata.json: the file of {name} is {file}"));
        }
        if !named.insert(connection.file.as_str()) {
            return Err(format!("metadata.json names {} twice", quoted(&connection.name)));
        }
        right(&entries, &connection.file, &connection.sha256)?;
        for certificate in &connection.certificates {
            let (Some(file), Some(sum)) = (&certificate.file, &certificate.sha256) else {
                continue;
            };
            if !file.starts_with(CERTIFICATES) {
                return Err(format!("metadata.json: {} is no certificate's entry", quoted(file)));
            }
            named.insert(file);
            right(&entries, file, sum)?;
        }
    }
    if let Some(stranger) = entries.keys().find(|name| !named.contains(name.as_str())) {
        return Err(format!("metadata.json does not name {}", quoted(stranger)));
    }
    Ok(Archive { metadata, entries })
}

#[derive(Deserialize)]
struct FormatAlone {
    format: u32,
}

fn right(entries: &BTreeMap<String, String>, name: &str, sum: &str) -> Result<(), String> {
    match entries.get(name) {
        None => Err(format!("metadata.json names {}, which is not in the ZIP", quoted(name))),
        Some(text) if checksum(text).eq_ignore_ascii_case(sum) => Ok(()),
        Some(_) => {
            Err(format!("{} does not have the checksum that metadata.json says", quoted(name)))
        }
    }
}

fn check_directory(name: &str) -> Result<(), String> {
    if name == CONNECTIONS || name == CERTIFICATES {
        return Ok(());
    }
    Err(format!("{} is no directory of an export", quoted(name)))
}

/// Only names of this format: one plain file name below one of two directories.
fn check_name(name: &str) -> Result<(), String> {
    if name == METADATA {
        return Ok(());
    }
    let shown = quoted(name);
    if name.starts_with('/') || name.starts_with('\\') || name.get(1..2) == Some(":") {
        return Err(format!("{shown} is an absolute path"));
    }
    if name.split(['/', '\\']).any(|part| part == "..") {
        return Err(format!("{shown} leads out of the archive"));
    }
    let plain = |rest: &str| {
        let legal = |c: char| c.is_ascii_alphanumeric() || ['-', '_', '.'].contains(&c);
        (1..=200).contains(&rest.len()) && rest.chars().all(legal) && !rest.starts_with('.')
    };
    let connection = name.strip_prefix(CONNECTIONS).and_then(|rest| rest.strip_suffix(".toml"));
    let certificate = name.strip_prefix(CERTIFICATES);
    if connection.or(certificate).is_some_and(plain) {
        return Ok(());
    }
    Err(format!("{shown} is no file of an export: connections/NAME.toml or certificates/NAME"))
}

/// What the end of the directory says, before names are made a map: how many entries there are.
fn listed_entries(bytes: &[u8]) -> Option<usize> {
    const END: &[u8] = b"PK\x05\x06";
    let at = bytes.windows(END.len()).rposition(|window| window == END)?;
    let count = bytes.get(at + 10..at + 12)?;
    Some(usize::from(u16::from_le_bytes(count.try_into().ok()?)))
}
