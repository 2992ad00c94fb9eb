//! A connection that goes on under another name.

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

fn rename(rig: &mut Rig, old: &str, new: &str) -> Renamed {
    let (old, new) = (old.to_owned(), new.to_owned());
    let (renamed, durable) = rig.ask(|reply| Command::Rename { old, new, reply });
    assert_eq!(durable, Ok(()));
    renamed
}

fn figures(queue: &QueueCounters) -> [u64; 3] {
    [&queue.live, &queue.scheduled, &queue.dead].map(|figure| figure.load(Ordering::Relaxed))
}

/// One that waits, one that was tried, one that waits for its first attempt, and one dead letter.
fn fill(rig: &mut Rig, name: &str) -> ConnectionId {
    let queue = rig.connection(name);
    let to = std::slice::from_ref(&queue);
    rig.append_with(b"dead", to, Fate::Dead(Cause::QueueFull)).unwrap();
    rig.append_delayed(b"delayed", to, Fate::Queued, MINUTE).unwrap();
    rig.append(b"retry", to).unwrap();
    let due = rig.due();
    rig.settle(&due[0], Disposition::RetryAfter(MINUTE));
    rig.pass(Duration::ZERO);
    rig.ends.commands.send(Command::Detach { connection: queue.0 }).unwrap();
    rig.append(b"waits", to).unwrap();
    queue.0
}

#[test]
fn all_that_a_connection_has_goes_on_under_its_new_name_also_after_crashes() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    let id = fill(&mut rig, "old");
    assert_eq!(rename(&mut rig, "old", "new"), Renamed::Done);
    assert_eq!(rename(&mut rig, "old", "new"), Renamed::Nothing, "the field may stay");
    // From the log, from a snapshot; the segment's own record still has the old name.
    for _ in 0..3 {
        drop(rig);
        rig = Rig::open(directory.path(), &clock);
        let name = "new".to_owned();
        let (found, queue) = rig.ask(|reply| Command::Register { name, reply });
        assert_eq!((found, figures(&queue)), (id, [3, 2, 1]));
    }
    let names = rig.ask(|reply| Command::Status { reply }).queues;
    assert_eq!(names.into_iter().map(|(name, _)| name).collect::<Vec<_>>(), ["new"]);
    rig.connection("new");
    assert_eq!(rig.deliver_all(), [b"waits"]);
    rig.pass(MINUTE);
    let mut later = rig.deliver_all();
    later.sort();
    assert_eq!(later, [b"delayed".to_vec(), b"retry".to_vec()]);
    // The old name is free for another connection.
    let (other, queue) = rig.connection("old");
    assert_eq!((other == id, figures(&queue)), (false, [0; 3]));
}

#[test]
fn a_name_with_deliveries_of_its_own_is_not_taken() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    fill(&mut rig, "old");
    let new = rig.connection("new");
    rig.append(b"its own", std::slice::from_ref(&new)).unwrap();
    assert_eq!(rename(&mut rig, "old", "new"), Renamed::Occupied);
    assert_eq!(rig.deliver_all(), [b"its own"]);
    // It was there, and has nothing any more: its number goes, its name does not.
    assert_eq!(rename(&mut rig, "old", "new"), Renamed::Done);
    for _ in 0..2 {
        drop(rig);
        rig = Rig::open(directory.path(), &clock);
        let (id, queue) = rig.connection("new");
        assert_eq!((id == new.0, figures(&queue)), (false, [3, 2, 1]));
        assert_eq!(rig.due().len(), 1);
    }
    let orphans = rig.ask(|reply| Command::Status { reply }).queues;
    let named = orphans.iter().filter(|(name, _)| !name.starts_with('\0')).count();
    assert_eq!((orphans.len(), named), (2, 1));
}

/// Should all marks be lost, no name is given to two, and no delivery to nobody.
#[test]
fn names_that_only_segments_know_are_told_apart() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    fill(&mut rig, "old");
    rename(&mut rig, "old", "new");
    fill(&mut rig, "old");
    drop(rig);
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("st-") {
            std::fs::remove_file(path).unwrap();
        }
    }
    let mut rig = Rig::open(directory.path(), &clock);
    let queues = rig.ask(|reply| Command::Status { reply }).queues;
    assert_eq!(queues.len(), 2);
    assert_eq!(queues.iter().map(|(_, queue)| figures(queue)[0]).collect::<Vec<_>>(), [3, 3]);
    assert!(queues.iter().any(|(name, _)| name == "old"));
}
