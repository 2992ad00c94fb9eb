//! Signatures of others, and what is no signature.

use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use ring::signature::{Ed25519KeyPair, KeyPair};

use super::*;

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn dated<T>(value: T) -> Dated<T> {
    Dated { value, until_ms: None }
}

fn hmac_of(algorithm: Algorithm, encoding: Encoding, prefix: &str, secret: &str) -> Hmac {
    Hmac {
        header: HeaderName::from_static("x-signature"),
        algorithm,
        encoding,
        prefix: prefix.to_owned(),
        secrets: vec![dated(Secret::new("other")), dated(Secret::new(secret))],
    }
}

/// The example of GitHub's documentation ("Validating webhook deliveries").
#[test]
fn hmac_of_a_known_producer() {
    let hmac = hmac_of(Algorithm::Sha256, Encoding::Hex, "sha256=", "It's a Secret to Everybody");
    let shown = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    let good = headers(&[("x-signature", shown)]);
    assert_eq!(hmac.check_head(&good), Ok(()));
    assert_eq!(hmac.check_body(&good, b"Hello, World!", 0), Ok(()));
    assert_eq!(hmac.check_body(&good, b"Hello, World?", 0), Err(Denied::Signature));
    let upper = headers(&[("x-signature", &shown.to_uppercase().replace("SHA256", "sha256"))]);
    assert_eq!(hmac.check_body(&upper, b"Hello, World!", 0), Ok(()));
}

#[test]
fn hmac_in_every_form() {
    // RFC 4231, test case 2.
    let (key, body) = ("Jefe", b"what do ya want for nothing?");
    let sha256 = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
    let sha512 = "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737";
    for (algorithm, hex) in [(Algorithm::Sha256, sha256), (Algorithm::Sha512, sha512)] {
        let base64 = STANDARD.encode(from_hex(hex.as_bytes()).unwrap());
        let unpadded = base64.trim_end_matches('=');
        for (encoding, text) in
            [(Encoding::Hex, hex), (Encoding::Base64, &base64), (Encoding::Base64, unpadded)]
        {
            let hmac = hmac_of(algorithm, encoding, "", key);
            let good = headers(&[("x-signature", text)]);
            assert_eq!(hmac.check_body(&good, body, 0), Ok(()), "{algorithm:?} {encoding:?}");
        }
    }
}

#[test]
fn what_is_no_hmac() {
    let mut hmac = hmac_of(Algorithm::Sha256, Encoding::Hex, "sha256=", "Jefe");
    let good = "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
    let body = b"what do ya want for nothing?";
    assert_eq!(hmac.check_head(&headers(&[])), Err(Denied::Missing));
    let twice = headers(&[("x-signature", good), ("x-signature", good)]);
    assert_eq!(hmac.check_head(&twice), Err(Denied::Wrong));
    for wrong in [&good[7..], "sha256=", "sha256=5b", "sha256=5bd", "sha256=zz", "", &good[..70]] {
        let found = hmac.check_body(&headers(&[("x-signature", wrong)]), body, 0);
        assert_eq!(found, Err(Denied::Signature), "{wrong:?}");
    }
    let good = headers(&[("x-signature", good)]);
    hmac.secrets[1].until_ms = Some(5);
    assert_eq!(hmac.check_body(&good, body, 4), Ok(()));
    assert_eq!(hmac.check_body(&good, body, 5), Err(Denied::Signature), "the secret has ended");
}

/// The vector of the reference libraries' own tests.
const WHSEC: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const MSG_ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
const AT: &str = "1614265330";
const AT_MS: u64 = 1_614_265_330_000;
const BODY: &[u8] = br#"{"test": 2432232314}"#;
const V1: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

fn webhooks(keys: &[&str]) -> StandardWebhooks {
    let key = |text: &&str| dated(VerifyKey::parse(&Secret::new(*text)).unwrap());
    StandardWebhooks { keys: keys.iter().map(key).collect(), tolerance_s: 300 }
}

fn webhook(signature: &str) -> HeaderMap {
    headers(&[(ID, MSG_ID), (TIMESTAMP, AT), (SIGNATURE, signature)])
}

#[test]
fn the_reference_vector_of_standard_webhooks() {
    for secret in [WHSEC, WHSEC.strip_prefix("whsec_").unwrap()] {
        let found = webhooks(&[secret]).check_body(&webhook(V1), BODY, AT_MS);
        assert_eq!(found, Ok(()), "{secret}");
    }
    let other = format!("whsec_{}", STANDARD.encode([7; 24]));
    assert_eq!(webhooks(&[&other, WHSEC]).check_body(&webhook(V1), BODY, AT_MS), Ok(()));
    assert_eq!(webhooks(&[&other]).check_body(&webhook(V1), BODY, AT_MS), Err(Denied::Signature));
    for among in [
        format!("v1,AAAA {V1}"),
        format!("v2,x nonsense {V1} v1,"),
        format!("v1a,{} {V1}", &V1[3..]),
    ] {
        assert_eq!(webhooks(&[WHSEC]).check_body(&webhook(&among), BODY, AT_MS), Ok(()), "{among}");
    }
    for wrong in
        ["", "v1", "v1,", &V1[3..], &V1.replacen("v1", "v1a", 1), &V1.replacen("v1", "v2", 1)]
    {
        let found = webhooks(&[WHSEC]).check_body(&webhook(wrong), BODY, AT_MS);
        assert_eq!(found, Err(Denied::Signature), "{wrong:?}");
    }
    assert_eq!(webhooks(&[WHSEC]).check_body(&webhook(V1), b"{}", AT_MS), Err(Denied::Signature));
    let mut ended = webhooks(&[WHSEC]);
    ended.keys[0].until_ms = Some(AT_MS);
    assert_eq!(ended.check_body(&webhook(V1), BODY, AT_MS), Err(Denied::Signature));
}

#[test]
fn a_timestamp_is_at_most_five_minutes_off() {
    let webhooks = webhooks(&[WHSEC]);
    let check = |now_ms| webhooks.check_head(&webhook(V1), now_ms);
    for now_ms in [AT_MS, AT_MS + 300_999, AT_MS - 300_000] {
        assert_eq!(check(now_ms), Ok(()), "{now_ms}");
    }
    for now_ms in [AT_MS + 301_000, AT_MS - 301_000, 0] {
        assert_eq!(check(now_ms), Err(Denied::Timestamp), "{now_ms}");
    }
    for wrong in ["", "x", "-1", "+1614265330", "1614265330.5", "99999999999999999999"] {
        let headers = headers(&[(ID, MSG_ID), (TIMESTAMP, wrong), (SIGNATURE, V1)]);
        assert_eq!(webhooks.check_head(&headers, AT_MS), Err(Denied::Timestamp), "{wrong}");
    }
    for (missing, _) in [(ID, ()), (TIMESTAMP, ()), (SIGNATURE, ())] {
        let mut headers = webhook(V1);
        headers.remove(missing);
        assert_eq!(webhooks.check_head(&headers, AT_MS), Err(Denied::Missing), "{missing}");
    }
}

#[test]
fn asymmetric_signatures_are_verified_with_the_public_key() {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[3; 32]).unwrap();
    let public = format!("whpk_{}", STANDARD.encode(pair.public_key().as_ref()));
    let signed = [MSG_ID.as_bytes(), AT.as_bytes(), BODY].join(&b'.');
    let v1a = format!("v1a,{}", STANDARD.encode(pair.sign(&signed).as_ref()));
    let both = webhooks(&[WHSEC, &public]);
    assert_eq!(both.check_body(&webhook(&v1a), BODY, AT_MS), Ok(()));
    assert_eq!(both.check_body(&webhook(&v1a), b"{}", AT_MS), Err(Denied::Signature));
    let as_v1 = v1a.replacen("v1a", "v1", 1);
    assert_eq!(both.check_body(&webhook(&as_v1), BODY, AT_MS), Err(Denied::Signature));
    assert_eq!(webhooks(&[WHSEC]).check_body(&webhook(&v1a), BODY, AT_MS), Err(Denied::Signature));
}

#[test]
fn secrets_that_cannot_work_say_why() {
    for (text, word) in [
        ("whsec_?", "base64"),
        ("whsec_c2hvcnQ=", "5 bytes"),
        ("whsk_c2hvcnQ=", "whpk_"),
        ("whpk_c2hvcnQ=", "32 bytes"),
        ("a secret", "base64"),
    ] {
        let error = VerifyKey::parse(&Secret::new(text)).unwrap_err();
        assert!(error.contains(word) && !error.contains("c2hv"), "{text}: {error}");
    }
}
