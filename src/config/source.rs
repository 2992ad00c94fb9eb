//! One file as it was read, places in it, and the line that an error shows.
//!
//! **Invariant:** a line that is shown never holds a secret. What stands in quotes is masked unless the error is about that
//! very value and its kind is no secret; of the lines of a file that does not parse, only known keys are shown.

use std::cell::{Cell, OnceCell};
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;

use super::error::{ConfigError, Position, Snippet};
use super::fields;

/// One configuration file.
#[derive(Debug)]
pub(super) struct SourceFile {
    /// Where it was read from; empty for the built-in defaults.
    pub(super) path: PathBuf,
    /// How errors call it: relative to the daemon's file where it lies below.
    pub(super) shown: String,
    pub(super) text: String,
    /// The file does not parse, so strings cannot be told from what lies between them.
    pub(super) broken: Cell<bool>,
    line_starts: OnceCell<Vec<usize>>,
    strings: OnceCell<Vec<Range<usize>>>,
}

/// A place in a file.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) file: Rc<SourceFile>,
    pub(super) span: Range<usize>,
}

/// How much of the line around an error may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reveal {
    /// What the error points at; other strings of the line are masked.
    Value,
    /// The key that the error points at, but nothing of its value, which is here.
    Key(Range<usize>),
    /// The error points at a secret.
    Nothing,
}

/// Characters of a line that are shown at most.
const LINE_SHOWN: usize = 160;

impl SourceFile {
    pub(super) fn new(path: PathBuf, shown: String, text: String) -> Rc<SourceFile> {
        Rc::new(SourceFile {
            path,
            shown,
            text,
            broken: Cell::new(false),
            line_starts: OnceCell::new(),
            strings: OnceCell::new(),
        })
    }

    pub(super) fn position(&self, at: usize) -> Position {
        let line = self.line_of(at);
        Position {
            line: line + 1,
            column: self.slice(self.line_start(line)..at).chars().count() + 1,
        }
    }

    /// From 0.
    pub(super) fn line_of(&self, at: usize) -> usize {
        let after = self.line_starts().partition_point(|start| *start <= at);
        after.saturating_sub(1)
    }

    /// Whether the line around `at` is the header of a table, or was meant to be one.
    pub(super) fn is_header(&self, at: usize) -> bool {
        self.slice(self.line_range(at)).trim_start().starts_with('[')
    }

    fn slice(&self, range: Range<usize>) -> &str {
        self.text.get(range).unwrap_or_default()
    }

    fn line_starts(&self) -> &[usize] {
        self.line_starts.get_or_init(|| {
            let after_breaks = self.text.match_indices('\n').map(|(at, _)| at + 1);
            std::iter::once(0).chain(after_breaks).collect()
        })
    }

    fn line_start(&self, line: usize) -> usize {
        self.line_starts().get(line).copied().unwrap_or(0)
    }

    /// The line around `at`, without its line break.
    fn line_range(&self, at: usize) -> Range<usize> {
        let start = self.line_start(self.line_of(at));
        let line = self.slice(start..self.text.len()).lines().next();
        start..start + line.unwrap_or_default().len()
    }

    fn strings(&self) -> &[Range<usize>] {
        self.strings.get_or_init(|| string_contents(&self.text))
    }
}

impl Place {
    /// Whether nobody wrote this value: it is a built-in default.
    pub(super) fn is_builtin(&self) -> bool {
        self.file.path.as_os_str().is_empty()
    }

    pub(super) fn error(&self, reveal: &Reveal, key_path: &str, message: String) -> ConfigError {
        ConfigError {
            file: self.file.shown.clone(),
            position: Some(self.file.position(self.span.start)),
            key_path: key_path.trim_end().replace(char::is_control, "?"),
            message,
            snippet: Some(self.snippet(reveal)),
        }
    }

    /// `file:line:column`.
    pub(super) fn name(&self) -> String {
        let Position { line, column } = self.file.position(self.span.start);
        format!("{}:{line}:{column}", self.file.shown)
    }

    fn snippet(&self, reveal: &Reveal) -> Snippet {
        let line = self.file.line_range(self.span.start);
        let hidden = match reveal {
            _ if self.file.broken.get() => {
                let line_text = self.file.slice(line.clone());
                with(Vec::new(), syntax_hidden(line_text, line.start))
            }
            Reveal::Value => self.masked_strings(),
            // The value of a [table] is its header, which the key stands in.
            Reveal::Key(value) if value.start <= self.span.start => self.masked_strings(),
            Reveal::Key(value) => with(self.masked_strings(), value.clone()),
            Reveal::Nothing => with(self.masked_strings(), self.span.clone()),
        };
        let (mut text, mut caret_at, mut caret_end) = (String::new(), None, 0);
        let (mut shown, mut masking) = (0, false);
        for (offset, char) in self.file.slice(line.clone()).char_indices() {
            let at = line.start + offset;
            let hide = hidden.iter().any(|range| range.contains(&at));
            if !(hide && masking) && shown < LINE_SHOWN {
                text.push(if hide { '…' } else { printable(char) });
                shown += 1;
            }
            masking = hide;
            if at >= self.span.start && caret_at.is_none() {
                caret_at = Some(shown.saturating_sub(1));
            }
            if at < self.span.end {
                caret_end = shown;
            }
        }
        let caret = caret_at.unwrap_or(shown);
        Snippet { line: text, caret, width: caret_end.saturating_sub(caret).max(1) }
    }

    /// The strings of the file, except the one that this place is.
    fn masked_strings(&self) -> Vec<Range<usize>> {
        /// Quotes of both ends, at most.
        const QUOTES: usize = 6;
        let is_this = |range: &Range<usize>| {
            self.span.start <= range.start
                && range.end <= self.span.end
                && self.span.len() <= range.len() + QUOTES
        };
        let strings = self.file.strings().iter();
        strings.filter(|range| !is_this(range)).cloned().collect()
    }
}

fn with(mut ranges: Vec<Range<usize>>, range: Range<usize>) -> Vec<Range<usize>> {
    ranges.push(range);
    ranges
}

/// Tabs and control characters would move the caret, or the terminal.
fn printable(char: char) -> char {
    if char.is_control() { ' ' } else { char }
}

/// What of a line is hidden in a file that does not parse: all after a known key's `=`, or after a table's header.
fn syntax_hidden(line: &str, start: usize) -> Range<usize> {
    let indent = line.len() - line.trim_start().len();
    let trimmed = line.trim_start();
    let key_end = trimmed
        .find(|c: char| !(c.is_ascii_alphanumeric() || "_-.".contains(c)))
        .unwrap_or(trimmed.len());
    let key = trimmed.get(..key_end).unwrap_or_default();
    let last = key.rsplit('.').next().unwrap_or_default();
    let visible = if trimmed.starts_with('[') {
        known_header(trimmed)
    } else if fields::is_key(last) {
        let equals = trimmed.find('=').map(|at| at + 1);
        // One blank after the sign belongs to the layout, not to the value.
        equals.map_or(key_end, |at| at + usize::from(trimmed.as_bytes().get(at) == Some(&b' ')))
    } else {
        0
    };
    start + indent + visible..start + line.len()
}

/// How much of a table's header consists of known keys, its brackets included.
fn known_header(header: &str) -> usize {
    let name = header.trim_start_matches('[');
    let mut end = header.len() - name.len();
    for segment in name.split('.') {
        let key = segment.trim_end_matches(']');
        if !fields::is_key(key) {
            break;
        }
        let after = header.as_bytes().get(end + segment.len());
        end += segment.len() + usize::from(after == Some(&b'.'));
    }
    end
}

/// The contents of all TOML strings and comments, without their quotes. Comments count, because a commented-out line may
/// hold a secret too.
fn string_contents(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(next) = text.get(at..).and_then(|rest| rest.find(['"', '\'', '#'])) {
        let open = at + next;
        let rest = text.get(open..).unwrap_or_default();
        let (quotes, end) = if rest.starts_with('#') {
            (1, rest.find('\n').unwrap_or(rest.len()))
        } else if rest.starts_with("\"\"\"") {
            (3, closing(rest, "\"\"\"", true))
        } else if rest.starts_with("'''") {
            (3, closing(rest, "'''", false))
        } else if rest.starts_with('"') {
            (1, closing(rest, "\"", true))
        } else {
            (1, closing(rest, "'", false))
        };
        found.push(open + quotes..open + end.max(quotes));
        let closed = if rest.starts_with('#') { 0 } else { quotes };
        at = (open + end.max(quotes) + closed).min(text.len());
    }
    found
}

/// Where the string that `rest` begins with ends: the offset of its closing quotes.
fn closing(rest: &str, quotes: &str, escapes: bool) -> usize {
    let mut at = quotes.len();
    while let Some(tail) = rest.get(at..).filter(|tail| !tail.is_empty()) {
        if tail.starts_with(quotes) {
            return at;
        }
        let mut chars = tail.chars();
        let first = chars.next().unwrap_or(' ');
        if first == '\n' && quotes.len() == 1 {
            return at;
        }
        at += first.len_utf8();
        if escapes && first == '\\' {
            at += chars.next().map_or(0, char::len_utf8);
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `«` and `»` in `text` mark the span.
    fn check(text: &str, reveal: &Reveal, expected: &str) {
        check_file(text, reveal, expected, false);
    }

    fn check_broken(text: &str, expected: &str) {
        check_file(text, &Reveal::Value, expected, true);
    }

    fn check_file(text: &str, reveal: &Reveal, expected: &str, broken: bool) {
        let start = text.find('«').unwrap();
        let end = text.find('»').unwrap() - '«'.len_utf8();
        let text = text.replace(['«', '»'], "");
        let file = SourceFile::new("x.toml".into(), "x.toml".into(), text);
        file.broken.set(broken);
        let place = Place { file, span: start..end };
        let shown = place.error(reveal, "", String::new()).snippet.unwrap();
        let marked: String = shown
            .line
            .chars()
            .enumerate()
            .flat_map(|(at, char)| {
                let open = (at == shown.caret).then_some('«');
                let close = (at + 1 == shown.caret + shown.width).then_some('»');
                [open, Some(char), close]
            })
            .flatten()
            .collect();
        assert_eq!(marked, expected);
    }

    #[test]
    fn lines_hide_what_the_error_is_not_about() {
        check("\na = «\"30\"»", &Reveal::Value, "a = «\"30\"»");
        check(
            "x = { b = \"pass\", a = «\"30\"» } # or \"word\"",
            &Reveal::Value,
            "x = { b = \"…\", a = «\"30\"» } #…",
        );
        check("«hedaers» = { A = \"pass\", B = 17 }", &Reveal::Key(10..33), "«hedaers» = …");
        check("A = «17» # x", &Reveal::Nothing, "A = «…» #…");
        check("A = «\"pa\\\"ss\"»", &Reveal::Nothing, "A = «…»");
        check("A = \"\"\"\nthe «»pass\n\"\"\"", &Reveal::Value, "«…»");
        check("é\t= «\"ü\"»", &Reveal::Value, "é = «\"ü\"»");
    }

    #[test]
    fn lines_that_do_not_parse_hide_all_but_the_key() {
        check_broken("url = «»https://u:p@x", "url = «…»");
        check_broken("  retry.interval «»30s", "  retry.interval«…»");
        check_broken("cGFzc3dvcmQ=«»=", "«…»");
        check_broken("[connection.retry«»", "[connection.retry");
        check_broken("[connection.env.prod«»]", "[connection.env.«…»");
        check_broken("[[connection]«»", "[[connection]");
        check_broken("[«»hunter2]", "[«…»");
        check_broken("A = «»\"abc", "«…»");
    }

    #[test]
    fn positions_count_characters() {
        let file = SourceFile::new("x".into(), "x".into(), "äö = 1\r\n é = 2\n".to_owned());
        let at = |at| {
            let position = file.position(at);
            (position.line, position.column)
        };
        assert_eq!(at(0), (1, 1));
        assert_eq!(at(7), (1, 6));
        assert_eq!(at(11), (2, 2));
        assert_eq!(at(999), (3, 1));
    }
}
