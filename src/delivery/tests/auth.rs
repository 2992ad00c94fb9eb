//! How requests say who they are, and where tokens come from: targets and token endpoints on loopback sockets.

use std::cell::RefCell;
use std::rc::Rc;

use http::HeaderName;
use tokio::io::AsyncWriteExt;

use super::peers::{Peer, Request, answering, healthy, hung, peer, read_request, trickling};
use super::*;
use crate::connection::Target;
use crate::connection::auth::oauth2::{self, OAuth2};
use crate::connection::auth::{Auth, api_key, basic::basic, bearer::bearer};
use crate::delivery::testing::connection;
use crate::secret::Secret;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const UNAUTHORIZED: &str = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n";

fn head(peer: &Peer, index: usize) -> String {
    peer.notes.requests.borrow()[index].1.head.clone()
}

fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let prefix = format!("{name}: ");
    head.lines().find_map(|line| line.strip_prefix(&prefix))
}

/// What a connection with this auth sends first.
async fn sent(auth: Auth) -> String {
    let target = healthy().await;
    let mut connection = connection("crm", &target.url);
    connection.auth = Some(auth);
    let mut rig = Rig::with(connection).await;
    rig.send(1, 1);
    assert_eq!(rig.disposition().await, Disposition::Delivered);
    head(&target, 0)
}

#[test]
fn basic_bearer_and_api_keys_are_sent() {
    paused(async {
        let secret = Secret::new("open sesame");
        let head = sent(basic("Aladdin", &secret).unwrap()).await;
        let expected = "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==";
        assert_eq!(header(&head, "authorization"), Some(expected));
        let head = sent(bearer(&Secret::new("t0ken")).unwrap()).await;
        assert_eq!(header(&head, "authorization"), Some("Bearer t0ken"));
        let name = HeaderName::from_static("x-api-key");
        let head = sent(api_key::in_header(name, &secret).unwrap()).await;
        assert_eq!(header(&head, "x-api-key"), Some("open sesame"));
        let head = sent(api_key::in_query("key", &secret).unwrap()).await;
        assert!(head.starts_with("POST /hook?key=open+sesame HTTP/1.1\r\n"), "{head}");
        assert_eq!(header(&head, "authorization"), None);
    });
}

/// What a target says about the key that it got is masked before it is kept.
#[test]
fn a_key_that_the_target_echoes_is_not_kept() {
    paused(async {
        let said = "HTTP/1.1 404 Not Found\r\ncontent-length: 38\r\n\r\nno /hook?key=hunter2%2F, hunter2/ hunte";
        let target = answering(said, Duration::ZERO).await;
        let mut connection = connection("crm", &target.url);
        connection.auth = Some(api_key::in_query("key", &Secret::new("hunter2/")).unwrap());
        let mut rig = Rig::with(connection).await;
        rig.send(1, 1);
        assert_eq!(rig.disposition().await, dead(Cause::HttpStatus, 404));
        let noted = rig.port.noted_for_test();
        assert_eq!(noted[0].excerpt, "no /hook?key=***, *** ***");
    });
}

/// A token endpoint that gives `t1`, `t2` and so on, each good for so many seconds, after a while.
async fn token_endpoint(expires_in: u64, delay: Duration) -> Peer {
    let count = Rc::new(RefCell::new(0));
    peer(move |mut tcp, notes| {
        let count = Rc::clone(&count);
        async move {
            while read_request(&mut tcp, &notes).await {
                *count.borrow_mut() += 1;
                let number = *count.borrow();
                sleep(delay).await;
                let body =
                    format!("{{\"access_token\":\"t{number}\",\"expires_in\":{expires_in}}}");
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
                if tcp.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}

/// A target that refuses these tokens.
async fn target_refusing(refused: &'static [&'static str]) -> Peer {
    peer(move |mut tcp, notes| async move {
        while read_request(&mut tcp, &notes).await {
            let Request { head, .. } = notes.requests.borrow().last().unwrap().1.clone();
            let token = header(&head, "authorization").unwrap_or_default();
            let answer = if refused.contains(&token) { UNAUTHORIZED } else { OK };
            if tcp.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    })
    .await
}

pub(super) fn oauth2_with(token_url: &str, scopes: &[&str]) -> Auth {
    let scopes: Vec<String> = scopes.iter().map(|scope| (*scope).to_owned()).collect();
    let request = oauth2::Request {
        client_id: "relay",
        client_secret: &Secret::new("hunter2"),
        scopes: &scopes,
        audience: None,
        params: &[],
        auth_style: oauth2::AuthStyle::Body,
    };
    let url = Target::parse(token_url).unwrap();
    Auth::OAuth2(Box::new(OAuth2::new(url, &request).unwrap()))
}

fn with_tokens(target: &Peer, tokens: &Peer) -> Connection {
    let mut connection = connection("crm", &target.url);
    connection.auth = Some(oauth2_with(&tokens.url, &[]));
    connection
}

#[test]
fn a_token_is_asked_for_once_and_used_by_all() {
    paused(async {
        let (target, tokens) = (healthy().await, token_endpoint(3600, Duration::ZERO).await);
        let mut rig = Rig::with(with_tokens(&target, &tokens)).await;
        rig.send(1, 100);
        for settled in rig.settle(100).await {
            assert_eq!((settled.disposition, settled.attempts), (Disposition::Delivered, 1));
        }
        assert_eq!((target.requests(), tokens.requests()), (100, 1));
        assert_eq!(header(&head(&target, 99), "authorization"), Some("Bearer t1"));
        let asked = tokens.notes.requests.borrow()[0].1.clone();
        assert!(asked.head.starts_with("POST /hook HTTP/1.1\r\n"), "{}", asked.head);
        assert_eq!(header(&asked.head, "accept"), Some("application/json"));
        let kind = Some("application/x-www-form-urlencoded");
        assert_eq!(header(&asked.head, "content-type"), kind);
        let form = b"grant_type=client_credentials&client_id=relay&client_secret=hunter2";
        assert_eq!(asked.body, form);
    });
}

/// Ten workers that find the token at its end make one request, and all wait for it.
#[test]
fn ten_workers_make_one_token_request() {
    paused(async {
        let target = answering(OK, Duration::from_millis(20)).await;
        let tokens = token_endpoint(100, Duration::from_millis(300)).await;
        let mut connection = with_tokens(&target, &tokens);
        connection.max_in_flight = 10;
        let mut rig = Rig::with(connection).await;
        rig.send(1, 60);
        rig.settle(60).await;
        assert_eq!((target.notes.open_most.get(), tokens.requests()), (10, 1));
        sleep(Duration::from_secs(200)).await;
        rig.send(1, 10);
        rig.settle(10).await;
        assert_eq!((target.requests(), tokens.requests()), (70, 2));
        let used = |index| header(&head(&target, index), "authorization").map(str::to_owned);
        assert!((60..70).all(|index| used(index).as_deref() == Some("Bearer t2")));
    });
}

/// Four fifths of its life over, a token is renewed while deliveries go on with it.
#[test]
fn a_token_is_renewed_before_it_ends_and_nobody_waits() {
    paused(async {
        let (target, tokens) =
            (healthy().await, token_endpoint(100, Duration::from_millis(900)).await);
        let mut rig = Rig::with(with_tokens(&target, &tokens)).await;
        rig.send(1, 1);
        rig.settle(1).await;
        sleep(Duration::from_secs(78)).await;
        rig.send(1, 1);
        rig.settle(1).await;
        assert_eq!(tokens.requests(), 1);
        sleep(Duration::from_secs(3)).await;
        let start = Instant::now();
        rig.send(1, 3);
        rig.settle(3).await;
        assert!(start.elapsed() < Duration::from_millis(100), "{:?}", start.elapsed());
        sleep(Duration::from_secs(2)).await;
        rig.send(1, 1);
        rig.settle(1).await;
        assert_eq!(tokens.requests(), 2);
        assert_eq!(header(&head(&target, 4), "authorization"), Some("Bearer t1"));
        assert_eq!(header(&head(&target, 5), "authorization"), Some("Bearer t2"));
    });
}

/// A renewal that fails is tried again after a pause, and the old token is used to its end.
#[test]
fn a_renewal_that_fails_leaves_the_old_token() {
    paused(async {
        let target = healthy().await;
        let tokens = peer(|mut tcp, notes| async move {
            while read_request(&mut tcp, &notes).await {
                let first = notes.requests.borrow().len() == 1;
                let answer = match first {
                    true => "HTTP/1.1 200 OK\r\ncontent-length: 39\r\n\r\n{\"access_token\":\"t1\",\"expires_in\": 100}",
                    false => "HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n",
                };
                tcp.write_all(answer.as_bytes()).await.unwrap();
            }
        })
        .await;
        let mut rig = Rig::with(with_tokens(&target, &tokens)).await;
        for (wait, requests) in [(0, 1), (85, 2), (1, 2), (6, 3)] {
            sleep(Duration::from_secs(wait)).await;
            rig.send(1, 1);
            assert_eq!(rig.disposition().await, Disposition::Delivered);
            sleep(Duration::from_millis(100)).await;
            assert_eq!(tokens.requests(), requests, "after {wait} s");
        }
        sleep(Duration::from_secs(10)).await;
        rig.send(1, 1);
        assert_eq!(rig.disposition().await, retry(5), "the token has ended");
    });
}

/// A token that was revoked: one new one, and the same attempt goes out again with it.
#[test]
fn a_401_brings_one_new_token_and_is_no_attempt() {
    paused(async {
        let target = target_refusing(&["Bearer t1"]).await;
        let tokens = token_endpoint(3600, Duration::ZERO).await;
        let mut rig = Rig::with(with_tokens(&target, &tokens)).await;
        rig.send(1, 1);
        let settled = rig.settle(1).await;
        assert_eq!((settled[0].disposition, settled[0].attempts), (Disposition::Delivered, 1));
        assert_eq!((target.requests(), tokens.requests()), (2, 2));
        assert_eq!(target.notes.accepted.get(), 1, "the HTTP connection is kept");
        for index in [0, 1] {
            assert_eq!(header(&head(&target, index), "posthaste-attempt"), Some("1"));
        }
        assert_eq!(header(&head(&target, 1), "authorization"), Some("Bearer t2"));
        for code in ["ok\"} 1", "http_status\"} 0"] {
            let line =
                format!("posthaste_delivery_attempts_total{{connection=\"crm\",code=\"{code}");
            assert!(rig.counts(&line), "{line}");
        }
    });
}

/// A target that refuses every token costs one token per second, not one per delivery.
#[test]
fn a_401_for_ever_is_a_failure() {
    paused(async {
        let target = target_refusing(&["Bearer t1", "Bearer t2", "Bearer t3"]).await;
        let tokens = token_endpoint(3600, Duration::ZERO).await;
        let mut rig = Rig::with(with_tokens(&target, &tokens)).await;
        rig.send(1, 5);
        for settled in rig.settle(5).await {
            assert_eq!(settled.disposition, dead(Cause::HttpStatus, 401));
        }
        assert_eq!((target.requests(), tokens.requests()), (6, 2));
        sleep(Duration::from_secs(2)).await;
        rig.send(1, 1);
        assert_eq!(rig.disposition().await, dead(Cause::HttpStatus, 401));
        assert_eq!((target.requests(), tokens.requests()), (8, 3));
    });
}

#[test]
fn without_oauth2_a_401_is_what_it_is() {
    paused(async {
        let target = answering(UNAUTHORIZED, Duration::ZERO).await;
        let mut connection = connection("crm", &target.url);
        connection.auth = Some(bearer(&Secret::new("t1")).unwrap());
        let mut rig = Rig::with(connection).await;
        rig.send(1, 1);
        assert_eq!(rig.disposition().await, dead(Cause::HttpStatus, 401));
        assert_eq!(target.requests(), 1);
    });
}

/// Sends one event with tokens from there; it must fail as `auth_token` after so many seconds, and the target sees nothing.
async fn no_token(tokens: Peer, seconds: u64) {
    let target = healthy().await;
    let mut rig = Rig::with(with_tokens(&target, &tokens)).await;
    let start = Instant::now();
    rig.send(1, 1);
    assert_eq!(rig.disposition().await, retry(5));
    let took = start.elapsed().as_secs_f64();
    assert!((took - seconds as f64).abs() < 0.5, "{took} s");
    let line = "posthaste_delivery_attempts_total{connection=\"crm\",code=\"auth_token\"} 1";
    assert!(rig.counts(line), "{}", rig.metrics.render());
    assert_eq!(target.requests(), 0);
}

#[test]
fn token_endpoints_that_are_no_good_cost_an_attempt_and_a_bounded_time() {
    paused(async {
        no_token(hung().await, 1).await;
        let error = "HTTP/1.1 400 No\r\ncontent-length: 26\r\n\r\n{\"error\":\"invalid_client\"}";
        no_token(answering(error, Duration::ZERO).await, 0).await;
        let not_json = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno";
        no_token(answering(not_json, Duration::ZERO).await, 0).await;
        let redirect = "HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n";
        no_token(answering(redirect, Duration::ZERO).await, 0).await;
        let endless = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        no_token(trickling(endless, b"5\r\nabcde\r\n", Duration::ZERO).await, 0).await;
        let slow = Duration::from_millis(300);
        no_token(trickling(endless, b"1\r\na\r\n", slow).await, 1).await;
        let closed = peer(|tcp, _| async move { drop(tcp) }).await;
        no_token(closed, 0).await;
    });
}

/// While the token endpoint fails it is asked once a second, by all workers together.
#[test]
fn a_failing_token_endpoint_is_asked_once_a_second() {
    paused(async {
        let target = healthy().await;
        let tokens =
            answering("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n", Duration::ZERO).await;
        let mut rig = Rig::with(with_tokens(&target, &tokens)).await;
        rig.send(1, 5);
        for settled in rig.settle(5).await {
            assert_eq!(settled.disposition, retry(5));
        }
        let times = tokens.times();
        for pair in times.windows(2) {
            assert!(pair[1] - pair[0] >= Duration::from_millis(999), "{times:?}");
        }
        assert_eq!(times.len(), 5);
    });
}

/// Spec 11: a reload that changes `auth` drops the token, another one does not.
#[test]
fn a_token_lives_as_long_as_its_auth() {
    paused(async {
        let (target, tokens) = (healthy().await, token_endpoint(3600, Duration::ZERO).await);
        let connection = with_tokens(&target, &tokens);
        let mut rig = Rig::with(connection.clone()).await;
        let mut other = connection.clone();
        other.max_in_flight = 2;
        let mut scoped = connection.clone();
        scoped.auth = Some(oauth2_with(&tokens.url, &["read"]));
        for (next, requests) in [(connection, 1), (other, 1), (scoped, 2)] {
            rig.replace(1, next).await;
            rig.send(1, 1);
            assert_eq!(rig.disposition().await, Disposition::Delivered);
            assert_eq!(tokens.requests(), requests);
        }
        assert_eq!(header(&head(&target, 2), "authorization"), Some("Bearer t2"));
    });
}

/// The drain does not wait for a token endpoint that hangs longer than it may.
#[test]
fn a_drain_ends_while_a_token_is_asked_for() {
    paused(async {
        let (target, tokens) = (healthy().await, hung().await);
        let mut connection = with_tokens(&target, &tokens);
        connection.request_timeout = Duration::from_secs(60);
        let mut rig = Rig::with(connection).await;
        rig.send(1, 1);
        sleep(Duration::from_millis(50)).await;
        let start = Instant::now();
        rig.drain(Duration::from_secs(2)).await;
        assert!(start.elapsed() < Duration::from_millis(2_100), "{:?}", start.elapsed());
    });
}

/// A token endpoint at `localhost` with a certificate of its own CA.
async fn tls_token_endpoint() -> (String, Vec<u8>) {
    use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &ca).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], private)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::task::spawn_local(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok(mut tls) = acceptor.accept(tcp).await else { continue };
            let mut request = Vec::new();
            while !request.ends_with(b"client_secret=hunter2") {
                if tokio::io::AsyncReadExt::read_buf(&mut tls, &mut request).await.unwrap() == 0 {
                    break;
                }
            }
            let answer =
                b"HTTP/1.1 200 OK\r\ncontent-length: 23\r\n\r\n{\"access_token\":\"tls1\"}";
            tls.write_all(answer).await.unwrap();
            tls.shutdown().await.unwrap();
        }
    });
    (format!("https://localhost:{port}/token"), ca.pem().into_bytes())
}

/// The CA of the connection is trusted for the token endpoint too; the name to verify is the target's alone.
#[test]
fn tokens_come_over_the_connections_own_tls() {
    paused(async {
        let target = healthy().await;
        let (url, pem) = tls_token_endpoint().await;
        let mut connection = connection("crm", &target.url);
        connection.auth = Some(oauth2_with(&url, &[]));
        connection.tls.server_name = Some("crm.internal".to_owned());
        let mut rig = Rig::with(connection.clone()).await;
        rig.send(1, 1);
        assert_eq!(rig.disposition().await, retry(5), "nobody vouches for it");
        connection.tls.ca = Some(crate::connection::CaFile { path: "ca.pem".into(), pem });
        rig.replace(1, connection).await;
        rig.send(1, 1);
        assert_eq!(rig.disposition().await, Disposition::Delivered);
        assert_eq!(header(&head(&target, 0), "authorization"), Some("Bearer tls1"));
    });
}

/// Neither a panic nor a log line can show a secret by printing what it is in.
#[test]
fn nothing_that_holds_a_secret_can_be_printed() {
    let secret = Secret::new("hunter2");
    let url = "http://127.0.0.1:9/hook";
    let key = HeaderName::from_static("x-key");
    for auth in [
        basic("me", &secret).unwrap(),
        bearer(&secret).unwrap(),
        api_key::in_header(key, &secret).unwrap(),
        api_key::in_query("key", &secret).unwrap(),
        oauth2_with(url, &[]),
    ] {
        let mut connection = connection("crm", url);
        connection.auth = Some(auth);
        let shown = format!("{connection:?} {:?}", prepared(connection.clone()));
        for form in ["hunter2", "aHVudGVyMg", "bWU6aHVudGVyMg"] {
            assert!(!shown.contains(form), "{shown}");
        }
    }
}
