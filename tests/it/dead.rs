//! Dead letters in bulk: planned, sent again and purged by jobs; what waits, cancelled.

use serde_json::Value as Json;

use crate::harness::{Behaviour, Daemon, Receiver, SOON, Site, eventually};

const NO_RETRY: &str = "retry = { count = 1 }";

fn post(site: &Site, connection: &str, kind: &str, count: usize) -> Vec<String> {
    let mut producer = site.producer();
    let path = format!("/v1/connections/{connection}/events");
    let post = |nth: usize| {
        let body = format!("{connection} {kind} {nth}");
        let answer = producer.post(&path, &[("posthaste-type", kind)], body.as_bytes());
        let accepted = answer.ok().filter(|answer| answer.status == 202);
        accepted.map_or_else(|| panic!("{body} was refused"), |answer| answer.id().to_owned())
    };
    (0..count).map(post).collect()
}

fn dead(daemon: &Daemon<'_>, name: &str) -> f64 {
    daemon.metrics().sum("posthaste_dead_letters", &[("connection", name)])
}

fn dies(daemon: &Daemon<'_>, name: &str, count: usize) {
    eventually("all are dead", SOON * 6, || dead(daemon, name) == count as f64);
}

/// A job that is waited for; its figures: total, examined, matched, done, failed.
fn job(daemon: &Daemon<'_>, arguments: &[&str]) -> (Json, [u64; 5]) {
    let job = daemon.cli_json(&[arguments, &["--wait", "--json"]].concat());
    let names = ["total", "examined", "matched", "done", "failed"];
    let count = |name: &str| job.pointer(&format!("/counts/{name}")).and_then(Json::as_u64);
    let counts = names.map(|name| count(name).unwrap_or(u64::MAX));
    (job, counts)
}

fn plan(daemon: &Daemon<'_>, arguments: &[&str]) -> Json {
    daemon.cli_json(&[arguments, &["--plan", "--json"]].concat())
}

/// By connection, code, status and type; the plan first, which does nothing. What a selection leaves out stays.
#[test]
fn a_selection_is_planned_and_replayed() {
    let (refuses, fails) = (Behaviour::status(404), Behaviour::status(503));
    let (crm, erp) = (Receiver::start(refuses), Receiver::start(fails));
    let site = Site::new();
    site.connection("crm", &crm.url("crm"), NO_RETRY);
    site.connection("erp", &erp.url("erp"), NO_RETRY);
    let mut daemon = Daemon::start(&site);
    let orders = post(&site, "crm", "order", 5);
    post(&site, "crm", "user", 3);
    post(&site, "erp", "order", 4);
    dies(&daemon, "crm", 8);
    dies(&daemon, "erp", 4);

    let all = plan(&daemon, &["dead", "replay", "--all"]);
    let groups = serde_json::json!([
        { "connection": "crm", "code": "http_status", "count": 8 },
        { "connection": "erp", "code": "http_status", "count": 4 },
    ]);
    assert_eq!((&all["matched"], &all["groups"]), (&12.into(), &groups));
    assert!(all["oldest"].as_str().unwrap() <= all["newest"].as_str().unwrap());
    let newest = all["newest"].as_str().unwrap();
    for (arguments, matched) in [
        (["--status", "5xx"].as_slice(), 4),
        (&["--status", "400-499,!404"], 0),
        (&["--code", "http_status", "--type", "order"], 9),
        (&["--code", "expired"], 0),
        (&["--since", "1h"], 12),
        (&["--until", "1h"], 0),
        (&["--until", newest, "--since", "1970-01-01T00:00:00Z", "--status", "404"], 8),
    ] {
        let plan = plan(&daemon, &[&["dead", "replay"], arguments].concat());
        let found = plan["matched"].as_u64().unwrap();
        // Some may have died in the very last millisecond.
        let fits = found == matched || arguments[0] == "--until" && found < matched;
        assert!(fits, "{arguments:?}: {found}");
    }
    let listed = daemon.cli_json(&["dead", "list", "--type", "order", "--status", "404", "--json"]);
    let listed = listed["models"].as_array().unwrap();
    let ids: Vec<&str> = listed.iter().map(|letter| letter["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 5);
    assert!(orders.iter().all(|id| ids.contains(&id.as_str())), "{ids:?}");
    assert_eq!((crm.count(), erp.count()), (8, 4), "nothing was sent by a plan");

    crm.behave(Behaviour::ok());
    let (replayed, counts) = job(&daemon, &["dead", "replay", "crm", "--type", "order"]);
    assert_eq!((replayed["state"].as_str(), counts), (Some("done"), [8, 8, 5, 5, 0]));
    eventually("they are delivered", SOON, || crm.delivered("crm") == 5);
    for arrival in crm.arrivals().iter().filter(|arrival| arrival.succeeded()) {
        assert!(orders.contains(&arrival.id) && arrival.attempt == 1, "{arrival:?}");
        assert!(arrival.header("posthaste-replay").is_some(), "{arrival:?}");
    }
    assert_eq!((dead(&daemon, "crm"), dead(&daemon, "erp")), (3.0, 4.0));
    daemon.drained(&["crm", "erp"]);

    let listed = daemon.cli_json(&["jobs", "list", "--json"]);
    assert_eq!(listed["models"][0], replayed);
    assert!(replayed["by"].as_str().unwrap().starts_with("unix uid "), "{replayed}");
    let shown = daemon.cli(&["jobs", "show", replayed["id"].as_str().unwrap()]);
    assert!(
        String::from_utf8_lossy(&shown.stdout).contains("connection=crm type=order"),
        "{shown:?}"
    );
    for (arguments, code, said) in [
        (["dead", "replay", "--status", "9xx"].as_slice(), 1, "9xx"),
        (&["dead", "replay", "--code", "what", "--plan"], 1, "no cause"),
        (&["dead", "replay", "nobody", "--all"], 1, "nobody"),
        (&["dead", "replay", "crm"], 2, "EVENTS"),
        (&["dead", "replay", "crm", &orders[0], "--all"], 2, "--all"),
        (&["jobs", "show", "job_1"], 1, "job_1"),
        (&["jobs", "cancel", replayed["id"].as_str().unwrap()], 1, "done already"),
    ] {
        let refused = daemon.cli(arguments);
        assert_eq!(refused.status.code(), Some(code), "{arguments:?}: {refused:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains(said), "{refused:?}");
    }
    daemon.stop();
}

/// What dies again while the job runs is not sent again by it.
#[test]
fn a_replay_of_what_dies_again_ends() {
    let receiver = Receiver::start(Behaviour::status(404));
    let site = Site::new();
    site.connection("crm", &receiver.url("crm"), NO_RETRY);
    let mut daemon = Daemon::start(&site);
    post(&site, "crm", "order", 400);
    dies(&daemon, "crm", 400);
    let (_, counts) = job(&daemon, &["dead", "replay", "--all"]);
    assert_eq!(counts, [400, 400, 400, 400, 0]);
    dies(&daemon, "crm", 400);
    assert_eq!(receiver.count(), 800);
    daemon.drained(&["crm"]);
    daemon.stop();
}

/// A job puts a bounded number into the lane, goes on where it was after a kill, and sends all of them.
#[test]
fn a_job_survives_a_kill_and_holds_no_more_than_its_lane() {
    let receiver = Receiver::start(Behaviour::status(404));
    let site = Site::new();
    site.connection("crm", &receiver.url("crm"), NO_RETRY);
    let mut daemon = Daemon::start(&site);
    let ids = post(&site, "crm", "order", 1000);
    dies(&daemon, "crm", 1000);
    let held = daemon.cli(&["pause", "crm", "--until-restart"]);
    assert!(held.status.success(), "{held:?}");
    let job = daemon.cli_json(&["dead", "replay", "crm", "--all", "--json"]);
    let id = job["id"].as_str().unwrap().to_owned();
    let left = |daemon: &Daemon<'_>| dead(daemon, "crm");
    eventually("the lane is full", SOON, || left(&daemon) == 744.0);
    let show = |daemon: &Daemon<'_>| daemon.cli_json(&["jobs", "show", &id, "--json"]);
    // Its place is written down within a second.
    eventually("it is kept", SOON, || {
        let kept = std::fs::read_to_string(site.store().join("jobs.json")).unwrap();
        kept.contains("\"done\":256")
    });
    assert_eq!((show(&daemon)["state"].as_str(), left(&daemon)), (Some("running"), 744.0));
    daemon.kill();
    receiver.behave(Behaviour::ok());
    let mut daemon = Daemon::start(&site);
    let ended = daemon.cli_json(&["jobs", "show", &id, "--wait", "--json"]);
    assert_eq!(
        (ended["state"].as_str(), ended["counts"]["done"].as_u64()),
        (Some("done"), Some(1000))
    );
    eventually("all are delivered", SOON, || receiver.delivered("crm") >= 1000);
    let arrivals = receiver.arrivals();
    let mut came: Vec<&str> =
        arrivals.iter().filter(|a| a.succeeded()).map(|a| a.id.as_str()).collect();
    came.sort_unstable();
    came.dedup();
    assert_eq!(came.len(), ids.len());
    assert_eq!(left(&daemon), 0.0);
    daemon.drained(&["crm"]);
    daemon.stop();
}

/// A cancelled job does nothing more; what it had queued is delivered, and the others stay dead.
#[test]
fn a_cancelled_job_stops() {
    let receiver = Receiver::start(Behaviour::status(404));
    let site = Site::new();
    site.connection("crm", &receiver.url("crm"), NO_RETRY);
    let mut daemon = Daemon::start(&site);
    post(&site, "crm", "order", 500);
    dies(&daemon, "crm", 500);
    let held = daemon.cli(&["pause", "crm", "--until-restart"]);
    assert!(held.status.success(), "{held:?}");
    let job = daemon.cli_json(&["dead", "replay", "crm", "--all", "--json"]);
    let id = job["id"].as_str().unwrap();
    eventually("the lane is full", SOON, || dead(&daemon, "crm") == 244.0);
    let cancelled = daemon.cli_json(&["jobs", "cancel", id, "--json"]);
    assert_eq!(cancelled["state"].as_str(), Some("cancelled"));
    let waited = daemon.cli(&["jobs", "show", id, "--wait"]);
    assert_eq!(waited.status.code(), Some(1), "{waited:?}");
    receiver.behave(Behaviour::ok());
    let goes = daemon.cli(&["resume", "crm"]);
    assert!(goes.status.success(), "{goes:?}");
    eventually("what it queued is delivered", SOON, || receiver.delivered("crm") == 256);
    daemon.drained(&["crm"]);
    assert_eq!(dead(&daemon, "crm"), 244.0);
    daemon.stop();
    let mut daemon = Daemon::start(&site);
    let listed = daemon.cli_json(&["jobs", "list", "--json"]);
    assert_eq!(listed["models"][0]["state"].as_str(), Some("cancelled"));
    assert_eq!(dead(&daemon, "crm"), 244.0);
    daemon.stop();
}

/// Purged letters are gone for good, also after a kill; nobody is asked where there is no terminal, and then nothing is done.
#[test]
fn dead_letters_are_purged() {
    let receiver = Receiver::start(Behaviour::status(404));
    let site = Site::new();
    site.connection("crm", &receiver.url("crm"), NO_RETRY);
    let mut daemon = Daemon::start(&site);
    post(&site, "crm", "order", 200);
    post(&site, "crm", "user", 7);
    dies(&daemon, "crm", 207);
    assert_eq!(plan(&daemon, &["dead", "purge", "crm", "--all"])["matched"].as_u64(), Some(207));
    let unsure = daemon.cli(&["dead", "purge", "crm", "--all"]);
    assert_eq!(unsure.status.code(), Some(2), "{unsure:?}");
    assert!(String::from_utf8_lossy(&unsure.stderr).contains("--yes"), "{unsure:?}");
    assert_eq!(dead(&daemon, "crm"), 207.0);
    let (_, counts) = job(&daemon, &["dead", "purge", "crm", "--type", "order", "--yes"]);
    assert_eq!(counts, [207, 207, 200, 200, 0]);
    daemon.kill();
    let mut daemon = Daemon::start(&site);
    let listed = daemon.cli_json(&["dead", "list", "--json"]);
    assert_eq!(listed["count"].as_u64(), Some(7));
    let (_, counts) = job(&daemon, &["dead", "purge", "--all", "--yes"]);
    assert_eq!(counts, [7, 7, 7, 7, 0]);
    assert_eq!(daemon.cli_json(&["dead", "list", "--json"])["count"].as_u64(), Some(0));
    daemon.drained(&["crm"]);
    daemon.stop();
    assert_eq!(receiver.count(), 207);
}

/// `connections purge`: what waits is cancelled, of a connection and of a queue without one; the connection goes on.
#[test]
fn what_waits_for_a_connection_is_cancelled() {
    for ordering in ["", "ordering = \"strict\""] {
        let receiver = Receiver::start(Behaviour::status(503));
        let site = Site::new();
        site.connection("crm", &receiver.url("crm"), ordering);
        let mut daemon = Daemon::start(&site);
        post(&site, "crm", "order", 40);
        eventually("one was tried", SOON, || receiver.count() > 0);
        let planned = daemon.cli_json(&["connections", "purge", "crm", "--plan", "--json"]);
        assert_eq!(planned["cancelled"].as_u64(), Some(40));
        let unsure = daemon.cli(&["connections", "purge", "crm"]);
        assert_eq!(unsure.status.code(), Some(2), "{unsure:?}");
        let purged = daemon.cli_json(&["connections", "purge", "crm", "--yes", "--json"]);
        assert_eq!(purged["cancelled"].as_u64(), Some(40));
        let labels = [("connection", "crm"), ("outcome", "cancelled")];
        assert_eq!(daemon.metrics().sum("posthaste_deliveries_total", &labels), 40.0);
        receiver.behave(Behaviour::ok());
        let tried = receiver.count();
        let fresh = post(&site, "crm", "order", 3);
        eventually("new ones are delivered", SOON * 6, || {
            let arrivals = receiver.arrivals();
            fresh.iter().all(|id| arrivals.iter().any(|a| a.id == *id && a.succeeded()))
        });
        daemon.drained(&["crm"]);
        assert!(receiver.count() <= tried + 3, "nothing that was cancelled went out");
        daemon.kill();
        let daemon = Daemon::start(&site);
        daemon.drained(&["crm"]);
    }
    let site = Site::new();
    let receiver = Receiver::start(Behaviour::ok());
    site.connection("old", &receiver.url("old"), "state = \"paused\"");
    site.connection("stays", &receiver.url("stays"), "");
    let mut daemon = Daemon::start(&site);
    post(&site, "old", "order", 5);
    std::fs::remove_file(site.connections().join("old.toml")).unwrap();
    let reloaded = daemon.cli(&["reload"]);
    assert!(reloaded.status.success(), "{reloaded:?}");
    let orphaned = &daemon.cli_json(&["status", "--json"])["orphaned"];
    assert_eq!(orphaned[0]["held"].as_u64(), Some(5), "{orphaned}");
    let purged = daemon.cli_json(&["connections", "purge", "old", "--yes", "--json"]);
    assert_eq!(purged["cancelled"].as_u64(), Some(5));
    let status = daemon.cli_json(&["status", "--json"]);
    assert_eq!(status["orphaned"].as_array().map(Vec::len), Some(0));
    daemon.stop();
}
