//! The audit log: every accepted change of the configuration, who made it, and what it was before and after.
//!
//! It is kept in the store's directory, one JSON object a line, appended and synced before the change is answered. There are
//! two files, `audit.log` and `audit.old.log`: when the first exceeds [`FILE_BYTES_MAX`] it takes the place of the second. A
//! line that was cut by a crash is passed over. What cannot be written (a full disk) is in the daemon's log all the same.
//!
//! From it the daemon knows again after a restart which names were deleted in the last week, and since when a connection is
//! in its state.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::admin::Refusal;
use crate::admin::api::connections::{AuditPage, AuditRecord};
use crate::admin::api::jobs::JobAction;
use crate::admin::api::{Pagination, parse_rfc3339, rfc3339};
use crate::admin::command::AuditQuery;
use crate::clock::{Clock, millis};

/// The log, and the one before it.
const FILES: [&str; 2] = ["audit.log", "audit.old.log"];
/// Some thousand records.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// A record is far smaller: names of connections are named 32 of a kind at most.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// For how long a name that was deleted is answered with 410.
const DELETED_FOR: Duration = Duration::from_secs(7 * 86_400);
/// Names that are remembered as deleted, and connections whose state's age is.
const REMEMBERED_MAX: usize = 10_000;

/// The log and what is remembered of it.
#[derive(Debug)]
pub(super) struct Audit {
    directory: PathBuf,
    clock: Clock,
    seq: u64,
    /// When names were deleted through the API, in milliseconds since 1970.
    deleted: HashMap<String, u64>,
    /// The state that a connection got, and when.
    states: HashMap<String, (String, u64)>,
}

impl Audit {
    /// Reads what is there.
    pub(super) fn open(directory: &Path, clock: Clock) -> Audit {
        let mut audit = Audit {
            directory: directory.to_owned(),
            clock,
            seq: 0,
            deleted: HashMap::new(),
            states: HashMap::new(),
        };
        for record in records(&audit.directory) {
            audit.seq = audit.seq.max(record.seq);
            audit.remember(&record);
        }
        audit
    }

    /// Adds a record: its number and time are set here.
    pub(super) fn add(&mut self, mut record: AuditRecord) {
        self.seq += 1;
        record.seq = self.seq;
        record.at = rfc3339(self.clock.wall_ms());
        self.remember(&record);
        let AuditRecord { by, action, connection, old, new, generation, .. } = &record;
        if changes_nothing(action) {
            tracing::info!(by, action, connection, job = record.job, "Noted in the audit log");
        } else {
            tracing::info!(by, action, connection, old, new, generation, "Configuration changed");
        }
        if let Err(error) = append(&self.directory, &record) {
            tracing::error!(%error, "Could not write the audit log");
        }
    }

    fn remember(&mut self, record: &AuditRecord) {
        if changes_nothing(&record.action) {
            return;
        }
        let (Some(name), Some(at)) = (&record.connection, parse_rfc3339(&record.at)) else {
            for name in &record.added {
                self.deleted.remove(name);
            }
            return;
        };
        if record.new.is_none() {
            self.states.remove(name);
            if self.deleted.len() < REMEMBERED_MAX {
                self.deleted.insert(name.clone(), at);
            }
            return;
        }
        self.deleted.remove(name);
        if let Some(state) = &record.state {
            let same = self.states.get(name).is_some_and(|(known, _)| known == state);
            if !same && (self.states.len() < REMEMBERED_MAX || self.states.contains_key(name)) {
                self.states.insert(name.clone(), (state.clone(), at));
            }
        }
    }

    /// Whether the name was deleted not long ago.
    pub(super) fn is_deleted(&mut self, name: &str) -> bool {
        let now = self.clock.wall_ms();
        self.deleted.retain(|_, at| now.saturating_sub(*at) < millis(DELETED_FOR));
        self.deleted.contains_key(name)
    }

    /// Since when a connection is in this state, in milliseconds since 1970, if that is known.
    pub(super) fn since(&self, name: &str, state: &str) -> Option<u64> {
        self.states.get(name).filter(|(known, _)| known == state).map(|(_, at)| *at)
    }

    /// Where the log is, for [`page`].
    pub(super) fn directory(&self) -> PathBuf {
        self.directory.clone()
    }
}

/// Whether what was done changed no configuration.
fn changes_nothing(action: &str) -> bool {
    let jobs = [JobAction::Replay, JobAction::Purge].map(super::jobs::audited);
    action == super::trial::ACTION || jobs.contains(&action)
}

/// One page, the newest first. Reads both files.
pub(super) fn page(directory: &Path, query: &AuditQuery) -> Result<AuditPage, Refusal> {
    let mut models = records(directory);
    models.retain(|record| {
        query.before.is_none_or(|before| record.seq < before)
            && query.connection.as_ref().is_none_or(|name| record.connection.as_ref() == Some(name))
    });
    models.reverse();
    let limit = query.limit as usize;
    let more = models.len() > limit;
    models.truncate(limit);
    let next = models.last().filter(|_| more).map(|record| record.seq.to_string());
    let pagination = Pagination { limit: query.limit, next };
    Ok(AuditPage { pagination, count: models.len(), models })
}

/// All records, the oldest first.
fn records(directory: &Path) -> Vec<AuditRecord> {
    let mut records = Vec::new();
    for name in FILES.iter().rev() {
        let Ok(text) = fs::read(directory.join(name)) else { continue };
        let lines = text.split(|byte| *byte == b'\n').filter(|line| line.len() <= LINE_BYTES_MAX);
        records.extend(lines.filter_map(|line| serde_json::from_slice(line).ok()));
    }
    records
}

fn append(directory: &Path, record: &AuditRecord) -> io::Result<()> {
    let [log, old] = FILES.map(|name| directory.join(name));
    if log.metadata().is_ok_and(|metadata| metadata.len() > FILE_BYTES_MAX) {
        fs::rename(&log, &old)?;
    }
    let is_new = !log.exists();
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&log)?;
    // A line that a crash cut must not take this one with it.
    let mut line = b"\n".to_vec();
    serde_json::to_writer(&mut line, record)?;
    line.push(b'\n');
    file.write_all(&line)?;
    file.sync_data()?;
    if is_new {
        File::open(directory)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_763_683_200_000;

    fn record(name: &str, state: Option<&str>, new: Option<&str>) -> AuditRecord {
        AuditRecord {
            by: "unix uid 0".to_owned(),
            action: "pause".to_owned(),
            connection: Some(name.to_owned()),
            state: state.map(str::to_owned),
            new: new.map(str::to_owned),
            ..AuditRecord::default()
        }
    }

    fn query(before: Option<u64>, connection: Option<&str>) -> AuditQuery {
        AuditQuery { connection: connection.map(str::to_owned), before, limit: 2 }
    }

    fn seqs(page: &AuditPage) -> Vec<u64> {
        page.models.iter().map(|record| record.seq).collect()
    }

    #[test]
    fn records_are_kept_over_a_restart_and_listed_newest_first() {
        let directory = tempfile::tempdir().unwrap();
        let clock = Clock::manual(NOW);
        let mut audit = Audit::open(directory.path(), clock.clone());
        for name in ["a", "b", "a"] {
            audit.add(record(name, Some("paused"), Some("1")));
        }
        let mut audit = Audit::open(directory.path(), clock);
        audit.add(record("c", None, Some("1")));
        let first = page(directory.path(), &query(None, None)).unwrap();
        assert_eq!((seqs(&first), first.pagination.next.as_deref()), (vec![4, 3], Some("3")));
        let second = page(directory.path(), &query(Some(3), None)).unwrap();
        assert_eq!((seqs(&second), second.pagination.next), (vec![2, 1], None));
        assert_eq!(seqs(&page(directory.path(), &query(None, Some("a"))).unwrap()), [3, 1]);
    }

    #[test]
    fn a_deleted_name_is_gone_for_a_week_or_until_it_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        let clock = Clock::manual(NOW);
        let mut audit = Audit::open(directory.path(), clock.clone());
        audit.add(AuditRecord { action: "dead_purge".to_owned(), ..record("c", None, None) });
        audit.add(record("a", None, None));
        audit.add(record("b", None, None));
        audit.add(record("b", None, Some("1")));
        for mut audit in [audit, Audit::open(directory.path(), clock.clone())] {
            assert!(audit.is_deleted("a") && !audit.is_deleted("b"));
            assert!(!audit.is_deleted("c"), "its dead letters were purged");
        }
        clock.advance(DELETED_FOR);
        assert!(!Audit::open(directory.path(), clock).is_deleted("a"));
    }

    #[test]
    fn the_age_of_a_state_is_that_of_its_first_record() {
        let directory = tempfile::tempdir().unwrap();
        let clock = Clock::manual(NOW);
        let mut audit = Audit::open(directory.path(), clock.clone());
        audit.add(record("a", Some("paused"), Some("1")));
        clock.advance(Duration::from_secs(9));
        audit.add(record("a", Some("paused"), Some("2")));
        assert_eq!(audit.since("a", "paused"), Some(NOW));
        assert_eq!(audit.since("a", "disabled"), None);
        audit.add(record("a", Some("disabled"), Some("3")));
        assert_eq!(audit.since("a", "disabled"), Some(NOW + 9_000));
    }

    #[test]
    fn a_cut_line_is_passed_over_and_the_log_stays_small() {
        let directory = tempfile::tempdir().unwrap();
        let clock = Clock::manual(NOW);
        let mut audit = Audit::open(directory.path(), clock.clone());
        audit.add(record("a", None, Some("1")));
        let log = directory.path().join(FILES[0]);
        let whole = fs::read(&log).unwrap();
        fs::write(&log, &whole[..whole.len() - 9]).unwrap();
        let mut audit = Audit::open(directory.path(), clock);
        audit.add(record("b", None, Some("1")));
        let listed = page(directory.path(), &query(None, None)).unwrap();
        assert_eq!(listed.models.len(), 1, "the line behind the cut one is there");
        let mut long = fs::read(&log).unwrap();
        long.extend(vec![b' '; usize::try_from(FILE_BYTES_MAX).unwrap()]);
        fs::write(&log, &long).unwrap();
        audit.add(record("c", None, Some("1")));
        assert!(directory.path().join(FILES[1]).exists());
        let listed = page(directory.path(), &query(None, None)).unwrap();
        assert_eq!(listed.models.len(), 2, "both files are read");
    }
}
