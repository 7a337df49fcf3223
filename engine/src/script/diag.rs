//! Diagnostics about rule files: what is wrong, where, and what to do about it.

use std::fmt;

use serde::Serialize;
use whystall_event::text::escape;

use super::codes::Code;
use super::library::Origin;

/// A place in a file; both count from 1. Zero means "the file as a whole".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

impl From<rhai::Position> for Place {
    fn from(p: rhai::Position) -> Place {
        Place { line: p.line().unwrap_or(0), column: p.position().unwrap_or(0) }
    }
}

/// How bad a diagnostic is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The rule is not loaded.
    Error,
    /// The rule is loaded but probably not what its author means.
    Warning,
    /// Good to know.
    Note,
}

/// One problem in one rule file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Error, warning or note.
    pub level: Level,
    /// The stable code; `whystall explain CODE` tells more.
    pub code: &'static str,
    /// The file as it was named when it was read.
    pub file: String,
    /// Where.
    #[serde(flatten)]
    pub place: Place,
    /// What is wrong: lower case, no full stop.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// The line of source the place is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_line: Option<String>,
}

impl fmt::Display for Diagnostic {
    /// The form people read: header, place, source line with a caret, help.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Note => "note",
        };
        writeln!(f, "{level}[{}]: {}", self.code, escape(&self.message))?;
        let (line, column) = (self.place.line, self.place.column);
        if line == 0 {
            writeln!(f, "  --> {}", escape(&self.file))?;
        } else {
            writeln!(f, "  --> {}:{line}:{column}", escape(&self.file))?;
        }
        if let (Some(source), true) = (&self.source_line, line > 0) {
            let gutter = line.to_string();
            let pad = " ".repeat(gutter.len());
            // Tabs are shown as one blank so that the caret stands under its character.
            let source = source.replace('\t', " ");
            writeln!(f, "{pad} |")?;
            writeln!(f, "{gutter} | {}", escape(&source))?;
            writeln!(f, "{pad} | {}^", " ".repeat(column.saturating_sub(1)))?;
        }
        if let Some(help) = &self.help {
            writeln!(f, "  = help: {}", escape(help))?;
        }
        Ok(())
    }
}

/// Problems of one level that are kept of a file; nobody reads more of them at once.
const KEPT: usize = 100;

/// Collects the diagnostics of one file.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    file: &'a str,
    lines: Vec<&'a str>,
    found: Vec<Diagnostic>,
    /// The newest problem, if it was kept: what help goes to.
    newest: Option<usize>,
    /// Where the checked text comes from, if it is not the file as it stands.
    origin: Origin,
}

impl<'a> Report<'a> {
    pub(crate) fn new(file: &'a str, text: &'a str) -> Report<'a> {
        Report {
            file,
            lines: text.lines().collect(),
            found: Vec::new(),
            newest: None,
            origin: Origin::default(),
        }
    }

    /// From now on places are those of an expanded text.
    pub(crate) fn expanded(&mut self, origin: Origin) {
        self.origin = origin;
    }

    /// Adds a problem; its level comes from its code.
    pub(crate) fn add(&mut self, code: Code, at: impl Into<Place>, message: impl Into<String>) -> &mut Self {
        let (place, message) = (at.into(), message.into());
        let (place, library) = match self.origin.is_empty() {
            true => (place, None),
            false => self.origin.of(place),
        };
        let file = library.map_or(self.file, |(file, _)| file).to_string();
        self.newest = None;
        // The same problem at the same place is told once, whichever pass saw it.
        let same =
            |o: &Diagnostic| (o.code, o.place, &o.message, &o.file) == (code.name(), place, &message, &file);
        let level = code.level();
        if self.found.iter().any(same) || self.found.iter().filter(|d| d.level == level).count() >= KEPT {
            return self;
        }
        let source_line = place.line.checked_sub(1).and_then(|n| match library {
            None => self.lines.get(n).copied(),
            Some((_, text)) => text.lines().nth(n),
        });
        self.newest = Some(self.found.len());
        self.found.push(Diagnostic {
            level,
            code: code.name(),
            file,
            place,
            message,
            help: None,
            source_line: source_line.map(|s| s.chars().take(200).collect()),
        });
        self
    }

    /// Adds help to the newest problem.
    pub(crate) fn help(&mut self, help: impl Into<String>) -> &mut Self {
        if let Some(d) = self.newest.and_then(|i| self.found.get_mut(i)) {
            d.help = Some(help.into());
        }
        self
    }

    /// Adds "did you mean" to the newest problem if one of `candidates` is near `given`; else lists them.
    pub(crate) fn suggest<'c>(&mut self, given: &str, candidates: impl IntoIterator<Item = &'c str>) {
        if self.newest.is_none() {
            return;
        }
        let all: Vec<&str> = candidates.into_iter().collect();
        let help = match whystall_event::text::did_you_mean(given, all.iter().copied()) {
            Some(c) => format!("did you mean `{c}`?"),
            None if all.is_empty() => return,
            None if all.len() <= 24 => format!("known here: {}", all.join(", ")),
            None => return,
        };
        self.help(help);
    }

    pub(crate) fn errors(&self) -> bool {
        self.found.iter().any(|d| d.level == Level::Error)
    }

    pub(crate) fn finish(mut self) -> Vec<Diagnostic> {
        self.found.sort_by(|a, b| (a.place, a.level, a.code).cmp(&(b.place, b.level, b.code)));
        self.found
    }
}
