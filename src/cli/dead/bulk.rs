//! Dead letters in bulk: planned, sent again, purged.

use std::io::{self, BufRead, IsTerminal};

use anyhow::anyhow;
use clap::Args;

use crate::admin::api::Replayed;
use crate::admin::api::jobs::{DeadPlan, Job};
use crate::cli::admin::{Admin, Asked, target};
use crate::cli::output::{self, Table};
use crate::cli::{Failure, TEMPLATE, block_on, jobs};
use crate::event::EventId;

/// Which dead letters.
#[derive(Debug, Args)]
pub(super) struct Filter {
    /// Only those with this cause of death, as in http_status
    #[arg(long, value_name = "CODE")]
    code: Option<String>,
    /// Only those whose last response had one of these statuses: 503, 5xx, 400-499,!404
    #[arg(long, value_name = "STATUSES")]
    status: Option<String>,
    /// Only events of this type
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Only those that died since: a duration, as in 1h, or a time in UTC
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only those that died before: a duration, as in 1h, or a time in UTC
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

impl Filter {
    pub(super) fn query(&self) -> Vec<(&str, &str)> {
        let all = [
            ("code", &self.code),
            ("status", &self.status),
            ("type", &self.kind),
            ("since", &self.since),
            ("until", &self.until),
        ];
        all.into_iter().filter_map(|(key, value)| Some((key, value.as_deref()?))).collect()
    }
}

/// What says which of them, but for their ids.
const OTHERS: [&str; 6] = ["all", "code", "status", "kind", "since", "until"];

/// Which of them, and how.
#[derive(Debug, Args)]
struct Bulk {
    #[command(flatten)]
    filter: Filter,
    /// All dead letters of the connection, or of all connections
    #[arg(long)]
    all: bool,
    /// Say how many it would be, and do nothing
    #[arg(long, visible_alias = "dry-run")]
    plan: bool,
    /// Wait until the job has ended
    #[arg(long, conflicts_with = "plan")]
    wait: bool,
    #[command(flatten)]
    asked: Asked,
}

/// Send dead letters again, as new deliveries of the same events
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste dead replay crm evt_019ab3c4-5d6e-7f80-9123-456789abcdef
  posthaste dead replay crm --all --plan
  posthaste dead replay crm --status 5xx --since 2h --wait
  posthaste dead replay --all

Many are sent again by a job, which goes on when this command ends: see posthaste jobs.
")]
pub(super) struct ReplayArguments {
    /// The connection
    connection: Option<String>,
    /// The events' ids
    #[arg(required_unless_present_any = OTHERS, conflicts_with_all = OTHERS)]
    events: Vec<EventId>,
    #[command(flatten)]
    bulk: Bulk,
}

/// End dead letters for good
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste dead purge crm --all --plan
  posthaste dead purge crm --code expired --until 7d
  posthaste dead purge --all --yes --wait
")]
pub(super) struct PurgeArguments {
    /// The connection
    connection: Option<String>,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    bulk: Bulk,
}

pub(super) fn replay(arguments: ReplayArguments) -> Result<(), Failure> {
    let ReplayArguments { connection, events, bulk } = arguments;
    let json = bulk.asked.json;
    let Some(name) = connection.as_deref().filter(|_| !events.is_empty()) else {
        return run("replay", connection.as_deref(), bulk, true);
    };
    let replayed = if bulk.plan {
        events.len() as u64
    } else {
        block_on(replay_each(&Admin::new(bulk.asked.which), name, &events))?
    };
    if json {
        return output::json(&Replayed { replayed });
    }
    let verb = if bulk.plan { "would be queued" } else { "queued" };
    output::line(&format!("{} {verb} again for {name}", output::plural(replayed, "dead letter")))
}

pub(super) fn purge(arguments: PurgeArguments) -> Result<(), Failure> {
    let PurgeArguments { connection, yes, bulk } = arguments;
    run("purge", connection.as_deref(), bulk, yes)
}

fn run(action: &str, connection: Option<&str>, bulk: Bulk, sure: bool) -> Result<(), Failure> {
    let mut query: Vec<_> = connection.map(|name| ("connection", name)).into_iter().collect();
    query.extend(bulk.filter.query());
    if bulk.filter.query().is_empty() && !bulk.all {
        return Err(Failure::Usage(anyhow!(
            "say which: --code, --status, --type, --since, --until, or --all"
        )));
    }
    let Asked { json, which } = bulk.asked;
    let admin = Admin::new(which);
    let planned = || block_on(admin.get::<DeadPlan>(&target(&["dead", "plan"], &query)?));
    if bulk.plan {
        let plan = planned()?;
        return if json { output::json(&plan) } else { show(&plan) };
    }
    if !sure {
        let count = planned()?.matched;
        confirm(&format!("End {} for good?", output::plural(count, "dead letter")))?;
    }
    if bulk.all && query.is_empty() {
        query.push(("all", "true"));
    }
    let job: Job = block_on(admin.post(&target(&["dead", action], &query)?))?;
    let job = if bulk.wait { block_on(jobs::wait(&admin, job))? } else { job };
    if json {
        output::json(&job)?;
    } else {
        output::line(&jobs::sum_up(&job))?;
    }
    jobs::judge(&job, bulk.wait)
}

fn show(plan: &DeadPlan) -> Result<(), Failure> {
    let mut table = Table::new(&["CONNECTION", "CODE", "COUNT"]);
    for group in &plan.groups {
        table.row([group.connection.clone(), group.code.clone(), group.count.to_string()]);
    }
    if plan.matched > 0 {
        output::write(table.render().as_bytes())?;
    }
    let mut text = output::plural(plan.matched, "dead letter");
    if let (Some(oldest), Some(newest)) = (&plan.oldest, &plan.newest) {
        text += &format!(", {}, died {oldest} to {newest}", output::bytes(plan.bytes));
    }
    output::line(&text)
}

/// Asks on the terminal. Where there is none, `--yes` must be said.
pub(in crate::cli) fn confirm(question: &str) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::Usage(anyhow!(
            "{question} Say --yes: there is no terminal to ask on"
        )));
    }
    output::say(&format!("{question} [y/N]"));
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(anyhow::Error::new)?;
    if matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
        return Ok(());
    }
    Err(Failure::Failed(anyhow!("nothing was done")))
}

/// One after the other; what was replayed before a refusal stays so, and is said.
async fn replay_each(admin: &Admin, name: &str, events: &[EventId]) -> Result<u64, Failure> {
    let mut replayed = 0;
    for event in events {
        let event = event.to_string();
        let target = target(&["connections", name, "dead", &event, "replay"], &[])?;
        match admin.post::<Replayed>(&target).await {
            Ok(one) => replayed += one.replayed,
            Err(failure) => {
                if replayed > 0 {
                    let done = output::plural(replayed, "dead letter");
                    output::say(&format!("{done} queued before this one failed"));
                }
                return Err(failure);
            }
        }
    }
    Ok(replayed)
}
