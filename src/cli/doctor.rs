//! `posthaste doctor`: looks at all that a daemon stands on, and says of each thing whether it is well and what to do.
//!
//! Promises: it changes nothing and leaves nothing behind; it works with a running daemon, which it only asks for its
//! status, and without one; each look has a time, so that a disk or a name server that hangs is a finding and no hang. Of
//! the store it sees the directory, never the files' contents.

use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use serde::Serialize;

use super::output::{self, Paint, plural};
use super::{Failure, TEMPLATE, block_on, settings};
use crate::config::{self, Config, Secrets};
use crate::logging::escape;

mod disk;
mod files;
mod host;
mod listeners;
mod names;
mod running;

/// How long one look at the disk or at the certificates may take.
const LOOK_MAX: Duration = Duration::from_secs(5);

/// Look at files, disk, clock, limits, names, sockets and the daemon
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste doctor
  posthaste doctor --config ./posthaste.toml --json | jq '.checks[] | select(.verdict != \"ok\")'

Run it as the user that runs the daemon, with or without the daemon running; it changes nothing.
The exit code is 1 when a check failed; warnings leave it 0.

")]
pub(super) struct Arguments {
    /// The daemon's configuration file [default: $POSTHASTE_CONFIG, /etc/posthaste/posthaste.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// As it should be.
    Ok,
    /// It works, and may not be meant, or may not work for long.
    Warning,
    /// It does not work.
    Failed,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    /// What was found.
    detail: String,
    /// What to do, unless it is well.
    advice: Option<String>,
}

impl Check {
    fn ok(name: &'static str, detail: impl Into<String>) -> Check {
        Check { name, verdict: Verdict::Ok, detail: detail.into(), advice: None }
    }

    fn warning(name: &'static str, detail: impl Into<String>, advice: impl Into<String>) -> Check {
        let advice = Some(advice.into());
        Check { name, verdict: Verdict::Warning, detail: detail.into(), advice }
    }

    fn failed(name: &'static str, detail: impl Into<String>, advice: impl Into<String>) -> Check {
        Check { verdict: Verdict::Failed, ..Check::warning(name, detail, advice) }
    }
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    /// Nothing failed.
    ok: bool,
    checks: Vec<Check>,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let checks = examine(&arguments)?;
    let failed = checks.iter().filter(|check| check.verdict == Verdict::Failed).count();
    let report = Report { ok: failed == 0, checks };
    match arguments.json {
        true => output::json(&report)?,
        false => output::write(render(&report.checks, Paint::for_stdout()).as_bytes())?,
    }
    if report.ok {
        return Ok(());
    }
    let failed = plural(u64::try_from(failed).unwrap_or(u64::MAX), "check");
    Err(Failure::Failed(anyhow!("{failed} failed")))
}

fn examine(arguments: &Arguments) -> Result<Vec<Check>, Failure> {
    let (root, options) = settings::lookup(arguments.config.as_deref());
    // Whoever runs this need not have the daemon's environment, and so its secrets.
    let without = config::LoadOptions { secrets: Secrets::Skip, ..options.clone() };
    let loaded = config::load(&root.path, &without);
    let mut checks = vec![files::configuration(&root.path, &loaded)];
    checks.extend(files::secrets(&root.path, &options, loaded.is_ok()));
    let socket = settings::locate(arguments.config.as_deref()).admin_socket;
    let status = block_on(async { Ok(running::status(&socket).await) })?;
    let daemon = status.as_ref().ok().map(|status| &status.daemon);
    if let Ok(loaded) = &loaded {
        checks.extend(about(&loaded.config, daemon.is_some())?);
        checks.push(host::descriptors(&loaded.config, daemon.map(|daemon| daemon.pid)));
    }
    checks.push(host::clock());
    checks.push(running::daemon(&status));
    checks.extend(daemon.map(|daemon| host::unit(daemon.pid)));
    Ok(checks)
}

/// What depends on a configuration that can be read.
fn about(config: &Config, running: bool) -> Result<Vec<Check>, Failure> {
    let mut checks = disk::store(&config.daemon.store);
    let hosts = names::hosts(config);
    checks.extend(block_on(async { Ok(names::look_up(config, hosts).await) })?);
    checks.push(names::roots(config.connections.iter().any(|one| one.target.tls)));
    checks.extend(listeners::all(&config.daemon, running));
    Ok(checks)
}

/// The result of something that may hang, if it comes in time. The thread is left behind; the process ends soon.
fn in_time<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (sender, receiver) = mpsc::channel();
    // Nobody waits for it any more when it is late.
    let spawned = thread::Builder::new().spawn(move || drop(sender.send(look())));
    spawned.ok()?;
    receiver.recv_timeout(LOOK_MAX).ok()
}

fn render(checks: &[Check], paint: Paint) -> String {
    let mut text = String::new();
    for check in checks {
        let verdict = match check.verdict {
            Verdict::Ok => paint.good("ok     "),
            Verdict::Warning => paint.bad("warning"),
            Verdict::Failed => paint.bad("FAILED "),
        };
        text += &format!("{:<14} {verdict} {}\n", check.name, escape(&check.detail));
        if let Some(advice) = &check.advice {
            text += &format!("{:<14} {:<7} -> {}\n", "", "", escape(advice));
        }
    }
    let count = |verdict| checks.iter().filter(|check| check.verdict == verdict).count();
    let [ok, warnings, failed] = [Verdict::Ok, Verdict::Warning, Verdict::Failed].map(count);
    text + &format!("\n{ok} ok, {warnings} to look at, {failed} failed\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_get_a_line_for_each_and_what_to_do_below() {
        let checks = [
            Check::ok("clock", "2026"),
            Check::warning("space", "little", "free some"),
            Check::failed("store", "gone \u{1b}[2J", "make it"),
        ];
        let expected = "\
clock          ok      2026
space          warning little
                       -> free some
store          FAILED  gone \\u{1b}[2J
                       -> make it

1 ok, 1 to look at, 1 failed
";
        assert_eq!(render(&checks, Paint::plain()), expected);
    }

    #[test]
    fn programs_get_the_verdict_as_a_word() {
        let report =
            Report { ok: true, checks: vec![Check::warning("space", "little", "free some")] };
        let json = serde_json::to_value(report).unwrap();
        assert_eq!(json["checks"][0]["verdict"], "warning");
        assert_eq!(json["checks"][0]["advice"], "free some");
    }

    #[test]
    fn what_hangs_is_given_up() {
        assert_eq!(in_time(|| 7), Some(7));
        let (sender, never) = mpsc::channel::<()>();
        let begun = crate::clock::Clock::system().monotonic();
        assert_eq!(in_time(move || never.recv().is_ok()), None);
        assert!(crate::clock::Clock::system().monotonic() - begun >= LOOK_MAX);
        drop(sender);
    }
}
