//! Recordings as JSON lines, for people and other programs.
//!
//! ```json
//! {"declare": {"stream": "reclaim", "mode": "occurrences", "fields": {"duration": "duration", "comm": "text"}}}
//! {"t": 12.5, "stream": "vmstat", "fields": {"pgscan_direct": 123}}
//! {"t": "2026-11-22T10:00:00.123Z", "stream": "memcg", "subject": "cgroup:/a", "usage": 4096}
//! {"t": 13, "stream": "memcg", "gone": ["cgroup:/b"]}
//! ```
//!
//! `t` (also `time`, `ts`, `@timestamp`) is seconds, from any beginning or from 1970, or an RFC 3339 time. Without
//! `fields` all other keys are fields; with it they are ignored. Without `subject` a row is about the host. Time
//! values are milliseconds, as everywhere outside. A line without any field says for a stream of occurrences that it
//! is watched; `"covered": false` says that some were lost. A stream that nobody declared becomes what its lines show:
//! numbers are gauges.

mod declare;
mod events;
mod lines;
mod number;
mod scan;
mod slots;
mod write;

#[cfg(test)]
mod tests;

pub use write::JsonWriter;

use std::io::{self, Read};

use whystall_event::text::escape;
use whystall_event::{Batch, Stream};

use super::Item;
use events::Events;
use lines::{Found, Lines};
use scan::{Line, Malformed};
use slots::Out;

/// Problems that are kept with their text.
const KEPT: usize = 10;

/// Something wrong in a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineProblem {
    /// The line's number, from 1.
    pub line: u64,
    /// The character within the line, from 1.
    pub column: usize,
    /// What is wrong; safe to show.
    pub message: String,
}

impl std::fmt::Display for LineProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}

/// What was read so far.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JsonSummary {
    /// Lines, also empty ones.
    pub lines: u64,
    /// Lines that became an event.
    pub events: u64,
    /// Lines that could not be read at all.
    pub malformed: u64,
    /// Values that were left out of lines that otherwise count: of an unknown field, or of the wrong kind.
    pub ignored: u64,
    /// Lines that were left out because their time was over by more than an interval.
    pub late: u64,
    /// Stretches of more than 10000 intervals without data, which were passed over.
    pub gaps: u64,
    /// The first ten problems.
    pub problems: Vec<LineProblem>,
}

impl JsonSummary {
    #[cold]
    fn problem(&mut self, line: u64, text: &str, wrong: &Malformed) {
        if self.problems.len() < KEPT {
            let column = 1 + text.char_indices().take_while(|(i, _)| *i < wrong.at).count();
            self.problems.push(LineProblem { line, column, message: escape(&wrong.what).into_owned() });
        }
    }
}

impl std::fmt::Display for JsonSummary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "read {} events in {} lines", self.events, self.lines)?;
        for (count, what) in [
            (self.malformed, "lines are malformed"),
            (self.ignored, "values were ignored"),
            (self.late, "lines are out of order by more than an interval"),
            (self.gaps, "long stretches without data were passed over"),
        ] {
            if count > 0 {
                write!(f, "; {count} {what}")?;
            }
        }
        Ok(())
    }
}

/// Reads JSON lines; see the [module](self).
#[derive(Debug)]
pub struct JsonReader<R> {
    lines: Lines<R>,
    line: Line,
    events: Events,
    given: Option<Batch>,
    ended: bool,
    summary: JsonSummary,
}

impl<R: Read> JsonReader<R> {
    /// Reads lines from `input` about the streams of `schema` and others, with a tick each `interval_ns` (1 s if 0).
    /// A declaration in the data goes before the schema's.
    pub fn new<'a>(
        input: R,
        schema: impl IntoIterator<Item = &'a Stream>,
        interval_ns: u64,
    ) -> JsonReader<R> {
        JsonReader {
            lines: Lines::new(input),
            line: Line::default(),
            events: Events::new(schema, interval_ns),
            given: None,
            ended: false,
            summary: JsonSummary::default(),
        }
    }

    /// What was read so far.
    pub fn summary(&self) -> &JsonSummary {
        &self.summary
    }

    /// The next item, or `None` at the end. Malformed lines are counted in the [`JsonSummary`] and passed over; an error
    /// means that the input could not be read.
    #[allow(clippy::should_implement_trait)] // It lends the batch, which `Iterator` cannot.
    pub fn next(&mut self) -> io::Result<Option<Item<'_>>> {
        if let Some(batch) = self.given.take() {
            self.events.slots.recycle(batch);
        }
        loop {
            match self.events.slots.pop() {
                Some(Out::Tick(tick)) => return Ok(Some(Item::Tick(tick))),
                Some(Out::Batch(batch)) => return Ok(Some(Item::Batch(self.given.insert(batch)))),
                None if self.ended => return Ok(None),
                None => self.read_line()?,
            }
        }
    }

    fn read_line(&mut self) -> io::Result<()> {
        let found = self.lines.next()?;
        let number = self.lines.number;
        self.summary.lines = number;
        let bytes = match found {
            Found::Line(start, end) => self.lines.bytes(start, end),
            Found::TooLong => {
                let wrong = Malformed { at: 0, what: "the line is longer than 1 MiB".into() };
                self.summary.malformed += 1;
                self.summary.problem(number, "", &wrong);
                return Ok(());
            }
            Found::End => {
                self.events.slots.finish();
                self.summary.gaps = self.events.slots.gaps;
                self.ended = true;
                return Ok(());
            }
        };
        let done = match std::str::from_utf8(bytes) {
            Ok(text) if text.trim_ascii().is_empty() => return Ok(()),
            Ok(text) => self
                .line
                .parse(text)
                .and_then(|()| self.events.take(&self.line, text, number, &mut self.summary))
                .map_err(|wrong| (text, wrong)),
            Err(e) => {
                let good = bytes
                    .get(..e.valid_up_to())
                    .and_then(|b| std::str::from_utf8(b).ok())
                    .unwrap_or_default();
                Err((good, Malformed { at: good.len(), what: "the line is not UTF-8".into() }))
            }
        };
        if let Err((text, wrong)) = done {
            self.summary.malformed += 1;
            self.summary.problem(number, text, &wrong);
        }
        Ok(())
    }
}
