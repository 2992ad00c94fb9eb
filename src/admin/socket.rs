//! A Unix socket in the file system: made with its mode before anyone can connect, removed at the end.
//!
//! A socket that a dead process left behind is replaced; a live one, and anything that is not a socket, is refused.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::UnixListener;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// A bound socket. Dropping it removes its file.
#[derive(Debug)]
pub struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file, so that another process's socket at the same path is left alone.
    file: (u64, u64),
}

impl UnixSocket {
    /// Binds `path` with `mode`. The directory is made if it is missing.
    ///
    /// # Errors
    /// When a live socket or a file that is not a socket is there, or the system says no.
    pub fn bind(path: &Path, mode: u32) -> io::Result<UnixSocket> {
        make_directory(path)?;
        make_way(path)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        // Nobody can connect between bind and listen: so there is no moment with another mode.
        std::fs::set_permissions(path, Permissions::from_mode(mode))?;
        let metadata = std::fs::symlink_metadata(path)?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(UnixSocket {
            listener: UnixListener::from_std(socket.into())?,
            path: path.to_owned(),
            file: (metadata.dev(), metadata.ino()),
        })
    }

    /// The listener itself.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.file);
        if ours {
            // A file that stays is replaced at the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn make_directory(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() && !directory.exists() => {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(directory)
        }
        _ => Ok(()),
    }
}

/// Removes a socket that nobody listens on.
fn make_way(path: &Path) -> io::Result<()> {
    let file_type = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !file_type.is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "there is a file that is not a socket; move it away or choose another path",
        ));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another process listens there; stop it or choose another path",
        )),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_ours_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/admin.sock");
        make_directory(&path).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "std leaves its file behind");

        let socket = UnixSocket::bind(&path, 0o600).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let live = UnixSocket::bind(&path, 0o600).unwrap_err();
        assert_eq!(live.kind(), io::ErrorKind::AddrInUse);
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_is_not_a_socket_is_refused_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        std::fs::write(&path, "precious").unwrap();
        let error = UnixSocket::bind(&path, 0o600).unwrap_err();
        assert!(error.to_string().contains("not a socket"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn another_process_socket_at_our_path_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        let first = UnixSocket::bind(&path, 0o600).unwrap();
        std::fs::remove_file(&path).unwrap();
        let _second = UnixSocket::bind(&path, 0o600).unwrap();
        drop(first);
        assert!(path.exists());
    }
}
