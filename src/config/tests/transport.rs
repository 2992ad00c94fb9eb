//! TLS, HTTP/2, proxies and egress rules, with certificates made here.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::connection::egress::EgressPolicy;
use crate::connection::proxy::{Bypass, ProxyKind};
use crate::connection::{Http2, TlsVersion};

/// A certificate and its key, as PEM.
fn key_pair() -> (String, String) {
    let pair = rcgen::generate_simple_self_signed(["example.com".to_owned()]).unwrap();
    (pair.cert.pem(), pair.signing_key.serialize_pem())
}

/// Files with a connection of these tables, beside `client.pem`, `client.key` and `other.key`.
fn site(root: &str, tables: &str) -> tempfile::TempDir {
    let (certificate, key) = key_pair();
    let connection =
        format!("[[connection]]\nname = \"crm\"\nurl = \"https://10.0.0.7:8443/\"\n{tables}");
    let directory = directory(&[
        (FILE_NAME, root),
        ("connections.d/a.toml", &connection),
        ("client.pem", &certificate),
        ("client.key", &key),
        ("other.key", &key_pair().1),
        (
            "locked.key",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
        ),
    ]);
    for key in ["client.key", "other.key"] {
        chmod(&directory.path().join(key), 0o640);
    }
    directory
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn all_of_it_is_read() {
    let root = "[security]\negress = \"public\"\n[network]\nresolvers = [\"127.0.0.1:5353\"]\n";
    let site = site(
        root,
        r#"host_header = "crm.internal:8443"
http2 = { enabled = true, prior_knowledge = true }
[connection.tls]
ca_file = "../client.pem"
client_cert = "../client.pem"
client_key = "../client.key"
server_name = "crm.internal"
min_version = "1.3"
[connection.proxy]
url = "socks5://[fd00::1]:1081"
username = "posthaste"
password = { env = "PROXY_PASSWORD" }
ca_file = "../client.pem"
no_proxy = ["crm.internal", ".lan", "10.0.0.0/8", "*"]
[connection.egress]
allow = ["10.0.0.0/8", "fd00::1"]
"#,
    );
    let loaded = load_in(site.path(), &[("PROXY_PASSWORD", "hunter2")]);
    let loaded = loaded.unwrap_or_else(|refused| panic!("{}", refused.render()));
    assert_eq!(warnings(&loaded), [""; 0]);
    let resolver = "127.0.0.1:5353".parse().unwrap();
    assert_eq!(loaded.config.daemon.network.resolvers, [resolver]);
    let connection = &loaded.config.connections[0];
    assert_eq!(connection.host_header.as_ref().unwrap(), "crm.internal:8443");
    assert_eq!(connection.http2, Http2 { enabled: true, prior_knowledge: true });
    let identity = connection.tls.identity.as_ref().unwrap();
    assert!(identity.cert_path.ends_with("client.pem"));
    assert!(identity.cert_pem.starts_with(b"-----BEGIN CERTIFICATE"));
    assert!(!format!("{connection:?}").contains("PRIVATE KEY"));
    assert_eq!((connection.tls.verify, connection.tls.min_version), (true, TlsVersion::V1_3));
    let proxy = connection.proxy.as_ref().unwrap();
    assert_eq!((proxy.kind, proxy.url()), (ProxyKind::Socks5, "socks5://[fd00::1]:1081".into()));
    let credentials = proxy.credentials.as_ref().unwrap();
    assert_eq!(credentials.password.expose(), b"hunter2");
    assert_eq!(proxy.no_proxy.len(), 4);
    assert_eq!(proxy.no_proxy[1], Bypass::Below("lan".to_owned()));
    assert!(proxy.ca.is_some());
    let allow = ["10.0.0.0/8", "fd00::1/128"].map(|range| range.parse().unwrap());
    assert_eq!(connection.egress.allow, allow);
    assert_eq!(connection.egress.policy, EgressPolicy::Public);
    // All of these files are watched.
    let names = loaded.watched.files.iter().map(|path| path.file_name().unwrap());
    assert_eq!(names.collect::<Vec<_>>(), ["client.key", "client.pem"]);
}

#[test]
fn proxies_have_the_ports_of_their_schemes() {
    for (url, expected) in [
        ("http://proxy", "http://proxy:80"),
        ("https://Proxy.Internal/", "https://proxy.internal:443"),
        ("socks5://PROXY", "socks5://proxy:1080"),
        ("socks5h://10.0.0.1:1", "socks5://10.0.0.1:1"),
    ] {
        let site = site("", &format!("proxy = {{ url = {url:?} }}"));
        let loaded = load_in(site.path(), &[]).unwrap();
        assert_eq!(loaded.config.connections[0].proxy.as_ref().unwrap().url(), expected);
    }
}

/// The messages of the errors.
fn errors(tables: &str) -> Vec<String> {
    let site = site("", tables);
    let refused = load_in(site.path(), &[]).expect_err(tables);
    let place = site.path().display().to_string();
    refused.errors.iter().map(|error| error.to_string().replace(&place, "$SITE")).collect()
}

#[test]
fn a_certificate_and_its_key_must_match() {
    let pair = |cert: &str, key: &str| {
        errors(&format!("tls = {{ client_cert = \"../{cert}\", client_key = \"../{key}\" }}"))
    };
    let at = "connections.d/a.toml:4";
    assert_eq!(
        pair("client.pem", "other.key"),
        [format!(
            "{at}:53: connection \"crm\" tls.client_key: the key in $SITE/connections.d/../other.key does not belong to the certificate in $SITE/connections.d/../client.pem"
        )]
    );
    for (cert, key, expected) in [
        ("client.key", "client.key", "client.key: the file holds no certificate"),
        ("client.pem", "client.pem", "client.pem: the file holds no key without a passphrase"),
        ("client.pem", "locked.key", "locked.key: the file holds no key without a passphrase"),
        ("client.pem", "missing.key", "missing.key: no such file"),
    ] {
        let errors = pair(cert, key);
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].contains(expected), "{errors:?}");
    }
}

#[test]
fn a_key_that_everybody_can_read_is_warned_about() {
    let tables = "tls = { client_cert = \"../client.pem\", client_key = \"../client.key\" }";
    let site = site("", tables);
    assert_eq!(warnings(&load_in(site.path(), &[]).unwrap()), [""; 0]);
    chmod(&site.path().join("client.key"), 0o644);
    let warned = warnings(&load_in(site.path(), &[]).unwrap());
    assert_eq!(warned.len(), 1);
    assert!(warned[0].contains("tls.client_key") && warned[0].contains("chmod 640"), "{warned:?}");
}

#[test]
fn verification_is_turned_off_by_two_keys() {
    let refused = errors("tls = { verify = false }");
    assert_eq!(refused.len(), 1);
    for word in ["tls.verify = false", "[security] allow_insecure_tls = true"] {
        assert!(refused[0].contains(word), "{refused:?}");
    }
    let allowed = "[security]\nallow_insecure_tls = true\n";
    let one = site(allowed, "");
    let loaded = load_in(one.path(), &[]).unwrap();
    assert!(loaded.config.connections[0].tls.verify && loaded.warnings.is_empty());
    let both = site(allowed, "tls = { verify = false }");
    for _ in 0..2 {
        let loaded = load_in(both.path(), &[]).unwrap();
        assert!(!loaded.config.connections[0].tls.verify);
        let warned = warnings(&loaded);
        assert_eq!(warned.len(), 1, "at each load");
        assert!(warned[0].contains("not verified"), "{warned:?}");
    }
}

#[test]
fn secrets_of_a_proxy_are_never_shown() {
    let site = site(
        "",
        "[connection.proxy]\nurl = \"http://me:hunter2@proxy\"\nusername = \"me\"\npassword = \"hunter2\"",
    );
    let refused = load_in(site.path(), &[]).unwrap_err();
    assert!(!refused.render().contains("hunter2"), "{}", refused.render());
    assert!(refused.render().contains("proxy.username and proxy.password"), "{}", refused.render());
}
