//! A secret goes out in its header and nowhere else.

use std::fs;

use crate::harness::daemon::posthaste;
use crate::harness::{Behaviour, Daemon, Producer, Receiver, SOON, Site, eventually};

/// Spec 3: planted in the environment, in a file and in a credential, the canaries reach the receiver, and no log,
/// metric, status or error shows them.
#[test]
fn secrets_never_appear() {
    const CANARIES: [&str; 3] =
        ["canary-from-env-1f", "canary-from-file-2f", "canary-from-cred-3f"];
    let receiver = Receiver::start(Behaviour::ok());
    let site = Site::with("", "[log]\nlevel = \"debug\"\n");
    let file = site.path().join("secret");
    fs::write(&file, format!("{}\n", CANARIES[1])).unwrap();
    fs::write(site.path().join("cred"), CANARIES[2]).unwrap();
    let headers = format!(
        "[connection.headers]\nx-env = {{ env = \"IT_CANARY\" }}\nx-file = {{ file = \"{}\" }}\n\
        x-cred = {{ credential = \"cred\" }}\n",
        file.display()
    );
    site.connection("crm", &receiver.url("crm"), &headers);
    let mut daemon = Daemon::start_with(&site, |command| {
        command.env("IT_CANARY", CANARIES[0]).env("CREDENTIALS_DIRECTORY", site.path());
    });
    let answer = site.producer().post("/v1/events", &[], b"x").unwrap();
    eventually("it arrives", SOON, || receiver.count() == 1);
    let arrival = &receiver.arrivals()[0];
    let sent = ["x-env", "x-file", "x-cred"].map(|name| arrival.header(name).unwrap_or_default());
    assert_eq!(sent, CANARIES);
    receiver.behave(Behaviour::status(404));
    site.producer().post("/v1/events", &[], b"y").unwrap();
    daemon.drained(&["crm"]);
    // An error beside the secret must not show it either.
    site.connection("crm", &receiver.url("crm"), &format!("{headers}x-bad = 3\n"));
    eventually("the broken file is seen", SOON, || {
        daemon.metrics().sum("posthaste_config_last_reload_successful", &[]) == 0.0
    });
    let mut said = vec![daemon.metrics().text, format!("{:?}", answer.message)];
    for arguments in
        [&["status"][..], &["status", "--json"], &["dead", "list", "--json"], &["check"]]
    {
        let output = posthaste(&site, arguments);
        said.push(format!("{output:?}"));
    }
    for path in ["/healthz", "/readyz"] {
        said.push(format!("{:?}", Producer::tcp(site.admin).get(path).unwrap().message));
    }
    daemon.stop();
    said.push(daemon.stderr());
    for canary in CANARIES {
        let found = said.iter().find(|text| text.contains(canary));
        assert!(found.is_none(), "{canary}: {found:?}");
    }
}
