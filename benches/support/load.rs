//! The load: one thread, epoll, 64 keep-alive clients. As fast as answers come, or open loop at a fixed rate, where each
//! event carries the time at which it was due, so that waiting for a free client counts too.

use std::collections::VecDeque;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, ensure};
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::fd::OwnedFd;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::figures::now_ns;
use super::wire::{Got, Inbox, request};

const CLIENTS: usize = 64;
/// The timer's place among the clients' numbers.
const TIMER: u64 = CLIENTS as u64;
/// How often a client that was refused, or the end, is looked at.
const TICK_NS: u64 = 1_000_000;

/// What to post.
#[derive(Clone, Copy)]
pub(crate) struct Plan<'a> {
    pub(crate) to: SocketAddr,
    pub(crate) path: &'a str,
    /// By turns, instead of `path`; none is `path` alone.
    pub(crate) paths: &'a [String],
    pub(crate) length_ns: u64,
    /// Events a second; `None` is as fast as answers come.
    pub(crate) rate: Option<u64>,
    /// Events at the most.
    pub(crate) events: u64,
}

/// What was posted: the events 0 to `accepted`, each until it was taken.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Posted {
    pub(crate) accepted: u64,
    /// 429, 503 and 507; the event was posted again.
    pub(crate) refused: u64,
    pub(crate) began_ns: u64,
}

struct Client {
    stream: TcpStream,
    inbox: Inbox,
    /// Number and due time of what it has posted and not had answered.
    posted: Option<(u64, u64)>,
}

struct Load<'a> {
    plan: Plan<'a>,
    poll: OwnedFd,
    clients: Vec<Client>,
    idle: Vec<usize>,
    /// What was refused and is to be posted again.
    again: VecDeque<(u64, u64)>,
    next: u64,
    buffer: Vec<u8>,
    posted: Posted,
}

/// Posts as planned and waits for every answer.
pub(crate) fn drive(plan: Plan<'_>) -> anyhow::Result<Posted> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let timer =
        timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
    let period = plan.rate.map_or(TICK_NS, |rate| 1_000_000_000 / rate.max(1));
    let period = Timespec {
        tv_sec: i64::try_from(period / 1_000_000_000)?,
        tv_nsec: i64::try_from(period % 1_000_000_000)?,
    };
    let every = Itimerspec { it_interval: period, it_value: period };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &every)?;
    epoll::add(&poll, &timer, epoll::EventData::new_u64(TIMER), epoll::EventFlags::IN)?;
    let mut load = Load {
        plan,
        poll,
        clients: Vec::new(),
        idle: (0..CLIENTS).collect(),
        again: VecDeque::new(),
        next: 0,
        buffer: Vec::new(),
        posted: Posted::default(),
    };
    for number in 0..CLIENTS {
        load.connect(number)?;
    }
    load.run(&timer)?;
    Ok(load.posted)
}

impl Load<'_> {
    fn connect(&mut self, number: usize) -> anyhow::Result<()> {
        let stream = TcpStream::connect(self.plan.to).context("connect a client")?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let data = epoll::EventData::new_u64(number as u64);
        epoll::add(&self.poll, &stream, data, epoll::EventFlags::IN)?;
        self.clients.push(Client { stream, inbox: Inbox::default(), posted: None });
        Ok(())
    }

    fn run(&mut self, timer: &OwnedFd) -> anyhow::Result<()> {
        self.posted.began_ns = now_ns();
        let end = self.posted.began_ns + self.plan.length_ns;
        let mut events = Vec::with_capacity(CLIENTS + 1);
        loop {
            self.post(end)?;
            let busy = self.idle.len() < CLIENTS;
            let over = self.next >= self.plan.events || now_ns() >= end;
            if over && !busy && self.again.is_empty() {
                return Ok(());
            }
            match epoll::wait(&self.poll, spare_capacity(&mut events), None) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            for ready in events.drain(..) {
                if ready.data.u64() == TIMER {
                    // How often it went off does not matter: what is due is told by the clock.
                    rustix::io::read(timer, &mut [0; 8]).ok();
                } else {
                    self.answered(usize::try_from(ready.data.u64())?)?;
                }
            }
        }
    }

    /// Gives each idle client what is due.
    fn post(&mut self, end: u64) -> anyhow::Result<()> {
        while !self.idle.is_empty() {
            let Some((event, due)) = self.due(end) else {
                return Ok(());
            };
            let Some(number) = self.idle.pop() else {
                return Ok(());
            };
            let turn = usize::try_from(event % self.plan.paths.len().max(1) as u64)?;
            let path = self.plan.paths.get(turn).map_or(self.plan.path, String::as_str);
            request(&mut self.buffer, path, event, due);
            let client = self.clients.get_mut(number).context("a client")?;
            client.posted = Some((event, due));
            client.stream.write_all(&self.buffer).context("post an event")?;
        }
        Ok(())
    }

    fn due(&mut self, end: u64) -> Option<(u64, u64)> {
        if let Some(again) = self.again.pop_front() {
            return Some(again);
        }
        let now = now_ns();
        let due = match self.plan.rate {
            Some(rate) => self.posted.began_ns + self.next * 1_000_000_000 / rate.max(1),
            None => now,
        };
        if due >= end || due > now || self.next >= self.plan.events {
            return None;
        }
        self.next += 1;
        Some((self.next - 1, due))
    }

    fn answered(&mut self, number: usize) -> anyhow::Result<()> {
        let client = self.clients.get_mut(number).context("a client")?;
        ensure!(client.inbox.fill(&client.stream)? != Got::TheEnd, "a client was cut off");
        let status = |head: &[u8], _: &[u8]| head.get(9..12).map(<[u8]>::to_vec);
        let Some(status) = client.inbox.take(status).flatten() else {
            return Ok(());
        };
        let event = client.posted.take().context("an answer to nothing")?;
        self.idle.push(number);
        match status.as_slice() {
            b"200" | b"202" => self.posted.accepted += 1,
            b"429" | b"503" | b"507" => {
                self.posted.refused += 1;
                self.again.push_back(event);
            }
            other => anyhow::bail!("answered {}", String::from_utf8_lossy(other)),
        }
        Ok(())
    }
}
