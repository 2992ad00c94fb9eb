//! Moving survivors while the egress is slow, and what a failing disk leaves behind.

use super::model_disk::{Failure, Fault, ModelDisk};
use super::*;
use crate::store::state::State;

/// A window of first attempts is out, from the first segment; a later segment becomes sparse and is moved before it.
#[test]
fn what_is_out_is_not_handed_out_again_when_a_later_segment_is_moved() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    let (slow, fast) = (rig.connection("slow"), rig.connection("fast"));
    let mut held = Vec::new();
    let mut take = |rig: &mut Rig| {
        for delivery in rig.due() {
            match delivery.id.connection == slow.0 {
                true => held.push(delivery),
                false => rig.settle(&delivery, Disposition::Delivered),
            }
        }
    };
    for number in 0..WINDOW_NEW + 10 {
        rig.append(format!("slow {number}").as_bytes(), std::slice::from_ref(&slow)).unwrap();
        take(&mut rig);
        // The last ten lie in a segment of their own, among many others.
        let others = if number == WINDOW_NEW - 1 {
            80
        } else if number >= WINDOW_NEW {
            9
        } else {
            0
        };
        for _ in 0..others {
            rig.append(&[7; 15_000], std::slice::from_ref(&fast)).unwrap();
            take(&mut rig);
        }
    }
    for _ in 0..200 {
        rig.append(&[7; 15_000], std::slice::from_ref(&fast)).unwrap();
        take(&mut rig);
    }
    for _ in 0..40 {
        rig.pass(Duration::from_secs(1));
        take(&mut rig);
    }
    rig.append(b"the last one", std::slice::from_ref(&slow)).unwrap();
    assert_eq!(held.len(), WINDOW_NEW);
    let mut bodies = Vec::new();
    while !held.is_empty() {
        // A few at a time, so that there is room for a few.
        for delivery in held.drain(..held.len().min(7)) {
            bodies.push(rig.load(&delivery).content.body().to_vec());
            rig.settle(&delivery, Disposition::Delivered);
        }
        held.extend(rig.due());
    }
    let mut expected: Vec<_> =
        (0..WINDOW_NEW + 10).map(|number| format!("slow {number}").into_bytes()).collect();
    expected.push(b"the last one".to_vec());
    assert_eq!(bodies, expected);
}

/// A disk that fails must not keep the writer busy.
#[test]
fn a_look_for_sparse_segments_that_must_wait_is_no_busy_loop() {
    let (_, clock) = start();
    let disk = ModelDisk::new(1);
    let mut rig = Rig::open_on(Arc::new(disk.clone()), &clock, options(1));
    let crm = rig.connection("crm");
    for _ in 0..150 {
        rig.append(&[7; 15_000], std::slice::from_ref(&crm)).unwrap();
    }
    for delivery in rig.due() {
        rig.settle(&delivery, Disposition::Delivered);
        rig.writer.turn();
    }
    disk.set_fault(Some(Fault { kind: None, after: 0, failure: Failure::Io, for_good: true }));
    assert!(rig.append(b"x", std::slice::from_ref(&crm)).is_err());
    rig.pass(Duration::from_secs(7));
    let wakes: Vec<_> = (0..10).map(|_| rig.writer.turn().after).collect();
    assert!(wakes.iter().any(|wake| wake.is_none_or(|wake| !wake.is_zero())), "{wakes:?}");
}

#[test]
fn a_snapshot_that_does_not_fit_leaves_nothing_behind() {
    let disk = ModelDisk::new(1);
    disk.set_free(16);
    let written =
        crate::store::log::write_snapshot(&disk, &State::default(), 7, 1, TimeStamp::default());
    assert!(written.is_err());
    assert_eq!(disk.files().keys().collect::<Vec<_>>(), Vec::<&String>::new());
}
