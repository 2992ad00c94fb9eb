//! Dialling through proxies, over real sockets.

use std::cell::RefCell;

use tokio::io::{AsyncRead, AsyncWrite};

use super::*;
use crate::connection::proxy::{Bypass, Credentials, Proxy, ProxyKind};

/// An HTTP proxy that connects every name to this machine, and notes the heads of what it was asked.
struct HttpProxy {
    port: u16,
    heads: Rc<RefCell<Vec<String>>>,
    ca_pem: Vec<u8>,
}

async fn read_head<S: AsyncRead + Unpin>(socket: &mut S) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match socket.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

/// Answers 200 and passes bytes on, or answers as `refusal` says.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut socket: S,
    refusal: &'static str,
    heads: Rc<RefCell<Vec<String>>>,
) {
    let head = read_head(&mut socket).await;
    let port = head.split([' ', ':']).nth(2).and_then(|port| port.parse::<u16>().ok());
    heads.borrow_mut().push(head);
    if !refusal.is_empty() {
        let _ = socket.write_all(refusal.as_bytes()).await;
        return;
    }
    let mut target = TcpStream::connect(("127.0.0.1", port.unwrap())).await.unwrap();
    socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    let _ = tokio::io::copy_bidirectional(&mut socket, &mut target).await;
}

async fn http_proxy(refusal: &'static str, over_tls: bool) -> HttpProxy {
    let ca = authority();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &ca).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heads: Rc<RefCell<Vec<String>>> = Rc::default();
    let noted = Rc::clone(&heads);
    tokio::task::spawn_local(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, noted) = (acceptor.clone(), Rc::clone(&noted));
            tokio::task::spawn_local(async move {
                match over_tls {
                    true => {
                        if let Ok(tls) = acceptor.accept(tcp).await {
                            serve(tls, refusal, noted).await;
                        }
                    }
                    false => serve(tcp, refusal, noted).await,
                }
            });
        }
    });
    HttpProxy { port, heads, ca_pem: ca.pem().into_bytes() }
}

fn proxy(kind: ProxyKind, proxy: &HttpProxy, no_proxy: &[&str]) -> Proxy {
    Proxy {
        kind,
        host: "localhost".to_owned(),
        port: proxy.port,
        credentials: Some(Credentials { user: "me".to_owned(), password: Secret::new("pass") }),
        ca: Some(CaFile { path: "proxy.pem".into(), pem: proxy.ca_pem.clone() }),
        no_proxy: no_proxy.iter().map(|entry| Bypass::parse(entry).unwrap()).collect(),
    }
}

async fn hello_peer() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::task::spawn_local(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let _ = tcp.write_all(b"plain").await;
        }
    });
    port
}

#[test]
fn targets_with_and_without_tls_are_reached_through_both_kinds() {
    local(async {
        let secure = tls_peer("target.example", Kind::default()).await;
        let plain = hello_peer().await;
        for (kind, over_tls) in [(ProxyKind::Http, false), (ProxyKind::Https, true)] {
            let way = http_proxy("", over_tls).await;
            for (scheme, port, says) in [("https", secure.port, "hello"), ("http", plain, "plain")]
            {
                let url = format!("{scheme}://target.example:{port}/");
                let client = client(&url, |connection| {
                    connection.tls = trusting(&secure);
                    connection.proxy = Some(proxy(kind, &way, &["other.example"]));
                });
                let (stream, timings) = client.dial(LIMIT, &dialler()).await;
                let mut stream = stream.unwrap();
                assert_eq!(read(&mut stream).await.unwrap(), says);
                assert_eq!(stream.remote().port(), way.port);
                assert_eq!(stream.secured().is_some(), scheme == "https");
                assert_eq!(timings.tls.is_some(), scheme == "https");
                let head = way.heads.borrow().last().unwrap().to_lowercase();
                assert!(head.starts_with(&format!("connect target.example:{port} http/1.1\r\n")));
                assert!(head.contains("proxy-authorization: basic bwu6cgfzcw=="), "{head}");
            }
        }
    });
}

#[test]
fn a_proxys_failure_is_never_the_targets() {
    local(async {
        let secure = tls_peer("target.example", Kind::default()).await;
        let url = format!("https://target.example:{}/", secure.port);
        let through = |settings: Proxy| {
            let client = client(&url, |connection| {
                connection.tls = trusting(&secure);
                connection.proxy = Some(settings);
            });
            async move { client.dial(LIMIT, &dialler()).await.0.unwrap_err() }
        };
        let refusing = http_proxy("HTTP/1.1 503 No way\r\n\r\n", false).await;
        let error = through(proxy(ProxyKind::Http, &refusing, &[])).await;
        assert_eq!((error.cause, error.stage), (Cause::ProxyFailed, Stage::Proxy));
        let expected = format!(
            "proxy http://localhost:{}: it answered CONNECT target.example:{} with 503 No way",
            refusing.port, secure.port
        );
        assert_eq!(error.detail, expected);
        assert_eq!(error.remote.unwrap().port(), refusing.port);

        let mut gone = proxy(ProxyKind::Http, &refusing, &[]);
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        gone.port = free.local_addr().unwrap().port();
        drop(free);
        let error = through(gone).await;
        assert_eq!(error.cause, Cause::ProxyFailed, "{error}");
        assert!(error.detail.contains("refused"), "{error}");

        let mut unknown = proxy(ProxyKind::Socks5, &refusing, &[]);
        unknown.host = "proxy.invalid".to_owned();
        let error = through(unknown).await;
        assert_eq!((error.cause, error.stage), (Cause::ProxyFailed, Stage::Lookup));

        let over_tls = http_proxy("", true).await;
        let mut untrusted = proxy(ProxyKind::Https, &over_tls, &[]);
        untrusted.ca = Some(CaFile { path: "x".into(), pem: secure.ca_pem.clone() });
        let error = through(untrusted).await;
        assert_eq!((error.cause, error.stage), (Cause::ProxyFailed, Stage::Proxy), "{error}");

        // The target's own certificate stays the target's.
        let way = http_proxy("", false).await;
        let other = tls_peer("other.example", Kind::default()).await;
        let url = format!("https://target.example:{}/", other.port);
        let client = client(&url, |connection| {
            connection.tls = trusting(&other);
            connection.proxy = Some(proxy(ProxyKind::Http, &way, &[]));
        });
        let error = client.dial(LIMIT, &dialler()).await.0.unwrap_err();
        assert_eq!(error.cause, Cause::TlsName);
    });
}

#[test]
fn no_proxy_counts_by_name_and_by_looked_up_address() {
    local(async {
        let plain = hello_peer().await;
        let way = http_proxy("", false).await;
        for (no_proxy, straight) in [
            (&["target.example"][..], true),
            (&[".example"], true),
            (&["127.0.0.0/8"], true),
            (&["*"], true),
            (&["10.0.0.0/8", "other"], false),
            (&[], false),
        ] {
            let url = format!("http://target.example:{plain}/");
            let client = client(&url, |connection| {
                connection.proxy = Some(proxy(ProxyKind::Http, &way, no_proxy));
            });
            let stream = client.dial(LIMIT, &dialler()).await.0.unwrap();
            let port = if straight { plain } else { way.port };
            assert_eq!(stream.remote().port(), port, "{no_proxy:?}");
        }
        // A name that only the proxy knows goes to it.
        let url = format!("http://target.invalid:{plain}/");
        let client = client(&url, |connection| {
            connection.proxy = Some(proxy(ProxyKind::Http, &way, &["10.0.0.0/8"]));
        });
        let stream = client.dial(LIMIT, &dialler()).await.0.unwrap();
        assert_eq!(stream.remote().port(), way.port);
    });
}

#[test]
fn egress_rules_hold_for_the_proxy_and_for_targets_we_know() {
    use crate::connection::egress::{Egress, EgressPolicy};
    local(async {
        let way = http_proxy("", false).await;
        let blocked = |url: &str, no_proxy: &[&str], policy: EgressPolicy, allow: &[&str]| {
            let client = client(url, |connection| {
                connection.proxy = Some(proxy(ProxyKind::Http, &way, no_proxy));
                let allow = allow.iter().map(|range| range.parse().unwrap()).collect();
                connection.egress = Egress { policy, allow };
            });
            async move {
                let error = client.dial(LIMIT, &dialler()).await.0.unwrap_err();
                assert_eq!(error.cause, Cause::EgressBlocked, "{error}");
                error.detail
            }
        };
        let public = EgressPolicy::Public;
        // The proxy itself.
        let detail = blocked("http://target.example/", &[], public, &[]).await;
        let expected = format!("proxy http://localhost:{}: 127.0.0.1 is a loopback", way.port);
        assert!(detail.starts_with(&expected), "{detail}");
        // A literal target.
        let detail = blocked("http://10.0.0.1/", &[], public, &["127.0.0.1/32"]).await;
        assert!(detail.starts_with("10.0.0.1 is a private"), "{detail}");
        let detail = blocked("http://169.254.169.254/", &[], EgressPolicy::Open, &[]).await;
        assert!(detail.starts_with("169.254.169.254 is the metadata"), "{detail}");
        assert!(way.heads.borrow().is_empty());
    });
}
