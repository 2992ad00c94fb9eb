//! A stop answers every open request and closes what is idle.

use super::*;

/// Begins to stop on a thread of its own; the handle ends when ingress has ended.
fn stop(relay: &mut Relay, grace: Duration) -> JoinHandle<()> {
    let running = relay.running.take().unwrap();
    running.begin_stop(grace);
    std::thread::spawn(move || running.join())
}

#[test]
fn every_open_request_is_answered_and_idle_connections_close() {
    let mut relay = Relay::start(|_| ());
    relay.disk(Disk::Hangs);
    let head = "POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n";
    let mut waits = relay.connect();
    waits.send(head).send("ab");
    eventually("one waits for the disk", || relay.live(0) == 1);
    let mut in_body = relay.connect();
    in_body.send(head).send("a");
    eventually("one sends its body", || relay.memory_used() > 514);
    let mut in_head = relay.connect();
    in_head.send("POST /v1/ev");
    let mut idle = relay.connect();
    assert_eq!(idle.post("/nowhere", "").status, 404);
    let mut fresh = relay.connect();
    let open = "posthaste_ingress_connections";
    eventually("all are accepted", || relay.metric(open) == 5.0);

    let ended = stop(&mut relay, PATIENCE);
    for (producer, what) in [(&mut in_body, "body"), (&mut in_head, "head")] {
        let answer = producer.answer();
        assert_eq!((answer.status, answer.code().as_str()), (503, "shutting_down"), "{what}");
        assert_eq!(answer.header("connection"), Some("close"), "{what}");
        assert!(producer.is_closed(), "{what}");
    }
    assert!(idle.is_closed() && fresh.is_closed());
    assert!(!ended.is_finished(), "one still waits for the disk");
    assert!(TcpStream::connect(relay.address).is_err(), "nothing is accepted");
    relay.disk(Disk::Works);
    let answer = waits.answer();
    assert_eq!((answer.status, answer.header("connection")), (202, Some("close")));
    assert!(waits.is_closed());
    drop((in_body, in_head));
    ended.join().unwrap();
    assert_eq!(relay.metric(open), 0.0);
}

#[test]
fn the_grace_bounds_a_store_that_hangs() {
    let mut relay = Relay::start(|_| ());
    relay.disk(Disk::Hangs);
    let mut waits = relay.connect();
    waits.send("POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nab");
    eventually("one waits for the disk", || relay.live(0) == 1);
    stop(&mut relay, Duration::from_millis(50)).join().unwrap();
    assert!(waits.stream.read(&mut [0]).is_ok_and(|read| read == 0));
}
