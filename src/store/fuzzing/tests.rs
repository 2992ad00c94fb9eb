//! Places and numbers that no store can have, in files that validate: they are not believed, and take neither memory nor
//! time.

use super::super::feed::Lane;
use super::super::file::{NUMBERS_END, log_name, segment_name};
use super::super::log::KIND_OVER;
use super::super::marks::{KIND_MARKS, Mark, Place, Run, TimeStamp, encode_stamp};
use super::super::record::{Frame, KIND_EVENT, RecordedRoute};
use super::super::schedule::Scheduled;
use super::super::{ConnectionId, DeliveryId, FIRST_HOT};
use super::*;
use crate::clock::Age;
use crate::event::{ContentBuilder, Event, EventId};

const STAMP: Stamp = Stamp { durable_upto: 0, commit: 0 };

fn log(marks: &[Mark], left: Option<[u32; 4]>) -> (String, Bytes) {
    let header = header(FileKind::StateLog, 1);
    let mut file = header.encode().to_vec();
    if let Some(words) = left {
        encode_record(&mut file, header.seed(), KIND_OVER, STAMP, |out| {
            words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
        });
    }
    encode_record(&mut file, header.seed(), KIND_MARKS, STAMP, |out| {
        encode_stamp(out, TimeStamp::default());
        marks.iter().for_each(|mark| encode_mark(out, mark));
    });
    (log_name(1), Bytes::from(file))
}

/// A segment with one event, in this slot of connection 0.
fn segment(number: u32, slot: u32) -> (String, Bytes) {
    let header = header(FileKind::Segment, number);
    let mut file = header.encode().to_vec();
    let id = EventId::new(1_700_000_000_000, &mut fastrand::Rng::with_seed(1));
    let content = ContentBuilder::new("default", "", "", 0).finish();
    let event = Event { id, accepted_ms: id.unix_ms(), accepted_age: Age(1), content };
    let route = RecordedRoute { connection: ConnectionId(0), slot, dead: None, delay_ms: 0 };
    encode_record(&mut file, header.seed(), KIND_EVENT, STAMP, |out| {
        encode_event(out, &event, Frame::ALONE, [route].into_iter());
    });
    (segment_name(number), Bytes::from(file))
}

fn opened(files: impl IntoIterator<Item = (String, Bytes)>) -> drive::Relay {
    open(&MemoryDisk::with_files(files)).unwrap()
}

/// Bits of slots that left, of all connections and segments.
fn words(relay: &drive::Relay) -> usize {
    let parts =
        relay.ends.writer.state.segments.values().flat_map(|segment| segment.parts.values());
    parts.map(|part| part.left.words().len()).sum()
}

fn place(segment: u32, slot: u32) -> Place {
    Place { segment, connection: ConnectionId(0), slot }
}

#[test]
fn a_slot_that_its_segment_cannot_have_takes_no_memory() {
    let name = Mark::Name(ConnectionId(0), "crm".to_owned());
    let delivered = |slot| Mark::Delivered(Run { first: place(FIRST_HOT, slot), count: 1 });
    let relay = opened([log(&[name.clone(), delivered(0)], None), segment(FIRST_HOT, 0)]);
    assert!(!relay.ends.writer.state.segments.contains_key(&FIRST_HOT), "it is given back");
    let relay = opened([log(&[name, delivered(30_000_000)], None), segment(FIRST_HOT, 0)]);
    assert!(relay.ends.writer.state.segments.contains_key(&FIRST_HOT));
    assert_eq!(words(&relay), 0);
    let relay = opened([segment(FIRST_HOT, 30_000_000)]);
    let segments = relay.ends.writer.state.segments.values();
    let parts = segments.flat_map(|segment| segment.parts.values());
    assert_eq!(parts.map(|part| part.slots).sum::<u32>(), 0);
}

/// Four billion slots of a cold segment, all cancelled.
#[test]
fn slots_that_left_are_no_more_than_the_segment_can_have() {
    let discarded = Mark::Discarded(place(FIRST_HOT, 0));
    let left = Some([1, 0, u32::MAX, 0]);
    let relay = opened([log(&[discarded], left), segment(1, 0)]);
    assert!(words(&relay) < 10, "{} words", words(&relay));
}

#[test]
fn a_connection_number_far_beyond_the_others_is_not_believed() {
    let names = [(0, "crm"), (7, "erp"), (u32::MAX, "far")];
    let marks = names.map(|(id, name)| Mark::Name(ConnectionId(id), name.to_owned()));
    let relay = opened([log(&marks, None)]);
    let state = &relay.ends.writer.state;
    assert_eq!(state.streams.len(), 8, "those between 0 and 7 keep their numbers");
    assert_eq!((state.names.get("erp"), state.names.get("far")), (Some(&ConnectionId(7)), None));
}

#[test]
fn the_greatest_numbers_of_files_leave_room_for_the_next() {
    for number in [NUMBERS_END - 1, u32::MAX] {
        let mut relay = opened([segment(number, 0)]);
        relay.append_and_deliver(&mut Found::default());
    }
}

/// Four gigabytes of a record are neither read nor made room for.
#[test]
fn a_size_beyond_the_file_is_not_read() {
    let id = DeliveryId { connection: ConnectionId(0), segment: FIRST_HOT, slot: 0, offset: 8 };
    let (due, lane) = (Age(1), Lane::Retry);
    let size = u32::MAX;
    let scheduled = Scheduled { due, id, size, attempts: 1, first_attempt: Age(0), lane };
    let name = Mark::Name(ConnectionId(0), "crm".to_owned());
    let files = [log(&[name, Mark::Scheduled(scheduled)], None), segment(FIRST_HOT, 0)];
    let disk = MemoryDisk::with_files(files);
    let mut found = Found::default();
    deliver_all(&mut open(&disk).unwrap(), &mut found, 0);
    assert_eq!((found.unreadable, found.acknowledged), (1, 0));
    assert!(disk.largest_read() <= 1 << 20, "{} bytes at once", disk.largest_read());
}
