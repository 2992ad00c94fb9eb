//! The receiver: one thread, epoll, minimal parsing, `200` with an empty body. It notes which events arrived and how long
//! after they were due.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use rustix::buffer::spare_capacity;
use rustix::event::epoll;

use super::figures::now_ns;
use super::wire::{Got, Inbox, event};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
/// The listener's place among the streams' numbers, which start above it.
const LISTENER: u64 = 0;

/// What arrived since it was last taken.
#[derive(Default)]
pub(crate) struct Arrived {
    /// How often each event arrived, by number.
    pub(crate) times: HashMap<u64, u32>,
    /// Nanoseconds from the due time to the arrival.
    pub(crate) late_ns: Vec<u64>,
    /// When each arrived.
    pub(crate) at_ns: Vec<u64>,
    pub(crate) first_ns: u64,
    pub(crate) last_ns: u64,
    /// How many places any event came before or after its own, at the most.
    pub(crate) overtaking: u64,
    /// Requests so far by path, a connection's place in its name.
    by_path: HashMap<u8, u64>,
    /// Requests that were no event of the bench.
    pub(crate) strange: u64,
}

/// A receiver; its thread ends with [`Sink::stop`] or the process.
pub(crate) struct Sink {
    pub(crate) address: SocketAddr,
    arrived: Arc<Mutex<Arrived>>,
    stopped: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Sink {
    pub(crate) fn start() -> io::Result<Sink> {
        Sink::start_at(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    pub(crate) fn start_at(address: SocketAddr) -> io::Result<Sink> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let arrived = Arc::new(Mutex::new(Arrived::default()));
        let notes = Arc::clone(&arrived);
        let stopped = Arc::<AtomicBool>::default();
        let stop = Arc::clone(&stopped);
        let thread = thread::Builder::new().name("sink".to_owned()).spawn(move || {
            if let Err(error) = serve(&listener, &notes, &stop) {
                eprintln!("the receiver stopped: {error}");
            }
        })?;
        Ok(Sink { address, arrived, stopped, thread })
    }

    /// Closes the port and all that came through it; what arrived until then.
    pub(crate) fn stop(self) -> Arrived {
        self.stopped.store(true, Ordering::Relaxed);
        // Wakes the thread, which looks at that before it does anything else.
        drop(TcpStream::connect(self.address));
        drop(self.thread.join());
        std::mem::take(&mut *self.arrived.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many requests arrived since the last [`Sink::take`].
    pub(crate) fn count(&self) -> u64 {
        let arrived = self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
        arrived.late_ns.len() as u64
    }

    /// All notes; they start anew.
    pub(crate) fn take(&self) -> Arrived {
        std::mem::take(&mut *self.arrived.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn serve(listener: &TcpListener, notes: &Mutex<Arrived>, stop: &AtomicBool) -> io::Result<()> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let readable = epoll::EventFlags::IN;
    epoll::add(&poll, listener, epoll::EventData::new_u64(LISTENER), readable)?;
    let mut streams: HashMap<u64, (TcpStream, Inbox)> = HashMap::new();
    let mut next = LISTENER + 1;
    let mut events = Vec::with_capacity(128);
    loop {
        match epoll::wait(&poll, spare_capacity(&mut events), None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        for ready in events.drain(..) {
            let number = ready.data.u64();
            if number == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    epoll::add(&poll, &stream, epoll::EventData::new_u64(next), readable)?;
                    streams.insert(next, (stream, Inbox::default()));
                    next += 1;
                }
            } else if let Some((stream, inbox)) = streams.get_mut(&number)
                && !answer(stream, inbox, notes).unwrap_or(false)
            {
                streams.remove(&number);
            }
        }
    }
}

/// Reads what there is and answers what is whole; whether the stream goes on.
fn answer(stream: &TcpStream, inbox: &mut Inbox, notes: &Mutex<Arrived>) -> io::Result<bool> {
    if inbox.fill(stream)? == Got::TheEnd {
        return Ok(false);
    }
    while let Some((path, found)) = inbox.take(|head, body| (path(head), event(body))) {
        note(notes, path, found);
        let mut writer = stream;
        writer.write_all(ANSWER)?;
    }
    Ok(true)
}

/// The last character of the path: `POST /c3 HTTP/1.1`.
fn path(head: &[u8]) -> u8 {
    let mut words = head.split(|byte| *byte == b' ');
    words.nth(1).and_then(<[u8]>::last).copied().unwrap_or(0)
}

fn note(notes: &Mutex<Arrived>, path: u8, found: Option<(u64, u64)>) {
    let now = now_ns();
    let mut notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
    match found {
        Some((number, due)) => {
            *notes.times.entry(number).or_default() += 1;
            notes.late_ns.push(now.saturating_sub(due));
            notes.at_ns.push(now);
            let place = notes.by_path.entry(path).or_default();
            let away = place.abs_diff(number);
            *place += 1;
            notes.overtaking = notes.overtaking.max(away);
            notes.last_ns = now;
            if notes.first_ns == 0 {
                notes.first_ns = now;
            }
        }
        None => notes.strange += 1,
    }
}
