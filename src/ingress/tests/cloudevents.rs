//! CloudEvents over sockets.

use super::*;

const EVENT: &str = "{ \"specversion\" : \"1.0\", \"id\":\"A-1\", \"source\":\"/shop\", \"type\":\"order.created\", \"data\":{\"n\":1.10} }";
const STRUCTURED: &str = "Content-Type: application/cloudevents+json; charset=utf-8\r\n";
const BINARY: &str = "Content-Type: text/plain\r\nce-specversion: 1.0\r\nce-id: A-1\r\nce-source: /shop\r\nce-type: order.created\r\n";

#[test]
fn a_structured_event_is_stored_byte_for_byte_under_its_type_and_key() {
    let relay = Relay::start(|_| ());
    let mut producer = relay.connect();
    let first = producer.post_with("/v1/events", STRUCTURED, EVENT);
    assert_eq!(first.status, 202, "{first:?}");
    let stored = relay.stored();
    let content = &stored[0].0.content;
    assert_eq!((content.kind(), content.body()), ("order.created", EVENT.into()));
    let kept: Vec<_> = content.headers().collect();
    let kind = b"application/cloudevents+json; charset=utf-8";
    assert_eq!(kept, [("content-type", &kind[..])]);
    let again = producer.post_with("/v1/events", STRUCTURED, EVENT);
    assert_eq!((again.status, &again.body), (202, &first.body), "the same source and id");
    let other = producer.post_with("/v1/events", STRUCTURED, &EVENT.replace("1.10", "1.1"));
    assert_eq!((other.status, other.code().as_str()), (409, "idempotency_conflict"));
    let chunked = format!(
        "POST /v1/events HTTP/1.1\r\nHost: localhost\r\n{STRUCTURED}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{EVENT}\r\n0\r\n\r\n",
        EVENT.len()
    );
    assert_eq!(producer.send(chunked).answer().body, first.body);
    assert_eq!(relay.stored().len(), 1);
    eventually("memory given back", || relay.memory_used() == 0);
}

#[test]
fn a_binary_event_keeps_its_attributes_as_headers() {
    let relay = Relay::start(|_| ());
    let mut producer = relay.connect();
    let first = producer.post_with("/v1/events", BINARY, "body");
    assert_eq!(first.status, 202, "{first:?}");
    let stored = relay.stored();
    let content = &stored[0].0.content;
    assert_eq!((content.kind(), content.body()), ("order.created", "body".into()));
    let kept: Vec<_> = content.headers().map(|(name, _)| name).collect();
    assert_eq!(kept, ["content-type", "ce-specversion", "ce-id", "ce-source", "ce-type"]);
    let again = producer.post_with("/v1/events", BINARY, "body");
    assert_eq!(again.body, first.body);
    // The same source and id are the same event in the other form too; it has another body.
    let other = producer.post_with("/v1/events", STRUCTURED, EVENT);
    assert_eq!(other.code(), "idempotency_conflict");
}

#[test]
fn what_the_request_says_itself_comes_first() {
    let relay = Relay::start(|_| ());
    let mut producer = relay.connect();
    let more = "posthaste-type: mine\r\nwebhook-id: w1\r\n";
    let first = producer.post_with("/v1/events", &format!("{BINARY}{more}"), "body");
    assert_eq!(first.status, 202, "{first:?}");
    let both = format!("{BINARY}{more}Idempotency-Key: k1\r\n");
    let second = producer.post_with("/v1/events", &both, "body");
    let third = producer.post_with("/v1/events", BINARY, "body");
    let stored = relay.stored();
    let said: Vec<_> =
        stored.iter().map(|(event, _)| (event.content.kind(), event.content.key())).collect();
    assert_eq!(said[..2], [("mine", "w1"), ("mine", "k1")]);
    assert_eq!(said[2].0, "order.created");
    assert!(said[2].1.starts_with(":ce "), "{said:?}");
    assert_eq!([second.status, third.status], [202, 202]);
}

#[test]
fn a_wrong_attribute_is_named() {
    let relay = Relay::start(|_| ());
    let mut producer = relay.connect();
    let cases = [
        (BINARY.replace("1.0", "0.3"), "x".to_owned(), 422, "invalid_cloudevent", "specversion"),
        (BINARY.replace("ce-id: A-1\r\n", ""), "x".to_owned(), 422, "invalid_cloudevent", "id"),
        (STRUCTURED.to_owned(), EVENT.replace("A-1", ""), 422, "invalid_cloudevent", "id"),
        (
            STRUCTURED.to_owned(),
            EVENT.replace("\"/shop\"", "7"),
            422,
            "invalid_cloudevent",
            "source",
        ),
        (STRUCTURED.to_owned(), "{".to_owned(), 400, "invalid_json", "JSON object"),
        (STRUCTURED.to_owned(), "[]".to_owned(), 400, "invalid_json", "JSON object"),
        (
            "Content-Type: application/cloudevents+avro\r\n".to_owned(),
            "x".to_owned(),
            415,
            "unsupported_media_type",
            "JSON",
        ),
        (
            format!("{STRUCTURED}Content-Encoding: gzip\r\n"),
            "x".to_owned(),
            415,
            "unsupported_media_type",
            "content-encoding",
        ),
    ];
    for (headers, body, status, code, word) in &cases {
        let answer = producer.post_with("/v1/events", headers, body);
        assert_eq!((answer.status, answer.code().as_str()), (*status, *code), "{headers} {body}");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(word), "{headers} {body}: {detail}");
    }
    assert!(relay.stored().is_empty());
    eventually("memory given back", || relay.memory_used() == 0);
}
