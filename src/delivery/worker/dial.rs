//! How a worker comes to an HTTP connection: it keeps its own, joins one that is shared, or dials.

use std::rc::Rc;

use tokio::time::{Instant, timeout_at};

use super::Worker;
use crate::client::{self, DialError, Stage, Stream};
use crate::delivery::http::{Http, SendError};
use crate::delivery::http1::Http1;
use crate::delivery::http2::{Http2, Session, Way};
use crate::delivery::outbox::Settings;
use crate::event::Cause;
use crate::store::history::{Phase, Timings};

impl Worker {
    /// Lets go of an HTTP connection that is too old, leads elsewhere or takes nothing more.
    pub(super) fn keep_usable(&mut self, settings: &Settings) {
        let lifetime = settings.connection.pool.max_lifetime;
        self.http = self
            .http
            .take()
            .filter(|http| http.is_usable(&settings.client) && http.opened().elapsed() < lifetime);
    }

    /// Comes to an HTTP connection; says whether it was there before.
    pub(super) async fn connect(&mut self, settings: &Settings) -> Result<(Http, bool), SendError> {
        if !settings.client.may_speak_http2() {
            return self.dial(settings).await.map(|http| (http, false));
        }
        let within = settings.connection.connect_timeout;
        let deadline = Instant::now() + within;
        loop {
            match settings.sessions.way(settings.connection.pool.max_lifetime) {
                Way::Join(http) => return Ok((Http::Two(http), true)),
                Way::Alone => return self.dial(settings).await.map(|http| (http, false)),
                Way::Dial(turn) => {
                    let dialled = self.dial(settings).await;
                    if let Err(error) = &dialled {
                        turn.failed(error);
                    }
                    return dialled.map(|http| (http, false));
                }
                Way::Wait(dialling) => match timeout_at(deadline, dialling.end()).await {
                    Ok(Some(error)) => return Err(error),
                    Ok(None) => {}
                    Err(_) => {
                        return Err(not_opened(
                            Cause::ConnectTimeout,
                            format!(
                                "no place on an HTTP/2 connection within connect_timeout = {within:?}"
                            ),
                        ));
                    }
                },
            }
        }
    }

    async fn dial(&mut self, settings: &Settings) -> Result<Http, SendError> {
        let outbox = &self.seat.outbox;
        let timeout = settings.connection.connect_timeout;
        let deadline = Instant::now() + timeout;
        let (dialled, timings) = settings.client.dial(timeout, &outbox.shared.dialler).await;
        let client::Timings { lookup, connect, tls, .. } = timings;
        self.timings = Timings { lookup, connect, tls, first_byte: None };
        let stream = dialled.map_err(not_dialled)?;
        outbox.metrics.connections_opened.increment(1);
        if let Some(expires) = stream.secured().and_then(|secured| secured.expires) {
            outbox.metrics.peer_certificate(expires);
        }
        begin(settings, stream, deadline).await
    }
}

/// Begins HTTP on an open socket.
pub(in crate::delivery) async fn begin(
    settings: &Settings,
    stream: Stream,
    deadline: Instant,
) -> Result<Http, SendError> {
    let remote = stream.remote();
    let client = Rc::clone(&settings.client);
    let failed = |error: hyper::Error| SendError {
        remote: Some(remote),
        ..not_opened(Cause::Protocol, error.to_string())
    };
    if !settings.client.speaks_http2(&stream) {
        settings.sessions.found_plain();
        let http = Http1::open(stream, client).await.map_err(failed)?;
        return Ok(Http::One(Box::new(http)));
    }
    // What begins HTTP/2 is written here, and may have to wait for the peer.
    let session = match timeout_at(deadline, Session::open(stream, client)).await {
        Ok(session) => session.map_err(failed)?,
        Err(_) => {
            let detail = "HTTP/2 did not begin within connect_timeout".to_owned();
            return Err(not_opened(Cause::ConnectTimeout, detail));
        }
    };
    settings.sessions.add(&session);
    Ok(Http::Two(Http2::new(&session)))
}

fn not_dialled(error: DialError) -> SendError {
    let DialError { cause, detail, stage, remote } = error;
    let phase = match stage {
        Stage::Lookup => Phase::Lookup,
        Stage::Connect | Stage::Proxy => Phase::Connect,
        Stage::Tls => Phase::Tls,
    };
    SendError { phase, remote, ..not_opened(cause, detail) }
}

fn not_opened(cause: Cause, detail: String) -> SendError {
    SendError {
        cause,
        detail,
        unanswered: false,
        refused: false,
        phase: Phase::Connect,
        remote: None,
    }
}
