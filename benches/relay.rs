//! The whole relay, measured from outside as ../shared/performance.md says: CPU per event at saturation, delivered per
//! second as a ratio to the same load aimed straight at the receiver, latency in an open loop at 2,000 events a second,
//! memory, and bytes written per byte of payload; with one connection and with eight.
//!
//! `cargo bench --bench relay` prints one table. `-- --quick` takes about two seconds a case. `-- --bin PATH` measures
//! another build, `-- --connections 8` and `-- --only saturated` (or `open-loop`) a part of the table, for a profiler.
//! `-- --only backlog --events 1000000` measures a backlog instead (see `support/backlog.rs`), in both forms or in one
//! (`backlog-paused`, `backlog-refusing`, `backlog-held`).
//! `-- --only isolation` runs a hundred connections with and without five bad ones, `-- --only outage` an endpoint that is
//! down for 20 s at 1,000 events a second, `-- --only replay` the replay of 100,000 dead letters (or `--events N`) beside live
//! traffic.
//! It fails when something was lost or nothing went through, never because of a time.
#![expect(clippy::print_stdout, reason = "a table on stdout is what it is for")]

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail, ensure};

#[path = "support/backlog.rs"]
mod backlog;
#[path = "support/figures.rs"]
mod figures;
#[path = "support/isolation.rs"]
mod isolation;
#[path = "support/load.rs"]
mod load;
#[path = "support/outage.rs"]
mod outage;
#[path = "support/relay.rs"]
mod relay;
#[path = "support/replay.rs"]
mod replay;
#[path = "support/sink.rs"]
mod sink;
#[path = "support/wire.rs"]
mod wire;

use backlog::{Backlog, Form};
use figures::{fdatasync_ms, now_ns, quantile};
use load::{Plan, Posted, drive};
use outage::Outage;
use relay::Relay;
use sink::{Arrived, Sink};
use wire::BODY_BYTES;

/// Where the open loop is measured.
const OPEN_LOOP_RATE: u64 = 2_000;
const OPEN_LOOP_NAME: &str = "at 2,000/s";
/// A drain that stands still for so long has lost something.
const STALLED_NS: u64 = 10_000_000_000;
/// The load before the measured one, that opens pools and warms caches.
const WARM_UP_NS: u64 = 500_000_000;

struct Options {
    binary: PathBuf,
    length_ns: u64,
    rounds: usize,
    connections: Vec<usize>,
    only: Option<Part>,
    /// Of a backlog or a replay, if it is said.
    events: Option<u64>,
    full: bool,
}

/// A part of what is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Saturated,
    OpenLoop,
    Backlog(Option<Form>),
    Isolation,
    Outage,
    Replay,
}

impl Part {
    fn named(name: &str) -> anyhow::Result<Part> {
        Ok(match name {
            "saturated" => Part::Saturated,
            "open-loop" => Part::OpenLoop,
            "backlog" => Part::Backlog(None),
            "backlog-paused" => Part::Backlog(Some(Form::Paused)),
            "backlog-refusing" => Part::Backlog(Some(Form::Refusing)),
            "backlog-held" => Part::Backlog(Some(Form::Held)),
            "isolation" => Part::Isolation,
            "outage" => Part::Outage,
            "replay" => Part::Replay,
            other => bail!("--only does not know {other}"),
        })
    }
}

/// One column of the table, from the medians of the rounds.
#[derive(Default)]
struct Column {
    cpu_us: Vec<f64>,
    delivered: Vec<f64>,
    ratio: Vec<f64>,
    p50_ms: Vec<f64>,
    p99_ms: Vec<f64>,
    p999_ms: Vec<f64>,
    open_cpu_us: Vec<f64>,
    idle_mib: Vec<f64>,
    peak_mib: Vec<f64>,
    amplification: Vec<f64>,
    refused: Vec<f64>,
}

fn main() -> anyhow::Result<()> {
    let options = options()?;
    let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(place)?;
    match options.only {
        Some(Part::Backlog(form)) => return backlogs(&options, place, form),
        Some(Part::Isolation) => return isolated(&options, place),
        Some(Part::Outage) => return outages(&options, place),
        Some(Part::Replay) => return replays(&options, place),
        _ => {}
    }
    let sink = Sink::start().context("start the receiver")?;
    let (sync_p50, sync_p99) = fdatasync_ms(place, 200)?;
    let mut columns: Vec<_> =
        options.connections.iter().map(|count| (*count, Column::default())).collect();
    let mut direct = Vec::new();
    for _ in 0..options.rounds {
        for (connections, column) in &mut columns {
            let straight = straight(&sink, &options)?;
            direct.push(straight);
            if options.measures(Part::Saturated) {
                saturate(&sink, &options, place, (*connections, straight), column)?;
            }
            if options.measures(Part::OpenLoop) {
                open_loop(&sink, &options, place, *connections, column)?;
            }
        }
    }
    println!(
        "{BODY_BYTES} B events, 64 clients, {} round(s) of {:.0} s; direct {:.0}/s; fdatasync of 4 KiB p50 {sync_p50:.2} p99 {sync_p99:.2} ms",
        options.rounds,
        options.length_ns as f64 / 1e9,
        median(&direct),
    );
    print_table(&columns);
    Ok(())
}

fn options() -> anyhow::Result<Options> {
    let mut binary = PathBuf::from(env!("CARGO_BIN_EXE_posthaste"));
    let (mut bench, mut quick) = (false, false);
    let (mut connections, mut only, mut events) = (None, None, None);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            // `cargo bench` says so; `cargo test --benches` does not, and gets the quick run.
            "--bench" => bench = true,
            "--quick" => quick = true,
            "--bin" => binary = words.next().context("--bin takes a path")?.into(),
            "--connections" => {
                let count = words.next().context("--connections takes a number")?;
                connections = Some(vec![count.parse().context("--connections takes a number")?]);
            }
            "--events" => {
                let count = words.next().context("--events takes a number")?;
                events = Some(count.parse().context("--events takes a number")?);
            }
            "--only" => only = Some(Part::named(&words.next().context("--only what?")?)?),
            other => bail!(
                "unknown argument {other}; known are --quick, --bin PATH, --connections N, --events N, \
                --only saturated|open-loop|backlog|backlog-paused|backlog-refusing|backlog-held|isolation|outage|replay"
            ),
        }
    }
    let full = bench && !quick;
    let (length_ns, rounds) = if full { (8_000_000_000, 3) } else { (2_000_000_000, 1) };
    let few = matches!(only, Some(Part::Backlog(_))) && !full;
    let connections = connections.unwrap_or_else(|| if few { vec![1] } else { vec![1, 8] });
    Ok(Options { binary, length_ns, rounds, connections, only, events, full })
}

impl Options {
    fn measures(&self, part: Part) -> bool {
        self.only.is_none_or(|only| only == part)
    }
}

/// Each form of the backlog for each number of connections, line by line.
fn backlogs(options: &Options, place: &Path, only: Option<Form>) -> anyhow::Result<()> {
    let events = options.events.unwrap_or(if options.full { 1_000_000 } else { 20_000 });
    for form in [Form::Paused, Form::Refusing, Form::Held] {
        if only.is_some_and(|only| only != form) {
            continue;
        }
        for connections in &options.connections {
            let (binary, connections) = (&options.binary, *connections);
            println!(
                "backlog {form:?}: {events} events of {BODY_BYTES} B, {connections} connection(s)"
            );
            let figures = Backlog { binary, place, form, events, connections }.run()?;
            for (name, value) in figures.0 {
                println!("  {name:<28}{value:>14.2}");
            }
        }
    }
    Ok(())
}

/// Five pairs of runs, each with its figures, and what they come to.
fn isolated(options: &Options, place: &Path) -> anyhow::Result<()> {
    let (pairs, length_ns) = if options.full { (5, 8_000_000_000) } else { (1, 2_000_000_000) };
    println!(
        "isolation: 95 healthy connections, without and with 5 bad ones; delivered/offered, p50 and p99 ms"
    );
    let (mut shares, mut ratios) = (Vec::new(), Vec::new());
    for (without, with) in isolation::pairs(&options.binary, place, pairs, length_ns)? {
        println!(
            "  {:>6.3} {:>8.2} {:>8.2}   {:>6.3} {:>8.2} {:>8.2}",
            without.share, without.p50_ms, without.p99_ms, with.share, with.p50_ms, with.p99_ms
        );
        shares.push(with.share);
        ratios.push(with.p99_ms / without.p99_ms);
    }
    println!(
        "  medians: delivered/offered {:.3} (0.95 is promised), p99 with/without {:.2} (2 is promised)",
        median(&shares),
        median(&ratios)
    );
    Ok(())
}

fn outages(options: &Options, place: &Path) -> anyhow::Result<()> {
    let outage = if options.full { Outage::FULL } else { Outage::QUICK };
    println!("outage of {:?} at 1,000 events a second", outage.down);
    for (name, value) in outage.run(&options.binary, place)? {
        println!("  {name:<28}{value:>14.2}");
    }
    Ok(())
}

/// Pairs of runs, each with its figures, and what they come to.
fn replays(options: &Options, place: &Path) -> anyhow::Result<()> {
    let (pairs, length_ns) = if options.full { (5, 8_000_000_000) } else { (1, 1_000_000_000) };
    let events = options.events.unwrap_or(if options.full { 100_000 } else { 5_000 });
    println!(
        "replay of {events} dead letters beside 1,000 live events a second; live p99 ms without and with it, live events that \
        the second is of, replayed/s"
    );
    let (mut without, mut with, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..pairs {
        let pair = replay::pair(&options.binary, place, events, length_ns)?;
        let ratio = pair.with_p99_ms / pair.without_p99_ms;
        println!(
            "  {:>8.2} {:>8.2} {:>8} {:>10.0}",
            pair.without_p99_ms, pair.with_p99_ms, pair.beside, pair.replayed
        );
        without.push(pair.without_p99_ms);
        with.push(pair.with_p99_ms);
        ratios.push(ratio);
    }
    println!(
        "  medians: live p99 without {:.2} ms, with {:.2} ms, with/without {:.2}",
        median(&without),
        median(&with),
        median(&ratios)
    );
    Ok(())
}

/// Requests a second of the load aimed straight at the receiver.
fn straight(sink: &Sink, options: &Options) -> anyhow::Result<f64> {
    let posted = drive(Plan {
        to: sink.address,
        path: "/direct",
        paths: &[],
        length_ns: options.length_ns / 2,
        rate: None,
        events: u64::MAX,
    })?;
    let arrived = sink.take();
    Ok(rate(&posted, &arrived))
}

fn saturate(
    sink: &Sink,
    options: &Options,
    place: &Path,
    (connections, straight): (usize, f64),
    column: &mut Column,
) -> anyhow::Result<()> {
    let relay = Relay::start(&options.binary, place, sink.address, connections)?;
    column.idle_mib.push(relay.memory_kib("VmRSS")? as f64 / 1024.0);
    let plan = plan(&relay, WARM_UP_NS, None);
    run(sink, plan, connections)?;
    let (cpu, written) = (relay.cpu_us()?, relay.store_bytes()?);
    let plan = Plan { length_ns: options.length_ns, ..plan };
    let (posted, arrived) = run(sink, plan, connections)?;
    let events = posted.accepted as f64;
    column.cpu_us.push((relay.cpu_us()? - cpu) as f64 / events);
    let payload = events * BODY_BYTES as f64;
    column.amplification.push((relay.store_bytes()? - written) / payload);
    column.peak_mib.push(relay.memory_kib("VmHWM")? as f64 / 1024.0);
    let delivered = rate(&posted, &arrived);
    column.delivered.push(delivered);
    column.ratio.push(delivered / straight);
    column.refused.push(posted.refused as f64);
    Ok(())
}

fn open_loop(
    sink: &Sink,
    options: &Options,
    place: &Path,
    connections: usize,
    column: &mut Column,
) -> anyhow::Result<()> {
    let relay = Relay::start(&options.binary, place, sink.address, connections)?;
    let plan = plan(&relay, WARM_UP_NS, Some(OPEN_LOOP_RATE));
    run(sink, plan, connections)?;
    let cpu = relay.cpu_us()?;
    let plan = Plan { length_ns: options.length_ns, ..plan };
    let (posted, mut arrived) = run(sink, plan, connections)?;
    column.open_cpu_us.push((relay.cpu_us()? - cpu) as f64 / posted.accepted as f64);
    arrived.late_ns.sort_unstable();
    let ms = |share| quantile(&arrived.late_ns, share) as f64 / 1e6;
    column.p50_ms.push(ms(0.5));
    column.p99_ms.push(ms(0.99));
    column.p999_ms.push(ms(0.999));
    Ok(())
}

fn plan(relay: &Relay, length_ns: u64, rate: Option<u64>) -> Plan<'static> {
    Plan { to: relay.ingress, path: "/v1/events", paths: &[], length_ns, rate, events: u64::MAX }
}

/// Posts as planned, waits until all of it arrived, and fails if something did not.
fn run(sink: &Sink, plan: Plan<'_>, connections: usize) -> anyhow::Result<(Posted, Arrived)> {
    sink.take();
    let posted = drive(plan)?;
    ensure!(posted.accepted > 0, "nothing was accepted");
    let goal = posted.accepted * connections as u64;
    let (mut seen, mut moved) = (0, now_ns());
    while seen < goal && now_ns() - moved < STALLED_NS {
        thread::sleep(Duration::from_millis(2));
        let count = sink.count();
        if count > seen {
            (seen, moved) = (count, now_ns());
        }
    }
    let arrived = sink.take();
    let lost = (0..posted.accepted)
        .filter(|event| {
            u64::from(arrived.times.get(event).copied().unwrap_or(0)) < goal / posted.accepted
        })
        .count();
    ensure!(lost == 0, "{lost} of {} events did not arrive everywhere", posted.accepted);
    ensure!(arrived.strange == 0, "{} requests were none of ours", arrived.strange);
    Ok((posted, arrived))
}

/// Arrivals a second, from the first post to the last arrival.
fn rate(posted: &Posted, arrived: &Arrived) -> f64 {
    let took = arrived.last_ns.saturating_sub(posted.began_ns).max(1);
    arrived.late_ns.len() as f64 / (took as f64 / 1e9)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn print_table(columns: &[(usize, Column)]) {
    print!("{:<34}", "");
    for (connections, _) in columns {
        print!("{connections:>10} conn");
    }
    println!();
    type Row = (&'static str, &'static str, fn(&Column) -> &Vec<f64>);
    let rows: [Row; 11] = [
        ("CPU us/event", "saturated", |column| &column.cpu_us),
        ("CPU us/event", OPEN_LOOP_NAME, |column| &column.open_cpu_us),
        ("deliveries/s", "saturated", |column| &column.delivered),
        ("delivered/direct", "saturated", |column| &column.ratio),
        ("latency p50 ms", OPEN_LOOP_NAME, |column| &column.p50_ms),
        ("latency p99 ms", OPEN_LOOP_NAME, |column| &column.p99_ms),
        ("latency p99.9 ms", OPEN_LOOP_NAME, |column| &column.p999_ms),
        ("RSS MiB", "idle", |column| &column.idle_mib),
        ("RSS MiB", "peak", |column| &column.peak_mib),
        ("bytes written/payload", "saturated", |column| &column.amplification),
        ("refused posts", "saturated", |column| &column.refused),
    ];
    for (name, when, values) in rows {
        print!("{name:<22}{when:<12}");
        for (_, column) in columns {
            print!("{:>15.2}", median(values(column)));
        }
        println!();
    }
}
