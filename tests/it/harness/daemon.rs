//! The built binary as a child process: started, signalled, killed, looked at. What it wrote to stderr is kept and shown
//! when a test fails; it never outlives the test.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::notify::Notify;
use super::scrape::Scrape;
use super::{Producer, SOON, Site, binary, eventually, now};

/// A running `posthaste run`.
pub(crate) struct Daemon<'a> {
    site: &'a Site,
    child: Child,
    exited: Option<ExitStatus>,
    stderr: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
    pub(crate) notify: Notify,
    /// From the start of the process to `READY=1`.
    pub(crate) ready_after: Duration,
}

impl<'a> Daemon<'a> {
    /// Starts it and waits until it says that it is ready.
    pub(crate) fn start(site: &'a Site) -> Daemon<'a> {
        Daemon::start_with(site, |_| {})
    }

    /// The same, with a changed command.
    pub(crate) fn start_with(site: &'a Site, change: impl FnOnce(&mut Command)) -> Daemon<'a> {
        let begun = now();
        let mut daemon = Daemon::spawn_with(site, change);
        eventually("READY=1", SOON, || {
            let exited = daemon.poll();
            assert!(exited.is_none(), "the daemon ended: {exited:?}");
            daemon.notify.count("READY=1") > 0
        });
        daemon.ready_after = begun.elapsed();
        daemon
    }

    /// Starts it and waits for nothing.
    pub(crate) fn spawn(site: &'a Site) -> Daemon<'a> {
        Daemon::spawn_with(site, |_| {})
    }

    /// The same, with a changed command.
    pub(crate) fn spawn_with(site: &'a Site, change: impl FnOnce(&mut Command)) -> Daemon<'a> {
        let path = site.path().join(format!("notify-{}.sock", fastrand::u32(..)));
        let notify = Notify::listen(&path);
        let mut command = Command::new(binary());
        command.arg("run").arg("--config").arg(site.config());
        command.env_remove("POSTHASTE_ENV").env("NOTIFY_SOCKET", &path);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        change(&mut command);
        let mut child = command.spawn().expect("start the binary");
        let stderr = Arc::new(Mutex::new(String::new()));
        let (from, into) = (child.stderr.take().expect("a pipe"), Arc::clone(&stderr));
        let reader = thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                let mut text = into.lock().unwrap();
                text.push_str(&line);
                text.push('\n');
            }
        });
        Daemon {
            site,
            child,
            exited: None,
            stderr,
            reader: Some(reader),
            notify,
            ready_after: Duration::ZERO,
        }
    }

    /// The process's id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("send a signal");
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait(SOON);
    }

    /// Waits for its end; the exit code, or `None` when a signal ended it.
    #[track_caller]
    pub(crate) fn wait(&mut self, limit: Duration) -> Option<i32> {
        eventually("the daemon ends", limit, || self.poll().is_some());
        if let Some(reader) = self.reader.take() {
            drop(reader.join());
        }
        self.exited.and_then(|status| status.code())
    }

    /// The exit status, if it has ended.
    pub(crate) fn poll(&mut self) -> Option<ExitStatus> {
        self.exited = self.exited.or_else(|| self.child.try_wait().expect("wait"));
        self.exited
    }

    /// SIGTERM, and waits; it has to exit with 0.
    #[track_caller]
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::TERM);
        assert_eq!(self.wait(SOON), Some(0), "the exit code after SIGTERM");
    }

    /// What it wrote to stderr so far.
    pub(crate) fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// Reads `/metrics`.
    pub(crate) fn metrics(&self) -> Scrape {
        let answer = Producer::tcp(self.site.admin).get("/metrics").expect("/metrics");
        assert_eq!(answer.status, 200, "/metrics");
        Scrape::parse(String::from_utf8(answer.message.body).expect("UTF-8"))
    }

    /// Waits until nothing waits for these connections, and checks that nothing got out of count.
    #[track_caller]
    pub(crate) fn drained(&self, connections: &[&str]) -> Scrape {
        eventually("the queues are empty", SOON, || {
            let metrics = self.metrics();
            connections.iter().all(|name| metrics.waiting(name) == 0.0)
        });
        let metrics = self.metrics();
        metrics.assert_conserved(connections);
        metrics
    }

    /// Runs a subcommand against this daemon.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Output {
        posthaste(self.site, arguments)
    }

    /// Runs a subcommand that has to succeed with JSON.
    #[track_caller]
    pub(crate) fn cli_json(&self, arguments: &[&str]) -> serde_json::Value {
        let output = self.cli(arguments);
        let [out, err] = [&output.stdout, &output.stderr].map(|s| String::from_utf8_lossy(s));
        assert!(output.status.success(), "{arguments:?}: {out}{err}");
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {out}"))
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        if self.poll().is_none() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
        if let Some(reader) = self.reader.take() {
            drop(reader.join());
        }
        if thread::panicking() {
            eprintln!("--- stderr of the daemon ---\n{}---", self.stderr());
        }
    }
}

/// Runs a subcommand with a site's configuration.
pub(crate) fn posthaste(site: &Site, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.args(arguments).arg("--config").arg(site.config());
    command.env_remove("POSTHASTE_ENV").stdin(Stdio::null());
    command.output().expect("start the binary")
}
