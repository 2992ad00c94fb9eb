//! Events that are taken.

use super::*;
use crate::store::intake::Fate;

#[test]
fn a_posted_event_is_stored_byte_for_byte_and_acknowledged() {
    let relay = Relay::start(|_| ());
    let headers = "Content-Type: application/json\r\nX-Secret: no\r\nCE-Id: 7\r\nposthaste-type: order.created\r\n";
    let answer = relay.connect().post_with("/v1/events", headers, "{\"a\": 1}");
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let json = answer.json();
    assert!(is_event_id(&json["id"]), "{json}");
    let expected = format!("{{\"id\":{},\"durable\":true,\"connections\":1}}", json["id"]);
    assert_eq!(answer.body, expected);

    let stored = relay.stored();
    let (event, routes) = &stored[0];
    assert_eq!(event.id.to_string(), json["id"]);
    assert_eq!(event.content.source(), "default");
    assert_eq!(event.content.kind(), "order.created");
    assert_eq!(event.content.body(), "{\"a\": 1}");
    let kept: Vec<_> = event.content.headers().collect();
    assert_eq!(kept, [("content-type", &b"application/json"[..]), ("ce-id", b"7")]);
    assert_eq!((routes.len(), routes[0].fate), (1, Fate::Queued));
    assert_eq!(relay.live(0), 1);
    eventually("memory given back", || relay.memory_used() == 0);
}

#[test]
fn a_connection_is_kept_alive_and_counted() {
    let relay = Relay::start(|_| ());
    let mut producer = relay.connect();
    for number in 0..5 {
        let body = "x".repeat(number);
        assert_eq!(producer.post("/v1/events", &body).status, 202, "{number}");
    }
    assert_eq!(relay.stored().len(), 5);
    assert_eq!(relay.stored()[0].0.content.body(), "", "an empty body is legal");
    let tcp = "posthaste_ingress_requests_total{listener=\"tcp\"}";
    assert_eq!(relay.metric(tcp), 5.0);
    assert_eq!(relay.metric("posthaste_ingress_body_bytes_total"), 10.0);
    assert_eq!(relay.metric("posthaste_ingress_connections"), 1.0);
    let accepted = "posthaste_deliveries_accepted_total{connection=\"crm\"}";
    assert_eq!(relay.metric(accepted), 5.0);
    let acks = relay.metric("posthaste_ingress_ack_duration_seconds_count");
    assert_eq!(acks, 5.0);
    drop(producer);
    eventually("the gauge follows", || relay.metric("posthaste_ingress_connections") == 0.0);
}

#[test]
fn chunks_are_put_together() {
    let relay = Relay::start(|_| ());
    let mut producer = relay.connect();
    producer
        .send("POST /v1/events HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
    producer.send("3\r\nabc\r\n").send("2;x=y\r\nde\r\n");
    let answer = producer.send("0\r\nTrailer: ignored\r\n\r\n").answer();
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(relay.stored()[0].0.content.body(), "abcde");
    assert_eq!(producer.post("/v1/events", "next").status, 202);
}

#[test]
fn expect_continue_is_honoured() {
    let relay = Relay::start(|_| ());
    let mut producer = relay.connect();
    let head = "POST /v1/events HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n";
    producer.send(head).send("Content-Length: 3\r\n\r\n");
    assert_eq!(producer.answer().status, 100);
    assert_eq!(producer.send("abc").answer().status, 202);

    // A body that is not wanted is not asked for.
    producer.send(head).send("Content-Length: 1025\r\n\r\n");
    let answer = producer.answer();
    assert_eq!((answer.status, answer.code().as_str()), (413, "body_too_large"));
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(producer.is_closed());
}

#[test]
fn a_request_may_come_byte_by_byte() {
    let relay = Relay::start(|_| ());
    let mut producer = relay.connect();
    producer.stream.set_nodelay(true).unwrap();
    let request = "POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nabcd";
    for _ in 0..2 {
        for byte in request.bytes() {
            producer.send([byte]);
        }
        assert_eq!(producer.answer().status, 202);
    }
    assert_eq!(relay.stored()[1].0.content.body(), "abcd");
}

#[test]
fn an_old_client_is_answered_and_closed() {
    let relay = Relay::start(|_| ());
    let mut producer = relay.connect();
    producer.send("POST /v1/events HTTP/1.0\r\nContent-Length: 2\r\n\r\nab");
    let answer = producer.answer();
    assert!(answer.head.starts_with("http/1.0 202"), "{answer:?}");
    assert!(producer.is_closed());
}

#[test]
fn an_upgrade_that_is_offered_is_ignored() {
    let relay = Relay::start(|_| ());
    let mut producer = relay.connect();
    let headers =
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n";
    for _ in 0..2 {
        let answer = producer.post_with("/v1/events", headers, "x");
        assert_eq!(answer.status, 202, "{answer:?}");
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let relay = Relay::start(|_| ());
    let mut producer = relay.connect();
    let one = |path: &str| {
        format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nab")
    };
    producer.send(one("/v1/events") + &one("/nowhere") + &one("/v1/events"));
    let statuses = [(); 3].map(|()| producer.answer().status);
    assert_eq!(statuses, [202, 404, 202]);
    assert_eq!(relay.stored().len(), 2);
}

#[test]
fn a_producer_that_shuts_its_side_down_gets_its_answer() {
    let relay = Relay::start(|_| ());
    relay.disk(Disk::Hangs);
    let mut producer = relay.connect();
    producer.send("POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nab");
    producer.stream.shutdown(std::net::Shutdown::Write).unwrap();
    eventually("the event is on its way", || relay.live(0) == 1);
    relay.disk(Disk::Works);
    assert_eq!(producer.answer().status, 202);
    assert!(producer.is_closed());
}

#[test]
fn a_producer_that_goes_away_leaves_its_event_and_no_memory() {
    let relay = Relay::start(|_| ());
    relay.disk(Disk::Hangs);
    let mut producer = relay.connect();
    producer.send("POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nab");
    eventually("the event is on its way", || relay.live(0) == 1);
    drop(producer);
    // By the second answer the runtime has seen that the producer is gone.
    let mut other = relay.connect();
    for _ in 0..2 {
        assert_eq!(other.post("/nowhere", "").status, 404);
    }
    assert!(relay.memory_used() > 0, "held until the store has answered");
    relay.disk(Disk::Works);
    eventually("memory given back", || relay.memory_used() == 0);
    assert_eq!(relay.stored().len(), 1);
}

#[test]
fn the_unix_socket_takes_events_from_any_host_and_origin() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("in.sock");
    let unix = UnixOptions { path: path.clone(), mode: 0o600, allow_uids: Vec::new() };
    let mut relay = Relay::start(|options| options.unix = Some(unix));
    let mut producer = Producer::unix(&path);
    let headers = "Origin: https://example.com\r\n";
    assert_eq!(producer.post_with("/v1/events", headers, "x").status, 202);
    let requests = "posthaste_ingress_requests_total{listener=\"unix\"}";
    assert_eq!(relay.metric(requests), 1.0);
    relay.stop(PATIENCE);
    assert!(!path.exists(), "removed on shutdown");
}

#[test]
fn several_runtimes_share_the_listeners() {
    let metrics = Metrics::new();
    let entries = entries(&metrics, vec![connection("crm")]);
    let options = IngressOptions {
        http: vec!["127.0.0.1:0".parse().unwrap(), "127.0.0.1:0".parse().unwrap()],
        limits: IngressLimits { max_connections: 1, ..IngressLimits::default() },
        ..IngressOptions::default()
    };
    let ingress = Ingress::bind(options, crate::listener::Sockets::default()).unwrap();
    let addresses = ingress.tcp_addresses().unwrap();
    let (ways, stores): (Vec<_>, Vec<_>) = (0..2)
        .map(|_| {
            let (intake, lane, store) = FakeStore::new();
            ((intake, lane), store)
        })
        .unzip();
    let parts = IngressParts {
        intakes: ways,
        routing: Arc::new(ArcSwap::from_pointee(RoutingTable::new(&entries, &Sources::default()))),
        keys: keys(&metrics),
        clock: Clock::system(),
        metrics,
        seed: 1,
    };
    let running = ingress.start(parts).unwrap();
    for address in addresses.iter().cycle().take(6) {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut producer = Producer { stream };
        producer.send("POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
        let taken = || stores.iter().map(|store| store.turn(|_| Ok(())).len()).sum::<usize>();
        eventually("one of the runtimes takes it", || taken() == 1);
        assert_eq!(producer.answer().status, 202);
    }
    assert!(!running.has_failed());
    running.stop(PATIENCE);
}

/// The store tells nothing here: at the deadline the answer has what is known.
#[test]
fn at_the_deadline_of_a_wait_the_answer_is_202() {
    let relay = Relay::start(|_| ());
    let mut producer = relay.connect();
    let answer = producer.post("/v1/events?wait=20ms", "x");
    assert_eq!(answer.status, 202, "{answer:?}");
    let json = answer.json();
    assert!(is_event_id(&json["id"]), "{json}");
    assert_eq!(json["connections"], serde_json::json!([{ "name": "crm", "state": "pending" }]));
    eventually("memory given back", || relay.memory_used() == 0);
    // An event that is known is not waited for.
    let keyed = "Idempotency-Key: k\r\n";
    let first = producer.post_with("/v1/events", keyed, "y");
    let again = producer.post_with("/v1/events?wait=60s", keyed, "y");
    assert_eq!((again.status, again.body), (202, first.body));
}

#[test]
fn an_event_is_put_off_by_its_headers() {
    let mut slow = connection("slow");
    slow.delay = Duration::from_secs(60);
    let relay = Relay::with(vec![connection("crm"), slow], |_| ());
    let mut producer = relay.connect();
    for headers in ["", "posthaste-delay: 5s\r\n", "posthaste-delay: 0s\r\n"] {
        assert_eq!(producer.post_with("/v1/events", headers, "x").status, 202);
    }
    let lines = "Content-Type: application/x-ndjson\r\nposthaste-delay: 7s\r\n";
    assert_eq!(producer.post_with("/v1/events/batch", lines, "1\n2").status, 202);
    let stored = relay.stored();
    let delays: Vec<_> = stored
        .iter()
        .map(|(_, routes)| routes.iter().map(|route| route.delay.as_secs()).collect::<Vec<_>>())
        .collect();
    assert_eq!(delays, [[0, 60], [5, 5], [0, 0], [7, 7], [7, 7]]);
    let answer = producer.post_with("/v1/events", "posthaste-delay: 8d\r\n", "x");
    assert_eq!((answer.status, answer.code().as_str()), (422, "invalid_delay"));
}
