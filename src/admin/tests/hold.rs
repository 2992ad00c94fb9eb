//! Letting a connection go on, and holding it.

use super::super::api::{Connection, Queue, Suspended};
use super::*;

fn connection(name: &str, cause: Option<&str>) -> Connection {
    Connection {
        name: name.to_owned(),
        state: "active".to_owned(),
        suspended: cause.map(|cause| Suspended { cause: cause.to_owned(), since: api::rfc3339(0) }),
        breaker: None,
        queue: Queue::default(),
        dead: 0,
        oldest_age_seconds: None,
        last_error: None,
    }
}

#[tokio::test]
async fn a_connection_is_held_and_goes_on_or_the_refusal_is_named() {
    let relay = Relay::start(|command| match command {
        Command::Lift { connection: name, reply } => {
            let answer = match name.as_str() {
                "crm" => Ok(connection("crm", None)),
                "filed" => Err(Refusal::HeldByFile { connection: name, state: "paused" }),
                _ => Err(Refusal::UnknownConnection(name)),
            };
            reply.send(answer).unwrap();
        }
        Command::Pause { connection: name, reply } => {
            let answer = match name.as_str() {
                "crm" => Ok(connection("crm", Some("paused_until_restart"))),
                _ => {
                    Err(Refusal::HeldAlready { connection: name, state: "disabled", cause: "gone" })
                }
            };
            reply.send(answer).unwrap();
        }
        other => nobody(other),
    });
    for word in ["enable", "resume", "unpause"] {
        for method in ["POST", "PUT"] {
            let request = format!("{method} /v1/connections/crm/{word}");
            let (status, _, body) = relay.unix(&request).await;
            let answer: Connection = serde_json::from_str(&body).unwrap();
            assert_eq!((status, answer.suspended), (200, None), "{request}");
        }
    }
    let pause = "POST /v1/connections/crm/pause?until_restart=true";
    let (status, _, body) = relay.unix(pause).await;
    let answer: Connection = serde_json::from_str(&body).unwrap();
    assert_eq!((status, answer.suspended.unwrap().cause.as_str()), (200, "paused_until_restart"));
    for (request, status, expected) in [
        ("POST /v1/connections/x/enable", 404, "unknown_connection"),
        ("POST /v1/connections/filed/resume", 409, "held_by_file"),
        ("POST /v1/connections/x/pause?until_restart=true", 409, "held_already"),
        ("POST /v1/connections/crm/pause", 400, "malformed"),
        ("POST /v1/connections/crm/pause?until_restart=false", 400, "malformed"),
        ("POST /v1/connections/crm/pause?for=1h", 400, "malformed"),
    ] {
        let (got, _, body) = relay.unix(request).await;
        assert_eq!((got, code(&body).as_str()), (status, expected), "{request}");
    }
    let (status, _, _) = relay.tcp("POST /v1/connections/crm/enable").await;
    assert_eq!(status, 404, "not on the open listener");
    relay.end().await;
}
