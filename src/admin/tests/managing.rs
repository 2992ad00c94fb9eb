//! Connections, scopes and the OpenAPI document.

use serde_json::{Value as Json, json};

use super::*;
use crate::admin::api::connections::{
    AuditPage, ConnectionsPage, Count, Cursors, Document, Meta, Plan,
};
use crate::admin::manage::{
    Action, Between, Change, Cursor, Edit, EditRefused, Edited, Filter, Listing, OrderBy, Why,
};

fn document() -> Document {
    let keys = json!({ "name": "crm", "url": "http://x/" });
    let meta = Meta { etag: "e1".to_owned(), in_force: true, ..Meta::default() };
    Document { keys: keys.as_object().unwrap().clone(), meta }
}

fn object(value: Json) -> api::connections::Object {
    value.as_object().unwrap().clone()
}

/// Hands every edit to `check`, and answers that it was done.
fn editing(mut check: impl FnMut(Edit) -> Result<Edited, EditRefused> + Send + 'static) -> Relay {
    Relay::start(move |command| match command {
        Command::Edit { edit, reply } => reply.send(check(edit)).unwrap(),
        other => nobody(other),
    })
}

#[tokio::test]
async fn edits_are_asked_for_as_the_request_says() {
    let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let relay = editing(move |edit| {
        let created = matches!(edit.change, Change::Create(_));
        let gone = edit.change == Change::Delete;
        sender.send(edit).unwrap();
        Ok(Edited { document: (!gone).then(document), created })
    });
    let keys = || object(json!({ "name": "crm", "url": "http://x/" }));
    let cases = [
        ("POST /v1/connections", "", true, Change::Create(keys()), 201),
        ("PUT /v1/connections/crm", "", true, Change::Replace(keys()), 200),
        ("PATCH /v1/connections/crm", "", true, Change::Patch(keys()), 200),
        (
            "DELETE /v1/connections/crm?reload=false",
            "if-match: \"a\", \"b\"\r\n",
            false,
            Change::Delete,
            204,
        ),
        (
            "POST /v1/connections/crm/pause",
            "if-match: *\r\n",
            false,
            Change::Act(Action::Pause),
            200,
        ),
        (
            "POST /v1/connections/crm/pause?until_restart=true",
            "",
            false,
            Change::Act(Action::PauseUntilRestart),
            200,
        ),
        (
            "PUT /v1/connections/crm/unpause?reload=true",
            "",
            false,
            Change::Act(Action::Resume),
            200,
        ),
        (
            "POST /v1/connections/crm/archive",
            "if-none-match: *\r\n",
            false,
            Change::Act(Action::Archive),
            200,
        ),
    ];
    for (request, headers, body, change, expected) in cases {
        let body = if body { Json::Object(keys()).to_string() } else { String::new() };
        let headers = match body.as_str() {
            "" => headers.to_owned(),
            _ => format!("{headers}content-type: application/json\r\n"),
        };
        let (status, head, answer) = relay.send(request, &headers, &body).await;
        assert_eq!(status, expected, "{request}: {answer}");
        let edit = seen.recv().await.unwrap();
        assert_eq!((edit.name.as_str(), &edit.change), ("crm", &change), "{request}");
        assert!(edit.by.starts_with("unix uid "), "{}", edit.by);
        let if_match: &[&str] = match &change {
            Change::Delete => &["a", "b"],
            Change::Act(Action::Pause) => &["*"],
            _ => &[],
        };
        assert_eq!(edit.condition.if_match, if_match, "{request}");
        assert_eq!(edit.condition.if_none, headers.contains("if-none"), "{request}");
        let reload = request.split_once("reload=").map(|(_, value)| value == "true");
        assert_eq!(edit.reload, reload, "{request}");
        if expected != 204 {
            assert!(head.contains("etag: \"e1\""), "{head}");
            assert_eq!(serde_json::from_str::<Document>(&answer).unwrap(), document());
        }
        assert_eq!(head.contains("location: /v1/connections/crm"), expected == 201, "{head}");
    }
    relay.end().await;
}

#[tokio::test]
async fn edits_that_make_no_sense_are_refused_here() {
    let relay = Relay::start(nobody);
    let json = "content-type: application/json\r\n";
    let merge = "content-type: application/merge-patch+json\r\n";
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(1 << 20));
    for (request, headers, body, status, expected) in [
        ("POST /v1/connections", "", "{}", 415, "unsupported_media_type"),
        ("POST /v1/connections", merge, "{}", 415, "unsupported_media_type"),
        (
            "PUT /v1/connections/a",
            "content-type: text/plain\r\n",
            "{}",
            415,
            "unsupported_media_type",
        ),
        ("POST /v1/connections", json, "{", 400, "malformed"),
        ("POST /v1/connections", json, "[]", 400, "malformed"),
        ("POST /v1/connections", json, "", 400, "malformed"),
        ("POST /v1/connections", json, "{}", 422, "document_invalid"),
        ("POST /v1/connections", json, "{\"name\":7}", 422, "document_invalid"),
        ("PATCH /v1/connections/a?relaod=true", merge, "{}", 400, "malformed"),
        ("PATCH /v1/connections/a?reload=perhaps", merge, "{}", 400, "malformed"),
        ("PUT /v1/connections/a", &format!("{json}if-match: e1\r\n"), "{}", 400, "malformed"),
        (
            "PUT /v1/connections/a",
            &format!("{json}if-none-match: \"e1\"\r\n"),
            "{}",
            400,
            "malformed",
        ),
        ("PATCH /v1/connections/a", json, &large, 413, "too_large"),
        ("POST /v1/connections/a/explode", "", "", 404, "not_found"),
        ("POST /v1/connections/a/enable?until_restart=true", "", "", 400, "malformed"),
        ("PATCH /v1/connections", json, "{}", 405, "method_not_allowed"),
    ] {
        let (got, _, answer) = relay.send(request, headers, body).await;
        assert_eq!((got, code(&answer).as_str()), (status, expected), "{request} {headers}");
    }
    relay.end().await;
}

#[tokio::test]
async fn refusals_of_edits_have_their_codes() {
    let kinds = [
        (Why::Unknown, 404, "unknown_connection"),
        (Why::Gone, 410, "deleted"),
        (Why::Taken, 409, "name_taken"),
        (Why::OtherName, 422, "name_mismatch"),
        (Why::Document, 422, "document_invalid"),
        (Why::Stale, 412, "stale"),
        (Why::State, 409, "state_conflict"),
        (Why::Broken, 409, "file_broken"),
        (Why::Link, 409, "symlinked"),
        (Why::ReadOnly, 403, "read_only"),
        (Why::Busy, 409, "file_busy"),
        (Why::Failed, 503, "write_failed"),
    ];
    let mut next = kinds.into_iter();
    let relay =
        editing(move |_| Err(EditRefused::Cannot(next.next().unwrap().0, "because".to_owned())));
    for (_, status, expected) in kinds {
        let (got, _, body) = relay.unix("DELETE /v1/connections/crm").await;
        assert_eq!((got, code(&body).as_str()), (status, expected));
        assert!(body.contains("because"), "{body}");
    }
    relay.end().await;
    let error = ConfigProblem { message: "a".to_owned(), rendered: "a".to_owned() };
    let errors = vec![error.clone(), error];
    let relay =
        editing(move |_| Err(EditRefused::Invalid(ReloadRefused { errors: errors.clone() })));
    let (status, _, body) = relay.unix("DELETE /v1/connections/crm").await;
    let problem: ProblemDocument = serde_json::from_str(&body).unwrap();
    assert_eq!((status, problem.code.as_str(), problem.errors.len()), (422, "config_invalid", 2));
    relay.end().await;
}

#[tokio::test]
async fn lists_are_asked_for_as_the_query_says() {
    let next = Cursor { back: false, key: "h".to_owned(), name: "n".to_owned() };
    let expected = Listing {
        filter: Filter {
            name: Some("c*".to_owned()),
            labels: vec![("team".to_owned(), Some("sales".to_owned())), ("eu".to_owned(), None)],
            state: Some("paused".to_owned()),
            source: Some("shop".to_owned()),
            host: Some("x".to_owned()),
            include_disabled: true,
            include_archived: true,
            paused: Between { from: Some(1_763_683_200_000), to: None },
            disabled: Between { from: None, to: Some(1_763_683_200_000) },
        },
        order_by: OrderBy::Host,
        descending: true,
        limit: 7,
        cursor: Some(next.clone()),
    };
    let wanted = expected.clone();
    let relay = Relay::start(move |command| match command {
        Command::Connections { listing, reply } => {
            assert_eq!(listing, wanted);
            let page = ConnectionsPage {
                pagination: Cursors { limit: 7, ..Cursors::default() },
                count: 1,
                models: vec![document()],
            };
            reply.send(Ok(page)).unwrap();
        }
        Command::ConnectionsCount { filter, reply } => {
            assert_eq!(filter, wanted.filter);
            reply.send(42).unwrap();
        }
        other => nobody(other),
    });
    let time = "2025-11-21T00:00:00Z";
    let filter = format!(
        "name=c*&label=team=sales,eu&state=paused&source=shop&host=x&include_disabled=true&include_archived=true\
         &paused_at[gte]={time}&disabled_at[lte]={time}"
    );
    let query =
        format!("{filter}&order_by=host&dir=desc&limit=7&next={}", next.to_text(OrderBy::Host));
    let (status, _, body) = relay.unix(&format!("GET /v1/connections?{query}")).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(serde_json::from_str::<ConnectionsPage>(&body).unwrap().models, [document()]);
    let (_, _, body) = relay.unix(&format!("GET /v1/connections/count?{filter}")).await;
    assert_eq!(serde_json::from_str::<Count>(&body).unwrap().count, 42);
    for (bad, expected) in [
        ("limit=0", "malformed"),
        ("limit=256", "malformed"),
        ("order_by=url", "malformed"),
        ("dir=up", "malformed"),
        ("state=gone", "malformed"),
        ("naem=crm", "malformed"),
        ("include_disabled=perhaps", "malformed"),
        ("paused_at[gte]=yesterday", "malformed"),
        ("next=x", "bad_cursor"),
        ("next=6e0a&prev=700a", "malformed"),
        (&format!("prev={}&order_by=host", next.to_text(OrderBy::Host)), "bad_cursor"),
    ] {
        let (status, _, body) = relay.unix(&format!("GET /v1/connections?{bad}")).await;
        assert_eq!((status, code(&body).as_str()), (400, expected), "{bad}");
    }
    relay.end().await;
}

#[tokio::test]
async fn single_connections_plans_and_audit_pages_are_passed_on() {
    let relay = Relay::start(|command| match command {
        Command::ConnectionShow { name, reply } => {
            let refused = || EditRefused::Cannot(Why::Gone, "gone".to_owned());
            reply.send((name == "crm").then(document).ok_or_else(refused)).unwrap();
        }
        Command::ConnectionStatus { name, reply } => {
            reply.send(Err(Refusal::UnknownConnection(name))).unwrap();
        }
        Command::Plan(reply) => {
            let daemon = vec!["log.level".to_owned()];
            reply.send(Ok(Plan { daemon, ..Plan::default() })).unwrap();
        }
        Command::Audit { query, reply } => {
            assert_eq!(
                (query.connection.as_deref(), query.before, query.limit),
                (Some("crm"), Some(9), 3)
            );
            let pagination = Pagination { limit: 3, next: None };
            reply.send(Ok(AuditPage { pagination, count: 0, models: Vec::new() })).unwrap();
        }
        other => nobody(other),
    });
    let (status, head, body) = relay.unix("GET /v1/connections/crm").await;
    assert_eq!((status, serde_json::from_str::<Document>(&body).unwrap()), (200, document()));
    assert!(head.contains("etag: \"e1\""), "{head}");
    assert_eq!(relay.unix("GET /v1/connections/old").await.0, 410);
    assert_eq!(relay.unix("GET /v1/connections/crm/status").await.0, 404);
    let (_, _, body) = relay.unix("GET /v1/config/plan").await;
    assert_eq!(serde_json::from_str::<Plan>(&body).unwrap().daemon, ["log.level"]);
    assert_eq!(relay.unix("GET /v1/audit?connection=crm&limit=3&next=9").await.0, 200);
    assert_eq!(relay.unix("GET /v1/audit?next=x").await.0, 400);
    relay.end().await;
}

/// Every operation of the document is there, and takes the scope that it says; over TCP that is asked for.
#[tokio::test]
async fn every_described_route_asks_for_its_scope() {
    let relay = Relay::start(drop);
    let (_, head, text) = relay.unix("GET /openapi.json").await;
    assert!(head.contains("content-type: application/json"), "{head}");
    let document: Json = serde_json::from_str(&text).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["components"]["schemas"]["ConnectionInput"], json!({ "type": "object" }));
    let mut operations = 0;
    let mut ids = std::collections::BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            operations += 1;
            assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{path}");
            let scope = operation["security"][0]["token"][0].as_str();
            let path = path.replace("{action}", "pause").replace("{event}", ID);
            let request =
                format!("{} {}", method.to_ascii_uppercase(), path.replace("{name}", "crm"));
            let Some(scope) = scope else {
                assert_eq!(relay.tcp(&request).await.0, 200, "{request} is open");
                continue;
            };
            let (status, head, body) = relay.tcp(&request).await;
            assert_eq!((status, code(&body).as_str()), (401, "unauthorized"), "{request}");
            assert!(head.contains("www-authenticate: Bearer"), "{head}");
            for has in ["read", "operate", "admin"] {
                let token = format!("authorization: Bearer a-token-to-{has}\r\n");
                let (status, _, body) = relay.send_tcp(&request, &token).await;
                let scopes = ["read", "operate", "admin"];
                let rank = |scope| scopes.iter().position(|one| *one == scope);
                let allowed = rank(has) >= rank(scope);
                // What gets through finds a daemon that answers nothing, or lacks its query or body.
                let refused = (status, code(&body)) == (403, "scope".to_owned());
                assert_eq!(!refused, allowed, "{request} with {has}: {status} {body}");
                assert!(allowed || status == 403, "{request} with {has}: {status}");
            }
        }
    }
    assert!(operations >= 26, "{operations}");
    let source = include_str!("../routes.rs");
    assert_eq!(
        source.matches(".route(\"").count(),
        1,
        "routes have descriptions: .routes(routes!(…))"
    );
    assert_eq!(relay.tcp("GET /openapi.json").await.0, 401);
    let (status, ..) =
        relay.send_tcp("GET /openapi.json", "authorization: Bearer a-token-to-read\r\n").await;
    assert_eq!(status, 200);
    relay.end().await;
}

#[tokio::test]
async fn a_caller_over_tcp_is_named_and_a_reload_changes_tokens() {
    let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let relay = Relay::start(move |command| match command {
        Command::Reload { by, reply } => {
            sender.send(by).unwrap();
            reply.send(Ok(Reloaded::default())).unwrap();
        }
        other => nobody(other),
    });
    let token = "authorization: Bearer a-token-to-operate\r\n";
    assert_eq!(relay.send_tcp("POST /v1/reload", token).await.0, 200);
    assert_eq!(seen.recv().await.unwrap(), "token operate");
    relay.tokens.store(Arc::default());
    assert_eq!(relay.send_tcp("POST /v1/reload", token).await.0, 401);
    let evil = format!("{token}origin: http://evil.example\r\n");
    assert_eq!(relay.send_tcp("POST /v1/reload", &evil).await.0, 403);
    relay.end().await;
}
