//! What was delivered is kept for a time, and given up for space.

use super::model_disk::ModelDisk;
use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn keeping(age: Duration, bytes: u64) -> Options {
    let keep = Keep { delivered: Limit { age, bytes }, ..KEEP };
    Options { keep, ..options(fastrand::u64(..)) }
}

impl Rig {
    fn segments(&mut self) -> usize {
        self.ask(|reply| Command::Status { reply }).segments
    }

    /// As [`Store::find_event`], without its threads.
    fn find(&mut self, id: EventId) -> Option<(Event, Vec<(String, FoundDelivery)>)> {
        let unix_ms = id.unix_ms();
        for (segment, entries) in self.ask(|reply| Command::EventsAt { unix_ms, reply }) {
            let Some((entry, event, routes)) = self.writer.files.find(segment, &entries, id) else {
                continue;
            };
            let offset = entry.offset;
            let ids: Vec<_> = routes
                .iter()
                .map(|route| DeliveryId {
                    connection: route.connection,
                    segment,
                    slot: route.slot,
                    offset,
                })
                .collect();
            let standings = self.ask(|reply| Command::Standings { ids: ids.clone(), reply });
            let deliveries = ids.into_iter().zip(standings).map(|(id, (name, standing))| {
                (name, FoundDelivery { id, size: entry.size, standing })
            });
            return Some((event, deliveries.collect()));
        }
        None
    }

    /// Appends and delivers until `segments` more were begun. The ids, in order.
    fn fill(&mut self, segments: u32, to: &(ConnectionId, Arc<QueueCounters>)) -> Vec<EventId> {
        let until = self.writer.next_segment + segments;
        let mut ids = Vec::new();
        while self.writer.next_segment < until {
            let body = format!("{} {}", ids.len(), "x".repeat(30_000));
            ids.push(self.append(body.as_bytes(), std::slice::from_ref(to)).unwrap());
            self.clock.advance(Duration::from_millis(1));
            self.deliver_all();
        }
        self.pass(Duration::from_secs(2));
        ids
    }
}

#[test]
fn a_delivered_event_is_found_until_its_time_is_over_also_after_restarts() {
    let (directory, clock) = start();
    let mut rig = Rig::open_with(directory.path(), &clock, keeping(HOUR, 64 * MIB));
    let crm = rig.connection("crm");
    let ids = rig.fill(3, &crm);
    assert_eq!(rig.segments(), 4);
    for (restart, clean) in [false, true].into_iter().enumerate() {
        if clean {
            rig.stop();
        } else {
            drop(rig);
        }
        // The wall clock ends nothing.
        clock.step_wall(clock.wall_ms() + 48 * 3_600_000);
        rig = Rig::open_with(directory.path(), &clock, keeping(HOUR, 64 * MIB));
        rig.connection("crm");
        for (number, id) in ids.iter().enumerate() {
            let (event, deliveries) = rig.find(*id).unwrap();
            let body = format!("{number} {}", "x".repeat(30_000));
            assert_eq!(event.content.body(), body, "restart {restart}");
            let [(name, delivery)] = &deliveries[..] else { panic!("{deliveries:?}") };
            assert_eq!((name.as_str(), delivery.standing), ("crm", Standing::Over));
        }
    }
    rig.pass(HOUR - Duration::from_secs(60));
    assert!(rig.find(ids[0]).is_some());
    rig.pass(Duration::from_secs(60));
    assert_eq!(rig.find(ids[0]).map(|found| found.0.id), None);
    assert_eq!((rig.segments(), rig.writer.kept.bytes()), (1, 0));
}

#[test]
fn kept_segments_beyond_the_cap_go_oldest_first() {
    let (directory, clock) = start();
    let mut rig = Rig::open_with(directory.path(), &clock, keeping(24 * HOUR, 3 * MIB));
    let crm = rig.connection("crm");
    let ids = rig.fill(6, &crm);
    assert!(rig.segments() <= 4);
    assert!(rig.writer.kept.bytes() <= 3 * MIB && rig.writer.kept.bytes() > MIB);
    let found: Vec<bool> = ids.iter().map(|id| rig.find(*id).is_some()).collect();
    let gone = found.iter().position(|found| *found).unwrap();
    assert!(gone > 0 && found[gone..].iter().all(|found| *found), "the oldest went: {found:?}");

    // A reload that keeps nothing gives all of it back at once.
    rig.ends.commands.send(Command::SetKeep(KEEP)).unwrap();
    rig.writer.turn();
    assert_eq!((rig.segments(), rig.writer.kept.bytes()), (1, 0));
}

#[test]
fn without_keeping_a_drained_segment_goes_at_once() {
    let (directory, clock) = start();
    let mut rig = Rig::open_with(directory.path(), &clock, keeping(Duration::ZERO, 64 * MIB));
    let crm = rig.connection("crm");
    let ids = rig.fill(2, &crm);
    assert_eq!(rig.segments(), 1);
    assert!(rig.find(ids[0]).is_none());
}

#[test]
fn what_is_only_kept_never_makes_a_full_store() {
    let (directory, clock) = start();
    let small = Options { max_bytes: 6 * MIB, ..keeping(24 * HOUR, 64 * MIB) };
    let mut rig = Rig::open_with(directory.path(), &clock, small);
    let crm = rig.connection("crm");
    let ids = rig.fill(20, &crm);
    assert!(rig.writer.kept.bytes() > 0, "it keeps what fits");
    assert!(rig.ask(|reply| Command::Status { reply }).bytes <= 6 * MIB);
    assert!(rig.find(ids[0]).is_none() && rig.find(*ids.last().unwrap()).is_some());
}

#[test]
fn a_full_disk_takes_the_space_of_what_is_only_kept() {
    let (_, clock) = start();
    let disk = ModelDisk::new(3);
    let mut rig = Rig::open_on(Arc::new(disk.clone()), &clock, keeping(24 * HOUR, 64 * MIB));
    let crm = rig.connection("crm");
    rig.fill(4, &crm);
    assert_eq!(rig.segments(), 5);
    disk.set_free(0);
    let ids = rig.fill(6, &crm);
    assert!(rig.find(*ids.last().unwrap()).is_some());
    assert!(rig.segments() <= 5);
}

#[test]
fn a_delivered_event_goes_out_again_on_a_new_run() {
    let (directory, clock) = start();
    let mut rig = Rig::open_with(directory.path(), &clock, keeping(HOUR, 64 * MIB));
    let crm = rig.connection("crm");
    let ids = rig.fill(2, &crm);
    drop(rig);
    let mut rig = Rig::open_with(directory.path(), &clock, keeping(HOUR, 64 * MIB));
    let (_, queue) = rig.connection("crm");
    let delivery = rig.find(ids[0]).unwrap().1[0].1;
    let replay = |reply| Command::ReplayOver { delivery, reply };
    assert_eq!(rig.ask(replay), (true, Ok(())));
    assert_eq!(rig.ask(replay), (false, Ok(())), "it is live now");
    assert_eq!(rig.find(ids[0]).unwrap().1[0].1.standing, Standing::Live);
    assert_eq!(queue.live.load(Ordering::Relaxed), 1);

    // It outlives a crash, and its segment outlives its time of being kept.
    drop(rig);
    let mut rig = Rig::open_with(directory.path(), &clock, keeping(HOUR, 64 * MIB));
    rig.pass(2 * HOUR);
    rig.connection("crm");
    let due = rig.due();
    assert_eq!(due.len(), 1);
    assert_eq!((due[0].lane, due[0].attempts), (Lane::Replay, 0));
    assert_eq!(rig.load(&due[0]).id, ids[0]);
    rig.settle(&due[0], Disposition::Delivered);
    rig.pass(Duration::from_secs(2));
    assert!(rig.find(ids[0]).is_none(), "its time is over");
    assert_eq!(rig.ask(replay), (false, Ok(())), "it is gone");
}

/// Without a restart in between: what is replayed holds its segment until the last of it is over.
#[test]
fn a_replayed_event_holds_its_segment() {
    let (directory, clock) = start();
    let mut rig = Rig::open_with(directory.path(), &clock, keeping(HOUR, 64 * MIB));
    let crm = rig.connection("crm");
    let ids = rig.fill(2, &crm);
    let kept = rig.writer.kept.bytes();
    for id in &ids[..2] {
        let delivery = rig.find(*id).unwrap().1[0].1;
        assert_eq!(rig.ask(|reply| Command::ReplayOver { delivery, reply }), (true, Ok(())));
    }
    assert!(rig.writer.kept.bytes() < kept, "it is needed now");
    let due = rig.due();
    rig.ends.commands.send(Command::SetKeep(KEEP)).unwrap();
    rig.settle(&due[0], Disposition::Delivered);
    rig.pass(2 * HOUR);
    assert_eq!(rig.segments(), 2, "its own and the one that grows");
    assert_eq!(rig.load(&due[1]).id, ids[1]);
    rig.settle(&due[1], Disposition::Delivered);
    rig.pass(Duration::from_secs(2));
    assert_eq!(rig.segments(), 1);
}

#[test]
fn a_sparse_segment_is_not_compacted_while_it_would_be_kept() {
    let (directory, clock) = start();
    let mut rig = Rig::open_with(directory.path(), &clock, keeping(HOUR, 64 * MIB));
    let (crm, held) = (rig.connection("crm"), rig.connection("held"));
    rig.ends.commands.send(Command::Detach { connection: held.0 }).unwrap();
    rig.append(b"it waits", std::slice::from_ref(&held)).unwrap();
    let ids = rig.fill(2, &crm);
    compact(&mut rig);
    assert_eq!(rig.segments(), 3);
    assert!(rig.find(ids[0]).is_some());
    rig.pass(HOUR);
    compact(&mut rig);
    assert!(rig.find(ids[0]).is_none());
    assert_eq!(rig.segments(), 2, "the cold one and the one that grows");
    let feed = Command::Attach { connection: held.0, feed: 0 };
    rig.ends.commands.send(feed).unwrap();
    rig.writer.turn();
    assert_eq!(rig.deliver_all(), [b"it waits"]);
}

/// Where the index is gone, the age comes from the records.
#[test]
fn a_rebuilt_index_knows_the_age() {
    let (directory, clock) = start();
    let mut rig = Rig::open_with(directory.path(), &clock, keeping(HOUR, 64 * MIB));
    let crm = rig.connection("crm");
    let ids = rig.fill(1, &crm);
    rig.stop();
    let name = directory.path().join(file::index_name(FIRST_HOT));
    std::fs::remove_file(&name).unwrap();
    let mut rig = Rig::open_with(directory.path(), &clock, keeping(HOUR, 64 * MIB));
    assert!(rig.find(ids[0]).is_some() && name.exists());
    rig.pass(HOUR);
    assert!(rig.find(ids[0]).is_none());
}

/// What waits for a time, or is dead, is not replayed as if it were over.
#[test]
fn what_is_not_over_is_told_apart() {
    let (directory, clock) = start();
    let mut rig = Rig::open_with(directory.path(), &clock, keeping(HOUR, 64 * MIB));
    let crm = rig.connection("crm");
    let ids: Vec<_> =
        (0u8..3).map(|body| rig.append(&[body], std::slice::from_ref(&crm)).unwrap()).collect();
    let due = rig.due();
    rig.settle(&due[0], Disposition::RetryAfter(HOUR));
    rig.settle(&due[1], Disposition::Dead { cause: Cause::Gone, status: 410 });
    rig.writer.turn();
    for (id, standing) in ids.iter().zip([Standing::Live, Standing::Dead, Standing::Live]) {
        let delivery = rig.find(*id).unwrap().1[0].1;
        assert_eq!(delivery.standing, standing);
        let replayed = rig.ask(|reply| Command::ReplayOver { delivery, reply });
        assert_eq!(replayed, (false, Ok(())));
    }
}
