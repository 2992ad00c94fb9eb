//! The store's directory, from the outside: whose it is, what it lies on, how much room there is, and what a sync costs. Nothing in it
//! is opened; the probe has no name, so a running daemon cannot meet it.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, accessat, open, statfs, statvfs};
use rustix::io::Errno;

use super::{Check, in_time};
use crate::clock::Clock;
use crate::config::Store;
use crate::units::ByteSize;

/// Syncs that are measured, of so many bytes each, within this time.
const SYNCS: usize = 32;
const SYNC_BYTES: usize = 4096;
const SYNCING_MAX: Duration = Duration::from_secs(2);
/// A sync that takes longer makes every producer wait.
const SLOW: Duration = Duration::from_millis(50);
/// One that is faster has not been to a disk.
const TOO_FAST: Duration = Duration::from_micros(10);
/// Files of a store that are counted at most.
const FILES_MAX: usize = 100_000;

/// File systems whose syncs mean something else than on a disk: magic number, name, why.
const DOUBTFUL: [(u64, &str, &str); 8] = [
    (0x0102_1994, "tmpfs", "it is memory: a reboot loses everything"),
    (0x8584_58f6, "ramfs", "it is memory: a reboot loses everything"),
    (0x6969, "nfs", "a sync is the server's promise, and locks may be lost"),
    (0xff53_4d42, "cifs", "a sync is the server's promise, and locks may be lost"),
    (0xfe53_4d42, "smb2", "a sync is the server's promise, and locks may be lost"),
    (0x0102_1997, "9p", "a sync is the host's promise"),
    (0x6573_5546, "fuse", "what a sync means is up to its program"),
    (0x794c_7630, "overlayfs", "the container's layer goes with the container"),
];

pub(super) fn store(store: &Store) -> Vec<Check> {
    let settings = store.clone();
    let looked = in_time(move || look(&settings));
    looked.unwrap_or_else(|| {
        let detail = format!("{} did not answer in time", store.path.display());
        vec![Check::failed("store", detail, "the disk hangs: see `dmesg` and the mount")]
    })
}

fn look(store: &Store) -> Vec<Check> {
    let (directory, made) = match nearest(&store.path) {
        Ok(found) => found,
        Err(check) => return vec![check],
    };
    vec![
        owner(&store.path, &directory, made),
        space(&directory, store),
        file_system(&directory),
        syncs(&directory),
    ]
}

/// The store's directory, or the nearest one above it that exists, and whether it is the store's own.
fn nearest(path: &Path) -> Result<(PathBuf, bool), Check> {
    for above in path.ancestors() {
        match fs::metadata(above) {
            Ok(found) if found.is_dir() => return Ok((above.to_owned(), above == path)),
            Ok(_) => {
                let detail = format!("{} is no directory", above.display());
                return Err(Check::failed("store", detail, "move it away, or set [store] path"));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                let detail = format!("{}: {error}", above.display());
                return Err(Check::failed("store", detail, "run this as the daemon's user"));
            }
        }
    }
    Err(Check::failed("store", format!("no part of {} exists", path.display()), "set [store] path"))
}

fn owner(path: &Path, directory: &Path, made: bool) -> Check {
    const NAME: &str = "store";
    let user = rustix::process::geteuid().as_raw();
    let shown = path.display();
    let writable = accessat(CWD, directory, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS);
    if let Err(error) = writable {
        let detail = format!("{} cannot be written: {error}", directory.display());
        let advice = format!(
            "give it to the user that runs posthaste (`chown -R {user} {shown}` for this one), or run this as that user"
        );
        return Check::failed(NAME, detail, advice);
    }
    if !made {
        return Check::ok(NAME, format!("{shown} will be made at the first start"));
    }
    let Ok(found) = fs::metadata(directory) else {
        return Check::failed(NAME, format!("{shown} went away"), "look again");
    };
    if found.mode() & 0o007 != 0 {
        let detail = format!("{shown} is open to everybody, and payloads lie in it");
        return Check::warning(NAME, detail, format!("chmod 0700 {shown}"));
    }
    match found.uid() {
        uid if uid == user => Check::ok(NAME, format!("{shown}, writable, ours (uid {user})")),
        uid => Check::ok(NAME, format!("{shown}, of uid {uid}; this ran as uid {user}")),
    }
}

fn space(directory: &Path, store: &Store) -> Check {
    const NAME: &str = "space";
    let free = match statvfs(directory) {
        Ok(found) => found.f_bavail.saturating_mul(found.f_frsize),
        Err(error) => return Check::failed(NAME, error.to_string(), "look at the mount"),
    };
    let used = if directory == store.path { used(directory) } else { 0 };
    judge_space(free, used, store)
}

fn judge_space(free: u64, used: u64, store: &Store) -> Check {
    let [shown_free, shown_used, most] = [free, used, store.max_bytes].map(ByteSize);
    let detail = format!("{shown_free} free, the store takes {shown_used} of max_bytes {most}");
    if free < store.segment_bytes {
        let advice = "free space: when no file can be made, posts are refused with 507";
        return Check::failed("space", detail, advice);
    }
    if free.saturating_add(used) < store.max_bytes {
        let advice =
            "the disk fills up before the store is full: free space or lower [store] max_bytes";
        return Check::warning("space", detail, advice);
    }
    Check::ok("space", detail)
}

/// What the files of a directory take on the disk.
fn used(directory: &Path) -> u64 {
    let files = fs::read_dir(directory).into_iter().flatten().flatten().take(FILES_MAX);
    let taken = files.filter_map(|file| Some(file.metadata().ok()?.blocks().saturating_mul(512)));
    taken.fold(0, u64::saturating_add)
}

fn file_system(directory: &Path) -> Check {
    let kind = match statfs(directory) {
        // The kernel's type differs between machines; the numbers are of 32 bits.
        Ok(found) => u64::try_from(i128::from(found.f_type) & 0xffff_ffff).unwrap_or_default(),
        Err(error) => return Check::failed("file system", error.to_string(), "look at the mount"),
    };
    judge_file_system(kind)
}

fn judge_file_system(kind: u64) -> Check {
    match DOUBTFUL.iter().find(|(magic, ..)| *magic == kind) {
        Some((_, name, why)) => {
            let advice = "put the store on a local disk, where 202 means on disk";
            Check::warning("file system", format!("{name}: {why}"), advice)
        }
        None => Check::ok("file system", format!("local, type {kind:#x}")),
    }
}

fn syncs(directory: &Path) -> Check {
    const NAME: &str = "fdatasync";
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = match open(directory, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => File::from(file),
        Err(Errno::OPNOTSUPP | Errno::ISDIR) => {
            return Check::ok(NAME, "not measured: the file system has no files without a name");
        }
        Err(error) => {
            return Check::warning(NAME, format!("not measured: {error}"), "see the store, above");
        }
    };
    match measure(&file) {
        Ok(times) => judge_syncs(times),
        Err(error) => Check::failed(NAME, error.to_string(), "the disk fails: see `dmesg`"),
    }
}

/// How long each of a few syncs took.
fn measure(file: &File) -> std::io::Result<Vec<Duration>> {
    let clock = Clock::system();
    let begun = clock.monotonic();
    let mut times = Vec::with_capacity(SYNCS);
    while times.len() < SYNCS && clock.monotonic().saturating_sub(begun) < SYNCING_MAX {
        file.write_all_at(&[0x5a; SYNC_BYTES], (times.len() * SYNC_BYTES) as u64)?;
        let before = clock.monotonic();
        file.sync_data()?;
        times.push(clock.monotonic().saturating_sub(before));
    }
    Ok(times)
}

fn judge_syncs(mut times: Vec<Duration>) -> Check {
    times.sort();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    let most = times.last().copied().unwrap_or_default();
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    let detail = format!(
        "{:.2} ms in the middle, {:.2} ms at most, of {}",
        milliseconds(median),
        milliseconds(most),
        times.len()
    );
    match median {
        slow if slow > SLOW => {
            let advice = "each 202 waits for one: a faster disk, or durability = \"relaxed\" where a loss may be borne";
            Check::warning("fdatasync", detail, advice)
        }
        fast if fast < TOO_FAST => {
            let advice = "that is memory and no disk: a power cut loses what was acknowledged";
            Check::warning("fdatasync", detail, advice)
        }
        _ => Check::ok("fdatasync", detail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict::{Failed, Ok as Well, Warning};

    fn settings(path: &Path) -> Store {
        let file = path.join("posthaste.toml");
        let text = format!("[store]\npath = \"{}\"\n", path.join("store").display());
        fs::write(&file, text).unwrap();
        let (root, options) = crate::cli::settings::lookup(Some(&file));
        crate::config::load(&root.path, &options).unwrap().config.daemon.store
    }

    #[test]
    fn a_directory_is_looked_at_and_nothing_is_left_in_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = settings(directory.path());
        let first = look(&store).remove(0);
        assert_eq!(first.verdict, Well, "{first:?}");
        assert!(first.detail.contains("first start"), "{first:?}");
        assert!(!store.path.exists(), "nothing is made");
        fs::create_dir(&store.path).unwrap();
        let checks = look(&store);
        let names: Vec<_> = checks.iter().map(|check| check.name).collect();
        assert_eq!(names, ["store", "space", "file system", "fdatasync"]);
        assert!(checks[0].advice.as_ref().unwrap().contains("chmod 0700"), "{checks:?}");
        assert_eq!(fs::read_dir(&store.path).unwrap().count(), 0);
        fs::remove_dir(&store.path).unwrap();
        fs::write(&store.path, "").unwrap();
        assert_eq!(look(&store).remove(0).verdict, Failed);
    }

    #[test]
    fn room_is_judged_against_what_the_store_may_take() {
        let directory = tempfile::tempdir().unwrap();
        let store = settings(directory.path());
        let (most, segment) = (store.max_bytes, store.segment_bytes);
        let cases = [
            (most, 0, Well),
            (most - 1, 0, Warning),
            (most - 5, 5, Well),
            (segment, 0, Warning),
            (segment - 1, most, Failed),
        ];
        for (free, used, verdict) in cases {
            assert_eq!(judge_space(free, used, &store).verdict, verdict, "{free} {used}");
        }
    }

    #[test]
    fn memory_and_networks_are_warned_of() {
        for (magic, name, _) in DOUBTFUL {
            let check = judge_file_system(magic);
            assert_eq!(check.verdict, Warning);
            assert!(check.detail.starts_with(name));
        }
        // ext4
        assert_eq!(judge_file_system(0xef53).verdict, Well);
    }

    #[test]
    fn syncs_are_judged_by_the_one_in_the_middle() {
        let check = |micros: [u64; 3], verdict| {
            let times = micros.map(Duration::from_micros).to_vec();
            assert_eq!(judge_syncs(times).verdict, verdict, "{micros:?}");
        };
        check([900_000, 200, 300], Well);
        check([60_000, 70_000, 10], Warning);
        check([1, 2, 900_000], Warning);
    }
}
