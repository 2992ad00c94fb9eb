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
