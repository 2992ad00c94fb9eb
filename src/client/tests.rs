use std::sync::Arc;

use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::connection::{CaFile, Target, Tls};
use crate::delivery::testing::connection;

/// A TLS server whose certificate is what a case needs, and the CA it was signed with.
struct Peer {
    port: u16,
    ca_pem: Vec<u8>,
}

async fn tls_peer(name: &str, expired: bool) -> Peer {
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    let mut leaf = CertificateParams::new(vec![name.to_owned()]).unwrap();
    if expired {
        leaf.not_before = rcgen::date_time_ymd(2001, 1, 1);
        leaf.not_after = rcgen::date_time_ymd(2002, 1, 1);
    }
    let key = KeyPair::generate().unwrap();
    let leaf = leaf.signed_by(&key, &ca).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf.der().clone()],
            rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::task::spawn_local(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            if let Ok(mut tls) = acceptor.accept(tcp).await {
                let _ = tls.write_all(b"hello").await;
                let _ = tls.shutdown().await;
            }
        }
    });
    Peer { port, ca_pem: ca.pem().into_bytes() }
}

async fn dial(url: &str, tls: Tls) -> Result<Stream, Cause> {
    let mut connection = connection("tls", url);
    connection.target = Target::parse(url).unwrap();
    connection.tls = tls;
    let client = Client::new(&connection).unwrap();
    client.dial(Duration::from_secs(5), &Rc::default()).await.map_err(|error| error.cause)
}

fn trusting(peer: &Peer) -> Tls {
    Tls { ca: Some(CaFile { path: "ca.pem".into(), pem: peer.ca_pem.clone() }), ..Tls::default() }
}

fn local<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

#[test]
fn a_certificate_of_the_given_ca_is_trusted() {
    local(async {
        let peer = tls_peer("localhost", false).await;
        let url = format!("https://localhost:{}/", peer.port);
        let mut stream = dial(&url, trusting(&peer)).await.unwrap();
        let heard = stream.heard();
        assert!(!heard.anything());
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello");
        assert!(heard.anything());
    });
}

#[test]
fn bad_certificates_have_their_own_causes() {
    local(async {
        let good = tls_peer("localhost", false).await;
        let other = tls_peer("example.com", false).await;
        let old = tls_peer("localhost", true).await;
        let renamed = Tls { server_name: Some("example.com".to_owned()), ..trusting(&other) };
        for (peer, tls, expected) in [
            (&good, trusting(&old), Some(Cause::TlsUntrusted)),
            (&other, trusting(&other), Some(Cause::TlsName)),
            (&other, renamed, None),
            (&old, trusting(&old), Some(Cause::TlsExpired)),
        ] {
            let url = format!("https://localhost:{}/", peer.port);
            assert_eq!(dial(&url, tls).await.err(), expected);
        }
    });
}

#[test]
fn a_peer_that_does_not_speak_tls_is_a_protocol_error() {
    local(async {
        let good = tls_peer("localhost", false).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::task::spawn_local(async move {
            while let Ok((mut tcp, _)) = listener.accept().await {
                let _ = tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n and more").await;
                let _ = tcp.read(&mut [0; 1024]).await;
            }
        });
        let url = format!("https://localhost:{port}/");
        let failed = dial(&url, trusting(&good)).await.err();
        assert_eq!(failed, Some(Cause::TlsProtocol));
    });
}

#[test]
fn sockets_that_cannot_be_opened_say_why() {
    local(async {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        for (url, expected) in [
            (format!("http://127.0.0.1:{port}/"), Cause::ConnectRefused),
            ("http://no-such-host.invalid/".to_owned(), Cause::DnsFailed),
        ] {
            assert_eq!(dial(&url, Tls::default()).await.err(), Some(expected));
        }
    });
}

#[test]
fn what_cannot_be_used_is_refused_before_the_first_dial() {
    let mut connection = connection("tls", "https://localhost/");
    connection.tls.ca = Some(CaFile { path: "ca.pem".into(), pem: b"nonsense".to_vec() });
    let error = Client::new(&connection).unwrap_err();
    assert!(error.to_string().contains("ca.pem"), "{error}");
    connection.tls.ca = None;
    connection.tls.server_name = Some("not a name".to_owned());
    let error = Client::new(&connection).unwrap_err();
    assert!(error.to_string().contains("server_name"), "{error}");
}

#[test]
fn many_handshakes_take_turns_and_a_hung_one_blocks_none() {
    local(async {
        let peer = tls_peer("localhost", false).await;
        let hung = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let hung_url = format!("https://127.0.0.1:{}/", hung.local_addr().unwrap().port());
        let mut connection = connection("tls", &hung_url);
        connection.tls = trusting(&peer);
        let hung_client = Rc::new(Client::new(&connection).unwrap());
        connection.target = Target::parse(&format!("https://localhost:{}/", peer.port)).unwrap();
        let client = Rc::new(Client::new(&connection).unwrap());
        let pace = Rc::new(HandshakePace::default());
        let mut stuck = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let (client, pace) = (Rc::clone(&hung_client), Rc::clone(&pace));
            stuck.spawn_local(async move { client.dial(Duration::from_secs(60), &pace).await });
        }
        tokio::task::yield_now().await;
        let mut dials = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let (client, pace) = (Rc::clone(&client), Rc::clone(&pace));
            dials.spawn_local(async move { client.dial(Duration::from_secs(20), &pace).await });
        }
        let mut opened = 0;
        while let Some(done) = dials.join_next().await {
            done.unwrap().unwrap();
            opened += 1;
        }
        assert_eq!(opened, 20);
    });
}
