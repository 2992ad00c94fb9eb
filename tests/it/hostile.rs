//! Endpoints that mean no good: each ends as its code, or as delivered where a 2xx head had come, within the timeout and
//! the memory bound, and the next delivery is fine. Nothing that they say reaches a log or a terminal raw.

use std::io::{BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::harness::message::Message;
use crate::harness::{Daemon, SOON, Site, eventually, now};

/// Answers, until the relay has had enough of it.
type Answer = fn(&mut TcpStream) -> std::io::Result<()>;

/// One endpoint: its first request gets the answer, all others a plain 200.
struct Rogue {
    name: &'static str,
    /// How the first attempt ends; `ok` where a 2xx head had come.
    code: &'static str,
    address: SocketAddr,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    opened: AtomicUsize,
    requests: AtomicUsize,
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
/// What may be on its way in the sockets' buffers, both ends together.
const IN_BUFFERS: u64 = 16 << 20;

impl Rogue {
    fn start((name, code, answer): (&'static str, &'static str, Answer)) -> Rogue {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Seen>::default();
        let shared = Arc::clone(&seen);
        // It lives as long as the test process.
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                shared.opened.fetch_add(1, Ordering::Relaxed);
                let seen = Arc::clone(&shared);
                thread::spawn(move || drop(serve(stream, &seen, name, answer)));
            }
        });
        Rogue { name, code, address, seen }
    }
}

fn serve(mut stream: TcpStream, seen: &Seen, name: &str, answer: Answer) -> std::io::Result<()> {
    let mut from = BufReader::new(stream.try_clone()?);
    // An early answer comes before the request was read.
    if name.starts_with("early") && seen.requests.load(Ordering::Relaxed) == 0 {
        let mut first = [0; 1];
        from.read_exact(&mut first)?;
        seen.requests.fetch_add(1, Ordering::Relaxed);
        return answer(&mut stream);
    }
    while Message::read(&mut from)?.is_some() {
        if seen.requests.fetch_add(1, Ordering::Relaxed) > 0 {
            stream.write_all(OK)?;
            continue;
        }
        answer(&mut stream)?;
    }
    Ok(())
}

/// Writes `piece` again and again, up to `most` bytes, with a pause between.
fn flood(
    stream: &mut TcpStream,
    head: &[u8],
    piece: &[u8],
    (most, pause): (u64, Duration),
) -> std::io::Result<()> {
    stream.write_all(head)?;
    let mut written = 0;
    while written < most {
        stream.write_all(piece)?;
        written += piece.len() as u64;
        FLOODED.fetch_add(piece.len() as u64, Ordering::Relaxed);
        if !pause.is_zero() {
            thread::sleep(pause);
        }
    }
    Ok(())
}

/// Bytes of all floods together.
static FLOODED: AtomicU64 = AtomicU64::new(0);

const TEN_GB: u64 = 10_000_000_000;
const SLOWLY: (u64, Duration) = (3600, Duration::from_secs(1));
const AT_ONCE: (u64, Duration) = (TEN_GB, Duration::ZERO);

fn reset(stream: &TcpStream) -> std::io::Result<()> {
    let linger = Some(Duration::ZERO);
    rustix::net::sockopt::set_socket_linger(stream, linger)?;
    stream.shutdown(Shutdown::Both)
}

const ROGUES: &[(&str, &str, Answer)] = &[
    ("large-ok", "ok", |to| {
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 10000000000\r\n\r\n";
        flood(to, head, &[b'x'; 65536], AT_ONCE)
    }),
    ("large-error", "response_too_large", |to| {
        let head = b"HTTP/1.1 500 No\r\ncontent-length: 10000000000\r\n\r\n";
        flood(to, head, &[b'x'; 65536], AT_ONCE)
    }),
    ("chunks-ok", "ok", |to| {
        let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        flood(to, head, b"5\r\nhello\r\n", AT_ONCE)
    }),
    ("chunks-error", "response_too_large", |to| {
        let head = b"HTTP/1.1 503 No\r\ntransfer-encoding: chunked\r\n\r\n";
        flood(to, head, b"5\r\nhello\r\n", AT_ONCE)
    }),
    ("until-close", "response_too_large", |to| {
        flood(to, b"HTTP/1.1 500 No\r\n\r\n", &[b'x'; 65536], AT_ONCE)
    }),
    ("slow-head", "request_timeout", |to| flood(to, b"HTTP/1.1 200 OK\r\n", b"x", SLOWLY)),
    ("slow-status", "request_timeout", |to| flood(to, b"H", b"T", SLOWLY)),
    ("slow-body-ok", "ok", |to| {
        flood(to, b"HTTP/1.1 200 OK\r\ncontent-length: 3600\r\n\r\n", b"x", SLOWLY)
    }),
    ("slow-body-error", "body_timeout", |to| {
        flood(to, b"HTTP/1.1 500 No\r\ncontent-length: 3600\r\n\r\n", b"x", SLOWLY)
    }),
    ("endless-continue", "protocol", |to| {
        flood(to, b"", b"HTTP/1.1 100 Continue\r\n\r\n", AT_ONCE)
    }),
    ("endless-hints", "request_timeout", |to| {
        let hint = b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n";
        flood(to, b"", hint, (TEN_GB, Duration::from_millis(1)))
    }),
    ("switching", "http_status", |to| {
        to.write_all(
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        )
    }),
    ("million-headers", "protocol", |to| {
        flood(to, b"HTTP/1.1 200 OK\r\n", b"a: b\r\n", (6_000_000, Duration::ZERO))
    }),
    ("long-header", "protocol", |to| flood(to, b"HTTP/1.1 200 OK\r\na: ", &[b'x'; 4096], AT_ONCE)),
    ("long-reason", "protocol", |to| flood(to, b"HTTP/1.1 200 ", &[b'x'; 4096], AT_ONCE)),
    ("no-status", "protocol", |to| to.write_all(b"HTTP/1.1 abc OK\r\n\r\n")),
    ("no-http", "protocol", |to| to.write_all(b"220 mail.example.com ESMTP\r\n")),
    ("other-version", "protocol", |to| to.write_all(b"HTTP/9.9 200 OK\r\n\r\n")),
    ("two-lengths", "protocol", |to| {
        to.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab")
    }),
    ("bad-chunk", "ok", |to| {
        to.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nab\r\n")
    }),
    ("extra-bytes", "ok", |to| {
        to.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 500 No\r\n\r\n")
    }),
    ("early-error", "http_status", |to| {
        to.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")?;
        to.shutdown(Shutdown::Write)
    }),
    ("reset-after-head", "ok", |to| {
        to.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nok")?;
        // Bytes that are on their way are lost with a reset: the head must have been read.
        thread::sleep(Duration::from_millis(300));
        reset(to)
    }),
    ("reset", "connect_reset", |to| reset(to)),
    ("bomb-ok", "ok", |to| to.write_all(&bomb("200 OK"))),
    ("bomb-error", "http_status", |to| to.write_all(&bomb("500 No"))),
    ("reason-escapes", "protocol", |to| {
        to.write_all(b"HTTP/1.1 500 \x1b[2J\x07bad\r\ncontent-length: 0\r\n\r\n")
    }),
    ("header-escapes", "protocol", |to| {
        to.write_all(b"HTTP/1.1 302 Found\r\nlocation: \x1b[31mx\r\ncontent-length: 0\r\n\r\n")
    }),
    ("location-c1", "redirect", |to| {
        to.write_all("HTTP/1.1 302 Found\r\nlocation: /\u{9b}31m\u{202e}x\r\n\r\n".as_bytes())?;
        to.shutdown(Shutdown::Write)
    }),
    ("body-escapes", "http_status", |to| {
        let body = "\u{1b}]0;owned\u{7}\u{9b}2J\u{7f}\u{202e}\r\nforged line";
        write!(to, "HTTP/1.1 500 No\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }),
];

/// A gzip stream of 1 GiB of zeros in about 1 MiB, ten times over, would be just as much to us: it is not looked into.
fn bomb(status: &str) -> Vec<u8> {
    let gzip = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    let body: Vec<u8> = gzip.into_iter().chain(std::iter::repeat_n(0x00, 40_000)).collect();
    let mut answer = format!(
        "HTTP/1.1 {status}\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    answer.extend_from_slice(&body);
    answer
}

const QUICK: &str = "timeout = \"1s\"\nretry = { interval = \"100ms\", max_interval = \"100ms\", \
    jitter = \"none\", on_status = [\"5xx\"] }";

#[test]
fn hostile_endpoints_end_as_their_code_and_the_next_delivery_is_fine() {
    let rogues: Vec<Rogue> = ROGUES.iter().copied().map(Rogue::start).collect();
    let site = Site::with("", "[log]\nlevel = \"debug\"\nformat = \"text\"\n");
    for rogue in &rogues {
        let url = format!("http://{}/{}", rogue.address, rogue.name);
        site.connection(rogue.name, &url, QUICK);
    }
    let mut daemon = Daemon::start(&site);
    let before = peak_kib(&daemon);
    let begun = now();
    // Larger than what the sockets' buffers take at once, so that early answers are early.
    let event = |letter: u8| vec![letter; 1 << 20];
    let posted = site.producer().post("/v1/events", &[], &event(b'a')).unwrap();
    assert_eq!(posted.status, 202, "{}", posted.json);
    eventually("every first attempt has ended", SOON, || {
        let metrics = daemon.metrics();
        rogues.iter().all(|rogue| {
            metrics.sum("posthaste_delivery_attempts_total", &[("connection", rogue.name)]) >= 1.0
        })
    });
    // All of them at once: the longest is the timeout of a second.
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    eventually("nothing waits", SOON, || {
        let metrics = daemon.metrics();
        rogues.iter().all(|rogue| metrics.waiting(rogue.name) == 0.0)
    });
    let metrics = daemon.metrics();
    let mut wrong = Vec::new();
    for rogue in &rogues {
        let count = |code: &str| {
            let labels = [("connection", rogue.name), ("code", code)];
            metrics.sum("posthaste_delivery_attempts_total", &labels)
        };
        if count(rogue.code) < 1.0 {
            let attempts = metrics.text.lines().filter(|line| {
                line.contains("attempts_total")
                    && line.contains(rogue.name)
                    && !line.ends_with(" 0")
            });
            wrong.push((rogue.name, rogue.code, attempts.collect::<Vec<_>>()));
        }
    }
    assert!(wrong.is_empty(), "not as expected: {wrong:#?}");
    let grown = peak_kib(&daemon) - before;
    assert!(grown < 64 * 1024, "{grown} KiB more at the peak");
    let flooded = FLOODED.load(Ordering::Relaxed);
    assert!(flooded < 10 * IN_BUFFERS, "{flooded} bytes were taken");
    let delivered = |name: &str| {
        let labels = [("connection", name), ("outcome", "delivered")];
        daemon.metrics().sum("posthaste_deliveries_total", &labels)
    };
    let had: Vec<f64> = rogues.iter().map(|rogue| delivered(rogue.name)).collect();
    let posted = site.producer().post("/v1/events", &[], &event(b'b')).unwrap();
    assert_eq!(posted.status, 202, "{}", posted.json);
    for (rogue, had) in rogues.iter().zip(had) {
        eventually(rogue.name, SOON, || delivered(rogue.name) == had + 1.0);
    }
    // What came behind the answer is nobody's, so that connection is not used again.
    for name in ["extra-bytes", "bad-chunk", "large-ok", "slow-body-ok"] {
        let rogue = rogues.iter().find(|rogue| rogue.name == name).unwrap();
        assert!(rogue.seen.opened.load(Ordering::Relaxed) >= 2, "{name}");
    }
    shows_nothing_raw(&daemon);
    let names: Vec<&str> = rogues.iter().map(|rogue| rogue.name).collect();
    daemon.drained(&names);
    daemon.stop();
}

/// Logs, tables and JSON of the command line.
fn shows_nothing_raw(daemon: &Daemon<'_>) {
    let show = |arguments: &[&str]| {
        let output = daemon.cli(arguments);
        assert!(output.status.success(), "{arguments:?}");
        let text = [output.stdout, output.stderr].concat();
        (arguments.join(" "), String::from_utf8(text).unwrap())
    };
    let attempts = show(&["attempts", "--limit", "255"]);
    assert!(attempts.1.contains("owned"), "the body is shown: {}", attempts.1);
    let json = show(&["attempts", "--limit", "255", "--json"]);
    assert!(json.1.contains("owned") && json.1.contains("location: /"), "{}", json.1);
    let texts = [
        attempts,
        json,
        show(&["status"]),
        show(&["status", "--json"]),
        show(&["dead", "list"]),
        show(&["dead", "list", "--json"]),
        ("the log".to_owned(), daemon.stderr()),
    ];
    for (what, text) in texts {
        let raw = text.chars().find(|c| (c.is_control() && *c != '\n') || *c == '\u{202e}');
        assert_eq!(raw, None, "{what}:\n{text}");
        assert!(!text.lines().any(|line| line.starts_with("forged")), "{what}");
    }
}

/// The most memory that the daemon ever had.
fn peak_kib(daemon: &Daemon<'_>) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
