//! The configuration: `posthaste.toml` and a directory of connection files, read into plain values.
//!
//! It promises: every error of every file in one run, each with file, line and column of the place where the value was
//! written, in whichever layer; a value that comes out is legal; no message holds a secret. It has no state: [`load`] reads
//! files and returns values, [`diff`] compares two of them, [`watch`] says when to look again. Who swaps the running
//! configuration is the daemon.
//!
//! The way of a value: [`fields`] says what may be written, `read` walks one file along it, `layers` merges built-in
//! defaults, `[defaults]`, connection and overlay, `build` makes [`Connection`] and [`Daemon`] and checks the rules that
//! span several keys.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::connection::Connection;
use crate::connection::egress::EgressPolicy;
use crate::source::Source;

mod alert;
mod build;
pub mod diff;
pub mod edit;
mod error;
pub mod fields;
mod files;
mod layers;
mod places;
mod read;
pub mod schema;
mod source;
pub mod summary;
#[cfg(test)]
mod tests;
pub mod transfer;
mod tree;
mod value;
mod variables;
pub mod watch;

pub use alert::{Alert, On, Which};
pub use error::{ConfigError, ConfigWarning, Position, Snippet};
pub use files::{ContentHash, FILE_BYTES_MAX, FILES_MAX, Pending, Watched};
pub use places::{FILE_NAME, Places, RootFile};

/// Everything, resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The daemon's own settings.
    pub daemon: Daemon,
    /// In the order of their files.
    pub connections: Vec<Arc<Connection>>,
}

/// The daemon's own settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Daemon {
    /// Which overlays apply.
    pub environment: Option<String>,
    /// Whether files are watched.
    pub reload: ReloadMode,
    /// How long attempts may go on after SIGTERM.
    pub drain_timeout: Duration,
    /// Where events come in.
    pub ingress: Ingress,
    /// Where operators look and act.
    pub admin: Admin,
    /// Where events are kept.
    pub store: Store,
    /// What the daemon takes at most.
    pub limits: Limits,
    /// What connections may do.
    pub security: Security,
    /// How names of targets are looked up.
    pub network: Network,
    /// What goes to standard error.
    pub log: Log,
    /// Threads.
    pub runtime: Runtime,
    /// The sources that have a table of their own, in the file's order.
    pub sources: Vec<Source>,
    /// What is told to connections as events, in the file's order.
    pub alerts: Vec<Alert>,
}

/// When the files are read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadMode {
    /// When they change, and on request.
    Auto,
    /// On request alone.
    Manual,
}

/// `[ingress]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingress {
    /// TCP addresses to listen on.
    pub http: Vec<SocketAddr>,
    /// A Unix socket to listen on.
    pub unix: Option<UnixListener>,
    /// Open connections of producers at most, over all listeners.
    pub max_connections: usize,
    /// From a request's first byte to the end of its head.
    pub header_timeout: Duration,
    /// From the end of the head to the end of the body.
    pub body_timeout: Duration,
    /// An idle connection is closed after this.
    pub idle_timeout: Duration,
    /// Host names allowed on loopback listeners besides `localhost` and loopback addresses.
    pub hosts: Vec<String>,
}

/// `[ingress] unix`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixListener {
    /// Where the socket is made; absolute.
    pub path: PathBuf,
    /// Its permission bits.
    pub mode: u32,
    /// Users that may post; empty means all that can open the socket.
    pub allow_uids: Vec<u32>,
}

/// `[admin]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// For metrics and health, and for whoever has a token.
    pub http: Option<SocketAddr>,
    /// For the command line.
    pub unix: Option<PathBuf>,
    /// Who may use the API over `http`.
    pub tokens: Vec<Token>,
}

/// `[[admin.tokens]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Who it is; unique.
    pub name: String,
    /// What it may do.
    pub scope: Scope,
    /// What it shows; at least [`TOKEN_BYTES_MIN`].
    pub token: crate::secret::Secret,
}

/// A token that is shorter could be guessed.
pub const TOKEN_BYTES_MIN: usize = 16;

/// What a token may do. Each may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Look.
    Read,
    /// Pause, disable, reload, replay.
    Operate,
    /// Change connections.
    Admin,
}

/// `[store]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// The directory; absolute.
    pub path: PathBuf,
    /// What its files take at most.
    pub max_bytes: u64,
    /// Size of one file of the log.
    pub segment_bytes: u64,
    /// What is kept of what is over.
    pub keep: Keep,
    /// How long idempotency keys are remembered.
    pub idempotency: Idempotency,
}

/// `[store] keep_...`: what is kept of what is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Events that went everywhere.
    pub delivered: KeepLimit,
    /// Dead letters.
    pub dead: KeepLimit,
    /// Failed attempts, on disk.
    pub attempts: KeepLimit,
}

/// How long and how much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepLimit {
    /// For so long,
    pub age: Duration,
    /// and at most so many bytes.
    pub bytes: u64,
}

/// `[store.idempotency]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// For so long,
    pub window: Duration,
    /// or until there are so many newer ones.
    pub max_keys: usize,
}

/// `[limits]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of payloads in memory.
    pub memory: u64,
    /// The largest body of any connection.
    pub max_body: u64,
}

/// `[security]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Security {
    /// What connections may dial.
    pub egress: EgressPolicy,
    /// Whether a connection may leave its peer's certificate unverified.
    pub allow_insecure_tls: bool,
}

/// `[network]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// DNS servers; none: the system's.
    pub resolvers: Vec<SocketAddr>,
}

/// `[log]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// How much is said.
    pub level: LogLevel,
    /// How it is written.
    pub format: LogFormat,
}

/// How much is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// What somebody must act on.
    Error,
    /// And what was recovered.
    Warn,
    /// And what operators did.
    Info,
    /// And each event.
    Debug,
    /// And everything else.
    Trace,
}

impl LogLevel {
    /// The word in files and for `tracing`.
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    Auto,
    /// Text for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[runtime]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Runtime {
    /// Runtimes that serve producers, one thread each.
    pub ingress_threads: usize,
    /// Runtimes that deliver, one thread each.
    pub egress_threads: usize,
}

/// What [`load`] depends on besides files.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// The environment, for secrets and for `POSTHASTE_ENV`.
    pub env: crate::secret::Env,
    /// Default paths.
    pub places: Places,
    /// Whether the daemon's own file must exist.
    pub root_required: bool,
    /// What to do with secrets.
    pub secrets: Secrets,
    /// Cores of the machine, for the default of the thread counts.
    pub cores: usize,
    /// What time it is: secrets may end.
    pub clock: crate::clock::Clock,
}

/// What to do with references to secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrets {
    /// Read them.
    Resolve,
    /// Check the references alone, as `posthaste check` does on a machine that does not have them. The result must not run.
    Skip,
}

impl LoadOptions {
    /// Those of this process, for a file that [`Places::root_file`] found.
    pub fn of_process(root: &RootFile) -> LoadOptions {
        let cores = std::thread::available_parallelism();
        LoadOptions {
            env: crate::secret::Env::Process,
            places: Places::of_process(),
            root_required: root.named,
            secrets: Secrets::Resolve,
            cores: cores.map_or(1, std::num::NonZero::get),
            clock: crate::clock::Clock::system(),
        }
    }
}

/// A configuration that may run.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// What is legal and probably not meant.
    pub warnings: Vec<ConfigWarning>,
    /// The hash over all files it was made of.
    pub content_hash: ContentHash,
    /// What to watch for changes.
    pub watched: Watched,
    /// The file of each connection, by name.
    pub origins: BTreeMap<String, PathBuf>,
}

/// A configuration that may not run.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the configuration has {}", count(.errors.len(), "error"))]
pub struct Refused {
    /// Everything that is wrong, by file and line; at least one.
    pub errors: Vec<ConfigError>,
    /// What is legal and probably not meant.
    pub warnings: Vec<ConfigWarning>,
    /// The hash over all files that were looked at.
    pub content_hash: ContentHash,
    /// What to watch: whoever mends the files wants them to be read again.
    pub watched: Watched,
}

impl Refused {
    /// All errors with their lines and carets, then a count.
    pub fn render(&self) -> String {
        let errors = self.errors.iter().map(|error| error.render("error") + "\n");
        let total = count(self.errors.len(), "error");
        errors.collect::<String>() + &total + "\n"
    }
}

/// `1 error`, `2 errors`
fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// Reads the daemon's file and all connection files.
///
/// # Errors
/// Everything that is wrong in any of the files.
pub fn load(root_file: &Path, options: &LoadOptions) -> Result<Loaded, Box<Refused>> {
    load_files(root_file, options, files::Files::default())
}

/// The same as if these files were written already: what an edit would lead to.
///
/// # Errors
/// As [`load`].
pub fn load_with(
    root_file: &Path,
    options: &LoadOptions,
    pending: Vec<Pending>,
) -> Result<Loaded, Box<Refused>> {
    load_files(root_file, options, files::Files::with(pending))
}

fn load_files(
    root_file: &Path,
    options: &LoadOptions,
    mut files: files::Files,
) -> Result<Loaded, Box<Refused>> {
    // Only an unreadable working directory keeps a path relative; then the file is not found either.
    let root_file = std::path::absolute(root_file).unwrap_or_else(|_| root_file.to_owned());
    let mut report = Report::default();
    let drafts = layers::read_all(&root_file, options, &mut files, &mut report);
    let mut watched = Watched {
        root: root_file,
        connections: drafts.connections_dir.clone(),
        files: std::collections::BTreeSet::new(),
    };
    let origins = drafts.origins();
    let config = build::Build {
        options,
        files: &mut files,
        report: &mut report,
        watched: &mut watched.files,
    }
    .config(drafts);
    let content_hash = files.hash();
    let Report { mut errors, mut warnings } = report;
    for list in [&mut errors, &mut warnings] {
        list.sort_by(|a, b| (&a.file, a.position).cmp(&(&b.file, b.position)));
    }
    // What a string means without its variable is no second mistake.
    errors.dedup_by(|later, first| {
        let same_place = (&later.file, later.position) == (&first.file, first.position);
        same_place && first.message.starts_with(variables::MISSING)
    });
    if !errors.is_empty() {
        return Err(Box::new(Refused { errors, warnings, content_hash, watched }));
    }
    Ok(Loaded { config, warnings, content_hash, watched, origins })
}

/// What was found wrong so far.
#[derive(Debug, Default)]
struct Report {
    errors: Vec<ConfigError>,
    warnings: Vec<ConfigWarning>,
}

impl Report {
    fn error(
        &mut self,
        place: &source::Place,
        reveal: &source::Reveal,
        path: &str,
        message: String,
    ) {
        self.errors.push(place.error(reveal, path, message));
    }

    fn warn(
        &mut self,
        place: &source::Place,
        reveal: &source::Reveal,
        path: &str,
        message: String,
    ) {
        self.warnings.push(place.error(reveal, path, message));
    }
}
