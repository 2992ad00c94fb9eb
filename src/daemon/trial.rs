//! Tests of connections, in force or not saved yet. The control loop prepares one and hands it to its runtime; whoever asked
//! waits for it there, so the loop does not.

use std::sync::Arc;

use serde_json::json;

use super::Daemon;
use crate::admin::api::connections::AuditRecord;
use crate::admin::api::trial::{TestCertificate, TestPart, TestReport, TestRequest, TestResponse};
use crate::admin::api::{Header, rfc3339};
use crate::admin::command::{Subject, Test, Testing};
use crate::admin::manage::{EditRefused, Why};
use crate::clock::Clock;
use crate::config::edit::{self, Object};
use crate::config::{Pending, edit::EditError};
use crate::connection::Connection;
use crate::delivery::trial::{Order, Report, TEST_TYPE, TRIALS_MAX, Trial, Verdict};

mod advice;

/// The word of a test in the audit log.
pub(super) const ACTION: &str = "test";

impl Daemon {
    /// Begins a test; what is returned ends with it.
    pub(super) async fn test(&mut self, test: Test) -> Result<Testing, EditRefused> {
        let connection = match test.subject {
            Subject::Saved(name) => self.saved(&name)?,
            Subject::Document(document) => self.unsaved(document).await?,
        };
        let name = connection.name.clone();
        let order = Order {
            send: test.send,
            body: test.body.unwrap_or_else(|| self.test_body(&name)),
            content_type: test.content_type,
        };
        let trial = Trial::new(&connection, order);
        let trial = trial.map_err(|error| cannot(Why::Document, error.to_string()))?;
        let Some(report) = self.dispatcher.test(trial).await else {
            let message = format!("{TRIALS_MAX} tests run already; try again");
            return Err(cannot(Why::TooMany, message));
        };
        if test.send {
            self.audit.add(AuditRecord {
                by: test.by,
                action: ACTION.to_owned(),
                connection: Some(name.clone()),
                generation: self.generation,
                ..AuditRecord::default()
            });
        }
        let clock = self.clock.clone();
        Ok(Testing::new(async move { Some(told(name, report.await.ok()?, &clock)) }))
    }

    fn saved(&mut self, name: &str) -> Result<Arc<Connection>, EditRefused> {
        match self.live(name) {
            Some(live) => Ok(Arc::clone(&live.connection)),
            None => Err(self.refusal(EditError::Unknown(name.to_owned()))),
        }
    }

    /// What a document would be if it were saved now; nothing is written.
    async fn unsaved(&mut self, document: Object) -> Result<Arc<Connection>, EditRefused> {
        let name = match document.get("name").map(|name| name.as_str()) {
            Some(Some(name)) => name.to_owned(),
            Some(None) => return Err(cannot(Why::Document, "name is not a string".to_owned())),
            None => return Err(cannot(Why::Document, "name is missing".to_owned())),
        };
        let (directory, hint) = self.where_is(&name);
        let wanted = name.clone();
        let prepared = tokio::task::spawn_blocking(move || {
            let (change, condition) = (edit::Change::Replace(document), edit::Condition::default());
            edit::prepare(&directory, &wanted, change, &condition, hint.as_deref())
        });
        let prepared = prepared.await.map_err(|error| cannot(Why::Failed, error.to_string()))?;
        let prepared = prepared.map_err(|error| self.refusal(error))?;
        let pending = Pending { file: prepared.file, content: prepared.after };
        let loaded = self.load(vec![pending]).await;
        let loaded = loaded.map_err(|error| EditRefused::Invalid(error.refused))?;
        let mut connections = loaded.config.connections.into_iter();
        connections.find(|connection| connection.name == name).ok_or_else(|| {
            cannot(Why::Document, format!("{name:?} is not among what the files would make"))
        })
    }

    /// The body of an event that says what it is.
    fn test_body(&self, connection: &str) -> Vec<u8> {
        let body = json!({
            "type": TEST_TYPE,
            "timestamp": rfc3339(self.clock.wall_ms()),
            "data": { "connection": connection, "message": "a test of this connection; nothing has happened" },
        });
        body.to_string().into_bytes()
    }
}

fn cannot(why: Why, message: String) -> EditRefused {
    EditRefused::Cannot(why, message)
}

fn told(connection: String, report: Report, clock: &Clock) -> TestReport {
    let failed = |part: &crate::delivery::trial::Part| matches!(part.verdict, Verdict::Failed(..));
    let now = i64::try_from(clock.wall_ms() / 1000).unwrap_or(i64::MAX);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    TestReport {
        connection,
        ok: !report.parts.iter().any(failed),
        parts: report.parts.iter().map(part).collect(),
        remote: report.remote.map(|remote| remote.to_string()),
        certificates: report
            .certificates
            .into_iter()
            .map(|certificate| TestCertificate {
                days_left: (certificate.not_after - now).div_euclid(86_400),
                not_before: time(certificate.not_before),
                not_after: time(certificate.not_after),
                subject: certificate.subject,
                issuer: certificate.issuer,
                names: certificate.names,
            })
            .collect(),
        request: report.request.map(|shown| TestRequest {
            event: shown.event.to_string(),
            method: shown.method,
            url: shown.url,
            headers: shown
                .headers
                .into_iter()
                .map(|(name, value)| Header { name, value })
                .collect(),
            body: text(&shown.body),
        }),
        response: report
            .response
            .map(|answer| TestResponse { status: answer.status, body: text(&answer.body) }),
    }
}

fn part(part: &crate::delivery::trial::Part) -> TestPart {
    let (verdict, code, detail, advice) = match &part.verdict {
        Verdict::Ok(detail) => ("ok", None, detail.clone(), None),
        Verdict::Skipped(why) => ("skipped", None, (*why).to_owned(), None),
        Verdict::Failed(cause, detail) => {
            let advice = advice::of(*cause).to_owned();
            ("failed", Some(cause.as_str().to_owned()), detail.clone(), Some(advice))
        }
    };
    TestPart {
        name: part.kind.as_str().to_owned(),
        verdict: verdict.to_owned(),
        seconds: part.took.map(|took| took.as_secs_f64()),
        code,
        detail,
        advice,
    }
}

/// Unix seconds for people; what is before 1970 is 1970.
fn time(seconds: i64) -> String {
    rfc3339(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000))
}
