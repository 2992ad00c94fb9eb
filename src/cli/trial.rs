//! `posthaste test`: tries a connection, part by part, before or after it is saved.

use std::path::PathBuf;

use anyhow::{Context, anyhow};
use clap::Args;
use http::{HeaderValue, Method, header};

use super::admin::{Admin, Asked, target};
use super::connections::document::read_document;
use super::output::{self, Fields, Paint, Table};
use super::{Failure, TEMPLATE, block_on, sample};
use crate::admin::api::trial::{TestCertificate, TestPart, TestReport, TestRequest};
use crate::logging::escape;

/// Try a connection: its name, address, TLS, token, and with --send an event
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste test crm
  posthaste test crm --send
  posthaste test crm --send --body order.json
  posthaste test --file crm.toml --json

The running daemon tries it, as it would deliver. Without --send no request is made: what an endpoint refuses only
then (a method, a signature, with TLS 1.3 a client certificate) shows with --send. The event of a test has the type
posthaste.test and the header posthaste-test: true. The exit code is 1 when a part failed.

")]
pub(super) struct Arguments {
    /// The connection
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    name: Option<String>,
    /// Try the connection in this file, TOML or JSON, before it is saved; - is stdin
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Send an event that says that it is a test
    #[arg(long)]
    send: bool,
    /// The event's body; a file, or - for stdin
    #[arg(long, value_name = "FILE", conflicts_with_all = ["data", "file"])]
    body: Option<PathBuf>,
    /// The event's body itself
    #[arg(long, value_name = "TEXT", conflicts_with = "file")]
    data: Option<String>,
    #[command(flatten)]
    asked: Asked,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let send = [("send", "true")];
    let query = if arguments.send { &send[..] } else { &[] };
    let (path, body) = match (&arguments.name, &arguments.file) {
        (_, Some(file)) => {
            let document = serde_json::Value::Object(read_document(file)?);
            (target(&["connections", "test"], query)?, document.to_string().into_bytes())
        }
        (name, None) => {
            let name = name.as_deref().unwrap_or_default();
            (target(&["connections", name, "test"], query)?, body(&arguments)?)
        }
    };
    let mut headers = Vec::new();
    if !body.is_empty() {
        headers.push((header::CONTENT_TYPE, HeaderValue::from_static(output::guess_type(&body))));
    }
    let Asked { json, which } = arguments.asked;
    let admin = Admin::new(which);
    let answer = block_on(admin.send(Method::POST, &path, headers, body.into()))?;
    let report: TestReport =
        serde_json::from_slice(&answer).context("the daemon's answer is not understood")?;
    match json {
        true => output::json(&report)?,
        false => output::write(render(&report, Paint::for_stdout()).as_bytes())?,
    }
    verdict(&report)
}

fn body(arguments: &Arguments) -> Result<Vec<u8>, Failure> {
    Ok(match (&arguments.body, &arguments.data) {
        (Some(file), _) => sample::read(file)?,
        (None, Some(data)) => data.clone().into_bytes(),
        (None, None) => Vec::new(),
    })
}

fn verdict(report: &TestReport) -> Result<(), Failure> {
    if report.ok {
        return Ok(());
    }
    let failed = report.parts.iter().filter(|part| part.verdict == "failed");
    let failed: Vec<String> = failed
        .map(|part| format!("{} ({})", part.name, part.code.as_deref().unwrap_or("no code")))
        .collect();
    let text = format!("{} failed its test: {}", report.connection, failed.join(", "));
    Err(Failure::Failed(anyhow!("{}", escape(&text))))
}

fn render(report: &TestReport, paint: Paint) -> String {
    let mut table = Table::new(&["PART", "VERDICT", "TOOK", "DETAIL"]);
    for part in &report.parts {
        let took = part.seconds.map_or("-".to_owned(), |seconds| format!("{seconds:.3}s"));
        let detail = match &part.code {
            Some(code) => format!("{code}: {}", part.detail),
            None => part.detail.clone(),
        };
        table.row([part.name.clone(), part.verdict.clone(), took, detail]);
    }
    let mut text = coloured(&table.render(), &report.parts, paint);
    for part in &report.parts {
        if let Some(advice) = &part.advice {
            text += &format!("\n{}: {}\n", escape(&part.name), escape(advice));
        }
    }
    if !report.certificates.is_empty() {
        text += "\ncertificates, the endpoint's own first\n";
        text += &certificates(&report.certificates);
    }
    text += &report.request.as_ref().map(request).unwrap_or_default();
    if let Some(response) = &report.response {
        text += &format!("\nthe answer: {}\n", response.status);
        text += &output::excerpt(Some(&response.body));
    }
    text
}

/// The lines of the parts, in the colours of their verdicts.
fn coloured(table: &str, parts: &[TestPart], paint: Paint) -> String {
    let mut lines = table.lines();
    let mut text = lines.next().map(|heading| format!("{heading}\n")).unwrap_or_default();
    for (line, part) in lines.zip(parts) {
        let line = match part.verdict.as_str() {
            "ok" => paint.good(line),
            "failed" => paint.bad(line),
            _ => paint.faint(line),
        };
        text += &format!("{line}\n");
    }
    text
}

fn certificates(chain: &[TestCertificate]) -> String {
    let mut table = Table::new(&["SUBJECT", "NAMES", "ENDS", "SIGNED BY"]);
    for certificate in chain {
        let ends = match certificate.days_left {
            days if days < 0 => format!("{}, it is over", certificate.not_after),
            days => format!("{}, in {days} days", certificate.not_after),
        };
        let names = match certificate.names.as_slice() {
            [] => "-".to_owned(),
            names => names.join(", "),
        };
        table.row([certificate.subject.clone(), names, ends, certificate.issuer.clone()]);
    }
    table.render()
}

fn request(request: &TestRequest) -> String {
    let mut fields = Fields::default();
    fields.line("request", &format!("{} {}", request.method, request.url));
    for header in &request.headers {
        fields.line("header", &format!("{}: {}", header.name, header.value));
    }
    format!("\n{}{}", fields.text(), output::excerpt(Some(&request.body)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::api::Header;
    use crate::admin::api::trial::TestResponse;

    fn part(name: &str, verdict: &str, seconds: Option<f64>, code: Option<&str>) -> TestPart {
        TestPart {
            name: name.to_owned(),
            verdict: verdict.to_owned(),
            seconds,
            code: code.map(str::to_owned),
            detail: format!("about {name}"),
            advice: code.map(|_| "mend it".to_owned()),
        }
    }

    #[test]
    fn people_see_each_part_and_the_mend() {
        let report = TestReport {
            connection: "crm".to_owned(),
            ok: false,
            parts: vec![
                part("dns", "skipped", None, None),
                part("connect", "ok", Some(0.0123), None),
                part("tls", "failed", Some(1.5), Some("tls_expired")),
            ],
            remote: Some("127.0.0.1:443".to_owned()),
            certificates: vec![TestCertificate {
                subject: "CN=\u{1b}[2Jcrm".to_owned(),
                issuer: "CN=ca".to_owned(),
                names: vec!["a".to_owned(), "b".to_owned()],
                not_before: "2001-01-01T00:00:00.000Z".to_owned(),
                not_after: "2002-01-01T00:00:00.000Z".to_owned(),
                days_left: -1,
            }],
            request: Some(TestRequest {
                event: "evt_1".to_owned(),
                method: "POST".to_owned(),
                url: "https://crm/".to_owned(),
                headers: vec![Header { name: "authorization".to_owned(), value: "***".to_owned() }],
                body: "{}".to_owned(),
            }),
            response: Some(TestResponse { status: 503, body: "no\u{7}".to_owned() }),
        };
        let expected = "\
PART     VERDICT  TOOK    DETAIL
dns      skipped  -       about dns
connect  ok       0.012s  about connect
tls      failed   1.500s  tls_expired: about tls

tls: mend it

certificates, the endpoint's own first
SUBJECT           NAMES  ENDS                                   SIGNED BY
CN=\\u{1b}[2Jcrm  a, b   2002-01-01T00:00:00.000Z, it is over   CN=ca

request     POST https://crm/
header      authorization: ***

{}

the answer: 503

no\\u{7}
";
        let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(squeeze(&render(&report, Paint::plain())), squeeze(expected));
        let failure = verdict(&report).unwrap_err();
        assert_eq!(failure.exit_code(), 1);
        assert_eq!(failure.to_string(), "crm failed its test: tls (tls_expired)");
        assert!(verdict(&TestReport { ok: true, ..report }).is_ok());
    }
}
