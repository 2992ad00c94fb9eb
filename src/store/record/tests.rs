//! Headers, records and events read back, and damage is seen.

use proptest::prelude::*;

use super::*;
use crate::event::ContentBuilder;

const HEADER: FileHeader =
    FileHeader { kind: FileKind::Segment, number: 7, nonce: 0x1234_5678_9abc_def0, created_ms: 1 };
const STAMP: Stamp = Stamp { durable_upto: 64, commit: 3 };

#[test]
fn header_reads_back_and_damage_is_told_from_another_version() {
    let bytes = HEADER.encode();
    assert_eq!(FileHeader::decode(&bytes, FileKind::Segment), Ok(HEADER));
    assert_eq!(FileHeader::decode(&bytes, FileKind::StateLog), Err(HeaderError::Damaged));
    for at in 0..bytes.len() {
        let mut bad = bytes;
        bad[at] ^= 1;
        assert_eq!(
            FileHeader::decode(&bad, FileKind::Segment),
            Err(HeaderError::Damaged),
            "byte {at}"
        );
    }
    let mut newer = bytes;
    newer[8] = 9;
    let crc = crc32c::crc32c(&newer[..60]);
    newer[60..].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(FileHeader::decode(&newer, FileKind::Segment), Err(HeaderError::UnknownVersion(9)));
}

fn event(body: &[u8]) -> Event {
    let mut content = ContentBuilder::new("default", "t", "", body.len());
    content.body(body);
    let id = EventId::new(1_700_000_000_000, &mut fastrand::Rng::with_seed(1));
    Event { id, accepted_ms: id.unix_ms(), accepted_age: Age(99), content: content.finish() }
}

fn encoded(body: &[u8], frame: Frame, routes: &[RecordedRoute]) -> Vec<u8> {
    let mut out = Vec::new();
    let event = event(body);
    let length = encode_record(&mut out, HEADER.seed(), frame.kind(), STAMP, |out| {
        encode_event(out, &event, frame, routes.iter().copied());
    });
    assert_eq!(length, out.len());
    out
}

#[test]
fn every_flipped_bit_is_seen() {
    let routes =
        [RecordedRoute { connection: ConnectionId(300), slot: 5, dead: None, delay_ms: 0 }];
    let whole = encoded(b"hello", Frame { mark: 9, number: 1, count: 2 }, &routes);
    let body_end = RECORD_HEADER + u32_at(&whole, 0).unwrap() as usize;
    for bit in 0..body_end * 8 {
        let mut bad = whole.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(decode_record(&bad, HEADER.seed()), None, "bit {bit}");
    }
    let other = FileHeader { nonce: 1, ..HEADER };
    assert_eq!(decode_record(&whole, other.seed()), None, "a record of the file's former life");
}

proptest! {
    #[test]
    fn events_read_back(
        body in proptest::collection::vec(any::<u8>(), 0..300),
        routes in proptest::collection::vec((any::<u32>(), any::<u32>(), 0u8..28, any::<u64>()), 0..20),
        (mark, number, count) in (any::<u32>(), any::<u32>(), prop_oneof![Just(1u32), any::<u32>()]),
    ) {
        let routes: Vec<_> = routes.into_iter().map(|(connection, slot, cause, delay)| RecordedRoute {
            connection: ConnectionId(connection), slot, dead: Cause::from_number(cause),
            delay_ms: if cause == 0 { delay } else { 0 },
        }).collect();
        let frame = Frame { mark, number, count };
        let bytes = encoded(&body, frame, &routes);
        let record = decode_record(&bytes, HEADER.seed()).unwrap();
        let head = decode_event_head(record.kind, record.body).unwrap();
        prop_assert_eq!(head.frame, if count > 1 { frame } else { Frame::ALONE });
        prop_assert_eq!(bytes.len() % 8, 0);
        prop_assert_eq!(peek_length(&bytes, HEADER.seed()), Some(bytes.len()));
        let (back, back_routes) = decode_event(Bytes::from(bytes), HEADER.seed()).unwrap();
        prop_assert_eq!(back, event(&body));
        prop_assert_eq!(back_routes, routes);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode_record(&bytes, HEADER.seed());
        let _ = decode_event_head(KIND_EVENT, &bytes);
        let _ = decode_event_head(KIND_FRAMED, &bytes);
        let _ = decode_name(&bytes);
    }

    #[test]
    fn varints_read_back(value in any::<u64>()) {
        let mut out = Vec::new();
        put_varint(&mut out, value);
        let mut reader = Reader::new(&out);
        prop_assert_eq!(reader.varint(), Some(value));
        prop_assert!(reader.is_empty());
    }
}
