//! Where a delivery is, in each of the places where it can be.

use super::*;

impl Rig {
    fn whereabouts(&mut self, id: DeliveryId) -> Whereabouts {
        self.ask(|reply| Command::Whereabouts { id, reply })
    }
}

#[test]
fn a_delivery_is_found_in_each_of_its_places() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    let crm = rig.connection("crm");
    rig.append(b"a", std::slice::from_ref(&crm)).unwrap();
    let due = rig.due();
    let id = due[0].id;
    assert_eq!(rig.whereabouts(id), Whereabouts::HandedOut { attempts: 0 });

    rig.settle(&due[0], Disposition::RetryAfter(Duration::from_secs(5)));
    let scheduled = Whereabouts::Scheduled {
        due: clock.age().after(Duration::from_secs(5)),
        attempts: 1,
        lane: Lane::Retry,
    };
    rig.writer.turn();
    assert_eq!(rig.whereabouts(id), scheduled);
    clock.advance(Duration::from_secs(5));
    let due = rig.due();
    assert_eq!(rig.whereabouts(id), Whereabouts::HandedOut { attempts: 1 });

    rig.settle(&due[0], Disposition::Dead { cause: Cause::HttpStatus, status: 400 });
    rig.writer.turn();
    let Whereabouts::Dead(letter) = rig.whereabouts(id) else { panic!("it is dead") };
    assert_eq!((letter.cause, letter.status, letter.attempts), (Cause::HttpStatus, 400, 2));

    let (replayed, durable) = rig.ask(|reply| Command::Replay { letters: vec![letter], reply });
    assert_eq!((replayed, durable), (vec![id], Ok(())));
    let due = rig.due();
    rig.settle(&due[0], Disposition::Delivered);
    rig.writer.turn();
    assert_eq!(rig.whereabouts(id), Whereabouts::Over);
}

#[test]
fn one_behind_the_window_or_given_back_waits() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    let crm = rig.connection("crm");
    rig.append(b"first", std::slice::from_ref(&crm)).unwrap();
    let first = rig.due().remove(0);
    rig.ask(|reply| Command::Status { reply });
    rig.ends.commands.send(Command::Detach { connection: crm.0 }).unwrap();
    rig.append(b"second", std::slice::from_ref(&crm)).unwrap();
    let second = DeliveryId { slot: first.id.slot + 1, ..first.id };
    assert_eq!(rig.whereabouts(first.id), Whereabouts::HandedOut { attempts: 0 });
    assert_eq!(rig.whereabouts(second), Whereabouts::Waiting);
    rig.ends.feeds[0].release(first.clone());
    rig.writer.turn();
    assert_eq!(rig.whereabouts(first.id), Whereabouts::Waiting);
    let delayed = Duration::from_secs(60);
    rig.append_delayed(b"third", &[crm], Fate::Queued, delayed).unwrap();
    let third = DeliveryId { slot: first.id.slot + 2, ..first.id };
    let Whereabouts::Scheduled { due, attempts: 0, lane: Lane::New } = rig.whereabouts(third)
    else {
        panic!("it has a delay: {:?}", rig.whereabouts(third))
    };
    assert_eq!(due, clock.age().after(delayed));
}

/// All of a connection's list, asked for in as many parts as it takes.
fn listed(rig: &mut Rig, connection: ConnectionId, over: bool) -> Vec<(DeliveryId, Whereabouts)> {
    let (mut found, mut before) = (Vec::new(), None);
    loop {
        let page = rig.ask(|reply| Command::Deliveries { connection, before, over, reply });
        found.extend(page.deliveries.iter().map(|one| (one.id, one.whereabouts)));
        before = page.next;
        if before.is_none() {
            return found;
        }
    }
}

#[test]
fn a_list_has_each_delivery_once_where_it_is_in_as_many_parts_as_it_takes() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    let crm = rig.connection("crm");
    let other = rig.connection("other");
    for _ in 0..4 {
        rig.append(b"to both", &[crm.clone(), other.clone()]).unwrap();
    }
    let due = rig.due();
    let of_crm: Vec<_> = due.into_iter().filter(|one| one.id.connection == crm.0).collect();
    rig.settle(&of_crm[0], Disposition::Delivered);
    rig.settle(&of_crm[1], Disposition::Dead { cause: Cause::HttpStatus, status: 400 });
    rig.settle(&of_crm[2], Disposition::RetryAfter(Duration::from_secs(5)));
    rig.writer.turn();
    let live = listed(&mut rig, crm.0, false);
    let ids: Vec<DeliveryId> = live.iter().map(|(id, _)| *id).collect();
    assert_eq!(
        ids,
        [3, 2, 1].map(|nth: usize| of_crm[nth].id),
        "newest first, without what is over"
    );
    assert_eq!(live[0].1, Whereabouts::HandedOut { attempts: 0 });
    assert!(matches!(live[1].1, Whereabouts::Scheduled { attempts: 1, .. }), "{live:?}");
    assert!(matches!(live[2].1, Whereabouts::Dead(letter) if letter.status == 400), "{live:?}");
    assert_eq!(listed(&mut rig, crm.0, true).len(), 4);
    for _ in 0..600 {
        rig.append(b"more", std::slice::from_ref(&crm)).unwrap();
    }
    let all = listed(&mut rig, crm.0, true);
    assert_eq!(all.len(), 604);
    assert!(all.windows(2).all(|two| {
        let [newer, older] = [two[0].0, two[1].0].map(|id| (id.segment, id.slot));
        newer > older
    }));
    for (id, whereabouts) in all {
        assert_eq!(rig.whereabouts(id), whereabouts, "{id:?}");
    }
}
