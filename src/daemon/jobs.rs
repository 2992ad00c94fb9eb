//! Jobs: bulk replays and purges of dead letters, a bounded step at a time.
//!
//! A job walks through the dead letters of its connections in the order in which they died, as far as they were dead when it
//! began: what dies again meanwhile comes later in that order, so a job ends. Each turn of the control loop takes at most one step
//! of one job, for at most [`STEP`] letters of one connection; jobs, and the connections of a job, take turns. A replay puts no
//! more than [`LANE_MAX`] and a step of a connection's deliveries into its replay lane, and then waits until they are over: the lane
//! shares the connection with new events, and nothing of a large replay is in memory.
//!
//! Jobs are kept in a file ([`mod@file`]), with how far they are. A step's marks are durable before the job's place is, so a crash
//! costs a job nothing but its figures of the last second: it looks again at what it had done, and that is not dead any more.

mod file;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until, timeout};

use super::dead::{Fit, Wanted};
use super::{COMMAND_MAX, Daemon};
use crate::admin::api::connections::AuditRecord;
use crate::admin::api::jobs::{Job, JobAction, JobCounts, JobState, Selection};
use crate::admin::api::rfc3339;
use crate::admin::{JobCommand, Refusal};
use crate::clock::Age;
use crate::event::EventId;
use crate::store::{ConnectionId, DeadCursor, DeadLetter};

/// Letters of one step.
const STEP: usize = 64;
/// How long jobs rest after a step: what they do goes before nobody. Some 2,500 letters a second.
const STEP_PAUSE: Duration = Duration::from_millis(25);
/// Replays of a connection that may wait before a job adds some.
const LANE_MAX: u64 = 256;
/// How long jobs wait when no lane has room.
const LANE_LOOK: Duration = Duration::from_millis(20);
/// Lanes without room in a row before jobs wait.
const LANES_LOOKED: usize = 16;
/// How long jobs wait after the store failed.
const TROUBLE_WAIT: Duration = Duration::from_secs(1);
/// How often the place of a running job is written down.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// Jobs that run at one time.
const RUNNING_MAX: usize = 16;
/// Jobs that ended and are remembered.
const ENDED_MAX: usize = 100;
/// How often a step looks for letters whose record was moved since they were listed.
const STEP_TRIES: usize = 3;

/// What the audit log calls the beginning of a job.
pub(super) fn audited(action: JobAction) -> &'static str {
    match action {
        JobAction::Replay => "dead_replay",
        JobAction::Purge => "dead_purge",
    }
}

/// A job and where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    job: Job,
    /// Store time when it began.
    born: u64,
    /// The connections that it has not been through.
    walks: Vec<Walk>,
}

/// A connection's dead letters that a job goes through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Walk {
    connection: u32,
    /// The last letter that was looked at.
    after: Option<String>,
    /// It has been through once. A letter whose record is moved meanwhile may get a place before the last that was looked at, so
    /// a walk goes through again until there is nothing that it can do.
    #[serde(default)]
    again: bool,
    /// Letters that this time through has done.
    #[serde(default)]
    done: u64,
}

impl Walk {
    fn new(connection: u32) -> Walk {
        Walk { connection, after: None, again: false, done: 0 }
    }
}

/// What one step came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Stepped {
    /// The replay lane has no room: nothing was done.
    full: bool,
    counts: JobCounts,
    /// Where to go on; `None` at the end.
    after: Option<String>,
}

/// All jobs, the oldest first.
#[derive(Debug)]
pub(super) struct Jobs {
    directory: PathBuf,
    kept: Vec<Kept>,
    /// When the next step is due; `None` while no job runs.
    due: Option<Instant>,
    /// Counts up with each step: whose turn it is.
    turn: usize,
    /// Lanes without room in a row.
    full: usize,
    saved: Instant,
    unsaved: bool,
}

impl Jobs {
    /// Reads what is there. What ran goes on.
    pub(super) fn open(directory: &Path) -> Jobs {
        let kept = file::read(directory);
        let now = Instant::now();
        let mut jobs = Jobs {
            directory: directory.to_owned(),
            kept,
            due: None,
            turn: 0,
            full: 0,
            saved: now,
            unsaved: false,
        };
        jobs.plan(now);
        jobs
    }

    /// Waits until a step is due.
    pub(super) async fn wait(&self) {
        match self.due {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    fn running(&self) -> impl Iterator<Item = &Kept> {
        self.kept.iter().filter(|kept| kept.job.state == JobState::Running)
    }

    fn plan(&mut self, at: Instant) {
        let running = self.running().next().is_some();
        self.due = running.then_some(at);
    }

    fn find(&mut self, id: &str) -> Result<&mut Kept, Refusal> {
        let found = self.kept.iter_mut().find(|kept| kept.job.id == id);
        found.ok_or_else(|| Refusal::NoSuchJob(id.to_owned()))
    }

    /// Whose turn it is: the job, and the walk.
    fn next(&mut self) -> Option<(&Kept, usize)> {
        self.turn = self.turn.wrapping_add(1);
        let turn = self.turn;
        let running: Vec<&Kept> = self.running().collect();
        let kept = *running.get(turn.checked_rem(running.len())?)?;
        // Each job's own connections take turns as well.
        let own = turn.checked_div(running.len())?;
        Some((kept, own.checked_rem(kept.walks.len()).unwrap_or(0)))
    }

    /// Walks that could have a turn.
    fn walks(&self) -> usize {
        self.running().map(|kept| kept.walks.len()).sum()
    }

    /// Forgets the oldest of those that ended.
    fn forget(&mut self) {
        let ended = self.kept.len() - self.running().count();
        let mut over = ended.saturating_sub(ENDED_MAX);
        self.kept.retain(|kept| {
            let forgotten = over > 0 && kept.job.state != JobState::Running;
            over -= usize::from(forgotten);
            !forgotten
        });
    }

    /// Writes all of them down.
    async fn save(&mut self) -> std::io::Result<()> {
        let content = file::encode(&self.kept)?;
        let directory = self.directory.clone();
        let written = tokio::task::spawn_blocking(move || file::write(&directory, &content)).await;
        let written = written.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        self.saved = Instant::now();
        self.unsaved = written.is_err();
        written
    }

    /// Writes them down if that was not done for a while. A failure is said, and tried again.
    async fn save_progress(&mut self, at_once: bool) {
        let due = at_once || self.unsaved && self.saved.elapsed() >= SAVE_EVERY;
        if due && let Err(error) = self.save().await {
            tracing::error!(%error, "Could not write down how far the jobs are; after a restart they count from before");
        }
    }

    /// The daemon stops.
    pub(super) async fn close(mut self) {
        let unsaved = self.unsaved;
        self.save_progress(unsaved).await;
    }
}

impl Daemon {
    /// Does what is asked about jobs.
    pub(super) async fn run_job_command(&mut self, command: JobCommand) {
        // An asker that went away does not want its answer.
        match command {
            JobCommand::Plan { selection, plan, after, reply } => {
                let _ = reply.send(self.dead_plan(&selection, plan, after).await);
            }
            JobCommand::Start { action, selection, by, reply } => {
                let _ = reply.send(self.start_job(action, selection, by).await);
            }
            JobCommand::List(reply) => {
                let jobs = self.jobs.kept.iter().rev();
                let _ = reply.send(jobs.map(|kept| kept.job.clone()).collect());
            }
            JobCommand::Show { id, reply } => {
                let _ = reply.send(self.jobs.find(&id).map(|kept| kept.job.clone()));
            }
            JobCommand::Cancel { id, by, reply } => {
                let _ = reply.send(self.cancel_job(&id, &by).await);
            }
        }
    }

    /// Begins a job, which is on the disk when this returns.
    async fn start_job(
        &mut self,
        action: JobAction,
        selection: Selection,
        by: String,
    ) -> Result<Job, Refusal> {
        Wanted::new(&selection)?;
        if self.jobs.running().count() >= RUNNING_MAX {
            return Err(Refusal::TooManyJobs(RUNNING_MAX));
        }
        let mut known = self.known_of(selection.connection.as_deref()).await?;
        known.retain(|(.., dead)| *dead > 0 || selection.connection.is_some());
        let walks = known.iter().map(|(_, id, _)| Walk::new(id.0));
        let id = EventId::new(self.clock.wall_ms(), &mut fastrand::Rng::new()).0;
        let job = Job {
            id: format!("job_{}", id.as_hyphenated()),
            action,
            state: JobState::Running,
            by,
            selection,
            counts: JobCounts {
                total: known.iter().map(|(.., dead)| dead).sum(),
                ..JobCounts::default()
            },
            started_at: rfc3339(self.clock.wall_ms()),
            ended_at: None,
            error: None,
        };
        let kept = Kept { job: job.clone(), born: self.clock.age().0, walks: walks.collect() };
        self.jobs.kept.push(kept);
        if let Err(error) = self.jobs.save().await {
            self.jobs.kept.pop();
            return Err(Refusal::Store(format!("the job cannot be written down: {error}")));
        }
        self.jobs.plan(Instant::now());
        self.audit.add(AuditRecord {
            by: job.by.clone(),
            action: audited(action).to_owned(),
            connection: job.selection.connection.clone(),
            job: Some(job.id.clone()),
            generation: self.generation,
            ..AuditRecord::default()
        });
        Ok(job)
    }

    async fn cancel_job(&mut self, id: &str, by: &str) -> Result<Job, Refusal> {
        let now = rfc3339(self.clock.wall_ms());
        let kept = self.jobs.find(id)?;
        if kept.job.state != JobState::Running {
            let state = kept.job.state.as_str();
            return Err(Refusal::JobEnded { id: id.to_owned(), state });
        }
        kept.end(JobState::Cancelled, now, None);
        let job = kept.job.clone();
        tracing::info!(job = id, by, "Job cancelled");
        self.jobs.forget();
        self.jobs.plan(Instant::now());
        let saved = self.jobs.save().await;
        saved.map_err(|error| {
            Refusal::Store(format!("it has stopped, and a restart may start it again: {error}"))
        })?;
        Ok(job)
    }

    /// One step of one job.
    pub(super) async fn turn_jobs(&mut self) {
        let Some((kept, at)) = self.jobs.next() else {
            self.jobs.due = None;
            return;
        };
        let (id, walk) = (kept.job.id.clone(), kept.walks.get(at).cloned());
        let (action, born) = (kept.job.action, Age(kept.born));
        let wanted = Wanted::new(&kept.job.selection);
        let stepped = match (walk, wanted) {
            (None, _) => return self.end_job(&id, JobState::Done, None).await,
            // It was legal when it began, so its file was edited.
            (_, Err(error)) => {
                return self.end_job(&id, JobState::Failed, Some(error.to_string())).await;
            }
            (Some(walk), Ok(wanted)) => {
                let step = self.step(action, &wanted, born, &walk);
                let stepped = timeout(COMMAND_MAX, step).await;
                stepped.unwrap_or_else(|_| Err(Refusal::Store("the disk is slow".to_owned())))
            }
        };
        match stepped {
            Ok(Stepped { full: true, .. }) => {
                self.jobs.full += 1;
                if self.jobs.full >= self.jobs.walks().min(LANES_LOOKED) {
                    self.jobs.full = 0;
                    self.jobs.plan(Instant::now() + LANE_LOOK);
                }
            }
            Ok(stepped) => {
                self.jobs.full = 0;
                if let Ok(kept) = self.jobs.find(&id) {
                    kept.take(stepped, at);
                }
                self.jobs.unsaved = true;
                self.jobs.plan(Instant::now() + STEP_PAUSE);
            }
            Err(error) => {
                tracing::warn!(job = id, %error, "A job could not go on; it is tried again");
                self.jobs.plan(Instant::now() + TROUBLE_WAIT);
            }
        }
        self.jobs.save_progress(false).await;
    }

    async fn end_job(&mut self, id: &str, state: JobState, error: Option<String>) {
        let now = rfc3339(self.clock.wall_ms());
        if let Ok(kept) = self.jobs.find(id) {
            kept.end(state, now, error);
            let JobCounts { matched, done, failed, .. } = kept.job.counts;
            let (error, state) = (&kept.job.error, state.as_str());
            tracing::info!(job = id, state, matched, done, failed, error, "Job ended");
        }
        self.jobs.forget();
        self.jobs.plan(Instant::now());
        self.jobs.save_progress(true).await;
    }

    /// Goes through the next letters of one connection.
    async fn step(
        &self,
        action: JobAction,
        wanted: &Wanted,
        born: Age,
        walk: &Walk,
    ) -> Result<Stepped, Refusal> {
        let id = ConnectionId(walk.connection);
        let after = walk.after.as_deref().and_then(DeadCursor::from_text);
        let mut stepped = Stepped::default();
        let mut left = None;
        for _ in 0..STEP_TRIES {
            let page = self.store.dead(id, after, STEP).await.map_err(super::commands::closed)?;
            if action == JobAction::Replay && page.replaying >= LANE_MAX && left.is_none() {
                stepped.full = true;
                break;
            }
            let more = page.more;
            if more && page.letters.is_empty() {
                return Err(Refusal::Store("dead letters cannot be read just now".to_owned()));
            }
            let mut letters = page.letters;
            let listed = letters.len();
            letters.retain(|letter| letter.died <= born);
            let mut matching = Vec::new();
            for letter in &letters {
                if let Fit::Yes(_) = self.fit(wanted, letter).await? {
                    matching.push(*letter);
                }
            }
            if let Some(left) = left {
                // Only what was moved since it was listed the first time: what follows has its own step.
                matching.truncate(left);
            } else {
                stepped.counts.examined = letters.len() as u64;
                stepped.counts.matched = matching.len() as u64;
                let on = more && letters.len() == listed;
                let last = letters.last().filter(|_| on);
                stepped.after = last.map(|letter| letter.cursor().to_text());
            }
            let wanted_now = matching.len() as u64;
            let done = self.act(action, id, matching).await?;
            stepped.counts.done += done;
            if done == wanted_now {
                break;
            }
            left = usize::try_from(wanted_now - done).ok();
        }
        let JobCounts { matched, done, .. } = stepped.counts;
        stepped.counts.failed = matched.saturating_sub(done);
        Ok(stepped)
    }

    /// Replays or purges letters of one connection; how many.
    async fn act(
        &self,
        action: JobAction,
        id: ConnectionId,
        letters: Vec<DeadLetter>,
    ) -> Result<u64, Refusal> {
        if letters.is_empty() {
            return Ok(0);
        }
        let (done, durable) = match action {
            JobAction::Replay => {
                let (replayed, durable) =
                    self.store.replay(letters).await.map_err(super::commands::closed)?;
                self.count_replayed(id, replayed.len() as u64);
                (replayed.len() as u64, durable)
            }
            JobAction::Purge => self.store.purge(letters).await.map_err(super::commands::closed)?,
        };
        durable.map_err(|error| Refusal::Store(error.to_string()))?;
        Ok(done)
    }
}

impl Kept {
    fn end(&mut self, state: JobState, now: String, error: Option<String>) {
        (self.job.state, self.job.ended_at, self.job.error) = (state, Some(now), error);
        self.walks = Vec::new();
    }

    /// Notes what a step of the walk at this place came to.
    fn take(&mut self, stepped: Stepped, at: usize) {
        let counts = &mut self.job.counts;
        let Some(walk) = self.walks.get_mut(at) else {
            return;
        };
        let JobCounts { examined, matched, done, failed, .. } = stepped.counts;
        // Those of an earlier time through are counted; what is new was passed over then, or failed.
        let mended = counts.failed.min(done);
        let (examined, matched, failed) = match walk.again {
            false => (examined, matched, counts.failed + failed),
            true => (done - mended, done - mended, counts.failed - mended),
        };
        counts.examined += examined;
        counts.matched += matched;
        counts.done += done;
        counts.failed = failed;
        // Somebody may have died between the count and the look.
        counts.total = counts.total.max(counts.examined);
        walk.done += done;
        match stepped.after {
            Some(after) => walk.after = Some(after),
            None if walk.done > 0 => {
                *walk = Walk { again: true, ..Walk::new(walk.connection) };
            }
            None => drop(self.walks.remove(at)),
        }
    }
}
