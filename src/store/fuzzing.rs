//! The store over arbitrary bytes: its records one by one, and whole files put into a store that is then opened, emptied
//! and opened again. On a disk in memory, without threads, with a clock that is moved.

mod disk;
mod drive;
mod files;
#[cfg(test)]
mod tests;

use bytes::Bytes;

use super::file::{StoreFile, scan};
use super::key_log::decode_keys;
use super::keys::KeyRecord;
use super::marks::{Mark, Marks, decode_stamp, encode_delivered, encode_mark};
use super::record::{
    FileHeader, FileKind, Reader, Record, Stamp, decode_event, decode_event_head, decode_name,
    encode_event, encode_record,
};
use disk::MemoryDisk;
pub(crate) use drive::Found;
use drive::{deliver_all, open};
#[cfg(test)]
pub(crate) use files::seeds;
use files::{Input, header, repair};

/// Bytes as a file of records: what validates is decoded as each of the kinds, and written again. Bit 0 of the first
/// byte: the checksums are made right first.
pub fn record(data: &[u8]) {
    let Some((choice, bytes)) = data.split_first() else {
        return;
    };
    for kind in files::KINDS {
        if let Some(Ok(read)) = bytes.first_chunk().map(|head| FileHeader::decode(head, kind)) {
            let again = FileHeader::decode(&read.encode(), kind);
            assert_eq!(again, Ok(read));
        }
    }
    let header = header(FileKind::Segment, super::FIRST_HOT);
    let mut file = header.encode().to_vec();
    file.extend_from_slice(bytes);
    if choice & 1 == 1 {
        repair(&mut file, header.seed());
    }
    let length = file.len() as u64;
    let disk = MemoryDisk::with_files([("x".to_owned(), Bytes::from(file.clone()))]);
    let opened = StoreFile::open(&disk, "x", FileKind::Segment);
    assert!(opened.is_ok(), "its header is right");
    let Ok(opened) = opened else { return };
    let mut end = super::record::FILE_HEADER;
    let report = scan(&opened, |offset, record| {
        assert!(offset >= end, "records overlap");
        end = offset + record.length as u64;
        decode_all(record);
        let whole = usize::try_from(offset).ok().and_then(|at| file.get(at..)).unwrap_or_default();
        round_trip(Bytes::copy_from_slice(whole), header.seed());
    });
    assert!(report.is_ok_and(|report| report.end == end && end <= length.next_multiple_of(8)));
}

/// What any record's body could be.
fn decode_all(record: &Record<'_>) {
    let body = record.body;
    if let Some(head) = decode_event_head(super::record::KIND_EVENT, body) {
        let key = KeyRecord::of(&head, body);
        assert!(key.is_none_or(|key| key.queued() <= head.routes.len() as u64));
    }
    decode_name(body);
    decode_keys(body).for_each(drop);
    let mut reader = Reader::new(body);
    decode_stamp(&mut reader);
    for mark in Marks::new(reader) {
        let mut bytes = Vec::new();
        match &mark {
            // Long runs are written like short ones.
            Mark::Delivered(run) if run.count > 64 || run.count == 0 => continue,
            Mark::Delivered(run) => encode_delivered(&mut bytes, &mut run.places().collect()),
            mark => encode_mark(&mut bytes, mark),
        }
        assert_eq!(Marks::new(Reader::new(&bytes)).next(), Some(mark));
    }
}

fn round_trip(bytes: Bytes, seed: super::record::Seed) {
    let Some((event, routes)) = decode_event(bytes, seed) else {
        return;
    };
    let mut again = Vec::new();
    let stamp = Stamp { durable_upto: 0, commit: 0 };
    encode_record(&mut again, seed, super::record::KIND_EVENT, stamp, |out| {
        encode_event(out, &event, super::record::Frame::ALONE, routes.iter().copied());
    });
    assert_eq!(decode_event(Bytes::from(again), seed), Some((event, routes)));
}

/// Bytes as one of the store's files, in an empty store or among the files of a store that was used (see
/// [`files::Input`]). Opens it, delivers what there is, asks for all that can be asked, appends one event, stops; and
/// again. What was delivered does not come again, and the fresh event comes.
pub fn recovery(data: &[u8]) -> Found {
    let mut found = Found::default();
    let Some(input) = Input::new(data) else {
        return found;
    };
    let disk = input.disk();
    let Some(mut relay) = open(&disk) else {
        return found;
    };
    deliver_all(&mut relay, &mut found, input.mood());
    relay.ask_everything(&mut found);
    relay.append_and_deliver(&mut found);
    let (first, delivered) = (relay.stop(), std::mem::take(&mut found.delivered));
    let Some(mut relay) = open(&disk) else {
        panic!("what a clean stop left is not opened");
    };
    relay.go_on_from(first);
    deliver_all(&mut relay, &mut found, 0);
    if let Some(twice) = found.delivered.intersection(&delivered).next() {
        panic!("delivered, and comes again after a clean stop: {twice:?}");
    }
    relay.append_and_deliver(&mut found);
    relay.stop();
    found
}
