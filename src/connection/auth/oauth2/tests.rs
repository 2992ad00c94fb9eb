//! What is asked, and what answers mean.

use super::*;

fn request(secret: &Secret, auth_style: AuthStyle) -> Request<'_> {
    Request {
        client_id: "relay:1",
        client_secret: secret,
        scopes: &[],
        audience: None,
        params: &[],
        auth_style,
    }
}

fn made(request: &Request<'_>) -> OAuth2 {
    let url = Target::parse("https://id.example.com/token").unwrap();
    OAuth2::new(url, request).unwrap()
}

fn form(oauth2: &OAuth2) -> &str {
    std::str::from_utf8(oauth2.form.expose()).unwrap()
}

#[test]
fn credentials_go_into_the_header_or_the_body() {
    let secret = Secret::new("p&ss w");
    let header = made(&request(&secret, AuthStyle::Header));
    assert_eq!(form(&header), "grant_type=client_credentials");
    // relay%3A1:p%26ss+w
    let value = header.authorization.unwrap();
    assert_eq!(value, "Basic cmVsYXklM0ExOnAlMjZzcyt3");
    assert!(value.is_sensitive());
    let body = made(&request(&secret, AuthStyle::Body));
    let expected = "grant_type=client_credentials&client_id=relay%3A1&client_secret=p%26ss+w";
    assert_eq!((form(&body), &body.authorization), (expected, &None));
}

#[test]
fn what_else_a_server_wants_is_asked_for() {
    let secret = Secret::new("s");
    let scopes = ["read".to_owned(), "write".to_owned()];
    let params = [("resource".to_owned(), "urn:x".to_owned())];
    let oauth2 = made(&Request {
        scopes: &scopes,
        audience: Some("https://api.example.com"),
        params: &params,
        ..request(&secret, AuthStyle::Header)
    });
    let expected = "grant_type=client_credentials&scope=read+write&audience=https%3A%2F%2Fapi.example.com&resource=urn%3Ax";
    assert_eq!(form(&oauth2), expected);
}

fn grant(status: u16, body: &str) -> Result<Grant, String> {
    made(&request(&Secret::new("hunter2"), AuthStyle::Body)).grant(status, body.as_bytes())
}

#[test]
fn tokens_are_read_with_their_life() {
    let secs = Duration::from_secs;
    for (body, life, renew_after) in [
        (r#"{"access_token":"t","token_type":"Bearer","expires_in":3600}"#, Some(3600), Some(3540)),
        (r#"{"access_token":"t","token_type":"bearer","expires_in":"100"}"#, Some(100), Some(80)),
        (r#"{"access_token":"t","expires_in":-5,"more":[1]}"#, Some(0), Some(0)),
        (r#"{"access_token":"t","expires_in":"soon"}"#, None, None),
        (r#"{"access_token":"t"}"#, None, None),
        (r#"{"access_token":"t","expires_in":1e30}"#, None, None),
        (
            r#"{"access_token":"t","expires_in":99999999999}"#,
            Some(31_536_000),
            Some(31_536_000 - 60),
        ),
    ] {
        let grant = grant(200, body).unwrap();
        assert_eq!(
            (grant.life, grant.renew_after()),
            (life.map(secs), renew_after.map(secs)),
            "{body}"
        );
        assert_eq!(grant.header, "Bearer t");
        assert!(grant.header.is_sensitive());
    }
}

#[test]
fn answers_that_are_no_token_say_why_and_show_no_more() {
    for (status, body, message) in [
        (
            400,
            r#"{"error":"invalid_client","error_description":"x"}"#,
            "answered 400: invalid_client",
        ),
        (401, "nope", "answered 401"),
        (302, "", "answered 302"),
        (400, r#"{"error":"a\u001b[2J"}"#, "answered 400"),
        (400, r#"{"error":"hunter2 is wrong"}"#, "answered 400: *** is wrong"),
        (200, "{}", "no JSON object with an access_token"),
        (200, "[]", "no JSON object with an access_token"),
        (200, r#"{"access_token":"a b"}"#, "cannot be used"),
        (200, r#"{"access_token":""}"#, "cannot be used"),
        (200, r#"{"access_token":"t","token_type":"mac"}"#, "not of type bearer"),
    ] {
        let error = grant(status, body).unwrap_err();
        let fits = match message {
            "cannot be used" => error.contains(message),
            _ => error.ends_with(message),
        };
        assert!(fits, "{body}: {error}");
        assert!(!error.contains("hunter2") && !error.contains('\u{1b}'), "{error}");
    }
}

#[test]
fn nothing_of_it_can_be_printed() {
    for style in [AuthStyle::Header, AuthStyle::Body] {
        let shown = format!("{:?}", made(&request(&Secret::new("hunter2"), style)));
        assert!(!shown.contains("hunter2") && !shown.contains("aHVudGVy"), "{shown}");
    }
}

proptest::proptest! {
    /// Whatever a token endpoint says, it is read or refused.
    #[test]
    fn any_answer_is_read_or_refused(status in 100u16..600, body: Vec<u8>, life: f64, token in ".*") {
        let oauth2 = made(&request(&Secret::new("hunter2"), AuthStyle::Header));
        let _ = oauth2.grant(status, &body);
        let json = serde_json::json!({ "access_token": token, "expires_in": life }).to_string();
        if let Ok(grant) = oauth2.grant(200, json.as_bytes()) {
            let renew = grant.renew_after().unwrap_or_default();
            assert!(grant.life.is_none_or(|life| renew <= life && life <= LIFE_MAX));
            assert!(grant.header.is_sensitive());
        }
    }
}
