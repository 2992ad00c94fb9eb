//! A connection: one configured route, as plain data that every part shares in an `Arc`. Its parts are pure policies in
//! `connection/`; nothing here does I/O.
//!
//! A value that exists is legal: [`crate::config`] is the only place that makes one, and it checks every bound of
//! spec 3 before.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};

pub mod auth;
pub mod breaker;
pub mod dedupe;
pub mod egress;
pub mod filter;
pub mod glob;
pub mod headers;
pub mod json;
pub mod keeps;
pub mod ordering;
pub mod part;
pub mod parts;
pub mod path;
pub mod payload;
pub mod proxy;
pub mod rate_limit;
pub mod retry;
pub mod sample;
pub mod sign;
pub mod status;
pub mod template;
pub mod transform;

use crate::secret::Secret;
use auth::Auth;
use breaker::BreakerPolicy;
use egress::Egress;
use keeps::Keeps;
use ordering::Ordering;
use payload::Payload;
use proxy::Proxy;
use retry::RetryPolicy;
use sign::Sign;
use status::StatusSet;
use template::{Marked, UrlTemplate, has_placeholders};

/// One `[[connection]]`, resolved: defaults and overlay merged, secrets read, everything parsed.
#[derive(Clone, Debug, PartialEq)]
pub struct Connection {
    /// `^[A-Za-z0-9][A-Za-z0-9_-]{0,154}$`; the identity of queue, metrics and API.
    pub name: String,
    /// For people.
    pub display_name: Option<String>,
    /// For people; at most 1,000 characters.
    pub description: Option<String>,
    /// For people and for filters of lists.
    pub labels: BTreeMap<String, String>,
    /// Whether it accepts and delivers.
    pub state: State,
    /// Left out of lists; its state is disabled.
    pub archived: bool,
    /// The sources that feed it; never empty.
    pub sources: Vec<String>,
    /// Where it delivers to.
    pub target: Target,
    /// The method of every request.
    pub method: Method,
    /// Headers added to each request, in the file's order. Values may be secrets (marked sensitive).
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// How it says who it is.
    pub auth: Option<Auth>,
    /// How its requests are signed.
    pub sign: Option<Sign>,
    /// What the Host header says instead of the URL's host.
    pub host_header: Option<HeaderValue>,
    /// Name lookup, TCP, proxy and TLS together; 1 s to 60 s.
    pub connect_timeout: Duration,
    /// From the first byte written to the response's head; 1 s to 60 s.
    pub request_timeout: Duration,
    /// How long a due delivery may wait for a worker before that is counted and warned about.
    pub pool_acquire_timeout: Duration,
    /// The pool of this connection alone.
    pub pool: Pool,
    /// Attempts at one time; at most the effective pool.
    pub max_in_flight: u32,
    /// Sends per time, if limited.
    pub rate_limit: Option<RateLimit>,
    /// What happens after a failure.
    pub retry: RetryPolicy,
    /// In which order its events go out, if that matters.
    pub ordering: Option<Ordering>,
    /// How much may wait.
    pub queue: QueueLimits,
    /// The largest body this connection takes, in bytes.
    pub max_body: u64,
    /// The statuses that mean "delivered".
    pub success_status: StatusSet,
    /// How an `https` target is verified.
    pub tls: Tls,
    /// From acceptance to the first attempt; 0 to 7 d. Decided at acceptance.
    pub delay: Duration,
    /// The name it had before: what the store holds under that name becomes its own.
    pub renamed_from: Option<String>,
    /// When HTTP/2 is spoken.
    pub http2: Http2,
    /// What requests go through.
    pub proxy: Option<Proxy>,
    /// Which addresses may be dialled.
    pub egress: Egress,
    /// What becomes of its queue when it is removed from the configuration.
    pub on_remove: OnRemove,
    /// What of a request its events keep.
    pub keeps: Keeps,
    /// What it takes of events and makes of them, beyond delivering all of them as they are.
    pub payload: Option<Box<Payload>>,
    /// When the target is left alone; `None` never.
    pub breaker: Option<BreakerPolicy>,
    /// Whether a 410 disables the connection.
    pub disable_on_gone: bool,
    /// After so long of nothing but failure the connection is disabled.
    pub disable_after: Option<Duration>,
    /// An event that was accepted longer ago is not sent any more.
    pub expire_after: Option<Duration>,
}

impl Connection {
    /// The same, with what its rules need of a producer's request.
    #[must_use]
    pub fn with_keeps(mut self) -> Connection {
        let none = Payload::default();
        let payload = self.payload.as_deref().unwrap_or(&none);
        let mut needed = payload.keeps(&self.target);
        if let Some(ordering) = &self.ordering {
            needed.add(&ordering.keeps());
        }
        self.keeps.add(&needed);
        self
    }

    /// How many HTTP connections it may hold open: a connection has one host, so both limits of the pool apply.
    pub fn effective_pool(&self) -> u32 {
        self.pool.max_per_host.min(self.pool.max_total)
    }

    /// Whether HTTP connections that `other` opened may go on being used under these settings.
    pub fn shares_transport_with(&self, other: &Connection) -> bool {
        self.target.origin() == other.target.origin()
            && self.tls == other.tls
            && self.http2 == other.http2
            && self.proxy == other.proxy
            && self.egress == other.egress
    }

    /// Whether what is known of the target's health under `other` is still true under these settings.
    pub fn shares_health_with(&self, other: &Connection) -> bool {
        self.target == other.target && self.shares_transport_with(other)
    }
}

/// Whether a connection accepts and delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum State {
    /// Accepts and delivers.
    #[default]
    Active,
    /// Accepts and holds.
    Paused,
    /// Refuses new events and holds what was queued.
    Disabled,
}

impl State {
    /// The word in files, lists and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Active => "active",
            State::Paused => "paused",
            State::Disabled => "disabled",
        }
    }
}

/// A target address: an `http` or `https` URL, split once at load.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// The normalised URL, for people.
    pub url: String,
    /// Whether TLS is spoken.
    pub tls: bool,
    /// Host without brackets: a name or an address.
    pub host: String,
    /// Port, explicit or the scheme's.
    pub port: u16,
    /// Path and query, as sent in the request line. Where they have placeholders, see `template`.
    pub path_and_query: http::uri::PathAndQuery,
    /// Path and query with placeholders, if there are any.
    pub template: Option<Box<UrlTemplate>>,
    /// What the Host header says: host, and the port where it is not the scheme's.
    pub authority: HeaderValue,
}

impl Target {
    /// Splits and normalises a URL.
    ///
    /// # Errors
    /// A sentence that says what is wrong and what to write instead.
    pub fn parse(text: &str) -> Result<Target, String> {
        if !has_placeholders(text) {
            return Target::without_placeholders(text);
        }
        let marked = Marked::new(text).map_err(|error| error.message)?;
        let mut target = Target::without_placeholders(&marked.text)?;
        target.template = Some(Box::new(marked.template(target.path_and_query.as_str())?));
        target.url = marked.unmarked(&target.url);
        Ok(target)
    }

    fn without_placeholders(text: &str) -> Result<Target, String> {
        let url = url::Url::parse(text).map_err(|error| {
            format!("not a URL ({error}); write it whole, as in \"https://example.com/hooks\"")
        })?;
        let tls = match url.scheme() {
            "https" => true,
            "http" => false,
            other => {
                return Err(format!("scheme {other:?} is not supported; use http or https"));
            }
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err("a user or password in the URL is not allowed; send an authorization header instead".to_owned());
        }
        if url.fragment().is_some() {
            return Err("a fragment (#…) is never sent; remove it".to_owned());
        }
        let host = match url.host() {
            Some(url::Host::Domain(name)) => name.to_owned(),
            Some(url::Host::Ipv4(address)) => address.to_string(),
            Some(url::Host::Ipv6(address)) => address.to_string(),
            None => return Err("the URL has no host".to_owned()),
        };
        let port = url.port_or_known_default().ok_or("the URL has no port")?;
        let authority = match url.port() {
            Some(port) => format!("{}:{port}", url.host_str().unwrap_or_default()),
            None => url.host_str().unwrap_or_default().to_owned(),
        };
        let authority = HeaderValue::from_str(&authority)
            .map_err(|_| "the host cannot be a Host header".to_owned())?;
        let path = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let path_and_query =
            path.parse().map_err(|error| format!("the path cannot be sent ({error})"))?;
        Ok(Target {
            url: url.to_string(),
            tls,
            host,
            port,
            path_and_query,
            template: None,
            authority,
        })
    }

    /// What decides which peer is dialled.
    pub fn origin(&self) -> (bool, &str, u16) {
        (self.tls, &self.host, self.port)
    }
}

/// The pool of HTTP connections of one connection, never shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// 1 to 1024, at most `max_total`.
    pub max_per_host: u32,
    /// 1 to 1024.
    pub max_total: u32,
    /// An idle HTTP connection is closed after this.
    pub idle_timeout: Duration,
    /// An HTTP connection is closed after this, so that new addresses get used.
    pub max_lifetime: Duration,
}

/// Sends per time: in any interval T at most `burst + limit * T / per`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Sends in each `per`; at least 1.
    pub limit: u32,
    /// The time that `limit` counts for.
    pub per: Duration,
    /// How many may go at once after a pause; at least 1.
    pub burst: u32,
}

/// How much may wait for one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// Deliveries that are not over.
    pub max_events: u64,
    /// Their payloads' bytes.
    pub max_bytes: u64,
    /// What happens to an event that finds the queue full.
    pub when_full: WhenFull,
}

/// What happens to an event that finds the queue full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// Its delivery becomes this connection's dead letter, cause `queue_full`.
    #[default]
    DeadLetter,
    /// The post is refused with 503.
    Reject,
}

/// How the peer of an `https` target is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The certificates to trust instead of the system's: the file and its content at load.
    pub ca: Option<CaFile>,
    /// The name to verify instead of the URL's host.
    pub server_name: Option<String>,
    /// The oldest version spoken.
    pub min_version: TlsVersion,
    /// Who we are, where the peer asks.
    pub identity: Option<Identity>,
    /// Whether the peer's certificate is verified. Only an operator who says so twice turns it off.
    pub verify: bool,
}

impl Default for Tls {
    fn default() -> Tls {
        Tls {
            ca: None,
            server_name: None,
            min_version: TlsVersion::V1_2,
            identity: None,
            verify: true,
        }
    }
}

/// A certificate and its key for a peer that asks who we are, as they were when they were loaded. They match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Where the certificates were read from.
    pub cert_path: std::path::PathBuf,
    /// PEM: the certificate, then those of its issuers.
    pub cert_pem: Vec<u8>,
    /// PEM: the key (PKCS #8, PKCS #1 or SEC 1).
    pub key_pem: Secret,
}

/// `http2`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2 {
    /// Over TLS it is offered, and the peer chooses (ALPN).
    pub enabled: bool,
    /// It is spoken without asking: over plain TCP (h2c), or as all that is offered over TLS.
    pub prior_knowledge: bool,
}

impl Default for Http2 {
    fn default() -> Http2 {
        Http2 { enabled: true, prior_knowledge: false }
    }
}

/// A PEM file of certificates, as it was when it was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaFile {
    /// Where it was read from.
    pub path: std::path::PathBuf,
    /// The file's bytes; checked to hold at least one certificate.
    pub pem: Vec<u8>,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    V1_2,
    /// TLS 1.3 (RFC 8446).
    V1_3,
}

/// What becomes of a connection's queue when it is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnRemove {
    /// It is held until the name comes back or the queue is purged.
    #[default]
    Hold,
    /// It is cancelled at once.
    Discard,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_normalised_and_split() {
        let target = Target::parse("HTTPS://Example.COM:443/a b?x=1").unwrap();
        assert_eq!(target.url, "https://example.com/a%20b?x=1");
        assert_eq!(target.origin(), (true, "example.com", 443));
        assert_eq!(target.authority, "example.com");
        assert_eq!(target.path_and_query, "/a%20b?x=1");
        let target = Target::parse("http://[::1]:8080").unwrap();
        assert_eq!((target.host.as_str(), target.port), ("::1", 8080));
        assert_eq!(target.authority, "[::1]:8080");
        assert_eq!(target.path_and_query, "/");
    }

    #[test]
    fn bad_targets_say_why() {
        for (text, word) in [
            ("example.com/x", "write it whole"),
            ("ftp://example.com", "http or https"),
            ("http://u:p@example.com", "user or password"),
            ("http://example.com/#x", "fragment"),
        ] {
            let error = Target::parse(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
