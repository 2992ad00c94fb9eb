//! What becomes of `auth` and `sign`.

use http::HeaderValue;

use super::*;
use crate::connection::Connection;
use crate::connection::auth::Auth;
use crate::connection::sign::Sign;

const ONE: &str = "[[connection]]\nname = \"one\"\nurl = \"http://127.0.0.1:9/a\"\n";
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const KEY: &str =
    "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
/// What the clock of the tests shows.
const NOW: &str = "2027-01-15T08:00:00Z";

fn one(root: &str, body: &str, variables: &[(&str, &str)]) -> (Arc<Connection>, Vec<String>) {
    let text = format!("{ONE}{body}");
    let loaded = loaded(&[(FILE_NAME, root), ("connections.d/a.toml", &text)], variables);
    (Arc::clone(&loaded.config.connections[0]), warnings(&loaded))
}

fn auth(body: &str) -> Auth {
    let variables = [("USER_PASSWORD", "open sesame"), ("TOKEN", "t0ken")];
    let (connection, warnings) = one("", body, &variables);
    assert_eq!(warnings, [""; 0], "{body}");
    connection.auth.clone().unwrap()
}

#[test]
fn each_way_of_auth_is_built() {
    let basic =
        "[connection.auth.basic]\nusername = \"Aladdin\"\npassword = { env = \"USER_PASSWORD\" }";
    let authorization = http::header::AUTHORIZATION;
    let header = |name: &http::HeaderName, value: &'static str| {
        Auth::Header(name.clone(), HeaderValue::from_static(value))
    };
    let expected = header(&authorization, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
    assert_eq!(auth(basic), expected);
    let bearer = "[connection.auth.bearer]\ntoken = { env = \"TOKEN\" }";
    assert_eq!(auth(bearer), header(&authorization, "Bearer t0ken"));
    let api_key = "[connection.auth.api_key]\nname = \"X-Key\"\nkey = { env = \"TOKEN\" }";
    assert_eq!(auth(api_key), header(&http::HeaderName::from_static("x-key"), "t0ken"));
    let Auth::Query(_) = auth(&format!("{api_key}\nin = \"query\"")) else {
        panic!("not in the query");
    };
    let oauth2 = "[connection.auth.oauth2]\ntoken_url = \"https://id.example.com/token\"\nclient_id = \"relay\"\nclient_secret = { env = \"TOKEN\" }\nscopes = [\"a\", \"b\"]\naudience = \"x\"\nparams = { resource = \"y\" }\n";
    let made = auth(oauth2);
    let made = made.oauth2().unwrap();
    assert_eq!(made.token_url.url, "https://id.example.com/token");
    let form = "grant_type=client_credentials&scope=a+b&audience=x&resource=y";
    assert_eq!(made.form.expose(), form.as_bytes());
    assert!(made.authorization.is_some());
    let in_body = auth(&format!("{oauth2}auth_style = \"body\""));
    let in_body = in_body.oauth2().unwrap();
    assert!(in_body.authorization.is_none());
    let form = format!("{form}&client_id=relay&client_secret=t0ken");
    assert_eq!(in_body.form.expose(), form.as_bytes());
}

/// Spec 11: an overlay's `auth` and `sign` replace the table whole, and so does a connection's those of `[defaults]`.
#[test]
fn layers_replace_auth_and_sign_whole() {
    let root = "[defaults.auth.basic]\nusername = \"root\"\npassword = { env = \"P\" }\n[defaults.sign.standard_webhooks]\nsecrets = [{ env = \"S\" }]\n";
    let body = "[connection.auth.bearer]\ntoken = { env = \"P\" }\n[connection.env.test.auth.api_key]\nname = \"k\"\nkey = { env = \"P\" }\n[connection.env.test.sign.hmac]\nheader = \"x-sig\"\nsecrets = [{ env = \"P\" }]\n";
    let variables = [("P", "p"), ("S", SECRET)];
    let (plain, _) = one(root, body, &variables);
    assert_eq!(plain.auth.as_ref().unwrap().header().unwrap(), "authorization");
    let Some(Auth::Header(_, value)) = &plain.auth else { panic!("{:?}", plain.auth) };
    assert_eq!(value, "Bearer p");
    assert!(matches!(plain.sign, Some(Sign::Standard(_))));
    let (overlaid, _) = one(root, body, &[("P", "p"), ("S", SECRET), ("POSTHASTE_ENV", "test")]);
    assert_eq!(overlaid.auth.as_ref().unwrap().header().unwrap(), "k");
    assert_eq!(overlaid.sign.as_ref().unwrap().header(), "x-sig");
}

#[test]
fn secrets_that_end_are_warned_about() {
    let sign = |secrets: &str| {
        let body = format!("[connection.sign.standard_webhooks]\nsecrets = [{secrets}]\n");
        one("", &body, &[("S", SECRET), ("K", KEY)])
    };
    let (connection, warned) = sign("{ env = \"S\" }, { env = \"K\" }");
    assert_eq!(warned, [""; 0]);
    let made = connection.sign.as_ref().unwrap();
    assert_eq!(made.ends(), None);
    assert_eq!(made.public_keys(), ["whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="]);
    let (connection, warned) =
        sign(&format!("{{ env = \"S\" }}, {{ env = \"K\", until = {NOW} }}"));
    assert_eq!(warned.len(), 1, "{warned:?}");
    assert!(warned[0].contains("secrets[1]: has ended"), "{warned:?}");
    assert_eq!(connection.sign.as_ref().unwrap().ends(), None);
    let (connection, warned) = sign("{ env = \"S\", until = 2027-01-15T08:00:01Z }");
    assert_eq!(warned.len(), 1, "{warned:?}");
    assert!(warned[0].contains("every secret ends"), "{warned:?}");
    assert_eq!(connection.sign.as_ref().unwrap().ends(), Some(1_800_000_001));
}

#[test]
fn when_every_secret_has_ended_nothing_runs() {
    let body = "[connection.sign.hmac]\nheader = \"x-sig\"\nsecrets = [\n{ env = \"S\", until = 2027-01-15T08:00:00Z },\n{ env = \"S\", until = 2026-01-15T08:00:00Z }]\n";
    let directory = directory(&[("connections.d/a.toml", &format!("{ONE}{body}"))]);
    let refused = load_in(directory.path(), &[("S", SECRET)]).unwrap_err();
    let lines: Vec<_> = refused.errors.iter().map(ToString::to_string).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    let expected =
        "connections.d/a.toml:6:11: connection \"one\" sign.hmac.secrets: every secret has ended";
    assert!(lines[0].starts_with(expected), "{lines:?}");
    assert_eq!(refused.warnings.len(), 2);
}

/// What changes is seen, what does not is not: a reload compares effective values.
#[test]
fn equal_secrets_are_equal_connections() {
    let body = "[connection.auth.oauth2]\ntoken_url = \"https://id/\"\nclient_id = \"a\"\nclient_secret = { env = \"P\" }\n[connection.sign.standard_webhooks]\nsecrets = [{ env = \"S\" }]\n";
    let of = |p, s| one("", body, &[("P", p), ("S", s)]).0;
    let first = of("p", SECRET);
    assert_eq!(first, of("p", SECRET));
    assert_ne!(first, of("q", SECRET));
    assert_ne!(first, of("p", KEY));
}

#[test]
fn secrets_that_are_not_read_are_stood_in_for() {
    let body = "[connection.auth.basic]\nusername = \"a\"\npassword = { env = \"P\" }\n[connection.sign.standard_webhooks]\nsecrets = [{ file = \"/nowhere\" }]\n";
    let directory = directory(&[("connections.d/a.toml", &format!("{ONE}{body}"))]);
    let options = LoadOptions { secrets: Secrets::Skip, ..options(&[]) };
    let loaded = load(&directory.path().join(FILE_NAME), &options);
    assert!(loaded.is_ok(), "{}", loaded.unwrap_err().render());
    // A secret that is there to be read is looked at all the same.
    let plain = "[connection.sign.standard_webhooks]\nsecrets = [\"unresolve\"]\n";
    fs::write(directory.path().join("connections.d/a.toml"), format!("{ONE}{plain}")).unwrap();
    assert!(load(&directory.path().join(FILE_NAME), &options).is_err());
}
