//! `posthaste reload`: the daemon reads its configuration again, all or nothing.

use clap::Args;

use super::admin::Asked;
use super::{Failure, TEMPLATE, output};
use crate::admin::api::Reloaded;

/// Make the daemon read its configuration again
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste check && posthaste reload

A configuration with errors is refused whole: they are printed, and the exit code is 78.

")]
pub(super) struct Arguments {
    #[command(flatten)]
    asked: Asked,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let json = arguments.asked.json;
    let reloaded: Reloaded = arguments.asked.post("/v1/reload")?;
    if json {
        return output::json(&reloaded);
    }
    for warning in &reloaded.warnings {
        output::say(&format!("warning: {}", crate::logging::escape(warning)));
    }
    output::line(&render(&reloaded))
}

fn render(reloaded: &Reloaded) -> String {
    let part = |names: &[String], verb: &str| match names {
        [] => None,
        names => Some(format!("{verb} {}", names.join(", "))),
    };
    let parts: Vec<String> = [
        part(&reloaded.added, "added"),
        part(&reloaded.changed, "changed"),
        part(&reloaded.removed, "removed"),
    ]
    .into_iter()
    .flatten()
    .collect();
    let what = if parts.is_empty() { "no connection changed".to_owned() } else { parts.join("; ") };
    format!("configuration {} is in force: {what}", reloaded.generation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_named() {
        let mut reloaded = Reloaded { generation: 4, ..Reloaded::default() };
        assert_eq!(render(&reloaded), "configuration 4 is in force: no connection changed");
        reloaded.added = vec!["a".to_owned(), "b".to_owned()];
        reloaded.removed = vec!["c".to_owned()];
        assert_eq!(render(&reloaded), "configuration 4 is in force: added a, b; removed c");
    }
}
