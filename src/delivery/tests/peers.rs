//! Targets, good and bad, on loopback sockets.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};

/// A listening target.
pub(super) struct Peer {
    pub(super) url: String,
    pub(super) notes: Rc<Notes>,
}

/// What a target has seen.
#[derive(Default)]
pub(super) struct Notes {
    /// TCP connections accepted.
    pub(super) accepted: Cell<usize>,
    /// Requests read whole, with the time of each.
    pub(super) requests: RefCell<Vec<(Instant, Request)>>,
    /// Requests being answered, now and at most.
    pub(super) open: Cell<usize>,
    pub(super) open_most: Cell<usize>,
}

#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl Peer {
    pub(super) fn requests(&self) -> usize {
        self.notes.requests.borrow().len()
    }

    pub(super) fn times(&self) -> Vec<Instant> {
        self.notes.requests.borrow().iter().map(|(at, _)| *at).collect()
    }
}

/// Starts a target that does `handle` with each TCP connection.
pub(super) async fn peer<F, Fut>(handle: F) -> Peer
where
    F: Fn(TcpStream, Rc<Notes>) -> Fut + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let notes = Rc::new(Notes::default());
    let shared = Rc::clone(&notes);
    tokio::task::spawn_local(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            shared.accepted.set(shared.accepted.get() + 1);
            tokio::task::spawn_local(handle(tcp, Rc::clone(&shared)));
        }
    });
    Peer { url, notes }
}

/// A target that answers every request with `response` after `delay`, and keeps its connections.
pub(super) async fn answering(response: &'static str, delay: Duration) -> Peer {
    peer(move |mut tcp, notes| async move {
        while read_request(&mut tcp, &notes).await {
            notes.open.set(notes.open.get() + 1);
            notes.open_most.set(notes.open_most.get().max(notes.open.get()));
            if !delay.is_zero() {
                sleep(delay).await;
            }
            notes.open.set(notes.open.get() - 1);
            if tcp.write_all(response.as_bytes()).await.is_err() {
                return;
            }
        }
    })
    .await
}

pub(super) async fn healthy() -> Peer {
    answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Duration::ZERO).await
}

/// A target that takes each request and never answers.
pub(super) async fn hung() -> Peer {
    peer(|mut tcp, notes| async move {
        read_request(&mut tcp, &notes).await;
        sleep(Duration::from_secs(100_000)).await;
    })
    .await
}

/// A target that reads a request, writes `first`, then `more` again and again with `gap` between.
pub(super) async fn trickling(first: &'static str, more: &'static [u8], gap: Duration) -> Peer {
    peer(move |mut tcp, notes| async move {
        if !read_request(&mut tcp, &notes).await {
            return;
        }
        let mut wrote = tcp.write_all(first.as_bytes()).await;
        while wrote.is_ok() {
            if !gap.is_zero() {
                sleep(gap).await;
            }
            wrote = tcp.write_all(more).await;
        }
    })
    .await
}

/// Reads one request; false when the connection ended first.
pub(super) async fn read_request(tcp: &mut TcpStream, notes: &Notes) -> bool {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        match tcp.read_buf(&mut bytes).await {
            Ok(read) if read > 0 => {}
            _ => return false,
        }
    };
    let mut body = bytes.split_off(head_end);
    let head = String::from_utf8(bytes).unwrap();
    let length: usize = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |length| length.parse().unwrap());
    while body.len() < length {
        match tcp.read_buf(&mut body).await {
            Ok(read) if read > 0 => {}
            _ => return false,
        }
    }
    let request = Request { head, body };
    notes.requests.borrow_mut().push((Instant::now(), request));
    true
}
