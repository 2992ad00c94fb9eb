//! What is wrong with a configuration, where, and what to write instead.

use std::fmt;

/// One error. `Display` is one line; [`ConfigError::render`] adds the source line and a caret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, relative to the daemon's own file where it lies below.
    pub file: String,
    /// Where in the file; `None` when the file as a whole is the matter.
    pub position: Option<Position>,
    /// Which setting: `connection "crm" retry.interval`. Empty when it is none.
    pub key_path: String,
    /// What is wrong and what to write.
    pub message: String,
    /// The line, with what may be secret masked.
    pub snippet: Option<Snippet>,
}

/// A warning looks like an error, and does not stop anything.
pub type ConfigWarning = ConfigError;

/// A place in a file. Both count from 1; columns are Unicode characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
}

/// A source line to show under an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snippet {
    /// The line, masked, without control characters.
    pub line: String,
    /// Characters before the caret.
    pub caret: usize,
    /// Width of what the caret underlines.
    pub width: usize,
}

impl ConfigError {
    pub(super) fn of_file(file: String, message: String) -> ConfigError {
        ConfigError { file, position: None, key_path: String::new(), message, snippet: None }
    }

    /// The error, its line and a caret. `word` comes first: `error` or `warning`.
    pub fn render(&self, word: &str) -> String {
        let mut text = format!("{word}: {self}\n");
        if let (Some(Position { line, .. }), Some(snippet)) = (self.position, &self.snippet) {
            let number = line.to_string();
            let gutter = " ".repeat(number.len());
            let blank = " ".repeat(snippet.caret);
            let carets = "^".repeat(snippet.width);
            text.push_str(&format!("{gutter} |\n{number} | {}\n", snippet.line));
            text.push_str(&format!("{gutter} | {blank}{carets}\n"));
        }
        text
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(Position { line, column }) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        if !self.key_path.is_empty() {
            write!(f, ": {}", self.key_path)?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for ConfigError {}
