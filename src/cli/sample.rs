//! The sample event of `filter test` and `transform test`, and the connection that it is tried on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow};
use clap::Args;
use http::{HeaderName, HeaderValue};

use super::send::{parse_header, read_bounded};
use super::{Failure, output, settings};
use crate::config::{self, Secrets};
use crate::connection::Connection;
use crate::connection::sample::Sample;

/// A sample event.
#[derive(Debug, Args)]
pub(super) struct EventArguments {
    /// The body: a file, or - for stdin
    #[arg(required_unless_present = "data")]
    file: Option<PathBuf>,
    /// The body itself
    #[arg(long, value_name = "TEXT", conflicts_with = "file")]
    data: Option<String>,
    /// The event's type
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// A header of the post; may be given again [default: content-type: application/json]
    #[arg(long = "header", value_name = "NAME:VALUE", value_parser = parse_header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The path below the source's
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// The query, without its ?
    #[arg(long, value_name = "QUERY")]
    query: Option<String>,
}

impl EventArguments {
    /// The event that would be accepted.
    pub(super) fn sample(&self, source: &str) -> anyhow::Result<Sample> {
        let mut sample = Sample::json(source, self.body()?);
        self.kind.clone().unwrap_or_default().clone_into(&mut sample.kind);
        self.path.clone().unwrap_or_default().clone_into(&mut sample.path);
        self.query.clone().unwrap_or_default().clone_into(&mut sample.query);
        for (name, value) in &self.headers {
            sample.set_header(name.as_str(), &String::from_utf8_lossy(value.as_bytes()));
        }
        Ok(sample)
    }

    fn body(&self) -> anyhow::Result<Vec<u8>> {
        if let Some(text) = &self.data {
            return Ok(text.clone().into_bytes());
        }
        read(self.file.as_deref().unwrap_or(Path::new("-")))
    }
}

/// A file's content, or that of stdin.
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut content = Vec::new();
    if path.as_os_str() == "-" {
        read_bounded(std::io::stdin().lock(), &mut content).context("cannot read stdin")?;
    } else {
        let file =
            std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        read_bounded(file, &mut content)
            .with_context(|| format!("cannot read {}", path.display()))?;
    }
    Ok(content)
}

/// A configured connection. Secrets are not read.
pub(super) fn connection(name: &str, file: Option<&Path>) -> Result<Arc<Connection>, Failure> {
    let (root, mut options) = settings::lookup(file);
    options.secrets = Secrets::Skip;
    let loaded = config::load(&root.path, &options).map_err(|refused| {
        output::say(refused.render().trim_end());
        Failure::Config(anyhow!("{refused} (read from {})", root.path.display()))
    })?;
    let mut connections = loaded.config.connections.iter();
    let found = connections.find(|connection| connection.name.eq_ignore_ascii_case(name));
    found.cloned().ok_or_else(|| Failure::Failed(anyhow!("there is no connection {name:?}")))
}
