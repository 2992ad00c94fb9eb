//! Holding a connection until a restart, and letting go on what the daemon holds.

use super::*;
use crate::admin::api::connections::{Document, Meta};
use crate::admin::manage::{Action, Change, EditRefused, Edited};

#[tokio::test]
async fn a_connection_is_held_and_goes_on_or_the_refusal_is_named() {
    let relay = Relay::start(|command| match command {
        Command::Edit { edit, reply } => {
            let held = |connection: &str| Refusal::HeldByFile {
                connection: connection.to_owned(),
                state: "paused",
            };
            let gone = |connection: &str| Refusal::HeldAlready {
                connection: connection.to_owned(),
                state: "disabled",
                cause: "gone",
            };
            let meta = Meta { etag: "e1".to_owned(), ..Meta::default() };
            let keys = [("name".to_owned(), "crm".into())].into_iter().collect();
            let answer = match (edit.name.as_str(), &edit.change) {
                (
                    "crm",
                    Change::Act(Action::PauseUntilRestart | Action::Resume | Action::Enable),
                ) => Ok(Edited { document: Some(Document { keys, meta }), created: false }),
                ("filed", _) => Err(EditRefused::Hold(held("filed"))),
                ("gone", _) => Err(EditRefused::Hold(gone("gone"))),
                (name, _) => Err(EditRefused::Hold(Refusal::UnknownConnection(name.to_owned()))),
            };
            reply.send(answer).unwrap();
        }
        other => nobody(other),
    });
    for word in ["enable", "resume", "unpause", "pause?until_restart=true"] {
        for method in ["POST", "PUT"] {
            let request = format!("{method} /v1/connections/crm/{word}");
            let (status, _, body) = relay.unix(&request).await;
            assert_eq!(status, 200, "{request}: {body}");
        }
    }
    for (request, status, expected) in [
        ("POST /v1/connections/x/enable", 404, "unknown_connection"),
        ("POST /v1/connections/filed/pause?until_restart=true", 409, "held_by_file"),
        ("POST /v1/connections/gone/pause?until_restart=true", 409, "held_already"),
        ("POST /v1/connections/crm/pause?for=1h", 400, "malformed"),
        ("POST /v1/connections/crm/resume?until_restart=true", 400, "malformed"),
    ] {
        let (got, _, body) = relay.unix(request).await;
        assert_eq!((got, code(&body).as_str()), (status, expected), "{request}");
    }
    let (status, _, _) = relay.tcp("POST /v1/connections/crm/enable").await;
    assert_eq!(status, 401, "not for everyone");
    relay.end().await;
}
