//! The little that commands need of the configuration: where the daemon listens.

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

/// What the configuration says, or the defaults where it cannot be read: a person who may open the daemon's socket need
/// not be able to read its files.
pub(super) fn locate(config_file: Option<&Path>) -> Settings {
    let (root, mut options) = lookup(config_file);
    options.secrets = Secrets::Skip;
    let daemon = config::load(&root.path, &options)
        .ok()
        .map(|loaded| loaded.config.daemon);
    let (ingress, admin) = daemon.map(|daemon| (daemon.ingress, daemon.admin)).unzip();
    let socket = admin.and_then(|admin| admin.unix);
    let listener = ingress.and_then(|ingress| {
        let http = ingress
            .http
            .first()
            .map(|address| Endpoint::Tcp(address.to_string()));
        http.or(ingress.unix.map(|unix| Endpoint::Unix(unix.path)))
    });
    Settings {
        admin_socket: socket.unwrap_or_else(|| options.places.admin_socket()),
        ingress: listener.unwrap_or_else(|| Endpoint::Tcp(INGRESS_DEFAULT.to_owned())),
    }
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
}
