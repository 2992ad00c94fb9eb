//! Ingress over real sockets, with a store that answers from memory.
//!
//! Producers are plain blocking sockets, so that a test says byte for byte what is sent. Reads have a generous limit; what
//! a test waits for is always a condition.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use serde_json::Value;

use super::*;
use crate::connection::egress::Egress;
use crate::connection::retry::{Jitter, RetryPolicy, Strategy};
use crate::connection::status::StatusSet;
use crate::connection::{
    Connection, Http2, OnRemove, Pool, QueueLimits, State, Target, Tls, WhenFull,
};
use crate::event::Event;
use crate::source::Source;
use crate::store::ConnectionId;
use crate::store::intake::{AppendError, FakeStore, Route};
use crate::store::keys::{Floor, KeyLimits, Keys};
use crate::store::queue::QueueCounters;

mod batches;
mod cloudevents;
mod events;
mod idempotency;
mod kept;
mod refusals;
mod routes;
mod rules;
mod sources;
mod stopping;
mod wire;

/// Nothing here takes so long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection fed by `default`, with room for ten events and bodies of 1 KiB.
pub(super) fn connection(name: &str) -> Connection {
    Connection {
        name: name.to_owned(),
        display_name: None,
        description: None,
        labels: std::collections::BTreeMap::new(),
        state: State::Active,
        archived: false,
        sources: vec!["default".to_owned()],
        target: Target::parse("http://127.0.0.1:9/").unwrap(),
        method: http::Method::POST,
        headers: Vec::new(),
        host_header: None,
        auth: None,
        sign: None,
        connect_timeout: Duration::from_secs(2),
        request_timeout: Duration::from_secs(10),
        pool_acquire_timeout: Duration::from_secs(2),
        pool: Pool {
            max_per_host: 24,
            max_total: 48,
            idle_timeout: Duration::from_secs(30),
            max_lifetime: Duration::from_secs(300),
        },
        max_in_flight: 24,
        rate_limit: None,
        retry: RetryPolicy {
            strategy: Strategy::None,
            jitter: Jitter::None,
            count: 1,
            max_age: Duration::from_secs(60),
            on_status: StatusSet::retry(),
            retry_after_max: Duration::from_secs(60),
        },
        ordering: None,
        queue: QueueLimits { max_events: 10, max_bytes: 1 << 20, when_full: WhenFull::DeadLetter },
        max_body: 1024,
        success_status: StatusSet::success(),
        tls: Tls::default(),
        delay: Duration::ZERO,
        renamed_from: None,
        http2: Http2::default(),
        proxy: None,
        egress: Egress::default(),
        on_remove: OnRemove::Hold,
        keeps: Default::default(),
        payload: None,
        breaker: None,
        disable_on_gone: false,
        disable_after: None,
        expire_after: None,
    }
}

/// Table entries of these connections, numbered from 1, with empty queues.
pub(super) fn entries(metrics: &Metrics, connections: Vec<Connection>) -> Vec<Entry> {
    (1..)
        .zip(connections)
        .map(|(number, connection)| {
            let handles = metrics.connection(&connection.name);
            (
                Arc::new(connection),
                ConnectionId(number),
                Arc::new(QueueCounters::default()),
                handles,
            )
        })
        .collect()
}

/// An empty table of idempotency keys.
pub(super) fn keys(metrics: &Metrics) -> Arc<Idempotency> {
    let limits = KeyLimits { window: Duration::from_secs(3600), max_keys: 100 };
    let found = Keys { found: Vec::new(), floor: Floor::default() };
    Arc::new(Idempotency::new(limits, found, Clock::system(), metrics))
}

/// An event with its routes, as the store took it.
type Stored = (Arc<Event>, Vec<Route>);

/// How the store behaves.
#[derive(Clone, Copy, Debug)]
enum Disk {
    Works,
    Says(AppendError),
    Hangs,
}

/// A running ingress with its store.
struct Relay {
    address: SocketAddr,
    running: Option<RunningIngress>,
    metrics: Metrics,
    entries: Vec<Entry>,
    sources: Sources,
    routing: Arc<ArcSwap<RoutingTable>>,
    disk: Arc<Mutex<Disk>>,
    stored: Arc<Mutex<Vec<Stored>>>,
    over: Arc<AtomicBool>,
    store: Option<JoinHandle<()>>,
}

impl Relay {
    /// One connection, `crm`.
    fn start(change: impl FnOnce(&mut IngressOptions)) -> Relay {
        Relay::with(vec![connection("crm")], change)
    }

    fn with(connections: Vec<Connection>, change: impl FnOnce(&mut IngressOptions)) -> Relay {
        Relay::with_sources(connections, &[], change)
    }

    fn with_sources(
        connections: Vec<Connection>,
        sources: &[Source],
        change: impl FnOnce(&mut IngressOptions),
    ) -> Relay {
        let mut options = IngressOptions {
            http: vec!["127.0.0.1:0".parse().unwrap()],
            ..IngressOptions::default()
        };
        change(&mut options);
        let metrics = Metrics::new();
        let sources = Sources::new(sources, &Clock::system());
        let entries = entries(&metrics, connections);
        let ingress = Ingress::bind(options, crate::listener::Sockets::default()).unwrap();
        let address = ingress.tcp_addresses().unwrap()[0];
        let (intake, lane, store) = FakeStore::new();
        let table = RoutingTable::new(&entries, &sources);
        let routing = Arc::new(ArcSwap::from_pointee(table));
        let parts = IngressParts {
            intakes: vec![(intake, lane)],
            routing: Arc::clone(&routing),
            keys: keys(&metrics),
            clock: Clock::system(),
            metrics: metrics.clone(),
            seed: 7,
        };
        let mut relay = Relay {
            address,
            running: Some(ingress.start(parts).unwrap()),
            metrics,
            entries,
            sources,
            routing,
            disk: Arc::new(Mutex::new(Disk::Works)),
            stored: Arc::default(),
            over: Arc::default(),
            store: None,
        };
        relay.store = Some(relay.run_store(store));
        relay
    }

    fn run_store(&self, store: FakeStore) -> JoinHandle<()> {
        let (disk, stored) = (Arc::clone(&self.disk), Arc::clone(&self.stored));
        let over = Arc::clone(&self.over);
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let disk = *disk.lock().unwrap();
                let answer = match disk {
                    Disk::Hangs => None,
                    Disk::Works => Some(Ok(())),
                    Disk::Says(error) => Some(Err(error)),
                };
                if let Some(answer) = answer {
                    stored.lock().unwrap().extend(store.turn(|_| answer));
                }
                std::thread::park_timeout(Duration::from_millis(1));
            }
        })
    }

    /// Puts other sources in force, as a reload does.
    fn reload(&mut self, sources: &[Source]) {
        self.sources = self.sources.changed_to(sources, &Clock::system());
        self.routing.store(Arc::new(RoutingTable::new(&self.entries, &self.sources)));
    }

    fn disk(&self, disk: Disk) {
        *self.disk.lock().unwrap() = disk;
    }

    fn connect(&self) -> Producer<TcpStream> {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Producer { stream }
    }

    /// Everything that the store took so far.
    fn stored(&self) -> Vec<Stored> {
        self.stored.lock().unwrap().clone()
    }

    /// The value of a metric's line; 0 where there is none.
    fn metric(&self, line: &str) -> f64 {
        let text = self.metrics.render();
        let value = |found: &str| found.strip_prefix(line)?.trim().parse().ok();
        text.lines().find_map(value).unwrap_or(0.0)
    }

    fn rejected(&self, code: &str) -> f64 {
        self.metric(&format!("posthaste_ingress_rejected_total{{code=\"{code}\"}}"))
    }

    fn live(&self, entry: usize) -> u64 {
        self.entries[entry].2.live.load(Ordering::Relaxed)
    }

    fn memory_used(&self) -> u64 {
        self.running.as_ref().unwrap().memory().used()
    }

    fn stop(&mut self, grace: Duration) {
        self.running.take().unwrap().stop(grace);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop(Duration::ZERO);
        }
        self.over.store(true, Ordering::Relaxed);
        self.store.take().unwrap().join().unwrap();
    }
}

/// Waits until `holds`.
fn eventually(what: &str, holds: impl Fn() -> bool) {
    let begin = Clock::system().monotonic();
    while !holds() {
        let waited = Clock::system().monotonic().saturating_sub(begin);
        assert!(waited < PATIENCE, "waited in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// A producer's end of a connection.
struct Producer<S> {
    stream: S,
}

/// An answer as it came.
#[derive(Debug)]
struct Answer {
    status: u16,
    /// Status line and headers, in lower case.
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    fn code(&self) -> String {
        self.json()["code"].as_str().unwrap().to_owned()
    }

    fn header(&self, name: &str) -> Option<&str> {
        let line = |line: &'_ str| line.split_once(": ").is_some_and(|(found, _)| found == name);
        let found = self.head.lines().find(|found| line(found))?;
        found.split_once(": ").map(|(_, value)| value)
    }
}

impl Producer<UnixStream> {
    fn unix(path: &std::path::Path) -> Producer<UnixStream> {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Producer { stream }
    }
}

impl<S: Read + Write> Producer<S> {
    fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.stream.write_all(bytes.as_ref()).unwrap();
        self
    }

    fn post(&mut self, path: &str, body: &str) -> Answer {
        self.post_with(path, "", body)
    }

    /// `headers`: whole lines, each with its end.
    fn post_with(&mut self, path: &str, headers: &str, body: &str) -> Answer {
        let length = body.len();
        self.send(format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
        ))
        .answer()
    }

    /// Reads one answer, interim ones included.
    fn answer(&mut self) -> Answer {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            let read = self.stream.read(&mut byte).unwrap();
            assert_eq!(read, 1, "closed after {:?}", String::from_utf8_lossy(&head));
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let mut answer = Answer { status: head[9..12].parse().unwrap(), head, body: String::new() };
        let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
        answer.body = String::from_utf8(body).unwrap();
        answer
    }

    /// Whether the relay closed the connection, with nothing left to read.
    fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Ok(0))
    }
}

fn is_event_id(value: &Value) -> bool {
    value.as_str().is_some_and(|id| id.parse::<crate::event::EventId>().is_ok())
}
