//! System calls of the daemon, watched and broken by strace: a signal or an error at the Nth call of a kind. strace counts
//! the calls of each thread by itself, so the store's writer is broken alone, from a moment on.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{Daemon, SOON, eventually};

/// What the store asks of the disk, as `src/store/disk.rs` ends up in the kernel.
pub(crate) const DISK_CALLS: [&str; 9] = [
    "fdatasync",
    "pwrite64",
    "openat",
    "rename",
    "unlink",
    "fallocate",
    "fsync",
    "ftruncate",
    "mkdir",
];

/// How a thread of sockets and timers waits.
pub(crate) const WAITING: &str = "epoll_wait,epoll_pwait";

/// One strace and its log, which lies outside of the directories that the daemon watches.
pub(crate) struct Strace {
    directory: TempDir,
    /// With this, what happens to which calls: an `inject=` of strace.
    rule: Option<String>,
    /// Only calls about these files are seen; without any, all.
    paths: Vec<PathBuf>,
    child: Option<Child>,
}

/// Whether strace is there; where it is not, the test is left out, and says so.
pub(crate) fn available() -> bool {
    super::has_program("strace", "-V")
}

impl Strace {
    /// Watches the disk's calls, and breaks them by this rule, e.g. `fdatasync:error=EIO:when=3`.
    pub(crate) fn new(rule: Option<String>) -> Strace {
        let directory = tempfile::Builder::new().prefix("ph-strace-").tempdir();
        Strace { directory: directory.expect("a directory"), rule, paths: Vec::new(), child: None }
    }

    /// The same, for calls about these files alone.
    pub(crate) fn only(mut self, paths: &[PathBuf]) -> Strace {
        self.paths = paths.to_vec();
        self
    }

    /// The daemon's command, run under strace with all its threads from the first call on.
    pub(crate) fn wrap(&self, command: &mut Command) {
        let mut wrapped = self.command();
        wrapped.args(["-f", "-D", "--"]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(name, value),
                None => wrapped.env_remove(name),
            };
        }
        wrapped.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        *command = wrapped;
    }

    /// Watches the store's writer of a running daemon from now on. Returns when it does, or when the daemon is gone.
    pub(crate) fn attach(&mut self, daemon: &Daemon<'_>) {
        self.attach_to(daemon, "store-writer");
    }

    /// The same, for another of its threads.
    pub(crate) fn attach_to(&mut self, daemon: &Daemon<'_>, name: &str) {
        let tasks = PathBuf::from(format!("/proc/{}/task", daemon.id()));
        let threads = fs::read_dir(tasks).expect("the daemon's threads");
        let mut threads = threads.map(|thread| thread.expect("a thread").path());
        let is_it = |path: &PathBuf| {
            fs::read_to_string(path.join("comm")).is_ok_and(|found| found.trim() == name)
        };
        let writer = threads.find(is_it).expect("the thread");
        let thread = writer.file_name().expect("a name").to_owned();
        let mut command = self.command();
        command.arg("-p").arg(thread).stdin(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().expect("start strace"));
        eventually("strace is attached", SOON, || {
            fs::read_to_string(writer.join("status"))
                .map_or(true, |status| !status.contains("TracerPid:\t0\n"))
        });
    }

    /// Lets go: the calls are as they were.
    pub(crate) fn detach(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended with the thread that it watched.
            let _ = kill_process(Pid::from_child(&child), Signal::TERM);
            child.wait().expect("strace ends");
        }
    }

    /// The calls so far, one a line, files shown by their paths.
    pub(crate) fn log(&self) -> String {
        let text = fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// How often each of the disk's calls was made.
    pub(crate) fn counts(&self) -> Vec<(&'static str, usize)> {
        let log = self.log();
        let of = |call: &&'static str| {
            let made = log.lines().filter(|line| is_call(line, call)).count();
            (*call, made)
        };
        DISK_CALLS.iter().map(of).filter(|(_, made)| *made > 0).collect()
    }

    fn command(&self) -> Command {
        let mut command = Command::new("strace");
        command.args(["-q", "-y", "-s", "0", "-o"]).arg(self.log_path());
        command.arg("-e").arg(format!("trace={},{WAITING}", DISK_CALLS.join(",")));
        if let Some(rule) = &self.rule {
            command.arg("-e").arg(format!("inject={rule}"));
        }
        for path in &self.paths {
            command.arg("-P").arg(path);
        }
        command
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("log")
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        self.detach();
    }
}

/// Whether a line of the log begins a call of that name; with a thread's number before it, or without.
fn is_call(line: &str, call: &str) -> bool {
    let line = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
    line.strip_prefix(call).is_some_and(|rest| rest.starts_with('('))
}

/// Calls that synced or wrote to a file although a sync of it, or a write to it, had failed.
pub(crate) fn believed_after_a_failure(log: &str) -> Vec<String> {
    let mut failed: Vec<&str> = Vec::new();
    let mut believed = Vec::new();
    for line in log.lines() {
        let Some(path) = path(line) else { continue };
        if !is_call(line, "fdatasync") && !is_call(line, "pwrite64") {
            // Made anew, removed, renamed: another file has the name from now on.
            if !line.contains("= -1 ") {
                failed.retain(|name| *name != path);
            }
        } else if failed.contains(&path) {
            believed.push(line.to_owned());
        } else if line.contains("= -1 ") && !line.contains("EINTR") {
            failed.push(path);
        }
    }
    believed
}

/// The file that a call is about: of `fdatasync(7</a/b>)` or `openat(AT_FDCWD</x>, "/a/b", ...)`.
pub(crate) fn path(line: &str) -> Option<&str> {
    let (_, arguments) = line.split_once('(')?;
    if arguments.starts_with(|c: char| c.is_ascii_digit()) {
        arguments.split_once('<')?.1.split_once('>').map(|(path, _)| path)
    } else {
        arguments.split_once('"')?.1.split_once('"').map(|(path, _)| path)
    }
}

#[test]
fn a_sync_that_is_repeated_is_seen() {
    let failed = "fdatasync(7</s/ev-1.seg>) = -1 EIO (Input/output error) (INJECTED)\n";
    let again = "fdatasync(7</s/ev-1.seg>)     = 0\n";
    let other = "fdatasync(8</s/ev-2.seg>)     = 0\n";
    let gone = "unlink(\"/s/ev-1.seg\") = 0\n";
    assert_eq!(believed_after_a_failure(&[again, failed, other].concat()).len(), 0);
    assert_eq!(believed_after_a_failure(&[failed, gone, again].concat()).len(), 0);
    assert_eq!(believed_after_a_failure(&[failed, other, again].concat()).len(), 1);
    let write = "pwrite64(7</s/ev-1.seg>, \"\"..., 80, 64) = 80\n";
    assert_eq!(believed_after_a_failure(&[failed, write].concat()).len(), 1);
    let full = "pwrite64(7</s/ev-1.seg>, \"\"..., 80, 64) = -1 ENOSPC (x) (INJECTED)\n";
    assert_eq!(believed_after_a_failure(&[full, write, again].concat()).len(), 2);
    let anew = "openat(AT_FDCWD</w>, \"/s/ev-1.seg\", O_RDWR|O_CREAT|O_EXCL) = 7</s/ev-1.seg>\n";
    assert_eq!(believed_after_a_failure(&[full, anew, write].concat()).len(), 0);
}
