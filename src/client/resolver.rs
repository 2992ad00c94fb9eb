//! Asks DNS servers: those of `[network] resolvers`, or of the system, whose files are read again when they have changed.
//! `/etc/hosts` comes first in either case, and `localhost` is always this machine.
//!
//! Nothing here blocks a thread but the reading of those two small files.

use std::cell::RefCell;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::rc::Rc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::RecordType;
use tokio::time::{Instant, timeout};

use super::dns::{Ask, Found, NEGATIVE, NotFound};

/// The system's files.
const RESOLV_CONF: &str = "/etc/resolv.conf";
const HOSTS: &str = "/etc/hosts";
/// The files are looked at this often at most.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long one family's addresses wait for the other's (RFC 8305, 3).
const OTHER_FAMILY: Duration = Duration::from_millis(50);
/// Of one query to a server that is named in the configuration.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);

/// What tells whether a file is another one: inode, size, time of change.
type Mark = [Option<(u64, u64, i64, i64)>; 2];

struct Resolver {
    servers: Vec<SocketAddr>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    resolver: Option<TokioResolver>,
    mark: Mark,
    looked_at: Option<Instant>,
}

/// What looks names up with these servers; with none, with the system's.
pub fn ask(servers: Vec<SocketAddr>) -> Ask {
    let resolver = Rc::new(Resolver { servers, state: RefCell::default() });
    Rc::new(move |name| {
        let current = resolver.current();
        let name = name.to_owned();
        Box::pin(async move { both_families(&current?, &name).await })
    })
}

impl Resolver {
    /// The resolver of the files as they are now.
    fn current(&self) -> Result<TokioResolver, NotFound> {
        let mut state = self.state.borrow_mut();
        let now = Instant::now();
        let known = state.looked_at.is_some_and(|at| now < at + LOOK_EVERY);
        if let Some(resolver) = state.resolver.as_ref().filter(|_| known) {
            return Ok(resolver.clone());
        }
        let mark = [RESOLV_CONF, HOSTS].map(mark);
        state.looked_at = Some(now);
        if let Some(resolver) = state.resolver.as_ref().filter(|_| state.mark == mark) {
            return Ok(resolver.clone());
        }
        let made = self.make();
        let made = made.map_err(|error| NotFound::Failed(format!("no resolver: {error}")))?;
        state.mark = mark;
        state.resolver = Some(made.clone());
        Ok(made)
    }

    fn make(&self) -> Result<TokioResolver, NetError> {
        let mut builder = match self.servers.is_empty() {
            true => TokioResolver::builder_tokio()?,
            false => {
                let servers = self.servers.iter().map(|server| name_server(*server)).collect();
                let config = ResolverConfig::from_parts(None, Vec::new(), servers);
                let provider = TokioRuntimeProvider::default();
                let mut builder = TokioResolver::builder_with_config(config, provider);
                builder.options_mut().timeout = QUERY_TIMEOUT;
                builder
            }
        };
        let options: &mut ResolverOpts = builder.options_mut();
        options.use_hosts_file = ResolveHosts::Always;
        // The memory is ours.
        options.cache_size = 0;
        builder.build()
    }
}

fn name_server(server: SocketAddr) -> NameServerConfig {
    let with_port = |mut connection: ConnectionConfig| {
        connection.port = server.port();
        connection
    };
    let connections = vec![with_port(ConnectionConfig::udp()), with_port(ConnectionConfig::tcp())];
    NameServerConfig::new(server.ip(), true, connections)
}

fn mark(path: &str) -> Option<(u64, u64, i64, i64)> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
}

/// Asks for both families at once. Where one has answered, the other gets a moment more.
async fn both_families(resolver: &TokioResolver, name: &str) -> Result<Found, NotFound> {
    let mut six = std::pin::pin!(resolver.lookup(name, RecordType::AAAA));
    let mut four = std::pin::pin!(resolver.lookup(name, RecordType::A));
    let (six, four) = tokio::select! {
        biased;
        six = &mut six => {
            let four = other(usable(&six), &mut four).await;
            (Some(six), four)
        }
        four = &mut four => {
            let six = other(usable(&four), &mut six).await;
            (six, Some(four))
        }
    };
    together(name, six, four)
}

fn usable(answer: &Result<Lookup, NetError>) -> bool {
    answer.as_ref().is_ok_and(|lookup| addresses(lookup).next().is_some())
}

async fn other<F: Future>(is_enough: bool, lookup: F) -> Option<F::Output> {
    match is_enough {
        true => timeout(OTHER_FAMILY, lookup).await.ok(),
        false => Some(lookup.await),
    }
}

type Answered = Option<Result<Lookup, NetError>>;

/// One answer of both; `None` is a family that did not come in time.
fn together(name: &str, six: Answered, four: Answered) -> Result<Found, NotFound> {
    let mut found = Found { addresses: Vec::new(), ttl: Duration::MAX };
    let mut failure = None;
    for answer in [six, four] {
        match answer {
            Some(Ok(lookup)) => {
                found.addresses.extend(addresses(&lookup));
                let ttl = lookup.answers().iter().map(|record| record.ttl).min();
                found.ttl = found.ttl.min(Duration::from_secs(u64::from(ttl.unwrap_or(0))));
            }
            Some(Err(NetError::Dns(DnsError::NoRecordsFound(_)))) => {}
            // Asked again soon, for the sake of the family that is missing.
            Some(Err(error)) => {
                found.ttl = found.ttl.min(NEGATIVE);
                failure = Some(error.to_string());
            }
            None => found.ttl = found.ttl.min(NEGATIVE),
        }
    }
    match (found.addresses.is_empty(), failure) {
        (false, _) => Ok(found),
        (true, Some(failure)) => Err(NotFound::Failed(format!("{name}: {failure}"))),
        (true, None) => Err(NotFound::Nothing(format!("{name} does not exist or has no address"))),
    }
}

fn addresses(lookup: &Lookup) -> impl Iterator<Item = IpAddr> {
    lookup.answers().iter().filter_map(|record| record.data.ip_addr())
}
