//! `posthaste top` on a terminal that `script` makes.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::harness::{Behaviour, Daemon, Receiver, SOON, Site, binary, eventually, has_program};

/// It shows the connections, outlives the daemon, goes on when that comes back, and leaves the terminal as it was.
#[test]
fn the_live_view_outlives_the_daemon() {
    if !has_program("script", "--version") {
        return;
    }
    let receiver = Receiver::start(Behaviour::ok());
    let site = Site::new();
    site.connection("crm", &receiver.url("crm"), "");
    let mut daemon = Daemon::start(&site);
    // A terminal without a size has room for nothing.
    let top = format!(
        "stty rows 24 cols 120; exec {} top --config {}",
        binary().to_string_lossy(),
        site.config().display()
    );
    let mut script = Command::new("script");
    script.args(["-qec", &top, "/dev/null"]).env("TERM", "xterm").env("NO_COLOR", "1");
    let piped = script.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut script = piped.spawn().expect("start script");
    let shown = Arc::new(Mutex::new(Vec::new()));
    let mut output = script.stdout.take().expect("its output");
    let noted = Arc::clone(&shown);
    let reader = thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(read @ 1..) = output.read(&mut piece) {
            noted.lock().unwrap().extend_from_slice(&piece[..read]);
        }
    });
    let text = || String::from_utf8_lossy(&shown.lock().unwrap()).into_owned();
    eventually("it shows the connection", SOON, || text().contains("crm"));
    assert!(text().contains("\u{1b}[?1049h"), "it takes a screen of its own: {:?}", text());
    daemon.kill();
    eventually("it says that the daemon is gone", SOON, || text().contains("trying"));
    let before = text().len();
    let _daemon = Daemon::start(&site);
    // Only what changed is drawn: rates that were there before the end are drawn again after a gap.
    eventually("it goes on", SOON, || text()[before..].contains("0.0"));
    script.stdin.as_mut().expect("its input").write_all(b"q").expect("a key");
    assert!(script.wait().expect("its end").success(), "{:?}", text());
    reader.join().expect("the reader");
    let text = text();
    assert!(text.contains("\u{1b}[?1049l"), "the terminal is as it was: {text:?}");
    assert!(!text.contains("\u{1b}[31m") && !text.contains("\u{1b}[38;5;"), "NO_COLOR: {text:?}");
}

#[test]
fn without_a_terminal_it_says_what_to_use() {
    let site = Site::new();
    let daemon = Daemon::start(&site);
    let refused = daemon.cli(&["top"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("posthaste status --json"), "{said}");
}
