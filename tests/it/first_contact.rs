//! What stands in the way of a first start: each message names the place and says what to do.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::{Daemon, Producer, SOON, Site, binary};

/// A user without rights: `nobody`.
const NOBODY: u32 = 65_534;

/// Checks that a start fails with this exit code, and that what it says has all of these.
#[track_caller]
fn refused(site: &Site, code: i32, change: impl FnOnce(&mut Command), said: &[&str]) {
    let mut daemon = Daemon::spawn_with(site, change);
    assert_eq!(daemon.wait(SOON), Some(code), "{}", daemon.stderr());
    for text in said {
        assert!(daemon.stderr().contains(text), "{text:?} is not in: {}", daemon.stderr());
    }
    assert_eq!(daemon.notify.count("READY=1"), 0);
}

/// The indented text of a message after this line.
fn indented<'t>(text: &'t str, after: &str) -> Vec<&'t str> {
    let lines = text.lines().skip_while(|line| !line.ends_with(after)).skip(1);
    let lines = lines.skip_while(|line| line.is_empty()).take_while(|line| line.starts_with("  "));
    lines.map(|line| line.trim_start()).collect()
}

/// Issue 6: without any file `run` says where it looked and what to write; what it says to write runs.
#[test]
fn without_a_file_it_says_what_to_write_and_that_runs() {
    let site = Site::new();
    fs::remove_file(site.config()).unwrap();
    let mut command = Command::new(binary());
    command.arg("run").env("CONFIGURATION_DIRECTORY", site.path()).env_remove("POSTHASTE_CONFIG");
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    let (config, connections) = (site.config(), site.connections());
    let looked = format!("$CONFIGURATION_DIRECTORY  {}: no such file", config.display());
    let none = format!("{}/*.toml: none", connections.display());
    for said in ["$POSTHASTE_CONFIG         not set", &looked, &none, "posthaste demo"] {
        assert!(text.contains(said), "{said:?} is not in: {text}");
    }
    let daemon = indented(&text, &format!("{}:", config.display())).join("\n");
    let connection = indented(&text, &format!("{}/orders.toml:", connections.display())).join("\n");
    fs::write(&config, daemon.replace("127.0.0.1:8377", &site.ingress.to_string())).unwrap();
    fs::write(connections.join("orders.toml"), connection).unwrap();
    let then = indented(&text, "then:");
    assert_eq!(then.len(), 3, "{text}");
    assert!(then.iter().all(|line| line.starts_with("posthaste ")), "{then:?}");
    let mut daemon = Daemon::start_with(&site, |command| {
        command.env("STATE_DIRECTORY", site.store()).env("RUNTIME_DIRECTORY", site.path());
    });
    assert!(daemon.notify.messages().concat().contains("1 connection"), "it is delivered to");
    assert!(Producer::tcp(site.ingress).get("/").is_ok());
    daemon.stop();
}

/// A file that was named and is not there is the same question.
#[test]
fn a_named_file_that_is_missing_is_named() {
    let site = Site::new();
    fs::remove_file(site.config()).unwrap();
    let missing = format!("--config                  {}: no such file", site.config().display());
    refused(&site, 78, |_| {}, &[&missing]);
}

/// Connection files alone are enough: the daemon's own settings have defaults.
#[test]
fn connections_without_the_daemons_file_run() {
    let site = Site::new();
    fs::remove_file(site.config()).unwrap();
    site.connection("crm", "http://127.0.0.1:9/", "");
    let mut command = Command::new(binary());
    command.arg("run").env("CONFIGURATION_DIRECTORY", site.path()).env_remove("POSTHASTE_CONFIG");
    // A file is where the store's directory would be: it comes that far, and no further.
    fs::write(site.store(), "").unwrap();
    let output = command.env("STATE_DIRECTORY", site.store()).output().unwrap();
    assert_eq!(output.status.code(), Some(74), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(&site.store().display().to_string()), "{said}");
    assert!(said.contains("no directory: move it away"), "{said}");
}

#[test]
fn a_port_in_use_is_named_with_who_to_ask() {
    let site = Site::new();
    let _taken = TcpListener::bind(site.ingress).unwrap();
    let ss = format!("ss -ltnp 'sport = :{}'", site.ingress.port());
    refused(&site, 1, |_| {}, &["[ingress]", &site.ingress.to_string(), &ss, "stop it"]);
}

/// The daemon as `nobody`, who may read its files and owns nothing.
#[test]
fn a_store_without_permission_is_named_with_the_user_who_needs_it() {
    if !rustix::process::geteuid().is_root() && crate::harness::must("it needs root to be nobody") {
        return;
    }
    let site = Site::new();
    fs::set_permissions(site.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let nobody = |command: &mut Command| {
        command.uid(NOBODY).gid(NOBODY);
    };
    let chown = format!("chown -R {NOBODY} {}", site.store().display());
    refused(&site, 74, nobody, &["Permission denied", &chown]);
    fs::create_dir(site.store()).unwrap();
    refused(&site, 74, nobody, &["Permission denied", &chown]);
    std::os::unix::fs::chown(site.store(), Some(NOBODY), Some(NOBODY)).unwrap();
    // The store is right now; the sockets come next.
    let socket = format!("the socket {}: Permission denied", site.unix().display());
    refused(&site, 1, nobody, &["[ingress]", &socket, "RuntimeDirectory="]);
}

#[test]
fn a_socket_of_another_daemon_is_left_to_it() {
    let (first, second) = (Site::new(), Site::new());
    let mut daemon = Daemon::start(&first);
    let text = fs::read_to_string(second.config()).unwrap();
    let [own, taken] = [&second, &first].map(|site| site.admin_unix().display().to_string());
    fs::write(second.config(), text.replace(&own, &taken)).unwrap();
    let said = format!("another process listens on {taken}; stop it");
    refused(&second, 1, |_| {}, &["[admin]", &said]);
    assert!(daemon.cli(&["status"]).status.success(), "the first one is still there");
    daemon.stop();
}

#[test]
fn a_socket_that_a_dead_daemon_left_is_replaced() {
    let site = Site::new();
    for path in [site.unix(), site.admin_unix()] {
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
    }
    let mut daemon = Daemon::start(&site);
    assert!(daemon.cli(&["status"]).status.success());
    assert_eq!(Producer::unix(&site.unix()).post("/v1/events", &[], b"x").unwrap().status, 404);
    daemon.stop();
}

#[test]
fn a_file_in_the_sockets_way_is_left_alone() {
    let site = Site::new();
    fs::write(site.unix(), "precious").unwrap();
    let said = format!("{} exists and is not a socket", site.unix().display());
    refused(&site, 1, |_| {}, &["[ingress]", &said, "move it away"]);
    assert_eq!(fs::read_to_string(site.unix()).unwrap(), "precious");
}

#[test]
fn a_missing_credential_or_variable_is_named_with_the_mend() {
    let with = |reference: &str| {
        let site = Site::new();
        site.connection("crm", "http://127.0.0.1:9/", &format!("auth.bearer.token = {reference}"));
        site
    };
    let site = with("{ env = \"IT_UNSET\" }");
    let said = ["crm.toml:4:", "variable IT_UNSET is not set", "EnvironmentFile="];
    refused(&site, 78, |_| {}, &said);
    let site = with("{ credential = \"crm\" }");
    refused(&site, 78, |_| {}, &["crm.toml:4:", "LoadCredential="]);
    let directory = |command: &mut Command| {
        command.env("CREDENTIALS_DIRECTORY", "/nonexistent");
    };
    let said = ["crm.toml:4:", "credential crm", "LoadCredential=crm:/path"];
    refused(&site, 78, directory, &said);
    let missing = Path::new("/nonexistent/token");
    let site = with(&format!("{{ file = \"{}\" }}", missing.display()));
    refused(&site, 78, |_| {}, &["crm.toml:4:", "/nonexistent/token: no such file", "write it"]);
}
