//! The service manager's side of `sd_notify`: a datagram socket that keeps what the daemon says.

use std::fs;
use std::net::Shutdown;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

/// Listens at one path until it is dropped.
pub(crate) struct Notify {
    socket: UnixDatagram,
    messages: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Notify {
    /// Takes the path over, also from an earlier listener.
    pub(crate) fn listen(path: &Path) -> Notify {
        drop(fs::remove_file(path));
        let socket = UnixDatagram::bind(path).expect("bind the notify socket");
        let messages = Arc::new(Mutex::new(Vec::new()));
        let (from, into) = (socket.try_clone().expect("clone"), Arc::clone(&messages));
        let reader = thread::spawn(move || {
            let mut buffer = vec![0; 4096];
            while let Ok(length @ 1..) = from.recv(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                into.lock().unwrap().push(text);
            }
        });
        Notify { socket, messages, reader: Some(reader) }
    }

    /// All datagrams so far, each as it was sent.
    pub(crate) fn messages(&self) -> Vec<String> {
        self.messages.lock().unwrap().clone()
    }

    /// How many datagrams have this line, such as `READY=1`.
    pub(crate) fn count(&self, line: &str) -> usize {
        let messages = self.messages.lock().unwrap();
        let has = |message: &&String| message.lines().any(|found| found == line);
        messages.iter().filter(has).count()
    }
}

impl Drop for Notify {
    fn drop(&mut self) {
        drop(self.socket.shutdown(Shutdown::Both));
        if let Some(reader) = self.reader.take() {
            drop(reader.join());
        }
    }
}

#[test]
fn notify_keeps_datagrams_apart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("n.sock");
    let notify = Notify::listen(&path);
    let sender = UnixDatagram::unbound().unwrap();
    for text in ["READY=1\nSTATUS=ok", "READY=12"] {
        sender.send_to(text.as_bytes(), &path).unwrap();
    }
    super::eventually("two datagrams", super::SOON, || notify.messages().len() == 2);
    assert_eq!(notify.count("READY=1"), 1);
}
