//! Every configuration that the documents show is loaded. A block of TOML is `posthaste.toml`, unless it begins with
//! `[[connection]]` or its first line says `# connections.d/NAME.toml`. Secrets are not read; files below `/etc/posthaste` are there.

use super::*;

/// The blocks of TOML in a document, with the line they begin in.
fn blocks(text: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (number, line) in text.lines().enumerate() {
        match &mut open {
            None if line.trim() == "```toml" => open = Some((number + 2, String::new())),
            None => {}
            Some(_) if line.trim() == "```" => blocks.extend(open.take()),
            Some((_, block)) => *block += &format!("{line}\n"),
        }
    }
    blocks
}

/// A certificate and its key, for the examples that name some.
fn key_pair() -> (String, String) {
    let pair = rcgen::generate_simple_self_signed(["example.com".to_owned()]).unwrap();
    (pair.cert.pem(), pair.signing_key.serialize_pem())
}

fn load_block(block: &str) -> Result<Loaded, Box<Refused>> {
    let in_connections =
        block.starts_with("[[connection]]") || block.starts_with("# connections.d/");
    let connection = "[[connection]]\nname = \"one\"\nurl = \"http://example.com/\"\n\
        [[connection]]\nname = \"pager\"\nurl = \"http://example.com/\"\n";
    let files = match in_connections {
        true => [("posthaste.toml", ""), ("connections.d/a.toml", block)],
        false => [("posthaste.toml", block), ("connections.d/a.toml", connection)],
    };
    let directory = directory(&[]);
    let home = directory.path().join("etc");
    let (certificate, key) = key_pair();
    fs::create_dir_all(&home).unwrap();
    for name in ["ca.pem", "client.pem"] {
        fs::write(home.join(name), &certificate).unwrap();
    }
    fs::write(home.join("client.key"), &key).unwrap();
    for (name, text) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text.replace("/etc/posthaste/", &format!("{}/", home.display()))).unwrap();
    }
    let options = LoadOptions { secrets: Secrets::Skip, ..options(&[]) };
    load(&directory.path().join(FILE_NAME), &options)
}

#[test]
fn every_example_in_the_documents_loads() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut documents = vec![root.join("README.md")];
    documents.extend(fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    let mut loaded = 0;
    for document in documents.iter().filter(|path| path.extension().is_some_and(|e| e == "md")) {
        for (line, block) in blocks(&fs::read_to_string(document).unwrap()) {
            if let Err(refused) = load_block(&block) {
                panic!("{}:{line}\n{block}\n{}", document.display(), refused.render());
            }
            loaded += 1;
        }
    }
    assert!(loaded > 0);
}

#[test]
fn a_wrong_example_would_be_found() {
    assert_eq!(blocks("a\n```toml\nx = 1\n```\n```sh\ny\n```\n"), [(3, "x = 1\n".to_owned())]);
    assert!(load_block("drain_timeout = 20\n").is_err());
    assert!(load_block("[[connection]]\nname = \"a\"\n").is_err());
    assert!(load_block("[[connection]]\nname = \"a\"\nurl = \"http://x/\"\n").is_ok());
}
