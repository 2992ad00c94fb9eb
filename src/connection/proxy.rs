//! The proxy of a connection, as data, and which targets it is not for.

use std::net::IpAddr;

use ipnet::IpNet;

use super::CaFile;
use crate::secret::Secret;

/// `proxy`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// What is spoken with it.
    pub kind: ProxyKind,
    /// Host without brackets: a name or an address.
    pub host: String,
    /// Port, explicit or the scheme's.
    pub port: u16,
    /// Who we are there.
    pub credentials: Option<Credentials>,
    /// The certificates to trust instead of the system's for an `https` proxy.
    pub ca: Option<CaFile>,
    /// What is dialled without it.
    pub no_proxy: Vec<Bypass>,
}

/// What is spoken with a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyKind {
    /// `http://`: CONNECT (RFC 9110, 9.3.6).
    Http,
    /// `https://`: CONNECT inside of TLS.
    Https,
    /// `socks5://` (RFC 1928); names go to the proxy as they are.
    Socks5,
}

/// User and password at a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// At most 255 bytes, no colon.
    pub user: String,
    /// At most 255 bytes.
    pub password: Secret,
}

/// One entry of `no_proxy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bypass {
    /// `*`
    All,
    /// `example.com`: it and what is below.
    Name(String),
    /// `.example.com`: what is below.
    Below(String),
    /// `10.0.0.0/8`: targets whose address is in it, also after a lookup of the name.
    Range(IpNet),
}

impl ProxyKind {
    /// The scheme of its URL.
    pub fn as_str(self) -> &'static str {
        match self {
            ProxyKind::Http => "http",
            ProxyKind::Https => "https",
            ProxyKind::Socks5 => "socks5",
        }
    }
}

impl Proxy {
    /// Its URL, without credentials.
    pub fn url(&self) -> String {
        let host = &self.host;
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        format!("{}://{host}:{}", self.kind.as_str(), self.port)
    }

    /// Whether a target is dialled without it, as far as its name (or literal address) says.
    pub fn bypasses_host(&self, host: &str) -> bool {
        if let Ok(address) = host.parse::<IpAddr>() {
            return self.bypasses(address);
        }
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        self.no_proxy.iter().any(|entry| match entry {
            Bypass::All => true,
            Bypass::Name(name) => host == *name || is_below(&host, name),
            Bypass::Below(name) => is_below(&host, name),
            Bypass::Range(_) => false,
        })
    }

    /// Whether a target with this address is dialled without it.
    pub fn bypasses(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.no_proxy.iter().any(|entry| match entry {
            Bypass::All => true,
            Bypass::Range(range) => range.contains(&address),
            Bypass::Name(_) | Bypass::Below(_) => false,
        })
    }

    /// Whether a name has to be looked up to know.
    pub fn asks_for_addresses(&self) -> bool {
        self.no_proxy.iter().any(|entry| matches!(entry, Bypass::Range(_)))
    }
}

fn is_below(host: &str, name: &str) -> bool {
    host.strip_suffix(name).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
}

impl Bypass {
    /// Reads one entry.
    ///
    /// # Errors
    /// A sentence that says what may be written.
    pub fn parse(text: &str) -> Result<Bypass, String> {
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(Bypass::Range(address.into()));
        }
        if let Ok(range) = text.parse::<IpNet>() {
            return Ok(Bypass::Range(range));
        }
        let name = text.strip_prefix("*.").map(|below| (true, below));
        let (below, name) = name
            .or_else(|| text.strip_prefix('.').map(|below| (true, below)))
            .unwrap_or((false, text));
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        match text {
            "*" => Ok(Bypass::All),
            _ if name.is_empty() || !name.chars().all(plain) => Err(format!(
                "{text:?} is neither a name, a suffix (\".internal\"), a range of addresses (\"10.0.0.0/8\") nor \"*\""
            )),
            _ if below => Ok(Bypass::Below(name)),
            _ => Ok(Bypass::Name(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(no_proxy: &[&str]) -> Proxy {
        Proxy {
            kind: ProxyKind::Http,
            host: "::1".to_owned(),
            port: 3128,
            credentials: None,
            ca: None,
            no_proxy: no_proxy.iter().map(|text| Bypass::parse(text).unwrap()).collect(),
        }
    }

    #[test]
    fn targets_bypass_it_by_name_suffix_and_range() {
        let some = proxy(&["Example.com", ".internal", "*.lan", "10.0.0.0/8", "[fd00::1]"]);
        for (host, expected) in [
            ("example.com", true),
            ("EXAMPLE.com.", true),
            ("a.example.com", true),
            ("notexample.com", false),
            ("internal", false),
            ("a.b.internal", true),
            ("lan", false),
            ("x.lan", true),
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("11.1.2.3", false),
            ("fd00::1", true),
            ("fd00::2", false),
            ("example.com.evil.org", false),
        ] {
            assert_eq!(some.bypasses_host(host), expected, "{host}");
        }
        assert!(some.asks_for_addresses() && !proxy(&["a"]).asks_for_addresses());
        assert!(proxy(&["*"]).bypasses_host("anything"));
        assert!(!proxy(&[]).bypasses_host("anything"));
        assert_eq!(some.url(), "http://[::1]:3128");
    }

    #[test]
    fn what_is_no_entry_says_what_would_be() {
        for text in ["", ".", "http://x", "a b", "10.0.0.0/33", "x:80"] {
            let error = Bypass::parse(text).unwrap_err();
            assert!(error.contains("range of addresses"), "{text}: {error}");
        }
    }
}
