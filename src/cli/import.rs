//! `posthaste import`: connections from an export of posthaste, or from what another system exports. Files are written here,
//! all or none; a daemon that runs is then asked to read them, and when it refuses they are put back.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::admin::{Admin, Which};
use super::output::{self, Table};
use super::{Failure, TEMPLATE, block_on, settings};
use crate::admin::api::Reloaded;
use crate::config::transfer::archive::unpack;
use crate::config::transfer::unpacked::{Lacking, Unpacked, unpacked};
use crate::config::transfer::{Extra, OnConflict, Package, Piece, Planned, SECRET_MODE, Step};
use crate::config::{self, LoadOptions, Loaded, ReloadMode, RootFile, Secrets};
use crate::import::{self, MissingSecret, Options, Outcome, Row, System};

/// The largest file that is read.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Where secrets are put, beside the daemon's file.
const SECRETS_DIR: &str = "secrets";

/// Import connections: an export of posthaste, or what another system exports
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste import 2025-11-13-connection-crm-export.zip
  posthaste import --from hookdeck connections.json --dry-run
  posthaste import --from apinizer export.json --on-conflict rename
  posthaste import --from endpoints endpoints.json --json | jq '.report[] | select(.outcome != \"carried\")'

All or nothing: when something is wrong, no file is changed. docs/migration.md says what becomes of each field.

")]
pub(super) struct Arguments {
    /// The file; - is stdin
    file: PathBuf,
    /// The system that it comes from, if that is not posthaste
    #[arg(long, value_name = "SYSTEM")]
    from: Option<From>,
    /// What becomes of a name that is taken
    #[arg(long, value_name = "WHAT", default_value = "fail")]
    on_conflict: Conflict,
    /// What becomes of settings whose secret is neither in the file nor there, and of exported connections that lack
    /// secrets, certificates or sources
    #[arg(long, value_name = "WHAT", default_value = "fail")]
    missing: Missing,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Leave a daemon that runs as it is, until a reload
    #[arg(long)]
    no_reload: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The daemon's configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum From {
    /// Apinizer's webhook connections
    Apinizer,
    /// Hookdeck's connections
    Hookdeck,
    /// The endpoints API (ep_…)
    Endpoints,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Conflict {
    /// Nothing is imported
    Fail,
    /// The new one takes its place
    Overwrite,
    /// The new one gets another name
    Rename,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Missing {
    /// Nothing is imported
    Fail,
    /// What needs it is left out
    Skip,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'r> {
    dry_run: bool,
    connections: &'r [String],
    steps: Vec<Done<'r>>,
    missing: &'r [MissingSecret],
    lacking: &'r [Lacking],
    supply: &'r [Lacking],
    report: &'r [Row],
    reloaded: bool,
}

/// What a file becomes, before it is put anywhere.
#[derive(Default)]
struct Found {
    package: Package,
    missing: Vec<MissingSecret>,
    lacking: Vec<Lacking>,
    supply: Vec<Lacking>,
    report: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Done<'r> {
    what: &'r str,
    action: &'r str,
    file: String,
    note: &'r str,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let content = read(&arguments.file)?;
    let site = Site::find(arguments.config.as_deref())?;
    let found = match arguments.from {
        Some(from) => converted(from, &arguments, &content, &site)?,
        None => unpacked_here(&arguments, &content, &site)?,
    };
    let conflict = match arguments.on_conflict {
        Conflict::Fail => OnConflict::Fail,
        Conflict::Overwrite => OnConflict::Overwrite,
        Conflict::Rename => OnConflict::Rename,
    };
    let planned = site.plan(&found.package, conflict)?;
    let mut reloaded = false;
    if !arguments.dry_run && !planned.is_nothing() {
        planned.write().map_err(|error| anyhow!(error))?;
        if !arguments.no_reload {
            reloaded = site.reload(arguments.config.as_deref(), &planned)?;
        }
    }
    if arguments.json {
        let steps = planned.steps.iter().map(Done::of).collect();
        let (dry_run, connections) = (arguments.dry_run, planned.names.as_slice());
        let Found { missing, lacking, supply, report, .. } = &found;
        return output::json(&Report {
            dry_run,
            connections,
            steps,
            missing,
            lacking,
            supply,
            report,
            reloaded,
        });
    }
    let report = &found.report;
    if arguments.from.is_some() {
        output::write(table(report).as_bytes())?;
    }
    for secret in &found.missing {
        output::say(&format!("left out for want of {}: {}", secret.name, secret.purpose));
    }
    for lack in &found.lacking {
        output::say(&format!("{} is left out: it needs {}", lack.connection, lack.what));
    }
    for secret in &found.supply {
        output::say(&format!("{} {} needs {}", secret.connection, secret.key, secret.what));
    }
    for step in &planned.steps {
        output::say(&said(step));
    }
    let done = if arguments.dry_run { "would be imported" } else { "imported" };
    let count = output::plural(planned.names.len() as u64, "connection");
    let counted = if arguments.from.is_some() { counted(report) } else { String::new() };
    output::say(&format!("{count} {done}{counted}"));
    if !arguments.dry_run && !reloaded && !planned.is_nothing() {
        output::say("no daemon has read them yet: `posthaste check`, then `posthaste reload`");
    }
    Ok(())
}

impl<'s> Done<'s> {
    fn of(step: &'s Step) -> Done<'s> {
        let file = step.file.display().to_string();
        Done { what: &step.what, action: step.action, file, note: &step.note }
    }
}

fn said(step: &Step) -> String {
    let note = if step.note.is_empty() { String::new() } else { format!(" ({})", step.note) };
    let text = format!("{}: {} in {}{note}", step.action, step.what, step.file.display());
    crate::logging::escape(&text)
}

fn table(report: &[Row]) -> String {
    let mut table = Table::new(&["OBJECT", "FIELD", "OUTCOME", "HERE", "NOTE"]);
    for row in report {
        let outcome = row.outcome.as_str().to_owned();
        let Row { object, field, here, note, .. } = row.clone();
        table.row([object, field, outcome, here, note]);
    }
    table.render()
}

/// How many rows of each outcome.
fn counted(report: &[Row]) -> String {
    let of = |outcome| report.iter().filter(|row| row.outcome == outcome).count();
    let [carried, changed, left] =
        [Outcome::Carried, Outcome::Changed, Outcome::NotCarried].map(of);
    format!("; fields: {carried} carried, {changed} changed, {left} not carried")
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut content = Vec::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().lock().take(FILE_BYTES_MAX + 1).read_to_end(&mut content)
    } else {
        let file = std::fs::File::open(path);
        file.and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content))
    };
    read.with_context(|| format!("cannot read {}", path.display()))?;
    if content.len() as u64 > FILE_BYTES_MAX {
        return Err(anyhow!("{} is larger than 16MiB", path.display()).into());
    }
    Ok(content)
}

/// What another system's JSON becomes.
fn converted(
    from: From,
    arguments: &Arguments,
    content: &[u8],
    site: &Site,
) -> Result<Found, Failure> {
    let system = match from {
        From::Apinizer => System::Apinizer,
        From::Hookdeck => System::Hookdeck,
        From::Endpoints => System::Endpoints,
    };
    let shown = arguments.file.display();
    let document = serde_json::from_slice(content)
        .with_context(|| format!("{shown} is no JSON, as {} exports it", system.as_str()))?;
    let directory = site.secrets();
    let options = Options {
        secrets: site.secrets_of_connections(),
        secrets_of_root: SECRETS_DIR.to_owned(),
        have: names_in(&directory),
        skip_missing: arguments.missing == Missing::Skip,
    };
    let done = import::convert(system, document, options)
        .map_err(|message| anyhow!("{shown}: {message}"))?;
    let wanted: Vec<&MissingSecret> = done.missing.iter().filter(|one| !one.left_out).collect();
    if !wanted.is_empty() {
        let mut names = BTreeSet::new();
        let list = wanted.iter().filter(|one| names.insert(&one.name));
        let list =
            list.map(|one| format!("\n  {}: {}", directory.join(&one.name).display(), one.purpose));
        return Err(anyhow!(
            "secrets are not in {shown}; write each into its file (mode 0600), or leave out what needs them with --missing skip:{}",
            list.collect::<String>()
        )
        .into());
    }
    let mut files = Vec::new();
    for secret in &done.secrets {
        let content = String::from_utf8_lossy(secret.value.expose()).into_owned();
        files.push(Extra { path: directory.join(&secret.name), content, mode: SECRET_MODE });
    }
    let piece =
        |piece: &import::Piece| Piece { name: piece.name.clone(), text: piece.text.clone() };
    let package = Package {
        connections: done.connections.iter().map(piece).collect(),
        sources: done.sources.iter().map(piece).collect(),
        files,
    };
    Ok(Found { package, missing: done.missing, report: done.report, ..Found::default() })
}

/// What an export of posthaste is here.
fn unpacked_here(arguments: &Arguments, content: &[u8], site: &Site) -> Result<Found, Failure> {
    let shown = arguments.file.display();
    if matches!(content.trim_ascii_start().first(), Some(b'{' | b'[')) {
        let systems = "apinizer, hookdeck or endpoints";
        return Err(anyhow!("{shown} is JSON: say whose, with --from {systems}").into());
    }
    let archive = unpack(content).map_err(|message| anyhow!("{shown}: {message}"))?;
    let watched = &site.loaded.watched;
    let skip = arguments.missing == Missing::Skip;
    let done = unpacked(&archive, &watched.root, &watched.connections, skip)
        .map_err(|message| anyhow!("{shown}: {message}"))?;
    if !done.lacking.is_empty() && !skip {
        let list = done
            .lacking
            .iter()
            .map(|one| format!("\n  {} {}: {}", one.connection, one.key, one.what));
        return Err(anyhow!(
            "what connections of {shown} need is not here; supply it, or leave them out with --missing skip:{}",
            list.collect::<String>()
        )
        .into());
    }
    let Unpacked { package, lacking, supply } = done;
    Ok(Found { package, lacking, supply, ..Found::default() })
}

fn names_in(directory: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// The configuration that is added to.
struct Site {
    root: RootFile,
    options: LoadOptions,
    loaded: Loaded,
}

impl Site {
    fn find(config_file: Option<&Path>) -> Result<Site, Failure> {
        let (root, mut options) = settings::lookup(config_file);
        // Secrets of others may be the daemon's alone.
        options.secrets = Secrets::Skip;
        match config::load(&root.path, &options) {
            Ok(loaded) => Ok(Site { root, options, loaded }),
            Err(refused) => {
                output::say(refused.render().trim_end());
                let shown = root.path.display();
                Err(Failure::Config(anyhow!("{refused} before the import (read from {shown})")))
            }
        }
    }

    fn home(&self) -> &Path {
        self.loaded.watched.root.parent().unwrap_or(Path::new("/"))
    }

    fn secrets(&self) -> PathBuf {
        self.home().join(SECRETS_DIR)
    }

    /// The directory of secrets as a connection file names it: paths there count from the file.
    fn secrets_of_connections(&self) -> String {
        let connections = &self.loaded.watched.connections;
        if connections.parent() == Some(self.home()) {
            return format!("../{SECRETS_DIR}");
        }
        self.secrets().display().to_string()
    }

    /// Files in memory, of which the configuration is legal.
    fn plan(&self, package: &Package, conflict: OnConflict) -> Result<Planned, Failure> {
        let watched = &self.loaded.watched;
        let planned =
            config::transfer::plan(&watched.root, &watched.connections, package, conflict);
        let planned = planned.map_err(|error| anyhow!(error))?;
        match config::load_with(&self.root.path, &self.options, planned.pending()) {
            Ok(_) => Ok(planned),
            Err(refused) => {
                output::say(refused.render().trim_end());
                let message = "what would be imported is not legal; nothing was changed";
                Err(Failure::Config(anyhow!("{message}: {refused}")))
            }
        }
    }

    /// Asks the daemon, if there is one, to read the files. When it refuses, they are put back.
    fn reload(&self, config: Option<&Path>, planned: &Planned) -> Result<bool, Failure> {
        let socket = settings::locate(config).admin_socket;
        if self.loaded.config.daemon.reload == ReloadMode::Manual
            || UnixStream::connect(&socket).is_err()
        {
            return Ok(false);
        }
        let admin = Admin::new(Which::socket(socket));
        match block_on(admin.post::<Reloaded>("/v1/reload")) {
            Ok(_) => Ok(true),
            Err(failure) => {
                planned.undo();
                output::say("the daemon refused it; every file is as it was");
                Err(failure)
            }
        }
    }
}
