//! What the machine does to a process: no descriptors left, or no time at all. It goes on afterwards, and nobody is
//! flooded.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{
    Behaviour, Daemon, Ledger, Oracle, Receiver, SOON, Site, eventually, has_program, now,
};

const QUICK: &str = "max_body = \"256KiB\"\n\
    retry = { interval = \"100ms\", max_interval = \"500ms\", jitter = \"none\", count = 10000 }";
/// More clients than descriptors.
const CLIENTS: usize = 100;

/// With 64 descriptors and more clients than that: it does not end, does not spin, refuses rather than loses, and takes
/// events again when the clients have gone.
#[test]
fn it_outlasts_a_lack_of_descriptors() {
    if !has_program("prlimit", "--version") {
        return;
    }
    let receiver = Receiver::start(Behaviour::ok());
    let site = Site::small("");
    site.connection("crm", &receiver.url("crm"), QUICK);
    let mut daemon = Daemon::start_with(&site, |command| {
        let mut limited = Command::new("prlimit");
        limited.args(["--nofile=64:64", "--"]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => limited.env(name, value),
                None => limited.env_remove(name),
            };
        }
        limited.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        *command = limited;
    });
    let ledger = Ledger::default();
    let mut producer = site.producer();
    assert_eq!(producer.event(&ledger, b"before").unwrap().status, 202);
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = site.producer();
        client.begin(b"POST /v1/events HTTP/1.1\r\n").unwrap();
        clients.push(client);
    }
    let descriptors = format!("/proc/{}/fd", daemon.id());
    eventually("all descriptors are taken", SOON, || {
        fs::read_dir(&descriptors).unwrap().count() >= 64
    });
    // The client that was there before posts on: new segments need descriptors, and so does delivery.
    let (begun, cpu) = (now(), cpu_ticks(&daemon));
    let mut refused = 0;
    eventually("a second passes", SOON, || {
        let answer = producer.event(&ledger, &vec![fastrand::u8(..); 190_000]).unwrap();
        assert!(matches!(answer.status, 202 | 503), "{}: {}", answer.status, answer.json);
        refused += usize::from(answer.status == 503);
        begun.elapsed() > Duration::from_secs(2)
    });
    let busy = (cpu_ticks(&daemon) - cpu) as f64 / 100.0 / begun.elapsed().as_secs_f64();
    assert!(daemon.poll().is_none(), "it ended");
    drop(clients);
    let left = now();
    eventually("a new client's event is taken", SOON, || {
        site.producer().event(&ledger, b"after").is_ok_and(|answer| answer.status == 202)
    });
    let resumed = left.elapsed();
    eventually("all arrive", SOON, || receiver.delivered("crm") >= ledger.len());
    println!(
        "64 descriptors: {} accepted, {refused} refused, {busy:.2} cores, resumed after {resumed:?}",
        ledger.len()
    );
    let dead = BTreeSet::new();
    Oracle { ledger: &ledger, connections: &["crm"], dead: &dead }
        .judge(&receiver.arrivals())
        .assert_clean();
    daemon.drained(&["crm"]);
    daemon.stop();
}

/// Nobody posts, nobody is served, and there is still a client too many at the door: it waits, it does not spin.
#[test]
fn it_does_not_spin_while_descriptors_are_lacking() {
    let receiver = Receiver::start(Behaviour::ok());
    let site = Site::small("");
    site.connection("crm", &receiver.url("crm"), QUICK);
    let mut daemon = Daemon::start(&site);
    let pid = format!("--pid={}", daemon.id());
    if !has_program("prlimit", "--version") {
        return;
    }
    let limited = Command::new("prlimit").args([&pid, "--nofile=64:64"]).status().unwrap();
    assert!(limited.success());
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = site.producer();
        client.begin(b"POST /v1/events HTTP/1.1\r\n").unwrap();
        clients.push(client);
    }
    let descriptors = format!("/proc/{}/fd", daemon.id());
    eventually("all descriptors are taken", SOON, || {
        fs::read_dir(&descriptors).unwrap().count() >= 64
    });
    let (begun, cpu) = (now(), cpu_ticks(&daemon));
    eventually("two seconds pass", SOON, || begun.elapsed() > Duration::from_secs(2));
    let used = cpu_ticks(&daemon) - cpu;
    println!("64 descriptors, idle: {used} ticks of 10 ms in {:?}", begun.elapsed());
    assert!(used < 50, "{used} ticks of 10 ms in two seconds");
    drop(clients);
    eventually("it can be asked again", SOON, || {
        site.producer().post("/v1/events", &[], b"x").is_ok_and(|answer| answer.status == 202)
    });
    daemon.stop();
}

/// SIGSTOP under load, as a suspended virtual machine sees it: afterwards no connection gets more than its rate, nothing
/// died of its age, and all arrives.
#[test]
fn a_stopped_process_goes_on_without_a_flood() {
    const PER_SECOND: usize = 50;
    const STOPPED: Duration = Duration::from_secs(3);
    let receiver = Receiver::start(Behaviour::ok());
    let site = Site::small("");
    let limit = format!("rate_limit = {{ limit = {PER_SECOND}, per = \"second\", burst = 5 }}\n");
    site.connection("crm", &receiver.url("crm"), &format!("{limit}{QUICK}"));
    site.connection("free", &receiver.url("free"), QUICK);
    let mut daemon = Daemon::start(&site);
    let ledger = Ledger::default();
    let mut producer = site.producer();
    for number in 0..200 {
        let body = format!("event {number}");
        assert_eq!(producer.event(&ledger, body.as_bytes()).unwrap().status, 202);
    }
    eventually("some have arrived", SOON, || receiver.delivered("crm") >= 20);
    daemon.signal(Signal::STOP);
    let begun = now();
    eventually("it stands still for a while", SOON, || begun.elapsed() > STOPPED);
    daemon.signal(Signal::CONT);
    let resumed = now();
    assert_eq!(producer.event(&ledger, b"after").unwrap().status, 202);
    let answered = resumed.elapsed();
    eventually("all arrive", SOON, || {
        ["crm", "free"].iter().all(|name| receiver.delivered(name) >= ledger.len())
    });
    let dead = BTreeSet::new();
    let oracle = Oracle { ledger: &ledger, connections: &["crm", "free"], dead: &dead };
    let verdict = oracle.judge(&receiver.arrivals());
    verdict.assert_clean();
    let at: Vec<_> = receiver
        .arrivals()
        .iter()
        .filter(|one| one.connection() == "crm")
        .map(|one| one.at)
        .collect();
    let in_a_second = |from: usize| {
        at[from..].iter().take_while(|end| **end - at[from] < Duration::from_secs(1)).count()
    };
    let most = (0..at.len()).map(in_a_second).max().unwrap_or_default();
    println!(
        "SIGSTOP for {STOPPED:?}: answered {answered:?} later, {most} a second at the most, {} duplicates",
        verdict.duplicates
    );
    // What was on its way when it stopped arrives late, beside what the limiter lets go in that second.
    assert!(most <= PER_SECOND + 5 + 5 + 5, "{most} in a second");
    daemon.drained(&["crm", "free"]);
    daemon.stop();
}

/// Processor time of the daemon so far, in ticks of 10 ms.
fn cpu_ticks(daemon: &Daemon<'_>) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.id())).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = fields.split_whitespace().collect();
    [11, 12].map(|at| fields[at].parse::<u64>().unwrap()).iter().sum()
}
