//! Promise 6, from outside: a hundred connections, five of them with endpoints that hang, refuse, answer 429, trickle and
//! never end. The other 95 get 2,000 events a second in an open loop, each event for one of them; the five get as much
//! each. Runs with and without the five take turns, so that a slow moment of the machine meets both.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::ensure;

use super::figures::{now_ns, quantile};
use super::load::{Plan, drive};
use super::relay::{Relay, Setup};
use super::sink::{Arrived, Sink};

/// Connections that are well.
const HEALTHY: u64 = 95;
/// Events a second for them together.
const RATE: u64 = 2_000;
/// A drain that stands still for so long has lost something.
const STALLED_NS: u64 = 10_000_000_000;
/// What opens pools before the measured load.
const WARM_UP_NS: u64 = 1_000_000_000;
/// The head of each endpoint's answer, and what follows it again and again, with this pause.
const BAD: [(&str, &str, Option<Duration>); 3] = [
    ("HTTP/1.1 429 Slow\r\ncontent-length: 0\r\n\r\n", "", None),
    ("HTTP/1.1 200 OK\r\n", "x", Some(Duration::from_millis(100))),
    (
        "HTTP/1.1 500 No\r\ncontent-length: 10000000000\r\n\r\n",
        "xxxxxxxxxxxxxxxx",
        Some(Duration::ZERO),
    ),
];

/// One run.
pub(crate) struct Run {
    /// Deliveries a second to the healthy ones, of what was offered.
    pub(crate) share: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// Runs `pairs` times without and with the bad five.
pub(crate) fn pairs(
    binary: &Path,
    place: &Path,
    pairs: usize,
    length_ns: u64,
) -> anyhow::Result<Vec<(Run, Run)>> {
    let sink = Sink::start()?;
    let bad = bad_endpoints()?;
    (0..pairs)
        .map(|_| {
            let without = run(binary, place, &sink, &[], length_ns)?;
            let with = run(binary, place, &sink, &bad, length_ns)?;
            Ok((without, with))
        })
        .collect()
}

fn run(
    binary: &Path,
    place: &Path,
    sink: &Sink,
    bad: &[SocketAddr],
    length_ns: u64,
) -> anyhow::Result<Run> {
    let setup = Setup {
        endpoint: sink.address,
        connections: usize::try_from(HEALTHY)?,
        connection: "pool = { max_per_host = 4, max_total = 4 }\n".to_owned(),
        store: String::new(),
    };
    let relay = Relay::start_with(binary, place, &setup)?;
    for (number, address) in (HEALTHY..).zip(bad) {
        relay.add_connection(&format!("c{number}"), *address, "")?;
    }
    let all = HEALTHY + bad.len() as u64;
    relay.reload()?;
    relay.wait_for("posthaste_breaker_state", all as f64)?;
    let paths: Vec<String> =
        (0..all).map(|number| format!("/v1/connections/c{number}/events")).collect();
    let plan = Plan {
        to: relay.ingress,
        path: "",
        paths: &paths,
        length_ns: WARM_UP_NS,
        rate: Some(RATE * all / HEALTHY),
        events: u64::MAX,
    };
    measured(sink, plan)?;
    let arrived = measured(sink, Plan { length_ns, ..plan })?;
    let mut late = arrived.late_ns;
    late.sort_unstable();
    let ms = |share| quantile(&late, share) as f64 / 1e6;
    let took = (arrived.last_ns - arrived.first_ns).max(1) as f64 / 1e9;
    let share = late.len() as f64 / took / RATE as f64;
    Ok(Run { share, p50_ms: ms(0.5), p99_ms: ms(0.99) })
}

/// Posts as planned and waits until the healthy ones have theirs.
fn measured(sink: &Sink, plan: Plan<'_>) -> anyhow::Result<Arrived> {
    sink.take();
    let posted = drive(plan)?;
    let all = plan.paths.len() as u64;
    let is_healthy = |event: &u64| event % all < HEALTHY;
    let goal = (0..posted.accepted).filter(is_healthy).count() as u64;
    let (mut seen, mut moved) = (0, now_ns());
    while seen < goal && now_ns() - moved < STALLED_NS {
        thread::sleep(Duration::from_millis(2));
        let count = sink.count();
        if count > seen {
            (seen, moved) = (count, now_ns());
        }
    }
    let arrived = sink.take();
    let lost = (0..posted.accepted).filter(is_healthy);
    let lost = lost.filter(|event| !arrived.times.contains_key(event)).count();
    ensure!(lost == 0, "{lost} of {goal} events did not arrive");
    Ok(arrived)
}

/// The bad ones, each on a port of its own: refusing, hung, and those of [`BAD`]. Their threads end with the process.
fn bad_endpoints() -> anyhow::Result<Vec<SocketAddr>> {
    let refusing = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let mut addresses = vec![refusing, serve(hang)?];
    let answers: [fn(TcpStream); 3] = [|s| answer(s, 0), |s| answer(s, 1), |s| answer(s, 2)];
    for handle in answers {
        addresses.push(serve(handle)?);
    }
    Ok(addresses)
}

fn serve(handle: fn(TcpStream)) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || handle(stream));
        }
    });
    Ok(address)
}

/// Takes what comes and says nothing.
fn hang(mut stream: TcpStream) {
    let mut bytes = [0; 4096];
    while stream.read(&mut bytes).is_ok_and(|read| read > 0) {}
}

fn answer(stream: TcpStream, which: usize) {
    let Some((head, more, pause)) = BAD.get(which) else { return };
    let mut from = BufReader::new(&stream);
    let mut to = &stream;
    while read_request(&mut from) {
        let mut wrote = to.write_all(head.as_bytes());
        let more = more.repeat(if *pause == Some(Duration::ZERO) { 4096 } else { 1 });
        while let (Ok(()), Some(pause)) = (&wrote, pause) {
            thread::sleep(*pause);
            wrote = to.write_all(more.as_bytes());
        }
        if wrote.is_err() {
            return;
        }
    }
}

/// False when the stream has ended.
fn read_request(from: &mut BufReader<&TcpStream>) -> bool {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if !from.read_line(&mut line).is_ok_and(|read| read > 0) {
            return false;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        if line.trim().is_empty() {
            return from.read_exact(&mut vec![0; length]).is_ok();
        }
    }
}
