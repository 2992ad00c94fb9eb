//! Reloads under load: all or nothing, and nobody notices who was not changed.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::harness::site::connection;
use crate::harness::{
    Behaviour, Daemon, Ledger, Oracle, Producer, Receiver, SOON, Site, eventually, long,
};

/// One HTTP connection, so that a second one is seen.
const STEADY: &str = "pool = { max_per_host = 1, max_total = 1 }";
const EDITED: &str = "pool = { max_per_host = 4, max_total = 4 }";

/// Promise 11 of spec 2: whatever happens to the files, no request is refused, no event is lost, and the connection that
/// was not edited keeps its TCP connection.
#[test]
fn reload_under_load() {
    let rounds = if long() { 200 / STEPS.len() } else { 6 };
    let steady = Receiver::start(Behaviour::ok());
    let others = Receiver::start(Behaviour::ok());
    let site = Site::new();
    site.connection("steady", &steady.url("steady"), STEADY);
    site.connection("edited", &others.url("edited"), EDITED);
    let mut mount = ConfigMap::new(&site);
    mount.swap(&connection("mounted", &others.url("mounted"), EDITED));
    let mut daemon = Daemon::start(&site);
    let load = Load::default();
    thread::scope(|scope| {
        for producer in [site.producer(), Producer::unix(&site.unix())] {
            let load = &load;
            scope.spawn(move || load.run(producer));
        }
        let _stop = Stop(&load.stop);
        eventually("load", SOON, || steady.delivered("steady") > 20);
        for round in 0..rounds {
            for step in STEPS {
                reload(&daemon, &site, &mut mount, &others, (round, step));
                assert_eq!(load.refused.load(Ordering::SeqCst), 0, "after {step:?} of {round}");
            }
        }
    });
    // What was held when it was removed goes on when the name is back.
    reload(&daemon, &site, &mut mount, &others, (rounds, Step::Add));
    let acknowledged = load.ledger.len();
    println!("{} reloads, {acknowledged} events", rounds * STEPS.len());
    eventually("the deliveries of all", SOON, || {
        let [edited, mounted, extra] = ["edited", "mounted", "extra"].map(|n| others.delivered(n));
        let sum = steady.delivered("steady") + edited + mounted + extra;
        sum as u64 == load.deliveries.load(Ordering::SeqCst)
    });
    assert_eq!(steady.opened(), 1, "TCP connections of the one that nobody edited");
    judge(&load.ledger, &steady, &["steady"]);
    judge(&load.ledger, &others, &["edited", "mounted"]);
    daemon.drained(&["steady", "edited", "mounted"]);
    daemon.stop();
}

/// A SIGHUP of unchanged files changes nothing, and systemd gets its answer in one datagram.
#[test]
fn sighup_reloads_and_tells_systemd() {
    let receiver = Receiver::start(Behaviour::ok());
    let site = Site::with("reload = \"manual\"", "");
    site.connection("crm", &receiver.url("crm"), "");
    let mut daemon = Daemon::start(&site);
    site.connection("mail", &receiver.url("mail"), "");
    for (reload, broken) in [(1, false), (2, true)] {
        if broken {
            site.replace("mail.toml", "[[connection]\nname = 3\n");
        }
        daemon.signal(rustix::process::Signal::HUP);
        eventually("READY=1 again", SOON, || daemon.notify.count("READY=1") > reload);
        let text = daemon.notify.messages().join("\n---\n");
        let messages = daemon.notify.messages();
        let reloading = messages.iter().filter(|m| m.lines().any(|l| l == "RELOADING=1"));
        let stamped = reloading.filter(|message| message.contains("MONOTONIC_USEC="));
        assert_eq!(stamped.count(), reload, "{text}");
        let good = daemon.metrics().sum("posthaste_config_last_reload_successful", &[]);
        assert_eq!(good, f64::from(u8::from(!broken)), "{text}");
    }
    let answer = site.producer().post("/v1/events", &[], b"x").unwrap();
    assert_eq!(answer.json["connections"], 2, "the good files stay in force");
    daemon.stop();
}

/// Spec 3: a reload that changes what needs a restart is refused and names the keys.
#[test]
fn a_reload_that_needs_a_restart_is_refused() {
    let receiver = Receiver::start(Behaviour::ok());
    let site = Site::with("reload = \"manual\"", "");
    site.connection("crm", &receiver.url("crm"), "");
    let mut daemon = Daemon::start(&site);
    let text = fs::read_to_string(site.config()).unwrap();
    let (before, after) = (site.store(), site.path().join("elsewhere"));
    let [before, after] = [before, after].map(|path| path.display().to_string());
    fs::write(site.config(), text.replace(&before, &after)).unwrap();
    daemon.signal(rustix::process::Signal::HUP);
    eventually("READY=1 again", SOON, || daemon.notify.count("READY=1") > 1);
    let bad = daemon.metrics().sum("posthaste_config_last_reload_successful", &[]);
    assert_eq!(bad, 0.0);
    assert!(daemon.stderr().contains("store.path"), "{}", daemon.stderr());
    assert_eq!(site.producer().post("/v1/events", &[], b"x").unwrap().status, 202);
    daemon.stop();
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Add,
    Change,
    Swap,
    Break,
    Fix,
    BreakSwap,
    FixSwap,
    Remove,
}

const STEPS: [Step; 8] = [
    Step::Add,
    Step::Change,
    Step::Swap,
    Step::Break,
    Step::Fix,
    Step::BreakSwap,
    Step::FixSwap,
    Step::Remove,
];

/// Does one edit and waits until the daemon has seen it.
fn reload(
    daemon: &Daemon<'_>,
    site: &Site,
    mount: &mut ConfigMap<'_>,
    others: &Receiver,
    (round, step): (usize, Step),
) {
    let generation = || daemon.metrics().sum("posthaste_config_generation", &[]);
    let good = || daemon.metrics().sum("posthaste_config_last_reload_successful", &[]);
    let before = generation();
    let edit = |what: &str| format!("description = \"{what} {round}\"\n{EDITED}");
    match step {
        Step::Add => site.connection("extra", &others.url("extra"), &edit("added")),
        Step::Change => site.connection("edited", &others.url("edited"), &edit("changed")),
        Step::Swap | Step::FixSwap => {
            let what = edit(&format!("{step:?}"));
            mount.swap(&connection("mounted", &others.url("mounted"), &what));
        }
        Step::Break => site.replace("edited.toml", "[[connection]]\nname = \"edited\"\nurl ="),
        Step::Fix => site.connection("edited", &others.url("edited"), &edit("fixed")),
        Step::BreakSwap => mount.swap("[[connection]]\nnmae = \"mounted\"\n"),
        Step::Remove => fs::remove_file(site.connections().join("extra.toml")).unwrap(),
    }
    // Half of them are asked for, half are noticed.
    if round % 2 == 1 {
        daemon.signal(rustix::process::Signal::HUP);
    }
    let what = format!("{step:?} of round {round} is seen");
    if matches!(step, Step::Break | Step::BreakSwap) {
        eventually(&what, SOON, || good() == 0.0);
        assert_eq!(generation(), before, "a broken file changes nothing");
    } else {
        eventually(&what, SOON, || good() == 1.0 && generation() > before);
    }
}

/// A file mounted as Kubernetes does it: a link to `..data/`, which is a link to a directory that is swapped.
struct ConfigMap<'a> {
    site: &'a Site,
    revision: usize,
}

impl ConfigMap<'_> {
    fn new(site: &Site) -> ConfigMap<'_> {
        symlink("..data/mounted.toml", site.connections().join("mounted.toml")).unwrap();
        ConfigMap { site, revision: 0 }
    }

    fn swap(&mut self, text: &str) {
        let dir = self.site.connections();
        let old = dir.join(format!("..rev-{}", self.revision));
        self.revision += 1;
        let new = format!("..rev-{}", self.revision);
        fs::create_dir(dir.join(&new)).unwrap();
        fs::write(dir.join(&new).join("mounted.toml"), text).unwrap();
        symlink(&new, dir.join("..data_tmp")).unwrap();
        fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
        if old.exists() {
            fs::remove_dir_all(old).unwrap();
        }
    }
}

#[derive(Default)]
struct Load {
    ledger: Ledger,
    stop: AtomicBool,
    number: AtomicU64,
    refused: AtomicU64,
    /// The sum of `connections` of all answers.
    deliveries: AtomicU64,
}

impl Load {
    /// About 200 posts a second on one kept connection; anything but a 202 is a refusal.
    fn run(&self, mut producer: Producer) {
        while !self.stop.load(Ordering::SeqCst) {
            let number = self.number.fetch_add(1, Ordering::SeqCst);
            match producer.event(&self.ledger, format!("event {number}").as_bytes()) {
                Ok(answer) if answer.status == 202 => {
                    let count = answer.json["connections"].as_u64().unwrap_or_default();
                    self.deliveries.fetch_add(count, Ordering::SeqCst);
                }
                other => {
                    println!("refused: {other:?}");
                    self.refused.fetch_add(1, Ordering::SeqCst);
                }
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn judge(ledger: &Ledger, receiver: &Receiver, connections: &[&str]) {
    let dead = BTreeSet::new();
    let oracle = Oracle { ledger, connections, dead: &dead };
    let mut arrivals = receiver.arrivals();
    arrivals.retain(|arrival| arrival.connection() != "extra");
    let verdict = oracle.judge(&arrivals);
    verdict.assert_clean();
    assert_eq!(verdict.duplicates, 0, "a reload costs no duplicate");
}
