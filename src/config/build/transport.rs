//! How a connection reaches its target: TLS, HTTP/2, proxy, egress rules.

use std::os::unix::fs::PermissionsExt;

use http::HeaderValue;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::*;
use crate::config::layers::{Draft, builtin};
use crate::config::value::Table;
use crate::config::{Security, fields};
use crate::connection::egress::Egress;
use crate::connection::proxy::{Bypass, Credentials, Proxy, ProxyKind};
use crate::connection::{CaFile, Http2, Identity, Tls, TlsVersion};

/// The longest user or password that SOCKS5 has a place for (RFC 1929).
const CREDENTIAL_BYTES_MAX: usize = 255;

impl Build<'_> {
    pub(super) fn tls(&mut self, draft: &Draft, security: Security) -> Tls {
        let table = draft.table.table("tls");
        Tls {
            ca: self.ca_file(draft, &table, "tls"),
            server_name: table.text("server_name").map(str::to_owned),
            min_version: match table.word("min_version") {
                "1.3" => TlsVersion::V1_3,
                _ => TlsVersion::V1_2,
            },
            identity: self.identity(draft, &table),
            verify: self.verify(draft, &table, security),
        }
    }

    /// Off takes two keys, and is warned about at each load.
    fn verify(&mut self, draft: &Draft, table: &Table, security: Security) -> bool {
        let verify = table.flag("verify").unwrap_or(true);
        let Some(item) = table.written("verify").filter(|_| !verify) else {
            return true;
        };
        let path = format!("{}tls.verify", draft.path);
        if security.allow_insecure_tls {
            let message = "the peer's certificate is not verified: anyone on the way can read and answer; remove it, and name the issuer in tls.ca_file";
            self.report.warn(&item.place, &Reveal::Value, &path, message.to_owned());
        } else {
            let message = "tls.verify = false needs [security] allow_insecure_tls = true in posthaste.toml as well; better name the issuer in tls.ca_file";
            self.error_at(Some(item), &draft.place, &path, message.to_owned());
        }
        false
    }

    fn ca_file(&mut self, draft: &Draft, table: &Table, name: &str) -> Option<CaFile> {
        let (item, path) = (table.get("ca_file")?, table.path("ca_file")?);
        let pem = self.named_file(path);
        let read = pem
            .map_err(|reason| format!("cannot read {}: {reason}", path.display()))
            .and_then(trusted);
        match read {
            Ok(pem) => Some(CaFile { path: path.to_owned(), pem }),
            Err(message) => {
                let key_path = format!("{}{name}.ca_file", draft.path);
                self.error_at(Some(item), &draft.place, &key_path, message);
                None
            }
        }
    }

    fn identity(&mut self, draft: &Draft, table: &Table) -> Option<Identity> {
        let [cert, key] = ["client_cert", "client_key"].map(|key| (key, table.get(key)));
        let (cert_path, key_path) = match (table.path(cert.0), table.path(key.0)) {
            (Some(cert), Some(key)) => (cert, key),
            (None, None) => return None,
            (with, _) => {
                let (there, missing) = if with.is_some() { (cert, key) } else { (key, cert) };
                if !table.refused(&[missing.0]) {
                    let message = format!("needs tls.{} as well", missing.0);
                    let path = format!("{}tls.{}", draft.path, there.0);
                    self.error_at(there.1, &draft.place, &path, message);
                }
                return None;
            }
        };
        let cert_pem = self.pem(draft, cert, cert_path)?;
        let key_pem = self.pem(draft, key, key_path)?;
        let refused = match pair(&cert_pem, &key_pem) {
            Ok(()) => None,
            Err(PairError::Certificate(message)) => {
                Some((cert, format!("{}: {message}", cert_path.display())))
            }
            Err(PairError::Key(message)) => {
                Some((key, format!("{}: {message}", key_path.display())))
            }
            Err(PairError::Mismatch) => Some((
                key,
                format!(
                    "the key in {} does not belong to the certificate in {}",
                    key_path.display(),
                    cert_path.display()
                ),
            )),
        };
        if let Some(((name, item), message)) = refused {
            self.error_at(item, &draft.place, &format!("{}tls.{name}", draft.path), message);
            return None;
        }
        self.warn_of_open_key(draft, key.1, key_path);
        Some(Identity { cert_path: cert_path.to_owned(), cert_pem, key_pem: Secret::new(key_pem) })
    }

    fn pem(
        &mut self,
        draft: &Draft,
        (name, item): (&str, Option<&Item>),
        path: &Path,
    ) -> Option<Vec<u8>> {
        let read = self.named_file(path);
        read.map_err(|reason| {
            let message = format!("cannot read {}: {reason}", path.display());
            self.error_at(item, &draft.place, &format!("{}tls.{name}", draft.path), message);
        })
        .ok()
    }

    /// A key that everybody on this machine can read.
    fn warn_of_open_key(&mut self, draft: &Draft, item: Option<&Item>, path: &Path) {
        let mode = std::fs::metadata(path).map_or(0, |found| found.permissions().mode());
        if mode & 0o004 != 0 {
            let message = format!(
                "{} can be read by every user of this machine; chmod 640 or stricter",
                path.display()
            );
            let place = item.map_or(&draft.place, |item| &item.place);
            let key_path = format!("{}tls.client_key", draft.path);
            self.report.warn(place, &Reveal::Value, &key_path, message);
        }
    }

    pub(super) fn host_header(&mut self, draft: &Draft) -> Option<HeaderValue> {
        let (item, text) = (draft.table.get("host_header")?, draft.table.text("host_header")?);
        // What an authority is (RFC 9110, 7.2) without a user: HTTP/2 has it as `:authority`.
        let authority = text.parse::<http::uri::Authority>().ok();
        match authority.filter(|_| !text.contains('@')) {
            Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
            None => {
                let message = format!(
                    "{text:?} is not a host, write it as in \"crm.internal\" or \"crm.internal:8443\""
                );
                let path = format!("{}host_header", draft.path);
                self.error_at(Some(item), &draft.place, &path, message);
                None
            }
        }
    }

    pub(super) fn proxy(&mut self, draft: &Draft) -> Option<Proxy> {
        let written = draft.table.get("proxy")?;
        let mut table = builtin(fields::PROXY);
        table.merge(&draft.table.table("proxy"));
        let path = |key: &str| format!("{}proxy.{key}", draft.path);
        let ca = self.ca_file(draft, &table, "proxy");
        let credentials = self.credentials(draft, &table);
        let mut no_proxy = Vec::new();
        for item in table.list("no_proxy") {
            match Bypass::parse(item.as_text().unwrap_or_default()) {
                Ok(entry) => no_proxy.push(entry),
                Err(message) => {
                    self.error_at(Some(item), &draft.place, &path("no_proxy"), message);
                }
            }
        }
        let Some(text) = table.text("url") else {
            if !table.refused(&["url"]) {
                let message = "url is missing, write one as in url = \"http://proxy:3128\"";
                let path = format!("{}proxy", draft.path);
                self.error_at(Some(written), &draft.place, &path, message.to_owned());
            }
            return None;
        };
        match proxy_url(text) {
            Ok((kind, host, port)) => Some(Proxy { kind, host, port, credentials, ca, no_proxy }),
            Err(message) => {
                // A URL may hold a password.
                let place = table.get("url").map_or(&draft.place, |item| &item.place);
                self.report.error(place, &Reveal::Nothing, &path("url"), message);
                None
            }
        }
    }

    fn credentials(&mut self, draft: &Draft, table: &Table) -> Option<Credentials> {
        let path = |key: &str| format!("{}proxy.{key}", draft.path);
        let (user, password) = match (table.text("username"), table.get("password")) {
            (None, None) => return None,
            (Some(user), Some(password)) => (user, password),
            (user, password) => {
                let (there, missing) = match user {
                    Some(_) => ("username", "password"),
                    None => ("password", "username"),
                };
                if !table.refused(&[missing]) {
                    let item = password.or(table.get("username"));
                    let message = format!("needs proxy.{missing} as well");
                    self.error_at(item, &draft.place, &path(there), message);
                }
                return None;
            }
        };
        if user.contains(':') || user.len() > CREDENTIAL_BYTES_MAX {
            let message = "holds a colon, which ends the name, or has more than 255 bytes";
            let item = table.get("username");
            self.error_at(item, &draft.place, &path("username"), message.to_owned());
        }
        let (secret, _) = self.secret_of(password, &path("password"))?;
        if secret.expose().len() > CREDENTIAL_BYTES_MAX {
            let message = "the secret has more than 255 bytes".to_owned();
            self.report.error(&password.place, &Reveal::Nothing, &path("password"), message);
        }
        Some(Credentials { user: user.to_owned(), password: secret })
    }
}

pub(super) fn http2(table: &Table) -> Http2 {
    let flag = |key| table.flag(key).unwrap_or_default();
    Http2 { enabled: flag("enabled"), prior_knowledge: flag("prior_knowledge") }
}

pub(super) fn egress(table: &Table, security: Security) -> Egress {
    let range = |item: &Item| match item.value {
        Value::Cidr(range) => Some(range),
        _ => None,
    };
    let allow = table.list("allow").iter().filter_map(range).collect();
    Egress { policy: security.egress, allow }
}

/// Scheme, host and port of a proxy. Messages do not show the text.
fn proxy_url(text: &str) -> Result<(ProxyKind, String, u16), String> {
    let url = url::Url::parse(text).map_err(|error| {
        format!("not a URL ({error}); write it whole, as in \"http://proxy:3128\"")
    })?;
    let (kind, port) = match url.scheme() {
        "http" => (ProxyKind::Http, 80),
        "https" => (ProxyKind::Https, 443),
        "socks5" | "socks5h" => (ProxyKind::Socks5, 1080),
        other => {
            return Err(format!("scheme {other:?} is not supported; use http, https or socks5"));
        }
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "a user or password in the URL is not allowed; write proxy.username and proxy.password"
                .to_owned(),
        );
    }
    let more = url.query().or(url.fragment()).is_some() || !matches!(url.path(), "" | "/");
    if more {
        return Err("has more than scheme, host and port; remove the rest".to_owned());
    }
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or("the URL has no host")?;
    // The host of an unknown scheme such as socks5 is not normalised.
    let host =
        match url::Host::parse(host).map_err(|error| format!("the host is not one: {error}"))? {
            url::Host::Domain(name) => name,
            url::Host::Ipv4(address) => address.to_string(),
            url::Host::Ipv6(address) => address.to_string(),
        };
    Ok((kind, host, url.port().unwrap_or(port)))
}

/// Checks that a PEM file holds certificates, and only such that can be trusted.
fn trusted(pem: Vec<u8>) -> Result<Vec<u8>, String> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|_| "the file is not PEM".to_owned())?;
        roots.add(certificate).map_err(|error| {
            format!("the file holds a certificate that cannot be trusted: {error}")
        })?;
    }
    if roots.is_empty() {
        return Err("the file holds no certificate (-----BEGIN CERTIFICATE-----)".to_owned());
    }
    Ok(pem)
}

/// What is wrong with a certificate and its key.
enum PairError {
    Certificate(String),
    Key(String),
    Mismatch,
}

/// Checks that a certificate and a key can be used and belong together.
fn pair(cert_pem: &[u8], key_pem: &[u8]) -> Result<(), PairError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(cert_pem)
        .collect::<Result<_, _>>()
        .map_err(|_| PairError::Certificate("the file is not PEM".to_owned()))?;
    if chain.is_empty() {
        let message = "the file holds no certificate (-----BEGIN CERTIFICATE-----)";
        return Err(PairError::Certificate(message.to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|_| {
        PairError::Key(
            "the file holds no key without a passphrase (-----BEGIN PRIVATE KEY-----)".to_owned(),
        )
    })?;
    let provider = rustls::crypto::ring::default_provider();
    rustls::sign::CertifiedKey::from_der(chain, key, &provider).map(drop).map_err(|error| {
        match error {
            rustls::Error::InconsistentKeys(_) => PairError::Mismatch,
            rustls::Error::InvalidCertificate(reason) => {
                PairError::Certificate(format!("the certificate cannot be used: {reason}"))
            }
            error => PairError::Key(format!("the key cannot be used: {error}")),
        }
    })
}
