//! The process as the operating system sees it: the usual `process_*` metrics, and the signals that must not kill it.
//!
//! The metrics are rendered here and not through [`crate::metrics`], because its counters are whole numbers and CPU
//! seconds are not. Nothing outside of `/proc/self` is read, so a hardened unit (`ProcSubset=pid`) hides nothing.

use std::fmt::Write as _;
use std::io;

use rustix::time::{ClockId, clock_gettime};
use tokio::signal::unix::{SignalKind, signal};

use crate::clock::{Clock, millis};

/// SIGXFSZ comes when a file grows past `RLIMIT_FSIZE`; its default kills the process, and the store wants the error
/// `EFBIG` instead. The number is the same on every Linux that Rust's standard library runs on but MIPS.
const SIGXFSZ: i32 = 25;

/// `/proc/self/stat` counts in hundredths of a second: the kernel fixes `USER_HZ` for user space.
const MS_PER_TICK: u64 = 10;

/// Takes SIGXFSZ and SIGPIPE away from their deadly defaults, for the rest of the process's life.
///
/// Rust ignores SIGPIPE before `main`; that stays. A handler that only tokio's signal driver sees replaces the default of
/// SIGXFSZ: the write then fails with `EFBIG`. Call it inside a tokio runtime with its signal driver on.
///
/// # Errors
/// When the handler cannot be registered.
pub fn survive_signals() -> io::Result<()> {
    // The handler stays when the stream is dropped: tokio never puts a default action back.
    signal(SignalKind::from_raw(SIGXFSZ)).map(drop)
}

/// Raises the soft limit of open files to the hard one: each producer, target and segment takes one or two, and the usual
/// soft limit of 1024 is a relic of `select`.
pub fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "Could not raise the limit of open files");
    }
}

/// The `process_*` metrics in the text format of Prometheus. What cannot be read is left out.
pub fn render_metrics(clock: &Clock) -> String {
    let mut text = String::new();
    let mut add = |name: &str, kind: &str, help: &str, value: Option<String>| {
        if let Some(value) = value {
            // Writing to a String cannot fail.
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n\n");
        }
    };
    let seconds = |ms: u64| format!("{}.{:03}", ms / 1000, ms % 1000);
    let count = |number: u64| number.to_string();
    add(
        "process_cpu_seconds_total",
        "counter",
        "CPU time of the process, user and system.",
        Some(seconds(cpu_ms())),
    );
    add("process_resident_memory_bytes", "gauge", "Resident memory.", resident_bytes().map(count));
    add("process_open_fds", "gauge", "Open file descriptors.", open_fds().map(count));
    add("process_max_fds", "gauge", "Limit of open file descriptors.", max_fds().map(count));
    add(
        "process_start_time_seconds",
        "gauge",
        "When the process started.",
        start_unix_ms(clock).map(seconds),
    );
    text
}

/// Bytes of memory that are in RAM now.
pub fn resident_bytes() -> Option<u64> {
    resident_of(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn cpu_ms() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    seconds.unwrap_or(0) * 1000 + nanos.unwrap_or(0) / 1_000_000
}

fn open_fds() -> Option<u64> {
    let entries = std::fs::read_dir("/proc/self/fd").ok()?;
    // One of them is the directory that is read.
    u64::try_from(entries.count()).ok()?.checked_sub(1)
}

/// The soft limit.
fn max_fds() -> Option<u64> {
    max_fds_of(&std::fs::read_to_string("/proc/self/limits").ok()?)
}

fn start_unix_ms(clock: &Clock) -> Option<u64> {
    let started = start_ticks_of(&std::fs::read_to_string("/proc/self/stat").ok()?)? * MS_PER_TICK;
    let running = millis(clock.boot()).checked_sub(started)?;
    clock.wall_ms().checked_sub(running)
}

fn resident_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// `None` also when it says `unlimited`.
fn max_fds_of(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// Field 22 of `/proc/self/stat`. Fields are counted after the last `)`, since the name in field 2 may hold anything.
fn start_ticks_of(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_five_are_there_and_plausible() {
        let text = render_metrics(&Clock::system());
        let value = |name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
            line.unwrap_or_else(|| panic!("{name} is missing in {text}")).parse().unwrap()
        };
        assert!(value("process_cpu_seconds_total") >= 0.0);
        assert!(value("process_resident_memory_bytes") > 100_000.0);
        assert!(value("process_open_fds") >= 3.0);
        assert!(value("process_max_fds") >= value("process_open_fds"));
        let age = crate::clock::Clock::system().wall_ms() as f64 / 1000.0
            - value("process_start_time_seconds");
        assert!((-1.0..86_400.0).contains(&age), "{age}");
        assert_eq!(text.matches("# TYPE ").count(), 5);
    }

    #[test]
    fn proc_files_are_parsed_and_nonsense_is_left_out() {
        assert_eq!(resident_of("Name:\tx\nVmRSS:\t    1234 kB\n"), Some(1_263_616));
        assert_eq!(resident_of("VmRSS:\tmuch"), None);
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files   1024   4096   files\n";
        assert_eq!(max_fds_of(limits), Some(1024));
        assert_eq!(max_fds_of("Max open files unlimited unlimited files"), None);
        let stat = "1 (a) b) R 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 4242 21";
        assert_eq!(start_ticks_of(stat), Some(4242));
        assert_eq!(start_ticks_of("1 (a"), None);
    }

    #[tokio::test]
    async fn deadly_signals_are_caught_or_ignored() {
        survive_signals().unwrap();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let mask = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            u64::from_str_radix(line.trim(), 16).unwrap()
        };
        let bit = |signal: i32| 1u64 << (signal - 1);
        assert_ne!(mask("SigCgt:") & bit(SIGXFSZ), 0);
        assert_ne!(mask("SigIgn:") & bit(13), 0, "SIGPIPE");
    }
}
