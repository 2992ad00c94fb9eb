//! What people and programs read: stdout for data, stderr for talk. A closed stdout is a [`Failure`] of its own.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use super::Failure;
use crate::logging::{colours, escape, escape_json};

/// Writes bytes to stdout as they are.
pub(super) fn write(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::StdoutClosed,
        _ => Failure::Failed(anyhow::Error::new(error).context("cannot write to stdout")),
    })
}

/// Writes one line to stdout.
pub(super) fn line(text: &str) -> Result<(), Failure> {
    write(format!("{text}\n").as_bytes())
}

/// Writes a value as JSON on one line, in which foreign control characters are escapes.
pub(super) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|error| Failure::Failed(error.into()))?;
    line(&escape_json(&text))
}

/// Says something to the person, beside the data.
pub(super) fn say(text: &str) {
    // Nobody is left to hear that stderr is closed.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Says why the command failed.
pub(super) fn complain(text: &str) {
    say(&format!("posthaste: {text}"));
}

/// Colours for stdout, or none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paint(bool);

impl Paint {
    /// Colours if stdout is a terminal that has them.
    pub(super) fn for_stdout() -> Paint {
        Paint(colours(io::stdout().is_terminal()))
    }

    #[cfg(test)]
    pub(super) fn plain() -> Paint {
        Paint(false)
    }

    /// Someone should look at this.
    pub(super) fn bad(self, text: &str) -> String {
        self.wrap("31", text)
    }

    /// This is as it should be.
    pub(super) fn good(self, text: &str) -> String {
        self.wrap("32", text)
    }

    /// This matters less.
    pub(super) fn faint(self, text: &str) -> String {
        self.wrap("2", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.0 { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// Columns of text under headings. Foreign control characters are escaped.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(headings: &[&str]) -> Table {
        Table { rows: vec![headings.iter().map(|heading| (*heading).to_owned()).collect()] }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| escape(&cell)).collect());
    }

    pub(super) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                // Writing to a String cannot fail.
                let _ = write!(line, "{cell:<width$}  ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Names and values, one below the other; an empty value is left out. Foreign control characters are escaped.
#[derive(Debug, Default)]
pub(super) struct Fields(String);

impl Fields {
    pub(super) fn line(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.0.push_str(&format!("{name:<12}{}\n", escape(value)));
        }
    }

    pub(super) fn text(self) -> String {
        self.0
    }
}

/// The start of a body under an empty line. Line breaks are its layout; nothing else may reach the terminal.
pub(super) fn excerpt(text: Option<&str>) -> String {
    match text {
        Some(text) if !text.is_empty() => {
            let lines: Vec<String> = text.lines().map(escape).collect();
            format!("\n{}\n", lines.join("\n"))
        }
        _ => String::new(),
    }
}

/// The type of content of a body.
pub(super) fn guess_type(body: &[u8]) -> &'static str {
    if serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok() {
        "application/json"
    } else {
        "application/octet-stream"
    }
}

/// `1 event`, `2 events`.
pub(super) fn plural(count: u64, noun: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{ending}")
}

/// Bytes in the largest unit that leaves a whole part: `64.0 MiB`.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    for (unit, size) in UNITS {
        if count >= size {
            let tenths = u128::from(count) * 10 / u128::from(size);
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
    }
    format!("{count} B")
}

/// A time span in its two largest units: `2d 3h`, `4m 5s`.
pub(super) fn seconds(count: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];
    let mut parts = Vec::new();
    let mut rest = count;
    for (unit, size) in UNITS {
        if rest >= size || (unit == "s" && parts.is_empty()) {
            parts.push(format!("{}{unit}", rest / size));
            rest %= size;
        } else if !parts.is_empty() {
            break;
        }
    }
    parts.truncate(2);
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_and_escape() {
        let mut table = Table::new(&["NAME", "STATE"]);
        table.row(["crm".to_owned(), "active".to_owned()]);
        table.row(["warehouse".to_owned(), "\u{1b}[2Jx".to_owned()]);
        let expected = "NAME       STATE\ncrm        active\nwarehouse  \\u{1b}[2Jx\n";
        assert_eq!(table.render(), expected);
    }

    #[test]
    fn figures_are_for_people() {
        let spans = [0, 59, 60, 3_661, 90_061, 86_400].map(seconds);
        assert_eq!(spans, ["0s", "59s", "1m", "1h 1m", "1d 1h", "1d"]);
        let sizes = [0, 1023, 1024, 67_108_864, u64::MAX].map(bytes);
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "64.0 MiB", "17179869183.9 GiB"]);
        assert_eq!(plural(1, "event"), "1 event");
        assert_eq!(plural(0, "event"), "0 events");
    }

    #[test]
    fn plain_means_plain() {
        assert_eq!(Paint(false).bad("dead"), "dead");
        assert_eq!(Paint(true).good("ok"), "\u{1b}[32mok\u{1b}[0m");
    }
}
