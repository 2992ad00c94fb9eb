//! Dead letters end by age and by the cap, and in no other way but purge and replay.

use super::*;

const DAY: Duration = Duration::from_secs(86_400);

fn keep(age: Duration, bytes: u64) -> Options {
    let keep = Keep { dead: Limit { age, bytes }, ..KEEP };
    Options { keep, ..options(1) }
}

/// Posts `count` events that are dead from the start, and lets an hour pass after each.
fn kill(rig: &mut Rig, to: &(ConnectionId, Arc<QueueCounters>), count: usize, size: usize) {
    for _ in 0..count {
        let to = std::slice::from_ref(to);
        rig.append_with(&vec![b'x'; size], to, Fate::Dead(Cause::QueueFull)).unwrap();
        rig.pass(Duration::from_secs(3600));
    }
}

#[test]
fn a_dead_letter_ends_when_it_was_kept_long_enough_also_over_restarts() {
    let (directory, clock) = start();
    let mut rig = Rig::open_with(directory.path(), &clock, keep(2 * DAY, MIB));
    let crm = rig.connection("crm");
    kill(&mut rig, &crm, 24, 100);
    assert_eq!(rig.dead(crm.0).total, 24);
    rig.pass(DAY - Duration::from_secs(1));
    assert_eq!(rig.dead(crm.0).total, 24);
    rig.stop();

    let mut rig = Rig::open_with(directory.path(), &clock, keep(2 * DAY, MIB));
    let crm = rig.connection("crm");
    assert_eq!(rig.dead(crm.0).total, 24);
    // The first one died two days ago. No step of the wall clock changes anything.
    clock.step_wall(0);
    rig.pass(Duration::from_secs(60));
    assert_eq!(rig.dead(crm.0).total, 23);
    rig.pass(Duration::from_secs(22 * 3600));
    assert_eq!(rig.dead(crm.0).total, 1);
    assert_eq!(crm.1.dead.load(Ordering::Relaxed), 1);
    rig.pass(Duration::from_secs(3700));
    assert_eq!(rig.dead(crm.0).total, 0);
    rig.pass(Duration::from_secs(2));
    drop(rig);
    let mut rig = Rig::open_with(directory.path(), &clock, keep(2 * DAY, MIB));
    let crm = rig.connection("crm");
    assert_eq!((rig.dead(crm.0).total, rig.due().len()), (0, 0));
}

#[test]
fn past_the_cap_the_oldest_of_the_largest_connection_go_first() {
    let (directory, clock) = start();
    let mut rig = Rig::open_with(directory.path(), &clock, keep(14 * DAY, 20_000));
    let (small, large) = (rig.connection("small"), rig.connection("large"));
    kill(&mut rig, &small, 5, 1000);
    kill(&mut rig, &large, 12, 1000);
    assert_eq!((rig.dead(small.0).total, rig.dead(large.0).total), (5, 12));
    let before = rig.dead(large.0).letters;
    kill(&mut rig, &small, 6, 1000);
    let (kept, after) = (rig.dead(small.0).total, rig.dead(large.0).letters);
    let gone = before.len() - after.len();
    assert!(gone >= 2 && kept + after.len() as u64 == 18, "{gone} {kept}");
    assert_eq!(after, before[gone..], "the oldest went");
    // A smaller cap takes effect at once.
    let keep = Keep { dead: Limit { age: 14 * DAY, bytes: 3000 }, ..KEEP };
    rig.ends.commands.send(Command::SetKeep(keep)).unwrap();
    rig.writer.turn();
    assert_eq!(rig.dead(small.0).total + rig.dead(large.0).total, 2);
}

#[test]
fn thousands_of_dead_and_scheduled_take_no_memory_and_survive() {
    let (directory, clock) = start();
    let mut rig = Rig::open_with(directory.path(), &clock, keep(14 * DAY, MIB));
    let crm = rig.connection("crm");
    for number in 0..600u32 {
        rig.append(&number.to_le_bytes(), std::slice::from_ref(&crm)).unwrap();
        for delivery in rig.due() {
            let disposition = match number % 2 {
                0 => Disposition::RetryAfter(DAY + Duration::from_secs(u64::from(600 - number))),
                _ => Disposition::Dead { cause: Cause::HttpStatus, status: 400 },
            };
            rig.settle(&delivery, disposition);
        }
        rig.pass(Duration::from_millis(1));
    }
    let in_memory = |rig: &Rig| {
        rig.writer.state.schedule.in_memory().count() + rig.writer.state.dead.in_memory().count()
    };
    assert!(in_memory(&rig) <= 8);
    rig.pass(Duration::from_secs(2));
    drop(rig);

    let mut rig = Rig::open_with(directory.path(), &clock, keep(14 * DAY, MIB));
    let crm = rig.connection("crm");
    assert!(in_memory(&rig) <= 8);
    assert_eq!((rig.dead(crm.0).total, crm.1.scheduled.load(Ordering::Relaxed)), (300, 300));
    rig.pass(DAY + Duration::from_secs(700));
    assert_eq!(crm.1.scheduled.load(Ordering::Relaxed), 0);
    let late: Vec<_> = rig.deliver_all().iter().map(|body| body[0]).collect();
    assert_eq!(late.len(), 300);
    // The last ones were due first.
    assert_eq!(late[..3], [598u32, 596, 594].map(|number| number.to_le_bytes()[0]));
    let letters = rig.dead(crm.0).letters;
    let answer = rig.ask(|reply| Command::Replay { letters, reply });
    assert_eq!((answer.0.len(), answer.1), (300, Ok(())));
    assert_eq!(rig.deliver_all().len(), 300);
    rig.pass(Duration::from_secs(2));
    rig.stop();
    let runs = std::fs::read_dir(directory.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("ru-"));
    assert_eq!(runs.count(), 0, "runs that are used up are removed");
}
