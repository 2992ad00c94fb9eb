//! `posthaste plan` and `posthaste audit`: what a reload would do, and what was changed by whom.

use clap::Args;

use super::admin::{Admin, Which, target};
use super::output::{self, Table};
use super::{Failure, TEMPLATE, block_on};
use crate::admin::api::connections::{AuditPage, AuditRecord, Plan};
use crate::logging::escape;

/// Say what a reload would do now
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste plan

Files with errors are not planned: they are printed, and the exit code is 78.

")]
pub(super) struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    which: Which,
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
    /// At most so many, 1 to 255
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=255))]
    limit: u32,
    /// Go on where the last page ended
    #[arg(long, value_name = "CURSOR")]
    next: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    which: Which,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let admin = Admin::new(arguments.which);
    let plan: Plan = block_on(admin.get("/v1/config/plan"))?;
    if arguments.json {
        return output::json(&plan);
    }
    for warning in &plan.warnings {
        output::say(&format!("warning: {}", escape(warning)));
    }
    output::write(render(&plan).as_bytes())
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
    let limit = arguments.limit.to_string();
    let mut query = vec![("limit", limit.as_str())];
    query.extend(arguments.connection.as_deref().map(|name| ("connection", name)));
    query.extend(arguments.next.as_deref().map(|cursor| ("next", cursor)));
    let target = target(&["audit"], &query)?;
    let admin = Admin::new(arguments.which);
    let page: AuditPage = block_on(admin.get(&target))?;
    if arguments.json {
        return output::json(&page);
    }
    if page.models.is_empty() {
        output::say("no changes");
        return Ok(());
    }
    output::write(audit_table(&page.models).as_bytes())?;
    if let Some(next) = &page.pagination.next {
        output::say(&format!("there are more: --next {}", escape(next)));
    }
    Ok(())
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
