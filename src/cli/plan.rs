//! `posthaste plan` and `posthaste audit`: what a reload would do, and what was changed by whom.

use clap::Args;

use super::admin::Asked;
use super::listing::{List, PageArguments};
use super::output::{self, Table};
use super::{Failure, TEMPLATE};
use crate::admin::api::connections::{AuditRecord, Plan};
use crate::logging::escape;

/// Say what a reload would do now
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste plan

Files with errors are not planned: they are printed, and the exit code is 78.

")]
pub(super) struct Arguments {
    #[command(flatten)]
    asked: Asked,
}

/// List the changes of the configuration that were accepted, the newest first
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste audit
  posthaste audit --connection crm --json
")]
pub(super) struct AuditArguments {
    /// Only those of this connection
    #[arg(long, value_name = "NAME")]
    connection: Option<String>,
    #[command(flatten)]
    page: PageArguments,
    #[command(flatten)]
    asked: Asked,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    arguments.asked.show("/v1/config/plan", |plan: &Plan| {
        for warning in &plan.warnings {
            output::say(&format!("warning: {}", escape(warning)));
        }
        render(plan)
    })
}

fn render(plan: &Plan) -> String {
    let mut text = String::new();
    if !plan.needs_restart.is_empty() {
        let keys = plan.needs_restart.join(", ");
        text.push_str(&format!("a reload is refused: {keys} can change at a restart alone\n"));
    }
    if !plan.daemon.is_empty() {
        text.push_str(&format!("posthaste.toml: {}\n", plan.daemon.join(", ")));
    }
    if plan.connections.is_empty() {
        return text + "no connection would change\n";
    }
    let mut table = Table::new(&["CONNECTION", "CHANGE", "SETTINGS", "EFFECT"]);
    for planned in &plan.connections {
        let settings = match planned.settings.as_slice() {
            [] => "-".to_owned(),
            settings => settings.join(", "),
        };
        table.row([planned.name.clone(), planned.change.clone(), settings, planned.effect.clone()]);
    }
    text + &table.render()
}

pub(super) fn audit(arguments: AuditArguments) -> Result<(), Failure> {
    let query = vec![("connection", arguments.connection.as_deref())];
    let list = List { path: &["audit"], query, cursor: "next", none: "no changes" };
    list.print(&arguments.page, arguments.asked, audit_table)
}

fn audit_table(records: &[AuditRecord]) -> String {
    let mut table = Table::new(&["AT", "BY", "ACTION", "WHAT", "OLD", "NEW"]);
    for record in records {
        let part = |names: &[String], verb: &str| match names {
            [] => None,
            names => Some(format!("{verb} {}", names.join(", "))),
        };
        let parts = [
            record.connection.clone(),
            record.job.clone(),
            part(&record.added, "added"),
            part(&record.changed, "changed"),
            part(&record.removed, "removed"),
        ];
        let what: Vec<String> = parts.into_iter().flatten().collect();
        let short = |hash: &Option<String>| match hash {
            Some(hash) => hash.chars().take(12).collect(),
            None => "-".to_owned(),
        };
        let row = [record.at.clone(), record.by.clone(), record.action.clone(), what.join("; ")];
        table.row(row.into_iter().chain([short(&record.old), short(&record.new)]));
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::api::connections::Planned;

    #[test]
    fn plans_say_what_would_happen() {
        assert_eq!(render(&Plan::default()), "no connection would change\n");
        let plan = Plan {
            connections: vec![Planned {
                name: "crm".to_owned(),
                change: "changed".to_owned(),
                settings: vec!["url".to_owned(), "retry".to_owned()],
                waiting: 2,
                effect: "2 deliveries stay queued".to_owned(),
            }],
            daemon: vec!["log.level".to_owned()],
            needs_restart: vec!["store.path".to_owned()],
            warnings: Vec::new(),
        };
        let expected = "\
a reload is refused: store.path can change at a restart alone
posthaste.toml: log.level
CONNECTION  CHANGE   SETTINGS    EFFECT
crm         changed  url, retry  2 deliveries stay queued
";
        assert_eq!(render(&plan), expected);
    }

    #[test]
    fn records_are_lines() {
        let record = AuditRecord {
            seq: 1,
            at: "2025-11-21T00:00:00.000Z".to_owned(),
            by: "files".to_owned(),
            action: "reload".to_owned(),
            old: Some("0123456789abcdef".to_owned()),
            added: vec!["a".to_owned(), "b".to_owned()],
            removed: vec!["c".to_owned()],
            ..AuditRecord::default()
        };
        let expected = "\
AT                        BY     ACTION  WHAT                   OLD           NEW
2025-11-21T00:00:00.000Z  files  reload  added a, b; removed c  0123456789ab  -
";
        assert_eq!(audit_table(&[record]), expected);
    }
}
