//! Opening the store's files at a start; what cannot be read is set aside and counted.

use super::super::disk::Disk;
use super::super::file::{FileError, StoreFile, index_name, new_header};
use super::super::record::{FileKind, HeaderError};
use super::super::{OpenError, QUARANTINE};
use super::{Recovered, headers};

/// Opens a file, its header mended where that can be. `None`: it cannot; the file was set aside.
pub(super) fn open(
    disk: &dyn Disk,
    name: &str,
    kind: FileKind,
    recovered: &mut Recovered,
) -> Result<Option<StoreFile>, OpenError> {
    match StoreFile::open(disk, name, kind) {
        Ok(file) => Ok(Some(file)),
        Err(FileError::Header(HeaderError::UnknownVersion(version))) => {
            Err(OpenError::UnknownVersion { file: name.to_owned(), version })
        }
        Err(FileError::Header(HeaderError::Damaged)) => {
            if is_blank(disk, name) {
                let _ = disk.remove(name);
                return Ok(None);
            }
            recovered.corrupt += 1;
            let mended = headers::mend(disk, name, kind);
            if mended.is_some() {
                tracing::error!(file = name, "A file's header had a wrong byte; it was mended.");
            } else {
                tracing::error!(
                    file = name,
                    "A file of the store has a damaged header; it was moved to quarantine"
                );
                quarantine(disk, name);
            }
            Ok(mended)
        }
        Err(FileError::Io(error)) => Err(OpenError::Io("open a file of the store", error)),
    }
}

/// A segment whose header is damaged, and whose index has the nonce without which nothing in it could be read.
pub(super) fn reopen(disk: &dyn Disk, name: &str, number: u32) -> Option<StoreFile> {
    match StoreFile::open(disk, name, FileKind::Segment) {
        Err(FileError::Header(HeaderError::Damaged)) => {}
        _ => return None,
    }
    let index = StoreFile::open(disk, &index_name(number), FileKind::Index).ok()?;
    let header = new_header(FileKind::Segment, number, index.header.nonce, index.header.created_ms);
    let file = disk.open(name).ok()?;
    // If it cannot be mended, the next start does this again.
    let _ = file.write_all_at(&header.encode(), 0);
    (index.header.number == number).then_some(StoreFile { file, header })
}

/// Whether a file's header is all zeros: it was being created when the process stopped; nothing in it was acknowledged.
pub(super) fn is_blank(disk: &dyn Disk, name: &str) -> bool {
    let mut head = [0; 64];
    let Ok(file) = disk.open(name) else {
        return false;
    };
    let length = file.length().unwrap_or(0).min(64);
    let Some(head) = head.get_mut(..usize::try_from(length).unwrap_or(0)) else {
        return false;
    };
    file.read_exact_at(head, 0).is_ok() && head.iter().all(|byte| *byte == 0)
}

pub(super) fn quarantine(disk: &dyn Disk, name: &str) {
    if let Err(error) = disk.rename(name, &format!("{QUARANTINE}/{name}")) {
        tracing::warn!(%error, file = name, "Could not move a damaged file to quarantine.");
    }
}

/// The largest damaged place that is kept for a look.
pub(super) const QUARANTINE_BYTES: u64 = 16 << 20;

/// Counts damaged places, says where they are, and keeps their bytes.
pub(super) fn note_damage(
    disk: &dyn Disk,
    file: &StoreFile,
    name: &str,
    damaged: &[(u64, u64)],
    recovered: &mut Recovered,
) {
    for (start, end) in damaged {
        recovered.corrupt += 1;
        tracing::error!(
            file = name,
            start,
            end,
            "A part of the store is damaged; the bytes were kept in quarantine."
        );
        let length = usize::try_from((end - start).min(QUARANTINE_BYTES)).unwrap_or(0);
        let mut bytes = vec![0; length];
        let copy = format!("{QUARANTINE}/{name}.{start}-{end}");
        let _ = disk.remove(&copy);
        let kept = file
            .file
            .read_exact_at(&mut bytes, *start)
            .and_then(|()| disk.create(&copy)?.write_all_at(&bytes, 0));
        if let Err(error) = kept {
            tracing::warn!(%error, "Could not keep the damaged bytes.");
        }
    }
}
