//! One HTTP exchange with a daemon, over TCP or a Unix socket. Answers and times are bounded.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// The largest answer that is read: the status of ten thousand connections is a tenth of it, and so is most of what a
/// body can be.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;
/// How long a daemon on this machine may take to accept.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a daemon listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// A Unix socket.
    Unix(PathBuf),
    /// `host:port`.
    Tcp(String),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Unix(path) => write!(f, "unix:{}", path.display()),
            Endpoint::Tcp(authority) => write!(f, "http://{authority}"),
        }
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Endpoint, String> {
        let wrong =
            || format!("{text:?} is not an address; write http://127.0.0.1:8377 or unix:/path");
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err(wrong()),
                path => Ok(Endpoint::Unix(PathBuf::from(path))),
            };
        }
        let rest = text.strip_prefix("http://").ok_or_else(wrong)?;
        let authority: http::uri::Authority =
            rest.strip_suffix('/').unwrap_or(rest).parse().map_err(|_| wrong())?;
        match (authority.host(), authority.port_u16()) {
            ("", _) => Err(wrong()),
            (host, port) => Ok(Endpoint::Tcp(format!("{host}:{}", port.unwrap_or(80)))),
        }
    }
}

/// A whole answer.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Sends `request` (its URI is path and query) and reads the answer, within `timeout`.
pub(super) async fn exchange(
    endpoint: &Endpoint,
    mut request: Request<Full<Bytes>>,
    timeout: Duration,
) -> anyhow::Result<Answer> {
    let host = match endpoint {
        Endpoint::Unix(_) => "localhost",
        Endpoint::Tcp(authority) => authority,
    };
    let host = HeaderValue::from_str(host).context("the address cannot be a Host header")?;
    request.headers_mut().insert(header::HOST, host);
    let answer = async {
        match endpoint {
            Endpoint::Unix(path) => {
                let io = connected(endpoint, UnixStream::connect(path)).await?;
                converse(io, request).await
            }
            Endpoint::Tcp(authority) => {
                let io = connected(endpoint, TcpStream::connect(authority.as_str())).await?;
                converse(io, request).await
            }
        }
        .with_context(|| format!("talking to {endpoint} failed"))
    };
    match tokio::time::timeout(timeout, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(anyhow!("{endpoint} did not answer within {} s", timeout.as_secs())),
    }
}

async fn connected<T>(
    endpoint: &Endpoint,
    connect: impl Future<Output = io::Result<T>>,
) -> anyhow::Result<T> {
    let error = match tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
        Ok(Ok(io)) => return Ok(io),
        Ok(Err(error)) => error,
        Err(_) => io::ErrorKind::TimedOut.into(),
    };
    Err(match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => anyhow!(
            "no daemon listens on {endpoint}; start it with `posthaste run`, or say where it listens (--help)"
        ),
        io::ErrorKind::PermissionDenied => {
            anyhow!("not allowed to open {endpoint}; run this as the daemon's user or as root")
        }
        _ => anyhow!("cannot connect to {endpoint}: {error}"),
    })
}

async fn converse<I>(io: I, request: Request<Full<Bytes>>) -> anyhow::Result<Answer>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
    // Ends with the answer, or with this function.
    let mut driver = tokio::task::JoinSet::new();
    driver.spawn(connection);
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(|error| anyhow!("the answer broke off: {error}"))?;
    Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_or_refused() {
        let check = |text: &str, expected: Option<Endpoint>| {
            assert_eq!(text.parse::<Endpoint>().ok(), expected, "{text}");
        };
        let tcp = |authority: &str| Some(Endpoint::Tcp(authority.to_owned()));
        check("http://127.0.0.1:8377", tcp("127.0.0.1:8377"));
        check("http://[::1]:8377/", tcp("[::1]:8377"));
        check("http://relay", tcp("relay:80"));
        check("unix:/run/x.sock", Some(Endpoint::Unix("/run/x.sock".into())));
        for wrong in ["", "unix:", "http://", "https://x", "127.0.0.1:8377", "http://x/y"] {
            check(wrong, None);
        }
    }

    #[tokio::test]
    async fn a_missing_daemon_is_named_with_the_mend() {
        let endpoint = Endpoint::Unix("/nonexistent/admin.sock".into());
        let request = Request::get("/v1/status").body(Full::default()).unwrap();
        let error = exchange(&endpoint, request, Duration::from_secs(5)).await.unwrap_err();
        assert!(error.to_string().contains("posthaste run"), "{error}");
    }
}
