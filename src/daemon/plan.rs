//! What a reload would do, without doing it: which connections change, in what, and what becomes of what waits for them.

use std::sync::atomic::Ordering;

use super::Daemon;
use crate::admin::ReloadRefused;
use crate::admin::api::connections::{Plan, Planned};
use crate::config::diff::{ConfigDiff, diff, settings};
use crate::connection::{Connection, OnRemove, State};

impl Daemon {
    /// Reads the files and compares. Neither the configuration nor what is watched changes.
    pub(super) async fn plan(&self) -> Result<Plan, ReloadRefused> {
        let loaded = self.load(Vec::new()).await.map_err(|not_loaded| not_loaded.refused)?;
        let warnings = loaded.warnings.iter().map(ToString::to_string).collect();
        let diff = diff(&self.config, &loaded.config);
        let names = |keys: &[&'static str]| keys.iter().map(|key| (*key).to_owned()).collect();
        Ok(Plan {
            connections: self.planned(&diff).await,
            daemon: names(&diff.daemon_changed),
            needs_restart: names(&diff.needs_restart),
            warnings,
        })
    }

    async fn planned(&self, diff: &ConfigDiff) -> Vec<Planned> {
        let held = match self.store.status().await {
            Ok(status) => self.orphaned(&status),
            Err(_) => Vec::new(),
        };
        let waiting =
            |name: &str| self.live(name).map_or(0, |live| live.queue.live.load(Ordering::Relaxed));
        let mut planned = Vec::new();
        for new in &diff.added {
            let held = held.iter().find(|queue| queue.name == new.name);
            let waiting = held.map_or(0, |queue| queue.held);
            planned.push(plan_of(&new.name, waiting, None, Some(new)));
        }
        for (old, new) in &diff.changed {
            planned.push(plan_of(&new.name, waiting(&old.name), Some(old), Some(new)));
        }
        for old in &diff.removed {
            planned.push(plan_of(&old.name, waiting(&old.name), Some(old), None));
        }
        planned.sort_by(|one, other| one.name.cmp(&other.name));
        planned
    }
}

fn plan_of(
    name: &str,
    waiting: u64,
    old: Option<&Connection>,
    new: Option<&Connection>,
) -> Planned {
    let change = match (old, new) {
        (None, _) => "added",
        (Some(_), Some(_)) => "changed",
        (Some(_), None) => "removed",
    };
    Planned {
        name: name.to_owned(),
        change: change.to_owned(),
        settings: match (old, new) {
            (Some(old), Some(new)) => settings(old, new),
            _ => Vec::new(),
        },
        waiting,
        effect: effect(waiting, old, new),
    }
}

/// What becomes of the deliveries that wait.
fn effect(waiting: u64, old: Option<&Connection>, new: Option<&Connection>) -> String {
    let (noun, verb) = if waiting == 1 { ("delivery", "is") } else { ("deliveries", "are") };
    match (old, new) {
        (_, Some(_)) if waiting == 0 => "nothing waits".to_owned(),
        (_, None) if waiting == 0 => "nothing waits; dead letters stay under the name".to_owned(),
        (Some(old), None) if old.on_remove == OnRemove::Discard => {
            format!("{waiting} {noun} {verb} cancelled (on_remove = \"discard\")")
        }
        (_, None) => format!("{waiting} {noun} {verb} held until the name comes back"),
        (_, Some(new)) if new.state != State::Active => {
            format!("{waiting} {noun} {verb} held: the connection is {}", new.state.as_str())
        }
        (None, Some(_)) => {
            format!("{waiting} {noun} that {verb} held under the name {verb} sent")
        }
        (Some(old), Some(new)) => {
            let go_on = if old.state == State::Active { "stay queued" } else { "are sent" };
            let elsewhere = if old.target.url == new.target.url {
                "the next attempts use the new settings".to_owned()
            } else {
                format!("the next attempts go to {}", new.target.url)
            };
            format!("{waiting} {noun} {go_on}; {elsewhere}")
                .replace("delivery stay ", "delivery stays ")
                .replace("delivery are ", "delivery is ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::testing::connection;

    #[test]
    fn effects_say_what_becomes_of_what_waits() {
        let old = connection("crm", "http://a.example/");
        let mut moved = connection("crm", "http://b.example/");
        let check =
            |waiting, old: Option<&Connection>, new: Option<&Connection>, expected: &str| {
                assert_eq!(effect(waiting, old, new), expected);
            };
        check(0, Some(&old), Some(&moved), "nothing waits");
        check(
            2,
            Some(&old),
            Some(&moved),
            "2 deliveries stay queued; the next attempts go to http://b.example/",
        );
        check(
            1,
            Some(&old),
            Some(&old),
            "1 delivery stays queued; the next attempts use the new settings",
        );
        check(1, None, Some(&old), "1 delivery that is held under the name is sent");
        check(3, Some(&old), None, "3 deliveries are held until the name comes back");
        check(0, Some(&old), None, "nothing waits; dead letters stay under the name");
        moved.state = State::Paused;
        check(2, Some(&old), Some(&moved), "2 deliveries are held: the connection is paused");
        check(
            1,
            Some(&moved),
            Some(&old),
            "1 delivery is sent; the next attempts go to http://a.example/",
        );
        moved.on_remove = OnRemove::Discard;
        check(2, Some(&moved), None, "2 deliveries are cancelled (on_remove = \"discard\")");
    }
}
