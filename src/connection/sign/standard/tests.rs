//! The vectors of the public references: Standard Webhooks' libraries for `v1`, and Svix's server, where `v1a` comes from.

use http::{Method, Uri};

use super::super::keys::Dated;
use super::*;

const ID: &[u8] = b"msg_p5jXN8AQM9LWM0D4loKWxJek";
const AT: u64 = 1_614_265_330;
const BODY: &[u8] = b"{\"test\": 2432232314}";
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const V1: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
const KEY: &str =
    "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
const PUBLIC: &str = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";
const V1A: &str =
    "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==";

fn signed(id: &[u8], keys: &[(&str, Option<u64>)], now: u64) -> Option<String> {
    let dated = |(secret, until): &(&str, Option<u64>)| Dated {
        key: Key::parse(&Secret::new(*secret)).unwrap(),
        until: *until,
    };
    let standard = StandardWebhooks::new(Keys::new(keys.iter().map(dated).collect()));
    let timestamp = AT.to_string();
    let message = Message {
        id,
        timestamp: timestamp.as_bytes(),
        attempt: b"1",
        method: &Method::POST,
        origin: "https://example.com",
        uri: &Uri::from_static("/"),
        body: BODY,
    };
    let value = standard.sign(&message, now)?;
    Some(value.to_str().unwrap().to_owned())
}

#[test]
fn the_vectors_of_the_references() {
    assert_eq!(signed(ID, &[(SECRET, None)], AT).unwrap(), V1);
    assert_eq!(signed(ID, &[(KEY, None)], AT).unwrap(), V1A);
    // The private half alone is as good.
    let seed = format!("whsk_{}", BASE64.encode(&BASE64.decode(&KEY[5..]).unwrap()[..32]));
    assert_eq!(signed(ID, &[(&seed, None)], AT).unwrap(), V1A);
    let key = Key::parse(&Secret::new(KEY)).unwrap();
    assert_eq!(key.public().as_deref(), Some(PUBLIC));
    assert_eq!(Key::parse(&Secret::new(SECRET)).unwrap().public(), None);
}

#[test]
fn all_keys_that_have_not_ended_sign_the_newest_first() {
    let keys = [(KEY, Some(AT + 1)), (SECRET, None)];
    assert_eq!(signed(ID, &keys, AT).unwrap(), format!("{V1} {V1A}"));
    assert_eq!(signed(ID, &keys, AT + 1).unwrap(), V1);
    assert_eq!(signed(ID, &keys[..1], AT + 1), None);
}

/// The header is made in one allocation: what was reserved is what was used.
#[test]
fn the_length_is_known_before() {
    assert_eq!(V1.len(), V1_BYTES);
    assert_eq!(V1A.len(), V1A_BYTES);
}

#[test]
fn keys_that_cannot_sign_are_refused_without_being_shown() {
    for (text, word) in [
        ("hunter2", "whsec_"),
        ("whsec_%", "not base64"),
        ("whsec_aHVudGVyMg==", "7 bytes"),
        ("whsk_aHVudGVyMg==", "ed25519"),
        (
            "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlaaaaaaaaaaAJ6p9lMicMFs6Kvg==",
            "belong to them",
        ),
        ("whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=", "whsk_"),
    ] {
        let error = Key::parse(&Secret::new(text)).unwrap_err();
        assert!(error.contains(word), "{text}: {error}");
        assert!(!error.contains("hunter2") && !error.contains("aHVudGVy"), "{error}");
    }
    assert!(Key::parse(&Secret::new(*b"\xff")).is_err());
    let shown = format!("{:?}", Key::parse(&Secret::new(SECRET)).unwrap());
    assert!(shown.starts_with("Key(") && !shown.contains("MfKQ"), "{shown}");
}

fn check(keys: &[&str], claim: Claim<'_>, now: u64) -> Result<(), Mismatch> {
    let verifiers: Vec<_> =
        keys.iter().map(|key| Verifier::parse(&Secret::new(*key)).unwrap()).collect();
    verify(&verifiers, &claim, now)
}

#[test]
fn what_was_signed_verifies_and_nothing_else() {
    let timestamp = AT.to_string();
    let both = format!("v9,zzz garbage {V1A} {V1}");
    let claim = Claim {
        id: Some(ID),
        timestamp: Some(timestamp.as_bytes()),
        signature: Some(both.as_bytes()),
        body: BODY,
    };
    for key in [SECRET, KEY, PUBLIC] {
        assert_eq!(check(&[key], claim, AT + TOLERANCE_SECS), Ok(()), "{key}");
    }
    let other = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    assert_eq!(check(&[other], claim, AT), Err(Mismatch::Signature));
    assert_eq!(check(&[other, SECRET], claim, AT), Ok(()));
    assert_eq!(check(&[SECRET], claim, AT + 301), Err(Mismatch::Old));
    assert_eq!(check(&[SECRET], claim, AT - 301), Err(Mismatch::Early));
    let altered = Claim { body: b"{\"test\": 2432232315}", ..claim };
    for key in [SECRET, KEY] {
        assert_eq!(check(&[key], altered, AT), Err(Mismatch::Signature));
    }
    // A v1 signature does not pass for a v1a one, nor the other way round.
    let swapped = format!("v1a,{} v1,{}", &V1[3..], &V1A[4..]);
    let swapped = Claim { signature: Some(swapped.as_bytes()), ..claim };
    assert_eq!(check(&[SECRET, KEY], swapped, AT), Err(Mismatch::Signature));
}

#[test]
fn what_is_missing_is_said() {
    let claim = Claim { id: Some(ID), timestamp: Some(b"1"), signature: Some(b""), body: b"" };
    let missing = Claim { id: None, ..claim };
    assert_eq!(check(&[], missing, 1), Err(Mismatch::Missing("webhook-id")));
    let missing = Claim { timestamp: None, ..claim };
    assert_eq!(check(&[], missing, 1), Err(Mismatch::Missing("webhook-timestamp")));
    let missing = Claim { signature: None, ..claim };
    assert_eq!(check(&[], missing, 1), Err(Mismatch::Missing("webhook-signature")));
    let odd = Claim { timestamp: Some(b"1.5"), ..claim };
    assert_eq!(check(&[], odd, 1), Err(Mismatch::Timestamp));
    assert_eq!(check(&[], claim, 1), Err(Mismatch::Signature));
}

proptest::proptest! {
    /// No header panics, and none is believed that was not made with the key.
    #[test]
    fn strange_signatures_are_not_believed(
        signature in "(v1a?,[A-Za-z0-9+/=]{0,88}|[ -~]){0,4}",
        body: Vec<u8>,
    ) {
        let timestamp = AT.to_string();
        let claim = Claim {
            id: Some(ID),
            timestamp: Some(timestamp.as_bytes()),
            signature: Some(signature.as_bytes()),
            body: &body,
        };
        assert_eq!(check(&[SECRET, KEY, PUBLIC], claim, AT), Err(Mismatch::Signature));
    }
}
