//! Batches and ticks into a block's bytes. Pure: no file, no clock; see [`super::record`] for the layout.

use std::collections::HashMap;
use std::sync::Arc;

use whystall_event::{Batch, FieldKind, Mode, Stream, Subject};

use super::format::limit;
use super::record::*;
use super::wire::{put_column, put_str, put_varint, zigzag};

/// When dictionaries or previous values have grown so far, the next block begins anew. Well below what readers accept,
/// and small enough for a host's memory: entries, bytes of strings, values.
const CROWDED: (usize, usize, usize) = (128 << 10, 8 << 20, 2 << 20);
/// What one batch may add at most: values, bytes of strings.
const BATCH: (usize, usize) = (4 << 20, 16 << 20);

/// A batch is too large to be recorded; the text says by what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLarge(pub(crate) &'static str);

type Map<K> = HashMap<K, u32, foldhash::fast::RandomState>;

/// Dictionaries and previous values since the last key block.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    streams: Vec<Previous>,
    subjects: Map<Subject>,
    texts: Map<Arc<str>>,
    strings: usize,
    clock: Clock,
    align: Align,
    body: Vec<u8>,
    column: Vec<u64>,
    pairs: Vec<(u64, u64)>,
    aligned: Vec<u32>,
    ids: Vec<u32>,
    present: Vec<u64>,
    values: Vec<u64>,
}

/// A stream and its previous batch.
#[derive(Debug)]
struct Previous {
    stream: Arc<Stream>,
    subjects: Vec<Subject>,
    ids: Vec<u32>,
    present: Vec<u64>,
    /// Row-major; texts as their numbers.
    values: Vec<u64>,
}

impl Encoder {
    /// Forgets everything, for a key block.
    pub(crate) fn reset(&mut self) {
        *self = Encoder {
            body: std::mem::take(&mut self.body),
            column: std::mem::take(&mut self.column),
            ..Encoder::default()
        };
    }

    /// Whether it is time for a key block to bound memory.
    pub(crate) fn crowded(&self) -> bool {
        let values: usize = self.streams.iter().map(|s| s.values.len().max(s.ids.len())).sum();
        self.subjects.len().max(self.texts.len()) > CROWDED.0
            || self.strings > CROWDED.1
            || values > CROWDED.2
            || self.streams.len() > limit::STREAMS / 2
    }

    /// Appends a tick.
    pub(crate) fn tick(&mut self, out: &mut Vec<u8>, tick: &Tick) {
        out.push(TICK);
        self.clock.put(out, tick.at);
        put_varint(out, tick.late_ns);
        put_varint(out, tick.suspended_ns);
        put_varint(out, zigzag(tick.clock_step_ns));
    }

    /// Appends a batch, after what of it is new in the dictionaries. After an error the encoder must be reset and
    /// whatever was appended to `out` be discarded.
    pub(crate) fn batch(&mut self, out: &mut Vec<u8>, batch: &Batch) -> Result<(), TooLarge> {
        let rows = batch.len();
        let width = batch.stream.fields.len();
        if rows > limit::ROWS || batch.gone.len() > limit::ROWS || rows.saturating_mul(width) > BATCH.0 {
            return Err(TooLarge("it has more than 524288 rows or 4194304 values"));
        }
        let strings_before = self.strings;
        let number = self.stream(out, &batch.stream);
        let sampled = batch.stream.mode == Mode::Sampled;
        let previous = &self.streams[number];
        let same = sampled
            && rows == previous.subjects.len()
            && batch.rows().zip(&previous.subjects).all(|(r, s)| r.subject == s);

        self.ids.clear();
        self.aligned.clear();
        if same {
            self.ids.extend_from_slice(&previous.ids);
            self.aligned.extend(0..rows as u32);
        } else {
            for row in batch.rows() {
                let id = subject(&mut self.subjects, &mut self.strings, out, row.subject);
                self.ids.push(id);
            }
            if sampled {
                self.align.run(&previous.ids, &self.ids, &mut self.aligned);
            } else {
                self.aligned.resize(rows, NO_ROW);
            }
        }
        let gone: Vec<u64> = batch
            .gone
            .iter()
            .map(|s| u64::from(subject(&mut self.subjects, &mut self.strings, out, s)))
            .collect();
        self.load(out, batch);
        if self.strings - strings_before > BATCH.1 {
            return Err(TooLarge("its texts have more than 16 MiB"));
        }

        let previous = &self.streams[number];
        let one_mask = self.present.first().copied().filter(|m| self.present.iter().all(|p| p == m));
        let same_masks = same && self.present == previous.present;
        let row_times = batch.rows().any(|r| r.boot_ns != batch.at.boot_ns);
        let mut flags = 0;
        for (on, flag) in [
            (batch.covered_to, COVERED),
            (same, SAME_SUBJECTS),
            (same_masks, SAME_MASKS),
            (one_mask.is_some(), ONE_MASK),
            (row_times, ROW_TIMES),
            (!gone.is_empty(), GONE),
        ] {
            flags |= if on { flag } else { 0 };
        }

        let body = &mut self.body;
        body.clear();
        body.push(super::record::BATCH);
        put_varint(body, number as u64);
        body.push(flags);
        self.clock.put(body, batch.at);
        put_varint(body, rows as u64);
        let column = &mut self.column;
        if !same {
            differences(column, self.ids.iter().map(|id| u64::from(*id)), 0);
            put_column(body, column);
        }
        if !same_masks {
            match one_mask {
                Some(mask) => put_varint(body, mask),
                None => put_column(body, &self.present),
            }
        }
        if row_times {
            differences(column, batch.rows().map(|r| r.boot_ns), batch.at.boot_ns);
            put_column(body, column);
        }
        if !gone.is_empty() {
            put_varint(body, gone.len() as u64);
            put_column(body, &gone);
        }
        self.fields(number);
        out.extend_from_slice(&self.body);

        let previous = &mut self.streams[number];
        if !sampled {
            return Ok(());
        }
        if !same {
            previous.subjects.clear();
            previous.subjects.extend(batch.rows().map(|r| r.subject.clone()));
            std::mem::swap(&mut previous.ids, &mut self.ids);
        }
        std::mem::swap(&mut previous.present, &mut self.present);
        std::mem::swap(&mut previous.values, &mut self.values);
        Ok(())
    }

    /// The stream's number, declaring it if it is new.
    fn stream(&mut self, out: &mut Vec<u8>, stream: &Arc<Stream>) -> usize {
        if let Some(i) = self.streams.iter().position(|s| Arc::ptr_eq(&s.stream, stream)) {
            return i;
        }
        if let Some(i) = self.streams.iter().position(|s| s.stream == *stream) {
            self.streams[i].stream = stream.clone();
            return i;
        }
        put_stream(out, stream);
        self.strings += stream_strings(stream);
        self.streams.push(Previous {
            stream: stream.clone(),
            subjects: Vec::new(),
            ids: Vec::new(),
            present: Vec::new(),
            values: Vec::new(),
        });
        self.streams.len() - 1
    }

    /// Copies the rows' masks and values, texts as their numbers, absent values as 0.
    fn load(&mut self, out: &mut Vec<u8>, batch: &Batch) {
        self.present.clear();
        self.values.clear();
        let fields = &batch.stream.fields;
        let texts = fields.iter().any(|f| f.kind == FieldKind::Text);
        for row in batch.rows() {
            let base = self.values.len();
            let mut present = row.present;
            self.values.extend_from_slice(row.values);
            for (i, _) in fields.iter().enumerate().filter(|(_, f)| texts && f.kind == FieldKind::Text) {
                self.values[base + i] = match row.text(i) {
                    Some(t) => u64::from(text(&mut self.texts, &mut self.strings, out, t)),
                    None => {
                        present &= !(1 << i);
                        0
                    }
                };
            }
            self.present.push(present);
        }
    }

    /// Appends the fields' columns to the body.
    fn fields(&mut self, number: usize) {
        let previous = &self.streams[number];
        let width = previous.stream.fields.len();
        let any = self.present.iter().fold(0, |a, p| a | p);
        let (pairs, column) = (&mut self.pairs, &mut self.column);
        for (f, field) in previous.stream.fields.iter().enumerate().filter(|(f, _)| any & (1 << f) != 0) {
            // Each row's value that has this field, and the one it is written against.
            pairs.clear();
            let rows = self.present.iter().zip(&self.aligned).enumerate();
            pairs.extend(rows.filter(|(_, (p, _))| **p & (1 << f) != 0).map(|(row, (_, old))| {
                let before = if *old == NO_ROW { 0 } else { previous.values[*old as usize * width + f] };
                (self.values[row * width + f], before)
            }));
            column.clear();
            match field.kind {
                FieldKind::Counter | FieldKind::Text => {
                    column.extend(pairs.iter().map(|(now, before)| zigzag(now.wrapping_sub(*before) as i64)));
                }
                FieldKind::Duration => column.extend(pairs.iter().map(|(now, _)| now)),
                FieldKind::Gauge => {
                    let all_whole = pairs.iter().try_for_each(|(now, before)| {
                        column.push(zigzag(whole(*now)? - whole(*before)?));
                        Some(())
                    });
                    self.body.push(if all_whole.is_some() { WHOLE } else { BITS });
                    if all_whole.is_none() {
                        column.clear();
                        column.extend(pairs.iter().map(|(now, before)| (now ^ before).swap_bytes()));
                    }
                }
            }
            put_column(&mut self.body, column);
        }
    }
}

/// Fills `column` with each value's difference to the one before.
fn differences(column: &mut Vec<u64>, values: impl Iterator<Item = u64>, first: u64) {
    column.clear();
    let mut before = first;
    column.extend(values.map(|v| zigzag(v.wrapping_sub(std::mem::replace(&mut before, v)) as i64)));
}

fn subject(known: &mut Map<Subject>, strings: &mut usize, out: &mut Vec<u8>, subject: &Subject) -> u32 {
    if let Some(id) = known.get(subject) {
        return *id;
    }
    out.push(SUBJECT);
    out.push(subject.kind() as u8);
    match subject {
        Subject::Host => {}
        Subject::Cpu(n) | Subject::Node(n) | Subject::Task(n) => put_varint(out, u64::from(*n)),
        Subject::Cgroup(s) | Subject::Device(s) => {
            put_str(out, s);
            *strings += s.len();
        }
    }
    let id = known.len() as u32;
    known.insert(subject.clone(), id);
    id
}

fn text(known: &mut Map<Arc<str>>, strings: &mut usize, out: &mut Vec<u8>, text: &Arc<str>) -> u32 {
    if let Some(id) = known.get(text) {
        return *id;
    }
    out.push(TEXT);
    put_str(out, text);
    *strings += text.len();
    let id = known.len() as u32;
    known.insert(text.clone(), id);
    id
}
