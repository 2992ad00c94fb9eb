//! Targets that speak HTTP/2, good and bad, on loopback sockets.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::connection::Http2;
use crate::delivery::testing::connection;
use crate::event::Cause;

/// What a target does with a stream.
#[derive(Clone, Copy)]
enum Reply {
    /// Answers after a while.
    Status(u16, Duration),
    /// Answers, with a head of this many bytes and a body that never ends.
    Endless(u16, usize),
    Reset(Reason),
    Hang,
    /// Answers, and closes the TCP connection when it has nothing to do.
    Last,
}

#[derive(Default)]
struct Notes {
    accepted: Cell<usize>,
    closed: Cell<usize>,
    requests: RefCell<Vec<(http::request::Parts, Bytes)>>,
    open: Cell<usize>,
    open_most: Cell<usize>,
}

struct Peer {
    url: String,
    notes: Rc<Notes>,
}

/// A target that allows so many streams and does with the nth what `reply` says.
async fn target(streams_max: u32, reply: impl Fn(usize) -> Reply + Clone + 'static) -> Peer {
    raw(move |tcp, notes| serve(tcp, notes, streams_max, reply.clone())).await
}

async fn raw<Fut: Future<Output = ()> + 'static>(
    handle: impl Fn(TcpStream, Rc<Notes>) -> Fut + 'static,
) -> Peer {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook?x=1", listener.local_addr().unwrap());
    let notes: Rc<Notes> = Rc::default();
    let shared = Rc::clone(&notes);
    tokio::task::spawn_local(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            // Paused time runs on while the kernel waits for more to send.
            tcp.set_nodelay(true).unwrap();
            shared.accepted.set(shared.accepted.get() + 1);
            let (handled, notes) = (handle(tcp, Rc::clone(&shared)), Rc::clone(&shared));
            tokio::task::spawn_local(async move {
                handled.await;
                notes.closed.set(notes.closed.get() + 1);
            });
        }
    });
    Peer { url, notes }
}

async fn serve(tcp: TcpStream, notes: Rc<Notes>, streams_max: u32, reply: impl Fn(usize) -> Reply) {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(streams_max);
    let Ok(mut connection) = builder.handshake::<_, Bytes>(tcp).await else {
        return;
    };
    while let Some(Ok((request, respond))) = connection.accept().await {
        let number = notes.requests.borrow().len();
        let reply = reply(number);
        if matches!(reply, Reply::Last) {
            connection.graceful_shutdown();
        }
        let (head, body) = request.into_parts();
        // The place in the order of arrival; the body follows.
        notes.requests.borrow_mut().push((head, Bytes::new()));
        notes.open.set(notes.open.get() + 1);
        notes.open_most.set(notes.open_most.get().max(notes.open.get()));
        tokio::task::spawn_local(stream(Rc::clone(&notes), number, body, respond, reply));
    }
}

async fn stream(
    notes: Rc<Notes>,
    number: usize,
    mut body: h2::RecvStream,
    mut respond: SendResponse<Bytes>,
    reply: Reply,
) {
    let mut whole = Vec::new();
    while let Some(Ok(data)) = body.data().await {
        whole.extend_from_slice(&data);
        let _ = body.flow_control().release_capacity(data.len());
    }
    notes.requests.borrow_mut()[number].1 = whole.into();
    let head = |status: u16| http::Response::builder().status(status);
    match reply {
        Reply::Status(status, after) => {
            sleep(after).await;
            notes.open.set(notes.open.get() - 1);
            let _ = respond.send_response(head(status).body(()).unwrap(), true);
        }
        Reply::Last => {
            let _ = respond.send_response(head(200).body(()).unwrap(), true);
        }
        Reply::Reset(reason) => respond.send_reset(reason),
        Reply::Endless(status, bytes) => {
            let head = head(status).header("x-long", "x".repeat(bytes)).body(()).unwrap();
            let Ok(mut sender) = respond.send_response(head, false) else {
                return;
            };
            loop {
                sender.reserve_capacity(16 * 1024);
                match std::future::poll_fn(|cx| sender.poll_capacity(cx)).await {
                    Some(Ok(bytes)) => {
                        let _ = sender.send_data(Bytes::from(vec![b'y'; bytes]), false);
                    }
                    _ => return,
                }
            }
        }
        Reply::Hang => std::future::pending().await,
    }
}

fn h2c(peer: &Peer) -> Connection {
    let mut connection = connection("crm", &peer.url);
    connection.http2 = Http2 { enabled: true, prior_knowledge: true };
    connection
}

const OK: Reply = Reply::Status(200, Duration::ZERO);

/// Sends one event, and checks what became of it, under which code, and that it was one attempt.
async fn check(rig: &mut Rig, expected: Disposition, code: &str) {
    rig.send(1, 1);
    let settled = rig.settle(1).await.remove(0);
    assert_eq!((settled.disposition, settled.attempts), (expected, 1), "{code}");
    let line = format!("posthaste_delivery_attempts_total{{connection=\"crm\",code=\"{code}\"}} 1");
    assert!(rig.counts(&line), "{line}\n{}", rig.metrics.render());
}

#[test]
fn all_attempts_share_one_connection_within_the_same_limits() {
    paused(async {
        let peer = target(100, |_| Reply::Status(200, Duration::from_millis(20))).await;
        let mut connection = h2c(&peer);
        connection.host_header = Some(http::HeaderValue::from_static("crm.internal:81"));
        let mut rig = Rig::new(1 << 20);
        let status = rig.attach(1, connection).await;
        rig.send(1, 200);
        for settled in rig.settle(200).await {
            assert_eq!((settled.disposition, settled.attempts), (Disposition::Delivered, 1));
        }
        assert_eq!(peer.notes.accepted.get(), 1);
        assert_eq!(peer.notes.open_most.get(), 4);
        assert!(rig.counts("posthaste_connections_opened_total{connection=\"crm\"} 1"));
        assert_eq!(status.open.load(Ordering::Relaxed), 1, "four workers share it");
        assert_eq!(status.idle.load(Ordering::Relaxed), 1);
        let requests = peer.notes.requests.borrow();
        assert_eq!(requests.len(), 200);
        let (head, body) = &requests[0];
        assert_eq!(head.method, http::Method::POST);
        assert_eq!(head.uri, "http://crm.internal:81/hook?x=1");
        assert_eq!(head.headers["content-length"], "7");
        assert_eq!(head.headers["webhook-timestamp"], "1700000000");
        assert!(!head.headers.contains_key("host"), "{head:?}");
        assert_eq!(&body[..], b"{\"a\":1}");
    });
}

#[test]
fn statuses_lead_where_they_do_over_http1() {
    paused(async {
        for (status, expected, code) in [
            (204, Disposition::Delivered, "ok"),
            (500, retry(5), "http_status"),
            (404, dead(Cause::HttpStatus, 404), "http_status"),
            (410, dead(Cause::Gone, 410), "gone"),
        ] {
            let peer = target(100, move |_| Reply::Status(status, Duration::ZERO)).await;
            let mut rig = Rig::with(h2c(&peer)).await;
            check(&mut rig, expected, code).await;
        }
    });
}

#[test]
fn a_stream_that_hangs_ends_alone() {
    paused(async {
        let peer = target(100, |number| match number {
            1 => Reply::Hang,
            _ => Reply::Status(200, Duration::from_millis(300)),
        })
        .await;
        let mut rig = Rig::with(h2c(&peer)).await;
        let start = Instant::now();
        rig.send(1, 12);
        let settled = rig.settle(12).await;
        let late = settled.iter().filter(|settled| settled.disposition == retry(5));
        assert_eq!((late.count(), start.elapsed().as_secs()), (1, 1));
        assert!(rig.counts(
            "posthaste_delivery_attempts_total{connection=\"crm\",code=\"request_timeout\"} 1"
        ));
        rig.send(1, 1);
        rig.settle(1).await;
        assert_eq!(peer.notes.accepted.get(), 1, "the others' answers show that it is alive");
    });
}

#[test]
fn a_connection_that_is_not_heard_is_left() {
    paused(async {
        let peer = raw(|mut tcp, notes| async move {
            if notes.accepted.get() > 1 {
                return serve(tcp, notes, 100, |_| OK).await;
            }
            while tcp.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {}
        })
        .await;
        let mut rig = Rig::with(h2c(&peer)).await;
        check(&mut rig, retry(5), "request_timeout").await;
        check(&mut rig, Disposition::Delivered, "ok").await;
        assert_eq!(peer.notes.accepted.get(), 2);
    });
}

#[test]
fn a_refused_stream_is_no_attempt() {
    paused(async {
        let refusing = |number| if number < 3 { Reply::Reset(Reason::REFUSED_STREAM) } else { OK };
        let peer = target(100, refusing).await;
        let mut rig = Rig::with(h2c(&peer)).await;
        check(&mut rig, Disposition::Delivered, "ok").await;
        assert_eq!((peer.notes.requests.borrow().len(), peer.notes.accepted.get()), (4, 1));
        for (head, _) in peer.notes.requests.borrow().iter() {
            assert_eq!(head.headers["posthaste-attempt"], "1");
        }
    });
}

#[test]
fn a_target_that_refuses_for_ever_costs_an_attempt() {
    paused(async {
        let peer = target(100, |_| Reply::Reset(Reason::REFUSED_STREAM)).await;
        let mut rig = Rig::with(h2c(&peer)).await;
        check(&mut rig, retry(5), "protocol").await;
        assert_eq!(peer.notes.requests.borrow().len(), 4);
        // Another reason may mean that it was processed.
        let peer = target(100, |_| Reply::Reset(Reason::INTERNAL_ERROR)).await;
        let mut rig = Rig::with(h2c(&peer)).await;
        check(&mut rig, retry(5), "protocol").await;
        assert_eq!(peer.notes.requests.borrow().len(), 1);
    });
}

/// SETTINGS without any, and GOAWAY with last stream 0 and this error code (RFC 9113, 6.5 and 6.8).
fn farewell(code: u8) -> Vec<u8> {
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let goaway = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, code];
    [&settings[..], &goaway].concat()
}

#[test]
fn what_a_goaway_leaves_out_goes_to_a_new_connection() {
    paused(async {
        let peer = raw(|mut tcp, notes| async move {
            if notes.accepted.get() > 1 {
                return serve(tcp, notes, 100, |_| OK).await;
            }
            let mut seen = Vec::new();
            // The preface, SETTINGS, WINDOW_UPDATE, and the request's HEADERS.
            while !seen.windows(4).any(|frame| frame == [1, 4, 0, 0]) {
                let mut buffer = [0; 1024];
                let read = tcp.read(&mut buffer).await.unwrap();
                seen.extend_from_slice(&buffer[..read]);
            }
            tcp.write_all(&farewell(0)).await.unwrap();
            while tcp.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {}
        })
        .await;
        let mut rig = Rig::with(h2c(&peer)).await;
        check(&mut rig, Disposition::Delivered, "ok").await;
        assert_eq!(peer.notes.accepted.get(), 2);
    });
}

#[test]
fn a_goaway_before_the_request_costs_nothing() {
    paused(async {
        let peer = target(100, |number| if number % 10 == 9 { Reply::Last } else { OK }).await;
        let mut rig = Rig::with(h2c(&peer)).await;
        rig.send(1, 100);
        for settled in rig.settle(100).await {
            assert_eq!((settled.disposition, settled.attempts), (Disposition::Delivered, 1));
        }
        let accepted = peer.notes.accepted.get();
        assert!((8..=20).contains(&accepted), "{accepted}");
        assert_eq!(peer.notes.requests.borrow().len(), 100, "nothing went twice");
    });
}

#[test]
fn more_than_the_target_allows_goes_over_more_connections() {
    paused(async {
        let peer = target(1, |_| Reply::Status(200, Duration::from_millis(50))).await;
        let mut rig = Rig::with(h2c(&peer)).await;
        rig.send(1, 40);
        for settled in rig.settle(40).await {
            assert_eq!((settled.disposition, settled.attempts), (Disposition::Delivered, 1));
        }
        assert_eq!(peer.notes.open_most.get(), 4);
        assert_eq!(peer.notes.accepted.get(), 4);
    });
}

#[test]
fn a_kept_connection_that_was_closed_is_no_attempt() {
    paused(async {
        let peer = raw(|tcp, notes| async move {
            let first = notes.accepted.get() == 1;
            let served = serve(tcp, notes, 100, |_| OK);
            match first {
                // No farewell: the socket is just gone.
                true => drop(tokio::time::timeout(Duration::from_secs(2), served).await),
                false => served.await,
            }
        })
        .await;
        let mut rig = Rig::with(h2c(&peer)).await;
        rig.send(1, 1);
        rig.settle(1).await;
        sleep(Duration::from_secs(5)).await;
        rig.send(1, 1);
        let settled = rig.settle(1).await.remove(0);
        assert_eq!((settled.disposition, settled.attempts), (Disposition::Delivered, 1));
        assert_eq!(peer.notes.accepted.get(), 2);
    });
}

#[test]
fn a_kept_connection_that_closes_as_we_write_is_no_attempt() {
    paused(async {
        let peer = raw(|tcp, notes| async move {
            if notes.accepted.get() > 1 {
                return serve(tcp, notes, 100, |_| OK).await;
            }
            let mut connection = h2::server::handshake(tcp).await.unwrap();
            let (_, mut respond) = connection.accept().await.unwrap().unwrap();
            respond.send_response(http::Response::new(()), true).unwrap();
            // The next one is not even looked at.
            let next: Option<Result<(_, SendResponse<Bytes>), _>> = connection.accept().await;
            drop((connection, next));
        })
        .await;
        let mut rig = Rig::with(h2c(&peer)).await;
        rig.send(1, 1);
        rig.settle(1).await;
        rig.send(1, 1);
        let settled = rig.settle(1).await.remove(0);
        assert_eq!((settled.disposition, settled.attempts), (Disposition::Delivered, 1));
        assert_eq!(peer.notes.accepted.get(), 2);
        // On a new one, it is an attempt.
        let peer = raw(|tcp, _| async move {
            let mut connection = h2::server::handshake(tcp).await.unwrap();
            let next: Option<Result<(_, SendResponse<Bytes>), _>> = connection.accept().await;
            drop((connection, next));
        })
        .await;
        let mut rig = Rig::with(h2c(&peer)).await;
        check(&mut rig, retry(5), "connect_reset").await;
    });
}

#[test]
fn bodies_and_heads_are_bounded() {
    paused(async {
        let peer = target(100, |number| match number {
            0 => Reply::Endless(404, 10),
            1 => Reply::Endless(200, 10),
            2 => Reply::Endless(200, 33 * 1024),
            _ => OK,
        })
        .await;
        let mut rig = Rig::with(h2c(&peer)).await;
        check(&mut rig, dead(Cause::HttpStatus, 404), "response_too_large").await;
        check(&mut rig, Disposition::Delivered, "ok").await;
        assert_eq!(peer.notes.accepted.get(), 1, "the streams are reset, not the connection");
        check(&mut rig, retry(5), "protocol").await;
        rig.send(1, 1);
        assert_eq!(rig.disposition().await, Disposition::Delivered);
    });
}

#[test]
fn a_target_that_does_not_speak_it_is_a_protocol_error() {
    paused(async {
        let peer = super::peers::healthy().await;
        let mut connection = connection("crm", &peer.url);
        connection.http2 = Http2 { enabled: true, prior_knowledge: true };
        let mut rig = Rig::with(connection).await;
        check(&mut rig, retry(5), "protocol").await;
    });
}

#[test]
fn an_idle_connection_is_closed_and_an_old_one_replaced() {
    paused(async {
        let peer = target(100, |_| OK).await;
        let mut rig = Rig::with(h2c(&peer)).await;
        rig.send(1, 8);
        rig.settle(8).await;
        sleep(Duration::from_secs(29)).await;
        assert_eq!((peer.notes.accepted.get(), peer.notes.closed.get()), (1, 0));
        sleep(Duration::from_secs(2)).await;
        assert_eq!(peer.notes.closed.get(), 1);
        // From here on one event each 20 s, for longer than max_lifetime.
        for _ in 0..20 {
            rig.send(1, 1);
            rig.settle(1).await;
            sleep(Duration::from_secs(20)).await;
        }
        assert_eq!((peer.notes.accepted.get(), peer.notes.closed.get()), (3, 2));
    });
}

#[test]
fn who_comes_while_one_dials_joins_it() {
    paused(async {
        let peer = target(100, |_| Reply::Status(200, Duration::from_millis(5))).await;
        let mut rig = Rig::with(h2c(&peer)).await;
        rig.send(1, 50);
        rig.settle(50).await;
        // Other settings: the old connection serves them no more, and four workers want a new one at once.
        let mut other = h2c(&peer);
        other.egress.allow.push("10.0.0.0/8".parse().unwrap());
        rig.replace(1, other).await;
        rig.send(1, 50);
        rig.settle(50).await;
        assert_eq!(peer.notes.accepted.get(), 2);
        assert_eq!(peer.notes.open_most.get(), 4);
    });
}

#[test]
fn a_dial_that_fails_fails_all_who_wait_for_it_and_no_more() {
    paused(async {
        let peer = target(100, |_| Reply::Status(200, Duration::from_millis(5))).await;
        let mut rig = Rig::with(h2c(&peer)).await;
        rig.send(1, 50);
        rig.settle(50).await;
        let silly = raw(|mut tcp, _| async move {
            let _ = tcp.read(&mut [0; 1024]).await;
            sleep(Duration::from_millis(300)).await;
            let _ = tcp.write_all(b"this is not TLS").await;
        })
        .await;
        let mut gone = h2c(&peer);
        let url = silly.url.replace("http://", "https://");
        gone.target = crate::connection::Target::parse(&url).unwrap();
        gone.tls.verify = false;
        rig.replace(1, gone).await;
        rig.send(1, 4);
        for settled in rig.settle(4).await {
            assert_eq!((settled.disposition, settled.attempts), (retry(5), 1));
        }
        assert!(rig.counts(
            "posthaste_delivery_attempts_total{connection=\"crm\",code=\"tls_protocol\"} 4"
        ));
        assert_eq!(silly.notes.accepted.get(), 1);
    });
}

/// A TLS server for 127.0.0.1 that knows none of our certificates, and the authority that signed its own.
async fn mistrusting(alpn: &str) -> (String, Vec<u8>) {
    use rustls::server::WebPkiClientVerifier;
    let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(own.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let key = rustls::pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    tokio::task::spawn_local(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::task::spawn_local(async move {
                tcp.set_nodelay(true).unwrap();
                assert!(acceptor.accept(tcp).await.is_err());
            });
        }
    });
    (url, own.cert.pem().into_bytes())
}

/// With TLS 1.3 the peer's refusal comes after the handshake, and HTTP hears it first.
#[test]
fn a_refused_client_certificate_is_named_under_both_versions() {
    paused(async {
        for alpn in ["h2", "http/1.1"] {
            let (url, pem) = mistrusting(alpn).await;
            let mut connection = connection("crm", &url);
            connection.tls.ca = Some(crate::connection::CaFile { path: "ca.pem".into(), pem });
            let mut rig = Rig::with(connection).await;
            check(&mut rig, retry(5), "tls_client_cert").await;
        }
    });
}
