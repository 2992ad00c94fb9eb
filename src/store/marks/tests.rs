//! Marks read back, are small, and no bytes make their reader panic.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::schedule;
use super::*;

fn any_segment() -> impl Strategy<Value = u32> {
    prop_oneof![any::<u32>(), 0u32..3, FIRST_HOT..FIRST_HOT + 3]
}

fn any_id() -> impl Strategy<Value = DeliveryId> {
    (any::<u32>(), any_segment(), any::<u32>(), any::<u32>()).prop_map(
        |(connection, segment, slot, offset)| DeliveryId {
            connection: ConnectionId(connection),
            segment,
            slot,
            offset,
        },
    )
}

fn any_run() -> impl Strategy<Value = Run> {
    (any_id(), 1u32..50, 0..MAX_SLOTS - 50)
        .prop_map(|(id, count, slot)| Run { first: Place { slot, ..Place::from(id) }, count })
}

fn any_mark() -> impl Strategy<Value = Mark> {
    prop_oneof![
        any_run().prop_map(Mark::Delivered),
        any_id().prop_map(|id| Mark::Discarded(id.into())),
        (any::<u32>(), proptest::option::of((1u8..5, any::<u64>(), any::<u64>()))).prop_map(
            |(id, suspended)| {
                let suspended = suspended.map(|(kind, at_ms, settings)| {
                    let kind = suspension::SuspensionKind::from_number(kind).unwrap();
                    Suspension { kind, at_ms, settings }
                });
                Mark::Suspended(ConnectionId(id), suspended)
            }
        ),
        (any_id(), any_id()).prop_map(|(from, to)| Mark::Moved { from: from.into(), to }),
        (any_id(), any::<u64>(), any::<u32>(), 0..schedule::LANES.len()).prop_map(
            |(id, age, count, lane)| {
                Mark::Scheduled(Scheduled {
                    id,
                    due: Age(age),
                    size: count,
                    attempts: count,
                    first_attempt: Age(age / 2),
                    lane: schedule::LANES[lane],
                })
            }
        ),
        (any_id(), 1u8..28, any::<u16>(), any::<u64>()).prop_map(|(id, cause, status, died_ms)| {
            let cause = Cause::from_number(cause).unwrap();
            Mark::Dead(DeadLetter {
                id,
                size: 9,
                cause,
                status,
                attempts: 3,
                died_ms,
                died: Age(died_ms / 3),
            })
        }),
        (any::<u32>(), ".{0,20}").prop_map(|(id, name)| Mark::Name(ConnectionId(id), name)),
        (any::<u32>(), ".{0,20}").prop_map(|(id, name)| Mark::Renamed(ConnectionId(id), name)),
        (any::<u32>(), any::<u64>()).prop_map(|(segment, end)| Mark::Sealed { segment, end }),
    ]
}

proptest! {
    #[test]
    fn marks_read_back(marks in proptest::collection::vec(any_mark(), 0..20)) {
        let mut out = Vec::new();
        for mark in &marks {
            encode_mark(&mut out, mark);
        }
        prop_assert_eq!(Marks::new(Reader::new(&out)).collect::<Vec<_>>(), marks);
    }

    #[test]
    fn delivered_places_read_back(
        places in proptest::collection::vec((any_segment(), 0u32..3, 0u32..200), 0..300),
        marks in proptest::collection::vec(any_mark(), 0..3),
    ) {
        let place = |(segment, connection, slot)| Place {
            segment,
            connection: ConnectionId(connection),
            slot,
        };
        let mut list: Vec<Place> = places.into_iter().map(place).collect();
        let expected: BTreeSet<Place> = list.iter().copied().collect();
        let mut out = Vec::new();
        encode_delivered(&mut out, &mut list);
        marks.iter().for_each(|mark| encode_mark(&mut out, mark));
        prop_assert!(list.is_empty());
        let mut back = Vec::new();
        let mut read = Marks::new(Reader::new(&out));
        while back.len() < expected.len()
            && let Some(Mark::Delivered(run)) = read.next()
        {
            back.extend(run.places());
        }
        prop_assert_eq!(back, expected.into_iter().collect::<Vec<_>>());
        prop_assert_eq!(read.collect::<Vec<_>>(), marks);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut reader = Reader::new(&bytes);
        let _ = decode_stamp(&mut reader);
        let bounded = |mark| match mark {
            Mark::Delivered(run) => run.first.slot + run.count <= MAX_SLOTS,
            _ => true,
        };
        prop_assert!(Marks::new(reader).all(bounded));
        let mut delivered = vec![9];
        delivered.extend_from_slice(&bytes);
        prop_assert!(Marks::new(Reader::new(&delivered)).all(bounded));
    }
}

/// What a connection under load leaves to be marked at once: hardly more than a byte for each.
#[test]
fn marks_of_delivered_ones_are_small() {
    let size = |slots: &mut dyn Iterator<Item = u32>| {
        let place = |slot| Place { segment: FIRST_HOT + 100, connection: ConnectionId(7), slot };
        let mut places: Vec<Place> = slots.map(place).collect();
        let mut out = Vec::new();
        encode_delivered(&mut out, &mut places);
        out.len()
    };
    assert!(size(&mut (60_000..60_020)) <= 9, "in order");
    assert!(size(&mut (60_000..60_200).filter(|slot| slot % 10 != 3)) <= 180 / 3, "nearly");
    assert!(size(&mut (60_000..60_200).step_by(2)) <= 2 * 100 + 9, "each second one");
}

/// Segments and retries' times cost a byte or two.
#[test]
fn marks_of_retries_are_small() {
    let id = DeliveryId {
        connection: ConnectionId(7),
        segment: FIRST_HOT + 50,
        slot: 9000,
        offset: 1 << 20,
    };
    let first_attempt = Age(90 * 24 * 3600 * 1000);
    let due = first_attempt.after(std::time::Duration::from_secs(10));
    let lane = Lane::Retry;
    let retry = Scheduled { id, size: 1100, due, attempts: 1, first_attempt, lane };
    let mut out = Vec::new();
    encode_mark(&mut out, &Mark::Scheduled(retry));
    assert!(out.len() <= 20, "{} bytes", out.len());
}
