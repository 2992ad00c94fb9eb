//! First attempts that came with a delay.

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

fn scheduled(queue: &QueueCounters) -> u64 {
    queue.scheduled.load(Ordering::Relaxed)
}

fn delay(rig: &mut Rig, body: &[u8], to: &(ConnectionId, Arc<QueueCounters>), by: Duration) {
    rig.append_delayed(body, std::slice::from_ref(to), Fate::Queued, by).unwrap();
}

#[test]
fn a_delay_counts_from_acceptance_and_outlives_crashes() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    let crm = rig.connection("crm");
    delay(&mut rig, b"a", &crm, MINUTE);
    assert_eq!((rig.due().len(), scheduled(&crm.1)), (0, 1));
    // No mark speaks of it: after a crash only its record does, then the index that is made, then the snapshot.
    for _ in 0..3 {
        drop(rig);
        clock.advance(Duration::from_secs(15));
        clock.step_wall(0);
        rig = Rig::open(directory.path(), &clock);
        let crm = rig.connection("crm");
        assert_eq!((rig.due().len(), scheduled(&crm.1)), (0, 1));
        assert_eq!(crm.1.live.load(Ordering::Relaxed), 1);
    }
    rig.pass(Duration::from_millis(14_999));
    assert_eq!(rig.due().len(), 0, "too early");
    rig.pass(Duration::from_millis(1));
    let due = rig.due();
    assert_eq!((due[0].lane, due[0].attempts, due[0].first_attempt), (Lane::New, 0, None));
    assert_eq!(rig.load(&due[0]).content.body(), "a");
    // Killed with the attempt in flight: it comes again, at once, as the first one.
    drop(rig);
    let mut rig = Rig::open(directory.path(), &clock);
    let crm = rig.connection("crm");
    let due = rig.due();
    assert_eq!((due.len(), due[0].lane, due[0].attempts), (1, Lane::New, 0));
    rig.settle(&due[0], Disposition::RetryAfter(MINUTE));
    rig.pass(Duration::ZERO);
    rig.pass(MINUTE);
    let due = rig.due();
    assert_eq!((due[0].lane, due[0].attempts), (Lane::Retry, 1));
    rig.settle(&due[0], Disposition::Delivered);
    rig.pass(Duration::from_secs(2));
    assert_eq!(crm.1.live.load(Ordering::Relaxed), 0);
    rig.stop();
    let mut rig = Rig::open(directory.path(), &clock);
    rig.connection("crm");
    assert_eq!(rig.deliver_all(), [[0; 0]; 0]);
}

/// The writer wakes for it: nothing else would.
#[test]
fn the_writer_sleeps_until_a_delay_is_over_and_no_longer() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    let crm = rig.connection("crm");
    delay(&mut rig, b"a", &crm, MINUTE);
    rig.pass(Duration::from_secs(50));
    let wake = rig.writer.turn();
    assert!(wake.after.is_some_and(|after| after <= Duration::from_secs(10)), "{wake:?}");
}

#[test]
fn delayed_ones_are_overtaken_and_come_in_order_of_their_times() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    let crm = rig.connection("crm");
    for (body, seconds) in [(b"c", 30), (b"b", 20), (b"d", 40)] {
        delay(&mut rig, body, &crm, Duration::from_secs(seconds));
    }
    rig.append(b"a", std::slice::from_ref(&crm)).unwrap();
    assert_eq!(rig.deliver_all(), [b"a"]);
    rig.pass(Duration::from_secs(35));
    assert_eq!(rig.deliver_all(), [b"b", b"c"]);
    rig.pass(Duration::from_secs(5));
    assert_eq!(rig.deliver_all(), [b"d"]);
}

/// Neither a flood that comes due nor what is posted meanwhile keeps the other from going out.
#[test]
fn what_comes_due_and_what_is_new_share_the_window() {
    let (directory, clock) = start();
    let options = Options { shelf: ShelfLimits::default(), ..options(5) };
    let mut rig = Rig::open_with(directory.path(), &clock, options);
    let crm = rig.connection("crm");
    for _ in 0..1000 {
        delay(&mut rig, b"delayed", &crm, MINUTE);
    }
    rig.pass(MINUTE);
    for _ in 0..1000 {
        rig.append(b"new", std::slice::from_ref(&crm)).unwrap();
    }
    let mut out: Vec<Delivery> = rig.due();
    assert_eq!(out.len(), WINDOW_NEW, "all of the window while nothing else waited");
    let mut kinds = [0, 0];
    for _ in 0..6 {
        for delivery in std::mem::take(&mut out) {
            let new = rig.load(&delivery).content.body() == "new";
            kinds[usize::from(new)] += 1;
            rig.settle(&delivery, Disposition::Delivered);
        }
        out = rig.due();
        assert!(out.len() <= WINDOW_NEW, "{}", out.len());
    }
    assert!(kinds[0] > 700 && kinds[1] > 600, "{kinds:?}");
    while !out.is_empty() {
        out.iter().for_each(|delivery| rig.settle(delivery, Disposition::Delivered));
        out = rig.due();
    }
    assert_eq!(crm.1.live.load(Ordering::Relaxed), 0);
}

/// A start that has nothing but the records, of more than memory is for, puts them where they do not take any.
#[test]
fn many_delayed_ones_take_bounded_memory_also_at_a_start() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    let crm = rig.connection("crm");
    for number in 0..500u32 {
        let by = Duration::from_millis(60_000 + u64::from(number * 7919 % 500));
        delay(&mut rig, &number.to_le_bytes(), &crm, by);
    }
    assert!(rig.writer.state.schedule.in_memory().count() <= 6);
    drop(rig);
    // Its marks are lost.
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("st-") {
            std::fs::remove_file(path).unwrap();
        }
    }
    let mut rig = Rig::open(directory.path(), &clock);
    let crm = rig.connection("crm");
    assert!(rig.writer.state.schedule.in_memory().count() <= 6);
    assert_eq!(scheduled(&crm.1), 500);
    rig.pass(Duration::from_secs(59));
    assert_eq!(rig.due().len(), 0, "too early");
    rig.pass(Duration::from_secs(2));
    let mut bodies = rig.deliver_all();
    bodies.sort();
    let mut expected: Vec<_> = (0..500u32).map(|number| number.to_le_bytes().to_vec()).collect();
    expected.sort();
    assert_eq!(bodies, expected);
}

#[test]
fn discarding_and_dead_letters_of_delayed_ones_are_for_good() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    let crm = rig.connection("crm");
    let erp = rig.connection("erp");
    for _ in 0..20 {
        delay(&mut rig, b"gone", &crm, MINUTE);
    }
    delay(&mut rig, b"dead", &erp, MINUTE);
    let discard = |reply| Command::Discard { connection: crm.0, reply };
    assert_eq!(rig.ask(discard), (20, Ok(())));
    delay(&mut rig, b"stays", &crm, MINUTE);
    rig.pass(MINUTE);
    for delivery in rig.due() {
        assert!(rig.load(&delivery).content.body() != "gone");
        if delivery.connection() == erp.0 {
            let cause = Cause::HttpStatus;
            rig.settle(&delivery, Disposition::Dead { cause, status: 400 });
        }
    }
    rig.pass(Duration::from_secs(2));
    drop(rig);
    let mut rig = Rig::open(directory.path(), &clock);
    let crm = rig.connection("crm");
    let erp = rig.connection("erp");
    assert_eq!(rig.deliver_all(), [b"stays"]);
    assert_eq!((crm.1.live.load(Ordering::Relaxed), rig.dead(erp.0).total), (0, 1));
}

/// An event that is dead from the start for one connection waits its time for the other.
#[test]
fn what_is_dead_from_the_start_has_no_delay() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    let crm = rig.connection("crm");
    let dead = Fate::Dead(Cause::QueueFull);
    rig.append_delayed(b"a", std::slice::from_ref(&crm), dead, MINUTE).unwrap();
    assert_eq!((rig.dead(crm.0).total, scheduled(&crm.1)), (1, 0));
    drop(rig);
    let mut rig = Rig::open(directory.path(), &clock);
    assert_eq!(rig.dead(crm.0).total, 1);
}
