//! Says when the configuration's files have changed.
//!
//! Directories are watched, not files: editors rename a new file over the old one, Kubernetes swaps the `..data` symlink,
//! and a watch on the file itself would stay with the old one. Whatever happens in a directory means "look again" after a
//! quiet moment; what counts is the hash over all content, so a touch without a change says nothing. A poll stands behind
//! the watches, because they get lost: directories that do not exist yet, network file systems, symlinks that lead elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{ContentHash, Watched};

/// How long nothing must happen before the files are read: editors and `kubectl` work in several steps.
pub const QUIET: Duration = Duration::from_millis(250);

/// The longest wait for quiet, so that a directory that is never quiet is looked at all the same.
pub const QUIET_MAX: Duration = Duration::from_secs(2);

/// How often the files are looked at when nothing seems to happen.
pub const POLL: Duration = Duration::from_secs(10);

/// Watches the files of one configuration. Lives in the control loop.
#[derive(Debug)]
pub struct Watch {
    watched: Watched,
    /// The content that was reported last.
    seen: ContentHash,
    /// Set by notify's thread. It holds one wake, so nothing piles up.
    bell: Arc<Notify>,
    /// `None` when the system gives no watches; then the poll does it alone.
    watcher: Option<RecommendedWatcher>,
    /// Directories with a watch, and which directory it was (device and inode).
    directories: BTreeMap<PathBuf, (u64, u64)>,
    poll: Duration,
    next_poll: Instant,
    /// The bell has rung and nobody has looked yet. Kept here, so that a dropped [`Watch::changed`] loses nothing.
    rung: bool,
}

impl Watch {
    /// Starts watching. `seen` is the hash of the content in force: [`super::Loaded::content_hash`].
    pub fn new(watched: Watched, seen: ContentHash) -> Watch {
        Watch::with_poll(watched, seen, POLL)
    }

    /// With another interval of the poll.
    pub fn with_poll(watched: Watched, seen: ContentHash, poll: Duration) -> Watch {
        let bell = Arc::new(Notify::new());
        let ringer = Arc::clone(&bell);
        let handler = move |event: notify::Result<Event>| {
            if event.as_ref().map_or(true, is_change) {
                ringer.notify_one();
            }
        };
        let watcher = notify::recommended_watcher(handler);
        let watcher = watcher.inspect_err(|error| {
            tracing::warn!(%error, poll_seconds = poll.as_secs(), "File watches are not available, files are polled");
        });
        let mut watch = Watch {
            watched,
            seen,
            bell,
            watcher: watcher.ok(),
            directories: BTreeMap::new(),
            poll,
            next_poll: Instant::now() + poll,
            rung: false,
        };
        watch.arm();
        watch
    }

    /// Waits until the content is another one than reported last, and returns its hash. Cancel safe: the next call goes on
    /// where this one was dropped, the poll's time included.
    pub async fn changed(&mut self) -> ContentHash {
        loop {
            if !self.rung {
                self.rung = timeout_at(self.next_poll, self.bell.notified()).await.is_ok();
            }
            if self.rung {
                self.quiet().await;
            }
            self.arm();
            let now = self.hash().await;
            self.rung = false;
            self.next_poll = Instant::now() + self.poll;
            if now != self.seen {
                self.seen = now;
                return now;
            }
        }
    }

    /// Goes on with what a reload found, or refused, to be the configuration's files. `seen` is its content: what changed
    /// since it was read is reported next.
    pub fn set_paths(&mut self, watched: Watched, seen: ContentHash) {
        self.watched = watched;
        self.seen = seen;
        self.arm();
        // Look once more: something may have changed between reading and arming.
        self.bell.notify_one();
    }

    /// Waits until the bell has been still for a moment.
    async fn quiet(&self) {
        let deadline = Instant::now() + QUIET_MAX;
        while Instant::now() < deadline {
            if timeout(QUIET, self.bell.notified()).await.is_err() {
                return;
            }
        }
    }

    /// Reads all files on a thread for blocking work: a big directory must not hold the control loop.
    async fn hash(&self) -> ContentHash {
        loop {
            let watched = self.watched.clone();
            match tokio::task::spawn_blocking(move || watched.content_hash()).await {
                Ok(hash) => return hash,
                // The runtime is shutting down; nobody waits for an answer.
                Err(_) => sleep(self.poll).await,
            }
        }
    }

    /// Sets watches on directories that have none, or that were replaced by others of the same name, and gives up those
    /// that are not needed any more.
    fn arm(&mut self) {
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        let wanted: BTreeSet<PathBuf> = self.watched.directories();
        self.directories.retain(|directory, identity| {
            let keep = wanted.contains(directory) && identity_of(directory) == Some(*identity);
            if !keep {
                // It fails when the directory is gone, and its watch with it.
                let _ = watcher.unwatch(directory);
            }
            keep
        });
        for directory in wanted {
            if self.directories.contains_key(&directory) {
                continue;
            }
            let Some(identity) = identity_of(&directory) else {
                continue; // It does not exist; its parent's watch or the poll will tell.
            };
            match watcher.watch(&directory, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.directories.insert(directory, identity);
                }
                Err(error) => {
                    tracing::debug!(directory = %directory.display(), %error, "Directory is polled, not watched");
                }
            }
        }
    }
}

fn identity_of(directory: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::metadata(directory).ok()?;
    metadata.is_dir().then_some((metadata.dev(), metadata.ino()))
}

/// Reading is no change; otherwise our own look at the files would ring the bell.
fn is_change(event: &Event) -> bool {
    match event.kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// Far longer than anything here takes; a test that waits so long has failed.
    const PATIENCE: Duration = Duration::from_secs(30);

    fn watched(directory: &Path, files: &[&str]) -> Watched {
        let files = files.iter().map(|file| directory.join(file));
        Watched {
            root: directory.join("posthaste.toml"),
            connections: directory.join("connections.d"),
            files: files.collect::<BTreeSet<_>>(),
        }
    }

    /// A directory with one connection file, and a watch on it.
    fn start(poll: Duration, files: &[&str]) -> (tempfile::TempDir, Watch) {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("connections.d")).unwrap();
        fs::write(directory.path().join("connections.d/a.toml"), "a").unwrap();
        let watched = watched(directory.path(), files);
        let seen = watched.content_hash();
        (directory, Watch::with_poll(watched, seen, poll))
    }

    async fn reports(watch: &mut Watch) -> ContentHash {
        let hash = timeout(PATIENCE, watch.changed()).await.expect("a change");
        assert_eq!(hash, watch.watched.content_hash());
        hash
    }

    /// Polls so seldom that only a watch can report in time.
    const NEVER: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn a_file_that_is_written_or_renamed_over_is_reported() {
        let (directory, mut watch) = start(NEVER, &[]);
        let at = |name: &str| directory.path().join(name);
        fs::write(at("connections.d/b.toml"), "b").unwrap();
        let first = reports(&mut watch).await;
        fs::write(at("connections.d/.b.toml.tmp"), "c").unwrap();
        fs::rename(at("connections.d/.b.toml.tmp"), at("connections.d/b.toml")).unwrap();
        assert_ne!(reports(&mut watch).await, first);
        fs::remove_file(at("connections.d/b.toml")).unwrap();
        reports(&mut watch).await;
        fs::write(at("posthaste.toml"), "").unwrap();
        reports(&mut watch).await;
    }

    #[tokio::test]
    async fn a_symlink_swap_as_kubernetes_does_it_is_reported() {
        let (directory, mut watch) = start(NEVER, &[]);
        let at = |name: &str| directory.path().join("connections.d").join(name);
        for (data, content) in [("..1", "one"), ("..2", "two")] {
            fs::create_dir(at(data)).unwrap();
            fs::write(at(data).join("k.toml"), content).unwrap();
        }
        symlink("..1", at("..data")).unwrap();
        symlink("..data/k.toml", at("k.toml")).unwrap();
        let first = reports(&mut watch).await;
        symlink("..2", at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        assert_ne!(reports(&mut watch).await, first);
    }

    #[tokio::test]
    async fn a_secret_elsewhere_is_reported() {
        let (directory, mut watch) = start(NEVER, &["secrets/token"]);
        let secrets = directory.path().join("secrets");
        // The directory appears after the watch was set; the watch on its parent does not look into it, arming again does.
        fs::create_dir(&secrets).unwrap();
        fs::write(secrets.join("token"), "one").unwrap();
        watch.bell.notify_one();
        reports(&mut watch).await;
        fs::write(secrets.join("token"), "two").unwrap();
        reports(&mut watch).await;
    }

    #[tokio::test]
    async fn a_directory_that_is_replaced_is_watched_again() {
        let (directory, mut watch) = start(NEVER, &[]);
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("new")).unwrap();
        fs::write(at("new/a.toml"), "other").unwrap();
        fs::rename(at("connections.d"), at("old")).unwrap();
        fs::rename(at("new"), at("connections.d")).unwrap();
        reports(&mut watch).await;
        fs::write(at("connections.d/a.toml"), "third").unwrap();
        reports(&mut watch).await;
    }

    #[tokio::test]
    async fn a_touch_without_a_change_is_not_reported() {
        let (directory, mut watch) = start(NEVER, &[]);
        let file = directory.path().join("connections.d/a.toml");
        fs::write(&file, "a").unwrap();
        fs::write(directory.path().join("connections.d/notes.txt"), "x").unwrap();
        let silent = timeout(QUIET * 4, watch.changed()).await;
        assert!(silent.is_err(), "content is the same");
        fs::write(&file, "b").unwrap();
        reports(&mut watch).await;
    }

    #[tokio::test]
    async fn the_poll_finds_what_watches_miss() {
        let (directory, mut watch) = start(Duration::from_millis(20), &[]);
        watch.watcher = None;
        fs::write(directory.path().join("connections.d/a.toml"), "b").unwrap();
        reports(&mut watch).await;
    }

    #[tokio::test]
    async fn a_dropped_wait_loses_nothing() {
        let (directory, mut watch) = start(NEVER, &[]);
        fs::write(directory.path().join("connections.d/a.toml"), "b").unwrap();
        // The bell is taken, and the wait dropped in its quiet time.
        let bell = Arc::clone(&watch.bell);
        bell.notify_one();
        assert!(timeout(QUIET / 5, watch.changed()).await.is_err());
        reports(&mut watch).await;
    }

    #[tokio::test]
    async fn new_paths_are_watched_at_once() {
        let (directory, mut watch) = start(NEVER, &[]);
        let token = directory.path().join("token");
        fs::write(&token, "one").unwrap();
        let watched = watched(directory.path(), &["token"]);
        let seen = watched.content_hash();
        fs::write(&token, "two").unwrap();
        watch.set_paths(watched, seen);
        reports(&mut watch).await;
    }
}
