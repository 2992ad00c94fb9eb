//! Sockets that the service manager opened and hands over (`LISTEN_FDS`, sd_listen_fds(3)). It holds them while the daemon
//! restarts, so that producers wait in the kernel's queue instead of being refused.
//!
//! A socket belongs to the part that its name says (`FileDescriptorName=ingress` or `admin`); one with another name, to the
//! part whose configuration names its address. A part that gets any listens on those alone: the unit says where.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;

use listenfd::ListenFd;

/// The name of the variable with the sockets' names, separated by colons.
const NAMES: &str = "LISTEN_FDNAMES";

/// All sockets that were handed over and that nobody took yet. Dropping it closes them.
#[derive(Debug, Default)]
pub struct Inherited {
    tcp: Vec<(String, TcpListener)>,
    unix: Vec<(String, UnixListener)>,
}

/// What one part of the daemon listens on.
#[derive(Debug, Default)]
pub struct Sockets {
    /// TCP listeners, in the order of the unit.
    pub tcp: Vec<TcpListener>,
    /// A Unix socket. Its file is the service manager's, who also removes it.
    pub unix: Option<UnixListener>,
}

impl Sockets {
    /// Whether the service manager opened nothing for this part: it opens its own.
    pub fn is_empty(&self) -> bool {
        self.tcp.is_empty() && self.unix.is_none()
    }
}

impl Inherited {
    /// Takes what the environment says was handed to this process. Call it once, before any thread is started.
    ///
    /// # Errors
    /// When a descriptor is no listening stream socket: the unit is wrong.
    pub fn from_env() -> io::Result<Inherited> {
        let names = std::env::var(NAMES).unwrap_or_default();
        Inherited::take_from(ListenFd::from_env(), &names)
    }

    fn take_from(mut passed: ListenFd, names: &str) -> io::Result<Inherited> {
        let mut names = names.split(':');
        let mut inherited = Inherited::default();
        for at in 0..passed.len() {
            let name = names.next().unwrap_or_default().to_owned();
            if let Ok(Some(unix)) = passed.take_unix_listener(at) {
                unix.set_nonblocking(true)?;
                inherited.unix.push((name, unix));
            } else if let Some(tcp) = passed.take_tcp_listener(at)? {
                tcp.set_nonblocking(true)?;
                inherited.tcp.push((name, tcp));
            }
        }
        Ok(inherited)
    }

    /// The sockets of a part: those with its name, and those without a part's name at one of its addresses.
    ///
    /// # Errors
    /// When there is more than one Unix socket for it, which no part has.
    pub fn take(
        &mut self,
        part: &str,
        addresses: &[SocketAddr],
        path: Option<&Path>,
    ) -> io::Result<Sockets> {
        let at_address =
            |tcp: &TcpListener| tcp.local_addr().is_ok_and(|address| addresses.contains(&address));
        let at_path = |unix: &UnixListener| {
            unix.local_addr().is_ok_and(|address| path.is_some() && address.as_pathname() == path)
        };
        let mine = |name: &str, here: bool| name == part || (!is_part(name) && here);
        let tcp = self.tcp.extract_if(.., |(name, tcp)| mine(name, at_address(tcp)));
        let tcp = tcp.map(|(_, tcp)| tcp).collect();
        let mut unix: Vec<_> =
            self.unix.extract_if(.., |(name, unix)| mine(name, at_path(unix))).collect();
        let first = unix.pop().map(|(_, unix)| unix);
        if !unix.is_empty() {
            let message = format!("the service manager hands over two Unix sockets for {part}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        Ok(Sockets { tcp, unix: first })
    }

    /// Says which sockets nobody wanted, and closes them.
    pub fn close_rest(self) {
        for (name, tcp) in &self.tcp {
            let address = tcp.local_addr().map(|address| address.to_string()).unwrap_or_default();
            warn_of_unused(name, &address);
        }
        for (name, unix) in &self.unix {
            let address = unix.local_addr();
            let path = address.as_ref().ok().and_then(|address| address.as_pathname());
            warn_of_unused(name, &path.unwrap_or(Path::new("")).display().to_string());
        }
    }
}

fn is_part(name: &str) -> bool {
    matches!(name, "ingress" | "admin")
}

fn warn_of_unused(name: &str, address: &str) {
    tracing::warn!(
        name,
        address,
        "The service manager hands over a socket that nothing here listens on; name it with FileDescriptorName=ingress or admin"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(name: &str) -> (String, TcpListener) {
        (name.to_owned(), TcpListener::bind("127.0.0.1:0").unwrap())
    }

    #[test]
    fn a_name_says_whose_a_socket_is_and_else_its_address() {
        let named = tcp("ingress");
        let other = tcp("posthaste.socket");
        let admin = tcp("admin");
        let address = other.1.local_addr().unwrap();
        let admins = admin.1.local_addr().unwrap();
        let mut inherited =
            Inherited { tcp: vec![named, other, admin, tcp("unknown")], unix: Vec::new() };
        // An address alone does not make a socket with another part's name ours.
        let mine = inherited.take("ingress", &[address, admins], None).unwrap();
        assert_eq!(mine.tcp.len(), 2);
        assert_eq!(inherited.take("admin", &[], None).unwrap().tcp.len(), 1);
        assert_eq!(inherited.tcp.len(), 1);
        assert!(inherited.take("admin", &[], None).unwrap().is_empty());
    }

    #[test]
    fn a_part_has_one_unix_socket() {
        let directory = tempfile::tempdir().unwrap();
        let bind = |name: &str| UnixListener::bind(directory.path().join(name)).unwrap();
        let path = directory.path().join("a");
        let unix = vec![(String::new(), bind("a")), ("ingress".to_owned(), bind("b"))];
        let mut inherited = Inherited { tcp: Vec::new(), unix };
        let error = inherited.take("ingress", &[], Some(&path)).unwrap_err();
        assert!(error.to_string().contains("two Unix sockets"), "{error}");
        let unix = vec![(String::new(), bind("c"))];
        let mut inherited = Inherited { tcp: Vec::new(), unix };
        assert!(inherited.take("admin", &[], Some(&path)).unwrap().is_empty());
        let path = directory.path().join("c");
        assert!(inherited.take("admin", &[], Some(&path)).unwrap().unix.is_some());
    }
}
