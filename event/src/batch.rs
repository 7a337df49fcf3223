//! A collector's pass over one stream: rows of values, one subject each.

use std::sync::Arc;

use crate::{FieldKind, Stamp, Stream, Subject};

/// The most fields a stream may have: a row's present fields are a bit mask.
pub const MAX_FIELDS: usize = 64;

/// Rows of one stream from one pass of a collector.
///
/// Values are kept as 64 bits each in field order: counters and durations as they are, gauges as the bits of their
/// `f64`, text as an index into the batch's texts. A field that could not be read is absent, never zero.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The stream's declaration; the same `Arc` in every batch of a collector.
    pub stream: Arc<Stream>,
    /// When the pass was made; for streams of occurrences, up to when the collector was watching.
    pub at: Stamp,
    /// Only for streams of occurrences: everything that happened up to `at` has been delivered, so that silence means
    /// "nothing happened". False where the collector lost events or had been stopped since its previous batch.
    pub covered_to: bool,
    /// Subjects of this stream that no longer exist.
    pub gone: Vec<Subject>,
    heads: Vec<Head>,
    values: Vec<u64>,
    texts: Vec<Arc<str>>,
}

#[derive(Debug, Clone)]
struct Head {
    subject: Subject,
    at: u64,
    present: u64,
}

impl Batch {
    /// An empty batch for `stream` at time `at`.
    pub fn new(stream: Arc<Stream>, at: Stamp) -> Batch {
        Batch {
            stream,
            at,
            covered_to: true,
            gone: Vec::new(),
            heads: Vec::new(),
            values: Vec::new(),
            texts: Vec::new(),
        }
    }

    /// Room for `rows` rows in advance.
    pub fn reserve(&mut self, rows: usize) {
        self.heads.reserve(rows);
        self.values.reserve(rows.saturating_mul(self.stream.fields.len()));
    }

    /// Appends a row about `subject` at the batch's time; fill it through the returned writer.
    pub fn row(&mut self, subject: Subject) -> Row<'_> {
        let at = self.at.boot_ns;
        self.row_at(subject, at)
    }

    /// Appends a row at its own time (CLOCK_BOOTTIME nanoseconds), for streams of occurrences.
    pub fn row_at(&mut self, subject: Subject, boot_ns: u64) -> Row<'_> {
        let base = self.values.len();
        self.values.resize(base + self.stream.fields.len(), 0);
        self.heads.push(Head { subject, at: boot_ns, present: 0 });
        Row { batch: self, base }
    }

    /// The writer of the row that was appended last.
    pub fn last_row(&mut self) -> Option<Row<'_>> {
        let base = self.values.len().checked_sub(self.stream.fields.len())?;
        if self.heads.is_empty() { None } else { Some(Row { batch: self, base }) }
    }

    /// Removes all rows, texts and `gone`, and keeps the memory.
    pub fn clear(&mut self, at: Stamp) {
        self.at = at;
        self.covered_to = true;
        self.gone.clear();
        self.heads.clear();
        self.values.clear();
        self.texts.clear();
    }

    /// Appends a row as it is stored: `present` as in [`RowRef::present`] and the values' bits, all zero, to be filled
    /// by the caller. For readers of recordings, which hold values in this form; collectors use [`Batch::row`].
    pub fn push_raw(&mut self, subject: Subject, boot_ns: u64, present: u64) -> &mut [u64] {
        let base = self.values.len();
        self.values.resize(base + self.stream.fields.len(), 0);
        self.heads.push(Head { subject, at: boot_ns, present });
        &mut self.values[base..]
    }

    /// Moves the batch and all its rows to another time, the rows otherwise as they are.
    pub fn restamp(&mut self, at: Stamp) {
        self.at = at;
        for head in &mut self.heads {
            head.at = at.boot_ns;
        }
    }

    /// Sets the time of row `row` in CLOCK_BOOTTIME nanoseconds; a row that does not exist is ignored.
    pub fn set_row_at(&mut self, row: usize, boot_ns: u64) {
        if let Some(head) = self.heads.get_mut(row) {
            head.at = boot_ns;
        }
    }

    /// Sets which fields of row `row` are present; a row that does not exist is ignored. Values of absent fields are to
    /// be 0.
    pub fn set_present(&mut self, row: usize, present: u64) {
        if let Some(head) = self.heads.get_mut(row) {
            head.present = present;
        }
    }

    /// The values' bits of all rows, row after row in field order; see [`Batch`] for their meaning.
    pub fn values_mut(&mut self) -> &mut [u64] {
        &mut self.values
    }

    /// The texts that values of text fields are indices into.
    pub fn texts(&self) -> &[Arc<str>] {
        &self.texts
    }

    /// The texts, to be replaced.
    pub fn texts_mut(&mut self) -> &mut Vec<Arc<str>> {
        &mut self.texts
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.heads.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// The rows in the order they were appended.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = RowRef<'_>> {
        let width = self.stream.fields.len();
        self.heads.iter().enumerate().map(move |(i, h)| RowRef {
            subject: &h.subject,
            boot_ns: h.at,
            present: h.present,
            values: &self.values[i * width..(i + 1) * width],
            batch: self,
        })
    }
}

/// Writes the values of one row. Setting a field that does not exist, or that is of another kind, is a bug of the
/// collector: it panics in debug builds and is ignored in release builds.
#[derive(Debug)]
pub struct Row<'a> {
    batch: &'a mut Batch,
    base: usize,
}

impl Row<'_> {
    fn set(&mut self, field: usize, bits: u64, kinds: &[FieldKind]) -> &mut Self {
        let fits = self.batch.stream.fields.get(field).is_some_and(|f| kinds.contains(&f.kind));
        debug_assert!(fits, "field {field} of `{}` is none of {kinds:?}", self.batch.stream.name);
        if fits && field < MAX_FIELDS {
            self.batch.values[self.base + field] = bits;
            if let Some(head) = self.batch.heads.last_mut() {
                head.present |= 1 << field;
            }
        }
        self
    }

    /// Sets a counter or a duration (nanoseconds).
    pub fn int(&mut self, field: usize, value: u64) -> &mut Self {
        self.set(field, value, &[FieldKind::Counter, FieldKind::Duration])
    }

    /// Sets a gauge. A value that is no number is left absent.
    pub fn gauge(&mut self, field: usize, value: f64) -> &mut Self {
        if value.is_finite() { self.set(field, value.to_bits(), &[FieldKind::Gauge]) } else { self }
    }

    /// Sets a text.
    pub fn text(&mut self, field: usize, value: impl Into<Arc<str>>) -> &mut Self {
        let index = self.batch.texts.len() as u64;
        self.batch.texts.push(value.into());
        self.set(field, index, &[FieldKind::Text])
    }

    /// Sets a value of any numeric kind from a number in the field's inside unit, rounding to whole numbers where the
    /// field needs them. Returns false, and leaves the field absent, if it is text, negative where that cannot be, or no
    /// number.
    pub fn number(&mut self, field: usize, value: f64) -> bool {
        let kind = self.batch.stream.fields.get(field).map(|f| f.kind);
        match kind {
            Some(FieldKind::Gauge) if value.is_finite() => {
                self.gauge(field, value);
                true
            }
            Some(FieldKind::Counter | FieldKind::Duration) if value >= 0.0 && value < u64::MAX as f64 => {
                self.int(field, value.round() as u64);
                true
            }
            _ => false,
        }
    }
}

/// One row, read.
#[derive(Debug, Clone, Copy)]
pub struct RowRef<'a> {
    /// What it is about.
    pub subject: &'a Subject,
    /// When, in CLOCK_BOOTTIME nanoseconds.
    pub boot_ns: u64,
    /// Bit i is set if field i has a value.
    pub present: u64,
    /// The values' bits in field order, whole row; those absent are 0. See [`Batch`] for their meaning.
    pub values: &'a [u64],
    batch: &'a Batch,
}

impl<'a> RowRef<'a> {
    /// Whether field `i` has a value.
    pub fn has(&self, i: usize) -> bool {
        i < MAX_FIELDS && self.present & (1 << i) != 0
    }

    /// Field `i` as a number in its inside unit, if it is present and no text.
    pub fn number(&self, i: usize) -> Option<f64> {
        let field = self.batch.stream.fields.get(i).filter(|_| self.has(i))?;
        let bits = *self.values.get(i)?;
        match field.kind {
            FieldKind::Gauge => Some(f64::from_bits(bits)),
            FieldKind::Counter | FieldKind::Duration => Some(bits as f64),
            FieldKind::Text => None,
        }
    }

    /// Field `i` as text, if it is present and a text.
    pub fn text(&self, i: usize) -> Option<&'a Arc<str>> {
        let field = self.batch.stream.fields.get(i).filter(|_| self.has(i))?;
        if field.kind != FieldKind::Text {
            return None;
        }
        self.batch.texts.get(usize::try_from(*self.values.get(i)?).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Field, SubjectKind, Unit};

    #[test]
    fn absent_is_not_zero() {
        const FIELDS: &[Field] =
            &[Field::counter("a", Unit::Count, ""), Field::gauge("b", Unit::Ratio, ""), Field::text("c", "")];
        let stream = Arc::new(Stream::sampled("t", "", &[SubjectKind::Host], FIELDS));
        let mut b = Batch::new(stream, Stamp::default());
        b.row(Subject::Host).int(0, 7).text(2, "x");
        b.row(Subject::Cpu(1)).gauge(1, f64::NAN).gauge(1, 0.5);
        let rows: Vec<_> = b.rows().collect();
        assert_eq!((rows[0].number(0), rows[0].number(1), rows[0].number(2)), (Some(7.0), None, None));
        assert_eq!(rows[0].text(2).map(|t| t.as_ref()), Some("x"));
        assert_eq!((rows[1].number(0), rows[1].number(1)), (None, Some(0.5)));
        assert_eq!(rows[1].text(2), None);
    }
}
