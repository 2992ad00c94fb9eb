//! Just enough HTTP/1.1 for the bench's own two ends, and the events that they pass: a fixed-size JSON body that carries
//! its number and the time at which it was due.

use std::io::{self, Read};
use std::net::TcpStream;

/// The body of every event.
pub(crate) const BODY_BYTES: usize = 1024;
/// Reads and their buffers; an event with its head fits.
const READ_BYTES: usize = 16 * 1024;

/// Writes the request for event `number`, due at `at_ns`, over what is in `into`.
pub(crate) fn request(into: &mut Vec<u8>, path: &str, number: u64, at_ns: u64) {
    use io::Write;
    into.clear();
    // A Vec takes every write.
    drop(write!(
        into,
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
        content-length: {BODY_BYTES}\r\n\r\n{{\"n\":{number:019},\"at\":{at_ns:019},\"pad\":\""
    ));
    let head = "{\"n\":".len() + 19 + ",\"at\":".len() + 19 + ",\"pad\":\"".len();
    into.resize(into.len() + BODY_BYTES - head - 2, b'x');
    into.extend_from_slice(b"\"}");
}

/// Number and due time of a body that [`request`] made.
pub(crate) fn event(body: &[u8]) -> Option<(u64, u64)> {
    let digits = |from: usize| {
        let digits = body.get(from..from + 19)?;
        digits.iter().try_fold(0u64, |sum, digit| {
            digit.is_ascii_digit().then(|| sum * 10 + u64::from(digit - b'0'))
        })
    };
    Some((digits(5)?, digits(30)?))
}

/// What was read of a stream and not used yet.
#[derive(Default)]
pub(crate) struct Inbox {
    bytes: Vec<u8>,
    filled: usize,
}

/// What a read brought.
#[derive(PartialEq, Eq)]
pub(crate) enum Got {
    Something,
    Nothing,
    TheEnd,
}

impl Inbox {
    /// Reads once, without blocking.
    pub(crate) fn fill(&mut self, mut from: &TcpStream) -> io::Result<Got> {
        if self.bytes.len() < self.filled + READ_BYTES {
            self.bytes.resize(self.filled + READ_BYTES, 0);
        }
        match from.read(self.bytes.get_mut(self.filled..).unwrap_or_default()) {
            Ok(0) => Ok(Got::TheEnd),
            Ok(length) => {
                self.filled += length;
                Ok(Got::Something)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Got::Nothing),
            Err(error) => Err(error),
        }
    }

    /// Takes the first whole message, hands head and body to `with`, and returns what that made of it.
    pub(crate) fn take<T>(&mut self, with: impl FnOnce(&[u8], &[u8]) -> T) -> Option<T> {
        let read = self.bytes.get(..self.filled)?;
        let head = read.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        let end = head + content_length(read.get(..head)?);
        let result = with(read.get(..head)?, read.get(head..end)?);
        self.bytes.copy_within(end..self.filled, 0);
        self.filled -= end;
        Some(result)
    }
}

fn content_length(head: &[u8]) -> usize {
    const NAME: &[u8] = b"content-length:";
    let lines = head.split(|byte| *byte == b'\n');
    let value = lines
        .filter_map(|line| Some((line.get(..NAME.len())?, line.get(NAME.len()..)?)))
        .find_map(|(name, value)| name.eq_ignore_ascii_case(NAME).then_some(value));
    let digits = value.unwrap_or_default().iter().filter(|byte| byte.is_ascii_digit());
    digits.fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'))
}
