//! Targets that read text: the configuration and its values.

use std::path::PathBuf;
use std::time::Duration;

use crate::clock::Clock;
use crate::config::diff::diff;
use crate::config::summary::check_report;
use crate::config::{self, FILE_NAME, LoadOptions, Loaded, Places, Secrets};
use crate::connection::Target;
use crate::connection::retry::parse_retry_after;
use crate::connection::status::{Purpose, StatusSet};
use crate::secret::Env;
use crate::units::{ByteSize, HumanDuration};

/// The whole loader over one text. The first byte says whether it is the daemon's file or a connection's, and whether
/// secrets are resolved.
pub fn config(data: &[u8]) {
    let Some((choice, text)) = data.split_first() else {
        return;
    };
    let directory = ConfigDirectory::new();
    let name = if choice & 1 == 0 { FILE_NAME } else { "connections.d/one.toml" };
    directory.write(name, text);
    let secrets = if choice & 2 == 0 { Secrets::Skip } else { Secrets::Resolve };
    let env = Env::Fixed(Default::default());
    let options = LoadOptions {
        places: Places::new(env.clone(), true),
        env,
        root_required: false,
        secrets,
        cores: 2,
        clock: crate::clock::Clock::manual(1_800_000_000_000),
    };
    match config::load(&directory.path.join(FILE_NAME), &options) {
        Ok(loaded) => look_at(&loaded),
        Err(refused) => {
            assert!(!refused.errors.is_empty(), "refused without a reason");
            assert!(refused.render().starts_with("error: "));
        }
    }
}

fn look_at(loaded: &Loaded) {
    assert!(diff(&loaded.config, &loaded.config).is_empty(), "different from itself");
    let shown = format!("{:?} {:?}", check_report(loaded), loaded.config);
    assert!(!shown.is_empty());
    assert!(loaded.warnings.iter().all(|warning| !warning.render("warning").is_empty()));
}

/// A directory of this process's own; each case begins with it empty.
struct ConfigDirectory {
    path: PathBuf,
}

impl ConfigDirectory {
    fn new() -> ConfigDirectory {
        let path = std::env::temp_dir().join(format!("posthaste-fuzz-{}", std::process::id()));
        let made = std::fs::create_dir_all(path.join("connections.d"));
        assert!(made.is_ok(), "could not make {path:?}: {made:?}");
        ConfigDirectory { path }
    }

    fn write(&self, name: &str, text: &[u8]) {
        let written = std::fs::write(self.path.join(name), text);
        assert!(written.is_ok(), "could not write {name}: {written:?}");
    }
}

impl Drop for ConfigDirectory {
    fn drop(&mut self) {
        // What stays is written over by the next case.
        drop(std::fs::remove_dir_all(&self.path));
    }
}

/// A target's URL. One that is taken is taken again as it is shown, and means the same.
pub fn url(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(target) = Target::parse(&text) else {
        return;
    };
    assert!(!target.host.is_empty() && target.path_and_query.as_str().starts_with('/'));
    assert_eq!(Target::parse(&target.url).as_ref(), Ok(&target), "shown as {}", target.url);
}

/// A `Retry-After` header. The first eight bytes are the wall clock.
pub fn retry_after(data: &[u8]) {
    let (now, header) = match data.split_first_chunk() {
        Some((now, header)) => (u64::from_le_bytes(*now), header),
        None => (0, data),
    };
    let wait = parse_retry_after(header, now);
    let digits = !header.is_empty() && header.iter().all(u8::is_ascii_digit);
    assert!(!digits || wait.is_some(), "a number was not read");
    if let Some(wait) = wait {
        // What the delivery does with it: within the cap, added to store time.
        let until = Clock::manual(now).age().after(wait.min(Duration::from_secs(7 * 86_400)));
        assert!(until.0 <= Clock::manual(now).age().0 + 7 * 86_400_000);
    }
}

/// A list of statuses, one entry a line. The first byte says what the list is for.
pub fn statuses(data: &[u8]) {
    let Some((choice, text)) = data.split_first() else {
        return;
    };
    let purpose = if choice & 1 == 0 { Purpose::Success } else { Purpose::Retry };
    let text = String::from_utf8_lossy(text);
    let list: Vec<&str> = text.split('\n').collect();
    let Ok(set) = StatusSet::parse(&list, purpose) else {
        return;
    };
    let members = (0..=u16::MAX).filter(|status| set.contains(*status));
    let members: Vec<u16> = members.collect();
    assert!(!members.is_empty(), "an empty set was taken");
    assert!(members.iter().all(|status| (100..600).contains(status)));
    let retried = purpose == Purpose::Retry && members.iter().any(|status| *status / 100 == 2);
    assert!(!retried, "a success is tried again");
    let entries: Vec<&str> = set.entries().iter().map(String::as_str).collect();
    assert_eq!(StatusSet::parse(&entries, purpose).as_ref(), Ok(&set));
}

/// Durations and sizes. What is read reads the same after it was shown.
pub fn units(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(duration) = text.parse::<HumanDuration>() {
        assert_eq!(duration.to_string().parse(), Ok(duration), "shown as {duration}");
    }
    if let Ok(size) = text.parse::<ByteSize>() {
        assert_eq!(size.to_string().parse(), Ok(size), "shown as {size}");
    }
}
