//! What targets do, and what becomes of the delivery.

use super::peers::{Peer, answering, healthy, hung, peer, read_request, trickling};
use super::*;
use crate::delivery::testing::connection;
use tokio::io::AsyncWriteExt;

#[test]
fn a_healthy_target_gets_every_event_over_kept_connections() {
    paused(async {
        let peer = healthy().await;
        let mut rig = Rig::with(connection("crm", &peer.url)).await;
        rig.send(1, 200);
        let settled = rig.settle(200).await;
        for settlement in &settled {
            assert_eq!(settlement.disposition, Disposition::Delivered);
            assert_eq!(settlement.attempts, 1);
        }
        assert_eq!(peer.requests(), 200);
        assert!(peer.notes.accepted.get() <= 4, "{}", peer.notes.accepted.get());
        let request = peer.notes.requests.borrow()[0].1.clone();
        assert!(request.head.starts_with("POST /hook HTTP/1.1\r\n"), "{}", request.head);
        assert!(request.head.contains("webhook-timestamp: 1700000000\r\n"), "{}", request.head);
        assert_eq!(request.body, b"{\"a\":1}");
        for line in [
            "posthaste_deliveries_total{connection=\"crm\",outcome=\"delivered\"} 200",
            "posthaste_delivery_attempts_total{connection=\"crm\",code=\"ok\"} 200",
        ] {
            assert!(rig.counts(line), "{line}");
        }
    });
}

/// Sends one event to a target, and checks what became of it, under which code, and after how long.
async fn check(peer: Peer, expected: Disposition, code: &str, seconds: u64) {
    let mut rig = Rig::with(connection("crm", &peer.url)).await;
    let start = Instant::now();
    rig.send(1, 1);
    assert_eq!(rig.disposition().await, expected, "{code}");
    let took = start.elapsed().as_secs_f64();
    assert!((took - seconds as f64).abs() < 0.5, "{code} took {took} s, not {seconds}");
    let line = format!("posthaste_delivery_attempts_total{{connection=\"crm\",code=\"{code}\"}} 1");
    assert!(rig.counts(&line), "{line}\n{}", rig.metrics.render());
    assert!(peer.requests() <= 1, "{code}: it was asked again");
}

async fn answer(response: &'static str) -> Peer {
    answering(response, Duration::ZERO).await
}

#[test]
fn statuses_lead_where_they_should() {
    paused(async {
        for (response, expected, code) in [
            ("HTTP/1.1 204 No Content\r\n\r\n", Disposition::Delivered, "ok"),
            (
                "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n",
                Disposition::Delivered,
                "ok",
            ),
            ("HTTP/1.0 200 OK\r\n\r\n", Disposition::Delivered, "ok"),
            (
                "HTTP/1.1 503 Busy\r\nretry-after: 30\r\ncontent-length: 0\r\n\r\n",
                retry(30),
                "http_status",
            ),
            (
                "HTTP/1.1 503 Busy\r\nretry-after: Tue, 14 Nov 2023 22:14:20 GMT\r\ncontent-length: 0\r\n\r\n",
                retry(60),
                "http_status",
            ),
            (
                "HTTP/1.1 503 Busy\r\nretry-after: soon\r\ncontent-length: 0\r\n\r\n",
                retry(5),
                "http_status",
            ),
            (
                "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
                dead(Cause::Redirect, 302),
                "redirect",
            ),
            (
                "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
                dead(Cause::HttpStatus, 404),
                "http_status",
            ),
            ("HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n", dead(Cause::Gone, 410), "gone"),
            (
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
                dead(Cause::HttpStatus, 101),
                "http_status",
            ),
        ] {
            check(answer(response).await, expected, code, 0).await;
        }
    });
}

#[test]
fn bad_targets_cost_one_attempt_and_at_most_the_timeout() {
    paused(async {
        let second = Duration::from_secs(1);
        let third = Duration::from_millis(300);
        check(hung().await, retry(5), "request_timeout", 1).await;
        let trickle = trickling("HTTP/1.1 ", b"2", third).await;
        check(trickle, retry(5), "request_timeout", 1).await;
        let hints = trickling("", b"HTTP/1.1 103 Early Hints\r\n\r\n", third).await;
        check(hints, retry(5), "request_timeout", 1).await;
        check(answer("SMTP ready\r\n\r\n").await, retry(5), "protocol", 0).await;
        check(answer("HTTP/1.1 999999 OK\r\n\r\n").await, retry(5), "protocol", 0).await;
        let endless_head = trickling("HTTP/1.1 200 OK\r\nx: ", &[b'y'; 4096], Duration::ZERO).await;
        check(endless_head, retry(5), "protocol", 0).await;
        let headers = trickling("HTTP/1.1 200 OK\r\n", b"x: y\r\n", Duration::ZERO).await;
        check(headers, retry(5), "protocol", 0).await;
        let stalled = "HTTP/1.1 500 Oh\r\ncontent-length: 9\r\n\r\nhalf";
        check(trickling(stalled, b"", second).await, retry(5), "body_timeout", 1).await;
    });
}

#[test]
fn what_follows_a_success_status_does_not_matter() {
    paused(async {
        for first in [
            "HTTP/1.1 200 OK\r\ncontent-length: 10000000000\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nnonsense",
        ] {
            let peer = trickling(first, b"5\r\nabcde\r\n", Duration::ZERO).await;
            check(peer, Disposition::Delivered, "ok", 0).await;
        }
    });
}

#[test]
fn a_failure_with_an_endless_body_is_labelled() {
    paused(async {
        let large = "HTTP/1.1 500 Oh\r\ncontent-length: 10000000000\r\n\r\n";
        let peer = trickling(large, &[b'x'; 4096], Duration::ZERO).await;
        check(peer, retry(5), "response_too_large", 0).await;
        let chunked = "HTTP/1.1 404 Oh\r\ntransfer-encoding: chunked\r\n\r\n";
        let peer = trickling(chunked, b"5\r\nabcde\r\n", Duration::ZERO).await;
        check(peer, dead(Cause::HttpStatus, 404), "response_too_large", 0).await;
    });
}

#[test]
fn nobody_there_is_refused() {
    paused(async {
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", free.local_addr().unwrap());
        drop(free);
        let mut rig = Rig::with(connection("crm", &url)).await;
        rig.send(1, 1);
        assert_eq!(rig.disposition().await, retry(5));
        assert!(rig.counts(
            "posthaste_delivery_attempts_total{connection=\"crm\",code=\"connect_refused\"} 1"
        ));
    });
}

#[test]
fn a_target_that_closes_at_once_is_asked_once_per_attempt() {
    paused(async {
        let peer = peer(|mut tcp, notes| async move {
            read_request(&mut tcp, &notes).await;
        })
        .await;
        check(peer, retry(5), "connect_reset", 0).await;
    });
}

/// A target that answers `answers` requests on each connection and closes on reading the next one.
async fn closing_after(answers: usize) -> Peer {
    peer(move |mut tcp, notes| async move {
        for _ in 0..answers {
            if !read_request(&mut tcp, &notes).await {
                return;
            }
            let ok = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            tcp.write_all(ok).await.unwrap();
        }
        read_request(&mut tcp, &notes).await;
    })
    .await
}

#[test]
fn a_kept_connection_closed_as_we_wrote_costs_no_attempt() {
    paused(async {
        let peer = closing_after(2).await;
        let mut connection = connection("crm", &peer.url);
        connection.max_in_flight = 1;
        let mut rig = Rig::with(connection).await;
        rig.send(1, 7);
        for settlement in rig.settle(7).await {
            assert_eq!(settlement.disposition, Disposition::Delivered);
            assert_eq!(settlement.attempts, 1);
        }
        // 2 answers on each of 4 connections, and 3 closed on reading the third request.
        assert_eq!((peer.notes.accepted.get(), peer.requests()), (4, 10));
        assert!(rig.counts("posthaste_connections_opened_total{connection=\"crm\"} 4"));
        assert!(rig.counts("posthaste_delivery_attempts_total{connection=\"crm\",code=\"ok\"} 7"));
    });
}

#[test]
fn a_hung_target_does_not_touch_another() {
    paused(async {
        let (bad, good) = (hung().await, healthy().await);
        let mut rig = Rig::with(connection("bad", &bad.url)).await;
        rig.attach(2, connection("good", &good.url)).await;
        rig.send(1, 100);
        rig.send(2, 500);
        let start = Instant::now();
        rig.wait(|rig| rig.settled.iter().filter(|s| s.id.connection.0 == 2).count() == 500).await;
        assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
        assert_eq!(bad.notes.accepted.get(), 1, "a target that never answered is not ramped up");
    });
}

#[test]
fn a_kept_connection_that_hangs_is_a_timeout_and_not_tried_at_once() {
    paused(async {
        let peer = peer(|mut tcp, notes| async move {
            read_request(&mut tcp, &notes).await;
            let ok = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            tcp.write_all(ok).await.unwrap();
            read_request(&mut tcp, &notes).await;
            sleep(Duration::from_secs(1000)).await;
        })
        .await;
        let mut rig = Rig::with(connection("crm", &peer.url)).await;
        rig.send(1, 1);
        assert_eq!(rig.disposition().await, Disposition::Delivered);
        rig.send(1, 1);
        assert_eq!(rig.disposition().await, retry(5));
        assert_eq!((peer.notes.accepted.get(), peer.requests()), (1, 2));
    });
}
