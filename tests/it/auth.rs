//! How a daemon says who it is, and where its tokens come from.

use crate::harness::{Behaviour, Daemon, Receiver, SOON, Site, eventually};

fn token(token: &str, expires_in: u32) -> Behaviour {
    let body = format!("{{\"access_token\":\"{token}\",\"expires_in\":{expires_in}}}");
    Behaviour::ok().saying(body.as_bytes())
}

fn oauth2(tokens: &Receiver, more: &str) -> String {
    format!(
        "retry = {{ interval = \"50ms\", max_interval = \"50ms\", jitter = \"none\" }}\n\
        [connection.auth.oauth2]\ntoken_url = \"{}\"\nclient_id = \"relay\"\n\
        client_secret = {{ env = \"IT_CLIENT_SECRET\" }}\n{more}",
        tokens.url("token")
    )
}

fn start(site: &Site) -> Daemon<'_> {
    Daemon::start_with(site, |command| {
        command.env("IT_CLIENT_SECRET", "hunter2");
    })
}

/// A hundred events, ten at a time: one token request. A token that the target refuses is replaced once, within the attempt.
#[test]
fn a_token_is_shared_and_replaced_when_it_is_refused() {
    let tokens = Receiver::start(token("first", 3600).after(std::time::Duration::from_millis(200)));
    let target = Receiver::start(Behaviour::ok());
    let site = Site::new();
    site.connection("crm", &target.url("crm"), &oauth2(&tokens, "scopes = [\"send\"]\n"));
    let mut daemon = start(&site);
    let mut producer = site.producer();
    for _ in 0..100 {
        producer.post("/v1/events", &[], b"x").unwrap();
    }
    eventually("all", SOON, || target.delivered("crm") == 100);
    assert_eq!(tokens.count(), 1);
    let asked = &tokens.arrivals()[0];
    assert_eq!((asked.method.as_str(), asked.path.as_str()), ("POST", "/token"));
    assert_eq!(asked.header("authorization"), Some("Basic cmVsYXk6aHVudGVyMg=="));
    let used = |arrival: &crate::harness::receiver::Arrival| {
        arrival.header("authorization").map(str::to_owned)
    };
    assert!(
        target.arrivals().iter().all(|arrival| used(arrival).as_deref() == Some("Bearer first"))
    );

    tokens.behave(token("second", 3600));
    target.behave(Behaviour::status(401));
    producer.post("/v1/events", &[], b"y").unwrap();
    daemon.drained(&["crm"]);
    let arrivals = target.arrivals();
    let last: Vec<_> = arrivals[100..].iter().map(|one| (used(one), one.attempt)).collect();
    let bearer = |token: &str| Some(format!("Bearer {token}"));
    assert_eq!(last, [(bearer("first"), 1), (bearer("second"), 1)]);
    assert_eq!(tokens.count(), 2);
    let metrics = daemon.metrics();
    let failed = [("connection", "crm"), ("code", "http_status")];
    assert_eq!(metrics.sum("posthaste_delivery_attempts_total", &failed), 1.0);
    daemon.stop();
}

/// A token endpoint that fails costs attempts with a code of their own; when it is fine again the events go out.
#[test]
fn without_a_token_deliveries_wait() {
    let tokens = Receiver::start(Behaviour::status(500));
    let target = Receiver::start(Behaviour::ok());
    let site = Site::new();
    site.connection("crm", &target.url("crm"), &oauth2(&tokens, "auth_style = \"body\"\n"));
    let mut daemon = start(&site);
    site.producer().post("/v1/events", &[], b"x").unwrap();
    let failed = [("connection", "crm"), ("code", "auth_token")];
    eventually("two attempts without a token", SOON, || {
        daemon.metrics().sum("posthaste_delivery_attempts_total", &failed) >= 2.0
    });
    assert_eq!(target.count(), 0);
    tokens.behave(token("late", 3600));
    eventually("delivered", SOON, || target.delivered("crm") == 1);
    assert_eq!(target.arrivals()[0].header("authorization"), Some("Bearer late"));
    daemon.drained(&["crm"]);
    daemon.stop();
    let said = daemon.stderr();
    assert!(said.contains("the token endpoint answered 500"), "{said}");
    assert!(said.contains("gives tokens again"), "{said}");
}
