//! `posthaste send`: posts one event to a running daemon.

use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use clap::Args;
use http::{HeaderName, HeaderValue, Request};
use http_body_util::Full;
use serde::Deserialize;

use super::admin::{refusal, target};
use super::http::{Endpoint, exchange};
use super::{Failure, TEMPLATE, block_on, output, settings};

/// No configuration takes a larger body: a quarter of the largest segment.
const BODY_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// How long the daemon may take to make it durable.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Post an event
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste send order.json --type order.created
  posthaste send --data '{\"hello\":\"world\"}'
  generate-order | posthaste send - --source shop --key order-42
  posthaste send --connection crm --data hello --to http://127.0.0.1:8377
")]
pub(super) struct Arguments {
    /// The body: a file, or - for stdin
    #[arg(required_unless_present = "data")]
    file: Option<PathBuf>,
    /// The body itself
    #[arg(long, value_name = "TEXT", conflicts_with = "file")]
    data: Option<String>,
    /// Post to this source [default: default]
    #[arg(long, value_name = "NAME", conflicts_with = "connection")]
    source: Option<String>,
    /// Post to this connection alone
    #[arg(long, value_name = "NAME")]
    connection: Option<String>,
    /// The event's type
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// The idempotency key: the same key makes no second event
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// One more header; may be given again
    #[arg(long = "header", value_name = "NAME:VALUE", value_parser = parse_header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Where the daemon takes events: http://HOST:PORT or unix:PATH [default: what the configuration says]
    #[arg(long, value_name = "ADDRESS")]
    to: Option<Endpoint>,
    /// The daemon's configuration file, to find its address
    #[arg(long, value_name = "FILE", conflicts_with = "to")]
    config: Option<PathBuf>,
    /// Print the answer as it came
    #[arg(long)]
    json: bool,
}

/// What a 202 says; more may be in it.
#[derive(Debug, Deserialize)]
struct Accepted {
    id: String,
    #[serde(default)]
    durable: bool,
    #[serde(default)]
    connections: u64,
    #[serde(default)]
    full: Vec<String>,
}

pub(super) fn run(mut arguments: Arguments) -> Result<(), Failure> {
    let body = body(&arguments)?;
    let endpoint = match arguments.to.take() {
        Some(endpoint) => endpoint,
        None => settings::locate(arguments.config.as_deref()).ingress,
    };
    let answer = block_on(async {
        let request = request(&arguments, body)?;
        Ok(exchange(&endpoint, request, TIMEOUT).await?)
    })?;
    if arguments.json {
        output::write(&answer.body)?;
        output::line("")?;
    }
    if !answer.status.is_success() {
        return Err(refusal(&answer));
    }
    if arguments.json {
        return Ok(());
    }
    let accepted: Accepted =
        serde_json::from_slice(&answer.body).context("the daemon's answer is not understood")?;
    output::line(&describe(&accepted))
}

fn describe(accepted: &Accepted) -> String {
    let durable = if accepted.durable { "on disk" } else { "accepted, not yet on disk" };
    let count = output::plural(accepted.connections, "connection");
    let full = match accepted.full.as_slice() {
        [] => String::new(),
        full => format!(" (full, dead letters now: {})", full.join(", ")),
    };
    crate::logging::escape(&format!("{} {durable}, for {count}{full}", accepted.id))
}

fn body(arguments: &Arguments) -> anyhow::Result<Bytes> {
    if let Some(text) = &arguments.data {
        return Ok(Bytes::from(text.clone()));
    }
    let mut body = Vec::new();
    match arguments.file.as_deref() {
        Some(path) if path.as_os_str() != "-" => {
            let file = std::fs::File::open(path)
                .with_context(|| format!("cannot open {}", path.display()))?;
            read_bounded(file, &mut body)
                .with_context(|| format!("cannot read {}", path.display()))?;
        }
        _ => read_bounded(std::io::stdin().lock(), &mut body).context("cannot read stdin")?,
    }
    Ok(Bytes::from(body))
}

pub(super) fn read_bounded(input: impl Read, body: &mut Vec<u8>) -> anyhow::Result<()> {
    input.take(BODY_BYTES_MAX + 1).read_to_end(body)?;
    if body.len() as u64 > BODY_BYTES_MAX {
        bail!("more than {}, which no daemon takes", output::bytes(BODY_BYTES_MAX));
    }
    Ok(())
}

fn request(arguments: &Arguments, body: Bytes) -> Result<Request<Full<Bytes>>, Failure> {
    let target = match (&arguments.connection, &arguments.source) {
        (Some(name), _) => target(&["connections", name, "events"], &[])?,
        (None, Some(name)) => target(&["sources", name, "events"], &[])?,
        (None, None) => target(&["events"], &[])?,
    };
    let mut request = Request::post(target).body(()).context("the request")?;
    let headers = request.headers_mut();
    for (name, value) in [("posthaste-type", &arguments.kind), ("idempotency-key", &arguments.key)]
    {
        if let Some(value) = value {
            let value = HeaderValue::from_str(value)
                .map_err(|_| anyhow!("{value:?} cannot be the header {name}"))?;
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    for (name, value) in &arguments.headers {
        headers.append(name.clone(), value.clone());
    }
    headers
        .entry(http::header::CONTENT_TYPE)
        .or_insert_with(|| HeaderValue::from_static(output::guess_type(&body)));
    Ok(request.map(|()| Full::new(body)))
}

pub(super) fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let wrong = || format!("{text:?} is not a header; write \"Name: value\"");
    let (name, value) = text.split_once(':').ok_or_else(wrong)?;
    let name = name.trim().parse().map_err(|_| wrong())?;
    let value = value.trim().parse().map_err(|_| wrong())?;
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use http_body_util::BodyExt;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        send: Arguments,
    }

    fn parse(line: &[&str]) -> Arguments {
        Line::try_parse_from(std::iter::once(&"send").chain(line)).unwrap().send
    }

    #[tokio::test]
    async fn the_request_says_what_was_asked() {
        let arguments = parse(&[
            "--source",
            "shop",
            "--type",
            "order.created",
            "--key",
            "k1",
            "--header",
            "X-A: 1",
            "--header",
            "x-a:2",
            "--data",
            "{\"a\":1}",
        ]);
        let request = request(&arguments, body(&arguments).unwrap()).unwrap();
        assert_eq!(request.uri(), "/v1/sources/shop/events");
        let header = |name: &str| {
            let values = request.headers().get_all(name).iter();
            values.map(|value| value.to_str().unwrap()).collect::<Vec<_>>().join(",")
        };
        assert_eq!(header("posthaste-type"), "order.created");
        assert_eq!(header("idempotency-key"), "k1");
        assert_eq!(header("x-a"), "1,2");
        assert_eq!(header("content-type"), "application/json");
        assert_eq!(request.into_body().collect().await.unwrap().to_bytes(), "{\"a\":1}");
    }

    #[test]
    fn a_given_content_type_wins_and_names_are_encoded() {
        let arguments =
            parse(&["--connection", "a/b", "--data", "x", "--header", "content-type: text/plain"]);
        let request = request(&arguments, Bytes::from_static(b"x")).unwrap();
        assert_eq!(request.uri(), "/v1/connections/a%2Fb/events");
        assert_eq!(request.headers()["content-type"], "text/plain");
        assert_eq!(output::guess_type(b"\x00\x01"), "application/octet-stream");
        assert_eq!(output::guess_type(b""), "application/octet-stream");
    }

    #[test]
    fn answers_are_put_into_words() {
        let check = |json: &str, expected: &str| {
            assert_eq!(describe(&serde_json::from_str(json).unwrap()), expected);
        };
        check(
            r#"{"id":"evt_1","durable":true,"connections":3}"#,
            "evt_1 on disk, for 3 connections",
        );
        check(
            r#"{"id":"evt_1","durable":true,"connections":1,"full":["crm"]}"#,
            "evt_1 on disk, for 1 connection (full, dead letters now: crm)",
        );
    }

    #[test]
    fn endless_input_is_refused() {
        let mut body = Vec::new();
        assert!(read_bounded(std::io::repeat(b'x').take(10), &mut body).is_ok());
        assert_eq!(body.len(), 10);
    }
}
