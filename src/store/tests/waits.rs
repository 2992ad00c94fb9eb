//! What waits in the store is charged: the sum of the causes is the time that the deliveries waited.

use super::*;
use crate::event::Wait;

/// What was charged, by cause, in seconds; only what is not zero.
fn charged(rig: &mut Rig, queue: &QueueCounters) -> Vec<(Wait, u64)> {
    rig.ask(|reply| Command::Status { reply });
    let all = Wait::ALL.map(|wait| (wait, queue.waits.ms(wait) / 1000));
    all.into_iter().filter(|(_, seconds)| *seconds > 0).collect()
}

#[test]
fn each_place_in_the_store_has_its_cause() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    let crm = rig.connection("crm");
    let to = std::slice::from_ref(&crm);
    let queue = Arc::clone(&crm.1);
    let seconds = Duration::from_secs;

    // Handed out: it does not wait here.
    rig.append(b"a", to).unwrap();
    let due = rig.due();
    rig.pass(seconds(7));
    assert_eq!(charged(&mut rig, &queue), []);

    // Five seconds until its retry, of which nobody looks at three.
    rig.settle(&due[0], Disposition::RetryAfter(seconds(5)));
    rig.writer.turn();
    rig.pass(seconds(2));
    rig.pass(seconds(3));
    let due = rig.due();
    assert_eq!((due.len(), charged(&mut rig, &queue)), (1, vec![(Wait::Backoff, 5)]));

    // Held for one cause, then for another; the retry that is due waits for them too.
    queue.waits.set_held(Wait::Paused);
    rig.ends.commands.send(Command::Detach { connection: crm.0 }).unwrap();
    rig.ends.feeds[0].release(due[0].clone());
    rig.append(b"b", to).unwrap();
    rig.append(b"c", to).unwrap();
    rig.pass(seconds(10));
    queue.waits.set_held(Wait::Disabled);
    rig.ends.commands.send(Command::Detach { connection: crm.0 }).unwrap();
    rig.pass(seconds(1));
    rig.pass(seconds(1));
    let expected = [(Wait::Backoff, 5), (Wait::Paused, 33), (Wait::Disabled, 3)];
    assert_eq!(charged(&mut rig, &queue), expected);

    // It goes on: what was waited until then is not the gate's.
    rig.pass(seconds(2));
    queue.waits.set_gate(Wait::RateLimit);
    rig.ends.commands.send(Command::Attach { connection: crm.0, feed: 0 }).unwrap();
    assert_eq!(rig.due().len(), 3);
    rig.pass(seconds(9));
    let expected = [(Wait::Backoff, 5), (Wait::Paused, 33), (Wait::Disabled, 9)];
    assert_eq!(charged(&mut rig, &queue), expected, "the egress has them");

    // Behind a full window they wait for the gate that keeps it full.
    for _ in 0..WINDOW_NEW {
        rig.append(b"d", to).unwrap();
    }
    rig.pass(seconds(4));
    // Two of the window were taken, by b and c; a is a retry.
    let behind = 2;
    let charged_now = charged(&mut rig, &queue);
    assert_eq!(charged_now.last(), Some(&(Wait::RateLimit, 4 * behind)), "{charged_now:?}");
}

#[test]
fn a_delay_is_charged_from_acceptance_to_its_end() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    let crm = rig.connection("crm");
    let delay = Duration::from_secs(60);
    rig.append_delayed(b"a", std::slice::from_ref(&crm), Fate::Queued, delay).unwrap();
    for _ in 0..6 {
        rig.pass(Duration::from_secs(10));
    }
    assert_eq!(rig.due().len(), 1);
    rig.pass(Duration::from_secs(10));
    assert_eq!(charged(&mut rig, &crm.1), [(Wait::Delay, 60)]);
}
