//! A host to run on: a temporary directory with configuration, store and sockets, and ports of its own.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{Producer, free_address};

/// How long breakers are open: endpoints come back while tests wait.
const BREAKER_OPEN: &str = "200ms";

/// One daemon's place; it outlives the daemon's restarts.
pub(crate) struct Site {
    dir: TempDir,
    pub(crate) ingress: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Site {
    /// A directory with a daemon's file of test settings and no connection.
    pub(crate) fn new() -> Site {
        Site::with("", "")
    }

    /// The same, with more keys at the top and more tables.
    pub(crate) fn with(keys: &str, tables: &str) -> Site {
        let dir = tempfile::Builder::new().prefix("ph-").tempdir().expect("a directory");
        let site = Site { dir, ingress: free_address(), admin: free_address() };
        fs::create_dir(site.connections()).expect("connections.d");
        site.configure(keys, tables);
        site
    }

    /// Writes the daemon's file. Segments are small, so that a test goes through many.
    pub(crate) fn configure(&self, keys: &str, tables: &str) {
        let Site { ingress, admin, .. } = self;
        let [unix, control, store] = [self.unix(), self.admin_unix(), self.store()];
        let text = format!(
            "{keys}\nconnections = \"connections.d\"\n\
            [ingress]\nhttp = [\"{ingress}\"]\nunix = {{ path = \"{}\" }}\n\
            [admin]\nhttp = \"{admin}\"\nunix = \"{}\"\n\
            [store]\npath = \"{}\"\nsegment_bytes = \"4MiB\"\n\
            [limits]\nmax_body = \"1MiB\"\n\
            [defaults.breaker]\nopen_for = \"{BREAKER_OPEN}\"\nopen_for_max = \"{BREAKER_OPEN}\"\n{tables}",
            unix.display(),
            control.display(),
            store.display(),
        );
        fs::write(self.config(), text).expect("posthaste.toml");
    }

    /// A site with other keys in `[store]`; its segments are of 1 MiB, and so bodies of 256 KiB at most.
    pub(crate) fn small(keys: &str) -> Site {
        let site = Site::new();
        let text = fs::read_to_string(site.config()).expect("posthaste.toml");
        let text = text.replace("segment_bytes = \"4MiB\"\n", "segment_bytes = \"1MiB\"\n");
        let text = text.replace("max_body = \"1MiB\"", "max_body = \"256KiB\"");
        let text = text.replace("[store]\n", &format!("[store]\n{keys}\n"));
        fs::write(site.config(), text).expect("posthaste.toml");
        site
    }

    /// Writes `connections.d/NAME.toml` with one connection; `rest` is its other fields and tables.
    pub(crate) fn connection(&self, name: &str, url: &str, rest: &str) {
        self.replace(&format!("{name}.toml"), &connection(name, url, rest));
    }

    /// Puts a file into `connections.d` as editors do: a temporary one beside it, renamed over.
    pub(crate) fn replace(&self, file: &str, text: &str) {
        let temporary = self.connections().join(format!(".{file}.tmp"));
        fs::write(&temporary, text).expect("the temporary file");
        fs::rename(temporary, self.connections().join(file)).expect("rename over");
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.path().join("posthaste.toml")
    }

    pub(crate) fn connections(&self) -> PathBuf {
        self.path().join("connections.d")
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.path().join("store")
    }

    pub(crate) fn unix(&self) -> PathBuf {
        self.path().join("in.sock")
    }

    pub(crate) fn admin_unix(&self) -> PathBuf {
        self.path().join("admin.sock")
    }

    /// A client of the TCP listener.
    pub(crate) fn producer(&self) -> Producer {
        Producer::tcp(self.ingress)
    }
}

/// The text of one connection.
pub(crate) fn connection(name: &str, url: &str, rest: &str) -> String {
    format!("[[connection]]\nname = \"{name}\"\nurl = \"{url}\"\n{rest}\n")
}

/// Copies a store, `quarantine` included.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copy a file");
        }
    }
}
