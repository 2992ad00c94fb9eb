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

/// The same for what authenticates and signs: every secret in turn, and the token, with targets that echo what they got.
#[test]
fn credentials_and_signing_secrets_never_appear() {
    const PASSWORD: &str = "canary-password-1e";
    const TOKEN: &str = "canary-bearer-2e";
    const KEY: &str = "canary/key-3e";
    const CLIENT: &str = "canary-client-4e";
    const GRANTED: &str = "canary-granted-5e";
    const HMAC: &str = "canary-hmac-6e";
    const STANDARD: &str = "whsec_Y2FuYXJ5LXN0YW5kYXJkLTdl";
    // What they look like on the way: base64 of me:PASSWORD and of relay:CLIENT, and the key in a query.
    const FORMS: [&str; 3] =
        ["bWU6Y2FuYXJ5LXBhc3N3b3JkLTFl", "cmVsYXk6Y2FuYXJ5LWNsaWVudC00ZQ", "canary%2Fkey-3e"];
    let site = Site::with("", "[log]\nlevel = \"debug\"\n");
    let granted = format!("{{\"access_token\":\"{GRANTED}\",\"expires_in\":100}}");
    let tokens = Receiver::start(Behaviour::ok().saying(granted.as_bytes()));
    let refusing = format!("{{\"error\":\"{CLIENT}\"}}");
    let no_tokens = Receiver::start(Behaviour::status(400).saying(refusing.as_bytes()));
    let oauth2 = |tokens: &Receiver| {
        format!(
            "auth.oauth2 = {{ token_url = \"{}\", client_id = \"relay\", client_secret = {{ env = \"C4\" }} }}",
            tokens.url("token")
        )
    };
    let none = "retry = { strategy = \"none\" }\n";
    let tables = [
        ("basic", "auth.basic = { username = \"me\", password = { env = \"C1\" } }".to_owned()),
        ("bearer", "auth.bearer = { token = { env = \"C2\" } }".to_owned()),
        (
            "query",
            "auth.api_key = { name = \"key\", key = { env = \"C3\" }, in = \"query\" }".to_owned(),
        ),
        ("header", "auth.api_key = { name = \"x-key\", key = { env = \"C3\" } }".to_owned()),
        ("oauth2", oauth2(&tokens)),
        ("refused", oauth2(&no_tokens)),
        ("hmac", "sign.hmac = { header = \"x-sig\", secrets = [{ env = \"C6\" }] }".to_owned()),
        ("standard", "sign.standard_webhooks = { secrets = [{ env = \"C7\" }] }".to_owned()),
    ];
    let names = tables.each_ref().map(|(name, _)| *name);
    // What each target got, it says in its answer.
    let echoes = [
        format!("{PASSWORD} {}", FORMS[0]),
        format!("Bearer {TOKEN}"),
        format!("/x?key=canary%2Fkey-3e {KEY}"),
        KEY.to_owned(),
        GRANTED.to_owned(),
        String::new(),
        String::new(),
        String::new(),
    ];
    let targets = echoes.map(|echo| {
        let location = if echo.contains("%2F") { echo.split(' ').next().unwrap() } else { "/" };
        Receiver::start(Behaviour::with(404, &[("location", location)]).saying(echo.as_bytes()))
    });
    for ((name, table), target) in tables.iter().zip(&targets) {
        site.connection(name, &target.url(name), &format!("{none}{table}\n"));
    }
    let variables = [
        ("C1", PASSWORD),
        ("C2", TOKEN),
        ("C3", KEY),
        ("C4", CLIENT),
        ("C6", HMAC),
        ("C7", STANDARD),
    ];
    let mut daemon = Daemon::start_with(&site, |command| {
        command.envs(variables);
    });
    let answer = site.producer().post("/v1/events", &[], b"x").unwrap();
    let metrics = daemon.drained(&names);
    for name in names {
        let dead = [("connection", name), ("outcome", "dead")];
        assert_eq!(metrics.sum("posthaste_deliveries_total", &dead), 1.0, "{name}");
    }
    // They went where they belong: the test would notice if they did not.
    let arrivals: String =
        targets.iter().map(|target| format!("{:?}", target.arrivals())).collect();
    for canary in [TOKEN, FORMS[0], FORMS[2], GRANTED, "x-sig", "webhook-signature"] {
        assert!(arrivals.contains(canary), "{canary}: {arrivals}");
    }
    assert!(format!("{:?}", tokens.arrivals()).contains(FORMS[1]));
    let mut said = vec![metrics.text, format!("{:?}", answer.message)];
    let mut run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(crate::harness::binary());
        command.args(arguments).arg("--config").arg(site.config()).envs(variables);
        let output = command.output().unwrap();
        said.push(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned());
    };
    run(&["status"]);
    run(&["status", "--json"]);
    run(&["dead", "list", "--json"]);
    run(&["check"]);
    run(&["check", "--json"]);
    for name in names {
        run(&["attempts", name]);
        run(&["attempts", name, "--json"]);
    }
    let broken = format!("{none}{}\nbad = 3\n", tables[0].1);
    site.connection("basic", "http://127.0.0.1:9/", &broken);
    run(&["check"]);
    daemon.stop();
    said.push(daemon.stderr());
    let masked = said.iter().filter(|text| text.contains("***")).count();
    assert!(masked > 10, "only {masked} texts had something to mask");
    for canary in [PASSWORD, TOKEN, KEY, CLIENT, GRANTED, HMAC, STANDARD].iter().chain(&FORMS) {
        let found = said.iter().find(|text| text.contains(canary));
        assert!(found.is_none(), "{canary}: {found:?}");
    }
    // The command line of the daemon has no secrets, and the store keeps none.
    for entry in fs::read_dir(site.store()).unwrap() {
        let content = fs::read(entry.unwrap().path()).unwrap_or_default();
        let text = String::from_utf8_lossy(&content);
        for canary in [PASSWORD, TOKEN, KEY, CLIENT, GRANTED, HMAC, STANDARD].iter().chain(&FORMS) {
            assert!(!text.contains(canary), "{canary} is in the store");
        }
    }
}
