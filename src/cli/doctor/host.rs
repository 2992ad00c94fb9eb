//! The host: its clock, how many descriptors a process may have, and what the service manager gave the daemon.

use std::fs;
use std::path::Path;

use rustix::process::{Resource, getrlimit};

use super::Check;
use crate::admin::api::rfc3339;
use crate::clock::Clock;
use crate::config::Config;

/// 2025-01-01 and 2100-01-01: this program is younger than the one, and a clock past the other is wrong.
const SANE_MS: std::ops::Range<u64> = 1_735_689_600_000..4_102_444_800_000;
/// Made by systemd-timesyncd when the clock is synchronised.
const SYNCHRONISED: &str = "/run/systemd/timesync/synchronized";
/// Where other NTP daemons have their process ids.
const NTP_DAEMONS: [&str; 3] = ["/run/chrony/chronyd.pid", "/run/chronyd.pid", "/run/ntpd.pid"];
/// Descriptors of the daemon itself: listeners, files of the store, timers.
const OWN: u64 = 128;

pub(super) fn clock() -> Check {
    let synchronised = match () {
        () if Path::new(SYNCHRONISED).exists() => "synchronised",
        () if NTP_DAEMONS.iter().any(|path| Path::new(path).exists()) => "an NTP daemon runs",
        () => "unknown whether it is synchronised, `timedatectl` may say",
    };
    judge_clock(Clock::system().wall_ms(), synchronised)
}

fn judge_clock(wall_ms: u64, synchronised: &str) -> Check {
    let detail = format!("{}, {synchronised}", rfc3339(wall_ms));
    if SANE_MS.contains(&wall_ms) {
        return Check::ok("clock", detail);
    }
    let advice = "set it: signatures and certificates are judged by it";
    Check::failed("clock", detail, advice)
}

/// The limit of open files against all connections at once. The daemon raises its limit to the hard one.
pub(super) fn descriptors(config: &Config, pid: Option<u32>) -> Check {
    let of_daemon = pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/limits")).ok());
    let pools = config.connections.iter().map(|one| u64::from(one.effective_pool())).sum();
    let producers = config.daemon.ingress.max_connections as u64;
    match of_daemon.as_deref().and_then(hard_limit) {
        Some(limit) => judge_descriptors(limit, pools, producers, "the daemon may open"),
        None => {
            let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
            judge_descriptors(limit, pools, producers, "a process started here may open")
        }
    }
}

fn judge_descriptors(limit: u64, pools: u64, producers: u64, who: &str) -> Check {
    let needed = OWN.saturating_add(pools).saturating_add(producers);
    let detail = format!(
        "{who} {limit} files; {producers} producers, {pools} pooled connections and its own take {needed}"
    );
    if limit >= needed {
        return Check::ok("limits", detail);
    }
    let advice = format!(
        "LimitNOFILE={} in the unit (or `ulimit -Hn`), or lower [ingress] max_connections and the pools",
        needed.next_power_of_two()
    );
    Check::warning("limits", detail, advice)
}

/// The hard limit of open files in `/proc/PID/limits`; `None` also when it is unlimited.
fn hard_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// What the service manager gave the daemon. Of its environment the names are looked at, and no secret's value.
pub(super) fn unit(pid: u32) -> Check {
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let environment = String::from_utf8_lossy(&environment);
    judge_unit(unit_of(&cgroup), &environment.split('\0').collect::<Vec<_>>())
}

/// The unit in `/proc/PID/cgroup`.
fn unit_of(cgroup: &str) -> Option<&str> {
    let parts = cgroup.lines().flat_map(|line| line.rsplit('/'));
    parts.into_iter().find(|part| part.ends_with(".service") && !part.starts_with("user@"))
}

fn judge_unit(unit: Option<&str>, environment: &[&str]) -> Check {
    const NAME: &str = "systemd";
    let value = |name: &str| {
        let mut pairs = environment.iter().filter_map(|entry| entry.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    };
    let Some(unit) = unit.filter(|_| value("INVOCATION_ID").is_some() || environment.len() < 2)
    else {
        return Check::ok(NAME, "the daemon runs under no unit");
    };
    if environment.len() < 2 {
        let detail = format!("{unit}; its environment is not for this user to see");
        return Check::ok(NAME, detail);
    }
    if value("NOTIFY_SOCKET").is_none() {
        let advice = "Type=notify, or systemd does not know when it is ready";
        return Check::warning(NAME, format!("{unit} has no notify socket"), advice);
    }
    let watchdog = value("WATCHDOG_USEC").and_then(|usec| usec.parse::<u64>().ok());
    let sockets = value("LISTEN_FDS").unwrap_or("0");
    match watchdog {
        Some(usec) => {
            let seconds = usec / 1_000_000;
            Check::ok(NAME, format!("{unit}: notify, watchdog {seconds} s, {sockets} sockets"))
        }
        None => {
            let advice = "WatchdogSec=30s, so that a daemon that hangs is started anew";
            Check::warning(NAME, format!("{unit} has no watchdog"), advice)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict::{Failed, Ok as Well, Warning};

    #[test]
    fn a_clock_that_never_was_set_is_found() {
        assert_eq!(judge_clock(1_795_299_578_000, "x").verdict, Well);
        for wrong in [0, SANE_MS.start - 1, SANE_MS.end] {
            assert_eq!(judge_clock(wrong, "x").verdict, Failed, "{wrong}");
        }
        assert!(!clock().detail.is_empty());
    }

    #[test]
    fn descriptors_are_counted_against_the_hard_limit() {
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files   1024   4096   files\n";
        assert_eq!(hard_limit(limits), Some(4096));
        assert_eq!(hard_limit("Max open files 1024 unlimited files"), None);
        assert_eq!(judge_descriptors(OWN + 30, 20, 10, "").verdict, Well);
        let less = judge_descriptors(OWN + 29, 20, 10, "");
        assert_eq!(less.verdict, Warning);
        assert!(less.advice.unwrap().contains("LimitNOFILE=256"));
    }

    #[test]
    fn the_unit_is_known_by_its_cgroup() {
        assert_eq!(unit_of("0::/system.slice/posthaste.service\n"), Some("posthaste.service"));
        let session = "0::/user.slice/user-0.slice/user@0.service/app.slice/x.scope\n";
        assert_eq!(unit_of(session), None);
        assert_eq!(unit_of("1:name=systemd:/a.service\n0::/\n"), Some("a.service"));
    }

    #[test]
    fn what_a_unit_lacks_is_said() {
        let check = |environment: &[&str], verdict, said: &str| {
            let found = judge_unit(Some("posthaste.service"), environment);
            assert_eq!(found.verdict, verdict, "{found:?}");
            assert!(found.detail.contains(said), "{found:?}");
        };
        let all =
            ["INVOCATION_ID=1", "NOTIFY_SOCKET=/run/n", "WATCHDOG_USEC=30000000", "LISTEN_FDS=2"];
        check(&all, Well, "watchdog 30 s, 2 sockets");
        check(&all[..2], Warning, "no watchdog");
        check(&[all[0], all[2]], Warning, "no notify socket");
        check(&["HOME=/", "TOKEN=sesame"], Well, "no unit");
        check(&[""], Well, "not for this user");
        assert_eq!(judge_unit(None, &all).verdict, Well);
    }
}
