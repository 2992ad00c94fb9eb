//! A connection with an order, over real sockets: the test stands in for the store.

use tokio::io::AsyncWriteExt;

use super::peers::{Peer, answering, hung, peer, read_request};
use super::*;
use crate::connection::State;
use crate::connection::ordering::{By, OnDead, Ordering};
use crate::connection::path::Path;
use crate::delivery::{Place, What};
use crate::event::EventId;
use crate::store::order::Parked;
use crate::store::suspension::SuspensionKind;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

fn by_key(url: &str) -> Connection {
    let by = By::Key(Path::parse("body.k").unwrap());
    let ordering = Some(Ordering { by, on_dead: OnDead::Skip });
    Connection { ordering, ..testing::connection("crm", url) }
}

fn strict(url: &str) -> Connection {
    let ordering = Some(Ordering { by: By::Connection, on_dead: OnDead::Skip });
    Connection { ordering, ..testing::connection("crm", url) }
}

/// Says 500 to the first attempt of what has "bad" in its body, and 200 to the rest.
async fn choosy() -> Peer {
    peer(|mut tcp, notes| async move {
        while read_request(&mut tcp, &notes).await {
            let bad = notes.requests.borrow().last().is_some_and(|(_, request)| {
                request.head.contains("posthaste-attempt: 1\r\n")
                    && String::from_utf8_lossy(&request.body).contains("bad")
            });
            let answer = if bad { "HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n" } else { OK };
            if tcp.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    })
    .await
}

fn bodies(peer: &Peer) -> Vec<String> {
    let requests = peer.notes.requests.borrow();
    requests.iter().map(|(_, request)| String::from_utf8(request.body.clone()).unwrap()).collect()
}

const BAD: &str = r#"{"k":"a","bad":1}"#;
const A: &str = r#"{"k":"a"}"#;
const B: &str = r#"{"k":"b"}"#;

impl Rig {
    /// A rig whose connection has the store's answer that its order begins.
    async fn ordered(connection: Connection) -> Rig {
        let mut rig = Rig::with(connection).await;
        rig.begin_order(1).await;
        rig
    }

    /// Waits until so many orders were asked for (or ended), and answers the last request.
    async fn begin_order(&mut self, requests: usize) {
        let mut orders = Vec::new();
        while orders.len() < requests {
            sleep(Duration::from_millis(1)).await;
            self.receive();
            orders.extend(self.port.orders_for_test().0);
        }
        assert_eq!(orders.len(), requests);
        let Some((id, Some(number))) = orders.last().copied() else {
            panic!("no order is wanted: {orders:?}");
        };
        self.port.send(&mut vec![FeedItem::Fresh(id, number)]);
    }

    /// A first attempt of an event of its own.
    fn first(&mut self, body: &str) -> (Delivery, Arc<Event>) {
        let slot = self.next_slot;
        self.next_slot += 1;
        let id = EventId::new(1, &mut fastrand::Rng::with_seed(u64::from(slot)));
        let event = Arc::new(Event { id, ..(*testing::event(body.as_bytes())).clone() });
        (testing::delivery(1, slot, Lane::New, &event), event)
    }

    /// Hands out first attempts of these bodies, and keeps their events in memory.
    fn send_bodies(&mut self, bodies: &[&str]) -> Vec<Delivery> {
        let mut sent = Vec::new();
        for body in bodies {
            let (delivery, event) = self.first(body);
            self.events.push(event);
            sent.push(delivery.clone());
            self.hand_out(FeedItem::Due(delivery));
        }
        sent
    }

    fn hand_out(&mut self, item: FeedItem) {
        if let FeedItem::Due(delivery) | FeedItem::Shown(delivery) = &item {
            assert!(self.out.insert(delivery.id.slot));
        }
        self.port.send(&mut vec![item]);
    }

    /// Nothing happens for a while.
    async fn rest(&mut self) {
        sleep(Duration::from_secs(5)).await;
        self.receive();
    }
}

fn retry_of(delivery: &Delivery) -> Delivery {
    Delivery { lane: Lane::Retry, attempts: 1, ..delivery.clone() }
}

#[test]
fn a_failed_one_blocks_its_key_alone_until_its_retry_is_through_also_across_a_reload() {
    paused(async {
        let peer = choosy().await;
        let mut rig = Rig::ordered(by_key(&peer.url)).await;
        let sent = rig.send_bodies(&[BAD, A, B]);
        let dispositions: Vec<_> = rig.settle(2).await.iter().map(|one| one.disposition).collect();
        assert_eq!(dispositions, [retry(5), Disposition::Delivered]);
        let longer = Connection { request_timeout: Duration::from_secs(9), ..by_key(&peer.url) };
        rig.replace(1, longer).await;
        rig.send_bodies(&[B]);
        rig.settle(1).await;
        rig.rest().await;
        assert_eq!(bodies(&peer), [BAD, B, B]);
        rig.hand_out(FeedItem::Due(retry_of(&sent[0])));
        rig.settle(2).await;
        assert_eq!(bodies(&peer), [BAD, B, B, BAD, A]);
    });
}

#[test]
fn strict_sends_one_at_a_time_in_order() {
    paused(async {
        let peer = answering(OK, Duration::from_millis(20)).await;
        let mut rig = Rig::ordered(strict(&peer.url)).await;
        let sent: Vec<String> = (0..20).map(|number| format!("{number}")).collect();
        rig.send_bodies(&sent.iter().map(String::as_str).collect::<Vec<_>>());
        rig.settle(20).await;
        assert_eq!(bodies(&peer), sent);
        assert_eq!(peer.notes.open_most.get(), 1);
    });
}

#[test]
fn replays_stand_behind_nobody() {
    paused(async {
        let peer = choosy().await;
        let mut rig = Rig::ordered(strict(&peer.url)).await;
        rig.send_bodies(&[BAD, A]);
        rig.settle(1).await;
        rig.send_lane(1, 1, Lane::Replay, B.as_bytes());
        rig.settle(1).await;
        assert_eq!(bodies(&peer), [BAD, B]);
    });
}

#[test]
fn what_waits_for_a_retry_is_known_before_a_first_attempt_starts() {
    paused(async {
        let peer = choosy().await;
        let mut rig = Rig::ordered(by_key(&peer.url)).await;
        let (earlier, event) = rig.first(A);
        let weak = Delivery { hot: std::sync::Weak::new(), ..retry_of(&earlier) };
        rig.hand_out(FeedItem::Shown(weak));
        rig.send_bodies(&[A, B]);
        rig.wait(|rig| !rig.loads.is_empty()).await;
        rig.rest().await;
        assert_eq!(peer.requests(), 0, "its key is not known yet");
        let load = rig.loads.remove(0);
        rig.port.send(&mut vec![FeedItem::Loaded(load, Some(Arc::clone(&event)))]);
        rig.settle(1).await;
        assert_eq!((bodies(&peer), rig.released.len()), (vec![B.to_owned()], 1));
        rig.events.push(event);
        rig.hand_out(FeedItem::Due(retry_of(&earlier)));
        rig.settle(2).await;
        assert_eq!(bodies(&peer), [B, A, A]);
    });
}

/// A payload that was loaded for its key alone is dropped again: its bytes are needed for others.
#[test]
fn many_cold_ones_behind_a_blocked_key_leave_room_for_others() {
    paused(async {
        let peer = choosy().await;
        // A third of it is one connection's: one payload at a time.
        let mut rig = Rig::new(600);
        rig.attach(1, by_key(&peer.url)).await;
        rig.begin_order(1).await;
        rig.send_bodies(&[BAD]);
        rig.settle(1).await;
        let mut bodies_sent: Vec<&str> = vec![A; 30];
        bodies_sent.push(B);
        let events_before = rig.events.len();
        for body in bodies_sent {
            let (delivery, event) = rig.first(body);
            rig.events.push(event);
            rig.hand_out(FeedItem::Due(Delivery { hot: std::sync::Weak::new(), ..delivery }));
        }
        let mut loaded = 0;
        while rig.settled.is_empty() {
            rig.wait(|rig| !rig.loads.is_empty() || !rig.settled.is_empty()).await;
            for load in std::mem::take(&mut rig.loads) {
                let number = load.id.slot as usize;
                let event = Arc::clone(&rig.events[number - 1 + events_before]);
                loaded += 1;
                rig.port.send(&mut vec![FeedItem::Loaded(load, Some(event))]);
            }
            sleep(Duration::from_millis(1)).await;
            rig.receive();
        }
        assert_eq!((loaded, bodies(&peer)), (31, vec![BAD.to_owned(), B.to_owned()]));
        let (_, parked) = rig.port.orders_for_test();
        assert_eq!(parked, Parked { new: 30, retry: 0 }, "the store may hand out as many more");
    });
}

#[test]
fn another_key_gives_all_back_and_begins_anew() {
    paused(async {
        let peer = choosy().await;
        let mut rig = Rig::ordered(by_key(&peer.url)).await;
        let sent = rig.send_bodies(&[BAD, A, A]);
        rig.settle(1).await;
        rig.replace(1, strict(&peer.url)).await;
        rig.wait(|rig| rig.released.len() == 2).await;
        // What the store had handed out before it heard of it comes back too.
        rig.send_bodies(&[B]);
        rig.wait(|rig| rig.released.len() == 3).await;
        rig.begin_order(1).await;
        rig.events.clear();
        rig.hand_out(FeedItem::Shown(retry_of(&sent[0])));
        rig.send_bodies(&[B]);
        rig.wait(|rig| !rig.loads.is_empty()).await;
        rig.rest().await;
        assert_eq!(bodies(&peer), [BAD], "the first of the line waits for its retry");
    });
}

#[test]
fn without_order_from_now_on_nothing_waits_for_others() {
    paused(async {
        let peer = choosy().await;
        let mut rig = Rig::ordered(by_key(&peer.url)).await;
        rig.send_bodies(&[BAD, A]);
        rig.settle(1).await;
        rig.replace(1, testing::connection("crm", &peer.url)).await;
        rig.wait(|rig| rig.released.len() == 1).await;
        let (orders, _) = rig.port.orders_for_test();
        assert_eq!(orders, [(ConnectionId(1), None)]);
        rig.send_bodies(&[A]);
        rig.settle(1).await;
        // And with an order again.
        rig.replace(1, by_key(&peer.url)).await;
        rig.begin_order(1).await;
        rig.send_bodies(&[A, B]);
        rig.settle(2).await;
        assert_eq!(bodies(&peer)[..2], [BAD, A]);
    });
}

#[test]
fn a_pause_gives_all_back_and_what_comes_after_it_begins_anew() {
    paused(async {
        let peer = choosy().await;
        let mut rig = Rig::ordered(by_key(&peer.url)).await;
        rig.send_bodies(&[BAD, A]);
        rig.settle(1).await;
        rig.replace(1, Connection { state: State::Paused, ..by_key(&peer.url) }).await;
        rig.wait(|rig| rig.released.len() == 1).await;
        rig.begin_order(1).await;
        rig.send_bodies(&[A]);
        rig.rest().await;
        assert_eq!(bodies(&peer), [BAD]);
        rig.replace(1, by_key(&peer.url)).await;
        rig.settle(1).await;
        assert_eq!(bodies(&peer), [BAD, A]);
    });
}

#[test]
fn a_connection_that_comes_back_begins_its_order_after_the_old_one_ended() {
    paused(async {
        let peer = choosy().await;
        let mut rig = Rig::ordered(by_key(&peer.url)).await;
        rig.attach(1, by_key(&peer.url)).await;
        sleep(Duration::from_millis(5)).await;
        rig.receive();
        let (orders, _) = rig.port.orders_for_test();
        let kinds: Vec<_> = orders.iter().map(|(_, number)| number.is_some()).collect();
        assert_eq!(kinds, [false, true]);
        // The answer to the old one begins nothing.
        rig.port.send(&mut vec![FeedItem::Fresh(ConnectionId(1), 1)]);
        rig.send_bodies(&[A]);
        rig.wait(|rig| rig.released.len() == 1).await;
        assert_eq!(peer.requests(), 0);
    });
}

#[test]
fn events_without_a_key_are_counted_and_go() {
    paused(async {
        let peer = choosy().await;
        let mut rig = Rig::ordered(by_key(&peer.url)).await;
        assert!(rig.counts("posthaste_unordered_events_total{connection=\"crm\"} 0"));
        rig.send_bodies(&[BAD, "{}", "text", r#"{"k":null}"#, B]);
        rig.settle(5).await;
        assert!(rig.counts("posthaste_unordered_events_total{connection=\"crm\"} 3"));
    });
}

/// Says 404 to what has "bad" in its body.
async fn picky() -> Peer {
    peer(|mut tcp, notes| async move {
        while read_request(&mut tcp, &notes).await {
            let bad =
                notes.requests.borrow().last().is_some_and(|(_, request)| {
                    String::from_utf8_lossy(&request.body).contains("bad")
                });
            let answer = if bad { "HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n" } else { OK };
            if tcp.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    })
    .await
}

fn halting(url: &str) -> Connection {
    let mut connection = by_key(url);
    if let Some(ordering) = &mut connection.ordering {
        ordering.on_dead = OnDead::Halt;
    }
    connection
}

#[test]
fn a_dead_one_is_skipped_and_the_next_goes() {
    paused(async {
        let peer = picky().await;
        let mut rig = Rig::ordered(by_key(&peer.url)).await;
        rig.send_bodies(&[BAD, A, A]);
        let settled = rig.settle(3).await;
        assert_eq!(settled[0].disposition, dead(Cause::HttpStatus, 404));
        assert_eq!(bodies(&peer), [BAD, A, A]);
    });
}

/// The store must know that the connection is held before it knows that the delivery is dead.
#[test]
fn a_dead_one_halts_the_connection_and_is_dead_when_that_is_kept() {
    paused(async {
        let peer = picky().await;
        let mut rig = Rig::ordered(halting(&peer.url)).await;
        rig.send_bodies(&[BAD, A, B]);
        let notice = rig.notices.recv().await.unwrap();
        assert_eq!((notice.id, notice.what), (ConnectionId(1), What::Hold(SuspensionKind::Halted)));
        rig.rest().await;
        assert_eq!(
            (bodies(&peer), rig.settled.len()),
            (vec![BAD.to_owned()], 0),
            "it holds at once"
        );
        assert!(rig.counts("posthaste_deliveries_total{connection=\"crm\",outcome=\"dead\"} 0"));
        rig.command(Command::Suspend(ConnectionId(1), true)).await;
        let settled = rig.settle(1).await;
        assert_eq!(settled[0].disposition, dead(Cause::HttpStatus, 404));
        rig.wait(|rig| rig.released.len() == 2).await;
        assert!(rig.counts("posthaste_deliveries_total{connection=\"crm\",outcome=\"dead\"} 1"));
        rig.command(Command::Suspend(ConnectionId(1), false)).await;
        rig.begin_order(1).await;
        rig.send_bodies(&[A, B]);
        rig.settle(2).await;
        assert!(rig.notices.try_recv().is_err());
    });
}

#[test]
fn an_edit_ends_the_halt_and_the_dead_one_is_skipped() {
    paused(async {
        let peer = picky().await;
        let mut rig = Rig::ordered(halting(&peer.url)).await;
        rig.send_bodies(&[BAD, A]);
        rig.notices.recv().await.unwrap();
        rig.replace(1, by_key(&peer.url)).await;
        rig.settle(2).await;
        assert_eq!(bodies(&peer), [BAD, A]);
    });
}

#[test]
fn a_halt_that_nobody_could_keep_is_tried_again_after_a_stop() {
    paused(async {
        let peer = picky().await;
        let mut rig = Rig::ordered(halting(&peer.url)).await;
        rig.send_bodies(&[BAD, A]);
        rig.notices.recv().await.unwrap();
        rig.drain(Duration::from_secs(1)).await;
        rig.receive();
        assert_eq!((rig.settled.len(), rig.released.len()), (0, 2));
    });
}

/// Dead without an attempt is dead too.
#[test]
fn one_that_expires_at_the_head_of_its_line_makes_way() {
    paused(async {
        let peer = choosy().await;
        let expire_after = Some(Duration::from_secs(1));
        let mut rig = Rig::ordered(Connection { expire_after, ..strict(&peer.url) }).await;
        sleep(Duration::from_secs(2)).await;
        let (old, old_event) = rig.first(A);
        let (young, young_event) = rig.first(B);
        // The rig's clock begins at 1,000 s.
        let accepted_age = crate::clock::Age(1_002_000);
        let young_event = Arc::new(Event { accepted_age, ..(*young_event).clone() });
        let young = Delivery { hot: Arc::downgrade(&young_event), ..young };
        rig.events.extend([old_event, young_event]);
        rig.hand_out(FeedItem::Due(old));
        rig.hand_out(FeedItem::Due(young));
        let settled = rig.settle(2).await;
        assert_eq!(settled[0].disposition, dead(Cause::Expired, 0));
        assert_eq!(bodies(&peer), [B]);
    });
}

#[test]
fn delayed_ones_stand_behind_nobody_and_nobody_behind_them() {
    paused(async {
        let peer = choosy().await;
        let mut rig = Rig::ordered(strict(&peer.url)).await;
        rig.send_bodies(&[BAD]);
        rig.settle(1).await;
        let (delivery, event) = rig.first(r#"{"bad":"and late"}"#);
        rig.events.push(event);
        let delayed = Delivery { delayed: true, ..delivery };
        rig.hand_out(FeedItem::Due(delayed.clone()));
        assert_eq!(rig.disposition().await, retry(5), "it did not wait for the other");
        // The store's schedule does not tell a retry of it from others.
        rig.hand_out(FeedItem::Due(Delivery { delayed: false, ..retry_of(&delayed) }));
        assert_eq!(rig.disposition().await, Disposition::Delivered);
        // Nor does it after a start; but then the payload is read, and that tells.
        rig.send_bodies(&[A]);
        rig.rest().await;
        assert_eq!(peer.requests(), 3, "the line still waits for its first");
    });
}

#[test]
fn a_delayed_one_that_waits_for_a_retry_at_a_start_has_no_place_in_line() {
    paused(async {
        let peer = choosy().await;
        let mut rig = Rig::ordered(strict(&peer.url)).await;
        let (delivery, event) = rig.first(A);
        let cold = Delivery { hot: std::sync::Weak::new(), ..retry_of(&delivery) };
        rig.hand_out(FeedItem::Shown(cold));
        rig.wait(|rig| !rig.loads.is_empty()).await;
        let load = Delivery { delayed: true, ..rig.loads.remove(0) };
        rig.port.send(&mut vec![FeedItem::Loaded(load, Some(event))]);
        rig.wait(|rig| rig.released.len() == 1).await;
        rig.send_bodies(&[B]);
        rig.settle(1).await;
    });
}

#[test]
fn those_behind_another_of_their_order_name_it() {
    paused(async {
        let silent = hung().await;
        let request_timeout = Duration::from_secs(50);
        let slow = Connection { request_timeout, max_in_flight: 1, ..strict(&silent.url) };
        let mut rig = Rig::ordered(slow).await;
        rig.send(1, 2);
        sleep(Duration::from_secs(1)).await;
        let first = testing::event(b"").id;
        assert_eq!(rig.look(1, 1).await.place, Place::Behind(Some(first)));
        assert_eq!(rig.look(1, 0).await.place, Place::Gone);
    });
}
