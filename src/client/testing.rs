//! Another network: what the simulation dials instead of the system's sockets.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;

pub(crate) use crate::sim::pipe::Pipe;

/// A dial under way.
pub(crate) type Dial = Pin<Box<dyn Future<Output = io::Result<Pipe>>>>;

/// What dials.
pub(crate) type Network = Rc<dyn Fn(SocketAddr) -> Dial>;

thread_local! {
    static NETWORK: RefCell<Option<Network>> = const { RefCell::new(None) };
}

/// Everything that this thread dials from now on goes there; `None`: to the system's sockets.
pub(crate) fn set_network(network: Option<Network>) {
    NETWORK.set(network);
}

pub(super) fn network() -> Option<Network> {
    NETWORK.with_borrow(Clone::clone)
}
