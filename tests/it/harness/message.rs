//! HTTP/1.1 messages, read as plainly as can be: start line, headers, a body by length or in chunks. Blocking, for
//! tests only.

use std::io::{self, BufRead, Read};

/// One request or answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message {
    /// Request line or status line.
    pub(crate) start: String,
    /// Names in lower case, in order.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Message {
    /// The first header of that name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The status of an answer.
    pub(crate) fn status(&self) -> io::Result<u16> {
        let word = self.start.split(' ').nth(1);
        word.and_then(|word| word.parse().ok()).ok_or_else(|| invalid(&self.start))
    }

    /// Reads the next message; `None` where the stream ends between two.
    pub(crate) fn read(from: &mut impl BufRead) -> io::Result<Option<Message>> {
        let Some(start) = line(from)? else {
            return Ok(None);
        };
        let mut message = Message { start, ..Message::default() };
        loop {
            let text = line(from)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            if text.is_empty() {
                break;
            }
            let (name, value) = text.split_once(':').ok_or_else(|| invalid(&text))?;
            let header = (name.to_ascii_lowercase(), value.trim().to_owned());
            message.headers.push(header);
        }
        message.read_body(from)?;
        Ok(Some(message))
    }

    fn read_body(&mut self, from: &mut impl BufRead) -> io::Result<()> {
        if self.header("transfer-encoding") == Some("chunked") {
            return self.read_chunks(from);
        }
        let Some(length) = self.header("content-length") else {
            return Ok(());
        };
        let length = length.parse().map_err(|_| invalid(length))?;
        self.body.resize(length, 0);
        from.read_exact(&mut self.body)
    }

    fn read_chunks(&mut self, from: &mut impl BufRead) -> io::Result<()> {
        loop {
            let size = line(from)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let length = u64::from_str_radix(&size, 16).map_err(|_| invalid(&size))?;
            let read = from.by_ref().take(length).read_to_end(&mut self.body)?;
            if read as u64 != length || line(from)?.is_none() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if length == 0 {
                return Ok(());
            }
        }
    }
}

fn line(from: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut text = String::new();
    if from.read_line(&mut text)? == 0 {
        return Ok(None);
    }
    if !text.ends_with('\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    text.truncate(text.trim_end().len());
    Ok(Some(text))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not HTTP: {what:?}"))
}

#[test]
fn messages_are_read_by_length_and_in_chunks() {
    let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcPOST / HTTP/1.1\r\n\
        transfer-encoding: chunked\r\n\r\n2\r\nxy\r\n0\r\n\r\n";
    let mut from = &bytes[..];
    let first = Message::read(&mut from).unwrap().unwrap();
    assert_eq!((first.status().unwrap(), &first.body[..]), (200, &b"abc"[..]));
    let second = Message::read(&mut from).unwrap().unwrap();
    assert_eq!((second.start.as_str(), &second.body[..]), ("POST / HTTP/1.1", &b"xy"[..]));
    assert!(Message::read(&mut from).unwrap().is_none());
    assert!(Message::read(&mut &b"HTTP/1.1 200 OK\r\ncontent-le"[..]).is_err());
}
