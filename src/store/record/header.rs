//! The first 64 bytes of a file; [`super`] has what stands in them.

use super::{FORMAT_VERSION, Seed, put, u32_at, u64_at};

const MAGIC: &[u8; 8] = b"posthast";

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum FileKind {
    /// Events.
    Segment = 1,
    /// Marks.
    StateLog = 2,
    /// The state of all deliveries at one moment.
    Snapshot = 3,
    /// Where each connection's deliveries are in a sealed segment.
    Index = 4,
    /// Idempotency keys of segments that were given back.
    Keys = 5,
    /// Scheduled deliveries or dead letters that are not in memory.
    Run = 6,
    /// Attempts that failed.
    Attempts = 8,
}

/// The first 64 bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileHeader {
    /// What the file holds.
    pub kind: FileKind,
    /// Which one it is.
    pub number: u32,
    /// Seeds every checksum of the file.
    pub nonce: u64,
    /// Wall clock at creation, for people.
    pub created_ms: u64,
}

/// Why a file's header was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Not one of our files, or damaged.
    #[error("not a header of posthaste's store")]
    Damaged,
    /// Ours, but of another format.
    #[error(
        "store format {0} is not known to this version of posthaste, which knows {FORMAT_VERSION}"
    )]
    UnknownVersion(u32),
}

impl FileHeader {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        put(&mut bytes, 0, MAGIC);
        put(&mut bytes, 8, &FORMAT_VERSION.to_le_bytes());
        put(&mut bytes, 12, &(self.kind as u32).to_le_bytes());
        put(&mut bytes, 16, &self.number.to_le_bytes());
        put(&mut bytes, 24, &self.nonce.to_le_bytes());
        put(&mut bytes, 32, &self.created_ms.to_le_bytes());
        let crc = crc32c::crc32c(bytes.get(..60).unwrap_or_default());
        put(&mut bytes, 60, &crc.to_le_bytes());
        bytes
    }

    /// Reads a header of the given kind.
    ///
    /// # Errors
    /// [`HeaderError`]. A wrong version is only believed if the rest validates.
    pub fn decode(bytes: &[u8; 64], kind: FileKind) -> Result<FileHeader, HeaderError> {
        let crc = u32_at(bytes, 60).ok_or(HeaderError::Damaged)?;
        if !bytes.starts_with(MAGIC) || crc32c::crc32c(bytes.get(..60).unwrap_or_default()) != crc {
            return Err(HeaderError::Damaged);
        }
        let version = u32_at(bytes, 8).ok_or(HeaderError::Damaged)?;
        if version != FORMAT_VERSION {
            return Err(HeaderError::UnknownVersion(version));
        }
        if u32_at(bytes, 12) != Some(kind as u32) {
            return Err(HeaderError::Damaged);
        }
        Ok(FileHeader {
            kind,
            number: u32_at(bytes, 16).ok_or(HeaderError::Damaged)?,
            nonce: u64_at(bytes, 24).ok_or(HeaderError::Damaged)?,
            created_ms: u64_at(bytes, 32).ok_or(HeaderError::Damaged)?,
        })
    }

    /// What checksums of this file's records start from.
    pub fn seed(&self) -> Seed {
        let nonce = if defect!(ChecksumNotSeeded) { 0 } else { self.nonce };
        Seed(crc32c::crc32c(&nonce.to_le_bytes()))
    }
}
