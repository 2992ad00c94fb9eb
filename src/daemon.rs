//! Placeholder: the lead's module takes its place at merge.
#![expect(missing_docs, reason = "a placeholder")]

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

pub struct Options {
    pub config_file: Option<PathBuf>,
    pub environment: Option<String>,
    pub ready: Option<Box<dyn FnOnce(Ready) + Send>>,
    pub shutdown: Option<CancellationToken>,
}

#[derive(Clone, Debug)]
pub struct Ready {
    pub ingress_http: Vec<SocketAddr>,
}

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("{0}")]
    Config(Box<crate::config::Refused>),
    #[error("{0}")]
    StoreVersion(String),
    #[error("{0}")]
    Store(String),
    #[error("{0}")]
    Other(String),
}

pub fn run(options: Options) -> Result<(), RunError> {
    drop(options.ready);
    Err(RunError::Other("the daemon is not here yet".to_owned()))
}
