//! The HTTP/2 connections of one connection, and who dials.
//!
//! Before the first socket nobody knows what the target speaks, so that one worker dials and the others wait for what it finds:
//! HTTP/1.1, and each dials its own; HTTP/2, and they join. A failed dial fails all who waited for it.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use super::{Http2, Session};
use crate::delivery::http::SendError;

/// Those that one client dialled.
#[derive(Default)]
pub(in crate::delivery) struct Sessions {
    open: RefCell<Vec<Weak<Session>>>,
    /// The last dial found HTTP/1.1.
    plain: Cell<bool>,
    dialling: RefCell<Option<Rc<Dialling>>>,
}

/// How a worker comes to an HTTP connection.
pub(in crate::delivery) enum Way {
    /// On a session that is open.
    Join(Http2),
    /// By waiting for who dials.
    Wait(Rc<Dialling>),
    /// By dialling while others wait.
    Dial(Turn),
    /// By dialling for itself.
    Alone,
}

/// A dial that others wait for.
#[derive(Default)]
pub(in crate::delivery) struct Dialling {
    ended: Cell<bool>,
    failed: RefCell<Option<SendError>>,
    changed: Notify,
}

impl Dialling {
    /// Waits for its end; why it failed, if it did.
    pub(in crate::delivery) async fn end(&self) -> Option<SendError> {
        while !self.ended.get() {
            self.changed.notified().await;
        }
        self.failed.borrow().clone()
    }
}

/// The right to dial; the others go on when it is dropped.
pub(in crate::delivery) struct Turn {
    sessions: Rc<Sessions>,
    dialling: Rc<Dialling>,
}

impl Turn {
    /// Tells the others why there is nothing to join.
    pub(in crate::delivery) fn failed(&self, error: &SendError) {
        *self.dialling.failed.borrow_mut() = Some(error.clone());
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *self.sessions.dialling.borrow_mut() = None;
        self.dialling.ended.set(true);
        self.dialling.changed.notify_waiters();
    }
}

impl Sessions {
    /// What a worker without an HTTP connection does. Sessions older than `max_lifetime` take nobody new.
    pub(in crate::delivery) fn way(self: &Rc<Sessions>, max_lifetime: Duration) -> Way {
        if let Some(session) = self.with_room(max_lifetime) {
            return Way::Join(Http2::new(&session));
        }
        if self.plain.get() {
            return Way::Alone;
        }
        let mut dialling = self.dialling.borrow_mut();
        match &*dialling {
            Some(running) => Way::Wait(Rc::clone(running)),
            None => {
                let running = Rc::new(Dialling::default());
                *dialling = Some(Rc::clone(&running));
                Way::Dial(Turn { sessions: Rc::clone(self), dialling: running })
            }
        }
    }

    /// HTTP connections that workers have over this one's: places on sessions, less the sessions.
    pub(in crate::delivery) fn shared(&self) -> usize {
        let open = self.open.borrow();
        open.iter().map(|session| session.strong_count().saturating_sub(1)).sum()
    }

    fn with_room(&self, max_lifetime: Duration) -> Option<Rc<Session>> {
        let mut open = self.open.borrow_mut();
        open.retain(|session| session.strong_count() > 0);
        let young = |session: &Rc<Session>| session.opened.elapsed() < max_lifetime;
        let mut alive = open.iter().filter_map(Weak::upgrade);
        alive.find(|session| session.has_room() && young(session))
    }

    /// A dial found HTTP/2.
    pub(in crate::delivery) fn add(&self, session: &Rc<Session>) {
        self.plain.set(false);
        self.open.borrow_mut().push(Rc::downgrade(session));
    }

    /// A dial found HTTP/1.1.
    pub(in crate::delivery) fn found_plain(&self) {
        self.plain.set(true);
    }
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sessions({})", self.open.borrow().len())
    }
}
