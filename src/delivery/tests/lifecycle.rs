//! Attaching, replacing, detaching, draining: each delivery comes back once, whatever happens.

use super::peers::{answering, healthy, hung, read_request};
use super::*;
use crate::connection::State;
use crate::connection::breaker::Ticket;
use crate::delivery::outbox::Outbox;
use crate::delivery::runtime::Shared;
use crate::delivery::testing::connection;
use crate::delivery::worker::Job;
use crate::delivery::{Dispatcher, DispatcherOptions};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use tokio::io::AsyncWriteExt;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

#[test]
fn deliveries_of_an_unknown_connection_are_released() {
    paused(async {
        let mut rig = Rig::new(1 << 20);
        rig.send(7, 3);
        rig.wait(|rig| rig.released.len() == 3).await;
    });
}

#[test]
fn a_detached_connection_gives_back_what_it_did_not_start() {
    paused(async {
        let peer = answering(OK, Duration::from_millis(500)).await;
        let mut rig = Rig::with(connection("crm", &peer.url)).await;
        rig.send(1, 10);
        sleep(Duration::from_millis(100)).await;
        rig.command(Command::Detach(ConnectionId(1))).await;
        rig.wait(|rig| rig.out.is_empty()).await;
        assert_eq!((rig.settled.len(), rig.released.len()), (1, 9));
        assert_eq!(peer.requests(), 1);
        assert_eq!(rig.settled[0].disposition, Disposition::Delivered);
    });
}

#[test]
fn a_payload_that_comes_after_the_detach_is_released() {
    paused(async {
        let peer = healthy().await;
        let mut rig = Rig::with(connection("crm", &peer.url)).await;
        rig.send(1, 1);
        rig.evict();
        sleep(Duration::from_millis(5)).await;
        rig.receive();
        rig.command(Command::Detach(ConnectionId(1))).await;
        sleep(Duration::from_millis(5)).await;
        let delivery = rig.loads.remove(0);
        rig.port.send(&mut vec![FeedItem::Loaded(delivery, Some(testing::event(b"")))]);
        rig.wait(|rig| rig.released.len() == 1).await;
    });
}

#[test]
fn draining_waits_for_attempts_and_releases_the_rest() {
    paused(async {
        let (slow, stuck) = (answering(OK, Duration::from_millis(500)).await, hung().await);
        let mut rig = Rig::with(connection("slow", &slow.url)).await;
        let mut patient = connection("stuck", &stuck.url);
        patient.request_timeout = Duration::from_secs(60);
        rig.attach(2, patient).await;
        rig.send(1, 5);
        rig.send(2, 5);
        sleep(Duration::from_millis(100)).await;
        let start = Instant::now();
        rig.drain(Duration::from_secs(3)).await;
        assert_eq!(start.elapsed().as_secs(), 3);
        // The test's runtime goes on after the drain; a real one ends, and its tasks with it.
        rig.receive();
        assert_eq!((rig.settled.len(), rig.released.len()), (1, 8));
    });
}

#[test]
fn an_edit_changes_the_next_attempt_and_keeps_the_connection_where_it_can() {
    paused(async {
        let (old, new) = (answering(OK, Duration::from_millis(500)).await, healthy().await);
        let mut before = connection("crm", &old.url);
        before.max_in_flight = 1;
        let mut rig = Rig::with(before.clone()).await;
        rig.send(1, 1);
        sleep(Duration::from_millis(100)).await;
        let mut renamed = before.clone();
        renamed
            .headers
            .push((http::HeaderName::from_static("x-new"), http::HeaderValue::from_static("1")));
        rig.replace(1, renamed).await;
        rig.send(1, 1);
        rig.settle(2).await;
        let heads: Vec<_> =
            old.notes.requests.borrow().iter().map(|(_, r)| r.head.clone()).collect();
        assert!(!heads[0].contains("x-new") && heads[1].contains("x-new: 1"), "{heads:?}");
        assert_eq!(old.notes.accepted.get(), 1, "the target is the same");
        let mut moved = before;
        moved.target = connection("crm", &new.url).target;
        rig.replace(1, moved).await;
        rig.send(1, 3);
        rig.settle(3).await;
        assert_eq!((old.requests(), new.requests()), (2, 3));
    });
}

#[test]
fn idle_connections_are_closed_in_time_and_a_close_is_seen() {
    paused(async {
        let peer = healthy().await;
        let mut rig = Rig::new(1 << 20);
        let status = rig.attach(1, connection("crm", &peer.url)).await;
        rig.send(1, 1);
        rig.settle(1).await;
        sleep(Duration::from_secs(29)).await;
        assert_eq!(status.idle.load(Ordering::Relaxed), 1);
        sleep(Duration::from_secs(2)).await;
        assert_eq!(status.open.load(Ordering::Relaxed), 0);
        let closing = super::peers::peer(|mut tcp, notes| async move {
            read_request(&mut tcp, &notes).await;
            tcp.write_all(OK.as_bytes()).await.unwrap();
            sleep(Duration::from_secs(1)).await;
        })
        .await;
        let status = rig.attach(2, connection("closing", &closing.url)).await;
        rig.send(2, 1);
        rig.settle(1).await;
        assert_eq!(status.idle.load(Ordering::Relaxed), 1);
        sleep(Duration::from_millis(1100)).await;
        assert_eq!(status.open.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn an_old_connection_is_replaced() {
    paused(async {
        let peer = healthy().await;
        let mut connection = connection("crm", &peer.url);
        connection.pool.max_lifetime = Duration::from_secs(10);
        let mut rig = Rig::with(connection).await;
        for _ in 0..30 {
            rig.send(1, 1);
            rig.settle(1).await;
            sleep(Duration::from_secs(1)).await;
        }
        let accepted = peer.notes.accepted.get();
        assert!((3..=4).contains(&accepted), "{accepted}");
    });
}

#[test]
fn an_old_connection_that_is_never_idle_is_replaced_too() {
    paused(async {
        let peer = answering(OK, Duration::from_millis(500)).await;
        let mut connection = connection("crm", &peer.url);
        connection.max_in_flight = 1;
        connection.pool.max_lifetime = Duration::from_secs(10);
        let mut rig = Rig::with(connection).await;
        rig.send(1, 60);
        rig.settle(60).await;
        assert_eq!(peer.notes.accepted.get(), 3);
    });
}

#[test]
fn whatever_happens_each_delivery_comes_back_once() {
    for seed in 0..20 {
        paused(async move {
            let mut rng = fastrand::Rng::with_seed(seed);
            let peers = [
                healthy().await,
                hung().await,
                answering(
                    "HTTP/1.1 503 No\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n",
                    Duration::ZERO,
                )
                .await,
                answering(OK, Duration::from_millis(200)).await,
            ];
            let mut rig = Rig::new(100_000);
            for _ in 0..60 {
                let id = rng.u32(1..4);
                let target = &peers[rng.usize(..peers.len())];
                let mut settings = connection(&format!("c{id}"), &target.url);
                settings.max_in_flight = rng.u32(1..6);
                match rng.u32(..10) {
                    0 => drop(rig.attach(id, settings).await),
                    1 => rig.replace(id, settings).await,
                    2 => rig.command(Command::Detach(ConnectionId(id))).await,
                    3 => {
                        settings.state = State::Paused;
                        rig.replace(id, settings).await;
                    }
                    4 => rig.evict(),
                    _ => rig.send(id, rng.u32(..30)),
                }
                sleep(Duration::from_millis(rng.u64(..400))).await;
                rig.receive();
                let payload = testing::event(b"loaded");
                let loads = rig.loads.drain(..);
                let mut items: Vec<_> = loads
                    .map(|load| FeedItem::Loaded(load, rng.bool().then(|| Arc::clone(&payload))))
                    .collect();
                rig.port.send(&mut items);
            }
            rig.drain(Duration::from_secs(5)).await;
            // What is being loaded now is the store's, as after a stop.
            let loading: Vec<_> = rig.loads.iter().map(|load| load.id.slot).collect();
            rig.receive();
            for slot in loading.into_iter().chain(rig.loads.iter().map(|load| load.id.slot)) {
                rig.out.remove(&slot);
            }
            assert_eq!(rig.out, BTreeSet::new(), "seed {seed}");
        });
    }
}

#[test]
fn a_panicking_worker_leaves_a_dead_letter_and_gives_its_bytes_back() {
    paused(async {
        let (feed, port) = feed_for_test();
        let shared = Rc::new(Shared::new(
            feed,
            Clock::manual(WALL_MS),
            1000,
            1,
            mpsc::channel(1).0,
            crate::client::ask(Vec::new()),
        ));
        let metrics = Metrics::new().connection("crm");
        let settings = prepared(connection("crm", "http://127.0.0.1:1/"));
        let outbox = Outbox::new(&shared, ConnectionId(1), *settings, metrics, Arc::default());
        let event = testing::event(b"{}");
        let delivery = testing::delivery(1, 7, Lane::New, &event);
        let job = Job::new(&outbox, delivery, Arc::clone(&event), Ticket::default());
        let worker = tokio::task::spawn_local(async move {
            let _job = job;
            panic!("as a bug would");
        });
        assert!(worker.await.unwrap_err().is_panic());
        let (settled, released, _) = port.receive_for_test();
        assert_eq!((settled.len(), released.len()), (1, 0));
        assert_eq!(settled[0].disposition, dead(Cause::Internal, 0));
    });
}

#[test]
fn a_dispatcher_gives_back_attempts_that_outlive_the_drain() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let peer = hung().await;
        let (feed, port) = feed_for_test();
        let options = DispatcherOptions { payload_bytes: 1 << 20, seed: 1, resolvers: Vec::new() };
        let metrics = Metrics::new();
        let dispatcher =
            Dispatcher::start(options, vec![feed], &Clock::system(), &metrics).unwrap();
        let settings = Arc::new(connection("crm", &peer.url));
        let prepared = prepare(&settings).unwrap();
        dispatcher.attach(ConnectionId(1), prepared, Arc::default()).await;
        let event = testing::event(b"{}");
        let delivery = testing::delivery(1, 1, Lane::New, &event);
        port.send(&mut vec![FeedItem::Due(delivery)]);
        while peer.requests() == 0 {
            sleep(Duration::from_millis(1)).await;
        }
        dispatcher.drain(Duration::ZERO).await;
        let (settled, released, _) = port.receive_for_test();
        assert_eq!((settled.len(), released.len()), (0, 1));
    });
}

#[test]
fn a_dispatcher_delivers_on_its_own_threads_and_ends() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let peer = healthy().await;
        let (feeds, ports): (Vec<_>, Vec<_>) = (0..2).map(|_| feed_for_test()).unzip();
        let options = DispatcherOptions { payload_bytes: 1 << 20, seed: 1, resolvers: Vec::new() };
        let metrics = Metrics::new();
        let dispatcher = Dispatcher::start(options, feeds, &Clock::system(), &metrics).unwrap();
        let settings = Arc::new(connection("crm", &peer.url));
        let id = ConnectionId(1);
        dispatcher.attach(id, prepare(&settings).unwrap(), Arc::default()).await;
        let port = &ports[Dispatcher::runtime_of("crm", 2)];
        let event = testing::event(b"{}");
        let mut items: Vec<_> = (0..50)
            .map(|slot| FeedItem::Due(testing::delivery(1, slot, Lane::New, &event)))
            .collect();
        port.send(&mut items);
        let mut settled = 0;
        while settled < 50 {
            sleep(Duration::from_millis(1)).await;
            settled += port.receive_for_test().0.len();
        }
        assert!(dispatcher.status(id).is_some());
        assert_eq!(dispatcher.ticks().len(), 2);
        assert!(dispatcher.ticks().iter().all(|ticks| *ticks >= 1));
        dispatcher.drain(Duration::from_secs(5)).await;
        assert_eq!(peer.requests(), 50);
    });
}
