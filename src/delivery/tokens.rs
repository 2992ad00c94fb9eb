//! The OAuth 2.0 token of one connection: asked for when it is needed, renewed before it ends, one request at a time.
//!
//! Whoever needs a token while it is being asked for waits for that answer, and gets it, also when it is a failure: a token
//! endpoint that is slow or gone is asked once for all workers. After a failure the next request is made [`PAUSE`] later at the
//! earliest. A token that is about to end is renewed beside the deliveries, which go on with the old one. A failure is
//! `auth_token`, an attempt that is tried again.
//!
//! A token lives as long as the connection's `auth` and the way to the target stay as they are, in memory alone.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderValue, Method, Request, Uri};
use http_body_util::Full;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout};

use super::http::{BODY_MAX, Drained, Http, SendError};
use super::http1::Http1;
use super::outbox::Settings;
use super::request::{AGENT, Body};
use super::runtime::Shared;
use super::timer::Deadline;
use crate::client::{Client, ClientError};
use crate::connection::auth::Auth;
use crate::connection::auth::oauth2::{Grant, OAuth2};
use crate::connection::{Connection, Http2};
use crate::event::Cause;
use crate::store::history::Phase;

/// The next request after one that failed is made so much later at the earliest.
const PAUSE: Duration = Duration::from_secs(1);
/// A token that is still good is tried to be renewed again so much after a renewal that failed.
const RENEW_PAUSE: Duration = Duration::from_secs(5);
/// A token that is younger is not given up for a 401: the next one would be refused too.
const FORCE_EVERY: Duration = Duration::from_secs(1);
/// The longest answer of a token endpoint.
const ANSWER_MAX: usize = 64 * 1024;

/// Dials the token endpoint of a connection, if it has one: over the connection's own TLS, but for the name to verify.
pub(super) fn client(connection: &Connection) -> Result<Option<Client>, ClientError> {
    let Some(oauth2) = connection.auth.as_ref().and_then(Auth::oauth2) else {
        return Ok(None);
    };
    let mut there = connection.clone();
    if there.target.host != oauth2.token_url.host {
        there.tls.server_name = None;
    }
    there.target = oauth2.token_url.clone();
    // One request an hour or so.
    there.http2 = Http2 { enabled: false, prior_knowledge: false };
    Client::new(&there).map(Some)
}

/// The failure of an attempt for which there is no token or no signature.
pub(super) fn missing(detail: &impl std::fmt::Display) -> SendError {
    SendError {
        cause: Cause::AuthToken,
        detail: detail.to_string(),
        unanswered: false,
        refused: false,
        phase: Phase::Connect,
        remote: None,
    }
}

/// A token, and which one it is.
#[derive(Clone, Debug)]
pub(super) struct Token {
    header: HeaderValue,
    number: u64,
}

impl Token {
    /// `Bearer …`
    pub(super) fn header(&self) -> HeaderValue {
        self.header.clone()
    }
}

/// The tokens of one connection, one after the other.
#[derive(Debug)]
pub(super) struct Tokens {
    client: Rc<Client>,
    /// Held while a token is asked for.
    turn: Mutex<()>,
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    current: Option<Current>,
    /// Requests that were answered, in whatever way.
    answers: u64,
    /// What the last answer was, for those who waited for it.
    last: Option<Result<Token, String>>,
    /// No request before this.
    not_before: Option<Instant>,
    /// When a token was last given up because of a 401.
    forced: Option<Instant>,
    /// A renewal is under way.
    renewing: bool,
}

#[derive(Debug)]
struct Current {
    token: Token,
    ends: Option<Instant>,
    renew: Option<Instant>,
}

impl Tokens {
    pub(super) fn new(client: Client) -> Rc<Tokens> {
        Rc::new(Tokens {
            client: Rc::new(client),
            turn: Mutex::default(),
            state: RefCell::default(),
        })
    }

    /// The current token, or a new one. `settings` must be those that these tokens belong to.
    pub(super) async fn get(
        self: &Rc<Tokens>,
        settings: &Rc<Settings>,
        shared: &Rc<Shared>,
    ) -> Result<Token, SendError> {
        let now = Instant::now();
        let (good, due, seen) = {
            let state = self.state.borrow();
            let good =
                state.current.as_ref().filter(|token| token.ends.is_none_or(|end| now < end));
            let due = good.is_some_and(|token| token.renew.is_some_and(|at| now >= at));
            (good.map(|current| current.token.clone()), due && !state.renewing, state.answers)
        };
        let Some(token) = good else {
            return self.wait_for_answer(seen, settings, shared).await;
        };
        if due {
            self.state.borrow_mut().renewing = true;
            let (tokens, settings) = (Rc::clone(self), Rc::clone(settings));
            let task = Rc::clone(shared);
            // The runtime waits for its tracker; the request has a time limit.
            drop(shared.tasks.spawn_local(async move {
                let answer = tokens.wait_for_answer(seen, &settings, &task).await;
                let mut state = tokens.state.borrow_mut();
                state.renewing = false;
                if answer.is_err()
                    && let Some(current) = &mut state.current
                {
                    current.renew = Some(Instant::now() + RENEW_PAUSE);
                }
            }));
        }
        Ok(token)
    }

    /// The target has refused this token. Says whether it is worth asking for another one.
    pub(super) fn refused(&self, token: &Token) -> bool {
        let now = Instant::now();
        let mut state = self.state.borrow_mut();
        let current = state.current.as_ref();
        if current.is_none_or(|current| current.token.number != token.number) {
            return true; // Somebody else was faster.
        }
        if state.forced.is_some_and(|at| now < at + FORCE_EVERY) {
            return false;
        }
        state.forced = Some(now);
        state.current = None;
        true
    }

    /// The header of the last token, for taking it out of what is kept.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        let state = self.state.borrow();
        let last = || state.last.as_ref()?.as_ref().ok();
        state.current.as_ref().map(|current| &current.token).or_else(last).map(Token::header)
    }

    /// Asks, or waits for who is asking. `seen` is how many answers there were when the token was found missing.
    async fn wait_for_answer(
        &self,
        seen: u64,
        settings: &Settings,
        shared: &Shared,
    ) -> Result<Token, SendError> {
        // Cancel safe: who is dropped in its turn leaves it to the next one.
        let _turn = self.turn.lock().await;
        if self.state.borrow().answers == seen {
            let not_before = self.state.borrow().not_before;
            if let Some(at) = not_before {
                sleep_until(at).await;
            }
            let began = Instant::now();
            let answer = self.ask(settings, shared).await;
            self.note(settings, began, answer);
        }
        match &self.state.borrow().last {
            Some(Ok(token)) => Ok(token.clone()),
            Some(Err(detail)) => Err(missing(detail)),
            None => Err(missing(&"no token was asked for")),
        }
    }

    /// Takes an answer in, and says in the log when they begin to fail and when they are fine again.
    fn note(&self, settings: &Settings, began: Instant, answer: Result<Grant, String>) {
        let name = &settings.connection.name;
        let mut state = self.state.borrow_mut();
        state.answers += 1;
        let failed_before = matches!(state.last, Some(Err(_)));
        match answer {
            Ok(grant) => {
                let token = Token { header: grant.header.clone(), number: state.answers };
                state.current = Some(Current {
                    token: token.clone(),
                    ends: grant.life.map(|life| began + life),
                    renew: grant.renew_after().map(|after| began + after),
                });
                state.not_before = None;
                state.last = Some(Ok(token));
                if failed_before {
                    tracing::info!(connection = name, "The token endpoint gives tokens again");
                }
            }
            Err(detail) => {
                state.not_before = Some(Instant::now() + PAUSE);
                if !failed_before {
                    tracing::warn!(
                        connection = name,
                        detail,
                        "No token could be had; deliveries fail until there is one"
                    );
                }
                state.last = Some(Err(detail));
            }
        }
    }

    /// Asks for a token that nobody else gets, and says nothing in the log: for a test.
    pub(super) async fn ask_aside(
        &self,
        settings: &Settings,
        shared: &Shared,
    ) -> Result<HeaderValue, String> {
        self.ask(settings, shared).await.map(|grant| grant.header)
    }

    /// One token request, within the connection's timeouts.
    async fn ask(&self, settings: &Settings, shared: &Shared) -> Result<Grant, String> {
        let connection = &settings.connection;
        let Some(oauth2) = connection.auth.as_ref().and_then(Auth::oauth2) else {
            return Err("the connection has no token endpoint".to_owned());
        };
        let whole = connection.connect_timeout + connection.request_timeout;
        match timeout(whole, self.exchange(oauth2, connection, shared)).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("the token endpoint did not answer within {whole:?}")),
        }
    }

    async fn exchange(
        &self,
        oauth2: &OAuth2,
        connection: &Connection,
        shared: &Shared,
    ) -> Result<Grant, String> {
        let failed = |error: &SendError| {
            format!("the token endpoint could not be asked: {}: {}", error.cause, error.detail)
        };
        let dialler = &shared.dialler;
        let (dialled, _) = self.client.dial(connection.connect_timeout, dialler).await;
        let stream =
            dialled.map_err(|error| format!("the token endpoint could not be reached: {error}"))?;
        let http = Http1::open(stream, Rc::clone(&self.client))
            .await
            .map_err(|error| format!("the token endpoint could not be asked: {error}"))?;
        let mut http = Http::One(Box::new(http));
        let mut deadline = Deadline::new(Instant::now() + connection.request_timeout);
        let response = http.send(request(oauth2), &mut deadline).await;
        let response = response.map_err(|error| failed(&error))?;
        let status = response.status().as_u16();
        let mut body = Vec::with_capacity(ANSWER_MAX);
        match http.drain(response.into_body(), &mut deadline, &mut body).await {
            Drained::Whole => oauth2.grant(status, &body),
            Drained::TooLarge => {
                Err(format!("the token endpoint's answer is longer than {BODY_MAX} bytes"))
            }
            Drained::Late => Err("the token endpoint's answer did not come in time".to_owned()),
            Drained::Broken => Err("the token endpoint's answer was cut off".to_owned()),
        }
    }
}

fn request(oauth2: &OAuth2) -> Request<Body> {
    let body = Bytes::copy_from_slice(oauth2.form.expose());
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from(oauth2.token_url.path_and_query.clone());
    let headers = request.headers_mut();
    headers.insert(HOST, oauth2.token_url.authority.clone());
    headers.insert(USER_AGENT, AGENT);
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    let form = HeaderValue::from_static("application/x-www-form-urlencoded");
    headers.insert(CONTENT_TYPE, form);
    if let Some(value) = &oauth2.authorization {
        headers.insert(AUTHORIZATION, value.clone());
    }
    request
}
