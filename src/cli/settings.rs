//! The little that commands need of the configuration: where the daemon listens.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::http::Endpoint;
use crate::config::{self, LoadOptions, Places, RootFile, Secrets};

/// Where ingress listens when the configuration does not say.
const INGRESS_DEFAULT: &str = "127.0.0.1:8377";

/// Where the daemon listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) admin_socket: PathBuf,
    pub(super) ingress: Endpoint,
}

/// What the configuration says. Where it has errors, what can be read of the daemon's own file; else the defaults: a
/// configuration that is broken now does not move the daemon that runs, and whoever may open its socket need not be able
/// to read its files.
pub(super) fn locate(config_file: Option<&Path>) -> Settings {
    let (root, mut options) = lookup(config_file);
    options.secrets = Secrets::Skip;
    let (socket, ingress) = match config::load(&root.path, &options) {
        Ok(loaded) => of_daemon(loaded.config.daemon),
        Err(_) => glance(&root.path).unwrap_or_default(),
    };
    Settings {
        admin_socket: socket.unwrap_or_else(|| options.places.admin_socket()),
        ingress: ingress.unwrap_or_else(|| Endpoint::Tcp(INGRESS_DEFAULT.to_owned())),
    }
}

/// Where admin and ingress listen, as far as that is known.
type Found = (Option<PathBuf>, Option<Endpoint>);

fn of_daemon(daemon: config::Daemon) -> Found {
    let http = daemon.ingress.http.first().map(|address| Endpoint::Tcp(address.to_string()));
    let unix = daemon.ingress.unix.map(|unix| Endpoint::Unix(unix.path));
    (daemon.admin.unix, http.or(unix))
}

/// Takes what is plain in a file that has errors elsewhere. `None` when it is no TOML at all.
fn glance(root: &Path) -> Option<Found> {
    let text = std::fs::read_to_string(root).ok()?;
    let table: toml::Table = text.parse().ok()?;
    let value = |section: &str, key: &str| table.get(section)?.get(key);
    let path =
        |value: &toml::Value| value.as_str().map(PathBuf::from).filter(|path| path.is_absolute());
    let http = value("ingress", "http").and_then(|list| list.get(0)?.as_str()?.parse().ok());
    let unix = value("ingress", "unix").and_then(|unix| path(unix.get("path")?));
    let http = http.map(|address: SocketAddr| Endpoint::Tcp(address.to_string()));
    Some((value("admin", "unix").and_then(path), http.or(unix.map(Endpoint::Unix))))
}

/// The daemon's file and how to load it, as `run` would.
pub(super) fn lookup(config_file: Option<&Path>) -> (RootFile, LoadOptions) {
    let root = Places::of_process().root_file(config_file);
    let options = LoadOptions::of_process(&root);
    (root, options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn located(text: &str) -> Settings {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("posthaste.toml");
        std::fs::write(&file, text).unwrap();
        locate(Some(&file))
    }

    #[test]
    fn the_configuration_says_where_the_daemon_listens() {
        let settings = located(
            "[ingress]\nhttp = [\"127.0.0.1:9000\"]\n[admin]\nunix = \"/run/x/admin.sock\"\n",
        );
        assert_eq!(settings.admin_socket, PathBuf::from("/run/x/admin.sock"));
        assert_eq!(settings.ingress, Endpoint::Tcp("127.0.0.1:9000".to_owned()));
        let settings = located("[ingress]\nhttp = []\nunix = { path = \"/run/x/in.sock\" }\n");
        assert_eq!(settings.ingress, Endpoint::Unix("/run/x/in.sock".into()));
    }

    #[test]
    fn a_broken_configuration_leaves_the_defaults() {
        let settings = located("nonsense = ");
        assert_eq!(settings.ingress, Endpoint::Tcp(INGRESS_DEFAULT.to_owned()));
        assert!(settings.admin_socket.ends_with("posthaste/admin.sock"));
    }

    #[test]
    fn an_error_elsewhere_does_not_hide_where_the_daemon_listens() {
        let text = "nonsense = 1\n[admin]\nunix = \"/run/x/admin.sock\"\n";
        let settings = located(&format!("{text}[ingress]\nhttp = [\"127.0.0.1:9000\"]\n"));
        assert_eq!(settings.admin_socket, PathBuf::from("/run/x/admin.sock"));
        assert_eq!(settings.ingress, Endpoint::Tcp("127.0.0.1:9000".to_owned()));
        let settings = located("nonsense = 1\n[ingress]\nunix = { path = \"/run/x/in.sock\" }\n");
        assert_eq!(settings.ingress, Endpoint::Unix("/run/x/in.sock".into()));
        let settings = located("[admin]\nunix = 7\n[ingress]\nhttp = [\"here\"]\n");
        assert_eq!(settings.ingress, Endpoint::Tcp(INGRESS_DEFAULT.to_owned()));
    }
}
