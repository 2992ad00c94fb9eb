//! `posthaste connections purge`: cancel what waits for a connection.

use anyhow::anyhow;
use clap::Args;

use crate::admin::api::{Cancelled, Status};
use crate::cli::admin::{Admin, Asked, target};
use crate::cli::output::{self, Table};
use crate::cli::{Failure, TEMPLATE, block_on, dead};

/// Cancel all that waits for a connection, or what is held for one that was removed; dead letters stay
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste connections purge crm --plan
  posthaste connections purge crm --yes
")]
pub(super) struct PurgeArguments {
    /// The connection
    name: String,
    /// Say what waits, and do nothing
    #[arg(long, visible_alias = "dry-run")]
    plan: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    asked: Asked,
}

pub(super) fn run(arguments: PurgeArguments) -> Result<(), Failure> {
    let PurgeArguments { name, plan, yes, asked: Asked { json, which } } = arguments;
    let admin = Admin::new(which);
    if plan || !yes {
        let (states, total) = waiting(&block_on(admin.get(&target(&["status"], &[])?))?, &name)?;
        if plan && json {
            return output::json(&Cancelled { cancelled: total });
        }
        if plan {
            let mut table = Table::new(&["STATE", "COUNT"]);
            for (state, count) in states {
                table.row([state.to_owned(), count.to_string()]);
            }
            output::write(table.render().as_bytes())?;
            let deliveries = output::plural(total, "delivery").replace("deliverys", "deliveries");
            return output::line(&format!("{deliveries} would be cancelled"));
        }
        dead::confirm(&format!("Cancel {total} that wait for {name}?"))?;
    }
    let done: Cancelled = block_on(admin.post(&target(&["connections", &name, "purge"], &[])?))?;
    if json { output::json(&done) } else { output::line(&format!("{} cancelled", done.cancelled)) }
}

/// Deliveries by state, and all of them.
type Waiting = (Vec<(&'static str, u64)>, u64);

/// What waits for a connection.
fn waiting(status: &Status, name: &str) -> Result<Waiting, Failure> {
    let connection = status.connections.iter().find(|found| found.name == name);
    let connection = connection.map(|found| {
        let queue = found.queue;
        let states = [
            ("queued", queue.queued),
            ("scheduled", queue.scheduled),
            ("held", queue.held),
            ("in_flight", queue.in_flight),
        ];
        (states.to_vec(), queue.total())
    });
    let orphaned = || status.orphaned.iter().find(|found| found.name == name);
    let found = connection.or_else(|| orphaned().map(|o| (vec![("held", o.held)], o.held)));
    found.ok_or_else(|| {
        anyhow!("there is no connection {name:?}; `posthaste status` lists them").into()
    })
}
