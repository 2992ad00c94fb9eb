//! Just enough HTTP/1.1 for a target and a producer, written by hand: what is tested must not check itself.

use std::io;
use std::str::FromStr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::pipe::Pipe;

/// A socket with what was read too far.
pub(super) struct Wire {
    pub(super) pipe: Pipe,
    read: Vec<u8>,
}

/// A start line and headers, names in lower case.
pub(super) struct Head {
    pub(super) start: String,
    headers: Vec<(String, String)>,
}

impl Wire {
    pub(super) fn new(pipe: Pipe) -> Wire {
        Wire { pipe, read: Vec::new() }
    }

    /// The next head; `None` when the peer has closed instead.
    pub(super) async fn head(&mut self) -> io::Result<Option<Head>> {
        let end = loop {
            if let Some(at) = self.read.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.more().await? {
                let clean = self.read.is_empty();
                return if clean { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        };
        let head: Vec<u8> = self.read.drain(..end).collect();
        let text = String::from_utf8(head).map_err(|_| io::ErrorKind::InvalidData)?;
        let mut lines = text.lines();
        let start = lines.next().unwrap_or_default().to_owned();
        let headers = lines.filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned()));
        Ok(Some(Head { start, headers: headers.collect() }))
    }

    /// So many bytes of body.
    pub(super) async fn body(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.read.len() < length {
            if !self.more().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.read.drain(..length).collect())
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.pipe.write_all(bytes).await
    }

    /// Whether anything of the next message is here, or comes before the peer closes.
    pub(super) async fn begins(&mut self) -> io::Result<bool> {
        if !self.read.is_empty() { Ok(true) } else { self.more().await }
    }

    async fn more(&mut self) -> io::Result<bool> {
        let before = self.read.len();
        self.pipe.read_buf(&mut self.read).await?;
        Ok(self.read.len() > before)
    }
}

impl Head {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(found, _)| found == name);
        found.map(|(_, value)| value.as_str())
    }

    /// A header's value as a number or the like.
    pub(super) fn parsed<T: FromStr>(&self, name: &str) -> Option<T> {
        self.header(name)?.parse().ok()
    }

    /// The second word of the start line: a request's path or a response's status.
    pub(super) fn second_word(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }
}
