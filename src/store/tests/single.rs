//! Single deliveries, cancelled or tried at once, in each of the places where they can be.

use super::*;

impl Rig {
    fn found(&self, id: DeliveryId, size: u32) -> FoundDelivery {
        FoundDelivery { id, size, standing: Standing::Live }
    }

    fn cancel(&mut self, delivery: &Delivery) -> Acted {
        let delivery = self.found(delivery.id, delivery.size);
        let (acted, durable) = self.ask(|reply| Command::Cancel { delivery, reply });
        assert_eq!(durable, Ok(()));
        acted
    }

    fn retry_now(&mut self, delivery: &Delivery) -> Acted {
        let delivery = self.found(delivery.id, delivery.size);
        let (acted, durable) = self.ask(|reply| Command::RetryNow { delivery, reply });
        assert_eq!(durable, Ok(()));
        acted
    }
}

#[test]
fn what_waits_is_cancelled_and_what_is_out_is_not() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    let crm = rig.connection("crm");
    for body in [b"a", b"b", b"c", b"d"] {
        rig.append(body, std::slice::from_ref(&crm)).unwrap();
    }
    let due = rig.due();
    assert_eq!(due.len(), 4);
    assert_eq!(rig.cancel(&due[0]), Acted::HandedOut);
    rig.settle(&due[0], Disposition::Delivered);
    rig.settle(&due[1], Disposition::RetryAfter(Duration::from_secs(60)));
    rig.ends.commands.send(Command::Detach { connection: crm.0 }).unwrap();
    rig.writer.turn();
    // Given back before it is asked for, and seen by it.
    rig.ends.feeds[0].release(due[2].clone());
    rig.ends.feeds[0].release(due[3].clone());
    assert_eq!(rig.cancel(&due[0]), Acted::NotLive);
    assert_eq!(rig.cancel(&due[1]), Acted::Done);
    assert_eq!(rig.cancel(&due[2]), Acted::Done);
    assert_eq!(rig.cancel(&due[2]), Acted::NotLive);
    // One that was never handed out.
    rig.append(b"e", std::slice::from_ref(&crm)).unwrap();
    let last = Delivery {
        id: DeliveryId { slot: 4, offset: due[3].id.offset + due[3].size.div_ceil(8), ..due[3].id },
        ..due[3].clone()
    };
    assert_eq!(rig.cancel(&last), Acted::Done);
    assert_eq!(crm.1.live.load(Ordering::Relaxed), 1);
    // From the log, then from the snapshot.
    for _ in 0..2 {
        let letters = rig.dead(crm.0).letters;
        let mut died: Vec<_> =
            letters.iter().map(|dead| (dead.id.slot, dead.cause, dead.attempts)).collect();
        died.sort_unstable_by_key(|(slot, ..)| *slot);
        let cause = Cause::Cancelled;
        assert_eq!(died, [(1, cause, 1), (2, cause, 0), (4, cause, 0)]);
        drop(rig);
        rig = Rig::open(directory.path(), &clock);
    }
    rig.connection("crm");
    clock.advance(Duration::from_secs(120));
    assert_eq!(rig.deliver_all(), [b"d".to_vec()]);
}

#[test]
fn a_wait_ends_when_it_is_asked_for() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    let crm = rig.connection("crm");
    for number in 0..20u8 {
        rig.append(&[number], std::slice::from_ref(&crm)).unwrap();
    }
    let due = rig.due();
    for (hours, delivery) in (1..).zip(&due) {
        rig.settle(delivery, Disposition::RetryAfter(Duration::from_secs(3600 * hours)));
        rig.writer.turn();
    }
    assert!(rig.writer.state.schedule.file_bytes() > 0, "some are in files");
    for delivery in [&due[19], &due[0], &due[11]] {
        assert_eq!(rig.retry_now(delivery), Acted::Done);
    }
    let first = rig.due();
    let mut slots: Vec<_> = first.iter().map(|one| (one.id.slot, one.attempts)).collect();
    slots.sort_unstable();
    assert_eq!(slots, [(0, 1), (11, 1), (19, 1)]);
    assert_eq!(rig.retry_now(&due[0]), Acted::HandedOut);
    rig.settle(&first[0], Disposition::Delivered);
    rig.writer.turn();
    assert_eq!(rig.retry_now(&first[0]), Acted::NotLive);
    // What was asked for outlives a crash.
    rig.ends.commands.send(Command::Detach { connection: crm.0 }).unwrap();
    rig.writer.turn();
    assert_eq!(rig.retry_now(&due[5]), Acted::Done);
    assert_eq!(rig.retry_now(&due[5]), Acted::Waits);
    drop(rig);
    let mut rig = Rig::open(directory.path(), &clock);
    rig.connection("crm");
    let mut slots: Vec<_> = rig.due().iter().map(|one| one.id.slot).collect();
    slots.sort_unstable();
    let mut expected: Vec<_> = first[1..].iter().map(|one| one.id.slot).chain([5]).collect();
    expected.sort_unstable();
    assert_eq!(slots, expected);
}
