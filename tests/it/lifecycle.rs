//! Start, stop, and everything that has to refuse to start.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::daemon::posthaste;
use crate::harness::strace::{self, Strace};
use crate::harness::{
    Behaviour, Daemon, Ledger, Producer, Receiver, SOON, Site, eventually, newest_segment, now,
};

/// Promise 12 of spec 2: SIGTERM answers every open request, lets attempts end, and exits with 0.
#[test]
fn sigterm_answers_every_open_request_and_exits_zero() {
    let receiver = Receiver::start(Behaviour::ok().after(Duration::from_millis(300)));
    let site = Site::with("drain_timeout = \"10s\"", "");
    site.connection("crm", &receiver.url("crm"), "");
    let mut daemon = Daemon::start(&site);
    let ledger = Ledger::default();
    let first = site.producer().event(&ledger, b"in flight").unwrap();
    eventually("an attempt is in flight", SOON, || receiver.most_in_flight() == 1);
    // Four requests of which the daemon has read the head and waits for the body.
    let head = b"POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-length: 8\r\n\
        expect: 100-continue\r\n\r\n";
    let mut open: Vec<Producer> = Vec::new();
    for number in 0..4 {
        let mut producer = match number % 2 {
            0 => site.producer(),
            _ => Producer::unix(&site.unix()),
        };
        producer.begin(head).unwrap();
        producer.continued().unwrap();
        producer.begin(b"half").unwrap();
        open.push(producer);
    }
    daemon.signal(Signal::TERM);
    eventually("STOPPING=1", SOON, || daemon.notify.count("STOPPING=1") == 1);
    for producer in &mut open {
        let answer = producer.exchange(b"half").expect("an answer");
        assert!(matches!(answer.status, 202 | 503), "{answer:?}");
    }
    assert_eq!(daemon.wait(SOON), Some(0));
    assert_eq!(receiver.arrivals()[0].id, first.id(), "the attempt in flight ended well");
    assert!(Producer::tcp(site.ingress).get("/").is_err(), "nobody listens any more");
}

/// Promise 12 of spec 2: a second SIGTERM does not wait for anything.
#[test]
fn second_sigterm_exits_at_once() {
    let receiver = Receiver::start(Behaviour::Hang);
    let site = Site::with("drain_timeout = \"1m\"", "");
    site.connection("crm", &receiver.url("crm"), "request_timeout = \"1m\"");
    let mut daemon = Daemon::start(&site);
    site.producer().post("/v1/events", &[], b"x").unwrap();
    eventually("an attempt is in flight", SOON, || receiver.count() == 1);
    daemon.signal(Signal::TERM);
    eventually("STOPPING=1", SOON, || daemon.notify.count("STOPPING=1") == 1);
    assert!(daemon.poll().is_none(), "the drain goes on");
    let asked = now();
    daemon.signal(Signal::TERM);
    daemon.wait(SOON);
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    let again = Receiver::start(Behaviour::ok());
    site.connection("crm", &again.url("crm"), "");
    let mut daemon = Daemon::start(&site);
    eventually("it is delivered after all", SOON, || again.delivered("crm") == 1);
    daemon.stop();
}

/// Promise 12: the drain ends at `drain_timeout`, also when an attempt does not.
#[test]
fn drain_ends_at_its_timeout() {
    let receiver = Receiver::start(Behaviour::Hang);
    let site = Site::with("drain_timeout = \"1s\"", "");
    site.connection("crm", &receiver.url("crm"), "request_timeout = \"1m\"");
    let mut daemon = Daemon::start(&site);
    site.producer().post("/v1/events", &[], b"x").unwrap();
    eventually("an attempt is in flight", SOON, || receiver.count() == 1);
    let asked = now();
    daemon.stop();
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
}

/// Issue 2: a lock against a second daemon on the same store.
#[test]
fn a_second_daemon_on_the_same_store_is_refused() {
    let (first, second) = (Site::new(), Site::new());
    let mut daemon = Daemon::start(&first);
    let text = fs::read_to_string(second.config()).unwrap();
    let [own, taken] = [&second, &first].map(|site| site.store().display().to_string());
    fs::write(second.config(), text.replace(&own, &taken)).unwrap();
    let mut refused = Daemon::spawn(&second);
    assert_eq!(refused.wait(SOON), Some(74), "{}", refused.stderr());
    assert!(refused.stderr().contains(&taken), "it names the store: {}", refused.stderr());
    daemon.kill();
    // The lock ends with the process, also when it was killed.
    Daemon::start(&second).stop();
}

/// Issue 2, bad input: a wrong configuration never starts and says where it is wrong, all of it in one run.
#[test]
fn broken_config_exits_78_and_names_the_place() {
    let site = Site::new();
    site.replace("a.toml", "[[connection]]\nname = \"a\"\nurl = \"http://x/\"\ntimeuot = 3\n");
    site.replace("b.toml", "[[connection]]\nname = \"b\"\nurl = \"http://x/\"\nmax_body = 7\n");
    let mut daemon = Daemon::spawn(&site);
    assert_eq!(daemon.wait(SOON), Some(78), "{}", daemon.stderr());
    let check = posthaste(&site, &["check"]);
    assert_eq!(check.status.code(), Some(78));
    let [out, err] = [check.stdout, check.stderr].map(|s| String::from_utf8(s).unwrap());
    for text in [daemon.stderr(), out + &err] {
        for place in ["a.toml:4:1", "timeout", "b.toml:4:12"] {
            assert!(text.contains(place), "{place} is not in: {text}");
        }
    }
    assert!(!site.store().exists(), "nothing was touched");
}

/// Promise 9 of spec 2: only an unknown format version refuses, with 78, and leaves the store as it is.
#[test]
fn store_of_unknown_version_exits_78() {
    let site = Site::new();
    let receiver = Receiver::refusing();
    site.connection("crm", &receiver.url("crm"), "");
    let mut daemon = Daemon::start(&site);
    assert_eq!(site.producer().post("/v1/events", &[], b"x").unwrap().status, 202);
    daemon.kill();
    let path = newest_segment(&site);
    let mut bytes = fs::read(&path).unwrap();
    bytes[VERSION_AT] += 77;
    write_header(&path, &bytes);
    let mut refused = Daemon::spawn(&site);
    assert_eq!(refused.wait(SOON), Some(78), "{}", refused.stderr());
    assert!(refused.stderr().contains("format"), "{}", refused.stderr());
    bytes[VERSION_AT] -= 77;
    write_header(&path, &bytes);
    receiver.behave(Behaviour::ok());
    receiver.listen();
    let mut daemon = Daemon::start(&site);
    eventually("it is delivered", SOON, || receiver.delivered("crm") == 1);
    daemon.stop();
}

/// Writes a file's header back, with its checksum made right, as another version of the format would have it.
fn write_header(path: &Path, bytes: &[u8]) {
    let mut header = bytes[..CHECKSUM_AT].to_vec();
    header.extend(crc32c::crc32c(&header).to_le_bytes());
    let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all(&header).unwrap();
}

/// Where the format's version stands in a segment.
const VERSION_AT: usize = 8;
/// Where the checksum of what stands before it stands.
const CHECKSUM_AT: usize = 60;

/// Issue 2: what systemd hears, in order, and the watchdog while all is well.
#[test]
fn systemd_hears_ready_watchdog_and_stopping() {
    let site = Site::new();
    let watchdog = |command: &mut std::process::Command| {
        command.env("WATCHDOG_USEC", "400000");
    };
    let mut daemon = Daemon::start_with(&site, watchdog);
    eventually("three watchdog ticks", SOON, || daemon.notify.count("WATCHDOG=1") >= 3);
    assert!(Producer::tcp(site.admin).get("/readyz").unwrap().status == 200);
    assert!(Producer::tcp(site.admin).get("/healthz").unwrap().status == 200);
    daemon.stop();
    let messages = daemon.notify.messages();
    let at = |line: &str| {
        let has = |message: &String| message.lines().any(|found| found == line);
        messages.iter().position(has).unwrap_or_else(|| panic!("{line}: {messages:?}"))
    };
    assert!(at("READY=1") < at("STOPPING=1"), "{messages:?}");
    assert_eq!(daemon.notify.count("READY=1"), 1);
    assert!(messages.iter().any(|message| message.contains("STATUS=")), "{messages:?}");
}

/// Issue 6: a daemon whose delivery hangs does not feed the watchdog, whatever else of it turns. strace holds the one thread
/// of delivery back in its next wait; when it lets go, all goes on.
#[test]
fn the_watchdog_is_not_fed_while_delivery_hangs() {
    if !strace::available() {
        return;
    }
    let receiver = Receiver::start(Behaviour::ok());
    let site = Site::with("", "[runtime]\negress_threads = 1\n");
    site.connection("crm", &receiver.url("crm"), "");
    let mut daemon = Daemon::start_with(&site, |command| {
        command.env("WATCHDOG_USEC", "400000");
    });
    eventually("it is fed", SOON, || daemon.notify.count("WATCHDOG=1") >= 3);
    let rule = format!("{}:delay_enter=600000000", strace::WAITING);
    let mut strace = Strace::new(Some(rule));
    strace.attach_to(&daemon, "egress-0");
    let fed = || daemon.notify.count("WATCHDOG=1");
    let said = "A part of the daemon stands still";
    eventually("it is noticed", SOON, || daemon.stderr().contains(said));
    let hungry = fed();
    // What does not hang goes on: posts are taken, metrics are shown, the control loop turns.
    assert_eq!(site.producer().post("/v1/events", &[], b"x").unwrap().status, 202);
    eventually("it is looked at some more", SOON, || daemon.stderr().matches(said).count() >= 10);
    daemon.metrics();
    assert_eq!(fed(), hungry, "it was fed while delivery hung");
    assert_eq!(receiver.count(), 0);
    strace.detach();
    eventually("it is fed again", SOON, || fed() > hungry);
    eventually("what waited arrives", SOON, || receiver.delivered("crm") == 1);
    daemon.stop();
}

/// Issue 2: `WATCHDOG_PID` of another process means that the watchdog is not for this one.
#[test]
fn watchdog_of_another_process_is_left_alone() {
    let site = Site::new();
    let other = |command: &mut std::process::Command| {
        command.env("WATCHDOG_USEC", "20000").env("WATCHDOG_PID", "1");
    };
    let mut daemon = Daemon::start_with(&site, other);
    for _ in 0..50 {
        daemon.metrics();
    }
    daemon.stop();
    assert_eq!(daemon.notify.count("WATCHDOG=1"), 0);
}

/// Issue 2: a reader that goes away and a file that is too large are errors of that call, not the end of the daemon.
#[test]
fn sigpipe_and_sigxfsz_are_ignored() {
    let site = Site::new();
    let receiver = Receiver::start(Behaviour::ok());
    site.connection("crm", &receiver.url("crm"), "");
    let mut daemon = Daemon::start(&site);
    for signal in [Signal::PIPE, Signal::XFSZ] {
        daemon.signal(signal);
    }
    assert_eq!(site.producer().post("/v1/events", &[], b"x").unwrap().status, 202);
    daemon.drained(&["crm"]);
    daemon.stop();
}

/// A taken port is said by its address, and nothing else is left behind.
#[test]
fn a_taken_port_ends_the_start_and_is_named() {
    let site = Site::new();
    let taken = std::net::TcpListener::bind(site.ingress).unwrap();
    let mut refused = Daemon::spawn(&site);
    assert_eq!(refused.wait(SOON), Some(1), "{}", refused.stderr());
    assert!(refused.stderr().contains(&site.ingress.to_string()), "{}", refused.stderr());
    assert_eq!(refused.notify.count("READY=1"), 0);
    drop(taken);
    Daemon::start(&site).stop();
}
