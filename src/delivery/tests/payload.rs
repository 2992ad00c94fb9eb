//! What requests become by templates, transforms and forwarding, on loopback sockets.

use http::HeaderName;

use super::peers::{Peer, healthy};
use super::*;
use crate::connection::Target;
use crate::connection::auth::api_key;
use crate::connection::payload::Payload;
use crate::connection::sign::Sign;
use crate::connection::sign::keys::{Dated, Keys};
use crate::connection::sign::standard::{Key, StandardWebhooks};
use crate::connection::template::Template;
use crate::connection::transform::{Transform, path};
use crate::delivery::testing::connection;
use crate::secret::Secret;

fn request(peer: &Peer, index: usize) -> (String, String) {
    let (_, request) = peer.notes.requests.borrow()[index].clone();
    (request.head, String::from_utf8(request.body).unwrap())
}

fn removing(field: &str) -> Option<Transform> {
    Some(Transform { remove: vec![path(field).unwrap()], ..Transform::default() })
}

/// A connection to `path` at a healthy target.
fn to(peer: &Peer, path: &str, payload: Payload) -> Connection {
    let mut connection = connection("crm", &peer.url);
    let origin = peer.url.trim_end_matches("/hook");
    connection.target = Target::parse(&format!("{origin}{path}")).unwrap();
    connection.payload = Some(Box::new(payload));
    connection
}

#[test]
fn templates_and_transforms_make_the_request() {
    paused(async {
        let target = healthy().await;
        let payload = Payload {
            transform: removing("body.a"),
            header_templates: vec![
                (HeaderName::from_static("x-a"), Template::parse("n{{ body.a }}").unwrap()),
                (
                    HeaderName::from_static("user-agent"),
                    Template::parse("{{ event.source }}").unwrap(),
                ),
            ],
            ..Payload::default()
        };
        let mut rig = Rig::with(to(&target, "/{{ event.type }}?a={{ body.a }}", payload)).await;
        rig.send(1, 1);
        assert_eq!(rig.disposition().await, Disposition::Delivered);
        let (head, body) = request(&target, 0);
        assert!(head.starts_with("POST /test?a=1 HTTP/1.1\r\n"), "{head}");
        let lines: Vec<&str> = head.lines().collect();
        for line in [
            "x-a: n1",
            "user-agent: default",
            "content-type: application/json",
            "content-length: 2",
        ] {
            assert_eq!(lines.iter().filter(|found| **found == line).count(), 1, "{line}: {head}");
        }
        assert_eq!(body, "{}");
    });
}

/// What is signed is what is sent, also where the body and the query were made for this request.
#[test]
fn the_signature_covers_the_transformed_body() {
    paused(async {
        let target = healthy().await;
        let payload = Payload { transform: removing("body.a"), ..Payload::default() };
        let mut connection = to(&target, "/{{ attempt }}", payload);
        connection.auth = Some(api_key::in_query("key", &Secret::new("k")).unwrap());
        let key = Key::parse(&Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")).unwrap();
        let keys = Keys::new(vec![Dated { key, until: None }]);
        connection.sign = Some(Sign::Standard(StandardWebhooks::new(keys)));
        let mut rig = Rig::with(connection).await;
        rig.send(1, 1);
        assert_eq!(rig.disposition().await, Disposition::Delivered);
        let (head, body) = request(&target, 0);
        assert!(head.starts_with("POST /1?key=k HTTP/1.1\r\n"), "{head}");
        let value = |name: &str| {
            let prefix = format!("{name}: ");
            head.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap().to_owned()
        };
        let signed = format!("{}.{}.{body}", value("webhook-id"), value("webhook-timestamp"));
        use base64::Engine as _;
        let engine = base64::engine::general_purpose::STANDARD;
        let secret = engine.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &secret);
        let expected = engine.encode(ring::hmac::sign(&key, signed.as_bytes()));
        assert_eq!(value("webhook-signature"), format!("v1,{expected}"));
        assert_eq!(body, "{}");
    });
}

/// Nothing is dialled for an event of which no request can be made.
#[test]
fn an_event_that_cannot_be_sent_is_a_dead_letter_at_once() {
    paused(async {
        for (url, payload, cause) in [
            ("/{{ body.none }}", Payload::default(), Cause::Template),
            (
                "/",
                Payload { transform: removing("body.a"), ..Payload::default() },
                Cause::Transform,
            ),
        ] {
            let target = healthy().await;
            let mut connection = to(&target, url, payload);
            connection.max_body = 1;
            let mut rig = Rig::with(connection).await;
            rig.send(1, 3);
            for settled in rig.settle(3).await {
                assert_eq!(settled.disposition, dead(cause, 0));
            }
            assert_eq!(target.notes.accepted.get(), 0);
        }
    });
}

/// Spec 11: an attempt uses the connection as it is then, also for what was queued before.
#[test]
fn a_retry_uses_the_connection_as_it_is_then() {
    paused(async {
        let target = healthy().await;
        let mut rig = Rig::with(to(&target, "/old/{{ attempt }}", Payload::default())).await;
        rig.send(1, 1);
        assert_eq!(rig.disposition().await, Disposition::Delivered);
        rig.replace(1, to(&target, "/new/{{ attempt }}", Payload::default())).await;
        rig.send(1, 1);
        assert_eq!(rig.disposition().await, Disposition::Delivered);
        assert!(request(&target, 0).0.starts_with("POST /old/1 "));
        assert!(request(&target, 1).0.starts_with("POST /new/1 "));
    });
}
