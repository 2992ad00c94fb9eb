//! Names and certificates: whether the targets' names have addresses, whether the name servers answer, and whom TLS trusts.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, timeout, timeout_at};

use super::{Check, in_time};
use crate::client::{self, Ask, NotFound};
use crate::config::Config;
use crate::connection::State;

/// How long one name, and all of them, may take.
const NAME_MAX: Duration = Duration::from_secs(6);
const ALL_MAX: Duration = Duration::from_secs(15);
/// Names that are asked for at one time, and those that are named in one line.
const AT_ONCE: usize = 16;
const NAMED_MAX: usize = 5;

/// The names that the daemon looks up for the connections that deliver.
pub(super) fn hosts(config: &Config) -> BTreeSet<String> {
    let active = config.connections.iter().filter(|one| one.state == State::Active);
    let dialled = active.map(|connection| {
        let target = &connection.target.host;
        let proxy = connection.proxy.as_ref().filter(|proxy| !proxy.bypasses_host(target));
        proxy.map_or(target, |proxy| &proxy.host)
    });
    dialled.filter(|host| host.parse::<IpAddr>().is_err()).cloned().collect()
}

pub(super) async fn look_up(config: &Config, hosts: BTreeSet<String>) -> Vec<Check> {
    let servers = &config.daemon.network.resolvers;
    let local = LocalSet::new();
    local
        .run_until(async {
            let mut checks = Vec::new();
            if !hosts.is_empty() || !servers.is_empty() {
                checks.push(resolvers(servers, hosts.first()).await);
            }
            checks.push(all(client::ask(servers.clone()), hosts).await);
            checks
        })
        .await
}

/// Whether each server answers at all. It is asked for a name that no file of this host has.
async fn resolvers(servers: &[SocketAddr], host: Option<&String>) -> Check {
    let below = host.map_or("example.com", String::as_str);
    let name = format!("posthaste-doctor.{below}");
    let mut asked: Vec<(String, Vec<SocketAddr>)> =
        servers.iter().map(|server| (server.to_string(), vec![*server])).collect();
    if asked.is_empty() {
        asked.push(("the system's (/etc/resolv.conf)".to_owned(), Vec::new()));
    }
    let mut silent = Vec::new();
    let total = asked.len();
    for (shown, servers) in asked {
        match timeout(NAME_MAX, client::ask(servers)(&name)).await {
            Ok(Ok(_) | Err(NotFound::Nothing(_))) => {}
            Ok(Err(NotFound::Failed(detail))) => silent.push(format!("{shown}: {detail}")),
            Err(_) => silent.push(format!("{shown}: no answer within {} s", NAME_MAX.as_secs())),
        }
    }
    let detail = format!("{} of {total} answer", total - silent.len());
    if silent.is_empty() {
        return Check::ok("resolvers", detail);
    }
    let detail = format!("{detail}; {}", silent.join("; "));
    let advice = "mend /etc/resolv.conf or [network] resolvers; the last answers serve meanwhile";
    match silent.len() == total {
        true => Check::failed("resolvers", detail, advice),
        false => Check::warning("resolvers", detail, advice),
    }
}

async fn all(ask: Ask, hosts: BTreeSet<String>) -> Check {
    let end = Instant::now() + ALL_MAX;
    let total = hosts.len();
    let mut waiting = hosts.into_iter();
    let mut lookups = JoinSet::new();
    let (mut found, mut missing) = (0_usize, Vec::new());
    loop {
        while lookups.len() < AT_ONCE
            && let Some(host) = waiting.next()
        {
            let lookup = ask(&host);
            lookups.spawn_local(async move { (host, timeout(NAME_MAX, lookup).await) });
        }
        match timeout_at(end, lookups.join_next()).await {
            Ok(Some(Ok((_, Ok(Ok(_)))))) => found += 1,
            Ok(Some(Ok((host, Ok(Err(NotFound::Nothing(detail) | NotFound::Failed(detail))))))) => {
                missing.push(format!("{host}: {detail}"));
            }
            Ok(Some(Ok((host, Err(_))))) => missing.push(format!("{host}: no answer")),
            Ok(Some(Err(_))) => {}
            Ok(None) | Err(_) => break,
        }
    }
    missing.sort();
    judge_names(total, found, &missing)
}

fn judge_names(total: usize, found: usize, missing: &[String]) -> Check {
    const NAME: &str = "dns";
    let mut detail = match total {
        0 => "no name to look up".to_owned(),
        _ => format!("{found} of {total} names of targets have addresses"),
    };
    let late = total.saturating_sub(found + missing.len());
    if late > 0 {
        detail += &format!("; {late} not asked in {} s", ALL_MAX.as_secs());
    }
    if !missing.is_empty() {
        let shown: Vec<_> = missing.iter().take(NAMED_MAX).cloned().collect();
        detail = format!("{detail}; {}", shown.join("; "));
        return Check::failed(NAME, detail, "mend the url, or the name; deliveries there wait");
    }
    match late {
        0 => Check::ok(NAME, detail),
        _ => Check::warning(NAME, detail, "the name servers are slow"),
    }
}

/// The certificates that `https` targets are verified with. `needed`: there are such targets.
pub(super) fn roots(needed: bool) -> Check {
    const NAME: &str = "tls roots";
    let from = ["SSL_CERT_FILE", "SSL_CERT_DIR"]
        .into_iter()
        .find_map(|name| Some(format!("{name}={}", std::env::var(name).ok()?)));
    let from = from.unwrap_or_else(|| "the system's".to_owned());
    let Some((count, error)) = in_time(client::count_system_roots) else {
        let advice = "the disk hangs: see `dmesg` and the mount";
        return Check::failed(NAME, format!("{from}: not read in time"), advice);
    };
    judge_roots(count, error.as_deref(), &from, needed)
}

fn judge_roots(count: usize, error: Option<&str>, from: &str, needed: bool) -> Check {
    const NAME: &str = "tls roots";
    let because = error.map(|error| format!("; {error}")).unwrap_or_default();
    let detail = format!("{count} certificates, {from}{because}");
    let advice = "install ca-certificates, or let SSL_CERT_FILE name a file that is there; tls.ca_file for a private CA";
    match (count, error) {
        (0, _) if needed => Check::failed(NAME, detail, advice),
        (0, _) | (_, Some(_)) => Check::warning(NAME, detail, advice),
        _ => Check::ok(NAME, detail),
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::cli::doctor::Verdict::{Failed, Ok as Well, Warning};
    use crate::client::Found;

    /// Names that begin with `good` are known, others are not; `slow` ones never are answered.
    fn answers() -> Ask {
        Rc::new(|name| {
            let name = name.to_owned();
            Box::pin(async move {
                if name.starts_with("slow") {
                    std::future::pending::<()>().await;
                }
                match name.starts_with("good") {
                    true => Ok(Found { addresses: vec![], ttl: Duration::ZERO }),
                    false => Err(NotFound::Nothing("no such name".to_owned())),
                }
            })
        })
    }

    async fn looked_up(hosts: Vec<String>) -> Check {
        LocalSet::new().run_until(all(answers(), hosts.into_iter().collect())).await
    }

    #[tokio::test(start_paused = true)]
    async fn every_name_is_asked_for_and_those_without_an_address_are_named() {
        let good = (0..100).map(|number| format!("good{number}"));
        assert_eq!(looked_up(good.clone().collect()).await.verdict, Well);
        let found = looked_up(good.chain(["bad".to_owned(), "slow".to_owned()]).collect()).await;
        assert_eq!(found.verdict, Failed);
        assert!(found.detail.starts_with("100 of 102"), "{found:?}");
        assert!(found.detail.contains("bad: no such name; slow: no answer"), "{found:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn names_that_nobody_answers_take_a_bounded_time() {
        let begun = Instant::now();
        let found = looked_up((0..100).map(|number| format!("slow{number:03}")).collect()).await;
        assert!(begun.elapsed() <= ALL_MAX, "{:?}", begun.elapsed());
        assert_eq!(found.verdict, Failed);
        assert!(found.detail.contains("not asked in 15 s"), "{found:?}");
    }

    #[test]
    fn without_roots_no_https_target_can_be_verified() {
        assert_eq!(judge_roots(100, None, "x", true).verdict, Well);
        assert_eq!(judge_roots(0, Some("no such file"), "x", true).verdict, Failed);
        assert_eq!(judge_roots(0, None, "x", false).verdict, Warning);
        assert_eq!(judge_roots(3, Some("one is broken"), "x", true).verdict, Warning);
    }
}
