//! TLS to a target: whom it trusts, which name it verifies, and how its errors are named.
//!
//! One rustls configuration per connection, so that its sessions resume and never mix with another connection's. The
//! system's roots are read once. Verification cannot be turned off here.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use http::Uri;
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, MaybeHttpsStream};
use hyper_util::rt::TokioIo;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tower_service::Service;

use super::DialError;
use crate::connection::{Tls, TlsVersion};
use crate::event::Cause;

/// Sessions kept for resumption: a connection has one host.
const SESSIONS: usize = 4;

/// Handshake steps in one round of a runtime's ready tasks: each may take 100 us of CPU, and other connections wait.
const STEPS_PER_ROUND: u32 = 4;

/// Why a connection's client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The CA file holds no usable certificate.
    #[error("tls.ca_file {path}: {detail}; it must hold PEM certificates")]
    CaFile {
        /// The file.
        path: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The name to verify is neither a DNS name nor an address.
    #[error("tls.server_name {0:?} is neither a DNS name nor an address")]
    ServerName(String),
    /// The system trusts nobody.
    #[error("the system has no trusted certificates; install ca-certificates or set tls.ca_file")]
    NoRoots,
    /// The TLS library refuses the settings.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

/// One connection's side of TLS.
pub(super) struct TlsClient {
    config: Arc<ClientConfig>,
    name: Arc<FixedServerNameResolver>,
}

/// A socket with TLS on it.
pub(super) type Secured = TokioIo<MaybeHttpsStream<TokioIo<TcpStream>>>;

impl TlsClient {
    pub(super) fn new(tls: &Tls, host: &str) -> Result<TlsClient, ClientError> {
        let name = tls.server_name.as_deref().unwrap_or(host);
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| ClientError::ServerName(name.to_owned()))?;
        let versions: &[&rustls::SupportedProtocolVersion] = match tls.min_version {
            TlsVersion::V1_2 => &[&rustls::version::TLS13, &rustls::version::TLS12],
            TlsVersion::V1_3 => &[&rustls::version::TLS13],
        };
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)?
            .with_root_certificates(roots(tls)?)
            .with_no_client_auth();
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsClient {
            config: Arc::new(config),
            name: Arc::new(FixedServerNameResolver::new(name)),
        })
    }

    pub(super) async fn handshake(
        &self,
        tcp: TcpStream,
        pace: &Rc<HandshakePace>,
    ) -> Result<Secured, DialError> {
        let (config, name) = (Arc::clone(&self.config), Arc::clone(&self.name));
        let mut connector = HttpsConnector::new(Dialled(Some(tcp)), config, true, name);
        let paced = Paced {
            // The connector looks at the scheme alone: socket and name are given.
            handshake: connector.call(Uri::from_static("https://target/")),
            pace: Rc::clone(pace),
            opens_round: false,
        };
        paced.await.map(TokioIo::new).map_err(|error| {
            let error = innermost(error);
            let cause = cause_inside(&error).unwrap_or_else(|| match error.kind() {
                io::ErrorKind::UnexpectedEof => Cause::TlsProtocol,
                _ => super::cause_of_io(&error),
            });
            DialError::new(cause, &error)
        })
    }
}

impl std::fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsClient")
    }
}

/// Keeps handshakes from holding a runtime up: at most [`STEPS_PER_ROUND`] steps of them run in one round of its ready
/// tasks. It counts steps, not handshakes under way: those wait for the network, and a peer that never answers must not
/// keep others from connecting.
#[derive(Debug, Default)]
pub struct HandshakePace {
    steps: Cell<u32>,
    /// Someone put off is going to open the next round.
    round_has_opener: Cell<bool>,
}

struct Paced<F: ?Sized> {
    handshake: Pin<Box<F>>,
    pace: Rc<HandshakePace>,
    /// This one was the first to be put off: when it runs again, all that was ready before it has run.
    opens_round: bool,
}

impl<F: Future + ?Sized> Future for Paced<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        if std::mem::take(&mut this.opens_round) {
            this.pace.open_round();
        }
        let steps = this.pace.steps.get();
        if steps >= STEPS_PER_ROUND {
            this.opens_round = !this.pace.round_has_opener.replace(true);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        this.pace.steps.set(steps + 1);
        this.handshake.as_mut().poll(cx)
    }
}

impl<F: ?Sized> Drop for Paced<F> {
    fn drop(&mut self) {
        if self.opens_round {
            self.pace.open_round();
        }
    }
}

impl HandshakePace {
    fn open_round(&self) {
        self.steps.set(0);
        self.round_has_opener.set(false);
    }
}

/// A socket that is open already, for the connector that wants to open it: lookup, addresses and their time are ours.
struct Dialled(Option<TcpStream>);

impl Service<Uri> for Dialled {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<TokioIo<TcpStream>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let socket = self.0.take().map(TokioIo::new);
        std::future::ready(socket.ok_or_else(|| io::ErrorKind::NotConnected.into()))
    }
}

/// The connector wraps the handshake's I/O error into another one, and that into a box.
fn innermost(error: Box<dyn std::error::Error + Send + Sync>) -> io::Error {
    let outer = match error.downcast::<io::Error>() {
        Ok(error) => *error,
        Err(error) => return io::Error::other(error),
    };
    if !outer.get_ref().is_some_and(|inner| inner.is::<io::Error>()) {
        return outer;
    }
    let kind = outer.kind();
    let inner = outer.into_inner().and_then(|inner| inner.downcast::<io::Error>().ok());
    inner.map_or_else(|| kind.into(), |inner| *inner)
}

/// The cause of a TLS error that sits in an I/O error; `None` when it is not one.
pub(super) fn cause_inside(error: &io::Error) -> Option<Cause> {
    let tls = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(match tls {
        rustls::Error::InvalidCertificate(reason) => match reason {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Cause::TlsExpired,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Cause::TlsName
            }
            _ => Cause::TlsUntrusted,
        },
        rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied,
        ) => Cause::TlsClientCert,
        _ => Cause::TlsProtocol,
    })
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::ring::default_provider())))
}

fn roots(tls: &Tls) -> Result<Arc<RootCertStore>, ClientError> {
    let Some(ca) = &tls.ca else {
        return system_roots();
    };
    let fail = |detail: String| ClientError::CaFile { path: ca.path.display().to_string(), detail };
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&ca.pem) {
        let certificate = certificate.map_err(|error| fail(error.to_string()))?;
        store.add(certificate).map_err(|error| fail(error.to_string()))?;
    }
    if store.is_empty() {
        return Err(fail("no certificate found".to_owned()));
    }
    Ok(Arc::new(store))
}

/// The system's roots, read once: they are the same for all, and reading them takes tens of milliseconds.
fn system_roots() -> Result<Arc<RootCertStore>, ClientError> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let roots = ROOTS.get_or_init(|| {
        let mut store = RootCertStore::empty();
        let loaded = rustls_native_certs::load_native_certs();
        store.add_parsable_certificates(loaded.certs);
        Arc::new(store)
    });
    match roots.is_empty() {
        true => Err(ClientError::NoRoots),
        false => Ok(Arc::clone(roots)),
    }
}
