//! A bulk replay beside live traffic: the dead letters of one connection are sent again by a job while others get events at
//! 1,000 a second in an open loop. Each pair is one daemon with the same dead letters: a run beside them at rest, and a run
//! beside their replay. Only what arrived while the replay was under way counts for the second.

use std::net::TcpListener;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};

use super::figures::{now_ns, quantile};
use super::load::{Plan, Posted, drive};
use super::relay::{Relay, Setup};
use super::sink::{Arrived, Sink};

/// Connections with live traffic.
const LIVE: usize = 4;
/// Live events a second, for them together.
const RATE: u64 = 1_000;
/// What opens pools before the measured load.
const WARM_UP_NS: u64 = 500_000_000;
/// What stands still for so long has lost something.
const STALLED_NS: u64 = 20_000_000_000;
/// The connection whose dead letters are replayed: it is tried once, and dead when that failed.
const DEAD: &str = "dead";
const DEAD_LINES: &str = "breaker = { enabled = false }\nretry = { strategy = \"none\" }\n\
    queue = { max_events = 1000000000, max_bytes = \"1TiB\" }\n";

/// A pair of runs.
pub(crate) struct Pair {
    pub(crate) without_p99_ms: f64,
    pub(crate) with_p99_ms: f64,
    /// Live events that the second p99 is of.
    pub(crate) beside: usize,
    /// Dead letters sent again a second.
    pub(crate) replayed: f64,
}

/// Makes `events` dead letters, and runs once without and once with their replay.
pub(crate) fn pair(
    binary: &Path,
    place: &Path,
    events: u64,
    length_ns: u64,
) -> anyhow::Result<Pair> {
    let sink = Sink::start()?;
    let (connection, store) = (String::new(), "max_bytes = \"1TiB\"\n".to_owned());
    let setup = Setup { endpoint: sink.address, connections: LIVE, connection, store };
    let relay = Relay::start_with(binary, place, &setup)?;
    let endpoint = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    relay.add_connection(DEAD, endpoint, DEAD_LINES)?;
    relay.reload()?;
    relay.wait_for("posthaste_config_generation", 2.0)?;
    let path = format!("/v1/connections/{DEAD}/events");
    let fill = Plan {
        to: relay.ingress,
        path: &path,
        paths: &[],
        length_ns: u64::MAX / 2,
        rate: None,
        events,
    };
    ensure!(drive(fill)?.accepted == events, "not all was accepted");
    wait_for_dead(&relay, events)?;
    let paths: Vec<String> =
        (0..LIVE).map(|number| format!("/v1/connections/c{number}/events")).collect();
    let rate = Some(RATE);
    let live =
        Plan { path: "", paths: &paths, length_ns: WARM_UP_NS, rate, events: u64::MAX, ..fill };
    arrived(&sink, drive(live)?)?;
    let live = Plan { length_ns, ..live };
    let without = arrived(&sink, drive(live)?)?;

    let replays = Sink::start_at(endpoint).context("start the endpoint of the dead letters")?;
    let (posted, began) = thread::scope(|scope| {
        let load = scope.spawn(move || drive(live));
        thread::sleep(Duration::from_nanos(length_ns / 16));
        let began = now_ns();
        relay.post(&format!("/v1/dead/replay?connection={DEAD}"))?;
        let posted = load.join().map_err(|_| anyhow::anyhow!("the load panicked"))??;
        anyhow::Ok((posted, began))
    })?;
    let with = arrived(&sink, posted)?;
    wait_for(&replays, events);
    let again = replays.take();
    let missing = (0..events).filter(|event| !again.times.contains_key(event)).count();
    ensure!(missing == 0, "{missing} of {events} dead letters were not sent again");
    let beside = began..again.last_ns;
    let noted = with.at_ns.iter().zip(&with.late_ns);
    let late: Vec<u64> =
        noted.filter(|(at, late)| beside.contains(&(*at - *late))).map(|(_, late)| *late).collect();
    ensure!(!late.is_empty(), "the replay was over before a live event came");
    Ok(Pair {
        beside: late.len(),
        without_p99_ms: p99_ms(without.late_ns),
        with_p99_ms: p99_ms(late),
        replayed: events as f64 / ((again.last_ns - began) as f64 / 1e9),
    })
}

fn p99_ms(mut late_ns: Vec<u64>) -> f64 {
    late_ns.sort_unstable();
    quantile(&late_ns, 0.99) as f64 / 1e6
}

/// Until each was tried, and is dead.
fn wait_for_dead(relay: &Relay, events: u64) -> anyhow::Result<()> {
    let (mut seen, mut moved) = (0.0, now_ns());
    while seen < events as f64 {
        thread::sleep(Duration::from_millis(20));
        let dead = relay.metric("posthaste_dead_letters")?;
        if dead > seen {
            (seen, moved) = (dead, now_ns());
        }
        ensure!(now_ns() - moved < STALLED_NS, "{seen} of {events} became dead letters");
    }
    Ok(())
}

/// Until so many arrived, or nothing does any more.
fn wait_for(sink: &Sink, goal: u64) {
    let (mut seen, mut moved) = (0, now_ns());
    while seen < goal && now_ns() - moved < STALLED_NS {
        thread::sleep(Duration::from_millis(2));
        let count = sink.count();
        if count > seen {
            (seen, moved) = (count, now_ns());
        }
    }
}

/// Waits for what was posted, and fails if something does not come.
fn arrived(sink: &Sink, posted: Posted) -> anyhow::Result<Arrived> {
    wait_for(sink, posted.accepted);
    let arrived = sink.take();
    let lost = (0..posted.accepted).filter(|event| !arrived.times.contains_key(event)).count();
    ensure!(lost == 0, "{lost} of {} live events did not arrive", posted.accepted);
    Ok(arrived)
}
