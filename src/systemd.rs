//! What the daemon tells systemd: one datagram per message, to the socket named by `NOTIFY_SOCKET`.
//!
//! Promises: without that variable everything here does nothing; a message that cannot be sent is dropped, because a
//! service manager that is gone must not stop deliveries. `RELOADING=1` and `MONOTONIC_USEC` travel in one datagram: in
//! two, `systemctl reload` of a `Type=notify-reload` unit hangs.
//!
//! It does not decide when to say what: the daemon does. Forty lines of std instead of a crate.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::clock::Clock;

/// The line to the service manager, or to nobody.
#[derive(Debug, Default)]
pub struct Notifier {
    manager: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

/// What was found in the environment. A value of its own, so that tests need no environment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Environment<'a> {
    /// `NOTIFY_SOCKET`: a path, or `@name` for an abstract socket.
    pub notify_socket: Option<&'a OsStr>,
    /// `WATCHDOG_USEC`: how long the service manager waits for a sign of life.
    pub watchdog_usec: Option<&'a str>,
    /// `WATCHDOG_PID`: whom it waits for; anyone when unset.
    pub watchdog_pid: Option<&'a str>,
}

impl Notifier {
    /// The service manager that started this process, if one did and wants to hear.
    ///
    /// # Errors
    /// When `NOTIFY_SOCKET` is not an address that this machine's sockets know; the daemon warns and goes on with
    /// [`Notifier::default`], which tells nobody.
    pub fn from_env() -> io::Result<Notifier> {
        let text = |name| std::env::var(name).ok();
        let (socket, usec, pid) =
            (std::env::var_os("NOTIFY_SOCKET"), text("WATCHDOG_USEC"), text("WATCHDOG_PID"));
        Notifier::new(Environment {
            notify_socket: socket.as_deref(),
            watchdog_usec: usec.as_deref(),
            watchdog_pid: pid.as_deref(),
        })
    }

    /// The service manager that `environment` names.
    ///
    /// # Errors
    /// See [`Notifier::from_env`].
    pub fn new(environment: Environment<'_>) -> io::Result<Notifier> {
        let Some(name) = environment.notify_socket.filter(|name| !name.is_empty()) else {
            return Ok(Notifier::default());
        };
        let address = address(name)?;
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Notifier {
            manager: Some((socket, address)),
            watchdog: watchdog_interval(environment, std::process::id()),
        })
    }

    /// How often [`Notifier::watchdog`] is due: half of what the service manager waits. `None`: never.
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog
    }

    /// The store is recovered and the listeners are bound; also the end of a reload, taken or refused.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}", one_line(status)));
    }

    /// A reload begins. Every call is followed by [`Notifier::ready`].
    pub fn reloading(&self, clock: &Clock) {
        let usec = clock.monotonic().as_micros();
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={usec}"));
    }

    /// The drain begins.
    pub fn stopping(&self, status: &str) {
        self.send(&format!("STOPPING=1\nSTATUS={}", one_line(status)));
    }

    /// The line that `systemctl status` shows.
    pub fn status(&self, status: &str) {
        self.send(&format!("STATUS={}", one_line(status)));
    }

    /// A sign of life.
    pub fn watchdog(&self) {
        self.send("WATCHDOG=1");
    }

    /// Start, reload or stop goes on and takes up to `more` from now.
    pub fn extend_timeout(&self, more: Duration) {
        self.send(&format!("EXTEND_TIMEOUT_USEC={}", more.as_micros()));
    }

    fn send(&self, message: &str) {
        if let Some((socket, address)) = &self.manager
            && let Err(error) = socket.send_to_addr(message.as_bytes(), address)
        {
            tracing::debug!(%error, "Could not notify the service manager");
        }
    }
}

fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "NOTIFY_SOCKET is neither an absolute path nor @name",
        )),
    }
}

fn watchdog_interval(environment: Environment<'_>, own_pid: u32) -> Option<Duration> {
    let meant = match environment.watchdog_pid {
        Some(pid) => pid.parse() == Ok(own_pid),
        None => true,
    };
    let usec: u64 = environment.watchdog_usec?.parse().ok()?;
    (meant && usec > 0).then(|| Duration::from_micros(usec) / 2)
}

/// A status is one line: a line break in it would start another message.
fn one_line(status: &str) -> String {
    status.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager(name: &OsStr, bound: &SocketAddr) -> (Notifier, UnixDatagram) {
        let socket = UnixDatagram::bind_addr(bound).unwrap();
        socket.set_nonblocking(true).unwrap();
        let environment = Environment {
            notify_socket: Some(name),
            watchdog_usec: Some("30000000"),
            watchdog_pid: None,
        };
        (Notifier::new(environment).unwrap(), socket)
    }

    fn datagrams(socket: &UnixDatagram) -> Vec<String> {
        let mut buffer = [0; 1024];
        std::iter::from_fn(|| socket.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec()))
            .map(|bytes| String::from_utf8(bytes).unwrap())
            .collect()
    }

    #[test]
    fn each_message_is_one_datagram() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let bound = SocketAddr::from_pathname(&path).unwrap();
        let (notifier, socket) = manager(path.as_os_str(), &bound);
        let clock = Clock::manual(0);
        notifier.ready("42 connections\nREADY=0");
        notifier.reloading(&clock);
        notifier.extend_timeout(Duration::from_secs(5));
        notifier.watchdog();
        notifier.stopping("draining");
        assert_eq!(
            datagrams(&socket),
            [
                "READY=1\nSTATUS=42 connections READY=0",
                "RELOADING=1\nMONOTONIC_USEC=1000000000",
                "EXTEND_TIMEOUT_USEC=5000000",
                "WATCHDOG=1",
                "STOPPING=1\nSTATUS=draining",
            ]
        );
        assert_eq!(notifier.watchdog_interval(), Some(Duration::from_secs(15)));
    }

    #[test]
    fn abstract_sockets_work_and_a_dead_manager_is_no_error() {
        let name = format!("posthaste-test-{}", std::process::id());
        let bound = SocketAddr::from_abstract_name(&name).unwrap();
        let (notifier, socket) = manager(OsStr::new(&format!("@{name}")), &bound);
        notifier.status("1 pending");
        assert_eq!(datagrams(&socket), ["STATUS=1 pending"]);
        drop(socket);
        notifier.status("nobody listens");
    }

    #[test]
    fn without_a_socket_nothing_is_said_and_a_strange_one_is_an_error() {
        assert!(Notifier::new(Environment::default()).unwrap().manager.is_none());
        for strange in ["relative/path", "vsock:2:1234"] {
            let environment =
                Environment { notify_socket: Some(OsStr::new(strange)), ..Environment::default() };
            assert!(Notifier::new(environment).is_err(), "{strange}");
        }
    }

    #[test]
    fn the_watchdog_is_for_whom_it_names() {
        let check = |usec, pid, expected: Option<u64>| {
            let environment =
                Environment { notify_socket: None, watchdog_usec: usec, watchdog_pid: pid };
            assert_eq!(
                watchdog_interval(environment, 7),
                expected.map(Duration::from_secs),
                "{usec:?} {pid:?}"
            );
        };
        check(Some("4000000"), None, Some(2));
        check(Some("4000000"), Some("7"), Some(2));
        check(Some("4000000"), Some("8"), None);
        check(Some("4000000"), Some("x"), None);
        check(Some("0"), None, None);
        check(Some("soon"), None, None);
        check(None, Some("7"), None);
    }
}
