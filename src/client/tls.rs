//! TLS to a target or a proxy: whom it trusts, which name it verifies, who we are, and how its errors are named.
//!
//! One rustls configuration per connection, so that its sessions resume and never mix with another connection's. The
//! system's roots are read once.

use std::io;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use http::Uri;
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::Connection;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct,
    RootCertStore, SignatureScheme,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tower_service::Service;

use super::pace::{HandshakePace, Paced};
use super::{DialError, Stage, Witness};
use crate::connection::{self as config, CaFile, Http2, Identity, Tls, TlsVersion};
use crate::event::Cause;

/// Sessions kept for resumption: a connection has one host.
const SESSIONS: usize = 4;

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
    /// Our certificate or its key cannot be used.
    #[error("tls.client_cert {path}: {detail}")]
    Identity {
        /// The certificate's file.
        path: String,
        /// What is wrong with it or with the key.
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
pub(super) type Secure<S> = TokioIo<MaybeHttpsStream<TokioIo<S>>>;

/// What TLS can be spoken on: TCP, or TLS to a proxy.
pub(super) trait Socket:
    AsyncRead + AsyncWrite + Connection + Send + Unpin + 'static
{
}
impl<S: AsyncRead + AsyncWrite + Connection + Send + Unpin + 'static> Socket for S {}

impl TlsClient {
    /// For a target.
    pub(super) fn new(
        connection: &config::Connection,
        witness: Option<&Witness>,
    ) -> Result<TlsClient, ClientError> {
        let alpn: &[&[u8]] = match connection.http2 {
            Http2 { prior_knowledge: true, .. } => &[b"h2"],
            Http2 { enabled: true, .. } => &[b"h2", b"http/1.1"],
            Http2 { .. } => &[b"http/1.1"],
        };
        TlsClient::with_alpn(&connection.tls, &connection.target.host, alpn, witness)
    }

    /// For a proxy, which nobody needs to be known to.
    pub(super) fn for_proxy(ca: Option<&CaFile>, host: &str) -> Result<TlsClient, ClientError> {
        let tls = Tls { ca: ca.cloned(), ..Tls::default() };
        TlsClient::with_alpn(&tls, host, &[b"http/1.1"], None)
    }

    fn with_alpn(
        tls: &Tls,
        host: &str,
        alpn: &[&[u8]],
        witness: Option<&Witness>,
    ) -> Result<TlsClient, ClientError> {
        let name = tls.server_name.as_deref().unwrap_or(host);
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| ClientError::ServerName(name.to_owned()))?;
        let versions: &[&rustls::SupportedProtocolVersion] = match tls.min_version {
            TlsVersion::V1_2 => &[&rustls::version::TLS13, &rustls::version::TLS12],
            TlsVersion::V1_3 => &[&rustls::version::TLS13],
        };
        let builder =
            ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions)?;
        let verifier: Arc<dyn ServerCertVerifier> = match tls.verify {
            true => {
                let roots = roots(tls.ca.as_ref())?;
                let made = WebPkiServerVerifier::builder_with_provider(roots, provider()).build();
                made.map_err(|error| rustls::Error::General(error.to_string()))?
            }
            false => Arc::new(Unverified),
        };
        let verifier = match witness {
            Some(witness) => witness.watch(verifier),
            None => verifier,
        };
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let mut config = match &tls.identity {
            Some(identity) => {
                let (chain, key) = read(identity)?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| failed(identity, error))?
            }
            None => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let name = Arc::new(FixedServerNameResolver::new(name));
        Ok(TlsClient { config: Arc::new(config), name })
    }

    /// Speaks TLS on an open socket.
    ///
    /// # Errors
    /// With a cause of the TLS family, or of the socket's.
    pub(super) async fn handshake<S: Socket>(
        &self,
        socket: S,
        pace: &Rc<HandshakePace>,
    ) -> Result<Secure<S>, DialError> {
        let (config, name) = (Arc::clone(&self.config), Arc::clone(&self.name));
        let mut connector = HttpsConnector::new(Dialled(Some(socket)), config, true, name);
        // The connector looks at the scheme alone: socket and name are given.
        let handshake = connector.call(Uri::from_static("https://target/"));
        Paced::new(handshake, pace).await.map(TokioIo::new).map_err(|error| {
            let error = innermost(error);
            let cause = cause_inside(&error).unwrap_or_else(|| match error.kind() {
                io::ErrorKind::UnexpectedEof => Cause::TlsProtocol,
                _ => super::cause_of_io(&error),
            });
            DialError::new(cause, Stage::Tls, error.to_string())
        })
    }
}

impl std::fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsClient")
    }
}

/// A socket that is open already, for the connector that wants to open it: lookup, addresses and their time are ours.
struct Dialled<S>(Option<S>);

impl<S: Socket> Service<Uri> for Dialled<S> {
    type Response = TokioIo<S>;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<TokioIo<S>>>;

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

/// What a finished handshake says of the peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Secured {
    /// The peer chose HTTP/2.
    pub http2: bool,
    /// When the peer's certificate ends, in Unix seconds; negative before 1970.
    pub expires: Option<i64>,
}

impl Secured {
    pub(super) fn of<S>(socket: &Secure<S>) -> Secured {
        match socket.inner() {
            MaybeHttpsStream::Https(tls) => Secured::of_session(tls.inner().get_ref().1),
            MaybeHttpsStream::Http(_) => Secured::default(),
        }
    }

    fn of_session(session: &ClientConnection) -> Secured {
        let leaf = session.peer_certificates().and_then(|chain| chain.first());
        Secured {
            http2: session.alpn_protocol() == Some(b"h2"),
            expires: leaf.and_then(|leaf| expiry(leaf)),
        }
    }
}

fn expiry(certificate: &[u8]) -> Option<i64> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(parsed.validity().not_after.timestamp())
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
            | AlertDescription::AccessDenied
            // Our signature or that of our issuer is not what the peer expects.
            | AlertDescription::DecryptError,
        ) => Cause::TlsClientCert,
        _ => Cause::TlsProtocol,
    })
}

/// Takes any certificate; that the peer has its key is still checked. For `tls.verify = false` alone.
#[derive(Debug)]
struct Unverified;

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

fn read(
    identity: &Identity,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), ClientError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&identity.cert_pem).collect();
    let chain = chain.map_err(|error| failed(identity, error))?;
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.expose());
    Ok((chain, key.map_err(|error| failed(identity, error))?))
}

fn failed(identity: &Identity, error: impl std::fmt::Display) -> ClientError {
    ClientError::Identity {
        path: identity.cert_path.display().to_string(),
        detail: error.to_string(),
    }
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::ring::default_provider())))
}

fn roots(ca: Option<&CaFile>) -> Result<Arc<RootCertStore>, ClientError> {
    let Some(ca) = ca else {
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
