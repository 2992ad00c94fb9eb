//! The relay under measurement: a child process with a configuration of its own, and what `/proc` and `/metrics` say
//! about it.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::figures::now_ns;

/// Clock ticks a second in `/proc/PID/stat`: USER_HZ is 100 on every Linux that Rust runs on.
const TICK_US: u64 = 10_000;
const START_LIMIT_NS: u64 = 20_000_000_000;

/// A running daemon; killed when it is dropped.
pub(crate) struct Relay {
    child: Child,
    pub(crate) ingress: SocketAddr,
    admin: SocketAddr,
    binary: PathBuf,
    dir: TempDir,
}

/// What its configuration says.
pub(crate) struct Setup {
    pub(crate) endpoint: SocketAddr,
    pub(crate) connections: usize,
    /// Lines of each connection beside its name and URL.
    pub(crate) connection: String,
    /// Lines of `[store]` beside its path.
    pub(crate) store: String,
}

impl Relay {
    /// Starts `binary` with `connections` connections, all to `sink`, on a fresh store below `place`.
    pub(crate) fn start(
        binary: &Path,
        place: &Path,
        sink: SocketAddr,
        connections: usize,
    ) -> anyhow::Result<Relay> {
        let (connection, store) = (String::new(), String::new());
        Relay::start_with(binary, place, &Setup { endpoint: sink, connections, connection, store })
    }

    /// As [`Relay::start`], with a configuration of one's own.
    pub(crate) fn start_with(binary: &Path, place: &Path, setup: &Setup) -> anyhow::Result<Relay> {
        let dir = tempfile::Builder::new().prefix("relay-").tempdir_in(place)?;
        let probes = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
        let [ingress, admin] = [probes[0].local_addr()?, probes[1].local_addr()?];
        drop(probes);
        configure(dir.path(), ingress, admin, &setup.store)?;
        configure_connections(dir.path(), setup)?;
        let child = spawn(binary, dir.path())?;
        let mut relay = Relay { child, ingress, admin, binary: binary.to_owned(), dir };
        relay.wait_ready()?;
        Ok(relay)
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts it again, after [`Relay::kill`]; returns when it is ready.
    pub(crate) fn restart(&mut self) -> anyhow::Result<()> {
        self.child = spawn(&self.binary, self.dir.path())?;
        self.wait_ready()
    }

    /// Writes the connections' files anew.
    pub(crate) fn configure_connections(&self, setup: &Setup) -> anyhow::Result<()> {
        configure_connections(self.dir.path(), setup)
    }

    /// Writes the file of one more connection, with these lines beside its name and URL.
    pub(crate) fn add_connection(
        &self,
        name: &str,
        endpoint: SocketAddr,
        lines: &str,
    ) -> anyhow::Result<()> {
        let text = format!(
            "[[connection]]\nname = \"{name}\"\nurl = \"http://{endpoint}/{name}\"\n{lines}"
        );
        Ok(fs::write(self.dir.path().join(format!("connections.d/{name}.toml")), text)?)
    }

    /// Waits until a metric, summed over all of its labels, has this value.
    pub(crate) fn wait_for(&self, name: &str, value: f64) -> anyhow::Result<()> {
        let begun = now_ns();
        while self.metric(name)? < value {
            if now_ns() - begun > START_LIMIT_NS {
                bail!("{name} is not {value} after 20 s");
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Makes it read its configuration.
    pub(crate) fn reload(&self) -> anyhow::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), Signal::HUP)?)
    }

    /// Bytes that its store takes on the disk.
    pub(crate) fn disk_bytes(&self) -> anyhow::Result<u64> {
        super::backlog::disk_bytes(&self.dir.path().join("store"))
    }

    /// The sum of a metric over all of its labels.
    pub(crate) fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let metrics = self.get("/metrics")?;
        let values = metrics.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            rest.starts_with(['{', ' ']).then(|| rest.rsplit(' ').next())?
        });
        values.map(|value| Ok(value.parse::<f64>()?)).sum()
    }

    fn wait_ready(&mut self) -> anyhow::Result<()> {
        let begun = now_ns();
        while !self.get("/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) {
            if let Some(status) = self.child.try_wait()? {
                bail!("the relay ended: {status}");
            }
            if now_ns() - begun > START_LIMIT_NS {
                bail!("the relay is not ready after 20 s");
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn get(&self, path: &str) -> anyhow::Result<String> {
        let mut stream = TcpStream::connect(self.admin)?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// Asks the admin API for something to be done, over its Unix socket, whose owner may do all.
    pub(crate) fn post(&self, path: &str) -> anyhow::Result<()> {
        let mut stream = UnixStream::connect(self.dir.path().join("admin.sock"))?;
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.starts_with("HTTP/1.1 2"), "POST {path}: {answer}");
        Ok(())
    }

    /// CPU time so far, user and system.
    pub(crate) fn cpu_us(&self) -> anyhow::Result<u64> {
        let stat = self.proc("stat")?;
        // The command's name may hold spaces; what follows its bracket does not.
        let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat")?;
        let fields = fields.split_ascii_whitespace().skip(11).take(2);
        let ticks: Vec<u64> = fields.map(str::parse).collect::<Result<_, _>>()?;
        Ok(ticks.iter().sum::<u64>() * TICK_US)
    }

    /// A line of `/proc/PID/status` in KiB, such as `VmRSS`.
    pub(crate) fn memory_kib(&self, line: &str) -> anyhow::Result<u64> {
        let status = self.proc("status")?;
        let found = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':'));
        let number = found.and_then(|text| text.split_ascii_whitespace().next());
        Ok(number.context("/proc/PID/status")?.parse()?)
    }

    /// Bytes that the store has written, by its own count; `/proc/PID/io` would count the file system's too.
    pub(crate) fn store_bytes(&self) -> anyhow::Result<f64> {
        self.metric("posthaste_store_written_bytes_total")
    }

    fn proc(&self, file: &str) -> anyhow::Result<String> {
        Ok(fs::read_to_string(format!("/proc/{}/{file}", self.child.id()))?)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        kill_process(Pid::from_child(&self.child), Signal::KILL).ok();
        self.child.wait().ok();
    }
}

fn spawn(binary: &Path, dir: &Path) -> anyhow::Result<Child> {
    Command::new(binary)
        .arg("run")
        .arg("--config")
        .arg(dir.join("posthaste.toml"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .context("start the relay")
}

fn configure_connections(dir: &Path, setup: &Setup) -> anyhow::Result<()> {
    let Setup { endpoint, connections, connection, .. } = setup;
    for number in 0..*connections {
        let text = format!(
            "[[connection]]\nname = \"c{number}\"\nurl = \"http://{endpoint}/c{number}\"\n{connection}"
        );
        fs::write(dir.join(format!("connections.d/c{number}.toml")), text)?;
    }
    Ok(())
}

fn configure(
    dir: &Path,
    ingress: SocketAddr,
    admin: SocketAddr,
    store: &str,
) -> anyhow::Result<()> {
    fs::create_dir(dir.join("connections.d"))?;
    let path = dir.join("posthaste.toml");
    let text = format!(
        "[ingress]\nhttp = [\"{ingress}\"]\n[admin]\nhttp = \"{admin}\"\nunix = \"{0}/admin.sock\"\n\
        [store]\npath = \"{0}/store\"\n{store}[log]\nlevel = \"warn\"\n",
        dir.display()
    );
    Ok(fs::write(&path, text)?)
}
