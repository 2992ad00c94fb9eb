//! The daemon, if one runs: it is asked for its status, and nothing else.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use http::Request;
use http_body_util::Full;

use super::Check;
use crate::admin::api::{Daemon, Status};
use crate::cli::admin::refusal;
use crate::cli::http::{Endpoint, exchange};
use crate::cli::output;

/// A daemon that takes longer for its status is in trouble.
const ANSWER_MAX: Duration = Duration::from_secs(5);
const STATUS: &str = "/v1/status";
const NAME: &str = "daemon";

/// What the daemon says of itself, or why it says nothing.
pub(super) async fn status(socket: &Path) -> anyhow::Result<Status> {
    let request = Request::get(STATUS).body(Full::default()).context("no request")?;
    let answer = exchange(&Endpoint::Unix(socket.to_owned()), request, ANSWER_MAX).await?;
    if !answer.status.is_success() {
        return Err(anyhow::anyhow!("{}", refusal(&answer)));
    }
    serde_json::from_slice(&answer.body).context("its status is not understood; is it much older?")
}

pub(super) fn daemon(status: &anyhow::Result<Status>) -> Check {
    match status {
        Ok(status) => judge(&status.daemon),
        Err(error) => {
            let advice = "start it, or look at why it ended: `journalctl -u posthaste`";
            Check::warning(NAME, format!("{error:#}"), advice)
        }
    }
}

fn judge(daemon: &Daemon) -> Check {
    let up = output::seconds(daemon.uptime_seconds);
    let detail = format!("{} is {}, pid {}, up {up}", daemon.version, daemon.state, daemon.pid);
    if daemon.version != env!("CARGO_PKG_VERSION") {
        let detail = format!("{detail}; this command is {}", env!("CARGO_PKG_VERSION"));
        return Check::warning(NAME, detail, "restart the daemon, or use the command it came with");
    }
    if let Some(error) = daemon.last_reload.as_ref().and_then(|reload| reload.error.as_ref()) {
        let detail = format!("{detail}; the last reload was refused: {error}");
        return Check::failed(NAME, detail, "mend the files; `posthaste check` shows all errors");
    }
    match daemon.state.as_str() {
        "ready" => Check::ok(NAME, detail),
        _ => Check::warning(NAME, detail, "look again when it is ready"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::api::LastReload;
    use crate::cli::doctor::Verdict::{self, Failed, Ok as Well, Warning};

    fn check(change: impl FnOnce(&mut Daemon), verdict: Verdict) -> String {
        let mut daemon = Daemon {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: 7,
            state: "ready".to_owned(),
            uptime_seconds: 61,
            generation: 1,
            last_reload: None,
            config_file: None,
        };
        change(&mut daemon);
        let found = judge(&daemon);
        assert_eq!(found.verdict, verdict, "{found:?}");
        found.detail
    }

    #[test]
    fn another_version_and_a_refused_reload_are_said() {
        assert!(check(|_| {}, Well).contains("pid 7, up 1m 1s"));
        assert!(check(|daemon| daemon.version = "0.0.9".to_owned(), Warning).contains("0.0.9"));
        check(|daemon| daemon.state = "draining".to_owned(), Warning);
        let refused = LastReload {
            at: "2026-11-21T22:00:00Z".to_owned(),
            successful: false,
            error: Some("crm.toml:4:1".to_owned()),
        };
        assert!(
            check(|daemon| daemon.last_reload = Some(refused), Failed).contains("crm.toml:4:1")
        );
    }

    #[tokio::test]
    async fn without_a_daemon_the_socket_is_named() {
        let found = daemon(&status(Path::new("/nonexistent/admin.sock")).await);
        assert_eq!(found.verdict, Warning);
        assert!(found.detail.contains("/nonexistent/admin.sock"), "{found:?}");
    }
}
