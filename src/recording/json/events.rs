//! What a line means: its time, stream, subject and values, looked up with a guess first, since lines repeat.

use std::collections::HashMap;
use std::sync::Arc;

use whystall_event::text::{did_you_mean, shorten};
use whystall_event::{Field, FieldKind, MAX_FIELDS, Mode, Stream, Subject, SubjectKind, Unit, parse_rfc3339};

use super::JsonSummary;
use super::declare;
use super::number::Decimal;
use super::scan::{Entry, Line, Malformed, Span, Value};
use super::slots::Slots;

/// Subjects that are kept by their text; then they are learned anew.
const SUBJECTS: usize = 1 << 18;
/// Streams that the data may bring along.
const STREAMS: usize = 4096;

type Map<V> = HashMap<Box<str>, V, foldhash::fast::RandomState>;

#[derive(Debug)]
struct Known {
    stream: Arc<Stream>,
    /// Declared: fields that it lacks are mistakes. Otherwise it grows with its lines.
    closed: bool,
    used: bool,
    last_field: usize,
}

/// A value for a field.
#[derive(Debug, Clone, Copy)]
enum Cell {
    Int(usize, u64),
    Gauge(usize, f64),
    Text(usize, Span),
}

#[derive(Debug)]
pub(crate) struct Events {
    streams: Vec<Known>,
    by_name: Map<usize>,
    last_stream: usize,
    subjects: Vec<(Box<str>, Subject)>,
    by_text: Map<u32>,
    last_subject: u32,
    /// By subject: which one came next last time.
    after: Vec<u32>,
    pub(crate) slots: Slots,
    cells: Vec<Cell>,
    last_time: (String, u64),
}

impl Events {
    pub(crate) fn new<'a>(schema: impl IntoIterator<Item = &'a Stream>, interval_ns: u64) -> Events {
        let mut events = Events {
            streams: Vec::new(),
            by_name: Map::default(),
            last_stream: 0,
            subjects: Vec::new(),
            by_text: Map::default(),
            last_subject: 0,
            after: Vec::new(),
            slots: Slots::new(interval_ns),
            cells: Vec::new(),
            last_time: (String::new(), 0),
        };
        for stream in schema {
            events.add_stream(stream.clone(), true);
        }
        events
    }

    fn add_stream(&mut self, stream: Stream, closed: bool) -> usize {
        let index = self.streams.len();
        self.by_name.insert(stream.name.as_ref().into(), index);
        self.streams.push(Known { stream: Arc::new(stream), closed, used: false, last_field: 0 });
        index
    }

    /// Takes what a line says. The error is what makes the whole line useless.
    pub(crate) fn take(
        &mut self,
        line: &Line,
        text: &str,
        number: u64,
        summary: &mut JsonSummary,
    ) -> Result<(), Malformed> {
        if line.declares {
            return self.declare(text);
        }
        let at = self.time(line, text)?;
        let name = line.text(text, line.stream.ok_or_else(|| wrong(0, "`stream` is missing"))?);
        let stream = self.stream(name)?;
        let subject = match line.subject {
            Some((span, at)) => self.subject(line.text(text, span), at)?,
            None => self.subject("host", 0)?,
        };
        self.resolve(stream, line, text, number, summary);
        let gone = line.gone.iter().map(|(span, at)| parse_subject(line.text(text, *span), *at));
        let gone = gone.collect::<Result<Vec<_>, _>>()?;

        let known = &mut self.streams[stream];
        if !known.used || line.covered.is_some() {
            known.used = true;
            if known.stream.mode == Mode::Occurrences {
                self.slots.watch(&known.stream);
            }
        }
        let Some((boot, open)) = self.slots.at(stream, &known.stream, at) else {
            summary.late += 1;
            return Ok(());
        };
        summary.events += 1;
        open.batch.gone.extend(gone);
        open.batch.covered_to &= line.covered.unwrap_or(true);
        if self.cells.is_empty() {
            return Ok(());
        }
        let fields = self.cells.iter().fold(0u64, |m, c| match c {
            Cell::Int(f, _) | Cell::Gauge(f, _) | Cell::Text(f, _) => m | 1 << f,
        });
        // Lines with one field each about the same subject and time are one row.
        let more = known.stream.mode == Mode::Sampled
            && open.last.is_some_and(|(last, has)| last == subject && has & fields == 0);
        let before = if more { open.last.map_or(0, |(_, has)| has) } else { 0 };
        open.last = Some((subject, before | fields));
        let mut row = match open.batch.last_row().filter(|_| more) {
            Some(row) => row,
            None => open.batch.row_at(self.subjects[subject as usize].1.clone(), boot),
        };
        for cell in &self.cells {
            match *cell {
                Cell::Int(f, v) => row.int(f, v),
                Cell::Gauge(f, v) => row.gauge(f, v),
                Cell::Text(f, span) => row.text(f, line.text(text, span)),
            };
        }
        Ok(())
    }

    fn time(&mut self, line: &Line, text: &str) -> Result<u64, Malformed> {
        const FORMS: &str = "write seconds or a time such as \"2026-11-22T10:00:00.123Z\"";
        match line.time {
            Some((Value::Number(seconds, _), at)) => {
                let ns = seconds.scaled(9).map_err(|e| {
                    let hint = if e == "is too large" { "; `t` is in seconds" } else { "" };
                    wrong(at, format!("the time {e}{hint}"))
                })?;
                Ok(ns)
            }
            Some((Value::Text(span), at)) => {
                let written = line.text(text, span);
                if self.last_time.0 != written {
                    let ns = parse_rfc3339(written).ok_or_else(|| {
                        wrong(at, format!("`{}` is no time: {FORMS}", shorten(written, 40)))
                    })?;
                    self.last_time.0.clear();
                    self.last_time.0.push_str(written);
                    self.last_time.1 = ns;
                }
                Ok(self.last_time.1)
            }
            Some((_, at)) => Err(wrong(at, format!("this is no time: {FORMS}"))),
            None => Err(wrong(0, "`t`, the time, is missing")),
        }
    }

    fn declare(&mut self, text: &str) -> Result<(), Malformed> {
        let stream = declare::parse(text).map_err(|(at, what)| wrong(at, what))?;
        let index = match self.by_name.get(stream.name.as_ref()).copied() {
            Some(index) => {
                let known = &mut self.streams[index];
                if *known.stream == stream {
                    known.closed = true;
                } else if known.used {
                    let name = shorten(&stream.name, 60);
                    return Err(wrong(0, format!("`{name}` is declared otherwise after its first event")));
                } else {
                    *known = Known { stream: Arc::new(stream), closed: true, used: false, last_field: 0 };
                }
                index
            }
            None if self.streams.len() >= STREAMS => return Err(wrong(0, "there are too many streams")),
            None => self.add_stream(stream, true),
        };
        let declared = &self.streams[index].stream;
        if declared.mode == Mode::Occurrences {
            self.slots.watch(declared);
        }
        Ok(())
    }

    fn stream(&mut self, name: &str) -> Result<usize, Malformed> {
        if self.streams.get(self.last_stream).is_some_and(|k| k.stream.name == name) {
            return Ok(self.last_stream);
        }
        let found = self.by_name.get(name).copied();
        self.last_stream = match found {
            Some(i) => i,
            None if name.is_empty() || name.len() > 256 => {
                return Err(wrong(0, "a stream's name has 1 to 256 bytes"));
            }
            None if self.streams.len() >= STREAMS => return Err(wrong(0, "there are too many streams")),
            None => self.add_stream(
                Stream {
                    name: name.to_string().into(),
                    help: "not declared; seen in JSON lines".into(),
                    mode: Mode::Sampled,
                    subjects: SubjectKind::ALL.to_vec().into(),
                    fields: Vec::new().into(),
                },
                false,
            ),
        };
        Ok(self.last_stream)
    }

    fn subject(&mut self, text: &str, at: usize) -> Result<u32, Malformed> {
        let is = |id: u32| self.subjects.get(id as usize).is_some_and(|s| *s.0 == *text);
        let last = self.last_subject;
        if is(last) {
            return Ok(last);
        }
        if let Some(next) = self.after.get(last as usize).copied()
            && is(next)
        {
            self.last_subject = next;
            return Ok(next);
        }
        let id = match self.by_text.get(text) {
            Some(id) => *id,
            None => {
                let subject = parse_subject(text, at)?;
                if self.subjects.len() >= SUBJECTS {
                    // Rows in open batches hold their subjects themselves; only the guess "same row" must not match.
                    self.subjects.clear();
                    self.by_text.clear();
                    self.after.clear();
                    self.slots.forget_rows();
                }
                let id = self.subjects.len() as u32;
                self.subjects.push((text.into(), subject));
                self.after.push(0);
                self.by_text.insert(text.into(), id);
                id
            }
        };
        if let Some(next) = self.after.get_mut(last as usize) {
            *next = id;
        }
        self.last_subject = id;
        Ok(id)
    }

    /// Fills `cells` with the line's values as the stream's fields take them.
    fn resolve(&mut self, stream: usize, line: &Line, text: &str, number: u64, summary: &mut JsonSummary) {
        self.cells.clear();
        for entry in &line.entries {
            let known = &mut self.streams[stream];
            let key = line.text(text, entry.key);
            let resolved = field(known, key, entry).and_then(|f| match f {
                Some(f) => cell(&known.stream.fields[f], f, entry, line, text),
                None => Ok(None),
            });
            match resolved {
                Ok(Some(cell)) => self.cells.push(cell),
                Ok(None) => {}
                Err(what) => {
                    summary.ignored += 1;
                    summary.problem(number, text, &wrong(entry.at, what));
                }
            }
        }
    }
}

fn wrong(at: usize, what: impl Into<String>) -> Malformed {
    Malformed { at, what: what.into() }
}

fn parse_subject(text: &str, at: usize) -> Result<Subject, Malformed> {
    text.parse().map_err(|e: whystall_event::ParseSubjectError| wrong(at, shorten(&e.to_string(), 200)))
}

/// The index of the field called `key`; a stream that is not closed gets a new one. `None`: nothing to set.
fn field(known: &mut Known, key: &str, entry: &Entry) -> Result<Option<usize>, String> {
    let fields = &known.stream.fields;
    for guess in [known.last_field + 1, 0] {
        if fields.get(guess).is_some_and(|f| f.name == key) {
            known.last_field = guess;
            return Ok(Some(guess));
        }
    }
    if let Some(found) = known.stream.field_index(key) {
        known.last_field = found;
        return Ok(Some(found));
    }
    let name = shorten(key, 60);
    if known.closed {
        let like = did_you_mean(key, fields.iter().map(|f| f.name.as_ref()));
        let like = like.map(|l| format!("; did you mean `{l}`?")).unwrap_or_default();
        return Err(format!("stream `{}` has no field `{name}`{like}", known.stream.name));
    }
    let kind = match entry.value {
        Value::Number(..) | Value::Bool(_) => FieldKind::Gauge,
        Value::Text(_) => FieldKind::Text,
        Value::Null => return Ok(None),
        Value::Nested => return Err(format!("`{name}` is a list or an object, not a value")),
    };
    if fields.len() >= MAX_FIELDS || key.len() > 256 {
        return Err(format!(
            "`{name}` is one field too many: a stream has at most {MAX_FIELDS}, their names 256 bytes"
        ));
    }
    let mut grown = Stream::clone(&known.stream);
    grown.fields.to_mut().push(Field {
        name: key.to_string().into(),
        kind,
        unit: Unit::None,
        help: "not declared; seen in JSON lines".into(),
    });
    known.stream = Arc::new(grown);
    known.last_field = known.stream.fields.len() - 1;
    Ok(Some(known.last_field))
}

/// The value as its field takes it.
fn cell(field: &Field, index: usize, entry: &Entry, line: &Line, text: &str) -> Result<Option<Cell>, String> {
    let number = match entry.value {
        Value::Null => return Ok(None),
        Value::Nested => {
            return Err(format!("`{}` is a list or an object, not a value", shorten(&field.name, 60)));
        }
        Value::Text(span) | Value::Number(_, span) if field.kind == FieldKind::Text => {
            return Ok(Some(Cell::Text(index, span)));
        }
        Value::Bool(b) if field.kind != FieldKind::Text => (Decimal::whole(u64::from(b)), Span::default()),
        Value::Number(d, span) => (d, span),
        _ => return Err(format!("`{}` is a {}", field.name, kind(field.kind))),
    };
    let (decimal, span) = number;
    if field.kind == FieldKind::Gauge {
        let shown = if decimal.mantissa <= 1 && decimal.exponent == 0 && !decimal.negative {
            decimal.mantissa as f64
        } else {
            decimal.float(line.text(text, span))
        };
        let value = shown * field.unit.scale();
        return if value.is_finite() {
            Ok(Some(Cell::Gauge(index, value)))
        } else {
            Err(format!("`{}` is too large", field.name))
        };
    }
    let power = if field.unit == Unit::Time { 6 } else { 0 };
    match decimal.scaled(power) {
        Ok(v) => Ok(Some(Cell::Int(index, v))),
        Err(e) => Err(format!("`{}` {e}", field.name)),
    }
}

fn kind(kind: FieldKind) -> &'static str {
    match kind {
        FieldKind::Counter => "counter: write a whole number",
        FieldKind::Gauge => "gauge: write a number",
        FieldKind::Duration => "duration: write a number of milliseconds",
        FieldKind::Text => "text: write it in double quotes",
    }
}
