//! A producer: a keep-alive HTTP/1.1 client over TCP or a Unix socket that notes in a ledger of its own what was
//! acknowledged. It never tries again by itself: no 202 is unknown, and the test decides.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::message::Message;

/// The SHA-256 of a body.
pub(crate) type Hash = [u8; 32];

pub(crate) fn sha256(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

/// How long an answer may take; a daemon that never answers fails the test instead of hanging it.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// What was posted and what was acknowledged.
#[derive(Default)]
pub(crate) struct Ledger {
    acknowledged: Mutex<BTreeMap<String, Hash>>,
    posted: Mutex<HashSet<Hash>>,
}

impl Ledger {
    /// Before the first byte goes out.
    pub(crate) fn note_posted(&self, hash: Hash) {
        self.posted.lock().unwrap().insert(hash);
    }

    /// After the 202.
    pub(crate) fn note_acknowledged(&self, id: &str, hash: Hash) {
        let before = self.acknowledged.lock().unwrap().insert(id.to_owned(), hash);
        assert_eq!(before, None, "id {id} was given out twice");
    }

    pub(crate) fn acknowledged(&self) -> BTreeMap<String, Hash> {
        self.acknowledged.lock().unwrap().clone()
    }

    pub(crate) fn posted(&self) -> HashSet<Hash> {
        self.posted.lock().unwrap().clone()
    }

    /// How many events were acknowledged.
    pub(crate) fn len(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }
}

/// The daemon's answer to a post.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The body as JSON; null where it is none.
    pub(crate) json: serde_json::Value,
    pub(crate) message: Message,
}

impl Answer {
    /// The event's id; empty where there is none.
    pub(crate) fn id(&self) -> &str {
        self.json["id"].as_str().unwrap_or_default()
    }

    /// The stable code of a problem document.
    pub(crate) fn code(&self) -> &str {
        self.json["code"].as_str().unwrap_or_default()
    }
}

#[derive(Clone)]
enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

trait Both: Read + Write + Send {}
impl<T: Read + Write + Send> Both for T {}

/// One client with at most one open HTTP connection.
pub(crate) struct Producer {
    address: Address,
    stream: Option<BufReader<Box<dyn Both>>>,
}

impl Producer {
    pub(crate) fn tcp(address: SocketAddr) -> Producer {
        Producer { address: Address::Tcp(address), stream: None }
    }

    pub(crate) fn unix(path: &Path) -> Producer {
        Producer { address: Address::Unix(path.to_owned()), stream: None }
    }

    /// Posts an event to `/v1/events` and notes it in the ledger.
    pub(crate) fn event(&mut self, ledger: &Ledger, body: &[u8]) -> io::Result<Answer> {
        self.event_to("/v1/events", ledger, body)
    }

    /// Posts an event to a path and notes it in the ledger.
    pub(crate) fn event_to(
        &mut self,
        path: &str,
        ledger: &Ledger,
        body: &[u8],
    ) -> io::Result<Answer> {
        let hash = sha256(body);
        ledger.note_posted(hash);
        let answer = self.post(path, &[("content-type", "application/octet-stream")], body)?;
        if answer.status == 202 {
            ledger.note_acknowledged(answer.id(), hash);
        }
        Ok(answer)
    }

    /// Posts, and notes nothing.
    pub(crate) fn post(
        &mut self,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Answer> {
        let mut head = format!("POST {path} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| *name == "host") {
            head.push_str("host: localhost\r\n");
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
        self.exchange(&[head.as_bytes(), body].concat())
    }

    /// Gets a path.
    pub(crate) fn get(&mut self, path: &str) -> io::Result<Answer> {
        self.exchange(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes())
    }

    /// Sends these bytes and reads one answer. After an error the HTTP connection is gone.
    pub(crate) fn exchange(&mut self, request: &[u8]) -> io::Result<Answer> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.connect()?,
        };
        // A refusal may come, and the peer close, before all is written: the answer counts, not the write.
        let written = stream.get_mut().write_all(request);
        let message = match Message::read(&mut stream) {
            Ok(Some(message)) => message,
            Ok(None) => return Err(written.err().unwrap_or(io::ErrorKind::UnexpectedEof.into())),
            Err(error) => return Err(written.err().unwrap_or(error)),
        };
        if message.header("connection") != Some("close") && written.is_ok() {
            self.stream = Some(stream);
        }
        Ok(Answer {
            status: message.status()?,
            json: serde_json::from_slice(&message.body).unwrap_or_default(),
            message,
        })
    }

    /// Opens the HTTP connection, if it is not, and sends a piece of a request.
    pub(crate) fn begin(&mut self, piece: &[u8]) -> io::Result<()> {
        if self.stream.is_none() {
            self.stream = Some(self.connect()?);
        }
        match &mut self.stream {
            Some(stream) => stream.get_mut().write_all(piece),
            None => Ok(()),
        }
    }

    /// Waits for the `100 Continue` that says that the head of what was begun has been read.
    pub(crate) fn continued(&mut self) -> io::Result<()> {
        let stream = self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let message = Message::read(stream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        assert_eq!(message.status()?, 100);
        Ok(())
    }

    /// Whether the peer has closed the HTTP connection; waits for it, or for an answer.
    pub(crate) fn closed(&mut self) -> bool {
        let mut byte = [0];
        match &mut self.stream {
            Some(stream) => !matches!(stream.read(&mut byte), Ok(1..)),
            None => true,
        }
    }

    fn connect(&self) -> io::Result<BufReader<Box<dyn Both>>> {
        let stream: Box<dyn Both> = match &self.address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(ANSWER_LIMIT))?;
                Box::new(stream)
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(ANSWER_LIMIT))?;
                Box::new(stream)
            }
        };
        Ok(BufReader::new(stream))
    }
}
