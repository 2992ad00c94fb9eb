//! Asks a proxy for a way to the target: HTTP's CONNECT (RFC 9110, 9.3.6) and SOCKS5 (RFC 1928, RFC 1929).
//!
//! Nothing is sent before the proxy has agreed, and nothing that comes after its answer is taken: answers are read to their
//! last byte and no further. What goes wrong is the proxy's, and its detail says so.

use std::io;
use std::net::IpAddr;

use base64::Engine as _;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::tls::{ClientError, TlsClient};
use crate::connection::proxy::{Credentials, Proxy, ProxyKind};

/// The longest head of an answer to CONNECT.
const HEAD_MAX: usize = 8 * 1024;
/// Characters of a proxy's own words that are kept.
const WORDS_MAX: usize = 100;

/// One connection's proxy.
#[derive(Debug)]
pub(super) struct ProxyClient {
    pub(super) settings: Proxy,
    /// For an `https` proxy.
    pub(super) tls: Option<TlsClient>,
}

impl ProxyClient {
    pub(super) fn new(settings: &Proxy) -> Result<ProxyClient, ClientError> {
        let tls = match settings.kind {
            ProxyKind::Https => Some(TlsClient::for_proxy(settings.ca.as_ref(), &settings.host)?),
            ProxyKind::Http | ProxyKind::Socks5 => None,
        };
        Ok(ProxyClient { settings: settings.clone(), tls })
    }

    /// Has the proxy open a way to `host`, a name or an address.
    ///
    /// # Errors
    /// What the proxy did or said instead.
    pub(super) async fn tunnel<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        socket: &mut S,
        host: &str,
        port: u16,
    ) -> Result<(), String> {
        let credentials = self.settings.credentials.as_ref();
        match self.settings.kind {
            ProxyKind::Http | ProxyKind::Https => connect(socket, host, port, credentials).await,
            ProxyKind::Socks5 => socks5(socket, host, port, credentials).await,
        }
    }
}

async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut S,
    host: &str,
    port: u16,
    credentials: Option<&Credentials>,
) -> Result<(), String> {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let agent = concat!("posthaste/", env!("CARGO_PKG_VERSION"));
    let mut head =
        format!("CONNECT {host}:{port} HTTP/1.1\r\nhost: {host}:{port}\r\nuser-agent: {agent}\r\n");
    if let Some(Credentials { user, password }) = credentials {
        let pair = [user.as_bytes(), b":", password.expose()].concat();
        let pair = base64::engine::general_purpose::STANDARD.encode(pair);
        head.push_str(&format!("proxy-authorization: Basic {pair}\r\n"));
    }
    head.push_str("\r\n");
    write(socket, head.as_bytes()).await?;
    let answer = read_head(socket).await?;
    let line = answer.split(|byte| *byte == b'\r' || *byte == b'\n').next().unwrap_or_default();
    match status(line) {
        Some(200..=299) => Ok(()),
        Some(407) => Err(match credentials {
            Some(_) => "it refused our credentials (407)".to_owned(),
            None => {
                "it asks for credentials (407); set proxy.username and proxy.password".to_owned()
            }
        }),
        Some(_) => Err(format!("it answered CONNECT {host}:{port} with {}", words(line))),
        None => Err(format!("its answer is not HTTP: {}", words(line))),
    }
}

/// A status line's status (RFC 9112, 4).
fn status(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.0 ").or_else(|| line.strip_prefix(b"HTTP/1.1 "))?;
    let (digits, rest) = rest.split_at_checked(3)?;
    let ends = rest.first().is_none_or(|byte| *byte == b' ');
    let digits = std::str::from_utf8(digits).ok().filter(|_| ends)?;
    digits.parse().ok().filter(|status| (100..1000).contains(status))
}

/// What a proxy said, fit for a log.
fn words(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let text = text.strip_prefix("HTTP/1.1 ").or(text.strip_prefix("HTTP/1.0 ")).unwrap_or(&text);
    text.chars().take(WORDS_MAX).map(|c| if c.is_control() { '.' } else { c }).collect()
}

/// Reads up to the empty line, a byte at a time: what follows is the target's.
async fn read_head<S: AsyncRead + Unpin>(socket: &mut S) -> Result<Vec<u8>, String> {
    let mut head = Vec::with_capacity(256);
    while !head.ends_with(b"\r\n\r\n") && !head.ends_with(b"\n\n") {
        if head.len() >= HEAD_MAX {
            return Err("the head of its answer is too long".to_owned());
        }
        head.push(socket.read_u8().await.map_err(broken)?);
    }
    Ok(head)
}

/// No authentication, user and password, none that it accepts (RFC 1928, 3).
const NO_AUTH: u8 = 0;
const USER_PASSWORD: u8 = 2;
const NONE_ACCEPTED: u8 = 0xff;

async fn socks5<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut S,
    host: &str,
    port: u16,
    credentials: Option<&Credentials>,
) -> Result<(), String> {
    let methods: &[u8] = match credentials {
        Some(_) => &[5, 2, NO_AUTH, USER_PASSWORD],
        None => &[5, 1, NO_AUTH],
    };
    write(socket, methods).await?;
    let [version, method] = read_array(socket).await?;
    if version != 5 {
        return Err("it does not speak SOCKS5".to_owned());
    }
    match (method, credentials) {
        (NO_AUTH, _) => {}
        (USER_PASSWORD, Some(credentials)) => authenticate(socket, credentials).await?,
        (NONE_ACCEPTED, None) => {
            return Err("it asks for credentials; set proxy.username and proxy.password".to_owned());
        }
        _ => return Err("it accepts none of our ways to log in".to_owned()),
    }
    write(socket, &request(host, port)?).await?;
    let [version, reply, _, kind] = read_array(socket).await?;
    if version != 5 {
        return Err("its answer is not SOCKS5".to_owned());
    }
    if reply != 0 {
        return Err(format!("it answered for {host}:{port}: {}", meaning(reply)));
    }
    // The address that it uses itself, and a port.
    let length = match kind {
        1 => 4,
        3 => usize::from(read_array::<1, _>(socket).await?[0]),
        4 => 16,
        _ => return Err("its answer has an address of no known kind".to_owned()),
    };
    let mut bound = vec![0; length + 2];
    socket.read_exact(&mut bound).await.map(drop).map_err(broken)
}

async fn authenticate<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut S,
    Credentials { user, password }: &Credentials,
) -> Result<(), String> {
    let mut message = vec![1];
    for part in [user.as_bytes(), password.expose()] {
        message.push(u8::try_from(part.len()).map_err(|_| "the credentials are too long")?);
        message.extend_from_slice(part);
    }
    write(socket, &message).await?;
    match read_array(socket).await? {
        [_, 0] => Ok(()),
        [_, _] => Err("it refused our credentials".to_owned()),
    }
}

/// CONNECT to an address, or to a name that the proxy looks up.
fn request(host: &str, port: u16) -> Result<Vec<u8>, String> {
    let mut message = vec![5, 1, 0];
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => {
            message.push(1);
            message.extend_from_slice(&address.octets());
        }
        Ok(IpAddr::V6(address)) => {
            message.push(4);
            message.extend_from_slice(&address.octets());
        }
        Err(_) => {
            let length = u8::try_from(host.len()).map_err(|_| "SOCKS5 takes no name this long")?;
            message.extend_from_slice(&[3, length]);
            message.extend_from_slice(host.as_bytes());
        }
    }
    message.extend_from_slice(&port.to_be_bytes());
    Ok(message)
}

/// What a reply says (RFC 1928, 6).
fn meaning(reply: u8) -> &'static str {
    match reply {
        1 => "general failure",
        2 => "not allowed by its rules",
        3 => "network unreachable",
        4 => "host unreachable",
        5 => "connection refused",
        6 => "TTL expired",
        7 => "command not supported",
        8 => "address type not supported",
        _ => "an unknown reply",
    }
}

async fn read_array<const N: usize, S: AsyncRead + Unpin>(
    socket: &mut S,
) -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    socket.read_exact(&mut bytes).await.map_err(broken)?;
    Ok(bytes)
}

async fn write<S: AsyncWrite + Unpin>(socket: &mut S, bytes: &[u8]) -> Result<(), String> {
    socket.write_all(bytes).await.map_err(broken)?;
    socket.flush().await.map_err(broken)
}

fn broken(error: io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "it closed the connection".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
