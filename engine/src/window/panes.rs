//! Sliding aggregates over a ring of panes, for all rows at once.
//!
//! The two-stack method: panes of the current lap are joined into `back` as they come; when the lap is full, they are
//! joined backwards in place into suffixes, so that the window is always `join(suffix, back)`. Nothing is ever
//! subtracted, so nothing drifts, and minimum and maximum cost the same as a sum.

/// How values of one kind are joined.
pub(crate) trait Aggregate {
    /// What a pane holds for a row.
    type Value: Copy + std::fmt::Debug;
    /// A pane without values.
    const EMPTY: Self::Value;
    /// The aggregate of both.
    fn join(a: Self::Value, b: Self::Value) -> Self::Value;
}

/// A sum.
#[derive(Debug)]
pub(crate) struct Total;
/// Covered time, in ticks. Single precision holds whole ticks exactly, and else errs by less than a clock does.
#[derive(Debug)]
pub(crate) struct Covered;
/// The least value.
#[derive(Debug)]
pub(crate) struct Least;
/// The greatest value.
#[derive(Debug)]
pub(crate) struct Most;

impl Aggregate for Total {
    type Value = f64;
    const EMPTY: f64 = 0.0;
    #[inline(always)]
    fn join(a: f64, b: f64) -> f64 {
        a + b
    }
}

impl Aggregate for Covered {
    type Value = f32;
    const EMPTY: f32 = 0.0;
    #[inline(always)]
    fn join(a: f32, b: f32) -> f32 {
        a + b
    }
}

impl Aggregate for Least {
    type Value = f64;
    const EMPTY: f64 = f64::INFINITY;
    #[inline(always)]
    fn join(a: f64, b: f64) -> f64 {
        if b < a { b } else { a }
    }
}

impl Aggregate for Most {
    type Value = f64;
    const EMPTY: f64 = f64::NEG_INFINITY;
    #[inline(always)]
    fn join(a: f64, b: f64) -> f64 {
        if b > a { b } else { a }
    }
}

/// What does not depend on how values are joined.
pub(crate) trait Ring {
    /// Makes room for `cap` rows.
    fn grow(&mut self, cap: usize);
    /// Opens the pane `steps` further; `rows` rows are in use. [`Panes::push`] must follow for each of them.
    fn advance(&mut self, steps: u64, rows: usize);
    /// Forgets one row.
    fn clear_row(&mut self, row: usize);
    /// Forgets everything.
    fn clear(&mut self);
    /// Bytes held.
    fn bytes(&self) -> usize;
}

/// A ring of panes for `cap` rows, pane by pane. Of the current lap, panes `0..=open` hold their own values; the others
/// hold suffixes of the lap before.
#[derive(Debug)]
pub(crate) struct Panes<A: Aggregate> {
    len: usize,
    open: usize,
    cap: usize,
    /// The open pane has no values yet, whatever its memory holds.
    fresh: bool,
    panes: Vec<A::Value>,
    back: Vec<A::Value>,
}

impl<A: Aggregate> Panes<A> {
    /// A window of `len` panes for `cap` rows.
    pub(crate) fn new(len: usize, cap: usize) -> Panes<A> {
        Panes {
            len: len.max(1),
            open: 0,
            cap,
            fresh: false,
            panes: vec![A::EMPTY; len.max(1) * cap],
            back: vec![A::EMPTY; cap],
        }
    }

    /// A lap is full: its panes become suffixes, and the next lap begins.
    fn turn(&mut self, rows: usize) {
        for pane in (0..self.len - 1).rev() {
            let (older, newer) = self.panes.split_at_mut((pane + 1) * self.cap);
            let older = &mut older[pane * self.cap..][..rows];
            for (o, n) in older.iter_mut().zip(&newer[..rows]) {
                *o = A::join(*o, *n);
            }
        }
        self.back[..rows].fill(A::EMPTY);
        self.open = 0;
    }

    /// Joins one tick's values of the rows from `start` into the open pane, and writes the whole window's to `out`.
    #[inline]
    pub(crate) fn push(&mut self, start: usize, values: &[A::Value], out: &mut [A::Value]) {
        let n = values.len();
        let out = &mut out[..n];
        let back = &mut self.back[start..start + n];
        let (lap, suffixes) = self.panes.split_at_mut((self.open + 1) * self.cap);
        let pane = &mut lap[self.open * self.cap + start..][..n];
        if self.fresh {
            pane.copy_from_slice(values);
        } else {
            for i in 0..n {
                pane[i] = A::join(pane[i], values[i]);
            }
        }
        if self.open + 1 < self.len {
            let suffix = &suffixes[start..start + n];
            for i in 0..n {
                back[i] = A::join(back[i], values[i]);
                out[i] = A::join(suffix[i], back[i]);
            }
        } else {
            for i in 0..n {
                back[i] = A::join(back[i], values[i]);
                out[i] = back[i];
            }
        }
    }

    /// The window's aggregate for one row.
    pub(crate) fn total(&self, row: usize) -> A::Value {
        if row >= self.cap {
            return A::EMPTY;
        }
        let back = self.back[row];
        match self.open + 1 < self.len {
            true => A::join(self.panes[(self.open + 1) * self.cap + row], back),
            false => back,
        }
    }
}

impl<A: Aggregate> Ring for Panes<A> {
    fn grow(&mut self, cap: usize) {
        if cap <= self.cap {
            return;
        }
        let mut panes = vec![A::EMPTY; self.len * cap];
        if self.cap > 0 {
            for (new, old) in panes.chunks_exact_mut(cap).zip(self.panes.chunks_exact(self.cap)) {
                new[..self.cap].copy_from_slice(old);
            }
        }
        self.panes = panes;
        self.back.resize(cap, A::EMPTY);
        self.cap = cap;
    }

    fn advance(&mut self, steps: u64, rows: usize) {
        if steps >= self.len as u64 {
            self.clear();
            return;
        }
        self.fresh = steps > 0;
        for step in 1..=steps {
            self.open += 1;
            if self.open == self.len {
                self.turn(rows);
            }
            if step < steps {
                let from = self.open * self.cap;
                self.panes[from..from + rows].fill(A::EMPTY);
            }
        }
    }

    fn clear_row(&mut self, row: usize) {
        if row < self.cap {
            for pane in self.panes.chunks_exact_mut(self.cap) {
                pane[row] = A::EMPTY;
            }
            self.back[row] = A::EMPTY;
        }
    }

    fn clear(&mut self) {
        self.panes.fill(A::EMPTY);
        self.back.fill(A::EMPTY);
        self.open = 0;
        self.fresh = false;
    }

    fn bytes(&self) -> usize {
        (self.panes.capacity() + self.back.capacity()) * size_of::<A::Value>()
    }
}
