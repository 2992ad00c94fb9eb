//! The listeners and routes against a daemon made of a closure.

mod hold;

use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;

use super::api::jobs::{DeadPlan, Job, JobAction, JobCounts, JobState, Selection};
use super::api::{
    ConfigProblem, Daemon, DeadDetail, DeadLetter, Page, Pagination, ProblemDocument, Reloaded,
    Status, Store,
};
use super::*;
use crate::clock::Age;
use crate::event::{ContentBuilder, Event, EventId};

mod managing;

const ID: &str = "evt_019ab3c4-5d6e-7f80-9123-456789abcdef";

struct Relay {
    directory: tempfile::TempDir,
    http: SocketAddr,
    readiness: watch::Sender<Readiness>,
    metrics: Metrics,
    tokens: Arc<ArcSwap<Vec<Token>>>,
    stop: CancellationToken,
    serving: JoinHandle<()>,
    answering: JoinHandle<()>,
}

impl Relay {
    /// Serves on a free port and a socket of its own; `daemon` answers the commands.
    fn start(mut daemon: impl FnMut(Command) + Send + 'static) -> Relay {
        let directory = tempfile::tempdir().unwrap();
        let options = Options {
            http: Some("127.0.0.1:0".parse().unwrap()),
            unix: Some(directory.path().join("admin.sock")),
        };
        let admin = Admin::bind(&options, crate::listener::Sockets::default()).unwrap();
        let (sender, mut receiver) = commands();
        let (readiness, seen) = watch::channel(Readiness::Ready);
        let metrics = Metrics::new();
        let generation = metrics.gauge("posthaste_config_generation", &[]);
        let scopes = [manage::Scope::Read, manage::Scope::Operate, manage::Scope::Admin];
        let token = |scope: manage::Scope| Token {
            name: scope.as_str().to_owned(),
            scope,
            token: Secret::new(format!("a-token-to-{}", scope.as_str())),
        };
        let tokens = Arc::new(ArcSwap::from_pointee(scopes.map(token).to_vec()));
        let context = Context {
            tokens: Arc::clone(&tokens),
            schemas: || serde_json::json!({ "ConnectionInput": { "type": "object" } }),
            metrics: metrics.clone(),
            refresh: Arc::new(move || generation.set(7.0)),
            readiness: seen,
            commands: sender,
            clock: Clock::system(),
        };
        let stop = CancellationToken::new();
        let http = admin.http_address().unwrap();
        let serving = tokio::spawn(admin.serve(context, stop.clone()));
        let answering = tokio::spawn(async move {
            while let Some(command) = receiver.recv().await {
                daemon(command);
            }
        });
        Relay { directory, http, readiness, metrics, tokens, stop, serving, answering }
    }

    fn socket(&self) -> std::path::PathBuf {
        self.directory.path().join("admin.sock")
    }

    async fn unix(&self, request: &str) -> (u16, String, String) {
        self.send(request, "", "").await
    }

    /// Over the Unix socket, with header lines and a body.
    async fn send(&self, request: &str, headers: &str, body: &str) -> (u16, String, String) {
        exchange(UnixStream::connect(self.socket()).await.unwrap(), request, headers, body).await
    }

    async fn tcp(&self, request: &str) -> (u16, String, String) {
        self.send_tcp(request, "").await
    }

    async fn send_tcp(&self, request: &str, headers: &str) -> (u16, String, String) {
        exchange(TcpStream::connect(self.http).await.unwrap(), request, headers, "").await
    }

    async fn end(self) {
        self.stop.cancel();
        self.serving.await.unwrap();
        assert!(!self.directory.path().join("admin.sock").exists());
        // All senders are gone with the routes, so the loop ends by itself.
        self.answering.await.unwrap();
    }
}

/// One request on a connection of its own: status, head, body.
async fn exchange(
    mut io: impl AsyncReadExt + AsyncWriteExt + Unpin,
    request: &str,
    headers: &str,
    body: &str,
) -> (u16, String, String) {
    let (line, host) = request.split_once(" @").unwrap_or((request, "localhost"));
    let length = body.len();
    let head = format!(
        "{line} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
    );
    io.write_all(head.as_bytes()).await.unwrap();
    // A refusal may come before the end of a body that is too large.
    let _ = io.write_all(body.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = io.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_owned(), body.to_owned())
}

fn nobody(command: Command) {
    panic!("nothing should be asked, but {command:?} was");
}

fn code(body: &str) -> String {
    serde_json::from_str::<ProblemDocument>(body)
        .unwrap_or_else(|error| panic!("{error}: {body}"))
        .code
}

fn dead_letter() -> DeadLetter {
    DeadLetter {
        id: ID.to_owned(),
        connection: "crm".to_owned(),
        cause: "http_status".to_owned(),
        status: Some(503),
        attempts: 3,
        accepted_at: api::rfc3339(0),
        died_at: None,
        bytes: 40,
    }
}

fn event() -> Event {
    let mut content = ContentBuilder::new("default", "order.created", "", 16);
    content.header("content-type", b"application/json");
    content.body(b"{\"a\":1}");
    Event {
        id: ID.parse::<EventId>().unwrap(),
        accepted_ms: 0,
        accepted_age: Age(0),
        content: content.finish(),
    }
}

#[tokio::test]
async fn metrics_and_health_are_open_and_the_api_is_not() {
    let relay = Relay::start(nobody);
    let (status, head, body) = relay.tcp("GET /metrics").await;
    assert_eq!(status, 200);
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    assert!(body.contains("posthaste_config_generation 7"), "refreshed before rendering: {body}");
    assert!(body.contains("process_resident_memory_bytes "), "{body}");
    assert_eq!(relay.tcp("GET /healthz").await.0, 200);
    assert_eq!(relay.tcp("GET /readyz").await.0, 200);
    for (request, status, expected) in [
        ("GET /v1/status", 401, "unauthorized"),
        ("POST /v1/reload", 401, "unauthorized"),
        ("GET /v1/what", 404, "not_found"),
        ("POST /metrics", 405, "method_not_allowed"),
        ("GET /metrics @evil.example", 403, "forbidden"),
    ] {
        let (got, _, body) = relay.tcp(request).await;
        assert_eq!((got, code(&body).as_str()), (status, expected), "{request}");
    }
    relay.end().await;
}

#[tokio::test]
async fn readiness_follows_the_daemon() {
    let relay = Relay::start(nobody);
    relay.readiness.send(Readiness::NotReady("draining".to_owned())).unwrap();
    let (status, head, body) = relay.unix("GET /readyz").await;
    assert_eq!((status, code(&body).as_str()), (503, "not_ready"));
    assert!(body.contains("draining") && head.contains("retry-after: 1"), "{head} {body}");
    assert_eq!(relay.unix("GET /healthz").await.0, 200);
    relay.end().await;
}

#[tokio::test]
async fn status_is_what_the_daemon_says() {
    let expected = Status {
        daemon: Daemon {
            version: "0.1.0".to_owned(),
            pid: 1,
            state: "ready".to_owned(),
            uptime_seconds: 5,
            generation: 1,
            last_reload: None,
            config_file: None,
        },
        connections: Vec::new(),
        orphaned: Vec::new(),
        store: Store {
            path: "/var/lib/posthaste".to_owned(),
            bytes: 1,
            max_bytes: 2,
            segments: 3,
            kept_bytes: 4,
            attempts_bytes: 5,
        },
        alerts: Vec::new(),
    };
    let answer = expected.clone();
    let relay = Relay::start(move |command| match command {
        Command::Status(reply) => reply.send(answer.clone()).unwrap(),
        other => nobody(other),
    });
    let (status, _, body) = relay.unix("GET /v1/status").await;
    assert_eq!(status, 200);
    assert_eq!(serde_json::from_str::<Status>(&body).unwrap(), expected);
    relay.end().await;
}

#[tokio::test]
async fn dead_letters_are_listed_and_shown() {
    let relay = Relay::start(|command| match command {
        Command::DeadList { selection, after, limit, reply } => {
            assert_eq!(selection.connection.as_deref(), Some("crm"));
            assert_eq!((after.as_deref(), limit), (Some("c1"), 7));
            let page = Page {
                pagination: Pagination { limit, next: Some("c2".to_owned()) },
                count: 1,
                models: vec![dead_letter()],
            };
            reply.send(Ok(page)).unwrap();
        }
        Command::DeadShow { connection, event: id, reply } => {
            let found = (connection == "crm" && id == event().id)
                .then(|| DeadEvent { dead_letter: dead_letter(), event: Arc::new(event()) });
            let missing = Refusal::NoSuchDeadLetter { connection, event: id };
            reply.send(found.ok_or(missing)).unwrap();
        }
        other => nobody(other),
    });
    let (_, _, body) = relay.unix("GET /v1/dead?connection=crm&limit=7&after=c1").await;
    let page: Page<DeadLetter> = serde_json::from_str(&body).unwrap();
    assert_eq!((page.models, page.pagination.next.as_deref()), (vec![dead_letter()], Some("c2")));

    let (_, _, body) = relay.unix(&format!("GET /v1/connections/crm/dead/{ID}")).await;
    let detail: DeadDetail = serde_json::from_str(&body).unwrap();
    assert_eq!((detail.kind.as_str(), detail.body_bytes), ("order.created", 7));
    assert_eq!(detail.headers[0].name, "content-type");
    let (_, head, body) = relay.unix(&format!("GET /v1/connections/crm/dead/{ID}/body")).await;
    assert_eq!(body, "{\"a\":1}");
    assert!(head.contains("nosniff"), "{head}");

    for (request, status, expected) in [
        ("GET /v1/dead?limit=0", 400, "malformed"),
        ("GET /v1/dead?limit=256", 400, "malformed"),
        ("GET /v1/dead?limit=many", 400, "malformed"),
        ("GET /v1/dead?conection=crm", 400, "malformed"),
        ("GET /v1/connections/crm/dead/evt_1", 400, "malformed"),
        (&format!("GET /v1/connections/erp/dead/{ID}"), 404, "no_such_dead_letter"),
    ] {
        let (got, _, body) = relay.unix(request).await;
        assert_eq!((got, code(&body).as_str()), (status, expected), "{request}");
    }
    relay.end().await;
}

#[tokio::test]
async fn one_dead_letter_is_replayed_or_the_refusal_is_named() {
    let relay = Relay::start(|command| match command {
        Command::Replay { connection, event, reply } => {
            let answer = match connection.as_str() {
                "crm" => Ok(()),
                "live" => Err(Refusal::StillLive(event)),
                "sick" => Err(Refusal::Store("no space".to_owned())),
                _ => Err(Refusal::UnknownConnection(connection)),
            };
            reply.send(answer).unwrap();
        }
        other => nobody(other),
    });
    let (status, _, body) = relay.unix(&format!("POST /v1/connections/crm/dead/{ID}/replay")).await;
    assert_eq!((status, body.as_str()), (200, r#"{"replayed":1}"#));
    for (name, status, expected) in [
        ("live", 409, "still_live"),
        ("sick", 503, "store_failed"),
        ("what", 404, "unknown_connection"),
    ] {
        let (got, _, body) =
            relay.unix(&format!("POST /v1/connections/{name}/dead/{ID}/replay")).await;
        assert_eq!((got, code(&body).as_str()), (status, expected), "{name}");
    }
    relay.end().await;
}

#[tokio::test]
async fn an_event_is_shown_and_replayed_or_the_refusal_is_named() {
    let relay = Relay::start(|command| match command {
        Command::EventShow { event: id, reply } => {
            let deliveries = vec![("crm".to_owned(), "over"), ("erp".to_owned(), "live")];
            let found = FoundEvent { event: Arc::new(event()), deliveries };
            let found = (id == event().id).then_some(found);
            reply.send(found.ok_or(Refusal::NoSuchEvent(id))).unwrap();
        }
        Command::EventReplay { event, connection, reply } => {
            let answer = match connection.as_str() {
                "crm" => Ok(()),
                "erp" => Err(Refusal::StillLive(event)),
                _ => Err(Refusal::NoSuchDelivery { connection, event }),
            };
            reply.send(answer).unwrap();
        }
        other => nobody(other),
    });
    let (_, _, body) = relay.unix(&format!("GET /v1/events/{ID}")).await;
    let detail: api::EventDetail = serde_json::from_str(&body).unwrap();
    assert_eq!((detail.id.as_str(), detail.kind.as_str()), (ID, "order.created"));
    let states: Vec<_> = detail.deliveries.iter().map(|one| one.state.as_str()).collect();
    assert_eq!(states, ["over", "live"]);
    let (_, head, body) = relay.unix(&format!("GET /v1/events/{ID}/body")).await;
    assert_eq!(body, "{\"a\":1}");
    assert!(head.contains("nosniff"), "{head}");
    let other = ID.replace('9', "8");
    for (request, status, expected) in [
        (format!("GET /v1/events/{other}"), 404, "no_such_event"),
        (format!("GET /v1/events/{other}/body"), 404, "no_such_event"),
        ("GET /v1/events/1".to_owned(), 400, "malformed"),
        (format!("POST /v1/events/{ID}/replay"), 400, "malformed"),
        (format!("POST /v1/events/{ID}/replay?connection=erp"), 409, "still_live"),
        (format!("POST /v1/events/{ID}/replay?connection=x"), 404, "no_such_delivery"),
    ] {
        let (got, _, body) = relay.unix(&request).await;
        assert_eq!((got, code(&body).as_str()), (status, expected), "{request}");
    }
    let (status, _, body) =
        relay.unix(&format!("POST /v1/events/{ID}/replay?connection=crm")).await;
    assert_eq!((status, body.as_str()), (200, r#"{"replayed":1}"#));
    relay.end().await;
}

#[tokio::test]
async fn attempts_are_asked_for_as_the_query_says() {
    let relay = Relay::start(|command| match command {
        Command::Attempts { query, reply } => {
            assert_eq!(query.connection.as_deref(), Some("crm"));
            assert_eq!(query.event, Some(ID.parse().unwrap()));
            assert_eq!((query.before, query.limit), (Some(77), 7));
            assert_eq!(query.until_ms, Some(1_763_683_260_000));
            let mut statuses: Vec<u16> = (400..500).collect();
            statuses.retain(|status| *status != 404);
            assert_eq!(query.statuses, Some(statuses));
            let code = match query.since_ms {
                1_763_683_200_000 => None,
                // A duration counts from now.
                recent => {
                    let ago = Clock::system().wall_ms() - recent;
                    assert!((3_600_000..3_700_000).contains(&ago), "{ago}");
                    Some(crate::event::Cause::ConnectRefused)
                }
            };
            assert_eq!(query.code, Some(code));
            let pagination = Pagination { limit: 7, next: None };
            reply.send(Ok(Page { pagination, count: 0, models: Vec::new() })).unwrap();
        }
        other => nobody(other),
    });
    let common = format!(
        "connection=crm&event={ID}&limit=7&next=77&status=400-499,!404&until=2025-11-21T00:01:00Z"
    );
    for rest in ["code=ok&since=2025-11-21T00:00:00Z", "code=connect_refused&since=1h"] {
        let (status, _, body) = relay.unix(&format!("GET /v1/attempts?{common}&{rest}")).await;
        assert_eq!(status, 200, "{body}");
    }
    for bad in ["code=what", "since=yesterday", "limit=0", "next=x", "event=1", "after=1"] {
        let (status, _, body) = relay.unix(&format!("GET /v1/attempts?{bad}")).await;
        assert_eq!((status, code(&body).as_str()), (400, "malformed"), "{bad}");
    }
    relay.end().await;
}

fn job(id: &str, selection: Selection) -> Job {
    Job {
        id: id.to_owned(),
        action: JobAction::Replay,
        state: JobState::Running,
        by: "unix uid 0".to_owned(),
        selection,
        counts: JobCounts { total: 9, ..JobCounts::default() },
        started_at: "2025-11-21T00:00:00.000Z".to_owned(),
        ended_at: None,
        error: None,
    }
}

#[tokio::test]
async fn a_job_is_started_as_the_query_says_and_named_in_location() {
    let relay = Relay::start(|command| match command {
        Command::Job(JobCommand::Start { action, selection, by, reply }) => {
            assert!(by.starts_with("unix uid "), "{by}");
            let all = selection == Selection::default();
            assert_eq!(action, if all { JobAction::Purge } else { JobAction::Replay });
            if !all {
                assert_eq!(selection.connection.as_deref(), Some("crm"));
                assert_eq!(selection.status.as_deref(), Some("5xx"));
                assert_eq!(selection.since.as_deref(), Some("2025-11-21T00:00:00.000Z"));
            }
            reply.send(Ok(job("job_1", selection))).unwrap();
        }
        Command::Job(JobCommand::Show { id, reply }) => {
            reply.send(Err(Refusal::NoSuchJob(id))).unwrap();
        }
        Command::Job(JobCommand::Cancel { id, reply, .. }) => {
            reply.send(Err(Refusal::JobEnded { id, state: "done" })).unwrap();
        }
        other => nobody(other),
    });
    for request in [
        "POST /v1/dead/replay?connection=crm&status=5xx&since=2025-11-21T00:00:00Z",
        "POST /v1/dead/purge?all=true",
    ] {
        let (status, head, body) = relay.unix(request).await;
        assert_eq!(status, 202, "{body}");
        assert!(head.to_lowercase().contains("location: /v1/jobs/job_1"), "{head}");
        assert_eq!(serde_json::from_str::<Job>(&body).unwrap().counts.total, 9);
    }
    for (request, status, expected) in [
        ("POST /v1/dead/replay", 400, "malformed"),
        ("POST /v1/dead/purge", 400, "malformed"),
        ("POST /v1/dead/purge?connection=crm&since=yesterday", 400, "malformed"),
        ("POST /v1/dead/purge?connection=crm&plan=true", 400, "malformed"),
        ("GET /v1/dead/purge", 405, "method_not_allowed"),
        ("GET /v1/jobs/job_2", 404, "no_such_job"),
        ("POST /v1/jobs/job_2/cancel", 409, "job_ended"),
    ] {
        let (got, _, body) = relay.unix(request).await;
        assert_eq!((got, code(&body).as_str()), (status, expected), "{request}");
    }
    relay.end().await;
}

/// A plan of many is counted a part at a time.
#[tokio::test]
async fn a_plan_goes_on_until_all_is_counted() {
    let mut parts = 0;
    let relay = Relay::start(move |command| match command {
        Command::Job(JobCommand::Plan { mut plan, after, reply, .. }) => {
            assert_eq!(after.map_or(0, |after| after.parse().unwrap()), parts);
            parts += 1;
            plan.matched += 100;
            let next = (parts < 3).then(|| parts.to_string());
            reply.send(Ok((plan, next))).unwrap();
        }
        other => nobody(other),
    });
    let (status, _, body) = relay.unix("GET /v1/dead/plan?connection=crm").await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(serde_json::from_str::<DeadPlan>(&body).unwrap().matched, 300);
    relay.end().await;
}

#[tokio::test]
async fn a_reload_is_taken_or_refused_with_all_errors() {
    let mut refuse = false;
    let relay = Relay::start(move |command| match command {
        Command::Reload { reply, .. } => {
            let error = |message: &str| ConfigProblem {
                message: message.to_owned(),
                rendered: format!("{message}\n  ^"),
            };
            let refused =
                ReloadRefused { errors: vec![error("a.toml:1:1: x"), error("b.toml:2:2: y")] };
            let taken = Reloaded { generation: 2, ..Reloaded::default() };
            reply.send(if refuse { Err(refused) } else { Ok(taken) }).unwrap();
            refuse = true;
        }
        other => nobody(other),
    });
    let (status, _, body) = relay.unix("POST /v1/reload").await;
    assert_eq!(status, 200);
    assert_eq!(serde_json::from_str::<Reloaded>(&body).unwrap().generation, 2);
    let (status, _, body) = relay.unix("POST /v1/reload").await;
    let problem: ProblemDocument = serde_json::from_str(&body).unwrap();
    assert_eq!((status, problem.code.as_str(), problem.errors.len()), (422, "config_invalid", 2));
    relay.end().await;
}

#[tokio::test]
async fn a_daemon_that_drops_a_command_is_shutting_down() {
    let relay = Relay::start(drop);
    let (status, _, body) = relay.unix("GET /v1/status").await;
    assert_eq!((status, code(&body).as_str()), (503, "shutting_down"));
    relay.end().await;
}

#[tokio::test]
async fn a_removed_connection_leaves_the_scrape() {
    let relay = Relay::start(nobody);
    relay.metrics.connection("crm");
    assert!(relay.tcp("GET /metrics").await.2.contains("\"crm\""));
    relay.metrics.remove_connection("crm");
    assert!(!relay.tcp("GET /metrics").await.2.contains("\"crm\""));
    relay.end().await;
}

#[tokio::test]
async fn a_taken_address_and_a_bad_path_are_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let options = Options { http: Some(address), unix: None };
    let error = Admin::bind(&options, crate::listener::Sockets::default()).unwrap_err().to_string();
    assert!(error.contains(&address.to_string()), "{error}");
    let options = Options { http: None, unix: Some(Path::new("/proc/x/admin.sock").to_owned()) };
    let error = Admin::bind(&options, crate::listener::Sockets::default()).unwrap_err().to_string();
    assert!(error.contains("/proc/x/admin.sock"), "{error}");
}
