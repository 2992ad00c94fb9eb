//! Logs: one line per event on stderr, text for people or JSON for machines, and a level that a reload may change.
//!
//! Promises: control characters in anything foreign are escaped, so that a hostile name or answer can neither forge a
//! line nor drive a terminal; nothing but logs goes to stderr from the daemon; what repeats is written a few times and then
//! counted ([`say_repeats`]). Under systemd each line of JSON has its priority before it, as sd-daemon(3) has it, so that
//! `journalctl -p err` finds errors; the journal takes it off. It does not write files, rotate or ship:
//! the service manager does.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal};
use std::os::unix::fs::MetadataExt;
use std::str::FromStr;
use std::sync::OnceLock;

use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::filter::FilterExt;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::{self, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, reload};

use crate::clock::Clock;
use repeats::Repeats;

mod repeats;

/// What `[log]` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The least important level that is written.
    pub level: LevelFilter,
    /// How a line looks.
    pub format: Format,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { level: LevelFilter::INFO, format: Format::Auto }
    }
}

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    /// Text on a terminal, else JSON.
    #[default]
    Auto,
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Format, String> {
        match text {
            "auto" => Ok(Format::Auto),
            "text" => Ok(Format::Text),
            "json" => Ok(Format::Json),
            other => Err(format!("{other:?} is not a log format; write auto, text or json")),
        }
    }
}

/// Reads a level by its name.
///
/// # Errors
/// A sentence that names the levels.
pub fn parse_level(text: &str) -> Result<LevelFilter, String> {
    match text {
        "off" => Ok(LevelFilter::OFF),
        "error" => Ok(LevelFilter::ERROR),
        "warn" => Ok(LevelFilter::WARN),
        "info" => Ok(LevelFilter::INFO),
        "debug" => Ok(LevelFilter::DEBUG),
        "trace" => Ok(LevelFilter::TRACE),
        other => Err(format!(
            "{other:?} is not a log level; write off, error, warn, info, debug or trace"
        )),
    }
}

/// The switch of the process's logging: a process has one stderr, and `tracing` has one global subscriber.
static SWITCH: OnceLock<Switch> = OnceLock::new();

/// Starts logging to stderr. Call it once, at the start of the process.
///
/// # Errors
/// When logging has been started before.
pub fn init(settings: Settings) -> Result<(), TryInitError> {
    let repeats = Repeats::new(Clock::system());
    let (terminal, journal) = (io::stderr().is_terminal(), to_journal());
    let (subscriber, switch) = subscriber(io::stderr, terminal, journal, repeats);
    switch.apply(settings);
    subscriber.try_init()?;
    // `try_init` lets one caller through, so the cell is empty.
    let _ = SWITCH.set(switch);
    Ok(())
}

/// Changes level and format, as a reload does. Without [`init`] it does nothing.
pub fn apply(settings: Settings) {
    if let Some(switch) = SWITCH.get() {
        switch.apply(settings);
    }
}

/// Says how often was not written what repeated. The daemon calls it now and then.
pub fn say_repeats() {
    if let Some(switch) = SWITCH.get() {
        switch.repeats.say();
    }
}

/// Whether stderr is the journal's: systemd says of which socket it is, as device and inode.
fn to_journal() -> bool {
    let said = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let ours = std::fs::metadata("/proc/self/fd/2");
    ours.is_ok_and(|ours| said == format!("{}:{}", ours.dev(), ours.ino()))
}

/// Whether colours may be used on a stream: it is a terminal, `NO_COLOR` is unset or empty, and `TERM` is not `dumb`.
pub fn colours(terminal: bool) -> bool {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
    terminal && !no_color && !dumb
}

/// Text with its control characters written as escapes, for anything foreign that people will read.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    // Writing to a String cannot fail.
    let _ = Escape(&mut escaped).write_str(text);
    escaped
}

/// JSON in which what a terminal would act on stands as escapes, too: JSON itself only asks for those below U+0020. It
/// does not occur outside of strings.
pub fn escape_json(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for character in json.chars() {
        if must_be_escaped(character) && character != '\n' {
            // Writing to a String cannot fail.
            let _ = write!(escaped, "\\u{:04x}", u32::from(character));
        } else {
            escaped.push(character);
        }
    }
    escaped
}

/// Both formats are installed; the one that is not wanted is off.
struct Switch {
    terminal: bool,
    text: reload::Handle<LevelFilter, Registry>,
    json: reload::Handle<LevelFilter, Registry>,
    repeats: Repeats,
}

impl Switch {
    fn apply(&self, settings: Settings) {
        let json = match settings.format {
            Format::Auto => !self.terminal,
            Format::Text => false,
            Format::Json => true,
        };
        let level_if = |wanted| {
            if wanted { settings.level } else { LevelFilter::OFF }
        };
        // The handles only fail when the subscriber is gone, and it lives as long as the process.
        let _ = self.text.reload(level_if(!json));
        let _ = self.json.reload(level_if(json));
    }
}

fn subscriber<W>(
    writer: W,
    terminal: bool,
    journal: bool,
    repeats: Repeats,
) -> (impl Subscriber + Send + Sync, Switch)
where
    W: for<'w> MakeWriter<'w> + Clone + Send + Sync + 'static,
{
    let (text_level, text_handle) = reload::Layer::new(LevelFilter::OFF);
    let (json_level, json_handle) = reload::Layer::new(LevelFilter::OFF);
    let text = tracing_subscriber::fmt::layer()
        .with_writer(writer.clone())
        .with_ansi(colours(terminal))
        .with_target(false)
        .fmt_fields(escaped_fields())
        .with_filter(text_level.and(repeats.clone()));
    let json = tracing_subscriber::fmt::layer()
        .with_writer(EscapeJson { writer, journal })
        .json()
        .flatten_event(true)
        .with_span_list(false)
        .with_filter(json_level.and(repeats.clone()));
    let switch = Switch { terminal, text: text_handle, json: json_handle, repeats };
    let layers: Vec<Box<dyn Layer<Registry> + Send + Sync>> = vec![text.boxed(), json.boxed()];
    (tracing_subscriber::registry().with(layers), switch)
}

fn escaped_fields() -> impl for<'w> FormatFields<'w> + Send + Sync + 'static {
    format::debug_fn(|writer, field, value| match field.name() {
        "message" => write!(Escape(writer), "{value:?}"),
        name => write!(Escape(writer), "{name}={value:?}"),
    })
    .delimited(" ")
}

/// Writes through, with control characters as escapes.
struct Escape<W>(W);

impl<W: fmt::Write> fmt::Write for Escape<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(at) = rest.find(must_be_escaped) {
            let (clean, tail) = rest.split_at(at);
            self.0.write_str(clean)?;
            let mut characters = tail.chars();
            if let Some(control) = characters.next() {
                write!(self.0, "{}", control.escape_default())?;
            }
            rest = characters.as_str();
        }
        self.0.write_str(rest)
    }
}

/// Makes writers that put lines of JSON through [`escape_json`], for the journal with their priority before them.
#[derive(Clone)]
struct EscapeJson<W> {
    writer: W,
    journal: bool,
}

impl<'w, W: MakeWriter<'w>> MakeWriter<'w> for EscapeJson<W> {
    type Writer = EscapeLine<W::Writer>;

    fn make_writer(&'w self) -> Self::Writer {
        EscapeLine { writer: self.writer.make_writer(), priority: "" }
    }

    fn make_writer_for(&'w self, metadata: &Metadata<'_>) -> Self::Writer {
        let priority = if self.journal { priority(*metadata.level()) } else { "" };
        EscapeLine { writer: self.writer.make_writer_for(metadata), priority }
    }
}

/// The journal's priority of a level, as the start of a line says it.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        _ => "<7>",
    }
}

struct EscapeLine<W> {
    writer: W,
    priority: &'static str,
}

impl<W: io::Write> io::Write for EscapeLine<W> {
    /// The layer writes a whole line at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let escaped = match std::str::from_utf8(line) {
            Ok(text) if text.contains(|c| must_be_escaped(c) && c != '\n') => {
                escape_json(text).into_bytes()
            }
            _ if self.priority.is_empty() => {
                self.writer.write_all(line)?;
                return Ok(line.len());
            }
            _ => line.to_vec(),
        };
        // In one piece: what other threads write must not come between.
        self.writer.write_all(&[self.priority.as_bytes(), &escaped].concat())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// Control characters, and the marks that make a line read in another order than it is written.
fn must_be_escaped(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(steps: impl FnOnce(&Switch)) -> String {
        logged_to(false, Clock::system(), steps)
    }

    fn logged_to(journal: bool, clock: Clock, steps: impl FnOnce(&Switch)) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let repeats = Repeats::new(clock);
        let (subscriber, switch) = subscriber(move || writer.clone(), false, journal, repeats);
        tracing::subscriber::with_default(subscriber, || steps(&switch));
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    fn settings(level: LevelFilter, format: Format) -> Settings {
        Settings { level, format }
    }

    #[test]
    fn text_escapes_what_is_foreign() {
        let text = logged(|switch| {
            switch.apply(settings(LevelFilter::INFO, Format::Text));
            let hostile = "a\n2026 ERROR forged \u{1b}[31m\u{202e}";
            tracing::info!(name = hostile, shown = %hostile, "Took {hostile}");
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text}");
        assert!(text.contains("Took a\\n2026 ERROR forged"), "{text}");
    }

    #[test]
    fn json_is_one_object_per_line_with_the_fields_on_top() {
        let text = logged(|switch| {
            switch.apply(settings(LevelFilter::INFO, Format::Auto));
            tracing::info!(connection = "crm", "Reloaded\nit");
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["connection"], "crm");
        assert_eq!(line["message"], "Reloaded\nit");
        assert_eq!(line["level"], "INFO");
    }

    #[test]
    fn json_has_nothing_that_a_terminal_would_act_on() {
        let hostile = "\u{1b}[31m \u{7f} \u{9b}2J \u{202e}x é \n";
        let text = logged(|switch| {
            switch.apply(settings(LevelFilter::INFO, Format::Json));
            tracing::info!(name = hostile, "Took {hostile}");
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        let raw = text.chars().find(|c| must_be_escaped(*c) && *c != '\n');
        assert_eq!(raw, None, "{text}");
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["name"], hostile);
        let json = serde_json::to_string(hostile).unwrap();
        assert_eq!(serde_json::from_str::<String>(&escape_json(&json)).unwrap(), hostile);
    }

    #[test]
    fn level_and_format_change_while_running() {
        let text = logged(|switch| {
            switch.apply(settings(LevelFilter::WARN, Format::Text));
            tracing::info!("first");
            switch.apply(settings(LevelFilter::DEBUG, Format::Text));
            tracing::debug!("second");
            switch.apply(settings(LevelFilter::INFO, Format::Json));
            tracing::info!("third");
        });
        assert!(!text.contains("first"), "{text}");
        assert!(text.lines().next().unwrap().ends_with("second"), "{text}");
        assert!(text.lines().nth(1).unwrap().starts_with('{'), "{text}");
    }

    #[test]
    fn the_journal_is_told_the_priority_of_each_line() {
        let text = logged_to(true, Clock::system(), |switch| {
            switch.apply(settings(LevelFilter::TRACE, Format::Auto));
            tracing::error!("a");
            tracing::warn!("\u{1b}");
            tracing::info!("a");
            tracing::debug!("a");
        });
        let starts: Vec<&str> = text.lines().map(|line| &line[..4]).collect();
        assert_eq!(starts, ["<3>{", "<4>{", "<6>{", "<7>{"], "{text}");
        for line in text.lines() {
            serde_json::from_str::<serde_json::Value>(&line[3..]).unwrap();
        }
    }

    #[test]
    fn what_repeats_is_written_a_few_times_then_counted_and_the_count_is_said() {
        let clock = Clock::manual(0);
        let dead = |connection: &str| tracing::warn!(connection, "It is dead");
        let text = logged_to(false, clock.clone(), |switch| {
            switch.apply(settings(LevelFilter::INFO, Format::Json));
            let many = repeats::BURST + 300;
            (0..many).for_each(|_| dead("crm"));
            // Another connection, another place, another level: each for itself.
            dead("shop");
            tracing::error!(connection = "crm", "It is something else");
            (0..many).for_each(|_| tracing::info!("An operator did it"));
            switch.repeats.say();
            clock.advance(repeats::WINDOW);
            // Until it is said, it is counted on.
            dead("crm");
            switch.repeats.say();
            dead("crm");
            clock.advance(repeats::WINDOW);
            switch.repeats.say();
        });
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let count = |message: &str, connection: &str| {
            let is = |line: &&serde_json::Value| {
                line["message"] == message && (line["connection"] == connection)
            };
            lines.iter().filter(is).count()
        };
        assert_eq!(count("It is dead", "crm"), repeats::BURST as usize + 1);
        assert_eq!(count("It is dead", "shop"), 1);
        assert_eq!(count("It is something else", "crm"), 1);
        let all = lines.iter().filter(|line| line["message"] == "An operator did it").count();
        assert_eq!(all, repeats::BURST as usize + 300);
        let said: Vec<_> = lines.iter().filter(|line| !line["suppressed"].is_null()).collect();
        assert_eq!(said.len(), 1, "{text}");
        assert_eq!(said[0]["suppressed"], 301);
        assert_eq!(said[0]["connection"], "crm");
        assert_eq!(said[0]["repeated"], "It is dead");
    }

    #[test]
    fn names_are_read_or_refused_with_the_list() {
        assert_eq!(parse_level("debug"), Ok(LevelFilter::DEBUG));
        assert!(parse_level("verbose").unwrap_err().contains("info"));
        assert_eq!("json".parse(), Ok(Format::Json));
        assert!("xml".parse::<Format>().unwrap_err().contains("auto"));
        assert_eq!(escape("a\tb\u{7f}"), "a\\tb\\u{7f}");
    }
}
