//! The backlog: so many events posted while their endpoint is dead, then a SIGKILL, a restart, and the endpoint is back.
//!
//! Three forms. `paused`: the connection is paused, so nothing is attempted; after the restart it is made active. `refusing`:
//! the endpoint's port is closed, so that each delivery fails once and waits for its retry. A retry's due time is kept with
//! the delivery, so a shorter interval afterwards would not change it: the interval is chosen so that it is over soon after
//! the last one failed, and the endpoint comes back at once after the restart. What fell due before then failed once more.
//! `held`: the same with the breaker, so that next to nothing is tried.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};

use super::figures::now_ns;
use super::load::{Plan, drive};
use super::relay::{Relay, Setup};
use super::sink::Sink;
use super::wire::BODY_BYTES;

/// Attempts a second that fail, at the least: what the retry interval is made of.
const FAILURES_PER_SECOND: u64 = 20_000;
/// The shortest retry interval, in seconds.
const INTERVAL_MIN: u64 = 10;
/// After so long without posts or attempts the memory is taken as steady.
const SETTLE: Duration = Duration::from_secs(3);
/// A drain that stands still for so long, beyond the retry interval, has lost something.
const STALLED_NS: u64 = 30_000_000_000;
/// Producers (64), workers (24) and runtimes overtake one another by less than this.
const OVERTAKING_MAX: u64 = 512;

/// How the endpoint is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Paused,
    Refusing,
    /// As [`Form::Refusing`], but with the breaker: hardly anything is tried.
    Held,
}

/// One backlog.
#[derive(Clone, Copy)]
pub(crate) struct Backlog<'a> {
    pub(crate) binary: &'a Path,
    pub(crate) place: &'a Path,
    pub(crate) form: Form,
    pub(crate) events: u64,
    pub(crate) connections: usize,
}

/// What it came to, line by line.
pub(crate) struct Figures(pub(crate) Vec<(&'static str, f64)>);

impl Backlog<'_> {
    pub(crate) fn run(self) -> anyhow::Result<Figures> {
        let mut figures = Figures(Vec::new());
        let endpoint = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut relay = Relay::start_with(self.binary, self.place, &self.setup(endpoint))?;
        figures.note("RSS idle, MiB", relay.memory_kib("VmRSS")? as f64 / 1024.0);
        self.fill(&relay, &mut figures)?;
        relay.kill()?;
        let begun = now_ns();
        relay.restart()?;
        figures.note("restart to READY, ms", (now_ns() - begun) as f64 / 1e6);
        figures.note("RSS after restart, MiB", relay.memory_kib("VmRSS")? as f64 / 1024.0);
        self.drain(&relay, endpoint, &mut figures)?;
        Ok(figures)
    }

    fn interval(&self) -> u64 {
        let deliveries = self.events * self.connections as u64;
        deliveries / FAILURES_PER_SECOND + INTERVAL_MIN
    }

    fn setup(&self, endpoint: SocketAddr) -> Setup {
        Setup {
            endpoint,
            connections: self.connections,
            connection: match self.form {
                Form::Paused => "state = \"paused\"\n".to_owned(),
                // What is measured is the schedule: each delivery is tried, and fails.
                Form::Refusing => "breaker = { enabled = false }\n".to_owned(),
                Form::Held => "breaker = { open_for = \"5s\", open_for_max = \"5s\" }\n".to_owned(),
            } + &self.common(),
            store: "max_bytes = \"1TiB\"\n".to_owned(),
        }
    }

    fn common(&self) -> String {
        format!(
            "queue = {{ max_events = 1000000000, max_bytes = \"1TiB\" }}\n\
            retry = {{ strategy = \"linear\", interval = \"{}s\", count = 10000, max_age = \"90d\" }}\n",
            self.interval()
        )
    }

    /// Posts all, and waits until it rests.
    fn fill(&self, relay: &Relay, figures: &mut Figures) -> anyhow::Result<()> {
        let begun = now_ns();
        let plan = Plan {
            to: relay.ingress,
            path: "/v1/events",
            paths: &[],
            length_ns: u64::MAX / 2,
            rate: None,
            events: self.events,
        };
        let posted = drive(plan)?;
        ensure!(posted.accepted == self.events, "{} were accepted", posted.accepted);
        figures.note("accepted/s", self.events as f64 / ((now_ns() - begun) as f64 / 1e9));
        if self.form == Form::Refusing {
            self.wait_for_failures(relay)?;
            figures.note("failed/s", self.deliveries() as f64 / ((now_ns() - begun) as f64 / 1e9));
        }
        if self.form == Form::Held {
            let tried = relay.metric("posthaste_delivery_attempts_total")?;
            figures.note("tried", tried);
            ensure!(tried < 100.0 * self.connections as f64, "the breaker does not hold");
        }
        thread::sleep(SETTLE);
        figures.note("RSS peak, MiB", relay.memory_kib("VmHWM")? as f64 / 1024.0);
        figures.note("RSS steady, MiB", relay.memory_kib("VmRSS")? as f64 / 1024.0);
        let payload = self.events as f64 * BODY_BYTES as f64;
        figures.note("disk/payload", relay.disk_bytes()? as f64 / payload);
        Ok(())
    }

    fn deliveries(&self) -> u64 {
        self.events * self.connections as u64
    }

    /// Until each delivery failed once.
    fn wait_for_failures(&self, relay: &Relay) -> anyhow::Result<()> {
        let (mut seen, mut moved) = (0.0, now_ns());
        while seen < self.deliveries() as f64 {
            let failed = relay.metric("posthaste_delivery_attempts_total")?;
            if failed > seen {
                (seen, moved) = (failed, now_ns());
            }
            let still = now_ns() - moved;
            ensure!(still < STALLED_NS, "only {seen} attempts were made");
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// The endpoint is back: everything arrives.
    fn drain(&self, relay: &Relay, at: SocketAddr, figures: &mut Figures) -> anyhow::Result<()> {
        let sink = Sink::start_at(at).context("start the endpoint again")?;
        let begun = now_ns();
        if self.form == Form::Paused {
            let setup = Setup { connection: self.common(), ..self.setup(at) };
            relay.configure_connections(&setup)?;
            relay.reload()?;
        }
        let patience = STALLED_NS + self.interval() * 1_000_000_000;
        let (mut seen, mut moved) = (0, now_ns());
        while seen < self.deliveries() && now_ns() - moved < patience {
            thread::sleep(Duration::from_millis(2));
            let count = sink.count();
            if count > seen {
                (seen, moved) = (count, now_ns());
            }
        }
        let arrived = sink.take();
        let wanted = u32::try_from(self.connections)?;
        let came = |event: &u64| arrived.times.get(event).copied().unwrap_or(0);
        let lost = (0..self.events).filter(|event| came(event) < wanted).count();
        ensure!(lost == 0, "{lost} of {} events did not arrive everywhere", self.events);
        let twice = (0..self.events).map(|event| u64::from(came(&event) - wanted)).sum::<u64>();
        let took = (arrived.last_ns - arrived.first_ns).max(1) as f64 / 1e9;
        figures.note("until the first, s", (arrived.first_ns - begun) as f64 / 1e9);
        figures.note("drained/s", self.deliveries() as f64 / took);
        figures.note("duplicates", twice as f64);
        if self.form == Form::Paused {
            figures.note("overtaking at most", arrived.overtaking as f64);
            let kept = arrived.overtaking < OVERTAKING_MAX;
            ensure!(kept, "an event is {} places away from its own", arrived.overtaking);
        }
        thread::sleep(SETTLE);
        figures.note("RSS after the drain, MiB", relay.memory_kib("VmRSS")? as f64 / 1024.0);
        figures.note("disk after the drain, MiB", relay.disk_bytes()? as f64 / f64::from(1 << 20));
        Ok(())
    }
}

impl Figures {
    fn note(&mut self, name: &'static str, value: f64) {
        self.0.push((name, value));
    }
}

/// Bytes on the disk of all files below a directory.
pub(crate) fn disk_bytes(directory: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        // A file may go while it is looked at.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        bytes += match metadata.is_dir() {
            true => disk_bytes(&entry.path())?,
            false => metadata.blocks() * 512,
        };
    }
    Ok(bytes)
}
