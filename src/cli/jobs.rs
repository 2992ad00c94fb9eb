//! `posthaste jobs`: bulk replays and purges that run, or have ended.

use std::time::Duration;

use anyhow::anyhow;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use super::admin::{Admin, Asked, target};
use super::output::{self, Table};
use super::{Failure, TEMPLATE, block_on};
use crate::admin::api::jobs::{Job, JobAction, JobState, Jobs, Selection};
use crate::logging::escape;

/// How often a job is looked at that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Look at bulk replays and purges, and stop them
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste jobs list
  posthaste jobs show job_019ab3c4-5d6e-7f80-9123-456789abcdef --wait
  posthaste jobs cancel job_019ab3c4-5d6e-7f80-9123-456789abcdef
")]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the jobs that run, and the latest of those that ended
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste jobs list
  posthaste jobs list --json | jq '.models[0].counts'
")]
    List(ListArguments),
    /// Show how far a job is
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste jobs show job_019ab3c4-5d6e-7f80-9123-456789abcdef
  posthaste jobs show job_019ab3c4-5d6e-7f80-9123-456789abcdef --wait
")]
    Show(ShowArguments),
    /// Stop a job; what it has done stays
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste jobs cancel job_019ab3c4-5d6e-7f80-9123-456789abcdef
")]
    Cancel(CancelArguments),
}

#[derive(Debug, Args)]
struct ListArguments {
    #[command(flatten)]
    asked: Asked,
}

#[derive(Debug, Args)]
struct ShowArguments {
    /// The job's id
    job: String,
    /// Wait until it has ended
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    asked: Asked,
}

#[derive(Debug, Args)]
struct CancelArguments {
    /// The job's id
    job: String,
    #[command(flatten)]
    asked: Asked,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    match arguments.action {
        Action::List(arguments) => list(arguments),
        Action::Show(arguments) => show(arguments),
        Action::Cancel(arguments) => cancel(arguments),
    }
}

fn list(arguments: ListArguments) -> Result<(), Failure> {
    let json = arguments.asked.json;
    let jobs: Jobs = arguments.asked.get(&target(&["jobs"], &[])?)?;
    if json {
        return output::json(&jobs);
    }
    if jobs.models.is_empty() {
        output::say("no jobs");
        return Ok(());
    }
    output::write(table(&jobs.models).as_bytes())
}

fn table(jobs: &[Job]) -> String {
    let headings = ["JOB", "ACTION", "STATE", "DONE", "FAILED", "EXAMINED", "STARTED", "OF"];
    let mut table = Table::new(&headings);
    for job in jobs {
        table.row([
            job.id.clone(),
            job.action.as_str().to_owned(),
            job.state.as_str().to_owned(),
            job.counts.done.to_string(),
            job.counts.failed.to_string(),
            format!("{} of {}", job.counts.examined, job.counts.total),
            job.started_at.clone(),
            selected(&job.selection),
        ]);
    }
    table.render()
}

fn show(arguments: ShowArguments) -> Result<(), Failure> {
    let Asked { json, which } = arguments.asked;
    let admin = Admin::new(which);
    let target = target(&["jobs", &arguments.job], &[])?;
    let job = block_on(async {
        let job: Job = admin.get(&target).await?;
        if arguments.wait { wait(&admin, job).await } else { Ok(job) }
    })?;
    if json {
        output::json(&job)?;
    } else {
        output::write(describe(&job).as_bytes())?;
    }
    judge(&job, arguments.wait)
}

fn describe(job: &Job) -> String {
    let counts = &job.counts;
    let lines = [
        ("job", job.id.clone()),
        ("action", job.action.as_str().to_owned()),
        ("state", job.state.as_str().to_owned()),
        ("of", selected(&job.selection)),
        ("by", job.by.clone()),
        ("started", job.started_at.clone()),
        ("ended", job.ended_at.clone().unwrap_or_default()),
        ("error", job.error.clone().unwrap_or_default()),
        ("examined", format!("{} of {}", counts.examined, counts.total)),
        ("matched", counts.matched.to_string()),
        ("done", counts.done.to_string()),
        ("failed", counts.failed.to_string()),
    ];
    let lines = lines.into_iter().filter(|(_, value)| !value.is_empty());
    lines.map(|(name, value)| format!("{name:<12}{}\n", escape(&value))).collect()
}

fn cancel(arguments: CancelArguments) -> Result<(), Failure> {
    let target = target(&["jobs", &arguments.job, "cancel"], &[])?;
    let json = arguments.asked.json;
    let job: Job = arguments.asked.post(&target)?;
    if json { output::json(&job) } else { output::line(&sum_up(&job)) }
}

/// What a job is of, on one line.
fn selected(selection: &Selection) -> String {
    let Selection { connection, code, status, kind, since, until } = selection;
    let all = [
        ("connection", connection),
        ("code", code),
        ("status", status),
        ("type", kind),
        ("since", since),
        ("until", until),
    ];
    let said =
        all.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value.as_ref()?)));
    let said: Vec<String> = said.collect();
    if said.is_empty() { "all".to_owned() } else { said.join(" ") }
}

/// How a job stands, on one line.
pub(super) fn sum_up(job: &Job) -> String {
    let done = match job.action {
        JobAction::Replay => "queued again",
        JobAction::Purge => "purged",
    };
    let counts = &job.counts;
    let mut text = format!("{} {}", job.id, job.state.as_str());
    if job.state == JobState::Running {
        text += &format!(", {} to look at", output::plural(counts.total, "dead letter"));
    } else {
        text += &format!(", {} {done}", output::plural(counts.done, "dead letter"));
    }
    if counts.failed > 0 {
        text += &format!(", {} failed", counts.failed);
    }
    escape(&text)
}

/// A job that was waited for and did not do all of it is a failure.
pub(super) fn judge(job: &Job, waited: bool) -> Result<(), Failure> {
    let why = match job.state {
        _ if !waited => return Ok(()),
        JobState::Done if job.counts.failed == 0 => return Ok(()),
        JobState::Done => format!("{} failed", output::plural(job.counts.failed, "dead letter")),
        state => format!("the job is {}", state.as_str()),
    };
    Err(Failure::Failed(anyhow!(why)))
}

/// Waits until a job has ended, with a progress bar on a terminal. It goes on if this is interrupted.
pub(super) async fn wait(admin: &Admin, mut job: Job) -> Result<Job, Failure> {
    let path = target(&["jobs", &job.id], &[])?;
    // Hidden where stderr is no terminal.
    let bar = ProgressBar::new(job.counts.total);
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg} {elapsed}")
        .map_err(anyhow::Error::new)?;
    bar.set_style(style);
    while job.state == JobState::Running {
        tokio::time::sleep(LOOK_EVERY).await;
        job = admin.get(&path).await?;
        bar.set_length(job.counts.total);
        bar.set_position(job.counts.examined);
        bar.set_message(format!("{} done", job.counts.done));
    }
    bar.finish_and_clear();
    Ok(job)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::api::jobs::JobCounts;

    fn job(state: JobState, failed: u64) -> Job {
        Job {
            id: "job_1".to_owned(),
            action: JobAction::Replay,
            state,
            by: "unix uid 0\u{7}".to_owned(),
            selection: Selection {
                connection: Some("crm".to_owned()),
                kind: Some("order\u{1b}".to_owned()),
                ..Selection::default()
            },
            counts: JobCounts { total: 9, examined: 8, matched: 7, done: 6, failed },
            started_at: "2025-11-21T00:00:00.000Z".to_owned(),
            ended_at: None,
            error: None,
        }
    }

    #[test]
    fn a_job_is_described_without_driving_the_terminal() {
        let expected = "\
job         job_1
action      replay
state       running
of          connection=crm type=order\\u{1b}
by          unix uid 0\\u{7}
started     2025-11-21T00:00:00.000Z
examined    8 of 9
matched     7
done        6
failed      1
";
        assert_eq!(describe(&job(JobState::Running, 1)), expected);
        let listed = table(&[job(JobState::Done, 0)]);
        assert!(listed.contains("8 of 9    2025-11-21T00:00:00.000Z  connection=crm"), "{listed}");
        assert_eq!(selected(&Selection::default()), "all");
    }

    #[test]
    fn what_was_waited_for_and_did_not_do_all_is_a_failure() {
        for (state, failed, waited, fine) in [
            (JobState::Done, 0, true, true),
            (JobState::Done, 1, true, false),
            (JobState::Cancelled, 0, true, false),
            (JobState::Failed, 0, true, false),
            (JobState::Failed, 0, false, true),
        ] {
            let judged = judge(&job(state, failed), waited);
            assert_eq!(judged.is_ok(), fine, "{state:?} {failed} {waited}");
        }
        assert_eq!(
            sum_up(&job(JobState::Done, 1)),
            "job_1 done, 6 dead letters queued again, 1 failed"
        );
    }
}
