//! The gates: state, hold, workers, bytes, rate.

use super::peers::{answering, healthy, hung, peer, read_request};
use super::*;
use crate::connection::{RateLimit, State};
use crate::delivery::testing::connection;
use std::sync::atomic::Ordering;
use tokio::io::AsyncWriteExt;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

#[test]
fn max_in_flight_is_a_ceiling_that_is_reached() {
    paused(async {
        let peer = answering(OK, Duration::from_millis(50)).await;
        let mut rig = Rig::with(connection("crm", &peer.url)).await;
        rig.send(1, 100);
        rig.settle(100).await;
        assert_eq!(peer.notes.open_most.get(), 4);
        assert_eq!(peer.notes.accepted.get(), 4);
    });
}

#[test]
fn concurrency_doubles_each_round() {
    paused(async {
        let round = Duration::from_millis(100);
        let peer = answering(OK, round).await;
        let mut connection = connection("crm", &peer.url);
        connection.max_in_flight = 16;
        let mut rig = Rig::with(connection).await;
        rig.send(1, 31);
        rig.settle(31).await;
        let times = peer.times();
        let in_round = |number: u32| {
            let from = times[0] + round * number;
            let late = from + round / 2;
            times.iter().filter(|at| **at >= from && **at < late).count()
        };
        assert_eq!((0..5).map(in_round).collect::<Vec<_>>(), [1, 2, 4, 8, 16]);
    });
}

#[test]
fn waiting_for_a_worker_is_counted_once_per_delivery_and_is_no_attempt() {
    paused(async {
        let peer = answering(OK, Duration::from_millis(900)).await;
        let mut connection = connection("crm", &peer.url);
        connection.max_in_flight = 1;
        let mut rig = Rig::with(connection).await;
        // They start at 0, 0.9, 1.8, 2.7 and 3.6 s; the last two wait longer than 2 s.
        rig.send(1, 5);
        let settled = rig.settle(5).await;
        assert!(settled.iter().all(|settled| settled.attempts == 1));
        assert!(rig.counts("posthaste_pool_exhausted_total{connection=\"crm\"} 2"));
    });
}

#[test]
fn retry_after_holds_the_whole_connection() {
    paused(async {
        let peer = peer(|mut tcp, notes| async move {
            while read_request(&mut tcp, &notes).await {
                let first = notes.requests.borrow().len() == 1;
                let response = match first {
                    true => "HTTP/1.1 429 Slow\r\nretry-after: 20\r\ncontent-length: 0\r\n\r\n",
                    false => OK,
                };
                tcp.write_all(response.as_bytes()).await.unwrap();
            }
        })
        .await;
        let mut rig = Rig::new(1 << 20);
        let status = rig.attach(1, connection("crm", &peer.url)).await;
        rig.send(1, 10);
        let start = Instant::now();
        assert_eq!(rig.disposition().await, retry(20));
        assert!(status.hold_until_ms.load(Ordering::Relaxed) > 0);
        let failure = status.last_failure().unwrap();
        assert_eq!((failure.cause, failure.status), (Cause::HttpStatus, 429));
        rig.settle(9).await;
        let times = peer.times();
        assert!(times[1] - times[0] >= Duration::from_secs(20));
        assert!(start.elapsed() < Duration::from_secs(21));
        assert_eq!(status.hold_until_ms.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn a_rate_limit_is_kept_and_used_up() {
    paused(async {
        let peer = healthy().await;
        let mut connection = connection("crm", &peer.url);
        connection.rate_limit =
            Some(RateLimit { limit: 50, per: Duration::from_secs(1), burst: 5 });
        let mut rig = Rig::with(connection).await;
        rig.send(1, 101);
        rig.settle(101).await;
        let times = peer.times();
        let took = times[100] - times[0];
        assert!(took >= Duration::from_millis(1980), "{took:?}");
        assert!(took <= Duration::from_millis(2200), "{took:?}");
        for (first, from) in times.iter().enumerate() {
            for (count, to) in times[first..].iter().enumerate() {
                // A millisecond for the way to the peer.
                let seconds = (*to - *from).as_secs_f64() + 0.001;
                assert!(count as f64 + 1.0 <= 5.0 + 50.0 * seconds);
            }
        }
        assert!(!rig.counts("posthaste_rate_limit_waits_total{connection=\"crm\"} 0"));
    });
}

#[test]
fn paused_and_disabled_connections_hold_what_they_have() {
    paused(async {
        let peer = healthy().await;
        let active = connection("crm", &peer.url);
        let mut paused = active.clone();
        paused.state = State::Paused;
        let mut rig = Rig::with(paused.clone()).await;
        rig.send(1, 3);
        sleep(Duration::from_secs(5)).await;
        assert_eq!(peer.requests(), 0);
        rig.replace(1, active.clone()).await;
        rig.settle(3).await;
        rig.replace(1, paused).await;
        rig.send(1, 3);
        sleep(Duration::from_secs(5)).await;
        rig.receive();
        assert_eq!(rig.settled.len(), 0);
        rig.replace(1, active).await;
        rig.settle(3).await;
    });
}

/// Answers the loads of a rig from `payload`; returns how many there were.
pub(super) fn answer_loads(rig: &mut Rig, payload: Option<&Arc<Event>>) -> usize {
    rig.receive();
    let mut items: Vec<_> =
        rig.loads.drain(..).map(|delivery| FeedItem::Loaded(delivery, payload.cloned())).collect();
    let count = items.len();
    rig.port.send(&mut items);
    count
}

#[test]
fn cold_payloads_are_loaded_in_batches_and_delivered() {
    paused(async {
        let peer = healthy().await;
        let mut rig = Rig::with(connection("crm", &peer.url)).await;
        rig.send(1, 40);
        rig.evict();
        let payload = testing::event(b"{\"cold\":true}");
        let (mut loaded, mut largest) = (0, 0);
        while loaded < 40 {
            sleep(Duration::from_millis(5)).await;
            let batch = answer_loads(&mut rig, Some(&payload));
            (loaded, largest) = (loaded + batch, largest.max(batch));
        }
        rig.settle(40).await;
        assert!((2..=8).contains(&largest), "{largest}");
        assert_eq!(peer.notes.requests.borrow()[39].1.body, b"{\"cold\":true}");
    });
}

#[test]
fn an_unreadable_payload_is_a_dead_letter() {
    paused(async {
        let peer = healthy().await;
        let mut rig = Rig::with(connection("crm", &peer.url)).await;
        rig.send(1, 1);
        rig.evict();
        sleep(Duration::from_millis(5)).await;
        assert_eq!(answer_loads(&mut rig, None), 1);
        assert_eq!(rig.disposition().await, dead(Cause::Internal, 0));
        assert_eq!(peer.requests(), 0);
        assert!(rig.counts("posthaste_deliveries_total{connection=\"crm\",outcome=\"dead\"} 1"));
    });
}

#[test]
fn payload_bytes_are_shared_and_nobody_is_left_without() {
    paused(async {
        let (bad, good) = (hung().await, healthy().await);
        // Room for six bodies, so a connection alone may hold two.
        let mut rig = Rig::new(6 * 10_200);
        let body = vec![b'x'; 10_000];
        for id in 1..=4 {
            rig.attach(id, connection(&format!("bad{id}"), &bad.url)).await;
            rig.send_lane(id, 20, Lane::New, &body);
        }
        rig.evict();
        sleep(Duration::from_millis(10)).await;
        rig.receive();
        // Three connections hold two each, which is all of it; the fourth may hold one all the same.
        let per = |id| rig.loads.iter().filter(|load| load.connection().0 == id).count();
        assert_eq!((1..=4).map(per).collect::<Vec<_>>(), [2, 2, 2, 1]);
        rig.attach(9, connection("good", &good.url)).await;
        rig.send_lane(9, 20, Lane::New, &body);
        let start = Instant::now();
        rig.settle(20).await;
        assert!(start.elapsed() < Duration::from_millis(500));
    });
}

#[test]
fn a_detached_connection_gives_back_the_bytes_it_was_loading() {
    paused(async {
        let bad = hung().await;
        let mut rig = Rig::new(3 * 10_200);
        let body = vec![b'x'; 10_000];
        for id in 1..=5 {
            rig.attach(id, connection(&format!("c{id}"), &bad.url)).await;
            rig.send_lane(id, 5, Lane::New, &body);
            rig.evict();
            sleep(Duration::from_millis(5)).await;
            rig.command(Command::Detach(ConnectionId(id))).await;
        }
        // All the bytes are free again: three small payloads are a connection's share, not one.
        rig.receive();
        rig.loads.clear();
        rig.attach(9, connection("last", &bad.url)).await;
        rig.send_lane(9, 5, Lane::New, &body[..3000]);
        rig.evict();
        sleep(Duration::from_millis(5)).await;
        rig.receive();
        assert_eq!(rig.loads.len(), 3);
    });
}

#[test]
fn a_large_body_arrives_whole() {
    paused(async {
        let peer = healthy().await;
        let mut rig = Rig::with(connection("crm", &peer.url)).await;
        let body: Vec<u8> = (0..3_000_000u32).map(|at| (at % 251) as u8).collect();
        rig.send_lane(1, 2, Lane::New, &body);
        for settled in rig.settle(2).await {
            assert_eq!(settled.disposition, Disposition::Delivered);
        }
        assert!(peer.notes.requests.borrow()[1].1.body == body);
    });
}

#[test]
fn bytes_that_return_go_to_a_connection_that_waits_for_them() {
    paused(async {
        let bad = peer(|mut tcp, notes| async move {
            read_request(&mut tcp, &notes).await;
            if notes.requests.borrow().len() == 1 {
                tcp.write_all(OK.as_bytes()).await.unwrap();
            }
            sleep(Duration::from_secs(1000)).await;
        })
        .await;
        let mut rig = Rig::new(6 * 10_200);
        let body = vec![b'x'; 10_000];
        rig.attach(4, connection("c4", &bad.url)).await;
        rig.send(4, 1);
        // It may have two at a time now.
        assert_eq!(rig.disposition().await, Disposition::Delivered);
        for id in 1..=3 {
            rig.attach(id, connection(&format!("c{id}"), &bad.url)).await;
            rig.send_lane(id, 5, Lane::New, &body);
        }
        rig.evict();
        sleep(Duration::from_millis(5)).await;
        rig.send_lane(4, 5, Lane::New, &body);
        rig.evict();
        rig.evict();
        sleep(Duration::from_millis(5)).await;
        rig.receive();
        // The fourth has its one payload and wants more; it starts, hangs, and looks ahead.
        let last = rig.loads.iter().position(|load| load.connection().0 == 4);
        let load = rig.loads.remove(last.unwrap());
        rig.loads.clear();
        let payload = testing::event(&body);
        rig.port.send(&mut vec![FeedItem::Loaded(load, Some(payload))]);
        sleep(Duration::from_millis(5)).await;
        rig.command(Command::Detach(ConnectionId(1))).await;
        sleep(Duration::from_millis(5)).await;
        rig.receive();
        let more = rig.loads.iter().filter(|load| load.connection().0 == 4);
        assert_eq!(more.count(), 1);
    });
}

#[test]
fn after_a_hold_concurrency_starts_at_one() {
    paused(async {
        let peer = peer(|mut tcp, notes| async move {
            while read_request(&mut tcp, &notes).await {
                let number = notes.requests.borrow().len();
                sleep(Duration::from_millis(100)).await;
                let response = match number {
                    8 => "HTTP/1.1 503 Slow\r\nretry-after: 20\r\ncontent-length: 0\r\n\r\n",
                    _ => OK,
                };
                tcp.write_all(response.as_bytes()).await.unwrap();
            }
        })
        .await;
        let mut rig = Rig::with(connection("crm", &peer.url)).await;
        rig.send(1, 40);
        rig.settle(40).await;
        let times = peer.times();
        let back =
            times.windows(2).position(|pair| pair[1] - pair[0] > Duration::from_secs(10)).unwrap();
        let held = Duration::from_millis(50);
        let first = times[back + 1];
        let in_first_round = times[back + 1..].iter().filter(|at| **at < first + held);
        assert_eq!(in_first_round.count(), 1);
    });
}
