//! A receiver in this process: one port, a thread per HTTP connection, a behaviour that can be changed at any time, and
//! a note of everything that arrived. The port stays reserved while it refuses, so that nobody else gets it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::net as sys;

use super::message::Message;
use super::producer::{Hash, sha256};
use super::{free_address, now};

/// Waiting peers; more than any pool of a test.
const BACKLOG: i32 = 1024;

/// What a receiver does with a request that it has read whole.
#[derive(Clone, Debug)]
pub(crate) enum Behaviour {
    /// Answers after a while.
    Reply(Reply),
    /// Answers at once, with the status that this says.
    Decide(fn(&Message) -> u16),
    /// Never answers.
    Hang,
    /// Sends the answer's head a byte at a time, with this pause, and never ends it.
    Trickle(Duration),
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) delay: Duration,
    /// Close the HTTP connection afterwards, without saying so.
    pub(crate) close: bool,
}

impl Behaviour {
    pub(crate) fn ok() -> Behaviour {
        Behaviour::status(200)
    }

    pub(crate) fn status(status: u16) -> Behaviour {
        Behaviour::with(status, &[])
    }

    pub(crate) fn with(status: u16, headers: &[(&str, &str)]) -> Behaviour {
        let headers =
            headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let body = Vec::new();
        Behaviour::Reply(Reply { status, headers, body, delay: Duration::ZERO, close: false })
    }

    /// The same, with a body.
    pub(crate) fn saying(self, body: &[u8]) -> Behaviour {
        match self {
            Behaviour::Reply(reply) => Behaviour::Reply(Reply { body: body.to_vec(), ..reply }),
            other => other,
        }
    }

    /// The same, later.
    pub(crate) fn after(self, delay: Duration) -> Behaviour {
        match self {
            Behaviour::Reply(reply) => Behaviour::Reply(Reply { delay, ..reply }),
            other => other,
        }
    }

    /// The same, and then the HTTP connection is closed.
    pub(crate) fn closing(self) -> Behaviour {
        match self {
            Behaviour::Reply(reply) => Behaviour::Reply(Reply { close: true, ..reply }),
            other => other,
        }
    }
}

/// One request, as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    /// `webhook-id`; empty where there is none.
    pub(crate) id: String,
    /// `posthaste-attempt`; 0 where there is none.
    pub(crate) attempt: u32,
    pub(crate) sha256: Hash,
    pub(crate) length: usize,
    /// What is answered; 0 for nothing.
    pub(crate) status: u16,
    /// Which TCP connection of this receiver it came on, from 1.
    pub(crate) tcp: usize,
    pub(crate) at: Instant,
}

impl Arrival {
    /// The connection's name, which tests put into the path.
    pub(crate) fn connection(&self) -> &str {
        self.path.trim_start_matches('/')
    }

    pub(crate) fn succeeded(&self) -> bool {
        (200..300).contains(&self.status)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header == name);
        found.map(|(_, value)| value.as_str())
    }
}

#[derive(Default)]
struct State {
    listening: bool,
    stopping: bool,
    behaviour: Option<Behaviour>,
    arrivals: Vec<Arrival>,
    /// Ids of what succeeded, by connection.
    delivered: HashMap<String, HashSet<String>>,
    /// For closing them; by number.
    streams: BTreeMap<usize, TcpStream>,
    opened: usize,
}

struct Shared {
    listener: TcpListener,
    state: Mutex<State>,
    turned: Condvar,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
}

/// One port of this process.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Receiver {
    /// Listens, with this behaviour.
    pub(crate) fn start(behaviour: Behaviour) -> Receiver {
        let receiver = Receiver::refusing();
        receiver.behave(behaviour);
        receiver.listen();
        receiver
    }

    /// Holds a port on which nobody listens yet.
    pub(crate) fn refusing() -> Receiver {
        let listener = reserve().expect("reserve a port");
        let address = listener.local_addr().expect("own address");
        let shared = Arc::new(Shared {
            listener,
            state: Mutex::default(),
            turned: Condvar::new(),
            in_flight: AtomicUsize::new(0),
            most_in_flight: AtomicUsize::new(0),
        });
        let accepting = Arc::clone(&shared);
        Receiver { address, acceptor: Some(thread::spawn(move || accept(&accepting))), shared }
    }

    /// The URL of a connection: its name is the path.
    pub(crate) fn url(&self, connection: &str) -> String {
        format!("http://{}/{connection}", self.address)
    }

    /// Starts to listen, or goes on.
    pub(crate) fn listen(&self) {
        sys::listen(&self.shared.listener, BACKLOG).expect("listen");
        self.turn(|state| state.listening = true);
    }

    /// Closes everything and refuses from now on.
    pub(crate) fn refuse(&self) {
        self.turn(|state| state.listening = false);
        sys::shutdown(&self.shared.listener, sys::Shutdown::Both).ok();
        self.cut();
    }

    /// Closes all open HTTP connections.
    pub(crate) fn cut(&self) {
        for stream in self.shared.state.lock().unwrap().streams.values() {
            drop(stream.shutdown(Shutdown::Both));
        }
    }

    /// What it does with requests that it reads from now on.
    pub(crate) fn behave(&self, behaviour: Behaviour) {
        self.turn(|state| state.behaviour = Some(behaviour));
    }

    /// Everything that arrived so far, in order.
    pub(crate) fn arrivals(&self) -> Vec<Arrival> {
        self.shared.state.lock().unwrap().arrivals.clone()
    }

    /// How many requests arrived.
    pub(crate) fn count(&self) -> usize {
        self.shared.state.lock().unwrap().arrivals.len()
    }

    /// How many different events were delivered to a connection.
    pub(crate) fn delivered(&self, connection: &str) -> usize {
        let state = self.shared.state.lock().unwrap();
        state.delivered.get(connection).map_or(0, HashSet::len)
    }

    /// How many TCP connections were accepted.
    pub(crate) fn opened(&self) -> usize {
        self.shared.state.lock().unwrap().opened
    }

    /// The most requests that were in its hands at one time.
    pub(crate) fn most_in_flight(&self) -> usize {
        self.shared.most_in_flight.load(Ordering::SeqCst)
    }

    fn turn(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.state.lock().unwrap());
        self.shared.turned.notify_all();
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.turn(|state| state.stopping = true);
        self.refuse();
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
    }
}

/// Binds a free port without listening. Bound by number, it stays bound when listening ends.
fn reserve() -> io::Result<TcpListener> {
    loop {
        let kind = sys::SocketType::STREAM;
        let flags = sys::SocketFlags::CLOEXEC;
        let socket = sys::socket_with(sys::AddressFamily::INET, kind, flags, None)?;
        sys::sockopt::set_socket_reuseaddr(&socket, true)?;
        if sys::bind(&socket, &free_address()).is_ok() {
            return Ok(TcpListener::from(socket));
        }
    }
}

fn accept(shared: &Arc<Shared>) {
    loop {
        let mut state = shared.state.lock().unwrap();
        while !state.listening && !state.stopping {
            state = shared.turned.wait(state).unwrap();
        }
        if state.stopping {
            return;
        }
        drop(state);
        while let Ok((stream, _)) = shared.listener.accept() {
            let mut state = shared.state.lock().unwrap();
            state.opened += 1;
            let tcp = state.opened;
            let Ok(clone) = stream.try_clone() else {
                continue;
            };
            state.streams.insert(tcp, clone);
            if !state.listening {
                drop(stream.shutdown(Shutdown::Both));
            }
            drop(state);
            let shared = Arc::clone(shared);
            thread::spawn(move || {
                // The peer may go away at any time; what arrived is noted by then.
                drop(serve(&shared, &stream, tcp));
                shared.state.lock().unwrap().streams.remove(&tcp);
                drop(stream.shutdown(Shutdown::Both));
            });
        }
    }
}

fn serve(shared: &Shared, stream: &TcpStream, tcp: usize) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = Message::read(&mut reader)? {
        let flying = shared.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        shared.most_in_flight.fetch_max(flying, Ordering::SeqCst);
        let open = answer(shared, stream, &request, tcp);
        shared.in_flight.fetch_sub(1, Ordering::SeqCst);
        if !open? {
            break;
        }
    }
    Ok(())
}

/// Does what the behaviour says; whether the HTTP connection stays open.
fn answer(
    shared: &Shared,
    mut stream: &TcpStream,
    request: &Message,
    tcp: usize,
) -> io::Result<bool> {
    let behaviour = shared.state.lock().unwrap().behaviour.clone();
    match behaviour {
        Some(Behaviour::Reply(reply)) => {
            thread::sleep(reply.delay);
            // Noted before it is sent, so that what the daemon counts as delivered is always in the notes.
            note(shared, request, reply.status, tcp);
            let length = reply.body.len();
            let mut head =
                format!("HTTP/1.1 {} Test\r\ncontent-length: {length}\r\n", reply.status);
            for (name, value) in &reply.headers {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
            head.push_str("\r\n");
            stream.write_all(&[head.as_bytes(), &reply.body].concat())?;
            Ok(!reply.close)
        }
        Some(Behaviour::Decide(decide)) => {
            let status = decide(request);
            note(shared, request, status, tcp);
            let head = format!("HTTP/1.1 {status} Test\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(head.as_bytes())?;
            Ok(true)
        }
        Some(Behaviour::Trickle(pause)) => {
            note(shared, request, 0, tcp);
            for byte in b"HTTP/1.1 200 OK\r\nx: ".iter().chain(std::iter::repeat(&b'.')) {
                stream.write_all(&[*byte])?;
                thread::sleep(pause);
            }
            Ok(false)
        }
        Some(Behaviour::Hang) | None => {
            note(shared, request, 0, tcp);
            while stream.read(&mut [0; 64])? > 0 {}
            Ok(false)
        }
    }
}

fn note(shared: &Shared, request: &Message, status: u16, tcp: usize) {
    let mut words = request.start.split(' ');
    let mut word = || words.next().unwrap_or_default().to_owned();
    let arrival = Arrival {
        method: word(),
        path: word(),
        headers: request.headers.clone(),
        id: request.header("webhook-id").unwrap_or_default().to_owned(),
        attempt: request
            .header("posthaste-attempt")
            .and_then(|text| text.parse().ok())
            .unwrap_or_default(),
        sha256: sha256(&request.body),
        length: request.body.len(),
        status,
        tcp,
        at: now(),
    };
    let mut state = shared.state.lock().unwrap();
    if arrival.succeeded() {
        let ids = state.delivered.entry(arrival.connection().to_owned()).or_default();
        ids.insert(arrival.id.clone());
    }
    state.arrivals.push(arrival);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::{Producer, SOON, eventually};

    #[test]
    fn receiver_notes_what_arrives_and_on_which_connection() {
        let receiver = Receiver::start(Behaviour::ok());
        let mut producer = Producer::tcp(receiver.address);
        let headers = [("webhook-id", "evt_1"), ("posthaste-attempt", "3")];
        assert_eq!(producer.post("/a", &headers, b"body").unwrap().status, 200);
        receiver.behave(Behaviour::with(302, &[("location", "/b")]).closing());
        let answer = producer.post("/a", &headers, b"").unwrap();
        assert_eq!(answer.message.header("location"), Some("/b"));
        assert!(producer.post("/a", &headers, b"").is_err(), "it closed");
        assert_eq!(producer.post("/a", &headers, b"").unwrap().status, 302);
        let arrivals = receiver.arrivals();
        let seen: Vec<_> = arrivals.iter().map(|a| (a.tcp, a.status, a.length)).collect();
        assert_eq!(seen, [(1, 200, 4), (1, 302, 0), (2, 302, 0)]);
        assert_eq!((arrivals[0].id.as_str(), arrivals[0].attempt), ("evt_1", 3));
        assert_eq!((arrivals[0].connection(), arrivals[0].sha256), ("a", sha256(b"body")));
        assert_eq!((receiver.delivered("a"), receiver.opened()), (1, 2));
    }

    #[test]
    fn receiver_refuses_and_listens_again_on_the_same_port() {
        let receiver = Receiver::refusing();
        let refused = |receiver: &Receiver| {
            let error = TcpStream::connect(receiver.address).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        };
        receiver.behave(Behaviour::ok());
        for round in 1..3 {
            refused(&receiver);
            receiver.listen();
            let mut producer = Producer::tcp(receiver.address);
            assert_eq!(producer.post("/a", &[], b"x").unwrap().status, 200);
            receiver.refuse();
            assert!(producer.closed());
            assert_eq!(receiver.count(), round);
        }
        refused(&receiver);
    }

    #[test]
    fn receiver_hangs_and_trickles_without_an_answer() {
        for behaviour in [Behaviour::Hang, Behaviour::Trickle(Duration::from_millis(1))] {
            let receiver = Receiver::start(behaviour);
            let mut producer = Producer::tcp(receiver.address);
            producer.begin(b"POST /a HTTP/1.1\r\ncontent-length: 0\r\n\r\n").unwrap();
            eventually("it arrived", SOON, || receiver.count() == 1);
            assert_eq!((receiver.arrivals()[0].status, receiver.most_in_flight()), (0, 1));
            assert_eq!(receiver.delivered("a"), 0);
        }
    }
}
