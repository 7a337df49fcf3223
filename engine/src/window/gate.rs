//! `after: "other window"` with `within`: what counts only if something else came before it, and whether it failed to
//! come. Ticks are the grain: what comes in the same tick as the other came after it.

use super::WindowId;

/// The other window that must have been other than zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct After {
    /// The other window. It has no gate of its own.
    pub window: WindowId,
    /// For how long after the other was last other than zero this window counts, nanoseconds.
    pub within_ns: u64,
    /// The other window is the host's, and this one is another kind's.
    pub of_host: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Open {
    #[default]
    No,
    Yes,
    Unknown,
}

#[derive(Debug, Clone, Copy, Default)]
struct Row {
    /// The last tick in which the other was other than zero; 0 for never.
    last: u64,
    /// Whether it was in its newest known tick.
    was: bool,
    /// Whether something counted since the other last began.
    met: bool,
    open: Open,
}

/// The state of one gated track.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) after: After,
    over_ns: u64,
    now: u64,
    rows: Vec<Row>,
}

impl Gate {
    pub(crate) fn new(after: After, over_ns: u64) -> Gate {
        Gate { after, over_ns, now: 0, rows: Vec::new() }
    }

    /// Begins a tick: for which of `len` rows the gate is open, by the other window's values.
    pub(crate) fn begin(&mut self, other: &[f64], len: usize, now: u64) {
        self.now = now;
        if self.rows.len() < len {
            self.rows.resize(len, Row::default());
        }
        for (i, row) in self.rows.iter_mut().enumerate() {
            let x = other.get(if self.after.of_host { 0 } else { i }).copied().unwrap_or(f64::NAN);
            if x.is_nan() {
                row.open = if row.armed(now, self.after.within_ns) { Open::Yes } else { Open::Unknown };
                continue;
            }
            let is = x != 0.0;
            if is {
                row.met &= row.was;
                row.last = now;
            }
            row.was = is;
            row.open = if row.armed(now, self.after.within_ns) { Open::Yes } else { Open::No };
        }
    }

    /// Whether what came in this tick counts for the row.
    pub(crate) fn is_open(&self, row: usize) -> bool {
        self.rows.get(row).is_some_and(|r| r.open == Open::Yes)
    }

    /// Something counted for the row.
    pub(crate) fn meet(&mut self, row: usize) {
        if let Some(r) = self.rows.get_mut(row) {
            r.met = true;
        }
    }

    /// Ends a tick: rows of which nobody can say whether the gate is open are unknown, and `overdue` is 1 where nothing
    /// counted within the span after the other; it stays so for the window's own span.
    pub(crate) fn finish(&self, values: &mut [f64], overdue: &mut [f64]) {
        for ((value, overdue), row) in values.iter_mut().zip(overdue).zip(&self.rows) {
            if row.open == Open::Unknown {
                (*value, *overdue) = (f64::NAN, f64::NAN);
                continue;
            }
            let passed = self.now.saturating_sub(row.last);
            let span = self.after.within_ns..=self.after.within_ns.saturating_add(self.over_ns);
            let late = row.last > 0 && passed > *span.start() && span.contains(&passed);
            *overdue = f64::from(late && !row.met);
        }
    }

    pub(crate) fn clear_row(&mut self, row: usize) {
        if let Some(r) = self.rows.get_mut(row) {
            *r = Row::default();
        }
    }

    pub(crate) fn clear(&mut self) {
        self.rows.fill(Row::default());
    }

    pub(crate) fn bytes(&self) -> usize {
        self.rows.capacity() * size_of::<Row>()
    }
}

impl Row {
    fn armed(&self, now: u64, within_ns: u64) -> bool {
        self.last > 0 && now.saturating_sub(self.last) <= within_ns
    }
}
