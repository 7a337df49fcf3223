//! A block's bytes into batches and ticks, in place: a batch about the same subjects as the stream's previous one is
//! that batch overwritten, so that a stable pass costs neither an allocation nor a reference count. Pure; nothing in
//! the bytes is trusted, and what they can make this hold is bounded by [`limit`].

use std::sync::Arc;

use whystall_event::{Batch, FieldKind, Mode, Stamp, Stream, Subject, SubjectKind};

use super::format::limit;
use super::record::*;
use super::wire::{Bad, Cursor, unzigzag};

/// One record that a caller sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decoded {
    /// The batch of this stream; see [`Decoder::batch`].
    Batch(usize),
    Tick(Tick),
    End,
}

/// Dictionaries and current batches since the last key block.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    streams: Vec<Current>,
    subjects: Vec<Subject>,
    texts: Vec<Arc<str>>,
    strings: usize,
    clock: Clock,
    align: Align,
    scratch: Scratch,
    /// Declarations of before the last key block, so that a stream declared again keeps its `Arc`.
    known: Vec<Arc<Stream>>,
}

#[derive(Debug, Default)]
struct Scratch {
    ids: Vec<u32>,
    aligned: Vec<u32>,
    values: Vec<u64>,
    rows: Vec<usize>,
}

/// A stream and its latest batch.
#[derive(Debug)]
struct Current {
    batch: Batch,
    ids: Vec<u32>,
    /// Fields that all rows have, and that any row has.
    all: u64,
    any: u64,
    /// The numbers of texts, laid out like the batch's values; empty for streams without text.
    texts: Vec<u64>,
    has_text: bool,
}

impl Current {
    fn size(&self) -> usize {
        self.ids.len() * self.batch.stream.fields.len().max(1)
    }
}

impl Decoder {
    /// Forgets everything, for a key block.
    pub(crate) fn reset(&mut self) {
        if !self.streams.is_empty() {
            self.known = self.streams.drain(..).map(|s| s.batch.stream).collect();
        }
        self.subjects.clear();
        self.texts.clear();
        self.strings = 0;
        self.clock = Clock::default();
    }

    /// The batch that was decoded last for a stream.
    pub(crate) fn batch(&self, stream: usize) -> Option<&Batch> {
        self.streams.get(stream).map(|s| &s.batch)
    }

    /// Decodes up to and with the next record that a caller sees.
    pub(crate) fn next(&mut self, cur: &mut Cursor) -> Result<Decoded, Bad> {
        while !cur.at_end() {
            match cur.byte()? {
                BATCH => return self.read_batch(cur).map(Decoded::Batch),
                TICK => return self.tick(cur).map(Decoded::Tick),
                SUBJECT => self.subject(cur)?,
                TEXT => {
                    let text = cur.str()?;
                    self.grow(self.texts.len(), text.len())?;
                    self.texts.push(text.into());
                }
                STREAM => self.stream(cur)?,
                _ => return Err(Bad("it has an unknown record")),
            }
        }
        Ok(Decoded::End)
    }

    fn tick(&mut self, cur: &mut Cursor) -> Result<Tick, Bad> {
        Ok(Tick {
            at: self.clock.get(cur)?,
            late_ns: cur.varint()?,
            suspended_ns: cur.varint()?,
            clock_step_ns: unzigzag(cur.varint()?),
        })
    }

    fn grow(&mut self, entries: usize, bytes: usize) -> Result<(), Bad> {
        self.strings += bytes;
        if entries >= limit::ENTRIES || self.strings > limit::STRINGS {
            return Err(Bad("its dictionary is too large"));
        }
        Ok(())
    }

    fn subject(&mut self, cur: &mut Cursor) -> Result<(), Bad> {
        let kind = subject_kind(cur.byte()?)?;
        let subject = match kind {
            SubjectKind::Host => Subject::Host,
            SubjectKind::Cgroup | SubjectKind::Device => {
                let name = cur.str()?;
                self.grow(self.subjects.len(), name.len())?;
                if kind == SubjectKind::Cgroup {
                    Subject::Cgroup(name.into())
                } else {
                    Subject::Device(name.into())
                }
            }
            SubjectKind::Cpu | SubjectKind::Node | SubjectKind::Task => {
                let number =
                    u32::try_from(cur.varint()?).map_err(|_| Bad("a subject's number is too large"))?;
                match kind {
                    SubjectKind::Cpu => Subject::Cpu(number),
                    SubjectKind::Node => Subject::Node(number),
                    _ => Subject::Task(number),
                }
            }
        };
        self.grow(self.subjects.len(), 0)?;
        self.subjects.push(subject);
        Ok(())
    }

    fn stream(&mut self, cur: &mut Cursor) -> Result<(), Bad> {
        let stream = get_stream(cur)?;
        self.grow(0, stream_strings(&stream))?;
        if self.streams.len() >= limit::STREAMS {
            return Err(Bad("it declares too many streams"));
        }
        let stream = match self.known.iter().find(|k| ***k == stream) {
            Some(known) => known.clone(),
            None => Arc::new(stream),
        };
        let has_text = stream.fields.iter().any(|f| f.kind == FieldKind::Text);
        self.streams.push(Current {
            batch: Batch::new(stream, Stamp::default()),
            ids: Vec::new(),
            all: 0,
            any: 0,
            texts: Vec::new(),
            has_text,
        });
        Ok(())
    }

    fn read_batch(&mut self, cur: &mut Cursor) -> Result<usize, Bad> {
        let number = cur.count(limit::STREAMS, "a batch is of no declared stream")?;
        let others: usize =
            self.streams.iter().enumerate().filter(|(i, _)| *i != number).map(|(_, s)| s.size()).sum();
        let current = self.streams.get_mut(number).ok_or(Bad("a batch is of no declared stream"))?;
        let flags = cur.byte()?;
        let at = self.clock.get(cur)?;
        let rows = cur.count(limit::ROWS, "a batch has too many rows")?;
        let width = current.batch.stream.fields.len();
        if others + rows * width.max(1) > limit::VALUES {
            return Err(Bad("its batches are too large"));
        }
        let sampled = current.batch.stream.mode == Mode::Sampled;
        let same = flags & SAME_SUBJECTS != 0;
        if same {
            if rows != current.ids.len() || !sampled {
                return Err(Bad("a batch refers to other subjects than the one before has"));
            }
            current.batch.restamp(at);
            current.batch.gone.clear();
        } else {
            let scratch = &mut self.scratch;
            read_ids(cur, rows, self.subjects.len(), &mut scratch.ids)?;
            if sampled {
                self.align.run(&current.ids, &scratch.ids, &mut scratch.aligned);
            } else {
                scratch.aligned.clear();
                scratch.aligned.resize(rows, NO_ROW);
            }
            current.rebuild(at, &self.subjects, scratch);
        }
        current.batch.covered_to = flags & COVERED != 0;
        let masks_moved = flags & SAME_MASKS == 0;
        if masks_moved {
            current.masks(cur, rows, flags & ONE_MASK != 0)?;
        } else if !same {
            return Err(Bad("a batch refers to fields of other subjects"));
        }
        if flags & ROW_TIMES != 0 {
            let mut times = at.boot_ns;
            let mut next = 0;
            let batch = &mut current.batch;
            cur.column(rows, |row, z| {
                (next..row).for_each(|skipped| batch.set_row_at(skipped, times));
                times = times.wrapping_add(unzigzag(z) as u64);
                batch.set_row_at(row, times);
                next = row + 1;
            })?;
            (next..rows).for_each(|skipped| batch.set_row_at(skipped, times));
        }
        if flags & GONE != 0 {
            let count = cur.count(limit::ROWS, "a batch has too many subjects gone")?;
            let mut ids = vec![0u64; count];
            cur.column(count, |i, id| ids[i] = id)?;
            for id in ids {
                let subject = usize::try_from(id).ok().and_then(|id| self.subjects.get(id));
                current.batch.gone.push(subject.ok_or(Bad("a subject is not declared"))?.clone());
            }
        }
        let texts_moved = current.fields(cur, &mut self.scratch.rows)?;
        if current.has_text && (texts_moved || masks_moved || !same) {
            current.spell(&self.texts, &mut self.scratch.rows)?;
        }
        Ok(number)
    }
}

fn read_ids(cur: &mut Cursor, rows: usize, known: usize, ids: &mut Vec<u32>) -> Result<(), Bad> {
    ids.clear();
    let mut id = 0u64;
    let mut bad = false;
    cur.column(rows, |row, z| {
        ids.resize(row, id as u32);
        id = id.wrapping_add(unzigzag(z) as u64);
        bad |= id >= known as u64;
        ids.push(id as u32);
    })?;
    ids.resize(rows, id as u32);
    if bad || (rows > 0 && known == 0) { Err(Bad("a subject is not declared")) } else { Ok(()) }
}

impl Current {
    /// New rows about `scratch.ids`, with the values that their subjects had before.
    fn rebuild(&mut self, at: Stamp, subjects: &[Subject], scratch: &mut Scratch) {
        let width = self.batch.stream.fields.len();
        let carry = |old: &[u64], into: &mut Vec<u64>| {
            into.clear();
            for old_row in &scratch.aligned {
                match *old_row as usize * width {
                    _ if *old_row == NO_ROW => into.resize(into.len() + width, 0),
                    base => into.extend_from_slice(&old[base..base + width]),
                }
            }
        };
        carry(self.batch.values_mut(), &mut scratch.values);
        if self.has_text {
            let mut texts = Vec::with_capacity(scratch.values.len());
            carry(&self.texts, &mut texts);
            self.texts = texts;
        }
        self.batch.clear(at);
        for id in &scratch.ids {
            if let Some(subject) = subjects.get(*id as usize) {
                self.batch.push_raw(subject.clone(), at.boot_ns, 0);
            }
        }
        self.batch.values_mut().copy_from_slice(&scratch.values);
        std::mem::swap(&mut self.ids, &mut scratch.ids);
    }

    /// Reads which rows have which fields, and clears the values of those that are absent.
    fn masks(&mut self, cur: &mut Cursor, rows: usize, one: bool) -> Result<(), Bad> {
        let width = self.batch.stream.fields.len();
        let possible = if width == 64 { u64::MAX } else { (1 << width) - 1 };
        let mut masks = vec![0; rows];
        if one {
            masks.fill(cur.varint()?);
        } else {
            cur.column(rows, |row, mask| masks[row] = mask)?;
        }
        self.all = masks.iter().fold(u64::MAX, |a, m| a & m);
        self.any = masks.iter().fold(0, |a, m| a | m);
        if self.any & !possible != 0 {
            return Err(Bad("a row has fields that its stream lacks"));
        }
        for (row, mask) in masks.iter().enumerate() {
            self.batch.set_present(row, *mask);
            for f in (0..width).filter(|f| mask & (1 << f) == 0) {
                self.batch.values_mut()[row * width + f] = 0;
                if self.has_text {
                    self.texts[row * width + f] = 0;
                }
            }
        }
        Ok(())
    }

    /// Reads the fields' columns; whether a text changed.
    fn fields(&mut self, cur: &mut Cursor, rows_with: &mut Vec<usize>) -> Result<bool, Bad> {
        let stream = self.batch.stream.clone();
        let width = stream.fields.len();
        let mut texts_moved = false;
        for (f, field) in stream.fields.iter().enumerate().filter(|(f, _)| self.any & (1 << f) != 0) {
            let bits_of_gauge = field.kind == FieldKind::Gauge
                && match cur.byte()? {
                    WHOLE => false,
                    BITS => true,
                    _ => return Err(Bad("a gauge has an unknown form")),
                };
            let every = self.all & (1 << f) != 0;
            if !every {
                self.rows_with(f, rows_with);
            }
            let count = if every { self.ids.len() } else { rows_with.len() };
            let values: &mut [u64] =
                if field.kind == FieldKind::Text { &mut self.texts } else { self.batch.values_mut() };
            // One loop for each kind and shape, so that none asks within.
            macro_rules! column {
                ($each:expr) => {
                    if every {
                        cur.column(count, |i, z| $each(&mut values[i * width + f], z))
                    } else {
                        cur.column(count, |i, z| $each(&mut values[rows_with[i] * width + f], z))
                    }
                };
            }
            let mut finite = true;
            match field.kind {
                FieldKind::Counter => {
                    column!(|v: &mut u64, z| *v = v.wrapping_add(unzigzag(z) as u64))?;
                }
                FieldKind::Text => column!(|v: &mut u64, z| {
                    *v = v.wrapping_add(unzigzag(z) as u64);
                    texts_moved |= z != 0;
                })?,
                FieldKind::Duration => {
                    // Written against 0; a column leaves out zeros.
                    if stream.mode == Mode::Sampled {
                        (0..self.ids.len()).for_each(|row| values[row * width + f] = 0);
                    }
                    column!(|v: &mut u64, z| *v = z)?;
                }
                FieldKind::Gauge if bits_of_gauge => column!(|v: &mut u64, z: u64| {
                    *v ^= z.swap_bytes();
                    finite &= f64::from_bits(*v).is_finite();
                })?,
                FieldKind::Gauge => column!(|v: &mut u64, z| {
                    let before = f64::from_bits(*v) as i64;
                    *v = (before.wrapping_add(unzigzag(z)) as f64).to_bits();
                })?,
            }
            if !finite {
                return Err(Bad("a gauge is no number"));
            }
        }
        Ok(texts_moved)
    }

    fn rows_with(&self, field: usize, rows: &mut Vec<usize>) {
        rows.clear();
        rows.extend(self.batch.rows().enumerate().filter(|(_, r)| r.has(field)).map(|(row, _)| row));
    }

    /// Puts the texts that the numbers stand for into the batch.
    fn spell(&mut self, known: &[Arc<str>], rows_with: &mut Vec<usize>) -> Result<(), Bad> {
        let stream = self.batch.stream.clone();
        let width = stream.fields.len();
        let mut spelled = std::mem::take(self.batch.texts_mut());
        spelled.clear();
        for (f, _) in stream.fields.iter().enumerate().filter(|(_, field)| field.kind == FieldKind::Text) {
            self.rows_with(f, rows_with);
            for at in rows_with.iter().map(|row| row * width + f) {
                let number = usize::try_from(self.texts[at]).ok();
                let text = number.and_then(|n| known.get(n)).ok_or(Bad("a text is not declared"))?;
                self.batch.values_mut()[at] = spelled.len() as u64;
                spelled.push(text.clone());
            }
        }
        *self.batch.texts_mut() = spelled;
        Ok(())
    }
}
