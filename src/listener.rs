//! Listening sockets, TCP and Unix, for ingress and for the admin API.
//!
//! A Unix socket's file gets its mode before anyone can connect: it is bound, then changed, then listened on. A file left
//! over by a daemon that died is replaced, but only when it is a socket and nobody answers on it. On shutdown the file is
//! removed if it is still the one made here.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::sockopt::{set_ipv6_v6only, set_socket_reuseaddr};
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

mod inherited;

pub use inherited::{Inherited, Sockets};

/// HTTP connections that the kernel completes while none is accepted; more wait for the producer's own retries.
const BACKLOG: i32 = 1024;

/// Why a listener could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address is taken, not ours, or not allowed.
    #[error("cannot listen on {address}: {cause}; {}", tcp_advice(*address, cause))]
    Tcp {
        /// The address as configured.
        address: SocketAddr,
        /// What the system said.
        cause: io::Error,
    },
    /// The service manager hands over something else than listening sockets.
    #[error("{0}; look at the unit's sockets")]
    Inherited(io::Error),
    /// The path is too long for a socket, or holds a NUL.
    #[error("{} cannot be the path of a Unix socket: it must be at most 107 bytes long", path.display())]
    Path {
        /// The path as configured.
        path: PathBuf,
    },
    /// The directory does not exist.
    #[error("cannot make the socket {}: its directory does not exist; create it or configure another path", path.display())]
    NoDirectory {
        /// The path as configured.
        path: PathBuf,
    },
    /// Something that is no socket stands at the path.
    #[error("{} exists and is not a socket; it is left alone: move it away or configure another path", path.display())]
    NotASocket {
        /// The path as configured.
        path: PathBuf,
    },
    /// Another process answers on the socket.
    #[error("another process listens on {}; stop it or configure another path", path.display())]
    InUse {
        /// The path as configured.
        path: PathBuf,
    },
    /// Anything else that the system said about the path.
    #[error("cannot {doing} the socket {}: {cause}; {}", path.display(), unix_advice(cause))]
    Unix {
        /// The path as configured.
        path: PathBuf,
        /// The step that failed.
        doing: &'static str,
        /// What the system said.
        cause: io::Error,
    },
}

/// What to do about an address that cannot be listened on.
fn tcp_advice(address: SocketAddr, cause: &io::Error) -> String {
    let port = address.port();
    match cause.kind() {
        io::ErrorKind::AddrInUse => format!(
            "another process has it, `ss -ltnp 'sport = :{port}'` names it: stop it, or configure another address"
        ),
        io::ErrorKind::AddrNotAvailable => {
            "no interface of this host has this address: configure one that `ip address` shows"
                .to_owned()
        }
        io::ErrorKind::PermissionDenied => format!(
            "port {port} is not for everybody: configure one above 1023, or let systemd open it (posthaste.socket)"
        ),
        _ => "free it or configure another".to_owned(),
    }
}

/// What to do about a socket's path.
fn unix_advice(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::PermissionDenied => {
            "give the user that runs posthaste a directory of its own to make it in (RuntimeDirectory= in a unit), or configure another path"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "configure a path on a file system that can be written, such as /run"
        }
        _ => "configure another path",
    }
}

/// A socket's file; dropping it removes the file if it is still this one.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

/// Opens a TCP listener. An IPv6 address takes no IPv4 connections: the list says what is listened on, and nothing else is.
///
/// # Errors
/// [`BindError::Tcp`].
pub fn bind_tcp(address: SocketAddr) -> Result<TcpListener, BindError> {
    let bound = || {
        let socket = new_socket(match address {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        })?;
        // A restart must not wait for the old connections' TIME_WAIT.
        set_socket_reuseaddr(&socket, true)?;
        if address.is_ipv6() {
            set_ipv6_v6only(&socket, true)?;
        }
        net::bind(&socket, &address)?;
        net::listen(&socket, BACKLOG)?;
        Ok(TcpListener::from(socket))
    };
    bound().map_err(|cause: Errno| BindError::Tcp { address, cause: cause.into() })
}

/// Opens a Unix socket, replacing a file that a dead daemon left.
///
/// # Errors
/// Every [`BindError`] but `Tcp`.
pub fn bind_unix(path: &Path, mode: u32) -> Result<(UnixListener, SocketFile), BindError> {
    let address =
        SocketAddrUnix::new(path).map_err(|_| BindError::Path { path: path.to_owned() })?;
    remove_stale(path, &address)?;
    let failed = |doing| {
        move |cause: Errno| BindError::Unix { path: path.to_owned(), doing, cause: cause.into() }
    };
    let socket = new_socket(AddressFamily::UNIX).map_err(failed("open"))?;
    net::bind(&socket, &address).map_err(|errno| match errno {
        Errno::NOENT => BindError::NoDirectory { path: path.to_owned() },
        errno => failed("make")(errno),
    })?;
    let file = SocketFile::made(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(|cause| {
        BindError::Unix { path: path.to_owned(), doing: "set the mode of", cause }
    })?;
    net::listen(&socket, BACKLOG).map_err(failed("listen on"))?;
    Ok((UnixListener::from(socket), file))
}

/// The listeners belong to tokio later, so they must not block; no child process inherits them.
fn new_socket(family: AddressFamily) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    net::socket_with(family, SocketType::STREAM, flags, None)
}

fn remove_stale(path: &Path, address: &SocketAddrUnix) -> Result<(), BindError> {
    let failed = |doing, cause| BindError::Unix { path: path.to_owned(), doing, cause };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at", error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(BindError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    let probe = new_socket(AddressFamily::UNIX).map_err(|errno| failed("open", errno.into()))?;
    match net::connect(&probe, address) {
        Err(Errno::CONNREFUSED) => match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove what is left of", error))
            }
            _ => Ok(()),
        },
        Err(Errno::NOENT) => Ok(()),
        // It does not block: a full backlog means that someone listens.
        Ok(()) | Err(Errno::AGAIN) => Err(BindError::InUse { path: path.to_owned() }),
        Err(errno) => Err(failed("probe", errno.into())),
    }
}

impl SocketFile {
    fn made(path: &Path) -> Result<SocketFile, BindError> {
        let identity = identity(path).map_err(|cause| BindError::Unix {
            path: path.to_owned(),
            doing: "look at",
            cause,
        })?;
        Ok(SocketFile { path: path.to_owned(), identity })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "Could not remove the socket's file");
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn refusal(path: &Path) -> String {
        bind_unix(path, 0o620).unwrap_err().to_string()
    }

    #[test]
    fn the_mode_is_set_and_the_file_goes_with_the_listener() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("in.sock");
        let (_listener, file) = bind_unix(&path, 0o620).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o620);
        UnixStream::connect(&path).unwrap();
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("in.sock");
        let live = UnixListener::bind(&path).unwrap();
        assert!(refusal(&path).contains("another process listens"));
        drop(live);
        assert!(path.exists(), "std leaves the file, as a killed daemon does");
        let (_listener, _file) = bind_unix(&path, 0o620).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes.txt");
        fs::write(&path, "precious").unwrap();
        assert!(refusal(&path).contains("is not a socket"));
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(refusal(&link).contains("is not a socket"));
        assert!(refusal(dir.path()).contains("is not a socket"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn bad_paths_say_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("run/in.sock");
        assert!(refusal(&missing).contains("directory does not exist; create it"));
        let long = dir.path().join("x".repeat(120));
        assert!(refusal(&long).contains("at most 107 bytes"));
    }

    #[test]
    fn somebody_elses_file_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("in.sock");
        let (_listener, file) = bind_unix(&path, 0o620).unwrap();
        // Kept under another name, so that its inode is not given to the new one.
        fs::rename(&path, dir.path().join("old")).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(file);
        assert!(path.exists());
    }

    #[test]
    fn tcp_says_which_address_is_taken() {
        let first = bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap();
        let error = bind_tcp(address).unwrap_err().to_string();
        assert!(error.contains(&address.to_string()), "{error}");
    }
}
