//! `posthaste top`: a live view of the connections, looked at each second through the admin socket.
//!
//! It holds nothing of the daemon: when that goes away, the last figures stay with what is wrong above them, and when it comes
//! back they go on. A look that takes longer than [`LOOK_TIMEOUT`] has failed.

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use tokio::time::{Instant, timeout};

use super::admin::{Admin, Which};
use super::{Failure, TEMPLATE, block_on};
use crate::admin::api::Status;
use crate::logging::{colours, escape};

mod figures;
mod view;
use figures::{Look, counters, headline, rows};
use view::{Model, View};

/// How often the daemon is looked at.
const EVERY: Duration = Duration::from_secs(1);
/// How long a look may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// Watch the connections live: rates, queues, breakers, errors
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste top

Keys: q quits, / filters by name, p pauses, Enter shows one connection, n e d f u o sort by name, in/s, out/s, fail/s,
queue and oldest, r turns the order round. Rates are what changed in the last second. For programs there is
`posthaste status --json`.

")]
pub(super) struct Arguments {
    #[command(flatten)]
    which: Which,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let is_terminal = std::io::stdout().is_terminal();
    if !is_terminal || !std::io::stdin().is_terminal() {
        let message = "top needs a terminal; `posthaste status --json` is for programs";
        return Err(anyhow!(message).into());
    }
    let admin = Admin::new(arguments.which);
    // Before the screen is taken: whoever asks for a daemon that is not there is told so in the ordinary way.
    let first = look(&admin)?;
    let mut terminal = ratatui::try_init().context("the terminal cannot be used")?;
    let watched = watch(&mut terminal, &admin, first, colours(is_terminal));
    ratatui::restore();
    watched
}

/// Looks and draws until the person has seen enough.
fn watch(
    terminal: &mut DefaultTerminal,
    admin: &Admin,
    first: Look,
    colours: bool,
) -> Result<(), Failure> {
    let mut view = View::new(colours);
    let mut screen = Screen::new(first);
    let mut next = Instant::now() + EVERY;
    loop {
        terminal
            .draw(|frame| view.draw(&screen.model, frame))
            .context("the terminal cannot be written to")?;
        let left = next.saturating_duration_since(Instant::now());
        if event::poll(left).context("the terminal cannot be read")? {
            let event = event::read().context("the terminal cannot be read")?;
            if let Event::Key(key) = event
                && key.kind != KeyEventKind::Release
                && view.press(key, &screen.model.rows)
            {
                return Ok(());
            }
        }
        if Instant::now() >= next {
            if !view.paused {
                screen.take(look(admin));
            }
            next = Instant::now() + EVERY;
        }
    }
}

/// The last look, and what is made of it.
struct Screen {
    last: Look,
    model: Model,
}

impl Screen {
    fn new(first: Look) -> Screen {
        let model =
            Model { headline: headline(&first.status), rows: rows(None, &first), problem: None };
        Screen { last: first, model }
    }

    /// Goes on with a new look, or says why there is none.
    fn take(&mut self, look: Result<Look, Failure>) {
        match look {
            Ok(look) => {
                self.model = Model {
                    headline: headline(&look.status),
                    rows: rows(Some(&self.last), &look),
                    problem: None,
                };
                self.last = look;
            }
            Err(failure) => {
                let why = failure.to_string();
                self.model.problem = Some(format!("trying again: {}", escape(&why)));
            }
        }
    }
}

/// One look at the daemon.
fn look(admin: &Admin) -> Result<Look, Failure> {
    block_on(async {
        let looked = timeout(LOOK_TIMEOUT, async {
            let status: Status = admin.get("/v1/status").await?;
            let metrics = admin.text("/metrics").await?;
            Ok::<_, Failure>((status, metrics))
        });
        let late = |_| anyhow!("the daemon did not answer within {} s", LOOK_TIMEOUT.as_secs());
        let (status, metrics) = looked.await.map_err(late)??;
        Ok(Look { at: Instant::now(), status, counters: counters(&metrics) })
    })
}

#[cfg(test)]
mod tests {
    use super::figures::tests::{look, status};
    use super::*;

    /// A daemon that goes away and comes back: the figures stay, then go on.
    #[test]
    fn a_daemon_may_go_and_come_back() {
        let at =
            |ms, accepted| look(ms, status(&[("crm", "closed", 0)]), &[("crm", accepted, 0, 0)]);
        let mut screen = Screen::new(at(0, 100));
        assert_eq!(screen.model.rows[0].rates, None);
        screen.take(Ok(at(1000, 105)));
        let accepted = screen.model.rows[0].rates.unwrap().accepted;
        assert!((accepted - 5.0).abs() < 0.1, "{accepted}");
        screen.take(Err(anyhow!("no daemon listens on \u{1b}[2J").into()));
        let problem = screen.model.problem.clone().unwrap();
        assert_eq!(problem, "trying again: no daemon listens on \\u{1b}[2J");
        assert_eq!(screen.model.rows.len(), 1, "the last figures stay");
        let mut back = at(5000, 3);
        back.status.daemon.pid = 2;
        screen.take(Ok(back.clone()));
        assert_eq!((screen.model.problem.as_ref(), screen.model.rows[0].rates), (None, None));
        back.at += Duration::from_secs(1);
        screen.take(Ok(back));
        assert_eq!(screen.model.rows[0].rates.unwrap().accepted, 0.0);
    }
}
