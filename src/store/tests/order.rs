//! Handing out so that an order can be kept: the four steps of [`super::super::order`].

use super::super::order::{Ordered, Parked};
use super::*;

type Queue = (ConnectionId, Arc<QueueCounters>);

/// What the store sends, in short: `f1` fresh, `s3` shown, `n4` and `r2` handed out, by the number in the body.
fn sent(rig: &mut Rig) -> (String, Vec<Delivery>) {
    let (mut text, mut deliveries) = (Vec::new(), Vec::new());
    for item in rig.items() {
        let (word, delivery) = match item {
            FeedItem::Fresh(_, number) => {
                text.push(format!("f{number}"));
                continue;
            }
            FeedItem::Shown(delivery) => ('s', delivery),
            FeedItem::Due(delivery) if delivery.lane == Lane::New => ('n', delivery),
            FeedItem::Due(delivery) => ('r', delivery),
            FeedItem::Loaded(..) => panic!("nothing was asked for"),
        };
        let body = rig.load(&delivery).content.body();
        text.push(format!("{word}{}", String::from_utf8_lossy(&body)));
        deliveries.push(delivery);
    }
    (text.join(" "), deliveries)
}

fn append(rig: &mut Rig, queue: &Queue, numbers: std::ops::Range<u32>) {
    for number in numbers {
        rig.append(number.to_string().as_bytes(), std::slice::from_ref(queue)).unwrap();
    }
}

fn release(rig: &Rig, deliveries: impl IntoIterator<Item = Delivery>) {
    deliveries.into_iter().for_each(|delivery| rig.ends.feeds[0].release(delivery));
}

fn order(rig: &Rig, queue: &Queue, number: Option<u64>) {
    rig.ends.feeds[0].order(queue.0, number);
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn order_begins_when_all_is_back_with_what_waits_for_a_retry() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    let crm = rig.connection("crm");
    append(&mut rig, &crm, 0..6);
    let (text, mut out) = sent(&mut rig);
    assert_eq!(text, "n0 n1 n2 n3 n4 n5");
    // 3 and 1 failed, 0 is in flight, the others are given back in any order.
    rig.settle(&out[3], Disposition::RetryAfter(HOUR));
    rig.settle(&out[1], Disposition::RetryAfter(2 * HOUR));
    let in_flight = out.remove(0);
    release(&rig, [out[4].clone(), out[1].clone(), out[3].clone()]);
    order(&rig, &crm, Some(7));
    append(&mut rig, &crm, 6..7);
    assert_eq!(sent(&mut rig).0, "", "one is still out");
    rig.settle(&in_flight, Disposition::RetryAfter(HOUR / 2));
    let (text, shown) = sent(&mut rig);
    assert_eq!(text, "f7 s0 s3 s1 n2 n4 n5 n6");
    // What was shown and given back waits as before, and comes when it is due.
    release(&rig, shown.into_iter().take(3));
    assert_eq!(sent(&mut rig).0, "");
    assert_eq!(crm.1.scheduled.load(Ordering::Relaxed), 3);
    rig.pass(HOUR);
    assert_eq!(sent(&mut rig).0, "r0 r3");
}

#[test]
fn it_is_shown_piece_by_piece_and_nothing_twice() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    let crm = rig.connection("crm");
    let total = 2 * WINDOW_RETRY + 5;
    append(&mut rig, &crm, 0..300);
    for (delivery, minutes) in sent(&mut rig).1.iter().take(total).zip((0..90).cycle()) {
        let wait = Duration::from_secs(60 * minutes + 60);
        rig.settle(delivery, Disposition::RetryAfter(wait));
    }
    rig.writer.turn();
    rig.stop();
    let mut rig = Rig::open(directory.path(), &clock);
    let crm = rig.connection("crm");
    order(&rig, &crm, Some(1));
    let mut seen = Vec::new();
    loop {
        let (text, out) = sent(&mut rig);
        if text.starts_with('n') {
            assert_eq!(out.len(), 300 - total, "{text}");
            break;
        }
        assert!(!text.contains('n') && out.len() <= WINDOW_RETRY, "{text}");
        seen.extend(out.iter().map(|delivery| delivery.id.slot));
        release(&rig, out);
    }
    let in_order: Vec<_> = {
        seen.sort_unstable();
        (0..u32::try_from(total).unwrap()).collect()
    };
    assert_eq!(seen, in_order, "each one once");
}

#[test]
fn parked_ones_make_the_window_larger_within_a_bound() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    let crm = rig.connection("crm");
    order(&rig, &crm, Some(1));
    append(&mut rig, &crm, 0..3000);
    let mut out = sent(&mut rig).1.len();
    assert_eq!(out, WINDOW_NEW);
    rig.ends.feeds[0].parked(crm.0, Parked { new: 300, retry: 0 });
    out += sent(&mut rig).1.len();
    assert_eq!(out, WINDOW_NEW + 300);
    rig.ends.feeds[0].parked(crm.0, Parked { new: usize::MAX, retry: usize::MAX });
    rig.writer.turn();
    assert_eq!(
        rig.writer.state.stream(crm.0).unwrap().order,
        Ordered::Yes(Parked { new: PARKED_EVENTS, retry: 0 })
    );
}

#[test]
fn replays_go_on_while_order_begins_and_no_order_is_as_before() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    let crm = rig.connection("crm");
    append(&mut rig, &crm, 0..3);
    let (_, out) = sent(&mut rig);
    rig.settle(&out[0], Disposition::Dead { cause: Cause::HttpStatus, status: 404 });
    rig.writer.turn();
    order(&rig, &crm, Some(1));
    let letters = rig.dead(crm.0).letters;
    assert!(rig.ask(|reply| Command::Replay { letters, reply }).1.is_ok());
    assert_eq!(sent(&mut rig).0, "r0", "a replay needs no order");
    order(&rig, &crm, None);
    release(&rig, out.into_iter().skip(1));
    assert_eq!(sent(&mut rig).0, "n1 n2", "and nothing is shown");
}

#[test]
fn a_connection_that_is_held_begins_its_order_when_it_is_attached() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    let crm = rig.connection("crm");
    append(&mut rig, &crm, 0..2);
    let (_, out) = sent(&mut rig);
    rig.ends.commands.send(Command::Detach { connection: crm.0 }).unwrap();
    release(&rig, out);
    order(&rig, &crm, Some(3));
    assert_eq!(sent(&mut rig).0, "");
    order(&rig, &crm, Some(4));
    rig.ends.commands.send(Command::Attach { connection: crm.0, feed: 0 }).unwrap();
    assert_eq!(sent(&mut rig).0, "f4 n0 n1", "one answer, to the last request");
}
