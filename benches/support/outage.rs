//! An outage: events go on coming while their endpoint is down for a while. Everything must arrive; what is measured is how
//! long that takes once the endpoint is back, and how hard it is hit then.

use std::collections::HashMap;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};

use super::figures::now_ns;
use super::load::{Plan, drive};
use super::relay::{Relay, Setup};
use super::sink::{Arrived, Sink};

/// Events a second.
const RATE: u64 = 1_000;
/// What bursts are counted over.
const SLICE_NS: u64 = 100_000_000;
/// A drain that stands still for so long has lost something: longer than a breaker is open, and a retry waits.
const STALLED_NS: u64 = 60_000_000_000;

/// How long each part takes.
#[derive(Clone, Copy)]
pub(crate) struct Outage {
    pub(crate) before: Duration,
    pub(crate) down: Duration,
    pub(crate) after: Duration,
    /// Lines of the connection.
    pub(crate) connection: &'static str,
}

impl Outage {
    /// The whole thing, on the defaults.
    pub(crate) const FULL: Outage = Outage {
        before: Duration::from_secs(5),
        down: Duration::from_secs(20),
        after: Duration::from_secs(25),
        connection: "",
    };
    /// For a look at whether it works.
    pub(crate) const QUICK: Outage = Outage {
        before: Duration::from_millis(500),
        down: Duration::from_millis(1500),
        after: Duration::from_secs(1),
        connection: "breaker = { open_for = \"500ms\" }\nretry = { interval = \"500ms\" }\n",
    };

    pub(crate) fn run(
        self,
        binary: &Path,
        place: &Path,
    ) -> anyhow::Result<Vec<(&'static str, f64)>> {
        let sink = Sink::start()?;
        let address = sink.address;
        let setup = Setup {
            endpoint: address,
            connections: 1,
            connection: self.connection.to_owned(),
            store: String::new(),
        };
        let relay = Relay::start_with(binary, place, &setup)?;
        let length = self.before + self.down + self.after;
        let plan = Plan {
            to: relay.ingress,
            path: "/v1/events",
            paths: &[],
            length_ns: u64::try_from(length.as_nanos())?,
            rate: Some(RATE),
            events: u64::MAX,
        };
        thread::scope(|scope| {
            let load = scope.spawn(move || drive(plan));
            thread::sleep(self.before);
            let before = sink.stop();
            thread::sleep(self.down);
            let sink = Sink::start_at(address).context("start the endpoint again")?;
            let back_ns = now_ns();
            let posted = load.join().map_err(|_| anyhow::anyhow!("the load panicked"))??;
            let seen = before.times.len() as u64;
            let (mut count, mut moved) = (0, now_ns());
            while seen + count < posted.accepted && now_ns() - moved < STALLED_NS {
                thread::sleep(Duration::from_millis(2));
                let now = sink.count();
                if now > count {
                    (count, moved) = (now, now_ns());
                }
            }
            let attempts = relay.metric("posthaste_delivery_attempts_total")?;
            let after = sink.take();
            judge(&before, &after, posted.accepted, back_ns, attempts)
        })
    }
}

fn judge(
    before: &Arrived,
    after: &Arrived,
    accepted: u64,
    back_ns: u64,
    attempts: f64,
) -> anyhow::Result<Vec<(&'static str, f64)>> {
    let times = |arrived: &Arrived, event: &u64| arrived.times.get(event).copied().unwrap_or(0);
    let lost = (0..accepted).filter(|event| times(before, event) + times(after, event) == 0);
    let lost = lost.count();
    ensure!(lost == 0, "{lost} of {accepted} events did not arrive");
    let twice = (0..accepted).filter(|event| times(before, event) + times(after, event) > 1);
    let mut slices: HashMap<u64, u64> = HashMap::new();
    let mut last = back_ns;
    for (at, late) in after.at_ns.iter().zip(&after.late_ns) {
        *slices.entry((at - back_ns.min(*at)) / SLICE_NS).or_default() += 1;
        if at - late < back_ns {
            last = last.max(*at);
        }
    }
    let first = after.first_ns.max(back_ns);
    Ok(vec![
        ("events", accepted as f64),
        ("delivered again", twice.count() as f64),
        ("attempts that failed", attempts - accepted as f64),
        ("until the first, s", (first - back_ns) as f64 / 1e9),
        ("until all of the outage, s", (last - back_ns) as f64 / 1e9),
        ("largest burst in 100 ms", slices.values().copied().max().unwrap_or(0) as f64),
        ("offered in 100 ms", (RATE / 10) as f64),
    ])
}
