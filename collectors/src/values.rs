//! The values of one row while a file is parsed, each present or absent, and their way into a batch.

use std::borrow::Cow;

use whystall_event::{Field, FieldKind, MAX_FIELDS, Row};

/// Whole numbers of a stream's first `N` fields; `N` is at most [`MAX_FIELDS`]. A field is absent until it is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Values<const N: usize> {
    values: [u64; N],
    present: u64,
}

impl<const N: usize> Default for Values<N> {
    fn default() -> Self {
        const { assert!(N <= MAX_FIELDS) };
        Values { values: [0; N], present: 0 }
    }
}

impl<const N: usize> Values<N> {
    /// Sets field `i`. Returns false if it was already set (and sets it all the same) or does not exist.
    #[inline]
    pub fn set(&mut self, i: usize, value: u64) -> bool {
        let Some(slot) = self.values.get_mut(i) else {
            return false;
        };
        *slot = value;
        let fresh = self.present & 1 << i == 0;
        self.present |= 1 << i;
        fresh
    }

    /// Adds to field `i`, which is present from then on. Returns false, changing nothing, if the sum does not fit or the
    /// field does not exist.
    #[inline]
    pub fn add(&mut self, i: usize, value: u64) -> bool {
        let Some(slot) = self.values.get_mut(i) else {
            return false;
        };
        let Some(sum) = slot.checked_add(value) else {
            return false;
        };
        *slot = sum;
        self.present |= 1 << i;
        true
    }

    /// The value of field `i`, if present.
    pub fn get(&self, i: usize) -> Option<u64> {
        self.values.get(i).copied().filter(|_| self.present & 1 << i != 0)
    }

    /// Whether no field is present.
    pub fn is_empty(&self) -> bool {
        self.present == 0
    }

    /// Writes the present fields into a row: counters as they are, gauges as floating-point numbers.
    pub fn fill(&self, row: &mut Row<'_>, fields: &[Field]) {
        let mut left = self.present;
        while left != 0 {
            let i = left.trailing_zeros() as usize;
            left &= left - 1;
            let (Some(value), Some(field)) = (self.values.get(i), fields.get(i)) else {
                continue;
            };
            match field.kind {
                FieldKind::Gauge => row.gauge(i, *value as f64),
                _ => row.int(i, *value),
            };
        }
    }
}

/// The index of the field called `name`, for constants: a wrong name does not compile.
#[allow(clippy::panic, reason = "runs at compile time only")]
pub(crate) const fn index_of(fields: &[Field], name: &str) -> usize {
    let mut i = 0;
    while i < fields.len() {
        if let Cow::Borrowed(known) = &fields[i].name
            && same(known.as_bytes(), name.as_bytes())
        {
            return i;
        }
        i += 1;
    }
    panic!("no field has this name")
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use whystall_event::{Batch, Stamp, Stream, Subject, SubjectKind, Unit};

    const FIELDS: &[Field] = &[
        Field::counter("a", Unit::Count, "one"),
        Field::gauge("b", Unit::Count, "two"),
        Field::counter("c", Unit::Count, "three"),
    ];

    #[test]
    fn only_what_was_set_is_written() {
        assert_eq!(const { index_of(FIELDS, "b") }, 1);
        let mut v = Values::<3>::default();
        assert!(v.is_empty() && v.set(1, 5) && !v.set(1, 6) && !v.set(3, 1));
        assert!(v.add(0, u64::MAX) && !v.add(0, 1) && v.add(0, 0));
        assert_eq!((v.get(0), v.get(1), v.get(2), v.get(99)), (Some(u64::MAX), Some(6), None, None));
        let stream = Arc::new(Stream::sampled("t", "", &[SubjectKind::Host], FIELDS));
        let mut batch = Batch::new(stream, Stamp::default());
        v.fill(&mut batch.row(Subject::Host), FIELDS);
        let row = batch.rows().next().unwrap();
        assert_eq!((row.values[0], row.number(1), row.has(2)), (u64::MAX, Some(6.0), false));
    }
}
