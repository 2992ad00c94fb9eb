//! Socket activation: the service manager holds the listening sockets, here the test does.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};

use crate::harness::{
    Behaviour, Daemon, Ledger, Oracle, Producer, Receiver, SOON, Site, eventually, long, now,
};

/// Events per second and client, and clients.
const PACE: Duration = Duration::from_millis(8);
const CLIENTS: usize = 8;

/// Hands sockets to a daemon as systemd does: from descriptor 3 on, with their names.
fn hand_over(command: &mut Command, sockets: Vec<(&str, OwnedFd)>) {
    let names: Vec<_> = sockets.iter().map(|(name, _)| *name).collect();
    command.env("LISTEN_FDS", sockets.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
    let numbered = (3..).zip(sockets);
    let mappings = numbered.map(|(child_fd, (_, parent_fd))| FdMapping { parent_fd, child_fd });
    command.fd_mappings(mappings.collect()).expect("descriptors of their own");
}

struct Sockets {
    tcp: TcpListener,
    unix: UnixListener,
    admin: TcpListener,
}

impl Sockets {
    fn open(site: &Site) -> Sockets {
        Sockets {
            tcp: TcpListener::bind(site.ingress).unwrap(),
            unix: UnixListener::bind(site.path().join("handed.sock")).unwrap(),
            admin: TcpListener::bind(site.admin).unwrap(),
        }
    }

    fn hand_over(&self, command: &mut Command) {
        let sockets = vec![
            // Whose this one is, its address says.
            ("posthaste.socket", self.tcp.try_clone().unwrap().into()),
            ("ingress", self.unix.try_clone().unwrap().into()),
            ("admin", self.admin.try_clone().unwrap().into()),
        ];
        hand_over(command, sockets);
    }
}

#[derive(Default)]
struct Counts {
    refused: AtomicU64,
    posts: AtomicU64,
    /// Connections that ended without an answer: their events are unknown.
    cut: AtomicU64,
    stopping: AtomicU64,
}

/// Posts at a fixed pace until told to stop.
fn load(site: &Site, socket: usize, ledger: &Ledger, counts: &Counts, stop: &AtomicBool) {
    let mut producer = match socket % 2 {
        0 => site.producer(),
        _ => Producer::unix(&site.path().join("handed.sock")),
    };
    let begun = now();
    let mut number = 0_u32;
    while !stop.load(Relaxed) {
        let body = format!("{socket}-{number}");
        counts.posts.fetch_add(1, Relaxed);
        match producer.event(ledger, body.as_bytes()) {
            Ok(answer) if answer.status == 503 => drop(counts.stopping.fetch_add(1, Relaxed)),
            Ok(answer) => assert_eq!(answer.status, 202, "{answer:?}"),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                counts.refused.fetch_add(1, Relaxed);
            }
            Err(_) => drop(counts.cut.fetch_add(1, Relaxed)),
        }
        number += 1;
        thread::sleep((begun + PACE * number).saturating_duration_since(now()));
    }
}

/// Issue 6: a restart under load refuses no connection and loses nothing that was acknowledged.
#[test]
fn a_restart_with_inherited_sockets_refuses_nothing() {
    let receiver = Receiver::start(Behaviour::ok());
    let site = Site::new();
    site.connection("crm", &receiver.url("crm"), "");
    let sockets = Sockets::open(&site);
    let (ledger, counts, stop) = (Ledger::default(), Counts::default(), AtomicBool::new(false));
    let restarts = if long() { 20 } else { 3 };
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (site, ledger, counts, stop) = (&site, &ledger, &counts, &stop);
            scope.spawn(move || load(site, client, ledger, counts, stop));
        }
        for _ in 0..restarts {
            let before = ledger.len();
            let mut daemon = Daemon::start_with(&site, |command| sockets.hand_over(command));
            eventually("it takes events", SOON, || ledger.len() >= before + 500);
            daemon.stop();
        }
        stop.store(true, Relaxed);
        // Clients that wait in the kernel's queue are answered by the last one.
        let mut daemon = Daemon::start_with(&site, |command| sockets.hand_over(command));
        eventually("all of it arrives", SOON, || receiver.delivered("crm") >= ledger.len());
        daemon.stop();
    });
    println!(
        "{restarts} restarts: {} posts, {} acknowledged, {} told that it stops, {} cut off, {} refused",
        counts.posts.load(Relaxed),
        ledger.len(),
        counts.stopping.load(Relaxed),
        counts.cut.load(Relaxed),
        counts.refused.load(Relaxed),
    );
    assert_eq!(counts.refused.load(Relaxed), 0);
    let oracle = Oracle { ledger: &ledger, connections: &["crm"], dead: &BTreeSet::new() };
    oracle.judge(&receiver.arrivals()).assert_clean();
}

/// The sockets' files and addresses are the service manager's: they are still there when the daemon is gone.
#[test]
fn inherited_sockets_outlive_the_daemon_and_serve_their_part() {
    let site = Site::new();
    let sockets = Sockets::open(&site);
    let mut daemon = Daemon::start_with(&site, |command| sockets.hand_over(command));
    assert!(daemon.metrics().get("posthaste_config_generation", &[]).is_some(), "the admin socket");
    let unix = site.path().join("handed.sock");
    let answer = Producer::unix(&unix).post("/v1/events", &[], b"x").unwrap();
    assert_eq!((answer.status, answer.code()), (404, "no_connection"));
    assert!(!site.unix().exists(), "the configured socket is not made beside the inherited one");
    assert!(!daemon.stderr().contains("nothing here listens on"), "{}", daemon.stderr());
    daemon.stop();
    assert!(unix.exists());
}

/// A unit that hands over something else says so instead of listening nowhere.
#[test]
fn what_is_no_socket_is_refused_and_what_nobody_wants_is_named() {
    let site = Site::new();
    let file = std::fs::File::open("/dev/null").unwrap();
    let mut daemon = Daemon::spawn_with(&site, |command| {
        hand_over(command, vec![("ingress", file.into())]);
    });
    assert_eq!(daemon.wait(SOON), Some(1));
    assert!(daemon.stderr().contains("not a socket"), "{}", daemon.stderr());
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut daemon = Daemon::start_with(&site, |command| {
        hand_over(command, vec![("other", other.try_clone().unwrap().into())]);
    });
    assert!(daemon.stderr().contains("nothing here listens on"), "{}", daemon.stderr());
    assert_eq!(site.producer().post("/v1/events", &[], b"x").unwrap().status, 404, "its own");
    daemon.stop();
}
