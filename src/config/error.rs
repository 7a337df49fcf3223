//! What is wrong with a config file, shown with the lines it is about.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use whystall_event::text::escape;

/// A place in the file, both from 1; columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The character in it.
    pub column: usize,
}

/// The text of a config and what it is called in messages.
#[derive(Debug, Clone, Default)]
pub struct Source {
    origin: Arc<str>,
    text: Arc<str>,
}

impl Source {
    /// `origin` is a path, or what stands for it.
    pub fn new(origin: &str, text: &str) -> Source {
        Source { origin: origin.into(), text: text.into() }
    }

    /// What the text is called.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The place of a byte; the end of the text if it is beyond.
    pub fn position(&self, byte: usize) -> Position {
        let before = self.text.get(..byte).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        Position { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
    }

    /// A problem with the text of `span`. A span over several lines is marked on its first.
    pub fn problem(&self, span: Range<usize>, message: impl Into<String>) -> Problem {
        let Position { line, column } = self.position(span.start);
        let marked = self.text.get(span).unwrap_or_default();
        let length = marked.lines().next().map_or(1, |l| l.chars().count()).max(1);
        Problem { line, column, length, message: message.into(), help: None }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The line, from 1.
    pub line: usize,
    /// The character in it, from 1.
    pub column: usize,
    /// How many characters are meant.
    pub length: usize,
    /// What is wrong, without a full stop.
    pub message: String,
    /// What to do about it, if that can be said.
    pub help: Option<String>,
}

impl Problem {
    /// Adds what to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Problem {
        self.help = Some(help.into());
        self
    }
}

/// Everything that is wrong with a config file, in the file's order.
#[derive(Debug, Clone)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
    /// What they are about.
    pub source: Source,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<&str> = self.source.text.lines().collect();
        for (i, p) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n\n")?;
            }
            let gutter = p.line.to_string().len();
            writeln!(f, "error: {}", escape(&p.message))?;
            writeln!(f, "{:gutter$}--> {}:{}:{}", "", escape(&self.source.origin), p.line, p.column)?;
            writeln!(f, "{:gutter$} |", "")?;
            let (shown, skip, mark) =
                excerpt(lines.get(p.line.saturating_sub(1)).copied().unwrap_or_default(), p);
            writeln!(f, "{} | {shown}", p.line)?;
            write!(f, "{:gutter$} | {:skip$}{:^<mark$}", "", "", "")?;
            if let Some(help) = &p.help {
                write!(f, "\n{:gutter$} = help: {}", "", escape(help))?;
            }
        }
        Ok(())
    }
}

/// The part of a line to show, safe to show, with the place and length of the mark below it.
fn excerpt(line: &str, p: &Problem) -> (String, usize, usize) {
    const WIDEST: usize = 140;
    let first = p.column.saturating_sub(1);
    let from = if first + p.length.min(40) > WIDEST { first.saturating_sub(20) } else { 0 };
    let part = |from: usize, count: usize| line.chars().skip(from).take(count).collect::<String>();
    let before = escape(&part(from, first - from)).into_owned();
    let marked = escape(&part(first, p.length.min(WIDEST))).into_owned();
    let used = first - from + p.length;
    let after = escape(&part(from + used, WIDEST.saturating_sub(used))).into_owned();
    let (skip, mark) = (before.chars().count(), marked.chars().count().max(1));
    let dots = if from > 0 { "…" } else { "" };
    (format!("{dots}{before}{marked}{after}").trim_end().to_string(), skip + dots.chars().count(), mark)
}
