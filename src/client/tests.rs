use std::sync::Arc;

use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::connection::{CaFile, Identity, Tls, TlsVersion};
use crate::delivery::testing::connection;
use crate::secret::Secret;

mod proxies;
mod resolvers;

/// A TLS server whose certificate is what a case needs, and the CA it was signed with.
struct Peer {
    port: u16,
    ca_pem: Vec<u8>,
    /// What that CA signed for us.
    identity: Identity,
}

/// How a peer differs from a plain one.
#[derive(Clone, Copy, Default)]
struct Kind {
    expired: bool,
    /// It wants to know who we are.
    asks: bool,
    only_tls12: bool,
    alpn: &'static [&'static str],
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap()
}

fn identity(ca: &CertifiedIssuer<'static, KeyPair>) -> Identity {
    let key = KeyPair::generate().unwrap();
    let ours = CertificateParams::new(vec!["posthaste".to_owned()]).unwrap();
    let ours = ours.signed_by(&key, ca).unwrap();
    Identity {
        cert_path: "client.pem".into(),
        cert_pem: ours.pem().into_bytes(),
        key_pem: Secret::new(key.serialize_pem()),
    }
}

async fn tls_peer(name: &str, kind: Kind) -> Peer {
    let ca = authority();
    let mut leaf = CertificateParams::new(vec![name.to_owned()]).unwrap();
    leaf.not_after = rcgen::date_time_ymd(2100, 1, 1);
    if kind.expired {
        leaf.not_before = rcgen::date_time_ymd(2001, 1, 1);
        leaf.not_after = rcgen::date_time_ymd(2002, 1, 1);
    }
    let key = KeyPair::generate().unwrap();
    let leaf = leaf.signed_by(&key, &ca).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions: &[&rustls::SupportedProtocolVersion] = match kind.only_tls12 {
        true => &[&rustls::version::TLS12],
        false => &[&rustls::version::TLS13, &rustls::version::TLS12],
    };
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .unwrap();
    let builder = match kind.asks {
        true => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(ca.der().clone()).unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        }
        false => builder.with_no_client_auth(),
    };
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut config = builder.with_single_cert(vec![leaf.der().clone()], key).unwrap();
    config.alpn_protocols = kind.alpn.iter().map(|alpn| alpn.as_bytes().to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::task::spawn_local(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::task::spawn_local(async move {
                if let Ok(mut tls) = acceptor.accept(tcp).await {
                    let _ = tls.write_all(b"hello").await;
                    let _ = tls.shutdown().await;
                }
            });
        }
    });
    Peer { port, ca_pem: ca.pem().into_bytes(), identity: identity(&ca) }
}

/// Names are this machine, or nothing.
fn dialler() -> Dialler {
    Dialler::new(Rc::new(|name| {
        let found = match name.ends_with(".invalid") {
            true => Err(NotFound::Nothing(format!("{name} does not exist"))),
            false => Ok(Found {
                addresses: vec![IpAddr::from([127, 0, 0, 1])],
                ttl: Duration::from_secs(60),
            }),
        };
        Box::pin(async move { found })
    }))
}

fn client(url: &str, change: impl FnOnce(&mut Connection)) -> Client {
    let mut connection = connection("tls", url);
    change(&mut connection);
    Client::new(&connection).unwrap()
}

const LIMIT: Duration = Duration::from_secs(5);

async fn dial(url: &str, tls: Tls) -> Result<Stream, DialError> {
    client(url, |connection| connection.tls = tls).dial(LIMIT, &dialler()).await.0
}

fn trusting(peer: &Peer) -> Tls {
    Tls { ca: Some(CaFile { path: "ca.pem".into(), pem: peer.ca_pem.clone() }), ..Tls::default() }
}

fn local<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

async fn read(stream: &mut Stream) -> io::Result<String> {
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

#[test]
fn a_certificate_of_the_given_ca_is_trusted() {
    local(async {
        let peer = tls_peer("localhost", Kind::default()).await;
        let url = format!("https://localhost:{}/", peer.port);
        let mut stream = dial(&url, trusting(&peer)).await.unwrap();
        let heard = stream.heard();
        let mark = heard.mark();
        assert!(!heard.anything_since(mark));
        assert_eq!(read(&mut stream).await.unwrap(), "hello");
        assert!(heard.anything_since(mark) && heard.tls_fault().is_none());
        // 2100-01-01
        let secured = stream.secured().unwrap();
        assert_eq!(secured, Secured { http2: false, expires: Some(4_102_444_800) });
    });
}

#[test]
fn bad_certificates_have_their_own_causes() {
    local(async {
        let good = tls_peer("localhost", Kind::default()).await;
        let other = tls_peer("example.com", Kind::default()).await;
        let old = tls_peer("localhost", Kind { expired: true, ..Kind::default() }).await;
        let renamed = Tls { server_name: Some("example.com".to_owned()), ..trusting(&other) };
        let unverified = Tls { verify: false, ..Tls::default() };
        for (peer, tls, expected) in [
            (&good, trusting(&old), Some(Cause::TlsUntrusted)),
            (&other, trusting(&other), Some(Cause::TlsName)),
            (&other, renamed, None),
            (&old, trusting(&old), Some(Cause::TlsExpired)),
            (&good, unverified.clone(), None),
            (&other, unverified.clone(), None),
            (&old, unverified, None),
        ] {
            let url = format!("https://localhost:{}/", peer.port);
            let dialled = dial(&url, tls).await;
            assert_eq!(dialled.as_ref().err().map(|error| error.cause), expected);
            assert!(dialled.err().is_none_or(|error| error.stage == Stage::Tls));
        }
    });
}

/// Answers a TLS hello with these bytes.
async fn raw_peer(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::task::spawn_local(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let _ = tcp.read(&mut [0; 4096]).await;
            let _ = tcp.write_all(answer).await;
            let _ = tcp.shutdown().await;
        }
    });
    format!("https://localhost:{port}/")
}

#[test]
fn peers_that_speak_no_tls_of_ours_are_protocol_errors() {
    local(async {
        let good = tls_peer("localhost", Kind::default()).await;
        let old = tls_peer("localhost", Kind { only_tls12: true, ..Kind::default() }).await;
        for answer in [
            &b"HTTP/1.1 400 Bad Request\r\n\r\n and more"[..],
            // A TLS 1.1 server: ServerHello with version 3.2.
            b"\x16\x03\x02\x00\x2a\x02\x00\x00\x26\x03\x02aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\x00\x00\x2f\x00",
            // The alert protocol_version.
            b"\x15\x03\x01\x00\x02\x02\x46",
            b"",
        ] {
            let url = raw_peer(answer).await;
            let failed = dial(&url, trusting(&good)).await.unwrap_err();
            assert_eq!((failed.cause, failed.stage), (Cause::TlsProtocol, Stage::Tls), "{failed}");
        }
        let url = format!("https://localhost:{}/", old.port);
        let strict = Tls { min_version: TlsVersion::V1_3, ..trusting(&old) };
        assert_eq!(dial(&url, strict).await.unwrap_err().cause, Cause::TlsProtocol);
        assert!(dial(&url, trusting(&old)).await.is_ok());
    });
}

#[test]
fn a_peer_that_asks_who_we_are_gets_our_certificate() {
    local(async {
        for only_tls12 in [false, true] {
            let kind = Kind { asks: true, only_tls12, ..Kind::default() };
            let peer = tls_peer("localhost", kind).await;
            let url = format!("https://localhost:{}/", peer.port);
            let known = Tls { identity: Some(peer.identity.clone()), ..trusting(&peer) };
            let mut stream = dial(&url, known).await.unwrap();
            assert_eq!(read(&mut stream).await.unwrap(), "hello");
            let stranger = Some(identity(&authority()));
            for identity in [None, stranger] {
                let tls = Tls { identity, ..trusting(&peer) };
                // With TLS 1.3 the refusal comes after our side of the handshake.
                let cause = match dial(&url, tls).await {
                    Err(error) => error.cause,
                    Ok(mut stream) => {
                        let error = read(&mut stream).await.unwrap_err();
                        assert_eq!(stream.heard().tls_fault(), Some(Cause::TlsClientCert));
                        cause_of_io(&error)
                    }
                };
                assert_eq!(cause, Cause::TlsClientCert);
            }
        }
    });
}

#[test]
fn http2_is_spoken_where_both_want_it() {
    local(async {
        let h2 = Kind { alpn: &["h2", "http/1.1"], ..Kind::default() };
        let h1 = Kind { alpn: &["http/1.1"], ..Kind::default() };
        let (h2, h1) = (tls_peer("localhost", h2).await, tls_peer("localhost", h1).await);
        let silent = tls_peer("localhost", Kind::default()).await;
        let auto = Http2 { enabled: true, prior_knowledge: false };
        let off = Http2 { enabled: false, ..auto };
        let only = Http2 { prior_knowledge: true, ..auto };
        for (peer, http2, expected) in [
            (&h2, auto, Some(true)),
            (&h1, auto, Some(false)),
            (&silent, auto, Some(false)),
            (&h2, off, Some(false)),
            (&h2, only, Some(true)),
            // It offers nothing that the peer takes.
            (&h1, only, None),
        ] {
            let url = format!("https://localhost:{}/", peer.port);
            let client = client(&url, |connection| {
                connection.tls = trusting(peer);
                connection.http2 = http2;
            });
            assert_eq!(client.may_speak_http2(), http2 != off);
            let dialled = client.dial(LIMIT, &dialler()).await.0;
            let found = dialled.as_ref().map(|stream| client.speaks_http2(stream));
            assert_eq!(found.ok(), expected, "{http2:?} {dialled:?}");
        }
    });
}

#[test]
fn sockets_that_cannot_be_opened_say_why() {
    local(async {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        for (url, expected, stage) in [
            (format!("http://127.0.0.1:{port}/"), Cause::ConnectRefused, Stage::Connect),
            (format!("http://localhost:{port}/"), Cause::ConnectRefused, Stage::Connect),
            ("http://no-such-host.invalid/".to_owned(), Cause::DnsFailed, Stage::Lookup),
        ] {
            let error = dial(&url, Tls::default()).await.unwrap_err();
            assert_eq!((error.cause, error.stage), (expected, stage));
        }
    });
}

#[test]
fn each_part_is_timed_and_names_itself_when_it_is_late() {
    local(async {
        let hung = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = hung.local_addr().unwrap().port();
        let slow = || {
            Dialler::new(Rc::new(|name: &str| {
                let late = if name == "late" { 60_000 } else { 20 };
                Box::pin(async move {
                    tokio::time::sleep(Duration::from_millis(late)).await;
                    let addresses = vec![IpAddr::from([127, 0, 0, 1])];
                    Ok(Found { addresses, ttl: Duration::from_secs(60) })
                })
            }))
        };
        let limit = Duration::from_millis(200);
        let ca = authority().pem().into_bytes();
        let tls = Tls { ca: Some(CaFile { path: "ca".into(), pem: ca }), ..Tls::default() };
        let timed = |url: String| {
            let client = client(&url, |connection| connection.tls = tls.clone());
            let dialler = slow();
            async move { client.dial(limit, &dialler).await }
        };
        let (late, timings) = timed(format!("http://late:{port}/")).await;
        let late = late.unwrap_err();
        assert_eq!((late.cause, late.stage), (Cause::DnsFailed, Stage::Lookup));
        assert!(late.detail.contains("name lookup") && late.detail.contains("200ms"), "{late}");
        assert!(timings.lookup.unwrap() >= limit && timings.connect.is_none());

        let (late, timings) = timed(format!("https://hung:{port}/")).await;
        let late = late.unwrap_err();
        assert_eq!((late.cause, late.stage), (Cause::ConnectTimeout, Stage::Tls));
        assert!(late.detail.contains("TLS handshake"), "{late}");
        assert_eq!(late.remote.unwrap().port(), port);
        assert!(timings.lookup.unwrap() >= Duration::from_millis(20));
        assert!(timings.connect.is_some());
        let handshake = timings.tls.unwrap();
        assert!(handshake > Duration::ZERO && handshake + timings.lookup.unwrap() <= limit * 2);

        let (open, timings) = timed(format!("http://127.0.0.1:{port}/")).await;
        assert!(open.is_ok());
        assert!(timings.lookup.is_none() && timings.connect.is_some() && timings.tls.is_none());
    });
}

#[test]
fn addresses_are_checked_after_the_lookup() {
    use crate::connection::egress::{Egress, EgressPolicy};
    local(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let public = Egress { policy: EgressPolicy::Public, allow: Vec::new() };
        let allowed = Egress { allow: vec!["127.0.0.0/8".parse().unwrap()], ..public.clone() };
        // The second address of a name is enough, and the first is not tried.
        let two = |first: [u8; 4]| {
            Dialler::new(Rc::new(move |_| {
                let addresses = vec![IpAddr::from(first), IpAddr::from([127, 0, 0, 1])];
                Box::pin(async move { Ok(Found { addresses, ttl: Duration::from_secs(60) }) })
            }))
        };
        for host in ["localhost", "127.0.0.1", "0x7f.1", "[::ffff:127.0.0.1]"] {
            for (egress, open) in [(&public, false), (&allowed, true)] {
                let url = format!("http://{host}:{port}/");
                let client = client(&url, |connection| connection.egress = egress.clone());
                let (dialled, timings) = client.dial(LIMIT, &dialler()).await;
                assert_eq!(dialled.is_ok(), open, "{host}: {dialled:?}");
                if let Err(error) = dialled {
                    assert_eq!(error.cause, Cause::EgressBlocked);
                    assert!(
                        error.detail.contains("127.0.0.1 is a loopback")
                            || error.detail.contains("leads to 127.0.0.1"),
                        "{error}"
                    );
                    assert!(timings.connect.is_none());
                }
            }
        }
        let url = format!("http://metadata.example:{port}/");
        let open = client(&url, |_| ());
        let stream = open.dial(LIMIT, &two([169, 254, 169, 254])).await.0.unwrap();
        assert_eq!(stream.remote().ip(), IpAddr::from([127, 0, 0, 1]));
        let shut = client(&url, |connection| connection.egress = public);
        let error = shut.dial(LIMIT, &two([169, 254, 169, 254])).await.0.unwrap_err();
        assert!(error.detail.starts_with("169.254.169.254 is the metadata service"), "{error}");
    });
}

#[test]
fn what_cannot_be_used_is_refused_before_the_first_dial() {
    let refused = |change: &dyn Fn(&mut Tls)| {
        let mut connection = connection("tls", "https://localhost/");
        change(&mut connection.tls);
        Client::new(&connection).unwrap_err().to_string()
    };
    let nonsense = CaFile { path: "ca.pem".into(), pem: b"nonsense".to_vec() };
    let error = refused(&|tls| tls.ca = Some(nonsense.clone()));
    assert!(error.contains("ca.pem"), "{error}");
    let error = refused(&|tls| tls.server_name = Some("not a name".to_owned()));
    assert!(error.contains("server_name"), "{error}");
    let (one, other) = (identity(&authority()), identity(&authority()));
    let mixed = Identity { key_pem: other.key_pem, ..one };
    let error = refused(&|tls| tls.identity = Some(mixed.clone()));
    assert!(error.contains("client.pem"), "{error}");
}

#[test]
fn many_handshakes_take_turns_and_a_hung_one_blocks_none() {
    local(async {
        let peer = tls_peer("localhost", Kind::default()).await;
        let hung = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let hung_url = format!("https://127.0.0.1:{}/", hung.local_addr().unwrap().port());
        let url = format!("https://localhost:{}/", peer.port);
        let trust = |connection: &mut Connection| connection.tls = trusting(&peer);
        let hung_client = Rc::new(client(&hung_url, trust));
        let client = Rc::new(client(&url, trust));
        let dialler = Rc::new(dialler());
        let mut stuck = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let (client, dialler) = (Rc::clone(&hung_client), Rc::clone(&dialler));
            stuck
                .spawn_local(async move { client.dial(Duration::from_secs(60), &dialler).await.0 });
        }
        tokio::task::yield_now().await;
        let mut dials = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let (client, dialler) = (Rc::clone(&client), Rc::clone(&dialler));
            dials
                .spawn_local(async move { client.dial(Duration::from_secs(20), &dialler).await.0 });
        }
        let mut opened = 0;
        while let Some(done) = dials.join_next().await {
            done.unwrap().unwrap();
            opened += 1;
        }
        assert_eq!(opened, 20);
    });
}
