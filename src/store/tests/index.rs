//! Segments and their indexes in the store as a whole: when one is sealed, and what reads all of many.

use super::model_disk::{Failure, Fault, Kind, ModelDisk};
use super::*;

/// Tiny events to some of many connections: the index in memory is full long before the file is.
#[test]
fn a_segment_whose_index_is_full_is_sealed_and_its_file_cut() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    rig.writer.index_bytes = 4096;
    let connections: Vec<_> = (0..8).map(|nth| rig.connection(&format!("c{nth}"))).collect();
    rig.ends.commands.send(Command::Detach { connection: connections[0].0 }).unwrap();
    let all = bodies(3000);
    let mut expected = Vec::new();
    for (nth, body) in all.iter().enumerate() {
        let to: Vec<_> = connections.iter().skip(nth % 2).step_by(2).cloned().collect();
        if nth % 2 == 0 {
            expected.push(body.clone());
        }
        rig.append(body, &to).unwrap();
        for delivery in rig.due() {
            rig.settle(&delivery, Disposition::Delivered);
        }
    }
    rig.pass(Duration::from_secs(2));
    let lengths = || {
        let files = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap());
        let segments = files.filter(|f| f.file_name().to_string_lossy().starts_with("ev-"));
        let segments = segments.filter(|f| f.file_name().to_string_lossy().ends_with(".seg"));
        segments.map(|file| file.metadata().unwrap().len()).collect::<Vec<_>>()
    };
    let cut = lengths().into_iter().filter(|length| *length < MIB / 4).count();
    assert!(cut > 5 && lengths().len() == cut + 1, "{:?}", lengths());
    let known = rig.writer.state.segments.values().map(|segment| segment.file_bytes);
    assert_eq!(known.sum::<u64>(), lengths().iter().sum::<u64>());

    drop(rig);
    let mut rig = Rig::open(directory.path(), &clock);
    assert_eq!(rig.ends.corrupt, 0);
    rig.connection("c0");
    assert_eq!(rig.deliver_all(), expected);
    rig.pass(Duration::from_secs(2));
    assert_eq!(lengths(), [MIB], "cut files are removed, not written over again");
}

/// Deliveries in several segments, some over, of a connection that is given up; another one's are left alone. While an
/// index cannot be read, nothing is cancelled.
#[test]
fn discarding_reads_all_indexes_before_it_cancels_anything() {
    let clock = Clock::manual(1_700_000_000_000);
    let disk = ModelDisk::new(1);
    let mut rig = Rig::open_on(Arc::new(disk.clone()), &clock, options(1));
    rig.writer.index_bytes = 40_000;
    let both = [rig.connection("crm"), rig.connection("audit")];
    let (crm, audit) = (both[0].1.clone(), both[1].1.clone());
    for body in bodies(12_000) {
        rig.append(&body, &both).unwrap();
    }
    for delivery in rig.due() {
        rig.settle(&delivery, Disposition::Delivered);
    }
    rig.writer.turn();
    assert!(rig.writer.state.segments.len() > 2);
    let counts = |queue: &QueueCounters| {
        (queue.live.load(Ordering::Relaxed), queue.live_bytes.load(Ordering::Relaxed))
    };
    let (before, of_audit) = (counts(&crm), counts(&audit));
    assert!(before.0 > 10_000 && before.0 < 12_000);

    let id = both[0].0;
    for after in 0..2 {
        let kind = Some(Kind::Read);
        disk.set_fault(Some(Fault { kind, after, failure: Failure::Io, for_good: false }));
        let answer = rig.ask(|reply| Command::Discard { connection: id, reply });
        assert_eq!((answer, counts(&crm)), ((0, Err(DiskTrouble)), before));
    }
    disk.set_fault(None);
    let answer = rig.ask(|reply| Command::Discard { connection: id, reply });
    assert_eq!(answer, (before.0, Ok(())));
    for restarted in [false, true] {
        if restarted {
            drop(rig);
            rig = Rig::open_on(Arc::new(disk.clone()), &clock, options(2));
            assert_eq!(counts(&rig.connection("crm").1), (0, 0));
            assert_eq!(counts(&rig.connection("audit").1), of_audit);
        } else {
            assert_eq!((counts(&crm), counts(&audit)), ((0, 0), of_audit));
        }
    }
}
