//! Out and in again, and archives that are not what they should be.

use std::io::{Cursor, Write as _};

use proptest::prelude::*;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::archive::{self, Archive, ENTRIES_MAX, pack, unpack};
use super::export::export;
use super::unpacked::unpacked;
use super::*;
use crate::config::{FILE_NAME, LoadOptions, Loaded, Places, RootFile, Secrets, load};

const NOW: &str = "2025-11-13T08:00:00.000Z";

/// A place with a daemon's file and connection files.
struct Home(tempfile::TempDir);

impl Home {
    fn new(files: &[(&str, &str)]) -> Home {
        let home = Home(tempfile::tempdir().unwrap());
        fs::write(home.root(), "").unwrap();
        fs::create_dir(home.connections()).unwrap();
        for (name, text) in files {
            let path = home.0.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        home
    }

    fn root(&self) -> PathBuf {
        self.0.path().join(FILE_NAME)
    }

    fn connections(&self) -> PathBuf {
        self.0.path().join("connections.d")
    }

    fn load(&self) -> Loaded {
        let root = RootFile { path: self.root(), named: true };
        let options = LoadOptions {
            secrets: Secrets::Skip,
            places: Places::of_process(),
            ..LoadOptions::of_process(&root)
        };
        load(&self.root(), &options).unwrap_or_else(|refused| panic!("{}", refused.render()))
    }

    fn export(&self, names: &[&str]) -> Archive {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        export(&self.root(), &self.load().origins, &names, NOW).unwrap()
    }

    fn import(&self, bytes: &[u8], on_conflict: OnConflict) -> Result<Planned, String> {
        let archive = unpack(bytes)?;
        let done = unpacked(&archive, &self.root(), &self.connections(), false)?;
        if let Some(lack) = done.lacking.first() {
            return Err(format!("{} lacks {}", lack.connection, lack.what));
        }
        let planned = plan(&self.root(), &self.connections(), &done.package, on_conflict);
        let planned = planned.map_err(|error| error.to_string())?;
        planned.write().map_err(|error| error.to_string())?;
        Ok(planned)
    }

    fn text(&self, file: &str) -> String {
        fs::read_to_string(self.connections().join(file)).unwrap()
    }
}

/// A table with comments everywhere, as people write them.
fn connection(name: &str, at: &[u8]) -> String {
    let pick = |slot: usize| at.get(slot).copied().unwrap_or_default();
    let mut text = format!("# about {name}: \"quoted\" and 100 %\n[[connection]]\n");
    text +=
        &format!("name = \"{name}\"   # its name\n\n  url='http://x.example.com/{}'\n", pick(0));
    let parts = [
        "method = \"PUT\"\n",
        "labels = { team = \"sales\", \"odd key\" = \"v\" } # inline\n",
        "headers = { X-A = [ \"1\", \"2\" ], x-key = { env = \"T\" } }\n",
        "filter = { body = { total = { \"$gte\" = 100 } } }\n",
        "description = \"\"\"\nlines\n\"\"\"\n",
        "[connection.retry] # waits\ninterval=\"1500ms\"\n",
        "[connection.auth.bearer]\ntoken = { credential = \"t\" }\n",
        "[connection.env.Test]\nurl = \"http://y.example.com/\"\n",
    ];
    for (slot, part) in parts.iter().enumerate() {
        if pick(slot + 1) % 2 == 1 {
            text += part;
        }
    }
    text + "# the end\n"
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn what_goes_out_comes_in_as_it_was(all in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 9), 1..4)) {
        let names: Vec<String> = (0..all.len()).map(|at| format!("c{at}")).collect();
        let texts: Vec<String> = names.iter().zip(&all).map(|(name, at)| connection(name, at)).collect();
        let home = Home::new(&[]);
        for (name, text) in names.iter().zip(&texts) {
            fs::write(home.connections().join(format!("other-{name}.toml")), text).unwrap();
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let bytes = pack(&home.export(&names)).unwrap();
        let other = Home::new(&[]);
        let planned = other.import(&bytes, OnConflict::Fail).unwrap();
        prop_assert_eq!(&planned.names, &names);
        for (name, text) in names.iter().zip(&texts) {
            prop_assert_eq!(&other.text(&format!("{name}.toml")), text);
        }
        let mut before = home.load().config.connections;
        before.sort_by(|a, b| a.name.cmp(&b.name));
        prop_assert_eq!(before, other.load().config.connections);
        // Again: nothing is new.
        prop_assert!(other.import(&bytes, OnConflict::Fail).unwrap_err().contains("already"));
        prop_assert!(other.import(&bytes, OnConflict::Overwrite).unwrap().is_nothing());
    }

    #[test]
    fn any_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(unpack(&bytes).is_err());
    }

    /// A bit that flips is seen, or changes nothing.
    #[test]
    fn damage_is_seen(at in 0..2000usize, bit in 0..8u8) {
        let home = Home::new(&[("connections.d/a.toml", &connection("a", &[1; 9]))]);
        let archive = home.export(&["a"]);
        let mut bytes = pack(&archive).unwrap();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        if let Ok(read) = unpack(&bytes) {
            prop_assert_eq!(read.entries, archive.entries);
        }
    }
}

/// One of several in a file goes alone, with what stands above it; secrets in plain text and keys do not go.
#[test]
fn secrets_and_keys_stay() {
    let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let pair = rcgen::generate_simple_self_signed(["example.com".to_owned()]).unwrap();
    let (certificate, key) = (pair.cert.pem(), pair.signing_key.serialize_pem());
    let text = "# one\n[[connection]]\nname = \"a\"\nurl = \"http://a.example.com/\"\n\n# two\n# lines\n[[connection]]\nname = \"b\" # b\nurl = \"https://b.example.com/\"\nheaders = { x-api-key = \"pl4in\", x-b = \"not secret\" }\nsource = \"shop\"\n[connection.auth.basic]\nusername = \"u\"\npassword = \"c4nary\" # secret\n[connection.tls]\nca_file = \"../tls/ca.pem\"\nclient_cert = \"../tls/both.pem\"\nclient_key = \"../tls/key.pem\"\n";
    let both = format!("{certificate}{key}");
    let home = Home::new(&[
        ("connections.d/two.toml", text),
        ("tls/ca.pem", &certificate),
        ("tls/both.pem", &both),
        ("tls/key.pem", &key),
    ]);
    fs::write(home.root(), "[[source]]\nname = \"shop\"\n").unwrap();
    let archive = home.export(&["b"]);
    let bytes = pack(&archive).unwrap();
    let whole = format!("{:?}", archive);
    for secret in ["pl4in", "c4nary", "PRIVATE KEY"] {
        assert!(!whole.contains(secret), "{secret}");
        assert!(text.contains(secret) || key.contains(secret));
    }
    let described = &archive.metadata.connections[0];
    let supply: Vec<_> =
        described.supply.iter().map(|one| (one.key.as_str(), one.name.as_str())).collect();
    assert_eq!(
        supply,
        [
            ("headers.x-api-key", "B_HEADERS_X_API_KEY"),
            ("auth.basic.password", "B_AUTH_BASIC_PASSWORD"),
            ("tls.client_key", "../tls/key.pem"),
        ]
    );
    assert_eq!(described.sources, ["shop"]);
    let files: Vec<_> = described.certificates.iter().map(|one| one.file.as_deref()).collect();
    assert_eq!(files, [Some("certificates/b-tls-ca-file.pem"), None]);
    let shown = &archive.entries["connections/b.toml"];
    assert!(shown.starts_with("# two\n# lines\n[[connection]]\nname = \"b\" # b\n"), "{shown}");
    assert!(shown.contains("{ env = \"B_AUTH_BASIC_PASSWORD\" } # secret"), "{shown}");
    // Elsewhere it lacks what did not go.
    let other = Home::new(&[]);
    let done =
        unpacked(&unpack(&bytes).unwrap(), &other.root(), &other.connections(), false).unwrap();
    let lacking: Vec<_> = done.lacking.iter().map(|lack| lack.key.as_str()).collect();
    assert_eq!(lacking, ["tls.client_cert", "tls.client_key", "source"]);
    assert_eq!(done.package.files[0].path, other.0.path().join("tls/ca.pem"));
    let skipped =
        unpacked(&unpack(&bytes).unwrap(), &other.root(), &other.connections(), true).unwrap();
    assert!(skipped.package.connections.is_empty() && skipped.package.files.is_empty());
    assert!(pem.contains("CERTIFICATE"));
}

/// An archive writes below the directory of the configuration alone.
#[test]
fn a_path_elsewhere_is_lacking_not_written() {
    for path in ["/etc/cron.d/x.pem", "../../../outside.pem"] {
        let text = format!(
            "[[connection]]\nname = \"a\"\nurl = \"https://a.example.com/\"\n[connection.tls]\nca_file = \"{path}\"\n"
        );
        let mut archive = plain(&text);
        let content = "-----BEGIN CERTIFICATE-----\n";
        archive.metadata.connections[0].certificates.push(archive::Certificate {
            key: "tls.ca_file".to_owned(),
            path: path.to_owned(),
            file: Some("certificates/a.pem".to_owned()),
            sha256: Some(archive::checksum(content)),
        });
        archive.entries.insert("certificates/a.pem".to_owned(), content.to_owned());
        let home = Home::new(&[]);
        let refused = home.import(&pack(&archive).unwrap(), OnConflict::Fail).unwrap_err();
        assert!(refused.contains("lacks the certificate"), "{refused}");
    }
}

fn plain(text: &str) -> Archive {
    let metadata = archive::Metadata {
        format: archive::FORMAT,
        posthaste: "0".to_owned(),
        created_at: NOW.to_owned(),
        connections: vec![archive::Described {
            name: "a".to_owned(),
            file: "connections/a.toml".to_owned(),
            sha256: archive::checksum(text),
            sources: Vec::new(),
            supply: Vec::new(),
            certificates: Vec::new(),
        }],
    };
    let entries = [("connections/a.toml".to_owned(), text.to_owned())].into();
    Archive { metadata, entries }
}

const TEXT: &str = "[[connection]]\nname = \"a\"\nurl = \"http://a.example.com/\"\n";

/// A ZIP of these entries beside those of an export.
fn zipped(more: &[(&str, &[u8])]) -> Vec<u8> {
    let archive = plain(TEXT);
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default();
    let metadata = serde_json::to_vec(&archive.metadata).unwrap();
    let own = [("metadata.json", metadata.as_slice()), ("connections/a.toml", TEXT.as_bytes())];
    let hidden = |name: &&str| more.iter().any(|(other, _)| other == name);
    for (name, content) in own.iter().filter(|(name, _)| !hidden(name)).chain(more) {
        zip.start_file(*name, options).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

#[test]
fn broken_archives_say_what_and_where() {
    let good = zipped(&[]);
    assert_eq!(unpack(&good).unwrap(), plain(TEXT));
    let metadata = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut metadata = serde_json::to_value(plain(TEXT).metadata).unwrap();
        change(&mut metadata);
        zipped(&[("metadata.json", &serde_json::to_vec(&metadata).unwrap())])
    };
    let mut twice = zipped(&[("certificates/b.pem", b"x"), ("certificates/c.pem", b"y")]);
    // The writer refuses two of a name, so one is renamed in the bytes, in both places.
    let positions: Vec<usize> =
        (0..twice.len() - 18).filter(|at| &twice[*at..at + 18] == b"certificates/c.pem").collect();
    assert_eq!(positions.len(), 2);
    for at in positions {
        twice[at + 13] = b'b';
    }
    let mut link = ZipWriter::new(Cursor::new(Vec::new()));
    link.add_symlink("connections/a.toml", "/etc/passwd", SimpleFileOptions::default()).unwrap();
    let link = link.finish().unwrap().into_inner();
    let zeros = vec![0; 65 << 20];
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("nothing", Vec::new(), "no ZIP, or one that was cut off"),
        ("JSON", b"{}".to_vec(), "no ZIP, or one that was cut off"),
        ("cut off", good[..good.len() - 30].to_vec(), "no ZIP, or one that was cut off"),
        ("absolute", zipped(&[("/etc/cron.d/x", b"x")]), "\"/etc/cron.d/x\" is an absolute path"),
        ("windows", zipped(&[("C:\\x", b"x")]), "is an absolute path"),
        ("upwards", zipped(&[("connections/../../x.toml", b"x")]), "leads out of the archive"),
        ("backslash", zipped(&[("connections\\..\\x", b"x")]), "leads out of the archive"),
        ("hidden", zipped(&[("connections/.x.toml", b"x")]), "is no file of an export"),
        ("deep", zipped(&[("connections/a/b.toml", b"x")]), "is no file of an export"),
        (
            "stranger",
            zipped(&[("connections/b.toml", b"x")]),
            "metadata.json does not name \"connections/b.toml\"",
        ),
        ("link", link, "is a symbolic link"),
        ("twice", twice, "twice"),
        ("bomb", zipped(&[("certificates/b.pem", &zeros)]), "unpacks to more than 64MiB"),
        ("not text", zipped(&[("certificates/b.pem", b"\xff\xfe")]), "is no text"),
        ("checksum", zipped(&[("connections/a.toml", b"x = 1")]), "does not have the checksum"),
        (
            "no metadata",
            {
                let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
                zip.start_file("connections/a.toml", SimpleFileOptions::default()).unwrap();
                zip.finish().unwrap().into_inner()
            },
            "no metadata.json",
        ),
        (
            "format",
            metadata(&|json| json["format"] = 2.into()),
            "has format 2; this version reads 1",
        ),
        ("unknown key", metadata(&|json| json["extra"] = 2.into()), "unknown field `extra`"),
        (
            "absent",
            metadata(&|json| {
                json["connections"][0]["name"] = "b".into();
                json["connections"][0]["file"] = "connections/b.toml".into();
            }),
            "names \"connections/b.toml\", which is not in the ZIP",
        ),
        (
            "other file",
            metadata(&|json| json["connections"][0]["file"] = "certificates/b.pem".into()),
            "the file of \"a\" is",
        ),
    ];
    assert_eq!(cases.len(), 20);
    for (what, bytes, expected) in cases {
        let message = unpack(&bytes).expect_err(what);
        assert!(message.contains(expected), "{what}: {message}");
    }
    let names: Vec<String> = (0..=ENTRIES_MAX).map(|at| format!("certificates/{at}.pem")).collect();
    let many: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b""[..])).collect();
    assert!(unpack(&zipped(&many)).unwrap_err().contains("at most 20000"));
    let home = Home::new(&[]);
    for text in [
        "nonsense = ",
        "[[connection]]\nname = \"b\"\n",
        "[[connection]]\nname = \"a\"\n[[connection]]\nname = \"b\"\n",
        "[store]\n[[connection]]\nname = \"a\"\n",
    ] {
        let message = home.import(&pack(&plain(text)).unwrap(), OnConflict::Fail).unwrap_err();
        assert!(message.starts_with("\"connections/a.toml\""), "{message}");
    }
    assert_eq!(fs::read_dir(home.connections()).unwrap().count(), 0);
}

/// When one file cannot be written, those before it are as they were.
#[test]
fn a_write_that_fails_undoes_the_others() {
    let home = Home::new(&[(
        "connections.d/b.toml",
        "# b\n[[connection]]\nname = \"b\"\nurl = \"http://b.example.com/\"\n",
    )]);
    let piece = |name: &str| Piece {
        name: name.to_owned(),
        text: TEXT.replace("\"a\"", &format!("\"{name}\"")),
    };
    let secret =
        Extra { path: home.0.path().join("secrets/a"), content: "s".to_owned(), mode: SECRET_MODE };
    let package = Package {
        connections: vec![piece("a"), piece("b")],
        sources: vec![Piece { name: "s".into(), text: "[[source]]\nname = \"s\"\n".into() }],
        files: vec![secret],
    };
    let planned = plan(&home.root(), &home.connections(), &package, OnConflict::Overwrite).unwrap();
    // Somebody else changes a file in between.
    fs::write(home.connections().join("b.toml"), "# theirs\n").unwrap();
    assert!(matches!(planned.write(), Err(EditError::Busy(_))));
    assert_eq!(home.text("b.toml"), "# theirs\n");
    assert!(
        !home.connections().join("a.toml").exists() && !home.0.path().join("secrets/a").exists()
    );
    assert_eq!(fs::read_to_string(home.root()).unwrap(), "");
    // Without that it is done, and can be undone.
    fs::write(
        home.connections().join("b.toml"),
        "# b\n[[connection]]\nname = \"b\"\nurl = \"http://b.example.com/\"\n",
    )
    .unwrap();
    let planned = plan(&home.root(), &home.connections(), &package, OnConflict::Overwrite).unwrap();
    planned.write().unwrap();
    assert_eq!(home.load().config.connections.len(), 2);
    assert_eq!(home.load().config.daemon.sources.len(), 1);
    planned.undo();
    assert!(home.text("b.toml").starts_with("# b\n"));
    assert!(!home.connections().join("a.toml").exists());
}
