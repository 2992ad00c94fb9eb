//! What a source's settings do to a request.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use ring::hmac;

use super::*;
use crate::connection::RateLimit;
use crate::secret::Secret;
use crate::source::auth::{Auth, Dated};
use crate::source::{
    Algorithm, Cors, Durability, Encoding, Hmac, Reply, StandardWebhooks, VerifyKey,
};

const PATH: &str = "/v1/sources/shop/events";

fn secrets(list: &[&str]) -> Vec<Dated<Secret>> {
    list.iter().map(|one| Dated { value: Secret::new(*one), until_ms: None }).collect()
}

fn shop(change: impl FnOnce(&mut Source)) -> Source {
    let mut source = Source::named("shop");
    change(&mut source);
    source
}

/// A relay whose connection `crm` takes from `shop`, and `plain` from `default`.
fn relay(source: Source) -> Relay {
    let mut crm = connection("crm");
    crm.sources = vec!["shop".to_owned()];
    Relay::with_sources(vec![crm, connection("plain")], &[source], |_| ())
}

fn assert_refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, answer.code().as_str()), (status, code), "{answer:?}");
}

#[test]
fn a_bearer_token_is_asked_for_before_the_body_is_read() {
    let relay = relay(shop(|it| it.auth = Auth::Bearer(secrets(&["t1", "t2"]))));
    let mut producer = relay.connect();
    for token in ["t1", "t2"] {
        let answer = producer.post_with(PATH, &format!("Authorization: Bearer {token}\r\n"), "x");
        assert_eq!(answer.status, 202, "{answer:?}");
    }
    let answer = producer.post_with(PATH, "Authorization: Bearer t3\r\n", "x");
    assert_refused(&answer, 401, "unauthorized");
    assert_eq!(answer.header("www-authenticate"), Some("bearer realm=\"posthaste\""));
    assert_eq!(producer.post("/v1/events", "x").status, 202, "another source asks nobody");
    assert_eq!(relay.stored().len(), 3);
    // Nothing of a stranger's body is asked for or held.
    let head = "Host: localhost\r\nExpect: 100-continue\r\nContent-Length: 900\r\n\r\n";
    let answer = relay.connect().send(format!("POST {PATH} HTTP/1.1\r\n{head}")).answer();
    assert_refused(&answer, 401, "unauthorized");
    assert_eq!(relay.rejected("unauthorized"), 2.0);
    assert_eq!(relay.memory_used(), 0);
}

#[test]
fn a_post_to_one_connection_takes_the_auth_of_its_first_source() {
    let relay = relay(shop(|it| it.auth = Auth::Bearer(secrets(&["t1"]))));
    let mut producer = relay.connect();
    let direct = "/v1/connections/crm/events";
    assert_refused(&producer.post(direct, "x"), 401, "unauthorized");
    assert_eq!(producer.post_with(direct, "Authorization: Bearer t1\r\n", "x").status, 202);
}

#[test]
fn user_and_password() {
    let auth = Auth::Basic { user: "me".to_owned(), passwords: secrets(&["p"]) };
    let relay = relay(shop(|it| it.auth = auth));
    let mut producer = relay.connect();
    let basic = |text: &str| format!("Authorization: Basic {}\r\n", STANDARD.encode(text));
    assert_eq!(producer.post_with(PATH, &basic("me:p"), "x").status, 202);
    let answer = producer.post_with(PATH, &basic("me:q"), "x");
    assert_refused(&answer, 401, "unauthorized");
    let challenge = "basic realm=\"posthaste\", charset=\"utf-8\"";
    assert_eq!(answer.header("www-authenticate"), Some(challenge));
}

fn hmac_source() -> Source {
    let hmac = Hmac {
        header: HeaderName::from_static("x-signature"),
        algorithm: Algorithm::Sha256,
        encoding: Encoding::Base64,
        prefix: "v0=".to_owned(),
        secrets: secrets(&["k"]),
    };
    shop(|it| it.auth = Auth::Hmac(hmac))
}

fn hmac_of(body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"k");
    format!("X-Signature: v0={}\r\n", STANDARD.encode(hmac::sign(&key, body.as_bytes())))
}

#[test]
fn a_signature_is_over_the_body() {
    let relay = relay(hmac_source());
    let mut producer = relay.connect();
    assert_eq!(producer.post_with(PATH, &hmac_of("body"), "body").status, 202);
    assert_refused(&producer.post(PATH, "body"), 401, "unauthorized");
    let answer = producer.post_with(PATH, &hmac_of("body"), "bodY");
    assert_refused(&answer, 403, "signature_invalid");
    assert_eq!(answer.header("connection"), None, "the connection can be used again");
    // A structured CloudEvent and a batch are signed as they are sent.
    let event = "{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"/\",\"type\":\"t\"}";
    let structured = "Content-Type: application/cloudevents+json\r\n";
    let batch = "Content-Type: application/json\r\n";
    for (path, kind, body) in [
        (PATH.to_owned(), structured, event.to_owned()),
        (format!("{PATH}/batch"), batch, format!("[{event}]")),
    ] {
        let good = format!("{kind}{}", hmac_of(&body));
        assert_eq!(producer.post_with(&path, &good, &body).status, 202, "{path}");
        let wrong = format!("{kind}{}", hmac_of("else"));
        assert_refused(&producer.post_with(&path, &wrong, &body), 403, "signature_invalid");
    }
    assert_eq!(relay.stored().len(), 3);
    eventually("memory given back", || relay.memory_used() == 0);
}

#[test]
fn standard_webhooks_are_verified_and_their_id_is_the_key() {
    let secret = Secret::new(format!("whsec_{}", STANDARD.encode([5; 32])));
    let key = Dated { value: VerifyKey::parse(&secret).unwrap(), until_ms: None };
    let auth = Auth::StandardWebhooks(StandardWebhooks { keys: vec![key], tolerance_s: 300 });
    let relay = relay(shop(|it| it.auth = auth));
    let now_s = Clock::system().wall_ms() / 1000;
    let signed = |at: u64, body: &str| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &[5; 32]);
        let tag = hmac::sign(&key, format!("msg_1.{at}.{body}").as_bytes());
        let signature = STANDARD.encode(tag);
        format!(
            "webhook-id: msg_1\r\nwebhook-timestamp: {at}\r\nwebhook-signature: v1,{signature}\r\n"
        )
    };
    let mut producer = relay.connect();
    let first = producer.post_with(PATH, &signed(now_s, "body"), "body");
    assert_eq!(first.status, 202, "{first:?}");
    let again = producer.post_with(PATH, &signed(now_s - 1, "body"), "body");
    assert_eq!((again.status, &again.body), (202, &first.body), "sent again, and one event");
    assert_eq!(relay.stored().len(), 1);
    let old = producer.post_with(PATH, &signed(now_s - 400, "body"), "body");
    assert_refused(&old, 403, "timestamp_invalid");
    let other = producer.post_with(PATH, &signed(now_s, "else"), "body");
    assert_refused(&other, 403, "signature_invalid");
    assert_refused(&producer.post(PATH, "body"), 401, "unauthorized");
}

#[test]
fn a_source_without_a_connection_says_so_to_those_who_may_post() {
    let lonely = Source { auth: Auth::Bearer(secrets(&["t"])), ..Source::named("lonely") };
    let relay = Relay::with_sources(vec![connection("crm")], &[lonely], |_| ());
    let mut producer = relay.connect();
    let path = "/v1/sources/lonely/events";
    assert_refused(&producer.post(path, "x"), 401, "unauthorized");
    let answer = producer.post_with(path, "Authorization: Bearer t\r\n", "x");
    assert_refused(&answer, 404, "no_connection");
}

#[test]
fn other_methods_make_events_where_the_source_takes_them() {
    let relay = relay(shop(|it| it.methods = vec![Method::GET, Method::PUT]));
    let mut producer = relay.connect();
    let answer = producer.send(format!("GET {PATH} HTTP/1.1\r\nHost: localhost\r\n\r\n")).answer();
    assert_eq!(answer.status, 202, "{answer:?}");
    let put = format!("PUT {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx");
    assert_eq!(producer.send(put).answer().status, 202);
    let answer = producer.post(PATH, "x");
    assert_refused(&answer, 405, "method_not_allowed");
    assert_eq!(answer.header("allow"), Some("get, put"));
    let stored = relay.stored();
    let methods = stored.iter().map(|(event, _)| {
        let mut headers = event.content.headers();
        headers.find(|(name, _)| *name == ":method").map(|(_, value)| value.to_vec())
    });
    assert_eq!(methods.collect::<Vec<_>>(), [Some(b"GET".to_vec()), Some(b"PUT".to_vec())]);
    assert_eq!(stored[0].0.content.body(), "");
}

#[test]
fn a_source_may_answer_in_its_own_words() {
    let reply = Reply {
        status: StatusCode::OK,
        content_type: Some(HeaderValue::from_static("text/xml")),
        body: "<ok/>".to_owned(),
    };
    let relay = relay(shop(|it| it.reply = Some(reply)));
    let mut producer = relay.connect();
    let first = producer.post_with(PATH, "Idempotency-Key: k\r\n", "x");
    assert_eq!((first.status, first.body.as_str()), (200, "<ok/>"));
    assert_eq!(first.header("content-type"), Some("text/xml"));
    let id = relay.stored()[0].0.id.to_string();
    assert_eq!(first.header("posthaste-event-id"), Some(id.as_str()));
    let again = producer.post_with(PATH, "Idempotency-Key: k\r\n", "x");
    assert_eq!(again.header("posthaste-event-id"), Some(id.as_str()), "the event that is stored");
    let plain = producer.post("/v1/events", "x");
    assert_eq!((plain.status, plain.header("posthaste-event-id")), (202, None));
    let refused = producer.post_with(PATH, "Idempotency-Key: k\r\n", "y");
    assert_refused(&refused, 409, "idempotency_conflict");
}

#[test]
fn a_relaxed_source_says_that_its_events_may_be_lost() {
    let relay = relay(shop(|it| it.durability = Durability::Relaxed));
    let mut producer = relay.connect();
    assert_eq!(producer.post(PATH, "x").json()["durable"], false);
    assert_eq!(producer.post("/v1/events", "x").json()["durable"], true);
    let lines = "Content-Type: application/x-ndjson\r\n";
    let batch = producer.post_with(&format!("{PATH}/batch"), lines, "1\n2");
    assert_eq!(batch.json()["durable"], false, "{batch:?}");
}

fn limited(burst: u32) -> Source {
    let per = Duration::from_secs(3600);
    shop(|it| it.rate_limit = Some(RateLimit { limit: 1, per, burst }))
}

#[test]
fn too_many_posts_are_told_when_to_come_again() {
    let mut relay = relay(limited(2));
    let mut producer = relay.connect();
    for _ in 0..2 {
        assert_eq!(producer.post(PATH, "x").status, 202);
    }
    let answer = producer.post(PATH, "x");
    assert_refused(&answer, 429, "rate_limited");
    let wait: u32 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((3590..=3600).contains(&wait), "{wait}");
    assert_eq!(producer.post("/v1/events", "x").status, 202, "another source");
    let direct = producer.post("/v1/connections/crm/events", "x");
    assert_refused(&direct, 429, "rate_limited");
    // A reload that changes nothing of it gives no new tokens, and drops no connection.
    relay.reload(&[limited(2)]);
    assert_refused(&producer.post(PATH, "x"), 429, "rate_limited");
    relay.reload(&[Source::named("shop")]);
    assert_eq!(producer.post(PATH, "x").status, 202);
}

/// Else anybody could keep the real producer out.
#[test]
fn strangers_do_not_use_up_the_limit() {
    let mut source = hmac_source();
    source.rate_limit = limited(1).rate_limit;
    let relay = relay(source);
    let mut producer = relay.connect();
    for _ in 0..3 {
        let answer = producer.post_with(PATH, &hmac_of("else"), "body");
        assert_refused(&answer, 403, "signature_invalid");
    }
    assert_eq!(producer.post_with(PATH, &hmac_of("body"), "body").status, 202);
    assert_refused(&producer.post_with(PATH, &hmac_of("body"), "body"), 429, "rate_limited");
}

const PAGE: &str = "Origin: https://shop.example.com\r\n";

fn open_to_page() -> Source {
    let origin = "https://shop.example.com".to_owned();
    shop(|it| {
        it.cors = Cors::Origins(vec![origin]);
        it.auth = Auth::Bearer(secrets(&["t"]));
    })
}

#[test]
fn a_page_that_is_named_may_post() {
    let relay = relay(open_to_page());
    let mut producer = relay.connect();
    let answer = producer.post_with(PATH, &format!("{PAGE}Authorization: Bearer t\r\n"), "x");
    assert_eq!(answer.status, 202, "{answer:?}");
    let allowed = |answer: &Answer| answer.header("access-control-allow-origin").map(str::to_owned);
    let page = Some("https://shop.example.com".to_owned());
    assert_eq!(allowed(&answer), page);
    assert_eq!(answer.header("vary"), Some("origin"));
    let answer = producer.post_with(PATH, PAGE, "x");
    assert_refused(&answer, 401, "unauthorized");
    assert_eq!(allowed(&answer), page, "the page may read refusals too");
    // Neither another page nor another source, nor the page under another name of the host.
    for (path, headers) in [
        (PATH, "Origin: https://evil.example\r\n".to_owned()),
        (PATH, format!("{PAGE}{PAGE}")),
        ("/v1/events", PAGE.to_owned()),
        ("/v1/sources/nobody/events", PAGE.to_owned()),
    ] {
        let answer = relay.connect().post_with(path, &headers, "x");
        assert_refused(&answer, 403, "origin_forbidden");
        assert_eq!(allowed(&answer), None, "{path} {headers}");
    }
    let rebound =
        format!("POST {PATH} HTTP/1.1\r\nHost: evil.example\r\n{PAGE}Content-Length: 0\r\n\r\n");
    assert_refused(&relay.connect().send(rebound).answer(), 403, "host_forbidden");
    assert_eq!(relay.stored().len(), 1);
}

#[test]
fn a_browser_may_ask_before_it_posts() {
    let relay = relay(open_to_page());
    let ask = |path: &str, headers: &str| {
        let request = format!("OPTIONS {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
        relay.connect().send(request).answer()
    };
    let asked = "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization,content-type\r\nAccess-Control-Request-Private-Network: true\r\n";
    let answer = ask(PATH, &format!("{PAGE}{asked}"));
    assert_eq!(answer.status, 204, "{answer:?}");
    for (name, value) in [
        ("access-control-allow-origin", "https://shop.example.com"),
        ("access-control-allow-methods", "post"),
        ("access-control-allow-headers", "authorization,content-type"),
        ("access-control-allow-private-network", "true"),
        ("access-control-max-age", "600"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{name}");
    }
    let evil = ask(PATH, &format!("Origin: https://evil.example\r\n{asked}"));
    assert_refused(&evil, 403, "origin_forbidden");
    assert_refused(&ask(PATH, asked), 405, "method_not_allowed");
    assert_refused(&ask(PATH, PAGE), 405, "method_not_allowed");
    assert!(relay.stored().is_empty());
}

#[test]
fn new_settings_hold_at_the_next_request_of_an_open_connection() {
    let mut relay = relay(Source::named("shop"));
    let mut producer = relay.connect();
    assert_eq!(producer.post(PATH, "x").status, 202);
    relay.reload(&[shop(|it| it.auth = Auth::Bearer(secrets(&["t"])))]);
    assert_refused(&producer.post(PATH, "x"), 401, "unauthorized");
    relay.reload(&[]);
    assert_eq!(producer.post(PATH, "x").status, 202);
}
