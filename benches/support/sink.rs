//! The receiver: one thread, epoll, minimal parsing, `200` with an empty body. It notes which events arrived and how long
//! after they were due.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustix::buffer::spare_capacity;
use rustix::event::epoll;

use super::wire::{Got, Inbox, event, now_ns};

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
    pub(crate) last_ns: u64,
    /// Requests that were no event of the bench.
    pub(crate) strange: u64,
}

/// A receiver; its thread ends with the process.
pub(crate) struct Sink {
    pub(crate) address: SocketAddr,
    arrived: Arc<Mutex<Arrived>>,
}

impl Sink {
    pub(crate) fn start() -> io::Result<Sink> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let arrived = Arc::new(Mutex::new(Arrived::default()));
        let notes = Arc::clone(&arrived);
        thread::Builder::new().name("sink".to_owned()).spawn(move || {
            if let Err(error) = serve(&listener, &notes) {
                eprintln!("the receiver stopped: {error}");
            }
        })?;
        Ok(Sink { address, arrived })
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

fn serve(listener: &TcpListener, notes: &Mutex<Arrived>) -> io::Result<()> {
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
    while let Some(found) = inbox.take(|_, body| event(body)) {
        note(notes, found);
        let mut writer = stream;
        writer.write_all(ANSWER)?;
    }
    Ok(true)
}

fn note(notes: &Mutex<Arrived>, found: Option<(u64, u64)>) {
    let now = now_ns();
    let mut notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
    match found {
        Some((number, due)) => {
            *notes.times.entry(number).or_default() += 1;
            notes.late_ns.push(now.saturating_sub(due));
            notes.last_ns = now;
        }
        None => notes.strange += 1,
    }
}
