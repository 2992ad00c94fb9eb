//! A small HTTP receiver for development: takes any request, answers as it is told to, and reports what came.
//!
//! Bounded like everything else: bodies by [`BODY_BYTES_MAX`], connections by [`CONNECTIONS_MAX`], and it waits when nobody
//! takes its reports.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::connection::sign::standard::{Claim, Mismatch, Verifier, verify};

/// A larger body is answered 413.
pub(super) const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Connections at one time; the next ones wait.
const CONNECTIONS_MAX: usize = 1024;
/// Requests in progress get so long to end when the receiver stops.
const CLOSE_GRACE: Duration = Duration::from_secs(2);
/// Idle connections are closed after this.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// A pause after an `accept` that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How requests are answered.
#[derive(Clone, Debug)]
pub(super) struct Behaviour {
    /// The status of an answer.
    pub(super) status: StatusCode,
    /// How long an answer takes.
    pub(super) delay: Duration,
    /// The share of requests that are answered 503 instead; 0 to 1.
    pub(super) fail: f64,
    /// Requests after so many are answered 503 and not reported.
    pub(super) count: Option<u64>,
    /// What signatures are verified with; none: they are not looked at. A request without a good one is answered 401.
    pub(super) verifiers: Vec<Verifier>,
}

/// What was found of a signature.
pub(super) type Verdict = Result<(), Mismatch>;

impl Default for Behaviour {
    fn default() -> Behaviour {
        Behaviour {
            status: StatusCode::OK,
            delay: Duration::ZERO,
            fail: 0.0,
            count: None,
            verifiers: Vec::new(),
        }
    }
}

/// A request that came, and what it was answered.
#[derive(Clone, Debug)]
pub(super) struct Received {
    pub(super) method: Method,
    pub(super) target: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) status: StatusCode,
    /// What was found of its signature; `None` when that was not looked at.
    pub(super) verdict: Option<Verdict>,
}

impl Received {
    /// A header's value, if it is there and text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// A bound receiver.
#[derive(Debug)]
pub(super) struct Receiver {
    listener: TcpListener,
    address: SocketAddr,
}

/// What the requests of one receiver share.
#[derive(Debug)]
struct Shared {
    behaviour: Behaviour,
    begun: AtomicU64,
    reports: mpsc::Sender<Received>,
    stop: CancellationToken,
}

impl Receiver {
    pub(super) async fn bind(address: SocketAddr) -> io::Result<Receiver> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Receiver { listener, address })
    }

    /// Where it listens, with the port that the system chose.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop`, then lets open requests end for a moment.
    pub(super) async fn serve(
        self,
        behaviour: Behaviour,
        reports: mpsc::Sender<Received>,
        stop: CancellationToken,
    ) {
        let shared =
            Arc::new(Shared { behaviour, begun: AtomicU64::new(0), reports, stop: stop.clone() });
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let tasks = TaskTracker::new();
        let accept_one = async || {
            let place = Arc::clone(&places).acquire_owned().await.ok()?;
            match self.listener.accept().await {
                Ok((stream, _)) => Some((stream, place)),
                Err(error) => {
                    tracing::warn!(%error, "Could not accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    None
                }
            }
        };
        while let Some(accepted) = stop.run_until_cancelled(accept_one()).await {
            if let Some((stream, place)) = accepted {
                let connection = serve_connection(stream, Arc::clone(&shared));
                tasks.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
        }
        tasks.close();
        tasks.wait().await;
    }
}

async fn serve_connection(stream: TcpStream, shared: Arc<Shared>) {
    let stop = shared.stop.clone();
    let service = service_fn(move |request| answer(Arc::clone(&shared), request));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(IDLE_TIMEOUT);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    // Both branches are cancel safe: the connection is polled on below.
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => Some(ended),
        () = stop.cancelled() => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(CLOSE_GRACE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "A connection broke");
    }
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let Behaviour { status, delay, fail, count, .. } = shared.behaviour;
    let number = shared.begun.fetch_add(1, Ordering::Relaxed);
    if count.is_some_and(|count| number >= count) {
        return Ok(respond(StatusCode::SERVICE_UNAVAILABLE));
    }
    let (head, body) = request.into_parts();
    let (body, status) = match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) if fastrand::f64() < fail => (body.to_bytes(), StatusCode::SERVICE_UNAVAILABLE),
        Ok(body) => (body.to_bytes(), status),
        Err(_) => (Bytes::new(), StatusCode::PAYLOAD_TOO_LARGE),
    };
    tokio::time::sleep(delay).await;
    let verdict = verdict(&shared.behaviour.verifiers, &head.headers, &body);
    let status = match verdict {
        Some(Err(_)) if status != StatusCode::PAYLOAD_TOO_LARGE => StatusCode::UNAUTHORIZED,
        _ => status,
    };
    let received = Received {
        method: head.method,
        target: head.uri.to_string(),
        headers: head.headers,
        body,
        status,
        verdict,
    };
    // Nobody takes reports any more when the receiver is about to stop.
    let _ = shared.reports.send(received).await;
    Ok(respond(status))
}

fn verdict(verifiers: &[Verifier], headers: &HeaderMap, body: &[u8]) -> Option<Verdict> {
    if verifiers.is_empty() {
        return None;
    }
    let header = |name: &str| headers.get(name).map(http::HeaderValue::as_bytes);
    let claim = Claim {
        id: header("webhook-id"),
        timestamp: header("webhook-timestamp"),
        signature: header("webhook-signature"),
        body,
    };
    Some(verify(verifiers, &claim, Clock::system().wall_ms() / 1000))
}

fn respond(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::super::http::{Endpoint, exchange};
    use super::*;
    use crate::connection::sign::Message;
    use crate::connection::sign::keys::{Dated, Keys};
    use crate::connection::sign::standard::{Key, StandardWebhooks};
    use crate::secret::Secret;

    async fn started(
        behaviour: Behaviour,
    ) -> (Endpoint, mpsc::Receiver<Received>, CancellationToken) {
        let receiver = Receiver::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let endpoint = Endpoint::Tcp(receiver.address().to_string());
        let (sender, reports) = mpsc::channel(8);
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        tokio::spawn(receiver.serve(behaviour, sender, stopped));
        (endpoint, reports, stop)
    }

    async fn post(endpoint: &Endpoint, body: &'static str) -> u16 {
        let request = Request::post("/hook?x=1")
            .header("webhook-id", "evt_1")
            .body(Full::from(body))
            .unwrap();
        let answer = exchange(endpoint, request, Duration::from_secs(5)).await.unwrap();
        answer.status.as_u16()
    }

    #[tokio::test]
    async fn what_comes_is_reported_and_answered_as_told() {
        let status = StatusCode::IM_A_TEAPOT;
        let (endpoint, mut reports, stop) =
            started(Behaviour { status, ..Behaviour::default() }).await;
        assert_eq!(post(&endpoint, "{}").await, 418);
        let received = reports.recv().await.unwrap();
        assert_eq!((received.method.as_str(), received.target.as_str()), ("POST", "/hook?x=1"));
        assert_eq!(
            (received.header("webhook-id"), &received.body[..]),
            (Some("evt_1"), &b"{}"[..])
        );
        stop.cancel();
        assert!(reports.recv().await.is_none(), "serve has ended");
    }

    #[tokio::test]
    async fn without_a_good_signature_it_answers_401() {
        let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let verifiers = vec![Verifier::parse(&secret).unwrap()];
        let (endpoint, mut reports, _stop) =
            started(Behaviour { verifiers, ..Behaviour::default() }).await;
        assert_eq!(post(&endpoint, "{}").await, 401);
        let missing = Mismatch::Missing("webhook-timestamp");
        assert_eq!(reports.recv().await.unwrap().verdict, Some(Err(missing)));
        let seconds = (Clock::system().wall_ms() / 1000).to_string();
        let request = Request::new(());
        let message = Message {
            id: b"evt_1",
            timestamp: seconds.as_bytes(),
            attempt: b"1",
            method: request.method(),
            origin: "",
            uri: request.uri(),
            body: b"{}",
        };
        let key = Dated { key: Key::parse(&secret).unwrap(), until: None };
        let signature = StandardWebhooks::new(Keys::new(vec![key])).sign(&message, 0).unwrap();
        let request = Request::post("/")
            .header("webhook-id", "evt_1")
            .header("webhook-timestamp", &seconds)
            .header("webhook-signature", signature)
            .body(Full::from("{}"))
            .unwrap();
        let answer = exchange(&endpoint, request, Duration::from_secs(5)).await.unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(reports.recv().await.unwrap().verdict, Some(Ok(())));
    }

    #[tokio::test]
    async fn it_fails_when_told_and_counts() {
        let behaviour = Behaviour { fail: 1.0, count: Some(1), ..Behaviour::default() };
        let (endpoint, mut reports, _stop) = started(behaviour).await;
        assert_eq!(post(&endpoint, "a").await, 503);
        assert_eq!(reports.recv().await.unwrap().body, "a");
        assert_eq!(post(&endpoint, "b").await, 503);
        assert!(reports.try_recv().is_err(), "past the count nothing is reported");
    }
}
