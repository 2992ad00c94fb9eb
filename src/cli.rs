//! The command line: one file per subcommand.
//!
//! Promises: data goes to stdout and talk to stderr; `--json` on everything that lists; colours only on a terminal and
//! never with `NO_COLOR`; a reader that closes our stdout ends the command quietly. Exit codes: 0, 1 failed, 2 usage,
//! 74 the store cannot be opened or is locked, 78 configuration or an unknown store version.
//!
//! All but `run`, `check`, `doctor`, `export`, `import`, `demo`, `listen`, `filter`, `transform`, `schema`, `man` and `completions` talk to a running daemon, over
//! its sockets only: nothing here touches the
//! store's files.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

mod admin;
mod attempts;
mod check;
mod connections;
mod dead;
mod demo;
mod doctor;
mod events;
mod explain;
mod export;
mod filter;
mod hold;
mod http;
mod import;
mod jobs;
mod listen;
mod listing;
mod output;
mod plan;
mod receiver;
mod reload;
mod run;
mod sample;
mod schema;
mod send;
mod settings;
mod status;
mod top;
mod transform;
mod trial;
mod welcome;

/// How a command ended, if not well.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// It failed: exit 1.
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
    /// It was not asked for rightly: exit 2.
    #[error("{0:#}")]
    Usage(anyhow::Error),
    /// The store cannot be opened or is locked: exit 74 (`EX_IOERR`).
    #[error("{0:#}")]
    Store(anyhow::Error),
    /// The configuration is wrong, or the store is of an unknown version: exit 78 (`EX_CONFIG`).
    #[error("{0:#}")]
    Config(anyhow::Error),
    /// Whoever read our stdout went away: exit 0.
    #[error("stdout was closed")]
    StdoutClosed,
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Failure::Failed(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Store(_) => 74,
            Failure::Config(_) => 78,
            Failure::StdoutClosed => 0,
        }
    }
}

/// Examples come first, then what everything is called.
const TEMPLATE: &str =
    "{about-with-newline}\n{before-help}{usage-heading} {usage}\n\n{all-args}{after-help}\n";

const EXAMPLES: &str = "\
Examples:
  posthaste demo                      see it work, on a store that is thrown away
  posthaste check                     look at the configuration
  posthaste run                       be the daemon
  posthaste send order.json           post an event
  posthaste status                    see what waits, and why
  posthaste doctor                    see what is wrong with the host, and what to do
  posthaste top                       watch it live
  posthaste test crm                  try a connection, part by part
  posthaste connections pause crm     stop deliveries to one target for a while
  posthaste dead replay crm --all     send dead letters again
";

/// A webhook relay daemon: 202 means on disk, and no endpoint can hurt another.
#[derive(Debug, Parser)]
#[command(name = "posthaste", version, before_help = EXAMPLES, help_template = TEMPLATE)]
#[command(arg_required_else_help = true, disable_help_subcommand = true, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Arguments),
    Check(check::Arguments),
    Plan(plan::Arguments),
    Reload(reload::Arguments),
    Connections(connections::Arguments),
    Export(export::Arguments),
    Import(import::Arguments),
    Audit(plan::AuditArguments),
    Send(send::Arguments),
    Dead(dead::Arguments),
    Jobs(jobs::Arguments),
    Events(events::Arguments),
    Explain(explain::Arguments),
    Replay(events::ReplayArguments),
    Attempts(attempts::Arguments),
    Status(status::Arguments),
    Top(top::Arguments),
    Test(trial::Arguments),
    Enable(hold::EnableArguments),
    Resume(hold::ResumeArguments),
    Pause(hold::PauseArguments),
    Doctor(doctor::Arguments),
    Demo(demo::Arguments),
    Listen(listen::Arguments),
    Schema(schema::Arguments),
    Man(schema::ManArguments),
    Filter(filter::Arguments),
    Transform(transform::Arguments),
    /// Print a completion script for a shell
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  posthaste completions bash > /etc/bash_completion.d/posthaste
")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Runs the command that `arguments` (the program's name first) ask for.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    let done = match arguments.command {
        Command::Run(arguments) => run::run(arguments),
        Command::Check(arguments) => check::run(arguments),
        Command::Send(arguments) => send::run(arguments),
        Command::Dead(arguments) => dead::run(arguments),
        Command::Jobs(arguments) => jobs::run(arguments),
        Command::Events(arguments) => events::run(arguments),
        Command::Explain(arguments) => explain::run(arguments),
        Command::Replay(arguments) => events::replay(arguments),
        Command::Attempts(arguments) => attempts::run(arguments),
        Command::Status(arguments) => status::run(arguments),
        Command::Top(arguments) => top::run(arguments),
        Command::Test(arguments) => trial::run(arguments),
        Command::Enable(arguments) => hold::enable(arguments),
        Command::Resume(arguments) => hold::resume(arguments),
        Command::Pause(arguments) => hold::pause(arguments),
        Command::Reload(arguments) => reload::run(arguments),
        Command::Doctor(arguments) => doctor::run(arguments),
        Command::Demo(arguments) => demo::run(arguments),
        Command::Listen(arguments) => listen::run(arguments),
        Command::Plan(arguments) => plan::run(arguments),
        Command::Connections(arguments) => connections::run(arguments),
        Command::Export(arguments) => export::run(arguments),
        Command::Import(arguments) => import::run(arguments),
        Command::Audit(arguments) => plan::audit(arguments),
        Command::Schema(arguments) => schema::run(&arguments),
        Command::Man(arguments) => schema::man(&arguments, Arguments::command()),
        Command::Filter(arguments) => filter::run(arguments),
        Command::Transform(arguments) => transform::run(arguments),
        Command::Completions { shell } => completions(shell),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !matches!(failure, Failure::StdoutClosed) {
                output::complain(&failure.to_string());
            }
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Help and version are no errors (0); the rest is usage (2).
fn usage(error: &clap::Error) -> ExitCode {
    // A closed stdout or stderr leaves nobody to tell.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "posthaste", &mut script);
    output::write(&script)
}

/// Runs a command that waits for sockets.
fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| anyhow::anyhow!("cannot start: {error}"))?;
    runtime.block_on(work)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::error::ErrorKind;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_help_leads_with_an_example() {
        let mut checked = 0;
        let mut open = vec![Arguments::command()];
        while let Some(mut command) = open.pop() {
            command.build();
            open.extend(command.get_subcommands().cloned());
            let help = command.render_help().to_string();
            let (example, usage) = (help.find("Examples:"), help.find("Usage:"));
            assert!(example.is_some() && example < usage, "{help}");
            assert!(help.contains("  posthaste "), "{help}");
            checked += 1;
        }
        assert_eq!(checked, 57);
    }

    /// What the documents tell people to type is accepted, as far as it is said: in prose some is left out.
    #[test]
    fn the_commands_of_the_documents_are_accepted() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let documents = std::fs::read_dir(root.join("docs")).unwrap();
        let pages = documents.map(|page| page.unwrap().path()).chain([root.join("README.md")]);
        let (mut checked, mut wrong) = (0, Vec::new());
        for page in pages.filter(|page| page.extension().is_some_and(|ending| ending == "md")) {
            let text = std::fs::read_to_string(&page).unwrap();
            let mut language = "";
            let typed = text.lines().filter_map(|line| {
                if let Some(fence) = line.trim_start().strip_prefix("```") {
                    language = fence;
                }
                let line = match language {
                    "console" => line.strip_prefix("$ ").or_else(|| line.strip_prefix("# "))?,
                    "sh" => line,
                    _ => return None,
                };
                line.starts_with("posthaste ").then_some((line, true))
            });
            let spans =
                text.split('`').skip(1).step_by(2).filter(|span| span.starts_with("posthaste "));
            for (command, whole) in typed.chain(spans.map(|span| (span, false))) {
                let command = command.split([';', '|', '>']).next().unwrap();
                let command = command.split("&&").next().unwrap();
                let id = "evt_019ab3c4-5d6e-7f80-9123-456789abcdef";
                let words = shlex::split(command).expect(command).into_iter();
                let words = words.map(|word| match word.as_str() {
                    "ID" => id.to_owned(),
                    "SYSTEM" => "hookdeck".to_owned(),
                    _ => word,
                });
                let Err(error) = Arguments::try_parse_from(words) else {
                    checked += 1;
                    continue;
                };
                if error.kind() == ErrorKind::DisplayHelp {
                    continue;
                }
                let short = matches!(
                    error.kind(),
                    ErrorKind::MissingRequiredArgument
                        | ErrorKind::MissingSubcommand
                        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                );
                if whole || !short {
                    wrong.push(format!("{}: {command}\n{error}", page.display()));
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(checked >= 40, "{checked}");
    }

    /// What is read can be read by a program: all but these, which print no data of a daemon or a configuration.
    #[test]
    fn every_command_that_prints_data_has_json() {
        let without = ["run", "top", "demo", "schema", "man", "completions"];
        let mut open = vec![Arguments::command()];
        let mut checked = 0;
        while let Some(command) = open.pop() {
            let leaf = command.get_subcommands().next().is_none();
            let json = command.get_arguments().any(|argument| argument.get_id() == "json");
            let exempt = without.contains(&command.get_name());
            assert_eq!(json, leaf && !exempt, "{}", command.get_name());
            checked += usize::from(json);
            open.extend(command.get_subcommands().cloned());
        }
        assert!(checked >= 30, "{checked}");
    }

    /// `docs/cli.md` is what `--help` says; `UPDATE=1 cargo test` writes it anew.
    #[test]
    fn the_manual_is_what_help_says() {
        let mut manual = "# The command line\n\nWhat `--help` says, held by a test.\n".to_owned();
        let mut root = Arguments::command().term_width(100);
        root.build();
        describe(&root, &mut manual);
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cli.md");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, &manual).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            written == manual,
            "docs/cli.md is old; run `UPDATE=1 cargo test --lib the_manual`"
        );
    }

    fn describe(command: &clap::Command, manual: &mut String) {
        let name = command.get_bin_name().unwrap_or("posthaste");
        let help = command.clone().render_help().to_string();
        let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
        *manual += &format!("\n## {name}\n\n```text\n{}\n```\n", lines.join("\n").trim_end());
        for subcommand in command.get_subcommands() {
            describe(subcommand, manual);
        }
    }

    #[test]
    fn arguments_are_read_or_refused() {
        let check = |line: &str, ok: bool| {
            let parsed = Arguments::try_parse_from(line.split_ascii_whitespace());
            assert_eq!(parsed.is_ok(), ok, "{line}: {parsed:?}");
        };
        check("posthaste run --config /etc/posthaste/posthaste.toml", true);
        check("posthaste send --source shop --type order.created --data {}", true);
        check("posthaste send --source shop --connection crm --data {}", false);
        check("posthaste send --data {} order.json", false);
        check("posthaste send --header x-a:1 --header x-b:2 -", true);
        check("posthaste send --header nonsense -", false);
        check("posthaste send", false);
        check("posthaste dead list --connection crm --limit 255 --json", true);
        check("posthaste dead list --limit 256", false);
        check("posthaste dead show crm evt_019ab3c4-5d6e-7f80-9123-456789abcdef --body", true);
        check("posthaste dead show crm 42", false);
        check("posthaste dead replay crm", false);
        check("posthaste dead replay crm --all --dry-run", true);
        check("posthaste dead replay crm --all evt_019ab3c4-5d6e-7f80-9123-456789abcdef", false);
        check("posthaste listen --status 503 --delay 200ms --fail 0.25 --count 3 -v", true);
        check("posthaste listen --status 99", false);
        check("posthaste listen --delay 5", false);
        check("posthaste listen --fail 2", false);
        check("posthaste connections list --label team=sales --state paused --limit 7", true);
        check("posthaste connections list --state gone", false);
        check("posthaste connections list --next a --prev b", false);
        check("posthaste connections create crm --url http://x/ --set retry.count=7", true);
        check("posthaste connections create --url http://x/", false);
        check("posthaste connections patch crm --unset timeout --if-match e1 --no-reload", true);
        check("posthaste connections patch crm --set timeout", false);
        check("posthaste connections unpause crm", true);
        check("posthaste schema daemon", true);
        check("posthaste schema else", false);
        check("posthaste enable crm --json", true);
        check("posthaste resume", false);
        check("posthaste pause crm --until-restart", true);
        check("posthaste pause crm", true);
        check("posthaste completions zsh", true);
        check("posthaste filter test --connection crm order.json --header x-a:1", true);
        check("posthaste filter test --filter f.json -", true);
        check("posthaste filter test order.json", false);
        check("posthaste filter test --filter f.json --connection crm order.json", false);
        check("posthaste transform test --connection crm --data {} --body", true);
        check("posthaste transform test order.json", false);
        check("posthaste test crm --send --data {} --json", true);
        check("posthaste test --file crm.toml", true);
        check("posthaste test crm --file crm.toml", false);
        check("posthaste test", false);
        check("posthaste explain evt_019ab3c4-5d6e-7f80-9123-456789abcdef --json", true);
        check("posthaste explain order-42", false);
        check("posthaste doctor --config x.toml --json", true);
        check("posthaste doctor crm", false);
        check("posthaste explode", false);
    }

    #[test]
    fn completions_know_the_commands() {
        let mut script = Vec::new();
        clap_complete::generate(
            clap_complete::Shell::Bash,
            &mut Arguments::command(),
            "posthaste",
            &mut script,
        );
        assert!(String::from_utf8(script).unwrap().contains("replay"));
    }
}
