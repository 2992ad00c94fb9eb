//! Where the daemon listens: with a daemon, that it answers there; without one, that it could.

use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Access, AtFlags, CWD, accessat};

use super::Check;
use crate::config::Daemon;
use crate::listener;

/// How long a listener on this host may take to accept.
const CONNECT_MAX: Duration = Duration::from_secs(1);

/// One line for each; `running`: a daemon answers on the admin socket.
pub(super) fn all(daemon: &Daemon, running: bool) -> Vec<Check> {
    let http = daemon.ingress.http.iter().chain(&daemon.admin.http);
    let unix = daemon.ingress.unix.as_ref().map(|unix| unix.path.as_path());
    let unix = unix.into_iter().chain(daemon.admin.unix.as_deref());
    let http = http.map(|address| tcp(*address, running));
    http.chain(unix.map(|path| socket(path, running))).collect()
}

fn tcp(address: SocketAddr, running: bool) -> Check {
    const NAME: &str = "listener";
    if running {
        return match TcpStream::connect_timeout(&address, CONNECT_MAX) {
            Ok(_) => Check::ok(NAME, format!("{address}: the daemon's")),
            Err(error) => not_there(&address.to_string(), &error),
        };
    }
    match listener::bind_tcp(address) {
        Ok(_) => Check::ok(NAME, format!("{address}: free")),
        Err(error) => {
            let advice = "if systemd holds it for the daemon (posthaste.socket), all is well";
            Check::failed(NAME, error.to_string(), advice)
        }
    }
}

fn not_there(shown: &str, error: &std::io::Error) -> Check {
    let detail = format!("{shown}: the daemon runs, but {error}");
    let advice = "listeners change with a restart alone; a socket unit names its own addresses";
    Check::failed("listener", detail, advice)
}

/// A Unix socket. Nothing is made and nothing removed.
fn socket(path: &Path, running: bool) -> Check {
    const NAME: &str = "listener";
    let shown = path.display();
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            let detail = format!("{shown} exists and is not a socket");
            return Check::failed(NAME, detail, "move it away or configure another path");
        }
        Ok(_) => {}
        Err(error) if running => return not_there(&shown.to_string(), &error),
        Err(error) if error.kind() == ErrorKind::NotFound => return room_for(path),
        Err(error) => {
            return Check::failed(
                NAME,
                format!("{shown}: {error}"),
                "run this as the daemon's user",
            );
        }
    }
    match UnixStream::connect(path) {
        Ok(_) if running => Check::ok(NAME, format!("{shown}: the daemon's")),
        Ok(_) => {
            let detail = format!("another process listens on {shown}");
            let advice = "stop it, or configure another path; if systemd holds it for the daemon, all is well";
            Check::failed(NAME, detail, advice)
        }
        Err(error) if running => not_there(&shown.to_string(), &error),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            Check::ok(NAME, format!("{shown}: left by a daemon that died; it will be replaced"))
        }
        Err(error) => {
            Check::failed(NAME, format!("{shown}: {error}"), "run this as the daemon's user")
        }
    }
}

/// Whether a socket could be made.
fn room_for(path: &Path) -> Check {
    const NAME: &str = "listener";
    let shown = path.display();
    let directory = path.parent().unwrap_or(Path::new("/"));
    if !directory.is_dir() {
        let detail = format!("{shown}: its directory does not exist");
        let advice = "create it (RuntimeDirectory= in a unit), or configure another path";
        return Check::failed(NAME, detail, advice);
    }
    match accessat(CWD, directory, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS) {
        Ok(()) => Check::ok(NAME, format!("{shown}: free")),
        Err(error) => {
            let advice = "let the daemon's user write its directory, or run this as that user";
            Check::failed(NAME, format!("{shown}: {error}"), advice)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::cli::doctor::Verdict::{self, Failed, Ok as Well};

    fn said(check: &Check, verdict: Verdict, text: &str) {
        assert_eq!(check.verdict, verdict, "{check:?}");
        assert!(check.detail.contains(text), "{check:?}");
    }

    #[test]
    fn addresses_are_free_taken_or_the_daemons() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        said(&tcp(address, true), Well, "the daemon's");
        said(&tcp(address, false), Failed, &address.to_string());
        drop(listener);
        said(&tcp(address, false), Well, "free");
        said(&tcp(address, true), Failed, "the daemon runs, but");
    }

    #[test]
    fn sockets_are_free_stale_taken_or_the_daemons_and_stay_as_they_are() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("in.sock");
        said(&socket(&path, false), Well, "free");
        said(&socket(&path, true), Failed, "the daemon runs, but");
        let listener = UnixListener::bind(&path).unwrap();
        said(&socket(&path, true), Well, "the daemon's");
        said(&socket(&path, false), Failed, "another process");
        drop(listener);
        said(&socket(&path, false), Well, "will be replaced");
        assert!(path.exists());
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        said(&socket(&file, false), Failed, "not a socket");
        said(&socket(&directory.path().join("run/in.sock"), false), Failed, "does not exist");
    }
}
