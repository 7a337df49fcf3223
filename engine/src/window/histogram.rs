//! Quantiles over a window, for the rows that have values.
//!
//! Values fall into buckets by sign, power of two and 16 parts of it, so a quantile errs by a sixteenth at most and a
//! thirty-second of its size typically. Each row keeps the buckets that occur (few) in order, with what to take back
//! when a pane leaves: whole numbers, so taking back is exact.

use std::collections::VecDeque;

/// The mantissa's bits that a bucket ignores: 48 of 52, so 16 buckets to a power of two, and all fit 16 bits.
const SHIFT: u32 = 48;

/// The most buckets that one pane of one row tells apart; further values join the nearest.
const PANE_BUCKETS: usize = 256;

/// The bucket of a value, in the values' order.
fn bucket(value: f64) -> u16 {
    let bits = (value + 0.0).to_bits();
    let ordered = if bits >> 63 == 0 { bits | 1 << 63 } else { !bits };
    (ordered >> SHIFT) as u16
}

/// The middle of a bucket.
fn middle(bucket: u16) -> f64 {
    let edge = |ordered: u64| {
        let bits = if ordered >> 63 == 1 { ordered & !(1 << 63) } else { !ordered };
        f64::from_bits(bits)
    };
    let low = u64::from(bucket) << SHIFT;
    let (a, b) = (edge(low), edge(low | ((1 << SHIFT) - 1)));
    if a == 0.0 || b == 0.0 { 0.0 } else { a + (b - a) / 2.0 }
}

/// The pane of values that came since the last tick.
const PENDING: u64 = u64::MAX;

#[derive(Debug, Clone, Copy)]
struct Entry {
    pane: u64,
    count: u32,
    bucket: u16,
}

#[derive(Debug, Default)]
struct Histogram {
    /// Buckets of the whole window in order, with counts.
    total: Vec<(u16, u64)>,
    /// The same by pane, oldest first.
    panes: VecDeque<Entry>,
}

impl Histogram {
    fn add(&mut self, value: f64) {
        let mut bucket = bucket(value);
        let mut nearest: Option<usize> = None;
        let mut seen = 0;
        let mut found = false;
        for (i, e) in self.panes.iter().enumerate().rev().take_while(|(_, e)| e.pane == PENDING) {
            seen += 1;
            if nearest.is_none_or(|n| e.bucket.abs_diff(bucket) < self.panes[n].bucket.abs_diff(bucket)) {
                nearest = Some(i);
            }
            if e.bucket == bucket {
                found = true;
                break;
            }
        }
        match nearest {
            Some(i) if found || seen >= PANE_BUCKETS => {
                bucket = self.panes[i].bucket;
                self.panes[i].count = self.panes[i].count.saturating_add(1);
            }
            _ => self.panes.push_back(Entry { pane: PENDING, count: 1, bucket }),
        }
        match self.total.binary_search_by_key(&bucket, |t| t.0) {
            Ok(i) => self.total[i].1 += 1,
            Err(i) => self.total.insert(i, (bucket, 1)),
        }
    }

    fn seal(&mut self, pane: u64) {
        self.panes.iter_mut().rev().take_while(|e| e.pane == PENDING).for_each(|e| e.pane = pane);
    }

    /// Takes back the panes before `first`.
    fn expire(&mut self, first: u64) {
        while let Some(e) = self.panes.front().copied().filter(|e| e.pane < first) {
            self.panes.pop_front();
            if let Ok(i) = self.total.binary_search_by_key(&e.bucket, |t| t.0) {
                self.total[i].1 = self.total[i].1.saturating_sub(u64::from(e.count));
                if self.total[i].1 == 0 {
                    self.total.remove(i);
                }
            }
        }
    }

    fn quantile(&self, q: f64) -> f64 {
        let count: u64 = self.total.iter().map(|t| t.1).sum();
        let rank = ((q * count as f64).ceil() as u64).max(1);
        let mut below = 0;
        for &(bucket, n) in &self.total {
            below += n;
            if below >= rank {
                return middle(bucket);
            }
        }
        f64::NAN
    }
}

/// Histograms of the rows that have values.
#[derive(Debug, Default)]
pub(crate) struct Histograms {
    rows: Vec<Option<Box<Histogram>>>,
}

impl Histograms {
    /// Adds a value of `row`; [`Histograms::seal`] says to which pane.
    pub(crate) fn add(&mut self, row: usize, value: f64) {
        if row >= self.rows.len() {
            self.rows.resize_with(row + 1, || None);
        }
        if let Some(slot) = self.rows.get_mut(row) {
            slot.get_or_insert_default().add(value);
        }
    }

    /// Puts the values of `row` that came since the last call into `pane`.
    pub(crate) fn seal(&mut self, row: usize, pane: u64) {
        if let Some(Some(h)) = self.rows.get_mut(row) {
            h.seal(pane);
        }
    }

    /// Takes back the panes before `first` and frees rows left without values.
    pub(crate) fn expire(&mut self, first: u64) {
        for slot in &mut self.rows {
            if let Some(h) = slot {
                h.expire(first);
                if h.panes.is_empty() {
                    *slot = None;
                }
            }
        }
    }

    /// The quantile `q` (0 to 1) of a row's values; NaN without values.
    pub(crate) fn quantile(&self, row: usize, q: f64) -> f64 {
        self.rows.get(row).and_then(Option::as_ref).map_or(f64::NAN, |h| h.quantile(q))
    }

    /// Forgets one row.
    pub(crate) fn clear_row(&mut self, row: usize) {
        if let Some(slot) = self.rows.get_mut(row) {
            *slot = None;
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.rows.iter_mut().for_each(|slot| *slot = None);
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        let rows: usize = self
            .rows
            .iter()
            .flatten()
            .map(|h| {
                size_of::<Histogram>() + h.total.capacity() * 16 + h.panes.capacity() * size_of::<Entry>()
            })
            .sum();
        self.rows.capacity() * 8 + rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_keep_order_and_size() {
        let values = [-1e300, -5.0, -1.0, -1e-9, 0.0, 1e-9, 0.5, 1.0, 1.07, 2.0, 1e6, 1e300];
        for pair in values.windows(2) {
            assert!(bucket(pair[0]) < bucket(pair[1]), "{pair:?}");
        }
        for v in values {
            assert!((middle(bucket(v)) - v).abs() <= v.abs() / 16.0, "{v} became {}", middle(bucket(v)));
        }
        assert_eq!(bucket(-0.0), bucket(0.0));
    }

    #[test]
    fn panes_leave_exactly() {
        let mut h = Histograms::default();
        (0..1000).for_each(|i| h.add(3, f64::from(i)));
        h.seal(3, 1);
        (0..10).for_each(|_| h.add(3, 7.0));
        h.seal(3, 2);
        h.expire(2);
        assert!((h.quantile(3, 0.99) - 7.0).abs() < 0.5);
        h.expire(3);
        assert!(h.quantile(3, 0.5).is_nan());
        assert!(h.rows[3].is_none());
    }

    #[test]
    fn a_hostile_spread_is_bounded() {
        let mut h = Histogram::default();
        (0..60_000u32).for_each(|i| h.add(f64::from_bits(u64::from(i) << 47)));
        assert!(h.panes.len() <= PANE_BUCKETS && h.total.len() <= PANE_BUCKETS);
        assert_eq!(h.total.iter().map(|t| t.1).sum::<u64>(), 60_000);
    }
}
