//! Dead letters: which ones a selection means, listed, counted, shown, and sent again one at a time.
//!
//! Nothing is indexed but the connection and the order in which they died, so a selection is looked for: a page of a list and a
//! part of a plan look at a bounded number of letters, and say where to go on. The type of an event stands in its record alone,
//! which is then read.

use std::sync::atomic::Ordering;

use super::Daemon;
use super::commands::closed;
use crate::admin::api::jobs::{DeadGroup, DeadPlan, Selection};
use crate::admin::api::{self, Page, Pagination, parse_rfc3339, rfc3339};
use crate::admin::{DeadEvent, Refusal};
use crate::connection::status::{Purpose, StatusSet};
use crate::event::{Cause, Event, EventId};
use crate::store::{ConnectionId, DeadCursor, DeadLetter};

/// How often a replay is tried of what was found, and not there any more a moment later.
const REPLAY_TRIES: usize = 3;
/// Letters that one page of a list, or one part of a plan, looks at.
const LOOK_MAX: usize = 4096;
/// The same when each letter's record has to be read.
const READ_MAX: usize = 512;
/// Letters that the store is asked for at once.
const PAGE: usize = 256;

/// A selection that was understood, but for its connection.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    cause: Option<Cause>,
    status: Option<StatusSet>,
    kind: Option<String>,
    /// Wall clock of death, in milliseconds.
    since: u64,
    until: u64,
}

/// Whether a letter is wanted.
pub(super) enum Fit {
    No,
    /// It is; with its event, if that had to be read.
    Yes(Option<Box<Event>>),
}

impl Wanted {
    /// Understands a selection.
    pub(super) fn new(selection: &Selection) -> Result<Wanted, Refusal> {
        let Selection { code, status, kind, since, until, .. } = selection;
        let time = |text: &Option<String>| match text {
            None => Ok(None),
            Some(text) => parse_rfc3339(text)
                .map(Some)
                .ok_or_else(|| Refusal::BadSelection(format!("{text:?} is not a time in UTC"))),
        };
        Ok(Wanted {
            cause: code.as_deref().map(cause).transpose()?,
            status: status.as_deref().map(statuses).transpose()?,
            kind: kind.clone(),
            since: time(since)?.unwrap_or(0),
            until: time(until)?.unwrap_or(u64::MAX),
        })
    }

    /// Whether only dead letters can be meant.
    pub(super) fn names_an_end(&self) -> bool {
        self.cause.is_some() || self.status.is_some()
    }

    /// Whether that is an end that is wanted.
    pub(super) fn fits_end(&self, cause: Cause, status: u16) -> bool {
        self.cause.is_none_or(|wanted| wanted == cause)
            && self.status.as_ref().is_none_or(|statuses| statuses.contains(status))
    }

    /// Whether an event of that type and time (wall clock, in milliseconds) is wanted.
    pub(super) fn fits_event(&self, kind: &str, at_ms: u64) -> bool {
        self.kind.as_ref().is_none_or(|wanted| wanted == kind)
            && (self.since..self.until).contains(&at_ms)
    }

    /// Whether all are.
    fn is_all(&self) -> bool {
        let Wanted { cause, status, kind, since, until } = self;
        cause.is_none() && status.is_none() && kind.is_none() && *since == 0 && *until == u64::MAX
    }

    /// Letters that are looked at in one go.
    fn look_max(&self) -> usize {
        if self.kind.is_some() { READ_MAX } else { LOOK_MAX }
    }

    fn fits_letter(&self, letter: &DeadLetter) -> bool {
        self.fits_end(letter.cause, letter.status)
            && (self.since..self.until).contains(&letter.died_ms)
    }
}

fn cause(text: &str) -> Result<Cause, Refusal> {
    let found = Cause::ALL.into_iter().find(|cause| cause.as_str() == text);
    found.ok_or_else(|| {
        Refusal::BadSelection(format!(
            "{text:?} is no cause; `code` is one of those of the documentation, such as http_status or expired"
        ))
    })
}

fn statuses(text: &str) -> Result<StatusSet, Refusal> {
    let entries: Vec<&str> = text.split(',').map(str::trim).collect();
    // Any status may be looked for, as any may be a success.
    StatusSet::parse(&entries, Purpose::Success)
        .map_err(|error| Refusal::BadSelection(format!("status: {error}")))
}

impl Daemon {
    /// The names whose dead letters can be asked for, with their numbers and how many there are: configured connections and
    /// orphaned queues.
    async fn known(&self) -> Result<Vec<(String, ConnectionId, u64)>, Refusal> {
        let status = self.store.status().await.map_err(closed)?;
        let queues = status.queues.into_iter().zip((0..).map(ConnectionId));
        let mut known: Vec<_> = queues
            .map(|((name, queue), id)| (name, id, queue.dead.load(Ordering::Relaxed)))
            .collect();
        let orphaned = |name: &str| self.live.iter().all(|live| live.connection.name != name);
        known.retain(|(name, ..)| !name.starts_with('\0') || !orphaned(name));
        known.sort();
        Ok(known)
    }

    /// Those of a selection.
    pub(super) async fn known_of(
        &self,
        connection: Option<&str>,
    ) -> Result<Vec<(String, ConnectionId, u64)>, Refusal> {
        let mut known = self.known().await?;
        if let Some(wanted) = connection {
            known.retain(|(name, ..)| name == wanted);
            if known.is_empty() {
                return Err(Refusal::UnknownConnection(wanted.to_owned()));
            }
        }
        Ok(known)
    }

    /// The number of a connection, or of an orphaned queue.
    pub(super) async fn id_of(&self, connection: &str) -> Result<ConnectionId, Refusal> {
        let known = self.known_of(Some(connection)).await?;
        let found = known.first().map(|(_, id, _)| *id);
        found.ok_or_else(|| Refusal::UnknownConnection(connection.to_owned()))
    }

    /// One page of dead letters.
    pub(super) async fn dead_list(
        &self,
        selection: &Selection,
        after: Option<String>,
        limit: u32,
    ) -> Result<Page<api::DeadLetter>, Refusal> {
        let wanted = Wanted::new(selection)?;
        let room = limit as usize;
        let mut models = Vec::new();
        let mut next = None;
        let mut look = Look::new(self, selection, after, wanted.look_max()).await?;
        // A page without a filter is as long as it was asked to be, and looks at no more.
        let at_once = |found: usize| if wanted.is_all() { room - found } else { PAGE };
        while let Some((name, letters)) = look.letters(self, at_once(models.len())).await? {
            for (letter, is_last) in letters {
                if let Fit::Yes(event) = self.fit(&wanted, &letter).await? {
                    models.push(self.describe_letter(&name, &letter, event).await?);
                }
                if models.len() == room && !is_last {
                    next = Some(letter.cursor());
                    break;
                }
            }
            if models.len() == room || next.is_some() {
                break;
            }
        }
        let next = next.or_else(|| look.rest()).map(DeadCursor::to_text);
        Ok(Page { pagination: Pagination { limit, next }, count: models.len(), models })
    }

    /// Adds what one part of the dead letters comes to, and where to go on.
    pub(super) async fn dead_plan(
        &self,
        selection: &Selection,
        mut plan: DeadPlan,
        after: Option<String>,
    ) -> Result<(DeadPlan, Option<String>), Refusal> {
        let wanted = Wanted::new(selection)?;
        let mut look = Look::new(self, selection, after, wanted.look_max()).await?;
        while let Some((name, letters)) = look.letters(self, PAGE).await? {
            for (letter, _) in letters {
                if let Fit::Yes(_) = self.fit(&wanted, &letter).await? {
                    plan.add(&name, &letter);
                }
            }
        }
        Ok((plan, look.rest().map(DeadCursor::to_text)))
    }

    /// Whether a letter is wanted. One whose type is asked for and cannot be read is not.
    pub(super) async fn fit(&self, wanted: &Wanted, letter: &DeadLetter) -> Result<Fit, Refusal> {
        if !wanted.fits_letter(letter) {
            return Ok(Fit::No);
        }
        let Some(kind) = &wanted.kind else {
            return Ok(Fit::Yes(None));
        };
        let loaded = self.store.load(letter.id, letter.size).await.map_err(closed)?;
        Ok(match loaded {
            Ok(event) if event.content.kind() == kind => Fit::Yes(Some(Box::new(event))),
            _ => Fit::No,
        })
    }

    /// A dead letter with its event's id, for which its record must be read.
    async fn describe_letter(
        &self,
        name: &str,
        letter: &DeadLetter,
        event: Option<Box<Event>>,
    ) -> Result<api::DeadLetter, Refusal> {
        if let Some(event) = event {
            return Ok(describe(name, letter, &event));
        }
        let loaded = self.store.load(letter.id, letter.size).await.map_err(closed)?;
        Ok(match loaded {
            Ok(event) => describe(name, letter, &event),
            Err(error) => {
                let mut damaged = describe_without_event(name, letter);
                damaged.id = format!("unreadable: {error}");
                damaged
            }
        })
    }

    /// One dead letter and its event.
    pub(super) async fn dead_show(
        &self,
        connection: &str,
        event: EventId,
    ) -> Result<DeadEvent, Refusal> {
        let (dead, event) = self.dead_event(connection, event).await?;
        Ok(DeadEvent { dead_letter: describe(connection, &dead, &event), event: event.into() })
    }

    async fn dead_event(
        &self,
        connection: &str,
        event: EventId,
    ) -> Result<(DeadLetter, Event), Refusal> {
        let id = self.id_of(connection).await?;
        let found = self.store.find_dead(id, event).await.map_err(closed)?;
        found.ok_or_else(|| Refusal::NoSuchDeadLetter { connection: connection.to_owned(), event })
    }

    /// Queues one dead letter again.
    pub(super) async fn replay(&self, connection: &str, event: EventId) -> Result<(), Refusal> {
        // Its record may be moved, or somebody else may replay it, between the two steps.
        for _ in 0..REPLAY_TRIES {
            let (letter, _) = match self.dead_event(connection, event).await {
                Err(Refusal::NoSuchDeadLetter { .. })
                    if self.is_live(connection, event).await? =>
                {
                    return Err(Refusal::StillLive(event));
                }
                found => found?,
            };
            let id = letter.id.connection;
            let (replayed, durable) = self.store.replay(vec![letter]).await.map_err(closed)?;
            self.count_replayed(id, replayed.len() as u64);
            durable.map_err(|error| Refusal::Store(error.to_string()))?;
            if replayed.len() == 1 {
                return Ok(());
            }
        }
        Err(Refusal::StillLive(event))
    }

    async fn is_live(&self, connection: &str, event: EventId) -> Result<bool, Refusal> {
        let id = self.id_of(connection).await?;
        self.store.is_live(id, event).await.map_err(closed)
    }

    pub(super) fn count_replayed(&self, id: ConnectionId, replayed: u64) {
        if let Some(live) = self.live.iter().find(|live| live.id == id) {
            live.metrics.replayed.increment(replayed);
        }
    }
}

/// A look at dead letters, connection by connection in the order of their names, of a bounded number of them.
struct Look {
    names: std::vec::IntoIter<(String, ConnectionId, u64)>,
    /// The connection that is looked at, and how far.
    current: Option<(String, ConnectionId, Option<DeadCursor>)>,
    /// How many may still be looked at.
    left: usize,
    last: Option<DeadCursor>,
}

impl Look {
    async fn new(
        daemon: &Daemon,
        selection: &Selection,
        after: Option<String>,
        left: usize,
    ) -> Result<Look, Refusal> {
        let after =
            after.as_deref().map(|text| DeadCursor::from_text(text).ok_or(Refusal::BadCursor));
        let after = after.transpose()?;
        let mut names = daemon.known_of(selection.connection.as_deref()).await?;
        // What has none is not looked at, so that a page knows whether it is the last one.
        let is_after = |id| after.is_some_and(|after| after.connection == id);
        names.retain(|(_, id, dead)| *dead > 0 || is_after(*id) || selection.connection.is_some());
        if after.is_some() {
            let start = names.iter().position(|(_, id, _)| is_after(*id));
            names.drain(..start.ok_or(Refusal::BadCursor)?);
        }
        let mut names = names.into_iter();
        let current = names
            .next()
            .map(|(name, id, _)| (name, id, after.filter(|after| after.connection == id)));
        Ok(Look { names, current, left, last: after })
    }

    /// The next letters of one connection, at most so many, and of each whether nothing comes after it. `None`: the end, or it
    /// was enough; [`Look::rest`] tells.
    async fn letters(
        &mut self,
        daemon: &Daemon,
        at_once: usize,
    ) -> Result<Option<(String, Vec<(DeadLetter, bool)>)>, Refusal> {
        while let Some((name, id, after)) = self.current.take() {
            let most = at_once.min(self.left);
            let page = daemon.store.dead(id, after, most).await.map_err(closed)?;
            let last = page.letters.last().map(DeadLetter::cursor);
            self.left -= page.letters.len().min(self.left);
            self.last = last.or(self.last);
            let found = name.clone();
            if page.more && last.is_none() {
                if most > 0 {
                    return Err(Refusal::Store("dead letters cannot be read just now".to_owned()));
                }
                self.current = Some((name, id, after));
                return Ok(None);
            }
            self.current = if page.more {
                Some((name, id, last))
            } else {
                self.names.next().map(|(name, id, _)| (name, id, None))
            };
            if page.letters.is_empty() {
                continue;
            }
            let end = self.current.is_none();
            let count = page.letters.len();
            let letters = (1..).zip(page.letters);
            let letters = letters.map(|(nth, letter)| (letter, end && nth == count));
            return Ok(Some((found, letters.collect())));
        }
        Ok(None)
    }

    /// Where to go on, if it did not come to the end.
    fn rest(&self) -> Option<DeadCursor> {
        self.last.filter(|_| self.current.is_some())
    }
}

impl DeadPlan {
    fn add(&mut self, connection: &str, letter: &DeadLetter) {
        self.matched += 1;
        self.bytes += u64::from(letter.size);
        let died = rfc3339(letter.died_ms);
        if self.oldest.as_ref().is_none_or(|oldest| died < *oldest) {
            self.oldest = Some(died.clone());
        }
        if self.newest.as_ref().is_none_or(|newest| died > *newest) {
            self.newest = Some(died);
        }
        let code = letter.cause.as_str();
        let place = self
            .groups
            .binary_search_by(|group| (&*group.connection, &*group.code).cmp(&(connection, code)));
        match place {
            Ok(at) => {
                if let Some(group) = self.groups.get_mut(at) {
                    group.count += 1;
                }
            }
            Err(at) => {
                let (connection, code) = (connection.to_owned(), code.to_owned());
                self.groups.insert(at, DeadGroup { connection, code, count: 1 });
            }
        }
    }
}

fn describe(connection: &str, letter: &DeadLetter, event: &Event) -> api::DeadLetter {
    api::DeadLetter {
        id: event.id.to_string(),
        accepted_at: rfc3339(event.accepted_ms),
        ..describe_without_event(connection, letter)
    }
}

fn describe_without_event(connection: &str, letter: &DeadLetter) -> api::DeadLetter {
    api::DeadLetter {
        id: String::new(),
        connection: connection.to_owned(),
        cause: letter.cause.as_str().to_owned(),
        status: (letter.status > 0).then_some(letter.status),
        attempts: letter.attempts,
        accepted_at: String::new(),
        died_at: Some(rfc3339(letter.died_ms)),
        bytes: u64::from(letter.size),
    }
}
