//! One file of the store: its header, appending records, and scanning for the records that validate.

use std::io;
use std::sync::Arc;

use super::disk::{Disk, DiskFile};
use super::record::{
    FILE_HEADER, FileHeader, FileKind, HeaderError, RECORD_HEADER, Record, Seed, decode_record,
    peek_length,
};

/// A file whose header is known.
#[derive(Clone, Debug)]
pub struct StoreFile {
    /// The file.
    pub file: Arc<dyn DiskFile>,
    /// Its header.
    pub header: FileHeader,
}

/// Why a file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The disk said no.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The header is not ours, or of another version.
    #[error(transparent)]
    Header(#[from] HeaderError),
}

impl StoreFile {
    /// Writes a header to `file` and syncs it. The caller syncs the directory.
    ///
    /// # Errors
    /// As the disk says; the file is then of no use.
    pub fn start(file: Arc<dyn DiskFile>, header: FileHeader) -> io::Result<StoreFile> {
        file.write_all_at(&header.encode(), 0)?;
        file.sync_data()?;
        Ok(StoreFile { file, header })
    }

    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn open(disk: &dyn Disk, name: &str, kind: FileKind) -> Result<StoreFile, FileError> {
        let file = disk.open(name)?;
        let mut bytes = [0; 64];
        match file.read_exact_at(&mut bytes, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(HeaderError::Damaged.into());
            }
            result => result?,
        }
        let header = FileHeader::decode(&bytes, kind)?;
        Ok(StoreFile { file, header })
    }

    /// What checksums of this file's records start from.
    pub fn seed(&self) -> Seed {
        self.header.seed()
    }

    /// Reads the bytes of one record of `size` bytes at `offset`. It is not checked here.
    ///
    /// # Errors
    /// As the disk says; `UnexpectedEof` when the file ends before.
    pub fn read_record(&self, offset: u64, size: u32) -> io::Result<Vec<u8>> {
        // A size that is wrong must not take memory that the file cannot fill.
        if size as usize > CHUNK && self.file.length()? < offset.saturating_add(u64::from(size)) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; size as usize];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }
}

/// Bytes that a scan reads at once; it holds more only while a single record is larger.
const CHUNK: usize = 1 << 20;

/// What a scan found besides records.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ScanReport {
    /// Where the last valid record ends.
    pub end: u64,
    /// Places that do not validate although a later record proves that they had been synced: (start, end).
    pub damaged: Vec<(u64, u64)>,
    /// Places before the end that do not validate, proven to be damage or not.
    pub gaps: usize,
    /// How many of them the disk does not give.
    pub unreadable: usize,
    /// Records of which no later one says that they had been synced: start and bytes, those that follow each other as one.
    pub unproven: Vec<(u64, u64)>,
}

/// Gives every record of the file that validates to `visit`, with its offset, in order. Never fails on content: what does
/// not validate is skipped, 8 bytes at a time, to the next record that does.
///
/// # Errors
/// As the disk says.
pub fn scan(file: &StoreFile, mut visit: impl FnMut(u64, &Record<'_>)) -> io::Result<ScanReport> {
    let length = file.file.length()?;
    let mut window =
        Window { file, length, start: FILE_HEADER, bytes: Vec::new(), unreadable: Vec::new() };
    let mut report = ScanReport { end: FILE_HEADER, ..ScanReport::default() };
    let mut gaps: Vec<(u64, u64)> = Vec::new();
    let mut at = FILE_HEADER;
    let mut last_commit = 0;
    while at < length {
        let step = match decode_record(window.at(at)?, file.seed()) {
            Some(record) if record.stamp.commit >= last_commit => {
                last_commit = record.stamp.commit;
                if at > report.end {
                    gaps.push((report.end, at));
                    report.gaps += 1;
                }
                gaps.retain(|gap| {
                    let was_synced = record.stamp.durable_upto > gap.0;
                    if was_synced {
                        report.damaged.push(*gap);
                    }
                    !was_synced
                });
                visit(at, &record);
                report.unproven.retain(|(start, _)| *start >= record.stamp.durable_upto);
                match report.unproven.last_mut() {
                    Some((start, bytes)) if *start + *bytes == at && *bytes < CHUNK as u64 => {
                        *bytes += record.length as u64;
                    }
                    _ => report.unproven.push((at, record.length as u64)),
                }
                report.end = at + record.length as u64;
                record.length as u64
            }
            _ => window.skip_to_candidate(at)?,
        };
        at += step;
    }
    let known =
        |place: &(u64, u64)| report.damaged.iter().any(|gap| gap.0 <= place.0 && place.1 <= gap.1);
    let unreadable: Vec<_> = window.unreadable.into_iter().filter(|place| !known(place)).collect();
    report.gaps += unreadable.len();
    report.unreadable = unreadable.len();
    report.damaged.extend(unreadable);
    Ok(report)
}

/// Writes places of a file again, as they are, and syncs them. What is read after a start may have been written by a
/// process that was killed before it could sync, or whose sync failed: then it is in memory alone, and a sync without a
/// write would do nothing.
///
/// # Errors
/// As the disk says.
pub fn make_durable(file: &StoreFile, places: &[(u64, u64)]) -> io::Result<()> {
    let length = file.file.length()?;
    for (start, bytes) in places {
        // The padding of the last one may be missing.
        let bytes = (*bytes).min(length.saturating_sub(*start));
        let mut piece = vec![0; usize::try_from(bytes).unwrap_or(0)];
        file.file.read_exact_at(&mut piece, *start)?;
        file.file.write_all_at(&piece, *start)?;
    }
    if places.is_empty() { Ok(()) } else { file.file.sync_data() }
}

/// A piece of the file in memory.
struct Window<'a> {
    file: &'a StoreFile,
    length: u64,
    start: u64,
    bytes: Vec<u8>,
    /// Places that the disk does not give.
    unreadable: Vec<(u64, u64)>,
}

/// Bytes that are read alone where a larger read fails.
const SECTOR: usize = 4096;
/// How often one of them is tried.
const READ_TRIES: u32 = 3;
/// A file of which one in this many sectors cannot be read is not read at all.
const UNREADABLE_SHARE: u64 = 16;

impl Window<'_> {
    /// The bytes from `at` on: at least a whole record, if its header says a length that fits the file.
    fn at(&mut self, at: u64) -> io::Result<&[u8]> {
        self.hold(at, RECORD_HEADER)?;
        let wanted = peek_length(self.rest(at), self.file.seed()).unwrap_or(RECORD_HEADER);
        self.hold(at, wanted)?;
        Ok(self.rest(at))
    }

    /// How far the next place is that could be a record.
    fn skip_to_candidate(&mut self, at: u64) -> io::Result<u64> {
        let seed = self.file.seed();
        let rest = self.rest(at);
        let found = (8..rest.len().saturating_sub(RECORD_HEADER))
            .step_by(8)
            .find(|skip| rest.get(*skip..).and_then(|head| peek_length(head, seed)).is_some());
        Ok(found.unwrap_or(rest.len().saturating_sub(RECORD_HEADER).next_multiple_of(8).max(8))
            as u64)
    }

    fn rest(&self, at: u64) -> &[u8] {
        usize::try_from(at.saturating_sub(self.start))
            .ok()
            .and_then(|skip| self.bytes.get(skip..))
            .unwrap_or_default()
    }

    /// Reads so that at least `wanted` bytes from `at` are held, or all to the end of the file.
    fn hold(&mut self, at: u64, wanted: usize) -> io::Result<()> {
        let left = self.length.saturating_sub(at);
        if self.rest(at).len() as u64 >= left.min(wanted as u64) {
            return Ok(());
        }
        let size = left.min(wanted.max(CHUNK) as u64);
        self.bytes.resize(usize::try_from(size).unwrap_or(usize::MAX), 0);
        self.start = at;
        match self.file.file.read_exact_at(&mut self.bytes, at) {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
                self.hold_what_is_readable(at, error)
            }
            result => result,
        }
    }

    /// A disk with bad sectors: what cannot be read, tried again and again, counts as zeros, and as damage. When that is
    /// more than a little of the file, it is the disk that fails, and nothing may be given up for lost.
    fn hold_what_is_readable(&mut self, at: u64, error: io::Error) -> io::Result<()> {
        for (piece, start) in self.bytes.chunks_mut(SECTOR).zip((at..).step_by(SECTOR)) {
            let file = &self.file.file;
            if (0..READ_TRIES).any(|_| file.read_exact_at(piece, start).is_ok()) {
                continue;
            }
            piece.fill(0);
            self.unreadable.push((start, start + piece.len() as u64));
            if self.unreadable.len() as u64 * UNREADABLE_SHARE > self.length / SECTOR as u64 {
                return Err(error);
            }
        }
        if !self.unreadable.is_empty() {
            tracing::error!(%error, at, "A part of the store cannot be read");
        }
        Ok(())
    }
}

/// Appends to a file that holds one kind of records and is written by one owner: the state log, a snapshot, an index.
#[derive(Debug)]
pub struct Appender {
    /// The file.
    pub file: StoreFile,
    /// Where the next record goes.
    pub end: u64,
}

impl Appender {
    /// Appends encoded records.
    ///
    /// # Errors
    /// As the disk says. The end does not move; the bytes there are unknown.
    pub fn append(&mut self, records: &[u8]) -> io::Result<()> {
        self.file.file.write_all_at(records, self.end)?;
        self.end += records.len() as u64;
        Ok(())
    }
}

/// Name of a segment's file.
pub fn segment_name(number: u32) -> String {
    format!("ev-{number:010}.seg")
}

/// Name of a sealed segment's index.
pub fn index_name(number: u32) -> String {
    format!("ev-{number:010}.idx")
}

/// Name of a state log.
pub fn log_name(number: u32) -> String {
    format!("st-{number:010}.log")
}

/// Name of a snapshot.
pub fn snapshot_name(number: u32) -> String {
    format!("st-{number:010}.snap")
}

/// Name of a key log.
pub fn key_log_name(number: u32) -> String {
    format!("ky-{number:010}.log")
}

/// Name of a run of scheduled deliveries or dead letters.
pub fn run_name(number: u32) -> String {
    format!("ru-{number:010}.run")
}

/// Name of a file of attempts.
pub fn attempts_name(number: u32) -> String {
    format!("at-{number:010}.log")
}

/// What a file of the store's directory is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// `ev-N.seg`
    Segment(u32),
    /// `ev-N.idx`
    Index(u32),
    /// `st-N.log`
    Log(u32),
    /// `st-N.snap`
    Snapshot(u32),
    /// `ky-N.log`
    KeyLog(u32),
    /// `ru-N.run`
    Run(u32),
    /// `at-N.log`
    Attempts(u32),
    /// `spare-N.seg`: a segment given back, to be written over.
    Spare(u32),
    /// `*.tmp`: left by a stop in the middle of a write; of no use.
    Temporary,
    /// The lock, the reserve.
    Own,
    /// Not ours.
    Foreign,
}

/// Numbers from here on are not ours: they leave no room for those that follow.
pub const NUMBERS_END: u32 = 4_000_000_000;
/// Nor are these, of segments: the cold ones end before them.
const COLD_END: std::ops::Range<u32> = 900_000_000..super::FIRST_HOT;

/// Tells what a file is.
pub fn classify(name: &str) -> Named {
    let number = |prefix: &str, suffix: &str| -> Option<u32> {
        let digits = name.strip_prefix(prefix)?.strip_suffix(suffix)?;
        let number: Option<u32> = (digits.len() == 10).then(|| digits.parse().ok())?;
        number.filter(|number| *number < NUMBERS_END)
    };
    if name == super::LOCK_FILE || name == super::RESERVE_FILE {
        Named::Own
    } else if name.ends_with(".tmp") {
        Named::Temporary
    } else if let Some(number) = number("ev-", ".seg").filter(|number| !COLD_END.contains(number)) {
        Named::Segment(number)
    } else if let Some(number) = number("ev-", ".idx") {
        Named::Index(number)
    } else if let Some(number) = number("st-", ".log") {
        Named::Log(number)
    } else if let Some(number) = number("st-", ".snap") {
        Named::Snapshot(number)
    } else if let Some(number) = number("ky-", ".log") {
        Named::KeyLog(number)
    } else if let Some(number) = number("ru-", ".run") {
        Named::Run(number)
    } else if let Some(number) = number("at-", ".log") {
        Named::Attempts(number)
    } else if let Some(number) = number("spare-", ".seg") {
        Named::Spare(number)
    } else {
        Named::Foreign
    }
}

/// The header of a new file.
pub fn new_header(kind: FileKind, number: u32, nonce: u64, created_ms: u64) -> FileHeader {
    FileHeader { kind, number, nonce, created_ms }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::FIRST_HOT;
    use crate::store::disk::OsDisk;
    use crate::store::record::{Stamp, encode_record};

    fn file(directory: &std::path::Path) -> StoreFile {
        let disk = OsDisk::open(directory).unwrap();
        let file = disk.create("x").unwrap();
        file.allocate(1 << 16).unwrap();
        StoreFile::start(file, new_header(FileKind::Segment, 1, 42, 0)).unwrap()
    }

    /// Writes records with bodies of these lengths; each commit has one record and knows all before it as synced.
    fn write(file: &StoreFile, lengths: &[usize]) -> Vec<u64> {
        let mut at = FILE_HEADER;
        let mut offsets = Vec::new();
        for (commit, length) in lengths.iter().enumerate() {
            let mut bytes = Vec::new();
            let stamp = Stamp { durable_upto: at, commit: commit as u64 };
            encode_record(&mut bytes, file.seed(), 1, stamp, |out| {
                out.resize(out.len() + length, 7)
            });
            file.file.write_all_at(&bytes, at).unwrap();
            offsets.push(at);
            at += bytes.len() as u64;
        }
        offsets
    }

    fn found(file: &StoreFile) -> (Vec<u64>, ScanReport) {
        let mut offsets = Vec::new();
        let report = scan(file, |offset, _| offsets.push(offset)).unwrap();
        (offsets, report)
    }

    #[test]
    fn all_records_are_found_and_a_torn_tail_is_not_damage() {
        let directory = tempfile::tempdir().unwrap();
        let file = file(directory.path());
        let offsets = write(&file, &[0, 10, 1000, 3, 20_000]);
        assert_eq!(found(&file).0, offsets);
        file.file.write_all_at(&[1], offsets[4] + 100).unwrap();
        let (left, report) = found(&file);
        assert_eq!(left, offsets[..4]);
        assert_eq!(report.damaged, []);
    }

    #[test]
    fn damage_in_the_middle_costs_only_what_it_hit() {
        let directory = tempfile::tempdir().unwrap();
        let file = file(directory.path());
        let offsets = write(&file, &[0, 10, 1000, 3, 20_000]);
        file.file.write_all_at(&[0xff], offsets[2] + 30).unwrap();
        let (left, report) = found(&file);
        assert_eq!(left, [offsets[0], offsets[1], offsets[3], offsets[4]]);
        assert_eq!(report.damaged, [(offsets[2], offsets[3])]);
    }

    #[test]
    fn names_are_told_apart() {
        assert_eq!(classify(&segment_name(7)), Named::Segment(7));
        assert_eq!(classify(&index_name(7)), Named::Index(7));
        assert_eq!(classify(&log_name(7)), Named::Log(7));
        assert_eq!(classify(&key_log_name(7)), Named::KeyLog(7));
        assert_eq!(classify(&run_name(7)), Named::Run(7));
        assert_eq!(classify(&attempts_name(7)), Named::Attempts(7));
        assert_eq!(classify(&snapshot_name(NUMBERS_END - 1)), Named::Snapshot(NUMBERS_END - 1));
        assert_eq!(classify(&log_name(COLD_END.start)), Named::Log(COLD_END.start));
        assert_eq!(classify("spare-0000000001.seg"), Named::Spare(1));
        for foreign in ["ev-1.seg", "ev-00000000x1.seg", "notes.txt", "ev-0000000001.seg.bak"] {
            assert_eq!(classify(foreign), Named::Foreign, "{foreign}");
        }
        for number in [NUMBERS_END, u32::MAX] {
            assert_eq!(classify(&log_name(number)), Named::Foreign, "no log follows {number}");
        }
        for number in [COLD_END.start, FIRST_HOT - 1, NUMBERS_END] {
            assert_eq!(classify(&segment_name(number)), Named::Foreign, "{number}");
        }
    }
}
