//! The admin API, from the outside: a path and a type in, a value or a failure out.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use clap::Args;
use http::header::RETRY_AFTER;
use http::{HeaderName, HeaderValue, Method, Request};
use http_body_util::Full;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::http::{Answer, Endpoint, exchange};
use super::{Failure, block_on, output, settings};
use crate::admin::api::ProblemDocument;

/// Longer than the daemon gives itself for one answer; a bulk replay of a million letters takes minutes.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Which daemon.
#[derive(Debug, Args)]
pub(super) struct Which {
    /// The daemon's admin socket [default: what the configuration says]
    #[arg(long, value_name = "PATH")]
    admin: Option<PathBuf>,
    /// The daemon's configuration file, to find its socket
    #[arg(long, value_name = "FILE", conflicts_with = "admin")]
    config: Option<PathBuf>,
}

impl Which {
    /// The daemon that listens there.
    pub(super) fn socket(path: PathBuf) -> Which {
        Which { admin: Some(path), config: None }
    }
}

/// Whom to ask, and how to print the answer.
#[derive(Debug, Args)]
pub(super) struct Asked {
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) which: Which,
}

impl Asked {
    /// What the daemon says to a GET.
    pub(super) fn get<T: DeserializeOwned>(self, target: &str) -> Result<T, Failure> {
        let admin = Admin::new(self.which);
        block_on(admin.get(target))
    }

    /// What the daemon says to a POST.
    pub(super) fn post<T: DeserializeOwned>(self, target: &str) -> Result<T, Failure> {
        let admin = Admin::new(self.which);
        block_on(admin.post(target))
    }

    /// Prints what the daemon has there, byte for byte.
    pub(super) fn show_bytes(self, target: &str) -> Result<(), Failure> {
        let admin = Admin::new(self.which);
        output::write(&block_on(admin.ask(Method::GET, target))?)
    }

    /// Prints what the daemon says to a GET.
    pub(super) fn show<T: DeserializeOwned + Serialize>(
        self,
        target: &str,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        let json = self.json;
        let value: T = self.get(target)?;
        if json { output::json(&value) } else { output::write(text(&value).as_bytes()) }
    }
}

/// A daemon's admin socket.
#[derive(Debug)]
pub(super) struct Admin {
    endpoint: Endpoint,
}

impl Admin {
    pub(super) fn new(which: Which) -> Admin {
        let path =
            which.admin.unwrap_or_else(|| settings::locate(which.config.as_deref()).admin_socket);
        Admin { endpoint: Endpoint::Unix(path) }
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T, Failure> {
        parse(&self.ask(Method::GET, target).await?)
    }

    pub(super) async fn post<T: DeserializeOwned>(&self, target: &str) -> Result<T, Failure> {
        parse(&self.ask(Method::POST, target).await?)
    }

    /// What is not JSON.
    pub(super) async fn text(&self, target: &str) -> Result<String, Failure> {
        Ok(String::from_utf8_lossy(&self.ask(Method::GET, target).await?).into_owned())
    }

    async fn ask(&self, method: Method, target: &str) -> Result<Bytes, Failure> {
        self.send(method, target, Vec::new(), Bytes::new()).await
    }

    /// Sends a request with a body; the answer's body.
    pub(super) async fn send(
        &self,
        method: Method,
        target: &str,
        headers: Vec<(HeaderName, HeaderValue)>,
        body: Bytes,
    ) -> Result<Bytes, Failure> {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(body)).context("the request cannot be written")?;
        let answer = exchange(&self.endpoint, request, TIMEOUT).await?;
        if answer.status.is_success() { Ok(answer.body) } else { Err(refusal(&answer)) }
    }
}

/// Path and query of a request, percent-encoded.
pub(super) fn target(path: &[&str], query: &[(&str, &str)]) -> Result<String, Failure> {
    let mut url = url::Url::parse("http://localhost/v1").map_err(|error| anyhow!(error))?;
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.extend(path);
    }
    if !query.is_empty() {
        url.query_pairs_mut().extend_pairs(query);
    }
    Ok(url[url::Position::BeforePath..].to_owned())
}

/// What a refusal says, as a failure. A refused configuration has an exit code of its own.
pub(super) fn refusal(answer: &Answer) -> Failure {
    let Ok(problem) = serde_json::from_slice::<ProblemDocument>(&answer.body) else {
        return anyhow!("the answer was {}", answer.status).into();
    };
    let mut detail = match problem.detail.as_str() {
        "" => problem.title,
        detail => detail.to_owned(),
    };
    if let Some(wait) = answer.headers.get(RETRY_AFTER).and_then(|wait| wait.to_str().ok()) {
        detail += &format!(" (try again in {wait} s)");
    }
    if problem.errors.is_empty() {
        return anyhow!("{}", crate::logging::escape(&detail)).into();
    }
    let errors: Vec<&str> = problem.errors.iter().map(|error| error.rendered.trim_end()).collect();
    Failure::Config(anyhow!("{detail}\n\n{}", errors.join("\n\n")))
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body)
        .context("the daemon's answer is not what this version understands; is it much older?")
        .map_err(Failure::Failed)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::{HeaderMap, StatusCode};
    use tokio::sync::watch;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::admin::api::Replayed;
    use crate::admin::{self, Command, Refusal};
    use crate::clock::Clock;
    use crate::metrics::Metrics;

    fn answer(body: &'static str) -> Answer {
        Answer {
            status: StatusCode::UNPROCESSABLE_ENTITY,
            headers: HeaderMap::new(),
            body: Bytes::from_static(body.as_bytes()),
        }
    }

    #[test]
    fn names_cannot_leave_their_place_in_the_path() {
        let target = target(&["connections", "a/b?c", "dead"], &[("after", "x&y=1")]).unwrap();
        assert_eq!(target, "/v1/connections/a%2Fb%3Fc/dead?after=x%26y%3D1");
    }

    #[test]
    fn refusals_carry_their_words_and_exit_codes() {
        let failure = refusal(&answer(
            r#"{"title":"Configuration refused","status":422,"detail":"1 error",
                "errors":[{"message":"a","rendered":"a.toml:1:1: a\n  ^\n"}]}"#,
        ));
        assert_eq!(failure.exit_code(), 78);
        assert_eq!(failure.to_string(), "1 error\n\na.toml:1:1: a\n  ^");
        let mut busy = answer(r#"{"title":"Not now","status":503}"#);
        busy.headers.insert(RETRY_AFTER, 1.into());
        let failure = refusal(&busy);
        assert_eq!(
            (failure.exit_code(), failure.to_string().as_str()),
            (1, "Not now (try again in 1 s)")
        );
        assert!(refusal(&answer("<html>")).to_string().contains("422"));
    }

    /// The real listener with a daemon that knows one connection.
    #[tokio::test]
    async fn the_socket_is_spoken_to_as_it_speaks() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("admin.sock");
        let options = admin::Options { http: None, unix: Some(socket.clone()) };
        let listener = admin::Admin::bind(&options, crate::listener::Sockets::default()).unwrap();
        let (commands, mut asked) = admin::commands();
        let context = admin::Context {
            metrics: Metrics::new(),
            refresh: Arc::new(|| {}),
            readiness: watch::channel(admin::Readiness::Ready).1,
            commands,
            clock: Clock::system(),
            tokens: Arc::default(),
            schemas: serde_json::Value::default,
        };
        let stop = CancellationToken::new();
        let serving = tokio::spawn(listener.serve(context, stop.clone()));
        let answering = tokio::spawn(async move {
            while let Some(command) = asked.recv().await {
                match command {
                    Command::Replay { connection, reply, .. } if connection == "crm" => {
                        reply.send(Ok(())).unwrap();
                    }
                    Command::Replay { connection, reply, .. } => {
                        reply.send(Err(Refusal::UnknownConnection(connection))).unwrap();
                    }
                    other => panic!("{other:?}"),
                }
            }
        });
        let client = Admin { endpoint: Endpoint::Unix(socket) };
        let event = "evt_019ab3c4-5d6e-7f80-9123-456789abcdef";
        let path = |name| target(&["connections", name, "dead", event, "replay"], &[]).unwrap();
        let replayed: Replayed = client.post(&path("crm")).await.unwrap();
        assert_eq!(replayed.replayed, 1);
        let failure = client.post::<Replayed>(&path("c/r m")).await.unwrap_err();
        assert!(failure.to_string().contains("\"c/r m\""), "{failure}");
        stop.cancel();
        serving.await.unwrap();
        answering.await.unwrap();
        let gone = client.post::<Replayed>(&path("crm")).await.unwrap_err();
        assert!(gone.to_string().contains("admin.sock"), "{gone}");
    }
}
