//! `posthaste listen`: a receiver for development, which prints what arrives.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use http::StatusCode;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::output::{self, Paint};
use super::receiver::{Behaviour, Received, Receiver, Verdict};
use super::{Failure, TEMPLATE, block_on};
use crate::admin::api::rfc3339;
use crate::clock::Clock;
use crate::connection::sign::standard::Verifier;
use crate::logging::escape;
use crate::secret::{Env, Secret, SecretRef};
use crate::units::HumanDuration;

/// Reports that may wait for the terminal.
const REPORTS_MAX: usize = 64;
/// Bytes of a body that `--verbose` shows.
const SHOWN_BYTES_MAX: usize = 64 * 1024;

/// Receive webhooks and print them
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste listen
  posthaste listen 127.0.0.1:9000 -v
  posthaste listen --status 503 --delay 200ms
  posthaste listen --fail 0.25 --count 100 --json
  posthaste listen --secret-env CRM_SIGNING
  posthaste listen --public-key whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=

With a secret or a public key, signatures (Standard Webhooks) are verified, and a request without a good one is answered 401.

")]
pub(super) struct Arguments {
    /// Where to listen; port 0 takes a free one
    #[arg(default_value = "127.0.0.1:8080")]
    address: SocketAddr,
    /// Answer with this status
    #[arg(long, value_name = "STATUS", default_value = "200", value_parser = parse_status)]
    status: StatusCode,
    /// Wait so long before an answer
    #[arg(long, value_name = "DURATION", default_value = "0ms", value_parser = parse_delay)]
    delay: Duration,
    /// Answer this share of requests with 503 instead; 0 to 1
    #[arg(long, value_name = "RATE", default_value = "0", value_parser = parse_rate)]
    fail: f64,
    /// Exit after so many requests
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Verify signatures with the whsec_ or whsk_ secret in this environment variable; may be repeated
    #[arg(long, value_name = "NAME")]
    secret_env: Vec<String>,
    /// Verify signatures with the secret in this file; may be repeated
    #[arg(long, value_name = "FILE")]
    secret_file: Vec<PathBuf>,
    /// Verify signatures with this whpk_ key; may be repeated
    #[arg(long, value_name = "KEY")]
    public_key: Vec<String>,
    /// Print headers and bodies
    #[arg(long, short)]
    verbose: bool,
    /// Print JSON, a line for each request
    #[arg(long, conflicts_with = "verbose")]
    json: bool,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    block_on(listen(&arguments))
}

async fn listen(arguments: &Arguments) -> Result<(), Failure> {
    let address = arguments.address;
    let verifiers = verifiers(arguments)?;
    let receiver = Receiver::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}; is something else there?"))?;
    output::say(&format!("listening on http://{}", receiver.address()));
    let behaviour = Behaviour {
        status: arguments.status,
        delay: arguments.delay,
        fail: arguments.fail,
        count: arguments.count,
        verifiers,
    };
    let (sender, mut reports) = mpsc::channel(REPORTS_MAX);
    let stop = CancellationToken::new();
    let mut serving = JoinSet::new();
    serving.spawn(receiver.serve(behaviour, sender, stop.clone()));
    // Both are cancel safe: what was not printed when Ctrl-C comes is not wanted.
    let printed = tokio::select! {
        printed = print_all(arguments, &mut reports) => printed,
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    // The last answers go out before the end.
    stop.cancel();
    drop(reports);
    serving.join_all().await;
    printed
}

/// What signatures are verified with; none: they are not.
fn verifiers(arguments: &Arguments) -> Result<Vec<Verifier>, Failure> {
    let named = arguments.secret_env.iter().map(|name| SecretRef::Env(name.clone()));
    let files = arguments.secret_file.iter().map(|path| SecretRef::File(path.clone()));
    let keys = arguments.public_key.iter().map(|key| SecretRef::Plain(Secret::new(key.as_str())));
    let read = |path: &Path| std::fs::read(path).map_err(|error| error.to_string());
    let mut verifiers = Vec::new();
    for reference in named.chain(files).chain(keys) {
        let secret = reference.resolve(&Env::Process, read).context("cannot verify signatures")?;
        let verifier = Verifier::parse(&secret);
        verifiers
            .push(verifier.map_err(|error| anyhow!("cannot verify signatures: a key {error}"))?);
    }
    Ok(verifiers)
}

async fn print_all(
    arguments: &Arguments,
    reports: &mut mpsc::Receiver<Received>,
) -> Result<(), Failure> {
    let (clock, paint) = (Clock::system(), Paint::for_stdout());
    let mut left = arguments.count;
    while left != Some(0) {
        let Some(received) = reports.recv().await else {
            return Ok(());
        };
        let at = rfc3339(clock.wall_ms());
        if arguments.json {
            output::json(&Line::new(&at, &received))?;
        } else {
            output::write(render(&at, &received, arguments.verbose, paint).as_bytes())?;
        }
        left = left.map(|left| left - 1);
    }
    Ok(())
}

/// A request, for programs.
#[derive(Debug, Serialize)]
struct Line<'a> {
    at: &'a str,
    method: &'a str,
    target: &'a str,
    status: u16,
    headers: Vec<(&'a str, String)>,
    body_bytes: usize,
    /// The whole body, when it is UTF-8.
    body: Option<&'a str>,
    /// `ok`, or why the signature is not believed; nothing when it was not looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    signature: Option<String>,
}

impl<'a> Line<'a> {
    fn new(at: &'a str, received: &'a Received) -> Line<'a> {
        let text =
            |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = received.headers.iter();
        Line {
            at,
            method: received.method.as_str(),
            target: &received.target,
            status: received.status.as_u16(),
            headers: headers.map(|(name, value)| (name.as_str(), text(value))).collect(),
            body_bytes: received.body.len(),
            body: std::str::from_utf8(&received.body).ok(),
            signature: received.verdict.map(said),
        }
    }
}

/// What is said about a signature that was looked at.
fn said(verdict: Verdict) -> String {
    verdict.map_or_else(|mismatch| mismatch.to_string(), |()| "ok".to_owned())
}

/// One line, and with `verbose` headers and body below it. Nothing that came can drive the terminal.
pub(super) fn render(at: &str, received: &Received, verbose: bool, paint: Paint) -> String {
    let status = match received.status {
        status if status.is_success() => paint.good(status.as_str()),
        status => paint.bad(status.as_str()),
    };
    let mut text = format!(
        "{} {} {} {status} {}",
        paint.faint(at),
        received.method,
        escape(&received.target),
        output::bytes(received.body.len() as u64),
    );
    if let Some(id) = received.header("webhook-id") {
        text += &format!(" {}", escape(id));
    }
    if let Some(attempt) = received.header("posthaste-attempt").filter(|attempt| *attempt != "1") {
        text += &format!(" attempt {}", escape(attempt));
    }
    if let Some(verdict) = received.verdict {
        let word = format!("signature {}", said(verdict));
        text += " ";
        text += &if verdict.is_ok() { paint.good(&word) } else { paint.bad(&word) };
    }
    text.push('\n');
    if verbose {
        describe(&mut text, received);
    }
    text
}

fn describe(text: &mut String, received: &Received) {
    for (name, value) in &received.headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {name}: {}", escape(&value));
    }
    let shown = received.body.get(..SHOWN_BYTES_MAX).unwrap_or(&received.body);
    let body = String::from_utf8_lossy(shown);
    for line in body.lines() {
        let _ = writeln!(text, "  | {}", escape(line));
    }
    if shown.len() < received.body.len() {
        let _ = writeln!(
            text,
            "  | … and {} more",
            output::bytes((received.body.len() - shown.len()) as u64)
        );
    }
}

fn parse_status(text: &str) -> Result<StatusCode, String> {
    text.parse()
        .ok()
        .filter(|status: &StatusCode| (200..600).contains(&status.as_u16()))
        .ok_or_else(|| format!("{text:?} is not a final status; write 200 to 599"))
}

fn parse_delay(text: &str) -> Result<Duration, String> {
    text.parse().map(|HumanDuration(delay)| delay).map_err(|error| error.to_string())
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.0..=1.0).contains(rate));
    rate.ok_or_else(|| format!("{text:?} is not a rate; write 0 to 1, as in 0.25"))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue, Method};

    use super::*;
    use crate::connection::sign::standard::Mismatch;

    fn received(body: &'static [u8]) -> Received {
        let mut headers = HeaderMap::new();
        headers.insert("webhook-id", HeaderValue::from_static("evt_1"));
        headers.insert("posthaste-attempt", HeaderValue::from_static("2"));
        headers.insert("x-raw", HeaderValue::from_bytes(b"\xff\t").unwrap());
        Received {
            method: Method::POST,
            target: "/hook".to_owned(),
            headers,
            body: Bytes::from_static(body),
            status: StatusCode::OK,
            verdict: None,
        }
    }

    #[test]
    fn a_line_for_each_request_and_more_when_asked() {
        let received = received(b"{\n\x1b[2J}");
        let line = render("now", &received, false, Paint::plain());
        assert_eq!(line, "now POST /hook 200 7 B evt_1 attempt 2\n");
        let text = render("now", &received, true, Paint::plain());
        assert!(text.contains("  webhook-id: evt_1\n"), "{text}");
        assert!(text.ends_with("  | {\n  | \\u{1b}[2J}\n"), "{text}");
    }

    #[test]
    fn what_was_found_of_a_signature_is_said() {
        let mut received = received(b"{}");
        for (verdict, word) in
            [(Ok(()), "ok"), (Err(Mismatch::Old), "webhook-timestamp is too old")]
        {
            received.verdict = Some(verdict);
            let line = render("now", &received, false, Paint::plain());
            assert!(line.ends_with(&format!(" signature {word}\n")), "{line}");
            let line = serde_json::to_value(Line::new("now", &received)).unwrap();
            assert_eq!(line["signature"], word);
        }
    }

    #[test]
    fn programs_get_the_whole_body_or_none() {
        let text = received(b"{}");
        let line = serde_json::to_value(Line::new("now", &text)).unwrap();
        assert_eq!((&line["body"], &line["status"]), (&"{}".into(), &200.into()));
        let binary = received(b"\xff");
        let line = serde_json::to_value(Line::new("now", &binary)).unwrap();
        assert_eq!((&line["body"], &line["body_bytes"]), (&serde_json::Value::Null, &1.into()));
    }

    #[test]
    fn a_large_body_is_cut_and_said() {
        let body: &'static [u8] = vec![b'x'; SHOWN_BYTES_MAX + 5].leak();
        let text = render("now", &received(body), true, Paint::plain());
        assert!(text.ends_with("… and 5 B more\n"), "{}", text.len());
    }
}
