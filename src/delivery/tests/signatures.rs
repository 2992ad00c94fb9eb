//! Signatures of real requests: made for each attempt, over what was sent, and accepted by the reference library.

use std::io::Write as _;
use std::process::{Command, Stdio};

use http::HeaderName;
use serde_json::json;

use super::peers::{Peer, answering, healthy};
use super::*;
use crate::connection::sign::Sign;
use crate::connection::sign::custom::{self, Algorithm, CustomHmac, Encoding, HmacKey};
use crate::connection::sign::keys::{Dated, Keys};
use crate::connection::sign::standard::{Claim, Key, Mismatch, StandardWebhooks, Verifier, verify};
use crate::delivery::testing::connection;
use crate::secret::Secret;

const OLD: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NEW: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const ASYMMETRIC: &str =
    "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
const PUBLIC: &str = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";
const DAY: u64 = 24 * 3600;

fn signing(peer: &Peer, keys: &[(&str, Option<u64>)]) -> Connection {
    let dated = |(key, until): &(&str, Option<u64>)| Dated {
        key: Key::parse(&Secret::new(*key)).unwrap(),
        until: *until,
    };
    let keys = Keys::new(keys.iter().map(dated).collect());
    let mut connection = connection("crm", &peer.url);
    connection.sign = Some(Sign::Standard(StandardWebhooks::new(keys)));
    connection
}

/// One request as its target saw it.
struct Seen {
    id: String,
    timestamp: String,
    signature: String,
    body: Vec<u8>,
}

impl Seen {
    fn of(peer: &Peer, index: usize) -> Seen {
        let request = peer.notes.requests.borrow()[index].1.clone();
        let header = |name: &str| {
            let prefix = format!("{name}: ");
            request.head.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap().to_owned()
        };
        Seen {
            id: header("webhook-id"),
            timestamp: header("webhook-timestamp"),
            signature: header("webhook-signature"),
            body: request.body,
        }
    }

    fn check(&self, key: &str, now: u64) -> Result<(), Mismatch> {
        let claim = Claim {
            id: Some(self.id.as_bytes()),
            timestamp: Some(self.timestamp.as_bytes()),
            signature: Some(self.signature.as_bytes()),
            body: &self.body,
        };
        verify(&[Verifier::parse(&Secret::new(key)).unwrap()], &claim, now)
    }

    /// A line for the reference verifier, whose clock shows `now`.
    fn case(&self, key: &str, now: u64, accepted: bool) -> serde_json::Value {
        json!({
            "secret": key,
            "headers": {
                "webhook-id": self.id,
                "webhook-timestamp": self.timestamp,
                "webhook-signature": self.signature,
            },
            "body": String::from_utf8(self.body.clone()).unwrap(),
            "now": now,
            "accepted": accepted,
        })
    }
}

/// Runs the reference library from PyPI over the cases; each says whether it must be accepted.
fn reference_agrees(cases: &[serde_json::Value]) {
    const PYTHON: &str = "/opt/posthaste-test/venv/bin/python";
    if !std::path::Path::new(PYTHON).exists() {
        let must = std::env::var_os("POSTHASTE_NO_SKIP").is_some_and(|value| value == "1");
        assert!(!must, "{PYTHON} is missing, see .ci/setup");
        println!("skipped: {PYTHON} is missing, see .ci/setup");
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/verify_webhooks.py");
    let mut python = Command::new(PYTHON)
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = python.stdin.take().unwrap();
    for case in cases {
        writeln!(stdin, "{case}").unwrap();
    }
    drop(stdin);
    let output = python.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert_eq!(said.trim(), format!("{} cases", cases.len()));
}

/// The first attempt, a retry three days later and a replay each carry a timestamp and a signature of their own, which the
/// reference accepts on its own clock; what was signed three days ago it refuses.
#[test]
fn each_attempt_is_signed_anew_and_the_reference_accepts_it() {
    paused(async {
        let target = healthy().await;
        let start = WALL_MS / 1000;
        let keys = [(OLD, Some(start + 2 * DAY)), (NEW, None), (ASYMMETRIC, None)];
        let mut rig = Rig::with(signing(&target, &keys)).await;
        let body = "{\"name\":\"Grüße, 世界\",\"n\":1e-7}".as_bytes();
        rig.send_lane(1, 1, Lane::New, body);
        rig.settle(1).await;
        rig.clock.advance(Duration::from_secs(3 * DAY));
        rig.send_lane(1, 1, Lane::Retry, body);
        rig.settle(1).await;
        rig.send_lane(1, 1, Lane::Replay, body);
        rig.settle(1).await;
        let [first, retried, replayed] = [0, 1, 2].map(|index| Seen::of(&target, index));
        assert!(first.id == retried.id && first.id == replayed.id);
        let at = |seen: &Seen| seen.timestamp.parse::<u64>().unwrap();
        assert_eq!(at(&first), start);
        let later = start + 3 * DAY;
        assert!((later..later + 5).contains(&at(&retried)), "{}", retried.timestamp);
        assert_eq!(first.signature.split(' ').count(), 3);
        assert_eq!(retried.signature.split(' ').count(), 2, "the old secret has ended");
        assert_ne!(first.signature, retried.signature);
        let mut cases = Vec::new();
        for (seen, old_signs) in [(&first, true), (&retried, false), (&replayed, false)] {
            for key in [NEW, PUBLIC] {
                assert_eq!(seen.check(key, at(seen)), Ok(()), "{key}");
                cases.push(seen.case(key, at(seen), true));
            }
            assert_eq!(seen.check(OLD, at(seen)).is_ok(), old_signs);
            cases.push(seen.case(OLD, at(seen), old_signs));
        }
        cases.push(first.case(NEW, later, false));
        let altered = Seen { body: b"{}".to_vec(), ..first };
        cases.push(altered.case(NEW, start, false));
        reference_agrees(&cases);
    });
}

#[test]
fn when_all_secrets_have_ended_nothing_goes_out_and_nothing_is_lost() {
    paused(async {
        let target = healthy().await;
        let end = WALL_MS / 1000 + 60;
        let mut rig = Rig::with(signing(&target, &[(OLD, Some(end))])).await;
        rig.send(1, 1);
        assert_eq!(rig.disposition().await, Disposition::Delivered);
        rig.clock.advance(Duration::from_secs(61));
        rig.send(1, 1);
        assert_eq!(rig.disposition().await, retry(5));
        assert_eq!(target.requests(), 1);
        let line = "posthaste_delivery_attempts_total{connection=\"crm\",code=\"auth_token\"} 1";
        assert!(rig.counts(line));
    });
}

#[test]
fn a_custom_signature_goes_into_its_header_once_per_secret() {
    paused(async {
        let target =
            answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Duration::ZERO).await;
        let key = |secret: &str| HmacKey::new(&Secret::new(secret), Algorithm::Sha256);
        let old_until = Some(WALL_MS / 1000 + 60);
        let keys = Keys::new(vec![
            Dated { key: key("old"), until: old_until },
            Dated { key: key("new"), until: None },
        ]);
        let mut connection = connection("crm", &target.url);
        connection.sign = Some(Sign::Custom(CustomHmac::new(
            HeaderName::from_static("x-signature"),
            Encoding::Hex,
            custom::content("{{ method }} {{ url }}\n{{ timestamp }}.{{ body }}").unwrap(),
            custom::value("t={{ timestamp }},v1={{ signature }}").unwrap(),
            keys,
        )));
        let mut rig = Rig::with(connection).await;
        rig.send(1, 1);
        rig.settle(1).await;
        let request = target.notes.requests.borrow()[0].1.clone();
        let values: Vec<_> = request
            .head
            .lines()
            .filter_map(|line| line.strip_prefix("x-signature: "))
            .map(str::to_owned)
            .collect();
        let content = format!("POST {}\n1700000000.{{\"a\":1}}", target.url);
        let expected = |secret: &str| {
            let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
            let tag = ring::hmac::sign(&key, content.as_bytes());
            format!("t=1700000000,v1={}", crate::secret::hex(tag.as_ref(), 32))
        };
        assert_eq!(values, [expected("new"), expected("old")]);
    });
}
