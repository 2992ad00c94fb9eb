use proptest::prelude::*;

use super::*;
use crate::store::disk::OsDisk;
use crate::store::file::segment_name;

/// A segment without records, for an index to lie beside.
fn segment(disk: &OsDisk) -> StoreFile {
    let file = disk.create(&segment_name(3)).unwrap();
    StoreFile::start(file, new_header(FileKind::Segment, 3, 77, 0)).unwrap()
}

fn entry(record: usize) -> Entry {
    let record = u32::try_from(record).unwrap();
    Entry { offset: 8 + record * 16, size: 40 + record % 90 }
}

#[test]
fn an_index_reads_back_and_any_damage_makes_it_void() {
    let directory = tempfile::tempdir().unwrap();
    let disk = OsDisk::open(directory.path()).unwrap();
    let segment = segment(&disk);
    let mut index =
        SegmentIndex { end: 4096, events: 2, times: Some((5, 9)), ..SegmentIndex::default() };
    index.names.insert(ConnectionId(4), "crm".to_owned());
    index.note_record(entry(0));
    index.note_record(entry(1));
    index.note_slot(ConnectionId(4), 2);
    index.born_dead.push((ConnectionId(4), 1, Cause::QueueFull));
    let key = crate::store::keys::key_for_tests;
    index.keys = (0..3).map(|number| key(number, number)).collect();
    let written = index.write(&disk, &segment).unwrap();
    let (file, back) = SegmentIndex::read(&disk, &segment).unwrap();
    assert_eq!(back, index);
    assert_eq!(written, file.file.file.length().unwrap());
    assert_eq!(SegmentIndex::read_keys(&file.file), Some(index.keys.clone()));
    let entries = file.entries(ConnectionId(4), 1, 9).unwrap();
    assert_eq!(entries, [Entry::default(), entry(1)]);

    let path = directory.path().join(index_name(3));
    let whole = std::fs::read(&path).unwrap();
    // Padding and the unused part of the header are not covered: flipping them changes nothing.
    let mut void = 0;
    for at in 0..whole.len() {
        let mut bad = whole.clone();
        bad[at] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        match SegmentIndex::read(&disk, &segment) {
            None => void += 1,
            Some((_, read)) => assert_eq!(read, index, "byte {at}"),
        }
    }
    assert!(void > whole.len() / 2);
    for length in 0..whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        assert!(SegmentIndex::read(&disk, &segment).is_none(), "cut at {length}");
    }
}

/// An index as an older version wrote it: an entry per delivery.
#[test]
fn an_index_of_the_older_layout_is_void() {
    let directory = tempfile::tempdir().unwrap();
    let disk = OsDisk::open(directory.path()).unwrap();
    let segment = segment(&disk);
    let header = new_header(FileKind::Index, 3, 77, 0);
    let mut bytes = header.encode().to_vec();
    let stamp = Stamp { durable_upto: 0, commit: 0 };
    for (kind, length) in [(KIND_NAMES, 0), (49, 12), (50, 32)] {
        let body = |out: &mut Vec<u8>| out.resize(out.len() + length, 0);
        encode_record(&mut bytes, header.seed(), kind, stamp, body);
    }
    disk.create(&index_name(3)).unwrap().write_all_at(&bytes, 0).unwrap();
    assert!(StoreFile::open(&disk, &index_name(3), FileKind::Index).is_ok());
    assert!(SegmentIndex::read(&disk, &segment).is_none());
}

/// What one connection gets of the events.
#[derive(Clone, Copy, Debug)]
enum Share {
    All,
    Each(usize),
    /// Of a hundred, in no order.
    Percent(u8),
    /// Long runs, and nothing between them.
    Runs(usize),
}

impl Share {
    fn has(self, record: usize, rng: &mut fastrand::Rng) -> bool {
        match self {
            Share::All => true,
            Share::Each(nth) => record.is_multiple_of(nth),
            Share::Percent(percent) => rng.u8(..100) < percent,
            Share::Runs(length) => (record / length).is_multiple_of(2),
        }
    }
}

fn any_share() -> impl Strategy<Value = Share> {
    prop_oneof![
        2 => Just(Share::All),
        1 => (1usize..2000).prop_map(Share::Each),
        1 => (1usize..5).prop_map(Share::Each),
        3 => (0u8..101).prop_map(Share::Percent),
        1 => (1usize..3000).prop_map(Share::Runs),
    ]
}

/// An index of `records` events of which some did not validate, and beside it the same as plain lists.
fn build(
    records: usize,
    lost_percent: u8,
    shares: &[Share],
    rng: &mut fastrand::Rng,
) -> (SegmentIndex, Vec<Vec<Entry>>) {
    let mut index = SegmentIndex::default();
    let mut lists = vec![Vec::new(); shares.len()];
    let mut taken = vec![0; shares.len()];
    for record in 0..records {
        let lost = rng.u8(..100) < lost_percent;
        if !lost {
            index.note_record(entry(record));
        }
        for (connection, share) in shares.iter().enumerate() {
            if !share.has(record, rng) {
                continue;
            }
            let slot = taken[connection];
            taken[connection] += 1;
            if !lost {
                index.note_slot(ConnectionId(u32::try_from(connection).unwrap()), slot);
                lists[connection].resize(slot as usize, Entry::default());
                lists[connection].push(entry(record));
            }
        }
    }
    (index, lists)
}

/// Compares one window with the plain list.
fn check_window(
    index: &SegmentIndex,
    file: &IndexFile,
    nth: usize,
    list: &[Entry],
    window: (u32, u32),
) {
    let connection = ConnectionId(u32::try_from(nth).unwrap());
    let expected: Vec<_> =
        list.iter().skip(window.0 as usize).take(window.1 as usize).copied().collect();
    let in_memory: Vec<_> = index.entries(connection, window.0, window.1).collect();
    assert_eq!(in_memory, expected, "in memory, {connection:?} {window:?}");
    let in_file = file.entries(connection, window.0, window.1).unwrap();
    assert_eq!(in_file, expected, "in the file, {connection:?} {window:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn an_index_says_what_plain_lists_say(
        records in 0usize..8000,
        lost_percent in prop_oneof![3 => Just(0u8), 1 => 0u8..10, 1 => 50u8..101],
        shares in proptest::collection::vec(any_share(), 1..6),
        seed in any::<u64>(),
    ) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (mut index, lists) = build(records, lost_percent, &shares, &mut rng);
        index.times = Some((0, 0));
        let directory = tempfile::tempdir().unwrap();
        let disk = OsDisk::open(directory.path()).unwrap();
        let segment = segment(&disk);
        index.write(&disk, &segment).unwrap();
        let (file, back) = SegmentIndex::read(&disk, &segment).unwrap();
        prop_assert_eq!(&back, &index);
        for (nth, list) in lists.iter().enumerate() {
            let connection = ConnectionId(u32::try_from(nth).unwrap());
            prop_assert_eq!(index.slots(connection) as usize, list.len());
            prop_assert_eq!(&index.all_entries(connection).collect::<Vec<_>>(), list);
            check_window(&index, &file, nth, list, (0, u32::MAX));
            for _ in 0..20 {
                let window = (rng.u32(..8000), [0, 1, 7, 320, 4096][rng.usize(..5)]);
                check_window(&index, &file, nth, list, window);
            }
        }
    }

    #[test]
    fn arbitrary_tokens_never_panic_and_what_is_taken_is_read_as_written(
        tokens in proptest::collection::vec(any::<u8>(), 0..40),
        records in 0usize..1000,
    ) {
        if let Some(slots) = Slots::decode(&tokens, records) {
            let mut again = Vec::new();
            slots.encode(&mut again);
            prop_assert_eq!(again, tokens);
            let past = |piece: Piece| piece.record.is_some_and(|r| (r + piece.count) as usize > records);
            prop_assert!(!slots.pieces().any(past));
        }
    }
}

/// What each kind of share costs in the file, per slot.
#[test]
fn an_index_is_small() {
    let records = 100_000;
    let cost = |share| {
        let mut rng = fastrand::Rng::with_seed(1);
        let (index, lists) = build(records, 0, &[share], &mut rng);
        let mut tokens = Vec::new();
        index.slots[&ConnectionId(0)].encode(&mut tokens);
        tokens.len() as f64 / lists[0].len() as f64
    };
    assert!(cost(Share::All) < 0.0001);
    assert!(cost(Share::Runs(1000)) < 0.01);
    assert!(cost(Share::Each(3)) <= 1.0);
    assert!(cost(Share::Percent(50)) <= 1.0);
    assert!(cost(Share::Percent(1)) <= 2.0);
}

#[test]
fn slots_that_no_store_writes_are_left_out() {
    let mut slots = Slots::default();
    let mut push = |slot, record| {
        slots.push(Piece { slot, count: 1, record: Some(record) });
        slots.len()
    };
    assert_eq!(push(5, 3), 6);
    assert_eq!(push(5, 4), 6, "the slot again");
    assert_eq!(push(6, 3), 6, "the record again");
    assert_eq!(push(u32::MAX, 4), 6, "beyond the largest segment");
    assert_eq!(push(6, 4), 7);
}
