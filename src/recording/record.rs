//! What is inside a block: records, one after another, and what the encoder and the decoder share.
//!
//! ```text
//! STREAM   name, help, mode u8, kinds of subjects (count, u8 each), fields (count; name, help, kind u8, unit u8 each)
//! SUBJECT  kind u8, number or name
//! TEXT     text
//! TICK     time, late ns, suspended ns (varints), clock step ns (zigzag)
//! BATCH    stream, flags u8, time, rows,
//!          [subjects: a column of differences to the row above]             unless SAME_SUBJECTS
//!          [one mask | a column of masks]                                   unless SAME_MASKS
//!          [a column of differences to the row above]                       if ROW_TIMES
//!          [count, a column of subjects]                                    if GONE
//!          for each field that any row has: [u8: how gauges are coded], a column of the rows that have it
//! time     = difference of boot ns to the record before, change of (wall - boot) ns (both zigzag)
//! ```
//!
//! Streams, subjects and texts are numbered as they appear. In a sampled stream a counter is written as the difference
//! to the same subject's value in the stream's previous batch (0 if it had none), a gauge as the difference of whole
//! numbers or as the changed bits, a text as the difference of numbers; [`align`] says which row that was. Durations
//! and everything in streams of occurrences are written against 0.

use std::collections::HashMap;

use whystall_event::{FieldKind, Mode, Stamp, Stream, SubjectKind, Unit};

use super::wire::{Bad, Cursor, put_str, put_varint, unzigzag, zigzag};

pub(crate) const STREAM: u8 = 1;
pub(crate) const SUBJECT: u8 = 2;
pub(crate) const TEXT: u8 = 3;
pub(crate) const TICK: u8 = 4;
pub(crate) const BATCH: u8 = 5;

/// [`whystall_event::Batch::covered_to`].
pub(crate) const COVERED: u8 = 1;
/// The rows are about the subjects of the stream's previous batch, in its order. Only in sampled streams.
pub(crate) const SAME_SUBJECTS: u8 = 2;
/// Rows have the same fields as in the stream's previous batch. Only with [`SAME_SUBJECTS`].
pub(crate) const SAME_MASKS: u8 = 4;
/// Every row has the same fields.
pub(crate) const ONE_MASK: u8 = 8;
/// Rows have times of their own.
pub(crate) const ROW_TIMES: u8 = 16;
/// Subjects are gone.
pub(crate) const GONE: u8 = 32;

/// A gauge column of whole numbers: differences.
pub(crate) const WHOLE: u8 = 0;
/// A gauge column of anything: bits that changed, the bytes reversed so that round values are short.
pub(crate) const BITS: u8 = 1;

/// The end of an interval, as the run saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tick {
    /// When.
    pub at: Stamp,
    /// By how much it came too late, nanoseconds.
    pub late_ns: u64,
    /// How long the machine was suspended since the tick before, nanoseconds.
    pub suspended_ns: u64,
    /// By how much the wall clock was set since the tick before, nanoseconds.
    pub clock_step_ns: i64,
}

/// The previous record's time, which the next is written against.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Clock {
    boot: u64,
    offset: u64,
}

impl Clock {
    pub(crate) fn put(&mut self, out: &mut Vec<u8>, at: Stamp) {
        let offset = at.wall_ns.wrapping_sub(at.boot_ns);
        put_varint(out, zigzag(at.boot_ns.wrapping_sub(self.boot) as i64));
        put_varint(out, zigzag(offset.wrapping_sub(self.offset) as i64));
        *self = Clock { boot: at.boot_ns, offset };
    }

    pub(crate) fn get(&mut self, cur: &mut Cursor) -> Result<Stamp, Bad> {
        self.boot = self.boot.wrapping_add(unzigzag(cur.varint()?) as u64);
        self.offset = self.offset.wrapping_add(unzigzag(cur.varint()?) as u64);
        Ok(Stamp { boot_ns: self.boot, wall_ns: self.boot.wrapping_add(self.offset) })
    }
}

/// Finds for each row of a sampled stream the row of the stream's previous batch about the same subject. Both sides
/// run this over the same numbers, so it must stay deterministic.
#[derive(Debug, Default)]
pub(crate) struct Align {
    index: HashMap<u32, u32, foldhash::fast::FixedState>,
}

/// No row.
pub(crate) const NO_ROW: u32 = u32::MAX;

impl Align {
    /// Fills `rows` with an index into `old`, or [`NO_ROW`], for each of `new`.
    pub(crate) fn run(&mut self, old: &[u32], new: &[u32], rows: &mut Vec<u32>) {
        rows.clear();
        self.index.clear();
        // Subjects mostly keep their order, so the row after the last match is tried before the index is built.
        let mut next = 0;
        for id in new {
            let row = if old.get(next) == Some(id) {
                next as u32
            } else {
                if self.index.is_empty() {
                    self.index.extend(old.iter().zip(0..).map(|(id, row)| (*id, row)));
                }
                self.index.get(id).copied().unwrap_or(NO_ROW)
            };
            if row != NO_ROW {
                next = row as usize + 1;
            }
            rows.push(row);
        }
    }
}

const KINDS: [FieldKind; 4] = [FieldKind::Counter, FieldKind::Gauge, FieldKind::Duration, FieldKind::Text];
const UNITS: [Unit; 6] = [Unit::Count, Unit::Bytes, Unit::Pages, Unit::Time, Unit::Ratio, Unit::None];
const MODES: [Mode; 2] = [Mode::Sampled, Mode::Occurrences];

fn code<T: PartialEq>(all: &[T], one: &T) -> u8 {
    all.iter().position(|x| x == one).unwrap_or(0) as u8
}

fn decode<T: Copy>(all: &[T], code: u8) -> Result<T, Bad> {
    all.get(usize::from(code)).copied().ok_or(Bad("a stream's declaration has an unknown code"))
}

/// The kind of subject with this number.
pub(crate) fn subject_kind(code: u8) -> Result<SubjectKind, Bad> {
    decode(&SubjectKind::ALL, code)
}

pub(crate) fn put_stream(out: &mut Vec<u8>, stream: &Stream) {
    out.push(STREAM);
    put_str(out, &stream.name);
    put_str(out, &stream.help);
    out.push(code(&MODES, &stream.mode));
    put_varint(out, stream.subjects.len() as u64);
    out.extend(stream.subjects.iter().map(|k| *k as u8));
    put_varint(out, stream.fields.len() as u64);
    for f in stream.fields.iter() {
        put_str(out, &f.name);
        put_str(out, &f.help);
        out.push(code(&KINDS, &f.kind));
        out.push(code(&UNITS, &f.unit));
    }
}

pub(crate) fn get_stream(cur: &mut Cursor) -> Result<Stream, Bad> {
    let name = cur.str()?.to_string();
    let help = cur.str()?.to_string();
    let mode = decode(&MODES, cur.byte()?)?;
    let kinds = cur.count(64, "a stream has too many kinds of subjects")?;
    let subjects = cur.take(kinds)?.iter().map(|k| subject_kind(*k)).collect::<Result<Vec<_>, _>>()?;
    let count = cur.count(whystall_event::MAX_FIELDS, "a stream has too many fields")?;
    let mut fields = Vec::with_capacity(count);
    for _ in 0..count {
        fields.push(whystall_event::Field {
            name: cur.str()?.to_string().into(),
            help: cur.str()?.to_string().into(),
            kind: decode(&KINDS, cur.byte()?)?,
            unit: decode(&UNITS, cur.byte()?)?,
        });
    }
    Ok(Stream {
        name: name.into(),
        help: help.into(),
        mode,
        subjects: subjects.into(),
        fields: fields.into(),
    })
}

/// The bytes of all texts in a declaration.
pub(crate) fn stream_strings(stream: &Stream) -> usize {
    let fields: usize = stream.fields.iter().map(|f| f.name.len() + f.help.len()).sum();
    stream.name.len() + stream.help.len() + fields
}

/// The whole number that a gauge's bits stand for, if its bits come back from it.
pub(crate) fn whole(bits: u64) -> Option<i64> {
    let v = f64::from_bits(bits);
    let i = v as i64;
    (i.unsigned_abs() <= 1 << 53 && (i as f64).to_bits() == bits).then_some(i)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn align_finds_the_same_subject() {
        let mut align = Align::default();
        let mut rows = Vec::new();
        let mut check = |old: &[u32], new: &[u32], want: &[u32]| {
            align.run(old, new, &mut rows);
            assert_eq!(rows, want, "{old:?} {new:?}");
        };
        check(&[], &[4, 5], &[NO_ROW, NO_ROW]);
        check(&[4, 5, 6], &[4, 5, 6], &[0, 1, 2]);
        check(&[4, 5, 6], &[5, 6, 7], &[1, 2, NO_ROW]);
        check(&[4, 5, 6], &[4, 9, 6, 5], &[0, NO_ROW, 2, 1]);
    }

    #[test]
    fn whole_numbers() {
        for v in [0.0, 1.0, -7.0, 9_007_199_254_740_992.0] {
            assert_eq!(whole(f64::to_bits(v)), Some(v as i64));
        }
        for v in [-0.0, 0.5, 1e300, f64::NAN, f64::INFINITY, -1e17] {
            assert_eq!(whole(f64::to_bits(v)), None, "{v}");
        }
    }
}
