//! The breaker, suspensions and expiry, over real sockets.

use super::peers::{Peer, answering, healthy, hung, peer, read_request};
use super::*;
use crate::clock::Age;
use crate::connection::State;
use crate::connection::breaker::{BreakerPolicy, Phase};
use crate::delivery::notice::{Notice, Wanted, What};
use crate::delivery::testing::connection;
use crate::event::EventId;
use crate::store::suspension::SuspensionKind;
use std::cell::Cell;
use std::rc::Rc;
use tokio::io::AsyncWriteExt;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const BROKEN: &str = "HTTP/1.1 500 Broken\r\ncontent-length: 0\r\n\r\n";
const GONE: &str = "HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n";

fn breaker() -> BreakerPolicy {
    BreakerPolicy {
        consecutive_failures: 5,
        failure_ratio: 0.5,
        min_attempts: 20,
        window: Duration::from_secs(60),
        open_for: Duration::from_secs(30),
        open_for_max: Duration::from_secs(300),
    }
}

fn guarded(url: &str) -> Connection {
    Connection { breaker: Some(breaker()), ..connection("crm", url) }
}

/// Hands out `count` new deliveries, each of an event of its own: one event counts once.
fn send_each(rig: &mut Rig, connection: u32, count: u32) {
    for _ in 0..count {
        let rng = &mut fastrand::Rng::with_seed(u64::from(rig.next_slot) + 1000);
        let id = EventId::new(WALL_MS, rng);
        let event = Event { id, ..(*testing::event(b"{}")).clone() };
        rig.send_event(connection, 1, Lane::New, Arc::new(event));
    }
}

/// The next notice; there must be one soon.
async fn notice(rig: &mut Rig) -> Notice {
    let heard = tokio::time::timeout(Duration::from_secs(900), rig.notices.recv());
    heard.await.expect("a notice").unwrap()
}

/// A target that says what the switch says.
async fn switched(first: &'static str) -> (Peer, Rc<Cell<&'static str>>) {
    let says = Rc::new(Cell::new(first));
    let switch = Rc::clone(&says);
    let peer = peer(move |mut tcp, notes| {
        let says = Rc::clone(&says);
        async move {
            while read_request(&mut tcp, &notes).await {
                sleep(Duration::from_millis(10)).await;
                if tcp.write_all(says.get().as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    });
    (peer.await, switch)
}

/// 1 M would be too many here; what counts is that those behind the first five are not touched.
#[test]
fn a_backlog_to_a_dead_target_stays_as_it_is() {
    paused(async {
        let (peer, says) = switched(BROKEN).await;
        let mut rig = Rig::new(1 << 20);
        let status = rig.attach(1, guarded(&peer.url)).await;
        send_each(&mut rig, 1, 300);
        let failed = rig.settle(5).await;
        assert!(failed.iter().all(|settled| settled.disposition == retry(5)));
        assert_eq!(status.breaker(), Phase::Open);
        sleep(Duration::from_secs(29)).await;
        rig.receive();
        assert_eq!((rig.settled.len(), peer.requests(), rig.out.len()), (0, 5, 295));
        // One probe after 30 s, one after 60 s more, one after 120 s more.
        sleep(Duration::from_secs(30 + 60 + 120)).await;
        rig.receive();
        assert_eq!(peer.requests(), 8);
        let times = peer.times();
        for (probe, seconds) in [(5, 30), (6, 60), (7, 120)] {
            let waited = times[probe] - times[probe - 1];
            let close = Duration::from_secs(seconds)..Duration::from_millis(seconds * 1000 + 100);
            assert!(close.contains(&waited), "{probe}: {waited:?}");
        }
        rig.settled.clear();
        says.set(OK);
        let settled = rig.settle(292).await;
        assert!(settled.iter().all(|settled| settled.attempts == 1));
        assert!(settled.iter().all(|settled| settled.disposition == Disposition::Delivered));
        assert_eq!(status.breaker(), Phase::Closed);
        assert!(rig.counts("posthaste_breaker_opened_total{connection=\"crm\"} 4"));
    });
}

#[test]
fn after_the_probe_concurrency_doubles_from_two() {
    paused(async {
        let round = Duration::from_millis(100);
        let says = Rc::new(Cell::new(BROKEN));
        let switch = Rc::clone(&says);
        let peer = peer(move |mut tcp, notes| {
            let says = Rc::clone(&says);
            async move {
                while read_request(&mut tcp, &notes).await {
                    sleep(round).await;
                    tcp.write_all(says.get().as_bytes()).await.unwrap();
                }
            }
        })
        .await;
        let mut connection = guarded(&peer.url);
        connection.max_in_flight = 16;
        let mut rig = Rig::with(connection).await;
        // At full concurrency first, so that there is something to come down from.
        switch.set(OK);
        send_each(&mut rig, 1, 100);
        rig.settle(100).await;
        switch.set(BROKEN);
        send_each(&mut rig, 1, 60);
        rig.settle(16).await;
        // Some more started before the fifth had failed.
        sleep(Duration::from_secs(1)).await;
        rig.receive();
        rig.settled.clear();
        switch.set(OK);
        rig.settle(31).await;
        let times = peer.times();
        let long = |pair: &[Instant]| pair[1] - pair[0] > Duration::from_secs(20);
        let back = times.windows(2).position(long).expect("it was open") + 1;
        let in_round = |number: u32| {
            let from = times[back] + round * number;
            times.iter().filter(|at| **at >= from && **at < from + round / 2).count()
        };
        assert_eq!((0..5).map(in_round).collect::<Vec<_>>(), [1, 2, 4, 8, 16]);
    });
}

#[test]
fn refusing_and_hung_targets_open_it_and_others_do_not() {
    paused(async {
        let hung = hung().await;
        let refusing = "http://127.0.0.1:1/";
        let answers = |status: &str| -> &'static str {
            let text = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
            Box::leak(text.into_boxed_str())
        };
        let mut rig = Rig::new(1 << 20);
        let mut opened = Vec::new();
        let mut peers = Vec::new();
        for status in ["500", "503", "404", "429", "302", "410"] {
            peers.push(answering(answers(status), Duration::ZERO).await);
        }
        let urls: Vec<&str> = [hung.url.as_str(), refusing]
            .into_iter()
            .chain(peers.iter().map(|p| p.url.as_str()))
            .collect();
        for (id, url) in (1..).zip(&urls) {
            let status = rig.attach(id, guarded(url)).await;
            send_each(&mut rig, id, 5);
            rig.settle(5).await;
            opened.push(status.breaker() == Phase::Open);
        }
        assert_eq!(opened, [true, true, true, true, false, false, false, false]);
    });
}

#[test]
fn one_event_that_the_target_cannot_digest_holds_nobody() {
    paused(async {
        let peer = answering(BROKEN, Duration::ZERO).await;
        let mut rig = Rig::new(1 << 20);
        let status = rig.attach(1, guarded(&peer.url)).await;
        rig.send(1, 100);
        rig.settle(100).await;
        assert_eq!(status.breaker(), Phase::Closed, "a hundred deliveries of one event here");
    });
}

#[test]
fn without_a_breaker_everything_is_tried() {
    paused(async {
        let peer = answering(BROKEN, Duration::ZERO).await;
        let mut rig = Rig::with(connection("crm", &peer.url)).await;
        send_each(&mut rig, 1, 100);
        rig.settle(100).await;
        assert_eq!(peer.requests(), 100);
    });
}

#[test]
fn a_reload_keeps_it_open_unless_it_leads_elsewhere() {
    paused(async {
        let (peer, says) = switched(BROKEN).await;
        let mut rig = Rig::new(1 << 20);
        let before = guarded(&peer.url);
        let status = rig.attach(1, before.clone()).await;
        send_each(&mut rig, 1, 20);
        rig.settle(5).await;
        let mut edited = before.clone();
        edited.request_timeout = Duration::from_secs(2);
        rig.replace(1, edited).await;
        sleep(Duration::from_secs(20)).await;
        rig.receive();
        assert_eq!((rig.settled.len(), status.breaker()), (0, Phase::Open));
        says.set(OK);
        // Another path is another target.
        let mut moved = before;
        moved.target = connection("crm", &peer.url.replace("/hook", "/other")).target;
        rig.replace(1, moved).await;
        let start = Instant::now();
        rig.settle(15).await;
        assert!(start.elapsed() < Duration::from_secs(5), "at once");
        assert_eq!(status.breaker(), Phase::Closed);
    });
}

#[test]
fn pausing_does_not_close_it() {
    paused(async {
        let peer = answering(BROKEN, Duration::ZERO).await;
        let mut rig = Rig::new(1 << 20);
        let active = guarded(&peer.url);
        let status = rig.attach(1, active.clone()).await;
        send_each(&mut rig, 1, 5);
        rig.settle(5).await;
        rig.replace(1, Connection { state: State::Paused, ..active.clone() }).await;
        rig.replace(1, active).await;
        sleep(Duration::from_millis(10)).await;
        assert_eq!(status.breaker(), Phase::Open);
        sleep(Duration::from_secs(31)).await;
        assert_eq!(status.breaker(), Phase::HalfOpen, "by itself, with nothing queued");
    });
}

#[test]
fn gone_holds_the_connection_and_says_so_once() {
    paused(async {
        let peer = answering(GONE, Duration::ZERO).await;
        let connection = Connection { disable_on_gone: true, ..connection("crm", &peer.url) };
        let mut rig = Rig::with(connection.clone()).await;
        rig.send(1, 10);
        assert_eq!(rig.disposition().await, dead(Cause::Gone, 410));
        let first = notice(&mut rig).await;
        assert_eq!((first.id, first.what), (ConnectionId(1), What::Hold(SuspensionKind::Gone)));
        assert_eq!(*first.connection, connection);
        sleep(Duration::from_secs(60)).await;
        rig.receive();
        assert_eq!((peer.requests(), rig.settled.len()), (1, 0));
        assert!(rig.notices.try_recv().is_err());
        // The control loop makes it last: what waits goes back to the store.
        rig.command(Command::Suspend(ConnectionId(1), true)).await;
        rig.wait(|rig| rig.out.is_empty()).await;
        assert_eq!(rig.released.len(), 9);
        rig.send(1, 2);
        sleep(Duration::from_secs(60)).await;
        assert_eq!(peer.requests(), 1);
        rig.command(Command::Suspend(ConnectionId(1), false)).await;
        assert_eq!(rig.disposition().await, dead(Cause::Gone, 410));
        assert_eq!(notice(&mut rig).await.what, What::Hold(SuspensionKind::Gone));
    });
}

#[test]
fn what_alerts_want_is_told_and_counted_when_there_is_no_room() {
    paused(async {
        let peer = answering(BROKEN, Duration::ZERO).await;
        let mut rig = Rig::new(1 << 20);
        let status = rig.attach(1, guarded(&peer.url)).await;
        // Nobody wants to know of the first four.
        send_each(&mut rig, 1, 4);
        rig.settle(4).await;
        assert!(rig.notices.try_recv().is_err());
        status.want(Wanted { breaker: true, ..Wanted::default() });
        send_each(&mut rig, 1, 1);
        rig.settle(1).await;
        let opened =
            What::BreakerOpened { open_for: Duration::from_secs(30), code: Cause::HttpStatus };
        assert_eq!(notice(&mut rig).await.what, opened);
        let gone = answering(GONE, Duration::ZERO).await;
        let status = rig.attach(2, connection("gone", &gone.url)).await;
        status.want(Wanted { dead: true, ..Wanted::default() });
        send_each(&mut rig, 2, 3);
        rig.settle(3).await;
        // There is room for two.
        for _ in 0..2 {
            let told = notice(&mut rig).await;
            let What::Failed(failure) = told.what else { panic!("{told:?}") };
            assert_eq!((told.id, failure.first, failure.last), (ConnectionId(2), true, true));
            assert_eq!((failure.attempts, failure.cause, failure.status), (1, Cause::Gone, 410));
        }
        assert!(rig.notices.try_recv().is_err());
        assert_eq!((status.take_untold(), status.take_untold()), (1, 0));
    });
}

#[test]
fn gone_without_disable_on_gone_is_a_dead_letter_alone() {
    paused(async {
        let peer = answering(GONE, Duration::ZERO).await;
        let mut rig = Rig::with(connection("crm", &peer.url)).await;
        rig.send(1, 10);
        rig.settle(10).await;
        assert!(rig.notices.try_recv().is_err());
    });
}

#[test]
fn a_notice_without_room_is_sent_again() {
    paused(async {
        let peer = answering(GONE, Duration::ZERO).await;
        let mut rig = Rig::new(1 << 20);
        for id in 1..=5 {
            let name = format!("c{id}");
            let connection = Connection { disable_on_gone: true, ..connection(&name, &peer.url) };
            rig.attach(id, connection).await;
            rig.send(id, 1);
        }
        rig.settle(5).await;
        let mut told = BTreeSet::new();
        for _ in 0..5 {
            told.insert(notice(&mut rig).await.id);
        }
        assert_eq!(told.len(), 5);
    });
}

#[test]
fn an_edit_ends_the_hold() {
    paused(async {
        let (peer, says) = switched(GONE).await;
        let connection = Connection { disable_on_gone: true, ..connection("crm", &peer.url) };
        let mut rig = Rig::with(connection.clone()).await;
        rig.send(1, 3);
        rig.settle(1).await;
        says.set(OK);
        let edited = Connection { description: Some("new".to_owned()), ..connection };
        rig.replace(1, edited).await;
        rig.settle(2).await;
    });
}

#[test]
fn nothing_but_failure_for_long_enough_holds_the_connection() {
    paused(async {
        let (peer, says) = switched(BROKEN).await;
        let connection = Connection {
            disable_after: Some(Duration::from_secs(100)),
            ..connection("crm", &peer.url)
        };
        let mut rig = Rig::with(connection).await;
        for _ in 0..9 {
            send_each(&mut rig, 1, 1);
            rig.settle(1).await;
            sleep(Duration::from_secs(10)).await;
        }
        // One success begins the count anew.
        says.set(OK);
        rig.send(1, 1);
        assert_eq!(rig.disposition().await, Disposition::Delivered);
        says.set(BROKEN);
        for _ in 0..10 {
            rig.send(1, 1);
            rig.settle(1).await;
            assert!(rig.notices.try_recv().is_err());
            sleep(Duration::from_secs(10)).await;
        }
        sleep(Duration::from_secs(1)).await;
        rig.send(1, 1);
        rig.settle(1).await;
        assert_eq!(notice(&mut rig).await.what, What::Hold(SuspensionKind::FailingTooLong));
        rig.send(1, 1);
        sleep(Duration::from_secs(60)).await;
        rig.receive();
        assert_eq!(rig.settled.len(), 0);
    });
}

#[test]
fn an_event_that_is_too_old_is_dead_without_an_attempt_or_a_token() {
    paused(async {
        let peer = healthy().await;
        let mut connection = connection("crm", &peer.url);
        connection.expire_after = Some(Duration::from_secs(3600));
        // One token in an hour, taken by the young one.
        connection.rate_limit = Some(crate::connection::RateLimit {
            limit: 1,
            per: Duration::from_secs(3600),
            burst: 1,
        });
        let mut rig = Rig::with(connection).await;
        // The rig's store time begins at 1,000 s: the first was accepted at 0, and then an hour passes.
        sleep(Duration::from_secs(2_601)).await;
        rig.send(1, 200);
        let young = Event { accepted_age: Age(3_600_000), ..(*testing::event(b"young")).clone() };
        rig.send_event(1, 1, Lane::New, Arc::new(young));
        let settled = rig.settle(201).await;
        let expired = settled.iter().filter(|s| s.disposition == dead(Cause::Expired, 0));
        assert_eq!(expired.clone().count(), 200);
        assert!(expired.clone().all(|settled| settled.attempts == 0));
        assert_eq!(peer.requests(), 1);
        assert!(rig.counts("posthaste_deliveries_total{connection=\"crm\",outcome=\"dead\"} 200"));
        assert!(rig.counts("posthaste_rate_limit_waits_total{connection=\"crm\"} 0"));
        // A retry is looked at, too, and loaded payloads give their bytes back.
        rig.send_lane(1, 100, Lane::Retry, &[b'x'; 10_000]);
        rig.evict();
        let payload = testing::event(&[b'x'; 10_000]);
        let mut loaded = 0;
        while loaded < 100 {
            sleep(Duration::from_millis(5)).await;
            loaded += super::gates::answer_loads(&mut rig, Some(&payload));
        }
        let settled = rig.settle(100).await;
        assert!(
            settled.iter().all(|s| s.disposition == dead(Cause::Expired, 0) && s.attempts == 1)
        );
    });
}
