use tokio::io::{DuplexStream, duplex};

use super::*;
use crate::secret::Secret;

fn client(kind: ProxyKind, credentials: Option<(&str, &str)>) -> ProxyClient {
    let credentials = credentials.map(|(user, password)| Credentials {
        user: user.to_owned(),
        password: Secret::new(password),
    });
    let settings = Proxy {
        kind,
        host: "proxy".to_owned(),
        port: 1,
        credentials,
        ca: None,
        no_proxy: Vec::new(),
    };
    ProxyClient { settings, tls: None }
}

/// What the proxy reads and then says, in turn.
type Step<'s> = (&'s [u8], &'s [u8]);

/// Runs a tunnel against a proxy that follows a script; returns how it went and what can be read afterwards.
async fn tunnel(
    client: &ProxyClient,
    host: &str,
    script: &[Step<'_>],
) -> (Result<(), String>, Vec<u8>) {
    let (mut ours, theirs) = duplex(64 * 1024);
    let proxy = async {
        let mut theirs: DuplexStream = theirs;
        for (expected, answer) in script {
            let mut got = vec![0; expected.len()];
            theirs.read_exact(&mut got).await.unwrap();
            assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(expected));
            theirs.write_all(answer).await.unwrap();
        }
    };
    let (went, ()) = tokio::join!(client.tunnel(&mut ours, host, 443), proxy);
    let mut rest = Vec::new();
    ours.read_to_end(&mut rest).await.unwrap();
    (went, rest)
}

fn asked(host: &str, more: &str) -> Vec<u8> {
    let agent = concat!("user-agent: posthaste/", env!("CARGO_PKG_VERSION"));
    format!("CONNECT {host} HTTP/1.1\r\nhost: {host}\r\n{agent}\r\n{more}\r\n").into_bytes()
}

#[tokio::test]
async fn connect_leaves_what_follows_the_answer_to_the_target() {
    let plain = client(ProxyKind::Http, None);
    let head: &[u8] = b"HTTP/1.1 200 Connection established\r\nvia: x\r\n\r\nfirst bytes";
    let (went, rest) = tunnel(&plain, "crm", &[(&asked("crm:443", ""), head)]).await;
    assert_eq!((went, &rest[..]), (Ok(()), &b"first bytes"[..]));
    let (went, _) = tunnel(&plain, "::1", &[(&asked("[::1]:443", ""), b"HTTP/1.0 204\n\n")]).await;
    assert_eq!(went, Ok(()));
    // "me:pass", in base64.
    let asked = asked("crm:443", "proxy-authorization: Basic bWU6cGFzcw==\r\n");
    let ours = client(ProxyKind::Https, Some(("me", "pass")));
    let (went, _) = tunnel(&ours, "crm", &[(&asked, b"HTTP/1.1 200 OK\r\n\r\n")]).await;
    assert_eq!(went, Ok(()));
}

#[tokio::test]
async fn connect_says_what_the_proxy_did_instead() {
    let long = [b"HTTP/1.1 200 OK\r\nx: ".to_vec(), vec![b'x'; HEAD_MAX]].concat();
    for (answer, expected) in [
        (&b"HTTP/1.1 502 Bad\x1b[31m Gateway\r\n\r\n"[..], "502 Bad.[31m Gateway"),
        (b"HTTP/1.1 407 Who\r\n\r\n", "set proxy.username"),
        (b"HTTP/1.1 302 Found\r\nlocation: /\r\n\r\n", "302 Found"),
        (b"HTTP/1.1 20 OK\r\n\r\n", "is not HTTP"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "is not HTTP"),
        (b"SSH-2.0-x\r\n\r\n", "is not HTTP: SSH-2.0"),
        (b"HTTP/1.1 200 OK\r\n", "closed the connection"),
        (&long, "too long"),
    ] {
        let plain = client(ProxyKind::Http, None);
        let (went, _) = tunnel(&plain, "crm", &[(&asked("crm:443", ""), answer)]).await;
        let error = went.unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    let asked = asked("crm:443", "proxy-authorization: Basic bWU6cGFzcw==\r\n");
    let ours = client(ProxyKind::Http, Some(("me", "pass")));
    let (went, _) = tunnel(&ours, "crm", &[(&asked, b"HTTP/1.1 407 No\r\n\r\n")]).await;
    assert_eq!(went.unwrap_err(), "it refused our credentials (407)");
}

const AGREED: &[u8] = &[5, 0, 0, 1, 10, 0, 0, 1, 0x1f, 0x90];

#[tokio::test]
async fn socks5_asks_for_names_and_addresses() {
    let plain = client(ProxyKind::Socks5, None);
    for (host, asked) in [
        ("crm", &[5, 1, 0, 3, 3, b'c', b'r', b'm', 1, 0xbb][..]),
        ("10.0.0.1", &[5, 1, 0, 1, 10, 0, 0, 1, 1, 0xbb]),
        ("::1", &[5, 1, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0xbb]),
    ] {
        for bound in [
            AGREED.to_vec(),
            [&[5, 0, 0, 4][..], &[0; 18]].concat(),
            [&[5, 0, 0, 3, 2][..], &[b'x'; 4]].concat(),
        ] {
            let answer = [&bound[..], b"hello"].concat();
            let script: [Step<'_>; 2] = [(&[5, 1, 0], &[5, 0]), (asked, &answer)];
            let (went, rest) = tunnel(&plain, host, &script).await;
            assert_eq!((went, &rest[..]), (Ok(()), &b"hello"[..]), "{host}");
        }
    }
    let ours = client(ProxyKind::Socks5, Some(("me", "pass")));
    let script: [Step<'_>; 3] = [
        (&[5, 2, 0, 2], &[5, 2]),
        (b"\x01\x02me\x04pass", &[1, 0]),
        (&[5, 1, 0, 3, 1, b'x', 1, 0xbb], AGREED),
    ];
    assert_eq!(tunnel(&ours, "x", &script).await.0, Ok(()));
    // It may ask for nothing all the same.
    let script: [Step<'_>; 2] =
        [(&[5, 2, 0, 2], &[5, 0]), (&[5, 1, 0, 3, 1, b'x', 1, 0xbb], AGREED)];
    assert_eq!(tunnel(&ours, "x", &script).await.0, Ok(()));
}

#[tokio::test]
async fn socks5_says_what_the_proxy_did_instead() {
    let plain = client(ProxyKind::Socks5, None);
    let hello: &[u8] = &[5, 1, 0];
    let asked: &[u8] = &[5, 1, 0, 3, 1, b'x', 1, 0xbb];
    let refusals = (1..=9).map(|reply| (vec![5, reply, 0, 1], meaning(reply)));
    let other = [(vec![4, 0, 0, 1], "not SOCKS5"), (vec![5, 0, 0, 9], "no known kind")];
    for (answer, expected) in refusals.chain(other) {
        let error = tunnel(&plain, "x", &[(hello, &[5, 0]), (asked, &answer)]).await.0;
        let error = error.unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    for (answer, expected) in [
        (&[5, 0xff][..], "set proxy.username"),
        (&[5, 7], "none of our ways"),
        (b"HT", "does not speak SOCKS5"),
        (b"", "closed the connection"),
    ] {
        let error = tunnel(&plain, "x", &[(hello, answer)]).await.0.unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    let ours = client(ProxyKind::Socks5, Some(("me", "pass")));
    let script: [Step<'_>; 2] = [(&[5, 2, 0, 2], &[5, 2]), (b"\x01\x02me\x04pass", &[1, 1])];
    assert_eq!(tunnel(&ours, "x", &script).await.0.unwrap_err(), "it refused our credentials");
    let long = "x".repeat(256);
    let error = tunnel(&plain, &long, &[(hello, &[5, 0])]).await.0.unwrap_err();
    assert!(error.contains("no name this long"), "{error}");
}
