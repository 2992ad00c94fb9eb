//! `[[source]]` as it comes out, and what is warned about.

use http::Method;

use super::*;
use crate::source::auth::Auth;
use crate::source::{Algorithm, Cors, Durability, Encoding, Source, VerifyKey};

const CONNECTION: &str =
    "[[connection]]\nname = \"one\"\nurl = \"http://example.com/\"\nsources = [\"shop\"]\n";

fn with(root: &str) -> Loaded {
    let files = [(FILE_NAME, root), ("connections.d/a.toml", CONNECTION)];
    loaded(&files, &[("TOKEN", "t1"), ("SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")])
}

fn shop(root: &str) -> Source {
    let loaded = with(&format!("[[source]]\nname = \"shop\"\n{root}"));
    assert_eq!(warnings(&loaded), [""; 0], "{root}");
    loaded.config.daemon.sources[0].clone()
}

#[test]
fn a_source_without_more_is_as_one_without_a_table() {
    assert_eq!(shop(""), Source::named("shop"));
    assert!(with("").config.daemon.sources.is_empty());
}

#[test]
fn every_key_of_a_source() {
    let source = shop(
        "methods = [\"GET\", \"POST\", \"GET\"]\ndurability = \"relaxed\"\ncors = [\"https://Shop.example.com\"]
        response = { status = 200, content_type = \"text/xml\", body = \"<ok/>\" }\nrate_limit = { limit = 50, per = \"minute\" }",
    );
    assert_eq!(source.methods, [Method::GET, Method::POST]);
    assert_eq!(source.durability, Durability::Relaxed);
    assert_eq!(source.cors, Cors::Origins(vec!["https://shop.example.com".to_owned()]));
    let reply = source.reply.unwrap();
    assert_eq!((reply.status.as_u16(), reply.body.as_str()), (200, "<ok/>"));
    assert_eq!(reply.content_type.unwrap(), "text/xml");
    let limit = source.rate_limit.unwrap();
    assert_eq!((limit.limit, limit.per.as_secs(), limit.burst), (50, 60, 5));
    assert_eq!(shop("cors = [\"*\"]").cors, Cors::Any);
    let empty = shop("response = { status = 204 }").reply.unwrap();
    assert_eq!((empty.content_type, empty.body.as_str()), (None, ""));
}

#[test]
fn every_auth_of_a_source() {
    match shop("auth.bearer.tokens = [{ env = \"TOKEN\" }, { env = \"TOKEN\", until = \"2027-01-01T00:00:00Z\" }]").auth {
        Auth::Bearer(tokens) => {
            assert_eq!(tokens[0].value.expose(), b"t1");
            assert_eq!(tokens[1].until_ms, Some(1_798_761_600_000));
        }
        other => panic!("{other:?}"),
    }
    match shop("[source.auth.basic]\nuser = \"me\"\npasswords = [{ env = \"TOKEN\" }]").auth {
        Auth::Basic { user, passwords } => assert_eq!((user.as_str(), passwords.len()), ("me", 1)),
        other => panic!("{other:?}"),
    }
    let hmac = "header = \"X-Sig\"\nalgorithm = \"sha512\"\nencoding = \"base64\"\nprefix = \"v0=\"\nsecrets = [{ env = \"TOKEN\" }]";
    match shop(&format!("[source.auth.hmac]\n{hmac}")).auth {
        Auth::Hmac(hmac) => {
            assert_eq!((hmac.header.as_str(), hmac.prefix.as_str()), ("x-sig", "v0="));
            assert_eq!((hmac.algorithm, hmac.encoding), (Algorithm::Sha512, Encoding::Base64));
        }
        other => panic!("{other:?}"),
    }
    match shop("[source.auth.standard_webhooks]\nsecrets = [{ env = \"SECRET\" }]").auth {
        Auth::StandardWebhooks(webhooks) => {
            assert_eq!(webhooks.tolerance_s, 300);
            assert!(matches!(webhooks.keys[0].value, VerifyKey::Symmetric(_)));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_others_can_reach_should_ask_who_posts() {
    let root = |sources: &str| format!("[ingress]\nhttp = [\"0.0.0.0:8377\"]\n{sources}");
    let said = warnings(&with(&root("")));
    assert!(said.len() == 1 && said[0].contains("nobody who posts to \"shop\""), "{said:?}");
    let closed = "[[source]]\nname = \"shop\"\nauth.bearer.tokens = [{ env = \"TOKEN\" }]\n";
    assert_eq!(warnings(&with(&root(closed))), [""; 0]);
    let lonely = format!("{closed}[[source]]\nname = \"lonely\"\n");
    let said = warnings(&with(&root(&lonely)));
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].contains("nobody who posts to \"lonely\""), "{said:?}");
    assert!(said[1].contains("source \"lonely\"") && said[1].contains("no connection"), "{said:?}");
}

#[test]
fn a_secret_in_the_file_is_warned_about() {
    let loaded = with("[[source]]\nname = \"shop\"\nauth.bearer.tokens = [\"hunter2\"]\n");
    let said = warnings(&loaded);
    assert!(said.len() == 1 && said[0].contains("plain text"), "{said:?}");
    assert!(!format!("{said:?} {:?}", loaded.config).contains("hunter2"));
}
