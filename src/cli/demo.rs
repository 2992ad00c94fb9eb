//! `posthaste demo`: a relay and a receiver in one process, on a store that is thrown away.
//!
//! The relay is the daemon that `run` starts, with a configuration written for it; nothing is mocked.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use clap::Args;
use http::Request;
use http_body_util::Full;
use serde::Deserialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::level_filters::LevelFilter;

use super::admin::refusal;
use super::http::{Endpoint, exchange};
use super::output::{self, Paint};
use super::receiver::{Behaviour, Received, Receiver};
use super::{Failure, TEMPLATE, block_on, listen, run as daemon_run};
use crate::admin::api::rfc3339;
use crate::clock::Clock;
use crate::daemon::{self, RunError};
use crate::logging;

/// Events that it posts by itself.
const EVENTS: u32 = 3;
/// How long the relay may take to start, and the events to arrive.
const PATIENCE: Duration = Duration::from_secs(10);
/// Reports of the receiver that may wait to be printed.
const REPORTS_MAX: usize = 64;

/// Try it: a relay and a receiver in one process, on a throw-away store
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste demo
  posthaste demo --once

Posts a few events, shows them arrive, and stays up to play with until Ctrl-C.

")]
pub(super) struct Arguments {
    /// Exit when the events have arrived, with 1 if they do not within 10 s
    #[arg(long)]
    once: bool,
    /// Print headers and bodies of what arrives
    #[arg(long, short)]
    verbose: bool,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let quiet = logging::Settings { level: LevelFilter::WARN, ..logging::Settings::default() };
    logging::init(quiet).map_err(|error| anyhow!("cannot log: {error}"))?;
    let place = Place::new().context("cannot make a directory for the demo")?;
    block_on(demo(&arguments, &place))
}

async fn demo(arguments: &Arguments, place: &Place) -> Result<(), Failure> {
    let receiver = Receiver::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
        .await
        .context("cannot open a port for the receiver")?;
    let target = format!("http://{}/hook", receiver.address());
    let config = place.configure(&target).context("cannot write the demo's configuration")?;
    let (sender, reports) = mpsc::channel(REPORTS_MAX);
    let stop_receiver = CancellationToken::new();
    let mut receiving = JoinSet::new();
    receiving.spawn(receiver.serve(Behaviour::default(), sender, stop_receiver.clone()));

    let relay = Relay::start(config).await?;
    output::line(&format!("relay     http://{}/v1/events", relay.ingress))?;
    output::line(&format!("receiver  {target}"))?;
    output::line(&format!("files     {} (removed at the end)\n", place.0.display()))?;
    let shown = play(arguments, place, &relay, reports).await;
    // The relay drains before the receiver goes; a demo that was interrupted still ends both.
    let stopped = relay.stop().await;
    stop_receiver.cancel();
    receiving.join_all().await;
    shown.and(stopped)
}

/// Everything between start and stop.
async fn play(
    arguments: &Arguments,
    place: &Place,
    relay: &Relay,
    mut reports: mpsc::Receiver<Received>,
) -> Result<(), Failure> {
    let mut screen =
        Screen { verbose: arguments.verbose, paint: Paint::for_stdout(), clock: Clock::system() };
    let interrupted = interrupted()?;
    let story = async {
        let posted = post_all(relay).await?;
        arrive(posted, &mut reports, &mut screen).await?;
        if arguments.once {
            return Ok(());
        }
        output::line(&invitation(relay.ingress, place))?;
        while let Some(received) = reports.recv().await {
            screen.show(&received)?;
        }
        Ok(())
    };
    // Both are cancel safe: after Ctrl-C nothing more is to be shown.
    tokio::select! {
        ended = story => ended,
        () = interrupted => Ok(()),
    }
}

/// Registers at once, ends at Ctrl-C or SIGTERM.
fn interrupted() -> anyhow::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Posts the demo's own events; returns their ids.
async fn post_all(relay: &Relay) -> Result<BTreeSet<String>, Failure> {
    #[derive(Deserialize)]
    struct Accepted {
        id: String,
    }
    let endpoint = Endpoint::Tcp(relay.ingress.to_string());
    let mut ids = BTreeSet::new();
    for number in 1..=EVENTS {
        let body = format!("{{\"order\":{number},\"total\":\"{}.00\"}}", number * 21);
        let request = Request::post("/v1/events")
            .header("content-type", "application/json")
            .header("posthaste-type", "order.created")
            .body(Full::new(Bytes::from(body)))
            .context("the request cannot be written")?;
        let begun = Instant::now();
        let answer = exchange(&endpoint, request, PATIENCE).await?;
        if !answer.status.is_success() {
            return Err(refusal(&answer));
        }
        let accepted: Accepted =
            serde_json::from_slice(&answer.body).context("the relay's answer is not understood")?;
        let ms = begun.elapsed().as_secs_f64() * 1000.0;
        output::line(&format!(
            "posted    {}  {} after {ms:.1} ms",
            accepted.id,
            answer.status.as_u16()
        ))?;
        ids.insert(accepted.id);
    }
    Ok(ids)
}

/// Shows what arrives until all of `missing` did, or patience ends.
async fn arrive(
    mut missing: BTreeSet<String>,
    reports: &mut mpsc::Receiver<Received>,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    while !missing.is_empty() {
        let received = match tokio::time::timeout_at(deadline, reports.recv()).await {
            Ok(Some(received)) => received,
            Ok(None) | Err(_) => {
                let count = output::plural(missing.len() as u64, "event");
                return Err(
                    anyhow!("{count} did not arrive within {} s", PATIENCE.as_secs()).into()
                );
            }
        };
        screen.show(&received)?;
        if let Some(id) = received.header("webhook-id") {
            missing.remove(id);
        }
    }
    Ok(())
}

fn invitation(ingress: SocketAddr, place: &Place) -> String {
    format!(
        "\nTry it:\n  curl -i http://{ingress}/v1/events -H 'content-type: application/json' -d '{{\"hello\":\"world\"}}'\n  \
         posthaste status --admin {}\nCtrl-C ends it.\n",
        place.admin_socket().display()
    )
}

/// Where arrivals are shown.
#[derive(Debug)]
struct Screen {
    verbose: bool,
    paint: Paint,
    clock: Clock,
}

impl Screen {
    fn show(&mut self, received: &Received) -> Result<(), Failure> {
        let at = rfc3339(self.clock.wall_ms());
        let text = listen::render(&at, received, self.verbose, self.paint);
        output::write(format!("arrived   {text}").as_bytes())
    }
}

/// The daemon, on a thread of its own.
struct Relay {
    ingress: SocketAddr,
    shutdown: CancellationToken,
    thread: JoinHandle<Result<(), RunError>>,
}

impl Relay {
    async fn start(config_file: PathBuf) -> Result<Relay, Failure> {
        let (ready, is_ready) = oneshot::channel();
        let shutdown = CancellationToken::new();
        let options = daemon::Options {
            config_file: Some(config_file),
            // Whoever waited may have lost patience.
            ready: Some(Box::new(move |listening| drop(ready.send(listening)))),
            shutdown: Some(shutdown.clone()),
            ..daemon::Options::default()
        };
        let thread = std::thread::Builder::new()
            .name("relay".to_owned())
            .spawn(move || daemon::run(options))
            .context("cannot start a thread")?;
        let listening = tokio::time::timeout(PATIENCE, is_ready).await;
        let ingress = match listening {
            Ok(Ok(listening)) => listening.ingress_http.first().copied(),
            Ok(Err(_)) | Err(_) => None,
        };
        match ingress {
            Some(ingress) => Ok(Relay { ingress, shutdown, thread }),
            None => {
                shutdown.cancel();
                end(thread).await?;
                Err(anyhow!("the relay did not get ready within {} s", PATIENCE.as_secs()).into())
            }
        }
    }

    async fn stop(self) -> Result<(), Failure> {
        self.shutdown.cancel();
        end(self.thread).await
    }
}

async fn end(thread: JoinHandle<Result<(), RunError>>) -> Result<(), Failure> {
    let joined = tokio::task::spawn_blocking(move || thread.join()).await;
    match joined {
        Ok(Ok(ended)) => ended.map_err(daemon_run::failure),
        _ => Err(anyhow!("the relay crashed; this is a bug").into()),
    }
}

/// The demo's directory; dropping it removes it.
#[derive(Debug)]
struct Place(PathBuf);

impl Place {
    fn new() -> std::io::Result<Place> {
        let name = format!("posthaste-demo-{}-{:08x}", std::process::id(), fastrand::u32(..));
        let path = std::env::temp_dir().join(name);
        // Fails if it is there, so nobody can have prepared it.
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Place(path))
    }

    fn admin_socket(&self) -> PathBuf {
        self.0.join("admin.sock")
    }

    /// Writes a configuration with one connection, to `target`. Returns its file.
    fn configure(&self, target: &str) -> std::io::Result<PathBuf> {
        let quoted =
            |path: &Path| toml::Value::from(path.to_string_lossy().into_owned()).to_string();
        let daemon = format!(
            "reload = \"auto\"\n\
             drain_timeout = \"2s\"\n\n\
             [ingress]\nhttp = [\"127.0.0.1:0\"]\n\n\
             [admin]\nhttp = \"127.0.0.1:0\"\nunix = {}\n\n\
             [store]\npath = {}\nmax_bytes = \"256MiB\"\nsegment_bytes = \"4MiB\"\n\n\
             [limits]\nmax_body = \"1MiB\"\n\n\
             [log]\nlevel = \"warn\"\n",
            quoted(&self.admin_socket()),
            quoted(&self.0.join("store")),
        );
        let connection = format!("[[connection]]\nname = \"demo\"\nurl = \"{target}\"\n");
        let connections = self.0.join("connections.d");
        std::fs::create_dir(&connections)?;
        std::fs::write(connections.join("demo.toml"), connection)?;
        let file = self.0.join("posthaste.toml");
        std::fs::write(&file, daemon)?;
        Ok(file)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            output::say(&format!("could not remove {}: {error}", self.0.display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_configuration_is_legal_and_its_directory_goes_away() {
        let place = Place::new().unwrap();
        let file = place.configure("http://127.0.0.1:9/hook").unwrap();
        let (root, options) = super::super::settings::lookup(Some(&file));
        let loaded = crate::config::load(&root.path, &options);
        let loaded = loaded.unwrap_or_else(|refused| panic!("{}", refused.render()));
        assert_eq!(loaded.config.connections.len(), 1);
        assert_eq!(loaded.config.daemon.admin.unix, Some(place.admin_socket()));
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        let path = place.0.clone();
        drop(place);
        assert!(!path.exists());
    }

    #[test]
    fn the_invitation_can_be_pasted() {
        let place = Place::new().unwrap();
        let text = invitation("127.0.0.1:4000".parse().unwrap(), &place);
        assert!(text.contains("curl -i http://127.0.0.1:4000/v1/events -H"), "{text}");
        assert!(text.contains(r#"-d '{"hello":"world"}'"#), "{text}");
    }
}
