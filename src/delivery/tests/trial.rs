//! Tests of connections, against targets of every kind on loopback sockets.

use rustls::pki_types::PrivateKeyDer;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::auth::oauth2_with;
use super::peers::{answering, healthy, hung};
use super::*;
use crate::connection::auth::bearer::bearer;
use crate::connection::{CaFile, Target, Tls};
use crate::delivery::testing::connection;
use crate::delivery::trial::{Errand, Kind, Order, Part, Report, TRIALS_MAX, Trial, Verdict};
use crate::delivery::{Dispatcher, DispatcherOptions};
use crate::secret::Secret;

fn order(send: bool) -> Order {
    Order { send, body: b"{\"type\":\"posthaste.test\"}".to_vec(), content_type: None }
}

/// Tests a connection on a runtime that does not have it.
async fn tested(connection: Connection, send: bool) -> Report {
    let rig = Rig::new(1 << 20);
    tested_on(&rig, connection, order(send)).await
}

async fn tested_on(rig: &Rig, connection: Connection, order: Order) -> Report {
    let trial = Trial::new(&Arc::new(connection), order).unwrap();
    let (reply, report) = oneshot::channel();
    let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
    rig.command(Command::Test(Box::new(Errand { trial, reply, _place: place }))).await;
    report.await.unwrap()
}

fn of(report: &Report, kind: Kind) -> &Part {
    report.parts.iter().find(|part| part.kind == kind).unwrap()
}

/// Which parts were fine, and which failed with what; all others were skipped.
fn check(report: &Report, fine: &[Kind], failed: &[(Kind, Cause)]) {
    let kinds: Vec<Kind> = report.parts.iter().map(|part| part.kind).collect();
    use Kind::*;
    assert_eq!(kinds, [Dns, Connect, Proxy, Tls, Token, Request, Send], "{report:#?}");
    for part in &report.parts {
        let expected = failed.iter().find(|(kind, _)| *kind == part.kind);
        match (&part.verdict, expected) {
            (Verdict::Failed(cause, _), Some((_, expected))) => assert_eq!(cause, expected),
            (Verdict::Ok(_), None) => assert!(fine.contains(&part.kind), "{report:#?}"),
            (Verdict::Skipped(_), None) => assert!(!fine.contains(&part.kind), "{report:#?}"),
            _ => panic!("{report:#?}"),
        }
    }
}

#[test]
fn a_good_target_passes_and_nothing_is_counted() {
    paused(async {
        let peer = healthy().await;
        let rig = Rig::with(connection("crm", &peer.url)).await;
        let counted = |rig: &Rig| -> BTreeSet<String> {
            rig.metrics.render().lines().map(str::to_owned).collect()
        };
        let before = counted(&rig);
        let mut connection = connection("crm", &peer.url);
        connection.auth = Some(bearer(&Secret::new("hunter2hunter2")).unwrap());
        let report = tested_on(&rig, connection.clone(), order(false)).await;
        check(&report, &[Kind::Connect, Kind::Request], &[]);
        assert_eq!(peer.requests(), 0, "nobody asked for it to be sent");
        let report = tested_on(&rig, connection, order(true)).await;
        check(&report, &[Kind::Connect, Kind::Request, Kind::Send], &[]);
        assert_eq!(report.response.as_ref().unwrap().status, 200);
        assert!(of(&report, Kind::Connect).took.is_some() && report.remote.is_some());
        let request = peer.notes.requests.borrow()[0].1.clone();
        for line in ["posthaste-test: true\r\n", "posthaste-attempt: 1\r\n", "Bearer hunter2"] {
            assert!(request.head.contains(line), "{}", request.head);
        }
        assert_eq!(request.body, b"{\"type\":\"posthaste.test\"}");
        let shown = report.request.unwrap();
        assert_eq!((shown.url.as_str(), shown.body), (peer.url.as_str(), request.body));
        let authorization = shown.headers.iter().find(|(name, _)| name == "authorization");
        assert_eq!(authorization.unwrap().1, "***");
        assert!(!format!("{:?}", shown.headers).contains("hunter2"), "{:?}", shown.headers);
        assert!(request.head.contains(&shown.event.to_string()), "{}", request.head);
        assert_eq!(counted(&rig), before);
    });
}

#[test]
fn what_is_wrong_is_said_of_the_part_that_it_is_wrong_with() {
    paused(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        drop(listener);
        let report = tested(connection("crm", &url), true).await;
        check(&report, &[Kind::Request], &[(Kind::Connect, Cause::ConnectRefused)]);

        let report = tested(connection("crm", &hung().await.url), true).await;
        let fine = [Kind::Connect, Kind::Request];
        check(&report, &fine, &[(Kind::Send, Cause::RequestTimeout)]);
        let took = of(&report, Kind::Send).took.unwrap();
        assert!((0.9..1.5).contains(&took.as_secs_f64()), "{took:?}");

        let busy = "HTTP/1.1 503 Busy\r\ncontent-length: 18\r\n\r\nno: hunter2hunter2";
        let mut refused = connection("crm", &answering(busy, Duration::ZERO).await.url);
        refused.auth = Some(bearer(&Secret::new("hunter2hunter2")).unwrap());
        let report = tested(refused, true).await;
        check(&report, &fine, &[(Kind::Send, Cause::HttpStatus)]);
        let answer = report.response.unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (503, &b"no: ***"[..]));

        let moved = "HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n";
        let report = tested(connection("crm", &answering(moved, Duration::ZERO).await.url), true);
        check(&report.await, &fine, &[(Kind::Send, Cause::Redirect)]);

        let url = format!("{}/{{{{ body.id }}}}", healthy().await.url);
        let report = tested(connection("crm", &url), true).await;
        check(&report, &[Kind::Connect], &[(Kind::Request, Cause::Template)]);
        let rig = Rig::new(1 << 20);
        let own = Order { send: true, body: b"{\"id\":7}".to_vec(), content_type: None };
        let report = tested_on(&rig, connection("crm", &url), own).await;
        check(&report, &[Kind::Connect, Kind::Request, Kind::Send], &[]);
        assert!(report.request.unwrap().url.ends_with("/hook/7"));
    });
}

#[test]
fn a_token_endpoint_that_refuses_is_named() {
    paused(async {
        let refusal = "HTTP/1.1 401 No\r\ncontent-length: 26\r\n\r\n{\"error\":\"invalid_client\"}";
        let (target, tokens) = (healthy().await, answering(refusal, Duration::ZERO).await);
        let with_tokens = |url: &str| {
            let mut connection = connection("crm", &target.url);
            connection.auth = Some(oauth2_with(url, &[]));
            connection
        };
        let report = tested(with_tokens(&tokens.url), true).await;
        let fine = [Kind::Connect, Kind::Request];
        check(&report, &fine, &[(Kind::Token, Cause::AuthToken)]);
        assert_eq!((target.requests(), tokens.requests()), (0, 1));
        let granted =
            "HTTP/1.1 200 OK\r\ncontent-length: 33\r\n\r\n{\"access_token\":\"hunter2hunter2\"}";
        let tokens = answering(granted, Duration::ZERO).await;
        let report = tested(with_tokens(&tokens.url), true).await;
        check(&report, &[Kind::Connect, Kind::Token, Kind::Request, Kind::Send], &[]);
        let head = target.notes.requests.borrow()[0].1.head.clone();
        assert!(head.contains("authorization: Bearer hunter2hunter2\r\n"), "{head}");
        assert!(!format!("{report:?}").contains("hunter2"), "{report:?}");
    });
}

/// A TLS target with a certificate for 127.0.0.1, and the PEM of who signed it.
async fn tls_peer(expired: bool) -> (String, Vec<u8>) {
    let mut leaf = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    leaf.not_after = rcgen::date_time_ymd(2100, 1, 1);
    if expired {
        leaf.not_before = rcgen::date_time_ymd(2001, 1, 1);
        leaf.not_after = rcgen::date_time_ymd(2002, 1, 1);
    }
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let ca = rcgen::CertifiedIssuer::self_signed(ca, ca_key).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = leaf.signed_by(&key, &ca).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    tokio::task::spawn_local(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::task::spawn_local(async move {
                if let Ok(mut tls) = acceptor.accept(tcp).await {
                    let _ = tls.read(&mut [0; 64]).await;
                }
            });
        }
    });
    (url, ca.pem().into_bytes())
}

#[test]
fn certificates_are_shown_also_when_they_are_refused() {
    paused(async {
        for (expired, known, name, cause) in [
            (false, true, None, None),
            (true, true, None, Some(Cause::TlsExpired)),
            (false, false, None, Some(Cause::TlsUntrusted)),
            (false, true, Some("other.example"), Some(Cause::TlsName)),
        ] {
            let (url, ca) = tls_peer(expired).await;
            let (_, stranger) = tls_peer(false).await;
            let mut connection = connection("crm", &url);
            let pem = if known { ca } else { stranger };
            connection.tls = Tls {
                ca: Some(CaFile { path: "ca.pem".into(), pem }),
                server_name: name.map(str::to_owned),
                ..Tls::default()
            };
            let report = tested(connection, false).await;
            match cause {
                None => check(&report, &[Kind::Connect, Kind::Tls, Kind::Request], &[]),
                Some(cause) => {
                    check(&report, &[Kind::Connect, Kind::Request], &[(Kind::Tls, cause)])
                }
            }
            let shown = report.certificates.first().unwrap();
            assert_eq!(shown.names, ["127.0.0.1"]);
            let ends = if expired { 1_009_843_200 } else { 4_102_444_800 };
            assert_eq!(shown.not_after, ends);
        }
    });
}

#[test]
fn so_many_tests_run_at_once_and_one_that_nobody_waits_for_ends() {
    paused(async {
        let (feed, _port) = feed_for_test();
        let options = DispatcherOptions { payload_bytes: 1 << 20, seed: 1, resolvers: Vec::new() };
        let clock = Clock::manual(WALL_MS);
        let (dispatcher, run) = testing::local(options, feed, &clock, &Metrics::new());
        tokio::task::spawn_local(run);
        let peer = hung().await;
        let start = async |dispatcher: &Dispatcher| {
            let connection = Arc::new(connection("crm", &peer.url));
            dispatcher.test(Trial::new(&connection, order(true)).unwrap()).await
        };
        let mut running = Vec::new();
        for _ in 0..TRIALS_MAX {
            running.push(start(&dispatcher).await.unwrap());
        }
        assert!(start(&dispatcher).await.is_none());
        running.pop();
        let began = Instant::now();
        let another = loop {
            match start(&dispatcher).await {
                Some(another) => break another,
                None => tokio::task::yield_now().await,
            }
            assert!(began.elapsed() < Duration::from_millis(900), "its place was not free");
        };
        assert!(another.await.is_ok());
    });
}

#[test]
fn a_proxy_that_refuses_is_a_part_of_its_own() {
    use crate::connection::proxy::{Proxy, ProxyKind};
    paused(async {
        let refusal = "HTTP/1.1 407 No\r\ncontent-length: 0\r\n\r\n";
        let proxy = answering(refusal, Duration::ZERO).await;
        let target = healthy().await;
        let mut connection = connection("crm", &target.url);
        let at = Target::parse(&proxy.url).unwrap();
        connection.proxy = Some(Proxy {
            kind: ProxyKind::Http,
            host: at.host,
            port: at.port,
            credentials: None,
            ca: None,
            no_proxy: Vec::new(),
        });
        let report = tested(connection, true).await;
        check(&report, &[Kind::Connect, Kind::Request], &[(Kind::Proxy, Cause::ProxyFailed)]);
        assert_eq!(target.requests(), 0);
    });
}
