//! Arbitrary bytes as the store's files, so that much of what a fuzzer tries gets past headers and checksums.

use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;

use super::super::file::{
    NUMBERS_END, Named, attempts_name, classify, index_name, key_log_name, log_name, new_header,
    run_name, segment_name, snapshot_name,
};
use super::super::record::{
    FILE_HEADER, FileHeader, FileKind, RECORD_HEADER, Seed, padded, reseal, u32_at,
};
use super::super::{ConnectionId, FIRST_HOT};
use super::disk::MemoryDisk;
use super::drive::{Found, deliver_all, open};

/// All kinds of files.
pub(super) const KINDS: [FileKind; 7] = [
    FileKind::Segment,
    FileKind::StateLog,
    FileKind::Snapshot,
    FileKind::Index,
    FileKind::Keys,
    FileKind::Run,
    FileKind::Attempts,
];

/// One case. The first byte:
///
/// ```text
/// bits 0-2  which file: 0 segment, 1 cold segment, 2 index, 3 state log, 4 snapshot, 5 key log or, with bit 7 of the mood, run,
///           6 state log and segment, 7 index and segment (the first 2 bytes say how long the first one is)
/// bit 3     the header is put before the bytes; else they start with one, or with what stands there
/// bit 4     checksums are made right
/// bit 5     among the files of a store that was used
/// bits 6-7  its number: 0 and 1 as that of a file of the used store, 2 the greatest there is, 3 one that is not in its header
/// ```
///
/// The second byte is the mood of the receiver, see [`super::drive::deliver_all`]; the rest is the file, or two.
pub(super) struct Input<'a> {
    choice: u8,
    mood: u8,
    bytes: &'a [u8],
}

impl<'a> Input<'a> {
    pub(super) fn new(data: &'a [u8]) -> Option<Input<'a>> {
        let ([choice, mood], bytes) = data.split_first_chunk()?;
        Some(Input { choice: *choice, mood: *mood, bytes })
    }

    pub(super) fn mood(&self) -> u8 {
        self.mood
    }

    /// The disk before the store is opened.
    pub(super) fn disk(&self) -> MemoryDisk {
        let mut files = if self.choice & 0x20 != 0 { used().clone() } else { Vec::new() };
        for (shape, bytes) in self.pieces() {
            let (name, bytes) = self.file(shape, bytes);
            files.retain(|(other, _)| *other != name);
            files.push((name, bytes));
        }
        MemoryDisk::with_files(files)
    }

    /// The files, each with its shape.
    fn pieces(&self) -> Vec<(u8, &'a [u8])> {
        let first = match self.choice & 7 {
            6 => 3,
            7 => 2,
            alone => return vec![(alone, self.bytes)],
        };
        let Some((length, rest)) = self.bytes.split_first_chunk() else {
            return Vec::new();
        };
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        let (one, two) = rest.split_at(length);
        vec![(first, one), (0, two)]
    }

    fn file(&self, shape: u8, bytes: &[u8]) -> (String, Bytes) {
        let step = match self.choice >> 6 {
            number @ (0 | 1) => u32::from(number),
            2 => NUMBERS_END,
            _ => 0,
        };
        let (kind, first, name): (_, u32, fn(u32) -> String) = match shape {
            0 => (FileKind::Segment, FIRST_HOT, segment_name),
            1 => (FileKind::Segment, 1, segment_name),
            2 => (FileKind::Index, FIRST_HOT, index_name),
            3 => (FileKind::StateLog, 1, log_name),
            4 => (FileKind::Snapshot, 1, snapshot_name),
            5 if self.mood & 0x80 != 0 => (FileKind::Run, 1, run_name),
            _ => (FileKind::Keys, 1, key_log_name),
        };
        let first = used_number(kind, first).unwrap_or(first);
        let number = first.saturating_add(step).min(NUMBERS_END - 1);
        let mut header = header(kind, number);
        if self.choice & 0x20 != 0
            && let Some(used) = used_header(kind, number)
        {
            header = used;
        }
        if self.choice >> 6 == 3 {
            header.number ^= 1;
        }
        (name(number), Bytes::from(self.with_header(&header, bytes)))
    }

    fn with_header(&self, header: &FileHeader, bytes: &[u8]) -> Vec<u8> {
        let mut file = Vec::with_capacity(bytes.len() + 64);
        let mut seed = header.seed();
        if self.choice & 8 != 0 {
            file.extend_from_slice(&header.encode());
        } else if let Some(Ok(own)) =
            bytes.first_chunk().map(|head| FileHeader::decode(head, header.kind))
        {
            seed = own.seed();
        }
        file.extend_from_slice(bytes);
        if self.choice & 16 != 0 {
            repair(&mut file, seed);
        }
        file
    }
}

/// A header with a nonce that is always the same, so that an index goes with its segment.
pub(super) fn header(kind: FileKind, number: u32) -> FileHeader {
    new_header(kind, number, 0x5eed_f00d_0ddb_a115, 0)
}

/// Makes the records of a file valid, one after the other: a length that goes beyond the end is cut, marker and checksum
/// are made right.
pub(super) fn repair(file: &mut [u8], seed: Seed) {
    let Some(mut rest) = usize::try_from(FILE_HEADER).ok().and_then(|at| file.get_mut(at..)) else {
        return;
    };
    while let Some(body) = rest.len().checked_sub(RECORD_HEADER) {
        let length = u32_at(rest, 0).map_or(0, |length| length as usize).min(body);
        let (record, _) = rest.split_at_mut(RECORD_HEADER + length);
        reseal(record, seed);
        let end = padded(RECORD_HEADER + length).min(rest.len());
        (_, rest) = rest.split_at_mut(end);
    }
}

/// The files of a store that was used and then killed: deliveries that wait, that wait for a time, also for their first
/// attempt, dead ones, keys, a suspension, a sealed segment, a cold one, one that grows.
fn used() -> &'static Vec<(String, Bytes)> {
    static USED: OnceLock<Vec<(String, Bytes)>> = OnceLock::new();
    USED.get_or_init(use_a_store)
}

fn use_a_store() -> Vec<(String, Bytes)> {
    let disk = MemoryDisk::default();
    let Some(mut relay) = open(&disk) else {
        return Vec::new();
    };
    let mut found = Found::default();
    let mut events = 0..;
    let mut fill = |relay: &mut super::drive::Relay, count: usize| {
        for number in events.by_ref().take(count) {
            let key = format!("key-{number}");
            let (name, key) = if number % 3 == 0 { ("erp", key.as_str()) } else { ("crm", "") };
            let delay = Duration::from_secs(if number % 5 == 0 { 600 } else { 0 });
            let body = format!("event {number} {}", "x".repeat(200));
            relay.append_delayed(name, key, body.as_bytes(), delay);
        }
    };
    // Delivered, all but some dead letters: what is left of it is moved, and its keys are kept.
    fill(&mut relay, 50);
    deliver_all(&mut relay, &mut found, 1);
    fill(&mut relay, 50);
    for _ in 0..5 {
        deliver_all(&mut relay, &mut found, 0);
        relay.pass(Duration::from_secs(60));
    }
    relay.suspend(ConnectionId(0));
    fill(&mut relay, 70);
    relay.pass(Duration::from_secs(2));
    disk.files().into_iter().filter(|(_, bytes)| !bytes.is_empty()).collect()
}

/// The number of the used store's first file of a kind.
fn used_number(kind: FileKind, at_least: u32) -> Option<u32> {
    let numbers = used_names().filter(|(other, number)| *other == kind && *number >= at_least);
    numbers.map(|(_, number)| number).min()
}

/// The header of one of the used store's files; of an index, as its segment has it.
fn used_header(kind: FileKind, number: u32) -> Option<FileHeader> {
    let name = match kind {
        FileKind::Segment | FileKind::Index => segment_name(number),
        FileKind::StateLog => log_name(number),
        FileKind::Snapshot => snapshot_name(number),
        FileKind::Keys => key_log_name(number),
        FileKind::Run => run_name(number),
        FileKind::Attempts => attempts_name(number),
    };
    let (_, bytes) = used().iter().find(|(other, _)| *other == name)?;
    let of = if kind == FileKind::Index { FileKind::Segment } else { kind };
    let header = FileHeader::decode(bytes.first_chunk()?, of).ok()?;
    Some(FileHeader { kind, ..header })
}

fn used_names() -> impl Iterator<Item = (FileKind, u32)> {
    used().iter().filter_map(|(name, _)| match classify(name) {
        Named::Segment(number) => Some((FileKind::Segment, number)),
        Named::Index(number) => Some((FileKind::Index, number)),
        Named::Log(number) => Some((FileKind::StateLog, number)),
        Named::Snapshot(number) => Some((FileKind::Snapshot, number)),
        Named::KeyLog(number) => Some((FileKind::Keys, number)),
        Named::Run(number) => Some((FileKind::Run, number)),
        _ => None,
    })
}

/// Seeds made of the used store's files, by name; for [`super::recovery`] with two bytes before them, for
/// [`super::record`] with one.
#[cfg(test)]
pub(crate) fn seeds() -> Vec<(String, Vec<u8>, Vec<u8>)> {
    let mut seeds = Vec::new();
    for (name, bytes) in used() {
        let shape = match classify(name) {
            Named::Segment(number) => u8::from(number < FIRST_HOT),
            Named::Index(_) => 2,
            Named::Log(_) => 3,
            Named::Snapshot(_) => 4,
            Named::KeyLog(_) | Named::Run(_) => 5,
            _ => continue,
        };
        let mood = if matches!(classify(name), Named::Run(_)) { 0x81 } else { 1 };
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 8);
        let records = &bytes[64..end.next_multiple_of(8).min(bytes.len())];
        let recovery = [&[0x38 | shape, mood], records].concat();
        let record = [&[1], &records[..records.len().min(2048)]].concat();
        seeds.push((name.clone(), recovery, record));
    }
    seeds
}
